//! ADD: what the pod asks for is looked up, and the call held back for a moment where that is not known yet.
//!
//! The kubelet and this agent hear of a new pod at the same time, and the kubelet has more to do before it comes to
//! the network: as a rule the pod is known when its ADD comes. Where it is not, the watch may be late ([`LAG`]), then
//! the API server is asked once, and after [`PATIENCE`] the pod starts without its annotations: the API server may be
//! away for hours, and nodes have pods that it does not know. A question that was not answered in time is not waited
//! for again until the API server says something.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use manx_cni::rpc::AddRequest;
use manx_cni::spec::Code;
use manx_ipam::{AssignError, Endpoint, EndpointId, PodRef, RequestId, Want};

use super::asks::Asks;
use super::calls::{code_of, refusal};
use super::pods::{LookedUp, NamespaceNotes, PodName, PodNotes, Pods};
use super::wants::Asking;
use super::{Node, Output, Trouble};

/// How late a live watch may be before the API server is asked.
const LAG: Duration = Duration::from_millis(500);
/// How long an ADD waits for what the API server says of its pod.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long an ADD waits for the configuration of the cluster after a start.
const START: Duration = Duration::from_secs(10);

/// The interface that annotations are about.
const PRIMARY: &str = "eth0";

/// What the API server shows of pods, and the calls that wait for it.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// The pods of this node; `None` where nobody watches them.
    pods: Option<Pods>,
    /// They are shown as they come and go.
    live: bool,
    /// A question was not answered in time, and nothing was heard since.
    mute: bool,
    /// Questions that are not answered yet.
    asked: BTreeSet<PodName>,
    calls: Vec<Held>,
    /// Refusals that rest on who owned a block when the blocks of others were last listed.
    doubts: u64,
}

/// A call that waits.
#[derive(Debug)]
struct Held {
    request: RequestId,
    add: AddRequest,
    /// The time of day, for status.
    at: u64,
    came: Instant,
    /// Since when its pod is waited for.
    since: Option<Instant>,
    /// What the API server said when it was asked.
    answer: Option<LookedUp>,
    /// It goes on as it is.
    released: bool,
}

impl Waiting {
    /// When something is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.calls.iter().map(|held| self.due(held)).min()
    }

    fn due(&self, held: &Held) -> Instant {
        match (held.since, held.pod_name()) {
            (None, _) => held.came + START,
            (Some(since), Some(name)) if self.live && !self.asked.contains(&name) => since + LAG,
            (Some(since), _) => since + PATIENCE,
        }
    }
}

impl Held {
    fn pod_name(&self) -> Option<PodName> {
        let pod = self.add.pod.as_ref()?;
        Some(PodName { namespace: pod.namespace.clone(), name: pod.name.clone() })
    }

    fn uid(&self) -> Option<&str> {
        self.add.pod.as_ref()?.uid.as_deref()
    }

    /// The endpoint that it asks for, without addresses.
    fn endpoint(&self, mac: Option<String>, asked: Option<u64>) -> Endpoint {
        Endpoint {
            id: self.id(),
            pod: pod_of(&self.add),
            link: self.add.link.clone(),
            addresses: Vec::new(),
            netns: Some(self.add.netns.clone()),
            claim: None,
            since: Some(self.at),
            asked,
            network: Some(self.add.network.clone()),
            mac,
            mtu: self.add.mtu,
        }
    }

    fn id(&self) -> EndpointId {
        EndpointId { container: self.add.container.clone(), ifname: self.add.ifname.clone() }
    }
}

/// What is known of a pod when its addresses are chosen.
#[derive(Debug, Default)]
struct Known {
    pod: Option<Arc<PodNotes>>,
    namespace: Option<Arc<NamespaceNotes>>,
}

impl Node {
    pub(super) fn on_add(&mut self, request: RequestId, add: AddRequest, at: u64, now: Instant) {
        let held = Held { request, add, at, came: now, since: None, answer: None, released: false };
        let id = held.id();
        // Its plugin is at work again.
        self.linkless.young.remove(&id);
        let known = self.ipam.endpoint(&id).map(|known| known.mac.clone());
        if let Some(mac) = known {
            // It keeps what it has, whatever its annotations say by now.
            let mac = held.add.mac.clone().or(mac);
            return self.assign(held, Want::default(), mac, now);
        }
        self.waiting.calls.push(held);
        self.go_on(now);
    }

