//! The table against naive models: the decision process step by step, and what a peer ends up knowing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;

use super::decision::{Candidate, From, Step, decide};
use super::export::Export;
use super::*;
use crate::config::NextHopMode;
use crate::policy::{Policy, PrefixMatch, Rule, Verdict};
use crate::prefix::{Asn, Families};
use crate::wire::{self, Announcement, AsPath, Community, Dialect, Framer, Message, Nlri, Origin, Side};

fn id(last: u8) -> RouterId {
    RouterId::new([10, 0, 0, last].into()).unwrap()
}

fn external(last: u8) -> From {
    From::Peer { external: true, router_id: id(last), address: IpAddr::from([10, 0, 0, last]) }
}

fn attributes(change: impl FnOnce(&mut Attributes)) -> Attributes {
    let mut attributes = Attributes::new(NextHop::V4([10, 0, 0, 9].into()));
    attributes.as_path = AsPath::sequence([Asn(65001), Asn(65002)]);
    change(&mut attributes);
    attributes
}

/// A path that can stand for a decision.
type Contender = (Attributes, From);

/// The decision between two paths: which one, and at which step the other fell out.
fn duel(a: Contender, b: Contender) -> (usize, Option<Step>) {
    let candidates = [&a, &b].map(|(attributes, from)| Candidate { attributes, from: *from });
    let decision = decide(&candidates, 16, false);
    let best = decision.selected[0];
    (best, decision.lost[1 - best])
}

#[test]
fn each_step_decides_when_all_before_it_are_equal() {
    let plain = || attributes(|_| {});
    let path = |asns: &[u32]| attributes(|a| a.as_path = asns.iter().copied().map(Asn).collect());
    let rows: [(Step, Contender, Contender); 10] = [
        (Step::Local, (attributes(|a| a.local_pref = Some(1)), From::Local), (plain(), external(1))),
        (
            Step::LongLivedStale,
            (attributes(|a| a.local_pref = Some(1)), external(2)),
            (attributes(|a| a.communities.extend([Community::LLGR_STALE])), external(1)),
        ),
        (Step::LocalPref, (attributes(|a| a.local_pref = Some(101)), external(2)), (path(&[1]), external(1))),
        (
            Step::AsPathLength,
            (attributes(|a| (a.as_path, a.origin) = (AsPath::sequence([Asn(7)]), Origin::Egp)), external(2)),
            (plain(), external(1)),
        ),
        (
            Step::Origin,
            (attributes(|a| a.med = Some(9)), external(2)),
            (attributes(|a| a.origin = Origin::Incomplete), external(1)),
        ),
        (Step::Med, (plain(), external(2)), (attributes(|a| a.med = Some(1)), external(1))),
        (
            Step::External,
            (attributes(|a| a.as_path = AsPath::sequence([Asn(3), Asn(4)])), external(2)),
            (plain(), From::Peer { external: false, router_id: id(1), address: IpAddr::from([10, 0, 0, 1]) }),
        ),
        (
            Step::RouterId,
            (attributes(|a| a.originator_id = Some([9, 0, 0, 1].into())), external(9)),
            (attributes(|a| a.cluster_list.clear()), external(1)),
        ),
        (
            Step::ClusterList,
            (plain(), external(1)),
            (attributes(|a| a.cluster_list.push([1, 1, 1, 1].into())), external(1)),
        ),
        (
            Step::PeerAddress,
            (plain(), From::Peer { external: true, router_id: id(1), address: IpAddr::from([10, 0, 0, 1]) }),
            (plain(), From::Peer { external: true, router_id: id(1), address: IpAddr::from([10, 0, 0, 2]) }),
        ),
    ];
    for (step, winner, loser) in rows {
        assert_eq!(duel(winner.clone(), loser.clone()), (0, Some(step)), "{step}");
        assert_eq!(duel(loser, winner), (1, Some(step)), "{step}, the other way round");
    }
    assert_eq!(Step::ALL.len(), 10);
}

