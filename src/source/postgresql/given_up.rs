//! The log that the server keeps for the link, and giving it up.
//!
//! Whose the position is stands on the publication. That it was given up is written there before the slot goes, and goes with it
//! when the next run begins: both are known for as long as they matter, to whoever asks, even if neither landing zone nor
//! controller can be reached.

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

/// Begin of the publication's comment; the owner follows.
const OURS: &str = "link-operator";
/// Then, if the position was given up, why.
const GAVE_UP: &str = " gave up: ";

/// What the publication's comment says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Note {
    /// UID of the LinkConnection whose position it is. A former version did not write it: then it is taken for that of whoever asks.
    owner: Option<String>,
    /// Why the position was given up.
    given_up: Option<String>,
}

/// The publication's comment.
pub fn comment(owner: &str, given_up: Option<&str>) -> String {
    format!("{OURS} {owner}{}", given_up.map(|why| format!("{GAVE_UP}{why}")).unwrap_or_default())
}

impl Note {
    fn parse(comment: &str) -> Self {
        let Some(rest) = comment.strip_prefix(OURS) else { return Self::default() };
        let (owner, given_up) = rest.split_once(GAVE_UP).map_or((rest, None), |(owner, why)| (owner, Some(why.to_owned())));
        Self { owner: owner.strip_prefix(' ').map(str::to_owned), given_up }
    }
}

async fn note(client: &Client, name: &str) -> Result<Note, Error> {
    let sql = "SELECT obj_description(oid, 'pg_publication') FROM pg_publication WHERE pubname = $1";
    let comment = client.query_opt(sql, &[&name]).await?.and_then(|row| row.get::<_, Option<String>>(0));
    Ok(comment.map(|comment| Note::parse(&comment)).unwrap_or_default())
}

/// Why the position was given up, if it was.
pub async fn mark(client: &Client, name: &str) -> Result<Option<String>, Error> {
    Ok(note(client, name).await?.given_up)
}

/// See [`crate::source::Source::take_over`]. That the position was given up stays written.
pub async fn take_over(client: &Client, name: &str, owner: &str) -> Result<(), Error> {
    let exists = client.query_opt("SELECT FROM pg_publication WHERE pubname = $1", &[&name]).await?.is_some();
    let note = note(client, name).await?;
    if !exists || note.owner.as_deref() == Some(owner) {
        return Ok(());
    }
    let comment = quote::literal(&comment(owner, note.given_up.as_deref()));
    Ok(client.batch_execute(&format!("COMMENT ON PUBLICATION {} IS {comment}", quote::identifier(name))).await?)
}

/// See [`crate::source::Source::retained_log`].
pub async fn retained(client: &Client, name: &str, owner: &str) -> Result<Option<RetainedLog>, Error> {
    let note = note(client, name).await?;
    if note.owner.is_some_and(|theirs| theirs != owner) {
        return Ok(None);
    }
    if let Some(why) = note.given_up {
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
pub async fn give_up(client: &Client, name: &str, above: u64, owner: &str) -> Result<Option<RetainedLog>, Error> {
    match retained(client, name, owner).await {
        Ok(Some(log)) if log.bytes > above => {
            let why = format!(
                "the source kept {} of log for the link, more than the {} that spec.sourceProtection.maxRetainedLog allows",
                readable(log.bytes),
                readable(above)
            );
            if leave_mark(client, name, &comment(owner, Some(&why))).await? {
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
async fn leave_mark(client: &Client, name: &str, mark: &str) -> Result<bool, Error> {
    let statement = format!(
        "SET synchronous_commit = local; SET lock_timeout = '3s'; COMMENT ON PUBLICATION {} IS {}",
        quote::identifier(name),
        quote::literal(mark)
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
                    WHERE pubname = $1 AND obj_description(oid, 'pg_publication') LIKE $2)";
    let marked = format!("{OURS}%{GAVE_UP}%");
    while slot::find(client, name).await?.is_some() && mark(client, name).await?.is_some() {
        slot::end_reader(client, name).await?;
        match client.execute(drop, &[&name, &marked]).await {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_says_whose_the_position_is_and_why_it_was_given_up() {
        let note = |owner: Option<&str>, why: Option<&str>| Note { owner: owner.map(str::to_owned), given_up: why.map(str::to_owned) };
        for (comment, expected) in [
            (comment("a-1", None), note(Some("a-1"), None)),
            (comment("a-1", Some("it gave up: so")), note(Some("a-1"), Some("it gave up: so"))),
            // Of a former version.
            ("link-operator gave up: too much".to_owned(), note(None, Some("too much"))),
            ("somebody's".to_owned(), note(None, None)),
        ] {
            assert_eq!(Note::parse(&comment), expected, "{comment}");
        }
    }
}
