//! Whether a server is as a link needs it.

use tokio_postgres::Client;

use super::Postgresql;
use crate::{
    api::fault::{Check, Explain as _},
    postgresql::quote,
    source::Error,
};

/// Asks both questions; each failed one names the statement that cures it.
pub async fn preflight(source: &Postgresql) -> Vec<Check> {
    let session = match source.session().await {
        Ok(session) => session,
        Err(error) => return vec![Check::failed("SourceReachable", error.fault())],
    };
    match prepared(&session, &source.name).await {
        Ok(version) => vec![Check::passed("SourceReachable", version.clone()), Check::passed("SourcePrepared", version)],
        // The connection broke in between.
        Err(error @ Error::SourceUnreachable(_)) => vec![Check::failed("SourceReachable", error.fault())],
        Err(error) => vec![Check::passed("SourceReachable", String::new()), Check::failed("SourcePrepared", error.fault())],
    }
}

const QUESTIONS: &str = "\
SELECT current_setting('server_version_num')::int4 AS number, current_setting('server_version') AS version, \
       current_setting('wal_level') AS wal_level, pg_is_in_recovery() AS standby, \
       current_setting('max_replication_slots')::int8 - (SELECT count(*) FROM pg_replication_slots) AS free_slots, \
       EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1) AS has_slot, \
       current_setting('max_wal_senders')::int8 - (SELECT count(*) FROM pg_stat_replication) AS free_senders, \
       EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1 AND active) AS has_sender, \
       r.rolsuper OR r.rolreplication \
         OR EXISTS (SELECT FROM pg_roles WHERE rolname = 'rds_replication' AND pg_has_role(oid, 'MEMBER')) AS may_replicate, \
       has_database_privilege(current_database(), 'CREATE') AS may_publish, \
       current_database()::text AS database, current_user::text AS user \
  FROM pg_roles r WHERE r.rolname = current_user";

async fn prepared(client: &Client, slot: &str) -> Result<String, Error> {
    let row = client.query_one(QUESTIONS, &[&slot]).await?;
    let version = format!("PostgreSQL {}", row.get::<_, &str>("version"));
    let user = quote::identifier(row.get("user"));
    let not_prepared = |message: &str, remedy: &str| Error::SourceNotPrepared { message: message.to_owned(), remedy: remedy.to_owned() };
    if row.get::<_, i32>("number") < 140_000 {
        return Err(not_prepared(&format!("{version} is too old"), "upgrade the server to PostgreSQL 14 or newer"));
    }
    if row.get("standby") {
        return Err(not_prepared("the server is a standby", "name the primary in spec.source.postgresql.host"));
    }
    if row.get::<_, &str>("wal_level") != "logical" {
        return Err(not_prepared(
            &format!("wal_level is {}, not logical", row.get::<_, &str>("wal_level")),
            "ALTER SYSTEM SET wal_level = 'logical', then restart the server (managed services: set rds.logical_replication or wal_level \
             in the parameter group)",
        ));
    }
    if !row.get::<_, bool>("may_replicate") {
        return Err(Error::SourcePermissionDenied {
            message: format!("user {user} may not replicate"),
            remedy: format!("ALTER ROLE {user} REPLICATION (Amazon RDS: GRANT rds_replication TO {user})"),
        });
    }
    if !row.get::<_, bool>("may_publish") {
        return Err(Error::SourcePermissionDenied {
            message: format!("user {user} may not make a publication in database {}", row.get::<_, &str>("database")),
            remedy: format!("GRANT CREATE ON DATABASE {} TO {user}", quote::identifier(row.get("database"))),
        });
    }
    if !row.get::<_, bool>("has_slot") && row.get::<_, i64>("free_slots") <= 0 {
        return Err(not_prepared(
            "all replication slots are in use",
            "ALTER SYSTEM SET max_replication_slots = …, then restart; or drop slots that nobody needs (pg_replication_slots)",
        ));
    }
    if !row.get::<_, bool>("has_sender") && row.get::<_, i64>("free_senders") <= 0 {
        return Err(not_prepared("all WAL senders are in use", "ALTER SYSTEM SET max_wal_senders = …, then restart the server"));
    }
    Ok(version)
}
