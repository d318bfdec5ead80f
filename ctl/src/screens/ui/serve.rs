//! The pages over HTTP, each of them whole or an endless stream of news (Server-Sent Events).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, Stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use super::door::Door;
use crate::screens::board::Board;

/// Connections at once; a browser takes six.
const CONNECTIONS: usize = 48;
/// The longest wait for the head of a request.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// How often a page hears something although nothing changed, so that either side notices when the other is gone.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The files of the page: name, type, text.
const FILES: [(&str, &str, &str); 8] = [
    ("", "text/html; charset=utf-8", include_str!("../page/index.html")),
    ("style.css", "text/css; charset=utf-8", include_str!("../page/style.css")),
    ("app.js", "text/javascript; charset=utf-8", include_str!("../page/app.js")),
    ("draw.js", "text/javascript; charset=utf-8", include_str!("../page/draw.js")),
    ("topology.js", "text/javascript; charset=utf-8", include_str!("../page/topology.js")),
    ("blocks.js", "text/javascript; charset=utf-8", include_str!("../page/blocks.js")),
    ("tables.js", "text/javascript; charset=utf-8", include_str!("../page/tables.js")),
    ("icon.svg", "image/svg+xml", include_str!("../page/icon.svg")),
];

/// What every answer says of itself: nothing from elsewhere, nothing to elsewhere, kept nowhere.
const RULES: [(&str, &str); 7] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
    ),
    ("cache-control", "no-store"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
];

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Serves for as long as it is polled.
pub(crate) async fn serve(listener: TcpListener, door: Arc<Door>, board: watch::Receiver<Board>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let permit = Arc::clone(&permits).acquire_owned().await;
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (door, board) = (Arc::clone(&door), board.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = answer(&request, &door, &board);
                async move { Ok::<_, Infallible>(answer) }
            });
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME);
            let _broken = server.serve_connection(TokioIo::new(stream), service).await;
            drop(permit);
        });
    }
}

fn answer<B>(request: &Request<B>, door: &Door, board: &watch::Receiver<Board>) -> Response<Body> {
    let mut response = match door.enter(request.headers(), request.uri().path()) {
        Err(refused) => text(StatusCode::FORBIDDEN, format!("{refused}\n")),
        Ok(_) if request.method() != Method::GET => {
            text(StatusCode::METHOD_NOT_ALLOWED, "this page only shows\n".to_owned())
        }
        Ok("events") => events(request, board),
        Ok(name) => match FILES.iter().find(|(file, ..)| *file == name) {
            Some(&(_, kind, content)) => page(kind, Full::from(content).boxed_unsync()),
            None => text(StatusCode::NOT_FOUND, "there is no such page\n".to_owned()),
        },
    };
    let rules = RULES.map(|(name, rule)| (HeaderName::from_static(name), HeaderValue::from_static(rule)));
    response.headers_mut().extend(rules);
    response
}

fn page(kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn text(status: StatusCode, text: String) -> Response<Body> {
    let mut response = page("text/plain; charset=utf-8", Full::from(text).boxed_unsync());
    *response.status_mut() = status;
    response
}

/// All news, from what the browser heard last.
fn events<B>(request: &Request<B>, board: &watch::Receiver<Board>) -> Response<Body> {
    let last = request.headers().get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let frames = StreamBody::new(news(board.clone(), last.unwrap_or(0)));
    page("text/event-stream", frames.boxed_unsync())
}

fn news(
    board: watch::Receiver<Board>,
    heard: u64,
) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Send {
    stream::unfold((board, heard), |(mut board, mut heard)| async move {
        let later = board.wait_for(|board| board.version() != heard);
        let event = match tokio::time::timeout(HEARTBEAT, later).await {
            Ok(Err(_)) => return None,
            Ok(Ok(board)) => {
                let line = board.since(heard).line();
                heard = board.version();
                format!("id: {heard}\ndata: {line}\n\n")
            }
            Err(_) => ": still here\n\n".to_owned(),
        };
        Some((Ok(Frame::data(Bytes::from(event))), (board, heard)))
    })
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;
    use crate::screens::view::{NodeView, View};

    fn ask(method: &str, path: &str, word: bool) -> (Door, Response<Body>) {
        let door = Door::new(9178).expect("random");
        let address = door.address();
        let prefix = if word { address.trim_start_matches("http://127.0.0.1:9178") } else { "/" };
        let request = Request::builder().method(method).uri(format!("{prefix}{path}"));
        let request = request.header("host", "127.0.0.1:9178").body(()).expect("a request");
        let (_board, shown) = watch::channel(Board::default());
        let response = answer(&request, &door, &shown);
        (door, response)
    }

    #[test]
    fn every_file_is_there_and_says_that_nothing_comes_from_elsewhere() {
        for (name, kind, content) in FILES {
            let (_, response) = ask("GET", name, true);
            assert_eq!(response.status(), StatusCode::OK, "{name}");
            assert_eq!(response.headers()[CONTENT_TYPE], kind);
            let policy = response.headers()["content-security-policy"].to_str().expect("text");
            assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"), "{policy}");
            let elsewhere = content.replace("http://www.w3.org/", "");
            assert!(
                !elsewhere.contains("http://") && !elsewhere.contains("https://"),
                "{name} names another site"
            );
        }
    }

    #[test]
    fn nothing_can_be_written_and_nothing_is_told_without_the_word() {
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
            assert_eq!(ask(method, "events", true).1.status(), StatusCode::METHOD_NOT_ALLOWED);
        }
        for path in ["", "events", "app.js"] {
            assert_eq!(ask("GET", path, false).1.status(), StatusCode::FORBIDDEN);
        }
        assert_eq!(ask("GET", "../secret", true).1.status(), StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn news_begin_with_everything_and_go_on_with_what_changes() {
        let node = |used| View {
            nodes: vec![NodeView { name: "a".to_owned(), used, ..NodeView::default() }],
            ..View::default()
        };
        let (board, shown) = watch::channel(Board::default());
        board.send_if_modified(|board| board.show(&node(1)));
        let mut news = std::pin::pin!(news(shown, 0));
        let first = next(&mut news).await;
        assert!(first.starts_with("id: 1\ndata: {\"anew\":true,"), "{first}");
        board.send_if_modified(|board| board.show(&node(2)));
        let second = next(&mut news).await;
        assert!(second.starts_with("id: 2\ndata: {\"anew\":false,\"set\":{\"node/a\""), "{second}");
    }

    async fn next(news: &mut (impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Unpin)) -> String {
        let frame = news.next().await.expect("not the end").expect("never fails");
        String::from_utf8(frame.into_data().expect("data").to_vec()).expect("text")
    }
}
