//! Pods of the lab, started and ended as a kubelet and its runtime do.

use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::runtime::Sandbox;
use super::{Lab, cluster, netns};

/// A pod of the lab.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Pod {
    /// Name in Kubernetes.
    pub name: String,
    /// The node it runs on.
    pub node: String,
    /// The sandbox that the runtime made.
    pub sandbox: Sandbox,
    /// The result of CNI ADD.
    pub result: Value,
    /// Its addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
}

impl Lab {
    /// Starts the pod `name` on `node`: Pod object, namespace, CNI ADD, status, as kubelet and runtime do.
    pub fn add_pod(&mut self, name: &str, node: &str) -> Result<Pod> {
        self.add_pod_with(name, node, Value::Null)
    }

    /// [`Lab::add_pod`] with capabilities for the chained plugins, such as `portMappings`.
    pub fn add_pod_with(&mut self, name: &str, node: &str, capabilities: Value) -> Result<Pod> {
        ensure!(self.nodes().iter().any(|n| n == node), "no node {node} in this lab");
        let uid = self.create_pod(&cluster::pod_object("default", name, node))?;
        let pod = self.start_sandbox(name, node, &uid, capabilities)?;
        self.report_pod(&pod)?;
        Ok(pod)
    }

    /// Starts the pod that has these annotations, in a Kubernetes namespace that is there.
    pub fn add_pod_that_asks(
        &mut self,
        namespace: &str,
        name: &str,
        node: &str,
        asks: &Value,
    ) -> Result<Pod> {
        let mut object = cluster::pod_object(namespace, name, node);
        object["metadata"]["annotations"] = asks.clone();
        let uid = self.create_pod(&object)?;
        let pod = self.start_sandbox_in(namespace, name, node, &uid, Value::Null)?;
        self.report_pod(&pod)?;
        Ok(pod)
    }

    /// Creates a Pod object, starts nothing, and gives its UID.
    pub fn create_pod(&self, object: &Value) -> Result<String> {
        self.create_pods(std::slice::from_ref(object))?.pop().context("one pod has one UID")
    }

    /// [`Lab::create_pod`] for many.
    pub fn create_pods(&self, objects: &[Value]) -> Result<Vec<String>> {
        let read = |object: &Value| serde_json::from_value(object.clone());
        let pods: Vec<k8s_openapi::api::core::v1::Pod> =
            objects.iter().map(read).collect::<serde_json::Result<_>>()?;
        cluster::with_client(&self.netns("cp"), |client| async move {
            let mut uids = Vec::new();
            for pod in &pods {
                let namespace = pod.metadata.namespace.clone().unwrap_or_default();
                let api = Api::namespaced(client.clone(), &namespace);
                let created = api.create(&PostParams::default(), pod).await?;
                uids.push(created.metadata.uid.context("the API server gave no UID")?);
            }
            Ok(uids)
        })
    }

    /// Makes a sandbox for a pod without a word to the API server, as a kubelet that has lost it does.
    pub fn start_sandbox(&mut self, name: &str, node: &str, uid: &str, capabilities: Value) -> Result<Pod> {
        self.start_sandbox_in("default", name, node, uid, capabilities)
    }

    /// [`Lab::start_sandbox`] for a pod of another Kubernetes namespace.
    pub fn start_sandbox_in(
        &mut self,
        namespace: &str,
        name: &str,
        node: &str,
        uid: &str,
        capabilities: Value,
    ) -> Result<Pod> {
        self.state.sandboxes += 1;
        let sandbox = Sandbox {
            container: format!("{}-{name}-{}", self.state.name, self.state.sandboxes),
            netns: self.netns(&format!("pod-{name}")),
            namespace: namespace.to_owned(),
            pod: name.to_owned(),
            uid: uid.to_owned(),
            capabilities,
        };
        netns::add(&sandbox.netns)?;
        let result = match self.runtime(node)?.add(&sandbox) {
            Ok(result) => result,
            Err(error) => {
                // As a runtime does after a failed ADD: a DEL, and the sandbox goes.
                let _ = self.runtime(node)?.del(&sandbox, None);
                netns::delete(&sandbox.netns)?;
                return Err(error);
            }
        };
        let addresses = result_addresses(&result)?;
        let pod = Pod { name: name.to_owned(), node: node.to_owned(), sandbox, result, addresses };
        self.state.pods.push(pod.clone());
        self.save()?;
        Ok(pod)
    }

    fn report_pod(&self, pod: &Pod) -> Result<()> {
        let ips: Vec<Value> =
            pod.addresses.iter().map(|address| json!({"ip": address.to_string()})).collect();
        let status = json!({"status": {"phase": "Running", "podIP": pod.addresses.first().map(ToString::to_string),
                                       "podIPs": ips,
                                       "containerStatuses": [{"name": "main", "ready": true, "restartCount": 0,
                                                              "image": "lab/namespace", "imageID": ""}]}});
        let (name, namespace) = (pod.name.clone(), pod.sandbox.namespace.clone());
        cluster::with_client(&self.netns("cp"), |client| async move {
            let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(client, &namespace);
            pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await?;
            Ok(())
        })
    }

    /// Ends the pod `name`: CNI DEL, namespace, Pod object.
    pub fn del_pod(&mut self, name: &str) -> Result<()> {
        let namespace = self.pod(name)?.sandbox.namespace.clone();
        self.stop_sandbox(name)?;
        self.delete_object("v1", "Pod", Some(&namespace), name)
    }

    /// Ends the sandbox of the pod `name` without a word to the API server.
    pub fn stop_sandbox(&mut self, name: &str) -> Result<()> {
        let pod = self.pod(name)?.clone();
        self.runtime(&pod.node)?.del(&pod.sandbox, Some(&pod.result))?;
        netns::delete(&pod.sandbox.netns)?;
        self.state.pods.retain(|other| other.name != name);
        self.save()
    }
}

/// The addresses in a CNI result, IPv4 first.
fn result_addresses(result: &Value) -> Result<Vec<IpAddr>> {
    let Some(ips) = result["ips"].as_array() else { bail!("the result of ADD has no `ips`: {result}") };
    let mut addresses = Vec::new();
    for ip in ips {
        let text = ip["address"].as_str().context("an entry of `ips` without `address`")?;
        addresses.push(text.split('/').next().unwrap_or_default().parse::<IpAddr>()?);
    }
    addresses.sort_by_key(IpAddr::is_ipv6);
    Ok(addresses)
}
