//! Asks the nodes of both ends what they know, has them watch, and sends the probes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::{BoxStream, SelectAll};
use ipnetwork::IpNetwork;
use manx_facts::kernel::KernelQuestion;
use manx_facts::pod::PodQuestion;
use manx_facts::probe::{Lookup, ProbeQuestion, Sight, WatchQuestion};

use super::evidence::{Evidence, NodeEvidence, Target};
use super::target::Journey;
use crate::Context;
use crate::ask::{Away, Nodes};

/// Backends of a Service that are looked at.
const MOST_BACKENDS: usize = 8;
/// Routers that are asked who they are.
const ROUTERS: u8 = 5;
/// How long a node may take until it watches, the probes until they are over, and what was seen until it is told.
const READY: Duration = Duration::from_secs(10);
const PROBES: Duration = Duration::from_secs(12);
const GRACE: Duration = Duration::from_millis(250);
/// Nodes end by themselves after this many milliseconds.
const LONGEST: u32 = 18_000;

/// What comes, and from whom: 0 is the source's node, from 1 on those of the target.
type Tagged = (usize, Result<Sight, Away>);

/// Gathers everything that there is to judge by.
///
/// # Errors
/// When the API server does not say which nodes there are.
pub(crate) async fn gather(journey: Journey, context: &Context) -> Result<Evidence> {
    let nodes = context.nodes().await?;
    let Journey { flow, source, target, sessions_down, views } = journey;
    let ends = far_ends(&target, flow.target);
    let mut around: BTreeSet<IpAddr> = BTreeSet::from([flow.source, flow.target]);
    around.extend(ends.iter().map(|(_, address, _)| *address));
    let around: Vec<IpNetwork> = around.into_iter().map(IpNetwork::from).collect();
    let mut asked = vec![(source.node.clone(), Some(flow.source))];
    asked.extend(ends.into_iter().map(|(node, address, pod)| (node, pod.then_some(address))));
    let known = asked.iter().map(|(node, pod)| know(&nodes, node, *pod, &around));
    let mut known: Vec<NodeEvidence> = join_all(known).await;
    let questions: Vec<WatchQuestion> = asked
        .iter()
        .zip(&known)
        .map(|((_, pod), node)| WatchQuestion {
            flow,
            pod: *pod,
            lookups: if *pod == Some(flow.source) {
                lookups(flow.source, flow.target, node)
            } else {
                Vec::new()
            },
            milliseconds: LONGEST,
        })
        .collect();
    let watched: Vec<(&str, &WatchQuestion)> =
        asked.iter().zip(&questions).map(|((node, _), question)| (&**node, question)).collect();
    let size = mtu(&known[0]);
    // Without the pod's node nobody can send.
    if known[0].away.is_none() {
        drive(&nodes, &watched, size, &mut known).await;
    }
    let here = known.remove(0);
    Ok(Evidence { flow, source, target, here, there: known, sessions_down, views })
}

/// Nodes and addresses of who may be at the far end, and whether each is a pod with a network of its own.
fn far_ends(target: &Target, address: IpAddr) -> Vec<(String, IpAddr, bool)> {
    match target {
        Target::Pod(pod) => vec![(pod.node.clone(), address, true)],
        Target::Node(node) => vec![(node.clone(), address, false)],
        Target::Outside => Vec::new(),
        Target::Service(_, backends) => backends
            .iter()
            .filter_map(|backend| Some((backend.node.clone()?, backend.address, backend.pod.is_some())))
            .take(MOST_BACKENDS)
            .collect(),
    }
}

async fn know(nodes: &Nodes, node: &str, pod: Option<IpAddr>, around: &[IpNetwork]) -> NodeEvidence {
    let kernel = KernelQuestion { around: around.to_vec(), most_routes: 0 };
    let inside = PodQuestion { address: pod, ..PodQuestion::default() };
    let mut evidence = NodeEvidence { node: node.to_owned(), ..NodeEvidence::default() };
    match nodes.ask(node, &kernel).await {
        Ok(kernel) => evidence.kernel = kernel,
        Err(away) => evidence.away = Some(away.to_string()),
    }
    if pod.is_some() && evidence.away.is_none() {
        match nodes.ask(node, &inside).await {
            // A pod of the node's own network has none of its own.
            Ok(pod) if pod.endpoint.is_some() => evidence.pod = Some(pod),
            Ok(_) => {}
            Err(away) => evidence.away = Some(away.to_string()),
        }
    }
    evidence
}

fn lookups(source: IpAddr, target: IpAddr, node: &NodeEvidence) -> Vec<Lookup> {
    let inside = Lookup { inside: true, to: target, from: Some(source), iif: None };
    let outside = node.veth().map(|veth| Lookup {
        inside: false,
        to: target,
        from: Some(source),
        iif: Some(veth.to_owned()),
    });
    std::iter::once(inside).chain(outside).collect()
}

/// The MTU of the pod that sends; 0 if it is not known.
fn mtu(node: &NodeEvidence) -> u16 {
    let Some(pod) = &node.pod else { return 0 };
    let name = pod.endpoint.as_ref().map_or("eth0", |endpoint| &*endpoint.ifname);
    pod.inside.link_named(name).and_then(|link| u16::try_from(link.mtu).ok()).unwrap_or(0)
}

async fn drive(nodes: &Nodes, watched: &[(&str, &WatchQuestion)], size: u16, known: &mut [NodeEvidence]) {
    let mut streams: SelectAll<BoxStream<'static, Tagged>> = SelectAll::new();
    let mut unready = BTreeSet::new();
    for (place, (node, question)) in watched.iter().enumerate().skip(1) {
        if known[place].away.is_none() {
            streams.push(nodes.stream(node, *question).map(move |item| (place, item)).boxed());
            unready.insert(place);
        }
    }
    let ready = async {
        while !unready.is_empty() {
            let Some((place, item)) = streams.next().await else { break };
            if matches!(item, Ok(Sight::Ready) | Err(_)) {
                unready.remove(&place);
            }
            take(known, place, item);
        }
    };
    if tokio::time::timeout(READY, ready).await.is_err() {
        for place in unready {
            known[place].away = Some(Away::Timeout.to_string());
        }
    }
    let (node, watch) = watched[0];
    let probe = ProbeQuestion { watch: watch.clone(), size, routers: ROUTERS };
    streams.push(nodes.stream(node, &probe).map(|item| (0, item)).boxed());
    let sent = async {
        while let Some((place, item)) = streams.next().await {
            let over = place == 0 && matches!(item, Ok(Sight::Done) | Err(_));
            take(known, place, item);
            if over {
                return;
            }
        }
    };
    if tokio::time::timeout(PROBES, sent).await.is_err() {
        known[0].away = Some(Away::Timeout.to_string());
    }
    let rest = async {
        while let Some((place, item)) = streams.next().await {
            take(known, place, item);
        }
    };
    let _over = tokio::time::timeout(GRACE, rest).await;
}

fn take(known: &mut [NodeEvidence], place: usize, item: Result<Sight, Away>) {
    let Some(node) = known.get_mut(place) else { return };
    match item {
        Ok(sight) => node.sights.push(sight),
        Err(away) => node.away = Some(away.to_string()),
    }
}
