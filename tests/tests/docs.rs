//! The documentation is held against what there is: objects against their definitions, links and anchors, the kinds that
//! commands name. What `manxctl` is called with is tried by its own tests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use manx_schema::Schema;
use manx_tests::monitoring::{anchors, root};
use regex::Regex;
use serde_json::{Value, json};

/// Kinds of Kubernetes' own that the documentation names in commands.
const OTHERS: [&str; 16] = [
    "configmap",
    "daemonset",
    "deployment",
    "endpointslices",
    "events",
    "job",
    "lease",
    "node",
    "nodes",
    "pod",
    "pods",
    "secret",
    "namespace",
    "svc",
    "bgppeers.crd.projectcalico.org",
    "ipamconfigs.crd.projectcalico.org",
];

/// Every page, with its text.
fn pages() -> Result<Vec<(PathBuf, String)>> {
    let mut paths: Vec<PathBuf> = vec![root().join("README.md"), root().join("CHANGELOG.md")];
    for entry in std::fs::read_dir(root().join("docs"))? {
        paths.extend(Some(entry?.path()).filter(|path| path.extension().is_some_and(|end| end == "md")));
    }
    paths.into_iter().map(|path| Ok((path.clone(), std::fs::read_to_string(path)?))).collect()
}

/// Fenced blocks of YAML, and indented ones that begin with an apiVersion of ours.
fn blocks(text: &str) -> Vec<String> {
    let fenced =
        text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).map(str::to_owned);
    let mut blocks: Vec<String> = fenced.collect();
    let mut indented: Option<String> = None;
    for line in text.lines() {
        let inner = line.strip_prefix("    ");
        match (&mut indented, inner) {
            (Some(block), Some(inner)) => block.push_str(&format!("{inner}\n")),
            (Some(block), None) => {
                blocks.push(std::mem::take(block));
                indented = None;
            }
            (None, Some(inner)) if inner.starts_with("apiVersion: manx.dev") => {
                indented = Some(format!("{inner}\n"));
            }
            _ => {}
        }
    }
    blocks.extend(indented);
    blocks
}

#[test]
fn every_object_of_ours_in_the_documentation_is_one() -> Result<()> {
    let mut schemas = BTreeMap::new();
    for crd in manx_api::crds() {
        let version = crd.spec.versions.first().context("a version")?;
        let source = serde_json::to_value(
            version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref()),
        )?;
        let schema = Schema::compile(&source).map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
        schemas.insert(crd.spec.names.kind.clone(), schema);
    }
    let mut seen = 0;
    for (path, text) in pages()? {
        for block in blocks(&text) {
            for document in block.split("\n---\n") {
                let Ok(mut object) = serde_yaml_ng::from_str::<Value>(document) else {
                    anyhow::bail!("{}: this is no YAML:\n{document}", path.display());
                };
                let Some(schema) = object["kind"].as_str().and_then(|kind| schemas.get(kind)) else {
                    continue;
                };
                if object["metadata"].is_null() {
                    // An excerpt: the rest is no matter.
                    object["metadata"] = json!({"name": "default"});
                    object["apiVersion"] = json!("manx.dev/v1alpha1");
                }
                let unknown = schema.prepare(&mut object);
                let wrong = schema.violations(&object, None);
                let page = path.display();
                ensure!(
                    unknown.is_empty() && wrong.is_empty(),
                    "{page}: {unknown:?} {wrong:?} in\n{document}"
                );
                seen += 1;
            }
        }
    }
    ensure!(seen >= 4, "only {seen} objects were found");
    Ok(())
}

#[test]
fn every_link_leads_to_a_file_and_an_anchor() -> Result<()> {
    let link = Regex::new(r"\]\(([^)\s]+)\)")?;
    for (path, text) in pages()? {
        for found in link.captures_iter(&text) {
            let target = &found[1];
            if target.contains("://") {
                continue;
            }
            let (file, anchor) =
                target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
            let page = if file.is_empty() {
                path.clone()
            } else {
                path.parent().unwrap_or_else(|| Path::new("")).join(file)
            };
            ensure!(page.exists(), "{}: {target} is not there", path.display());
            if let Some(anchor) = anchor {
                ensure!(anchors(&page)?.contains(anchor), "{}: {target}: no such heading", path.display());
            }
        }
    }
    Ok(())
}

#[test]
fn every_kubectl_command_names_a_kind_that_there_is() -> Result<()> {
    let mut kinds: BTreeSet<String> = OTHERS.iter().map(|&kind| kind.to_owned()).collect();
    for crd in manx_api::crds() {
        let names = crd.spec.names;
        kinds.extend([Some(names.plural), names.singular].into_iter().flatten());
        kinds.extend(names.short_names.into_iter().chain(names.categories).flatten());
    }
    let command = Regex::new(
        r"kubectl (?:-n \S+ )?(?:get|describe|edit|patch|delete|rollout \w+) (?:--\S+ )*([a-z][a-z.]*)",
    )?;
    let mut seen = 0;
    for (path, text) in pages()? {
        for found in command.captures_iter(&text) {
            ensure!(kinds.contains(&found[1]), "{}: `{}` names no kind", path.display(), &found[0]);
            seen += 1;
        }
    }
    ensure!(seen > 20, "only {seen} commands were found");
    Ok(())
}

#[test]
fn every_file_that_is_applied_is_there() -> Result<()> {
    let file = Regex::new(r"(?:-f|-k|examples in|copy) (deploy/[\w./-]+)")?;
    for (path, text) in pages()? {
        for found in file.captures_iter(&text) {
            ensure!(root().join(&found[1]).exists(), "{}: {} is not there", path.display(), &found[1]);
        }
    }
    Ok(())
}
