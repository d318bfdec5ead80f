//! The image that ships: static programs and the conflist, and nothing else. No shell, no libraries, no package manager.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;

use crate::archive::{Defaults, Image};
use crate::tree::Tree;

/// The programs, all in `/usr/bin`.
pub const PROGRAMS: [&str; 4] = ["manx-agent", "manx-cni", "manx-controller", "manxctl"];

/// Where the template of the conflist lies in the image.
pub const CONFLIST: &str = "/etc/manx/10-manx.conflist";

/// What differs from one build to the next.
#[derive(Clone, Debug)]
pub struct Build {
    /// `docker.io/library/manx:1.0.0`, or where the image is to be pushed.
    pub name: String,
    /// The processor as Go names it: `amd64`, `arm64`.
    pub arch: String,
    /// Seconds since 1970.
    pub time: u64,
    /// Whether the layer is compressed: smaller and slower to write.
    pub gzip: bool,
}

/// Puts the image together out of the programs in `binaries` and the conflist of the folder `deploy`.
///
/// # Errors
/// When a file cannot be read.
pub fn image(build: &Build, binaries: &Path, deploy: &Path) -> anyhow::Result<Image> {
    let mut tree = Tree::new();
    for program in PROGRAMS {
        tree = tree.file(&format!("/usr/bin/{program}"), 0o755, read(&binaries.join(program))?);
    }
    let tree = tree.file(CONFLIST, 0o644, read(&deploy.join("10-manx.conflist"))?);
    Ok(Image {
        names: vec![build.name.clone()],
        arch: build.arch.clone(),
        time: build.time,
        gzip: build.gzip,
        defaults: defaults(),
        layers: vec![tree],
    })
}

fn defaults() -> Defaults {
    let labels = [
        ("title", "Manx"),
        ("description", "BGP-routed pod network for Kubernetes"),
        ("version", env!("CARGO_PKG_VERSION")),
        ("licenses", env!("CARGO_PKG_LICENSE")),
        ("url", env!("CARGO_PKG_REPOSITORY")),
    ];
    let label = |(name, value): (&str, &str)| (format!("org.opencontainers.image.{name}"), value.to_owned());
    Defaults {
        entrypoint: vec!["/usr/bin/manx-agent".to_owned()],
        command: Vec::new(),
        user: String::new(),
        path: "/usr/bin".to_owned(),
        labels: labels.map(label).into_iter().collect::<BTreeMap<_, _>>(),
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading {}", path.display()))
}
