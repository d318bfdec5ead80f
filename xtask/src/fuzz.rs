//! `fuzz`: one target of `tests/fuzz` under libFuzzer, which it needs nothing installed for but a C++ compiler.

use std::process::Command;

use anyhow::Context as _;

use crate::chore::{Root, run};

/// The targets, as `tests/fuzz/src/lib.rs` describes them.
const TARGETS: [&str; 4] = ["decode", "node", "session", "speaker"];

/// What libFuzzer asks of the compiler, with the checks of a debug build on top of optimisation.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Coverflow-checks -Ccodegen-units=1";

/// Fuzzes a target for `seconds`, then keeps of what is new only the inputs that reach something new.
///
/// # Errors
/// When the target is unknown, does not build, or fails: libFuzzer then names the input that made it fail.
pub(crate) fn fuzz(root: &Root, target: &str, seconds: &str) -> anyhow::Result<()> {
    anyhow::ensure!(TARGETS.contains(&target), "no such target: {target}; there are {}", TARGETS.join(", "));
    seconds.parse::<u32>().with_context(|| format!("not a number of seconds: {seconds}"))?;
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let program = format!("fuzz-{target}");
    let folder = root.target().join("fuzz");
    let arguments = ["build", "--release", "-p", "manx-fuzz", "--features", "libfuzzer", "--bin", &program];
    let mut cargo = root.cargo(&arguments);
    cargo.args(["--target", &platform]).arg("--target-dir").arg(&folder);
    run(cargo.env("RUSTFLAGS", FLAGS).env("CARGO_PROFILE_RELEASE_LTO", "off"))?;
    let program = folder.join(platform).join("release").join(program);
    let corpus = root.join("tests/fuzz/corpus").join(target);
    std::fs::create_dir_all(&corpus).with_context(|| format!("making {}", corpus.display()))?;
    let found = folder.join(format!("found-{target}"));
    std::fs::create_dir_all(&found).with_context(|| format!("making {}", found.display()))?;
    let artifacts = format!("-artifact_prefix={}/", folder.display());
    let mut fuzzer = Command::new(&program);
    fuzzer.args([&format!("-max_total_time={seconds}"), "-print_final_stats=1", "-timeout=20", &artifacts]);
    run(fuzzer.args([&found, &corpus]))?;
    run(Command::new(&program).args(["-set_cover_merge=1", &artifacts]).args([&corpus, &found]))
}
