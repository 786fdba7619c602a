//! The PostgreSQL source against a real server.

use std::time::Duration;

use arrow::{
    array::{AsArray as _, RecordBatch},
    datatypes::Int32Type,
};
use futures::TryStreamExt as _;
use link_operator::{
    api::{database::TlsMode, fault::Explain as _},
    data::{TableName, TableSchema},
    postgresql::connect,
    source::{Source as _, postgresql::Postgresql},
};

use crate::support::postgres::{Database, Server};

mod connecting {
    use super::*;

    #[tokio::test]
    async fn every_session_prints_alike_whatever_the_server_says() {
        let database = Server::shared().create_database().await;
        let session = database.connect().await;
        let row = session
            .query_one(
                "SELECT now()::text LIKE '%+00', interval '1 day 1 s'::text, '\\x00'::bytea::text, current_setting('search_path')",
                &[],
            )
            .await
            .unwrap();
        assert!(row.get::<_, bool>(0));
        assert_eq!(row.get::<_, &str>(1), "1 day 00:00:01");
        assert_eq!((row.get::<_, &str>(2), row.get::<_, &str>(3)), ("\\x00", "pg_catalog"));
    }

    #[tokio::test]
    async fn names_the_reason_and_never_the_password() {
        let database = Server::shared().create_database().await;
        let reason = async |change: &dyn Fn(&mut link_operator::api::database::PostgresqlDatabase)| {
            let mut spec = database.spec.clone();
            change(&mut spec);
            let error = connect(&spec, &database.secrets, "test").await.err().unwrap();
            assert!(!error.to_string().contains("wrong horse"), "{error}");
            <&str>::from(&error)
        };
        assert_eq!(reason(&|spec| spec.port = 1).await, "Unreachable");
        assert_eq!(reason(&|spec| spec.host = "no-such-host.invalid".to_owned()).await, "Unreachable");
        assert_eq!(reason(&|spec| spec.database = "absent".to_owned()).await, "DatabaseMissing");
        assert_eq!(reason(&|spec| spec.tls.mode = TlsMode::Require).await, "TlsFailed");
        assert_eq!(reason(&|spec| spec.auth.password.as_mut().unwrap().secret_ref.name = "absent".to_owned()).await, "SecretMissing");
        assert_eq!(reason(&|spec| spec.auth.password.as_mut().unwrap().password_key = "absent".to_owned()).await, "SecretKeyMissing");
        database.set_secret("password", "wrong horse");
        assert_eq!(reason(&|_| {}).await, "AuthenticationFailed");
    }
}

mod tables {
    use super::*;

    #[tokio::test]
    async fn refuses_what_cannot_be_linked_and_says_what_to_do() {
        let database = Server::shared().create_database().await;
        database
            .execute(
                "SET search_path = public; \
                 CREATE TABLE keyless (id int); CREATE VIEW seen AS SELECT 1 AS id; CREATE MATERIALIZED VIEW kept AS SELECT 1 AS id; \
                 CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY); \
                 CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id); \
                 CREATE TABLE nothing (id int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING; \
                 CREATE TABLE late (id int PRIMARY KEY DEFERRABLE); \
                 CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child () INHERITS (parent); \
                 CREATE TABLE \"GIs Key\" (id int GENERATED ALWAYS AS (1) STORED PRIMARY KEY, b int)",
            )
            .await;
        let source = source(&database);
        for (table, reason, remedy) in [
            ("absent", "SourceTableMissing", "create public.absent"),
            ("keyless", "NoPrimaryKey", "ADD PRIMARY KEY"),
            ("seen", "TableNotSupported", "link the tables"),
            ("kept", "TableNotSupported", "link the tables"),
            ("unlogged", "TableNotSupported", "SET LOGGED"),
            ("parted", "TableNotSupported", "partitions"),
            ("nothing", "TableNotSupported", "REPLICA IDENTITY DEFAULT"),
            ("late", "TableNotSupported", "NOT DEFERRABLE"),
            ("parent", "TableNotSupported", "inheriting"),
            ("GIs Key", "TableNotSupported", "ordinary columns"),
        ] {
            let error = source.describe(&TableName::new("public", table)).await.unwrap_err();
            assert_eq!(<&str>::from(&error), reason, "{table}: {error}");
            assert!(error.remedy().contains(remedy), "{table}: {}", error.remedy());
        }
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
        source.begin_run().await.unwrap();
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
}

mod snapshot {
    use super::*;

