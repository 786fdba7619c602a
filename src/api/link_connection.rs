//! LinkConnection: one source database linked to one target.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    compute::Compute,
    database::{Source, Target},
    discover::Discover,
    discovery::Discovery,
    forecast::PlanStatus,
    link_table::TargetTable,
    report::{PositionReport, TablePhase},
    schema::{LocalRef, OBJECT_NAME, time},
    source_protection::{OnPositionLost, PositionLostStatus, SourceProtection},
    verification::LinkVerification,
};
use crate::data::TableName;

/// Longest name of a LinkConnection, characters: the names of StatefulSets, pods and labels are made of it.
pub const MAX_LINK_NAME: usize = 40;

/// What to link, and how. To compare all tables with the source while they replicate, annotate the LinkConnection with
/// `link-operator.io/verify-requested-at: <now>`, and with `link-operator.io/verify-repair: "true"` to make rows that differ as
/// they are in the source. `link-operator.io/log: debug` has its workers log more, at once and without a restart.
/// `link-operator.io/restart-requested-at: <now>` restarts them, `link-operator.io/test-requested-at: <now>` tests the connections of a
/// link that rests.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "link-operator.io",
    version = "v1alpha1",
    kind = "LinkConnection",
    namespaced,
    shortname = "lc",
    category = "linkop",
    status = "LinkConnectionStatus",
    derive = "PartialEq",
    doc = "A LinkConnection links tables of one operational database to one analytical target: a full load first, then every change, \
           through a landing zone. Synapse: a link connection.",
    validation = ("self.metadata.name.size() <= 40", "the name of a LinkConnection has at most 40 characters: StatefulSets, pods and labels are named after it"),
    scale(spec_replicas_path = ".spec.compute.coreCount", status_replicas_path = ".status.coreCount"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase", description = "Where the link is"),
    printcolumn(name = "Tables", type_ = "string", json_path = ".status.tables.summary", description = "Tables that replicate, of all"),
    printcolumn(name = "Up-To", type_ = "date", json_path = ".status.consistentAsOf", description = "The target holds everything committed before this time"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status", description = "Whether the link does what its spec asks"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", description = "Why"),
    printcolumn(name = "Source", type_ = "string", json_path = ".status.source.version", description = "The operational database", priority = 1),
    printcolumn(name = "Target", type_ = "string", json_path = ".status.target.endpoint", description = "The analytical target", priority = 1),
    printcolumn(name = "Cores", type_ = "integer", json_path = ".status.coreCount", description = "Cores at work", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", description = "Since when it exists"),
)]
#[x_kube(
    validation = (
        "self.landingZoneRef.name == oldSelf.landingZoneRef.name",
        "landingZoneRef is immutable: create another LinkConnection for another landing zone"
    ),
    validation = (
        "has(self.linkId) == has(oldSelf.linkId) && (!has(self.linkId) || self.linkId == oldSelf.linkId)",
        "linkId is immutable: create another LinkConnection with the other linkId"
    ),
)]
#[serde(rename_all = "camelCase")]
pub struct LinkConnectionSpec {
    /// What the link shall do, lastingly. Running: load and follow every change. Paused: commit what was read and rest, the
    /// position is kept and the source goes on keeping its log. Stopped: rest and drop the position, the next start is a full
    /// load. Default: Running. Synapse: the actions start, pause, resume and stop of a link connection.
    #[serde(default)]
    pub state: LinkState,
    /// The operational database: exactly one of `postgresql` and `sqlServer`. Which database it is cannot be changed; how it is reached can.
    /// Synapse: `sourceDatabase`.
    pub source: Source,
    /// The analytical target: exactly one of `postgresql`, `sqlServer` and `synapse`. Which database it is cannot be changed; how it is
    /// reached can. Synapse: `targetDatabase`.
    pub target: Target,
    /// The LandingZone, in the same namespace, that files are staged in on their way. Cannot be changed.
    /// Synapse: `landingZone`.
    pub landing_zone_ref: LocalRef,
    /// How much computing the link may use, and where. Synapse: `compute`.
    #[serde(default)]
    pub compute: Compute,
    /// What becomes of the target's tables and of the staged files when this LinkConnection is deleted. What the link made in
    /// the source is always removed.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Whether all tables move together. True: a batch is applied to all exact tables in one transaction of the target, so
    /// readers see them as of one moment of the source; a table that is tried again holds the others, one that is Failed leaves
    /// them (condition `Consistent`). False: each table is applied as fast as it can be. Can be changed while the link runs.
    /// Default: false. Synapse: the transactional consistency setting of a link.
    #[serde(default)]
    pub transactional_consistency: bool,
    /// What becomes of a table whose columns change in the source.
    #[serde(default)]
    pub schema_change: SchemaChange,
    /// What happens when the source's log no longer holds what the link has yet to read: its replication slot is gone, or the
    /// server invalidated it, or the database was restored to an earlier state. Fail: the link waits for a person, who starts it
    /// over by setting `state` to Stopped, then to Running. Reseed: it loads all tables anew by itself, in a new run, beside what
    /// the target has, which readers see until the new load is complete; again and again only after growing pauses. Another
    /// database than the one that the link began with is never loaded by itself. Default: Fail.
    #[serde(default)]
    pub on_position_lost: OnPositionLost,
    /// What bounds the harm that the link can do to its source.
    #[serde(default)]
    pub source_protection: SourceProtection,
    /// The link's lasting identity: it names its folder in the landing zone and what it makes in the source and target, and so
    /// outlives this object. Default: `<namespace>.<name>`. Cannot be changed.
    #[schemars(length(min = 1, max = 128), regex(pattern = OBJECT_NAME))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_id: Option<String>,
    /// What to do if the folder of this `linkId` in the landing zone is that of a former LinkConnection, because the cluster was
    /// rebuilt, or that one was deleted with `deletionPolicy.landingZone: Retain`. Refuse: the link waits for a person (reason
    /// ZoneNotEmpty). Adopt: it goes on where the other was, its LinkTables taking over the tables of the same names with nothing
    /// loaded again; if the source dropped its position meanwhile, see `onPositionLost`. Purge: it starts over with a full load.
    /// If the other is still alive it does nothing any more (reason LinkTakenOver). Default: Refuse.
    #[serde(default)]
    pub relink_policy: RelinkPolicy,
    /// Tables to link: for each the operator makes a LinkTable, and deletes it when the entry goes. For more than 500, or to
    /// give teams their own, create LinkTables. Synapse: `linkTables`.
    #[schemars(length(max = 500), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["schemaName", "tableName"]))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<InlineTable>,
    /// Tables to link by patterns of their names, beside `tables`. While the link runs, its source is asked every minute which
    /// tables it has; for each that is asked for and can be linked the operator makes a LinkTable. It deletes one only when this
    /// field no longer asks for the table: one that vanished from the source stays, and is Failed (SourceTableMissing). A LinkTable of
    /// your own for the same source and target table takes over from the operator's, and nothing is loaded again. Which tables
    /// cannot be linked, and why, says `status.discovery`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discover: Option<Discover>,
}

