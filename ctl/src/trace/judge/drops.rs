//! Who throws a packet away on a node: rules of nftables and of both kinds of iptables, Manx's own guard of a pod's link,
//! and programs on links, of which nothing more is known than that they are there.

use manx_facts::kernel::{Program, ProgramPlace};
use manx_facts::probe::{LegacyDrop, Seen, Verdict};

use super::super::evidence::{Evidence, NodeEvidence, REACH};
use super::super::path::{self, Leg, Stop, outgoing, sighting};
use super::{Fault, fault};
use crate::finding::Finding;

/// The tables that iptables makes in nftables, and nobody else by these names of chains.
const IPTABLES: [&str; 5] = ["filter", "nat", "mangle", "raw", "security"];

/// The rule or the policy that dropped the packet on this node, if one says so.
pub(super) fn named(evidence: &Evidence, node: &NodeEvidence, leg: Leg) -> Option<Fault> {
    let drop = node.verdicts().find(|verdict| {
        verdict.verdict == "drop" && verdict.probe == REACH && verdict.back == (leg == Leg::Back)
    })?;
    if drop.family == "netdev" && drop.table.starts_with("manx-") {
        let seen = guarded(evidence, node, leg);
        return Some(guard(node, seen, drop.comment.as_deref()));
    }
    Some(firewall(&format!("node {}", node.node), drop))
}

fn quoted(comment: Option<&String>) -> String {
    comment.map_or_else(String::new, |text| format!(" ({text:?})"))
}

fn firewall(object: &str, drop: &Verdict) -> Fault {
    let links = format!(
        "{}{}",
        drop.iif.as_ref().map_or_else(String::new, |link| format!(" from {link}")),
        drop.oif.as_ref().map_or_else(String::new, |link| format!(" to {link}"))
    );
    let upper = !drop.chain.chars().any(char::is_lowercase);
    let by_iptables =
        drop.xtables || (upper && matches!(&*drop.family, "ip" | "ip6") && IPTABLES.contains(&&*drop.table));
    let comment = quoted(drop.comment.as_ref());
    let (rule, look) = if by_iptables {
        let chain = format!("chain {} of the table {} of iptables", drop.chain, drop.table);
        let rule = match drop.line {
            Some(line) => format!("rule {line}{comment} in {chain}"),
            None => format!("the policy of {chain}"),
        };
        let program = if drop.family == "ip6" { "ip6tables" } else { "iptables" };
        (rule, listed(program, &drop.table, &drop.chain))
    } else {
        let chain = format!("chain {} of table {} {}", drop.chain, drop.family, drop.table);
        let rule = match drop.handle {
            Some(handle) => format!("the rule with handle {handle}{comment} in {chain}"),
            None => format!("the policy of {chain}"),
        };
        (rule, format!("nft -a list chain {} {} {}", drop.family, drop.table, drop.chain))
    };
    let what = format!("a firewall drops it{links}: {rule}");
    let cure = format!("see `{look}`, and let pods through");
    fault("firewall", Finding::error(object, what, cure).see("no-route"))
}

fn listed(program: &str, table: &str, chain: &str) -> String {
    format!("{program} -t {table} -vnL {chain} --line-numbers")
}

/// Rules of legacy iptables that dropped something that may have been the packet.
pub(super) fn legacy(evidence: &Evidence, node: &NodeEvidence) -> Option<Fault> {
    let first = node.legacy().first()?;
    let words = |drop: &LegacyDrop| {
        let chain = format!("chain {} of the table {}", drop.chain, drop.table);
        let comment = quoted(drop.comment.as_ref());
        let rule = match drop.line {
            Some(line) => format!("rule {line}{comment} in {chain}"),
            None => format!("the policy of {chain}"),
        };
        format!("{rule} (+{})", drop.packets)
    };
    let all: Vec<String> = node.legacy().iter().map(words).collect();
    let what = format!("a firewall of legacy iptables drops it: {}", all.join(", or "));
    let program = if evidence.flow.source.is_ipv6() { "ip6tables-legacy" } else { "iptables-legacy" };
    let look = listed(program, &first.table, &first.chain);
    let cure = format!("see `{look}`, and let pods through");
    Some(fault("firewall", Finding::error(format!("node {}", node.node), what, cure).see("no-route")))
}

/// The packet as it came in by the pod's link on this way.
fn guarded<'a>(evidence: &'a Evidence, node: &NodeEvidence, leg: Leg) -> Option<&'a Seen> {
    let station = if leg == Leg::There { path::Station::SourceVeth } else { path::Station::TargetVeth };
    let (of, _) = path::link(evidence, station)?;
    (of.node == node.node).then(|| sighting(evidence, station, leg, REACH))?
}

