//! Rules on single tokens, wherever they stand, macros included: lint attributes, placeholders, test names, channels.

use proc_macro2::{Delimiter, Ident, TokenStream, TokenTree};

use super::Finding;
use super::source::Source;

/// Checks one file.
pub(crate) fn check(source: &Source<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    walk(source.path, &source.tokens, &mut findings);
    findings
}

fn walk(path: &str, stream: &TokenStream, findings: &mut Vec<Finding>) {
    let tokens: Vec<TokenTree> = stream.clone().into_iter().collect();
    for (index, token) in tokens.iter().enumerate() {
        let rest = &tokens[index + 1..];
        let what = match token {
            TokenTree::Ident(ident) => on_ident(ident, rest),
            TokenTree::Punct(punct) if punct.as_char() == '#' => on_hash(rest),
            TokenTree::Punct(_) | TokenTree::Literal(_) => None,
            TokenTree::Group(group) => {
                walk(path, &group.stream(), findings);
                None
            }
        };
        findings.extend(what.map(|what| Finding::new(path, token.span().start().line, what)));
    }
}

fn on_ident(ident: &Ident, rest: &[TokenTree]) -> Option<String> {
    let name = ident.to_string();
    match (name.as_str(), rest) {
        ("todo" | "unimplemented", [TokenTree::Punct(punct), ..]) if punct.as_char() == '!' => {
            Some(format!("{name}! is left: write what belongs here"))
        }
        ("fn", [TokenTree::Ident(function), ..]) if function.to_string().starts_with("test_") => {
            Some(format!("{function}: a test's name is a sentence that states behaviour, without test_"))
        }
        ("unbounded_channel" | "unbounded" | "UnboundedSender" | "UnboundedReceiver", _) => {
            Some(format!("{name}: a channel without bound grows with whoever feeds it: bound it"))
        }
        ("channel", rest) if called_without_arguments(rest) => {
            Some(format!("{name}(): a channel without bound grows with whoever feeds it: bound it"))
        }
        _ => None,
    }
}

/// An attribute that silences a lint: `expect` says why and complains once it is not needed any more.
fn on_hash(rest: &[TokenTree]) -> Option<String> {
    let attribute = match rest {
        [TokenTree::Punct(bang), TokenTree::Group(group), ..] if bang.as_char() == '!' => group,
        [TokenTree::Group(group), ..] => group,
        _ => return None,
    };
    let first = attribute.stream().into_iter().next()?;
    let silences = matches!(first, TokenTree::Ident(ident) if ident == "allow");
    silences.then(|| "allow: write #[expect(lint, reason = \"why\")]".to_owned())
}

/// Whether `()` follows, perhaps after `::<…>`. Channels with a bound take it as an argument.
fn called_without_arguments(mut rest: &[TokenTree]) -> bool {
    let is = |token: &TokenTree, char| matches!(token, TokenTree::Punct(punct) if punct.as_char() == char);
    if let [a, b, open, ..] = rest
        && is(a, ':')
        && is(b, ':')
        && is(open, '<')
    {
        let end = rest.iter().position(|token| is(token, '>')).unwrap_or(rest.len() - 1);
        rest = &rest[end + 1..];
        while rest.first().is_some_and(|token| is(token, '>')) {
            rest = &rest[1..];
        }
    }
    let call =
        rest.first().and_then(|token| if let TokenTree::Group(group) = token { Some(group) } else { None });
    call.is_some_and(|group| group.delimiter() == Delimiter::Parenthesis && group.stream().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<usize> {
        let source = Source::parse("a/src/b.rs", text).expect("it parses");
        check(&source).into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn allow_attributes_are_found_outer_inner_and_in_macros() {
        assert_eq!(lines("#![allow(dead_code)]\n#[allow(dead_code)]\nfn f() {}\n"), [1, 2]);
        assert_eq!(lines("macro_rules! m { () => { #[allow(dead_code)] fn f() {} } }\n"), [1]);
        assert!(
            lines("#[expect(dead_code, reason = \"r\")]\nfn f() { let _ = \"#[allow(x)]\"; }\n").is_empty()
        );
    }

    #[test]
    fn placeholders_are_found() {
        assert_eq!(lines("fn f() {\n    todo!()\n}\nfn g() {\n    unimplemented!()\n}\n"), [2, 5]);
        assert!(lines("fn f() { let todo = 1; g(todo); }\n").is_empty());
    }

    #[test]
    fn names_of_tests_with_the_prefix_are_found() {
        assert_eq!(lines("#[test]\nfn test_it() {}\n"), [2]);
        assert!(lines("#[test]\nfn it_holds() {}\n").is_empty());
    }

    #[test]
    fn channels_without_bound_are_found_and_others_are_not() {
        assert_eq!(lines("fn f() { let a = mpsc::unbounded_channel::<u8>(); }\n"), [1]);
        assert_eq!(lines("fn f() { let a = std::sync::mpsc::channel(); }\n"), [1]);
        assert_eq!(lines("fn f() { let a = mpsc::channel::<Vec<Vec<u8>>>(); }\n"), [1]);
        assert!(
            lines("fn f() { let a = mpsc::channel::<Vec<u8>>(16); let b = watch::channel(0); }\n").is_empty()
        );
    }
}
