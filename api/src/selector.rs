//! Label selectors: the JSON of `metav1.LabelSelector`, with operators as an enum, so that matching cannot fail.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Chooses objects by their labels: all of `matchLabels` and all of `matchExpressions` must hold. An empty selector
/// chooses everything.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    /// Labels that must be there with exactly these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub match_labels: BTreeMap<String, String>,

    /// Further requirements on single labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub match_expressions: Vec<Requirement>,
}

/// One requirement on one label.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "self.operator in ['In', 'NotIn'] ? has(self.values) && size(self.values) > 0 : !has(self.values) || size(self.values) == 0",
    "In and NotIn need values; Exists and DoesNotExist take none"
))]
pub struct Requirement {
    /// The label's key.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,

    /// How the label is compared.
    pub operator: Operator,

    /// What it is compared with, for In and NotIn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    pub values: Vec<String>,
}

/// How a [`Requirement`] compares.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// The label is there and its value is among the values.
    In,
    /// The label is missing, or its value is not among the values.
    NotIn,
    /// The label is there, whatever its value.
    Exists,
    /// The label is missing.
    DoesNotExist,
}

impl LabelSelector {
    /// Whether an object with these labels is chosen.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|requirement| requirement.matches(labels))
    }
}

impl Requirement {
    /// Whether these labels fulfil the requirement.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        match self.operator {
            Operator::In => value.is_some_and(|value| self.values.contains(value)),
            Operator::NotIn => value.is_none_or(|value| !self.values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

/// Whether an optional selector chooses these labels. In the kinds of this crate a missing selector chooses everything.
pub fn selects(selector: Option<&LabelSelector>, labels: &BTreeMap<String, String>) -> bool {
    selector.is_none_or(|selector| selector.matches(labels))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Operator::{DoesNotExist, Exists, In, NotIn};

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    /// The table of the Kubernetes documentation: a missing label fulfils NotIn and DoesNotExist.
    #[test]
    fn operators_match_as_in_kubernetes() {
        for (operator, values, on_a, on_b, on_nothing) in [
            (In, &["a", "c"][..], true, false, false),
            (NotIn, &["a", "c"], false, true, true),
            (Exists, &[], true, true, false),
            (DoesNotExist, &[], false, false, true),
        ] {
            let values = values.iter().map(|value| (*value).to_owned()).collect();
            let requirement = Requirement { key: "rack".into(), operator, values };
            assert_eq!(requirement.matches(&labels(&[("rack", "a")])), on_a, "{operator:?} on a");
            assert_eq!(requirement.matches(&labels(&[("rack", "b")])), on_b, "{operator:?} on b");
            assert_eq!(requirement.matches(&labels(&[("row", "a")])), on_nothing, "{operator:?} on nothing");
        }
    }

    #[test]
    fn everything_in_a_selector_must_hold() {
        let selector: LabelSelector = serde_json::from_value(serde_json::json!({
            "matchLabels": {"rack": "a"},
            "matchExpressions": [{"key": "gpu", "operator": "DoesNotExist"}],
        }))
        .expect("a selector");
        assert!(selector.matches(&labels(&[("rack", "a"), ("zone", "x")])));
        assert!(!selector.matches(&labels(&[("rack", "a"), ("gpu", "")])));
        assert!(!selector.matches(&labels(&[("rack", "b")])));
    }

    #[test]
    fn an_empty_selector_and_a_missing_one_choose_everything() {
        assert!(LabelSelector::default().matches(&labels(&[])));
        assert!(selects(None, &labels(&[])));
        assert_eq!(serde_json::to_string(&LabelSelector::default()).expect("plain data"), "{}");
    }
}
