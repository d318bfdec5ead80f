//! What a message looks like before its values are known: words, and holes for values.

use std::fmt;

/// A message with holes. Two are the same when their words are, whatever the holes are called.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    /// One more than there are holes: what stands before, between and behind them.
    words: Vec<String>,
    /// What stands between the braces.
    holes: Vec<String>,
}

impl Template {
    /// Out of a format string: `{…}` is a hole, `{{` a brace.
    pub(crate) fn of_format(text: &str) -> Self {
        let mut template = Self { words: vec![String::new()], holes: Vec::new() };
        let mut rest = text.chars().peekable();
        while let Some(char) = rest.next() {
            match char {
                '{' | '}' if rest.peek() == Some(&char) => {
                    template.push(char);
                    rest.next();
                }
                '{' => {
                    template.holes.push(rest.by_ref().take_while(|char| *char != '}').collect());
                    template.words.push(String::new());
                }
                other => template.push(other),
            }
        }
        template
    }

    /// Out of a text without holes.
    pub(crate) fn of_text(text: &str) -> Self {
        Self { words: vec![text.to_owned()], holes: Vec::new() }
    }

    /// What is the same wherever this is meant.
    pub(crate) fn key(&self) -> String {
        let words: Vec<String> = self.words.iter().map(|words| escaped(words)).collect();
        words.join("{…}").trim().to_owned()
    }

    /// How many words of at least two letters it has.
    pub(crate) fn count_words(&self) -> usize {
        let is_word = |word: &&str| {
            let bare = word.trim_matches(|char: char| !char.is_alphanumeric());
            bare.chars().count() >= 2
                && bare.chars().all(|char| char.is_alphabetic() || char == '-' || char == '\'')
        };
        self.words.iter().flat_map(|words| words.split_whitespace()).filter(is_word).count()
    }

    /// How many values it shows.
    pub(crate) fn count_holes(&self) -> usize {
        self.holes.len()
    }

    /// Whether words are apart, as in a sentence.
    pub(crate) fn has_space(&self) -> bool {
        self.key().contains(' ')
    }

    fn push(&mut self, char: char) {
        if let Some(last) = self.words.last_mut() {
            last.push(char);
        }
    }
}

impl fmt::Display for Template {
    /// As a format string; a hole without a name is `{…}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, words) in self.words.iter().enumerate() {
            f.write_str(&escaped(words))?;
            if let Some(hole) = self.holes.get(index) {
                let name = hole.split(':').next().unwrap_or_default();
                let nameless = name.is_empty() || name.starts_with(|char: char| char.is_ascii_digit());
                write!(f, "{{{}}}", if nameless { "…" } else { name })?;
            }
        }
        Ok(())
    }
}

fn escaped(words: &str) -> String {
    words.replace('{', "{{").replace('}', "}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holes_are_called_makes_no_difference() {
        let key = |text| Template::of_format(text).key();
        assert_eq!(key("opening {path} of {0:?}"), "opening {…} of {…}");
        assert_eq!(key("opening {} of {what}"), key("opening {path} of {0:?}"));
        assert_ne!(key("opening {}"), key("closing {}"));
    }

    #[test]
    fn braces_that_are_meant_stay_braces() {
        assert_eq!(Template::of_format("a set {{1,2}}").to_string(), "a set {{1,2}}");
        assert_eq!(Template::of_text("a set {1,2}").key(), Template::of_format("a set {{1,2}}").key());
    }

    #[test]
    fn names_of_holes_are_shown_and_what_is_no_name_is_not() {
        let template = Template::of_format("{0} has {limit:?} and {}");
        assert_eq!(template.to_string(), "{…} has {limit} and {…}");
        assert_eq!((template.count_holes(), template.count_words()), (3, 2));
    }
}
