//! Stands in for the owner of the kernel's routes on a host that does not forward: takes what BGP found and does nothing.

use std::sync::Arc;

use anyhow::Context as _;
use manx_kernel::fib::Stats;

use super::kernel::{KernelReport, Links};

/// Starts the thread.
///
/// # Errors
/// When no thread or runtime can be made.
pub(super) fn start(mut links: Links) -> anyhow::Result<std::thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("making the runtime that takes routes")?;
    links.report.send_replace(Arc::new(KernelReport {
        stats: Some(Stats::default()),
        in_sync: true,
        ..KernelReport::default()
    }));
    std::thread::Builder::new()
        .name("bystander".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                let stop = links.stop.clone();
                while stop.run_until_cancelled(links.learned.recv()).await.flatten().is_some() {}
                stop.cancelled().await;
            });
        })
        .context("starting the thread that takes routes")
}
