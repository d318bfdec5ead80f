//! What is collected: objects, events, logs, and what nodes answer. Each is fetched by itself, so that one that cannot be
//! had keeps no other away.

use std::collections::BTreeMap;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, DynamicObject, ListParams, LogParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt as _};
use manx_facts::Ask;
use manx_facts::bgp::{Routes, RoutesQuestion, Side};
use manx_facts::kernel::KernelQuestion;
use manx_facts::node::NodeQuestion;
use manx_facts::record::RecordQuestion;
use serde::Serialize;
use serde_json::{Value, json};

use crate::ask::Nodes;

/// Lines of a log that are taken, from its end.
const LINES: i64 = 20_000;
/// Pods that are listed.
const PODS: u32 = 20_000;
/// Events that are listed.
const EVENTS: u32 = 5_000;
/// Beginning of the keys of annotations and labels that are ours.
const OURS: &str = "manx.dev/";
/// Routes of one table of one node that are taken, in the order of prefixes.
const ROUTES: u32 = 20_000;
/// The tables of BGP.
const TABLES: [(Side, &str, &str); 3] = [
    (Side::Best, "best", "BGP: each prefix with its best path, or the first 20,000"),
    (Side::In, "in", "BGP: what its peers said and what became of it, the same"),
    (Side::Out, "out", "BGP: what its peers are told, the same"),
];
const KINDS: [(&str, &str); 7] = [
    ("NodeNetwork", "nodenetworks"),
    ("IPPool", "ippools"),
    ("IPBlock", "ipblocks"),
    ("IPClaim", "ipclaims"),
    ("BGPConfiguration", "bgpconfigurations"),
    ("BGPPeer", "bgppeers"),
    ("BGPFilter", "bgpfilters"),
];

type Text = BoxFuture<'static, Result<String, String>>;

/// One file to be.
pub(super) struct Item {
    /// Where it goes.
    pub(super) path: String,
    /// What it is.
    pub(super) about: &'static str,
    /// Fetches it; empty if there is none, an error if it could not be had.
    pub(super) text: Text,
}

fn item(path: impl Into<String>, about: &'static str, text: Text) -> Item {
    Item { path: path.into(), about, text }
}

fn words(error: impl Into<anyhow::Error>) -> String {
    format!("{:#}", error.into())
}

fn yaml<T: Serialize>(value: &T) -> Result<String, String> {
    serde_yaml_ng::to_string(value).map_err(words)
}

/// Objects: ours whole, of others what matters to us.
pub(super) fn objects(client: &Client, namespace: &str) -> Vec<Item> {
    let mut items: Vec<Item> = KINDS
        .iter()
        .map(|(kind, plural)| {
            let resource = ApiResource::from_gvk_with_plural(
                &GroupVersionKind::gvk("manx.dev", "v1alpha1", kind),
                plural,
            );
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
            item(format!("objects/{plural}.yaml"), "all of that kind", ours(api).boxed())
        })
        .collect();
    let all = |limit| ListParams::default().limit(limit);
    let nodes: Api<Node> = Api::all(client.clone());
    items.push(item(
        "objects/nodes.yaml",
        "names, addresses, labels, taints and conditions of Nodes",
        async move {
            let list = nodes.list(&ListParams::default()).await.map_err(words)?;
            yaml(&list.items.iter().map(node).collect::<Vec<_>>())
        }
        .boxed(),
    ));
    let pods: Api<Pod> = Api::all(client.clone());
    items.push(item(
        "objects/pods.yaml",
        "names, nodes, addresses and states of pods",
        async move {
            let list = pods.list(&all(PODS)).await.map_err(words)?;
            yaml(&list.items.iter().map(pod).collect::<Vec<_>>())
        }
        .boxed(),
    ));
    let events: Api<Event> = Api::all(client.clone());
    let namespace = namespace.to_owned();
    items.push(item(
        "objects/events.yaml",
        "events of Manx, of its pods and of its objects",
        async move {
            let list = events.list(&all(EVENTS)).await.map_err(words)?;
            yaml(&list.items.iter().filter(|event| concerns(event, &namespace)).map(told).collect::<Vec<_>>())
        }
        .boxed(),
    ));
    items
}

async fn ours(api: Api<DynamicObject>) -> Result<String, String> {
    let list = api.list(&ListParams::default()).await.map_err(words)?;
    let mut objects = list.items;
    for object in &mut objects {
        object.metadata.managed_fields = None;
        object.annotations_mut().retain(|key, _| key.starts_with(OURS));
    }
    yaml(&objects)
}

