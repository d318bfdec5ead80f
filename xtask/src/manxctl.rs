//! `manxctl`: `docs/manxctl.md` out of the help of the program.

use crate::chore::{Root, output};
use crate::generated::{self, Files};

const PAGE: &str = "docs/manxctl.md";

/// Writes the page.
pub(crate) fn write(root: &Root) -> anyhow::Result<()> {
    generated::write(root, generated(root)?)
}

/// Fails when [`write()`] would change anything.
pub(crate) fn check(root: &Root) -> anyhow::Result<()> {
    generated::check(root, generated(root)?, "manxctl", "docs/manxctl.md is what manxctl says of itself")
}

fn generated(root: &Root) -> anyhow::Result<Files> {
    let text = output(&mut root.cargo(&["run", "--quiet", "-p", "manx-ctl", "--", "manual", "--markdown"]))?;
    Ok(Files::from([(PAGE.to_owned(), text)]))
}
