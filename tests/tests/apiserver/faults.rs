//! Faults, the request log and the admin paths of the embedded server.

use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use kube::api::{Api, DynamicObject, ListParams, PostParams};
use kube::runtime::watcher;
use kube::{Error, ResourceExt};
use manx_tests::apiserver::{Effect, Fault, When};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::cluster::Cluster;
use super::objects::code_of;

crate::tests![
    answers_come_late_when_told_to,
    refusals_hit_what_they_are_aimed_at,
    a_lost_answer_leaves_the_write_done,
    a_cut_request_is_not_carried_out,
    an_outage_cuts_connections_and_keeps_the_data,
    a_silent_server_answers_when_it_speaks_again,
    a_cut_watch_resumes_without_a_list,
    a_watcher_survives_a_forgotten_history,
    requests_are_counted_by_verb_resource_and_client,
    other_processes_inject_faults_over_http,
    the_control_socket_outlives_an_outage,
];

async fn make(cluster: &Cluster, widgets: &Api<DynamicObject>, name: &str) -> Result<DynamicObject, Error> {
    widgets.create(&PostParams::default(), &cluster.widget(name, &json!({"size": 1}))).await
}

async fn answers_come_late_when_told_to(cluster: Cluster) {
    let widgets = cluster.widgets().await;
    let delay = Duration::from_millis(150);
    cluster.server().faults().add(Fault::new(Effect::Delay(delay)).verb("list").when(When::Next(1)));
    let started = Instant::now();
    widgets.list(&ListParams::default()).await.expect("late");
    assert!(started.elapsed() >= delay);
    let started = Instant::now();
    widgets.list(&ListParams::default()).await.expect("at once");
    assert!(started.elapsed() < delay);
}

async fn refusals_hit_what_they_are_aimed_at(cluster: Cluster) {
    let widgets = cluster.widgets().await;
    let faults = cluster.server().faults();
    faults.add(Fault::refuse(500).verb("create").resource("widgets").when(When::Next(2)));
    assert_eq!(code_of(make(&cluster, &widgets, "a").await), 500);
    assert_eq!(code_of(make(&cluster, &widgets, "a").await), 500);
    make(&cluster, &widgets, "a").await.expect("the fault is spent");
    faults.add(Fault::refuse(409).resource("widgets").name("a"));
    assert_eq!(code_of(widgets.get("a").await), 409);
    assert_eq!(code_of(widgets.get("b").await), 404);
    faults.clear();
    widgets.get("a").await.expect("no faults");
}

async fn a_lost_answer_leaves_the_write_done(cluster: Cluster) {
    let widgets = cluster.widgets().await;
    cluster.server().faults().add(Fault::new(Effect::CutAfter).verb("create").when(When::Next(1)));
    assert!(!matches!(make(&cluster, &widgets, "a").await, Ok(_) | Err(Error::Api(_))));
    assert_eq!(code_of(make(&cluster, &widgets, "a").await), 409);
}

async fn a_cut_request_is_not_carried_out(cluster: Cluster) {
    let widgets = cluster.widgets().await;
    cluster.server().faults().add(Fault::new(Effect::Cut).verb("create").when(When::Next(1)));
    assert!(!matches!(make(&cluster, &widgets, "a").await, Ok(_) | Err(Error::Api(_))));
    make(&cluster, &widgets, "a").await.expect("the name is free");
}

async fn an_outage_cuts_connections_and_keeps_the_data(cluster: Cluster) {
    let widgets = cluster.widgets().await;
    make(&cluster, &widgets, "a").await.expect("valid");
    let mut events = pin!(watcher(widgets.clone(), watcher::Config::default()));
    for _ in 0..3 {
        events.next().await.expect("never ends").expect("no error");
    }
    cluster.server().faults().go_away().await;
    assert!(cluster.server().watches().is_empty());
    assert!(!matches!(widgets.list(&ListParams::default()).await, Ok(_) | Err(Error::Api(_))));
    let lost = async { while events.next().await.expect("never ends").is_ok() {} };
    tokio::time::timeout(Duration::from_secs(5), lost).await.expect("the watcher notices");
    cluster.server().faults().come_back().await;
    widgets.get("a").await.expect("nothing is lost");
    make(&cluster, &widgets, "b").await.expect("valid");
    let seen = async {
        loop {
            let event = events.next().await.expect("never ends");
            if let Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) = event
                && object.name_any() == "b"
            {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), seen).await.expect("the watcher resumes");
}

async fn a_silent_server_answers_when_it_speaks_again(cluster: Cluster) {
    let widgets = cluster.widgets().await;
    cluster.server().faults().fall_silent();
    let mut request = pin!(make(&cluster, &widgets, "a"));
    let waited = tokio::time::timeout(Duration::from_millis(100), &mut request).await;
    assert!(waited.is_err(), "silence is no answer");
    cluster.server().faults().speak();
    request.await.expect("carried out");
}

