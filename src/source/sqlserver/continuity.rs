//! Whether the source is still the database that a link read, on the history that it read (DESIGN 5.4).

use super::{position, position::Lsn, unexpected};
use crate::{
    api::database::CaptureMode,
    data::{Identity, Position},
    source::Error,
    sqlserver::{Class, Session},
};

/// The name, kind and version of the server and the database.
pub const SERVER: &str = "SELECT DB_NAME(), CAST(SERVERPROPERTY('ProductVersion') AS nvarchar(128)), CAST(SERVERPROPERTY('EngineEdition') AS int), \
     CAST(SERVERPROPERTY('BabelfishVersion') AS nvarchar(128))";
/// The backup family stays with a database wherever it is restored; the fork is another one after each restore to a place before
/// the newest, and after a failover with loss. Both move with the database to another replica.
pub const RECOVERY: &str = "SELECT CONVERT(nvarchar(36), family_guid), CONVERT(nvarchar(36), recovery_fork_guid) \
     FROM sys.database_recovery_status WHERE database_id = DB_ID()";
/// What there is where the server tells nothing of recovery (Azure SQL Database: a restore makes another database).
pub const DATABASE: &str =
    "SELECT CONVERT(nvarchar(36), service_broker_guid), CONVERT(nvarchar(30), create_date, 126) FROM sys.databases WHERE name = DB_NAME()";

/// What the database says it is.
pub async fn identity(session: &mut Session) -> Result<Identity, Error> {
    let row = session.query(SERVER).await?.pop().ok_or_else(|| unexpected("what it is"))?;
    let (name, version) = (row.text(0).unwrap_or_default(), row.text(1).unwrap_or_default());
    let version = match (row.text(3), row.number(2)) {
        (Some(babelfish), _) => format!("Babelfish {babelfish}"),
        (_, Some(5)) => format!("Azure SQL Database {version}"),
        (_, Some(8)) => format!("Azure SQL Managed Instance {version}"),
        _ => format!("SQL Server {version}"),
    };
    let recovery = match session.query(RECOVERY).await {
        Ok(mut rows) => rows.pop(),
        Err(failure) if matches!(failure.class, Class::ObjectMissing | Class::PermissionDenied) => None,
        Err(failure) => return Err(failure.into()),
    };
    if let Some(family) = recovery.as_ref().and_then(|row| row.text(0)) {
        let fork = recovery.and_then(|row| row.text(1)).unwrap_or_default();
        return Ok(Identity { system: format!("{}/{name}", family.to_lowercase()), timeline: first_bits(&fork), version });
    }
    let row = session.query(DATABASE).await?.pop().ok_or_else(|| unexpected("what the database is"))?;
    let (broker, created) = (row.text(0).unwrap_or_default().to_lowercase(), row.text(1).unwrap_or_default());
    Ok(Identity { system: format!("{broker}/{created}/{name}"), timeline: 0, version })
}

/// The first 32 bits of a GUID as it is printed; 0 if there is none.
fn first_bits(guid: &str) -> u32 {
    guid.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or_default()
}

/// Refuses a database whose history does not hold `from`. Whether each table's changes after it are there still, the capture checks.
pub async fn check(session: &mut Session, mode: CaptureMode, from: &Position, recorded: &Identity) -> Result<(), Error> {
    let now = identity(session).await?;
    let position = position::now(session, mode).await?;
    continues(&now, recorded, &position, from).map_err(Error::PositionLost)?;
    match mode {
        CaptureMode::ChangeTracking => position::version(from).map(|_| ()),
        CaptureMode::ChangeDataCapture => Lsn::of(from).map(|_| ()),
    }
}

fn continues(now: &Identity, recorded: &Identity, position: &Position, from: &Position) -> Result<(), String> {
    if now.system != recorded.system {
        return Err(format!("this is another database ({}, not {})", now.system, recorded.system));
    }
    if now.timeline != recorded.timeline {
        return Err(format!(
            "the database was restored, or failed over with loss: it is on recovery fork {:08x}, the link followed {:08x}",
            now.timeline, recorded.timeline
        ));
    }
    if position < from {
        return Err(format!(
            "the database's changes end at {position}, before {from}, where the link left off: it was restored, or they were switched off and on"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_history_goes_on() {
        let at = position::of_version;
        let known = Identity { system: "a/shop".into(), timeline: 7, version: String::new() };
        assert_eq!(continues(&known, &known, &at(9), &at(9)), Ok(()));
        assert!(
            continues(&Identity { system: "b/shop".into(), ..known.clone() }, &known, &at(9), &at(9))
                .unwrap_err()
                .contains("another database")
        );
        assert!(continues(&Identity { timeline: 8, ..known.clone() }, &known, &at(9), &at(9)).unwrap_err().contains("fork 00000008"));
        assert!(continues(&known, &known, &at(9), &at(10)).unwrap_err().contains("before"));
        assert_eq!(first_bits("DEADBEEF-0000-0000-0000-000000000000"), 0xdead_beef);
    }
}
