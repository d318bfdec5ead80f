//! What a node sees of a flow.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use manx_facts::probe::{
    Flow, Kind, Lookup, Protocol, Seen, Sight, Translation, Verdict, WatchQuestion, Way,
};
use manx_kernel::names::Mac;
use manx_kernel::netlink::conntrack::{self, Tuple};
use manx_kernel::netlink::lookup::{self, Packet};
use manx_kernel::netlink::nftrace::{Decision, Follower, Mark, Sign};
use manx_kernel::netlink::socket::Socket;
use manx_kernel::netns::NetNs;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::capture::{Capture, Passed};
use super::legacy::Legacy;
use super::packet::{Hidden, Known, recognise};
use super::send::Sender;
use super::{counters, packet};
use crate::look::{Lines, links, record};
use crate::shell::options::Look;

/// How often counters are compared, and ways of what came in are looked up: a while after, so that the connection is
/// tracked by then.
const TICK: Duration = Duration::from_millis(50);
/// Decisions of rules that are told; a large rule set decides some ten times about each packet.
const MOST_VERDICTS: usize = 2000;
/// Sightings that are told.
const MOST_SEEN: usize = 2000;

/// One namespace: its packet socket, and what is asked in it.
struct Place {
    capture: AsyncFd<Capture>,
    route: Socket,
    links: BTreeMap<u32, String>,
}

impl Place {
    /// Opens it in the namespace of this thread.
    fn open(flow: &Flow) -> Result<Self, String> {
        let capture = Capture::open(flow).map_err(|error| format!("no packet socket: {error}"))?;
        let mut route = Socket::route().map_err(|error| error.to_string())?;
        let links = links::links(&mut route).map_err(|error| format!("links: {error}"))?;
        Ok(Self {
            capture: readable(capture).map_err(|error| format!("no packet socket: {error}"))?,
            route,
            links: links.into_iter().map(|link| (link.index, link.name)).collect(),
        })
    }

    fn name(&mut self, index: u32) -> String {
        if !self.links.contains_key(&index) {
            let links = links::links(&mut self.route).unwrap_or_default();
            self.links.extend(links.into_iter().map(|link| (link.index, link.name)));
        }
        self.links.get(&index).cloned().unwrap_or_else(|| format!("link {index}"))
    }

    fn index(&self, name: &str) -> Option<u32> {
        self.links.iter().find(|(_, known)| *known == name).map(|(index, _)| *index)
    }
}

/// Everything that looks at a flow on this node.
pub(super) struct Eyes {
    flow: Flow,
    host: Place,
    inside: Option<(NetNs, Place)>,
    follower: Option<AsyncFd<Follower>>,
    netfilter: Option<Socket>,
    legacy: Option<Legacy>,
    before: BTreeMap<String, u64>,
    told: BTreeMap<String, u64>,
    /// Ways to look up at the next tick, and those that were.
    due: BTreeSet<(u32, IpAddr, IpAddr)>,
    found: BTreeSet<(u32, IpAddr, IpAddr)>,
    pub(super) translation: Option<Translation>,
    verdicts: usize,
    seen: usize,
}

impl Eyes {
    /// Opens all, with what cannot be looked at; `Err` when nothing can.
    pub(super) fn open(question: &WatchQuestion, place: &Look) -> Result<(Self, Vec<String>), String> {
        let flow = question.flow;
        if flow.source.is_ipv4() != flow.target.is_ipv4() {
            return Err("source and target are of different families".to_owned());
        }
        let mut blind = Vec::new();
        let mut note = |what: &str, why: &dyn std::fmt::Display| blind.push(format!("{what}: {why}"));
        let host = Place::open(&flow)?;
        let (inside, link) = match question.pod.map(|address| enter(address, &flow, &place.run_dir)) {
            Some(Ok((inside, link))) => (Some(inside), Some(link)),
            Some(Err(why)) => {
                note("the inside of the pod", &why);
                (None, None)
            }
            None => (None, None),
        };
        let name = format!("manxctl-trace-{}", std::process::id());
        let follower = Follower::start(&name, &marks(&flow), link.as_deref());
        let follower = follower.map_err(|error| error.to_string());
        let follower = match follower.and_then(|it| readable(it).map_err(|error| error.to_string())) {
            Ok(follower) => Some(follower),
            Err(why) => {
                note("decisions of nftables", &why);
                None
            }
        };
        let legacy = Legacy::open(&flow).unwrap_or_else(|why| {
            note("counters of legacy iptables", &why);
            None
        });
        let before = counters::read();
        let eyes = Self {
            flow,
            host,
            inside,
            follower,
            netfilter: Socket::netfilter().ok(),
            legacy,
            told: BTreeMap::new(),
            before,
            due: BTreeSet::new(),
            found: BTreeSet::new(),
            translation: None,
            verdicts: 0,
            seen: 0,
        };
        Ok((eyes, blind))
    }

