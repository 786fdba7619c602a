//! A target table has one owner; what a link did not make it does not touch; what it made it can remove.

use super::*;

#[tokio::test]
async fn many_links_claim_at_once_and_one_owns_the_table() {
    let database = Server::shared().create_database().await;
    database.execute("CREATE SCHEMA dw").await;
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
            Ok(_) => owners += 1,
            Err(error) => assert!(matches!(&error, Error::TargetTableOwned { owner, .. } if owner.starts_with("ns.link-")), "{error}"),
        }
    }
    assert_eq!(owners, 1);
}

#[tokio::test]
async fn a_table_of_somebody_else_is_left_alone() {
    let database = Server::shared().create_database().await;
    database.execute("CREATE SCHEMA dw; CREATE TABLE dw.orders (theirs text); INSERT INTO dw.orders VALUES ('kept')").await;
    let (table, schema) = (table_of("a.b"), small());
    let careful = target_of(&database, "a.b", OnExistingTable::Fail);
    assert_eq!(reason(&careful.claim(&table, &small()).await.unwrap_err()), "TargetTableExists");
    careful.forget(&table, true).await.unwrap();
    // Refused, it holds no claim that would keep another link away.
    let other = TargetTable { link_id: "c.d".to_owned(), ..table.clone() };
    let replacing = target_of(&database, "c.d", OnExistingTable::Recreate);
    replacing.claim(&other, &small()).await.unwrap();
    replacing.begin_snapshot(&other, &schema, FIRST).await.unwrap();
    // Told to be careful meanwhile, it does not replace it.
    let careful = target_of(&database, "c.d", OnExistingTable::Fail);
    assert_eq!(reason(&careful.finish_snapshot(&other, &schema, at(10, 11)).await.unwrap_err()), "TargetTableExists");
    careful.forget(&other, true).await.unwrap();
    let kept: String = database.connect().await.query_one("SELECT theirs FROM dw.orders", &[]).await.unwrap().get(0);
    assert_eq!(kept, "kept");

    replacing.claim(&other, &small()).await.unwrap();
    replacing.begin_snapshot(&other, &schema, FIRST).await.unwrap();
    replacing.finish_snapshot(&other, &schema, at(10, 11)).await.unwrap();
    assert!(database.connect().await.query("SELECT id FROM dw.orders", &[]).await.unwrap().is_empty());
    // A view is nothing that a table could replace.
    database.execute("CREATE VIEW dw.view AS SELECT 1").await;
    let view = TargetTable { source: TableName::new("public", "v"), name: TableName::new("dw", "view"), ..other };
    assert_eq!(reason(&replacing.claim(&view, &small()).await.unwrap_err()), "TargetTableExists");
}

#[tokio::test]
async fn forgetting_leaves_or_drops_the_table_and_a_link_knows_its_own_again() {
    let link = Link::with(&[(1, None, None)]).await;
    link.target.begin_snapshot(&link.table, &link.schema, Incarnation { run: 2, record: 1 }).await.unwrap();
    for _ in 0..2 {
        link.target.forget(&link.table, false).await.unwrap();
        assert!(link.target.progress(&link.table).await.unwrap().is_none());
    }
    let tables = "SELECT format('%s.%s', n.nspname, relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
                  WHERE relkind = 'r' AND nspname IN ('dw', 'public') ORDER BY 1";
    assert_eq!(link.column(tables).await, ["dw.orders"]);
    let other = target_of(&link.database, "other", OnExistingTable::Fail);
    assert_eq!(reason(&other.claim(&table_of("other"), &small()).await.unwrap_err()), "TargetTableExists");
    // The link itself knows the table by its comment.
    link.target.claim(&link.table, &link.schema).await.unwrap();
    link.seed(Incarnation { run: 3, record: 1 }, &[(5, None, None)]).await;
    assert_eq!(link.rows().await, ["(5,,)"]);
    // Claimed for another name, the name before is free.
    let moved = TargetTable { name: TableName::new("dw", "orders_2"), ..link.table.clone() };
    link.target.claim(&moved, &link.schema).await.unwrap();
    assert!(link.target.progress(&moved).await.unwrap().is_none());
    link.target.claim(&link.table, &link.schema).await.unwrap();
    link.target.release("shop.shop", true).await.unwrap();
    link.target.release("shop.shop", true).await.unwrap();
    assert!(link.column(tables).await.is_empty());
    assert_eq!(link.column("SELECT count(*)::text FROM link_operator.link_progress").await, ["0"]);
}

#[tokio::test]
async fn release_touches_no_other_link() {
    let link = Link::with(&[(1, None, None)]).await;
    link.target.release("shop", true).await.unwrap();
    link.target.release("nobody", true).await.unwrap();
    assert_eq!(link.apply(at(10, 11), vec![link.net(&[], &[(2, None, None)])]).await.unwrap(), 1);
}

#[tokio::test]
async fn preflight_and_claim_say_which_right_is_missing() {
    let server = Server::shared();
    let database = server.create_database().await;
    let name = database.spec.database.clone();
    let user = format!("loader_{name}");
    let password = crate::support::postgres::PASSWORD;
    database.execute(&format!("CREATE ROLE {user} LOGIN PASSWORD '{password}'; CREATE SCHEMA dw")).await;
    let theirs = server.database(&name);
    theirs.set_secret("username", &user);
    let target = target_of(&theirs, "a.b", OnExistingTable::Fail);
    let faults = async || -> Vec<String> {
        let checks = target.preflight().await;
        checks.into_iter().filter_map(|check| check.fault).map(|fault| format!("{}: {}", fault.reason, fault.remedy)).collect()
    };

    let found = faults().await;
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("TargetPermissionDenied: CREATE SCHEMA link_operator AUTHORIZATION"), "{found:?}");
    database.execute(&format!("CREATE SCHEMA link_operator AUTHORIZATION {user}")).await;
    assert!(faults().await.is_empty());

    // The remedies are statements that work.
    let Error::TargetPermissionDenied { remedy, .. } = target.claim(&table_of("a.b"), &small()).await.unwrap_err() else {
        panic!("allowed")
    };
    database.execute(&remedy).await;
    target.claim(&table_of("a.b"), &small()).await.unwrap();
    let absent = TargetTable { name: TableName::new("absent", "t"), ..table_of("a.b") };
    assert_eq!(reason(&target.claim(&absent, &small()).await.unwrap_err()), "TargetSchemaMissing");
    database.execute(&format!("ALTER ROLE {user} SET default_transaction_read_only = on")).await;
    let fresh = target_of(&theirs, "a.b", OnExistingTable::Fail).preflight().await;
    assert_eq!(fresh[1].fault.as_ref().unwrap().reason, "TargetNotPrepared");
    theirs.set_secret("password", "wrong");
    let fresh = target_of(&theirs, "a.b", OnExistingTable::Fail).preflight().await;
    assert_eq!(fresh[0].fault.as_ref().unwrap().reason, "TargetAuthenticationFailed");
    database.execute(&format!("DROP OWNED BY {user}; DROP ROLE {user}")).await;
}
