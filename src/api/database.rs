//! How a database is reached: the parts that the sources and targets of a LinkConnection share.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema::{OBJECT_NAME, SECRET_KEY};

/// A PostgreSQL database, version 14 or newer.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("self.host.matches('^[A-Za-z0-9_.:-]+$')")
        .message("host is a name or an address alone, without scheme, user or path: the port goes into port, the database into database")
        .field_path(".host"),
    validation = ("self.tls.mode != 'Strict'", "tls.mode Strict is for SQL Server: set VerifyFull"),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PostgresqlDatabase {
    /// Host name or address. May change during a link's life: the database's own identity decides whether it is the same.
    #[schemars(length(min = 1, max = 253))]
    pub host: String,
    /// Port. Default: 5432.
    #[schemars(range(min = 1))]
    #[serde(default = "default_port")]
    pub port: u16,
    /// Name of the database. Cannot be changed.
    #[schemars(length(min = 1, max = 63))]
    pub database: String,
    /// Encryption of the connection. Default: encrypted, with the server's certificate and name verified.
    #[serde(default)]
    pub tls: Tls,
    /// How to log in: exactly one of `password`.
    pub auth: Auth,
}

fn default_port() -> u16 {
    5432
}

/// A database of SQL Server 2016 or newer, Azure SQL Database, SQL Managed Instance or a Synapse dedicated SQL pool.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("self.host.matches('^[A-Za-z0-9_.:-]+$')")
        .message("host is a name or an address alone, without scheme, instance, user or path: the port goes into port, the database into database")
        .field_path(".host"),
    validation = (
        "self.tls.mode != 'Disable' || has(self.auth.password)",
        "a token is never sent without encryption: set tls.mode to VerifyFull, or log in with a password"
    ),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SqlServerDatabase {
    /// Host name or address, of an availability group its listener (`contoso.database.windows.net`). May change during a link's
    /// life: the database's own identity decides whether it is the same. A named instance is reached by its port.
    #[schemars(length(min = 1, max = 253))]
    pub host: String,
    /// Port. Default: 1433.
    #[schemars(range(min = 1))]
    #[serde(default = "default_tds_port")]
    pub port: u16,
    /// Name of the database. Cannot be changed.
    #[schemars(length(min = 1, max = 128))]
    pub database: String,
    /// Encryption of the connection. Default: encrypted, with the server's certificate and name verified.
    #[serde(default)]
    pub tls: Tls,
    /// How to log in: exactly one of `password`, `servicePrincipal`, `managedIdentity`, `workloadIdentity`.
    pub auth: SqlServerAuth,
}

fn default_tds_port() -> u16 {
    1433
}

/// How to log in to SQL Server: exactly one.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = (
    "[has(self.password), has(self.servicePrincipal), has(self.managedIdentity), has(self.workloadIdentity)].exists_one(x, x)",
    "set exactly one way to log in: password, servicePrincipal, managedIdentity or workloadIdentity"
))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SqlServerAuth {
    /// SQL authentication: user name and password from a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<PasswordAuth>,
    /// An application of Microsoft Entra ID with a client secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_principal: Option<ServicePrincipalAuth>,
    /// The managed identity of the node that the worker runs on (Azure virtual machines, AKS).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed_identity: Option<ManagedIdentityAuth>,
    /// The workers' ServiceAccount, which an application or a user-assigned identity of Entra ID trusts (workload identity
    /// federation; subject `system:serviceaccount:<namespace>:link-worker`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_identity: Option<WorkloadIdentityAuth>,
}

/// An application of Entra ID with a client secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServicePrincipalAuth {
    /// Directory (tenant) id.
    #[schemars(length(min = 1, max = 253), regex(pattern = TENANT))]
    pub tenant_id: String,
    /// Application (client) id.
    #[schemars(length(min = 1, max = 253), regex(pattern = CLIENT))]
    pub client_id: String,
    /// The application's client secret, by key of a Secret in the link's namespace.
    pub client_secret: SecretKeySource,
}

/// A managed identity of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ManagedIdentityAuth {
    /// Client id of a user-assigned identity. Default: the system-assigned one.
    #[schemars(length(min = 1, max = 253), regex(pattern = CLIENT))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
}

/// An identity of Entra ID that trusts the workers' ServiceAccount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadIdentityAuth {
    /// Directory (tenant) id.
    #[schemars(length(min = 1, max = 253), regex(pattern = TENANT))]
    pub tenant_id: String,
    /// Client id of the application or of the user-assigned identity.
    #[schemars(length(min = 1, max = 253), regex(pattern = CLIENT))]
    pub client_id: String,
}

/// A secret value, by key of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretKeySource {
    /// Key of a Secret in the link's namespace.
    pub secret_key_ref: SecretKey,
}

/// A directory: its id or one of its domains.
const TENANT: &str = r"^[A-Za-z0-9.-]+$";
/// The id of an application.
const CLIENT: &str = r"^[A-Za-z0-9-]+$";

