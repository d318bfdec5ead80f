//! Graceful restart in both roles, and its long-lived kind.

use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::json;

use super::super::stage::{OURS, PATIENCE, Pair, Stage, THEIRS, Watch, objects, setup};
use crate::lab::wait;
use crate::peers::Setup;

/// Both sides offer graceful restart, for IPv4 only.
fn graceful(seconds: u16) -> Setup {
    let mut told = setup(2);
    told.neighbors[0].ipv6 = false;
    told.neighbors[0].restart = Some(seconds);
    told
}

fn keeps(pair: &Pair, prefix: &str) -> Result<bool> {
    Ok(pair.peer.heard("agent")?.iter().any(|heard| heard.prefix == prefix))
}

pub(super) fn restarter(stage: &Stage) -> Result<&'static str> {
    let mut pair = Pair::up(stage, &graceful(60), &objects(&json!({})))?;
    pair.peer_hears(OURS[0])?;
    let kernel = stage.daemon.has_kernel_routes();
    if kernel {
        pair.peer_routes(OURS[0])?;
    }
    let watch = Watch::start(stage, &stage.peer_netns())?;
    pair.agent.kill()?;
    wait::until("the daemon has lost its session", PATIENCE, || {
        Ok(!pair.peer.session("agent")?.established)
    })?;
    ensure!(keeps(&pair, OURS[0])?, "the daemon dropped our route with the session");
    pair.agent.launch()?;
    pair.established()?;
    wait::until("our route is confirmed", PATIENCE, || {
        let heard = pair.peer.heard("agent")?;
        Ok(heard.iter().any(|heard| heard.prefix == OURS[0] && !heard.stale))
    })?;
    if kernel {
        watch.ensure_kept(OURS[0])?;
        pair.peer_routes(OURS[0])?;
    }
    Ok("")
}

pub(super) fn helper(stage: &Stage) -> Result<&'static str> {
    let mut pair = Pair::up(stage, &graceful(60), &objects(&json!({})))?;
    pair.agent_routes(THEIRS[0])?;
    let watch = Watch::start(stage, &stage.agent_netns())?;
    pair.peer.kill()?;
    wait::until("we have lost the session", PATIENCE, || Ok(!pair.agent.session("peer/dut")?.established))?;
    pair.agent_routes(THEIRS[0])?;
    pair.peer.launch()?;
    pair.established()?;
    wait::until("its route is confirmed", PATIENCE, || Ok(pair.agent.session("peer/dut")?.accepted > 0))?;
    watch.ensure_kept(THEIRS[0])?;
    pair.agent_routes(THEIRS[0])?;
    Ok("")
}

pub(super) fn long_lived(stage: &Stage) -> Result<&'static str> {
    const RESTART: u16 = 1;
    let mut told = graceful(RESTART);
    told.neighbors[0].long_lived = Some(3600);
    let spec = json!({"longLivedGracefulRestart": {"staleTimeSeconds": 3600}});
    let mut pair = Pair::up(stage, &told, &objects(&spec))?;
    pair.agent_routes(THEIRS[0])?;
    let watch = Watch::start(stage, &stage.agent_netns())?;
    pair.peer.kill()?;
    wait::until("we have lost the session", PATIENCE, || Ok(!pair.agent.session("peer/dut")?.established))?;
    let lost = Instant::now();
    // Past the restart time and some, or the plain kind would have kept it as well.
    wait::until("the restart time is over", PATIENCE, || {
        Ok(lost.elapsed().as_secs() >= u64::from(RESTART) + 2)
    })?;
    watch.ensure_kept(THEIRS[0])?;
    pair.agent_routes(THEIRS[0])?;
    Ok("")
}
