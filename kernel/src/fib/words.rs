//! What goes into the machine and what comes out of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::model::{Dump, Event, Gateway, Op, OpError, Resolution, Route, RouteKey, SetId};

#[cfg(doc)]
use super::Fib;

/// How a [`Fib`] goes about its work.
#[derive(Debug, Clone)]
pub struct Config {
    /// How often everything is dumped and compared even though nothing happened.
    pub resync: Duration,
    /// How many operations go out at once.
    pub batch: usize,
    /// Whether next-hop objects are used where the kernel has them.
    pub nexthop_objects: bool,
    /// The key of the hash by which routes are found: peers, who choose destinations, must not know it.
    pub hash_key: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { resync: Duration::from_secs(60), batch: 1024, nexthop_objects: true, hash_key: 0 }
    }
}

/// One fact for a [`Fib`].
#[derive(Debug, Clone)]
pub enum Input {
    /// The time that [`Fib::deadline`] named has come.
    Timeout,
    /// All routes that are wanted. What is not named is removed (a route that an earlier run left behind is
    /// not, while stale routes are kept).
    SetRoutes(BTreeMap<RouteKey, Route>),
    /// What these sets of next hops lead to from now on: routes in them move at once. A set without next hops is gone,
    /// and the routes in it are no longer wanted.
    Sets(Vec<(SetId, BTreeSet<Gateway>)>),
    /// Routes that are wanted from now on, or with `None` no more. One in a set that is not there is not wanted.
    Desire(Vec<(RouteKey, Option<Route>)>),
    /// Whether our routes in the kernel that nobody spoke of since the start stay (true at the start). Turn it
    /// off for good once BGP has settled.
    KeepStale(bool),
    /// A notification.
    Observed(Event),
    /// The answer to [`Output::Dump`]; `None` when it failed.
    Dumped(Option<Dump>),
    /// The answer to [`Output::Resolve`]. What it does not name stays as it was.
    Resolved(BTreeMap<IpAddr, Resolution>),
    /// The answer to [`Output::Apply`], one result for each operation in order; `None` when the exchange
    /// failed and it is not known which operations were carried out.
    Applied(Option<Vec<Result<(), OpError>>>),
}

/// One thing for the shell to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Read the kernel's state; answer with [`Input::Dumped`].
    Dump,
    /// Ask the kernel how it reaches these; answer with [`Input::Resolved`].
    Resolve(BTreeSet<IpAddr>),
    /// Carry these out in this order; answer with [`Input::Applied`].
    Apply(Vec<Op>),
    /// For logs and metrics.
    Event(FibEvent),
}

/// Something that a log should say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FibEvent {
    /// Somebody else removed or changed routes of ours; they are being repaired.
    Drift {
        /// How many.
        routes: usize,
        /// One of them.
        example: RouteKey,
    },
    /// Routes cannot be installed for this reason; said when the first is blocked.
    Blocked {
        /// Why.
        why: Why,
        /// The first.
        example: RouteKey,
    },
    /// No route is blocked for this reason any more.
    Unblocked {
        /// Why there were some.
        why: Why,
    },
    /// The kernel has no next-hop objects; routes carry their gateways.
    NoNexthopObjects,
}

/// Why a route cannot be installed, coarsely.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The kernel has no way to any of its next hops, or the link there is down.
    NextHop,
    /// Its link does not exist or is down.
    Link,
    /// A route of the same key that is not ours is in the way; it is left alone.
    Foreign,
    /// The kernel refused it; it is tried again.
    Refused,
}

/// A route that cannot be installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// Why, coarsely.
    pub why: Why,
    /// Why, in words.
    pub detail: String,
}

/// Figures for metrics and status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Routes wanted.
    pub desired: usize,
    /// Routes of ours in the kernel.
    pub installed: usize,
    /// Changes that wait to be made, the blocked ones included.
    pub pending: usize,
    /// Routes of an earlier run that are kept until BGP has settled.
    pub stale: usize,
    /// Next-hop objects of ours in the kernel.
    pub nexthops: usize,
    /// Blocked routes by reason, once that is sure: an event has told it.
    pub blocked: BTreeMap<Why, usize>,
    /// Routes found removed or changed by others, since the start.
    pub drift_total: u64,
    /// Operations carried out since the start.
    pub applied_total: u64,
    /// Operations refused since the start.
    pub refused_total: u64,
    /// Dumps taken since the start.
    pub dumps_total: u64,
}
