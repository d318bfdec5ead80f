//! CHECK: is everything still as ADD made it?
//!
//! Three witnesses are compared: the result of ADD that the runtime kept, the agent's record, and the kernel on both
//! sides of the link. All differences are gathered before the answer, so that an operator sees the whole of it. What
//! goes with a link that is down (its routes, its neighbours) is not told beside it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use manx_cni::rpc::Assignment;
use manx_cni::spec::{Code, Error, Interface, NetConf, Success, Target};
use manx_kernel::aside::{self, Aside, Rule};
use manx_kernel::model::PROTOCOL;
use manx_kernel::names::{DOOMED_GROUP, GATEWAY_V4, HOST_LINK_LOCAL, HOST_MAC, LINK_GROUP, Mac, alias};
use manx_kernel::netlink::inspect::{self, End, FoundRoute};
use manx_kernel::netlink::links;
use manx_kernel::netlink::socket::{Socket, SocketError};
use manx_kernel::pod::{PodLink, gateway, whole};
use manx_kernel::sysctl;

use crate::add::{Sockets, assigned_mac, kernel, link_name};
use crate::agent;

/// Fails with all the differences if there are any.
pub(crate) fn check(target: &Target, config: &NetConf) -> Result<(), Error> {
    let mut sockets = Sockets::open(target)?;
    let assignment = agent::check(&config.run_dir, &target.attachment())?;
    let mut differences = Differences::default();
    let Some(assignment) = assignment else {
        differences.add("the agent has no record of this container: the pod must be started anew");
        return differences.verdict(target);
    };
    let previous = config.previous.clone().unwrap_or_default();
    let unread = |error: SocketError| kernel("the pod's link cannot be read from the kernel", &error);
    let taken_over = assignment.taken_over;
    // It keeps the MTU that the other network gave it, which is on record.
    let (mac, mtu) = if taken_over {
        (differences.against_foreign_result(target, &previous, &assignment), assignment.mtu)
    } else {
        let mac = differences.against_result(target, &previous, &assignment);
        (mac, config.mtu.unwrap_or(assignment.mtu))
    };
    let link = PodLink {
        container: target.container.clone(),
        ifname: target.ifname.clone(),
        link: link_name(target),
        mtu,
        addresses: assignment.addresses,
        mac,
    };
    let compared = differences
        .inside(&mut sockets.pod, &link, taken_over)
        .and_then(|pod| differences.outside(&mut sockets.host, &link, pod));
    compared.map_err(unread)?;
    differences.verdict(target)
}

