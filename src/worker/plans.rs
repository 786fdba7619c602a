//! Where plans come from: the mounted ConfigMap, and whoever pushes one over the API. The highest revision wins.

use std::{io::Read, path::PathBuf, sync::Arc, time::Duration};

use flate2::read::GzDecoder;
use serde::Deserialize;
use tokio::{sync::watch, time};

use crate::api::plan::{PLAN_FORMAT, Plan};

/// How often the mount is looked at. The kubelet swaps it about a minute after the ConfigMap changed.
const POLL: Duration = Duration::from_secs(5);
/// Largest plan that is read, unpacked: 10,000 tables are some 5 MiB.
const MAX_PLAN: u64 = 64 << 20;

/// Why a plan was not taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
pub enum Error {
    /// Not gzip, not JSON, or not a plan.
    #[error("the plan cannot be read: {0}")]
    PlanUnreadable(String),
    /// Written for another version of this program.
    #[error("the plan has format version {0}; this worker reads {PLAN_FORMAT}")]
    PlanFormatUnsupported(u32),
    /// Not newer than the one in force.
    #[error("the plan has revision {offered}, the worker works by {own}")]
    PlanOutdated {
        /// Revision of the plan that was offered.
        offered: u64,
        /// Revision of the plan in force.
        own: u64,
    },
}

/// Reads a plan as it is stored and pushed: gzipped JSON.
pub fn read(bytes: &[u8]) -> Result<Plan, Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        format_version: u32,
    }
    let mut json = Vec::new();
    let unreadable = |error: &dyn std::fmt::Display| Error::PlanUnreadable(error.to_string());
    let length = GzDecoder::new(bytes).take(MAX_PLAN + 1).read_to_end(&mut json).map_err(|error| unreadable(&error))?;
    if length as u64 > MAX_PLAN {
        return Err(Error::PlanUnreadable(format!("it is larger than {MAX_PLAN} bytes")));
    }
    let Version { format_version } = serde_json::from_slice(&json).map_err(|error| unreadable(&error))?;
    // This format and the one before; there was none before the first.
    if !(PLAN_FORMAT.saturating_sub(1).max(1)..=PLAN_FORMAT).contains(&format_version) {
        return Err(Error::PlanFormatUnsupported(format_version));
    }
    serde_json::from_slice(&json).map_err(|error| unreadable(&error))
}

/// The plan in force. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Plans {
    current: watch::Sender<Option<Arc<Plan>>>,
}

impl Plans {
    /// No plan yet.
    pub fn new() -> Self {
        Self { current: watch::Sender::new(None) }
    }

    /// Follows the plan in force.
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<Plan>>> {
        self.current.subscribe()
    }

    /// Puts a plan in force if none of a higher revision is. Returns whether it is news.
    pub fn offer(&self, plan: Plan) -> Result<bool, Error> {
        let offered = plan.revision;
        let mut own = 0;
        let taken = self.current.send_if_modified(|current| {
            own = current.as_ref().map_or(0, |current| current.revision);
            let newer = current.is_none() || offered > own;
            if newer {
                *current = Some(Arc::new(plan));
            }
            newer
        });
        if !taken && offered < own { Err(Error::PlanOutdated { offered, own }) } else { Ok(taken) }
    }
}

impl Default for Plans {
    fn default() -> Self {
        Self::new()
    }
}

/// Offers the plan in `file` now and whenever its content changes. The file may come later, and a swap of the mount is a
/// change of what the path leads to. Never ends.
pub async fn follow_mount(file: PathBuf, plans: Plans) {
    let mut seen = Vec::new();
    let mut clock = time::interval(POLL);
    clock.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        let bytes = match tokio::fs::read(&file).await {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::debug!(file = %file.display(), %error, "no plan in the mount yet");
                continue;
            }
        };
        if bytes == seen {
            continue;
        }
        match read(&bytes).and_then(|plan| {
            let revision = plan.revision;
            plans.offer(plan).map(|taken| (revision, taken))
        }) {
            Ok((revision, true)) => tracing::info!(revision, "plan read from the mount"),
            // The mount lags behind what the controller pushes.
            Ok((_, false)) | Err(Error::PlanOutdated { .. }) => {}
            Err(error) => tracing::error!(file = %file.display(), %error, "plan in the mount not taken"),
        }
        seen = bytes;
    }
}
