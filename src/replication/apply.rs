//! Apply: brings one incarnation of one table from its snapshot to the present, and keeps it there (DESIGN 5.5).
//!
//! The target's own progress decides what is to be done; it moves by compare-and-set in the transaction that moves the rows,
//! so a record is applied exactly once whoever applies it, and a table may change hands at any time.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    Applied, Context,
    batch::{self, Batch, Place, Share},
    error::Error,
    group::Member,
    metrics::{Task, Way},
    retry,
    snapshot::Snapshot,
    state::{RunState, TableState},
};
use crate::{
    api::{
        fault::{Explain, Fault},
        report::{SnapshotProgress, TablePhase},
    },
    data::TableSchema,
    landing::record::Record,
    target::{self, Advance, Incarnation, Progress, TargetTable},
};

/// How often the target is asked which chunks it holds, while others may load them.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A table without changes moves its progress on after so many records, so that a restart need not walk them again. As of when
/// it is exact the target is told more often, and of all such tables at once.
pub const IDLE_RECORDS: u64 = 500;

/// Works on one incarnation of a table until the future is dropped. Errors are reported, and tried again.
pub async fn table(context: Context, id: u32, table: TableState) {
    let mut attempt = 0;
    // Of a load before this one nothing is told.
    context.board.table(&table.uid, |report| report.snapshot = None);
    loop {
        let applier = Applier {
            context: &context,
            id,
            table: &table,
            target: context.target_table(&table),
            incarnation: Incarnation { run: context.journal.log().run(), record: table.incarnation },
        };
        let began = Instant::now();
        let fault = match applier.work().await {
            Ok(After::Moves(at, schema)) => {
                let mut plan = context.plan.clone();
                let left = tokio::select! {
                    left = context.group.enter(applier.member(at, schema)) => left,
                    _ = plan.wait_for(|plan| !plan.transactional_consistency) => None,
                };
                match left {
                    Some(fault) => fault,
                    None => continue,
                }
            }
            Ok(After::Over) => return,
            Err(error) => error.fault(),
        };
        // Work that went well for a while is not the same trouble going on.
        attempt = if began.elapsed() > Duration::from_mins(1) { 1 } else { attempt + 1 };
        let delay = retry::delay(attempt);
        context.table_failed(Task::Apply, &table.uid, fault, attempt, delay);
        tokio::time::sleep(delay).await;
    }
}

/// What comes after an applier's own work.
enum After {
    /// From this record on, where it has these columns, the table moves with the group.
    Moves(u64, TableSchema),
    /// Nothing.
    Over,
}

struct Applier<'a> {
    context: &'a Context,
    id: u32,
    table: &'a TableState,
    target: TargetTable,
    incarnation: Incarnation,
}

