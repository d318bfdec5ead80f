//! `lab`, `test` and `bench`: set up, build, and hand over to the programs of `tests`.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Context as _;

use crate::chore::{Root, output, run};
use crate::image;
use crate::kubernetes;
use crate::setup::{self, setup};

/// The packages whose programs make up a node, and the lab around it.
const PROGRAMS: [&str; 8] = ["-p", "manx-agent", "-p", "manx-ctl", "-p", "manx-tests", "-p", "manx-cni"];

/// Runs the lab in our place: its exit status is ours.
pub(crate) fn lab(root: &Root, args: &[&str]) -> anyhow::Result<()> {
    setup()?;
    // The other commands want a cluster that is up.
    if let ["--kubernetes", rest @ ..] = args {
        if rest.is_empty() || rest.contains(&"up") {
            cluster(root, "dev")?;
        }
        run(&mut root.cargo(&["build", "--quiet", "-p", "manx-tests", "--bin", "manx-lab"]))?;
    } else {
        build(root, &[])?;
    }
    become_program(root, "debug/manx-lab", args)
}

/// Makes ready what a real cluster consists of: Kubernetes' programs, whose folder is returned, and the images.
fn cluster(root: &Root, profile: &str) -> anyhow::Result<std::path::PathBuf> {
    setup::kubernetes()?;
    let programs = kubernetes::programs(root)?;
    image::image(root, &["--test-images"])?;
    image::image(root, &["--profile", profile])?;
    Ok(programs)
}

/// Runs the scenarios on a real Kubernetes, or those that `args` name.
pub(crate) fn on_kubernetes(root: &Root, args: &[&str]) -> anyhow::Result<()> {
    setup()?;
    let programs = cluster(root, "dev")?;
    let mut cargo = root.cargo(&["test", "-p", "manx-tests", "--test", "kubernetes", "--"]);
    run(cargo.args(args).env(kubernetes::BIN_DIR, programs))
}

/// Runs every test, or those whose name contains `filter`. A failure does not keep later tests from running.
pub(crate) fn test(root: &Root, filter: Option<&str>) -> anyhow::Result<()> {
    setup()?;
    build(root, &[])?;
    let mut cargo = root.cargo(&["test", "--workspace", "--no-fail-fast"]);
    // Without Kubernetes the rest can be tested; what needs it says that it is skipped, and fails under CI.
    match cluster(root, "dev") {
        Ok(folder) => drop(cargo.env(kubernetes::BIN_DIR, folder)),
        Err(error) => println!("no cluster of real kubelets: {error:#}"),
    }
    run(cargo.args(filter))
}

/// Plays the matrix of features and daemons, or the cells that `args` name.
pub(crate) fn interop(root: &Root, args: &[&str]) -> anyhow::Result<()> {
    setup()?;
    build(root, &[])?;
    run(root.cargo(&["test", "-p", "manx-tests", "--test", "interop", "--", "interop"]).args(args))
}

/// Tries every case of crash safety, or those of the classes that `args` name.
pub(crate) fn crash(root: &Root, args: &[&str]) -> anyhow::Result<()> {
    setup()?;
    build(root, &[])?;
    let mut cargo = root.cargo(&["test", "-p", "manx-tests", "--test", "crash", "--"]);
    run(cargo.args(args).env("MANX_CRASH", "all"))
}

/// Plays a run of the simulated cluster.
pub(crate) fn sim(root: &Root, args: &[&str]) -> anyhow::Result<()> {
    run(&mut root.cargo(&["build", "--quiet", "--bin", "manx-sim", "-p", "manx-sim"]))?;
    become_program(root, "debug/manx-sim", args)
}

/// Writes the table of how long convergence takes.
pub(crate) fn convergence(root: &Root) -> anyhow::Result<()> {
    run(&mut root.cargo(&["build", "--quiet", "--bin", "manx-sim", "-p", "manx-sim"]))?;
    let table = output(Command::new(root.target().join("debug/manx-sim")).arg("--table"))?;
    std::fs::write(root.join("docs/convergence.md"), table).context("writing docs/convergence.md")
}

/// Runs one benchmark with release builds of everything that it measures.
pub(crate) fn bench(root: &Root, name: &str, args: &[&str]) -> anyhow::Result<()> {
    setup()?;
    let all = [&[name], args].concat();
    if name == "kubernetes" {
        let programs = cluster(root, "release")?;
        run(&mut root.cargo(&["build", "--release", "-p", "manx-tests", "--bin", "manx-bench"]))?;
        let mut bench = Command::new(root.target().join("release/manx-bench"));
        return run(bench.args(all).env(kubernetes::BIN_DIR, programs));
    }
    build(root, &["--release"])?;
    static_plugin(root)?;
    become_program(root, "release/manx-bench", &all)
}

/// Builds every program. The plugin comes last and alone: built with the others it would carry the asynchronous half
/// of `kernel`, which the agent asks for and the plugin must not pay for.
fn build(root: &Root, profile: &[&str]) -> anyhow::Result<()> {
    run(root.cargo(&["build", "--bins"]).args(profile).args(&PROGRAMS[..6]))?;
    run(root.cargo(&["build", "--bins"]).args(profile).args(&PROGRAMS[6..]))
}

/// Builds the plugin as it ships and puts it beside the others: without a dynamic linker, which would cost a third of a
/// pod's start.
fn static_plugin(root: &Root) -> anyhow::Result<()> {
    let built = image::plugin(root)?;
    let place = root.target().join("release/manx-cni");
    std::fs::remove_file(&place).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })?;
    std::fs::copy(&built, &place).map(drop).with_context(|| format!("copying {}", built.display()))
}

fn become_program(root: &Root, program: &str, args: &[&str]) -> anyhow::Result<()> {
    let program = root.target().join(program);
    let error = Command::new(&program).args(args).exec();
    Err(error).with_context(|| format!("{} does not start", program.display()))
}
