//! The part of nf_tables that Manx speaks: transactions, tables, base chains, interval sets and a few expressions,
//! as netlink messages.

use std::net::IpAddr;

use nix::errno::Errno;
use nix::libc;

use crate::nat::{Range, next};

pub(super) use super::expression::Expression;
use super::expression::write_expressions;
use super::request::{Attributes, Batch, Message, attribute, attributes};
use super::socket::{RequestError, Socket, SocketError};

/// Octets of `struct nfgenmsg`.
pub(super) const BODY: usize = 4;
/// Elements in one message: an attribute holds at most 64 KiB.
const ELEMENTS: usize = 1000;

const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_FLAGS: u16 = 2;
const NFTA_TABLE_HANDLE: u16 = 4;
/// The table goes with the socket that made it.
const NFT_TABLE_F_OWNER: u32 = 2;
const NFTA_CHAIN_TABLE: u16 = 1;
pub(super) const NFTA_CHAIN_NAME: u16 = 3;
pub(super) const NFTA_CHAIN_HOOK: u16 = 4;
pub(super) const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
pub(super) const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_HOOK_DEV: u16 = 3;
const NFTA_SET_TABLE: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_KEY_TYPE: u16 = 4;
const NFTA_SET_KEY_LEN: u16 = 5;
const NFTA_SET_ID: u16 = 10;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
pub(super) const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
pub(super) const NFTA_SET_ELEM_KEY: u16 = 1;
pub(super) const NFTA_SET_ELEM_FLAGS: u16 = 3;
pub(super) const NFTA_DATA_VALUE: u16 = 1;
pub(super) const NFTA_RULE_TABLE: u16 = 1;
pub(super) const NFTA_RULE_CHAIN: u16 = 2;
pub(super) const NFTA_RULE_HANDLE: u16 = 3;
pub(super) const NFTA_RULE_EXPRESSIONS: u16 = 4;
pub(super) const NFTA_RULE_USERDATA: u16 = 7;
pub(super) const NFTA_LIST_ELEM: u16 = 1;
pub(super) const NFTA_EXPR_DATA: u16 = 2;
const NFT_SET_INTERVAL: u32 = 4;
pub(super) const NFT_SET_ELEM_INTERVAL_END: u32 = 1;
pub(super) const NF_NETDEV_INGRESS: u32 = 0;

/// An address family of tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TableFamily {
    Ip,
    Ip6,
    /// Both; its sets are of addresses of one of them.
    Inet,
    /// Frames as they come in by a link; without sets.
    Netdev,
}

impl TableFamily {
    fn body(self) -> [u8; BODY] {
        let family = match self {
            Self::Ip => libc::NFPROTO_IPV4,
            Self::Ip6 => libc::NFPROTO_IPV6,
            Self::Inet => libc::NFPROTO_INET,
            Self::Netdev => libc::NFPROTO_NETDEV,
        };
        [family as u8, 0, 0, 0]
    }

    /// nft's own number for the type of a set's keys, and their length in octets.
    fn key(self) -> (u32, u32) {
        match self {
            Self::Ip => (7, 4),
            Self::Ip6 | Self::Inet | Self::Netdev => (8, 16),
        }
    }

    /// Where the destination is in the network header, and its length, in octets.
    pub(super) fn destination(self) -> (u32, u32) {
        match self {
            Self::Ip => (16, 4),
            Self::Ip6 | Self::Inet | Self::Netdev => (24, 16),
        }
    }
}

/// A table, the subject of most messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table<'a> {
    pub(super) family: TableFamily,
    pub(super) name: &'a str,
}

/// Writes one transaction about a table: all of it happens, or nothing.
#[derive(Debug)]
pub(super) struct Transaction<'a> {
    batch: Batch,
    table: Table<'a>,
    sets: u32,
}

impl<'a> Transaction<'a> {
    pub(super) fn new(table: Table<'a>) -> Self {
        let mut batch = Batch::new();
        batch.push(libc::NFNL_MSG_BATCH_BEGIN as u16, 0, &subsystem(), |_| {});
        Self { batch, table, sets: 0 }
    }

