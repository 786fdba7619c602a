//! Pods that end with an answer: probe and release.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_says_which_tables_cannot_be_linked_and_touches_nothing() {
    let database = Server::shared().create_database().await;
    database.execute("CREATE TABLE public.good (id int PRIMARY KEY); CREATE TABLE public.keyless (id int)").await;
    let volume = tempfile::tempdir().unwrap();
    let mut request = ProbeRequest {
        link_id: Some("ns.shop".to_owned()),
        source: Some(Source { postgresql: Some(database.spec.clone()), sql_server: None }),
        target: Some(Target {
            postgresql: Some(PostgresqlTarget { database: database.spec.clone(), on_existing_table: OnExistingTable::Fail }),
            sql_server: None,
            synapse: None,
        }),
        zone: Some(claim()),
        not_asked: 0,
        tables: vec![table(0, "public", "good"), table(1, "public", "keyless"), table(2, "public", "gone")],
        discover: None,
        forecast_cores: None,
        kept: None,
    };
    let report = worker::probe(&request, &database.secrets, volume.path()).await;
    let discovered = report.discovery.as_ref().unwrap();
    assert_eq!(discovered.eligible_tables, [TableName::new("public", "good")]);
    assert_eq!(discovered.ineligible_tables.iter().map(|table| table.reason.as_str()).collect::<Vec<_>>(), ["NoPrimaryKey"]);
    let tables: Vec<_> = report.tables.iter().map(|table| (table.phase, table.error.as_ref().map(|fault| fault.reason.as_str()))).collect();
    assert_eq!(tables[0], (TablePhase::Waiting, None));
    assert_eq!((tables[1].1, tables[2].1), (Some("NoPrimaryKey"), Some("SourceTableMissing")));
    for name in ["SourceReachable", "TargetReachable", "ZoneReadable", "ZoneWritable"] {
        assert!(report.checks.iter().any(|check| check.name == name && check.fault.is_none()), "{name}: {:?}", report.checks);
    }

    // With patterns, of those that are asked for.
    request.discover = Some(Discover { include: vec!["*.k*".to_owned()], exclude: vec![] });
    let discovered = worker::probe(&request, &database.secrets, volume.path()).await.discovery.unwrap();
    assert_eq!((discovered.eligible, discovered.ineligible), (0, 1));

    // A fault of the whole source is said once, not for each table, and without the password.
    database.set_secret("password", "hunter2 is wrong");
    request.zone = None;
    let report = worker::probe(&request, &database.secrets, volume.path()).await;
    assert_eq!(fault_of(&report, "SourceReachable"), Some("SourceAuthenticationFailed"), "{report:?}");
    assert!(report.tables.is_empty(), "{report:?}");
    assert!(!termination::cut(report).contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_measures_what_is_kept_for_a_paused_link_and_gives_up_too_much_of_its_own() {
    let database = Server::shared().create_database().await;
    let volume = tempfile::tempdir().unwrap();
    let link = format!("ns.{}", database.spec.database);
    let system = Source { postgresql: Some(database.spec.clone()), sql_server: None };
    let begin = async |owner| source::open(&system, &database.secrets, &link).unwrap().begin_run(owner).await.unwrap();
    let slots = async || -> i64 {
        let query = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()";
        database.connect().await.query_one(query, &[]).await.unwrap().get(0)
    };
    let probe = async |give_up_above: Option<u64>| {
        let kept = KeptPosition { uid: "ours".to_owned(), run: 3, on_position_lost: OnPositionLost::Fail, give_up_above };
        let request =
            ProbeRequest { link_id: Some(link.clone()), source: Some(system.clone()), kept: Some(kept), ..ProbeRequest::default() };
        worker::probe(&request, &database.secrets, volume.path()).await
    };
    let write = "SELECT pg_logical_emit_message(false, 'test', repeat('x', 1000000)) FROM generate_series(1, 3)";

    // Whose the slot is says the source: what another link of the same id needs is let alone, and is not this one's to tell.
    begin("another's").await;
    database.execute(write).await;
    let report = probe(Some(1 << 20)).await;
    assert_eq!((report.source.and_then(|source| source.retained_log_bytes), report.position_lost, slots().await), (None, None, 1));
    begin("ours").await;
    database.execute(write).await;
    for above in [None, Some(1 << 30)] {
        let report = probe(above).await;
        assert!(report.source.unwrap().retained_log_bytes.unwrap() > 3_000_000);
        assert_eq!((report.position_lost, slots().await), (None, 1));
    }
    // Given up, and so it stays.
    for above in [Some(1 << 20), Some(1 << 20), None] {
        let report = probe(above).await;
        let lost = report.position_lost.expect("it says so");
        assert_eq!((lost.run, lost.fault.reason.as_str(), lost.fault.heals), (3, "PositionGivenUp", true), "{lost:?}");
        assert_eq!((report.source.unwrap().retained_log_bytes, slots().await), (None, 0));
    }
    // Until the next run begins. (Other tests write to the server's log too.)
    begin("ours").await;
    assert_eq!((probe(Some(1 << 30)).await.position_lost, slots().await), (None, 1));
    source::open(&system, &database.secrets, &link).unwrap().release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_frees_what_it_can_and_names_the_rest() {
    let server = Server::shared();
    let database = server.create_database().await;
    let volume = tempfile::tempdir().unwrap();
    let mut plan = plan(1, &database.spec);
    plan.link.link_id = format!("ns.{}", database.spec.database);
    let link = plan.link.link_id.clone();
    source::open(&plan.source, &database.secrets, &link).unwrap().begin_run("uid").await.unwrap();
    let slots = async || -> i64 {
        let query = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()";
        database.connect().await.query_one(query, &[]).await.unwrap().get(0)
    };
    assert_eq!(slots().await, 1);
    let folder = volume.path().join("links").join(&link);
    fs::create_dir_all(folder.join("_link/runs")).unwrap();
    fs::write(folder.join("_link/runs/1.json"), "{}").unwrap();

    // To stop is to free the source alone.
    plan.stop_only = true;
    let report = worker::release(&plan, &database.secrets, volume.path()).await;
    assert!(report.released, "{report:?}");
    assert_eq!((slots().await, report.checks.len(), folder.exists()), (0, 1, true));

    // Without the source the rest goes all the same.
    plan.stop_only = false;
    plan.source.postgresql = Some(PostgresqlDatabase { port: free_port(), ..database.spec.clone() });
    let report = worker::release(&plan, &database.secrets, volume.path()).await;
    assert_eq!((report.released, fault_of(&report, "SourceReleased")), (false, Some("SourceUnreachable")), "{report:?}");
    let remedy = &report.checks[0].fault.as_ref().unwrap().remedy;
    assert!(remedy.contains("pg_drop_replication_slot"), "{remedy}");
    assert_eq!((fault_of(&report, "TargetReleased"), fault_of(&report, "ZoneReleased")), (None, None));
    assert!(!folder.exists());
}

#[test]
fn a_probe_process_writes_its_answer_and_ends_well() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("termination-log");
    let request = ProbeRequest { zone: Some(zone_at(free_port(), "staging", "sas")), ..ProbeRequest::default() };
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_link-operator"));
        command.env("TERMINATION_LOG", &log).env("POD_NAME", "shop-probe").arg("worker").args(arguments).output().unwrap()
    };
    let output = run(&["--probe", "--request", &serde_json::to_string(&request).unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let report: Report = serde_json::from_slice(&fs::read(&log).unwrap()).unwrap();
    assert_eq!((report.worker.as_str(), fault_of(&report, "CredentialValid")), ("shop-probe", Some("SecretMissing")));

    let output = run(&["--release", "--request", "{}"]);
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("--request is no Plan"), "{output:?}");
    let output = run(&["--probe"]);
    assert!(!output.status.success());
}

#[test]
fn an_answer_with_hundreds_of_failures_fits_a_termination_message() {
    let fault = |length: usize| Fault {
        reason: "NoPrimaryKey".to_owned(),
        message: "ä".repeat(length),
        remedy: "ALTER TABLE …".to_owned(),
        heals: true,
    };
    let report = |failing: usize, well: usize, length: usize, checks: usize| {
        let mut report: Report = serde_json::from_value(serde_json::json!({
            "formatVersion": 1, "sequence": 1, "worker": "shop-probe", "version": "0.1.0", "planRevision": 0
        }))
        .unwrap();
        report.checks = (0..checks).map(|i| Check::failed(&format!("Check{i}"), fault(length))).collect();
        for i in 0..failing + well {
            let error = (i % 2 == 0 && i / 2 < failing || i >= 2 * failing.min(well) && well < failing).then(|| fault(length));
            report.tables.push(
                serde_json::from_value::<TableReport>(serde_json::json!({"uid": format!("{i:036}"), "phase": "Waiting", "error": error}))
                    .unwrap(),
            );
        }
        report
    };
    // Few enough: nothing is left out.
    let small = report(2, 3, 10, 3);
    assert_eq!(serde_json::from_str::<Report>(&termination::cut(small.clone())).unwrap(), small);

    for (failing, well, length, checks) in [(500, 0, 20, 4), (1, 500, 20, 4), (500, 500, 3000, 4), (500, 0, 100, 30), (3, 0, 3000, 12)] {
        let whole = report(failing, well, length, checks);
        let text = termination::cut(whole.clone());
        assert!(text.len() <= termination::LIMIT, "{} bytes", text.len());
        let cut: Report = serde_json::from_str(&text).unwrap();
        assert!(cut.tables.iter().all(|table| table.error.is_some()));
        let reasons = |report: &Report| report.checks.iter().map(|check| (check.name.clone(), check.fault.is_some())).collect::<Vec<_>>();
        assert_eq!(reasons(&cut), reasons(&whole));
        assert!(failing == 0 || checks > 10 || !cut.tables.is_empty(), "no table in {text}");
    }
}
