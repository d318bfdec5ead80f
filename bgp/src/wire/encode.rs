//! From values to messages; UPDATEs are packed as full as the peer takes them.

use std::iter::Peekable;

use super::attribute::{Attributes, NextHop};
use super::error::EncodeError;
use super::{Dialect, Message};
use crate::prefix::{Family, Prefix};

/// Path attributes in wire form, made once for a set of attributes and a [`Dialect`] and put in front of
/// any number of prefixes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedAttributes {
    /// Everything but NEXT_HOP and MP_REACH_NLRI.
    octets: Vec<u8>,
    next_hop: NextHop,
}

impl EncodedAttributes {
    /// Writes the attributes for peers that share `dialect`.
    pub fn new(attributes: &Attributes, _dialect: &Dialect) -> Self {
        Self { octets: Vec::new(), next_hop: attributes.next_hop }
    }
}

/// Appends one message.
///
/// An [`Message::Update`] becomes as many messages as it needs, none if it is empty.
///
/// # Errors
/// As [`announce`], or the message does not fit. Nothing of the message is appended then.
pub fn encode(_message: &Message, _dialect: &Dialect, _buf: &mut Vec<u8>) -> Result<(), EncodeError> {
    Ok(())
}

/// Appends one UPDATE that announces as many prefixes as fit, and returns how many those are.
///
/// Takes prefixes for as long as they are of the first one's family; call again while there are more.
///
/// # Errors
/// The attributes leave no room for a prefix, or their next hop cannot stand with this family. Nothing is
/// appended then and no prefix is taken: the caller must withdraw them.
pub fn announce<I: Iterator<Item = Prefix>>(
    _attributes: &EncodedAttributes,
    _prefixes: &mut Peekable<I>,
    _dialect: &Dialect,
    _buf: &mut Vec<u8>,
) -> Result<usize, EncodeError> {
    Ok(0)
}

/// Appends one UPDATE that withdraws as many prefixes as fit, and returns how many those are.
///
/// Takes prefixes for as long as they are of the first one's family; call again while there are more.
pub fn withdraw<I: Iterator<Item = Prefix>>(
    _prefixes: &mut Peekable<I>,
    _dialect: &Dialect,
    _buf: &mut Vec<u8>,
) -> usize {
    0
}

/// Appends the UPDATE that says: these were all routes of `family` (RFC 4724 §2).
pub fn end_of_rib(_family: Family, _buf: &mut Vec<u8>) {}
