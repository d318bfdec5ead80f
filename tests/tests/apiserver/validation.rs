//! What custom resources and their definitions must be like, and what the server says when they are not.

use std::path::{Path, PathBuf};

use kube::Error;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::cluster::{Cluster, definition_resource, widget_definition};

crate::tests![
    unknown_fields_are_pruned_and_defaults_filled_in,
    strict_validation_refuses_unknown_fields,
    a_broken_rule_is_a_cause_with_its_field,
    definitions_with_broken_rules_are_refused,
    our_own_rules_refuse_what_they_should,
    our_own_examples_are_accepted,
];

async fn unknown_fields_are_pruned_and_defaults_filled_in(cluster: Cluster) {
    let widgets = cluster.widgets().await;
    let spec = json!({"size": 1, "surprise": true, "parts": [{"name": "a", "odd": 1}]});
    let made = widgets.create(&PostParams::default(), &cluster.widget("a", &spec)).await.expect("valid");
    let wanted = json!({"size": 1, "colour": "Green", "parts": [{"name": "a", "weight": 1}]});
    assert_eq!(made.data["spec"], wanted);
}

async fn strict_validation_refuses_unknown_fields(cluster: Cluster) {
    cluster.widgets().await;
    let path = format!("/apis/{}/v1/widgets", cluster.group());
    let body = json!({
        "apiVersion": format!("{}/v1", cluster.group()), "kind": "Widget",
        "metadata": {"name": "a"}, "spec": {"size": 1, "sise": 2},
    });
    let request = |mode: &str| {
        hyper::Request::post(format!("{path}?dryRun=All&fieldValidation={mode}"))
            .header("content-type", "application/json")
            .body(body.to_string().into_bytes().into())
            .expect("a request")
    };
    let refused = cluster.client.send(request("Strict")).await.expect("an answer");
    assert_eq!(refused.status(), 400);
    let warned = cluster.client.send(request("Warn")).await.expect("an answer");
    assert_eq!(warned.status(), 201);
    let warning = warned.headers()["warning"].to_str().expect("text").to_owned();
    assert!(warning.contains("unknown field \\\"spec.sise\\\""), "{warning}");
}

/// The causes of a refusal with 422: reason and field of each.
fn causes<T>(outcome: Result<T, Error>) -> Vec<(String, String)> {
    let Err(Error::Api(status)) = outcome else { panic!("the server should refuse") };
    assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"), "{}", status.message);
    let details = status.details.expect("details");
    details.causes.iter().map(|cause| (cause.reason.clone(), cause.field.clone())).collect()
}

async fn a_broken_rule_is_a_cause_with_its_field(cluster: Cluster) {
    let mut definition = widget_definition(&cluster.group());
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
    let spec = definition.pointer_mut(spec).expect("in the definition");
    spec["x-kubernetes-validations"] = json!([
        {"rule": "!has(self.title) || size(self.title) <= self.size", "message": "the title is too long"},
    ]);
    spec["properties"]["cidr"]["x-kubernetes-validations"] = json!([
        {"rule": "isCIDR(self) && string(cidr(self).masked()) == self", "message": "must be canonical"},
        {"rule": "self == oldSelf", "message": "is immutable"},
    ]);
    let widgets = cluster.declare(definition).await;
    for (spec, reason, field) in [
        (json!({}), "FieldValueRequired", "spec.size"),
        (json!({"size": "1"}), "FieldValueTypeInvalid", "spec.size"),
        (json!({"size": 10}), "FieldValueInvalid", "spec.size"),
        (json!({"size": 1, "colour": "Blue"}), "FieldValueNotSupported", "spec.colour"),
        (json!({"size": 9, "title": "UPPER"}), "FieldValueInvalid", "spec.title"),
        (json!({"size": 1, "title": "ab"}), "FieldValueInvalid", "spec"),
        (json!({"size": 1, "tags": ["a", "b", "c", "d"]}), "FieldValueTooMany", "spec.tags"),
        (json!({"size": 1, "tags": ["a", "a"]}), "FieldValueDuplicate", "spec.tags[1]"),
        (json!({"size": 1, "parts": [{}]}), "FieldValueRequired", "spec.parts[0].name"),
        (json!({"size": 1, "cidr": "10.0.0.1/8"}), "FieldValueInvalid", "spec.cidr"),
    ] {
        let outcome = widgets.create(&PostParams::default(), &cluster.widget("a", &spec)).await;
        let found = causes(outcome);
        assert_eq!(found.first(), Some(&(reason.to_owned(), field.to_owned())), "{spec}");
    }
    let widget = cluster.widget("a", &json!({"size": 1, "cidr": "10.0.0.0/8"}));
    widgets.create(&PostParams::default(), &widget).await.expect("valid");
    let patch = Patch::Merge(json!({"spec": {"cidr": "10.0.0.0/9"}}));
    let Err(Error::Api(status)) = widgets.patch("a", &PatchParams::default(), &patch).await else {
        panic!("it is immutable");
    };
    assert!(
        status.message.ends_with("spec.cidr: Invalid value: \"string\": is immutable"),
        "{}",
        status.message
    );
}

