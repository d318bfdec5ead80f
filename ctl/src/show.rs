//! How a command shows what it found: as text that fits the terminal, or as data; once, or again whenever it changes.
//!
//! Text and data are made from the same value, so `-o json` says no less than the table. Colour is only for a terminal and
//! not with `NO_COLOR`; a table is as wide as the terminal at most, and as wide as it needs where there is none.

mod live;
mod page;
mod progress;

use std::io::IsTerminal as _;

use anyhow::Result;
use serde::Serialize;

pub(crate) use page::{Page, Tone, age};
pub(crate) use progress::Progress;

/// How output is written; flatten it into the `Options` of a command.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub(crate) struct Output {
    /// As data for programs, or with more columns, and none of them shortened.
    #[arg(long, short, value_name = "json|yaml|wide", hide_possible_values = true)]
    pub(crate) output: Option<Format>,
}

/// The same, for a command that can go on; flatten it into its `Options`.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub(crate) struct Live {
    #[command(flatten)]
    pub(crate) output: Output,
    /// Go on, and show it again whenever it changes, until Ctrl-C.
    #[arg(long, short)]
    pub(crate) watch: bool,
}

/// Forms other than the plain table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// A table with all columns.
    Wide,
}

/// Where output goes, and in which form.
#[derive(Clone, Debug, Default)]
pub(crate) struct Show {
    format: Option<Format>,
    /// Standard output is a terminal.
    terminal: bool,
    colour: bool,
    /// Standard error is a terminal.
    progress: bool,
}

impl Show {
    /// The terminal, or what stands in for it, of this process.
    pub(crate) fn here() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let unset = |name| std::env::var_os(name).is_none_or(|value| value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            format: None,
            terminal,
            colour: terminal && unset("NO_COLOR") && !dumb,
            progress: std::io::stderr().is_terminal() && !dumb,
        }
    }

    /// The same in the form that a command was asked for.
    pub(crate) fn asked(&self, output: Output) -> Self {
        Self { format: output.output, ..self.clone() }
    }

    /// How text is to be laid out now: the terminal may have changed its size.
    pub(crate) fn page(&self) -> Page {
        let wide = self.format == Some(Format::Wide);
        let size = self.terminal.then(|| ratatui::crossterm::terminal::size().ok()).flatten();
        let width = size.map(|(columns, _)| usize::from(columns)).filter(|&columns| columns > 0 && !wide);
        Page::new(self.colour, width, wide)
    }

    /// The data in the form that was asked for; `text` draws it for people.
    ///
    /// # Errors
    /// When the data has no form in JSON or YAML.
    pub(crate) fn render<T: Serialize>(
        &self,
        data: &T,
        text: impl FnOnce(&T, &Page) -> String,
    ) -> Result<String> {
        Ok(match self.format {
            Some(Format::Json) => serde_json::to_string_pretty(data)? + "\n",
            Some(Format::Yaml) => serde_yaml_ng::to_string(data)?,
            Some(Format::Wide) | None => text(data, &self.page()),
        })
    }

    /// Prints it once.
    ///
    /// # Errors
    /// As [`Self::render`], and when standard output cannot be written.
    pub(crate) fn print<T: Serialize>(&self, data: &T, text: impl FnOnce(&T, &Page) -> String) -> Result<()> {
        crate::write_out(self.render(data, text)?.as_bytes())
    }

    /// A line on standard error that says what is done, when it takes longer than a second; gone when dropped.
    pub(crate) fn progress(&self, what: impl Into<String>) -> Progress {
        Progress::new(what.into(), self.progress)
    }
}
