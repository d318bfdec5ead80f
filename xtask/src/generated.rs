//! Files that are made of others: written when they are not as they should be, or found stale.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, ensure};

use crate::chore::Root;

/// What files should hold, by their paths below the root.
pub(crate) type Files = BTreeMap<String, String>;

/// Writes those that are not as they should be.
pub(crate) fn write(root: &Root, files: Files) -> anyhow::Result<()> {
    for (path, text) in stale(root, files) {
        fs::write(root.join(&path), text).with_context(|| format!("{path} cannot be written"))?;
        println!("{path}: updated");
    }
    Ok(())
}

/// Fails when [`write()`] would change anything, which is what `cargo xtask COMMAND` does; else says `well`.
pub(crate) fn check(root: &Root, files: Files, command: &str, well: &str) -> anyhow::Result<()> {
    let stale: Vec<String> = stale(root, files).into_keys().collect();
    ensure!(
        stale.is_empty(),
        "stale: {}: run cargo xtask {command} and commit what it writes",
        stale.join(", ")
    );
    println!("{well}");
    Ok(())
}

fn stale(root: &Root, mut files: Files) -> Files {
    files.retain(|path, text| fs::read_to_string(root.join(path)).ok().as_ref() != Some(text));
    files
}
