//! `ci`: every check, in one order, on any machine. Later steps run though earlier ones failed, so that one run tells
//! everything; the last lines name what failed.

use std::time::Instant;

use crate::chore::{Root, run};
use crate::{crds, errors, manifests, manxctl, metrics, run, setup, tidy};

type Step = (&'static str, fn(&Root) -> anyhow::Result<()>);

const STEPS: [Step; 11] = [
    ("cargo fmt --all --check", fmt),
    ("cargo clippy --workspace --all-targets -- -D warnings", clippy),
    ("cargo xtask tidy", tidy::tidy),
    ("cargo xtask crds --check", crds::check),
    ("cargo xtask errors --check", errors::check),
    ("cargo xtask manifests --check", manifests::check),
    ("cargo xtask metrics --check", metrics::check),
    ("cargo xtask manxctl --check", manxctl::check),
    ("RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --no-deps --document-private-items", doc),
    ("cargo deny check", deny),
    ("cargo xtask test", test),
];

/// Runs every step.
///
/// # Errors
/// When the set-up or any step failed.
pub(crate) fn ci(root: &Root) -> anyhow::Result<()> {
    println!("==> cargo xtask setup");
    setup::setup()?;
    let mut failed = Vec::new();
    for (name, step) in STEPS {
        println!("==> {name}");
        let start = Instant::now();
        let outcome = step(root);
        let took = start.elapsed().as_secs();
        match outcome {
            Ok(()) => println!("==> ok in {took} s: {name}"),
            Err(error) => {
                println!("==> FAILED in {took} s: {name}: {error:#}");
                failed.push(name);
            }
        }
    }
    anyhow::ensure!(
        failed.is_empty(),
        "{} of {} steps failed: {}",
        failed.len(),
        STEPS.len(),
        failed.join("; ")
    );
    println!("==> all {} steps passed", STEPS.len());
    Ok(())
}

fn fmt(root: &Root) -> anyhow::Result<()> {
    run(&mut root.cargo(&["fmt", "--all", "--check"]))
}

fn clippy(root: &Root) -> anyhow::Result<()> {
    run(&mut root.cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

fn doc(root: &Root) -> anyhow::Result<()> {
    let mut doc = root.cargo(&["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"]);
    run(doc.env("RUSTDOCFLAGS", "-Dwarnings"))
}

/// Licences, sources and duplicates need no network; advisories do, so they are left to a machine that has it.
fn deny(root: &Root) -> anyhow::Result<()> {
    let installed = root.cargo(&["deny", "--version"]).output().is_ok_and(|output| output.status.success());
    if !installed {
        println!("cargo-deny is not installed: licences, sources and duplicates were NOT checked");
        return Ok(());
    }
    run(&mut root.cargo(&["deny", "--offline", "check", "bans", "licenses", "sources"]))
}

fn test(root: &Root) -> anyhow::Result<()> {
    run::test(root, None)
}
