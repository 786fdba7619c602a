//! Every value arrives as it was.

use arrow::array::{
    BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Float32Array, Float64Array, Int16Array, Int64Array,
    Time64MicrosecondArray, TimestampMicrosecondArray,
};
use async_trait::async_trait;
use bytes::Bytes;
use link_operator::data::{Among, Digesting, Form, KeyRange, LargeValue, LinkCell, list_rows};

use super::*;

/// A column: type, travel, its values.
struct Case {
    kind: &'static str,
    travel: Travel,
    collation: Option<&'static str>,
    values: ArrayRef,
}

fn case(kind: &'static str, travel: Travel, values: impl Array + 'static) -> Case {
    Case { kind, travel, collation: None, values: Arc::new(values) }
}

fn text(kind: &'static str, travel: Travel, values: [Option<&str>; 3]) -> Case {
    case(kind, travel, values.into_iter().collect::<StringArray>())
}

fn decimal(precision: u8, scale: i8) -> Travel {
    Travel::Decimal { precision, scale }
}

fn decimals(values: [Option<i128>; 3], precision: u8, scale: i8) -> Decimal128Array {
    Decimal128Array::from(values.to_vec()).with_precision_and_scale(precision, scale).unwrap()
}

fn micros(values: [Option<i64>; 3]) -> TimestampMicrosecondArray {
    TimestampMicrosecondArray::from(values.to_vec())
}

/// What both systems have.
fn common() -> Vec<Case> {
    let widest = 10_i128.pow(38) - 1;
    let uuids = [Some([0xab; 16]), None, Some([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16])];
    vec![
        case("bigint", Travel::Int64, Int64Array::from(vec![Some(i64::MIN), None, Some(7)])),
        case("smallint", Travel::Int16, Int16Array::from(vec![Some(-32768), None, Some(1)])),
        case("real", Travel::Float32, Float32Array::from(vec![Some(1.5), Some(-3.4e38), None])),
        case("numeric(10,2)", decimal(10, 2), decimals([Some(-5), Some(1_234_500), None], 10, 2)),
        case("numeric(38,0)", decimal(38, 0), decimals([Some(widest), Some(-widest), Some(0)], 38, 0)),
        case("date", Travel::Date, Date32Array::from(vec![Some(-719_162), Some(2_932_896), None])),
        case("uuid", Travel::Uuid, FixedSizeBinaryArray::try_from_sparse_iter_with_size(uuids.into_iter(), 16).unwrap()),
    ]
}

fn of_postgresql() -> Vec<Case> {
    let mut cases = common();
    cases.extend([
        case("boolean", Travel::Bool, BooleanArray::from(vec![Some(true), Some(false), None])),
        case("double precision", Travel::Float64, Float64Array::from(vec![f64::MAX, -0.25, 0.1 + 0.2])),
        case("time without time zone", Travel::Time, Time64MicrosecondArray::from(vec![Some(0), Some(86_399_999_999), None])),
        case("timestamp(3) without time zone", Travel::Timestamp, micros([Some(-1_000), Some(-62_135_596_800_000_000), None])),
        case("timestamp with time zone", Travel::TimestampTz, micros([Some(951_782_400_000_001), None, Some(0)]).with_timezone("UTC")),
        text("text", Travel::Utf8, [Some(""), Some("a\tb\nc\r 'q' \"d\" 漢字 🚀 "), None]),
        text("jsonb", Travel::Text, [Some("{\"a\": [1, \"x\\ty\"]}"), Some("null"), None]),
        case("bytea", Travel::Binary, BinaryArray::from(vec![Some(&b"\0\\\n\xff"[..]), Some(b""), None])),
    ]);
    cases
}

