//! What stands in the log: one record a commit, created once, never replaced, without gaps.
//!
//! A record is the commit point of a batch: a data file that no record names does not exist. Joining, leaving, planning and
//! becoming exact stand in records too, so that every worker sees them in one order.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    api::{fault::Fault, link_table::TableOptions},
    data::{ChunkPlan, Identity, Part, Position, TableName, TableSchema, TableVersion},
};

/// The format that this version writes.
pub const RECORD_FORMAT: u32 = 1;

/// One commit of a link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Format of this document.
    pub format_version: u32,
    /// Number of the run.
    pub run: u32,
    /// Number of this record within the run, from 1.
    pub number: u64,
    /// Number of the record with which the capture that wrote this one began.
    pub term: u64,
    /// Unlike any other record's: a create that was retried knows its own earlier success by it.
    pub token: String,
    /// Revision of the plan that the capture worked by.
    pub plan_revision: u64,
    /// UID of the LinkConnection that the capture worked for; empty in records of a former version.
    #[serde(default)]
    pub owner: String,
    /// What the source said it is.
    pub source: Identity,
    /// Everything that the source committed up to here is in this record and those before. Empty before the run's slot is.
    pub to: Position,
    /// The source's time of `to`.
    pub time: Option<Timestamp>,
    /// When the record was made, by the worker's clock.
    pub created: Timestamp,
    /// What happened to the link's tables, before the data of this record.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Event>,
    /// The batch, a table an entry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<TableData>,
}

/// What happened to a table of the link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Event {
    /// The table is admitted: a new incarnation, numbered as this record. Its changes are in all later records.
    #[serde(rename_all = "camelCase")]
    Join {
        /// Number of the table in the run; a table that comes back keeps it.
        table: u32,
        /// UID of the LinkTable.
        uid: String,
        /// The reseed request that this incarnation answers.
        reseed: Option<String>,
        /// Name in the target.
        target: TableName,
        /// How it stands there.
        #[serde(default, skip_serializing_if = "TableOptions::is_empty")]
        options: Box<TableOptions>,
        /// The table as it is; its name in the source too.
        schema: TableSchema,
        /// What holds its rows; unknown in records of a former version.
        #[serde(default)]
        parts: Vec<Part>,
        /// From here on all its changes are in the source's stream; those before are in what a chunk reads.
        #[serde(default)]
        from: Position,
    },
    /// How the snapshot of the table is cut.
    #[serde(rename_all = "camelCase")]
    Plan {
        /// The table.
        table: u32,
        /// Its incarnation.
        incarnation: u64,
        /// Position v0: everything up to it is visible to whoever reads a chunk.
        v0: Position,
        /// The chunks.
        plan: ChunkPlan,
    },
    /// The table that stands in the target is taken over where it stands: it has no chunks, but is compared and repaired.
    #[serde(rename_all = "camelCase")]
    Adopt {
        /// The table.
        table: u32,
        /// Its incarnation.
        incarnation: u64,
        /// Position v0: everything up to it is visible to whoever compares.
        v0: Position,
    },
    /// At this record's `to` all chunks are passed: changes after it may leave values out, which the rows then hold; but for
    /// those of orphans, which the table still waits for. Of an adopted table: it was compared and repaired.
    #[serde(rename_all = "camelCase")]
    Passed {
        /// The table.
        table: u32,
        /// Its incarnation.
        incarnation: u64,
    },
    /// At this record's `to` (E) the chunks and all changes up to it make the table exact.
    #[serde(rename_all = "camelCase")]
    Exact {
        /// The table.
        table: u32,
        /// Its incarnation.
        incarnation: u64,
    },
    /// The table can be followed no longer; no data of it comes before it joins again.
    #[serde(rename_all = "camelCase")]
    Fail {
        /// The table.
        table: u32,
        /// Its incarnation.
        incarnation: u64,
        /// Why.
        fault: Fault,
    },
    /// The table of a former LinkConnection goes on as that of another LinkTable of the same names.
    #[serde(rename_all = "camelCase")]
    Inherit {
        /// The table.
        table: u32,
        /// Its incarnation, which stays.
        incarnation: u64,
        /// UID of the LinkTable.
        uid: String,
        /// Its reseed request, which was answered before its time.
        reseed: Option<String>,
    },
    /// The table left the link.
    #[serde(rename_all = "camelCase")]
    Leave {
        /// The table.
        table: u32,
    },
}

/// What a batch holds for one table, in commit order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TableData {
    /// Number of the table in the run.
    pub table: u32,
    /// Its incarnation.
    pub incarnation: u64,
    /// In commit order.
    pub entries: Vec<Entry>,
}

/// One piece of a table's batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Entry {
    /// A file of changes.
    File(DataFile),
    /// The table was truncated.
    Truncate,
    /// The table has another shape from here on: files before are of the version before.
    Version(Box<TableVersion>),
}

/// A Parquet file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DataFile {
    /// Path in the link's folder.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// About as many bytes its rows take in memory.
    #[serde(default)]
    pub memory: u64,
    /// Rows.
    pub rows: u64,
    /// Values that its rows name and that stand beside it: paths of their parts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub large: Vec<String>,
}

impl DataFile {
    /// About as many bytes its rows take in memory. Records of a former version do not say: then by what files take at most.
    pub fn rows_memory(&self) -> u64 {
        if self.memory == 0 { self.bytes * 8 } else { self.memory }
    }
}

/// That a chunk was read: created once; the file of whoever created it is the chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChunkRecord {
    /// Unlike any other's.
    pub token: String,
    /// The rows; none if the chunk could not be read because its plan is void.
    pub file: Option<DataFile>,
    /// Position of the source after the chunk's database snapshot was taken (v_i).
    pub read_at: Position,
    /// Why the plan is void.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub void: Option<Fault>,
}

/// Who owns a link's folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// UID of the LinkConnection.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// It works in runs from this one on: a higher one than there was if it starts over.
    #[serde(default)]
    pub run: u32,
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{} with UID {}", self.namespace, self.name, self.uid)
    }
}

/// That a run began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Number of the run.
    pub run: u32,
    /// Format of its records.
    pub format_version: u32,
}
