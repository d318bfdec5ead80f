//! What the status of a pool says: how full it is, and what keeps it from giving addresses. Pure.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;
use k8s_openapi::jiff::Timestamp;
use manx_api::{BlockSource, IPPool, IPPoolStatus, condition, selects, set_condition, shadowed};
use manx_ipam::NodeName;

use super::census::{Block, Census};

/// Nodes that a message names; of more only the number is told.
const NAMED: usize = 3;

/// How full a pool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fullness {
    Roomy,
    Eighty,
    NinetyFive,
}

impl Fullness {
    /// By a share in per cent. A level ends only when the share is some points below where it began, so that it does
    /// not come and go with single pods.
    fn of(percent: i64, before: Self) -> Self {
        let still = |level: Self, until: i64| before >= level && percent >= until;
        if percent >= 95 || still(Self::NinetyFive, 92) {
            Self::NinetyFive
        } else if percent >= 80 || still(Self::Eighty, 75) {
            Self::Eighty
        } else {
            Self::Roomy
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::Roomy => "Roomy",
            Self::Eighty => "AboveEightyPercent",
            Self::NinetyFive => "AboveNinetyFivePercent",
        }
    }

    /// What a condition of an earlier look says.
    fn told(status: &IPPoolStatus) -> Self {
        match condition(&status.conditions, "NearlyFull").map(|condition| condition.reason.as_str()) {
            Some("AboveEightyPercent") => Self::Eighty,
            Some("AboveNinetyFivePercent") => Self::NinetyFive,
            _ => Self::Roomy,
        }
    }
}

/// What a pool is made of, as the cluster shows it.
struct Figures {
    capacity: i64,
    used: i64,
    free: i64,
    /// Blocks that nodes own, and how many there are.
    blocks: i64,
    all_blocks: i64,
    /// By node: blocks and addresses in use.
    holders: BTreeMap<NodeName, (i64, i64)>,
}

impl Figures {
    fn new<'a>(pool: &IPPool, blocks: impl Iterator<Item = &'a Block>) -> Self {
        let mut holders: BTreeMap<NodeName, (i64, i64)> = BTreeMap::new();
        for block in blocks {
            let (count, used) = holders.entry(block.owner.clone()).or_default();
            *count += 1;
            *used += i64::from(block.used);
        }
        let capacity = capacity(pool);
        let used = holders.values().map(|(_, used)| used).sum();
        let blocks = holders.values().map(|(count, _)| count).sum();
        let bits = u32::from(pool.spec.block_len().saturating_sub(pool.spec.cidr.network().prefix()));
        let all_blocks = 1_i64.checked_shl(bits).filter(|all| *all > 0).unwrap_or(i64::MAX);
        Self { capacity, used, free: capacity.saturating_sub(used).max(0), blocks, all_blocks, holders }
    }

    /// The share of what is gone: of the addresses, or of the blocks where any node may claim them, since a node
    /// without a block starts no pod.
    fn percent(&self, pool: &IPPool) -> i64 {
        let addresses = share(self.used, self.capacity);
        match pool.spec.block_source {
            BlockSource::Claim if self.all_blocks > 1 => addresses.max(share(self.blocks, self.all_blocks)),
            BlockSource::Claim | BlockSource::NodePodCIDRs => addresses,
        }
    }

    fn told(&self) -> String {
        let Self { capacity, used, blocks, all_blocks, .. } = self;
        format!("{used} of {capacity} addresses are in use, {blocks} of {all_blocks} blocks have an owner")
    }

    /// Who still has blocks.
    fn waits_for(&self) -> String {
        let nodes = self
            .holders
            .iter()
            .map(|(node, (blocks, used))| format!("{node} ({blocks} blocks, {used} addresses in use)"));
        let named: Vec<String> = nodes.take(NAMED).collect();
        let more = match self.holders.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more nodes"),
        };
        match named.is_empty() {
            true => "its last block is gone".to_owned(),
            false => {
                format!("the pool goes when its {} blocks are gone: {}{more}", self.blocks, named.join(", "))
            }
        }
    }
}

