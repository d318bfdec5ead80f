//! Whole nodes under faults: seeds, and what they found before.

use manx_sim::{Choices, Outcome, Plan, row, run};

/// How many seeds are run when nobody says otherwise.
const SEEDS: u64 = 500;

fn seeded(seed: u64) -> (Plan, Outcome) {
    let plan = Plan::decode(&mut Choices::seeded(seed));
    let outcome = run(&plan, false);
    (plan, outcome)
}

#[expect(clippy::disallowed_methods, reason = "the test reads which seeds are wanted; the crate does not")]
fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Runs every fourth seed. All that fail are told, the first with the end of its log.
fn seeds(quarter: u64) {
    let given = number("MANX_SIM_SEED");
    let count = number("MANX_SIM_SEEDS").unwrap_or(SEEDS);
    let all = given.map_or(0..count, |seed| seed..seed + 1);
    let mut failed = Vec::new();
    for seed in all.filter(|seed| seed % 4 == quarter) {
        let (_, outcome) = seeded(seed);
        let Some(violation) = outcome.violation else { continue };
        if failed.is_empty() {
            println!("the last of what happened with seed {seed}:\n{}", outcome.log.join("\n"));
        }
        failed.push(format!("seed {seed}: {violation}"));
    }
    let again = "play one again: MANX_SIM_SEED=… cargo test -p manx-sim, or cargo xtask sim SEED";
    assert!(failed.is_empty(), "{}\n{again}", failed.join("\n"));
}

#[test]
fn every_invariant_holds_with_the_first_quarter_of_the_seeds() {
    seeds(0);
}

#[test]
fn every_invariant_holds_with_the_second_quarter_of_the_seeds() {
    seeds(1);
}

#[test]
fn every_invariant_holds_with_the_third_quarter_of_the_seeds() {
    seeds(2);
}

#[test]
fn every_invariant_holds_with_the_last_quarter_of_the_seeds() {
    seeds(3);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..3 {
        let (one, other) = (seeded(seed).1, seeded(seed).1);
        assert_eq!((one.hash, one.steps, one.lines), (other.hash, other.steps, other.lines));
    }
}

/// The numbers of a row.
fn numbers(row: &str) -> Vec<f64> {
    let cells = row.split('|').map(|cell| cell.trim().trim_end_matches(" %"));
    cells.filter_map(|cell| cell.parse().ok()).collect()
}

/// Any change of the product may shift the order of what happens by a little: that is not worth a new table.
#[test]
fn convergence_takes_about_as_long_as_the_document_says() {
    let document = include_str!("../../../docs/convergence.md");
    let rows: Vec<Vec<f64>> = document.lines().map(numbers).filter(|row| row.len() == 6).collect();
    for (nodes, loss) in [3, 10, 30].into_iter().flat_map(|nodes| [0, 10, 50].map(|loss| (nodes, loss))) {
        let text = row(nodes, loss);
        let now = numbers(&text);
        let near = |(one, other): (&f64, &f64)| (one - other).abs() <= 2.0 + other / 4.0;
        let found = rows.iter().find(|row| row[..2] == now[..2]);
        let found = found.is_some_and(|row| now.len() == 6 && now.iter().zip(row).all(near));
        assert!(found, "docs/convergence.md is stale, run cargo xtask sim --table: now it is {text}");
    }
}