#[test]
fn med_counts_only_among_paths_from_the_same_system() {
    let via = |asn: u32, med: u32| {
        attributes(|a| (a.as_path, a.med) = (AsPath::sequence([Asn(asn), Asn(5)]), Some(med)))
    };
    assert_eq!(duel((via(1, 50), external(1)), (via(2, 10), external(2))), (0, Some(Step::RouterId)));
    // The one with the lowest router id falls to its neighbour's other path, whatever the order.
    let paths = [(via(1, 50), external(1)), (via(2, 10), external(3)), (via(1, 40), external(4))];
    for order in [[0, 1, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let candidates = order.map(|at| Candidate { attributes: &paths[at].0, from: paths[at].1 });
        let decision = decide(&candidates, 16, false);
        assert_eq!(order[decision.selected[0]], 1);
        assert_eq!(decision.lost[order.iter().position(|at| *at == 0).unwrap()], Some(Step::Med));
    }
}

#[test]
fn equal_paths_need_the_same_as_path_and_stop_at_the_width() {
    let plain = attributes(|_| {});
    let other = attributes(|a| a.as_path = AsPath::sequence([Asn(65001), Asn(65009)]));
    let candidates: Vec<Candidate<'_>> = [(&plain, 3), (&other, 2), (&plain, 1), (&plain, 4)]
        .map(|(attributes, last)| Candidate { attributes, from: external(last) })
        .to_vec();
    assert_eq!(decide(&candidates, 16, false).selected, [2, 0, 3]);
    assert_eq!(decide(&candidates, 2, false).selected, [2, 0]);
    assert_eq!(decide(&candidates, 1, false).selected, [2]);
    assert_eq!(decide(&candidates, 16, true).selected, [2, 0, 1, 3], "any path as long will do");
    assert_eq!(decide(&[], 16, false).selected, [] as [usize; 0]);
}

#[test]
fn numbers_of_withdrawn_prefixes_are_used_again() {
    let mut rib = rib();
    let prefixes = |round: u8| (0..5000_u16).map(move |n| v4([10 + round, (n >> 8) as u8, n as u8, 0], 24));
    for round in 0..20 {
        for prefix in prefixes(round) {
            announce(&mut rib, 0, prefix, 0);
        }
        rib.decide();
        for prefix in prefixes(round) {
            rib.withdraw(PeerIndex(0), prefix);
        }
        rib.decide();
        Fib::default().read(&mut rib);
        drain(&mut rib, &mut BTreeMap::new());
    }
    assert!(rib.nets.len() <= 15_000, "{} numbers are in use", rib.nets.len());
    assert_eq!(rib.counts(PeerIndex(0), Family::Ipv4Unicast), Counts::default());
}

const SOURCES: u32 = 3;
const LISTENER: PeerIndex = PeerIndex(SOURCES);

const DIALECT: Dialect = Dialect {
    side: Side::External,
    families: Families::ALL,
    four_octet_as: true,
    extended_messages: false,
    extended_next_hop: false,
    paths_in: Families::NONE,
    paths_out: Families::NONE,
};

const SEVERAL: Dialect = {
    let mut ipv4 = Families::NONE;
    ipv4.insert(Family::Ipv4Unicast);
    Dialect { paths_in: ipv4, paths_out: ipv4, ..DIALECT }
};

fn v4(octets: [u8; 4], len: u8) -> Prefix {
    Prefix::masked(octets.into(), len).unwrap()
}

fn facts(last: u8) -> Facts {
    Facts {
        kind: Source::External,
        client: false,
        router_id: id(last),
        address: IpAddr::from([10, 0, 0, last]),
        zone: 0,
        asn: Asn(65000 + u32::from(last)),
        role: None,
    }
}

/// A table with three external sources and one listener.
fn rib() -> Rib {
    let mut rib = Rib::new(Local::new(Asn(64512), id(200)), [1, 2]);
    for peer in 0..=SOURCES {
        rib.set_facts(PeerIndex(peer), facts(peer as u8 + 1));
    }
    let export = Export {
        peer: LISTENER,
        facts: facts(SOURCES as u8 + 1),
        terms: Terms::default(),
        policy: Policy::accept_all(),
        next_hop: NextHopMode::Keep,
        local_address: IpAddr::from([10, 0, 0, 200]),
        dialect: DIALECT,
        most_paths: 1,
        long_lived: false,
    };
    rib.open(Family::Ipv4Unicast, export);
    rib
}

/// Takes two paths of each prefix.
const BOTH: PeerIndex = PeerIndex(SOURCES + 1);

/// The same table with another listener, which takes several paths.
fn rib_with_several() -> Rib {
    let mut rib = rib();
    rib.set_facts(BOTH, facts(SOURCES as u8 + 2));
    let export = Export {
        peer: BOTH,
        facts: facts(SOURCES as u8 + 2),
        terms: Terms::default(),
        policy: Policy::accept_all(),
        next_hop: NextHopMode::Keep,
        local_address: IpAddr::from([10, 0, 0, 200]),
        dialect: SEVERAL,
        most_paths: 2,
        long_lived: false,
    };
    rib.open(Family::Ipv4Unicast, export);
    rib
}

fn hear_several(rib: &mut Rib, budget: usize, known: &mut BTreeMap<Nlri, Vec<Asn>>) {
    let mut octets = Vec::new();
    rib.fill(BOTH, budget, false, &mut octets);
    let (mut framer, mut input) = (Framer::new(), octets.as_slice());
    while let Some(frame) = framer.next(&mut input).unwrap() {
        let Message::Update(update) = wire::decode(frame, &SEVERAL).unwrap().message else { continue };
        for nlri in update.withdrawn {
            known.remove(&nlri);
        }
        for announcement in update.announced {
            let path = announcement.attributes.as_path.asns().to_vec();
            known.extend(announcement.prefixes.into_iter().map(|nlri| (nlri, path.clone())));
        }
    }
}

/// The two best paths of each prefix.
fn expected_several(model: &Model) -> BTreeMap<Prefix, BTreeSet<Vec<Asn>>> {
    let mut ranked: BTreeMap<Prefix, BTreeSet<(bool, u32, u32)>> = BTreeMap::new();
    for ((prefix, peer), (version, _)) in model {
        ranked.entry(*prefix).or_default().insert((!version.is_multiple_of(3), *peer, *version));
    }
    let path = |(_, peer, version)| vec![Asn(64512), Asn(65001 + peer), Asn(7000 + version)];
    ranked
        .into_iter()
        .map(|(prefix, paths)| (prefix, paths.into_iter().take(2).map(path).collect()))
        .collect()
}

fn announce(rib: &mut Rib, peer: u32, prefix: Prefix, version: u32) {
    let policy = Policy::accept_all();
    let screen = Screen {
        peer: PeerIndex(peer),
        kind: Source::External,
        terms: Terms::default(),
        policy: &policy,
        local_address: IpAddr::from([10, 0, 0, 200]),
        own: NextHopMode::Keep,
    };
    let attributes = attributes(|a| {
        a.as_path = AsPath::sequence([Asn(65001 + peer), Asn(7000 + version)]);
        a.next_hop = NextHop::V4([10, 0, 0, peer as u8].into());
        a.origin = if version.is_multiple_of(3) { Origin::Igp } else { Origin::Egp };
    });
    rib.announce(&screen, Announcement::new(attributes, [prefix]), u32::MAX);
}

/// Reads what the listener is told into what it knows: the AS_PATH by prefix.
fn hear(octets: &[u8], known: &mut BTreeMap<Prefix, Vec<Asn>>) {
    let (mut framer, mut input) = (Framer::new(), octets);
    while let Some(frame) = framer.next(&mut input).unwrap() {
        let Message::Update(update) = wire::decode(frame, &DIALECT).unwrap().message else { continue };
        for nlri in update.withdrawn {
            known.remove(&nlri.prefix);
        }
        for announcement in update.announced {
            let path = announcement.attributes.as_path.asns().to_vec();
            known.extend(announcement.prefixes.into_iter().map(|nlri| (nlri.prefix, path.clone())));
        }
    }
}

fn drain(rib: &mut Rib, known: &mut BTreeMap<Prefix, Vec<Asn>>) {
    while rib.pending(LISTENER, false) {
        let mut buf = Vec::new();
        rib.fill(LISTENER, 4096, false, &mut buf);
        hear(&buf, known);
    }
}

#[test]
fn a_withdrawal_on_its_way_is_not_forgotten_when_the_prefix_comes_and_goes_again() {
    let (mut rib, mut known) = (rib(), BTreeMap::new());
    let host = |number: u32| v4((0x0a00_0000 + number).to_be_bytes(), 32);
    (0..2000).for_each(|number| announce(&mut rib, 0, host(number), 0));
    rib.decide();
    drain(&mut rib, &mut known);
    assert_eq!(known.len(), 2000);
    (0..2000).for_each(|number| rib.withdraw(PeerIndex(0), host(number)));
    rib.decide();
    let mut first = Vec::new();
    rib.fill(LISTENER, 1, false, &mut first);
    hear(&first, &mut known);
    assert!(!known.is_empty(), "one message holds them all");
    let left = *known.keys().next_back().unwrap();
    announce(&mut rib, 0, left, 1);
    rib.decide();
    rib.withdraw(PeerIndex(0), left);
    rib.decide();
    drain(&mut rib, &mut known);
    assert_eq!(known, BTreeMap::new());
}

/// What can happen to the table.
#[derive(Clone, Debug)]
enum Change {
    Announce {
        peer: u32,
        prefix: u8,
        version: u32,
    },
    Withdraw {
        peer: u32,
        prefix: u8,
    },
    Retain {
        peer: u32,
    },
    FlushStale {
        peer: u32,
    },
    Flush {
        peer: u32,
    },
    Export {
        rejected: u8,
    },
    Again,
    /// The listener takes this many octets, cut at a message.
    Take {
        budget: usize,
    },
}

fn change() -> impl Strategy<Value = Change> {
    let peer = || 0..SOURCES;
    prop_oneof![
        8 => (peer(), 0..12_u8, 0..6_u32)
            .prop_map(|(peer, prefix, version)| Change::Announce { peer, prefix, version }),
        4 => (peer(), 0..12_u8).prop_map(|(peer, prefix)| Change::Withdraw { peer, prefix }),
        1 => peer().prop_map(|peer| Change::Retain { peer }),
        1 => peer().prop_map(|peer| Change::FlushStale { peer }),
        1 => peer().prop_map(|peer| Change::Flush { peer }),
        1 => (0..12_u8).prop_map(|rejected| Change::Export { rejected }),
        1 => Just(Change::Again),
        6 => (1..200_usize).prop_map(|budget| Change::Take { budget }),
    ]
}

fn net(number: u8) -> Prefix {
    v4([10, number, 0, 0], 16)
}

/// The kernel's side: sets, and which prefix is in which.
#[derive(Default)]
struct Fib {
    sets: BTreeMap<HopSet, BTreeSet<u8>>,
    members: BTreeMap<Prefix, HopSet>,
}

impl Fib {
    /// Takes what there is to tell; gives how many sets and prefixes that were.
    fn read(&mut self, rib: &mut Rib) -> (usize, usize) {
        let (mut sets, mut prefixes) = (0, 0);
        loop {
            while let Some((set, gateways)) = rib.next_hops() {
                sets += 1;
                if gateways.is_empty() {
                    self.sets.remove(&set);
                    self.members.retain(|_, member| *member != set);
                } else {
                    self.sets.insert(set, gateways.iter().map(last_octet).collect());
                }
            }
            if let Some((prefix, set)) = rib.next_route() {
                prefixes += 1;
                match set {
                    Some(set) => self.members.insert(prefix, set),
                    None => self.members.remove(&prefix),
                };
            } else if !rib.routes_told() {
                return (sets, prefixes);
            }
        }
    }

    /// Each prefix with the last octets of its gateways.
    fn routes(&self) -> BTreeMap<Prefix, BTreeSet<u8>> {
        let gateways = |set: &HopSet| self.sets.get(set).expect("a set is told before its prefixes").clone();
        self.members.iter().map(|(prefix, set)| (*prefix, gateways(set))).collect()
    }
}

fn last_octet(gateway: &Gateway) -> u8 {
    match gateway.address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(_) => panic!("the tests speak IPv4"),
    }
}