    /// Ends the transaction.
    pub(super) fn finish(mut self) -> Batch {
        self.batch.acknowledge_here();
        self.batch.push(libc::NFNL_MSG_BATCH_END as u16, 0, &subsystem(), |_| {});
        self.batch
    }

    fn push(&mut self, message: i32, flags: i32, fill: impl FnOnce(&mut Attributes<'_>)) {
        self.batch.push(kind(message), flags, &self.table.family.body(), fill);
    }

    /// Makes the table unless it exists.
    pub(super) fn table(&mut self) {
        let name = self.table.name;
        self.push(libc::NFT_MSG_NEWTABLE, libc::NLM_F_CREATE, |attributes| {
            attributes.put_str(NFTA_TABLE_NAME, name);
        });
    }

    /// Makes the table; if it exists, the transaction fails with `EEXIST`.
    pub(super) fn new_table(&mut self) {
        let name = self.table.name;
        self.push(libc::NFT_MSG_NEWTABLE, libc::NLM_F_CREATE | libc::NLM_F_EXCL, |attributes| {
            attributes.put_str(NFTA_TABLE_NAME, name);
        });
    }

    /// Makes a table that the kernel removes with the socket that sends this.
    pub(super) fn own_table(&mut self) {
        let name = self.table.name;
        self.push(libc::NFT_MSG_NEWTABLE, libc::NLM_F_CREATE | libc::NLM_F_EXCL, |attributes| {
            attributes.put_str(NFTA_TABLE_NAME, name).put_be32(NFTA_TABLE_FLAGS, NFT_TABLE_F_OWNER);
        });
    }

    /// Removes the table that has this handle; if none has, the transaction fails with `ENOENT`.
    pub(super) fn no_table_of(&mut self, handle: u64) {
        self.push(libc::NFT_MSG_DELTABLE, 0, |attributes| {
            attributes.put(NFTA_TABLE_HANDLE, &handle.to_be_bytes());
        });
    }

    /// Removes the table, whether it exists or not.
    pub(super) fn no_table(&mut self) {
        self.table();
        let name = self.table.name;
        self.push(libc::NFT_MSG_DELTABLE, 0, |attributes| {
            attributes.put_str(NFTA_TABLE_NAME, name);
        });
    }

    /// Makes a chain of type `nat` that sees packets as they leave, and accepts what it does not decide.
    pub(super) fn nat_postrouting(&mut self, chain: &str) {
        let name = self.table.name;
        self.push(libc::NFT_MSG_NEWCHAIN, libc::NLM_F_CREATE, |attributes| {
            attributes.put_str(NFTA_CHAIN_TABLE, name).put_str(NFTA_CHAIN_NAME, chain);
            postrouting(attributes);
        });
    }

    /// Makes a chain of type `filter` that sees packets before the chains of others do, and accepts what it does not
    /// decide.
    pub(super) fn filter(&mut self, hook: Hook) {
        let name = self.table.name;
        self.push(libc::NFT_MSG_NEWCHAIN, libc::NLM_F_CREATE, |attributes| {
            attributes.put_str(NFTA_CHAIN_TABLE, name).put_str(NFTA_CHAIN_NAME, hook.name());
            filter(attributes, hook);
        });
    }

    /// Makes a chain of type `filter` at this hook, that of a link where one is given, and priority, that accepts what it
    /// does not decide.
    pub(super) fn first(&mut self, chain: &str, hook: u32, link: Option<&str>, priority: i32) {
        let name = self.table.name;
        self.push(libc::NFT_MSG_NEWCHAIN, libc::NLM_F_CREATE, |attributes| {
            attributes.put_str(NFTA_CHAIN_TABLE, name).put_str(NFTA_CHAIN_NAME, chain);
            attributes.nest(NFTA_CHAIN_HOOK, |attributes| {
                attributes
                    .put_be32(NFTA_HOOK_HOOKNUM, hook)
                    .put_be32(NFTA_HOOK_PRIORITY, priority.cast_unsigned());
                if let Some(link) = link {
                    attributes.put_str(NFTA_HOOK_DEV, link);
                }
            });
            attributes.put_be32(NFTA_CHAIN_POLICY, libc::NF_ACCEPT as u32).put_str(NFTA_CHAIN_TYPE, "filter");
        });
    }

    /// Makes a chain that sees what comes in by this link before anybody else, and drops what it does not decide.
    pub(super) fn ingress(&mut self, chain: &str, link: &str) {
        let name = self.table.name;
        self.push(libc::NFT_MSG_NEWCHAIN, libc::NLM_F_CREATE, |attributes| {
            attributes.put_str(NFTA_CHAIN_TABLE, name).put_str(NFTA_CHAIN_NAME, chain);
            ingress(attributes, link);
        });
    }

    /// Makes a set of addresses of this family.
    pub(super) fn set(&mut self, set: &str, addresses: TableFamily, ranges: &[Range]) {
        let name = self.table.name;
        let (key_type, key_length) = addresses.key();
        self.sets += 1;
        let id = self.sets;
        self.push(libc::NFT_MSG_NEWSET, libc::NLM_F_CREATE, |attributes| {
            attributes
                .put_str(NFTA_SET_TABLE, name)
                .put_str(NFTA_SET_NAME, set)
                .put_be32(NFTA_SET_FLAGS, NFT_SET_INTERVAL)
                .put_be32(NFTA_SET_KEY_TYPE, key_type)
                .put_be32(NFTA_SET_KEY_LEN, key_length)
                .put_be32(NFTA_SET_ID, id);
        });
        for chunk in elements(ranges).chunks(ELEMENTS) {
            self.push(libc::NFT_MSG_NEWSETELEM, libc::NLM_F_CREATE, |attributes| {
                attributes.put_str(NFTA_SET_ELEM_LIST_TABLE, name).put_str(NFTA_SET_ELEM_LIST_SET, set);
                attributes.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |attributes| {
                    for element in chunk {
                        attributes.nest(NFTA_LIST_ELEM, |attributes| element.write(attributes));
                    }
                });
            });
        }
    }

