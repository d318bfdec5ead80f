//! Live screens: `manxctl top` in a terminal and `manxctl ui` in a browser, two drawings of one state.
//!
//! `feed` watches objects and listens to nodes, `state` keeps what they say and makes a `view` of it, `top` and `ui` draw
//! that. Nothing here writes to the cluster.

mod board;
mod feed;
mod listen;
mod rates;
mod routers;
mod state;
pub(crate) mod top;
pub(crate) mod ui;
mod view;

/// What both screens are told of the cluster that they show.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct Shown {
    /// The label of Nodes that says where they stand. Unset: a well-known label of racks or zones that tells nodes
    /// apart, else the routers that they talk to.
    #[arg(long, value_name = "LABEL")]
    group_by: Option<String>,
    /// Do not ask the nodes: show what the API server knows, without what happens per second.
    #[arg(long)]
    objects_only: bool,
}

/// Waits until somebody wants the program to end.
#[cfg(unix)]
async fn ended() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let mut left = signal(SignalKind::hangup())?;
    tokio::select! {
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
        _ = left.recv() => {}
    }
    Ok(())
}

/// Waits until somebody wants the program to end.
#[cfg(not(unix))]
async fn ended() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}
