//! Every type, with NULL and its extremes.

use mssql_tds::datatypes::{
    column_values::{ColumnValues as C, SqlDate, SqlDateTime, SqlDateTime2, SqlDateTimeOffset, SqlSmallDateTime, SqlTime},
    decoder::DecimalParts,
};

use super::{connect, query};
use crate::support::tds::{Answer, Collation::*, Column, Rules, Server, Type, Value, row};

/// The last day, from 0001-01-01.
const LAST: u32 = 3_652_058;
/// The last 100 ns of a day.
const MIDNIGHT: u64 = 863_999_999_999;

fn decimal(positive: bool, precision: u8, scale: u8, magnitude: u128) -> C {
    C::Decimal(DecimalParts::new(positive, precision, scale, magnitude))
}

fn time(units: u64, scale: u8) -> SqlTime {
    SqlTime { time_nanoseconds: units, scale }
}

/// What the client makes of values of a type, nullable and not, with NULL after them.
async fn round_trip(ty: Type, values: Vec<Value>) -> Vec<C> {
    let mut rows: Vec<Vec<Value>> = values.into_iter().map(|value| vec![value]).collect();
    let strict = Answer::rows([Column::new("c", ty.clone()).not_null()], rows.clone());
    rows.push(vec![Value::Null]);
    let server = Server::start(Rules::new().on("nullable", Answer::rows([("c", ty.clone())], rows)).on("strict", strict));
    let mut client = connect(&server).await;
    let mut nullable: Vec<C> = query(&mut client, "nullable").await.unwrap().into_iter().flatten().collect();
    assert_eq!(nullable.pop().unwrap(), C::Null, "{ty:?}");
    let strict: Vec<C> = query(&mut client, "strict").await.unwrap().into_iter().flatten().collect();
    assert_eq!(strict, nullable, "{ty:?}");
    nullable
}

async fn texts(ty: Type, values: Vec<Value>) -> Vec<String> {
    let text = |value: C| match value {
        C::String(text) => text.to_utf8_string(),
        C::Xml(xml) => xml.as_string(),
        C::Uuid(uuid) => uuid.to_string(),
        C::Decimal(decimal) | C::Numeric(decimal) => decimal.to_string(),
        other => panic!("{other:?}"),
    };
    round_trip(ty, values).await.into_iter().map(text).collect()
}

#[tokio::test]
async fn numbers() {
    assert_eq!(round_trip(Type::Bit, row![true, false]).await, [C::Bit(true), C::Bit(false)]);
    assert_eq!(round_trip(Type::TinyInt, row![0, 255]).await, [C::TinyInt(0), C::TinyInt(255)]);
    assert_eq!(round_trip(Type::SmallInt, row![-32768, 32767]).await, [C::SmallInt(i16::MIN), C::SmallInt(i16::MAX)]);
    assert_eq!(round_trip(Type::Int, row![i32::MIN, i32::MAX]).await, [C::Int(i32::MIN), C::Int(i32::MAX)]);
    assert_eq!(round_trip(Type::BigInt, row![i64::MIN, i64::MAX]).await, [C::BigInt(i64::MIN), C::BigInt(i64::MAX)]);
    assert_eq!(round_trip(Type::Real, row![f32::MIN, 1.5]).await, [C::Real(f32::MIN), C::Real(1.5)]);
    assert_eq!(round_trip(Type::Float, row![f64::MIN, 0.1]).await, [C::Float(f64::MIN), C::Float(0.1)]);
}

