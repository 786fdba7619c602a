//! What Change Tracking is asked, and whether it still has all changes of a table. Pure.

use super::{
    Error,
    position::{CLOCK, CLOCK_TEXT, VERSION},
    rows,
};
use crate::{
    data::{Op, TableSchema, TableVersion},
    sqlserver::{Row, quote, types::select},
};

/// The question for the version. The clock first: what was committed by then has at most this version.
pub fn version_query() -> String {
    format!("{CLOCK} SELECT {VERSION}, {CLOCK_TEXT}")
}

/// The question how the tables are and how far back their changes go.
pub fn state_query(tables: &[u32]) -> String {
    let ids: Vec<String> = tables.iter().map(|id| id.cast_signed().to_string()).collect();
    format!(
        "SELECT o.object_id, CHANGE_TRACKING_MIN_VALID_VERSION(o.object_id), k.begin_version, \
           CONCAT(SCHEMA_NAME(o.schema_id), N'.', o.name, N' ', CONVERT(nvarchar(30), o.modify_date, 126), N' ', \
             (SELECT SUM(CAST(CHECKSUM(c.column_id, c.name, c.user_type_id, c.max_length, c.[precision], c.[scale], c.is_nullable, \
               c.collation_name, c.is_computed) AS bigint)) FROM sys.columns AS c WHERE c.object_id = o.object_id)) \
         FROM sys.objects AS o LEFT JOIN sys.change_tracking_tables AS k ON k.object_id = o.object_id \
         WHERE o.object_id IN ({})",
        ids.join(", ")
    )
}

/// The keys whose rows are gone since `last`.
pub fn deletes_query(schema: &TableSchema, last: i64) -> String {
    let keys: Vec<String> = rows::key_columns(schema).iter().map(|key| format!("c.{key}")).collect();
    format!(
        "SELECT {} FROM CHANGETABLE(CHANGES {}, {last}) AS c WHERE c.SYS_CHANGE_OPERATION = N'D'",
        keys.join(", "),
        quote::table(&schema.name)
    )
}

/// The rows that are new or changed since `last`, as they are; of one that is not there its key, to be deleted.
pub fn upserts_query(schema: &TableSchema, last: i64) -> String {
    let keys = rows::key_columns(schema);
    let same: Vec<String> = keys.iter().map(|key| format!("t.{key} = c.{key}")).collect();
    let columns: Vec<String> = (0..schema.columns.len())
        .map(|at| {
            let column = &schema.columns[at];
            if schema.key.contains(&at) {
                let name = quote::identifier(&column.name);
                format!("COALESCE(t.{name}, c.{name})")
            } else if column.dropped {
                "NULL".to_owned()
            } else {
                select(column, "t")
            }
        })
        .collect();
    format!(
        "SELECT CAST(CASE WHEN t.{} IS NULL THEN {} ELSE {} END AS smallint), {} FROM CHANGETABLE(CHANGES {table}, {last}) AS c \
         LEFT JOIN {table} AS t ON {} WHERE c.SYS_CHANGE_OPERATION <> N'D'",
        keys[0],
        Op::Delete as u8,
        Op::Update as u8,
        columns.join(", "),
        same.join(" AND "),
        table = quote::table(&schema.name)
    )
}

/// What [`state_query`] says of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Changes after this version are there. None: none are kept, or the user may not see them.
    pub min_valid: Option<i64>,
    /// The version at which tracking was switched on.
    pub since: Option<i64>,
    /// Another text with every change of the table's definition.
    pub signature: String,
}

impl State {
    /// From a row of its answer; the table's object id with it.
    pub fn of(row: &Row) -> (u32, Self) {
        let id = row.number(0).and_then(|id| i32::try_from(id).ok()).unwrap_or_default().cast_unsigned();
        (id, Self { min_valid: row.number(1), since: row.number(2), signature: row.text(3).unwrap_or_default() })
    }
}

/// Whether the server still has all changes of a table after `last`.
pub fn verdict(table: &TableVersion, last: i64, state: &State) -> Result<(), Error> {
    let name = &table.schema.name;
    let expired = |why: String| Err(Error::ChangeVersionExpired(format!("{name} {why}")));
    let Some(min_valid) = state.min_valid else {
        return expired("is not tracked any more, or the link's user lost VIEW CHANGE TRACKING on it".to_owned());
    };
    let recorded = table.parts.first().and_then(|part| part.attached.parse::<i64>().ok());
    if let (Some(recorded), Some(since)) = (recorded, state.since)
        && recorded != since
    {
        return expired(format!("had its tracking switched off and on again at version {since}: its changes in between are not known"));
    }
    if last < min_valid {
        return expired(format!(
            "was read up to version {last}, but its changes are kept only from version {min_valid} on: it was truncated, or they were cleaned up"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::fault::Explain as _,
        data::{Part, Travel, fixtures},
    };

    fn table() -> TableVersion {
        let columns = vec![fixtures::column(1, "id", Travel::Int32), fixtures::column(2, "b]", Travel::Utf8)];
        let schema = TableSchema { system: "sqlserver".into(), ..fixtures::table("t", columns, &[0]) };
        TableVersion { schema, parts: vec![Part { object_id: 1, file_id: 0, attached: "20".into() }] }
    }

    #[test]
    fn changes_that_are_not_there_are_never_passed_over() {
        let state = |min_valid, since| State { min_valid, since, signature: String::new() };
        assert!(verdict(&table(), 30, &state(Some(30), Some(20))).is_ok());
        for (state, why) in [
            (state(Some(31), Some(20)), "kept only from version 31"),
            (state(None, None), "not tracked"),
            // Also if no version was given since.
            (state(Some(30), Some(30)), "switched off and on"),
        ] {
            let error = verdict(&table(), 30, &state).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
            assert!(matches!(error, Error::ChangeVersionExpired(_)) && error.heals() && error.is_of_table());
        }
    }

    #[test]
    fn a_row_that_is_gone_is_deleted_whatever_its_change_was() {
        let table = table();
        assert_eq!(
            deletes_query(&table.schema, 7),
            "SELECT c.[id] FROM CHANGETABLE(CHANGES [public].[t], 7) AS c WHERE c.SYS_CHANGE_OPERATION = N'D'"
        );
        assert_eq!(
            upserts_query(&table.schema, 7),
            "SELECT CAST(CASE WHEN t.[id] IS NULL THEN 3 ELSE 2 END AS smallint), COALESCE(t.[id], c.[id]), t.[b]]] \
             FROM CHANGETABLE(CHANGES [public].[t], 7) AS c LEFT JOIN [public].[t] AS t ON t.[id] = c.[id] \
             WHERE c.SYS_CHANGE_OPERATION <> N'D'"
        );
    }
}
