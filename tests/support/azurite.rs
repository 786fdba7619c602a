//! A real Azurite (the Azure Storage emulator) on loopback, in memory, with SAS tokens made to order.

use std::{
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use aws_lc_rs::hmac;
use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::{SignedDuration, Timestamp};
use link_operator::api::{
    database::SecretKey,
    zone::{AzureAuth, AzureZone, SecretValue, ZoneStore},
};
use url::form_urlencoded;

/// The emulator's well-known account.
pub const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
/// Service version that signatures are made for, and that `object_store` speaks.
const VERSION: &str = "2023-11-03";
/// All rights that a link needs.
pub const ALL: &str = "racwdl";

/// A running Azurite; stops when dropped.
pub struct Azurite {
    process: Child,
    port: u16,
}

impl Azurite {
    /// Starts one on a free port and waits until it answers.
    pub async fn start() -> Self {
        Self::start_on(free_port()).await
    }

    /// Starts one on a given port.
    pub async fn start_on(port: u16) -> Self {
        let process = installed()
            .args([
                "--inMemoryPersistence",
                "--disableTelemetry",
                "--skipApiVersionCheck",
                "--silent",
                "--blobHost",
                "127.0.0.1",
                "--blobPort",
            ])
            .arg(port.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Azurite starts");
        let azurite = Self { process, port };
        let patience = Instant::now() + Duration::from_mins(1);
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            assert!(Instant::now() < patience, "Azurite does not answer on port {port}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        azurite
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The value of an AzureZone's `endpoint`.
    pub fn endpoint(&self) -> String {
        endpoint(self.port)
    }

    /// Makes a container, which `object_store` cannot.
    pub async fn create_container(&self, container: &str) {
        create_container_at(&self.endpoint(), container).await;
    }

    /// A zone in the container, whose token is in the Secret's key `token`.
    pub fn zone(&self, container: &str, secret: &str) -> ZoneStore {
        zone_at(self.port, container, secret)
    }
}

impl Drop for Azurite {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Makes a container at an endpoint, unless it is there.
pub async fn create_container_at(endpoint: &str, container: &str) {
    let url = format!("{endpoint}/{container}?restype=container&{}", account_sas());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let response = client.put(url).header("x-ms-version", VERSION).header("content-length", "0").send().await.unwrap();
    let status = response.status().as_u16();
    assert!(status == 201 || status == 409, "container {container}: {status} {}", response.text().await.unwrap_or_default());
}

/// A zone in a container of an Azurite that may or may not run.
pub fn zone_at(port: u16, container: &str, secret: &str) -> ZoneStore {
    let secret_key_ref = SecretKey { name: secret.to_owned(), key: "token".to_owned() };
    let azure = AzureZone {
        account: ACCOUNT.to_owned(),
        container: container.to_owned(),
        folder: "links".to_owned(),
        endpoint: Some(endpoint(port)),
        auth: AzureAuth { sas_token: Some(SecretValue { secret_key_ref }) },
    };
    ZoneStore { azure: Some(azure), persistent_volume_claim: None }
}

fn endpoint(port: u16) -> String {
    format!("http://127.0.0.1:{port}/{ACCOUNT}")
}

/// A port that was free just now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A token for a container with the given rights, valid from an hour ago to `expiry` from now.
pub fn sas(container: &str, rights: &str, expiry: SignedDuration) -> String {
    sas_between(container, rights, second(Timestamp::now() - SignedDuration::from_hours(1)), second(Timestamp::now() + expiry))
}

/// A token for a container and a time.
/// String to sign: <https://learn.microsoft.com/rest/api/storageservices/create-service-sas> (2020-12-06 and later).
pub fn sas_between(container: &str, rights: &str, start: Timestamp, expiry: Timestamp) -> String {
    let (start, expiry) = (start.to_string(), expiry.to_string());
    let resource = format!("/blob/{ACCOUNT}/{container}");
    let to_sign = [rights, &start, &expiry, &resource, "", "", "", VERSION, "c", "", "", "", "", "", "", ""].join("\n");
    query(&[("sv", VERSION), ("st", &start), ("se", &expiry), ("sr", "c"), ("sp", rights), ("sig", &sign(&to_sign))])
}

/// A token for the whole account.
/// String to sign: <https://learn.microsoft.com/rest/api/storageservices/create-account-sas> (2020-12-06 and later).
fn account_sas() -> String {
    let expiry = second(Timestamp::now() + SignedDuration::from_hours(1)).to_string();
    let to_sign = format!("{}\n", [ACCOUNT, "rwdlac", "b", "sco", "", &expiry, "", "", VERSION, ""].join("\n"));
    query(&[("sv", VERSION), ("ss", "b"), ("srt", "sco"), ("sp", "rwdlac"), ("se", &expiry), ("sig", &sign(&to_sign))])
}

fn query(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

fn sign(text: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &BASE64_STANDARD.decode(KEY).unwrap());
    BASE64_STANDARD.encode(hmac::sign(&key, text.as_bytes()))
}

fn second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap()
}

/// The command that starts Azurite: where the local cluster keeps its parts, else installed with npm beside them.
fn installed() -> Command {
    static INSTALL: std::sync::Once = std::sync::Once::new();
    let cache = std::env::var_os("LINK_CACHE")
        .map_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache/link-operator"), PathBuf::from);
    let bundled = cache.join("azurite/azurite-blob");
    if bundled.is_file() {
        return Command::new(bundled);
    }
    let folder = cache.join("azurite-npm");
    let script = folder.join("node_modules/azurite/dist/src/blob/main.js");
    INSTALL.call_once(|| {
        if !script.is_file() {
            let install = ["install", "--no-audit", "--no-fund", "azurite@3.37", "--prefix"];
            let status = Command::new("npm").args(install).arg(&folder).status().expect("npm runs");
            assert!(status.success(), "npm install azurite: {status}");
        }
    });
    let mut command = Command::new("node");
    command.arg(script);
    command
}
