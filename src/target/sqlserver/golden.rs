//! Every kind of statement that the target sends, as it stands in `tests/integration/tsql/target`, where a grammar reads it.

use super::{
    BEGIN, ddl,
    lock::{self, Mode},
    merge::{Place, Sql},
    preflight, progress, snapshot,
};
use crate::{
    api::link_table::TableOptions,
    data::{Column, KeyRange, TableName, TableSchema, Travel, fixtures},
    sqlserver::golden::assert_golden,
    target::{
        Advance, Incarnation, Stride, TargetTable, Untouched, aside,
        tds::{
            digest,
            kind::{self, Kind, Types},
            rights::{self, Right},
            together, transaction,
        },
    },
};

const ALL: Types = Types { xml: true, hierarchyid: true, geometry: true, geography: true, babelfish: false };
const FIRST: Incarnation = Incarnation { run: 1, record: 10 };

fn table() -> TargetTable {
    TargetTable {
        link_id: "shop.o'neil".into(),
        source: TableName::new("dbo", "orders"),
        name: TableName::new("dw", "or ders"),
        options: TableOptions::default(),
    }
}

fn typed(number: i32, name: &str, source_type: &str, travel: Travel) -> Column {
    Column { source_type: source_type.into(), ..fixtures::column(number, name, travel) }
}

/// A table of SQL Server with a type of each conversion.
fn of_sqlserver() -> TableSchema {
    let collation = Some("SQL_Latin1_General_CP1_CI_AS".to_owned());
    let columns = vec![
        typed(1, "id", "int", Travel::Int32),
        Column { collation: collation.clone(), ..typed(2, "code", "varchar(20)", Travel::Utf8) },
        Column { collation, ..typed(3, "we ird", "nvarchar(50)", Travel::Utf8) },
        typed(4, "doc", "xml", Travel::Text),
        typed(5, "node", "hierarchyid", Travel::Text),
        typed(6, "shape", "geometry", Travel::Text),
        typed(7, "place", "geography", Travel::Text),
        typed(8, "price", "decimal(18,4)", Travel::Decimal { precision: 18, scale: 4 }),
        typed(9, "version", "rowversion", Travel::Binary),
        Column { initial: Some("it's".into()), ..typed(10, "added", "nvarchar(max)", Travel::Utf8) },
    ];
    TableSchema { system: "sqlserver".into(), ..fixtures::table("orders", columns, &[1, 0]) }
}

fn of_postgresql() -> TableSchema {
    let columns = vec![
        typed(1, "id", "uuid", Travel::Uuid),
        typed(2, "name", "text", Travel::Utf8),
        typed(3, "at", "timestamp with time zone", Travel::TimestampTz),
        typed(4, "number", "bigint", Travel::Int64),
    ];
    fixtures::table("orders", columns, &[3, 0, 1])
}

