//! Capture: one worker's reign over the log. Takes a term, reads cuts from the source, writes their files, and commits them
//! as records; the tables' joining, leaving and becoming exact go into the same records.
//!
//! The order of a commit (DESIGN 5.2): files, then the record (the commit point), then the acknowledgement to the source.

use std::{
    collections::{
        BTreeMap, HashMap,
        hash_map::Entry::{Occupied, Vacant},
    },
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arrow::array::RecordBatch;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    Context,
    error::Error,
    file,
    fill::Filling,
    join, keys,
    metrics::Way,
    owner,
    pending::Pending,
    repair::{Read, Repair},
    scratch::ZoneScratch,
    state::{RunState, TableState},
    sweep, verify,
};
use crate::{
    api::{
        fault::{Explain, Fault},
        link_connection::{AdditiveChange, BreakingChange},
        report::PositionTime,
    },
    data::{Beside, Identity, Position, TableName, TableSchema},
    failpoint::{self, Point},
    landing::{
        layout,
        record::{DataFile, Entry, Event, RECORD_FORMAT, Record, TableData},
    },
    protection::Protection,
    source::{self, Capture, CapturedTable, Cut, Keep, Limits, Segment},
};

/// A batch ends with the transaction that makes it this large; of a larger one, files are written at every so many bytes.
const BATCH_BYTES: usize = 32 * 1024 * 1024;
/// Longest wait for a change before the loop looks at its orders.
const IDLE: Duration = Duration::from_millis(200);
/// An idle link commits an empty record this often: its proof of life, and what lets the source drop its log.
const PROOF_OF_LIFE: Duration = Duration::from_mins(1);
/// Who has not committed for so long may have slept while others went on, and their records were swept since. Far below the
/// shortest retention.
const LONG_PAUSE: Duration = Duration::from_mins(5);
/// So many records of the capture before may come between our checks and our term; then the checks are made anew.
const TERM_TRIES: u64 = 100;
/// While a table waits to become exact, the source's log is moved on this often.
const NUDGE_EVERY: Duration = Duration::from_secs(1);
/// Files written at once.
const PUTS_AT_ONCE: usize = 8;

/// What the tables' side asks of the capture.
pub enum Order {
    /// Commit an event, and say in which record. The number of a joining table is set at the commit.
    Commit(Box<Event>, oneshot::Sender<u64>),
    /// All chunks of a table were read, the last of them as of `read_at`; or it is adopted, and was compared and repaired.
    ChunksRead {
        /// The table.
        table: u32,
        /// Its incarnation.
        incarnation: u64,
        /// The largest position v_i.
        read_at: Position,
    },
    /// Say in which record, or before, all is that the source committed up to this position.
    Passed(Position, oneshot::Sender<u64>),
    /// From the answer on, take note of changes of the keys that are to be repaired. One watch at a time: a new one ends the
    /// one before.
    Watch(Box<Repair>, oneshot::Sender<()>),
    /// Commit what was read for the keys that are watched; say how many were. No answer: the table is not what it was.
    Repair(Box<Read>, oneshot::Sender<u64>),
}