async fn definitions_with_broken_rules_are_refused(cluster: Cluster) {
    let definitions: Api<DynamicObject> = Api::all_with(cluster.client.clone(), &definition_resource());
    for rule in ["self.sise > 1", "self.size >", "isCidr(self.cidr)"] {
        let mut definition = widget_definition(&cluster.group());
        let spec = definition.pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/spec");
        spec.expect("in the definition")["x-kubernetes-validations"] = json!([{"rule": rule}]);
        let definition = serde_json::from_value(definition).expect("an object");
        let found = causes(definitions.create(&PostParams::default(), &definition).await);
        let field = "spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule";
        let of_version =
            "spec.versions[0].schema.openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule";
        let (_, place) = found.first().expect("a cause");
        assert!([field, of_version].contains(&place.as_str()), "{rule}: {place}");
    }
}

fn ours(kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("manx.dev", "v1alpha1", kind))
}

async fn our_own_rules_refuse_what_they_should(cluster: Cluster) {
    cluster.ours().await;
    let pool = |spec: Value| ("IPPool", cluster.scope.clone(), spec);
    for ((kind, name, spec), part) in [
        (pool(json!({"cidr": "10.244.0.1/16"})), "must be a network in CIDR notation"),
        (pool(json!({"cidr": "10.244.0.0/16", "blockSize": 19})), "blockSize"),
        (pool(json!({"cidr": "10.244.0.0/28"})), "the pool must hold at least one block"),
        (pool(json!({"cidr": "169.254.0.0/20"})), "must not overlap"),
        (pool(json!({"cidr": "10.244.0.0/16", "reserved": ["10.245.0.0/24"]})), "must be inside cidr"),
        (("BGPConfiguration", cluster.scope.clone(), json!({})), "the name must be default"),
        (("BGPPeer", cluster.scope.clone(), json!({"asNumber": 65000})), "exactly one of"),
        (
            ("IPBlock", cluster.scope.clone(), json!({"cidr": "10.244.3.64/26", "node": "n", "pool": "p"})),
            "the name must be the cidr",
        ),
    ] {
        let objects: Api<DynamicObject> = Api::all_with(cluster.client.clone(), &ours(kind));
        let mut object = DynamicObject::new(&name, &ours(kind));
        object.data = json!({"spec": spec});
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        let Err(Error::Api(status)) = objects.create(&dry, &object).await else {
            panic!("accepted: {kind} {spec}");
        };
        assert_eq!(status.code, 422, "{kind} {spec}: {}", status.message);
        assert!(status.message.contains(part), "{kind} {spec}: {}", status.message);
    }
}

async fn our_own_examples_are_accepted(cluster: Cluster) {
    use serde::Deserialize;
    cluster.ours().await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples");
    let files = |folder: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).expect("the examples");
        entries.map(|entry| entry.expect("readable").path()).filter(|path| path.is_file()).collect()
    };
    let mut seen = 0;
    for file in [files(&folder), files(&folder.join("objects"))].concat() {
        let text = std::fs::read_to_string(file).expect("readable");
        for document in serde_yaml_ng::Deserializer::from_str(&text) {
            let object = DynamicObject::deserialize(document).expect("an object");
            let kind = object.types.clone().expect("a kind").kind;
            if kind == "Secret" {
                continue;
            }
            let client = cluster.client.clone();
            let objects: Api<DynamicObject> = match &object.metadata.namespace {
                Some(namespace) => Api::namespaced_with(client, namespace, &ours(&kind)),
                None => Api::all_with(client, &ours(&kind)),
            };
            let name = object.metadata.name.clone().expect("a name");
            let params = PatchParams::apply("contract").force().validation_strict().dry_run();
            let applied = objects.patch(&name, &params, &Patch::Apply(&object)).await;
            applied.unwrap_or_else(|error| panic!("{kind} {name}: {error}"));
            seen += 1;
        }
    }
    assert!(seen >= 12, "every kind has an example, and a host's directory has some of them: {seen}");
}
