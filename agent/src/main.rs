//! The node agent: reads its options, runs, and says why if it cannot.

use std::process::ExitCode;

use clap::Parser as _;
use manx_agent::shell::options::Options;
use manx_agent::shell::{log, run};

fn main() -> ExitCode {
    let options = Options::parse();
    log::start(options.log_format);
    match start(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the agent cannot go on");
            ExitCode::FAILURE
        }
    }
}

fn start(options: Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(run::run(options));
    // Requests to the API server that hang keep nobody waiting.
    runtime.shutdown_background();
    ended
}
