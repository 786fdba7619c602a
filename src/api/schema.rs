//! What the schemas of the four kinds share: patterns, bounds and references. Knows no kind.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Name of a Kubernetes object (a DNS-1123 subdomain).
pub(crate) const OBJECT_NAME: &str = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$";
/// Key of a Secret; also a file name in a mounted Secret, so never `.` or `..`.
pub(crate) const SECRET_KEY: &str = r"^\.?[-_a-zA-Z0-9][-._a-zA-Z0-9]*$";
/// CEL: a folder in a store, from `self.folder`, whose default is empty.
pub(crate) const FOLDER_RULE: &str = concat!(
    r"self.folder == '' || (self.folder.matches(r'^[^/\\\s]+(/[^/\\\s]+)*$')",
    " && self.folder.split('/').all(part, part != '.' && part != '..'))"
);
/// What [`FOLDER_RULE`] tells a person.
pub(crate) const FOLDER_MESSAGE: &str =
    "folder is a path such as links/shop: no slash at its ends, no empty part, no '.' or '..', no white space and no backslash";

/// An object in the same namespace; references never leave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalRef {
    /// Name of the object, in the same namespace.
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME))]
    pub name: String,
}

impl LocalRef {
    /// A reference to the object of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }
}

/// Labels or annotations: at most 32, values bounded.
pub(crate) fn bounded_strings(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": {"type": "string", "maxLength": 4096}
    })
}

/// A list of objects that Kubernetes itself defines, with a bound on its length.
pub(crate) fn at_most<T: JsonSchema, const MAX: u32>(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "maxItems": MAX, "items": generator.subschema_for::<T>()})
}

/// An RFC 3339 time, UTC.
pub(crate) fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time"})
}
