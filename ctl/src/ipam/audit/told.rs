//! Differences in words, each with its cure.

use std::net::IpAddr;

use super::Difference;
use crate::finding::{Finding, Weight};

/// Where docs/operate.md has more.
const SEE: &str = "addresses-disagree";

impl Difference {
    /// What it means and what to do; Manx runs in this namespace.
    pub(crate) fn finding(&self, namespace: &str) -> Finding {
        self.of_objects().or_else(|| self.of_records(namespace)).unwrap_or_else(|| self.of_kernels()).see(SEE)
    }

    /// What the API server alone shows.
    fn of_objects(&self) -> Option<Finding> {
        Some(match self {
            Self::BlocksOverlap { one, of, other, of_other } => Finding::error(
                format!("block {other}"),
                format!("{of_other} owns it, and {of} owns {one}, which has the same addresses"),
                "delete the IPBlock whose pods are fewer once they are gone, and see how it came about: blocks of one pool never overlap by themselves",
            )
            .on(of)
            .on(of_other),
            Self::BlockOfNobody { block, node } => Finding::warning(
                format!("block {block}"),
                format!("it belongs to {node}, and there is no such node"),
                "the controller returns it five minutes after the node is gone; if it does not, see whether there is a controller",
            )
            .on(node),
            Self::BlockOutsidePool { block, node, pool } => Finding::error(
                format!("block {block}"),
                format!("it does not lie in its pool {pool}, or that is not there"),
                "make the pool again with the cidr that it had, or restart the pods with addresses of the block",
            )
            .on(node),
            Self::ClaimedTwice { address, one, other } => Finding::error(
                format!("address {address}"),
                format!("the IPClaims {one} and {other} both have it"),
                "delete one of the two and restart its pod",
            ),
            Self::HeldTwice { address, holders } => Finding::error(
                format!("address {address}"),
                format!("it is held by {}", holders.join(" and by ")),
                "restart one of them, and report it with the agents' logs",
            ),
            _ => return None,
        })
    }

    /// What a record and the API server disagree about.
    fn of_records(&self, namespace: &str) -> Option<Finding> {
        let restart = |node: &str| {
            format!(
                "delete the agent's pod on {node} (`kubectl -n {namespace} get pods -o wide`): it reads the API anew"
            )
        };
        Some(match self {
            Self::BlockNotRecorded { node, block } => Finding::error(
                format!("block {block}"),
                format!("the API server says that it is {node}'s, and the record of {node} does not have it"),
                restart(node),
            )
            .on(node),
            Self::BlockNotOwned { node, block, owner } => Finding::error(
                format!("block {block}"),
                match owner {
                    Some(owner) => format!("{node} gives addresses of it, and it belongs to {owner}"),
                    None => format!("{node} gives addresses of it, and by the API server nobody owns it"),
                },
                "restart the pods that have addresses of it there (condition BlocksHeld of the node)",
            )
            .on(node),
            Self::RecordDamaged { node, why } => Finding::error(
                format!("node {node}"),
                format!("the record of its agent: {why}"),
                "look for a full or broken disk under /run/manx; what is lost there the agent finds again by the links",
            )
            .on(node),
            Self::PodNotRecorded { node, pod, address, holder } => Finding::error(
                format!("pod {pod}"),
                match holder {
                    Some(other) => format!("it has {address}, which the record of {node} gives to {other}"),
                    None => format!("it has {address}, which the record of {node} does not know"),
                },
                "restart the pod: its address may be given to another",
            )
            .on(node),
            Self::PodGone { node, pod, container, addresses } => Finding::error(
                format!("node {node}"),
                format!(
                    "the record has {} for the pod {pod} (sandbox {}), which is not there",
                    list(addresses),
                    super::short(container)
                ),
                format!("the runtime's next GC frees it; now: `crictl rmp -f {}` on the node", super::short(container)),
            )
            .on(node),
            Self::AddressOutsideBlocks { node, address, holder } => Finding::error(
                format!("pod {holder}"),
                format!("its address {address} lies in no block of {node}, so nobody sends there"),
                "restart the pod",
            )
            .on(node),
            Self::StatusDiffers { node, address, status, record } => Finding::warning(
                format!("address {address}"),
                match (status, record) {
                    (Some(status), Some(record)) => {
                        format!("its block says {status}, the record of {node} says {record}")
                    }
                    (Some(status), None) => format!("its block says {status}, by the record of {node} it is free"),
                    (None, record) => format!(
                        "its block says that it is free, by the record of {node} {} has it",
                        record.as_deref().unwrap_or("somebody")
                    ),
                },
                format!("the record counts; if the agent does not write the block's status, its log says why. {}", capital(&restart(node))),
            )
            .on(node),
            _ => return None,
        })
    }

    /// What a kernel and the record disagree about.
    fn of_kernels(&self) -> Finding {
        match self {
            Self::LinkMissing { node, holder, link, addresses } => Finding::error(
                format!("pod {holder}"),
                format!("the record of {node} has {} for it, and its link {link} is not there", list(addresses)),
                "if the pod still runs, restart it; else the agent frees the address within two minutes",
            )
            .on(node),
            Self::LinkWrong { node, holder, link, why } => Finding::error(
                format!("pod {holder}"),
                format!("its link {link} on {node}: {why}"),
                format!("restart the pod, or `ip link set {link} up` on the node if it is only down"),
            )
            .on(node),
            Self::LinkOfNobody { node, link, alias } => Finding::error(
                format!("node {node}"),
                format!("the link {link} ({alias}) is of no pod that its agent knows"),
                format!("the agent takes it away within two minutes; now: `ip link del {link}` on the node"),
            )
            .on(node),
            Self::RouteWrong { node, address, link, leads_to } => Finding::error(
                format!("node {node}"),
                match leads_to {
                    Some(other) => format!("its route to {address} leads to {other} and not to {link}"),
                    None => format!("it has no route to {address} on {link}"),
                },
                "the agent puts its routes back at once unless another's stands in the way: condition RoutesInstalled, `ip route` on the node",
            )
            .on(node),
            Self::RouteOfNobody { node, address, link } => Finding::warning(
                format!("node {node}"),
                format!("it has a route to {address} on {link}, and no pod there has that address"),
                format!("the agent takes it away at its next look; now: `ip route del {address} dev {link}` on the node"),
            )
            .on(node),
            Self::Guard { node, holder, wrong } => Finding {
                weight: if wrong.is_harmless() { Weight::Note } else { Weight::Error },
                ..Finding::error(
                    holder.as_ref().map_or_else(|| format!("node {node}"), |holder| format!("pod {holder}")),
                    wrong.of_link(),
                    "the agent puts guards right within a minute; if this stays, restart the pod, and find who changes nftables",
                )
                .on(node)
            },
            // All others are told above.
            other => Finding::error("addresses", format!("{other:?}"), ""),
        }
    }
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
