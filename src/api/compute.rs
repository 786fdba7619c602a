//! How much computing a link may use: a block of its spec.

use std::time::Duration;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::schema::LocalRef;

/// How much computing a link may use, and where.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("self.coreCount <= self.coresPerWorker || self.coreCount % self.coresPerWorker == 0")
        .message("coreCount must be at most coresPerWorker (4 unless set) or a multiple of it: workers are all alike")
        .field_path(".coreCount"),
    validation = Rule::new("isQuantity(self.memoryPerCore) && quantity(self.memoryPerCore).compareTo(quantity('256Mi')) >= 0 \
         && quantity(self.memoryPerCore).compareTo(quantity('64Gi')) <= 0")
        .message("memoryPerCore is a quantity from 256Mi to 64Gi, such as 2Gi")
        .field_path(".memoryPerCore"),
    validation = Rule::new("self.dataProcessIntervalMinutes == 0 || self.dataProcessIntervalMinutes >= 5")
        .message("dataProcessIntervalMinutes is 0 (continuous) or at least 5: workers need minutes to come and go")
        .field_path(".dataProcessIntervalMinutes"),
    validation = Rule::new("self.flushInterval.matches('^[0-9]{1,5}(ms|s)$') && duration(self.flushInterval) >= duration('200ms') && duration(self.flushInterval) <= duration('60s')")
        .message("flushInterval is a whole number of ms or s from 200ms to 60s, such as 500ms or 2s")
        .field_path(".flushInterval"),
)]
#[serde(rename_all = "camelCase")]
pub struct Compute {
    /// Cores that work for the link; they decide how fast the first load is and how much change it can follow. At most
    /// `coresPerWorker`, or a multiple of it. `kubectl scale` sets it too. Default: 1. Synapse: `compute.coreCount`.
    #[schemars(range(min = 1, max = 256))]
    #[serde(default = "default_core_count")]
    pub core_count: i32,
    /// Cores of one worker pod. A link has `coreCount / coresPerWorker` workers, rounded up; above one worker, a change of
    /// `coreCount` adds or removes workers and restarts none. Default: 4.
    #[schemars(range(min = 1, max = 64))]
    #[serde(default = "default_cores_per_worker")]
    pub cores_per_worker: i32,
    /// Memory of a worker for each of its cores, as a Kubernetes quantity from 256Mi to 64Gi. Default: 2Gi.
    #[schemars(length(min = 1, max = 16))]
    #[serde(default = "default_memory_per_core")]
    pub memory_per_core: String,
    /// How often the link works, minutes: 0, or 5 to 10080 (a week). 0: its workers always run and changes arrive within seconds.
    /// Else its workers run only for a batch: they come when one is due (`status.nextBatchTime`), bring the target up to where
    /// the source is at that moment or a little further, and go. The source keeps its log meanwhile; a batch begins early if that nears
    /// `sourceProtection.maxRetainedLog`, and for tables that are to be loaded or compared. Default: 0.
    /// Synapse: the interval of a link in batch mode.
    #[schemars(range(min = 0, max = 10080))]
    #[serde(default)]
    pub data_process_interval_minutes: i32,
    /// Shortest time between two commits of changes, from 200ms to 60s. Shorter means that changes arrive sooner and that the
    /// landing zone is asked more often. Default: 1s.
    #[schemars(length(min = 1, max = 8))]
    #[serde(default = "default_flush_interval")]
    pub flush_interval: String,
    /// The IntegrationRuntime, in the same namespace, that says where the workers run. Default: anywhere, as ServiceAccount
    /// `link-worker`. Synapse: `connectVia`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub integration_runtime_ref: Option<LocalRef>,
}

fn default_core_count() -> i32 {
    1
}

fn default_cores_per_worker() -> i32 {
    4
}

fn default_memory_per_core() -> String {
    "2Gi".to_owned()
}

fn default_flush_interval() -> String {
    "1s".to_owned()
}

impl Default for Compute {
    fn default() -> Self {
        Self {
            core_count: default_core_count(),
            cores_per_worker: default_cores_per_worker(),
            memory_per_core: default_memory_per_core(),
            data_process_interval_minutes: 0,
            flush_interval: default_flush_interval(),
            integration_runtime_ref: None,
        }
    }
}

impl Compute {
    /// The shortest time between two batches; None for text that the API server would have refused.
    pub fn flush_interval(&self) -> Option<Duration> {
        let text = self.flush_interval.as_str();
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let number: u64 = digits.parse().ok()?;
        let interval = match &text[digits.len()..] {
            "ms" => Duration::from_millis(number),
            "s" => Duration::from_secs(number),
            _ => return None,
        };
        (Duration::from_millis(200)..=Duration::from_mins(1)).contains(&interval).then_some(interval)
    }

    /// Time from the begin of one batch to the begin of the next; None for a link that works all the time.
    pub fn process_interval(&self) -> Option<Duration> {
        let minutes = u64::try_from(self.data_process_interval_minutes).ok().filter(|minutes| *minutes > 0)?;
        Some(Duration::from_mins(minutes))
    }

    /// Cores of each worker.
    pub fn worker_cores(&self) -> u32 {
        self.core_count.min(self.cores_per_worker).max(1).unsigned_abs()
    }

    /// Number of workers.
    pub fn workers(&self) -> u32 {
        self.core_count.max(1).unsigned_abs().div_ceil(self.cores_per_worker.max(1).unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_become_workers() {
        for (core_count, cores_per_worker, workers, worker_cores) in
            [(1, 4, 1, 1), (4, 4, 1, 4), (8, 4, 2, 4), (256, 4, 64, 4), (3, 8, 1, 3), (8, 1, 8, 1)]
        {
            let compute = Compute { core_count, cores_per_worker, ..Compute::default() };
            assert_eq!((compute.workers(), compute.worker_cores()), (workers, worker_cores), "{core_count} by {cores_per_worker}");
        }
    }

    #[test]
    fn flush_interval_is_ms_or_s() {
        let parse = |text: &str| Compute { flush_interval: text.to_owned(), ..Compute::default() }.flush_interval();
        assert_eq!(parse("1s"), Some(Duration::from_secs(1)));
        assert_eq!(parse("200ms"), Some(Duration::from_millis(200)));
        assert_eq!(parse("60s"), Some(Duration::from_mins(1)));
        for refused in ["", "s", "1", "1m", "199ms", "61s", "1.5s", "-1s", "1 s"] {
            assert_eq!(parse(refused), None, "{refused}");
        }
    }
}
