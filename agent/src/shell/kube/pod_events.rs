//! Events on pods that cannot start, so that `kubectl describe pod` says why.
//!
//! A runtime tries again every few seconds. Each reason is one Event whose count grows; it is written at once the
//! first time, and after that ever more seldom, whatever the number of pods and tries.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use manx_ipam::PodRef;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{bounded, status_of};
use crate::node::Trouble;

/// The pause before a count is written, at first and at most; it doubles with each write.
const PAUSES: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));
/// A reason that was not given for so long is forgotten, and a new Event if it comes again.
const FORGOTTEN: Duration = Duration::from_secs(600);
/// Reasons remembered; what comes beyond is not told.
const REMEMBERED: usize = 1024;
/// Writes at once, and the time in which one more becomes possible.
const BURST: (u32, Duration) = (25, Duration::from_secs(1));

/// Something to tell the owner of a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodEvent {
    /// Which pod.
    pub pod: PodRef,
    /// The same in a word.
    pub trouble: Trouble,
    /// What is wrong.
    pub note: String,
}

/// Publishes events for as long as the process lives.
pub async fn run(client: Client, node: String, mut events: mpsc::Receiver<PodEvent>) {
    let mut told = Told::new(Instant::now());
    loop {
        let due = told.due();
        tokio::select! {
            event = events.recv() => {
                let Some(event) = event else { return };
                told.hear(event, Instant::now());
            }
            () = tokio::time::sleep_until(due.unwrap_or_else(far_away)), if due.is_some() => {
                while let Some((event, write)) = told.next(Instant::now()) {
                    let written = publish(&client, &node, &event, &write).await;
                    let written = written.inspect_err(|error| {
                        let error = format!("{error:#}");
                        tracing::debug!(error, pod = event.pod.name, "the event about a pod was not taken");
                    });
                    told.written(&event, written.ok(), Instant::now());
                }
            }
        }
    }
}

fn far_away() -> Instant {
    Instant::now() + FORGOTTEN
}

/// What is to be written about a reason.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Write {
    /// A new Event.
    New,
    /// How often it was given by now, on the Event of this name.
    Count(String, i32),
}

/// One reason, as far as it was told.
#[derive(Debug)]
struct Reason {
    /// The name of its Event, once there is one.
    event: Option<String>,
    count: i32,
    /// The count that the Event shows.
    shown: i32,
    last: Instant,
    not_before: Instant,
    pause: Duration,
}

/// What was told, and when more may be.
#[derive(Debug)]
struct Told {
    reasons: BTreeMap<PodEvent, Reason>,
    /// When all that may be written at once would be spent, had it been written evenly.
    spent_until: Instant,
}

impl Told {
    fn new(now: Instant) -> Self {
        Self { reasons: BTreeMap::new(), spent_until: now }
    }

    fn hear(&mut self, event: PodEvent, now: Instant) {
        self.reasons.retain(|_, reason| now.duration_since(reason.last) < FORGOTTEN);
        if self.reasons.len() >= REMEMBERED && !self.reasons.contains_key(&event) {
            return;
        }
        let new = Reason { event: None, count: 0, shown: 0, last: now, not_before: now, pause: PAUSES.0 };
        let reason = self.reasons.entry(event).or_insert(new);
        reason.count = reason.count.saturating_add(1);
        reason.last = now;
    }

    fn due(&self) -> Option<Instant> {
        let open = self.reasons.values().filter(|reason| reason.count > reason.shown);
        let earliest = open.map(|reason| reason.not_before).min()?;
        Some(earliest.max(self.affordable_at()))
    }

    fn affordable_at(&self) -> Instant {
        let (writes, each) = BURST;
        self.spent_until.checked_sub(each * (writes - 1)).unwrap_or(self.spent_until)
    }

    fn next(&mut self, now: Instant) -> Option<(PodEvent, Write)> {
        if now < self.affordable_at() {
            return None;
        }
        let open = self.reasons.iter().filter(|(_, reason)| reason.count > reason.shown);
        let (event, reason) = open
            .filter(|(_, reason)| reason.not_before <= now)
            .min_by_key(|(_, reason)| reason.not_before)?;
        self.spent_until = self.spent_until.max(now) + BURST.1;
        let write = match &reason.event {
            Some(name) => Write::Count(name.clone(), reason.count),
            None => Write::New,
        };
        Some((event.clone(), write))
    }

