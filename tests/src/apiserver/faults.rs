//! Faults on demand: slow answers, refusals, cut connections, silence and outages.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Which requests a fault hits. An empty list or string means all of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scope {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; `other` for discovery.
    pub verbs: Vec<String>,
    /// Plural names, with the subresource if there is one: `ipblocks`, `nodes/status`.
    pub resources: Vec<String>,
    /// Name of the object.
    pub name: String,
    /// What the user agent contains.
    pub user_agent: String,
}

/// How often a fault strikes among the requests in its scope.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum When {
    /// Each time.
    #[default]
    Always,
    /// The next few times, then never again.
    Next(u32),
    /// Every second, third … time.
    EveryNth(u32),
    /// With this probability (0 to 1), from the server's seed.
    Probability(f64),
}

/// What a fault does to a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Effect {
    /// The request is carried out after this long (in JSON: milliseconds).
    Delay(#[serde(with = "millis")] Duration),
    /// The request is refused with this status code, and not carried out.
    #[serde(rename_all = "camelCase")]
    Refuse {
        /// HTTP status code.
        code: u16,
        /// Seconds in `Retry-After`.
        #[serde(default)]
        retry_after: Option<u32>,
    },
    /// The connection stays open and nothing comes; the request is not carried out.
    Hang,
    /// The connection is cut; the request is not carried out.
    Cut,
    /// The request is carried out, then the connection is cut before the answer.
    CutAfter,
}

/// A rule: in this scope, so often, this happens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// Which requests.
    #[serde(default)]
    pub scope: Scope,
    /// How often.
    #[serde(default)]
    pub when: When,
    /// What happens.
    pub effect: Effect,
}

impl Fault {
    /// `effect` on every request; narrow it down with the other methods.
    pub fn new(effect: Effect) -> Self {
        Self { scope: Scope::default(), when: When::Always, effect }
    }

    /// Refusal with a status code.
    pub fn refuse(code: u16) -> Self {
        Self::new(Effect::Refuse { code, retry_after: None })
    }

    /// Only this verb (and those of earlier calls).
    #[must_use]
    pub fn verb(mut self, verb: &str) -> Self {
        self.scope.verbs.push(verb.to_owned());
        self
    }

    /// Only this resource (and those of earlier calls).
    #[must_use]
    pub fn resource(mut self, resource: &str) -> Self {
        self.scope.resources.push(resource.to_owned());
        self
    }

    /// Only requests for the object of this name.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.scope.name);
        self
    }

    /// Only requests of clients whose user agent contains `part`.
    #[must_use]
    pub fn user_agent(mut self, part: &str) -> Self {
        part.clone_into(&mut self.scope.user_agent);
        self
    }

    /// How often.
    #[must_use]
    pub fn when(mut self, when: When) -> Self {
        self.when = when;
        self
    }
}

/// What a request is, as far as faults and the request log care.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Subject {
    /// See [`Scope::verbs`].
    pub verb: String,
    /// See [`Scope::resources`]; the path for requests that name none.
    pub resource: String,
    /// Namespace, or empty.
    pub namespace: String,
    /// Name, or empty.
    pub name: String,
    /// The client's `User-Agent`.
    pub user_agent: String,
}

/// What the rules decided about one request.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) delay: Duration,
    pub(crate) effect: Option<Effect>,
}

/// Whether the server can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Presence {
    /// It answers.
    Up,
    /// It does not listen, and has cut all connections.
    Away,
}

/// The faults that are in force. Share it freely: every method takes `&self`.
#[derive(Debug)]
pub struct Faults {
    rules: Mutex<Rules>,
    pub(crate) wanted: watch::Sender<Presence>,
    pub(crate) actual: watch::Sender<Presence>,
    silent: watch::Sender<bool>,
}

#[derive(Debug)]
struct Rules {
    next_id: u64,
    seed: u64,
    active: BTreeMap<u64, (Fault, u32)>,
}

