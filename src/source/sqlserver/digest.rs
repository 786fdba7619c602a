//! Checksums for whoever compares the source with its copy. The server cannot compute them: the rows are read, each range in a
//! SNAPSHOT transaction of its own, and digested here.

use super::{
    Session, SqlServer, chunks,
    chunks::read_query,
    fetch::{self, KEYS_AT_ONCE},
    keys,
    keys::KeyColumn,
    rows, table_error,
};
use crate::{
    data::{Among, Digesting, Digests, KeyRange, KeyTexts, RowDigests, TableSchema, list_rows, print},
    source::{Error, limits::Kind},
    sqlserver::quote,
};

/// The key at the end of so many rows after a place, by the first `ordered` columns of the key.
pub fn cut_query(schema: &TableSchema, keys: &[KeyColumn], after: Option<&KeyTexts>, rows: u64) -> Result<String, Error> {
    let names = rows::key_names(keys, "t").join(", ");
    let condition = keys::within(keys, &KeyRange { after: after.cloned(), upto: None })?;
    Ok(format!(
        "SELECT {names} FROM {} AS t WHERE {condition} ORDER BY {names} OFFSET {} ROWS FETCH NEXT 1 ROWS ONLY",
        quote::table(&schema.name),
        rows.saturating_sub(1)
    ))
}

/// See [`crate::source::Source::cut_range`].
pub async fn cut(source: &SqlServer, schema: &TableSchema, after: Option<&KeyTexts>, rows: u64) -> Result<Option<KeyTexts>, Error> {
    let ordered = schema.ordered_key();
    if ordered.is_empty() {
        return Ok(None);
    }
    let mut session = source.snapshot(Kind::Chunk).await?;
    let table = chunks::current(&mut session, source.mode(), schema).await?;
    let keys = &table.keys[..ordered.len()];
    let of_ordered = TableSchema { key: ordered.to_vec(), ..schema.clone() };
    let mut found = rows::of_keys(&of_ordered);
    let failed = |failure| table_error(&schema.name, failure);
    session.open(&cut_query(schema, keys, after, rows)?).await.map_err(failed)?;
    while session.next(&mut found).await.map_err(failed)? {}
    session.close().await.map_err(failed)?;
    if found.is_empty() {
        return Ok(None);
    }
    let arrays = rows::take(schema, &mut found)?;
    Ok(Some(keys.iter().zip(&arrays).map(|(key, array)| print::key(key.travel, array, 0)).collect()))
}

/// See [`crate::source::Source::digest`].
pub async fn digest(source: &SqlServer, schema: &TableSchema, range: &KeyRange) -> Result<Digests, Error> {
    let mut session = source.snapshot(Kind::Chunk).await?;
    let table = chunks::current(&mut session, source.mode(), schema).await?;
    let sql = read_query(schema, &table.keys, range)?;
    let mut digesting = Digesting::new(schema);
    read(source, &mut session, schema, &sql, |batch| digesting.add(&batch)).await?;
    Ok(digesting.finish())
}

/// See [`crate::source::Source::row_digests`].
pub async fn rows(source: &SqlServer, schema: &TableSchema, among: Among<'_>) -> Result<RowDigests, Error> {
    let mut session = source.snapshot(Kind::Chunk).await?;
    let table = chunks::current(&mut session, source.mode(), schema).await?;
    let mut listed = RowDigests::new();
    match among {
        Among::Buckets(range, buckets) => {
            let sql = read_query(schema, &table.keys, range)?;
            read(source, &mut session, schema, &sql, |batch| list_rows(schema, &batch, Some(buckets), &mut listed)).await?;
        }
        Among::Keys(wanted) => {
            for slice in wanted.chunks(KEYS_AT_ONCE) {
                let sql = fetch::query(schema, &table.keys, slice)?;
                read(source, &mut session, schema, &sql, |batch| list_rows(schema, &batch, None, &mut listed)).await?;
            }
        }
    }
    Ok(listed)
}

/// Reads a result in batches, no faster than snapshots may.
async fn read(
    source: &SqlServer,
    session: &mut Session,
    schema: &TableSchema,
    sql: &str,
    mut take: impl FnMut(arrow::array::RecordBatch) + Send,
) -> Result<(), Error> {
    let failed = |failure| table_error(&schema.name, failure);
    session.open(sql).await.map_err(failed)?;
    let mut rows = rows::of_table(schema);
    loop {
        let ended = rows::fill(session, &mut rows, rows::BATCH_BYTES).await.map_err(failed)?;
        source.limits.read(rows.bytes()).await;
        if !rows.is_empty() {
            take(rows::table_batch(schema, &mut rows)?);
        }
        if ended {
            return session.close().await.map_err(failed);
        }
    }
}
