//! The network of one pod, as it is inside its namespace.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::kernel::Kernel;
use crate::record::Endpoint;
use crate::{Ask, Question};

/// Asks for the inside of a pod: of the attachment in the record that has this address or else this pod's name, or of a
/// namespace by its path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodQuestion {
    /// The pod's namespace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// The pod's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pod: String,
    /// An address of the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The path of its network namespace, if it is not to be found in the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
}

impl Ask for PodQuestion {
    type Answer = PodInside;

    fn question(&self) -> Question {
        Question::Pod(self.clone())
    }
}

/// The network of one pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodInside {
    /// What the record says of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Endpoint>,
    /// Why its namespace cannot be looked into: a lower-case fragment. The rest is empty then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unread: Option<String>,
    /// What the kernel says inside.
    pub inside: Kernel,
}