    #[tokio::test]
    async fn chunks_hold_every_row_once() {
        let database = Server::shared().create_database().await;
        database
            .execute("CREATE TABLE public.t (id int PRIMARY KEY, v text); INSERT INTO public.t SELECT g, repeat('x', 100) FROM generate_series(1, 20000) g; CREATE TABLE public.e (id int PRIMARY KEY)")
            .await;
        let source = source(&database);
        let schema = source.describe(&TableName::new("public", "t")).await.unwrap();
        let plan = source.plan_chunks(&schema, 256 << 10).await.unwrap();
        assert!(plan.chunks.len() > 5, "{plan:?}");
        let mut ids = Vec::new();
        for chunk in &plan.chunks {
            let read = source.read_chunk(&schema, chunk).await.unwrap();
            for batch in read.rows.try_collect::<Vec<_>>().await.unwrap() {
                assert_eq!(batch.schema(), schema.arrow_rows());
                ids.extend(batch.column(0).as_primitive::<Int32Type>().values().iter().copied());
            }
        }
        ids.sort_unstable();
        assert_eq!(ids, (1..=20000).collect::<Vec<_>>());

        let empty = source.describe(&TableName::new("public", "e")).await.unwrap();
        let plan = source.plan_chunks(&empty, 1 << 20).await.unwrap();
        assert_eq!(plan.chunks.len(), 1);
        assert!(read(&source, &empty).await.is_empty());
    }

    #[tokio::test]
    async fn a_rewrite_or_a_changed_column_voids_the_plan() {
        let database = Server::shared().create_database().await;
        database.execute("CREATE TABLE public.t (id int PRIMARY KEY, v int); INSERT INTO public.t VALUES (1, 1)").await;
        let source = source(&database);
        let schema = source.describe(&TableName::new("public", "t")).await.unwrap();
        let plan = source.plan_chunks(&schema, 1 << 20).await.unwrap();
        database.execute("VACUUM FULL public.t").await;
        let reason = async |chunk| <&str>::from(&source.read_chunk(&schema, chunk).await.err().unwrap());
        assert_eq!(reason(&plan.chunks[0]).await, "TableRewritten");
        let plan = source.plan_chunks(&schema, 1 << 20).await.unwrap();
        database.execute("ALTER TABLE public.t ADD COLUMN w int").await;
        assert_eq!(reason(&plan.chunks[0]).await, "SchemaChanged");
    }

    #[tokio::test]
    async fn settling_waits_for_open_and_prepared_transactions_and_says_whom() {
        let server = Server::start();
        let database = server.create_database().await;
        database.execute("CREATE TABLE public.t (id int PRIMARY KEY)").await;
        let source = source(&database);
        source.settle(&|whom| panic!("waited for {whom:?}")).await.unwrap();

        for (begin, end, named) in [
            ("BEGIN; INSERT INTO public.t VALUES (1)", "COMMIT", "process "),
            ("BEGIN; INSERT INTO public.t VALUES (2); PREPARE TRANSACTION 'held'", "COMMIT PREPARED 'held'", "'held'"),
        ] {
            let other = database.connect().await;
            other.batch_execute(begin).await.unwrap();
            let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
            let settling = tokio::spawn({
                let source = source.clone();
                async move { source.settle(&move |whom| told.send(whom).unwrap()).await }
            });
            let whom = hears.recv().await.unwrap().unwrap();
            assert!(whom.contains(named), "{whom}");
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert!(!settling.is_finished());
            other.batch_execute(end).await.unwrap();
            settling.await.unwrap().unwrap();
            assert_eq!(hears.recv().await, Some(None));
        }
    }
}

fn source(database: &Database) -> Postgresql {
    Postgresql::new(database.spec.clone(), database.secrets.clone(), "tests.link")
}

/// All rows of a table, read in one chunk.
async fn read(source: &Postgresql, schema: &TableSchema) -> Vec<RecordBatch> {
    let plan = source.plan_chunks(schema, 1 << 30).await.unwrap();
    source.read_chunk(schema, &plan.chunks[0]).await.unwrap().rows.try_collect().await.unwrap()
}