async fn a_cut_watch_resumes_without_a_list(cluster: Cluster) {
    let widgets = cluster.widgets().await;
    let mut events = pin!(watcher(widgets.clone(), watcher::Config::default()));
    for _ in 0..2 {
        events.next().await.expect("never ends").expect("no error");
    }
    cluster.server().requests().reset();
    assert_eq!(cluster.server().cut_watches(Some("widgets")), 0, "the watch opens when it is polled");
    make(&cluster, &widgets, "a").await.expect("valid");
    let first = events.next().await.expect("never ends").expect("no error");
    assert!(matches!(first, watcher::Event::Apply(object) if object.name_any() == "a"));
    assert_eq!(cluster.server().cut_watches(Some("widgets")), 1);
    make(&cluster, &widgets, "b").await.expect("valid");
    let second = events.next().await.expect("never ends").expect("no error");
    assert!(matches!(second, watcher::Event::Apply(object) if object.name_any() == "b"));
    let requests = cluster.server().requests();
    assert_eq!(requests.count(|kind| kind.verb == "list"), 0);
    assert_eq!(requests.count(|kind| kind.verb == "watch" && kind.resource == "widgets"), 2);
}

async fn a_watcher_survives_a_forgotten_history(cluster: Cluster) {
    let widgets = cluster.widgets().await;
    let mut events = pin!(watcher(widgets.clone(), watcher::Config::default()));
    for _ in 0..2 {
        events.next().await.expect("never ends").expect("no error");
    }
    cluster.server().compact(None);
    make(&cluster, &widgets, "a").await.expect("valid");
    let seen = async {
        loop {
            let event = events.next().await.expect("never ends");
            if matches!(event, Ok(watcher::Event::InitApply(object)) if object.name_any() == "a") {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), seen).await.expect("it lists again");
}

async fn requests_are_counted_by_verb_resource_and_client(cluster: Cluster) {
    let widgets = cluster.widgets().await;
    cluster.server().requests().reset();
    make(&cluster, &widgets, "a").await.expect("valid");
    widgets.get("a").await.expect("there");
    widgets.get("a").await.expect("there");
    let _ = widgets.get_status("b").await;
    let requests = cluster.server().requests();
    assert_eq!(requests.count(|kind| kind.resource == "widgets" && kind.verb == "get"), 2);
    assert_eq!(requests.count(|kind| kind.resource == "widgets/status" && kind.code == 404), 1);
    assert_eq!(requests.count(|_| true), 4);
    let newest = requests.newest();
    assert_eq!((newest[0].subject.verb.as_str(), newest[0].code), ("create", 201));
}

/// Sends one request over a stream and reads the answer to its end.
async fn ask<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
    mut stream: S,
    head: &str,
    body: &str,
) -> Value {
    let length = body.len();
    let request =
        format!("{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    let (_, body) = answer.split_once("\r\n\r\n").expect("head and body");
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

async fn other_processes_inject_faults_over_http(cluster: Cluster) {
    let widgets = cluster.widgets().await;
    let connect = async || tokio::net::TcpStream::connect(cluster.server().address()).await.expect("open");
    let fault = json!({
        "scope": {"verbs": ["list"], "resources": ["widgets"]}, "when": {"next": 1},
        "effect": {"refuse": {"code": 429, "retryAfter": 1}},
    });
    let added = ask(connect().await, "POST /-/faults", &fault.to_string()).await;
    assert_eq!(added["id"], 1);
    let listed = ask(connect().await, "GET /-/faults", "").await;
    assert_eq!(listed[0]["fault"]["effect"]["refuse"]["code"], 429);
    let path = format!("GET /apis/{}/v1/widgets", cluster.group());
    assert_eq!(ask(connect().await, &path, "").await["code"], 429);
    widgets.list(&ListParams::default()).await.expect("the fault is spent");
    let counted = ask(connect().await, "GET /-/requests", "").await;
    let refused = counted["kinds"].as_array().expect("kinds").iter().find(|kind| kind["code"] == 429);
    assert_eq!(refused.expect("counted")["count"], 1);
    assert_eq!(ask(connect().await, "DELETE /-/faults/9", "").await["code"], 404);
}

async fn the_control_socket_outlives_an_outage(cluster: Cluster) {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("control");
    cluster.server().control(&socket).expect("bound");
    let widgets = cluster.widgets().await;
    let connect = async || tokio::net::UnixStream::connect(&socket).await.expect("open");
    ask(connect().await, "POST /-/outage", "").await;
    while widgets.list(&ListParams::default()).await.is_ok() {
        tokio::task::yield_now().await;
    }
    ask(connect().await, "DELETE /-/outage", "").await;
    while widgets.list(&ListParams::default()).await.is_err() {
        tokio::task::yield_now().await;
    }
}
