//! Blocks: Calico's IPAMBlock as IPBlocks of ours, with who has which address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use manx_api::{Allocation, Cidr, IPBlock, IPBlockStatus, IPPool, Time, Timestamp};

use super::calico::{Affinity, Attribute, Block, Calico, Named};
use super::plan::{CALICO, Remarks};
use super::pools::named;

/// Whose an address is, as far as its attributes say.
enum Holder {
    /// A pod's, on this node.
    Pod { pod: String, node: Option<String>, container: Option<String>, since: Time },
    /// A tunnel device's of this node.
    Tunnel(String),
    /// Something else: in words.
    Other(String),
}

/// The blocks, sorted by network.
pub(crate) fn translate(calico: &Calico, pools: &[IPPool], remarks: &mut Remarks) -> Vec<IPBlock> {
    let nodes: BTreeSet<&str> = calico.nodes.iter().map(|node| node.name.as_str()).collect();
    let mut blocks: Vec<IPBlock> = Vec::new();
    for block in calico.blocks.iter().filter(|block| !block.spec.deleted) {
        blocks.extend(one(block, pools, &nodes, remarks));
    }
    blocks.sort_by_key(|block| block.spec.cidr);
    overlaps(&blocks, remarks);
    affinities(&calico.affinities, &calico.blocks, remarks);
    blocks
}

/// The addresses of tunnel devices, as networks of one.
pub(crate) fn tunnel_addresses(calico: &Calico) -> Vec<Cidr> {
    let blocks = calico.blocks.iter().filter(|block| !block.spec.deleted);
    let uses = blocks.flat_map(|block| uses(&block.spec));
    let tunnels = uses.filter(|(_, attribute)| matches!(holder(attribute), Holder::Tunnel(_)));
    tunnels.filter_map(|(address, _)| Cidr::try_from(ipnetwork::IpNetwork::from(address)).ok()).collect()
}

fn one(
    block: &Named<Block>,
    pools: &[IPPool],
    nodes: &BTreeSet<&str>,
    remarks: &mut Remarks,
) -> Option<IPBlock> {
    let about = format!("IPAMBlock {}", block.spec.cidr);
    let used = uses(&block.spec).len();
    let cidr: Cidr = match block.spec.cidr.parse() {
        Ok(cidr) => cidr,
        Err(error) => {
            remarks.blocker(about, format!("{error}"));
            return None;
        }
    };
    let Some(node) = block.spec.affinity.as_deref().and_then(|affinity| affinity.strip_prefix("host:"))
    else {
        ownerless(&block.spec, &about, used, remarks);
        return None;
    };
    if !nodes.contains(node) {
        let text =
            format!("it belongs to {node}, which is no Node: left out; Calico's controllers release it");
        remarks.warning(about, text);
        return None;
    }
    let Some(pool) = pools.iter().find(|pool| pool.spec.cidr.contains(cidr)) else {
        match used {
            0 => remarks.note(about, "no pool that moves holds it, and it is empty: left out"),
            _ => remarks.blocker(
                about,
                format!("{used} addresses of it are used, and no pool that moves holds it: make one, or restart its pods"),
            ),
        }
        return None;
    };
    size(cidr, pool, &about, remarks)?;
    let allocations = allocations(&block.spec, node, &about, remarks);
    let used = u32::try_from(allocations.len()).unwrap_or(u32::MAX);
    let mut object = IPBlock::claim(cidr, node, named(pool));
    object.status = Some(IPBlockStatus {
        used,
        free: addresses(cidr).saturating_sub(used),
        allocations,
        handed_over_by: Some(CALICO.to_owned()),
    });
    Some(object)
}

/// A block of nobody.
fn ownerless(block: &Block, about: &str, used: usize, remarks: &mut Remarks) {
    match block.affinity.as_deref() {
        Some("virtual:load-balancer") => remarks.warning(
            about,
            "it holds addresses of Services of type LoadBalancer: left out, they stay with Calico's controllers",
        ),
        None | Some("") if used == 0 => remarks.note(about, "it belongs to no node and is empty: left out"),
        affinity => remarks.blocker(
            about,
            format!(
                "it belongs to {}, and {used} addresses of it are used: restart their pods ({})",
                affinity.filter(|text| !text.is_empty()).unwrap_or("no node"),
                pods(block)
            ),
        ),
    }
}

/// A block of another length than its pool's serves while it is used, and is given back when it is empty.
fn size(cidr: Cidr, pool: &IPPool, about: &str, remarks: &mut Remarks) -> Option<()> {
    let (min, max) = if cidr.is_ipv4() { (20, 32) } else { (112, 128) };
    if !(min..=max).contains(&cidr.prefix_len()) {
        remarks.blocker(
            about,
            format!("blocks are /{min} to /{max}: restart its pods with blocks of such a size"),
        );
        return None;
    }
    if cidr.prefix_len() != pool.spec.block_len() {
        let text = format!(
            "{} has blocks of /{}: this one gives no new addresses and goes when its last pod does",
            named(pool),
            pool.spec.block_len()
        );
        remarks.warning(about, text);
    }
    Some(())
}

/// The addresses in use, with their attributes.
fn uses(block: &Block) -> Vec<(IpAddr, Attribute)> {
    let Ok(cidr) = block.cidr.parse::<Cidr>() else { return Vec::new() };
    let given =
        block.allocations.iter().enumerate().filter_map(|(ordinal, index)| Some((ordinal, (*index)?)));
    let given = given.filter_map(|(ordinal, index)| {
        let attribute = block.attributes.get(index).cloned().unwrap_or_default();
        Some((address(cidr, ordinal)?, attribute))
    });
    // One that was released and rests is free.
    given.filter(|(_, attribute)| attribute.released_at.is_none()).collect()
}

