//! From an HTTP request to a verb and back: routing, bodies, faults, the request log.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue, RETRY_AFTER, USER_AGENT, WARNING};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::Value;
use tokio::time::Instant;

use super::Shared;
use super::admin;
use super::call::{Call, Query, Shape, Target};
use super::delete::{self, DeleteOptions};
use super::discovery;
use super::failure::Failure;
use super::faults::{Effect, Subject};
use super::patch;
use super::protobuf;
use super::read;
use super::reply;
use super::requests;
use super::watch;
use super::write::{self, Written};

/// A body that is sent at once or bit by bit.
pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The largest body that is read, as in a real API server.
const LARGEST_BODY: usize = 3 << 20;

/// The connection is to be cut instead of answered.
#[derive(Debug, thiserror::Error)]
#[error("connection cut by an injected fault")]
pub(crate) struct ConnectionCut;

/// Answers one request.
///
/// # Errors
/// When an injected fault wants the connection cut.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Body>, ConnectionCut> {
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, LARGEST_BODY).collect().await.map(|body| body.to_bytes());
    let Ok(body) = body else {
        return Ok(refusal(&Failure::injected(413, "the body of the request is too large", None)));
    };
    if let Some(path) = parts.uri.path().strip_prefix("/-/") {
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        return Ok(admin::serve(&shared, &parts.method, path, &query, &body));
    }
    let started = Instant::now();
    let subject = subject(&parts);
    let outcome = under_faults(&shared, &subject, &parts, &body).await;
    let code = outcome.as_ref().map_or(0, |response| response.status().as_u16());
    shared.requests.record(requests::Request { subject, code, took: started.elapsed() });
    outcome
}

async fn under_faults(
    shared: &Arc<Shared>,
    subject: &Subject,
    parts: &Parts,
    body: &Bytes,
) -> Result<Response<Body>, ConnectionCut> {
    let verdict = shared.faults.judge(subject);
    if !verdict.delay.is_zero() {
        tokio::time::sleep(verdict.delay).await;
    }
    shared.faults.audible().await;
    match verdict.effect {
        Some(Effect::Refuse { code, retry_after }) => {
            Ok(refusal(&Failure::injected(code, "a fault was injected here", retry_after)))
        }
        Some(Effect::Hang) => std::future::pending().await,
        Some(Effect::Cut) => Err(ConnectionCut),
        Some(Effect::CutAfter) => {
            drop(answer(shared, parts, body));
            Err(ConnectionCut)
        }
        Some(Effect::Delay(_)) | None => Ok(answer(shared, parts, body)),
    }
}

fn answer(shared: &Arc<Shared>, parts: &Parts, body: &Bytes) -> Response<Body> {
    let response = match Target::parse(parts.uri.path()) {
        Some(target) => objects(shared, parts, target, body),
        None => discovery::serve(shared, parts),
    };
    response.unwrap_or_else(|failure| refusal(&failure))
}

fn header<'a>(parts: &'a Parts, name: &hyper::header::HeaderName) -> &'a str {
    parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn subject(parts: &Parts) -> Subject {
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let user_agent = header(parts, &USER_AGENT).to_owned();
    let Some(target) = Target::parse(parts.uri.path()) else {
        let resource = parts.uri.path().to_owned();
        let (namespace, name) = (String::new(), String::new());
        return Subject { verb: "other".into(), resource, namespace, name, user_agent };
    };
    let verb = match (&parts.method, target.name.is_empty(), query.flag("watch")) {
        (&Method::GET, true, true) => "watch",
        (&Method::GET, true, false) => "list",
        (&Method::GET, false, _) => "get",
        (&Method::POST, ..) => "create",
        (&Method::PUT, ..) => "update",
        (&Method::PATCH, ..) => "patch",
        (&Method::DELETE, true, _) => "deletecollection",
        (&Method::DELETE, false, _) => "delete",
        _ => "other",
    };
    let resource = match target.subresource.as_str() {
        "" => target.plural,
        subresource => format!("{}/{subresource}", target.plural),
    };
    Subject { verb: verb.into(), resource, namespace: target.namespace, name: target.name, user_agent }
}

