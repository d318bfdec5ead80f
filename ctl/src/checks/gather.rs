//! Asks the nodes what checks look at, and picks what is known of a running Manx.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt as _;
use futures_util::stream;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt as _;
use manx_api::Timestamp;
use manx_facts::host::{HostFacts, HostQuestion};

use super::{Facts, Manx, PodSeen};
use crate::ask::{Away, Nodes};
use crate::cluster::Cluster;
use crate::show::Progress;

/// Nodes asked at once.
const AT_ONCE: usize = 16;
/// The least time that a node gets: it waits for others itself.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Milliseconds in a nanosecond's count.
const NANOS: u64 = 1_000_000;

/// Asks every node of `facts`, each its own question.
pub(crate) async fn ask(
    nodes: &Nodes,
    facts: &mut Facts,
    question: impl Fn(&Facts, &str) -> HostQuestion,
    progress: &Progress,
) {
    let questions: Vec<(String, HostQuestion)> =
        facts.nodes.keys().map(|name| (name.clone(), question(facts, name))).collect();
    let of = questions.len();
    let asked = questions.into_iter().map(|(name, question)| async move {
        let answer = nodes.ask(&name, &question).await;
        (name, answer, now())
    });
    let mut answers = stream::iter(asked).buffer_unordered(AT_ONCE);
    let mut done = 0;
    while let Some((name, answer, when)) = answers.next().await {
        done += 1;
        progress.count(done, of);
        note(facts, &name, answer, when);
    }
}

fn note(facts: &mut Facts, name: &str, answer: Result<HostFacts, Away>, when: i64) {
    let Some(seen) = facts.nodes.get_mut(name) else { return };
    seen.host = match answer {
        Ok(host) => {
            let then = i64::try_from(host.time / NANOS).unwrap_or(i64::MAX);
            seen.clock = Some(when.saturating_sub(then));
            Ok(Box::new(host))
        }
        Err(away) => Err(away.to_string()),
    };
}

/// Milliseconds since 1970 by our own clock.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// What is known of a running Manx.
pub(crate) fn manx(objects: Cluster) -> Manx {
    let living = objects.workers.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    Manx { pods: living.map(pod).collect(), objects, now: Timestamp::now() }
}

/// What matters of a pod.
fn pod(pod: &Pod) -> PodSeen {
    let spec = pod.spec.clone().unwrap_or_default();
    let status = pod.status.clone().unwrap_or_default();
    let containers =
        || status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    let last = containers().filter_map(ended).min_by_key(|(ago, _)| *ago);
    PodSeen {
        name: pod.name_any(),
        component: pod.labels().get("app.kubernetes.io/name").cloned().unwrap_or_default(),
        node: spec.node_name.unwrap_or_default(),
        restarts: containers().map(|container| container.restart_count).sum(),
        restarted: last,
        image: spec.containers.into_iter().next().and_then(|container| container.image).unwrap_or_default(),
    }
}

/// Seconds since a container ended last, and why it did.
fn ended(container: &ContainerStatus) -> Option<(i64, String)> {
    let ended = container.last_state.as_ref()?.terminated.as_ref()?;
    let when = ended.finished_at.as_ref()?.0.as_millisecond();
    let why = ended.reason.clone().unwrap_or_default();
    Some(((now() - when) / 1000, format!("{why}, exit status {}", ended.exit_code)))
}