    /// The outcome of a write: the name of the Event, which is empty when there is none any more.
    fn written(&mut self, event: &PodEvent, outcome: Option<String>, now: Instant) {
        let Some(reason) = self.reasons.get_mut(event) else { return };
        match outcome {
            Some(name) if name.is_empty() => reason.event = None,
            Some(name) => {
                reason.shown = if reason.event.is_some() { reason.count } else { 1 };
                reason.event = Some(name);
            }
            None => {}
        }
        reason.not_before = now + reason.pause;
        reason.pause = (reason.pause * 2).min(PAUSES.1);
    }
}

/// Writes, and gives the name of the Event.
async fn publish(client: &Client, node: &str, event: &PodEvent, write: &Write) -> anyhow::Result<String> {
    let api: Api<Event> = Api::namespaced(client.clone(), &event.pod.namespace);
    let now = Timestamp::now();
    match write {
        Write::New => {
            let created = bounded(api.create(&PostParams::default(), &object(event, node, now))).await?;
            Ok(created.name_any())
        }
        Write::Count(name, count) => {
            let series = json!({"series": {"count": count, "lastObservedTime": MicroTime(now)}});
            match bounded(api.patch(name, &PatchParams::default(), &Patch::Merge(series))).await {
                Ok(_) => Ok(name.clone()),
                // Events live for an hour.
                Err(error) if status_of(&error) == Some(404) => Ok(String::new()),
                Err(error) => Err(error),
            }
        }
    }
}

fn object(event: &PodEvent, node: &str, now: Timestamp) -> Event {
    let PodEvent { pod, trouble, note } = event;
    let name = cut(&pod.name, 230);
    Event {
        metadata: ObjectMeta {
            namespace: Some(pod.namespace.clone()),
            name: Some(format!("{}.{:x}", name.trim_end_matches(['-', '.']), now.as_nanosecond())),
            ..ObjectMeta::default()
        },
        type_: Some("Warning".to_owned()),
        reason: Some(reason(*trouble).to_owned()),
        action: Some("AssignAddress".to_owned()),
        note: Some(cut(note, 1000).to_owned()),
        event_time: Some(MicroTime(now)),
        regarding: Some(reference(pod)),
        reporting_controller: Some("manx.dev/agent".to_owned()),
        reporting_instance: Some(cut(node, 128).to_owned()),
        ..Event::default()
    }
}

