//! `manxctl doctor`: what is wrong with a running Manx and its nodes, found out live, with the cure.

use std::process::ExitCode;

use anyhow::Result;
use manx_facts::host::HostQuestion;

use crate::Context;
use crate::checks::{Facts, Verdicts, When, cluster, gather, reached};
use crate::cluster::{Cluster, Part};
use crate::show::Output;

/// How it is shown.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  manxctl doctor
  manxctl doctor -o json | jq '.checks[] | select(.well | not)'")]
pub(crate) struct Options {
    #[command(flatten)]
    output: Output,
}

/// Looks and says what was found.
pub(crate) async fn run(options: Options, context: &Context) -> Result<ExitCode> {
    let facts = facts(context).await?;
    let verdicts = Verdicts::of(&facts, |check| check.when != When::Before);
    context.show.asked(options.output).print(&verdicts, Verdicts::text)?;
    Ok(verdicts.exit_code())
}

/// Everything that the checks look at.
///
/// # Errors
/// When the API server is away, or Manx is not installed.
pub(crate) async fn facts(context: &Context) -> Result<Facts> {
    let client = context.client().await?;
    let objects = Cluster::read(context, &Part::ALL).await?;
    let progress = context.show.progress("reading the cluster");
    let mut facts = cluster::read(&client, None).await?;
    facts.manx = gather::manx(objects);
    let nodes = context.nodes().await?.with_patience(gather::PATIENCE);
    progress.say("asking the nodes");
    let question = |facts: &Facts, name: &str| HostQuestion {
        api: true,
        pages: vec!["/metrics".to_owned()],
        ..reached::question(facts, name)
    };
    gather::ask(&nodes, &mut facts, question, &progress).await;
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use crate::checks::{CHECKS, When};

    #[test]
    fn what_only_a_running_manx_has_is_not_asked_for_before_and_the_other_way_round() {
        let before = CHECKS.iter().filter(|check| check.when == When::Before).count();
        let running = CHECKS.iter().filter(|check| check.when == When::Running).count();
        assert!(before > 3 && running > 8 && CHECKS.len() > before + running);
    }
}
