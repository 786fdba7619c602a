//! How tables are: columns, types, keys, and what keeps their changes.

use super::{Error, Failure, eligible, keys::KeyColumn, position, position::Lsn};
use crate::{
    api::database::CaptureMode,
    data::{Part, Position, TableName, TableSchema},
    sqlserver::{Row, Session, quote, types::CatalogType},
};

/// A table that can be linked.
#[derive(Clone, Debug)]
pub struct Table {
    /// How it travels.
    pub schema: TableSchema,
    /// The columns of its key, as ranges compare them.
    pub keys: Vec<KeyColumn>,
    /// Numbers of the columns in which rows that are older than them may hold a value.
    pub filled: Vec<i32>,
    /// Since when its changes are tracked: another text once that was switched off and on.
    pub tracked_since: String,
    /// Its changes are kept from here on.
    pub changes_from: Position,
}

impl Table {
    /// What the log records of what holds its rows.
    pub fn part(&self) -> Part {
        Part { object_id: self.schema.object_id, file_id: 0, attached: self.tracked_since.clone() }
    }
}

/// A change table of change data capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// The table whose changes it has.
    pub object_id: u32,
    /// Its name, and so that of its change table.
    pub name: String,
    /// It has all changes from here on; what was before is cleaned up. None: the capture job has not come to it yet.
    pub from: Option<Lsn>,
    /// Whether it tells the order of the commands of a transaction.
    pub has_command_id: bool,
    /// Names of its columns.
    pub columns: Vec<String>,
}

/// What may be of a table that cannot be linked.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a column of the catalog")]
pub struct Facts {
    pub memory_optimized: bool,
    pub history: bool,
    pub external: bool,
    pub file_table: bool,
    pub graph: bool,
    pub may_select: bool,
    pub may_view_tracking: bool,
    pub may_unmask: bool,
    pub tracked_since: Option<i64>,
}

/// A column as the catalog has it.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a column of the catalog")]
pub struct Facet {
    pub number: i32,
    pub name: String,
    pub kind: CatalogType,
    pub nullable: bool,
    pub collation: Option<String>,
    pub computed: Option<String>,
    pub deterministic: bool,
    pub encrypted: bool,
    pub masked: bool,
    pub has_default: bool,
    pub column_set: bool,
}

/// The question for tables, `condition` of `t` and their schemas `s`. Columns that older versions of the server do not have are found
/// where they are, and else read as 0: a name in the inner query that its tables do not know is that of the outer one.
pub fn tables_query(condition: &str) -> String {
    let may = |right: &str| format!("HAS_PERMS_BY_NAME(QUOTENAME(s.name) + N'.' + QUOTENAME(t.name), 'OBJECT', '{right}')");
    format!(
        "SELECT x.* FROM (VALUES (CAST(0 AS tinyint), CAST(0 AS bit), CAST(0 AS bit))) AS former (ledger_type, is_node, is_edge) \
         CROSS APPLY (SELECT t.object_id, s.name AS schema_name, t.name AS table_name, is_memory_optimized, \
           CASE WHEN temporal_type = 1 OR ledger_type = 1 THEN 1 ELSE 0 END AS is_history, is_external, is_filetable, \
           CASE WHEN is_node = 1 OR is_edge = 1 THEN 1 ELSE 0 END AS is_graph, {} AS may_select, {} AS may_view_tracking, \
           HAS_PERMS_BY_NAME(DB_NAME(), 'DATABASE', 'UNMASK') AS may_unmask, c.begin_version \
         FROM sys.tables AS t JOIN sys.schemas AS s ON s.schema_id = t.schema_id \
         LEFT JOIN sys.change_tracking_tables AS c ON c.object_id = t.object_id WHERE {condition}) AS x",
        may("SELECT"),
        may("VIEW CHANGE TRACKING")
    )
}

