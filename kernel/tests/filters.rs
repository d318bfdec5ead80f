//! Rules of others, as nft and iptables write them, and whether pods' packets pass them.

mod namespace;

use manx_kernel::netlink::filters;
use manx_kernel::netlink::guard::Guard;
use manx_kernel::passage::{Packet, barriers};
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
    let words = all.map(|barrier| {
        let by = barrier.rule_in.map_or_else(|| "policy".to_owned(), |chain| format!("rule of {chain}"));
        format!("{} {} {}: {by}", barrier.family.name(), barrier.table, barrier.chain)
    });
    words.collect()
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
