//! Calico's selectors as label selectors, as far as those can say the same.
//!
//! A label selector is a list of requirements that must all hold. So `&&` goes over, `!` wherever it can be pushed down
//! to a single comparison, and `||` only among values of one label. The rest is refused with the part that is at fault.

use manx_api::{LabelSelector, Operator, Requirement};

/// Why a selector cannot be said with labels.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SelectorError {
    /// It is no selector.
    #[error("{0:?} is no selector of Calico's")]
    Syntax(String),
    /// It is one, but says more than requirements that must all hold.
    #[error("a label selector cannot say {0}")]
    Unsayable(&'static str),
    /// It selects nothing.
    #[error("it selects nothing")]
    Nothing,
}

/// Reads a selector. `None` when it selects everything.
///
/// # Errors
/// When it cannot be read, or label selectors cannot say it.
pub(crate) fn translate(text: &str) -> Result<Option<LabelSelector>, SelectorError> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let tokens = tokens(text).ok_or_else(|| SelectorError::Syntax(text.to_owned()))?;
    let mut reader = Reader { tokens: &tokens, at: 0 };
    let read = reader.either().filter(|_| reader.at == tokens.len());
    let term = read.ok_or_else(|| SelectorError::Syntax(text.to_owned()))?;
    match term.simplified(false)? {
        Simple::Always => Ok(None),
        Simple::Never => Err(SelectorError::Nothing),
        Simple::All(match_expressions) => {
            Ok(Some(LabelSelector { match_expressions, ..LabelSelector::default() }))
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Sign(&'static str),
}

const SIGNS: [&str; 10] = ["&&", "||", "==", "!=", "!", "(", ")", "{", "}", ","];

fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            found.push(Token::Sign(sign));
            rest = &rest[sign.len()..];
        } else if first == '\'' || first == '"' {
            let end = rest[1..].find(first)?;
            found.push(Token::Text(rest[1..=end].to_owned()));
            rest = &rest[end + 2..];
        } else {
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "-_./:".contains(c)));
            let end = end.unwrap_or(rest.len());
            if end == 0 {
                return None;
            }
            found.push(Token::Word(rest[..end].to_owned()));
            rest = &rest[end..];
        }
        rest = rest.trim_start();
    }
    Some(found)
}

#[derive(Debug, Clone)]
enum Term {
    All,
    Requirement(Requirement),
    Beyond(&'static str),
    Not(Box<Self>),
    Both(Vec<Self>),
    Either(Vec<Self>),
}

/// A term without `!`, `&&` and `||`: all of these must hold.
enum Simple {
    Always,
    Never,
    All(Vec<Requirement>),
}

struct Reader<'a> {
    tokens: &'a [Token],
    at: usize,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<&Token> {
        self.at += 1;
        self.tokens.get(self.at - 1)
    }

    fn sign(&mut self, sign: &str) -> bool {
        let is_it = matches!(self.tokens.get(self.at), Some(Token::Sign(found)) if *found == sign);
        self.at += usize::from(is_it);
        is_it
    }

    fn word(&mut self, word: &str) -> bool {
        let is_it = matches!(self.tokens.get(self.at), Some(Token::Word(found)) if found == word);
        self.at += usize::from(is_it);
        is_it
    }

    fn either(&mut self) -> Option<Term> {
        let mut terms = vec![self.both()?];
        while self.sign("||") {
            terms.push(self.both()?);
        }
        Some(if terms.len() == 1 { terms.pop()? } else { Term::Either(terms) })
    }

    fn both(&mut self) -> Option<Term> {
        let mut terms = vec![self.single()?];
        while self.sign("&&") {
            terms.push(self.single()?);
        }
        Some(if terms.len() == 1 { terms.pop()? } else { Term::Both(terms) })
    }

    fn single(&mut self) -> Option<Term> {
        if self.sign("!") {
            return Some(Term::Not(Box::new(self.single()?)));
        }
        if self.sign("(") {
            let inside = self.either()?;
            return self.sign(")").then_some(inside);
        }
        let Token::Word(word) = self.next()?.clone() else { return None };
        if self.sign("(") {
            return self.call(&word);
        }
        self.comparison(word)
    }

    fn call(&mut self, name: &str) -> Option<Term> {
        let term = match name {
            "all" => Term::All,
            "global" => Term::Beyond("global()"),
            "has" => match self.next()? {
                Token::Word(key) => Term::Requirement(requirement(key, Operator::Exists, Vec::new())),
                _ => return None,
            },
            _ => return None,
        };
        self.sign(")").then_some(term)
    }

    fn comparison(&mut self, key: String) -> Option<Term> {
        let operator = if self.sign("==") || self.word("in") {
            Operator::In
        } else if self.sign("!=") || (self.word("not") && self.word("in")) {
            // A label that is missing fulfils both, here and there.
            Operator::NotIn
        } else if self.word("contains") || (self.word("starts") || self.word("ends")) && self.word("with") {
            self.next()?;
            return Some(Term::Beyond("contains, starts with or ends with"));
        } else {
            return None;
        };
        let values = if self.sign("{") { self.list()? } else { vec![self.text()?] };
        Some(Term::Requirement(requirement(&key, operator, values)))
    }

    fn list(&mut self) -> Option<Vec<String>> {
        let mut values = Vec::new();
        while !self.sign("}") {
            values.push(self.text()?);
            self.sign(",");
        }
        Some(values)
    }

    fn text(&mut self) -> Option<String> {
        match self.next()? {
            Token::Text(text) => Some(text.clone()),
            _ => None,
        }
    }
}

fn requirement(key: &str, operator: Operator, values: Vec<String>) -> Requirement {
    Requirement { key: key.to_owned(), operator, values }
}

