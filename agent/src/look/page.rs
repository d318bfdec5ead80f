//! What the agent of this node tells at its loopback address, over HTTP/1.0: one request, one answer, the end.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The longest that an answer may take.
const PATIENCE: Duration = Duration::from_secs(25);
/// The longest answer, in octets.
const LONGEST: u64 = 256 << 20;

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Page {
    /// The status of HTTP: 200 is well.
    pub(super) status: u16,
    /// The body.
    pub(super) body: Vec<u8>,
}

impl Page {
    /// The body as text.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim_end().to_owned()
    }
}

/// Reads a path; an error is a lower-case fragment that says why it cannot.
pub(super) async fn get(agent: SocketAddr, path: &str) -> Result<Page, String> {
    match tokio::time::timeout(PATIENCE, ask(agent, path)).await {
        Ok(Ok(answer)) => parse(&answer).ok_or_else(|| format!("what answers at {agent} is no agent")),
        Ok(Err(error)) => Err(format!("no agent answers at {agent}: {error}")),
        Err(_) => Err(format!("the agent at {agent} does not answer within {} s", PATIENCE.as_secs())),
    }
}

async fn ask(agent: SocketAddr, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(agent).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {agent}\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer).await?;
    Ok(answer)
}

fn parse(answer: &[u8]) -> Option<Page> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.strip_prefix("HTTP/1.")?.split_whitespace().nth(1)?.parse().ok()?;
    Some(Page { status, body: answer[end + 4..].to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_its_status_and_what_follows_the_head() {
        let page = parse(b"HTTP/1.0 503 Service Unavailable\r\na: b\r\n\r\nno pool\r\n\r\nat all\n");
        let page = page.expect("an answer");
        assert_eq!((page.status, page.text().as_str()), (503, "no pool\r\n\r\nat all"));
        for other in [&b""[..], b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 ok\r\n\r\n"] {
            assert_eq!(parse(other), None);
        }
    }
}
