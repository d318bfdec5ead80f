//! Checks of each machine by itself.

use manx_facts::host::{Feature, HostFacts, Trial};

use super::{Facts, each, weighed};
use crate::finding::{Finding, Weight};

/// Part of what is there of something, in per cent, from which on it is nearly gone, and from which on it is gone.
const NEARLY_GONE: u64 = 80;
const GONE: u64 = 95;
/// Settings of inotify, and how many of its things are next to none.
const INOTIFY: &str = "fs.inotify.";
const FEW: u64 = 2;
/// Instances of inotify of one user that every kernel gives by default.
const INSTANCES: u64 = 128;

/// What a feature is for, how much its lack matters, and what to do.
fn meaning(feature: Feature) -> (&'static str, Weight, &'static str) {
    use Weight::{Error, Note, Warning};
    match feature {
        Feature::Namespaces => ("network namespaces cannot be made", Error, "a kernel with CONFIG_NET_NS"),
        Feature::Veth => (
            "links of pods cannot be made",
            Error,
            "`modprobe veth`, and name it in /etc/modules-load.d; a kernel with CONFIG_VETH",
        ),
        Feature::Ipv6 => ("there is no IPv6, so there will be no pods with IPv6", Note, ""),
        Feature::PodLink => {
            ("a pod's link cannot be set up", Error, "the words of the kernel say what is missing")
        }
        Feature::Netdev => (
            "what pods send cannot be guarded at their links",
            Warning,
            "a kernel with CONFIG_NF_TABLES_NETDEV (docs/security.md says what stays open without)",
        ),
        Feature::Inet => (
            "pods cannot be kept from the ports of BGP",
            Error,
            "`modprobe nf_tables`; a kernel with CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET",
        ),
        Feature::NatV4 => (
            "IPv4 cannot be masqueraded: pools with natOutgoing will not work",
            Error,
            "`modprobe nft_masq`; a kernel with CONFIG_NFT_MASQ and CONFIG_NF_TABLES_IPV4",
        ),
        Feature::NatV6 => (
            "IPv6 cannot be masqueraded: IPv6 pools with natOutgoing will not work",
            Warning,
            "`modprobe nft_masq`; a kernel with CONFIG_NFT_MASQ and CONFIG_NF_TABLES_IPV6",
        ),
        Feature::NextHops => {
            ("there are no next-hop objects: changed ways take longer with many routes", Note, "")
        }
        Feature::Ipv4OverIpv6 => {
            ("IPv4 cannot be routed over IPv6 next hops: peers by `interface` carry no IPv4", Note, "")
        }
        Feature::Rules => (
            "there are no routing rules: pods with several networks will not work",
            Warning,
            "a kernel with CONFIG_IP_MULTIPLE_TABLES",
        ),
        Feature::Conntrack => (
            "connections are not tracked: natOutgoing and kube-proxy will not work",
            Error,
            "`modprobe nf_conntrack`, and name it in /etc/modules-load.d",
        ),
        Feature::Inotify => (
            "no more files can be watched",
            Error,
            "raise fs.inotify.max_user_instances, for example to 8192, in /etc/sysctl.d",
        ),
        Feature::RawSockets => (
            "raw sockets are not permitted: peers by `interface` will not work",
            Warning,
            "the capability NET_RAW for the agent",
        ),
        Feature::Unknown => ("something that this manxctl does not know does not work", Note, ""),
    }
}

/// What the kernel cannot do.
pub(super) fn features(facts: &Facts) -> Vec<Finding> {
    each(facts, |node, host, findings| {
        for Trial { feature, error } in &host.trials {
            if let Some(error) = error {
                let (what, weight, cure) = meaning(*feature);
                findings.push(weighed(weight, node, format!("{what} ({error})"), cure));
            }
        }
    })
}

fn is(host: &HostFacts, setting: &str, value: &str) -> bool {
    host.settings.get(setting).is_some_and(|found| found == value)
}

/// Settings that the agent does not set by itself and that stand in its way.
pub(super) fn settings(facts: &Facts) -> Vec<Finding> {
    each(facts, |node, host, findings| {
        let disabled = is(host, "net.ipv6.conf.all.disable_ipv6", "1");
        if disabled || is(host, "net.ipv6.conf.default.disable_ipv6", "1") {
            let which = if disabled { "all" } else { "default" };
            findings.push(weighed(
                Weight::Note,
                node,
                format!("IPv6 is switched off (net.ipv6.conf.{which}.disable_ipv6 = 1), so that pods will have IPv6 and \
                         their node none"),
                "",
            ));
        }
        if let Some(ignore) =
            host.settings.get("net.ipv4.conf.all.arp_ignore").filter(|value| is_at_least(value, 8))
        {
            findings.push(Finding::error(
                node,
                format!("it answers no ARP at all (net.ipv4.conf.all.arp_ignore = {ignore})"),
                "set it to 0, 1 or 2",
            ));
        }
    })
}

