//! Following Change Tracking: a batch is one poll, all tables as of one version.
//!
//! A poll is a SNAPSHOT transaction. Its first statement asks for the version; what is read after it is as of that version, of all
//! tables: clean-up that runs meanwhile takes nothing away, and commits that come meanwhile belong to the next poll. Changes are net:
//! which keys changed since a version, and the rows as they are now. Nothing tells of changes that the server no longer has, so
//! each poll checks for each table that it still has all of them.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::time::{Instant, sleep};

use super::{
    Kind, SNAPSHOT, Session, SqlServer, catalog, evolve,
    kept::{self, State},
    position, rows, table_error, unexpected,
};
use crate::{
    api::database::CaptureMode,
    data::{Position, TableName, TableVersion},
    source::{Capture, CapturedTable, Cut, CutTable, Error, Limits, Segment},
    sqlserver::{Class, Failure, rows::Rows},
};

/// Pause between two looks at the version.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A poll that a change of a table broke off is tried so often.
const TRIES: u32 = 5;

/// A table that is followed.
struct Followed {
    version: TableVersion,
    from: Position,
    /// Its changes up to here were delivered.
    last: i64,
    /// As of when it was compared with the catalog.
    signature: Option<String>,
    broken: bool,
}

/// A stream of polls.
pub struct TrackingCapture {
    session: Session,
    /// Everything up to here was delivered.
    at: i64,
    tables: BTreeMap<u32, Followed>,
    poll: Option<Poll>,
    /// What a comparison found, for the next cut.
    found: Found,
}

/// What became of tables.
#[derive(Default)]
struct Found {
    versions: BTreeMap<u32, TableVersion>,
    broken: Vec<(u32, Error)>,
}

/// A poll under way: its transaction is open.
struct Poll {
    version: i64,
    time: Option<Timestamp>,
    /// What is to be read yet, the front of it under way if `open` is.
    left: VecDeque<(u32, Part)>,
    open: Option<Rows>,
    states: HashMap<u32, State>,
    /// A part of it was delivered: it cannot be begun anew.
    delivered: bool,
}

/// What is read of a table: deletes first, so that a key that another row has now is free.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Deletes,
    Upserts,
}

/// Starts to follow the tables.
pub async fn start(source: &SqlServer, from: &Position, tables: Vec<CapturedTable>) -> Result<TrackingCapture, Error> {
    let session = source.session_for(Kind::Stream).await?;
    let (at, found) = (position::version(from)?, Found::default());
    let mut capture = TrackingCapture { session, at, tables: BTreeMap::new(), poll: None, found };
    capture.follow(tables);
    Ok(capture)
}

impl TrackingCapture {
    /// The server's clock and version.
    async fn version(&mut self) -> Result<(Option<Timestamp>, i64), Error> {
        let row = self.session.query(&kept::version_query()).await?.pop().ok_or_else(|| unexpected("its version"))?;
        let version = row.number(0).ok_or_else(position::tracking_off)?;
        if version < self.at {
            return Err(Error::PositionLost(format!("the database is at version {version}, before {}, where the link left off", self.at)));
        }
        Ok((row.text(1).and_then(|time| time.parse().ok()), version))
    }

    /// A cut that holds nothing of a poll.
    fn quiet(&mut self, time: Option<Timestamp>) -> Cut {
        let mut tables = BTreeMap::new();
        let broken = self.take_found(&mut tables);
        Cut { whole: true, to: position::of_version(self.at), time, transactions: vec![], tables: cut_tables(tables), broken }
    }

    /// What was found of the tables, in front of their rows.
    fn take_found(&mut self, tables: &mut BTreeMap<u32, Vec<Segment>>) -> Vec<(u32, Error)> {
        let Found { versions, broken } = std::mem::take(&mut self.found);
        for (id, version) in versions {
            tables.entry(id).or_default().push(Segment::Version(Box::new(version)));
        }
        broken
    }

    fn break_off(&mut self, id: u32, error: Error) {
        self.found.versions.remove(&id);
        self.found.broken.push((id, error));
        if let Some(table) = self.tables.get_mut(&id) {
            table.broken = true;
        }
    }

    /// How the tables are.
    async fn states(&mut self) -> Result<HashMap<u32, State>, Error> {
        let ids: Vec<u32> = self.tables.values().filter(|table| !table.broken).map(|table| table.version.schema.object_id).collect();
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        Ok(self.session.query(&kept::state_query(&ids)).await?.iter().map(State::of).collect())
    }

