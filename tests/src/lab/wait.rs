//! Waiting for what other programs do, with a name for what is waited for.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often a condition outside this process is looked at.
const INTERVAL: Duration = Duration::from_millis(25);

/// Looks at `condition` until it holds; fails with `what` and the last error once `limit` is over.
pub fn until(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + limit;
    loop {
        let state = condition();
        if matches!(state, Ok(true)) {
            return Ok(());
        }
        if Instant::now() >= end {
            return match state {
                Err(error) => Err(error).with_context(|| format!("waited {limit:?} until {what}")),
                Ok(_) => bail!("waited {limit:?} until {what}, in vain"),
            };
        }
        std::thread::sleep(INTERVAL);
    }
}
