//! Counters of the kernel that tell why packets are thrown away.

use std::collections::BTreeMap;

/// Files with a line of names and a line of numbers, and with a name and a number in each line.
const PAIRED: [&str; 2] = ["/proc/net/snmp", "/proc/net/netstat"];
const LISTED: &str = "/proc/net/snmp6";
/// Those that are told: packets that end here.
const TOLD: [&str; 24] = [
    "Ip.InAddrErrors",
    "Ip.InDiscards",
    "Ip.InHdrErrors",
    "Ip.InUnknownProtos",
    "Ip.OutDiscards",
    "Ip.OutNoRoutes",
    "Ip.FragFails",
    "Icmp.OutDestUnreachs",
    "Icmp.OutTimeExcds",
    "IpExt.InNoRoutes",
    "IpExt.InTruncatedPkts",
    "TcpExt.IPReversePathFilter",
    "TcpExt.TCPDrop",
    "TcpExt.ListenDrops",
    "Udp.NoPorts",
    "Udp.RcvbufErrors",
    "Ip6InAddrErrors",
    "Ip6InDiscards",
    "Ip6InHdrErrors",
    "Ip6InNoRoutes",
    "Ip6InTooBigErrors",
    "Ip6OutDiscards",
    "Ip6OutNoRoutes",
    "Icmp6OutDestUnreachs",
];

/// Reads them in the namespace of this thread.
pub(super) fn read() -> BTreeMap<String, u64> {
    let text = |path| std::fs::read_to_string(path).unwrap_or_default();
    let mut counters = BTreeMap::new();
    for path in PAIRED {
        paired(&text(path), &mut counters);
    }
    listed(&text(LISTED), &mut counters);
    counters.retain(|name, _| TOLD.contains(&&**name));
    counters
}

/// What has grown, and by how much.
pub(super) fn grown(before: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let growth = |(name, value): (&String, &u64)| {
        let more = value.saturating_sub(before.get(name).copied().unwrap_or(0));
        (more > 0).then(|| (name.clone(), more))
    };
    now.iter().filter_map(growth).collect()
}

fn paired(text: &str, counters: &mut BTreeMap<String, u64>) {
    let mut lines = text.lines();
    while let (Some(names), Some(numbers)) = (lines.next(), lines.next()) {
        let Some((group, names)) = names.split_once(':') else { return };
        let numbers = numbers.split_once(':').map_or("", |(_, numbers)| numbers);
        for (name, number) in names.split_whitespace().zip(numbers.split_whitespace()) {
            counters.extend(number.parse().ok().map(|number| (format!("{group}.{name}"), number)));
        }
    }
}

fn listed(text: &str, counters: &mut BTreeMap<String, u64>) {
    for line in text.lines() {
        if let Some((name, number)) = line.split_once(char::is_whitespace) {
            counters.extend(number.trim().parse().ok().map(|number| (name.to_owned(), number)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_from_both_kinds_of_files_and_only_growth_is_told() {
        let mut before = BTreeMap::new();
        paired("TcpExt: A IPReversePathFilter\nTcpExt: 1 7\nIp: X\nIp: -1\n", &mut before);
        listed("Ip6InNoRoutes                   \t3\n", &mut before);
        assert_eq!(before["TcpExt.IPReversePathFilter"], 7);
        assert_eq!(before["Ip6InNoRoutes"], 3);
        let mut now = before.clone();
        now.insert("Ip6InNoRoutes".to_owned(), 5);
        assert_eq!(grown(&before, &now), BTreeMap::from([("Ip6InNoRoutes".to_owned(), 2)]));
    }

    #[test]
    fn this_machine_has_them() {
        assert!(read().contains_key("TcpExt.IPReversePathFilter"));
    }
}
