//! What the catalog says of a table, and how PostgreSQL's types travel.

use std::collections::HashMap;

use tokio_postgres::{Client, Row};

use super::shape::{self, PartShape, Shape};
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
    /// What holds the rows.
    pub parts: Vec<PartShape>,
}

const CLASS: &str = "\
SELECT c.oid, n.nspname, c.relname, c.relkind::text, c.relpersistence::text, c.relreplident::text, \
       row_security_active(c.oid) AS filtered, \
       EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid) AS has_children, \
       EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND indisprimary AND NOT indimmediate) AS deferrable, \
       has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') AS readable, \
       current_user::text AS reader \
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
";
const ONE: &str = "WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind NOT IN ('i', 'I', 'S', 't', 'c')";
/// Tables that hold rows of their own, or of partitions; views are not even looked at.
const ALL: &str = "\
WHERE c.relkind IN ('r', 'p', 'f') AND NOT c.relispartition AND c.relpersistence <> 't' \
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'link_operator') AND n.nspname NOT LIKE 'pg\\_%'";

/// Types with modifiers, domains replaced by what they are over (also as elements of arrays), and the labels of all enums within.
const TYPES: &str = "\
WITH RECURSIVE asked AS (SELECT typid, typmod, place FROM unnest($1::oid[], $2::int4[]) WITH ORDINALITY AS t(typid, typmod, place)), \
 base AS ( \
       SELECT place, typid, typmod FROM asked \
     UNION ALL \
       SELECT b.place, t.typbasetype, t.typtypmod FROM base b JOIN pg_type t ON t.oid = b.typid AND t.typtype = 'd'), \
 element AS ( \
       SELECT b.place, e.oid AS typid, b.typmod FROM base b JOIN pg_type e ON e.typarray = b.typid \
     UNION ALL \
       SELECT b.place, t.typbasetype, t.typtypmod FROM element b JOIN pg_type t ON t.oid = b.typid AND t.typtype = 'd'), \
 within AS ( \
       SELECT place, typid FROM asked \
     UNION \
       SELECT w.place, p.typid FROM within w JOIN pg_type t ON t.oid = w.typid, LATERAL ( \
              SELECT t.typbasetype WHERE t.typtype = 'd' UNION ALL SELECT t.typelem WHERE t.typelem <> 0 \
              UNION ALL SELECT atttypid FROM pg_attribute WHERE attrelid = t.typrelid AND attnum > 0 AND NOT attisdropped \
              UNION ALL SELECT rngsubtype FROM pg_range WHERE rngtypid = t.oid OR rngmultitypid = t.oid) p (typid)) \
SELECT a.typid AS asked_type, a.typmod AS asked_modifier, t.oid AS typid, b.typmod, t.typtype::text AS kind, \
       format_type(t.oid, b.typmod) AS spelled, \
       et.oid AS element, et.typtype::text AS element_kind, format_type(et.oid, e.typmod) AS element_spelled, \
       ARRAY(SELECT e.oid FROM pg_enum e JOIN within w ON w.typid = e.enumtypid WHERE w.place = a.place ORDER BY e.oid) AS label_ids, \
       ARRAY(SELECT e.enumlabel::text FROM pg_enum e JOIN within w ON w.typid = e.enumtypid WHERE w.place = a.place ORDER BY e.oid) AS labels \
  FROM asked a JOIN base b ON b.place = a.place JOIN pg_type t ON t.oid = b.typid AND t.typtype <> 'd' \
  LEFT JOIN (element e JOIN pg_type et ON et.oid = e.typid AND et.typtype <> 'd') ON e.place = a.place";

/// A leaf partition that the user may not read, or not all of.
const UNREADABLE: &str = "\
SELECT n.nspname, c.relname, row_security_active(c.oid) AS filtered \
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY ($1) \
   AND (row_security_active(c.oid) OR NOT has_schema_privilege(n.oid, 'USAGE') OR NOT has_table_privilege(c.oid, 'SELECT')) LIMIT 1";

