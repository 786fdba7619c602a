//! The rules of DESIGN 3.3, case by case.

use std::sync::Arc;

use jiff::Timestamp;

use super::{
    fixtures,
    lifecycle::Course,
    loss::Loss,
    status::{Crew, Findings, TableView, change, status},
    told as events,
};
use crate::{
    api::{
        conditions::{get, kind},
        discovery::{Discovery, Found},
        fault::{Check, Fault},
        link_connection::{LinkConnectionSpec, LinkConnectionStatus, LinkPhase, LinkState},
        plan::Intent,
        report::{Report, TablePhase},
        source_protection::Bounds,
    },
    controller::{budget, status::Change},
};

fn fault(reason: &str, heals: bool) -> Fault {
    Fault { reason: reason.into(), message: "it is wrong".into(), remedy: "mend it".into(), heals }
}

fn report(checks: Vec<Check>) -> Report {
    Report { checks, ..crate::controller::link_connection::status_tests::empty() }
}

/// A report without content.
pub fn empty() -> Report {
    serde_json::from_value(serde_json::json!({"formatVersion": 1, "sequence": 1, "worker": "shop-0", "version": "1", "planRevision": 7}))
        .unwrap()
}

fn crew(desired: u32, checks: Vec<Check>) -> Crew {
    Crew { desired, ready: desired, current: desired, reports: vec![Arc::new(report(checks))], ..Crew::default() }
}

fn table(phase: TablePhase, fault: Option<Fault>) -> TableView {
    let complete = phase == TablePhase::Replicating;
    let as_of = complete.then_some(Timestamp::UNIX_EPOCH);
    TableView {
        name: format!("shop-{phase}").to_lowercase(),
        phase,
        fault,
        complete,
        consistent: complete,
        as_of,
        loads: false,
        came_on: None,
    }
}

struct Case {
    phase: LinkPhase,
    state: LinkState,
    crew: Crew,
    tables: Vec<TableView>,
    refusal: Option<Fault>,
    probe: Option<Report>,
}

fn running() -> Case {
    let tables = vec![table(TablePhase::Replicating, None)];
    let checks = vec![Check::passed("SourceReachable", "PostgreSQL 15")];
    Case { phase: LinkPhase::Running, state: LinkState::Running, crew: crew(1, checks), tables, refusal: None, probe: None }
}

fn resting(phase: LinkPhase, state: LinkState, checks: Vec<Check>) -> Case {
    Case { phase, state, crew: Crew::default(), probe: Some(report(checks)), ..running() }
}

fn judge(case: &Case, before: &LinkConnectionStatus) -> LinkConnectionStatus {
    let mut spec = fixtures::link().spec;
    spec.state = case.state;
    judge_spec(case, before, &spec)
}

fn judge_spec(case: &Case, before: &LinkConnectionStatus, spec: &LinkConnectionSpec) -> LinkConnectionStatus {
    let workers = matches!(case.phase, LinkPhase::Starting | LinkPhase::Running | LinkPhase::Resuming);
    let findings = Findings {
        generation: Some(3),
        spec,
        link_id: "shops.shop".into(),
        course: Course { phase: case.phase, run: 1, workers, intent: Intent::Run, release: false, batch: None },
        refusal: case.refusal.clone(),
        trouble: None,
        crew: case.crew.clone(),
        rollout_waits: false,
        probe: case.probe.as_ref(),
        bounds: Bounds::default(),
        loss: Loss::default(),
        probed_at: None,
        probe_obstacle: None,
        release_obstacle: None,
        tables_to_come: false,
        tables: case.tables.clone(),
        verified: None,
        test: None,
        restarted: None,
        deleting: false,
    };
    status(before, &findings, Timestamp::UNIX_EPOCH).0
}

/// Ready, its reason, Reconciling, Stalled, Suspended.
fn told(status: &LinkConnectionStatus) -> [String; 5] {
    let of = |kind: &str| get(&status.conditions, kind).map(|condition| condition.status.clone()).unwrap_or_default();
    let reason = get(&status.conditions, kind::READY).map(|ready| ready.reason.clone()).unwrap_or_default();
    [of(kind::READY), reason, of(kind::RECONCILING), of(kind::STALLED), of(kind::SUSPENDED)]
}

