//! `manxctl`: `docs/manxctl.md` out of the help of the program.

use std::fs;

use anyhow::Context as _;

use crate::chore::{Root, output};

const PAGE: &str = "docs/manxctl.md";

/// Writes the page.
pub(crate) fn write(root: &Root) -> anyhow::Result<()> {
    let text = generated(root)?;
    if fs::read_to_string(root.join(PAGE)).ok().as_ref() != Some(&text) {
        fs::write(root.join(PAGE), text).with_context(|| format!("{PAGE} cannot be written"))?;
        println!("{PAGE}: updated");
    }
    Ok(())
}

/// Fails when [`write()`] would change anything.
pub(crate) fn check(root: &Root) -> anyhow::Result<()> {
    let same = fs::read_to_string(root.join(PAGE)).ok() == Some(generated(root)?);
    anyhow::ensure!(same, "stale: {PAGE}: run cargo xtask manxctl and commit what it writes");
    println!("{PAGE} is what manxctl says of itself");
    Ok(())
}

fn generated(root: &Root) -> anyhow::Result<String> {
    output(&mut root.cargo(&["run", "--quiet", "-p", "manx-ctl", "--", "manual", "--markdown"]))
}
