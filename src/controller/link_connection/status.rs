//! What the status of a LinkConnection says. Pure: findings in, status and Events out.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{
    deadline,
    lifecycle::Course,
    loss::Loss,
    numbers::{numbers, worst},
    retained, schedule, told,
};
use crate::{
    api::{
        conditions::{Truth, get, is_true, kind, reason, remove, set},
        fault::{Check, Fault},
        link_connection::{LinkConnection, LinkConnectionSpec, LinkConnectionStatus, LinkPhase, LinkState},
        report::{Report, TablePhase},
        source_protection::Bounds,
        verification::LinkVerification,
    },
    controller::{
        budget,
        events::Happened,
        explain,
        link_table::whole_second,
        status::{Change, Ready},
    },
};

/// The condition that says whether what a link made in its source is gone.
pub const RELEASED: &str = "SourceReleased";
/// Conditions that are not answers of a worker or probe.
const OURS: [&str; 11] = [
    kind::READY,
    kind::RECONCILING,
    kind::STALLED,
    kind::SUSPENDED,
    kind::ACCEPTED,
    kind::SNAPSHOT_COMPLETE,
    kind::CONSISTENT,
    kind::SOURCE_PROTECTED,
    kind::WORKERS_AVAILABLE,
    kind::START_DEADLINE_EXCEEDED,
    RELEASED,
];

/// A load that has not come on for longer is stuck: a chunk takes seconds to a few minutes, unless `maxSnapshotRate` is next to nothing.
const STUCK: SignedDuration = SignedDuration::from_mins(30);

/// What is known of the workers.
#[derive(Clone, Debug, Default)]
pub struct Crew {
    /// How many are wanted now.
    pub desired: u32,
    /// How many are ready.
    pub ready: u32,
    /// How many report that they work by the newest plan.
    pub current: u32,
    /// What keeps one from running.
    pub problem: Option<Fault>,
    /// Their newest reports.
    pub reports: Vec<Arc<Report>>,
    /// What one of them says who has not answered for long.
    pub silent: Option<Fault>,
    /// Somebody was asked, or got another plan, only just now and has not answered yet.
    pub expecting: bool,
}

/// A table as its link sees it.
#[derive(Clone, Debug)]
pub struct TableView {
    /// Name of the LinkTable.
    pub name: String,
    /// Phase.
    pub phase: TablePhase,
    /// What is wrong.
    pub fault: Option<Fault>,
    /// The first load is complete.
    pub complete: bool,
    /// `consistentAsOf` speaks of it too.
    pub consistent: bool,
    /// Its rows are as of then.
    pub as_of: Option<Timestamp>,
    /// Chunks of its load are to come. Once all are there, what changed meanwhile is applied, which takes as long as it takes.
    pub loads: bool,
    /// When its load last came on.
    pub came_on: Option<Timestamp>,
}

/// What was found out about a link.
pub struct Findings<'a> {
    /// Generation of the spec.
    pub generation: Option<i64>,
    /// The spec.
    pub spec: &'a LinkConnectionSpec,
    /// The link's lasting identity.
    pub link_id: String,
    /// Where it goes.
    pub course: Course,
    /// Why the spec cannot be carried out.
    pub refusal: Option<Fault>,
    /// What kept the controller from carrying it out.
    pub trouble: Option<Fault>,
    /// The workers.
    pub crew: Crew,
    /// Their upgrade waits for its turn.
    pub rollout_waits: bool,
    /// What bounds the harm to the source.
    pub bounds: Bounds,
    /// Whether the position is lost.
    pub loss: Loss,
    /// The answer of the probe, where no worker answers.
    pub probe: Option<&'a Report>,
    /// When it was given.
    pub probed_at: Option<Timestamp>,
    /// What keeps the probe from answering.
    pub probe_obstacle: Option<Fault>,
    /// Why what the link made is not released yet.
    pub release_obstacle: Option<Fault>,
    /// The tables.
    pub tables: Vec<TableView>,
    /// LinkTables that the link is to have are not there yet.
    pub tables_to_come: bool,
    /// What the comparison of all tables found that an annotation asks for, and its value; none before it is complete.
    pub verified: Option<(String, LinkVerification)>,
    /// The value of the annotation that asks for a test of connections: a probe's question holds it, and workers test all the time.
    pub test: Option<&'a String>,
    /// The value of the annotation that asks for a restart, if the workers' template has it.
    pub restarted: Option<String>,
    /// The link is being deleted.
    pub deleting: bool,
}

