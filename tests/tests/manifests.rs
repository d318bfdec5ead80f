//! What is under `deploy`, looked at without a cluster: every object is what its kind allows, the ways to install agree
//! with each other, and every container is as careful as it can be.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::{apps, batch, core, policy, rbac};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions;
use manx_tests::kubernetes::binary;
use serde::Serialize;
use serde::de::{Deserialize as _, DeserializeOwned};
use serde_json::Value;

/// The ways to install, as folders of kustomize.
const OVERLAYS: [&str; 6] = ["dual-stack", "full-mesh", "ipv6", "monitoring", "single-node", "tor"];

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path)
}

/// The objects of a text.
fn objects(text: &str) -> Vec<Value> {
    let documents = serde_yaml_ng::Deserializer::from_str(text).map(Value::deserialize);
    documents.map(|object| object.expect("YAML")).filter(|object| !object.is_null()).collect()
}

fn read(path: &str) -> Vec<Value> {
    objects(&std::fs::read_to_string(deploy(path)).expect("it is there"))
}

/// One of Kubernetes' programs; without it a test is skipped, which is a failure in CI.
fn program(name: &str) -> Option<PathBuf> {
    let program = binary(name);
    if program.exists() {
        return Some(program);
    }
    assert!(std::env::var_os("CI").is_none(), "{} is missing", program.display());
    eprintln!("skipped: {} is missing (`cargo xtask kubernetes` builds it)", program.display());
    None
}

