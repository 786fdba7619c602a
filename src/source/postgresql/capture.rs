//! Following the link's slot: the capture takes from its stream what arrived and makes cuts.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::atomic::Ordering,
};

use async_trait::async_trait;
use tokio::time::{Instant, timeout_at};

use super::{
    Postgresql,
    assemble::Assembler,
    catalog, chunks, fetch,
    lsn::Lsn,
    pgoutput::{self, Message},
    replication::Frame,
    shape::{self, Shape},
    spill::{Replay, Spill},
    stream::{self, Stream},
};
use crate::{
    data::Position,
    postgresql::{
        Connected,
        errors::{self, Class},
    },
    protection::Protection,
    source::{
        Capture, CapturedTable, Cut, Error, Keep, Limits,
        limits::{Kind, Permit},
    },
};

/// A stream of the slot's changes.
pub struct SlotCapture {
    source: Postgresql,
    stream: Stream,
    frames: VecDeque<Frame>,
    assembler: Assembler,
    /// Of transactions that arrive while they are open.
    spill: Spill,
    /// The open transaction whose messages arrive.
    streaming: Option<u32>,
    /// A transaction that committed after it had arrived; it is taken in before what came after its commit.
    replay: Option<(Replay, Ending)>,
    keep: Keep,
    /// A transaction, and the tables that were compared with the catalog since it became visible.
    compared: (Option<u32>, HashSet<u32>),
    /// By table: it was compared when all transactions before this one had ended.
    seen: HashMap<u32, u32>,
    /// Its place among the source's sessions.
    _permit: Permit,
}

/// What ends a transaction that is taken in after its commit.
struct Ending {
    end: Lsn,
    time: i64,
}

/// Starts to follow the slot.
pub async fn start(source: &Postgresql, from: Lsn, take_over: bool, tables: Vec<CapturedTable>, keep: Keep) -> Result<SlotCapture, Error> {
    let permit = source.limits.permit(Kind::Stream).await;
    let mut assembler = Assembler::new(from);
    assembler.follow(tables);
    let binary = !source.in_text.fetch_or(assembler.needs_text(), Ordering::Relaxed) && !assembler.needs_text();
    let stream = stream::start(source, from, take_over, binary, keep.values.clone()).await?;
    Ok(SlotCapture {
        source: source.clone(),
        stream,
        frames: VecDeque::new(),
        assembler,
        spill: Spill::new(keep.scratch.clone()),
        keep,
        streaming: None,
        replay: None,
        compared: (None, HashSet::new()),
        seen: HashMap::new(),
        _permit: permit,
    })
}

impl SlotCapture {
    /// Takes in the next message that is there. False: there is none.
    async fn advance(&mut self) -> Result<bool, Error> {
        if let Some((replay, ending)) = &mut self.replay {
            if let Some(message) = replay.next().await? {
                self.message(&message).await?;
            } else {
                let Ending { end, time } = *ending;
                self.replay = None;
                self.assembler.message(Message::Commit { end, time })?;
            }
            return Ok(true);
        }
        match self.frames.pop_front() {
            None => return Ok(false),
            Some(Frame::Keepalive { end, time, .. }) => self.assembler.keepalive(end, time),
            Some(Frame::Data(data)) => match self.streaming {
                None => self.message(&data).await?,
                Some(id) => match pgoutput::streamed(&data)? {
                    Some(streamed) => self.spill.keep(id, &streamed).await?,
                    None => self.streaming = None,
                },
            },
        }
        Ok(true)
    }

    async fn message(&mut self, data: &[u8]) -> Result<(), Error> {
        let message = pgoutput::parse(data)?;
        match message {
            Message::StreamStart { id } => {
                self.streaming = Some(id);
                return Ok(());
            }
            Message::StreamAbort { id, sub } => {
                self.spill.abort(id, sub).await;
                return Ok(());
            }
            Message::StreamCommit { id, commit, end, time } => {
                self.replay = Some((self.spill.commit(id), Ending { end, time }));
                return self.assembler.message(Message::Begin { commit, id });
            }
            _ => {}
        }
        let Message::Relation(relation) = &message else { return self.assembler.message(message) };
        let (relation, unknown) = (relation.oid, self.assembler.unknown_types(relation));
        if !unknown.is_empty() {
            let session = self.source.session().await?;
            self.assembler.learn(catalog::types(&session, &unknown).await?);
        }
        self.assembler.message(message)?;
        self.compare_tables_of(relation).await?;
        if self.stream.binary && self.assembler.needs_text() {
            self.source.in_text.store(true, Ordering::Relaxed);
            return Err(Error::DecodingFailed("a table got a column whose values have to come as text, and so have all".to_owned()));
        }
        Ok(())
    }

    /// Between cuts: where a table has values that can only be had as text, the stream begins again after the cut before. What was
    /// kept of open transactions comes again.
    async fn go_on_in_text(&mut self) -> Result<(), Error> {
        if !self.stream.binary || !self.assembler.needs_text() || self.assembler.is_open() {
            return Ok(());
        }
        self.source.in_text.store(true, Ordering::Relaxed);
        self.stream = stream::start(&self.source, self.assembler.position(), true, false, self.keep.values.clone()).await?;
        self.frames.clear();
        self.spill.clear().await;
        self.streaming = None;
        Ok(())
    }

