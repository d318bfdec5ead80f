//! Puts [`GuardRules`] into the kernel in one transaction, and reads them back; [`admit`] does so with what the link of
//! one pod may bring.
//!
//! The tables are ours alone (`inet manx`, `netdev manx`). What they accept, the tables of others may still drop.

use nix::libc;

use crate::guard::GuardRules;
use crate::names::HOST_LINK_PREFIX;

pub use super::admission::{Audit, Gate, Gates, Sight, admit, admitted};
use super::nftables::{self, Expression, Hook, Table, TableFamily, Transaction};
use super::socket::{Socket, SocketError};

pub(super) const TABLE: Table<'static> = Table { family: TableFamily::Inet, name: "manx" };
const ROUTERS: [(TableFamily, &str, i32); 2] =
    [(TableFamily::Ip, "routers4", libc::NFPROTO_IPV4), (TableFamily::Ip6, "routers6", libc::NFPROTO_IPV6)];
const COMMENT: &str = "nothing from a pod reaches where routers speak";
/// Room for sets of some ten thousand routers.
const BUFFER_OCTETS: usize = 4 << 20;
const SOURCE_PORT: u32 = 0;
const DESTINATION_PORT: u32 = 2;

/// Our guard in the network namespace in which this was opened.
#[derive(Debug)]
pub struct Guard {
    socket: Socket,
}

/// A rule: which chain it is of, and its steps.
type Rule = (Hook, Vec<Expression>);

impl Guard {
    /// Opens a socket in the current network namespace.
    ///
    /// # Errors
    ///
    /// When the system gives no socket.
    pub fn open() -> Result<Self, SocketError> {
        let socket = Socket::netfilter()?;
        socket.enlarge_buffers(BUFFER_OCTETS);
        Ok(Self { socket })
    }

    /// Makes our table say exactly this, at once: no packet sees half of it.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the transaction; then nothing changed.
    pub fn replace(&mut self, guard: &GuardRules) -> Result<(), SocketError> {
        let mut transaction = Transaction::new(TABLE);
        transaction.no_table();
        transaction.table();
        for (addresses, set, _) in ROUTERS {
            transaction.set(set, addresses, &guard.routers_of(addresses == TableFamily::Ip));
        }
        for hook in Hook::ALL {
            transaction.filter(hook);
        }
        for (hook, rule) in rules(guard) {
            transaction.rule(hook.name(), &rule, COMMENT);
        }
        self.commit(transaction)
    }

    /// Whether our table says exactly this.
    ///
    /// # Errors
    ///
    /// When the table cannot be read.
    pub fn verify(&mut self, guard: &GuardRules) -> Result<bool, SocketError> {
        let chains = self.socket.dump(&mut nftables::get_chains(TABLE))?;
        let chains: Vec<_> =
            chains.iter().filter(|chain| nftables::table_of(chain).as_deref() == Some(TABLE.name)).collect();
        let has = |hook: &Hook| chains.iter().any(|chain| nftables::is_filter(chain, *hook));
        if chains.len() != Hook::ALL.len() || !Hook::ALL.iter().all(has) {
            return Ok(false);
        }
        let there = self.socket.dump(&mut nftables::get_rules(TABLE))?;
        let there: Vec<_> =
            there.iter().filter(|rule| nftables::table_of(rule).as_deref() == Some(TABLE.name)).collect();
        let wanted = rules(guard);
        let right = there.len() == wanted.len()
            && there
                .iter()
                .zip(&wanted)
                .all(|(rule, (hook, expressions))| nftables::is_rule(rule, hook.name(), expressions));
        if !right {
            return Ok(false);
        }
        for (addresses, set, _) in ROUTERS {
            let elements = nftables::elements(&guard.routers_of(addresses == TableFamily::Ip));
            if !nftables::verify_set(&mut self.socket, TABLE, set, &elements)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Removes our table; it is fine if there is none.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the transaction.
    pub fn remove(&mut self) -> Result<(), SocketError> {
        let mut transaction = Transaction::new(TABLE);
        transaction.no_table();
        self.commit(transaction)
    }

    fn commit(&mut self, transaction: Transaction<'_>) -> Result<(), SocketError> {
        self.socket.send(&mut transaction.finish())?.all_done()?;
        Ok(())
    }
}

/// The tables of ours that there are besides those of single links, as `nft` names them.
///
/// # Errors
///
/// When the kernel cannot be asked.
pub fn tables() -> Result<Vec<String>, SocketError> {
    let mut socket = Socket::netfilter()?;
    let mut found = Vec::new();
    for (family, name) in [(TableFamily::Ip, "ip"), (TableFamily::Ip6, "ip6"), (TableFamily::Inet, "inet")] {
        let tables = socket.dump(&mut nftables::get_tables(family))?;
        let ours = |(table, _): (String, u64)| table == TABLE.name;
        if tables.iter().any(|message| nftables::read_table(&message).is_some_and(ours)) {
            found.push(format!("{name} {}", TABLE.name));
        }
    }
    Ok(found)
}

/// All rules, in the order of their chains.
fn rules(guard: &GuardRules) -> Vec<Rule> {
    let tcp = [libc::IPPROTO_TCP as u8];
    let udp = [libc::IPPROTO_UDP as u8];
    let mut rules = vec![
        (Hook::Input, not_from_pods()),
        (
            Hook::Input,
            vec![
                Expression::Protocol,
                Expression::Is { octets: tcp.to_vec(), holds: false },
                Expression::Is { octets: udp.to_vec(), holds: false },
                Expression::Accept,
            ],
        ),
    ];
    for port in &guard.ports {
        for field in [DESTINATION_PORT, SOURCE_PORT] {
            let mut rule = has_port(field, *port);
            rule.push(Expression::Drop);
            rules.push((Hook::Input, rule));
        }
    }
    rules.push((Hook::Forward, not_from_pods()));
    let only_tcp =
        vec![Expression::Protocol, Expression::Is { octets: tcp.to_vec(), holds: false }, Expression::Accept];
    rules.push((Hook::Forward, only_tcp));
    for port in &guard.router_ports {
        for field in [DESTINATION_PORT, SOURCE_PORT] {
            rules.extend(ROUTERS.map(|routers| (Hook::Forward, to_routers(routers, field, *port))));
        }
    }
    rules
}

/// `iifname != "cali*" accept`
fn not_from_pods() -> Vec<Expression> {
    let octets = HOST_LINK_PREFIX.as_bytes().to_vec();
    vec![Expression::InLink, Expression::Is { octets, holds: false }, Expression::Accept]
}

/// `th dport 179`
fn has_port(field: u32, port: u16) -> Vec<Expression> {
    vec![
        Expression::TransportHeader { offset: field, length: 2 },
        Expression::Is { octets: port.to_be_bytes().to_vec(), holds: true },
    ]
}

/// `meta nfproto ipv4 tcp dport 179 ip daddr @routers4 drop`
fn to_routers(
    (family, set, number): (TableFamily, &'static str, i32),
    field: u32,
    port: u16,
) -> Vec<Expression> {
    let (offset, length) = family.destination();
    let mut rule = vec![Expression::Family, Expression::Is { octets: vec![number as u8], holds: true }];
    rule.extend(has_port(field, port));
    rule.extend([
        Expression::NetworkHeader { offset, length },
        Expression::Lookup { set, holds: true },
        Expression::Drop,
    ]);
    rule
}