/// What a program prints, or what it says when it fails.
fn output(program: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output().expect("it can be run");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

fn kustomize(kubectl: &Path, folder: &str) -> Vec<Value> {
    objects(&output(kubectl, &["kustomize", &deploy(folder).display().to_string()]).expect("it renders"))
}

/// Everything that ships, by where it comes from.
fn shipped() -> BTreeMap<String, Vec<Value>> {
    let mut shipped: BTreeMap<String, Vec<Value>> = ["manx.yaml", "uninstall.yaml", "base/rbac.yaml"]
        .into_iter()
        .map(|path| (path.to_owned(), read(path)))
        .collect();
    if let Some(kubectl) = program("kubectl") {
        for overlay in OVERLAYS {
            let folder = format!("overlays/{overlay}");
            let objects = kustomize(&kubectl, &folder);
            shipped.insert(folder, objects);
        }
    }
    shipped
}

fn name(object: &Value) -> String {
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    format!("{} {}/{}", text("/kind"), text("/metadata/namespace"), text("/metadata/name"))
}

/// The objects by what they are called; none twice.
fn by_name(objects: Vec<Value>) -> BTreeMap<String, Value> {
    let count = objects.len();
    let named: BTreeMap<String, Value> = objects.into_iter().map(|object| (name(&object), object)).collect();
    assert_eq!(named.len(), count, "one is there twice");
    named
}

/// The object as its type understands it.
fn as_type<K: DeserializeOwned + Serialize>(object: &Value) -> Value {
    let typed: K = serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{object}: {error}"));
    serde_json::to_value(typed).expect("plain data")
}

fn understood(object: &Value) -> Value {
    match object["kind"].as_str().expect("a kind") {
        "Namespace" => as_type::<core::v1::Namespace>(object),
        "CustomResourceDefinition" => as_type::<apiextensions::v1::CustomResourceDefinition>(object),
        "ServiceAccount" => as_type::<core::v1::ServiceAccount>(object),
        "ConfigMap" => as_type::<core::v1::ConfigMap>(object),
        "ClusterRole" => as_type::<rbac::v1::ClusterRole>(object),
        "ClusterRoleBinding" => as_type::<rbac::v1::ClusterRoleBinding>(object),
        "Role" => as_type::<rbac::v1::Role>(object),
        "RoleBinding" => as_type::<rbac::v1::RoleBinding>(object),
        "DaemonSet" => as_type::<apps::v1::DaemonSet>(object),
        "Deployment" => as_type::<apps::v1::Deployment>(object),
        "PodDisruptionBudget" => as_type::<policy::v1::PodDisruptionBudget>(object),
        "Job" => as_type::<batch::v1::Job>(object),
        "IPPool" => as_type::<manx_api::IPPool>(object),
        "BGPConfiguration" => as_type::<manx_api::BGPConfiguration>(object),
        "BGPPeer" => as_type::<manx_api::BGPPeer>(object),
        "BGPFilter" => as_type::<manx_api::BGPFilter>(object),
        // Of the Prometheus operator.
        "PodMonitor" => object.clone(),
        kind => panic!("{kind} is not among the kinds that ship"),
    }
}

/// Fields that are written and that the type does not know.
fn lost(written: &Value, known: &Value, at: &str) -> Vec<String> {
    match (written, known) {
        (Value::Object(written), Value::Object(known)) => written
            .iter()
            .flat_map(|(field, value)| match known.get(field) {
                Some(known) => lost(value, known, &format!("{at}.{field}")),
                None => vec![format!("{at}.{field}")],
            })
            .collect(),
        (Value::Array(written), Value::Array(known)) if written.len() == known.len() => {
            written.iter().zip(known).flat_map(|(written, known)| lost(written, known, at)).collect()
        }
        (Value::Number(written), Value::Number(known)) if written.as_f64() == known.as_f64() => Vec::new(),
        (written, known) if written == known => Vec::new(),
        (written, known) => vec![format!("{at}: {written} is read as {known}")],
    }
}

fn workloads(objects: &[Value]) -> impl Iterator<Item = &Value> {
    objects.iter().filter(|object| object.pointer("/spec/template/spec").is_some())
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers"].into_iter().flat_map(|list| pod[list].as_array().into_iter().flatten())
}

#[test]
fn every_object_has_only_fields_that_its_kind_knows() {
    for (source, objects) in shipped() {
        for object in &objects {
            let lost = lost(object, &understood(object), "");
            assert!(lost.is_empty(), "{source}: {}: {lost:?}", name(object));
        }
    }
}

#[test]
fn the_one_file_is_what_kustomize_makes_of_the_same_folder() {
    let Some(kubectl) = program("kubectl") else { return };
    let whole = by_name(read("manx.yaml"));
    let folder = by_name(kustomize(&kubectl, "overlays/full-mesh"));
    assert_eq!(whole.keys().collect::<Vec<_>>(), folder.keys().collect::<Vec<_>>());
    for (name, object) in &whole {
        assert_eq!(object, &folder[name], "{name}");
    }
}

#[test]
fn the_objects_to_begin_with_are_ones_that_the_controller_makes() {
    for (source, objects_there) in shipped() {
        let maps = objects_there.iter().filter(|object| object["metadata"]["name"] == "manx-defaults");
        for (file, text) in maps.flat_map(|map| map["data"].as_object().expect("data")) {
            let made = objects(text.as_str().expect("text"));
            assert!(!made.is_empty(), "{source}: {file}");
            for object in &made {
                let kinds = ["IPPool", "BGPConfiguration", "BGPPeer", "BGPFilter"];
                assert!(kinds.contains(&object["kind"].as_str().expect("a kind")), "{source}: {object}");
                let lost = lost(object, &understood(object), "");
                assert!(lost.is_empty(), "{source}: {}: {lost:?}", name(object));
            }
        }
    }
}

#[test]
fn every_container_has_limits_a_known_image_and_no_more_rights_than_it_needs() {
    let image = format!("manx:{}", env!("CARGO_PKG_VERSION"));
    for (source, objects) in shipped() {
        for object in workloads(&objects) {
            let pod = &object["spec"]["template"]["spec"];
            for container in containers(pod) {
                let place = format!("{source}: {}: {}", name(object), container["name"]);
                assert_eq!(container["image"], *image, "{place}");
                assert_eq!(container["imagePullPolicy"], "IfNotPresent", "{place}");
                for field in
                    ["/resources/requests/cpu", "/resources/requests/memory", "/resources/limits/memory"]
                {
                    assert!(container.pointer(field).is_some(), "{place}: {field}");
                }
                let program = container["command"][0].as_str().unwrap_or_default();
                assert!(program.starts_with("/usr/bin/manx-"), "{place}: there is no shell in the image");
                let security = &container["securityContext"];
                assert_eq!(security["capabilities"]["drop"][0], "ALL", "{place}");
                assert_eq!(security["readOnlyRootFilesystem"], true, "{place}");
                assert_eq!(security["allowPrivilegeEscalation"], false, "{place}");
                assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{place}");
            }
        }
    }
}

#[test]
fn probes_ask_the_container_itself() {
    for (source, objects) in shipped() {
        for object in workloads(&objects) {
            for container in containers(&object["spec"]["template"]["spec"]) {
                for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
                    let host = container.pointer(&format!("/{probe}/httpGet/host"));
                    let none = container.get(probe).is_none();
                    assert!(none || host.is_some_and(|host| host == "127.0.0.1"), "{source}: {container}");
                }
            }
        }
    }
}

#[test]
fn no_role_grants_everything_or_all_secrets() {
    for object in read("base/rbac.yaml") {
        for rule in object["rules"].as_array().into_iter().flatten() {
            let words: BTreeSet<&str> = ["apiGroups", "resources", "verbs"]
                .iter()
                .flat_map(|list| rule[list].as_array().into_iter().flatten())
                .filter_map(Value::as_str)
                .collect();
            let wide = ["*", "escalate", "bind", "impersonate", "deletecollection"];
            assert!(wide.iter().all(|word| !words.contains(word)), "{}: {rule}", name(&object));
            let secrets = words.contains("secrets") || words.contains("configmaps");
            assert!(!secrets || object["kind"] == "Role", "{}: {rule}", name(&object));
        }
    }
}

/// What the chart makes with these values, or why it refuses them.
fn chart(helm: &Path, values: &[&str]) -> Result<Vec<Value>, String> {
    let folder = deploy("helm/manx").display().to_string();
    let mut arguments =
        vec!["template", "manx", &folder, "--namespace", "kube-system", "--kube-version", "1.32.6"];
    arguments.extend(values.iter().flat_map(|value| ["--set-json", value]));
    output(helm, &arguments).map(|text| objects(&text))
}

