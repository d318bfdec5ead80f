//! The pure half of a node: what is asked of it and what it knows goes in, what is to be done comes out.
//!
//! [`Node`] composes the address allocator with the intent and answers the plugin's calls; it owns endpoints and
//! blocks. `intent` reads the cluster, `asks` what a pod asks for and `wants` what it may have, `fib` says which routes
//! are wanted, `status` what is published.
//! Not here: sockets, files, clocks and netlink, which are the shell's, and BGP, which has a machine of its own.

mod adds;
pub mod asks;
pub mod blockmap;
mod calls;
pub mod claims;
pub mod cluster;
pub mod fib;
pub mod found;
pub mod intent;
pub mod mtu;
pub mod pods;
pub mod secret;
pub mod serving;
pub mod status;
pub mod takeover;
#[cfg(test)]
mod tests;
pub mod wants;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use manx_bgp::{OriginAttributes, Prefix};
use manx_cni::rpc::{Attachment, DelRequest, Remover, Reply, Request};
use manx_ipam::{
    BlockId, ClaimError, Endpoint, EndpointId, Family, Limits, NodeIpam, NodeName, PodRef, Recovered,
    RequestId, Room, Usage,
};

use claims::{ClaimOrder, ClaimTrouble, KnownClaims};
use fib::{LocalRoutes, local_routes};
use intent::Intent;
use mtu::Size;
use pods::{LookedUp, PodName, Pods};

/// A fact, a request or an answer.
#[derive(Debug)]
pub enum Input {
    /// The deadline has come.
    Timeout,
    /// What this node is to do has changed, or is known for the first time.
    Intent(Arc<Intent>),
    /// The owners of all blocks, as last seen.
    Blocks(Arc<BTreeMap<BlockId, NodeName>>),
    /// The plugin asks.
    Call {
        /// Comes back with the reply.
        request: RequestId,
        /// What it asks.
        call: Request,
        /// The time of day in seconds since 1970, for status only.
        at: u64,
    },
    /// The plugin removed this attachment while no agent answered.
    Ended(DelRequest),
    /// The answer to [`Output::Claim`].
    Claimed {
        /// Which block.
        block: BlockId,
        /// What came of it.
        outcome: Result<(), ClaimError>,
    },
    /// The answer to [`Output::Release`].
    Released {
        /// Which block.
        block: BlockId,
        /// What came of it.
        outcome: Result<(), ClaimError>,
    },
    /// All claims of addresses: from a consistent list at first, and never going back in time.
    Claims(Arc<KnownClaims>),
    /// The answer to [`Output::Order`]; [`Input::Claims`] has told before how the claim stands then.
    Ordered {
        /// Of which pod.
        claim: PodName,
        /// What came of it.
        outcome: Result<(), ClaimTrouble>,
    },
    /// The link of an attachment passes no more packets.
    LinkDown {
        /// Which.
        id: EndpointId,
    },
    /// The link of an attachment does not exist any more.
    LinkGone {
        /// Which.
        id: EndpointId,
    },
    /// The links with an alias of ours that the kernel has at the start, with the addresses that are routed to them;
    /// none when a link is down.
    Found {
        /// The attachments.
        endpoints: Vec<Endpoint>,
        /// The time of day in seconds since 1970.
        at: u64,
    },
    /// The attachments of all links with an alias of ours that the kernel has now: the answer to [`Output::Look`].
    Linked(BTreeSet<EndpointId>),
    /// Links that another network made and that are ours now: to be said before the blocks in which their addresses
    /// lie, and again from time to time while there are any.
    Guests {
        /// Those that are in blocks which were handed over.
        found: Vec<Endpoint>,
        /// All endpoints whose links there are.
        present: BTreeSet<EndpointId>,
    },
    /// The last record was not written.
    RecordFailed,
    /// All of it was written after that.
    RecordWhole,
    /// The MTU that pods get.
    Mtu(u32),
    /// The pods of this node, as the API server shows them, or that it still answers. Never said where nobody watches:
    /// then annotations do not count, and no ADD waits for them.
    Pods {
        /// All of them.
        pods: Pods,
        /// What happens is shown as it happens. While it is not, these are the pods as last seen.
        live: bool,
    },
    /// The answer to [`Output::LookUp`].
    LookedUp {
        /// Of which pod.
        pod: PodName,
        /// What was found; `None` if the API server did not answer.
        found: Option<LookedUp>,
    },
}

