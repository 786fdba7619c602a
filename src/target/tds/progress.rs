//! The link's own tables in a target that speaks T-SQL: who owns a target table, how far it is, which chunks it holds. What is
//! said of them alike, whichever server it is; how they are made, and what locks them, is each target's own.
//!
//! Progress moves by compare-and-set as the first statement of the transaction that moves the rows (DESIGN 5.4): whoever is
//! late finds no row, and nothing of his transaction happens.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;

use crate::{
    api::{database::OnExistingTable, link_table::TableOptions},
    data::TableName,
    failpoint::{self, Moment, Point},
    protection::Protection,
    sqlserver::{
        Row, Session,
        quote::{self, literal},
    },
    target::{Advance, Claim, Error, Incarnation, Progress, TargetTable, aside},
};

/// Columns that a [`Progress`] is read from.
const PROGRESS: &str = "[run], [incarnation], [record], [exact], [rows], [group_revision]";

/// A table as the catalog has it.
pub(in crate::target) struct Existing {
    pub(in crate::target) object_id: i64,
    /// An ordinary table, which a link may replace; not a view, an external or a temporal table.
    pub(in crate::target) replaceable: bool,
    pub(in crate::target) mark: Option<String>,
}

impl Existing {
    /// Whether the link made it: by its object id, or by its mark where progress was forgotten or the database restored.
    pub(in crate::target) fn made_by(&self, table: &TargetTable, placed: Option<i64>) -> bool {
        placed == Some(self.object_id) || self.mark.as_ref() == Some(&aside::mark(table))
    }
}

/// The condition that finds the table's rows in our tables.
pub(in crate::target) fn its(table: &TargetTable) -> String {
    its_source(&table.link_id, &table.source)
}

pub(in crate::target) fn its_source(link_id: &str, source: &TableName) -> String {
    format!(
        "[link_id] = {} AND [source_schema] = {} AND [source_table] = {}",
        literal(link_id),
        literal(&source.schema_name),
        literal(&source.table_name)
    )
}

/// The condition that a row is of the incarnation.
pub(in crate::target) fn of(incarnation: Incarnation) -> String {
    format!("[run] = {} AND [incarnation] = {}", incarnation.run, incarnation.record)
}

/// A time, cut to microseconds; NULL if there is none.
pub(in crate::target) fn time(time: Option<Timestamp>) -> String {
    time.map_or_else(
        || "NULL".to_owned(),
        |time| format!("CONVERT(datetimeoffset(6), {})", literal(&time.strftime("%Y-%m-%d %H:%M:%S.%6f +00:00").to_string())),
    )
}

/// The question, which has no answer where our tables are not there.
fn if_there(sql: &str) -> String {
    format!("IF OBJECT_ID(N'[link_operator].[link_progress]') IS NOT NULL {sql}")
}

pub(in crate::target) fn owner(name: &TableName) -> String {
    format!(
        "SELECT [link_id], [source_schema], [source_table], [placed] FROM [link_operator].[link_progress] \
         WHERE [target_schema] = {} AND [target_table] = {}",
        literal(&name.schema_name),
        literal(&name.table_name)
    )
}

pub(in crate::target) fn claimed_name(table: &TargetTable) -> String {
    format!("SELECT [target_schema], [target_table] FROM [link_operator].[link_progress] WHERE {}", its(table))
}

/// The name as it is spelled now: the database may compare names without case.
pub(in crate::target) fn respell(table: &TargetTable) -> String {
    let TableName { schema_name, table_name } = &table.name;
    format!(
        "UPDATE [link_operator].[link_progress] SET [target_schema] = {}, [target_table] = {} WHERE {}",
        literal(schema_name),
        literal(table_name),
        its(table)
    )
}

pub(in crate::target) fn name_of(row: &Row, at: usize) -> TableName {
    TableName::new(row.text(at).unwrap_or_default(), row.text(at + 1).unwrap_or_default())
}

