//! `manxctl completion`: what shells need to complete commands and options; and the same for `kubectl manx`, which asks a
//! program named `kubectl_complete-manx`.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Arg, Command, CommandFactory as _};
use clap_complete::Shell;

use crate::Arguments;

/// For which shell.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  manxctl completion bash > /etc/bash_completion.d/manxctl
  manxctl completion zsh > \"${fpath[1]}/_manxctl\"
  manxctl completion fish > ~/.config/fish/completions/manxctl.fish

As a plugin of kubectl, whose own completion then knows it too:
  ln -s \"$(command -v manxctl)\" /usr/local/bin/kubectl-manx
  ln -s \"$(command -v manxctl)\" /usr/local/bin/kubectl_complete-manx")]
pub(crate) struct Options {
    /// The shell.
    shell: Shell,
}

/// Prints the script.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut Arguments::command(), "manxctl", &mut script);
    crate::write_out(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// The directive that ends an answer to kubectl (of its completion library, cobra): complete no files.
const NO_FILES: &str = ":4";

/// Answers kubectl: the words that may stand in place of the last argument, each with what it means.
pub(crate) fn answer(arguments: &[OsString]) -> String {
    let words: Vec<&str> = arguments.iter().filter_map(|word| word.to_str()).collect();
    let (last, before) = words.split_last().unwrap_or((&"", &[]));
    let mut root = Arguments::command();
    root.build();
    let mut command = &root;
    let mut value_of: Option<&Arg> = None;
    for word in before {
        match value_of.take() {
            Some(_) => {}
            None if word.starts_with('-') => {
                value_of = option(command, word)
                    .filter(|arg| arg.get_action().takes_values() && !word.contains('='));
            }
            None => command = command.find_subcommand(word).unwrap_or(command),
        }
    }
    let mut lines = candidates(command, value_of, last);
    lines.retain(|line| line.starts_with(last));
    lines.push(NO_FILES.to_owned());
    lines.join("\n") + "\n"
}

fn option<'a>(command: &'a Command, word: &str) -> Option<&'a Arg> {
    let name = word.split('=').next().unwrap_or(word);
    command.get_arguments().find(|arg| {
        arg.get_long().is_some_and(|long| name == format!("--{long}"))
            || arg.get_short().is_some_and(|short| name == format!("-{short}"))
    })
}

fn candidates(command: &Command, value_of: Option<&Arg>, last: &str) -> Vec<String> {
    let described = |word: String, help: Option<String>| match help {
        Some(help) => format!("{word}\t{}", help.lines().next().unwrap_or_default()),
        None => word,
    };
    let values = |arg: &Arg| {
        let values = arg.get_possible_values().into_iter();
        values
            .map(|value| described(value.get_name().to_owned(), value.get_help().map(ToString::to_string)))
            .collect()
    };
    if let Some(arg) = value_of {
        return values(arg);
    }
    if last.starts_with('-') {
        let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
        return shown
            .filter_map(|arg| {
                Some(described(format!("--{}", arg.get_long()?), arg.get_help().map(ToString::to_string)))
            })
            .collect();
    }
    let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
    let mut lines: Vec<String> = shown
        .map(|command| described(command.get_name().to_owned(), command.get_about().map(ToString::to_string)))
        .collect();
    lines.extend(command.get_positionals().flat_map(values));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let answer = answer(&arguments);
        let lines: Vec<&str> = answer.lines().collect();
        let (end, lines) = lines.split_last().expect("a directive");
        assert_eq!(*end, NO_FILES);
        lines.iter().map(|line| line.split('\t').next().unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn kubectl_is_told_commands_options_and_their_values() {
        assert_eq!(words("stat"), ["status"]);
        assert_eq!(words("ipam "), ["show", "check", "help"]);
        assert_eq!(words("status --wa"), ["--watch"]);
        assert_eq!(words("status -o "), ["json", "yaml", "wide"]);
        assert_eq!(words("--manx-namespace status po"), ["pools"], "a value is no command");
        assert!(words("").contains(&"peers".to_owned()));
    }

    #[test]
    fn every_shell_gets_a_script_that_knows_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Elvish, Shell::PowerShell] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "manxctl", &mut script);
            assert!(String::from_utf8_lossy(&script).contains("ipam"), "{shell}");
        }
    }
}
