//! Every value arrives as it was, by whichever format it goes.

use arrow::array::{
    BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Float32Array, Float64Array, Int16Array, Int64Array,
    Time64MicrosecondArray, TimestampMicrosecondArray,
};

use super::*;

/// A column: type, travel, three values, and what PostgreSQL prints for them.
struct Case {
    kind: &'static str,
    travel: Travel,
    values: ArrayRef,
    printed: [Option<&'static str>; 3],
}

fn case(kind: &'static str, travel: Travel, values: impl Array + 'static, printed: [Option<&'static str>; 3]) -> Case {
    Case { kind, travel, values: Arc::new(values), printed }
}

fn text(kind: &'static str, printed: [Option<&'static str>; 3]) -> Case {
    case(kind, Travel::Text, printed.into_iter().collect::<StringArray>(), printed)
}

/// Types with a binary form.
#[allow(clippy::too_many_lines)] // a table
fn native() -> Vec<Case> {
    let decimal = |precision, scale| Travel::Decimal { precision, scale };
    let decimals =
        |values: Vec<Option<i128>>, precision, scale| Decimal128Array::from(values).with_precision_and_scale(precision, scale).unwrap();
    let widest = 10_i128.pow(38) - 1;
    vec![
        case("boolean", Travel::Bool, BooleanArray::from(vec![Some(true), Some(false), None]), [Some("t"), Some("f"), None]),
        case("smallint", Travel::Int16, Int16Array::from(vec![Some(-32768), None, Some(1)]), [Some("-32768"), None, Some("1")]),
        case("integer", Travel::Int32, Int32Array::from(vec![Some(i32::MIN), Some(0), None]), [Some("-2147483648"), Some("0"), None]),
        case(
            "bigint",
            Travel::Int64,
            Int64Array::from(vec![Some(i64::MIN), None, Some(7)]),
            [Some("-9223372036854775808"), None, Some("7")],
        ),
        case(
            "real",
            Travel::Float32,
            Float32Array::from(vec![f32::NAN, f32::NEG_INFINITY, 1.1e-45]),
            [Some("NaN"), Some("-Infinity"), Some("1e-45")],
        ),
        case(
            "double precision",
            Travel::Float64,
            Float64Array::from(vec![f64::INFINITY, -0.0, 0.1 + 0.2]),
            [Some("Infinity"), Some("-0"), Some("0.30000000000000004")],
        ),
        case(
            "double precision",
            Travel::Float64,
            Float64Array::from(vec![f64::MAX, 5e-324, 100.0]),
            [Some("1.7976931348623157e+308"), Some("5e-324"), Some("100")],
        ),
        case(
            "numeric(10,2)",
            decimal(10, 2),
            decimals(vec![Some(-5), Some(1_234_500), None], 10, 2),
            [Some("-0.05"), Some("12345.00"), None],
        ),
        case(
            "numeric(38,0)",
            decimal(38, 0),
            decimals(vec![Some(widest), Some(-widest), Some(0)], 38, 0),
            [Some("99999999999999999999999999999999999999"), Some("-99999999999999999999999999999999999999"), Some("0")],
        ),
        case(
            "numeric(38,37)",
            decimal(38, 37),
            decimals(vec![Some(widest), Some(1), Some(10_i128.pow(37))], 38, 37),
            [
                Some("9.9999999999999999999999999999999999999"),
                Some("0.0000000000000000000000000000000000001"),
                Some("1.0000000000000000000000000000000000000"),
            ],
        ),
        case(
            "date",
            Travel::Date,
            Date32Array::from(vec![-2_440_588, 2_145_042_905, 11_016]),
            [Some("4714-11-24 BC"), Some("5874897-12-31"), Some("2000-02-29")],
        ),
        case(
            "time without time zone",
            Travel::Time,
            Time64MicrosecondArray::from(vec![Some(0), Some(86_399_999_999), None]),
            [Some("00:00:00"), Some("23:59:59.999999"), None],
        ),
        case(
            "timestamp(3) without time zone",
            Travel::Timestamp,
            TimestampMicrosecondArray::from(vec![-1_000, 9_223_371_244_800_000_000, -62_135_596_800_001_000]),
            [Some("1969-12-31 23:59:59.999"), Some("294247-01-01 00:00:00"), Some("0001-12-31 23:59:59.999 BC")],
        ),
        case(
            "timestamp with time zone",
            Travel::TimestampTz,
            TimestampMicrosecondArray::from(vec![Some(951_782_400_000_001), None, Some(-210_866_803_200_000_000)]).with_timezone("UTC"),
            [Some("2000-02-29 00:00:00.000001+00"), None, Some("4714-11-24 00:00:00+00 BC")],
        ),
        case(
            "text",
            Travel::Utf8,
            StringArray::from(vec![Some(""), Some("a\tb\nc\r\\N \\. \u{7}\u{b} 'q' \"d\" 漢字 🚀"), None]),
            [Some(""), Some("a\tb\nc\r\\N \\. \u{7}\u{b} 'q' \"d\" 漢字 🚀"), None],
        ),
        case("character varying(4)", Travel::Utf8, StringArray::from(vec!["\\N", "ümlä", "\\."]), [Some("\\N"), Some("ümlä"), Some("\\.")]),
        case("character(3)", Travel::Utf8, StringArray::from(vec![Some("a  "), Some("abc"), None]), [Some("a  "), Some("abc"), None]),
        case(
            "bytea",
            Travel::Binary,
            BinaryArray::from(vec![Some(&b"\0\\\n\xff"[..]), Some(b""), None]),
            [Some("\\x005c0aff"), Some("\\x"), None],
        ),
        case(
            "uuid",
            Travel::Uuid,
            FixedSizeBinaryArray::try_from_sparse_iter_with_size([Some([0xab; 16]), None, Some([0; 16])].into_iter(), 16).unwrap(),
            [Some("abababab-abab-abab-abab-abababababab"), None, Some("00000000-0000-0000-0000-000000000000")],
        ),
        text("json", [Some("{\"a\" :  1, \"a\": 2}"), Some("null"), None]),
        text("jsonb", [Some("{\"a\": [1, \"x\\ty\"]}"), Some("null"), None]),
    ]
}

/// Types that only their input function reads.
fn textual() -> Vec<Case> {
    vec![
        text("numeric", [Some("1.10"), Some("NaN"), Some("-12345678901234567890123456789012345678901234567890.5")]),
        text("numeric(3,5)", [Some("0.00999"), None, Some("NaN")]),
        text("interval", [Some("-1 years -2 mons +3 days -04:05:06.789"), Some("00:00:00"), None]),
        text("time with time zone", [Some("24:00:00+15:59"), Some("12:00:00.5-08"), None]),
        text("integer[]", [Some("[0:1]={1,NULL}"), Some("{}"), Some("{{1,2},{3,4}}")]),
        text("text[]", [Some("{\"a,b\",\"NULL\",NULL,\"\",\"q\\\"\\\\\"}"), Some("{}"), None]),
        text("timestamp with time zone[]", [Some("{\"2000-02-29 00:00:00+00\",infinity}"), None, Some("{}")]),
        text("int4range", [Some("empty"), Some("(,5)"), Some("[1,3)")]),
        text("tstzrange", [Some("[\"2000-01-01 00:00:00+00\",infinity)"), None, Some("(,)")]),
        text("nummultirange", [Some("{[1.1,2.20],(3,)}"), Some("{}"), None]),
        text("bit(3)", [Some("101"), None, Some("000")]),
        text("bit varying", [Some(""), Some("1"), None]),
        text("money", [Some("-$1,234.56"), Some("$0.00"), None]),
        text("inet", [Some("10.0.0.1/8"), Some("::1"), None]),
        text("cidr", [Some("10.0.0.0/8"), None, Some("2001:db8::/32")]),
        text("macaddr8", [Some("08:00:2b:01:02:03:04:05"), None, None]),
        text("point", [Some("(1.5,-0)"), Some("(NaN,Infinity)"), None]),
        text("polygon", [Some("((0,0),(1,1),(1e+300,0))"), None, None]),
        text("xml", [Some("<a>&lt;\u{e9}</a>"), Some("just text"), None]),
        text("tsvector", [Some("'a':1A 'it''s':2"), Some(""), None]),
        text("tsquery", [Some("'a' & !'b'"), None, None]),
        text("pg_lsn", [Some("16/B374D848"), Some("0/0"), None]),
        text("oid", [Some("4294967295"), Some("0"), None]),
        text("\"char\"", [Some("x"), Some(""), None]),
        text("name", [Some("n"), Some(""), None]),
        text("jsonpath", [Some("$.\"a\"[*]"), None, None]),
    ]
}

/// Loads the cases as columns `c1` … of a table with a key, in a batch each, and reads all back as text.
async fn round_trip(cases: Vec<Case>, link_cells: Option<StringArray>) -> (Vec<[Option<String>; 3]>, Vec<Case>) {
    let link = Link::new().await;
    let mut columns = vec![column(1, "id", "integer", Travel::Int32)];
    columns.extend(cases.iter().zip(2..).map(|(case, number)| column(number, &format!("c{}", number - 1), case.kind, case.travel)));
    let schema = schema_of(columns, vec![0]);
    let mut arrays: Vec<ArrayRef> = vec![Arc::new(Int32Array::from(vec![0, 1, 2]))];
    arrays.extend(cases.iter().map(|case| case.values.clone()));
    let batch = with_link(schema.arrow_rows(), arrays, link_cells);
    link.target.begin_snapshot(&link.table, &schema, FIRST).await.unwrap();
    assert_eq!(link.target.load_chunk(&link.table, &schema, FIRST, 0, stream_of(vec![batch])).await.unwrap(), 3);
    link.target.finish_snapshot(&link.table, &schema, at(10, 10)).await.unwrap();

    let mut found = Vec::new();
    let session = link.database.connect().await;
    for number in 1..=cases.len() {
        // By the type's output function: a cast to text prints some types otherwise (`boolean`, `inet`, `character`).
        let sql = format!("SELECT CASE WHEN c{number} IS DISTINCT FROM NULL THEN format('%s', c{number}) END FROM dw.orders ORDER BY id");
        let rows = session.query(&sql, &[]).await.unwrap();
        found.push([0, 1, 2].map(|row| rows[row].get::<_, Option<String>>(0)));
    }
    (found, cases)
}

async fn check(cases: Vec<Case>) {
    let (found, cases) = round_trip(cases, None).await;
    for (case, found) in cases.iter().zip(found) {
        assert_eq!(found, case.printed.map(|text| text.map(str::to_owned)), "{}", case.kind);
    }
}

/// SQL Server's seventh digit of a second is cut off, never rounded: that could end in a time or a year that there is not.
#[tokio::test]
async fn a_seventh_digit_of_a_second_is_cut_off() {
    let last = 86_400 * 10_000_000 - 1;
    let moments = || {
        vec![
            case(
                "time without time zone",
                Travel::Time7,
                Int64Array::from(vec![Some(last), Some(1), None]),
                [Some("23:59:59.999999"), Some("00:00:00"), None],
            ),
            case(
                "timestamp without time zone",
                Travel::Timestamp7,
                Int64Array::from(vec![2_932_896 * (last + 1) + last, -1, -719_162 * (last + 1)]),
                [Some("9999-12-31 23:59:59.999999"), Some("1969-12-31 23:59:59.999999"), Some("0001-01-01 00:00:00")],
            ),
        ]
    };
    check(moments()).await;
    // The same with a column that only goes as text.
    let mut in_text = moments();
    in_text.push(case(
        "timestamp with time zone",
        Travel::TimestampOffset,
        StringArray::from(vec![
            Some("9999-12-31 23:59:59.9999999 +14:00"),
            Some("2026-11-21 12:00:00.1234567 -03:30"),
            Some("2020-01-01 00:01:37.123 +02:00"),
        ]),
        [Some("9999-12-31 09:59:59.999999+00"), Some("2026-11-21 15:30:00.123456+00"), Some("2019-12-31 22:01:37.123+00")],
    ));
    check(in_text).await;
}

#[tokio::test]
async fn native_types_in_binary() {
    check(native()).await;
}

#[tokio::test]
async fn native_types_as_text_beside_types_that_have_no_other_form() {
    check(native().into_iter().chain(textual()).collect()).await;
}

#[tokio::test]
async fn exact_texts_of_values_outside_the_native_domain() {
    let decimal = Travel::Decimal { precision: 10, scale: 2 };
    let all = |kind, travel: Travel, printed: [&'static str; 3]| Case {
        kind,
        travel,
        values: new_null_array(&travel.arrow(), 3),
        printed: printed.map(Some),
    };
    let cases = vec![
        all("numeric(10,2)", decimal, ["NaN", "NaN", "NaN"]),
        all("date", Travel::Date, ["infinity", "-infinity", "infinity"]),
        all("time without time zone", Travel::Time, ["24:00:00", "24:00:00", "24:00:00"]),
        all("timestamp without time zone", Travel::Timestamp, ["infinity", "294276-12-31 23:59:59.999999", "-infinity"]),
        all("timestamp with time zone", Travel::TimestampTz, ["infinity", "294276-12-31 23:59:59.999999+00", "-infinity"]),
    ];
    let cells = (0..3).map(|row| {
        let printed = |case: &Case| Beside::Text(case.printed[row].unwrap().to_owned());
        let beside = cases.iter().zip(1..).map(|(case, column)| (column, printed(case))).collect();
        Some(serde_json::to_string(&link_operator::data::LinkCell { unchanged: Vec::new(), beside }).unwrap())
    });
    let cells: StringArray = cells.collect();
    let (found, cases) = round_trip(cases, Some(cells)).await;
    for (case, found) in cases.iter().zip(found) {
        assert_eq!(found, case.printed.map(|text| text.map(str::to_owned)), "{}", case.kind);
    }
}

#[tokio::test]
async fn odd_names_and_many_columns() {
    let database = Server::shared().create_database().await;
    database.execute("CREATE SCHEMA \"d w\"").await;
    let name = TableName::new("d w", "we \"ird\" Tâble.x");
    let table =
        TargetTable { link_id: "o'shop".to_owned(), source: TableName::new("it's", "a\\b"), name, options: TableOptions::default() };
    let odd = ["select", "we \"ird\"", "Ümläut", "__link__", "c0", "n", "k0", " "];
    let mut columns: Vec<Column> = odd.iter().zip(1..).map(|(name, number)| column(number, name, "text", Travel::Utf8)).collect();
    columns.extend((9..=500).map(|number| column(number, &format!("wide {number}"), "integer", Travel::Int32)));
    let schema = schema_of(columns, vec![1, 0]);
    let target = target_of(&database, "o'shop", OnExistingTable::Fail);
    target.claim(&table, &schema).await.unwrap();
    target.begin_snapshot(&table, &schema, FIRST).await.unwrap();

    let row = |value: &str| -> Vec<ArrayRef> {
        let texts = (0..8).map(|_| Arc::new(StringArray::from(vec![value])) as ArrayRef);
        texts.chain((8..500).map(|at| Arc::new(Int32Array::from(vec![at])) as ArrayRef)).collect()
    };
    let batch = with_link(schema.arrow_rows(), row("one"), None);
    target.load_chunk(&table, &schema, FIRST, 0, stream_of(vec![batch])).await.unwrap();
    target.finish_snapshot(&table, &schema, at(10, 11)).await.unwrap();

    let key = |value: &str| -> RecordBatch {
        let key = (0..2).map(|_| Arc::new(StringArray::from(vec![value])) as ArrayRef).collect();
        with_link(schema.arrow_keys(), key, None)
    };
    let fields = schema.arrow_rows().fields()[..500].to_vec();
    let changes = NetChanges {
        deletes: key("one"),
        upserts: RecordBatch::try_new(Arc::new(Schema::new(fields)), row("two")).unwrap(),
        updates: 0,
        beside: Besides::new(),
        unresolved: vec![link_operator::data::Unresolved { row: 0, columns: vec![3, 4, 5, 6] }],
        origins: key("one"),
    };
    target.apply(&table, &schema, at(11, 12), super::steps(vec![Step::Merge(changes)])).await.unwrap();
    let sql = "SELECT concat(\"select\", \"we \"\"ird\"\"\", \"__link__\", c0, n, k0, \" \", \"wide 500\") FROM \"d w\".\"we \"\"ird\"\" Tâble.x\"";
    let found: String = database.connect().await.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(found, "twotwooneoneoneonetwo499");
}

#[tokio::test]
async fn a_value_that_the_target_cannot_hold_is_named() {
    let link = Link::new().await;
    link.target.begin_snapshot(&link.table, &link.schema, FIRST).await.unwrap();
    let error = link.load(FIRST, 0, &[(1, Some("nul \0 byte"), None)]).await.unwrap_err();
    assert_eq!(reason(&error), "ValueNotSupported", "{error}");
    // Nothing of it was kept: the chunk loads once it is right.
    assert_eq!(link.load(FIRST, 0, &[(1, Some("fine"), None)]).await.unwrap(), 1);
}
