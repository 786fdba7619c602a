//! The real process, `link-operator run`, between two real databases.

mod adopting;
mod discovering;
mod kills;
mod moves;
mod planning;
mod protects;
mod secrecy;
mod verifying;

use std::{
    fs::{self, File},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use link_operator::failpoint;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

use crate::support::postgres::{Database, PASSWORD, SECRET, Server, USER};

/// A folder of manifests and what its process leaves behind.
pub struct Place {
    pub source: Database,
    pub target: Database,
    folder: TempDir,
}

impl Place {
    pub async fn new(server: &Server) -> Self {
        let (source, target) = (server.create_database().await, server.create_database().await);
        let place = Self { source, target, folder: tempfile::tempdir().unwrap() };
        fs::create_dir(place.folder.path().join("manifests")).unwrap();
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Manifests of a link of these tables, which move together or each apart.
    pub fn link(&self, tables: &[&str], together: bool) {
        self.link_with(tables, &json!({"transactionalConsistency": together}));
    }

    /// The same with more in the link's spec.
    pub fn link_with(&self, tables: &[&str], more: &Value) {
        let group = |kind: &str, name: &str, spec: Value| json!({"apiVersion": "link-operator.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
        let tables: Vec<Value> = tables.iter().map(|table| json!({"schemaName": "public", "tableName": table})).collect();
        let mut link = json!({
            "source": {"postgresql": self.source.spec}, "target": {"postgresql": self.target.spec},
            "landingZoneRef": {"name": "zone"}, "linkId": format!("kills.{}", self.source.spec.database),
            "compute": {"coreCount": 2, "flushInterval": "200ms"}, "tables": tables,
        });
        link.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let documents = [
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "stringData": {"username": USER, "password": PASSWORD}}),
            group("LandingZone", "zone", json!({"persistentVolumeClaim": {"claimName": "files"}})),
            group("LinkConnection", "link", link),
        ];
        let text: Vec<String> = documents.iter().map(Value::to_string).collect();
        fs::write(self.path("manifests/link.yaml"), text.join("\n---\n")).unwrap();
    }

    /// Starts the process; it goes with what is returned.
    pub fn start(&self, failpoints: &str) -> Child {
        Command::new(env!("CARGO_BIN_EXE_link-operator"))
            .args(["run", "--chunk-bytes", "65536", "--sweep-every", "200", "--filename"])
            .arg(self.path("manifests"))
            .arg("--volumes")
            .arg(self.path("volumes"))
            .env(failpoint::VARIABLE, failpoints)
            .stdout(Stdio::null())
            .stderr(File::create(self.path("log")).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    async fn rows(database: &Database, table: &str) -> Result<Vec<String>, tokio_postgres::Error> {
        let rows = database.connect().await.query(&format!("SELECT t::text FROM {table} t ORDER BY 1"), &[]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    pub async fn converged(&self, table: &str) {
        let source = Self::rows(&self.source, table).await.unwrap();
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            let target = Self::rows(&self.target, table).await;
            if target.as_ref().is_ok_and(|target| *target == source) {
                return;
            }
            if Instant::now() > deadline {
                let target = target.unwrap_or_default();
                let missing: Vec<_> = source.iter().filter(|row| !target.contains(row)).take(3).collect();
                let extra: Vec<_> = target.iter().filter(|row| !source.contains(row)).take(3).collect();
                let counts = (source.len(), target.len());
                panic!("{table}: {counts:?} rows in source and target; missing {missing:?}, too many {extra:?}\n{}", self.log());
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Files in the landing zone whose path contains `part`.
    pub fn staged(&self, part: &str) -> usize {
        let mut found = 0;
        let mut folders = vec![self.path("volumes")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found += usize::from(path.to_string_lossy().contains(part));
                }
            }
        }
        found
    }
}
