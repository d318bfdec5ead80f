//! The rules of a table of legacy iptables as steps that a packet goes through.

use std::collections::BTreeMap;

use crate::passage::{Family, Field, Step, Table, Verdict};

use super::{
    ACCEPT, CHAINS, DROP, Entry, FORWARD, INVERTED_DESTINATION, INVERTED_PROTOCOL, INVERTED_SOURCE, Match,
    REJECT, RETURN, Walk, number, short,
};

/// Octets of a link's name.
const LINK_NAME: usize = 16;
const INVERTED_IN_LINK: u8 = 0x01;
const INVERTED_OUT_LINK: u8 = 0x02;
/// Inversions that have a step here.
const UNDERSTOOD: u8 =
    INVERTED_IN_LINK | INVERTED_OUT_LINK | INVERTED_SOURCE | INVERTED_DESTINATION | INVERTED_PROTOCOL;
/// `IPT_F_FRAG`: only later fragments. IPv6 has `IP6T_F_PROTO` in its place.
const FRAGMENTS: u8 = 0x01;
/// `IPT_F_GOTO` and `IP6T_F_GOTO`.
const GOTO_V4: u8 = 0x02;
const GOTO_V6: u8 = 0x04;
/// `XT_CONNTRACK_STATE` of `struct xt_conntrack_mtinfo3`, and where that has flags, inversions and states.
const CONNTRACK_STATE: usize = 1;
const CONNTRACK_FLAGS: usize = 146;
/// Targets after which the next rule comes.
const PASSING: [&str; 16] = [
    "AUDIT",
    "CHECKSUM",
    "CLASSIFY",
    "CONNMARK",
    "CONNSECMARK",
    "CT",
    "DSCP",
    "HL",
    "LOG",
    "NFLOG",
    "NOTRACK",
    "SECMARK",
    "SET",
    "TCPMSS",
    "TOS",
    "TRACE",
];

impl<'a> Walk<'a> {
    /// The table as packets see it that are forwarded; `None` if they do not.
    pub(super) fn forwarding(&self) -> Option<Table> {
        if !self.has(FORWARD) {
            return None;
        }
        let entries = self.all();
        // A rule that leads to another chain names the place of the first of its rules.
        let mut starts: BTreeMap<usize, &str> = BTreeMap::new();
        let mut chains: BTreeMap<String, Vec<Vec<Step>>> = BTreeMap::new();
        let mut drops = false;
        for entry in &entries {
            if !chains.contains_key(&entry.chain) {
                starts.insert(entry.at, &entry.chain);
                chains.insert(entry.chain.clone(), Vec::new());
            }
            if entry.line.is_none() && entry.chain == CHAINS[FORWARD] {
                drops = entry.verdict() == Some(DROP);
            }
        }
        for entry in entries.iter().filter(|entry| entry.line.is_some()) {
            let mut steps = self.steps(entry);
            steps.push(Step::Decide(self.decision(entry, &starts)));
            chains.entry(entry.chain.clone()).or_default().push(steps);
        }
        let family = if self.ipv6 { Family::Ip6 } else { Family::Ip };
        let bases = [(CHAINS[FORWARD].to_owned(), drops)].into();
        Some(Table { family, name: self.table.to_owned(), bases, chains, sets: BTreeMap::new() })
    }

    /// What a rule decides for packets that fit.
    fn decision(&self, entry: &Entry<'a>, starts: &BTreeMap<usize, &str>) -> Verdict {
        let flags = entry.octets.get(self.places().flags).copied().unwrap_or_default();
        let goes_on = flags & if self.ipv6 { GOTO_V6 } else { GOTO_V4 } != 0;
        match (entry.target.as_str(), entry.verdict()) {
            ("", Some(ACCEPT)) => Verdict::Accept,
            ("", Some(DROP)) | (REJECT, _) => Verdict::Drop,
            ("", Some(RETURN)) => Verdict::Return,
            ("", Some(place)) => {
                let place = usize::try_from(place).ok();
                // A rule without a target leads to the next one.
                if place == Some(entry.at + entry.octets.len()) {
                    return Verdict::Continue;
                }
                match place.and_then(|place| starts.get(&place)) {
                    Some(chain) if goes_on => Verdict::Goto((*chain).to_owned()),
                    Some(chain) => Verdict::Jump((*chain).to_owned()),
                    None => Verdict::Other,
                }
            }
            (name, _) if PASSING.contains(&name) => Verdict::Continue,
            _ => Verdict::Other,
        }
    }

