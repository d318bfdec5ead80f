//! Sessions of either family, AS numbers, refreshes.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::super::stage::{
    OUR_ASN, OURS, PATIENCE, Pair, Stage, THEIRS, objects, own_objects, peer_object, setup, setup_v6, v4, v6,
};
use crate::lab::wait;
use crate::peers::Daemon;

pub(super) fn ipv4(stage: &Stage) -> Result<&'static str> {
    let mut told = setup(2);
    told.neighbors[0].ipv6 = false;
    let pair = Pair::up(stage, &told, &objects(&Value::Null))?;
    let heard = pair.peer_hears(OURS[0])?;
    ensure!(heard.as_path == [OUR_ASN], "AS_PATH is {:?}", heard.as_path);
    ensure!(heard.next_hops.contains(&v4(1).to_string()), "next hops are {:?}", heard.next_hops);
    let route = pair.agent_routes(THEIRS[0])?;
    ensure!(route.to_string().contains(&v4(2).to_string()), "our kernel has {route}");
    Ok("")
}

pub(super) fn ipv6(stage: &Stage) -> Result<&'static str> {
    let mut told = setup_v6(2);
    told.neighbors[0].ipv4 = false;
    let pair = Pair::up(stage, &told, &objects(&json!({"peerIP": v6(2)})))?;
    let heard = pair.peer_hears(OURS[1])?;
    ensure!(heard.as_path == [OUR_ASN], "AS_PATH is {:?}", heard.as_path);
    ensure!(heard.next_hops.contains(&v6(1).to_string()), "next hops are {:?}", heard.next_hops);
    pair.agent_routes(THEIRS[1])?;
    Ok("")
}

pub(super) fn families(stage: &Stage) -> Result<&'static str> {
    let pair = Pair::up(stage, &setup(2), &objects(&Value::Null))?;
    for prefix in OURS {
        pair.peer_hears(prefix)?;
    }
    pair.agent_routes(THEIRS[0])?;
    if stage.daemon == Daemon::OpenBgpd {
        return Ok("its IPv6 routes on an IPv4 session have ::1 as next hop, which nobody can use");
    }
    pair.agent_routes(THEIRS[1])?;
    Ok("")
}

pub(super) fn kernel(stage: &Stage) -> Result<&'static str> {
    let mut told = setup(2);
    if stage.daemon == Daemon::Bird1 {
        told.neighbors[0].ipv6 = false;
    }
    let pair = Pair::up(stage, &told, &objects(&Value::Null))?;
    let count = if stage.daemon == Daemon::Bird1 { 1 } else { 2 };
    for (ours, theirs) in OURS.iter().zip(THEIRS).take(count) {
        pair.peer_routes(ours)?;
        pair.agent_routes(theirs)?;
    }
    Ok("")
}

pub(super) fn as4(stage: &Stage) -> Result<&'static str> {
    let (ours, theirs) = (4_200_000_001, 4_200_000_002);
    let mut told = setup(2);
    told.asn = theirs;
    told.neighbors[0].asn = ours;
    told.neighbors[0].ipv6 = false;
    let mut objects = own_objects(&json!({"asNumber": ours}));
    objects.push(peer_object("dut", 2, &json!({"asNumber": theirs})));
    let pair = Pair::up(stage, &told, &objects)?;
    let heard = pair.peer_hears(OURS[0])?;
    ensure!(heard.as_path == [ours], "AS_PATH is {:?}", heard.as_path);
    pair.agent_routes(THEIRS[0])?;
    Ok("")
}

pub(super) fn refresh(stage: &Stage) -> Result<&'static str> {
    let mut told = setup(2);
    told.neighbors[0].ipv6 = false;
    let pair = Pair::up(stage, &told, &objects(&Value::Null))?;
    pair.peer_hears(OURS[0])?;
    let before = pair.peer.session("agent")?.updates;
    pair.peer.refresh("agent")?;
    wait::until("our routes are told again", PATIENCE, || Ok(pair.peer.session("agent")?.updates > before))?;
    ensure!(pair.agent.session("peer/dut")?.established, "the session ended");
    Ok("")
}

pub(super) fn enhanced(stage: &Stage) -> Result<&'static str> {
    let mut told = setup(2);
    told.neighbors[0].ipv6 = false;
    told.neighbors[0].trace = true;
    let pair = Pair::up(stage, &told, &objects(&Value::Null))?;
    pair.peer_hears(OURS[0])?;
    let refreshes = |pair: &Pair| Ok::<_, anyhow::Error>(pair.peer.session("agent")?.refreshes);
    let before = refreshes(&pair)?;
    pair.peer.refresh("agent")?;
    // Two messages of the type ROUTE-REFRESH answer: the beginning and the end.
    wait::until("the daemon has our begin and end", PATIENCE, || Ok(refreshes(&pair)? >= before + 2))?;
    ensure!(pair.agent.session("peer/dut")?.established, "the session ended");
    Ok("")
}
