//! The cluster's controller: reads its options, runs, and says why if it cannot.

use std::process::ExitCode;

use clap::Parser as _;
use manx_agent::controller::options::Options;
use manx_agent::controller::run;
use manx_agent::shell::log;

fn main() -> ExitCode {
    let options = Options::parse();
    log::start(options.log_format);
    match start(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the controller cannot go on");
            ExitCode::FAILURE
        }
    }
}

fn start(options: Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(run::run(options));
    runtime.shutdown_background();
    ended
}
