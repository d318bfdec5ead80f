//! What schemas prune, default, refuse and say.

use serde_json::{Value, json};

use super::*;

fn schema(spec: Value) -> Schema {
    let source = json!({"type": "object", "properties": {"spec": spec}});
    Schema::compile(&source).expect("a schema")
}

fn rule(rule: &str) -> Value {
    json!([{"rule": rule, "message": "broken"}])
}

fn text_with(rules: &Value) -> Schema {
    schema(json!({"type": "string", "x-kubernetes-validations": rules}))
}

fn messages(schema: &Schema, new: &Value, old: Option<&Value>) -> Vec<String> {
    let object = |spec: &Value| json!({"metadata": {"name": "a"}, "spec": spec});
    let old = old.map(object);
    schema.violations(&object(new), old.as_ref()).iter().map(ToString::to_string).collect()
}

#[test]
fn unknown_fields_go_and_defaults_come() {
    let schema = schema(json!({
        "type": "object",
        "properties": {
            "mode": {"type": "string", "default": "Auto"},
            "inner": {"type": "object", "default": {}, "properties": {"n": {"type": "integer", "default": 3}}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "map": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    }));
    let mut object = json!({
        "apiVersion": "v1", "kind": "K", "metadata": {"name": "a"},
        "spec": {"mode": null, "odd": 1, "free": {"x": 1}, "map": {"k": "v"}}, "other": 2,
    });
    let unknown = schema.prepare(&mut object);
    assert_eq!(unknown, ["other", "spec.odd"]);
    assert_eq!(
        object["spec"],
        json!({"mode": "Auto", "inner": {"n": 3}, "free": {"x": 1}, "map": {"k": "v"}})
    );
}

#[test]
fn violations_speak_as_the_api_server_does() {
    let spec = json!({
        "type": "object", "required": ["must"],
        "properties": {
            "must": {"type": "string"}, "n": {"type": "integer", "minimum": 1, "maximum": 5},
            "s": {"type": "string", "maxLength": 2, "pattern": "^a"}, "e": {"type": "string", "enum": ["A", "B"]},
            "l": {"type": "array", "maxItems": 1, "items": {"type": "string"}},
        },
    });
    let schema = schema(spec);
    for (value, wanted) in [
        (json!({}), "spec.must: Required value"),
        (
            json!({"must": 1}),
            "spec.must: Invalid value: \"integer\": spec.must in body must be of type string: \"integer\"",
        ),
        (
            json!({"must": "", "n": 0}),
            "spec.n: Invalid value: 0: spec.n in body should be greater than or equal to 1",
        ),
        (json!({"must": "", "s": "abc"}), "spec.s: Too long: may not be more than 2 bytes"),
        (json!({"must": "", "s": "b"}), "spec.s: Invalid value: \"b\": spec.s in body should match '^a'"),
        (json!({"must": "", "e": "C"}), "spec.e: Unsupported value: \"C\": supported values: \"A\", \"B\""),
        (json!({"must": "", "l": ["a", "b"]}), "spec.l: Too many: 2: must have at most 1 items"),
    ] {
        assert_eq!(messages(&schema, &value, None).first().map(String::as_str), Some(wanted));
    }
}

#[test]
fn rules_know_addresses_and_networks() {
    for (rule_text, good, bad) in [
        ("isCIDR(self) && string(cidr(self).masked()) == self", "10.0.0.0/8", "10.0.0.1/8"),
        ("isCIDR(self) && string(cidr(self).masked()) == self", "fd00::/48", "fd00:0::/48"),
        ("isCIDR(self)", "10.0.0.1/8", "10.0.0.0/255.0.0.0"),
        ("isIP(self)", "::1", "::ffff:192.0.2.1"),
        ("isIP(self) && ip(self).family() == 4", "192.0.2.1", "fd00::1"),
        ("cidr('10.0.0.0/8').containsCIDR(self)", "10.9.0.0/16", "11.0.0.0/16"),
        ("cidr('10.0.0.0/8').containsIP(self)", "10.9.0.0", "11.0.0.0"),
        ("cidr(self).prefixLength() >= 20 && cidr(self).ip() == ip('10.0.0.0')", "10.0.0.0/20", "10.0.0.0/8"),
        ("self.split(':').all(n, int(n) <= 65535)", "1:2", "1:70000"),
        ("self.replace('.', '-').lowerAscii() == '10-a'", "10.A", "10.b"),
        ("self.matches('^[0-9]+$') || self.startsWith('x')", "12", "y"),
        ("['a', 'b'].exists_one(x, x == self)", "a", "c"),
    ] {
        let schema = text_with(&rule(rule_text));
        assert_eq!(messages(&schema, &json!(good), None), Vec::<String>::new(), "{rule_text} with {good}");
        let wanted = ["spec: Invalid value: \"string\": broken"];
        assert_eq!(messages(&schema, &json!(bad), None), wanted, "{rule_text} with {bad}");
    }
}

#[test]
fn transition_rules_hold_only_between_old_and_new() {
    let schema = text_with(&rule("self == oldSelf"));
    assert!(messages(&schema, &json!("a"), None).is_empty());
    assert!(messages(&schema, &json!("a"), Some(&json!("a"))).is_empty());
    assert_eq!(messages(&schema, &json!("b"), Some(&json!("a"))).len(), 1);
}

#[test]
fn a_message_can_be_computed_and_a_field_be_named() {
    let spec = json!({
        "type": "object", "properties": {"low": {"type": "integer"}, "high": {"type": "integer"}},
        "x-kubernetes-validations": [{
            "rule": "self.low <= self.high", "messageExpression": "'low must not be above ' + string(self.high)",
            "fieldPath": ".low", "reason": "FieldValueForbidden",
        }],
    });
    let found = messages(&schema(spec), &json!({"low": 3, "high": 2}), None);
    assert_eq!(found, ["spec.low: Forbidden: low must not be above 2"]);
}

#[test]
fn what_did_not_change_is_not_held_against_the_client() {
    let text = text_with(&rule("self == 'good'"));
    assert!(messages(&text, &json!("bad"), Some(&json!("bad"))).is_empty());
    let ranged = schema(json!({"type": "integer", "maximum": 5}));
    assert!(messages(&ranged, &json!(9), Some(&json!(9))).is_empty());
    assert_eq!(messages(&ranged, &json!(8), Some(&json!(9))).len(), 1);
}

#[test]
fn rules_that_name_what_is_not_there_are_refused() {
    let complaint = |spec: Value| {
        let source = json!({"type": "object", "properties": {"spec": spec}});
        Schema::compile(&source).expect_err("refused")[0].message.clone()
    };
    let with = |rule: &str| {
        json!({
            "type": "object", "x-kubernetes-validations": [{"rule": rule}],
            "properties": {"list": {"type": "array", "items": {
                "type": "object", "properties": {"name": {"type": "string"}},
            }}},
        })
    };
    assert!(complaint(with("self.lost == 1")).contains("undefined field 'lost'"));
    assert!(complaint(with("self.list.all(x, x.nam == '')")).contains("undefined field 'nam'"));
    assert!(complaint(with("isCidr(self.list[0].name)")).contains("undeclared reference to 'isCidr'"));
    assert!(complaint(with("self.list.all(x")).contains("compilation failed"));
    let in_list = json!({"type": "array", "items": {
        "type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf"}],
    }});
    assert!(complaint(in_list).contains("uncorrelatable"));
    let untyped = json!({"type": "object", "properties": {"x": {"description": "no type"}}});
    assert!(complaint(untyped).starts_with("Required value"));
}
