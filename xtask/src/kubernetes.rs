//! `kubernetes`: builds Kubernetes' own programs and Helm, of which the tests make real clusters.
//!
//! They come as Go modules, pinned by `tests/kubernetes/go.mod` and `go.sum`, and are built once into a folder outside
//! the tree. Go's build cache for them (some 3 GiB) is thrown away afterwards.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::chore::{Root, output, run};

/// Names a folder with these programs, which are then taken as they are.
pub(crate) const BIN_DIR: &str = "KUBE_BIN_DIR";
/// One folder a version; `tests/src/kubernetes` looks here too.
const CACHE: &str = "/var/cache/manx/kubernetes";
/// Each a link to the one program that they are built as.
const PROGRAMS: [&str; 6] =
    ["kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet"];
const HELM: &str = "helm.sh/helm/v3/cmd/helm";
/// The first Go whose module files may name tools.
const GO: (u32, u32) = (1, 24);

/// The folder with Kubernetes' programs, which are built first if need be.
///
/// # Errors
/// When they have to be built and Go is missing or too old, or the build fails.
pub(crate) fn programs(root: &Root) -> anyhow::Result<PathBuf> {
    if let Some(folder) = std::env::var_os(BIN_DIR) {
        let folder = PathBuf::from(folder);
        let missing: Vec<&str> = PROGRAMS.into_iter().filter(|name| !folder.join(name).exists()).collect();
        anyhow::ensure!(missing.is_empty(), "{BIN_DIR}={} lacks {}", folder.display(), missing.join(", "));
        return Ok(folder);
    }
    let module = root.join("tests/kubernetes");
    let source = source(&module)?;
    let version = version(&source)?;
    let folder = Path::new(CACHE).join(&version);
    // Last of all is written what it was built from.
    let stamp = folder.join("source");
    if fs::read_to_string(&stamp).is_ok_and(|built| built == source) {
        return Ok(folder);
    }
    check_go()?;
    println!("kubernetes: building {version} into {} (minutes, once)", folder.display());
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let lock = fs::File::create(folder.join("lock"))?;
    lock.lock()?;
    if !fs::read_to_string(&stamp).is_ok_and(|built| built == source) {
        build(&module, &version, &folder)?;
        fs::write(&stamp, source)?;
    }
    Ok(folder)
}

/// What decides about the programs, as one text.
fn source(module: &Path) -> anyhow::Result<String> {
    ["go.mod", "go.sum", "main.go", "helm/go.mod", "helm/go.sum"]
        .into_iter()
        .map(|name| fs::read_to_string(module.join(name)).with_context(|| format!("reading {name}")))
        .collect()
}

/// The version of Kubernetes that the module asks for, `v1.32.6`.
fn version(source: &str) -> anyhow::Result<String> {
    let wanted = |line: &str| line.trim().strip_prefix("k8s.io/kubernetes ").map(str::to_owned);
    source.lines().find_map(wanted).context("tests/kubernetes/go.mod names no version of k8s.io/kubernetes")
}

fn check_go() -> anyhow::Result<()> {
    let (major, minor) = GO;
    let wanted = format!(
        "Kubernetes is built from its sources with Go {major}.{minor} or newer (https://go.dev/dl); \
         or set {BIN_DIR} to a folder that holds {}",
        PROGRAMS.join(", ")
    );
    let found = output(Command::new("go").args(["env", "GOVERSION"])).with_context(|| wanted.clone())?;
    anyhow::ensure!(recent(&found), "{wanted}; the Go here is {}", found.trim());
    Ok(())
}

/// Whether `found`, as in `go1.26.8`, is new enough.
fn recent(found: &str) -> bool {
    let mut numbers =
        found.trim().trim_start_matches("go").split('.').map_while(|part| part.parse::<u32>().ok());
    numbers.next().zip(numbers.next()).is_some_and(|found| found >= GO)
}

fn build(module: &Path, version: &str, folder: &Path) -> anyhow::Result<()> {
    let cache = folder.join("go-build");
    let program = folder.join("kubernetes");
    let minor = version.split('.').nth(1).context("a version without a minor number")?;
    let names = "k8s.io/component-base/version";
    let flags = format!(
        "-s -w -X {names}.gitVersion={version} -X {names}.gitMajor=1 -X {names}.gitMinor={minor} \
         -X {names}.gitTreeState=clean"
    );
    go_build(module, &cache, &flags, &program, ".")?;
    // A module of its own: it wants other versions of what both use.
    go_build(&module.join("helm"), &cache, "-s -w", &folder.join("helm"), HELM)?;
    for name in PROGRAMS {
        let link = folder.join(name);
        if !link.exists() {
            std::os::unix::fs::symlink("kubernetes", &link)?;
        }
    }
    fs::remove_dir_all(&cache).context("removing Go's build cache")
}

/// Without inlining, which takes a quarter off the time and costs the servers little.
fn go_build(module: &Path, cache: &Path, flags: &str, program: &Path, package: &str) -> anyhow::Result<()> {
    let mut go = Command::new("go");
    go.current_dir(module)
        .env("CGO_ENABLED", "0")
        .env("GOCACHE", cache)
        .env_remove("GOFLAGS")
        .args(["build", "-buildvcs=false", "-trimpath", "-gcflags=all=-l", "-ldflags", flags, "-o"])
        .args([program.as_os_str(), package.as_ref()]);
    run(&mut go).with_context(|| format!("go build {package} in {} failed", module.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_the_module() {
        let source =
            "module manx.dev\n\nrequire (\n\tk8s.io/kubectl v0.32.6\n\tk8s.io/kubernetes v1.32.6\n)\n";
        assert_eq!(version(source).expect("a version"), "v1.32.6");
    }

    #[test]
    fn an_old_go_is_told_from_a_recent_one() {
        let verdicts = ["go1.19.8", "go1.24", "go1.26.8\n", "go2.0", "devel +abc"].map(recent);
        assert_eq!(verdicts, [false, true, true, true, false]);
    }
}
