//! `errors`: `docs/errors.md`, every message that an operator can meet with cause and cure: the messages out of the
//! code ([`find`]), cause and cure out of the files in `docs/errors` ([`catalogue`]), the page by [`page`].
//!
//! A message without an entry fails, and so does an entry whose message is gone.

mod catalogue;
mod find;
mod page;
mod template;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::chore::Root;
use crate::generated::{self, Files};
use crate::tidy::{Source, Tree};
use catalogue::Catalogue;
use find::{Functions, Kind, Message};
use template::Template;

const PAGE: &str = "docs/errors.md";

/// The crates of what ships.
const CRATES: [&str; 9] = ["agent", "api", "bgp", "cni", "ctl", "facts", "ipam", "kernel", "schema"];

/// Writes the page.
pub(crate) fn write(root: &Root) -> anyhow::Result<()> {
    generated::write(root, generated(root)?)
}

/// Fails when [`write()`] would change anything.
pub(crate) fn check(root: &Root) -> anyhow::Result<()> {
    generated::check(root, generated(root)?, "errors", "docs/errors.md has every message of the code")
}

/// Prints every message: what makes it, where, and what it says.
pub(crate) fn list(root: &Root) -> anyhow::Result<()> {
    let tree = Tree::read(root.path())?;
    for message in messages(&tree)? {
        println!("{}\t{}:{}\t{}", message.kind, message.path, message.line, message.template);
    }
    Ok(())
}

fn generated(root: &Root) -> anyhow::Result<Files> {
    let tree = Tree::read(root.path())?;
    let catalogue = Catalogue::of(&tree)?;
    let messages = messages(&tree)?;
    let complaints = catalogue.complaints(&messages);
    for complaint in &complaints {
        println!("{complaint}");
    }
    anyhow::ensure!(complaints.is_empty(), "{} to do in docs/errors", complaints.len());
    let mut findings: Vec<Message> =
        messages.iter().filter(|message| message.kind == Kind::Finding).cloned().collect();
    let mut told = BTreeSet::new();
    findings.retain(|finding| told.insert((finding.template.key(), finding.cure.clone())));
    let mut counts = BTreeMap::new();
    for message in unique(messages).values() {
        *counts.entry(message.kind).or_insert(0_usize) += 1;
    }
    let told: Vec<String> = counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    println!("messages: {}", told.join(", "));
    Ok(Files::from([(PAGE.to_owned(), page::page(&catalogue, &findings))]))
}

/// Each message once, under what it says.
fn unique(messages: Vec<Message>) -> BTreeMap<String, Message> {
    let mut unique: BTreeMap<String, Message> = BTreeMap::new();
    for message in messages {
        let key = message.template.key();
        if unique.get(&key).is_none_or(|known| message.kind < known.kind) {
            unique.insert(key, message);
        }
    }
    unique
}

/// Every message of the code and of the definitions.
fn messages(tree: &Tree) -> anyhow::Result<Vec<Message>> {
    let mut sources = Vec::new();
    let mut functions: BTreeMap<&str, Functions> = BTreeMap::new();
    for (path, text) in tree.files().filter(|(path, _)| is_ours(path)) {
        let source = Source::parse(path, text).map_err(|finding| anyhow::anyhow!("{finding}"))?;
        if !source.is_test() {
            functions.entry(of_crate(path)).or_default().learn(&source);
            sources.push(source);
        }
    }
    let mut found: Vec<Message> =
        sources.iter().flat_map(|source| find::find(source, &functions[of_crate(source.path)])).collect();
    for crd in manx_api::crds() {
        let path = format!("deploy/crds/{}.yaml", crd.spec.names.plural);
        rules(&path, &serde_json::to_value(crd)?, &mut found);
    }
    Ok(found)
}

/// The folder of the crate in which a file is.
fn of_crate(path: &str) -> &str {
    path.split('/').next().unwrap_or(path)
}

fn is_ours(path: &str) -> bool {
    let below = |name: &str| path.strip_prefix(name).is_some_and(|rest| rest.starts_with("/src/"));
    path.ends_with(".rs") && CRATES.iter().any(|name| below(name))
}

/// What the API server says when a rule of a definition is broken.
fn rules(path: &str, schema: &Value, found: &mut Vec<Message>) {
    match schema {
        Value::Object(fields) => {
            for rule in fields.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten()
            {
                let template = Template::of_text(rule["message"].as_str().unwrap_or_default());
                found.push(Message {
                    kind: Kind::Rule,
                    path: path.to_owned(),
                    line: 1,
                    template,
                    cure: None,
                });
            }
            fields.values().for_each(|field| rules(path, field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| rules(path, item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