    /// Compares tables whose definition is another one than when they were compared last.
    async fn compare_changed(&mut self, states: &HashMap<u32, State>) -> Result<(), Error> {
        let signature = |table: &Followed| states.get(&table.version.schema.object_id).map(|state| state.signature.clone());
        let changed: Vec<u32> = self
            .tables
            .iter()
            .filter(|(_, table)| !table.broken && (table.signature.is_none() || table.signature != signature(table)))
            .map(|(id, _)| *id)
            .collect();
        for id in changed {
            let Some(table) = self.tables.get(&id) else { continue };
            let (known, signature) = (table.version.clone(), signature(table));
            let now = catalog::describe(&mut self.session, CaptureMode::ChangeTracking, &known.schema.name).await;
            let next = match now {
                Ok(now) => evolve::evolve(CaptureMode::ChangeTracking, &known, &now)
                    .map_err(|what| Error::SchemaChanged(format!("{} {what}", known.schema.name))),
                Err(error) if error.is_of_table() && !matches!(error, Error::SourceError(_)) => Err(error),
                Err(error) => return Err(error),
            };
            match next {
                Ok(next) => {
                    if let Some(table) = self.tables.get_mut(&id) {
                        table.signature = signature;
                        if let Some(next) = next {
                            table.version = next.clone();
                            self.found.versions.insert(id, next);
                        }
                    }
                }
                Err(error) => self.break_off(id, error),
            }
        }
        Ok(())
    }

    /// Begins a poll: takes the version, looks at the tables.
    async fn begin(&mut self) -> Result<Poll, Error> {
        self.session.run(SNAPSHOT).await?;
        let (time, version) = self.version().await?;
        let states = self.states().await?;
        // A table that is gone, or cannot be followed, says so more exactly than that its changes are not there.
        self.compare_changed(&states).await?;
        let mut left = VecDeque::new();
        let mut expired = Vec::new();
        for (id, table) in self.tables.iter().filter(|(_, table)| !table.broken) {
            let Some(state) = states.get(&table.version.schema.object_id) else {
                expired.push((*id, Error::SourceTableMissing(table.version.schema.name.clone())));
                continue;
            };
            match kept::verdict(&table.version, table.last, state) {
                Ok(()) if table.last < version => left.extend([(*id, Part::Deletes), (*id, Part::Upserts)]),
                Ok(()) => {}
                Err(error) => expired.push((*id, error)),
            }
        }
        for (id, error) in expired {
            self.break_off(id, error);
        }
        Ok(Poll { version, time, left, open: None, states, delivered: false })
    }

    /// Reads the poll on, up to `bytes`; says whether it is complete.
    async fn read(&mut self, poll: &mut Poll, bytes: usize, tables: &mut BTreeMap<u32, Vec<Segment>>) -> Result<bool, Error> {
        let mut held = 0;
        while let Some((id, part)) = poll.left.front().copied() {
            if held >= bytes {
                return Ok(false);
            }
            let Some(table) = self.tables.get(&id).filter(|table| !table.broken) else {
                poll.left.pop_front();
                continue;
            };
            let schema = &table.version.schema;
            let failed = |failure: Failure| poll_error(&schema.name, failure);
            let rows = if let Some(rows) = &mut poll.open {
                rows
            } else {
                let (sql, rows) = match part {
                    Part::Deletes => (kept::deletes_query(schema, table.last), rows::of_keys(schema)),
                    Part::Upserts => (kept::upserts_query(schema, table.last), rows::of_changes(schema)),
                };
                self.session.open(&sql).await.map_err(failed)?;
                poll.open.insert(rows)
            };
            let ended = rows::fill(&mut self.session, rows, bytes - held).await.map_err(failed)?;
            held += rows.bytes();
            if !rows.is_empty() {
                let arrays = rows::take(schema, rows)?;
                let batch = match part {
                    Part::Deletes => rows::delete_batch(schema, &arrays)?,
                    Part::Upserts => rows::change_batch(schema, arrays)?,
                };
                tables.entry(id).or_default().push(Segment::Rows(batch));
            }
            if ended {
                self.session.close().await.map_err(failed)?;
                poll.open = None;
                poll.left.pop_front();
            }
        }
        // The catalog is not as of the snapshot: what it said in the beginning must have held to the end.
        let before: HashMap<u32, State> = std::mem::take(&mut poll.states);
        let after = self.states().await?;
        let moved = |id: &u32| after.get(id).map(|state| &state.signature) != before.get(id).map(|state| &state.signature);
        let followed = self.tables.values().filter(|table| !table.broken).map(|table| table.version.schema.object_id);
        if followed.into_iter().any(|id| moved(&id)) {
            return Err(Error::SchemaChanged("a table was altered while its changes were read".to_owned()));
        }
        self.session.run("COMMIT TRANSACTION").await?;
        Ok(true)
    }

