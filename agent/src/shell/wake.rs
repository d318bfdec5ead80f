//! Waking at a time that may not be set.

use tokio::time::Instant;

/// Ends at that time; never, when there is none.
pub async fn sleep_until<T: Into<Instant>>(when: Option<T>) {
    match when {
        Some(when) => tokio::time::sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}
