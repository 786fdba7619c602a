//! From PostgreSQL to SQL Server, if a server is given.

use std::time::Duration;

use link_operator::api::database::{OnExistingTable, SqlServerTarget, Target};

use super::{Link, PATIENCE};
use crate::{support::postgres::Server, target_sqlserver};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_arrives_in_sql_server_row_by_row() {
    let Some(target) = target_sqlserver::database("a link from PostgreSQL").await else { return };
    let link = Link::new(Server::shared(), &["parts"]).await;
    let secret = |key: &str| std::fs::read_to_string(target.secret(key)).unwrap();
    for (key, value) in [("tds-username", secret("username")), ("tds-password", secret("password"))] {
        link.target.set_secret(key, &value);
    }
    link.replan(|plan| {
        let mut database = target.spec.clone();
        let theirs = plan.target.postgresql.as_ref().unwrap().database.auth.password.clone().unwrap();
        let ours = database.auth.password.as_mut().unwrap();
        (ours.secret_ref, ours.username_key, ours.password_key) = (theirs.secret_ref, "tds-username".into(), "tds-password".into());
        let target = SqlServerTarget { database, on_existing_table: OnExistingTable::Fail };
        plan.target = Target { postgresql: None, sql_server: Some(target), synapse: None };
        for table in &mut plan.tables {
            table.target.schema_name = "dw".into();
        }
    });
    link.source
        .execute(
            "CREATE TABLE parts (id int, code text, note text, amount numeric(12, 2), at timestamptz, PRIMARY KEY (code, id));
             INSERT INTO parts SELECT i, 'k' || i % 7, repeat('é', i % 50), i / 3.0, '2024-02-29 12:00:00.5+01'::timestamptz + i * interval '1 s'
             FROM generate_series(1, 20000) i",
        )
        .await;
    let engine = link.start();
    engine.replicating(1).await;
    link.source
        .execute(
            "BEGIN; UPDATE parts SET note = note || '!' WHERE id % 10 = 0; DELETE FROM parts WHERE id % 11 = 0;
             UPDATE parts SET id = id + 100000 WHERE id % 13 = 0; INSERT INTO parts VALUES (0, 'K1', NULL, -0.01, NULL), (0, 'k1', '', NULL, 'epoch'); COMMIT;
             ALTER TABLE parts ADD COLUMN later text DEFAULT 'it''s'; UPDATE parts SET later = NULL WHERE id % 17 = 0",
        )
        .await;
    let here = link.source.connect().await;
    let ours = "SELECT concat_ws('|', id, code, coalesce(note, '-'), coalesce(amount::text, '-'),
                       coalesce(to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS'), '-'), coalesce(later, '-')) FROM parts";
    let theirs = "SELECT CONCAT([id], N'|', [code], N'|', COALESCE([note], N'-'), N'|', COALESCE(CONVERT(nvarchar(20), [amount]), N'-'), N'|',
                         COALESCE(LEFT(CONVERT(nvarchar(40), SWITCHOFFSET([at], '+00:00'), 121), 19), N'-'), N'|', COALESCE([later], N'-')) FROM [dw].[parts]";
    let mut wanted: Vec<String> = here.query(ours, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    wanted.sort();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        // Until the column is there, the question fails.
        let rows = target.session().await.query(theirs).await.unwrap_or_default();
        let mut found: Vec<String> = rows.iter().filter_map(|row| row.text(0)).collect();
        found.sort();
        if found == wanted {
            break;
        }
        if tokio::time::Instant::now() > deadline {
            let differs = wanted.iter().zip(&found).find(|(wanted, found)| wanted != found);
            panic!("{} rows instead of {}: {differs:?}; {:?}", found.len(), wanted.len(), engine.report.borrow());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    engine.kill().await;
}
