//! Whether this node can take pods at all, as its Node object tells the scheduler and the conflist the runtime.
//!
//! Not the same as being ready: a node whose pools are full for the moment goes on being one of the network.

use std::fmt;

use super::Node;

/// Whether this node can take pods.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Serving {
    /// Not known yet.
    #[default]
    Starting,
    /// It can.
    Yes,
    /// It cannot.
    No(Hindrance),
}

/// Why a node can take no pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hindrance {
    /// The Node object has no address.
    NoAddress,
    /// No pool is for this node.
    NoPool,
    /// The container runtime does not know us.
    NoConflist(String),
}

impl Hindrance {
    /// In one word, as conditions have it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoAddress => "NoAddress",
            Self::NoPool => "NoPool",
            Self::NoConflist(_) => "NoConflist",
        }
    }
}

impl fmt::Display for Hindrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAddress => {
                f.write_str("the Node has no address of type InternalIP: the kubelet's --node-ip sets it")
            }
            Self::NoPool => {
                f.write_str("no enabled automatic IPPool selects this node: create, enable or widen one")
            }
            Self::NoConflist(why) => f.write_str(why),
        }
    }
}

impl Node {
    /// Whether this node can take pods, as far as addresses are concerned.
    pub fn serving(&self) -> Serving {
        if !self.intent_known {
            Serving::Starting
        } else if self.intent.network.is_none() {
            Serving::No(Hindrance::NoAddress)
        } else if self.families() == (false, false) {
            Serving::No(Hindrance::NoPool)
        } else {
            Serving::Yes
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::Instant;

    use manx_api::IPPool;
    use manx_ipam::{Limits, NodeName, Recovered};

    use super::super::Input;
    use super::super::cluster::{Cluster, OwnNode};
    use super::super::intent::Intent;
    use super::*;

    #[test]
    fn a_node_takes_pods_once_it_has_an_address_and_a_pool() {
        let (me, now) = (NodeName::from("node1"), Instant::now());
        let mut node = Node::new(me.clone(), Limits::default(), Recovered::default(), now);
        assert_eq!(node.serving(), Serving::Starting);
        let mut cluster = Cluster { node: Some(Arc::default()), ..Cluster::default() };
        let mut told = |cluster: &Cluster| {
            node.handle(Input::Intent(Arc::new(Intent::new(cluster, &me))), now);
            node.serving()
        };
        assert_eq!(told(&cluster), Serving::No(Hindrance::NoAddress));
        let addresses = vec!["192.0.2.11".parse().expect("an address")];
        cluster.node = Some(Arc::new(OwnNode { addresses, ..OwnNode::default() }));
        assert_eq!(told(&cluster), Serving::No(Hindrance::NoPool));
        let mut pool = IPPool::example();
        pool.spec.node_selector = None;
        cluster.pools = Arc::new(BTreeMap::from([("default".to_owned(), Arc::new(pool.clone()))]));
        assert_eq!(told(&cluster), Serving::Yes);
        pool.spec.disabled = true;
        cluster.pools = Arc::new(BTreeMap::from([("default".to_owned(), Arc::new(pool))]));
        assert_eq!(told(&cluster), Serving::No(Hindrance::NoPool));
    }
}
