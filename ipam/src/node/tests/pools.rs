//! Pools: their order and limits, room ahead of need, blocks of every size, and what becomes of those in use when
//! a pool changes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::bench::*;
use crate::{AssignError, BlockId, Family, Input, Limits, Output, Pool, Standing, Want};

const MINUTE: Duration = Duration::from_secs(60);

fn changed(mut pool: Pool, change: impl FnOnce(&mut Pool)) -> Pool {
    change(&mut pool);
    pool
}

fn named(pool: &str) -> Want {
    Want { pools: [pool.to_owned()].into(), ..v4() }
}

fn held(bench: &Bench, within: &Pool) -> Vec<BlockId> {
    bench.owned.iter().filter(|block| within.has_block(block)).copied().collect()
}

/// Says that a release was carried out, and shows it.
fn returned(bench: &mut Bench, outputs: &[Output]) {
    for block in releases(outputs) {
        bench.released(block);
    }
}

#[test]
fn the_preferred_pool_gives_as_long_as_it_has_a_block() {
    let (first, second) = (pool("first", "10.1.0.0/30", 31), pool("second", "10.0.0.0/24", 30));
    let mut bench = Bench::ready(Limits { headroom: 1, ..limits() }, &[]);
    let outputs = bench.feed(Input::SetPools(vec![second.clone()]));
    bench.grant(outputs);
    assert!(second.cidr.contains(bench.gets("a", v4())[0]), "the only one so far");
    // It has free addresses, and still the better one is claimed and used.
    let outputs = bench.feed(Input::SetPools(vec![first.clone(), second.clone()]));
    bench.grant(outputs);
    let given: Vec<IpAddr> = (0..5).map(|pod| bench.gets(&format!("p{pod}"), v4())[0]).collect();
    let of_first = given.iter().filter(|address| first.cidr.contains(**address)).count();
    assert_eq!(of_first, 4, "all four of the first, and then the second: {given:?}");
    assert!(first.cidr.contains(given[0]) && second.cidr.contains(given[4]));
}

#[test]
fn a_full_pool_is_followed_by_the_next_and_the_last_says_that_all_are_full() {
    let pools = [pool("one", "10.0.0.0/31", 31), pool("two", "10.0.1.0/31", 31)];
    let mut bench = Bench::ready(limits(), &pools);
    for pod in ["a", "b", "c", "d"] {
        bench.gets(pod, v4());
    }
    let outputs = bench.assign("e", v4());
    let why = AssignError::PoolFull { family: Family::V4, pools: "one, two".into() };
    assert_eq!(refused(&outputs), [why]);
}

#[test]
fn a_limit_on_blocks_of_a_pool_holds_and_is_named() {
    let limited = changed(pool("v4", "10.0.0.0/24", 31), |pool| pool.max_blocks = Some(2));
    let mut bench = Bench::ready(limits(), std::slice::from_ref(&limited));
    for pod in ["a", "b", "c", "d"] {
        bench.gets(pod, v4());
    }
    let why = AssignError::PoolBlockLimit { family: Family::V4, pool: "v4".into(), limit: 2 };
    assert!(why.to_string().contains("maxBlocksPerNode"), "{why}");
    assert_eq!(refused(&bench.assign("e", v4())), [why]);
    // Another pool helps out, and so does a greater limit.
    bench.feed(Input::SetPools(vec![limited, pool("more", "10.0.1.0/24", 31)]));
    assert_eq!(bench.gets("f", v4()).len(), 1);
    bench.feed(Input::SetPools(vec![changed(pool("v4", "10.0.0.0/24", 31), |pool| {
        pool.max_blocks = Some(3)
    })]));
    assert_eq!(bench.gets("g", v4()).len(), 1);
    assert_eq!(bench.owned.len(), 4);
}

