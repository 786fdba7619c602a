//! The snapshot: cutting a table into ranges of its key and reading them, each in a short SNAPSHOT transaction of its own
//! (DESIGN 5.3, steps 2 and 3).

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};

use super::{Session, SqlServer, catalog, catalog::Table, evolve, keys, keys::KeyColumn, position, rows, table_error};
use crate::{
    api::database::CaptureMode,
    data::{KeyRange, KeyTexts, TableName, TableSchema, print},
    protection::Protection,
    source::{
        Chunk, ChunkPlan, ChunkRows, Error, chunking,
        limits::{Kind, Limits},
    },
    sqlserver::{quote, rows::Rows},
};

/// The throttle is asked at every so many bytes.
const THROTTLED_BYTES: usize = 64 << 10;

/// The question for a table's rows and bytes by the server's own count.
pub fn size_query(object_id: u32) -> String {
    // A heap or clustered index, with what it keeps off its rows.
    format!(
        "SELECT SUM(p.rows), (SELECT SUM(a.total_pages) * 8192 FROM sys.allocation_units AS a JOIN sys.partitions AS q \
           ON a.container_id = q.partition_id OR a.container_id = q.hobt_id WHERE q.object_id = {id} AND q.index_id IN (0, 1)) \
         FROM sys.partitions AS p WHERE p.object_id = {id} AND p.index_id IN (0, 1)",
        id = object_id.cast_signed()
    )
}

/// How many rows a table has, where the server does not say.
pub fn count_query(table: &TableName) -> String {
    format!("SELECT COUNT_BIG(*) FROM {}", quote::table(table))
}

/// Every `step`th key of a table, in order: the server compares, so the ranges between them are in its own order.
pub fn cut_query(table: &TableName, keys: &[KeyColumn], step: u64) -> String {
    let names = rows::key_names(keys, "t");
    let listed: Vec<String> = names.iter().enumerate().map(|(at, name)| format!("{name} AS k{at}")).collect();
    let outer: Vec<String> = (0..keys.len()).map(|at| format!("n.k{at}")).collect();
    format!(
        "SELECT {} FROM (SELECT {}, ROW_NUMBER() OVER (ORDER BY {}) AS place FROM {} AS t) AS n WHERE n.place % {step} = 0 ORDER BY n.place",
        outer.join(", "),
        listed.join(", "),
        names.join(", "),
        quote::table(table)
    )
}

/// The rows of a range.
pub fn read_query(schema: &TableSchema, keys: &[KeyColumn], range: &KeyRange) -> Result<String, Error> {
    Ok(format!("SELECT {} FROM {} AS t WHERE {}", rows::columns(schema, "t"), quote::table(&schema.name), keys::within(keys, range)?))
}

/// A read that does no more than to take the transaction's snapshot.
pub fn first_read(table: &TableName) -> String {
    format!("SELECT COUNT(*) FROM (SELECT TOP (1) 1 AS one FROM {} AS t) AS n", quote::table(table))
}

/// See [`crate::source::Source::plan_chunks`].
pub async fn plan(source: &SqlServer, schema: &TableSchema, chunk_bytes: u64) -> Result<ChunkPlan, Error> {
    let mut session = source.snapshot(Kind::Question).await?;
    let table = current(&mut session, source.mode(), schema).await?;
    let failed = |failure| table_error(&schema.name, failure);
    // Not every server counts, nor tells it to every user.
    let size = session.query(&size_query(schema.object_id)).await.unwrap_or_default().pop();
    let told = |column| {
        size.as_ref().and_then(|row| row.number(column)).and_then(|number| u64::try_from(number).ok()).filter(|number| *number > 0)
    };
    let (mut count, mut bytes) = (told(0), told(1));
    if count.is_none() {
        // A failed statement has ended the transaction. The place is free before another is asked for.
        drop(session);
        session = source.snapshot(Kind::Question).await?;
        let counted = session.query(&count_query(&schema.name)).await.map_err(failed)?;
        count = counted.first().and_then(|row| row.number(0)).and_then(|number| u64::try_from(number).ok());
    }
    let rows_estimated = count.unwrap_or_default();
    let bytes = bytes.take().unwrap_or(rows_estimated * rows::guessed_width(schema)).max(1);
    let chunk_bytes = chunking::chunk_size(bytes, chunk_bytes).max(1);
    let step = (u128::from(rows_estimated) * u128::from(chunk_bytes) / u128::from(bytes)).max(1) as u64;
    let bounds = if rows_estimated > step { cuts(&mut session, schema, &table.keys, step).await? } else { Vec::new() };
    let afters = [None].into_iter().chain(bounds.iter().cloned().map(Some));
    let uptos = bounds.iter().cloned().map(Some).chain([None]);
    let chunk = |(after, upto)| Chunk { object_id: schema.object_id, file_id: 0, start: 0, end: None, keys: KeyRange { after, upto } };
    Ok(ChunkPlan { chunks: afters.zip(uptos).map(chunk).collect(), rows_estimated: Some(rows_estimated) })
}