#[tokio::test]
async fn decimals() {
    let nines = "9".repeat(38);
    let magnitude: u128 = nines.parse().unwrap();
    assert_eq!(
        round_trip(Type::Decimal(38, 0), row![nines.clone(), format!("-{nines}"), 0]).await,
        [decimal(true, 38, 0, magnitude), decimal(false, 38, 0, magnitude), decimal(true, 38, 0, 0)]
    );
    let fraction = format!("-0.{nines}");
    assert_eq!(texts(Type::Numeric(38, 38), vec![fraction.clone().into()]).await, [fraction]);
    assert_eq!(texts(Type::Decimal(9, 2), row!["1234567.89", "-0.5"]).await, ["1234567.89", "-0.50"]);
    assert_eq!(texts(Type::Decimal(19, 4), row!["999999999999999.9999"]).await, ["999999999999999.9999"]);
    assert_eq!(texts(Type::Decimal(28, 0), vec!["9".repeat(28).into()]).await, ["9".repeat(28)]);
    let money = |value: C| match value {
        C::Money(money) => i64::from(money.msb_part) << 32 | i64::from(money.lsb_part.cast_unsigned()),
        C::SmallMoney(money) => money.int_val.into(),
        other => panic!("{other:?}"),
    };
    let values = round_trip(Type::Money, row!["-922337203685477.5808", "922337203685477.5807", "1.5"]).await;
    assert_eq!(values.into_iter().map(money).collect::<Vec<_>>(), [i64::MIN, i64::MAX, 15_000]);
    let values = round_trip(Type::SmallMoney, row!["-214748.3648", "214748.3647"]).await;
    assert_eq!(values.into_iter().map(money).collect::<Vec<_>>(), [i64::from(i32::MIN), i64::from(i32::MAX)]);
}

#[tokio::test]
async fn dates_and_times() {
    let date = |days| C::Date(SqlDate::create(days).unwrap());
    assert_eq!(round_trip(Type::Date, row!["0001-01-01", "9999-12-31", "1900-01-01"]).await, [date(0), date(LAST), date(693_595)]);
    let times = row!["00:00:00", "23:59:59.9999999"];
    assert_eq!(round_trip(Type::Time(7), times).await, [C::Time(time(0, 7)), C::Time(time(MIDNIGHT, 7))]);
    assert_eq!(round_trip(Type::Time(0), row!["23:59:59"]).await, [C::Time(time(863_990_000_000, 0))]);
    assert_eq!(round_trip(Type::Time(3), row!["00:00:00.123"]).await, [C::Time(time(1_230_000, 3))]);
    for scale in 0..=7 {
        let second = SqlDateTime2 { days: LAST, time: time(863_990_000_000, scale) };
        assert_eq!(round_trip(Type::DateTime2(scale), row!["9999-12-31 23:59:59"]).await, [C::DateTime2(second)]);
    }
    let last = SqlDateTime2 { days: LAST, time: time(MIDNIGHT, 7) };
    assert_eq!(
        round_trip(Type::DateTime2(7), row!["0001-01-01 00:00", "9999-12-31 23:59:59.9999999"]).await,
        [C::DateTime2(SqlDateTime2 { days: 0, time: time(0, 7) }), C::DateTime2(last.clone())]
    );
    // On the wire it is UTC.
    let utc = SqlDateTime2 { days: 730_118, time: time(82_800 * 10_000_000, 7) };
    assert_eq!(
        round_trip(Type::DateTimeOffset(7), row!["9999-12-31 23:59:59.9999999 +00:00", "2000-01-01 13:00 +14:00"]).await,
        [
            C::DateTimeOffset(SqlDateTimeOffset { datetime2: last, offset: 0 }),
            C::DateTimeOffset(SqlDateTimeOffset { datetime2: utc.clone(), offset: 840 })
        ]
    );
    let west = round_trip(Type::DateTimeOffset(7), row!["1999-12-31 09:00 -14:00"]).await;
    assert_eq!(west, [C::DateTimeOffset(SqlDateTimeOffset { datetime2: utc, offset: -840 })]);
    assert_eq!(
        round_trip(Type::DateTime, row!["1753-01-01", "9999-12-31 23:59:59.997"]).await,
        [C::DateTime(SqlDateTime { days: -53_690, time: 0 }), C::DateTime(SqlDateTime { days: 2_958_463, time: 24 * 3600 * 300 - 1 })]
    );
    assert_eq!(
        round_trip(Type::SmallDateTime, row!["1900-01-01", "2079-06-06 23:59"]).await,
        [C::SmallDateTime(SqlSmallDateTime { days: 0, time: 0 }), C::SmallDateTime(SqlSmallDateTime { days: u16::MAX, time: 1439 })]
    );
}

