//! The speaker under test: the agent as it ships, told by files what it is, in a namespace of its own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;

use super::NotThere;
use crate::lab::{netns, wait};

/// How long the agent may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// One session of the agent.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Whether it is established.
    pub(super) established: bool,
    /// Why the last one ended.
    pub(super) last_error: String,
    /// Prefixes received.
    pub(super) received: u64,
    /// Prefixes that policy let through.
    pub(super) accepted: u64,
}

/// An agent, which ends with this value.
#[derive(Debug)]
pub(super) struct Subject {
    netns: String,
    dir: PathBuf,
    program: PathBuf,
    child: Option<Child>,
}

impl Subject {
    /// Writes `objects` and starts the agent inside `netns`.
    ///
    /// # Errors
    /// [`NotThere`] when it does not know a field of the objects, or what to do with it.
    pub(super) fn start(program: &Path, netns: &str, dir: &Path, objects: &[Value]) -> Result<Self> {
        std::fs::create_dir_all(dir.join("objects"))?;
        let mut subject =
            Self { netns: netns.to_owned(), dir: dir.to_owned(), program: program.to_owned(), child: None };
        subject.declare(objects)?;
        subject.launch()?;
        Ok(subject)
    }

    /// Replaces what the agent is told.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn declare(&self, objects: &[Value]) -> Result<()> {
        let mut text = String::new();
        for object in objects {
            text.push_str("---\n");
            text.push_str(&serde_yaml_ng::to_string(object)?);
        }
        let place = self.dir.join("objects/all.yaml");
        let new = self.dir.join("new");
        std::fs::write(&new, text)?;
        std::fs::rename(new, place).map_err(Into::into)
    }

    /// Starts the process, again after [`Subject::kill`].
    ///
    /// # Errors
    /// When it ends at once or refuses what it was told.
    pub(super) fn launch(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.dir.join("agent.log"))?;
        let mut command = netns::command(&self.netns, &self.program);
        command.args(["--node-name", "dut", "--objects"]).arg(self.dir.join("objects"));
        command.arg("--run-dir").arg(self.run_dir());
        command.env("MANX_LOG", std::env::var("MANX_LOG").unwrap_or_else(|_| "info".to_owned()));
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let shown = self.run_dir().join("status.yaml");
        let child = self.child.insert(child);
        wait::until("the agent shows its status", PATIENCE, || {
            anyhow::ensure!(child.try_wait()?.is_none(), "the agent ended");
            Ok(shown.exists())
        })
        .with_context(|| format!("its log: {}", self.log()))?;
        self.ensure_understood()
    }

    /// Kills the agent without a word; what it put into the kernel stays.
    ///
    /// # Errors
    /// When it does not end.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)
    }

    /// The session of that name; one that is not configured is down.
    ///
    /// # Errors
    /// When the status cannot be read.
    pub(super) fn session(&self, name: &str) -> Result<Seen> {
        let status = self.status()?;
        let sessions = status["status"]["sessions"].as_array().cloned().unwrap_or_default();
        let found = sessions.into_iter().find(|session| session["peer"] == name).unwrap_or_default();
        Ok(Seen {
            established: found["state"] == "Established",
            last_error: found["lastError"].as_str().map_or_else(
                || if found["lastError"].is_null() { String::new() } else { found["lastError"].to_string() },
                str::to_owned,
            ),
            received: found["received"].as_u64().unwrap_or(0),
            accepted: found["accepted"].as_u64().unwrap_or(0),
        })
    }

    /// The prefixes that it brought into the kernel of its namespace.
    ///
    /// # Errors
    /// When the namespace is gone.
    pub(super) fn kernel_routes(&self) -> Result<Vec<Value>> {
        let mut routes = Vec::new();
        for family in ["-4", "-6"] {
            let argv = ["ip", "-j", family, "route", "show", "proto", "179"];
            routes.extend(netns::json(&self.netns, &argv)?.as_array().cloned().unwrap_or_default());
        }
        Ok(routes)
    }

    /// What the kernel would do with a packet for `prefix`: the route, and the next-hop objects that it leads to.
    ///
    /// # Errors
    /// When the namespace is gone.
    pub(super) fn route(&self, prefix: &str) -> Result<Option<Value>> {
        let Some(mut route) = self.kernel_routes()?.into_iter().find(|route| route["dst"] == prefix) else {
            return Ok(None);
        };
        let hops = netns::json(&self.netns, &["ip", "-j", "nexthop", "show"])?;
        let all = hops.as_array().cloned().unwrap_or_default();
        let find = |id: &Value| all.iter().find(|hop| hop["id"] == *id).cloned();
        let mut used: Vec<Value> = find(&route["nhid"]).into_iter().collect();
        let members: Vec<Value> =
            used.iter().flat_map(|hop| hop["group"].as_array().cloned().unwrap_or_default()).collect();
        used.extend(members.iter().filter_map(|member| find(&member["id"])));
        route["hops"] = Value::Array(used);
        Ok(Some(route))
    }

    /// The object that it publishes of itself.
    ///
    /// # Errors
    /// When it has published none.
    pub(super) fn status(&self) -> Result<Value> {
        let text = std::fs::read_to_string(self.run_dir().join("status.yaml")).context("no status yet")?;
        serde_yaml_ng::from_str(&text).context("the status is no YAML")
    }

    /// What it has written to its log.
    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("agent.log")).unwrap_or_default()
    }

    /// Fails with [`NotThere`] when it says that it cannot do what it is told.
    ///
    /// # Errors
    /// See above.
    pub(super) fn ensure_understood(&self) -> Result<()> {
        let status = self.status()?;
        let conditions = status["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let problem = conditions.iter().find(|is| is["type"] == "Configured" && is["status"] == "False");
        let Some(problem) = problem.and_then(|problem| problem["message"].as_str()) else { return Ok(()) };
        if ["unknown field", "supported yet", "not carried out"].iter().any(|words| problem.contains(words)) {
            return Err(NotThere(problem.to_owned()).into());
        }
        // A peer on a link that has not advertised itself yet is a matter of time.
        anyhow::ensure!(problem.contains("advertises"), "the agent refuses what it is told: {problem}");
        Ok(())
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        if child.try_wait()?.is_none() {
            nix::sys::signal::kill(Pid::from_raw(i32::try_from(child.id())?), signal)?;
        }
        let ended = wait::until("the agent ends", PATIENCE, || Ok(child.try_wait()?.is_some()));
        if ended.is_err() {
            child.kill()?;
            child.wait()?;
        }
        // What it published is no longer true; a new one is awaited by the file.
        let _ = std::fs::remove_file(self.run_dir().join("status.yaml"));
        ended
    }

    fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("an agent could not be ended: {error:#}");
        }
    }
}
