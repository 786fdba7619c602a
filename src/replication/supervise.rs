//! Starts and ends the engine's tasks as the plan and the log ask.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{
    Context, EngineReport, Setup, apply,
    board::Board,
    capture,
    error::Error,
    group::{self, Group, Life},
    journal::Journal,
    memory::{self, Memory},
    metrics::Task as Doing,
    owner, protect, retry, share,
    snapshot::Snapshot,
    state::{RunState, TableState},
};
use crate::{
    api::{
        fault::Explain,
        plan::{Intent, Plan, PlannedTable},
        report::{PositionTime, SchemaReport, TablePhase},
    },
    landing::log::Log,
    target::{Incarnation, Untouched},
};

/// How often the target is told as of when idle tables are exact.
const TOUCH_EVERY: Duration = Duration::from_secs(5);
/// How often the supervisor looks when nothing happens.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Works by the newest plan until `stop`. Errors do not end it: they stand in the report, and it tries again. What is in
/// flight when it ends is done again by whoever comes next.
pub async fn run(setup: Setup, plan: watch::Receiver<Arc<Plan>>, report: watch::Sender<EngineReport>, stop: CancellationToken) {
    let board = Arc::new(Board::default());
    // Before anything is asked of the source.
    protect::limit(&setup, &plan.borrow());
    let work = async {
        let mut attempt = 0;
        loop {
            let Err(error) = open_and_work(&setup, &plan, &board).await else { return };
            if matches!(error, Error::RunEnded { .. }) {
                // As asked. What was wrong with the run before stands until the new one captures.
                tracing::info!("{error}");
                attempt = 0;
                continue;
            }
            attempt += 1;
            let fault = error.fault();
            tracing::warn!(reason = fault.reason, message = fault.message, attempt, "the engine starts over");
            setup.metrics.failed(Doing::Engine, &fault.reason);
            board.check(check_of(&error), Some(fault));
            tokio::time::sleep(retry::delay(attempt)).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = protect::guard(&setup, plan.clone(), &board) => {}
        () = board.publish(report) => {}
        () = stop.cancelled() => {}
    }
}

/// The condition that an error of the link as a whole belongs to.
fn check_of(error: &Error) -> &'static str {
    match error {
        Error::Zone(_) => "ZoneReadable",
        Error::ZoneNotEmpty { .. } | Error::LinkTakenOver { .. } => "ZoneOwned",
        Error::DataFileUnreadable(_) | Error::RecordMissing { .. } | Error::LogMovedOn { .. } => "LogReadable",
        _ => "CapturePrepared",
    }
}

async fn open_and_work(setup: &Setup, plan: &watch::Receiver<Arc<Plan>>, board: &Arc<Board>) -> Result<(), Error> {
    let planned = plan.borrow().clone();
    let run = owner::open_run(setup, &planned).await?;
    let journal = Arc::new(Journal::open(Log::new(setup.zone.clone(), run)).await?);
    for name in ["ZoneReadable", "ZoneOwned", "LogReadable"] {
        board.check(name, None);
    }
    board.link(|report| report.run = Some(run));
    tracing::info!(run, records = journal.state().number, "the log is open");

    let context = Context {
        setup: setup.clone(),
        plan: plan.clone(),
        journal,
        board: board.clone(),
        permits: Arc::new(Semaphore::new(memory::chunks_at_once(setup.memory, planned.cores_per_worker as usize + 1))),
        memory: Arc::new(Memory::new(setup.memory)),
        group: Arc::new(Group::default()),
        applied: Arc::default(),
    };
    tokio::select! {
        result = context.journal.follow() => result,
        result = Supervisor::new(&context).run() => result,
        result = owner::watch(&context) => result,
        () = touch(&context) => Ok(()),
    }
}

/// Tells the target at intervals as of when tables are exact that nothing changes.
async fn touch(context: &Context) {
    let Setup { ordinal, target, .. } = &context.setup;
    let run = context.journal.log().run();
    loop {
        tokio::time::sleep(TOUCH_EVERY).await;
        let (plan, state) = (context.plan.borrow().clone(), context.journal.state());
        let untouched = |(id, table): (&u32, &TableState)| {
            let applied = context.applied_upto(*id, table.incarnation).filter(|applied| applied.seen > applied.at)?;
            let incarnation = Incarnation { run, record: table.incarnation };
            Some(Untouched { source: table.schema.name.clone(), incarnation, record: applied.at, as_of: applied.as_of? })
        };
        let ours = state.tables.iter().filter(|(id, table)| table.followed() && share::applier(&plan, **id) == *ordinal);
        let tables: Vec<Untouched> = ours.filter_map(untouched).collect();
        if !tables.is_empty()
            && let Err(error) = target.touch(&plan.link.link_id, &tables).await
        {
            tracing::debug!(%error, "the target is not told as of when idle tables are exact");
        }
    }
}

/// A task that ends when it is dropped.
struct Task(JoinHandle<()>);

impl Task {
    fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(work))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Supervisor<'a> {
    context: &'a Context,
    capture: Option<Task>,
    group: Option<Task>,
    appliers: HashMap<Life, Task>,
    snapshots: HashMap<Life, Task>,
}

