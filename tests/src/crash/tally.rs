//! Which cases are tried, and what became of them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, ensure};

/// Set to `all`, every case is tried; otherwise a fixed choice of them.
const WHOLE: &str = "MANX_CRASH";
/// Set to a part of a case's name, only such cases are tried.
const ONLY: &str = "MANX_CRASH_ONLY";
/// How many failures are told of one class before it is given up.
const FAILURES: usize = 12;

/// Whether every case is to be tried.
pub fn whole() -> bool {
    std::env::var(WHOLE).is_ok_and(|value| value == "all")
}

/// One in `share` of the cases, always the same ones; all of them when everything is wanted.
pub fn chosen<T>(cases: Vec<T>, share: usize) -> Vec<T> {
    let share = if whole() { 1 } else { share };
    cases.into_iter().step_by(share).collect()
}

/// Whether the case of this name is wanted.
pub fn wanted(case: &str) -> bool {
    std::env::var(ONLY).map_or(true, |only| case.contains(&only))
}

/// What became of the cases of one class.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Points in an undisturbed run.
    pub points: usize,
    /// Cases tried.
    pub tried: usize,
    /// Cases whose point was met; the others ran to their end undisturbed.
    pub met: usize,
    /// Cases in which the call failed with an error in JSON.
    pub refused: usize,
    /// Cases in which the call succeeded all the same.
    pub succeeded: usize,
    /// What did not hold.
    pub failures: Vec<String>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { points, tried, met, refused, succeeded, failures } = self;
        write!(
            f,
            "{points:4} points, {tried:5} cases, {met:5} met, {succeeded:5} succeeded all the same, {refused:4} refused, {} FAILED",
            failures.len()
        )
    }
}

static TALLIES: Mutex<BTreeMap<&str, Tally>> = Mutex::new(BTreeMap::new());

impl Tally {
    /// Notes a failure; true when there were enough of them.
    pub fn fail(&mut self, case: &str, error: &anyhow::Error) -> bool {
        self.failures.push(format!("{case}: {error:#}"));
        self.failures.len() >= FAILURES
    }

    /// Ends the class: keeps the figures for [`print()`], and fails if any case did.
    pub fn close(self, class: &'static str) -> Result<()> {
        let failures = self.failures.join("\n");
        TALLIES.lock().unwrap_or_else(PoisonError::into_inner).insert(class, self);
        ensure!(failures.is_empty(), "{failures}");
        Ok(())
    }
}

/// Prints a line for each class that was tried, and their sum.
pub fn print() {
    let tallies = TALLIES.lock().unwrap_or_else(PoisonError::into_inner);
    println!();
    let mut sum = Tally::default();
    for (class, tally) in tallies.iter() {
        println!("crash: {class:<28} {tally}");
        sum.points += tally.points;
        sum.tried += tally.tried;
        sum.met += tally.met;
        sum.refused += tally.refused;
        sum.succeeded += tally.succeeded;
        sum.failures.extend(tally.failures.iter().cloned());
    }
    println!("crash: {:<28} {sum}", if whole() { "all, every case" } else { "all, a choice of the cases" });
}
