//! How long it takes from the claim of a block until peers hear of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use manx_bgp::Prefix;

/// When each of our blocks was asked for: those claimed by this process.
pub type Asked = BTreeMap<Prefix, Instant>;

/// Which of them peers have heard of.
#[derive(Debug, Default)]
pub struct Lag {
    heard: BTreeSet<Prefix>,
}

impl Lag {
    /// Whether one of `asked` is new to peers.
    pub(super) fn waits(&self, asked: &Asked) -> bool {
        asked.keys().any(|prefix| !self.heard.contains(prefix))
    }

    /// Peers have heard of all of `asked` by `now`: what each new one took.
    pub(super) fn heard(&mut self, asked: &Asked, now: Instant) -> Vec<Duration> {
        self.heard.retain(|prefix| asked.contains_key(prefix));
        let new = asked.iter().filter(|(prefix, _)| self.heard.insert(**prefix));
        new.map(|(_, at)| now.duration_since(*at)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_claim_counts_once_and_again_after_it_was_given_back() {
        let (mut lag, start) = (Lag::default(), Instant::now());
        let prefix: Prefix = "10.244.0.0/26".parse().expect("a prefix");
        let asked = Asked::from([(prefix, start)]);
        assert!(lag.waits(&asked));
        let second = Duration::from_secs(1);
        assert_eq!(lag.heard(&asked, start + second), [second]);
        assert!(!lag.waits(&asked));
        assert!(lag.heard(&asked, start + 2 * second).is_empty());
        assert!(lag.heard(&Asked::new(), start).is_empty());
        let again = Asked::from([(prefix, start + 5 * second)]);
        assert_eq!(lag.heard(&again, start + 6 * second), [second]);
    }
}
