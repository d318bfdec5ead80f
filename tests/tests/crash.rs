//! The plugin and the agent killed and hindered at every system call, as tests: `docs/reliability.md` says what is
//! tried. Without `MANX_CRASH=all` a fixed choice of the cases is tried, which takes some minutes on two cores.

use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use manx_tests::crash::{agent, disk, inside, plugin, storm, tally};

/// One class of cases.
type Class = fn(&'static str) -> Result<()>;

const CLASSES: [(&str, Class); 22] = [
    ("plugin_killed_in_add", |class| plugin::killed(class, "ADD", 2)),
    ("plugin_killed_in_add_again", |class| plugin::killed(class, "AGAIN", 11)),
    ("plugin_killed_in_del", |class| plugin::killed(class, "DEL", 1)),
    ("plugin_killed_in_gc", |class| plugin::killed(class, "GC", 2)),
    ("plugin_killed_in_check", |class| plugin::killed(class, "CHECK", 11)),
    ("plugin_failing_in_add", |class| plugin::failing(class, "ADD", 5)),
    ("plugin_failing_in_add_again", |class| plugin::failing(class, "AGAIN", 13)),
    ("plugin_failing_in_del", |class| plugin::failing(class, "DEL", 1)),
    ("plugin_killed_in_del_alone", |class| plugin::alone(class, false, 1)),
    ("plugin_failing_in_del_alone", |class| plugin::alone(class, true, 3)),
    ("plugin_failing_in_gc", |class| plugin::failing(class, "GC", 2)),
    ("plugin_failing_in_check", |class| plugin::failing(class, "CHECK", 11)),
    ("agent_killed_in_add", |class| agent::harmed(class, "ADD", false, 4)),
    ("agent_killed_in_del", |class| agent::harmed(class, "DEL", false, 4)),
    ("agent_killed_at_start", |class| agent::starting(class, false, 29)),
    ("agent_failing_in_add", |class| agent::harmed(class, "ADD", true, 11)),
    ("agent_failing_in_del", |class| agent::harmed(class, "DEL", true, 11)),
    ("agent_failing_at_start", |class| agent::starting(class, true, 97)),
    ("storage_and_clock", disk::storage),
    ("record_damaged", |class| disk::damaged(class, 131)),
    ("calls_that_meet", |class| storm::pairs(class, 100)),
    ("storm", storm::storms),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    if !nix::unistd::geteuid().is_root() {
        println!("ignored: network namespaces need root");
        return if std::env::var_os("CI").is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    if !arguments.list && !inside::is_inside() {
        return inside::enter().unwrap_or_else(|error| {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        });
    }
    if inside::is_inside()
        && let Err(error) = inside::prepare()
    {
        eprintln!("error: {error:#}");
        return ExitCode::FAILURE;
    }
    arguments.test_threads.get_or_insert(2);
    let trial = |(name, class): (&'static str, Class)| {
        Trial::test(name, move || class(name).map_err(|error| Failed::from(format!("{error:#}"))))
    };
    let conclusion = libtest_mimic::run(&arguments, CLASSES.into_iter().map(trial).collect());
    if !arguments.list {
        tally::print();
    }
    conclusion.exit_code()
}
