//! The protocol between the plugin and the node's agent: one connection, one request, one reply.
//!
//! Both are a single line of JSON over a Unix stream socket that only root may open. The plugin connects, writes its
//! line, reads the agent's line and goes. Whatever the agent answers is final: a request that gets no reply may be
//! repeated, since each of them is idempotent by container id and interface name.

use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Longest line that either side accepts, in bytes, its line feed included.
pub const LINE_MAX: usize = 1 << 20;

/// Where the agent keeps its socket, its record and the tombstones, unless told otherwise.
pub const DEFAULT_RUN_DIR: &str = "/run/manx";

/// The agent's socket inside a run directory.
pub fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join("agent.sock")
}

/// What the plugin asks of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// Assign addresses to an attachment. Repeated for the same attachment, it gives the same addresses.
    /// Answered by [`Reply::Assigned`].
    Add(AddRequest),
    /// Free the addresses of an attachment and remove its link. Succeeds if nothing is known of it.
    /// Answered by [`Reply::Deleted`].
    Del(DelRequest),
    /// What is known of an attachment? Changes nothing. Answered by [`Reply::Known`].
    Check(Attachment),
    /// Can this node take pods now? Answered by [`Reply::Ready`] or an error with code 50 or 51.
    Status,
    /// Free every attachment of a network that is not in the list. Answered by [`Reply::Collected`].
    Gc(GcRequest),
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reply {
    /// The attachment has these addresses; they are on record before this is sent.
    Assigned(Assignment),
    /// The attachment's addresses are free. Its link is still to be removed by the one named here.
    #[serde(rename_all = "camelCase")]
    Deleted {
        /// Who removes the link.
        link_removed_by: Remover,
    },
    /// What the agent has on record for the attachment.
    Known(Option<Assignment>),
    /// The attachments that were freed.
    Collected(Vec<Attachment>),
    /// The node can take pods.
    Ready,
    /// The request was refused; nothing was changed by it.
    Error(RpcError),
}

/// One interface of one container, the key of everything that is on record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// The container id as the runtime gave it.
    pub container: String,
    /// The interface's name inside the pod.
    pub ifname: String,
}

/// The pod that an attachment belongs to, where the runtime said so.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRef {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's UID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// Asks for the addresses of an attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddRequest {
    /// The name of the network configuration.
    pub network: String,
    /// The container id.
    pub container: String,
    /// The interface's name inside the pod.
    pub ifname: String,
    /// Path of the pod's network namespace, as the runtime sees it.
    pub netns: String,
    /// The pod, if this is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodRef>,
    /// Name that the host end will have.
    pub link: String,
    /// Addresses asked for by name; empty if any will do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// Hardware address that the pod's end will have, for the agent's source guard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// MTU that the network configuration fixes for the link, in octets: it does not follow the uplink's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

/// Asks for the end of an attachment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DelRequest {
    /// The container id.
    pub container: String,
    /// The interface's name inside the pod.
    pub ifname: String,
    /// Name that the host end would have. The link of that name may belong to a newer container of the same pod:
    /// only its alias says whose it is.
    pub link: String,
}

/// Asks for the end of whatever the runtime no longer knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GcRequest {
    /// The name of the network configuration that is cleaned up.
    pub network: String,
    /// The attachments that are still in use.
    pub valid: Vec<Attachment>,
}

/// The addresses of an attachment and what its link has to look like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Assignment {
    /// The pod's addresses, IPv4 first; at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// MTU of both ends, in bytes.
    pub mtu: u32,
    /// Name of the host end.
    pub link: String,
    /// Hardware address that the pod's end must have; the plugin's own choice if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Another network's plugin made the link, and it was taken over as it was.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub taken_over: bool,
}

/// Who removes a link after its addresses were freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Remover {
    /// The agent does, in a batch with others; the plugin need not wait.
    Agent,
    /// The plugin does.
    Plugin,
}

/// A refusal by the agent, in the terms of the CNI specification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{msg}")]
#[serde(rename_all = "camelCase")]
pub struct RpcError {
    /// CNI error code; see [`crate::spec::Code`].
    pub code: u32,
    /// What is wrong, in one sentence.
    pub msg: String,
    /// The cause, or the way out.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

/// A line that is not a request or reply of this protocol.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The line exceeds [`LINE_MAX`].
    #[error("a line of more than {LINE_MAX} bytes")]
    TooLong,
    /// The line is not the JSON of the type expected.
    #[error("a line that is not of this protocol (agent and plugin of different versions?)")]
    Garbled(#[source] serde_json::Error),
}

/// One request or reply as a line of JSON, its line feed included.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).expect("messages have only string keys");
    line.push(b'\n');
    line
}

