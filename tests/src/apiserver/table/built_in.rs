//! Columns of the built-in kinds, as the API server prints them.

use serde_json::Value;

use super::Cell::{self, Computed, Path};
use super::age;
use crate::apiserver::resource::Resource;

/// Heading, type, priority (0: always shown) and cell.
type BuiltInColumn = (&'static str, &'static str, i64, Cell);

const NAME: BuiltInColumn = ("Name", "string", 0, Path(".metadata.name"));
const AGE: BuiltInColumn = ("Age", "date", 0, Path(".metadata.creationTimestamp"));

/// The columns of a built-in kind.
pub(super) fn columns(resource: &Resource) -> &'static [BuiltInColumn] {
    match resource.plural.as_str() {
        "configmaps" => &[NAME, ("Data", "string", 0, Computed(data)), AGE],
        "customresourcedefinitions" => {
            &[NAME, ("Created At", "string", 0, Path(".metadata.creationTimestamp"))]
        }
        "daemonsets" => &[
            NAME,
            ("Desired", "integer", 0, Path(".status.desiredNumberScheduled")),
            ("Ready", "integer", 0, Path(".status.numberReady")),
            AGE,
        ],
        "events" => EVENT,
        "leases" => &[NAME, ("Holder", "string", 0, Path(".spec.holderIdentity")), AGE],
        "namespaces" => &[NAME, ("Status", "string", 0, Path(".status.phase")), AGE],
        "nodes" => NODE,
        "pods" => POD,
        "secrets" => {
            &[NAME, ("Type", "string", 0, Path(".type")), ("Data", "string", 0, Computed(data)), AGE]
        }
        "services" => SERVICE,
        _ => &[NAME, AGE],
    }
}

const NODE: &[BuiltInColumn] = &[
    NAME,
    ("Status", "string", 0, Computed(node_status)),
    ("Roles", "string", 0, Computed(node_roles)),
    AGE,
    ("Version", "string", 0, Path(".status.nodeInfo.kubeletVersion")),
    ("Internal-IP", "string", 1, Computed(|node| node_address(node, "InternalIP"))),
    ("External-IP", "string", 1, Computed(|node| node_address(node, "ExternalIP"))),
    ("OS-Image", "string", 1, Computed(|node| or_unknown(&node["status"]["nodeInfo"]["osImage"]))),
    (
        "Kernel-Version",
        "string",
        1,
        Computed(|node| or_unknown(&node["status"]["nodeInfo"]["kernelVersion"])),
    ),
    (
        "Container-Runtime",
        "string",
        1,
        Computed(|node| or_unknown(&node["status"]["nodeInfo"]["containerRuntimeVersion"])),
    ),
];

const POD: &[BuiltInColumn] = &[
    NAME,
    ("Ready", "string", 0, Computed(pod_ready)),
    ("Status", "string", 0, Computed(pod_status)),
    ("Restarts", "string", 0, Computed(pod_restarts)),
    AGE,
    ("IP", "string", 1, Computed(|pod| or_none(&pod["status"]["podIP"]))),
    ("Node", "string", 1, Computed(|pod| or_none(&pod["spec"]["nodeName"]))),
    ("Nominated Node", "string", 1, Computed(|pod| or_none(&pod["status"]["nominatedNodeName"]))),
    ("Readiness Gates", "string", 1, Computed(|_| "<none>".into())),
];

const EVENT: &[BuiltInColumn] = &[
    (
        "Last Seen",
        "string",
        0,
        Computed(|event| seen(event, &["lastTimestamp", "eventTime", "firstTimestamp"])),
    ),
    ("Type", "string", 0, Path(".type")),
    ("Reason", "string", 0, Path(".reason")),
    ("Object", "string", 0, Computed(event_object)),
    ("Subobject", "string", 1, Path(".involvedObject.fieldPath")),
    ("Source", "string", 1, Computed(event_source)),
    ("Message", "string", 0, Path(".message")),
    ("First Seen", "string", 1, Computed(|event| seen(event, &["firstTimestamp", "eventTime"]))),
    ("Count", "integer", 1, Computed(|event| event["count"].as_i64().unwrap_or(1).into())),
    ("Name", "string", 1, Path(".metadata.name")),
];

