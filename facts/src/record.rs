//! What the agent's record says: the blocks of the node, and who has which address.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::{Ask, Question};

/// Asks for the record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RecordQuestion {}

impl Ask for RecordQuestion {
    type Answer = Record;

    fn question(&self) -> Question {
        Question::Record(self.clone())
    }
}

/// What the record says, as it is on the disk: also of an agent that hangs or is gone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    /// Why it could not be read: a lower-case fragment. Everything else is empty then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unread: Option<String>,
    /// Whether there is none: no agent was here since the node started.
    pub missing: bool,
    /// Lines that could not be read.
    pub damaged: u64,
    /// Blocks of this node.
    pub blocks: Vec<IpNetwork>,
    /// Blocks that were being given back.
    pub releasing: Vec<IpNetwork>,
    /// Attachments of pods.
    pub endpoints: Vec<Endpoint>,
    /// Attachments that ended and whose link may still be there.
    pub leaving: Vec<Endpoint>,
    /// Addresses that were given back and rest before they are given again, least recently used first.
    pub resting: Vec<IpAddr>,
    /// Addresses kept for a claim only.
    pub claimed: Vec<Claimed>,
}

impl Record {
    /// The attachment that has an address.
    pub fn holder(&self, address: IpAddr) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.addresses.contains(&address))
    }
}

/// An attachment of a pod to the network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// The runtime's id of the pod's sandbox.
    pub container: String,
    /// The interface's name inside the pod.
    pub ifname: String,
    /// The pod's namespace; empty if the runtime named none.
    pub namespace: String,
    /// The pod's name; empty if the runtime named none.
    pub pod: String,
    /// The pod's uid, when the runtime passed one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Name of the link's host end.
    pub link: String,
    /// Its addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Path of the network namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// The claim by which it has its addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// When it was asked for, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
}

/// An address that is kept for a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claimed {
    /// The address.
    pub address: IpAddr,
    /// The key of the claim.
    pub claim: String,
}
