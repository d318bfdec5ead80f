//! `manxctl` as operators call it, and what it says.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use manx_tests::kubernetes::Cluster;
use manx_tests::lab::wait;

/// How long it may take until a status is written and read.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a call said on both outputs, and its exit status.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) text: String,
    pub(crate) code: Option<i32>,
}

impl Told {
    /// All of these words are in the text, and this is the exit status.
    pub(crate) fn says(self, code: i32, words: &[&str]) -> Result<Self> {
        for word in words {
            ensure!(self.text.contains(word), "{word:?} is not in\n{}", self.text);
        }
        ensure!(self.code == Some(code), "exit status {:?} in place of {code}:\n{}", self.code, self.text);
        Ok(self)
    }
}

/// A way to call `manxctl`.
pub(crate) struct Manxctl<'a> {
    cluster: &'a Cluster,
    way: Way,
}

enum Way {
    Itself,
    Plugin,
    As(PathBuf),
}

impl<'a> Manxctl<'a> {
    /// The program itself, by an administrator.
    pub(crate) fn of(cluster: &'a Cluster) -> Self {
        Self { cluster, way: Way::Itself }
    }

    /// `kubectl manx`, by an administrator.
    pub(crate) fn by_kubectl(cluster: &'a Cluster) -> Self {
        Self { cluster, way: Way::Plugin }
    }

    /// The program itself, by somebody with a kubeconfig of their own.
    pub(crate) fn by_owner_of(cluster: &'a Cluster, kubeconfig: PathBuf) -> Self {
        Self { cluster, way: Way::As(kubeconfig) }
    }

    /// The command, to be run by the caller.
    pub(crate) fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = match &self.way {
            Way::Plugin => self.cluster.kubectl_with_plugin()?,
            Way::Itself | Way::As(_) => self.cluster.manxctl_command()?,
        };
        if matches!(self.way, Way::Plugin) {
            command.arg("manx");
        }
        command.args(args);
        if let Way::As(kubeconfig) = &self.way {
            // Given a second time, behind the command, it is this one that counts.
            command.arg("--kubeconfig").arg(kubeconfig);
        }
        Ok(command)
    }

    /// Calls it, and shows both the call and the answer.
    pub(crate) fn call(&self, args: &[&str]) -> Result<Told> {
        let output = self.command(args)?.output().context("cannot run it")?;
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let name = if matches!(self.way, Way::Plugin) { "kubectl manx" } else { "manxctl" };
        println!("$ {name} {}\n{text}", args.join(" "));
        Ok(Told { text, code: output.status.code() })
    }

    /// It says these words and ends with this code, at once.
    pub(crate) fn says(&self, args: &[&str], code: i32, words: &[&str]) -> Result<Told> {
        self.call(args)?.says(code, words).with_context(|| format!("{args:?}"))
    }

    /// It comes to say so, since sessions and statuses take their time.
    pub(crate) fn comes_to_say(&self, args: &[&str], code: i32, words: &[&str]) -> Result<Told> {
        let mut last = None;
        wait::until(&format!("{args:?} says so"), PATIENCE, || {
            last = Some(self.call(args)?.says(code, words)?);
            Ok(true)
        })?;
        last.context("it never answered")
    }
}
