//! Who plays a worker.

use super::*;

/// What stands in for a worker: its HTTPS API on an address of its own.
pub struct Worker {
    pub pod: String,
    pub(super) address: SocketAddr,
    plan: watch::Receiver<Option<Plan>>,
    pushed: Arc<std::sync::Mutex<Vec<Plan>>>,
    report: watch::Sender<Option<Report>>,
    server: JoinHandle<()>,
}

#[derive(Clone)]
struct Shared {
    token: Arc<String>,
    plan: watch::Sender<Option<Plan>>,
    pushed: Arc<std::sync::Mutex<Vec<Plan>>>,
    report: watch::Receiver<Option<Report>>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Worker {
    pub(super) async fn start(pod: String, secret: BTreeMap<String, Vec<u8>>) -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(20);
        // Pods have the same port and different addresses; so does loopback.
        let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        // Nor are those of another process that tests at the same time.
        let process = 64 + (std::process::id() % 128) as u8;
        let address = SocketAddr::from((Ipv4Addr::new(127, process, high, low), API_PORT));
        let (plan, plans) = watch::channel(None);
        let (report, reports) = watch::channel(None);
        let pushed = Arc::<std::sync::Mutex<Vec<Plan>>>::default();
        let token = Arc::new(String::from_utf8(secret["token"].clone()).unwrap());
        let shared = Shared { token, plan, pushed: pushed.clone(), report: reports };
        let router = Router::new().route("/v1/plan", put(take_plan)).route("/v1/report", get(tell)).with_state(shared);
        let tls = RustlsConfig::from_pem(secret["tls.crt"].clone(), secret["tls.key"].clone()).await.unwrap();
        let server = tokio::spawn(async move {
            axum_server::bind_rustls(address, tls).serve(router.into_make_service()).await.unwrap();
        });
        Self { pod, address, plan: plans, pushed, report, server }
    }

    /// Waits for a plan to be pushed.
    pub async fn plan_where(&self, so: impl Fn(&Plan) -> bool) -> Plan {
        let mut plans = self.plan.clone();
        let found = tokio::time::timeout(PATIENCE, plans.wait_for(|plan| plan.as_ref().is_some_and(&so))).await;
        found.expect("the plan was not pushed").unwrap().clone().unwrap()
    }

    /// All plans that were pushed so far.
    pub fn pushed(&self) -> Vec<Plan> {
        self.pushed.lock().unwrap().clone()
    }

    /// Reports on the one table of a plan.
    pub fn report(&self, plan: &Plan, table: &str, phase: TablePhase, drained: bool) {
        self.say(plan, &[json!({"uid": table, "phase": phase, "rows": 3})], &[("SourceReachable", None)], drained);
    }

    /// Reports on the one table of a plan that its load answers a request.
    pub fn loads(&self, plan: &Plan, table: &str, phase: TablePhase, reseed: Option<&str>) {
        self.say(plan, &[json!({"uid": table, "phase": phase, "rows": 3, "reseed": reseed})], &[("SourceReachable", None)], false);
    }

    /// Reports that tables replicate, and what was found by comparing them: identities, the requests answered, the result.
    pub fn verified(&self, plan: &Plan, found: &[(&str, &[&str], &str)]) {
        let tables: Vec<Value> = found.iter().map(|(uid, ..)| json!({"uid": uid, "phase": "Replicating", "rows": 3})).collect();
        let found = found.iter().map(|(uid, requests, result)| {
            json!({"uid": uid, "requests": requests, "found": {"time": "2026-01-01T00:00:00Z", "result": result, "sourceRows": 3,
                "targetRows": 2, "differingRows": 1, "repaired": 0, "unsettledRows": 0,
                "differingRanges": [{"after": "(5)", "rows": 1, "keys": ["(7)"]}]}})
        });
        let verifications: Value = found.collect();
        self.report.send_modify(|report| {
            let sequence = report.as_ref().map_or(1, |report| report.sequence + 1);
            let mut next = report_json(sequence, plan.revision, &tables, &[("SourceReachable", None)], false, false);
            next["verifications"] = verifications;
            *report = Some(serde_json::from_value(next).unwrap());
        });
    }

    /// Reports that a batch was read, and where all tables are.
    pub fn finishes(&self, plan: &Plan, batch: Timestamp, phase: TablePhase) {
        let tables: Vec<Value> = plan.tables.iter().map(|table| json!({"uid": table.uid, "phase": phase, "rows": 3})).collect();
        self.say_with(plan, &tables, &[("SourceReachable", None)], false, &json!({"batchDone": batch}));
    }

    /// Reports that all is well in a run.
    pub fn works_in(&self, plan: &Plan, run: u32) {
        self.say_with(plan, &[], &[("SourceReachable", None)], false, &json!({"run": run}));
    }