/// The naive table: version and staleness by prefix and peer.
type Model = BTreeMap<(Prefix, u32), (u32, bool)>;

fn carry_out(
    change: &Change,
    rib: &mut Rib,
    model: &mut Model,
    rejected: &mut Prefix,
    known: &mut BTreeMap<Prefix, Vec<Asn>>,
) {
    const V4: Family = Family::Ipv4Unicast;
    match *change {
        Change::Announce { peer, prefix, version } => {
            announce(rib, peer, net(prefix), version);
            model.insert((net(prefix), peer), (version, false));
        }
        Change::Withdraw { peer, prefix } => {
            rib.withdraw(PeerIndex(peer), net(prefix));
            model.remove(&(net(prefix), peer));
        }
        Change::Retain { peer } => {
            rib.retain(PeerIndex(peer), V4);
            model.retain(|(_, from), (_, stale)| *from != peer || !*stale);
            model.iter_mut().filter(|((_, from), _)| *from == peer).for_each(|(_, (_, stale))| *stale = true);
        }
        Change::FlushStale { peer } => {
            rib.flush_stale(PeerIndex(peer), V4);
            model.retain(|(_, from), (_, stale)| *from != peer || !*stale);
        }
        Change::Flush { peer } => {
            rib.flush(PeerIndex(peer), V4);
            model.retain(|(_, from), _| *from != peer);
        }
        Change::Export { rejected: number } => {
            *rejected = net(number);
            let policy = all_but(*rejected);
            rib.set_export(LISTENER, V4, |export| {
                export.policy = policy;
                true
            });
        }
        Change::Again => rib.tell_again(LISTENER, V4),
        Change::Take { budget } => {
            let mut buf = Vec::new();
            rib.fill(LISTENER, budget, false, &mut buf);
            let mut heard = BTreeMap::new();
            hear(&buf, &mut heard);
            let newest = expected(model, *rejected);
            assert!(
                heard.iter().all(|(prefix, path)| newest.get(prefix) == Some(path)),
                "something old is told"
            );
            hear(&buf, known);
        }
    }
    rib.decide();
}

