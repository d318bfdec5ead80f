//! Calls of the plugin, whole or disturbed, and what came of them.

use std::io::Write as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::trace::Point;
use super::world::{Pod, World};

/// Longer than the plugin's longest wait, for the agent in an ADD, by a good deal.
const BOUND: Duration = Duration::from_secs(45);

const SIGKILL: i32 = Signal::SIGKILL as i32;

/// What happens at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// The process is killed as the call begins: the call is not carried out.
    Kill,
    /// The call is not carried out, and gives this error.
    Fail(&'static str),
}

impl Harm {
    /// The option of `strace` that does this at the point.
    pub fn injection(self, point: &Point) -> String {
        let Point { name, nth, .. } = point;
        match self {
            Self::Kill => format!("inject={name}:signal=KILL:when={nth}"),
            Self::Fail(error) => format!("inject={name}:error={error}:when={nth}"),
        }
    }
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It succeeded and printed this.
    Done(Value),
    /// It failed with a code and words.
    Refused(u64, String),
    /// It was killed.
    Killed,
    /// It ended in another way than the specification of CNI knows.
    Dumb(String),
}

impl Outcome {
    fn of(output: &Output) -> Self {
        let printed = String::from_utf8_lossy(&output.stdout);
        let json: Option<Value> =
            if printed.is_empty() { Some(Value::Null) } else { serde_json::from_str(&printed).ok() };
        let words =
            || format!("{}: {printed}{}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
        match json {
            // `timeout` says by 128 and the signal that it killed, or is killed itself.
            _ if output.status.signal() == Some(SIGKILL) || output.status.code() == Some(128 + SIGKILL) => {
                Self::Killed
            }
            Some(result) if output.status.success() => Self::Done(result),
            Some(error) if error["code"].is_u64() && error["msg"].is_string() => {
                let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
                let code = error["code"].as_u64().unwrap_or_default();
                Self::Refused(code, format!("{}: {}", text("msg"), text("details")))
            }
            _ => Self::Dumb(words()),
        }
    }

    /// What it printed, if it succeeded.
    pub fn done(self) -> Result<Value> {
        match self {
            Self::Done(value) => Ok(value),
            other => bail!("the plugin did not succeed: {other:?}"),
        }
    }
}

impl World {
    /// Calls the plugin, whole.
    pub fn call(&self, verb: &str, pod: &Pod, more: Value) -> Result<Outcome> {
        self.run(Command::new(self.program("manx-cni")), verb, pod, more)
    }

    /// Calls the plugin and kills it after some time, if it still runs then.
    pub fn call_until(&self, verb: &str, pod: &Pod, more: Value, death: Option<Duration>) -> Result<Outcome> {
        let Some(death) = death else { return self.call(verb, pod, more) };
        let mut command = Command::new("timeout");
        command.args(["--signal=KILL", &format!("{:.6}", death.as_secs_f64())]).arg(self.program("manx-cni"));
        self.run(command, verb, pod, more)
    }

    /// Calls the plugin under `strace` with some options, and its trace in a file.
    pub fn traced(
        &self,
        options: &[&str],
        trace: &Path,
        verb: &str,
        pod: &Pod,
        more: Value,
    ) -> Result<Outcome> {
        let mut command = Command::new("strace");
        command.args(["-qq", "-o"]).arg(trace).args(options).arg(self.program("manx-cni"));
        self.run(command, verb, pod, more)
    }

    /// Calls the plugin and does it harm at a point; also, whether it came there.
    pub fn harmed(
        &self,
        harm: Harm,
        point: &Point,
        verb: &str,
        pod: &Pod,
        more: Value,
    ) -> Result<(Outcome, bool)> {
        let trace = self.file("harm");
        let only = format!("trace={}", point.name);
        let options = ["-e", &only, "-e", &harm.injection(point)];
        let outcome = self.traced(&options, &trace, verb, pod, more)?;
        let met = match harm {
            Harm::Kill => outcome == Outcome::Killed,
            Harm::Fail(_) => std::fs::read_to_string(&trace).is_ok_and(|text| text.contains("(INJECTED)")),
        };
        Ok((outcome, met))
    }

