//! The board: where the engine's tasks write what they know, and from which the worker's report is made.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use tokio::sync::watch;

use super::EngineReport;
use crate::{
    api::{
        fault::{Check, Fault},
        report::{PositionTime, TablePhase, TableReport},
        verification::TableVerification,
    },
    failpoint::{self, Moment, Point},
};

/// How often the report is made anew, at most.
const PUBLISH_EVERY: Duration = Duration::from_millis(200);

/// What the engine's tasks know.
#[derive(Default)]
pub struct Board {
    inner: Mutex<Inner>,
    lost_under: AtomicU64,
}

#[derive(Default)]
struct Inner {
    link: EngineReport,
    checks: BTreeMap<&'static str, Option<Fault>>,
    tables: BTreeMap<String, TableReport>,
    verifications: BTreeMap<String, TableVerification>,
    changed: bool,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.changed = true;
        inner
    }

    /// Writes what concerns the link as a whole.
    pub fn link(&self, change: impl FnOnce(&mut EngineReport)) {
        change(&mut self.lock().link);
    }

    /// The run that the engine works in; none before the zone's folder was seen to be the link's.
    pub fn run(&self) -> Option<u32> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).link.run
    }

    /// Answers one question about the link as a whole.
    pub fn check(&self, name: &'static str, fault: Option<Fault>) {
        self.lock().checks.insert(name, fault);
    }

    /// Somebody else answers that question now.
    pub fn uncheck(&self, name: &'static str) {
        self.lock().checks.remove(name);
    }

    /// A term was lost under this revision of the plan; it stays lost to an engine that is opened anew.
    pub fn lose_term(&self, revision: u64) {
        self.lost_under.fetch_max(revision, Ordering::Relaxed);
    }

    /// The newest revision of the plan under which a term was lost; 0 if none was.
    pub fn term_lost_under(&self) -> u64 {
        self.lost_under.load(Ordering::Relaxed)
    }

    /// Writes what is known of a table.
    pub fn table(&self, uid: &str, change: impl FnOnce(&mut TableReport)) {
        let mut inner = self.lock();
        let report = inner.tables.entry(uid.to_owned()).or_insert_with(|| TableReport {
            uid: uid.to_owned(),
            phase: TablePhase::Waiting,
            waiting: None,
            snapshot: None,
            rows: 0,
            bytes: 0,
            as_of: None,
            last_processed_time: None,
            position: None,
            reseed: None,
            schema: None,
            consistent: false,
            error: None,
            attempt: 0,
            next_attempt: None,
        });
        change(report);
    }

    /// A step of a table's work failed and will be tried again after `delay`.
    pub fn table_failed(&self, uid: &str, fault: Fault, attempt: u32, delay: Duration) {
        tracing::warn!(table = uid, reason = fault.reason, message = fault.message, attempt, "table suspended or failed");
        self.table(uid, |report| {
            report.phase = if fault.heals { TablePhase::Suspended } else { TablePhase::Failed };
            report.consistent &= fault.heals;
            report.error = Some(fault);
            report.waiting = None;
            report.attempt = attempt;
            report.next_attempt = Timestamp::now().checked_add(delay).ok();
        });
    }

    /// A table is at work in `phase`, nothing is wrong.
    pub fn table_works(&self, uid: &str, phase: TablePhase) {
        self.table(uid, |report| {
            report.phase = phase;
            report.consistent &= phase == TablePhase::Replicating;
            report.error = None;
            report.waiting = None;
            report.attempt = 0;
            report.next_attempt = None;
        });
    }

    /// Changes what is known of all tables.
    pub fn amend(&self, change: impl Fn(&str, &mut TableReport)) {
        for (uid, report) in &mut self.lock().tables {
            change(uid, report);
        }
    }

    /// Why a table needs a person, as far as this worker knows.
    pub fn failure(&self, uid: &str) -> Option<Fault> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.tables.get(uid).filter(|table| table.phase == TablePhase::Failed)?.error.clone()
    }

    /// Up to where a table is exact, as far as this worker knows.
    pub fn applied(&self, uid: &str) -> Option<PositionTime> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let table = inner.tables.get(uid)?;
        Some(PositionTime { value: table.position.clone()?, time: table.as_of })
    }

    /// Forgets all tables but those.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.lock().tables.retain(|uid, _| keep(uid));
    }

    /// A table was compared with its source.
    pub fn verified(&self, verification: TableVerification) {
        self.lock().verifications.insert(verification.uid.clone(), verification);
    }

    /// Whether the table was compared with its source as this request asked.
    pub fn has_verified(&self, uid: &str, request: &str) -> bool {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.verifications.get(uid).is_some_and(|known| known.requests.iter().any(|answered| answered == request))
    }

    /// Forgets all comparisons but of those tables.
    pub fn retain_verifications(&self, keep: impl Fn(&str) -> bool) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let before = inner.verifications.len();
        inner.verifications.retain(|uid, _| keep(uid));
        inner.changed |= inner.verifications.len() != before;
    }

    /// Sends the report on, whenever it has changed.
    pub async fn publish(&self, report: watch::Sender<EngineReport>) {
        let mut tick = tokio::time::interval(PUBLISH_EVERY);
        loop {
            tick.tick().await;
            if let Some(next) = self.take_changed() {
                failpoint::at(Point::Report, Moment::Before).await;
                report.send_if_modified(|last| {
                    let changed = *last != next;
                    *last = next;
                    changed
                });
                failpoint::at(Point::Report, Moment::After).await;
            }
        }
    }

    fn take_changed(&self) -> Option<EngineReport> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::take(&mut inner.changed) {
            return None;
        }
        let mut report = inner.link.clone();
        report.checks = inner
            .checks
            .iter()
            .map(|(name, fault)| match fault {
                Some(fault) => Check::failed(name, fault.clone()),
                None => Check::passed(name, ""),
            })
            .collect();
        report.tables = inner.tables.values().cloned().collect();
        report.verifications = inner.verifications.values().cloned().collect();
        Some(report)
    }
}
