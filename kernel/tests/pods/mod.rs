//! Pods in namespaces of their own, with links made as the plugin makes them. A binary that has this module has
//! `namespace` too.

use std::time::Duration;

use manx_kernel::names::Mac;
use manx_kernel::netlink::links;
use manx_kernel::netlink::socket::Socket;
use manx_kernel::netns::NetNs;
use manx_kernel::pod::PodLink;

use crate::namespace::{Elsewhere, ip, now};

/// A pod on this node, with its link made as the plugin makes it.
pub(crate) struct Pod {
    pub(crate) home: Elsewhere,
    pub(crate) link: PodLink,
}

impl Pod {
    pub(crate) fn new(link: &str, mac: Mac, addresses: &[&str]) -> Self {
        let home = Elsewhere::new();
        let netns = NetNs::open(home.path.as_ref()).expect("a namespace");
        let link = PodLink {
            container: format!("container-of-{link}"),
            ifname: "eth0".into(),
            link: link.into(),
            addresses: addresses.iter().map(|text| text.parse().expect("an address")).collect(),
            mtu: 1500,
            mac,
        };
        let mut host = Socket::route().expect("a socket");
        let mut inside = netns.within(Socket::route).expect("entered").expect("a socket");
        let ends = links::create(&mut host, &link, &netns).expect("made").expect("the names are free");
        links::set_up_inside(&mut inside, &netns, &link, ends.pod).expect("set up");
        links::set_up_outside(&mut host, &link, ends.host).expect("set up");
        links::await_carrier(&mut inside, &link).expect("carrier");
        // The kernel gives the host's end its address in its own time.
        let own = format!("-6 route show table local dev {} fe80::ecee:eeff:feee:eeee", link.link);
        let begin = now();
        while ip(&own).is_empty() {
            assert!(begin.elapsed() < Duration::from_secs(10), "the gateway has no address on {}", link.link);
        }
        Self { home, link }
    }
}
