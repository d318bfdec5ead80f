//! The owner of our NAT rules: puts them in place when they change, and looks now and then whether they still are.

use std::time::{Duration, Instant};

use manx_kernel::nat::NatRules;
use manx_kernel::netlink::nat::Nat;

use super::events::chain;
use crate::node::intent::NatIntent;

/// How often the rules are compared with the kernel's.
const VERIFY: Duration = Duration::from_secs(60);
/// The pause after a failure.
const RETRY: Duration = Duration::from_secs(5);

/// The rules that should be there, and what became of them.
#[derive(Debug, Default)]
pub(super) struct NatOwner {
    nat: Option<Nat>,
    wanted: Option<NatRules>,
    due: Option<Instant>,
    error: Option<String>,
}

impl NatOwner {
    /// Declares what is to be masqueraded.
    pub(super) fn set(&mut self, intent: &NatIntent) {
        let rules = NatRules { masquerade: intent.sources.clone(), all_pools: intent.inside.clone() };
        if self.wanted.as_ref() != Some(&rules) {
            self.wanted = Some(rules);
            self.due = Some(Instant::now());
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due
    }

    /// Why the rules are not in place, if they are not.
    pub(super) fn error(&self) -> Option<String> {
        self.error.clone()
    }

    pub(super) fn on_time(&mut self, now: Instant) {
        if self.due.is_none_or(|due| due > now) {
            return;
        }
        match self.enforce() {
            Ok(()) => {
                if self.error.take().is_some() {
                    tracing::info!("NAT rules are in place");
                }
                self.due = Some(now + VERIFY);
            }
            Err(error) => {
                let text = chain(&error);
                if self.error.is_none() {
                    tracing::error!(error = text, "NAT rules cannot be put in place");
                }
                self.error = Some(text);
                self.nat = None;
                self.due = Some(now + RETRY);
            }
        }
    }

    fn enforce(&mut self) -> Result<(), manx_kernel::netlink::socket::SocketError> {
        let Some(rules) = &self.wanted else { return Ok(()) };
        let nat = match &mut self.nat {
            Some(nat) => nat,
            none => none.insert(Nat::open()?),
        };
        if nat.verify(rules)? {
            return Ok(());
        }
        nat.replace(rules)
    }
}
