//! Rules of legacy iptables, which nf_tables does not know: those that drop packets, with how many each dropped, and
//! what is certain of packets that are forwarded. The kernel tells them by socket options of its own.

#![expect(clippy::disallowed_methods, reason = "this module is shell: it reads what the kernel tells")]

mod forward;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::passage;

/// `IPT_SO_GET_INFO` and `IP6T_SO_GET_INFO`.
const GET_INFO: i32 = 64;
/// `IPT_SO_GET_ENTRIES` and `IP6T_SO_GET_ENTRIES`.
const GET_ENTRIES: i32 = 65;
/// Octets of a table's name, of `struct ipt_getinfo`, and of `struct ipt_get_entries` before the entries.
const NAME: usize = 32;
const INFO: usize = 84;
const ENTRIES: usize = 40;
/// Octets of `struct xt_entry_match` and `xt_entry_target` before what each has of its own.
const MATCH: usize = 32;
/// Where `struct ipt_getinfo` has the first entry of each hook, and the policy of each.
const ENTRY_OF_HOOK: usize = 36;
const POLICY_OF_HOOK: usize = 56;
/// The target that drops and says so.
const REJECT: &str = "REJECT";
/// The chains of the hooks, in their order.
const CHAINS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
/// Where `FORWARD` is among them.
const FORWARD: usize = 2;
/// Verdicts of a standard target; from 0 on it is the place of another rule.
const DROP: i32 = -1;
const ACCEPT: i32 = -2;
const RETURN: i32 = -5;
const INVERTED_SOURCE: u8 = 0x08;
const INVERTED_DESTINATION: u8 = 0x10;
const INVERTED_PROTOCOL: u8 = 0x40;
/// Tries where the table changes meanwhile.
const TRIES: usize = 3;

/// A rule, or a policy, that drops packets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dropping {
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// Which rule of the chain, from 1; `None` is the policy.
    pub line: Option<u32>,
    /// Its comment.
    pub comment: Option<String>,
    /// `DROP` or `REJECT`.
    pub target: String,
    /// How many packets it dropped so far.
    pub packets: u64,
    source: Condition,
    destination: Condition,
    protocol: u16,
    inverted: u8,
}

/// The bits that an address has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Condition {
    bits: Vec<u8>,
    mask: Vec<u8>,
}

impl Condition {
    fn holds(&self, address: IpAddr) -> bool {
        let octets = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let same = |((octet, bits), mask): ((&u8, &u8), &u8)| octet & mask == bits & mask;
        octets.len() == self.bits.len() && octets.iter().zip(&self.bits).zip(&self.mask).all(same)
    }
}

impl Dropping {
    /// Whether it can be for packets of this protocol from an address or to it.
    pub fn may_concern(&self, address: IpAddr, protocol: u8) -> bool {
        let inverted = |flag| self.inverted & flag != 0;
        let of_protocol =
            self.protocol == 0 || (self.protocol == u16::from(protocol)) != inverted(INVERTED_PROTOCOL);
        let from = self.source.holds(address) != inverted(INVERTED_SOURCE);
        let to = self.destination.holds(address) != inverted(INVERTED_DESTINATION);
        of_protocol && (from || to)
    }
}

/// The tables of a family that this network namespace has; usually none.
pub fn tables(ipv6: bool) -> Vec<String> {
    let file = if ipv6 { "ip6_tables_names" } else { "ip_tables_names" };
    // Of the namespace of this thread.
    let names = std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
    names.lines().map(str::to_owned).collect()
}

/// Everything that drops packets in the tables of a family, in their order.
///
/// # Errors
/// When the kernel does not let the caller read them.
pub fn dropping(ipv6: bool) -> io::Result<Vec<Dropping>> {
    let found = each(ipv6, |walk| walk.dropping())?;
    Ok(found.into_iter().flatten().collect())
}

/// The tables of both families that see packets which are forwarded, with all chains.
///
/// # Errors
/// When the kernel does not let the caller read them.
pub fn forwarding() -> io::Result<Vec<passage::Table>> {
    let mut found = each(false, |walk| walk.forwarding())?;
    found.extend(each(true, |walk| walk.forwarding())?);
    Ok(found.into_iter().flatten().collect())
}

