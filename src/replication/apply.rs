//! Apply: brings one incarnation of one table from its snapshot to the present, and keeps it there (DESIGN 5.5).
//!
//! The target's own progress decides what is to be done; it moves by compare-and-set in the transaction that moves the rows,
//! so a record is applied exactly once whoever applies it, and a table may change hands at any time.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use arrow::array::RecordBatch;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::{
    Applied, Context,
    error::Error,
    file, net, retry,
    snapshot::Snapshot,
    state::{RunState, TableState},
};
use crate::{
    api::{
        fault::Explain,
        report::{SnapshotProgress, TablePhase},
    },
    data::{NetChanges, Step},
    landing::record::{DataFile, Entry},
    target::{self, Advance, Incarnation, Steps, TargetTable},
};

/// Consecutive records are applied as one up to this many bytes of rows in memory; one that is larger is netted and staged
/// piece by piece, in one transaction of the target.
const PIECE_BYTES: u64 = 64 * 1024 * 1024;
/// Files read at once.
const READS_AT_ONCE: usize = 8;
/// How often the target is asked which chunks it holds, while others may load them.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A table without changes moves its progress on after so many records, so that a restart need not walk them again. As of when
/// it is exact the target is told more often, and of all such tables at once.
const IDLE_RECORDS: u64 = 500;

/// Works on one incarnation of a table until the future is dropped. Errors are reported, and tried again.
pub async fn table(context: Context, id: u32, table: TableState) {
    let mut attempt = 0;
    loop {
        let applier = Applier {
            context: &context,
            id,
            table: &table,
            target: context.target_table(&table),
            incarnation: Incarnation { run: context.journal.log().run(), record: table.incarnation },
        };
        let began = Instant::now();
        let Err(error) = applier.work().await else { return };
        // Work that went well for a while is not the same trouble going on.
        attempt = if began.elapsed() > Duration::from_mins(1) { 1 } else { attempt + 1 };
        let delay = retry::delay(attempt);
        context.board.table_failed(&table.uid, error.fault(), attempt, delay);
        tokio::time::sleep(delay).await;
    }
}

struct Applier<'a> {
    context: &'a Context,
    id: u32,
    table: &'a TableState,
    target: TargetTable,
    incarnation: Incarnation,
}

/// What a run of records holds for a table.
struct Batch {
    /// All of these records are in it.
    upto: u64,
    entries: Vec<Entry>,
    /// Of the files, and of their rows in memory.
    bytes: u64,
    memory: u64,
    /// The source's time of the last record.
    as_of: Option<Timestamp>,
    position: String,
}