#[test]
fn the_limit_of_the_node_is_told_apart_from_that_of_a_pool() {
    let limits = Limits { max_blocks: 1, headroom: 1, ..limits() };
    let limited = changed(pool("v4", "10.0.0.0/24", 32), |pool| pool.max_blocks = Some(1));
    let mut bench = Bench::ready(limits, &[]);
    let outputs = bench.feed(Input::SetPools(vec![limited]));
    bench.grant(outputs);
    bench.gets("a", v4());
    let why = AssignError::BlockLimit { family: Family::V4, limit: 1 };
    assert_eq!(refused(&bench.assign("b", v4())), [why]);
    assert_eq!(*bench.ipam.limited(), [Family::V4].into());
    bench.feed(Input::SetPools(vec![pool("v4", "10.0.0.0/24", 32)]));
    assert_eq!(*bench.ipam.limited(), [Family::V4].into(), "that of the node is left");
}

#[test]
fn blocks_come_from_the_pod_cidrs_of_the_node_and_from_nowhere_else() {
    let inside = changed(pool("v4", "10.0.0.0/16", 30), |pool| {
        pool.within = Some(vec!["10.0.7.0/29".parse().unwrap()]);
    });
    let mut bench = Bench::ready(limits(), std::slice::from_ref(&inside));
    for pod in 0..8 {
        assert!(inside.within.as_ref().unwrap()[0].contains(bench.gets(&pod.to_string(), v4())[0]));
    }
    let within = "10.0.7.0/29".to_owned();
    let why = AssignError::PodCidrsFull { family: Family::V4, pool: "v4".into(), within: within.clone() };
    assert_eq!(refused(&bench.assign("more", v4())), [why]);
    let why = AssignError::OutsidePodCidrs { address: ip("10.0.8.1"), pool: "v4".into(), within };
    assert_eq!(refused(&bench.assign("exact", exactly(&["10.0.8.1"]))), [why]);
}

#[test]
fn a_node_whose_pod_cidr_changed_keeps_its_pods_and_returns_its_old_blocks_when_empty() {
    let at = |cidr: &str| {
        changed(pool("v4", "10.0.0.0/16", 30), |pool| pool.within = Some(vec![cidr.parse().unwrap()]))
    };
    let mut bench = Bench::ready(limits(), &[at("10.0.7.0/24")]);
    let old = bench.gets("a", v4())[0];
    assert_eq!(releases(&bench.feed(Input::SetPools(vec![at("10.0.8.0/24")]))), []);
    assert!(ip("10.0.8.0") <= bench.gets("b", v4())[0], "in a new block, though the old one has room");
    assert_eq!(bench.owned.len(), 2, "the old one is announced as before");
    bench.drop_pod("a");
    let outputs = bench.secs(10);
    assert_eq!(releases(&outputs).len(), 1, "without any other delay than the cooldown");
    assert!(releases(&outputs)[0].contains(old));
}

/// A change that ends the use of a pool: nothing breaks, no new address, empty blocks go at once.
fn is_let_go_gently(change: impl FnOnce(Pool) -> Vec<Pool>, refusal: &AssignError) {
    let mut bench = Bench::ready(limits(), &[pool("v4", "10.0.0.0/24", 31)]);
    let kept = bench.gets("kept", v4());
    bench.gets("b", v4());
    bench.gets("c", v4());
    bench.drop_pod("c");
    bench.secs(11);
    assert_eq!(bench.owned.len(), 2);
    let outputs = bench.feed(Input::SetPools(change(pool("v4", "10.0.0.0/24", 31))));
    assert_eq!(releases(&outputs).len(), 1, "the empty one");
    returned(&mut bench, &outputs);
    assert_eq!(bench.owned.len(), 1, "the other is announced as before");
    assert_eq!(refused(&bench.assign("new", v4()))[0].to_string(), refusal.to_string());
    assert_eq!(assigned(&bench.assign("kept", v4()))[0].addresses, kept, "a repetition is no new address");
    bench.restart();
    assert_eq!(bench.ipam.endpoints().count(), 2);
    bench.feed(Input::SetPools(vec![]));
    bench.drop_pod("kept");
    bench.drop_pod("b");
    assert_eq!(releases(&bench.secs(60)), [], "nothing is returned before the cluster is known");
}

