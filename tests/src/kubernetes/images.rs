//! The images that nodes have from the start: pause, toolbox, and Manx itself.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Node;

/// The folder in which `cargo xtask image` leaves images: `image` in cargo's target folder, above this program.
fn dir() -> Option<PathBuf> {
    let exe = std::env::current_exe().ok()?;
    let found = exe.ancestors().map(|dir| dir.join("image")).find(|dir| dir.is_dir());
    found.or_else(|| Some(Path::new(env!("CARGO_MANIFEST_DIR")).parent()?.join("target/image")))
}

/// Whether a file is an image for this machine's processor.
fn fits(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let other = if cfg!(target_arch = "aarch64") { "-amd64.tar" } else { "-arm64.tar" };
    name.ends_with(".tar") && !name.ends_with(other)
}

/// The image tars, sorted.
fn archives() -> Vec<PathBuf> {
    let entries = dir().and_then(|dir| std::fs::read_dir(dir).ok()).into_iter().flatten();
    let mut archives: Vec<PathBuf> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| fits(path)).collect();
    archives.sort();
    archives
}

/// Says which images are missing.
pub(super) fn missing() -> Option<String> {
    let archives = archives();
    let has = |prefix: &str| {
        archives
            .iter()
            .any(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
    };
    let made_by = |prefix: &str| if prefix == "manx-" { "--profile dev" } else { "--test-images" };
    ["pause", "toolbox", "manx-"].into_iter().find(|name| !has(name)).map(|name| {
        format!(
            "no image {} in {}: make it by `cargo xtask image {}`",
            name.trim_end_matches('-'),
            dir().unwrap_or_default().display(),
            made_by(name)
        )
    })
}

/// Gives all images to the containerd of `node`.
pub(super) fn import(node: &Node<'_>) -> Result<()> {
    for archive in archives() {
        let path = archive.display().to_string();
        node.run(&["ctr", "-n", "k8s.io", "images", "import", &path])
            .with_context(|| format!("{} does not take the image", node.name()))?;
    }
    Ok(())
}
