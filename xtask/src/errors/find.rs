//! Finds the messages of a Rust file: by what makes them where that tells (`bail!`, `#[error]`, `warn!` and so on), and
//! everything else that is a sentence, so that none escapes because a function of its own makes it.
//!
//! What is not looked at: tests, documentation and other attributes, `expect` and its like (they tell a fault of ours),
//! and what is logged below a warning.

use std::collections::BTreeMap;
use std::fmt;

use proc_macro2::{Delimiter, Group, Ident, TokenStream, TokenTree};

use super::template::Template;
use crate::tidy::Source;

/// Where the names stand that BGP gives to errors.
const NOTIFICATIONS: &str = "bgp/src/wire/notification.rs";
/// Where the codes of the plugin stand.
const CODES: &str = "cni/src/spec/error.rs";
/// What gives objects conditions and Events.
const REASONS: &str = "agent/";

/// What makes a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// `#[error("…")]`.
    Error,
    /// `bail!`, `anyhow!`, `ensure!`, `context`, `with_context`.
    Context,
    /// `warn!` and `error!` of the log.
    Log,
    /// `eprintln!`.
    Stderr,
    /// A rule of a definition, as the API server says it.
    Rule,
    /// The reason of a condition or an Event: one word.
    Reason,
    /// A name that BGP gives to an error.
    Notification,
    /// A code of the plugin.
    Code,
    /// What `manxctl` finds wrong, which it says with the cure.
    Finding,
    /// `write!` and the like in an `impl Display`.
    Display,
    /// A sentence anywhere else.
    Words,
}

/// A message of the code.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// What makes it.
    pub(crate) kind: Kind,
    /// Where: a path below the workspace's root.
    pub(crate) path: String,
    /// Line, from 1.
    pub(crate) line: usize,
    /// What it says.
    pub(crate) template: Template,
    /// What it says to do, if it is made together with that.
    pub(crate) cure: Option<Cure>,
}

/// What a finding says to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cure {
    /// Whether there must be one: a note needs none, and one that is not written here is somewhere else.
    pub(crate) needed: bool,
    /// The cure; where it depends, each of them.
    pub(crate) texts: Vec<String>,
    /// The heading of docs/operate.md with more, as its anchor.
    pub(crate) see: Option<String>,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Context => "context",
            Self::Log => "log",
            Self::Stderr => "stderr",
            Self::Rule => "rule",
            Self::Reason => "reason",
            Self::Notification => "notification",
            Self::Code => "code",
            Self::Finding => "finding",
            Self::Display => "display",
            Self::Words => "sentence",
        })
    }
}

/// What the functions of a crate do, by their names: what a finding says may come out of one.
#[derive(Debug, Default)]
pub(crate) struct Functions(BTreeMap<String, Vec<(String, TokenStream)>>);

impl Functions {
    /// Learns those of one file, without its tests.
    pub(crate) fn learn(&mut self, source: &Source<'_>) {
        self.walk(source.path, &source.tokens);
    }

    fn walk(&mut self, path: &str, stream: &TokenStream) {
        let tokens: Vec<TokenTree> = stream.clone().into_iter().collect();
        let mut rest = tokens.as_slice();
        while let [token, behind @ ..] = rest {
            rest = behind;
            match (token, behind) {
                (hash, [TokenTree::Group(attribute), after @ ..]) if is(hash, '#') => {
                    rest = if is_of_tests(attribute) { behind_item(after) } else { after };
                }
                (TokenTree::Ident(word), [TokenTree::Ident(name), after @ ..]) if word == "fn" => {
                    let head = after.iter().take_while(|token| !is(token, ';'));
                    let body = head.filter(|token| is_body(token)).find_map(|token| match token {
                        TokenTree::Group(body) => Some(body.stream()),
                        _ => None,
                    });
                    if let Some(body) = body {
                        self.0.entry(name.to_string()).or_default().push((path.to_owned(), body));
                    }
                }
                (TokenTree::Group(group), _) => self.walk(path, &group.stream()),
                _ => {}
            }
        }
    }

