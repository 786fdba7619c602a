//! Reading rows by key, for what their changes did not carry.

use std::{sync::Arc, time::Duration};

use arrow::array::{Array, AsArray as _, RecordBatch};
use tokio_postgres::Client;

use super::{BRIEFLY, Postgresql, catalog, chunks, copy::CopyReader, wire::Failure};
use crate::{
    data::{LINK_COLUMN, LinkCell, TableSchema, print},
    postgresql::quote,
    protection::Protection,
    source::{Error, Filled, LargeValues},
};

/// Longest pause between two looks whether a commit is visible.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Reads the rows of all keys in one query.
pub async fn fetch(
    source: &Postgresql,
    schema: &TableSchema,
    keys: &RecordBatch,
    after: &[u32],
    values: Arc<dyn LargeValues>,
) -> Result<Filled, Error> {
    let session = source.session().await?;
    let statement = if keys.num_rows() > 0 {
        wait_visible(&session, after).await?;
        Some(statement(&session, schema, &key_texts(schema, keys)?).await?)
    } else {
        None
    };
    let mut session = source.wire(session.close()).await?;
    let wire = &mut session.wire;
    let mut copy = CopyReader::new(schema, values);
    if let Some(statement) = statement {
        // With thousands of keys the planner might rather read the whole table.
        let by_key = "SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_seqscan = off";
        // The changes of all tables wait for this one.
        wire.query(&format!("{BRIEFLY}; {by_key}")).await.map_err(Failure::general)?;
        let command = format!("COPY ({statement}) TO STDOUT (FORMAT binary)");
        wire.begin_copy(&command).await.map_err(|failure| Postgresql::table_error(&schema.name, failure))?;
        while !copy.read(&mut wire.incoming).await? {}
        wire.end_copy().await.map_err(|failure| Postgresql::table_error(&schema.name, failure))?;
    }
    // After the query's snapshot: the rows hold everything up to some place before.
    let read_at = chunks::flushed_lsn(source, wire).await?;
    Ok(Filled { rows: copy.rows.finish()?, read_at: read_at.position() })
}

/// Waits until snapshots show what these transactions did. A commit is in the log, and so in the stream, before it is
/// visible: for an instant, or for as long as a synchronous standby does not answer. A row that a fetch misses must be one
/// that is gone, never one that is still to be seen.
pub async fn wait_visible(client: &Client, transactions: &[u32]) -> Result<(), Error> {
    // The stream's ids have 32 bits: each is meant to be the one that is nearest to the next, before or after it.
    let sql = "WITH now AS (SELECT s, pg_snapshot_xmax(s)::text::bigint AS next FROM pg_current_snapshot() s)
               SELECT count(*) FROM now, unnest($1::bigint[]) AS t (id)
               WHERE NOT pg_visible_in_snapshot(
                   (next + (id - next % 4294967296 + 6442450944) % 4294967296 - 2147483648)::text::xid8, s)";
    let ids: Vec<i64> = transactions.iter().map(|id| i64::from(*id)).collect();
    let mut pause = Duration::from_millis(1);
    while Protection::VisibleCommits.holds() && client.query_one(sql, &[&ids]).await?.get::<_, i64>(0) > 0 {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    Ok(())
}

/// The query for keys as PostgreSQL would print them, a list for each key column.
async fn statement(client: &Client, schema: &TableSchema, keys: &[Vec<Option<String>>]) -> Result<String, Error> {
    let numbers: Vec<i32> = schema.key.iter().map(|&column| schema.columns[column].number).collect();
    // Without modifiers: a cast to char(3) would cut, one to numeric(6,2) round.
    let types = client
        .query(
            "SELECT attnum::int4, format_type(atttypid, -1) FROM pg_attribute WHERE attrelid = $1 AND attnum = ANY ($2::int4[]) AND NOT attisdropped",
            &[&schema.object_id, &numbers],
        )
        .await?;
    let type_of = |number: i32| types.iter().find(|row| row.get::<_, i32>(0) == number).map(|row| row.get::<_, &str>(1));
    let mut arrays = Vec::new();
    let mut names = Vec::new();
    let mut conditions = Vec::new();
    for (place, (&column, texts)) in schema.key.iter().zip(keys).enumerate() {
        let column = &schema.columns[column];
        let Some(type_name) = type_of(column.number) else {
            return Err(Error::SchemaChanged(format!("column {} of {} is gone", column.name, schema.name)));
        };
        let texts: Vec<String> = texts.iter().map(|text| text.as_deref().map_or("NULL".to_owned(), quote::literal)).collect();
        arrays.push(format!("ARRAY[{}]::text[]", texts.join(",")));
        names.push(format!("k{place}"));
        conditions.push(format!("t.{} = wanted.k{place}::{type_name}", quote::identifier(&column.name)));
    }
    let columns: Vec<String> = schema.columns.iter().map(|column| catalog::select_from("t.", column)).collect();
    Ok(format!(
        "SELECT {} FROM unnest({}) AS wanted({}) JOIN {} AS t ON {}",
        columns.join(", "),
        arrays.join(", "),
        names.join(", "),
        quote::table(&schema.name),
        conditions.join(" AND ")
    ))
}

/// The keys as PostgreSQL would print them, a list for each key column.
fn key_texts(schema: &TableSchema, keys: &RecordBatch) -> Result<Vec<Vec<Option<String>>>, Error> {
    let mut texts = Vec::new();
    for (place, &column) in schema.key.iter().enumerate() {
        let column = &schema.columns[column];
        let array = keys.column(place);
        if *array.data_type() != column.travel.arrow() {
            return Err(Error::SourceError(format!(
                "keys of {} have {} where {} was expected",
                schema.name,
                array.data_type(),
                column.name
            )));
        }
        let print = |row| if array.is_null(row) { None } else { Some(print::value(column.travel, array, row)) };
        texts.push((0..keys.num_rows()).map(print).collect::<Vec<_>>());
    }
    if let Some(links) = keys.column_by_name(LINK_COLUMN).and_then(|links| links.as_string_opt::<i32>()) {
        for (row, link) in links.iter().enumerate() {
            let Some(link) = link else { continue };
            let cell: LinkCell = serde_json::from_str(link).map_err(|error| Error::SourceError(format!("a key's exact texts: {error}")))?;
            for (place, value) in cell.beside {
                if let Some(column) = texts.get_mut(usize::from(place)) {
                    column[row] = Some(value.text().to_owned());
                }
            }
        }
    }
    Ok(texts)
}
