//! Plays a simulated cluster again and tells everything that happened: `cargo xtask sim SEED`.

use std::process::ExitCode;

use manx_sim::{Choices, Plan, minimize, row, run, table};

const USAGE: &str = "\
manx-sim SEED        play the run of a seed and print all of it
manx-sim FILE        play the run that the octets of a file say
manx-sim --less SEED print the shortest list of acts found that breaks the same invariant
manx-sim --table     print how long convergence takes
manx-sim --row N L   print one row of that, for N nodes and L of 1000 packets lost";

/// Runs that are made to find a shorter list of acts.
const TRIES: usize = 400;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["--row", nodes, loss] => match (nodes.parse(), loss.parse()) {
            (Ok(nodes), Ok(loss)) => {
                print!("{}", row(nodes, loss));
                ExitCode::SUCCESS
            }
            _ => ExitCode::FAILURE,
        },
        ["--table"] => {
            print!("{}", table());
            ExitCode::SUCCESS
        }
        ["--less", what] => plan_of(what).map_or(ExitCode::FAILURE, |plan| less(&plan)),
        [what] if !what.starts_with('-') => plan_of(what).map_or(ExitCode::FAILURE, |plan| play(&plan)),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::FAILURE
        }
    }
}

/// The plan of a seed or of the octets of a file.
#[expect(clippy::disallowed_methods, reason = "the simulation reads no file, its program does")]
fn plan_of(what: &str) -> Option<Plan> {
    if let Ok(seed) = what.parse() {
        return Some(Plan::decode(&mut Choices::seeded(seed)));
    }
    match std::fs::read(what) {
        Ok(octets) => Some(Plan::decode(&mut Choices::octets(&octets))),
        Err(error) => {
            eprintln!("error: {what}: {error}");
            None
        }
    }
}

fn play(plan: &Plan) -> ExitCode {
    let outcome = run(plan, true);
    println!("{} nodes, {:?}", plan.nodes, plan.settings);
    for line in &outcome.log {
        println!("{line}");
    }
    println!("{} steps, hash {:016x}, {:?}", outcome.steps, outcome.hash, outcome.figures);
    match outcome.violation {
        Some(violation) => {
            println!("VIOLATED {violation}");
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

fn less(plan: &Plan) -> ExitCode {
    let Some((plan, outcome)) = minimize(plan, TRIES) else {
        println!("every invariant holds");
        return ExitCode::SUCCESS;
    };
    for (at, act) in &plan.acts {
        println!("{:>10.4} {act:?}", at.as_secs_f64());
    }
    if let Some(violation) = outcome.violation {
        println!("VIOLATED {violation}");
    }
    println!("the last of what happened:\n{}", outcome.log.join("\n"));
    ExitCode::FAILURE
}
