//! The link's replication slot: from where changes are kept.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

use super::lsn::Lsn;
use crate::{postgresql::errors, source::Error};

/// Longest wait for a reader of the slot that was told to end.
pub const END_WAIT: Duration = Duration::from_secs(10);

/// A slot as the server shows it.
pub struct Slot {
    /// Backend that reads from it.
    pub active_pid: Option<i32>,
    /// Nothing before is sent any more.
    pub confirmed: Option<Lsn>,
    /// Why it cannot be read any more.
    pub lost: Option<String>,
    /// Log that the server keeps for it.
    pub retained_bytes: Option<u64>,
    /// Log that may be written before the server keeps it no longer (`max_slot_wal_keep_size`); none if it always does.
    pub room_bytes: Option<u64>,
}

/// Makes the slot; says from where changes will come. Waits for all transactions that are open now.
pub async fn create(client: &Client, name: &str) -> Result<Lsn, Error> {
    let version: i32 = client.query_one("SELECT current_setting('server_version_num')::int4", &[]).await?.get(0);
    // From 17 on a standby can carry the slot through a failover.
    let failover = if version >= 170_000 { ", failover => true" } else { "" };
    let statement = format!("SELECT lsn::text FROM pg_create_logical_replication_slot($1, 'pgoutput'{failover})");
    match client.query_one(&statement, &[&name]).await {
        Ok(row) => row.get::<_, &str>(0).parse(),
        // Names of slots are the server's, not the database's.
        Err(error) if errors::class(&error) == errors::Class::ObjectExists => Err(Error::SourceNotPrepared {
            message: format!("replication slot {name} belongs to a link with the same id to another database of this server"),
            remedy: "give one of the two links another id".to_owned(),
        }),
        Err(error) if errors::class(&error) == errors::Class::ResourcesExhausted => Err(Error::SourceNotPrepared {
            message: errors::message(&error),
            remedy: "ALTER SYSTEM SET max_replication_slots = …, then restart; or drop slots that nobody needs".to_owned(),
        }),
        Err(error) => Err(error.into()),
    }
}

/// Looks at the slot of this database.
pub async fn find(client: &Client, name: &str) -> Result<Option<Slot>, Error> {
    let row = client
        .query_opt(
            "SELECT active_pid, confirmed_flush_lsn::text AS confirmed, wal_status = 'lost' OR restart_lsn IS NULL AS lost, \
                    plugin = 'pgoutput' AS ours, \
                    CASE WHEN pg_is_in_recovery() THEN NULL \
                         ELSE pg_wal_lsn_diff(pg_current_wal_insert_lsn(), restart_lsn)::int8 END AS retained, \
                    safe_wal_size \
               FROM pg_replication_slots WHERE slot_name = $1 AND database = current_database()",
            &[&name],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    let lost = if !row.get::<_, Option<bool>>("ours").unwrap_or(false) {
        Some("is not one that link-operator made".to_owned())
    } else if row.get::<_, Option<bool>>("lost").unwrap_or(true) {
        Some("was invalidated: the server removed log that it needed (max_slot_wal_keep_size)".to_owned())
    } else {
        None
    };
    Ok(Some(Slot {
        active_pid: row.get("active_pid"),
        confirmed: row.get::<_, Option<&str>>("confirmed").map(str::parse).transpose()?,
        lost,
        retained_bytes: row.get::<_, Option<i64>>("retained").map(|bytes| bytes.max(0) as u64),
        room_bytes: row.get::<_, Option<i64>>("safe_wal_size").map(|bytes| bytes.max(0) as u64),
    }))
}

/// Ends whoever reads from the slot, and waits until he is gone.
pub async fn end_reader(client: &Client, name: &str) -> Result<(), Error> {
    let until = Instant::now() + END_WAIT;
    while let Some(pid) = find(client, name).await?.and_then(|slot| slot.active_pid) {
        if Instant::now() > until {
            return Err(Error::SlotInUse(format!("process {pid} of the server does not let go of slot {name}")));
        }
        client.execute("SELECT pg_terminate_backend($1)", &[&pid]).await?;
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Removes the slot if it is there, whoever reads from it.
pub async fn remove(client: &Client, name: &str) -> Result<(), Error> {
    let until = Instant::now() + END_WAIT;
    while find(client, name).await?.is_some() {
        end_reader(client, name).await?;
        match client.execute("SELECT pg_drop_replication_slot($1)", &[&name]).await {
            // A reader came in between.
            Err(error) if errors::class(&error) == errors::Class::ObjectInUse && Instant::now() < until => {}
            Err(error) if errors::class(&error) == errors::Class::ObjectMissing => return Ok(()),
            other => {
                other?;
            }
        }
    }
    Ok(())
}
