//! Following the link's slot.
//!
//! A task of its own reads the socket and talks to the server, so that the server hears from us every few seconds however
//! long a batch is under way; the capture takes from it what arrived and makes cuts.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::atomic::Ordering,
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout_at},
};

use super::{
    Postgresql,
    assemble::Assembler,
    catalog, chunks, fetch,
    limits::{Kind, Permit},
    lsn::Lsn,
    pgoutput::{self, Message},
    replication::{self, Answers, Changes, Frame, Options},
    shape::{self, Shape},
    slot,
    spill::{Replay, Spill},
    wire::Wire,
};
use crate::{
    data::Position,
    postgresql::{
        Connected,
        errors::{self, Class},
    },
    protection::Protection,
    source::{Capture, CapturedTable, Cut, Error, Keep, Limits},
};

/// Time between two words to the server, well below its `wal_sender_timeout` (1 min).
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// Reads of the socket that may wait to be taken; each is about as large as the socket's buffer, or one message.
const WAITING_READS: usize = 8;
/// Tries to get a slot that its ended reader has not let go of yet.
const TAKE_OVER_TRIES: u32 = 20;

/// A stream of the slot's changes.
pub struct SlotCapture {
    source: Postgresql,
    arrived: mpsc::Receiver<Result<Vec<Frame>, Error>>,
    frames: VecDeque<Frame>,
    assembler: Assembler,
    /// Of transactions that arrive while they are open.
    spill: Spill,
    /// The open transaction whose messages arrive.
    streaming: Option<u32>,
    /// A transaction that committed after it had arrived; it is taken in before what came after its commit.
    replay: Option<(Replay, Ending)>,
    acknowledged: watch::Sender<Lsn>,
    /// A transaction, and the tables that were compared with the catalog since it became visible.
    compared: (Option<u32>, HashSet<u32>),
    /// By table: it was compared when all transactions before this one had ended.
    seen: HashMap<u32, u32>,
    pump: JoinHandle<()>,
    /// Its place among the source's sessions.
    _permit: Permit,
}

/// What ends a transaction that is taken in after its commit.
struct Ending {
    end: Lsn,
    time: i64,
}

impl Drop for SlotCapture {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

/// Starts to follow the slot.
pub async fn start(source: &Postgresql, from: Lsn, take_over: bool, keep: Keep) -> Result<SlotCapture, Error> {
    let name = &source.name;
    let permit = source.limits.permit(Kind::Stream).await;
    let session = source.session().await?;
    let mut tries = 0;
    // Only this time: what the server stumbles over is passed then.
    let streaming = !source.without_streaming.swap(false, Ordering::Relaxed);
    let options = Options { streaming, binary: false };
    let (changes, answers) = loop {
        let Some(slot) = slot::find(&session, name).await? else {
            return Err(Error::PositionLost(format!("replication slot {name} is gone")));
        };
        if let Some(why) = slot.lost {
            return Err(Error::PositionLost(format!("replication slot {name} {why}")));
        }
        // PostgreSQL would go on from where the slot is without a word.
        if let Some(confirmed) = slot.confirmed.filter(|&confirmed| confirmed > from && Protection::Continuity.holds()) {
            return Err(Error::PositionLost(format!("replication slot {name} starts at {confirmed}, after {from}")));
        }
        match slot.active_pid {
            Some(_) if take_over => slot::end_reader(&session, name).await?,
            Some(pid) => return Err(Error::SlotInUse(format!("process {pid} of the server reads from slot {name}"))),
            None => {}
        }
        let wire = Wire::connect(&source.database, &source.secrets, true).await?;
        match replication::start(wire, name, from, options, keep.values.clone()).await {
            Ok(both) => break both,
            Err(Error::SlotInUse(_)) if take_over && tries < TAKE_OVER_TRIES => {
                tries += 1;
                sleep(Duration::from_millis(100)).await;
            }
            Err(error) => return Err(error),
        }
    };
    let (acknowledged, acknowledgements) = watch::channel(from);
    let (sender, arrived) = mpsc::channel(WAITING_READS);
    let without_streaming = source.without_streaming.clone();
    let pump = tokio::spawn(async move {
        let (seen, asked) = (watch::Sender::new(from), Notify::new());
        let ended = tokio::select! {
            ended = read(changes, &sender, &seen, &asked) => ended,
            ended = answer(answers, acknowledgements, &seen, &asked) => ended,
        };
        if let Err(error) = ended {
            if streaming && matches!(error, Error::DecodingFailed(_)) {
                without_streaming.store(true, Ordering::Relaxed);
            }
            // Nobody listens any more if this fails.
            let _ = sender.send(Err(error)).await;
        }
    });
    Ok(SlotCapture {
        source: source.clone(),
        arrived,
        frames: VecDeque::new(),
        assembler: Assembler::new(from),
        spill: Spill::new(keep.scratch),
        streaming: None,
        replay: None,
        acknowledged,
        compared: (None, HashSet::new()),
        seen: HashMap::new(),
        pump,
        _permit: permit,
    })
}

/// Moves what arrives to the capture, until it is gone. `seen`: how far the server has read its log for us; `asked`: it wants to
/// hear from us.
async fn read(
    mut changes: Changes,
    sender: &mpsc::Sender<Result<Vec<Frame>, Error>>,
    seen: &watch::Sender<Lsn>,
    asked: &Notify,
) -> Result<(), Error> {
    loop {
        let frames = changes.frames().await?;
        for frame in &frames {
            if let Frame::Keepalive { end, reply, .. } = frame {
                seen.send_modify(|seen| *seen = (*seen).max(*end));
                if *reply {
                    asked.notify_one();
                }
            }
        }
        if sender.send(Ok(frames)).await.is_err() {
            return Ok(());
        }
    }
}

/// Keeps the server informed, until the capture is gone.
async fn answer(
    mut answers: Answers,
    mut acknowledgements: watch::Receiver<Lsn>,
    seen: &watch::Sender<Lsn>,
    asked: &Notify,
) -> Result<(), Error> {
    let mut ticks = interval(STATUS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            changed = acknowledgements.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
            }
            _ = ticks.tick() => {}
            () = asked.notified() => {}
        }
        let (seen, flushed) = (*seen.borrow(), *acknowledgements.borrow_and_update());
        answers.send_status(seen, flushed).await?;
    }
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
        self.compare_tables_of(relation).await
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
            self.assembler.gone(*table);
        }
        for (table, shape) in &shapes {
            if let Some(empty) = self.empty_parts(&session, shape).await? {
                self.assembler.compare(*table, shape, read_at, &empty)?;
                self.seen.insert(*table, all_before);
            } else {
                self.compared.1.remove(table);
            }
        }
        session.batch_execute("COMMIT").await?;
        Ok(())
    }

    /// The partitions without a row among those that are new. None: somebody holds a lock on one, and the table has to wait; its
    /// other changes do not.
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
                Some(due) => match timeout_at(due, self.arrived.recv()).await {
                    Ok(arrived) => arrived,
                    Err(_) => return self.assembler.cut(),
                },
                None => self.arrived.recv().await,
            };
            self.frames = arrived.ok_or_else(|| Error::SourceUnreachable("the stream of changes has ended".to_owned()))??.into();
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
        // Never back: the server would not follow, and a lower number would only hide that somebody erred.
        self.acknowledged.send_if_modified(|acknowledged| {
            let forward = position > *acknowledged;
            *acknowledged = position.max(*acknowledged);
            forward
        });
        Ok(())
    }
}
