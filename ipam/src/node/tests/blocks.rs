//! Blocks claimed, kept, lost and returned, step by step.

use std::time::Duration;

use super::bench::*;
use crate::{AssignError, BlockId, ClaimError, Event, Family, Input, Limits, Output, Standing};

fn one_pool() -> [crate::Pool; 1] {
    [pool("v4", "10.0.0.0/28", 30)]
}

/// A node with one pod in one block that the list shows.
fn with_a_pod() -> (Bench, BlockId) {
    let mut bench = Bench::ready(limits(), &one_pool());
    bench.gets("a", v4());
    let block = *bench.owned.first().expect("claimed");
    (bench, block)
}

/// The same, after the pod ended and the block has been asked to be released.
fn releasing() -> (Bench, BlockId) {
    let (mut bench, block) = with_a_pod();
    bench.drop_pod("a");
    assert_eq!(releases(&bench.secs(70)), [block]);
    (bench, block)
}

fn ahead() -> Limits {
    Limits { headroom: 64, ..limits() }
}

#[test]
fn a_block_per_family_is_claimed_before_the_first_pod() {
    let mut bench = Bench::new(ahead());
    bench.feed(Input::SetPools(vec![pool("v4", "10.0.0.0/16", 26), pool("v6", "fd00::/64", 122)]));
    let outputs = bench.sees(&[]);
    assert_eq!(claims(&outputs).len(), 2);
    let outputs = bench.grant(outputs);
    assert_eq!(claims(&outputs).len(), 2, "and no more than that");
    assert_eq!(bench.owned.len(), 2);
}

#[test]
fn the_next_block_is_claimed_before_the_first_is_full() {
    let mut bench = Bench::new(Limits { headroom: 8, ..limits() });
    bench.feed(Input::SetPools(vec![pool("v4", "10.0.0.0/24", 28)]));
    let outputs = bench.sees(&[]);
    bench.grant(outputs);
    for pod in 0..8 {
        assert_eq!(claims(&bench.assign(&pod.to_string(), v4())), [], "eight left of sixteen");
    }
    assert_eq!(claims(&bench.assign("ninth", v4())).len(), 1);
    assert_eq!(claims(&bench.assign("tenth", v4())), [], "one claim at a time");
}

#[test]
fn a_block_taken_by_another_is_followed_by_the_next_candidate() {
    let mut bench = Bench::ready(limits(), &one_pool());
    let mut tried = claims(&bench.assign("a", v4()));
    for _ in 1..4 {
        tried.extend(claims(&bench.claimed(tried[tried.len() - 1], Err(ClaimError::Taken))));
    }
    let order: Vec<_> = one_pool()[0].claim_order(&NODE.into()).collect();
    assert_eq!(tried, order);
    let outputs = bench.claimed(tried[3], Err(ClaimError::Taken));
    assert_eq!(refused(&outputs), [AssignError::PoolFull { family: Family::V4, pools: "v4".into() }]);
}

#[test]
fn of_a_closed_pool_only_the_blocks_given_are_used() {
    let closed = one_pool().into_iter().map(|mut pool| {
        pool.closed = true;
        pool
    });
    let mut bench = Bench::ready(limits(), &closed.collect::<Vec<_>>());
    let outputs = bench.assign("a", v4());
    assert_eq!(claims(&outputs), []);
    assert_eq!(refused(&outputs), [AssignError::PoolFull { family: Family::V4, pools: "v4".into() }]);
    let given = one_pool()[0].claim_order(&NODE.into()).next().expect("a block").to_string();
    let outputs = bench.sees(&[(&given, NODE)]);
    assert_eq!(claims(&outputs), [block(&given)], "to take over what the list gives");
    bench.grant(outputs);
    assert_eq!(bench.gets("b", v4()).len(), 1);
}

#[test]
fn blocks_of_others_are_not_even_tried_nor_what_overlaps_them() {
    let mut bench = Bench::ready(limits(), &one_pool());
    let order: Vec<String> = one_pool()[0].claim_order(&NODE.into()).map(|block| block.to_string()).collect();
    let half = order[1].replace("/30", "/31");
    bench.sees(&[(&order[0], "node2"), (&half, "node3"), (&order[2], "node2")]);
    assert_eq!(claims(&bench.assign("a", v4())), [block(&order[3])]);
}

