//! `manx-image`: writes the archives. `cargo xtask image` builds what goes into them and calls this.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use manx_image::archive::Image;
use manx_image::product::{self, Build};
use manx_image::props;

const USAGE: &str = "\
manx-image product BINARIES DEPLOY NAME ARCH OUT [gzip]   the image that ships, out of the programs in BINARIES
manx-image props TOOLBOX BUSYBOX ARCH FOLDER              pause.tar and toolbox.tar, for tests";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args.as_slice() {
        ["product", binaries, deploy, name, arch, out, rest @ ..] => {
            product([binaries, deploy, name, arch, out], rest == ["gzip"])
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

fn product([binaries, deploy, name, arch, out]: [&str; 5], gzip: bool) -> anyhow::Result<()> {
    let build = Build { name: whole_name(name), arch: arch.to_owned(), time: source_date_epoch()?, gzip };
    let image = product::image(&build, Path::new(binaries), Path::new(deploy))?;
    for program in product::PROGRAMS {
        let size = std::fs::metadata(Path::new(binaries).join(program))?.len();
        println!("{:>9.1} MB  /usr/bin/{program}", megabytes(size));
    }
    write(&image, Path::new(out))
}

fn props(toolbox: &str, busybox: &str, arch: &str, folder: &str) -> anyhow::Result<()> {
    let toolbox = std::fs::read(toolbox).with_context(|| format!("reading {toolbox}"))?;
    let folder = PathBuf::from(folder);
    write(&props::pause(&toolbox, arch), &folder.join("pause.tar"))?;
    write(&props::toolbox(&toolbox, Path::new(busybox), arch)?, &folder.join("toolbox.tar"))
}

/// Writes under a temporary name first: who waits for the file never sees half of it.
fn write(image: &Image, out: &Path) -> anyhow::Result<()> {
    let archive = image.to_archive().context("writing the archive")?;
    if let Some(folder) = out.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let new = out.with_extension(format!("new-{}", std::process::id()));
    std::fs::write(&new, &archive).with_context(|| format!("writing {}", new.display()))?;
    std::fs::rename(&new, out).with_context(|| format!("writing {}", out.display()))?;
    println!("{:>9.1} MB  {} = {}", megabytes(archive.len() as u64), out.display(), image.names.join(" "));
    Ok(())
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
}
