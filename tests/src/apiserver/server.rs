//! The listening end: accepts connections, and goes away and comes back when told to.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Shared;
use super::faults::Presence;
use super::http;

/// Serves until `stop`; closes and reopens the address as the faults say.
pub(crate) async fn run(
    shared: Arc<Shared>,
    first: TcpListener,
    address: SocketAddr,
    stop: CancellationToken,
) {
    let mut wanted = shared.faults.wanted.subscribe();
    let mut listener = Some(first);
    while let Some(open) = listener.take() {
        shared.faults.actual.send_replace(Presence::Up);
        let cut = stop.child_token();
        let connections = TaskTracker::new();
        tokio::select! {
            () = accept_all(&shared, &open, &cut, &connections) => {}
            () = until(&mut wanted, Presence::Away) => {}
            () = stop.cancelled() => {}
        }
        drop(open);
        cut.cancel();
        connections.close();
        connections.wait().await;
        shared.faults.actual.send_replace(Presence::Away);
        if !stop.is_cancelled() {
            listener = tokio::select! {
                () = until(&mut wanted, Presence::Up) => TcpListener::bind(address).await.ok(),
                () = stop.cancelled() => None,
            };
        }
    }
}

async fn until(wanted: &mut watch::Receiver<Presence>, presence: Presence) {
    // The other end lives in the faults, which the caller holds: it cannot be gone.
    let _ = wanted.wait_for(|wanted| *wanted == presence).await;
}

/// Serves the same paths on a Unix socket that no outage closes.
pub(crate) fn control(shared: Arc<Shared>, listener: UnixListener, stop: CancellationToken) {
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            if let Ok((stream, _)) = accepted {
                tokio::spawn(connection(Arc::clone(&shared), stream, stop.child_token()));
            }
        }
    });
}

async fn accept_all(
    shared: &Arc<Shared>,
    listener: &TcpListener,
    cut: &CancellationToken,
    connections: &TaskTracker,
) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Without it a watch event may wait for the acknowledgement of the one before.
                let _ = stream.set_nodelay(true);
                connections.spawn(connection(Arc::clone(shared), stream, cut.clone()));
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

async fn connection<S>(shared: Arc<Shared>, stream: S, cut: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(move |request| http::serve(Arc::clone(&shared), request));
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // What goes wrong on one connection is its client's business.
        _ = connection => {}
        () = cut.cancelled() => {}
    }
}
