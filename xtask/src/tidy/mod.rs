//! `tidy`: the rules of the project that neither rustc nor clippy knows.
//!
//! Each rule is a function from text to findings, with a test that shows it firing. A finding says where, and what to
//! do. To add a rule, write such a function and call it here.

mod arrows;
mod lints;
mod paths;
mod shape;
mod source;
mod tokens;
mod tree;
mod words;

use std::fmt;

use crate::chore::Root;
pub(crate) use source::Source;
pub(crate) use tree::Tree;

/// Something that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// Path below the workspace's root.
    path: String,
    /// Line, from 1.
    line: usize,
    /// What is wrong and what to do.
    what: String,
}

impl Finding {
    fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// Checks every rule and prints every finding.
///
/// # Errors
/// When there is a finding.
pub(crate) fn tidy(root: &Root) -> anyhow::Result<()> {
    let tree = Tree::read(root.path())?;
    let mut findings = arrows::check(root)?;
    findings.extend(lints::check(&tree));
    findings.extend(paths::check(&tree));
    let mut functions = Vec::new();
    for (path, text) in tree.files() {
        findings.extend(words::machine_words(path, text));
        if path.ends_with(".rs") {
            let file = check_source(path, text);
            findings.extend(file.findings);
            functions.extend(file.functions);
        } else {
            findings.extend(words::prose(path, text));
        }
    }
    findings.extend(shape::share_of_long_functions(&functions));
    findings.sort();
    for finding in &findings {
        println!("{finding}");
    }
    anyhow::ensure!(findings.is_empty(), "{} to tidy", findings.len());
    println!("tidy: {} files, {} functions, nothing to tidy", tree.len(), functions.len());
    Ok(())
}

struct Checked {
    findings: Vec<Finding>,
    functions: Vec<shape::Function>,
}

fn check_source(path: &str, text: &str) -> Checked {
    let source = match Source::parse(path, text) {
        Ok(source) => source,
        Err(finding) => return Checked { findings: vec![finding], functions: Vec::new() },
    };
    let shape = shape::check(&source);
    let mut findings = shape.findings;
    findings.extend(tokens::check(&source));
    findings.extend(words::comments(&source));
    Checked { findings, functions: shape.functions }
}
