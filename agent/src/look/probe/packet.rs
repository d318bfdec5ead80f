//! Probes as octets, and how they are known again: as they are, in answers, and quoted in errors.

use std::net::IpAddr;

use etherparse::{
    IpHeaders, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, LaxIpSlice, PacketBuilder, TcpHeader,
};
use manx_facts::probe::{Flow, Kind, Protocol};

/// Octets of the ICMP and UDP headers.
pub(super) const SHORT_HEADER: u32 = 8;
const SHORT: usize = SHORT_HEADER as usize;
/// Octets of a TCP header without options.
const TCP_HEADER: usize = 20;
/// What follows mark and number, for whoever looks at the packet.
const FILLER: &[u8] = b" sent by manxctl trace ";

/// One packet to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shot {
    /// Number of the probe.
    pub(super) probe: u8,
    /// Octets with all headers; raised to what the headers and the mark take.
    pub(super) size: u16,
    /// After how many routers it is thrown away.
    pub(super) ttl: u8,
    /// Where to.
    pub(super) target: IpAddr,
    /// The port there.
    pub(super) port: u16,
}

/// A packet that is known again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) probe: u8,
    pub(super) kind: Kind,
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    pub(super) from_port: u16,
    pub(super) to_port: u16,
    pub(super) size: u16,
    pub(super) ttl: u8,
}

/// The packet, without a link header; not to be fragmented.
pub(super) fn build(flow: &Flow, shot: &Shot) -> Option<Vec<u8>> {
    let ip_length = if flow.source.is_ipv4() { Ipv4Header::MIN_LEN } else { Ipv6Header::LEN };
    let header = if flow.protocol == Protocol::Tcp { TCP_HEADER } else { SHORT };
    let payload = payload(flow, shot, usize::from(shot.size).saturating_sub(ip_length + header));
    let builder = PacketBuilder::ip(ip_header(flow, shot, header + payload.len())?);
    let mut packet = Vec::with_capacity(ip_length + header + payload.len());
    let id = flow.source_port();
    let sequence = u16::from(shot.probe);
    match (flow.protocol, flow.source.is_ipv4()) {
        (Protocol::Icmp, true) => {
            builder.icmpv4_echo_request(id, sequence).write(&mut packet, &payload).ok()?;
        }
        (Protocol::Icmp, false) => {
            builder.icmpv6_echo_request(id, sequence).write(&mut packet, &payload).ok()?;
        }
        (Protocol::Udp, _) => builder.udp(id, shot.port).write(&mut packet, &payload).ok()?,
        (Protocol::Tcp, _) => {
            let mut tcp = TcpHeader::new(id, shot.port, flow.sequence(shot.probe), flow.window());
            tcp.syn = true;
            builder.tcp_header(tcp).write(&mut packet, &payload).ok()?;
        }
    }
    Some(packet)
}

fn payload(flow: &Flow, shot: &Shot, length: usize) -> Vec<u8> {
    if flow.protocol == Protocol::Tcp {
        return vec![0; length];
    }
    let mut payload = flow.mark.to_be_bytes().to_vec();
    payload.push(shot.probe);
    payload.extend_from_slice(FILLER);
    payload.resize(length.max(payload.len()), 0);
    payload
}

fn ip_header(flow: &Flow, shot: &Shot, length: usize) -> Option<IpHeaders> {
    let length = u16::try_from(length).ok()?;
    let number = IpNumber(flow.ip_number());
    Some(match (flow.source, shot.target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            let header = Ipv4Header::new(length, shot.ttl, number, source.octets(), target.octets()).ok()?;
            IpHeaders::Ipv4(Ipv4Header { dont_fragment: true, ..header }, Default::default())
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => IpHeaders::Ipv6(
            Ipv6Header {
                traffic_class: 0,
                flow_label: Ipv6FlowLabel::ZERO,
                payload_length: length,
                next_header: number,
                hop_limit: shot.ttl,
                source: source.octets(),
                destination: target.octets(),
            },
            Default::default(),
        ),
        _ => return None,
    })
}

