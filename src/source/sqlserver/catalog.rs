//! How tables are: columns, types, keys, and what keeps their changes.

use super::{Error, Failure, keys::KeyColumn, position, position::Lsn};
use crate::{
    api::database::CaptureMode,
    data::{Column, Part, Position, TableName, TableSchema, Travel},
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
           c.max_length, c.precision, c.scale, c.is_nullable, c.collation_name, m.definition, \
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
    build(mode, table, object_id, &about, columns, &indexes, &instances)
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

/// The table, or why it cannot be linked. Pure.
pub fn build(
    mode: CaptureMode,
    name: &TableName,
    object_id: u32,
    about: &Facts,
    mut facets: Vec<Facet>,
    indexes: &[(bool, Vec<i32>)],
    instances: &[Instance],
) -> Result<Table, Error> {
    let quoted = quote::table(name);
    let unfit = |why: &str, remedy: &str| Error::TableNotSupported { message: format!("table {name} {why}"), remedy: remedy.to_owned() };
    let denied = |right: &str, remedy: String| Error::SourcePermissionDenied {
        message: format!("the link's user has no {right} on {name}"),
        remedy,
    };
    refuse_sort(name, about)?;
    if !about.may_select {
        return Err(denied("SELECT", format!("GRANT SELECT ON {quoted} TO the link's user")));
    }
    // It is another form of the sparse columns, which travel each by itself.
    facets.retain(|facet| !facet.column_set);
    let named = |of: &dyn Fn(&Facet) -> bool| facets.iter().find(|facet| of(facet)).map(|facet| facet.name.clone());
    if let Some(column) = named(&|facet| facet.encrypted) {
        return Err(unfit(
            &format!("has the column {column}, which only its clients can decrypt (Always Encrypted)"),
            "leave the table out of the link, or decrypt the column",
        ));
    }
    if let Some(column) = named(&|facet| facet.masked && !about.may_unmask) {
        let message = format!("the link's user reads the column {column} of {name} only masked");
        return Err(Error::SourcePermissionDenied { message, remedy: "GRANT UNMASK TO the link's user".to_owned() });
    }
    let (tracked_since, changes_from) = match mode {
        CaptureMode::ChangeTracking => {
            if let Some(column) = named(&|facet| facet.computed.is_some() && !facet.deterministic) {
                return Err(unfit(
                    &format!("has the computed column {column}, whose values change without a change of the row"),
                    "leave the table out of the link, or drop the column",
                ));
            }
            if !about.may_view_tracking {
                return Err(denied("VIEW CHANGE TRACKING", format!("GRANT VIEW CHANGE TRACKING ON {quoted} TO the link's user")));
            }
            let Some(since) = about.tracked_since else {
                // Change Tracking needs it, too.
                primary_key(name, indexes)?;
                return Err(unfit(
                    "is not tracked",
                    &format!("ALTER TABLE {quoted} ENABLE CHANGE_TRACKING WITH (TRACK_COLUMNS_UPDATED = OFF)"),
                ));
            };
            (since.to_string(), position::of_version(since))
        }
        CaptureMode::ChangeDataCapture => {
            if let Some(column) = named(&|facet| facet.computed.is_some()) {
                return Err(unfit(
                    &format!("has the computed column {column}, which change data capture leaves NULL"),
                    "use captureMode ChangeTracking, or drop the column",
                ));
            }
            let instance = newest(name, instances)?;
            if let Some(column) = named(&|facet| !instance.columns.contains(&facet.name)) {
                return Err(unfit(
                    &format!("has the column {column}, which capture instance {} does not capture", instance.name),
                    &enable(name, instances),
                ));
            }
            let oldest = instances.iter().filter_map(|instance| instance.from).min().unwrap_or_default();
            (String::new(), oldest.position())
        }
    };
    let numbers = match mode {
        CaptureMode::ChangeTracking => primary_key(name, indexes)?.to_vec(),
        CaptureMode::ChangeDataCapture => {
            let not_null =
                |columns: &[i32]| columns.iter().all(|number| facets.iter().any(|facet| facet.number == *number && !facet.nullable));
            let unique = indexes.iter().filter(|(primary, columns)| !primary && not_null(columns)).min_by_key(|(_, columns)| columns.len());
            primary_key(name, indexes).or_else(|error| unique.map(|(_, columns)| columns.as_slice()).ok_or(error))?.to_vec()
        }
    };
    let mut key = Vec::new();
    let mut keys = Vec::new();
    for number in numbers {
        let place = facets.iter().position(|facet| facet.number == number);
        let place = place.ok_or_else(|| unfit("has a key whose columns are hidden", "GRANT SELECT on all columns"))?;
        let facet = &facets[place];
        if !is_key(&facet.kind) {
            let kind = facet.kind.spelled();
            let why = format!("has the key column {} of type {kind}, whose values cannot be told apart surely", facet.name);
            return Err(unfit(&why, &format!("ALTER TABLE {quoted} with a primary key of other columns")));
        }
        keys.push(KeyColumn {
            name: facet.name.clone(),
            travel: facet.kind.travel(),
            source_type: facet.kind.spelled(),
            collation: facet.collation.clone(),
        });
        key.push(place);
    }
    let filled = facets.iter().filter(|facet| facet.has_default || facet.computed.is_some()).map(|facet| facet.number).collect();
    let last_number = facets.iter().map(|facet| facet.number).max().unwrap_or_default();
    let columns = facets.into_iter().map(column).collect();
    let schema = TableSchema { name: name.clone(), object_id, system: "sqlserver".to_owned(), columns, key, last_number };
    Ok(Table { schema, keys, filled, tracked_since, changes_from })
}

/// Refuses tables of sorts whose changes are not kept, or that are not an application's own.
fn refuse_sort(name: &TableName, about: &Facts) -> Result<(), Error> {
    for (is, why) in [
        (about.external, "is an external table"),
        (about.file_table, "is a FileTable"),
        (about.graph, "is a node or edge table of a graph"),
        (about.history, "is the history of another table"),
        (about.memory_optimized, "is memory-optimized: its changes are not kept"),
    ] {
        if is {
            let remedy = "leave the table out of the link, or copy its rows into an ordinary table and link that".to_owned();
            return Err(Error::TableNotSupported { message: format!("table {name} {why}"), remedy });
        }
    }
    Ok(())
}

fn primary_key<'a>(name: &TableName, indexes: &'a [(bool, Vec<i32>)]) -> Result<&'a [i32], Error> {
    indexes.iter().find(|(primary, _)| *primary).map(|(_, columns)| columns.as_slice()).ok_or_else(|| Error::NoPrimaryKey(name.clone()))
}

