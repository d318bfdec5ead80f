//! What the health address tells of BGP, to this machine only: `/bgp/explain`, `/bgp/mrt`.

use std::sync::Arc;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode, Uri};
use manx_bgp::Prefix;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::questions::Asker;

/// The beginning of all paths that are answered here.
pub const ROOT: &str = "/bgp/";

/// Answers requests by asking the speaker.
#[derive(Debug)]
pub struct BgpPages {
    asker: Asker,
    /// A dump is as large as the table: there is one at a time.
    dumps: Arc<Semaphore>,
}

/// A dump, and the right to have one for as long as it is being sent.
struct Dump {
    file: Vec<u8>,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Dump {
    fn as_ref(&self) -> &[u8] {
        &self.file
    }
}

impl BgpPages {
    /// Pages whose answers come from there.
    pub fn new(asker: Asker) -> Self {
        Self { asker, dumps: Arc::new(Semaphore::new(1)) }
    }

    /// Answers a GET.
    pub async fn get(&self, uri: &Uri) -> Response<Full<Bytes>> {
        match uri.path() {
            "/bgp/explain" => self.explain(uri.query().unwrap_or_default()).await,
            "/bgp/mrt" => self.mrt().await,
            _ => text(StatusCode::NOT_FOUND, "/bgp/explain?prefix=10.0.0.0/24 /bgp/mrt\n".to_owned()),
        }
    }

    async fn explain(&self, query: &str) -> Response<Full<Bytes>> {
        let prefix = match prefix_of(query) {
            Ok(prefix) => prefix,
            Err(why) => return text(StatusCode::BAD_REQUEST, why + "\n"),
        };
        match self.asker.explain(prefix).await {
            Ok(explanation) => text(StatusCode::OK, explanation.to_string()),
            Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
        }
    }

    async fn mrt(&self) -> Response<Full<Bytes>> {
        let Ok(permit) = Arc::clone(&self.dumps).try_acquire_owned() else {
            return text(
                StatusCode::SERVICE_UNAVAILABLE,
                "another dump is being sent: ask again\n".to_owned(),
            );
        };
        match self.asker.mrt().await {
            Ok(file) => {
                let body = Bytes::from_owner(Dump { file, _permit: permit });
                let mut response = Response::new(Full::new(body));
                let kind = HeaderValue::from_static("application/octet-stream");
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
        }
    }
}

/// The prefix of `prefix=10.0.0.0/24`, whose slash and colons may be escaped.
fn prefix_of(query: &str) -> Result<Prefix, String> {
    let given = query.split('&').find_map(|pair| pair.strip_prefix("prefix="));
    let given = given.ok_or("the prefix is missing: write ?prefix=10.0.0.0/24")?;
    let given = given.replace("%2F", "/").replace("%2f", "/").replace("%3A", ":").replace("%3a", ":");
    given.parse().map_err(|error| format!("{given:?} is no prefix: {error}"))
}

fn text(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::super::questions::questions;
    use super::*;

    #[test]
    fn a_prefix_may_be_escaped_and_must_be_one() {
        let plain = prefix_of("prefix=2001:db8::/32");
        assert_eq!(plain, prefix_of("a=b&prefix=2001%3Adb8%3a%3A%2F32"));
        assert!(plain.is_ok());
        assert!(prefix_of("prefix=10.0.0.1/8").is_err_and(|why| why.contains("10.0.0.1/8")));
        assert!(prefix_of("").is_err_and(|why| why.contains("?prefix=")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_speaker_that_is_starting_is_said_so_after_a_while() {
        let (asker, _questions) = questions();
        let response = BgpPages::new(asker).get(&Uri::from_static("/bgp/explain?prefix=10.0.0.0/8")).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_one_dump_at_a_time() {
        let (asker, mut questions) = questions();
        let pages = Arc::new(BgpPages::new(asker));
        let mrt = Uri::from_static("/bgp/mrt");
        let first = tokio::spawn({
            let (pages, mrt) = (Arc::clone(&pages), mrt.clone());
            async move { pages.get(&mrt).await }
        });
        let question = questions.recv().await.expect("a question");
        assert_eq!(pages.get(&mrt).await.status(), StatusCode::SERVICE_UNAVAILABLE);
        let super::super::questions::Question::Mrt(answer) = question else { panic!("{question:?}") };
        answer.send(vec![1]).expect("somebody waits");
        let response = first.await.expect("answered");
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(pages.get(&mrt).await.status(), StatusCode::SERVICE_UNAVAILABLE, "it is still being sent");
        drop(response);
        assert_eq!(pages.dumps.available_permits(), 1);
    }
}
