//! The real `manx-cni` on a real kernel: every test makes a node out of network namespaces, calls the program as a
//! container runtime would, and looks at what became of the kernel with `ip`, not with the code under test.
//!
//! Only the agent is a stand-in ([`node::Agent`]): it hands out the addresses that a test tells it to. Without the
//! right to make namespaces the tests print `ignored: no namespaces` and pass, except where `CI` is set.

mod add;
mod chain;
mod check;
mod del;
mod input;
mod mtu;
mod node;
mod other;
mod patience;
mod second;
