//! What happened: the last of it in words, all of it in one number.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// How many of the last lines are kept.
const KEPT: usize = 120;

/// The log of one run.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    lines: VecDeque<String>,
    hash: u64,
    count: u64,
    whole: bool,
}

impl Log {
    /// An empty log; one that is `whole` keeps every line.
    pub(crate) fn new(whole: bool) -> Self {
        Self { lines: VecDeque::new(), hash: 0xcbf2_9ce4_8422_2325, count: 0, whole }
    }

    pub(crate) fn add(&mut self, at: Duration, what: fmt::Arguments<'_>) {
        let line = format!("{:>10.4} {what}", at.as_secs_f64());
        for octet in line.bytes() {
            self.hash = (self.hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3);
        }
        self.count += 1;
        if self.lines.len() == KEPT && !self.whole {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// One number for all lines.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// How many lines there were.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The lines that are kept.
    pub(crate) fn into_lines(self) -> Vec<String> {
        self.lines.into()
    }
}