#[test]
fn a_pool_that_is_disabled_or_deleted_or_selects_the_node_no_more_is_let_go_gently() {
    let none = AssignError::NoPool { family: Family::V4 };
    is_let_go_gently(|pool| vec![changed(pool, |pool| pool.disabled = true)], &none);
    is_let_go_gently(|_| Vec::new(), &none);
    is_let_go_gently(
        |pool| vec![changed(pool, |pool| pool.within = Some(Vec::new()))],
        &AssignError::PodCidrsFull { family: Family::V4, pool: "v4".into(), within: "none".into() },
    );
}

#[test]
fn a_pool_that_becomes_manual_or_restricted_keeps_its_pods_and_serves_who_names_it() {
    for change in [|pool: &mut Pool| pool.automatic = false, |pool: &mut Pool| pool.restricted = true] {
        let mut bench = Bench::ready(limits(), &[pool("v4", "10.0.0.0/24", 31)]);
        let kept = bench.gets("kept", v4());
        bench.feed(Input::SetPools(vec![changed(pool("v4", "10.0.0.0/24", 31), change)]));
        assert_eq!(refused(&bench.assign("any", v4())), [AssignError::NoPool { family: Family::V4 }]);
        assert_eq!(assigned(&bench.assign("kept", v4()))[0].addresses, kept);
        assert_eq!(bench.gets("named", named("v4")).len(), 1);
        assert_eq!(releases(&bench.secs(3600)), [], "it is in use");
    }
}

#[test]
fn a_pool_for_some_pods_gets_room_of_its_own_once_one_of_them_is_there() {
    let apart = changed(pool("apart", "10.1.0.0/24", 30), |pool| pool.restricted = true);
    let ahead = Limits { headroom: 2, ..limits() };
    let mut bench = Bench::new(ahead);
    bench.feed(Input::SetPools(vec![apart.clone(), pool("open", "10.0.0.0/24", 30)]));
    let outputs = bench.sees(&[]);
    assert_eq!(claims(&outputs).len(), 1, "of the open one only");
    bench.grant(outputs);
    for pod in 0..3 {
        bench.gets(&format!("p{pod}"), named("apart"));
    }
    assert_eq!(held(&bench, &apart).len(), 2, "one address was left: the next block is there already");
    for pod in 0..3 {
        bench.drop_pod(&format!("p{pod}"));
    }
    let outputs = bench.secs(600);
    assert_eq!(releases(&outputs).len(), 2, "and none is kept when they are gone");
}

#[test]
fn reserving_an_address_in_use_takes_it_from_nobody_and_gives_it_to_nobody_else() {
    let mut bench = Bench::ready(limits(), &[pool("v4", "10.0.0.0/31", 31)]);
    let a = bench.gets("a", v4());
    let reserved = changed(pool("v4", "10.0.0.0/31", 31), |pool| pool.reserved = vec![a[0].into()]);
    bench.feed(Input::SetPools(vec![reserved]));
    assert_eq!(assigned(&bench.assign("a", v4()))[0].addresses, a);
    bench.drop_pod("a");
    bench.secs(20);
    assert_ne!(bench.gets("b", v4()), a);
    assert_eq!(refused(&bench.assign("c", v4())).len(), 1, "the other one is reserved");
    bench.feed(Input::SetPools(vec![pool("v4", "10.0.0.0/31", 31)]));
    assert_eq!(bench.gets("d", v4()), a, "and now it is not");
}

#[test]
fn a_block_all_of_which_was_reserved_is_returned() {
    let mut bench = Bench::ready(Limits { headroom: 2, ..limits() }, &[]);
    let outputs = bench.feed(Input::SetPools(vec![pool("v4", "10.0.0.0/31", 31)]));
    bench.grant(outputs);
    let all = changed(pool("v4", "10.0.0.0/31", 31), |pool| pool.reserved = vec![pool.cidr]);
    bench.feed(Input::SetPools(vec![all]));
    let outputs = bench.secs(61);
    assert_eq!(releases(&outputs).len(), 1);
    returned(&mut bench, &outputs);
    assert_eq!(claims(&bench.secs(600)), [], "and not claimed again");
}