    /// What sends from inside the pod.
    pub(super) fn sender(&self) -> Result<Sender, String> {
        let (namespace, _) = self.inside.as_ref().ok_or("the pod's namespace cannot be entered")?;
        let opened = namespace.within(|| Sender::open(&self.flow)).map_err(|error| error.to_string())?;
        opened.map_err(|error| format!("no raw socket: {error}"))
    }

    /// The ways that were asked for.
    pub(super) fn asked(&mut self, lookups: &[Lookup]) -> Vec<Sight> {
        lookups.iter().filter_map(|lookup| self.way(lookup.clone(), false)).collect()
    }

    fn way(&mut self, lookup: Lookup, passing: bool) -> Option<Sight> {
        let place = match lookup.inside {
            true => &mut self.inside.as_mut()?.1,
            false => &mut self.host,
        };
        let iif = match &lookup.iif {
            Some(name) => Some(place.index(name)?),
            None => None,
        };
        let packet = Packet { to: lookup.to, from: lookup.from, iif };
        let mut way = Way {
            passing,
            refused: None,
            local: false,
            link: None,
            gateway: None,
            prefix: None,
            table: 0,
            protocol: 0,
            neighbour: None,
            lookup,
        };
        match lookup::way(&mut place.route, &packet) {
            Ok(Ok(found)) => {
                let hop = found.gateway.unwrap_or(way.lookup.to);
                let neighbours = links::neighbours(&mut place.route).unwrap_or_default();
                way.neighbour = neighbours
                    .into_iter()
                    .find(|neighbour| Some(neighbour.link) == found.link && neighbour.address == hop);
                way.link = found.link.map(|link| place.name(link));
                (way.local, way.gateway, way.prefix) = (found.local, found.gateway, found.prefix);
                (way.table, way.protocol) = (found.table, found.protocol);
            }
            Ok(Err(errno)) => way.refused = Some(format!("{errno:?}")),
            Err(error) => return Some(Sight::Blind(format!("the way to {}: {error}", packet.to))),
        }
        Some(Sight::Way(way))
    }

