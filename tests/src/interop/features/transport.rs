//! What lies below BGP: digests, hop limits, who may connect, and links without addresses.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::super::stage::{
    OUR_ASN, OURS, PATIENCE, Pair, Stage, THEIRS, objects, own_objects, password, peer_object, secret, setup,
    tcp_counter,
};
use crate::lab::{netns, wait};
use crate::peers::{Daemon, Remote};

pub(super) fn md5(stage: &Stage) -> Result<&'static str> {
    let mut told = setup(2);
    told.neighbors[0].password = Some("right".to_owned());
    told.neighbors[0].ipv6 = false;
    let with = |word: &str| {
        let mut objects = objects(&password());
        objects.push(secret(word));
        objects
    };
    let pair = Pair::start(stage, &told, &with("wrong"))?;
    let places = [stage.agent_netns(), stage.peer_netns()];
    wait::until("a kernel counts segments with a bad digest", PATIENCE, || {
        let counts = places.iter().map(|place| tcp_counter(place, "TCPMD5Failure"));
        Ok(counts.sum::<Result<u64>>()? > 0)
    })?;
    ensure!(!pair.agent.session("peer/dut")?.established, "a session with different passwords came up");
    pair.agent.declare(&with("right"))?;
    pair.established()?;
    pair.peer_hears(OURS[0])?;
    Ok("")
}

pub(super) fn ttl(stage: &Stage) -> Result<&'static str> {
    let mut told = setup(2);
    told.neighbors[0].ipv6 = false;
    let mut pair = Pair::start(stage, &told, &objects(&json!({"ttlSecurityHops": 1})))?;
    let netns = stage.agent_netns();
    wait::until("our kernel drops packets with a low TTL", PATIENCE, || {
        Ok(tcp_counter(&netns, "TCPMinTTLDrop")? > 0)
    })?;
    ensure!(!pair.agent.session("peer/dut")?.established, "a session with a low TTL came up");
    told.neighbors[0].ttl_security = true;
    pair.peer.kill()?;
    pair.peer = stage.peer(&told)?;
    pair.established()?;
    pair.peer_hears(OURS[0])?;
    Ok("")
}

pub(super) fn range(stage: &Stage) -> Result<&'static str> {
    let told = setup(2);
    let mut objects = own_objects(&Value::Null);
    let range = json!({"peerIP": null, "peerRange": {"cidr": "10.96.0.0/24", "limit": 10}});
    objects.push(peer_object("rack", 2, &range));
    let pair = Pair::start(stage, &told, &objects)?;
    wait::until("the range has taken the daemon", PATIENCE, || {
        Ok(pair.agent.session("peer/rack/10.96.0.2")?.established && pair.peer.session("agent")?.established)
    })?;
    pair.peer_hears(OURS[0])?;
    pair.agent_routes(THEIRS[0])?;
    Ok("")
}

/// The link-local address of the only link of a namespace.
fn link_local(place: &str) -> Result<std::net::Ipv6Addr> {
    let mut found = None;
    wait::until("the link has a link-local address", PATIENCE, || {
        let links = netns::json(place, &["ip", "-j", "-6", "addr", "show", "dev", "eth0", "scope", "link"])?;
        // iproute2 leaves an empty object for each link and address that it filters out.
        let links = links.as_array().cloned().unwrap_or_default();
        let mut infos = links.iter().flat_map(|link| link["addr_info"].as_array().into_iter().flatten());
        found =
            infos.find_map(|info| info["local"].as_str().filter(|_| info["tentative"] != true)?.parse().ok());
        Ok(found.is_some())
    })?;
    found.ok_or_else(|| anyhow::anyhow!("just found"))
}

pub(super) fn unnumbered(stage: &Stage) -> Result<&'static str> {
    let ours = link_local(&stage.agent_netns())?;
    let mut told = setup(2);
    let neighbor = &mut told.neighbors[0];
    neighbor.local = None;
    neighbor.extended_next_hop = true;
    neighbor.remote = match stage.daemon {
        Daemon::Frr => Remote::Interface("eth0".to_owned()),
        _ => Remote::LinkLocal(ours, "eth0".to_owned()),
    };
    neighbor.asn = OUR_ASN;
    let spec = json!({"peerIP": null, "interface": "eth0", "asNumber": "External"});
    let pair = Pair::up(stage, &told, &objects(&spec))?;
    pair.peer_hears(OURS[0])?;
    let route = pair.agent_routes(THEIRS[0])?;
    ensure!(route.to_string().contains("fe80"), "our kernel has {route}");
    Ok("")
}
