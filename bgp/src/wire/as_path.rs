//! AS_PATH: the autonomous systems that a route has crossed (RFC 4271 §4.3 b, RFC 6793).

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use super::reader::Reader;
use crate::prefix::Asn;

const SET: u8 = 1;
const SEQUENCE: u8 = 2;
const CONFED_SEQUENCE: u8 = 3;
const CONFED_SET: u8 = 4;
/// The most systems that one segment can hold.
const LONGEST_SEGMENT: usize = 255;
/// [`Asn::TRANS`] in two octets.
pub(super) const TRANS: u16 = 23456;

/// The path of a route, leftmost the system nearest to us.
///
/// Neighbouring sequences are one sequence: where a sender cuts a long path into segments of 255 says
/// nothing. Sets stay as they came. Confederation segments do not exist here: no session of ours is
/// inside a confederation, so a path with one is malformed (RFC 5065 §5).
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AsPath {
    asns: Vec<Asn>,
    /// Where in `asns` the sets are, ascending; all the rest are sequences.
    sets: Vec<(usize, usize)>,
}

/// A part of an [`AsPath`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment<'a> {
    /// Systems in the order crossed.
    Sequence(&'a [Asn]),
    /// Systems in no order, left by an aggregation.
    Set(&'a [Asn]),
}

impl AsPath {
    /// A path that was crossed in this order; the first one is nearest.
    pub fn sequence(asns: impl IntoIterator<Item = Asn>) -> Self {
        Self { asns: asns.into_iter().collect(), sets: Vec::new() }
    }

    /// The path with `asn` put in front of it `times` times.
    #[must_use]
    pub fn prepended(&self, asn: Asn, times: usize) -> Self {
        let mut asns = Vec::with_capacity(self.asns.len().saturating_add(times));
        asns.extend(std::iter::repeat_n(asn, times));
        asns.extend_from_slice(&self.asns);
        let sets = self.sets.iter().map(|(from, to)| (from.saturating_add(times), to.saturating_add(times)));
        Self { asns, sets: sets.collect() }
    }

    /// The path without the systems that are `unwanted`; a set that is left empty goes.
    #[must_use]
    pub(crate) fn without(&self, unwanted: impl Fn(Asn) -> bool) -> Self {
        let mut path = Self::default();
        for segment in self.segments() {
            let from = path.asns.len();
            let (Segment::Sequence(asns) | Segment::Set(asns)) = segment;
            path.asns.extend(asns.iter().copied().filter(|asn| !unwanted(*asn)));
            if matches!(segment, Segment::Set(_)) && path.asns.len() > from {
                path.sets.push((from, path.asns.len()));
            }
        }
        path
    }

    /// Reads the value of AS_PATH; `None` if a segment is of a wrong type, empty or cut short, or if a
    /// system is 0 (RFC 7606 §7.2, RFC 7607 §2).
    pub(super) fn decode(value: &[u8], four_octet_as: bool) -> Option<Self> {
        let mut reader = Reader::new(value);
        let mut path = Self::default();
        let width = if four_octet_as { 4 } else { 2 };
        path.asns.reserve(value.len().div_ceil(width));
        while !reader.is_empty() {
            let kind = reader.u8()?;
            let asns = reader.take_segment(width)?;
            path.push(kind, asns, width)?;
        }
        (!path.contains(Asn(0))).then_some(path)
    }

    /// Reads the value of AS4_PATH, where confederation segments are skipped (RFC 6793 §6).
    pub(super) fn decode_as4(value: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(value);
        let mut path = Self::default();
        while !reader.is_empty() {
            let kind = reader.u8()?;
            let asns = reader.take_segment(4)?;
            if !matches!(kind, CONFED_SEQUENCE | CONFED_SET) {
                path.push(kind, asns, 4)?;
            }
        }
        (!path.contains(Asn(0))).then_some(path)
    }

    fn push(&mut self, kind: u8, asns: &[u8], width: usize) -> Option<()> {
        let from = self.asns.len();
        if width == 4 {
            let (asns, _) = asns.as_chunks::<4>();
            self.asns.extend(asns.iter().map(|asn| Asn(u32::from_be_bytes(*asn))));
        } else {
            let (asns, _) = asns.as_chunks::<2>();
            self.asns.extend(asns.iter().map(|asn| Asn(u32::from(u16::from_be_bytes(*asn)))));
        }
        match kind {
            SEQUENCE => {}
            SET => self.sets.push((from, self.asns.len())),
            _ => return None,
        }
        Some(())
    }

    /// Writes the value of AS_PATH. Without four-octet numbers, what does not fit becomes AS_TRANS.
    pub(super) fn encode(&self, four_octet_as: bool, value: &mut Vec<u8>) {
        for segment in self.segments() {
            let (kind, asns) = match segment {
                Segment::Sequence(asns) => (SEQUENCE, asns),
                Segment::Set(asns) => (SET, asns),
            };
            for chunk in asns.chunks(LONGEST_SEGMENT) {
                // A chunk is never longer than what one octet can count.
                value.extend_from_slice(&[kind, u8::try_from(chunk.len()).unwrap_or(u8::MAX)]);
                chunk.iter().for_each(|asn| asn.encode(four_octet_as, value));
            }
        }
    }

    /// The path of a sender with two-octet numbers, its tail replaced by the four-octet path beside it;
    /// unless that one is the longer, which is nonsense (RFC 6793 §4.2.3).
    #[must_use]
    pub(super) fn with_four_octet_tail(&self, wide: &Self) -> Self {
        let Some(mut lead) = self.hops().checked_sub(wide.hops()) else { return self.clone() };
        let mut path = Self::default();
        for segment in self.segments() {
            if lead == 0 {
                break;
            }
            match segment {
                Segment::Sequence(asns) => {
                    let taken = asns.get(..lead).unwrap_or(asns);
                    path.asns.extend_from_slice(taken);
                    lead = lead.saturating_sub(taken.len());
                }
                Segment::Set(asns) => {
                    path.append_set(asns);
                    lead = lead.saturating_sub(1);
                }
            }
        }
        for segment in wide.segments() {
            match segment {
                Segment::Sequence(asns) => path.asns.extend_from_slice(asns),
                Segment::Set(asns) => path.append_set(asns),
            }
        }
        path
    }

    fn append_set(&mut self, asns: &[Asn]) {
        let from = self.asns.len();
        self.asns.extend_from_slice(asns);
        self.sets.push((from, self.asns.len()));
    }

    /// Every system named, sets included, from the left.
    pub fn asns(&self) -> &[Asn] {
        &self.asns
    }

    /// Whether the route was made inside the sender's own system.
    pub fn is_empty(&self) -> bool {
        self.asns.is_empty()
    }

    /// The length as the decision process counts it: a set is one hop (RFC 4271 §9.1.2.2 a).
    pub fn hops(&self) -> usize {
        let in_sets: usize = self.sets.iter().map(|(from, to)| to.saturating_sub(*from)).sum();
        self.asns.len().saturating_sub(in_sets).saturating_add(self.sets.len())
    }

    /// Whether `asn` is named anywhere: for the loop check of RFC 4271 §9.1.2.
    pub fn contains(&self, asn: Asn) -> bool {
        self.asns.contains(&asn)
    }

    /// The system from which the route came to us, unless the path is empty or begins with a set.
    pub fn first(&self) -> Option<Asn> {
        match self.segments().next()? {
            Segment::Sequence(asns) => asns.first().copied(),
            Segment::Set(_) => None,
        }
    }

    /// The system that made the route, unless the path is empty or ends with a set.
    pub fn origin(&self) -> Option<Asn> {
        match self.segments().last()? {
            Segment::Sequence(asns) => asns.last().copied(),
            Segment::Set(_) => None,
        }
    }

    /// The parts of the path from the left. No part is empty.
    pub fn segments(&self) -> impl Iterator<Item = Segment<'_>> {
        let mut sets = self.sets.iter().peekable();
        let mut at = 0;
        std::iter::from_fn(move || {
            let (range, is_set) = match sets.peek() {
                Some((from, to)) if *from == at => {
                    sets.next();
                    (at..*to, true)
                }
                Some((from, _)) => (at..*from, false),
                None if at < self.asns.len() => (at..self.asns.len(), false),
                None => return None,
            };
            at = range.end;
            self.part(range, is_set)
        })
    }

    fn part(&self, range: Range<usize>, is_set: bool) -> Option<Segment<'_>> {
        let asns = self.asns.get(range)?;
        Some(if is_set { Segment::Set(asns) } else { Segment::Sequence(asns) })
    }
}

