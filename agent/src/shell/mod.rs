//! Everything impure: sockets, files, clocks, netlink, the Kubernetes API. One outside world per module.
//!
//! Start with `run.rs`, which wires the owners together.

pub mod bgp;
mod bystander;
pub mod cni;
pub mod conflist;
pub mod deltas;
pub mod events;
pub mod gates;
pub mod health;
pub mod host;
pub mod install;
pub mod kernel;
pub mod kube;
pub mod links;
pub mod log;
pub mod metrics;
pub mod mtu;
pub mod objects;
pub mod options;
pub mod owner;
pub mod record;
pub mod run;
pub mod start;
mod tables;
pub mod uninstall;
pub mod wake;
