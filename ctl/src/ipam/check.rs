//! `manxctl ipam check`: the audit, looked at until what is only in flight has landed.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use futures_util::future::join;
use manx_facts::kernel::KernelQuestion;
use manx_facts::record::RecordQuestion;
use serde::Serialize;

use super::audit::{self, Difference, Seen, Sight};
use super::pods;
use crate::Context;
use crate::ask::{Away, Nodes};
use crate::cluster::{Cluster, Part};
use crate::finding::{self, Finding};
use crate::show::{Output, Page, Tone};

/// How often one looks at most.
const LOOKS: usize = 3;
/// The longest pause between two looks, in seconds.
const LONGEST_PAUSE: u64 = 600;

/// How it is looked at and shown.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "It reads and changes nothing, needs no lock, and may run while pods come and go: what disagrees is
looked at again after a pause, and only what still disagrees is told.

Exit status: 0 all agree, 1 something disagrees, 2 some node could not be asked.

Examples:
  manxctl ipam check
  manxctl ipam check -o json | jq '.findings[]'"
)]
pub(crate) struct Options {
    /// Seconds between two looks: what disagrees for as long is no longer in flight.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(..=LONGEST_PAUSE))]
    pause: u64,
    #[command(flatten)]
    output: Output,
}

/// What came out of it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    /// Nothing disagrees, as far as nodes answered.
    well: bool,
    nodes: usize,
    pods: usize,
    addresses: usize,
    blocks: usize,
    looks: usize,
    /// What disagreed at first and then no more.
    in_flight: usize,
    findings: Vec<Finding>,
    /// Nodes that did not answer, and why.
    away: BTreeMap<String, String>,
}

/// Looks, and says who disagrees about what.
pub(crate) async fn run(options: Options, context: &Context) -> Result<ExitCode> {
    let outcome = looked(Duration::from_secs(options.pause), context).await?;
    context.show.asked(options.output).print(&outcome, text)?;
    Ok(match (outcome.well, outcome.away.is_empty()) {
        (true, false) => ExitCode::from(2),
        _ => finding::exit_code(&outcome.findings),
    })
}

async fn looked(pause: Duration, context: &Context) -> Result<Outcome> {
    let nodes = context.nodes().await?;
    let progress = context.show.progress("asking all nodes");
    let (mut seen, mut away) = look(&nodes, context).await?;
    let first = audit::differences(&seen);
    let mut real = first.clone();
    let mut looks = 1;
    while looks < LOOKS && !real.is_empty() {
        progress.say(format!("looking again at {} that may be in flight", real.len()));
        tokio::time::sleep(pause).await;
        (seen, away) = look(&nodes, context).await?;
        let again = audit::differences(&seen);
        real = real.intersection(&again).cloned().collect();
        looks += 1;
    }
    drop(progress);
    Ok(outcome(&seen, away, &first, &real, looks, context.manx_namespace()))
}

fn outcome(
    seen: &Seen,
    away: BTreeMap<String, String>,
    first: &BTreeSet<Difference>,
    real: &BTreeSet<Difference>,
    looks: usize,
    namespace: &str,
) -> Outcome {
    let findings: Vec<Finding> = real.iter().map(|difference| difference.finding(namespace)).collect();
    let endpoints = || seen.nodes.values().flat_map(|sight| &sight.record.endpoints);
    Outcome {
        well: finding::well(&findings),
        nodes: seen.nodes.len(),
        pods: endpoints().count(),
        addresses: endpoints().map(|endpoint| endpoint.addresses.len()).sum(),
        blocks: seen.cluster.blocks.len(),
        looks,
        in_flight: first.len() - real.len(),
        findings,
        away,
    }
}

/// Everything once: the API server, and what every node says of itself. Nodes that do not answer are named.
async fn look(nodes: &Nodes, context: &Context) -> Result<(Seen, BTreeMap<String, String>)> {
    let parts = [Part::Networks, Part::Nodes, Part::Pools, Part::Blocks, Part::Claims];
    let (records, kernels) = (RecordQuestion::default(), KernelQuestion::default());
    let (mut records, kernels) = join(nodes.ask_all(&records), nodes.ask_all(&kernels)).await;
    let client = context.client().await?;
    let mut seen = Seen {
        cluster: Cluster::read(context, &parts).await?,
        pods: pods::all(&client).await?,
        nodes: BTreeMap::new(),
    };
    let mut away = BTreeMap::new();
    for (node, kernel) in kernels {
        let record = records.remove(&node).unwrap_or(Err(Away::NoAgent));
        match (record, kernel) {
            (Ok(record), Ok(kernel)) => drop(seen.nodes.insert(node, Sight { record, kernel })),
            (Err(why), _) | (_, Err(why)) => drop(away.insert(node, why.to_string())),
        }
    }
    Ok((seen, away))
}

fn text(outcome: &Outcome, page: &Page) -> String {
    let Outcome { nodes, pods, addresses, blocks, looks, in_flight, .. } = outcome;
    let times = if *looks == 1 { "once".to_owned() } else { format!("{looks} times") };
    let mut text = format!(
        "looked {times} at {nodes} nodes: {pods} pods with {addresses} addresses, {blocks} blocks; {in_flight} differences were in flight\n"
    );
    if !outcome.away.is_empty() {
        text.push_str(&page.paint(Tone::Doubtful, "not asked:"));
        text.push('\n');
        for (node, why) in &outcome.away {
            text.push_str(&page.wrap(&format!("node {node}: {why}"), "- ", "  "));
            text.push('\n');
        }
    }
    match outcome.well && !outcome.away.is_empty() {
        true => text + "where it was asked, nothing is wrong\n",
        false => text + &finding::render(&outcome.findings, page),
    }
}
