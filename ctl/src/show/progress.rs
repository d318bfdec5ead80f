//! A line that says what is done, for whatever takes longer than a second.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::JoinHandle;

/// What is faster than this is done before anybody asks what it does.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often the line moves.
const BEAT: Duration = Duration::from_millis(120);

/// A line on standard error; it is gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    appearance: Option<JoinHandle<()>>,
}

impl Progress {
    /// One that appears after a second, if it may appear at all.
    pub(super) fn new(what: String, visible: bool) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        bar.set_message(what);
        let late = bar.clone();
        let appearance = visible.then(|| {
            tokio::spawn(async move {
                tokio::time::sleep(PATIENCE).await;
                late.set_draw_target(ProgressDrawTarget::stderr());
                late.enable_steady_tick(BEAT);
            })
        });
        let this = Self { bar, appearance };
        this.style("{spinner} {msg}");
        this
    }

    /// Says what is done now.
    pub(crate) fn say(&self, what: impl Into<String>) {
        self.bar.set_message(what.into());
    }

    /// Says how much of it is done.
    pub(crate) fn count(&self, done: usize, of: usize) {
        self.style("{spinner} {msg} {pos}/{len}");
        self.bar.set_length(of as u64);
        self.bar.set_position(done as u64);
    }

    fn style(&self, template: &str) {
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(appearance) = self.appearance.take() {
            appearance.abort();
        }
        self.bar.finish_and_clear();
    }
}
