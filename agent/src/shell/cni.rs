//! The allocation socket: one line of JSON in, one line out, for root only.
//!
//! The plugin is a short-lived process on this node; what it may cost is bounded here: the size of a
//! line, the time until it is complete, and how many connections are open at once.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use manx_cni::rpc::{LINE_MAX, Reply, Request, RpcError, decode, encode};
use manx_cni::spec::Code;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot::{self, channel as once};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::metrics::{self, Metrics};

/// The longest wait for a request to be complete, and for a reply to be taken.
const LINE_TIME: Duration = Duration::from_secs(5);
/// The longest that a request may take inside the agent; the runtime repeats it later.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// How many plugin calls are served at once; more wait in the backlog of the socket.
const CONNECTIONS: usize = 512;

/// A request of the plugin and the way back to it.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// Where the reply goes; a plugin that went away meanwhile is no error.
    pub reply: oneshot::Sender<Reply>,
}

/// Opens the socket, replacing one that a previous agent left behind.
///
/// The caller holds the lock of the run directory, so no living agent listens on it.
///
/// # Errors
/// When the path cannot be bound.
pub fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing the old {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(|| format!("listening on {}", path.display()))?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))
        .with_context(|| format!("setting the mode of {}", path.display()))?;
    Ok(listener)
}

/// Serves calls for as long as the process lives.
pub async fn serve(listener: UnixListener, calls: mpsc::Sender<Call>, metrics: Metrics) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let permit = Arc::clone(&permits).acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let (calls, metrics) = (calls.clone(), metrics.clone());
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, &calls, &metrics).await {
                        tracing::debug!(%error, "a call on the allocation socket ended early");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a call of the plugin cannot be accepted; it is tried again");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn converse(mut stream: UnixStream, calls: &mpsc::Sender<Call>, metrics: &Metrics) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    if uid != nix::unistd::geteuid().as_raw() && uid != 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("uid {uid} is not root")));
    }
    let reply = match timeout(LINE_TIME, read_request(&mut stream)).await {
        Ok(Ok(request)) => {
            let (verb, arrived) = (metrics::verb(&request), Instant::now());
            let reply = answer(request, calls).await;
            metrics.called(verb, &reply, arrived.elapsed());
            reply
        }
        Ok(Err(error)) => refusal(Code::DECODE, "the request cannot be read", &error.to_string()),
        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
    };
    timeout(LINE_TIME, stream.write_all(&encode(&reply))).await?
}

async fn read_request(stream: &mut UnixStream) -> io::Result<Request> {
    let mut line = Vec::with_capacity(1024);
    BufReader::new(stream.take(LINE_MAX as u64)).read_until(b'\n', &mut line).await?;
    if line.last() != Some(&b'\n') {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the line has no end"));
    }
    decode(&line).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

async fn answer(request: Request, calls: &mpsc::Sender<Call>) -> Reply {
    let (reply, answered) = once();
    if calls.send(Call { request, reply }).await.is_err() {
        return refusal(Code::TRY_AGAIN, "the agent is stopping", "try again");
    }
    match timeout(ANSWER_TIME, answered).await {
        Ok(Ok(reply)) => reply,
        Ok(Err(_)) => refusal(Code::TRY_AGAIN, "the agent is stopping", "try again"),
        Err(_) => refusal(Code::TRY_AGAIN, "the agent did not answer in time", "try again"),
    }
}

fn refusal(code: Code, msg: &str, details: &str) -> Reply {
    Reply::Error(RpcError { code: code.0, msg: msg.to_owned(), details: details.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A socket behind which every status call is answered with "ready".
    fn answering() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("agent.sock");
        let (calls_in, mut calls) = mpsc::channel::<Call>(4);
        tokio::spawn(serve(listen(&path).expect("listening"), calls_in, Metrics::default()));
        tokio::spawn(async move {
            while let Some(call) = calls.recv().await {
                let _gone = call.reply.send(Reply::Ready);
            }
        });
        (dir, path)
    }

    async fn exchange(path: &Path, line: &[u8]) -> Reply {
        let mut stream = UnixStream::connect(path).await.expect("connected");
        stream.write_all(line).await.expect("written");
        stream.shutdown().await.expect("ended");
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).await.expect("read");
        decode(&reply).expect("a reply")
    }

    #[tokio::test]
    async fn a_call_is_answered_with_one_line() {
        let (_dir, path) = answering();
        assert_eq!(exchange(&path, &encode(&Request::Status)).await, Reply::Ready);
    }

    #[tokio::test]
    async fn a_line_that_is_no_request_is_refused_with_the_reason() {
        let (_dir, path) = answering();
        for line in [&b"{\"status\n"[..], b"hello\n", b"\"status\""] {
            let Reply::Error(error) = exchange(&path, line).await else { panic!("refused") };
            assert_eq!(error.code, Code::DECODE.0);
        }
    }

    #[tokio::test]
    async fn an_old_socket_is_replaced_and_the_new_one_is_for_root_only() {
        let (_dir, path) = answering();
        listen(&path).expect("listening again");
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
