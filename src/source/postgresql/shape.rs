//! The shapes of tables as the catalog has them now: by object id, all in one snapshot and without a lock that could wait.

use std::collections::{BTreeSet, HashMap};

use tokio_postgres::{Client, Row};

use super::catalog;
use crate::{
    data::{Column, Part, TableName},
    source::Error,
};

/// A table as the catalog has it.
#[derive(Debug)]
pub struct Shape {
    /// Schema and name.
    pub name: TableName,
    /// REPLICA IDENTITY NOTHING: updates and deletes fail.
    pub no_identity: bool,
    /// An ordinary table from which others inherit: its rows are not all in it.
    pub has_children: bool,
    /// Highest number that a column ever had.
    pub last_number: i32,
    /// Columns that are replicated, by number.
    pub columns: Vec<Column>,
    /// Numbers of columns that are there and are not replicated: generated ones.
    pub generated: BTreeSet<i32>,
    /// Numbers of the key's columns, in key order.
    pub key: Vec<i32>,
    /// What holds the rows: the table, or its leaf partitions, by object id.
    pub parts: Vec<PartShape>,
}

/// A part of a table as the catalog has it.
#[derive(Debug)]
pub struct PartShape {
    /// What it is known by.
    pub part: Part,
    /// For a person.
    pub name: TableName,
    /// It was made as a partition of this table: no row came into it but through the table.
    pub born: bool,
    /// Why its changes or rows cannot be had.
    pub unfit: Option<String>,
    /// Names of its columns that are replicated, in its own order.
    pub columns: Vec<String>,
    /// Names of the columns by which its rows are known, in key order.
    pub key: Vec<String>,
    /// What rows read in columns that are younger than they are, by column.
    pub initial: HashMap<String, String>,
}

const TABLES: &str = "\
SELECT c.oid, n.nspname, c.relname, c.relreplident = 'n' AS no_identity, c.relnatts::int4 AS last_number, \
       c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid) AS has_children \
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY ($1)";

/// A column's row in `pg_attribute` is another one after every change of it. `+`: it has a value for rows that are older
/// than it, which a rewrite of the table writes into them. After `/` its default, which is another one after every change of it or
/// of the column's type.
const COLUMNS: &str = "\
SELECT attrelid, attnum::int4 AS number, attname, NOT attnotnull AS nullable, atttypid, atttypmod, attgenerated <> '' AS generated, \
       a.xmin::text || CASE WHEN atthasmissing THEN '+' ELSE '' END || coalesce('/' || d.oid, '') AS revision \
  FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum WHERE attrelid = ANY ($1) AND attnum > 0 AND NOT attisdropped ORDER BY attrelid, attnum";

/// Columns of the index by which the stream identifies rows, in the index's order.
const KEYS: &str = "\
SELECT c.oid, k.attnum::int4 AS number, a.attname \
  FROM pg_class c JOIN pg_index i ON i.indrelid = c.oid AND i.indisvalid AND i.indimmediate \
       AND CASE WHEN c.relreplident = 'i' THEN i.indisreplident ELSE i.indisprimary END, \
       unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, place), pg_attribute a \
 WHERE c.oid = ANY ($1) AND k.place <= i.indnkeyatts AND a.attrelid = c.oid AND a.attnum = k.attnum ORDER BY c.oid, k.place";

/// Leaf partitions. `attached`: the rows of `pg_inherits` from the root to the leaf, each of which is another one after its
/// partition was detached and attached again. `born`: each was made by CREATE TABLE … PARTITION OF, which writes it in the
/// transaction that makes the partition, and the partition's columns as inherited ones; ATTACH would have to write them again.
const PARTS: &str = "\
WITH RECURSIVE tree AS ( \
       SELECT oid AS root, oid, ''::text AS attached, true AS born FROM pg_class WHERE oid = ANY ($1) \
     UNION ALL \
       SELECT t.root, i.inhrelid, t.attached || '/' || i.xmin::text, t.born AND EXISTS ( \
              SELECT FROM pg_attribute s JOIN pg_attribute a ON a.attrelid = s.attrelid AND a.xmin = s.xmin AND a.cmin = s.cmin \
               WHERE s.attrelid = i.inhrelid AND s.attnum = -1 AND s.xmin = i.xmin \
                 AND a.attnum > 0 AND a.attinhcount = 1 AND NOT a.attislocal) \
         FROM tree t JOIN pg_class p ON p.oid = t.oid AND p.relkind = 'p' JOIN pg_inherits i ON i.inhparent = t.oid) \
SELECT t.root, t.oid, t.attached, t.born, c.relfilenode, n.nspname, c.relname, \
       CASE WHEN c.relkind <> 'r' THEN 'a foreign table' WHEN c.relpersistence <> 'p' THEN 'unlogged' \
            WHEN c.relreplident = 'n' THEN 'without a replica identity' END AS unfit, \
       ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND attgenerated = '' \
              ORDER BY attnum) AS columns, \
       ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid AND atthasmissing ORDER BY attnum) AS filled, \
       ARRAY(SELECT (attmissingval::text::text[])[1] FROM pg_attribute WHERE attrelid = c.oid AND atthasmissing ORDER BY attnum) AS initial \
  FROM tree t JOIN pg_class c ON c.oid = t.oid AND c.relkind <> 'p' JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY t.oid";

