//! Pods with a network of their own, as the API shows them, and their processes.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Cluster, Node, cgroup};
use crate::lab::wait;

/// A pod that has its own network, as the API shows it.
#[derive(Clone, Debug)]
pub struct LivingPod {
    /// NAMESPACE/NAME.
    pub name: String,
    /// The UID by which the kubelet knows it: of a static pod not that of its mirror.
    pub uid: String,
    /// Where it runs.
    pub node: String,
    /// Its addresses, the primary one first.
    pub addresses: Vec<IpAddr>,
    /// Whether its containers run.
    pub running: bool,
    /// Whether it is being deleted.
    pub ending: bool,
}

impl Cluster {
    /// The pods that have a network of their own and have not ended.
    pub fn living_pods(&self) -> Result<Vec<LivingPod>> {
        let pods = self.objects("pods")?;
        Ok(pods.iter().filter_map(living).collect())
    }

    /// Those of them that run and are not being deleted.
    pub fn running_pods(&self) -> Result<Vec<LivingPod>> {
        let mut pods = self.living_pods()?;
        pods.retain(|pod| pod.running && !pod.ending);
        Ok(pods)
    }

    /// Waits until there are exactly `count` pods with these labels (a selector as kubectl takes it) in the namespace,
    /// all of them Ready and none on its way out, and returns them.
    ///
    /// # Errors
    /// Says which pods are not Ready, in Kubernetes' words.
    pub fn wait_pods(
        &self,
        namespace: &str,
        labels: &str,
        count: usize,
        limit: Duration,
    ) -> Result<Vec<LivingPod>> {
        let mut pods = Vec::new();
        let mut waiting = Vec::new();
        let outcome = wait::until(&format!("{count} pods {labels} are Ready"), limit, || {
            let list = self.kubectl(&["get", "pods", "-n", namespace, "-l", labels, "-o", "json"])?;
            let list: Value = serde_json::from_str(&list)?;
            let list = list["items"].as_array().cloned().unwrap_or_default();
            waiting = list.iter().filter(|pod| !is_ready(pod)).map(state).collect();
            pods = list.iter().filter_map(living).collect();
            ensure!(list.len() == count, "there are {} pods", list.len());
            Ok(waiting.is_empty() && pods.iter().all(|pod| !pod.ending))
        });
        outcome.with_context(|| format!("not Ready: {}", waiting.join("; ")))?;
        Ok(pods)
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

/// Name, phase and what its containers wait for.
fn state(pod: &Value) -> String {
    let containers = pod["status"]["containerStatuses"].as_array();
    let states: Vec<String> = containers.into_iter().flatten().map(|one| one["state"].to_string()).collect();
    format!("{} {} {}", text(&pod["metadata"]["name"]), text(&pod["status"]["phase"]), states.join(" "))
}

impl Node<'_> {
    /// A process of the pod `uid`.
    pub fn process_of_pod(&self, uid: &str) -> Result<i32> {
        cgroup::process_of_pod(&self.cgroup(), uid)
            .with_context(|| format!("no process of the pod {uid} runs on {}", self.name()))
    }

    /// The network namespace of the pod `uid`, as a file.
    pub fn netns_of_pod(&self, uid: &str) -> Result<PathBuf> {
        Ok(PathBuf::from(format!("/proc/{}/ns/net", self.process_of_pod(uid)?)))
    }

    /// A program of this machine that will run in the network namespace of the pod `uid`.
    pub fn command_in_pod(&self, uid: &str, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.process_of_pod(uid)?.to_string(), "--net", "--"]).arg(program);
        Ok(command)
    }
}

fn living(pod: &Value) -> Option<LivingPod> {
    let (meta, spec, status) = (&pod["metadata"], &pod["spec"], &pod["status"]);
    let ended = status["phase"] == "Succeeded" || status["phase"] == "Failed";
    if ended || spec["hostNetwork"] == true {
        return None;
    }
    let ips = status["podIPs"].as_array().cloned().unwrap_or_default();
    let uid = &meta["annotations"]["kubernetes.io/config.hash"];
    Some(LivingPod {
        name: format!("{}/{}", text(&meta["namespace"]), text(&meta["name"])),
        uid: if uid.is_string() { text(uid) } else { text(&meta["uid"]) },
        node: spec["nodeName"].as_str()?.to_owned(),
        addresses: ips.iter().filter_map(|ip| ip["ip"].as_str()?.parse().ok()).collect(),
        running: status["phase"] == "Running",
        ending: meta["deletionTimestamp"].is_string(),
    })
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
