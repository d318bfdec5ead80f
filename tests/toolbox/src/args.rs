//! The words of a command line: options with a value (`--port 80`), options without, and the rest.

use std::collections::BTreeMap;
use std::io;
use std::str::FromStr;

/// A command line that has been taken apart.
#[derive(Debug, Default)]
pub(crate) struct Args {
    values: BTreeMap<String, String>,
    flags: Vec<String>,
    words: Vec<String>,
}

impl Args {
    /// Takes `words` apart; `values` and `flags` are the options that there are, without their dashes.
    pub(crate) fn read(words: &[String], values: &[&str], flags: &[&str]) -> io::Result<Self> {
        let mut args = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let Some(option) = word.strip_prefix("--") else {
                args.words.push(word.clone());
                continue;
            };
            if flags.contains(&option) {
                args.flags.push(option.to_owned());
            } else if values.contains(&option) {
                let value = words.next().ok_or_else(|| io::Error::other(format!("{word} needs a value")))?;
                args.values.insert(option.to_owned(), value.clone());
            } else {
                return Err(io::Error::other(format!("{word}: no such option")));
            }
        }
        Ok(args)
    }

    /// The value of an option.
    pub(crate) fn value(&self, option: &str) -> Option<&str> {
        self.values.get(option).map(String::as_str)
    }

    /// The value of an option as a number, or whatever else can be read from text.
    pub(crate) fn number<T: FromStr>(&self, option: &str) -> io::Result<Option<T>> {
        let Some(value) = self.value(option) else { return Ok(None) };
        let read = value.parse().map_err(|_| io::Error::other(format!("--{option} {value}: cannot be read")));
        read.map(Some)
    }

    /// Whether an option without a value was given.
    pub(crate) fn is_set(&self, flag: &str) -> bool {
        self.flags.iter().any(|set| set == flag)
    }

    /// A word that is not an option, counted from 0; `name` says in the error what is missing.
    pub(crate) fn word(&self, index: usize, name: &str) -> io::Result<&str> {
        self.words
            .get(index)
            .map(String::as_str)
            .ok_or_else(|| io::Error::other(format!("{name} is missing")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> io::Result<Args> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        Args::read(&words, &["timeout"], &["udp"])
    }

    #[test]
    fn options_may_stand_before_between_and_after_words() {
        for line in ["--udp --timeout 5 ::1 80", "::1 --timeout 5 80 --udp"] {
            let args = read(line).expect("read");
            assert!(args.is_set("udp"));
            assert_eq!(args.number::<u64>("timeout").expect("a number"), Some(5));
            assert_eq!((args.word(0, "A").expect("one"), args.word(1, "P").expect("two")), ("::1", "80"));
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(read("--tcp").expect_err("unknown").to_string().contains("--tcp: no such option"));
        assert!(read("--timeout").expect_err("nothing follows").to_string().contains("needs a value"));
        let args = read("--timeout soon").expect("read");
        assert!(args.number::<u64>("timeout").expect_err("not a number").to_string().contains("soon"));
        assert!(args.word(0, "ADDRESS").expect_err("none").to_string().contains("ADDRESS is missing"));
    }
}
