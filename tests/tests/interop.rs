//! The matrix of features and daemons: plays it, prints it, and checks that docs/interop.md says the same.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use manx_tests::interop::{self, Outcome, Plan};

/// Cells played at the same time: they mostly wait, a little for each other.
const AT_ONCE: usize = 8;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool> {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let write = take(&mut words, "--write");
    if take(&mut words, "--list") {
        println!("the_matrix_of_features_and_daemons: test");
        return Ok(true);
    }
    // A filter of the whole test run that means other tests chooses no cell here; `interop` chooses all.
    let filters: Vec<String> =
        words.into_iter().filter(|word| !word.starts_with('-') && word != "interop").collect();
    let plan = Plan { filters, at_once: at_once(), program: program()? };
    if !nix::unistd::geteuid().is_root() {
        println!("ignored: network namespaces need root");
        return Ok(std::env::var_os("CI").is_none());
    }
    clean_up_on_interrupt()?;
    let matrix = interop::run(&plan)?;
    if matrix.is_empty() {
        return Ok(true);
    }
    interop::print(&matrix);
    let count = |wanted: fn(&Outcome) -> bool| matrix.values().filter(|outcome| wanted(outcome)).count();
    let failed = count(|outcome| matches!(outcome, Outcome::Failed(_)));
    println!(
        "\n{} cells: {} yes, {} where the peer cannot, {} where ours is not there yet, {failed} FAILED",
        matrix.len(),
        count(|outcome| matches!(outcome, Outcome::Yes(_))),
        count(|outcome| matches!(outcome, Outcome::Cannot(_))),
        count(|outcome| matches!(outcome, Outcome::Missing(_))),
    );
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/interop.md");
    if write {
        std::fs::write(&page, interop::document(&matrix))?;
    }
    let whole = plan.filters.is_empty();
    let current = !whole || interop::is_current(&std::fs::read_to_string(&page).unwrap_or_default(), &matrix);
    if !current {
        println!("docs/interop.md is stale: cargo xtask test interop --write");
    }
    Ok(failed == 0 && current)
}

fn take(words: &mut Vec<String>, word: &str) -> bool {
    let before = words.len();
    words.retain(|other| other != word);
    words.len() < before
}

fn at_once() -> usize {
    std::env::var("MANX_INTEROP_AT_ONCE").ok().and_then(|text| text.parse().ok()).unwrap_or(AT_ONCE)
}

/// The agent, built beside this program.
fn program() -> Result<PathBuf> {
    if let Some(program) = std::env::var_os("MANX_AGENT") {
        return Ok(program.into());
    }
    let exe = std::env::current_exe()?;
    let found = exe.ancestors().skip(1).take(2).map(|dir| dir.join("manx-agent")).find(|path| path.exists());
    found.context("manx-agent is not built: run `cargo build --workspace` first")
}

/// On Ctrl-C or SIGTERM, ends what this run has started.
fn clean_up_on_interrupt() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            let (Ok(mut interrupt), Ok(mut terminate)) = (
                tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt()),
                tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()),
            ) else {
                return;
            };
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        });
        if let Err(error) = interop::remove_own() {
            eprintln!("error: {error:#}");
        }
        std::process::exit(130);
    });
    Ok(())
}
