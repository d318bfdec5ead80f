//! UPDATE: routes announced and withdrawn (RFC 4271 §4.3, RFC 4760, RFC 7606).
//!
//! The fields that hold prefixes are found by their lengths before any attribute is judged, so that a bad
//! attribute can never shift what is read as a prefix. Next read: `judge`.

use super::Dialect;
use super::attribute::{Attributes, NextHop};
use super::error::{Action, AttributeFault, FaultKind, FrameError};
use super::framer::Frame;
use super::judge::{self, Faults, Judged};
use super::nlri::{self, Nlri};
use super::reader::Reader;
use super::table;
use crate::prefix::Family;

/// What an UPDATE means, after RFC 7606 was applied to it.
///
/// Withdrawals count before announcements: a prefix that is in both is announced (RFC 4271 §4.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Prefixes that are no longer reachable, of both families, those of the routes treated as withdrawn
    /// included.
    pub withdrawn: Vec<Nlri>,
    /// Prefixes that are reachable, with their attributes. Two entries exist only when a message carries
    /// classic NLRI beside MP_REACH_NLRI, each with its own next hop.
    pub announced: Vec<Announcement>,
}

/// Prefixes that share their attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// What is said about all of them.
    pub attributes: Attributes,
    /// The prefixes, all of one family, in the order of the message; at least one.
    pub prefixes: Vec<Nlri>,
}

impl Announcement {
    /// Prefixes, with path identifiers or without, that share these attributes.
    pub fn new<P: Into<Nlri>>(attributes: Attributes, prefixes: impl IntoIterator<Item = P>) -> Self {
        Self { attributes, prefixes: prefixes.into_iter().map(Into::into).collect() }
    }
}

impl Update {
    /// An UPDATE that only withdraws.
    pub fn withdrawal<P: Into<Nlri>>(prefixes: impl IntoIterator<Item = P>) -> Self {
        Self { withdrawn: prefixes.into_iter().map(Into::into).collect(), announced: Vec::new() }
    }
}

impl From<Announcement> for Update {
    fn from(announcement: Announcement) -> Self {
        Self { withdrawn: Vec::new(), announced: vec![announcement] }
    }
}

/// What an UPDATE turned out to be.
#[derive(Debug)]
pub(super) enum Decoded {
    /// Routes, and what was wrong with them.
    Update(Update, Vec<AttributeFault>),
    /// The mark behind the last route of a family (RFC 4724 §2).
    EndOfRib(Family),
}

/// The three fields of an UPDATE.
struct Fields<'a> {
    withdrawn: &'a [u8],
    attributes: &'a [u8],
    nlri: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Cuts the body by the two lengths in it.
    fn cut(body: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(body);
        let withdrawn = reader.counted_u16()?;
        let attributes = reader.counted_u16()?;
        Some(Self { withdrawn, attributes, nlri: reader.take_rest() })
    }

    /// The family whose end a message without a single route marks.
    fn end_of_rib(&self, judged: &Judged<'_>) -> Option<Family> {
        if !self.withdrawn.is_empty() || !self.nlri.is_empty() || !judged.faults.is_empty() {
            return None;
        }
        if self.attributes.is_empty() {
            return Some(Family::Ipv4Unicast);
        }
        judged
            .unreach
            .filter(|unreach| unreach.nlri.is_empty() && judged.saw_only_unreach())
            .map(|it| it.family)
    }
}

/// The prefixes of a message by the field that they were in.
#[derive(Default)]
struct Routes {
    withdrawn: Vec<Nlri>,
    classic: Vec<Nlri>,
    multiprotocol: Vec<Nlri>,
}

/// Reads an UPDATE and carries out what its faults cost.
pub(super) fn decode(frame: Frame<'_>, dialect: &Dialect) -> Result<Decoded, FrameError> {
    let fields = Fields::cut(frame.body()).ok_or(FrameError::AttributeList)?;
    let mut routes = Routes::default();
    let paths = dialect.paths_in.contains(Family::Ipv4Unicast);
    nlri::decode(fields.withdrawn, Family::Ipv4Unicast, paths, &mut routes.withdrawn)
        .ok_or(FrameError::Network("withdrawn routes"))?;
    nlri::decode(fields.nlri, Family::Ipv4Unicast, paths, &mut routes.classic)
        .ok_or(FrameError::Network("announced routes"))?;
    let mut judged = judge::judge(fields.attributes, dialect);
    if let Some(family) = fields.end_of_rib(&judged).filter(|family| dialect.families.contains(*family)) {
        return Ok(Decoded::EndOfRib(family));
    }
    if !dialect.families.contains(Family::Ipv4Unicast) {
        routes.withdrawn.clear();
        routes.classic.clear();
    }
    routes.read_multiprotocol(&mut judged, dialect);
    routes.find_missing(&mut judged);
    reset_if_needed(&judged, !fields.nlri.is_empty())?;
    routes.drop_disabled(&judged.faults);
    Ok(routes.into_update(judged))
}

