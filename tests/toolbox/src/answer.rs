//! What a server says: who it is, who asked, and which of its addresses was asked.

use std::net::{IpAddr, SocketAddr};

/// One line of JSON without its end. IPv4 addresses look like IPv4 addresses though they came through an IPv6 socket.
/// Of the request, letters and digits are repeated (32 at most), so that late answers are told from new ones.
pub(crate) fn answer(client: SocketAddr, local: SocketAddr, asked: &str) -> String {
    let pod = nix::unistd::gethostname().unwrap_or_default();
    let pod = pod.to_string_lossy();
    let asked: String = asked.chars().filter(char::is_ascii_alphanumeric).take(32).collect();
    let (client, local) = (canonical(client), canonical(local));
    format!("{{\"pod\":\"{pod}\",\"client\":\"{client}\",\"local\":\"{local}\",\"asked\":\"{asked}\"}}")
}

/// What an answer repeats of the request.
pub(crate) fn asked(answer: &str) -> Option<&str> {
    field(answer, "asked")
}

/// Which pod answered.
pub(crate) fn pod(answer: &str) -> Option<&str> {
    field(answer, "pod")
}

/// A text of an answer of ours, in which nothing is ever escaped.
fn field<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = answer.split_once(&format!("\"{name}\":\""))?;
    rest.split_once('"').map(|(value, _)| value)
}

fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_are_shown_as_ipv4_and_requests_are_repeated_without_anything_to_escape() {
        let text = answer(
            "[::ffff:192.0.2.1]:5".parse().expect("one"),
            "[2001:db8::1]:80".parse().expect("two"),
            "a\"1\n",
        );
        assert!(text.contains("\"client\":\"192.0.2.1:5\",\"local\":\"[2001:db8::1]:80\""), "{text}");
        assert_eq!(asked(&text), Some("a1"));
        assert_eq!(pod(&text), nix::unistd::gethostname().expect("a name").to_str());
    }
}