fn is_at_least(value: &str, limit: u64) -> bool {
    value.parse::<u64>().is_ok_and(|value| value >= limit)
}

/// Settings that the agent made and somebody unmade.
pub(super) fn settings_of_a_router(facts: &Facts) -> Vec<Finding> {
    each(facts, |node, host, findings| {
        let cure = "`kubectl -n manx-system delete pod` of the agent there sets it again; then find who sets it back \
                    (/etc/sysctl.d, docs/node.md)";
        for (setting, value, effect) in [
            ("net.ipv4.ip_forward", "1", "the node forwards no IPv4"),
            ("net.ipv6.conf.all.forwarding", "1", "the node forwards no IPv6"),
            (
                "net.ipv4.conf.all.rp_filter",
                "0",
                "the source check of pods' links is loose, or strict on uplinks",
            ),
        ] {
            if let Some(found) = host.settings.get(setting).filter(|found| *found != value) {
                findings.push(Finding::error(
                    node,
                    format!("{effect} ({setting} = {found}, not {value})"),
                    cure,
                ));
            }
        }
        for setting in ["net.ipv4.fib_multipath_hash_policy", "net.ipv6.fib_multipath_hash_policy"] {
            if is(host, setting, "0") {
                let what =
                    format!("flows between two pods all take the same one of several ways ({setting} = 0)");
                findings.push(Finding::warning(node, what, cure));
            }
        }
    })
}

/// Who has the ports that Manx needs.
pub(super) fn ports(facts: &Facts) -> Vec<Finding> {
    let listen_port = facts.cluster.configuration.as_ref().map_or(179, |object| object.spec.listen_port);
    each(facts, |node, host, findings| {
        let Some(listeners) = &host.listeners else {
            findings.push(Finding::note(node, "who listens at which port cannot be seen"));
            return;
        };
        for listener in listeners {
            let program = listener.program.as_deref();
            if program.is_some_and(|program| program.starts_with("manx-")) {
                continue;
            }
            let who =
                program.map_or_else(|| "a program".to_owned(), |program| format!("the program {program}"));
            let what = format!("port {} is taken by {who} at {}", listener.port, listener.address);
            match listener.port {
                port if port == listen_port => findings.push(Finding::error(
                    node,
                    what,
                    "stop it, or give Manx other `listenAddresses` or another `listenPort` in the BGPConfiguration",
                )),
                9179 => findings.push(Finding::error(node, what, "stop it, or give the agent another --health-listen")),
                9180 => findings.push(Finding::warning(
                    node,
                    format!("{what}, which the controller needs where it runs"),
                    "stop it, or give the controller another --metrics-listen",
                )),
                _ => {}
            }
        }
    })
}

/// Signs of other networks: beginnings of links' names, whose they are, and whether they are in our way.
const SIGNS: [(&str, &str); 13] = [
    ("flannel", "flannel"),
    ("cilium", "Cilium"),
    ("lxc", "Cilium"),
    ("vxlan.calico", "Calico"),
    ("vxlan-v6.calico", "Calico"),
    ("wireguard.cali", "Calico"),
    ("tunl0", "Calico"),
    ("cali", "Calico"),
    ("weave", "Weave Net"),
    ("antrea-gw", "Antrea"),
    ("kube-bridge", "kube-router"),
    ("ovn-k8s", "OVN-Kubernetes"),
    ("cni0", "a bridge plugin"),
];

/// Other networks of which links or configurations are on the machine.
pub(super) fn networks(facts: &Facts) -> Vec<Finding> {
    each(facts, |node, host, findings| {
        let files = host.cni.as_ref().map_or(&[][..], |cni| &cni.files);
        for file in files.iter().filter(|file| !is_ours(&file.plugins)) {
            let of = match (&file.error, file.plugins.join(", ")) {
                (Some(error), _) => format!("cannot be read ({error})"),
                (None, plugins) => format!("is of the network {} ({plugins})", file.name),
            };
            let before = file.file.as_str() < "10-manx.conflist";
            let what = format!("/etc/cni/net.d/{} {of}", file.file);
            let cure =
                "remove the other network first, or move in from it (docs/migrate-calico.md); then the file";
            findings.push(match before {
                true => Finding::error(
                    node,
                    format!("{what} and sorts before 10-manx.conflist, so that it wins"),
                    cure,
                ),
                false => Finding::warning(node, format!("{what}; 10-manx.conflist will win over it"), cure),
            });
        }
        let mut seen = std::collections::BTreeSet::new();
        for link in host.links.iter().filter(|link| link.name != "tunl0" || !link.addresses.is_empty()) {
            let Some((_, network)) = SIGNS.iter().find(|(sign, _)| link.name.starts_with(sign)) else {
                continue;
            };
            if seen.insert(*network) {
                findings.push(Finding::error(
                    node,
                    format!("there are links of {network} ({})", link.name),
                    "remove the other network first: its documentation tells how, and a reboot takes what is left. From \
                     Calico one can move in without restarting pods (docs/migrate-calico.md)",
                ));
            }
        }
    })
}

