//! The link's own tables in the target database: who owns a target table, how far it is, which chunks it holds.
//!
//! Progress moves by compare-and-set as the first statement of the transaction that moves the rows (DESIGN 5.4): whoever is
//! late finds no row, and nothing of his transaction happens.

use std::{
    collections::{BTreeSet, HashMap},
    time::SystemTime,
};

use jiff::Timestamp;
use tokio_postgres::{Row, Transaction, types::ToSql};

use super::{adopt, ddl};
use crate::{
    api::{database::OnExistingTable, link_table::TableOptions},
    data::{TableName, TableSchema},
    failpoint::{self, Moment, Point},
    postgresql::quote,
    protection::Protection,
    target::{Advance, Claim, Error, Incarnation, Progress, TargetTable, aside},
};

/// Schema of our own tables.
pub(super) const OWN_SCHEMA: &str = "link_operator";

/// Number of the advisory lock under which our tables are made: "link-op" as ASCII.
const CREATION_LOCK: i64 = 0x6c_69_6e_6b_2d_6f_70;

/// Looked for before they are made: CREATE … IF NOT EXISTS wants the right to create even if there is nothing to do.
/// Every second each table's progress is updated: room in the page keeps that out of the indexes.
const CREATE_TABLES: &str = "
    CREATE TABLE link_operator.link_progress (
        link_id text NOT NULL, source_schema text NOT NULL, source_table text NOT NULL,
        target_schema text NOT NULL, target_table text NOT NULL,
        run bigint, incarnation bigint, record bigint,
        exact boolean NOT NULL DEFAULT false, group_revision bigint,
        as_of timestamp with time zone, rows bigint NOT NULL DEFAULT 0, placed oid,
        updated_at timestamp with time zone NOT NULL DEFAULT now(), last_verified timestamp with time zone,
        PRIMARY KEY (link_id, source_schema, source_table), UNIQUE (target_schema, target_table)
    ) WITH (fillfactor = 50);
    CREATE TABLE link_operator.link_chunks (
        link_id text NOT NULL, source_schema text NOT NULL, source_table text NOT NULL,
        run bigint NOT NULL, incarnation bigint NOT NULL, chunk bigint NOT NULL, rows bigint NOT NULL DEFAULT 0,
        PRIMARY KEY (link_id, source_schema, source_table, run, incarnation, chunk)
    );
    COMMENT ON TABLE link_operator.link_progress IS
        'How far each linked table is: it holds everything that the source committed before as_of.';
    COMMENT ON TABLE link_operator.link_chunks IS 'Which chunks of a snapshot are loaded.'";

/// For readers; nothing of ours needs it.
const CREATE_VIEW: &str = "
    CREATE OR REPLACE VIEW link_operator.link_status AS
        SELECT link_id, source_schema, source_table, target_schema, target_table, exact,
            CASE WHEN exact THEN as_of END AS consistent_as_of, group_revision IS NOT NULL AS grouped, last_verified
        FROM link_operator.link_progress;
    COMMENT ON VIEW link_operator.link_status IS
        'Whether each linked table is exact, and as of when: it holds everything that the source committed before consistent_as_of. At last_verified it was compared with the source and found equal.'";

/// What tables of former versions lack. Transactions that load chunks hold the table for long: nobody may wait for them with
/// everybody else behind him, it is tried again with the next call. New columns of the view come last: so it can be replaced.
const UPGRADE: &str = "
    SET LOCAL lock_timeout = '2s';
    ALTER TABLE link_operator.link_progress ADD COLUMN IF NOT EXISTS group_revision bigint,
        ADD COLUMN IF NOT EXISTS last_verified timestamp with time zone;
    SET LOCAL lock_timeout = 0";

/// A table as the catalog has it.
pub(super) struct Existing {
    pub(super) oid: u32,
    /// An ordinary table, which a link may replace; not a view, a partitioned or a foreign table.
    pub(super) replaceable: bool,
    comment: Option<String>,
}

