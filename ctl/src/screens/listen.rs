//! Listens to what every node counts. A node that cannot be asked is away, and is asked again now and then.
//!
//! However many nodes there are, no more than sixteen have been asked and not yet answered, and those that did not answer
//! the last time never take more than four of these places from the others. Up to 250 nodes each conversation stays open
//! once it has begun; where there are more, each node is visited: asked for one answer, in rounds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use manx_facts::counters::CountersQuestion;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::Sender;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::state::Event;
use crate::Context;
use crate::ask::{Away, Nodes};

/// Nodes that are asked and have not answered yet, of those that answered before or were never asked.
const AT_ONCE: usize = 12;
/// The same of those that did not answer the last time.
const DOUBTFUL_AT_ONCE: usize = 4;
/// How often it is looked for nodes to ask.
const AGAIN: Duration = Duration::from_secs(5);
/// The longest time until a node is asked again that does not answer.
const MOST_PATIENCE: Duration = Duration::from_secs(60);
/// How long a node that has answered may be silent.
const SILENCE: Duration = Duration::from_secs(15);
/// Conversations that may be open: each takes a connection here and at the API server.
const MOST_OPEN: usize = 250;

/// How so many nodes are listened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Manner {
    /// Time between two answers of a node.
    every: Duration,
    /// Whether a conversation ends with its first answer.
    visits: bool,
    /// Time after which nodes are looked up anew.
    look_up: Duration,
    /// What is older than this is not shown as of now.
    pub(crate) stale: Duration,
}

impl Manner {
    /// The manner for a number of nodes: with many, each less often.
    pub(crate) fn of(nodes: usize) -> Self {
        let manner = |every, look_up, stale| {
            let [every, look_up, stale] = [every, look_up, stale].map(Duration::from_secs);
            Self { every, look_up, stale, visits: nodes > MOST_OPEN }
        };
        match nodes {
            0..=50 => manner(1, 5, 5),
            51..=MOST_OPEN => manner(2, 10, 10),
            _ => manner(5, 30, 60),
        }
    }
}

/// Listens to all nodes, for as long as it is polled.
pub(crate) async fn listen(context: &Context, events: Sender<Event>) {
    let mut rounds = Rounds::new(events);
    let mut known: Option<(Nodes, Instant)> = None;
    loop {
        let fresh =
            known.take().filter(|(nodes, since)| since.elapsed() < Manner::of(nodes.names().count()).look_up);
        known = match fresh {
            Some(known) => Some(known),
            None => match context.nodes().await {
                Err(error) => {
                    rounds.tell(Event::Deaf(Some(format!("{error:#}")))).await;
                    None
                }
                Ok(nodes) => {
                    rounds.tell(Event::Deaf(None)).await;
                    Some((nodes, Instant::now()))
                }
            },
        };
        if let Some((nodes, _)) = &known {
            rounds.ask(nodes);
        }
        tokio::time::sleep(AGAIN).await;
        rounds.gather();
    }
}

/// A conversation that is over.
struct Ended {
    node: String,
    /// It answered at all.
    answered: bool,
    /// It should have gone on.
    failed: bool,
}

/// Who is being asked, and who is not to be asked yet.
struct Rounds {
    events: Sender<Event>,
    conversations: JoinSet<Ended>,
    busy: BTreeSet<String>,
    /// How often in a row a node did not answer, and when it is asked again.
    silent: BTreeMap<String, (u32, Instant)>,
    places: Arc<Semaphore>,
    doubtful: Arc<Semaphore>,
}

impl Rounds {
    fn new(events: Sender<Event>) -> Self {
        Self {
            events,
            conversations: JoinSet::new(),
            busy: BTreeSet::new(),
            silent: BTreeMap::new(),
            places: Arc::new(Semaphore::new(AT_ONCE)),
            doubtful: Arc::new(Semaphore::new(DOUBTFUL_AT_ONCE)),
        }
    }

    async fn tell(&self, event: Event) {
        // Nobody listens any more: whoever does not poll this any longer ends it.
        let _gone = self.events.send(event).await;
    }

    /// Asks all nodes that are due.
    fn ask(&mut self, nodes: &Nodes) {
        let names: Vec<String> = nodes.names().map(str::to_owned).collect();
        let manner = Manner::of(names.len());
        let now = Instant::now();
        for name in names {
            let waits = self.silent.get(&name);
            if self.busy.contains(&name) || waits.is_some_and(|(_, until)| *until > now) {
                continue;
            }
            let places = if waits.is_some() { &self.doubtful } else { &self.places };
            self.busy.insert(name.clone());
            let talk = converse(nodes.clone(), name, manner, Arc::clone(places), self.events.clone());
            self.conversations.spawn(talk);
        }
    }

    /// Takes note of conversations that are over.
    fn gather(&mut self) {
        while let Some(ended) = self.conversations.try_join_next() {
            let Ok(Ended { node, answered, failed }) = ended else { continue };
            self.busy.remove(&node);
            let before = self.silent.remove(&node).map_or(0, |(times, _)| times);
            if failed {
                let times = if answered { 0 } else { before + 1 };
                self.silent.insert(node, (times, Instant::now() + patience(times)));
            }
        }
    }
}