#[test]
fn a_claim_that_fails_is_repeated_with_growing_pauses_and_told_once() {
    let mut bench = Bench::ready(Limits { wait: Duration::from_secs(60), ..limits() }, &one_pool());
    let first = claims(&bench.assign("a", v4()))[0];
    let mut outputs = bench.claimed(first, Err(ClaimError::Failed));
    assert_eq!(events(&outputs), [Event::ClaimsFailing { pool: "v4".into() }]);
    let mut pauses = Vec::new();
    for _ in 0..5 {
        let before = bench.now;
        bench.now = bench.ipam.deadline().unwrap();
        pauses.push(bench.now - before);
        outputs = bench.feed(Input::Timeout);
        assert_eq!(claims(&outputs), [first], "the same block: the claim may have been carried out");
        assert_eq!(events(&bench.claimed(first, Err(ClaimError::Failed))), []);
    }
    assert!(pauses.is_sorted() && pauses[4] > pauses[0] * 8, "{pauses:?}");
    bench.now = bench.ipam.deadline().unwrap();
    bench.feed(Input::Timeout);
    let outputs = bench.claimed(first, Ok(()));
    assert!(events(&outputs).contains(&Event::ClaimsFailingEnded { pool: "v4".into() }));
    assert_eq!(assigned(&outputs).len(), 1);
}

#[test]
fn a_request_says_that_claims_fail_when_it_runs_out() {
    let mut bench = Bench::ready(limits(), &one_pool());
    let first = claims(&bench.assign("a", v4()))[0];
    bench.claimed(first, Err(ClaimError::Failed));
    let why = AssignError::ClaimFailed { family: Family::V4, pool: "v4".into() };
    assert!(why.is_transient());
    assert_eq!(refused(&bench.secs(5)), [why]);
}

#[test]
fn a_claim_carried_out_but_not_confirmed_is_found_in_the_list() {
    let mut bench = Bench::ready(limits(), &one_pool());
    let first = claims(&bench.assign("a", v4()))[0];
    bench.claimed(first, Err(ClaimError::Failed));
    bench.sees(&[(&first.to_string(), NODE)]);
    assert_eq!(claims(&bench.secs(1)), [first]);
    assert_eq!(assigned(&bench.claimed(first, Ok(()))).len(), 1);
}

#[test]
fn a_block_that_the_list_gives_to_a_node_without_record_is_used_after_a_claim() {
    let mut bench = Bench::ready(limits(), &one_pool());
    assert_eq!(claims(&bench.sees(&[("10.0.0.4/30", NODE)])), [block("10.0.0.4/30")]);
    assert_eq!(assigned(&bench.assign("a", v4())), []);
    assert_eq!(assigned(&bench.claimed(block("10.0.0.4/30"), Ok(()))).len(), 1);
}

#[test]
fn blocks_found_in_the_list_that_are_of_no_pool_are_returned_or_kept_for_their_pods() {
    let mut bench = Bench::new(limits());
    let found = crate::Endpoint { addresses: vec![ip("192.0.2.5")], ..endpoint("a") };
    bench.feed(Input::Adopt(vec![found]));
    let list = [("192.0.2.0/30", NODE), ("192.0.2.4/30", NODE)];
    assert_eq!(bench.sees(&list), [], "not before the pools are known");
    let outputs = bench.feed(Input::SetPools(one_pool().to_vec()));
    assert_eq!((claims(&outputs), releases(&outputs)), (vec![], vec![block("192.0.2.0/30")]));
    assert_eq!(bench.owned, [block("192.0.2.4/30")].into());
    bench.drop_pod("a");
    assert_eq!(releases(&bench.secs(10)), [block("192.0.2.4/30")]);
}

#[test]
fn a_second_pool_serves_when_the_first_is_full() {
    let mut bench =
        Bench::ready(limits(), &[pool("small", "10.0.0.0/32", 32), pool("next", "10.1.0.0/30", 32)]);
    assert_eq!(bench.gets("a", v4()), [ip("10.0.0.0")]);
    assert!(block("10.1.0.0/30").contains(bench.gets("b", v4())[0]));
}

