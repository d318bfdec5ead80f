//! What peers are told of random tables, against the rules of RFC 4271, 1997, 4456 and 9234 written down anew.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;
use proptest::sample::select;

use super::export::Export;
use super::*;
use crate::config::{NextHopMode, PeerId};
use crate::explanation::ToldStatus;
use crate::policy::Policy;
use crate::prefix::{Asn, Families};
use crate::wire::{self, Announcement, AsPath, Community, Dialect, Framer, Message, Side};

const US: u32 = 64512;
const OUR_ID: u8 = 200;
const OURS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, OUR_ID));

/// A peer as the model sees it.
#[derive(Clone, Copy, Debug)]
struct Neighbour {
    external: bool,
    client: bool,
    role: Option<Role>,
}

/// What a peer, or we, say about a prefix.
#[derive(Clone, Debug)]
struct Saying {
    path: Vec<u32>,
    community: Option<Community>,
    otc: Option<u32>,
    originator: Option<u8>,
    clusters: Vec<u8>,
    local_pref: u32,
    med: Option<u32>,
}

fn peer() -> impl Strategy<Value = Neighbour> {
    let roles =
        [Role::Provider, Role::RouteServer, Role::RouteServerClient, Role::Customer, Role::Peer].to_vec();
    (any::<bool>(), any::<bool>(), prop::option::of(select(roles))).prop_map(|(external, client, role)| {
        Neighbour { external, client: client && !external, role: role.filter(|_| external) }
    })
}

fn saying() -> impl Strategy<Value = Saying> {
    let known = [Community::NO_EXPORT, Community::NO_ADVERTISE, Community::new(1, 1)].to_vec();
    (
        (prop::collection::vec(select(vec![7, 8, 65001, 65002, US]), 0..3), prop::option::of(select(known))),
        (prop::option::of(65001..65004_u32), prop::option::weighted(0.3, select(vec![1, 2, OUR_ID]))),
        (prop::collection::vec(select(vec![50, OUR_ID]), 0..2), 90..110_u32, prop::option::of(0..3_u32)),
    )
        .prop_map(|((path, community), (otc, originator), (clusters, local_pref, med))| Saying {
            path,
            community,
            otc,
            originator,
            clusters,
            local_pref,
            med,
        })
}

fn asn(place: usize, peer: Neighbour) -> u32 {
    if peer.external { 65001 + place as u32 } else { US }
}

fn id(last: u8) -> std::net::Ipv4Addr {
    [10, 0, 0, last].into()
}

fn address(place: usize) -> IpAddr {
    IpAddr::V4(id(place as u8 + 1))
}

fn dialect(peer: Neighbour) -> Dialect {
    let mut dialect = Dialect { families: Families::ALL, four_octet_as: true, ..Dialect::BEFORE_OPEN };
    dialect.side = if peer.external { Side::External } else { Side::Internal };
    dialect
}

fn facts(place: usize, peer: Neighbour) -> Facts {
    Facts {
        kind: if peer.external { Source::External } else { Source::Internal },
        client: peer.client,
        router_id: RouterId::new(id(place as u8 + 1)).unwrap(),
        address: address(place),
        zone: 0,
        asn: Asn(asn(place, peer)),
        role: peer.role,
    }
}

/// What the peer really sends: external ones put their AS first and say nothing that stays inside.
fn attributes(place: usize, peer: Neighbour, saying: &Saying) -> Attributes {
    let mut attributes = Attributes::new(NextHop::from(address(place)));
    let own = peer.external.then(|| asn(place, peer));
    attributes.as_path = AsPath::sequence(own.into_iter().chain(saying.path.clone()).map(Asn));
    attributes.communities.extend(saying.community);
    attributes.only_to_customer = saying.otc.map(Asn);
    attributes.med = saying.med;
    if !peer.external {
        attributes.local_pref = Some(saying.local_pref);
        attributes.originator_id = saying.originator.map(id);
        attributes.cluster_list = saying.clusters.iter().copied().map(id).collect();
    }
    attributes
}

/// Who said something last about each prefix; the place `peers.len()` is ours.
type Table = BTreeMap<(u8, usize), Saying>;

