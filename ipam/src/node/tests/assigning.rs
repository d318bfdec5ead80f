//! Endpoints and their addresses, step by step.

use std::collections::BTreeSet;
use std::time::Duration;

use super::bench::*;
use crate::{AssignError, Endpoint, Event, Family, Input, Limits, Output, RequestId, Want};

#[test]
fn a_pod_gets_the_first_address_of_a_block_claimed_for_it() {
    let mut bench = Bench::ready(limits(), &[pool("v4", "10.0.0.0/24", 30)]);
    let outputs = bench.assign("a", v4());
    let claimed = claims(&outputs);
    assert_eq!((claimed.len(), assigned(&outputs)), (1, vec![]), "one claim, no answer yet");
    let outputs = bench.claimed(claimed[0], Ok(()));
    assert_eq!(assigned(&outputs)[0].addresses, [claimed[0].first()]);
    assert_eq!(bench.owned, [claimed[0]].into());
}

#[test]
fn the_record_and_the_announcement_come_before_the_answer() {
    let mut bench = Bench::ready(limits(), &[pool("v4", "10.0.0.0/24", 30)]);
    let block = claims(&bench.assign("a", v4()))[0];
    let outputs = bench.claimed(block, Ok(()));
    let at = |wanted: fn(&Output) -> bool| outputs.iter().rposition(wanted).unwrap();
    let answer = at(|output| matches!(output, Output::Assigned { .. }));
    assert!(at(|output| matches!(output, Output::Record(_))) < answer);
    assert!(at(|output| matches!(output, Output::Owned(_))) < answer);
}

#[test]
fn dual_stack_gives_both_families_or_none() {
    let mut bench = Bench::ready(limits(), &[pool("v4", "10.0.0.0/24", 30), pool("v6", "fd00::/120", 126)]);
    let outputs = bench.assign("a", both());
    let claimed = claims(&outputs);
    assert_eq!(claimed.len(), 2, "both families are claimed at once");
    let outputs = bench.claimed(claimed[0], Ok(()));
    assert_eq!(assigned(&outputs), [], "the other family is still missing");
    assert_eq!(bench.ipam.usage().blocks[0].used, 0, "and nothing is held for it");
    let outputs = bench.claimed(claimed[1], Ok(()));
    let addresses = &assigned(&outputs)[0].addresses;
    assert!(addresses.len() == 2 && addresses[0].is_ipv4() && addresses[1].is_ipv6());
}

#[test]
fn dual_stack_without_a_pool_of_one_family_is_refused_whole() {
    let mut bench = Bench::ready(limits(), &[pool("v4", "10.0.0.0/24", 30)]);
    let outputs = bench.assign("a", both());
    assert_eq!(refused(&outputs), [AssignError::NoPool { family: Family::V6 }]);
    assert_eq!(bench.ipam.endpoints().count(), 0);
}

#[test]
fn a_repeated_request_gets_the_same_addresses_and_updates_the_rest() {
    let mut bench = Bench::ready(limits(), &[pool("v4", "10.0.0.0/24", 30)]);
    let first = bench.gets("a", v4());
    assert_eq!(bench.gets("a", v4()), first);
    let moved = Endpoint { netns: Some("/run/netns/new".into()), ..endpoint("a") };
    bench.feed(Input::Assign { request: RequestId(77), endpoint: moved.clone(), want: v4() });
    bench.restart();
    let kept: Vec<Endpoint> = bench.ipam.endpoints().cloned().collect();
    assert_eq!(kept, [Endpoint { addresses: first, ..moved }]);
}

#[test]
fn a_request_repeated_while_the_first_waits_is_answered_like_it() {
    let mut bench = Bench::ready(limits(), &[pool("v4", "10.0.0.0/24", 30)]);
    let block = claims(&bench.assign("a", v4()))[0];
    bench.assign("a", v4());
    let answers = assigned(&bench.claimed(block, Ok(())));
    assert_eq!(answers.len(), 2);
    assert_eq!(answers[0], answers[1]);
}

#[test]
fn each_endpoint_counts_once_when_it_comes_and_when_it_goes() {
    let mut bench = Bench::ready(limits(), &[pool("v4", "10.0.0.0/24", 30), pool("more", "10.1.0.0/24", 30)]);
    let counts = |bench: &Bench| {
        let usage = bench.ipam.usage();
        (usage.endpoints, usage.turnover.begun, usage.turnover.ended)
    };
    bench.gets("a", v4());
    bench.gets("a", v4());
    bench.gets("b", Want { pools: ["more".to_owned()].into(), ..v4() });
    assert_eq!(counts(&bench), (2, 2, 0));
    assert!(bench.free("a").is_some() && bench.free("a").is_none(), "the runtime says DEL twice");
    bench.free("ghost");
    assert_eq!(counts(&bench), (1, 2, 1));
    bench.feed(Input::Keep { valid: [].into() });
    assert_eq!(counts(&bench), (0, 2, 2), "collected");
}