fn all_but(prefix: Prefix) -> Policy {
    let rule = Rule { prefixes: vec![PrefixMatch::exact(prefix)], ..Rule::new("not this", Verdict::Reject) };
    Policy { rules: vec![rule], ..Policy::accept_all() }
}

/// The peer of the best path of each prefix.
fn carriers(model: &Model) -> BTreeMap<Prefix, BTreeSet<u8>> {
    let mut best: BTreeMap<Prefix, (bool, u32)> = BTreeMap::new();
    for ((prefix, peer), (version, _)) in model {
        let rank = (!version.is_multiple_of(3), *peer);
        best.entry(*prefix).and_modify(|known| *known = rank.min(*known)).or_insert(rank);
    }
    best.into_iter().map(|(prefix, (_, peer))| (prefix, BTreeSet::from([peer as u8]))).collect()
}

/// What the listener must know in the end: the best path of each prefix, by a comparison written down anew.
fn expected(model: &Model, rejected: Prefix) -> BTreeMap<Prefix, Vec<Asn>> {
    let mut best: BTreeMap<Prefix, (bool, u32, u32)> = BTreeMap::new();
    for ((prefix, peer), (version, _)) in model {
        let rank = (!version.is_multiple_of(3), *peer, *version);
        best.entry(*prefix).and_modify(|known| *known = rank.min(*known)).or_insert(rank);
    }
    best.remove(&rejected);
    let path = |(_, peer, version)| vec![Asn(64512), Asn(65001 + peer), Asn(7000 + version)];
    best.into_iter().map(|(prefix, rank)| (prefix, path(rank))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn who_takes_several_paths_ends_up_knowing_exactly_the_best_ones(
        changes in prop::collection::vec(change(), 1..120)
    ) {
        let (mut rib, mut model, mut known) = (rib_with_several(), Model::new(), BTreeMap::new());
        let mut rejected = v4([192, 0, 2, 0], 24);
        for change in &changes {
            match change {
                Change::Take { budget } => hear_several(&mut rib, *budget, &mut known),
                Change::Again => rib.tell_again(BOTH, Family::Ipv4Unicast),
                _ => carry_out(change, &mut rib, &mut model, &mut rejected, &mut BTreeMap::new()),
            }
        }
        while rib.pending(BOTH, false) {
            hear_several(&mut rib, 4096, &mut known);
        }
        prop_assert_eq!(rib.announced(BOTH, Family::Ipv4Unicast) as usize, known.len());
        let mut found: BTreeMap<Prefix, BTreeSet<Vec<Asn>>> = BTreeMap::new();
        for (nlri, path) in known {
            found.entry(nlri.prefix).or_default().insert(path);
        }
        prop_assert_eq!(found, expected_several(&model));
    }

    #[test]
    fn a_listener_ends_up_knowing_exactly_the_best_paths(changes in prop::collection::vec(change(), 1..120)) {
        let (mut rib, mut model, mut known) = (rib(), Model::new(), BTreeMap::new());
        let mut rejected = v4([192, 0, 2, 0], 24);
        let mut fib = Fib::default();
        for change in &changes {
            carry_out(change, &mut rib, &mut model, &mut rejected, &mut known);
            fib.read(&mut rib);
            for (prefix, hops) in fib.routes() {
                let said = |hop: &u8| model.contains_key(&(prefix, u32::from(*hop)));
                prop_assert!(hops.iter().all(said), "{} leads to {:?}", prefix, hops);
            }
            for peer in 0..SOURCES {
                let of_peer = || model.iter().filter(move |((_, from), _)| *from == peer);
                let counts = rib.counts(PeerIndex(peer), Family::Ipv4Unicast);
                prop_assert_eq!(counts.received as usize, of_peer().count());
                prop_assert_eq!(counts.accepted, counts.received);
                prop_assert_eq!(counts.stale as usize, of_peer().filter(|(_, (_, stale))| *stale).count());
            }
        }
        drain(&mut rib, &mut known);
        fib.read(&mut rib);
        prop_assert_eq!(&known, &expected(&model, rejected));
        prop_assert_eq!(rib.announced(LISTENER, Family::Ipv4Unicast) as usize, known.len());
        prop_assert_eq!(fib.routes(), carriers(&model));
        prop_assert!(rib.hops.len() <= 1 + carriers(&model).len());
    }
}

mod lost_peers {
    //! What becomes of traffic while the paths of a peer are being taken out.

    use super::*;

    const V4: Family = Family::Ipv4Unicast;

    /// A path of a certain length by a next hop of the peer's own; paths of one length are equal.
    fn say(rib: &mut Rib, peer: u8, prefix: Prefix, length: usize) {
        let policy = Policy::accept_all();
        let screen = Screen {
            peer: PeerIndex(peer.into()),
            kind: Source::External,
            policy: &policy,
            local_address: IpAddr::from([10, 0, 0, 200]),
            terms: Terms::default(),
            own: NextHopMode::Keep,
        };
        let attributes = attributes(|a| {
            a.as_path = AsPath::sequence(std::iter::repeat_n(Asn(65001), length + 1));
            a.next_hop = NextHop::V4([10, 0, 0, peer].into());
        });
        rib.announce(&screen, Announcement { attributes, prefixes: vec![prefix.into()] }, u32::MAX);
    }

    #[derive(Clone, Debug)]
    enum Turn {
        Say { peer: u8, prefix: u8, length: usize },
        Withdraw { peer: u8, prefix: u8 },
        Lose { peer: u8 },
        Slice { paths: usize },
    }

    fn turn() -> impl Strategy<Value = Turn> {
        let peer = || 0..4_u8;
        prop_oneof![
            12 => (peer(), 0..12_u8, 0..2_usize).prop_map(|(peer, prefix, length)| Turn::Say { peer, prefix, length }),
            3 => (peer(), 0..12_u8).prop_map(|(peer, prefix)| Turn::Withdraw { peer, prefix }),
            2 => peer().prop_map(|peer| Turn::Lose { peer }),
            3 => (0..4_usize).prop_map(|paths| Turn::Slice { paths }),
        ]
    }

    type Said = BTreeMap<(Prefix, u8), usize>;

    /// Where each prefix leads: to all peers with the shortest path.
    fn wanted(said: &Said) -> BTreeMap<Prefix, BTreeSet<u8>> {
        let mut wanted: BTreeMap<Prefix, (usize, BTreeSet<u8>)> = BTreeMap::new();
        for ((prefix, peer), length) in said {
            let best = wanted.entry(*prefix).or_insert((*length, BTreeSet::new()));
            if *length < best.0 {
                *best = (*length, BTreeSet::new());
            }
            if *length == best.0 {
                best.1.insert(*peer);
            }
        }
        wanted.into_iter().map(|(prefix, (_, peers))| (prefix, peers)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn traffic_takes_only_paths_that_live_and_in_the_end_the_best(turns in prop::collection::vec(turn(), 1..120)) {
            let (mut rib, mut said, mut fib) = (rib(), Said::new(), Fib::default());
            for turn in &turns {
                let mut slice = 0;
                match *turn {
                    Turn::Say { peer, prefix, length } => {
                        say(&mut rib, peer, net(prefix), length);
                        said.insert((net(prefix), peer), length);
                    }
                    Turn::Withdraw { peer, prefix } => {
                        rib.withdraw(PeerIndex(peer.into()), net(prefix));
                        said.remove(&(net(prefix), peer));
                    }
                    Turn::Lose { peer } => {
                        let count = rib.flush(PeerIndex(peer.into()), V4);
                        prop_assert_eq!(count as usize, said.keys().filter(|(_, by)| *by == peer).count());
                        said.retain(|(_, by), _| *by != peer);
                    }
                    Turn::Slice { paths } => slice = paths,
                }
                rib.decide_in_slices(slice);
                fib.read(&mut rib);
                let routes = fib.routes();
                for (prefix, hops) in &routes {
                    let lives = |peer: &u8| said.contains_key(&(*prefix, *peer));
                    prop_assert!(!hops.is_empty() && hops.iter().all(lives), "{} leads to {:?}", prefix, hops);
                }
                prop_assert!(routes.keys().eq(wanted(&said).keys()), "some prefix waits for the table");
                for peer in 0..4 {
                    let counts = rib.counts(PeerIndex(peer.into()), V4);
                    prop_assert_eq!(counts.received as usize, said.keys().filter(|(_, by)| *by == peer).count());
                }
            }
            while rib.unfinished() {
                rib.decide_in_slices(1);
                fib.read(&mut rib);
            }
            prop_assert_eq!(fib.routes(), wanted(&said));
            prop_assert_eq!(fib.sets.len(), rib.hops.len());
            prop_assert!(fib.sets.len() <= 12);
        }
    }

    #[test]
    fn a_lost_peer_costs_one_message_for_each_of_its_sets_and_none_for_its_prefixes() {
        let (mut rib, mut fib) = (rib(), Fib::default());
        for prefix in 0..100 {
            say(&mut rib, 0, net(prefix), 0);
            say(&mut rib, 1, net(prefix), 1);
        }
        rib.decide();
        assert_eq!(fib.read(&mut rib).1, 100);
        rib.flush(PeerIndex(0), V4);
        assert_eq!(fib.read(&mut rib), (1, 0));
        assert_eq!(fib.routes().get(&net(7)), Some(&BTreeSet::from([1])));
        rib.decide_in_slices(30);
        assert!(rib.unfinished() && !rib.pending(LISTENER, false));
        rib.decide();
        assert!(!rib.unfinished() && rib.pending(LISTENER, false));
        assert_eq!(fib.read(&mut rib), (0, 0), "the old set is the new one");
        rib.flush(PeerIndex(1), V4);
        assert_eq!(fib.read(&mut rib), (1, 0));
        assert_eq!(fib.routes(), BTreeMap::new());
        rib.decide();
        fib.read(&mut rib);
        assert_eq!(rib.hops.len(), 0);
    }
}
