//! Rules of others, as nft and iptables write them, and whether pods' packets pass them.

mod namespace;

use manx_kernel::netlink::filters;
use manx_kernel::netlink::guard::Guard;
use manx_kernel::passage::{Barrier, Packet, barriers};
use manx_kernel::xtables;
use namespace::{command, nft};

fn packet(from: &str, to: &str) -> Packet {
    let [from, to] = [from, to].map(|text| text.parse().expect("an address"));
    Packet { from, to, in_link: "cali0123456789a".to_owned(), out_link: "eth0".to_owned() }
}

/// What holds pods' packets up: family, table, base chain, and the chain whose rule does it.
fn found() -> Vec<String> {
    let tables = filters::forwarding().expect("read");
    let packets = [packet("10.244.1.2", "10.244.2.2"), packet("fd00:10:244:1::2", "fd00:10:244:2::2")];
    let all = packets.iter().flat_map(|packet| barriers(&tables, packet));
    all.map(words).collect()
}

fn words(barrier: Barrier) -> String {
    let by = barrier.rule_in.map_or_else(|| "policy".to_owned(), |chain| format!("rule of {chain}"));
    format!("{} {} {}: {by}", barrier.family.name(), barrier.table, barrier.chain)
}

#[test]
fn a_policy_of_drop_is_found_and_what_lets_pods_pass_is_understood() {
    namespace::run(|| {
        Guard::open().expect("a socket").replace(&Default::default()).expect("put");
        assert_eq!(found(), Vec::<String>::new());
        if nft("add table inet fw").is_none() {
            return;
        }
        nft("add chain inet fw passing { type filter hook forward priority 0 ; policy drop ; }");
        nft("add rule inet fw passing ct state established,related accept");
        nft("add rule inet fw passing ct state vmap { established : accept, invalid : drop }");
        nft("add rule inet fw passing iifname { \"docker0\", \"br0\" } accept");
        nft("add rule inet fw passing tcp dport 22 ip saddr 192.0.2.0/24 accept");
        let both = ["inet fw passing: policy", "inet fw passing: policy"];
        assert_eq!(found(), both);
        nft("add rule inet fw passing ip saddr { 10.0.0.0/24, 10.244.0.0/16 } accept");
        assert_eq!(found(), both[..1], "IPv6 does not pass yet");
        nft("add rule inet fw passing iifname \"cali*\" counter accept");
        assert_eq!(found(), Vec::<String>::new());
        nft("add table ip late");
        nft("add chain ip late passing { type filter hook forward priority 10 ; policy accept ; }");
        nft("add chain ip late no");
        nft("add rule ip late no reject");
        nft("add rule ip late passing oifname \"eth*\" jump no");
        assert_eq!(found(), ["ip late passing: rule of no"], "what another table accepts does not help");
    });
}

#[test]
fn rules_of_iptables_are_understood() {
    namespace::run(|| {
        if nft("list ruleset").is_none() {
            return;
        }
        let iptables = |words: &str| command("iptables-nft", words);
        iptables("-P FORWARD DROP");
        iptables("-N DOCKER-USER");
        iptables("-A FORWARD -j DOCKER-USER");
        iptables("-A DOCKER-USER -j RETURN");
        iptables("-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT");
        iptables("-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment kept -j ACCEPT");
        iptables("-A FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT");
        iptables("-A FORWARD -i docker0 ! -o docker0 -j ACCEPT");
        assert_eq!(found(), ["ip filter FORWARD: policy"]);
        iptables("-I DOCKER-USER -s 10.244.0.0/16 -j ACCEPT");
        assert_eq!(found(), Vec::<String>::new());
        iptables("-I FORWARD -m conntrack --ctstate NEW -j REJECT");
        assert_eq!(found(), ["ip filter FORWARD: rule of FORWARD"]);
    });
}

#[test]
fn rules_of_legacy_iptables_are_understood() {
    namespace::run(|| {
        for (program, pods, pod, peer, other, family) in [
            ("iptables-legacy", "10.244.0.0/16", "10.244.1.2", "10.244.2.2", "192.0.2.1", "ip"),
            (
                "ip6tables-legacy",
                "fd00:10:244::/48",
                "fd00:10:244:1::2",
                "fd00:10:244:2::2",
                "fd00::1",
                "ip6",
            ),
        ] {
            let rule = |text: &str| command(program, text);
            let dropped = |from: &str| {
                let tables = xtables::forwarding().expect("read");
                let found: Vec<String> =
                    barriers(&tables, &packet(from, peer)).into_iter().map(words).collect();
                found
            };
            let by_policy = [format!("{family} filter FORWARD: policy")];
            assert_eq!(dropped(pod), [""; 0]);
            rule("-P FORWARD DROP");
            rule("-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT");
            rule("-A FORWARD -i docker+ -j ACCEPT");
            rule("-A FORWARD -j LOG");
            rule("-A FORWARD");
            assert_eq!(dropped(pod), by_policy, "none of these lets new connections of pods pass");
            rule("-N PODS");
            rule(&format!("-A PODS -s {other} -j DROP"));
            rule("-A PODS -m conntrack --ctstate NEW -i cali+ -j ACCEPT");
            rule("-A FORWARD -o eth0 -m comment --comment pods -j PODS");
            assert_eq!(dropped(pod), [""; 0]);
            let by_rule = |table: &str, chain: &str| format!("{family} {table} FORWARD: rule of {chain}");
            assert_eq!(dropped(other), [by_rule("filter", "PODS")]);
            rule("-I FORWARD -p udp -j DROP");
            rule("-I FORWARD -m mark --mark 0x5/0xf -j DROP");
            rule("-I FORWARD ! -o eth0 -j DROP");
            rule("-I FORWARD -p tcp --dport 99 -j DROP");
            assert_eq!(dropped(pod), [""; 0], "it is of none of these, or perhaps not");
            rule(&format!("-I PODS 2 -s {pods} -j REJECT"));
            assert_eq!(dropped(pod), [by_rule("filter", "PODS")]);
            rule("-t mangle -N AWAY");
            rule("-t mangle -A AWAY -m conntrack ! --ctstate ESTABLISHED -j DROP");
            rule(&format!("-t mangle -A FORWARD ! -d {other} -g AWAY"));
            let mut found = dropped(pod);
            found.sort();
            assert_eq!(found, [by_rule("filter", "PODS"), by_rule("mangle", "AWAY")]);
        }
    });
}
