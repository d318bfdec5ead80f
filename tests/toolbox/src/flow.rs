//! A long stream of questions over one connection, for tests that must not lose any of them.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant, SystemTime};

use crate::answer::pod;
use crate::dial::{Line, To};

/// What became of the questions; shown as one line of JSON.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Questions asked.
    pub(crate) sent: u64,
    /// Questions without an answer in time.
    pub(crate) lost: u64,
    /// Connections that had to be made after the first.
    pub(crate) reconnects: u64,
    /// The longest time from one answer to the next.
    pub(crate) longest_gap: Duration,
    /// Who answered.
    pub(crate) pods: BTreeSet<String>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, lost, reconnects, longest_gap, pods } = self;
        let (answered, gap) = (sent - lost, longest_gap.as_millis());
        let pods: Vec<String> = pods.iter().map(|pod| format!("\"{pod}\"")).collect();
        let pods = pods.join(",");
        write!(f, "{{\"sent\":{sent},\"answered\":{answered},\"lost\":{lost},\"reconnects\":{reconnects},")?;
        write!(f, "\"longest_gap_ms\":{gap},\"pods\":[{pods}]}}")
    }
}

/// Asks every `every` until something comes from `stop`. A connection that breaks is made anew.
pub(crate) fn run(to: &To, udp: bool, every: Duration, stop: &Receiver<()>) -> Summary {
    let mut summary = Summary::default();
    let mut line = None;
    let mut last = Instant::now();
    loop {
        let begin = Instant::now();
        summary.sent += 1;
        match ask(to, udp, &mut line, &mut summary) {
            Ok(answer) => {
                summary.longest_gap = summary.longest_gap.max(last.elapsed());
                last = Instant::now();
                summary.pods.extend(pod(&answer).map(str::to_owned));
            }
            Err(error) => {
                summary.lost += 1;
                println!("{} lost {}: {error}", milliseconds_since_1970(), summary.sent);
            }
        }
        if stop.recv_timeout(every.saturating_sub(begin.elapsed())).is_ok() {
            summary.longest_gap = summary.longest_gap.max(last.elapsed());
            return summary;
        }
    }
}

fn ask(to: &To, udp: bool, line: &mut Option<Line>, summary: &mut Summary) -> io::Result<String> {
    let mut open = match line.take() {
        Some(open) => open,
        None => {
            summary.reconnects += u64::from(summary.sent > 1);
            to.open(udp)?
        }
    };
    let answer = open.ask(&summary.sent.to_string(), to.timeout);
    // Late answers and refusals leave a datagram socket whole, and a connection that is only slow as well.
    let slow =
        |error: &io::Error| matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock);
    if udp || answer.as_ref().err().is_none_or(slow) {
        *line = Some(open);
    }
    answer
}

fn milliseconds_since_1970() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis()
}
