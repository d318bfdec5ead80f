//! A Rust file, taken apart: its tokens, its items, and its comments by line.

use std::str::FromStr as _;

use proc_macro2::{TokenStream, TokenTree};

use super::Finding;

/// A Rust file.
pub(crate) struct Source<'a> {
    /// Path below the workspace's root.
    pub(crate) path: &'a str,
    /// What it holds.
    pub(crate) text: &'a str,
    /// Its tokens.
    pub(crate) tokens: TokenStream,
    /// Its items.
    pub(crate) file: syn::File,
}

impl<'a> Source<'a> {
    /// Takes a text apart; what does not parse is a finding.
    pub(crate) fn parse(path: &'a str, text: &'a str) -> Result<Self, Finding> {
        let broken =
            |line, error: String| Finding::new(path, line, format!("does not parse as Rust: {error}"));
        let tokens = TokenStream::from_str(text).map_err(|e| broken(e.span().start().line, e.to_string()))?;
        let file = syn::parse2(tokens.clone())
            .map_err(|e: syn::Error| broken(e.span().start().line, e.to_string()))?;
        Ok(Self { path, text, tokens, file })
    }

    /// Whether the whole file is tests: in a `tests` folder beside `src`, or the `tests.rs` of a module.
    pub(crate) fn is_test(&self) -> bool {
        let parts: Vec<&str> = self.path.split('/').collect();
        let in_src = parts.iter().position(|part| *part == "src");
        match in_src {
            Some(src) => parts[src..].iter().any(|part| *part == "tests.rs" || *part == "tests"),
            None => parts.iter().skip(1).any(|part| ["tests", "benches", "fuzz"].contains(part)),
        }
    }

    /// What stands in comments (doc comments included), by line from 1.
    pub(crate) fn comments(&self) -> Vec<(usize, String)> {
        let mut code = vec![false; self.text.len()];
        self.mark_code(&self.tokens, &mut code);
        let mut offset = 0;
        let mut comments = Vec::new();
        for (index, line) in self.text.split('\n').enumerate() {
            let comment: String =
                line.char_indices().filter(|(at, _)| !code[offset + at]).map(|(_, char)| char).collect();
            if !comment.trim().is_empty() {
                comments.push((index + 1, comment));
            }
            offset += line.len() + 1;
        }
        comments
    }

    /// Marks every byte that a token covers. A doc comment is tokens too, of which the text begins as a comment does.
    fn mark_code(&self, tokens: &TokenStream, code: &mut [bool]) {
        for token in tokens.clone() {
            let range = token.span().byte_range();
            let text = self.text.get(range.clone()).unwrap_or_default();
            match token {
                _ if text.starts_with("//") || text.starts_with("/*") => {}
                TokenTree::Group(group) => {
                    code[group.span_open().byte_range()].fill(true);
                    code[group.span_close().byte_range()].fill(true);
                    self.mark_code(&group.stream(), code);
                }
                TokenTree::Ident(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => code[range].fill(true),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_told_from_code_and_strings() {
        let text = "//! Top.\nfn f() { g(\"// no\"); /* é yes */ }\n/// Doc.\nfn g(_: &str) {}\n";
        let source = Source::parse("a/src/lib.rs", text).expect("it parses");
        let comments = source.comments();
        let comments: Vec<(usize, &str)> = comments.iter().map(|(line, text)| (*line, text.trim())).collect();
        assert_eq!(comments, [(1, "//! Top."), (2, "/* é yes */"), (3, "/// Doc.")]);
    }

    #[test]
    fn what_does_not_parse_is_a_finding() {
        let finding = Source::parse("a/src/lib.rs", "fn f() {}\nfn {}\n").err().expect("a finding");
        assert_eq!((finding.path.as_str(), finding.line), ("a/src/lib.rs", 2));
    }

    #[test]
    fn files_of_tests_are_known_by_their_place() {
        let is_test = |path| Source::parse(path, "").expect("it parses").is_test();
        assert!(is_test("bgp/tests/codec.rs"));
        assert!(is_test("tests/tests/lab.rs"));
        assert!(is_test("bgp/src/rib/tests.rs"));
        assert!(!is_test("tests/src/lab/mod.rs"));
        assert!(!is_test("bgp/src/rib/mod.rs"));
    }
}
