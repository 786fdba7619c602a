//! Every kind of statement that the source sends, as it stands in `tests/integration/tsql/source`, where a grammar reads it.

use super::{
    SNAPSHOT,
    catalog::{self, Instance},
    cdc, chunks, continuity, digest, discover, fetch, kept,
    keys::KeyColumn,
    position::{self, Lsn},
    preflight,
};
use crate::{
    data::{Column, KeyRange, TableName, TableSchema, Travel, fixtures},
    sqlserver::golden::assert_golden,
};

/// A table with a key of each way to write a literal, and a type of each way to be selected.
fn table() -> (TableSchema, Vec<KeyColumn>) {
    let collation = Some("Latin1_General_CI_AS".to_owned());
    let typed = |number, name: &str, kind: &str, travel| Column { source_type: kind.into(), ..fixtures::column(number, name, travel) };
    let columns = vec![
        typed(1, "id", "int", Travel::Int32),
        Column { collation, ..typed(2, "co de", "varchar(20)", Travel::Utf8) },
        typed(3, "at", "datetime", Travel::Timestamp),
        typed(4, "hash", "varbinary(16)", Travel::Binary),
        typed(5, "doc", "xml", Travel::Text),
        typed(6, "node", "hierarchyid", Travel::Text),
        typed(7, "shape", "geometry", Travel::Text),
        typed(8, "any", "sql_variant", Travel::Text),
        typed(9, "moment", "datetimeoffset(7)", Travel::TimestampOffset),
        Column { dropped: true, ..typed(10, "gone", "int", Travel::Int32) },
    ];
    let schema = TableSchema { system: "sqlserver".into(), ..fixtures::table("orders", columns, &[0, 1, 2, 3]) };
    let key = |&at: &usize| {
        let Column { name, travel, source_type, collation, .. } = schema.columns[at].clone();
        KeyColumn { name, travel, source_type, collation }
    };
    let keys = schema.key.iter().map(key).collect();
    (schema, keys)
}

#[test]
fn statements_are_those_that_a_grammar_reads() {
    let (schema, keys) = table();
    let name = TableName::new("dbo", "orders");
    let texts = |id: &str| vec![id.to_owned(), "O'Neil".into(), "2024-02-29 12:00:00.123".into(), "\\x00ff".into()];
    let range = KeyRange { after: Some(texts("-5")), upto: Some(texts("7")) };
    let first =
        Instance { object_id: 9, name: "dbo_orders_1".into(), from: None, has_command_id: true, columns: vec!["id".into(), "doc".into()] };
    let old = Instance { has_command_id: false, ..first.clone() };
    let (after, upto) = (Lsn([0; 10]), Lsn([255; 10]));
    assert_golden(
        "source/catalog",
        &[
            catalog::tables_query("s.name = N'dbo' AND t.name = N'orders'"),
            catalog::tables_query(discover::LISTED),
            catalog::columns_query("c.object_id = 9"),
            catalog::keys_query("i.object_id = 9"),
            discover::ROWS.into(),
            discover::BYTES.into(),
            catalog::INSTANCES.into(),
            catalog::TRACKED.into(),
        ],
    );
    assert_golden(
        "source/server",
        &[
            preflight::SERVER.into(),
            preflight::TRACKING.into(),
            preflight::CDC.into(),
            continuity::SERVER.into(),
            continuity::RECOVERY.into(),
            continuity::DATABASE.into(),
            position::LOG_END.into(),
            format!("SELECT {}", position::VERSION),
            format!("SELECT {}", position::MAX_LSN),
        ],
    );
    assert_golden(
        "source/rows",
        &[
            SNAPSHOT.into(),
            chunks::first_read(&name),
            chunks::size_query(9),
            chunks::count_query(&name),
            chunks::cut_query(&name, &keys, 1000),
            chunks::read_query(&schema, &keys, &KeyRange::default()).unwrap(),
            chunks::read_query(&schema, &keys, &range).unwrap(),
            fetch::query(&schema, &keys, &[texts("1"), texts("2")]).unwrap(),
            digest::cut_query(&schema, &keys[..1], None, 100).unwrap(),
            digest::cut_query(&schema, &keys[..1], Some(&vec!["7".into()]), 100).unwrap(),
        ],
    );
    assert_golden(
        "source/changes",
        &[
            kept::version_query(),
            kept::state_query(&[9, u32::MAX]),
            kept::deletes_query(&schema, 7),
            kept::upserts_query(&schema, 7),
            cdc::HEAD.into(),
            cdc::altered_query(after),
            cdc::changes_query(&schema, &first, after, upto),
            cdc::changes_query(&schema, &old, after, upto),
        ],
    );
}
