//! BGP communities as people write them.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::address::serde_as_text;

/// A community: `64512:100` (RFC 1997) or large, `64512:1:100` (RFC 8092).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Community {
    /// Two numbers of 16 bits (RFC 1997).
    Standard(u16, u16),
    /// Three numbers of 32 bits (RFC 8092).
    Large(u32, u32, u32),
}

/// Why a text is not a [`Community`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a community: write 64512:100 (each up to 65535) or 64512:1:100 (each up to 4294967295)"
)]
pub struct CommunityError(String);

impl FromStr for Community {
    type Err = CommunityError;

    fn from_str(text: &str) -> Result<Self, CommunityError> {
        let error = || CommunityError(text.to_owned());
        if !text.bytes().all(|b| b.is_ascii_digit() || b == b':') {
            return Err(error());
        }
        let parts: Vec<u32> =
            text.split(':').map(str::parse).collect::<Result<_, _>>().map_err(|_| error())?;
        match parts[..] {
            [a, b] => match (u16::try_from(a), u16::try_from(b)) {
                (Ok(a), Ok(b)) => Ok(Self::Standard(a, b)),
                _ => Err(error()),
            },
            [a, b, c] => Ok(Self::Large(a, b, c)),
            _ => Err(error()),
        }
    }
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard(a, b) => write!(f, "{a}:{b}"),
            Self::Large(a, b, c) => write!(f, "{a}:{b}:{c}"),
        }
    }
}

impl JsonSchema for Community {
    fn schema_name() -> Cow<'static, str> {
        "Community".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 32,
            "pattern": "^[0-9]{1,10}:[0-9]{1,10}(:[0-9]{1,10})?$",
            "x-kubernetes-validations": [{
                "rule": "self.split(':').all(n, int(n) <= (self.matches('^[0-9]+:[0-9]+$') ? 65535 : 4294967295))",
                "message": "must be two numbers up to 65535 (64512:100) or three up to 4294967295 (64512:1:100)",
            }],
        })
    }
}

serde_as_text!(Community);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_are_read_and_written_back() {
        for (text, community) in [
            ("64512:100", Community::Standard(64512, 100)),
            ("0:65535", Community::Standard(0, 65535)),
            ("4200000000:1:0", Community::Large(4_200_000_000, 1, 0)),
        ] {
            assert_eq!(text.parse(), Ok(community));
            assert_eq!(community.to_string(), text);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", ":", "1", "1:", "65536:0", "1:2:3:4", "1:4294967296:1", "+1:2", "1: 2", "no-export"]
        {
            assert_eq!(text.parse::<Community>(), Err(CommunityError(text.into())), "{text}");
        }
    }
}