    /// Says what it sees until something is `enough`, or the time is over; whether it was enough.
    pub(super) async fn until<W: Write>(
        &mut self,
        lines: &mut Lines<W>,
        end: Instant,
        mut enough: impl FnMut(&Seen) -> bool,
    ) -> io::Result<bool> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let awake = tokio::select! {
                passed = next(&mut self.host.capture) => Awake::Host(passed?),
                passed = next_inside(&mut self.inside) => Awake::Inside(passed?),
                decisions = decisions(&mut self.follower) => Awake::Decided(decisions?),
                _ = ticks.tick() => Awake::Tick,
                () = tokio::time::sleep_until(end) => return Ok(false),
            };
            match awake {
                Awake::Host(passed) => {
                    if self.passed(passed, false, lines)?.is_some_and(|seen| enough(&seen)) {
                        return Ok(true);
                    }
                }
                Awake::Inside(passed) => {
                    if self.passed(passed, true, lines)?.is_some_and(|seen| enough(&seen)) {
                        return Ok(true);
                    }
                }
                Awake::Decided(decisions) => self.decided(decisions, lines)?,
                Awake::Tick => self.tick(lines)?,
            }
        }
    }

    fn passed<W: Write>(
        &mut self,
        passed: Passed,
        inside: bool,
        lines: &mut Lines<W>,
    ) -> io::Result<Option<Seen>> {
        let Some(known) = self.known(&passed.packet, lines)? else { return Ok(None) };
        if self.seen >= MOST_SEEN {
            return Ok(None);
        }
        self.seen += 1;
        let place = match (&mut self.inside, inside) {
            (Some((_, place)), true) => place,
            _ => &mut self.host,
        };
        let seen = seen(&known, &passed, inside, place.name(passed.link));
        if !inside && !passed.outgoing && matches!(known.kind, Kind::Probe | Kind::Answer) {
            self.due.insert((passed.link, known.from, known.to));
        }
        lines.ok(&Sight::Seen(seen.clone()))?;
        Ok(Some(seen))
    }

    /// What a packet is of the flow. A datagram that nothing marks may answer to an address behind which the node hides
    /// the pod: what is tracked says so.
    fn known<W: Write>(&mut self, packet: &[u8], lines: &mut Lines<W>) -> io::Result<Option<Known>> {
        let known = recognise(&self.flow, self.hidden(), packet);
        if known.is_some() || self.flow.protocol != Protocol::Udp || self.translation.is_some() {
            return Ok(known);
        }
        self.learn(lines)?;
        Ok(recognise(&self.flow, self.hidden(), packet))
    }

    fn hidden(&self) -> Option<Hidden> {
        let translation = self.translation.as_ref().filter(|translation| translation.hides())?;
        Some((translation.seen_as, translation.seen_port))
    }

    /// Looks once more whether the connection is tracked.
    fn learn<W: Write>(&mut self, lines: &mut Lines<W>) -> io::Result<()> {
        if self.translation.is_none() {
            self.translation = self.tracked();
            if let Some(translation) = &self.translation {
                lines.ok(&Sight::Translation(translation.clone()))?;
            }
        }
        Ok(())
    }

    fn decided<W: Write>(&mut self, decisions: Vec<Decision>, lines: &mut Lines<W>) -> io::Result<()> {
        for decision in decisions {
            let Some(known) = recognise(&self.flow, self.hidden(), &decision.packet) else { continue };
            self.verdicts += 1;
            if self.verdicts > MOST_VERDICTS {
                return Ok(());
            }
            let rule = self.follower.as_mut().and_then(|it| it.get_mut().rule(&decision)).unwrap_or_default();
            let verdict = Verdict {
                probe: known.probe,
                back: known.kind != Kind::Probe,
                family: decision.family.to_owned(),
                iif: decision.iif.map(|link| self.host.name(link)),
                oif: decision.oif.map(|link| self.host.name(link)),
                table: decision.table,
                chain: decision.chain,
                line: decision.handle.map(|_| rule.line),
                handle: decision.handle,
                comment: rule.comment,
                xtables: rule.xtables,
                verdict: decision.verdict,
                to: Some(known.to),
            };
            lines.ok(&Sight::Verdict(verdict))?;
        }
        Ok(())
    }

    /// Looks up what came in, what is tracked, and which counters have grown.
    pub(super) fn tick<W: Write>(&mut self, lines: &mut Lines<W>) -> io::Result<()> {
        if !self.due.is_empty() {
            self.learn(lines)?;
        }
        for (link, from, to) in std::mem::take(&mut self.due) {
            if !self.found.insert((link, from, to)) {
                continue;
            }
            let to = self.translated(from, to);
            let lookup = Lookup { inside: false, to, from: Some(from), iif: Some(self.host.name(link)) };
            if let Some(sight) = self.way(lookup, true) {
                lines.ok(&sight)?;
            }
        }
        let grown = counters::grown(&self.before, &counters::read());
        if grown != self.told {
            lines.ok(&Sight::Grown(grown.clone()))?;
            self.told = grown;
        }
        match self.legacy.as_mut().and_then(|legacy| legacy.news(std::time::Instant::now())) {
            Some(drops) => lines.ok(&Sight::Legacy(drops)),
            None => Ok(()),
        }
    }

    /// Where a packet goes when it is routed: translation comes before that.
    fn translated(&self, from: IpAddr, to: IpAddr) -> IpAddr {
        match &self.translation {
            Some(it) if it.to == to && it.from == from => it.backend,
            Some(it) if it.hides() && it.seen_as == to && it.backend == from => it.from,
            _ => to,
        }
    }

    fn tracked(&mut self) -> Option<Translation> {
        let flow = self.flow;
        let id = flow.source_port();
        let to_port = if flow.protocol == Protocol::Icmp { id } else { flow.port };
        let packets =
            Tuple { from: flow.source, to: flow.target, from_port: id, to_port, protocol: flow.ip_number() };
        let found = conntrack::find(self.netfilter.as_mut()?, &packets).ok()??;
        Some(Translation {
            from: found.original.from,
            to: found.original.to,
            to_port: found.original.to_port,
            backend: found.reply.from,
            backend_port: found.reply.from_port,
            seen_as: found.reply.to,
            seen_port: found.reply.to_port,
            timeout: found.timeout,
        })
    }
}

