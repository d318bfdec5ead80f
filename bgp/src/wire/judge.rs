//! The attributes of an UPDATE, one after the other, judged by the table (RFC 4271 §6.3, RFC 7606 §3–§7).
//!
//! Nothing here stops at the first fault: the attribute list is walked to its end or to the point where
//! it no longer has a meaning, so that the gravest fault decides.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::as_path::AsPath;
use super::attribute::{Aggregator, Attributes, NextHop, Origin, UnknownAttribute};
use super::capability::AfiSafi;
use super::community::{Community, ExtendedCommunity, LargeCommunity};
use super::error::{Action, AttributeFault, FaultKind};
use super::reader::Reader;
use super::table::{self, Accepted, Rule};
use super::{Dialect, Side};
use crate::prefix::{Asn, Family};

/// How many faults of one message are kept; a hostile message can hold thousands.
const FAULTS_KEPT: usize = 16;

/// The faults of one message, the gravest of them if there are many.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<AttributeFault>);

impl Faults {
    pub(super) fn push(&mut self, fault: AttributeFault) {
        if self.0.len() < FAULTS_KEPT {
            self.0.push(fault);
        } else if let Some(weakest) = self.0.iter_mut().min_by_key(|kept| kept.action)
            && weakest.action < fault.action
        {
            *weakest = fault;
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first fault that costs exactly `action`.
    pub(super) fn first(&self, action: Action) -> Option<&AttributeFault> {
        self.0.iter().find(|fault| fault.action == action)
    }

    /// Whether the routes of `family` are to be ignored from this message on.
    pub(super) fn disable(&self, family: Family) -> bool {
        self.0.iter().any(|fault| fault.family == Some(family))
    }

    pub(super) fn into_vec(self) -> Vec<AttributeFault> {
        self.0
    }
}

/// One attribute as it stands in the list.
#[derive(Clone, Copy)]
struct Raw<'a> {
    flags: u8,
    code: u8,
    value: &'a [u8],
    /// Header and value.
    octets: &'a [u8],
}

impl<'a> Raw<'a> {
    /// Takes the next attribute; `None` if it runs past the end.
    fn take(reader: &mut Reader<'a>) -> Option<Self> {
        let mut ahead = *reader;
        let flags = ahead.u8()?;
        let code = ahead.u8()?;
        let extended = flags & table::EXTENDED_LENGTH != 0;
        let value = if extended { ahead.counted_u16() } else { ahead.counted_u8() }?;
        let octets = reader.take(value.len().saturating_add(if extended { 4 } else { 3 }))?;
        Some(Self { flags, code, value, octets })
    }

    fn fault(&self, kind: FaultKind, action: Action) -> AttributeFault {
        AttributeFault { code: self.code, kind, action, family: None, bytes: self.octets.into() }
    }
}

/// The next hop and the prefixes of MP_REACH_NLRI, of a family that was negotiated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach<'a> {
    pub(super) family: Family,
    pub(super) next_hop: NextHop,
    pub(super) nlri: &'a [u8],
    pub(super) octets: &'a [u8],
}

/// The prefixes of MP_UNREACH_NLRI, of a family that was negotiated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unreach<'a> {
    pub(super) family: Family,
    pub(super) nlri: &'a [u8],
    pub(super) octets: &'a [u8],
}

/// All attributes of one message.
#[derive(Debug)]
pub(super) struct Judged<'a> {
    /// What the attributes say, except for the next hop. ORIGIN and AS_PATH mean something only if
    /// [`Judged::saw`] says that they were there.
    pub(super) attributes: Attributes,
    /// The value of NEXT_HOP.
    pub(super) next_hop: Option<Ipv4Addr>,
    pub(super) reach: Option<Reach<'a>>,
    pub(super) unreach: Option<Unreach<'a>>,
    /// MP_REACH_NLRI held prefixes, be it of a family that was not negotiated.
    pub(super) reachable: bool,
    pub(super) faults: Faults,
    seen: [u128; 2],
    as4_path: Option<AsPath>,
    as4_aggregator: Option<Aggregator>,
}

