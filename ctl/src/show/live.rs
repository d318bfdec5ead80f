//! `--watch`: the same again whenever it changes, until Ctrl-C.
//!
//! On a terminal it is drawn over itself on the other screen, so that what was there before comes back at the end with the
//! last page below it. Elsewhere each page that differs from the one before follows it, and each object of data.

use std::fmt::Write as _;
use std::pin::pin;
use std::time::Duration;

use anyhow::Result;
use futures_util::{Stream, StreamExt as _};
use ratatui::crossterm::terminal::{Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen};
use ratatui::crossterm::{Command as _, cursor};
use serde::Serialize;

use super::{Format, Page, Show};

/// How often ages are counted anew on a terminal.
const TICK: Duration = Duration::from_secs(1);

impl Show {
    /// Shows each value of the stream until it ends or Ctrl-C is pressed, and gives the last one.
    ///
    /// # Errors
    /// When the stream says so, or standard output cannot be written.
    pub(crate) async fn follow<T: Serialize>(
        &self,
        values: impl Stream<Item = Result<T>>,
        text: impl Fn(&T, &Page) -> String,
    ) -> Result<Option<T>> {
        let mut values = pin!(values);
        let over = self.terminal && !matches!(self.format, Some(Format::Json | Format::Yaml));
        let mut screen = Screen::new(over)?;
        let mut last = None;
        let mut interrupt = pin!(tokio::signal::ctrl_c());
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                _ = &mut interrupt => break,
                value = values.next() => match value {
                    Some(value) => last = Some(value?),
                    None => break,
                },
                _ = tick.tick(), if over => {}
            }
            if let Some(value) = &last {
                screen.draw(self.render(value, &text)?, self.format == Some(Format::Yaml))?;
            }
        }
        screen.end()?;
        Ok(last)
    }
}

/// The terminal, or what stands in for it.
#[derive(Debug)]
struct Screen {
    over: bool,
    shown: Option<String>,
}

impl Screen {
    fn new(over: bool) -> Result<Self> {
        if over {
            write(EnterAlternateScreen)?;
            write(cursor::Hide)?;
        }
        Ok(Self { over, shown: None })
    }

    fn draw(&mut self, page: String, separated: bool) -> Result<()> {
        let size = ratatui::crossterm::terminal::size().ok();
        let cut = match size {
            Some((_, rows)) if self.over => cut(&page, usize::from(rows)),
            _ => page.clone(),
        };
        if self.shown.as_ref() == Some(&cut) {
            return Ok(());
        }
        let mut out = String::new();
        if self.over {
            cursor::MoveTo(0, 0).write_ansi(&mut out)?;
            for line in cut.lines() {
                out.push_str(line);
                Clear(ClearType::UntilNewLine).write_ansi(&mut out)?;
                out.push_str("\r\n");
            }
            Clear(ClearType::FromCursorDown).write_ansi(&mut out)?;
        } else {
            if self.shown.is_some() {
                out.push_str(if separated { "---\n" } else { "\n" });
            }
            out.push_str(&page);
        }
        crate::write_out(out.as_bytes())?;
        flush()?;
        self.shown = Some(cut);
        Ok(())
    }

    /// Gives the terminal back, with the last page on it.
    fn end(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.over, false) {
            write(cursor::Show)?;
            write(LeaveAlternateScreen)?;
            crate::write_out(self.shown.as_deref().unwrap_or_default().as_bytes())?;
            flush()?;
        }
        Ok(())
    }
}

impl Drop for Screen {
    /// After an error; there is nobody to tell of another.
    fn drop(&mut self) {
        let _late = self.end();
    }
}

/// As much of the page as has room, and how much has not.
fn cut(page: &str, rows: usize) -> String {
    let lines: Vec<&str> = page.lines().collect();
    if lines.len() < rows || rows < 2 {
        return page.to_owned();
    }
    let mut text: String = lines[..rows - 2].iter().flat_map(|line| [line, "\n"]).collect();
    let _never_fails = writeln!(text, "… {} more lines", lines.len() - (rows - 2));
    text
}

fn write(command: impl ratatui::crossterm::Command) -> Result<()> {
    let mut out = String::new();
    command.write_ansi(&mut out)?;
    crate::write_out(out.as_bytes())
}

fn flush() -> Result<()> {
    use std::io::Write as _;
    match std::io::stdout().flush() {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_is_too_long_says_how_much_is_missing() {
        assert_eq!(cut("a\nb\n", 3), "a\nb\n");
        assert_eq!(cut("a\nb\nc\nd\n", 4), "a\nb\n… 2 more lines\n");
    }
}
