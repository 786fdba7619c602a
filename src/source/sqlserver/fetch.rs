//! Reading rows by key.

use arrow::{
    array::{Array as _, RecordBatch},
    compute::concat_batches,
};

use super::{SqlServer, chunks, keys::KeyColumn, position, rows, table_error};
use crate::{
    data::{KeyTexts, TableSchema, print},
    source::{Error, Filled, limits::Kind},
    sqlserver::quote,
};

/// A list of rows in a statement has at most 1000.
pub const KEYS_AT_ONCE: usize = 1000;

/// The rows with these keys.
pub fn query(schema: &TableSchema, keys: &[KeyColumn], wanted: &[KeyTexts]) -> Result<String, Error> {
    let mut values = Vec::with_capacity(wanted.len());
    for texts in wanted {
        let literals = keys.iter().zip(texts).map(|(key, text)| key.literal(text)).collect::<Result<Vec<_>, _>>()?;
        values.push(format!("({})", literals.join(", ")));
    }
    let names: Vec<String> = (0..keys.len()).map(|at| format!("k{at}")).collect();
    let same: Vec<String> = rows::key_names(keys, "t").iter().enumerate().map(|(at, name)| format!("{name} = w.k{at}")).collect();
    Ok(format!(
        "SELECT {} FROM (VALUES {}) AS w ({}) JOIN {} AS t ON {}",
        rows::columns(schema, "t"),
        values.join(", "),
        names.join(", "),
        quote::table(&schema.name),
        same.join(" AND ")
    ))
}

/// Reads the rows of all keys in one SNAPSHOT transaction.
pub async fn fetch(source: &SqlServer, schema: &TableSchema, keys: &RecordBatch) -> Result<Filled, Error> {
    let mut session = source.snapshot(Kind::Question).await?;
    let table = chunks::current(&mut session, source.mode(), schema).await?;
    let read_at = position::after_snapshot(&mut session, source.mode(), &chunks::first_read(&schema.name)).await?;
    let mut batches = Vec::new();
    for slice in texts(&table.keys, keys)?.chunks(KEYS_AT_ONCE) {
        let failed = |failure| table_error(&schema.name, failure);
        let mut found = rows::of_table(schema);
        session.open(&query(schema, &table.keys, slice)?).await.map_err(failed)?;
        while session.next(&mut found).await.map_err(failed)? {}
        session.close().await.map_err(failed)?;
        batches.push(rows::table_batch(schema, &mut found)?);
    }
    let rows = concat_batches(&schema.arrow_rows(), &batches).map_err(|error| Error::SourceError(error.to_string()))?;
    Ok(Filled { rows, read_at })
}

/// The texts of a batch of `TableSchema::arrow_keys`.
fn texts(columns: &[KeyColumn], batch: &RecordBatch) -> Result<Vec<KeyTexts>, Error> {
    for (column, array) in columns.iter().zip(batch.columns()) {
        if *array.data_type() != column.travel.arrow() || array.null_count() > 0 {
            return Err(Error::SourceError(format!("keys hold no value of column {}", column.name)));
        }
    }
    let text = |row| columns.iter().zip(batch.columns()).map(|(column, array)| print::key(column.travel, array, row)).collect();
    Ok((0..batch.num_rows()).map(text).collect())
}
