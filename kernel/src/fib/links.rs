//! The links of the node, by index and by name.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Link, RouteKey};

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

    /// Whether routes can stay on this link: it exists, and nobody took it down.
    pub(super) fn up(&self, index: u32) -> bool {
        self.links.get(&index).is_some_and(|link| link.up)
    }

    pub(super) fn indexes(&self) -> Vec<u32> {
        self.links.keys().copied().collect()
    }
}

/// Whether packets can leave by this link: the kernel takes no next-hop object on another.
pub(super) fn usable(link: &Link) -> bool {
    link.up && link.carrier
}

/// The names of links that routes want, numbered, with those routes.
#[derive(Debug, Default)]
pub(super) struct LinkNames {
    numbers: BTreeMap<String, u32>,
    routes: BTreeMap<u32, (String, BTreeSet<RouteKey>)>,
    last: u32,
}

impl LinkNames {
    /// Takes note of a route out of the link of this name; gives the number of the name.
    pub(super) fn enter(&mut self, name: String, key: RouteKey) -> u32 {
        let number = self.numbers.get(&name).copied().unwrap_or_else(|| {
            self.last = self.last.wrapping_add(1);
            self.numbers.insert(name.clone(), self.last);
            self.last
        });
        self.routes.entry(number).or_insert_with(|| (name, BTreeSet::new())).1.insert(key);
        number
    }

    /// Takes note that a route leads there no more.
    pub(super) fn leave(&mut self, number: u32, key: &RouteKey) {
        let Some((_, routes)) = self.routes.get_mut(&number) else { return };
        routes.remove(key);
        if routes.is_empty()
            && let Some((name, _)) = self.routes.remove(&number)
        {
            self.numbers.remove(&name);
        }
    }

    pub(super) fn name(&self, number: u32) -> Option<&str> {
        self.routes.get(&number).map(|(name, _)| name.as_str())
    }

    /// The routes out of the link of this name; `None` if there are none.
    pub(super) fn routes(&self, name: &str) -> Option<&BTreeSet<RouteKey>> {
        self.routes.get(self.numbers.get(name)?).map(|(_, routes)| routes)
    }
}
