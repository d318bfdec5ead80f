//! The steps of nf_tables rules, as netlink attributes.

use nix::libc;

use super::nftables::{NFTA_DATA_VALUE, NFTA_EXPR_DATA, NFTA_LIST_ELEM};
use super::request::Attributes;

pub(super) const NFTA_EXPR_NAME: u16 = 1;
const NFT_REG_VERDICT: u32 = 0;
const NFT_REG_1: u32 = 1;
const NFT_PAYLOAD_LL_HEADER: u32 = 0;
pub(super) const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = 2;
const NFT_LOOKUP_F_INV: u32 = 1;
pub(super) const NFT_CMP_EQ: u32 = 0;
pub(super) const NFT_CMP_NEQ: u32 = 1;
const NFT_CMP_LT: u32 = 2;
const NFT_CMP_GTE: u32 = 5;
const NF_NAT_RANGE_PROTO_RANDOM_FULLY: u32 = 1 << 4;
const NFTA_META_KEY: u16 = 2;
const NFTA_META_SREG: u16 = 3;
pub(super) const NFTA_DATA_VERDICT: u16 = 2;
pub(super) const NFTA_VERDICT_CODE: u16 = 1;

/// One step of a rule. All work on register 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expression {
    /// Loads octets of the Ethernet header; of a tagged frame, with its tag.
    LinkHeader { offset: u32, length: u32 },
    /// Loads octets of the network header.
    NetworkHeader { offset: u32, length: u32 },
    /// Goes on if the set of this name holds the register, or does not.
    Lookup { set: &'static str, holds: bool },
    /// Loads the name of the link by which the packet leaves.
    OutLink,
    /// Goes on if the register is not this name of a link.
    IsNotLink(&'static str),
    /// Loads octets of the header behind the network header.
    TransportHeader { offset: u32, length: u32 },
    /// Loads the name of the link by which the packet came.
    InLink,
    /// Loads the number of the transport protocol.
    Protocol,
    /// Loads the number of the address family.
    Family,
    /// Goes on if the register begins with these octets, or does not.
    Is { octets: Vec<u8>, holds: bool },
    /// Goes on if the register, as a number in network byte order, is less than these octets.
    Below(Vec<u8>),
    /// Goes on if the register, as a number in network byte order, is not less than these octets.
    AtLeast(Vec<u8>),
    /// Loads the 16 bits of the IPv6 fragment header that begin with the offset; ends the rule if there is none.
    FragmentOffset,
    /// Loads the number 1.
    One,
    /// Has the kernel tell what becomes of the packet from here on, if the register is 1.
    Follow,
    /// Ends the chain.
    Accept,
    /// Ends the packet.
    Drop,
    /// Gives the packet the address of the link by which it leaves, and a port that cannot be guessed.
    Masquerade,
}

impl Expression {
    fn name(&self) -> &'static str {
        match self {
            Self::LinkHeader { .. } | Self::NetworkHeader { .. } | Self::TransportHeader { .. } => "payload",
            Self::Lookup { .. } => "lookup",
            Self::OutLink | Self::InLink | Self::Protocol | Self::Family | Self::Follow => "meta",
            Self::IsNotLink(_) | Self::Is { .. } | Self::Below(_) | Self::AtLeast(_) => "cmp",
            Self::FragmentOffset => "exthdr",
            Self::Accept | Self::Drop | Self::One => "immediate",
            Self::Masquerade => "masq",
        }
    }

    fn write(&self, attributes: &mut Attributes<'_>) {
        match self {
            Self::LinkHeader { offset, length } => {
                payload(attributes, NFT_PAYLOAD_LL_HEADER, *offset, *length);
            }
            Self::NetworkHeader { offset, length } => {
                payload(attributes, NFT_PAYLOAD_NETWORK_HEADER, *offset, *length);
            }
            Self::TransportHeader { offset, length } => {
                payload(attributes, NFT_PAYLOAD_TRANSPORT_HEADER, *offset, *length);
            }
            Self::Lookup { set, holds } => {
                attributes.put_str(1, set).put_be32(2, NFT_REG_1);
                attributes.put_be32(5, if *holds { 0 } else { NFT_LOOKUP_F_INV });
            }
            Self::OutLink => meta(attributes, libc::NFT_META_OIFNAME),
            Self::InLink => meta(attributes, libc::NFT_META_IIFNAME),
            Self::Protocol => meta(attributes, libc::NFT_META_L4PROTO),
            Self::Family => meta(attributes, libc::NFT_META_NFPROTO),
            Self::Is { octets, holds: true } => compare(attributes, NFT_CMP_EQ, octets),
            Self::Is { octets, holds: false } => compare(attributes, NFT_CMP_NEQ, octets),
            Self::Below(octets) => compare(attributes, NFT_CMP_LT, octets),
            Self::AtLeast(octets) => compare(attributes, NFT_CMP_GTE, octets),
            Self::FragmentOffset => {
                attributes.put_be32(1, NFT_REG_1).put_u8(2, libc::IPPROTO_FRAGMENT as u8);
                attributes.put_be32(3, 2).put_be32(4, 2);
            }
            Self::One => {
                attributes.put_be32(1, NFT_REG_1).nest(2, |attributes| {
                    attributes.put(NFTA_DATA_VALUE, &[1]);
                });
            }
            Self::Follow => {
                attributes.put_be32(NFTA_META_KEY, libc::NFT_META_NFTRACE as u32);
                attributes.put_be32(NFTA_META_SREG, NFT_REG_1);
            }
            Self::Accept => verdict(attributes, libc::NF_ACCEPT),
            Self::Drop => verdict(attributes, libc::NF_DROP),
            Self::IsNotLink(name) => {
                let mut octets = [0; libc::IFNAMSIZ];
                octets[..name.len()].copy_from_slice(name.as_bytes());
                compare(attributes, NFT_CMP_NEQ, &octets);
            }
            Self::Masquerade => {
                attributes.put_be32(1, NF_NAT_RANGE_PROTO_RANDOM_FULLY);
            }
        }
    }
}

fn compare(attributes: &mut Attributes<'_>, operation: u32, octets: &[u8]) {
    attributes.put_be32(1, NFT_REG_1).put_be32(2, operation).nest(3, |attributes| {
        attributes.put(NFTA_DATA_VALUE, octets);
    });
}

fn payload(attributes: &mut Attributes<'_>, base: u32, offset: u32, length: u32) {
    for (kind, value) in (1..).zip([NFT_REG_1, base, offset, length]) {
        attributes.put_be32(kind, value);
    }
}

fn meta(attributes: &mut Attributes<'_>, key: i32) {
    attributes.put_be32(1, NFT_REG_1).put_be32(2, key as u32);
}

fn verdict(attributes: &mut Attributes<'_>, code: i32) {
    // The kernel reads a verdict back without the flag of nested attributes.
    let verdict = Attributes::standalone(|attributes| {
        attributes.put_be32(NFTA_VERDICT_CODE, code as u32);
    });
    attributes.put_be32(1, NFT_REG_VERDICT).nest(2, |attributes| {
        attributes.put(NFTA_DATA_VERDICT, &verdict);
    });
}

pub(super) fn write_expressions(attributes: &mut Attributes<'_>, expressions: &[Expression]) {
    for expression in expressions {
        attributes.nest(NFTA_LIST_ELEM, |attributes| {
            attributes.put_str(NFTA_EXPR_NAME, expression.name());
            attributes.nest(NFTA_EXPR_DATA, |attributes| expression.write(attributes));
        });
    }
}
