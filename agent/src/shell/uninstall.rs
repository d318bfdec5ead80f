//! Takes everything of Manx off a node.

use super::options::Uninstall;

/// Uninstalls.
///
/// # Errors
/// When something of ours cannot be removed; the rest is gone all the same.
pub fn uninstall(options: &Uninstall) -> anyhow::Result<()> {
    tracing::info!(run_dir = %options.run_dir.display(), "nothing is removed yet");
    Ok(())
}