/// Walks the attribute list.
pub(super) fn judge<'a>(list: &'a [u8], dialect: &Dialect) -> Judged<'a> {
    let mut judged = Judged {
        attributes: Attributes::new(NextHop::V4(Ipv4Addr::UNSPECIFIED)),
        next_hop: None,
        reach: None,
        unreach: None,
        reachable: false,
        faults: Faults::default(),
        seen: [0; 2],
        as4_path: None,
        as4_aggregator: None,
    };
    let mut reader = Reader::new(list);
    while !reader.is_empty() {
        match Raw::take(&mut reader) {
            Some(raw) => judged.attribute(raw, dialect),
            None => judged.overrun(reader.take_rest(), dialect),
        }
    }
    judged.merge_four_octet();
    judged.attributes.unknown.sort_unstable_by_key(|unknown| unknown.code);
    judged
}

impl<'a> Judged<'a> {
    /// Whether an attribute of type `code` was in the list, good or bad.
    pub(super) fn saw(&self, code: u8) -> bool {
        let [low, high] = self.seen;
        let half = if code < 128 { low } else { high };
        half & bit(code) != 0
    }

    /// Whether MP_UNREACH_NLRI was the only attribute.
    pub(super) fn saw_only_unreach(&self) -> bool {
        self.seen == [bit(table::MP_UNREACH_NLRI), 0]
    }

    /// Whether there was any attribute besides MP_UNREACH_NLRI.
    pub(super) fn saw_more_than_unreach(&self) -> bool {
        let [low, high] = self.seen;
        low & !bit(table::MP_UNREACH_NLRI) != 0 || high != 0
    }

    fn attribute(&mut self, raw: Raw<'a>, dialect: &Dialect) {
        if self.saw(raw.code) {
            // RFC 7606 §3 g: the first one counts, but two lists of prefixes are beyond repair.
            let multiprotocol = matches!(raw.code, table::MP_REACH_NLRI | table::MP_UNREACH_NLRI);
            let action = if multiprotocol { Action::Reset } else { Action::Discard };
            return self.faults.push(raw.fault(FaultKind::Duplicate, action));
        }
        let [low, high] = &mut self.seen;
        *(if raw.code < 128 { low } else { high }) |= bit(raw.code);
        match Rule::of(raw.code) {
            Some(rule) => self.known(raw, rule, dialect),
            None => self.unknown(raw),
        }
    }

    fn known(&mut self, raw: Raw<'a>, rule: &Rule, dialect: &Dialect) {
        if !accepts(rule.accepted, dialect) {
            return self.faults.push(raw.fault(FaultKind::Unexpected, Action::Discard));
        }
        let flags = raw.flags & (table::OPTIONAL | table::TRANSITIVE);
        if flags != rule.flags {
            // The value is read nevertheless: prefixes in it are what counts as withdrawn.
            self.faults.push(raw.fault(FaultKind::Flags, Action::TreatAsWithdraw));
        }
        let outcome = if rule.length.allows(raw.value.len(), dialect.four_octet_as) {
            self.value(raw, dialect)
        } else {
            Err(FaultKind::Length)
        };
        match outcome {
            Ok(()) if raw.flags & table::PARTIAL != 0 => self.attributes.partial.insert(raw.code),
            Ok(()) => {}
            Err(kind) => self.faults.push(raw.fault(kind, action(rule, dialect))),
        }
    }

    /// Reads a value whose length was found good.
    fn value(&mut self, raw: Raw<'a>, dialect: &Dialect) -> Result<(), FaultKind> {
        let into = &mut self.attributes;
        let mut reader = Reader::new(raw.value);
        match raw.code {
            table::ORIGIN => {
                into.origin = reader.u8().and_then(Origin::from_octet).ok_or(FaultKind::Value)?;
            }
            table::AS_PATH => {
                into.as_path = AsPath::decode(raw.value, dialect.four_octet_as).ok_or(FaultKind::Value)?;
            }
            table::NEXT_HOP => self.next_hop = reader.u32().map(Ipv4Addr::from),
            table::MULTI_EXIT_DISC => into.med = reader.u32(),
            table::LOCAL_PREF => into.local_pref = reader.u32(),
            table::ATOMIC_AGGREGATE => into.atomic_aggregate = true,
            table::AGGREGATOR => into.aggregator = Some(aggregator(reader, dialect.four_octet_as)?),
            table::COMMUNITIES => {
                into.communities.extend(words(raw.value).map(Community));
            }
            table::ORIGINATOR_ID => into.originator_id = reader.u32().map(Ipv4Addr::from),
            table::CLUSTER_LIST => into.cluster_list.extend(words(raw.value).map(Ipv4Addr::from)),
            table::MP_REACH_NLRI => self.reach(raw, dialect),
            table::MP_UNREACH_NLRI => self.unreach(raw, dialect),
            table::EXTENDED_COMMUNITIES => {
                let (communities, _) = raw.value.as_chunks::<8>();
                into.extended_communities.extend(communities.iter().copied().map(ExtendedCommunity));
            }
            table::AS4_PATH => {
                self.as4_path = Some(AsPath::decode_as4(raw.value).ok_or(FaultKind::Value)?);
            }
            table::AS4_AGGREGATOR => self.as4_aggregator = Some(aggregator(reader, true)?),
            table::LARGE_COMMUNITIES => into.large_communities.extend(large_communities(raw.value)),
            table::ONLY_TO_CUSTOMER => into.only_to_customer = reader.u32().map(Asn),
            _ => {}
        }
        Ok(())
    }

