//! Pings: single ones with their hop count, matrices of all pairs, and one that runs while something is broken.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{netns, wait};

/// The TTL that Linux gives to a packet of its own.
const INITIAL_TTL: u8 = 64;
/// Within this an answer comes back where the way is open.
const ANSWER: Duration = Duration::from_secs(1);

/// One way to be tried: from a namespace to an address.
#[derive(Clone, Debug)]
pub struct Path {
    /// What to call the start in a table.
    pub from: String,
    /// The namespace that pings.
    pub netns: String,
    /// What to call the target in a table.
    pub to: String,
    /// The address that is pinged.
    pub address: IpAddr,
}

/// What came of one ping: the number of routers that the answer crossed, or `None` without an answer.
pub type Hops = Option<u8>;

/// Sends one echo request and waits at most a second for its answer.
pub fn ping(netns: &str, address: IpAddr) -> Result<Hops> {
    let output = netns::command(netns, "ping")
        .args(["-n", "-c", "1", "-W", "1", &address.to_string()])
        .output()
        .context("cannot start ping")?;
    Ok(hops(&String::from_utf8_lossy(&output.stdout)))
}

/// Pings along all `paths`, a few at a time, and returns the hop counts in the same order.
pub fn matrix(paths: &[Path]) -> Result<Vec<Hops>> {
    let mut results = Vec::with_capacity(paths.len());
    for group in paths.chunks(8) {
        let answers: Vec<Result<Hops>> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                group.iter().map(|path| scope.spawn(|| ping(&path.netns, path.address))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a ping panicked"))?)
                .collect()
        });
        for answer in answers {
            results.push(answer?);
        }
    }
    Ok(results)
}

/// The routers between, from the `ttl=` that ping prints for both families.
pub fn hops(output: &str) -> Hops {
    let (_, rest) = output.split_once("ttl=")?;
    let ttl: u8 = rest.split_whitespace().next()?.parse().ok()?;
    INITIAL_TTL.checked_sub(ttl)
}

/// A ping every 10 ms that goes on until it is told to stop.
pub struct Stream {
    child: Child,
    log: std::path::PathBuf,
}

/// What a [`Stream`] counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// Echo requests sent, less those whose answers may have been on their way when the stream was stopped.
    pub sent: u64,
    /// Sequence numbers among them that never came back.
    pub lost: Vec<u64>,
}

impl Stream {
    /// Starts the pings from `netns` to `address`, with their output in the file `log`.
    pub fn start(netns: &str, address: IpAddr, log: &std::path::Path) -> Result<Self> {
        Self::of(netns::command(netns, "ping"), address, log)
    }

    /// [`Stream::start`] with a `ping` that runs anywhere, as its own process.
    pub fn of(mut ping: Command, address: IpAddr, log: &std::path::Path) -> Result<Self> {
        let child = ping
            .args(["-n", "-i", "0.01", "-W", "1", &address.to_string()])
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(log)?)
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start ping")?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Ends the pings and returns what was lost: everything without an answer, unless it was sent after the last one that
    /// came back, and that came back after this call.
    pub fn stop(mut self) -> Result<Count> {
        let answered =
            || -> Result<Option<u64>> { Ok(answers(&std::fs::read_to_string(&self.log)?).last().copied()) };
        let before = answered()?;
        let open = wait::until("a ping comes back", ANSWER, || Ok(answered()? > before)).is_ok();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT)?;
        self.child.wait()?;
        count(&std::fs::read_to_string(&self.log)?, open)
    }
}

/// The sequence numbers that came back.
fn answers(output: &str) -> BTreeSet<u64> {
    output
        .lines()
        .filter(|line| line.contains("bytes from"))
        .filter_map(|line| line.split_once("icmp_seq=")?.1.split_whitespace().next()?.parse().ok())
        .collect()
}

/// What ping printed of a way that was open or closed in the end.
fn count(output: &str, open: bool) -> Result<Count> {
    let summary = output.lines().find(|line| line.contains("packets transmitted"));
    let summary = summary.with_context(|| format!("ping printed no summary: {output}"))?;
    let sent: u64 = summary.split_whitespace().next().context("an empty summary")?.parse()?;
    let back = answers(output);
    let last = back.last().copied().filter(|_| open).unwrap_or(sent);
    Ok(Count { sent: last, lost: (1..=last).filter(|number| !back.contains(number)).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hops_are_counted_from_the_ttl_of_the_answer() {
        assert_eq!(hops("64 bytes from 10.0.0.1: icmp_seq=1 ttl=61 time=0.1 ms"), Some(3));
        assert_eq!(hops("1 packets transmitted, 0 received"), None);
    }

    fn line(number: u64) -> String {
        format!("64 bytes from 10.0.0.1: icmp_seq={number} ttl=61 time=0.1 ms\n")
    }

    #[test]
    fn a_hole_in_the_sequence_is_a_loss_and_what_is_in_flight_at_the_end_is_not() {
        let summary = "6 packets transmitted, 3 received, 50% packet loss, time 50ms\n";
        let output = [line(1), line(2), line(4), summary.to_owned()].concat();
        assert_eq!(count(&output, true).expect("a summary"), Count { sent: 4, lost: vec![3] });
    }

    #[test]
    fn nothing_is_in_flight_where_nothing_comes_back_any_more() {
        let summary = "4 packets transmitted, 2 received, 50% packet loss, time 30ms\n";
        let output = [line(1), line(2), summary.to_owned()].concat();
        assert_eq!(count(&output, false).expect("a summary"), Count { sent: 4, lost: vec![3, 4] });
    }
}
