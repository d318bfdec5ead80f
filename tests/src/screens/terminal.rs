//! A terminal with a shell on it, out of `script`; what is written to it is read as a terminal would show it.

use std::io::{Read as _, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

const PATIENCE: Duration = Duration::from_secs(30);

/// Shows whether the terminal's mode is what it was before.
const AROUND: &str = r#"stty rows $ROWS cols $COLUMNS; tty >"$NOTE"; before=$(stty -g); printf 'SHELL AGAIN\r\n'; "$@"; echo "ended $?"
test "$(stty -g)" = "$before" && echo 'mode as before'"#;

/// The terminal; whatever runs on it ends with this value.
pub struct Terminal {
    process: Child,
    keys: Option<ChildStdin>,
    screen: Arc<Mutex<vt100::Parser>>,
    reader: Option<std::thread::JoinHandle<()>>,
    note: tempfile::NamedTempFile,
}

impl Terminal {
    /// Runs a program on a new terminal.
    pub fn start(words: &[String], rows: u16, columns: u16) -> Result<Self> {
        let note = tempfile::NamedTempFile::new()?;
        let quoted: Vec<String> = ["sh", "-c", AROUND, "around"]
            .into_iter()
            .chain(words.iter().map(String::as_str))
            .map(|word| format!("'{}'", word.replace('\'', r"'\''")))
            .collect();
        let mut process = Command::new("script")
            .args(["-qfec", &quoted.join(" "), "/dev/null"])
            .env("ROWS", rows.to_string())
            .env("COLUMNS", columns.to_string())
            .env("NOTE", note.path())
            .env("TERM", "xterm-256color")
            .env("SHELL", "/bin/sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("script (package bsdutils)")?;
        let keys = process.stdin.take();
        let mut output = process.stdout.take().context("a pipe")?;
        let screen = Arc::new(Mutex::new(vt100::Parser::new(rows, columns, 0)));
        let shown = Arc::clone(&screen);
        let reader = std::thread::spawn(move || {
            let mut octets = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut octets) {
                shown.lock().unwrap_or_else(PoisonError::into_inner).process(&octets[..length]);
            }
        });
        Ok(Self { process, keys, screen, reader: Some(reader), note })
    }

    fn contents(&self) -> String {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner).screen().contents()
    }

    /// Waits until the screen is as it should be.
    pub async fn until(&self, right: impl Fn(&str) -> bool) -> Result<()> {
        let begun = tokio::time::Instant::now();
        while !right(&self.contents()) {
            ensure!(begun.elapsed() < PATIENCE, "the screen stays so:\n{}", self.contents());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Presses keys.
    pub fn type_keys(&mut self, keys: &str) -> Result<()> {
        let pipe = self.keys.as_mut().context("it has ended")?;
        // An escape alone is told from one that begins a sequence by what follows it, or nothing.
        for key in keys.split_inclusive('\u{1b}') {
            pipe.write_all(key.as_bytes())?;
            pipe.flush()?;
            std::thread::sleep(Duration::from_millis(if key.ends_with('\u{1b}') { 300 } else { 0 }));
        }
        Ok(())
    }

    /// Makes the terminal larger or smaller.
    pub fn resize(&mut self, rows: u16, columns: u16) -> Result<()> {
        let tty = std::fs::read_to_string(self.note.path())?;
        let size = ["rows", &rows.to_string(), "cols", &columns.to_string()].map(str::to_owned);
        let done = Command::new("stty").args(["-F", tty.trim()]).args(size).status()?;
        ensure!(done.success(), "stty: {done}");
        let mut screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        screen.screen_mut().set_size(rows, columns);
        Ok(())
    }

    /// Sends a signal to the program of this name on the terminal, and to no other.
    pub fn signal(&self, name: &str, signal: &str) -> Result<()> {
        let tty = std::fs::read_to_string(self.note.path())?;
        let tty = tty.trim().trim_start_matches("/dev/");
        let list = Command::new("ps").args(["-t", tty, "-o", "pid=,comm="]).output()?;
        let list = String::from_utf8_lossy(&list.stdout).into_owned();
        let pid =
            list.lines().find(|line| line.ends_with(name)).and_then(|line| line.split_whitespace().next());
        let Some(pid) = pid else { bail!("no {name} on {tty}:\n{list}") };
        ensure!(Command::new("kill").args(["-s", signal, pid]).status()?.success(), "kill {pid}");
        Ok(())
    }

    /// Waits for the end of everything on the terminal; gives what stands there then.
    pub async fn end(&mut self) -> Result<String> {
        let begun = tokio::time::Instant::now();
        while self.process.try_wait()?.is_none() {
            ensure!(begun.elapsed() < PATIENCE, "it does not end:\n{}", self.contents());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if let Some(reader) = self.reader.take() {
            drop(reader.join());
        }
        Ok(self.contents())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        drop(self.keys.take());
        let _ended = self.process.kill();
        let _reaped = self.process.wait();
    }
}
