//! What the health address tells of BGP, to this machine only: `/bgp/explain`,
//! `/bgp/routes`, `/bgp/mrt`.

use std::sync::Arc;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode, Uri};
use manx_bgp::{PeerId, Prefix};
use manx_facts::bgp::{RouteLine, RoutesQuestion, Side};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::facts;
use super::questions::{Asker, Part, ToldTo};

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
            "/bgp/routes" => self.routes(uri.query().unwrap_or_default()).await,
            "/bgp/mrt" => self.mrt().await,
            _ => text(
                StatusCode::NOT_FOUND,
                "/bgp/explain?prefix=10.0.0.0/24 /bgp/routes?side=best /bgp/mrt\n".to_owned(),
            ),
        }
    }

    async fn explain(&self, query: &str) -> Response<Full<Bytes>> {
        let prefix = match prefix_of(query) {
            Ok(prefix) => prefix,
            Err(why) => return text(StatusCode::BAD_REQUEST, why + "\n"),
        };
        let explained = match value(query, "covering") {
            Some(_) => self.asker.explain_covering(prefix).await,
            None => self.asker.explain(prefix).await,
        };
        match explained {
            Ok(explanation) if value(query, "format").as_deref() == Some("json") => {
                json(&facts::explained(&explanation))
            }
            Ok(explanation) => text(StatusCode::OK, explanation.to_string()),
            Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
        }
    }

    /// A part of a table: `side=best|in|out`, `peer=NAME`, `within=PREFIX`, and `from=NUMBER` with what the part before
    /// said in `next`.
    async fn routes(&self, query: &str) -> Response<Full<Bytes>> {
        let (question, from) = match routes_of(query) {
            Ok(question) => question,
            Err(why) => return text(StatusCode::BAD_REQUEST, why + "\n"),
        };
        let told = match (question.side, &question.peer) {
            (Side::Out, Some(peer)) => ToldTo::One(PeerId::from(peer.as_str())),
            (Side::Out, None) => ToldTo::All,
            (Side::Best | Side::In, _) => ToldTo::Nobody,
        };
        let within = question.within.and_then(|within| Prefix::new(within).ok());
        match self.asker.part(Part { from, within, told }).await {
            Ok((explanations, next)) => {
                let lines = explanations.iter().flat_map(|e| facts::lines(e, question.side));
                let wanted = |line: &RouteLine| question.peer.is_none() || line.peer == question.peer;
                json(&RoutesPart { routes: lines.filter(wanted).collect(), next })
            }
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

/// The prefix of `prefix=10.0.0.0/24`.
fn prefix_of(query: &str) -> Result<Prefix, String> {
    let given = value(query, "prefix").ok_or("the prefix is missing: write ?prefix=10.0.0.0/24")?;
    given.parse().map_err(|error| format!("{given:?} is no prefix: {error}"))
}

/// What stands for a name in a query; slashes and colons may be escaped.
fn value(query: &str, name: &str) -> Option<String> {
    let of_name = |pair: &str| pair.strip_prefix(name)?.strip_prefix('=').map(str::to_owned);
    let given = query.split('&').find_map(of_name)?;
    Some(given.replace("%2F", "/").replace("%2f", "/").replace("%3A", ":").replace("%3a", ":"))
}

/// Which part of which table a query asks for, and the number of its first prefix.
fn routes_of(query: &str) -> Result<(RoutesQuestion, u32), String> {
    let side = match value(query, "side").as_deref() {
        None | Some("best") => Side::Best,
        Some("in") => Side::In,
        Some("out") => Side::Out,
        Some(other) => return Err(format!("{other:?} is no table: say side=best, side=in or side=out")),
    };
    let within = match value(query, "within") {
        None => None,
        Some(given) => {
            let prefix: Prefix = given.parse().map_err(|error| format!("{given:?} is no prefix: {error}"))?;
            Some(prefix.into())
        }
    };
    let from = value(query, "from").map_or(Ok(0), |given| given.parse());
    let from = from.map_err(|error| format!("from= wants a number: {error}"))?;
    Ok((RoutesQuestion { side, peer: value(query, "peer"), within, most: 0 }, from))
}

/// A part of a table, and where the next one begins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutesPart {
    /// Its routes.
    pub routes: Vec<RouteLine>,
    /// For the next part; nothing after the last.
    pub next: Option<u32>,
}

fn json<T: Serialize>(answer: &T) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec(answer).expect("facts have string keys");
    let mut response = Response::new(Full::new(Bytes::from(body)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
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

    #[test]
    fn a_part_of_a_table_is_asked_for_by_side_peer_and_network() {
        let (question, from) =
            routes_of("side=out&peer=node%2Fb&within=10.0.0.0%2F8&from=7").expect("well formed");
        assert_eq!((question.side, question.peer.as_deref(), from), (Side::Out, Some("node/b"), 7));
        assert!(question.within.is_some());
        for (query, wrong) in [("side=up", "side=best"), ("within=x", "no prefix"), ("from=x", "a number")] {
            assert!(routes_of(query).is_err_and(|why| why.contains(wrong)), "{query}");
        }
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
