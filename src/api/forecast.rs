//! What a link would do if it were started, in short: what `link-operator plan` tells at length.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{discovery::IneligibleTable, schema::time};
use crate::data::TableName;

/// Tables and columns that are named, of each sort.
pub const NAMED: usize = 20;

/// Bytes of the source's tables that are reckoned to be loaded in a second by each core.
pub const BYTES_A_SECOND: u64 = 20 << 20;

/// What the start of a link would do, by what its source and target say. `link-operator plan` tells the rest: how each column
/// travels, the statements that the target would run, the rights that are missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanStatus {
    /// When this was reckoned and first said.
    #[schemars(schema_with = "time")]
    pub time: Timestamp,
    /// Tables that the link would have: those of its LinkTables, and those that `spec.discover` asks for.
    pub tables: u32,
    /// LinkTables that nobody was asked of, and that no other number counts: a link's test has room for 200. 0 if absent.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub not_asked: u32,
    /// How many of `tables` cannot be linked as they are.
    pub blocked: u32,
    /// Rows of the others, by the source's statistics.
    pub rows: i64,
    /// Bytes of the others in the source, by the same statistics.
    pub bytes: i64,
    /// How many of the others have no statistics, and are not in `rows` and `bytes` (PostgreSQL: ANALYZE gathers them).
    pub unmeasured: u32,
    /// How long the first load may take, seconds: reckoned at 20 MiB of `bytes` a second and core, of tables that are not adopted.
    pub load_seconds: i64,
    /// Columns of which something is lost on the way.
    pub lossy: u32,
    /// At most 20 of them.
    #[schemars(length(max = 20))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lossy_columns: Vec<LossyColumn>,
    /// At most 20 of the tables that cannot be linked as they are.
    #[schemars(length(max = 20))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocked_tables: Vec<IneligibleTable>,
}

/// Whether there is nothing to say.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference over")]
pub(super) const fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A column of which something is lost on the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LossyColumn {
    /// The table in the source.
    #[serde(flatten)]
    pub table: TableName,
    /// The column.
    pub column_name: String,
    /// Its type in the source.
    pub source_type: String,
    /// Its type in the target.
    pub target_type: String,
    /// What is lost.
    pub loss: String,
}

impl PlanStatus {
    /// Names no more than so many of each sort.
    pub fn name_at_most(&mut self, count: usize) {
        self.lossy_columns.truncate(count);
        self.blocked_tables.truncate(count);
    }

    /// This, as of when it was first said.
    #[must_use]
    pub fn since(mut self, before: Option<&Self>) -> Self {
        if let Some(before) = before.filter(|before| **before == Self { time: before.time, ..self.clone() }) {
            self.time = before.time;
        }
        self
    }
}
