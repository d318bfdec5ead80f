//! Every crate takes the workspace's lints, the pure ones forbid clocks, and a crate's `clippy.toml` repeats the root's:
//! clippy reads the nearest one only.

use super::Finding;
use super::tree::Tree;

/// Crates that never read a clock, and so must forbid it.
const PURE: [&str; 2] = ["bgp", "ipam"];

const CLOCK: &str = "std::time::Instant::now";

/// Checks the settings of every crate.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let common = tree.text("clippy.toml").unwrap_or_default();
    for (path, text) in tree.files() {
        match path.split_once('/') {
            Some((_, "Cargo.toml")) if !text.replace(' ', "").contains("[lints]\nworkspace=true") => {
                let what = "does not take the workspace's lints: add [lints] with workspace = true";
                findings.push(Finding::new(path, 1, what));
            }
            Some((_, "clippy.toml")) => {
                let missing = settings(common).filter(|setting| !settings(text).any(|own| own == *setting));
                findings.extend(missing.map(|setting| {
                    Finding::new(path, 1, format!("lacks what clippy.toml at the top says: copy {setting}"))
                }));
            }
            _ => {}
        }
    }
    findings.extend(PURE.iter().filter_map(|package| impure(tree, package)));
    findings
}

/// A pure crate whose settings do not forbid the clock.
fn impure(tree: &Tree, package: &str) -> Option<Finding> {
    tree.text(&format!("{package}/Cargo.toml"))?;
    let path = format!("{package}/clippy.toml");
    let forbids = tree.text(&path).is_some_and(|text| text.contains(CLOCK));
    (!forbids).then(|| {
        Finding::new(&path, 1, format!("does not forbid {CLOCK}: {package} is pure, list it as disallowed"))
    })
}

/// The lines that set something, without what differs between a list's last line and the others.
fn settings(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(|line| line.trim().trim_end_matches(','))
        .filter(|line| !line.is_empty() && !line.starts_with('#') && *line != "]" && !line.ends_with('['))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINTS: &str = "[lints]\nworkspace = true\n";

    fn whats(files: &[(&str, &str)]) -> Vec<String> {
        check(&Tree::of(files)).into_iter().map(|finding| finding.to_string()).collect()
    }

    #[test]
    fn a_crate_without_the_lints_of_the_workspace_is_found() {
        assert_eq!(whats(&[("Cargo.toml", ""), ("cni/Cargo.toml", "[package]\n")]).len(), 1);
        assert!(whats(&[("Cargo.toml", ""), ("cni/Cargo.toml", LINTS)]).is_empty());
    }

    #[test]
    fn a_pure_crate_that_permits_the_clock_is_found() {
        assert_eq!(whats(&[("bgp/Cargo.toml", LINTS)]).len(), 1);
        assert!(whats(&[("bgp/Cargo.toml", LINTS), ("bgp/clippy.toml", CLOCK)]).is_empty());
    }

    #[test]
    fn settings_of_the_top_that_a_crate_does_not_repeat_are_found() {
        let top = "disallowed-methods = [\n  { path = \"std::process::exit\" },\n]\n";
        let same = "disallowed-methods = [\n  { path = \"a\" },\n  { path = \"std::process::exit\" }\n]\n";
        assert!(whats(&[("clippy.toml", top), ("cni/clippy.toml", same)]).is_empty());
        assert_eq!(whats(&[("clippy.toml", top), ("cni/clippy.toml", "")]).len(), 1);
    }
}
