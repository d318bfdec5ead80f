//! Refusals in the API server's own words: each becomes a `Status` object with the code, reason and
//! details that client-go and kube branch on.

use serde_json::{Value, json};

use super::resource::Resource;
pub(crate) use manx_schema::FieldError;

/// Why a request is not carried out.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Failure {
    /// HTTP status code.
    pub(crate) code: u16,
    /// Machine-readable reason, such as `NotFound`; empty when there is none.
    pub(crate) reason: &'static str,
    /// What a person reads.
    pub(crate) message: String,
    /// The `details` of the `Status`, or null.
    pub(crate) details: Value,
}

impl Failure {
    fn about(code: u16, reason: &'static str, message: String, resource: &Resource, name: &str) -> Self {
        let mut details = json!({"kind": resource.plural});
        if !name.is_empty() {
            details["name"] = name.into();
        }
        if !resource.group.is_empty() {
            details["group"] = resource.group.clone().into();
        }
        Self { code, reason, message, details }
    }

    fn plain(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: Value::Null }
    }

    /// The object is not there.
    pub(crate) fn not_found(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", resource.qualified());
        Self::about(404, "NotFound", message, resource, name)
    }

    /// No resource of this name is served. In a group that is not the API server's own, the real one does not even
    /// answer with a `Status` then.
    pub(crate) fn no_such_resource(group: &str) -> Self {
        let own = group.is_empty() || group == "apps" || group.ends_with(".k8s.io");
        let details = if own { json!({}) } else { Value::Null };
        Self { details, ..Self::no_such_path() }
    }

    /// Nothing is served at this path.
    pub(crate) fn no_such_path() -> Self {
        let mut failure = Self::plain(404, "NotFound", "the server could not find the requested resource");
        failure.details = json!({});
        failure
    }

    /// The name is taken.
    pub(crate) fn already_exists(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", resource.qualified());
        Self::about(409, "AlreadyExists", message, resource, name)
    }

    /// Somebody else was faster, or a precondition does not hold.
    pub(crate) fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", resource.qualified());
        Self::about(409, "Conflict", message, resource, name)
    }

    /// The resourceVersion in the body is not the current one.
    pub(crate) fn modified(resource: &Resource, name: &str) -> Self {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, name, why)
    }

    /// Server-side apply ran into fields that others own.
    pub(crate) fn apply_conflict(message: String, causes: Vec<Value>) -> Self {
        let details = json!({"causes": causes});
        Self { code: 409, reason: "Conflict", message, details }
    }

    /// The object breaks rules of its schema.
    pub(crate) fn invalid(resource: &Resource, name: &str, errors: &[FieldError]) -> Self {
        let list = match errors {
            [one] => one.to_string(),
            many => format!("[{}]", many.iter().map(FieldError::to_string).collect::<Vec<_>>().join(", ")),
        };
        let kind = resource.qualified_kind();
        let causes: Vec<Value> = errors
            .iter()
            .map(|e| json!({"reason": e.reason, "message": e.message, "field": e.field}))
            .collect();
        let mut details = json!({"name": name, "kind": resource.kind, "causes": causes});
        if !resource.group.is_empty() {
            details["group"] = resource.group.clone().into();
        }
        Self {
            code: 422,
            reason: "Invalid",
            message: format!("{kind} \"{name}\" is invalid: {list}"),
            details,
        }
    }

    /// The request itself makes no sense.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::plain(400, "BadRequest", message)
    }

    /// The request is understood and refused.
    pub(crate) fn forbidden(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!("{} \"{name}\" is forbidden: {why}", resource.qualified());
        Self::about(403, "Forbidden", message, resource, name)
    }

    /// The verb does not exist for this resource.
    pub(crate) fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        let mut failure = Self::plain(405, "MethodNotAllowed", message);
        failure.details = json!({});
        failure
    }

    /// The body is in a format that is not spoken here.
    pub(crate) fn unsupported_media_type(accepted: &str) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {accepted}"
        );
        Self::plain(415, "UnsupportedMediaType", message)
    }

    /// The request is well-formed and cannot be carried out.
    pub(crate) fn unprocessable(message: &str) -> Self {
        Self { details: json!({}), ..Self::plain(422, "Invalid", message) }
    }

    /// The options of a request break rules.
    pub(crate) fn invalid_options(kind: &str, error: &FieldError) -> Self {
        let cause = json!({"reason": error.reason, "message": error.message, "field": error.field});
        let details = json!({"group": "meta.k8s.io", "kind": kind, "causes": [cause]});
        let message = format!("{kind}.meta.k8s.io \"\" is invalid: {error}");
        Self { details, ..Self::plain(422, "Invalid", message) }
    }

    /// A precondition of a deletion does not hold.
    pub(crate) fn precondition(resource: &Resource, name: &str, why: &str) -> Self {
        let kind = resource.qualified_kind();
        let message = format!("Operation cannot be fulfilled on {kind} \"{name}\": {why}");
        let mut failure = Self::about(409, "Conflict", message, resource, name);
        failure.details["kind"] = resource.kind.clone().into();
        failure
    }

    /// The history that was asked for is gone.
    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::plain(410, "Expired", message)
    }

    /// The revision that was asked for is still to come.
    pub(crate) fn too_large_revision(asked: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        let mut failure = Self::plain(504, "Timeout", message);
        failure.details = json!({
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        });
        failure
    }

    /// The server cannot do what it should.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::plain(500, "InternalError", message)
    }

    /// A failure that a test asked for.
    pub(crate) fn injected(code: u16, message: &str, retry_after: Option<u32>) -> Self {
        let mut failure = Self::plain(code, reason_of(code), message);
        if let Some(seconds) = retry_after {
            failure.details = json!({"retryAfterSeconds": seconds});
        }
        failure
    }

    /// Seconds that the client is asked to wait, if any.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        self.details.get("retryAfterSeconds")?.as_u64()
    }

    /// The `Status` object.
    pub(crate) fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = self.reason.into();
        }
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }
}

/// The reason that Kubernetes gives with a status code when it has nothing better to say.
fn reason_of(code: u16) -> &'static str {
    match code {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        422 => "Invalid",
        429 => "TooManyRequests",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "",
    }
}