/// The question for the columns of tables, `condition` of `c`.
pub fn columns_query(condition: &str) -> String {
    // The type under an alias type has the number of the system's type; CLR types have none there.
    format!(
        "SELECT c.object_id, c.column_id, c.name, COALESCE(b.name, u.name), CASE WHEN u.is_assembly_type = 1 THEN 1 ELSE 0 END, \
           c.max_length, c.[precision], c.[scale], c.is_nullable, c.collation_name, m.[definition], \
           CASE WHEN c.encryption_type IS NULL THEN 0 ELSE 1 END, c.is_masked, CASE WHEN c.default_object_id = 0 THEN 0 ELSE 1 END, \
           c.is_column_set, COLUMNPROPERTY(c.object_id, c.name, 'IsDeterministic') \
         FROM sys.columns AS c JOIN sys.types AS u ON u.user_type_id = c.user_type_id \
         LEFT JOIN sys.types AS b ON b.user_type_id = c.system_type_id AND u.is_assembly_type = 0 \
         LEFT JOIN sys.computed_columns AS m ON m.object_id = c.object_id AND m.column_id = c.column_id \
         WHERE {condition} ORDER BY c.object_id, c.column_id"
    )
}

/// The question for the unique indexes of tables, `condition` of `i`: the primary key first.
pub fn keys_query(condition: &str) -> String {
    format!(
        "SELECT i.object_id, i.index_id, i.is_primary_key, k.column_id FROM sys.indexes AS i \
         JOIN sys.index_columns AS k ON k.object_id = i.object_id AND k.index_id = i.index_id \
         WHERE i.is_unique = 1 AND i.is_disabled = 0 AND i.has_filter = 0 AND i.is_hypothetical = 0 AND k.key_ordinal > 0 AND {condition} \
         ORDER BY i.object_id, i.is_primary_key DESC, i.index_id, k.key_ordinal"
    )
}

/// How a table is now; refuses one that cannot be linked.
pub async fn describe(session: &mut Session, mode: CaptureMode, table: &TableName) -> Result<Table, Error> {
    let (schema_name, table_name) = (quote::literal(&table.schema_name), quote::literal(&table.table_name));
    let found = session.query(&tables_query(&format!("s.name = {schema_name} AND t.name = {table_name}"))).await?;
    // The database's collation may take other spellings for the same name.
    let found =
        found.iter().find(|row| row.text(1).as_ref() == Some(&table.schema_name) && row.text(2).as_ref() == Some(&table.table_name));
    let Some(row) = found else { return Err(Error::SourceTableMissing(table.clone())) };
    let (object_id, about) = facts(row);
    let columns = session.query(&columns_query(&format!("c.object_id = {}", object_id.cast_signed()))).await?;
    let columns: Vec<Facet> = columns.iter().map(facet).collect();
    let keys = session.query(&keys_query(&format!("i.object_id = {}", object_id.cast_signed()))).await?;
    let indexes = indexes(&keys);
    let instances = match mode {
        CaptureMode::ChangeTracking => Vec::new(),
        CaptureMode::ChangeDataCapture => instances(session, Some(object_id)).await?,
    };
    eligible::build(mode, table, object_id, &about, columns, &indexes, &instances)
}

/// What a row of [`tables_query`] says.
pub fn facts(row: &Row) -> (u32, Facts) {
    let about = Facts {
        memory_optimized: row.flag(3),
        history: row.flag(4),
        external: row.flag(5),
        file_table: row.flag(6),
        graph: row.flag(7),
        may_select: row.flag(8),
        may_view_tracking: row.flag(9),
        may_unmask: row.flag(10),
        tracked_since: row.number(11),
    };
    (number(row, 0), about)
}

fn number(row: &Row, column: usize) -> u32 {
    row.number(column).and_then(|number| i32::try_from(number).ok()).unwrap_or_default().cast_unsigned()
}