#[test]
fn a_freed_address_waits_for_its_link_and_then_for_the_cooldown() {
    let mut bench = Bench::ready(limits(), &[pool("v4", "10.0.0.0/32", 32)]);
    let address = bench.gets("a", v4());
    bench.free("a");
    bench.secs(3600);
    assert_eq!(refused(&bench.assign("b", v4())).len(), 1, "the link still exists");
    bench.link_gone("a");
    bench.secs(9);
    let outputs = bench.assign("b", v4());
    assert_eq!((refused(&outputs), assigned(&outputs)), (vec![], vec![]), "a second left: worth waiting");
    assert_eq!(assigned(&bench.secs(1))[0].addresses, address);
}

#[test]
fn a_request_that_would_wait_in_vain_for_a_cooldown_is_refused_at_once() {
    let mut bench = Bench::ready(limits(), &[pool("v4", "10.0.0.0/32", 32)]);
    bench.gets("a", v4());
    bench.drop_pod("a");
    let full = AssignError::PoolFull { family: Family::V4, pools: "v4".into() };
    assert_eq!(refused(&bench.assign("b", v4())), [full]);
}

#[test]
fn a_link_that_went_before_the_free_needs_no_second_report() {
    let mut bench = Bench::ready(limits(), &[pool("v4", "10.0.0.0/32", 32)]);
    bench.gets("a", v4());
    bench.link_gone("a");
    bench.free("a");
    bench.secs(10);
    assert_eq!(bench.gets("b", v4()).len(), 1);
}

#[test]
fn addresses_are_reused_in_the_order_in_which_they_came_back_after_all_fresh_ones() {
    let mut bench = Bench::ready(limits(), &[pool("v4", "10.0.0.0/30", 30)]);
    let (a, b, c) = (bench.gets("a", v4()), bench.gets("b", v4()), bench.gets("c", v4()));
    bench.drop_pod("b");
    bench.secs(1);
    bench.drop_pod("a");
    bench.secs(1);
    bench.drop_pod("c");
    bench.secs(20);
    let order = ["d", "e", "f", "g"].map(|pod| bench.gets(pod, v4()));
    assert_eq!(order, [vec![ip("10.0.0.3")], b, a, c]);
}

/// Two addresses at rest for nine of ten seconds, and a new machine at this time of its clock.
fn restarted_after_nine_seconds(uptime: Option<Duration>) -> (Bench, [Vec<std::net::IpAddr>; 2]) {
    let mut bench = Bench::ready(limits(), &[pool("v4", "10.0.0.0/31", 31)]);
    bench.secs(100);
    let (a, b) = (bench.gets("a", v4()), bench.gets("b", v4()));
    bench.drop_pod("b");
    bench.drop_pod("a");
    bench.secs(9);
    match uptime {
        Some(uptime) => bench.restart_at(uptime),
        None => bench.restart(),
    };
    bench.feed(Input::SetPools(vec![pool("v4", "10.0.0.0/31", 31)]));
    bench.sees(&[("10.0.0.0/31", NODE)]);
    (bench, [b, a])
}

#[test]
fn order_of_reuse_and_cooldown_go_on_over_a_restart() {
    let (mut bench, order) = restarted_after_nine_seconds(None);
    assert_eq!(assigned(&bench.assign("c", v4())), [], "one second of the cooldown is left");
    assert_eq!(assigned(&bench.secs(1))[0].addresses, order[0]);
    assert_eq!(bench.gets("e", v4()), order[1]);
    bench.restart();
    bench.drop_pod("c");
    bench.secs(3);
    bench.restart();
    bench.restart();
    bench.feed(Input::SetPools(vec![pool("v4", "10.0.0.0/31", 31)]));
    bench.sees(&[("10.0.0.0/31", NODE)]);
    assert_eq!(assigned(&bench.assign("f", v4())), []);
    assert_eq!(assigned(&bench.secs(2)), []);
    assert_eq!(assigned(&bench.secs(3)), [], "refused after five seconds");
    bench.secs(2);
    assert_eq!(bench.gets("g", v4()), order[0]);
}

