//! Tables of expectations: who asks, whom, who has to answer, and which source address it has to see. Every row that
//! does not hold is named.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use manx_tests::kubernetes::{Cluster, Family};

use super::places::{How, PATIENCE, Place, REFUSAL, Reply};

/// How long a row may take to become true: rules and endpoints follow the API with a delay.
const CONVERGENCE: Duration = Duration::from_secs(5);
/// How many rows are tried at once.
const AT_ONCE: usize = 8;
/// Questions in which each of two backends is chosen, but for one time in 2^60.
const QUESTIONS: usize = 60;
/// Questions that are asked in any case: a translation may depend on the backend.
const AT_LEAST: usize = 4;

/// Which source address has to be seen.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Seen {
    /// The asking place's own.
    Own,
    /// That of a node.
    Node(usize),
    /// The node's when a pod is answered by itself, else the pod's own.
    Hairpin(usize),
    /// That of the asking place's node when another node answers and the pools ask for it (`true`), else its own.
    Outgoing(bool),
}

/// What has to come of a question.
#[derive(Clone, Debug)]
pub(crate) enum Expect {
    /// Each of these pods answers sooner or later, and nobody else.
    By(Vec<String>, Seen),
    /// A refusal.
    Refused,
    /// No answer at all.
    Silent,
}

/// `by` have to answer.
pub(crate) fn by(pods: &[&str], seen: Seen) -> Expect {
    Expect::By(pods.iter().map(|&name| name.to_owned()).collect(), seen)
}

/// One row.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// What it is about.
    pub(crate) what: String,
    /// Who asks.
    pub(crate) from: Place,
    /// By which transport.
    pub(crate) how: How,
    /// Whom.
    pub(crate) to: SocketAddr,
    /// What has to come of it.
    pub(crate) expect: Expect,
}

/// Rows, and what became of those that were tried.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
    tried: usize,
    failed: Vec<String>,
}

impl Table {
    /// Adds a row.
    pub(crate) fn row(&mut self, what: &str, from: &Place, how: How, to: SocketAddr, expect: Expect) {
        self.rows.push(Row { what: what.to_owned(), from: from.clone(), how, to, expect });
    }

    /// Notes what came of something that is not a row.
    pub(crate) fn note(&mut self, what: &str, outcome: Result<()>) {
        self.tried += 1;
        if let Err(error) = outcome {
            eprintln!("does not hold: {what}: {error:#}");
            self.failed.push(format!("{what}: {error:#}"));
        }
    }

    /// Tries the rows that were added since the last time.
    pub(crate) fn run(&mut self, cluster: &Cluster) {
        let rows = std::mem::take(&mut self.rows);
        for group in rows.chunks(AT_ONCE) {
            let outcomes: Vec<Result<()>> = std::thread::scope(|scope| {
                let threads: Vec<_> =
                    group.iter().map(|row| scope.spawn(|| row.become_true(cluster))).collect();
                threads.into_iter().map(|thread| thread.join().expect("a row does not panic")).collect()
            });
            for (row, outcome) in group.iter().zip(outcomes) {
                self.note(
                    &format!("{} ({:?} from {} to {})", row.what, row.how, row.from.name, row.to),
                    outcome,
                );
            }
        }
    }

    /// Tries what was not yet tried.
    ///
    /// # Errors
    /// Names every row that did not hold.
    pub(crate) fn finish(mut self, cluster: &Cluster) -> Result<()> {
        self.run(cluster);
        let (failed, tried) = (self.failed.len(), self.tried);
        ensure!(failed == 0, "{failed} of {tried} rows did not hold:\n  {}", self.failed.join("\n  "));
        println!("{tried} rows hold");
        Ok(())
    }
}

impl Row {
    fn become_true(&self, cluster: &Cluster) -> Result<()> {
        let end = Instant::now() + CONVERGENCE;
        loop {
            let outcome = self.check(cluster);
            if outcome.is_ok() || Instant::now() >= end {
                return outcome;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn check(&self, cluster: &Cluster) -> Result<()> {
        let Expect::By(pods, seen) = &self.expect else {
            let (expected, patience) = match self.expect {
                Expect::Refused => (Reply::Refused, REFUSAL),
                _ => (Reply::Silent, PATIENCE),
            };
            let reply = self.from.ask_within(self.how, self.to, patience);
            ensure!(reply == expected, "{reply}, but {expected} was due");
            return Ok(());
        };
        let mut answered = BTreeSet::new();
        for question in 0..QUESTIONS {
            let reply = self.from.ask(self.how, self.to);
            let Reply::Answer { pod, client } = reply else {
                anyhow::bail!("question {question}: {reply}");
            };
            ensure!(pods.contains(&pod), "{pod} answered, which is not among {pods:?}");
            let right = self.right(cluster, *seen, &pod)?;
            ensure!(client == right, "{pod} saw {client} instead of {right}");
            answered.insert(pod);
            if answered.len() == pods.len() && question + 1 >= AT_LEAST {
                return Ok(());
            }
        }
        anyhow::bail!("only {answered:?} of {pods:?} answered")
    }

    fn right(&self, cluster: &Cluster, seen: Seen, pod: &str) -> Result<IpAddr> {
        let family = if self.to.is_ipv6() { Family::Ipv6 } else { Family::Ipv4 };
        match seen {
            Seen::Hairpin(node) if pod == self.from.name => Ok(cluster.node(node).address(family)),
            Seen::Node(node) => Ok(cluster.node(node).address(family)),
            Seen::Outgoing(true) if pod != format!("node{}", self.from.node) => {
                Ok(cluster.node(self.from.node).address(family))
            }
            Seen::Own | Seen::Hairpin(_) | Seen::Outgoing(_) => self.from.address(family).context("who asks"),
        }
    }
}