/// The status after these findings, and what happened on the way.
pub fn status(before: &LinkConnectionStatus, findings: &Findings<'_>, now: Timestamp) -> (LinkConnectionStatus, Vec<Happened>) {
    let mut status = before.clone();
    let course = findings.course;
    status.observed_generation = findings.generation;
    status.phase = Some(course.phase);
    status.link_id = Some(findings.link_id.clone());
    status.run_id = (course.run > 0).then_some(course.run);
    status.position_lost.clone_from(&findings.loss.last);
    if before.phase != status.phase {
        match course.phase {
            LinkPhase::Running => status.start_time = Some(whole_second(now)),
            LinkPhase::Paused | LinkPhase::Stopped => status.stop_time = Some(whole_second(now)),
            _ => {}
        }
    }
    let interval = findings.spec.compute.process_interval();
    status.next_batch_time = course.batch.zip(interval).map(|(began, interval)| schedule::next(began, interval));
    numbers(&mut status, findings);
    handled(&mut status, findings);
    let mut conditions = std::mem::take(&mut status.conditions);
    checks(&mut conditions, findings, now);
    let mut mark = |kind: &str, truth: Truth, reason: &str, message: &str| {
        set(&mut conditions, kind, truth, reason, message, findings.generation, now);
    };
    match &findings.refusal {
        None => mark(kind::ACCEPTED, Truth::True, reason::AS_REQUESTED, ""),
        Some(fault) => mark(kind::ACCEPTED, Truth::False, &fault.reason, &explain(fault)),
    }
    let at_rest = rests(course) && findings.spec.state != LinkState::Running;
    if at_rest {
        let (word, text) = rest(findings);
        mark(kind::SUSPENDED, Truth::True, word, text);
    } else {
        mark(kind::SUSPENDED, Truth::False, reason::AS_REQUESTED, "");
    }
    let source = status.source.as_ref();
    let verdict = source.and_then(|source| retained::judge(source, &findings.bounds, status.resume_before, now));
    if let Some(verdict) = &verdict {
        mark(kind::SOURCE_PROTECTED, verdict.truth, verdict.reason, &verdict.message);
    }
    let complete = !findings.tables_to_come && !findings.tables.is_empty() && findings.tables.iter().all(|table| table.complete);
    let word = if complete { reason::AS_REQUESTED } else { reason::PROGRESSING };
    mark(kind::SNAPSHOT_COMPLETE, complete.into(), word, "");
    let crew = &findings.crew;
    if crew.current > 0 && crew.current >= crew.desired {
        let (truth, word, text) = consistent(&findings.tables);
        mark(kind::CONSISTENT, truth, word, &text);
    }
    let missing = crew.problem.as_ref().filter(|_| crew.ready < crew.desired).or(crew.silent.as_ref());
    match missing {
        _ if !course.workers => {}
        Some(fault) => mark(kind::WORKERS_AVAILABLE, Truth::False, &fault.reason, &explain(fault)),
        None if crew.ready >= crew.desired && findings.rollout_waits => {
            let text = "the workers are up; their upgrade with the operator waits until fewer links are being upgraded (--max-rollouts)";
            mark(kind::WORKERS_AVAILABLE, Truth::True, reason::ROLLOUT_WAITING, text);
        }
        None if crew.ready >= crew.desired => mark(kind::WORKERS_AVAILABLE, Truth::True, reason::AS_REQUESTED, ""),
        None => {
            let text = format!("{} of {} workers are ready", crew.ready, crew.desired);
            mark(kind::WORKERS_AVAILABLE, Truth::False, reason::WORKERS_MISSING, &text);
        }
    }
    match &findings.release_obstacle {
        Some(fault) => mark(RELEASED, Truth::False, &fault.reason, &explain(fault)),
        None if course.phase == LinkPhase::Stopped => mark(RELEASED, Truth::True, reason::AS_REQUESTED, ""),
        None => {}
    }
    if verdict.is_none() {
        remove(&mut conditions, kind::SOURCE_PROTECTED);
    }
    if !course.workers {
        remove(&mut conditions, kind::WORKERS_AVAILABLE);
    }
    if course.phase == LinkPhase::Stopped {
        remove(&mut conditions, kind::CONSISTENT);
    }
    if course.phase != LinkPhase::Stopped && findings.release_obstacle.is_none() {
        remove(&mut conditions, RELEASED);
    }
    let kept = get(&conditions, kind::READY).is_some() && before.observed_generation == findings.generation && before.phase == status.phase;
    let said = ready(findings, at_rest, &conditions, now);
    match deadline::heed(&mut conditions, course.phase, said, findings.generation, now) {
        // Nobody has had the time to answer: what was said before stands, unless a table came that is not linked yet.
        None if kept => {
            let was_ready = is_true(&conditions, kind::READY);
            let known = tables_ready(findings, now);
            if was_ready && known.truth != Truth::True {
                known.write(&mut conditions, findings.generation, now);
            }
        }
        None => {
            Ready::unknown(reason::NEW_GENERATION, "the workers have not reported yet").write(&mut conditions, findings.generation, now);
        }
        Some(ready) => ready.write(&mut conditions, findings.generation, now),
    }
    status.conditions = conditions;
    let events = told::events(before, &status);
    (status, events)
}

