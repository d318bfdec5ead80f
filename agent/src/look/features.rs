//! What the kernel can do, by doing it: in network namespaces that nobody else has and that go with the thread.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use manx_facts::host::{Feature, Trial};
use manx_kernel::aside::make_rule;
use manx_kernel::guard::{Admission, GuardRules};
use manx_kernel::model::{Forward, Hop, NexthopTo, Op, RouteKey};
use manx_kernel::names::{Mac, host_link_name};
use manx_kernel::nat::NatRules;
use manx_kernel::netlink::Kernel;
use manx_kernel::netlink::guard::{Gate, Guard, admit};
use manx_kernel::netlink::links::{self, Ends};
use manx_kernel::netlink::nat::Nat;
use manx_kernel::netlink::request::Batch;
use manx_kernel::netlink::socket::Socket;
use manx_kernel::netns::NetNs;
use manx_kernel::pod::PodLink;
use manx_kernel::sysctl;
use nix::sched::{CloneFlags, unshare};
use nix::sys::inotify::{InitFlags, Inotify};

use crate::shell::events::chain;

/// The id of the next-hop object that is tried.
const NEXTHOP: u32 = 1;
/// Addresses for documentation (RFC 5737, RFC 3849).
const POD_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const POD_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
const ELSEWHERE_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const ELSEWHERE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1);
const MTU: u32 = 1500;

/// Tries everything. Nothing of it is left afterwards.
pub(super) fn tried() -> Vec<Trial> {
    let thread = std::thread::Builder::new().name("trials".to_owned()).spawn(all);
    let tried = thread
        .map_err(|error| error.to_string())
        .and_then(|thread| thread.join().map_err(|_| "the thread of the trials panicked".to_owned()));
    tried.unwrap_or_else(|error| vec![Trial { feature: Feature::Namespaces, error: Some(error) }])
}

/// In words, with everything beneath it.
fn words(error: impl std::error::Error) -> String {
    chain(&error)
}

fn all() -> Vec<Trial> {
    let mut trials = Trials(Vec::new());
    trials.note(Feature::Inotify, Inotify::init(InitFlags::IN_CLOEXEC).map(drop).map_err(words));
    trials.note(Feature::RawSockets, raw_socket());
    match Scratch::make() {
        Ok(scratch) => {
            trials.note(Feature::Namespaces, Ok(()));
            inside(&scratch, &mut trials);
        }
        Err(error) => trials.note(Feature::Namespaces, Err(error)),
    }
    trials.0
}

fn raw_socket() -> Result<(), String> {
    let protocol = Some(socket2::Protocol::ICMPV4);
    socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, protocol).map(drop).map_err(words)
}

struct Trials(Vec<Trial>);

impl Trials {
    fn note(&mut self, feature: Feature, outcome: Result<(), String>) {
        self.0.push(Trial { feature, error: outcome.err() });
    }
}

/// A namespace for a pod, and one that stands for the node, in which the calling thread is.
struct Scratch {
    pod: NetNs,
}

impl Scratch {
    fn make() -> Result<Self, String> {
        let enter = || unshare(CloneFlags::CLONE_NEWNET).map_err(words);
        enter()?;
        let pod = NetNs::current().map_err(words)?;
        enter()?;
        Ok(Self { pod })
    }

    fn link(v6: bool) -> PodLink {
        let mut addresses: Vec<IpAddr> = vec![POD_V4.into()];
        addresses.extend(v6.then_some(IpAddr::V6(POD_V6)));
        PodLink {
            container: "trial".to_owned(),
            ifname: "eth0".to_owned(),
            link: host_link_name(None, "trial", "eth0"),
            addresses,
            mtu: MTU,
            mac: Mac::of_pod("trial", "eth0"),
        }
    }

    fn create(&self, link: &PodLink) -> Result<Ends, String> {
        let mut host = Socket::route().map_err(words)?;
        let ends = links::create(&mut host, link, &self.pod).map_err(words)?;
        ends.ok_or_else(|| "a name is taken in a new namespace".to_owned())
    }

    /// As the plugin does it.
    fn set_up(&self, link: &PodLink, ends: Ends) -> Result<(), String> {
        let mut pod = self.pod.within(Socket::route).map_err(words)?.map_err(words)?;
        links::set_up_inside(&mut pod, &self.pod, link, ends.pod).map_err(words)?;
        let mut host = Socket::route().map_err(words)?;
        links::set_up_outside(&mut host, link, ends.host).map_err(words)?;
        links::await_carrier(&mut pod, link).map_err(words)
    }
}

