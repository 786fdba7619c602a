use std::collections::HashMap;

use link_operator::data::KeyRange;

use super::*;

#[tokio::test]
async fn refuses_what_cannot_be_linked_and_says_what_to_do() {
    let database = Server::shared().create_database().await;
    database
        .execute(
            "SET search_path = public; \
                 CREATE TABLE good (id int PRIMARY KEY); CREATE TABLE keyless (id int); CREATE VIEW seen AS SELECT 1 AS id; CREATE MATERIALIZED VIEW kept AS SELECT 1 AS id; \
                 CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY); \
                 CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id); \
                 CREATE TABLE nothing (id int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING; \
                 CREATE TABLE late (id int PRIMARY KEY DEFERRABLE); \
                 CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child () INHERITS (parent); \
                 CREATE TABLE \"GIs Key\" (id int GENERATED ALWAYS AS (1) STORED PRIMARY KEY, b int)",
        )
        .await;
    let source = source(&database);
    let mut discovered: HashMap<String, Option<Error>> =
        source.discover().await.unwrap().into_iter().map(|(name, obstacle)| (name.table_name, obstacle)).collect();
    assert!(discovered.remove("child").is_some_and(|obstacle| matches!(obstacle, Some(Error::NoPrimaryKey(_)))));
    assert!(discovered.remove("good").is_some_and(|obstacle| obstacle.is_none()));
    for (table, reason, remedy) in [
        ("absent", "SourceTableMissing", "create public.absent"),
        ("keyless", "NoPrimaryKey", "ADD PRIMARY KEY"),
        ("seen", "TableNotSupported", "link the tables"),
        ("kept", "TableNotSupported", "link the tables"),
        ("unlogged", "TableNotSupported", "SET LOGGED"),
        ("parted", "TableNotSupported", "create a partition"),
        ("nothing", "TableNotSupported", "REPLICA IDENTITY DEFAULT"),
        ("late", "TableNotSupported", "NOT DEFERRABLE"),
        ("parent", "TableNotSupported", "inheriting"),
        ("GIs Key", "TableNotSupported", "ordinary columns"),
    ] {
        let error = source.describe(&TableName::new("public", table)).await.unwrap_err();
        assert_eq!(<&str>::from(&error), reason, "{table}: {error}");
        assert!(error.remedy().contains(remedy), "{table}: {}", error.remedy());
        match discovered.remove(table) {
            Some(obstacle) => assert_eq!(obstacle.unwrap().to_string(), error.to_string()),
            None => assert!(matches!(table, "absent" | "seen" | "kept"), "{table}"),
        }
    }
    assert!(discovered.is_empty(), "{discovered:?}");
}

/// Between two questions of one who compares or reads it.
#[tokio::test]
async fn a_table_that_lost_a_column_is_not_called_missing() {
    let database = Server::shared().create_database().await;
    database.execute("CREATE TABLE public.t (id int PRIMARY KEY, gone int)").await;
    let source = source(&database);
    let schema = source.describe(&TableName::new("public", "t")).await.unwrap();
    database.execute("ALTER TABLE public.t DROP gone").await;
    let error = source.digest(&schema, &KeyRange::default()).await.unwrap_err();
    assert!(matches!(error, Error::SchemaChanged(_)), "{error:?}");
    database.execute("DROP TABLE public.t").await;
    let error = source.digest(&schema, &KeyRange::default()).await.unwrap_err();
    assert!(matches!(error, Error::SourceTableMissing(_)), "{error:?}");
}

#[tokio::test]
async fn names_the_grant_that_a_user_lacks() {
    let server = Server::start();
    let database = server.create_database().await;
    database
        .execute(&format!(
            "CREATE ROLE reader LOGIN PASSWORD '{}'; CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY, v int)",
            crate::support::postgres::PASSWORD
        ))
        .await;
    database.set_secret("username", "reader");
    let source = source(&database);
    let name = TableName::new("app", "t");
    let prepared = async || source.preflight().await.into_iter().find(|check| check.name == "SourcePrepared").unwrap().fault;
    let cure = async |statement: &str| {
        let admin = server.database(&database.spec.database);
        admin.execute(statement).await;
    };

    assert_eq!(prepared().await.unwrap().reason, "SourcePermissionDenied");
    cure("ALTER ROLE reader REPLICATION").await;
    let remedy = prepared().await.unwrap().remedy;
    assert!(remedy.starts_with("GRANT CREATE ON DATABASE"), "{remedy}");
    cure(&remedy).await;
    assert_eq!(prepared().await, None);

    let remedy = source.describe(&name).await.unwrap_err().remedy();
    cure(&remedy).await;
    let schema = source.describe(&name).await.unwrap();
    source.begin_run("test").await.unwrap();
    let error = source.admit(&schema).await.unwrap_err();
    assert_eq!(<&str>::from(&error), "SourcePermissionDenied");
    cure(&error.remedy()).await;
    source.admit(&schema).await.unwrap();

    cure("ALTER TABLE app.t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY").await;
    let error = source.describe(&name).await.unwrap_err();
    cure(&error.remedy()).await;
    source.describe(&name).await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_not_prepared_says_what_to_set() {
    let server = Server::start_with(&["wal_level=replica"]);
    let checks = source(&server.create_database().await).preflight().await;
    let [reachable, prepared] = checks.as_slice() else { panic!("{checks:?}") };
    assert_eq!((reachable.name.as_str(), &reachable.fault), ("SourceReachable", &None));
    assert!(prepared.fault.as_ref().unwrap().remedy.contains("ALTER SYSTEM SET wal_level"), "{prepared:?}");

    let mut database = server.create_database().await;
    database.spec.port = 1;
    let checks = source(&database).preflight().await;
    assert_eq!(checks[0].fault.as_ref().unwrap().reason, "SourceUnreachable");
}