impl Applier<'_> {
    async fn work(&self) -> Result<After, Error> {
        let target = &self.context.setup.target;
        let progress = target.progress(&self.target).await?;
        let current = progress.as_ref().filter(|progress| progress.incarnation == self.incarnation);
        let mut at = match current {
            Some(progress) if progress.exact => progress.record,
            _ if self.table.adopted => self.adopt(progress.as_ref()).await?,
            other => self.snapshot(other.map_or(self.table.incarnation, |progress| progress.record)).await?,
        };

        let mut schema = self.schema_after(at).await?;
        self.context.board.table_works(&self.table.uid, TablePhase::Replicating);
        let rows = target.progress(&self.target).await?.map_or(0, |progress| progress.rows);
        self.context.board.table(&self.table.uid, |report| report.rows = rows);
        if self.grouped() && current.is_some_and(|progress| progress.exact && progress.grouped) {
            // It must not move apart from those that it moved with.
            return Ok(After::Moves(at, schema));
        }
        self.context.board.table(&self.table.uid, |report| report.consistent = !self.grouped());
        let mut seen = at;
        self.context.applied(self.id, self.table.incarnation, Applied { seen, as_of: None, at });
        let mut states = self.context.journal.subscribe();
        loop {
            let newest = states.borrow_and_update().number;
            if newest > seen {
                let (batch, share) = self.gather(seen, newest).await?;
                let idle = share.entries.is_empty();
                let rows = if idle && batch.upto - at < IDLE_RECORDS {
                    0
                } else {
                    let steps = batch::steps_at_hand(self.context, &schema, &share.entries).await?;
                    let advance = self.advance(at, batch.upto, batch.as_of);
                    let began = Instant::now();
                    let rows = target.apply(&self.target, &schema, advance, steps).await?;
                    if !idle {
                        self.context.setup.metrics.apply_took(Way::Changes, began.elapsed());
                    }
                    at = batch.upto;
                    schema = share.schema().unwrap_or(schema);
                    rows
                };
                seen = batch.upto;
                advanced(self.context, &self.table.uid, &self.target, &batch, (!idle).then_some((rows, share.bytes)));
                self.context.applied(self.id, self.table.incarnation, Applied { seen, as_of: batch.as_of, at });
            } else if self.grouped() {
                self.context.board.table(&self.table.uid, |report| report.consistent = false);
                return Ok(After::Moves(at, schema));
            } else if states.changed().await.is_err() {
                return Ok(After::Over);
            }
        }
    }

    /// Whether tables move together.
    fn grouped(&self) -> bool {
        self.context.plan.borrow().transactional_consistency
    }

    fn advance(&self, from: u64, to: u64, as_of: Option<Timestamp>) -> Advance {
        Advance { incarnation: self.incarnation, from, to, as_of, plan_revision: self.context.plan.borrow().revision }
    }

    /// The columns that the table has at a record. Another worker may have brought it further than this one has read the log.
    async fn schema_after(&self, record: u64) -> Result<TableSchema, Error> {
        let mut states = self.context.journal.subscribe();
        let state = states.wait_for(|state| state.number >= record).await.map_err(|_| Error::Internal("the log ended".to_owned()))?;
        let table = state.tables.get(&self.id).filter(|table| table.incarnation == self.table.incarnation);
        Ok(table.unwrap_or(self.table).schema_after(record))
    }

    fn member(&self, at: u64, schema: TableSchema) -> Member {
        Member { uid: self.table.uid.clone(), target: self.target.clone(), schema, incarnation: self.incarnation, id: self.id, at }
    }

    /// What the records after `after` hold for this table: up to `newest`, or to the record that fills the batch.
    async fn gather(&self, after: u64, newest: u64) -> Result<(Batch, Share), Error> {
        let place = Place { table: self.id, incarnation: self.table.incarnation, after };
        let mut batch = batch::gather(self.context, &[place], newest, after).await?;
        let share = batch.tables.pop().unwrap_or_default();
        Ok((batch, share))
    }

    /// Brings the table from nothing, or from wherever it was left, to exact and in place. Returns the record it is at.
    async fn snapshot(&self, mut at: u64) -> Result<u64, Error> {
        let Some(plan) = &self.table.plan else { return Err(Error::Internal("a table without a chunk plan".to_owned())) };
        // Until it is exact it has the columns with which it joined.
        let joined = self.table.joined();
        let schema = &joined.schema;
        let snapshot = Snapshot { context: self.context, id: self.id, table: &joined, plan };
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
            let (batch, share) = self.gather(at, passed.filter(|passed| at < *passed).unwrap_or(exact)).await?;
            let steps = batch::steps_at_hand(self.context, schema, &share.entries).await?;
            let advance = self.advance(at, batch.upto, batch.as_of);
            let rows = self.context.setup.target.catch_up(&self.target, schema, advance, steps).await?;
            self.context.setup.metrics.applied(&self.target.source, Way::Changes, rows, share.bytes);
            at = batch.upto;
        }
        let record = self.context.journal.record(exact).await?;
        let advance = self.advance(at, at, record.time);
        self.context.setup.target.finish_snapshot(&self.target, schema, advance).await?;
        self.report_exact(&record);
        Ok(at)
    }

    /// Takes over the table that stands in the target, and applies changes to it where it stands, whole rows and what repairs bring,
    /// until the capture says that it is exact. Returns the record it is at.
    async fn adopt(&self, progress: Option<&Progress>) -> Result<u64, Error> {
        let target = &self.context.setup.target;
        // It was compared when it had begun: a table that has yet to begin is another, of which nobody compared a row.
        if self.is_compared() && progress.is_none_or(|progress| progress.incarnation < self.incarnation) {
            let what = format!("table {} was adopted, and the target knows nothing of it: it was restored to before", self.target.name);
            return Err(target::Error::TargetInconsistent(what).into());
        }
        // Until it is exact it has the columns with which it joined.
        let schema = &self.table.joined().schema;
        self.context.board.table_works(&self.table.uid, TablePhase::Snapshotting);
        self.context.board.table(&self.table.uid, |report| report.waiting = Some(adopting()));
        let mut at = target.adopt(&self.target, schema, self.incarnation).await?;
        let mut seen = at;
        let mut states = self.context.journal.subscribe();
        loop {
            let (newest, exact) = {
                let state = states.borrow_and_update();
                let table = state.tables.get(&self.id).filter(|table| table.incarnation == self.table.incarnation);
                let exact = table.and_then(|table| table.exact);
                (exact.unwrap_or(state.number), exact)
            };
            if newest > seen {
                let (batch, share) = self.gather(seen, newest).await?;
                if !share.entries.is_empty() || batch.upto - at >= IDLE_RECORDS {
                    let steps = batch::steps_at_hand(self.context, schema, &share.entries).await?;
                    let advance = self.advance(at, batch.upto, batch.as_of);
                    let rows = target.apply_adopting(&self.target, schema, advance, steps).await?;
                    self.context.setup.metrics.applied(&self.target.source, Way::Changes, rows, share.bytes);
                    at = batch.upto;
                    self.context.board.table(&self.table.uid, |report| {
                        report.rows += rows;
                        report.bytes += share.bytes;
                        report.last_processed_time = Some(Timestamp::now());
                    });
                }
                seen = batch.upto;
            } else if let Some(exact) = exact {
                let record = self.context.journal.record(exact).await?;
                target.finish_adoption(&self.target, self.advance(at, seen, record.time)).await?;
                self.report_exact(&record);
                return Ok(seen);
            } else {
                states.changed().await.map_err(|_| Error::Internal("the log ended".to_owned()))?;
            }
        }
    }

    /// Whether the log says of the adopted table that it was compared and repaired.
    fn is_compared(&self) -> bool {
        let state = self.context.journal.state();
        let table = state.tables.get(&self.id).filter(|table| table.incarnation == self.table.incarnation);
        table.is_some_and(|table| table.passed.is_some() || table.exact.is_some())
    }

    /// The table is exact at this record.
    fn report_exact(&self, record: &Record) {
        self.context.board.table(&self.table.uid, |report| {
            report.as_of = record.time.or(report.as_of);
            report.position = Some(record.to.to_string());
            report.last_processed_time = Some(Timestamp::now());
        });
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
            let before = report.snapshot.as_ref();
            let start_time = before.and_then(|snapshot| snapshot.start_time).or(Some(began));
            let came_on = done as i64 > before.map_or(0, |snapshot| snapshot.chunks_done);
            let came_on_before = before.and_then(|snapshot| snapshot.last_progress_time);
            let last_progress_time = if came_on { Some(Timestamp::now()) } else { came_on_before.max(Some(began)) };
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
                last_progress_time,
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
}

/// What is told of a table while it is adopted.
fn adopting() -> Fault {
    Fault {
        reason: "Adopting".to_owned(),
        message: "the table was there: changes flow into it, it is compared with the source, and rows that differ are repaired".to_owned(),
        remedy: "none needed: it replicates once no row differs; status.verification says what was found".to_owned(),
        heals: true,
    }
}

/// A table is at the end of a batch: `written`, if anything of it was the table's, are rows and the files' bytes.
pub fn advanced(context: &Context, uid: &str, table: &TargetTable, batch: &Batch, written: Option<(u64, u64)>) {
    if let Some((rows, bytes)) = written {
        context.setup.metrics.applied(&table.source, Way::Changes, rows, bytes);
    }
    context.board.table(uid, |report| {
        if batch.position.is_empty() {
            return;
        }
        // An error of another task of the same table has been overcome too.
        report.phase = TablePhase::Replicating;
        report.error = None;
        report.attempt = 0;
        report.next_attempt = None;
        report.as_of = batch.as_of.or(report.as_of);
        report.position = Some(batch.position.clone());
        if let Some((rows, bytes)) = written {
            report.rows += rows;
            report.bytes += bytes;
            report.last_processed_time = Some(Timestamp::now());
        }
    });
}
