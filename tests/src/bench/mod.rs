//! Benchmarks: ours beside a peer in the same run, alternating, and the ratio of their medians.
//!
//! Machines are noisy: only ratios are worth quoting. Nothing here asserts on time.

pub mod bgp;
pub mod cni;
pub mod core;
pub mod feed;
pub mod fib;
pub mod guard;
pub mod internet;
pub mod ipam;
pub mod kubernetes;
pub mod listener;
pub mod mesh;
pub mod ours;
pub mod reflector;
pub mod tally;
pub mod usage;

use serde_json::{Value, json};

/// One row of a benchmark's table: ours against a peer.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// The peer.
    pub peer: String,
    /// Our samples.
    pub ours: Vec<f64>,
    /// The peer's samples, taken in turn with ours.
    pub theirs: Vec<f64>,
    /// Unit of both.
    pub unit: &'static str,
    /// The ratio aimed at, as text.
    pub target: &'static str,
}

impl Row {
    /// Our median divided by the peer's.
    pub fn ratio(&self) -> f64 {
        median(&self.ours) / median(&self.theirs)
    }

    fn json(&self) -> Value {
        json!({"what": self.what, "peer": self.peer, "unit": self.unit, "target": self.target,
               "ours": median(&self.ours), "theirs": median(&self.theirs), "ratio": self.ratio(),
               "samples": {"ours": self.ours, "theirs": self.theirs}})
    }
}

/// The value in the middle of `samples`; not a number when there is none.
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// Prints the rows as a table.
pub fn print(rows: &[Row]) {
    println!(
        "{:<58} {:<18} {:>4} {:>12} {:>12} {:>5} {:>8}  target",
        "what", "peer", "runs", "ours", "peer's", "unit", "ratio"
    );
    for row in rows {
        println!(
            "{:<58} {:<18} {:>4} {:>12.3} {:>12.3} {:>5} {:>8.3}  {}",
            row.what,
            row.peer,
            row.ours.len(),
            median(&row.ours),
            median(&row.theirs),
            row.unit,
            row.ratio(),
            row.target
        );
    }
}

/// The rows as one JSON document.
pub fn to_json(rows: &[Row]) -> Value {
    Value::Array(rows.iter().map(Row::json).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_the_two_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }
}
