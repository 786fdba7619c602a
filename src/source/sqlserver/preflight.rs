//! Whether a server is as a link needs it. Asks for no more rights than the link uses.

use super::{SqlServer, catalog, continuity, position, unexpected};
use crate::{
    api::{
        database::CaptureMode,
        fault::{Check, Explain as _},
    },
    source::Error,
    sqlserver::{Class, Session},
};

/// Cures [`Class::SnapshotNotAllowed`].
pub const ALLOW_SNAPSHOT: &str = "ALTER DATABASE CURRENT SET ALLOW_SNAPSHOT_ISOLATION ON";
/// Switches Change Tracking on. The retention must be longer than the longest pause of a link.
pub const ENABLE_TRACKING: &str = "ALTER DATABASE CURRENT SET CHANGE_TRACKING = ON (CHANGE_RETENTION = 7 DAYS, AUTO_CLEANUP = ON)";
/// Switches change data capture on.
pub const ENABLE_CDC: &str = "EXEC sys.sp_cdc_enable_db";
/// Lets the link's user read the change tables.
pub const GRANT_CDC: &str = "GRANT SELECT ON SCHEMA::cdc TO the link's user";
/// Lets it ask where the log ends.
pub const GRANT_STATE: &str = "GRANT VIEW DATABASE STATE TO the link's user";
/// A secondary keeps no changes.
pub const USE_PRIMARY: &str = "name the primary, or the listener of the availability group, in spec.source.sqlServer.host";
/// Starts the job that reads the log.
pub const START_CAPTURE: &str = "start SQL Server Agent, then EXEC sys.sp_cdc_start_job @job_type = N'capture'";

/// Asks both questions; each failed one names the statement that cures it.
pub async fn preflight(source: &SqlServer) -> Vec<Check> {
    let mut session = match source.session().await {
        Ok(session) => session,
        Err(error) => return vec![Check::failed("SourceReachable", error.fault())],
    };
    match prepared(&mut session, source.mode()).await {
        Ok((version, message)) => vec![Check::passed("SourceReachable", version), Check::passed("SourcePrepared", message)],
        // The connection broke in between.
        Err(error @ Error::SourceUnreachable(_)) => vec![Check::failed("SourceReachable", error.fault())],
        Err(error) => vec![Check::passed("SourceReachable", String::new()), Check::failed("SourcePrepared", error.fault())],
    }
}

/// What of the server and the database matters in every mode.
pub const SERVER: &str = "SELECT CAST(SERVERPROPERTY('EngineEdition') AS int), CAST(SERVERPROPERTY('ProductVersion') AS nvarchar(128)), \
     CAST(DATABASEPROPERTYEX(DB_NAME(), 'Updateability') AS nvarchar(128)), snapshot_isolation_state, is_read_committed_snapshot_on, \
     CASE WHEN SERVERPROPERTY('BabelfishVersion') IS NULL THEN 0 ELSE 1 END FROM sys.databases WHERE name = DB_NAME()";
/// How long changes are kept.
pub const TRACKING: &str = "SELECT is_auto_cleanup_on, retention_period, retention_period_units_desc FROM sys.change_tracking_databases WHERE database_id = DB_ID()";
/// Whether change data capture is on, and when the capture job last told a time. SQL Server tells one every 5 minutes where nothing
/// is written.
pub const CDC: &str = "SELECT DATEDIFF(MINUTE, MAX(tran_end_time), GETDATE()), COUNT_BIG(*) FROM cdc.lsn_time_mapping";

/// The capture job tells nothing for so many minutes before it is taken for dead.
const SILENT_MINUTES: i64 = 15;

/// What the server says of itself.
#[derive(Clone, Debug)]
struct Server {
    edition: i64,
    version: String,
    updateability: String,
    snapshot: i64,
    /// It is PostgreSQL with the language and protocol of SQL Server, and calls itself an old one.
    is_babelfish: bool,
}

impl Server {
    fn check(&self) -> Result<(), Error> {
        let not_prepared = |message: String, remedy: &str| Err(Error::SourceNotPrepared { message, remedy: remedy.to_owned() });
        let major: u32 = self.version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or_default();
        // Azure SQL Database and Managed Instances say 12 for ever.
        let azure = matches!(self.edition, 5 | 8);
        if matches!(self.edition, 6 | 11) {
            return not_prepared("the server is a Synapse pool, which keeps no changes".to_owned(), "link an operational database");
        }
        if !azure && !self.is_babelfish && major < 13 {
            return not_prepared(format!("SQL Server {} is too old", self.version), "upgrade the server to SQL Server 2016 or newer");
        }
        if self.updateability == "READ_ONLY" {
            return not_prepared("the database is read-only: a secondary, or set so".to_owned(), USE_PRIMARY);
        }
        if self.snapshot != 1 {
            return not_prepared("the database does not allow SNAPSHOT isolation".to_owned(), ALLOW_SNAPSHOT);
        }
        Ok(())
    }
}

