//! A container runtime's half of CNI: runs the plugins of a conflist in order, as containerd would.

use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::netns;

/// Where Debian installs the reference plugins.
const DEBIAN_PLUGINS: &str = "/usr/lib/cni";

/// One sandbox of a pod, as the runtime knows it.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Sandbox {
    /// `CNI_CONTAINERID`: the sandbox' identity, new for each start of the pod.
    pub container: String,
    /// The name of the pod's network namespace.
    pub netns: String,
    /// Namespace of the pod in Kubernetes.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// UID of the pod.
    pub uid: String,
    /// What the runtime hands over for the plugins' capabilities, such as `portMappings`.
    pub capabilities: Value,
}

/// The runtime of one node.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// The node's network namespace, in which the plugins run.
    pub node: String,
    /// The parsed conflist.
    pub conflist: Value,
    /// Where our own plugin lies.
    pub bin_dir: PathBuf,
}

/// What a plugin answered when it failed: the code and message of the CNI specification.
#[derive(Debug, thiserror::Error)]
#[error("{plugin} {verb} failed with code {code}: {message}")]
pub struct PluginError {
    /// Which plugin of the chain.
    pub plugin: String,
    /// Which verb.
    pub verb: String,
    /// The code of the specification; 999 when the answer was no error object.
    pub code: u64,
    /// `msg` and `details`.
    pub message: String,
}

impl Runtime {
    /// ADD through the whole chain; returns the last plugin's result.
    pub fn add(&self, sandbox: &Sandbox) -> Result<Value> {
        let mut previous: Option<Value> = None;
        for plugin in self.plugins()? {
            previous = Some(self.call("ADD", plugin, sandbox, previous.as_ref())?);
        }
        previous.context("the conflist has no plugins")
    }

    /// CHECK through the whole chain against the result of ADD.
    pub fn check(&self, sandbox: &Sandbox, result: &Value) -> Result<()> {
        for plugin in self.plugins()? {
            self.call("CHECK", plugin, sandbox, Some(result))?;
        }
        Ok(())
    }

    /// DEL through the chain, last plugin first.
    pub fn del(&self, sandbox: &Sandbox, result: Option<&Value>) -> Result<()> {
        for plugin in self.plugins()?.iter().rev() {
            self.call("DEL", plugin, sandbox, result)?;
        }
        Ok(())
    }

    /// STATUS of the first plugin, which is ours.
    pub fn status(&self) -> Result<()> {
        let nobody = Sandbox {
            container: String::new(),
            netns: String::new(),
            namespace: String::new(),
            pod: String::new(),
            uid: String::new(),
            capabilities: Value::Null,
        };
        let plugin = self.plugins()?.first().context("the conflist has no plugins")?;
        // The verb exists since 1.1.0; the conflist names an older version for the sake of the chained plugins.
        let mut current = self.clone();
        current.conflist["cniVersion"] = json!("1.1.0");
        current.call("STATUS", plugin, &nobody, None).map(drop)
    }

    fn plugins(&self) -> Result<&Vec<Value>> {
        self.conflist["plugins"].as_array().context("the conflist has no list `plugins`")
    }

    fn call(&self, verb: &str, plugin: &Value, sandbox: &Sandbox, previous: Option<&Value>) -> Result<Value> {
        let kind = plugin["type"].as_str().context("a plugin without `type`")?;
        let config = self.config(plugin, sandbox, previous);
        let mut command = netns::command(&self.node, self.binary(kind)?);
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_PATH", format!("{}:{DEBIAN_PLUGINS}", self.bin_dir.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if verb != "STATUS" {
            command
                .env("CNI_CONTAINERID", &sandbox.container)
                .env("CNI_IFNAME", "eth0")
                .env("CNI_NETNS", netns::path(&sandbox.netns))
                .env("CNI_ARGS", self.args(sandbox));
        }
        let mut child = command.spawn().with_context(|| format!("cannot start the plugin {kind}"))?;
        child.stdin.take().context("no standard input")?.write_all(config.to_string().as_bytes())?;
        let output = child.wait_with_output()?;
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        if !output.status.success() {
            bail!(PluginError {
                plugin: kind.to_owned(),
                verb: verb.to_owned(),
                code: answer["code"].as_u64().unwrap_or(999),
                message: format!(
                    "{} {} {}",
                    answer["msg"].as_str().unwrap_or_default(),
                    answer["details"].as_str().unwrap_or_default(),
                    String::from_utf8_lossy(&output.stderr)
                ),
            });
        }
        Ok(answer)
    }

    fn config(&self, plugin: &Value, sandbox: &Sandbox, previous: Option<&Value>) -> Value {
        let mut config = plugin.clone();
        config["name"] = self.conflist["name"].clone();
        config["cniVersion"] = self.conflist["cniVersion"].clone();
        let mut runtime = serde_json::Map::new();
        if let (Some(wanted), Some(given)) =
            (plugin["capabilities"].as_object(), sandbox.capabilities.as_object())
        {
            for (name, value) in given.iter().filter(|(name, _)| wanted.get(*name) == Some(&json!(true))) {
                runtime.insert(name.clone(), value.clone());
            }
        }
        if !runtime.is_empty() {
            config["runtimeConfig"] = Value::Object(runtime);
        }
        if let Some(previous) = previous {
            config["prevResult"] = previous.clone();
        }
        config
    }

    fn args(&self, sandbox: &Sandbox) -> String {
        format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
            sandbox.namespace, sandbox.pod, sandbox.container, sandbox.uid
        )
    }

    fn binary(&self, kind: &str) -> Result<PathBuf> {
        let candidates = [self.bin_dir.join(kind), PathBuf::from(DEBIAN_PLUGINS).join(kind)];
        candidates
            .iter()
            .find(|path| path.exists())
            .cloned()
            .with_context(|| format!("no plugin {kind} in {} or {DEBIAN_PLUGINS}", self.bin_dir.display()))
    }
}
