//! How a database is reached: the parts that the sources and targets of a LinkConnection share.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A PostgreSQL database, version 14 or newer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PostgresqlDatabase {
    /// Host name or address. May change during a link's life: the database's own identity decides whether it is the same.
    pub host: String,
    /// Port.
    #[serde(default = "default_port")]
    pub port: u16,
    /// Name of the database.
    pub database: String,
    /// Encryption of the connection.
    #[serde(default)]
    pub tls: Tls,
    /// How to log in.
    pub auth: Auth,
}

fn default_port() -> u16 {
    5432
}

/// Encryption of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tls {
    /// How much of the server's certificate is verified.
    #[serde(default)]
    pub mode: TlsMode,
    /// Certificate authorities to trust, PEM, instead of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<CaSource>,
    /// Name that the certificate must bear, where it is not `host`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

/// Where a bundle of certificate authorities is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CaSource {
    /// Key of a Secret in the link's namespace.
    pub secret_key_ref: SecretKey,
}

/// One key of a Secret in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretKey {
    /// Name of the Secret.
    pub name: String,
    /// Key within it.
    pub key: String,
}

/// How much of a server's certificate is verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsMode {
    /// Encrypted; the certificate must come from a trusted authority and bear the server's name.
    #[default]
    VerifyFull,
    /// Encrypted; the certificate must come from a trusted authority.
    VerifyCA,
    /// Encrypted; the certificate is not verified.
    Require,
    /// Not encrypted. For loopback and for networks that encrypt by themselves.
    Disable,
}

/// How to log in: exactly one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Auth {
    /// User name and password from a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<PasswordAuth>,
}

/// User name and password from a Secret. Its keys default to those of a CloudNativePG application Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PasswordAuth {
    /// The Secret, in the link's namespace.
    pub secret_ref: SecretRef,
    /// Key that holds the user name.
    #[serde(default = "default_username_key")]
    pub username_key: String,
    /// Key that holds the password.
    #[serde(default = "default_password_key")]
    pub password_key: String,
}

/// A Secret in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretRef {
    /// Name of the Secret.
    pub name: String,
}

fn default_username_key() -> String {
    "username".to_owned()
}

fn default_password_key() -> String {
    "password".to_owned()
}

/// The operational database that is linked: exactly one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Source {
    /// PostgreSQL by logical replication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgresql: Option<PostgresqlDatabase>,
}

/// The analytical target: exactly one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Target {
    /// PostgreSQL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgresql: Option<PostgresqlTarget>,
}

/// A PostgreSQL target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PostgresqlTarget {
    /// The database.
    #[serde(flatten)]
    pub database: PostgresqlDatabase,
    /// What to do with a table that is already there and that this link did not create.
    #[serde(default)]
    pub on_existing_table: OnExistingTable,
}

/// What to do with a table of the target that this link did not create.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnExistingTable {
    /// Leave it alone; the link table fails with `TargetTableExists`.
    #[default]
    Fail,
    /// Replace it, once the snapshot is complete, with the link's own table.
    Recreate,
}
