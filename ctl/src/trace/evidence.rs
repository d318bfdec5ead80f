//! What a trace is judged by: where from and where to, what the nodes know, and what they saw.

use std::net::IpAddr;

use manx_facts::kernel::{Decision, Kernel, NeighbourState, Packet, Route};
use manx_facts::pod::PodInside;
use manx_facts::probe::{Aim, Flow, Kind, LegacyDrop, Lookup, Seen, Sent, Sight, Translation, Verdict, Way};

/// A pod, as Kubernetes says it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PodEnd {
    /// `namespace/name`.
    pub(crate) name: String,
    pub(crate) node: String,
    pub(crate) addresses: Vec<IpAddr>,
}

/// Somebody behind a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Backend {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) node: Option<String>,
    /// `namespace/name`.
    pub(crate) pod: Option<String>,
}

/// Where probes go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// A pod with a network of its own.
    Pod(PodEnd),
    /// A Service: its name, and who is ready behind it.
    Service(String, Vec<Backend>),
    /// A node, or a pod of its network.
    Node(String),
    /// Anybody else.
    Outside,
}

/// What one node knows and saw.
#[derive(Debug, Clone, Default)]
pub(crate) struct NodeEvidence {
    /// The node.
    pub(crate) node: String,
    /// What its kernel says.
    pub(crate) kernel: Kernel,
    /// The inside of the pod that is looked into.
    pub(crate) pod: Option<PodInside>,
    /// What it saw.
    pub(crate) sights: Vec<Sight>,
    /// Why it could not say more.
    pub(crate) away: Option<String>,
}

/// A session that is not up, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SessionDown {
    pub(crate) node: String,
    pub(crate) what: String,
}

/// What the cluster knows of a node without asking it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NodeView {
    pub(crate) name: String,
    pub(crate) addresses: Vec<IpAddr>,
    /// The nodes that say that their session with it is up.
    pub(crate) up: Vec<String>,
    /// Those that say that it is not.
    pub(crate) down: Vec<String>,
}

/// Everything.
#[derive(Debug, Clone)]
pub(crate) struct Evidence {
    pub(crate) flow: Flow,
    pub(crate) source: PodEnd,
    pub(crate) target: Target,
    /// The node of the source.
    pub(crate) here: NodeEvidence,
    /// Nodes of the target, or of all backends; the source's once more if the target is there too.
    pub(crate) there: Vec<NodeEvidence>,
    pub(crate) sessions_down: Vec<SessionDown>,
    pub(crate) views: Vec<NodeView>,
}

/// The number of the probe that is to reach the target.
pub(crate) const REACH: u8 = 0;

impl NodeEvidence {
    /// The name of the host end of the pod's link.
    pub(crate) fn veth(&self) -> Option<&str> {
        Some(self.pod.as_ref()?.endpoint.as_ref()?.link.as_str()).filter(|link| !link.is_empty())
    }

    pub(crate) fn seen(&self) -> impl Iterator<Item = &Seen> {
        self.sights.iter().filter_map(|sight| match sight {
            Sight::Seen(seen) => Some(seen),
            _ => None,
        })
    }

    pub(crate) fn sent(&self) -> impl Iterator<Item = &Sent> {
        self.sights.iter().filter_map(|sight| match sight {
            Sight::Sent(sent) => Some(sent),
            _ => None,
        })
    }

    pub(crate) fn ways(&self) -> impl Iterator<Item = &Way> {
        self.sights.iter().filter_map(|sight| match sight {
            Sight::Way(way) => Some(way),
            _ => None,
        })
    }

    pub(crate) fn verdicts(&self) -> impl Iterator<Item = &Verdict> {
        self.sights.iter().filter_map(|sight| match sight {
            Sight::Verdict(verdict) => Some(verdict),
            _ => None,
        })
    }

    pub(crate) fn translation(&self) -> Option<&Translation> {
        self.sights.iter().find_map(|sight| match sight {
            Sight::Translation(translation) => Some(translation),
            _ => None,
        })
    }

    /// By how much a counter grew.
    pub(crate) fn grown(&self, counter: &str) -> u64 {
        let counters = self.sights.iter().rev().find_map(|sight| match sight {
            Sight::Grown(grown) => Some(grown),
            _ => None,
        });
        counters.and_then(|grown| grown.get(counter)).copied().unwrap_or(0)
    }

    /// Rules of legacy iptables that dropped packets meanwhile.
    pub(crate) fn legacy(&self) -> &[LegacyDrop] {
        let last = self.sights.iter().rev().find_map(|sight| match sight {
            Sight::Legacy(drops) => Some(drops),
            _ => None,
        });
        last.map_or(&[], Vec::as_slice)
    }

    /// The hardware address that Manx gave the pod's end of its link, and the addresses: what the node wrote down for
    /// good at the other end.
    pub(crate) fn given(&self) -> Option<(&str, Vec<IpAddr>)> {
        let link = self.kernel.link_named(self.veth()?)?.index;
        let given = || {
            let all = self.kernel.neighbours.iter();
            all.filter(|it| it.link == link && it.state == NeighbourState::Permanent)
        };
        let mac = given().find_map(|neighbour| neighbour.mac.as_deref())?;
        Some((mac, given().map(|neighbour| neighbour.address).collect()))
    }

