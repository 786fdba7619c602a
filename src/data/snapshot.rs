//! What a source says of itself and how a table's snapshot is cut, as the log records it.

use serde::{Deserialize, Serialize};

use super::KeyRange;

/// What a database says it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Survives restarts and failovers, not a restore into a new cluster (PostgreSQL: system identifier and database oid).
    pub system: String,
    /// The history that it is on (PostgreSQL: timeline).
    pub timeline: u32,
    /// For a person: `PostgreSQL 15.18`.
    pub version: String,
}

/// One piece of a table that is read at once. Ranges cover the whole table, the last is open-ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Chunk {
    /// Relation to read (PostgreSQL: oid of the leaf partition).
    pub object_id: u32,
    /// The file that the relation had when planned (PostgreSQL: relfilenode): another one voids the plan.
    pub file_id: u32,
    /// First block.
    pub start: u32,
    /// Block after the last; none: to the end of the table, however far it has grown.
    pub end: Option<u32>,
    /// The rows, where they are cut by their keys and not by blocks: by all columns of the key, in the source's own order.
    #[serde(default, skip_serializing_if = "KeyRange::is_everything")]
    pub keys: KeyRange,
}

/// How a table's snapshot is cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChunkPlan {
    /// At least one.
    pub chunks: Vec<Chunk>,
    /// Rows by the source's statistics.
    pub rows_estimated: Option<u64>,
}
