//! Puts [`Admission`] into the kernel: a chain at the ingress of the link, ahead of everything that the node does with
//! a frame, neighbour discovery and ARP included.
//!
//! Each link has a table of its own, named after it (`netdev manx-cali…`), with one chain that names all that the link
//! may bring and drops the rest. So it needs nothing that was made before it, and one transaction makes or replaces it.
//! Of a table with several chains the kernel walks every rule at every change, which would make a pod's start slower
//! with each pod that is there. Constants in the rules cost less per frame than a set would that all links share.
//!
//! What becomes of it with its link depends on the kernel: up to 6.15 the chain goes and the empty table stays, from
//! then on all stays. [`Gates`] removes what no link needs any more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use nix::errno::Errno;
use nix::libc;

use crate::guard::Admission;
use crate::names::{HOST_LINK_LOCAL, LINK_GROUP, Mac, parse_alias};

use super::inspect::{self, End};
use super::nftables::{self, Expression, Table, TableFamily, Transaction};
use super::socket::{RequestError, Socket, SocketError};

/// The names of our tables begin with this; the name of the link follows.
const PREFIX: &str = "manx-";
const CHAIN: &str = "ingress";

const ETH_P_IP: u16 = libc::ETH_P_IP as u16;
const ETH_P_IPV6: u16 = libc::ETH_P_IPV6 as u16;
const ETH_P_ARP: u16 = libc::ETH_P_ARP as u16;

/// Types of ICMPv6 below this one are errors and echoes; what is left are those of the link itself.
const ICMPV6_LINK_TYPES: u8 = 130;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Where both have their target, in octets of the ICMPv6 header.
const TARGET: u32 = 8;

/// What became of an [`Admission`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// The kernel takes nothing else from the link.
    Shut,
    /// This kernel cannot filter at the ingress of a link.
    Unsupported,
}

/// Takes from the link what the admission names, and nothing else. The link must exist; whatever was said of it before
/// is replaced at once.
///
/// `netfilter` is a socket of [`Socket::netfilter`], opened in the host's namespace.
///
/// # Errors
/// When the kernel refuses; then nothing changed.
pub fn admit(netfilter: &mut Socket, admission: &Admission) -> Result<Gate, SocketError> {
    let first = put(netfilter, admission, |transaction| transaction.new_table());
    match first {
        Err(SocketError::Refused(RequestError { errno: Errno::EEXIST, .. })) => {
            put(netfilter, admission, |transaction| {
                transaction.no_table();
                transaction.table();
            })
        }
        other => other,
    }
}

/// Puts an admission into a table that `begin` makes.
fn put(
    netfilter: &mut Socket,
    admission: &Admission,
    begin: impl FnOnce(&mut Transaction<'_>),
) -> Result<Gate, SocketError> {
    let name = table_name(&admission.link);
    let mut transaction = Transaction::new(table(&name));
    begin(&mut transaction);
    transaction.ingress(CHAIN, &admission.link);
    for (rule, comment) in rules(admission) {
        transaction.rule(CHAIN, &rule, comment);
    }
    match netfilter.send(&mut transaction.finish())?.all_done() {
        Ok(_) => Ok(Gate::Shut),
        Err(refusal) if is_unsupported(refusal.errno) => Ok(Gate::Unsupported),
        Err(refusal) => Err(refusal.into()),
    }
}

/// Whether the kernel takes from the link exactly what the admission names; `None` if it cannot filter there.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn admitted(netfilter: &mut Socket, admission: &Admission) -> Result<Option<bool>, SocketError> {
    let name = table_name(&admission.link);
    let table = table(&name);
    let chain = match netfilter.send(&mut nftables::get_chain(table, CHAIN))?.all_done() {
        Ok(chain) => chain,
        Err(refusal) if refusal.errno == Errno::ENOENT => return Ok(Some(false)),
        Err(refusal) if is_unsupported(refusal.errno) => return Ok(None),
        Err(refusal) => return Err(refusal.into()),
    };
    if !chain.iter().any(|message| nftables::is_ingress(&message, CHAIN, &admission.link)) {
        return Ok(Some(false));
    }
    let there = netfilter.dump(&mut nftables::get_rules(table))?;
    let wanted = rules(admission);
    let same = there.iter().zip(&wanted).all(|(rule, (wanted, _))| nftables::is_rule(&rule, CHAIN, wanted));
    Ok(Some(same && there.iter().count() == wanted.len()))
}

