//! Whether the log still continues where a link left off (DESIGN 5.4).

use tokio_postgres::Client;

use super::{Postgresql, given_up, lsn::Lsn, slot};
use crate::source::{Error, Identity};

/// What the database says it is.
pub async fn identity(client: &Client) -> Result<Identity, Error> {
    // The control file has the timeline of the last checkpoint, which may be before a promotion: the name of the file that
    // is written now has the current one.
    let row = client
        .query_one(
            "SELECT (SELECT system_identifier FROM pg_control_system())::text AS system, current_setting('server_version') AS version, \
                    (SELECT oid FROM pg_database WHERE datname = current_database()) AS database, \
                    CASE WHEN pg_is_in_recovery() THEN '' ELSE pg_walfile_name(pg_current_wal_insert_lsn()) END AS file",
            &[],
        )
        .await?;
    let Some(timeline) = row.get::<_, &str>("file").get(..8).and_then(|timeline| u32::from_str_radix(timeline, 16).ok()) else {
        return Err(Error::SourceNotPrepared {
            message: "the server is a standby".to_owned(),
            remedy: "name the primary in spec.source.postgresql.host".to_owned(),
        });
    };
    Ok(Identity {
        system: format!("{}/{}", row.get::<_, &str>("system"), row.get::<_, u32>("database")),
        timeline,
        version: format!("PostgreSQL {}", row.get::<_, &str>("version").split(' ').next().unwrap_or_default()),
    })
}

/// Refuses a log that does not hold everything after `from`.
pub async fn check(source: &Postgresql, client: &Client, from: Lsn, recorded: &Identity) -> Result<(), Error> {
    let now = identity(client).await?;
    if now.system != recorded.system {
        return Err(lost(format!("this is another database (system and database {}, not {})", now.system, recorded.system)));
    }
    if let Some(why) = given_up::mark(client, &source.name).await? {
        return Err(Error::PositionGivenUp(why));
    }
    if now.timeline != recorded.timeline {
        let history = source.timeline_history(now.timeline).await?;
        includes(&history, recorded.timeline, from).map_err(lost)?;
    }
    let name = &source.name;
    let Some(slot) = slot::find(client, name).await? else {
        return Err(lost(format!("replication slot {name} is gone")));
    };
    if let Some(why) = slot.lost {
        return Err(lost(format!("replication slot {name} {why}")));
    }
    match slot.confirmed {
        Some(confirmed) if confirmed <= from => Ok(()),
        Some(confirmed) => Err(lost(format!("replication slot {name} starts at {confirmed}, after {from}, where the link left off"))),
        None => Err(lost(format!("replication slot {name} has no position"))),
    }
}

fn lost(why: String) -> Error {
    Error::PositionLost(why)
}

/// Whether a timeline's history (lines of timeline, place of its end, reason) has everything that `timeline` had up to `from`.
fn includes(history: &str, timeline: u32, from: Lsn) -> Result<(), String> {
    let mut found = false;
    for line in history.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let mut fields = line.split_whitespace();
        let (Some(number), Some(end)) = (fields.next(), fields.next()) else { continue };
        let (Ok(number), Ok(end)) = (number.parse::<u32>(), end.parse::<Lsn>()) else {
            return Err("the server's timeline history cannot be read".to_owned());
        };
        found |= number == timeline;
        if number >= timeline && end < from {
            return Err(format!("the server was promoted or restored at {end}, before {from}, where the link left off"));
        }
    }
    if found { Ok(()) } else { Err(format!("the server's history does not include timeline {timeline}, which the link followed")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_must_hold_all_that_was_read() {
        let history = "1\t0/3000000\tno recovery target specified\n\n2\t0/5000000\tbefore 2026\n";
        assert_eq!(includes(history, 1, Lsn(0x0300_0000)), Ok(()));
        assert_eq!(includes(history, 2, Lsn(0x0500_0000)), Ok(()));
        assert!(includes(history, 1, Lsn(0x0300_0001)).is_err());
        assert!(includes(history, 2, Lsn(0x0500_0001)).is_err());
        assert!(includes(history, 7, Lsn(0)).is_err());
    }
}
