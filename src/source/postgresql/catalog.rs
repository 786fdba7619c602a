//! What the catalog says of a table, and how PostgreSQL's types travel.

use std::collections::HashMap;

use tokio_postgres::{Client, Row};

use crate::{
    data::{Column, TableName, TableSchema, Travel},
    postgresql::quote,
    source::Error,
};

/// Name of the system in [`TableSchema::system`].
pub const SYSTEM: &str = "postgresql";

/// A table as the catalog has it at this moment.
#[derive(Debug)]
pub struct Table {
    /// What travels.
    pub schema: TableSchema,
    /// Number of the file that holds the rows: a rewrite gives another one.
    pub filenode: u32,
}

const CLASS: &str = "\
SELECT c.oid, c.relkind::text, c.relpersistence::text, c.relreplident::text, \
       coalesce(pg_relation_filenode(c.oid), 0::oid) AS filenode, \
       row_security_active(c.oid) AS filtered, \
       EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid) AS has_children, \
       has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') AS readable, \
       current_user::text AS reader \
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
 WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind NOT IN ('i', 'I', 'S', 't', 'c')";

const COLUMNS: &str = "\
SELECT attnum, attname, NOT attnotnull AS nullable, atttypid, atttypmod FROM pg_attribute \
 WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum";

/// Types with modifiers, domains replaced by what they are over (also as elements of arrays).
const TYPES: &str = "\
WITH RECURSIVE asked AS (SELECT typid, typmod, place FROM unnest($1::oid[], $2::int4[]) WITH ORDINALITY AS t(typid, typmod, place)), \
 base AS ( \
       SELECT place, typid, typmod FROM asked \
     UNION ALL \
       SELECT b.place, t.typbasetype, t.typtypmod FROM base b JOIN pg_type t ON t.oid = b.typid AND t.typtype = 'd'), \
 element AS ( \
       SELECT b.place, e.oid AS typid, b.typmod FROM base b JOIN pg_type e ON e.typarray = b.typid \
     UNION ALL \
       SELECT b.place, t.typbasetype, t.typtypmod FROM element b JOIN pg_type t ON t.oid = b.typid AND t.typtype = 'd') \
SELECT a.typid AS asked_type, a.typmod AS asked_modifier, t.oid AS typid, b.typmod, t.typtype::text AS kind, \
       format_type(t.oid, b.typmod) AS spelled, \
       et.oid AS element, et.typtype::text AS element_kind, format_type(et.oid, e.typmod) AS element_spelled \
  FROM asked a JOIN base b ON b.place = a.place JOIN pg_type t ON t.oid = b.typid AND t.typtype <> 'd' \
  LEFT JOIN (element e JOIN pg_type et ON et.oid = e.typid AND et.typtype <> 'd') ON e.place = a.place";

/// Columns of the index by which the stream identifies rows: one a row, in the index's order.
const KEY: &str = "\
SELECT k.attnum, i.indimmediate \
  FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, place) \
 WHERE i.indrelid = $1 AND i.indisvalid AND k.place <= i.indnkeyatts AND CASE WHEN $2 THEN i.indisreplident ELSE i.indisprimary END \
 ORDER BY k.place";

/// Reads a table; refuses one that cannot be linked.
pub async fn describe(client: &Client, name: &TableName) -> Result<Table, Error> {
    let Some(class) = client.query_opt(CLASS, &[&name.schema_name, &name.table_name]).await? else {
        return Err(Error::SourceTableMissing(name.clone()));
    };
    let oid: u32 = class.get("oid");
    let by_index = class.get::<_, &str>("relreplident") == "i";
    refuse(name, &class)?;

    let columns = columns(client, oid).await?;
    let mut key = Vec::new();
    for row in client.query(KEY, &[&oid, &by_index]).await? {
        if !row.get::<_, bool>("indimmediate") {
            return Err(unsupported(
                format!("the primary key of {name} is deferrable"),
                format!("make the primary key of {} NOT DEFERRABLE", quote::table(name)),
            ));
        }
        let number = i32::from(row.get::<_, i16>("attnum"));
        key.push(columns.iter().position(|column| column.number == number).ok_or_else(|| {
            unsupported(
                format!("the key of {name} has a generated column, which PostgreSQL does not replicate"),
                "give the table a primary key of ordinary columns".to_owned(),
            )
        })?);
    }
    if key.is_empty() {
        return Err(Error::NoPrimaryKey(name.clone()));
    }
    let schema = TableSchema { name: name.clone(), object_id: oid, system: SYSTEM.to_owned(), columns, key };
    Ok(Table { schema, filenode: class.get("filenode") })
}