#[test]
fn ready_says_whether_the_link_does_what_its_spec_asks() {
    use {LinkPhase as P, LinkState as S, TablePhase as T};
    let failed = |heals| vec![Check::failed("SourceReachable", fault("SourceUnreachable", heals))];
    let fine = || vec![Check::passed("SourceReachable", "")];
    let with = |tables: Vec<TableView>| Case { tables, ..running() };
    // The cases are judged at the epoch.
    let came_on = |minutes_ago: i64| {
        let came_on = Timestamp::UNIX_EPOCH.checked_sub(jiff::SignedDuration::from_mins(minutes_ago)).ok();
        TableView { loads: true, came_on, ..table(T::Snapshotting, None) }
    };
    let cases = vec![
        ("all replicate", running(), ["True", "Replicating", "False", "False", "False"]),
        (
            "one loads",
            with(vec![table(T::Snapshotting, None), table(T::Replicating, None)]),
            ["True", "Snapshotting", "False", "False", "False"],
        ),
        ("one load comes on", with(vec![came_on(90), came_on(29)]), ["True", "Snapshotting", "False", "False", "False"]),
        (
            "a small one was loaded",
            with(vec![came_on(90), TableView { loads: false, phase: T::Replicating, ..came_on(29) }]),
            ["True", "Snapshotting", "False", "False", "False"],
        ),
        ("none does", with(vec![came_on(90), came_on(31)]), ["False", "SnapshotStuck", "True", "False", "False"]),
        ("one waits", with(vec![table(T::Waiting, None)]), ["False", "TablesWaiting", "True", "False", "False"]),
        ("none", with(vec![]), ["True", "NoTables", "False", "False", "False"]),
        (
            "one failed",
            with(vec![table(T::Failed, Some(fault("X", false))), table(T::Suspended, None)]),
            ["False", "TablesFailed", "False", "True", "False"],
        ),
        ("one suspended", with(vec![table(T::Suspended, Some(fault("X", true)))]), ["False", "TablesSuspended", "True", "False", "False"]),
        ("source away", Case { crew: crew(1, failed(true)), ..running() }, ["False", "SourceUnreachable", "True", "False", "False"]),
        ("needs a person", Case { crew: crew(1, failed(false)), ..running() }, ["False", "SourceUnreachable", "False", "True", "False"]),
        (
            "no zone",
            Case { refusal: Some(fault("LandingZoneNotFound", true)), ..running() },
            ["False", "LandingZoneNotFound", "True", "False", "False"],
        ),
        (
            "one of two",
            Case { crew: Crew { ready: 1, ..crew(2, fine()) }, ..running() },
            ["False", "WorkersMissing", "True", "False", "False"],
        ),
        (
            "no node",
            Case { crew: Crew { ready: 0, problem: Some(fault("Unschedulable", true)), ..crew(1, fine()) }, ..running() },
            ["False", "Unschedulable", "True", "False", "False"],
        ),
        (
            "old plan",
            Case { crew: Crew { current: 0, ..crew(1, fine()) }, ..running() },
            ["Unknown", "Progressing", "True", "False", "False"],
        ),
        (
            "starting",
            Case { phase: P::Starting, crew: Crew { ready: 0, ..crew(1, fine()) }, ..running() },
            ["False", "Starting", "True", "False", "False"],
        ),
        ("pausing", Case { phase: P::Pausing, state: S::Paused, ..running() }, ["False", "Pausing", "True", "False", "False"]),
        ("paused", resting(P::Paused, S::Paused, fine()), ["True", "Paused", "False", "False", "True"]),
        ("stopped", resting(P::Stopped, S::Stopped, fine()), ["True", "Stopped", "False", "False", "True"]),
        ("paused at creation", resting(P::Initial, S::Paused, fine()), ["True", "Paused", "False", "False", "True"]),
        ("paused after a stop", resting(P::Stopped, S::Paused, fine()), ["True", "Paused", "False", "False", "True"]),
        ("never started", resting(P::Initial, S::Stopped, fine()), ["True", "Stopped", "False", "False", "True"]),
        ("paused, password wrong", resting(P::Paused, S::Paused, failed(true)), ["False", "SourceUnreachable", "True", "False", "True"]),
        (
            "paused, table missing",
            Case { tables: vec![table(T::Failed, Some(fault("SourceTableMissing", false)))], ..resting(P::Paused, S::Paused, fine()) },
            ["False", "TablesFailed", "False", "True", "True"],
        ),
        (
            "stopped at creation, not asked yet",
            Case { probe: None, ..resting(P::Initial, S::Stopped, vec![]) },
            ["Unknown", "NotChecked", "True", "False", "True"],
        ),
    ];
    for (name, case, expected) in cases {
        assert_eq!(told(&judge(&case, &LinkConnectionStatus::default())), expected, "{name}");
    }
}

