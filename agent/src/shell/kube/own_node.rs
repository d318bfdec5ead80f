//! What the agent says on its own Node object: that pods may come, and whether the network is there.
//!
//! The taint `manx.dev/agent-not-ready`, with which kubelets may register nodes, is taken away once this node can take
//! pods, and never put there. The condition `NetworkUnavailable` follows; the scheduler heeds it by a taint that
//! Kubernetes makes of it. Both are written when they are not as they should be and at no other time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use manx_ipam::NodeName;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::pace::{Pace, Settings};
use super::{FIELD_MANAGER, bounded, jitter, status_of};
use crate::node::cluster::{Cluster, NETWORK_UNAVAILABLE, NetworkCondition, OwnNode, STARTUP_TAINT};
use crate::node::serving::Serving;
use crate::shell::wake::sleep_until;

/// A conflist that follows a pool within this is told in one piece.
const PACE: Settings = Settings {
    gather: Duration::from_millis(200),
    pause: Duration::from_secs(1),
    longest_pause: Duration::from_secs(60),
    longest_backoff: Duration::from_secs(60),
};
/// How often the taint is tried at once while others write to the Node.
const ATTEMPTS: usize = 5;
/// The reason of the condition on a node whose network works.
const UP: &str = "ManxIsUp";

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// That the taint is gone.
    Untainted,
    /// The condition.
    Condition,
}

/// What it is to be.
#[derive(Debug, Clone, PartialEq)]
enum Body {
    Untainted,
    Condition(NetworkCondition),
}

/// Follows both for as long as the process lives.
pub async fn run(
    client: Client,
    me: NodeName,
    mut cluster: watch::Receiver<Arc<Cluster>>,
    mut serving: watch::Receiver<Serving>,
) {
    let api = Api::all_with(client, &ApiResource::erase::<Node>(&()));
    let mut writer = Writer { api, me, pace: Pace::new(PACE), message: String::new() };
    loop {
        let node = cluster.borrow_and_update().node.clone();
        let answer = serving.borrow_and_update().clone();
        writer.wish(node.as_deref(), &answer, Instant::now());
        writer.write_due(node.as_deref()).await;
        let due = writer.pace.deadline();
        tokio::select! {
            changed = cluster.wait_for(|cluster| cluster.node != node) => drop(changed),
            Ok(()) = serving.changed() => {}
            () = sleep_until(due) => {}
        }
    }
}

/// The condition to be shown; `None` while nothing is known yet.
fn condition(serving: &Serving) -> Option<NetworkCondition> {
    let condition = |unavailable: bool, reason: &str| NetworkCondition {
        status: if unavailable { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
    };
    match serving {
        Serving::Starting => None,
        Serving::Yes => Some(condition(false, UP)),
        Serving::No(hindrance) => Some(condition(true, hindrance.reason())),
    }
}

struct Writer {
    api: Api<DynamicObject>,
    me: NodeName,
    pace: Pace<Part, Body>,
    /// What the condition says in words.
    message: String,
}

impl Writer {
    fn wish(&mut self, node: Option<&OwnNode>, serving: &Serving, now: Instant) {
        let Some(node) = node else {
            self.pace.wish([], now);
            return;
        };
        let wished = condition(serving);
        self.message = match serving {
            Serving::No(hindrance) => hindrance.to_string(),
            Serving::Starting | Serving::Yes => {
                "pods get addresses of Manx, and routes lead to them".to_owned()
            }
        };
        let untaint =
            (node.tainted && *serving == Serving::Yes).then_some((Part::Untainted, Body::Untainted));
        let shown = wished.clone().map(|wished| (Part::Condition, Body::Condition(wished)));
        self.pace.wish(untaint.into_iter().chain(shown), now);
        if node.tainted {
            self.pace.forget(&Part::Untainted, now);
        }
        match wished {
            Some(wished) if node.network.as_ref() == Some(&wished) => {
                self.pace.fulfilled(&Part::Condition, now)
            }
            _ => self.pace.forget(&Part::Condition, now),
        }
    }

    async fn write_due(&mut self, node: Option<&OwnNode>) {
        while let Some((part, body)) = self.pace.take(Instant::now()) {
            let written = match &body {
                Body::Untainted => self.untaint().await,
                Body::Condition(condition) => self.show(condition, node).await,
            };
            match written {
                Ok(()) => self.pace.written(&part, body, Instant::now()),
                Err(error) => {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        ?part,
                        "a condition or taint of this node's Node cannot be written; it is tried again"
                    );
                    self.pace.failed(&part, jitter(self.me.as_str()), Instant::now());
                }
            }
        }
    }

    /// Takes the taint away. The list of taints is written whole, and only onto the very Node that was read: what
    /// others put there meanwhile stays.
    async fn untaint(&self) -> anyhow::Result<()> {
        let mut last = Ok(());
        for _ in 0..ATTEMPTS {
            last = self.try_untaint().await;
            match &last {
                Err(error) if status_of(error) == Some(409) => {}
                _ => break,
            }
        }
        last
    }

    async fn try_untaint(&self) -> anyhow::Result<()> {
        let node = bounded(self.api.get(self.me.as_str())).await.context("reading the Node")?;
        let Some(kept) = without_ours(&node.data["spec"]["taints"]) else { return Ok(()) };
        let patch = json!({
            "metadata": {"resourceVersion": node.resource_version(), "uid": node.uid()},
            "spec": {"taints": kept},
        });
        bounded(self.api.patch(self.me.as_str(), &params(), &Patch::Merge(&patch))).await?;
        tracing::info!(taint = STARTUP_TAINT, "pods may come: the taint is taken off this node");
        Ok(())
    }

    async fn show(&self, condition: &NetworkCondition, node: Option<&OwnNode>) -> anyhow::Result<()> {
        let before = node.and_then(|node| node.network.as_ref());
        let patch = condition_patch(condition, &self.message, before, Timestamp::now());
        bounded(self.api.patch_status(self.me.as_str(), &params(), &Patch::Strategic(&patch))).await?;
        let NetworkCondition { status, reason } = condition;
        tracing::info!(status, reason, "the Node says {NETWORK_UNAVAILABLE}");
        Ok(())
    }
}