fn of_sqlserver() -> Vec<Case> {
    let mut cases = common();
    cases.retain(|case| case.kind != "uuid");
    let latin = Some("Latin1_General_CI_AS");
    cases.extend([
        case("bit", Travel::Bool, BooleanArray::from(vec![Some(true), Some(false), None])),
        case("tinyint", Travel::Int16, Int16Array::from(vec![Some(255), Some(0), None])),
        case("float", Travel::Float64, Float64Array::from(vec![Some(f64::MAX), Some(5e-324), None])),
        case("money", decimal(19, 4), decimals([Some(i64::MAX.into()), Some(-1), None], 19, 4)),
        case("smallmoney", decimal(10, 4), decimals([Some(i32::MIN.into()), Some(1), None], 10, 4)),
        case("time(3)", Travel::Time, Time64MicrosecondArray::from(vec![Some(1_000), Some(86_399_999_000), None])),
        case("datetime2(3)", Travel::Timestamp, micros([Some(-1_000), Some(253_402_300_799_999_000), None])),
        case("datetime", Travel::Timestamp, micros([Some(3_000), Some(997_000), None])),
        case("smalldatetime", Travel::Timestamp, micros([Some(60_000_000), Some(0), None])),
        text(
            "datetimeoffset(3)",
            Travel::TimestampOffset,
            [Some("2026-11-21 12:00:00.123 +02:00"), Some("0001-01-01 12:00:00.000 -00:30"), None],
        ),
        text("nvarchar(10)", Travel::Utf8, [Some(""), Some("🚀 漢 "), None]),
        text("nvarchar(max)", Travel::Utf8, [Some("x"), Some(""), None]),
        Case { collation: latin, ..text("varchar(10)", Travel::Utf8, [Some("été"), Some(" b"), None]) },
        Case { collation: latin, ..text("varchar(max)", Travel::Utf8, [Some("été"), Some("b"), None]) },
        text("ntext", Travel::Utf8, [Some("n"), Some(""), None]),
        text("xml", Travel::Text, [Some("<a> <b>é</b></a>"), Some("<a/>"), None]),
        text("sql_variant", Travel::Text, [Some("{\"type\":\"int\",\"value\":\"1\"}"), None, None]),
        case("binary(3)", Travel::Binary, BinaryArray::from(vec![Some(&b"\0ab"[..]), Some(b"abc"), None])),
        case("varbinary(5)", Travel::Binary, BinaryArray::from(vec![Some(&b"\0ab"[..]), Some(b""), None])),
        case("image", Travel::Binary, BinaryArray::from(vec![Some(&b"x"[..]), Some(b""), None])),
        case("rowversion", Travel::Binary, BinaryArray::from(vec![Some(&b"\0\0\0\0\0\0\x07\xd1"[..]), None, Some(b"12345678")])),
    ]);
    cases
}

/// Loads the cases as columns `c1` … of a table with a key, changes a row as it is, and asks whether the table's digests are
/// those of the rows that went in.
async fn round_trip(system: &str, cases: Vec<Case>) {
    let Some(link) = Link::new("values").await else { return };
    let mut columns = vec![column(1, "id", if system == "sqlserver" { "int" } else { "integer" }, Travel::Int32)];
    columns.extend(cases.iter().zip(2..).map(|(case, number)| {
        let collation = case.collation.map(str::to_owned);
        Column { collation, ..column(number, &format!("c{}", number - 1), case.kind, case.travel) }
    }));
    let schema = schema_of(system, columns, vec![0]);
    let mut arrays: Vec<ArrayRef> = vec![Arc::new(Int32Array::from(vec![0, 1, 2]))];
    arrays.extend(cases.iter().map(|case| case.values.clone()));
    let batch = with_link(schema.arrow_rows(), arrays, None);
    link.target.begin_snapshot(&link.table, &schema, FIRST).await.unwrap();
    let loaded = link.target.load_chunk(&link.table, &schema, FIRST, 0, stream_of(vec![batch.clone()])).await.unwrap();
    assert_eq!(loaded, 3);
    link.target.finish_snapshot(&link.table, &schema, at(10, 10)).await.unwrap();
    same(&link, &schema, &batch).await;
    // By staging too.
    let count = schema.columns.len();
    let fields = schema.arrow_rows().fields()[..count].to_vec();
    let upserts = RecordBatch::try_new(Arc::new(Schema::new(fields)), batch.columns()[..count].to_vec()).unwrap();
    let changes = NetChanges {
        deletes: with_link(schema.arrow_keys(), vec![Arc::new(Int32Array::from(vec![1]))], None),
        upserts,
        updates: 2,
        beside: Besides::new(),
        unresolved: Vec::new(),
        origins: RecordBatch::new_empty(schema.arrow_keys()),
    };
    assert_eq!(link.target.apply(&link.table, &schema, at(10, 11), super::steps(vec![Step::Merge(changes)])).await.unwrap(), 4);
    same(&link, &schema, &batch).await;
}

async fn same(link: &Link, schema: &TableSchema, batch: &RecordBatch) {
    let mut digesting = Digesting::new(schema);
    digesting.add(batch);
    let range = KeyRange { after: Some(vec!["-1".to_owned()]), upto: Some(vec!["2".to_owned()]) };
    let mut listed = link_operator::data::RowDigests::new();
    list_rows(schema, batch, None, &mut listed);
    let keys: Vec<Vec<String>> = listed.keys().cloned().collect();
    let found = link.target.row_digests(&link.table, schema, Among::Keys(&keys)).await.unwrap();
    if found != listed {
        // Which column it is.
        for at in 1..schema.columns.len() {
            let mut one = schema.clone();
            for (other, column) in one.columns.iter_mut().enumerate() {
                column.dropped = other != at;
            }
            let mut listed = link_operator::data::RowDigests::new();
            list_rows(&one, batch, None, &mut listed);
            let found = link.target.row_digests(&link.table, &one, Among::Keys(&keys)).await.unwrap();
            assert_eq!(found, listed, "{} {}", one.columns[at].name, one.columns[at].source_type);
        }
    }
    assert_eq!(found, listed);
    assert_eq!(link.target.digest(&link.table, schema, &range).await.unwrap(), digesting.finish());
}

