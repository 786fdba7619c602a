//! Checksums of a table (the definition: [`crate::data`]'s `digest`), computed here from its rows: the server cannot print all values
//! as the definition has them.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, RecordBatch, new_null_array},
    datatypes::{DataType, Schema},
};

use super::kind::{self, Kind};
use crate::{
    data::{Among, Column, Digesting, Digests, KeyRange, KeyTexts, RowDigests, TableName, TableSchema, Travel, list_rows},
    sqlserver::{
        Failure, Session,
        quote::{identifier, table as quoted},
        rows::Rows,
        types,
    },
    target::Error,
};

/// So many bytes of rows are digested at once.
const BATCH: usize = 4 << 20;
/// So many keys are asked for at once.
const KEYS: usize = 500;

/// The rows of a range, see [`crate::target::Target::digest`].
pub(in crate::target) async fn digest(
    session: &mut Session,
    name: &TableName,
    schema: &TableSchema,
    kinds: &[Kind],
    range: &KeyRange,
) -> Result<Digests, Error> {
    let mut digesting = Digesting::new(schema);
    each(session, schema, &of_range(name, schema, kinds, range)?, |rows| digesting.add(rows)).await?;
    Ok(digesting.finish())
}

/// Single rows, see [`crate::target::Target::row_digests`].
pub(in crate::target) async fn rows(
    session: &mut Session,
    name: &TableName,
    schema: &TableSchema,
    kinds: &[Kind],
    among: Among<'_>,
) -> Result<RowDigests, Error> {
    let mut listed = RowDigests::new();
    match among {
        Among::Buckets(range, buckets) => {
            let sql = of_range(name, schema, kinds, range)?;
            each(session, schema, &sql, |rows| list_rows(schema, rows, Some(buckets), &mut listed)).await?;
        }
        Among::Keys(keys) => {
            for keys in keys.chunks(KEYS) {
                each(session, schema, &of_keys(name, schema, kinds, keys)?, |rows| list_rows(schema, rows, None, &mut listed)).await?;
            }
        }
    }
    Ok(listed.into_iter().map(|(key, digest)| (padded(schema, key), digest)).collect())
}

/// Reads what a question finds, some rows at a time.
async fn each(session: &mut Session, schema: &TableSchema, sql: &str, mut digested: impl FnMut(&RecordBatch)) -> Result<(), Error> {
    let mut rows = Rows::new(schema.columns.iter().map(|column| column.travel).collect());
    let mut more = session.open(sql).await?;
    while more {
        more = session.next(&mut rows).await?;
        if (!more && !rows.is_empty()) || rows.bytes() >= BATCH {
            digested(&batch(schema, &mut rows)?);
        }
    }
    Ok(session.close().await?)
}

fn batch(schema: &TableSchema, rows: &mut Rows) -> Result<RecordBatch, Error> {
    let (count, fault) = (rows.len(), rows.fault());
    if let Some(fault) = fault {
        return Err(Error::TargetInconsistent(format!("{} is not as the link made it: {fault}", schema.name)));
    }
    let arrays = rows.take().map_err(|error| Error::TargetError(error.to_string()))?;
    let arrays: Vec<ArrayRef> = arrays.into_iter().chain([new_null_array(&DataType::Utf8, count)]).collect();
    let fields: Schema = schema.arrow_rows().as_ref().clone();
    RecordBatch::try_new(Arc::new(fields), arrays).map_err(|error| Error::TargetError(error.to_string()))
}

/// A text of fixed length is told without the blanks at its end, but for where it is a key.
fn padded(schema: &TableSchema, key: KeyTexts) -> KeyTexts {
    let texts = schema.key.iter().zip(key).map(|(&at, text)| match blanks(schema, &schema.columns[at]) {
        Some(length) => format!("{text:length$}"),
        None => text,
    });
    texts.collect()
}

/// The length of PostgreSQL's `character(n)`.
fn blanks(schema: &TableSchema, column: &Column) -> Option<usize> {
    let is_postgresql = schema.system == "postgresql" && column.travel == Travel::Utf8;
    column.source_type.strip_prefix("character(").filter(|_| is_postgresql)?.strip_suffix(')')?.parse().ok()
}

