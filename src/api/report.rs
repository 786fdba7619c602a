//! The report: what a worker, a probe or a release tells the controller. Times are RFC 3339 in UTC.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    discovery::Discovery,
    fault::{Check, Fault},
    forecast::PlanStatus,
    verification::TableVerification,
};
use crate::data::TableName;

/// Most names of [`Report::discovered`].
pub const MOST_DISCOVERED: usize = 2000;

/// The format that this version writes; it reads this one and the one before.
pub const REPORT_FORMAT: u32 = 1;

/// What a worker knows of its share of the link. A probe's and a release's answer has the same form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Format of this document.
    pub format_version: u32,
    /// Rises with each report of one process.
    pub sequence: u64,
    /// Name of the pod.
    pub worker: String,
    /// Version of the worker's program.
    pub version: String,
    /// Revision of the plan that the worker works by: its engine has taken it up, and the checks are about what it names.
    pub plan_revision: u64,
    /// The run it works in; none before the zone answered.
    #[serde(default)]
    pub run: Option<u32>,
    /// The term of its capture; none in workers that do not capture.
    #[serde(default)]
    pub term: Option<u64>,
    /// Intent Drain was carried out: nothing is under way.
    #[serde(default)]
    pub drained: bool,
    /// The batch of the plan that was read: everything up to its end was captured, and of every table all that is to be loaded, but
    /// for those that need a person. Only the worker that captures says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_done: Option<Timestamp>,
    /// A release: all that the link made was removed (what could not be is in `checks`).
    #[serde(default)]
    pub released: bool,
    /// Answers to questions about source, target and zone. One `Check` a name.
    #[serde(default)]
    pub checks: Vec<Check>,
    /// When the landing zone's credential ends, if that can be known.
    #[serde(default)]
    pub credential_expiry: Option<Timestamp>,
    /// What the source says of itself.
    #[serde(default)]
    pub source: Option<SourceReport>,
    /// What the source has to link; one worker asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discovery: Option<Discovery>,
    /// Tables that can be linked and that `discover` of the plan asks for, but for those that the plan has already. At most 2,000: the
    /// next come once a plan has these, so that the list of however many tables comes in pieces, and none is told for ever.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub discovered: Vec<TableName>,
    /// A probe: what the link would do if it were started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanStatus>,
    /// Where the link is.
    #[serde(default)]
    pub position: Option<PositionReport>,
    /// The run's position is lost: its log cannot go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position_lost: Option<PositionLost>,
    /// The tables that this worker owns.
    #[serde(default)]
    pub tables: Vec<TableReport>,
    /// Tables that this worker compared with the source: the one that captures does it for all.
    #[serde(default)]
    pub verifications: Vec<TableVerification>,
}

impl Report {
    /// With its tables in an order by which they are found: a link may have thousands.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        self.tables.sort_by(|a, b| a.uid.cmp(&b.uid));
        // It is kept until the next comes.
        self.tables.shrink_to_fit();
        self
    }

    /// What it says of a table. Of a report that is [`Report::sorted`].
    pub fn table(&self, uid: &str) -> Option<&TableReport> {
        self.tables.binary_search_by(|table| table.uid.as_str().cmp(uid)).ok().and_then(|at| self.tables.get(at))
    }
}

/// What the source says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceReport {
    /// System and version, `PostgreSQL 15.18`.
    pub version: String,
    /// The database's own identity (PostgreSQL: system identifier and database oid).
    pub identity: String,
    /// Bytes of log that the source keeps for this link.
    pub retained_log_bytes: Option<u64>,
    /// Bytes of log that may be written before the source drops, by a setting of its own, what it keeps for this link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_room_bytes: Option<u64>,
}

/// That a run's position is lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PositionLost {
    /// The run.
    pub run: u32,
    /// How. It heals if the plan lets the next run begin by itself.
    pub fault: Fault,
}

/// Where a link is in its source's log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PositionReport {
    /// End of the source's log when last asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_head: Option<String>,
    /// Up to here the landing zone holds all changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub captured: Option<PositionTime>,
    /// Up to here every replicating table of the target holds all changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied: Option<PositionTime>,
}

