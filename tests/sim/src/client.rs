//! The way to the API server and back: requests that take their time, fail, or are carried out though nobody hears of it,
//! and watches that lag, break off and begin anew.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::api::{Answer, Key, Kind, Object, Request};
use crate::world::{Happening, Life, World, millis};

/// The longest that a client waits for an answer.
const CALL_TIME: Duration = Duration::from_secs(10);

/// Who speaks with the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Client {
    Host(usize),
    Controller,
}

/// Which part of a client asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Desk {
    /// Claims, releases and lists of blocks.
    Blocks,
    /// The NodeNetwork.
    Publish,
    /// Signs of life.
    Heartbeat,
    /// All of the controller.
    Census,
}

/// How the way to the API server is for one client, or for all.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Weather {
    /// Nothing comes through before.
    pub(crate) away_until: Option<Instant>,
    /// Watches tell nothing before.
    pub(crate) stale_until: Option<Instant>,
    /// Requests and answers take up to this long until then.
    pub(crate) slow_until: Option<(Instant, Duration)>,
    /// Of a thousand answers that many are lost until then, though the request was carried out.
    pub(crate) lossy_until: Option<(Instant, usize)>,
}

impl Weather {
    fn is_away(&self, now: Instant) -> bool {
        self.away_until.is_some_and(|until| until > now)
    }
}

/// What a client has seen of the objects of one kind.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// The changes seen, by their number; `None` while the watch is broken and begins with a list.
    seen: Option<usize>,
    failures: u32,
    due: Option<Instant>,
    pub(crate) objects: BTreeMap<String, Arc<Object>>,
    /// There was a list.
    pub(crate) listed: bool,
}

/// The watches of one client.
pub(crate) type Watches = BTreeMap<Kind, Watch>;

impl World {
    fn weather(&mut self, client: Client) -> &mut Weather {
        self.weather.entry(client).or_default()
    }

    /// Whether nothing comes through for a client.
    pub(crate) fn is_away(&self, client: Client) -> bool {
        self.weather.get(&client).is_some_and(|weather| weather.is_away(self.now))
    }

    /// The way to the API server changes, for one client or for all.
    pub(crate) fn set_weather(&mut self, client: Option<Client>, change: impl Fn(&mut Weather)) {
        let all: Vec<Client> = match client {
            Some(client) => vec![client],
            None => self.clients(),
        };
        all.into_iter().for_each(|client| change(self.weather(client)));
    }

    /// Everybody who speaks with the API server.
    pub(crate) fn clients(&self) -> Vec<Client> {
        (0..self.hosts.len()).map(Client::Host).chain([Client::Controller]).collect()
    }

    /// Sends a request; exactly one answer follows unless the client dies.
    pub(crate) fn ask(&mut self, client: Client, life: Life, desk: Desk, request: Request) {
        let now = self.now;
        let weather = *self.weather(client);
        if weather.is_away(now) {
            // Refused at once, or swallowed until the client gives up.
            let wait = if self.noise.chance(500) { millis(1) } else { CALL_TIME };
            return self.after(wait, Happening::Answered { client, life, desk, answer: Answer::Failed });
        }
        let base = self.settings.api_latency;
        let mut way = self.noise.between(base / 2, base * 2);
        if let Some((_, most)) = weather.slow_until.filter(|(until, _)| *until > now) {
            way += self.noise.between(Duration::ZERO, most);
        }
        self.after(way, Happening::Asked { client, life, desk, request: Box::new(request), sent: now });
    }

    /// A request arrives at the API server.
    pub(crate) fn asked(&mut self, client: Client, life: Life, desk: Desk, request: Request, sent: Instant) {
        let weather = *self.weather(client);
        let answer = if weather.is_away(self.now) { Answer::Failed } else { self.carry_out(client, request) };
        let lost = weather.lossy_until.filter(|(until, _)| *until > self.now);
        let lost = lost.is_some_and(|(_, per_mille)| self.noise.chance(per_mille));
        let base = self.settings.api_latency;
        let way = self.noise.between(base / 2, base * 2);
        let gives_up = sent + CALL_TIME;
        let (at, answer) = if lost || self.now + way >= gives_up {
            let early = self.now + way;
            (if lost && self.noise.chance(500) { early.min(gives_up) } else { gives_up }, Answer::Failed)
        } else {
            (self.now + way, answer)
        };
        self.at(at, Happening::Answered { client, life, desk, answer });
    }

    fn carry_out(&mut self, client: Client, request: Request) -> Answer {
        let told = match &request {
            Request::Create(key, _) => Some(format!("create {}", key.1)),
            Request::Delete(key, ..) => Some(format!("delete {}", key.1)),
            Request::Finalize(name, add, _) => Some(format!("finalizer of {name}: {add}")),
            _ => None,
        };
        let before = self.api.now();
        let collects = match (client, &request) {
            (Client::Controller, Request::Delete(key, ..)) => self.api.get(key.0, &key.1).cloned(),
            _ => None,
        };
        let answer = self.api.carry_out(request);
        if let Some(stored) = collects.filter(|_| matches!(answer, Answer::Done)) {
            self.api.collected(&stored.object);
        }
        if let Some(told) = told {
            let outcome = match &answer {
                Answer::Done => "done",
                Answer::Conflict => "409",
                _ => "404",
            };
            self.log(format_args!("api: {client:?} {told}: {outcome}"));
        }
        self.announce_changes(before);
        answer
    }

