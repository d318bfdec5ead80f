//! From values to messages; UPDATEs are packed as full as the peer takes them.
//!
//! MP_REACH_NLRI and MP_UNREACH_NLRI come first (RFC 7606 §5.1), the rest ascends by type.

use std::iter::Peekable;
use std::net::Ipv6Addr;

use super::attribute::{Aggregator, Attributes, NextHop};
use super::capability::AfiSafi;
use super::error::EncodeError;
use super::framer::HEADER_LEN;
use super::nlri::{self, Nlri};
use super::{Dialect, Message, MessageType, Side, Update, table};
use crate::prefix::{Asn, Family};

/// Path attributes in wire form, made once for a set of attributes and a [`Dialect`] and put in front of
/// any number of prefixes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedAttributes {
    /// Everything but MP_REACH_NLRI; NEXT_HOP if the next hop is an IPv4 address.
    octets: Vec<u8>,
    next_hop: NextHop,
}

impl EncodedAttributes {
    /// Writes the attributes for peers that share `dialect`. LOCAL_PREF, ORIGINATOR_ID and CLUSTER_LIST
    /// are left out towards external peers, where they must not go (RFC 4271 §5.1.5, RFC 4456 §8).
    pub fn new(attributes: &Attributes, dialect: &Dialect) -> Self {
        let mut list = List::default();
        list.mandatory(attributes, dialect);
        list.optional(attributes, dialect);
        list.four_octet(attributes, dialect);
        list.last(attributes);
        Self { octets: list.octets, next_hop: attributes.next_hop }
    }

    /// The attributes as a dump of a table has them: AS numbers of four octets, and of MP_REACH_NLRI only the next hop
    /// (RFC 6396 §4.3.4).
    pub(crate) fn for_dump(attributes: &Attributes) -> Vec<u8> {
        let dialect = Dialect { side: Side::Internal, ..Dialect::BEFORE_OPEN };
        let Self { octets, next_hop } = Self::new(attributes, &dialect);
        let NextHop::V6 { address, link_local } = next_hop else { return octets };
        let mut value = Vec::new();
        encode_next_hop(address, link_local, &mut value);
        let mut list = vec![OPTIONAL, table::MP_REACH_NLRI, if value.len() > 17 { 33 } else { 17 }];
        list.extend(value);
        list.extend(octets);
        list
    }
}

/// An attribute list under construction.
#[derive(Default)]
struct List {
    octets: Vec<u8>,
    value: Vec<u8>,
}

const WELL_KNOWN: u8 = table::TRANSITIVE;
const OPTIONAL: u8 = table::OPTIONAL;
const OPTIONAL_TRANSITIVE: u8 = table::OPTIONAL | table::TRANSITIVE;

impl List {
    /// Appends one attribute whose value `write` writes.
    fn put(&mut self, flags: u8, code: u8, write: impl FnOnce(&mut Vec<u8>)) {
        self.value.clear();
        write(&mut self.value);
        match u8::try_from(self.value.len()) {
            Ok(len) => self.octets.extend_from_slice(&[flags, code, len]),
            Err(_) => {
                // A longer value makes the list too large for any message, which `announce` finds.
                let len = u16::try_from(self.value.len()).unwrap_or(u16::MAX);
                self.octets.extend_from_slice(&[flags | table::EXTENDED_LENGTH, code]);
                self.octets.extend_from_slice(&len.to_be_bytes());
            }
        }
        self.octets.append(&mut self.value);
    }

    fn put_u32(&mut self, flags: u8, code: u8, value: u32) {
        self.put(flags, code, |buf| buf.extend_from_slice(&value.to_be_bytes()));
    }

    fn mandatory(&mut self, attributes: &Attributes, dialect: &Dialect) {
        self.put(WELL_KNOWN, table::ORIGIN, |buf| buf.push(attributes.origin.octet()));
        self.put(WELL_KNOWN, table::AS_PATH, |buf| attributes.as_path.encode(dialect.four_octet_as, buf));
        if let NextHop::V4(address) = attributes.next_hop {
            self.put_u32(WELL_KNOWN, table::NEXT_HOP, address.to_bits());
        }
    }

