//! Conditions: the types and reasons that the kinds show, and how a list of them is kept. Pure.
//!
//! Every reason of an error is its variant's name ([`super::fault::Explain`]); here stand only those that name a state.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::runbook;

/// API group of the kinds; prefix of our labels and annotations.
pub const GROUP: &str = "link-operator.io";

/// Types of conditions.
pub mod kind {
    /// The object does what its spec asks, for the generation that you see.
    pub const READY: &str = "Ready";
    /// The controller or a worker is at work towards `Ready`, or tries again by itself.
    pub const RECONCILING: &str = "Reconciling";
    /// Nothing will change until a person does what the message says.
    pub const STALLED: &str = "Stalled";
    /// The link is Paused or Stopped, as its spec asks.
    pub const SUSPENDED: &str = "Suspended";
    /// The spec is complete and consistent, and what it refers to is there.
    pub const ACCEPTED: &str = "Accepted";
    /// The first load is complete: of the table, or of every table of the link.
    pub const SNAPSHOT_COMPLETE: &str = "SnapshotComplete";
    /// `consistentAsOf` speaks of every table of the link.
    pub const CONSISTENT: &str = "Consistent";
    /// The operational database answers and lets us in.
    pub const SOURCE_REACHABLE: &str = "SourceReachable";
    /// The operational database has the version, rights and settings that a link needs.
    pub const SOURCE_PREPARED: &str = "SourcePrepared";
    /// The source keeps no more log for the link than `spec.sourceProtection.maxRetainedLog` allows, and will not soon.
    pub const SOURCE_PROTECTED: &str = "SourceProtected";
    /// As many workers run as the core count asks for.
    pub const WORKERS_AVAILABLE: &str = "WorkersAvailable";
    /// The link takes longer to start than it should. Only while it starts; its transition time says since when.
    pub const START_DEADLINE_EXCEEDED: &str = "StartDeadlineExceeded";
    /// The landing zone's credential ends within days.
    pub const CREDENTIAL_EXPIRING: &str = "CredentialExpiring";
}

/// Reasons that name a state rather than an error.
pub mod reason {
    /// All is as it should be.
    pub const AS_REQUESTED: &str = "AsRequested";
    /// The generation was only just seen.
    pub const NEW_GENERATION: &str = "NewGeneration";
    /// Work is under way.
    pub const PROGRESSING: &str = "Progressing";
    /// Every table replicates.
    pub const REPLICATING: &str = "Replicating";
    /// First loads are under way.
    pub const SNAPSHOTTING: &str = "Snapshotting";
    /// Tables load, and none of them comes on.
    pub const SNAPSHOT_STUCK: &str = "SnapshotStuck";
    /// The link works in batches, and the next one is not due yet.
    pub const IDLE: &str = "Idle";
    /// The link takes longer to start than it should.
    pub const START_DEADLINE_EXCEEDED: &str = "StartDeadlineExceeded";
    /// The link is Paused, as asked.
    pub const PAUSED: &str = "Paused";
    /// The link is Stopped, as asked.
    pub const STOPPED: &str = "Stopped";
    /// The object is being deleted.
    pub const DELETING: &str = "Deleting";
    /// At least one table is Failed.
    pub const TABLES_FAILED: &str = "TablesFailed";
    /// At least one table is Suspended, none is Failed.
    pub const TABLES_SUSPENDED: &str = "TablesSuspended";
    /// All tables of the link.
    pub const ALL_TABLES: &str = "AllTables";
    /// Some tables are not exact yet, or Failed.
    pub const TABLES_OUTSIDE: &str = "TablesOutside";
    /// The link has no tables yet.
    pub const NO_TABLES: &str = "NoTables";
    /// A field's value does not apply to this source, target or zone.
    pub const NOT_APPLICABLE: &str = "NotApplicable";
    /// Nobody was asked yet.
    pub const NOT_CHECKED: &str = "NotChecked";
    /// The source keeps more log for the link than it may.
    pub const RETAINED_LOG_HIGH: &str = "RetainedLogHigh";
    /// The source keeps almost as much log for the link as it may.
    pub const RETAINED_LOG_RISING: &str = "RetainedLogRising";
    /// The landing zone's credential ends within days.
    pub const CREDENTIAL_EXPIRING: &str = "CredentialExpiring";
    /// The link is Paused, and its source will soon keep more log for it than it may.
    pub const RESUME_SOON: &str = "ResumeSoon";
    /// Fewer workers run than asked for; the message says why.
    pub const WORKERS_MISSING: &str = "WorkersMissing";
    /// Workers are up, and wait for their turn to be upgraded with the operator.
    pub const ROLLOUT_WAITING: &str = "RolloutWaiting";
}

/// Annotations that users set.
pub mod annotation {
    /// On a LinkTable: any new value (a time, by convention) starts the table's load over. Echoed in
    /// `status.lastHandledReseedAt` once it was acted on.
    pub const RESEED: &str = "link-operator.io/reseed-requested-at";
    /// On a LinkTable or a LinkConnection: any new value (a time, by convention) has the table, or all tables of the link,
    /// compared with the source. Echoed in `status.lastHandledVerifyAt` once that is done.
    pub const VERIFY: &str = "link-operator.io/verify-requested-at";
    /// Beside it: `"true"` also makes rows that differ as they are in the source.
    pub const VERIFY_REPAIR: &str = "link-operator.io/verify-repair";
    /// On a LinkConnection: any new value (a time, by convention) restarts its workers. Echoed in `status.lastHandledRestartAt`.
    pub const RESTART: &str = "link-operator.io/restart-requested-at";
    /// On a LinkConnection or a LandingZone: any new value (a time, by convention) has its connections tested. Echoed in
    /// `status.lastHandledTestAt`.
    pub const TEST: &str = "link-operator.io/test-requested-at";
    /// On a LinkConnection: what its workers log, as `LOG` has it: `debug`, or `warn,link_operator::landing=trace`. Followed at once,
    /// without a restart; without it their own messages from info up, libraries' from warn up.
    pub const LOG: &str = "link-operator.io/log";
    /// On a LinkConnection with `deletionPolicy.target: Delete`: must hold the link's own name for the target's tables to be
    /// deleted with it.
    pub const CONFIRM_DELETE: &str = "link-operator.io/confirm-delete";
}

