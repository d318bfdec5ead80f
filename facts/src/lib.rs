//! What one node knows of the pod network, as data: the questions that `manxctl` asks a node, and its answers.
//!
//! `manx-agent look QUESTION` answers on the node, in a process of its own; `manxctl` puts the answers of all nodes
//! together. Both sides may be of different versions: fields are only ever added, with a default, and what an older
//! node does not know yet it says in [`Reply::Error`].
//!
//! ```
//! use manx_facts::{Ask, Question, record::RecordQuestion};
//! let asked = serde_json::to_string(&RecordQuestion::default().question()).expect("no failing serializers");
//! assert_eq!(asked, r#"{"record":{}}"#);
//! ```

pub mod bgp;
pub mod counters;
pub mod guards;
pub mod host;
pub mod kernel;
pub mod node;
pub mod pod;
pub mod probe;
pub mod record;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// What a node can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Question {
    /// Which node this is and how its agent is.
    Node(node::NodeQuestion),
    /// Links, addresses, routes, rules, neighbours and settings of the node itself.
    Kernel(kernel::KernelQuestion),
    /// Which blocks and which pods the agent's record says are this node's.
    Record(record::RecordQuestion),
    /// The network of one pod, as it is inside its namespace.
    Pod(pod::PodQuestion),
    /// What the agent's BGP speaker knows.
    Bgp(bgp::BgpQuestion),
    /// What passes of a flow of probes; it goes on.
    Watch(probe::WatchQuestion),
    /// The same, where probes are sent out of a pod of this node.
    Probe(probe::ProbeQuestion),
    /// What the agent counts, again and again.
    Counters(counters::CountersQuestion),
    /// What the machine is and has, and whom it reaches.
    Host(host::HostQuestion),
}

/// A question with the type of its answers.
pub trait Ask {
    /// What comes back: once, or many times from a question that goes on.
    type Answer: DeserializeOwned + Send + 'static;

    /// The question as it is sent.
    fn question(&self) -> Question;
}

/// One line of a node's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reply<T> {
    /// The answer, or one of them.
    Ok(T),
    /// Why there is none, or no more: a lower-case fragment with what is wrong.
    Error(String),
}
