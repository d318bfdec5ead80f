//! Probes: packets that can be told from all others, sent out of a pod, and what each node saw of them.
//!
//! The node of the pod that sends is asked a [`ProbeQuestion`], every other node on the way a [`WatchQuestion`] before.
//! Both answer with [`Sight`]s as they happen. A packet is known by its [`Flow`]: by octets that no translation of
//! addresses and ports changes.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{Ask, Question};

/// How many different probes one flow has.
pub const PROBES: u8 = 32;
/// The source port of UDP and TCP probes is among so many, from [`FIRST_PORT`] on: above those that Linux gives out.
const PORTS: u16 = 4000;
/// The lowest source port.
const FIRST_PORT: u16 = 61_000;
/// Distance between the TCP sequence numbers of two probes: more than the octets of any.
const STRIDE: u32 = 1 << 14;

/// What probes are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Protocol {
    /// ICMP echo requests.
    #[default]
    Icmp,
    /// Datagrams.
    Udp,
    /// SYNs: no connection comes of them, since the pod resets what is answered.
    Tcp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Icmp => "icmp",
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        })
    }
}

/// The probes of one trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// The address of the pod that sends.
    pub source: IpAddr,
    /// Where to: the address of a pod, a node, a Service or somebody outside, of the same family.
    pub target: IpAddr,
    /// What they are.
    #[serde(default)]
    pub protocol: Protocol,
    /// The port there; 0 with ICMP.
    #[serde(default)]
    pub port: u16,
    /// A random number that marks them.
    pub mark: u32,
}

impl Flow {
    /// Where UDP and TCP probes come from, and the identifier of ICMP ones.
    pub fn source_port(&self) -> u16 {
        FIRST_PORT + (self.mark as u16) % PORTS
    }

    /// The window of TCP probes: it marks them too.
    pub fn window(&self) -> u16 {
        (self.mark as u16) | 1
    }

    /// The lowest TCP sequence number of the flow.
    pub fn first_sequence(&self) -> u32 {
        self.mark & !(u32::from(PROBES) * STRIDE - 1)
    }

    /// How many TCP sequence numbers are the flow's.
    pub fn sequences(&self) -> u32 {
        u32::from(PROBES) * STRIDE
    }

    /// The TCP sequence number of a probe.
    pub fn sequence(&self, probe: u8) -> u32 {
        self.first_sequence() + u32::from(probe % PROBES) * STRIDE
    }

    /// The probe to whose octets this TCP sequence number belongs.
    pub fn probe_of(&self, sequence: u32) -> Option<u8> {
        let distance = sequence.wrapping_sub(self.first_sequence());
        u8::try_from(distance / STRIDE).ok().filter(|probe| *probe < PROBES)
    }

    /// The number of the transport protocol in IP headers.
    pub fn ip_number(&self) -> u8 {
        match (self.protocol, self.source.is_ipv4()) {
            (Protocol::Icmp, true) => 1,
            (Protocol::Icmp, false) => 58,
            (Protocol::Tcp, _) => 6,
            (Protocol::Udp, _) => 17,
        }
    }
}

/// A route to look up as the kernel would for a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lookup {
    /// Inside the pod rather than on the node.
    #[serde(default)]
    pub inside: bool,
    /// Where the packet goes.
    pub to: IpAddr,
    /// Where it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<IpAddr>,
    /// The link by which it comes in; a packet of the machine itself if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iif: Option<String>,
}

/// Asks a node to say what it sees of a flow, from [`Sight::Ready`] until nobody reads any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WatchQuestion {
    /// The flow.
    pub flow: Flow,
    /// The address of a pod of this node to look into as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<IpAddr>,
    /// Routes to look up before.
    #[serde(default)]
    pub lookups: Vec<Lookup>,
    /// It ends by itself after this long, in milliseconds; 0 stands for [`WatchQuestion::LONGEST`], the most there is.
    #[serde(default)]
    pub milliseconds: u32,
}

impl WatchQuestion {
    /// The longest time that a node watches, in milliseconds.
    pub const LONGEST: u32 = 20_000;
}

impl Ask for WatchQuestion {
    type Answer = Sight;

    fn question(&self) -> Question {
        Question::Watch(self.clone())
    }
}

