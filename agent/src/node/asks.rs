//! What a pod asks for by its annotations and those of its namespace.
//!
//! | annotation | on | value |
//! |---|---|---|
//! | `manx.dev/ipv4pools`, `manx.dev/ipv6pools` | pod, else namespace | pools by name or network |
//! | `manx.dev/ipFamilies` | pod, else namespace | `ipv4`, `ipv6` or both |
//! | `manx.dev/ipAddrs` | pod | at most one address of each family |
//! | `manx.dev/hwAddr` | pod | the hardware address of the pod's interface |
//! | `manx.dev/sticky` | pod | `true` or `false`: the addresses follow the pod's name |
//!
//! A list is a JSON list of strings or separated by commas. All but the last are understood in Calico's spelling too
//! (`cni.projectcalico.org/…`), which counts where our own is not there. What cannot be read is an [`AskError`] and
//! never passed over: an address that is not the one asked for may be let in where it should not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use manx_ipam::Family;
use manx_kernel::names::Mac;

/// Annotations by key.
pub type Annotations = BTreeMap<String, String>;

/// Our annotations.
const OURS: &str = "manx.dev/";
/// Calico's.
const CALICO: &str = "cni.projectcalico.org/";

const SHARED: [&str; 3] = ["ipv4pools", "ipv6pools", "ipFamilies"];
const OF_POD: [&str; 2] = ["ipAddrs", "hwAddr"];
const STICKY: &str = "sticky";

/// Longest value that is read, in bytes.
const LONGEST: usize = 8192;
/// How much of a value is repeated in an error.
const QUOTED: usize = 64;

/// A pool that was named.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PoolRef {
    /// By its name.
    Name(String),
    /// By its network, without host bits.
    Range(IpNetwork),
}

impl fmt::Display for PoolRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Range(range) => range.fmt(f),
        }
    }
}

/// What a pod asks for. The default asks for nothing in particular.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asks {
    /// The pools that an address of a family may come from; any that the namespace may have where nothing is said.
    pub pools: BTreeMap<Family, BTreeSet<PoolRef>>,
    /// The families of its addresses; as the pools allow where nothing is said.
    pub families: Option<BTreeSet<Family>>,
    /// Fixed addresses.
    pub addresses: BTreeMap<Family, IpAddr>,
    /// The hardware address of its interface.
    pub mac: Option<Mac>,
    /// Its addresses follow its name.
    pub sticky: bool,
}

/// Whose annotation it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// The pod's.
    Pod,
    /// Its namespace's.
    Namespace,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pod => "pod",
            Self::Namespace => "namespace",
        })
    }
}

/// An annotation that cannot be done as it is written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the {holder}'s annotation {key} {fault}")]
pub struct AskError {
    /// Whose it is.
    pub holder: Holder,
    /// Its key.
    pub key: String,
    /// What is wrong with its value.
    pub fault: Fault,
}

/// What is wrong with the value of an annotation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Nothing, or nothing between two commas.
    #[error("has an empty value or entry: write what is asked for, or remove it")]
    Empty,
    /// More than anybody needs.
    #[error("is longer than {LONGEST} bytes: shorten it")]
    TooLong,
    /// It begins like JSON and is none.
    #[error("is not a JSON list of strings, such as [\"a\", \"b\"]: {0}")]
    NotAList(String),
    /// Not a pool's name and not a network.
    #[error("has {0}, which is neither the name of a pool nor its network, such as 10.244.0.0/16")]
    Pool(String),
    /// A network of the other family.
    #[error("has {network}, which is not an {family} network")]
    PoolFamily {
        /// The network.
        network: IpNetwork,
        /// The family of the annotation.
        family: Family,
    },
    /// Not a family.
    #[error("has {0}, which is no family: write ipv4, ipv6 or both")]
    Family(String),
    /// Not an address.
    #[error("has {0}, which is no address: write one like 10.244.0.7 or fd00::7, without a prefix length")]
    Address(String),
    /// Two addresses of one family.
    #[error("has two {family} addresses, {first} and {second}: a pod has at most one of each family")]
    TwoAddresses {
        /// Their family.
        family: Family,
        /// The one.
        first: IpAddr,
        /// The other.
        second: IpAddr,
    },
    /// An address of a family that the pod is not to have.
    #[error("has {address}, but ipFamilies leaves {family} out: change one of the two")]
    LeftOut {
        /// The address.
        address: IpAddr,
        /// Its family.
        family: Family,
    },
    /// Not the hardware address of one interface.
    #[error("has {0}, which is not the hardware address of one interface, such as 0a:58:0a:f4:00:07")]
    Mac(String),
    /// Neither true nor false.
    #[error("has {0}: write \"true\" or \"false\"")]
    Truth(String),
}

impl Asks {
    /// Reads the annotations of a pod and of its namespace, as [`of_pod`] and [`of_namespace`] give them or whole.
    ///
    /// # Errors
    /// The first annotation that counts and cannot be read. What the pod overrides on its namespace does not count.
    pub fn read(pod: &Annotations, namespace: &Annotations) -> Result<Self, AskError> {
        let shared =
            |key| Note::find(pod, Holder::Pod, key).or_else(|| Note::find(namespace, Holder::Namespace, key));
        let own = |key| Note::find(pod, Holder::Pod, key);
        let mut asks = Self::default();
        for (key, family) in [("ipv4pools", Family::V4), ("ipv6pools", Family::V6)] {
            if let Some(pools) = shared(key).map(|note| note.read(|text| pools(text, family))).transpose()? {
                asks.pools.insert(family, pools);
            }
        }
        asks.families = shared("ipFamilies").map(|note| note.read(families)).transpose()?;
        if let Some(note) = own("ipAddrs") {
            asks.addresses = note.read(addresses)?;
            let out = |family| asks.families.as_ref().is_some_and(|families| !families.contains(family));
            if let Some((&family, &address)) = asks.addresses.iter().find(|(family, _)| out(family)) {
                return Err(note.error(Fault::LeftOut { address, family }));
            }
        }
        asks.mac = own("hwAddr").map(|note| note.read(mac)).transpose()?;
        if let Some(note) = Note::exactly(pod, Holder::Pod, format!("{OURS}{STICKY}")) {
            asks.sticky = note.read(truth)?;
        }
        Ok(asks)
    }
}