const SERVICE: &[BuiltInColumn] = &[
    NAME,
    ("Type", "string", 0, Path(".spec.type")),
    ("Cluster-IP", "string", 0, Computed(|service| or_none(&service["spec"]["clusterIP"]))),
    ("External-IP", "string", 0, Computed(|service| or_none(&service["spec"]["externalIPs"][0]))),
    ("Port(s)", "string", 0, Computed(service_ports)),
    AGE,
];

fn or_none(value: &Value) -> Value {
    value.as_str().filter(|text| !text.is_empty()).unwrap_or("<none>").into()
}

fn or_unknown(value: &Value) -> Value {
    value.as_str().filter(|text| !text.is_empty()).unwrap_or("<unknown>").into()
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn data(object: &Value) -> Value {
    let count = |key: &str| object[key].as_object().map_or(0, |map| map.len());
    (count("data") + count("binaryData")).to_string().into()
}

fn node_status(node: &Value) -> Value {
    let ready = items(&node["status"]["conditions"]).find(|condition| condition["type"] == "Ready");
    let status = match ready.map(|condition| condition["status"] == "True") {
        Some(true) => "Ready",
        Some(false) => "NotReady",
        None => "Unknown",
    };
    let cordoned = node["spec"]["unschedulable"] == true;
    if cordoned { format!("{status},SchedulingDisabled").into() } else { status.into() }
}

fn node_roles(node: &Value) -> Value {
    let labels = node["metadata"]["labels"].as_object().into_iter().flatten();
    let roles: Vec<&str> =
        labels.filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/")).collect();
    if roles.is_empty() { "<none>".into() } else { roles.join(",").into() }
}

fn node_address(node: &Value, kind: &str) -> Value {
    let found = items(&node["status"]["addresses"]).find(|address| address["type"] == kind);
    found.map_or_else(|| "<none>".into(), |address| address["address"].clone())
}

fn pod_ready(pod: &Value) -> Value {
    let total = items(&pod["spec"]["containers"]).count();
    let ready = items(&pod["status"]["containerStatuses"]).filter(|status| status["ready"] == true).count();
    format!("{ready}/{total}").into()
}

fn pod_status(pod: &Value) -> Value {
    let reason = |status: &Value| {
        let state = &status["state"];
        let waiting = state["waiting"]["reason"].as_str();
        waiting.or_else(|| state["terminated"]["reason"].as_str()).map(str::to_owned)
    };
    if pod["metadata"]["deletionTimestamp"].is_string() {
        return "Terminating".into();
    }
    let of_container = items(&pod["status"]["containerStatuses"]).find_map(reason);
    let of_pod = pod["status"]["reason"].as_str().or_else(|| pod["status"]["phase"].as_str());
    of_container.unwrap_or_else(|| of_pod.unwrap_or_default().to_owned()).into()
}

fn pod_restarts(pod: &Value) -> Value {
    let restarts: i64 =
        items(&pod["status"]["containerStatuses"]).filter_map(|s| s["restartCount"].as_i64()).sum();
    restarts.to_string().into()
}

fn seen(event: &Value, fields: &[&str]) -> Value {
    let series = event["series"]["lastObservedTime"].as_str();
    let time = series.or_else(|| fields.iter().find_map(|field| event[*field].as_str()));
    time.map_or_else(|| "<unknown>".to_owned(), age).into()
}

fn event_object(event: &Value) -> Value {
    let of = |key: &str| event["involvedObject"][key].as_str().unwrap_or_default();
    format!("{}/{}", of("kind").to_lowercase(), of("name")).into()
}

fn event_source(event: &Value) -> Value {
    let component = event["source"]["component"].as_str().filter(|component| !component.is_empty());
    let component = component.or_else(|| event["reportingComponent"].as_str()).unwrap_or_default();
    match event["source"]["host"].as_str() {
        Some(host) if !host.is_empty() => format!("{component}, {host}").into(),
        _ => component.into(),
    }
}

fn service_ports(service: &Value) -> Value {
    let ports = items(&service["spec"]["ports"])
        .map(|port| format!("{}/{}", port["port"], port["protocol"].as_str().unwrap_or("TCP")));
    let ports: Vec<String> = ports.collect();
    if ports.is_empty() { "<none>".into() } else { ports.join(",").into() }
}
