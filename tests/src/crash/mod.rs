//! Crash safety: the plugin and the agent are killed, and their system calls made to fail, one at a time, and after
//! the runtime's next call or the agent's next start everything must be as it should.
//!
//! Every case goes the same way. A [`world::World`] is a node: a network namespace with a real `manx-agent` that reads
//! its objects from files, and sandboxes for the real `manx-cni`. An undisturbed run under `strace` gives the system
//! calls of a call ([`trace`]); a case is one of them, what happens to it ([`call::Harm`]), and what the runtime does
//! next. Then [`check`], the only judge, compares the kernel's namespaces, the agent's record and the run directory
//! with the pods that are alive.
//!
//! All of it runs in network, mount and process namespaces of its own ([`inside`]), which end with it however it ends.
//! What is tried and found: `docs/reliability.md`.

pub mod agent;
pub mod call;
pub mod check;
pub mod disk;
pub mod inside;
pub mod plugin;
pub mod storm;
pub mod tally;
pub mod trace;
pub mod world;
