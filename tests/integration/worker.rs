//! The worker as its controller meets it: over real TLS, by a real mount.

mod discovering;
mod oneshot;

use std::{
    fs,
    io::Write as _,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use flate2::{Compression, write::GzEncoder};
use link_operator::{
    api::{
        database::{OnExistingTable, PostgresqlDatabase, PostgresqlTarget, Source, Target},
        discover::Discover,
        fault::{Check, Fault},
        link_connection::SchemaChange,
        link_table::TableOptions,
        plan::{API_SERVER_NAME, Intent, KeptPosition, LinkIdentity, PLAN_FORMAT, Plan, PlannedTable, ProbeRequest},
        report::{Report, TablePhase, TableReport},
        source_protection::{Bounds, OnPositionLost},
        zone::{ClaimZone, ZoneStore},
    },
    data::TableName,
    source,
    worker::{self, Options, termination},
};
use reqwest::{Client, Response, StatusCode};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::{
    azurite::{free_port, zone_at},
    postgres::{PASSWORD, SECRET, Server},
};

const TOKEN: &str = "the link's own token";

/// A worker in this process, in folders like those of its pod.
struct Worker {
    folder: tempfile::TempDir,
    options: Options,
    stop: CancellationToken,
    running: JoinHandle<Result<(), worker::Error>>,
}

impl Worker {
    fn start(folder: tempfile::TempDir) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let path = |name: &str| folder.path().join(name);
        for name in ["api", "secrets", "volume", "plan"] {
            fs::create_dir_all(path(name)).unwrap();
        }
        let options = Options {
            worker: "shop-0".to_owned(),
            ordinal: 0,
            plan: path("plan/plan.json.gz"),
            secrets: path("secrets"),
            volume: path("volume"),
            api: path("api"),
            api_port: free_port(),
            health_port: free_port(),
            memory: 512 << 20,
        };
        let stop = CancellationToken::new();
        let running = tokio::spawn(worker::run(options.clone(), stop.clone()));
        Self { folder, options, stop, running }
    }

    /// Writes a new certificate and the token, and returns a client that trusts only this certificate.
    fn certify(folder: &Path, port: u16) -> Client {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let made = rcgen::generate_simple_self_signed([API_SERVER_NAME.to_owned()]).unwrap();
        fs::create_dir_all(folder.join("api")).unwrap();
        fs::write(folder.join("api/tls.key"), made.signing_key.serialize_pem()).unwrap();
        fs::write(folder.join("api/tls.crt"), made.cert.pem()).unwrap();
        fs::write(folder.join("api/token"), format!("{TOKEN}\n")).unwrap();
        Client::builder()
            .no_proxy()
            .https_only(true)
            .tls_certs_only([reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap()])
            .resolve(API_SERVER_NAME, SocketAddr::from(([127, 0, 0, 1], port)))
            .build()
            .unwrap()
    }

    /// A worker with a certificate, and its client.
    async fn with_client() -> (Self, Client) {
        let worker = Self::start(tempfile::tempdir().unwrap());
        let client = Self::certify(worker.folder.path(), worker.options.api_port);
        worker.until("the API answers", Duration::from_secs(10), async || worker.get(&client, 0, 0).await.is_ok()).await;
        (worker, client)
    }

    fn url(&self, path: &str) -> String {
        format!("https://{API_SERVER_NAME}:{}{path}", self.options.api_port)
    }

    async fn get(&self, client: &Client, after: u64, timeout: u64) -> reqwest::Result<Response> {
        client.get(self.url("/v1/report")).query(&[("after", after), ("timeout", timeout)]).bearer_auth(TOKEN).send().await
    }

    async fn put(&self, client: &Client, body: Vec<u8>) -> (StatusCode, serde_json::Value) {
        let answer = client.put(self.url("/v1/plan")).bearer_auth(TOKEN).body(body).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    /// The first report that is as wanted; what is not yet, is waited for by long polls.
    async fn report(&self, client: &Client, what: &str, wanted: impl Fn(&Report) -> bool) -> Report {
        let patience = Instant::now() + Duration::from_secs(20);
        let mut after = 0;
        let mut last = None;
        while Instant::now() < patience {
            let answer = self.get(client, after, 5).await.unwrap();
            if answer.status() == StatusCode::OK {
                let text = answer.text().await.unwrap();
                assert!(!text.contains(PASSWORD) && !text.contains(TOKEN), "{text}");
                let report: Report = serde_json::from_str(&text).unwrap();
                if wanted(&report) {
                    return report;
                }
                after = report.sequence;
                last = Some(report);
            }
        }
        panic!("no report in which {what}: {last:#?}");
    }

    async fn health(&self, path: &str) -> (u16, String) {
        let client = Client::builder().no_proxy().build().unwrap();
        let answer = client.get(format!("http://127.0.0.1:{}{path}", self.options.health_port)).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Waits until the metrics have all of these lines, and returns all of them.
    async fn metrics_with(&self, lines: &[&str]) -> String {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let (_, text) = self.health("/metrics").await;
            let missing: Vec<_> = lines.iter().filter(|wanted| !text.lines().any(|line| line == **wanted)).collect();
            if missing.is_empty() {
                return text;
            }
            assert!(Instant::now() < end, "{missing:?} is not in\n{text}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn until(&self, what: &str, patience: Duration, mut done: impl AsyncFnMut() -> bool) {
        let end = Instant::now() + patience;
        while !done().await {
            assert!(Instant::now() < end && !self.running.is_finished(), "{what}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        let result = tokio::time::timeout(Duration::from_secs(35), self.running).await.expect("stops in time");
        result.unwrap().unwrap();
    }
}

fn fault_of<'a>(report: &'a Report, name: &str) -> Option<&'a str> {
    report.checks.iter().find(|check| check.name == name)?.fault.as_ref().map(|fault| fault.reason.as_str())
}

fn claim() -> ZoneStore {
    ZoneStore { azure: None, persistent_volume_claim: Some(ClaimZone { claim_name: "files".to_owned(), folder: "links".to_owned() }) }
}

fn plan(revision: u64, database: &PostgresqlDatabase) -> Plan {
    Plan {
        format_version: PLAN_FORMAT,
        revision,
        link: LinkIdentity { namespace: "ns".to_owned(), name: "shop".to_owned(), uid: "0b8d".to_owned(), link_id: "ns.shop".to_owned() },
        run: 1,
        intent: Intent::Run,
        batch: None,
        workers: 1,
        cores_per_worker: 1,
        flush_interval_ms: 1000,
        retention_seconds: 86_400,
        transactional_consistency: false,
        schema_change: SchemaChange::default(),
        on_position_lost: OnPositionLost::default(),
        relink_policy: link_operator::api::link_connection::RelinkPolicy::default(),
        bounds: Bounds::default(),
        source: Source { postgresql: Some(database.clone()), sql_server: None },
        target: Target {
            postgresql: Some(PostgresqlTarget { database: database.clone(), on_existing_table: OnExistingTable::Fail }),
            sql_server: None,
            synapse: None,
        },
        zone: claim(),
        tables: Vec::new(),
        discover: None,
        log: None,
        stop_only: false,
        delete_target_tables: false,
        retain_zone: false,
        verify: None,
    }
}

/// A database that nobody serves.
fn nowhere() -> PostgresqlDatabase {
    serde_json::from_value(serde_json::json!({
        "host": "127.0.0.1", "port": free_port(), "database": "shop", "tls": {"mode": "Disable"},
        "auth": {"password": {"secretRef": {"name": "database"}}}
    }))
    .unwrap()
}

fn packed(plan: &Plan) -> Vec<u8> {
    packed_json(&serde_json::to_value(plan).unwrap())
}

fn packed_json(plan: &serde_json::Value) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(plan.to_string().as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn takes_plans_from_who_has_the_token_and_never_an_older_one() {
    let (worker, client) = Worker::with_client().await;
    assert_eq!(worker.health("/healthz").await.0, 200);
    assert_eq!(worker.health("/readyz").await, (503, "waiting for plan\n".to_owned()));

    let body = packed(&plan(2, &nowhere()));
    for (method, path) in [(reqwest::Method::PUT, "/v1/plan"), (reqwest::Method::GET, "/v1/report")] {
        for token in [None, Some(""), Some("the link's own tokem"), Some("x")] {
            let request = client.request(method.clone(), worker.url(path)).body(body.clone());
            let request = if let Some(token) = token { request.bearer_auth(token) } else { request };
            assert_eq!(request.send().await.unwrap().status(), StatusCode::UNAUTHORIZED, "{path} {token:?}");
        }
    }
    assert_eq!(worker.get(&client, 0, 0).await.unwrap().status(), StatusCode::NO_CONTENT);
    let (status, answer) = worker.put(&client, b"no plan".to_vec()).await;
    assert_eq!((status, answer["revision"].as_u64()), (StatusCode::BAD_REQUEST, Some(0)), "{answer}");
    let mut future = serde_json::to_value(plan(9, &nowhere())).unwrap();
    future["formatVersion"] = 99.into();
    let (status, answer) = worker.put(&client, packed_json(&future)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(answer["error"], "the plan has format version 99; this worker reads 1");

    assert_eq!(worker.put(&client, body.clone()).await.0, StatusCode::OK);
    assert_eq!(worker.put(&client, body).await.0, StatusCode::OK, "the same again is no error");
    let (status, answer) = worker.put(&client, packed(&plan(1, &nowhere()))).await;
    assert_eq!((status, answer["revision"].as_u64()), (StatusCode::CONFLICT, Some(2)), "{answer}");
    worker.report(&client, "revision 2 is in force", |report| report.plan_revision == 2).await;
    worker.until("it is ready", Duration::from_secs(5), async || worker.health("/readyz").await == (200, "ok\n".to_owned())).await;
    let (_, metrics) = worker.health("/metrics").await;
    assert!(metrics.contains("link_operator_plan_revision"), "{metrics}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_while_nothing_outside_does_and_wakes_who_waits() {
    let (worker, client) = Worker::with_client().await;
    worker.put(&client, packed(&plan(1, &nowhere()))).await;
    let report = worker.report(&client, "the source fails", |report| fault_of(report, "SourceReachable").is_some()).await;
    assert_eq!(fault_of(&report, "SourceReachable"), Some("SecretMissing"), "{report:?}");
    assert_eq!(fault_of(&report, "ZoneReadable"), None);
    assert_eq!((report.worker.as_str(), report.version.as_str()), ("shop-0", env!("CARGO_PKG_VERSION")));

    // The Secret comes, and the next fault shows by itself.
    fs::create_dir(worker.options.secrets.join(SECRET)).unwrap();
    fs::write(worker.options.secrets.join(SECRET).join("username"), "postgres").unwrap();
    fs::write(worker.options.secrets.join(SECRET).join("password"), PASSWORD).unwrap();
    let unreachable = |report: &Report| fault_of(report, "SourceReachable") == Some("SourceUnreachable");
    let mut report = worker.report(&client, "the source is unreachable", unreachable).await;

    // Wait until nothing is news, then be woken by a plan.
    while let Ok(answer) = worker.get(&client, report.sequence, 2).await {
        if answer.status() == StatusCode::NO_CONTENT {
            break;
        }
        report = answer.json().await.unwrap();
    }
    let mut moved = plan(2, &nowhere());
    moved.zone = zone_at(free_port(), "staging", "sas");
    let asked = Instant::now();
    let (answer, _) = tokio::join!(worker.get(&client, report.sequence, 30), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        worker.put(&client, packed(&moved)).await
    });
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    let woken: Report = answer.unwrap().json().await.unwrap();
    assert!(woken.sequence > report.sequence && woken.plan_revision == 2, "{woken:?}");
    // A zone elsewhere is opened anew.
    let lost = |report: &Report| fault_of(report, "CredentialValid") == Some("SecretMissing");
    worker.report(&client, "the new zone's Secret is missing", lost).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn follows_the_mount_and_the_certificate_through_their_swaps() {
    let (worker, client) = Worker::with_client().await;
    // As the kubelet does it: the file is a link through `..data`, which is replaced in one step.
    let mount = worker.options.plan.parent().unwrap().to_owned();
    let publish = |revision: u64| {
        let version = mount.join(format!("..{revision}"));
        fs::create_dir(&version).unwrap();
        fs::write(version.join("plan.json.gz"), packed(&plan(revision, &nowhere()))).unwrap();
        symlink(format!("..{revision}"), mount.join("..tmp")).unwrap();
        fs::rename(mount.join("..tmp"), mount.join("..data")).unwrap();
    };
    publish(3);
    symlink("..data/plan.json.gz", &worker.options.plan).unwrap();
    worker.report(&client, "revision 3 is in force", |report| report.plan_revision == 3).await;
    publish(4);
    worker.report(&client, "revision 4 is in force", |report| report.plan_revision == 4).await;
    worker.put(&client, packed(&plan(6, &nowhere()))).await;
    publish(5);
    tokio::time::sleep(Duration::from_secs(6)).await;
    worker.report(&client, "revision 6 stays in force", |report| report.plan_revision == 6).await;

    let renewed = Worker::certify(worker.folder.path(), worker.options.api_port);
    worker.until("the new certificate is in use", Duration::from_secs(8), async || worker.get(&renewed, 0, 0).await.is_ok()).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_port_that_is_taken_ends_the_worker_with_a_reason() {
    let taken = tokio::net::TcpListener::bind("[::]:0").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let options = Options {
        worker: "shop-0".to_owned(),
        ordinal: 0,
        plan: path("plan"),
        secrets: path("secrets"),
        volume: path("volume"),
        api: path("api"),
        api_port: taken.local_addr().unwrap().port(),
        health_port: free_port(),
        memory: 512 << 20,
    };
    let error = worker::run(options, CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, worker::Error::ListenFailed(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_worker_does_is_counted_by_table_and_forgotten_with_it() {
    let database = Server::shared().create_database().await;
    database.execute("CREATE TABLE public.a (id int PRIMARY KEY); INSERT INTO public.a SELECT generate_series(1, 30)").await;
    database.execute("CREATE TABLE public.b (id int PRIMARY KEY); INSERT INTO public.b VALUES (1); CREATE SCHEMA copy").await;
    let (worker, client) = Worker::with_client().await;
    fs::create_dir(worker.options.secrets.join(SECRET)).unwrap();
    fs::write(worker.options.secrets.join(SECRET).join("username"), "postgres").unwrap();
    fs::write(worker.options.secrets.join(SECRET).join("password"), PASSWORD).unwrap();
    let mut plan = plan(1, &database.spec);
    plan.link.link_id = format!("ns.{}", database.spec.database);
    plan.flush_interval_ms = 50;
    plan.tables = ["a", "b"].iter().enumerate().map(|(number, name)| into_schema("copy", table(number, "public", name))).collect();
    worker.put(&client, packed(&plan)).await;
    let all = |report: &Report| report.tables.len() == 2 && report.tables.iter().all(|table| table.phase == TablePhase::Replicating);
    worker.report(&client, "both tables replicate", all).await;
    database.execute("INSERT INTO public.a SELECT generate_series(31, 35)").await;
    worker
        .metrics_with(&[
            r#"link_operator_read_rows_total{kind="snapshot",table="public.a",link="shop"} 30"#,
            r#"link_operator_applied_rows_total{kind="snapshot",table="public.a",link="shop"} 30"#,
            r#"link_operator_read_rows_total{kind="changes",table="public.a",link="shop"} 5"#,
            r#"link_operator_applied_rows_total{kind="changes",table="public.a",link="shop"} 5"#,
            r#"link_operator_table_phase{phase="Replicating",table="public.b",link="shop"} 1"#,
            r#"link_operator_check_failed{check="SourceReachable",link="shop"} 0"#,
            r#"link_operator_plan_revision{link="shop"} 1"#,
            r#"link_operator_run{link="shop"} 1"#,
        ])
        .await;
    // How much log is kept is asked for every ten seconds.
    for series in [
        r#"link_operator_read_bytes_total{kind="changes",table="public.a",link="shop"} "#,
        r#"link_operator_applied_bytes_total{kind="snapshot",table="public.b",link="shop"} "#,
        r#"link_operator_table_lag_seconds{table="public.a",link="shop"} "#,
        r#"link_operator_lag_seconds{link="shop"} "#,
        r#"link_operator_batches_total{content="data",link="shop"} "#,
        r#"link_operator_commit_duration_seconds_count{link="shop"} "#,
        r#"link_operator_apply_duration_seconds_count{kind="changes",link="shop"} "#,
        r#"link_operator_last_commit_timestamp_seconds{link="shop"} "#,
        r#"link_operator_last_apply_timestamp_seconds{link="shop"} "#,
        r#"link_operator_source_retained_log_bytes{link="shop"} "#,
        r#"link_operator_zone_requests_total{result="ok",verb="put",link="shop"} "#,
        r#"link_operator_zone_requests_total{result="ok",verb="create",link="shop"} "#,
        r#"link_operator_core_seconds_total{link="shop"} "#,
    ] {
        let there = async || worker.metrics_with(&[]).await.contains(series);
        worker.until(series, Duration::from_secs(20), there).await;
    }
    let everywhere = |report: &Report| {
        report.position.as_ref().is_some_and(|at| at.source_head.is_some() && at.captured.is_some() && at.applied == at.captured)
    };
    let report = worker.report(&client, "all is applied, and where the source is is known", everywhere).await;
    let position = report.position.unwrap();
    assert!(position.source_head >= position.captured.map(|captured| captured.value), "the end is not before what was captured");

    // A table that cannot be read is counted by the reason.
    database.execute("DROP TABLE public.b").await;
    let failed = |report: &Report| report.tables.iter().any(|table| table.phase == TablePhase::Failed);
    plan.revision = 2;
    plan.tables.push(into_schema("copy", table(2, "public", "gone")));
    worker.put(&client, packed(&plan)).await;
    worker.report(&client, "the missing table failed", failed).await;
    let metrics = worker.metrics_with(&[]).await;
    assert!(metrics.contains(r#"link_operator_errors_total{reason="SourceTableMissing",task="join",link="shop"} "#), "{metrics}");

    // What leaves the plan leaves the metrics.
    plan.revision = 3;
    plan.tables = vec![into_schema("copy", table(0, "public", "a"))];
    worker.put(&client, packed(&plan)).await;
    let alone = async || !worker.metrics_with(&[r#"link_operator_plan_revision{link="shop"} 3"#]).await.contains("public.b");
    worker.until("series of public.b are gone", Duration::from_secs(10), alone).await;
    worker.stop().await;
    source::open(&plan.source, &database.secrets, &plan.link.link_id).unwrap().release().await.unwrap();
}

fn into_schema(schema: &str, table: PlannedTable) -> PlannedTable {
    PlannedTable { target: TableName::new(schema, &table.source.table_name), ..table }
}

fn table(number: usize, schema: &str, name: &str) -> PlannedTable {
    let table = TableName::new(schema, name);
    PlannedTable {
        name: format!("t{number}"),
        uid: format!("{number:036}"),
        source: table.clone(),
        target: table,
        options: TableOptions::default(),
        reseed: None,
        verify: None,
    }
}