/// Labels and finalizers that the operator sets.
pub mod mark {
    /// Label of everything that belongs to a link: the LinkConnection's name.
    pub const LINK: &str = "link-operator.io/link";
    /// Label of a pod: `worker`, `probe` or `release`.
    pub const ROLE: &str = "link-operator.io/role";
    /// Value of `app.kubernetes.io/managed-by`, and the field manager of server-side apply.
    pub const MANAGER: &str = "link-operator";
    /// Finalizer of a LinkConnection: held until what the link made in its source is gone.
    pub const RELEASE_FINALIZER: &str = "link-operator.io/release";
    /// Finalizer of a LandingZone or IntegrationRuntime: held while a link refers to it.
    pub const IN_USE_FINALIZER: &str = "link-operator.io/in-use";
}

/// Status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::Display)]
pub enum Truth {
    /// It is so.
    True,
    /// It is not so.
    False,
    /// It is not known.
    Unknown,
}

impl From<bool> for Truth {
    fn from(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }
}

/// Sets one condition of a list, with the runbook page about its reason, and says whether anything changed. `lastTransitionTime` changes with `status` only; a call
/// that changes nothing but would be younger changes nothing, so that a no-op never writes a status.
pub fn set(
    conditions: &mut Vec<Condition>,
    kind: &str,
    status: Truth,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    now: Timestamp,
) -> bool {
    let mut new = Condition {
        type_: kind.to_owned(),
        status: status.to_string(),
        reason: reason.to_owned(),
        message: runbook::refer(reason, message),
        observed_generation: generation,
        last_transition_time: Time(now),
    };
    match conditions.iter_mut().find(|condition| condition.type_ == kind) {
        None => conditions.push(new),
        Some(old) => {
            if old.status == new.status {
                new.last_transition_time = old.last_transition_time.clone();
            }
            if *old == new {
                return false;
            }
            *old = new;
        }
    }
    true
}

/// Takes a condition that no longer applies out of the list, and says whether it was there.
pub fn remove(conditions: &mut Vec<Condition>, kind: &str) -> bool {
    let before = conditions.len();
    conditions.retain(|condition| condition.type_ != kind);
    conditions.len() != before
}

/// The condition of a type.
pub fn get<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Whether a condition of this type is there and True.
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    get(conditions, kind).is_some_and(|condition| condition.status == "True")
}

/// Whether a condition says what is wrong, beside Ready: most are well when True.
pub fn is_problem(condition: &Condition) -> bool {
    match condition.type_.as_str() {
        kind::READY | kind::RECONCILING | kind::SUSPENDED | kind::SNAPSHOT_COMPLETE => false,
        kind::STALLED | kind::CREDENTIAL_EXPIRING | kind::START_DEADLINE_EXCEEDED => condition.status == "True",
        _ => condition.status != "True",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn of_some_conditions_true_is_the_problem() {
        let problem = |kind: &str, truth: Truth| {
            let mut list = Vec::new();
            set(&mut list, kind, truth, "Reason", "", Some(1), at(10));
            is_problem(&list[0])
        };
        for kind in [kind::STALLED, kind::CREDENTIAL_EXPIRING, kind::START_DEADLINE_EXCEEDED] {
            assert!(problem(kind, Truth::True) && !problem(kind, Truth::False), "{kind}");
        }
        assert!(problem(kind::ACCEPTED, Truth::False) && !problem(kind::ACCEPTED, Truth::True));
    }

    #[test]
    fn transition_time_changes_with_the_status_only() {
        let mut list = Vec::new();
        assert!(set(&mut list, kind::READY, Truth::Unknown, reason::NEW_GENERATION, "", Some(1), at(10)));
        assert!(set(&mut list, kind::READY, Truth::False, "SourceUnreachable", "no answer", Some(1), at(20)));
        assert!(set(&mut list, kind::READY, Truth::False, "SecretMissing", "Secret shop does not exist", Some(2), at(30)));
        assert_eq!(list.len(), 1);
        assert_eq!(list[0].last_transition_time, Time(at(20)));
        assert_eq!((list[0].reason.as_str(), list[0].observed_generation), ("SecretMissing", Some(2)));
        assert!(!is_true(&list, kind::READY));
    }

    #[test]
    fn what_changes_nothing_is_not_a_change() {
        let mut list = Vec::new();
        assert!(set(&mut list, kind::READY, Truth::True, reason::REPLICATING, "", Some(1), at(10)));
        assert!(!set(&mut list, kind::READY, Truth::True, reason::REPLICATING, "", Some(1), at(99)));
        assert_eq!(list[0].last_transition_time, Time(at(10)));
        assert!(is_true(&list, kind::READY));
        assert!(!remove(&mut list, kind::STALLED));
        assert!(remove(&mut list, kind::READY));
        assert!(get(&list, kind::READY).is_none());
    }
}
