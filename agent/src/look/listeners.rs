//! Who listens at the TCP ports that Manx needs, as `/proc/net/tcp` tells it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use manx_facts::host::Listener;

/// BGP; health and metrics of the agent and of the controller; metrics for others.
const PORTS: [u16; 4] = [179, 9179, 9180, 9181];
/// The state of a socket that listens.
const LISTEN: &str = "0A";

/// Who listens at our ports in the network of this process; `None` if that cannot be read. Programs are named as far as
/// their processes can be seen.
pub(super) fn listeners() -> Option<Vec<Listener>> {
    let table = |name: &str| std::fs::read_to_string(format!("/proc/self/net/{name}"));
    let mut found = parse(&table("tcp").ok()?);
    found.extend(parse(&table("tcp6").unwrap_or_default()));
    let programs = if found.is_empty() { BTreeMap::new() } else { programs() };
    let named = found
        .into_iter()
        .map(|(inode, listener)| Listener { program: programs.get(&inode).cloned(), ..listener });
    let mut listeners: Vec<_> = named.collect();
    listeners.sort();
    Some(listeners)
}

/// Lines of the table, with the numbers of their sockets.
fn parse(table: &str) -> Vec<(u64, Listener)> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (address, port) = fields.get(1)?.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        if fields.get(3) != Some(&LISTEN) || !PORTS.contains(&port) {
            return None;
        }
        let inode = fields.get(9)?.parse().ok()?;
        Some((inode, Listener { port, address: address_of(address)?, program: None }))
    };
    table.lines().filter_map(line).collect()
}

/// An address as the kernel writes it there: words of 32 bits in the machine's byte order.
fn address_of(text: &str) -> Option<IpAddr> {
    let words = text.as_bytes().chunks(8).map(|word| {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        Some(word.to_ne_bytes())
    });
    let octets = words.collect::<Option<Vec<_>>>()?.concat();
    match octets.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?).into()),
        _ => None,
    }
}

/// Names of programs by the numbers of their sockets, of the processes whose files can be seen.
fn programs() -> BTreeMap<u64, String> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter(|entry| entry.file_name().to_string_lossy().bytes().all(|letter| letter.is_ascii_digit()))
        .flat_map(|entry| sockets(&entry.path()))
        .collect()
}

fn sockets(process: &Path) -> Vec<(u64, String)> {
    let Ok(name) = std::fs::read_to_string(process.join("comm")) else { return Vec::new() };
    let files = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    let inode = |file: std::fs::DirEntry| {
        let target = std::fs::read_link(file.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    files.filter_map(inode).map(|inode| (inode, name.trim_end().to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_listens_at_a_port_of_ours_is_read() {
        let loopback = u32::from_ne_bytes([127, 0, 0, 1]);
        let table = format!(
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
             0: 00000000:00B3 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 77 1 0 100 0 0 10 0\n   \
             1: {loopback:08X}:23DB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 78 1 0 100 0 0 10 0\n   \
             2: 00000000:00B3 00000000:0000 01 00000000:00000000 00:00000000 00000000     0        0 79 1 0 100 0 0 10 0\n   \
             3: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 80 1 0 100 0 0 10 0\n"
        );
        let found = parse(&table);
        let shown: Vec<_> = found
            .iter()
            .map(|(inode, listener)| (*inode, listener.address.to_string(), listener.port))
            .collect();
        assert_eq!(shown, [(77, "0.0.0.0".to_owned(), 179), (78, "127.0.0.1".to_owned(), 9179)]);
    }

    #[test]
    fn an_address_of_ipv6_is_four_words() {
        let words = "2001:db8::1".parse::<Ipv6Addr>().expect("an address").octets();
        let text: String = words
            .chunks(4)
            .map(|word| format!("{:08X}", u32::from_ne_bytes(word.try_into().expect("four octets"))))
            .collect();
        assert_eq!(address_of(&text), Some("2001:db8::1".parse().expect("an address")));
    }

    #[test]
    fn the_program_that_listens_is_found_by_its_socket() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let inode =
            std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&listener)));
        let inode = inode.expect("a link").to_string_lossy().replace("socket:[", "").replace(']', "");
        assert!(programs().contains_key(&inode.parse().expect("a number")));
    }
}
