//! Rights on a table, which pass to the table that takes its place. Pure.

use crate::{
    data::TableName,
    sqlserver::quote::{identifier, table as quoted},
};

/// A right on a table, as the catalog has it.
#[derive(Clone, Debug, Default)]
pub(in crate::target) struct Right {
    /// `G` GRANT, `W` GRANT WITH GRANT OPTION, `D` DENY.
    pub(in crate::target) state: String,
    pub(in crate::target) permission: String,
    pub(in crate::target) grantee: String,
    /// The column, if it is of one.
    pub(in crate::target) column: Option<String>,
}

/// Asks for the [`Right`]s on a table.
pub(in crate::target) fn of(object_id: i64) -> String {
    format!(
        "SELECT p.[state], p.[permission_name], u.[name], c.[name] FROM sys.database_permissions p \
         JOIN sys.database_principals u ON u.[principal_id] = p.[grantee_principal_id] \
         LEFT JOIN sys.columns c ON c.[object_id] = p.[major_id] AND c.[column_id] = p.[minor_id] AND p.[minor_id] > 0 \
         WHERE p.[class] = 1 AND p.[major_id] = {object_id} ORDER BY p.[minor_id], u.[name], p.[permission_name]"
    )
}

/// The statement that gives the right on another table.
pub(in crate::target) fn give(right: &Right, name: &TableName) -> Option<String> {
    // Words of the server's own.
    if !right.permission.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b' ') {
        return None;
    }
    let verb = if right.state.trim() == "D" { "DENY" } else { "GRANT" };
    let column = right.column.as_ref().map(|column| format!(" ({})", identifier(column))).unwrap_or_default();
    let option = if right.state.trim() == "W" { " WITH GRANT OPTION" } else { "" };
    Some(format!("{verb} {} ON OBJECT::{}{column} TO {}{option}", right.permission, quoted(name), identifier(&right.grantee)))
}
