//! LinkTable: one source table in one link.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    report::{SchemaReport, SnapshotProgress, TablePhase},
    schema::{LocalRef, time},
    verification::Verification,
};
use crate::data::TableName;

/// What to link. To start a table's load over, annotate the LinkTable with
/// `link-operator.io/reseed-requested-at: <now>`. To compare it with its source while it replicates, annotate it with
/// `link-operator.io/verify-requested-at: <now>`, and with `link-operator.io/verify-repair: "true"` to make rows that differ as
/// they are in the source.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "link-operator.io",
    version = "v1alpha1",
    kind = "LinkTable",
    namespaced,
    shortname = "lt",
    category = "linkop",
    status = "LinkTableStatus",
    derive = "PartialEq",
    doc = "A LinkTable links one table of an operational database to one table of an analytical target: a full load first, then every change. \
           Synapse: a link table of a link connection.",
    selectable = ".spec.linkConnectionRef.name",
    printcolumn(name = "Link", type_ = "string", json_path = ".spec.linkConnectionRef.name", description = "The link connection"),
    printcolumn(
        name = "Phase",
        type_ = "string",
        json_path = ".status.phase",
        description = "Waiting, Snapshotting, Replicating, Suspended or Failed"
    ),
    printcolumn(name = "Rows", type_ = "integer", json_path = ".status.count", description = "Rows written to the target"),
    printcolumn(
        name = "Up-To",
        type_ = "date",
        json_path = ".status.asOf",
        description = "The target holds everything committed before this time"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether the target table is exact"
    ),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", description = "Why"),
    printcolumn(
        name = "Schema",
        type_ = "string",
        json_path = ".spec.source.schemaName",
        description = "Schema of the source table",
        priority = 1
    ),
    printcolumn(
        name = "Table",
        type_ = "string",
        json_path = ".spec.source.tableName",
        description = "Name of the source table",
        priority = 1
    ),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.error.message", description = "What is wrong", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", description = "Since when it exists")
)]
#[x_kube(
    validation = ("self.linkConnectionRef.name == oldSelf.linkConnectionRef.name", "linkConnectionRef is immutable: delete this LinkTable and create it again for the other link"),
    validation = ("self.source == oldSelf.source", "source is immutable: delete this LinkTable and create one for the other table"),
    validation = ("has(self.target) == has(oldSelf.target) && (!has(self.target) || self.target == oldSelf.target)", "target is immutable: delete this LinkTable and create it again with the other target"),
)]
#[serde(rename_all = "camelCase")]
pub struct LinkTableSpec {
    /// The LinkConnection that the table belongs to, in the same namespace. Cannot be changed.
    pub link_connection_ref: LocalRef,
    /// The table in the operational database. Cannot be changed. Synapse: `linkTables[].source`.
    pub source: SourceTable,
    /// The table in the analytical target; each name that is left out is the source's. Cannot be changed.
    /// Synapse: `linkTables[].target`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetTable>,
}

impl LinkTableSpec {
    /// The table in the source.
    pub fn source_name(&self) -> TableName {
        TableName::new(&self.source.schema_name, &self.source.table_name)
    }

    /// The table in the target.
    pub fn target_name(&self) -> TableName {
        TargetTable::resolve(self.target.as_ref(), self.source_name())
    }

    /// How it stands there.
    pub fn target_options(&self) -> TableOptions {
        self.target.as_ref().map(|target| target.options.clone()).unwrap_or_default()
    }
}

/// A table of the operational database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceTable {
    /// Schema of the table, exactly as the database spells it (no quotes; upper and lower case count).
    #[schemars(length(min = 1, max = 128))]
    pub schema_name: String,
    /// Name of the table, exactly as the database spells it (no quotes; upper and lower case count).
    #[schemars(length(min = 1, max = 128))]
    pub table_name: String,
}