impl Term {
    /// The same (or with `negated` the opposite) as requirements that must all hold.
    fn simplified(&self, negated: bool) -> Result<Simple, SelectorError> {
        match self {
            Self::All if negated => Ok(Simple::Never),
            Self::All => Ok(Simple::Always),
            Self::Beyond(what) => Err(SelectorError::Unsayable(what)),
            Self::Not(term) => term.simplified(!negated),
            Self::Requirement(one) => Ok(single(one, negated)),
            Self::Both(terms) if !negated => conjunction(terms, negated),
            Self::Either(terms) if negated => conjunction(terms, negated),
            Self::Both(terms) | Self::Either(terms) => disjunction(terms, negated),
        }
    }
}

fn single(one: &Requirement, negated: bool) -> Simple {
    let operator = match (one.operator, negated) {
        (operator, false) => operator,
        (Operator::In, true) => Operator::NotIn,
        (Operator::NotIn, true) => Operator::In,
        (Operator::Exists, true) => Operator::DoesNotExist,
        (Operator::DoesNotExist, true) => Operator::Exists,
    };
    match (operator, one.values.is_empty()) {
        (Operator::In, true) => Simple::Never,
        (Operator::NotIn, true) => Simple::Always,
        _ => Simple::All(vec![Requirement { operator, ..one.clone() }]),
    }
}

fn conjunction(terms: &[Term], negated: bool) -> Result<Simple, SelectorError> {
    let mut all = Vec::new();
    for term in terms {
        match term.simplified(negated)? {
            Simple::Always => {}
            Simple::Never => return Ok(Simple::Never),
            Simple::All(more) => {
                all.extend(more.into_iter().filter(|one| !all.contains(one)).collect::<Vec<_>>())
            }
        }
    }
    Ok(if all.is_empty() { Simple::Always } else { Simple::All(all) })
}

/// One of several: only values of one label.
fn disjunction(terms: &[Term], negated: bool) -> Result<Simple, SelectorError> {
    let mut found: Option<Requirement> = None;
    for term in terms {
        let one = match term.simplified(negated)? {
            Simple::Always => return Ok(Simple::Always),
            Simple::Never => continue,
            Simple::All(mut more) if more.len() == 1 => more.remove(0),
            Simple::All(_) => return Err(SelectorError::Unsayable("|| between several labels")),
        };
        match &mut found {
            None => found = Some(one),
            Some(first) if *first == one => {}
            Some(first) if first.key == one.key && [first.operator, one.operator] == [Operator::In; 2] => {
                let fresh: Vec<_> =
                    one.values.into_iter().filter(|value| !first.values.contains(value)).collect();
                first.values.extend(fresh);
            }
            Some(_) => return Err(SelectorError::Unsayable("|| between several labels")),
        }
    }
    Ok(found.map_or(Simple::Never, |one| Simple::All(vec![one])))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn chosen(text: &str, labels: &[(&str, &str)]) -> bool {
        let labels: BTreeMap<String, String> =
            labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        match translate(text) {
            Ok(selector) => manx_api::selects(selector.as_ref(), &labels),
            Err(SelectorError::Nothing) => false,
            Err(error) => panic!("{text}: {error}"),
        }
    }

    #[test]
    fn what_calico_selects_is_selected() {
        let a = [("rack", "a"), ("kubernetes.io/os", "linux")];
        let b = [("rack", "b")];
        for (text, on_a, on_b, on_nothing) in [
            ("", true, true, true),
            ("all()", true, true, true),
            ("!all()", false, false, false),
            ("rack == 'a'", true, false, false),
            ("rack == \"a\"", true, false, false),
            ("rack != 'a'", false, true, true),
            ("!(rack == 'a')", false, true, true),
            ("!(rack != 'a')", true, false, false),
            ("has(rack)", true, true, false),
            ("!has(rack)", false, false, true),
            ("rack in {'a', 'c'}", true, false, false),
            ("rack in { }", false, false, false),
            ("rack not in {'a','c'}", false, true, true),
            ("rack == 'a' || rack == 'b'", true, true, false),
            ("(rack == 'a') && has(kubernetes.io/os) && all()", true, false, false),
            ("!(has(rack) || has(row))", false, false, true),
            ("!(rack != 'a' && rack != 'b')", true, true, false),
            ("rack == 'a' || all()", true, true, true),
        ] {
            assert_eq!(chosen(text, &a), on_a, "{text} on a");
            assert_eq!(chosen(text, &b), on_b, "{text} on b");
            assert_eq!(chosen(text, &[]), on_nothing, "{text} on nothing");
        }
    }

    #[test]
    fn what_labels_cannot_say_is_refused_with_the_part_at_fault() {
        for (text, part) in [
            ("rack == 'a' || row == '1'", "||"),
            ("!(has(rack) && has(row))", "||"),
            ("rack == 'a' || has(rack)", "||"),
            ("name contains 'web'", "contains"),
            ("name starts with 'web' && has(x)", "starts with"),
            ("global()", "global()"),
        ] {
            let error = translate(text).expect_err(text);
            assert!(
                matches!(error, SelectorError::Unsayable(_)) && error.to_string().contains(part),
                "{error}"
            );
        }
    }

    #[test]
    fn what_is_no_selector_is_told_as_such() {
        for text in
            ["rack", "rack ==", "rack == a", "has(", "has('x')", "(rack == 'a'", "rack == 'a", "x && ", "é"]
        {
            assert_eq!(translate(text), Err(SelectorError::Syntax(text.to_owned())), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_fall(text in "[a-c!&|(){}='\" ,é]{0,24}") {
            let _ = translate(&text);
        }
    }
}
