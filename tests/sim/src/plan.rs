//! What a run is about: how the cluster is made, and what happens when. Decoded whole from decisions, so that the same
//! decisions give the same run, and so that a failing run can be tried again with less in it.

use std::time::Duration;

use manx_api::Cidr;

use crate::choices::Choices;
use crate::world::{World, millis, secs};

/// How many addresses there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// More than enough.
    Ample,
    /// A few blocks for each node: they are used up now and then.
    Scarce,
    /// Less than a block for each node, and addresses that need no rest.
    Tiny,
}

/// How a cluster and its surroundings are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The shortest way of a packet between two hosts.
    pub latency: Duration,
    /// By how much it may be longer.
    pub jitter: Duration,
    /// How many of a thousand packets are lost at first, and come late.
    pub loss: usize,
    /// The usual way to the API server.
    pub api_latency: Duration,
    /// Whether chosen nodes reflect, instead of a mesh.
    pub reflectors: bool,
    /// How small the first pools are.
    pub room: Room,
    /// Whether kernels are compared now and then though nothing happened. Without it nothing is repaired by chance.
    pub audits: bool,
    /// How long a block must have been empty before it is released.
    pub release_after: Duration,
    /// Whether runtimes call GC at the end. Without it nothing may be left behind in the first place.
    pub collects: bool,
}

impl Settings {
    /// The pools of the beginning: network and length of a block.
    pub(crate) fn pools(&self) -> Vec<(Cidr, u8)> {
        match self.room {
            Room::Ample => vec![(World::cidr("10.244.0.0/20"), 28), (World::cidr("fd00:10:244::/112"), 124)],
            Room::Scarce => vec![(World::cidr("10.244.0.0/26"), 29), (World::cidr("fd00:10:244::/120"), 125)],
            Room::Tiny => vec![(World::cidr("10.244.0.0/28"), 30), (World::cidr("fd00:10:244::/123"), 126)],
        }
    }

    /// Pools that may be made besides.
    pub(crate) fn more_pools() -> Vec<(Cidr, u8)> {
        vec![(World::cidr("10.245.0.0/22"), 28), (World::cidr("fd00:10:245::/112"), 124)]
    }

    /// The pool of that number: of the beginning, or one of those that may be made besides.
    pub(crate) fn pool(&self, number: usize) -> Option<(String, Cidr, u8)> {
        let mut all = self.pools().into_iter().chain(Self::more_pools());
        let (cidr, block_size) = all.nth(number)?;
        Some((format!("pool-{number}"), cidr, block_size))
    }
}

