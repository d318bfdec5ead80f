//! What a cluster needs once: the blocks of nodes that are gone, and the state of the pools.
//!
//! `census.rs` is pure: it is told what there is and says what is to be done. `run.rs` watches and carries out,
//! while `lease.rs` says that this replica leads.

mod census;
pub mod lease;
pub mod options;
pub mod run;
