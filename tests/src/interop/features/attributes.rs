//! What routes carry: communities, unknown attributes, several paths, next hops, and a lot of it at once.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::super::stage::{
    OUR_ASN, OURS, PATIENCE, Pair, Stage, THEIRS, asn, objects, open_filter, own_objects, peer_object, route,
    setup, setup_v6, v4, v6,
};
use crate::lab::wait;
use crate::peers::{AddPath, Daemon, Heard, Neighbor, Originated, Peer, Setup};

/// What a witness announces.
const THROUGH: &str = "10.244.192.0/26";

/// Speakers with IPv4 only, so that all daemons do the same.
fn four_only(host: u8) -> Setup {
    let mut told = setup(host);
    told.neighbors[0].ipv6 = false;
    told.routes.truncate(1);
    told
}

/// What the agent is told for the daemon and witnesses at the hosts from 3 on, all of whom hear everything.
fn through(witnesses: u8, dut: &Value) -> Vec<Value> {
    let mut objects = own_objects(&Value::Null);
    let mut spec = json!({"filters": ["open"]});
    for (key, value) in dut.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    objects.push(peer_object("dut", 2, &spec));
    for host in 3..3 + witnesses {
        objects.push(peer_object(&format!("w{host}"), host, &json!({"filters": ["open"]})));
    }
    objects.push(open_filter());
    objects
}

fn coloured(prefix: &str) -> Originated {
    let mut route = route(prefix);
    route.communities = vec![(65001, 7), (65001, 8)];
    route.large_communities = vec![(65001, 2, 3)];
    route.route_targets = vec![(65001, 9)];
    route
}

fn hears(peer: &Peer, prefix: &str) -> Result<Heard> {
    let mut found = None;
    wait::until(&format!("{} hears {prefix}", peer.daemon().name()), PATIENCE, || {
        found = peer.heard("agent")?.into_iter().find(|heard| heard.prefix == prefix);
        Ok(found.is_some())
    })
    .with_context(|| format!("it heard {:?}", peer.heard("agent")))?;
    found.context("just found")
}

fn ensure_coloured(peer: &Peer, heard: &Heard) -> Result<()> {
    let all = heard.communities.contains("65001:7")
        && heard.communities.contains("65001:8")
        && heard.large_communities.contains("65001:2:3")
        && heard.route_targets.contains("65001:9");
    ensure!(all, "{} shows {heard:?}", peer.daemon().name());
    Ok(())
}

pub(super) fn communities(stage: &Stage) -> Result<&'static str> {
    let (mut told, mut witness) = (four_only(2), four_only(3));
    told.routes = vec![coloured(THEIRS[0])];
    witness.routes = vec![coloured(THROUGH)];
    let witness = stage.witness(Daemon::Bird2, 3, &witness)?;
    let pair = Pair::up(stage, &told, &through(1, &Value::Null))?;
    ensure_coloured(&witness, &hears(&witness, THEIRS[0])?)?;
    ensure_coloured(&pair.peer, &hears(&pair.peer, THROUGH)?)?;
    Ok("")
}

pub(super) fn unknown(stage: &Stage) -> Result<&'static str> {
    let mut witness = four_only(3);
    let mut strange = route(THROUGH);
    strange.unknown = Some((0xe0, vec![0xde, 0xad, 0xbe, 0xef]));
    witness.routes = vec![strange];
    let _witness = stage.witness(Daemon::ExaBgp, 3, &witness)?;
    let pair = Pair::up(stage, &four_only(2), &through(1, &Value::Null))?;
    let heard = hears(&pair.peer, THROUGH)?;
    let words = heard.words.to_lowercase();
    // As hexadecimal digits, as a list of octets, or in Base64.
    let shown = ["deadbeef", "de ad be ef", "3q2+7w==", "222,173,190,239"];
    ensure!(shown.iter().any(|form| words.contains(&form.to_lowercase())), "it shows {}", heard.words);
    Ok("")
}

