//! What a cluster needs once: the blocks of nodes that are gone, the state of the pools, and what became of BGP objects.
//!
//! `census.rs` is pure: it is told what there is and says what is to be done. `run.rs` watches and carries out,
//! while `lease.rs` says that this replica leads. `verdict.rs` judges BGP objects, `accept.rs` writes that down.

mod accept;
pub mod census;
pub mod lease;
pub mod options;
pub mod run;
mod verdict;
