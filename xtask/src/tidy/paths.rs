//! The paths that the documents at the top name, in backticks, are there.

use super::Finding;
use super::tree::Tree;

/// Documents that send their readers to files.
const DOCUMENTS: [&str; 3] = ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md"];

/// What a path to a file of ours ends with.
const ENDINGS: [&str; 7] = [".rs", ".md", ".toml", ".yaml", ".yml", ".conflist", ".sh"];

/// Checks every document that is there.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let documents = DOCUMENTS.iter().filter_map(|path| Some((*path, tree.text(path)?)));
    documents.flat_map(|(path, text)| check_document(tree, path, text)).collect()
}

fn check_document(tree: &Tree, path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut fenced = false;
    for (index, line) in text.lines().enumerate() {
        fenced ^= line.trim_start().starts_with("```");
        if fenced {
            continue;
        }
        let quoted = line.split('`').skip(1).step_by(2);
        for name in quoted.filter(|name| names_a_file(tree, name) && !is_there(tree, name)) {
            findings.push(Finding::new(
                path,
                index + 1,
                format!("`{name}` is not there: name what is, or add it"),
            ));
        }
    }
    findings
}

/// Whether this looks like a path of ours: below a folder at the top, or with the ending of a file of ours.
fn names_a_file(tree: &Tree, name: &str) -> bool {
    let odd = name.starts_with(['/', '.', '-', '~'])
        || name.contains([' ', '<', '*', '{', '…', '$', ':', '=', '(']);
    let top = name.split('/').next().unwrap_or_default();
    let below_top = name.contains('/') && tree.files().any(|(path, _)| path.split('/').next() == Some(top));
    let like_ours = ENDINGS.iter().any(|ending| name.ends_with(ending));
    !odd && !name.starts_with("target/") && (below_top || like_ours)
}

/// A file or a folder; a bare file name may be anywhere.
fn is_there(tree: &Tree, name: &str) -> bool {
    let name = name.trim_end_matches('/');
    tree.files().any(|(path, _)| match path.strip_prefix(name) {
        Some(rest) => rest.is_empty() || rest.starts_with('/'),
        None => !name.contains('/') && path.ends_with(&format!("/{name}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(text: &str) -> Vec<String> {
        let files = [
            ("bgp/src/rib/mod.rs", ""),
            ("bgp/src/session.rs", ""),
            ("Cargo.toml", ""),
            ("ARCHITECTURE.md", text),
        ];
        check(&Tree::of(&files)).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn a_path_that_is_not_there_is_found() {
        assert_eq!(missing("see `bgp/src/gone.rs`").len(), 1);
        assert_eq!(missing("see `bgp/src/gone`").len(), 1);
        assert_eq!(missing("see `gone.rs`").len(), 1);
    }

    #[test]
    fn files_folders_and_bare_names_that_are_there_are_fine() {
        assert!(
            missing("see `bgp/src/session.rs`, `bgp/src/rib/`, `bgp/src`, `session.rs` and `Cargo.toml`")
                .is_empty()
        );
    }

    #[test]
    fn what_is_no_path_of_ours_is_left_alone() {
        let text = "`manx.dev/node`, `/run/manx`, `10.0.0.0/8`, `cargo xtask ci`, `bgp/src/*.rs`, `a::b`, bgp/src/gone.rs";
        assert!(missing(text).is_empty(), "{:?}", missing(text));
        assert!(missing("```\n`bgp/src/gone.rs`\n```\n").is_empty());
    }
}
