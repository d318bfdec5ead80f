//! The real kubectl against the server: what it prints, and that its verbs work.

use std::path::{Path, PathBuf};
use std::process::{Command as Blocking, Stdio};
use std::time::Duration;

use kube::api::{Patch, PatchParams, PostParams};
use manx_tests::kubernetes::binary;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::cluster::Cluster;

crate::tests![
    get_prints_the_declared_columns,
    get_prints_the_usual_columns_of_nodes_and_pods,
    get_watch_prints_each_change,
    apply_creates_configures_and_leaves_alone,
    server_side_apply_names_the_conflict,
    unknown_fields_are_refused_by_name,
    label_annotate_and_patch_change_the_object,
    delete_waits_for_the_last_finalizer,
    describe_shows_the_object_and_its_events,
    create_makes_the_small_kinds,
];

/// Whether kubectl is on the PATH.
pub(crate) fn is_there() -> bool {
    let mut version = Blocking::new("kubectl");
    version.args(["version", "--client"]).stdout(Stdio::null()).stderr(Stdio::null());
    version.status().is_ok_and(|status| status.success())
}

/// kubectl with a kubeconfig and a home of its own.
pub(crate) struct Kubectl {
    program: PathBuf,
    folder: TempDir,
}

impl Kubectl {
    /// The one on the PATH.
    fn new(cluster: &Cluster) -> Self {
        Self::at(PathBuf::from("kubectl"), cluster)
    }

    /// The one that the tests were built with.
    pub(crate) fn of_the_tests(cluster: &Cluster) -> Self {
        Self::at(binary("kubectl"), cluster)
    }

    fn at(program: PathBuf, cluster: &Cluster) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("kubeconfig"), &cluster.kubeconfig).expect("written");
        Self { program, folder }
    }

    /// Its home.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where the server is, and as whom to ask it.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder().join("kubeconfig")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("KUBECONFIG", self.kubeconfig());
        command.env("HOME", self.folder()).current_dir(self.folder());
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Standard output of a call that has to succeed and must not be warned.
    pub(crate) async fn ok_without_warning(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().await.expect("kubectl runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "kubectl {}: {said}", arguments.join(" "));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Standard output and standard error of a call, and whether it succeeded.
    async fn call(&self, arguments: &[&str]) -> (bool, String) {
        let output = self.command(arguments).output().await.expect("kubectl runs");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// Output of a call that has to succeed.
    async fn ok(&self, arguments: &[&str]) -> String {
        let (success, text) = self.call(arguments).await;
        assert!(success, "kubectl {}: {text}", arguments.join(" "));
        text
    }

    fn file(&self, name: &str, content: &serde_json::Value) {
        std::fs::write(self.folder().join(name), content.to_string()).expect("written");
    }
}

fn rows(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split_whitespace().collect()).collect()
}

async fn get_prints_the_declared_columns(cluster: Cluster) {
    let widgets = cluster.widgets().await;
    widgets.create(&PostParams::default(), &cluster.widget("a", &json!({"size": 3}))).await.expect("valid");
    let patch = Patch::Merge(json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}));
    widgets.patch_status("a", &PatchParams::default(), &patch).await.expect("valid");
    let kubectl = Kubectl::new(&cluster);
    let plural = format!("widgets.{}", cluster.group());
    let text = kubectl.ok(&["get", &plural]).await;
    let table = rows(&text);
    assert_eq!(table[0], ["NAME", "SIZE", "READY", "AGE"]);
    assert_eq!(table[1][..3], ["a", "3", "True"]);
    let wide = kubectl.ok(&["get", &plural, "a", "-o", "wide"]).await;
    assert_eq!(rows(&wide)[0], ["NAME", "SIZE", "COLOUR", "READY", "AGE"]);
    assert_eq!(rows(&wide)[1][..4], ["a", "3", "Green", "True"]);
    let yaml = kubectl.ok(&["get", &plural, "a", "-o", "yaml"]).await;
    assert!(yaml.contains("colour: Green"), "{yaml}");
    let none = kubectl.ok(&["get", &plural, "-l", "x=y"]).await;
    assert!(none.starts_with("No resources found"), "{none}");
}

