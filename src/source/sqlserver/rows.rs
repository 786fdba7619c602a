//! Results as batches of a table's rows and changes.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, AsArray as _, RecordBatch, UInt8Array, new_null_array},
    datatypes::{DataType, Int16Type},
    error::ArrowError,
};

use super::{Error, keys::KeyColumn};
use crate::{
    data::{Op, TableSchema, Travel},
    sqlserver::{Failure, Session, quote, rows::Rows, types::select},
};

/// Rows of a batch: few enough that it stays in the processor's cache until it is encoded.
pub const BATCH_ROWS: usize = 16 * 1024;
/// A batch of large rows ends with the one that makes it this large.
pub const BATCH_BYTES: usize = 8 << 20;

/// All columns of the table `alias`, as they travel. One that is gone is NULL.
pub fn columns(schema: &TableSchema, alias: &str) -> String {
    let columns = schema.columns.iter().map(|column| if column.dropped { "NULL".to_owned() } else { select(column, alias) });
    columns.collect::<Vec<_>>().join(", ")
}

/// The key's columns of the table `alias`, quoted, in key order.
pub fn key_names(keys: &[KeyColumn], alias: &str) -> Vec<String> {
    keys.iter().map(|key| format!("{alias}.{}", quote::identifier(&key.name))).collect()
}

/// The key of a schema whose catalog was not asked.
pub fn key_columns(schema: &TableSchema) -> Vec<String> {
    schema.key.iter().map(|&column| quote::identifier(&schema.columns[column].name)).collect()
}

/// For results of all columns.
pub fn of_table(schema: &TableSchema) -> Rows {
    Rows::new(schema.columns.iter().map(|column| column.travel).collect())
}

/// For results of an operation and all columns.
pub fn of_changes(schema: &TableSchema) -> Rows {
    Rows::new([Travel::Int16].into_iter().chain(schema.columns.iter().map(|column| column.travel)).collect())
}

/// For results of the key's columns.
pub fn of_keys(schema: &TableSchema) -> Rows {
    Rows::new(schema.key.iter().map(|&column| schema.columns[column].travel).collect())
}

/// Reads the open result on, up to a full batch; says whether it has ended.
pub async fn fill(session: &mut Session, rows: &mut Rows, most: usize) -> Result<bool, Failure> {
    while rows.len() < BATCH_ROWS && rows.bytes() < most.min(BATCH_BYTES) {
        if !session.next(rows).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What is held, once it is sure that all of it could be.
pub fn take(schema: &TableSchema, rows: &mut Rows) -> Result<Vec<ArrayRef>, Error> {
    if let Some(fault) = rows.fault() {
        return Err(Error::SourceError(format!("{}: {fault}", schema.name)));
    }
    rows.take().map_err(|error| failed(&error))
}

fn failed(error: &ArrowError) -> Error {
    Error::SourceError(error.to_string())
}

/// A batch of `TableSchema::arrow_rows`.
pub fn table_batch(schema: &TableSchema, rows: &mut Rows) -> Result<RecordBatch, Error> {
    let mut arrays = take(schema, rows)?;
    let count = arrays.first().map_or(0, arrow::array::Array::len);
    arrays.push(new_null_array(&DataType::Utf8, count));
    RecordBatch::try_new(schema.arrow_rows(), arrays).map_err(|error| failed(&error))
}

/// A batch of `TableSchema::arrow_changes` from an operation and all columns.
pub fn change_batch(schema: &TableSchema, mut arrays: Vec<ArrayRef>) -> Result<RecordBatch, Error> {
    let ops = arrays.remove(0);
    let ops: UInt8Array = ops.as_primitive::<Int16Type>().iter().map(|op| op.and_then(|op| u8::try_from(op).ok())).collect();
    let count = ops.len();
    arrays.push(Arc::new(ops));
    arrays.push(new_null_array(&DataType::Utf8, count));
    RecordBatch::try_new(schema.arrow_changes(), arrays).map_err(|error| failed(&error))
}

/// A batch of `TableSchema::arrow_changes` that deletes the rows with these keys.
pub fn delete_batch(schema: &TableSchema, keys: &[ArrayRef]) -> Result<RecordBatch, Error> {
    let count = keys.first().map_or(0, arrow::array::Array::len);
    let mut arrays: Vec<ArrayRef> = Vec::with_capacity(schema.columns.len() + 2);
    for (at, column) in schema.columns.iter().enumerate() {
        arrays.push(match schema.key.iter().position(|&key| key == at) {
            Some(place) => keys[place].clone(),
            None => new_null_array(&column.travel.arrow(), count),
        });
    }
    arrays.push(Arc::new(UInt8Array::from_value(Op::Delete as u8, count)));
    arrays.push(new_null_array(&DataType::Utf8, count));
    RecordBatch::try_new(schema.arrow_changes(), arrays).map_err(|error| failed(&error))
}

/// About how many bytes a row of the columns has, where the server does not say.
pub fn guessed_width(schema: &TableSchema) -> u64 {
    let width = |travel| if matches!(travel, Travel::Utf8 | Travel::Binary | Travel::Text) { 64 } else { 8 };
    schema.columns.iter().map(|column| width(column.travel)).sum::<u64>().max(1)
}