#[test]
fn a_node_takes_no_more_blocks_than_it_may() {
    let mut bench = Bench::ready(Limits { max_blocks: 2, ..limits() }, &[pool("v4", "10.0.0.0/24", 32)]);
    bench.gets("a", v4());
    bench.gets("b", v4());
    assert_eq!(refused(&bench.assign("c", v4())), [AssignError::BlockLimit { family: Family::V4, limit: 2 }]);
}

#[test]
fn an_exhausted_family_is_told_when_it_begins_and_when_it_ends() {
    let mut bench = Bench::ready(ahead(), &[pool("v4", "10.0.0.0/30", 30)]);
    let first = bench.ipam.usage().blocks[0].block;
    bench.claimed(first, Ok(()));
    let outputs = bench.assign("a", v4());
    assert_eq!(events(&outputs), [Event::Exhausted { family: Family::V4 }], "three free, four wanted");
    assert_eq!(events(&bench.assign("b", v4())), []);
    let outputs =
        bench.feed(Input::SetPools(vec![pool("v4", "10.0.0.0/30", 30), pool("more", "10.1.0.0/24", 30)]));
    assert_eq!(events(&outputs), [Event::ExhaustedEnded { family: Family::V4 }]);
}

#[test]
fn an_empty_block_is_returned_after_a_while_and_withdrawn_first() {
    let (mut bench, block) = with_a_pod();
    bench.drop_pod("a");
    assert_eq!(releases(&bench.secs(69)), [], "ten seconds of cooldown, sixty empty");
    let outputs = bench.secs(1);
    let withdrawn = outputs.iter().position(|output| *output == Output::Owned([].into())).unwrap();
    let released = outputs.iter().position(|output| *output == Output::Release(block)).unwrap();
    assert!(withdrawn < released);
    bench.feed(Input::Released { block, outcome: Ok(()) });
    assert_eq!(bench.ipam.usage().blocks, []);
}

#[test]
fn the_headroom_is_kept_when_blocks_are_returned() {
    let mut bench = Bench::new(ahead());
    bench.feed(Input::SetPools(vec![pool("v4", "10.0.0.0/24", 30)]));
    let outputs = bench.sees(&[]);
    bench.grant(outputs);
    for pod in 0..9 {
        bench.gets(&pod.to_string(), v4());
    }
    for pod in 0..9 {
        bench.drop_pod(&pod.to_string());
    }
    let released = releases(&bench.secs(600)).len();
    assert_eq!((released, bench.owned.len()), (4, 1));
    assert_eq!(claims(&bench.secs(600)), [], "and nothing swings");
}

#[test]
fn a_released_block_is_not_taken_back_because_a_late_list_still_shows_it() {
    let (mut bench, block) = releasing();
    bench.feed(Input::Released { block, outcome: Ok(()) });
    bench.sees(&[(&block.to_string(), NODE), ("192.0.2.0/30", "node2")]);
    assert!(bench.owned.is_empty());
    assert_eq!(releases(&bench.secs(30)), [block], "it still shows: released again, not used");
}

#[test]
fn a_release_that_fails_is_repeated_and_the_block_not_used_meanwhile() {
    let (mut bench, block) = releasing();
    bench.feed(Input::Released { block, outcome: Err(ClaimError::Failed) });
    let outputs = bench.assign("b", v4());
    assert_eq!(assigned(&outputs), []);
    assert_eq!(releases(&bench.secs(1)), [block]);
}

#[test]
fn a_restart_during_a_release_goes_on_releasing() {
    let (mut bench, block) = releasing();
    bench.restart();
    assert!(bench.owned.is_empty());
    bench.feed(Input::SetPools(one_pool().to_vec()));
    assert_eq!(releases(&bench.sees(&[(&block.to_string(), NODE)])), [block]);
}