impl<'a> Supervisor<'a> {
    fn new(context: &'a Context) -> Self {
        Self { context, capture: None, group: None, appliers: HashMap::new(), snapshots: HashMap::new() }
    }

    async fn run(mut self) -> Result<(), Error> {
        let mut plan = self.context.plan.clone();
        let mut states = self.context.journal.subscribe();
        loop {
            let planned = plan.borrow_and_update().clone();
            let state = states.borrow_and_update().clone();
            if planned.run > state.run {
                return Err(Error::RunEnded { ended: state.run, begins: planned.run });
            }
            self.arrange(&planned, &state);
            tokio::select! {
                changed = plan.changed() => if changed.is_err() { return Ok(()) },
                changed = states.changed() => if changed.is_err() { return Ok(()) },
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Starts what is due and ends what is not.
    fn arrange(&mut self, plan: &Plan, state: &RunState) {
        let context = self.context;
        let ordinal = context.setup.ordinal;
        let running = plan.intent == Intent::Run;

        let captures = running && share::capturer(plan.workers) == ordinal;
        if !captures {
            if self.capture.take().is_some() {
                context.setup.metrics.captures_no_longer();
                context.board.link(|report| report.term = None);
            }
            // What this worker last met there is no longer its to tell.
            context.board.uncheck("CapturePrepared");
            context.board.link(|report| report.position_lost = None);
            if running {
                context.board.retain_verifications(|_| false);
            }
        }
        if captures && self.capture.as_ref().is_none_or(|task| task.0.is_finished()) {
            self.capture = Some(Task::spawn(capture(context.clone())));
        }

        let groups = plan.transactional_consistency && share::mover(plan.workers) == ordinal;
        if !groups && self.group.take().is_some() {
            context.group.dissolve(None);
        }
        if groups && self.group.as_ref().is_none_or(|task| task.0.is_finished()) {
            self.group = Some(Task::spawn(group::run(context.clone())));
        }

        let planned = |table: &TableState| plan.tables.iter().any(|planned| planned.uid == table.uid);
        let live: HashMap<Life, &TableState> = state
            .tables
            .iter()
            .filter(|(_, table)| table.followed() && table.planned() && planned(table))
            .map(|(id, table)| ((*id, table.incarnation), table))
            .collect();

        self.appliers.retain(|life, task| live.contains_key(life) && share::applier(plan, life.0) == ordinal && !task.0.is_finished());
        self.snapshots.retain(|life, _| running && live.contains_key(life));
        for (life, table) in &live {
            if share::applier(plan, life.0) == ordinal && !self.appliers.contains_key(life) {
                self.appliers.insert(*life, Task::spawn(apply::table(context.clone(), life.0, (*table).clone())));
            }
            if running && table.plan.is_some() && !self.snapshots.contains_key(life) {
                self.snapshots.insert(*life, Task::spawn(snapshot(context.clone(), life.0, table.joined())));
            }
        }
        self.report(plan, state, &live);
    }

    /// Says what only the whole picture shows: tables that failed for good, how far all are, whether all is drained.
    fn report(&self, plan: &Plan, state: &RunState, live: &HashMap<Life, &TableState>) {
        let context = self.context;
        let ours = |id: u32| share::applier(plan, id) == context.setup.ordinal;
        for (id, table) in &state.tables {
            if let Some(fault) = table.fault.as_ref().filter(|fault| !fault.heals && ours(*id) && !table.left) {
                context.board.table(&table.uid, |report| {
                    report.phase = TablePhase::Failed;
                    report.error = Some(fault.clone());
                    report.next_attempt = None;
                });
            }
        }
        for (_, table) in state.tables.iter().filter(|(id, table)| ours(**id) && table.followed()) {
            context.board.table(&table.uid, |report| {
                // What was said of the load before is no answer to the request for another.
                if report.reseed != table.reseed && table.exact.is_none() && report.phase != TablePhase::Snapshotting {
                    report.phase = TablePhase::Waiting;
                    (report.error, report.next_attempt) = (None, None);
                }
                report.reseed.clone_from(&table.reseed);
            });
        }
        let captures = share::capturer(plan.workers) == context.setup.ordinal;
        let known: HashMap<&str, (u32, &TableState)> = state.tables.iter().map(|(id, table)| (table.uid.as_str(), (*id, table))).collect();
        context.board.retain(|uid| {
            let here = known.get(uid).is_some_and(|(id, _)| ours(*id));
            // Until it is cut into chunks or adopted, the worker that captures reports it.
            let elsewhere = known.get(uid).is_some_and(|(_, table)| table.followed() && table.planned());
            plan.tables.iter().any(|planned| planned.uid == uid) && (here || (captures && !elsewhere))
        });
        context.board.amend(|uid, report| report.consistent &= known.get(uid).is_some_and(|(_, table)| table.followed()));
        for (life, table) in live.iter().filter(|(life, _)| ours(life.0)) {
            if let Some(applied) = context.applied_upto(life.0, life.1) {
                let columns = table.schema_after(applied.at).columns.len();
                let version = 1 + table.narrower.iter().filter(|narrower| narrower.before <= applied.at).count();
                let schema = SchemaReport { version: version as i32, columns: columns as i32 };
                context.board.table(&table.uid, |report| report.schema = Some(schema));
            }
        }
        context.board.retain_verifications(|uid| plan.tables.iter().any(|planned| planned.uid == uid));

        let seen = |life: &Life| context.applied_upto(life.0, life.1).map(|applied| applied.seen).unwrap_or_default();
        let replicating: Vec<_> = live.iter().filter(|(life, table)| table.exact.is_some() && ours(life.0)).collect();
        let last = replicating.iter().min_by_key(|(life, _)| seen(life));
        let lowest = last.map(|(life, _)| seen(life));
        let loaded = plan.tables.iter().all(|planned| is_settled(plan, planned, state, &context.board));
        let drained = plan.intent == Intent::Drain && lowest.is_none_or(|lowest| lowest >= state.number);
        let applied = if lowest == Some(state.number) || live.is_empty() {
            Some(PositionTime { value: state.to.to_string(), time: state.time })
        } else {
            last.and_then(|(_, table)| context.board.applied(&table.uid))
        };
        context.board.link(|report| {
            report.drained = drained;
            report.batch_done = plan.batch.filter(|batch| self.capture.is_some() && loaded && report.batch_read == Some(*batch));
            if let Some(applied) = applied {
                report.position.get_or_insert_default().applied = Some(applied);
            }
        });
    }
}

/// Whether nothing is left to be read for a table but its changes: what is to be loaded was read and it was compared as asked, or it
/// needs a person.
fn is_settled(plan: &Plan, planned: &PlannedTable, state: &RunState, board: &Board) -> bool {
    if board.failure(&planned.uid).is_some() {
        return true;
    }
    let Some((_, table)) = state.table(&planned.source) else { return false };
    if table.left || table.uid != planned.uid || planned.asks_for_load(table.reseed.as_ref()) || table.target != planned.target {
        return false;
    }
    if let Some(fault) = &table.fault {
        return !fault.heals;
    }
    let asked = [&planned.verify, &plan.verify].into_iter().flatten();
    table.exact.is_some() && asked.map(|request| &request.requested_at).all(|request| board.has_verified(&planned.uid, request))
}

/// Reigns over the log, again and again; a reign that was lost to another worker is taken up only under a newer plan.
async fn capture(context: Context) {
    let mut plan = context.plan.clone();
    let mut attempt = 0;
    loop {
        // Also an engine that was opened anew gives way to whom this process lost its term to.
        let lost_under = context.board.term_lost_under();
        if lost_under > 0 && plan.wait_for(|plan| plan.revision > lost_under).await.is_err() {
            return;
        }
        let revision = plan.borrow_and_update().revision;
        let began = tokio::time::Instant::now();
        let own = AtomicU64::new(0);
        let Err(mut error) = Box::pin(capture::reign(&context, &own)).await else { return };
        // A successor ends our stream before we meet its record: that is the loss of the term, and no fault of the source.
        let ours = own.into_inner();
        let theirs = if context.journal.catch_up().await.is_ok() { context.journal.state().term } else { 0 };
        let slept = matches!(error, Error::LogMovedOn { .. }) || matches!(context.journal.is_newest().await, Err(Error::LogMovedOn { .. }));
        if ours > 0 && (theirs > ours || slept) {
            error = Error::TermLost { ours, theirs };
        }
        let lost = match &error {
            Error::Source(error) => protect::lost(error, context.journal.log().run(), context.plan.borrow().on_position_lost),
            _ => None,
        };
        let fault = lost.as_ref().map_or_else(|| error.fault(), |lost| lost.fault.clone());
        context.board.link(|report| {
            report.term = None;
            report.position_lost = lost.or(report.position_lost.take());
        });
        tracing::warn!(reason = fault.reason, message = fault.message, "capture ended");
        context.setup.metrics.failed(Doing::Capture, &fault.reason);
        context.board.check("CapturePrepared", Some(fault));
        attempt = if began.elapsed() > Duration::from_mins(1) { 1 } else { attempt + 1 };
        if matches!(error, Error::TermLost { .. } | Error::PlanOutdated { .. }) {
            context.board.lose_term(revision);
        } else {
            tokio::time::sleep(retry::delay(attempt)).await;
        }
    }
}

/// Reads and loads this worker's share of a table's chunks, again and again until all are loaded.
async fn snapshot(context: Context, id: u32, table: TableState) {
    let Some(plan) = &table.plan else { return };
    let mut attempt = 0;
    loop {
        let Err(error) = (Snapshot { context: &context, id, table: &table, plan }).work().await else { return };
        attempt += 1;
        let delay = retry::delay(attempt);
        context.table_failed(Doing::Snapshot, &table.uid, error.fault(), attempt, delay);
        tokio::time::sleep(delay).await;
        context.board.table_works(&table.uid, TablePhase::Snapshotting);
    }
}