/// Whom answers go to where the node hides the pod behind an address of its own.
pub(super) type Hidden = (IpAddr, u16);

/// What a packet without its link header is of the flow; cut off packets are known too. Answers on their way to whom the
/// pod is hidden behind are known where that is said, those of TCP in any case.
pub(super) fn recognise(flow: &Flow, hidden: Option<Hidden>, packet: &[u8]) -> Option<Known> {
    let (ip, _) = LaxIpSlice::from_slice(packet).ok()?;
    let (size, ttl) = match &ip {
        LaxIpSlice::Ipv4(ip) => (ip.header().total_len(), ip.header().ttl()),
        LaxIpSlice::Ipv6(ip) => (ip.header().payload_length().saturating_add(40), ip.header().hop_limit()),
    };
    let (from, to) = (ip.source_addr(), ip.destination_addr());
    let content = ip.payload().payload;
    let number = ip.payload_ip_number().0;
    let of =
        |(probe, kind, from_port, to_port)| Known { probe, kind, from, to, from_port, to_port, size, ttl };
    let ends = Ends { flow, hidden, from, to };
    match (number, flow.protocol) {
        (1 | 58, _) => echo(flow, content).or_else(|| error(flow, content)).map(of),
        (17, Protocol::Udp) => datagram(&ends, content).map(of),
        (6, Protocol::Tcp) => segment(&ends, content).map(of),
        _ => None,
    }
}

/// A flow, and the addresses of a packet that may be of it.
struct Ends<'a> {
    flow: &'a Flow,
    hidden: Option<Hidden>,
    from: IpAddr,
    to: IpAddr,
}

impl Ends<'_> {
    /// Whether the packet goes to the pod, or to whom it is hidden behind.
    fn back(&self, to_port: u16) -> bool {
        let hidden = self.hidden.is_some_and(|hidden| hidden == (self.to, to_port));
        hidden || (self.to, to_port) == (self.flow.source, self.flow.source_port())
    }

    fn of_target(&self, from_port: u16) -> bool {
        (self.from, from_port) == (self.flow.target, self.flow.port)
    }
}

type Found = (u8, Kind, u16, u16);

fn echo(flow: &Flow, content: &[u8]) -> Option<Found> {
    let kind = match content.first()? {
        8 | 128 => Kind::Probe,
        0 | 129 => Kind::Answer,
        _ => return None,
    };
    let id = short(content, 4)?;
    (flow.protocol == Protocol::Icmp).then_some(())?;
    Some((marked(flow, content)?, kind, id, id))
}

/// The number of the probe, where an ICMP echo or a datagram carries the mark.
fn marked(flow: &Flow, content: &[u8]) -> Option<u8> {
    let mark: [u8; 4] = content.get(SHORT..)?.first_chunk().copied()?;
    (mark == flow.mark.to_be_bytes()).then(|| content.get(SHORT + 4).copied())?
}

fn datagram(ends: &Ends<'_>, content: &[u8]) -> Option<Found> {
    let (from_port, to_port) = (short(content, 0)?, short(content, 2)?);
    let back = ends.back(to_port);
    match marked(ends.flow, content) {
        Some(probe) if !back => Some((probe, Kind::Probe, from_port, to_port)),
        other => back.then_some((other.unwrap_or(0), Kind::Answer, from_port, to_port)),
    }
}