/// The beginning of a text, as long as the API server takes it, in bytes.
fn cut(text: &str, longest: usize) -> &str {
    let end = (0..=longest.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

fn reason(trouble: Trouble) -> &'static str {
    match trouble {
        Trouble::NoAddress => "NoAddress",
        Trouble::Refused => "AddressRefused",
        Trouble::Annotation => "BadAnnotation",
    }
}

fn reference(pod: &PodRef) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(pod.namespace.clone()),
        name: Some(pod.name.clone()),
        uid: pod.uid.clone(),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(pod: usize, note: &str) -> PodEvent {
        let pod = PodRef { namespace: "web".to_owned(), name: format!("p{pod}"), uid: None };
        PodEvent { pod, trouble: Trouble::NoAddress, note: note.to_owned() }
    }

    /// All that is written by `now`, in a word each.
    fn writes(told: &mut Told, now: Instant) -> Vec<String> {
        let mut writes = Vec::new();
        while let Some((event, write)) = told.next(now) {
            writes.push(match &write {
                Write::New => format!("{} new", event.pod.name),
                Write::Count(_, count) => format!("{} {count}", event.pod.name),
            });
            told.written(&event, Some(format!("{}.1", event.pod.name)), now);
        }
        writes
    }

    #[test]
    fn a_reason_is_told_at_once_and_then_counted_ever_more_seldom() {
        let start = Instant::now();
        let mut told = Told::new(start);
        let mut written = Vec::new();
        // Ten minutes of a kubelet that tries again every second.
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            told.hear(event(1, "full"), now);
            written.extend(writes(&mut told, now).into_iter().map(|write| (second, write)));
        }
        let expected: Vec<_> = [(0, "new"), (10, "11"), (30, "31"), (70, "71"), (150, "151"), (310, "311")]
            .map(|(second, count)| (second, format!("p1 {count}")))
            .into();
        assert_eq!(written, expected);
    }

    #[test]
    fn the_last_count_is_written_though_nothing_more_is_heard() {
        let start = Instant::now();
        let mut told = Told::new(start);
        for _ in 0..3 {
            told.hear(event(1, "full"), start);
        }
        assert_eq!(writes(&mut told, start), ["p1 new"]);
        assert_eq!(told.due(), Some(start + PAUSES.0));
        assert_eq!(writes(&mut told, start + PAUSES.0), ["p1 3"]);
        assert_eq!(told.due(), None);
    }

    #[test]
    fn another_reason_is_another_event() {
        let start = Instant::now();
        let mut told = Told::new(start);
        told.hear(event(1, "full"), start);
        told.hear(event(1, "taken by web/a"), start);
        told.hear(event(1, "full"), start);
        assert_eq!(writes(&mut told, start), ["p1 new", "p1 new"]);
    }

    #[test]
    fn a_crowd_is_told_one_by_one() {
        let start = Instant::now();
        let mut told = Told::new(start);
        for pod in 0..2000 {
            told.hear(event(pod, "full"), start);
        }
        assert_eq!(told.reasons.len(), REMEMBERED);
        assert_eq!(writes(&mut told, start).len(), 25);
        assert_eq!(told.due(), Some(start + BURST.1));
        assert_eq!(writes(&mut told, start + Duration::from_secs(5)).len(), 5);
    }

    #[test]
    fn what_was_not_taken_is_tried_again_and_an_event_that_is_gone_is_made_anew() {
        let start = Instant::now();
        let mut told = Told::new(start);
        told.hear(event(1, "full"), start);
        let (reason, write) = told.next(start).expect("due");
        assert_eq!(write, Write::New);
        told.written(&reason, None, start);
        assert_eq!(writes(&mut told, start), Vec::<String>::new());
        assert_eq!(writes(&mut told, start + PAUSES.0), ["p1 new"]);
        let later = start + PAUSES.1;
        told.hear(event(1, "full"), later);
        let (reason, write) = told.next(later).expect("due");
        assert_eq!(write, Write::Count("p1.1".to_owned(), 2));
        told.written(&reason, Some(String::new()), later);
        assert_eq!(writes(&mut told, later + PAUSES.1), ["p1 new"]);
    }

    #[test]
    fn what_is_over_is_forgotten() {
        let start = Instant::now();
        let mut told = Told::new(start);
        told.hear(event(1, "full"), start);
        assert_eq!(writes(&mut told, start), ["p1 new"]);
        let later = start + FORGOTTEN;
        told.hear(event(2, "full"), later);
        assert_eq!(told.reasons.len(), 1);
    }

    #[test]
    fn an_event_says_who_what_and_why_within_the_limits_of_the_api_server() {
        let now = Timestamp::from_second(1_700_000_000).expect("a time");
        let pod = PodEvent {
            pod: PodRef { uid: Some("u1".to_owned()), ..event(1, "").pod },
            ..event(1, &"x".repeat(2000))
        };
        let object = object(&pod, "node1", now);
        assert_eq!(object.regarding.and_then(|pod| pod.uid).as_deref(), Some("u1"));
        assert_eq!(object.reason.as_deref(), Some("NoAddress"));
        assert_eq!(object.note.map(|note| note.len()), Some(1000));
        let long = PodRef { name: format!("{}-{}", "a".repeat(229), "b".repeat(23)), ..pod.pod.clone() };
        let object = super::object(&PodEvent { pod: long, ..pod }, "node1", now);
        let name = object.metadata.name.expect("a name");
        assert!(name.len() < 253 && name.starts_with(&format!("{}.", "a".repeat(229))), "{name}");
    }
}