fn params() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}

/// The taints that are not ours; `None` when ours is not among them.
fn without_ours(taints: &Value) -> Option<Vec<Value>> {
    let taints = taints.as_array()?;
    let kept: Vec<Value> = taints.iter().filter(|taint| taint["key"] != STARTUP_TAINT).cloned().collect();
    (kept.len() < taints.len()).then_some(kept)
}

fn condition_patch(
    condition: &NetworkCondition,
    message: &str,
    before: Option<&NetworkCondition>,
    now: Timestamp,
) -> Value {
    let NetworkCondition { status, reason } = condition;
    let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let mut entry = json!({
        "type": NETWORK_UNAVAILABLE, "status": status, "reason": reason, "message": message, "lastHeartbeatTime": now,
    });
    if before.is_none_or(|before| before.status != *status) {
        entry["lastTransitionTime"] = json!(now);
    }
    json!({"status": {"conditions": [entry]}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::serving::Hindrance;

    #[test]
    fn taints_of_others_stay_and_ours_goes_whatever_its_effect() {
        let taints = json!([
            {"key": STARTUP_TAINT, "effect": "NoExecute"},
            {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule", "from-a-later-version": 1},
            {"key": STARTUP_TAINT, "effect": "NoSchedule", "value": "x"},
        ]);
        assert_eq!(without_ours(&taints), Some(vec![taints[1].clone()]));
        assert_eq!(without_ours(&json!([taints[1]])), None);
        assert_eq!(without_ours(&Value::Null), None);
    }

    fn writer() -> (Writer, Instant) {
        let config = kube::Config::new("http://127.0.0.1:9".parse().expect("an address"));
        let client = Client::try_from(config).expect("a client");
        let api = Api::all_with(client, &ApiResource::erase::<Node>(&()));
        let (me, pace) = (NodeName::from("node1"), Pace::new(PACE));
        (Writer { api, me, pace, message: String::new() }, Instant::now())
    }

    /// What is written next, and when that is done.
    fn due(writer: &mut Writer, node: &OwnNode, serving: &Serving, now: Instant) -> Vec<Part> {
        writer.wish(Some(node), serving, now);
        let mut parts = Vec::new();
        while let Some((part, body)) = writer.pace.take(now + PACE.gather) {
            writer.pace.written(&part, body, now + PACE.gather);
            parts.push(part);
        }
        parts
    }

    #[tokio::test]
    async fn what_is_right_already_is_not_written() {
        let (mut writer, now) = writer();
        let up = condition(&Serving::Yes);
        let node = OwnNode { network: up, ..OwnNode::default() };
        assert_eq!(due(&mut writer, &node, &Serving::Starting, now), []);
        assert_eq!(due(&mut writer, &node, &Serving::Yes, now), []);
        let lost = Serving::No(Hindrance::NoPool);
        assert_eq!(due(&mut writer, &node, &lost, now), [Part::Condition]);
    }

    #[tokio::test]
    async fn the_taint_goes_only_while_pods_can_come_and_goes_again() {
        let (mut writer, now) = writer();
        let tainted = OwnNode { tainted: true, ..OwnNode::default() };
        assert_eq!(due(&mut writer, &tainted, &Serving::Starting, now), []);
        let no = Serving::No(Hindrance::NoAddress);
        assert_eq!(due(&mut writer, &tainted, &no, now), [Part::Condition]);
        let now = now + PACE.longest_pause;
        assert_eq!(due(&mut writer, &tainted, &Serving::Yes, now), [Part::Untainted, Part::Condition]);
        let free = OwnNode { network: condition(&Serving::Yes), ..OwnNode::default() };
        assert_eq!(due(&mut writer, &free, &Serving::Yes, now), []);
        assert_eq!(
            due(&mut writer, &tainted, &Serving::Yes, now + PACE.longest_pause),
            [Part::Untainted, Part::Condition]
        );
    }

    #[tokio::test]
    async fn whoever_keeps_overwriting_the_condition_costs_ever_fewer_writes() {
        let (mut writer, now) = writer();
        let other = NetworkCondition { status: "True".to_owned(), reason: "NoRouteCreated".to_owned() };
        let node = OwnNode { network: Some(other), ..OwnNode::default() };
        let writes: usize = (0..600_u32)
            .map(|second| due(&mut writer, &node, &Serving::Yes, now + Duration::from_secs(1) * second).len())
            .sum();
        assert!(writes < 600, "{writes} writes in ten minutes");
    }

    #[test]
    fn the_time_of_the_last_change_moves_only_when_the_status_does() {
        let up = condition(&Serving::Yes).expect("known");
        let entry = |before: Option<&NetworkCondition>| {
            condition_patch(&up, "it works", before, Timestamp::UNIX_EPOCH)["status"]["conditions"][0].clone()
        };
        assert_eq!(entry(None)["lastTransitionTime"], "1970-01-01T00:00:00Z");
        assert_eq!(entry(Some(&up))["lastTransitionTime"], Value::Null);
        assert_eq!(entry(Some(&up))["reason"], UP);
    }
}
