//! Events on pods that cannot start, so that `kubectl describe pod` says why.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use manx_ipam::PodRef;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::node::Trouble;

/// The least time between two events about one pod: a runtime tries again every few seconds.
const PAUSE: Duration = Duration::from_secs(60);
/// Pods remembered for that; beyond it the oldest knowledge goes.
const REMEMBERED: usize = 1024;

/// Something to tell the owner of a pod.
#[derive(Debug, Clone)]
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
    let reporter = Reporter { controller: "manx-agent".to_owned(), instance: Some(node) };
    let recorder = Recorder::new(client, reporter);
    let mut told: BTreeMap<PodRef, Instant> = BTreeMap::new();
    while let Some(PodEvent { pod, trouble, note }) = events.recv().await {
        told.retain(|_, at| at.elapsed() < PAUSE);
        if told.contains_key(&pod) || told.len() >= REMEMBERED {
            continue;
        }
        told.insert(pod.clone(), Instant::now());
        let event = Event {
            type_: EventType::Warning,
            reason: reason(trouble).to_owned(),
            note: Some(note),
            action: "AssignAddress".to_owned(),
            secondary: None,
        };
        let published =
            tokio::time::timeout(super::CALL_TIME, recorder.publish(&event, &reference(&pod))).await;
        if let Ok(Err(error)) = published {
            tracing::debug!(%error, pod = pod.name, "the event about a pod was not taken");
        }
    }
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
