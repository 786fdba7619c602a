//! A table that stood in the target before the link: whether it can be taken over as it stands, and how that begins.
//!
//! Nothing is written before all is as it must be: the columns that the link would make itself, a unique index by which rows are
//! found, and nothing that would refuse or alter rows as the source has them.

use tokio_postgres::{Row, Transaction};

use super::{
    ddl,
    progress::{self, Existing},
    snapshot::claim_of,
};
use crate::{
    api::database::OnExistingTable,
    data::TableSchema,
    postgresql::quote::{self, identifier, literal},
    target::{Error, Incarnation, TargetTable, aside},
};

/// So many differences are named at once.
const NAMED: usize = 5;

/// A column of the table, of what is needed, or of both.
struct Field {
    name: String,
    /// The type that the link would make; none: the source has no such column.
    needed: Option<String>,
    has: Option<Has>,
}

/// A column as the table has it.
#[derive(Default)]
struct Has {
    number: i16,
    kind: String,
    not_null: bool,
    /// A row that does not name it has a value there all the same.
    filled: bool,
    /// What takes away that it cannot lose NOT NULL, as ALTER COLUMN wants it: it is an identity.
    never_null: Option<&'static str>,
    /// What takes away that no value can be written to it, as ALTER COLUMN wants it.
    unwritable: Option<&'static str>,
    /// Different texts are equal in it.
    loose: bool,
}

/// What keeps the table from being taken over, and the statement that cures it.
#[derive(Debug, PartialEq, Eq)]
struct Difference {
    what: String,
    cure: String,
}

/// Whether the table can be taken over: `TargetTableDiffers` if not.
pub(super) async fn check(
    transaction: &Transaction<'_>,
    table: &TargetTable,
    schema: &TableSchema,
    existing: &Existing,
) -> Result<(), Error> {
    let kind = "SELECT CASE relkind WHEN 'p' THEN 'a partitioned table' WHEN 'v' THEN 'a view' WHEN 'm' THEN 'a materialized view'
                       WHEN 'f' THEN 'a foreign table' ELSE 'no table' END, pg_has_role(relowner, 'USAGE'), current_user::text
                FROM pg_class WHERE oid = $1";
    let found = transaction.query_one(kind, &[&existing.oid]).await?;
    let quoted = quote::table(&table.name);
    if !existing.replaceable {
        let difference = format!("it is {}, not an ordinary table", found.get::<_, &str>(0));
        return Err(Error::TargetTableDiffers { table: table.name.clone(), difference, remedy: format!("rename or drop {}", table.name) });
    }
    if !found.get::<_, bool>(1) {
        let user = identifier(found.get(2));
        return Err(Error::TargetPermissionDenied {
            message: format!("user {user} does not own table {} of the target, which it is to adopt", table.name),
            remedy: format!("ALTER TABLE {quoted} OWNER TO {user}"),
        });
    }
    let fields = fields(transaction, schema, existing.oid).await?;
    let key: Vec<&str> = schema.key.iter().map(|&column| schema.columns[column].name.as_str()).collect();
    let mut differences = of_columns(&quoted, &key, &fields);
    differences.extend(of_table(transaction, &quoted, &key, &fields, existing.oid).await?);
    if differences.is_empty() { Ok(()) } else { Err(differs(table, &differences)) }
}

fn differs(table: &TargetTable, differences: &[Difference]) -> Error {
    let mut whats: Vec<&str> = differences.iter().take(NAMED).map(|difference| difference.what.as_str()).collect();
    let more = format!("and {} more", differences.len().saturating_sub(NAMED));
    if differences.len() > NAMED {
        whats.push(&more);
    }
    let cures: Vec<&str> = differences.iter().take(NAMED).map(|difference| difference.cure.as_str()).collect();
    let remedy = format!("{}; or set spec.target.….onExistingTable to Recreate", cures.join("; "));
    Error::TargetTableDiffers { table: table.name.clone(), difference: whats.join("; "), remedy }
}