/// A table of the analytical target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetTable {
    /// Schema of the target table, which must be there already (`TargetSchemaMissing`). Default: the source table's schema.
    #[schemars(length(min = 1, max = 128))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_name: Option<String>,
    /// Name of the target table. Default: the source table's name.
    #[schemars(length(min = 1, max = 128))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table_name: Option<String>,
    /// How the table stands in a Synapse pool.
    #[serde(flatten)]
    pub options: TableOptions,
}

/// How a table stands in a Synapse dedicated SQL pool; other targets have no such options.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TableOptions {
    /// How the table's rows are spread over the pool's 60 distributions. For Synapse targets. Cannot be changed. Default: RoundRobin.
    /// Synapse: `linkTables[].target.distributionOptions`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distribution_options: Option<DistributionOptions>,
    /// How the table is stored. For Synapse targets. Cannot be changed. Default: ClusteredColumnstoreIndex. Synapse: the link table's
    /// structure type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub structure_options: Option<StructureOptions>,
}

impl TableOptions {
    /// Whether none is given.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How rows are spread.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[x_kube(validation = (
    "(self.type == 'Hash') == has(self.distributionColumn)",
    "distributionColumn goes with type Hash, and type Hash needs it: it names the column whose values spread the rows"
))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DistributionOptions {
    /// Hash: by the value of `distributionColumn`; for large tables that are joined by it, best a column of the key. RoundRobin: one
    /// after the other. Replicate: whole on each compute node, for small tables.
    #[serde(rename = "type")]
    pub kind: DistributionType,
    /// The column, as the source spells it. With type Hash alone.
    #[schemars(length(min = 1, max = 128))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distribution_column: Option<String>,
}

/// How rows are spread over a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum DistributionType {
    /// By the value of a column.
    Hash,
    /// One after the other.
    #[default]
    RoundRobin,
    /// Whole on each compute node.
    Replicate,
}

/// How a table is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StructureOptions {
    /// ClusteredColumnstoreIndex: by columns, compressed; for large tables without columns of a `(max)` type, such as unbounded texts
    /// of PostgreSQL, which it cannot hold. ClusteredIndex: by rows, in the order of the key; holds all types. Heap: by rows, in no
    /// order; holds all types, and suits small tables.
    #[serde(rename = "type")]
    pub kind: StructureType,
}

/// How a pool stores a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum StructureType {
    /// By columns.
    #[default]
    ClusteredColumnstoreIndex,
    /// By rows, in the order of the key.
    ClusteredIndex,
    /// By rows, in no order.
    Heap,
}

impl TargetTable {
    /// The names that `target` gives, and the source's where it gives none.
    pub(super) fn resolve(target: Option<&Self>, source: TableName) -> TableName {
        let Some(target) = target else { return source };
        TableName {
            schema_name: target.schema_name.clone().unwrap_or(source.schema_name),
            table_name: target.table_name.clone().unwrap_or(source.table_name),
        }
    }
}

/// What is known of the table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LinkTableStatus {
    /// Generation of the spec that this status speaks of; -1 before the controller has seen the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where the table is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<TablePhase>,
    /// Progress of the first load; stays as it was at its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotProgress>,
    /// Rows written to the target since the first load began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<i64>,
    /// Bytes of files applied to the target since the first load began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,
    /// The target table holds everything that was committed in the source before this time. It moves on also while nobody
    /// writes. Synapse: `lastTransactionCommitTime`.
    #[schemars(schema_with = "time")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Timestamp>,
    /// When data was last written to the target table. Synapse: `lastProcessedData`.
    #[schemars(schema_with = "time")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_processed_time: Option<Timestamp>,
    /// Position in the source's log up to which the target table is exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<String>,
    /// The columns of the target table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<SchemaReport>,
    /// Why the table is Suspended or Failed. Synapse: `errorCode` and `errorMessage`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<TableError>,
    /// Attempts since the last success, while the table is Suspended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// What was wrong with the table before, and is now: the newest first, at most 32. Stays when it is over, and when the table
    /// is loaded anew.
    #[schemars(length(max = 32))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recent_errors: Vec<PastError>,
    /// Value of the annotation `link-operator.io/reseed-requested-at` that was acted on last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_reseed_at: Option<String>,
    /// What the last comparison with the source found, that an annotation of the LinkTable or of its LinkConnection asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<Verification>,
    /// Value of the annotation `link-operator.io/verify-requested-at` of this LinkTable that was acted on last: `verification` is
    /// its answer, or a later one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_verify_at: Option<String>,
    /// Ready (the target table is exact), Reconciling, Stalled, Accepted, SnapshotComplete; each with a reason and what to do.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Why a table does not replicate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TableError {
    /// The error's name: the same word as in conditions, Events and metrics.
    pub code: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

