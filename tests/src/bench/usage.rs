//! What all processes of a namespace cost: processor time and memory, and how many routes its kernel holds.

use anyhow::{Context as _, Result};

use crate::lab::netns;

/// The processes that live in the namespace.
pub fn pids(name: &str) -> Result<Vec<u32>> {
    let text = netns::run(std::process::Command::new("ip").args(["netns", "pids", name]))?;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    Ok(text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect())
}

/// Processor seconds of all threads so far, user and system. Threads that have ended are not counted.
pub fn cpu_seconds(pids: &[u32]) -> f64 {
    let nanoseconds: u64 = pids.iter().flat_map(threads).filter_map(|path| run_time(&path)).sum();
    nanoseconds as f64 / 1e9
}

fn threads(pid: &u32) -> Vec<std::path::PathBuf> {
    let folder = std::fs::read_dir(format!("/proc/{pid}/task"));
    folder.into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn run_time(thread: &std::path::Path) -> Option<u64> {
    let text = std::fs::read_to_string(thread.join("schedstat")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// Resident memory of all processes in MiB: the largest so far (`VmHWM`) or now (`VmRSS`).
pub fn memory_mib(pids: &[u32], field: &str) -> Result<f64> {
    let mut sum = 0.0;
    for pid in pids {
        let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
        let line = status.lines().find(|line| line.starts_with(field));
        let line = line.with_context(|| format!("process {pid} tells no {field}"))?;
        let kib: f64 = line.split_whitespace().nth(1).context("an empty field")?.parse()?;
        sum += kib / 1024.0;
    }
    Ok(sum)
}

/// How many routes of a family the kernel of the namespace holds, by its own count.
pub fn kernel_routes(name: &str, ipv6: bool) -> Result<u64> {
    netns::enter(name, || {
        if ipv6 {
            let text = std::fs::read_to_string("/proc/thread-self/net/rt6_stats")?;
            let entries = text.split_whitespace().nth(3).context("no count of entries")?;
            return u64::from_str_radix(entries, 16).map_err(Into::into);
        }
        let text = std::fs::read_to_string("/proc/thread-self/net/fib_triestat")?;
        let mut main = text.split("Main:").nth(1).context("no main table")?.lines();
        let line = main.find(|line| line.contains("Prefixes:")).context("no count of prefixes")?;
        line.split_whitespace().last().context("an empty count")?.parse().map_err(Into::into)
    })
}
