//! What a cluster needs once: the blocks of nodes that are gone, the state of the pools, and what became of BGP objects.
//!
//! `census.rs` and `pool_status.rs` are pure: they are told what there is and say what is to be done. `run.rs` watches and
//! carries out, while `lease.rs` says that this replica leads and `hand.rs` that anything may be written at all. `verdict.rs` judges BGP objects, `accept.rs` writes that down.
//! `defaults.rs` makes the objects to begin with, `let_go.rs` lets
//! everything go before an uninstallation.

mod accept;
pub mod census;
mod claims;
mod defaults;
mod hand;
pub mod lease;
mod let_go;
pub(crate) mod metrics;
pub mod options;
mod pool_status;
pub mod run;
mod verdict;
