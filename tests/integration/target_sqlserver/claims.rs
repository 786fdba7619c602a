//! A target table has one owner; what a link did not make it does not touch; what it made it can remove.

use super::*;

#[tokio::test]
async fn many_links_claim_at_once_and_one_owns_the_table() {
    let Some(database) = database("claims at once").await else { return };
    // Nobody has made the link's own tables yet: they race for those too.
    let tasks: Vec<_> = (0..8)
        .map(|number| {
            let link = format!("ns.link-{number}");
            let target = target_of(&database, &link, OnExistingTable::Fail);
            tokio::spawn(async move { target.claim(&table_of(&link), &small()).await })
        })
        .collect();
    let mut owners = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(claim) => owners += usize::from(claim == Claim::Load),
            Err(error) => assert!(matches!(&error, Error::TargetTableOwned { owner, .. } if owner.starts_with("ns.link-")), "{error}"),
        }
    }
    assert_eq!(owners, 1);
    // The database does not tell these names apart.
    let other = TargetTable { name: TableName::new("dw", "ORDERS"), ..table_of("ns.other") };
    let claimed = target_of(&database, "ns.other", OnExistingTable::Fail).claim(&other, &small()).await;
    let blind = !database.query("SELECT 1 WHERE N'a' = N'A' COLLATE DATABASE_DEFAULT").await.is_empty();
    assert_eq!(claimed.is_err(), blind, "{claimed:?}");
}

#[tokio::test]
async fn a_table_of_somebody_else_is_left_alone() {
    let Some(database) = database("tables of others").await else { return };
    database.run("CREATE TABLE [dw].[orders] ([theirs] nvarchar(10)); INSERT INTO [dw].[orders] VALUES (N'kept')").await;
    let (table, schema) = (table_of("a.b"), small());
    let careful = target_of(&database, "a.b", OnExistingTable::Fail);
    assert_eq!(reason(&careful.claim(&table, &small()).await.unwrap_err()), "TargetTableExists");
    careful.forget(&table, true).await.unwrap();
    let adopting = target_of(&database, "a.b", OnExistingTable::Adopt);
    assert_eq!(reason(&adopting.claim(&table, &small()).await.unwrap_err()), "TargetTableDiffers");
    // Refused, it holds no claim that would keep another link away.
    let other = TargetTable { link_id: "c.d".to_owned(), ..table.clone() };
    let replacing = target_of(&database, "c.d", OnExistingTable::Recreate);
    replacing.claim(&other, &small()).await.unwrap();
    replacing.begin_snapshot(&other, &schema, FIRST).await.unwrap();
    // Told to be careful meanwhile, it does not replace it.
    let careful = target_of(&database, "c.d", OnExistingTable::Fail);
    assert_eq!(reason(&careful.finish_snapshot(&other, &schema, at(10, 11)).await.unwrap_err()), "TargetTableExists");
    careful.forget(&other, true).await.unwrap();
    assert_eq!(database.query("SELECT [theirs] FROM [dw].[orders]").await[0].text(0).unwrap(), "kept");

    replacing.claim(&other, &small()).await.unwrap();
    replacing.begin_snapshot(&other, &schema, FIRST).await.unwrap();
    replacing.finish_snapshot(&other, &schema, at(10, 11)).await.unwrap();
    assert!(database.query("SELECT [id] FROM [dw].[orders]").await.is_empty());
    // A view is nothing that a table could replace.
    database.run("EXEC(N'CREATE VIEW [dw].[view] AS SELECT 1 AS [one]')").await;
    let view = TargetTable { source: TableName::new("public", "v"), name: TableName::new("dw", "view"), ..other };
    assert_eq!(reason(&replacing.claim(&view, &small()).await.unwrap_err()), "TargetTableExists");
}

#[tokio::test]
async fn forgetting_leaves_or_drops_the_table_and_a_link_knows_its_own_again() {
    let Some(link) = Link::with("forgetting", &[(1, None, None)]).await else { return };
    link.target.begin_snapshot(&link.table, &link.schema, Incarnation { run: 2, record: 1 }).await.unwrap();
    for _ in 0..2 {
        link.target.forget(&link.table, false).await.unwrap();
        assert!(link.target.progress(&link.table).await.unwrap().is_none());
    }
    let tables = "SELECT t.[name] FROM sys.tables t WHERE SCHEMA_NAME(t.[schema_id]) = N'dw'";
    assert_eq!(link.column(tables).await, ["orders"]);
    let other = target_of(&link.database, "other", OnExistingTable::Fail);
    assert_eq!(reason(&other.claim(&table_of("other"), &small()).await.unwrap_err()), "TargetTableExists");
    // The link itself knows the table by its mark.
    link.target.claim(&link.table, &link.schema).await.unwrap();
    link.seed(Incarnation { run: 3, record: 1 }, &[(5, None, None)]).await;
    assert_eq!(link.rows().await, ["5,-,-"]);
    // Claimed for another name, the name before is free.
    let moved = TargetTable { name: TableName::new("dw", "orders_2"), ..link.table.clone() };
    link.target.claim(&moved, &link.schema).await.unwrap();
    assert!(link.target.progress(&moved).await.unwrap().is_none());
    link.target.claim(&link.table, &link.schema).await.unwrap();
    link.target.release("shop", true).await.unwrap();
    assert_eq!(link.column("SELECT COUNT(*) FROM [link_operator].[link_progress]").await, ["1"]);
    link.target.release("shop.shop", true).await.unwrap();
    link.target.release("shop.shop", true).await.unwrap();
    assert!(link.column(tables).await.is_empty());
    assert_eq!(link.column("SELECT COUNT(*) FROM [link_operator].[link_progress]").await, ["0"]);
}

#[tokio::test]
async fn preflight_and_claim_say_what_is_missing() {
    let Some(database) = database("preflight").await else { return };
    let target = target_of(&database, "a.b", OnExistingTable::Fail);
    let checks = target.preflight().await;
    assert!(checks.len() == 2 && checks.iter().all(|check| check.fault.is_none()), "{checks:?}");
    let absent = TargetTable { name: TableName::new("absent", "t"), ..table_of("a.b") };
    assert_eq!(reason(&target.claim(&absent, &small()).await.unwrap_err()), "TargetSchemaMissing");
    std::fs::write(database.secret("password"), "wrong").unwrap();
    let fresh = target_of(&database, "a.b", OnExistingTable::Fail).preflight().await;
    assert_eq!(fresh[0].fault.as_ref().unwrap().reason, "TargetAuthenticationFailed");
}