impl Existing {
    /// Whether the link made it: by its object id, or by its comment where progress was forgotten or the database restored.
    pub(super) fn made_by(&self, table: &TargetTable, placed: Option<u32>) -> bool {
        placed == Some(self.oid) || self.comment.as_ref() == Some(&aside::mark(table))
    }
}

/// Makes our schema and tables unless they are there.
pub(super) async fn ensure(transaction: &Transaction<'_>) -> Result<(), Error> {
    if exist(transaction).await? {
        return Ok(());
    }
    // Several workers start at once; the lock goes with the transaction.
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&CREATION_LOCK]).await?;
    if !exist(transaction).await? {
        create(transaction).await?;
    }
    Ok(())
}

async fn create(transaction: &Transaction<'_>) -> Result<(), Error> {
    let schema: bool = transaction.query_one("SELECT to_regnamespace($1) IS NOT NULL", &[&OWN_SCHEMA]).await?.get(0);
    if !schema {
        transaction.batch_execute(&format!("CREATE SCHEMA {OWN_SCHEMA}")).await?;
    }
    transaction.batch_execute(CREATE_TABLES).await?;
    transaction.batch_execute(CREATE_VIEW).await?;
    Ok(())
}

/// Whether our tables are there. Those of a former version get what they lack.
pub(super) async fn exist(transaction: &Transaction<'_>) -> Result<bool, Error> {
    let (tables, columns) = parts(transaction).await?;
    if tables < 2 {
        return Ok(false);
    }
    if columns < 3 {
        transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&CREATION_LOCK]).await?;
        if parts(transaction).await?.1 < 3 {
            for statements in [UPGRADE, CREATE_VIEW] {
                transaction.batch_execute(statements).await.map_err(|error| not_upgraded(&error))?;
            }
        }
    }
    Ok(true)
}

/// How many of our tables there are, and of the columns that former versions did not have.
async fn parts(transaction: &Transaction<'_>) -> Result<(i64, i64), Error> {
    // By the catalog: to_regclass wants the right to use the schema.
    let sql = "SELECT (SELECT count(*) FROM pg_class c WHERE c.relnamespace = n.oid AND c.relname IN ('link_progress', 'link_chunks')),
                      (SELECT count(*) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE c.relnamespace = n.oid
                       AND (c.relname, a.attname) IN (('link_progress', 'group_revision'), ('link_progress', 'last_verified'), ('link_status', 'last_verified')))
               FROM pg_namespace n WHERE n.nspname = $1";
    Ok(transaction.query_opt(sql, &[&OWN_SCHEMA]).await?.map_or((0, 0), |row| (row.get(0), row.get(1))))
}

fn not_upgraded(error: &tokio_postgres::Error) -> Error {
    match Error::from(error) {
        Error::TargetPermissionDenied { message, .. } => Error::TargetPermissionDenied {
            message: format!("the tables of schema {OWN_SCHEMA} are of a former version: {message}"),
            remedy: "upgrade the link whose user owns them first; or make the user of spec.target a member of the owner for a moment"
                .to_owned(),
        },
        other => other,
    }
}