impl Routes {
    /// Reads the prefixes of the multiprotocol attributes; where they do not parse, the family goes.
    fn read_multiprotocol(&mut self, judged: &mut Judged<'_>, dialect: &Dialect) {
        let broken = |code, family, octets: &[u8]| AttributeFault {
            code,
            kind: FaultKind::Value,
            action: Action::DisableFamily,
            family: Some(family),
            bytes: octets.into(),
        };
        let paths = |family| dialect.paths_in.contains(family);
        if let Some(unreach) = judged.unreach
            && nlri::decode(unreach.nlri, unreach.family, paths(unreach.family), &mut self.withdrawn)
                .is_none()
        {
            judged.faults.push(broken(table::MP_UNREACH_NLRI, unreach.family, unreach.octets));
        }
        if let Some(reach) = judged.reach
            && nlri::decode(reach.nlri, reach.family, paths(reach.family), &mut self.multiprotocol).is_none()
        {
            judged.faults.push(broken(table::MP_REACH_NLRI, reach.family, reach.octets));
        }
    }

    /// Looks for mandatory attributes, which only announced routes need (RFC 7606 §3 d), and judges the
    /// next hop where it is used.
    fn find_missing(&self, judged: &mut Judged<'_>) {
        let fault = |code, kind| AttributeFault {
            code,
            kind,
            action: Action::TreatAsWithdraw,
            family: None,
            bytes: Box::default(),
        };
        if self.classic.is_empty() && self.multiprotocol.is_empty() {
            return;
        }
        for code in [table::ORIGIN, table::AS_PATH] {
            if !judged.saw(code) {
                judged.faults.push(fault(code, FaultKind::Missing));
            }
        }
        if self.classic.is_empty() {
            return;
        }
        match judged.next_hop.map(NextHop::V4) {
            // What was there but could not be read has been judged already.
            None if judged.saw(table::NEXT_HOP) => {}
            None => judged.faults.push(fault(table::NEXT_HOP, FaultKind::Missing)),
            Some(next_hop) if judge::is_host(next_hop) => judged.attributes.next_hop = next_hop,
            Some(_) => judged.faults.push(fault(table::NEXT_HOP, FaultKind::Value)),
        }
    }

    /// Takes out the routes of families that are to be ignored from here on.
    fn drop_disabled(&mut self, faults: &Faults) {
        for family in Family::ALL.into_iter().filter(|family| faults.disable(*family)) {
            for prefixes in [&mut self.withdrawn, &mut self.classic, &mut self.multiprotocol] {
                prefixes.retain(|prefix| prefix.family() != family);
            }
        }
    }

    /// Puts routes and attributes together, or counts all routes as withdrawn.
    fn into_update(mut self, judged: Judged<'_>) -> Decoded {
        let Judged { attributes, reach, faults, .. } = judged;
        let mut update = Update { withdrawn: self.withdrawn, announced: Vec::new() };
        if faults.first(Action::TreatAsWithdraw).is_some() {
            update.withdrawn.append(&mut self.classic);
            update.withdrawn.append(&mut self.multiprotocol);
        }
        let multiprotocol = reach.filter(|_| !self.multiprotocol.is_empty()).map(|reach| reach.next_hop);
        let announcement = |attributes: Attributes, prefixes| Announcement { attributes, prefixes };
        let with = |next_hop: NextHop, attributes: Attributes| Attributes { next_hop, ..attributes };
        match (self.classic.is_empty(), multiprotocol) {
            (true, None) => {}
            (true, Some(next_hop)) => {
                update.announced.push(announcement(with(next_hop, attributes), self.multiprotocol));
            }
            (false, None) => update.announced.push(announcement(attributes, self.classic)),
            (false, Some(next_hop)) => {
                update.announced.push(announcement(attributes.clone(), self.classic));
                update.announced.push(announcement(with(next_hop, attributes), self.multiprotocol));
            }
        }
        Decoded::Update(update, faults.into_vec())
    }
}

/// Ends the session for a fault that costs it, and for one that would withdraw routes of which none were
/// found: then it cannot be trusted that there were none (RFC 7606 §5.2).
fn reset_if_needed(judged: &Judged<'_>, classic: bool) -> Result<(), FrameError> {
    if let Some(fault) = judged.faults.first(Action::Reset) {
        return Err(FrameError::Attribute(Box::new(fault.clone())));
    }
    if classic || judged.reachable || !judged.saw_more_than_unreach() {
        return Ok(());
    }
    match judged.faults.first(Action::TreatAsWithdraw) {
        Some(fault) => {
            let fault = AttributeFault { action: Action::Reset, ..fault.clone() };
            Err(FrameError::Attribute(Box::new(fault)))
        }
        None => Ok(()),
    }
}