impl Faults {
    /// No faults; `seed` decides what [`When::Probability`] hits.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rules: Mutex::new(Rules { next_id: 1, seed, active: BTreeMap::new() }),
            wanted: watch::Sender::new(Presence::Up),
            actual: watch::Sender::new(Presence::Up),
            silent: watch::Sender::new(false),
        }
    }

    /// Adds a rule and returns its number. Delays of all rules add up; of other effects the oldest rule's counts.
    pub fn add(&self, fault: Fault) -> u64 {
        let mut rules = self.locked();
        let id = rules.next_id;
        rules.next_id += 1;
        rules.active.insert(id, (fault, 0));
        id
    }

    /// Ends a rule; says whether it was there.
    pub fn remove(&self, id: u64) -> bool {
        self.locked().active.remove(&id).is_some()
    }

    /// Ends all rules.
    pub fn clear(&self) {
        self.locked().active.clear();
    }

    /// The rules in force with their numbers.
    pub fn list(&self) -> Vec<(u64, Fault)> {
        self.locked().active.iter().map(|(id, (fault, _))| (*id, fault.clone())).collect()
    }

    /// Stops listening and cuts every connection; returns when that is done.
    pub async fn go_away(&self) {
        self.become_present(Presence::Away).await;
    }

    /// Listens again on the same address; returns when that is done.
    pub async fn come_back(&self) {
        self.become_present(Presence::Up).await;
    }

    /// Keeps all connections open and says nothing on them, watches included, as behind a network that drops
    /// packets. Requests that wait are carried out after [`Faults::speak`].
    pub fn fall_silent(&self) {
        self.silent.send_replace(true);
    }

    /// Ends the silence.
    pub fn speak(&self) {
        self.silent.send_replace(false);
    }

    async fn become_present(&self, presence: Presence) {
        let mut actual = self.actual.subscribe();
        self.wanted.send_replace(presence);
        // The server holds the other end for as long as it runs; when it has stopped there is nothing to wait for.
        let _ = actual.wait_for(|found| *found == presence).await;
    }

    /// Waits until the server is not silent.
    pub(crate) async fn audible(&self) {
        let _ = self.silent.subscribe().wait_for(|silent| !silent).await;
    }

    /// What happens to this request.
    pub(crate) fn judge(&self, subject: &Subject) -> Verdict {
        let mut rules = self.locked();
        let mut verdict = Verdict::default();
        let Rules { seed, active, .. } = &mut *rules;
        for (fault, seen) in active.values_mut().filter(|(fault, _)| fault.scope.covers(subject)) {
            *seen += 1;
            let strikes = match fault.when {
                When::Always => true,
                When::Next(count) => *seen <= count,
                When::EveryNth(n) => n > 0 && *seen % n == 0,
                When::Probability(p) => next_fraction(seed) < p,
            };
            match (&fault.effect, strikes) {
                (_, false) => {}
                (Effect::Delay(delay), true) => verdict.delay += *delay,
                (effect, true) => {
                    verdict.effect.get_or_insert_with(|| effect.clone());
                }
            }
        }
        active.retain(|_, (fault, seen)| !matches!(fault.when, When::Next(count) if *seen >= count));
        verdict
    }

    fn locked(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Scope {
    fn covers(&self, subject: &Subject) -> bool {
        let listed = |list: &[String], value: &str| list.is_empty() || list.iter().any(|item| item == value);
        listed(&self.verbs, &subject.verb)
            && listed(&self.resources, &subject.resource)
            && (self.name.is_empty() || self.name == subject.name)
            && subject.user_agent.contains(&self.user_agent)
    }
}

/// Durations as whole milliseconds.
mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        duration.as_millis().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

/// The next number of SplitMix64, as a fraction of one.
fn next_fraction(seed: &mut u64) -> f64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let top = u32::try_from((z ^ (z >> 31)) >> 32).unwrap_or_default();
    f64::from(top) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(verb: &str) -> Subject {
        let text = str::to_owned;
        Subject {
            verb: text(verb),
            resource: text("ipblocks"),
            namespace: String::new(),
            name: text("a"),
            user_agent: text("manx-agent/0.1"),
        }
    }

    #[test]
    fn a_fault_strikes_as_often_as_it_was_told_to() {
        let faults = Faults::new(7);
        faults.add(Fault::refuse(500).verb("create").when(When::Next(2)));
        let strikes = |verb| faults.judge(&subject(verb)).effect.is_some();
        assert_eq!(
            [strikes("get"), strikes("create"), strikes("create"), strikes("create")],
            [false, true, true, false]
        );
        assert!(faults.list().is_empty());
        faults.add(Fault::refuse(409).user_agent("manx").when(When::EveryNth(2)));
        assert_eq!(
            [strikes("get"), strikes("get"), strikes("get"), strikes("get")],
            [false, true, false, true]
        );
    }

    #[test]
    fn probability_is_roughly_kept_and_repeats_with_the_seed() {
        let run = |seed| {
            let faults = Faults::new(seed);
            faults.add(Fault::refuse(500).when(When::Probability(0.25)));
            (0..1000).filter(|_| faults.judge(&subject("get")).effect.is_some()).count()
        };
        assert_eq!(run(1), run(1));
        assert!((200..300).contains(&run(1)));
    }
}
