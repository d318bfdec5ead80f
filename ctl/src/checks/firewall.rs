//! Firewalls of a machine that drop what pods send one another. Each base chain must let packets pass: what one accepts,
//! another may still drop.

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;
use manx_facts::host::Barrier;

use super::{Facts, each};
use crate::finding::Finding;

/// What drops packets of pods.
pub(super) fn barriers(facts: &Facts) -> Vec<Finding> {
    each(facts, |node, host, findings| {
        let mut of_chain: BTreeMap<(&str, &str, Option<&str>), Vec<&Barrier>> = BTreeMap::new();
        for barrier in &host.barriers {
            let chain = (barrier.table.as_str(), barrier.chain.as_str(), barrier.rule_in.as_deref());
            of_chain.entry(chain).or_default().push(barrier);
        }
        findings.extend(of_chain.values().filter_map(|barriers| finding(node, barriers)));
    })
}

fn finding(node: &str, barriers: &[&Barrier]) -> Option<Finding> {
    let first = barriers.first()?;
    let (table, chain) = (&first.table, &first.chain);
    let pods: BTreeSet<IpNetwork> = barriers.iter().map(|barrier| barrier.pods).collect();
    let pods = pods.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
    let what = match (barriers.iter().any(|one| one.outgoing), barriers.iter().any(|one| !one.outgoing)) {
        (true, false) => "what they send to other nodes",
        (false, true) => "what comes for them from other nodes",
        _ => "what they send to other nodes, and what comes for them from there",
    };
    let why = match &first.rule_in {
        Some(other) => format!("by a rule of the chain {other}"),
        None => "by its policy, and no rule before lets it pass".to_owned(),
    };
    Some(Finding::error(
        node,
        format!("the chain {chain} of the table {table} drops of pods in {pods} {what}, {why}"),
        format!("{}; what another table accepts does not help (docs/node.md)", cure(first)),
    ))
}

/// How packets are let pass. A table of legacy iptables says in its name which program it is of.
fn cure(barrier: &Barrier) -> String {
    let Barrier { pods, table, chain, .. } = barrier;
    let (iptables, family) = if pods.is_ipv4() { ("iptables", "ip") } else { ("ip6tables", "ip6") };
    let (program, name) = match table.as_str() {
        "ip filter" | "ip6 filter" if chain == "FORWARD" => (iptables, "filter"),
        other => match other.split_once(" of ") {
            Some((name, program)) => (program, name),
            None => {
                return format!(
                    "`nft insert rule {table} {chain} {family} saddr {pods} accept` and the same with daddr, wherever \
                     rules are kept"
                );
            }
        },
    };
    format!(
        "`{program} -t {name} -I {chain} -s {pods} -j ACCEPT` and the same with -d, wherever rules are kept (with Docker \
         in the chain DOCKER-USER)"
    )
}
