//! `manxctl trace`: the path of a packet hop by hop, as nodes and pods know it, with real probes sent along it.
//!
//! Pure: [`evidence`] is what is known, [`path`] where probes stop, [`judge`] why, [`hops`] what is drawn. [`target`] asks
//! the API server who is meant, [`gather`] asks the nodes.

mod evidence;
mod gather;
mod hops;
mod judge;
mod path;
mod picture;
mod target;
#[cfg(test)]
mod tests;
mod text;
pub(crate) mod words;

use std::process::ExitCode;

use anyhow::Result;

use crate::show::{Format, Output};
use crate::{Context, finding, write_out};

/// What to trace.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  manxctl trace web-0 db-0                  # from pod to pod, by ICMP
  manxctl trace shop/web-0 svc/db --port 5432
  manxctl trace web-0 192.0.2.10 -o html > trace.html")]
pub(crate) struct Options {
    /// The pod that sends: NAME or NAMESPACE/NAME, or its address.
    pod: String,
    /// Where to: NAME, NAMESPACE/NAME, pod/NAME or svc/NAME, or any address; unset: the Service of the API server.
    #[arg(value_name = "POD|SERVICE|IP", default_value = "svc/default/kubernetes")]
    to: String,
    /// The port there; unset: the first of the Service, or none, by ICMP.
    #[arg(long, short)]
    port: Option<u16>,
    /// What to send; unset: tcp with a port, else icmp.
    #[arg(long, value_enum)]
    protocol: Option<Protocol>,
    /// By IPv6, where both ends have addresses of both families.
    #[arg(long, short = '6')]
    ipv6: bool,
    /// As data, as a picture, or with more of what was asked.
    #[arg(long, short, value_enum, value_name = "json|yaml|wide|svg|html", hide_possible_values = true)]
    output: Option<Form>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Protocol {
    Icmp,
    Udp,
    Tcp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    Json,
    Yaml,
    Wide,
    Svg,
    Html,
}

/// Sends probes, and shows where they go; exit status 1 when something is wrong on the way.
pub(crate) async fn run(options: Options, context: &Context) -> Result<ExitCode> {
    let asked = target::Asked {
        pod: options.pod,
        to: options.to,
        port: options.port,
        protocol: options.protocol.map(|protocol| match protocol {
            Protocol::Icmp => manx_facts::probe::Protocol::Icmp,
            Protocol::Udp => manx_facts::probe::Protocol::Udp,
            Protocol::Tcp => manx_facts::probe::Protocol::Tcp,
        }),
        ipv6: options.ipv6,
    };
    let progress = context.show.progress("finding both ends");
    let journey = target::find(&asked, context).await?;
    drop(progress);
    let progress = context.show.progress("sending probes");
    let evidence = gather::gather(journey, context).await?;
    drop(progress);
    let trace = hops::Trace::of(&evidence);
    let format = match options.output {
        None => None,
        Some(Form::Json) => Some(Format::Json),
        Some(Form::Yaml) => Some(Format::Yaml),
        Some(Form::Wide) => Some(Format::Wide),
        Some(Form::Svg) => {
            write_out(picture::svg(&trace).as_bytes())?;
            return Ok(finding::exit_code(&trace.findings()));
        }
        Some(Form::Html) => {
            write_out(picture::html(&trace).as_bytes())?;
            return Ok(finding::exit_code(&trace.findings()));
        }
    };
    context.show.asked(Output { output: format }).print(&trace, text::draw)?;
    Ok(finding::exit_code(&trace.findings()))
}
