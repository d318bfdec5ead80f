//! The node agent: reads its options, runs, and says why if it cannot.

use clap::Parser as _;
use manx_agent::shell::options::Options;
use manx_agent::shell::{log, run};

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    log::start(options.log_format);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(run::run(options));
    // Requests to the API server that hang keep nobody waiting.
    runtime.shutdown_background();
    ended
}
