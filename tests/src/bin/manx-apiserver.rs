//! The embedded Kubernetes API server as a program of its own, for the lab.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use manx_tests::apiserver::{ApiServer, Config};
use tokio::signal::unix::{SignalKind, signal};

/// A Kubernetes API server in memory: no authentication, nothing survives its end.
#[derive(Debug, Parser)]
struct Arguments {
    /// Address to listen on; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Write a kubeconfig for this server here.
    #[arg(long)]
    kubeconfig_out: Option<PathBuf>,
    /// Unix socket with the same paths, which an injected outage leaves alone.
    #[arg(long)]
    control: Option<PathBuf>,
    /// Changes of each resource that are remembered for watches.
    #[arg(long, default_value_t = Config::default().history)]
    history: usize,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut terminated = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let config = Config { listen: arguments.listen, history: arguments.history, ..Config::default() };
    let handle =
        ApiServer::start(config).await.with_context(|| format!("listening on {}", arguments.listen))?;
    if let Some(path) = &arguments.control {
        if path.exists() {
            std::fs::remove_file(path).with_context(|| format!("removing the stale {}", path.display()))?;
        }
        handle.control(path).with_context(|| format!("binding {}", path.display()))?;
    }
    if let Some(path) = &arguments.kubeconfig_out {
        std::fs::write(path, handle.kubeconfig()).with_context(|| format!("writing {}", path.display()))?;
    }
    println!("ready {}", handle.url());
    tokio::select! {
        _ = terminated.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted.context("listening for SIGINT")?,
    }
    handle.stop().await;
    if let Some(path) = &arguments.control {
        std::fs::remove_file(path).with_context(|| format!("removing {}", path.display()))?;
    }
    Ok(())
}