    fn unknown(&mut self, raw: Raw<'a>) {
        if raw.flags & table::OPTIONAL == 0 {
            self.faults.push(raw.fault(FaultKind::UnrecognizedWellKnown, Action::Reset));
        } else if raw.flags & table::TRANSITIVE != 0 {
            self.attributes.unknown.push(UnknownAttribute { code: raw.code, value: raw.value.into() });
        }
    }

    /// MP_REACH_NLRI (RFC 4760 §3, RFC 7606 §7.11).
    fn reach(&mut self, raw: Raw<'a>, dialect: &Dialect) {
        let mut reader = Reader::new(raw.value);
        let Some(family) = self.family(&mut reader, raw, dialect) else { return };
        let (Some(next_hop), Some(_reserved)) = (reader.counted_u8(), reader.u8()) else {
            return self.disable(raw, FaultKind::Length, family);
        };
        let Some(next_hop) = multiprotocol_next_hop(family, next_hop, dialect) else {
            return self.disable(raw, FaultKind::Length, family);
        };
        let nlri = reader.take_rest();
        if !nlri.is_empty() && !is_host(next_hop) {
            self.faults.push(raw.fault(FaultKind::Value, Action::TreatAsWithdraw));
        }
        self.reachable = !nlri.is_empty();
        self.reach = Some(Reach { family, next_hop, nlri, octets: raw.octets });
    }

    /// MP_UNREACH_NLRI (RFC 4760 §4, RFC 7606 §7.12).
    fn unreach(&mut self, raw: Raw<'a>, dialect: &Dialect) {
        let mut reader = Reader::new(raw.value);
        let Some(family) = self.family(&mut reader, raw, dialect) else { return };
        self.unreach = Some(Unreach { family, nlri: reader.take_rest(), octets: raw.octets });
    }

    /// Reads the family in front of a multiprotocol attribute, if it is one that was negotiated.
    fn family(&mut self, reader: &mut Reader<'a>, raw: Raw<'a>, dialect: &Dialect) -> Option<Family> {
        let (Some(afi), Some(safi)) = (reader.u16(), reader.u8()) else {
            self.faults.push(raw.fault(FaultKind::Length, Action::Reset));
            return None;
        };
        let family = AfiSafi { afi, safi }.family().filter(|family| dialect.families.contains(*family));
        if family.is_none() {
            self.reachable |= raw.code == table::MP_REACH_NLRI;
            self.faults.push(raw.fault(FaultKind::NotNegotiated, Action::Discard));
        }
        family
    }

    fn disable(&mut self, raw: Raw<'a>, kind: FaultKind, family: Family) {
        let fault = raw.fault(kind, Action::DisableFamily);
        self.faults.push(AttributeFault { family: Some(family), ..fault });
    }

    /// The list ends inside an attribute, or before one has a header (RFC 7606 §4). The prefixes of a
    /// multiprotocol attribute cannot be told then, which costs more.
    fn overrun(&mut self, octets: &'a [u8], dialect: &Dialect) {
        let mut reader = Reader::new(octets);
        let flags = reader.u8().unwrap_or_default();
        let code = reader.u8().unwrap_or_default();
        let raw = Raw { flags, code, value: &[], octets };
        let [low, high] = &mut self.seen;
        *(if code < 128 { low } else { high }) |= bit(code);
        if !matches!(code, table::MP_REACH_NLRI | table::MP_UNREACH_NLRI) {
            return self.faults.push(raw.fault(FaultKind::Overrun, Action::TreatAsWithdraw));
        }
        let _len =
            if flags & table::EXTENDED_LENGTH != 0 { reader.u16() } else { reader.u8().map(u16::from) };
        if let Some(family) = self.family(&mut reader, raw, dialect) {
            self.disable(raw, FaultKind::Overrun, family);
        } else {
            self.faults.push(raw.fault(FaultKind::Overrun, Action::TreatAsWithdraw));
        }
    }