#[test]
fn a_record_of_another_boot_lets_addresses_rest_anew_and_only_once() {
    let (mut bench, order) = restarted_after_nine_seconds(Some(Duration::from_secs(5)));
    assert_eq!(assigned(&bench.assign("c", v4())), []);
    bench.secs(9);
    bench.feed(Input::SetPools(vec![pool("v4", "10.0.0.0/31", 31), pool("more", "10.9.0.0/31", 31)]));
    bench.secs(1);
    assert_eq!(bench.gets("d", v4()), order[0]);
}

#[test]
fn a_pool_has_a_cooldown_of_its_own_which_may_change_while_addresses_rest() {
    let with = |cooldown: Option<u64>| {
        let mut pool = pool("v4", "10.0.0.0/32", 32);
        pool.cooldown = cooldown.map(Duration::from_secs);
        Input::SetPools(vec![pool])
    };
    let mut bench = Bench::ready(limits(), &[]);
    bench.feed(with(Some(3)));
    bench.gets("a", v4());
    bench.drop_pod("a");
    bench.secs(2);
    assert_eq!(assigned(&bench.assign("b", v4())), []);
    assert_eq!(assigned(&bench.secs(1)).len(), 1, "after three seconds, not ten");
    bench.drop_pod("b");
    bench.feed(with(Some(3600)));
    bench.secs(11);
    assert_eq!(assigned(&bench.assign("c", v4())), []);
    bench.feed(with(None));
    assert_eq!(bench.gets("d", v4()).len(), 1, "ten seconds are over");
    bench.drop_pod("d");
    bench.feed(with(Some(0)));
    assert_eq!(bench.gets("e", v4()).len(), 1, "none at all");
}

#[test]
fn the_fullest_block_gives_first() {
    let mut bench = Bench::ready(limits(), &[pool("v4", "10.0.0.0/29", 30)]);
    let pods = ["a", "b", "c", "d", "e"].map(|pod| bench.gets(pod, v4())[0]);
    let full = *bench.owned.iter().find(|block| block.contains(pods[0])).unwrap();
    bench.drop_pod("a");
    bench.secs(10);
    assert!(full.contains(bench.gets("f", v4())[0]), "one left there, three in the other");
}

#[test]
fn free_is_answered_with_the_endpoint_once() {
    let mut bench = Bench::ready(limits(), &[pool("v4", "10.0.0.0/24", 30)]);
    let addresses = bench.gets("a", v4());
    assert_eq!(bench.free("a"), Some(Endpoint { addresses, ..endpoint("a") }));
    assert_eq!((bench.free("a"), bench.free("never")), (None, None));
}

#[test]
fn an_endpoint_freed_while_it_waits_is_refused_and_leaves_nothing() {
    let mut bench = Bench::ready(limits(), &[pool("v4", "10.0.0.0/24", 30)]);
    let block = claims(&bench.assign("a", v4()))[0];
    let outputs = bench.feed(Input::Free { request: RequestId(9), id: id("a") });
    assert_eq!(refused(&outputs), [AssignError::Withdrawn]);
    assert_eq!(assigned(&bench.claimed(block, Ok(()))), []);
    assert_eq!(bench.ipam.endpoints().count(), 0);
}

#[test]
fn what_the_runtime_does_not_know_is_collected() {
    let mut bench = Bench::ready(limits(), &[pool("v4", "10.0.0.0/24", 30)]);
    bench.gets("a", v4());
    let b = bench.gets("b", v4());
    let outputs = bench.feed(Input::Keep { valid: BTreeSet::from([id("a"), id("unknown")]) });
    assert!(outputs.contains(&Output::Collected(Endpoint { addresses: b, ..endpoint("b") })));
    assert_eq!(bench.ipam.endpoints().count(), 1);
    assert_eq!(bench.ipam.leaving().count(), 1);
}

#[test]
fn an_address_asked_for_by_value_is_given_if_it_is_free() {
    let mut bench = Bench::ready(limits(), &[pool("v4", "10.0.0.0/24", 26), pool("v6", "fd00::/120", 126)]);
    let want = Want { v4: true, v6: true, ..exactly(&["10.0.0.77"]) };
    let addresses = bench.gets("a", want);
    assert_eq!(addresses[0], ip("10.0.0.77"));
    assert!(addresses.len() == 2 && addresses[1].is_ipv6(), "the other family comes from the pool");
    let taken = AssignError::AddressTaken { address: ip("10.0.0.77"), holder: id("a") };
    assert_eq!(refused(&bench.assign("b", exactly(&["10.0.0.77"]))), [taken]);
}

