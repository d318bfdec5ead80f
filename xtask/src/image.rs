//! `image`: builds the programs for musl and writes container images of them. `image/src` knows what is in an image;
//! this knows how its parts come to be.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::chore::{Root, output, run};
use crate::setup;

const USAGE: &str = "\
cargo xtask image [--profile dev|release] [--arch amd64|arm64] [--tag NAME:TAG] [--out FILE] [--files FOLDER]
cargo xtask image --test-images";

/// A processor: as Go and containers name it, as Rust names it, and the Debian package and program of its C compiler
/// (for the C and assembler in `ring`).
struct Arch {
    name: &'static str,
    rust: &'static str,
    compiler: &'static str,
    package: &'static str,
    /// Of the same package, or of what it needs.
    strip: &'static str,
}

const ARCHES: [Arch; 2] = [
    Arch { name: "amd64", rust: "x86_64", compiler: "musl-gcc", package: "musl-tools", strip: "strip" },
    Arch {
        name: "arm64",
        rust: "aarch64",
        compiler: "aarch64-linux-gnu-gcc",
        package: "gcc-aarch64-linux-gnu",
        strip: "aarch64-linux-gnu-strip",
    },
];

impl Arch {
    fn find(name: &str) -> anyhow::Result<&'static Self> {
        let known = ARCHES.iter().find(|arch| arch.name == name);
        known.with_context(|| format!("{name} is not amd64 or arm64"))
    }

    fn target(&self) -> String {
        format!("{}-unknown-linux-musl", self.rust)
    }
}

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
struct Options<'a> {
    profile: &'a str,
    arch: &'a str,
    tag: String,
    out: Option<PathBuf>,
    files: Option<&'a str>,
    test_images: bool,
}

impl<'a> Options<'a> {
    fn read(args: &[&'a str]) -> anyhow::Result<Self> {
        let mut options = Self {
            profile: "release",
            arch: "amd64",
            tag: format!("manx:{}", env!("CARGO_PKG_VERSION")),
            out: None,
            files: None,
            test_images: false,
        };
        let mut args = args.iter();
        while let Some(flag) = args.next() {
            if *flag == "--test-images" {
                options.test_images = true;
                continue;
            }
            let value =
                *args.next().with_context(|| format!("{flag}: no such option, or no value\n{USAGE}"))?;
            match *flag {
                "--profile" => options.profile = value,
                "--arch" => options.arch = value,
                "--tag" => options.tag = value.to_owned(),
                "--files" => options.files = Some(value),
                "--out" => options.out = Some(PathBuf::from(value)),
                _ => anyhow::bail!("{flag}: no such option\n{USAGE}"),
            }
        }
        anyhow::ensure!(["dev", "release"].contains(&options.profile), "--profile is dev or release");
        Ok(options)
    }

    fn folder(&self) -> &'static str {
        if self.profile == "dev" { "debug" } else { "release" }
    }
}

/// Builds and writes what `args` ask for.
///
/// # Errors
/// When a tool is missing and cannot be had, or a build fails.
pub(crate) fn image(root: &Root, args: &[&str]) -> anyhow::Result<()> {
    let options = Options::read(args)?;
    let arch = Arch::find(options.arch)?;
    let images = root.target().join("image");
    if options.test_images {
        return props(root, arch, &images);
    }
    prepare(arch, &[])?;
    let mut binaries = root.target().join(arch.target()).join(options.folder());
    build(root, arch, &options, &["-p", "manx-agent", "-p", "manx-ctl"])?;
    // Alone: with the others it would carry the asynchronous half of `kernel`.
    build(root, arch, &options, &["-p", "manx-cni"])?;
    if options.profile == "dev" {
        binaries = stripped(arch, &binaries)?;
    }
    let mut write = writer(root, if options.files.is_some() { "files" } else { "product" });
    write.args([root.path(), &binaries]).args([arch.name, &arch.target()]);
    if let Some(folder) = options.files {
        return run(write.arg(folder));
    }
    let default = || images.join(format!("manx-{}-{}.tar", env!("CARGO_PKG_VERSION"), arch.name));
    write.arg(&options.tag).arg(options.out.clone().unwrap_or_else(default));
    run(write.args((options.profile == "release").then_some("gzip")))
}

/// Copies of the programs without symbols: with them the image would be three times the size, on every node.
fn stripped(arch: &Arch, binaries: &Path) -> anyhow::Result<PathBuf> {
    let folder = binaries.join("stripped");
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    for program in ["manx-agent", "manx-cni", "manx-controller", "manxctl"] {
        run(Command::new(arch.strip).arg("-o").arg(folder.join(program)).arg(binaries.join(program)))?;
    }
    Ok(folder)
}

/// `pause` and `toolbox`, always of the profile `dev`: nobody measures them.
fn props(root: &Root, arch: &Arch, images: &Path) -> anyhow::Result<()> {
    prepare(arch, &[("busybox", "busybox-static")])?;
    let target = arch.target();
    run(&mut root.cargo(&["build", "--quiet", "-p", "manx-toolbox", "--target", &target]))?;
    let toolbox = root.target().join(&target).join("debug/manx-toolbox");
    let busybox = setup::find("busybox").context("busybox-static was installed a moment ago")?;
    run(writer(root, "props").arg(toolbox).arg(busybox).arg(arch.name).arg(images))
}

fn writer(root: &Root, what: &str) -> Command {
    root.cargo(&["run", "--quiet", "-p", "manx-image", "--", what])
}

fn build(root: &Root, arch: &Arch, options: &Options<'_>, packages: &[&str]) -> anyhow::Result<()> {
    let mut cargo =
        root.cargo(&["build", "--bins", "--profile", options.profile, "--target", &arch.target()]);
    run(cargo.args(packages))
}

/// Sees to the C compiler and the Rust target.
fn prepare(arch: &Arch, more: &setup::Needs) -> anyhow::Result<()> {
    let mut needs = vec![(arch.compiler, arch.package)];
    needs.extend(more);
    setup::install(&needs)?;
    let target = arch.target();
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]))?;
    if Path::new(sysroot.trim()).join("lib/rustlib").join(&target).is_dir() {
        return Ok(());
    }
    println!("image: missing Rust target: {target}");
    let rustup = Command::new("rustup").args(["target", "add", &target]).status();
    let status = rustup.with_context(|| {
        format!(
            "there is no rustup here: install the standard library of {target} as your Rust was installed"
        )
    })?;
    anyhow::ensure!(status.success(), "rustup target add {target} failed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_in_any_order() {
        let options = Options::read(&["--tag", "a:1", "--arch", "arm64", "--profile", "dev", "--out", "x"]);
        let want = Options {
            profile: "dev",
            arch: "arm64",
            tag: "a:1".to_owned(),
            out: Some(PathBuf::from("x")),
            files: None,
            test_images: false,
        };
        assert_eq!(options.expect("options"), want);
    }

    #[test]
    fn what_is_not_an_option_is_refused() {
        for args in [&["--profile", "fast"][..], &["--tag"], &["--colour", "red"], &["x"]] {
            Options::read(args).expect_err("refused");
        }
    }
}
