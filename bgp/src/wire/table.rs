//! The path attributes that this speaker knows, as one table: flags, length, and what a fault costs.
//!
//! Decoder and tests read the same rows, so the behaviour of RFC 7606 §7 can be checked against the
//! document line by line.

use super::error::Action;

pub(crate) const ORIGIN: u8 = 1;
pub(crate) const AS_PATH: u8 = 2;
pub(crate) const NEXT_HOP: u8 = 3;
pub(crate) const MULTI_EXIT_DISC: u8 = 4;
pub(crate) const LOCAL_PREF: u8 = 5;
pub(crate) const ATOMIC_AGGREGATE: u8 = 6;
pub(crate) const AGGREGATOR: u8 = 7;
pub(crate) const COMMUNITIES: u8 = 8;
pub(crate) const ORIGINATOR_ID: u8 = 9;
pub(crate) const CLUSTER_LIST: u8 = 10;
pub(crate) const MP_REACH_NLRI: u8 = 14;
pub(crate) const MP_UNREACH_NLRI: u8 = 15;
pub(crate) const EXTENDED_COMMUNITIES: u8 = 16;
pub(crate) const AS4_PATH: u8 = 17;
pub(crate) const AS4_AGGREGATOR: u8 = 18;
pub(crate) const LARGE_COMMUNITIES: u8 = 32;
pub(crate) const ONLY_TO_CUSTOMER: u8 = 35;

/// The attribute is optional.
pub(crate) const OPTIONAL: u8 = 0x80;
/// The attribute is passed on by those who do not know it.
pub(crate) const TRANSITIVE: u8 = 0x40;
/// Somebody who passed the attribute on did not know it.
pub(crate) const PARTIAL: u8 = 0x20;
/// The length takes two octets.
pub(crate) const EXTENDED_LENGTH: u8 = 0x10;

const WELL_KNOWN: u8 = TRANSITIVE;
const OPTIONAL_TRANSITIVE: u8 = OPTIONAL | TRANSITIVE;

/// What lengths an attribute's value may have, in octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// This many.
    Exactly(usize),
    /// A multiple, but not none.
    MultipleOf(usize),
    /// Six with two-octet numbers, eight with four-octet numbers (RFC 6793 §3).
    Aggregator,
    /// The value is judged by its content.
    Content,
}

impl Length {
    /// Whether a value of `len` octets follows the rule.
    pub const fn allows(self, len: usize, four_octet_as: bool) -> bool {
        match self {
            Self::Exactly(exact) => len == exact,
            Self::MultipleOf(step) => len != 0 && len.is_multiple_of(step),
            Self::Aggregator => len == if four_octet_as { 8 } else { 6 },
            Self::Content => true,
        }
    }
}

/// From whom an attribute is taken. Where it is not, it is discarded unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// From every peer.
    FromAll,
    /// From peers in our own autonomous system.
    FromInternal,
    /// From peers that send two-octet numbers.
    FromTwoOctet,
}

/// One row: an attribute and its rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The type code.
    pub code: u8,
    /// The name as the RFCs write it.
    pub name: &'static str,
    /// The Optional and Transitive bits that it must have (RFC 4271 §4.3).
    pub flags: u8,
    /// The rule for its length.
    pub length: Length,
    /// From whom it is taken.
    pub accepted: Accepted,
    /// What a fault in its value costs when an external peer sends it.
    pub external: Action,
    /// What a fault in its value costs when an internal peer sends it.
    pub internal: Action,
}

const fn rule(code: u8, name: &'static str, flags: u8, length: Length, action: Action) -> Rule {
    Rule { code, name, flags, length, accepted: Accepted::FromAll, external: action, internal: action }
}

const fn internal_only(code: u8, name: &'static str, flags: u8, length: Length) -> Rule {
    Rule {
        code,
        name,
        flags,
        length,
        accepted: Accepted::FromInternal,
        external: Action::Discard,
        internal: Action::TreatAsWithdraw,
    }
}