/// Claims the table, see [`crate::target::Target::claim`].
pub(super) async fn claim(
    transaction: &Transaction<'_>,
    table: &TargetTable,
    schema: &TableSchema,
    on_existing: OnExistingTable,
) -> Result<Claim, Error> {
    let TargetTable { link_id, source, name, .. } = table;
    // A LinkTable that was made again for another target table: what it claimed before is no longer asked for. Looked up
    // without the lock, which loads of an older incarnation may hold for long.
    let other = "SELECT FROM link_operator.link_progress WHERE link_id = $1 AND source_schema = $2 AND source_table = $3
                 AND (target_schema, target_table) <> ($4, $5)";
    let values: [&(dyn ToSql + Sync); 5] = [link_id, &source.schema_name, &source.table_name, &name.schema_name, &name.table_name];
    if transaction.query_opt(other, &values).await?.is_some() {
        forget(transaction, table, false).await?;
    }
    transaction
        .execute(
            "INSERT INTO link_operator.link_progress (link_id, source_schema, source_table, target_schema, target_table)
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
            &values,
        )
        .await?;
    // Another claimant's row is visible now: the insert waited for it.
    let owner = transaction
        .query_one(
            "SELECT link_id, source_schema, source_table, placed, incarnation IS NOT NULL FROM link_operator.link_progress
             WHERE target_schema = $1 AND target_table = $2",
            &[&name.schema_name, &name.table_name],
        )
        .await?;
    let (owner_link, owner_source): (String, _) = (owner.get(0), TableName::new(owner.get::<_, String>(1), owner.get::<_, String>(2)));
    if owner_link != *link_id || owner_source != *source {
        return Err(Error::TargetTableOwned { table: name.clone(), owner: format!("{owner_link} (its table {owner_source})") });
    }
    let Some(existing) = existing(transaction, name).await? else { return Ok(Claim::Load) };
    let (placed, begun): (Option<u32>, bool) = (owner.get(3), owner.get(4));
    // Its own table a link loads anew, unless it forgot how far that is.
    if on_existing == OnExistingTable::Adopt && !(begun && existing.made_by(table, placed)) {
        adopt::check(transaction, table, schema, &existing).await?;
        return Ok(Claim::Adopt);
    }
    check_replaceable(table, &existing, placed, on_existing)
}

/// Whether the link may put its own table in place of one that is there, and whether that one is its own.
pub(super) fn check_replaceable(
    table: &TargetTable,
    existing: &Existing,
    placed: Option<u32>,
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

/// Looks a relation up by its name.
pub(super) async fn existing(transaction: &Transaction<'_>, name: &TableName) -> Result<Option<Existing>, Error> {
    let sql = "SELECT c.oid, c.relkind = 'r', obj_description(c.oid, 'pg_class')
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2";
    let row = transaction.query_opt(sql, &[&name.schema_name, &name.table_name]).await?;
    Ok(row.map(|row| Existing { oid: row.get(0), replaceable: row.get(1), comment: row.get(2) }))
}

/// A claim, and how far its table is.
pub(super) struct Claimed {
    pub(super) name: TableName,
    pub(super) placed: Option<u32>,
    pub(super) progress: Option<Progress>,
}

/// Reads a claim and holds its row until the transaction ends, so that nobody loads or moves the table meanwhile.
pub(super) async fn claimed(transaction: &Transaction<'_>, table: &TargetTable) -> Result<Option<Claimed>, Error> {
    let sql =
        "SELECT target_schema, target_table, placed, run, incarnation, record, exact, rows, group_revision FROM link_operator.link_progress
               WHERE link_id = $1 AND source_schema = $2 AND source_table = $3 FOR UPDATE";
    let row = transaction.query_opt(sql, &[&table.link_id, &table.source.schema_name, &table.source.table_name]).await?;
    Ok(row.map(|row| Claimed {
        name: TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)),
        placed: row.get(2),
        progress: progress_of(&row, 3),
    }))
}

/// How far the table is.
pub(super) async fn read(transaction: &Transaction<'_>, table: &TargetTable) -> Result<Option<Progress>, Error> {
    let sql = "SELECT run, incarnation, record, exact, rows, group_revision FROM link_operator.link_progress
               WHERE link_id = $1 AND source_schema = $2 AND source_table = $3";
    let row = transaction.query_opt(sql, &[&table.link_id, &table.source.schema_name, &table.source.table_name]).await?;
    Ok(row.and_then(|row| progress_of(&row, 0)))
}

/// How far each table of a link is, by its name in the source.
pub(super) async fn of_link(transaction: &Transaction<'_>, link_id: &str) -> Result<HashMap<TableName, Progress>, Error> {
    let sql = "SELECT source_schema, source_table, run, incarnation, record, exact, rows, group_revision FROM link_operator.link_progress WHERE link_id = $1";
    let rows = transaction.query(sql, &[&link_id]).await?;
    let entry = |row: &Row| Some((TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)), progress_of(row, 2)?));
    Ok(rows.iter().filter_map(entry).collect())
}

