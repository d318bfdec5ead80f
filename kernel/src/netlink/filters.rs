//! Reads what nf_tables does with packets that pass through: tables with a base chain at the hook `forward`, as
//! [`crate::passage`] looks at them. Rules of iptables are there too, unless they are of its older kind.

use std::collections::{BTreeMap, BTreeSet};

use nix::libc;

use crate::passage::{Element, Family, Field, Step, Table, Verdict};

use super::expression::{
    NFT_CMP_EQ, NFT_CMP_NEQ, NFT_PAYLOAD_NETWORK_HEADER, NFTA_DATA_VERDICT, NFTA_EXPR_NAME, NFTA_VERDICT_CODE,
};
use super::nftables::{self, BODY, NFTA_DATA_VALUE, NFTA_EXPR_DATA, TableFamily};
use super::request::{attribute, attributes, read_str};
use super::socket::{Socket, SocketError};

/// Rules of a table that are read; of a table with more nothing is known.
const MOST_RULES: usize = 100_000;
/// Elements of a set that are read; of a set with more nothing is known.
const MOST_ELEMENTS: usize = 20_000;
const BUFFER_OCTETS: usize = 4 << 20;

const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_SET_ELEM_KEY_END: u16 = 10;
const NFT_SET_ELEM_CATCHALL: u32 = 2;
const NFTA_VERDICT_CHAIN: u16 = 2;
const NFT_CT_STATE: u32 = 0;
const NFT_CT_STATUS: u32 = 2;
/// Octets of a register of the kind that has 16.
const WORDS: usize = 4;
const FIRST_WORD: usize = 8;

/// The tables that see packets which pass through, in the network namespace of this thread; ours is left out.
///
/// # Errors
///
/// When the kernel cannot be asked.
pub fn forwarding() -> Result<Vec<Table>, SocketError> {
    let mut socket = Socket::netfilter()?;
    socket.enlarge_buffers(BUFFER_OCTETS);
    let mut tables = Vec::new();
    let families =
        [(TableFamily::Ip, Family::Ip), (TableFamily::Ip6, Family::Ip6), (TableFamily::Inet, Family::Inet)];
    for (asked, family) in families {
        for mut table in with_chains(&mut socket, asked, family)? {
            let name = table.name.clone();
            let of = nftables::Table { family: asked, name: &name };
            rules(&mut socket, of, &mut table.chains)?;
            follow(&mut socket, of, &mut table)?;
            tables.push(table);
        }
    }
    Ok(tables)
}

/// The tables of a family with base chains at the hook, and whether these drop what they do not decide. All chains are
/// there, without their rules.
fn with_chains(socket: &mut Socket, asked: TableFamily, family: Family) -> Result<Vec<Table>, SocketError> {
    let any = nftables::Table { family: asked, name: "" };
    let mut found: BTreeMap<String, Table> = BTreeMap::new();
    for chain in socket.dump(&mut nftables::get_chains(any))?.iter() {
        let of_kind = |wanted| chain.attribute(BODY, wanted);
        let name = of_kind(nftables::NFTA_CHAIN_NAME).map(read_str);
        let (Some(table), Some(name)) = (nftables::table_of(&chain), name) else { continue };
        let table = found.entry(table).or_insert_with_key(|table| Table {
            family,
            name: table.clone(),
            bases: BTreeMap::new(),
            chains: BTreeMap::new(),
            sets: BTreeMap::new(),
        });
        let hook = of_kind(nftables::NFTA_CHAIN_HOOK);
        if hook.and_then(|hook| number(hook, nftables::NFTA_HOOK_HOOKNUM))
            == Some(libc::NF_INET_FORWARD as u32)
        {
            let drops = of_kind(nftables::NFTA_CHAIN_POLICY).and_then(big) == Some(libc::NF_DROP as u32);
            table.bases.insert(name.clone(), drops);
        }
        table.chains.entry(name).or_default();
    }
    let sees = |table: &Table| !table.bases.is_empty() && table.name != super::guard::TABLE.name;
    Ok(found.into_values().filter(sees).collect())
}

/// Reads the rules of all chains of a table, in their order; of a table with too many, nothing is known.
fn rules(
    socket: &mut Socket,
    table: nftables::Table<'_>,
    chains: &mut BTreeMap<String, Vec<Vec<Step>>>,
) -> Result<(), SocketError> {
    let mut count = 0;
    socket.visit(&mut nftables::get_rules(table), |rule| {
        let of_kind = |wanted| rule.attribute(BODY, wanted);
        let Some(chain) = of_kind(nftables::NFTA_RULE_CHAIN).map(read_str) else { return };
        count += 1;
        if count <= MOST_RULES && nftables::table_of(rule).as_deref() == Some(table.name) {
            let steps = attributes(of_kind(nftables::NFTA_RULE_EXPRESSIONS).unwrap_or_default());
            chains.entry(chain).or_default().push(steps.map(|(_, expression)| step(expression)).collect());
        }
    })?;
    if count > MOST_RULES {
        chains.clear();
    }
    Ok(())
}