    /// Appends a rule, with a comment for those who list it.
    pub(super) fn rule(&mut self, chain: &str, expressions: &[Expression], comment: &str) {
        let name = self.table.name;
        self.push(libc::NFT_MSG_NEWRULE, libc::NLM_F_CREATE | libc::NLM_F_APPEND, |attributes| {
            attributes.put_str(NFTA_RULE_TABLE, name).put_str(NFTA_RULE_CHAIN, chain);
            attributes.nest(NFTA_RULE_EXPRESSIONS, |attributes| write_expressions(attributes, expressions));
            // As nft writes a comment: kind 0, length with the final zero, text.
            let length = u8::try_from(comment.len() + 1).expect("comments are short");
            attributes.put(NFTA_RULE_USERDATA, &[&[0, length], comment.as_bytes(), &[0]].concat());
        });
    }
}

fn subsystem() -> [u8; BODY] {
    let [high, low] = (libc::NFNL_SUBSYS_NFTABLES as u16).to_be_bytes();
    [libc::AF_UNSPEC as u8, 0, high, low]
}

pub(super) fn kind(message: i32) -> u16 {
    (libc::NFNL_SUBSYS_NFTABLES << 8 | message) as u16
}

/// Where a chain of type `filter` sees packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    /// Those for this machine.
    Input,
    /// Those that pass through.
    Forward,
}

impl Hook {
    pub(super) const ALL: [Self; 2] = [Self::Input, Self::Forward];

    /// The name of its chain.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Forward => "forward",
        }
    }

    fn number(self) -> u32 {
        match self {
            Self::Input => libc::NF_INET_LOCAL_IN as u32,
            Self::Forward => libc::NF_INET_FORWARD as u32,
        }
    }
}

fn filter(attributes: &mut Attributes<'_>, hook: Hook) {
    attributes.nest(NFTA_CHAIN_HOOK, |attributes| {
        attributes
            .put_be32(NFTA_HOOK_HOOKNUM, hook.number())
            .put_be32(NFTA_HOOK_PRIORITY, libc::NF_IP_PRI_RAW as u32);
    });
    attributes.put_be32(NFTA_CHAIN_POLICY, libc::NF_ACCEPT as u32).put_str(NFTA_CHAIN_TYPE, "filter");
}

