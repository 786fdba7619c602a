//! Names and shapes of what a link makes in the target database. Pure: SQL text in, SQL text out.

use crate::{
    data::{Column, TableName, TableSchema, Travel},
    postgresql::quote::{identifier, literal, table as quoted},
    target::{Error, Fit, Outline, OutlinedColumn, TargetTable, aside::build_prefix},
};

/// The column's type as the target spells it.
pub(super) fn column_type(schema: &TableSchema, column: &Column) -> String {
    if schema.system == "postgresql" {
        return column.source_type.clone();
    }
    match column.travel {
        Travel::Bool => "boolean".to_owned(),
        Travel::Int16 => "smallint".to_owned(),
        Travel::Int32 => "integer".to_owned(),
        Travel::Int64 => "bigint".to_owned(),
        Travel::Float32 => "real".to_owned(),
        Travel::Float64 => "double precision".to_owned(),
        Travel::Decimal { precision, scale } => format!("numeric({precision},{scale})"),
        Travel::Date => "date".to_owned(),
        Travel::Time | Travel::Time7 => "time without time zone".to_owned(),
        Travel::Timestamp | Travel::Timestamp7 => "timestamp without time zone".to_owned(),
        Travel::TimestampTz | Travel::TimestampOffset => "timestamp with time zone".to_owned(),
        Travel::Utf8 | Travel::Text => "text".to_owned(),
        Travel::Binary => "bytea".to_owned(),
        Travel::Uuid => "uuid".to_owned(),
    }
}

/// How a table would stand as `name`, see [`crate::target::Target::outline`].
pub(super) fn outline(name: &TableName, schema: &TableSchema) -> Outline {
    let column = |column: &Column| OutlinedColumn { kind: column_type(schema, column), fit: fit(schema, column) };
    let (table, key) = (quoted(name), key_columns(schema).join(", "));
    Outline {
        columns: schema.columns.iter().map(column).collect(),
        statements: vec![
            format!("CREATE TABLE {table} ({})", column_definitions(schema)),
            format!("ALTER TABLE {table} ADD PRIMARY KEY ({key})"),
        ],
    }
}

/// What becomes of a column's values here.
fn fit(schema: &TableSchema, column: &Column) -> Fit {
    if schema.system == "postgresql" {
        // What other databases cannot make: enums, types of extensions, composites.
        let as_text = column.travel == Travel::Text && (column.source_type == "text" || !column.labels.is_empty());
        return if as_text { Fit::Form("as its text: the target has no such type") } else { Fit::Whole };
    }
    match column.travel {
        Travel::Time7 | Travel::Timestamp7 => Fit::Lossy("the seventh digit of a second"),
        Travel::TimestampOffset => Fit::Lossy("the offset, and the seventh digit of a second: the moment stays"),
        Travel::Text => Fit::Form("as its text"),
        Travel::Utf8 => Fit::Refuses("the character U+0000".to_owned()),
        _ => Fit::Whole,
    }
}

/// Why rows with different keys in the source could have the same one here, if they could.
pub(super) fn check_key(schema: &TableSchema) -> Result<(), Error> {
    for column in schema.key.iter().map(|&column| &schema.columns[column]) {
        let why = match (&column.collation, column.travel) {
            (Some(collation), _) => format!("its texts compare by collation {collation}, which PostgreSQL does not have"),
            (None, Travel::Time7 | Travel::Timestamp7 | Travel::TimestampOffset) => {
                "PostgreSQL keeps six digits of a second and no offset".to_owned()
            }
            _ => continue,
        };
        return Err(Error::ValueNotSupported(format!("key column {} of {} is {}: {why}", column.name, schema.name, column.source_type)));
    }
    Ok(())
}

/// All columns, quoted, in order.
pub(super) fn columns(schema: &TableSchema) -> Vec<String> {
    schema.columns.iter().map(|column| identifier(&column.name)).collect()
}

/// The key's columns, quoted, in key order.
pub(super) fn key_columns(schema: &TableSchema) -> Vec<String> {
    schema.key.iter().map(|&column| identifier(&schema.columns[column].name)).collect()
}

