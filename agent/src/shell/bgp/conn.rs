//! The two tasks of one TCP connection: one reads into bounded buffers, one writes what did not fit at once.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use manx_bgp::ConnId;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::socket;
use crate::node::intent::Transport;

/// The most that one read takes, and that one write is given.
pub(super) const CHUNK: usize = 64 << 10;
/// How long a closed connection may take to deliver its last bytes and to see the peer's end.
const LINGER: Duration = Duration::from_secs(2);

/// What a connection tells the speaker's loop.
#[derive(Debug)]
pub(super) enum Note {
    /// Bytes came in.
    Received(ConnId, Bytes),
    /// Everything given to the writer went out.
    Written(ConnId),
    /// The connection is over.
    Closed(ConnId),
}

/// The loop's end of a connection.
#[derive(Debug)]
pub(super) struct Conn {
    writer: mpsc::Sender<Bytes>,
    closing: CancellationToken,
    /// The writer holds bytes that are not out yet.
    pub(super) busy: bool,
    /// The socket once more, to change its options while the tasks use it.
    socket: OwnedFd,
    remote: SocketAddr,
    transport: Transport,
}

impl Conn {
    /// Starts both tasks; they end with the connection or when the value is dropped. The stream is as `transport` says.
    ///
    /// # Errors
    /// When the connection is gone already, or there is no descriptor left.
    pub(super) fn start(
        id: ConnId,
        stream: TcpStream,
        transport: Transport,
        notes: mpsc::Sender<Note>,
    ) -> io::Result<Self> {
        let remote = stream.peer_addr()?;
        let socket = stream.as_fd().try_clone_to_owned()?;
        let (read, write) = stream.into_split();
        let (writer, chunks) = mpsc::channel(1);
        let closing = CancellationToken::new();
        tokio::spawn(reading(id, read, notes.clone(), closing.clone()));
        tokio::spawn(writing(id, write, chunks, notes));
        Ok(Self { writer, closing, busy: false, socket, remote, transport })
    }

    /// Makes the connection what its peer's transport is now.
    ///
    /// # Errors
    /// When the kernel refuses; the connection is then not what was asked for and must end.
    pub(super) fn change(&mut self, transport: &Transport) -> io::Result<()> {
        if self.transport != *transport {
            socket::change(&SockRef::from(&self.socket), self.remote, &self.transport, transport)?;
            self.transport = transport.clone();
        }
        Ok(())
    }

    /// Hands bytes to the writer, which is idle.
    pub(super) fn write(&mut self, bytes: Vec<u8>) {
        // The channel holds one chunk and the writer asked for it; a closed one is reported by the reader.
        self.busy = self.writer.try_send(bytes.into()).is_ok();
    }

    /// Sends the last bytes, then closes; what the peer still sends is read away, so that the
    /// kernel closes with FIN rather than RST and the peer gets to read our last message.
    pub(super) fn close(mut self, last: Vec<u8>) {
        if !last.is_empty() {
            self.write(last);
        }
        self.closing.cancel();
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

async fn reading(id: ConnId, mut read: OwnedReadHalf, notes: mpsc::Sender<Note>, closing: CancellationToken) {
    let mut buffer = BytesMut::new();
    let ended = closing.run_until_cancelled(async {
        loop {
            buffer.reserve(CHUNK);
            match read.read_buf(&mut (&mut buffer).limit(CHUNK)).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
            if notes.send(Note::Received(id, buffer.split().freeze())).await.is_err() {
                break;
            }
        }
    });
    if ended.await.is_some() {
        let _gone = notes.send(Note::Closed(id)).await;
    } else {
        let _drained = timeout(LINGER, drain(read)).await;
    }
}

async fn drain(mut read: OwnedReadHalf) -> io::Result<()> {
    let mut sink = [0; 4096];
    while read.read(&mut sink).await? > 0 {}
    Ok(())
}

async fn writing(
    id: ConnId,
    mut write: OwnedWriteHalf,
    mut chunks: mpsc::Receiver<Bytes>,
    notes: mpsc::Sender<Note>,
) {
    while let Some(chunk) = chunks.recv().await {
        if write.write_all(&chunk).await.is_err() || notes.send(Note::Written(id)).await.is_err() {
            return;
        }
    }
    let _closed = timeout(LINGER, write.shutdown()).await;
}