    /// What the function of this name does: the one of the file itself, else the only one.
    fn body(&self, path: &str, name: &str) -> Option<&TokenStream> {
        let all = self.0.get(name)?;
        let here: Vec<_> = all.iter().filter(|(other, _)| other == path).collect();
        match (here.as_slice(), all.as_slice()) {
            ([(_, body)], _) | ([], [(_, body)]) => Some(body),
            _ => None,
        }
    }
}

/// The messages of one file, in a crate with these functions.
pub(crate) fn find(source: &Source<'_>, functions: &Functions) -> Vec<Message> {
    let mut finder = Finder { path: source.path, functions, found: Vec::new(), names: BTreeMap::new() };
    finder.walk(&source.tokens, Kind::Words);
    finder.found
}

struct Finder<'a> {
    path: &'a str,
    functions: &'a Functions,
    found: Vec<Message>,
    /// What the names of a function stand for, as it was last said.
    names: BTreeMap<String, Vec<TokenTree>>,
}

impl Finder<'_> {
    /// Looks at tokens, of which plain literals are of this kind.
    fn walk(&mut self, stream: &TokenStream, kind: Kind) {
        let tokens: Vec<TokenTree> = stream.clone().into_iter().collect();
        let mut rest = tokens.as_slice();
        let mut kind_inside = kind;
        while let [token, behind @ ..] = rest {
            rest = behind;
            match (token, behind) {
                (hash, [TokenTree::Group(attribute), after @ ..]) if is(hash, '#') => {
                    rest = self.attribute(attribute, after);
                }
                (hash, [bang, TokenTree::Group(_), after @ ..]) if is(hash, '#') && is(bang, '!') => {
                    rest = after
                }
                (TokenTree::Ident(name), [bang, TokenTree::Group(group), after @ ..]) if is(bang, '!') => {
                    self.invocation(name, group, kind_inside);
                    rest = after;
                }
                (dot, [TokenTree::Ident(name), TokenTree::Group(group), after @ ..]) if is(dot, '.') => {
                    self.method(name, group, kind_inside);
                    rest = after;
                }
                (TokenTree::Ident(name), [TokenTree::Group(group), ..]) if name == "Self" => self.code(group),
                (
                    TokenTree::Ident(name),
                    [one, two, TokenTree::Ident(weight), TokenTree::Group(group), after @ ..],
                ) if name == "Finding" && is(one, ':') && is(two, ':') && weight != "new" => {
                    if kind != Kind::Finding {
                        self.finding(group, after);
                    }
                    rest = after;
                }
                (TokenTree::Ident(name), [TokenTree::Ident(what), equals, ..])
                    if name == "let" && is(equals, '=') =>
                {
                    let said: Vec<TokenTree> =
                        behind.iter().skip(2).take_while(|token| !is(token, ';')).cloned().collect();
                    // What a finding says is in its expression: a name inside may belong to another finding.
                    if kind == Kind::Finding {
                        rest = &behind[2 + said.len()..];
                    }
                    self.names.insert(what.to_string(), said);
                }
                (
                    TokenTree::Ident(name),
                    [TokenTree::Ident(some), TokenTree::Group(what), equals, of @ ..],
                ) if name == "let" && some == "Some" && is(equals, '=') => {
                    let said = of.iter().take_while(|token| !is_body(token) && !is(token, ';'));
                    self.names.insert(what.stream().to_string(), said.cloned().collect());
                }
                (TokenTree::Ident(name), _) if name == "impl" => kind_inside = of_impl(behind, kind),
                (TokenTree::Group(group), _) => {
                    let is_block = group.delimiter() == Delimiter::Brace;
                    let names = is_block.then(|| self.names.clone());
                    self.walk(&group.stream(), kind_inside);
                    if let Some(names) = names {
                        self.names = names;
                        kind_inside = kind;
                    }
                }
                (TokenTree::Literal(_), _) => self.literal(token, kind_inside, Template::of_text),
                _ => {}
            }
        }
    }

    /// Takes what `#[error]` says; returns what is behind the attribute, and behind the item that it makes a test.
    fn attribute<'t>(&mut self, attribute: &Group, after: &'t [TokenTree]) -> &'t [TokenTree] {
        let tokens: Vec<TokenTree> = attribute.stream().into_iter().collect();
        match tokens.as_slice() {
            [TokenTree::Ident(name), TokenTree::Group(group)] if name == "error" => {
                self.formatted(&group.stream(), Kind::Error, None);
            }
            _ if is_of_tests(attribute) => return behind_item(after),
            _ => {}
        }
        after
    }

    fn invocation(&mut self, name: &Ident, group: &Group, kind: Kind) {
        let stream = group.stream();
        match name.to_string().as_str() {
            "warn" | "error" => self.formatted(&stream, Kind::Log, Some(Kind::Words)),
            "bail" | "anyhow" | "ensure" => self.formatted(&stream, Kind::Context, Some(Kind::Words)),
            "eprintln" | "eprint" => self.formatted(&stream, Kind::Stderr, Some(Kind::Words)),
            "format" | "format_args" | "write" | "writeln" | "print" | "println" => {
                self.formatted(&stream, kind, Some(kind));
            }
            "info" | "debug" | "trace" | "panic" | "unreachable" | "assert" | "assert_eq" | "assert_ne"
            | "debug_assert" | "debug_assert_eq" | "debug_assert_ne" | "info_span" | "env" => {}
            _ => self.walk(&stream, kind),
        }
    }

    fn method(&mut self, name: &Ident, group: &Group, kind: Kind) {
        match name.to_string().as_str() {
            "context" | "with_context" => self.walk(&group.stream(), Kind::Context),
            "expect" | "expect_err" => {}
            "see" if kind == Kind::Finding => {}
            _ => self.walk(&group.stream(), kind),
        }
    }

    /// The format string of a macro is the first of its arguments that is nothing but a literal; the others are looked
    /// at as what they are, if at all.
    fn formatted(&mut self, stream: &TokenStream, kind: Kind, others: Option<Kind>) {
        let mut looking = true;
        for argument in arguments(stream) {
            match argument.as_slice() {
                [literal @ TokenTree::Literal(_)] if looking && text_of(literal).is_some() => {
                    looking = false;
                    self.literal(literal, kind, Template::of_format);
                }
                tokens => {
                    if let Some(kind) = others {
                        self.walk(&tokens.iter().cloned().collect(), kind);
                    }
                }
            }
        }
    }

    fn literal(&mut self, token: &TokenTree, kind: Kind, template: fn(&str) -> Template) {
        let Some(text) = text_of(token) else { return };
        let template = template(&text);
        let kind = match kind {
            Kind::Words if self.path == NOTIFICATIONS && text.starts_with(char::is_uppercase) => {
                Kind::Notification
            }
            Kind::Words if self.path.starts_with(REASONS) && is_reason(&text) => Kind::Reason,
            other => other,
        };
        if is_message(kind, &template) {
            self.push(kind, token, template);
        }
    }

    /// A code of the plugin, as the file that has them declares it: `Self(11)`.
    fn code(&mut self, group: &Group) {
        if let [literal @ TokenTree::Literal(_)] = group.stream().into_iter().collect::<Vec<_>>().as_slice()
            && self.path == CODES
        {
            self.push(Kind::Code, literal, Template::of_text(&format!("code {literal}")));
        }
    }

    fn push(&mut self, kind: Kind, token: &TokenTree, template: Template) {
        let line = token.span().start().line;
        self.found.push(Message { kind, path: self.path.to_owned(), line, template, cure: None });
    }

    /// `Finding::error(object, what, cure)`, with `.see(anchor)` behind it.
    fn finding(&mut self, group: &Group, behind: &[TokenTree]) {
        let arguments = arguments(&group.stream());
        let [object, what, cure @ ..] = arguments.as_slice() else { return };
        self.walk(&object.iter().cloned().collect(), Kind::Words);
        let is_literal =
            |tokens: &[TokenTree]| tokens.iter().all(|token| matches!(token, TokenTree::Literal(_)));
        let needed = cure.first().is_some_and(|cure| is_literal(cure));
        let texts = cure.first().map(|cure| self.aside(cure)).unwrap_or_default();
        let texts = texts.into_iter().map(|message| message.template.to_string()).collect();
        let see = match behind {
            [dot, TokenTree::Ident(name), TokenTree::Group(group), ..] if is(dot, '.') && name == "see" => {
                group.stream().into_iter().next().and_then(|token| text_of(&token))
            }
            _ => None,
        };
        let cure = Cure { needed, texts, see };
        let found = self.aside(what).into_iter();
        self.found.extend(found.map(|message| Message { cure: Some(cure.clone()), ..message }));
    }

    /// The messages of some tokens, of which every text is one; of a name, those of what it stands for, of a function that
    /// is called, its sentences.
    fn aside(&self, tokens: &[TokenTree]) -> Vec<Message> {
        let tokens = match tokens {
            [TokenTree::Ident(name)] => self.names.get(&name.to_string()).map_or(tokens, Vec::as_slice),
            tokens => tokens,
        };
        let found = self.findings(&tokens.iter().cloned().collect());
        let called = match tokens {
            [.., TokenTree::Ident(name), TokenTree::Group(arguments)]
                if found.is_empty() && arguments.delimiter() == Delimiter::Parenthesis =>
            {
                self.functions.body(self.path, &name.to_string())
            }
            _ => None,
        };
        match called {
            Some(body) => {
                let mut found = self.findings(body);
                found.retain(|message| is_message(Kind::Words, &message.template));
                found
            }
            None => found,
        }
    }

    fn findings(&self, stream: &TokenStream) -> Vec<Message> {
        let mut finder =
            Finder { path: self.path, functions: self.functions, found: Vec::new(), names: BTreeMap::new() };
        finder.walk(stream, Kind::Finding);
        finder.found
    }
}

