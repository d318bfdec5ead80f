//! What this machine is and has, for who wants to know whether Manx can live here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipnetwork::IpNetwork;
use manx_facts::host::{ApiReached, Configurer, HostFacts, HostLink, HostQuestion};
use manx_kernel::netlink::inspect::{self, End};
use manx_kernel::netlink::socket::Socket;
use manx_kernel::sysctl;
use tokio::time::Instant;

use super::guards::{is_link_local, is_pods};
use super::{certificates, cnifiles, features, forwarding, guards, listeners, page, probe, reach, room};
use crate::shell::events::chain;
use crate::shell::options::Look;

/// How long the API server may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Where kube-proxy tells how it is set.
const KUBE_PROXY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);
/// Where pods with the machine's network have its settings, since their own place is read-only.
const SETTINGS: &str = "/host/proc/sys/net";
/// Settings that somebody may ask for.
const SHOWN: [&str; 17] = [
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
    "net/ipv6/conf/all/disable_ipv6",
    "net/ipv6/conf/default/disable_ipv6",
    "net/ipv4/conf/all/rp_filter",
    "net/ipv4/conf/default/rp_filter",
    "net/ipv4/conf/all/arp_ignore",
    "net/ipv4/nexthop_compat_mode",
    "net/ipv4/fib_multipath_hash_policy",
    "net/ipv6/fib_multipath_hash_policy",
    "net/bridge/bridge-nf-call-iptables",
    "net/netfilter/nf_conntrack_max",
    "net/ipv4/neigh/default/gc_thresh3",
    "net/ipv6/neigh/default/gc_thresh3",
    "net/ipv6/route/max_size",
    "fs/inotify/max_user_instances",
    "fs/inotify/max_user_watches",
];

/// Answers. What cannot be found out is said in the answer, and nothing else goes missing for it.
pub(super) async fn host(question: &HostQuestion, place: &Look) -> HostFacts {
    if Path::new(SETTINGS).is_dir() {
        sysctl::reach_by(Path::new(SETTINGS));
    }
    let root = question.root.clone().unwrap_or_default();
    let mut facts = HostFacts {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        trials: if question.trials { features::tried() } else { Vec::new() },
        settings: SHOWN.iter().filter_map(|key| Some((named(key), sysctl::read(key).ok()?))).collect(),
        listeners: listeners::listeners(),
        cni: cnifiles::read(&root),
        configurers: configurers(&root),
        room: room::look(),
        ..HostFacts::default()
    };
    if let Ok(system) = nix::sys::utsname::uname() {
        facts.name = system.nodename().to_string_lossy().into_owned();
        facts.kernel_release = system.release().to_string_lossy().into_owned();
    }
    facts.uptime = room::number("/proc/uptime", 0).unwrap_or(0);
    facts.links = noted(&mut facts.unknown, "links", links());
    facts.guards = noted(&mut facts.unknown, "guards of pods' links", guards::look());
    facts.barriers =
        noted(&mut facts.unknown, "rules of firewalls", forwarding::barriers(question, &facts.links));
    facts.reached = reach::all(&question.reach).await;
    facts.large = probe::large::all(&question.large, |own| size(&facts, own)).await;
    for path in &question.pages {
        facts.pages.insert(path.clone(), text_of(place.health_listen, path).await);
    }
    facts.kube_proxy = text_of(KUBE_PROXY, "/configz").await.ok();
    if question.api {
        facts.api = Some(api().await);
        // Why it is not reached is told already.
        let shown = tokio::time::timeout(PATIENCE, certificates::look()).await;
        facts.certificates = shown.ok().and_then(Result::ok).unwrap_or_default();
    }
    facts.time = now();
    facts
}

/// What was found out; if it was not, that is noted.
fn noted<T: Default>(unknown: &mut Vec<String>, what: &str, found: Result<T, String>) -> T {
    found.unwrap_or_else(|error| {
        unknown.push(format!("{what}: {error}"));
        T::default()
    })
}

/// What a page says, or why it says nothing.
async fn text_of(at: SocketAddr, path: &str) -> Result<String, String> {
    let page = page::get(at, path).await?;
    match page.status {
        200 => Ok(page.text()),
        other => Err(format!("{other}: {}", page.text())),
    }
}

/// Nanoseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// A setting's name as `sysctl` has it. Dots of links' names become slashes there, as it does it itself.
pub(super) fn named(key: &str) -> String {
    key.chars()
        .map(|letter| match letter {
            '/' => '.',
            '.' => '/',
            other => other,
        })
        .collect()
}