fn objects(
    shared: &Arc<Shared>,
    parts: &Parts,
    target: Target,
    body: &Bytes,
) -> Result<Response<Body>, Failure> {
    let call = Call {
        target,
        query: Query::parse(parts.uri.query().unwrap_or_default()),
        shape: Shape::from_accept(header(parts, &ACCEPT)),
        user_agent: header(parts, &USER_AGENT).to_owned(),
    };
    let state = &mut *shared.state();
    let resource = state.resource(&call)?;
    let content_type = header(parts, &CONTENT_TYPE).split(';').next().unwrap_or_default().trim();
    let read_body = || parse_body(content_type, body);
    let written = |written: Written| {
        let shown = reply::object(&resource, &call, &written.object);
        with_warnings(json(written.code, &shown), &written.warnings)
    };
    let named = !call.target.name.is_empty();
    match (&parts.method, named) {
        (&Method::GET, true) => {
            let object = read::get(state, &call, &resource)?;
            Ok(json(200, &reply::object(&resource, &call, &object)))
        }
        (&Method::GET, false) if call.query.flag("watch") => {
            Ok(streamed(watch::open(shared, state, &call, &resource)?))
        }
        (&Method::GET, false) => {
            let page = read::list(state, &call, &resource)?;
            Ok(json(200, &reply::list(&resource, &call, &page)))
        }
        (&Method::POST, false) => write::create(state, &call, &resource, read_body()?).map(written),
        (&Method::PUT, true) => write::update(state, &call, &resource, read_body()?).map(written),
        (&Method::PATCH, true) => {
            let body = parse_body("application/yaml", body)?;
            patch::patch(state, &call, &resource, content_type, &body).map(written)
        }
        (&Method::DELETE, _) => {
            let options = if body.is_empty() { Value::Null } else { read_body()? };
            let options = DeleteOptions::parse(&options, &call.query)?;
            let gone = if named { delete::delete } else { delete::delete_collection };
            Ok(json(200, &gone(state, &call, &resource, &options)?))
        }
        _ => Err(Failure::method_not_allowed()),
    }
}

/// The formats in which objects are read.
const ACCEPTED: &str = "application/json, application/yaml";

fn parse_body(content_type: &str, body: &[u8]) -> Result<Value, Failure> {
    match content_type {
        "" | "application/json" | "*/*" => serde_json::from_slice(body)
            .map_err(|why| Failure::bad_request(format!("the body of the request is not JSON: {why}"))),
        "application/yaml" => serde_json::from_slice(body)
            .ok()
            .map_or_else(|| serde_yaml_ng::from_slice(body), Ok)
            .map_err(|why| Failure::bad_request(format!("the body of the request is not YAML: {why}"))),
        "application/vnd.kubernetes.protobuf" => {
            protobuf::read(body).ok_or_else(|| Failure::unsupported_media_type(ACCEPTED))
        }
        _ => Err(Failure::unsupported_media_type(ACCEPTED)),
    }
}

/// A JSON answer.
pub(crate) fn json(code: u16, value: &Value) -> Response<Body> {
    typed(code, "application/json", value.to_string().into_bytes())
}

/// An answer of any type.
pub(crate) fn typed(code: u16, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A `Status`, with `Retry-After` if it asks for patience.
pub(crate) fn refusal(failure: &Failure) -> Response<Body> {
    if failure.code == 404 && failure.details.is_null() {
        return typed(404, "text/plain; charset=utf-8", "404 page not found\n");
    }
    let mut response = json(failure.code, &failure.status());
    if let Some(seconds) = failure.retry_after() {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn with_warnings(mut response: Response<Body>, warnings: &[String]) -> Response<Body> {
    for warning in warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(WARNING, value);
        }
    }
    response
}

fn streamed(lines: impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + 'static) -> Response<Body> {
    let mut response = Response::new(StreamBody::new(lines).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