/// A regular expression for the names of all tables that are built aside for a table.
pub(super) fn build_pattern(table: &TargetTable) -> String {
    format!("^{}_[0-9]+_[0-9]+$", build_prefix(table))
}

/// The definitions of all columns. Only the key refuses NULL: the copy must hold whatever the source holds, now and later.
pub(super) fn column_definitions(schema: &TableSchema) -> String {
    let definitions = schema.columns.iter().enumerate().map(|(at, column)| {
        let not_null = if schema.key.contains(&at) { " NOT NULL" } else { "" };
        format!("{} {}{not_null}", identifier(&column.name), column_type(schema, column))
    });
    definitions.collect::<Vec<_>>().join(", ")
}

/// The statements that add a column to a table, in which all of its rows read the column's initial value. Nothing of it stays
/// as a default.
pub(super) fn add_column(schema: &TableSchema, column: &Column, table: &str) -> String {
    let (name, kind) = (identifier(&column.name), column_type(schema, column));
    match &column.initial {
        None => format!("ALTER TABLE {table} ADD COLUMN {name} {kind}"),
        Some(initial) => format!(
            "ALTER TABLE {table} ADD COLUMN {name} {kind} DEFAULT {}::{kind}; ALTER TABLE {table} ALTER COLUMN {name} DROP DEFAULT",
            literal(initial)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::fixtures;

    #[test]
    fn what_becomes_of_values_is_told() {
        let of = |system: &str, source_type: &str, travel| {
            let column = Column { source_type: source_type.to_owned(), ..fixtures::column(1, "c", travel) };
            let schema = TableSchema { system: system.to_owned(), ..fixtures::table("t", vec![column], &[0]) };
            outline(&TableName::new("s", "t"), &schema).columns.remove(0)
        };
        let native = of("postgresql", "inet", Travel::Text);
        assert_eq!((native.kind.as_str(), native.fit), ("inet", Fit::Whole));
        assert_eq!(of("postgresql", "text", Travel::Utf8).fit, Fit::Whole);
        assert!(matches!(of("postgresql", "text", Travel::Text).fit, Fit::Form(_)));
        let foreign = of("sqlserver", "datetime2(7)", Travel::Timestamp7);
        assert_eq!((foreign.kind.as_str(), foreign.fit), ("timestamp without time zone", Fit::Lossy("the seventh digit of a second")));
        assert!(matches!(of("sqlserver", "datetimeoffset(7)", Travel::TimestampOffset).fit, Fit::Lossy(_)));
        assert_eq!(of("sqlserver", "money", Travel::Decimal { precision: 19, scale: 4 }).fit, Fit::Whole);
        assert!(matches!(of("sqlserver", "nvarchar(10)", Travel::Utf8).fit, Fit::Refuses(_)));
        let statements =
            outline(&TableName::new("s", "t"), &fixtures::table("t", vec![fixtures::column(1, "c", Travel::Int32)], &[0])).statements;
        assert_eq!(statements[1], "ALTER TABLE \"s\".\"t\" ADD PRIMARY KEY (\"c\")");
    }

    #[test]
    fn a_key_that_postgresql_would_compare_otherwise_is_refused() {
        let key = |column: Column| check_key(&fixtures::table("t", vec![column], &[0])).map_err(|error| error.to_string());
        let collated = |collation: Option<&str>| Column {
            collation: collation.map(str::to_owned),
            source_type: "nvarchar(10)".to_owned(),
            ..fixtures::column(1, "code", Travel::Utf8)
        };
        let refused = key(collated(Some("SQL_Latin1_General_CP1_CI_AS"))).unwrap_err();
        assert!(refused.contains("key column code") && refused.contains("SQL_Latin1_General_CP1_CI_AS"), "{refused}");
        key(collated(None)).unwrap();
        assert!(key(fixtures::column(1, "at", Travel::Timestamp7)).unwrap_err().contains("six digits"));
        key(fixtures::column(1, "at", Travel::Timestamp)).unwrap();
        // Beside the key it does no harm.
        check_key(&fixtures::table("t", vec![fixtures::column(1, "id", Travel::Int32), collated(Some("x"))], &[0])).unwrap();
    }
}