pub(in crate::target) fn own_claim(table: &TargetTable) -> String {
    let TargetTable { link_id, source, name, .. } = table;
    format!(
        "INSERT INTO [link_operator].[link_progress] ([link_id], [source_schema], [source_table], [target_schema], [target_table]) \
         SELECT {link}, {source_schema}, {source_table}, {schema}, {table} \
         WHERE NOT EXISTS (SELECT 1 FROM [link_operator].[link_progress] WHERE {its}) \
         AND NOT EXISTS (SELECT 1 FROM [link_operator].[link_progress] WHERE [target_schema] = {schema} AND [target_table] = {table})",
        link = literal(link_id),
        source_schema = literal(&source.schema_name),
        source_table = literal(&source.table_name),
        schema = literal(&name.schema_name),
        table = literal(&name.table_name),
        its = its(table),
    )
}

/// What a LinkTable that was made again for another target table had claimed before, which is no longer asked for; a name that is
/// only spelled anew is taken over.
pub(in crate::target) async fn renamed(session: &mut Session, table: &TargetTable) -> Result<Option<TargetTable>, Error> {
    let before = session.query(&claimed_name(table)).await?.first().map(|row| name_of(row, 0));
    let Some(before) = before.filter(|before| *before != table.name) else { return Ok(None) };
    if owner_of(session, &table.name).await?.is_some_and(|owner| owner.is(table)) {
        session.run(&respell(table)).await?;
        return Ok(None);
    }
    Ok(Some(TargetTable { name: before, ..table.clone() }))
}

/// Who has claimed a table of the target.
struct Owner {
    link_id: String,
    source: TableName,
    placed: Option<i64>,
}

impl Owner {
    fn is(&self, table: &TargetTable) -> bool {
        self.link_id == table.link_id && self.source == table.source
    }
}

async fn owner_of(session: &mut Session, name: &TableName) -> Result<Option<Owner>, Error> {
    let rows = session.query(&owner(name)).await?;
    let of = |row: &Row| Owner { link_id: row.text(0).unwrap_or_default(), source: name_of(row, 1), placed: row.number(3) };
    Ok(rows.first().map(of))
}

/// Claims a name for its link, if nobody has: one claimant after the other. Returns what the link put in place under it.
pub(in crate::target) async fn take(session: &mut Session, table: &TargetTable) -> Result<Option<i64>, Error> {
    let TargetTable { link_id, source, name, .. } = table;
    session.run(&own_claim(table)).await?;
    match owner_of(session, name).await? {
        Some(owner) if owner.is(table) => Ok(owner.placed),
        Some(Owner { link_id, source, .. }) => {
            Err(Error::TargetTableOwned { table: name.clone(), owner: format!("{link_id} (its table {source})") })
        }
        None => Err(Error::TargetError(format!(
            "{name} cannot be claimed: another table of link {link_id} has a name that the target cannot tell from {source}"
        ))),
    }
}

/// Whether the link may put its own table in place of one that is there, and whether that one is its own.
pub(in crate::target) fn check_replaceable(
    table: &TargetTable,
    existing: &Existing,
    placed: Option<i64>,
    on_existing: OnExistingTable,
) -> Result<Claim, Error> {
    if existing.made_by(table, placed) {
        return Ok(Claim::Load);
    }
    if existing.replaceable && on_existing == OnExistingTable::Recreate {
        return Ok(Claim::Replace);
    }
    Err(Error::TargetTableExists(table.name.clone()))
}

/// A claim, and how far its table is.
pub(in crate::target) struct Claimed {
    pub(in crate::target) name: TableName,
    pub(in crate::target) placed: Option<i64>,
    pub(in crate::target) progress: Option<Progress>,
}

/// Held by an update that changes nothing.
pub(in crate::target) fn hold(table: &TargetTable) -> String {
    format!("UPDATE [link_operator].[link_progress] SET [updated_at] = [updated_at] WHERE {}", its(table))
}

pub(in crate::target) fn read_claim(table: &TargetTable) -> String {
    format!("SELECT [target_schema], [target_table], [placed], {PROGRESS} FROM [link_operator].[link_progress] WHERE {}", its(table))
}

pub(in crate::target) fn read_progress(table: &TargetTable) -> String {
    if_there(&format!("SELECT {PROGRESS} FROM [link_operator].[link_progress] WHERE {}", its(table)))
}