/// A SQL Server source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SqlServerSource {
    /// The database.
    #[serde(flatten)]
    pub database: SqlServerDatabase,
    /// How changes are found. ChangeTracking: by the change tables of Change Tracking, in every edition; holds no log; each batch
    /// brings what changed since the one before, as it is now. ChangeDataCapture: by the change tables that SQL Server Agent fills
    /// from the log; every change in the order of commits. Cannot be changed. Default: ChangeTracking.
    #[serde(default)]
    pub capture_mode: CaptureMode,
}

/// How changes are found in a SQL Server database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CaptureMode {
    /// By Change Tracking: what changed since the last look, as it is now.
    #[default]
    ChangeTracking,
    /// By change data capture: every change, in the order of commits.
    ChangeDataCapture,
}

/// A SQL Server target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SqlServerTarget {
    /// The database.
    #[serde(flatten)]
    pub database: SqlServerDatabase,
    /// What to do with a table that is already there and that this link did not create. Fail: leave it alone, the link table
    /// fails with `TargetTableExists`. Recreate: replace it, once the load is complete, with the link's own. Adopt is for
    /// PostgreSQL targets. Default: Fail.
    #[serde(default)]
    pub on_existing_table: OnExistingTable,
}

/// A Synapse dedicated SQL pool as a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SynapseTarget {
    /// The pool: host is the workspace's dedicated endpoint (`<workspace>.sql.azuresynapse.net`) or the logical server's
    /// (`<server>.database.windows.net`), database the pool's name.
    #[serde(flatten)]
    pub database: SqlServerDatabase,
    /// How the pool reads the link's files: it loads rows by itself, with COPY INTO, from the landing zone, which must be in Azure
    /// storage. Exactly one of `managedIdentity`, `sasToken`.
    pub copy_auth: CopyAuth,
    /// What to do with a table that is already there and that this link did not create. Fail: leave it alone, the link table
    /// fails with `TargetTableExists`. Recreate: replace it, once the load is complete, with the link's own. Adopt is for
    /// PostgreSQL targets. Default: Fail.
    #[serde(default)]
    pub on_existing_table: OnExistingTable,
}

/// How a pool reads the landing zone: exactly one.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = (
    "has(self.managedIdentity) != has(self.sasToken)",
    "set exactly one way for the pool to read the landing zone: managedIdentity or sasToken"
))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CopyAuth {
    /// By the managed identity of the pool's workspace or logical server, which needs the role Storage Blob Data Contributor on
    /// the container. The storage account must have a hierarchical namespace (Data Lake Storage Gen2). Nothing secret is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed_identity: Option<PoolIdentity>,
    /// By a shared access signature with the rights read and list, and no others, from a key of a Secret. It is sent to the pool in
    /// each COPY statement; never the LandingZone's own, which may write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sas_token: Option<SecretKeySource>,
}

/// The pool's own managed identity; nothing more is to be said of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolIdentity {}

/// Encryption of a connection.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = (
    "self.mode in ['VerifyFull', 'VerifyCA', 'Strict'] || (!has(self.ca) && !has(self.serverName))",
    "with mode Require or Disable no certificate is verified: remove ca and serverName, or set mode to VerifyFull or VerifyCA"
))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tls {
    /// How much of the server's certificate is verified. VerifyFull: it comes from a trusted authority and bears the server's
    /// name. VerifyCA: it comes from a trusted authority. Require: encrypted, nothing is verified. Disable: not encrypted, for
    /// loopback and for networks that encrypt by themselves. Strict (SQL Server): as VerifyFull, by TDS 8.0, which sends nothing
    /// before the encryption stands. Default: VerifyFull.
    #[serde(default)]
    pub mode: TlsMode,
    /// Certificate authorities to trust, PEM, instead of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<CaSource>,
    /// Name that the certificate must bear, where it is not `host`.
    #[schemars(length(min = 1, max = 253))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

/// Where a bundle of certificate authorities is kept: exactly one.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = (
    "has(self.secretKeyRef) != has(self.configMapKeyRef)",
    "set exactly one place of the certificate authorities: secretKeyRef or configMapKeyRef"
))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CaSource {
    /// Key of a Secret in the link's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKey>,
    /// Key of a ConfigMap in the link's namespace, such as trust-manager writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<ConfigMapKey>,
}

/// One key of a ConfigMap in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfigMapKey {
    /// Name of the ConfigMap.
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME))]
    pub name: String,
    /// Key within it.
    #[schemars(length(min = 1, max = 253), regex(pattern = SECRET_KEY))]
    pub key: String,
}

/// One key of a Secret in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretKey {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME))]
    pub name: String,
    /// Key within it.
    #[schemars(length(min = 1, max = 253), regex(pattern = SECRET_KEY))]
    pub key: String,
}

/// How much of a server's certificate is verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
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
    /// TDS 8.0: as VerifyFull, and not a byte is sent before the encryption stands. For SQL Server 2022, Azure SQL Database and SQL
    /// Managed Instance.
    Strict,
}

/// How to log in: exactly one.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = ("has(self.password)", "set exactly one way to log in: password (user name and password from a Secret)"))]
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
    /// Key that holds the user name. Default: `username`.
    #[schemars(length(min = 1, max = 253), regex(pattern = SECRET_KEY))]
    #[serde(default = "default_username_key")]
    pub username_key: String,
    /// Key that holds the password. Default: `password`.
    #[schemars(length(min = 1, max = 253), regex(pattern = SECRET_KEY))]
    #[serde(default = "default_password_key")]
    pub password_key: String,
}

