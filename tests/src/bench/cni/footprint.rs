//! What a pod's start costs besides time: processor, system calls, requests to the API server, the plugin's size.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::subject::Subject;
use crate::bench::{Row, usage};
use crate::lab::{Lab, netns, wait};

/// Pods that are started and ended one after the other for one figure of processor time: the kernel's account of ended
/// processes counts in hundredths of a second.
const STARTS: usize = 50;
/// Samples of it.
const SAMPLES: usize = 5;
/// Pods at once while requests are counted.
const AT_ONCE: usize = 10;
/// Requests of Calico for one pod start, by its source.
const CALICO_REQUESTS: f64 = 15.0;

/// Gives the node one large block of each family, so that no claim falls into what is measured.
pub(in crate::bench) fn widen(lab: &Lab) -> Result<()> {
    let pool = |name: &str, spec: Value| json!({"apiVersion": "manx.dev/v1alpha1", "kind": "IPPool", "metadata": {"name": name}, "spec": spec});
    lab.apply(&[
        pool("bench-v4", json!({"cidr": "10.200.0.0/16", "blockSize": 20})),
        pool("bench-v6", json!({"cidr": "fd00:200::/104", "blockSize": 112})),
        pool("default-ipv4", json!({"cidr": "10.244.0.0/16", "blockSize": 26, "disabled": true})),
        pool("default-ipv6", json!({"cidr": "fd00:10:244::/112", "blockSize": 122, "disabled": true})),
    ])?;
    wait::until("the node has blocks of the new pools", Duration::from_secs(30), || {
        let blocks = lab.objects("ipblocks")?;
        let of_bench =
            |block: &&Value| block["spec"]["pool"].as_str().is_some_and(|pool| pool.starts_with("bench-"));
        Ok(blocks.iter().filter(of_bench).count() >= 2)
    })?;
    lab.wait_for_agent("node1")
}

/// All of it, beside the first peer.
pub(super) fn rows(lab: &Lab, subjects: &[Subject], starts: usize) -> Result<Vec<Row>> {
    let [ours, peer] = [&subjects[0], &subjects[1]];
    let row = |what: &str, ours: Vec<f64>, theirs: Vec<f64>, unit| Row {
        what: what.to_owned(),
        peer: peer.name.to_owned(),
        ours,
        theirs,
        unit,
        target: "",
    };
    let (mut cpu_ours, mut cpu_theirs, mut of_agent) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..SAMPLES {
        let (plugin, agent) = processor(lab, ours)?;
        cpu_ours.push(plugin + agent);
        of_agent.push(agent);
        cpu_theirs.push(processor(lab, peer)?.0);
    }
    let calls = |verb: &str| -> Result<[f64; 2]> { Ok([calls(lab, ours, verb)?, calls(lab, peer, verb)?]) };
    let ([add, add_theirs], [del, del_theirs]) = (calls("ADD")?, calls("DEL")?);
    let requests = requests(lab, ours, starts)?;
    Ok(vec![
        row("processor time of ADD, CHECK and DEL, agent included", cpu_ours, cpu_theirs.clone(), "ms"),
        row("  of these the agent's", of_agent, cpu_theirs, "ms"),
        row("system calls of the plugin, ADD", vec![add], vec![add_theirs], ""),
        row("system calls of the plugin, DEL", vec![del], vec![del_theirs], ""),
        row("size of what the runtime starts", vec![size(ours)?], vec![size(peer)?], "MiB"),
        Row {
            what: format!("requests to the API server, {starts} pods"),
            peer: "Calico, by its source".to_owned(),
            ours: vec![requests],
            theirs: vec![CALICO_REQUESTS * starts as f64],
            unit: "",
            target: "<= 40 in all",
        },
    ])
}

/// Processor milliseconds of one pod's start, check and end: the plugin's with what it starts, and the agent's.
fn processor(lab: &Lab, subject: &Subject) -> Result<(f64, f64)> {
    let agent: u32 = std::fs::read_to_string(lab.node_dir("node1").join("agent.pid"))?.trim().parse()?;
    let before = (of_children()?, usage::cpu_seconds(&[agent]));
    for _ in 0..STARTS {
        subject.round(lab, 1)?;
    }
    let after = (of_children()?, usage::cpu_seconds(&[agent]));
    let each = |seconds: f64| seconds * 1000.0 / STARTS as f64;
    Ok((each(after.0 - before.0), each(after.1 - before.1)))
}

/// Processor seconds of all ended children of this process so far, user and system.
fn of_children() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| -> Result<f64> { Ok(fields.get(index).context("a short stat")?.parse()?) };
    // cutime and cstime; Linux gives them in hundredths of a second on every machine.
    Ok((ticks(13)? + ticks(14)?) / 100.0)
}

/// System calls of one verb, of the plugin and all that it starts.
fn calls(lab: &Lab, subject: &Subject, verb: &str) -> Result<f64> {
    let pod = lab.netns("pod-0");
    let trace = lab.dir().join("calls");
    let trace_text = trace.to_str().context("an odd path")?;
    let strace = ["strace", "-f", "-qq", "-o", trace_text];
    netns::add(&pod)?;
    let pods = std::slice::from_ref(&pod);
    let counted = netns::enter(&lab.netns("node1"), || {
        let result = match verb {
            "ADD" => subject.call_under(&strace, "ADD", &pod, &Value::Null)?,
            _ => subject.call_all("ADD", pods, &[Value::Null])?.1.remove(0),
        };
        match verb {
            "ADD" => subject.call_all("DEL", pods, &[result]).map(drop),
            _ => subject.call_under(&strace, verb, &pod, &result).map(drop),
        }
    });
    netns::delete(&pod)?;
    counted?;
    let whole = |line: &&str| !line.contains("resumed>") && !line.contains("+++") && !line.contains("---");
    Ok(std::fs::read_to_string(&trace)?.lines().filter(whole).count() as f64)
}

/// MiB of the programs that a runtime starts for one call.
fn size(subject: &Subject) -> Result<f64> {
    let programs = std::iter::once(&subject.binary).chain(&subject.ipam);
    let bytes = programs
        .map(|path: &std::path::PathBuf| Ok(Path::new(path).metadata()?.len()))
        .sum::<Result<u64>>()?;
    Ok(bytes as f64 / f64::from(1 << 20))
}

/// Requests of the agent to the API server during `starts` starts and ends of pods. Those by which it says that it
/// lives are left out: they come at their time, whatever pods do.
fn requests(lab: &Lab, subject: &Subject, starts: usize) -> Result<f64> {
    let before = asked(lab)?;
    for _ in 0..starts.div_ceil(AT_ONCE) {
        subject.round(lab, AT_ONCE)?;
    }
    let after = asked(lab)?;
    ensure!(after >= before, "the API server was started anew in the middle");
    Ok((after - before) as f64)
}

fn asked(lab: &Lab) -> Result<u64> {
    let log: Value = serde_json::from_str(&lab.kubectl(&["get", "--raw", "/-/requests"])?)?;
    let kinds = log["kinds"].as_array().context("no list of requests")?;
    let of_agent = |kind: &&Value| {
        kind["user_agent"].as_str().is_some_and(|name| name.starts_with("manx-agent/"))
            && kind["resource"] != "leases"
    };
    Ok(kinds.iter().filter(of_agent).filter_map(|kind| kind["count"].as_u64()).sum())
}
