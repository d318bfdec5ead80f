//! Pods whose addresses follow their names, on several nodes around one API server: in any order, with lost answers,
//! watches that lag, and agents that die at any output.

use std::time::Duration;

use manx_cni::rpc::{AddRequest, DelRequest, PodRef as RpcPod, Request};
use manx_ipam::{BlockId, ClaimError, EndpointId, Limits, Pool, recover};
use proptest::prelude::*;

use super::*;
use crate::node::intent::{Intent, PodPool, PodPools};
use crate::node::pods::{NamespaceNotes, Namespaces, PodNotes};
use crate::node::{Input, Output};

const NODES: usize = 3;

/// One pod on one node, as its runtime sees it.
#[derive(Debug, Clone)]
struct Sandbox {
    node: usize,
    pod: String,
    addresses: Vec<IpAddr>,
}

struct Machine {
    node: Node,
    record: Vec<u8>,
    life: u32,
    /// Outputs that are still carried out before the agent dies.
    dies_after: Option<u8>,
    orders: Vec<(u32, PodName, ClaimOrder)>,
    shown: usize,
    open: BTreeMap<RequestId, String>,
    /// What was announced beside blocks.
    announced: BTreeSet<String>,
}

struct World {
    now: Instant,
    machines: Vec<Machine>,
    blocks: BTreeMap<BlockId, NodeName>,
    claims: KnownClaims,
    /// All versions of the claims, for watches that lag.
    versions: Vec<Arc<KnownClaims>>,
    running: BTreeMap<String, Sandbox>,
    /// Sandboxes that were deleted and whose link is there yet.
    leaving: BTreeMap<String, Sandbox>,
    answers: BTreeMap<RequestId, Reply>,
    sandboxes: BTreeMap<RequestId, (String, Sandbox)>,
    requests: u64,
    api_calls: usize,
    first: BTreeMap<String, Vec<IpAddr>>,
}

fn name(pod: &str) -> PodName {
    PodName { namespace: "default".to_owned(), name: pod.to_owned() }
}

fn me(node: usize) -> NodeName {
    NodeName::new(format!("node{node}"))
}

