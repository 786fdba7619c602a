//! Every kind of statement that the source runs, as files that a T-SQL parser can read: `tests/integration/tsql/source`. With
//! `UPDATE_GOLDEN=1` the test writes them.

use std::{fs, path::Path};

use super::{
    SNAPSHOT,
    catalog::{self, Instance},
    cdc, chunks, continuity, digest, discover, fetch,
    keys::KeyColumn,
    position::{self, Lsn},
    preflight, rows, tracking,
};
use crate::data::{Column, KeyRange, TableSchema, Travel, fixtures};

/// A table with a name, a key and columns of the awkward sort.
fn table() -> (TableSchema, Vec<KeyColumn>) {
    let column = |number, name: &str, travel, source_type: &str| Column {
        source_type: source_type.into(),
        ..fixtures::column(number, name, travel)
    };
    let columns = vec![
        column(1, "id", Travel::Int64, "bigint"),
        column(2, "code", Travel::Utf8, "varchar(20)"),
        column(3, "order", Travel::Timestamp7, "datetime2(7)"),
        column(4, "place", Travel::Text, "geography"),
        column(5, "any", Travel::Text, "sql_variant"),
        column(6, "tree", Travel::Text, "hierarchyid"),
        column(7, "doc", Travel::Text, "xml"),
        column(8, "stamp", Travel::Binary, "rowversion"),
        column(9, "old", Travel::Utf8, "text"),
        Column { dropped: true, ..column(10, "gone", Travel::Int32, "int") },
    ];
    let schema = TableSchema { system: "sqlserver".into(), ..fixtures::table("or'ders", columns, &[0, 1]) };
    let key = |place: usize, collation: Option<&str>| KeyColumn {
        name: schema.columns[place].name.clone(),
        travel: schema.columns[place].travel,
        source_type: schema.columns[place].source_type.clone(),
        collation: collation.map(str::to_owned),
    };
    let keys = vec![key(0, None), key(1, Some("SQL_Latin1_General_CP1_CI_AS"))];
    (schema, keys)
}

fn statements() -> Vec<(&'static str, String)> {
    let (schema, keys) = table();
    let key = |id: &str, code: &str| vec![id.to_owned(), code.to_owned()];
    let range = KeyRange { after: Some(key("-7", "O'Neil\\\n")), upto: Some(key("9", "z")) };
    let instance = |has_command_id| Instance {
        object_id: 1,
        name: "dbo_orders".into(),
        from: None,
        has_command_id,
        columns: schema.columns.iter().map(|column| column.name.clone()).collect(),
    };
    let (after, upto) = (Lsn([1; 10]), Lsn([2; 10]));
    let of = |result: Result<String, crate::source::Error>| result.unwrap();
    vec![
        ("snapshot", SNAPSHOT.to_owned()),
        ("tables", catalog::tables_query("s.name = N'dbo' AND t.name = N'orders'")),
        ("tables_discovered", catalog::tables_query(discover::LISTED)),
        ("columns", catalog::columns_query("c.object_id = 1")),
        ("keys", catalog::keys_query("i.object_id = 1")),
        ("instances", format!("{} ORDER BY t.source_object_id", catalog::INSTANCES)),
        ("size", chunks::size_query(1)),
        ("cut", chunks::cut_query(&schema.name, &keys, 1000)),
        ("first_read", chunks::first_read(&schema.name)),
        ("read", of(chunks::read_query(&schema, &keys, &range))),
        ("read_all", of(chunks::read_query(&schema, &keys, &KeyRange::default()))),
        ("cut_range", of(digest::cut_query(&schema, &keys[..1], Some(&vec!["7".to_owned()]), 50_000))),
        ("fetch", of(fetch::query(&schema, &keys, &[key("1", "a"), key("2", "b")]))),
        ("version", format!("SELECT {}", position::VERSION)),
        ("version_and_clock", tracking::version_query()),
        ("tracking_state", tracking::state_query(&[1, 2])),
        ("tracking_deletes", tracking::deletes_query(&schema, 7)),
        ("tracking_upserts", tracking::upserts_query(&schema, 7)),
        ("max_lsn", format!("SELECT {}", position::MAX_LSN)),
        ("log_end", position::LOG_END.to_owned()),
        ("cdc_head", cdc::HEAD.to_owned()),
        ("cdc_altered", cdc::altered_query(after)),
        ("cdc_changes", cdc::changes_query(&schema, &instance(true), after, upto)),
        ("cdc_changes_of_an_old_instance", cdc::changes_query(&schema, &instance(false), after, upto)),
        ("server", continuity::SERVER.to_owned()),
        ("recovery", continuity::RECOVERY.to_owned()),
        ("database", continuity::DATABASE.to_owned()),
        ("preflight_server", preflight::SERVER.to_owned()),
        ("preflight_tracking", preflight::TRACKING.to_owned()),
        ("preflight_cdc", preflight::CDC.to_owned()),
        ("columns_of_a_table", format!("SELECT {} FROM [dbo].[orders] AS t", rows::columns(&schema, "t"))),
    ]
}

#[test]
fn statements_are_those_that_a_parser_has_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration/tsql/source");
    let bless = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut known: Vec<String> =
        fs::read_dir(&folder).into_iter().flatten().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    for (name, statement) in statements() {
        let file = format!("{name}.sql");
        let path = folder.join(&file);
        let statement = format!("{statement};\n");
        if bless {
            fs::create_dir_all(&folder).unwrap();
            fs::write(&path, &statement).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap_or_default(), statement, "{name}: UPDATE_GOLDEN=1 writes it anew");
        known.retain(|other| *other != file);
    }
    assert!(known.is_empty(), "no statement is of these any more: {known:?}");
}
