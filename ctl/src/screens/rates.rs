//! Rates out of counters: how much a count grew over the last seconds, by the clock of whoever counted.

use std::collections::{BTreeMap, VecDeque};

use manx_facts::counters::{Counters, PeerCounters};
use serde::Serialize;

/// What a rate looks back on, in nanoseconds: long enough to be read, short enough to follow.
const WINDOW: u64 = 5_000_000_000;

/// A count over the last seconds.
#[derive(Debug, Default)]
struct Series {
    points: VecDeque<(u64, f64)>,
}

impl Series {
    /// Takes what was counted at a time.
    fn push(&mut self, time: u64, count: f64) {
        if self.points.back().is_some_and(|&(last, _)| time <= last) {
            self.points.clear();
        }
        self.points.push_back((time, count));
        self.forget(time);
    }

    /// Keeps one point at the beginning of the window or before it.
    fn forget(&mut self, now: u64) {
        let begins = now.saturating_sub(WINDOW);
        while self.points.get(1).is_some_and(|&(time, _)| time <= begins) {
            self.points.pop_front();
        }
    }

    /// Per second up to `now`; `None` before there are two answers.
    fn rate(&self, now: u64) -> Option<f64> {
        let begins = now.saturating_sub(WINDOW);
        let &(time, _) = self.points.front()?;
        let &(_, to) = self.points.back()?;
        let seconds = now.checked_sub(time.max(begins)).filter(|passed| *passed > 0)? as f64 / 1e9;
        Some(round((to - self.at(begins)?).max(0.0) / seconds))
    }

    /// The count at a time, as if it had grown evenly between two answers; the first one before that.
    fn at(&self, time: u64) -> Option<f64> {
        let mut before = self.points.front()?;
        for after in &self.points {
            if after.0 > time {
                let (&(since, from), &(until, to)) = (before, after);
                let part = time.saturating_sub(since) as f64 / until.saturating_sub(since).max(1) as f64;
                return Some(from + (to - from) * part);
            }
            before = after;
        }
        Some(before.1)
    }
}

/// Two digits behind the point are what anybody reads.
fn round(rate: f64) -> f64 {
    (rate * 100.0).round() / 100.0
}

/// What a node does per second, and what it has now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Rates {
    /// Pods started per second.
    pub(crate) started: f64,
    /// Pods stopped per second.
    pub(crate) stopped: f64,
    /// Starts that failed per second.
    pub(crate) failed: f64,
    /// Pods now.
    pub(crate) pods: u64,
    /// Routes in the kernel.
    pub(crate) routes: u64,
    /// Routes that should be there.
    pub(crate) desired: u64,
    /// Operations on routes per second.
    pub(crate) changes: f64,
    /// Routes put right since the agent started.
    pub(crate) drift: u64,
    /// Octets of memory of the agent.
    pub(crate) memory: u64,
    /// Processors that the agent takes, 1.0 being one.
    pub(crate) cpu: f64,
}

/// Everything counted on one node.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    last: Counters,
    /// Changes of routes since the first answer.
    moved: f64,
    started: Series,
    stopped: Series,
    failed: Series,
    changes: Series,
    cpu: Series,
    peers: BTreeMap<String, PeerMeter>,
}

#[derive(Debug, Default)]
struct PeerMeter {
    last: PeerCounters,
    messages_in: Series,
    messages_out: Series,
}

impl Meter {
    /// Takes an answer of the node.
    pub(crate) fn take(&mut self, counters: Counters) {
        let now = counters.time;
        // Counts that became less begin anew, and all with them: the agent was started again.
        let last = &self.last;
        if counters.started < last.started
            || counters.stopped < last.stopped
            || counters.cpu_seconds < last.cpu_seconds
        {
            *self = Self::default();
        }
        self.started.push(now, counters.started as f64);
        self.failed.push(now, counters.failed as f64);
        self.stopped.push(now, counters.stopped as f64);
        self.moved += self.moved_since(&counters);
        self.changes.push(now, self.moved);
        self.cpu.push(now, counters.cpu_seconds);
        for peer in &counters.peers {
            self.peers.entry(peer.peer.clone()).or_default().last = peer.clone();
        }
        // One that is not named is as it was.
        for meter in self.peers.values_mut() {
            meter.messages_in.push(now, meter.last.messages_in as f64);
            meter.messages_out.push(now, meter.last.messages_out as f64);
        }
        self.last = Counters { peers: Vec::new(), ..counters };
    }

    /// Routes that changed since the last answer: those of pods are made by the plugin, and are no operations here.
    fn moved_since(&self, counters: &Counters) -> f64 {
        if self.last.time == 0 {
            return 0.0;
        }
        let operations = counters.routes_changed.saturating_sub(self.last.routes_changed);
        operations.max(counters.routes_installed.abs_diff(self.last.routes_installed)) as f64
    }

