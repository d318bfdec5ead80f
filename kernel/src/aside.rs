//! A pod's second interface: it must not take the default route of the first, and must be reached all the same.
//!
//! A pod whose default route leads by another interface keeps it. What the pod sends from the second interface's
//! address leaves by that interface, by a rule and a routing table of its own, since its node takes packets only from
//! the link whose address they carry:
//!
//! ```text
//! 17900: from 10.245.3.7 lookup 179003
//! default via 169.254.1.1 dev net1 onlink table 179003
//! ```
//!
//! Families are decided on one by one: an IPv4 pod that gets a dual-stack second interface has its IPv6 default route
//! by that one.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use nix::libc;

use crate::netlink::request::Batch;
use crate::pod::{family, host_bits};

/// The interface that always has its pod's default routes.
pub const PRIMARY: &str = "eth0";
/// The preference of the rules: behind `local` (0), ahead of `main` (32766).
pub const RULE_PREFERENCE: u32 = 17_900;
/// The number of the table of an interface is this and its index.
const TABLES: u32 = 179_000;

const FRA_SRC: u16 = 2;
const FRA_PRIORITY: u16 = 6;
const FRA_TABLE: u16 = 15;
const FR_ACT_TO_TBL: u8 = 1;

/// The families whose default route leads by another interface of the pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Aside {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

impl Aside {
    /// Whether it has the family of this address.
    pub fn has(self, address: IpAddr) -> bool {
        if address.is_ipv4() { self.v4 } else { self.v6 }
    }

    /// Whether it has any.
    pub fn any(self) -> bool {
        self.v4 || self.v6
    }
}

/// The routing table of the interface with this index.
pub fn table(index: u32) -> u32 {
    TABLES.saturating_add(index)
}

/// A rule that chooses a table by the source address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The source.
    pub from: IpNetwork,
    /// The table.
    pub table: u32,
}

/// The request that makes a rule: what comes from this address takes this table. Refused with `EEXIST` if it is there.
pub fn make_rule(from: IpAddr, table: u32) -> Batch {
    let body = [family(from), 0, host_bits(from), 0, 0, 0, 0, FR_ACT_TO_TBL, 0, 0, 0, 0];
    Batch::of(libc::RTM_NEWRULE, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &body, |rule| {
        rule.put_ip(FRA_SRC, from).put_u32(FRA_PRIORITY, RULE_PREFERENCE).put_u32(FRA_TABLE, table);
    })
}

/// Reads `RTM_NEWRULE`, if it chooses a table by a source.
pub(crate) fn read_rule(message: &crate::netlink::request::Message<'_>) -> Option<Rule> {
    use crate::netlink::request::{read_ip, read_u32};
    let body: [u8; 12] = message.body().filter(|_| message.kind == libc::RTM_NEWRULE)?;
    let of_kind = |wanted| message.attribute(12, wanted);
    let from = IpNetwork::new(read_ip(of_kind(FRA_SRC)?)?, body[2]).ok()?;
    Some(Rule { from, table: of_kind(FRA_TABLE).and_then(read_u32)? })
}
