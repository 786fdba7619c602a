//! Changes as they travel in batches, and what is left of them after netting.
//!
//! A change batch is an Arrow batch of the table's columns in source order (by position, not by name: names may repeat
//! ours) followed by [`OP_COLUMN`] and [`LINK_COLUMN`]; its rows are in commit order.

use arrow::array::RecordBatch;
use serde::{Deserialize, Serialize};

use super::{LargeValue, TableSchema};

/// Column of a change batch that says what happened, an [`Op`] as `UInt8`.
pub const OP_COLUMN: &str = "__op__";

/// Column that carries what a row's native values cannot: a [`LinkCell`] as JSON, NULL in nearly every row.
pub const LINK_COLUMN: &str = "__link__";

/// What happened to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    /// A new row: all columns.
    Insert = 1,
    /// A changed row under its key: all columns but those that [`LinkCell::unchanged`] names.
    Update = 2,
    /// A row is gone: key columns only.
    Delete = 3,
    /// The row under this key (key columns only) got the key of the *next* row of the batch, an `Update`.
    Move = 4,
}

impl Op {
    /// The operation from its number in a file.
    pub fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            1 => Self::Insert,
            2 => Self::Update,
            3 => Self::Delete,
            4 => Self::Move,
            _ => return None,
        })
    }
}

/// The content of [`LINK_COLUMN`] for one row. Column numbers are indexes into the table's columns (in a key batch: into
/// the key's columns).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkCell {
    /// Columns that the change left as they were and that the source did not send; they are NULL here.
    #[serde(rename = "u", default, skip_serializing_if = "Vec::is_empty")]
    pub unchanged: Vec<u16>,
    /// Values that do not fit their column here, where they are NULL.
    #[serde(rename = "x", default, skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<(u16, Beside)>,
}

/// A value that stands beside the native ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Beside {
    /// Outside its column's native domain: the source's exact text.
    Text(String),
    /// Too large.
    Large(LargeValue),
}

impl Beside {
    /// What tells it from others.
    pub fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Large(value) => &value.path,
        }
    }
}

/// One cell's place: index of the column, index of the row.
pub type Cell = (u16, u32);

/// Values of cells whose native value is NULL in a batch, ordered by cell.
pub type Besides = std::collections::BTreeMap<Cell, Beside>;

/// What is to be done to a target table, in order.
#[derive(Debug)]
pub enum Step {
    /// All rows go.
    Truncate,
    /// The table has these columns from here on: those that it had, and after them those that were added.
    Version(TableSchema),
    /// Rows change.
    Merge(NetChanges),
}

/// Changes netted by key: each key is at most once in `deletes` and at most once in `upserts`. A target resolves
/// `unresolved` first, then deletes, then upserts.
#[derive(Debug)]
pub struct NetChanges {
    /// Keys whose rows go (a key may be in `upserts` too: delete comes first). Schema: `TableSchema::arrow_keys`, the
    /// exact texts of key cells in its [`LINK_COLUMN`].
    pub deletes: RecordBatch,
    /// Whole rows, in the order of their keys: a target then finds them page by page. Schema: the table's columns only.
    pub upserts: RecordBatch,
    /// How many of `upserts` change a row that the target should hold; the others are new to it. A hint: nothing rests on it.
    pub updates: usize,
    /// Values of cells of `upserts` that are NULL in it.
    pub beside: Besides,
    /// Rows of `upserts` of which some columns stand only in the target.
    pub unresolved: Vec<Unresolved>,
    /// For each of `unresolved`, the key under which the target holds the row before these changes. Schema as `deletes`.
    pub origins: RecordBatch,
}

/// A row of which some columns must be taken from the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unresolved {
    /// Row of `upserts`.
    pub row: u32,
    /// Its columns that the target holds and that this row leaves as they are.
    pub columns: Vec<u16>,
}

impl NetChanges {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.deletes.num_rows() == 0 && self.upserts.num_rows() == 0
    }
}
