//! Whole nodes under faults: seeds, and what they found before.

use manx_sim::{Choices, Outcome, Plan, run};

fn seeded(seed: u64) -> (Plan, Outcome) {
    let plan = Plan::decode(&mut Choices::seeded(seed));
    let outcome = run(&plan, false);
    (plan, outcome)
}

fn fail(seed: u64, outcome: &Outcome) -> ! {
    for line in &outcome.log {
        println!("{line}");
    }
    let violation = outcome.violation.as_ref().expect("there is one");
    panic!("seed {seed}: {violation}\nplay it again: cargo xtask sim {seed}");
}

#[test]
fn every_seed_keeps_every_invariant() {
    let given = std::env::var("MANX_SIM_SEED").ok().and_then(|seed| seed.parse().ok());
    let count: u64 = std::env::var("MANX_SIM_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(500);
    let seeds = given.map_or(0..count, |seed: u64| seed..seed + 1);
    for seed in seeds {
        let (_, outcome) = seeded(seed);
        if outcome.violation.is_some() {
            fail(seed, &outcome);
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..3 {
        let (one, other) = (seeded(seed).1, seeded(seed).1);
        assert_eq!((one.hash, one.steps, one.lines), (other.hash, other.steps, other.lines));
    }
}