/// The columns side by side with those that the link would make, by a table of its own that goes with the transaction: so the
/// server itself says what is the same type.
async fn fields(transaction: &Transaction<'_>, schema: &TableSchema, oid: u32) -> Result<Vec<Field>, Error> {
    let create = format!("CREATE TEMPORARY TABLE link_needed ({}) ON COMMIT DROP", ddl::column_definitions(schema));
    transaction.batch_execute(&create).await?;
    let sql = "
        WITH columns AS (SELECT * FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped)
        SELECT coalesce(needed.attname, has.attname)::text, format_type(needed.atttypid, needed.atttypmod),
            format_type(has.atttypid, has.atttypmod), has.attnum, has.attnotnull,
            has.atthasdef OR has.attidentity <> '' OR has.attgenerated <> '', has.attgenerated <> '', has.attidentity = 'a',
            has.attidentity <> '', NOT coalesce((SELECT collisdeterministic FROM pg_collation WHERE oid = has.attcollation), true)
        FROM (SELECT * FROM columns WHERE attrelid = 'pg_temp.link_needed'::regclass) needed
        FULL JOIN (SELECT * FROM columns WHERE attrelid = $1) has USING (attname)
        ORDER BY needed.attnum, has.attnum";
    let field = |row: &Row| Field {
        name: row.get(0),
        needed: row.get(1),
        has: row.get::<_, Option<String>>(2).map(|kind| Has {
            kind,
            number: row.get(3),
            not_null: row.get(4),
            filled: row.get(5),
            unwritable: match (row.get(6), row.get(7)) {
                (true, _) => Some("DROP EXPRESSION"),
                (_, true) => Some("SET GENERATED BY DEFAULT"),
                _ => None,
            },
            never_null: row.get::<_, bool>(8).then_some("DROP IDENTITY"),
            loose: row.get(9),
        }),
    };
    let fields = transaction.query(sql, &[&oid]).await?.iter().map(field).collect();
    transaction.batch_execute("DROP TABLE pg_temp.link_needed").await?;
    Ok(fields)
}

/// What is wrong with the columns. Pure.
fn of_columns(table: &str, key: &[&str], fields: &[Field]) -> Vec<Difference> {
    let mut differences = Vec::new();
    for Field { name, needed, has } in fields {
        let mut add = |what: String, cure: String| differences.push(Difference { what, cure: format!("ALTER TABLE {table} {cure}") });
        let column = identifier(name);
        match (needed, has) {
            (Some(needed), None) => {
                add(format!("it has no column {name}, which must be {needed}"), format!("ADD COLUMN {column} {needed}"));
            }
            (Some(needed), Some(has)) => {
                if has.kind != *needed {
                    let cure = format!("ALTER COLUMN {column} TYPE {needed} USING {column}::{needed}");
                    add(format!("its column {name} is {}, and must be {needed}", has.kind), cure);
                }
                if let Some(cure) = has.unwritable {
                    add(format!("its column {name} is generated, and must be written to"), format!("ALTER COLUMN {column} {cure}"));
                }
                let is_key = key.contains(&name.as_str());
                if let Some(cure) = has.never_null.filter(|_| !is_key) {
                    add(format!("its column {name} is an identity, and must allow NULL"), format!("ALTER COLUMN {column} {cure}"));
                }
                if is_key && !has.not_null {
                    let cure = format!("ALTER COLUMN {column} SET NOT NULL");
                    add(format!("its column {name} allows NULL, and must not: it is of the key"), cure);
                }
                if is_key && has.loose {
                    let cure = format!("ALTER COLUMN {column} TYPE {needed} COLLATE pg_catalog.\"default\"");
                    add(format!("its column {name} has a collation in which different keys are equal, and must have another"), cure);
                }
            }
            (None, Some(has)) if has.not_null && !has.filled => {
                let cure = format!("ALTER COLUMN {column} DROP NOT NULL");
                add(format!("its column {name}, which the source does not have, refuses NULL, and must allow it or have a default"), cure);
            }
            (None, _) => {}
        }
    }
    differences
}

