//! Addresses for pods: which node owns which block, and which endpoint has which address.
//!
//! A [`Pool`] is a range of addresses, cut into blocks. A node claims whole blocks, by creating one object
//! per block, named by its network: that names are unique in the API server is all the arbitration there is.
//! Inside its blocks a node assigns addresses by itself, so that a pod starts without asking anybody. The
//! cluster hears of blocks, not of pods.
//!
//! [`NodeIpam`] is the machine of one node. It opens nothing, waits for nothing and reads no clock: facts and
//! requests go in as [`Input`] with the time, and what is to be done comes out as [`Output`], in the order in
//! which it is to be done.
//!
//! ```
//! use std::collections::BTreeMap;
//! use manx_ipam::{Endpoint, Input, Limits, NodeIpam, Output, Pool, RequestId, Want, recover};
//!
//! # #[expect(clippy::disallowed_methods)]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let now = std::time::Instant::now();
//! let mut ipam = NodeIpam::new("node1".into(), Limits::default(), recover(b""), now);
//! ipam.handle(Input::SetPools(vec![Pool::new("pods", "10.244.0.0/16".parse()?, 26)?]), now);
//! ipam.handle(Input::SetBlocks { blocks: BTreeMap::new() }, now);
//! let want = Want { v4: true, ..Want::default() };
//! ipam.handle(Input::Assign { request: RequestId(1), endpoint: Endpoint::default(), want }, now);
//! while let Some(output) = ipam.poll() {
//!     match output {
//!         Output::Claim(block) => ipam.handle(Input::Claimed { block, outcome: Ok(()) }, now),
//!         Output::Assigned { endpoint, .. } => println!("{:?}", endpoint.addresses),
//!         _ => {} // record, announce, log
//!     }
//! }
//! # assert_eq!(ipam.endpoints().count(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! # What holds, whatever happens
//!
//! - No address has two endpoints, and none is given again before the link of the last one is gone and the
//!   cooldown is over. Only who asks for an address by value gets it without the rest.
//! - Addresses are given only from blocks that the API server has confirmed to be this node's, however late
//!   its list is.
//! - An endpoint gets all the addresses that it wants or none, and the same ones if it asks again.
//! - A claimed address is given to its claim only, on whichever node.
//! - What is answered is in the record first. Any prefix of the record is a state in which the node has been,
//!   and from which it goes on.
//! - Every request is answered once, within [`Limits::wait`].
//!
//! # What is not here
//!
//! No borrowing of addresses from other nodes' blocks: a full pool is an error that says so. No central
//! collection of leaked addresses: only the node that gave an address takes it back, and [`garbage`] names
//! the blocks of nodes that are gone for good. No files, no sockets, no Kubernetes types: the agent has
//! those.
//!
//! # Where to read on
//!
//! `pool` for the order of claims and why every address of a block is used; `node` for the machine,
//! `node::door` for all that can be said to it; `ledger` and `journal` for the record; `block` for the order
//! of reuse.

mod block;
mod endpoint;
mod gc;
mod journal;
mod ledger;
mod name;
mod node;
mod pool;
mod usage;

pub use endpoint::{Endpoint, EndpointId, PodRef};
pub use gc::{NodeLife, garbage};
pub use journal::{Recovered, recover};
pub use name::{BlockId, BlockIdError, Family, NodeName, RequestId};
pub use node::NodeIpam;
pub use node::claims::AddressClaim;
pub use node::door::{AssignError, ClaimError, Event, Input, Limits, Output, Want};
pub use pool::{Pool, PoolError, overlaps};
pub use usage::{BlockUsage, PoolUsage, Room, Standing, Turnover, Usage};
