//! Tables and their columns, in terms that every source and target shares.

use std::{collections::HashMap, fmt, sync::Arc};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::change::{LINK_COLUMN, OP_COLUMN};

/// A table's schema and name, exactly as the database spells them (never quoted, never folded).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TableName {
    /// Schema.
    pub schema_name: String,
    /// Table.
    pub table_name: String,
}

impl TableName {
    /// The name from its two parts.
    pub fn new(schema_name: impl Into<String>, table_name: impl Into<String>) -> Self {
        Self { schema_name: schema_name.into(), table_name: table_name.into() }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema_name, self.table_name)
    }
}

/// How a column's values travel: the Parquet type holds the whole domain (but for rare exceptions, which travel as exact
/// text in [`LINK_COLUMN`]), else `Text`, the source's own text form under fixed settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Travel {
    /// Boolean.
    Bool,
    /// 16-bit integer.
    Int16,
    /// 32-bit integer.
    Int32,
    /// 64-bit integer.
    Int64,
    /// Single precision.
    Float32,
    /// Double precision.
    Float64,
    /// Exact decimal; exceptions: NaN, infinities.
    Decimal {
        /// Total digits, at most 38.
        precision: u8,
        /// Digits after the point, 0 to `precision`.
        scale: i8,
    },
    /// Days since 1970-01-01; exceptions: infinities, days outside 32 bits.
    Date,
    /// Microseconds since midnight; exception: 24:00:00.
    Time,
    /// Microseconds since 1970-01-01, no zone; exceptions: infinities, far dates.
    Timestamp,
    /// Microseconds since 1970-01-01 UTC; exceptions: infinities, far dates.
    TimestampTz,
    /// Units of 100 nanoseconds since midnight: SQL Server's `time(7)`.
    Time7,
    /// Units of 100 nanoseconds since 1970-01-01, no zone: SQL Server's `datetime2(7)`, of which nanoseconds in 64 bits would hold
    /// only the years 1678 to 2261.
    Timestamp7,
    /// A moment and the offset from UTC at which it was told, as ISO text with all digits that its type keeps:
    /// `2026-11-21 12:00:00.1234567 +02:00`.
    TimestampOffset,
    /// UTF-8 text.
    Utf8,
    /// Bytes.
    Binary,
    /// 16 bytes in RFC 4122 order.
    Uuid,
    /// Text form of a type that has no other form here; `source_type` says which.
    Text,
}

impl Travel {
    /// The Arrow type of the column in memory and in files.
    pub fn arrow(self) -> DataType {
        match self {
            Self::Bool => DataType::Boolean,
            Self::Int16 => DataType::Int16,
            Self::Int32 => DataType::Int32,
            Self::Int64 | Self::Time7 | Self::Timestamp7 => DataType::Int64,
            Self::Float32 => DataType::Float32,
            Self::Float64 => DataType::Float64,
            Self::Decimal { precision, scale } => DataType::Decimal128(precision, scale),
            Self::Date => DataType::Date32,
            Self::Time => DataType::Time64(TimeUnit::Microsecond),
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::TimestampTz => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Utf8 | Self::Text | Self::TimestampOffset => DataType::Utf8,
            Self::Binary => DataType::Binary,
            Self::Uuid => DataType::FixedSizeBinary(16),
        }
    }
}

/// One column of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Column {
    /// The number by which the source knows the column for ever (PostgreSQL: `attnum`); names may change.
    pub number: i32,
    /// Name, as the source spells it.
    pub name: String,
    /// How its values travel.
    pub travel: Travel,
    /// The source's own name of the type with its modifiers, as SQL spells it (`numeric(10,2)`, `text[]`), domains and
    /// enums resolved to what a target can make (`text` for an enum).
    pub source_type: String,
    /// Whether the source allows NULL.
    pub nullable: bool,
    /// What rows that are older than the column read in it, as the source prints it; none: NULL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial: Option<String>,
    /// Another one with every change of the column's definition, in the source's words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub revision: String,
    /// The collation by which the source compares the column's texts, where that is not byte by byte (SQL Server:
    /// `SQL_Latin1_General_CP1_CI_AS`); texts that differ may be one key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collation: Option<String>,
    /// Of an enum, or of what is made of one: the values that the type had, by an identity that survives a new name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<(u32, String)>,
    /// It is gone from the source. It stays in the target, and is NULL in every row that is written from then on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dropped: bool,
}

/// A table as it is at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TableSchema {
    /// Name in the source.
    pub name: TableName,
    /// The identity that survives a rename and does not survive a drop (PostgreSQL: `pg_class.oid`).
    pub object_id: u32,
    /// The system whose type names `source_type` are: `postgresql`, `sqlserver`.
    pub system: String,
    /// Columns that travel, in the source's order.
    pub columns: Vec<Column>,
    /// Indexes into `columns` of the key by which rows are known, in key order. Never empty for a table that is linked.
    pub key: Vec<usize>,
    /// Highest number that a column had when this was said: one with a higher number was added since.
    #[serde(default)]
    pub last_number: i32,
}

/// A table from one change of its shape to the next, as the log records it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TableVersion {
    /// Its columns: those of the version before, then those that were added.
    pub schema: TableSchema,
    /// What holds its rows.
    pub parts: Vec<Part>,
}

impl TableVersion {
    /// Whether its rows are in partitions.
    pub fn is_partitioned(&self) -> bool {
        // Records of a former version name no parts.
        !self.parts.is_empty() && !self.parts.iter().any(|part| part.object_id == self.schema.object_id)
    }
}

/// A relation that holds rows of a table: the table itself, or a leaf partition of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// Its identity (PostgreSQL: `pg_class.oid`).
    pub object_id: u32,
    /// The file that holds the rows: another one after the table was rewritten (PostgreSQL: `relfilenode`).
    pub file_id: u32,
    /// Another one after a partition was detached and attached again, or after the changes of a table were not kept for a while (SQL
    /// Server: the version since when they are tracked); empty of a PostgreSQL table itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub attached: String,
}

impl TableSchema {
    /// The Arrow schema of snapshot batches: the table's columns, then [`LINK_COLUMN`]. All are nullable: a deleted row
    /// carries only its key.
    pub fn arrow_rows(&self) -> SchemaRef {
        let mut fields = self.fields();
        fields.push(Field::new(LINK_COLUMN, DataType::Utf8, true));
        Arc::new(Schema::new(fields))
    }

    /// The Arrow schema of change batches: the table's columns, then [`OP_COLUMN`] and [`LINK_COLUMN`].
    pub fn arrow_changes(&self) -> SchemaRef {
        let mut fields = self.fields();
        fields.push(Field::new(OP_COLUMN, DataType::UInt8, false));
        fields.push(Field::new(LINK_COLUMN, DataType::Utf8, true));
        Arc::new(Schema::new(fields))
    }

    /// The Arrow schema of key batches: the key's columns in key order, then [`LINK_COLUMN`].
    pub fn arrow_keys(&self) -> SchemaRef {
        let mut fields: Vec<Field> = self.key.iter().map(|&c| self.columns[c].field()).collect();
        fields.push(Field::new(LINK_COLUMN, DataType::Utf8, true));
        Arc::new(Schema::new(fields))
    }

    fn fields(&self) -> Vec<Field> {
        self.columns.iter().map(Column::field).collect()
    }
}

impl Column {
    fn field(&self) -> Field {
        let metadata = HashMap::from([("link-operator.source-type".to_owned(), self.source_type.clone())]);
        Field::new(&self.name, self.travel.arrow(), true).with_metadata(metadata)
    }
}