    fn optional(&mut self, attributes: &Attributes, dialect: &Dialect) {
        let internal = dialect.side == Side::Internal;
        let partial = |code| OPTIONAL_TRANSITIVE | partial_flag(attributes, code);
        if let Some(med) = attributes.med {
            self.put_u32(OPTIONAL, table::MULTI_EXIT_DISC, med);
        }
        if let Some(local_pref) = attributes.local_pref.filter(|_| internal) {
            self.put_u32(WELL_KNOWN, table::LOCAL_PREF, local_pref);
        }
        if attributes.atomic_aggregate {
            self.put(WELL_KNOWN, table::ATOMIC_AGGREGATE, |_| ());
        }
        if let Some(aggregator) = attributes.aggregator {
            let flags = partial(table::AGGREGATOR);
            self.put(flags, table::AGGREGATOR, |buf| aggregator.encode(dialect.four_octet_as, buf));
        }
        if !attributes.communities.is_empty() {
            self.put(partial(table::COMMUNITIES), table::COMMUNITIES, |buf| {
                attributes.communities.iter().for_each(|it| buf.extend_from_slice(&it.0.to_be_bytes()));
            });
        }
        if let Some(originator) = attributes.originator_id.filter(|_| internal) {
            self.put_u32(OPTIONAL, table::ORIGINATOR_ID, originator.to_bits());
        }
        if internal && !attributes.cluster_list.is_empty() {
            self.put(OPTIONAL, table::CLUSTER_LIST, |buf| {
                attributes.cluster_list.iter().for_each(|it| buf.extend_from_slice(&it.octets()));
            });
        }
        if !attributes.extended_communities.is_empty() {
            self.put(partial(table::EXTENDED_COMMUNITIES), table::EXTENDED_COMMUNITIES, |buf| {
                attributes.extended_communities.iter().for_each(|it| buf.extend_from_slice(&it.0));
            });
        }
    }

    /// What a peer with two-octet numbers cannot read in AS_PATH and AGGREGATOR (RFC 6793 §4.2.2).
    fn four_octet(&mut self, attributes: &Attributes, dialect: &Dialect) {
        if dialect.four_octet_as {
            return;
        }
        if attributes.as_path.asns().iter().any(|asn| is_wide(*asn)) {
            self.put(OPTIONAL_TRANSITIVE, table::AS4_PATH, |buf| attributes.as_path.encode(true, buf));
        }
        if let Some(aggregator) = attributes.aggregator.filter(|aggregator| is_wide(aggregator.asn)) {
            self.put(OPTIONAL_TRANSITIVE, table::AS4_AGGREGATOR, |buf| aggregator.encode(true, buf));
        }
    }

    fn last(&mut self, attributes: &Attributes) {
        let partial = |code| OPTIONAL_TRANSITIVE | partial_flag(attributes, code);
        if !attributes.large_communities.is_empty() {
            self.put(partial(table::LARGE_COMMUNITIES), table::LARGE_COMMUNITIES, |buf| {
                for community in &attributes.large_communities {
                    for part in [community.global, community.local1, community.local2] {
                        buf.extend_from_slice(&part.to_be_bytes());
                    }
                }
            });
        }
        if let Some(asn) = attributes.only_to_customer {
            self.put_u32(partial(table::ONLY_TO_CUSTOMER), table::ONLY_TO_CUSTOMER, asn.0);
        }
        for unknown in &attributes.unknown {
            self.put(OPTIONAL_TRANSITIVE | table::PARTIAL, unknown.code, |buf| {
                buf.extend_from_slice(&unknown.value);
            });
        }
    }
}

const fn partial_flag(attributes: &Attributes, code: u8) -> u8 {
    if attributes.partial.contains(code) { table::PARTIAL } else { 0 }
}

const fn is_wide(asn: Asn) -> bool {
    asn.0 > u16::MAX as u32
}

impl Aggregator {
    fn encode(self, four_octet_as: bool, buf: &mut Vec<u8>) {
        self.asn.encode(four_octet_as, buf);
        buf.extend_from_slice(&self.router.octets());
    }
}

/// Appends one message.
///
/// A [`Message::Update`] becomes as many messages as it needs, none if it is empty. The data of a
/// [`Message::Notification`] is cut to what fits.
///
/// # Errors
/// As [`announce`], or the message does not fit. Nothing of the message is appended then.
pub fn encode(message: &Message, dialect: &Dialect, buf: &mut Vec<u8>) -> Result<(), EncodeError> {
    let start = buf.len();
    let outcome = append(message, dialect, buf);
    if outcome.is_err() {
        buf.truncate(start);
    }
    outcome
}

