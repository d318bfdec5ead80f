//! Network address translation for what leaves the pods' world: which traffic is masqueraded, as rules of our own
//! nftables tables.

use std::collections::BTreeSet;

use ipnetwork::IpNetwork;

/// What is to be translated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NatRules {
    /// Traffic from these networks …
    pub masquerade: BTreeSet<IpNetwork>,
    /// … to outside all of these takes the node's address. All pools, whether they masquerade or not.
    pub all_pools: BTreeSet<IpNetwork>,
}
