//! Where log lines go: standard error, as text or JSON, filtered by `RUST_LOG` (default `info`, without what the client
//! of the API server says of each failed request: that it is away is said once).

use tracing_subscriber::EnvFilter;

use super::options::LogFormat;

/// Sends the events of this process to standard error from here on.
pub fn start(format: LogFormat) {
    let filter = EnvFilter::try_from_env("RUST_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,kube_client::client::builder=off"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
}