    /// One cut of a poll: all of it, or a piece.
    async fn piece(&mut self, bytes: usize) -> Result<Cut, Error> {
        let mut poll = match self.poll.take() {
            Some(poll) => poll,
            None => self.begin().await?,
        };
        let mut tables = BTreeMap::new();
        let broken = self.take_found(&mut tables);
        let whole = match self.read(&mut poll, bytes, &mut tables).await {
            Ok(whole) => whole,
            Err(error) => {
                // Of what was found nothing was delivered either: it is found again.
                for table in self.tables.values_mut() {
                    table.signature = None;
                }
                for (id, error) in broken {
                    self.found.broken.push((id, error));
                }
                for (id, segments) in tables {
                    if let Some(Segment::Version(version)) = segments.into_iter().next() {
                        self.found.versions.insert(id, *version);
                    }
                }
                self.poll = poll.delivered.then_some(poll);
                return Err(error);
            }
        };
        let (version, time) = (poll.version, poll.time);
        if whole {
            self.at = version;
            for table in self.tables.values_mut() {
                table.last = table.last.max(version);
            }
        } else {
            poll.delivered = true;
            self.poll = Some(poll);
        }
        let to = position::of_version(self.at);
        Ok(Cut { whole, to, time: whole.then_some(time).flatten(), transactions: vec![], tables: cut_tables(tables), broken })
    }

    /// A poll that a change of a table broke off begins anew, if nothing of it was delivered.
    async fn poll(&mut self, bytes: usize) -> Result<Cut, Error> {
        let mut tries = 0;
        loop {
            match self.piece(bytes).await {
                Err(Error::SchemaChanged(_) | Error::SourceTableLocked(_)) if self.poll.is_none() && tries < TRIES => {
                    tries += 1;
                    self.session.run("IF @@TRANCOUNT > 0 ROLLBACK TRANSACTION").await?;
                    sleep(LOOK_EVERY).await;
                }
                // What was delivered may not stand beside what another poll would bring.
                Err(Error::SchemaChanged(what)) => return Err(Error::SourceError(what)),
                result => return result,
            }
        }
    }
}

/// A table that was altered under the snapshot, or is locked by who alters it: another poll may read it.
fn poll_error(table: &TableName, failure: Failure) -> Error {
    if failure.class == Class::Conflict {
        return Error::SchemaChanged(format!("{table}: {}", failure.message));
    }
    table_error(table, failure)
}

fn cut_tables(tables: BTreeMap<u32, Vec<Segment>>) -> Vec<CutTable> {
    tables.into_iter().map(|(id, segments)| CutTable { id, segments }).collect()
}

#[async_trait]
impl Capture for TrackingCapture {
    fn follow(&mut self, tables: Vec<CapturedTable>) {
        let mut former = std::mem::take(&mut self.tables);
        for CapturedTable { id, version, from } in tables {
            let same = former.remove(&id).filter(|known| known.from == from);
            let table = same.unwrap_or_else(|| {
                // What came before it joined may have come or not: it is in its snapshot.
                let last = position::version(&from).unwrap_or_default().max(self.at);
                Followed { version, from, last, signature: None, broken: false }
            });
            self.tables.insert(id, table);
        }
    }

    async fn next_cut(&mut self, limits: Limits) -> Result<Cut, Error> {
        if self.poll.is_some() {
            return self.poll(limits.bytes).await;
        }
        let until = Instant::now() + limits.idle;
        loop {
            let mut time = None;
            if Instant::now() >= limits.not_before {
                let (now, version) = self.version().await?;
                if version > self.at {
                    return self.poll(limits.bytes).await;
                }
                time = now;
            }
            let now = Instant::now();
            if now >= until || !self.found.broken.is_empty() || !self.found.versions.is_empty() {
                return Ok(self.quiet(time));
            }
            sleep(LOOK_EVERY.min(until - now)).await;
        }
    }

    async fn compare(&mut self) -> Result<(), Error> {
        if self.poll.is_some() {
            return Ok(());
        }
        let states = self.states().await?;
        self.compare_changed(&states).await
    }

    /// The server keeps changes for a time, whoever read them.
    async fn acknowledge(&mut self, _position: &Position) -> Result<(), Error> {
        Ok(())
    }
}
