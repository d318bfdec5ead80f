//! The cluster by its API: kubectl, objects, pods, and the audit log.

use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Cluster, binary};
use crate::lab::netns;

impl Cluster {
    /// The kubeconfig of an administrator. Its server is reached from any namespace of the cluster.
    pub fn kubeconfig(&self) -> PathBuf {
        self.pki().kubeconfig("admin")
    }

    /// kubectl as an administrator, where the API server is.
    pub fn kubectl_command(&self) -> Command {
        let mut command = netns::command(&self.netns("cp"), binary("kubectl"));
        command.arg("--kubeconfig").arg(self.kubeconfig());
        // Its cache of the discovery documents belongs to the cluster, not to the user's home.
        command.arg("--cache-dir").arg(self.dir.join("kubectl-cache"));
        command
    }

    /// manxctl as an administrator, where the API server is: the program that is in the image.
    ///
    /// # Errors
    /// When the image was not built beside this program.
    pub fn manxctl_command(&self) -> Result<Command> {
        let mut command = netns::command(&self.netns("cp"), program("manxctl")?);
        command.arg("--kubeconfig").arg(self.kubeconfig());
        Ok(command)
    }

    /// Runs kubectl and returns what it printed.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        let output = netns::run(self.kubectl_command().args(args))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// `kubectl apply -f -` of one or several YAML documents.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        let mut command = self.kubectl_command();
        command.args(["apply", "-f", "-"]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().context("no standard input")?.write_all(yaml.as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "kubectl apply: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// All objects of a resource, such as `pods` or `ippools.manx.dev`, of all namespaces.
    pub fn objects(&self, resource: &str) -> Result<Vec<Value>> {
        let mut list: Value = serde_json::from_str(&self.kubectl(&["get", resource, "-A", "-o", "json"])?)?;
        Ok(list["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
    }

    /// One object of the namespace `default`, or `NAMESPACE/NAME`, or of the cluster.
    pub fn object(&self, resource: &str, name: &str) -> Result<Value> {
        let (namespace, name) = split(name);
        Ok(serde_json::from_str(&self.kubectl(&["get", resource, name, "-n", namespace, "-o", "json"])?)?)
    }

    /// Runs a command in a pod (`NAME` or `NAMESPACE/NAME`) by `kubectl exec` and returns what it printed.
    pub fn exec(&self, pod: &str, argv: &[&str]) -> Result<String> {
        let (namespace, name) = split(pod);
        let mut args = vec!["exec", "-n", namespace, name, "--"];
        args.extend(argv);
        self.kubectl(&args)
    }

    /// A program of this machine that will run in the network namespace of a pod, quicker than [`Cluster::exec`].
    pub fn pod_command(&self, pod: &str, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let object = self.object("pod", pod)?;
        let uid = object["metadata"]["uid"].as_str().context("a pod without UID")?;
        let node =
            self.node_by_name(object["spec"]["nodeName"].as_str().context("the pod has no node yet")?)?;
        node.command_in_pod(uid, program)
    }

    /// The addresses of a pod (`NAME` or `NAMESPACE/NAME`), the primary one first.
    pub fn pod_addresses(&self, pod: &str) -> Result<Vec<IpAddr>> {
        let object = self.object("pod", pod)?;
        let ips = object["status"]["podIPs"].as_array().cloned().unwrap_or_default();
        ips.iter().map(|ip| Ok(ip["ip"].as_str().context("an entry without ip")?.parse()?)).collect()
    }

    /// What the API server was asked since it came up: events of `audit.k8s.io/v1`, the oldest first. An answer that
    /// goes out in this moment may be missing.
    pub fn audit(&self) -> Result<Vec<Value>> {
        let text = std::fs::read_to_string(self.dir.join("cp/audit.log"))?;
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).context("a line of the audit log")).collect()
    }
}

fn split(name: &str) -> (&str, &str) {
    name.split_once('/').unwrap_or(("default", name))
}

/// A program that is in the image, as it was built beside this one.
///
/// # Errors
/// When the image was not built.
pub fn program(name: &str) -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-musl/debug/{name}", std::env::consts::ARCH);
    let exe = std::env::current_exe()?;
    let program = exe.ancestors().map(|dir| dir.join(&target)).find(|path| path.is_file());
    program.with_context(|| format!("no {name} is built: `cargo xtask image --profile dev` does"))
}