/// What is wrong with the table besides: no index by which rows are found, or what would refuse or alter rows as the source has
/// them, or write others.
async fn of_table(transaction: &Transaction<'_>, table: &str, key: &[&str], fields: &[Field], oid: u32) -> Result<Vec<Difference>, Error> {
    let number = |name: &&str| fields.iter().find(|field| field.name == **name)?.has.as_ref().map(|has| has.number);
    let numbers: Vec<i16> = key.iter().filter_map(number).collect();
    let others = fields.iter().filter(|field| field.needed.is_some() && !key.contains(&field.name.as_str()));
    let others: Vec<i16> = others.filter_map(|field| Some(field.has.as_ref()?.number)).collect();
    // Another unique index refuses rows that change their values among each other, unless it has the key's columns.
    let sql = "
        WITH this AS (SELECT * FROM pg_class WHERE oid = $1),
        loose AS (
            SELECT indexrelid FROM pg_index CROSS JOIN LATERAL unnest(indkey::int2[], indcollation::oid[]) AS part (number, collated)
            JOIN pg_attribute ON attrelid = indrelid AND attnum = number AND attcollation <> collated
            JOIN pg_collation c ON c.oid = collated AND NOT collisdeterministic WHERE indrelid = $1)
        SELECT 'it is unlogged: a crash of the server empties it', format('ALTER TABLE %s SET LOGGED', $3)
        FROM this WHERE relpersistence = 'u'
        UNION ALL
        SELECT format('it is a partition of %s', inhparent::regclass), format('ALTER TABLE %s DETACH PARTITION %s', inhparent::regclass, $3)
        FROM this JOIN pg_inherits ON inhrelid = oid WHERE relispartition
        UNION ALL
        SELECT format('%s inherits from it', inhrelid::regclass), format('ALTER TABLE %s NO INHERIT %s', inhrelid::regclass, $3)
        FROM pg_inherits WHERE inhparent = $1
        UNION ALL
        SELECT 'row security is forced on it', format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY', $3)
        FROM this WHERE relrowsecurity AND relforcerowsecurity
        UNION ALL
        SELECT format('constraint %I of %s may refuse what the source has', conname, conrelid::regclass),
            format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname)
        FROM pg_constraint WHERE (conrelid = $1 AND contype IN ('c', 'f', 'x')) OR (confrelid = $1 AND contype = 'f')
        UNION ALL
        SELECT format(CASE WHEN indexrelid IN (SELECT * FROM loose) THEN 'its unique index %s has a collation in which different keys are equal'
                           ELSE 'its unique index %s is not on the key' END, indexrelid::regclass),
            CASE WHEN c.oid IS NULL THEN format('DROP INDEX %s', indexrelid::regclass)
                 ELSE format('ALTER TABLE %s DROP CONSTRAINT %I', $3, conname) END
        FROM pg_index LEFT JOIN pg_constraint c ON conindid = indexrelid AND contype IN ('p', 'u')
        WHERE indrelid = $1 AND indisunique AND (indexrelid IN (SELECT * FROM loose) OR NOT (indkey::int2[])[0:indnkeyatts - 1] @> $2)
        UNION ALL
        SELECT format('its index %s refuses NULL in columns that are not of the key', indexrelid::regclass),
            CASE WHEN indisprimary THEN format('ALTER TABLE %s DROP CONSTRAINT %I', $3, conname)
                 ELSE format('ALTER TABLE %s REPLICA IDENTITY DEFAULT', $3) END
        FROM pg_index LEFT JOIN pg_constraint c ON conindid = indexrelid AND contype = 'p'
        WHERE indrelid = $1 AND (indisprimary OR indisreplident)
          AND (indkey::int2[])[0:indnkeyatts - 1] @> $2 AND (indkey::int2[])[0:indnkeyatts - 1] && $5
        UNION ALL
        SELECT format('trigger %I acts on its rows', tgname), format('ALTER TABLE %s DISABLE TRIGGER %I', $3, tgname)
        FROM pg_trigger WHERE tgrelid = $1 AND NOT tgisinternal AND tgenabled IN ('O', 'A')
        UNION ALL
        SELECT format('rule %I acts on its rows', rulename), format('DROP RULE %I ON %s', rulename, $3)
        FROM pg_rewrite WHERE ev_class = $1
        UNION ALL
        SELECT format('subscription %I writes to it', subname), format('ALTER SUBSCRIPTION %I DISABLE', subname)
        FROM pg_subscription_rel JOIN pg_subscription s ON s.oid = srsubid WHERE srrelid = $1 AND subenabled
        UNION ALL
        SELECT format('it has no unique index on (%s)', $4), format('CREATE UNIQUE INDEX ON %s (%s)', $3, $4)
        WHERE NOT EXISTS (
            SELECT FROM pg_index WHERE indrelid = $1 AND indisunique AND indisvalid AND indimmediate AND indpred IS NULL
            AND indexrelid NOT IN (SELECT * FROM loose) AND indnkeyatts = cardinality($2) AND (indkey::int2[])[0:indnkeyatts - 1] = $2)";
    let key = key.iter().map(|name| identifier(name)).collect::<Vec<_>>().join(", ");
    // `$1` has one type in the whole statement, and so has each other.
    let sql = sql
        .replace("$1", "$1::oid")
        .replace("$2", "$2::int2[]")
        .replace("$3", "$3::text")
        .replace("$4", "$4::text")
        .replace("$5", "$5::int2[]");
    let rows = transaction.query(&sql, &[&oid, &numbers, &table, &key, &others]).await?;
    Ok(rows.iter().map(|row| Difference { what: row.get(0), cure: row.get(1) }).collect())
}

