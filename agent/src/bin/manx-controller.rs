//! `manx-controller`: what a cluster needs once. The work is in `manx_agent::controller`.

use clap::Parser;
use manx_agent::controller::run;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    run::run(run::Options::parse()).await
}
