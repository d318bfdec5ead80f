//! `manx-image`: writes the archives. `cargo xtask image` builds what goes into them and calls this.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Context as _;
use manx_image::archive::Image;
use manx_image::product::{self, Build};
use manx_image::props;
use manx_image::sbom::{self, About};

const USAGE: &str = "\
manx-image product ROOT BINARIES ARCH TARGET NAME OUT [gzip]
    the image that ships, out of the programs that were built for TARGET into BINARIES; OUT.spdx.json beside OUT.tar
manx-image files ROOT BINARIES ARCH TARGET FOLDER
    only its files, into a folder
manx-image props TOOLBOX BUSYBOX ARCH FOLDER
    pause.tar and toolbox.tar, for tests";

/// What is linked together: the plugin is built apart.
const BUILT_TOGETHER: [&[&str]; 2] = [&["manx-agent", "manx-ctl"], &["manx-cni"]];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args.as_slice() {
        ["product", root, binaries, arch, target, name, out, rest @ ..] => {
            Source { root: Path::new(root), binaries: Path::new(binaries), arch, target }.write(
                name,
                Path::new(out),
                *rest == ["gzip"],
            )
        }
        ["files", root, binaries, arch, target, folder] => {
            Source { root: Path::new(root), binaries: Path::new(binaries), arch, target }
                .unpack(Path::new(folder))
        }
        ["props", toolbox, busybox, arch, folder] => props(toolbox, busybox, arch, folder),
        _ => Err(anyhow::anyhow!("{USAGE}")),
    };
    if let Err(error) = done {
        eprintln!("error: {error:#}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Where the parts of the image that ships are.
struct Source<'a> {
    root: &'a Path,
    binaries: &'a Path,
    arch: &'a str,
    target: &'a str,
}

impl Source<'_> {
    fn write(&self, name: &str, out: &Path, gzip: bool) -> anyhow::Result<()> {
        let time = source_date_epoch()?;
        let sbom = self.sbom(time)?;
        let tree = product::tree(self.arch, self.binaries, self.root, &sbom)?;
        for program in product::PROGRAMS {
            let size = std::fs::metadata(self.binaries.join(program))?.len();
            println!("{:>9.1} MB  /usr/bin/{program}", megabytes(size));
        }
        let build = Build { name: whole_name(name), arch: self.arch.to_owned(), time, gzip };
        write(&out.with_extension("spdx.json"), sbom.as_bytes())?;
        write_image(&product::image(&build, tree), out)
    }

    fn unpack(&self, folder: &Path) -> anyhow::Result<()> {
        let time = source_date_epoch()?;
        let tree = product::tree(self.arch, self.binaries, self.root, &self.sbom(time)?)?;
        let tar = tree.to_tar(time)?;
        let mut archive = tar::Archive::new(tar.as_slice());
        archive.set_preserve_permissions(true);
        archive.unpack(folder).with_context(|| format!("writing {}", folder.display()))?;
        for file in tree.files() {
            println!("{file}");
        }
        Ok(())
    }

    /// Asks cargo what is linked, for each of its calls that built something.
    fn sbom(&self, time: u64) -> anyhow::Result<String> {
        let mut linked = sbom::Linked::default();
        for packages in BUILT_TOGETHER {
            let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            cargo
                .current_dir(self.root)
                .args(["tree", "--quiet", "--locked", "--target", self.target])
                .args(sbom::TREE);
            let packages = packages.iter().flat_map(|package| ["--package", package]);
            linked.extend(sbom::linked(&output(cargo.args(packages))?));
        }
        let lock = std::fs::read_to_string(self.root.join("Cargo.lock")).context("reading Cargo.lock")?;
        let rust = output(Command::new("rustc").arg("--version"))?;
        let about = About { version: env!("CARGO_PKG_VERSION"), arch: self.arch, time, rust: rust.trim() };
        println!("{:>9} crates in {}", linked.crates.len(), product::SBOM);
        Ok(sbom::document(&about, &linked, &lock))
    }
}