/// The request or reply that a line stands for, with or without its line feed.
///
/// # Errors
/// If the line is too long, or not JSON of this type.
pub fn decode<T: DeserializeOwned>(line: &[u8]) -> Result<T, LineError> {
    if line.len() > LINE_MAX {
        return Err(LineError::TooLong);
    }
    serde_json::from_slice(line).map_err(LineError::Garbled)
}

/// Why the agent gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens on the socket.
    #[error("the agent's socket {path} cannot be reached")]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What connecting said.
        source: io::Error,
    },
    /// The agent took the connection but did not answer in time.
    #[error("the agent did not answer on {path} within {} s", timeout.as_secs_f32())]
    TimedOut {
        /// The socket.
        path: PathBuf,
        /// How long it was given.
        timeout: Duration,
    },
    /// The connection broke before a whole line had come.
    #[error("the agent closed {path} without an answer")]
    Closed {
        /// The socket.
        path: PathBuf,
    },
    /// Reading or writing failed.
    #[error("talking to the agent on {path} failed")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// The answer cannot be read.
    #[error("the agent answered with {0}")]
    Line(#[from] LineError),
}

/// Sends one request to the agent of this run directory and waits for its reply, for no longer than `timeout`.
///
/// # Errors
/// If the agent is away, answers too late, or answers with something else than a reply. A refusal
/// ([`Reply::Error`]) is an answer.
pub fn call(run_dir: &Path, request: &Request, timeout: Duration) -> Result<Reply, CallError> {
    let path = socket_path(run_dir);
    let deadline = Instant::now() + timeout;
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            CallError::TimedOut { path: path.clone(), timeout }
        }
        _ => CallError::Io { path: path.clone(), source },
    };
    let line = encode(request);
    if line.len() > LINE_MAX {
        return Err(LineError::TooLong.into());
    }
    let mut stream = dial(&path, timeout)?;
    stream.write_all(&line).map_err(failed)?;
    let mut reply = Vec::with_capacity(512);
    let mut chunk = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(CallError::TimedOut { path: path.clone(), timeout });
        }
        stream.set_read_timeout(Some(left)).map_err(failed)?;
        let count = match stream.read(&mut chunk) {
            Ok(0) => return Err(CallError::Closed { path }),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        };
        let fresh = reply.len();
        reply.extend_from_slice(&chunk[..count]);
        if let Some(end) = reply[fresh..].iter().position(|&byte| byte == b'\n') {
            return Ok(decode(&reply[..fresh + end])?);
        }
        if reply.len() > LINE_MAX {
            return Err(LineError::TooLong.into());
        }
    }
}

