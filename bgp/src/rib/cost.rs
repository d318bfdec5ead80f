//! What import policy costs per route; run it in a release build with `--ignored --nocapture`.

use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::config::NextHopMode;
use crate::policy::{AsPathMatch, Changes, CommunityMatch, Policy, PrefixMatch, Rule, Verdict};
use crate::wire::{Announcement, AsPath, Community};

const ROUTES: u32 = 100_000;
/// Prefixes that share their attributes, as in a message of a full table.
const SHARED: u32 = 8;

fn prefix(number: u32) -> Prefix {
    let [_, a, b, c] = (number << 4).to_be_bytes();
    Prefix::masked(IpAddr::from([10, a, b, c]), 28).unwrap()
}

fn accept() -> Verdict {
    Verdict::Accept(Changes::default())
}

/// The built-in rules of a node with a few blocks.
fn plain() -> Vec<Rule> {
    let within = |text: &str| PrefixMatch::within(text.parse().unwrap());
    let own = (0..8).map(|block| within(&format!("172.16.{block}.0/26"))).collect();
    let pools = vec![within("192.168.0.0/16"), within("10.0.0.0/8")];
    vec![
        Rule { prefixes: own, ..Rule::new("own-blocks", Verdict::Reject) },
        Rule { prefixes: pools, ..Rule::new("inside-pools", accept()) },
    ]
}

fn policies() -> Vec<(&'static str, Policy)> {
    let with = |mut first: Vec<Rule>| {
        first.extend(plain());
        Policy { rules: first, ..Policy::default() }
    };
    let communities = CommunityMatch::any(["65000:666", "65001:*"].map(|text| text.parse().unwrap()));
    let as_path = AsPathMatch { origin: [Asn(1), Asn(2)].into(), ..AsPathMatch::default() };
    vec![
        ("everything accepted", Policy::accept_all()),
        ("prefixes only", with(Vec::new())),
        (
            "communities",
            with(vec![Rule { communities: Some(communities.clone()), ..Rule::new("a", accept()) }]),
        ),
        ("AS path", with(vec![Rule { as_path: Some(as_path.clone()), ..Rule::new("b", accept()) }])),
        (
            "ten of both",
            with(
                (0..10)
                    .map(|_| Rule {
                        communities: Some(communities.clone()),
                        as_path: Some(as_path.clone()),
                        ..Rule::new("c", accept())
                    })
                    .collect(),
            ),
        ),
    ]
}

/// The time that this thread has been on a processor: others on the machine do not count.
#[expect(clippy::disallowed_methods, reason = "a measurement needs a clock")]
fn processor_time() -> Duration {
    let schedule = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let spent = schedule.split(' ').next().and_then(|spent| spent.parse().ok());
    Duration::from_nanos(spent.expect("the kernel counts"))
}

fn measure(policy: &Policy) -> Duration {
    let mut rib = Rib::new(Local::new(Asn(64512), RouterId::new([10, 0, 0, 1].into()).unwrap()), [1, 2]);
    let messages: Vec<Announcement> = (0..ROUTES / SHARED)
        .map(|number| {
            let mut attributes = Attributes::new(NextHop::V4([192, 0, 2, 1].into()));
            attributes.as_path = AsPath::sequence([65001, 3356, 174, 64000 + number].map(Asn));
            attributes.communities.extend((0..4).map(|low| Community::new(3356, low)));
            let prefixes = number * SHARED..(number + 1) * SHARED;
            Announcement::new(attributes, prefixes.map(prefix))
        })
        .collect();
    let screen = Screen {
        peer: PeerIndex(0),
        kind: Source::External,
        terms: Terms::default(),
        policy,
        local_address: [192, 0, 2, 2].into(),
        own: NextHopMode::Keep,
    };
    let start = processor_time();
    for message in messages {
        rib.announce(&screen, message, u32::MAX);
    }
    rib.decide();
    processor_time() - start
}

#[test]
#[ignore = "a measurement"]
fn what_a_policy_costs_for_each_route() {
    for (name, policy) in policies() {
        let best = (0..15).map(|_| measure(&policy)).min().unwrap();
        println!("{name:>20}: {:>4} ns per route", best.as_nanos() / u128::from(ROUTES));
    }
}