fn ingress(attributes: &mut Attributes<'_>, link: &str) {
    attributes.nest(NFTA_CHAIN_HOOK, |attributes| {
        attributes
            .put_be32(NFTA_HOOK_HOOKNUM, NF_NETDEV_INGRESS)
            .put_be32(NFTA_HOOK_PRIORITY, libc::NF_IP_PRI_RAW as u32)
            .put_str(NFTA_HOOK_DEV, link);
    });
    attributes.put_be32(NFTA_CHAIN_POLICY, libc::NF_DROP as u32).put_str(NFTA_CHAIN_TYPE, "filter");
}

fn postrouting(attributes: &mut Attributes<'_>) {
    attributes.nest(NFTA_CHAIN_HOOK, |attributes| {
        attributes
            .put_be32(NFTA_HOOK_HOOKNUM, libc::NF_INET_POST_ROUTING as u32)
            .put_be32(NFTA_HOOK_PRIORITY, libc::NF_IP_PRI_NAT_SRC as u32);
    });
    attributes.put_be32(NFTA_CHAIN_POLICY, libc::NF_ACCEPT as u32).put_str(NFTA_CHAIN_TYPE, "nat");
}

/// A point on the line of addresses at which a set begins to hold them, or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Element {
    key: IpAddr,
    end: bool,
}

