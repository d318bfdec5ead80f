//! What is wrong with a field, in the API server's own words.

use serde_json::Value;

/// One broken rule of one field, as it appears in `details.causes`.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    /// Path of the field, such as `spec.peers[0].asn`.
    pub field: String,
    /// `FieldValueInvalid`, `FieldValueRequired` …
    pub reason: &'static str,
    /// What is wrong, without the path.
    pub message: String,
}

impl FieldError {
    /// A value that breaks a rule.
    pub fn invalid(field: &str, value: &Value, why: &str) -> Self {
        let field = field.to_owned();
        Self { field, reason: "FieldValueInvalid", message: format!("Invalid value: {value}: {why}") }
    }

    /// A value of the wrong type; Kubernetes names the type in place of the value.
    pub fn wrong_type(field: &str, found: &str, wanted: &str) -> Self {
        let message =
            format!("Invalid value: \"{found}\": {field} in body must be of type {wanted}: \"{found}\"");
        Self { field: field.to_owned(), reason: "FieldValueTypeInvalid", message }
    }

    /// A field that has to be there.
    pub fn required(field: &str, why: &str) -> Self {
        let message = if why.is_empty() { "Required value".into() } else { format!("Required value: {why}") };
        Self { field: field.to_owned(), reason: "FieldValueRequired", message }
    }

    /// A value outside its enumeration.
    pub fn unsupported(field: &str, value: &Value, supported: &[Value]) -> Self {
        let supported = supported.iter().map(Value::to_string).collect::<Vec<_>>().join(", ");
        let message = format!("Unsupported value: {value}: supported values: {supported}");
        Self { field: field.to_owned(), reason: "FieldValueNotSupported", message }
    }

    /// A rule with a reason of its own choosing.
    pub fn with_reason(field: &str, reason: &'static str, message: String) -> Self {
        Self { field: field.to_owned(), reason, message }
    }
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}
