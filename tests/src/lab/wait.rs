//! Waiting for what other programs do, with a name for what is waited for.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How soon a condition outside this process is looked at again at first.
const INTERVAL: Duration = Duration::from_millis(25);
/// And at most: a look may cost a process.
const LONGEST_INTERVAL: Duration = Duration::from_millis(250);

/// Looks at `condition` until it holds, the more seldom the longer it takes; fails with `what` and the last error once
/// `limit` is over.
pub fn until(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    loop {
        let state = condition();
        if matches!(state, Ok(true)) {
            return Ok(());
        }
        let waited = start.elapsed();
        if waited >= limit {
            return match state {
                Err(error) => Err(error).with_context(|| format!("waited {limit:?} until {what}")),
                Ok(_) => bail!("waited {limit:?} until {what}, in vain"),
            };
        }
        std::thread::sleep((waited / 10).clamp(INTERVAL, LONGEST_INTERVAL));
    }
}
