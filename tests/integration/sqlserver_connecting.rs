//! Whom a session with SQL Server trusts: against the scripted server in TDS 7.4 and 8.0, and against a real one.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use link_operator::{
    api::database::SqlServerDatabase,
    connect::ConnectError,
    secrets::Secrets,
    sqlserver::{Session, connect},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};

use crate::support::{
    sqlserver,
    tds::{Answer, Encryption, Script, Server},
};

/// A server and the files that a session with it reads.
struct Place {
    server: Server,
    folder: TempDir,
}

fn script(encryption: Encryption) -> Script {
    Script::new(|_| Answer::done()).encryption(encryption)
}

impl Place {
    fn new(encryption: Encryption) -> Self {
        let place = Self { server: Server::start(script(encryption)), folder: tempfile::tempdir().unwrap() };
        let other = Server::start(script(encryption));
        for (file, text) in [
            ("app/username", "sa"),
            ("app/password", "x"),
            ("ca/ca.crt", place.server.ca_pem()),
            ("ca/other.crt", other.ca_pem()),
            (".configmaps/authorities/ca.crt", place.server.ca_pem()),
        ] {
            place.put(file, text);
        }
        place
    }

    fn put(&self, file: &str, text: &str) {
        let path = self.folder.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    async fn connect_to(&self, port: u16, tls: Value) -> Result<Session, ConnectError> {
        let spec: SqlServerDatabase = serde_json::from_value(json!({
            "host": "127.0.0.1", "port": port, "database": "shop", "tls": tls,
            "auth": {"password": {"secretRef": {"name": "app"}}},
        }))
        .unwrap();
        connect(&spec, &Secrets::new(self.folder.path()), "test").await
    }

    /// How it ended: `""`, or the error's name and words.
    async fn outcome(&self, tls: Value) -> String {
        self.connect_to(self.server.address().port(), tls)
            .await
            .map_or_else(|error| format!("{}: {error}", <&str>::from(&error)), |_| String::new())
    }
}

fn secret(key: &str) -> Value {
    json!({"secretKeyRef": {"name": "ca", "key": key}})
}

fn config_map(name: &str) -> Value {
    json!({"configMapKeyRef": {"name": name, "key": "ca.crt"}})
}

#[tokio::test]
async fn certificates_are_verified_as_the_mode_says() {
    for (encryption, full) in [(Encryption::Required, "VerifyFull"), (Encryption::Strict, "Strict")] {
        let place = Place::new(encryption);
        for (tls, words) in [
            (json!({"mode": full, "ca": secret("ca.crt")}), ""),
            (json!({"mode": full, "ca": config_map("authorities")}), ""),
            (json!({"mode": full, "ca": secret("ca.crt"), "serverName": "localhost"}), ""),
            (json!({"mode": full, "ca": secret("ca.crt"), "serverName": "elsewhere"}), "not valid for name"),
            (json!({"mode": full, "ca": secret("other.crt")}), "invalid peer certificate"),
            (json!({"mode": full, "ca": config_map("absent")}), "ConfigMap absent does not exist"),
            (json!({"mode": full, "ca": secret("absent.crt")}), "Secret ca has no key absent.crt"),
            // The system does not know the authority.
            (json!({"mode": full}), "TlsFailed"),
        ] {
            let outcome = place.outcome(tls.clone()).await;
            let name = if words.contains("Secret") { "SecretKeyMissing: " } else { "TlsFailed: " };
            let right = if words.is_empty() { outcome.is_empty() } else { outcome.starts_with(name) && outcome.contains(words) };
            assert!(right, "{encryption:?} {tls}: {outcome}");
        }
        assert!(place.server.logins().iter().all(|login| login.encrypted), "{:?}", place.server.logins());
    }
    let place = Place::new(Encryption::Required);
    assert_eq!(place.outcome(json!({"mode": "VerifyCA", "ca": secret("ca.crt"), "serverName": "elsewhere"})).await, "");
    assert!(place.outcome(json!({"mode": "VerifyCA", "ca": secret("other.crt")})).await.starts_with("TlsFailed: "));
    assert_eq!(place.outcome(json!({"mode": "Require"})).await, "");
}

#[tokio::test]
async fn a_server_that_cannot_encrypt_so_gets_no_password() {
    let place = Place::new(Encryption::NotSupported);
    let outcome = place.outcome(json!({"mode": "VerifyFull", "ca": secret("ca.crt")})).await;
    assert!(outcome.starts_with("TlsFailed: ") && outcome.contains("does not encrypt"), "{outcome}");
    // One that does not know TDS 8.0 takes a greeting of TLS for a broken packet, and hangs up.
    let old = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = old.local_addr().unwrap().port();
    tokio::spawn(async move { while old.accept().await.is_ok() {} });
    let outcome = place.connect_to(port, json!({"mode": "Strict", "ca": secret("ca.crt")})).await.err().unwrap();
    let outcome = format!("{}: {outcome}", <&str>::from(&outcome));
    assert!(outcome.starts_with("TlsFailed: ") && outcome.contains("Strict needs SQL Server 2022"), "{outcome}");
    assert_eq!(place.server.logins(), []);
    assert_eq!(place.outcome(json!({"mode": "Disable"})).await, "");
}

#[tokio::test]
async fn one_verification_serves_many_sessions_until_the_certificate_changes() {
    let place = Place::new(Encryption::Required);
    let (second, stranger) = (Server::start(script(Encryption::Required)), Server::start(script(Encryption::Required)));
    place.put("ca/both.crt", &format!("{}{}", place.server.ca_pem(), second.ca_pem()));
    let (behind, port) = forward(place.server.address()).await;
    let connect = async || place.connect_to(port, json!({"mode": "VerifyFull", "ca": secret("both.crt")})).await;
    let logins = |server: &Server| server.logins().iter().map(|login| login.connection).collect::<Vec<_>>();

    connect().await.unwrap();
    connect().await.unwrap();
    assert_eq!(logins(&place.server), [2, 3], "the first connection verifies, all others log in");

    // Behind the same name another server, whose certificate is as good: what the driver refuses is verified anew.
    *behind.lock().unwrap() = second.address();
    connect().await.unwrap();
    assert_eq!(logins(&second), [3], "refused, verified, logged in");

    *behind.lock().unwrap() = stranger.address();
    let error = connect().await.err().unwrap();
    assert!(matches!(&error, ConnectError::TlsFailed(words) if words.contains("invalid peer certificate")), "{error}");
    assert_eq!(stranger.logins(), []);
}

/// Forwards connections to a server that may be changed.
async fn forward(to: SocketAddr) -> (Arc<Mutex<SocketAddr>>, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, to) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(to)));
    let behind = to.clone();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let address = *behind.lock().unwrap();
            let mut far = TcpStream::connect(address).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
        }
    });
    (to, port)
}

