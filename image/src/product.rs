//! The image that ships: static programs, the conflist, what they are made of and under which licence. No shell, no
//! libraries, no package manager.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;

use crate::archive::{Defaults, Image};
use crate::elf::check_static;
use crate::tree::Tree;

/// The programs, all in `/usr/bin`.
pub const PROGRAMS: [&str; 4] = ["manx-agent", "manx-cni", "manx-controller", "manxctl"];

/// Files of the repository and where they lie in the image.
const FILES: [(&str, &str); 2] =
    [("deploy/10-manx.conflist", "/etc/manx/10-manx.conflist"), ("LICENSE", "/usr/share/manx/LICENSE")];

/// Where the image says what it is made of.
pub const SBOM: &str = "/usr/share/manx/sbom.json";

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

/// The files: programs out of the folder `binaries`, the rest from the repository at `root`.
///
/// # Errors
/// When a file cannot be read, or a program would not run there: it is dynamic, or for another processor.
pub fn tree(arch: &str, binaries: &Path, root: &Path, sbom: &str) -> anyhow::Result<Tree> {
    let mut tree = Tree::new().file(SBOM, 0o644, sbom);
    for program in PROGRAMS {
        let content = read(&binaries.join(program))?;
        check_static(&content, arch).with_context(|| format!("{program} cannot go into the image"))?;
        tree = tree.file(&format!("/usr/bin/{program}"), 0o755, content);
    }
    for (file, place) in FILES {
        tree = tree.file(place, 0o644, read(&root.join(file))?);
    }
    Ok(tree)
}

/// The image with these files.
#[must_use]
pub fn image(build: &Build, tree: Tree) -> Image {
    Image {
        names: vec![build.name.clone()],
        arch: build.arch.clone(),
        time: build.time,
        gzip: build.gzip,
        defaults: defaults(),
        layers: vec![tree],
    }
}

/// What runs unless the pod says otherwise. `Dockerfile` says the same.
#[must_use]
pub fn defaults() -> Defaults {
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
        // Nobody. The pods of the agent, which needs root, say so themselves.
        user: "65534:65534".to_owned(),
        path: "/usr/bin".to_owned(),
        labels: labels.map(label).into_iter().collect::<BTreeMap<_, _>>(),
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const DOCKERFILE: &str = include_str!("../../Dockerfile");

    /// A static program of no use.
    fn program(name: &str) -> Vec<u8> {
        let mut program = b"\x7fELF\x02\x01".to_vec();
        program.resize(64, 0);
        program[18] = 62;
        program.extend(name.bytes());
        program
    }

    /// A repository with built programs, whose files have this mode.
    fn repository(mode: u32) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("deploy")).expect("a folder");
        let mut files: Vec<(&str, Vec<u8>)> = PROGRAMS.iter().map(|name| (*name, program(name))).collect();
        files.extend(FILES.map(|(file, _)| (file, file.as_bytes().to_vec())));
        if mode == 0o600 {
            files.reverse();
        }
        for (file, content) in files {
            let path = folder.path().join(file);
            fs::write(&path, content).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
        }
        folder
    }

    fn archive(root: &Path) -> Vec<u8> {
        let build = Build { name: "manx:1".to_owned(), arch: "amd64".to_owned(), time: 0, gzip: true };
        let tree = tree("amd64", root, root, "{}").expect("a tree");
        image(&build, tree).to_archive().expect("an archive")
    }

    #[test]
    fn owners_modes_times_and_order_of_what_was_built_do_not_show() {
        let (one, two) = (repository(0o600), repository(0o777));
        let old = std::time::SystemTime::UNIX_EPOCH;
        let file = fs::File::open(two.path().join("manx-cni")).expect("it is there");
        file.set_modified(old).expect("set");
        assert!(archive(one.path()) == archive(two.path()));
    }

    #[test]
    fn the_image_holds_these_files_and_no_others() {
        let root = repository(0o644);
        let tree = tree("amd64", root.path(), root.path(), "{}").expect("a tree");
        let files: Vec<String> = tree.files().collect();
        assert_eq!(
            files,
            [
                "/etc/manx/10-manx.conflist",
                "/usr/bin/manx-agent",
                "/usr/bin/manx-cni",
                "/usr/bin/manx-controller",
                "/usr/bin/manxctl",
                "/usr/share/manx/LICENSE",
                "/usr/share/manx/sbom.json",
            ]
        );
    }

    #[test]
    fn a_program_for_another_processor_stays_out() {
        let root = repository(0o644);
        let error = tree("arm64", root.path(), root.path(), "{}").expect_err("refused");
        assert!(error.to_string().contains("manx-agent cannot go into the image"), "{error:#}");
    }

    /// The words of the last stage of the Dockerfile that follow an instruction.
    fn instructions(name: &str) -> Vec<String> {
        let (_, last) = DOCKERFILE.rsplit_once("\nFROM ").expect("stages");
        let whole = last.replace("\\\n", " ");
        let lines = whole.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    #[test]
    fn a_container_engine_makes_the_same_of_the_dockerfile() {
        let defaults = defaults();
        let words = defaults.entrypoint.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>();
        assert_eq!(instructions("ENTRYPOINT"), [format!("[{}]", words.join(", "))]);
        assert_eq!(instructions("ENV"), [format!("PATH={}", defaults.path)]);
        assert_eq!(instructions("USER"), [defaults.user]);
        assert_eq!(instructions("CMD").len(), defaults.command.len());
        assert_eq!(instructions("WORKDIR"), ["/"]);
        let labels = defaults.labels.iter().map(|(name, value)| format!("{name}=\"{value}\""));
        assert_eq!(instructions("LABEL"), [labels.collect::<Vec<_>>().join(" ")]);
        // The files come from the chore that writes the archive, all of them.
        assert_eq!(instructions("COPY"), ["--from=build /image/ /"]);
        assert!(DOCKERFILE.contains("cargo xtask image --arch \"$TARGETARCH\" --files /image\n"));
        assert!(DOCKERFILE.contains("\nFROM scratch\n"));
    }
}