/// Something that somebody does, or that befalls something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// A pod is to run on a host.
    Start {
        /// Where.
        host: usize,
        /// Which.
        pod: usize,
    },
    /// It is not to run there any more.
    Stop {
        /// Where.
        host: usize,
        /// Which.
        pod: usize,
    },
    /// The runtime calls GC.
    Collect {
        /// Where.
        host: usize,
    },
    /// The next plugin is killed after so many steps.
    KillPlugin {
        /// Where.
        host: usize,
        /// After how many steps.
        steps: usize,
    },
    /// The agent is killed after so many more outputs of its node, and starts again after that time.
    KillAgent {
        /// Where.
        host: usize,
        /// After how many outputs; at once if `None`.
        outputs: Option<usize>,
        /// How long it stays away.
        away: Duration,
    },
    /// The speaker fails, and a fresh one begins in the same process.
    SpeakerFails {
        /// Whose.
        host: usize,
    },
    /// Nothing reaches the API server, for one host or for all.
    ApiAway {
        /// For whom; everybody, the controller too, if `None`.
        host: Option<usize>,
        /// How long.
        lasts: Duration,
    },
    /// Requests take long: some until their clients have given up, and are carried out all the same.
    ApiSlow {
        /// For whom.
        host: Option<usize>,
        /// How long.
        lasts: Duration,
        /// The most that one request takes.
        most: Duration,
    },
    /// Answers are lost after the request was carried out.
    ApiLossy {
        /// For whom.
        host: Option<usize>,
        /// How long.
        lasts: Duration,
        /// How many of a thousand.
        per_mille: usize,
    },
    /// Watches tell nothing for a while.
    WatchStale {
        /// Whose.
        host: Option<usize>,
        /// How long.
        lasts: Duration,
    },
    /// Watches break off.
    WatchBreaks {
        /// Whose.
        host: Option<usize>,
        /// Whether they must begin anew with a list.
        forgotten: bool,
    },
    /// Nothing passes between two hosts.
    Cut {
        /// One.
        one: usize,
        /// The other.
        other: usize,
        /// How long.
        lasts: Duration,
    },
    /// Nothing passes between a host and all others.
    Isolate {
        /// Which.
        host: usize,
        /// How long.
        lasts: Duration,
    },
    /// Connections between two hosts are reset.
    Reset {
        /// One.
        one: usize,
        /// The other.
        other: usize,
    },
    /// The cable of a host is pulled.
    Unplug {
        /// Whose.
        host: usize,
        /// How long.
        lasts: Duration,
    },
    /// Notifications of the kernel are lost, that of one of our routes which somebody removes among them.
    Overrun {
        /// Where.
        host: usize,
        /// Which route.
        number: usize,
    },
    /// Somebody adds a route of their own.
    ForeignAdd {
        /// Where.
        host: usize,
        /// Which of some destinations, in our pools and elsewhere.
        number: usize,
    },
    /// Somebody removes the route again.
    ForeignRemove {
        /// Where.
        host: usize,
        /// Which.
        number: usize,
    },
    /// Somebody removes a route of ours.
    Spoil {
        /// Where.
        host: usize,
        /// Which.
        number: usize,
    },
    /// Somebody removes a next-hop object.
    SpoilObject {
        /// Where.
        host: usize,
        /// Which.
        number: usize,
    },
    /// The file system of the run directory is full.
    Fill {
        /// Where.
        host: usize,
        /// How long.
        lasts: Duration,
    },
    /// A machine is switched off, and on again.
    PowerOff {
        /// Which.
        host: usize,
        /// How long it stays off; for good if `None`.
        lasts: Option<Duration>,
        /// After which time its Node is deleted, if it is still off.
        node_goes: Option<Duration>,
    },
    /// The Node of a living machine is deleted; its kubelet registers it again.
    ForgetNode {
        /// Which.
        host: usize,
        /// After which time.
        lasts: Duration,
    },
    /// A pool is made, if it is not there.
    PoolMade {
        /// Which.
        number: usize,
    },
    /// A pool is disabled or enabled.
    PoolDisabled {
        /// Which.
        number: usize,
        /// Disabled.
        disabled: bool,
    },
    /// A pool is deleted.
    PoolDeleted {
        /// Which.
        number: usize,
    },
    /// The nodes speak with all others, or with chosen ones only.
    Reflectors(bool),
    /// Somebody writes the status of a block.
    Touch {
        /// Of whom.
        host: usize,
    },
    /// Another replica of the controller leads.
    Elect,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// How many hosts there are.
    pub nodes: usize,
    /// How they and their surroundings are made.
    pub settings: Settings,
    /// Decides everything that is not written here: the ways of packets, the order of turns.
    pub noise: u64,
    /// What happens, and when, in order.
    pub acts: Vec<(Duration, Act)>,
}

/// Pods that any host may be asked to run.
const PODS: usize = 12;

impl Plan {
    /// The run that these decisions say.
    pub fn decode(choices: &mut Choices<'_>) -> Self {
        let noise = choices.number();
        let nodes = 3 + choices.below(3);
        let settings = Settings {
            latency: Duration::from_micros(200),
            jitter: choices.between(Duration::ZERO, millis(20)),
            loss: [0, 0, 10, 50][choices.below(4)],
            api_latency: millis(5),
            reflectors: choices.chance(300),
            room: [Room::Ample, Room::Ample, Room::Scarce, Room::Tiny][choices.below(4)],
            audits: choices.chance(300),
            release_after: [secs(10), secs(40), secs(300)][choices.below(3)],
            collects: choices.chance(300),
        };
        let mut at = secs(3);
        let mut acts = Vec::new();
        let most = 40 + choices.below(60);
        while acts.len() < most && !choices.is_over() {
            at += pause(choices);
            acts.push((at, act(choices, nodes)));
        }
        Self { nodes, settings, noise, acts }
    }
}