fn limits() -> Limits {
    Limits { headroom: 0, cooldown: Duration::from_secs(5), ..Limits::default() }
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let machine = |at| Machine {
            node: Node::new(me(at), limits(), recover(b""), now),
            record: Vec::new(),
            life: 0,
            dies_after: None,
            orders: Vec::new(),
            shown: 0,
            open: BTreeMap::new(),
            announced: BTreeSet::new(),
        };
        let mut world = Self {
            now,
            machines: (0..NODES).map(machine).collect(),
            blocks: BTreeMap::new(),
            claims: KnownClaims::new(),
            versions: vec![Arc::default()],
            running: BTreeMap::new(),
            leaving: BTreeMap::new(),
            answers: BTreeMap::new(),
            sandboxes: BTreeMap::new(),
            requests: 0,
            api_calls: 0,
            first: BTreeMap::new(),
        };
        (0..NODES).for_each(|at| world.begin(at));
        world
    }

    /// What a fresh agent is told.
    fn begin(&mut self, at: usize) {
        let found = self.running.iter().filter(|(_, sandbox)| sandbox.node == at);
        let found = found.map(|(container, sandbox)| Endpoint {
            id: EndpointId { container: container.clone(), ifname: "eth0".to_owned() },
            link: format!("cali-{container}"),
            addresses: sandbox.addresses.clone(),
            ..Endpoint::default()
        });
        let endpoints = found.collect();
        self.feed(at, Input::Found { endpoints, at: 10_000 });
        let pool = Pool::new("v4", "10.244.0.0/28".parse().expect("a network"), 30).expect("a pool");
        let open =
            PodPool { cidr: pool.cidr, here: true, automatic: true, disabled: false, namespaces: None };
        let notes = Arc::new(NamespaceNotes::default());
        let namespaces = Namespaces::new([("default".to_owned(), notes)].into());
        let open = PodPools::of([("v4".to_owned(), open)], namespaces);
        let intent = Intent { pod_pools: open, pools: vec![pool], ..Intent::default() };
        self.feed(at, Input::Intent(Arc::new(intent)));
        let sticky = PodNotes {
            annotations: [("manx.dev/sticky".to_owned(), "true".to_owned())].into(),
            ..PodNotes::default()
        };
        let plain = (0..4).map(|n| (name(&format!("web-{n}")), Arc::new(PodNotes::default())));
        let pods =
            (0..3).map(|n| (name(&format!("db-{n}")), Arc::new(sticky.clone()))).chain(plain).collect();
        self.feed(at, Input::Pods { pods: Arc::new(pods), live: true });
        self.show(at, usize::MAX);
    }

    /// The watch goes on by so many versions.
    fn show(&mut self, at: usize, versions: usize) {
        let latest = self.versions.len() - 1;
        let machine = &mut self.machines[at];
        machine.shown = machine.shown.saturating_add(versions).min(latest);
        let claims = Arc::clone(&self.versions[machine.shown]);
        self.feed(at, Input::Claims(claims));
        self.feed(at, Input::Blocks(Arc::new(self.blocks.clone())));
    }

    fn feed(&mut self, at: usize, input: Input) {
        self.machines[at].node.handle(input, self.now);
        self.run(at);
    }

    fn run(&mut self, at: usize) {
        while let Some(output) = self.machines[at].node.poll() {
            if let Some(left) = &mut self.machines[at].dies_after {
                if *left == 0 {
                    return self.restart(at);
                }
                *left -= 1;
            }
            self.carry_out(at, output);
        }
    }

    fn carry_out(&mut self, at: usize, output: Output) {
        let machine = &mut self.machines[at];
        match output {
            Output::Record(bytes) => machine.record.extend_from_slice(&bytes),
            Output::Rewrite(bytes) => machine.record = bytes,
            Output::Claim { block, .. } => {
                let taken = self.blocks.get(&block).is_some_and(|owner| *owner != me(at));
                if !taken {
                    self.blocks.insert(block, me(at));
                    // Who owns a block anew knows all claims.
                    self.show_claims(at);
                }
                let outcome = if taken { Err(ClaimError::Taken) } else { Ok(()) };
                self.machines[at].node.handle(Input::Claimed { block, outcome }, self.now);
            }
            Output::Release(block) => {
                self.blocks.remove(&block);
                machine.node.handle(Input::Released { block, outcome: Ok(()) }, self.now);
            }
            Output::Order { claim, order } => {
                let life = machine.life;
                machine.orders.push((life, claim, order));
            }
            Output::Unlink { id, .. } if !self.running.contains_key(&id.container) => {
                let nobody = Sandbox { node: at, pod: String::new(), addresses: Vec::new() };
                self.leaving.entry(id.container).or_insert(nobody);
            }
            Output::Reply { request, reply } => self.answer(at, request, reply),
            Output::Origins(origins) => {
                let hosts = origins.keys().filter(|prefix| prefix.len() == 32);
                machine.announced = hosts.map(ToString::to_string).collect();
            }
            _ => {}
        }
    }

    fn show_claims(&mut self, at: usize) {
        let latest = self.versions.len() - 1;
        self.machines[at].shown = latest;
        let claims = Arc::clone(&self.versions[latest]);
        self.machines[at].node.handle(Input::Claims(claims), self.now);
    }

    fn answer(&mut self, at: usize, request: RequestId, reply: Reply) {
        self.machines[at].open.remove(&request);
        if let (Reply::Assigned(assignment), Some((container, sandbox))) =
            (&reply, self.sandboxes.remove(&request))
        {
            let sandbox = Sandbox { addresses: assignment.addresses.clone(), ..sandbox };
            for address in &sandbox.addresses {
                let mut all = self.running.iter().chain(&self.leaving);
                let twice =
                    all.find(|(other, living)| **other != container && living.addresses.contains(address));
                assert!(twice.is_none(), "{address} of {container} {sandbox:?} is given to {twice:?} too");
                for (claimant, claim) in &self.claims {
                    let theirs = claim.reserved.contains(address) && claimant.name != sandbox.pod;
                    assert!(!theirs, "{address} of {container} is reserved for {claimant:?}");
                }
            }
            if sandbox.pod.starts_with("db-") {
                let claim = &self.claims[&name(&sandbox.pod)];
                assert_eq!(claim.node, Some(me(at)), "{} runs where its claim is held", sandbox.pod);
                assert!(sandbox.addresses.iter().all(|address| claim.reserved.contains(address)));
                let first =
                    self.first.entry(sandbox.pod.clone()).or_insert_with(|| sandbox.addresses.clone());
                assert_eq!(*first, sandbox.addresses, "{} keeps its address", sandbox.pod);
            }
            self.running.insert(container, sandbox);
        }
        self.answers.insert(request, reply);
    }

    fn start(&mut self, at: usize, pod: &str) -> RequestId {
        self.requests += 1;
        let request = RequestId(self.requests);
        let container = format!("{pod}.{}", self.requests);
        let add = AddRequest {
            network: "manx".to_owned(),
            container: container.clone(),
            ifname: "eth0".to_owned(),
            netns: format!("/run/netns/{container}"),
            pod: Some(RpcPod { namespace: "default".to_owned(), name: pod.to_owned(), uid: None }),
            link: format!("cali-{container}"),
            ..crate::node::tests::add(&container)
        };
        let sandbox = Sandbox { node: at, pod: pod.to_owned(), addresses: Vec::new() };
        self.sandboxes.insert(request, (container.clone(), sandbox));
        self.machines[at].open.insert(request, container);
        self.feed(at, Input::Call { request, call: Request::Add(add), at: 10_000 });
        request
    }

    fn stop(&mut self, pod: &str) {
        let found = self.running.iter().find(|(_, sandbox)| sandbox.pod == pod);
        let Some((container, sandbox)) =
            found.map(|(container, sandbox)| (container.clone(), sandbox.clone()))
        else {
            return;
        };
        self.running.remove(&container);
        self.leaving.insert(container.clone(), sandbox.clone());
        self.requests += 1;
        let del = DelRequest { link: format!("cali-{container}"), container, ifname: "eth0".to_owned() };
        let request = RequestId(self.requests);
        self.feed(sandbox.node, Input::Call { request, call: Request::Del(del), at: 10_000 });
    }

    /// The links of deleted sandboxes go.
    fn unlink(&mut self) {
        for (container, sandbox) in std::mem::take(&mut self.leaving) {
            let id = EndpointId { container, ifname: "eth0".to_owned() };
            self.feed(sandbox.node, Input::LinkGone { id });
        }
    }

    fn deliver(&mut self, at: usize, which: usize, carried_out: bool, answered: bool) {
        if self.machines[at].orders.is_empty() {
            return;
        }
        let count = self.machines[at].orders.len();
        let (life, claim, order) = self.machines[at].orders.remove(which % count);
        self.api_calls += 1;
        let outcome = match carried_out {
            true => self.apply(at, &claim, &order),
            false => Err(ClaimTrouble::Unreachable),
        };
        let outcome = if answered { outcome } else { Err(ClaimTrouble::Unreachable) };
        if life == self.machines[at].life {
            if outcome.is_ok() {
                self.show_claims(at);
            } else if carried_out && matches!(order, ClaimOrder::Settle { .. }) {
                // What was said of the claim is not known to have been heard; that it is there is.
                let machine = &mut self.machines[at];
                machine.shown = machine.shown.max(self.versions.len().saturating_sub(2));
                let claims = Arc::clone(&self.versions[machine.shown]);
                self.feed(at, Input::Claims(claims));
            }
            self.feed(at, Input::Ordered { claim, outcome });
        }
    }

    /// The API server's part, as `shell::kube::claims` carries it out.
    fn apply(&mut self, at: usize, name: &PodName, order: &ClaimOrder) -> Result<(), ClaimTrouble> {
        let mut wanted = self.claims.get(name).cloned();
        let taken = wanted.as_ref().and_then(|claim| claim.node.clone()).filter(|node| *node != me(at));
        match (order, &mut wanted) {
            (ClaimOrder::Hold { .. } | ClaimOrder::Settle { .. }, _) if taken.is_some() => {
                return Err(ClaimTrouble::Held(taken.unwrap_or_else(|| me(at))));
            }
            (ClaimOrder::Hold { .. }, None) => return Err(ClaimTrouble::Gone),
            (ClaimOrder::Hold { .. }, Some(claim)) => claim.node = Some(me(at)),
            (ClaimOrder::Settle { addresses, reserve, .. }, claim) => {
                let claim = claim.get_or_insert_default();
                if !claim.addresses.is_empty() && claim.addresses != *addresses {
                    return Err(ClaimTrouble::Differs);
                }
                claim.addresses.clone_from(addresses);
                let mut made = self.claims.clone();
                made.insert(name.clone(), claim.clone());
                self.versions.push(Arc::new(made));
                claim.node = Some(me(at));
                claim.reserved.extend(reserve.intersection(addresses));
            }
            (ClaimOrder::Reserve(reserve), Some(claim)) => {
                claim.reserved.extend(reserve.intersection(&claim.addresses));
            }
            (ClaimOrder::Release, Some(claim)) if taken.is_none() => claim.node = None,
            _ => {}
        }
        if let Some(wanted) = wanted {
            self.claims.insert(name.clone(), wanted);
            self.versions.push(Arc::new(self.claims.clone()));
        }
        Ok(())
    }

    fn restart(&mut self, at: usize) {
        // What was on its way when the agent died has come to its end before the next one lists all claims.
        for (nth, (_, claim, order)) in std::mem::take(&mut self.machines[at].orders).into_iter().enumerate()
        {
            if nth % 2 == 0 {
                let _nobody_hears = self.apply(at, &claim, &order);
            }
        }
        let machine = &mut self.machines[at];
        machine.dies_after = None;
        machine.life += 1;
        machine.announced.clear();
        // The runtime deletes what it got no answer for, and once more what it was deleting.
        let mut unanswered = std::mem::take(&mut machine.open);
        let leaving = self.leaving.iter().filter(|(_, sandbox)| sandbox.node == at);
        unanswered.extend(
            (0..).map(|n| RequestId(u64::MAX / 2 + n)).zip(leaving.map(|(container, _)| container.clone())),
        );
        machine.node = Node::new(me(at), limits(), recover(&machine.record), self.now);
        self.run(at);
        self.begin(at);
        for (request, container) in unanswered {
            self.sandboxes.remove(&request);
            self.requests += 1;
            let del = DelRequest {
                link: format!("cali-{container}"),
                container: container.clone(),
                ifname: "eth0".to_owned(),
            };
            let request = RequestId(self.requests);
            self.feed(at, Input::Call { request, call: Request::Del(del), at: 10_000 });
            if !self.leaving.contains_key(&container) {
                self.feed(at, Input::LinkGone { id: EndpointId { container, ifname: "eth0".to_owned() } });
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..1000 {
            let due = (0..NODES).filter_map(|at| Some((self.machines[at].node.deadline()?, at)));
            let Some((due, at)) = due.filter(|(due, _)| *due <= end).min() else { break };
            self.now = self.now.max(due);
            self.feed(at, Input::Timeout);
        }
        self.now = end;
    }

    fn calm(&mut self) {
        for _ in 0..40 {
            for at in 0..NODES {
                while !self.machines[at].orders.is_empty() {
                    self.deliver(at, 0, true, true);
                }
                self.show(at, usize::MAX);
            }
            self.unlink();
            self.pass(Duration::from_secs(3));
        }
    }

    /// Starts a pod and lets everything happen that follows.
    fn gets(&mut self, at: usize, pod: &str) -> Result<Vec<IpAddr>, String> {
        let request = self.start(at, pod);
        while !self.machines[at].orders.is_empty() {
            self.deliver(at, 0, true, true);
        }
        match self.answers.get(&request) {
            Some(Reply::Assigned(assignment)) => Ok(assignment.addresses.clone()),
            Some(Reply::Error(error)) => Err(error.msg.clone()),
            other => panic!("{other:?}"),
        }
    }

    fn announced(&self, at: usize) -> Vec<&str> {
        self.machines[at].announced.iter().map(String::as_str).collect()
    }

    fn settle_all(&mut self) {
        self.unlink();
        for at in 0..NODES {
            while !self.machines[at].orders.is_empty() {
                self.deliver(at, 0, true, true);
            }
        }
        (0..NODES).for_each(|at| self.show(at, usize::MAX));
    }
}

#[test]
fn a_pod_keeps_its_address_on_another_node_and_is_announced_there_by_itself_until_it_returns() {
    let mut world = World::new();
    let address = world.gets(0, "db-0").expect("free");
    assert_eq!(world.announced(0), [""; 0], "at home the block says it");
    world.settle_all();
    world.stop("db-0");
    world.settle_all();
    assert_eq!(world.claims[&name("db-0")].node, None, "released once the link is gone");
    assert_eq!(world.gets(1, "db-0").expect("claimed"), address);
    assert_eq!(world.announced(1), [format!("{}/32", address[0])]);
    assert_eq!(world.blocks.len(), 1, "the visitor owns no block");
    world.stop("db-0");
    assert_eq!(world.announced(1), [""; 0], "withdrawn with the endpoint");
    world.settle_all();
    assert_eq!(world.gets(0, "db-0").expect("home again"), address);
}

#[test]
fn a_second_start_of_a_pod_whose_claim_is_held_here_asks_nobody() {
    let mut world = World::new();
    world.gets(0, "db-0").expect("free");
    world.settle_all();
    world.stop("db-0");
    world.leaving.clear();
    let before = world.api_calls;
    let id = EndpointId { container: "db-0.1".to_owned(), ifname: "eth0".to_owned() };
    let request = world.start(0, "db-0");
    assert_eq!(world.answers.get(&request), None, "the old link is still there");
    world.feed(0, Input::LinkGone { id });
    assert!(
        matches!(world.answers.get(&request), Some(Reply::Assigned(_))),
        "{:?}",
        world.answers.get(&request)
    );
    assert_eq!(world.api_calls, before);
}

#[test]
fn another_node_is_refused_by_name_until_the_link_is_gone() {
    let mut world = World::new();
    let address = world.gets(0, "db-0").expect("free");
    world.settle_all();
    let refused = world.gets(1, "db-0").expect_err("held");
    assert!(refused.contains("node0") && refused.contains("default/db-0"), "{refused}");
    world.stop("db-0");
    (0..NODES).for_each(|at| world.show(at, usize::MAX));
    world.gets(1, "db-0").expect_err("the link is still there");
    world.settle_all();
    assert_eq!(world.gets(1, "db-0").expect("free now"), address);
}

#[test]
fn without_the_api_server_a_first_start_is_refused_and_leaves_nothing_behind() {
    let mut world = World::new();
    let request = world.start(0, "db-0");
    world.deliver(0, 0, false, false);
    let Some(Reply::Error(error)) = world.answers.get(&request) else { panic!("not refused") };
    assert_eq!(error.code, Code::TRY_AGAIN.0, "{error:?}");
    assert_eq!(world.machines[0].node.ipam.endpoints().count(), 0);
    assert_eq!(world.machines[0].node.ipam.leaving().count(), 1, "its link is looked for");
    world.calm();
    assert_eq!(world.machines[0].node.ipam.leaving().count(), 0);
    assert!(world.claims.is_empty(), "{:?}", world.claims);
}

#[derive(Debug, Clone)]
enum Step {
    Start(usize, u8),
    Stop(u8),
    Unlink,
    Deliver(usize, usize, bool, bool),
    Show(usize, usize),
    Die(usize, u8),
    Pass(u64),
}

fn pod(n: u8) -> String {
    if n < 3 { format!("db-{n}") } else { format!("web-{}", n - 3) }
}

fn step() -> impl Strategy<Value = Step> {
    let at = 0..NODES;
    prop_oneof![
        6 => (at.clone(), 0u8..7).prop_map(|(at, pod)| Step::Start(at, pod)),
        4 => (0u8..7).prop_map(Step::Stop),
        3 => Just(Step::Unlink),
        8 => (at.clone(), 0usize..8, prop::bool::weighted(0.85), prop::bool::weighted(0.85))
            .prop_map(|(at, which, done, said)| Step::Deliver(at, which, done, said)),
        4 => (at.clone(), 1usize..4).prop_map(|(at, versions)| Step::Show(at, versions)),
        1 => (at, 0u8..12).prop_map(|(at, after)| Step::Die(at, after)),
        2 => (0u64..9000).prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_events_lets_two_pods_have_one_address(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::new();
        for step in steps {
            match step {
                Step::Start(at, n) => drop(world.start(at, &pod(n))),
                Step::Stop(n) => world.stop(&pod(n)),
                Step::Unlink => world.unlink(),
                Step::Deliver(at, which, done, said) => world.deliver(at, which, done, said && done),
                Step::Show(at, versions) => world.show(at, versions),
                Step::Die(at, after) => world.machines[at].dies_after = Some(after),
                Step::Pass(millis) => world.pass(Duration::from_millis(millis)),
            }
        }
        world.calm();
        for n in 0..7 {
            for _ in 0..80 {
                world.stop(&pod(n));
            }
        }
        world.calm();
        for (claimant, claim) in &world.claims {
            prop_assert_eq!(&claim.node, &None, "{:?} is held for nobody", claimant);
        }
    }
}