/// With the page about its reason.
const TOLD: &str = "it is wrong; mend it; see https://github.com/link-operator/link-operator/blob/main/deploy/runbooks/LinkCheckFailing.md";

#[test]
fn a_fault_is_told_with_its_remedy_and_goes_when_it_is_mended() {
    let broken = Case { crew: crew(1, vec![Check::failed("TargetReachable", fault("TargetUnreachable", true))]), ..running() };
    let status = judge(&broken, &LinkConnectionStatus::default());
    let condition = get(&status.conditions, "TargetReachable").unwrap();
    assert_eq!((condition.status.as_str(), condition.message.as_str()), ("False", TOLD));
    assert_eq!(get(&status.conditions, kind::READY).unwrap().message, TOLD);

    let status = judge(&running(), &status);
    assert!(get(&status.conditions, "TargetReachable").is_none(), "{:?}", status.conditions);
    assert_eq!(told(&status)[0], "True");
}

#[test]
fn what_was_said_stands_until_workers_had_time_to_answer_a_new_controller() {
    let before = judge(&running(), &LinkConnectionStatus::default());
    let silent = Crew { desired: 1, ready: 1, expecting: true, ..Crew::default() };
    let after = judge(&Case { crew: silent.clone(), ..running() }, &before);
    assert_eq!(told(&after)[0], "True");
    let later = judge(&Case { crew: Crew { expecting: false, ..silent }, ..running() }, &before);
    assert_eq!(told(&later)[0], "Unknown");
}

/// A status as it was when the spec had another generation.
fn of_generation_before(mut status: LinkConnectionStatus) -> LinkConnectionStatus {
    status.observed_generation = Some(2);
    status.conditions.iter_mut().for_each(|condition| condition.observed_generation = Some(2));
    status
}

#[test]
fn what_workers_say_by_a_plan_before_says_nothing_of_the_present_one() {
    let before = judge(&running(), &LinkConnectionStatus::default());
    let behind = |checks: Vec<Check>| Crew { current: 0, expecting: true, ..crew(1, checks) };
    let failed = || behind(vec![Check::failed("SourceReachable", fault("SourceUnreachable", false))]);
    // A new spec: neither is all well with it, nor does what was wrong before stand in its way.
    for crew in [behind(vec![Check::passed("SourceReachable", "")]), failed()] {
        let after = judge(&Case { crew, ..running() }, &of_generation_before(before.clone()));
        assert_eq!(told(&after)[..4], ["Unknown", "NewGeneration", "True", "False"]);
        assert_eq!(get(&after.conditions, "SourceReachable").unwrap().observed_generation, Some(2));
    }
    // The same spec, and another plan: what was said stands, but for a table that came.
    assert_eq!(told(&judge(&Case { crew: failed(), ..running() }, &before))[0], "True");
    let tables = vec![table(TablePhase::Waiting, None), table(TablePhase::Replicating, None)];
    let after = judge(&Case { crew: behind(vec![]), tables, ..running() }, &before);
    assert_eq!(told(&after)[..3], ["False", "TablesWaiting", "True"]);
}

#[test]
fn a_link_that_discovers_its_tables_has_none_once_its_source_said_so() {
    let mut spec = fixtures::link().spec;
    spec.discover = serde_json::from_value(serde_json::json!({"include": ["public.*"]})).unwrap();
    let mut case = Case { tables: vec![], ..running() };
    let said = |case: &Case| told(&judge_spec(case, &LinkConnectionStatus::default(), &spec))[..2].to_vec();
    assert_eq!(said(&case), ["Unknown", "Progressing"]);
    let found = Found::new(Timestamp::UNIX_EPOCH, vec![]).discovery(None);
    case.crew.reports = vec![Arc::new(Report { discovery: Some(found), ..report(vec![]) })];
    assert_eq!(said(&case), ["True", "NoTables"]);
}

