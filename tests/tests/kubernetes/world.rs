//! What a scenario brings into the cluster: a namespace of its own with pods on chosen nodes, and Services.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use manx_tests::kubernetes::{Cluster, Family};
use manx_tests::lab::wait;
use serde_json::{Value, json};

use super::places::Place;

const PATIENCE: Duration = Duration::from_secs(60);

/// A namespace with what is in it; it goes when this is dropped.
pub(crate) struct World<'a> {
    pub(crate) cluster: &'a Cluster,
    namespace: String,
    pods: BTreeMap<String, Place>,
    services: BTreeMap<String, Service>,
}

/// A toolbox pod on a node, not by the scheduler, with the label `app`, and `args` for `serve`.
pub(crate) fn pod(name: &str, node: usize, app: &str, args: &[&str]) -> Value {
    let mut words = vec!["serve"];
    words.extend(args);
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": app}}, "spec": {
        "nodeName": format!("node{node}"),
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "tolerations": [{"operator": "Exists"}],
        "containers": [{"name": "main", "image": "docker.io/library/toolbox:1",
                        "command": ["/usr/bin/manx-toolbox"], "args": words}]}})
}

/// A Service with the selector `app`, of all families of the cluster; `spec` goes over it.
pub(crate) fn service(name: &str, app: &str, spec: &Value) -> Value {
    let port = |protocol: &str, name: &str| json!({"name": name, "protocol": protocol, "port": 80, "targetPort": name});
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {
        "selector": {"app": app}, "ipFamilyPolicy": "PreferDualStack",
        "ports": [port("TCP", "lines"), port("UDP", "datagrams")]}});
    merge(&mut service["spec"], spec);
    service
}

/// Puts `over` into `under`, object by object.
pub(crate) fn merge(under: &mut Value, over: &Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                merge(under.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over.clone(),
    }
}

impl<'a> World<'a> {
    /// Makes the namespace with `objects` and waits until every pod among them is ready.
    pub(crate) fn start(cluster: &'a Cluster, namespace: &str, objects: Vec<Value>) -> Result<Self> {
        let mut world = Self {
            cluster,
            namespace: namespace.to_owned(),
            pods: BTreeMap::new(),
            services: BTreeMap::new(),
        };
        cluster.apply(
            &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}).to_string(),
        )?;
        wait::until("the namespace has its service account", PATIENCE, || {
            cluster.kubectl(&["get", "serviceaccount", "default", "-n", namespace]).map(|_| true)
        })?;
        world.add(objects)?;
        Ok(world)
    }

    /// Applies more objects and waits until every pod of the namespace is ready.
    pub(crate) fn add(&mut self, mut objects: Vec<Value>) -> Result<()> {
        for object in &mut objects {
            object["metadata"]["namespace"] = json!(self.namespace);
        }
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        self.cluster.apply(&list.to_string())?;
        let ready = ["wait", "pod", "--all", "-n", &self.namespace, "--for=condition=Ready", "--timeout=60s"];
        if let Err(error) = self.cluster.kubectl(&ready) {
            let events =
                self.cluster.kubectl(&["get", "events,pods", "-n", &self.namespace, "-o", "wide"])?;
            return Err(error.context(events));
        }
        self.refresh()
    }

    /// Looks again at which pods and Services there are.
    pub(crate) fn refresh(&mut self) -> Result<()> {
        let text = self.kubectl(&["get", "pods,services", "-o", "json"])?;
        let list: Value = serde_json::from_str(&text)?;
        self.pods.clear();
        self.services.clear();
        for item in list["items"].as_array().context("a list")? {
            let name = item["metadata"]["name"].as_str().context("a name")?.to_owned();
            if item["kind"] == "Pod" {
                self.pods.insert(name, Place::pod(self.cluster, item)?);
            } else {
                self.services.insert(name, Service(item.clone()));
            }
        }
        Ok(())
    }

    /// kubectl in the namespace.
    pub(crate) fn kubectl(&self, args: &[&str]) -> Result<String> {
        let mut all = vec!["-n", &self.namespace];
        all.extend(args);
        self.cluster.kubectl(&all)
    }

    /// Deletes a pod and waits until it is gone.
    pub(crate) fn delete_pod(&mut self, name: &str) -> Result<()> {
        self.pods.remove(name);
        self.kubectl(&["delete", "pod", name]).map(drop)
    }

    /// A pod.
    pub(crate) fn pod(&self, name: &str) -> Result<&Place> {
        self.pods.get(name).with_context(|| format!("no pod {name}"))
    }

    /// Every pod.
    pub(crate) fn pods(&self) -> impl Iterator<Item = &Place> {
        self.pods.values()
    }

    /// A Service as the API server had it when somebody last looked.
    pub(crate) fn service(&self, name: &str) -> Result<Service> {
        self.services.get(name).cloned().with_context(|| format!("no Service {name}"))
    }

    /// Gives a Service addresses as a controller of load balancers would.
    pub(crate) fn set_load_balancer(&self, name: &str, addresses: &[IpAddr]) -> Result<()> {
        let ingress: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
        let patch = json!({"status": {"loadBalancer": {"ingress": ingress}}}).to_string();
        self.kubectl(&["patch", "service", name, "--subresource=status", "--type=merge", "-p", &patch])
            .map(drop)
    }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        if std::env::var_os("MANX_LAB_KEEP").is_some() {
            return;
        }
        let pods = self.kubectl(&["delete", "pods,services", "--all"]);
        let namespace = self.cluster.kubectl(&["delete", "namespace", &self.namespace, "--wait=false"]);
        if let Err(error) = pods.and(namespace) {
            eprintln!("the namespace {} could not be removed: {error:#}", self.namespace);
        }
    }
}

/// A Service.
#[derive(Clone, Debug)]
pub(crate) struct Service(pub(crate) Value);

impl Service {
    /// Its cluster address of `family`, with its port.
    pub(crate) fn cluster(&self, family: Family) -> Result<SocketAddr> {
        let ips = self.0["spec"]["clusterIPs"].as_array().cloned().unwrap_or_default();
        let mut ips = ips.iter().filter_map(|ip| ip.as_str()?.parse::<IpAddr>().ok());
        let ip = ips.find(|ip| ip.is_ipv6() == (family == Family::Ipv6));
        Ok(SocketAddr::new(ip.with_context(|| format!("no cluster address of {family:?}"))?, 80))
    }

    /// The number of the node port for TCP or UDP.
    pub(crate) fn node_port(&self, how: super::places::How) -> Result<u16> {
        let protocol = format!("{how:?}").to_uppercase();
        let ports = self.0["spec"]["ports"].as_array().context("ports")?;
        let port = ports.iter().find(|port| port["protocol"] == protocol.as_str());
        let number = port.and_then(|port| port["nodePort"].as_u64()).context("no node port")?;
        Ok(u16::try_from(number)?)
    }
}

/// The named ports of the toolbox's container as Services refer to them: `lines` and `datagrams`, and both are `port`.
pub(crate) fn named_ports(pod: &mut Value, port: u16) {
    pod["spec"]["containers"][0]["ports"] = json!([
        {"name": "lines", "containerPort": port, "protocol": "TCP"},
        {"name": "datagrams", "containerPort": port, "protocol": "UDP"}]);
}

/// A backend of Services: a pod that serves lines and datagrams on `port`, by name.
pub(crate) fn backend(name: &str, node: usize, app: &str, port: u16) -> Value {
    let number = port.to_string();
    let mut pod = pod(name, node, app, &["--tcp", &number, "--udp", &number]);
    named_ports(&mut pod, port);
    pod
}