/// Whether what has this attribute is for tests only.
fn is_of_tests(attribute: &Group) -> bool {
    let tokens: Vec<TokenTree> = attribute.stream().into_iter().collect();
    match tokens.as_slice() {
        [TokenTree::Ident(name), TokenTree::Group(group)] if name == "cfg" => {
            let condition = group.stream().to_string().replace(' ', "");
            condition == "test" || condition.starts_with("all(test,")
        }
        [.., TokenTree::Ident(name)] => name == "test",
        _ => false,
    }
}

/// Whether this tells something: what an error's macro is given needs a word, any other literal must be a sentence.
fn is_message(kind: Kind, template: &Template) -> bool {
    let words = template.count_words();
    match kind {
        Kind::Words | Kind::Display => {
            template.has_space() && words + template.count_holes().min(1) >= 2 && words >= 1
        }
        _ => words >= 1,
    }
}

/// Whether this is one word as the reasons of conditions and Events are: `NoAddress`.
fn is_reason(text: &str) -> bool {
    text.len() > 3
        && text.starts_with(char::is_uppercase)
        && text.contains(char::is_lowercase)
        && text.chars().all(char::is_alphabetic)
}

/// What the body of an `impl` makes, given what is behind that word.
fn of_impl(behind: &[TokenTree], otherwise: Kind) -> Kind {
    let head = behind.iter().take_while(|token| !is_body(token));
    let names = head.filter(|token| matches!(token, TokenTree::Ident(name) if name == "Display"));
    if names.count() > 0 { Kind::Display } else { otherwise }
}

