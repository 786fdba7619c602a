//! `link-operator sql grants`: its scripts as they are printed, and whether what they grant to a PostgreSQL user is enough.

use std::path::{Path, PathBuf};

use link_operator::{
    api::{
        database::{OnExistingTable, PostgresqlTarget},
        fault::Check,
    },
    source::{self, Source as _},
    standalone,
    target::{self, Target as _},
};

use crate::{
    support::postgres::{PASSWORD, SECRET, Server, USER},
    tsql::assert_golden,
};

fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration/grants/links.yaml")
}

#[test]
fn scripts_are_printed_as_they_were_reviewed() {
    let script = standalone::grants(&manifests()).unwrap();
    assert!(!script.contains("hunter2"), "a password is printed");
    let (mut transact, mut postgresql) = (Vec::new(), String::new());
    for section in script.split_inclusive("\n\n") {
        let heading = section.lines().next().unwrap();
        let link = heading.split(['/', ',']).nth(1).unwrap();
        let side = if heading.contains(", source: ") { "source" } else { "target" };
        if heading.contains("SQL Server at") || heading.contains("SQL pool at") {
            transact.push((format!("grants/{link}-{side}.sql"), section.trim_end().to_owned() + "\n"));
        } else {
            postgresql.push_str(section);
        }
    }
    assert_eq!(transact.len(), 5, "{script}");
    for (file, section) in transact {
        assert_golden(&file, &section);
    }
    assert_golden("../grants/postgresql.sql", &postgresql);
}

/// The checks that fail, as `name: reason`.
fn failed(checks: &[Check]) -> Vec<String> {
    checks.iter().filter_map(|check| Some(format!("{}: {}", check.name, check.fault.as_ref()?.reason))).collect()
}

#[tokio::test]
async fn what_is_granted_is_enough_on_postgresql() {
    let server = Server::shared();
    let (shop, dw) = (server.create_database().await, server.create_database().await);
    let (reader, writer) = (format!("reader-{}", shop.spec.database), format!("writer-{}", dw.spec.database));
    let owner = format!("owner-{}", shop.spec.database);
    shop.execute(&format!(
        "CREATE ROLE \"{owner}\"; CREATE SCHEMA sales AUTHORIZATION \"{owner}\"; CREATE ROLE \"{reader}\" LOGIN PASSWORD '{PASSWORD}';
         SET ROLE \"{owner}\"; CREATE TABLE sales.\"it's\" (id int PRIMARY KEY)"
    ))
    .await;
    dw.execute(&format!(
        "CREATE ROLE \"{writer}\" LOGIN PASSWORD '{PASSWORD}'; REVOKE TEMPORARY ON DATABASE \"{}\" FROM PUBLIC",
        dw.spec.database
    ))
    .await;
    let manifests = tempfile::tempdir().unwrap();
    let system =
        |database: &str, secret: &str| format!("{{host: h, database: {database}, auth: {{password: {{secretRef: {{name: {secret}}}}}}}}}");
    let text = format!(
        "{{apiVersion: v1, kind: Secret, metadata: {{name: r}}, stringData: {{username: {reader}}}}}\n---\n\
         {{apiVersion: v1, kind: Secret, metadata: {{name: w}}, stringData: {{username: {writer}}}}}\n---\n\
         apiVersion: link-operator.io/v1alpha1\nkind: LinkConnection\nmetadata: {{name: shop}}\nspec:\n  source: {{postgresql: {}}}\n  \
         target: {{postgresql: {}}}\n  landingZoneRef: {{name: z}}\n  tables: [{{schemaName: sales, tableName: \"it's\"}}]\n",
        system(&shop.spec.database, "r"),
        system(&dw.spec.database, "w")
    );
    std::fs::write(manifests.path().join("link.yaml"), text).unwrap();
    let script = standalone::grants(manifests.path()).unwrap();
    let (source_script, target_script) = script.split_once("\n\n").unwrap();
    shop.set_secret("username", &reader);
    dw.set_secret("username", &writer);

    let source = source::postgresql::Postgresql::new(shop.spec.clone(), shop.secrets.clone(), "grants");
    let target = PostgresqlTarget { database: dw.spec.clone(), on_existing_table: OnExistingTable::Fail };
    let target = target::postgresql::Postgresql::new(target, dw.secrets.clone(), "grants", None);
    assert_eq!(failed(&source.preflight().await), ["SourcePrepared: SourcePermissionDenied"]);
    assert_eq!(failed(&target.preflight().await), ["TargetPrepared: TargetPermissionDenied"]);

    // As the administrator; twice, for it may be run again.
    for (database, script) in [(&shop, source_script), (&dw, target_script)] {
        let user = std::fs::read_to_string(database.secrets_dir().join(SECRET).join("username")).unwrap();
        database.set_secret("username", USER);
        database.execute(script).await;
        database.execute(script).await;
        database.set_secret("username", &user);
    }
    assert_eq!(failed(&source.preflight().await), Vec::<String>::new());
    assert_eq!(failed(&target.preflight().await), Vec::<String>::new());
    shop.execute("CREATE PUBLICATION mine FOR TABLE ONLY sales.\"it's\"; SELECT FROM sales.\"it's\"").await;
    dw.execute("CREATE TABLE sales.\"it's\" (id int); CREATE TABLE link_operator.mine (id int); CREATE TEMP TABLE t (id int)").await;
}