fn refuse(name: &TableName, class: &Row) -> Result<(), Error> {
    let table = quote::table(name);
    let what = match (class.get::<_, &str>("relkind"), class.get::<_, &str>("relpersistence")) {
        ("r", "p") => None,
        ("r", "u") => Some(("an unlogged table", format!("ALTER TABLE {table} SET LOGGED"))),
        ("r", _) => Some(("a temporary table", "link a permanent table".to_owned())),
        ("p", _) => Some(("a partitioned table, which cannot be linked yet", "link its partitions one by one".to_owned())),
        ("v", _) => Some(("a view", "link the tables that it reads".to_owned())),
        ("m", _) => Some(("a materialized view", "link the tables that it reads".to_owned())),
        ("f", _) => Some(("a foreign table", "link the table at the server where it is".to_owned())),
        _ => Some(("not a table", "link a table".to_owned())),
    };
    if let Some((what, remedy)) = what {
        return Err(unsupported(format!("{name} is {what}"), remedy));
    }
    if class.get("has_children") {
        return Err(unsupported(format!("{name} has tables that inherit from it"), "link the inheriting tables one by one".to_owned()));
    }
    let reader: &str = class.get("reader");
    if !class.get::<_, bool>("readable") {
        return Err(Error::SourcePermissionDenied {
            message: format!("user {reader} may not read {name}"),
            remedy: format!(
                "GRANT USAGE ON SCHEMA {} TO {reader}; GRANT SELECT ON {table} TO {reader}",
                quote::identifier(&name.schema_name),
                reader = quote::identifier(reader)
            ),
        });
    }
    if class.get("filtered") {
        return Err(Error::SourcePermissionDenied {
            message: format!("row-level security hides rows of {name} from user {reader}"),
            remedy: format!("ALTER ROLE {} BYPASSRLS", quote::identifier(reader)),
        });
    }
    if class.get::<_, &str>("relreplident") == "n" {
        return Err(unsupported(
            format!("{name} has REPLICA IDENTITY NOTHING: its updates and deletes would fail"),
            format!("ALTER TABLE {table} REPLICA IDENTITY DEFAULT"),
        ));
    }
    Ok(())
}

fn unsupported(message: String, remedy: String) -> Error {
    Error::TableNotSupported { message, remedy }
}

async fn columns(client: &Client, oid: u32) -> Result<Vec<Column>, Error> {
    let rows = client.query(COLUMNS, &[&oid]).await?;
    let wanted: Vec<_> = rows.iter().map(|row| (row.get("atttypid"), row.get("atttypmod"))).collect();
    let types = types(client, &wanted).await?;
    rows.iter()
        .zip(wanted)
        .map(|(row, wanted)| {
            let name: String = row.get("attname");
            let Some((travel, source_type)) = types.get(&wanted).cloned() else {
                return Err(Error::SchemaChanged(format!("the type of column {name} is gone")));
            };
            Ok(Column { number: i32::from(row.get::<_, i16>("attnum")), name, travel, source_type, nullable: row.get("nullable") })
        })
        .collect()
}

/// A type as `pg_attribute` and the stream name it: object id and modifier.
pub type TypeId = (u32, i32);

