//! The run's log as one worker sees it: the state at the newest record it knows, and the records themselves.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{error::Error, state::RunState};
use crate::{
    failpoint::{self, Point},
    landing::{
        log::{Log, Outcome},
        record::Record,
    },
    protection::Protection,
};

/// Records kept in memory; older ones are read again from the zone.
const RECORDS_KEPT: usize = 4096;
/// Longest wait between two looks for the next record.
const FOLLOW_EVERY: Duration = Duration::from_secs(2);
/// How often somebody who finds no next record looks whether the log has moved on without him.
const LOOK_FOR_GAPS: Duration = Duration::from_mins(1);
/// A checkpoint is made with every so many records.
const CHECKPOINT_EVERY: u64 = 1000;

/// The run's log as one worker sees it.
pub struct Journal {
    log: Log,
    state: watch::Sender<Arc<RunState>>,
    records: Mutex<BTreeMap<u64, Arc<Record>>>,
}

impl Journal {
    /// Reads a run's log to its end.
    pub async fn open(log: Log) -> Result<Self, Error> {
        let state = log.checkpoint::<RunState>().await?.unwrap_or_else(|| RunState::new(log.run()));
        let journal = Self { log, state: watch::Sender::new(Arc::new(state)), records: Mutex::default() };
        journal.catch_up().await?;
        Ok(journal)
    }

    /// The log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The state at the newest known record.
    pub fn state(&self) -> Arc<RunState> {
        self.state.borrow().clone()
    }

    /// The state as it moves on.
    pub fn subscribe(&self) -> watch::Receiver<Arc<RunState>> {
        self.state.subscribe()
    }

    /// Reads records until there is none more.
    pub async fn catch_up(&self) -> Result<(), Error> {
        while let Some(record) = self.log.read(self.state().number + 1).await? {
            self.observe(record)?;
        }
        Ok(())
    }

    /// Makes sure that the log does not go on after a gap: records that everybody has applied are swept, so one that is not there
    /// may have been there long ago. Above every gap is a checkpoint.
    pub async fn is_newest(&self) -> Result<(), Error> {
        let Some(newest) = self.log.checkpoints().await?.last().copied() else { return Ok(()) };
        if newest > self.state().number {
            // It may have been made only just now, over records that are there to be read.
            self.catch_up().await?;
        }
        let ours = self.state().number;
        if newest > ours { Err(Error::LogMovedOn { ours, newest }) } else { Ok(()) }
    }

    /// Looks for records of others, for ever.
    pub async fn follow(&self) -> Result<(), Error> {
        let mut wait = Duration::from_millis(50);
        let mut last_look = Instant::now();
        loop {
            let before = self.state().number;
            self.catch_up().await?;
            wait = if self.state().number > before { Duration::from_millis(50) } else { (wait * 2).min(FOLLOW_EVERY) };
            tokio::time::sleep(wait).await;
            let state = self.state();
            if wait == FOLLOW_EVERY && self.log.read(state.number + 2).await?.is_some() && self.log.read(state.number + 1).await?.is_none()
            {
                return Err(Error::RecordMissing { run: state.run, number: state.number + 1 });
            }
            if last_look.elapsed() > LOOK_FOR_GAPS {
                last_look = Instant::now();
                self.is_newest().await?;
            }
        }
    }

    /// Creates a record; `TermLost` or `RecordTaken` if another capture created it.
    pub async fn append(&self, record: Record) -> Result<(), Error> {
        let (number, term) = (record.number, record.term);
        match failpoint::around(Point::RecordCreate, self.log.append(&record)).await? {
            Outcome::Ours => self.observe(record)?,
            Outcome::Theirs(theirs) => {
                let theirs = theirs.term;
                self.catch_up().await?;
                if !Protection::Terms.holds() {
                    let next = self.state().number + 1;
                    return Box::pin(self.append(Record { number: next, ..record })).await;
                }
                // A record of a lower term: its capture was faster by one, and meets ours at its next.
                return Err(if theirs > term { Error::TermLost { ours: term, theirs } } else { Error::RecordTaken { number } });
            }
        }
        if number % CHECKPOINT_EVERY == 0 {
            // Without it the log is only slower to open.
            if let Err(error) = self.log.put_checkpoint(number, &*self.state()).await {
                tracing::warn!(%error, number, "checkpoint not written");
            }
        }
        Ok(())
    }

    /// A record, from memory or from the zone.
    pub async fn record(&self, number: u64) -> Result<Arc<Record>, Error> {
        if let Some(record) = self.lock().get(&number) {
            return Ok(record.clone());
        }
        let record = self.log.read(number).await?.ok_or(Error::RecordMissing { run: self.log.run(), number })?;
        Ok(Arc::new(record))
    }

    /// Takes in a record that was created or read; one that is known already changes nothing.
    fn observe(&self, record: Record) -> Result<(), Error> {
        let mut gap = None;
        self.state.send_if_modified(|state| {
            if record.number <= state.number {
                return false;
            }
            let mut next = RunState::clone(state);
            match next.fold(&record) {
                Ok(()) => {
                    let mut records = self.lock();
                    records.insert(record.number, Arc::new(record));
                    while records.len() > RECORDS_KEPT {
                        records.pop_first();
                    }
                    *state = Arc::new(next);
                    true
                }
                Err(error) => {
                    gap = Some(error);
                    false
                }
            }
        });
        gap.map_or(Ok(()), |error| Err(Error::DataFileUnreadable(error.to_string())))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Arc<Record>>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