fn segment(ends: &Ends<'_>, content: &[u8]) -> Option<Found> {
    let flow = ends.flow;
    const SYN: u8 = 2;
    const RST: u8 = 4;
    const ACK: u8 = 16;
    let (from_port, to_port) = (short(content, 0)?, short(content, 2)?);
    // Errors quote eight octets and more: perhaps not the flags, nor the window.
    let flags = content.get(13).copied();
    if flags.is_none_or(|flags| flags & (SYN | ACK) == SYN)
        && short(content, 14).is_none_or(|window| window == flow.window())
        && let Some(probe) = flow.probe_of(word(content, 4)?)
    {
        return Some((probe, Kind::Probe, from_port, to_port));
    }
    let kind = match flags? {
        flags if flags & ACK == 0 => return None,
        flags if flags & RST != 0 => Kind::Refusal,
        flags if flags & SYN != 0 => Kind::Answer,
        _ => return None,
    };
    let probe = flow.probe_of(word(content, 8)?.wrapping_sub(1))?;
    // Of who is behind an address, what it acknowledges says enough.
    (ends.back(to_port) || ends.of_target(from_port)).then_some((probe, kind, from_port, to_port))
}

/// An error about a probe, which it quotes.
fn error(flow: &Flow, content: &[u8]) -> Option<Found> {
    let quoted = recognise_quoted(flow, content.get(SHORT..)?)?;
    let kind = match (flow.source.is_ipv4(), *content.first()?, *content.get(1)?) {
        (true, 3, 2 | 3) | (false, 1, 4) => Kind::Refusal,
        (true, 3, 4) => Kind::TooBig(u32::from(short(content, 6)?)),
        (false, 2, _) => Kind::TooBig(word(content, 4)?),
        (true, 3, 9 | 10 | 13) | (false, 1, 1 | 5 | 6) => Kind::Prohibited,
        (true, 3, _) | (false, 1, _) => Kind::Unreachable,
        (true, 11, _) | (false, 3, _) => Kind::Expired,
        _ => Kind::OtherError,
    };
    Some((quoted.probe, kind, 0, 0))
}

fn recognise_quoted(flow: &Flow, packet: &[u8]) -> Option<Known> {
    // Errors are not sent about errors, so this ends.
    recognise(flow, None, packet).filter(|known| known.kind == Kind::Probe)
}

fn short(octets: &[u8], at: usize) -> Option<u16> {
    octets.get(at..)?.first_chunk().map(|octets| u16::from_be_bytes(*octets))
}

