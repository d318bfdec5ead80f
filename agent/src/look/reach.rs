//! Reaches others by TCP, and hears whether they speak BGP.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use manx_bgp::wire::{Dialect, Framer, Message, decode};
use manx_facts::host::{Outcome, Reach, Reached};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// How many are reached at once.
const AT_ONCE: usize = 32;
/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(3);
/// How long a speaker may take until its OPEN, which it sends as soon as it takes a connection.
const HEAR: Duration = Duration::from_secs(4);

/// Reaches all of them, in their order.
pub(super) async fn all(reach: &[Reach]) -> Vec<Reached> {
    stream::iter(reach.iter().cloned()).map(one).buffered(AT_ONCE).collect().await
}

async fn one(reach: Reach) -> Reached {
    let begin = Instant::now();
    let connected = timeout(CONNECT, TcpStream::connect(SocketAddr::new(reach.address, reach.port))).await;
    let outcome = match connected {
        Err(_) => Outcome::Timeout,
        Ok(Err(error)) => refusal(&error),
        Ok(Ok(_)) if !reach.open => Outcome::Connected,
        Ok(Ok(stream)) => timeout(HEAR, hear(stream)).await.unwrap_or(Outcome::Silent),
    };
    Reached { reach, outcome, millis: u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX) }
}

fn refusal(error: &io::Error) -> Outcome {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Outcome::Refused,
        io::ErrorKind::TimedOut => Outcome::Timeout,
        _ => Outcome::Error(error.to_string()),
    }
}

/// The first message. Nothing is sent: a speaker that is left without an answer takes it for a connection that failed,
/// and does not hold it against the next.
async fn hear(mut stream: impl AsyncRead + Unpin) -> Outcome {
    let mut framer = Framer::new();
    let mut buffer = vec![0; 4096];
    loop {
        let count = match stream.read(&mut buffer).await {
            Ok(0) => return Outcome::Closed,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Outcome::Closed,
            Err(error) => return Outcome::Error(error.to_string()),
        };
        let mut input = buffer.get(..count).unwrap_or_default();
        match framer.next(&mut input) {
            Ok(None) => {}
            Ok(Some(frame)) => {
                return match decode(frame, &Dialect::BEFORE_OPEN) {
                    Ok(decoded) => heard(&decoded.message),
                    Err(error) => Outcome::Error(format!("this is no OPEN: {error}")),
                };
            }
            Err(error) => return Outcome::Error(format!("this is not BGP: {error}")),
        }
    }
}

fn heard(message: &Message) -> Outcome {
    match message {
        Message::Open(open) => Outcome::Open {
            as_number: open.asn.0,
            router_id: open.router_id.to_string(),
            hold_time: open.hold_secs,
        },
        Message::Notification(notification) => {
            Outcome::Notification(notification.code.code, notification.code.subcode)
        }
        other => Outcome::Error(format!("the first message is {:?}", other.kind())),
    }
}

#[cfg(test)]
mod tests {
    use manx_bgp::wire::{Open, encode};
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    /// What comes of reaching somebody who says `words` and closes.
    async fn reached(words: Vec<u8>, open: bool) -> Outcome {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let peer = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            stream.write_all(&words).await.expect("sent");
        });
        let reach = Reach { name: "peer".to_owned(), address: address.ip(), port: address.port(), open };
        let reached = all(&[reach]).await;
        peer.await.expect("ended");
        reached.into_iter().next().expect("one answer").outcome
    }

    fn message(message: &Message) -> Vec<u8> {
        let mut octets = Vec::new();
        encode(message, &Dialect::BEFORE_OPEN, &mut octets).expect("encoded");
        octets
    }

    #[tokio::test]
    async fn an_open_is_understood() {
        let open = Open {
            asn: manx_bgp::Asn(65000),
            hold_secs: 90,
            router_id: manx_bgp::RouterId::new(std::net::Ipv4Addr::new(192, 0, 2, 1)).expect("an id"),
            capabilities: Vec::new(),
        };
        let expected = Outcome::Open { as_number: 65000, router_id: "192.0.2.1".to_owned(), hold_time: 90 };
        assert_eq!(reached(message(&Message::Open(open)), true).await, expected);
    }

    #[tokio::test]
    async fn who_speaks_something_else_or_closes_is_no_speaker() {
        assert_eq!(reached(Vec::new(), true).await, Outcome::Closed);
        assert_eq!(reached(Vec::new(), false).await, Outcome::Connected);
        let web = b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec();
        assert!(matches!(reached(web, true).await, Outcome::Error(words) if words.contains("not BGP")));
    }

    #[tokio::test]
    async fn nobody_there_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        drop(listener);
        let reach = Reach { name: String::new(), address: address.ip(), port: address.port(), open: true };
        assert_eq!(all(&[reach]).await.first().expect("an answer").outcome, Outcome::Refused);
    }
}