    /// Reports a check that fails.
    pub fn fail(&self, plan: &Plan, check: &str, reason: &str) {
        self.say(plan, &[], &[(check, Some(reason))], false);
    }

    /// Reports that the plan's table replicates, and a check that passes.
    pub fn passes(&self, plan: &Plan, table: &str, check: &str) {
        let tables = [json!({"uid": table, "phase": TablePhase::Replicating, "rows": 3})];
        self.say(plan, &tables, &[("SourceReachable", None), (check, None)], false);
    }

    /// Reports that a run's position is lost.
    pub fn lose(&self, plan: &Plan, run: u32, heals: bool) {
        let lost = json!({"run": run, "fault": {"reason": "PositionLost", "message": "gone", "remedy": "r", "heals": heals}});
        self.say_with(plan, &[], &[("CapturePrepared", Some("PositionLost"))], false, &json!({"positionLost": lost}));
    }

    /// Reports that the plan's tables replicate, and which others of `public` are to be linked.
    pub fn discovers(&self, plan: &Plan, found: &[&str]) {
        let tables: Vec<Value> = plan.tables.iter().map(|table| json!({"uid": table.uid, "phase": "Replicating", "rows": 3})).collect();
        let found: Vec<Value> = found.iter().map(|table| json!({"schemaName": "public", "tableName": table})).collect();
        self.say_with(plan, &tables, &[("SourceReachable", None)], false, &json!({"discovered": found}));
    }

    /// Reports that a table replicates and where the link is, with more about the table.
    pub fn progresses(&self, plan: &Plan, table: &str, at: &str, more: &Value) {
        let mut tables = [json!({"uid": table, "phase": TablePhase::Replicating, "rows": 3})];
        tables[0].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let position = json!({"value": at, "time": "2026-01-01T00:00:00.5Z"});
        let position = json!({"sourceHead": at, "captured": position, "applied": position});
        self.say_with(plan, &tables, &[("SourceReachable", None)], false, &json!({"position": position}));
    }

    /// Reports on tables as they are given, and that the target holds everything before a time.
    pub fn tells(&self, plan: &Plan, tables: &[Value], up_to: Timestamp) {
        let position = json!({"value": "0/5", "time": up_to});
        let more = json!({"source": {"version": "PostgreSQL 15.18", "identity": "1/1", "retainedLogBytes": 1_048_576},
            "position": {"sourceHead": "0/6", "captured": position, "applied": position}});
        self.say_with(plan, tables, &[("SourceReachable", None)], false, &more);
    }

    /// Reports how much log the source keeps.
    pub fn retains(&self, plan: &Plan, table: &str, bytes: u64) {
        let source = json!({"version": "PostgreSQL 15", "identity": "1/1", "retainedLogBytes": bytes});
        let tables = [json!({"uid": table, "phase": TablePhase::Replicating, "rows": 3})];
        self.say_with(plan, &tables, &[("SourceReachable", None)], false, &json!({"source": source}));
    }

    fn say(&self, plan: &Plan, tables: &[Value], checks: &[(&str, Option<&str>)], drained: bool) {
        self.say_with(plan, tables, checks, drained, &json!({}));
    }

    /// With more in the report. A report is told once: all of it has to be there at once.
    fn say_with(&self, plan: &Plan, tables: &[Value], checks: &[(&str, Option<&str>)], drained: bool, more: &Value) {
        self.report.send_modify(|report| {
            let sequence = report.as_ref().map_or(1, |report| report.sequence + 1);
            let mut said = report_json(sequence, plan.revision, tables, checks, drained, false);
            said.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            *report = Some(serde_json::from_value(said).unwrap());
        });
    }
}

fn allowed(shared: &Shared, headers: &HeaderMap) -> bool {
    headers.get("authorization").is_some_and(|value| value.as_bytes() == format!("Bearer {}", shared.token).as_bytes())
}

async fn take_plan(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> StatusCode {
    if !allowed(&shared, &headers) {
        return StatusCode::UNAUTHORIZED;
    }
    let plan = unpack(&body);
    shared.pushed.lock().unwrap().push(plan.clone());
    shared.plan.send_replace(Some(plan));
    StatusCode::OK
}

async fn tell(State(mut shared): State<Shared>, headers: HeaderMap, Query(query): Query<BTreeMap<String, u64>>) -> Response {
    if !allowed(&shared, &headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let newer = |report: &Option<Report>| report.as_ref().is_some_and(|report| report.sequence > query["after"]);
    let wait = tokio::time::timeout(Duration::from_secs(query["timeout"]), shared.report.wait_for(newer)).await;
    match wait {
        Ok(Ok(report)) => Json(report.clone()).into_response(),
        _ => StatusCode::NO_CONTENT.into_response(),
    }
}