fn files() -> Vec<(&'static str, Vec<String>)> {
    let (table, time) = (table(), "2024-02-29T12:00:00.123456789Z".parse().unwrap());
    let build = aside::build_name(&table, FIRST);
    let (server, postgres) = (of_sqlserver(), of_postgresql());
    let (kinds, plain) = (Kind::all(&server, ALL), Kind::all(&postgres, ALL));
    let advance = Advance { incarnation: FIRST, from: 10, to: 12, as_of: Some(time), plan_revision: 3 };
    let right = |state: &str, column: Option<&str>| Right {
        state: state.into(),
        permission: "SELECT".into(),
        grantee: "ana lyst".into(),
        column: column.map(str::to_owned),
    };
    let rights = [right("G", None), right("W", Some("we ird")), right("D", None)];
    let mut made = vec![ddl::TYPES.to_owned(), ddl::create_table(&build, &server, &kinds), ddl::primary_key(&build, &server, &kinds)];
    made.extend(kind::add_column(&server, 9, &kinds[9], "[dw].[t]").unwrap());
    made.extend([ddl::set_mark(&build, &table), ddl::rename(&build, &table.name), rights::of(42)]);
    made.extend(rights.iter().filter_map(|right| rights::give(right, &build)));
    let statements = |sql: &Sql, count: usize| {
        let mut all = vec![
            sql.asks_truncate(),
            sql.truncate(true),
            sql.truncate(false),
            sql.create_staged("#link_upserts", 'c', &(0..count).collect::<Vec<_>>(), &["n"]),
            sql.delete("#link_deletes", |place| format!("[k{place}]")),
            sql.insert(false),
            sql.insert(true),
        ];
        all.extend(sql.update());
        all
    };
    let mut merged = statements(&Sql::new(&table.name, server.clone(), ALL, Place::InPlace), server.columns.len());
    let sql = Sql::new(&table.name, postgres.clone(), ALL, Place::InPlace);
    merged.extend(statements(&sql, postgres.columns.len()));
    merged.extend([sql.fill(&[2], 0), sql.missing(0)]);
    let places = [together::Place { source: &table.source, incarnation: FIRST, record: 10 }];
    let stride = Stride { link_id: &table.link_id, to: 12, as_of: None, plan_revision: 3 };
    let untouched = Untouched { source: table.source.clone(), incarnation: FIRST, record: 10, as_of: time };
    let uuid = "00000000-0000-0000-0000-00000000000a".to_owned();
    let range = KeyRange { after: Some(vec!["-5".into(), uuid.clone()]), upto: Some(vec!["7".into(), uuid.clone()]) };
    let keys = [vec!["7".to_owned(), uuid, "O'Neil".into()]];
    let mut own: Vec<String> = progress::CREATE.iter().map(|sql| (*sql).to_owned()).collect();
    own.extend([
        progress::EXIST.to_owned(),
        progress::own_claim(&table),
        progress::owner(&table.name),
        progress::claimed_name(&table),
        progress::respell(&table),
        progress::find(&table.name),
        progress::hold(&table),
        progress::read_claim(&table),
        progress::read_progress(&table),
        progress::read_link(&table.link_id),
        progress::read_tables(&table.link_id),
        progress::begin_incarnation(&table, FIRST),
        progress::read_chunks(&table, FIRST),
        progress::is_loading(&table, FIRST),
        progress::insert_chunk(&table, FIRST, 4),
        progress::count_chunk(&table, FIRST, 4, 100),
        progress::count(&table, 100),
        progress::count_chunks(&table, FIRST),
        progress::compare_and_set(&table, &advance, true, false),
        progress::compare_and_set(&table, &advance, false, true),
        progress::set_verified(&table, FIRST, time),
        progress::set_placed(&table, 42),
        progress::forget_rows(&table),
        progress::find_aside(&table),
        progress::drop(&build),
        together::stride(stride, &places),
        together::leave(stride, &places),
        together::touch(&table.link_id, &[untouched]),
    ]);
    vec![
        (
            "transactions",
            vec![BEGIN.into(), transaction::COMMIT.into(), lock::ask("claims", Mode::Exclusive), lock::ask("claims", Mode::Shared)],
        ),
        ("preflight", vec![preflight::ASK.into(), preflight::ask_schema("d'w]")]),
        ("progress", own),
        ("tables", [made, vec![snapshot::is_sealed(&build)]].concat()),
        ("merge", merged),
        (
            "digest",
            vec![
                digest::of_range(&table.name, &server, &kinds, &KeyRange::default()).unwrap(),
                digest::of_range(&table.name, &postgres, &plain, &range).unwrap(),
                digest::of_keys(&table.name, &postgres, &plain, &keys).unwrap(),
            ],
        ),
    ]
}

#[test]
fn statements_are_those_that_a_grammar_reads() {
    for (name, statements) in files() {
        assert_golden(&format!("target/{name}"), &statements);
    }
}
