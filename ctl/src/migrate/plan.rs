//! What a move would make, and what is to be said about it. Pure: Calico's objects in, ours and remarks out.

use manx_api::{BGPConfiguration, BGPFilter, BGPPeer, IPBlock, IPPool};

use super::calico::Calico;
use super::{bgp, blocks, filters, peers, pools};

/// Label of every object that a move made.
pub(crate) const ORIGIN_LABEL: &str = "manx.dev/migrated-from";
/// Its value, and what blocks say of whose pods they hold.
pub(crate) const CALICO: &str = "calico";
/// The beginning of the names of peers that stand for nodes which still run Calico.
pub(crate) const NODE_PEER: &str = "calico-node-";

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Weight {
    /// Nothing is applied before this is settled.
    Blocker,
    /// Something will be otherwise than it was.
    Warning,
    /// Good to know.
    Note,
}

impl Weight {
    /// One word for the beginning of a line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Blocker => "in the way",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// Something about one object: what is the matter and what to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Remark {
    pub(crate) weight: Weight,
    /// Which object, such as `IPPool default-ipv4-ippool`.
    pub(crate) about: String,
    pub(crate) text: String,
}

/// Remarks as they come.
#[derive(Debug, Default)]
pub(crate) struct Remarks(pub(crate) Vec<Remark>);

impl Remarks {
    pub(crate) fn blocker(&mut self, about: impl Into<String>, text: impl Into<String>) {
        self.add(Weight::Blocker, about, text);
    }

    pub(crate) fn warning(&mut self, about: impl Into<String>, text: impl Into<String>) {
        self.add(Weight::Warning, about, text);
    }

    pub(crate) fn note(&mut self, about: impl Into<String>, text: impl Into<String>) {
        self.add(Weight::Note, about, text);
    }

    fn add(&mut self, weight: Weight, about: impl Into<String>, text: impl Into<String>) {
        self.0.push(Remark { weight, about: about.into(), text: text.into() });
    }
}

/// What the operator decided.
#[derive(Clone, Debug)]
pub(crate) struct Choices {
    /// Pools with tunnels are moved: their packets are routed as they are from then on.
    pub(crate) drop_tunnels: bool,
    /// Where our agents read Secrets.
    pub(crate) namespace: String,
    /// Nodes whose agent is ours by now.
    pub(crate) moved: Vec<String>,
}

/// The objects of ours that stand for Calico's, and what there is to say.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) pools: Vec<IPPool>,
    pub(crate) configuration: Option<BGPConfiguration>,
    pub(crate) filters: Vec<BGPFilter>,
    pub(crate) peers: Vec<BGPPeer>,
    pub(crate) blocks: Vec<IPBlock>,
    /// The most serious first.
    pub(crate) remarks: Vec<Remark>,
}

impl Plan {
    /// Makes the plan.
    pub(crate) fn new(calico: &Calico, choices: &Choices) -> Self {
        let mut remarks = Remarks::default();
        datapath(calico, &mut remarks);
        freeze(calico, &mut remarks);
        let pools = pools::translate(calico, choices, &mut remarks);
        let blocks = blocks::translate(calico, &pools, &mut remarks);
        let network = bgp::translate(calico, &mut remarks);
        let filters = filters::translate(calico, network.as_number, &mut remarks);
        let peers = peers::translate(calico, &network, choices, &filters, &mut remarks);
        let mut plan =
            Self { pools, configuration: Some(network.object), filters, peers, blocks, remarks: remarks.0 };
        plan.remarks.sort();
        plan.remarks.dedup();
        plan.mark();
        plan
    }

    /// Whether something has to be settled first.
    pub(crate) fn is_blocked(&self) -> bool {
        self.remarks.iter().any(|remark| remark.weight == Weight::Blocker)
    }

    /// Labels every object with where it comes from.
    fn mark(&mut self) {
        let all = self.pools.iter_mut().map(|object| &mut object.metadata);
        let all = all.chain(self.configuration.iter_mut().map(|object| &mut object.metadata));
        let all = all.chain(self.filters.iter_mut().map(|object| &mut object.metadata));
        let all = all.chain(self.peers.iter_mut().map(|object| &mut object.metadata));
        for metadata in all.chain(self.blocks.iter_mut().map(|object| &mut object.metadata)) {
            metadata.labels.get_or_insert_default().insert(ORIGIN_LABEL.to_owned(), CALICO.to_owned());
        }
    }
}

/// What would make links or packets other than an agent of ours knows them.
fn datapath(calico: &Calico, remarks: &mut Remarks) {
    for felix in &calico.felix {
        let about = format!("FelixConfiguration {}", felix.name);
        let spec = &felix.spec;
        if let Some(prefix) = spec.interface_prefix.as_deref().filter(|prefix| *prefix != "cali") {
            remarks.blocker(
                &about,
                format!("interfacePrefix is {prefix}: only links called cali… can be taken over; pods must start anew"),
            );
        }
        if spec.bpf_enabled {
            remarks.blocker(&about, "bpfEnabled: go back to the standard dataplane first, with kube-proxy");
        }
        if spec.wireguard_enabled || spec.wireguard_enabled_v6 {
            remarks.blocker(
                &about,
                "WireGuard is on: Manx encrypts nothing; turn it off first if that is acceptable",
            );
        }
        if let Some(address) = &spec.nat_outgoing_address {
            remarks.warning(
                &about,
                format!("natOutgoingAddress {address}: Manx masquerades with the node's own address"),
            );
        }
    }
    remarks.note(
        "NetworkPolicy",
        "Calico's policies end with its agent on each node: Manx has no policy engine of its own",
    );
}

/// While both networks give addresses, Calico must neither claim blocks nor borrow addresses.
fn freeze(calico: &Calico, remarks: &mut Remarks) {
    let ipam = calico.ipam.clone().unwrap_or_default();
    if !ipam.strict_affinity || ipam.auto_allocate_blocks {
        remarks.blocker(
            "IPAMConfig default",
            "Calico may still claim blocks or borrow addresses: set strictAffinity true and autoAllocateBlocks false",
        );
    }
}
