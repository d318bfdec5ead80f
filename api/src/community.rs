//! BGP communities as people write them.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::address::serde_as_text;

/// A community: `64512:100` or a well-known name such as `no-export` (RFC 1997), large, `64512:1:100` (RFC 8092), or
/// extended, `rt:64512:100` (RFC 4360).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Community {
    /// Two numbers of 16 bits (RFC 1997).
    Standard(u16, u16),
    /// Three numbers of 32 bits (RFC 8092).
    Large(u32, u32, u32),
    /// A route target (`rt`) of an AS (RFC 4360 §4); an AS above 65535 leaves 16 bits for the second number.
    Target(u32, u32),
    /// A route origin (`ro`) of an AS (RFC 4360 §5).
    Origin(u32, u32),
}

/// Why a text is not a [`Community`] or a [`CommunityPattern`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a community: write 64512:100 (each up to 65535), 64512:1:100 (each up to 4294967295), rt:64512:100 \
     or a well-known name such as no-export"
)]
pub struct CommunityError(String);

/// Names of communities that everybody knows (IANA, BGP Well-known Communities), and their second numbers; the first
/// is 65535.
const WELL_KNOWN: [(&str, u16); 8] = [
    ("graceful-shutdown", 0),
    ("llgr-stale", 6),
    ("no-llgr", 7),
    ("blackhole", 666),
    ("no-export", 0xff01),
    ("no-advertise", 0xff02),
    ("no-export-subconfed", 0xff03),
    ("no-peer", 0xff04),
];

impl FromStr for Community {
    type Err = CommunityError;

    fn from_str(text: &str) -> Result<Self, CommunityError> {
        let parse = || -> Option<Self> {
            if let Some((_, low)) = WELL_KNOWN.iter().find(|(name, _)| *name == text) {
                return Some(Self::Standard(0xffff, *low));
            }
            let parts: Vec<&str> = text.split(':').collect();
            match *parts.as_slice() {
                [a, b] => Some(Self::Standard(number(a)?.try_into().ok()?, number(b)?.try_into().ok()?)),
                ["rt", a, b] => extended(a, b).map(|(a, b)| Self::Target(a, b)),
                ["ro", a, b] => extended(a, b).map(|(a, b)| Self::Origin(a, b)),
                [a, b, c] => Some(Self::Large(number(a)?, number(b)?, number(c)?)),
                _ => None,
            }
        };
        parse().ok_or_else(|| CommunityError(text.to_owned()))
    }
}

/// A number of at most ten digits and nothing else.
fn number(text: &str) -> Option<u32> {
    let digits = text.len() <= 10 && text.bytes().all(|b| b.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

fn extended(asn: &str, local: &str) -> Option<(u32, u32)> {
    let (asn, local) = (number(asn)?, number(local)?);
    (asn <= 0xffff || local <= 0xffff).then_some((asn, local))
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard(a, b) => write!(f, "{a}:{b}"),
            Self::Large(a, b, c) => write!(f, "{a}:{b}:{c}"),
            Self::Target(a, b) => write!(f, "rt:{a}:{b}"),
            Self::Origin(a, b) => write!(f, "ro:{a}:{b}"),
        }
    }
}

/// A community that a rule looks for, parts of which may be open: `64512:*`, `64512:1:*`, `rt:64512:*`; else as a
/// [`Community`] is written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommunityPattern(String);

impl CommunityPattern {
    /// The text as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CommunityPattern {
    type Err = CommunityError;

    fn from_str(text: &str) -> Result<Self, CommunityError> {
        // With zero for what is open it is a community; the AS of an extended one cannot be open.
        let closed =
            text.split(':').map(|part| if part == "*" { "0" } else { part }).collect::<Vec<_>>().join(":");
        let headless = text.starts_with("rt:*") || text.starts_with("ro:*");
        match closed.parse::<Community>() {
            Ok(_) if !headless => Ok(Self(text.to_owned())),
            _ => Err(CommunityError(text.to_owned())),
        }
    }
}

impl fmt::Display for CommunityPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

const NAMES: &str =
    "graceful-shutdown|llgr-stale|no-llgr|blackhole|no-export|no-advertise|no-export-subconfed|no-peer";
/// A number up to 65535, and one up to 4294967295, as regular expressions: a rule in CEL would say it in words, but the
/// API server adds up what rules may cost at most, and refuses a definition with so many lists of communities.
const U16: &str = "([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])";
const U32: &str = "([0-9]{1,9}|[1-3][0-9]{9}|4[01][0-9]{8}|42[0-8][0-9]{7}|429[0-3][0-9]{6}|4294[0-8][0-9]{5}|42949[0-5][0-9]{4}|429496[0-6][0-9]{3}|4294967[01][0-9]{2}|42949672[0-8][0-9]|429496729[0-5])";

fn schema(pattern: &str) -> Schema {
    json_schema!({"type": "string", "maxLength": 32, "pattern": pattern})
}

impl JsonSchema for Community {
    fn schema_name() -> Cow<'static, str> {
        "Community".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schema(&format!("^({U16}:{U16}|{U32}:{U32}:{U32}|r[to]:({U16}:{U32}|{U32}:{U16})|{NAMES})$"))
    }
}

impl JsonSchema for CommunityPattern {
    fn schema_name() -> Cow<'static, str> {
        "CommunityPattern".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let (low, high) = (format!("({U16}|[*])"), format!("({U32}|[*])"));
        schema(&format!("^({low}:{low}|{high}:{high}:{high}|r[to]:({U16}:{high}|{U32}:{low})|{NAMES})$"))
    }
}

serde_as_text!(Community, CommunityPattern);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read_and_written_back() {
        for (text, community) in [
            ("64512:100", Community::Standard(64512, 100)),
            ("0:65535", Community::Standard(0, 65535)),
            ("4200000000:1:0", Community::Large(4_200_000_000, 1, 0)),
            ("rt:64512:70000", Community::Target(64512, 70000)),
            ("ro:4200000000:1", Community::Origin(4_200_000_000, 1)),
        ] {
            assert_eq!(text.parse(), Ok(community));
            assert_eq!(community.to_string(), text);
        }
        assert_eq!("no-export".parse(), Ok(Community::Standard(65535, 65281)));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            ":",
            "1",
            "1:",
            "65536:0",
            "1:2:3:4",
            "1:4294967296:1",
            "+1:2",
            "1: 2",
            "no-idea",
            "rt:70000:70000",
            "1:*",
        ] {
            assert_eq!(text.parse::<Community>(), Err(CommunityError(text.into())), "{text}");
        }
    }

    #[test]
    fn a_pattern_may_leave_parts_open() {
        for text in ["64512:100", "64512:*", "*:666", "64512:*:1", "rt:64512:*", "blackhole"] {
            assert_eq!(
                text.parse::<CommunityPattern>().map(|pattern| pattern.to_string()),
                Ok(text.to_owned())
            );
        }
        for text in ["*", "rt:*:1", "64512:1*", "65536:*", "x:*"] {
            assert!(text.parse::<CommunityPattern>().is_err(), "{text}");
        }
    }
}