impl Applier<'_> {
    async fn work(&self) -> Result<(), Error> {
        let target = &self.context.setup.target;
        let progress = target.progress(&self.target).await?;
        let current = progress.filter(|progress| progress.incarnation == self.incarnation);
        let mut at = match &current {
            Some(progress) if progress.exact => progress.record,
            other => self.snapshot(other.as_ref().map_or(self.table.incarnation, |progress| progress.record)).await?,
        };

        self.context.board.table_works(&self.table.uid, TablePhase::Replicating);
        let rows = target.progress(&self.target).await?.map_or(0, |progress| progress.rows);
        self.context.board.table(&self.table.uid, |report| report.rows = rows);
        let mut seen = at;
        self.context.applied(self.id, self.table.incarnation, Applied { seen, as_of: None, at });
        let mut states = self.context.journal.subscribe();
        loop {
            let newest = states.borrow_and_update().number;
            if newest > seen {
                let batch = self.gather(seen, newest).await?;
                let idle = batch.entries.is_empty();
                let rows = if idle && batch.upto - at < IDLE_RECORDS {
                    0
                } else {
                    let steps = self.steps(&batch.entries).await?;
                    let advance = Advance { incarnation: self.incarnation, from: at, to: batch.upto, as_of: batch.as_of };
                    let rows = target.apply(&self.target, &self.table.schema, advance, steps).await?;
                    at = batch.upto;
                    rows
                };
                seen = batch.upto;
                self.advanced(&batch, rows, idle);
                self.context.applied(self.id, self.table.incarnation, Applied { seen, as_of: batch.as_of, at });
            } else if states.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    fn advanced(&self, batch: &Batch, rows: u64, idle: bool) {
        self.context.board.table(&self.table.uid, |report| {
            // An error of another task of the same table has been overcome too.
            report.phase = TablePhase::Replicating;
            report.error = None;
            report.attempt = 0;
            report.next_attempt = None;
            report.as_of = batch.as_of.or(report.as_of);
            report.position = Some(batch.position.clone());
            if !idle {
                report.rows += rows;
                report.bytes += batch.bytes;
                report.last_processed_time = Some(Timestamp::now());
            }
        });
    }

    /// Brings the table from nothing, or from wherever it was left, to exact and in place. Returns the record it is at.
    async fn snapshot(&self, mut at: u64) -> Result<u64, Error> {
        let Some(plan) = &self.table.plan else { return Err(Error::Internal("a table without a chunk plan".to_owned())) };
        let snapshot = Snapshot { context: self.context, id: self.id, table: self.table, plan };
        self.context.board.table_works(&self.table.uid, TablePhase::Snapshotting);
        let began = Timestamp::now();
        let mut sizes: HashMap<u32, (u64, u64)> = HashMap::new();
        loop {
            let loaded = snapshot.loaded().await?;
            self.measure(&loaded, &mut sizes).await?;
            self.report_progress(plan.chunks.len(), plan.rows_estimated, &sizes, began);
            if loaded.len() == plan.chunks.len() {
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let (passed, exact) = self.exact().await?;
        while at < exact {
            // Not across `passed`: only from there on the rows aside hold what a change leaves out.
            let batch = self.gather(at, passed.filter(|passed| at < *passed).unwrap_or(exact)).await?;
            let steps = self.steps(&batch.entries).await?;
            let advance = Advance { incarnation: self.incarnation, from: at, to: batch.upto, as_of: batch.as_of };
            self.context.setup.target.catch_up(&self.target, &self.table.schema, advance, steps).await?;
            at = batch.upto;
        }
        let record = self.context.journal.record(exact).await?;
        let advance = Advance { incarnation: self.incarnation, from: at, to: at, as_of: record.time };
        self.context.setup.target.finish_snapshot(&self.target, &self.table.schema, advance).await?;
        let position = record.to.to_string();
        self.context.board.table(&self.table.uid, |report| {
            report.as_of = record.time.or(report.as_of);
            report.position = Some(position);
            report.last_processed_time = Some(Timestamp::now());
        });
        Ok(at)
    }

    /// Rows and bytes of the chunks that were loaded since the last look.
    async fn measure(&self, loaded: &BTreeSet<u32>, sizes: &mut HashMap<u32, (u64, u64)>) -> Result<(), Error> {
        for chunk in loaded {
            if !sizes.contains_key(chunk) {
                let record = self.context.journal.log().chunk(self.id, self.table.incarnation, *chunk).await?;
                let file = record.and_then(|record| record.file);
                sizes.insert(*chunk, file.map_or((0, 0), |file| (file.rows, file.bytes)));
            }
        }
        Ok(())
    }

    fn report_progress(&self, total: usize, estimated: Option<u64>, sizes: &HashMap<u32, (u64, u64)>, began: Timestamp) {
        let (rows, bytes) = sizes.values().fold((0, 0), |(rows, bytes), size| (rows + size.0, bytes + size.1));
        let done = sizes.len();
        self.context.board.table(&self.table.uid, |report| {
            let start_time = report.snapshot.as_ref().and_then(|snapshot| snapshot.start_time).or(Some(began));
            let elapsed = start_time.map(|start| Timestamp::now().duration_since(start));
            let estimated_completion = match elapsed {
                // By chunks: they are of one size, and rows are only estimated.
                Some(elapsed) if done > 0 && done < total => {
                    let left = elapsed.as_millis() * (total - done) as i128 / done as i128;
                    Timestamp::now().checked_add(jiff::SignedDuration::from_millis(left as i64)).ok()
                }
                _ => None,
            };
            report.rows = report.rows.max(rows);
            report.bytes = report.bytes.max(bytes);
            report.snapshot = Some(SnapshotProgress {
                rows_done: rows as i64,
                rows_estimated: estimated.map(|rows| rows as i64),
                bytes_done: bytes as i64,
                chunks_done: done as i64,
                chunks_total: total as i64,
                start_time,
                estimated_completion,
            });
        });
    }

    /// Waits for the record at which the table is exact. Returns also the one at which its chunks were passed, if another.
    async fn exact(&self) -> Result<(Option<u64>, u64), Error> {
        let mut states = self.context.journal.subscribe();
        let of_ours = |state: &RunState| {
            let table = state.tables.get(&self.id).filter(|table| table.incarnation == self.table.incarnation)?;
            Some((table.passed, table.exact?))
        };
        let ended = || Error::Internal("the log ended".to_owned());
        let state = states.wait_for(|state| of_ours(state).is_some()).await.map_err(|_| ended())?;
        of_ours(&state).ok_or_else(ended)
    }

    /// What the records after `after` hold for this table: up to `newest`, or to the record that fills the batch.
    async fn gather(&self, after: u64, newest: u64) -> Result<Batch, Error> {
        let mut batch = Batch { upto: after, entries: vec![], bytes: 0, memory: 0, as_of: None, position: String::new() };
        for number in after + 1..=newest {
            let record = self.context.journal.record(number).await?;
            let ours = record.data.iter().filter(|data| data.table == self.id && data.incarnation == self.table.incarnation);
            let entries: Vec<Entry> = ours.flat_map(|data| data.entries.iter().cloned()).collect();
            let files = entries.iter().filter_map(|entry| if let Entry::File(file) = entry { Some(file) } else { None });
            let (bytes, memory) = files.fold((0, 0), |(bytes, memory), file| (bytes + file.bytes, memory + file.rows_memory()));
            if !batch.entries.is_empty() && batch.memory + memory > PIECE_BYTES {
                break;
            }
            batch.entries.extend(entries);
            batch.bytes += bytes;
            batch.memory += memory;
            batch.upto = number;
            batch.as_of = record.time.or(batch.as_of);
            batch.position = record.to.to_string();
        }
        Ok(batch)
    }

    /// What is to be done: read and netted piece by piece as the target asks for it, so that no more than one piece is in
    /// memory, and not before the budget that all tables share has room for it.
    /// The first is there when this returns: nobody holds a connection or a lock of the target while he waits for it.
    async fn steps<'e>(&'e self, entries: &'e [Entry]) -> Result<Steps<'e>, Error> {
        let (truncated, pieces) = pieces(entries);
        let truncate = truncated.then_some(Ok(Step::Truncate));
        let merges = stream::try_unfold((pieces.into_iter(), None), move |(mut pieces, before)| async move {
            drop::<Option<OwnedSemaphorePermit>>(before);
            let Some(piece) = pieces.next() else { return Ok(None) };
            let room = self.context.memory.room(piece.iter().map(|file| file.rows_memory()).sum()).await?;
            let changes = self.net(&piece).await?;
            Ok(Some((Step::Merge(changes), (pieces, Some(room)))))
        });
        let mut merges = Box::pin(merges);
        let first = merges.try_next().await?;
        let merges = merges.map_err(|error: Error| target::Error::StepFailed(error.fault()));
        Ok(stream::iter(truncate).chain(stream::iter(first.map(Ok))).chain(merges).boxed())
    }

    /// Reads files and nets their changes.
    async fn net(&self, files: &[&DataFile]) -> Result<NetChanges, Error> {
        let batches: Vec<Vec<RecordBatch>> = stream::iter(files.iter().map(|file| file.path.clone()).collect::<Vec<_>>())
            .map(|path| async move {
                let bytes = self.context.data_file(&path).await?;
                let schema = self.table.schema.arrow_changes();
                Ok::<_, Error>(tokio::task::spawn_blocking(move || file::decode(bytes, schema)?.collect::<Result<_, _>>()).await??)
            })
            .buffered(READS_AT_ONCE)
            .try_collect()
            .await?;
        let schema = self.table.schema.clone();
        Ok(tokio::task::spawn_blocking(move || net::net(&schema, &batches.concat())).await??)
    }
}

/// Whether the table is truncated, and the files of what comes after the last truncation, in pieces that fit into memory.
/// What came before it need not be done.
fn pieces(entries: &[Entry]) -> (bool, Vec<Vec<&DataFile>>) {
    let truncated = entries.iter().rposition(|entry| matches!(entry, Entry::Truncate));
    let mut pieces: Vec<Vec<&DataFile>> = Vec::new();
    let mut room = 0;
    for entry in &entries[truncated.map_or(0, |last| last + 1)..] {
        let Entry::File(file) = entry else { continue };
        let memory = file.rows_memory();
        if memory <= room
            && let Some(piece) = pieces.last_mut()
        {
            piece.push(file);
        } else {
            pieces.push(vec![file]);
            room = PIECE_BYTES;
        }
        room = room.saturating_sub(memory);
    }
    (truncated.is_some(), pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_fit_into_memory_and_begin_after_the_last_truncation() {
        let file = |memory: u64| Entry::File(DataFile { path: memory.to_string(), bytes: 1, memory, rows: 1 });
        let (big, small) = (PIECE_BYTES, PIECE_BYTES / 2);
        let sizes = |entries: &[Entry]| {
            let (truncated, pieces) = pieces(entries);
            let sizes = pieces.iter().map(|piece| piece.iter().map(|file| file.memory).collect::<Vec<_>>()).collect::<Vec<_>>();
            (truncated, sizes)
        };
        assert_eq!(sizes(&[]), (false, vec![]));
        assert_eq!(sizes(&[file(small), file(small), file(1)]), (false, vec![vec![small, small], vec![1]]));
        assert_eq!(sizes(&[file(big * 2), file(1), file(big)]), (false, vec![vec![big * 2], vec![1], vec![big]]));
        assert_eq!(sizes(&[file(1), Entry::Truncate, file(2), Entry::Truncate, file(3)]), (true, vec![vec![3]]));
        assert_eq!(sizes(&[file(1), Entry::Truncate]), (true, vec![]));
    }
}