async fn get_prints_the_usual_columns_of_nodes_and_pods(cluster: Cluster) {
    let (namespace, kubectl) = (cluster.namespace().await, Kubectl::new(&cluster));
    kubectl.file("node", &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": cluster.scope}}));
    kubectl.file(
        "pod",
        &json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": namespace},
            "spec": {"nodeName": cluster.scope, "containers": [{"name": "c", "image": "i"}]},
        }),
    );
    kubectl.ok(&["create", "-f", "node", "-f", "pod"]).await;
    let nodes = kubectl.ok(&["get", "node", &cluster.scope]).await;
    assert_eq!(rows(&nodes)[0], ["NAME", "STATUS", "ROLES", "AGE", "VERSION"]);
    assert_eq!(rows(&nodes)[1][..3], [cluster.scope.as_str(), "Unknown", "<none>"]);
    let pods = kubectl.ok(&["get", "pods", "-n", &namespace, "-o", "wide"]).await;
    assert_eq!(rows(&pods)[1][..4], ["a", "0/1", "Pending", "0"]);
    assert_eq!(rows(&pods)[1][5..7], ["<none>", cluster.scope.as_str()]);
    kubectl.ok(&["delete", "-f", "node", "-f", "pod", "--force", "--grace-period=0"]).await;
}

async fn get_watch_prints_each_change(cluster: Cluster) {
    let widgets = cluster.widgets().await;
    widgets.create(&PostParams::default(), &cluster.widget("a", &json!({"size": 1}))).await.expect("valid");
    let kubectl = Kubectl::new(&cluster);
    let plural = format!("widgets.{}", cluster.group());
    let mut command = kubectl.command(&["get", &plural, "--watch"]);
    let mut watching = command.stdout(Stdio::piped()).spawn().expect("kubectl runs");
    let mut lines = BufReader::new(watching.stdout.take().expect("piped")).lines();
    let mut next = async || lines.next_line().await.expect("readable").expect("not the end");
    assert!(next().await.starts_with("NAME"));
    assert_eq!(rows(&next().await)[0][..2], ["a", "1"]);
    let patch = Patch::Merge(json!({"spec": {"size": 2}}));
    widgets.patch("a", &PatchParams::default(), &patch).await.expect("valid");
    assert_eq!(rows(&next().await)[0][..2], ["a", "2"]);
}

