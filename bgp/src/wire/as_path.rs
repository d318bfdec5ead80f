//! AS_PATH: the autonomous systems that a route has crossed (RFC 4271 §4.3 b, RFC 6793).

use std::fmt;
use std::ops::Range;

use crate::prefix::Asn;

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

    /// Appends a sequence.
    pub(super) fn push_sequence(&mut self, asns: impl Iterator<Item = Asn>) {
        self.asns.extend(asns);
    }

    /// Appends a set.
    pub(super) fn push_set(&mut self, asns: impl Iterator<Item = Asn>) {
        let from = self.asns.len();
        self.asns.extend(asns);
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

impl FromIterator<Asn> for AsPath {
    fn from_iter<I: IntoIterator<Item = Asn>>(asns: I) -> Self {
        Self::sequence(asns)
    }
}

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
