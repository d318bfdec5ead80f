//! Notifications of a real kernel, and the route machine that lives on them.

#![cfg(feature = "async")]

mod namespace;

use std::future::Future;
use std::time::Duration;

use futures_util::FutureExt;
use manx_kernel::fib::{Config, Fib, Input};
use manx_kernel::model::{Event, Forward, Op, Route};
use manx_kernel::netlink::monitor::Monitor;
use manx_kernel::netlink::{Kernel, inventory};
use namespace::{ip, key, two_uplinks, via, way};

/// Runs `test` on a runtime in a new network namespace; five seconds without an end are a failure.
fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    namespace::run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(20), test())
                .await
                .expect("what was awaited did not come");
        });
    });
}

async fn wait_for(monitor: &mut Monitor, mut what: impl FnMut(&Event) -> bool) -> Event {
    loop {
        let event = monitor.next().await.expect("an event");
        if what(&event) {
            return event;
        }
    }
}

/// Lets the machine work on the real clock until it is in sync and `done` says so.
async fn live(fib: &mut Fib, kernel: &mut Kernel, monitor: &mut Monitor, done: impl Fn(&Fib) -> bool) {
    loop {
        while let Some(output) = fib.poll() {
            if let Some((input, error)) = kernel.answer(&output) {
                assert_eq!(error, None);
                fib.handle(input, namespace::now());
            }
        }
        if let Some(event) = monitor.next().now_or_never() {
            fib.handle(Input::Observed(event.expect("an event")), namespace::now());
            continue;
        }
        if done(fib) {
            return;
        }
        let deadline = fib.deadline().expect("a next dump");
        tokio::select! {
            event = monitor.next() => fib.handle(Input::Observed(event.expect("an event")), namespace::now()),
            () = tokio::time::sleep_until(deadline.into()) => fib.handle(Input::Timeout, namespace::now()),
        }
    }
}

#[test]
fn links_addresses_routes_and_objects_are_told() {
    run(|| async {
        let mut monitor = Monitor::open(None).unwrap();
        two_uplinks();
        wait_for(
            &mut monitor,
            |event| matches!(event, Event::Link(link) if link.name == "up1" && link.up && link.carrier),
        )
        .await;
        ip("addr add 192.0.2.77/32 dev up2");
        wait_for(&mut monitor, |event| {
            matches!(event, Event::Address(address) if address.address == "192.0.2.77/32".parse().unwrap())
        })
        .await;
        ip("addr del 192.0.2.77/32 dev up2");
        wait_for(&mut monitor, |event| matches!(event, Event::AddressGone(_))).await;
        ip("nexthop add id 9 via 192.0.2.9 dev up2");
        wait_for(&mut monitor, |event| matches!(event, Event::Nexthop(nexthop) if nexthop.id == 9)).await;
        ip("route add 10.9.0.0/16 nhid 9");
        let leads_to_9 = |event: &Event| matches!(event, Event::Route { route, replaced: false } if route.forward == Forward::Nexthop(9));
        wait_for(&mut monitor, leads_to_9).await;
        ip("route replace 10.9.0.0/16 via 192.0.1.9");
        wait_for(&mut monitor, |event| matches!(event, Event::Route { replaced: true, .. })).await;
        ip("route del 10.9.0.0/16");
        wait_for(&mut monitor, |event| matches!(event, Event::RouteGone(_))).await;
        ip("nexthop del id 9");
        wait_for(&mut monitor, |event| matches!(event, Event::NexthopGone(9))).await;
        ip("link del up2");
        wait_for(&mut monitor, |event| matches!(event, Event::LinkGone(_))).await;
    });
}

#[test]
fn ones_own_changes_are_not_told() {
    run(|| async {
        two_uplinks();
        let mut kernel = Kernel::open().unwrap();
        let mut monitor = Monitor::open(Some(kernel.port().unwrap())).unwrap();
        let op = Op::PutRoute {
            key: key("10.8.0.0/16"),
            forward: Forward::Blackhole,
            source: None,
            replace: false,
        };
        assert_eq!(kernel.apply(&[op]).unwrap(), [Ok(())]);
        ip("route add blackhole 10.9.0.0/16");
        let event = wait_for(
            &mut monitor,
            |event| matches!(event, Event::Route { route, .. } if route.key.dst.is_ipv4()),
        )
        .await;
        assert!(matches!(event, Event::Route { route, .. } if route.key == key("10.9.0.0/16")));
    });
}

#[test]
fn an_overrun_is_told() {
    run(|| async {
        two_uplinks();
        let mut monitor = Monitor::open(None).unwrap();
        let mut kernel = Kernel::open().unwrap();
        let key_of = |number: u32| key(&format!("{}/32", std::net::Ipv4Addr::from(0x1400_0000 + number)));
        let put = |number| Op::PutRoute {
            key: key_of(number),
            forward: Forward::Blackhole,
            source: None,
            replace: false,
        };
        let puts = (0..60_000).map(put);
        let deletes = (0..60_000).map(|number| Op::DeleteRoute { key: key_of(number) });
        let ops: Vec<Op> = puts.chain(deletes).collect();
        assert!(kernel.apply(&ops).unwrap().iter().all(Result::is_ok));
        wait_for(&mut monitor, |event| *event == Event::Overrun).await;
        // Afterwards it hears again.
        ip("route add blackhole 10.9.0.0/16");
        wait_for(
            &mut monitor,
            |event| matches!(event, Event::Route { route, .. } if route.key == key("10.9.0.0/16")),
        )
        .await;
    });
}

