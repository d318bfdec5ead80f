//! What a run is about: how the cluster is made, and what happens when. Decoded whole from decisions, so that the same
//! decisions give the same run, and so that a failing run can be tried again with less in it.

use std::time::Duration;

use manx_api::Cidr;

use crate::choices::Choices;
use crate::world::{World, millis, secs};

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
    /// Whether pools are so small that they are used up.
    pub scarce: bool,
}

impl Settings {
    /// The pools of the beginning: network and length of a block.
    pub(crate) fn pools(&self) -> Vec<(Cidr, u8)> {
        match self.scarce {
            true => vec![(World::cidr("10.244.0.0/26"), 29), (World::cidr("fd00:10:244::/120"), 125)],
            false => vec![(World::cidr("10.244.0.0/20"), 28), (World::cidr("fd00:10:244::/112"), 124)],
        }
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
            scarce: choices.chance(400),
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
    match choices.below(20) {
        0..9 => Act::Start { host, pod: choices.below(PODS) },
        9..15 => Act::Stop { host, pod: choices.below(PODS) },
        15 => Act::Collect { host },
        16 => Act::KillPlugin { host, steps: choices.below(6) },
        _ => {
            let outputs = choices.chance(600).then(|| choices.below(12));
            Act::KillAgent { host, outputs, away: choices.between(millis(100), secs(20)) }
        }
    }
}
