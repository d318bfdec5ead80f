//! Every chore of the project as a cargo command: `cargo xtask` prints them.
//!
//! Depends on little, so that the first `cargo xtask` on a fresh machine starts soon: no command-line crate, no
//! Kubernetes client, only what reads Rust sources (`syn`) and writes YAML.

mod chart;
mod chore;
mod ci;
mod crds;
mod errors;
mod fuzz;
mod generated;
mod image;
mod kubernetes;
mod manifests;
mod manual;
mod manxctl;
mod metrics;
mod run;
mod setup;
mod tidy;

use std::process::ExitCode;

use chore::{Failed, Root};

const USAGE: &str = "\
cargo xtask COMMAND

  setup                  install what the lab and the tests need (Debian, as root); quick when all is there
  lab [ARGS…]            set up, build, and run the lab: nodes, router and pods on this machine (lab --help);
                         lab --kubernetes: the same with a real Kubernetes (lab --kubernetes --help)
  test [FILTER]          set up, build, and run every test, or those whose name contains FILTER
  test interop [CELL…]   play every feature with BIRD 2, BIRD 1.6, FRR, GoBGP, OpenBGPD and ExaBGP, or the cells whose
                         FEATURE/DAEMON contains CELL; --write brings docs/interop.md up to date
  test kubernetes [NAME] play the scenarios on a real Kubernetes out of namespaces, or those whose name contains NAME
  kubernetes             build Kubernetes' own programs for the tests, once, and print their folder
  crash [CLASS…]         kill and hinder plugin and agent at every system call, every case; CLASS chooses some
  bench NAME [ARGS…]     set up, build for release, and run one benchmark (bench --help, bench NAME --help)
  sim SEED               play a run of the simulated cluster and tell all of it; --less SEED finds a shorter list of faults,
                         --table writes docs/convergence.md
  fuzz TARGET [SECONDS]  fuzz decode, session, speaker or node (whole ones), for 60 s; keeps what is new in the corpus
  image [--profile dev|release] [--arch amd64|arm64] [--tag NAME:TAG] [--out FILE]
                         write the container image to target/image; --test-images writes those that tests need
  ci                     everything that CI runs: fmt, clippy, tidy, crds, errors, manifests, metrics, manxctl, doc,
                         deny, test
  tidy                   check the rules of the project that neither rustc nor clippy knows
  crds [--check]         write deploy/crds and docs/crds.md, or fail when they are stale
  errors [--check]       write docs/errors.md, every message with cause and cure, or fail when it is stale; --list prints
                         the messages of the code
  manifests [--check]    write deploy/manx.yaml and what else is made of the files under deploy, or fail when stale
  metrics [--check]      write docs/metrics.md and deploy/monitoring/prometheusrule.yaml, or fail when they are stale
  manxctl [--check]      write docs/manxctl.md out of the help of manxctl, or fail when it is stale";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<Failed>() {
            Some(failed) => ExitCode::from(failed.code()),
            None => {
                eprintln!("error: {error:#}");
                ExitCode::FAILURE
            }
        },
    }
}

fn dispatch(args: &[&str]) -> anyhow::Result<()> {
    let root = Root::find()?;
    match args {
        ["setup"] => setup::setup(),
        ["lab", args @ ..] => run::lab(&root, args),
        ["test"] => run::test(&root, None),
        ["test", "kubernetes", args @ ..] => run::on_kubernetes(&root, args),
        ["test", "interop", args @ ..] => run::interop(&root, args),
        ["test", filter] => run::test(&root, Some(filter)),
        ["crash", args @ ..] => run::crash(&root, args),
        ["bench", name, args @ ..] => run::bench(&root, name, args),
        ["sim", "--table"] => run::convergence(&root),
        ["sim", args @ ..] if !args.is_empty() => run::sim(&root, args),
        ["fuzz", target] => fuzz::fuzz(&root, target, "60"),
        ["fuzz", target, seconds] => fuzz::fuzz(&root, target, seconds),
        ["kubernetes"] => {
            setup::kubernetes()?;
            println!("{}", kubernetes::programs(&root)?.display());
            Ok(())
        }
        ["image", args @ ..] => image::image(&root, args),
        ["ci"] => ci::ci(&root),
        ["tidy"] => tidy::tidy(&root),
        ["crds"] => crds::write(&root),
        ["crds", "--check"] => crds::check(&root),
        ["manifests"] => manifests::write(&root),
        ["manifests", "--check"] => manifests::check(&root),
        ["errors"] => errors::write(&root),
        ["errors", "--check"] => errors::check(&root),
        ["errors", "--list"] => errors::list(&root),
        ["metrics"] => metrics::write(&root),
        ["metrics", "--check"] => metrics::check(&root),
        ["manxctl"] => manxctl::write(&root),
        ["manxctl", "--check"] => manxctl::check(&root),
        [] | ["help" | "-h" | "--help", ..] => {
            println!("{USAGE}");
            Ok(())
        }
        _ => anyhow::bail!("no such command: {}\n\n{USAGE}", args.join(" ")),
    }
}
