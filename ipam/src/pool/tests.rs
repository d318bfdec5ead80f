//! Validation, arithmetic, and the claim order as a permutation.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn pool(cidr: &str, block_len: u8) -> Result<Pool, PoolError> {
    Pool::new("pool", cidr.parse().unwrap(), block_len)
}

#[test]
fn what_cannot_be_a_pool_is_refused_with_the_way_out() {
    let table = [
        ("10.0.0.1/24", 26, "10.0.0.1/24 has bits set behind its prefix: write 10.0.0.0/24"),
        ("10.0.0.0/16", 19, "block length /19 is not within /20 to /32"),
        ("fd00::/64", 64, "block length /64 is not within /112 to /128"),
        (
            "10.0.0.0/28",
            26,
            "a /26 block is larger than the pool 10.0.0.0/28: take a block length of at least 28",
        ),
        (
            "169.254.0.0/20",
            26,
            "169.254.0.0/20 overlaps 169.254.0.0/16 (link-local), whose addresses pods cannot have",
        ),
        ("0.0.0.0/0", 26, "0.0.0.0/0 overlaps 0.0.0.0/8 (this network), whose addresses pods cannot have"),
        ("fe80::/64", 122, "fe80::/64 overlaps fe80::/10 (link-local), whose addresses pods cannot have"),
        ("::/0", 122, "::/0 overlaps ::/96 (unspecified, loopback), whose addresses pods cannot have"),
    ];
    for (cidr, block_len, text) in table {
        assert_eq!(pool(cidr, block_len).unwrap_err().to_string(), text);
    }
}

#[test]
fn sizes_are_right_from_one_block_to_more_than_can_be_listed() {
    let counts = |cidr, len| pool(cidr, len).map(|pool| (pool.block_count(), pool.capacity())).unwrap();
    assert_eq!(counts("10.0.0.0/32", 32), (1, 1));
    assert_eq!(counts("10.244.0.0/16", 26), (1024, 65536));
    assert_eq!(counts("fd00:10:244::/48", 122), (1 << 74, 1 << 80));
}

#[test]
fn every_address_of_a_pool_is_in_one_of_its_blocks() {
    let pool = pool("10.244.0.0/16", 26).unwrap();
    let block = pool.block_of("10.244.3.77".parse().unwrap()).unwrap();
    assert_eq!((block.to_string(), block.name()), ("10.244.3.64/26".into(), "10-244-3-64-26".into()));
    assert!(pool.has_block(&block));
    assert!(!pool.has_block(&"10.244.3.64/27".parse().unwrap()));
    assert_eq!(pool.block_of("10.245.0.0".parse().unwrap()), None);
}

#[test]
fn overlap_is_found_across_lengths_and_never_across_families() {
    let overlap = |a, b| {
        pool(a, 122)
            .or_else(|_| pool(a, 26))
            .unwrap()
            .overlaps(&pool(b, 122).or_else(|_| pool(b, 26)).unwrap())
    };
    assert!(overlap("10.0.0.0/8", "10.3.0.0/16") && overlap("10.3.0.0/16", "10.0.0.0/8"));
    assert!(!overlap("10.0.0.0/16", "10.1.0.0/16") && !overlap("10.0.0.0/8", "fd00::/48"));
}

#[test]
fn blocks_of_a_huge_pool_are_short_to_write() {
    let first = pool("fd00:10:244::/48", 122).unwrap().claim_order(&"node1".into()).next().unwrap();
    assert!(first.to_string().starts_with("fd00:10:244::"), "{first}");
}

#[test]
fn nodes_rarely_want_the_same_block_first() {
    for (cidr, len, most) in [("10.244.0.0/16", 26, 25), ("fd00:10:244::/48", 122, 1)] {
        let pool = pool(cidr, len).unwrap();
        let first = |node: u32| pool.claim_order(&NodeName::new(format!("node{node}"))).next().unwrap();
        let distinct: BTreeSet<BlockId> = (0..200).map(first).collect();
        assert!(distinct.len() >= 200 - most, "{} of 200 in {cidr}", distinct.len());
    }
}

#[test]
fn two_nodes_that_collide_part_ways_again() {
    let pool = pool("10.0.0.0/26", 30).unwrap();
    let order = |node: u32| pool.claim_order(&NodeName::new(format!("node{node}"))).collect::<Vec<_>>();
    let orders: Vec<_> = (0..64).map(order).collect();
    let pairs = orders.iter().enumerate().flat_map(|(i, a)| orders[i + 1..].iter().map(move |b| (a, b)));
    let (same_first, same_second) = pairs.fold((0, 0), |(first, second), (a, b)| {
        (first + u32::from(a[0] == b[0]), second + u32::from(a[..2] == b[..2]))
    });
    assert!(same_second * 3 < same_first, "{same_second} of {same_first} pairs collide twice");
}

proptest! {
    #[test]
    fn the_claim_order_is_a_permutation_of_all_blocks(
        v6: bool, block_len in 0u8..=12, bits in 0u8..=10, node in "[a-z0-9.-]{1,20}",
    ) {
        let block_len = if v6 { 128 - block_len } else { 32 - block_len };
        let cidr = if v6 { "fd00:10:244::" } else { "10.64.0.0" };
        let cidr = IpNetwork::new(cidr.parse().unwrap(), block_len - bits).unwrap();
        let pool = Pool::new("pool", cidr, block_len).unwrap();
        let order: Vec<BlockId> = pool.claim_order(&NodeName::new(node.clone())).take(2000).collect();
        let distinct: BTreeSet<BlockId> = order.iter().copied().collect();
        prop_assert_eq!(order.len() as u128, pool.block_count());
        prop_assert_eq!(distinct.len(), order.len());
        prop_assert!(distinct.iter().all(|block| pool.has_block(block)));
        let again: Vec<BlockId> = pool.claim_order(&NodeName::new(node)).collect();
        prop_assert_eq!(order, again, "the same in each run");
    }

    #[test]
    fn however_huge_the_pool_the_order_goes_on_without_repetition(len in 8u8..=112, node in "[a-z]{1,8}") {
        let base = BlockId::around("fd00:10:244:1234:5678:9abc:def0:1234".parse().unwrap(), len);
        let pool = Pool::new("pool", base.cidr(), 122).unwrap();
        let order: Vec<BlockId> = pool.claim_order(&NodeName::new(node)).take(500).collect();
        prop_assert_eq!(order.len(), 500);
        prop_assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), 500);
        prop_assert!(order.iter().all(|block| pool.has_block(block)));
    }

    #[test]
    fn windows_follow_each_other_until_every_block_came_once(window in 0u8..=6, bits in 0u8..=10, start: u128, stride: u128) {
        let window = window.min(bits);
        let order = ClaimOrder {
            family: Family::V6, base: 0xfd << 120, block_len: 122, mask: host_mask(window), window,
            windows: host_mask(bits - window), start, stride: stride | 1, next: Some((0, 0)),
        };
        let blocks: Vec<BlockId> = order.collect();
        prop_assert_eq!(blocks.len(), 1 << bits);
        prop_assert_eq!(blocks.iter().collect::<BTreeSet<_>>().len(), 1 << bits);
        for chunk in blocks.chunks(1 << window).collect::<Vec<_>>().windows(2) {
            prop_assert!(chunk[0].iter().max() < chunk[1].iter().min());
        }
    }
}
