//! The agent as a process on a node of its own, which is a network namespace, with files in place of an API server: what
//! it does around a container runtime.

mod conflist;
mod uninstall;
mod unprivileged;
mod world;