/// What annotations ask for, once it is done.
fn handled(status: &mut LinkConnectionStatus, findings: &Findings<'_>) {
    if let Some((asked, found)) = &findings.verified {
        status.last_handled_verify_at = Some(asked.clone());
        status.verification = Some(LinkVerification { time: whole_second(found.time), ..found.clone() });
    }
    if let Some(test) = findings.test.filter(|_| answers(findings).is_some()) {
        status.last_handled_test_at = Some(test.clone());
    }
    if let Some(restarted) = &findings.restarted {
        status.last_handled_restart_at = Some(restarted.clone());
    }
}

/// How much changed from one status to the next. Where the link is in its source's log is progress; where that ends and how much of it is
/// kept moves all the time, whoever writes to the server, and is written seldom or with other things.
pub fn change(before: &LinkConnectionStatus, after: &LinkConnectionStatus) -> Change {
    let still = |status: &LinkConnectionStatus| {
        let mut still = status.clone();
        if let Some(position) = &mut still.position {
            position.source_head = None;
        }
        if let Some(source) = &mut still.source {
            source.retained_log_bytes = None;
        }
        still
    };
    // How many tables are how far is progress; that all are there, or one is not, a condition tells.
    let state =
        |status: &LinkConnectionStatus| LinkConnectionStatus { position: None, consistent_as_of: None, tables: None, ..still(status) };
    match Change::between(before, after, state) {
        Change::Progress(_) if still(before) == still(after) => Change::Progress(budget::SELDOM),
        change => change,
    }
}

/// Whether the answers of a worker or a probe that the status holds are about the link's present spec.
pub fn is_answered(link: &LinkConnection) -> bool {
    let conditions = link.status.iter().flat_map(|status| &status.conditions);
    let mut answers = conditions.filter(|condition| !OURS.contains(&condition.type_.as_str())).peekable();
    answers.peek().is_some() && answers.all(|answer| answer.observed_generation == link.metadata.generation)
}

/// Whether one of those answers is that something is wrong.
pub fn has_failed(link: &LinkConnection) -> bool {
    let mut conditions = link.status.iter().flat_map(|status| &status.conditions);
    conditions.any(|condition| !OURS.contains(&condition.type_.as_str()) && condition.status == "False")
}

fn rests(course: Course) -> bool {
    matches!(course.phase, LinkPhase::Initial | LinkPhase::Paused | LinkPhase::Stopped)
}

/// How a link rests, in one word, and what its next start will do.
fn rest(findings: &Findings<'_>) -> (&'static str, &'static str) {
    let lost = findings.loss.last.as_ref().filter(|lost| lost.run_id == findings.course.run);
    match (findings.course.phase, findings.spec.state) {
        (LinkPhase::Paused, _) if lost.is_some_and(|lost| lost.reason == "PositionGivenUp") => {
            (reason::PAUSED, "it gave its position up to protect its source; the next start is a full load")
        }
        (LinkPhase::Paused, _) if lost.is_some_and(|lost| lost.next_attempt.is_some()) => {
            (reason::PAUSED, "its position is lost; the next start is a full load")
        }
        (LinkPhase::Paused, _) if lost.is_some() => {
            (reason::PAUSED, "its position is lost: to start it over, set spec.state to Stopped, then to Running")
        }
        (LinkPhase::Paused, _) => (reason::PAUSED, "its position is kept"),
        // What never started has no position to keep.
        (_, LinkState::Paused) => (reason::PAUSED, "it has no position yet; the next start is a full load"),
        _ => (reason::STOPPED, "the next start is a full load"),
    }
}

/// Somebody is yet to say how it is by the newest plan.
fn awaits(crew: &Crew) -> bool {
    crew.expecting && crew.current < crew.desired
}

