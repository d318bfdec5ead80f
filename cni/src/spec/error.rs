//! Errors as the specification wants them: a code that the runtime can act on, a sentence, and details.

use std::fmt;

use serde_json::{Value, json};

use super::Version;
use crate::rpc::RpcError;

/// A CNI error code. Those below 100 mean what the specification says; those from 100 on are Manx's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Code(pub u32);

impl Code {
    /// The configuration's version, or the verb in that version, is not supported.
    pub const INCOMPATIBLE_VERSION: Self = Self(1);
    /// The configuration has a field that is not supported; the message names it.
    pub const UNSUPPORTED_FIELD: Self = Self(2);
    /// The container is unknown: nothing is left to clean up.
    pub const UNKNOWN_CONTAINER: Self = Self(3);
    /// An environment variable is missing or wrong; the message names it.
    pub const INVALID_ENVIRONMENT: Self = Self(4);
    /// Standard input could not be read.
    pub const IO: Self = Self(5);
    /// Standard input is not JSON, or a field has another type than it should.
    pub const DECODE: Self = Self(6);
    /// The configuration is wrong.
    pub const INVALID_CONFIG: Self = Self(7);
    /// A passing condition: the runtime should try again later.
    pub const TRY_AGAIN: Self = Self(11);
    /// STATUS: the node cannot take pods.
    pub const NOT_AVAILABLE: Self = Self(50);
    /// STATUS: the node cannot take pods, and running pods may be cut off.
    pub const NOT_AVAILABLE_LIMITED: Self = Self(51);
    /// No pool has a free address for this pod.
    pub const NO_ADDRESS: Self = Self(100);
    /// The addresses asked for cannot be had.
    pub const ADDRESS_REFUSED: Self = Self(101);
    /// The pod, or the node, already has a link of that name that is not this container's.
    pub const LINK_EXISTS: Self = Self(102);
    /// The kernel refused what is needed for the link.
    pub const KERNEL: Self = Self(103);
    /// CHECK: the link is not as it should be; the details list the differences.
    pub const CHECK_FAILED: Self = Self(104);
    /// The agent's answer makes no sense; agent and plugin may be of different versions.
    pub const AGENT: Self = Self(105);
}

/// A failure as the runtime gets to see it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Error {
    /// What kind of failure.
    pub code: Code,
    /// What is wrong, in one sentence.
    pub msg: String,
    /// The cause or the way out; may be empty.
    pub details: String,
}

impl Error {
    /// An error without details.
    pub fn new(code: Code, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: String::new() }
    }

    /// The same error with these details.
    #[must_use]
    pub fn details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// The JSON for the runtime.
    pub fn to_json(&self, version: Version) -> Value {
        let mut object = json!({ "cniVersion": version.as_str(), "code": self.code.0, "msg": self.msg });
        if !self.details.is_empty() {
            object["details"] = json!(self.details);
        }
        object
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.msg)?;
        if !self.details.is_empty() {
            write!(f, ": {}", self.details)?;
        }
        Ok(())
    }
}

impl From<RpcError> for Error {
    fn from(refusal: RpcError) -> Self {
        Self { code: Code(refusal.code), msg: refusal.msg, details: refusal.details }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_the_fields_of_the_specification() {
        let error = Error::new(Code::INVALID_CONFIG, "field \"name\" is missing");
        assert_eq!(
            error.to_json(Version::V1_0_0),
            json!({ "cniVersion": "1.0.0", "code": 7, "msg": "field \"name\" is missing" })
        );
        assert_eq!(error.details("see the conflist").to_json(Version::V0_4_0)["details"], "see the conflist");
    }

    #[test]
    fn a_refusal_by_the_agent_reaches_the_runtime_as_it_is() {
        let refusal = RpcError { code: 100, msg: "pool default is full".into(), details: String::new() };
        assert_eq!(Error::from(refusal), Error::new(Code::NO_ADDRESS, "pool default is full"));
    }
}
