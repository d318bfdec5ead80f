//! The upkeep of our nftables tables: rules are put in place when they change, and compared now and then with what the
//! kernel has.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use manx_kernel::guard::GuardRules;
use manx_kernel::nat::NatRules;
use manx_kernel::netlink::guard::Guard;
use manx_kernel::netlink::nat::Nat;
use manx_kernel::netlink::socket::SocketError;

use super::events::chain;
use crate::node::intent::{GuardIntent, NatIntent};

/// How often the rules are compared with the kernel's.
const VERIFY: Duration = Duration::from_secs(60);
/// The pause after a failure.
const RETRY: Duration = Duration::from_secs(5);

/// A kind of table.
pub(super) trait Table: Sized {
    /// What is in it.
    type Rules: PartialEq;
    /// For the log, when the rules are in place after a failure.
    const RESTORED: &'static str;
    /// For the log, when they cannot be put in place.
    const FAILED: &'static str;

    fn open() -> Result<Self, SocketError>;
    fn verify(&mut self, rules: &Self::Rules) -> Result<bool, SocketError>;
    fn replace(&mut self, rules: &Self::Rules) -> Result<(), SocketError>;
}

impl Table for Nat {
    type Rules = NatRules;
    const RESTORED: &'static str = "NAT rules are in place";
    const FAILED: &'static str = "NAT rules cannot be put in place; it is tried again";

    fn open() -> Result<Self, SocketError> {
        Self::open()
    }

    fn verify(&mut self, rules: &NatRules) -> Result<bool, SocketError> {
        self.verify(rules)
    }

    fn replace(&mut self, rules: &NatRules) -> Result<(), SocketError> {
        self.replace(rules)
    }
}

impl Table for Guard {
    type Rules = GuardRules;
    const RESTORED: &'static str = "pods are kept from the ports of BGP again";
    const FAILED: &'static str = "pods cannot be kept from the ports of BGP; it is tried again";

    fn open() -> Result<Self, SocketError> {
        Self::open()
    }

    fn verify(&mut self, rules: &GuardRules) -> Result<bool, SocketError> {
        self.verify(rules)
    }

    fn replace(&mut self, rules: &GuardRules) -> Result<(), SocketError> {
        self.replace(rules)
    }
}

/// What is to be masqueraded.
pub(super) fn nat_rules(intent: &NatIntent) -> NatRules {
    NatRules { masquerade: intent.sources.clone(), all_pools: intent.inside.clone() }
}

/// What pods may not reach: the ports of BGP, and `ports` of this node besides.
pub(super) fn guard_rules(intent: &GuardIntent, ports: &BTreeSet<u16>) -> GuardRules {
    GuardRules {
        ports: intent.ports.union(ports).copied().collect(),
        router_ports: intent.ports.clone(),
        routers: intent.routers.clone(),
    }
}

/// The rules that should be in a table, and what became of them.
#[derive(Debug)]
pub(super) struct Upkeep<T: Table> {
    table: Option<T>,
    wanted: Option<T::Rules>,
    due: Option<Instant>,
    error: Option<String>,
}

impl<T: Table> Upkeep<T> {
    /// No rules yet.
    pub(super) fn new() -> Self {
        Self { table: None, wanted: None, due: None, error: None }
    }

    /// Declares the rules.
    pub(super) fn set(&mut self, rules: T::Rules) {
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
                    tracing::info!("{}", T::RESTORED);
                }
                self.due = Some(now + VERIFY);
            }
            Err(error) => {
                let text = chain(&error);
                if self.error.is_none() {
                    tracing::error!(error = text, "{}", T::FAILED);
                }
                self.error = Some(text);
                self.table = None;
                self.due = Some(now + RETRY);
            }
        }
    }

    fn enforce(&mut self) -> Result<(), SocketError> {
        let Some(rules) = &self.wanted else { return Ok(()) };
        let table = match &mut self.table {
            Some(table) => table,
            none => none.insert(T::open()?),
        };
        if table.verify(rules)? {
            return Ok(());
        }
        table.replace(rules)
    }
}
