//! Asks nodes what only they know: `manx-agent look` in each node's agent pod, by the API server's exec, or by any
//! command that reaches the node. A node that does not answer is no failure: it is away, and says why.

mod way;

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::{Resource as _, ResourceExt as _};
use manx_api::NodeNetwork;
use manx_facts::node::NodeQuestion;
use manx_facts::{Ask, Reply};

use way::{Conversation, Way};

/// Nodes asked at once.
const AT_ONCE: usize = 16;
/// The label of agents' pods.
const AGENTS: &str = "app.kubernetes.io/name=manx-agent";
/// The container of an agent's pod that has the agent in it.
const CONTAINER: &str = "agent";

/// How nodes are asked.
#[derive(clap::Args, Debug, Clone, Default)]
#[command(next_help_heading = "Asking nodes")]
pub(crate) struct Asking {
    /// Ask nodes by this command instead of the API server, such as 'ssh root@{node}'; '' asks this machine.
    #[arg(long, global = true, value_name = "COMMAND")]
    through: Option<String>,
    /// Seconds that a node may take to answer.
    #[arg(long, global = true, value_name = "SECONDS", default_value = "10")]
    node_timeout: f32,
}

impl Asking {
    /// Finds the nodes and how each can be asked; agents are in this namespace.
    ///
    /// # Errors
    /// When the API server does not say which nodes there are.
    pub(crate) async fn nodes(&self, client: &kube::Client, namespace: &str) -> Result<Nodes> {
        let patience = Duration::try_from_secs_f32(self.node_timeout)
            .ok()
            .filter(|patience| !patience.is_zero())
            .with_context(|| format!("--node-timeout {} is no time", self.node_timeout))?;
        let Some(command) = &self.through else {
            return by_exec(client, namespace, patience).await;
        };
        let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        if words.is_empty() {
            return this_machine(patience).await;
        }
        if !command.contains("{node}") {
            bail!(
                "--through {command:?} would ask one machine for all nodes: write {{node}} for the name of the node"
            );
        }
        let names = networks(client).await?;
        let agents = names.into_iter().map(|name| (name, Some(Agent::default()))).collect();
        Ok(Nodes { way: Way::Command(words), agents, patience })
    }
}

async fn by_exec(client: &kube::Client, namespace: &str, patience: Duration) -> Result<Nodes> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pods = api.list(&ListParams::default().labels(AGENTS)).await;
    let pods = pods.with_context(|| format!("cannot list the agents' pods in {}", namespace))?;
    let mut agents: BTreeMap<String, Option<Agent>> =
        networks(client).await?.into_iter().map(|name| (name, None)).collect();
    let mut pods = pods.items;
    // The newest comes last, those on their way out first: a node may have one of each.
    pods.sort_by_key(|pod| (pod.metadata.deletion_timestamp.is_none(), pod.creation_timestamp()));
    for pod in &pods {
        if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) {
            agents.insert(node, Some(Agent::of(pod)));
        }
    }
    Ok(Nodes { way: Way::Exec(Arc::new(api)), agents, patience })
}

/// The names of all nodes that have or had an agent.
async fn networks(client: &kube::Client) -> Result<Vec<String>> {
    // Their statuses are large where there are many sessions, and nobody wants them here.
    let api: Api<NodeNetwork> = Api::all(client.clone());
    let kind = NodeNetwork::kind(&());
    let networks = api.list_metadata(&ListParams::default()).await;
    let networks =
        networks.with_context(|| format!("cannot list {kind}: are the CRDs of Manx installed?"))?;
    Ok(networks.iter().map(|network| network.name_any()).collect())
}

/// The one node that this machine is.
async fn this_machine(patience: Duration) -> Result<Nodes> {
    let unnamed = || BTreeMap::from([(String::new(), Some(Agent::default()))]);
    let nodes = Nodes { way: Way::Command(Vec::new()), agents: unnamed(), patience };
    let facts = nodes.ask("", &NodeQuestion::default()).await.context("asking this machine")?;
    Ok(Nodes { agents: BTreeMap::from([(facts.name, Some(Agent::default()))]), ..nodes })
}

/// The nodes, and how each can be asked.
#[derive(Debug, Clone)]
pub(crate) struct Nodes {
    way: Way,
    /// By name; `None`: it has no agent.
    agents: BTreeMap<String, Option<Agent>>,
    patience: Duration,
}

