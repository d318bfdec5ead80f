//! Who may depend on whom: the arrows between the crates, and the packages that some of them must never contain.

use serde_json::Value;

use super::Finding;
use crate::chore::{Root, output};

/// Each crate (by folder) with the crates that it may depend on; `tests` may depend on any.
const ARROWS: [(&str, &[&str]); 14] = [
    ("api", &[]),
    ("bgp", &[]),
    ("ipam", &[]),
    ("kernel", &[]),
    ("cni", &["kernel"]),
    ("schema", &[]),
    ("facts", &[]),
    ("agent", &["api", "bgp", "ipam", "kernel", "cni", "facts", "schema"]),
    ("ctl", &["api", "facts"]),
    ("image", &[]),
    ("toolbox", &[]),
    ("fuzz", &["bgp", "sim"]),
    ("sim", &["agent", "api", "bgp", "cni", "ipam", "kernel"]),
    ("xtask", &["api"]),
];

/// Packages that must not be anywhere below a crate, in what ships.
const NEVER: [(&str, &[&str]); 3] = [
    ("bgp", &["tokio", "kube", "kube-core", "bgp-rs"]),
    ("ipam", &["tokio", "kube", "kube-core"]),
    ("cni", &["tokio", "kube", "kube-core", "clap"]),
];

/// Asks cargo what depends on what.
pub(crate) fn check(root: &Root) -> anyhow::Result<Vec<Finding>> {
    let metadata = output(&mut root.cargo(&["metadata", "--no-deps", "--format-version", "1"]))?;
    let mut findings = check_arrows(&serde_json::from_str(&metadata)?);
    for (folder, never) in NEVER {
        let package = format!("manx-{folder}");
        let tree = output(&mut root.cargo(&[
            "tree",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--package",
            &package,
        ]))?;
        findings.extend(check_contents(folder, never, &tree));
    }
    Ok(findings)
}

fn check_arrows(metadata: &Value) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let folder = folder_of(&package["name"]);
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == folder) else {
            if folder != "tests" {
                let what = format!(
                    "{folder} is a crate without arrows: give it a place in the layout and in this rule"
                );
                findings.push(Finding::new(&format!("{folder}/Cargo.toml"), 1, what));
            }
            continue;
        };
        let dependencies = package["dependencies"].as_array().into_iter().flatten();
        for other in dependencies.filter(|dependency| dependency["path"].is_string()) {
            let other = folder_of(&other["name"]);
            if !allowed.contains(&other) {
                let what = format!("{folder} depends on {other}: move what both need to where both may look");
                findings.push(Finding::new(&format!("{folder}/Cargo.toml"), 1, what));
            }
        }
    }
    findings
}

/// The folder of a package, of which the name is `manx-` and the folder.
fn folder_of(name: &Value) -> &str {
    let name = name.as_str().unwrap_or_default();
    name.strip_prefix("manx-").unwrap_or(name)
}

fn check_contents(folder: &str, never: &[&str], tree: &str) -> Vec<Finding> {
    let path = format!("{folder}/Cargo.toml");
    let is_below = |name: &&&str| tree.lines().skip(1).any(|line| line.split(' ').next() == Some(**name));
    let below = never.iter().filter(is_below);
    below
        .map(|name| {
            Finding::new(
                &path,
                1,
                format!("{folder} contains {name}: it must not: cargo tree --invert {name}"),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn whats(package: &str, dependency: &str) -> Vec<String> {
        let dependency = json!({"name": dependency, "path": "/somewhere"});
        let metadata =
            json!({"packages": [{"name": package, "dependencies": [dependency, {"name": "serde"}]}]});
        check_arrows(&metadata).into_iter().map(|finding| finding.to_string()).collect()
    }

    #[test]
    fn an_arrow_that_is_not_in_the_layout_is_found() {
        assert_eq!(whats("manx-bgp", "manx-api").len(), 1);
        assert_eq!(whats("manx-cni", "manx-agent").len(), 1);
        assert_eq!(whats("manx-ctl", "manx-bgp").len(), 1);
    }

    #[test]
    fn the_arrows_of_the_layout_are_fine() {
        assert!(whats("manx-agent", "manx-cni").is_empty());
        assert!(whats("manx-tests", "manx-agent").is_empty());
        assert!(whats("manx-xtask", "manx-api").is_empty());
    }

    #[test]
    fn a_crate_without_a_place_is_found() {
        assert_eq!(whats("manx-util", "serde").len(), 1);
    }

    #[test]
    fn a_package_that_must_not_be_inside_is_found() {
        let tree = "manx-cni v0.1.0 (/x)\nmanx-kernel v0.1.0 (/x)\ntokio v1.54.1\n";
        assert_eq!(check_contents("cni", &["tokio", "clap"], tree).len(), 1);
        assert!(check_contents("cni", &["clap"], tree).is_empty());
    }
}
