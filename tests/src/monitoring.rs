//! What `deploy/monitoring` says, read: alert rules, the dashboard, and what their expressions ask for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

/// The folder of rules and dashboard.
pub fn folder() -> PathBuf {
    root().join("deploy/monitoring")
}

/// The workspace's folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or_else(|| Path::new("."))
}

/// One alert.
#[derive(Debug, Clone)]
pub struct Alert {
    /// Its name.
    pub name: String,
    /// When it holds, in PromQL.
    pub expr: String,
    /// What is said: summary, description, runbook_url.
    pub annotations: Vec<(String, String)>,
}

/// The alerts of `rules.yaml`.
///
/// # Errors
/// When the file cannot be read or lacks something.
pub fn alerts() -> Result<Vec<Alert>> {
    let text = std::fs::read_to_string(folder().join("rules.yaml"))?;
    let file: Value = serde_yaml_ng::from_str(&text)?;
    let groups = file["groups"].as_array().context("no groups")?;
    let rules = groups.iter().filter_map(|group| group["rules"].as_array()).flatten();
    let alert = |rule: &Value| -> Result<Alert> {
        let field =
            |name: &str| rule[name].as_str().map(str::to_owned).with_context(|| format!("{rule}: no {name}"));
        let annotations = rule["annotations"].as_object().into_iter().flatten();
        let annotations =
            annotations.filter_map(|(key, text)| Some((key.clone(), text.as_str()?.to_owned())));
        Ok(Alert { name: field("alert")?, expr: field("expr")?, annotations: annotations.collect() })
    };
    rules.map(alert).collect()
}

/// The expressions of the dashboard with the titles of their panels; `$node` and `$peer` are anything, and intervals are a
/// minute.
///
/// # Errors
/// When the file cannot be read.
pub fn panels() -> Result<Vec<(String, String)>> {
    let text = std::fs::read_to_string(folder().join("dashboard.json"))?;
    let file: Value = serde_json::from_str(&text)?;
    let mut panels = Vec::new();
    for panel in file["panels"].as_array().context("no panels")? {
        let title = panel["title"].as_str().context("a panel without a title")?;
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expr = target["expr"].as_str().with_context(|| format!("{title}: no expr"))?;
            let expr = expr.replace("$__rate_interval", "1m").replace("$node", ".*").replace("$peer", ".*");
            panels.push((title.to_owned(), expr));
        }
    }
    Ok(panels)
}

/// A metric that an expression asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selector {
    /// Its name.
    pub name: String,
    /// Label, operator, value.
    pub matchers: Vec<(String, String, String)>,
}

/// What an expression asks for, and the labels that it groups or joins by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// Metrics.
    pub selectors: BTreeSet<Selector>,
    /// Labels in `by`, `on` and their like.
    pub labels: BTreeSet<String>,
}

const WORDS: [&str; 6] = ["and", "or", "unless", "bool", "offset", "inf"];
const GROUPING: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];

/// Reads an expression of PromQL, as far as names and labels go.
pub fn asked(expr: &str) -> Asked {
    let mut asked = Asked::default();
    let mut rest = expr;
    while let Some(first) = rest.chars().next() {
        if first == '"' {
            rest = split_string(rest).1;
        } else if first == '[' {
            rest = rest.split_once(']').map_or("", |(_, rest)| rest);
        } else if first.is_ascii_alphabetic() || first == '_' {
            rest = word(rest, &mut asked);
        } else if first.is_ascii_digit() {
            // A number or a duration, whose unit is no name.
            rest = rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '.');
        } else {
            rest = &rest[first.len_utf8()..];
        }
    }
    asked
}

/// Takes a word and what belongs to it; returns what follows.
fn word<'a>(text: &'a str, asked: &mut Asked) -> &'a str {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let rest = rest.trim_start();
    if GROUPING.contains(&name) {
        let Some((list, rest)) = rest.strip_prefix('(').and_then(|rest| rest.split_once(')')) else {
            return rest;
        };
        let labels = list.split(',').map(str::trim).filter(|label| !label.is_empty());
        asked.labels.extend(labels.map(str::to_owned));
        return rest;
    }
    let aggregates = ["by", "without"]
        .iter()
        .any(|word| rest.strip_prefix(word).is_some_and(|rest| rest.trim_start().starts_with('(')));
    if WORDS.contains(&name) || rest.starts_with('(') || aggregates {
        return rest;
    }
    let (matchers, rest) = rest.strip_prefix('{').map_or((Vec::new(), rest), matchers);
    asked.selectors.insert(Selector { name: name.to_owned(), matchers });
    rest
}

/// The matchers up to the closing brace.
fn matchers(mut rest: &str) -> (Vec<(String, String, String)>, &str) {
    let mut matchers = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', ',']);
        let Some(end) = rest.find(['=', '!', '}']).filter(|end| !rest[*end..].starts_with('}')) else {
            return (matchers, rest.strip_prefix('}').unwrap_or(rest));
        };
        let label = rest[..end].trim().to_owned();
        let quote = rest.find('"').unwrap_or(rest.len());
        let operator = rest[end..quote].trim().to_owned();
        let (value, after) = split_string(&rest[quote..]);
        matchers.push((label, operator, value.to_owned()));
        rest = after;
    }
}

/// A string in double quotes, and what follows it.
fn split_string(text: &str) -> (&str, &str) {
    let inner = text.strip_prefix('"').unwrap_or(text);
    inner.split_once('"').unwrap_or((inner, ""))
}

/// The anchors of a page of the documentation, as they are made of its headings.
///
/// # Errors
/// When there is no such page.
pub fn anchors(page: &Path) -> Result<BTreeSet<String>> {
    let text = std::fs::read_to_string(page).with_context(|| format!("{} is not there", page.display()))?;
    let headings =
        text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let anchor = |heading: &str| {
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect::<String>()
    };
    Ok(headings.map(anchor).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_matchers_and_groupings_are_found_and_functions_are_not() {
        let expr = r#"histogram_quantile(0.9, sum by (node, le) (rate(a_bucket{verb="add",code=~"2.."}[15m]))) > 1 unless on (x) b offset 5m"#;
        let found = asked(expr);
        let names: Vec<&str> = found.selectors.iter().map(|selector| selector.name.as_str()).collect();
        assert_eq!(names, ["a_bucket", "b"]);
        assert_eq!(found.labels, BTreeSet::from(["le", "node", "x"].map(str::to_owned)));
        let matchers = found.selectors.first().map(|selector| selector.matchers.clone()).unwrap_or_default();
        let expected = [("verb", "=", "add"), ("code", "=~", "2..")];
        assert_eq!(matchers, expected.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned())));
    }
}
