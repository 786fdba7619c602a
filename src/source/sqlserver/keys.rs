//! Keys as texts, and as T-SQL that finds rows by them. Pure.
//!
//! A text is compared as a value of the column's own type and collation: a value of another type would be put into another order
//! (`varchar` and `nvarchar` under an `SQL_` collation), and ranges would overlap or leave gaps.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Int16Array, Int32Array, Int64Array,
        RecordBatch, StringArray, Time64MicrosecondArray, TimestampMicrosecondArray, new_null_array,
    },
    datatypes::DataType,
};

use super::Error;
use crate::{
    data::{Column, KeyRange, KeyTexts, TableSchema, Travel, print},
    sqlserver::quote,
};

/// A column of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyColumn {
    /// Name.
    pub name: String,
    /// How its values travel.
    pub travel: Travel,
    /// Its type as SQL spells it.
    pub source_type: String,
    /// The collation of its texts, also where it is binary: it has their code page.
    pub collation: Option<String>,
}

impl KeyColumn {
    /// A value of the column's type, from its text.
    pub fn literal(&self, text: &str) -> Result<String, Error> {
        let kind = &self.source_type;
        let wrong = || Error::SourceError(format!("{text:?} is no value of key column {} of type {kind}", self.name));
        Ok(match self.travel {
            Travel::Bool => match text {
                "true" | "t" | "1" => "CAST(1 AS bit)".to_owned(),
                "false" | "f" | "0" => "CAST(0 AS bit)".to_owned(),
                _ => return Err(wrong()),
            },
            Travel::Int16 | Travel::Int32 | Travel::Int64 | Travel::Decimal { .. } => {
                let digits = text.strip_prefix('-').unwrap_or(text);
                if digits.is_empty() || !digits.chars().all(|digit| digit.is_ascii_digit() || digit == '.') {
                    return Err(wrong());
                }
                format!("CAST({text} AS {kind})")
            }
            // A text with more digits than a datetime has is none.
            Travel::Timestamp if matches!(kind.as_str(), "datetime" | "smalldatetime") => {
                format!("CAST(CAST({} AS datetime2(7)) AS {kind})", quote::literal(text))
            }
            Travel::Date
            | Travel::Time
            | Travel::Time7
            | Travel::Timestamp
            | Travel::Timestamp7
            | Travel::TimestampOffset
            | Travel::Uuid => {
                format!("CAST({} AS {kind})", quote::literal(text))
            }
            Travel::Utf8 => {
                let collation = self.collation.as_ref().map(|name| format!(" COLLATE {name}")).unwrap_or_default();
                format!("CAST({}{collation} AS {kind})", unicode(text))
            }
            Travel::Binary => {
                let bytes = text.strip_prefix("\\x").and_then(|digits| hex::decode(digits).ok()).ok_or_else(wrong)?;
                format!("CAST({} AS {kind})", quote::binary(&bytes))
            }
            _ => return Err(wrong()),
        })
    }
}

/// Any text: what stands in a literal is changed where a line ends after a backslash.
fn unicode(text: &str) -> String {
    if text.chars().all(|letter| letter >= ' ' && letter != '\\') {
        return quote::literal(text);
    }
    let bytes: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    format!(
        "CAST({} AS nvarchar({}))",
        quote::binary(&bytes),
        if bytes.len() > 8000 { "max".to_owned() } else { (bytes.len() / 2).max(1).to_string() }
    )
}

/// The condition of a range of rows of the table `t`; a range may name the first columns of the key only.
pub fn within(keys: &[KeyColumn], range: &KeyRange) -> Result<String, Error> {
    let mut conditions = Vec::new();
    for (bound, less) in [(&range.after, false), (&range.upto, true)] {
        let Some(bound) = bound else { continue };
        if bound.is_empty() || bound.len() > keys.len() {
            return Err(Error::SourceError("a range of rows has other columns than the key".to_owned()));
        }
        let values = keys.iter().zip(bound).map(|(key, text)| key.literal(text)).collect::<Result<Vec<_>, _>>()?;
        conditions.push(beyond(keys, &values, less));
    }
    if conditions.is_empty() {
        conditions.push("1 = 1".to_owned());
    }
    Ok(conditions.join(" AND "))
}

