//! How sessions end: by a limit, by an operator on either side, or because both want to be the provider.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::super::stage::{OURS, PATIENCE, Pair, Stage, objects, own_objects, route, setup};
use crate::lab::wait;
use crate::peers::{Daemon, Setup};

/// A speaker with IPv4 only.
fn four_only() -> Setup {
    let mut told = setup(2);
    told.neighbors[0].ipv6 = false;
    told.routes.truncate(1);
    told
}

fn last_error(pair: &Pair) -> Result<String> {
    Ok(pair.agent.session("peer/dut")?.last_error)
}

pub(super) fn limit(stage: &Stage) -> Result<&'static str> {
    let few = four_only();
    let mut many = few.clone();
    many.routes.extend(["10.244.129.0/26", "10.244.130.0/26", "10.244.131.0/26"].map(route));
    let spec = json!({"maxPrefixes": {"ipv4": 3, "action": "Restart", "restartSeconds": 2}});
    let mut pair = Pair::start(stage, &many, &objects(&spec))?;
    wait::until("the session ends by the limit", PATIENCE, || {
        Ok(last_error(&pair)?.to_lowercase().contains("maximum number of prefixes"))
    })
    .with_context(|| format!("last error: {:?}", last_error(&pair)))?;
    if stage.daemon != Daemon::Bird1 {
        wait::until("the daemon shows why", PATIENCE, || {
            let session = pair.peer.session("agent")?;
            let words = [
                "Maximum number of prefixes",
                "max-prefix",
                "060100",
                "maximum",
                "6/1",
                "\"code\": 6, \"subcode\": 1",
            ];
            Ok(words.iter().any(|words| session.says(words)))
        })
        .with_context(|| format!("{:?}", pair.peer.session("agent")))?;
    }
    match stage.daemon {
        Daemon::Frr | Daemon::OpenBgpd | Daemon::ExaBgp => {
            pair.peer.kill()?;
            pair.peer = stage.peer(&few)?;
        }
        _ => pair.peer.reconfigure(&few)?,
    }
    pair.established()?;
    Ok("")
}

pub(super) fn shutdown_in(stage: &Stage) -> Result<&'static str> {
    let pair = Pair::up(stage, &four_only(), &objects(&Value::Null))?;
    pair.peer_hears(OURS[0])?;
    pair.peer.shut("agent", "moving racks, ticket 4711")?;
    wait::until("our last error tells the message", PATIENCE, || {
        Ok(last_error(&pair)?.contains("moving racks, ticket 4711"))
    })
    .with_context(|| format!("last error: {:?}", last_error(&pair)))?;
    Ok("")
}

pub(super) fn shutdown_out(stage: &Stage) -> Result<&'static str> {
    let pair = Pair::up(stage, &four_only(), &objects(&Value::Null))?;
    pair.peer_hears(OURS[0])?;
    pair.agent.declare(&own_objects(&Value::Null))?;
    wait::until("the daemon has lost its session", PATIENCE, || {
        Ok(!pair.peer.session("agent")?.established)
    })?;
    wait::until("the daemon shows our words", PATIENCE, || Ok(pair.peer.session("agent")?.says("configur")))
        .with_context(|| pair.peer.session("agent").map(|session| session.words).unwrap_or_default())?;
    Ok("")
}

pub(super) fn roles(stage: &Stage) -> Result<&'static str> {
    let mut told = four_only();
    told.neighbors[0].role = Some("provider");
    let mut pair = Pair::start(stage, &told, &objects(&json!({"role": "Provider"})))?;
    wait::until("two providers do not come together", PATIENCE, || {
        Ok(last_error(&pair)?.to_lowercase().contains("role"))
    })
    .with_context(|| format!("last error: {:?}", last_error(&pair)))?;
    ensure!(!pair.agent.session("peer/dut")?.established, "two providers came together");
    told.neighbors[0].role = Some("customer");
    pair.peer.kill()?;
    pair.peer = stage.peer(&told)?;
    pair.established()?;
    let heard = pair.peer_hears(OURS[0])?;
    if stage.daemon == Daemon::OpenBgpd {
        return Ok("");
    }
    let words = heard.words.to_lowercase();
    ensure!(words.contains("otc") || words.contains("only-to-customer"), "it shows {}", heard.words);
    Ok("")
}
