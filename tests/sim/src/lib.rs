//! Whole nodes in one seeded scheduler and virtual time.
//!
//! A [`World`] holds hosts, each with the agent's pure machines (addresses, intent, routes, speaker), a small kernel, a
//! container runtime and a run directory; between them an API server and a network; besides, the controller. Everything
//! that happens is one queue in the order of time, and every choice comes from a [`Plan`] and its noise: the same plan
//! gives the same run, octet for octet. Invariants are checked after every step, and once the last fault is long over.
//!
//! | file | is |
//! |---|---|
//! | `plan.rs`, `choices.rs` | what a run is about, decoded from a seed or from a fuzzer's octets |
//! | `world.rs` | the queue |
//! | `agent.rs`, `owner.rs`, `blocks.rs`, `cluster.rs`, `links.rs`, `routes.rs`, `speaker.rs` | an agent's parts, as its shell has them |
//! | `api.rs`, `client.rs` | the API server, and the way there and back |
//! | `wires.rs`, `kernel.rs`, `runtime.rs`, `controller.rs` | what else there is |
//! | `acts.rs` | what befalls them |
//! | `check.rs` | what must hold |
//! | `minimize.rs`, `table.rs` | making a failing run smaller; how long convergence takes |

mod acts;
mod agent;
mod api;
mod blocks;
mod check;
mod choices;
mod client;
mod cluster;
mod controller;
mod kernel;
mod links;
mod log;
mod minimize;
mod owner;
mod plan;
mod routes;
mod run;
mod runtime;
mod speaker;
mod table;
mod wires;
mod world;

pub use check::Violation;
pub use choices::Choices;
pub use minimize::minimize;
pub use plan::{Act, Plan, Room, Settings};
pub use run::{Outcome, run};
pub use table::{row, table};
pub use world::{Figures, World};
