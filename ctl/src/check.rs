//! `manxctl check`: whether Manx can be installed, found out on the machines themselves, before anything of it is there.

mod stage;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use manx_facts::host::HostQuestion;

use crate::Context;
use crate::ask::Nodes;
use crate::checks::{Facts, Scope, Seen, Verdicts, When, cluster, gather, reached};
use crate::show::Output;

use stage::Stage;

/// What is asked of whom.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Without --local a DaemonSet `manx-check` is made in a namespace of that name, each node is asked \
in its pod, and both are removed again, whatever happens. That needs the rights of a cluster's administrator \
(docs/check.md).

Examples:
  manxctl check --image registry.example/manx:0.1.0
  manxctl check --objects pools.yaml      # the pools and peers that shall be
  manxctl check --local                   # this machine, before it joins"
)]
pub(crate) struct Options {
    /// Only this machine, by the manx-agent on its PATH; as root.
    #[arg(long, conflicts_with = "image")]
    local: bool,
    /// The image of Manx, which the nodes must have or be able to pull.
    #[arg(long, default_value = concat!("manx:", env!("CARGO_PKG_VERSION")))]
    image: String,
    /// Pools and peers that shall be. Unset: those that there are; if there are none, those of deploy/manx.yaml.
    #[arg(long, value_name = "FILE")]
    objects: Option<PathBuf>,
    /// Seconds that the pods may take to start, pulling the image included.
    #[arg(long, value_name = "SECONDS", default_value = "90")]
    wait: u64,
    #[command(flatten)]
    output: Output,
}

/// Looks and says what was found.
pub(crate) async fn run(options: Options, context: &Context) -> Result<ExitCode> {
    let local = options.local;
    let facts = if local { this_machine(&options, context).await? } else { nodes(&options, context).await? };
    let asked = |check: &crate::checks::Check| {
        check.when != When::Running
            && (!local || check.scope == Scope::Machine || LOCAL.contains(&check.name))
    };
    let verdicts = Verdicts::of(&facts, asked);
    context.show.asked(options.output).print(&verdicts, Verdicts::text)?;
    Ok(verdicts.exit_code())
}

/// Checks of a cluster that say something of a single machine, too.
const LOCAL: [&str; 3] = ["pools overlap nothing", "kube-proxy", "peers answer"];

async fn this_machine(options: &Options, context: &Context) -> Result<Facts> {
    let mut facts = Facts::default();
    match &options.objects {
        Some(path) => cluster::from_file(path, &mut facts.cluster)?,
        None => cluster::shipped(&mut facts.cluster)?,
    }
    facts.nodes.insert(String::new(), Seen::default());
    let progress = context.show.progress("asking this machine");
    let question = |facts: &Facts, name: &str| HostQuestion {
        reach: reached::peers_of(facts, name),
        ..reached::question(facts, name)
    };
    gather::ask(&Nodes::here().with_patience(gather::PATIENCE), &mut facts, question, &progress).await;
    let seen = facts.nodes.remove("").unwrap_or_default();
    match &seen.host {
        Ok(host) => facts.nodes.insert(host.name.clone(), seen),
        Err(why) => {
            bail!("{why}; manx-agent is in the image: `manx-agent` must be on the PATH, and this run as root")
        }
    };
    Ok(facts)
}

async fn nodes(options: &Options, context: &Context) -> Result<Facts> {
    let client = context.client().await?;
    let progress = context.show.progress("reading the cluster");
    let mut facts = cluster::read(&client, options.objects.as_deref()).await?;
    let stage = Stage::new(client);
    let outcome = tokio::select! {
        outcome = ask(&stage, options, &mut facts, &progress) => outcome,
        signal = told_to_end() => Err(signal),
    };
    progress.say("removing the DaemonSet manx-check and its namespace");
    let removed = stage.remove().await.context("the namespace manx-check is left: delete it");
    // What went wrong first tells more.
    outcome.and(removed).map(|()| facts)
}

async fn ask(
    stage: &Stage,
    options: &Options,
    facts: &mut Facts,
    progress: &crate::show::Progress,
) -> Result<()> {
    progress.say("removing what an earlier check left");
    stage.remove().await?;
    progress.say("starting the pods of manx-check");
    let wanted = facts.nodes.keys().cloned().collect();
    let nodes = stage.set(&options.image, &wanted, Duration::from_secs(options.wait)).await?;
    progress.say("asking the nodes");
    let question = |facts: &Facts, name: &str| {
        let mut question = reached::question(facts, name);
        question.reach.extend(reached::peers_of(facts, name));
        HostQuestion { root: Some("/host".to_owned()), api: true, ..question }
    };
    gather::ask(&nodes.running.with_patience(gather::PATIENCE), facts, question, progress).await;
    for (node, why) in nodes.waiting {
        if let Some(seen) = facts.nodes.get_mut(&node) {
            seen.host = Err(why);
        }
    }
    Ok(())
}

/// Ctrl-C, or a request to end.
async fn told_to_end() -> anyhow::Error {
    let told = tokio::signal::ctrl_c().await;
    match told {
        Ok(()) => anyhow::anyhow!("interrupted"),
        Err(error) => anyhow::Error::from(error).context("cannot wait for Ctrl-C"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checks_that_one_machine_is_asked_for_exist() {
        let names: Vec<&str> = crate::checks::CHECKS.iter().map(|check| check.name).collect();
        assert!(LOCAL.iter().all(|name| names.contains(name)), "{names:?}");
    }
}