fn append(message: &Message, dialect: &Dialect, buf: &mut Vec<u8>) -> Result<(), EncodeError> {
    let kind = message.kind();
    let limit = dialect.limit(kind);
    let start = match message {
        Message::Update(update) => return append_update(update, dialect, buf),
        Message::EndOfRib(family) => {
            end_of_rib(*family, buf);
            return Ok(());
        }
        _ => begin(kind, buf),
    };
    match message {
        Message::Open(open) => open.encode(buf)?,
        Message::Notification(notification) => notification.encode(buf, limit.saturating_sub(HEADER_LEN)),
        Message::RouteRefresh(refresh) => refresh.encode(buf),
        Message::Keepalive | Message::Update(_) | Message::EndOfRib(_) => {}
    }
    if buf.len().saturating_sub(start) > limit {
        return Err(EncodeError::MessageTooLarge { kind, limit });
    }
    finish(buf, start);
    Ok(())
}

fn append_update(update: &Update, dialect: &Dialect, buf: &mut Vec<u8>) -> Result<(), EncodeError> {
    let mut withdrawn = update.withdrawn.iter().copied().peekable();
    while withdrawn.peek().is_some() {
        withdraw(&mut withdrawn, dialect, buf);
    }
    for announcement in &update.announced {
        let attributes = EncodedAttributes::new(&announcement.attributes, dialect);
        let mut prefixes = announcement.prefixes.iter().copied().peekable();
        while prefixes.peek().is_some() {
            announce(&attributes, &mut prefixes, dialect, buf)?;
        }
    }
    Ok(())
}

/// Appends one UPDATE that announces as many prefixes as fit, and returns how many those are.
///
/// Takes prefixes for as long as they are of the first one's family; call again while there are more.
/// IPv4 prefixes with an IPv4 next hop go where RFC 4271 has them, all others into MP_REACH_NLRI.
///
/// # Errors
/// The attributes leave no room for a prefix, or their next hop cannot stand with this family. Nothing is
/// appended then and no prefix is taken: the caller must withdraw them.
pub fn announce<I: Iterator<Item = Nlri>>(
    attributes: &EncodedAttributes,
    prefixes: &mut Peekable<I>,
    dialect: &Dialect,
    buf: &mut Vec<u8>,
) -> Result<usize, EncodeError> {
    let Some(first) = prefixes.peek().copied() else { return Ok(0) };
    let family = first.family();
    let form = (family, dialect.paths_out.contains(family));
    let multiprotocol = match (family, attributes.next_hop) {
        (Family::Ipv4Unicast, NextHop::V4(_)) => None,
        (Family::Ipv4Unicast, NextHop::V6 { address, link_local }) if dialect.extended_next_hop => {
            Some((address, link_local))
        }
        (Family::Ipv6Unicast, NextHop::V6 { address, link_local }) => Some((address, link_local)),
        _ => return Err(EncodeError::NextHop { family }),
    };
    let limit = dialect.limit(MessageType::Update);
    let start = begin(MessageType::Update, buf);
    buf.extend_from_slice(&[0, 0]);
    let count = match multiprotocol {
        None => {
            let list = begin_length(buf);
            buf.extend_from_slice(&attributes.octets);
            finish_length(buf, list);
            fill(buf, prefixes, form, room(buf, start, limit))
        }
        Some((address, link_local)) => {
            let list = begin_length(buf);
            let value = begin_multiprotocol(buf, table::MP_REACH_NLRI, family);
            encode_next_hop(address, link_local, buf);
            buf.push(0);
            let count =
                fill(buf, prefixes, form, room(buf, start, limit).saturating_sub(attributes.octets.len()));
            finish_length(buf, value);
            buf.extend_from_slice(&attributes.octets);
            finish_length(buf, list);
            count
        }
    };
    if count == 0 {
        buf.truncate(start);
        return Err(EncodeError::AttributesTooLarge { limit });
    }
    finish(buf, start);
    Ok(count)
}

