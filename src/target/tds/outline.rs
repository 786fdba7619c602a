//! How columns would stand, and what becomes of their values. Pure.

use super::kind::Kind;
use crate::{
    data::{TableSchema, Travel},
    sqlserver::wire::Wire,
    target::{Fit, OutlinedColumn},
};

/// How a table's columns would stand, see [`crate::target::Target::outline`].
pub(in crate::target) fn columns(schema: &TableSchema, kinds: &[Kind]) -> Vec<OutlinedColumn> {
    let column = |(at, kind): (usize, &Kind)| OutlinedColumn { kind: kind.spelled.clone(), fit: fit(schema, at, kind) };
    kinds.iter().enumerate().map(column).collect()
}

/// What becomes of a column's values here.
fn fit(schema: &TableSchema, at: usize, kind: &Kind) -> Fit {
    let column = &schema.columns[at];
    if schema.system == "sqlserver" {
        let base = |spelled: &str| spelled.split('(').next().unwrap_or_default().to_owned();
        return match (base(&column.source_type).as_str(), base(&kind.spelled).as_str()) {
            ("rowversion", _) => Fit::Form("as bytes: the source's versions, not the target's own"),
            (source, target) if source == target => Fit::Whole,
            ("text" | "ntext" | "image", _) => Fit::Whole,
            _ if column.travel == Travel::Binary => Fit::Form("as bytes: a type of the source's own"),
            _ => Fit::Form("as its text"),
        };
    }
    let years = "years before 1 and after 9999, and infinity";
    match (column.travel, kind.wire) {
        (Travel::Float32 | Travel::Float64, _) => Fit::Refuses("NaN and infinity".to_owned()),
        (Travel::Decimal { .. }, _) => Fit::Refuses("NaN".to_owned()),
        (Travel::Date | Travel::Timestamp | Travel::TimestampTz, _) => Fit::Refuses(years.to_owned()),
        (Travel::Time, _) => Fit::Refuses("24:00".to_owned()),
        (_, Wire::Text(most)) => Fit::Refuses(format!("texts of more than {most} characters, for they are of the key")),
        (_, Wire::VarBinary(most)) => Fit::Refuses(format!("values of more than {most} bytes, for they are of the key")),
        (Travel::Text, _) => Fit::Form("as its text"),
        _ => Fit::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        data::{Column, fixtures},
        target::tds::kind::Types,
    };

    const ALL: Types = Types { xml: true, hierarchyid: true, geometry: true, geography: true, babelfish: false };

    fn of(system: &str, source_type: &str, travel: Travel, is_key: bool, types: Types) -> OutlinedColumn {
        let column = Column { source_type: source_type.to_owned(), ..fixtures::column(1, "c", travel) };
        let columns = vec![column, fixtures::column(2, "id", Travel::Int32)];
        let schema = TableSchema { system: system.to_owned(), ..fixtures::table("t", columns, &[usize::from(!is_key)]) };
        super::columns(&schema, &Kind::all(&schema, types)).remove(0)
    }

    #[test]
    fn what_becomes_of_values_is_told() {
        let native = |source_type, travel| of("sqlserver", source_type, travel, false, ALL).fit;
        assert_eq!(native("datetimeoffset(7)", Travel::TimestampOffset), Fit::Whole);
        assert_eq!((native("xml", Travel::Text), native("ntext", Travel::Utf8)), (Fit::Whole, Fit::Whole));
        assert_eq!(native("sql_variant", Travel::Text), Fit::Form("as its text"));
        assert!(matches!(native("rowversion", Travel::Binary), Fit::Form(_)) && matches!(native("point3d", Travel::Binary), Fit::Form(_)));
        assert_eq!(of("sqlserver", "xml", Travel::Text, false, Types::default()).fit, Fit::Form("as its text"));

        let foreign = |source_type, travel, is_key| of("postgresql", source_type, travel, is_key, ALL);
        let text = foreign("text", Travel::Utf8, false);
        assert_eq!((text.kind.as_str(), text.fit), ("nvarchar(max)", Fit::Whole));
        assert!(matches!(foreign("text", Travel::Utf8, true).fit, Fit::Refuses(what) if what.contains("450 characters")));
        assert!(matches!(foreign("bytea", Travel::Binary, true).fit, Fit::Refuses(what) if what.contains("900 bytes")));
        assert!(matches!(foreign("date", Travel::Date, false).fit, Fit::Refuses(what) if what.contains("infinity")));
        assert_eq!(foreign("jsonb", Travel::Text, false).fit, Fit::Form("as its text"));
        assert_eq!(foreign("uuid", Travel::Uuid, false).fit, Fit::Whole);
    }
}