/// What the model remembers of a path: as received, and OTC as it becomes.
fn admitted(place: usize, peer: Neighbour, saying: &Saying) -> Option<Attributes> {
    use Role::{Customer, Peer, Provider, RouteServer, RouteServerClient};
    let mut route = attributes(place, peer, saying);
    let own = Some(Asn(asn(place, peer)));
    let looped = route.as_path.asns().contains(&Asn(US))
        || route.originator_id == Some(id(OUR_ID))
        || route.cluster_list.contains(&id(OUR_ID));
    let leaked = match peer.role {
        Some(Provider | RouteServer) => route.only_to_customer.is_some(),
        Some(Peer) => route.only_to_customer.is_some() && route.only_to_customer != own,
        Some(Customer | RouteServerClient) | None => false,
    };
    if looped || leaked {
        return None;
    }
    if matches!(peer.role, Some(Customer | Peer | RouteServerClient)) && route.only_to_customer.is_none() {
        route.only_to_customer = own;
    }
    Some(route)
}

/// The best path of a prefix by a comparison that suffices here: no two share a neighbouring AS unless both are
/// internal, and then MED counts between them.
fn best(prefix: u8, table: &Table, peers: &[Neighbour]) -> Option<(usize, Attributes)> {
    if table.contains_key(&(prefix, peers.len())) {
        return Some((peers.len(), Attributes::new(NextHop::from(OURS))));
    }
    let said = |place: usize| admitted(place, peers[place], table.get(&(prefix, place))?);
    let all: Vec<(usize, Attributes)> =
        (0..peers.len()).filter_map(|place| Some((place, said(place)?))).collect();
    let first = |route: &Attributes| {
        let pref = u32::MAX - route.local_pref.unwrap_or(100);
        (pref, route.as_path.asns().len())
    };
    let least = all.iter().map(|(_, route)| first(route)).min()?;
    let left = || all.iter().filter(|(_, route)| first(route) == least);
    let beaten = |route: &Attributes| {
        let rival = |other: &Attributes| other.as_path.asns().first() == route.as_path.asns().first();
        left().any(|(_, other)| rival(other) && other.med.unwrap_or(0) < route.med.unwrap_or(0))
    };
    left()
        .filter(|(_, route)| !beaten(route))
        .min_by_key(|(place, route)| {
            let identifier = route.originator_id.unwrap_or_else(|| id(*place as u8 + 1));
            (!peers[*place].external, identifier, route.cluster_list.len(), *place)
        })
        .cloned()
}

/// What a listener is to know of a prefix.
fn expected(prefix: u8, table: &Table, peers: &[Neighbour], listener: usize) -> Option<Attributes> {
    use Role::{Customer, Peer, Provider, RouteServer, RouteServerClient};
    let (from, mut route) = best(prefix, table, peers)?;
    let (to, source) = (peers[listener], peers.get(from));
    let inside = source.is_some_and(|source| !source.external);
    let held = |community| route.communities.contains(&community);
    if from == listener
        || inside && !to.external && !to.client && !peers[from].client
        || held(Community::NO_ADVERTISE)
        || held(Community::NO_EXPORT) && to.external
        || route.only_to_customer.is_some() && matches!(to.role, Some(Customer | Peer | RouteServerClient))
    {
        return None;
    }
    if to.external {
        route.as_path =
            AsPath::sequence(std::iter::once(Asn(US)).chain(route.as_path.asns().iter().copied()));
        route.next_hop = NextHop::from(OURS);
        (route.local_pref, route.originator_id) = (None, None);
        route.cluster_list.clear();
        route.med = None;
        if matches!(to.role, Some(Provider | Peer | RouteServer)) {
            route.only_to_customer = route.only_to_customer.or(Some(Asn(US)));
        }
    } else {
        route.local_pref = route.local_pref.or(Some(100));
        if inside {
            route.originator_id = route.originator_id.or_else(|| Some(id(from as u8 + 1)));
            route.cluster_list.insert(0, id(OUR_ID));
        } else {
            route.next_hop = NextHop::from(OURS);
        }
    }
    Some(route)
}

fn prefix(number: u8) -> Prefix {
    Prefix::masked(IpAddr::from([10, number, 0, 0]), 16).unwrap()
}

/// Carries one change out in the table; without a saying it is a withdrawal.
fn tell(
    rib: &mut Rib,
    peers: &[Neighbour],
    number: u8,
    place: usize,
    saying: Option<&Saying>,
    table: &Table,
) {
    if place == peers.len() {
        let own = table.keys().filter(|(_, who)| *who == place);
        rib.set_origins(own.map(|(number, _)| (prefix(*number), OriginAttributes::default())).collect());
        return rib.decide();
    }
    let policy = Policy::accept_all();
    let screen = Screen {
        peer: PeerIndex(place as u32),
        kind: facts(place, peers[place]).kind,
        terms: Terms::default(),
        policy: &policy,
        local_address: OURS,
        own: NextHopMode::Own(OURS),
    };
    match saying {
        Some(saying) => {
            let attributes = attributes(place, peers[place], saying);
            rib.announce(&screen, Announcement::new(attributes, [prefix(number)]), u32::MAX);
        }
        None => rib.withdraw(PeerIndex(place as u32), prefix(number)),
    }
    rib.decide();
}