/// How far the table is.
pub(in crate::target) async fn read(session: &mut Session, table: &TargetTable) -> Result<Option<Progress>, Error> {
    Ok(session.query(&read_progress(table)).await?.first().and_then(|row| progress_of(row, 0)))
}

pub(in crate::target) fn read_link(link_id: &str) -> String {
    let sql = format!(
        "SELECT [source_schema], [source_table], {PROGRESS} FROM [link_operator].[link_progress] WHERE [link_id] = {}",
        literal(link_id)
    );
    if_there(&sql)
}

/// How far each table of a link is, by its name in the source.
pub(in crate::target) async fn of_link(session: &mut Session, link_id: &str) -> Result<HashMap<TableName, Progress>, Error> {
    let rows = session.query(&read_link(link_id)).await?;
    Ok(rows.iter().filter_map(|row| Some((name_of(row, 0), progress_of(row, 2)?))).collect())
}

/// From the columns of [`PROGRESS`].
pub(in crate::target) fn progress_of(row: &Row, at: usize) -> Option<Progress> {
    let incarnation = Incarnation { run: row.number(at)? as u32, record: row.number(at + 1)? as u64 };
    Some(Progress {
        incarnation,
        record: row.number(at + 2)? as u64,
        exact: row.flag(at + 3),
        rows: row.number(at + 4)? as u64,
        grouped: row.number(at + 5).is_some(),
    })
}

pub(in crate::target) fn begin_incarnation(table: &TargetTable, incarnation: Incarnation) -> String {
    format!(
        "DELETE FROM [link_operator].[link_chunks] WHERE {its}; \
         UPDATE [link_operator].[link_progress] SET [run] = {run}, [incarnation] = {record}, [record] = {record}, [exact] = 0, \
         [group_revision] = NULL, [as_of] = NULL, [rows] = 0, [last_verified] = NULL, [updated_at] = SYSDATETIMEOFFSET() WHERE {its}",
        its = its(table),
        run = incarnation.run,
        record = incarnation.record
    )
}

pub(in crate::target) fn read_chunks(table: &TargetTable, incarnation: Incarnation) -> String {
    format!("SELECT [chunk] FROM [link_operator].[link_chunks] WHERE {} AND {}", its(table), of(incarnation))
}

/// The chunks that the incarnation holds.
pub(in crate::target) async fn chunks(
    session: &mut Session,
    table: &TargetTable,
    incarnation: Incarnation,
) -> Result<BTreeSet<u32>, Error> {
    let rows = session.query(&read_chunks(table, incarnation)).await?;
    Ok(rows.iter().filter_map(|row| Some(row.number(0)? as u32)).collect())
}

pub(in crate::target) fn is_loading(table: &TargetTable, incarnation: Incarnation) -> String {
    format!("SELECT 1 FROM [link_operator].[link_progress] WHERE {} AND {} AND [exact] = 0", its(table), of(incarnation))
}

pub(in crate::target) fn insert_chunk(table: &TargetTable, incarnation: Incarnation, chunk: u32) -> String {
    let TargetTable { link_id, source, .. } = table;
    format!(
        "INSERT INTO [link_operator].[link_chunks] ([link_id], [source_schema], [source_table], [run], [incarnation], [chunk]) \
         VALUES ({}, {}, {}, {}, {}, {chunk})",
        literal(link_id),
        literal(&source.schema_name),
        literal(&source.table_name),
        incarnation.run,
        incarnation.record
    )
}

/// Notes how many rows a chunk had, in the transaction that loads it.
pub(in crate::target) fn count_chunk(table: &TargetTable, incarnation: Incarnation, chunk: u32, rows: u64) -> String {
    format!("UPDATE [link_operator].[link_chunks] SET [rows] = {rows} WHERE {} AND {} AND [chunk] = {chunk}", its(table), of(incarnation))
}

/// Adds to the rows written, in the transaction that writes them.
pub(in crate::target) fn count(table: &TargetTable, rows: u64) -> String {
    format!("UPDATE [link_operator].[link_progress] SET [rows] = [rows] + {rows} WHERE {}", its(table))
}

