//! The snapshot: cutting a table into chunks and reading them (DESIGN 5.3, steps 2 and 3).

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use tokio_postgres::{Client, Row};

use super::{
    BRIEFLY, Postgresql, WireSession, catalog,
    copy::CopyReader,
    lsn::Lsn,
    shape,
    wire::{Failure, Wire},
};
use crate::{
    data::{KeyRange, TableName, TableSchema},
    postgresql::quote,
    protection::Protection,
    source::{
        Chunk, ChunkPlan, ChunkRows, Error, LargeValues, chunking,
        limits::{Kind, Limits},
    },
};

/// Rows of a batch: few enough that it stays in the processor's cache until it is encoded.
const BATCH_ROWS: usize = 16 * 1024;
/// Cuts each relation that holds the table's rows by its blocks. Blocks that are added later belong to the relation's last
/// chunk.
pub async fn plan(client: &Client, schema: &TableSchema, chunk_bytes: u64) -> Result<ChunkPlan, Error> {
    let missing = || Error::SourceTableMissing(schema.name.clone());
    // To ask for a relation's size takes a lock.
    client.batch_execute(BRIEFLY).await?;
    let shape = shape::read(client, &[schema.object_id]).await?.remove(&schema.object_id).ok_or_else(missing)?;
    let parts: Vec<u32> = shape.parts.iter().map(|part| part.part.object_id).collect();
    let rows = client
        .query(
            "SELECT oid, pg_relation_filenode(oid) AS filenode, pg_relation_size(oid) AS bytes, pg_table_size(oid) AS with_large_values, \
                    current_setting('block_size')::int8 AS block, \
                    reltuples::float8 AS rows FROM pg_class WHERE oid = ANY ($1) ORDER BY oid",
            &[&parts],
        )
        .await
        .map_err(|error| Postgresql::table_error(&schema.name, (&error).into()))?;
    let large = |row: &Row| row.get::<_, Option<i64>>("with_large_values").unwrap_or_default() as u64;
    let chunk_bytes = chunking::chunk_size(rows.iter().map(large).sum(), chunk_bytes);
    let mut plan = ChunkPlan { chunks: Vec::new(), rows_estimated: Some(0) };
    for row in rows {
        let file_id: u32 = row.get::<_, Option<u32>>("filenode").ok_or_else(missing)?;
        let bytes = row.get::<_, Option<i64>>("bytes").ok_or_else(missing)? as u64;
        let block = (row.get::<_, i64>("block") as u64).max(1);
        // Large values are kept beside the blocks that are counted, and are read with them.
        let with_large_values = (row.get::<_, Option<i64>>("with_large_values").ok_or_else(missing)? as u64).max(bytes).max(1);
        let chunk_blocks = u128::from(chunk_bytes / block) * u128::from(bytes) / u128::from(with_large_values);
        let starts = starts(bytes.div_ceil(block), (chunk_blocks as u64).max(1));
        let ends = starts.iter().skip(1).copied().map(Some).chain([None]);
        let object_id = row.get("oid");
        plan.chunks.extend(starts.iter().zip(ends).map(|(&start, end)| Chunk {
            object_id,
            file_id,
            start,
            end,
            keys: KeyRange::default(),
        }));
        let rows: f64 = row.get("rows");
        // -1: never analysed.
        plan.rows_estimated = plan.rows_estimated.filter(|_| rows >= 0.0).map(|estimated| estimated + rows as u64);
    }
    if plan.chunks.is_empty() { Err(missing()) } else { Ok(plan) }
}

/// First blocks of the chunks; at least one.
fn starts(blocks: u64, step: u64) -> Vec<u32> {
    (0..blocks.max(1)).step_by(usize::try_from(step).unwrap_or(usize::MAX)).filter_map(|block| u32::try_from(block).ok()).collect()
}

