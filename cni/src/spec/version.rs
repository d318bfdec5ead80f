//! Versions of the specification, and the answer to VERSION.

use std::fmt;
use std::str::FromStr;

use serde_json::{Value, json};

use super::{Code, Error};

/// A version of the CNI specification that this plugin speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// 0.1.0: one address of each family
    V0_1_0,
    /// 0.2.0: VERSION
    V0_2_0,
    /// 0.3.0: several plugins in a chain
    V0_3_0,
    /// 0.3.1
    V0_3_1,
    /// 0.4.0: CHECK
    V0_4_0,
    /// 1.0.0: addresses without a version field
    V1_0_0,
    /// 1.1.0: STATUS and GC
    V1_1_0,
}

impl Version {
    /// All of them, oldest first.
    pub const ALL: [Self; 7] =
        [Self::V0_1_0, Self::V0_2_0, Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// The newest.
    pub const NEWEST: Self = Self::V1_1_0;

    /// As it is written in `cniVersion`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Version {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|version| version.as_str() == text).ok_or_else(|| {
            let shown = shown(text);
            Error::new(Code::INCOMPATIBLE_VERSION, format!("cniVersion {shown} is not supported"))
                .details(format!("supported are {}", Self::ALL.map(Self::as_str).join(", ")))
        })
    }
}

/// A version that came from outside, if it looks like one: nothing else is repeated.
fn shown(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-+".contains(&byte);
    if !text.is_empty() && text.len() <= 20 && text.bytes().all(plain) {
        format!("\"{text}\"")
    } else {
        "in the network configuration".into()
    }
}

/// The answer to VERSION. `stdin` is what the runtime sent along; its `cniVersion` is repeated if it is one.
pub fn version_answer(stdin: &[u8]) -> Value {
    let asked = serde_json::from_slice::<Value>(stdin).ok();
    let asked = asked.as_ref().and_then(|config| config.get("cniVersion")).and_then(Value::as_str);
    let version = asked.and_then(|text| text.parse().ok()).unwrap_or(Version::NEWEST);
    json!({
        "cniVersion": version.as_str(),
        "supportedVersions": Version::ALL.map(Version::as_str),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_is_read_as_it_is_written_and_newer_ones_are_greater() {
        for version in Version::ALL {
            assert_eq!(version.as_str().parse(), Ok(version));
        }
        assert!(Version::ALL.is_sorted());
        assert_eq!(Version::ALL.last(), Some(&Version::NEWEST));
    }

    #[test]
    fn an_unknown_version_is_refused_with_the_list_of_the_known() {
        let error = "1.2.0".parse::<Version>().unwrap_err();
        assert_eq!(error.code, Code::INCOMPATIBLE_VERSION);
        assert_eq!(error.msg, "cniVersion \"1.2.0\" is not supported");
        assert_eq!(error.details, "supported are 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0");
    }

    #[test]
    fn a_version_that_is_none_is_not_repeated() {
        let error = "s3cret pass".parse::<Version>().unwrap_err();
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }

    #[test]
    fn version_repeats_the_version_asked_with_and_survives_any_input() {
        for (stdin, version) in [
            (&br#"{"cniVersion":"0.4.0"}"#[..], "0.4.0"),
            (br#"{"cniVersion":"7"}"#, "1.1.0"),
            (b"", "1.1.0"),
            (b"{", "1.1.0"),
            (b"[]", "1.1.0"),
        ] {
            let answer = version_answer(stdin);
            assert_eq!(answer["cniVersion"], version);
            assert_eq!(answer["supportedVersions"], json!(Version::ALL.map(Version::as_str)));
        }
    }
}