/// Adds the rows of all chunks to the rows written.
pub(in crate::target) fn count_chunks(table: &TargetTable, incarnation: Incarnation) -> String {
    let chunks = format!("SELECT COALESCE(SUM([rows]), 0) FROM [link_operator].[link_chunks] WHERE {} AND {}", its(table), of(incarnation));
    format!("UPDATE [link_operator].[link_progress] SET [rows] = [rows] + ({chunks}) WHERE {}", its(table))
}

pub(in crate::target) fn compare_and_set(table: &TargetTable, advance: &Advance, exact: bool, finish: bool) -> String {
    format!(
        "UPDATE [link_operator].[link_progress] SET [record] = {to}, [as_of] = COALESCE({as_of}, [as_of]), {finish}[group_revision] = NULL, \
         [updated_at] = SYSDATETIMEOFFSET() WHERE {its} AND {of} AND [record] = {from} AND [exact] = {exact} \
         AND ([group_revision] IS NULL OR [group_revision] <= {revision})",
        to = advance.to,
        as_of = time(advance.as_of),
        finish = if finish { "[exact] = 1, " } else { "" },
        its = its(table),
        of = of(advance.incarnation),
        from = advance.from,
        exact = u8::from(exact),
        revision = advance.plan_revision,
    )
}

/// Moves progress by compare-and-set. `exact`: what the table must be; a table that is not becomes exact if `finish`.
pub(in crate::target) async fn advance(
    session: &mut Session,
    table: &TargetTable,
    advance: &Advance,
    exact: bool,
    finish: bool,
) -> Result<(), Error> {
    failpoint::at(Point::ProgressUpdate, Moment::Before).await;
    let rows = session.run(&compare_and_set(table, advance, exact, finish)).await?;
    failpoint::at(Point::ProgressUpdate, Moment::After).await;
    if rows == 1 || !Protection::CompareAndSet.holds() {
        return Ok(());
    }
    Err(moved(table, &format!("it is not at record {} of incarnation {:?}", advance.from, advance.incarnation)))
}

/// Notes when the table was found equal to its source.
pub(in crate::target) fn set_verified(table: &TargetTable, incarnation: Incarnation, at: Timestamp) -> String {
    format!("UPDATE [link_operator].[link_progress] SET [last_verified] = {} WHERE {} AND {}", time(Some(at)), its(table), of(incarnation))
}

/// The table that is now under the target's name.
pub(in crate::target) fn set_placed(table: &TargetTable, object_id: i64) -> String {
    format!("UPDATE [link_operator].[link_progress] SET [placed] = {object_id} WHERE {}", its(table))
}

pub(in crate::target) fn forget_rows(table: &TargetTable) -> String {
    let its = its(table);
    format!("DELETE FROM [link_operator].[link_chunks] WHERE {its}; DELETE FROM [link_operator].[link_progress] WHERE {its}")
}

pub(in crate::target) fn find_aside(table: &TargetTable) -> String {
    // An underscore is any character to LIKE.
    let pattern = format!("{}_%", aside::build_prefix(table)).replace('_', "[_]");
    format!(
        "SELECT s.[name], t.[name] FROM sys.tables t JOIN sys.schemas s ON s.[schema_id] = t.[schema_id] WHERE t.[name] LIKE {}",
        literal(&pattern)
    )
}

pub(in crate::target) fn drop(name: &TableName) -> String {
    format!("DROP TABLE {}", quote::table(name))
}

pub(in crate::target) fn read_tables(link_id: &str) -> String {
    let columns = "[source_schema], [source_table], [target_schema], [target_table]";
    if_there(&format!("SELECT {columns} FROM [link_operator].[link_progress] WHERE [link_id] = {}", literal(link_id)))
}

/// All tables that a link claims.
pub(in crate::target) async fn tables_of(session: &mut Session, link_id: &str) -> Result<Vec<TargetTable>, Error> {
    let rows = session.query(&read_tables(link_id)).await?;
    Ok(rows
        .iter()
        .map(|row| TargetTable {
            link_id: link_id.to_owned(),
            source: name_of(row, 0),
            name: name_of(row, 2),
            options: TableOptions::default(),
        })
        .collect())
}

/// The error of whoever is late.
pub(in crate::target) fn moved(table: &TargetTable, what: &str) -> Error {
    Error::ProgressMoved(format!("progress of {} is another's: {what}", table.name))
}
