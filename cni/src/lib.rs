//! The CNI plugin of Manx as a library: what the container runtime and the plugin say to each other ([`spec`]), what
//! the plugin and the node's agent say to each other ([`rpc`]), and what the plugin leaves behind for an agent that
//! was away ([`tombstone`]).
//!
//! The binary `manx-cni` is a short-lived process: environment and standard input become a [`spec::Call`] and a
//! [`spec::NetConf`], the agent assigns addresses over its Unix socket, and the link is made with netlink by
//! `manx-kernel`. It holds no token, knows no Kubernetes API and starts no runtime, so that a pod start costs about
//! a millisecond of its time.

pub mod rpc;
pub mod spec;
pub mod tombstone;