/// The server's version, and what else is to be told.
async fn prepared(session: &mut Session, mode: CaptureMode) -> Result<(String, String), Error> {
    let row = session.query(SERVER).await?.pop().ok_or_else(|| unexpected("what it is"))?;
    let server = Server {
        edition: row.number(0).unwrap_or_default(),
        version: row.text(1).unwrap_or_default(),
        updateability: row.text(2).unwrap_or_default(),
        snapshot: row.number(3).unwrap_or_default(),
        is_babelfish: row.flag(5),
    };
    server.check()?;
    let version = continuity::identity(session).await?.version;
    let message = match mode {
        CaptureMode::ChangeTracking => tracking(session).await?,
        CaptureMode::ChangeDataCapture => captured(session).await?,
    };
    Ok((version.clone(), format!("{version}, {message}")))
}

async fn tracking(session: &mut Session) -> Result<String, Error> {
    let row = session.query(TRACKING).await?.pop().ok_or_else(position::tracking_off)?;
    let (period, unit) = (row.number(1).unwrap_or_default(), row.text(2).unwrap_or_default().to_lowercase());
    position::now(session, CaptureMode::ChangeTracking).await?;
    Ok(if row.flag(0) {
        format!("Change Tracking keeps changes for {period} {unit}: a longer pause loads all tables anew")
    } else {
        "Change Tracking keeps all changes: its clean-up is off".to_owned()
    })
}

async fn captured(session: &mut Session) -> Result<String, Error> {
    catalog::instances(session, None).await?;
    let row = session.query(CDC).await?.pop().ok_or_else(|| unexpected("what the capture job has read"))?;
    running(row.number(0), row.number(1).unwrap_or_default())?;
    session.query(position::LOG_END).await.map_err(|failure| match failure.class {
        Class::ObjectMissing => Error::SourceNotPrepared {
            message: "the server does not tell where its log ends (sys.dm_db_log_stats)".to_owned(),
            remedy: "upgrade the server to SQL Server 2016 SP2 or newer, or use captureMode ChangeTracking".to_owned(),
        },
        Class::PermissionDenied => Error::SourcePermissionDenied { message: failure.message, remedy: GRANT_STATE.to_owned() },
        _ => failure.into(),
    })?;
    Ok("change data capture is on".to_owned())
}

/// Whether the capture job reads the log, by the minutes since it told a time, and how often it did.
pub fn running(silent_for: Option<i64>, entries: i64) -> Result<(), Error> {
    let not_running = |message: String| Err(Error::CaptureNotRunning { message, remedy: START_CAPTURE.to_owned() });
    match silent_for {
        _ if entries == 0 => not_running("the capture job has read nothing yet".to_owned()),
        Some(minutes) if minutes > SILENT_MINUTES => not_running(format!("the capture job has read nothing for {minutes} minutes")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failed_check_has_its_statement() {
        let fit =
            Server { edition: 2, version: "16.0.4000.1".into(), updateability: "READ_WRITE".into(), snapshot: 1, is_babelfish: false };
        assert!(fit.check().is_ok());
        assert!(Server { edition: 5, version: "12.0.2000.8".into(), ..fit.clone() }.check().is_ok());
        assert!(Server { is_babelfish: true, version: "12.0.2000.8".into(), ..fit.clone() }.check().is_ok());
        for (server, remedy) in [
            (Server { updateability: "READ_ONLY".into(), ..fit.clone() }, USE_PRIMARY),
            (Server { snapshot: 0, ..fit.clone() }, ALLOW_SNAPSHOT),
            (Server { version: "12.0.6000.1".into(), ..fit.clone() }, "upgrade the server to SQL Server 2016 or newer"),
            (Server { edition: 6, ..fit.clone() }, "link an operational database"),
        ] {
            assert_eq!(server.check().unwrap_err().remedy(), remedy);
        }
        assert_eq!(running(Some(1), 0).unwrap_err().remedy(), START_CAPTURE);
        assert_eq!(running(Some(16), 4).unwrap_err().remedy(), START_CAPTURE);
        assert!(running(Some(5), 4).is_ok() && running(None, 4).is_ok());
    }
}
