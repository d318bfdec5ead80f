//! What this program is called: `manxctl`, or `kubectl manx` when kubectl started it as its plugin. Help and examples say
//! the name that works where they are read.

use std::ffi::OsString;
use std::path::Path;

use clap::{CommandFactory, FromArgMatches};

/// The name in the sources of all help.
const NAME: &str = "manxctl";
/// The name by which kubectl asks how to complete `kubectl manx`.
const COMPLETER: &str = "kubectl_complete-manx";

/// Parses the arguments of this process; prints help or what is wrong with them and ends it when need be.
pub(crate) fn parse<A: CommandFactory + FromArgMatches>() -> A {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if file(arguments.first()) == Some(COMPLETER) {
        print!("{}", crate::completion::answer(&arguments[1..]));
        std::process::exit(0);
    }
    let name = called(arguments.first());
    let matches = named(A::command(), name).get_matches_from(arguments);
    A::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

fn file(program: Option<&OsString>) -> Option<&str> {
    Path::new(program?).file_stem()?.to_str()
}

/// By which name we were called.
pub(crate) fn called(program: Option<&OsString>) -> &'static str {
    match file(program) {
        Some("kubectl-manx") => "kubectl manx",
        _ => NAME,
    }
}

/// The command with its usage and the examples under that name.
pub(crate) fn named(command: clap::Command, name: &'static str) -> clap::Command {
    if name == NAME { command } else { examples(command.bin_name(name), name) }
}

fn examples(command: clap::Command, name: &str) -> clap::Command {
    let after = command.get_after_help().map(|text| text.to_string().replace(NAME, name));
    let command = match after {
        Some(text) => command.after_help(text),
        None => command,
    };
    command.mut_subcommands(|command| examples(command, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn called_by_kubectl_the_help_says_kubectl_manx() {
        let program = OsString::from("/usr/local/bin/kubectl-manx");
        let name = called(Some(&program));
        assert_eq!(name, "kubectl manx");
        let mut command = named(super::super::Arguments::command(), name);
        command.build();
        let status = command.find_subcommand_mut("status").expect("a command");
        let help = status.render_help().to_string();
        assert!(help.contains("Usage: kubectl manx status"), "{help}");
        assert!(help.contains("  kubectl manx status") && !help.contains("manxctl"), "{help}");
        assert_eq!(called(Some(&OsString::from("./manxctl"))), "manxctl");
    }
}