/// Without what only Helm needs, and with the objects inside the map as objects.
fn without_helm(mut objects_there: Vec<Value>) -> BTreeMap<String, Value> {
    for object in &mut objects_there {
        let metadata = object["metadata"].as_object_mut().expect("metadata");
        if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
            annotations.remove("helm.sh/resource-policy");
            if annotations.is_empty() {
                metadata.remove("annotations");
            }
        }
        if object["metadata"]["name"] == "manx-defaults" {
            for text in object["data"].as_object_mut().expect("data").values_mut() {
                *text = Value::Array(objects(text.as_str().expect("text")));
            }
        }
    }
    by_name(objects_there)
}

#[test]
fn the_chart_makes_the_objects_of_the_one_file() {
    let Some(helm) = program("helm") else { return };
    let chart = chart(&helm, &[]).expect("it renders");
    let kept = |object: &&Value| object.pointer("/metadata/annotations/helm.sh~1resource-policy").is_some();
    assert_eq!(chart.iter().filter(kept).count(), 7, "the definitions outlive a release");
    let (chart, whole) = (without_helm(chart), without_helm(read("manx.yaml")));
    assert_eq!(chart.keys().collect::<Vec<_>>(), whole.keys().collect::<Vec<_>>());
    for (name, object) in &whole {
        assert_eq!(&chart[name], object, "{name}");
    }
}

#[test]
fn every_value_of_the_chart_arrives() {
    let Some(helm) = program("helm") else { return };
    let changed = chart(
        &helm,
        &[
            "namespace=\"net\"",
            "createNamespace=false",
            "crds.install=false",
            "image={\"repository\":\"registry.example.com/manx\",\"tag\":\"1.2.3\",\"pullSecrets\":[\"key\"]}",
            "kubernetesEndpoint={\"host\":\"192.0.2.10\",\"port\":6443}",
            "defaults={\"configuration\":{\"asNumber\":4200000000},\"pools\":[],\
             \"peers\":[{\"name\":\"tor\",\"spec\":{\"peerIP\":\"192.0.2.1\",\"asNumber\":65000}}]}",
            "agent={\"extraArgs\":[\"--mtu=9000\"],\"metricsListen\":\"[::]:9181\",\"maxUnavailable\":\"10%\",\
             \"cniBinDir\":\"/var/lib/cni/bin\",\"nodeSelector\":{\"a\":\"b\"}}",
            "controller={\"replicas\":1,\"metricsListen\":\"[::]:9280\",\"nodeGrace\":\"10m\"}",
            "podMonitor.enabled=true",
        ],
    )
    .expect("they are allowed");
    let text = serde_json::to_string(&changed).expect("plain data");
    for expected in [
        "registry.example.com/manx:1.2.3",
        "\"imagePullSecrets\":[{\"name\":\"key\"}]",
        "\"KUBERNETES_SERVICE_HOST\":\"192.0.2.10\"",
        "asNumber: 4200000000",
        "kind: BGPPeer",
        "--mtu=9000",
        "\"maxUnavailable\":\"10%\"",
        "\"path\":\"/var/lib/cni/bin\"",
        "\"nodeSelector\":{\"a\":\"b\"}",
        "\"replicas\":1",
        "\"port\":9280",
        "--node-grace=10m",
        "[$1]:9181",
        "[$1]:9280",
    ] {
        assert!(text.contains(expected), "{expected} is not in {text}");
    }
    for gone in ["manx-system", "CustomResourceDefinition", "kind: IPPool", "\"kind\":\"Namespace\""] {
        assert!(!text.contains(gone), "{gone}");
    }
}

#[test]
fn the_chart_refuses_values_that_it_does_not_know_and_says_which() {
    let Some(helm) = program("helm") else { return };
    for (value, expected) in [
        ("agents={}", "Additional property agents is not allowed"),
        ("agent.mtu=9000", "agent: Additional property mtu is not allowed"),
        ("controller.replicas=0", "controller.replicas: Must be greater than or equal to 1"),
        ("controller.nodeGrace=\"5 minutes\"", "controller.nodeGrace: Does not match pattern"),
        ("controller.metricsListen=\"9180\"", "controller.metricsListen: Does not match pattern"),
        ("agent.maxUnavailable=0", "agent.maxUnavailable"),
        ("agent.extraArgs=[\"mtu=9000\"]", "agent.extraArgs.0: Does not match pattern"),
        ("image.pullPolicy=\"Sometimes\"", "image.pullPolicy"),
        ("defaults.pools=[{\"name\":\"v4\",\"spec\":{}}]", "defaults.pools.0.spec: cidr is required"),
        ("defaults.pools=[{\"name\":\"v4\",\"cidr\":\"10.0.0.0/8\"}]", "spec is required"),
        ("podMonitor.enabled=true", "podMonitor needs agent.metricsListen"),
    ] {
        let refusal = chart(&helm, &[value]).expect_err(value);
        assert!(refusal.contains(expected), "{value}: {refusal}");
    }
}