#[tokio::test]
async fn strings() {
    let narrow = "naïve €5 Ÿ";
    let wide = "naïve €5 漢字 🦀";
    let long = wide.repeat(10_000);
    assert_eq!(texts(Type::VarChar(20, Latin1), row![narrow, ""]).await, [narrow, ""]);
    assert_eq!(texts(Type::VarChar(60, Utf8), row![wide]).await, [wide]);
    assert_eq!(texts(Type::Char(12, Latin1), row![narrow]).await, [format!("{narrow}  ")]);
    assert_eq!(texts(Type::NChar(20), row![wide]).await, [format!("{wide}{}", " ".repeat(6))]);
    assert_eq!(texts(Type::NVarChar(4000), row![wide, "", "x".repeat(4000)]).await, [wide, "", &"x".repeat(4000)]);
    assert_eq!(texts(Type::VarCharMax(Latin1), row![narrow, ""]).await, [narrow, ""]);
    assert_eq!(texts(Type::VarCharMax(Utf8), row![long.clone()]).await, [long.as_str()]);
    assert_eq!(texts(Type::NVarCharMax, row![long.clone(), ""]).await, [long.as_str(), ""]);
    assert_eq!(texts(Type::Text(Latin1), row![narrow, ""]).await, [narrow, ""]);
    assert_eq!(texts(Type::NText, row![long.clone()]).await, [long.as_str()]);
    assert_eq!(texts(Type::Xml, row!["<a>ü</a>"]).await, ["<a>ü</a>"]);
    let chunks = Value::Chunks(vec![b"<\0".to_vec(), b"a".to_vec(), b"\0/\0>\0".to_vec()]);
    assert_eq!(texts(Type::Xml, vec![chunks.clone()]).await, ["<a/>"]);
    assert_eq!(texts(Type::NVarCharMax, vec![chunks, Value::Chunks(vec![])]).await, ["<a/>", ""]);
    let guid = "00112233-4455-6677-8899-aabbccddeeff";
    assert_eq!(texts(Type::UniqueIdentifier, row![guid]).await, [guid]);
}

#[tokio::test]
async fn bytes() {
    let long: Vec<u8> = (0..100_000).map(|number| number as u8).collect();
    assert_eq!(round_trip(Type::Binary(4), row![b"\x01\x02"]).await, [C::Bytes(vec![1, 2, 0, 0])]);
    assert_eq!(round_trip(Type::VarBinary(8000), row![b"\0\xFF", b""]).await, [C::Bytes(vec![0, 255]), C::Bytes(vec![])]);
    assert_eq!(round_trip(Type::VarBinaryMax, row![long.clone()]).await, [C::Bytes(long.clone())]);
    let chunks = long.chunks(999).map(<[u8]>::to_vec).collect();
    assert_eq!(round_trip(Type::VarBinaryMax, vec![Value::Chunks(chunks)]).await, [C::Bytes(long.clone())]);
    assert_eq!(round_trip(Type::Image, row![long.clone()]).await, [C::Bytes(long)]);
    assert_eq!(round_trip(Type::Udt("hierarchyid".into()), row![b"\x5A\xC0"]).await, [C::Bytes(vec![0x5A, 0xC0])]);
}

#[tokio::test]
async fn variants() {
    let values = vec![
        Value::variant(Type::Int, -1),
        Value::variant(Type::BigInt, i64::MAX),
        Value::variant(Type::Bit, true),
        Value::variant(Type::Float, 0.5),
        Value::variant(Type::Decimal(5, 2), "-123.45"),
        Value::variant(Type::DateTime2(7), "9999-12-31 23:59:59.9999999"),
        Value::variant(Type::Date, "0001-01-02"),
        Value::variant(Type::VarBinary(3), b"\x01\x02\x03"),
    ];
    let last = SqlDateTime2 { days: LAST, time: time(MIDNIGHT, 7) };
    assert_eq!(
        round_trip(Type::SqlVariant, values).await,
        [
            C::Int(-1),
            C::BigInt(i64::MAX),
            C::Bit(true),
            C::Float(0.5),
            decimal(false, 5, 2, 12345),
            C::DateTime2(last),
            C::Date(SqlDate::create(1).unwrap()),
            C::Bytes(vec![1, 2, 3]),
        ]
    );
    let guid = "00112233-4455-6677-8899-aabbccddeeff";
    let values = vec![
        Value::variant(Type::NVarChar(10), "漢字"),
        Value::variant(Type::VarChar(10, Latin1), "€"),
        Value::variant(Type::UniqueIdentifier, guid),
    ];
    assert_eq!(texts(Type::SqlVariant, values).await, ["漢字", "€", guid]);
}