/// The annotations of a pod that count here.
pub fn of_pod(all: &Annotations) -> Annotations {
    chosen(all, |key| SHARED.contains(&key) || OF_POD.contains(&key), true)
}

/// The annotations of a namespace that count here.
pub fn of_namespace(all: &Annotations) -> Annotations {
    chosen(all, |key| SHARED.contains(&key), false)
}

fn chosen(all: &Annotations, counts: impl Fn(&str) -> bool, sticky: bool) -> Annotations {
    let counts = |key: &str| match key.strip_prefix(OURS) {
        Some(key) => counts(key) || (sticky && key == STICKY),
        None => key.strip_prefix(CALICO).is_some_and(&counts),
    };
    let kept = all.iter().filter(|(key, _)| counts(key));
    // One byte more than is read still says that it is too long.
    kept.map(|(key, value)| (key.clone(), value.chars().take(LONGEST + 1).collect())).collect()
}

/// One annotation.
struct Note<'a> {
    holder: Holder,
    key: String,
    value: &'a str,
}

impl<'a> Note<'a> {
    /// In our spelling, else in Calico's.
    fn find(all: &'a Annotations, holder: Holder, key: &str) -> Option<Self> {
        let spelled = |prefix| Self::exactly(all, holder, format!("{prefix}{key}"));
        spelled(OURS).or_else(|| spelled(CALICO))
    }

    fn exactly(all: &'a Annotations, holder: Holder, key: String) -> Option<Self> {
        all.get(&key).map(|value| Self { holder, key, value: value.trim() })
    }

    fn read<T>(&self, read: impl FnOnce(&str) -> Result<T, Fault>) -> Result<T, AskError> {
        let sized = match self.value.len() {
            0 => Err(Fault::Empty),
            length if length > LONGEST => Err(Fault::TooLong),
            _ => Ok(self.value),
        };
        sized.and_then(read).map_err(|fault| self.error(fault))
    }

    fn error(&self, fault: Fault) -> AskError {
        AskError { holder: self.holder, key: self.key.clone(), fault }
    }
}

/// The entries of a list.
fn list(text: &str) -> Result<Vec<String>, Fault> {
    let entries: Vec<String> = if text.starts_with('[') {
        serde_json::from_str(text).map_err(|_| Fault::NotAList(quoted(text)))?
    } else {
        text.split(',').map(str::to_owned).collect()
    };
    let entries: Vec<String> = entries.into_iter().map(|entry| entry.trim().to_owned()).collect();
    if entries.is_empty() || entries.iter().any(String::is_empty) { Err(Fault::Empty) } else { Ok(entries) }
}

fn pools(text: &str, family: Family) -> Result<BTreeSet<PoolRef>, Fault> {
    list(text)?.into_iter().map(|entry| pool(&entry, family)).collect()
}

fn pool(entry: &str, family: Family) -> Result<PoolRef, Fault> {
    let wrong = || Fault::Pool(quoted(entry));
    if entry.contains('/') {
        let network: IpNetwork = entry.parse().map_err(|_| wrong())?;
        return match Family::of(network.ip()) == family {
            _ if network.ip() != network.network() => Err(wrong()),
            true => Ok(PoolRef::Range(network)),
            false => Err(Fault::PoolFamily { network, family }),
        };
    }
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    // An address would pass for a name.
    let named = entry.len() <= 253 && entry.bytes().all(plain) && entry.parse::<IpAddr>().is_err();
    if named { Ok(PoolRef::Name(entry.to_owned())) } else { Err(wrong()) }
}

fn families(text: &str) -> Result<BTreeSet<Family>, Fault> {
    let family = |entry: String| match entry.to_ascii_lowercase().as_str() {
        "ipv4" => Ok(Family::V4),
        "ipv6" => Ok(Family::V6),
        _ => Err(Fault::Family(quoted(&entry))),
    };
    list(text)?.into_iter().map(family).collect()
}

fn addresses(text: &str) -> Result<BTreeMap<Family, IpAddr>, Fault> {
    let mut addresses = BTreeMap::new();
    for entry in list(text)? {
        let address: IpAddr = entry.parse().map_err(|_| Fault::Address(quoted(&entry)))?;
        let family = Family::of(address);
        match addresses.insert(family, address) {
            Some(first) if first != address => {
                return Err(Fault::TwoAddresses { family, first, second: address });
            }
            _ => {}
        }
    }
    Ok(addresses)
}

fn mac(text: &str) -> Result<Mac, Fault> {
    text.parse().map_err(|_| Fault::Mac(quoted(text)))
}

fn truth(text: &str) -> Result<bool, Fault> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(Fault::Truth(quoted(other))),
    }
}

/// A piece of somebody's text, fit for a log line and an event.
fn quoted(text: &str) -> String {
    let short: String = text.chars().take(QUOTED).collect();
    let more = if short.len() < text.len() { "…" } else { "" };
    format!("{short:?}{more}")
}

#[cfg(test)]
mod tests;
