//! A SQL Server that the tests were given; they start none themselves.
//!
//! `LINK_TEST_SQLSERVER=host=…;port=…;user=…;password=…;database=…;tls=Require`: `database` is one that exists (`master`), in which
//! the user may make others; `tls` is a mode of the spec; `ca=FILE` may name the authorities of the server's certificate. Without the variable, tests of a real server say that they are skipped.

use std::{collections::HashMap, sync::Arc};

use link_operator::{
    api::database::SqlServerDatabase,
    secrets::Secrets,
    sqlserver::{Row, Session, connect},
};
use serde_json::json;
use tempfile::TempDir;

/// The Secret with user and password, as the specs name it.
pub const SECRET: &str = "sqlserver";
/// Its key with the authorities of the server's certificate, where they were given.
pub const CA: &str = "ca.crt";
/// What databases of tests are called, an id behind it. Those of former runs are dropped after an hour.
const PREFIX: &str = "link_test_";

/// A database of the server.
#[derive(Clone)]
pub struct Database {
    /// How it is reached.
    pub spec: SqlServerDatabase,
    /// Where its Secret is.
    pub secrets: Secrets,
    folder: Arc<TempDir>,
}

/// The server that was given, as its database; none: says that `what` is skipped.
pub fn given(what: &str) -> Option<Database> {
    let Ok(text) = std::env::var("LINK_TEST_SQLSERVER") else {
        println!("skipped, for LINK_TEST_SQLSERVER names no server: {what}");
        return None;
    };
    let fields: HashMap<&str, &str> = text.split(';').filter_map(|field| field.trim().split_once('=')).collect();
    let field = |name: &str| *fields.get(name).unwrap_or_else(|| panic!("LINK_TEST_SQLSERVER lacks {name}"));
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join(SECRET);
    std::fs::create_dir(&secret).unwrap();
    for (key, field_name) in [("username", "user"), ("password", "password")] {
        std::fs::write(secret.join(key), field(field_name)).unwrap();
    }
    if let Some(authorities) = fields.get("ca") {
        std::fs::copy(authorities, secret.join(CA)).unwrap();
    }
    let spec = json!({
        "host": field("host"), "port": fields.get("port").map_or(1433, |port| port.parse::<u16>().unwrap()), "database": field("database"),
        "tls": {"mode": fields.get("tls").unwrap_or(&"Require")}, "auth": {"password": {"secretRef": {"name": SECRET}}},
    });
    let spec = serde_json::from_value(spec).unwrap();
    Some(Database { spec, secrets: Secrets::new(folder.path()), folder: Arc::new(folder) })
}

impl Database {
    /// Another database of the server, new and empty.
    pub async fn create(&self) -> Self {
        let mut session = self.session().await;
        let old = format!("SELECT name FROM sys.databases WHERE name LIKE '{PREFIX}%' AND create_date < DATEADD(hour, -1, GETDATE())");
        for row in session.query(&old).await.unwrap() {
            // Another run may be at it too.
            let _ = session.run(&format!("DROP DATABASE [{}]", row.text(0).unwrap())).await;
        }
        let name = format!("{PREFIX}{}", uuid::Uuid::new_v4().simple());
        {
            // Two at once fail on Babelfish: "tuple concurrently updated".
            static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
            let _one = ONE.lock().await;
            session.run(&format!("CREATE DATABASE [{name}]")).await.unwrap();
        }
        Self { spec: SqlServerDatabase { database: name, ..self.spec.clone() }, ..self.clone() }
    }

    /// The file that holds a key of its Secret.
    pub fn secret(&self, key: &str) -> std::path::PathBuf {
        self.folder.path().join(SECRET).join(key)
    }

    /// A session with it.
    pub async fn session(&self) -> Session {
        connect(&self.spec, &self.secrets, "link-operator tests").await.unwrap()
    }

    /// Runs statements.
    pub async fn run(&self, sql: &str) -> u64 {
        self.session().await.run(sql).await.unwrap_or_else(|failure| panic!("{sql}: {failure:?}"))
    }

    /// The rows of a question.
    pub async fn query(&self, sql: &str) -> Vec<Row> {
        self.session().await.query(sql).await.unwrap_or_else(|failure| panic!("{sql}: {failure:?}"))
    }

    /// Whether the server knows what this statement needs; if not, says that `what` is skipped.
    pub async fn can(&self, sql: &str, what: &str) -> bool {
        let can = self.session().await.query(sql).await.is_ok();
        if !can {
            println!("skipped, for the server cannot do it: {what}");
        }
        can
    }
}