/// From six columns: run, incarnation, record, exact, rows, group_revision.
fn progress_of(row: &Row, at: usize) -> Option<Progress> {
    let (run, incarnation, record) =
        (row.get::<_, Option<i64>>(at)?, row.get::<_, Option<i64>>(at + 1)?, row.get::<_, Option<i64>>(at + 2)?);
    let incarnation = Incarnation { run: run as u32, record: incarnation as u64 };
    let (exact, rows, grouped) = (row.get(at + 3), row.get::<_, i64>(at + 4) as u64, row.get::<_, Option<i64>>(at + 5).is_some());
    Some(Progress { incarnation, record: record as u64, exact, rows, grouped })
}

/// Begins an incarnation: no chunk, nothing caught up. The table before stays in its place.
pub(super) async fn begin(transaction: &Transaction<'_>, table: &TargetTable, incarnation: Incarnation) -> Result<(), Error> {
    let TargetTable { link_id, source, .. } = table;
    transaction
        .execute(
            "DELETE FROM link_operator.link_chunks WHERE link_id = $1 AND source_schema = $2 AND source_table = $3",
            &[link_id, &source.schema_name, &source.table_name],
        )
        .await?;
    transaction
        .execute(
            "UPDATE link_operator.link_progress
             SET run = $4, incarnation = $5, record = $5, exact = false, group_revision = NULL, as_of = NULL, rows = 0, last_verified = NULL,
                 updated_at = now()
             WHERE link_id = $1 AND source_schema = $2 AND source_table = $3",
            &[link_id, &source.schema_name, &source.table_name, &i64::from(incarnation.run), &(incarnation.record as i64)],
        )
        .await?;
    Ok(())
}

/// The chunks that the incarnation holds.
pub(super) async fn chunks(transaction: &Transaction<'_>, table: &TargetTable, incarnation: Incarnation) -> Result<BTreeSet<u32>, Error> {
    let sql = "SELECT chunk FROM link_operator.link_chunks
               WHERE link_id = $1 AND source_schema = $2 AND source_table = $3 AND run = $4 AND incarnation = $5";
    let TargetTable { link_id, source, .. } = table;
    let rows = transaction
        .query(sql, &[link_id, &source.schema_name, &source.table_name, &i64::from(incarnation.run), &(incarnation.record as i64)])
        .await?;
    Ok(rows.iter().map(|row| row.get::<_, i64>(0) as u32).collect())
}

/// Notes a chunk as loaded, in the transaction that loads it.
pub(super) async fn add_chunk(
    transaction: &Transaction<'_>,
    table: &TargetTable,
    incarnation: Incarnation,
    chunk: u32,
) -> Result<(), Error> {
    let TargetTable { link_id, source, .. } = table;
    // Shared: chunks load side by side, and a newer incarnation waits until they are through. FOR KEY SHARE would let its
    // UPDATE pass.
    let held = "SELECT FROM link_operator.link_progress
                WHERE link_id = $1 AND source_schema = $2 AND source_table = $3 AND run = $4 AND incarnation = $5 AND NOT exact FOR SHARE";
    let (run, record) = (i64::from(incarnation.run), incarnation.record as i64);
    if transaction.query_opt(held, &[link_id, &source.schema_name, &source.table_name, &run, &record]).await?.is_none() {
        return Err(moved(table, &format!("incarnation {record} of run {run} is not being loaded")));
    }
    let insert = "INSERT INTO link_operator.link_chunks (link_id, source_schema, source_table, run, incarnation, chunk)
                  VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";
    let values: [&(dyn ToSql + Sync); 6] = [link_id, &source.schema_name, &source.table_name, &run, &record, &i64::from(chunk)];
    if transaction.execute(insert, &values).await? == 0 && Protection::ChunkProgress.holds() {
        return Err(moved(table, &format!("chunk {chunk} is loaded already")));
    }
    Ok(())
}