/// The answers to ask: workers' before the probe's, a failed one before a passed one of the same name. What was answered about a plan
/// before is none.
fn answers<'a>(findings: &'a Findings<'_>) -> Option<BTreeMap<&'a str, &'a Check>> {
    if awaits(&findings.crew) {
        return None;
    }
    let reports: Vec<&Report> = if findings.crew.reports.is_empty() {
        findings.probe.into_iter().collect()
    } else {
        findings.crew.reports.iter().map(AsRef::as_ref).collect()
    };
    if reports.is_empty() {
        return None;
    }
    let mut answers = BTreeMap::new();
    for check in reports.iter().flat_map(|report| &report.checks) {
        let entry = answers.entry(check.name.as_str()).or_insert(check);
        if entry.fault.is_none() {
            *entry = check;
        }
    }
    Some(answers)
}

fn checks(conditions: &mut Vec<Condition>, findings: &Findings<'_>, now: Timestamp) {
    // Without news the old answers stand.
    let Some(answers) = answers(findings) else { return };
    conditions.retain(|condition| OURS.contains(&condition.type_.as_str()) || answers.contains_key(condition.type_.as_str()));
    for (name, check) in answers {
        let (truth, word, text) = match &check.fault {
            None => (Truth::True, reason::AS_REQUESTED, check.message.clone()),
            Some(fault) => (Truth::False, fault.reason.as_str(), explain(fault)),
        };
        if !OURS.contains(&name) {
            set(conditions, name, truth, word, &text, findings.generation, now);
        }
    }
}

/// What Ready says; None if that cannot be known yet.
fn ready(findings: &Findings<'_>, at_rest: bool, conditions: &[Condition], now: Timestamp) -> Option<Ready> {
    let (course, crew) = (findings.course, &findings.crew);
    if findings.deleting {
        let text = findings.release_obstacle.as_ref().map_or_else(|| "what the link made is being removed".to_owned(), explain);
        return Some(Ready::progressing(reason::DELETING, text));
    }
    if let Some(fault) = findings.refusal.as_ref().or(findings.trouble.as_ref()) {
        return Some(Ready::fault(fault));
    }
    if let (Some(next), Some(lost)) = (findings.loss.waits.filter(|_| !at_rest), &findings.loss.last) {
        let text = format!("{}; {} runs in a row lost their position: the next full load begins at {next}", lost.message, lost.attempt);
        return Some(Ready::progressing(&lost.reason, text));
    }
    // One that needs a person comes before those that heal.
    let failing: Vec<&Fault> = answers(findings).into_iter().flatten().filter_map(|(_, check)| check.fault.as_ref()).collect();
    if let Some(fault) = failing.iter().find(|fault| !fault.heals).or(failing.first()) {
        return Some(Ready::fault(fault));
    }
    if at_rest || course.is_idle() {
        if let Some(fault) = &findings.probe_obstacle {
            return Some(Ready::fault(fault));
        }
        if let Some(ready) = failed_tables(&findings.tables) {
            return Some(ready);
        }
        // Asked again, and not answered yet: a check that failed last time has not passed since.
        if let Some(failed) = conditions.iter().find(|condition| !OURS.contains(&condition.type_.as_str()) && condition.status == "False") {
            return Some(Ready::progressing(&failed.reason, failed.message.clone()));
        }
        let is_new = |condition: &Condition| condition.observed_generation == findings.generation;
        if conditions.iter().all(|condition| OURS.contains(&condition.type_.as_str()) || !is_new(condition)) && findings.probe.is_none() {
            return Some(Ready::unknown(reason::NOT_CHECKED, "connections are being tested"));
        }
        if course.is_idle() {
            return Some(Ready::yes(reason::IDLE, "the link rests until status.nextBatchTime; the source keeps its log meanwhile"));
        }
        let (word, text) = rest(findings);
        return Some(Ready::yes(word, format!("the link rests, as asked: {text}")));
    }
    if let Some(fault) = &findings.release_obstacle {
        return Some(Ready::fault(fault));
    }
    if matches!(course.phase, LinkPhase::Pausing | LinkPhase::Stopping) {
        return Some(Ready::progressing(course.phase.into(), "what was read is being committed and applied"));
    }
    if let Some(fault) = crew.problem.as_ref().filter(|_| crew.ready < crew.desired) {
        return Some(Ready::fault(fault));
    }
    if crew.ready < crew.desired {
        let text = format!("{} of {} workers are ready", crew.ready, crew.desired);
        let word = if course.phase == LinkPhase::Running { reason::WORKERS_MISSING } else { course.phase.into() };
        return Some(Ready::progressing(word, text));
    }
    if let Some(fault) = &crew.silent {
        return Some(Ready::fault(fault));
    }
    if crew.current < crew.desired {
        if awaits(crew) {
            return None;
        }
        return Some(Ready::unknown(reason::PROGRESSING, "the workers have not yet reported on the newest plan"));
    }
    if course.phase != LinkPhase::Running {
        return Some(Ready::progressing(course.phase.into(), "the workers are about to work"));
    }
    Some(tables_ready(findings, now))
}

