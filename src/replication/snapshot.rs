//! Snapshots: reading a table's chunks into the landing zone and loading them into the target (DESIGN 5.3, steps 3 and 4).
//!
//! A chunk's record in the zone says that it was read, its row in the target that it was loaded: each is its own
//! checkpoint, and a killed worker loses only the chunks in flight. Chunks are spread over all workers.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::{sync::mpsc, time::Instant};

use super::{Context, error::Error, file, metrics::Way, share, state::TableState, values::ZoneValues};
use crate::{
    api::fault::Explain,
    data::{Chunk, ChunkPlan, Position, TableSchema},
    failpoint::{self, Point},
    landing::{
        Zone, layout,
        log::Outcome,
        record::{ChunkRecord, DataFile},
    },
    source::{self, Source},
    target::{self, Incarnation},
};

/// Batches between decoding a file and writing it to the target.
const BATCHES_AHEAD: usize = 2;

/// Rows that were read are kept in memory until they are loaded, up to so many bytes a chunk; of more, the file is decoded again.
const KEPT_BYTES: usize = 96 << 20;

/// How often a worker looks whether chunks have fallen to it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// One incarnation of a table whose chunks are read and loaded.
pub struct Snapshot<'a> {
    /// The engine's surroundings.
    pub context: &'a Context,
    /// Number of the table in the run.
    pub id: u32,
    /// The table.
    pub table: &'a TableState,
    /// How it is cut.
    pub plan: &'a ChunkPlan,
}