    /// Puts the four-octet numbers back that a sender with two-octet numbers could not write
    /// (RFC 6793 §4.2.3).
    fn merge_four_octet(&mut self) {
        if let Some(aggregator) = &mut self.attributes.aggregator {
            if aggregator.asn == Asn::TRANS {
                *aggregator = self.as4_aggregator.take().unwrap_or(*aggregator);
            } else if self.as4_aggregator.is_some() {
                // Somebody aggregated after the four-octet numbers were written down.
                return;
            }
        }
        if let Some(wide) = self.as4_path.take() {
            self.attributes.as_path = self.attributes.as_path.with_four_octet_tail(&wide);
        }
    }
}

/// The bit of a type code within its half of [`Judged::seen`].
const fn bit(code: u8) -> u128 {
    1_u128.wrapping_shl(code as u32)
}

fn accepts(accepted: Accepted, dialect: &Dialect) -> bool {
    match accepted {
        Accepted::FromAll => true,
        Accepted::FromInternal => dialect.side == Side::Internal,
        Accepted::FromTwoOctet => !dialect.four_octet_as,
    }
}

fn action(rule: &Rule, dialect: &Dialect) -> Action {
    match dialect.side {
        Side::Internal => rule.internal,
        Side::External => rule.external,
    }
}

fn words(value: &[u8]) -> impl Iterator<Item = u32> {
    let (words, _) = value.as_chunks::<4>();
    words.iter().copied().map(u32::from_be_bytes)
}

fn large_communities(value: &[u8]) -> impl Iterator<Item = LargeCommunity> {
    let mut words = words(value);
    std::iter::from_fn(move || {
        Some(LargeCommunity { global: words.next()?, local1: words.next()?, local2: words.next()? })
    })
}

/// AGGREGATOR; a system number of 0 is a fault (RFC 7607 §2).
fn aggregator(mut reader: Reader<'_>, four_octet_as: bool) -> Result<Aggregator, FaultKind> {
    let asn = if four_octet_as { reader.u32() } else { reader.u16().map(u32::from) };
    let (Some(asn), Some(router)) = (asn.map(Asn), reader.u32()) else { return Err(FaultKind::Length) };
    if asn.is_zero() {
        return Err(FaultKind::Value);
    }
    Ok(Aggregator { asn, router: router.into() })
}

/// The next hop of MP_REACH_NLRI; `None` if its length is not one that the family can have
/// (RFC 2545 §3, RFC 8950 §3).
fn multiprotocol_next_hop(family: Family, octets: &[u8], dialect: &Dialect) -> Option<NextHop> {
    let ipv6 = family == Family::Ipv6Unicast || dialect.extended_next_hop;
    let mut reader = Reader::new(octets);
    match octets.len() {
        4 if family == Family::Ipv4Unicast => Some(NextHop::V4(reader.u32()?.into())),
        16 if ipv6 => Some(NextHop::V6 { address: reader.array::<16>()?.into(), link_local: None }),
        32 if ipv6 => Some(pair(reader.array::<16>()?.into(), reader.array::<16>()?.into())),
        _ => None,
    }
}

/// What two next hops mean: the second counts only as the link-local address of the first, and stands in
/// for it where a sender had no other.
fn pair(first: Ipv6Addr, second: Ipv6Addr) -> NextHop {
    let link_local = Some(second).filter(Ipv6Addr::is_unicast_link_local);
    match link_local {
        Some(only) if first.is_unspecified() => NextHop::V6 { address: only, link_local: None },
        _ if first.is_unicast_link_local() => NextHop::V6 { address: first, link_local: None },
        _ => NextHop::V6 { address: first, link_local },
    }
}

/// Whether a next hop is the address of some host (RFC 4271 §6.3).
pub(super) fn is_host(next_hop: NextHop) -> bool {
    match next_hop {
        NextHop::V4(address) => {
            let [first, ..] = address.octets();
            (1..224).contains(&first) && first != 127
        }
        NextHop::V6 { address, .. } => {
            !address.is_unspecified() && !address.is_loopback() && !address.is_multicast()
        }
    }
}