/// Something to do or to answer, to be carried out in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Append to the record before anything after it is carried out.
    Record(Vec<u8>),
    /// Replace the record before anything after it is carried out.
    Rewrite(Vec<u8>),
    /// Claim a block of this pool.
    Claim {
        /// Which.
        block: BlockId,
        /// Of which pool.
        pool: String,
    },
    /// Give a block back.
    Release(BlockId),
    /// Do this with the claim of a pod, and say [`Input::Ordered`].
    Order {
        /// Of which pod.
        claim: PodName,
        /// What is to be done.
        order: ClaimOrder,
    },
    /// Answer the plugin.
    Reply {
        /// Of the call.
        request: RequestId,
        /// The answer.
        reply: Reply,
    },
    /// Take the link of this attachment down and say [`Input::LinkDown`], then delete it and say
    /// [`Input::LinkGone`]. A link of the name whose alias names another attachment is left alone. Connections of its
    /// addresses are to be forgotten in between.
    Unlink {
        /// Whose it is.
        id: EndpointId,
        /// Its name.
        link: String,
        /// All addresses that wait for it to be gone.
        addresses: Vec<IpAddr>,
    },
    /// The tombstone of this attachment is no longer needed.
    Buried(Attachment),
    /// Give the link of this attachment an MTU, if it has another one.
    Resize {
        /// Whose it is.
        id: EndpointId,
        /// What it is to become.
        size: Size,
    },
    /// All routes of our own.
    Routes(LocalRoutes),
    /// All that we announce.
    Origins(BTreeMap<Prefix, OriginAttributes>),
    /// Wants [`Input::Linked`].
    Look,
    /// What the status shows has changed.
    Changed,
    /// Ask the API server for this pod and its namespace, and say [`Input::LookedUp`]: a container of the pod starts,
    /// and the pod was not shown yet.
    LookUp(PodName),
    /// For the log: a pod starts as if it had no annotations, since the API server says nothing of it.
    Unheard(PodName),
    /// Tell the owner of a pod why it does not start.
    PodEvent {
        /// Which pod.
        pod: PodRef,
        /// In a word.
        trouble: Trouble,
        /// What is wrong.
        note: String,
    },
    /// For the log and metrics.
    Event(manx_ipam::Event),
}

/// Why a pod does not start, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// No pool has a free address for it.
    NoAddress,
    /// What it asks for cannot be had.
    Refused,
    /// What it asks for cannot be read.
    Annotation,
}

/// What is owed once an endpoint is freed.
#[derive(Debug)]
enum Owed {
    /// A reply to the plugin, once the link is down.
    Reply { id: EndpointId, link: String },
    /// A tombstone is to be removed; the plugin removed the link.
    Tombstone { attachment: Attachment, link: String },
    /// Nothing to anybody: the endpoint's link had vanished.
    Nothing { id: EndpointId },
}

/// Requests of our own count down from the top, those of the shell up from the bottom.
const OWN_REQUESTS: u64 = u64::MAX;

/// The MTU of a pod that is asked for before the uplink's is known; it follows then.
const USUAL_MTU: u32 = 1500;

/// One node.
pub struct Node {
    ipam: NodeIpam,
    /// A moment and how long the machine had been running then; zero where nobody knows.
    started: (Instant, Duration),
    intent: Arc<Intent>,
    /// The uplink's, once it is known.
    mtu: Option<u32>,
    owned: BTreeSet<BlockId>,
    exhausted: BTreeSet<Family>,
    /// Calls for addresses that are not answered yet, with the pod for which they are.
    asking: BTreeMap<RequestId, Option<PodRef>>,
    freeing: BTreeMap<RequestId, Owed>,
    /// Replies that wait for a link to be down.
    unlinking: BTreeMap<EndpointId, Vec<RequestId>>,
    /// Calls for addresses that wait for what the API server says of their pod.
    waiting: adds::Waiting,
    claims: claims::Claims,
    /// Claimed addresses in our blocks that another node may have.
    away: BTreeSet<IpAddr>,
    origins: BTreeMap<Prefix, OriginAttributes>,
    next_own: u64,
    intent_known: bool,
    /// Record and kernel have been compared after the start.
    healed: bool,
    /// Attachments whose tombstones were found before that.
    ended: BTreeSet<EndpointId>,
    /// Endpoints whose links are looked for once more a while after the start.
    linkless: found::Linkless,
    /// What was last told to have changed.
    rooms: Vec<Room>,
    outputs: VecDeque<Output>,
}

