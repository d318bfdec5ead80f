//! What nf_tables decides about some packets: a table that marks them, and the trace that the kernel then gives.
//!
//! The table belongs to the socket that made it: the kernel removes it with the socket, however its process ends
//! (Linux 5.12). Nothing else of nf_tables is changed, and other packets take no notice but for one comparison.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::libc;

use super::nfrules::{self, RuleNote};
use super::nftables::{self, Expression, Table, TableFamily, Transaction};
use super::request::{Message, attributes, read_ip, read_str};
use super::socket::{Socket, SocketError};

/// `NFNLGRP_NFTRACE`.
const GROUP: u32 = 9;
/// `NFT_MSG_TRACE` of nf_tables.
const MESSAGE: u16 = (libc::NFNL_SUBSYS_NFTABLES << 8 | 17) as u16;
/// Before anybody else but the defragmentation, which is at -400.
const PRIORITY: i32 = -399;
const BUFFER_OCTETS: usize = 1 << 20;

const NFTA_TRACE_TABLE: u16 = 1;
const NFTA_TRACE_CHAIN: u16 = 2;
const NFTA_TRACE_RULE_HANDLE: u16 = 3;
const NFTA_TRACE_TYPE: u16 = 4;
const NFTA_TRACE_VERDICT: u16 = 5;
const NFTA_TRACE_NETWORK_HEADER: u16 = 8;
const NFTA_TRACE_TRANSPORT_HEADER: u16 = 9;
const NFTA_TRACE_IIF: u16 = 10;
const NFTA_TRACE_OIF: u16 = 12;
const NFTA_TRACE_POLICY: u16 = 16;
const TYPE_POLICY: u32 = 1;
const TYPE_RULE: u32 = 3;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;

/// Octets that a packet has, counted from the begin of its transport header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sign {
    /// These octets are there.
    Is {
        /// From here on.
        offset: u32,
        /// The octets.
        octets: Vec<u8>,
    },
    /// Four octets are a number that is at most `span - 1` above `first`, and does not wrap.
    From {
        /// From here on.
        offset: u32,
        /// The lowest number.
        first: u32,
        /// How many numbers.
        span: u32,
    },
}

/// A kind of packets to follow: the number of their transport protocol, and all the signs that they have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The number of the protocol in IP headers.
    pub protocol: u8,
    /// What they have.
    pub signs: Vec<Sign>,
}

impl Mark {
    fn expressions(&self) -> Vec<Expression> {
        let mut steps =
            vec![Expression::Protocol, Expression::Is { octets: vec![self.protocol], holds: true }];
        for sign in &self.signs {
            match sign {
                Sign::Is { offset, octets } => {
                    let length = u32::try_from(octets.len()).unwrap_or(u32::MAX);
                    steps.push(Expression::TransportHeader { offset: *offset, length });
                    steps.push(Expression::Is { octets: octets.clone(), holds: true });
                }
                Sign::From { offset, first, span } => {
                    steps.push(Expression::TransportHeader { offset: *offset, length: 4 });
                    steps.push(Expression::AtLeast(first.to_be_bytes().to_vec()));
                    if let Some(end) = first.checked_add(*span) {
                        steps.push(Expression::Below(end.to_be_bytes().to_vec()));
                    }
                }
            }
        }
        steps.extend([Expression::One, Expression::Follow]);
        steps
    }
}

/// What a rule, or the policy of a chain, decided about a packet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// Family of the table: `ip`, `ip6`, `inet`, …
    pub family: &'static str,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// The rule's handle; none of a policy.
    pub handle: Option<u64>,
    /// What it decided, as nft says it.
    pub verdict: String,
    /// Index of the link by which the packet came.
    pub iif: Option<u32>,
    /// Index of the link by which it would go.
    pub oif: Option<u32>,
    /// The IP header and the first octets behind it.
    pub packet: Vec<u8>,
}

/// Follows packets through the tables of the network namespace in which it was opened, until it is dropped.
#[derive(Debug)]
pub struct Follower {
    name: String,
    events: Socket,
    /// The table lives as long as this.
    owner: Socket,
    rules: BTreeMap<(String, String), BTreeMap<u64, RuleNote>>,
}

impl Follower {
    /// Begins to follow packets with these marks, by a table of this name; those that come in by `link` from there on,
    /// which is where the guard of a pod's link decides.
    ///
    /// # Errors
    ///
    /// When the kernel has no nf_tables, or none whose tables go with their socket.
    pub fn start(name: &str, marks: &[Mark], link: Option<&str>) -> Result<Self, SocketError> {
        let events = Socket::netfilter()?;
        events.enlarge_buffers(BUFFER_OCTETS);
        events.join(GROUP)?;
        let mut owner = Socket::netfilter()?;
        let mut transaction = Transaction::new(Table { family: TableFamily::Inet, name });
        transaction.own_table();
        for (chain, hook) in [("incoming", libc::NF_INET_PRE_ROUTING), ("own", libc::NF_INET_LOCAL_OUT)] {
            transaction.first(chain, hook as u32, None, PRIORITY);
            mark(&mut transaction, chain, marks);
        }
        owner.send(&mut transaction.finish())?.all_done()?;
        if let Some(link) = link {
            let mut transaction = Transaction::new(Table { family: TableFamily::Netdev, name });
            transaction.own_table();
            transaction.first("incoming", nftables::NF_NETDEV_INGRESS, Some(link), PRIORITY);
            mark(&mut transaction, "incoming", marks);
            // Where links have no such chains there is no guard that could drop a packet either.
            let _unsupported = owner.send(&mut transaction.finish())?.all_done();
        }
        Ok(Self { name: name.to_owned(), events, owner, rules: BTreeMap::new() })
    }