/// Reads all tables of a family, one after the other.
fn each<T>(ipv6: bool, read_out: impl Fn(Walk<'_>) -> T) -> io::Result<Vec<T>> {
    let tables = tables(ipv6);
    if tables.is_empty() {
        return Ok(Vec::new());
    }
    let family = if ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let of_table = |table: &String| {
        let (info, entries) = read(&socket, ipv6, table)?;
        Ok(read_out(Walk { ipv6, table, info: &info, entries: &entries }))
    };
    tables.iter().map(of_table).collect()
}

fn read(socket: &OwnedFd, ipv6: bool, table: &str) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let level = if ipv6 { libc::SOL_IPV6 } else { libc::SOL_IP };
    let named = |octets: usize| {
        let mut buffer = vec![0; octets];
        let name = table.as_bytes().get(..table.len().min(NAME - 1)).unwrap_or_default();
        buffer.iter_mut().zip(name).for_each(|(place, octet)| *place = *octet);
        buffer
    };
    for _ in 0..TRIES {
        let mut info = named(INFO);
        option(socket, level, GET_INFO, &mut info)?;
        let size = number(&info, 80).unwrap_or_default();
        let mut entries = named(ENTRIES + size as usize);
        if let Some(place) = entries.get_mut(NAME..NAME + 4) {
            place.copy_from_slice(&size.to_ne_bytes());
        }
        match option(socket, level, GET_ENTRIES, &mut entries) {
            Ok(()) => return Ok((info, entries.split_off(ENTRIES))),
            Err(Errno::EAGAIN) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(io::ErrorKind::Interrupted.into())
}

/// Reads a socket option whose buffer says which table is meant: no safe wrapper hands the buffer over.
#[expect(unsafe_code, reason = "getsockopt of a buffer that is read, too, has no safe wrapper")]
fn option(socket: &OwnedFd, level: i32, option: i32, buffer: &mut [u8]) -> Result<(), Errno> {
    let mut length = libc::socklen_t::try_from(buffer.len()).map_err(|_| Errno::EMSGSIZE)?;
    // SAFETY: the buffer is as long as `length` says, both live until the call returns, and the kernel writes no more
    // than that.
    let done = unsafe {
        let place = buffer.as_mut_ptr().cast::<libc::c_void>();
        libc::getsockopt(socket.as_raw_fd(), level, option, place, &raw mut length)
    };
    Errno::result(done).map(drop)
}

fn number(octets: &[u8], at: usize) -> Option<u32> {
    octets.get(at..)?.first_chunk().map(|octets| u32::from_ne_bytes(*octets))
}

fn short(octets: &[u8], at: usize) -> Option<usize> {
    octets.get(at..)?.first_chunk().map(|octets| usize::from(u16::from_ne_bytes(*octets)))
}

/// Text up to the first zero.
fn text(octets: &[u8]) -> String {
    let text = octets.split(|octet| *octet == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

/// The entries of a table, as `struct ipt_entry` or `ip6t_entry` on machines of 64 bits.
struct Walk<'a> {
    ipv6: bool,
    table: &'a str,
    info: &'a [u8],
    entries: &'a [u8],
}

/// A rule, or the policy of a chain.
struct Entry<'a> {
    /// Where it is in its table.
    at: usize,
    chain: String,
    /// Which of its chain, from 1; `None` is the policy.
    line: Option<u32>,
    octets: &'a [u8],
    /// Its target: a name, empty for the standard one, and what that has of its own.
    target: String,
    data: &'a [u8],
}

impl Entry<'_> {
    /// The verdict of a standard target.
    fn verdict(&self) -> Option<i32> {
        number(self.data, 0).filter(|_| self.target.is_empty()).map(u32::cast_signed)
    }
}

impl<'a> Walk<'a> {
    fn dropping(&self) -> Vec<Dropping> {
        let mut found = Vec::new();
        for Entry { chain, line, octets, target, data, .. } in self.all() {
            let drops = target.is_empty() && number(data, 0).map(u32::cast_signed) == Some(DROP);
            if drops || target == REJECT {
                let target = if drops { "DROP".to_owned() } else { target };
                found.extend(self.rule(octets, Dropping { chain, line, target, ..Dropping::default() }));
            }
        }
        found
    }

    /// All rules and policies.
    fn all(&self) -> Vec<Entry<'a>> {
        let mut found = Vec::new();
        let (mut at, mut chain, mut line) = (0, String::new(), 0);
        while let Some(next) = self.entries.get(at..).and_then(|rest| short(rest, self.places().next)) {
            let Some(octets) = self.entries.get(at..at + next).filter(|octets| !octets.is_empty()) else {
                break;
            };
            if let Some(hook) = self.hook(ENTRY_OF_HOOK, at) {
                (chain, line) = (CHAINS[hook].to_owned(), 0);
            }
            match self.target(octets) {
                Some((name, data)) if name == "ERROR" => (chain, line) = (text(data), 0),
                Some((target, data)) => {
                    line += 1;
                    let line = self.hook(POLICY_OF_HOOK, at).is_none().then_some(line);
                    found.push(Entry { at, chain: chain.clone(), line, octets, target, data });
                }
                None => {}
            }
            at += next;
        }
        found
    }

    /// The hook whose number at `place` of the table's description is this one.
    fn hook(&self, place: usize, at: usize) -> Option<usize> {
        let is =
            |hook: &usize| self.has(*hook) && number(self.info, place + hook * 4) == u32::try_from(at).ok();
        (0..CHAINS.len()).find(is)
    }

    /// Whether the table is at a hook.
    fn has(&self, hook: usize) -> bool {
        number(self.info, NAME).is_some_and(|valid| valid & (1 << hook) != 0)
    }

    fn places(&self) -> &'static Places {
        if self.ipv6 { &V6 } else { &V4 }
    }

    fn target(&self, entry: &'a [u8]) -> Option<(String, &'a [u8])> {
        let target = entry.get(short(entry, self.places().target)?..)?;
        Some((text(target.get(2..MATCH - 1)?), target.get(MATCH..)?))
    }

    fn rule(&self, entry: &[u8], dropping: Dropping) -> Option<Dropping> {
        let places = self.places();
        let length = places.address;
        let address = |place: usize| entry.get(place * length..(place + 1) * length).map(<[u8]>::to_vec);
        let condition = |place| Some(Condition { bits: address(place)?, mask: address(place + 2)? });
        Some(Dropping {
            table: self.table.to_owned(),
            comment: self.comment(entry),
            packets: entry.get(places.counters..)?.first_chunk().map(|octets| u64::from_ne_bytes(*octets))?,
            source: condition(0)?,
            destination: condition(1)?,
            protocol: u16::try_from(short(entry, places.protocol)?).ok()?,
            inverted: *entry.get(places.inverted)?,
            ..dropping
        })
    }

    /// What its match `comment` says.
    fn comment(&self, entry: &[u8]) -> Option<String> {
        let comment = self.matches(entry).into_iter().find(|one| one.name == "comment");
        comment.map(|comment| text(comment.data))
    }

    /// The matches of a rule, in their order.
    fn matches(&self, entry: &'a [u8]) -> Vec<Match<'a>> {
        let mut found = Vec::new();
        let mut rest =
            short(entry, self.places().target).and_then(|end| entry.get(self.places().length..end));
        while let Some(one) = rest {
            let size = short(one, 0).filter(|size| *size >= MATCH);
            let parts = size.and_then(|size| Some((one.get(2..MATCH - 1)?, one.get(MATCH..size)?, size)));
            let Some((name, data, size)) = parts else { break };
            found.push(Match { name: text(name), revision: one[MATCH - 1], data });
            rest = one.get(size..);
        }
        found
    }
}

/// A match of a rule, and what it has of its own.
struct Match<'a> {
    name: String,
    revision: u8,
    data: &'a [u8],
}

/// Where an entry has what, in octets.
struct Places {
    /// Octets of an address: source, destination and the masks of both come first.
    address: usize,
    protocol: usize,
    flags: usize,
    inverted: usize,
    target: usize,
    next: usize,
    counters: usize,
    length: usize,
}

const V4: Places = Places {
    address: 4,
    protocol: 80,
    flags: 82,
    inverted: 83,
    target: 88,
    next: 90,
    counters: 96,
    length: 112,
};
const V6: Places = Places {
    address: 16,
    protocol: 128,
    flags: 131,
    inverted: 132,
    target: 140,
    next: 142,
    counters: 152,
    length: 168,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_that_are_no_table_end_the_walk() {
        for octets in [0, 1, 90, 112, 400] {
            for fill in [0, 1, 0xff] {
                let (info, entries) = (vec![fill; INFO], vec![fill; octets]);
                for ipv6 in [false, true] {
                    let _found = Walk { ipv6, table: "filter", info: &info, entries: &entries }.dropping();
                    let _table = Walk { ipv6, table: "filter", info: &info, entries: &entries }.forwarding();
                }
            }
        }
    }
}