/// Reads what a peer is told into what it knows.
fn hear(rib: &mut Rib, place: usize, peer: Neighbour, known: &mut BTreeMap<Prefix, Attributes>) {
    while rib.pending(PeerIndex(place as u32), false) {
        let mut octets = Vec::new();
        rib.fill(PeerIndex(place as u32), 4096, false, &mut octets);
        let (mut framer, mut input) = (Framer::new(), &octets[..]);
        while let Some(frame) = framer.next(&mut input).unwrap() {
            let decoded = wire::decode(frame, &dialect(peer)).unwrap();
            assert_eq!(decoded.faults, [], "what we send is without fault");
            let Message::Update(update) = decoded.message else { continue };
            update.withdrawn.iter().for_each(|nlri| _ = known.remove(&nlri.prefix));
            for Announcement { attributes, prefixes } in update.announced {
                known.extend(prefixes.into_iter().map(|nlri| (nlri.prefix, attributes.clone())));
            }
        }
    }
}

fn open(peers: &[Neighbour]) -> Rib {
    let router_id = RouterId::new(id(OUR_ID)).unwrap();
    let mut rib = Rib::new(Local::new(Asn(US), router_id), [1, 2]);
    for (place, peer) in peers.iter().enumerate() {
        let facts = facts(place, *peer);
        rib.set_facts(PeerIndex(place as u32), facts);
        let export = Export {
            peer: PeerIndex(place as u32),
            facts,
            terms: Terms::default(),
            policy: Policy::accept_all(),
            next_hop: NextHopMode::Own(OURS),
            local_address: OURS,
            dialect: dialect(*peer),
            most_paths: 1,
            long_lived: true,
        };
        rib.open(Family::Ipv4Unicast, export);
    }
    rib
}

/// Peers that are called by their numbers and have no policy.
struct Numbered(Vec<PeerId>);

impl Names for Numbered {
    fn name(&self, peer: PeerIndex) -> Option<&PeerId> {
        self.0.get(peer.0 as usize)
    }

    fn policy(&self, _: PeerIndex, _: Family) -> Option<&Policy> {
        None
    }
}

/// What explanations say that each peer is told of a prefix.
fn explained(rib: &Rib, peers: usize, number: u8) -> Vec<Option<Attributes>> {
    let names = Numbered((0..peers).map(|place| PeerId::from(place.to_string())).collect());
    let all = names.0.iter().enumerate().map(|(place, name)| (name, PeerIndex(place as u32), true));
    let told = rib.explain(&prefix(number), &names, all).told;
    assert_eq!(told.len(), peers, "each peer is spoken of once");
    told.into_iter()
        .map(|told| match told.status {
            ToldStatus::Told { attributes, sent, .. } => {
                assert!(sent, "everything has been read");
                Some(*attributes)
            }
            ToldStatus::Untold(_) => None,
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_peer_ends_up_knowing_what_the_rules_of_the_protocol_say(
        peers in prop::collection::vec(peer(), 2..5),
        changes in prop::collection::vec((0..4_u8, 0..5_usize, prop::option::weighted(0.8, saying()), any::<bool>()), 1..30),
    ) {
        let (mut rib, mut table) = (open(&peers), Table::new());
        let mut known = vec![BTreeMap::new(); peers.len()];
        for (number, place, saying, read) in &changes {
            let place = *place % (peers.len() + 1);
            match saying {
                Some(saying) => _ = table.insert((*number, place), saying.clone()),
                None => _ = table.remove(&(*number, place)),
            }
            tell(&mut rib, &peers, *number, place, saying.as_ref(), &table);
            if *read {
                let listener = usize::from(*number) % peers.len();
                hear(&mut rib, listener, peers[listener], &mut known[listener]);
            }
        }
        for (listener, known) in known.iter_mut().enumerate() {
            hear(&mut rib, listener, peers[listener], known);
            let wanted = |number| Some((prefix(number), expected(number, &table, &peers, listener)?));
            prop_assert_eq!(&*known, &(0..4).filter_map(wanted).collect::<BTreeMap<_, _>>(), "listener {}", listener);
        }
        for number in 0..4 {
            let there = known.iter().map(|known| known.get(&prefix(number)).cloned()).collect::<Vec<_>>();
            prop_assert_eq!(explained(&rib, peers.len(), number), there);
        }
    }
}
