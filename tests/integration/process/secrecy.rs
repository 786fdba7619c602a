//! No credential is written, whatever is logged and whatever goes wrong.

use std::{
    fs::{self, File},
    process::{Output, Stdio},
    time::Duration,
};

use jiff::SignedDuration;
use link_operator::api::zone::ZoneStore;
use serde_json::{Value, json};
use tokio::{
    process::Command,
    time::{Instant, sleep},
};

use super::Place;
use crate::support::{
    azurite::{self, Azurite, free_port},
    canaries::Canaries,
    postgres::Server,
};

const PATIENCE: Duration = Duration::from_secs(40);

/// The programs of a user who wants to see everything.
struct Desk<'a> {
    place: &'a Place,
    canaries: Canaries,
}

impl Desk<'_> {
    fn secret(&mut self, name: &str, key: &str, value: &str) {
        self.canaries.add(&format!("{name}.{key}"), value);
        let folder = self.place.path("secrets").join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("username"), "keeper").unwrap();
        fs::write(folder.join(key), value).unwrap();
    }

    fn manifests(&self, zone: &ZoneStore, source_port: u16) {
        let database = |secret: &str, port: u16, database: &str| {
            json!({"postgresql": {"host": "127.0.0.1", "port": port, "database": database, "tls": {"mode": "Disable"},
                "auth": {"password": {"secretRef": {"name": secret}}}}})
        };
        let place = self.place;
        let group = |kind: &str, name: &str, spec: Value| json!({"apiVersion": "link-operator.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
        let documents = [
            group("LandingZone", "zone", serde_json::to_value(zone).unwrap()),
            group(
                "LinkConnection",
                "link",
                json!({
                    "source": database("source", source_port, &place.source.spec.database),
                    "target": database("target", place.target.spec.port, &place.target.spec.database),
                    "landingZoneRef": {"name": "zone"}, "linkId": format!("secret.{}", place.source.spec.database),
                    "compute": {"flushInterval": "200ms"}, "tables": [{"schemaName": "public", "tableName": "t"}],
                }),
            ),
        ];
        let text: Vec<String> = documents.iter().map(Value::to_string).collect();
        fs::write(place.path("manifests/link.yaml"), text.join("\n---\n")).unwrap();
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_link-operator"));
        command.args([name, "--filename"]).arg(self.place.path("manifests")).arg("--secrets").arg(self.place.path("secrets"));
        command.env("LOG", "trace").kill_on_drop(true).stdin(Stdio::null());
        command
    }

    async fn ends(&self, name: &str) -> Output {
        let output = tokio::time::timeout(PATIENCE, self.command(name).output()).await.expect("it ends").unwrap();
        for (stream, text) in [("output", &output.stdout), ("log", &output.stderr)] {
            self.canaries.absent(&format!("{stream} of {name}"), &String::from_utf8_lossy(text));
        }
        output
    }

    /// Runs the link until its log has all of these words, and looks for credentials in all that it logged.
    async fn runs(&self, what: &str, words: &[&str]) {
        let log = self.place.path("log");
        let file = File::create(&log).unwrap();
        let mut child = self.command("run").stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        let until = Instant::now() + PATIENCE;
        let read = || String::from_utf8_lossy(&fs::read(&log).unwrap()).into_owned();
        while !words.iter().all(|word| read().contains(word)) {
            let last: Vec<_> = read().lines().filter(|line| line.contains("link_operator")).map(str::to_owned).collect();
            assert!(Instant::now() < until, "{what}: nobody says {words:?}:\n{}", last[last.len().saturating_sub(20)..].join("\n"));
            sleep(Duration::from_millis(200)).await;
        }
        let _ = child.kill().await;
        self.canaries.absent(what, &read());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_credential_is_written_whatever_goes_wrong() {
    let (server, azurite) = (Server::shared(), Azurite::start().await);
    azurite.create_container("secrecy").await;
    let place = Place::new(server).await;
    place.source.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 1000)").await;
    let password = |nth: u32| format!("k3y+{nth}/of the=kéeper&");
    let set_password = async |nth: u32| {
        let role = "DO $$ BEGIN CREATE ROLE keeper SUPERUSER LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$";
        place.source.execute(&format!("{role}; ALTER ROLE keeper PASSWORD '{}'", password(nth))).await;
    };
    set_password(1).await;
    let mut desk = Desk { place: &place, canaries: Canaries::default() };
    desk.secret("source", "password", &password(1));
    desk.secret("target", "password", &password(1));
    desk.secret("sas", "token", &azurite::sas("secrecy", azurite::ALL, SignedDuration::from_hours(1)));
    desk.manifests(&azurite.zone("secrecy", "sas"), server.port);

    let plan = desk.ends("plan").await;
    assert!(plan.status.success(), "{plan:?}");
    let once = {
        let mut run = desk.command("run");
        tokio::time::timeout(PATIENCE, run.arg("--once").output()).await.expect("it ends").unwrap()
    };
    assert!(once.status.success(), "{}", String::from_utf8_lossy(&once.stdout));
    let log = String::from_utf8_lossy(&once.stderr);
    assert!(log.contains("TRACE"), "not all is logged");
    desk.canaries.absent("a run", &log);
    desk.canaries.absent("a run's output", &String::from_utf8_lossy(&once.stdout));
    assert!(desk.ends("verify").await.status.success());

    // One after the other refuses what it is given.
    desk.secret("target", "password", "another's key 7!");
    desk.runs("a wrong password", &["TargetAuthenticationFailed"]).await;
    desk.secret("target", "password", &password(1));
    let wrong = azurite::sas("secrecy", azurite::ALL, SignedDuration::from_hours(2)).replace("sig=", "sig=AAAA");
    desk.secret("sas", "token", &wrong);
    desk.runs("a wrong token", &["refuses the credential"]).await;
    desk.secret("sas", "token", &azurite::sas("secrecy", "rl", SignedDuration::from_hours(1)));
    desk.runs("a token without rights", &["ZonePermissionDenied"]).await;
    desk.secret("sas", "token", "not?a=token&at=all");
    desk.runs("no token at all", &["token cannot be read"]).await;
    desk.secret("sas", "token", &azurite::sas("secrecy", azurite::ALL, SignedDuration::from_hours(1)));
    desk.manifests(&azurite::zone_at(free_port(), "secrecy", "sas"), free_port());
    desk.runs("nobody there", &["does not answer"]).await;
}