/// The instance that was made last.
fn newest<'a>(name: &TableName, instances: &'a [Instance]) -> Result<&'a Instance, Error> {
    let newest = instances.iter().max_by_key(|instance| instance.from.unwrap_or(Lsn([u8::MAX; 10])));
    newest.ok_or_else(|| Error::TableNotSupported { message: format!("table {name} is not captured"), remedy: enable(name, instances) })
}

/// The statement that makes a capture instance of all columns.
fn enable(name: &TableName, instances: &[Instance]) -> String {
    let free = (1..).map(|number| format!("{}_{}_{number}", name.schema_name, name.table_name));
    let free = free.take(3).find(|free| !instances.iter().any(|instance| instance.name == *free)).unwrap_or_default();
    let too_many = if instances.len() > 1 { "EXEC sys.sp_cdc_disable_table of the older instance, then " } else { "" };
    format!(
        "{too_many}EXEC sys.sp_cdc_enable_table @source_schema = {}, @source_name = {}, @capture_instance = {}, @role_name = NULL",
        quote::literal(&name.schema_name),
        quote::literal(&name.table_name),
        quote::literal(&free)
    )
}

/// Whether two values of the type are the same key only if they are the same value.
fn is_key(kind: &CatalogType) -> bool {
    !kind.is_clr
        && !matches!(kind.travel(), Travel::Float32 | Travel::Float64 | Travel::Text)
        && !matches!(kind.name.as_str(), "timestamp" | "rowversion")
}

fn column(facet: Facet) -> Column {
    let null = if facet.nullable { "NULL" } else { "NOT NULL" };
    let computed = facet.computed.map(|definition| format!(" AS {definition}")).unwrap_or_default();
    let kind = facet.kind.spelled();
    let collation = facet.collation.as_ref().map(|collation| format!(" COLLATE {collation}")).unwrap_or_default();
    Column {
        number: facet.number,
        name: facet.name,
        travel: facet.kind.travel(),
        revision: format!("{kind}{collation} {null}{computed}"),
        source_type: kind,
        nullable: facet.nullable,
        initial: None,
        collation: facet.collation.filter(|collation| !collation.contains("_BIN2")),
        labels: Vec::new(),
        dropped: false,
    }
}