#[test]
fn blocks_of_a_disabled_or_deleted_pool_give_nothing_and_go_when_empty() {
    let (mut bench, block) = with_a_pod();
    let mut disabled = one_pool();
    disabled[0].disabled = true;
    bench.feed(Input::SetPools(disabled.to_vec()));
    assert_eq!(refused(&bench.assign("b", v4())), [AssignError::NoPool { family: Family::V4 }]);
    bench.feed(Input::SetPools(vec![]));
    assert_eq!(bench.owned, [block].into(), "the pod there keeps its route");
    bench.drop_pod("a");
    assert_eq!(releases(&bench.secs(10)), [block]);
}

#[test]
fn a_restarted_agent_announces_its_recorded_blocks_at_once() {
    let mut bench = Bench::ready(limits(), &one_pool());
    bench.gets("a", v4());
    let before = bench.owned.clone();
    assert!(bench.restart().contains(&Output::Owned(before)));
}

#[test]
fn with_the_api_server_away_a_restarted_agent_assigns_from_recorded_blocks_after_a_moment() {
    let mut bench = Bench::ready(limits(), &one_pool());
    bench.gets("a", v4());
    bench.restart();
    bench.feed(Input::SetPools(one_pool().to_vec()));
    assert_eq!(assigned(&bench.assign("b", v4())), []);
    assert_eq!(assigned(&bench.secs(3)).len(), 1);
    assert_eq!(assigned(&bench.assign("c", v4())).len(), 1);
}

#[test]
fn a_recorded_block_that_is_anothers_now_is_withdrawn_and_told_and_gives_nothing() {
    let mut bench = Bench::ready(limits(), &[pool("v4", "10.0.0.0/30", 30)]);
    bench.gets("a", v4());
    bench.restart();
    bench.feed(Input::SetPools(vec![pool("v4", "10.0.0.0/30", 30)]));
    let outputs = bench.sees(&[("10.0.0.0/30", "node2")]);
    let conflict = Event::Conflict { block: block("10.0.0.0/30"), owner: Some("node2".into()) };
    assert!(events(&outputs).contains(&conflict));
    assert!(bench.owned.is_empty());
    assert_eq!(bench.ipam.endpoints().count(), 1, "the endpoint stays");
    assert_eq!(refused(&bench.assign("b", v4())).len(), 1);
    bench.drop_pod("a");
    let outputs = bench.secs(10);
    assert_eq!(events(&outputs), [Event::ConflictEnded { block: block("10.0.0.0/30") }]);
}

#[test]
fn a_block_that_vanished_under_its_pods_is_claimed_again_and_gives_nothing_until_then() {
    let (mut bench, mine) = with_a_pod();
    let outputs = bench.sees(&[]);
    assert_eq!(events(&outputs), [Event::Conflict { block: mine, owner: None }]);
    assert_eq!(claims(&outputs), [mine]);
    assert_eq!(bench.ipam.usage().blocks[0].standing, Standing::Vanished);
    assert!(bench.owned.contains(&mine), "nobody else's: its pods keep their route");
    let outputs = bench.assign("b", v4());
    assert_ne!(claims(&outputs), [mine]);
    assert_eq!(assigned(&outputs), []);
    let outputs = bench.claimed(mine, Ok(()));
    assert!(events(&outputs).contains(&Event::ConflictEnded { block: mine }));
    assert_eq!(assigned(&outputs).len(), 1);
}

#[test]
fn a_vanished_block_that_another_took_is_withdrawn() {
    let (mut bench, mine) = with_a_pod();
    bench.sees(&[]);
    bench.claimed(mine, Err(ClaimError::Taken));
    assert!(!bench.owned.contains(&mine));
    assert_eq!(claims(&bench.secs(20)), [], "the list will tell");
    bench.sees(&[(&mine.to_string(), "node2")]);
    assert_eq!(claims(&bench.secs(60)), []);
    assert_eq!(claims(&bench.sees(&[])), [mine], "free again: claimed for the pod that is still there");
}

