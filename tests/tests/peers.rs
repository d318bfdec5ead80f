//! The daemons of `peers`, each against BIRD 2: what they are told they do, and what they show is read rightly.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use manx_tests::lab::{netns, wait};
use manx_tests::peers::{Daemon, Neighbor, Originated, Peer, Remote, Setup};

const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    if !nix::unistd::geteuid().is_root() {
        println!("ignored: network namespaces need root");
        return if std::env::var_os("CI").is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    let trials = Daemon::ALL.map(|daemon| {
        let name = format!("{}_exchanges_routes_with_bird_2_and_shows_them", daemon.slug());
        Trial::test(name, move || pair(daemon).map_err(|error| Failed::from(format!("{error:#}"))))
    });
    libtest_mimic::run(&arguments, trials.into()).exit_code()
}

/// Two namespaces and the wire between them, which end with this value.
struct Wire([String; 2]);

impl Wire {
    fn new(name: &str) -> Result<Self> {
        let ends = ["a", "b"].map(|end| format!("mxp{}-{name}-{end}", std::process::id()));
        let wire = Self(ends);
        for end in &wire.0 {
            netns::delete(end)?;
            netns::add(end)?;
        }
        let addresses = |host: u8| [format!("10.97.0.{host}/24"), format!("2001:db8:97::{host}/64")];
        netns::wire(
            &netns::End { netns: &wire.0[0], link: "eth0", addresses: &addresses(1) },
            &netns::End { netns: &wire.0[1], link: "eth0", addresses: &addresses(2) },
        )?;
        Ok(wire)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for end in &self.0 {
            if let Err(error) = netns::delete(end) {
                eprintln!("{error:#}");
            }
        }
    }
}

/// A speaker at one end, with a route of each family.
fn setup(host: u8, families: [bool; 2]) -> Result<Setup> {
    let asn = |host: u8| 65000 + u32::from(host);
    let other = 3 - host;
    let mut setup = Setup::new(asn(host), Ipv4Addr::new(10, 97, 0, host));
    let mut neighbor = Neighbor::new("other", IpAddr::V4(Ipv4Addr::new(10, 97, 0, other)), asn(other));
    neighbor.local = Some(IpAddr::V4(Ipv4Addr::new(10, 97, 0, host)));
    [neighbor.ipv4, neighbor.ipv6] = families;
    setup.neighbors.push(neighbor);
    for prefix in [format!("203.0.113.{}/28", host * 16), format!("2001:db8:{host}::/48")] {
        let mut route = Originated::new(prefix.parse()?);
        route.next_hop = route.prefix.is_ipv6().then_some(IpAddr::V6(Ipv6Addr::new(
            0x2001,
            0xdb8,
            0x97,
            0,
            0,
            0,
            0,
            host.into(),
        )));
        route.communities = vec![(65001, 7), (65001, 8)];
        route.large_communities = vec![(1, 2, 3)];
        route.route_targets = vec![(65001, 9)];
        route.med = Some(5);
        setup.routes.push(route);
    }
    Ok(setup)
}

fn pair(daemon: Daemon) -> Result<()> {
    println!("{} {}", daemon.name(), daemon.version()?);
    let wire = Wire::new(daemon.slug())?;
    let folder = tempfile::tempdir()?;
    // FRR gives up its rights and must still enter.
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let families = if daemon == Daemon::Bird1 { [true, false] } else { [true, true] };
    let bird = Peer::start(Daemon::Bird2, &wire.0[0], &folder.path().join("bird"), &setup(1, families)?)?;
    let mut peer = Peer::start(daemon, &wire.0[1], &folder.path().join("peer"), &setup(2, families)?)?;
    wait::until("both call the session established", PATIENCE, || {
        Ok(bird.session("other")?.established && peer.session("other")?.established)
    })
    .with_context(|| format!("{:#?} {:#?}", bird.session("other"), peer.session("other")))?;
    let count = families.iter().filter(|family| **family).count();
    // OpenBGPD names ::1 as the next hop of IPv6 routes on an IPv4 session, which BIRD rightly refuses.
    let told = if daemon == Daemon::OpenBgpd { 1 } else { count };
    for (speaker, other, count) in [(&bird, 65002, told), (&peer, 65001, count)] {
        let name = speaker.daemon().name();
        wait::until(&format!("{name} has the routes"), PATIENCE, || {
            Ok(speaker.heard("other")?.len() == count)
        })
        .with_context(|| format!("{:#?} {:#?}", speaker.heard("other"), speaker.session("other")))?;
        for route in speaker.heard("other")? {
            let told = route.communities.contains("65001:7")
                && route.large_communities.contains("1:2:3")
                && route.route_targets.contains("65001:9")
                && route.as_path == [other]
                && !route.next_hops.is_empty();
            ensure!(told, "{name} shows {route:#?}");
        }
        if speaker.daemon().has_kernel_routes() {
            wait::until(&format!("{name} has put them into the kernel"), PATIENCE, || {
                Ok(speaker.kernel_routes()?.len() == count)
            })
            .with_context(|| format!("{:?}", speaker.kernel_routes()))?;
        }
    }
    ensure!(peer.session("other")?.updates > 0, "no UPDATE was counted: {:?}", peer.session("other"));
    peer.shut("other", "moving racks")?;
    // ExaBGP comes back within the second, so that only BIRD's log tells for sure.
    wait::until("BIRD has lost its session", PATIENCE, || {
        Ok(bird.session("other")?.says("received: administrative"))
    })?;
    if !matches!(daemon, Daemon::Bird1 | Daemon::ExaBgp) {
        let session = bird.session("other")?;
        ensure!(session.says("moving racks"), "BIRD was told why: {}", session.words);
    }
    peer.stop()?;
    ensure!(peer.pids().is_empty(), "{daemon:?} still runs");
    peer.launch()?;
    let Remote::Address(_) = peer.setup().neighbors[0].remote else { anyhow::bail!("an address") };
    wait::until("the session is back", PATIENCE, || Ok(bird.session("other")?.established))
}
