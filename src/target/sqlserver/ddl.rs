//! Shapes of what a link makes in the target database. Pure: SQL text in, SQL text out.

use crate::{
    data::{TableName, TableSchema},
    sqlserver::quote::{identifier, literal, table as quoted},
    target::{
        TargetTable, aside,
        tds::kind::{Kind, definitions, key_columns},
    },
};

/// Most bytes of a clustered index's key; one that is not clustered may have 1,700.
const CLUSTERED_BYTES: usize = 900;
/// By which a link knows a table as its own.
pub(super) const PROPERTY: &str = "link-operator";

/// Asks for [`crate::target::tds::kind::Types`]: a name a row.
pub(super) const TYPES: &str = "SELECT [name] FROM sys.types WHERE [name] IN (N'xml', N'hierarchyid', N'geometry', N'geography') \
     UNION ALL SELECT N'babelfish' WHERE SERVERPROPERTY('BabelfishVersion') IS NOT NULL";

/// Makes the table aside.
pub(super) fn create_table(name: &TableName, schema: &TableSchema, kinds: &[Kind]) -> String {
    format!("CREATE TABLE {} ({})", quoted(name), definitions(schema, kinds))
}

/// Makes the key of the table aside unique. Names of constraints are of the schema: it has one of its own.
pub(super) fn primary_key(name: &TableName, schema: &TableSchema, kinds: &[Kind]) -> String {
    let bytes: usize = schema.key.iter().map(|&at| kinds[at].key_bytes().unwrap_or(CLUSTERED_BYTES + 1)).sum();
    let clustered = if bytes <= CLUSTERED_BYTES { "CLUSTERED" } else { "NONCLUSTERED" };
    let constraint = identifier(&format!("pk_{}", name.table_name));
    format!("ALTER TABLE {} ADD CONSTRAINT {constraint} PRIMARY KEY {clustered} ({})", quoted(name), key_columns(schema).join(", "))
}

/// Puts the table aside in the place of the table's name.
pub(super) fn rename(build: &TableName, name: &TableName) -> String {
    format!("EXEC sp_rename {}, {}, N'OBJECT'", literal(&quoted(build)), literal(&name.table_name))
}

/// Marks a table as the link's, unless it is marked.
pub(super) fn set_mark(name: &TableName, table: &TargetTable) -> String {
    format!(
        "IF NOT EXISTS (SELECT 1 FROM sys.extended_properties WHERE [class] = 1 AND [major_id] = OBJECT_ID({object}) AND [minor_id] = 0 \
         AND [name] = N'{PROPERTY}') \
         EXEC sp_addextendedproperty @name = N'{PROPERTY}', @value = {mark}, @level0type = N'SCHEMA', @level0name = {schema}, \
         @level1type = N'TABLE', @level1name = {table}",
        object = literal(&quoted(name)),
        mark = literal(&aside::mark(table)),
        schema = literal(&name.schema_name),
        table = literal(&name.table_name),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        data::{Column, Travel, fixtures},
        target::tds::kind::Types,
    };

    #[test]
    fn a_table_is_made_under_its_name() {
        let (name, schema) = (TableName::new("dw", "t"), fixtures::table("t", vec![fixtures::column(1, "id", Travel::Int32)], &[0]));
        let kinds = Kind::all(&schema, Types::default());
        assert_eq!(create_table(&name, &schema, &kinds), "CREATE TABLE [dw].[t] ([id] int NOT NULL)");
        let key = primary_key(&name, &schema, &kinds);
        assert!(key.starts_with("ALTER TABLE [dw].[t] ADD CONSTRAINT") && key.ends_with("PRIMARY KEY CLUSTERED ([id])"), "{key}");
    }

    #[test]
    fn a_key_too_wide_for_the_rows_order_has_an_index_of_its_own() {
        let key = |columns: Vec<Column>, key: &[usize]| {
            let schema = fixtures::table("t", columns, key);
            primary_key(&TableName::new("dw", "b"), &schema, &Kind::all(&schema, Types::default()))
        };
        let text = |number, name| fixtures::column(number, name, Travel::Utf8);
        assert!(key(vec![text(1, "a")], &[0]).ends_with("PRIMARY KEY CLUSTERED ([a])"));
        assert!(key(vec![text(1, "a"), text(2, "b")], &[1, 0]).ends_with("PRIMARY KEY NONCLUSTERED ([b], [a])"));
    }
}
