//! Follows probes over this node: what passes its links and those of a pod, what rules decide, which way the kernel takes,
//! and what it translates; and sends them.
//!
//! Everything here goes with this process: sockets, and the table that marks the probes for the trace of nf_tables, which
//! belongs to a socket.

mod capture;
mod counters;
mod eyes;
pub(super) mod large;
mod legacy;
mod packet;
mod send;

use std::io::{self, Write};
use std::time::Duration;

use manx_facts::probe::{ProbeQuestion, Sight, WatchQuestion};
use tokio::time::Instant;

use super::Lines;
use crate::shell::options::Look;
use eyes::Eyes;

/// Says what it sees until the time is over.
pub(super) async fn watch<W: Write>(
    question: &WatchQuestion,
    place: &Look,
    lines: &mut Lines<W>,
) -> io::Result<()> {
    let Some(mut eyes) = open(question, place, lines)? else { return Ok(()) };
    lines.ok(&Sight::Ready)?;
    eyes.until(lines, end(question), |_| false).await?;
    eyes.tick(lines)?;
    lines.ok(&Sight::Done)
}

/// Sends probes, and says what it sees meanwhile.
pub(super) async fn probe<W: Write>(
    question: &ProbeQuestion,
    place: &Look,
    lines: &mut Lines<W>,
) -> io::Result<()> {
    let Some(mut eyes) = open(&question.watch, place, lines)? else { return Ok(()) };
    let sender = match eyes.sender() {
        Ok(sender) => sender,
        Err(why) => return lines.error(&why),
    };
    lines.ok(&Sight::Ready)?;
    let all = send::all(question, &sender, &mut eyes, lines);
    match tokio::time::timeout_at(end(&question.watch), all).await {
        Ok(sent) => sent?,
        Err(_) => lines.ok(&Sight::Blind("the time was over before every probe was sent".to_owned()))?,
    }
    eyes.tick(lines)?;
    lines.ok(&Sight::Done)
}

fn open<W: Write>(question: &WatchQuestion, place: &Look, lines: &mut Lines<W>) -> io::Result<Option<Eyes>> {
    match Eyes::open(question, place) {
        Ok((mut eyes, blind)) => {
            for why in blind {
                lines.ok(&Sight::Blind(why))?;
            }
            for sight in eyes.asked(&question.lookups) {
                lines.ok(&sight)?;
            }
            Ok(Some(eyes))
        }
        Err(why) => lines.error(&why).map(|()| None),
    }
}

fn end(question: &WatchQuestion) -> Instant {
    let asked = match question.milliseconds {
        0 => WatchQuestion::LONGEST,
        milliseconds => milliseconds.min(WatchQuestion::LONGEST),
    };
    Instant::now() + Duration::from_millis(u64::from(asked))
}