/// Asks the node of the pod that sends to watch, to send, and to say what came of it; it ends with [`Sight::Done`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeQuestion {
    /// What to watch; `pod` is the one that sends.
    #[serde(flatten)]
    pub watch: WatchQuestion,
    /// The largest packet to send, with all headers of IP, in octets: the pod's MTU. 0 for none but the smallest.
    #[serde(default)]
    pub size: u16,
    /// Up to how many routers away to ask routers who they are, beyond the pod's node. 0 for not.
    #[serde(default)]
    pub routers: u8,
}

impl Ask for ProbeQuestion {
    type Answer = Sight;

    fn question(&self) -> Question {
        Question::Probe(self.clone())
    }
}

/// What one node has to say of a flow, as it happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Sight {
    /// It watches from now on.
    Ready,
    /// It cannot look at something: a lower-case fragment. The rest goes on.
    Blind(String),
    /// A route was looked up.
    Way(Way),
    /// A probe was sent, or could not be.
    Sent(Sent),
    /// A packet passed a link.
    Seen(Seen),
    /// A rule or the policy of a chain decided about a packet.
    Verdict(Verdict),
    /// What the kernel tracks of the flow, with where it translates it to.
    Translation(Translation),
    /// Counters of the node that have grown since it began to watch, and by how much. Others' packets count too.
    Grown(BTreeMap<String, u64>),
    /// Rules of legacy iptables that have dropped packets since it began to watch and may be for probes. Others' packets
    /// count too.
    Legacy(Vec<LegacyDrop>),
    /// Nothing comes any more.
    Done,
    /// Something that this version does not know.
    #[serde(other)]
    Other,
}

/// What the kernel answers to a [`Lookup`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Way {
    /// What was looked up.
    pub lookup: Lookup,
    /// Whether a probe asked for it by coming in; else the question did.
    #[serde(default)]
    pub passing: bool,
    /// Why there is no way: the name of the error, such as `ENETUNREACH`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Whether the packet is for this machine itself.
    #[serde(default)]
    pub local: bool,
    /// The link by which it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// The neighbour that takes it; none if the destination is on the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// The prefix of the route that fits, where the kernel says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<ipnetwork::IpNetwork>,
    /// The route's table.
    #[serde(default)]
    pub table: u32,
    /// Who made the route; 179 Manx.
    #[serde(default)]
    pub protocol: u8,
    /// What the node knows of the next hop on the link; none if nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub neighbour: Option<crate::kernel::Neighbour>,
}

/// A probe that was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sent {
    /// Its number.
    pub probe: u8,
    /// What it is to find out.
    #[serde(default)]
    pub aim: Aim,
    /// Octets, with all headers of IP.
    pub size: u16,
    /// After how many routers it is thrown away.
    pub ttl: u8,
    /// Where to: the flow's target, or the backend that was chosen.
    pub target: IpAddr,
    /// Nanoseconds since 1970.
    pub time: u64,
    /// Why it could not be sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// What a probe is to find out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Aim {
    /// Whether the target is reached at all.
    #[default]
    Reach,
    /// Whether packets of this size pass.
    Size,
    /// Which router is so far away.
    Router,
}

/// A packet that passed a link.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Seen {
    /// Nanoseconds since 1970 by the node's clock.
    pub time: u64,
    /// Inside the pod rather than on the node.
    pub inside: bool,
    /// Index of the link.
    pub index: u32,
    /// Name of the link.
    pub link: String,
    /// Whether it left by the link; else it came in.
    pub outgoing: bool,
    /// Number of the probe that it is, or answers.
    pub probe: u8,
    /// Whether it is the probe itself or what came back.
    pub kind: Kind,
    /// Its source.
    pub from: Option<IpAddr>,
    /// Its destination.
    pub to: Option<IpAddr>,
    /// Its source port or identifier.
    pub from_port: u16,
    /// Its destination port.
    pub to_port: u16,
    /// Octets, with all headers of IP.
    pub size: u16,
    /// How many more routers it may cross.
    pub ttl: u8,
    /// The hardware address of who sent it, where it came in over Ethernet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

/// What a packet of a flow is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// The probe itself.
    #[default]
    Probe,
    /// The answer that it asks for: an echo reply, a datagram, a SYN with ACK.
    Answer,
    /// Nobody listens at the port: a RST, or port unreachable.
    Refusal,
    /// A router has no way to the destination, or does not find it on its link.
    Unreachable,
    /// Somebody does not let it pass, and says so.
    Prohibited,
    /// A router cannot pass so many octets on; its link takes this many.
    TooBig(u32),
    /// A router threw it away after the last one that it was allowed.
    Expired,
    /// Another error.
    #[serde(other)]
    OtherError,
}