/// Takes the table over, see [`crate::target::Target::adopt`].
pub(super) async fn begin(
    transaction: &Transaction<'_>,
    table: &TargetTable,
    schema: &TableSchema,
    incarnation: Incarnation,
    on_existing: OnExistingTable,
) -> Result<u64, Error> {
    let claimed = claim_of(transaction, table).await?;
    match claimed.progress {
        Some(progress) if progress.incarnation > incarnation => {
            return Err(progress::moved(table, &format!("{:?} has begun", progress.incarnation)));
        }
        Some(progress) if progress.incarnation == incarnation => return Ok(progress.record),
        _ => {}
    }
    let Some(existing) = progress::existing(transaction, &table.name).await? else {
        return Err(Error::TargetInconsistent(format!("table {}, which the link was to adopt, is gone", table.name)));
    };
    // Told to be careful meanwhile, or altered since it was claimed.
    if on_existing == OnExistingTable::Fail {
        progress::check_replaceable(table, &existing, claimed.placed, on_existing)?;
    }
    check(transaction, table, schema, &existing).await?;
    progress::drop_aside(transaction, table).await?;
    relax(transaction, table, schema, existing.oid).await?;
    let comment = format!("COMMENT ON TABLE {} IS {}", quote::table(&table.name), literal(&aside::mark(table)));
    transaction.batch_execute(&comment).await?;
    progress::begin(transaction, table, incarnation).await?;
    progress::set_placed(transaction, table, existing.oid).await?;
    Ok(incarnation.record)
}

/// Lets all columns but the key's be NULL: as in tables that the link makes, they must hold whatever the source holds, now and
/// later. Readers see nothing of it.
async fn relax(transaction: &Transaction<'_>, table: &TargetTable, schema: &TableSchema, oid: u32) -> Result<(), Error> {
    let others = schema.columns.iter().enumerate().filter(|(at, _)| !schema.key.contains(at));
    let others: Vec<&str> = others.map(|(_, column)| column.name.as_str()).collect();
    let sql = "SELECT attname::text FROM pg_attribute
               WHERE attrelid = $1 AND attname = ANY ($2::text[]) AND NOT attisdropped AND attnotnull";
    let rows = transaction.query(sql, &[&oid, &others]).await?;
    if rows.is_empty() {
        return Ok(());
    }
    let alter: Vec<String> = rows.iter().map(|row| format!("ALTER COLUMN {} DROP NOT NULL", identifier(row.get(0)))).collect();
    let alter = format!("ALTER TABLE {} {}", quote::table(&table.name), alter.join(", "));
    // Readers must not queue behind a long wait for the lock.
    transaction.batch_execute(&format!("SET LOCAL lock_timeout = '5s'; {alter}; SET LOCAL lock_timeout TO DEFAULT")).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str, needed: Option<&str>, has: Option<Has>) -> Field {
        Field { name: name.to_owned(), needed: needed.map(str::to_owned), has }
    }

    fn has(kind: &str) -> Has {
        Has { kind: kind.to_owned(), ..Has::default() }
    }

    #[test]
    fn each_difference_of_a_column_is_named_and_cured() {
        let fields = [
            field("id", Some("bigint"), Some(Has { not_null: true, ..has("bigint") })),
            field("v", Some("numeric(10,2)"), Some(Has { not_null: true, ..has("numeric(10,2)") })),
            field("extra", None, Some(has("text"))),
            field("filled", None, Some(Has { not_null: true, filled: true, ..has("text") })),
        ];
        assert_eq!(of_columns("t", &["id"], &fields), []);

        for (key, field, what, cure) in [
            ("id", field("a", Some("text"), None), "it has no column a, which must be text", "ADD COLUMN \"a\" text"),
            (
                "id",
                field("a", Some("text"), Some(has("integer"))),
                "its column a is integer, and must be text",
                "ALTER COLUMN \"a\" TYPE text USING \"a\"::text",
            ),
            (
                "id",
                field("a", Some("text"), Some(Has { unwritable: Some("DROP EXPRESSION"), ..has("text") })),
                "its column a is generated, and must be written to",
                "ALTER COLUMN \"a\" DROP EXPRESSION",
            ),
            (
                "id",
                field("a", Some("bigint"), Some(Has { never_null: Some("DROP IDENTITY"), not_null: true, ..has("bigint") })),
                "its column a is an identity, and must allow NULL",
                "ALTER COLUMN \"a\" DROP IDENTITY",
            ),
            (
                "a",
                field("a", Some("text"), Some(has("text"))),
                "its column a allows NULL, and must not: it is of the key",
                "ALTER COLUMN \"a\" SET NOT NULL",
            ),
            (
                "a",
                field("a", Some("text"), Some(Has { not_null: true, loose: true, ..has("text") })),
                "its column a has a collation in which different keys are equal, and must have another",
                "ALTER COLUMN \"a\" TYPE text COLLATE pg_catalog.\"default\"",
            ),
            (
                "id",
                field("a", None, Some(Has { not_null: true, ..has("text") })),
                "its column a, which the source does not have, refuses NULL, and must allow it or have a default",
                "ALTER COLUMN \"a\" DROP NOT NULL",
            ),
        ] {
            let found = of_columns("t", &[key], &[field]);
            assert_eq!(found, [Difference { what: what.to_owned(), cure: format!("ALTER TABLE t {cure}") }]);
        }
    }
}