/// One reign: until the log is lost to another, the source fails, or the future is dropped.
/// Its term is in `own` once it has one.
pub async fn reign(context: &Context, own: &AtomicU64) -> Result<(), Error> {
    let Context { setup, journal, board, .. } = context;
    let began = Timestamp::now();
    journal.catch_up().await?;
    journal.is_newest().await?;
    owner::check(context).await?;
    let identity = setup.source.identity().await?;
    let state = journal.state();
    let checked_at = state.number;
    if let Some(expected) = state.source.as_ref().filter(|expected| expected.system != identity.system) {
        return Err(Error::SourceIdentityChanged { expected: expected.system.clone(), found: identity.system });
    }
    if !state.to.0.is_empty() && Protection::Continuity.holds() {
        setup.source.check_continuity(&state.to, state.source.as_ref().unwrap_or(&identity)).await?;
    }

    // Before the first record says that the log goes on for another LinkConnection: who dies in between does it again.
    let uid = context.plan.borrow().link.uid.clone();
    if state.owner != uid && !state.to.0.is_empty() {
        setup.source.take_over(&uid).await?;
    }

    let mut reign = loop {
        let state = journal.state();
        let revision = context.plan.borrow().revision;
        if revision < state.plan_revision {
            return Err(Error::PlanOutdated { ours: revision, newest: state.plan_revision });
        }
        let (number, to, time) = (state.number, state.to.clone(), state.time);
        let identity = identity.clone();
        let (last_record, last_commit) = (Instant::now(), began);
        let mut reign = Reign { context, identity, number, term: number + 1, to, time, last_record, last_commit, batch: None };
        match reign.commit(vec![], vec![]).await {
            Ok(_) => break reign,
            // A capture that is still at work was faster by one. It must not win each time: the next number is known now.
            Err(Error::RecordTaken { .. }) if journal.state().number - checked_at < TERM_TRIES => {}
            Err(error) => return Err(error),
        }
    };
    own.store(reign.term, Ordering::Relaxed);
    setup.metrics.captures();
    if reign.to.0.is_empty() {
        // The source cannot begin while older transactions are open; who they are is for the user to see.
        setup.source.settle(&|whom| join::show_waiting(context, whom.as_deref())).await?;
        // It may have waited long: a slot that a successor made meanwhile must stay.
        journal.catch_up().await?;
        journal.is_newest().await?;
        let newest = journal.state();
        if newest.number != reign.number {
            return Err(Error::TermLost { ours: reign.term, theirs: newest.term });
        }
        reign.to = setup.source.begin_run(&uid).await?;
        reign.commit(vec![], vec![]).await?;
    }
    tracing::info!(run = state.run, term = reign.term, from = %reign.to, "capture begins");
    board.link(|report| report.term = Some(reign.term));
    if let Err(error) = sweep::streams(journal.log(), reign.term).await {
        tracing::warn!(%error, "what former captures kept of open transactions stays in the landing zone");
    }
    let scratch = Arc::new(ZoneScratch::new(setup.zone.clone(), state.run, reign.term));
    let keep = Keep { scratch, values: context.values_of_changes(reign.term) };
    let capture = setup.source.capture(&reign.to, true, captured_tables(&journal.state()), keep).await?;

    let (orders, inbox) = mpsc::channel(64);
    tokio::select! {
        result = reign.run(capture, inbox) => result,
        result = join::manage(context, orders.clone()) => result,
        result = join::watch_stream(context, orders.clone()) => result,
        result = join::watch_chunks(context, orders.clone()) => result,
        result = verify::manage(context, orders) => result,
        result = sweep::keep_sweeping(context) => result,
    }
}

/// What one reign keeps between two commits.
struct Reign<'a> {
    context: &'a Context,
    identity: Identity,
    /// The newest record that this reign knows to be its own or its beginning. The next is numbered after it, whatever others
    /// wrote: then two captures meet at the same number, and one of them loses.
    number: u64,
    term: u64,
    to: Position,
    time: Option<Timestamp>,
    last_record: Instant,
    /// The same by the clock, which goes on while a machine sleeps.
    last_commit: Timestamp,
    /// The plan's batch, and where it ends.
    batch: Option<(Timestamp, Position)>,
}

/// What the next record holds for each table, by number.
type Batch = BTreeMap<u32, TableData>;

