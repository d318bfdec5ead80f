//! What is known of a packet, and the registers of a rule.

use std::net::IpAddr;

use nix::libc;

use super::{Answer, Field};

/// The state of a connection whose first packet this is, as a bit (`NF_CT_STATE_BIT(IP_CT_NEW)`).
pub(super) const STATE_NEW: u16 = 8;
/// Octets of a link's name.
const LINK_NAME: usize = libc::IFNAMSIZ;
/// Octets of all registers.
const ROOM: usize = 80;
const WORD: usize = 4;

/// The first packet of a connection by TCP from one pod to another, as a node sees it that forwards it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Its source.
    pub from: IpAddr,
    /// Its destination, of the same family.
    pub to: IpAddr,
    /// The name of the link by which it came.
    pub in_link: String,
    /// The name of the link by which it leaves.
    pub out_link: String,
}

/// Octets, each if it is known.
type Octets = Vec<Option<u8>>;

impl Packet {
    pub(super) fn is_v4(&self) -> bool {
        self.from.is_ipv4()
    }

    pub(super) fn field(&self, field: Field) -> Octets {
        let name = |name: &str| {
            let mut octets = name.as_bytes().to_vec();
            octets.resize(LINK_NAME, 0);
            known(&octets)
        };
        match field {
            Field::Network(offset, length) => {
                let header = self.header();
                (offset..offset + length).map(|at| header.get(at).copied().flatten()).collect()
            }
            Field::InLink => name(&self.in_link),
            Field::OutLink => name(&self.out_link),
            Field::Protocol => known(&[libc::IPPROTO_TCP as u8]),
            Field::Family => {
                known(&[if self.is_v4() { libc::NFPROTO_IPV4 as u8 } else { libc::NFPROTO_IPV6 as u8 }])
            }
            // Pods' packets bear none, and their connections are not translated.
            Field::Mark | Field::Status => known(&[0; WORD]),
            Field::State => known(&u32::from(STATE_NEW).to_ne_bytes()),
            Field::Unknown(length) => vec![None; length],
        }
    }

    fn header(&self) -> Octets {
        let (mut header, protocol, source, version) = match self.is_v4() {
            true => (vec![None; 20], 9, 12, 0x45),
            false => (vec![None; 40], 6, 8, 0x60),
        };
        header[protocol] = Some(libc::IPPROTO_TCP as u8);
        header[0] = Some(version);
        for (place, octet) in (source..).zip(octets(self.from).into_iter().chain(octets(self.to))) {
            header[place] = Some(octet);
        }
        header
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn known(octets: &[u8]) -> Octets {
    octets.iter().copied().map(Some).collect()
}

/// The registers of a rule, octet by octet, each if it is known.
#[derive(Debug)]
pub(super) struct Registers([Option<u8>; ROOM]);

impl Default for Registers {
    fn default() -> Self {
        Self([None; ROOM])
    }
}

impl Registers {
    /// Writes from a word on, as the kernel does: what is left of the last word is zero.
    pub(super) fn write(&mut self, word: usize, octets: &[Option<u8>]) {
        let end = octets.len().next_multiple_of(WORD);
        let padded = octets.iter().copied().chain(std::iter::repeat(Some(0))).take(end);
        for (place, octet) in self.0.iter_mut().skip(word * WORD).zip(padded) {
            *place = octet;
        }
    }

    fn read(&self, word: usize, length: usize) -> impl Iterator<Item = Option<u8>> + '_ {
        self.0.iter().copied().skip(word * WORD).chain(std::iter::repeat(None)).take(length)
    }

    /// The octets from a word on, if all are known.
    pub(super) fn known(&self, word: usize, length: usize) -> Option<Vec<u8>> {
        self.read(word, length).collect()
    }

    /// Whether these octets are there from a word on.
    pub(super) fn equal(&self, word: usize, octets: &[u8]) -> Answer {
        let mut answer = Answer::Yes;
        for (there, wanted) in self.read(word, octets.len()).zip(octets) {
            match there {
                Some(there) if there != *wanted => return Answer::No,
                Some(_) => {}
                None => answer = Answer::Perhaps,
            }
        }
        answer
    }

    /// Keeps the bits of a mask and turns others. A bit that does not stay is known, whatever it was.
    pub(super) fn bits(&mut self, from: usize, to: usize, mask: &[u8], turn: &[u8]) {
        let turns = turn.iter().copied().chain(std::iter::repeat(0));
        let changed: Octets = self
            .read(from, mask.len())
            .zip(mask.iter().zip(turns))
            .map(|(octet, (mask, turn))| match (octet, mask) {
                (_, 0) => Some(turn),
                (octet, mask) => octet.map(|octet| (octet & mask) ^ turn),
            })
            .collect();
        self.write(to, &changed);
    }
}