/// The rows after a key; or up to it and with it. The server knows no comparison of rows: it is spelled out, with what an index is
/// searched by in front.
fn beyond(keys: &[KeyColumn], values: &[String], upto: bool) -> String {
    let last = values.len() - 1;
    let mut condition = String::new();
    for (place, (key, value)) in keys.iter().zip(values).enumerate().rev() {
        let name = format!("t.{}", quote::identifier(&key.name));
        let (strict, loose) = if upto { ("<", "<=") } else { (">", ">=") };
        condition = if place == last {
            format!("{name} {} {value}", if upto { loose } else { strict })
        } else {
            format!("{name} {loose} {value} AND ({name} {strict} {value} OR {condition})")
        };
    }
    format!("({condition})")
}

/// Keys of which the texts are known, as a batch of [`TableSchema::arrow_keys`].
pub fn read(schema: &TableSchema, keys: &[KeyTexts]) -> Result<RecordBatch, Error> {
    let mut arrays: Vec<ArrayRef> = Vec::new();
    for (place, &column) in schema.key.iter().enumerate() {
        let texts: Vec<&str> = keys.iter().map(|key| key.get(place).map_or("", String::as_str)).collect();
        arrays.push(column_of(&schema.columns[column], &texts)?);
    }
    arrays.push(new_null_array(&DataType::Utf8, keys.len()));
    RecordBatch::try_new(schema.arrow_keys(), arrays).map_err(|error| Error::SourceError(error.to_string()))
}

/// All texts by one parser.
fn all<T>(texts: &[&str], parse: impl Fn(&str) -> Option<T>, wrong: impl Fn(&str) -> Error) -> Result<Vec<T>, Error> {
    texts.iter().map(|text| parse(text).ok_or_else(|| wrong(text))).collect()
}

fn column_of(column: &Column, texts: &[&str]) -> Result<ArrayRef, Error> {
    let wrong = |text: &str| Error::SourceError(format!("{text:?} is no value of key column {}", column.name));
    Ok(match column.travel {
        Travel::Bool => {
            let flag = |text: &str| match text {
                "true" => Some(true),
                "false" => Some(false),
                _ => None,
            };
            Arc::new(BooleanArray::from(all(texts, flag, wrong)?))
        }
        Travel::Int16 => Arc::new(Int16Array::from(all(texts, |text| text.parse::<i16>().ok(), wrong)?)),
        Travel::Int32 => Arc::new(Int32Array::from(all(texts, |text| text.parse::<i32>().ok(), wrong)?)),
        Travel::Int64 => Arc::new(Int64Array::from(all(texts, |text| text.parse::<i64>().ok(), wrong)?)),
        Travel::Decimal { scale, .. } => {
            let array = Decimal128Array::from(all(texts, |text| decimal(text, scale), wrong)?);
            Arc::new(array.with_data_type(column.travel.arrow()))
        }
        Travel::Date => Arc::new(Date32Array::from(all(texts, |text| i32::try_from(print::read_date(text)?).ok(), wrong)?)),
        Travel::Time => Arc::new(Time64MicrosecondArray::from(all(texts, |text| Some(print::read_time(text)? / 10), wrong)?)),
        Travel::Time7 => Arc::new(Int64Array::from(all(texts, print::read_time, wrong)?)),
        Travel::Timestamp => {
            let micros = |text: &str| i64::try_from(print::read_moment(text)?.div_euclid(10)).ok();
            Arc::new(TimestampMicrosecondArray::from(all(texts, micros, wrong)?))
        }
        Travel::Timestamp7 => Arc::new(Int64Array::from(all(texts, |text| i64::try_from(print::read_moment(text)?).ok(), wrong)?)),
        Travel::Utf8 | Travel::Text | Travel::TimestampOffset => Arc::new(StringArray::from(texts.to_vec())),
        Travel::Binary => {
            let values = all(texts, |text| hex::decode(text.strip_prefix("\\x")?).ok(), wrong)?;
            Arc::new(BinaryArray::from_iter_values(values))
        }
        Travel::Uuid => {
            let values = all(texts, |text| text.parse::<uuid::Uuid>().ok(), wrong)?;
            let values = values.iter().map(|value| value.as_bytes().as_slice());
            let values = values.map(Some);
            Arc::new(
                FixedSizeBinaryArray::try_from_sparse_iter_with_size(values, 16).map_err(|error| Error::SourceError(error.to_string()))?,
            )
        }
        Travel::Float32 | Travel::Float64 | Travel::TimestampTz => {
            return Err(Error::SourceError(format!("column {} cannot be one of a key", column.name)));
        }
    })
}