/// Two witnesses with the same prefix and a daemon between them and us.
pub(super) fn add_path_rx(stage: &Stage) -> Result<&'static str> {
    let mut told = four_only(2);
    told.neighbors[0].add_path = AddPath { receive: false, send: true };
    told.neighbors[0].transit = true;
    if stage.daemon == Daemon::ExaBgp {
        // It has no table: both paths are its own.
        told.routes =
            [1, 2].map(|id| Originated { path_id: Some(id), med: Some(id), ..route(THROUGH) }).into();
    } else {
        for host in [3, 4] {
            let mut neighbor = Neighbor::new(&format!("w{host}"), v4(host), asn(host));
            neighbor.local = Some(v4(2));
            neighbor.ipv6 = false;
            told.neighbors.push(neighbor);
        }
    }
    let mut pair = Pair::start(
        stage,
        &told,
        &objects(&json!({"addPath": {"receive": true}, "filters": ["open"]}))
            .into_iter()
            .chain([open_filter()])
            .collect::<Vec<_>>(),
    )?;
    let mut witnesses = Vec::new();
    if stage.daemon != Daemon::ExaBgp {
        for host in [3, 4] {
            let mut told = four_only(host);
            told.neighbors[0] = Neighbor { asn: asn(2), ..Neighbor::new("agent", v4(2), asn(2)) };
            told.neighbors[0].local = Some(v4(host));
            told.neighbors[0].ipv6 = false;
            told.routes = vec![route(THROUGH)];
            witnesses.push(stage.witness(Daemon::Bird2, host, &told)?);
        }
    }
    pair.established()?;
    let received = |pair: &Pair| Ok::<_, anyhow::Error>(pair.agent.session("peer/dut")?.received);
    // FRR also tells us our own route again; ExaBGP has no other route than the two paths.
    let least = match stage.daemon {
        Daemon::ExaBgp => 2,
        Daemon::Frr => 4,
        _ => 3,
    };
    wait::until("both paths arrive", PATIENCE, || Ok(received(&pair)? >= least))
        .with_context(|| format!("received: {:?}", received(&pair)))?;
    pair.agent_routes(THROUGH)?;
    let before = received(&pair)?;
    match witnesses.pop() {
        Some(mut witness) => witness.stop()?,
        None => {
            let mut fewer = told.clone();
            fewer.routes.pop();
            pair.peer.reconfigure(&fewer)?;
        }
    }
    wait::until("one path less remains", PATIENCE, || Ok(received(&pair)? == before - 1))
        .with_context(|| format!("received: {before}, then {:?}", received(&pair)))?;
    pair.agent_routes(THROUGH)?;
    Ok("")
}

/// Two witnesses with the same prefix and us between them and the daemon.
pub(super) fn add_path_tx(stage: &Stage) -> Result<&'static str> {
    let mut told = four_only(2);
    told.neighbors[0].add_path = AddPath { receive: true, send: false };
    let pair = Pair::start(stage, &told, &through(2, &json!({"addPath": {"receive": false, "send": 4}})))?;
    let mut witnesses = Vec::new();
    for host in [3, 4] {
        let mut told = four_only(host);
        told.routes = vec![route(THROUGH)];
        witnesses.push(stage.witness(Daemon::Bird2, host, &told)?);
    }
    pair.established()?;
    let paths = |pair: &Pair| -> Result<Vec<Vec<u32>>> {
        let heard = pair.peer.heard("agent")?;
        Ok(heard.into_iter().filter(|heard| heard.prefix == THROUGH).map(|heard| heard.as_path).collect())
    };
    wait::until("the daemon has both paths", PATIENCE, || {
        let paths = paths(&pair)?;
        Ok([3, 4].iter().all(|host| paths.contains(&vec![OUR_ASN, asn(*host)])))
    })
    .with_context(|| format!("it has {:?}", paths(&pair)))?;
    witnesses.truncate(1);
    wait::until("it has one", PATIENCE, || Ok(paths(&pair)? == [vec![OUR_ASN, asn(3)]]))
        .with_context(|| format!("it has {:?}", paths(&pair)))?;
    Ok("")
}

pub(super) fn extended_next_hop(stage: &Stage) -> Result<&'static str> {
    let mut told = setup_v6(2);
    told.neighbors[0].extended_next_hop = true;
    if matches!(stage.daemon, Daemon::ExaBgp | Daemon::GoBgp) {
        told.routes[0].next_hop = Some(v6(2));
    }
    let pair = Pair::up(stage, &told, &objects(&json!({"peerIP": v6(2), "extendedNextHop": true})))?;
    pair.peer_hears(OURS[0])?;
    let route = pair.agent_routes(THEIRS[0])?.to_string();
    ensure!(route.contains(&v6(2).to_string()) || route.contains("fe80"), "our kernel has {route}");
    Ok("")
}

pub(super) fn next_hop_of_32_octets(stage: &Stage) -> Result<&'static str> {
    let mut told = setup_v6(2);
    told.neighbors[0].ipv4 = false;
    let pair = Pair::up(stage, &told, &objects(&json!({"peerIP": v6(2)})))?;
    pair.agent_routes(THEIRS[1])?;
    Ok("")
}

pub(super) fn extended_messages(stage: &Stage) -> Result<&'static str> {
    let mut told = four_only(2);
    told.neighbors[0].extended_messages = true;
    // 1,200 communities are 4,800 octets: one route that no message of 4,096 can hold.
    told.routes[0].communities = (0..1200).map(|low| (65002, low)).collect();
    let pair = Pair::up(stage, &told, &objects(&json!({})))?;
    pair.agent_routes(THEIRS[0])?;
    Ok("")
}
