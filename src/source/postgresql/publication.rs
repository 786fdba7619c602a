//! The link's publication: which tables' changes are in the stream.

use std::collections::HashSet;

use tokio_postgres::Client;

use super::BRIEFLY;
use crate::{
    data::{TableName, TableSchema},
    postgresql::{
        errors::{self, Class},
        quote,
    },
    source::Error,
};

/// Makes the publication, without tables and with this comment. It must be there before the slot: the stream looks it up as of each change.
pub async fn create(client: &Client, name: &str, comment: &str) -> Result<(), Error> {
    let (name, comment) = (quote::identifier(name), quote::literal(comment));
    // Both or none: statements that are sent together are one transaction.
    let make = format!("CREATE PUBLICATION {name} WITH (publish = 'insert, update, delete, truncate')");
    let statement = format!("{make}; COMMENT ON PUBLICATION {name} IS {comment}");
    Ok(client.batch_execute(&statement).await?)
}

/// Removes the publication if it is there.
pub async fn remove(client: &Client, name: &str) -> Result<(), Error> {
    Ok(client.batch_execute(&format!("DROP PUBLICATION IF EXISTS {}", quote::identifier(name))).await?)
}

/// A table of the publication that the table is a partition of, or that is a partition of it. Of a row that belongs to two
/// tables of a publication the stream speaks once.
const RELATED: &str = "\
WITH RECURSIVE up AS (SELECT inhparent AS oid FROM pg_inherits WHERE inhrelid = $1 \
                      UNION ALL SELECT i.inhparent FROM up JOIN pg_inherits i ON i.inhrelid = up.oid), \
               down AS (SELECT inhrelid AS oid FROM pg_inherits WHERE inhparent = $1 \
                      UNION ALL SELECT i.inhrelid FROM down JOIN pg_inherits i ON i.inhparent = down.oid) \
SELECT n.nspname, c.relname, r.above FROM (SELECT oid, true AS above FROM up UNION ALL SELECT oid, false FROM down) r \
  JOIN pg_publication_rel p ON p.prrelid = r.oid JOIN pg_publication b ON b.oid = p.prpubid AND b.pubname = $2 \
  JOIN pg_class c ON c.oid = r.oid JOIN pg_namespace n ON n.oid = c.relnamespace LIMIT 1";

/// Adds a table. Of a partitioned one the stream brings the changes of its partitions under their own names: under the
/// table's (`publish_via_partition_root`) it would say nothing of a partition that is truncated.
pub async fn add(client: &Client, name: &str, schema: &TableSchema) -> Result<(), Error> {
    let table = &schema.name;
    let found = client
        .query_opt(
            "SELECT c.oid, pg_get_userbyid(c.relowner)::text AS owner, current_user::text AS user, \
                    EXISTS (SELECT FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid \
                             WHERE p.pubname = $3 AND r.prrelid = c.oid) AS published \
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2",
            &[&table.schema_name, &table.table_name, &name],
        )
        .await?
        .ok_or_else(|| Error::SourceTableMissing(table.clone()))?;
    if found.get::<_, u32>("oid") != schema.object_id {
        return Err(Error::SchemaChanged(format!("{table} was dropped and created again, or renamed, after it was described")));
    }
    // Also of one that is in it: it may have become a partition since.
    if let Some(row) = client.query_opt(RELATED, &[&schema.object_id, &name]).await? {
        let related = TableName::new(row.get::<_, &str>("nspname"), row.get::<_, &str>("relname"));
        let (part, whole) = if row.get("above") { (table, &related) } else { (&related, table) };
        return Err(Error::TableNotSupported {
            message: format!("{part} is a partition of {whole}, and both are to be linked"),
            remedy: format!("link {whole} alone, which brings the rows of all its partitions, or only partitions"),
        });
    }
    if found.get("published") {
        return Ok(());
    }
    // Whoever holds a lock on the table may hold it for hours: it is tried again, and meanwhile others may ask.
    let statement = format!("{BRIEFLY}; ALTER PUBLICATION {} ADD TABLE ONLY {}", quote::identifier(name), quote::table(table));
    match client.batch_execute(&statement).await {
        Ok(()) => Ok(()),
        // Somebody was faster.
        Err(error) if errors::class(&error) == Class::ObjectExists => Ok(()),
        Err(error) if errors::class(&error) == Class::Conflict => Err(Error::SourceTableLocked(table.clone())),
        Err(error) if errors::class(&error) == Class::PermissionDenied => Err(Error::SourcePermissionDenied {
            message: format!("user {} does not own {table}, and only its owner may publish it", found.get::<_, &str>("user")),
            remedy: format!(
                "GRANT {} TO {}",
                quote::identifier(found.get::<_, &str>("owner")),
                quote::identifier(found.get::<_, &str>("user"))
            ),
        }),
        Err(error) => Err(error.into()),
    }
}

/// Those of the tables that it does not have.
pub async fn without(client: &Client, name: &str, tables: &[TableSchema]) -> Result<Vec<TableName>, Error> {
    let sql = "SELECT r.prrelid FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE p.pubname = $1";
    let published: HashSet<u32> = client.query(sql, &[&name]).await?.iter().map(|row| row.get(0)).collect();
    let missing = tables.iter().filter(|table| !published.contains(&table.object_id));
    Ok(missing.map(|table| table.name.clone()).collect())
}

/// Takes a table out; one that is not in it, or is gone, is fine.
pub async fn drop(client: &Client, name: &str, table: &TableName) -> Result<(), Error> {
    let published = client
        .query_opt(
            "SELECT FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid JOIN pg_class c ON c.oid = r.prrelid \
                    JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.pubname = $1 AND n.nspname = $2 AND c.relname = $3",
            &[&name, &table.schema_name, &table.table_name],
        )
        .await?;
    if published.is_none() {
        return Ok(());
    }
    // Not for long: a drop that is still waiting when the table joins again would silence it.
    let statement = format!("{BRIEFLY}; ALTER PUBLICATION {} DROP TABLE ONLY {}", quote::identifier(name), quote::table(table));
    match client.batch_execute(&statement).await {
        Err(error) if errors::class(&error) == Class::ObjectMissing => Ok(()),
        other => Ok(other?),
    }
}
