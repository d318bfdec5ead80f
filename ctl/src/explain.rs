//! `manxctl explain`: all that belongs to an address, a pod or a prefix, from its pool to the route on every other node,
//! and where that chain breaks.
//!
//! [`gather`] reads objects and asks nodes; [`reason`] is pure and finds the chain; [`draw`] makes text of it.

mod draw;
mod gather;
mod reason;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Result, bail};
use hyper::Uri;
use ipnetwork::IpNetwork;
use serde::Serialize;

use crate::agent::Address;
use crate::finding::{self, Finding};
use crate::show::{Format, Output};
use crate::{Context, write_out};

/// What to explain.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  manxctl explain default/web
  manxctl explain 10.244.1.5
  manxctl explain 10.244.1.0/26 -o json
  manxctl explain 10.244.1.0/26 --agent http://127.0.0.1:9179")]
pub(crate) struct Options {
    /// An address, a prefix, or a pod as NAME or NAMESPACE/NAME.
    #[arg(value_name = "IP|POD|PREFIX")]
    what: String,
    /// Ask no cluster, but the agent at this address, which explains a prefix as its BGP speaker sees it: for a node
    /// that does not reach the API server, http://127.0.0.1:9179.
    #[arg(long, value_name = "URI")]
    agent: Option<Uri>,
    #[command(flatten)]
    output: Output,
}

/// What was named.
#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Network(IpNetwork),
    Pod { namespace: Option<String>, name: String },
}

impl What {
    fn parse(text: &str) -> Result<Self> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Network(address.into()));
        }
        match text.parse::<IpNetwork>() {
            Ok(network) if network.ip() == network.network() => return Ok(Self::Network(network)),
            Ok(network) => {
                bail!("{text} has bits behind its length: say {}/{}", network.network(), network.prefix())
            }
            Err(_) => {}
        }
        Ok(match text.split_once('/') {
            Some((namespace, name)) => {
                Self::Pod { namespace: Some(namespace.to_owned()), name: name.to_owned() }
            }
            None => Self::Pod { namespace: None, name: text.to_owned() },
        })
    }
}

/// Explains it.
pub(crate) async fn run(options: Options, context: &Context) -> Result<ExitCode> {
    let what = What::parse(&options.what)?;
    if let Some(agent) = options.agent {
        let What::Network(network) = what else {
            bail!("an agent alone explains prefixes and addresses, no pods")
        };
        let json = options.output.output == Some(Format::Json);
        let path =
            format!("/bgp/explain?prefix={network}&covering=1{}", if json { "&format=json" } else { "" });
        write_out(&Address::at(agent).get(&path).await?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let report = {
        let progress = context.show.progress("reading the cluster");
        let gathered = gather::gather(what, context, &progress).await?;
        reason::report(&gathered)
    };
    context.show.asked(options.output).print(&report, draw::report)?;
    Ok(finding::exit_code(&report.findings))
}

/// Everything about what was named.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    /// In words: `pod default/web`, `10.244.1.5`.
    subject: String,
    /// One for each address of a pod, else one.
    chains: Vec<Chain>,
    /// Nodes that did not answer, with why.
    away: Vec<AwayNode>,
    /// What is wrong.
    findings: Vec<Finding>,
}

/// A node that did not answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct AwayNode {
    node: String,
    why: String,
}

/// What belongs to one address or prefix, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Chain {
    /// The address as a /32 or /128, or the prefix.
    network: IpNetwork,
    /// What it is, link by link, in words.
    links: Vec<Link>,
    /// The node where it is, if it is on one.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    /// The prefix by which that node announces it.
    #[serde(skip_serializing_if = "Option::is_none")]
    announced: Option<IpNetwork>,
    /// Whom that node tells, and whom not.
    told: Vec<Told>,
    /// How every other node gets there.
    nodes: Vec<Way>,
}

/// One link of the chain, such as the pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Link {
    what: &'static str,
    is: String,
}

/// One peer and what it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Told {
    peer: String,
    told: bool,
    /// What the peer reads.
    #[serde(skip_serializing_if = "String::is_empty")]
    attributes: String,
    /// By which rule, or why not.
    by: String,
}

/// How a node gets there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Way {
    node: String,
    /// The prefix in its BGP table, its best path, and why that one.
    bgp: String,
    why: String,
    /// The route in its kernel.
    kernel: String,
    /// Other paths of its table, with why each lost or was refused.
    others: Vec<String>,
}
