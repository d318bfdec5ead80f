//! A real Prometheus scrapes real agents and a real controller, evaluates the rules, and is asked what the dashboard asks.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use manx_tests::lab::{Lab, netns, wait};
use manx_tests::monitoring::{alerts, asked, folder, panels};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// How long Prometheus may take for what it does every second.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn expressions_find_their_series() -> Result<()> {
    if std::process::Command::new("prometheus").arg("--version").output().is_err() {
        println!("skipped: there is no prometheus; cargo xtask setup installs it");
        ensure!(std::env::var_os("CI").is_none(), "prometheus is missing under CI");
        return Ok(());
    }
    let mut lab = super::lab_with_pods(2)?;
    lab.start_prometheus(&configuration(&lab)?)?;
    until_scraped(&lab)?;
    what_takes_time_is_counted(&lab)?;
    every_selector_finds_series(&lab)?;
    every_panel_shows_something(&lab)?;
    let spoken = evaluated_alerts(&lab)?;
    ensure!(spoken.is_empty(), "in a healthy lab these alerts speak: {spoken:?}");
    // What is broken is told, in words that are filled in.
    lab.del_pod("p1")?;
    let router = lab.router();
    let control = router.dir.join("bird.ctl").display().to_string();
    netns::text(&router.netns, &["birdc", "-s", &control, "disable", "all"])?;
    wait::until("the alert for lost sessions speaks", PATIENCE, || {
        Ok(evaluated_alerts(&lab)?.iter().any(|(name, _)| name == "ManxSessionDown"))
    })?;
    lab.stop_agent("node2", Signal::SIGKILL)?;
    wait::until("the alert for lost agents speaks", PATIENCE, || {
        Ok(evaluated_alerts(&lab)?.iter().any(|(name, _)| name == "ManxAgentDown"))
    })?;
    for (name, words) in evaluated_alerts(&lab)? {
        ensure!(!words.contains("<no value>") && !words.contains("error"), "{name} says {words}");
        ensure!(!words.contains("session of  ") && words.contains("node"), "{name} names no node: {words}");
    }
    Ok(())
}

/// A configuration with the lab's agents and controller as targets, labelled as `scrape.yaml` labels them.
fn configuration(lab: &Lab) -> Result<std::path::PathBuf> {
    let mut agents = Vec::new();
    for node in lab.nodes() {
        let target = format!("{}:9181", lab.node_addresses(&node)?[0]);
        agents.push(
            json!({"targets": [target], "labels": {"node": node, "pod": format!("manx-agent-{node}")}}),
        );
    }
    let controller =
        json!({"targets": ["127.0.0.1:9180"], "labels": {"node": "cp", "pod": "manx-controller-1"}});
    let config = json!({
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [folder().join("rules.yaml")],
        "scrape_configs": [
            {"job_name": "manx-agent", "static_configs": agents},
            {"job_name": "manx-controller", "static_configs": [controller]},
        ],
    });
    let path = lab.dir().join("prometheus.json");
    std::fs::write(&path, config.to_string())?;
    Ok(path)
}

