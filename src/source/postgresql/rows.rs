//! Arrow batches, filled value by value from PostgreSQL's binary or text form.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, FixedSizeBinaryBuilder, Float32Builder, Float64Builder,
        Int16Builder, Int32Builder, Int64Builder, RecordBatch, StringBuilder, Time64MicrosecondBuilder, TimestampMicrosecondBuilder,
        UInt8Builder,
    },
    datatypes::SchemaRef,
};

use super::{
    pgoutput::Cell,
    values::{self, Malformed, Value, bytes},
};
use crate::{
    data::{Beside, Column, Form, LargeValue, LinkCell, Op, TableSchema, Travel},
    source::Error,
};

/// Rows at which a batch is full, whatever its bytes.
const BATCH_ROWS: usize = 64 * 1024;
/// Bytes of values at which a batch is full.
const BATCH_BYTES: usize = 8 << 20;

/// Whether all values of a table can be read in the binary form in which the stream has them.
pub fn have_binary(schema: &TableSchema) -> bool {
    let has = |column: &Column| column.travel != Travel::Text || matches!(column.source_type.as_str(), "json" | "jsonb");
    schema.columns.iter().all(|column| column.dropped || has(column))
}

/// Builds batches of one table: of snapshot rows, or of changes when it has operations.
pub struct RowsBuilder {
    schema: SchemaRef,
    columns: Vec<ColumnBuilder>,
    travels: Vec<Travel>,
    /// Whose binary form is a version's number, then the text.
    versioned: Vec<bool>,
    names: Vec<String>,
    ops: Option<UInt8Builder>,
    link: StringBuilder,
    /// What the row under construction has to say beside its native values.
    cell: LinkCell,
    rows: usize,
    bytes: usize,
}

impl RowsBuilder {
    /// For batches of `TableSchema::arrow_rows`.
    pub fn rows(schema: &TableSchema) -> Self {
        Self::new(schema, schema.arrow_rows(), None)
    }

    /// For batches of `TableSchema::arrow_changes`.
    pub fn changes(schema: &TableSchema) -> Self {
        Self::new(schema, schema.arrow_changes(), Some(UInt8Builder::new()))
    }

    fn new(table: &TableSchema, schema: SchemaRef, ops: Option<UInt8Builder>) -> Self {
        Self {
            schema,
            columns: table.columns.iter().map(|column| ColumnBuilder::new(column.travel, 0, 0)).collect(),
            travels: table.columns.iter().map(|column| column.travel).collect(),
            versioned: table.columns.iter().map(|column| column.source_type == "jsonb").collect(),
            names: table.columns.iter().map(|column| format!("column {} of {}", column.name, table.name)).collect(),
            ops,
            link: StringBuilder::new(),
            cell: LinkCell::default(),
            rows: 0,
            bytes: 0,
        }
    }

    /// Rows so far.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Bytes of values so far.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the batch should end here.
    pub fn is_full(&self) -> bool {
        self.rows >= BATCH_ROWS || self.bytes >= BATCH_BYTES
    }

    /// The next value of a column is NULL.
    pub fn null(&mut self, column: usize) {
        self.columns[column].null();
    }

    /// The change left the column as it was.
    pub fn unchanged(&mut self, column: usize) {
        self.columns[column].null();
        self.cell.unchanged.push(column as u16);
    }

    /// The next value of a column, as the stream has it.
    pub fn cell(&mut self, column: usize, cell: Cell<'_>) -> Result<(), Error> {
        match cell {
            Cell::Null => self.null(column),
            Cell::Unchanged => self.unchanged(column),
            Cell::Text(text) => self.text(column, text)?,
            Cell::Binary([1, text @ ..]) if self.versioned[column] => self.binary(column, text)?,
            Cell::Binary(_) if self.versioned[column] => return Err(malformed(&self.names[column])),
            Cell::Binary(value) => self.binary(column, value)?,
            Cell::TextApart(name) if self.travels[column] == Travel::Binary => self.large(column, name, Form::Hex)?,
            Cell::BinaryApart(name) if self.versioned[column] => self.large(column, name, Form::Versioned)?,
            Cell::TextApart(name) | Cell::BinaryApart(name) => self.large(column, name, Form::Plain)?,
        }
        Ok(())
    }

    /// The next value of a column, in the form that the type's send function gives; of `Text` columns, text.
    pub fn binary(&mut self, column: usize, raw: &[u8]) -> Result<(), Error> {
        self.bytes += raw.len();
        let exact = self.columns[column].binary(raw).map_err(|Malformed| malformed(&self.names[column]))?;
        self.cell.beside.extend(exact.map(|text| (column as u16, Beside::Text(text))));
        Ok(())
    }

    /// The next value of a column, as PostgreSQL prints it.
    pub fn text(&mut self, column: usize, raw: &[u8]) -> Result<(), Error> {
        self.bytes += raw.len();
        let exact = std::str::from_utf8(raw)
            .map_err(|_| Malformed)
            .and_then(|text| self.columns[column].text(text))
            .map_err(|Malformed| malformed(&self.names[column]))?;
        self.cell.beside.extend(exact.map(|text| (column as u16, Beside::Text(text))));
        Ok(())
    }