#[test]
fn a_new_spec_of_a_link_that_rests_is_not_well_before_it_was_tested() {
    let passed = || vec![Check::passed("SourceReachable", "")];
    let rests = resting(LinkPhase::Paused, LinkState::Paused, passed());
    let before = judge(&rests, &LinkConnectionStatus::default());
    assert_eq!(told(&before)[..2], ["True", "Paused"]);
    let asked = Case { probe: None, ..resting(LinkPhase::Paused, LinkState::Paused, vec![]) };
    assert_eq!(told(&judge(&asked, &before))[..2], ["True", "Paused"], "it is asked again");
    assert_eq!(told(&judge(&asked, &of_generation_before(before.clone())))[..2], ["Unknown", "NotChecked"]);
    assert_eq!(told(&judge(&rests, &of_generation_before(before)))[..2], ["True", "Paused"]);
}

#[test]
fn a_status_that_says_the_same_is_the_same() {
    let before = judge(&running(), &LinkConnectionStatus::default());
    assert_eq!(judge(&running(), &before), before);
    assert_eq!(before.tables.as_ref().unwrap().summary, "1/1");
    assert!(before.conditions.iter().all(|condition| condition.observed_generation == Some(3)));
}

#[test]
fn what_the_source_has_stands_until_it_says_another_thing() {
    let at =
        |second: i64, eligible: u32| Discovery { eligible, ..Found::new(Timestamp::from_second(second).unwrap(), vec![]).discovery(None) };
    let said = |discovery: Option<Discovery>, before: &LinkConnectionStatus| {
        let mut case = running();
        case.crew.reports = vec![Arc::new(Report { discovery, ..report(vec![]) })];
        judge(&case, before)
    };
    let first = said(Some(at(1, 2)), &LinkConnectionStatus::default());
    assert_eq!(first.discovery, Some(at(1, 2)));
    assert_eq!(said(Some(at(2, 2)), &first).discovery, Some(at(1, 2)), "no write says the same again");
    assert_eq!(said(None, &first).discovery, Some(at(1, 2)));
    assert_eq!(said(Some(at(3, 1)), &first).discovery, Some(at(3, 1)));
}

#[test]
fn consistent_as_of_is_the_earliest_of_the_tables_that_it_speaks_of() {
    let at = |seconds: i64| Timestamp::from_second(seconds).unwrap();
    let as_of = |seconds: i64| TableView { as_of: Some(at(seconds)), ..table(TablePhase::Replicating, None) };
    let said = |tables: Vec<TableView>, before: &LinkConnectionStatus| {
        let status = judge(&Case { tables, ..running() }, before);
        let consistent = get(&status.conditions, kind::CONSISTENT).unwrap();
        ((consistent.status.clone(), consistent.reason.clone(), consistent.message.clone()), status)
    };
    let ((truth, reason, _), all) = said(vec![as_of(20), as_of(10)], &LinkConnectionStatus::default());
    assert_eq!((truth.as_str(), reason.as_str(), all.consistent_as_of), ("True", "AllTables", Some(at(10))));

    let failed = TableView { as_of: Some(at(1)), ..table(TablePhase::Failed, Some(fault("SchemaChanged", false))) };
    let ((truth, reason, message), some) = said(vec![as_of(30), failed], &all);
    assert_eq!((truth.as_str(), reason.as_str(), some.consistent_as_of), ("False", "TablesOutside", Some(at(30))));
    assert!(message.contains("1 of 2 tables: shop-failed (Failed)"), "{message}");

    // One of which nobody knows yet as of when it is: what was said before stands.
    let (_, unsure) = said(vec![as_of(40), TableView { as_of: None, ..as_of(0) }], &some);
    assert_eq!(unsure.consistent_as_of, Some(at(30)));
}