/// What a row of [`columns_query`] says.
pub fn facet(row: &Row) -> Facet {
    let length = |column| row.number(column).unwrap_or_default();
    let kind = CatalogType {
        name: row.text(3).unwrap_or_default(),
        is_clr: row.flag(4),
        max_length: length(5),
        precision: length(6),
        scale: length(7),
    };
    Facet {
        number: length(1) as i32,
        name: row.text(2).unwrap_or_default(),
        kind,
        nullable: row.flag(8),
        collation: row.text(9),
        computed: row.text(10),
        encrypted: row.flag(11),
        masked: row.flag(12),
        has_default: row.flag(13),
        column_set: row.flag(14),
        deterministic: row.flag(15),
    }
}

/// Columns of each unique index, the primary key's first; whether it is one.
pub fn indexes(rows: &[Row]) -> Vec<(bool, Vec<i32>)> {
    let mut indexes: Vec<(Option<i64>, bool, Vec<i32>)> = Vec::new();
    for row in rows {
        let (index, column) = (row.number(1), row.number(3).unwrap_or_default() as i32);
        match indexes.last_mut().filter(|(last, ..)| *last == index) {
            Some((_, _, columns)) => columns.push(column),
            None => indexes.push((index, row.flag(2), vec![column])),
        }
    }
    indexes.into_iter().map(|(_, primary, columns)| (primary, columns)).collect()
}

/// The change tables, of one table or all.
pub async fn instances(session: &mut Session, object_id: Option<u32>) -> Result<Vec<Instance>, Error> {
    let of = object_id.map(|id| format!(" WHERE t.source_object_id = {}", id.cast_signed())).unwrap_or_default();
    let rows = session.query(&format!("{INSTANCES}{of} ORDER BY t.source_object_id, t.capture_instance, c.column_ordinal")).await;
    let mut instances: Vec<Instance> = Vec::new();
    for row in rows.map_err(cdc_denied)? {
        let (object_id, name) = (number(&row, 0), row.text(1).unwrap_or_default());
        let column = row.text(4).unwrap_or_default();
        if let Some(last) = instances.last_mut().filter(|last| last.name == name) {
            last.columns.push(column);
        } else {
            let from = row.bytes(2).map(Lsn::from_bytes).transpose()?.filter(|lsn| *lsn != Lsn::default());
            instances.push(Instance { object_id, name, from, has_command_id: row.flag(3), columns: vec![column] });
        }
    }
    Ok(instances)
}

/// `start_lsn` is what `sys.fn_cdc_get_min_lsn` tells: the clean-up moves it.
pub const INSTANCES: &str = "SELECT t.source_object_id, t.capture_instance, t.start_lsn, \
       CASE WHEN COLUMNPROPERTY(t.object_id, N'__$command_id', 'ColumnId') IS NULL THEN 0 ELSE 1 END, c.column_name \
     FROM cdc.change_tables AS t JOIN cdc.captured_columns AS c ON c.object_id = t.object_id";

fn cdc_denied(failure: Failure) -> Error {
    if failure.class == crate::sqlserver::Class::PermissionDenied {
        return Error::SourcePermissionDenied { message: failure.message, remedy: super::preflight::GRANT_CDC.to_owned() };
    }
    position::cdc_off(failure)
}

/// The tables that Change Tracking follows.
pub const TRACKED: &str = "SELECT object_id FROM sys.change_tracking_tables";

/// Those of the tables whose changes are not kept.
pub async fn silent(session: &mut Session, mode: CaptureMode, tables: &[TableSchema]) -> Result<Vec<TableName>, Error> {
    let kept: Vec<u32> = match mode {
        CaptureMode::ChangeTracking => {
            let rows = session.query(TRACKED).await?;
            rows.iter().map(|row| number(row, 0)).collect()
        }
        CaptureMode::ChangeDataCapture => instances(session, None).await?.iter().map(|instance| instance.object_id).collect(),
    };
    Ok(tables.iter().filter(|table| !kept.contains(&table.object_id)).map(|table| table.name.clone()).collect())
}