    pub(super) fn on_pods(&mut self, pods: Pods, live: bool, now: Instant) {
        self.waiting.mute &= !live;
        self.waiting.live = live;
        self.waiting.pods = Some(pods);
        self.go_on(now);
    }

    pub(super) fn on_looked_up(&mut self, name: &PodName, found: Option<LookedUp>, now: Instant) {
        self.waiting.asked.remove(name);
        self.waiting.mute = found.is_none();
        for held in self.waiting.calls.iter_mut().filter(|held| held.pod_name().as_ref() == Some(name)) {
            held.released = true;
            held.answer.clone_from(&found);
        }
        self.go_on(now);
    }

    /// A call that waits is overtaken by the end of what it asks for.
    pub(super) fn withdraw(&mut self, id: &EndpointId) {
        let withdrawn: Vec<Held> = self.waiting.calls.extract_if(.., |held| held.id() == *id).collect();
        for held in withdrawn {
            self.refuse(held.request, &AssignError::Withdrawn);
        }
    }

    /// Lets every call go on that has waited enough.
    pub(super) fn go_on(&mut self, now: Instant) {
        for mut held in std::mem::take(&mut self.waiting.calls) {
            if !self.intent_known {
                match now >= held.came + START {
                    true => self.refuse(held.request, &AssignError::NotReady),
                    false => self.waiting.calls.push(held),
                }
                continue;
            }
            match self.look(&mut held, now) {
                Some(known) => self.decide(held, &known, now),
                None => self.waiting.calls.push(held),
            }
        }
    }

    /// What is known of the pod of a call; `None` while that is worth waiting for.
    fn look(&mut self, held: &mut Held, now: Instant) -> Option<Known> {
        let Some(name) = held.pod_name() else { return Some(Known::default()) };
        if let Some(LookedUp { pod, namespace }) = held.answer.take() {
            let pod = pod.filter(|pod| pod.is(held.uid())).map(Arc::new);
            return Some(Known { pod, namespace: namespace.map(Arc::new) });
        }
        let shown = self.waiting.pods.as_ref().and_then(|pods| pods.get(&name));
        let known = Known {
            pod: shown.filter(|pod| pod.is(held.uid())).cloned(),
            namespace: self.intent.pod_pools.namespace(&name.namespace).cloned(),
        };
        let watched = self.waiting.pods.is_some() && held.add.ifname == PRIMARY;
        if held.released {
            self.outputs.push_back(Output::Unheard(name));
            return Some(known);
        }
        if !watched || (known.pod.is_some() && known.namespace.is_some()) {
            return Some(known);
        }
        let since = *held.since.get_or_insert(now);
        if self.waiting.mute {
            // One question at a time finds out whether the API server is back.
            if self.waiting.asked.is_empty() {
                self.look_up(name.clone());
            }
            self.outputs.push_back(Output::Unheard(name));
            return Some(known);
        }
        if now >= since + PATIENCE {
            self.waiting.mute = true;
            self.outputs.push_back(Output::Unheard(name));
            return Some(known);
        }
        if !self.waiting.live || now >= since + LAG {
            self.look_up(name);
        }
        None
    }

    fn look_up(&mut self, name: PodName) {
        if self.waiting.asked.insert(name.clone()) {
            self.outputs.push_back(Output::LookUp(name));
        }
    }

