//! Listens to what every node counts. A node that cannot be asked is away, and is asked again now and then.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use manx_facts::counters::CountersQuestion;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::Sender;
use tokio::task::JoinSet;

use super::state::Event;
use crate::Context;
use crate::ask::Nodes;

/// Conversations that begin at once.
const AT_ONCE: usize = 16;
/// How long it takes until a node that was away is asked again, and until a new node is seen.
const AGAIN: Duration = Duration::from_secs(5);
/// The longest wait for the first answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// Listens to all nodes, for as long as it is polled.
pub(crate) async fn listen(context: &Context, events: Sender<Event>) {
    let beginning = Arc::new(Semaphore::new(AT_ONCE));
    let mut conversations: JoinSet<String> = JoinSet::new();
    let mut heard: BTreeSet<String> = BTreeSet::new();
    loop {
        match context.nodes().await {
            Err(error) => {
                let _gone = events.send(Event::Deaf(Some(format!("{error:#}")))).await;
            }
            Ok(nodes) => {
                let _gone = events.send(Event::Deaf(None)).await;
                let names: Vec<String> = nodes.names().map(str::to_owned).collect();
                let question = CountersQuestion { every: every(names.len()) };
                for name in names.into_iter().filter(|name| !heard.contains(name)).collect::<Vec<_>>() {
                    heard.insert(name.clone());
                    let (nodes, beginning) = (nodes.clone(), Arc::clone(&beginning));
                    conversations.spawn(converse(nodes, name, question.clone(), beginning, events.clone()));
                }
            }
        }
        tokio::time::sleep(AGAIN).await;
        while let Some(ended) = conversations.try_join_next() {
            if let Ok(name) = ended {
                heard.remove(&name);
            }
        }
    }
}

/// Milliseconds between two answers of a node: with many nodes, less often.
fn every(nodes: usize) -> u64 {
    match nodes {
        0..=50 => 1000,
        51..=250 => 2000,
        _ => 5000,
    }
}

/// One conversation, to its end; gives the name of the node.
async fn converse(
    nodes: Nodes,
    name: String,
    question: CountersQuestion,
    beginning: Arc<Semaphore>,
    events: Sender<Event>,
) -> String {
    let mut permit = beginning.acquire_owned().await.ok();
    let mut answers = nodes.stream(&name, &question);
    let why = loop {
        match tokio::time::timeout(PATIENCE, answers.next()).await {
            Ok(Some(Ok(counters))) => {
                drop(permit.take());
                if events.send(Event::Counted(name.clone(), counters)).await.is_err() {
                    return name;
                }
            }
            Ok(Some(Err(away))) => break away.to_string(),
            Ok(None) => break "it answers no more".to_owned(),
            Err(_) => break "it does not answer in time".to_owned(),
        }
    };
    let _gone = events.send(Event::Away(name.clone(), why)).await;
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_nodes_are_heard_less_often() {
        assert_eq!([3, 200, 1000].map(every), [1000, 2000, 5000]);
    }
}