/// Reads one chunk in a session and a snapshot of its own.
pub async fn read(source: &Postgresql, schema: &TableSchema, chunk: &Chunk, values: Arc<dyn LargeValues>) -> Result<ChunkRows, Error> {
    let mut session = source.wire(source.limits.permit(Kind::Chunk).await).await?;
    let wire = &mut session.wire;
    let Some(relation) = name_of(wire, chunk.object_id).await? else {
        return Err(Error::TableRewritten(format!("{} lost a part while its snapshot was read", schema.name)));
    };
    // The lock comes before the snapshot: a rewrite that waits for the lock is not yet seen, one that had it is.
    let table = quote::table(&relation);
    wire.query(&format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; LOCK TABLE ONLY {table} IN ACCESS SHARE MODE"))
        .await
        .map_err(|failure| Postgresql::table_error(&relation, failure))?;
    // Under the lock the table is for everybody as it is for us.
    let now = catalog::describe(&*source.session_for(Kind::Inner).await?, &schema.name).await?;
    if !catalog::same_rows(schema, &now.schema) {
        return Err(Error::SchemaChanged(format!("{} is no longer as it was when its snapshot was planned", schema.name)));
    }
    let part = now.parts.iter().find(|part| part.part.object_id == chunk.object_id && part.name == relation);
    if part.is_none_or(|part| part.part.file_id != chunk.file_id) && Protection::Filenode.holds() {
        return Err(Error::TableRewritten(format!("the rows of {} were moved to another file while its snapshot was read", schema.name)));
    }
    let read_at = flushed_lsn(source, wire).await?;

    let copy = copy_statement(schema, &relation, chunk);
    wire.begin_copy(&copy).await.map_err(|failure| Postgresql::table_error(&relation, failure))?;
    let copy = CopyReader::new(schema, values);
    let reading = Reading { session, copy, limits: source.limits.clone() };
    let rows = futures::stream::try_unfold(Some(reading), |reading| async {
        let Some(mut reading) = reading else { return Ok(None) };
        let ended = reading.fill().await?;
        let rows = &mut reading.copy.rows;
        let batch = (rows.len() > 0).then(|| rows.finish()).transpose()?;
        Ok::<_, Error>(Some((batch, (!ended).then_some(reading))))
    });
    Ok(ChunkRows { read_at: read_at.position(), rows: rows.try_filter_map(|batch| async { Ok(batch) }).boxed() })
}

/// The name of a relation, if it is there.
async fn name_of(wire: &mut Wire, relation: u32) -> Result<Option<TableName>, Error> {
    let sql = format!("SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = {relation}");
    let row = wire.query(&sql).await.map_err(Failure::general)?.pop();
    Ok(row.and_then(|row| match <[_; 2]>::try_from(row) {
        Ok([Some(schema), Some(table)]) => Some(TableName::new(schema, table)),
        _ => None,
    }))
}

fn copy_statement(schema: &TableSchema, relation: &TableName, chunk: &Chunk) -> String {
    let columns: Vec<String> = schema.columns.iter().map(catalog::select).collect();
    let end = chunk.end.map(|end| format!(" AND ctid < '({end},0)'")).unwrap_or_default();
    format!(
        "COPY (SELECT {} FROM ONLY {} WHERE ctid >= '({},0)'{end}) TO STDOUT (FORMAT binary)",
        columns.join(", "),
        quote::table(relation),
        chunk.start
    )
}

/// A chunk under way. Holds the session: its snapshot and lock end with it.
struct Reading {
    session: WireSession,
    copy: CopyReader,
    limits: Arc<Limits>,
}

impl Reading {
    /// Reads until the batch is full or the stream ends; says whether it ended.
    async fn fill(&mut self) -> Result<bool, Error> {
        let incoming = &mut self.session.wire.incoming;
        while self.copy.rows.len() < BATCH_ROWS && !self.copy.rows.is_full() {
            let before = self.copy.bytes;
            let ended = self.copy.read(incoming).await?;
            // Meanwhile nothing is taken from the socket: the server cannot send, and does not read on.
            self.limits.read(self.copy.bytes - before).await;
            if ended {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The end of the log as it is written, flushed or not.
pub async fn insert_lsn(client: &Client) -> Result<Lsn, Error> {
    client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await?.get::<_, &str>(0).parse()
}

/// The same; it is flushed when this returns: what is not may be lost in a crash, and its positions used again.
pub async fn flushed_lsn(source: &Postgresql, wire: &mut Wire) -> Result<Lsn, Error> {
    let sql = "SELECT pg_current_wal_insert_lsn(), pg_current_wal_flush_lsn()";
    let row = wire.query(sql).await.map_err(Failure::general)?.pop().unwrap_or_default();
    let [Some(end), Some(flushed)] = row.as_slice() else { return Err(wire.incoming.unexpected()) };
    let end = end.parse()?;
    flush(source, end, flushed.parse()?).await?;
    Ok(end)
}

/// Sees that the server has flushed its log up to `lsn`, if it has `flushed` less. Commits flush, so it makes some.
pub async fn flush(source: &Postgresql, lsn: Lsn, mut flushed: Lsn) -> Result<(), Error> {
    while flushed < lsn {
        flushed = source.beat().await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_the_table_and_an_empty_one_has_a_chunk() {
        assert_eq!(starts(0, 8), [0]);
        assert_eq!(starts(8, 8), [0]);
        assert_eq!(starts(17, 8), [0, 8, 16]);
    }
}