fn is_ours(plugins: &[String]) -> bool {
    plugins.iter().any(|plugin| plugin == "manx-cni")
}

/// Configurations that the runtime takes in place of ours.
pub(super) fn conflists(facts: &Facts) -> Vec<Finding> {
    each(facts, |node, host, findings| {
        let Some(cni) = &host.cni else { return };
        let ours = cni.files.iter().position(|file| is_ours(&file.plugins));
        let before = &cni.files[..ours.unwrap_or(0)];
        for file in before {
            findings.push(
                Finding::error(
                    node,
                    format!("the container runtime takes /etc/cni/net.d/{} in place of Manx's", file.file),
                    "remove that file, and the network whose it is",
                )
                .see("node-notready"),
            );
        }
    })
}

/// Folders in which the runtime looks and Manx does not write.
pub(super) fn folders(facts: &Facts) -> Vec<Finding> {
    each(facts, |node, host, findings| {
        let Some(cni) = &host.cni else { return };
        let found = [
            (&cni.runtime_conf_dir, "/etc/cni/net.d", "configurations", "the volume cni-conf"),
            (&cni.runtime_bin_dir, "/opt/cni/bin", "plugins", "the volume cni-bin"),
        ];
        for (folder, usual, what, volume) in found {
            if let Some(folder) = folder.as_deref().filter(|folder| folder.trim_end_matches('/') != usual) {
                findings.push(Finding::error(
                    node,
                    format!("the container runtime looks for {what} in {folder}, and Manx puts them into {usual}"),
                    format!("set the runtime to {usual}, or change {volume} of the DaemonSet manx-agent to {folder}"),
                ));
            }
        }
    })
}

/// Programs that configure networks and were not told to leave ours alone.
pub(super) fn configurers(facts: &Facts) -> Vec<Finding> {
    each(facts, |node, host, findings| {
        for program in host.configurers.iter().filter(|program| !program.told) {
            let (what, cure) = match program.name.as_str() {
                "NetworkManager" => (
                    "NetworkManager runs and may touch pods' links",
                    "put deploy/node/NetworkManager/conf.d/90-manx.conf into /etc/NetworkManager/conf.d, then \
                     `systemctl reload NetworkManager`",
                ),
                "systemd-networkd" => (
                    "systemd-networkd runs and removes routes of others when it starts",
                    "put deploy/node/systemd/networkd.conf.d/90-manx.conf into /etc/systemd/networkd.conf.d",
                ),
                "firewalld" => (
                    "firewalld runs and no zone has the pools as its sources: it drops what pods send",
                    "firewall-cmd --permanent --zone=trusted --add-source=POOL, for each pool, and --add-port=179/tcp \
                     (docs/node.md)",
                ),
                _ => continue,
            };
            findings.push(Finding::warning(node, what, cure));
        }
    })
}

/// What runs out.
pub(super) fn room(facts: &Facts) -> Vec<Finding> {
    each(facts, |node, host, findings| {
        for room in &host.room {
            let share = room.used.map(|used| used.saturating_mul(100) / room.limit.max(1));
            let used = room.used.unwrap_or(0);
            let weight = match share {
                // How many are used is known only when few are left, which may go well for long.
                Some(_) if room.setting.starts_with(INOTIFY) && room.limit - used.min(room.limit) > FEW => {
                    Weight::Note
                }
                Some(share) if share >= GONE => Weight::Error,
                Some(share) if share >= NEARLY_GONE => Weight::Warning,
                _ => continue,
            };
            findings.push(weighed(
                weight,
                node,
                format!("{used} of {} {} are in use", room.limit, room.what),
                format!("raise {} in /etc/sysctl.d, or find who takes them", room.setting),
            ));
        }
        if let Some(value) =
            host.settings.get("fs.inotify.max_user_instances").filter(|value| !is_at_least(value, INSTANCES))
        {
            findings.push(Finding::note(
                node,
                format!("fs.inotify.max_user_instances is {value}: little for a node of many pods; 8192 is usual there"),
            ));
        }
    })
}
