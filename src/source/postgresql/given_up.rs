//! The log that the server keeps for the link, and giving it up.
//!
//! That a position was given up is written on the publication before the slot goes, and goes with it when the next run begins:
//! it is known for as long as it matters, to whoever asks, even if neither landing zone nor controller can be reached.

use tokio::time::Instant;
use tokio_postgres::Client;

use super::slot;
use crate::{
    api::source_protection::readable,
    postgresql::{
        errors::{self, Class},
        quote,
    },
    source::{Error, RetainedLog},
};

/// Begin of the publication's comment.
const MARK: &str = "link-operator gave up: ";

/// Why the position was given up, if it was.
pub async fn mark(client: &Client, name: &str) -> Result<Option<String>, Error> {
    let sql = "SELECT obj_description(oid, 'pg_publication') FROM pg_publication WHERE pubname = $1";
    let comment = client.query_opt(sql, &[&name]).await?.and_then(|row| row.get::<_, Option<String>>(0));
    Ok(comment.and_then(|comment| comment.strip_prefix(MARK).map(str::to_owned)))
}

/// See [`crate::source::Source::retained_log`].
pub async fn retained(client: &Client, name: &str) -> Result<Option<RetainedLog>, Error> {
    if let Some(why) = mark(client, name).await? {
        return Err(Error::PositionGivenUp(why));
    }
    let Some(slot) = slot::find(client, name).await? else { return Ok(None) };
    if let Some(why) = slot.lost {
        return Err(Error::PositionLost(format!("replication slot {name} {why}")));
    }
    Ok(slot.retained_bytes.map(|bytes| RetainedLog { bytes, room: slot.room_bytes }))
}

/// See [`crate::source::Source::give_up`]. Who dies between mark and drop leaves a slot that nobody goes on from: the next
/// call drops it, or the beginning of the next run.
pub async fn give_up(client: &Client, name: &str, above: u64) -> Result<Option<RetainedLog>, Error> {
    match retained(client, name).await {
        Ok(Some(log)) if log.bytes > above => {
            let why = format!(
                "the source kept {} of log for the link, more than the {} that spec.sourceProtection.maxRetainedLog allows",
                readable(log.bytes),
                readable(above)
            );
            if leave_mark(client, name, &why).await? {
                remove_marked(client, name).await?;
            } else {
                slot::remove(client, name).await?;
            }
            Err(Error::PositionGivenUp(why))
        }
        Err(error @ Error::PositionGivenUp(_)) => {
            remove_marked(client, name).await?;
            Err(error)
        }
        other => other,
    }
}

/// Whether it could be left. Nobody is waited for: neither a standby's word nor a lock. A disk that fills comes before a mark that
/// cannot be left: without it the position is lost all the same, and the link says so.
async fn leave_mark(client: &Client, name: &str, why: &str) -> Result<bool, Error> {
    let statement = format!(
        "SET synchronous_commit = local; SET lock_timeout = '3s'; COMMENT ON PUBLICATION {} IS {}",
        quote::identifier(name),
        quote::literal(&format!("{MARK}{why}"))
    );
    match client.batch_execute(&statement).await {
        Err(error) if errors::class(&error) == Class::ConnectionLost => Err(error.into()),
        Err(error) => {
            tracing::warn!(error = errors::message(&error), "that the position is given up cannot be written on the publication");
            Ok(false)
        }
        Ok(()) => Ok(true),
    }
}

/// Removes the slot while the mark is there: when a run begins, the mark goes before its slot comes, which must stay.
async fn remove_marked(client: &Client, name: &str) -> Result<(), Error> {
    let until = Instant::now() + slot::END_WAIT;
    let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
                WHERE slot_name = $1 AND EXISTS (SELECT FROM pg_publication
                    WHERE pubname = $1 AND starts_with(obj_description(oid, 'pg_publication'), $2))";
    while slot::find(client, name).await?.is_some() && mark(client, name).await?.is_some() {
        slot::end_reader(client, name).await?;
        match client.execute(drop, &[&name, &MARK]).await {
            // A reader came in between.
            Err(error) if errors::class(&error) == Class::ObjectInUse && Instant::now() < until => {}
            Err(error) if errors::class(&error) == Class::ObjectMissing => return Ok(()),
            other => {
                other?;
            }
        }
    }
    Ok(())
}