#[test]
fn an_address_asked_for_by_value_need_not_rest_but_its_old_link_must_be_gone() {
    let mut bench = Bench::ready(limits(), &[pool("v4", "10.0.0.0/24", 26)]);
    bench.gets("a", exactly(&["10.0.0.5"]));
    bench.free("a");
    assert_eq!(assigned(&bench.assign("b", exactly(&["10.0.0.5"]))), [], "the link still exists");
    let outputs = bench.link_gone("a");
    assert_eq!(assigned(&outputs)[0].addresses, [ip("10.0.0.5")]);
    bench.secs(20);
    let usage = bench.ipam.usage();
    assert_eq!((usage.blocks[0].used, usage.blocks[0].free), (1, 63), "the old cooldown does not free it");
    assert_eq!(bench.gets("c", v4()), [ip("10.0.0.0")]);
}

#[test]
fn addresses_that_nobody_here_can_have_are_refused_with_the_reason() {
    let mut reserving = pool("v4", "10.0.0.0/24", 26);
    reserving.reserved = vec!["10.0.0.8/29".parse().unwrap()];
    let mut disabled = pool("off", "10.9.0.0/24", 26);
    disabled.disabled = true;
    let mut bench = Bench::ready(limits(), &[reserving, disabled]);
    bench.sees(&[("10.0.0.64/26", "node2")]);
    let mut why = |address: &str| refused(&bench.assign("a", exactly(&[address]))).pop();
    let address = ip("192.0.2.1");
    assert_eq!(why("192.0.2.1"), Some(AssignError::OutsidePools { address }));
    let address = ip("10.0.0.9");
    assert_eq!(why("10.0.0.9"), Some(AssignError::AddressReserved { address, pool: "v4".into() }));
    assert_eq!(why("10.9.0.1"), Some(AssignError::PoolDisabled { pool: "off".into() }));
    let address = ip("10.0.0.70");
    assert_eq!(why("10.0.0.70"), Some(AssignError::AddressElsewhere { address, node: "node2".into() }));
}

#[test]
fn reserved_addresses_are_passed_over() {
    let mut reserving = pool("v4", "10.0.0.0/30", 30);
    reserving.reserved = vec!["10.0.0.0/31".parse().unwrap(), "10.0.0.3/32".parse().unwrap()];
    let mut bench = Bench::ready(limits(), &[reserving]);
    assert_eq!(bench.gets("a", v4()), [ip("10.0.0.2")]);
    assert_eq!(refused(&bench.assign("b", v4())).len(), 1);
}

#[test]
fn a_manual_pool_serves_only_those_who_name_it() {
    let mut manual = pool("manual", "10.1.0.0/24", 26);
    manual.automatic = false;
    let mut bench = Bench::ready(limits(), &[manual]);
    assert_eq!(refused(&bench.assign("a", v4())), [AssignError::NoPool { family: Family::V4 }]);
    let named = Want { pools: ["manual".to_owned()].into(), ..v4() };
    assert!(manual_block(bench.gets("a", named)[0]));
    let unknown = Want { pools: ["other".to_owned()].into(), ..v4() };
    let why = AssignError::UnknownPool { family: Family::V4, pools: "other".into() };
    assert_eq!(refused(&bench.assign("b", unknown)), [why]);
}

fn manual_block(address: std::net::IpAddr) -> bool {
    block("10.1.0.0/24").contains(address)
}

#[test]
fn a_wish_for_nothing_is_refused() {
    let mut bench = Bench::ready(limits(), &[pool("v4", "10.0.0.0/24", 26)]);
    assert_eq!(refused(&bench.assign("a", Want::default())), [AssignError::NothingWanted]);
}

#[test]
fn requests_before_pools_and_blocks_are_known_wait_and_then_say_so() {
    let mut bench = Bench::new(limits());
    assert_eq!(refused(&bench.assign("a", v4())), []);
    bench.feed(Input::SetPools(vec![pool("v4", "10.0.0.0/24", 26)]));
    assert_eq!(refused(&bench.secs(5)), [AssignError::NotReady]);
    bench.assign("b", v4());
    let outputs = bench.sees(&[]);
    assert_eq!(assigned(&bench.grant(outputs)).len(), 1);
}

#[test]
fn waiting_requests_are_served_in_the_order_in_which_they_came() {
    let mut bench = Bench::ready(limits(), &[pool("v4", "10.0.0.0/24", 30)]);
    let block = claims(&bench.assign("z", v4()))[0];
    bench.assign("m", v4());
    bench.assign("a", v4());
    let order: Vec<_> =
        assigned(&bench.claimed(block, Ok(()))).into_iter().map(|endpoint| endpoint.id.container).collect();
    assert_eq!(order, ["z", "m", "a"]);
}