/// A position and the source's time of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PositionTime {
    /// Position in the source's log.
    pub value: String,
    /// Everything that was committed in the source before this time is included.
    #[schemars(with = "Option<String>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
}

/// Where the table is, in Synapse's words. Waiting: not begun (`conditions` say for what it waits). Snapshotting: the first
/// load is under way. Replicating: changes flow, the target table is exact as of `asOf`. Suspended: an error that heals by
/// itself once its cause is gone. Failed: an error that needs you. Synapse: `status` of a link table.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    JsonSchema,
    strum::Display,
    strum::EnumIter,
    strum::IntoStaticStr,
)]
pub enum TablePhase {
    /// Not begun: waits for the link, for its turn or for open transactions in the source.
    #[default]
    Waiting,
    /// The first load is under way.
    Snapshotting,
    /// Changes flow; the target table is exact as of `asOf`.
    Replicating,
    /// An error that heals by itself once its cause is gone.
    Suspended,
    /// An error that needs a person.
    Failed,
}

/// What a worker knows of one table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TableReport {
    /// UID of the LinkTable.
    pub uid: String,
    /// Phase.
    pub phase: TablePhase,
    /// Why it waits (`OpenTransaction` …) or how it is loaded if not by chunks (`Adopting`), for a person; None in other phases.
    #[serde(default)]
    pub waiting: Option<Fault>,
    /// Progress of the first load; stays as it was at its end.
    #[serde(default)]
    pub snapshot: Option<SnapshotProgress>,
    /// Rows written to the target.
    #[serde(default)]
    pub rows: u64,
    /// Bytes of files applied.
    #[serde(default)]
    pub bytes: u64,
    /// The target table holds everything committed in the source before this time.
    #[serde(default)]
    pub as_of: Option<Timestamp>,
    /// When data was last written to the target.
    #[serde(default)]
    pub last_processed_time: Option<Timestamp>,
    /// Position up to which the target table is exact.
    #[serde(default)]
    pub position: Option<String>,
    /// Its rows are as of `as_of`, and the link's consistent group has it: with transactionalConsistency it moves in one
    /// transaction with the others.
    #[serde(default)]
    pub consistent: bool,
    /// The reseed request that its load answers, whether done or under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reseed: Option<String>,
    /// Its columns in the target.
    #[serde(default)]
    pub schema: Option<SchemaReport>,
    /// Why it is Suspended or Failed.
    #[serde(default)]
    pub error: Option<Fault>,
    /// Attempts since the last success.
    #[serde(default)]
    pub attempt: u32,
    /// When the next attempt begins.
    #[serde(default)]
    pub next_attempt: Option<Timestamp>,
}

/// The columns of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SchemaReport {
    /// 1 at each load, one more each time that columns are added.
    pub version: i32,
    /// Columns that the target has. Those that the source dropped stay, and count.
    pub columns: i32,
}

/// Progress of a first load.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotProgress {
    /// Rows in the target.
    pub rows_done: i64,
    /// Rows that the source's statistics expect, if it has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows_estimated: Option<i64>,
    /// Bytes of chunk files loaded.
    pub bytes_done: i64,
    /// Chunks loaded.
    pub chunks_done: i64,
    /// Chunks in all.
    pub chunks_total: i64,
    /// When it began.
    #[schemars(with = "Option<String>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Timestamp>,
    /// When the last chunk so far came into the target, or, if that is later, the load was taken up again.
    #[schemars(with = "Option<String>")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_progress_time: Option<Timestamp>,
    /// When it will be done if it goes on like this.
    #[schemars(with = "Option<String>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimated_completion: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_found_in_a_sorted_report_whatever_order_it_came_in() {
        let tables: Vec<_> = ["c", "a", "b"].map(|uid| serde_json::json!({"uid": uid, "phase": "Waiting"})).into();
        let report =
            serde_json::json!({"formatVersion": 1, "sequence": 1, "worker": "", "version": "", "planRevision": 1, "tables": tables});
        let report = serde_json::from_value::<Report>(report).unwrap().sorted();
        let found = |uid: &str| report.table(uid).map(|table| table.uid.as_str());
        assert_eq!((found("a"), found("b"), found("c"), found("d")), (Some("a"), Some("b"), Some("c"), None));
    }
}