    /// The decisions that have been taken since the last call, without those of its own table.
    ///
    /// # Errors
    ///
    /// When some were lost, or what befell the socket.
    pub fn decisions(&mut self) -> Result<Vec<Decision>, SocketError> {
        let mut decisions = Vec::new();
        while self.events.notifications(|message| decisions.extend(read(&message)))? {}
        decisions.retain(|decision: &Decision| decision.table != self.name);
        Ok(decisions)
    }

    /// What there is to say of the rule that decided; nothing of a policy.
    pub fn rule(&mut self, decision: &Decision) -> Option<RuleNote> {
        let key = (decision.family.to_owned(), decision.table.clone());
        if !self.rules.contains_key(&key) {
            let rules = nfrules::notes(&mut self.owner, decision.family, &decision.table);
            self.rules.insert(key.clone(), rules.unwrap_or_default());
        }
        self.rules.get(&key)?.get(&decision.handle?).cloned()
    }
}

fn mark(transaction: &mut Transaction<'_>, chain: &str, marks: &[Mark]) {
    for mark in marks {
        transaction.rule(chain, &mark.expressions(), "manxctl trace; goes by itself");
    }
}

impl AsFd for Follower {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

impl AsRawFd for Follower {
    fn as_raw_fd(&self) -> RawFd {
        self.events.as_raw_fd()
    }
}

fn read(message: &Message<'_>) -> Option<Decision> {
    if message.kind != MESSAGE {
        return None;
    }
    let mut decision = Decision { family: family(*message.payload.first()?), ..Decision::default() };
    let (mut kind, mut policy) = (0, None);
    let number = |value: &[u8]| value.first_chunk().map(|octets| u32::from_be_bytes(*octets));
    let mut headers = [Vec::new(), Vec::new()];
    for (attribute, value) in message.attributes(nftables::BODY) {
        match attribute {
            NFTA_TRACE_TABLE => decision.table = read_str(value),
            NFTA_TRACE_CHAIN => decision.chain = read_str(value),
            NFTA_TRACE_RULE_HANDLE => {
                decision.handle = value.first_chunk().map(|octets| u64::from_be_bytes(*octets));
            }
            NFTA_TRACE_TYPE => kind = number(value)?,
            NFTA_TRACE_VERDICT => decision.verdict = verdict(value),
            NFTA_TRACE_POLICY => policy = number(value),
            NFTA_TRACE_NETWORK_HEADER => headers[0] = value.to_vec(),
            NFTA_TRACE_TRANSPORT_HEADER => headers[1] = value.to_vec(),
            NFTA_TRACE_IIF => decision.iif = number(value),
            NFTA_TRACE_OIF => decision.oif = number(value),
            _ => {}
        }
    }
    decision.packet = headers.concat();
    match kind {
        TYPE_RULE => {}
        TYPE_POLICY => decision.verdict = code(policy? as i32).to_owned(),
        // The end of a chain that another one called.
        _ => return None,
    }
    Some(decision)
}

fn family(number: u8) -> &'static str {
    match i32::from(number) {
        libc::NFPROTO_IPV4 => "ip",
        libc::NFPROTO_IPV6 => "ip6",
        libc::NFPROTO_INET => "inet",
        libc::NFPROTO_ARP => "arp",
        libc::NFPROTO_NETDEV => "netdev",
        libc::NFPROTO_BRIDGE => "bridge",
        _ => "another",
    }
}

fn verdict(value: &[u8]) -> String {
    let (mut word, mut chain) = ("", String::new());
    for (kind, value) in attributes(value) {
        match kind {
            NFTA_VERDICT_CODE => {
                word = value.first_chunk().map_or("", |octets| code(i32::from_be_bytes(*octets)));
            }
            NFTA_VERDICT_CHAIN => chain = format!(" {}", read_str(value)),
            _ => {}
        }
    }
    format!("{word}{chain}")
}

/// A verdict as nft says it. The upper half of one for a queue is the queue's number.
fn code(code: i32) -> &'static str {
    match code {
        -1 => "continue",
        -2 => "break",
        -3 => "jump",
        -4 => "goto",
        -5 => "return",
        code => match code & 0xff {
            0 => "drop",
            1 => "accept",
            2 => "stolen",
            3 => "queue",
            _ => "another verdict",
        },
    }
}

/// Addresses in a packet's IP header, source first.
pub fn addresses(packet: &[u8]) -> Option<(std::net::IpAddr, std::net::IpAddr)> {
    let (source, destination) = match packet.first()? >> 4 {
        4 => (packet.get(12..16)?, packet.get(16..20)?),
        6 => (packet.get(8..24)?, packet.get(24..40)?),
        _ => return None,
    };
    Some((read_ip(source)?, read_ip(destination)?))
}