fn word(octets: &[u8], at: usize) -> Option<u32> {
    octets.get(at..)?.first_chunk().map(|octets| u32::from_be_bytes(*octets))
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{Icmpv4Type, icmpv4::DestUnreachableHeader};
    use proptest::prelude::*;

    const ENDS: [[&str; 2]; 2] = [["10.0.0.1", "10.0.1.1"], ["fd00::1", "fd00:1::1"]];

    fn flow(protocol: Protocol, ends: [&str; 2]) -> Flow {
        let [source, target] = ends.map(|text| text.parse().expect("an address"));
        Flow { source, target, protocol, port: 80, mark: 0xdead_beef }
    }

    fn shot(flow: &Flow, probe: u8, size: u16) -> Shot {
        Shot { probe, size, ttl: 64, target: flow.target, port: flow.port }
    }

    #[test]
    fn a_probe_has_the_size_that_it_should_and_is_known_again() {
        for protocol in [Protocol::Icmp, Protocol::Udp, Protocol::Tcp] {
            for ends in ENDS {
                let flow = flow(protocol, ends);
                let packet = build(&flow, &shot(&flow, 3, 1500)).expect("it fits");
                assert_eq!(packet.len(), 1500);
                let known = recognise(&flow, None, &packet).expect("known");
                assert_eq!((known.probe, known.kind, known.size), (3, Kind::Probe, 1500));
                assert_eq!((known.from, known.to, known.ttl), (flow.source, flow.target, 64));
                // What a trace of rules or an error quotes of it.
                let header = if flow.source.is_ipv4() { 20 } else { 40 };
                assert_eq!(recognise(&flow, None, &packet[..header + 20]).map(|known| known.probe), Some(3));
                let other = Flow { mark: 0x1234_5678, ..flow };
                assert_eq!(recognise(&other, None, &packet), None);
            }
        }
    }

    #[test]
    fn a_probe_is_known_in_the_error_that_quotes_it() {
        let flow = flow(Protocol::Tcp, ENDS[0]);
        let packet = build(&flow, &shot(&flow, 5, 1500)).expect("it fits");
        let error = |kind| {
            let mut error = Vec::new();
            let builder = PacketBuilder::ipv4([192, 0, 2, 1], [10, 0, 0, 1], 60).icmpv4(kind);
            builder.write(&mut error, &packet[..28]).expect("written");
            recognise(&flow, None, &error).map(|known| (known.probe, known.kind))
        };
        let needed = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 };
        assert_eq!(error(Icmpv4Type::DestinationUnreachable(needed)), Some((5, Kind::TooBig(1400))));
        let network = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Network);
        assert_eq!(error(network), Some((5, Kind::Unreachable)));
        let port = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port);
        assert_eq!(error(port), Some((5, Kind::Refusal)));
    }

    #[test]
    fn what_answers_a_syn_tells_which_whether_it_takes_its_octets_or_not() {
        let flow = flow(Protocol::Tcp, ENDS[0]);
        for (reset, octets, kind) in [(false, 1, Kind::Answer), (true, 1461, Kind::Refusal)] {
            let mut tcp = TcpHeader::new(80, flow.source_port(), 9, 100);
            tcp.acknowledgment_number = flow.sequence(7).wrapping_add(octets);
            (tcp.ack, tcp.syn, tcp.rst) = (true, !reset, reset);
            let mut packet = Vec::new();
            let builder = PacketBuilder::ipv4([10, 0, 1, 1], [10, 0, 0, 1], 60).tcp_header(tcp);
            builder.write(&mut packet, &[]).expect("written");
            assert_eq!(
                recognise(&flow, None, &packet).map(|known| (known.probe, known.kind)),
                Some((7, kind))
            );
        }
    }

    #[test]
    fn an_answer_to_the_address_behind_which_the_pod_is_hidden_is_known_before_it_is_translated() {
        let node: IpAddr = [192, 0, 2, 2].into();
        let answer = |transport: &dyn Fn(etherparse::PacketBuilderStep<IpHeaders>) -> Vec<u8>| {
            transport(PacketBuilder::ipv4([10, 0, 1, 1], [192, 0, 2, 2], 60))
        };
        let flow = flow(Protocol::Udp, ENDS[0]);
        let datagram = answer(&|builder| {
            let mut packet = Vec::new();
            builder.udp(80, 4242).write(&mut packet, b"reply").expect("written");
            packet
        });
        let known = |flow, hidden, packet: &[u8]| recognise(flow, hidden, packet).map(|known| known.kind);
        assert_eq!(known(&flow, None, &datagram), None);
        assert_eq!(known(&flow, Some((node, 4243)), &datagram), None);
        assert_eq!(known(&flow, Some((node, 4242)), &datagram), Some(Kind::Answer));
        let flow = Flow { protocol: Protocol::Tcp, ..flow };
        let segment = |port| {
            answer(&|builder| {
                let mut tcp = TcpHeader::new(port, 4242, 9, 100);
                tcp.acknowledgment_number = flow.sequence(0).wrapping_add(1);
                (tcp.ack, tcp.syn) = (true, true);
                let mut packet = Vec::new();
                builder.tcp_header(tcp).write(&mut packet, &[]).expect("written");
                packet
            })
        };
        assert_eq!(known(&flow, None, &segment(80)), Some(Kind::Answer));
        assert_eq!(known(&flow, None, &segment(81)), None);
    }

    proptest! {
        #[test]
        fn no_octets_make_it_panic(octets in proptest::collection::vec(any::<u8>(), 0..120), first in 0_u8..=255) {
            let mut packet = octets;
            packet.insert(0, first);
            for protocol in [Protocol::Icmp, Protocol::Udp, Protocol::Tcp] {
                let _known = recognise(&flow(protocol, ENDS[0]), None, &packet);
            }
        }
    }
}
