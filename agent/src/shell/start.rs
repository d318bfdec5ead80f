//! How every process of ours starts and ends: log lines, one runtime, and a last word when it cannot go on.

use std::process::ExitCode;

use super::log;
use super::options::LogFormat;

/// Runs `work` to its end; `name` is what the process calls itself in its last line.
pub fn start(name: &str, format: LogFormat, work: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    log::start(format);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        let ended = runtime.block_on(work);
        // Requests to the API server that hang keep nobody waiting.
        runtime.shutdown_background();
        ended
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the {name} cannot go on");
            ExitCode::FAILURE
        }
    }
}