fn is_body(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace)
}

fn behind_item(tokens: &[TokenTree]) -> &[TokenTree] {
    let end = tokens.iter().position(|token| is_body(token) || is(token, ';'));
    end.map_or(&[], |end| &tokens[end + 1..])
}

fn is(token: &TokenTree, char: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == char)
}

/// What a literal says, if it is text.
fn text_of(token: &TokenTree) -> Option<String> {
    syn::parse2::<syn::LitStr>(token.clone().into()).ok().map(|literal| literal.value())
}

/// The arguments of a call or macro, each as its tokens.
fn arguments(stream: &TokenStream) -> Vec<Vec<TokenTree>> {
    let tokens: Vec<TokenTree> = stream.clone().into_iter().collect();
    let arguments = tokens.split(|token| is(token, ','));
    arguments.filter(|tokens| !tokens.is_empty()).map(<[TokenTree]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found_at(path: &str, text: &str) -> Vec<(Kind, String)> {
        let source = Source::parse(path, text).expect("it parses");
        let mut functions = Functions::default();
        functions.learn(&source);
        find(&source, &functions)
            .into_iter()
            .map(|message| (message.kind, message.template.to_string()))
            .collect()
    }

    fn found(text: &str) -> Vec<(Kind, String)> {
        found_at("kernel/src/a.rs", text)
    }

    fn one(kind: Kind, says: &str) -> Vec<(Kind, String)> {
        vec![(kind, says.to_owned())]
    }

    #[test]
    fn errors_of_enums_and_structs_are_found_and_transparent_ones_are_not() {
        let text = "enum E { #[error(\"the pool {pool} is \\\n     full\")] Full { pool: String }, #[error(transparent)] Io(I) }\n\
                    #[derive(Error)] #[error(\"{0:?} is none: {}\", text.trim())] struct S(String);";
        let says = ["the pool {pool} is full", "{…} is none: {…}"];
        assert_eq!(found(text), says.map(|says| (Kind::Error, says.to_owned())));
    }

    #[test]
    fn what_anyhow_is_given_is_found() {
        for text in [
            "bail!(\"opening {}\", path)",
            "return Err(anyhow!(\"opening {}\", path))",
            "anyhow::ensure!(a == b, \"opening {}\", path)",
            "read().with_context(|| format!(\"opening {}\", path))?",
        ] {
            assert_eq!(found(&format!("fn f() {{ {text}; }}")), one(Kind::Context, "opening {…}"), "{text}");
        }
        assert_eq!(found("fn f() { g().context(\"opening\")?; }"), one(Kind::Context, "opening"));
    }

    #[test]
    fn warnings_and_errors_of_the_log_are_found_behind_their_fields() {
        let text = "fn f() { tracing::warn!(%error, pool = name(\"x\"), ?change, \"the {} stays\", what); }";
        assert_eq!(found(text), one(Kind::Log, "the {…} stays"));
        assert_eq!(
            found("fn f() { error!(error, \"gone\"); info!(\"all is well here\"); }"),
            one(Kind::Log, "gone")
        );
    }

    #[test]
    fn what_stands_inside_other_macros_is_found() {
        let text = "fn f() { tokio::select! { () = done() => { warn!(\"it ended\"); } x = y => bail!(\"no {x}\"), } }";
        assert_eq!(found(text), [(Kind::Log, "it ended".to_owned()), (Kind::Context, "no {x}".to_owned())]);
        assert_eq!(
            found("fn f() { json!({\"message\": \"must be set\"}); }"),
            one(Kind::Words, "must be set")
        );
    }

    #[test]
    fn what_display_writes_is_found_and_the_body_behind_it_is_not_display() {
        let text = "impl fmt::Display for E { fn fmt(&self) { match self { Self::A => f.write_str(\"is away\"), \
                    Self::B(n) => write!(f, \"has {n} links\") } } }\nfn g() -> &'static str { \"is not here\" }";
        let kinds: Vec<Kind> = found(text).into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [Kind::Display, Kind::Display, Kind::Words]);
    }

    #[test]
    fn sentences_are_found_anywhere_and_single_words_are_not() {
        assert_eq!(found("const A: &str = \"no {pool} left\";"), one(Kind::Words, "no {{pool}} left"));
        assert_eq!(found("fn f() { let a = [\"eth0\", \"net/ipv4/x\", \"a, b\", \" \"]; }"), []);
        assert_eq!(
            found("fn f() { format!(\"{}/{}\", a, b); format!(\"{name} is\"); }"),
            one(Kind::Words, "{name} is")
        );
    }

    #[test]
    fn tests_documentation_and_what_only_we_can_break_are_left_out() {
        for text in [
            "/// The pool is full.\nfn f() {}",
            "#[cfg(test)] mod tests { fn f() { bail!(\"it is full\"); } }",
            "#[test] fn f() { bail!(\"it is full\"); }",
            "#[cfg(test)] use a::b;",
            "fn f() { g().expect(\"it is full\"); assert!(a, \"it is full\"); unreachable!(\"it is full\"); }",
            "#[expect(dead_code, reason = \"it is full\")] fn f() {}",
            "fn f() { if !(a == \"x\") {} }",
        ] {
            assert_eq!(found(text), [], "{text}");
        }
        assert_eq!(found("#[cfg(test)] use a::b;\nfn f() { bail!(\"it is full\"); }").len(), 1);
        assert_eq!(found("#[cfg(test)] fn g() {}\nfn f() { bail!(\"it is full\"); }").len(), 1);
    }

    #[test]
    fn findings_are_found_with_their_cure() {
        let text = "fn f() { g(Finding::error(format!(\"the node {n}\"), format!(\"lacks {what}\"), \"load it\").see(\"a\")); }";
        let source = Source::parse("ctl/src/a.rs", text).expect("it parses");
        let found = find(&source, &Functions::default());
        let finding = found.iter().find(|message| message.kind == Kind::Finding).expect("a finding");
        assert_eq!(finding.template.to_string(), "lacks {what}");
        let cure = Cure { needed: true, texts: vec!["load it".to_owned()], see: Some("a".to_owned()) };
        assert_eq!(finding.cure, Some(cure));
        assert_eq!(found.len(), 2, "{found:?}");
        let text = "fn f() { let what = format!(\"lacks {n}\"); if h() { let what = 1; return Finding::note(1, \"a b\"); } g(Finding::note(\"x\", what)); }";
        assert!(found_at("ctl/src/a.rs", text).contains(&(Kind::Finding, "lacks {n}".to_owned())));
    }

    #[test]
    fn a_finding_says_what_a_function_says() {
        let findings = |text: &str| {
            let found = found_at("ctl/src/a.rs", text);
            found.into_iter().filter(|(kind, _)| *kind == Kind::Finding).collect::<Vec<_>>()
        };
        let words = "fn words(&self) -> String { match self { A => \"a\".into(), B => format!(\"lacks {n} links\") } }";
        for call in ["self.words()", "words(&x)", "super::words(a, b)"] {
            let text =
                format!("fn f() {{ Finding::error(node, {call}, \"load it\"); }} impl X {{ {words} }}");
            assert_eq!(findings(&text), one(Kind::Finding, "lacks {n} links"), "{call}");
        }
        let text = format!(
            "fn f() {{ if let Some(what) = words(x) {{ g(Finding::error(node, what, \"load it\")); }} }} {words}"
        );
        assert_eq!(findings(&text), one(Kind::Finding, "lacks {n} links"));
        let text =
            format!("fn f() {{ Finding::error(node, a.words(), \"load it\"); }} {words} mod b {{ {words} }}");
        assert_eq!(findings(&text), [], "nobody knows which of the two");
        let text = format!(
            "fn f() {{ Finding::error(node, words(), \"load it\"); }} #[cfg(test)] mod tests {{ {words} }}"
        );
        assert_eq!(findings(&text), []);
    }

    #[test]
    fn reasons_codes_and_names_of_bgp_are_found_where_they_stand() {
        assert_eq!(
            found_at("agent/src/a.rs", "fn f() { g(\"NoPool\", \"eth\"); }"),
            one(Kind::Reason, "NoPool")
        );
        let code = "impl Code { pub const IO: Self = Self(5); }";
        assert_eq!(found_at(CODES, code), one(Kind::Code, "code 5"));
        let name = "const A: &[(u8, &str)] = &[(6, \"Cease\")];";
        assert_eq!(found_at(NOTIFICATIONS, name), one(Kind::Notification, "Cease"));
    }
}
