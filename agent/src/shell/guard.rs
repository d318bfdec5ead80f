//! The owner of the rules that keep pods from BGP: puts them in place when they change, and looks now and then whether
//! they still are.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use manx_kernel::guard::GuardRules;
use manx_kernel::netlink::guard::Guard;

use super::events::chain;
use crate::node::intent::GuardIntent;

/// How often the rules are compared with the kernel's.
const VERIFY: Duration = Duration::from_secs(60);
/// The pause after a failure.
const RETRY: Duration = Duration::from_secs(5);

/// The rules that should be there, and what became of them.
#[derive(Debug, Default)]
pub(super) struct GuardOwner {
    guard: Option<Guard>,
    ports: BTreeSet<u16>,
    wanted: Option<GuardRules>,
    due: Option<Instant>,
    error: Option<String>,
}

impl GuardOwner {
    /// No rules yet. `ports` are ports of this node that pods may not reach, besides those of BGP.
    pub(super) fn new(ports: BTreeSet<u16>) -> Self {
        Self { ports, ..Self::default() }
    }

    /// Declares what pods may not reach.
    pub(super) fn set(&mut self, intent: &GuardIntent) {
        let rules = GuardRules {
            ports: intent.ports.union(&self.ports).copied().collect(),
            router_ports: intent.ports.clone(),
            routers: intent.routers.clone(),
        };
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
                    tracing::info!("pods are kept from BGP again");
                }
                self.due = Some(now + VERIFY);
            }
            Err(error) => {
                let text = chain(&error);
                if self.error.is_none() {
                    tracing::error!(error = text, "pods cannot be kept from BGP");
                }
                self.error = Some(text);
                self.guard = None;
                self.due = Some(now + RETRY);
            }
        }
    }

    fn enforce(&mut self) -> Result<(), manx_kernel::netlink::socket::SocketError> {
        let Some(rules) = &self.wanted else { return Ok(()) };
        let guard = match &mut self.guard {
            Some(guard) => guard,
            none => none.insert(Guard::open()?),
        };
        if guard.verify(rules)? {
            return Ok(());
        }
        guard.replace(rules)
    }
}