    /// What must hold for a rule to fit.
    fn steps(&self, entry: &Entry<'a>) -> Vec<Step> {
        let places = self.places();
        let at = |place: usize, length: usize| entry.octets.get(place..place + length).unwrap_or_default();
        let inversions = at(places.inverted, 1).first().copied().unwrap_or(u8::MAX);
        let flags = at(places.flags, 1).first().copied().unwrap_or(u8::MAX);
        let mut steps = Vec::new();
        if inversions & !UNDERSTOOD != 0 || (!self.ipv6 && flags & FRAGMENTS != 0) {
            steps.push(Step::Unknown);
        }
        let mut is = |field: Field, octets: &[u8], mask: &[u8], inverted: u8| {
            if mask.iter().any(|octet| *octet != 0) {
                let masked = octets.iter().zip(mask).map(|(octet, mask)| octet & mask).collect();
                steps.extend([
                    Step::Load(0, field),
                    Step::Bits { from: 0, to: 0, mask: mask.to_vec(), turn: vec![0; mask.len()] },
                    Step::Is { register: 0, octets: masked, holds: inversions & inverted == 0 },
                ]);
            }
        };
        let length = places.address;
        let header = if self.ipv6 { 8 } else { 12 };
        is(Field::Network(header, length), at(0, length), at(2 * length, length), INVERTED_SOURCE);
        is(
            Field::Network(header + length, length),
            at(length, length),
            at(3 * length, length),
            INVERTED_DESTINATION,
        );
        let link = |number: usize| at(4 * length + number * LINK_NAME, LINK_NAME);
        is(Field::InLink, link(0), link(2), INVERTED_IN_LINK);
        is(Field::OutLink, link(1), link(3), INVERTED_OUT_LINK);
        match short(entry.octets, places.protocol).map(u8::try_from) {
            Some(Ok(0)) => {}
            Some(Ok(protocol)) => is(Field::Protocol, &[protocol], &[u8::MAX], INVERTED_PROTOCOL),
            _ => steps.push(Step::Unknown),
        }
        steps.extend(self.matches(entry.octets).iter().map(step));
        steps
    }
}

/// A match as a step.
fn step(one: &Match<'_>) -> Step {
    match (one.name.as_str(), one.revision) {
        ("comment", _) => Step::Nothing,
        ("state", 0) => number(one.data, 0)
            .and_then(|states| u16::try_from(states).ok())
            .map_or(Step::Unknown, |states| Step::State(states, true)),
        ("conntrack", 2 | 3) => states(one.data).unwrap_or(Step::Unknown),
        ("mark", 1) => marks(one.data).unwrap_or(Step::Unknown),
        _ => Step::Unknown,
    }
}

/// `struct xt_conntrack_mtinfo3` where it asks for nothing but the state.
fn states(data: &[u8]) -> Option<Step> {
    let [flags, inverted, states] = [0, 2, 4].map(|place| short(data, CONNTRACK_FLAGS + place));
    let states = u16::try_from(states?).ok()?;
    (flags? == CONNTRACK_STATE).then(|| Some(Step::State(states, inverted? & CONNTRACK_STATE == 0)))?
}

/// `struct xt_mark_mtinfo1`.
fn marks(data: &[u8]) -> Option<Step> {
    Some(Step::Mark(number(data, 0)?, *data.get(8)? == 0))
}