/// How types travel, and their names in [`Column::source_type`]. Types that are gone are left out.
pub async fn types(client: &Client, wanted: &[TypeId]) -> Result<HashMap<TypeId, (Travel, String)>, Error> {
    let (oids, modifiers): (Vec<u32>, Vec<i32>) = wanted.iter().copied().unzip();
    let resolve = |row: &Row| {
        let oid: u32 = row.get("typid");
        let source_type = match row.get::<_, Option<u32>>("element") {
            Some(element) => format!("{}[]", made_by_target(element, row.get("element_kind"), row.get("element_spelled"))),
            None => made_by_target(oid, row.get("kind"), row.get("spelled")),
        };
        ((row.get("asked_type"), row.get("asked_modifier")), (travel(oid, row.get("typmod")), source_type))
    };
    Ok(client.query(TYPES, &[&oids, &modifiers]).await?.iter().map(resolve).collect())
}

/// Object ids from here on are given out after initdb: types of extensions and users (`FirstNormalObjectId`).
const FIRST_NORMAL_OID: u32 = 16_384;

/// A type that every PostgreSQL has and whose values mean the same there; else `text`.
fn made_by_target(oid: u32, kind: &str, spelled: String) -> String {
    // reg… types name objects of this database; the last are internal.
    let bound_here = spelled.starts_with("reg") || matches!(spelled.as_str(), "aclitem" | "refcursor" | "gtsvector" | "pg_node_tree");
    if oid < FIRST_NORMAL_OID && matches!(kind, "b" | "r" | "m") && !bound_here { spelled } else { "text".to_owned() }
}

/// How values of a type travel: by the type's fixed object id and modifier.
fn travel(oid: u32, modifier: i32) -> Travel {
    match oid {
        16 => Travel::Bool,
        21 => Travel::Int16,
        23 => Travel::Int32,
        20 => Travel::Int64,
        700 => Travel::Float32,
        701 => Travel::Float64,
        1700 => decimal(modifier),
        1082 => Travel::Date,
        1083 => Travel::Time,
        1114 => Travel::Timestamp,
        1184 => Travel::TimestampTz,
        // text, varchar, char(n)
        25 | 1043 | 1042 => Travel::Utf8,
        17 => Travel::Binary,
        2950 => Travel::Uuid,
        _ => Travel::Text,
    }
}

/// `numeric(precision, scale)` packs both into its modifier; without one a value may have any number of digits.
fn decimal(modifier: i32) -> Travel {
    if modifier < 4 {
        return Travel::Text;
    }
    let precision = (modifier - 4) >> 16 & 0xffff;
    // Eleven bits with a sign: from PostgreSQL 15 on a scale may be negative, or larger than the precision.
    let scale = ((modifier - 4) & 0x7ff ^ 1024) - 1024;
    match (u8::try_from(precision), i8::try_from(scale)) {
        (Ok(precision @ 1..=38), Ok(scale)) if scale >= 0 && i32::from(scale) <= i32::from(precision) => {
            Travel::Decimal { precision, scale }
        }
        _ => Travel::Text,
    }
}

/// The expression by which a column is selected so that it comes in the form of its [`Travel`].
pub fn select(column: &Column) -> String {
    select_from("", column)
}

/// The same, of the table that `table` names (`t.`).
pub fn select_from(table: &str, column: &Column) -> String {
    let name = format!("{table}{}", quote::identifier(&column.name));
    match column.travel {
        // A cast to text is not what the stream prints: of inet, xml and others it gives something else. `format` prints as
        // the type's output function does. (IS DISTINCT FROM: a composite of NULLs "IS NULL", but is a value.)
        Travel::Text => format!("CASE WHEN {name} IS DISTINCT FROM NULL THEN pg_catalog.format('%s', {name}) END"),
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_numeric_is_a_decimal_only_if_every_value_fits() {
        let modifier = |precision: i32, scale: i32| (precision << 16 | scale & 0x7ff) + 4;
        assert_eq!(decimal(-1), Travel::Text);
        assert_eq!(decimal(modifier(38, 10)), Travel::Decimal { precision: 38, scale: 10 });
        assert_eq!(decimal(modifier(1, 0)), Travel::Decimal { precision: 1, scale: 0 });
        assert_eq!(decimal(modifier(39, 0)), Travel::Text);
        assert_eq!(decimal(modifier(2, -3)), Travel::Text);
        assert_eq!(decimal(modifier(3, 5)), Travel::Text);
    }
}
