//! Every kind of statement that the target sends, as it stands in `tests/integration/tsql/synapse`, where a grammar reads it.

use super::{
    COLLATION,
    copy::{self, Credential},
    merge::Sql,
    preflight, progress, shape,
};
use crate::{
    api::link_table::{DistributionOptions, DistributionType, StructureOptions, StructureType, TableOptions},
    data::{Column, KeyRange, TableName, TableSchema, Travel, fixtures},
    sqlserver::golden::assert_golden,
    target::{
        Advance, Incarnation, Stride, TargetTable, Untouched, aside,
        tds::{
            digest, kind,
            rights::{self, Right},
            together, transaction,
        },
    },
};

const FIRST: Incarnation = Incarnation { run: 1, record: 10 };
const DATABASE: &str = "SQL_Latin1_General_CP1_CI_AS";

fn options(distribution: DistributionType, column: Option<&str>, structure: StructureType) -> TableOptions {
    TableOptions {
        distribution_options: Some(DistributionOptions { kind: distribution, distribution_column: column.map(str::to_owned) }),
        structure_options: Some(StructureOptions { kind: structure }),
    }
}

fn table() -> TargetTable {
    TargetTable {
        link_id: "shop.o'neil".into(),
        source: TableName::new("dbo", "orders"),
        name: TableName::new("dw", "or ders"),
        options: options(DistributionType::Hash, Some("id"), StructureType::Heap),
    }
}

fn typed(number: i32, name: &str, source_type: &str, travel: Travel) -> Column {
    Column { source_type: source_type.into(), ..fixtures::column(number, name, travel) }
}

