//! What must hold for a BGP speaker, and for whole nodes, whatever they are fed, as functions of arbitrary octets that panic when it does not.
//!
//! | target | octets are | what must hold |
//! |---|---|---|
//! | [`decode()`] | one connection's octets, in any dialect | no panic; memory linear in the length; what was read can be told again, and is then read as the same |
//! | [`session()`] | a script of one speaker and up to three hostile peers: connections, messages, time, configuration | no panic, no spinning timer; every octet sent is sound; the routes told are the table's; nothing outlives its peer |
//! | [`speaker()`] | a script of three speakers, joined by wires that stall and break | what one speaker of ours says, no other finds fault with; once the script is over all converge to what is originated |
//! | [`node()`] | the acts of a simulated cluster of whole nodes | every invariant of the simulation, at every step and at the end |
//!
//! `cargo xtask fuzz TARGET` runs one under libFuzzer. What it finds is committed below `corpus/`, and the test
//! `replay` feeds all of that to the targets on every run of the tests.

mod decode;
#[path = "../../../bgp/tests/speaker/kernel.rs"]
mod kernel;
mod node;
mod script;
mod session;
mod speaker;
#[path = "../../../bgp/tests/speaker/world.rs"]
#[expect(dead_code, reason = "the tests of the speaker use more of it")]
mod world;

pub use decode::decode;
pub use node::node;
pub use session::session;
pub use speaker::speaker;