/// Pods come and go; in the end those that stay sit in few blocks and the others went back.
#[test]
fn sparse_blocks_are_drained_while_pods_come_and_go() {
    let mut bench = Bench::ready(Limits { max_blocks: 64, ..limits() }, &[pool("v4", "10.0.0.0/22", 28)]);
    for pod in 0..128 {
        bench.gets(&format!("old{pod}"), v4());
    }
    assert_eq!(bench.owned.len(), 8);
    // Two of each block stay, the last of them until the end.
    for pod in (0..128).filter(|pod| pod % 16 > 1) {
        bench.drop_pod(&format!("old{pod}"));
    }
    bench.secs(11);
    // A rolling update: each old pod is replaced by a new one.
    for (new, pod) in (0..128).filter(|pod| pod % 16 <= 1).enumerate() {
        bench.gets(&format!("new{new}"), v4());
        bench.drop_pod(&format!("old{pod}"));
        let outputs = bench.secs(11);
        returned(&mut bench, &outputs);
    }
    let outputs = bench.secs(120);
    returned(&mut bench, &outputs);
    assert_eq!(bench.ipam.endpoints().count(), 16);
    assert!(bench.owned.len() <= 2, "sixteen pods fit into one block of sixteen: {:?}", bench.owned);
}

/// How many blocks are claimed in a day while the load swings around the end of a block with this period.
fn claims_in_a_day(period: Duration) -> usize {
    let limits = Limits { release_after: 5 * MINUTE, headroom: 16, ..limits() };
    let mut bench = Bench::ready(limits, &[]);
    let outputs = bench.feed(Input::SetPools(vec![pool("v4", "10.0.0.0/16", 26)]));
    bench.grant(outputs);
    for pod in 0..47 {
        bench.gets(&format!("stays{pod}"), v4());
    }
    let (mut count, mut time) = (0, Duration::ZERO);
    while time < 24 * 60 * MINUTE {
        for pod in 0..4 {
            let outputs = bench.assign(&format!("swings{pod}"), v4());
            let outputs = bench.grant(outputs);
            count += claims(&outputs).len();
        }
        let outputs = bench.pass(period / 2);
        returned(&mut bench, &outputs);
        for pod in 0..4 {
            bench.drop_pod(&format!("swings{pod}"));
        }
        let outputs = bench.pass(period / 2);
        count += claims(&outputs).len();
        let outputs = bench.grant(outputs);
        returned(&mut bench, &outputs);
        time += period;
    }
    count
}

#[test]
fn load_that_swings_around_the_end_of_a_block_costs_a_handful_of_claims_a_day() {
    for minutes in [1, 5, 11, 12, 20, 45, 60, 90] {
        let count = claims_in_a_day(minutes * MINUTE);
        assert!(count <= 6, "{count} claims with a period of {minutes} minutes");
    }
}

/// The longest that a pod of a steady stream waits, when each claim takes `claim` to be answered.
fn longest_wait(block_len: u8, every: Duration, claim: Duration) -> Duration {
    let limits = Limits { max_blocks: 4096, ..Limits::default() };
    let mut bench = Bench::ready(limits, &[]);
    let mut due: Vec<(std::time::Instant, BlockId)> = Vec::new();
    let mut asked = std::collections::BTreeMap::new();
    let mut longest = Duration::ZERO;
    let outputs = bench.feed(Input::SetPools(vec![pool("v4", "10.0.0.0/16", block_len)]));
    due.extend(claims(&outputs).into_iter().map(|block| (bench.now + claim, block)));
    let start = bench.now + Duration::from_secs(5);
    let mut pods = (0..400_u32).map(|pod| (start + every * pod, pod)).peekable();
    loop {
        due.sort();
        let next_claim = due.first().map(|(at, _)| *at);
        let next_pod = pods.peek().map(|(at, _)| *at);
        let Some(next) = next_claim.into_iter().chain(next_pod).min() else { break };
        bench.now = bench.now.max(next);
        let outputs = if Some(next) == next_claim {
            let (_, block) = due.remove(0);
            bench.claimed(block, Ok(()))
        } else {
            let (at, pod) = pods.next().expect("peeked");
            asked.insert(format!("p{pod}"), at);
            bench.assign(&format!("p{pod}"), v4())
        };
        due.extend(claims(&outputs).into_iter().map(|block| (bench.now + claim, block)));
        for endpoint in assigned(&outputs) {
            let at = asked.remove(&endpoint.id.container).expect("asked once");
            longest = longest.max(bench.now - at);
        }
    }
    assert!(asked.is_empty(), "{asked:?} wait for ever");
    longest
}