/// Asks for a column as it travels.
fn select(schema: &TableSchema, at: usize, kind: &Kind) -> String {
    let column = &schema.columns[at];
    let name = format!("t.{}", identifier(&column.name));
    match kind.spelled.as_str() {
        "xml" | "hierarchyid" | "geometry" | "geography" => types::select(column, "t"),
        _ if blanks(schema, column).is_some() => format!("RTRIM({name})"),
        _ if column.travel == Travel::TimestampTz => format!("CONVERT(datetime2(6), SWITCHOFFSET({name}, '+00:00'))"),
        _ => name,
    }
}

fn select_all(name: &TableName, schema: &TableSchema, kinds: &[Kind]) -> String {
    let columns: Vec<String> = (0..kinds.len()).map(|at| select(schema, at, &kinds[at])).collect();
    format!("SELECT {} FROM {} t", columns.join(", "), quoted(name))
}

/// Asks for the rows of a range.
pub(in crate::target) fn of_range(name: &TableName, schema: &TableSchema, kinds: &[Kind], range: &KeyRange) -> Result<String, Error> {
    let mut conditions = Vec::new();
    for (bound, compare, last) in [(&range.after, ">", ">"), (&range.upto, "<", "<=")] {
        let Some(bound) = bound else { continue };
        let places: Vec<(String, String)> = schema
            .ordered_key()
            .iter()
            .zip(bound)
            .map(|(&at, text)| ordered(schema, at, &kinds[at], text).ok_or_else(|| not_a_key(name, text)))
            .collect::<Result<_, _>>()?;
        // (a, b) > (x, y) is a > x OR (a = x AND b > y).
        let alternatives = (0..places.len()).map(|at| {
            let (column, value) = &places[at];
            let same = places[..at].iter().map(|(column, value)| format!("{column} = {value}"));
            let compare = if at + 1 == places.len() { last } else { compare };
            same.chain([format!("{column} {compare} {value}")]).collect::<Vec<_>>().join(" AND ")
        });
        conditions.push(format!("({})", alternatives.map(|all| format!("({all})")).collect::<Vec<_>>().join(" OR ")));
    }
    let condition = if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
    Ok(format!("{}{condition}", select_all(name, schema, kinds)))
}

/// A column and a bound, as expressions that the server orders as the source does.
fn ordered(schema: &TableSchema, at: usize, kind: &Kind, text: &str) -> Option<(String, String)> {
    let column = &schema.columns[at];
    let (name, value) = (format!("t.{}", identifier(&column.name)), kind::typed(column, kind, text)?);
    if column.travel == Travel::Uuid {
        // It compares the last bytes first; their digits it compares as PostgreSQL does the bytes.
        let digits = |uuid: &str| format!("CONVERT(char(36), {uuid}) COLLATE Latin1_General_BIN2");
        return Some((digits(&name), digits(&value)));
    }
    Some((name, value))
}

/// Asks for the rows with these keys.
pub(in crate::target) fn of_keys(name: &TableName, schema: &TableSchema, kinds: &[Kind], keys: &[KeyTexts]) -> Result<String, Error> {
    let rows = keys.iter().map(|key| {
        let values = schema.key.iter().zip(key).enumerate().map(|(place, (&at, text))| {
            let value = kind::typed(&schema.columns[at], &kinds[at], text).ok_or_else(|| not_a_key(name, text))?;
            Ok(format!("{value} AS [k{place}]"))
        });
        Ok(format!("SELECT {}", values.collect::<Result<Vec<_>, Error>>()?.join(", ")))
    });
    let rows = rows.collect::<Result<Vec<_>, Error>>()?;
    let same_key = kind::same_key(schema, kinds, "t", "w", |place| format!("[k{place}]"));
    // Not by VALUES, which only an INSERT may have in a Synapse pool.
    Ok(format!("{} JOIN ({}) AS w ON {same_key}", select_all(name, schema, kinds), rows.join(" UNION ALL ")))
}

fn not_a_key(name: &TableName, text: &str) -> Error {
    Failure { number: 0, class: crate::sqlserver::Class::ValueNotSupported, message: format!("{text} is no key that {name} could hold") }
        .into()
}