/// Reads the sets that rules on the way ask, and forgets chains that are not on it.
fn follow(socket: &mut Socket, of: nftables::Table<'_>, table: &mut Table) -> Result<(), SocketError> {
    let mut due: Vec<String> = table.bases.keys().cloned().collect();
    let mut known: BTreeSet<String> = BTreeSet::new();
    let mut asked: BTreeSet<String> = BTreeSet::new();
    while let Some(chain) = due.pop() {
        if !known.insert(chain.clone()) {
            continue;
        }
        for step in table.chains.get(&chain).into_iter().flatten().flatten() {
            match step {
                Step::Decide(Verdict::Jump(other) | Verdict::Goto(other)) => due.push(other.clone()),
                Step::In { set, .. } if asked.insert(set.clone()) => {
                    let Some(elements) = elements(socket, of, set)? else { continue };
                    due.extend(elements.iter().filter_map(|element| match &element.verdict {
                        Some(Verdict::Jump(other) | Verdict::Goto(other)) => Some(other.clone()),
                        _ => None,
                    }));
                    table.sets.insert(set.clone(), elements);
                }
                _ => {}
            }
        }
    }
    table.chains.retain(|name, _| known.contains(name));
    Ok(())
}

/// What a set holds; `None` if that is too much, or of a kind that is not understood.
fn elements(
    socket: &mut Socket,
    table: nftables::Table<'_>,
    set: &str,
) -> Result<Option<Vec<Element>>, SocketError> {
    let mut found: Vec<Element> = Vec::new();
    let mut understood = true;
    socket.visit(&mut nftables::get_elements(table, set), |message| {
        let lists = message.attributes(BODY);
        let lists = lists.filter(|(kind, _)| *kind == nftables::NFTA_SET_ELEM_LIST_ELEMENTS);
        for (_, value) in lists.flat_map(|(_, list)| attributes(list)) {
            match element(value).filter(|_| found.len() < MOST_ELEMENTS) {
                Some(element) => found.push(element),
                None => understood = false,
            }
        }
    })?;
    let ranges = found.iter().any(|element| element.end);
    for element in &mut found {
        element.range = ranges;
    }
    Ok(understood.then_some(found))
}

fn element(value: &[u8]) -> Option<Element> {
    let mut element = Element { key: Vec::new(), end: false, range: false, verdict: None };
    for (kind, value) in attributes(value) {
        match kind {
            nftables::NFTA_SET_ELEM_KEY => element.key = data(value)?.to_vec(),
            nftables::NFTA_SET_ELEM_FLAGS => {
                let flags = big(value)?;
                element.end = flags & nftables::NFT_SET_ELEM_INTERVAL_END != 0;
                (flags & NFT_SET_ELEM_CATCHALL == 0).then_some(())?;
            }
            NFTA_SET_ELEM_DATA => {
                let found = attribute(value, NFTA_DATA_VERDICT);
                element.verdict = Some(found.map_or(Verdict::Other, verdict));
            }
            NFTA_SET_ELEM_KEY_END => return None,
            _ => {}
        }
    }
    Some(element)
}

/// A number in network byte order.
fn big(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|octets| u32::from_be_bytes(*octets))
}

fn number(within: &[u8], wanted: u16) -> Option<u32> {
    attribute(within, wanted).and_then(big)
}

fn data(value: &[u8]) -> Option<&[u8]> {
    attribute(value, NFTA_DATA_VALUE)
}

/// A register as its first word.
fn register(within: &[u8], wanted: u16) -> Option<usize> {
    let number = usize::try_from(number(within, wanted)?).ok()?;
    match number {
        1..=4 => Some(number * WORDS),
        other => other.checked_sub(FIRST_WORD).map(|word| word + WORDS),
    }
}

fn verdict(value: &[u8]) -> Verdict {
    let chain = attribute(value, NFTA_VERDICT_CHAIN).map(read_str).unwrap_or_default();
    match number(value, NFTA_VERDICT_CODE).map(u32::cast_signed) {
        Some(libc::NF_DROP) => Verdict::Drop,
        Some(libc::NF_ACCEPT) => Verdict::Accept,
        Some(-1) => Verdict::Continue,
        Some(-3) => Verdict::Jump(chain),
        Some(-4) => Verdict::Goto(chain),
        Some(-5) => Verdict::Return,
        _ => Verdict::Other,
    }
}

/// One expression of a rule.
fn step(expression: &[u8]) -> Step {
    let mut name = String::new();
    let mut inside: &[u8] = &[];
    for (kind, value) in attributes(expression) {
        match kind {
            NFTA_EXPR_NAME => name = read_str(value),
            NFTA_EXPR_DATA => inside = value,
            _ => {}
        }
    }
    let step = match name.as_str() {
        "payload" => payload(inside),
        "meta" => meta(inside),
        "ct" => tracked(inside),
        "cmp" => compare(inside),
        "bitwise" => bits(inside),
        "lookup" => lookup(inside),
        "immediate" => immediate(inside),
        "match" => matched(inside),
        "target" => target(inside),
        "reject" => Some(Step::Decide(Verdict::Drop)),
        "counter" | "log" | "notrack" | "flow_offload" | "last" => Some(Step::Nothing),
        _ => None,
    };
    step.unwrap_or(Step::Unknown)
}

