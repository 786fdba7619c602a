//! The link: its manifests, and running it.

use std::{
    fs,
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    Database, STREAMS,
    postgres::{PASSWORD, SECRET, USER},
    process::Watched,
};

/// A link of one table, run by `link-operator run`; between runs it keeps its place in its landing zone and its slot.
pub struct Link {
    folder: TempDir,
    source: Value,
    target: Value,
}

impl Link {
    pub fn new(source: &Database, target: &Database) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), source: json!(source.spec), target: json!(target.spec) }
    }

    /// Starts it; `once`: it ends by itself when it holds all.
    pub fn start(&self, once: bool, flush_interval: &str) -> Watched {
        self.write(flush_interval);
        let mut command = Command::new(env!("CARGO_BIN_EXE_link-operator"));
        command.arg("run").arg("--filename").arg(self.folder.path().join("bench.yaml"));
        command.arg("--volumes").arg(self.folder.path().join("volumes")).stdout(Stdio::null());
        // Progress, and if it fails why.
        command.stderr(fs::File::create(self.folder.path().join("log")).unwrap());
        if once {
            command.arg("--once");
        }
        Watched::spawn(&mut command).unwrap()
    }

    fn write(&self, flush_interval: &str) {
        let document = |kind: &str, name: &str, spec: Value| {
            json!({"apiVersion": "link-operator.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}).to_string()
        };
        let login = json!({"username": USER, "password": PASSWORD});
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "stringData": login});
        let link = json!({
            "source": {"postgresql": self.source}, "target": {"postgresql": self.target}, "landingZoneRef": {"name": "zone"},
            "compute": {"coreCount": STREAMS, "flushInterval": flush_interval},
            "tables": [{"schemaName": "public", "tableName": "bench"}],
        });
        let documents = [
            secret.to_string(),
            document("LandingZone", "zone", json!({"persistentVolumeClaim": {"claimName": "zone"}})),
            document("LinkConnection", "bench", link),
        ];
        fs::write(self.folder.path().join("bench.yaml"), documents.join("\n---\n")).unwrap();
    }
}

/// Asks a process to end, as Kubernetes does, and waits until it has.
pub fn stop(mut process: Watched) {
    let killed = Command::new("kill").args(["-TERM", &process.id().to_string()]).status().unwrap();
    assert!(killed.success() && process.wait().success());
}
