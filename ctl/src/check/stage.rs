//! The DaemonSet by which nodes are asked before anything of Manx is installed. Everything of it is in a namespace of
//! its own, so that it is gone with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures_util::TryStreamExt as _;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::runtime::watcher::{self, watcher};
use kube::{Client, ResourceExt as _};
use serde_json::json;

use crate::ask::Nodes;

/// The namespace, the DaemonSet and the label of its pods.
const NAME: &str = "manx-check";
/// The longest that the namespace may take to go.
const GOING: Duration = Duration::from_secs(60);

/// The way to the nodes before there are agents.
pub(super) struct Stage {
    client: Client,
}

/// The pods.
pub(super) struct Pods {
    /// Those that run, to be asked.
    pub(super) running: Nodes,
    /// Nodes whose pod does not run, each with why.
    pub(super) waiting: BTreeMap<String, String>,
}

impl Stage {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    fn namespaces(&self) -> Api<Namespace> {
        Api::all(self.client.clone())
    }

    /// Starts a pod on each node and waits for those that start in time.
    ///
    /// # Errors
    /// When the API server does not make them.
    pub(super) async fn set(
        &self,
        image: &str,
        wanted: &BTreeSet<String>,
        patience: Duration,
    ) -> Result<Pods> {
        let namespace = serde_json::from_value(namespace())?;
        let made = self.namespaces().create(&PostParams::default(), &namespace).await;
        made.with_context(|| format!("cannot make the namespace {NAME}"))?;
        let sets: Api<DaemonSet> = Api::namespaced(self.client.clone(), NAME);
        let made = sets.create(&PostParams::default(), &serde_json::from_value(daemon_set(image))?).await;
        made.with_context(|| format!("cannot make the DaemonSet {NAME}"))?;
        let api: Api<Pod> = Api::namespaced(self.client.clone(), NAME);
        let _in_time = tokio::time::timeout(patience, all_run(&api, wanted)).await;
        let pods =
            api.list(&ListParams::default()).await.context("cannot list the pods of manx-check")?.items;
        let (running, others): (Vec<Pod>, Vec<Pod>) = pods.into_iter().partition(runs);
        let mut waiting: BTreeMap<String, String> =
            others.iter().filter_map(|pod| Some((node_of(pod)?, why(pod)))).collect();
        let with_pod: BTreeSet<String> = running.iter().filter_map(node_of).collect();
        for node in wanted.iter().filter(|node| !with_pod.contains(*node)) {
            waiting.entry(node.clone()).or_insert_with(|| "no pod of manx-check came to be on it".to_owned());
        }
        Ok(Pods { running: Nodes::of_pods(api, &running), waiting })
    }

    /// Removes everything, and waits until it is gone. It is fine if nothing is there.
    ///
    /// # Errors
    /// When it cannot be removed, or is not gone in time.
    pub(super) async fn remove(&self) -> Result<()> {
        match self.namespaces().delete(NAME, &DeleteParams::default().grace_period(0)).await {
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            Err(error) => return Err(error).with_context(|| format!("cannot remove the namespace {NAME}")),
            Ok(_) => {}
        }
        match tokio::time::timeout(GOING, self.gone()).await {
            Ok(gone) => gone,
            Err(_) => bail!(
                "the namespace {NAME} is not gone after {} s: what keeps it says `kubectl get namespace {NAME} -o yaml`",
                GOING.as_secs()
            ),
        }
    }

    async fn gone(&self) -> Result<()> {
        let config = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
        let mut events = std::pin::pin!(watcher(self.namespaces(), config));
        let mut there = false;
        while let Some(event) = events.try_next().await? {
            match event {
                watcher::Event::Init => there = false,
                watcher::Event::InitApply(_) | watcher::Event::Apply(_) => there = true,
                watcher::Event::InitDone if !there => return Ok(()),
                watcher::Event::Delete(_) => return Ok(()),
                watcher::Event::InitDone => {}
            }
        }
        bail!("the watch of namespaces ended")
    }
}

