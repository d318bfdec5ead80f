//! What a cluster needs once: the blocks of nodes that are gone, and the state of the pools.
//!
//! [`plan`] decides, from what was seen, without any I/O; [`run`] watches, leads and carries out. A single address is
//! never freed here: that is the business of the node that owns its block.

pub mod lease;
pub mod plan;
pub mod run;