/// What to do if the link's folder in the landing zone is that of a former LinkConnection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RelinkPolicy {
    /// Wait for a person.
    #[default]
    Refuse,
    /// Go on where it was.
    Adopt,
    /// Start over.
    Purge,
}

/// What a link shall do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, strum::Display, strum::IntoStaticStr)]
pub enum LinkState {
    /// Load and follow every change.
    #[default]
    Running,
    /// Rest; keep the position.
    Paused,
    /// Rest; drop the position.
    Stopped,
}

/// What becomes of what a link made, when it is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeletionPolicy {
    /// The target's tables. Retain: they stay as they are. Delete: those that the link made are dropped, but only if the
    /// LinkConnection bears the annotation `link-operator.io/confirm-delete: <its name>`. Default: Retain.
    #[serde(default)]
    pub target: TargetDeletion,
    /// The link's folder in the landing zone. Delete: it goes. Retain: it stays, and a LinkConnection of the same `linkId`
    /// meets it. Default: Delete.
    #[serde(default)]
    pub landing_zone: ZoneDeletion,
}

/// What becomes of a table whose columns change in the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SchemaChange {
    /// A column was added. Propagate: the target's table gets it without a load, and its rows read there what the source's
    /// rows read. Fail: the table is Failed until somebody reseeds it. A column that gave each row a value of its own
    /// (`DEFAULT gen_random_uuid()`, `serial`) is a breaking change. A column that was dropped stays in the target, and is
    /// NULL in every row that is written from then on. Default: Propagate.
    #[serde(default)]
    pub additive: AdditiveChange,
    /// A table was renamed or rewritten, a column was renamed or retyped, or joined or left the key, a partition was attached,
    /// detached or dropped, or truncated alone. Fail: the table is Failed until somebody reseeds it; the others go on. Reseed: it
    /// is loaded anew, beside what the target has, which readers see until the new load is complete. Default: Fail.
    #[serde(default)]
    pub breaking: BreakingChange,
}