impl Census {
    /// The status of every pool.
    pub fn pool_status(&self, now: Timestamp) -> BTreeMap<String, IPPoolStatus> {
        let shadowed = shadowed(self.pools.values());
        let status = |(name, pool): (&String, &IPPool)| {
            (name.clone(), self.status_of(name, pool, shadowed.get(name), now))
        };
        self.pools.iter().map(status).collect()
    }

    fn status_of(&self, name: &str, pool: &IPPool, overlap: Option<&String>, now: Timestamp) -> IPPoolStatus {
        let mut status = pool.status.clone().unwrap_or_default();
        let figures = Figures::new(pool, self.blocks_of(name, pool));
        let fullness = Fullness::of(figures.percent(pool), Fullness::told(&status));
        let Figures { capacity, used, free, blocks, .. } = figures;
        (status.capacity, status.used, status.free, status.blocks) = (capacity, used, free, blocks);
        let leaving = pool.metadata.deletion_timestamp.is_some();
        let (reason, message) = self.readiness(pool, overlap, &figures);
        let mut set = |type_, status_, reason, message: String| {
            let generation = pool.metadata.generation;
            set_condition(&mut status.conditions, type_, status_, reason, message, generation, now);
        };
        set("Ready", reason == "OK", reason, message);
        match overlap {
            Some(older) => {
                let text = format!("the older pool {older} has addresses of this one: delete one of the two");
                set("Overlap", true, "Overlap", text);
            }
            None => set("Overlap", false, "Alone", "no older pool has addresses of this one".to_owned()),
        }
        match leaving {
            true => set("Terminating", true, "Deleted", figures.waits_for()),
            false => set("Terminating", false, "Wanted", "nobody has deleted the pool".to_owned()),
        }
        set("NearlyFull", fullness > Fullness::Roomy, fullness.reason(), figures.told());
        status
    }

    /// Whether a pool gives addresses to new pods (`OK`), or why not.
    fn readiness(
        &self,
        pool: &IPPool,
        overlap: Option<&String>,
        figures: &Figures,
    ) -> (&'static str, String) {
        let selector = pool.spec.node_selector.as_ref();
        let none = BTreeMap::new();
        let selected = |node: &NodeName| selects(selector, self.labels.get(node).unwrap_or(&none));
        if pool.metadata.deletion_timestamp.is_some() {
            return ("Terminating", format!("the pool gives no new addresses; {}", figures.waits_for()));
        }
        if let Some(older) = overlap {
            return ("Overlap", format!("the pool is not used: it overlaps the older pool {older}"));
        }
        if pool.spec.disabled {
            return ("Disabled", "the pool is disabled and gives no new addresses".to_owned());
        }
        if selector.is_some() && !self.nodes.iter().any(selected) {
            return ("NoNode", "nodeSelector selects no node".to_owned());
        }
        if figures.free == 0 {
            return ("Exhausted", format!("no address is left: {}", figures.told()));
        }
        ("OK", "the pool gives addresses".to_owned())
    }
}

/// What somebody should be told of when a status changes: reason and note. What ends is no news.
pub(super) fn news(before: Option<&IPPoolStatus>, after: &IPPoolStatus) -> Vec<(&'static str, String)> {
    let mut news = Vec::new();
    let told = before.map_or(Fullness::Roomy, Fullness::told);
    if Fullness::told(after) > told
        && let Some(condition) = condition(&after.conditions, "NearlyFull")
    {
        news.push(("NearlyFull", format!("{}: {}", condition.reason, condition.message)));
    }
    let reason = |status: &IPPoolStatus| condition(&status.conditions, "Ready").map(|it| it.reason.clone());
    let ready = condition(&after.conditions, "Ready").filter(|_| before.and_then(reason) != reason(after));
    for (word, reason) in [("Exhausted", "Exhausted"), ("Overlap", "Overlap")] {
        if let Some(condition) = ready.filter(|condition| condition.reason == word) {
            news.push((reason, condition.message.clone()));
        }
    }
    news
}