/// The agent of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Agent {
    /// Its pod.
    pod: String,
    /// Options of its process that a look must have, too.
    options: Vec<String>,
    /// Why its container does not run, if the pod says so.
    waits: Option<String>,
}

impl Agent {
    fn of(pod: &Pod) -> Self {
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        let arguments = containers.filter(|container| container.name == CONTAINER);
        let arguments = arguments.flat_map(|container| container.args.iter().flatten());
        let same =
            |argument: &&String| ["--run-dir=", "--health-listen="].iter().any(|o| argument.starts_with(o));
        let states = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        let waits = states.filter(|state| state.name == CONTAINER).find_map(|state| {
            let waiting = state.state.as_ref()?.waiting.as_ref()?;
            Some(waiting.reason.clone().unwrap_or_else(|| "no reason is known".to_owned()))
        });
        Self { pod: pod.name_any(), options: arguments.filter(same).cloned().collect(), waits }
    }
}

/// Why a node does not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Away {
    /// No agent's pod is on it.
    #[error("no agent's pod is on it: look at `kubectl -n manx-system get pods -o wide`")]
    NoAgent,
    /// It could not be asked: in words, with what to do.
    #[error("{0}")]
    Exec(String),
    /// It did not answer in time.
    #[error(
        "no answer in time: the node or its kubelet is away or busy; give it longer with --node-timeout, or go \
         another way with --through 'ssh root@{{node}}'"
    )]
    Timeout,
    /// It was asked, and said why it has no answer.
    #[error("{0}")]
    Answer(String),
}

impl Nodes {
    /// The nodes of pods that have the program in them and are not agents.
    pub(crate) fn of_pods(api: Api<Pod>, pods: &[Pod]) -> Self {
        let node = |pod: &Pod| Some((pod.spec.as_ref()?.node_name.clone()?, Some(Agent::of(pod))));
        Self {
            way: Way::Exec(Arc::new(api)),
            agents: pods.iter().filter_map(node).collect(),
            patience: Duration::ZERO,
        }
    }

    /// This machine alone, under no name.
    pub(crate) fn here() -> Self {
        let agents = BTreeMap::from([(String::new(), Some(Agent::default()))]);
        Self { way: Way::Command(Vec::new()), agents, patience: Duration::ZERO }
    }

    /// These nodes, asked by a command that may take five seconds.
    #[cfg(test)]
    pub(crate) fn by_command(words: &[&str], nodes: &[&str]) -> Self {
        let agents = nodes.iter().map(|name| ((*name).to_owned(), Some(Agent::default()))).collect();
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        Self { way: Way::Command(words), agents, patience: Duration::from_secs(5) }
    }

    /// The same, with at least this much time for an answer.
    pub(crate) fn with_patience(self, patience: Duration) -> Self {
        Self { patience: self.patience.max(patience), ..self }
    }

    /// How long a node may take to answer.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// The names of all nodes.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.agents.keys().map(String::as_str)
    }

    /// Asks one node, once.
    ///
    /// # Errors
    /// Why it does not answer.
    pub(crate) async fn ask<A: Ask>(&self, node: &str, ask: &A) -> Result<A::Answer, Away> {
        let mut answers = self.stream(node, ask);
        match tokio::time::timeout(self.patience, answers.next()).await {
            Ok(Some(answer)) => answer,
            Ok(None) => Err(Away::Exec("it ended without an answer".to_owned())),
            Err(_) => Err(Away::Timeout),
        }
    }

    /// Asks all nodes the same, some at a time.
    pub(crate) async fn ask_all<A: Ask>(&self, ask: &A) -> BTreeMap<String, Result<A::Answer, Away>> {
        self.ask_these(self.names(), ask).await
    }

    /// Asks some nodes the same, some at a time.
    pub(crate) async fn ask_these<A: Ask>(
        &self,
        nodes: impl IntoIterator<Item = &str>,
        ask: &A,
    ) -> BTreeMap<String, Result<A::Answer, Away>> {
        let asked = nodes.into_iter().map(|node| async move { (node.to_owned(), self.ask(node, ask).await) });
        stream::iter(asked).buffer_unordered(AT_ONCE).collect().await
    }

    /// All answers of a node to a question that goes on. The question ends when this is dropped; the last item may be
    /// why there are no more.
    pub(crate) fn stream<A: Ask>(&self, node: &str, ask: &A) -> BoxStream<'static, Result<A::Answer, Away>> {
        let agent = match self.agents.get(node) {
            Some(Some(agent)) => agent.clone(),
            _ => return stream::once(ready(Err(Away::NoAgent))).boxed(),
        };
        let question = serde_json::to_string(&ask.question()).expect("questions have string keys");
        let (way, node) = (self.way.clone(), node.to_owned());
        let begun = async move { way.begin(&node, agent, &question).await };
        stream::once(begun)
            .flat_map(|begun| match begun {
                Err(away) => stream::once(ready(Err(away))).boxed(),
                Ok(conversation) => stream::unfold(Some(conversation), |conversation| async move {
                    next::<A::Answer>(conversation?).await
                })
                .boxed(),
            })
            .boxed()
    }
}