/// What becomes of a table that got another column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AdditiveChange {
    /// The target's table gets it too.
    #[default]
    Propagate,
    /// It waits for a person.
    Fail,
}

/// What becomes of a table that changed in a way that its copy cannot follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BreakingChange {
    /// It waits for a person.
    #[default]
    Fail,
    /// It is loaded anew.
    Reseed,
}

/// What becomes of the target's tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TargetDeletion {
    /// They stay as they are.
    #[default]
    Retain,
    /// Those that the link made are dropped.
    Delete,
}

/// What becomes of the link's folder in the landing zone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ZoneDeletion {
    /// It goes.
    #[default]
    Delete,
    /// It stays.
    Retain,
}

/// One table of a link.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = (
    "has(self.target) == has(oldSelf.target) && (!has(self.target) || self.target == oldSelf.target)",
    "target is immutable: remove the table from the list and add it again with the other target"
))]
#[serde(rename_all = "camelCase")]
pub struct InlineTable {
    /// Schema of the table in the source, exactly as the database spells it (no quotes; upper and lower case count).
    #[schemars(length(min = 1, max = 128))]
    pub schema_name: String,
    /// Name of the table in the source, exactly as the database spells it (no quotes; upper and lower case count).
    #[schemars(length(min = 1, max = 128))]
    pub table_name: String,
    /// The table in the target; each name that is left out is the source's. Cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetTable>,
}

impl InlineTable {
    /// The table in the source.
    pub fn source_name(&self) -> TableName {
        TableName::new(&self.schema_name, &self.table_name)
    }

    /// The table in the target.
    pub fn target_name(&self) -> TableName {
        TargetTable::resolve(self.target.as_ref(), self.source_name())
    }
}

/// What is known of the link.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LinkConnectionStatus {
    /// Generation of the spec that this status speaks of; -1 before the controller has seen the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where the link is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<LinkPhase>,
    /// The link's lasting identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_id: Option<String>,
    /// Number of the link's history: a new one begins only with a full load. Synapse: `continuousRunId`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<u32>,
    /// Term of the capture that writes the link's log now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term: Option<u64>,
    /// When the link last went to Running. Synapse: `startTime`.
    #[schemars(schema_with = "time")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Timestamp>,
    /// When the link last went to Paused or Stopped. Synapse: `stopTime`.
    #[schemars(schema_with = "time")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_time: Option<Timestamp>,
    /// When the operator began to remove what the link made, once the link is deleted. Ten minutes later it lets the link go, whether or
    /// not all was removed, and tells in an Event what is left.
    #[schemars(schema_with = "time")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release_start_time: Option<Timestamp>,
    /// Cores of the workers that run; `kubectl scale` reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub core_count: Option<i32>,
    /// The link's workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<WorkersStatus>,
    /// The operational database, as it said of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceStatus>,
    /// The analytical target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetStatus>,
    /// How many tables are in which phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tables: Option<TablesStatus>,
    /// At most five tables that do not replicate, the worst first. `kubectl get linktables` shows all.
    #[schemars(length(max = 5))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub worst_tables: Vec<WorstTable>,
    /// Every table of the target that replicates, or is tried again (condition `Consistent` names the others), holds everything
    /// that was committed in the source before this time, and with `transactionalConsistency` nothing else. It moves on
    /// also while nobody writes: its age is the link's lag.
    #[schemars(schema_with = "time")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistent_as_of: Option<Timestamp>,
    /// What the source has to link, and what cannot be linked and why. Asked when a worker or probe starts, and every ten minutes, with
    /// `spec.discover` every minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discovery: Option<Discovery>,
    /// While the link has not started, or is Stopped: what its start would do. Create a link with `spec.state: Stopped` to see it
    /// before anything of source or target is touched. Reckoned anew with every test of the connections: on a new generation, when the
    /// annotation `link-operator.io/test-requested-at` gets another value, and every six hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanStatus>,
    /// Where the link is in its source's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<PositionReport>,
    /// When the next batch is due, of a link whose `spec.compute.dataProcessIntervalMinutes` is not 0.
    #[schemars(schema_with = "time")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_batch_time: Option<Timestamp>,
    /// While the link is Paused: when, by how fast the source's log grows, the source will keep more for the link than
    /// `spec.sourceProtection.maxRetainedLog` or its own `max_slot_wal_keep_size` allows. Resume the link before.
    #[schemars(schema_with = "time")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_before: Option<Timestamp>,
    /// The last time that the link lost its position, and what came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position_lost: Option<PositionLostStatus>,
    /// What the last comparison of all tables with the source found, that an annotation of this LinkConnection asked for; each
    /// table's stands in the status of its LinkTable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<LinkVerification>,
    /// Value of the annotation `link-operator.io/verify-requested-at` that was acted on last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_verify_at: Option<String>,
    /// Value of the annotation `link-operator.io/test-requested-at` that was acted on last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_test_at: Option<String>,
    /// Value of the annotation `link-operator.io/restart-requested-at` that was acted on last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_restart_at: Option<String>,
    /// Ready, Reconciling, Stalled, Suspended, Accepted, SnapshotComplete, Consistent, SourceReachable, SourcePrepared, CapturePrepared,
    /// SourceProtected, TargetReachable, TargetPrepared, TargetReadsZone (`synapse`), ZoneReadable, ZoneWritable, CredentialValid (a zone
    /// with a credential), ZoneOwned, LogReadable, WorkersAvailable, StartDeadlineExceeded (while it starts), SourceReleased (once the link
    /// is Stopped, or cannot be); each with a reason and what to do.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Where the link is, in Synapse's words: Initial (never started), Starting, Running, Pausing, Paused, Resuming, Stopping,