/// Looks after the admissions of all pods' links of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Gates {
    route: Socket,
    netfilter: Socket,
}

/// What [`Gates::audit`] found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Audit {
    /// Links of pods that are guarded.
    pub guarded: usize,
    /// Those whose guard was missing or not as it should be, and is again.
    pub mended: Vec<String>,
    /// Links of pods of which the kernel's neighbours do not tell what they may bring.
    pub unknown: Vec<String>,
    /// Guards of links that are gone, removed.
    pub swept: usize,
}

/// What [`Gates::look`] sees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sight {
    /// Links of pods with a guard as it should be, and the addresses that it lets pass.
    pub admitted: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Links of pods whose guard is missing or not as it should be.
    pub open: Vec<String>,
    /// Links of pods of which the kernel's neighbours do not tell what they may bring.
    pub unknown: Vec<String>,
    /// Names of links that are gone, and whose guards are there.
    pub strays: Vec<String>,
}

impl Gates {
    /// Opens sockets in the current network namespace. `None` on a kernel that cannot filter at the ingress of links.
    ///
    /// # Errors
    /// When the system gives no socket, or the kernel cannot be asked.
    pub fn open() -> Result<Option<Self>, SocketError> {
        let netfilter = match Socket::netfilter() {
            Err(SocketError::Io { errno: Errno::EPROTONOSUPPORT, .. }) => return Ok(None),
            other => other?,
        };
        let mut gates = Self { route: Socket::route()?, netfilter };
        Ok(gates.is_supported()?.then_some(gates))
    }

    /// Asks for a table and takes it back: a kernel without the family says so only then.
    fn is_supported(&mut self) -> Result<bool, SocketError> {
        let mut transaction = Transaction::new(table(PREFIX));
        transaction.no_table();
        match self.netfilter.send(&mut transaction.finish())?.all_done() {
            Ok(_) => Ok(true),
            Err(refusal) if is_unsupported(refusal.errno) => Ok(false),
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// Mends what is missing or changed, and removes what belongs to no link any more.
    ///
    /// What a link may bring is read from the kernel itself: the permanent neighbours that it was given. A plugin may be
    /// at work meanwhile: what it makes after the first look is left alone, known by the handles of the tables.
    ///
    /// # Errors
    /// When the kernel cannot be asked, or refuses.
    pub fn audit(&mut self) -> Result<Audit, SocketError> {
        let tables = self.handles()?;
        let ends = inspect::ends(&mut self.route)?;
        let mut audit = Audit { swept: self.sweep(&tables, &ends)?, ..Audit::default() };
        for end in ends.iter().filter(|end| is_pods(end)) {
            let Some(admission) = self.expected(end)? else {
                audit.unknown.push(end.name.clone());
                continue;
            };
            audit.guarded += 1;
            if admitted(&mut self.netfilter, &admission)? == Some(false)
                && self.mend(&admission, tables.get(&end.name).copied())?
            {
                audit.mended.push(end.name.clone());
            }
        }
        Ok(audit)
    }

    /// What there is, in comparison with what there should be. Changes nothing.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn look(&mut self) -> Result<Sight, SocketError> {
        let tables = self.handles()?;
        let ends = inspect::ends(&mut self.route)?;
        let names: BTreeSet<&str> = ends.iter().map(|end| end.name.as_str()).collect();
        let strays = tables.into_keys().filter(|link| !names.contains(link.as_str())).collect();
        let mut sight = Sight { strays, ..Sight::default() };
        for end in ends.iter().filter(|end| is_pods(end)) {
            match self.expected(end)? {
                None => sight.unknown.push(end.name.clone()),
                Some(admission) if admitted(&mut self.netfilter, &admission)? == Some(false) => {
                    sight.open.push(end.name.clone());
                }
                Some(admission) => {
                    sight.admitted.insert(admission.link, admission.addresses.into_iter().collect());
                }
            }
        }
        Ok(sight)
    }

    /// The links that have a table of ours, and the handle of each: one that is made anew has another.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn handles(&mut self) -> Result<BTreeMap<String, u64>, SocketError> {
        let tables = self.netfilter.dump(&mut nftables::get_tables(TableFamily::Netdev))?;
        let ours = |message: &_| {
            let (name, handle) = nftables::read_table(message)?;
            Some((name.strip_prefix(PREFIX)?.to_owned(), handle))
        };
        Ok(tables.iter().filter_map(|message| ours(&message)).collect())
    }

