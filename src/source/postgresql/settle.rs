//! The double wait of DESIGN 5.3, step 1: until every transaction knows of a change of the publication.

use std::{pin::pin, time::Duration};

use tokio::time::sleep;
use tokio_postgres::Client;

use super::{Postgresql, chunks, lsn::Lsn};
use crate::{
    protection::Protection,
    source::{
        Error,
        limits::{Kind, Permit},
    },
};

/// Longest pause between two looks.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Waits out all older transactions, takes v0, waits them out again: a commit record may precede v0 while its rows are
/// still invisible to a snapshot.
pub async fn settle(source: &Postgresql, waiting: &(dyn Fn(Option<String>) + Send + Sync)) -> Result<Lsn, Error> {
    let session = source.session_in(place(source, waiting).await).await?;
    let tell = |whom: Option<String>| {
        source.waits_for.send_replace(whom.clone());
        waiting(whom);
    };
    wait_out(&session, &tell).await?;
    let v0 = chunks::insert_lsn(&session).await?;
    chunks::flush(source, v0, Lsn::default()).await?;
    wait_out(&session, &tell).await?;
    Ok(v0)
}

/// A place among those who wait. Until there is one, who is in it waits for the same transactions, and says for whom.
async fn place(source: &Postgresql, waiting: &(dyn Fn(Option<String>) + Send + Sync)) -> Permit {
    let mut others = source.waits_for.subscribe();
    others.mark_changed();
    let mut told = None;
    let mut permit = pin!(source.limits.permit(Kind::Wait));
    loop {
        tokio::select! {
            biased;
            permit = &mut permit => {
                // Whoever was in it may have gone in the midst of his wait.
                source.waits_for.send_replace(None);
                if told.is_some() {
                    waiting(None);
                }
                return permit;
            }
            Ok(()) = others.changed() => {
                let whom = others.borrow_and_update().clone();
                if whom != told {
                    waiting(whom.clone());
                    told = whom;
                }
            }
        }
    }
}

/// Takes a transaction id and waits until every transaction with a lower one has ended. Prepared transactions keep theirs.
/// (The list of running ids that a snapshot has misses those that began since it was last complete.)
async fn wait_out(client: &Client, waiting: &(dyn Fn(Option<String>) + Send + Sync)) -> Result<(), Error> {
    if !Protection::WaitOut.holds() {
        return Ok(());
    }
    let own: u64 = number(client.query_one("SELECT pg_current_xact_id()::text", &[]).await?.get(0))?;
    let mut pause = Duration::from_millis(20);
    let mut told = None;
    loop {
        // 64-bit ids: they never wrap around.
        let oldest: u64 = number(client.query_one("SELECT pg_snapshot_xmin(pg_current_snapshot())::text", &[]).await?.get(0))?;
        if oldest >= own {
            break;
        }
        let whom = whom(client, oldest).await?;
        if told.as_ref() != Some(&whom) {
            waiting(Some(whom.clone()));
            told = Some(whom);
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    if told.is_some() {
        waiting(None);
    }
    Ok(())
}

fn number(text: &str) -> Result<u64, Error> {
    text.parse().map_err(|_| Error::SourceError("the server gave a transaction id that is not a number".to_owned()))
}

/// Who has the oldest transaction, for a person.
async fn whom(client: &Client, oldest: u64) -> Result<String, Error> {
    let row = client
        .query_opt(
            "SELECT whom FROM ( \
               SELECT age(backend_xid) AS age, format('process %s (user %s%s), in a transaction since %s', pid, usename, \
                        CASE WHEN application_name <> '' THEN ', application ' || application_name END, \
                        to_char(xact_start AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')) AS whom \
                 FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid() \
               UNION ALL \
               SELECT age(transaction), format('prepared transaction %L of user %s, prepared at %s', gid, owner, \
                        to_char(prepared AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')) FROM pg_prepared_xacts \
             ) AS open ORDER BY age DESC LIMIT 1",
            &[],
        )
        .await?;
    // Without pg_read_all_stats other users' transactions are hidden.
    Ok(row.map_or_else(|| format!("transaction {oldest}"), |row| row.get(0)))
}