impl Node {
    /// A node that starts from what its record says.
    pub fn new(name: NodeName, limits: Limits, recovered: Recovered, now: Instant) -> Self {
        let leaving: Vec<Endpoint> = recovered.leaving.clone();
        let started = (now, recovered.uptime);
        let ipam = NodeIpam::new(name, limits, recovered, now);
        let mut node = Self {
            ipam,
            started,
            intent: Arc::default(),
            mtu: None,
            owned: BTreeSet::new(),
            exhausted: BTreeSet::new(),
            asking: BTreeMap::new(),
            freeing: BTreeMap::new(),
            unlinking: BTreeMap::new(),
            waiting: adds::Waiting::default(),
            claims: claims::Claims::default(),
            away: BTreeSet::new(),
            origins: BTreeMap::new(),
            next_own: OWN_REQUESTS,
            intent_known: false,
            healed: false,
            ended: BTreeSet::new(),
            linkless: found::Linkless::default(),
            rooms: Vec::new(),
            outputs: VecDeque::new(),
        };
        for endpoint in leaving {
            let Endpoint { id, link, addresses, .. } = endpoint;
            node.outputs.push_back(Output::Unlink { id, link, addresses });
        }
        node.drain(now);
        node.routes();
        node
    }

    /// Feeds one fact, request or answer.
    pub fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Timeout => {
                self.ipam.handle(manx_ipam::Input::Timeout, now);
                self.go_on(now);
                self.wake_claims(now);
                self.look_for_links(now);
            }
            Input::Intent(intent) => self.on_intent(intent, now),
            Input::Blocks(blocks) => {
                self.ipam.handle(manx_ipam::Input::SetBlocks { blocks: (*blocks).clone() }, now);
            }
            Input::Call { request, call, at } => self.on_call(request, call, at, now),
            Input::Ended(ended) => self.on_ended(ended, now),
            Input::Claimed { block, outcome } => {
                self.ipam.handle(manx_ipam::Input::Claimed { block, outcome }, now);
            }
            Input::Released { block, outcome } => {
                self.ipam.handle(manx_ipam::Input::Released { block, outcome }, now);
            }
            Input::Claims(known) => self.on_claims(known, now),
            Input::Ordered { claim, outcome } => self.on_claim_done(&claim, outcome, now),
            Input::LinkDown { id } => self.on_link_down(&id),
            Input::LinkGone { id } => {
                self.on_link_down(&id);
                self.ipam.handle(manx_ipam::Input::LinkGone { id }, now);
                self.claims.stir();
            }
            Input::Found { endpoints, at } => self.on_found(endpoints, at, now),
            Input::Linked(present) => self.on_linked(&present, now),
            Input::Guests { found, present } => self.on_guests(found, &present, now),
            Input::RecordFailed => self.ipam.handle(manx_ipam::Input::RecordFailed, now),
            Input::RecordWhole => self.ipam.handle(manx_ipam::Input::RecordWhole, now),
            Input::Mtu(mtu) => self.on_mtu(mtu),
            Input::Pods { pods, live } => self.on_pods(pods, live, now),
            Input::LookedUp { pod, found } => self.on_looked_up(&pod, found, now),
        }
        self.drain(now);
        self.tend_claims(now);
        self.drain(now);
        if !self.rooms.iter().copied().eq(self.ipam.rooms()) {
            self.rooms = self.ipam.rooms().collect();
            self.outputs.push_back(Output::Changed);
        }
    }

    /// Takes the next output, or `None` once drained.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Timeout`] is due next.
    pub fn deadline(&self) -> Option<Instant> {
        let of_parts = [self.ipam.deadline(), self.waiting.deadline(), self.claims.deadline()];
        of_parts.into_iter().flatten().chain(self.linkless.due).min()
    }

    /// The figures of the allocator, for status.
    pub fn usage(&self) -> Usage {
        self.ipam.usage()
    }

    /// What keeps pods from starting on this node; empty when nothing does.
    pub fn obstacles(&self) -> Vec<String> {
        if !self.intent_known {
            return vec!["the configuration of the cluster has not been read yet".to_owned()];
        }
        if self.families() == (false, false) {
            return vec![
                "no enabled automatic pool selects this node: create, enable or widen one".to_owned(),
            ];
        }
        let full = self.exhausted.iter().filter(|family| self.is_full(**family));
        let way_out = match self.intent.pools.iter().any(|pool| pool.closed) {
            true => ": add an IPBlock that names this node to the files",
            false => "",
        };
        let full = full.map(|family| format!("no {family} address is free and no block is left{way_out}"));
        let limited = self.ipam.limited().iter().filter(|family| self.is_full(**family));
        let limited = limited.map(|family| {
            format!("no {family} address is free and this node has all the blocks that it may have: see maxBlocksPerNode of the pools")
        });
        full.chain(limited).collect()
    }

    /// Whether a block is wanted and, as far as is known, no pool has one left.
    pub fn short_of_blocks(&self) -> bool {
        !self.exhausted.is_empty()
    }

    /// Whether a pod waits for addresses; those of a link that is not gone yet may be what it lacks.
    pub fn is_awaited(&self) -> bool {
        self.ipam.is_awaited()
    }

    /// Whether no pool that gives addresses to any pod has a free one here.
    fn is_full(&self, family: Family) -> bool {
        let mut pools = self.intent.pools.iter().filter(|pool| pool.automatic && !pool.disabled);
        let usage = self.ipam.usage();
        !pools.any(|pool| {
            let free = usage.pools.iter().find(|usage| usage.pool == pool.name).map_or(0, |usage| usage.free);
            pool.family() == family && free > 0
        })
    }

    fn on_intent(&mut self, intent: Arc<Intent>, now: Instant) {
        let first = !std::mem::replace(&mut self.intent_known, true);
        if first || intent.pools != self.intent.pools {
            self.ipam.handle(manx_ipam::Input::SetPools(intent.pools.clone()), now);
        }
        self.intent = intent;
        self.go_on(now);
        self.announce();
        self.outputs.push_back(Output::Changed);
    }

    fn on_del(&mut self, request: RequestId, del: DelRequest, now: Instant) {
        let id = EndpointId { container: del.container, ifname: del.ifname };
        self.withdraw(&id);
        self.withdraw_sticky(&id);
        self.freeing.insert(request, Owed::Reply { id: id.clone(), link: del.link });
        self.ipam.handle(manx_ipam::Input::Free { request, id }, now);
    }

    fn on_ended(&mut self, ended: DelRequest, now: Instant) {
        let id = EndpointId { container: ended.container.clone(), ifname: ended.ifname.clone() };
        let attachment = Attachment { container: ended.container, ifname: ended.ifname };
        if !self.healed {
            self.ended.insert(id.clone());
        }
        self.free_ourselves(id, |_| Owed::Tombstone { attachment, link: ended.link }, now);
    }

    fn free_ourselves(&mut self, id: EndpointId, owed: impl FnOnce(EndpointId) -> Owed, now: Instant) {
        let request = RequestId(self.next_own);
        self.next_own -= 1;
        self.freeing.insert(request, owed(id.clone()));
        self.ipam.handle(manx_ipam::Input::Free { request, id }, now);
    }

    fn on_link_down(&mut self, id: &EndpointId) {
        for request in self.unlinking.remove(id).unwrap_or_default() {
            self.reply(request, Reply::Deleted { link_removed_by: Remover::Agent });
        }
    }

    /// Carries the allocator's outputs over; gives the attachments that a GC collected.
    fn drain(&mut self, now: Instant) -> Vec<Attachment> {
        let mut collected = Vec::new();
        let mut unlinks = Vec::new();
        let mut endpoints_changed = false;
        while let Some(output) = self.ipam.poll() {
            match output {
                manx_ipam::Output::Record(bytes) => self.outputs.push_back(Output::Record(bytes)),
                manx_ipam::Output::Rewrite(bytes) => self.outputs.push_back(Output::Rewrite(bytes)),
                manx_ipam::Output::Claim(block) => self.claim(block, now),
                manx_ipam::Output::Release(block) => self.outputs.push_back(Output::Release(block)),
                manx_ipam::Output::Assigned { request, endpoint } => {
                    self.asking.remove(&request);
                    if let Some(endpoint) = self.on_assigned_claim(request, endpoint, now) {
                        self.reply(request, Reply::Assigned(self.assignment(&endpoint)));
                    }
                }
                manx_ipam::Output::Refused { request, why } => {
                    self.on_refused_claim(request);
                    self.refuse(request, &why);
                }
                manx_ipam::Output::Freed { request, endpoint } => {
                    unlinks.extend(self.on_freed(request, endpoint));
                }
                manx_ipam::Output::Collected(endpoint) => {
                    let Endpoint { id, link, .. } = endpoint;
                    collected.push(Attachment { container: id.container.clone(), ifname: id.ifname.clone() });
                    unlinks.push(self.unlink(id, link));
                }
                manx_ipam::Output::Owned(owned) => {
                    self.owned = owned;
                    endpoints_changed = true;
                }
                manx_ipam::Output::EndpointsChanged => endpoints_changed = true,
                manx_ipam::Output::Event(event) => self.on_event(event),
            }
        }
        if endpoints_changed {
            self.claims.stir();
            self.routes();
            self.announce();
        }
        self.give_orders();
        // Routes go before their link does: what vanishes with it is then no surprise.
        self.outputs.extend(unlinks);
        collected
    }

    fn claim(&mut self, block: BlockId, now: Instant) {
        match self.intent.pools.iter().find(|pool| pool.has_block(&block)) {
            Some(pool) => self.outputs.push_back(Output::Claim { block, pool: pool.name.clone() }),
            // The pool went away between the wish and now.
            None => {
                let outcome = Err(ClaimError::Failed);
                self.ipam.handle(manx_ipam::Input::Claimed { block, outcome }, now);
            }
        }
    }

    /// An endpoint is over: gives what follows once its routes are gone.
    fn on_freed(&mut self, request: RequestId, endpoint: Option<Endpoint>) -> Vec<Output> {
        let link_of = |named: String| endpoint.as_ref().map_or(named, |endpoint| endpoint.link.clone());
        match self.freeing.remove(&request) {
            Some(Owed::Reply { id, link }) => {
                self.unlinking.entry(id.clone()).or_default().push(request);
                vec![self.unlink(id, link_of(link))]
            }
            Some(Owed::Tombstone { attachment, link }) => {
                let id =
                    EndpointId { container: attachment.container.clone(), ifname: attachment.ifname.clone() };
                vec![self.unlink(id, link_of(link)), Output::Buried(attachment)]
            }
            Some(Owed::Nothing { id }) => {
                endpoint.as_ref().map(|endpoint| self.unlink(id, endpoint.link.clone())).into_iter().collect()
            }
            None => Vec::new(),
        }
    }

    /// What is to be done with the link of an endpoint that is over. Said again, it names the same addresses again.
    fn unlink(&self, id: EndpointId, link: String) -> Output {
        let of_it = self.ipam.leaving().filter(|endpoint| endpoint.id == id);
        let addresses = of_it.flat_map(|endpoint| endpoint.addresses.iter().copied()).collect();
        Output::Unlink { id, link, addresses }
    }

    fn on_event(&mut self, event: manx_ipam::Event) {
        match event {
            manx_ipam::Event::Exhausted { family } => {
                self.exhausted.insert(family);
            }
            manx_ipam::Event::ExhaustedEnded { family } => {
                self.exhausted.remove(&family);
            }
            _ => {}
        }
        self.outputs.push_back(Output::Event(event));
        self.outputs.push_back(Output::Changed);
    }

    fn reply(&mut self, request: RequestId, reply: Reply) {
        self.outputs.push_back(Output::Reply { request, reply });
    }

    fn routes(&mut self) {
        self.away = self.away();
        let routes = local_routes(self.ipam.endpoints(), &self.owned, &self.away);
        self.outputs.push_back(Output::Routes(routes));
        self.outputs.push_back(Output::Changed);
    }

    fn announce(&mut self) {
        let mut origins = self.intent.announcement.origins(&self.told_blocks());
        origins.extend(self.intent.announcement.hosts(&self.visiting()));
        if origins != self.origins {
            self.origins = origins.clone();
            self.outputs.push_back(Output::Origins(origins));
        }
    }

    /// The families for which automatic pools select this node.
    fn families(&self) -> (bool, bool) {
        let usable = |family| {
            let mut pools = self.intent.pools.iter();
            pools.any(|pool| pool.automatic && !pool.disabled && pool.family() == family)
        };
        (usable(Family::V4), usable(Family::V6))
    }
}