/// A part of a whole in per cent, rounded down; of nothing all is gone.
fn share(part: i64, whole: i64) -> i64 {
    let percent = (i128::from(part) * 100).checked_div(i128::from(whole)).unwrap_or(100);
    i64::try_from(percent).unwrap_or(100).clamp(0, 100)
}

/// Addresses of a pool that may be given out.
fn capacity(pool: &IPPool) -> i64 {
    let size = |network: IpNetwork| {
        let bits = if network.is_ipv4() { 32 } else { 128 };
        1_u128.checked_shl(u32::from(bits - network.prefix())).unwrap_or(u128::MAX)
    };
    let mut reserved: Vec<IpNetwork> = pool.spec.reserved.iter().map(|cidr| cidr.network()).collect();
    // One that lies inside another is counted with it.
    reserved.sort_by_key(IpNetwork::prefix);
    let mut apart: Vec<IpNetwork> = Vec::new();
    for network in reserved {
        if !apart.iter().any(|wider| wider.contains(network.network())) {
            apart.push(network);
        }
    }
    let taken: u128 = apart.into_iter().map(size).fold(0, u128::saturating_add);
    i64::try_from(size(pool.spec.cidr.network()).saturating_sub(taken)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use manx_api::{IPPoolSpec, LabelSelector, is_true};

    use super::*;

    fn pool(name: &str, cidr: &str, created: i64) -> IPPool {
        let mut pool = IPPool::new(name, IPPoolSpec::new(cidr.parse().expect("a network")));
        pool.metadata.creation_timestamp = Some(Time(Timestamp::from_second(created).expect("a time")));
        pool
    }

    /// A pool of a hundred addresses, all in blocks of one, and as many blocks with an address in use.
    fn filled(used: u8) -> Census {
        let mut pool = pool("v4", "10.0.0.0/25", 1);
        pool.spec.block_size = Some(32);
        pool.spec.reserved = ["10.0.0.100/30", "10.0.0.104/29", "10.0.0.112/28"]
            .map(|cidr| cidr.parse().expect("a network"))
            .into();
        let mut census = Census::default();
        census.nodes.insert("n1".into());
        census.pools.insert("v4".to_owned(), pool);
        fill(&mut census, used);
        census
    }

    fn fill(census: &mut Census, used: u8) {
        let block = |n: u8| {
            let id = format!("10.0.0.{n}/32").parse().expect("a block");
            (id, Block { owner: "n1".into(), pool: "v4".to_owned(), used: 1 })
        };
        census.blocks = (0..used).map(block).collect();
    }

    /// Looks again, as if the last status had been written, and gives what the condition NearlyFull says.
    fn look(census: &mut Census) -> (String, Vec<&'static str>) {
        let status = census.pool_status(Timestamp::UNIX_EPOCH).remove("v4").expect("there");
        let pool = census.pools.get_mut("v4").expect("there");
        let news = news(pool.status.as_ref(), &status).into_iter().map(|(reason, _)| reason).collect();
        let full = condition(&status.conditions, "NearlyFull").expect("set").reason.clone();
        pool.status = Some(status);
        (full, news)
    }

    #[test]
    fn nearly_full_begins_at_eighty_and_ninety_five_per_cent_and_ends_some_below() {
        let mut census = filled(79);
        let mut see = |used: u8, level: &str, told: &[&str]| {
            fill(&mut census, used);
            assert_eq!(look(&mut census), (level.to_owned(), told.to_vec()), "{used} in use");
        };
        see(79, "Roomy", &[]);
        see(80, "AboveEightyPercent", &["NearlyFull"]);
        see(75, "AboveEightyPercent", &[]);
        see(80, "AboveEightyPercent", &[]);
        see(95, "AboveNinetyFivePercent", &["NearlyFull"]);
        see(92, "AboveNinetyFivePercent", &[]);
        see(91, "AboveEightyPercent", &[]);
        see(74, "Roomy", &[]);
        see(79, "Roomy", &[]);
        see(100, "AboveNinetyFivePercent", &["NearlyFull", "Exhausted"]);
        see(100, "AboveNinetyFivePercent", &[]);
    }

    #[test]
    fn a_pool_whose_blocks_are_gone_is_nearly_full_though_its_addresses_are_not() {
        let mut census = Census::default();
        census.nodes.insert("n1".into());
        census.pools.insert("v4".to_owned(), pool("v4", "10.0.0.0/24", 1));
        for n in 0..4 {
            let id = format!("10.0.0.{}/26", n * 64).parse().expect("a block");
            census.blocks.insert(id, Block { owner: "n1".into(), pool: "v4".to_owned(), used: 1 });
        }
        assert_eq!(look(&mut census).0, "AboveNinetyFivePercent");
        let pool = census.pools.get_mut("v4").expect("there");
        assert!(
            is_true(&pool.status.as_ref().expect("written").conditions, "Ready"),
            "it has free addresses"
        );
        pool.spec.block_source = BlockSource::NodePodCIDRs;
        assert_eq!(look(&mut census).0, "Roomy", "blocks that follow podCIDRs are all owned by design");
    }

    #[test]
    fn the_younger_of_two_pools_that_overlap_is_not_ready() {
        let mut census = filled(1);
        census.pools.insert("more".to_owned(), pool("more", "10.0.0.0/16", 2));
        let status = census.pool_status(Timestamp::UNIX_EPOCH);
        assert!(is_true(&status["v4"].conditions, "Ready"));
        assert!(is_true(&status["more"].conditions, "Overlap"));
        let ready = condition(&status["more"].conditions, "Ready").expect("set");
        assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "Overlap"));
        assert!(ready.message.contains("the older pool v4"), "{}", ready.message);
        assert_eq!(status["more"].blocks, 0, "blocks of the older pool are not its own");
        assert_eq!(news(None, &status["more"])[0].0, "Overlap");
    }

    #[test]
    fn a_pool_that_no_node_may_use_says_so() {
        let mut census = filled(0);
        let rack = |rack: &str| BTreeMap::from([("rack".to_owned(), rack.to_owned())]);
        let selector = LabelSelector { match_labels: rack("a"), ..LabelSelector::default() };
        census.pools.get_mut("v4").expect("there").spec.node_selector = Some(selector);
        let reason = |census: &Census| {
            let status = census.pool_status(Timestamp::UNIX_EPOCH);
            condition(&status["v4"].conditions, "Ready").expect("set").reason.clone()
        };
        census.labels.insert("n1".into(), rack("b"));
        assert_eq!(reason(&census), "NoNode");
        census.labels.insert("n1".into(), rack("a"));
        assert_eq!(reason(&census), "OK");
    }

    #[test]
    fn a_pool_on_its_way_out_says_who_still_has_blocks() {
        let mut census = filled(2);
        let more = ["n2", "n3", "n4", "n5"].into_iter().zip(10..).map(|(node, n)| {
            let id = format!("10.0.0.{n}/32").parse().expect("a block");
            (id, Block { owner: node.into(), pool: "v4".to_owned(), used: 0 })
        });
        census.blocks.extend(more);
        let pool = census.pools.get_mut("v4").expect("there");
        pool.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        let status = census.pool_status(Timestamp::UNIX_EPOCH).remove("v4").expect("there");
        assert_eq!(
            condition(&status.conditions, "Terminating").expect("set").message,
            "the pool goes when its 6 blocks are gone: n1 (2 blocks, 2 addresses in use), n2 (1 blocks, 0 addresses in use), n3 (1 blocks, 0 addresses in use) and 2 more nodes"
        );
        assert!(!is_true(&status.conditions, "Ready"));
    }

    #[test]
    fn reserved_addresses_are_no_capacity_and_are_counted_once() {
        let mut pool = pool("v4", "10.244.0.0/24", 1);
        pool.spec.reserved =
            ["10.244.0.0/28", "10.244.0.4/30"].map(|cidr| cidr.parse().expect("a network")).into();
        assert_eq!(capacity(&pool), 240);
        assert_eq!(capacity(&self::pool("v6", "fd00::/48", 1)), i64::MAX);
        assert_eq!((share(0, 0), share(i64::MAX, i64::MAX), share(94, 99)), (100, 100, 94));
    }
}