fn node(node: &Node) -> Value {
    let (spec, status) = (node.spec.clone().unwrap_or_default(), node.status.clone().unwrap_or_default());
    let annotations = node.annotations().iter().filter(|(key, _)| key.starts_with(OURS));
    json!({
        "name": node.name_any(),
        "created": node.metadata.creation_timestamp,
        "labels": node.labels(),
        "annotations": annotations.collect::<BTreeMap<_, _>>(),
        "podCIDRs": spec.pod_cidrs,
        "taints": spec.taints,
        "unschedulable": spec.unschedulable,
        "addresses": status.addresses,
        "conditions": status.conditions,
        "nodeInfo": status.node_info,
    })
}

fn pod(pod: &Pod) -> Value {
    let (spec, status) = (pod.spec.clone().unwrap_or_default(), pod.status.clone().unwrap_or_default());
    let annotations = pod.annotations().iter().filter(|(key, _)| key.starts_with(OURS));
    let state = |container: &k8s_openapi::api::core::v1::ContainerStatus| {
        let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
        json!({
            "name": container.name,
            "ready": container.ready,
            "restarts": container.restart_count,
            "waits": waiting.and_then(|waiting| waiting.reason.clone()),
        })
    };
    json!({
        "namespace": pod.namespace(),
        "name": pod.name_any(),
        "uid": pod.uid(),
        "created": pod.metadata.creation_timestamp,
        "deleted": pod.metadata.deletion_timestamp,
        "annotations": annotations.collect::<BTreeMap<_, _>>(),
        "node": spec.node_name,
        "hostNetwork": spec.host_network,
        "phase": status.phase,
        "addresses": status.pod_ips,
        "containers": status.container_statuses.iter().flatten().map(state).collect::<Vec<_>>(),
    })
}

/// Whether an event is of ours: told by us, or about our pods and objects.
fn concerns(event: &Event, namespace: &str) -> bool {
    let by = [
        &event.reporting_controller,
        &event.deprecated_source.as_ref().and_then(|source| source.component.clone()),
    ];
    let about = event.regarding.as_ref();
    let here = about.is_some_and(|about| about.namespace.as_deref() == Some(namespace));
    let of_kind = about
        .is_some_and(|about| about.api_version.as_deref().is_some_and(|api| api.starts_with("manx.dev/")));
    let of_node = about.is_some_and(|about| about.kind.as_deref() == Some("Node"));
    here || of_kind || of_node || by.into_iter().flatten().any(|by| by.contains("manx"))
}

fn told(event: &Event) -> Value {
    json!({
        "when": event.series.as_ref().map(|series| series.last_observed_time.clone()).or_else(|| event.event_time.clone()),
        "lastTimestamp": event.deprecated_last_timestamp,
        "type": event.type_,
        "reason": event.reason,
        "by": event.reporting_controller,
        "regarding": event.regarding.as_ref().map(|about| json!({
            "kind": about.kind, "namespace": about.namespace, "name": about.name,
        })),
        "note": event.note,
    })
}

/// Logs of our pods, and those before their last start.
pub(super) async fn logs(client: &Client, namespace: &str) -> Vec<Item> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pods = match api.list(&ListParams::default().labels("app.kubernetes.io/part-of=manx")).await {
        Ok(pods) => pods.items,
        Err(error) => {
            let why = words(error);
            return vec![item("logs", "", async move { Err(why) }.boxed())];
        }
    };
    let mut items = Vec::new();
    for pod in &pods {
        let status = pod.status.clone().unwrap_or_default();
        let containers =
            status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
        for container in containers {
            let name = format!("logs/{}-{}", pod.name_any(), container.name);
            let log = |previous| log(api.clone(), pod.name_any(), container.name.clone(), previous).boxed();
            items.push(item(format!("{name}.log"), "log of that container", log(false)));
            if container.last_state.as_ref().is_some_and(|state| state.terminated.is_some()) {
                items.push(item(format!("{name}-previous.log"), "its log before its last start", log(true)));
            }
        }
    }
    items
}

async fn log(api: Api<Pod>, pod: String, container: String, previous: bool) -> Result<String, String> {
    let how =
        LogParams { container: Some(container), previous, tail_lines: Some(LINES), ..LogParams::default() };
    api.logs(&pod, &how).await.map_err(words)
}