#[test]
fn a_renamed_node_gets_the_blocks_of_its_pods_once_its_old_name_is_over() {
    let (mut bench, block) = with_a_pod();
    bench.restart();
    bench.feed(Input::SetPools(one_pool().into()));
    let outputs = bench.sees(&[(&block.to_string(), "old-name")]);
    let owner = Some("old-name".into());
    assert!(events(&outputs).contains(&Event::Conflict { block, owner }));
    assert!(bench.owned.is_empty(), "it is announced by nobody");
    // The controller took it back.
    let outputs = bench.sees(&[]);
    assert_eq!(claims(&outputs), [block]);
    let outputs = bench.claimed(block, Ok(()));
    assert!(events(&outputs).contains(&Event::ConflictEnded { block }));
    assert_eq!(bench.owned, [block].into());
}

#[test]
fn an_empty_block_that_vanished_is_simply_gone() {
    let (mut bench, mine) = with_a_pod();
    bench.drop_pod("a");
    bench.secs(10);
    let outputs = bench.sees(&[]);
    assert_eq!((events(&outputs), claims(&outputs)), (vec![Event::BlockGone { block: mine }], vec![]));
}

#[test]
fn a_claim_just_confirmed_is_believed_against_a_late_list() {
    let mut bench = Bench::ready(limits(), &one_pool());
    let mine = claims(&bench.assign("a", v4()))[0];
    bench.claimed(mine, Ok(()));
    bench.sees(&[(&mine.to_string(), "node2")]);
    assert_eq!(bench.gets("b", v4()).len(), 1);
    let outputs = bench.secs(30);
    let conflict = Event::Conflict { block: mine, owner: Some("node2".into()) };
    assert!(events(&outputs).contains(&conflict), "but not for ever");
}

#[test]
fn endpoints_found_in_a_block_that_nobody_has_make_the_node_claim_it() {
    let mut bench = Bench::ready(limits(), &one_pool());
    let found = crate::Endpoint { addresses: vec![ip("10.0.0.6")], ..endpoint("a") };
    let outputs = bench.feed(Input::Adopt(vec![found]));
    assert_eq!(claims(&outputs), [block("10.0.0.4/30")]);
    bench.claimed(block("10.0.0.4/30"), Ok(()));
    let others: Vec<_> = ["b", "c", "d"].map(|pod| bench.gets(pod, v4())[0]).into();
    assert_eq!(others, [ip("10.0.0.4"), ip("10.0.0.5"), ip("10.0.0.7")]);
}

#[test]
fn of_two_pools_that_overlap_the_first_is_used_and_the_other_told() {
    let mut bench = Bench::new(limits());
    let pools = vec![pool("old", "10.0.0.0/28", 30), pool("new", "10.0.0.0/24", 26)];
    let outputs = bench.feed(Input::SetPools(pools.clone()));
    assert_eq!(events(&outputs), [Event::PoolOverlap { pool: "new".into(), with: "old".into() }]);
    assert_eq!(events(&bench.feed(Input::SetPools(pools.clone()))), []);
    bench.sees(&[]);
    assert_eq!(claims(&bench.assign("a", v4()))[0].cidr().prefix(), 30);
    let outputs = bench.feed(Input::SetPools(pools[1..].to_vec()));
    assert_eq!(events(&outputs)[0], Event::PoolOverlapEnded { pool: "new".into() });
}

#[test]
fn unasked_answers_change_nothing() {
    let mut bench = Bench::ready(limits(), &one_pool());
    let any = block("10.0.0.8/30");
    assert_eq!(bench.claimed(any, Ok(())), []);
    assert_eq!(bench.feed(Input::Released { block: any, outcome: Ok(()) }), []);
    assert_eq!(bench.ipam.usage().blocks, []);
}

#[test]
fn usage_counts_by_block_and_pool() {
    let mut bench = Bench::ready(limits(), &one_pool());
    bench.gets("a", v4());
    bench.gets("b", v4());
    bench.drop_pod("a");
    let usage = bench.ipam.usage();
    let in_block = &usage.blocks[0];
    assert_eq!((in_block.used, in_block.resting, in_block.free), (1, 1, 2));
    assert_eq!(in_block.allocations[0].id, id("b"));
    let in_pool = &usage.pools[0];
    assert_eq!((in_pool.blocks, in_pool.used, in_pool.resting, in_pool.free), (1, 1, 1, 2));
}