    /// Watches will tell what changed since then.
    pub(crate) fn announce_changes(&mut self, since: usize) {
        let changed: Vec<Key> = self.api.since(since).iter().map(|change| change.key.clone()).collect();
        for key in changed {
            for client in self.clients() {
                if self.concerns(client, &key) {
                    self.watch_soon(client, key.0);
                }
            }
        }
    }

    /// A host watches its own Node and its own blocks only.
    fn concerns(&self, client: Client, (kind, name): &Key) -> bool {
        match (client, kind) {
            (Client::Host(host), Kind::Node) => self.hosts[host].name.as_str() == name,
            (Client::Host(_), Kind::Block) | (Client::Controller, _) => true,
            (Client::Host(_), Kind::Pool | Kind::Config | Kind::Network) => true,
        }
    }

    /// All watches of a client begin.
    pub(crate) fn begin_watches(&mut self, client: Client) {
        KINDS.into_iter().for_each(|kind| self.watch_soon(client, kind));
    }

    /// Has a client's watch looked at in a moment.
    fn watch_soon(&mut self, client: Client, kind: Kind) {
        let base = self.settings.api_latency;
        let delay = self.noise.between(base / 2, base * 4);
        self.watch_at(client, kind, self.now + delay);
    }

    fn watch_at(&mut self, client: Client, kind: Kind, at: Instant) {
        let now = self.now;
        let Some(watch) = self.watch_of(client, kind) else { return };
        if watch.due.is_none_or(|due| due > at || due < now) {
            watch.due = Some(at);
            self.at(at, Happening::Watched(client, kind));
        }
    }

    /// What a client watches, if it is alive.
    fn watch_of(&mut self, client: Client, kind: Kind) -> Option<&mut Watch> {
        let watches = match client {
            Client::Host(host) => &mut self.hosts[host].agent.as_mut()?.watches,
            Client::Controller => &mut self.controller.watches,
        };
        Some(watches.entry(kind).or_default())
    }

    /// A client's watches break off; those that are `forgotten` begin with a list, others go on where they were.
    pub(crate) fn break_watches(&mut self, client: Client, forgotten: bool) {
        for kind in KINDS {
            let pause = self.noise.between(millis(400), millis(1200));
            let at = self.now + pause;
            let Some(watch) = self.watch_of(client, kind) else { return };
            if forgotten {
                watch.seen = None;
            }
            watch.due = Some(at);
            self.at(at, Happening::Watched(client, kind));
        }
    }

    /// A client's watch may have something to tell.
    pub(crate) fn watched(&mut self, client: Client, kind: Kind) {
        let (now, latest) = (self.now, self.api.now());
        let weather = *self.weather(client);
        let part = self.noise.below(4);
        let Some(watch) = self.watch_of(client, kind) else { return };
        if watch.due != Some(now) {
            return;
        }
        watch.due = None;
        if let Some(until) = weather.stale_until.filter(|until| *until > now) {
            return self.watch_at(client, kind, until);
        }
        if weather.is_away(now) {
            watch.failures = (watch.failures + 1).min(6);
            let pause = Duration::from_millis(400 << watch.failures).min(Duration::from_secs(30));
            let pause = self.noise.between(pause / 2, pause);
            return self.watch_at(client, kind, now + pause);
        }
        watch.failures = 0;
        match watch.seen {
            None => self.list(client, kind),
            Some(seen) if seen < latest => {
                // Not all at once: what is read of a stream ends anywhere.
                let upto = if part == 0 { seen + 1 } else { latest };
                self.deliver(client, kind, (seen, upto));
                if upto < latest {
                    self.watch_soon(client, kind);
                }
            }
            Some(_) => {}
        }
    }

    fn list(&mut self, client: Client, kind: Kind) {
        let latest = self.api.now();
        let all = self.api.all(kind).map(|(name, stored)| (name.clone(), Arc::clone(&stored.object)));
        let objects: BTreeMap<String, Arc<Object>> = all.collect();
        let objects = objects.into_iter().filter(|(name, _)| self.concerns(client, &(kind, name.clone())));
        let objects = objects.collect();
        let Some(watch) = self.watch_of(client, kind) else { return };
        (watch.objects, watch.seen, watch.listed) = (objects, Some(latest), true);
        self.told(client, kind);
    }

    fn deliver(&mut self, client: Client, kind: Kind, (seen, upto): (usize, usize)) {
        let changes = self.api.since(seen).iter().take(upto - seen).filter(|change| change.key.0 == kind);
        let changes: Vec<_> = changes.cloned().collect();
        let changes: Vec<_> =
            changes.into_iter().filter(|change| self.concerns(client, &change.key)).collect();
        let Some(watch) = self.watch_of(client, kind) else { return };
        watch.seen = Some(upto);
        let news = !changes.is_empty();
        for change in changes {
            match change.object {
                Some(object) => watch.objects.insert(change.key.1, object),
                None => watch.objects.remove(&change.key.1),
            };
        }
        if news {
            self.told(client, kind);
        }
    }

    /// A client's view of the objects of a kind has changed.
    fn told(&mut self, client: Client, kind: Kind) {
        match client {
            Client::Host(host) => self.on_objects(host, kind),
            Client::Controller => self.on_census(kind),
        }
    }
}

const KINDS: [Kind; 5] = [Kind::Pool, Kind::Config, Kind::Network, Kind::Node, Kind::Block];