/// Stopped. Running speaks of the link, not of its tables: see `conditions` and `tables`. Synapse: `status`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, strum::Display, strum::EnumIter, strum::IntoStaticStr,
)]
pub enum LinkPhase {
    /// Never started.
    #[default]
    Initial,
    /// On its way to Running, from Initial or Stopped, or in a new run after its position was lost.
    Starting,
    /// Workers run, or come for a batch when it is due; tables load or replicate.
    Running,
    /// On its way to Paused.
    Pausing,
    /// At rest; the position is kept.
    Paused,
    /// On its way to Running, from Paused.
    Resuming,
    /// On its way to Stopped.
    Stopping,
    /// At rest; the position is dropped.
    Stopped,
}

/// The workers of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkersStatus {
    /// Workers that the core count asks for.
    pub desired: i32,
    /// Workers that are up.
    pub ready: i32,
    /// Version of the workers' program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// The operational database, as it said of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    /// Kind of the source: the name of its block in the spec.
    #[serde(rename = "type")]
    pub kind: String,
    /// System and version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The database's own identity, whatever the address that it is reached by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Bytes of log that the source keeps for this link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retained_log_bytes: Option<i64>,
    /// When that was measured; only while the link is Paused or between two batches, and nobody measures it all the time.
    #[schemars(schema_with = "time")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retained_log_time: Option<Timestamp>,
    /// By how many bytes an hour it grows; only while the link is Paused or between two batches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retained_log_growth: Option<i64>,
}

/// The analytical target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetStatus {
    /// Kind of the target: the name of its block in the spec.
    #[serde(rename = "type")]
    pub kind: String,
    /// Address and database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
}

/// How many tables a link has, and in which phases.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TablesStatus {
    /// Tables in all.
    pub total: u32,
    /// Tables by phase; phases without tables are left out.
    #[schemars(with = "BTreeMap<String, u32>")]
    #[serde(default)]
    pub by_phase: BTreeMap<TablePhase, u32>,
    /// Tables that replicate, of all: `97/100`.
    pub summary: String,
}

/// A table that does not replicate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorstTable {
    /// Name of the LinkTable.
    pub name: String,
    /// Its phase.
    pub phase: TablePhase,
    /// The error's name.
    pub reason: String,
    /// What is wrong and what to do.
    pub message: String,
}