/// What is not as it should be, in words.
#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    fn add(&mut self, difference: impl Into<String>) {
        self.0.push(difference.into());
    }

    fn unless(&mut self, holds: bool, difference: impl FnOnce() -> String) {
        if !holds {
            self.0.push(difference());
        }
    }

    fn verdict(self, target: &Target) -> Result<(), Error> {
        if self.0.is_empty() {
            return Ok(());
        }
        let msg = format!("{} of container {} is not as ADD made it", target.ifname, target.container);
        Err(Error::new(Code::CHECK_FAILED, msg).details(self.0.join("; ")))
    }

    /// Compares the result of ADD with the agent's record; returns the hardware address that the pod's end has.
    fn against_result(&mut self, target: &Target, previous: &Success, recorded: &Assignment) -> Mac {
        let host = link_name(target);
        let known = previous.interfaces.iter().any(|link| link.name == host && !link.is_inside());
        self.unless(known, || format!("prevResult has no link {host} of the node"));
        let decided = assigned_mac(recorded);
        let of_pod = || Mac::of_pod(&target.container, &target.ifname);
        let Some(index) = own_interface(target, previous) else {
            self.add(format!("prevResult has no interface {}", target.ifname));
            return decided.unwrap_or_else(of_pod);
        };
        let told: BTreeSet<IpNetwork> =
            previous.ips.iter().filter(|ip| ip.interface == Some(index)).map(|ip| ip.address).collect();
        let recorded: BTreeSet<IpNetwork> = recorded.addresses.iter().copied().map(whole).collect();
        self.unless(told == recorded, || {
            format!("prevResult has the addresses {}, the agent's record {}", list(&told), list(&recorded))
        });
        let told = previous.interfaces[index].mac.as_deref().and_then(|mac| mac.parse().ok());
        let mac = decided.or(told).unwrap_or_else(of_pod);
        self.unless(told.is_none_or(|told| told == mac), || {
            format!("prevResult has another hardware address of {} than {mac}", target.ifname)
        });
        mac
    }

    /// The same where another network's plugin did the ADD: its result may name no interface of the pod, or be lost.
    fn against_foreign_result(&mut self, target: &Target, previous: &Success, recorded: &Assignment) -> Mac {
        let told: BTreeSet<IpNetwork> = previous.ips.iter().map(|ip| whole(ip.address.ip())).collect();
        let recorded_ips: BTreeSet<IpNetwork> = recorded.addresses.iter().copied().map(whole).collect();
        self.unless(told.is_empty() || told == recorded_ips, || {
            format!(
                "prevResult has the addresses {}, the agent's record {}",
                list(&told),
                list(&recorded_ips)
            )
        });
        assigned_mac(recorded).unwrap_or_else(|| Mac::of_pod(&target.container, &target.ifname))
    }

    /// Compares the pod's end with what it should be; returns its index. In one that was taken over the gateway is no
    /// permanent neighbour: it is asked for.
    fn inside(
        &mut self,
        pod: &mut Socket,
        link: &PodLink,
        taken_over: bool,
    ) -> Result<Option<u32>, SocketError> {
        let Some(end) = inspect::end(pod, &link.ifname)? else {
            self.add(format!("the pod has no interface {}", link.ifname));
            return Ok(None);
        };
        self.end(&link.ifname, &end, link.mac, link.mtu);
        if !end.up {
            return Ok(Some(end.index));
        }
        let addresses = inspect::addresses(pod, end.index)?;
        for &address in &link.addresses {
            self.unless(addresses.contains(&whole(address)), || format!("the pod has lost {address}"));
        }
        if !taken_over {
            self.neighbours(pod, &end, link.addresses.iter().map(|address| gateway(*address)), HOST_MAC)?;
        }
        self.ways_out(pod, link, end.index)?;
        Ok(Some(end.index))
    }

    /// The pod's routes. A second interface may have been the first one to come, and then has them as `eth0` has.
    fn ways_out(&mut self, pod: &mut Socket, link: &PodLink, index: u32) -> Result<(), SocketError> {
        let routes = inspect::routes(pod, Some(index))?;
        let lost = |dst: &IpNetwork| {
            let on_link = *dst == whole(GATEWAY_V4.into());
            let right = |route: &FoundRoute| {
                route.dst == *dst && (on_link || route.gateway == Some(gateway(dst.ip())))
            };
            !routes.iter().any(right)
        };
        let lost: Vec<IpNetwork> =
            link.destinations_inside(Aside::default()).into_iter().filter(lost).collect();
        if lost.is_empty() {
            return Ok(());
        }
        let aside = links::aside(pod, link, index)?;
        for dst in lost.iter().filter(|dst| !aside.has(dst.ip())) {
            self.add(format!("the pod has lost its route to {dst}"));
        }
        for &address in &link.addresses {
            if aside.has(address) && lost.iter().any(|dst| dst.is_ipv4() == address.is_ipv4()) {
                self.way_aside(pod, index, address)?;
            }
        }
        Ok(())
    }

    /// The rule and the route for what a second interface sends.
    fn way_aside(&mut self, pod: &mut Socket, index: u32, address: IpAddr) -> Result<(), SocketError> {
        let table = aside::table(index);
        let rules = inspect::rules(pod)?;
        self.unless(rules.contains(&Rule { from: whole(address), table }), || {
            format!("the pod has lost its rule for what it sends from {address}")
        });
        let routes = inspect::routes_in(pod, table, Some(index))?;
        let right = |route: &FoundRoute| route.dst.prefix() == 0 && route.gateway == Some(gateway(address));
        self.unless(routes.iter().any(right), || {
            format!("the pod has lost the route for what it sends from {address} (table {table})")
        });
        Ok(())
    }

    /// Compares the host's end with what it should be.
    fn outside(&mut self, host: &mut Socket, link: &PodLink, pod: Option<u32>) -> Result<(), SocketError> {
        let Some(end) = inspect::end(host, &link.link)? else {
            self.add(format!("the node has no link {}", link.link));
            return Ok(());
        };
        let alias = alias(&link.container, &link.ifname);
        if end.alias.as_deref() != Some(&*alias) {
            self.add(format!("{} belongs to another container", link.link));
            return Ok(());
        }
        self.unless(pod.is_none() || end.peer == pod, || format!("{} leads to another pod", link.link));
        self.group(&end);
        self.end(&link.link, &end, HOST_MAC, link.mtu);
        if end.up {
            self.neighbours(host, &end, link.addresses.iter().copied(), link.mac)?;
            let routes = inspect::routes(host, Some(end.index))?;
            for &address in &link.addresses {
                let right = |route: &FoundRoute| route.dst == whole(address) && route.protocol == PROTOCOL;
                self.unless(routes.iter().any(right), || format!("the node has lost its route to {address}"));
            }
            self.own_link_local(host, link, &end)?;
        }
        self.settings(link);
        self.unless(links::is_guarded(link)?, || format!("the guard of {} is missing or changed", link.link));
        Ok(())
    }

    fn group(&mut self, end: &End) {
        match end.group {
            LINK_GROUP => {}
            DOOMED_GROUP => {
                self.add(format!("{} is about to be removed (link group {DOOMED_GROUP})", end.name))
            }
            other => self.add(format!("{} is in link group {other} in place of {LINK_GROUP}", end.name)),
        }
    }

    /// The address by which a pod with IPv6 knows its node. The kernel makes it once the link has carrier.
    fn own_link_local(&mut self, host: &mut Socket, link: &PodLink, end: &End) -> Result<(), SocketError> {
        if !end.running || !link.addresses.iter().any(IpAddr::is_ipv6) {
            return Ok(());
        }
        let addresses = inspect::addresses(host, end.index)?;
        self.unless(addresses.iter().any(|address| address.ip() == HOST_LINK_LOCAL), || {
            format!("{} has lost {HOST_LINK_LOCAL}", link.link)
        });
        Ok(())
    }

    /// What both ends have in common.
    fn end(&mut self, name: &str, end: &End, mac: Mac, mtu: u32) {
        self.unless(end.up, || format!("{name} is down"));
        self.unless(end.mac == Some(mac), || format!("{name} has another hardware address than {mac}"));
        self.unless(end.mtu == mtu, || format!("{name} has MTU {} in place of {mtu}", end.mtu));
    }

    fn neighbours(
        &mut self,
        socket: &mut Socket,
        end: &End,
        wanted: impl Iterator<Item = IpAddr>,
        mac: Mac,
    ) -> Result<(), SocketError> {
        let neighbours = inspect::neighbours(socket, end.index)?;
        for address in wanted {
            let right =
                neighbours.get(&address).is_some_and(|found| found.permanent && found.mac == Some(mac));
            self.unless(right, || format!("{} has lost its permanent neighbour {address}", end.name));
        }
        Ok(())
    }

    /// The settings of the host's end, and the one of all links that could take away from them.
    fn settings(&mut self, link: &PodLink) {
        let has_ipv6 = sysctl::has_ipv6();
        for (key, value) in link.settings() {
            if !has_ipv6 && key.starts_with("net/ipv6/") {
                continue;
            }
            match sysctl::read(&key) {
                Ok(found) => self.unless(found == value, || format!("{key} is {found} in place of {value}")),
                Err(error) => self.add(error.to_string()),
            }
        }
        // The larger of both values counts, and the loose check is the larger number.
        let all = sysctl::ipv4("all", "rp_filter");
        self.unless(sysctl::read(&all).is_ok_and(|value| matches!(&*value, "0" | "1")), || {
            format!("{all} makes the source check of every link loose")
        });
    }
}

/// The pod's end in a result: of that name and in a namespace, best of all in the one of the call. The path may be
/// another than at the time of ADD, when the runtime was restarted.
fn own_interface(target: &Target, previous: &Success) -> Option<usize> {
    let position = |ours: &dyn Fn(&Interface) -> bool| previous.interfaces.iter().position(ours);
    position(&|link| link.name == target.ifname && link.sandbox == target.netns)
        .or_else(|| position(&|link| link.name == target.ifname && link.is_inside()))
}

fn list(networks: &BTreeSet<IpNetwork>) -> String {
    let texts: Vec<String> = networks.iter().map(ToString::to_string).collect();
    if texts.is_empty() { "(none)".into() } else { texts.join(", ") }
}
