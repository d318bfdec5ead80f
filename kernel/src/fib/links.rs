//! The links of the node, by index and by name.

use std::collections::BTreeMap;

use crate::model::Link;

/// All links.
#[derive(Debug, Default)]
pub(super) struct Links {
    links: BTreeMap<u32, Link>,
    names: BTreeMap<String, u32>,
}

impl Links {
    /// Takes note of a link; returns what was known of it before.
    pub(super) fn put(&mut self, link: Link) -> Option<Link> {
        let before = self.remove(link.index);
        self.names.insert(link.name.clone(), link.index);
        self.links.insert(link.index, link);
        before
    }

    /// Forgets a link; returns what was known of it.
    pub(super) fn remove(&mut self, index: u32) -> Option<Link> {
        let link = self.links.remove(&index)?;
        if self.names.get(&link.name) == Some(&index) {
            self.names.remove(&link.name);
        }
        Some(link)
    }

    pub(super) fn by_name(&self, name: &str) -> Option<&Link> {
        self.links.get(self.names.get(name)?)
    }

    /// Whether packets can leave by this link.
    pub(super) fn usable(&self, index: u32) -> bool {
        self.links.get(&index).is_some_and(usable)
    }

    pub(super) fn indexes(&self) -> Vec<u32> {
        self.links.keys().copied().collect()
    }
}

/// Whether packets can leave by this link: the kernel takes no next-hop object on another.
pub(super) fn usable(link: &Link) -> bool {
    link.up && link.carrier
}