#[test]
fn no_pod_of_a_steady_stream_waits_for_a_claim() {
    let rate = |per_second: u32| Duration::from_secs(1) / per_second;
    // A hundred pods a second, far more than a kubelet starts, and an API server that takes a tenth of one.
    for block_len in [24, 26, 28] {
        assert_eq!(
            longest_wait(block_len, rate(100), Duration::from_millis(100)),
            Duration::ZERO,
            "/{block_len}"
        );
    }
    // Blocks of one address: a claim for each pod, and the first few of a stream come as a surprise.
    assert_eq!(longest_wait(30, rate(10), Duration::from_millis(100)), Duration::ZERO);
    assert_eq!(longest_wait(32, rate(5), Duration::from_millis(100)), Duration::ZERO);
}

#[test]
fn a_crowd_gets_several_blocks_at_once() {
    let mut bench = Bench::ready(Limits { max_blocks: 64, ..limits() }, &[pool("v4", "10.0.0.0/24", 30)]);
    let first = claims(&bench.assign("p0", v4()));
    assert_eq!(first.len(), 1);
    let mut all: Vec<BlockId> = first;
    for pod in 1..40 {
        all.extend(claims(&bench.assign(&format!("p{pod}"), v4())));
    }
    assert_eq!(all.len(), 4, "and no more at a time");
}

fn sizes() -> impl Strategy<Value = (Pool, u8)> {
    let v4 = (20_u8..=32).prop_map(|len| (pool("p", "10.32.0.0/12", len), len));
    let v6 = (112_u8..=128).prop_map(|len| (pool("p", "fd00:10::/64", len), len));
    prop_oneof![v4, v6]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Of every size of a block: no address twice, all usable, all come back, all blocks are returned.
    #[test]
    fn blocks_of_every_size_are_given_freed_and_returned((pool, len) in sizes(), pods in 1_usize..40) {
        let limits = Limits { max_blocks: 64, cooldown: Duration::from_secs(1), ..limits() };
        let mut bench = Bench::ready(limits, std::slice::from_ref(&pool));
        let family = pool.family();
        let want = || Want { v4: family == Family::V4, v6: family == Family::V6, ..Want::default() };
        let mut given = BTreeSet::new();
        for pod in 0..pods {
            let addresses = bench.gets(&pod.to_string(), want());
            prop_assert_eq!(addresses.len(), 1);
            prop_assert!(given.insert(addresses[0]), "{} twice", addresses[0]);
            prop_assert!(pool.cidr.contains(addresses[0]));
            prop_assert!(bench.owned.iter().any(|block| block.contains(addresses[0])));
        }
        let size = 1_usize << (family.bits() - len).min(20);
        prop_assert_eq!(bench.owned.len(), pods.div_ceil(size));
        prop_assert!(bench.owned.iter().all(|block| block.cidr().prefix() == len));
        bench.restart();
        bench.feed(Input::SetPools(vec![pool]));
        bench.shows();
        prop_assert_eq!(bench.ipam.endpoints().count(), pods);
        for pod in 0..pods {
            bench.drop_pod(&pod.to_string());
        }
        let outputs = bench.secs(62);
        returned(&mut bench, &outputs);
        prop_assert!(bench.owned.is_empty());
        prop_assert_eq!(bench.ipam.usage().blocks, []);
        prop_assert_eq!(bench.gets("again", want()).len(), 1);
        prop_assert!(bench.ipam.usage().blocks.iter().all(|block| block.standing == Standing::Owned));
    }
}