impl Reign<'_> {
    async fn run(mut self, mut capture: Box<dyn Capture>, mut inbox: mpsc::Receiver<Order>) -> Result<(), Error> {
        let began = Timestamp::now();
        let mut pending = Pending { barrier: self.context.setup.source.heartbeat().await?, ..Pending::default() };
        let mut last_cut = Instant::now();
        let mut last_nudge = Instant::now();
        let mut compared: Option<Instant> = None;
        let mut batch = Batch::new();
        let mut boundary = true;
        self.follow(&mut *capture);
        // Not before the capture stands: what it needs was made, and the checks of the source hold.
        self.context.board.check("CapturePrepared", None);
        self.context.board.link(|report| report.position_lost = None);
        self.report();
        loop {
            // Only between two batches: a watch that began within a transaction would have missed the first part of it.
            while let Some(order) = if boundary { inbox.try_recv().ok() } else { None } {
                pending.take(order);
            }
            self.begin_batch().await?;
            if compared.is_none_or(|at| at.elapsed() > self.context.setup.compare_every) {
                compared = Some(Instant::now());
                capture.compare().await?;
            }
            let flush_interval = Duration::from_millis(self.context.plan.borrow().flush_interval_ms);
            let idle = if pending.events.is_empty() { IDLE } else { Duration::ZERO };
            let cut = capture.next_cut(Limits { not_before: last_cut + flush_interval, idle, bytes: BATCH_BYTES }).await?;
            pending.observe(&cut, &self.context.journal.state())?;
            boundary = cut.whole;
            let read_at = Instant::now();
            if !cut.whole {
                self.write(cut, &mut batch, &mut pending).await?;
                continue;
            }
            self.to = cut.to.clone().max(self.to);
            // Until the source tells a time: what it had committed when the reign began is passed.
            self.time = cut.time.or(self.time).or((self.to >= pending.barrier).then_some(began));
            self.write(cut, &mut batch, &mut pending).await?;
            if let Some(rows) = pending.repair(&self.to, &self.context.journal.state())? {
                self.write(rows, &mut batch, &mut pending).await?;
            }
            let has_data = !batch.is_empty();
            if has_data {
                last_cut = Instant::now();
            }
            pending.finish(&self.to, &self.context.journal.state());
            if has_data || !pending.events.is_empty() || self.last_record.elapsed() > PROOF_OF_LIFE {
                if !has_data && pending.events.is_empty() {
                    self.context.setup.source.heartbeat().await?;
                }
                let changes_tables = !pending.events.is_empty();
                let data = std::mem::take(&mut batch).into_values().collect();
                let number = self.commit(std::mem::take(&mut pending.events), data).await?;
                self.context.setup.metrics.committed(has_data.then(|| read_at.elapsed()));
                for reply in pending.replies.drain(..) {
                    // Whoever asked may have gone.
                    let _ = reply.send(number);
                }
                if let Some((keys, reply)) = pending.repaired.take() {
                    let _ = reply.send(keys);
                }
                failpoint::around(Point::Acknowledge, capture.acknowledge(&self.to)).await?;
                if changes_tables {
                    self.follow(&mut *capture);
                }
                self.report();
            } else if !pending.unfinished.is_empty() && last_nudge.elapsed() > NUDGE_EVERY {
                last_nudge = Instant::now();
                self.context.setup.source.heartbeat().await?;
            }
            for (_, reply) in pending.passing.extract_if(.., |(position, _)| *position <= self.to) {
                let _ = reply.send(self.number);
            }
            let read = self.batch.as_ref().filter(|(_, end)| *end <= self.to).map(|(batch, _)| *batch);
            self.context.board.link(|report| (report.read_to, report.batch_read) = (Some(self.to.clone()), read));
        }
    }

    /// Fixes the end of a batch that the plan begins: where the source is now.
    async fn begin_batch(&mut self) -> Result<(), Error> {
        let planned = self.context.plan.borrow().batch;
        if self.batch.as_ref().map(|(batch, _)| *batch) != planned {
            self.batch = match planned {
                Some(batch) => Some((batch, self.context.setup.source.heartbeat().await?)),
                None => None,
            };
        }
        Ok(())
    }

    /// Tells the capture which tables to deliver from here on.
    fn follow(&self, capture: &mut dyn Capture) {
        capture.follow(captured_tables(&self.context.journal.state()));
    }

    fn report(&self) {
        let captured = PositionTime { value: self.to.to_string(), time: self.time };
        self.context.board.link(|report| {
            report.position.get_or_insert_default().captured = Some(captured);
            let source = report.source.get_or_insert_default();
            source.version.clone_from(&self.identity.version);
            source.identity.clone_from(&self.identity.system);
        });
    }

    /// Writes a cut's files and adds them to the batch, and an event for each table that broke.
    async fn write(&self, cut: Cut, batch: &mut Batch, pending: &mut Pending) -> Result<(), Error> {
        let state = self.context.journal.state();
        for (table, error) in cut.broken {
            if let Some(known) = state.tables.get(&table) {
                pending.events.push(Event::Fail { table, incarnation: known.incarnation, fault: self.verdict(&error, known) });
            }
        }
        let mut files = Vec::new();
        for table in cut.tables {
            let Some(known) = state.tables.get(&table.id).filter(|known| !pending.fails(table.id, known.incarnation)) else { continue };
            let entries = &mut batch
                .entry(table.id)
                .or_insert_with(|| TableData { table: table.id, incarnation: known.incarnation, entries: vec![] })
                .entries;
            for segment in table.segments {
                match segment {
                    Segment::Truncate => {
                        if let Some(filling) = pending.fillings.get_mut(&(table.id, known.incarnation)) {
                            filling.truncate();
                        }
                        entries.push(Entry::Truncate);
                    }
                    Segment::Version(version) => {
                        if let Err(fault) = self.accept(known, &version.schema) {
                            pending.events.push(Event::Fail { table: table.id, incarnation: known.incarnation, fault });
                            break;
                        }
                        entries.push(Entry::Version(version));
                    }
                    Segment::Rows(rows) => {
                        let filled = if known.exact.is_none() && Protection::Fills.holds() {
                            self.filled(table.id, known, rows, &cut.transactions, pending).await
                        } else {
                            Ok(rows)
                        };
                        let rows = match filled {
                            Ok(rows) => rows,
                            // The table changed before its changes were read: it starts over, and the others go on.
                            Err(Error::Source(error)) if error.is_of_table() => {
                                let fault = Fault { heals: true, ..error.fault() };
                                pending.events.push(Event::Fail { table: table.id, incarnation: known.incarnation, fault });
                                break;
                            }
                            Err(error) => return Err(error),
                        };
                        let path = layout::data(state.run, table.id, known.incarnation, self.term);
                        files.push((table.id, entries.len(), path.clone(), rows));
                        // Its size is known once it is written.
                        entries.push(Entry::File(DataFile { path, bytes: 0, memory: 0, rows: 0, large: vec![] }));
                    }
                }
            }
        }
        let zone = &self.context.setup.zone;
        let written: Vec<_> = stream::iter(files)
            .map(|(table, entry, path, rows)| async move {
                let (count, memory) = (rows.num_rows() as u64, rows.get_array_memory_size() as u64);
                let large = large_values(&rows)?;
                let bytes = tokio::task::spawn_blocking(move || file::encode(&rows)).await??;
                let size = bytes.len() as u64;
                failpoint::around(Point::DataPut, zone.put(&path, bytes)).await?;
                Ok::<_, Error>((table, entry, DataFile { path, bytes: size, memory, rows: count, large }))
            })
            .buffer_unordered(PUTS_AT_ONCE)
            .try_collect()
            .await?;
        for (table, entry, file) in written {
            if let Some(known) = state.tables.get(&table) {
                self.context.setup.metrics.read(&known.schema.name, Way::Changes, file.rows, file.bytes);
            }
            if let Some(place) = batch.get_mut(&table).and_then(|table| table.entries.get_mut(entry)) {
                *place = Entry::File(file);
            }
        }
        Ok(())
    }

    /// Whether the target's table can become as the source's is now.
    fn accept(&self, table: &TableState, next: &TableSchema) -> Result<(), Fault> {
        let name = &next.name;
        let here = |schema: &TableSchema| schema.columns.iter().filter(|column| !column.dropped).count();
        let added: Vec<&str> = next.columns.iter().skip(table.schema.columns.len()).map(|column| column.name.as_str()).collect();
        if added.is_empty() && here(next) == here(&table.schema) {
            return Ok(());
        }
        let changed = |what: String| source::Error::SchemaChanged(format!("{name} {what}"));
        if table.exact.is_none() {
            return Err(self.verdict(&changed("had columns added or dropped while it was loaded".to_owned()), table));
        }
        if !added.is_empty() && self.context.plan.borrow().schema_change.additive == AdditiveChange::Fail {
            return Err(changed(format!("had columns added: {}", added.join(", "))).fault());
        }
        tracing::info!(table = %name, columns = next.columns.len(), added = added.join(", "), "table has another shape");
        Ok(())
    }

    /// What to do about a table that broke: to load it anew heals what the plan lets heal, and a load that is not complete.
    fn verdict(&self, error: &source::Error, table: &TableState) -> Fault {
        let reseed = self.context.plan.borrow().schema_change.breaking == BreakingChange::Reseed;
        match error {
            source::Error::SchemaChanged(_) if reseed || table.exact.is_none() => {
                Fault { heals: true, remedy: "none needed: the table is loaded anew".to_owned(), ..error.fault() }
            }
            _ => error.fault(),
        }
    }

    /// Fills in what the changes of a table that is not exact yet did not carry.
    async fn filled(
        &self,
        id: u32,
        table: &TableState,
        rows: RecordBatch,
        transactions: &[u32],
        pending: &mut Pending,
    ) -> Result<RecordBatch, Error> {
        let filling = match pending.fillings.entry((id, table.incarnation)) {
            Occupied(known) => known.into_mut(),
            Vacant(vacant) => vacant.insert(Filling::new(table.schema.clone())?),
        };
        let Some(lacking) = filling.lacking(&rows)? else { return Ok(filling.fill(rows, None)?) };
        let values = self.context.values_of_changes(self.term);
        let found = self.context.setup.source.fetch(&table.schema, &lacking.keys, transactions, values).await?;
        Ok(filling.fill(rows, Some((&lacking, &found.rows, &found.read_at)))?)
    }

    /// The commit point: creates the next record. Returns its number.
    async fn commit(&mut self, events: Vec<Event>, data: Vec<TableData>) -> Result<u64, Error> {
        if Timestamp::now().duration_since(self.last_commit).unsigned_abs() > LONG_PAUSE {
            self.context.journal.is_newest().await?;
        }
        let state = self.context.journal.state();
        let number = self.number + 1;
        let record = Record {
            format_version: RECORD_FORMAT,
            run: state.run,
            number,
            term: self.term,
            token: uuid::Uuid::new_v4().simple().to_string(),
            plan_revision: self.context.plan.borrow().revision.max(state.plan_revision),
            owner: self.context.plan.borrow().link.uid.clone(),
            source: self.identity.clone(),
            to: self.to.clone(),
            time: self.time,
            created: Timestamp::now(),
            events: numbered(&state, events),
            data,
        };
        self.context.journal.append(record).await?;
        self.number = number;
        self.last_record = Instant::now();
        self.last_commit = Timestamp::now();
        Ok(number)
    }
}

