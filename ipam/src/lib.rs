//! Addresses for pods: which node owns which block, and which endpoint has which address.

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
pub use node::door::{AssignError, ClaimError, Event, Input, Limits, Output, Want};
pub use pool::{Pool, PoolError, overlaps};
pub use usage::{BlockUsage, PoolUsage, Standing, Usage};