/// The keys at which the table is cut.
async fn cuts(session: &mut Session, schema: &TableSchema, keys: &[KeyColumn], step: u64) -> Result<Vec<KeyTexts>, Error> {
    let failed = |failure| table_error(&schema.name, failure);
    let mut rows = rows::of_keys(schema);
    if session.open(&cut_query(&schema.name, keys, step)).await.map_err(failed)? {
        while session.next(&mut rows).await.map_err(failed)? {}
    }
    session.close().await.map_err(failed)?;
    let count = rows.len();
    let arrays = rows::take(schema, &mut rows)?;
    let text = |row| keys.iter().zip(&arrays).map(|(key, array)| print::key(key.travel, array, row)).collect();
    Ok((0..count).map(text).collect())
}

/// The table as it is in this session's transaction, if it can be read as `schema`.
pub async fn current(session: &mut Session, mode: CaptureMode, schema: &TableSchema) -> Result<Table, Error> {
    let table = catalog::describe(session, mode, &schema.name).await?;
    if table.schema.object_id != schema.object_id && Protection::Filenode.holds() {
        return Err(Error::TableRewritten(format!("{} was dropped and created anew", schema.name)));
    }
    if !evolve::same_rows(schema, &table.schema) {
        return Err(Error::SchemaChanged(format!("{} is no longer as it was", schema.name)));
    }
    Ok(table)
}

/// Reads one chunk. The catalog is not as of the snapshot, so the table is looked at before and after: a change in between ends the
/// statement with an error of its own or is seen then.
pub async fn read(source: &SqlServer, schema: &TableSchema, chunk: &Chunk) -> Result<ChunkRows, Error> {
    let mut session = source.snapshot(Kind::Chunk).await?;
    if chunk.object_id != schema.object_id {
        return Err(Error::TableRewritten(format!("{} is another table than its snapshot was planned for", schema.name)));
    }
    let table = current(&mut session, source.mode(), schema).await?;
    let read_at = position::after_snapshot(&mut session, source.mode(), &first_read(&schema.name)).await?;
    let sql = read_query(schema, &table.keys, &chunk.keys)?;
    session.open(&sql).await.map_err(|failure| table_error(&schema.name, failure))?;
    let reading =
        Reading { session, rows: rows::of_table(schema), schema: schema.clone(), mode: source.mode(), limits: source.limits.clone() };
    let rows = futures::stream::try_unfold(Some(reading), |reading| async {
        let Some(mut reading) = reading else { return Ok(None) };
        let ended = reading.fill().await?;
        let batch = (!reading.rows.is_empty()).then(|| rows::table_batch(&reading.schema, &mut reading.rows)).transpose()?;
        if ended {
            reading.session.close().await.map_err(|failure| table_error(&reading.schema.name, failure))?;
            current(&mut reading.session, reading.mode, &reading.schema).await?;
        }
        Ok::<_, Error>(Some((batch, (!ended).then_some(reading))))
    });
    Ok(ChunkRows { read_at, rows: rows.try_filter_map(|batch| async { Ok(batch) }).boxed() })
}

/// A chunk under way. Holds the session: its snapshot ends with it.
struct Reading {
    session: Session,
    rows: Rows,
    schema: TableSchema,
    mode: CaptureMode,
    limits: Arc<Limits>,
}

impl Reading {
    /// Reads until the batch is full or the result ends; says whether it ended.
    async fn fill(&mut self) -> Result<bool, Error> {
        while self.rows.len() < rows::BATCH_ROWS && self.rows.bytes() < rows::BATCH_BYTES {
            let before = self.rows.bytes();
            let ended = rows::fill(&mut self.session, &mut self.rows, before + THROTTLED_BYTES).await;
            let ended = ended.map_err(|failure| table_error(&self.schema.name, failure))?;
            // Meanwhile nothing is taken from the socket: the server cannot send, and does not read on.
            self.limits.read(self.rows.bytes() - before).await;
            if ended {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
