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

/// What ships; `image/src/product.rs` says where in the image it lies.
const PROGRAMS: [&str; 4] = ["manx-agent", "manx-cni", "manx-controller", "manxctl"];

/// A processor: as Go and containers name it, and as Rust and C compilers do.
struct Arch {
    name: &'static str,
    rust: &'static str,
    /// The C compiler for it on machines with another processor, and its Debian package.
    compiler: (&'static str, &'static str),
    /// Likewise the headers of a C library, of which `ring` reads the sizes of types.
    headers: (&'static str, &'static str),
    strip: &'static str,
}

const ARCHES: [Arch; 2] = [
    Arch {
        name: "amd64",
        rust: "x86_64",
        compiler: ("x86_64-linux-gnu-gcc", "gcc-x86-64-linux-gnu"),
        headers: ("/usr/x86_64-linux-gnu/include/stdint.h", "libc6-dev-amd64-cross"),
        strip: "x86_64-linux-gnu-strip",
    },
    Arch {
        name: "arm64",
        rust: "aarch64",
        compiler: ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
        headers: ("/usr/aarch64-linux-gnu/include/stdint.h", "libc6-dev-arm64-cross"),
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

    fn is_native(&self) -> bool {
        self.rust == std::env::consts::ARCH
    }

    /// What compiling C (there is some in `ring`) needs: files, each with its Debian package.
    fn needs(&self) -> Vec<(&'static str, &'static str)> {
        if self.is_native() { vec![("musl-gcc", "musl-tools")] } else { vec![self.compiler, self.headers] }
    }

    /// Tells cargo and build scripts to compile and link for this processor.
    fn tell(&self, cargo: &mut Command) {
        if self.is_native() {
            return;
        }
        let target = self.target().replace('-', "_");
        cargo.env(format!("CC_{target}"), self.compiler.0);
        // What it links with comes with the Rust target: the compiler's own library is not musl.
        cargo.env(format!("CARGO_TARGET_{}_LINKER", target.to_uppercase()), self.compiler.0);
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
    build(root, arch, options.profile, &["-p", "manx-agent", "-p", "manx-ctl"], &[])?;
    build_plugin(root, arch, options.profile)?;
    if options.profile == "dev" {
        binaries = stripped(arch, &binaries, &PROGRAMS)?;
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
fn stripped(arch: &Arch, binaries: &Path, programs: &[&str]) -> anyhow::Result<PathBuf> {
    let folder = binaries.join("stripped");
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    for program in programs {
        let strip = if arch.is_native() { "strip" } else { arch.strip };
        run(Command::new(strip).arg("-o").arg(folder.join(program)).arg(binaries.join(program)))?;
    }
    Ok(folder)
}

/// `pause` and `toolbox`, always of the profile `dev`: nobody measures them.
fn props(root: &Root, arch: &Arch, images: &Path) -> anyhow::Result<()> {
    prepare(arch, &[("busybox", "busybox-static")])?;
    let target = arch.target();
    let mut cargo = root.cargo(&["build", "--quiet", "-p", "manx-toolbox", "--target", &target]);
    arch.tell(&mut cargo);
    run(&mut cargo)?;
    let toolbox =
        stripped(arch, &root.target().join(&target).join("debug"), &["manx-toolbox"])?.join("manx-toolbox");
    let busybox = setup::find("busybox").context("busybox-static was installed a moment ago")?;
    run(writer(root, "props").arg(toolbox).arg(busybox).arg(arch.name).arg(images))
}

fn writer(root: &Root, what: &str) -> Command {
    root.cargo(&["run", "--quiet", "-p", "manx-image", "--", what])
}

/// Builds the plugin. Alone: with the others it would carry the asynchronous half of
/// `kernel`, which the agent asks for and the plugin must not pay for. At a fixed place in memory, which spares a process
/// that lives for milliseconds the relocation of its pointers.
fn build_plugin(root: &Root, arch: &Arch, profile: &str) -> anyhow::Result<()> {
    build(root, arch, profile, &["-p", "manx-cni"], &["-Crelocation-model=static"])
}

/// Builds the plugin as it ships for this machine; where it is.
///
/// # Errors
/// As of [`image`].
pub(crate) fn plugin(root: &Root) -> anyhow::Result<PathBuf> {
    let arch =
        ARCHES.iter().find(|arch| arch.is_native()).context("neither an amd64 nor an arm64 machine")?;
    prepare(arch, &[])?;
    build_plugin(root, arch, "release")?;
    Ok(root.target().join(arch.target()).join("release/manx-cni"))
}

/// Builds packages; `flags` are those of rustc, for release builds only.
fn build(root: &Root, arch: &Arch, profile: &str, packages: &[&str], flags: &[&str]) -> anyhow::Result<()> {
    let mut cargo = root.cargo(&["build", "--bins", "--profile", profile, "--target", &arch.target()]);
    arch.tell(&mut cargo);
    if profile == "release" {
        let places = places(root)?;
        let mut flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        flags.extend(places.iter().map(|(place, name)| format!("--remap-path-prefix={place}={name}")));
        cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
        let flags: Vec<String> =
            places.iter().map(|(place, name)| format!("-ffile-prefix-map={place}={name}")).collect();
        cargo.env(format!("CFLAGS_{}", arch.target().replace('-', "_")), flags.join(" "));
    }
    run(cargo.args(packages))
}

/// Folders whose names compilers would write into programs, and what they are to write instead: the same sources give
/// the same programs wherever they lie. Of several that fit, the last one counts.
fn places(root: &Root) -> anyhow::Result<Vec<(String, &'static str)>> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let places = [
        (root.target(), "/manx/target"),
        (root.path().to_owned(), "/manx"),
        (home.context("neither CARGO_HOME nor HOME is set")?, "/cargo"),
        (PathBuf::from(sysroot.trim()), "/rust"),
    ];
    Ok(places.map(|(place, name)| (place.display().to_string(), name)).into())
}

/// Sees to the C compiler and the Rust target.
fn prepare(arch: &Arch, more: &setup::Needs) -> anyhow::Result<()> {
    let mut needs = arch.needs();
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