/// Asks Prometheus.
fn ask(lab: &Lab, path: &str, query: Option<&str>) -> Result<Value> {
    let plain = |octet: u8| octet.is_ascii_alphanumeric().then(|| char::from(octet).to_string());
    let encoded = |text: &str| -> String {
        text.bytes().map(|octet| plain(octet).unwrap_or_else(|| format!("%{octet:02X}"))).collect()
    };
    let query = query.map(|query| format!("?query={}", encoded(query))).unwrap_or_default();
    let request = format!("GET /api/v1/{path}{query} HTTP/1.0\r\nHost: prometheus\r\n\r\n");
    let answer = netns::enter(&lab.netns("cp"), || {
        let mut stream = TcpStream::connect("127.0.0.1:9090")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no answer of HTTP")?;
    let body: Value = serde_json::from_str(body)?;
    ensure!(body["status"] == "success", "{path} {query:?}: {body}");
    Ok(body["data"].clone())
}

fn found(lab: &Lab, expr: &str) -> Result<usize> {
    let data = ask(lab, "query", Some(expr)).with_context(|| format!("asking {expr}"))?;
    Ok(data["result"].as_array().map_or(0, Vec::len))
}

fn until_scraped(lab: &Lab) -> Result<()> {
    // Two scrapes make a rate, and the controller tells of the pools when it has seen the pods' addresses.
    let enough = r#"count(rate(process_cpu_seconds_total[1m]))"#;
    wait::until("everything has been scraped twice", PATIENCE, || {
        let programs = ask(lab, "query", Some(enough))?;
        let programs = programs["result"][0]["value"][1].as_str().map(str::to_owned);
        Ok(programs.as_deref() == Some("3") && found(lab, "manx_pool_addresses_used > 0")? > 0)
    })
    .with_context(|| {
        let log = std::fs::read_to_string(Path::new(lab.dir()).join("prometheus.log")).unwrap_or_default();
        format!("its log: {log}")
    })
}

/// Blocks that were claimed have reached the router, and the API server has answered: each agent says how long that took.
fn what_takes_time_is_counted(lab: &Lab) -> Result<()> {
    let agents = lab.nodes().len();
    for (name, most) in
        [("manx_ipam_claim_to_announcement_seconds", 5.0), ("manx_api_request_duration_seconds", 10.0)]
    {
        wait::until(&format!("each agent shows {name}"), PATIENCE, || {
            Ok(found(lab, &format!("{name}_count{{job=\"manx-agent\"}} > 0"))? == agents)
        })?;
        let soon = format!(
            "{name}_count{{job=\"manx-agent\"}} == on (node) {name}_bucket{{job=\"manx-agent\",le=\"{most:.1}\"}}"
        );
        ensure!(found(lab, &soon)? == agents, "{name}: something took more than {most} s");
    }
    Ok(())
}

/// Each metric exists with the labels that are asked for, and with their values where one is named.
fn every_selector_finds_series(lab: &Lab) -> Result<()> {
    let rules = alerts()?.into_iter().map(|alert| (alert.name, alert.expr));
    for (title, expr) in rules.chain(panels()?) {
        let asked = asked(&expr);
        for selector in &asked.selectors {
            let conditions =
                selector.matchers.iter().map(|(label, operator, value)| match operator.as_str() {
                    "=" => format!("{label}=\"{value}\""),
                    _ => format!("{label}!=\"\""),
                });
            let simple = format!("{}{{{}}}", selector.name, conditions.collect::<Vec<_>>().join(","));
            ensure!(found(lab, &simple)? > 0, "{title}: the lab shows no {simple}");
        }
        for label in &asked.labels {
            let anywhere =
                asked.selectors.iter().map(|selector| format!("{}{{{label}!=\"\"}}", selector.name));
            let anywhere = anywhere.collect::<Vec<_>>().join(" or ");
            ensure!(found(lab, &anywhere)? > 0, "{title}: nothing of it has a label {label}");
        }
    }
    Ok(())
}

fn every_panel_shows_something(lab: &Lab) -> Result<()> {
    for (title, expr) in panels()? {
        wait::until(&format!("the panel {title} shows something: {expr}"), PATIENCE, || {
            Ok(found(lab, &expr)? > 0)
        })?;
    }
    Ok(())
}

/// The alerts that are pending or firing, with their words, once every rule has been evaluated without an error.
fn evaluated_alerts(lab: &Lab) -> Result<Vec<(String, String)>> {
    let rules = ask(lab, "rules", None)?;
    let groups = rules["groups"].as_array().context("groups")?;
    let rules: Vec<&Value> = groups.iter().filter_map(|group| group["rules"].as_array()).flatten().collect();
    ensure!(rules.len() == alerts()?.len(), "Prometheus knows {} rules", rules.len());
    let mut spoken = Vec::new();
    for rule in rules {
        ensure!(rule["health"] != "err", "{rule}");
        for alert in rule["alerts"].as_array().into_iter().flatten() {
            let name = rule["name"].as_str().unwrap_or_default().to_owned();
            spoken.push((name, alert["annotations"]["summary"].as_str().unwrap_or_default().to_owned()));
        }
    }
    Ok(spoken)
}