    /// Gives a pod its network; the call has to succeed.
    pub fn add(&self, pod: &mut Pod) -> Result<()> {
        let result = self
            .call("ADD", pod, Value::Null)?
            .done()
            .with_context(|| format!("ADD of {}", pod.container))?;
        pod.result = Some(result);
        Ok(())
    }

    /// Ends a pod's network; the call has to succeed.
    pub fn del(&self, pod: &mut Pod) -> Result<()> {
        self.call("DEL", pod, Value::Null)?.done().with_context(|| format!("DEL of {}", pod.container))?;
        pod.result = None;
        Ok(())
    }

    /// Has the plugin look at a pod; the call has to succeed.
    pub fn check_by_plugin(&self, pod: &Pod) -> Result<()> {
        let more = json!({ "prevResult": pod.result });
        self.call("CHECK", pod, more)?.done().with_context(|| format!("CHECK of {}", pod.container)).map(drop)
    }

    /// Has everything removed but these pods; the call has to succeed.
    pub fn gc(&self, kept: &[&Pod]) -> Result<()> {
        self.call("GC", &Pod::nobody(), valid(kept))?.done().context("GC").map(drop)
    }

    fn run(&self, mut command: Command, verb: &str, pod: &Pod, more: Value) -> Result<Outcome> {
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("CNI_COMMAND", verb);
        command.env("CNI_PATH", "/opt/cni/bin");
        if verb != "GC" && verb != "STATUS" {
            let args =
                format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=crash;K8S_POD_NAME={};K8S_POD_UID=u", pod.name);
            command.env("CNI_CONTAINERID", &pod.container).env("CNI_IFNAME", "eth0").env("CNI_ARGS", args);
            command.env("CNI_NETNS", pod.netns_path());
        }
        Ok(Outcome::of(&bounded(command, &self.config(more).to_string())?))
    }

    fn config(&self, more: Value) -> Value {
        let mut config =
            json!({ "cniVersion": "1.1.0", "name": "manx", "type": "manx-cni", "runDir": self.run_dir });
        if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
            config.extend(more);
        }
        config
    }
}

/// The list of attachments that the runtime still knows.
pub fn valid(kept: &[&Pod]) -> Value {
    let list: Vec<Value> =
        kept.iter().map(|pod| json!({ "containerID": pod.container, "ifname": "eth0" })).collect();
    json!({ "cni.dev/valid-attachments": list })
}

/// Runs a command to its end with this input; one that does not end is killed with all that it started, and an error.
fn bounded(mut command: Command, input: &str) -> Result<Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().with_context(|| format!("{:?} does not start", command.get_program()))?;
    let group = Pid::from_raw(i32::try_from(child.id()).context("a process id")?);
    let mut stdin = child.stdin.take().context("no standard input")?;
    // A program that is killed may never read.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let (sender, ended) = mpsc::sync_channel(1);
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    match ended.recv_timeout(BOUND) {
        Ok(output) => output.context("waiting for the plugin"),
        Err(_) => {
            let _ = killpg(group, Signal::SIGKILL);
            bail!("the plugin HANGS: no end within {BOUND:?}")
        }
    }
}

/// Whether a call that was done harm may end like this.
pub fn judge(harm: Harm, point: &Point, outcome: &Outcome, met: bool) -> Result<()> {
    match (harm, outcome) {
        (_, Outcome::Done(_)) | (Harm::Fail(_), Outcome::Refused(..)) => Ok(()),
        (Harm::Kill, Outcome::Killed) => Ok(()),
        (Harm::Fail(_), Outcome::Dumb(words)) if met => {
            // Without memory or standard output nothing can be printed; without a way back there is no other end.
            let memory =
                ["brk", "mmap", "munmap", "mremap", "mprotect", "sigaltstack"].contains(&&*point.name);
            let mute = point.name == "write" && point.rest.starts_with("1,");
            let stranded = point.name == "setns";
            ensure!(memory || mute || stranded, "it ends without a word that a runtime understands: {words}");
            Ok(())
        }
        (_, other) => bail!("it ends wrongly: {other:?}"),
    }
}