impl Element {
    fn write(&self, attributes: &mut Attributes<'_>) {
        attributes.nest(NFTA_SET_ELEM_KEY, |attributes| {
            attributes.put_ip(NFTA_DATA_VALUE, self.key);
        });
        if self.end {
            attributes.put_be32(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
        }
    }

    fn read(value: &[u8]) -> Option<Self> {
        let (mut key, mut end) = (None, false);
        for (kind, value) in attributes(value) {
            match kind {
                NFTA_SET_ELEM_KEY => {
                    let address = attribute(value, NFTA_DATA_VALUE)?;
                    key = super::request::read_ip(address);
                }
                NFTA_SET_ELEM_FLAGS => end = *value == NFT_SET_ELEM_INTERVAL_END.to_be_bytes(),
                _ => {}
            }
        }
        Some(Self { key: key?, end })
    }
}

/// The elements of a set that holds these ranges, in order.
pub(super) fn elements(ranges: &[Range]) -> Vec<Element> {
    let of_range = |range: &Range| {
        let end = next(range.last).map(|key| Element { key, end: true });
        [Some(Element { key: range.first, end: false }), end].into_iter().flatten()
    };
    ranges.iter().flat_map(of_range).collect()
}

/// Asks for all tables of the family.
pub(super) fn get_tables(family: TableFamily) -> Batch {
    Batch::of(kind(libc::NFT_MSG_GETTABLE), libc::NLM_F_DUMP, &family.body(), |_| {})
}

/// Name and handle of a table.
pub(super) fn read_table(message: &Message<'_>) -> Option<(String, u64)> {
    let (mut name, mut handle) = (None, None);
    for (kind, value) in message.attributes(BODY) {
        match kind {
            NFTA_TABLE_NAME => name = Some(super::request::read_str(value)),
            NFTA_TABLE_HANDLE => handle = value.first_chunk().map(|octets| u64::from_be_bytes(*octets)),
            _ => {}
        }
    }
    Some((name?, handle?))
}

/// Asks for one chain.
pub(super) fn get_chain(table: Table<'_>, chain: &str) -> Batch {
    Batch::of(kind(libc::NFT_MSG_GETCHAIN), 0, &table.family.body(), |attributes| {
        attributes.put_str(NFTA_CHAIN_TABLE, table.name).put_str(NFTA_CHAIN_NAME, chain);
    })
}

/// Asks for all chains of the family.
pub(super) fn get_chains(table: Table<'_>) -> Batch {
    Batch::of(kind(libc::NFT_MSG_GETCHAIN), libc::NLM_F_DUMP, &table.family.body(), |_| {})
}

/// Asks for the rules of the table.
pub(super) fn get_rules(table: Table<'_>) -> Batch {
    Batch::of(kind(libc::NFT_MSG_GETRULE), libc::NLM_F_DUMP, &table.family.body(), |attributes| {
        attributes.put_str(NFTA_RULE_TABLE, table.name);
    })
}

/// Asks for the elements of a set.
pub(super) fn get_elements(table: Table<'_>, set: &str) -> Batch {
    Batch::of(kind(libc::NFT_MSG_GETSETELEM), libc::NLM_F_DUMP, &table.family.body(), |attributes| {
        attributes.put_str(NFTA_SET_ELEM_LIST_TABLE, table.name).put_str(NFTA_SET_ELEM_LIST_SET, set);
    })
}

/// The table to which a chain or a rule belongs.
pub(super) fn table_of(message: &Message<'_>) -> Option<String> {
    message.attribute(BODY, NFTA_CHAIN_TABLE).map(super::request::read_str)
}

/// Whether a chain is what [`Transaction::nat_postrouting`] makes.
pub(super) fn is_nat_postrouting(message: &Message<'_>, chain: &str) -> bool {
    let ours = Attributes::standalone(|attributes| {
        attributes.put_str(NFTA_CHAIN_NAME, chain);
        postrouting(attributes);
    });
    holds_all(message.payload.get(BODY..).unwrap_or_default(), &ours, &[NFTA_CHAIN_HOOK])
}

/// Whether a chain is what [`Transaction::filter`] makes.
pub(super) fn is_filter(message: &Message<'_>, hook: Hook) -> bool {
    let ours = Attributes::standalone(|attributes| {
        attributes.put_str(NFTA_CHAIN_NAME, hook.name());
        filter(attributes, hook);
    });
    holds_all(message.payload.get(BODY..).unwrap_or_default(), &ours, &[NFTA_CHAIN_HOOK])
}

/// Whether a chain is what [`Transaction::ingress`] makes.
pub(super) fn is_ingress(message: &Message<'_>, chain: &str, link: &str) -> bool {
    let ours = Attributes::standalone(|attributes| {
        attributes.put_str(NFTA_CHAIN_NAME, chain);
        ingress(attributes, link);
    });
    holds_all(message.payload.get(BODY..).unwrap_or_default(), &ours, &[NFTA_CHAIN_HOOK])
}

/// Whether a set holds these elements and no others.
pub(super) fn verify_set(
    socket: &mut Socket,
    table: Table<'_>,
    set: &str,
    elements: &[Element],
) -> Result<bool, SocketError> {
    match socket.dump(&mut get_elements(table, set)) {
        Ok(replies) => {
            let mut there: Vec<_> = replies.iter().flat_map(|message| read_elements(&message)).collect();
            there.sort();
            let mut wanted = elements.to_vec();
            wanted.sort();
            Ok(there == wanted)
        }
        Err(SocketError::Refused(RequestError { errno: Errno::ENOENT, .. })) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a rule of this chain does exactly this.
pub(super) fn is_rule(message: &Message<'_>, chain: &str, expressions: &[Expression]) -> bool {
    let mut there = None;
    for (kind, value) in message.attributes(BODY) {
        match kind {
            NFTA_RULE_CHAIN if super::request::read_str(value) != chain => return false,
            NFTA_RULE_EXPRESSIONS => there = Some(value),
            _ => {}
        }
    }
    let ours = Attributes::standalone(|attributes| write_expressions(attributes, expressions));
    let there: Vec<_> = attributes(there.unwrap_or_default()).map(|(_, expression)| expression).collect();
    let ours: Vec<_> = attributes(&ours).map(|(_, expression)| expression).collect();
    let same = |(there, ours)| holds_all(there, ours, &[NFTA_EXPR_DATA]);
    there.len() == ours.len() && there.into_iter().zip(ours).all(same)
}

/// Whether all attributes of `wanted` are in `there`; the kernel may add some. Those of the kinds in `nested` are
/// compared alike.
fn holds_all(there: &[u8], wanted: &[u8], nested: &[u16]) -> bool {
    attributes(wanted).all(|(kind, value)| {
        attributes(there).any(|(other, found)| {
            let same = if nested.contains(&kind) { holds_all(found, value, &[]) } else { found == value };
            other == kind && same
        })
    })
}

/// The elements that a message about a set names.
fn read_elements(message: &Message<'_>) -> Vec<Element> {
    message
        .attributes(BODY)
        .filter(|(kind, _)| *kind == NFTA_SET_ELEM_LIST_ELEMENTS)
        .flat_map(|(_, list)| attributes(list))
        .filter_map(|(_, element)| Element::read(element))
        .collect()
}