/// Something that was wrong with a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PastError {
    /// The error's name.
    pub code: String,
    /// What was wrong, the last time; cut to 256 characters.
    #[schemars(length(max = 256))]
    pub message: String,
    /// When it last began.
    #[schemars(schema_with = "time")]
    pub time: Timestamp,
    /// How often it began, with no other error in between.
    pub count: i32,
}

/// Errors of a table that are remembered.
const ERRORS_KEPT: usize = 32;
/// Longest text of one, characters.
const ERROR_TEXT: usize = 256;

impl LinkTableStatus {
    /// Remembers that what now stands in `error` began.
    pub fn remember_error(&mut self, now: Timestamp) {
        let Some(error) = &self.error else { return };
        let message = error.message.chars().take(ERROR_TEXT).collect();
        match self.recent_errors.first_mut().filter(|newest| newest.code == error.code) {
            Some(newest) => *newest = PastError { message, time: now, count: newest.count.saturating_add(1), code: error.code.clone() },
            None => self.recent_errors.insert(0, PastError { code: error.code.clone(), message, time: now, count: 1 }),
        }
        self.recent_errors.truncate(ERRORS_KEPT);
    }
}

/// How often it was tried again, and when it is next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// Attempts since the last success.
    pub attempt: i32,
    /// When the next attempt begins.
    #[schemars(schema_with = "time")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_time: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_errors_are_remembered_and_never_more() {
        let mut status = LinkTableStatus::default();
        let mut fail = |code: &str, second| {
            status.error = Some(TableError { code: code.to_owned(), message: "ä".repeat(1000), remedy: String::new() });
            status.remember_error(Timestamp::from_second(second).unwrap());
            status.recent_errors.clone()
        };
        fail("SourceUnreachable", 1);
        let [again] = fail("SourceUnreachable", 2).try_into().unwrap();
        assert_eq!((again.count, again.time.as_second(), again.message.chars().count()), (2, 2, 256));
        let two = fail("TargetUnreachable", 3);
        assert_eq!(
            two.iter().map(|error| (error.code.as_str(), error.count)).collect::<Vec<_>>(),
            [("TargetUnreachable", 1), ("SourceUnreachable", 2)]
        );
        for second in 4..200 {
            assert!(fail(if second % 2 == 0 { "A" } else { "B" }, second).len() <= 32);
        }
        assert_eq!(fail("A", 200)[0].time.as_second(), 200);
    }

    #[test]
    fn names_that_the_target_leaves_out_are_the_sources() {
        let source = || TableName::new("public", "orders");
        let target = |schema: Option<&str>, table: Option<&str>| {
            let target = TargetTable { schema_name: schema.map(Into::into), table_name: table.map(Into::into), ..TargetTable::default() };
            TargetTable::resolve(Some(&target), source())
        };
        assert_eq!(TargetTable::resolve(None, source()), source());
        assert_eq!(target(None, None), source());
        assert_eq!(target(Some("shop"), None), TableName::new("shop", "orders"));
        assert_eq!(target(None, Some("o")), TableName::new("public", "o"));
    }
}
