//! `manxctl diags`: everything that tells how the pod network is, in one file without secrets, for who is asked for help.

mod bundle;
mod items;
mod redact;

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use futures_util::stream;
use manx_api::Timestamp;
use tokio::time::Instant;

use crate::Context;
use crate::checks::{Facts, Verdicts, When};
use crate::show::Page;

use bundle::Bundle;
use items::Item;

/// Items fetched at once.
const AT_ONCE: usize = 8;

/// Where it goes, and how long it may take.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "The file `index.txt` in it says what is where, and what could not be had and why. It has no Secrets, \
no environment of any pod, no annotations but Manx's own; what looks like a password, token or key is taken out of logs. \
Addresses and names of nodes and pods are in it.

Exit status: 0 everything is in it, 1 something could not be had, 2 there is no file.

Examples:
  manxctl diags"
)]
pub(crate) struct Options {
    /// Where to write it. Unset: manx-diags-TIME.tar.gz here.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Seconds that all of it may take; what is not there by then is left out.
    #[arg(long, value_name = "SECONDS", default_value = "120")]
    within: u64,
    /// The most octets of all files before they are packed, in MiB.
    #[arg(long, value_name = "MIB", default_value = "256")]
    size: u64,
}

/// Makes the file.
pub(crate) async fn run(options: Options, context: &Context) -> Result<ExitCode> {
    let deadline = Instant::now() + Duration::from_secs(options.within);
    let name = format!("manx-diags-{}", Timestamp::now().strftime("%Y%m%d-%H%M%S"));
    let path = options.output.unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut bundle = Bundle::new(file, &name, options.size << 20);
    let client = context.client().await?;
    match tokio::time::timeout_at(deadline, crate::doctor::facts(context)).await {
        Ok(Ok(facts)) => doctor(&mut bundle, &facts)?,
        Ok(Err(error)) => bundle.miss("doctor.txt", &format!("{error:#}")),
        Err(_) => bundle.miss("doctor.txt", bundle::TIME_IS_UP),
    }
    let progress = context.show.progress("collecting");
    let mut all = items::objects(&client, context.manx_namespace());
    all.extend(items::logs(&client, context.manx_namespace()).await);
    match context.nodes().await {
        Ok(nodes) => all.extend(items::nodes(&nodes)),
        Err(error) => bundle.miss("nodes", &format!("{error:#}")),
    }
    let of = all.len();
    let fetch = |item: Item| async move {
        let text = tokio::time::timeout_at(deadline, item.text).await;
        (item.path, item.about, text.unwrap_or_else(|_| Err(bundle::TIME_IS_UP.to_owned())))
    };
    let mut fetched = stream::iter(all).map(fetch).buffer_unordered(AT_ONCE);
    let mut done = 0;
    while let Some((path, about, text)) = fetched.next().await {
        done += 1;
        progress.count(done, of);
        match text {
            Ok(text) if text.is_empty() => {}
            Ok(text) => bundle.add(&path, about, &text)?,
            Err(why) => bundle.miss(&path, &why),
        }
    }
    drop(progress);
    let (files, missing) = bundle.finish()?;
    let left = if missing == 0 {
        String::new()
    } else {
        format!(", {missing} could not be had (index.txt says why)")
    };
    crate::write_out(format!("{}: {files} files{left}\n", path.display()).as_bytes())?;
    Ok(if missing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the doctor says, and what it was told.
fn doctor(bundle: &mut Bundle<File>, facts: &Facts) -> Result<()> {
    let verdicts = Verdicts::of(facts, |check| check.when != When::Before);
    bundle.add("doctor.txt", "what `manxctl doctor` says", &verdicts.text(&Page::new(false, None, true)))?;
    bundle.add("doctor.json", "the same as data", &serde_json::to_string_pretty(&verdicts)?)?;
    for (name, node) in &facts.nodes {
        match &node.host {
            Ok(host) => {
                let mut host = host.clone();
                if let Some(Ok(metrics)) = host.pages.remove("/metrics") {
                    bundle.add(&format!("nodes/{name}/metrics.txt"), "metrics of its agent", &metrics)?;
                }
                let text = serde_json::to_string_pretty(&host)?;
                bundle.add(&format!("nodes/{name}/host.json"), "what the machine is and has", &text)?;
            }
            Err(why) => bundle.miss(&format!("nodes/{name}/host.json"), why),
        }
    }
    Ok(())
}