/// Reads the shapes of tables; those that are gone are left out. Call in a transaction with one snapshot.
pub async fn read(client: &Client, tables: &[u32]) -> Result<HashMap<u32, Shape>, Error> {
    let mut parts = parts(client, tables).await?;
    let mut columns: HashMap<u32, Vec<Row>> = HashMap::new();
    for row in client.query(COLUMNS, &[&tables]).await? {
        columns.entry(row.get("attrelid")).or_default().push(row);
    }
    let wanted: Vec<_> = columns.values().flatten().map(|row| (row.get("atttypid"), row.get("atttypmod"))).collect();
    let types = catalog::types(client, &wanted).await?;
    let mut keys: HashMap<u32, Vec<i32>> = HashMap::new();
    for row in client.query(KEYS, &[&tables]).await? {
        keys.entry(row.get("oid")).or_default().push(row.get("number"));
    }
    let mut shapes = HashMap::new();
    for row in client.query(TABLES, &[&tables]).await? {
        let oid: u32 = row.get("oid");
        let mut shape = Shape {
            name: TableName::new(row.get::<_, &str>("nspname"), row.get::<_, &str>("relname")),
            no_identity: row.get("no_identity"),
            has_children: row.get("has_children"),
            last_number: row.get("last_number"),
            columns: Vec::new(),
            generated: BTreeSet::new(),
            key: keys.remove(&oid).unwrap_or_default(),
            parts: parts.remove(&oid).unwrap_or_default(),
        };
        for column in columns.remove(&oid).unwrap_or_default() {
            let number = column.get("number");
            if column.get("generated") {
                shape.generated.insert(number);
                continue;
            }
            let name: String = column.get("attname");
            let Some(catalog::Type { travel, name: source_type, labels }) =
                types.get(&(column.get("atttypid"), column.get("atttypmod"))).cloned()
            else {
                return Err(Error::SchemaChanged(format!("the type of column {name} of {} is gone", shape.name)));
            };
            let (nullable, revision) = (column.get("nullable"), column.get("revision"));
            shape.columns.push(Column {
                number,
                name,
                travel,
                source_type,
                nullable,
                initial: None,
                revision,
                collation: None,
                labels,
                dropped: false,
            });
        }
        shapes.insert(oid, shape);
    }
    Ok(shapes)
}

async fn parts(client: &Client, tables: &[u32]) -> Result<HashMap<u32, Vec<PartShape>>, Error> {
    let rows = client.query(PARTS, &[&tables]).await?;
    let leaves: Vec<u32> = rows.iter().map(|row| row.get("oid")).collect();
    let mut keys: HashMap<u32, Vec<String>> = HashMap::new();
    for row in client.query(KEYS, &[&leaves]).await? {
        keys.entry(row.get("oid")).or_default().push(row.get("attname"));
    }
    let mut parts: HashMap<u32, Vec<PartShape>> = HashMap::new();
    for row in rows {
        let object_id: u32 = row.get("oid");
        let (filled, initial): (Vec<String>, Vec<Option<String>>) = (row.get("filled"), row.get("initial"));
        parts.entry(row.get("root")).or_default().push(PartShape {
            part: Part { object_id, file_id: row.get("relfilenode"), attached: row.get("attached") },
            name: TableName::new(row.get::<_, &str>("nspname"), row.get::<_, &str>("relname")),
            born: row.get("born"),
            unfit: row.get("unfit"),
            columns: row.get("columns"),
            // It may be a part of several of the tables.
            key: keys.get(&object_id).cloned().unwrap_or_default(),
            initial: filled.into_iter().zip(initial).filter_map(|(name, value)| Some((name, value?))).collect(),
        });
    }
    Ok(parts)
}

/// The tables among `roots` of which a relation is a partition, at whatever depth.
pub async fn roots_of(client: &Client, relation: u32, roots: &[u32]) -> Result<Vec<u32>, Error> {
    let sql = "WITH RECURSIVE up AS (SELECT $1::oid AS oid UNION ALL SELECT i.inhparent FROM up JOIN pg_inherits i ON i.inhrelid = up.oid) \
               SELECT oid FROM up WHERE oid = ANY ($2)";
    Ok(client.query(sql, &[&relation, &roots]).await?.iter().map(|row| row.get(0)).collect())
}

/// All transactions before this one have ended, and what they did is seen. The lower 32 bits of its id, as the stream has them.
pub async fn all_before(client: &Client) -> Result<u32, Error> {
    let sql = "SELECT (pg_snapshot_xmin(pg_current_snapshot())::text::bigint % 4294967296)::bigint";
    Ok(client.query_one(sql, &[]).await?.get::<_, i64>(0) as u32)
}

/// Whether a relation is known to hold no row that is visible now. Fails if somebody holds a lock on it for long.
pub async fn is_empty(client: &Client, relation: &TableName) -> Result<bool, tokio_postgres::Error> {
    let may = "SELECT has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') AND NOT row_security_active(c.oid) \
                 FROM pg_class c \
               JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2";
    let may = client.query_opt(may, &[&relation.schema_name, &relation.table_name]).await?;
    if !may.is_some_and(|row| row.get(0)) {
        return Ok(false);
    }
    let sql = format!("SELECT NOT EXISTS (SELECT FROM ONLY {})", crate::postgresql::quote::table(relation));
    Ok(client.query_one(&sql, &[]).await?.get(0))
}
