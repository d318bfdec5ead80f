//! Pools: Calico's IPPool and IPReservation as IPPools of ours.

use manx_api::{AllowedUse, AssignmentMode, Cidr, IPPool, IPPoolSpec, LabelSelector};

use super::calico::{Calico, Named, Pool};
use super::plan::{Choices, Remarks};
use super::selector;

/// Reserved networks that a pool may have.
const MOST_RESERVED: usize = 64;

/// The pools, sorted by name.
pub(crate) fn translate(calico: &Calico, choices: &Choices, remarks: &mut Remarks) -> Vec<IPPool> {
    let mut pools: Vec<IPPool> = calico
        .pools
        .iter()
        .filter_map(|pool| {
            let mut object = one(pool, choices, remarks)?;
            let limits = calico.ipam.clone().unwrap_or_default();
            object.spec.max_blocks_per_node = Some(limits.max_blocks_per_host).filter(|limit| *limit > 0);
            object.spec.cooldown_seconds = limits.ip_cooldown_seconds;
            object.spec.reserved = reserved(calico, object.spec.cidr, &pool.name, remarks);
            Some(object)
        })
        .collect();
    pools.sort_by_key(|pool| pool.metadata.name.clone());
    for (index, pool) in pools.iter().enumerate() {
        if let Some(other) = pools[..index].iter().find(|other| other.spec.cidr.overlaps(pool.spec.cidr)) {
            let text = format!("it overlaps {} of {}: take one of them away", other.spec.cidr, named(other));
            remarks.blocker(format!("IPPool {}", named(pool)), text);
        }
    }
    pools
}

/// The name of an object that has one.
pub(crate) fn named(pool: &IPPool) -> &str {
    pool.metadata.name.as_deref().unwrap_or_default()
}

fn one(pool: &Named<Pool>, choices: &Choices, remarks: &mut Remarks) -> Option<IPPool> {
    let Named { name, spec } = pool;
    let about = format!("IPPool {name}");
    let cidr: Cidr = match spec.cidr.parse() {
        Ok(cidr) => cidr,
        Err(error) => {
            remarks.blocker(about, format!("{error}"));
            return None;
        }
    };
    let uses =
        |wanted: &str| spec.allowed_uses.is_empty() || spec.allowed_uses.iter().any(|found| found == wanted);
    if !uses("Workload") {
        let what = spec.allowed_uses.join(" and ");
        remarks.warning(
            about,
            format!("it is for {what} only and stays Calico's: Manx gives addresses to pods"),
        );
        return None;
    }
    if name.len() > 63 {
        remarks.blocker(
            about,
            "its name has more than 63 characters: make a pool of another name, and move its pods",
        );
        return None;
    }
    tunnels(spec, &about, choices, remarks);
    if spec.disable_bgp_export {
        remarks.warning(
            &about,
            "disableBGPExport becomes advertise: false, which holds for routers outside; nodes still tell one another",
        );
    }
    let object = IPPoolSpec {
        block_size: spec.block_size,
        node_selector: choose(&spec.node_selector, "nodeSelector", &about, remarks)?,
        namespace_selector: choose(&spec.namespace_selector, "namespaceSelector", &about, remarks)?,
        nat_outgoing: spec.nat_outgoing,
        disabled: spec.disabled,
        advertise: !spec.disable_bgp_export,
        assignment_mode: match spec.assignment_mode.as_str() {
            "Manual" => AssignmentMode::Manual,
            _ => AssignmentMode::Automatic,
        },
        allowed_uses: vec![AllowedUse::Pod],
        ..IPPoolSpec::new(cidr)
    };
    Some(IPPool::new(name, object))
}

fn tunnels(spec: &Pool, about: &str, choices: &Choices, remarks: &mut Remarks) {
    for (mode, kind) in [(&spec.ipip_mode, "IPIP"), (&spec.vxlan_mode, "VXLAN")] {
        if mode.is_empty() || mode == "Never" {
            continue;
        }
        if choices.drop_tunnels {
            let text = format!("{kind} {mode}: packets are routed as they are as soon as a node has moved");
            remarks.warning(about, text);
        } else {
            let text = format!(
                "{kind} is {mode}, and Manx has no tunnels: set it to Never while Calico still runs (nodes must reach \
                 one another's pods without), or say --drop-tunnels"
            );
            remarks.blocker(about, text);
        }
    }
}

/// A selector in our words; the outer `None` when that cannot be.
fn choose(text: &str, field: &str, about: &str, remarks: &mut Remarks) -> Option<Option<LabelSelector>> {
    match selector::translate(text) {
        Ok(chosen) => Some(chosen),
        Err(error) => {
            let text = format!(
                "{field} {text:?}: {error}; label those that are meant (kubectl label) and select by that one label"
            );
            remarks.blocker(about, text);
            None
        }
    }
}

/// The addresses of a pool that are never given: reservations, and those that tunnels of nodes still have.
fn reserved(calico: &Calico, pool: Cidr, name: &str, remarks: &mut Remarks) -> Vec<Cidr> {
    let mut found = Vec::new();
    for reservation in &calico.reservations {
        for text in &reservation.spec.reserved {
            let about = format!("IPReservation {}", reservation.name);
            match network(text) {
                None => remarks.blocker(about, format!("{text:?} is no network")),
                Some(network) if pool.contains(network) => found.push(network),
                Some(network) if network.contains(pool) => found.push(pool),
                Some(_) => {}
            }
        }
    }
    found.extend(
        super::blocks::tunnel_addresses(calico).into_iter().filter(|address| pool.contains(*address)),
    );
    found.sort();
    found.dedup();
    if found.len() > MOST_RESERVED {
        let text =
            format!("{} networks inside it are reserved, and {MOST_RESERVED} can be: join some", found.len());
        remarks.blocker(format!("IPPool {name}"), text);
        found.truncate(MOST_RESERVED);
    }
    found
}

/// A network, or an address as a network of one.
fn network(text: &str) -> Option<Cidr> {
    let host = |len| format!("{text}/{len}");
    match text.parse() {
        Ok(network) => Some(network),
        Err(_) => host(if text.contains(':') { 128 } else { 32 }).parse().ok(),
    }
}