fn captured_tables(state: &RunState) -> Vec<CapturedTable> {
    let followed = state.tables.iter().filter(|(_, table)| table.followed());
    followed.map(|(id, table)| CapturedTable { id: *id, version: table.version(), from: table.from.clone() }).collect()
}

/// Paths of the values that the rows name.
fn large_values(rows: &RecordBatch) -> Result<Vec<String>, Error> {
    let besides = keys::cells(rows)?.into_values().flat_map(|cell| cell.beside);
    let large = besides.filter_map(|(_, value)| if let Beside::Large(value) = value { Some(value) } else { None });
    Ok(large.flat_map(|value| value.part_paths().collect::<Vec<_>>()).collect())
}

/// Gives joining tables their numbers, each its own.
fn numbered(state: &RunState, mut events: Vec<Event>) -> Vec<Event> {
    let mut next = state.tables.keys().next_back().map_or(1, |last| last + 1);
    let mut given: HashMap<TableName, u32> = HashMap::new();
    for event in &mut events {
        if let Event::Join { table, schema, .. } = event {
            *table = *given.entry(schema.name.clone()).or_insert_with(|| {
                state.table(&schema.name).map_or_else(
                    || {
                        next += 1;
                        next - 1
                    },
                    |(known, _)| known,
                )
            });
        }
    }
    events
}
