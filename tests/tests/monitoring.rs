//! Alert rules and dashboard without a cluster: promtool's own tests, and whether everything that they name is there.
//! `tests/lab/monitoring.rs` asks the same expressions of a real Prometheus.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use manx_tests::monitoring::{alerts, anchors, asked, folder, panels, root};
use serde_json::Value;

/// Runs promtool in the folder of the rules; `false` where there is none, which is a failure under CI.
fn promtool(args: &[&str], folder: &Path) -> Result<bool> {
    match Command::new("promtool").args(args).current_dir(folder).output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "promtool {args:?}: {said}");
            Ok(true)
        }
        Err(error) => {
            println!("skipped: promtool does not start: {error}; cargo xtask setup installs it");
            ensure!(std::env::var_os("CI").is_none(), "promtool is missing under CI");
            Ok(false)
        }
    }
}

#[test]
fn every_alert_fires_and_is_silent_as_its_unit_tests_say() -> Result<()> {
    promtool(&["check", "rules", "rules.yaml"], &folder())?;
    promtool(&["test", "rules", "rules.test.yaml"], &folder())?;
    Ok(())
}

#[test]
fn every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_is_silent() -> Result<()> {
    let text = std::fs::read_to_string(folder().join("rules.test.yaml"))?;
    let file: Value = serde_yaml_ng::from_str(&text)?;
    let names: Vec<&str> =
        file["tests"].as_array().context("tests")?.iter().filter_map(|test| test["name"].as_str()).collect();
    for alert in alerts()? {
        for what in ["fires", "is silent"] {
            let name = format!("{} {what}", alert.name);
            ensure!(names.contains(&name.as_str()), "rules.test.yaml has no test `{name}`");
        }
    }
    Ok(())
}

/// The configuration without the discovery, which Debian's promtool does not know.
#[test]
fn the_scrape_configuration_is_one() -> Result<()> {
    let text = std::fs::read_to_string(folder().join("scrape.yaml"))?;
    let mut config: Value = serde_yaml_ng::from_str(&text)?;
    for job in config["scrape_configs"].as_array_mut().context("jobs")? {
        let job = job.as_object_mut().context("a job")?;
        ensure!(job.remove("kubernetes_sd_configs").is_some(), "a job finds no targets");
    }
    let scratch = tempfile::tempdir()?;
    std::fs::copy(folder().join("rules.yaml"), scratch.path().join("rules.yaml"))?;
    std::fs::write(scratch.path().join("scrape.yaml"), config.to_string())?;
    promtool(&["check", "config", "scrape.yaml"], scratch.path()).map(drop)
}

#[test]
fn every_alert_says_what_is_wrong_what_to_do_and_where_to_read_on() -> Result<()> {
    for alert in alerts()? {
        let name = &alert.name;
        let said =
            |key: &str| alert.annotations.iter().find(|(name, _)| name == key).map(|(_, text)| text.as_str());
        ensure!(said("summary").is_some_and(|text| text.ends_with('.')), "{name}: no summary");
        ensure!(said("description").is_some_and(|text| text.len() > 40), "{name}: no description");
        let runbook = said("runbook_url").and_then(|url| url.strip_prefix("https://manx.dev/"));
        let (page, anchor) =
            runbook.and_then(|path| path.split_once('#')).with_context(|| format!("{name}: runbook"))?;
        let there = anchors(&root().join(page))?;
        ensure!(there.contains(anchor), "{name}: {page} has no #{anchor}, but {there:?}");
    }
    Ok(())
}

#[test]
fn the_table_of_metrics_has_every_name_and_label_that_is_asked_for() -> Result<()> {
    let manual = std::fs::read_to_string(root().join("docs/metrics.md"))?;
    let rows: Vec<Vec<&str>> = manual
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.split('|').map(|cell| cell.trim().trim_matches('`')).collect())
        .collect();
    let labels = |name: &str| -> Option<BTreeSet<&str>> {
        let stem =
            ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        let row = rows.iter().find(|row| row.get(1) == Some(&name) || row.get(1) == Some(&stem))?;
        let own = row.get(3).map_or("", |cell| cell).split(", ").filter(|label| !label.is_empty());
        Some(own.chain(["job", "instance", "node", "pod", "le"]).collect())
    };
    let rules = alerts()?.into_iter().map(|alert| (alert.name, alert.expr));
    for (title, expr) in rules.chain(panels()?) {
        for selector in asked(&expr).selectors.iter().filter(|selector| selector.name != "up") {
            let known =
                labels(&selector.name).with_context(|| format!("{title}: there is no {}", selector.name))?;
            for (label, ..) in &selector.matchers {
                ensure!(known.contains(label.as_str()), "{title}: {} has no label {label}", selector.name);
            }
        }
    }
    Ok(())
}