fn address(cidr: Cidr, ordinal: usize) -> Option<IpAddr> {
    let address = match cidr.network().network() {
        IpAddr::V4(first) => {
            IpAddr::from(u32::from(first).checked_add(u32::try_from(ordinal).ok()?)?.to_be_bytes())
        }
        IpAddr::V6(first) => IpAddr::from(u128::from(first).checked_add(ordinal as u128)?.to_be_bytes()),
    };
    cidr.network().contains(address).then_some(address)
}

fn addresses(cidr: Cidr) -> u32 {
    let bits = if cidr.is_ipv4() { 32 } else { 128 };
    1_u32.checked_shl(u32::from(bits - cidr.prefix_len())).unwrap_or(u32::MAX)
}

fn holder(attribute: &Attribute) -> Holder {
    let of = |key: &str| attribute.secondary.get(key).map(String::as_str).filter(|text| !text.is_empty());
    let handle = attribute.handle_id.as_deref().unwrap_or_default();
    if handle.contains("-tunnel-addr-") || of("type").is_some_and(|kind| kind.ends_with("TunnelAddress")) {
        let node = handle.split_once("-tunnel-addr-").map(|(_, node)| node);
        return Holder::Tunnel(of("node").or(node).unwrap_or("a node").to_owned());
    }
    let (Some(namespace), Some(pod)) = (of("namespace"), of("pod")) else {
        return Holder::Other(match handle {
            "" => "whose it is was not written down".to_owned(),
            handle => format!("its handle is {handle}"),
        });
    };
    Holder::Pod {
        pod: format!("{namespace}/{pod}"),
        node: of("node").map(str::to_owned),
        container: container(handle, namespace, pod),
        since: Time(of("timestamp").and_then(moment).unwrap_or(Timestamp::UNIX_EPOCH)),
    }
}

/// The container id in a handle such as `k8s-pod-network.3f2a…`; older ones name the pod instead.
fn container(handle: &str, namespace: &str, pod: &str) -> Option<String> {
    if handle == format!("{namespace}.{pod}") {
        return None;
    }
    let (_, id) = handle.rsplit_once('.')?;
    let plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    (id.len() >= 12 && plain).then(|| id.to_owned())
}

/// A time as Go prints it: `2026-05-04 10:11:12.123 +0000 UTC`.
fn moment(text: &str) -> Option<Timestamp> {
    let (day, rest) = text.split_once(' ')?;
    let time = rest.get(..8)?;
    format!("{day}T{time}Z").parse().ok()
}

fn allocations(block: &Block, owner: &str, about: &str, remarks: &mut Remarks) -> Vec<Allocation> {
    let mut found = Vec::new();
    for (address, attribute) in uses(block) {
        match holder(&attribute) {
            Holder::Pod { pod, node: Some(node), .. } if node != owner => remarks.blocker(
                about,
                format!("{address} is borrowed by {pod} on {node}, and the block is {owner}'s: restart that pod"),
            ),
            Holder::Pod { pod, container: Some(container), since, .. } => {
                found.push(Allocation { address, pod: Some(pod), container, interface: "eth0".to_owned(), since });
            }
            Holder::Pod { pod, container: None, .. } => remarks.warning(
                about,
                format!("{address} of {pod} has a handle without a container id: kept for as long as its link exists"),
            ),
            Holder::Tunnel(node) => remarks.warning(
                about,
                format!("{address} is a tunnel address of {node}: reserved in the pool; it goes with the tunnel"),
            ),
            Holder::Other(text) => remarks.warning(
                about,
                format!("{address} is in use and {text}: kept only if a link on {owner} has it"),
            ),
        }
    }
    found
}

/// The pods of a block, for a message.
fn pods(block: &Block) -> String {
    let pods = uses(block).into_iter().map(|(address, attribute)| match holder(&attribute) {
        Holder::Pod { pod, .. } => pod,
        Holder::Tunnel(node) => format!("tunnel of {node}"),
        Holder::Other(_) => address.to_string(),
    });
    pods.collect::<Vec<_>>().join(", ")
}

fn overlaps(blocks: &[IPBlock], remarks: &mut Remarks) {
    for pair in blocks.windows(2) {
        if let [first, second] = pair
            && first.spec.cidr.overlaps(second.spec.cidr)
        {
            let text = format!("it overlaps {} of {}", first.spec.cidr, first.spec.node);
            remarks.blocker(format!("IPAMBlock {}", second.spec.cidr), text);
        }
    }
}

/// Affinities that say otherwise than their blocks, which count.
fn affinities(affinities: &[Named<Affinity>], blocks: &[Named<Block>], remarks: &mut Remarks) {
    let owners: BTreeMap<&str, &str> = blocks
        .iter()
        .filter(|block| !block.spec.deleted)
        .filter_map(|block| {
            Some((block.spec.cidr.as_str(), block.spec.affinity.as_deref()?.strip_prefix("host:")?))
        })
        .collect();
    for affinity in affinities.iter().filter(|affinity| !affinity.spec.deleted) {
        let about = format!("BlockAffinity {}", affinity.name);
        let Affinity { cidr, node, state, .. } = &affinity.spec;
        match owners.get(cidr.as_str()) {
            Some(owner) if *owner != node => {
                remarks.warning(
                    about,
                    format!("it gives {cidr} to {node}, the block to {owner}: the block counts"),
                );
            }
            None => {
                remarks.note(about, format!("it gives {node} a block {cidr} that does not exist: left out"))
            }
            Some(_) if state.starts_with("pending") => {
                remarks.note(about, format!("it is {state}; the block belongs to {node} and counts"));
            }
            Some(_) => {}
        }
    }
}