/// The next answer, and the conversation if it goes on.
async fn next<T: serde::de::DeserializeOwned>(
    mut conversation: Conversation,
) -> Option<(Result<T, Away>, Option<Conversation>)> {
    let line = match conversation.line().await {
        Ok(Some(line)) => line,
        Ok(None) => return None,
        Err(why) => return Some((Err(Away::Exec(why)), None)),
    };
    Some(match serde_json::from_slice(&line) {
        Ok(Reply::Ok(answer)) => (Ok(answer), Some(conversation)),
        Ok(Reply::Error(why)) => (Err(Away::Answer(why)), None),
        Err(error) => (
            Err(Away::Exec(format!("what it answers cannot be read ({error}): is it of another version?"))),
            None,
        ),
    })
}

#[cfg(test)]
mod tests {
    use manx_facts::record::RecordQuestion;

    use super::*;

    /// A script that stands for the way to a node: its arguments are the node and then the command.
    fn script(text: &str) -> (tempfile::TempDir, String) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("reach");
        std::fs::write(&path, text).expect("written");
        let path = path.to_str().expect("a path in ASCII").to_owned();
        (directory, path)
    }

    #[tokio::test]
    async fn a_node_that_is_away_does_not_keep_the_others_from_answering() {
        let (_kept, path) = script(
            r#"test "$1" != b || { echo "ssh: connect to host b port 22: No route to host" >&2; exit 255; }
            test "$2 $3" = "manx-agent look" || exit 1
            read question; test "$question" = '{"record":{}}' || exit 1
            echo '{"ok":{"blocks":["10.0.0.0/26"],"fromANewerNode":7}}'"#,
        );
        let nodes = Nodes::by_command(&["sh", &path, "{node}"], &["a", "b", "c"]);
        let mut answers = nodes.ask_all(&RecordQuestion::default()).await;
        let away = answers.remove("b").expect("asked").expect_err("away");
        assert_eq!(away.to_string(), "sh ended: ssh: connect to host b port 22: No route to host");
        assert_eq!(answers.len(), 2);
        for (node, answer) in answers {
            assert_eq!(answer.unwrap_or_else(|away| panic!("{node}: {away}")).blocks.len(), 1);
        }
        assert_eq!(nodes.ask("d", &RecordQuestion::default()).await, Err(Away::NoAgent));
    }

    #[tokio::test]
    async fn who_does_not_answer_in_time_is_away_and_is_let_go() {
        let (kept, path) = script(r#"echo $$ > "$2"; exec cat > /dev/null"#);
        let note = kept.path().join("pid");
        let note = note.to_str().expect("a path in ASCII");
        let nodes = Nodes {
            patience: Duration::from_millis(500),
            ..Nodes::by_command(&["sh", &path, "{node}", note], &["a"])
        };
        assert_eq!(nodes.ask("a", &RecordQuestion::default()).await, Err(Away::Timeout));
        let pid: i32 = std::fs::read_to_string(note).expect("it ran").trim().parse().expect("a number");
        // Standard input ended, and the process with it: whoever reaped it, it is soon gone.
        for _ in 0..200 {
            if !std::path::Path::new(&format!("/proc/{pid}/cwd")).exists() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{pid} still runs");
    }

    #[tokio::test]
    async fn answers_go_on_until_the_node_says_why_not() {
        let (_kept, path) =
            script(r#"echo '{"ok":{}}'; echo '{"ok":{"damaged":1}}'; echo '{"error":"enough"}'"#);
        let nodes = Nodes::by_command(&["sh", &path, "{node}"], &["a"]);
        let answers: Vec<_> = nodes.stream("a", &RecordQuestion::default()).collect().await;
        let damaged: Vec<_> =
            answers.iter().map(|answer| answer.as_ref().map(|record| record.damaged)).collect();
        assert_eq!(damaged, [Ok(0), Ok(1), Err(&Away::Answer("enough".to_owned()))]);
    }
}
