//! The Kubernetes side of a lab: the API server, the objects an operator would apply, and kubectl.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};

use super::router::{NODE_ASN, ROUTER_ASN};
use super::{Lab, netns};

/// The host that the API server runs on, behind the router.
pub const API_HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 30, 0, 10));
/// Where the API server listens.
pub const API_ADDRESS: &str = "172.30.0.10:6443";

/// A kubeconfig for the lab's API server.
pub fn kubeconfig() -> String {
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: lab\n  cluster:\n    server: http://{API_ADDRESS}\n\
         contexts:\n- name: lab\n  context: {{cluster: lab, user: lab}}\ncurrent-context: lab\n\
         users:\n- name: lab\n  user: {{}}\n"
    )
}

/// kubectl, run where the API server is.
pub fn kubectl(netns: &str, kubeconfig: &Path) -> Command {
    let mut command = netns::command(netns, "kubectl");
    command.arg("--kubeconfig").arg(kubeconfig);
    // Its cache of the discovery documents belongs to the lab, not to the user's home.
    command.arg("--cache-dir").arg(kubeconfig.with_file_name("kubectl-cache"));
    command
}

/// Runs `body` with a client of the API server, on a thread inside the namespace `netns`.
pub fn with_client<T, F, Fut>(netns: &str, body: F) -> Result<T>
where
    T: Send,
    F: FnOnce(kube::Client) -> Fut + Send,
    Fut: Future<Output = Result<T>>,
{
    netns::enter(netns, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async move {
            let url = format!("http://{API_ADDRESS}").parse().context("the API server's address")?;
            let client = kube::Client::try_from(kube::Config::new(url))?;
            body(client).await
        })
    })
}

/// The namespace of our Leases, the pools and the BGP configuration.
pub fn network_objects() -> Vec<Value> {
    vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "manx-system"}}),
        json!({"apiVersion": "manx.dev/v1alpha1", "kind": "IPPool", "metadata": {"name": "default-ipv4"},
               "spec": {"cidr": "10.244.0.0/16", "blockSize": 26, "natOutgoing": true}}),
        json!({"apiVersion": "manx.dev/v1alpha1", "kind": "IPPool", "metadata": {"name": "default-ipv6"},
               "spec": {"cidr": "fd00:10:244::/112", "blockSize": 122, "natOutgoing": false}}),
        json!({"apiVersion": "manx.dev/v1alpha1", "kind": "BGPConfiguration", "metadata": {"name": "default"},
               "spec": {"asNumber": NODE_ASN, "topology": "FullMesh"}}),
    ]
}

/// The eBGP peer of `node`: the router at the other end of its uplink.
pub fn router_peer(node: &str, router: &str) -> Value {
    json!({"apiVersion": "manx.dev/v1alpha1", "kind": "BGPPeer", "metadata": {"name": format!("tor-{node}")},
           "spec": {"nodeSelector": {"matchLabels": {"kubernetes.io/hostname": node}},
                    "peerIP": router, "asNumber": ROUTER_ASN}})
}

/// The Node object of `name` as its kubelet would register it.
pub fn node_object(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node",
           "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}},
           "spec": {}})
}

/// The status that a kubelet would report for a node with `addresses`.
pub fn node_status(addresses: &[String]) -> Value {
    let addresses: Vec<Value> =
        addresses.iter().map(|address| json!({"type": "InternalIP", "address": address})).collect();
    json!({"status": {"addresses": addresses,
                      "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady",
                                      "message": "the lab's kubelet is ready"}],
                      "nodeInfo": {"kubeletVersion": "v1.33.0-lab", "architecture": "amd64", "bootID": "",
                                   "containerRuntimeVersion": "lab://1", "kernelVersion": "", "kubeProxyVersion": "",
                                   "machineID": "", "operatingSystem": "linux", "osImage": "Debian", "systemUUID": ""}}})
}

/// The Pod object of `name` on `node`.
pub fn pod_object(namespace: &str, name: &str, node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace},
           "spec": {"nodeName": node, "containers": [{"name": "main", "image": "lab/namespace"}]}})
}

impl Lab {
    /// The kubeconfig of this lab.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// kubectl with this lab's kubeconfig, inside the control plane's namespace.
    pub fn kubectl_command(&self) -> Command {
        kubectl(&self.netns("cp"), &self.kubeconfig())
    }

    /// Runs kubectl and returns what it printed.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        let output = netns::run(self.kubectl_command().args(args))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Creates or replaces objects by server-side apply, as `kubectl apply --server-side` does.
    pub fn apply(&self, objects: &[Value]) -> Result<()> {
        let objects = objects.to_vec();
        with_client(&self.netns("cp"), |client| async move {
            for object in objects {
                let object: DynamicObject = serde_json::from_value(object)?;
                let api = dynamic_api(client.clone(), &object)?;
                let name = object.metadata.name.clone().context("an object without a name")?;
                let params = PatchParams::apply("lab").force();
                api.patch(&name, &params, &Patch::Apply(&object))
                    .await
                    .with_context(|| format!("apply {name}"))?;
            }
            Ok(())
        })
    }

    /// All objects of a kind of ours, as JSON.
    pub fn objects(&self, plural: &str) -> Result<Vec<Value>> {
        let list = self.kubectl(&["get", &format!("{plural}.manx.dev"), "-o", "json"])?;
        let list: Value = serde_json::from_str(&list)?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    pub(super) fn delete_object(
        &self,
        version: &str,
        kind: &str,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<()> {
        let object =
            json!({"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": namespace}});
        let name = name.to_owned();
        with_client(&self.netns("cp"), |client| async move {
            let api = dynamic_api(client, &serde_json::from_value(object)?)?;
            match api.delete(&name, &DeleteParams::default().grace_period(0)).await {
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                other => other.map(drop).map_err(Into::into),
            }
        })
    }
}

fn dynamic_api(client: kube::Client, object: &DynamicObject) -> Result<Api<DynamicObject>> {
    let types = object.types.as_ref().context("an object without apiVersion and kind")?;
    let gvk = kube::core::GroupVersionKind::try_from(types)?;
    let resource = kube::core::ApiResource::from_gvk(&gvk);
    Ok(match &object.metadata.namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, &resource),
        None => Api::all_with(client, &resource),
    })
}