/// Reads a table; refuses one that cannot be linked.
pub async fn describe(client: &Client, name: &TableName) -> Result<Table, Error> {
    let Some(class) = client.query_opt(&format!("{CLASS} {ONE}"), &[&name.schema_name, &name.table_name]).await? else {
        return Err(Error::SourceTableMissing(name.clone()));
    };
    let oid: u32 = class.get("oid");
    refuse(name, &class)?;

    // Between the two questions it may have been dropped.
    let shape = shape::read(client, &[oid]).await?.remove(&oid).ok_or_else(|| Error::SourceTableMissing(name.clone()))?;
    let key = key(name, &class, &shape)?;
    if class.get::<_, &str>("relkind") == "p" {
        refuse_partitions(name, &shape)?;
        refuse_unreadable(client, name, &shape, class.get("reader")).await?;
    }
    let Shape { columns, last_number, parts, .. } = shape;
    Ok(Table { schema: schema(name, oid, key, columns, last_number), parts })
}

/// A table, or what stands against its being linked.
pub struct Judged {
    /// Its name.
    pub name: TableName,
    /// What holds its rows, by object id.
    pub parts: Vec<u32>,
    /// How it is.
    pub table: Result<TableSchema, Error>,
}

/// All tables.
pub async fn all(client: &Client) -> Result<Vec<Judged>, Error> {
    let classes = client.query(&format!("{CLASS} {ALL}"), &[]).await?;
    let oids: Vec<u32> = classes.iter().map(|class| class.get("oid")).collect();
    let mut shapes = shape::read(client, &oids).await?;
    let judge = |class: &Row| {
        let name = TableName::new(class.get::<_, &str>("nspname"), class.get::<_, &str>("relname"));
        let oid: u32 = class.get("oid");
        // One that was dropped meanwhile is none.
        let shape = shapes.remove(&oid)?;
        let parts = shape.parts.iter().map(|part| part.part.object_id).collect();
        let judged = refuse(&name, class).and_then(|()| key(&name, class, &shape)).and_then(|key| match class.get("relkind") {
            "p" => refuse_partitions(&name, &shape).map(|()| key),
            _ => Ok(key),
        });
        let table = judged.map(|key| schema(&name, oid, key, shape.columns, shape.last_number));
        Some(Judged { name, parts, table })
    };
    Ok(classes.iter().filter_map(judge).collect())
}

fn schema(name: &TableName, object_id: u32, key: Vec<usize>, columns: Vec<Column>, last_number: i32) -> TableSchema {
    TableSchema { name: name.clone(), object_id, system: SYSTEM.to_owned(), columns, key, last_number }
}

/// The columns of the key by which the stream identifies rows.
fn key(name: &TableName, class: &Row, shape: &Shape) -> Result<Vec<usize>, Error> {
    let place = |number: &i32| shape.columns.iter().position(|column| column.number == *number);
    let Some(key) = shape.key.iter().map(place).collect::<Option<Vec<_>>>() else {
        return Err(unsupported(
            format!("the key of {name} has a generated column, which PostgreSQL does not replicate"),
            "give the table a primary key of ordinary columns".to_owned(),
        ));
    };
    if !key.is_empty() {
        return Ok(key);
    }
    Err(if class.get("deferrable") {
        unsupported(
            format!("the primary key of {name} is deferrable"),
            format!("make the primary key of {} NOT DEFERRABLE", quote::table(name)),
        )
    } else {
        Error::NoPrimaryKey(name.clone())
    })
}

/// The stream brings changes of partitions under their own names, and identifies rows by their own keys.
fn refuse_partitions(name: &TableName, shape: &Shape) -> Result<(), Error> {
    if shape.parts.is_empty() {
        return Err(unsupported(format!("{name} has no partitions"), "create a partition first".to_owned()));
    }
    let key: Vec<&str> = shape
        .key
        .iter()
        .filter_map(|number| shape.columns.iter().find(|column| column.number == *number).map(|column| column.name.as_str()))
        .collect();
    for part in &shape.parts {
        if let Some(why) = &part.unfit {
            return Err(unsupported(
                format!("{name} has a partition {}, which is {why}", part.name),
                format!("detach {}, or make it an ordinary logged table with REPLICA IDENTITY DEFAULT", quote::table(&part.name)),
            ));
        }
        if part.key != key {
            return Err(unsupported(
                format!("rows of {}, a partition of {name}, are known by another key", part.name),
                format!("ALTER TABLE {} REPLICA IDENTITY DEFAULT", quote::table(&part.name)),
            ));
        }
    }
    Ok(())
}

