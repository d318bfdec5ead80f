//! Who is let in: only who knows the word in the address, from this machine, and not from another page.
//!
//! A page from elsewhere could make the browser ask here (its Origin tells), and a name of somebody else could be made to
//! resolve to this machine, DNS rebinding (the Host tells). The word keeps other users of the machine out.

use anyhow::{Context as _, Result};
use hyper::header::{HOST, HeaderMap, ORIGIN};

/// Octets of the word.
const WORD: usize = 24;

/// Who is let in.
#[derive(Debug)]
pub(crate) struct Door {
    port: u16,
    word: String,
}

/// Why somebody is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// The request is for another host.
    #[error("this page has another address: use the one that manxctl ui printed")]
    Host,
    /// The request comes from a page of somebody else.
    #[error("another site asks for this page: open the address that manxctl ui printed yourself")]
    Origin,
    /// The path has no word, or the wrong one.
    #[error("the address is incomplete or of an earlier run: use the one that manxctl ui printed")]
    Word,
}

impl Door {
    /// With a new word.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub(crate) fn new(port: u16) -> Result<Self> {
        let mut octets = [0; WORD];
        getrandom::fill(&mut octets).ok().context("the system gives no random numbers")?;
        Ok(Self { port, word: octets.iter().map(|octet| format!("{octet:02x}")).collect() })
    }

    /// The address to open.
    pub(crate) fn address(&self) -> String {
        format!("http://127.0.0.1:{}/{}/", self.port, self.word)
    }

    /// What is asked for, without the word.
    ///
    /// # Errors
    /// Why it is not given.
    pub(crate) fn enter<'a>(&self, headers: &HeaderMap, path: &'a str) -> Result<&'a str, Refused> {
        let hosts = [format!("127.0.0.1:{}", self.port), format!("localhost:{}", self.port)];
        let host = headers.get(HOST).map(hyper::header::HeaderValue::as_bytes);
        if !hosts.iter().any(|ours| Some(ours.as_bytes()) == host) {
            return Err(Refused::Host);
        }
        let own = |origin: &[u8]| hosts.iter().any(|host| format!("http://{host}").as_bytes() == origin);
        let site = headers.get("sec-fetch-site").map(hyper::header::HeaderValue::as_bytes);
        let cross = site.is_some_and(|site| !matches!(site, b"same-origin" | b"none"));
        if cross || headers.get(ORIGIN).is_some_and(|origin| !own(origin.as_bytes())) {
            return Err(Refused::Origin);
        }
        let (word, rest) =
            path.strip_prefix('/').and_then(|path| path.split_once('/')).ok_or(Refused::Word)?;
        if same(word.as_bytes(), self.word.as_bytes()) { Ok(rest) } else { Err(Refused::Word) }
    }
}

/// Whether two words are the same, without telling by the time it takes where they differ.
fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door() -> Door {
        Door { port: 9178, word: "abc".to_owned() }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (hyper::header::HeaderName::from_static(name), value.parse().expect("a value"))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn who_knows_the_word_gets_in() {
        let same = [("host", "127.0.0.1:9178"), ("sec-fetch-site", "same-origin")];
        assert_eq!(door().enter(&headers(&same), "/abc/app.js"), Ok("app.js"));
        let typed = [("host", "localhost:9178"), ("sec-fetch-site", "none")];
        assert_eq!(door().enter(&headers(&typed), "/abc/"), Ok(""));
        let own = [("host", "localhost:9178"), ("origin", "http://localhost:9178")];
        assert_eq!(door().enter(&headers(&own), "/abc/events"), Ok("events"));
    }

    #[test]
    fn a_name_that_was_made_to_resolve_here_gets_nothing() {
        for host in ["evil.example:9178", "127.0.0.1", "127.0.0.1:80", "127.0.0.1:9178.evil.example"] {
            assert_eq!(door().enter(&headers(&[("host", host)]), "/abc/"), Err(Refused::Host), "{host}");
        }
        assert_eq!(door().enter(&HeaderMap::new(), "/abc/"), Err(Refused::Host));
    }

    #[test]
    fn a_page_of_somebody_else_gets_nothing() {
        for (name, value) in [
            ("origin", "http://evil.example"),
            ("origin", "null"),
            ("origin", "http://127.0.0.1:9999"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            let asked = headers(&[("host", "127.0.0.1:9178"), (name, value)]);
            assert_eq!(door().enter(&asked, "/abc/"), Err(Refused::Origin), "{name}: {value}");
        }
    }

    #[test]
    fn who_does_not_know_the_word_gets_nothing() {
        let asked = headers(&[("host", "127.0.0.1:9178")]);
        for path in ["/", "", "/abc", "/abd/", "/ab/", "/abcd/events", "//", "/events"] {
            assert_eq!(door().enter(&asked, path), Err(Refused::Word), "{path}");
        }
    }

    #[test]
    fn words_are_long_and_never_the_same() {
        let words: Vec<String> = (0..2).map(|_| Door::new(1).expect("random").word).collect();
        assert_eq!(words[0].len(), 48);
        assert_ne!(words[0], words[1]);
    }
}
