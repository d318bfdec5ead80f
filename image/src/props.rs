//! The images that tests need on machines without a registry: `pause`, which holds a pod's namespaces, and `toolbox`,
//! which is busybox and a server and client of ours.

use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

use crate::archive::{Defaults, Image};
use crate::elf::check_static;
use crate::tree::Tree;

/// What container runtimes are told to hold pods with.
pub const PAUSE: &str = "registry.k8s.io/pause:3.10";

/// What the pods of tests run.
pub const TOOLBOX: &str = "docker.io/library/toolbox:1";

/// The image that holds a pod's namespaces: `toolbox` (static) under the name by which it does nothing but wait.
///
/// # Errors
/// When `toolbox` would not run there.
pub fn pause(toolbox: &[u8], arch: &str) -> anyhow::Result<Image> {
    check_static(toolbox, arch).context("manx-toolbox")?;
    let defaults =
        Defaults { entrypoint: vec!["/pause".to_owned()], path: "/".to_owned(), ..Defaults::default() };
    Ok(plain(PAUSE, arch, defaults, Tree::new().file("/pause", 0o755, toolbox)))
}

/// Busybox with a link for each of its programs, and `toolbox` (static); it serves unless a pod says otherwise.
///
/// # Errors
/// When `busybox` cannot be read, does not say what it can, or would not run there.
pub fn toolbox(toolbox: &[u8], busybox: &Path, arch: &str) -> anyhow::Result<Image> {
    let list = Command::new(busybox).arg("--list").output();
    let list = list.with_context(|| format!("{} does not start", busybox.display()))?.stdout;
    let list = String::from_utf8(list).context("busybox --list prints names")?;
    let content = std::fs::read(busybox).with_context(|| format!("reading {}", busybox.display()))?;
    check_static(&content, arch).with_context(|| format!("{}: install busybox-static", busybox.display()))?;
    let mut tree = Tree::new()
        .folder("/tmp", 0o1777)
        .file("/bin/busybox", 0o755, content)
        .file("/usr/bin/manx-toolbox", 0o755, toolbox)
        .file(
            "/etc/passwd",
            0o644,
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        )
        .file("/etc/group", 0o644, "root:x:0:\nnogroup:x:65534:\n");
    for folder in ["dev", "proc", "root", "run", "sys", "var"] {
        tree = tree.folder(folder, 0o755);
    }
    for program in list.lines().filter(|program| *program != "busybox") {
        tree = tree.link(&format!("/bin/{program}"), "busybox");
    }
    let defaults = Defaults {
        command: ["manx-toolbox", "serve"].map(str::to_owned).to_vec(),
        path: "/usr/bin:/bin".to_owned(),
        ..Defaults::default()
    };
    Ok(plain(TOOLBOX, arch, defaults, tree))
}

fn plain(name: &str, arch: &str, defaults: Defaults, tree: Tree) -> Image {
    Image {
        names: vec![name.to_owned()],
        arch: arch.to_owned(),
        time: 0,
        gzip: false,
        defaults,
        layers: vec![tree],
    }
}