fn payload(inside: &[u8]) -> Option<Step> {
    let Some(to) = register(inside, 1) else { return Some(Step::Nothing) };
    let [base, offset, length] = [number(inside, 2)?, number(inside, 3)?, number(inside, 4)?];
    let (offset, length) = (usize::try_from(offset).ok()?, usize::try_from(length).ok()?);
    Some(Step::Load(
        to,
        match base {
            NFT_PAYLOAD_NETWORK_HEADER => Field::Network(offset, length),
            _ => Field::Unknown(length),
        },
    ))
}

fn meta(inside: &[u8]) -> Option<Step> {
    let Some(to) = register(inside, 1) else { return Some(Step::Nothing) };
    Some(Step::Load(
        to,
        match number(inside, 2)?.cast_signed() {
            libc::NFT_META_IIFNAME => Field::InLink,
            libc::NFT_META_OIFNAME => Field::OutLink,
            libc::NFT_META_L4PROTO => Field::Protocol,
            libc::NFT_META_NFPROTO => Field::Family,
            libc::NFT_META_MARK => Field::Mark,
            // None is longer than the name of a link.
            _ => Field::Unknown(libc::IFNAMSIZ),
        },
    ))
}

fn tracked(inside: &[u8]) -> Option<Step> {
    let Some(to) = register(inside, 1) else { return Some(Step::Nothing) };
    Some(Step::Load(
        to,
        match number(inside, 2)? {
            NFT_CT_STATE => Field::State,
            NFT_CT_STATUS => Field::Status,
            _ => Field::Unknown(libc::IFNAMSIZ),
        },
    ))
}

fn compare(inside: &[u8]) -> Option<Step> {
    let holds = match number(inside, 2)? {
        NFT_CMP_EQ => true,
        NFT_CMP_NEQ => false,
        _ => return None,
    };
    let octets = data(attribute(inside, 3)?)?.to_vec();
    Some(Step::Is { register: register(inside, 1)?, octets, holds })
}

fn bits(inside: &[u8]) -> Option<Step> {
    if number(inside, 6).is_some_and(|operation| operation != 0) {
        return None;
    }
    let [mask, turn] = [data(attribute(inside, 4)?)?, data(attribute(inside, 5)?)?].map(<[u8]>::to_vec);
    Some(Step::Bits { from: register(inside, 1)?, to: register(inside, 2)?, mask, turn })
}

fn lookup(inside: &[u8]) -> Option<Step> {
    let map = attribute(inside, 3).is_some();
    // Maps of anything but verdicts load what they find.
    if map && number(inside, 3) != Some(0) {
        return None;
    }
    let holds = number(inside, 5).unwrap_or(0) == 0;
    Some(Step::In { register: register(inside, 2)?, set: read_str(attribute(inside, 1)?), holds, map })
}

fn immediate(inside: &[u8]) -> Option<Step> {
    let found = attribute(attribute(inside, 2)?, NFTA_DATA_VERDICT)?;
    Some(Step::Decide(verdict(found)))
}

/// A match of iptables: name, revision, and a structure of the kernel.
fn matched(inside: &[u8]) -> Option<Step> {
    /// Where `struct xt_conntrack_mtinfo3` has what is compared, what is compared the other way, and states.
    const FLAGS: [usize; 3] = [146, 148, 150];
    const ONLY_STATES: u16 = 1;
    let info = attribute(inside, 3)?;
    let word = |at: usize| info.get(at..)?.first_chunk().map(|octets| u32::from_ne_bytes(*octets));
    match (read_str(attribute(inside, 1)?).as_str(), number(inside, 2)?) {
        ("comment", _) => Some(Step::Nothing),
        ("conntrack", 2 | 3) => {
            let half = |at: usize| info.get(at..)?.first_chunk().map(|octets| u16::from_ne_bytes(*octets));
            let [compared, contrary, states] = FLAGS.map(half);
            (compared? == ONLY_STATES).then_some(Step::State(states?, contrary? & ONLY_STATES == 0))
        }
        ("mark", 1) => Some(Step::Mark(word(0)?, *info.get(8)? == 0)),
        _ => None,
    }
}

/// A target of iptables.
fn target(inside: &[u8]) -> Option<Step> {
    match read_str(attribute(inside, 1)?).as_str() {
        "REJECT" => Some(Step::Decide(Verdict::Drop)),
        "LOG" | "NFLOG" | "MARK" | "CONNMARK" | "TCPMSS" | "CT" => Some(Step::Nothing),
        _ => None,
    }
}