/// Notes how many rows a chunk had, in the transaction that loads it.
pub(super) async fn count_chunk(
    transaction: &Transaction<'_>,
    table: &TargetTable,
    incarnation: Incarnation,
    chunk: u32,
    rows: u64,
) -> Result<(), Error> {
    let TargetTable { link_id, source, .. } = table;
    let sql = "UPDATE link_operator.link_chunks SET rows = $7 WHERE link_id = $1 AND source_schema = $2 AND source_table = $3
               AND run = $4 AND incarnation = $5 AND chunk = $6";
    let (run, record) = (i64::from(incarnation.run), incarnation.record as i64);
    let values: [&(dyn ToSql + Sync); 7] =
        [link_id, &source.schema_name, &source.table_name, &run, &record, &i64::from(chunk), &(rows as i64)];
    transaction.execute(sql, &values).await?;
    Ok(())
}

/// Adds to the rows written, in the transaction that writes them.
pub(super) async fn count(transaction: &Transaction<'_>, table: &TargetTable, rows: u64) -> Result<(), Error> {
    let TargetTable { link_id, source, .. } = table;
    let sql = "UPDATE link_operator.link_progress SET rows = rows + $4 WHERE link_id = $1 AND source_schema = $2 AND source_table = $3";
    transaction.execute(sql, &[link_id, &source.schema_name, &source.table_name, &(rows as i64)]).await?;
    Ok(())
}

/// Adds the rows of all chunks to the rows written.
pub(super) async fn count_chunks(transaction: &Transaction<'_>, table: &TargetTable) -> Result<(), Error> {
    let TargetTable { link_id, source, .. } = table;
    let sql = "UPDATE link_operator.link_progress p
               SET rows = p.rows + (SELECT coalesce(sum(c.rows), 0)::bigint FROM link_operator.link_chunks c
                                    WHERE c.link_id = p.link_id AND c.source_schema = p.source_schema AND c.source_table = p.source_table
                                      AND c.run = p.run AND c.incarnation = p.incarnation)
               WHERE link_id = $1 AND source_schema = $2 AND source_table = $3";
    transaction.execute(sql, &[link_id, &source.schema_name, &source.table_name]).await?;
    Ok(())
}

/// Moves progress by compare-and-set. `exact`: what the table must be; a table that is not becomes exact if `finish`.
pub(super) async fn advance(
    transaction: &Transaction<'_>,
    table: &TargetTable,
    advance: &Advance,
    exact: bool,
    finish: bool,
) -> Result<(), Error> {
    failpoint::at(Point::ProgressUpdate, Moment::Before).await;
    let TargetTable { link_id, source, .. } = table;
    let sql = "UPDATE link_operator.link_progress
               SET record = $7, as_of = coalesce($8, as_of), exact = exact OR $9, group_revision = NULL, updated_at = now()
               WHERE link_id = $1 AND source_schema = $2 AND source_table = $3
                 AND run = $4 AND incarnation = $5 AND record = $6 AND exact = $10
                 AND (group_revision IS NULL OR group_revision <= $11)";
    let moved_rows = transaction
        .execute(
            sql,
            &[
                link_id,
                &source.schema_name,
                &source.table_name,
                &i64::from(advance.incarnation.run),
                &(advance.incarnation.record as i64),
                &(advance.from as i64),
                &(advance.to as i64),
                &advance.as_of.map(SystemTime::from),
                &finish,
                &exact,
                &(advance.plan_revision as i64),
            ],
        )
        .await?;
    failpoint::at(Point::ProgressUpdate, Moment::After).await;
    if moved_rows == 1 || !Protection::CompareAndSet.holds() {
        return Ok(());
    }
    Err(moved(table, &format!("it is not at record {} of incarnation {:?}", advance.from, advance.incarnation)))
}