    /// What the node does now; `None` before it has answered twice.
    pub(crate) fn rates(&self) -> Option<Rates> {
        let now = self.last.time;
        Some(Rates {
            started: self.started.rate(now)?,
            stopped: self.stopped.rate(now).unwrap_or_default(),
            failed: self.failed.rate(now).unwrap_or_default(),
            pods: self.last.pods,
            routes: self.last.routes_installed,
            desired: self.last.routes_desired,
            changes: self.changes.rate(now).unwrap_or_default(),
            drift: self.last.drift,
            memory: self.last.memory,
            cpu: self.cpu.rate(now).unwrap_or_default(),
        })
    }

    /// Messages per second from and to a peer.
    pub(crate) fn messages(&self, peer: &str) -> Option<(f64, f64)> {
        let meter = self.peers.get(peer)?;
        let now = self.last.time;
        Some((meter.messages_in.rate(now)?, meter.messages_out.rate(now)?))
    }

    /// What was last counted of a peer.
    pub(crate) fn peer(&self, peer: &str) -> Option<&PeerCounters> {
        self.peers.get(peer).map(|meter| &meter.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn at(second: u64, started: u64, pods: u64) -> Counters {
        Counters { time: second * SECOND, started, pods, ..Counters::default() }
    }

    #[test]
    fn nothing_is_said_before_the_second_answer() {
        let mut meter = Meter::default();
        meter.take(at(10, 500, 3));
        assert_eq!(meter.rates(), None, "500 starts since the agent began are no rate");
        meter.take(at(11, 502, 5));
        assert_eq!(meter.rates().map(|rates| rates.started), Some(2.0));
    }

    #[test]
    fn pods_that_went_are_those_that_the_agent_counted() {
        let mut meter = Meter::default();
        meter.take(Counters { stopped: 90, ..at(1, 100, 10) });
        meter.take(Counters { stopped: 105, ..at(2, 110, 5) });
        let rates = meter.rates().expect("two answers");
        assert_eq!((rates.started, rates.stopped, rates.pods), (10.0, 15.0, 5));
    }

    #[test]
    fn what_grew_while_nobody_was_heard_is_no_rush_afterwards() {
        let mut meter = Meter::default();
        meter.take(at(0, 0, 0));
        meter.take(at(1, 3, 0));
        meter.take(at(31, 93, 0));
        assert_eq!(meter.rates().map(|rates| rates.started), Some(3.0), "90 in 30 seconds, not in five");
    }

    #[test]
    fn routes_that_the_plugin_makes_are_changes_too() {
        let mut meter = Meter::default();
        let routes = |second, routes_installed, routes_changed| Counters {
            routes_installed,
            routes_changed,
            ..at(second, 0, 0)
        };
        meter.take(routes(1, 10, 4));
        meter.take(routes(2, 14, 4));
        meter.take(routes(3, 12, 7));
        assert_eq!(meter.rates().map(|rates| rates.changes), Some(3.5), "four, and three, in two seconds");
    }

    #[test]
    fn a_rate_falls_to_nothing_when_nothing_happens_any_more() {
        let mut meter = Meter::default();
        for second in 0..=4 {
            meter.take(at(second, second * 10, 0));
        }
        assert_eq!(meter.rates().map(|rates| rates.started), Some(10.0));
        for second in 5..=9 {
            meter.take(at(second, 40, 0));
        }
        assert_eq!(meter.rates().map(|rates| rates.started), Some(0.0));
    }

    #[test]
    fn an_agent_that_starts_anew_makes_no_negative_rate() {
        let mut meter = Meter::default();
        meter.take(at(0, 1000, 0));
        meter.take(at(1, 1001, 0));
        meter.take(at(2, 1, 0));
        assert_eq!(meter.rates(), None);
        meter.take(at(3, 3, 0));
        assert_eq!(meter.rates().map(|rates| rates.started), Some(2.0));
    }

    #[test]
    fn a_peer_that_is_not_named_again_says_nothing_new() {
        let mut meter = Meter::default();
        let peer = |messages_in| PeerCounters { peer: "peer/tor".into(), messages_in, ..Default::default() };
        for (second, peers) in [(0, vec![peer(7)]), (1, vec![peer(9)]), (2, vec![]), (3, vec![])] {
            meter.take(Counters { peers, ..at(second, 0, 0) });
        }
        assert_eq!(meter.messages("peer/tor").map(|(into, _)| into), Some(0.67), "2 in 3 seconds");
        for second in 4..9 {
            meter.take(at(second, 0, 0));
        }
        assert_eq!(meter.messages("peer/tor"), Some((0.0, 0.0)));
    }
}