/// Much happens at once as a rule, and now and then nothing for long.
fn pause(choices: &mut Choices<'_>) -> Duration {
    match choices.below(8) {
        0..4 => choices.between(Duration::ZERO, millis(20)),
        4..7 => choices.between(Duration::ZERO, secs(3)),
        _ => choices.between(Duration::ZERO, secs(60)),
    }
}

fn act(choices: &mut Choices<'_>, nodes: usize) -> Act {
    let host = choices.below(nodes);
    match choices.below(100) {
        0..30 => Act::Start { host, pod: choices.below(PODS) },
        30..46 => Act::Stop { host, pod: choices.below(PODS) },
        46..48 => Act::Collect { host },
        48..52 => Act::KillPlugin { host, steps: choices.below(6) },
        52..60 => {
            let outputs = choices.chance(600).then(|| choices.below(12));
            Act::KillAgent { host, outputs, away: choices.between(millis(100), secs(20)) }
        }
        60..72 => of_the_api_server(choices, nodes),
        72..80 => of_the_network(choices, nodes),
        80..89 => of_the_kernel(choices, host),
        89..93 => of_the_machine(choices, host),
        _ => of_the_cluster(choices, host),
    }
}

fn of_the_api_server(choices: &mut Choices<'_>, nodes: usize) -> Act {
    let host = choices.chance(600).then(|| choices.below(nodes));
    let lasts = choices.between(millis(50), secs(90));
    match choices.below(6) {
        0 => Act::ApiAway { host, lasts },
        1 => Act::ApiSlow { host, lasts, most: choices.between(millis(100), secs(25)) },
        2 => Act::ApiLossy { host, lasts, per_mille: 100 + choices.below(900) },
        3 | 4 => Act::WatchStale { host, lasts },
        _ => Act::WatchBreaks { host, forgotten: choices.chance(500) },
    }
}

fn of_the_network(choices: &mut Choices<'_>, nodes: usize) -> Act {
    let one = choices.below(nodes);
    let other = (one + 1 + choices.below(nodes - 1)) % nodes;
    let lasts = choices.between(millis(50), secs(150));
    match choices.below(5) {
        0 => Act::SpeakerFails { host: one },
        4 => Act::Cut { one, other, lasts },
        1 => Act::Isolate { host: one, lasts },
        2 => Act::Reset { one, other },
        _ => Act::Unplug { host: one, lasts: lasts / 4 },
    }
}

fn of_the_kernel(choices: &mut Choices<'_>, host: usize) -> Act {
    let number = choices.below(32);
    match choices.below(6) {
        0 => Act::Overrun { host, number },
        1 => Act::ForeignAdd { host, number },
        2 => Act::ForeignRemove { host, number },
        3 => Act::Spoil { host, number },
        4 => Act::SpoilObject { host, number },
        _ => Act::Fill { host, lasts: choices.between(millis(50), secs(20)) },
    }
}

fn of_the_machine(choices: &mut Choices<'_>, host: usize) -> Act {
    match choices.below(5) {
        0 => Act::ForgetNode { host, lasts: choices.between(secs(1), secs(300)) },
        1 if host > 0 => Act::PowerOff { host, lasts: None, node_goes: Some(secs(20)) },
        _ => {
            let lasts = Some(choices.between(secs(5), secs(600)));
            let node_goes = choices.chance(500).then(|| choices.between(secs(2), secs(60)));
            Act::PowerOff { host, lasts, node_goes }
        }
    }
}

fn of_the_cluster(choices: &mut Choices<'_>, host: usize) -> Act {
    let number = choices.below(4);
    match choices.below(8) {
        0 | 1 => Act::PoolMade { number },
        2 => Act::PoolDisabled { number, disabled: true },
        3 => Act::PoolDisabled { number, disabled: false },
        4 => Act::PoolDeleted { number },
        5 => Act::Reflectors(choices.chance(500)),
        6 => Act::Touch { host },
        _ => Act::Elect,
    }
}
