//! Who owns which fields (`metadata.managedFields`).

use serde_json::Value;

use super::call::Call;
use super::resource::Resource;

/// Who writes, and how.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Writer {
    manager: String,
    apply: bool,
    api_version: String,
    subresource: String,
}

impl Writer {
    /// A writer by create, update or patch.
    pub(crate) fn update(call: &Call, resource: &Resource) -> Self {
        Self {
            manager: call.field_manager(),
            apply: false,
            api_version: resource.api_version(),
            subresource: call.target.subresource.clone(),
        }
    }
}

/// Notes in `new` who owns what, after `writer` has changed it from `live` (null if it was not there).
pub(crate) fn record(_resource: &Resource, _live: &Value, _new: &mut Value, _writer: &Writer) {}