/// Comes back when a pod runs on each of the nodes, or will not without somebody's help.
async fn all_run(api: &Api<Pod>, wanted: &BTreeSet<String>) -> Result<()> {
    let mut events = std::pin::pin!(watcher(api.clone(), watcher::Config::default()));
    let mut settled = BTreeSet::new();
    while let Some(event) = events.try_next().await? {
        if let watcher::Event::Apply(pod) | watcher::Event::InitApply(pod) = event
            && (runs(&pod) || is_stuck(&pod))
        {
            settled.extend(node_of(&pod));
            if wanted.is_subset(&settled) {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn node_of(pod: &Pod) -> Option<String> {
    pod.spec.as_ref()?.node_name.clone()
}

fn runs(pod: &Pod) -> bool {
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let mut running =
        containers.map(|container| container.state.as_ref().is_some_and(|state| state.running.is_some()));
    running.next().unwrap_or(false)
}

/// The reason for which the container waits, and the words for it.
fn waits(pod: &Pod) -> Option<(String, String)> {
    let mut containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let waiting = containers.find_map(|container| container.state.as_ref()?.waiting.clone())?;
    Some((waiting.reason.unwrap_or_default(), waiting.message.unwrap_or_default()))
}

/// Whether waiting longer helps nothing.
fn is_stuck(pod: &Pod) -> bool {
    waits(pod).is_some_and(|(reason, _)| {
        ["ErrImageNeverPull", "InvalidImageName", "ImagePullBackOff"].contains(&&*reason)
    })
}

fn why(pod: &Pod) -> String {
    match waits(pod) {
        Some((reason, message)) => {
            format!("its pod {} does not start: {reason} {message}", pod.name_any()).trim_end().to_owned()
        }
        None => {
            let phase = pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
            format!("its pod {} does not start: it is {phase}; is the kubelet there alive?", pod.name_any())
        }
    }
}

fn namespace() -> serde_json::Value {
    json!({
        "metadata": {"name": NAME, "labels": {
            "app.kubernetes.io/part-of": "manx",
            "pod-security.kubernetes.io/enforce": "privileged",
            "pod-security.kubernetes.io/audit": "privileged",
            "pod-security.kubernetes.io/warn": "privileged",
        }},
    })
}

/// One pod on every node, with the rights of the agent and those to see who has which port. It changes nothing on the
/// node: what it tries it tries in network namespaces of its own.
fn daemon_set(image: &str) -> serde_json::Value {
    let host =
        |name: &str, path: &str| json!({"name": name, "hostPath": {"path": path, "type": "Directory"}});
    let at = |name: &str, path: &str, read_only: bool| json!({"name": name, "mountPath": path, "readOnly": read_only});
    json!({
        "metadata": {"name": NAME, "labels": {"app.kubernetes.io/part-of": "manx"}},
        "spec": {
            "selector": {"matchLabels": {"app.kubernetes.io/name": NAME}},
            "template": {
                "metadata": {"labels": {"app.kubernetes.io/name": NAME}},
                "spec": {
                    "hostNetwork": true,
                    "hostPID": true,
                    "dnsPolicy": "Default",
                    "priorityClassName": "system-node-critical",
                    "terminationGracePeriodSeconds": 0,
                    "tolerations": [{"operator": "Exists"}],
                    "securityContext": {
                        "runAsUser": 0, "runAsGroup": 0, "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [{
                        "name": "agent",
                        "image": image,
                        "imagePullPolicy": "IfNotPresent",
                        "command": ["/usr/bin/manx-agent"],
                        "args": ["idle"],
                        "env": [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                        "securityContext": {
                            "readOnlyRootFilesystem": true,
                            "allowPrivilegeEscalation": false,
                            "capabilities": {
                                "drop": ["ALL"],
                                "add": ["NET_ADMIN", "NET_RAW", "SYS_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH"],
                            },
                        },
                        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "128Mi"}},
                        "volumeMounts": [
                            at("etc", "/host/etc", true),
                            at("opt", "/host/opt", true),
                            at("run", "/host/run", true),
                            at("proc-sys-net", "/host/proc/sys/net", false),
                        ],
                    }],
                    "volumes": [
                        host("etc", "/etc"),
                        host("opt", "/opt"),
                        host("run", "/run"),
                        host("proc-sys-net", "/proc/sys/net"),
                    ],
                },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(state: serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "manx-check-1"},
            "spec": {"nodeName": "a", "containers": []},
            "status": {"phase": "Pending", "containerStatuses": [
                {"name": "agent", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state},
            ]},
        }))
        .expect("a pod")
    }

    #[test]
    fn a_pod_that_cannot_start_says_why_and_is_not_waited_for() {
        let stuck =
            pod(json!({"waiting": {"reason": "ErrImageNeverPull", "message": "manx:9 is not present"}}));
        assert!(is_stuck(&stuck) && !runs(&stuck));
        assert_eq!(
            why(&stuck),
            "its pod manx-check-1 does not start: ErrImageNeverPull manx:9 is not present"
        );
        let pulls = pod(json!({"waiting": {"reason": "ContainerCreating"}}));
        assert!(!is_stuck(&pulls) && !runs(&pulls));
        assert!(runs(&pod(json!({"running": {}}))));
    }

    #[test]
    fn what_is_made_is_what_kubernetes_knows() {
        let set: DaemonSet = serde_json::from_value(daemon_set("manx:1")).expect("a DaemonSet");
        let template = set.spec.expect("a spec").template.spec.expect("a spec");
        assert_eq!(template.containers[0].image.as_deref(), Some("manx:1"));
        let _made: Namespace = serde_json::from_value(namespace()).expect("a Namespace");
    }
}
