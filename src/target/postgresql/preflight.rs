//! Whether the database is as a link needs it, and what cures it where it is not.

use tokio_postgres::{Client, Transaction};

use super::progress::OWN_SCHEMA;
use crate::{
    api::fault::{Check, Explain as _},
    postgresql::quote::identifier,
    target::Error,
};

/// The oldest version that works, as `server_version_num` writes it.
const OLDEST: i32 = 140_000;

/// A check that failed with this error.
pub(super) fn failed(name: &str, error: &Error) -> Check {
    Check::failed(name, error.fault())
}

/// What a connected session finds.
pub(super) async fn checks(session: &Client) -> Vec<Check> {
    match find(session).await {
        Ok((version, Ok(()))) => {
            vec![Check::passed("TargetReachable", version), Check::passed("TargetPrepared", "rights to make and fill tables")]
        }
        Ok((version, Err(error))) => vec![Check::passed("TargetReachable", version), failed("TargetPrepared", &error)],
        Err(error) => vec![failed("TargetReachable", &error)],
    }
}

/// The server's version, and what is missing.
async fn find(session: &Client) -> Result<(String, Result<(), Error>), Error> {
    let sql = "SELECT current_setting('server_version'), current_setting('server_version_num')::int, pg_is_in_recovery(),
                      current_setting('default_transaction_read_only')::bool, current_setting('server_encoding'),
                      current_user::text, current_database()::text,
                      has_database_privilege(current_database(), 'CREATE'), has_database_privilege(current_database(), 'TEMPORARY'),
                      n.oid IS NOT NULL, coalesce(has_schema_privilege(n.oid, 'CREATE') AND has_schema_privilege(n.oid, 'USAGE'), false),
                      (SELECT coalesce(bool_and(has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
                              AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE')), true)
                       FROM pg_class c WHERE c.relnamespace = n.oid AND c.relname IN ('link_progress', 'link_chunks'))
               FROM (SELECT) one LEFT JOIN pg_namespace n ON n.nspname = $1";
    let row = session.query_one(sql, &[&OWN_SCHEMA]).await?;
    let version = format!("PostgreSQL {}", row.get::<_, String>(0));
    let (user, database) = (identifier(row.get(5)), identifier(row.get(6)));
    let [may_create, may_temporary, own_schema, own_rights, own_tables] = [7, 8, 9, 10, 11].map(|at| row.get::<_, bool>(at));
    let not_prepared = |message: String, remedy: &str| Err(Error::TargetNotPrepared { message, remedy: remedy.to_owned() });
    let denied = |message: String, remedy: String| Err(Error::TargetPermissionDenied { message, remedy });

    let found = if row.get::<_, i32>(1) < OLDEST {
        not_prepared(format!("the target is {version}; 14 is the oldest that works"), "upgrade the target, or name another one")
    } else if row.get(2) {
        not_prepared("the target is a standby".to_owned(), "name the primary in spec.target.postgresql.host")
    } else if row.get(3) {
        not_prepared(
            "the target's transactions are read-only".to_owned(),
            "ALTER DATABASE or ALTER ROLE … SET default_transaction_read_only = off",
        )
    } else if row.get::<_, &str>(4) != "UTF8" {
        not_prepared(
            format!("the target's encoding is {}, which does not hold every text", row.get::<_, &str>(4)),
            "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, and name that one",
        )
    } else if !may_temporary {
        denied(
            format!("user {user} may not make temporary tables in {database}"),
            format!("GRANT TEMPORARY ON DATABASE {database} TO {user}"),
        )
    } else if !own_schema && !may_create {
        denied(
            format!("user {user} may not make the schema {OWN_SCHEMA} in {database}"),
            format!("CREATE SCHEMA {OWN_SCHEMA} AUTHORIZATION {user}, or GRANT CREATE ON DATABASE {database} TO {user}"),
        )
    } else if own_schema && !own_rights {
        denied(
            format!("user {user} may not use the schema {OWN_SCHEMA} of {database}"),
            format!("GRANT USAGE, CREATE ON SCHEMA {OWN_SCHEMA} TO {user}"),
        )
    } else if own_schema && !own_tables {
        denied(
            format!("user {user} may not use the tables of schema {OWN_SCHEMA} of {database}"),
            format!("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {OWN_SCHEMA} TO {user}"),
        )
    } else {
        Ok(())
    };
    Ok((version, found))
}

/// Whether the schema that a table is to stand in is there and lets the link make tables in it.
pub(super) async fn check_schema(transaction: &Transaction<'_>, schema: &str) -> Result<(), Error> {
    let sql = "SELECT current_user::text, has_schema_privilege(oid, 'CREATE') AND has_schema_privilege(oid, 'USAGE')
               FROM pg_namespace WHERE nspname = $1";
    let Some(row) = transaction.query_opt(sql, &[&schema]).await? else {
        return Err(Error::TargetSchemaMissing(schema.to_owned()));
    };
    if row.get(1) {
        return Ok(());
    }
    let user = identifier(row.get(0));
    Err(Error::TargetPermissionDenied {
        message: format!("user {user} may not make tables in schema {schema} of the target"),
        remedy: format!("GRANT USAGE, CREATE ON SCHEMA {} TO {user}", identifier(schema)),
    })
}