/// How long a node is left alone that did not answer so many times.
fn patience(times: u32) -> Duration {
    AGAIN.saturating_mul(1 << times.min(4)).min(MOST_PATIENCE)
}

/// One conversation, to its end.
async fn converse(
    nodes: Nodes,
    node: String,
    manner: Manner,
    places: Arc<Semaphore>,
    events: Sender<Event>,
) -> Ended {
    let mut place = places.acquire_owned().await.ok();
    let every = u64::try_from(manner.every.as_millis()).unwrap_or(u64::MAX);
    let mut answers = nodes.stream(&node, &CountersQuestion { every });
    let mut time = nodes.patience();
    let mut answered = false;
    let why = loop {
        match tokio::time::timeout(time, answers.next()).await {
            Ok(Some(Ok(counters))) => {
                drop(place.take());
                answered = true;
                time = SILENCE;
                let gone = events.send(Event::Counted(node.clone(), counters)).await.is_err();
                if gone || manner.visits {
                    return Ended { node, answered, failed: false };
                }
            }
            Ok(Some(Err(away))) => break away.to_string(),
            Ok(None) => break "it answers no more".to_owned(),
            Err(_) if answered => break "it answers no more".to_owned(),
            Err(_) => break Away::Timeout.to_string(),
        }
    };
    let _gone = events.send(Event::Away(node.clone(), why)).await;
    Ended { node, answered, failed: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever is asked notes it, waits until the gate is open, notes that it answers, and does.
    const BEHIND_A_GATE: &str = r#"here=${0%/*}; echo asked >> "$here/log"
        until [ -e "$here/gate" ]; do sleep 0.05; done
        echo answered >> "$here/log"; echo '{"ok":{}}'; exec cat > /dev/null"#;

    struct Scene {
        folder: tempfile::TempDir,
        names: Vec<String>,
    }

    impl Scene {
        fn new(nodes: usize) -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            std::fs::write(folder.path().join("node"), BEHIND_A_GATE).expect("written");
            Self { folder, names: (0..nodes).map(|number| format!("n{number:02}")).collect() }
        }

        fn nodes(&self) -> Nodes {
            let script = self.folder.path().join("node").display().to_string();
            let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
            Nodes::by_command(&["sh", &script, "{node}"], &names).with_patience(Duration::from_secs(60))
        }

        fn log(&self) -> Vec<String> {
            let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            log.lines().map(str::to_owned).collect()
        }

        /// Waits until the log is so long.
        async fn until(&self, lines: usize) {
            while self.log().len() < lines {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }

        fn open(&self) {
            std::fs::write(self.folder.path().join("gate"), "").expect("written");
        }
    }

    #[tokio::test]
    async fn however_many_nodes_hang_no_more_than_sixteen_are_asked_at_once() {
        let scene = Scene::new(40);
        let (sender, mut heard) = tokio::sync::mpsc::channel(100);
        let mut rounds = Rounds::new(sender);
        // Ten of them did not answer the last time.
        rounds.silent.extend(scene.names[..10].iter().map(|name| (name.clone(), (1, Instant::now()))));
        rounds.ask(&scene.nodes());
        rounds.ask(&scene.nodes());
        scene.until(16).await;
        scene.open();
        for _ in 0..40 {
            let told = heard.recv().await;
            assert!(matches!(told, Some(Event::Counted(..))), "{told:?}");
        }
        let log = scene.log();
        let mut open = 0_i32;
        let most = log.iter().map(|line| {
            open += if line == "asked" { 1 } else { -1 };
            open
        });
        assert_eq!(
            (most.max(), log.len()),
            (Some(16), 80),
            "each is asked once, and sixteen at once at most"
        );
    }

    #[tokio::test]
    async fn who_is_only_visited_is_left_after_its_first_answer() {
        let scene = Scene::new(1);
        scene.open();
        let (sender, mut heard) = tokio::sync::mpsc::channel(100);
        let places = Arc::new(Semaphore::new(1));
        let ended = converse(scene.nodes(), "n00".to_owned(), Manner::of(300), places, sender).await;
        assert!(ended.answered && !ended.failed);
        assert!(matches!(heard.recv().await, Some(Event::Counted(..))));
        assert!(heard.recv().await.is_none(), "and that is all");
    }

    #[test]
    fn many_nodes_are_heard_less_often_and_very_many_are_visited() {
        let manner = |nodes| (Manner::of(nodes).every.as_secs(), Manner::of(nodes).visits);
        assert_eq!([3, 200, 1000].map(manner), [(1, false), (2, false), (5, true)]);
    }

    #[test]
    fn who_does_not_answer_is_asked_less_and_less_often() {
        assert_eq!([0, 1, 2, 3, 4, 99].map(|times| patience(times).as_secs()), [5, 10, 20, 40, 60, 60]);
    }
}
