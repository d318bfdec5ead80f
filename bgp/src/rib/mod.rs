//! The routing table.

pub mod decision;