/// A table of SQL Server with a type of each sort, among them those that a pool does not have.
fn of_sqlserver() -> TableSchema {
    let collation = |name: &str| Some(name.to_owned());
    let columns = vec![
        typed(1, "id", "int", Travel::Int32),
        Column { collation: collation(DATABASE), ..typed(2, "code", "varchar(20)", Travel::Utf8) },
        Column { collation: collation("Greek_CI_AS"), ..typed(3, "we ird", "nvarchar(50)", Travel::Utf8) },
        typed(4, "small", "tinyint", Travel::Int16),
        typed(5, "price", "decimal(18,4)", Travel::Decimal { precision: 18, scale: 4 }),
        typed(6, "cost", "money", Travel::Decimal { precision: 19, scale: 4 }),
        typed(7, "at", "datetime2(7)", Travel::Timestamp7),
        typed(8, "on", "date", Travel::Date),
        typed(9, "told", "datetimeoffset(7)", Travel::TimestampOffset),
        typed(10, "uid", "uniqueidentifier", Travel::Uuid),
        typed(11, "code_page", "char(3)", Travel::Utf8),
        typed(12, "version", "rowversion", Travel::Binary),
        typed(13, "doc", "xml", Travel::Text),
        typed(14, "node", "hierarchyid", Travel::Text),
        Column { initial: Some("it's".into()), ..typed(15, "added", "nvarchar(max)", Travel::Utf8) },
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
    let table = table();
    let build = aside::build_name(&table, FIRST);
    let (server, postgres) = (of_sqlserver(), of_postgresql());
    let (kinds, plain) = (shape::kinds(&server, DATABASE), shape::kinds(&postgres, DATABASE));
    let right = Right { state: "G".into(), permission: "SELECT".into(), grantee: "ana lyst".into(), column: None };
    let mut made = vec![COLLATION.to_owned(), shape::create_table(&build, &server, &kinds, &table.options)];
    for options in [
        TableOptions::default(),
        options(DistributionType::Replicate, None, StructureType::ClusteredIndex),
        options(DistributionType::RoundRobin, None, StructureType::Heap),
    ] {
        made.push(shape::create_table(&build, &postgres, &plain, &options));
    }
    made.extend(kind::add_column(&server, 14, &kinds[14], "[dw].[t]").unwrap());
    made.extend([shape::rename(&table.name, "link_old"), progress::drop(&build), rights::of(42)]);
    made.extend(rights::give(&right, &build));

    let sql = Sql::new(&table.name, server.clone(), DATABASE, &table.options);
    let other = Sql::new(&table.name, postgres.clone(), DATABASE, &TableOptions::default());
    let mut merged = Vec::new();
    for sql in [&sql, &other] {
        merged.extend([
            sql.create_staged("#link_upserts0"),
            sql.delete_all(),
            sql.delete("#link_deletes1", |place| format!("[k{place}]")),
            sql.insert("#link_upserts0"),
            sql.twice(),
        ]);
        merged.extend(sql.alike("#link_upserts0"));
    }
    merged.extend([other.fill("#link_upserts0", "#link_origins1", &[2], 0), other.missing("#link_origins1", 0)]);
    merged.push("DROP TABLE #link_upserts0".into());

    let urls = ["https://zone.blob.core.windows.net/c/it's/1.parquet", "https://zone.blob.core.windows.net/c/2.parquet"];
    let columns = other.staged_columns();
    let copied = [Credential::Identity, Credential::Sas("sv=2023-11-03&sp=rl&sig=x".into())]
        .map(|credential| copy::statement("#link_upserts0", &columns, &urls, &credential));

    let uuid = "00000000-0000-0000-0000-00000000000a".to_owned();
    let range = KeyRange { after: Some(vec!["-5".into(), uuid.clone()]), upto: Some(vec!["7".into(), uuid.clone()]) };
    let keys = [vec!["7".to_owned(), uuid.clone(), "O'Neil".into()], vec!["8".to_owned(), uuid, "漢".into()]];
    vec![
        (
            "preflight",
            vec![preflight::ASK.into(), preflight::RIGHTS.into(), preflight::schema_rights("d'w]"), preflight::ask_schema("d'w]")],
        ),
        ("progress", own(&table)),
        ("tables", made),
        ("merge", merged),
        ("copy", copied.to_vec()),
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

/// Of the link's own tables.
fn own(table: &TargetTable) -> Vec<String> {
    let time = "2024-02-29T12:00:00.123456789Z".parse().unwrap();
    let advance = Advance { incarnation: FIRST, from: 10, to: 12, as_of: Some(time), plan_revision: 3 };
    let places = [together::Place { source: &table.source, incarnation: FIRST, record: 10 }];
    let stride = Stride { link_id: &table.link_id, to: 12, as_of: None, plan_revision: 3 };
    let untouched = Untouched { source: table.source.clone(), incarnation: FIRST, record: 10, as_of: time };
    // A view is made by a batch of its own.
    let mut own: Vec<String> = progress::CREATE.iter().map(|(_, create)| (*create).to_owned()).collect();
    own.extend([
        progress::BEGIN.into(),
        transaction::COMMIT.into(),
        progress::exist(),
        progress::LOCK_CLAIMS.into(),
        progress::own_claim(table),
        progress::owner(&table.name),
        progress::claimed_name(table),
        progress::respell(table),
        progress::find(&table.name),
        progress::read_mark(42),
        progress::hold(table),
        progress::read_claim(table),
        progress::read_progress(table),
        progress::read_link(&table.link_id),
        progress::read_tables(&table.link_id),
        progress::read_placing(table),
        progress::set_placing(table, FIRST, 10, 42),
        progress::forget_placing(table),
        progress::begin_incarnation(table, FIRST),
        progress::read_chunks(table, FIRST),
        progress::is_loading(table, FIRST),
        progress::hold_loading(table, FIRST),
        progress::find_chunk(table, FIRST, 4),
        progress::insert_chunk(table, FIRST, 4),
        progress::count_chunk(table, FIRST, 4, 100),
        progress::count(table, 100),
        progress::count_chunks(table, FIRST),
        progress::note_column(table, FIRST, "we ird"),
        progress::find_noted(table, FIRST, "we ird"),
        progress::find_column(&table.name, "we ird"),
        progress::forget_columns(table),
        progress::compare_and_set(table, &advance, true, false),
        progress::compare_and_set(table, &advance, false, true),
        progress::set_verified(table, FIRST, time),
        progress::set_placed(table, 42),
        progress::set_mark(table, 42),
        progress::forget_mark(42),
        progress::forget_rows(table),
        progress::find_aside(table),
        together::stride(stride, &places),
        together::leave(stride, &places),
        together::touch(&table.link_id, &[untouched]),
    ]);
    own
}

#[test]
fn statements_are_those_that_a_grammar_reads() {
    for (name, statements) in files() {
        assert_golden(&format!("synapse/{name}"), &statements);
    }
}

/// What a pool does not know, by its manual, stands in none of them.
#[test]
fn statements_have_nothing_that_a_pool_lacks() {
    let all: Vec<String> = files().into_iter().flat_map(|(_, statements)| statements).collect();
    for lacking in [
        "sp_getapplock",
        "sp_rename",
        "extended_propert",
        "TRUNCATE",
        "MERGE INTO",
        "UNIQUE",
        "PRIMARY KEY",
        "HAS_PERMS_BY_NAME",
        "ISOLATION LEVEL",
        "(VALUES",
        "temporal_type",
        "COLLATE DATABASE_DEFAULT",
        "DEFAULT SYS",
        "STRING_ESCAPE",
        " xml",
        "hierarchyid",
    ] {
        let found: Vec<&String> = all.iter().filter(|statement| statement.contains(lacking)).collect();
        assert!(found.is_empty(), "{lacking}: {found:?}");
    }
}