#[tokio::test]
async fn values_of_postgresql() {
    round_trip("postgresql", of_postgresql()).await;
}

#[tokio::test]
async fn values_of_sqlserver() {
    round_trip("sqlserver", of_sqlserver()).await;
}

#[tokio::test]
async fn seven_digits_of_a_second() {
    let Some(database) = database("seven digits of a second").await else { return };
    let digits = database.query("SELECT CONVERT(nvarchar(40), CONVERT(datetime2(7), N'2026-01-01 00:00:00.1234567'), 121)").await;
    if !digits[0].text(0).unwrap().ends_with("1234567") {
        println!("skipped, for the server keeps six: seven digits of a second");
        return;
    }
    round_trip(
        "sqlserver",
        vec![
            case("time(7)", Travel::Time7, Int64Array::from(vec![Some(1), Some(863_999_999_999), None])),
            case("datetime2(7)", Travel::Timestamp7, Int64Array::from(vec![Some(1), Some(-1), None])),
            text("datetimeoffset(7)", Travel::TimestampOffset, [Some("2026-11-21 12:00:00.1234567 +02:00"), None, None]),
        ],
    )
    .await;
}

#[tokio::test]
async fn values_that_the_target_cannot_hold_are_named() {
    let Some(link) = Link::new("values that the target cannot hold").await else { return };
    let columns = vec![
        column(1, "id", "integer", Travel::Int32),
        column(2, "day", "date", Travel::Date),
        column(3, "share", "double precision", Travel::Float64),
    ];
    let schema = schema_of("postgresql", columns, vec![0]);
    link.target.begin_snapshot(&link.table, &schema, FIRST).await.unwrap();
    let cell = LinkCell { unchanged: vec![], beside: vec![(1, Beside::Text("infinity".to_owned()))] };
    let cell = StringArray::from(vec![serde_json::to_string(&cell).unwrap()]);
    for (day, share, cell, named) in [
        (None, 1.0, Some(cell), "column day of dw.orders is to hold infinity"),
        (Some(2_932_897), 1.0, None, "column day of dw.orders is to hold 10000-01-01"),
        (Some(0), f64::NAN, None, "column share of dw.orders is to hold NaN"),
    ] {
        let arrays: Vec<ArrayRef> =
            vec![Arc::new(Int32Array::from(vec![1])), Arc::new(Date32Array::from(vec![day])), Arc::new(Float64Array::from(vec![share]))];
        // After rows that are on their way.
        let good: Vec<ArrayRef> =
            vec![Arc::new(Int32Array::from(vec![2])), Arc::new(Date32Array::from(vec![0])), Arc::new(Float64Array::from(vec![0.0]))];
        let batches = vec![with_link(schema.arrow_rows(), good, None), with_link(schema.arrow_rows(), arrays, cell)];
        let error = link.target.load_chunk(&link.table, &schema, FIRST, 0, stream_of(batches)).await.unwrap_err();
        assert_eq!(reason(&error), "ValueNotSupported", "{error}");
        assert!(error.to_string().contains(named), "{error}");
    }
    // Nothing of them was kept.
    link.target.finish_snapshot(&link.table, &schema, at(10, 10)).await.unwrap();
    assert!(link.column("SELECT [id] FROM [dw].[orders]").await.is_empty());
}

/// Parts of values by the name of the value.
struct Parts;

#[async_trait]
impl LargeValues for Parts {
    async fn part(&self, value: &LargeValue, part: u32) -> Result<Bytes, Error> {
        let (text, cut) = whole(&value.path);
        Ok(if part == 0 { text.slice(..cut) } else { text.slice(cut..) })
    }
}

/// A value, and where its second part begins: in the middle of a character, of the text.
fn whole(path: &str) -> (Bytes, usize) {
    if path == "text" { ("é".repeat(200_000).into(), 100_001) } else { (vec![7; 300_000].into(), 100_000) }
}