/// Appends one UPDATE that withdraws as many prefixes as fit, and returns how many those are.
///
/// Takes prefixes for as long as they are of the first one's family; call again while there are more.
pub fn withdraw<I: Iterator<Item = Nlri>>(
    prefixes: &mut Peekable<I>,
    dialect: &Dialect,
    buf: &mut Vec<u8>,
) -> usize {
    let Some(first) = prefixes.peek().copied() else { return 0 };
    let family = first.family();
    let form = (family, dialect.paths_out.contains(family));
    let limit = dialect.limit(MessageType::Update);
    let start = begin(MessageType::Update, buf);
    let count = match family {
        Family::Ipv4Unicast => {
            let field = begin_length(buf);
            // Two octets stay free for the length of the attributes behind.
            let count = fill(buf, prefixes, form, room(buf, start, limit).saturating_sub(2));
            finish_length(buf, field);
            buf.extend_from_slice(&[0, 0]);
            count
        }
        Family::Ipv6Unicast => {
            buf.extend_from_slice(&[0, 0]);
            let list = begin_length(buf);
            let value = begin_multiprotocol(buf, table::MP_UNREACH_NLRI, family);
            let count = fill(buf, prefixes, form, room(buf, start, limit));
            finish_length(buf, value);
            finish_length(buf, list);
            count
        }
    };
    finish(buf, start);
    count
}

/// Appends the UPDATE that says: these were all routes of `family` (RFC 4724 §2).
pub fn end_of_rib(family: Family, buf: &mut Vec<u8>) {
    let start = begin(MessageType::Update, buf);
    match family {
        Family::Ipv4Unicast => buf.extend_from_slice(&[0, 0, 0, 0]),
        Family::Ipv6Unicast => {
            buf.extend_from_slice(&[0, 0, 0, 6, OPTIONAL, table::MP_UNREACH_NLRI, 3]);
            AfiSafi::from(family).encode(buf);
        }
    }
    finish(buf, start);
}

/// Appends prefixes of one family, with or without path identifiers, while they fit into `room` octets; counts them.
fn fill<I: Iterator<Item = Nlri>>(
    buf: &mut Vec<u8>,
    prefixes: &mut Peekable<I>,
    (family, paths): (Family, bool),
    mut room: usize,
) -> usize {
    let mut count: usize = 0;
    while let Some(prefix) =
        prefixes.next_if(|prefix| prefix.family() == family && nlri::encoded_len(*prefix, paths) <= room)
    {
        room = room.saturating_sub(nlri::encoded_len(prefix, paths));
        nlri::encode(prefix, paths, buf);
        count = count.saturating_add(1);
    }
    count
}

/// How many octets the message that began at `start` can still grow.
const fn room(buf: &[u8], start: usize, limit: usize) -> usize {
    limit.saturating_sub(buf.len().saturating_sub(start))
}

/// A router with no other address tells its link-local one twice, which everybody understands: RFC 2545 §3 asks for a
/// global one in the first place.
fn encode_next_hop(address: Ipv6Addr, link_local: Option<Ipv6Addr>, buf: &mut Vec<u8>) {
    let link_local = link_local.or_else(|| address.is_unicast_link_local().then_some(address));
    buf.push(if link_local.is_some() { 32 } else { 16 });
    buf.extend_from_slice(&address.octets());
    if let Some(link_local) = link_local {
        buf.extend_from_slice(&link_local.octets());
    }
}

/// Starts a multiprotocol attribute with its family and returns where its length belongs.
fn begin_multiprotocol(buf: &mut Vec<u8>, code: u8, family: Family) -> usize {
    buf.extend_from_slice(&[OPTIONAL | table::EXTENDED_LENGTH, code]);
    let length = begin_length(buf);
    AfiSafi::from(family).encode(buf);
    length
}

/// Writes a header without its length and returns where the message begins.
fn begin(kind: MessageType, buf: &mut Vec<u8>) -> usize {
    let start = buf.len();
    buf.extend_from_slice(&[0xff; 16]);
    buf.extend_from_slice(&[0, 0, kind.code()]);
    start
}

/// Writes the length of the message that began at `start`.
fn finish(buf: &mut [u8], start: usize) {
    let len = buf.len().saturating_sub(start);
    write_length(buf, start.saturating_add(16), len);
}

/// Leaves room for a length of two octets and returns where that is.
fn begin_length(buf: &mut Vec<u8>) -> usize {
    let at = buf.len();
    buf.extend_from_slice(&[0, 0]);
    at
}

/// Writes the length of all that follows `at`.
fn finish_length(buf: &mut [u8], at: usize) {
    let len = buf.len().saturating_sub(at).saturating_sub(2);
    write_length(buf, at, len);
}

/// Writes a length. The limits of a message keep it within two octets; a list of attributes beyond them is
/// refused before it is sent.
fn write_length(buf: &mut [u8], at: usize, len: usize) {
    let len = u16::try_from(len).unwrap_or(u16::MAX);
    if let Some(octets) = buf.get_mut(at..at.saturating_add(2)) {
        octets.copy_from_slice(&len.to_be_bytes());
    }
}
