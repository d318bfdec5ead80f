//! From the template of the conflist to what is written: without the plugins that the node does not have, and with
//! those that others put behind ours.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// The type of our own plugin.
pub(super) const PLUGIN: &str = "manx-cni";
/// Where the conflist says which plugins are ours, so that those which others append can be told from those that a
/// later version of ours has no more. Container runtimes read over it.
const OURS: &str = "manx.dev/plugins";

/// A template that is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum TemplateError {
    /// It is no JSON.
    #[error("it is not JSON")]
    NotJson(#[from] serde_json::Error),
    /// A field of it is missing, or of another type.
    #[error("it has no {0}")]
    Missing(&'static str),
    /// A plugin has no type.
    #[error("its plugin number {0} has no type")]
    NoType(usize),
    /// Our plugin is not in it.
    #[error("none of its plugins is {PLUGIN}")]
    NotOurs,
}

/// A conflist with all that may be in it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Template(Value);

/// What is to be written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fitted {
    /// The conflist.
    pub(super) list: Value,
    /// The plugins that the node does not have and that were left out.
    pub(super) missing: Vec<String>,
}

impl Fitted {
    /// Its text.
    pub(super) fn text(&self) -> String {
        format!("{:#}\n", self.list)
    }
}

impl Template {
    /// Reads a template.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, TemplateError> {
        let list: Value = serde_json::from_slice(bytes)?;
        for field in ["cniVersion", "name"] {
            list[field].as_str().ok_or(TemplateError::Missing(field))?;
        }
        let plugins = list["plugins"].as_array().ok_or(TemplateError::Missing("plugins"))?;
        for (number, plugin) in (1..).zip(plugins) {
            kind(plugin).ok_or(TemplateError::NoType(number))?;
        }
        if !plugins.iter().any(|plugin| kind(plugin) == Some(PLUGIN)) {
            return Err(TemplateError::NotOurs);
        }
        Ok(Self(list))
    }

    /// What is to be written where `found` is there now. Plugins that others appended to it stay.
    pub(super) fn fit(&self, found: Option<&Value>, has: impl Fn(&str) -> bool) -> Fitted {
        let known = plugins(&self.0);
        let (present, missing): (Vec<&Value>, Vec<&Value>) = known.iter().partition(|plugin| {
            let kind = kind(plugin).unwrap_or_default();
            kind == PLUGIN || has(kind)
        });
        let names = |plugins: &[&Value]| -> Vec<String> {
            plugins.iter().filter_map(|plugin| kind(plugin)).map(str::to_owned).collect()
        };
        let mut all: Vec<Value> = present.iter().copied().cloned().collect();
        all.extend(found.map(|found| self.appended(found)).unwrap_or_default());
        let mut list = self.0.clone();
        list[OURS] = json!(names(&known.iter().collect::<Vec<_>>()));
        list["plugins"] = Value::Array(all);
        Fitted { list, missing: names(&missing) }
    }

    /// The plugins that others put into a conflist of ours.
    fn appended(&self, found: &Value) -> Vec<Value> {
        let Some(ours) = found[OURS].as_array().filter(|_| found["name"] == self.0["name"]) else {
            return Vec::new();
        };
        let ours = ours.iter().filter_map(Value::as_str);
        let ours: BTreeSet<&str> = ours.chain(plugins(&self.0).iter().filter_map(kind)).collect();
        let others =
            plugins(found).iter().filter(|plugin| kind(plugin).is_some_and(|kind| !ours.contains(kind)));
        others.cloned().collect()
    }
}

fn plugins(list: &Value) -> &[Value] {
    list["plugins"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn kind(plugin: &Value) -> Option<&str> {
    plugin["type"].as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped() -> Template {
        Template::parse(include_bytes!("../../../../deploy/10-manx.conflist"))
            .expect("the shipped one is right")
    }

    fn types(list: &Value) -> Vec<&str> {
        plugins(list).iter().filter_map(kind).collect()
    }

    #[test]
    fn plugins_that_the_node_does_not_have_are_left_out() {
        let fitted = shipped().fit(None, |plugin| plugin == "portmap");
        assert_eq!(types(&fitted.list), ["manx-cni", "portmap"]);
        assert_eq!(fitted.missing, ["bandwidth"]);
        let whole = shipped().fit(Some(&fitted.list), |_| true);
        assert_eq!((types(&whole.list), whole.missing.len()), (vec!["manx-cni", "portmap", "bandwidth"], 0));
    }

    #[test]
    fn what_others_append_stays_and_what_we_had_before_does_not() {
        let mut found = shipped().fit(None, |_| true).list;
        found["plugins"].as_array_mut().expect("a list").push(json!({"type": "istio-cni", "log": 1}));
        let fitted = shipped().fit(Some(&found), |plugin| plugin != "bandwidth");
        assert_eq!(types(&fitted.list), ["manx-cni", "portmap", "istio-cni"]);
        assert_eq!(shipped().fit(Some(&found), |_| true).list, found, "nothing is to be written");
        let mut later = shipped();
        later.0["plugins"].as_array_mut().expect("a list").pop();
        assert_eq!(types(&later.fit(Some(&found), |_| true).list), ["manx-cni", "portmap", "istio-cni"]);
    }

    #[test]
    fn a_conflist_of_somebody_else_gives_nothing_to_ours() {
        for found in [json!({"name": "other", "plugins": [{"type": "bridge"}]}), json!("?"), json!({})] {
            assert_eq!(shipped().fit(Some(&found), |_| true), shipped().fit(None, |_| true));
        }
    }

    #[test]
    fn a_template_that_is_none_says_what_is_wrong_with_it() {
        let said = |text: &str| Template::parse(text.as_bytes()).expect_err("refused").to_string();
        assert_eq!(said("{"), "it is not JSON");
        assert_eq!(said(r#"{"name": "a"}"#), "it has no cniVersion");
        assert_eq!(said(r#"{"name": "a", "cniVersion": "1.0.0", "plugins": {}}"#), "it has no plugins");
        let list = |plugins: &str| format!(r#"{{"name": "a", "cniVersion": "1.0.0", "plugins": {plugins}}}"#);
        assert_eq!(said(&list(r#"[{"type": "a"}, {}]"#)), "its plugin number 2 has no type");
        assert_eq!(said(&list(r#"[{"type": "bridge"}]"#)), "none of its plugins is manx-cni");
    }
}