fn inside(scratch: &Scratch, trials: &mut Trials) {
    let v6 = sysctl::has_ipv6();
    let none = || "this kernel has no IPv6 (ipv6.disable=1?)".to_owned();
    trials.note(Feature::Ipv6, if v6 { Ok(()) } else { Err(none()) });
    let link = Scratch::link(v6);
    let ends = scratch.create(&link);
    trials.note(Feature::Veth, ends.as_ref().map(drop).map_err(Clone::clone));
    if let Ok(ends) = ends {
        trials.note(Feature::Netdev, netdev(&link));
        let whole = scratch.set_up(&link, ends);
        let stands = whole.is_ok();
        trials.note(Feature::PodLink, whole);
        if stands {
            trials.note(Feature::NextHops, nexthop(ends.host));
            if v6 {
                trials.note(Feature::Ipv4OverIpv6, over_ipv6(ends.host, link.mac.link_local()));
            }
        }
    }
    trials.note(Feature::Rules, send(make_rule(POD_V4.into(), 100)));
    trials.note(Feature::Inet, inet());
    trials.note(Feature::NatV4, nat(POD_V4.into()));
    if v6 {
        trials.note(Feature::NatV6, nat(POD_V6.into()));
    }
    trials.note(Feature::Conntrack, conntrack());
}

fn send(mut request: Batch) -> Result<(), String> {
    let mut socket = Socket::route().map_err(words)?;
    socket.send(&mut request).map_err(words)?.all_done().map(drop).map_err(words)
}

fn netdev(link: &PodLink) -> Result<(), String> {
    let mut netfilter = Socket::netfilter().map_err(words)?;
    match admit(&mut netfilter, &Admission::of(link)).map_err(words)? {
        Gate::Shut => Ok(()),
        Gate::Unsupported => Err("the kernel does not know the family netdev".to_owned()),
    }
}

fn operate(op: Op) -> Result<(), String> {
    let mut kernel = Kernel::open().map_err(words)?;
    let results = kernel.apply(&[op]).map_err(words)?;
    results.into_iter().try_for_each(|result| result.map_err(words))
}

fn nexthop(link: u32) -> Result<(), String> {
    let to = NexthopTo::Hop(Hop { gateway: POD_V4.into(), link });
    operate(Op::PutNexthop { id: NEXTHOP, to, replace: false })
}

fn over_ipv6(link: u32, gateway: Ipv6Addr) -> Result<(), String> {
    let forward = Forward::Paths(BTreeSet::from([Hop { gateway: gateway.into(), link }]));
    let key = RouteKey::main(IpNetwork::from(IpAddr::V4(ELSEWHERE_V4)), 0);
    operate(Op::PutRoute { key, forward, source: None, replace: false })
}

fn inet() -> Result<(), String> {
    let rules = GuardRules {
        ports: BTreeSet::from([179]),
        router_ports: BTreeSet::from([179]),
        routers: BTreeSet::from([ELSEWHERE_V4.into(), ELSEWHERE_V6.into()]),
    };
    Guard::open().and_then(|mut guard| guard.replace(&rules)).map_err(words)
}

fn nat(pool: IpAddr) -> Result<(), String> {
    let pools = BTreeSet::from([IpNetwork::from(pool)]);
    let rules = NatRules { masquerade: pools.clone(), all_pools: pools };
    Nat::open().and_then(|mut nat| nat.replace(&rules)).map_err(words)
}

/// After the rules that translate: tracking begins with them.
fn conntrack() -> Result<(), String> {
    sysctl::read("net/netfilter/nf_conntrack_count").map(drop).map_err(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_is_tried_and_nothing_of_it_is_left() {
        if !nix::unistd::geteuid().is_root() {
            println!("ignored: namespaces need root");
            assert!(std::env::var_os("CI").is_none());
            return;
        }
        let before = NetNs::current().expect("a namespace");
        let trials = tried();
        assert!(before.same_as(&NetNs::current().expect("a namespace")));
        let failed: Vec<_> = trials.iter().filter(|trial| trial.error.is_some()).collect();
        assert!(failed.is_empty(), "{failed:#?}");
        assert_eq!(trials.len(), 14, "{trials:#?}");
    }
}