/// A connection to the agent. Connecting to a Unix socket waits while its backlog is full, for as long as the
/// socket's send timeout says, so that has to be set before.
fn dial(path: &Path, timeout: Duration) -> Result<UnixStream, CallError> {
    let attempt = || -> nix::Result<OwnedFd> {
        let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        let millis = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
        setsockopt(&fd, sockopt::SendTimeout, &TimeVal::milliseconds(millis))?;
        connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(fd)
    };
    match attempt() {
        Ok(fd) => Ok(UnixStream::from(fd)),
        Err(nix::Error::EAGAIN) => Err(CallError::TimedOut { path: path.to_owned(), timeout }),
        Err(errno) => Err(CallError::Unreachable { path: path.to_owned(), source: errno.into() }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use proptest::prelude::*;

    use super::*;

    fn attachment() -> Attachment {
        Attachment { container: "c1".into(), ifname: "eth0".into() }
    }

    fn add() -> AddRequest {
        AddRequest {
            network: "manx".into(),
            container: "c1".into(),
            ifname: "eth0".into(),
            netns: "/run/netns/a".into(),
            pod: Some(PodRef { namespace: "shop".into(), name: "cart-0".into(), uid: None }),
            link: "cali0".into(),
            addresses: Vec::new(),
            mac: None,
            mtu: None,
        }
    }

    /// Agent and plugin are replaced one after the other in an upgrade, so the words between them must not change.
    #[test]
    fn the_words_on_the_wire_are_these() {
        let assignment = Assignment {
            addresses: vec!["10.0.0.7".parse().unwrap()],
            mtu: 1500,
            link: "cali0".into(),
            mac: None,
            taken_over: false,
        };
        let with_mac = Assignment { mac: Some("0a:58:0a:00:00:07".into()), ..assignment.clone() };
        let del = DelRequest { container: "c1".into(), ifname: "eth0".into(), link: "cali0".into() };
        let refusal = RpcError { code: 100, msg: "full".into(), details: String::new() };
        let requests = [
            (
                Request::Add(add()),
                r#"{"add":{"network":"manx","container":"c1","ifname":"eth0","netns":"/run/netns/a","pod":{"namespace":"shop","name":"cart-0"},"link":"cali0"}}"#,
            ),
            (Request::Del(del), r#"{"del":{"container":"c1","ifname":"eth0","link":"cali0"}}"#),
            (Request::Check(attachment()), r#"{"check":{"container":"c1","ifname":"eth0"}}"#),
            (Request::Status, r#""status""#),
            (
                Request::Gc(GcRequest { network: "manx".into(), valid: vec![attachment()] }),
                r#"{"gc":{"network":"manx","valid":[{"container":"c1","ifname":"eth0"}]}}"#,
            ),
        ];
        let replies = [
            (
                Reply::Assigned(assignment),
                r#"{"assigned":{"addresses":["10.0.0.7"],"mtu":1500,"link":"cali0"}}"#,
            ),
            (
                Reply::Known(Some(with_mac)),
                r#"{"known":{"addresses":["10.0.0.7"],"mtu":1500,"link":"cali0","mac":"0a:58:0a:00:00:07"}}"#,
            ),
            (Reply::Deleted { link_removed_by: Remover::Agent }, r#"{"deleted":{"linkRemovedBy":"agent"}}"#),
            (Reply::Known(None), r#"{"known":null}"#),
            (Reply::Collected(vec![attachment()]), r#"{"collected":[{"container":"c1","ifname":"eth0"}]}"#),
            (Reply::Ready, r#""ready""#),
            (Reply::Error(refusal), r#"{"error":{"code":100,"msg":"full"}}"#),
        ];
        for (request, words) in requests {
            assert_eq!(encode(&request), format!("{words}\n").into_bytes());
            assert_eq!(decode::<Request>(words.as_bytes()).unwrap(), request);
        }
        for (reply, words) in replies {
            assert_eq!(encode(&reply), format!("{words}\n").into_bytes());
            assert_eq!(decode::<Reply>(words.as_bytes()).unwrap(), reply);
        }
    }

    #[test]
    fn fields_that_a_newer_side_adds_are_passed_over() {
        let newer = br#"{"assigned":{"addresses":[],"mtu":1500,"link":"cali0","colour":"blue"}}"#;
        assert!(matches!(decode::<Reply>(newer), Ok(Reply::Assigned(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode::<Request>(&bytes);
            let _ = decode::<Reply>(&bytes);
        }
    }

    const BRIEF: Duration = Duration::from_millis(200);

    /// What [`call`] makes of an agent that sends these pieces and then hangs up, or falls silent.
    fn answered(pieces: &'static [&'static [u8]], hang_up: bool) -> Result<Reply, CallError> {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(socket_path(dir.path())).unwrap();
        let agent = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).unwrap();
            for piece in pieces {
                let _ = stream.write_all(piece);
            }
            if !hang_up {
                let _ = stream.read(&mut request);
            }
        });
        let reply = call(dir.path(), &Request::Status, BRIEF);
        agent.join().unwrap();
        reply
    }

    #[test]
    fn a_reply_may_come_in_pieces() {
        assert_eq!(answered(&[b"\"re", b"ady", b"\"\n"], true).unwrap(), Reply::Ready);
    }

    #[test]
    fn a_reply_without_its_end_is_none() {
        assert!(matches!(answered(&[b"\"ready\""], true), Err(CallError::Closed { .. })));
        assert!(matches!(answered(&[b"\"ready\""], false), Err(CallError::TimedOut { .. })));
        assert!(matches!(answered(&[], false), Err(CallError::TimedOut { .. })));
    }

    #[test]
    fn a_reply_that_is_none_of_this_protocol_is_refused() {
        assert!(matches!(
            answered(&[b"HTTP/1.1 200 OK\r\n"], true),
            Err(CallError::Line(LineError::Garbled(_)))
        ));
    }

    #[test]
    fn a_reply_without_bounds_is_cut_off() {
        const FLOOD: &[u8] = &[b' '; LINE_MAX + 1];
        assert!(matches!(answered(&[FLOOD], true), Err(CallError::Line(LineError::TooLong))));
    }

    #[test]
    fn an_agent_that_is_not_there_is_unreachable_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let absent = call(dir.path(), &Request::Status, BRIEF).unwrap_err();
        assert!(matches!(absent, CallError::Unreachable { .. }), "{absent}");
        drop(UnixListener::bind(socket_path(dir.path())).unwrap());
        let refused = call(dir.path(), &Request::Status, BRIEF).unwrap_err();
        assert!(matches!(refused, CallError::Unreachable { .. }), "{refused}");
    }

    #[test]
    fn an_agent_that_accepts_nobody_is_given_up_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = socket_path(dir.path());
        let listener = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        nix::sys::socket::bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(1).unwrap()).unwrap();
        let mut waiting = Vec::new();
        // The backlog takes a few before it is full.
        while let Ok(stream) = dial(&path, Duration::from_millis(20)) {
            waiting.push(stream);
        }
        let late = call(dir.path(), &Request::Status, BRIEF).unwrap_err();
        assert!(matches!(late, CallError::TimedOut { .. }), "{late}");
    }
}
