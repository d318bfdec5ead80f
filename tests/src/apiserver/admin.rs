//! The paths under `/-/` by which other processes inject faults and read the request log.
//!
//! | method and path | effect |
//! |---|---|
//! | `GET /-/requests`, `DELETE` | requests counted by kind; start afresh |
//! | `GET /-/log` | the newest requests in full |
//! | `GET /-/watches`, `DELETE ?resource=` | open watches; cut them |
//! | `GET /-/faults`, `POST`, `DELETE`, `DELETE /-/faults/ID` | the rules in force; add one; end them |
//! | `POST /-/compact?resource=` | forget the history: watchers and late comers are told 410 |
//! | `POST /-/silence?seconds=`, `DELETE` | say nothing on any connection, for so long |
//! | `POST /-/outage?seconds=`, `DELETE` | stop listening and cut every connection, for so long |

use std::sync::Arc;
use std::time::Duration;

use hyper::{Method, Response};
use serde_json::{Value, json};

use super::Shared;
use super::call::Query;
use super::failure::Failure;
use super::faults::Fault;
use super::http::{self, Body};

/// Answers a request below `/-/`.
pub(crate) fn serve(
    shared: &Arc<Shared>,
    method: &Method,
    path: &str,
    query: &Query,
    body: &[u8],
) -> Response<Body> {
    let outcome = match path {
        "silence" => silence(shared, method, query),
        "outage" => outage(shared, method, query),
        _ => look_or_set(shared, method, path, query, body),
    };
    match outcome {
        Ok(value) => http::json(200, &value),
        Err(failure) => http::refusal(&failure),
    }
}

fn look_or_set(
    shared: &Arc<Shared>,
    method: &Method,
    path: &str,
    query: &Query,
    body: &[u8],
) -> Result<Value, Failure> {
    let resource = Some(query.text("resource")).filter(|resource| !resource.is_empty());
    let done = || Ok(json!({"done": true}));
    match (method, path) {
        (&Method::GET, "requests") => {
            let counts = shared.requests.counts();
            let total: u64 = counts.values().sum();
            let kinds: Vec<Value> = counts
                .iter()
                .map(|(kind, count)| {
                    let mut entry = json!(kind);
                    entry["count"] = (*count).into();
                    entry
                })
                .collect();
            Ok(json!({"total": total, "kinds": kinds}))
        }
        (&Method::DELETE, "requests") => {
            shared.requests.reset();
            done()
        }
        (&Method::GET, "log") => Ok(json!(shared.requests.newest())),
        (&Method::GET, "watches") => Ok(json!(shared.watches.list())),
        (&Method::DELETE, "watches") => Ok(json!({"cut": shared.watches.cut(resource)})),
        (&Method::POST, "compact") => {
            shared.state().store.compact(|(_, plural)| resource.is_none_or(|r| r == plural));
            done()
        }
        (&Method::GET, "faults") => {
            let list = shared.faults.list().into_iter();
            Ok(list.map(|(id, fault)| json!({"id": id, "fault": fault})).collect())
        }
        (&Method::POST, "faults") => {
            let fault: Fault = serde_json::from_slice(body)
                .map_err(|why| Failure::bad_request(format!("this is not a fault: {why}")))?;
            Ok(json!({"id": shared.faults.add(fault)}))
        }
        (&Method::DELETE, "faults") => {
            shared.faults.clear();
            done()
        }
        (&Method::DELETE, one) => {
            let id = one.strip_prefix("faults/").and_then(|id| id.parse().ok());
            let removed = id.is_some_and(|id| shared.faults.remove(id));
            if removed { done() } else { Err(Failure::no_such_path()) }
        }
        _ => Err(Failure::no_such_path()),
    }
}

fn silence(shared: &Arc<Shared>, method: &Method, query: &Query) -> Result<Value, Failure> {
    if method == Method::DELETE {
        shared.faults.speak();
        return Ok(json!({"silent": false}));
    }
    shared.faults.fall_silent();
    let faults = Arc::clone(&shared.faults);
    later(query, async move { faults.speak() })?;
    Ok(json!({"silent": true}))
}

/// Answers before the outage begins, since the answer may travel on a connection that the outage cuts.
fn outage(shared: &Arc<Shared>, method: &Method, query: &Query) -> Result<Value, Failure> {
    let faults = Arc::clone(&shared.faults);
    if method == Method::DELETE {
        tokio::spawn(async move { faults.come_back().await });
        return Ok(json!({"presence": "up"}));
    }
    later(query, {
        let faults = Arc::clone(&faults);
        async move { faults.come_back().await }
    })?;
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(50)).await;
        faults.go_away().await;
    });
    Ok(json!({"presence": "away"}))
}

/// Carries out `end` after `seconds`, if the query has them.
fn later(query: &Query, end: impl Future<Output = ()> + Send + 'static) -> Result<(), Failure> {
    if let Some(seconds) = query.number("seconds")? {
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            end.await;
        });
    }
    Ok(())
}