/// A Secret in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME))]
    pub name: String,
}

fn default_username_key() -> String {
    "username".to_owned()
}

fn default_password_key() -> String {
    "password".to_owned()
}

/// The operational database that is linked: exactly one.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = ("has(self.postgresql) != has(self.sqlServer)", "set exactly one source: postgresql or sqlServer"),
    validation = (
        "has(self.postgresql) == has(oldSelf.postgresql) && has(self.sqlServer) == has(oldSelf.sqlServer)",
        "the kind of source is immutable: create another LinkConnection for another source"
    ),
    validation = (
        "!has(self.postgresql) || !has(oldSelf.postgresql) || self.postgresql.database == oldSelf.postgresql.database",
        "postgresql.database is immutable: create another LinkConnection for another database"
    ),
    validation = (
        "!has(self.sqlServer) || !has(oldSelf.sqlServer) || (self.sqlServer.database == oldSelf.sqlServer.database && \
         self.sqlServer.captureMode == oldSelf.sqlServer.captureMode)",
        "sqlServer.database and sqlServer.captureMode are immutable: create another LinkConnection for another one"
    ),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Source {
    /// PostgreSQL 14 or newer, followed by logical replication (`wal_level` must be `logical`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgresql: Option<PostgresqlDatabase>,
    /// SQL Server 2016 or newer, Azure SQL Database or SQL Managed Instance, followed by Change Tracking or change data capture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql_server: Option<SqlServerSource>,
}

/// The analytical target: exactly one.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = (
        "[has(self.postgresql), has(self.sqlServer), has(self.synapse)].exists_one(x, x)",
        "set exactly one target: postgresql, sqlServer or synapse"
    ),
    validation = (
        "has(self.postgresql) == has(oldSelf.postgresql) && has(self.sqlServer) == has(oldSelf.sqlServer) && \
         has(self.synapse) == has(oldSelf.synapse)",
        "the kind of target is immutable: create another LinkConnection for another target"
    ),
    validation = (
        "!has(self.postgresql) || !has(oldSelf.postgresql) || self.postgresql.database == oldSelf.postgresql.database",
        "postgresql.database is immutable: create another LinkConnection for another database"
    ),
    validation = (
        "!has(self.sqlServer) || !has(oldSelf.sqlServer) || self.sqlServer.database == oldSelf.sqlServer.database",
        "sqlServer.database is immutable: create another LinkConnection for another database"
    ),
    validation = (
        "!has(self.synapse) || !has(oldSelf.synapse) || self.synapse.database == oldSelf.synapse.database",
        "synapse.database is immutable: create another LinkConnection for another pool"
    ),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Target {
    /// PostgreSQL 14 or newer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgresql: Option<PostgresqlTarget>,
    /// SQL Server 2016 or newer, Azure SQL Database or SQL Managed Instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql_server: Option<SqlServerTarget>,
    /// A Synapse dedicated SQL pool. Its tables are replaced on reseed by renaming: between two names, for a moment, there is none.
    /// Readers see batches whole only if the pool has READ_COMMITTED_SNAPSHOT on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synapse: Option<SynapseTarget>,
}

impl Target {
    /// The database of a target over TDS.
    pub fn sql_server_database(&self) -> Option<&SqlServerDatabase> {
        let synapse = self.synapse.as_ref().map(|target| &target.database);
        self.sql_server.as_ref().map(|target| &target.database).or(synapse)
    }
}

/// A PostgreSQL target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PostgresqlTarget {
    /// The database.
    #[serde(flatten)]
    pub database: PostgresqlDatabase,
    /// What to do with a table that is already there and that this link did not create. Fail: leave it alone, the link table
    /// fails with `TargetTableExists`. Recreate: replace it, once the load is complete, with the link's own. Adopt: take it over
    /// where it stands, for a copy that was restored from a backup or left by another replicator or a deleted link: no load; the
    /// link applies changes to it at once, compares it with the source and repairs rows that differ (`status.verification` says
    /// which), and it is Replicating once none does. Readers go on reading it meanwhile, with rows that may yet be wrong. It must
    /// be an ordinary table that the target's user owns, with the source's columns in the types that the link would give them
    /// (more are left alone, if they allow NULL or have a default), a unique index on the key in the key's order, and no
    /// constraint, other unique index, trigger or rule that would refuse or alter rows; else the link table fails with
    /// `TargetTableDiffers`, and nothing is touched. From then on it is the link's own: columns other than the key's lose NOT NULL,
    /// deletionPolicy holds for it, and once it replicates a reseed, also an automatic one, replaces it: columns that the source
    /// does not have are gone then. Let no other replicator write to it any more. If most rows differ, Recreate is faster.
    /// Default: Fail.
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
    /// Take it over where it stands, compare it with the source and repair it; the link table fails with `TargetTableDiffers` if
    /// its columns, key or constraints do not allow it.
    Adopt,
}