    /// Removes the table of this handle. False if there is none any more.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn forget(&mut self, handle: u64) -> Result<bool, SocketError> {
        let mut transaction = Transaction::new(table(PREFIX));
        transaction.no_table_of(handle);
        match self.netfilter.send(&mut transaction.finish())?.all_done() {
            Ok(_) => Ok(true),
            Err(refusal) if refusal.errno == Errno::ENOENT => Ok(false),
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// Removes tables without a link, and counts them.
    fn sweep(&mut self, tables: &BTreeMap<String, u64>, ends: &[End]) -> Result<usize, SocketError> {
        let links: BTreeSet<&str> = ends.iter().map(|end| end.name.as_str()).collect();
        let mut swept = 0;
        for (_, handle) in tables.iter().filter(|(link, _)| !links.contains(link.as_str())) {
            swept += usize::from(self.forget(*handle)?);
        }
        Ok(swept)
    }

    /// What a link may bring, by the neighbours that it was given.
    fn expected(&mut self, end: &End) -> Result<Option<Admission>, SocketError> {
        let neighbours = inspect::neighbours(&mut self.route, end.index)?;
        let given: Vec<(IpAddr, Mac)> = neighbours
            .into_iter()
            .filter(|(_, neighbour)| neighbour.permanent)
            .filter_map(|(address, neighbour)| Some((address, neighbour.mac?)))
            .collect();
        let Some((_, mac)) = given.first().copied() else { return Ok(None) };
        let addresses =
            given.iter().filter(|(_, other)| *other == mac).map(|(address, _)| *address).collect();
        Ok(Some(Admission { link: end.name.clone(), mac, addresses }))
    }

    /// Replaces the table of this handle, or makes one where there is none. False if a plugin did so meanwhile.
    fn mend(&mut self, admission: &Admission, handle: Option<u64>) -> Result<bool, SocketError> {
        let begin = |transaction: &mut Transaction<'_>| {
            if let Some(handle) = handle {
                transaction.no_table_of(handle);
            }
            transaction.new_table();
        };
        match put(&mut self.netfilter, admission, begin) {
            Ok(_) => Ok(true),
            // Another table, or another link, or none any more.
            Err(SocketError::Refused(RequestError { errno: Errno::EEXIST | Errno::ENOENT, .. })) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Whether it is the host's end of a pod's link that is in use.
fn is_pods(end: &End) -> bool {
    let named = end.alias.as_deref().is_some_and(|alias| parse_alias(alias).is_some());
    end.up && end.group == LINK_GROUP && named
}

fn table_name(link: &str) -> String {
    format!("{PREFIX}{link}")
}

fn table(name: &str) -> Table<'_> {
    Table { family: TableFamily::Netdev, name }
}

/// The kernel has no nf_tables, or not for the ingress of links.
fn is_unsupported(errno: Errno) -> bool {
    matches!(errno, Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP)
}

/// A rule: its steps, and what it does for those who list it.
type Rule = (Vec<Expression>, &'static str);

/// All rules of a chain in their order.
fn rules(admission: &Admission) -> Vec<Rule> {
    let mut rules = Vec::new();
    let v4 = admission.addresses.iter().filter_map(|address| match address {
        IpAddr::V4(address) => Some(address.octets()),
        IpAddr::V6(_) => None,
    });
    let v6: Vec<Vec<u8>> = admission.sources_v6().iter().map(|address| address.octets().to_vec()).collect();
    for address in v4.clone() {
        rules.push((ipv4_from(admission.mac, address), "IPv4 from the pod"));
    }
    for address in v4 {
        rules.push((arp_from(admission.mac, address), "ARP from the pod"));
    }
    if !v6.is_empty() {
        rules.extend(ipv6_from(admission.mac, &v6));
    }
    rules
}

fn is(octets: &[u8], holds: bool) -> Expression {
    Expression::Is { octets: octets.to_vec(), holds }
}

/// The hardware address and the kind of a frame without a tag.
fn frame(mac: Mac, ethertype: u16, holds: bool) -> [Expression; 2] {
    let octets = [&mac.0[..], &ethertype.to_be_bytes()].concat();
    [Expression::LinkHeader { offset: 6, length: 8 }, is(&octets, holds)]
}

/// IPv4 with this source.
fn ipv4_from(mac: Mac, address: [u8; 4]) -> Vec<Expression> {
    let mut rule = frame(mac, ETH_P_IP, true).to_vec();
    let source = Expression::NetworkHeader { offset: 12, length: 4 };
    rule.extend([source, is(&address, true), Expression::Accept]);
    rule
}

/// Goes on with ICMPv6, or with anything else.
fn icmpv6(holds: bool) -> [Expression; 2] {
    [Expression::Protocol, is(&[libc::IPPROTO_ICMPV6 as u8], holds)]
}

/// ARP, questions and answers, with this sender.
fn arp_from(mac: Mac, address: [u8; 4]) -> Vec<Expression> {
    let mut rule = frame(mac, ETH_P_ARP, true).to_vec();
    let sender = [&mac.0[..], &address].concat();
    rule.extend([Expression::NetworkHeader { offset: 8, length: 10 }, is(&sender, true), Expression::Accept]);
    rule
}

/// IPv6 with one of these sources. Of ICMPv6 that concerns the link itself only what neighbour discovery needs on a
/// link with a single neighbour passes: no router advertisement, no redirect, no question about anybody else.
///
/// The kernel finds ICMPv6 behind extension headers too. Of a fragmented message the first fragment must show the
/// type; the others pass, and lead to nothing without it.
fn ipv6_from(mac: Mac, sources: &[Vec<u8>]) -> Vec<Rule> {
    let mut other_frames = frame(mac, ETH_P_IPV6, false).to_vec();
    other_frames.push(Expression::Drop);
    let mut other_sources = vec![Expression::NetworkHeader { offset: 8, length: 16 }];
    other_sources.extend(sources.iter().map(|source| is(source, false)));
    other_sources.push(Expression::Drop);
    let mut not_icmpv6 = icmpv6(false).to_vec();
    not_icmpv6.push(Expression::Accept);
    let mut echoes = icmpv6(true).to_vec();
    echoes.extend([ICMPV6_TYPE, Expression::Below(vec![ICMPV6_LINK_TYPES]), Expression::Accept]);
    let mut fragments = icmpv6(true).to_vec();
    // Three bits for other uses follow the 13 of the offset.
    fragments.extend([Expression::FragmentOffset, Expression::AtLeast(vec![0, 8]), Expression::Accept]);

    let mut rules = vec![
        (other_frames, "other hardware addresses and protocols"),
        (other_sources, "IPv6 that is not from the pod"),
        (not_icmpv6, "IPv6 from the pod"),
        (echoes, "errors and echoes"),
        (about(NEIGHBOUR_SOLICITATION, &HOST_LINK_LOCAL.octets()), "who is the gateway?"),
    ];
    let own = |source: &Vec<u8>| (about(NEIGHBOUR_ADVERTISEMENT, source), "that is the pod");
    rules.extend(sources.iter().map(own));
    rules.push((fragments, "later fragments of ICMPv6"));
    rules
}

const ICMPV6_TYPE: Expression = Expression::TransportHeader { offset: 0, length: 1 };

/// Neighbour discovery about this address.
fn about(kind: u8, target: &[u8]) -> Vec<Expression> {
    let target_field = Expression::TransportHeader { offset: TARGET, length: 16 };
    vec![ICMPV6_TYPE, is(&[kind], true), target_field, is(target, true), Expression::Accept]
}
