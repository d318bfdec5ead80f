//! `/healthz`, `/readyz` and `/metrics` over plain HTTP on a local address; and what BGP knows, for this machine only.

use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::bgp::{BgpPages, PAGES};

/// How many requests are served at once.
const CONNECTIONS: usize = 16;
/// The longest wait for the head of a request.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// How long an address may be in use by an agent that was killed a moment ago: the kernel closes its sockets one by one.
const VACATED: Duration = Duration::from_secs(5);
/// The pause between two attempts meanwhile.
const AGAIN: Duration = Duration::from_millis(50);
/// The longest that one connection lives.
const CONNECTION_TIME: Duration = Duration::from_secs(60);

/// What the three pages show.
pub trait Pages: Send + Sync + 'static {
    /// What keeps the process from being alive; empty when all is well.
    fn ailments(&self) -> Vec<String>;
    /// What keeps this process from serving; empty when it is ready.
    fn obstacles(&self) -> Vec<String>;
    /// The metrics in the text format of OpenMetrics.
    fn metrics(&self) -> String;
    /// What BGP knows, if this process speaks it.
    fn bgp(&self) -> Option<&BgpPages> {
        None
    }
}

/// Serves the pages for as long as the process lives.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(address: SocketAddr, pages: Arc<dyn Pages>) -> anyhow::Result<()> {
    let listener = bind(address).await.with_context(|| format!("listening on {address}"))?;
    serve_at(listener, pages).await
}

/// Listens there, once whoever does now has gone.
async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let end = Instant::now() + VACATED;
    loop {
        match TcpListener::bind(address).await {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < end => {
                tokio::time::sleep(AGAIN).await;
            }
            bound => return bound,
        }
    }
}

/// The same, where somebody listens already.
pub async fn serve_at(listener: TcpListener, pages: Arc<dyn Pages>) -> ! {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let permit = Arc::clone(&permits).acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, from)) => {
                let local = from.ip().to_canonical().is_loopback();
                let pages = Arc::clone(&pages);
                tokio::spawn(async move {
                    let _ended = tokio::time::timeout(CONNECTION_TIME, converse(stream, local, pages)).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a request for health or metrics cannot be accepted; it is tried again");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, local: bool, pages: Arc<dyn Pages>) -> hyper::Result<()> {
    let service = service_fn(move |request: Request<Incoming>| {
        let pages = Arc::clone(&pages);
        async move { Ok::<_, Infallible>(answer(&request, local, &*pages).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

/// `local`: whoever asks is on this machine.
async fn answer<B>(request: &Request<B>, local: bool, pages: &dyn Pages) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    match pages.bgp().filter(|_| path.starts_with(PAGES) && request.method() == Method::GET) {
        Some(bgp) if local => bgp.get(request.uri()).await,
        Some(_) => page(StatusCode::FORBIDDEN, "only this machine is told: ask 127.0.0.1 there\n".to_owned()),
        None => respond(request.method(), path, pages),
    }
}

fn respond(method: &Method, path: &str, pages: &dyn Pages) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        return page(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered\n".to_owned());
    }
    match path {
        "/healthz" => verdict(pages.ailments()),
        "/readyz" => verdict(pages.obstacles()),
        "/metrics" => {
            let mut response = page(StatusCode::OK, pages.metrics());
            let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        _ => page(StatusCode::NOT_FOUND, "/healthz /readyz /metrics\n".to_owned()),
    }
}

fn verdict(complaints: Vec<String>) -> Response<Full<Bytes>> {
    if complaints.is_empty() {
        page(StatusCode::OK, "ok\n".to_owned())
    } else {
        page(StatusCode::SERVICE_UNAVAILABLE, complaints.join("\n") + "\n")
    }
}

fn page(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Node {
        obstacles: Vec<String>,
    }

    impl Pages for Node {
        fn ailments(&self) -> Vec<String> {
            Vec::new()
        }
        fn obstacles(&self) -> Vec<String> {
            self.obstacles.clone()
        }
        fn metrics(&self) -> String {
            "# EOF\n".to_owned()
        }
    }

    #[test]
    fn an_agent_that_is_alive_but_not_ready_says_so_on_different_pages() {
        let node = Node { obstacles: vec!["no pool selects this node".to_owned()] };
        assert_eq!(respond(&Method::GET, "/healthz", &node).status(), StatusCode::OK);
        assert_eq!(respond(&Method::GET, "/readyz", &node).status(), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_is_given_up_in_time_is_taken_and_one_that_is_not_is_an_error() {
        let before = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = before.local_addr().expect("bound");
        let error = bind(address).await.expect_err("it is in use");
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        let binding = tokio::spawn(bind(address));
        tokio::time::sleep(AGAIN * 3).await;
        drop(before);
        binding.await.expect("no panic").expect("it is free");
    }

    #[test]
    fn a_write_is_refused() {
        let node = Node { obstacles: Vec::new() };
        assert_eq!(respond(&Method::POST, "/readyz", &node).status(), StatusCode::METHOD_NOT_ALLOWED);
    }
}
