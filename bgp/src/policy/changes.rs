//! What an accepting rule changes about a route.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::CommunityValue;
use crate::wire::{Attributes, Community, ExtendedCommunity, LargeCommunity};

/// Changes to an accepted route. Communities are first replaced, then removed, then added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Sets LOCAL_PREF; on export this reaches internal peers only.
    pub local_pref: Option<u32>,
    /// Sets MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// Replaces COMMUNITIES by these.
    pub set_communities: Option<BTreeSet<Community>>,
    /// Replaces EXTENDED COMMUNITIES by these.
    pub set_extended_communities: Option<BTreeSet<ExtendedCommunity>>,
    /// Replaces LARGE_COMMUNITY by these.
    pub set_large_communities: Option<BTreeSet<LargeCommunity>>,
    /// Removes such communities, of whichever kind.
    pub remove_communities: BTreeSet<CommunityValue>,
    /// Adds these to COMMUNITIES.
    pub add_communities: BTreeSet<Community>,
    /// Adds these to EXTENDED COMMUNITIES.
    pub add_extended_communities: BTreeSet<ExtendedCommunity>,
    /// Adds these to LARGE_COMMUNITY.
    pub add_large_communities: BTreeSet<LargeCommunity>,
    /// Prepends an AS this many more times: ours on export to external peers, the leftmost of the path on import from
    /// them. Among internal peers it does nothing.
    pub prepend: u8,
    /// Sets the next hop: where traffic goes on import, what the peer is told on export.
    pub next_hop: Option<IpAddr>,
    /// On import, the traffic is discarded and the route goes no further (RFC 7999 §3.3). Without it a route from an
    /// external peer that carries BLACKHOLE is not used.
    pub blackhole: bool,
}

impl Changes {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Changes all but the path and the next hop, which depend on the direction.
    pub(crate) fn apply(&self, attributes: &mut Attributes) {
        attributes.local_pref = self.local_pref.or(attributes.local_pref);
        attributes.med = self.med.or(attributes.med);
        if let Some(set) = &self.set_communities {
            attributes.communities.clone_from(set);
        }
        if let Some(set) = &self.set_extended_communities {
            attributes.extended_communities.clone_from(set);
        }
        if let Some(set) = &self.set_large_communities {
            attributes.large_communities.clone_from(set);
        }
        self.remove_communities.iter().for_each(|value| value.remove_from(attributes));
        attributes.communities.extend(&self.add_communities);
        attributes.extended_communities.extend(&self.add_extended_communities);
        attributes.large_communities.extend(&self.add_large_communities);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::NextHop;

    #[test]
    fn communities_are_replaced_then_removed_then_added() {
        let one = Community::new(1, 1);
        let two = Community::new(1, 2);
        let large = LargeCommunity { global: 7, local1: 8, local2: 9 };
        let target: ExtendedCommunity = "rt:1:1".parse().unwrap();
        let mut route = Attributes::new(NextHop::V4([10, 0, 0, 1].into()));
        route.communities.insert(Community::new(9, 9));
        route.large_communities.insert(large);
        let changes = Changes {
            set_communities: Some([one].into()),
            remove_communities: ["1:*", "7:*:*"].map(|text| text.parse().unwrap()).into(),
            add_communities: [two].into(),
            add_extended_communities: [target].into(),
            local_pref: Some(7),
            ..Changes::default()
        };
        changes.apply(&mut route);
        assert_eq!(route.communities, [two].into());
        assert_eq!(route.large_communities, BTreeSet::new());
        assert_eq!(route.extended_communities, [target].into());
        assert_eq!((route.local_pref, route.med), (Some(7), None));
    }
}