fn failed_tables(tables: &[TableView]) -> Option<Ready> {
    let named = |phase: TablePhase| {
        let named: Vec<String> = worst(tables)
            .filter(|table| table.phase == phase)
            .take(5)
            .map(|table| format!("{} ({})", table.name, table.fault.as_ref().map_or("", |fault| fault.reason.as_str())))
            .collect();
        named.join(", ")
    };
    let has = |phase: TablePhase| tables.iter().any(|table| table.phase == phase);
    if has(TablePhase::Failed) {
        Some(Ready::stalled(reason::TABLES_FAILED, format!("these tables need you: {}", named(TablePhase::Failed))))
    } else if has(TablePhase::Suspended) {
        Some(Ready::progressing(reason::TABLES_SUSPENDED, format!("these tables are tried again: {}", named(TablePhase::Suspended))))
    } else {
        None
    }
}

fn tables_ready(findings: &Findings<'_>, now: Timestamp) -> Ready {
    let (tables, discovers) = (&findings.tables, findings.spec.discover.is_some());
    if let Some(ready) = failed_tables(tables) {
        return ready;
    }
    let listed = || findings.crew.reports.iter().any(|report| report.discovery.is_some());
    let count = |phase: TablePhase| tables.iter().filter(|table| table.phase == phase).count();
    let waiting = count(TablePhase::Waiting);
    if tables.is_empty() && discovers && !listed() {
        Ready::unknown(reason::PROGRESSING, "the source has not yet said which tables it has")
    } else if tables.is_empty() && discovers {
        Ready::yes(
            reason::NO_TABLES,
            "the source has no table yet that spec.discover asks for and that can be linked: see status.discovery",
        )
    } else if tables.is_empty() {
        Ready::yes(reason::NO_TABLES, "the link has no tables; list them in spec.tables or create LinkTables")
    } else if waiting > 0 {
        let why = worst(tables).find(|table| table.phase == TablePhase::Waiting).and_then(|table| table.fault.as_ref());
        let why = why.map(|fault| format!(": {}", explain(fault))).unwrap_or_default();
        Ready::progressing("TablesWaiting", format!("{waiting} of {} tables wait for their first load{why}", tables.len()))
    } else if let Some(since) = stuck_since(tables, now) {
        let text = format!("{} tables load, and none of them has come on since {since}", count(TablePhase::Snapshotting));
        Ready::progressing(reason::SNAPSHOT_STUCK, text)
    } else if count(TablePhase::Snapshotting) > 0 {
        Ready::yes(
            reason::SNAPSHOTTING,
            format!("{} of {} tables replicate, the others load", count(TablePhase::Replicating), tables.len()),
        )
    } else {
        Ready::yes(reason::REPLICATING, "every table replicates")
    }
}

/// Since when no load has come on, if that is too long. They take turns: it is enough that one
/// comes on, or came to its end.
fn stuck_since(tables: &[TableView], now: Timestamp) -> Option<Timestamp> {
    tables.iter().find(|table| table.phase == TablePhase::Snapshotting && table.loads)?;
    let came_on = tables.iter().filter_map(|table| table.came_on).max()?;
    (now.duration_since(came_on) > STUCK).then_some(came_on)
}

/// Whether `consistentAsOf` speaks of all tables, and if not, of which it does not.
fn consistent(tables: &[TableView]) -> (Truth, &'static str, String) {
    let outside: Vec<&TableView> = tables.iter().filter(|table| !table.consistent).collect();
    if outside.is_empty() {
        return (Truth::True, reason::ALL_TABLES, "every table holds all that was committed before status.consistentAsOf".to_owned());
    }
    let named: Vec<String> = outside.iter().take(5).map(|table| format!("{} ({})", table.name, table.phase)).collect();
    let more = if outside.len() > named.len() { ", …" } else { "" };
    let text = format!("status.consistentAsOf does not speak of {} of {} tables: {}{more}", outside.len(), tables.len(), named.join(", "));
    (Truth::False, reason::TABLES_OUTSIDE, text)
}
