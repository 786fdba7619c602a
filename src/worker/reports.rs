//! Makes one report of all that the worker knows, at most about two a second.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::{sync::watch, time};

use super::{checks::Answers, systems::Systems};
use crate::{
    api::{
        discovery::{Discovery, Found},
        fault::Check,
        plan::Plan,
        report::{MOST_DISCOVERED, REPORT_FORMAT, Report},
    },
    data::TableName,
    replication::EngineReport,
};

/// Shortest time between two reports.
const COALESCE: Duration = Duration::from_millis(500);

/// The newest report; none before there is a plan.
pub type Newest = Option<Arc<Report>>;

/// By which plan the worker works. A report says so once the engine has taken it up and its systems were asked: one who hears that all is
/// well with a plan must not hear it of the plan before.
pub(super) struct WorksBy {
    pub systems: watch::Receiver<Option<Arc<Systems>>>,
    /// The revision that the engine has taken up.
    pub revision: watch::Receiver<u64>,
}

/// Puts a new report into `newest` whenever plan, answers or the engine's report changed. Never ends while they can.
pub(super) async fn collect(
    worker: String,
    mut plans: watch::Receiver<Option<Arc<Plan>>>,
    works_by: WorksBy,
    mut answers: watch::Receiver<Answers>,
    mut engine: watch::Receiver<EngineReport>,
    newest: watch::Sender<Newest>,
) {
    let WorksBy { mut systems, mut revision } = works_by;
    let (mut sequence, mut by) = (0, 0);
    let mut tables = Tables::default();
    loop {
        let plan = plans.borrow_and_update().clone();
        let (answers_now, engine_now) = (answers.borrow_and_update().clone(), engine.borrow_and_update().clone());
        let opened = systems.borrow_and_update().as_ref().map_or(u64::MAX, |systems| systems.revision);
        let taken = *revision.borrow_and_update();
        if answers_now.revision >= opened {
            by = taken;
        }
        if let Some(plan) = plan {
            sequence += 1;
            tables.look(&plan, answers_now.found.as_ref());
            let report = Report {
                discovery: tables.discovery.clone(),
                discovered: tables.discovered.clone(),
                ..build(sequence, &worker, by, answers_now, engine_now)
            };
            newest.send_if_modified(|newest| {
                let news = newest.as_ref().is_none_or(|old| Report { sequence, ..(**old).clone() } != report);
                if news {
                    *newest = Some(Arc::new(report));
                }
                news
            });
            time::sleep(COALESCE).await;
        }
        let changed = tokio::select! {
            changed = plans.changed() => changed,
            changed = systems.changed() => changed,
            changed = revision.changed() => changed,
            changed = answers.changed() => changed,
            changed = engine.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// What the source's list of tables means under a plan.
#[derive(Default)]
struct Tables {
    /// It was reckoned from these.
    of: Option<(Arc<Plan>, Arc<Found>)>,
    discovery: Option<Discovery>,
    discovered: Vec<TableName>,
}

impl Tables {
    /// Reckons it anew if plan or list are others than before.
    fn look(&mut self, plan: &Arc<Plan>, found: Option<&Arc<Found>>) {
        let Some(found) = found else { return };
        if self.of.as_ref().is_some_and(|of| Arc::ptr_eq(&of.0, plan) && Arc::ptr_eq(&of.1, found)) {
            return;
        }
        // Of a plan whose patterns are none no controller lets a table in.
        let patterns = plan.discover.as_ref().and_then(|discover| discover.patterns().ok());
        let linked: HashSet<&TableName> = plan.tables.iter().map(|table| &table.source).collect();
        self.discovery = Some(found.discovery(patterns.as_ref()));
        self.discovered = patterns.iter().flat_map(|patterns| found.unlinked(patterns, &linked)).take(MOST_DISCOVERED).cloned().collect();
        self.of = Some((plan.clone(), found.clone()));
    }
}

/// A report without anything known yet.
pub(super) fn empty(worker: String) -> Report {
    Report {
        format_version: REPORT_FORMAT,
        sequence: 1,
        worker,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        plan_revision: 0,
        run: None,
        term: None,
        drained: false,
        batch_done: None,
        released: false,
        checks: Vec::new(),
        credential_expiry: None,
        source: None,
        discovery: None,
        discovered: Vec::new(),
        plan: None,
        position: None,
        position_lost: None,
        tables: Vec::new(),
        verifications: Vec::new(),
    }
}

fn build(sequence: u64, worker: &str, plan_revision: u64, answers: Answers, engine: EngineReport) -> Report {
    Report {
        sequence,
        plan_revision,
        run: engine.run,
        term: engine.term,
        drained: engine.drained,
        batch_done: engine.batch_done,
        checks: merge(answers.checks, engine.checks),
        credential_expiry: answers.credential_expiry,
        source: engine.source,
        position: engine.position,
        position_lost: engine.position_lost,
        tables: engine.tables,
        verifications: engine.verifications,
        ..empty(worker.to_owned())
    }
}

/// One check a name: what the engine met while working counts, unless all is well with it and the question was answered
/// with a fault.
fn merge(asked: Vec<Check>, met: Vec<Check>) -> Vec<Check> {
    let mut merged = asked;
    for check in met {
        match merged.iter_mut().find(|other| other.name == check.name) {
            Some(other) if check.fault.is_some() || other.fault.is_none() => *other = check,
            Some(_) => {}
            None => merged.push(check),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fault::Fault;

    #[test]
    fn tables_are_told_until_a_plan_has_them_and_in_pieces() {
        let names = |count: usize| (0..count).map(|n| TableName::new("public", format!("t{n:05}"))).collect::<Vec<_>>();
        let found = Found::new(jiff::Timestamp::UNIX_EPOCH, names(MOST_DISCOVERED + 500).into_iter().map(|name| (name, None)).collect());
        let found = Arc::new(found);
        let plan = |linked: usize, asks: bool| {
            let tables: Vec<_> =
                names(linked).iter().map(|name| serde_json::json!({"name": "n", "uid": "u", "source": name, "target": name})).collect();
            let database = serde_json::json!({"postgresql": {"host": "h", "database": "d", "auth": {}}});
            let plan = serde_json::json!({
                "formatVersion": 1, "revision": 1, "run": 1, "intent": "Run", "workers": 1, "coresPerWorker": 1, "flushIntervalMs": 1,
                "link": {"namespace": "n", "name": "n", "uid": "u", "linkId": "l"}, "source": database, "target": database,
                "zone": {}, "tables": tables, "discover": asks.then(|| serde_json::json!({"include": ["public.*"]})),
            });
            Arc::new(serde_json::from_value::<Plan>(plan).unwrap())
        };
        let mut tables = Tables::default();
        tables.look(&plan(0, true), None);
        assert_eq!((tables.discovered.len(), &tables.discovery), (0, &None));
        let first = plan(0, true);
        tables.look(&first, Some(&found));
        assert_eq!((tables.discovered.len(), tables.discovery.as_ref().unwrap().eligible), (MOST_DISCOVERED, 2500));
        assert_eq!(tables.discovered[0].table_name, "t00000");
        tables.look(&plan(MOST_DISCOVERED, true), Some(&found));
        assert_eq!((tables.discovered.len(), tables.discovered[0].table_name.as_str()), (500, "t02000"));
        tables.look(&plan(0, false), Some(&found));
        assert!(tables.discovered.is_empty());
    }

    #[tokio::test]
    async fn a_plan_is_told_of_once_the_engine_has_it_and_its_systems_answered() {
        let plan = |revision: u64| {
            let database = serde_json::json!({"postgresql": {"host": "h", "database": "d", "auth": {}}});
            let plan = serde_json::json!({
                "formatVersion": 1, "revision": revision, "run": 1, "intent": "Run", "workers": 1, "coresPerWorker": 1,
                "flushIntervalMs": 1, "link": {"namespace": "n", "name": "n", "uid": "u", "linkId": "l"}, "source": database,
                "target": database, "zone": {}, "tables": [],
            });
            Arc::new(serde_json::from_value::<Plan>(plan).unwrap())
        };
        let nowhere = Fault { reason: "r".to_owned(), message: String::new(), remedy: String::new(), heals: true };
        let opened = |revision: u64| {
            let (zone, source, target) = (Err(nowhere.clone()), Err(nowhere.clone()), Err(nowhere.clone()));
            Some(Arc::new(Systems { revision, zone, source, target }))
        };
        // Another check each time, so that there is news.
        let answered = |revision: u64, text: &str| Answers { revision, checks: vec![Check::passed("A", text)], ..Answers::default() };
        let (plans, systems, taken) = (watch::Sender::new(Some(plan(1))), watch::Sender::new(opened(1)), watch::Sender::new(1));
        let (answers, engine) = (watch::Sender::new(Answers::default()), watch::Sender::new(EngineReport::default()));
        let newest = watch::Sender::new(None);
        let mut told = newest.subscribe();
        let works_by = WorksBy { systems: systems.subscribe(), revision: taken.subscribe() };
        let collecting = collect("shop-0".to_owned(), plans.subscribe(), works_by, answers.subscribe(), engine.subscribe(), newest);
        let collecting = tokio::spawn(collecting);
        let mut next = async || {
            told.changed().await.unwrap();
            told.borrow_and_update().as_ref().unwrap().plan_revision
        };
        assert_eq!(next().await, 0, "nobody answered yet");
        answers.send_replace(answered(1, "first"));
        assert_eq!(next().await, 1);
        // A plan that moves the link: the engine before is still at work.
        plans.send_replace(Some(plan(2)));
        answers.send_replace(answered(1, "second"));
        assert_eq!(next().await, 1);
        systems.send_replace(opened(2));
        taken.send_replace(2);
        engine.send_replace(EngineReport { run: Some(1), ..EngineReport::default() });
        assert_eq!(next().await, 1, "the checks are about the places before");
        answers.send_replace(answered(2, "third"));
        assert_eq!(next().await, 2);
        // One that does not.
        taken.send_replace(3);
        assert_eq!(next().await, 3);
        collecting.abort();
    }

    #[test]
    fn a_fault_wins_over_all_well_whoever_found_it() {
        let fault = |reason: &str| Fault { reason: reason.to_owned(), message: String::new(), remedy: String::new(), heals: true };
        let failed = |name: &str, reason: &str| Check::failed(name, fault(reason));
        let merged = merge(
            vec![failed("A", "asked"), Check::passed("B", ""), failed("C", "asked")],
            vec![Check::passed("A", ""), failed("B", "met"), failed("C", "met"), failed("D", "met")],
        );
        let reasons: Vec<_> = merged.iter().map(|check| (check.name.as_str(), check.fault.as_ref().map(|f| f.reason.as_str()))).collect();
        assert_eq!(reasons, [("A", Some("asked")), ("B", Some("met")), ("C", Some("met")), ("D", Some("met"))]);
    }
}