const fn two_octet_only(code: u8, name: &'static str, length: Length) -> Rule {
    Rule {
        code,
        name,
        flags: OPTIONAL_TRANSITIVE,
        length,
        accepted: Accepted::FromTwoOctet,
        external: Action::Discard,
        internal: Action::Discard,
    }
}

/// Every known attribute, ascending by type code.
#[rustfmt::skip]
pub const RULES: [Rule; 17] = [
    rule(ORIGIN,               "ORIGIN",               WELL_KNOWN,          Length::Exactly(1),     Action::TreatAsWithdraw),
    rule(AS_PATH,              "AS_PATH",              WELL_KNOWN,          Length::Content,        Action::TreatAsWithdraw),
    rule(NEXT_HOP,             "NEXT_HOP",             WELL_KNOWN,          Length::Exactly(4),     Action::TreatAsWithdraw),
    rule(MULTI_EXIT_DISC,      "MULTI_EXIT_DISC",      OPTIONAL,            Length::Exactly(4),     Action::TreatAsWithdraw),
    internal_only(LOCAL_PREF,  "LOCAL_PREF",           WELL_KNOWN,          Length::Exactly(4)),
    rule(ATOMIC_AGGREGATE,     "ATOMIC_AGGREGATE",     WELL_KNOWN,          Length::Exactly(0),     Action::Discard),
    rule(AGGREGATOR,           "AGGREGATOR",           OPTIONAL_TRANSITIVE, Length::Aggregator,     Action::Discard),
    rule(COMMUNITIES,          "COMMUNITIES",          OPTIONAL_TRANSITIVE, Length::MultipleOf(4),  Action::TreatAsWithdraw),
    internal_only(ORIGINATOR_ID, "ORIGINATOR_ID",      OPTIONAL,            Length::Exactly(4)),
    internal_only(CLUSTER_LIST, "CLUSTER_LIST",        OPTIONAL,            Length::MultipleOf(4)),
    rule(MP_REACH_NLRI,        "MP_REACH_NLRI",        OPTIONAL,            Length::Content,        Action::DisableFamily),
    rule(MP_UNREACH_NLRI,      "MP_UNREACH_NLRI",      OPTIONAL,            Length::Content,        Action::DisableFamily),
    rule(EXTENDED_COMMUNITIES, "EXTENDED COMMUNITIES", OPTIONAL_TRANSITIVE, Length::MultipleOf(8),  Action::TreatAsWithdraw),
    two_octet_only(AS4_PATH,   "AS4_PATH",             Length::Content),
    two_octet_only(AS4_AGGREGATOR, "AS4_AGGREGATOR",   Length::Exactly(8)),
    rule(LARGE_COMMUNITIES,    "LARGE_COMMUNITY",      OPTIONAL_TRANSITIVE, Length::MultipleOf(12), Action::TreatAsWithdraw),
    rule(ONLY_TO_CUSTOMER,     "OTC",                  OPTIONAL_TRANSITIVE, Length::Exactly(4),     Action::TreatAsWithdraw),
];

impl Rule {
    /// The row of an attribute, unless this speaker does not know it.
    pub fn of(code: u8) -> Option<&'static Self> {
        let row = ROW_OF.get(usize::from(code))?;
        RULES.get(usize::from(*row))
    }
}

const ABSENT: u8 = u8::MAX;

/// From type code to row, so that finding a rule costs the same for every attribute.
const ROW_OF: [u8; 36] = {
    let mut rows = [ABSENT; 36];
    let mut row = 0;
    while row < RULES.len() {
        #[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, which refuses a bad index")]
        {
            rows[RULES[row].code as usize] = row as u8;
        }
        row = row.saturating_add(1);
    }
    rows
};

/// The name of an attribute, or its number.
pub(super) fn name(code: u8) -> String {
    Rule::of(code).map_or_else(|| format!("attribute {code}"), |rule| rule.name.to_owned())
}