fn props(toolbox: &str, busybox: &str, arch: &str, folder: &str) -> anyhow::Result<()> {
    let toolbox = std::fs::read(toolbox).with_context(|| format!("reading {toolbox}"))?;
    let folder = PathBuf::from(folder);
    write_image(&props::pause(&toolbox, arch)?, &folder.join("pause.tar"))?;
    write_image(&props::toolbox(&toolbox, Path::new(busybox), arch)?, &folder.join("toolbox.tar"))
}

fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("{:?} does not start", command.get_program()))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{:?} failed: {}", command.get_program(), stderr.trim());
    String::from_utf8(output.stdout).context("not text")
}

fn write_image(image: &Image, out: &Path) -> anyhow::Result<()> {
    let archive = image.to_archive().context("writing the archive")?;
    write(out, &archive)?;
    println!("{:>9.1} MB  {} = {}", megabytes(archive.len() as u64), out.display(), image.names.join(" "));
    Ok(())
}

/// Writes under a temporary name first: who waits for the file never sees half of it.
fn write(out: &Path, content: &[u8]) -> anyhow::Result<()> {
    if let Some(folder) = out.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let new = out.with_extension(format!("new-{}", std::process::id()));
    std::fs::write(&new, content).with_context(|| format!("writing {}", new.display()))?;
    std::fs::rename(&new, out).with_context(|| format!("writing {}", out.display()))
}

/// A name as registries and runtimes know it: `manx:1` is `docker.io/library/manx:1`.
fn whole_name(name: &str) -> String {
    match name.split_once('/') {
        None => format!("docker.io/library/{name}"),
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
    }
}

/// The time of everything in the image: `SOURCE_DATE_EPOCH` as reproducible-builds.org defines it, or 1970.
fn source_date_epoch() -> anyhow::Result<u64> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(seconds) => seconds.parse().context("SOURCE_DATE_EPOCH is a number of seconds since 1970"),
        Err(_) => Ok(0),
    }
}

#[expect(clippy::cast_precision_loss, reason = "printed with one digit")]
fn megabytes(octets: u64) -> f64 {
    octets as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_as_container_runtimes_complete_them() {
        assert_eq!(whole_name("manx:1"), "docker.io/library/manx:1");
        assert_eq!(whole_name("somebody/manx:1"), "docker.io/somebody/manx:1");
        assert_eq!(whole_name("registry.example.com/manx:1"), "registry.example.com/manx:1");
        assert_eq!(whole_name("localhost:5000/manx:1"), "localhost:5000/manx:1");
    }

    /// Of this repository, as its programs are built for glibc too.
    fn document() -> serde_json::Value {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a folder");
        let target = "x86_64-unknown-linux-musl";
        let source = Source { root, binaries: root, arch: "amd64", target };
        serde_json::from_str(&source.sbom(0).expect("a document")).expect("JSON")
    }

    #[test]
    fn crates_of_the_agent_are_told_and_those_of_tests_macros_and_chores_are_not() {
        let document = document();
        let packages = document["packages"].as_array().expect("packages");
        let names: Vec<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
        for linked in
            ["manx-agent", "manx-bgp", "manx-cni", "manx-ctl", "kube-client", "tokio", "ring", "nix", "libc"]
        {
            assert!(names.contains(&linked), "{linked} is missing");
        }
        let dev = ["proptest", "bgp-rs", "tempfile", "libtest-mimic", "manx-tests", "manx-sim"];
        let build = ["syn", "proc-macro2", "serde_derive", "kube-derive", "cc", "manx-xtask", "manx-image"];
        for absent in dev.iter().chain(&build) {
            assert!(!names.contains(absent), "{absent} is not linked");
        }
        let unlicensed = packages.iter().find(|package| package["licenseDeclared"] == "NOASSERTION");
        assert_eq!(unlicensed, None);
    }
}