/// A decimal of so many digits after the point, without it.
fn decimal(text: &str, scale: i8) -> Option<i128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let scale = usize::try_from(scale).ok()?;
    if fraction.len() > scale {
        return None;
    }
    format!("{whole}{fraction:0<scale$}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::fixtures;

    fn key(name: &str, travel: Travel, source_type: &str) -> KeyColumn {
        KeyColumn { name: name.into(), travel, source_type: source_type.into(), collation: None }
    }

    fn texts(texts: &[&str]) -> KeyTexts {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn ranges_compare_all_columns_in_order() {
        let keys = [key("a", Travel::Int32, "int"), key("b", Travel::Int64, "bigint")];
        let range = KeyRange { after: Some(texts(&["1", "2"])), upto: Some(texts(&["3"])) };
        assert_eq!(
            within(&keys, &range).unwrap(),
            "(t.[a] >= CAST(1 AS int) AND (t.[a] > CAST(1 AS int) OR t.[b] > CAST(2 AS bigint))) AND (t.[a] <= CAST(3 AS int))"
        );
        assert_eq!(within(&keys, &KeyRange::default()).unwrap(), "1 = 1");
        assert!(within(&keys, &KeyRange { after: Some(texts(&["1", "2", "3"])), upto: None }).is_err());
    }

    #[test]
    fn values_are_of_the_columns_own_type() {
        let of = |travel, kind: &str, text: &str| key("k", travel, kind).literal(text);
        assert_eq!(of(Travel::Decimal { precision: 19, scale: 4 }, "money", "-1.5000").unwrap(), "CAST(-1.5000 AS money)");
        assert_eq!(
            of(Travel::Timestamp, "datetime", "2026-01-01 00:00:00.003").unwrap(),
            "CAST(CAST(N'2026-01-01 00:00:00.003' AS datetime2(7)) AS datetime)"
        );
        assert_eq!(of(Travel::Binary, "varbinary(4)", "\\x00ff").unwrap(), "CAST(0x00ff AS varbinary(4))");
        let text = KeyColumn { collation: Some("Latin1_General_BIN2".into()), ..key("k", Travel::Utf8, "varchar(9)") };
        assert_eq!(text.literal("O'Neil ").unwrap(), "CAST(N'O''Neil ' COLLATE Latin1_General_BIN2 AS varchar(9))");
        // A backslash before the end of a line is no part of a literal.
        assert_eq!(text.literal("a\\\n").unwrap(), "CAST(CAST(0x61005c000a00 AS nvarchar(3)) COLLATE Latin1_General_BIN2 AS varchar(9))");
        for (travel, hostile) in [(Travel::Int32, "1; DROP TABLE t"), (Travel::Int32, "-"), (Travel::Bool, "x"), (Travel::Binary, "0x00")] {
            assert!(of(travel, "int", hostile).is_err(), "{hostile}");
        }
    }

    #[test]
    fn what_is_read_from_texts_prints_as_them() {
        for (travel, values) in [
            (Travel::Bool, ["true", "false"]),
            (Travel::Int16, ["-32768", "7"]),
            (Travel::Decimal { precision: 10, scale: 2 }, ["-0.05", "12345678.90"]),
            (Travel::Date, ["0001-01-01", "9999-12-31"]),
            (Travel::Time, ["00:00:00", "23:59:59.999999"]),
            (Travel::Timestamp, ["1753-01-01 00:00:00.003", "9999-12-31 23:59:59.999999"]),
            (Travel::Utf8, ["", "a|b"]),
            (Travel::Binary, ["\\x", "\\x00ff"]),
            (Travel::Uuid, ["00112233-4455-6677-8899-aabbccddeeff", "00000000-0000-0000-0000-000000000000"]),
        ] {
            let schema = fixtures::table("t", vec![fixtures::column(1, "k", travel)], &[0]);
            let batch = read(&schema, &values.map(|value| texts(&[value]))).unwrap();
            let printed = [0, 1].map(|row| print::value(travel, batch.column(0), row));
            assert_eq!(printed, values, "{travel:?}");
        }
        let schema = fixtures::table("t", vec![fixtures::column(1, "k", Travel::Int32)], &[0]);
        assert!(read(&schema, &[texts(&["x"])]).is_err());
    }
}