/// What a rule, or the policy of a chain, decided about a packet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Verdict {
    /// Number of the probe that it is, or answers.
    pub probe: u8,
    /// Whether it is an answer.
    pub back: bool,
    /// Family of the table: `ip`, `ip6`, `inet`, …
    pub family: String,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// The rule's handle; none of a policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handle: Option<u64>,
    /// The rule's comment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Which rule of its chain it is, from 1; none of a policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// Whether the rule is made of parts of iptables.
    pub xtables: bool,
    /// What it decided: `accept`, `drop`, `jump CHAIN`, …
    pub verdict: String,
    /// The link by which the packet came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iif: Option<String>,
    /// The link by which it would go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oif: Option<String>,
    /// Its destination by then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<IpAddr>,
}

/// A rule, or the policy of a chain, of legacy iptables that dropped packets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LegacyDrop {
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// Which rule of its chain it is, from 1; none of a policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The rule's comment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// `DROP` or `REJECT`.
    pub target: String,
    /// How many packets it dropped meanwhile.
    pub packets: u64,
}

/// A tracked connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Translation {
    /// Source of the packets as they came.
    pub from: IpAddr,
    /// Destination of the packets as they came.
    pub to: IpAddr,
    /// Their destination port.
    #[serde(default)]
    pub to_port: u16,
    /// Whom answers come from: the backend that was chosen, or `to`.
    pub backend: IpAddr,
    /// The backend's port.
    #[serde(default)]
    pub backend_port: u16,
    /// Whom answers go to: `from`, or the address behind which the source is hidden.
    pub seen_as: IpAddr,
    /// The port to which answers go; 0 if the node does not say.
    #[serde(default)]
    pub seen_port: u16,
    /// How long the entry lives on, in seconds.
    #[serde(default)]
    pub timeout: u32,
}

impl Translation {
    /// Whether the destination is translated.
    pub fn chooses(&self) -> bool {
        (self.backend, self.backend_port) != (self.to, self.to_port)
    }

    /// Whether the source is translated.
    pub fn hides(&self) -> bool {
        self.seen_as != self.from
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(mark: u32) -> Flow {
        let [source, target] = ["10.0.0.1", "10.0.0.2"].map(|text| text.parse().unwrap());
        Flow { source, target, protocol: Protocol::Tcp, port: 80, mark }
    }

    #[test]
    fn a_sequence_number_tells_the_probe_whatever_the_mark() {
        for mark in [0, 1, 0x1234_5678, u32::MAX] {
            let flow = flow(mark);
            for probe in 0..PROBES {
                assert_eq!(flow.probe_of(flow.sequence(probe)), Some(probe));
                // What acknowledges the SYN and all that it carries.
                assert_eq!(flow.probe_of(flow.sequence(probe).wrapping_add(9001)), Some(probe));
            }
            assert_eq!(flow.probe_of(flow.first_sequence().wrapping_sub(1)), None);
            assert_eq!(flow.probe_of(flow.first_sequence().wrapping_add(flow.sequences())), None);
            assert!((61_000..65_000).contains(&flow.source_port()));
        }
    }

    #[test]
    fn a_probe_is_asked_for_as_a_watch_with_more() {
        let watch = WatchQuestion { flow: flow(7), pod: None, lookups: Vec::new(), milliseconds: 0 };
        let text = serde_json::to_string(&ProbeQuestion { watch, size: 1500, routers: 3 }).unwrap();
        let read: WatchQuestion = serde_json::from_str(&text).unwrap();
        assert_eq!(read.flow.mark, 7);
    }

    #[test]
    fn what_a_newer_node_sees_is_taken_for_something_else() {
        assert_eq!(serde_json::from_str::<Sight>("\"later\"").unwrap(), Sight::Other);
        assert_eq!(
            serde_json::from_str::<Sight>("{\"seen\":{\"kind\":{\"tooBig\":1400}}}").unwrap(),
            Sight::Seen(Seen { kind: Kind::TooBig(1400), ..Seen::default() })
        );
    }
}