impl<'a> Reader<'a> {
    /// Takes the systems of one segment behind their count; an empty segment is a fault.
    fn take_segment(&mut self, width: usize) -> Option<&'a [u8]> {
        let count = usize::from(self.u8()?);
        if count == 0 { None } else { self.take(count.saturating_mul(width)) }
    }
}

impl Asn {
    /// Writes the number in two or four octets; AS_TRANS where two are too few (RFC 6793 §4.2.2).
    pub(super) fn encode(self, four_octet_as: bool, buf: &mut Vec<u8>) {
        if four_octet_as {
            buf.extend_from_slice(&self.0.to_be_bytes());
        } else {
            buf.extend_from_slice(&u16::try_from(self.0).unwrap_or(TRANS).to_be_bytes());
        }
    }
}

impl FromIterator<Asn> for AsPath {
    fn from_iter<I: IntoIterator<Item = Asn>>(asns: I) -> Self {
        Self::sequence(asns)
    }
}

impl FromStr for AsPath {
    type Err = AsPathParseError;

    /// Reads what Display writes: `65000 64512 {1,2}`.
    fn from_str(text: &str) -> Result<Self, AsPathParseError> {
        let wrong = || AsPathParseError(text.to_owned());
        let asn = |number: &str| number.parse().ok().filter(|n| *n != 0).map(Asn).ok_or_else(wrong);
        let mut path = Self::default();
        for part in text.split_whitespace() {
            let members = part.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
            match members {
                Some(members) => {
                    let members = members.split(',').map(asn).collect::<Result<Vec<_>, _>>()?;
                    if members.len() > LONGEST_SEGMENT {
                        return Err(wrong());
                    }
                    path.append_set(&members);
                }
                None => path.asns.push(asn(part)?),
            }
        }
        Ok(path)
    }
}

/// A text is not a path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an AS path such as 65000 64512 {{1,2}}")]
pub struct AsPathParseError(String);

impl fmt::Display for AsPath {
    /// As operators write it: `65000 64512 {1,2}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for segment in self.segments() {
            match segment {
                Segment::Sequence(asns) => {
                    for asn in asns {
                        write!(f, "{separator}{asn}")?;
                        separator = " ";
                    }
                }
                Segment::Set(asns) => {
                    let members: Vec<String> = asns.iter().map(Asn::to_string).collect();
                    write!(f, "{separator}{{{}}}", members.join(","))?;
                    separator = " ";
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{self}]")
    }
}
