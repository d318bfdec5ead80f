//! What scenarios of pods have in common: a namespace of their own, objects, and questions to pods by address.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use manx_tests::kubernetes::{Cluster, LivingPod, cgroup};
use manx_tests::lab::{netns, wait};
use serde_json::{Value, json};

/// The image of pods that answer.
pub(crate) const TOOLBOX: &str = "docker.io/library/toolbox:1";
/// Where pods answer lines over TCP.
const LINES: u16 = 8081;
/// How long pods may take to become Ready: a machine that runs other tests too is slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(5);

/// A namespace that a scenario has for its own.
pub(crate) struct Ground<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) name: &'static str,
    finished: bool,
}

impl<'a> Ground<'a> {
    /// Makes the namespace `name`, with annotations, and waits until pods can be made in it.
    pub(crate) fn new(cluster: &'a Cluster, name: &'static str, annotations: &Value) -> Result<Self> {
        let ground = Self { cluster, name, finished: false };
        ground.create(&json!({"apiVersion": "v1", "kind": "Namespace",
                              "metadata": {"name": name, "annotations": annotations}}))?;
        wait::until("the namespace has a service account", PATIENCE, || {
            ground.kubectl(&["get", "serviceaccount", "default"]).map(|_| true)
        })?;
        Ok(ground)
    }

    /// Applies one object.
    pub(crate) fn create(&self, object: &Value) -> Result<()> {
        self.cluster.apply(&object.to_string())
    }

    /// kubectl in this namespace.
    pub(crate) fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.cluster.kubectl(&[&["-n", self.name], args].concat())
    }

    /// A pod's full name.
    pub(crate) fn pod(&self, name: &str) -> String {
        format!("{}/{name}", self.name)
    }

    /// Deletes the namespace with all that is in it, and sees to it that nothing of it is left on any node.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.finished = true;
        self.cluster.kubectl(&["delete", "namespace", self.name, "--timeout=90s"])?;
        self.cluster.network_is_even()
    }

    /// The namespace was deleted already.
    pub(crate) fn forget(mut self) {
        self.finished = true;
    }

    /// A Deployment of pods that answer, with `spec` over what they have anyway.
    pub(crate) fn deployment(&self, name: &str, replicas: usize, spec: &Value) -> Result<()> {
        self.create(&json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": name, "namespace": self.name},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
                     "template": {"metadata": {"labels": {"app": name}}, "spec": over(serving(), spec)}},
        }))
    }

    /// A StatefulSet of pods that answer; all of its pods are started at once.
    pub(crate) fn stateful_set(
        &self,
        name: &str,
        replicas: usize,
        annotations: &Value,
        spec: &Value,
    ) -> Result<()> {
        self.create(&json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {"name": name, "namespace": self.name},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "serviceName": name,
                     "podManagementPolicy": "Parallel",
                     "template": {"metadata": {"labels": {"app": name}, "annotations": annotations},
                                  "spec": over(serving(), spec)}},
        }))
    }

    /// A pod that answers, with `spec` over what it has anyway. Its label `app` is its name.
    pub(crate) fn single(&self, name: &str, spec: &Value) -> Result<()> {
        self.create(&self.pod_object(name, spec))
    }

    /// What [`Ground::single`] makes.
    pub(crate) fn pod_object(&self, name: &str, spec: &Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod",
               "metadata": {"name": name, "namespace": self.name, "labels": {"app": name}},
               "spec": over(serving(), spec)})
    }

    /// Waits until exactly `count` pods of the application are there and Ready.
    pub(crate) fn ready(&self, app: &str, count: usize) -> Result<Vec<LivingPod>> {
        self.cluster.wait_pods(self.name, &format!("app={app}"), count, PATIENCE)
    }

    /// Waits until the only pod of the application is Ready.
    pub(crate) fn ready_one(&self, app: &str) -> Result<LivingPod> {
        self.ready(app, 1)?.pop().context("no pod")
    }

    /// The object of a pod.
    pub(crate) fn object(&self, name: &str) -> Result<Value> {
        self.cluster.object("pod", &self.pod(name))
    }
}

impl Drop for Ground<'_> {
    fn drop(&mut self) {
        if !self.finished {
            // The scenario has failed: the next ones should find the cluster without its pods.
            let _ = self.cluster.kubectl(&["delete", "namespace", self.name, "--wait=false"]);
        }
    }
}

/// The spec of a pod that answers and ends at once when it is told to.
fn serving() -> Value {
    json!({"terminationGracePeriodSeconds": 2,
           "containers": [{"name": "main", "image": TOOLBOX, "imagePullPolicy": "Never"}]})
}

/// `more` over `spec`, one level deep; of the first container also its fields.
fn over(mut spec: Value, more: &Value) -> Value {
    for (key, value) in more.as_object().into_iter().flatten() {
        if key == "main" {
            for (key, value) in value.as_object().into_iter().flatten() {
                spec["containers"][0][key] = value.clone();
            }
        } else {
            spec[key] = value.clone();
        }
    }
    spec
}

/// A process of a pod that is called so.
pub(crate) fn process_of(cluster: &Cluster, pod: &LivingPod, called: &str) -> Result<i32> {
    let group = cluster.node_by_name(&pod.node)?.cgroup();
    let read =
        |pid: i32, file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let marker = format!("pod{}", pod.uid);
    cgroup::processes(&group)
        .into_iter()
        .filter(|pid| read(*pid, "comm").trim() == called)
        .find(|pid| read(*pid, "cgroup").contains(&marker))
        .with_context(|| format!("no process {called} of {}", pod.name))
}

/// From within `from`, each of the pods answers at each of its addresses, and it is that pod which does.
pub(crate) fn all_answer(from: &std::path::Path, pods: &[LivingPod]) -> Result<()> {
    netns::enter_at(from, || {
        for pod in pods {
            ensure!(!pod.addresses.is_empty(), "{} has no address", pod.name);
            for address in &pod.addresses {
                let name = answers(*address).with_context(|| format!("{} at {address}", pod.name))?;
                ensure!(pod.name.ends_with(&format!("/{name}")), "{address} of {} is {name}", pod.name);
            }
        }
        Ok(())
    })
    .with_context(|| format!("asked from {}", from.display()))
}

/// The name of the pod that answers at an address.
fn answers(address: IpAddr) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, LINES), ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(b"who\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let answer: Value = serde_json::from_str(&line).with_context(|| format!("{line:?} is no answer"))?;
    Ok(answer["pod"].as_str().context("an answer without a name")?.to_owned())
}