impl Snapshot<'_> {
    fn incarnation(&self) -> Incarnation {
        Incarnation { run: self.context.journal.log().run(), record: self.table.incarnation }
    }

    /// Makes the table aside in the target; returns which chunks it holds.
    pub async fn loaded(&self) -> Result<BTreeSet<u32>, Error> {
        let target_table = self.context.target_table(self.table);
        Ok(self.context.setup.target.begin_snapshot(&target_table, &self.table.schema, self.incarnation()).await?)
    }

    /// Reads and loads this worker's share of the chunks, until all are loaded: the share changes with the workers.
    pub async fn work(&self) -> Result<(), Error> {
        let Context { setup, permits, .. } = self.context;
        loop {
            let progress = setup.target.progress(&self.context.target_table(self.table)).await?;
            if progress.is_some_and(|progress| progress.exact && progress.incarnation >= self.incarnation()) {
                return Ok(());
            }
            let loaded = self.loaded().await?;
            let workers = self.context.plan.borrow().workers;
            let mine = (0..self.plan.chunks.len() as u32)
                .filter(|chunk| !loaded.contains(chunk))
                .filter(|chunk| share::reader(workers, self.id, self.table.incarnation, *chunk) == setup.ordinal);
            stream::iter(mine)
                .map(|chunk| async move {
                    let _permit = permits.acquire().await.map_err(|_| Error::Internal("the engine ends".to_owned()))?;
                    self.chunk(chunk).await
                })
                .buffer_unordered(self.context.chunks_at_once())
                .try_collect::<()>()
                .await?;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn chunk(&self, chunk: u32) -> Result<(), Error> {
        let log = self.context.journal.log();
        let incarnation = self.table.incarnation;
        let (record, rows) = if let Some(record) = log.chunk(self.id, incarnation, chunk).await? {
            (record, None)
        } else {
            let (record, rows) = self.read(chunk).await?;
            match failpoint::around(Point::ChunkRecord, log.create_chunk(self.id, incarnation, chunk, &record)).await? {
                Outcome::Ours => (record, rows),
                Outcome::Theirs(theirs) => (theirs, None),
            }
        };
        // A void plan: the capture ends this incarnation.
        let Some(file) = record.file else { return Ok(()) };
        let rows = match rows {
            Some(rows) => rows,
            None => Rows::File(self.context.data_file(&file.path).await?),
        };
        self.load(chunk, rows, file.bytes).await
    }

    /// Reads a chunk from the source and puts its file; a void plan is a record too.
    async fn read(&self, chunk: u32) -> Result<(ChunkRecord, Option<Rows>), Error> {
        let token = uuid::Uuid::new_v4().simple().to_string();
        let Context { setup, journal, .. } = self.context;
        let Some(range) = self.plan.chunks.get(chunk as usize) else {
            return Err(Error::DataFileUnreadable(format!("chunk {chunk} is not in the plan of table {}", self.table.schema.name)));
        };
        let path = layout::data(journal.log().run(), self.id, self.table.incarnation, 0);
        let values = ZoneValues::of_chunks(setup.zone.clone(), journal.log().run(), self.id, self.table.incarnation);
        match read(&*setup.source, &setup.zone, &self.table.schema, range, path, Arc::new(values)).await {
            Ok(read) => {
                setup.metrics.read(&self.table.schema.name, Way::Snapshot, read.file.rows, read.file.bytes);
                Ok((ChunkRecord { token, file: Some(read.file), read_at: read.read_at, void: None }, Some(read.rows)))
            }
            Err(Error::Source(error @ (source::Error::TableRewritten(_) | source::Error::SchemaChanged(_)))) => {
                let void = crate::api::fault::Fault { heals: true, ..error.fault() };
                Ok((ChunkRecord { token, file: None, read_at: Position::default(), void: Some(void) }, None))
            }
            Err(error) => Err(error),
        }
    }

    async fn load(&self, chunk: u32, rows: Rows, bytes: u64) -> Result<(), Error> {
        let setup = &self.context.setup;
        let rows = match rows {
            Rows::Kept(batches) => stream::iter(batches).map(Ok).boxed(),
            Rows::File(bytes) => decoded(bytes, self.table.schema.arrow_rows()).boxed(),
        };
        let target_table = self.context.target_table(self.table);
        let began = Instant::now();
        let loaded = setup.target.load_chunk(&target_table, &self.table.schema, self.incarnation(), chunk, rows).await?;
        setup.metrics.apply_took(Way::Snapshot, began.elapsed());
        setup.metrics.applied(&self.table.schema.name, Way::Snapshot, loaded, bytes);
        tracing::debug!(table = %self.table.schema.name, chunk, rows = loaded, "chunk loaded");
        Ok(())
    }
}

/// A chunk that was read.
pub struct Read {
    /// Its file in the landing zone.
    pub file: DataFile,
    /// As of when it was read, see [`source::ChunkRows`].
    pub read_at: Position,
    rows: Rows,
}

/// Where a chunk's rows are to be had: they are written to the target only once its record is there, so that it is always this
/// file's rows that the target holds.
enum Rows {
    Kept(Vec<RecordBatch>),
    File(Bytes),
}

/// Reads a chunk from the source and puts its file.
pub async fn read(
    source: &dyn Source,
    zone: &Zone,
    schema: &TableSchema,
    range: &Chunk,
    path: String,
    values: Arc<dyn source::LargeValues>,
) -> Result<Read, Error> {
    let mut chunk_rows = source.read_chunk(schema, range, values).await?;
    let mut writer = file::Writer::new(schema.arrow_rows());
    let mut memory = 0;
    let mut kept = Some(Vec::new());
    while let Some(batch) = chunk_rows.rows.next().await {
        let batch = batch?;
        memory += batch.get_array_memory_size();
        kept = kept.filter(|_| memory <= KEPT_BYTES);
        if let Some(kept) = &mut kept {
            kept.push(batch.clone());
        }
        writer = tokio::task::spawn_blocking(move || writer.write(&batch).map(|()| writer)).await??;
    }
    let (bytes, rows) = tokio::task::spawn_blocking(move || writer.finish()).await??;
    let file = DataFile { path, bytes: bytes.len() as u64, memory: memory as u64, rows, large: vec![] };
    failpoint::around(Point::ChunkPut, zone.put(&file.path, bytes.clone())).await?;
    Ok(Read { file, read_at: chunk_rows.read_at, rows: kept.map_or(Rows::File(bytes), Rows::Kept) })
}

/// A file's batches, decoded beside the caller.
fn decoded(bytes: Bytes, schema: SchemaRef) -> impl futures::Stream<Item = Result<RecordBatch, target::Error>> + Send + 'static {
    let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
    tokio::task::spawn_blocking(move || {
        let failed = |error: file::Error| target::Error::InputFailed(error.to_string());
        match file::decode(bytes, schema) {
            Ok(batches) => {
                for batch in batches {
                    if sender.blocking_send(batch.map_err(failed)).is_err() {
                        return;
                    }
                }
            }
            Err(error) => {
                let _ = sender.blocking_send(Err(failed(error)));
            }
        }
    });
    stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|batch| (batch, receiver)) })
}
