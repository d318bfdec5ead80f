//! Whether what is to be done is done, or only said.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// Sayings remembered; beyond it they are said again.
const REMEMBERED: usize = 4096;

/// Asked before each write.
#[derive(Debug, Default)]
pub(super) struct Hand {
    /// What was said already; `None`: it is done.
    said: Option<Mutex<BTreeSet<String>>>,
}

impl Hand {
    /// One that writes nothing and says once what it would do.
    pub(super) fn dry() -> Self {
        Self { said: Some(Mutex::default()) }
    }

    /// Whether to go on and write.
    pub(super) fn may(&self, what: impl FnOnce() -> String) -> bool {
        let Some(said) = &self.said else { return true };
        let what = what();
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() >= REMEMBERED {
            said.clear();
        }
        if said.insert(what.clone()) {
            tracing::info!("would {what}");
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dry_hand_never_writes_and_a_usual_one_always() {
        assert!(Hand::default().may(|| unreachable!("it is not asked for words")));
        let dry = Hand::dry();
        assert!(!dry.may(|| "free it".to_owned()));
        assert!(!dry.may(|| "free it".to_owned()));
        assert_eq!(dry.said.map(|said| said.into_inner().map(|said| said.len()).ok()), Some(Some(1)));
    }
}