/// A socket that is waited for until it can be read.
pub(super) fn readable<T: AsRawFd>(socket: T) -> io::Result<AsyncFd<T>> {
    #[expect(
        deprecated,
        reason = "its unsafe heir asks for a descriptor that stays open: each of ours owns its own"
    )]
    AsyncFd::with_interest(socket, Interest::READABLE)
}

/// What wakes it.
enum Awake {
    Host(Passed),
    Inside(Passed),
    Decided(Vec<Decision>),
    Tick,
}

async fn next(capture: &mut AsyncFd<Capture>) -> io::Result<Passed> {
    loop {
        let mut guard = capture.readable_mut().await?;
        match guard.get_inner_mut().next() {
            Ok(Some(passed)) => return Ok(passed),
            Ok(None) => guard.clear_ready(),
            // A link went down; the socket goes on with the others.
            Err(error) if error.raw_os_error() == Some(nix::libc::ENETDOWN) => {}
            Err(error) => return Err(error),
        }
    }
}

async fn next_inside(inside: &mut Option<(NetNs, Place)>) -> io::Result<Passed> {
    match inside {
        Some((_, place)) => next(&mut place.capture).await,
        None => std::future::pending().await,
    }
}

async fn decisions(follower: &mut Option<AsyncFd<Follower>>) -> io::Result<Vec<Decision>> {
    let Some(follower) = follower else { return std::future::pending().await };
    let mut guard = follower.readable_mut().await?;
    let decisions = guard.get_inner_mut().decisions();
    guard.clear_ready();
    // Some are lost when there are too many; the others still tell.
    Ok(decisions.unwrap_or_default())
}

/// A pod's namespace, what looks at it, and the node's end of its link.
type Inside = ((NetNs, Place), String);

fn enter(address: IpAddr, flow: &Flow, run_dir: &Path) -> Result<Inside, String> {
    let record = record::look(run_dir);
    let endpoint = record.holder(address).ok_or_else(|| format!("the record has no pod with {address}"))?;
    let path = endpoint.netns.as_ref().ok_or("the record does not say where its namespace is")?;
    let namespace = NetNs::open(Path::new(path)).map_err(|error| error.to_string())?;
    let place = namespace.within(|| Place::open(flow)).map_err(|error| error.to_string())??;
    Ok(((namespace, place), endpoint.link.clone()))
}

fn seen(known: &Known, passed: &Passed, inside: bool, link: String) -> Seen {
    Seen {
        time: passed.time,
        inside,
        index: passed.link,
        link,
        outgoing: passed.outgoing,
        probe: known.probe,
        kind: known.kind,
        from: Some(known.from),
        to: Some(known.to),
        from_port: known.from_port,
        to_port: known.to_port,
        size: known.size,
        ttl: known.ttl,
        mac: passed.mac.filter(|_| !passed.outgoing).map(|mac| Mac(mac).to_string()),
    }
}

/// How nf_tables knows the packets of a flow: see [`packet::recognise`].
fn marks(flow: &Flow) -> Vec<Mark> {
    let protocol = flow.ip_number();
    let port = |offset| Sign::Is { offset, octets: flow.source_port().to_be_bytes().to_vec() };
    let signed = Sign::Is { offset: packet::SHORT_HEADER, octets: flow.mark.to_be_bytes().to_vec() };
    let numbered = |offset| Sign::From { offset, first: flow.first_sequence(), span: flow.sequences() };
    let window = Sign::Is { offset: 14, octets: flow.window().to_be_bytes().to_vec() };
    let signs = match flow.protocol {
        // Of both ways.
        Protocol::Icmp => vec![vec![signed]],
        Protocol::Udp => vec![vec![signed], vec![port(2)]],
        // Of answers the port may be another, where the node hides the pod.
        Protocol::Tcp => {
            let of_target = Sign::Is { offset: 0, octets: flow.port.to_be_bytes().to_vec() };
            vec![vec![numbered(4), window], vec![numbered(8), port(2)], vec![numbered(8), of_target]]
        }
    };
    signs.into_iter().map(|signs| Mark { protocol, signs }).collect()
}
