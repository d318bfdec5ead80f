//! Tables that look like the Internet's: a few prefixes share an attribute set, paths are short, communities tag them.
//!
//! Written by hand as UPDATE messages, so that no side of a comparison is measured with its own encoder.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use super::feed::message;

/// How many prefixes share an attribute set on average.
const GROUP: f64 = 6.0;
/// The most octets of prefixes in one message: attributes and headers need less than the rest.
const ROOM: usize = 3800;

/// The next hop of all routes, which also says their family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Towards {
    /// IPv4 routes: consecutive /24 from 20.0.0.0 on.
    V4(Ipv4Addr),
    /// IPv6 routes: consecutive /48 from 2a00:: on.
    V6(Ipv6Addr),
}

/// A table and how it is told.
#[derive(Clone, Copy, Debug)]
pub struct Internet {
    /// The AS of the feeder, first in every path.
    pub asn: u32,
    /// How many prefixes.
    pub routes: u32,
    /// Where they lead.
    pub towards: Towards,
    /// Stands in a community of every route, so that a changed table differs wherever the next hop is rewritten.
    pub edition: u16,
}

impl Internet {
    /// Where the prefixes of IPv4 tables begin.
    pub const FIRST_V4: Ipv4Addr = Ipv4Addr::new(20, 0, 0, 0);
    /// Where the prefixes of IPv6 tables begin.
    pub const FIRST_V6: Ipv6Addr = Ipv6Addr::new(0x2a00, 0, 0, 0, 0, 0, 0, 0);

    /// An address inside the prefix of that number.
    pub fn host(&self, index: u32) -> IpAddr {
        match self.towards {
            Towards::V4(_) => IpAddr::from((Self::FIRST_V4.to_bits() + (index << 8) + 1).to_be_bytes()),
            Towards::V6(_) => {
                IpAddr::from((Self::FIRST_V6.to_bits() + (u128::from(index) << 80) + 1).to_be_bytes())
            }
        }
    }

    /// The whole table as UPDATE messages. Equal tables have equal groups, paths and communities.
    pub fn updates(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.routes as usize * 24);
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
        let mut at = 0;
        while at < self.routes {
            let attributes = self.attributes(&mut dice);
            let end = self.routes.min(at + dice.group());
            for part in self.parts(at..end) {
                self.announce(&attributes, part, &mut bytes);
            }
            at = end;
        }
        bytes
    }

    /// Withdraws the whole table, in messages as full as they get.
    pub fn withdrawals(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in self.parts(0..self.routes) {
            let nlri = self.nlri(part);
            let mut body = Vec::with_capacity(nlri.len() + 16);
            match self.towards {
                Towards::V4(_) => {
                    body.extend(length(&nlri));
                    body.extend(&nlri);
                    body.extend([0, 0]);
                }
                Towards::V6(_) => {
                    let mut value = vec![0, 2, 1];
                    value.extend(&nlri);
                    let mut list = vec![0x90, 15];
                    list.extend(length(&value));
                    list.extend(value);
                    body.extend([0, 0]);
                    body.extend(length(&list));
                    body.extend(list);
                }
            }
            message(2, &body, &mut bytes);
        }
        bytes
    }

    /// Ranges whose prefixes fit into one message each.
    fn parts(&self, networks: Range<u32>) -> impl Iterator<Item = Range<u32>> + use<> {
        let each = match self.towards {
            Towards::V4(_) => ROOM / 4,
            Towards::V6(_) => ROOM / 7,
        };
        let end = networks.end;
        networks.step_by(each).map(move |from| from..end.min(from + each as u32))
    }

    fn nlri(&self, networks: Range<u32>) -> Vec<u8> {
        let mut nlri = Vec::new();
        for index in networks {
            match self.towards {
                Towards::V4(_) => {
                    let [a, b, c, _] = (Self::FIRST_V4.to_bits() + (index << 8)).to_be_bytes();
                    nlri.extend([24, a, b, c]);
                }
                Towards::V6(_) => {
                    let address = Self::FIRST_V6.to_bits() + (u128::from(index) << 80);
                    nlri.push(48);
                    nlri.extend(&address.to_be_bytes()[..6]);
                }
            }
        }
        nlri
    }

    /// ORIGIN, AS_PATH with two to five hops, and two communities, in wire form.
    fn attributes(&self, dice: &mut Dice) -> Vec<u8> {
        let mut list = vec![0x40, 1, 1, 0];
        let hops = 2 + dice.below(4) as u8;
        list.extend([0x40, 2, 2 + 4 * hops, 2, hops]);
        list.extend(self.asn.to_be_bytes());
        for _ in 1..hops {
            list.extend((1000 + dice.below(60_000)).to_be_bytes());
        }
        if let Towards::V4(next_hop) = self.towards {
            list.extend([0x40, 3, 4]);
            list.extend(next_hop.octets());
        }
        list.extend([0xc0, 8, 8]);
        list.extend((self.asn as u16).to_be_bytes());
        list.extend(self.edition.to_be_bytes());
        list.extend((1000 + dice.below(60_000) as u16).to_be_bytes());
        list.extend((dice.below(500) as u16).to_be_bytes());
        list
    }

    fn announce(&self, attributes: &[u8], networks: Range<u32>, bytes: &mut Vec<u8>) {
        let nlri = self.nlri(networks);
        let mut list = Vec::with_capacity(attributes.len() + nlri.len() + 32);
        if let Towards::V6(next_hop) = self.towards {
            let mut value = vec![0, 2, 1, 16];
            value.extend(next_hop.octets());
            value.push(0);
            value.extend(&nlri);
            list.extend([0x90, 14]);
            list.extend(length(&value));
            list.extend(value);
        }
        list.extend(attributes);
        let mut body = vec![0, 0];
        body.extend(length(&list));
        body.extend(list);
        if matches!(self.towards, Towards::V4(_)) {
            body.extend(nlri);
        }
        message(2, &body, bytes);
    }
}

fn length(field: &[u8]) -> [u8; 2] {
    u16::try_from(field.len()).expect("a field fits into its message").to_be_bytes()
}

/// Chance that is the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u32) -> u32 {
        (self.roll() >> 32) as u32 % bound
    }

    /// The size of a group: at least one, exponential around the mean.
    fn group(&mut self) -> u32 {
        let share = (self.roll() >> 11) as f64 / (1_u64 << 53) as f64;
        1 + (-(1.0 - share).ln() * (GROUP - 0.5)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::super::tally::Tally;
    use super::*;

    fn check(towards: Towards) {
        let table = Internet { asn: 65100, routes: 5000, towards, edition: 1 };
        let mut tally = Tally::new(table.routes);
        tally.take(&table.updates()).expect("well formed");
        assert_eq!((tally.announced(), tally.withdrawn()), (5000, 0));
        let groups = f64::from(tally.updates());
        assert!((4.5..7.5).contains(&(5000.0 / groups)), "{groups} groups");
        tally.take(&table.withdrawals()).expect("well formed");
        assert_eq!((tally.announced(), tally.withdrawn()), (0, 5000));
    }

    #[test]
    fn a_table_says_each_prefix_once_in_groups_of_about_six() {
        check(Towards::V4(Ipv4Addr::new(10, 98, 0, 2)));
        check(Towards::V6("fd98::2".parse().expect("an address")));
    }
}