#[tokio::test]
async fn a_real_servers_certificate_is_verified() {
    let Some(mut given) = sqlserver::given("verification of a real server's certificate") else { return };
    if !given.secret(sqlserver::CA).exists() {
        println!("skipped, for LINK_TEST_SQLSERVER names no ca: verification of a real server's certificate");
        return;
    }
    let stranger = Server::start(script(Encryption::Required));
    std::fs::write(given.secret("other.crt"), stranger.ca_pem()).unwrap();
    let ca = |key: &str| json!({"secretKeyRef": {"name": sqlserver::SECRET, "key": key}});
    for (tls, words) in [
        (json!({"mode": "VerifyFull", "ca": ca(sqlserver::CA)}), ""),
        (json!({"mode": "VerifyCA", "ca": ca(sqlserver::CA)}), ""),
        (json!({"mode": "VerifyFull", "ca": ca(sqlserver::CA), "serverName": "elsewhere.example"}), "not valid for name"),
        (json!({"mode": "VerifyFull", "ca": ca("other.crt")}), "TlsFailed"),
        (json!({"mode": "VerifyCA", "ca": ca("other.crt")}), "TlsFailed"),
    ] {
        given.spec.tls = serde_json::from_value(tls.clone()).unwrap();
        let outcome = connect(&given.spec, &given.secrets, "test").await;
        let outcome = outcome.map_or_else(|error| format!("{}: {error}", <&str>::from(&error)), |_| String::new());
        let right = if words.is_empty() { outcome.is_empty() } else { outcome.starts_with("TlsFailed: ") && outcome.contains(words) };
        assert!(right, "{tls}: {outcome}");
    }
}
