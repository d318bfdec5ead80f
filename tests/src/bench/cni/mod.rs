//! `bench cni`: what a pod's start and end cost, against Debian's reference plugins with host-local.
//!
//! Ours gives every pod both families. The peers are measured with IPv4 alone as well: with IPv6 they wait for duplicate
//! address detection, more than a second, which would say little about them.
//!
//! All plugins run in the same node namespace, in turn, each on fresh pod namespaces.

mod footprint;
mod subject;

use anyhow::Result;

pub(super) use self::footprint::widen;
use self::subject::{Subject, Times};
use super::Row;
use crate::lab::{Lab, Options};

/// How much to measure.
#[derive(Clone, Debug)]
pub struct Size {
    /// ADD, CHECK and DEL one at a time, this many of each.
    pub single: usize,
    /// Pods started at the same time, each in rounds of its own.
    pub parallel: Vec<usize>,
    /// How often each parallel start is repeated.
    pub rounds: usize,
    /// Pod starts during which requests to the API server are counted.
    pub starts: usize,
}

/// Runs the benchmark in a lab of one node of its own.
///
/// # Errors
/// When a plugin fails, or the lab cannot be made.
pub fn run(size: &Size) -> Result<Vec<Row>> {
    let lab = Lab::up(&Options { name: "benchcni".to_owned(), nodes: 1, ..Options::default() })?;
    widen(&lab)?;
    let subjects = subject::all(&lab)?;
    let mut rows = one_by_one(&subjects, &rounds(&lab, &subjects, 1, size.single)?);
    for &count in size.parallel.iter().filter(|count| **count > 0) {
        let times = rounds(&lab, &subjects, count, size.rounds)?;
        rows.extend(at_once(&subjects, &times, count));
    }
    rows.extend(footprint::rows(&lab, &subjects, size.starts)?);
    Ok(rows)
}

/// Each plugin's times, in turn with the others'. The first round warms caches up and is not counted.
fn rounds(lab: &Lab, subjects: &[Subject], count: usize, rounds: usize) -> Result<Vec<Vec<Times>>> {
    let mut all: Vec<Vec<Times>> = vec![Vec::new(); subjects.len()];
    for number in 0..=rounds {
        for (subject, times) in subjects.iter().zip(&mut all) {
            let sample = subject.round(lab, count)?;
            if number > 0 {
                times.push(sample);
            }
        }
    }
    Ok(all)
}

/// One line of the tables: which time, and the ratio aimed at.
struct Line {
    what: String,
    pick: fn(&Times) -> f64,
    target: &'static str,
}

fn one_by_one(subjects: &[Subject], times: &[Vec<Times>]) -> Vec<Row> {
    let add = "CNI ADD, process start to exit, ours IPv4 + IPv6, warm".to_owned();
    let lines = [
        Line { what: add, pick: |times| times.add, target: "<= 1/6" },
        Line { what: "CNI DEL, likewise".to_owned(), pick: |times| times.del, target: "<= 1/20" },
        Line { what: "CNI CHECK, likewise".to_owned(), pick: |times| times.check, target: "" },
    ];
    compare(subjects, times, &lines)
}

fn at_once(subjects: &[Subject], times: &[Vec<Times>], count: usize) -> Vec<Row> {
    let target = if count == 100 { "<= 1/6" } else { "" };
    let add = format!("{count} ADDs at once on one node, all done");
    let lines = [
        Line { what: add, pick: |times| times.add, target },
        Line { what: format!("{count} DELs at once, likewise"), pick: |times| times.del, target: "" },
    ];
    compare(subjects, times, &lines)
}

/// A row for each peer and line.
fn compare(subjects: &[Subject], times: &[Vec<Times>], lines: &[Line]) -> Vec<Row> {
    let peers = subjects.iter().zip(times).skip(1);
    let of_peer = |(peer, theirs): (&Subject, &Vec<Times>)| {
        let row = |line: &Line| Row {
            what: line.what.clone(),
            peer: peer.name.to_owned(),
            ours: times[0].iter().map(line.pick).collect(),
            theirs: theirs.iter().map(line.pick).collect(),
            unit: "ms",
            target: line.target,
        };
        lines.iter().map(row).collect::<Vec<_>>()
    };
    peers.flat_map(of_peer).collect()
}