    /// The route that the node takes for a packet to an address, wherever it comes from.
    pub(crate) fn route(&self, to: IpAddr) -> Option<&Route> {
        self.kernel.decide(&Packet { to: to.into(), from: None, iif: None }).others?.route
    }

    /// The rule and the route that decide about a packet that was looked up.
    pub(crate) fn decided(&self, lookup: &Lookup) -> Option<Decision<'_>> {
        let iif = lookup.iif.as_deref().or(Some("lo"));
        self.kernel.decide(&Packet { to: lookup.to.into(), from: lookup.from, iif }).others
    }

    /// The longest route of Manx itself that holds an address.
    pub(crate) fn own_route(&self, to: IpAddr) -> Option<&Route> {
        let own = |route: &&Route| route.protocol == manx_facts::kernel::PROTOCOL && route.dst.contains(to);
        self.kernel.routes.iter().filter(own).max_by_key(|route| route.dst.prefix())
    }
}

impl Evidence {
    /// Who is at the far end: the backend that was chosen, or the target itself.
    pub(crate) fn far(&self) -> IpAddr {
        match self.here.translation() {
            Some(translation) => translation.backend,
            None => self.flow.target,
        }
    }

    /// What the far end is called, and its node.
    pub(crate) fn far_end(&self) -> (String, Option<String>) {
        match &self.target {
            Target::Pod(pod) => (format!("pod {}", pod.name), Some(pod.node.clone())),
            Target::Node(node) => (format!("node {node}"), Some(node.clone())),
            Target::Outside => (self.flow.target.to_string(), None),
            Target::Service(name, backends) => {
                match backends.iter().find(|backend| backend.address == self.far()) {
                    Some(Backend { pod: Some(pod), node, .. }) => (format!("pod {pod}"), node.clone()),
                    Some(backend) => (backend.address.to_string(), backend.node.clone()),
                    None => (format!("Service {name}"), None),
                }
            }
        }
    }

    /// What the node of the far end saw.
    pub(crate) fn far_node(&self) -> Option<&NodeEvidence> {
        let (_, node) = self.far_end();
        let node = node?;
        let far = self.far();
        let has = |there: &&NodeEvidence| {
            let endpoint = there.pod.as_ref().and_then(|pod| pod.endpoint.as_ref());
            there.node == node && endpoint.is_none_or(|endpoint| endpoint.addresses.contains(&far))
        };
        self.there.iter().find(has)
    }

    /// Whether the far end has a network namespace of its own, as pods have.
    pub(crate) fn far_is_pod(&self) -> bool {
        self.far_node().is_some_and(|there| there.veth().is_some())
    }

    /// Whether source and far end share a node.
    pub(crate) fn one_node(&self) -> bool {
        self.far_end().1.as_deref() == Some(&self.source.node)
    }

    /// What came back to the source for a probe.
    pub(crate) fn came_back(&self, probe: u8) -> impl Iterator<Item = &Seen> {
        let back = move |seen: &&Seen| {
            seen.inside && !seen.outgoing && seen.probe == probe && seen.kind != Kind::Probe
        };
        self.here.seen().filter(back)
    }

    /// Whether the far end answered a probe, be it by a refusal.
    pub(crate) fn answered(&self, probe: u8) -> bool {
        self.came_back(probe).any(|seen| matches!(seen.kind, Kind::Answer | Kind::Refusal))
    }

    /// Whether a probe came to the far end.
    pub(crate) fn arrived(&self, probe: u8) -> bool {
        let there = self.far_node().is_some_and(|there| {
            there.seen().any(|seen| {
                seen.probe == probe
                    && seen.kind == Kind::Probe
                    && !seen.outgoing
                    && (seen.inside || !self.far_is_pod())
            })
        });
        there || self.answered(probe)
    }

    /// The large probe and the smaller ones: number and octets.
    pub(crate) fn sizes(&self) -> Vec<(u8, u16)> {
        let mut sizes: Vec<_> = self
            .here
            .sent()
            .filter(|sent| sent.aim == Aim::Size && sent.failed.is_none())
            .map(|sent| (sent.probe, sent.size))
            .collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    /// Whether an address is of the far end or its node, which is a router too.
    fn is_far(&self, address: IpAddr) -> bool {
        let own = |node: &NodeEvidence| node.kernel.addresses.iter().any(|own| own.address.ip() == address);
        address == self.flow.target || self.far_node().is_some_and(own)
    }

    /// Routers between that said who they are: how far away, and their address.
    pub(crate) fn routers(&self) -> Vec<(u8, IpAddr)> {
        let mut routers = Vec::new();
        for sent in self.here.sent().filter(|sent| sent.aim == Aim::Router) {
            let answer = self.came_back(sent.probe).find(|seen| seen.kind == Kind::Expired);
            let router = answer.and_then(|seen| seen.from).filter(|router| !self.is_far(*router));
            routers.extend(router.map(|router| (sent.ttl, router)));
        }
        routers.sort_unstable();
        routers.dedup();
        routers
    }
}
