//! The node agent and the cluster controller of Manx.
//!
//! `node` is pure: it reads the cluster and the plugin's calls and says what is to be done. `shell` does it: one
//! owner per outside world. `controller` is what a cluster needs once, `look` answers questions about a node.
//! Read `node`, then `shell::run`.

pub mod controller;
pub mod look;
pub mod node;
pub mod shell;
