//! Puts [`NatRules`] into the kernel, in one transaction for each family, and reads them back.
//!
//! The tables are ours alone (`ip manx`, `ip6 manx`), so that nobody's rules are touched, kube-proxy's least of all.

use nix::errno::Errno;

use crate::nat::{Family, FamilyRules, NatRules};

use super::nftables::{self, Expression, Table, TableFamily, Transaction};
use super::socket::{RequestError, Socket, SocketError};

const TABLE: &str = "manx";
const CHAIN: &str = "postrouting";
const POOLS: &str = "pools";
const INSIDE: &str = "inside";
const COMMENT: &str = "what leaves the pools takes the address of the node";
/// Room for sets of some ten thousand pools.
const BUFFER_OCTETS: usize = 4 << 20;

/// Our nftables tables in the network namespace in which this was opened.
#[derive(Debug)]
pub struct Nat {
    socket: Socket,
}

impl Nat {
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

    /// Makes our tables say exactly this. Each family changes at once: no packet sees half of it.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the transaction of a family, in which then nothing changed.
    pub fn replace(&mut self, rules: &NatRules) -> Result<(), SocketError> {
        for (family, table) in tables() {
            match rules.of(family) {
                Some(rules) => self.replace_table(table, &rules)?,
                None => self.remove_table(table)?,
            }
        }
        Ok(())
    }

    /// Whether our tables say exactly this.
    ///
    /// # Errors
    ///
    /// When the tables cannot be read.
    pub fn verify(&mut self, rules: &NatRules) -> Result<bool, SocketError> {
        for (family, table) in tables() {
            let right = match rules.of(family) {
                Some(rules) => self.verify_table(table, &rules)?,
                None => self.has_no_chains(table)?,
            };
            if !right {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Removes our tables; it is fine if there are none.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the transaction.
    pub fn remove(&mut self) -> Result<(), SocketError> {
        tables().into_iter().try_for_each(|(_, table)| self.remove_table(table))
    }

    fn replace_table(&mut self, table: Table<'_>, rules: &FamilyRules) -> Result<(), SocketError> {
        let mut transaction = Transaction::new(table);
        transaction.no_table();
        transaction.table();
        transaction.set(POOLS, table.family, &rules.pools);
        transaction.set(INSIDE, table.family, &rules.inside);
        transaction.nat_postrouting(CHAIN);
        transaction.rule(CHAIN, &masquerade(table.family), COMMENT);
        self.commit(transaction)
    }

    fn remove_table(&mut self, table: Table<'_>) -> Result<(), SocketError> {
        let mut transaction = Transaction::new(table);
        transaction.no_table();
        match self.commit(transaction) {
            // A kernel without the family has no table of it.
            Err(SocketError::Refused(RequestError {
                errno: Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP,
                ..
            })) => Ok(()),
            result => result,
        }
    }

    fn commit(&mut self, transaction: Transaction<'_>) -> Result<(), SocketError> {
        self.socket.send(&mut transaction.finish())?.all_done()?;
        Ok(())
    }

    fn verify_table(&mut self, table: Table<'_>, rules: &FamilyRules) -> Result<bool, SocketError> {
        let chains = self.socket.dump(&mut nftables::get_chains(table))?;
        let chains: Vec<_> =
            chains.iter().filter(|chain| nftables::table_of(chain).as_deref() == Some(TABLE)).collect();
        let chain_right = chains.len() == 1 && nftables::is_nat_postrouting(&chains[0], CHAIN);
        if !chain_right {
            return Ok(false);
        }
        let there = self.socket.dump(&mut nftables::get_rules(table))?;
        let there: Vec<_> =
            there.iter().filter(|rule| nftables::table_of(rule).as_deref() == Some(TABLE)).collect();
        let rule_right = there.len() == 1 && nftables::is_rule(&there[0], CHAIN, &masquerade(table.family));
        Ok(rule_right
            && nftables::verify_set(&mut self.socket, table, POOLS, &nftables::elements(&rules.pools))?
            && nftables::verify_set(&mut self.socket, table, INSIDE, &nftables::elements(&rules.inside))?)
    }

    fn has_no_chains(&mut self, table: Table<'_>) -> Result<bool, SocketError> {
        match self.socket.dump(&mut nftables::get_chains(table)) {
            Ok(chains) => {
                Ok(!chains.iter().any(|chain| nftables::table_of(&chain).as_deref() == Some(TABLE)))
            }
            Err(SocketError::Refused(RequestError {
                errno: Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP,
                ..
            })) => Ok(true),
            Err(error) => Err(error),
        }
    }
}

fn tables() -> [(Family, Table<'static>); 2] {
    [(Family::V4, TableFamily::Ip), (Family::V6, TableFamily::Ip6)]
        .map(|(family, table)| (family, Table { family: table, name: TABLE }))
}

/// `ip saddr @pools ip daddr != @inside oifname != "lo" masquerade fully-random`
fn masquerade(family: TableFamily) -> Vec<Expression> {
    let (destination, length) = family.destination();
    let source = destination - length;
    vec![
        Expression::NetworkHeader { offset: source, length },
        Expression::Lookup { set: POOLS, holds: true },
        Expression::NetworkHeader { offset: destination, length },
        Expression::Lookup { set: INSIDE, holds: false },
        Expression::OutLink,
        Expression::IsNotLink("lo"),
        Expression::Masquerade,
    ]
}