#[test]
fn the_machine_repairs_what_others_break() {
    run(|| async {
        two_uplinks();
        let mut kernel = Kernel::open().unwrap();
        let mut monitor = Monitor::open(Some(kernel.port().unwrap())).unwrap();
        let mut fib = Fib::new(Config::default(), namespace::now());
        let routes = [
            (key("10.244.1.0/26"), via(&["192.0.1.2"])),
            (key("10.244.2.0/26"), via(&["192.0.1.2", "192.0.2.2"])),
            (key("10.244.4.7/32"), Route::link("up2")),
            (key("fd00:10:244:1::/122"), via(&["2001:db8:1::2"])),
        ];
        fib.handle(Input::SetRoutes(routes.clone().into()), namespace::now());
        live(&mut fib, &mut kernel, &mut monitor, Fib::in_sync).await;
        let breakages = [
            "route del 10.244.1.0/26",
            "route replace blackhole 10.244.1.0/26 proto 179",
            "-6 route del fd00:10:244:1::/122",
            "nexthop flush proto 179",
            "link set up1-peer down",
            "link set up2 down",
        ];
        for breakage in breakages {
            let before = fib.stats().applied_total;
            ip(breakage);
            let noticed = |fib: &Fib| fib.stats().applied_total > before || !fib.in_sync();
            live(&mut fib, &mut kernel, &mut monitor, noticed).await;
            for up in
                ["link set up1-peer up", "link set up2 up", "addr replace 2001:db8:2::1/64 dev up2 nodad"]
            {
                ip(up);
            }
            live(&mut fib, &mut kernel, &mut monitor, Fib::in_sync).await;
            assert!(way("10.244.1.1").contains("via 192.0.1.2 dev up1"), "{breakage}");
            assert!(way("10.244.4.7").contains("dev up2"), "{breakage}");
            assert!(way("fd00:10:244:1::1").contains("via 2001:db8:1::2 dev up1"), "{breakage}");
            assert_eq!(kernel.routes().unwrap().len(), routes.len(), "{breakage}");
        }
    });
}

#[test]
fn a_route_that_a_foreign_one_pushed_aside_comes_back_when_that_goes() {
    run(|| async {
        two_uplinks();
        let mut kernel = Kernel::open().unwrap();
        let mut monitor = Monitor::open(Some(kernel.port().unwrap())).unwrap();
        let mut fib = Fib::new(Config::default(), namespace::now());
        fib.handle(Input::Desire(vec![(key("10.244.1.0/26"), Some(via(&["192.0.1.2"])))]), namespace::now());
        live(&mut fib, &mut kernel, &mut monitor, Fib::in_sync).await;
        ip("route replace 10.244.1.0/26 via 192.0.2.9 proto 16");
        live(&mut fib, &mut kernel, &mut monitor, |fib| fib.blocked().count() == 1).await;
        assert!(way("10.244.1.1").contains("via 192.0.2.9"));
        ip("route del 10.244.1.0/26");
        live(&mut fib, &mut kernel, &mut monitor, Fib::in_sync).await;
        assert!(way("10.244.1.1").contains("via 192.0.1.2"));
    });
}

#[test]
fn a_next_hop_follows_the_route_below_it() {
    run(|| async {
        two_uplinks();
        ip("route add 198.51.100.0/24 via 192.0.1.254");
        let mut kernel = Kernel::open().unwrap();
        let mut monitor = Monitor::open(Some(kernel.port().unwrap())).unwrap();
        let mut fib = Fib::new(Config::default(), namespace::now());
        fib.handle(
            Input::Desire(vec![(key("10.244.1.0/26"), Some(via(&["198.51.100.7"])))]),
            namespace::now(),
        );
        live(&mut fib, &mut kernel, &mut monitor, Fib::in_sync).await;
        assert!(way("10.244.1.1").contains("via 192.0.1.254 dev up1"));
        ip("route replace 198.51.100.0/24 via 192.0.2.254");
        live(&mut fib, &mut kernel, &mut monitor, |fib| fib.stats().applied_total == 3).await;
        assert!(way("10.244.1.1").contains("via 192.0.2.254 dev up2"));
    });
}

#[test]
fn the_inventory_names_links_and_their_addresses() {
    run(|| async {
        two_uplinks();
        let interfaces = inventory::read().await.unwrap();
        let up1 = interfaces.iter().find(|interface| interface.name == "up1").unwrap();
        assert_eq!((up1.kind.as_str(), up1.mtu, up1.running), ("veth", 1500, true));
        for address in ["192.0.1.1/24", "2001:db8:1::1/64"] {
            assert!(up1.addresses.contains(&address.parse().unwrap()), "{:?}", up1.addresses);
        }
        let lo = interfaces.iter().find(|interface| interface.name == "lo").unwrap();
        assert_eq!(lo.kind, "");
    });
}