    /// The stream described a relation, for it may have changed: compares the tables that it holds rows of with the catalog.
    async fn compare_tables_of(&mut self, relation: u32) -> Result<(), Error> {
        let tables = match self.assembler.table_of(relation) {
            Some(table) => vec![table],
            None => match self.assembler.partitioned() {
                none if none.is_empty() => return Ok(()),
                partitioned => {
                    let session = self.source.session().await?;
                    self.wait_visible(&session).await?;
                    shape::roots_of(&session, relation, &partitioned).await?
                }
            },
        };
        let transaction = self.assembler.transaction();
        if self.compared.0 != transaction {
            self.compared = (transaction, HashSet::new());
        }
        // What the catalog showed once the transaction was visible is all that the transaction did.
        let known = |table: &u32| self.seen.get(table).zip(transaction).is_some_and(|(seen, id)| precedes(id, *seen));
        let tables: Vec<u32> = tables.into_iter().filter(|table| !known(table)).collect();
        let due: Vec<u32> = tables.into_iter().filter(|table| self.compared.1.insert(*table)).collect();
        self.compare_with_catalog(&due).await
    }

    /// The catalog must be at least as new as what the stream brings. Whatever changed a table in an earlier transaction is
    /// visible: it held a lock that this one had to wait for.
    async fn wait_visible(&self, session: &Connected) -> Result<(), Error> {
        match self.assembler.transaction() {
            Some(transaction) => fetch::wait_visible(session, &[transaction]).await,
            None => Ok(()),
        }
    }

    async fn compare_with_catalog(&mut self, tables: &[u32]) -> Result<(), Error> {
        if tables.is_empty() || !Protection::Catalog.holds() {
            return Ok(());
        }
        let session = self.source.session().await?;
        self.wait_visible(&session).await?;
        session.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL lock_timeout = '500ms'").await?;
        let shapes = shape::read(&session, tables).await?;
        let all_before = shape::all_before(&session).await?;
        let read_at = chunks::insert_lsn(&session).await?;
        for table in tables.iter().filter(|table| !shapes.contains_key(table)) {
            // And so its publication does not have it.
            self.assembler.break_off(*table, Error::TableNotPublished);
        }
        for (table, shape) in &shapes {
            if let Some(empty) = self.empty_parts(&session, shape).await? {
                self.assembler.compare(*table, shape, read_at, &empty)?;
                self.seen.insert(*table, all_before);
            } else if self.assembler.is_open() {
                // What comes next may be in a shape that is not known: it must not be read by the one before.
                self.assembler.break_off(*table, Error::SourceTableLocked);
            }
        }
        session.batch_execute("COMMIT").await?;
        Ok(())
    }

    /// The partitions without a row among those that are new. None: somebody holds a lock on one, and nobody can say.
    async fn empty_parts(&self, session: &Connected, shape: &Shape) -> Result<Option<HashSet<u32>>, Error> {
        let mut empty = HashSet::new();
        for part in shape.parts.iter().filter(|part| !part.born && self.assembler.table_of(part.part.object_id).is_none()) {
            session.batch_execute("SAVEPOINT part").await?;
            match shape::is_empty(session, &part.name).await {
                Ok(true) => drop(empty.insert(part.part.object_id)),
                Ok(false) => {}
                Err(error) if errors::class(&error) == Class::Conflict => {
                    session.batch_execute("ROLLBACK TO part").await?;
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some(empty))
    }
}

/// Whether a transaction's id is before another's; ids have 32 bits and begin again.
fn precedes(id: u32, other: u32) -> bool {
    (id.wrapping_sub(other) as i32) < 0
}

#[async_trait]
impl Capture for SlotCapture {
    fn follow(&mut self, tables: Vec<CapturedTable>) {
        self.assembler.follow(tables);
    }

    async fn next_cut(&mut self, limits: Limits) -> Result<Cut, Error> {
        self.go_on_in_text().await?;
        let idle_at = Instant::now() + limits.idle;
        loop {
            while self.advance().await? {
                if self.assembler.is_open() {
                    if self.assembler.bytes() >= limits.bytes {
                        return self.assembler.part();
                    }
                    continue;
                }
                let now = Instant::now();
                let due = if self.assembler.has_changes() { limits.not_before } else { idle_at };
                if now >= due || self.assembler.bytes() >= limits.bytes {
                    return self.assembler.cut();
                }
            }
            let due = match (self.assembler.is_open(), self.assembler.has_changes()) {
                // Only at the end of a transaction.
                (true, _) => None,
                (false, true) => Some(limits.not_before),
                (false, false) => Some(idle_at),
            };
            let arrived = match due {
                Some(due) => match timeout_at(due, self.stream.next()).await {
                    Ok(arrived) => arrived,
                    Err(_) => return self.assembler.cut(),
                },
                None => self.stream.next().await,
            };
            self.frames = arrived?.into();
        }
    }

    async fn compare(&mut self) -> Result<(), Error> {
        if self.assembler.is_open() {
            return Ok(());
        }
        self.compare_with_catalog(&self.assembler.tables()).await
    }

    async fn acknowledge(&mut self, position: &Position) -> Result<(), Error> {
        let position = Lsn::from_position(position)?;
        self.stream.acknowledge(position);
        Ok(())
    }
}
