//! What bounds the harm that a link can do to its source. Plain data.

use jiff::Timestamp;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema::time;

/// A whole or decimal number with a Kubernetes suffix for bytes.
const BYTES: &str = r"^[0-9]{1,15}(\.[0-9]{1,3})?(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$";
/// The fewest connections that a worker can do all of its work with: the stream of changes, a wait for open transactions, a
/// short question, what such a question asks in turn, and one chunk of a snapshot.
pub const LEAST_CONNECTIONS: u32 = 5;

/// What bounds the harm that a link can do to its source. All of it may be changed while the link runs, and counts at once.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("!has(self.maxRetainedLog) || (isQuantity(self.maxRetainedLog) && quantity(self.maxRetainedLog).compareTo(quantity('64Mi')) >= 0)")
        .message("maxRetainedLog is a quantity of bytes of 64Mi or more, such as 20Gi")
        .field_path(".maxRetainedLog"),
    validation = Rule::new("!has(self.maxSnapshotRate) || (isQuantity(self.maxSnapshotRate) && quantity(self.maxSnapshotRate).compareTo(quantity('1Mi')) >= 0)")
        .message("maxSnapshotRate is a quantity of bytes per second of 1Mi or more, such as 50Mi")
        .field_path(".maxSnapshotRate"),
    validation = Rule::new("self.action != 'Reseed' || has(self.maxRetainedLog)")
        .message("action Reseed needs maxRetainedLog: it says when the link gives up its position")
        .field_path(".action"),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SourceProtection {
    /// How much log the source may keep for the link, as a quantity of bytes, such as 20Gi. What happens above is up to
    /// `action`. Choose less than the disk of the log has room for: PostgreSQL frees what was given up with its next checkpoint,
    /// so leave `max_wal_size` besides, and what the source writes within ten seconds. Choose much more than a link that keeps up
    /// needs: what the source writes within a minute, and since its oldest open transaction began. Default: no bound.
    #[schemars(length(min = 1, max = 24), regex(pattern = BYTES))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_retained_log: Option<String>,
    /// What happens when the source keeps more log for the link than `maxRetainedLog`. Alert: the condition `SourceProtected`
    /// becomes False, and an Event says so. Reseed: the link also gives up its position, so that the source drops the log before
    /// its disk is full, and loads all tables anew, beside what the target has, which readers see until the new load is
    /// complete. A Paused link gives up its position too; its next start is a full load. Default: Alert.
    #[serde(default)]
    pub action: ProtectiveAction,
    /// How many connections the link's workers open to the source at once, all of them together: at least 5 for each worker. When
    /// it is lowered, nothing new is opened until fewer are left; chunks that are being read are read to their end. Default: one
    /// for each chunk that is read (a worker's cores and one more), and a few besides.
    #[schemars(range(min = 5, max = 10000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<i32>,
    /// How many bytes per second first loads read from the source, the whole link together, as a quantity of 1Mi or more, such as
    /// 50Mi. Each worker has an equal share. A slower read holds its database snapshot open for longer: a chunk has 64 MiB.
    /// Default: as fast as it goes.
    #[schemars(length(min = 1, max = 24), regex(pattern = BYTES))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_snapshot_rate: Option<String>,
}

/// What happens when the source keeps too much log for a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ProtectiveAction {
    /// It is said.
    #[default]
    Alert,
    /// The link gives up its position, and loads anew.
    Reseed,
}

/// What happens when the source's log no longer holds what a link has yet to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnPositionLost {
    /// It waits for a person.
    #[default]
    Fail,
    /// All tables are loaded anew.
    Reseed,
}

/// The loss of a link's position in its source's log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PositionLostStatus {
    /// The run that lost it.
    pub run_id: u32,
    /// When that was seen.
    #[schemars(schema_with = "time")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    /// The error's name: PositionLost, or PositionGivenUp if the link itself gave it up to protect its source.
    pub reason: String,
    /// How it was lost.
    pub message: String,
    /// How many runs in a row lost theirs, each within a day of the one before.
    pub attempt: u32,
    /// When the next run begins, or began; none if it waits for a person.
    #[schemars(schema_with = "time")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<Timestamp>,
}

/// The bounds as workers keep them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bounds {
    /// Log that the source may keep for the link, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_retained_log: Option<u64>,
    /// Above it, the link gives up its position.
    #[serde(default)]
    pub give_up: bool,
    /// Connections of all workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// Bytes per second that the snapshots of all workers read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_snapshot_rate: Option<u64>,
}

impl SourceProtection {
    /// The bounds in numbers, or the name of the field that is no quantity: text that the API server would have refused.
    pub fn bounds(&self) -> Result<Bounds, &'static str> {
        let number = |text: &Option<String>, field| text.as_ref().map(|text| bytes(text).ok_or(field)).transpose();
        Ok(Bounds {
            max_retained_log: number(&self.max_retained_log, "maxRetainedLog")?,
            give_up: self.action == ProtectiveAction::Reseed,
            max_connections: self.max_connections.map(i32::unsigned_abs),
            max_snapshot_rate: number(&self.max_snapshot_rate, "maxSnapshotRate")?,
        })
    }
}

/// A quantity in bytes.
fn bytes(quantity: &str) -> Option<u64> {
    let digits = quantity.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(quantity.len());
    let (number, suffix) = quantity.split_at(digits);
    let unit: u128 = match suffix {
        "" => 1,
        "k" => 1000,
        "M" => 1000_u128.pow(2),
        "G" => 1000_u128.pow(3),
        "T" => 1000_u128.pow(4),
        "P" => 1000_u128.pow(5),
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let scale = 10_u128.checked_pow(fraction.len().try_into().ok()?)?;
    let scaled: u128 = format!("{whole}{fraction}").parse().ok()?;
    (scaled.checked_mul(unit)? / scale).try_into().ok()
}

/// Bytes for a person: `1.5 GiB`.
pub fn readable(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_bytes() {
        for (text, expected) in [
            ("64Mi", Some(64 << 20)),
            ("1.5Gi", Some(3 << 29)),
            ("20G", Some(20_000_000_000)),
            ("1048576", Some(1 << 20)),
            ("0.001k", Some(1)),
            ("2Pi", Some(2 << 50)),
            ("", None),
            ("Gi", None),
            ("1.5.2Gi", None),
            ("5m", None),
            ("99999999999P", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
        let wrong = SourceProtection { max_snapshot_rate: Some("fast".into()), ..Default::default() };
        assert_eq!(wrong.bounds(), Err("maxSnapshotRate"));
    }

    #[test]
    fn bytes_are_readable() {
        assert_eq!([readable(0), readable(1536), readable(5 << 30)], ["0.0 KiB", "1.5 KiB", "5.0 GiB"]);
    }
}