#[test]
fn endpoints_found_in_the_kernel_are_taken_over_unless_their_address_is_anothers() {
    let mut bench = Bench::ready(limits(), &[pool("v4", "10.0.0.0/30", 30)]);
    let a = bench.gets("a", v4());
    let found = |pod: &str, address: &str| Endpoint { addresses: vec![ip(address)], ..endpoint(pod) };
    let thief = Endpoint { addresses: a.clone(), ..endpoint("thief") };
    let outputs = bench.feed(Input::Adopt(vec![found("b", "10.0.0.2"), thief, endpoint("empty")]));
    let conflict = Event::AddressConflict { address: a[0], holder: id("a"), found: id("thief") };
    assert_eq!(events(&outputs), [conflict]);
    bench.restart();
    let kept: Vec<_> = bench.ipam.endpoints().map(|endpoint| endpoint.id.container.clone()).collect();
    assert_eq!(kept, ["a", "b"]);
}

#[test]
fn a_restart_between_free_and_the_end_of_the_link_still_knows_the_link() {
    let mut bench = Bench::ready(limits(), &[pool("v4", "10.0.0.0/32", 32)]);
    bench.gets("a", v4());
    bench.free("a");
    bench.restart();
    assert_eq!(bench.ipam.leaving().map(|endpoint| endpoint.link.as_str()).collect::<Vec<_>>(), ["calia"]);
    bench.feed(Input::SetPools(vec![pool("v4", "10.0.0.0/32", 32)]));
    bench.sees(&[("10.0.0.0/32", NODE)]);
    bench.link_gone("a");
    bench.secs(10);
    assert_eq!(bench.gets("b", v4()), [ip("10.0.0.0")]);
}

#[test]
fn a_record_that_cannot_be_written_stops_assignments_until_it_is_rewritten() {
    let mut bench = Bench::ready(limits(), &[pool("v4", "10.0.0.0/24", 30)]);
    let a = bench.gets("a", v4());
    bench.record.clear();
    bench.feed(Input::RecordFailed);
    assert_eq!(refused(&bench.assign("b", v4())), [AssignError::NotRecorded]);
    let outputs = bench.secs(1);
    assert!(matches!(outputs[..], [Output::Rewrite(_), ..]));
    assert_eq!(bench.gets("a", v4()), a);
    bench.restart();
    assert_eq!(bench.ipam.endpoints().count(), 1);
}

#[test]
fn a_record_that_is_rewritten_for_another_reason_just_after_it_failed_does_not_stop_assignments() {
    let mut bench = Bench::ready(limits(), &[pool("v4", "10.0.0.0/24", 30)]);
    bench.feed(Input::RecordFailed);
    bench.feed(Input::RecordWhole);
    bench.gets("b", v4());
    assert!(!bench.secs(1).iter().any(|output| matches!(output, Output::Rewrite(_))), "it is whole");
}

#[test]
fn the_record_does_not_grow_without_bound() {
    let mut bench = Bench::ready(limits(), &[pool("v4", "10.0.0.0/24", 26)]);
    bench.gets("stays", v4());
    let mut longest = 0;
    for _ in 0..500 {
        bench.gets("comes and goes", v4());
        bench.drop_pod("comes and goes");
        bench.secs(1);
        longest = longest.max(bench.record.len());
    }
    assert!(longest < 20_000, "{longest} octets for one pod");
}

#[test]
fn a_claim_that_is_never_answered_is_named_when_the_request_runs_out() {
    let mut bench =
        Bench::ready(Limits { wait: Duration::from_secs(2), ..limits() }, &[pool("v4", "10.0.0.0/24", 30)]);
    bench.assign("a", v4());
    let pending = AssignError::ClaimPending { family: Family::V4, pool: "v4".into() };
    assert_eq!(refused(&bench.secs(2)), [pending]);
}

#[test]
fn a_container_that_starts_again_waits_for_the_end_of_its_former_link() {
    let mut bench = Bench::ready(limits(), &[pool("v4", "10.0.0.0/30", 30)]);
    let before = bench.gets("a", v4());
    bench.free("a");
    assert_eq!(assigned(&bench.assign("a", v4())), [], "its former link is still there");
    let after = assigned(&bench.link_gone("a"));
    assert_ne!(after[0].addresses, before);
}
