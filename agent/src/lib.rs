//! The node agent and the cluster controller of Manx.
//!
//! `node` is pure: it reads the cluster and the plugin's calls and says what is to be done. `shell` does it: one
//! owner per outside world. `controller` is what a cluster needs once. Read `node`, then `shell::run`.

pub mod controller;
pub mod node;
pub mod shell;
