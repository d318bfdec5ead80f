//! What the kernel takes from the links of pods, against what it should: one account of it, for the doctor, who looks at
//! each node as a whole, and for the audit, which looks at each pod and knows the record.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use manx_facts::guards::Guards;
use manx_facts::record::Record;

/// Links that are named one by one.
const NAMED: usize = 3;

/// A guard that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wrong {
    /// The kernel takes more from this link than its pod may send.
    Open(String),
    /// Nothing tells what the link may bring.
    Unknown(String),
    /// The guard is whole, and lets other addresses pass than the record gave.
    Other {
        /// The link.
        link: String,
        /// What the guard lets pass.
        admitted: BTreeSet<IpAddr>,
        /// What the record has.
        recorded: BTreeSet<IpAddr>,
    },
    /// There is a guard for a link that there is not.
    Stray(String),
}

/// Every guard that is not as it should be; what the record says counts if it is given.
pub(crate) fn wrong(guards: &Guards, record: Option<&Record>) -> Vec<Wrong> {
    let named = |links: &[String], kind: fn(String) -> Wrong| links.iter().cloned().map(kind).collect();
    let mut found: Vec<Wrong> = named(&guards.open, Wrong::Open);
    found.extend::<Vec<_>>(named(&guards.unknown, Wrong::Unknown));
    let mut recorded: BTreeMap<&str, BTreeSet<IpAddr>> = BTreeMap::new();
    for endpoint in record.into_iter().flat_map(|record| &record.endpoints) {
        recorded.entry(&endpoint.link).or_default().extend(&endpoint.addresses);
    }
    for (link, recorded) in recorded {
        let admitted = guards.admitted.get(link).filter(|admitted| **admitted != recorded);
        found.extend(admitted.map(|admitted| Wrong::Other {
            link: link.to_owned(),
            admitted: admitted.clone(),
            recorded,
        }));
    }
    found.extend::<Vec<_>>(named(&guards.strays, Wrong::Stray));
    found
}

impl Wrong {
    /// The link.
    pub(crate) fn link(&self) -> &str {
        match self {
            Self::Open(link) | Self::Unknown(link) | Self::Stray(link) | Self::Other { link, .. } => link,
        }
    }

    /// Whether nobody suffers from it, and the agent takes it away by itself.
    pub(crate) fn is_harmless(&self) -> bool {
        matches!(self, Self::Stray(_))
    }

    /// What is wrong with it, of one link.
    pub(crate) fn of_link(&self) -> String {
        match self {
            Self::Open(link) => format!("its link {link} takes more than the pod may send"),
            Self::Unknown(link) => {
                format!("nothing tells what may come by its link {link}: the kernel has no neighbour on it")
            }
            Self::Other { link, admitted, recorded } => format!(
                "the guard of its link {link} lets {} pass, and the record has {}",
                list(admitted),
                list(recorded)
            ),
            Self::Stray(link) => format!("there is a guard for the link {link}, which is gone"),
        }
    }
}

/// What the links of a node lack, in one sentence. Guards that are left over harm nobody, and of a link that nothing tells of
/// its agent says so when it stays.
pub(crate) fn of_node(guards: &Guards) -> Option<String> {
    let wrong = wrong(guards, None);
    let is_open = |wrong: &&Wrong| matches!(wrong, Wrong::Open(_));
    let open: Vec<&str> = wrong.iter().filter(is_open).map(Wrong::link).collect();
    let shown = open.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    let (count, all) = (open.len(), guards.links);
    let more = if count > NAMED { ", …" } else { "" };
    (count > 0)
        .then(|| format!("{count} of {all} links of pods take more than their pods may send: {shown}{more}"))
}

fn list(addresses: &BTreeSet<IpAddr>) -> String {
    match addresses.is_empty() {
        true => "nothing".to_owned(),
        false => addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use manx_facts::record::Endpoint;

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn admitting(link: &str, text: &str) -> Guards {
        let admitted = BTreeMap::from([(link.to_owned(), BTreeSet::from([address(text)]))]);
        Guards { links: 1, admitted, ..Guards::default() }
    }

    fn record() -> Record {
        let endpoint = Endpoint {
            link: "cali1".to_owned(),
            addresses: vec![address("10.0.0.1")],
            ..Endpoint::default()
        };
        Record { endpoints: vec![endpoint], ..Record::default() }
    }

    #[test]
    fn a_guard_that_lets_other_addresses_pass_than_the_record_has_is_wrong() {
        assert_eq!(wrong(&admitting("cali1", "10.0.0.1"), Some(&record())), []);
        let found = wrong(&admitting("cali1", "10.0.0.9"), Some(&record()));
        let words: Vec<_> = found.iter().map(Wrong::of_link).collect();
        assert_eq!(words, ["the guard of its link cali1 lets 10.0.0.9 pass, and the record has 10.0.0.1"]);
        assert_eq!(wrong(&admitting("cali1", "10.0.0.9"), None), [], "nobody says otherwise");
    }

    #[test]
    fn a_node_is_told_of_in_a_sentence() {
        let open = ["a", "b", "c", "d"].map(str::to_owned).to_vec();
        let guards = Guards { links: 9, open, strays: vec!["e".to_owned()], ..Guards::default() };
        let words = "4 of 9 links of pods take more than their pods may send: a, b, c, …";
        assert_eq!(of_node(&guards).as_deref(), Some(words));
        assert_eq!(of_node(&Guards::default()), None);
    }
}