/// What each node answers.
pub(super) fn nodes(nodes: &Nodes) -> Vec<Item> {
    let mut items = Vec::new();
    for name in nodes.names() {
        let path = |what: &str| format!("nodes/{name}/{what}.json");
        let about_kernel = "links, addresses, routes, rules, neighbours and settings";
        items.push(item(
            path("node"),
            "version, kernel, and how its agent is",
            answer(nodes, name, NodeQuestion::default()),
        ));
        items.push(item(path("kernel"), about_kernel, answer(nodes, name, KernelQuestion::default())));
        for (side, what, about) in TABLES {
            let table = table(nodes.clone(), name.to_owned(), side);
            items.push(item(format!("nodes/{name}/bgp-{what}.jsonl"), about, table.boxed()));
        }
        items.push(item(
            path("record"),
            "blocks and pods by the agent's record",
            answer(nodes, name, RecordQuestion::default()),
        ));
    }
    items
}

/// A table of BGP: a line that says what it is and whether it is all, and then a line for each route.
async fn table(nodes: Nodes, node: String, side: Side) -> Result<String, String> {
    let question = RoutesQuestion { side, peer: None, within: None, most: ROUTES };
    let routes = nodes.ask(&node, &question).await.map_err(|away| away.to_string())?;
    lines(side, &routes)
}

fn lines(side: Side, table: &Routes) -> Result<String, String> {
    let mut peers: BTreeMap<&str, usize> = BTreeMap::new();
    for route in &table.routes {
        *peers.entry(route.peer.as_deref().unwrap_or("its own")).or_default() += 1;
    }
    let cut = (table.left_out > 0).then(|| format!("cut: {} more routes are left out", table.left_out));
    let head = json!({"side": side, "routes": table.routes.len(), "peers": peers, "cut": cut});
    let mut text = head.to_string();
    for route in &table.routes {
        text.push('\n');
        text.push_str(&serde_json::to_string(route).map_err(words)?);
    }
    Ok(text + "\n")
}

fn answer<A>(nodes: &Nodes, node: &str, ask: A) -> Text
where
    A: Ask + Send + Sync + 'static,
    A::Answer: Serialize + Send,
{
    let (nodes, node) = (nodes.clone(), node.to_owned());
    async move {
        let answer = nodes.ask(&node, &ask).await.map_err(|away| away.to_string())?;
        serde_json::to_string_pretty(&answer).map_err(words)
    }
    .boxed()
}

#[cfg(test)]
mod tests {
    use manx_facts::bgp::RouteLine;

    use super::*;

    #[test]
    fn of_pods_and_nodes_only_what_matters_is_taken() {
        let object = json!({
            "metadata": {"name": "x", "namespace": "y", "labels": {"zone": "a"}, "annotations": {
                "manx.dev/pools": "a", "kubectl.kubernetes.io/last-applied-configuration": "hunter2",
            }},
            "spec": {"nodeName": "n", "containers": [
                {"name": "c", "env": [{"name": "KEY", "value": "hunter2"}], "args": ["hunter2"]},
            ]},
            "status": {"podIPs": [{"ip": "10.0.0.1"}]},
        });
        let text = pod(&serde_json::from_value(object).expect("a pod")).to_string();
        assert!(
            text.contains("10.0.0.1") && text.contains("manx.dev/pools") && !text.contains("hunter2"),
            "{text}"
        );
        let object = json!({"metadata": {"name": "n", "annotations": {"other": "hunter2"}},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}});
        let text = node(&serde_json::from_value(object).expect("a node")).to_string();
        assert!(text.contains("192.0.2.1") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn a_table_says_how_much_of_it_is_left_out() {
        let route = |peer: Option<&str>| RouteLine {
            prefix: "10.0.0.0/26".parse().expect("a network"),
            peer: peer.map(str::to_owned),
            attributes: Default::default(),
            verdict: "best".to_owned(),
            selected: true,
        };
        let table = Routes { routes: vec![route(Some("peer/tor")), route(None)], left_out: 7 };
        let text = lines(Side::In, &table).expect("written");
        let all: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
        assert_eq!(all.len(), 3);
        assert_eq!(all[0]["cut"], "cut: 7 more routes are left out");
        assert_eq!(all[0]["peers"], json!({"peer/tor": 1, "its own": 1}));
        assert_eq!((&all[1]["prefix"], &all[1]["peer"]), (&json!("10.0.0.0/26"), &json!("peer/tor")));
        let whole = lines(Side::Best, &Routes::default()).expect("written");
        assert_eq!(whole, "{\"cut\":null,\"peers\":{},\"routes\":0,\"side\":\"best\"}\n");
    }
}