async fn apply_creates_configures_and_leaves_alone(cluster: Cluster) {
    cluster.widgets().await;
    let kubectl = Kubectl::new(&cluster);
    let widget = |spec| {
        json!({
            "apiVersion": format!("{}/v1", cluster.group()), "kind": "Widget",
            "metadata": {"name": "a"}, "spec": spec,
        })
    };
    kubectl.file("widget", &widget(json!({"size": 1, "title": "one"})));
    assert!(kubectl.ok(&["apply", "-f", "widget"]).await.contains("created"));
    assert!(kubectl.ok(&["apply", "-f", "widget"]).await.contains("unchanged"));
    kubectl.file("widget", &widget(json!({"size": 2})));
    assert!(kubectl.ok(&["apply", "-f", "widget"]).await.contains("configured"));
    let plural = format!("widgets.{}", cluster.group());
    let spec = kubectl.ok(&["get", &plural, "a", "-o", "jsonpath={.spec}"]).await;
    assert_eq!(spec, r#"{"colour":"Green","size":2}"#);
    assert!(kubectl.ok(&["delete", "-f", "widget"]).await.contains("deleted"));
}

async fn server_side_apply_names_the_conflict(cluster: Cluster) {
    let widgets = cluster.widgets().await;
    let widget = cluster.widget("a", &json!({"size": 1}));
    widgets.patch("a", &PatchParams::apply("alice"), &Patch::Apply(&widget)).await.expect("valid");
    let kubectl = Kubectl::new(&cluster);
    kubectl.file(
        "widget",
        &json!({
            "apiVersion": format!("{}/v1", cluster.group()), "kind": "Widget",
            "metadata": {"name": "a"}, "spec": {"size": 2},
        }),
    );
    let (success, text) = kubectl.call(&["apply", "--server-side", "-f", "widget"]).await;
    assert!(!success && text.contains("conflict with \"alice\"") && text.contains(".spec.size"), "{text}");
    kubectl.ok(&["apply", "--server-side", "--force-conflicts", "-f", "widget"]).await;
}

async fn unknown_fields_are_refused_by_name(cluster: Cluster) {
    cluster.widgets().await;
    let kubectl = Kubectl::new(&cluster);
    let version = kubectl.ok(&["version", "--client", "-o", "json"]).await;
    let version: serde_json::Value = serde_json::from_str(&version).expect("JSON");
    let minor =
        version["clientVersion"]["minor"].as_str().unwrap_or_default().trim_end_matches('+').parse::<u32>();
    kubectl.file(
        "widget",
        &json!({
            "apiVersion": format!("{}/v1", cluster.group()), "kind": "Widget",
            "metadata": {"name": "a"}, "spec": {"size": 1, "sise": 2},
        }),
    );
    if minor.is_ok_and(|minor| minor < 25) {
        eprintln!("this kubectl leaves no validation to the server: only that it can create is checked");
        kubectl.ok(&["create", "-f", "widget"]).await;
        return;
    }
    let (success, text) = kubectl.call(&["create", "-f", "widget"]).await;
    assert!(!success && text.contains("unknown field \"spec.sise\""), "{text}");
}

async fn label_annotate_and_patch_change_the_object(cluster: Cluster) {
    let widgets = cluster.widgets().await;
    widgets.create(&PostParams::default(), &cluster.widget("a", &json!({"size": 1}))).await.expect("valid");
    let kubectl = Kubectl::new(&cluster);
    let plural = format!("widgets.{}", cluster.group());
    kubectl.ok(&["label", &plural, "a", "x=y"]).await;
    kubectl.ok(&["annotate", &plural, "a", "note=text"]).await;
    kubectl.ok(&["patch", &plural, "a", "--type=merge", "-p", r#"{"spec":{"size":2}}"#]).await;
    let json_patch = r#"[{"op":"replace","path":"/spec/size","value":3}]"#;
    kubectl.ok(&["patch", &plural, "a", "--type=json", "-p", json_patch]).await;
    let found = widgets.get("a").await.expect("there");
    assert_eq!(found.metadata.labels.expect("labels")["x"], "y");
    assert_eq!(found.metadata.annotations.expect("annotations")["note"], "text");
    assert_eq!(found.data["spec"]["size"], 3);
    let (success, text) =
        kubectl.call(&["patch", &plural, "a", "--type=merge", "-p", r#"{"spec":{"size":99}}"#]).await;
    assert!(!success && text.contains("spec.size"), "{text}");
}

async fn delete_waits_for_the_last_finalizer(cluster: Cluster) {
    let widgets = cluster.widgets().await;
    let mut widget = cluster.widget("a", &json!({"size": 1}));
    widget.metadata.finalizers = Some(vec!["example.dev/hold".into()]);
    widgets.create(&PostParams::default(), &widget).await.expect("valid");
    let kubectl = Kubectl::new(&cluster);
    let plural = format!("widgets.{}", cluster.group());
    let mut deleting =
        kubectl.command(&["delete", &plural, "a"]).stdout(Stdio::null()).spawn().expect("kubectl runs");
    while widgets.get("a").await.expect("held").metadata.deletion_timestamp.is_none() {
        tokio::task::yield_now().await;
    }
    let early = tokio::time::timeout(Duration::from_millis(300), deleting.wait()).await;
    assert!(early.is_err(), "kubectl waits for the object to go");
    let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    widgets.patch("a", &PatchParams::default(), &release).await.expect("there");
    let status = tokio::time::timeout(Duration::from_secs(10), deleting.wait()).await.expect("in time");
    assert!(status.expect("it ran").success());
}

async fn describe_shows_the_object_and_its_events(cluster: Cluster) {
    let (namespace, kubectl) = (cluster.namespace().await, Kubectl::new(&cluster));
    kubectl.file(
        "pod",
        &json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": namespace},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
        }),
    );
    kubectl.ok(&["create", "-f", "pod"]).await;
    let uid = kubectl.ok(&["get", "pod", "a", "-n", &namespace, "-o", "jsonpath={.metadata.uid}"]).await;
    kubectl.file(
        "event",
        &json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": "a.1", "namespace": namespace},
            "involvedObject": {"kind": "Pod", "name": "a", "namespace": namespace, "uid": uid},
            "reason": "NoAddress", "message": "the pool is full", "type": "Warning",
            "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:00Z", "count": 1,
            "source": {"component": "manx-agent"},
        }),
    );
    kubectl.ok(&["create", "-f", "event"]).await;
    let text = kubectl.ok(&["describe", "pod", "a", "-n", &namespace]).await;
    assert!(text.contains("Name:") && text.contains("the pool is full"), "{text}");
    let events = kubectl.ok(&["get", "events", "-n", &namespace]).await;
    assert_eq!(rows(&events)[1][1..4], ["Warning", "NoAddress", "pod/a"]);
}

async fn create_makes_the_small_kinds(cluster: Cluster) {
    let kubectl = Kubectl::new(&cluster);
    let namespace = cluster.scope.as_str();
    kubectl.ok(&["create", "namespace", namespace]).await;
    kubectl.ok(&["-n", namespace, "create", "configmap", "a", "--from-literal=k=v"]).await;
    kubectl.ok(&["-n", namespace, "create", "secret", "generic", "a", "--from-literal=k=v"]).await;
    kubectl.ok(&["-n", namespace, "create", "serviceaccount", "a"]).await;
    let value = kubectl.ok(&["-n", namespace, "get", "configmap", "a", "-o", "jsonpath={.data.k}"]).await;
    assert_eq!(value, "v");
    let resources = kubectl.ok(&["api-resources"]).await;
    assert!(resources.contains("configmaps"), "{resources}");
}