/// Programs that configure networks, by what they leave in `/run` while they run.
fn configurers(root: &str) -> Vec<Configurer> {
    let told = |folder: &str, word: &str| {
        let files = std::fs::read_dir(format!("{root}{folder}")).into_iter().flatten().flatten();
        files.map(|entry| entry.path()).any(|path: PathBuf| {
            std::fs::read_to_string(path).is_ok_and(|text| {
                let lines = text.lines().map(str::trim_start);
                lines.filter(|line| !line.starts_with('#')).any(|line| line.contains(word))
            })
        })
    };
    let all = [
        ("NetworkManager", "/run/NetworkManager", "/etc/NetworkManager/conf.d", "interface-name:cali"),
        ("systemd-networkd", "/run/systemd/netif", "/etc/systemd/networkd.conf.d", "ManageForeignRoutes=no"),
        ("firewalld", "/run/firewalld", "/etc/firewalld/zones", "source address"),
    ];
    let here = all.into_iter().filter(|(_, sign, ..)| Path::new(&format!("{root}{sign}")).exists());
    here.map(|(name, _, folder, word)| Configurer { name: name.to_owned(), told: told(folder, word) })
        .collect()
}

/// Links that are not pods' of ours.
fn links() -> Result<Vec<HostLink>, String> {
    let mut socket = Socket::route().map_err(|error| chain(&error))?;
    let ends = inspect::ends(&mut socket).map_err(|error| chain(&error))?;
    let others = ends.iter().filter(|end| end.name != "lo" && !is_pods(end));
    others.map(|end| link(&mut socket, end)).collect()
}

fn link(socket: &mut Socket, end: &End) -> Result<HostLink, String> {
    let addresses = inspect::addresses(socket, end.index).map_err(|error| chain(&error))?;
    let lasting = |address: &&IpNetwork| !is_link_local(address.ip());
    Ok(HostLink {
        name: end.name.clone(),
        mtu: end.mtu,
        running: end.running,
        addresses: addresses.iter().filter(lasting).map(ToString::to_string).collect(),
        rp_filter: sysctl::read(&sysctl::ipv4(&end.name, "rp_filter")).ok(),
    })
}

/// Octets of the largest packets of pods; without pods, of those that the link with this address takes.
fn size(facts: &HostFacts, own: IpAddr) -> u32 {
    let has = |link: &&HostLink| link.addresses().any(|address| address == own);
    let of_pods = facts.guards.mtus.keys().next_back().copied();
    of_pods.or_else(|| facts.links.iter().find(has).map(|link| link.mtu)).unwrap_or(0)
}

/// Asks the API server for its version, with the credentials of this pod; without any, only for a connection.
async fn api() -> ApiReached {
    let begin = Instant::now();
    let of = |name| std::env::var(name).unwrap_or_default();
    let address = format!("{}:{}", of("KUBERNETES_SERVICE_HOST"), of("KUBERNETES_SERVICE_PORT"));
    let asked = tokio::time::timeout(PATIENCE, ask_api()).await;
    let (version, error) = match asked {
        Ok(Ok(version)) => (version, None),
        Ok(Err(error)) => (String::new(), Some(error)),
        Err(_) => (String::new(), Some(format!("no answer within {} s", PATIENCE.as_secs()))),
    };
    let millis = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
    ApiReached { address, version, error, millis }
}

async fn ask_api() -> Result<String, String> {
    let client = kube::Client::try_default().await.map_err(|error| chain(&error))?;
    let version = client.apiserver_version().await.map_err(|error| chain(&error))?;
    Ok(version.git_version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_named_as_sysctl_names_it() {
        assert_eq!(named("net/ipv4/ip_forward"), "net.ipv4.ip_forward");
        assert_eq!(named("net/ipv4/conf/eth0.5/rp_filter"), "net.ipv4.conf.eth0/5.rp_filter");
    }

    #[test]
    fn a_program_that_was_told_to_leave_links_alone_is_known_by_its_file() {
        let root = tempfile::tempdir().expect("a folder");
        let place = |path: &str| root.path().join(path);
        std::fs::create_dir_all(place("run/NetworkManager")).expect("made");
        std::fs::create_dir_all(place("etc/NetworkManager/conf.d")).expect("made");
        let text = root.path().display().to_string();
        let told = |told| vec![Configurer { name: "NetworkManager".to_owned(), told }];
        assert_eq!(configurers(&text), told(false));
        let file = place("etc/NetworkManager/conf.d/90-manx.conf");
        std::fs::write(&file, "# interface-name:cali*\n").expect("written");
        assert_eq!(configurers(&text), told(false), "a comment is no order");
        std::fs::write(file, "[keyfile]\nunmanaged-devices+=interface-name:cali*\n").expect("written");
        assert_eq!(configurers(&text), told(true));
    }

    #[tokio::test]
    async fn a_machine_answers_whatever_it_lacks() {
        let root = tempfile::tempdir().expect("a folder");
        let question =
            HostQuestion { root: Some(root.path().display().to_string()), ..HostQuestion::default() };
        let look = Look {
            question: String::new(),
            attended: false,
            node_name: None,
            run_dir: "/nonexistent".into(),
            health_listen: "127.0.0.1:1".parse().expect("an address"),
        };
        let facts = host(&question, &look).await;
        assert!(!facts.kernel_release.is_empty() && facts.time > 0 && facts.uptime > 0);
        assert!(facts.settings.contains_key("net.ipv4.ip_forward"));
        assert!(facts.room.iter().any(|room| room.what.contains("open files")));
    }
}
