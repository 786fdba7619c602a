//! Types of SQL Server: how their values travel, how they are selected so, and what a column's definition is.

use super::quote::identifier;
use crate::data::{Column, Travel};

/// A column as the catalog describes it.
#[derive(Clone, Debug, Default)]
pub struct CatalogType {
    /// Name of the type; of an alias type that of the type under it; of a CLR type its own.
    pub name: String,
    /// Whether it is a CLR type, of the system's or of a user.
    pub is_clr: bool,
    /// `max_length` in bytes; -1: max.
    pub max_length: i64,
    /// `precision`.
    pub precision: i64,
    /// `scale`.
    pub scale: i64,
}

impl CatalogType {
    /// The type as SQL spells it, alias types resolved.
    pub fn spelled(&self) -> String {
        let Self { name, max_length, precision, scale, .. } = self;
        let sized = |length: i64| if length < 0 { format!("{name}(max)") } else { format!("{name}({length})") };
        match name.as_str() {
            "char" | "varchar" | "binary" | "varbinary" => sized(*max_length),
            "nchar" | "nvarchar" => sized(if *max_length < 0 { -1 } else { max_length / 2 }),
            "decimal" | "numeric" => format!("{name}({precision},{scale})"),
            "time" | "datetime2" | "datetimeoffset" => format!("{name}({scale})"),
            "timestamp" => "rowversion".to_owned(),
            "sysname" => "nvarchar(128)".to_owned(),
            _ => name.clone(),
        }
    }

    /// How the values travel.
    pub fn travel(&self) -> Travel {
        match self.name.as_str() {
            "bit" => Travel::Bool,
            "tinyint" | "smallint" => Travel::Int16,
            "int" => Travel::Int32,
            "bigint" => Travel::Int64,
            "real" => Travel::Float32,
            "float" => Travel::Float64,
            "decimal" | "numeric" => Travel::Decimal { precision: self.precision as u8, scale: self.scale as i8 },
            "money" => Travel::Decimal { precision: 19, scale: 4 },
            "smallmoney" => Travel::Decimal { precision: 10, scale: 4 },
            "date" => Travel::Date,
            "time" if self.scale > 6 => Travel::Time7,
            "time" => Travel::Time,
            "datetime2" if self.scale > 6 => Travel::Timestamp7,
            "datetime" | "smalldatetime" | "datetime2" => Travel::Timestamp,
            "datetimeoffset" => Travel::TimestampOffset,
            "char" | "varchar" | "nchar" | "nvarchar" | "text" | "ntext" | "sysname" => Travel::Utf8,
            "binary" | "varbinary" | "image" | "timestamp" | "rowversion" => Travel::Binary,
            "uniqueidentifier" => Travel::Uuid,
            "xml" | "sql_variant" | "hierarchyid" | "geometry" | "geography" | "json" | "vector" => Travel::Text,
            _ if self.is_clr => Travel::Binary,
            _ => Travel::Text,
        }
    }
}

/// The expression that selects a column of the table `alias` as it travels.
pub fn select(column: &Column, alias: &str) -> String {
    let name = format!("{alias}.{}", identifier(&column.name));
    match column.source_type.as_str() {
        "hierarchyid" => format!("{name}.ToString()"),
        "geometry" | "geography" => {
            format!("CASE WHEN {name} IS NOT NULL THEN CONCAT(N'SRID=', {name}.STSrid, N';', {name}.AsTextZM()) END")
        }
        "xml" | "json" | "vector" | "ntext" => format!("CONVERT(nvarchar(max), {name})"),
        "sql_variant" => variant(&name),
        "rowversion" => format!("CONVERT(binary(8), {name})"),
        "text" => format!("CONVERT(varchar(max), {name})"),
        "image" => format!("CONVERT(varbinary(max), {name})"),
        _ if is_user_type(column) => format!("CONVERT(varbinary(max), {name})"),
        _ => name,
    }
}

/// Whether the column is of a CLR type of a user's: its bytes travel.
fn is_user_type(column: &Column) -> bool {
    column.travel == Travel::Binary
        && !matches!(column.source_type.split('(').next(), Some("binary" | "varbinary" | "image" | "rowversion"))
}

/// A variant as JSON with its base type, so that `1` and `'1'` differ.
fn variant(name: &str) -> String {
    let base = format!("CONVERT(nvarchar(128), SQL_VARIANT_PROPERTY({name}, 'BaseType'))");
    // Each base type in the style that keeps all of it.
    let value = format!(
        "CASE WHEN {base} IN (N'float', N'real') THEN CONVERT(nvarchar(4000), CONVERT(float, {name}), 3) \
         WHEN {base} IN (N'money', N'smallmoney') THEN CONVERT(nvarchar(4000), CONVERT(money, {name}), 2) \
         WHEN {base} IN (N'binary', N'varbinary') THEN CONVERT(nvarchar(max), CONVERT(varbinary(8000), {name}), 1) \
         WHEN {base} IN (N'datetime', N'smalldatetime', N'date', N'time', N'datetime2', N'datetimeoffset') THEN CONVERT(nvarchar(4000), {name}, 121) \
         ELSE CONVERT(nvarchar(4000), {name}) END"
    );
    format!(
        "CASE WHEN {name} IS NOT NULL THEN CONCAT(N'{{\"type\":\"', {base}, N'\",\"value\":\"', STRING_ESCAPE({value}, 'json'), N'\"}}') END"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::fixtures;

    fn kind(name: &str, max_length: i64, precision: i64, scale: i64) -> CatalogType {
        CatalogType { name: name.into(), is_clr: false, max_length, precision, scale }
    }

    #[test]
    fn types_are_spelled_as_sql_does() {
        for (kind, text, travel) in [
            (kind("nvarchar", 100, 0, 0), "nvarchar(50)", Travel::Utf8),
            (kind("nvarchar", -1, 0, 0), "nvarchar(max)", Travel::Utf8),
            (kind("varchar", 20, 0, 0), "varchar(20)", Travel::Utf8),
            (kind("decimal", 9, 18, 4), "decimal(18,4)", Travel::Decimal { precision: 18, scale: 4 }),
            (kind("datetime2", 8, 27, 7), "datetime2(7)", Travel::Timestamp7),
            (kind("datetime2", 7, 22, 3), "datetime2(3)", Travel::Timestamp),
            (kind("time", 5, 16, 7), "time(7)", Travel::Time7),
            (kind("datetimeoffset", 10, 34, 7), "datetimeoffset(7)", Travel::TimestampOffset),
            (kind("timestamp", 8, 0, 0), "rowversion", Travel::Binary),
            (kind("money", 8, 19, 4), "money", Travel::Decimal { precision: 19, scale: 4 }),
            (kind("tinyint", 1, 3, 0), "tinyint", Travel::Int16),
        ] {
            assert_eq!((kind.spelled().as_str(), kind.travel()), (text, travel));
        }
        assert_eq!(CatalogType { name: "point3d".into(), is_clr: true, ..CatalogType::default() }.travel(), Travel::Binary);
    }

    #[test]
    fn what_has_no_form_of_its_own_is_selected_as_text_or_bytes() {
        let of = |source_type: &str, travel| select(&Column { source_type: source_type.into(), ..fixtures::column(1, "a]", travel) }, "t");
        assert_eq!(of("int", Travel::Int32), "t.[a]]]");
        assert_eq!(of("hierarchyid", Travel::Text), "t.[a]]].ToString()");
        assert_eq!(of("varbinary(8)", Travel::Binary), "t.[a]]]");
        assert_eq!(of("point3d", Travel::Binary), "CONVERT(varbinary(max), t.[a]]])");
    }
}