    /// The next value of a column stands elsewhere, in this form: a [`LargeValue`] as JSON.
    pub fn large(&mut self, column: usize, name: &[u8], form: Form) -> Result<(), Error> {
        if !matches!(self.travels[column], Travel::Binary | Travel::Utf8 | Travel::Text) {
            return Err(malformed(&self.names[column]));
        }
        let mut value: LargeValue = serde_json::from_slice(name).map_err(|error| Error::SourceError(error.to_string()))?;
        value.form = form;
        self.columns[column].null();
        self.bytes += name.len();
        self.cell.beside.push((column as u16, Beside::Large(value)));
        Ok(())
    }

    /// The row is complete. `op`: given if and only if the builder is one of changes.
    pub fn end_row(&mut self, op: Option<Op>) -> Result<(), Error> {
        if let (Some(ops), Some(op)) = (&mut self.ops, op) {
            ops.append_value(op as u8);
        }
        if self.cell == LinkCell::default() {
            self.link.append_null();
        } else {
            let cell = std::mem::take(&mut self.cell);
            self.link.append_value(serde_json::to_string(&cell).map_err(|error| Error::SourceError(error.to_string()))?);
        }
        self.rows += 1;
        // NULLs and small values cost memory too.
        self.bytes += self.columns.len();
        Ok(())
    }

    /// The batch; the builder is empty again.
    pub fn finish(&mut self) -> Result<RecordBatch, Error> {
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.columns.len() + 2);
        for (column, travel) in self.columns.iter_mut().zip(&self.travels) {
            let array = column.finish();
            // The next batch is about as large: it need not grow step by step.
            *column = ColumnBuilder::new(*travel, array.len(), array.get_buffer_memory_size());
            arrays.push(array);
        }
        if let Some(ops) = &mut self.ops {
            arrays.push(Arc::new(ops.finish()));
        }
        arrays.push(Arc::new(self.link.finish()));
        self.rows = 0;
        self.bytes = 0;
        RecordBatch::try_new(self.schema.clone(), arrays)
            .map_err(|error| Error::SourceError(format!("values do not make a batch: {error}")))
    }
}

fn malformed(name: &str) -> Error {
    // The value itself may be confidential.
    Error::SourceError(format!("{name} has a value that is not of its type's form"))
}

