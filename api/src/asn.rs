//! The autonomous system of a peer: a number, or what it must be in relation to ours.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Which autonomous system a peer is in.
///
/// In JSON a number from 1 to 4294967295, or one of the words `Internal` and `External`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PeerAsn {
    /// This one and no other.
    Number(u32),
    /// Ours: the session is iBGP.
    Internal,
    /// Any but ours: the session is eBGP, and the peer says its number when the session opens.
    External,
}

/// Why a value is not a [`PeerAsn`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not an AS: write a number from 1 to 4294967295, Internal or External")]
pub struct AsnError(String);

impl TryFrom<u64> for PeerAsn {
    type Error = AsnError;

    fn try_from(number: u64) -> Result<Self, AsnError> {
        match u32::try_from(number) {
            Ok(number) if number != 0 => Ok(Self::Number(number)),
            _ => Err(AsnError(number.to_string())),
        }
    }
}

impl fmt::Display for PeerAsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Internal => f.write_str("Internal"),
            Self::External => f.write_str("External"),
        }
    }
}

impl Serialize for PeerAsn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => serializer.serialize_u32(*number),
            Self::Internal | Self::External => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for PeerAsn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u64),
            Word(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(number) => Self::try_from(number),
            Written::Word(word) => match word.as_str() {
                "Internal" => Ok(Self::Internal),
                "External" => Ok(Self::External),
                _ => Err(AsnError(format!("{word:?}"))),
            },
        }
        .map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for PeerAsn {
    fn schema_name() -> Cow<'static, str> {
        "PeerAsn".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "x-kubernetes-validations": [{
                "rule": "type(self) == int ? self >= 1 && self <= 4294967295 : self in ['Internal', 'External']",
                "message": "must be a number from 1 to 4294967295, Internal or External",
            }],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_words_are_read_and_written_back() {
        for (json, asn) in [
            ("64512", PeerAsn::Number(64512)),
            ("\"Internal\"", PeerAsn::Internal),
            ("\"External\"", PeerAsn::External),
        ] {
            assert_eq!(serde_json::from_str::<PeerAsn>(json).expect("an AS"), asn);
            assert_eq!(serde_json::to_string(&asn).expect("plain data"), json);
        }
    }

    #[test]
    fn anything_else_is_refused_with_what_to_write() {
        for json in ["0", "4294967296", "\"64512\"", "\"external\""] {
            let error = serde_json::from_str::<PeerAsn>(json).expect_err(json);
            assert!(
                error.to_string().ends_with("write a number from 1 to 4294967295, Internal or External"),
                "{error}"
            );
        }
    }
}