    /// Asks the allocator for what the pod asks for, or refuses what cannot be.
    fn decide(&mut self, mut held: Held, known: &Known, now: Instant) {
        if let (Some(pod), Some(notes)) = (&mut held.add.pod, &known.pod) {
            // Older runtimes do not say it, and an event without it is not shown with the pod.
            pod.uid.get_or_insert_with(|| notes.uid.clone());
        }
        let none = BTreeMap::new();
        let primary = held.add.ifname == PRIMARY;
        let of_pod = known.pod.as_ref().filter(|_| primary).map_or(&none, |pod| &pod.annotations);
        let of_namespace =
            known.namespace.as_ref().filter(|_| primary).map_or(&none, |notes| &notes.annotations);
        let asks = match Asks::read(of_pod, of_namespace) {
            Ok(asks) => asks,
            Err(error) => {
                return self.deny(&held, Trouble::Annotation, Code::ADDRESS_REFUSED, error.to_string());
            }
        };
        let asking = Asking {
            asks: &asks,
            runtime: &held.add.addresses,
            namespace: held.add.pod.as_ref().map(|pod| pod.namespace.as_str()),
            notes: known.namespace.as_deref(),
        };
        match asking.want(&self.intent.pod_pools) {
            Ok(want) => {
                let mac = held.add.mac.clone().or_else(|| asks.mac.map(|mac| mac.to_string()));
                match asks.sticky {
                    true => self.assign_sticky(&held, want, mac, known, now),
                    false => self.assign(held, want, mac, now),
                }
            }
            Err(denial) => {
                let trouble =
                    if denial.code() == Code::NO_ADDRESS { Trouble::NoAddress } else { Trouble::Refused };
                self.deny(&held, trouble, denial.code(), denial.to_string());
            }
        }
    }

    fn assign(&mut self, held: Held, want: Want, mac: Option<String>, now: Instant) {
        let (request, endpoint) = (held.request, held.endpoint(mac, self.uptime(now)));
        self.asking.insert(request, endpoint.pod.clone());
        self.ipam.handle(manx_ipam::Input::Assign { request, endpoint, want }, now);
    }

    fn assign_sticky(&mut self, held: &Held, want: Want, mac: Option<String>, known: &Known, now: Instant) {
        let controller = known.pod.as_ref().and_then(|pod| pod.controller.clone());
        self.start_sticky(held.request, held.endpoint(mac, self.uptime(now)), want, controller, now);
    }

    fn deny(&mut self, held: &Held, trouble: Trouble, code: Code, note: String) {
        if let Some(pod) = pod_of(&held.add) {
            self.outputs.push_back(Output::PodEvent { pod, trouble, note: note.clone() });
        }
        self.reply(held.request, refusal(code, &note, String::new()));
    }

    /// How many calls were refused because another node owned a block, as far as was known.
    pub fn doubts(&self) -> u64 {
        self.waiting.doubts
    }

    /// Passes a refusal of the allocator on; the pod's owner hears of it unless trying again is all that it takes.
    pub(super) fn refuse(&mut self, request: RequestId, why: &AssignError) {
        let pod = self.asking.remove(&request).flatten();
        if matches!(why, AssignError::AddressElsewhere { .. } | AssignError::AddressUnreserved { .. }) {
            self.waiting.doubts += 1;
            self.outputs.push_back(Output::Changed);
        }
        let text = self.in_words(why);
        let lasting = why.is_exhaustion() || !(why.is_transient() || *why == AssignError::Withdrawn);
        if let Some(pod) = pod.filter(|_| lasting) {
            let trouble = match code_of(why) {
                Code::NO_ADDRESS => Trouble::NoAddress,
                _ => Trouble::Refused,
            };
            self.outputs.push_back(Output::PodEvent { pod, trouble, note: text.clone() });
        }
        self.reply(request, refusal(code_of(why), &text, String::new()));
    }

    /// The reason, with the pod that has an address instead of its container.
    fn in_words(&self, why: &AssignError) -> String {
        let AssignError::AddressTaken { address, holder } = why else { return why.to_string() };
        match self.ipam.endpoint(holder).and_then(|holder| holder.pod.as_ref()) {
            Some(PodRef { namespace, name, .. }) => {
                format!(
                    "{address} is in use by pod {namespace}/{name}: delete that or ask for another address"
                )
            }
            None => why.to_string(),
        }
    }
}

fn pod_of(add: &AddRequest) -> Option<PodRef> {
    let pod = add.pod.clone()?;
    Some(PodRef { namespace: pod.namespace, name: pod.name, uid: pod.uid })
}
