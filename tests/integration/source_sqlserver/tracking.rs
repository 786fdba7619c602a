//! Change Tracking, as a scripted server has it: no other server that the tests have does.

use std::sync::{Arc, Mutex};

use link_operator::{
    api::{database::CaptureMode, fault::Explain as _},
    data::{Part, Position, TableName, TableSchema, TableVersion, Travel},
    source::{Capture, CapturedTable, Error, Source as _, sqlserver::SqlServer},
};
use serde_json::json;

use super::{cut, keep, limits, of};
use crate::support::tds::{Answer, Fault, Message, Request, Script, Server, Type, Value, row};

/// The state of the database that the server tells of.
#[derive(Clone)]
struct Shop {
    version: i64,
    /// Versions at which changes of `orders` and `items` begin to be kept, and at which that was switched on.
    min_valid: Option<i64>,
    since: i64,
    /// Stands for the definitions of the tables.
    signature: &'static str,
    columns: Vec<(&'static str, &'static str)>,
    orders: (Vec<Vec<Value>>, Vec<Vec<Value>>),
    items: (Vec<Vec<Value>>, Vec<Vec<Value>>),
    /// The next statement that contains this gets this answer.
    next: Option<(&'static str, Answer)>,
    fork: &'static str,
    snapshot: i32,
    updateability: &'static str,
    retention: bool,
}

type Shared = Arc<Mutex<Shop>>;

fn shop() -> Shared {
    Arc::new(Mutex::new(Shop {
        version: 10,
        min_valid: Some(5),
        since: 5,
        signature: "one",
        columns: vec![("id", "int"), ("note", "nvarchar")],
        orders: (vec![], vec![]),
        items: (vec![], vec![]),
        next: None,
        fork: "00000001-0000-0000-0000-000000000000",
        snapshot: 1,
        updateability: "READ_WRITE",
        retention: true,
    }))
}

const IDS: [(&str, i32); 2] = [("orders", 101), ("items", 102)];

fn answer(shop: &Shared, request: &Request) -> Answer {
    let mut shop = shop.lock().unwrap();
    let sql = request.statement.as_str();
    if shop.next.as_ref().is_some_and(|(pattern, _)| sql.contains(pattern)) {
        return shop.next.take().unwrap().1;
    }
    let text = || Type::NVarChar(100);
    let (min_valid, since) = (shop.min_valid, shop.since);
    if sql.contains("CHANGE_TRACKING_MIN_VALID_VERSION") {
        let rows = IDS.map(|(_, id)| row![id, min_valid, since, shop.signature]);
        Answer::rows([("id", Type::Int), ("min", Type::BigInt), ("since", Type::BigInt), ("signature", text())], rows)
    } else if sql.contains("CHANGETABLE") {
        let (deletes, upserts) = if sql.contains("[orders]") { &shop.orders } else { &shop.items };
        if sql.contains("= N'D'") {
            Answer::rows([("id", Type::Int)], deletes.clone())
        } else {
            let mut columns = vec![("op", Type::SmallInt), ("id", Type::Int), ("note", text())];
            columns.extend(shop.columns.iter().skip(2).map(|(name, _)| (*name, Type::Int)));
            Answer::rows(columns, upserts.clone())
        }
    } else if sql.contains("CHANGE_TRACKING_CURRENT_VERSION") {
        if sql.contains("@now") {
            Answer::rows([("version", Type::BigInt), ("time", text())], [row![shop.version, "2026-11-21T12:00:00.123Z"]])
        } else {
            Answer::rows([("version", Type::BigInt)], [row![shop.version]])
        }
    } else if sql.contains("FROM sys.tables") {
        let types = [("id", Type::Int), ("schema", text()), ("table", text())];
        let flags = (0..8).map(|_| ("flag", Type::Int));
        let columns = types.into_iter().chain(flags).chain([("since", Type::BigInt)]);
        let rows = IDS.map(|(name, id)| row![id, "dbo", name, 0, 0, 0, 0, 0, 1, 1, 1, since]);
        Answer::rows(columns, rows)
    } else if sql.contains("FROM sys.columns") {
        let columns = [
            "id",
            "n",
            "name",
            "type",
            "clr",
            "length",
            "precision",
            "scale",
            "null",
            "collation",
            "computed",
            "encrypted",
            "masked",
            "default",
            "set",
            "deterministic",
        ];
        let kinds = columns.map(|name| (name, if matches!(name, "name" | "type" | "collation" | "computed") { text() } else { Type::Int }));
        let none = None::<&str>;
        let rows = (1..)
            .zip(&shop.columns)
            .map(|(n, (name, kind))| row![101, n, *name, *kind, 0, 40, 0, 0, i32::from(n > 1), none, none, 0, 0, 0, 0, 0]);
        Answer::rows(kinds, rows)
    } else if sql.contains("FROM sys.indexes") {
        Answer::rows(["id", "index", "primary", "column"].map(|name| (name, Type::Int)), [row![101, 1, 1, 1]])
    } else if sql.contains("Updateability") {
        let columns =
            [("edition", Type::Int), ("version", text()), ("updateability", text()), ("snapshot", Type::Int), ("committed", Type::Int)];
        Answer::rows(columns, [row![2, "16.0.4000.1", shop.updateability, shop.snapshot, 0]])
    } else if sql.contains("EngineEdition") {
        Answer::rows([("name", text()), ("version", text()), ("edition", Type::Int)], [row!["shop", "16.0.4000.1", 2]])
    } else if sql.contains("database_recovery_status") {
        Answer::rows([("family", text()), ("fork", text())], [row!["FFFFFFFF-0000-0000-0000-000000000000", shop.fork]])
    } else if sql.contains("change_tracking_databases") {
        let rows = if shop.retention { vec![row![1, 2, "DAYS"]] } else { vec![] };
        Answer::rows([("cleanup", Type::Int), ("period", Type::Int), ("unit", text())], rows)
    } else {
        Answer::done()
    }
}

/// A server that tells of this, and the source that reads it.
fn start(shop: &Shared) -> (Server, SqlServer, tempfile::TempDir) {
    let told = shop.clone();
    let server = Server::start(Script::new(move |request| answer(&told, request)));
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("sql");
    std::fs::create_dir(&secret).unwrap();
    std::fs::write(secret.join("username"), "reader").unwrap();
    std::fs::write(secret.join("password"), "secret").unwrap();
    let spec = json!({
        "host": "127.0.0.1", "port": server.address().port(), "database": "shop", "tls": {"mode": "Disable"},
        "auth": {"password": {"secretRef": {"name": "sql"}}}, "captureMode": CaptureMode::ChangeTracking,
    });
    let source = SqlServer::new(serde_json::from_value(spec).unwrap(), link_operator::secrets::Secrets::new(folder.path()));
    (server, source, folder)
}

fn at(version: i64) -> Position {
    Position(format!("{version:020}"))
}

/// Both tables, in the link since version 5.
async fn captured(source: &SqlServer) -> (Vec<CapturedTable>, TableSchema) {
    let schema = source.describe(&TableName::new("dbo", "orders")).await.unwrap();
    assert_eq!(schema.columns.iter().map(|column| column.travel).collect::<Vec<_>>(), [Travel::Int32, Travel::Utf8]);
    let table = |(id, (name, object_id)): (u32, (&str, i32))| {
        let schema = TableSchema { name: TableName::new("dbo", name), object_id: object_id as u32, ..schema.clone() };
        let parts = vec![Part { object_id: object_id as u32, file_id: 0, attached: "5".into() }];
        CapturedTable { id, version: TableVersion { schema, parts }, from: at(5) }
    };
    ((1..).zip(IDS).map(table).collect(), schema)
}

async fn capture(source: &SqlServer, from: i64) -> (Box<dyn Capture>, TableSchema) {
    let (tables, schema) = captured(source).await;
    (source.capture(&at(from), true, tables, keep()).await.unwrap(), schema)
}

#[tokio::test]
async fn a_poll_brings_all_tables_as_of_one_version_deletes_first() {
    let shop = shop();
    let (server, source, _folder) = start(&shop);
    let (mut capture, schema) = capture(&source, 10).await;
    let quiet = capture.next_cut(limits(1 << 20)).await.unwrap();
    assert_eq!((quiet.whole, quiet.to, quiet.time.is_some(), quiet.tables.len()), (true, at(10), true, 0));
    {
        let mut shop = shop.lock().unwrap();
        shop.version = 12;
        // A row got another key; one is gone since its change was noted.
        shop.orders = (vec![row![1]], vec![row![2, 2, "moved"], row![3, 9, None::<&str>]]);
        shop.items = (vec![], vec![row![2, 7, "item"]]);
    }
    let first = server.statements().len();
    let poll = cut(&mut *capture, 1 << 20).await.unwrap();
    assert_eq!((poll.whole, &poll.to), (true, &at(12)));
    assert_eq!(poll.time.unwrap().to_string(), "2026-11-21T12:00:00.123Z");
    assert_eq!(of(&poll, 1, &schema), ["delete 1 -", "update 2 moved", "delete 9 -"]);
    assert_eq!(of(&poll, 2, &schema), ["update 7 item"]);
    // One transaction for all tables; the version is asked for before anything else.
    let statements = server.statements()[first..].to_vec();
    let place = |text: &str| statements.iter().position(|sql| sql.contains(text)).unwrap_or_else(|| panic!("{text}: {statements:?}"));
    assert_eq!(statements.iter().filter(|sql| sql.contains("SNAPSHOT")).count(), 1);
    let begin = place("SNAPSHOT");
    assert!(statements[begin + 1].contains("CHANGE_TRACKING_CURRENT_VERSION"));
    assert!(begin < place("CHANGES [dbo].[orders], 10)") && place("CHANGES [dbo].[items], 10)") < place("COMMIT"));
    assert!(place("CHANGETABLE") > place("CHANGE_TRACKING_MIN_VALID_VERSION"));
}

#[tokio::test]
async fn a_large_poll_comes_in_pieces_of_one_transaction() {
    let shop = shop();
    let (server, source, _folder) = start(&shop);
    let (mut capture, schema) = capture(&source, 10).await;
    {
        let mut shop = shop.lock().unwrap();
        shop.version = 12;
        shop.orders = (vec![row![1], row![2]], vec![row![2, 3, "x"], row![2, 4, "y"]]);
        shop.items = (vec![], vec![row![2, 7, "item"]]);
    }
    let (mut pieces, mut rows) = (0, Vec::new());
    loop {
        let piece = capture.next_cut(limits(1)).await.unwrap();
        pieces += 1;
        rows.extend(of(&piece, 1, &schema));
        rows.extend(of(&piece, 2, &schema));
        // What is committed meanwhile belongs to the next poll.
        shop.lock().unwrap().version = 15;
        if piece.whole {
            assert_eq!(piece.to, at(12));
            break;
        }
        assert_eq!(piece.to, at(10));
    }
    assert!(pieces > 2);
    assert_eq!(rows, ["delete 1 -", "delete 2 -", "update 3 x", "update 4 y", "update 7 item"]);
    assert_eq!(server.statements().iter().filter(|sql| sql.contains("SNAPSHOT")).count(), 1);
}

#[tokio::test]
async fn changes_that_are_kept_no_longer_end_the_table() {
    for (min_valid, since, why) in
        [(Some(11), 5, "kept only from version 11"), (None, 5, "not tracked"), (Some(5), 10, "switched off and on")]
    {
        let shop = shop();
        let (_server, source, _folder) = start(&shop);
        let (mut capture, _) = capture(&source, 10).await;
        {
            let mut shop = shop.lock().unwrap();
            (shop.version, shop.min_valid, shop.since) = (12, min_valid, since);
            shop.orders = (vec![row![1]], vec![]);
        }
        let poll = cut(&mut *capture, 1 << 20).await.unwrap();
        assert_eq!(poll.broken.len(), 2, "{why}");
        let error = &poll.broken[0].1;
        assert!(matches!(error, Error::ChangeVersionExpired(_)) && error.to_string().contains(why) && error.heals(), "{error}");
        assert!(poll.tables.is_empty() && poll.to == at(12));
    }
}

#[tokio::test]
async fn a_table_that_is_altered_under_a_poll_is_polled_anew() {
    let altered = || Answer::rollback().then(Answer::fault(Fault::Error(Message::error(3961, "Snapshot isolation transaction failed"))));
    let shop = shop();
    let (_server, source, _folder) = start(&shop);
    let (mut capture, schema) = capture(&source, 10).await;
    {
        let mut shop = shop.lock().unwrap();
        shop.version = 12;
        shop.orders = (vec![row![1]], vec![row![2, 2, "x"]]);
        shop.next = Some(("<> N'D'", altered()));
    }
    let poll = cut(&mut *capture, 1 << 20).await.unwrap();
    assert_eq!(of(&poll, 1, &schema), ["delete 1 -", "update 2 x"]);
    // Once a piece was delivered, there is no other way than to go back to what was committed.
    shop.lock().unwrap().version = 14;
    let piece = cut(&mut *capture, 1).await.unwrap();
    assert!(!piece.whole);
    shop.lock().unwrap().next = Some(("CHANGETABLE", altered()));
    let failed = loop {
        match cut(&mut *capture, 1).await {
            Ok(cut) => assert!(!cut.whole),
            Err(error) => break error,
        }
    };
    assert!(matches!(&failed, Error::SourceError(_)) && failed.heals(), "{failed}");
}

#[tokio::test]
async fn a_connection_that_breaks_in_a_poll_ends_the_capture() {
    let shop = shop();
    let (_server, source, _folder) = start(&shop);
    let (mut capture, schema) = capture(&source, 10).await;
    {
        let mut shop = shop.lock().unwrap();
        shop.version = 12;
        shop.orders = (vec![row![1]], vec![row![2, 2, "x"]]);
        shop.next = Some(("<> N'D'", Answer::fault(Fault::Drop)));
    }
    let error = cut(&mut *capture, 1 << 20).await.unwrap_err();
    assert!(matches!(error, Error::SourceUnreachable(_)), "{error}");
    // The next begins where the log ends, and misses nothing.
    let (mut capture, _) = self::capture(&source, 10).await;
    assert_eq!(of(&cut(&mut *capture, 1 << 20).await.unwrap(), 1, &schema), ["delete 1 -", "update 2 x"]);
}

#[tokio::test]
async fn a_column_that_is_added_comes_before_the_rows_that_have_it() {
    let shop = shop();
    let (_server, source, _folder) = start(&shop);
    let (mut capture, schema) = capture(&source, 10).await;
    {
        let mut shop = shop.lock().unwrap();
        (shop.version, shop.signature) = (12, "two");
        shop.columns.push(("more", "int"));
        shop.orders = (vec![], vec![row![2, 2, "x", 5]]);
    }
    let wider = TableSchema { columns: source.describe(&schema.name).await.unwrap().columns, ..schema };
    let poll = cut(&mut *capture, 1 << 20).await.unwrap();
    assert_eq!(of(&poll, 1, &wider), ["version of 3 columns", "update 2 x 5"]);
    {
        let mut shop = shop.lock().unwrap();
        (shop.version, shop.signature) = (13, "three");
        shop.columns[1].0 = "renamed";
    }
    let poll = cut(&mut *capture, 1 << 20).await.unwrap();
    assert!(matches!(&poll.broken[0], (1, Error::SchemaChanged(why)) if why.contains("renamed")), "{:?}", poll.broken);
}

#[tokio::test]
async fn a_table_that_joins_late_begins_where_it_joined() {
    let shop = shop();
    let (server, source, _folder) = start(&shop);
    let (mut tables, _) = captured(&source).await;
    tables[1].from = at(11);
    let mut capture = source.capture(&at(10), true, tables, keep()).await.unwrap();
    shop.lock().unwrap().version = 12;
    shop.lock().unwrap().orders.0.push(row![1]);
    cut(&mut *capture, 1 << 20).await.unwrap();
    assert!(server.statements().iter().any(|sql| sql.contains("CHANGES [dbo].[items], 11)")));
    assert!(server.statements().iter().any(|sql| sql.contains("CHANGES [dbo].[orders], 10)")));
}

#[tokio::test]
async fn a_restored_database_is_found_out() {
    let shop = shop();
    let (_server, source, _folder) = start(&shop);
    let identity = source.identity().await.unwrap();
    assert_eq!((identity.system.as_str(), identity.timeline), ("ffffffff-0000-0000-0000-000000000000/shop", 1));
    source.check_continuity(&at(10), &identity).await.unwrap();
    let lost = |error: Error| matches!(error, Error::PositionLost(_));
    assert!(lost(source.check_continuity(&at(11), &identity).await.unwrap_err()));
    shop.lock().unwrap().fork = "00000002-0000-0000-0000-000000000000";
    assert!(lost(source.check_continuity(&at(10), &identity).await.unwrap_err()));
    // While it is followed.
    let (mut capture, _) = capture(&source, 10).await;
    shop.lock().unwrap().version = 9;
    assert!(lost(capture.next_cut(limits(1)).await.unwrap_err()));
}

#[tokio::test]
async fn each_failed_preflight_has_its_statement() {
    let found = async |change: &dyn Fn(&mut Shop)| {
        let shop = shop();
        change(&mut shop.lock().unwrap());
        let (_server, source, _folder) = start(&shop);
        let checks = source.preflight().await;
        let fault = checks.iter().find_map(|check| check.fault.clone());
        fault.map_or_else(|| (String::new(), checks[1].message.clone()), |fault| (fault.reason, fault.remedy))
    };
    let (reason, message) = found(&|_| {}).await;
    assert!(reason.is_empty() && message.contains("keeps changes for 2 days"), "{reason} {message}");
    let denied = || Answer::error(297, "The user does not have permission to perform this action.");
    let not_prepared = |remedy: &str| ("SourceNotPrepared".to_owned(), remedy.to_owned());
    let allow = "ALTER DATABASE CURRENT SET ALLOW_SNAPSHOT_ISOLATION ON";
    assert_eq!(found(&|shop| shop.snapshot = 0).await, not_prepared(allow));
    let primary = "name the primary, or the listener of the availability group, in spec.source.sqlServer.host";
    assert_eq!(found(&|shop| shop.updateability = "READ_ONLY").await, not_prepared(primary));
    assert!(found(&|shop| shop.retention = false).await.1.contains("SET CHANGE_TRACKING = ON"));
    let secondary =
        || Answer::error(22117, "For databases that are members of a secondary availability replica, change tracking is not supported.");
    assert_eq!(found(&|shop| shop.next = Some(("SELECT CHANGE_TRACKING_CURRENT_VERSION", secondary()))).await, not_prepared(primary));
    assert_eq!(found(&|shop| shop.next = Some(("change_tracking_databases", denied()))).await.0, "SourcePermissionDenied");
    let gone = || Answer::fault(Fault::Drop);
    assert_eq!(found(&|shop| shop.next = Some(("Updateability", gone()))).await.0, "SourceUnreachable");
}