/// Manx's own guard dropped what came from the pod: which of its two ends of the bargain the pod did not keep.
fn guard(node: &NodeEvidence, seen: Option<&Seen>, comment: Option<&str>) -> Fault {
    let link = node.veth().unwrap_or("its link");
    let sender = seen.and_then(|seen| Some((seen.mac.as_deref()?, seen.from?)));
    let (why, cure) = match (node.given(), sender) {
        (Some((given, _)), Some((mac, _))) if given != mac => return wrong_mac(node, mac, given),
        (Some((_, addresses)), Some((_, from))) if !addresses.contains(&from) => (
            format!("it comes from {from}, and Manx gave that pod {}", list(&addresses)),
            "let the pod send from its own address".to_owned(),
        ),
        _ => (
            comment.map_or_else(
                || "none of its rules is for the packet".to_owned(),
                |comment| format!("by its rule {comment:?}"),
            ),
            format!(
                "the agent mends a guard that was changed within a minute; see `nft list table netdev manx-{link}`"
            ),
        ),
    };
    let what = format!("Manx's guard of the pod's link {link} drops it: {why}");
    fault("guard", Finding::error(format!("node {}", node.node), what, cure).see("no-route"))
}

fn wrong_mac(node: &NodeEvidence, mac: &str, given: &str) -> Fault {
    let link = node.veth().unwrap_or("its link");
    let what = format!(
        "Manx's guard of the pod's link {link} drops it: the pod sends from the hardware address {mac}, and Manx gave it \
         {given}"
    );
    let cure = format!(
        "who changed it inside the pod? give it back (`ip link set eth0 address {given}`), or delete the pod, so that it \
         is made anew"
    );
    fault("guard", Finding::error(format!("node {}", node.node), what, cure).see("no-route"))
}

/// The pod has another hardware address than Manx gave it, so that it does not even find its gateway.
pub(super) fn changed_mac(node: &NodeEvidence) -> Option<Fault> {
    let pod = node.pod.as_ref()?;
    let own = pod.inside.link_named(&pod.endpoint.as_ref()?.ifname)?.mac.as_deref()?;
    let (given, _) = node.given()?;
    (own != given).then(|| wrong_mac(node, own, given))
}

fn list(addresses: &[std::net::IpAddr]) -> String {
    let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    all.join(" and ")
}

/// What is on the links between which a packet was lost: in words that go on after what is wrong, and where to look.
pub(super) struct Hint {
    pub(super) words: String,
    pub(super) look: String,
}

/// Programs on these links that see packets where it was lost.
pub(super) fn programs(evidence: &Evidence, stop: Stop) -> Option<Hint> {
    let after = stop.after.filter(|station| !outgoing(*station, stop.leg));
    let after = after.map(|station| (station, ProgramPlace::Ingress));
    let place = if outgoing(stop.before, stop.leg) { ProgramPlace::Egress } else { ProgramPlace::Xdp };
    after.into_iter().chain([(stop.before, place)]).find_map(|(station, place)| {
        let (node, name) = path::link(evidence, station)?;
        let link = path::kernel(node, station)?.link_named(&name)?;
        let program = link.programs.iter().find(|program| program.place == place)?;
        let inside = matches!(station, path::Station::SourcePod | path::Station::TargetPod);
        let inside = if inside { " in its pod" } else { "" };
        Some(Hint {
            words: format!("; {name} of node {}{inside} has {}, which may drop it", node.node, is(program)),
            look: match place {
                ProgramPlace::Ingress => format!("look at `tc filter show dev {name} ingress`"),
                ProgramPlace::Egress => format!("look at `tc filter show dev {name} egress`"),
                _ => format!("look at `ip link show dev {name}` and `bpftool net`"),
            },
        })
    })
}

fn is(program: &Program) -> String {
    let known = [program.name.clone(), program.id.map(|id| format!("id {id}"))];
    let known = known.into_iter().flatten().collect::<Vec<_>>().join(", ");
    let known = if known.is_empty() { known } else { format!(" ({known})") };
    let place = if program.place == ProgramPlace::Egress { "egress" } else { "ingress" };
    match program.place {
        ProgramPlace::Xdp => format!("an XDP program{known}"),
        _ => format!("a filter of tc at {place}: {}{known}", program.kind),
    }
}