/// Notes when the table was found equal to its source.
pub(super) async fn verified(
    transaction: &Transaction<'_>,
    table: &TargetTable,
    incarnation: Incarnation,
    at: Timestamp,
) -> Result<(), Error> {
    let TargetTable { link_id, source, .. } = table;
    let sql = "UPDATE link_operator.link_progress SET last_verified = $6
               WHERE link_id = $1 AND source_schema = $2 AND source_table = $3 AND run = $4 AND incarnation = $5";
    let (run, record) = (i64::from(incarnation.run), incarnation.record as i64);
    let values: [&(dyn ToSql + Sync); 6] = [link_id, &source.schema_name, &source.table_name, &run, &record, &SystemTime::from(at)];
    transaction.execute(sql, &values).await?;
    Ok(())
}

/// The table that is now under the target's name.
pub(super) async fn set_placed(transaction: &Transaction<'_>, table: &TargetTable, oid: u32) -> Result<(), Error> {
    let TargetTable { link_id, source, .. } = table;
    let sql = "UPDATE link_operator.link_progress SET placed = $4 WHERE link_id = $1 AND source_schema = $2 AND source_table = $3";
    transaction.execute(sql, &[link_id, &source.schema_name, &source.table_name, &oid]).await?;
    Ok(())
}

/// Removes claim, progress and what stands aside, and the table too if `delete` and it is the link's.
pub(super) async fn forget(transaction: &Transaction<'_>, table: &TargetTable, delete: bool) -> Result<(), Error> {
    let Some(claimed) = claimed(transaction, table).await? else { return Ok(()) };
    drop_aside(transaction, table).await?;
    if delete
        && let Some(existing) = existing(transaction, &claimed.name).await?
        && existing.made_by(table, claimed.placed)
    {
        drop_table(transaction, &claimed.name).await?;
    }
    for own in ["link_chunks", "link_progress"] {
        let sql = format!("DELETE FROM {OWN_SCHEMA}.{own} WHERE link_id = $1 AND source_schema = $2 AND source_table = $3");
        transaction.execute(&sql, &[&table.link_id, &table.source.schema_name, &table.source.table_name]).await?;
    }
    Ok(())
}

/// Drops all tables that were built aside for the table.
pub(super) async fn drop_aside(transaction: &Transaction<'_>, table: &TargetTable) -> Result<(), Error> {
    let sql = "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE c.relkind = 'r' AND c.relname ~ $1";
    for row in transaction.query(sql, &[&ddl::build_pattern(table)]).await? {
        let name = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        transaction.batch_execute(&format!("DROP TABLE {}", quote::table(&name))).await?;
    }
    Ok(())
}

/// Drops a table that readers may use, without making them queue behind a long wait, and says who depends on it.
pub(super) async fn drop_table(transaction: &Transaction<'_>, name: &TableName) -> Result<(), Error> {
    let dropped = transaction.batch_execute(&format!("SET LOCAL lock_timeout = '5s'; DROP TABLE {}", quote::table(name))).await;
    dropped.map_err(|error| match Error::from(&error) {
        Error::TargetError(message) if super::error::is_depended_on(&error) => Error::TargetError(format!(
            "table {name} cannot be replaced or dropped while others depend on it: {message}. Drop them (DROP VIEW …) and make them again after"
        )),
        other => other,
    })
}

/// All tables that a link claims.
pub(super) async fn tables_of(transaction: &Transaction<'_>, link_id: &str) -> Result<Vec<TargetTable>, Error> {
    let sql = "SELECT source_schema, source_table, target_schema, target_table FROM link_operator.link_progress WHERE link_id = $1";
    let rows = transaction.query(sql, &[&link_id]).await?;
    let name = |row: &Row, at: usize| TableName::new(row.get::<_, String>(at), row.get::<_, String>(at + 1));
    Ok(rows
        .iter()
        .map(|row| TargetTable { link_id: link_id.to_owned(), source: name(row, 0), name: name(row, 2), options: TableOptions::default() })
        .collect())
}

/// The error of whoever is late.
pub(super) fn moved(table: &TargetTable, what: &str) -> Error {
    Error::ProgressMoved(format!("progress of {} is another's: {what}", table.name))
}
