//! The node agent: reads its options, runs, and says why if it cannot. The same program installs the plugin, and takes
//! everything off a node again.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use manx_agent::look;
use manx_agent::shell::options::{Command, CommandLine, LogFormat};
use manx_agent::shell::{install, run, start, uninstall};

fn main() -> ExitCode {
    match CommandLine::parse() {
        CommandLine { command: Some(Command::Install(options)), .. } => {
            start::start("installer", options.log_format, async { install::install(&options).map(drop) })
        }
        CommandLine { command: Some(Command::Uninstall(options)), .. } => {
            start::start("uninstaller", options.log_format, async { uninstall::uninstall(&options) })
        }
        CommandLine { command: Some(Command::Idle), .. } => {
            start::start("idler", LogFormat::Text, run::until_told_to_end())
        }
        CommandLine { command: Some(Command::Look(options)), .. } => look::look(&options),
        CommandLine { options: Some(options), .. } => {
            start::start("agent", options.log_format, run::run(options))
        }
        CommandLine { .. } => {
            let _unseen = CommandLine::command().print_help();
            ExitCode::FAILURE
        }
    }
}