enum ColumnBuilder {
    Bool(BooleanBuilder),
    Int16(Int16Builder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Float32(Float32Builder),
    Float64(Float64Builder),
    Decimal(Decimal128Builder, i8),
    Date(Date32Builder),
    Time(Time64MicrosecondBuilder),
    /// With what is printed behind the time.
    Timestamp(TimestampMicrosecondBuilder, &'static str),
    Text(StringBuilder),
    Binary(BinaryBuilder),
    Uuid(FixedSizeBinaryBuilder),
}

/// What a builder answers: the exact text if the native type cannot hold the value.
type Appended = Result<Option<String>, Malformed>;

macro_rules! append {
    ($builder:expr, $value:expr) => {
        match $value {
            Value::Native(value) => {
                $builder.append_value(value);
                Ok(None)
            }
            Value::Exact(text) => {
                $builder.append_null();
                Ok(Some(text))
            }
        }
    };
}

impl ColumnBuilder {
    /// With room for so many values, which are of so many bytes if their lengths differ.
    fn new(travel: Travel, rows: usize, bytes: usize) -> Self {
        match travel {
            Travel::Bool => Self::Bool(BooleanBuilder::with_capacity(rows)),
            Travel::Int16 => Self::Int16(Int16Builder::with_capacity(rows)),
            Travel::Int32 => Self::Int32(Int32Builder::with_capacity(rows)),
            // PostgreSQL has no seventh digit of a second.
            Travel::Int64 | Travel::Time7 | Travel::Timestamp7 => Self::Int64(Int64Builder::with_capacity(rows)),
            Travel::Float32 => Self::Float32(Float32Builder::with_capacity(rows)),
            Travel::Float64 => Self::Float64(Float64Builder::with_capacity(rows)),
            Travel::Decimal { scale, .. } => Self::Decimal(Decimal128Builder::with_capacity(rows).with_data_type(travel.arrow()), scale),
            Travel::Date => Self::Date(Date32Builder::with_capacity(rows)),
            Travel::Time => Self::Time(Time64MicrosecondBuilder::with_capacity(rows)),
            Travel::Timestamp => Self::Timestamp(TimestampMicrosecondBuilder::with_capacity(rows), ""),
            Travel::TimestampTz => Self::Timestamp(TimestampMicrosecondBuilder::with_capacity(rows).with_timezone("UTC"), "+00"),
            Travel::Utf8 | Travel::Text | Travel::TimestampOffset => Self::Text(StringBuilder::with_capacity(rows, bytes)),
            Travel::Binary => Self::Binary(BinaryBuilder::with_capacity(rows, bytes)),
            Travel::Uuid => Self::Uuid(FixedSizeBinaryBuilder::with_capacity(rows, 16)),
        }
    }

    fn null(&mut self) {
        match self {
            Self::Bool(builder) => builder.append_null(),
            Self::Int16(builder) => builder.append_null(),
            Self::Int32(builder) => builder.append_null(),
            Self::Int64(builder) => builder.append_null(),
            Self::Float32(builder) => builder.append_null(),
            Self::Float64(builder) => builder.append_null(),
            Self::Decimal(builder, _) => builder.append_null(),
            Self::Date(builder) => builder.append_null(),
            Self::Time(builder) => builder.append_null(),
            Self::Timestamp(builder, _) => builder.append_null(),
            Self::Text(builder) => builder.append_null(),
            Self::Binary(builder) => builder.append_null(),
            Self::Uuid(builder) => builder.append_null(),
        }
    }

    fn binary(&mut self, raw: &[u8]) -> Appended {
        match self {
            Self::Bool(builder) => builder.append_value(bytes::<1>(raw)? != [0]),
            Self::Int16(builder) => builder.append_value(i16::from_be_bytes(bytes(raw)?)),
            Self::Int32(builder) => builder.append_value(i32::from_be_bytes(bytes(raw)?)),
            Self::Int64(builder) => builder.append_value(i64::from_be_bytes(bytes(raw)?)),
            Self::Float32(builder) => builder.append_value(one_nan_32(f32::from_be_bytes(bytes(raw)?))),
            Self::Float64(builder) => builder.append_value(one_nan_64(f64::from_be_bytes(bytes(raw)?))),
            Self::Decimal(builder, scale) => return append!(builder, values::numeric_binary(raw, *scale)?),
            Self::Date(builder) => return append!(builder, values::date_binary(raw)?),
            Self::Time(builder) => return append!(builder, values::time_binary(raw)?),
            Self::Timestamp(builder, zone) => return append!(builder, values::timestamp_binary(raw, zone)?),
            Self::Text(builder) => builder.append_value(std::str::from_utf8(raw).map_err(|_| Malformed)?),
            Self::Binary(builder) => builder.append_value(raw),
            Self::Uuid(builder) => builder.append_value(bytes::<16>(raw)?).map_err(|_| Malformed)?,
        }
        Ok(None)
    }

    fn text(&mut self, text: &str) -> Appended {
        match self {
            Self::Bool(builder) => builder.append_value(values::bool_text(text)?),
            Self::Int16(builder) => builder.append_value(text.parse().map_err(|_| Malformed)?),
            Self::Int32(builder) => builder.append_value(text.parse().map_err(|_| Malformed)?),
            Self::Int64(builder) => builder.append_value(text.parse().map_err(|_| Malformed)?),
            Self::Float32(builder) => builder.append_value(one_nan_32(text.parse().map_err(|_| Malformed)?)),
            Self::Float64(builder) => builder.append_value(one_nan_64(text.parse().map_err(|_| Malformed)?)),
            Self::Decimal(builder, scale) => return append!(builder, values::numeric_text(text, *scale)?),
            Self::Date(builder) => return append!(builder, values::date_text(text)?),
            Self::Time(builder) => return append!(builder, values::time_text(text)?),
            Self::Timestamp(builder, zone) => return append!(builder, values::timestamp_text(text, zone)?),
            Self::Text(builder) => builder.append_value(text),
            Self::Binary(builder) => builder.append_value(values::bytea_text(text)?),
            Self::Uuid(builder) => builder.append_value(values::uuid_text(text)?).map_err(|_| Malformed)?,
        }
        Ok(None)
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Bool(builder) => Arc::new(builder.finish()),
            Self::Int16(builder) => Arc::new(builder.finish()),
            Self::Int32(builder) => Arc::new(builder.finish()),
            Self::Int64(builder) => Arc::new(builder.finish()),
            Self::Float32(builder) => Arc::new(builder.finish()),
            Self::Float64(builder) => Arc::new(builder.finish()),
            Self::Decimal(builder, _) => Arc::new(builder.finish()),
            Self::Date(builder) => Arc::new(builder.finish()),
            Self::Time(builder) => Arc::new(builder.finish()),
            Self::Timestamp(builder, _) => Arc::new(builder.finish()),
            Self::Text(builder) => Arc::new(builder.finish()),
            Self::Binary(builder) => Arc::new(builder.finish()),
            Self::Uuid(builder) => Arc::new(builder.finish()),
        }
    }
}

/// PostgreSQL has one NaN; the bits of a computed one may differ from those of one that was read from text.
fn one_nan_32(value: f32) -> f32 {
    if value.is_nan() { f32::NAN } else { value }
}

fn one_nan_64(value: f64) -> f64 {
    if value.is_nan() { f64::NAN } else { value }
}
