//! Progress of several tables at once: moved by one statement of the transaction that moves the rows of all (DESIGN 5.5), or told
//! as of when it is. Rows are locked in order: two who move the same tables must not wait for each other.

use std::time::SystemTime;

use tokio_postgres::Transaction;

use crate::{
    data::TableName,
    failpoint::{self, Moment, Point},
    protection::Protection,
    target::{Error, Incarnation, Stride, Untouched},
};

/// Where a table is thought to be.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) source: &'a TableName,
    pub(super) incarnation: Incarnation,
    pub(super) record: u64,
}

/// Places as `unnest` wants them: schemas, names, runs, incarnations, records.
type Columns<'a> = (Vec<&'a str>, Vec<&'a str>, Vec<i64>, Vec<i64>, Vec<i64>);

fn columns<'a>(places: impl Iterator<Item = Place<'a>>) -> Columns<'a> {
    let row = |Place { source, incarnation, record }: Place<'a>| {
        let (run, incarnation) = (i64::from(incarnation.run), incarnation.record as i64);
        (source.schema_name.as_str(), source.table_name.as_str(), run, incarnation, record as i64)
    };
    places.map(row).collect()
}

/// Moves the progress of all tables by compare-and-set, or of none. Every table's is moved, also that of tables to which nothing is
/// done: whoever believes in another place of only one of them moves nothing.
pub(super) async fn advance(transaction: &Transaction<'_>, stride: Stride<'_>, tables: &[Place<'_>]) -> Result<(), Error> {
    failpoint::at(Point::ProgressUpdate, Moment::Before).await;
    let advance = "
        WITH held AS (
            SELECT p.source_schema, p.source_table
            FROM link_operator.link_progress p
            JOIN unnest($4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::bigint[])
                AS t (source_schema, source_table, run, incarnation, record) USING (source_schema, source_table)
            WHERE p.link_id = $1 AND p.run = t.run AND p.incarnation = t.incarnation AND p.record = t.record AND p.exact
              AND (p.group_revision IS NULL OR p.group_revision <= $9)
            ORDER BY 1, 2 FOR UPDATE OF p
        )
        UPDATE link_operator.link_progress p
        SET record = $2, as_of = coalesce($3, as_of), group_revision = $9, updated_at = now()
        FROM held WHERE p.link_id = $1 AND p.source_schema = held.source_schema AND p.source_table = held.source_table";
    let (schemas, names, runs, incarnations, records) = columns(tables.iter().copied());
    let (as_of, revision) = (stride.as_of.map(SystemTime::from), stride.plan_revision as i64);
    let moved = transaction
        .execute(advance, &[&stride.link_id, &(stride.to as i64), &as_of, &schemas, &names, &runs, &incarnations, &records, &revision])
        .await?;
    if moved != tables.len() as u64 && Protection::CompareAndSet.holds() {
        let missing = tables.len() as u64 - moved;
        return Err(Error::ProgressMoved(format!(
            "{missing} of {} tables that move together are not where they are thought",
            tables.len()
        )));
    }
    let leave = "
        UPDATE link_operator.link_progress SET group_revision = NULL
        WHERE link_id = $1 AND group_revision <= $4 AND (source_schema, source_table) NOT IN (SELECT * FROM unnest($2::text[], $3::text[]))";
    transaction.execute(leave, &[&stride.link_id, &schemas, &names, &revision]).await?;
    failpoint::at(Point::ProgressUpdate, Moment::After).await;
    Ok(())
}

/// Moves `as_of` of tables that nothing has changed, see [`crate::target::Target::touch`].
pub(super) async fn touch(transaction: &Transaction<'_>, link_id: &str, tables: &[Untouched]) -> Result<(), Error> {
    let touch = "
        WITH held AS (
            SELECT p.source_schema, p.source_table, t.as_of
            FROM link_operator.link_progress p
            JOIN unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::timestamptz[])
                AS t (source_schema, source_table, run, incarnation, record, as_of) USING (source_schema, source_table)
            WHERE p.link_id = $1 AND p.run = t.run AND p.incarnation = t.incarnation AND p.record = t.record AND p.exact
              AND (p.as_of IS NULL OR p.as_of < t.as_of)
            ORDER BY 1, 2 FOR UPDATE OF p
        )
        UPDATE link_operator.link_progress p SET as_of = held.as_of, updated_at = now()
        FROM held WHERE p.link_id = $1 AND p.source_schema = held.source_schema AND p.source_table = held.source_table";
    let places = tables.iter().map(|table| Place { source: &table.source, incarnation: table.incarnation, record: table.record });
    let (schemas, names, runs, incarnations, records) = columns(places);
    let times: Vec<SystemTime> = tables.iter().map(|table| SystemTime::from(table.as_of)).collect();
    transaction.execute(touch, &[&link_id, &schemas, &names, &runs, &incarnations, &records, &times]).await?;
    Ok(())
}