/// Those of the tables whose changes are not kept.
pub async fn silent(session: &mut Session, mode: CaptureMode, tables: &[TableSchema]) -> Result<Vec<TableName>, Error> {
    let kept: Vec<u32> = match mode {
        CaptureMode::ChangeTracking => {
            let rows = session.query("SELECT object_id FROM sys.change_tracking_tables").await?;
            rows.iter().map(|row| number(row, 0)).collect()
        }
        CaptureMode::ChangeDataCapture => instances(session, None).await?.iter().map(|instance| instance.object_id).collect(),
    };
    Ok(tables.iter().filter(|table| !kept.contains(&table.object_id)).map(|table| table.name.clone()).collect())
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::api::fault::Explain as _;

    pub fn facets() -> Vec<Facet> {
        let kind = |name: &str, max_length| CatalogType { name: name.into(), max_length, ..CatalogType::default() };
        vec![
            Facet { number: 1, name: "id".into(), kind: kind("int", 4), ..Facet::default() },
            Facet {
                number: 2,
                name: "note".into(),
                kind: kind("varchar", 20),
                nullable: true,
                collation: Some("Latin1_General_BIN2".into()),
                ..Facet::default()
            },
        ]
    }

    fn open() -> Facts {
        Facts { may_select: true, may_view_tracking: true, tracked_since: Some(7), ..Facts::default() }
    }

    pub fn build_tracked(about: &Facts, facets: Vec<Facet>, indexes: &[(bool, Vec<i32>)]) -> Result<Table, Error> {
        build(CaptureMode::ChangeTracking, &TableName::new("dbo", "t"), 9, about, facets, indexes, &[])
    }

    fn refusal(about: &Facts, change: impl Fn(&mut Facet)) -> (&'static str, String) {
        let mut facets = facets();
        change(&mut facets[1]);
        let error = build_tracked(about, facets, &[(true, vec![1])]).unwrap_err();
        ((&error).into(), error.remedy())
    }

    #[test]
    fn a_tracked_table_is_described() {
        let table = build_tracked(&open(), facets(), &[(true, vec![2, 1])]).unwrap();
        assert_eq!(table.schema.key, [1, 0]);
        assert_eq!(table.keys[0].collation.as_deref(), Some("Latin1_General_BIN2"));
        assert_eq!(table.schema.columns[1].collation, None, "compared byte by byte");
        assert_eq!(table.schema.columns[1].revision, "varchar(20) COLLATE Latin1_General_BIN2 NULL");
        assert_eq!((table.part().attached.as_str(), table.changes_from.0.as_str()), ("7", "00000000000000000007"));
    }

    #[test]
    fn what_cannot_be_linked_says_why_and_what_to_do() {
        for (about, reason, remedy) in [
            (Facts { may_select: false, ..open() }, "SourcePermissionDenied", "GRANT SELECT ON [dbo].[t]"),
            (Facts { may_view_tracking: false, ..open() }, "SourcePermissionDenied", "GRANT VIEW CHANGE TRACKING ON [dbo].[t]"),
            (Facts { tracked_since: None, ..open() }, "TableNotSupported", "ALTER TABLE [dbo].[t] ENABLE CHANGE_TRACKING"),
            (Facts { memory_optimized: true, ..open() }, "TableNotSupported", "ordinary table"),
            (Facts { history: true, ..open() }, "TableNotSupported", "ordinary table"),
            (Facts { graph: true, ..open() }, "TableNotSupported", "ordinary table"),
            (Facts { external: true, ..open() }, "TableNotSupported", "ordinary table"),
        ] {
            let found = refusal(&about, |_| {});
            assert!(found.0 == reason && found.1.contains(remedy), "{found:?}");
        }
        assert_eq!(refusal(&open(), |facet| facet.encrypted = true).0, "TableNotSupported");
        assert!(refusal(&open(), |facet| facet.masked = true).1.contains("GRANT UNMASK"));
        assert_eq!(refusal(&open(), |facet| facet.computed = Some("getdate()".into())).0, "TableNotSupported");
        assert!(matches!(build_tracked(&open(), facets(), &[(false, vec![1])]), Err(Error::NoPrimaryKey(_))));
        for kind in ["float", "real", "sql_variant", "hierarchyid", "timestamp"] {
            let mut facets = facets();
            facets[0].kind.name = kind.into();
            assert!(matches!(build_tracked(&open(), facets, &[(true, vec![1])]), Err(Error::TableNotSupported { .. })), "{kind}");
        }
    }

    #[test]
    fn a_captured_table_needs_an_instance_of_all_columns_and_may_have_another_key() {
        let about = Facts { may_select: true, ..Facts::default() };
        let instance = |columns: &[&str]| Instance {
            object_id: 9,
            name: "dbo_t_1".into(),
            from: Some(Lsn([1; 10])),
            has_command_id: true,
            columns: columns.iter().map(|column| (*column).to_owned()).collect(),
        };
        let build = |facets, indexes: &[(bool, Vec<i32>)], instances: &[Instance]| {
            build(CaptureMode::ChangeDataCapture, &TableName::new("dbo", "t"), 9, &about, facets, indexes, instances)
        };
        let all = [instance(&["id", "note"])];
        assert_eq!(build(facets(), &[(false, vec![1, 2]), (false, vec![1])], &all).unwrap().schema.key, [0]);
        let nullable = build(facets(), &[(false, vec![2])], &all);
        assert!(matches!(nullable, Err(Error::NoPrimaryKey(_))));
        let partly = build(facets(), &[(true, vec![1])], &[instance(&["id"])]).unwrap_err();
        assert!(partly.to_string().contains("note") && partly.remedy().contains("@capture_instance = N'dbo_t_2'"), "{partly}");
        assert!(build(facets(), &[(true, vec![1])], &[]).unwrap_err().remedy().contains("sp_cdc_enable_table"));
        let mut computed = facets();
        computed[1].computed = Some("(1)".into());
        computed[1].deterministic = true;
        assert!(build(computed, &[(true, vec![1])], &all).unwrap_err().remedy().contains("ChangeTracking"));
    }
}