#[test]
fn source_and_target_are_named_with_their_kinds() {
    let mut spec = fixtures::link().spec;
    let server = serde_json::json!({"host": "dw", "database": "shop", "auth": {"managedIdentity": {}}});
    let findings = |spec: &LinkConnectionSpec| {
        let mut case = resting(LinkPhase::Paused, LinkState::Paused, vec![]);
        case.probe = None;
        judge_spec(&case, &LinkConnectionStatus::default(), spec)
    };
    let status = findings(&spec);
    let target = status.target.unwrap();
    assert_eq!((status.source.unwrap().kind.as_str(), target.kind.as_str()), ("postgresql", "postgresql"));
    assert_eq!(target.endpoint.unwrap(), "dw:5432/shop");

    spec.source = serde_json::from_value(serde_json::json!({"sqlServer": server})).unwrap();
    spec.target = serde_json::from_value(serde_json::json!({"sqlServer": server})).unwrap();
    let status = findings(&spec);
    let target = status.target.unwrap();
    assert_eq!((status.source.unwrap().kind.as_str(), target.kind.as_str()), ("sqlServer", "sqlServer"));
    assert_eq!(target.endpoint.unwrap(), "dw:1433/shop");
}

#[test]
fn the_position_is_that_of_the_last_worker_and_no_more_than_progress() {
    let works = |position: serde_json::Value| {
        let more = serde_json::json!({"source": {"version": "P", "identity": "1", "retainedLogBytes": 9}});
        let mut said = serde_json::to_value(empty()).unwrap();
        said.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        said["position"] = position;
        Arc::new(serde_json::from_value::<Report>(said).unwrap())
    };
    let at = |value: &str, second: i64| serde_json::json!({"value": value, "time": Timestamp::from_second(second).unwrap()});
    let of = |reports: Vec<Arc<Report>>| Case { crew: Crew { reports, ..crew(2, vec![]) }, ..running() };
    let captures = |head: &str| works(serde_json::json!({"sourceHead": head, "captured": at("3", 3), "applied": at("3", 3)}));
    let behind = works(serde_json::json!({"applied": at("2", 2)}));
    let before = judge(&of(vec![behind.clone(), captures("4")]), &LinkConnectionStatus::default());
    let position = before.position.clone().unwrap();
    let values = (position.source_head.unwrap(), position.captured.unwrap().value, position.applied.unwrap().value);
    assert_eq!(values, ("4".to_owned(), "3".to_owned(), "2".to_owned()));
    // Before each has said so, nobody knows how far all are.
    let half = judge(&of(vec![works(serde_json::Value::Null), captures("4")]), &LinkConnectionStatus::default());
    assert_eq!(half.position.unwrap().applied, None);

    let after = judge(&of(vec![behind, captures("5")]), &before);
    assert_eq!((change(&before, &after), change(&after, &after)), (Change::Progress(budget::SELDOM), Change::None));
    let on = judge(&of(vec![captures("6")]), &after);
    assert_eq!(change(&after, &on), Change::Progress(budget::EACH));
    // A load that goes on; not its end.
    let loading = |phases: &[TablePhase]| {
        let tables = phases.iter().map(|phase| table(*phase, None)).collect();
        judge(&Case { tables, ..running() }, &LinkConnectionStatus::default())
    };
    let (loads, done) = (TablePhase::Snapshotting, TablePhase::Replicating);
    let (two, one) = (loading(&[loads, loads, done]), loading(&[loads, done, done]));
    let told_alike = LinkConnectionStatus { conditions: two.conditions.clone(), ..one.clone() };
    assert_eq!(change(&two, &told_alike), Change::Progress(budget::EACH));
    assert_eq!(change(&one, &loading(&[done, done, done])), Change::State);
    let broken = Case { crew: crew(2, vec![Check::failed("SourceReachable", fault("SourceUnreachable", true))]), ..running() };
    assert_eq!(change(&after, &judge(&broken, &after)), Change::State);
}

#[test]
fn a_link_that_is_scaled_says_so_and_one_that_starts_does_not() {
    let at = |desired: u32| judge(&Case { crew: crew(desired, vec![]), ..running() }, &LinkConnectionStatus::default());
    let reasons = |before: &LinkConnectionStatus, after: &LinkConnectionStatus| {
        events::events(before, after).into_iter().map(|event| event.reason).collect::<Vec<_>>()
    };
    assert_eq!(reasons(&at(1), &at(2)), ["WorkersScaled"]);
    assert!(!reasons(&at(0), &at(2)).contains(&"WorkersScaled".to_owned()));
    assert!(!reasons(&at(2), &at(0)).contains(&"WorkersScaled".to_owned()));
}