async fn refuse_unreadable(client: &Client, name: &TableName, shape: &Shape, reader: &str) -> Result<(), Error> {
    let leaves: Vec<u32> = shape.parts.iter().map(|part| part.part.object_id).collect();
    let Some(row) = client.query_opt(UNREADABLE, &[&leaves]).await? else { return Ok(()) };
    let part = TableName::new(row.get::<_, &str>("nspname"), row.get::<_, &str>("relname"));
    let reader_quoted = quote::identifier(reader);
    Err(if row.get("filtered") {
        Error::SourcePermissionDenied {
            message: format!("row-level security hides rows of {part} from user {reader}"),
            remedy: format!("ALTER ROLE {reader_quoted} BYPASSRLS"),
        }
    } else {
        Error::SourcePermissionDenied {
            message: format!("user {reader} may not read {part}, a partition of {name}"),
            remedy: format!(
                "GRANT USAGE ON SCHEMA {} TO {reader_quoted}; GRANT SELECT ON {} TO {reader_quoted}",
                quote::identifier(&part.schema_name),
                quote::table(&part)
            ),
        }
    })
}

fn refuse(name: &TableName, class: &Row) -> Result<(), Error> {
    let table = quote::table(name);
    let what = match (class.get::<_, &str>("relkind"), class.get::<_, &str>("relpersistence")) {
        ("p", _) | ("r", "p") => None,
        ("r", "u") => Some(("an unlogged table", format!("ALTER TABLE {table} SET LOGGED"))),
        ("r", _) => Some(("a temporary table", "link a permanent table".to_owned())),
        ("v", _) => Some(("a view", "link the tables that it reads".to_owned())),
        ("m", _) => Some(("a materialized view", "link the tables that it reads".to_owned())),
        ("f", _) => Some(("a foreign table", "link the table at the server where it is".to_owned())),
        _ => Some(("not a table", "link a table".to_owned())),
    };
    if let Some((what, remedy)) = what {
        return Err(unsupported(format!("{name} is {what}"), remedy));
    }
    if class.get::<_, &str>("relkind") == "r" && class.get("has_children") {
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

/// Whether rows of a table that is described as `now` have all columns of `schema`, and no others.
pub fn same_rows(schema: &TableSchema, now: &TableSchema) -> bool {
    let known: Vec<_> = schema.columns.iter().filter(|column| !column.dropped).collect();
    let alike = |(known, now): (&&Column, &Column)| {
        (known.number, &known.name, known.travel, &known.source_type) == (now.number, &now.name, now.travel, &now.source_type)
    };
    let key = |schema: &TableSchema| schema.key.iter().map(|&column| schema.columns[column].number).collect::<Vec<_>>();
    (schema.object_id, &schema.name, key(schema)) == (now.object_id, &now.name, key(now))
        && known.len() == now.columns.len()
        && known.iter().zip(&now.columns).all(alike)
}

fn unsupported(message: String, remedy: String) -> Error {
    Error::TableNotSupported { message, remedy }
}

/// A type as `pg_attribute` and the stream name it: object id and modifier.
pub type TypeId = (u32, i32);

/// A type as columns have it.
#[derive(Clone, Debug)]
pub struct Type {
    /// How its values travel.
    pub travel: Travel,
    /// Its name in [`Column::source_type`].
    pub name: String,
    /// See [`Column::labels`].
    pub labels: Vec<(u32, String)>,
}

/// How types travel. Types that are gone are left out.
pub async fn types(client: &Client, wanted: &[TypeId]) -> Result<HashMap<TypeId, Type>, Error> {
    let (oids, modifiers): (Vec<u32>, Vec<i32>) = wanted.iter().copied().unzip();
    let resolve = |row: &Row| {
        let oid: u32 = row.get("typid");
        let name = match row.get::<_, Option<u32>>("element") {
            Some(element) => format!("{}[]", made_by_target(element, row.get("element_kind"), row.get("element_spelled"))),
            None => made_by_target(oid, row.get("kind"), row.get("spelled")),
        };
        let labels = row.get::<_, Vec<u32>>("label_ids").into_iter().zip(row.get::<_, Vec<String>>("labels")).collect();
        ((row.get("asked_type"), row.get("asked_modifier")), Type { travel: travel(oid, row.get("typmod")), name, labels })
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
        _ if column.dropped => format!("NULL::{}", column.source_type),
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
