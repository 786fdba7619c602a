//! The cluster as the tests see it: kubectl, the databases, and a namespace with all that a link needs.

use std::{
    io::Write as _,
    process::{Command, Stdio},
    sync::{Mutex, OnceLock},
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio_postgres::{Client, NoTls};

use crate::{canaries::Canaries, secrecy};

/// Longest wait for anything; the machine may be busy.
const PATIENCE: Duration = Duration::from_mins(3);
/// Namespace of the servers that all tests share.
pub const SERVERS: &str = "e2e-servers";
/// `spec.compute` of one small worker.
pub const ONE_CORE: &str = "coreCount: 1, coresPerWorker: 1";
/// Password of the servers' superuser.
pub const PASSWORD: &str = "correct horse battery";

/// Runs kubectl; panics with what it said if it fails.
pub fn kubectl(arguments: &[&str]) -> String {
    try_kubectl(arguments, "").unwrap_or_else(|error| panic!("kubectl {}: {error}", arguments.join(" ")))
}

/// Applies manifests.
pub fn apply(namespace: &str, manifests: &str) {
    try_kubectl(&["apply", "-n", namespace, "-f", "-"], manifests).unwrap_or_else(|error| panic!("{error}\n{manifests}"));
}

pub fn try_kubectl(arguments: &[&str], input: &str) -> Result<String, String> {
    let mut kubectl = Command::new("kubectl");
    kubectl.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = kubectl.spawn().expect("kubectl is in PATH: eval \"$(deploy/local/cluster env)\"");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Waits until `found` finds something; panics with `what` and the state of the namespace's links if it takes too long.
pub async fn until<T>(namespace: &str, what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = found() {
            eprintln!("{namespace}: {what} after {:.1} s", began.elapsed().as_secs_f32());
            return found;
        }
        if began.elapsed() > PATIENCE {
            let show = |arguments: &[&str]| try_kubectl(arguments, "").unwrap_or_else(|error| error);
            panic!(
                "{namespace}: {what}: not within {PATIENCE:?}\n{}\n{}\n{}",
                show(&["get", "linkop,pods", "-n", namespace, "-o", "wide"]),
                show(&["get", "lc,lt", "-n", namespace, "-o", "yaml"]),
                show(&["logs", "-n", namespace, "-l", "app.kubernetes.io/name=link-operator", "--tail=30"]),
            );
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// A namespace with a landing zone, and a database of its own on both servers.
pub struct Place {
    pub namespace: String,
    pub database: String,
    pub source: Client,
    pub target: Client,
    /// Credentials that were handed over.
    canaries: Mutex<Canaries>,
}

impl Place {
    pub async fn new(name: &str) -> Self {
        servers();
        let namespace = format!("e2e-{name}");
        // What a run before left; its own tests showed how it goes.
        kubectl(&["delete", "namespace", &namespace, "--ignore-not-found", "--timeout=180s"]);
        kubectl(&["create", "namespace", &namespace]);
        kubectl(&["label", "namespace", &namespace, "pod-security.kubernetes.io/enforce=restricted"]);
        let database = namespace.replace('-', "_");
        for server in ["source", "target"] {
            let admin = client(server, "postgres").await;
            let slots = format!(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = '{database}' AND NOT active"
            );
            admin.batch_execute(&slots).await.unwrap();
            admin.batch_execute(&format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)")).await.unwrap();
            admin.batch_execute(&format!("CREATE DATABASE {database}")).await.unwrap();
        }
        let (source, target) = (client("source", &database).await, client("target", &database).await);
        let place = Self { namespace, database, source, target, canaries: Mutex::default() };
        place.apply(&format!(
            "{{apiVersion: v1, kind: Secret, metadata: {{name: source}}, stringData: {{username: postgres, password: {PASSWORD}}}}}
---
{{apiVersion: v1, kind: Secret, metadata: {{name: target}}, stringData: {{username: postgres, password: {PASSWORD}}}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: zone}}
spec: {{storageClassName: local, accessModes: [ReadWriteMany], resources: {{requests: {{storage: 1Gi}}}}}}
---
apiVersion: link-operator.io/v1alpha1
kind: LandingZone
metadata: {{name: zone}}
spec: {{persistentVolumeClaim: {{claimName: zone}}}}
"
        ));
        place
    }

    /// The same with a thousand rows in the source's table `t (id, v)`.
    pub async fn with_rows(name: &str) -> Self {
        let place = Self::new(name).await;
        let table = "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT i, i FROM generate_series(1, 1000) i";
        place.source.batch_execute(table).await.unwrap();
        place
    }

    /// The same once they are linked, loaded and followed.
    pub async fn linked(name: &str) -> Self {
        let place = Self::with_rows(name).await;
        place.link(&["t"]);
        place.link_is("Running", "True", "Replicating").await;
        place.converged("t").await;
        place
    }

    pub fn apply(&self, manifests: &str) {
        secrecy::remember(&mut self.canaries.lock().unwrap(), manifests);
        apply(&self.namespace, manifests);
    }

    /// A LinkConnection `link` in the landing zone `zone`, of one small worker, for these tables.
    pub fn link(&self, tables: &[&str]) {
        self.link_with(tables, ONE_CORE, "zone");
    }

    pub fn link_with(&self, tables: &[&str], compute: &str, zone: &str) {
        self.link_that(tables, compute, zone, "");
    }

    /// `more`: other fields of its spec.
    pub fn link_that(&self, tables: &[&str], compute: &str, zone: &str, more: &str) {
        let database = &self.database;
        let entries: Vec<String> = tables.iter().map(|table| format!("{{schemaName: public, tableName: {table}}}")).collect();
        self.apply(&format!(
            "apiVersion: link-operator.io/v1alpha1
kind: LinkConnection
metadata: {{name: link}}
spec:
  source: {{postgresql: {{host: source.{SERVERS}, database: {database}, tls: {{mode: Disable}}, auth: {{password: {{secretRef: {{name: source}}}}}}}}}}
  target: {{postgresql: {{host: target.{SERVERS}, database: {database}, tls: {{mode: Disable}}, auth: {{password: {{secretRef: {{name: target}}}}}}}}}}
  landingZoneRef: {{name: {zone}}}
  compute: {{{compute}, memoryPerCore: 512Mi, flushInterval: 200ms}}
  tables: [{}]
  {more}
",
            entries.join(", ")
        ));
    }

    pub fn patch(&self, object: &str, patch: &str) {
        kubectl(&["patch", "-n", &self.namespace, object, "--type=merge", "-p", patch]);
    }

    pub fn get(&self, object: &str) -> Option<Value> {
        let json = try_kubectl(&["get", "-n", &self.namespace, object, "-o", "json"], "").ok()?;
        serde_json::from_str(&json).ok()
    }

    /// Waits until the link is in that phase and Ready is as given, with that reason if any; for the newest generation.
    pub async fn link_is(&self, phase: &str, ready: &str, reason: &str) -> Value {
        self.object_is("lc/link", phase, ready, reason).await
    }

    pub async fn object_is(&self, object: &str, phase: &str, ready: &str, reason: &str) -> Value {
        until(&self.namespace, &format!("{object} is {phase}, Ready={ready} {reason}"), || {
            let found = self.get(object)?;
            let condition = condition(&found, "Ready")?;
            let current = found["status"]["observedGeneration"] == found["metadata"]["generation"];
            let as_wanted = (phase.is_empty() || found["status"]["phase"] == phase)
                && condition["status"] == ready
                && (reason.is_empty() || condition["reason"] == reason);
            (current && as_wanted).then_some(found)
        })
        .await
    }

    /// The LinkTable of a source table.
    pub fn table(&self, table: &str) -> Option<Value> {
        let all = self.get("lt")?;
        let found = all["items"].as_array()?.iter().find(|item| item["spec"]["source"]["tableName"] == table)?;
        Some(found.clone())
    }

    pub async fn table_is(&self, table: &str, phase: &str, reason: &str) -> Value {
        until(&self.namespace, &format!("table {table} is {phase} {reason}"), || {
            let found = self.table(table)?;
            let as_wanted = found["status"]["phase"] == phase && (reason.is_empty() || condition(&found, "Ready")?["reason"] == reason);
            as_wanted.then_some(found)
        })
        .await
    }

    /// Waits until the target's table equals the source's row by row.
    pub async fn converged(&self, table: &str) {
        let rows = format!(r#"SELECT "whole row"::text FROM {table} "whole row" ORDER BY 1"#);
        let source: Vec<String> = texts(&self.source, &rows).await.unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let target = texts(&self.target, &rows).await;
            if target.as_ref().is_ok_and(|target| *target == source) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{}: {table} has {} rows in the source and {:?} in the target",
                self.namespace,
                source.len(),
                target.map(|target| target.len())
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// The same of a table that is too large to be fetched.
    pub async fn equal(&self, table: &str) {
        let digest = format!("SELECT format('%s %s', count(*), md5(string_agg(md5(t::text), '' ORDER BY id))) FROM {table} t");
        let source: String = self.source.query_one(&digest, &[]).await.unwrap().get(0);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let target: String = self.target.query_one(&digest, &[]).await.unwrap().get(0);
            if target == source {
                return;
            }
            assert!(Instant::now() < deadline, "{}: {table} is {source} in the source and {target} in the target", self.namespace);
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    }

    /// Waits until the target's database answers with this number.
    pub async fn arrives(&self, sql: &str, wanted: i64) {
        answers(&self.target, sql, wanted).await;
    }

    /// A number that the source's database answers.
    pub async fn count(&self, sql: &str) -> i64 {
        self.source.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// Slots and publications that links left in the source's database.
    pub async fn leftovers(&self) -> (i64, i64) {
        let slots = self.count(&format!("SELECT count(*) FROM pg_replication_slots WHERE database = '{}'", self.database)).await;
        (slots, self.count("SELECT count(*) FROM pg_publication").await)
    }

    /// Names of the link's pods.
    pub fn pods(&self) -> Vec<String> {
        let names = kubectl(&["get", "pods", "-n", &self.namespace, "-o", "name"]);
        names.lines().map(|line| line.trim_start_matches("pod/").to_owned()).collect()
    }

    /// The test went well: nothing of it is needed for looking, once no credential was found in it.
    pub fn done(self) {
        secrecy::check(&mut self.canaries.lock().unwrap(), &self.namespace);
        kubectl(&["delete", "namespace", &self.namespace, "--wait=false"]);
    }
}

pub fn condition<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == name)
}

/// Waits until the database answers with this number.
pub async fn answers(database: &Client, sql: &str, wanted: i64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found: i64 = database.query_one(sql, &[]).await.unwrap().get(0);
        if found == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{sql} is {found}, not {wanted}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn texts(client: &Client, sql: &str) -> Result<Vec<String>, tokio_postgres::Error> {
    Ok(client.query(sql, &[]).await?.iter().map(|row| row.get(0)).collect())
}

/// A session on one of the servers, by its Service's address.
pub async fn client(server: &str, database: &str) -> Client {
    let address = kubectl(&["get", "service", server, "-n", SERVERS, "-o", "jsonpath={.spec.clusterIP}"]);
    let mut config = tokio_postgres::Config::new();
    config.host(address.trim()).user("postgres").password(PASSWORD).dbname(database);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match config.connect(NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                return client;
            }
            Err(error) => assert!(Instant::now() < deadline, "{server}: {error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Name of the node that never dies.
pub fn first_node() -> String {
    kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"])
}

/// Starts the servers that all tests share, once.
fn servers() {
    static STARTED: OnceLock<()> = OnceLock::new();
    STARTED.get_or_init(|| {
        if try_kubectl(&["get", "namespace", SERVERS], "").is_err() {
            kubectl(&["create", "namespace", SERVERS]);
        }
        // Where they stay when the other node dies.
        let node = first_node();
        let postgres = |name: &str| {
            format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{selector: {{app: {name}}}, ports: [{{port: 5432}}]}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  nodeSelector: {{kubernetes.io/hostname: {node}}}
  securityContext: {{runAsNonRoot: true, runAsUser: 999, fsGroup: 999, seccompProfile: {{type: RuntimeDefault}}}}
  containers:
    - name: postgres
      image: localhost/link-operator/postgres:15
      imagePullPolicy: Never
      args: [-c, wal_level=logical, -c, max_replication_slots=20, -c, max_wal_senders=20, -c, fsync=off, -c, wal_sender_timeout=10s]
      env: [{{name: POSTGRES_PASSWORD, value: {PASSWORD}}}]
      volumeMounts: [{{name: data, mountPath: /var/lib/postgresql/data}}, {{name: run, mountPath: /run/postgresql}}, {{name: tmp, mountPath: /tmp}}]
  volumes: [{{name: data, emptyDir: {{}}}}, {{name: run, emptyDir: {{}}}}, {{name: tmp, emptyDir: {{}}}}]
---
"
            )
        };
        let azurite = "{apiVersion: v1, kind: Service, metadata: {name: azurite}, spec: {selector: {app: azurite}, ports: [{port: 10000}]}}
---
apiVersion: v1
kind: Pod
metadata: {name: azurite, labels: {app: azurite}}
spec:
  containers:
    - {name: azurite, image: 'localhost/link-operator/azurite:3.37', imagePullPolicy: Never, volumeMounts: [{name: tmp, mountPath: /tmp}]}
  volumes: [{name: tmp, emptyDir: {}}]
";
        apply(SERVERS, &format!("{}{}{azurite}", postgres("source"), postgres("target")));
        kubectl(&["wait", "-n", SERVERS, "--for=condition=Ready", "pod", "--all", "--timeout=180s"]);
    });
}
