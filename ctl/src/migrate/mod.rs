//! `manxctl migrate`: pools, blocks and pods of another network, taken over without restarting a pod.
//!
//! - `calico`, `read`: what Calico keeps in the API server
//! - `plan`: what of ours stands for it, and what cannot be taken over; `selector`, `pools`, `blocks`, `bgp`, `filters`,
//!   `peers` are its parts
//! - `apply`: the writes that follow, safe to repeat
//!
//! What happens on each node is the agent's part; `docs/migrate-calico.md` tells the whole of it.

mod apply;
mod bgp;
mod blocks;
mod calico;
mod filters;
mod peers;
mod plan;
mod pools;
mod read;
mod selector;
#[cfg(test)]
mod tests;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use kube::{Client, ResourceExt};
use manx_api::NodeNetwork;

use apply::{Existing, Step};
use plan::{Choices, Plan, Remark, Remarks, Weight};

/// The pause between two looks of `--follow`.
const FOLLOW_PAUSE: Duration = Duration::from_secs(1);

/// Another network to move in from.
#[derive(clap::Subcommand)]
pub(crate) enum From {
    /// Takes over pools, blocks, BGP and the pods' addresses of Calico; exit status 1 when something is in the way.
    Calico(Arguments),
}

/// How.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "Examples:
  manxctl migrate calico --dry-run        # what would go over, and what cannot
  manxctl migrate calico --node node1")]
pub(crate) struct Arguments {
    /// Write nothing: show what would be made, and what cannot be taken over.
    #[arg(long)]
    dry_run: bool,
    /// Show the objects themselves: `yaml`. Remarks go to standard error.
    #[arg(long, short)]
    output: Option<Format>,
    /// Only the blocks of this node; may be repeated.
    #[arg(long)]
    node: Vec<String>,
    /// Go on for as long as there are blocks that their node has not taken over, so that what Calico gives and takes back
    /// meanwhile is known.
    #[arg(long, conflicts_with = "dry_run")]
    follow: bool,
    /// Move pools with tunnels too: their packets are routed as they are from then on.
    #[arg(long)]
    drop_tunnels: bool,
}

/// How objects are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// As YAML documents.
    Yaml,
}

/// Runs it.
///
/// # Errors
/// When the cluster cannot be read or written.
pub(crate) async fn run(from: From, context: &crate::Context) -> Result<ExitCode> {
    let From::Calico(arguments) = from;
    let client = context.client().await?;
    let look = Look::new(&client, &arguments, context.manx_namespace()).await?;
    if arguments.dry_run || arguments.output.is_some() {
        look.show(arguments.output)?;
    } else {
        look.remarks_to_stderr();
    }
    if look.is_blocked() {
        eprintln!("nothing was written: settle what is in the way first");
        return Ok(ExitCode::FAILURE);
    }
    if arguments.dry_run {
        return Ok(ExitCode::SUCCESS);
    }
    look.carry_out(&client).await?;
    match arguments.follow {
        true => follow(&client, &arguments, context.manx_namespace()).await,
        false => Ok(ExitCode::SUCCESS),
    }
}

/// Looks again and again until every node has taken its blocks over.
async fn follow(client: &Client, arguments: &Arguments, namespace: &str) -> Result<ExitCode> {
    loop {
        tokio::time::sleep(FOLLOW_PAUSE).await;
        let look = Look::new(client, arguments, namespace).await?;
        if look.is_blocked() {
            look.remarks_to_stderr();
            return Ok(ExitCode::FAILURE);
        }
        // A block that its owner took over in this moment is of another version by now: the next look sees it.
        if let Err(error) = look.carry_out(client).await {
            eprintln!("{error:#}");
        }
        if look.waiting == 0 {
            println!("every block has been taken over");
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// The plan as things are now, and what is left to be written.
struct Look {
    plan: Plan,
    steps: Vec<Step>,
    remarks: Vec<Remark>,
    /// Blocks that their node has not taken over.
    waiting: usize,
}

impl Look {
    async fn new(client: &Client, arguments: &Arguments, namespace: &str) -> Result<Self> {
        let calico = read::calico(client).await?;
        let networks = crate::list::<NodeNetwork>(client).await?;
        let existing = Existing {
            pools: crate::list(client).await?,
            configurations: crate::list(client).await?,
            filters: crate::list(client).await?,
            peers: crate::list(client).await?,
            blocks: crate::list(client).await?,
        };
        let choices = Choices {
            drop_tunnels: arguments.drop_tunnels,
            namespace: namespace.to_owned(),
            moved: networks.iter().map(ResourceExt::name_any).collect(),
        };
        Ok(Self::at(Plan::new(&calico, &choices), &existing, &arguments.node))
    }

    /// The plan against what there is.
    fn at(plan: Plan, existing: &Existing, nodes: &[String]) -> Self {
        let mut more = Remarks::default();
        let steps = apply::steps(&plan, existing, nodes, &mut more);
        let mut remarks: Vec<Remark> = plan.remarks.iter().cloned().chain(more.0).collect();
        remarks.sort();
        let handed = existing.blocks.iter().filter_map(|block| block.status.as_ref());
        let waiting = handed.filter(|status| status.handed_over_by.is_some()).count();
        Self { plan, steps, remarks, waiting }
    }

    fn is_blocked(&self) -> bool {
        self.plan.is_blocked() || self.remarks.iter().any(|remark| remark.weight == Weight::Blocker)
    }

    fn show(&self, format: Option<Format>) -> Result<()> {
        match format {
            Some(Format::Yaml) => {
                self.remarks_to_stderr();
                crate::write_out(yaml(&self.plan)?.as_bytes())
            }
            None => crate::write_out(self.summary().as_bytes()),
        }
    }

    /// What would be done, and everything that there is to say.
    fn summary(&self) -> String {
        let mut text = String::new();
        for step in &self.steps {
            text.push_str(&format!("would have {}\n", step.told()));
        }
        if self.steps.is_empty() {
            text.push_str("everything is there as it should be\n");
        }
        for remark in &self.remarks {
            text.push_str(&line(remark));
        }
        text
    }

    fn remarks_to_stderr(&self) {
        for remark in &self.remarks {
            eprint!("{}", line(remark));
        }
    }

    async fn carry_out(&self, client: &Client) -> Result<()> {
        for step in &self.steps {
            step.carry_out(client).await?;
            println!("{}", step.told());
        }
        Ok(())
    }
}

fn line(remark: &Remark) -> String {
    format!("{}: {}: {}\n", remark.weight.word(), remark.about, remark.text)
}

/// All objects of a plan, blocks with who has which address.
fn yaml(plan: &Plan) -> Result<String> {
    let mut documents = Vec::new();
    let mut add = |object: serde_yaml_ng::Result<String>| -> Result<()> {
        documents.push(object.context("an object cannot be written as YAML")?);
        Ok(())
    };
    plan.pools.iter().try_for_each(|object| add(serde_yaml_ng::to_string(object)))?;
    plan.configuration.iter().try_for_each(|object| add(serde_yaml_ng::to_string(object)))?;
    plan.filters.iter().try_for_each(|object| add(serde_yaml_ng::to_string(object)))?;
    plan.peers.iter().try_for_each(|object| add(serde_yaml_ng::to_string(object)))?;
    plan.blocks.iter().try_for_each(|object| add(serde_yaml_ng::to_string(object)))?;
    Ok(documents.join("---\n"))
}
