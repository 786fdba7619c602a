//! Where changes are: a version of Change Tracking, or a place in the log.

use std::fmt;

use super::{Error, Failure, unexpected};
use crate::{api::database::CaptureMode, data::Position, sqlserver::Session};

/// The number that Change Tracking gives a commit.
pub fn of_version(version: i64) -> Position {
    Position(format!("{version:020}"))
}

/// The version of a position.
pub fn version(position: &Position) -> Result<i64, Error> {
    position.0.parse().map_err(|_| Error::PositionLost(format!("{position} is no version of change tracking")))
}

/// A log sequence number: 4 bytes of the virtual log file, 4 of the block, 2 of the slot. Of a change: that of its transaction's
/// commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub [u8; 10]);

impl Lsn {
    /// From `binary(10)`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        bytes.try_into().map(Self).map_err(|_| unexpected("a log sequence number"))
    }

    /// From what `sys.dm_db_log_stats` prints: three groups of hexadecimal digits with colons between.
    pub fn from_groups(text: &str) -> Result<Self, Error> {
        let mut groups = text.split(':').map(|group| u32::from_str_radix(group, 16));
        let (Some(Ok(file)), Some(Ok(block)), Some(Ok(slot)), None) = (groups.next(), groups.next(), groups.next(), groups.next()) else {
            return Err(unexpected("a log sequence number"));
        };
        let slot = u16::try_from(slot).map_err(|_| unexpected("a log sequence number"))?;
        let mut bytes = [0; 10];
        bytes[..4].copy_from_slice(&file.to_be_bytes());
        bytes[4..8].copy_from_slice(&block.to_be_bytes());
        bytes[8..].copy_from_slice(&slot.to_be_bytes());
        Ok(Self(bytes))
    }

    /// From a position of ours.
    pub fn of(position: &Position) -> Result<Self, Error> {
        let bytes = hex::decode(&position.0).unwrap_or_default();
        Self::from_bytes(&bytes).map_err(|_| Error::PositionLost(format!("{position} is no place in the log")))
    }

    /// As a position.
    pub fn position(self) -> Position {
        Position(hex::encode(self.0))
    }

    /// The least one that is greater.
    pub fn next(self) -> Self {
        let mut bytes = self.0;
        for byte in bytes.iter_mut().rev() {
            *byte = byte.wrapping_add(1);
            if *byte != 0 {
                break;
            }
        }
        Self(bytes)
    }
}

impl fmt::Display for Lsn {
    /// As a statement spells it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", hex::encode(self.0))
    }
}

/// The server's clock, before the question that follows it.
pub const CLOCK: &str = "DECLARE @now datetime2(3) = SYSUTCDATETIME();";
/// The clock's answer.
pub const CLOCK_TEXT: &str = "CONVERT(nvarchar(30), @now, 126) + N'Z'";
/// The last version. NULL: change tracking is off.
pub const VERSION: &str = "CHANGE_TRACKING_CURRENT_VERSION()";
/// The last commit that the capture job has read. NULL: it has read none yet.
pub const MAX_LSN: &str = "sys.fn_cdc_get_max_lsn()";

/// What is committed, and in the change tables, up to now.
pub async fn now(session: &mut Session, mode: CaptureMode) -> Result<Position, Error> {
    match mode {
        CaptureMode::ChangeTracking => {
            let row = session.query(&format!("SELECT {VERSION}")).await?.pop().ok_or_else(|| unexpected("its version"))?;
            Ok(of_version(row.number(0).ok_or_else(tracking_off)?))
        }
        CaptureMode::ChangeDataCapture => {
            let row = session.query(&format!("SELECT {MAX_LSN}")).await.map_err(cdc_off)?.pop();
            let lsn = row.as_ref().and_then(|row| row.bytes(0)).map(Lsn::from_bytes).transpose()?;
            Ok(lsn.unwrap_or_default().position())
        }
    }
}

/// A place that nothing is past that the transaction of this session can see of what `first_read` reads.
///
/// Change Tracking: the transaction's snapshot is taken at its first read. The version is asked for after it: as of the snapshot
/// it is right, and if the server should tell that of the moment, it is later, which is safe. Change data capture: each change bears
/// the place of its commit in the log, and what the snapshot sees was committed before the snapshot was taken, so the log's end
/// after that is past all of it. (The change tables lag behind: the last commit that they know may be before what was read.)
pub async fn after_snapshot(session: &mut Session, mode: CaptureMode, first_read: &str) -> Result<Position, Error> {
    session.query(first_read).await?;
    match mode {
        CaptureMode::ChangeTracking => now(session, mode).await,
        CaptureMode::ChangeDataCapture => {
            let row = session.query(LOG_END).await?.pop().ok_or_else(|| unexpected("where its log ends"))?;
            Ok(Lsn::from_groups(&row.text(0).ok_or_else(|| unexpected("where its log ends"))?)?.position())
        }
    }
}

/// Where the log ends. From SQL Server 2016 SP2 on; needs VIEW DATABASE STATE.
pub const LOG_END: &str = "SELECT CONVERT(nvarchar(24), log_end_lsn) FROM sys.dm_db_log_stats(DB_ID())";

pub fn tracking_off() -> Error {
    Error::SourceNotPrepared {
        message: "change tracking is off in the database".to_owned(),
        remedy: super::preflight::ENABLE_TRACKING.to_owned(),
    }
}

/// Without change data capture its functions are there, and say that they are not.
pub fn cdc_off(failure: Failure) -> Error {
    match failure.number {
        208 | 22901 | 313 => Error::SourceNotPrepared {
            message: format!("change data capture is off in the database: {}", failure.message),
            remedy: super::preflight::ENABLE_CDC.to_owned(),
        },
        _ => failure.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_order_is_log_order() {
        let versions = [0, 9, 10, i64::MAX].map(of_version);
        assert!(versions.is_sorted());
        assert_eq!(version(&versions[2]).unwrap(), 10);
        let lsns =
            ["00000001:00000009:0003", "00000001:00000010:0001", "00000025:00000a38:0001"].map(|text| Lsn::from_groups(text).unwrap());
        assert!(lsns.map(Lsn::position).is_sorted());
        assert_eq!(lsns[2].position().0, "0000002500000a380001");
        assert_eq!(Lsn::of(&lsns[2].position()).unwrap(), lsns[2]);
        assert!(Lsn::of(&of_version(7)).is_err() || version(&lsns[2].position()).is_err());
    }

    #[test]
    fn the_next_place_carries_over() {
        let lsn = Lsn::from_groups("00000001:000000ff:ffff").unwrap();
        assert_eq!(lsn.next(), Lsn::from_groups("00000001:00000100:0000").unwrap());
    }
}