#[tokio::test]
async fn large_values_come_part_by_part() {
    let Some(database) = database("large values").await else { return };
    let target = target_with(&database, "shop.shop", OnExistingTable::Fail, Some(Arc::new(Parts)));
    let columns = vec![
        column(1, "id", "integer", Travel::Int32),
        column(2, "doc", "text", Travel::Utf8),
        column(3, "bytes", "bytea", Travel::Binary),
        column(4, "after", "text", Travel::Utf8),
    ];
    let (table, schema) = (table_of("shop.shop"), schema_of("postgresql", columns, vec![0]));
    target.claim(&table, &schema).await.unwrap();
    target.begin_snapshot(&table, &schema, FIRST).await.unwrap();
    let large =
        |path: &str| Beside::Large(LargeValue { path: path.to_owned(), parts: 2, bytes: whole(path).0.len() as u64, form: Form::Plain });
    let cell = LinkCell { unchanged: vec![], beside: vec![(1, large("text")), (2, large("bytes"))] };
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from(vec![1, 2])),
        Arc::new(StringArray::from(vec![None, Some("small")])),
        new_null_array(&DataType::Binary, 2),
        Arc::new(StringArray::from(vec!["x", "y"])),
    ];
    let cells = StringArray::from(vec![Some(serde_json::to_string(&cell).unwrap()), None]);
    let batch = with_link(schema.arrow_rows(), arrays, Some(cells));
    assert_eq!(target.load_chunk(&table, &schema, FIRST, 0, stream_of(vec![batch])).await.unwrap(), 2);
    target.finish_snapshot(&table, &schema, at(10, 10)).await.unwrap();
    let rows = database
        .query(
            "SELECT CONCAT([id], N' ', LEN([doc]), N' ', LEN(REPLACE([doc], N'é', N'')), N' ', COALESCE(DATALENGTH([bytes]), -1), N' ', [after])
             FROM [dw].[orders] ORDER BY [id]",
        )
        .await;
    let rows: Vec<String> = rows.iter().map(|row| row.text(0).unwrap()).collect();
    assert_eq!(rows, ["1 200000 0 300000 x", "2 5 5 -1 y"]);
}

#[tokio::test]
async fn odd_names_and_many_columns() {
    let Some(database) = database("odd names").await else { return };
    database.run("EXEC(N'CREATE SCHEMA [d w]')").await;
    let bracket = if database.can("SELECT 1 AS [a]]b]", "brackets in names").await { "]" } else { "" };
    let name = TableName::new("d w", format!("we [ird{bracket} 'Tâble.x"));
    let table =
        TargetTable { link_id: "o'shop".to_owned(), source: TableName::new("it's", "a\\b"), name, options: TableOptions::default() };
    let weird = format!("we {bracket}ird[");
    let odd = ["select", &weird, "Ümläut", "__link__", "c0", "n", "k0", "a.b"];
    let mut columns: Vec<Column> = odd.iter().zip(1..).map(|(name, number)| column(number, name, "text", Travel::Utf8)).collect();
    columns.extend((9..=300).map(|number| column(number, &format!("wide {number}"), "integer", Travel::Int32)));
    let schema = schema_of("postgresql", columns, vec![1, 0]);
    let target = target_of(&database, "o'shop", OnExistingTable::Fail);
    target.claim(&table, &schema).await.unwrap();
    target.begin_snapshot(&table, &schema, FIRST).await.unwrap();
    let row = |value: &str| -> Vec<ArrayRef> {
        let texts = (0..8).map(|_| Arc::new(StringArray::from(vec![value])) as ArrayRef);
        texts.chain((8..300).map(|at| Arc::new(Int32Array::from(vec![at])) as ArrayRef)).collect()
    };
    target.load_chunk(&table, &schema, FIRST, 0, stream_of(vec![with_link(schema.arrow_rows(), row("one"), None)])).await.unwrap();
    target.finish_snapshot(&table, &schema, at(10, 11)).await.unwrap();
    let key = |value: &str| -> RecordBatch {
        let key = (0..2).map(|_| Arc::new(StringArray::from(vec![value])) as ArrayRef).collect();
        with_link(schema.arrow_keys(), key, None)
    };
    let fields = schema.arrow_rows().fields()[..300].to_vec();
    let changes = NetChanges {
        deletes: key("one"),
        upserts: RecordBatch::try_new(Arc::new(Schema::new(fields)), row("two")).unwrap(),
        updates: 0,
        beside: Besides::new(),
        unresolved: vec![link_operator::data::Unresolved { row: 0, columns: vec![3, 4, 5, 6] }],
        origins: key("one"),
    };
    target.apply(&table, &schema, at(11, 12), super::steps(vec![Step::Merge(changes)])).await.unwrap();
    let twice = bracket.repeat(2);
    let sql = format!(
        "SELECT CONCAT([select], [we {twice}ird[], [__link__], [c0], [n], [k0], [a.b], [wide 300]) FROM [d w].[we [ird{twice} 'Tâble.x]"
    );
    assert_eq!(database.query(&sql).await[0].text(0).unwrap(), "twotwooneoneoneonetwo299");
}
