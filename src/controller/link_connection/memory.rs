//! What is remembered of objects between two reconciliations: nothing that could not be found out again.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use jiff::Timestamp;
use kube::{Resource, ResourceExt};
use tokio::sync::Mutex as AsyncMutex;

use super::plan::{Kept, Stored};
use crate::{
    api::{
        fault::Check,
        link_connection::{LinkConnection, LinkPhase},
        link_table::LinkTable,
        report::Report,
        zone::ZoneStore,
    },
    controller::{certificate::Trust, trim},
    data::TableName,
};

/// Memory of all links and tables.
#[derive(Default)]
pub struct Memory {
    links: Mutex<HashMap<String, Arc<LinkMemory>>>,
    /// Newest known LinkConnections.
    pub newest: Newest<LinkConnection>,
    /// Newest known LinkTables.
    pub tables: Newest<LinkTable>,
}

/// Memory of one link.
#[derive(Default)]
pub struct LinkMemory {
    /// What only its reconciler uses.
    pub own: AsyncMutex<Own>,
    /// The newest answer of its probe, for its tables.
    pub probe: Mutex<Option<Arc<Report>>>,
    /// What its workers say of the landing zone; none if none does.
    pub zone: Mutex<Option<ZoneAnswer>>,
}

/// What workers say of a landing zone.
#[derive(Clone, Debug, PartialEq)]
pub struct ZoneAnswer {
    /// Where it is: its object may say another place by now.
    pub store: ZoneStore,
    /// What was asked of it.
    pub checks: Vec<Check>,
    /// When its credential ends.
    pub credential_expiry: Option<Timestamp>,
}

impl ZoneAnswer {
    /// What these reports say of the zone in this place; of several answers to a question one that failed.
    pub fn of(store: &ZoneStore, reports: &[Arc<Report>]) -> Option<Self> {
        let mut checks: Vec<Check> = Vec::new();
        for check in reports.iter().flat_map(|report| &report.checks).filter(|check| ZONE_CHECKS.contains(&check.name.as_str())) {
            match checks.iter_mut().find(|known| known.name == check.name) {
                Some(known) if known.fault.is_none() => known.clone_from(check),
                Some(_) => {}
                None => checks.push(check.clone()),
            }
        }
        let credential_expiry = reports.iter().filter_map(|report| report.credential_expiry).max();
        (!checks.is_empty()).then(|| Self { store: store.clone(), checks, credential_expiry })
    }
}

/// What only the link's reconciler uses.
#[derive(Default)]
pub struct Own {
    /// The plan as it is stored, while the link is reconciled;
    pub plan: Option<Box<Stored>>,
    /// and in between.
    kept: Option<Kept>,
    /// When this process last stored a plan.
    pub plan_written: Option<Instant>,
    /// Highest revision that was ever stored, also if the ConfigMap is gone since.
    pub revision: u64,
    /// What the controller needs of the worker API's credentials, and when it was last compared with the Secret.
    pub trust: Option<(Arc<Trust>, Instant)>,
    /// The phase, and since when this process sees it.
    pub phase: Option<(LinkPhase, Instant)>,
    /// What the link has, and what it cannot have since another link has it: source tables.
    pub claims: Claims,
    /// What was last told of the tables.
    pub reports: Vec<Arc<Report>>,
    /// When all tables were last looked at.
    pub tables_looked: Option<Instant>,
}

impl Own {
    /// The link is to be reconciled.
    pub fn wake(&mut self) {
        if let Some(kept) = self.kept.take() {
            self.plan = kept.unpacked().map(Box::new);
        }
    }

    /// The link was reconciled: of a thousand links most rest.
    pub fn rest(&mut self) {
        if let Some(stored) = self.plan.take() {
            self.kept = Some(stored.kept);
        }
    }
}

/// Questions to a landing zone.
pub const ZONE_CHECKS: [&str; 3] = ["ZoneReadable", "ZoneWritable", "CredentialValid"];

/// Source tables of a link.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Claims {
    /// Fingerprint of those that it has LinkTables for, with the LinkTables' UIDs.
    pub wanted: u64,
    /// Those of them that another link has.
    pub held: BTreeSet<TableName>,
}

impl Memory {
    /// Memory of the link of this UID.
    pub fn link(&self, uid: &str) -> Arc<LinkMemory> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).entry(uid.to_owned()).or_default().clone()
    }

    /// The same, if its reconciler has begun one.
    pub fn known(&self, uid: &str) -> Option<Arc<LinkMemory>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).get(uid).cloned()
    }

    /// The link is gone.
    pub fn forget(&self, uid: &str) {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
        self.newest.forget(uid);
    }
}

impl LinkMemory {
    /// The newest answer of the link's probe.
    pub fn probe(&self) -> Option<Arc<Report>> {
        self.probe.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the link's workers say of the landing zone.
    pub fn zone(&self) -> Option<ZoneAnswer> {
        self.zone.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps what they say; whether it is something else than before.
    pub fn set_zone(&self, answer: Option<ZoneAnswer>) -> bool {
        let mut zone = self.zone.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = *zone != answer;
        *zone = answer;
        changed
    }

    /// Keeps the newest answer; whether it is another than before.
    pub fn set_probe(&self, report: Option<Report>) -> bool {
        let mut probe = self.probe.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = probe.as_deref() != report.as_ref();
        *probe = report.map(Arc::new);
        changed
    }
}

/// Objects as we wrote them, until the watch has caught up: a stale one would be judged, and told, a second time.
pub struct Newest<K> {
    written: Mutex<HashMap<String, Arc<K>>>,
}

impl<K> Default for Newest<K> {
    fn default() -> Self {
        Self { written: Mutex::default() }
    }
}

impl<K: Resource<DynamicType = ()>> Newest<K> {
    /// The object as we wrote it last, if the watch shows an older one: also one that somebody else wrote between our
    /// reading and our writing, which lacks what we wrote.
    pub fn newest(&self, object: &Arc<K>) -> Arc<K> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let uid = object.uid().unwrap_or_default();
        match written.get(&uid) {
            Some(ours) if version(object.as_ref()) < version(ours.as_ref()) => ours.clone(),
            Some(_) => {
                written.remove(&uid);
                object.clone()
            }
            None => object.clone(),
        }
    }

    /// We wrote this.
    pub fn wrote(&self, mut object: K) {
        // As the watch keeps it, or more.
        trim::meta(object.meta_mut());
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.insert(object.uid().unwrap_or_default(), Arc::new(object));
    }

    /// The watch shows this: what we wrote before need not be kept.
    pub fn heard(&self, object: &K) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let uid = object.uid().unwrap_or_default();
        if written.get(&uid).is_some_and(|ours| version(object) >= version(ours.as_ref())) {
            written.remove(&uid);
        }
    }

    /// The object is gone.
    pub fn forget(&self, uid: &str) {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

/// Versions of one kind's objects are numbers that rise.
fn version<K: Resource>(object: &K) -> Option<u64> {
    object.meta().resource_version.as_ref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::link_connection::fixtures;

    #[test]
    fn of_what_workers_say_of_a_zone_a_fault_counts_and_nothing_else_is_said_of_it() {
        let store: ZoneStore = serde_json::from_value(serde_json::json!({"persistentVolumeClaim": {"claimName": "zone"}})).unwrap();
        let fault = crate::api::fault::Fault { reason: "ZoneFull".into(), message: "m".into(), remedy: "r".into(), heals: true };
        let report = |checks: Vec<Check>| {
            let empty = crate::controller::link_connection::status_tests::empty();
            Arc::new(Report { checks, credential_expiry: Some(Timestamp::UNIX_EPOCH), ..empty })
        };
        let well = || vec![Check::passed("ZoneReadable", ""), Check::passed("ZoneWritable", ""), Check::passed("SourceReachable", "")];
        let full = Check::failed("ZoneWritable", fault);
        let answer = ZoneAnswer::of(&store, &[report(well()), report(vec![full.clone()]), report(well())]).unwrap();
        assert_eq!(answer.checks, [Check::passed("ZoneReadable", ""), full]);
        assert_eq!(answer.credential_expiry, Some(Timestamp::UNIX_EPOCH));
        assert_eq!(ZoneAnswer::of(&store, &[report(vec![Check::passed("SourceReachable", "")])]), None);

        let memory = LinkMemory::default();
        assert!(memory.set_zone(Some(answer.clone())) && !memory.set_zone(Some(answer.clone())));
        assert_eq!(memory.zone(), Some(answer));
        assert!(memory.set_zone(None) && memory.zone().is_none());
    }

    #[test]
    fn whatever_was_written_before_our_own_write_is_older() {
        let link = |version: &str| {
            let mut link = fixtures::link();
            link.metadata.resource_version = Some(version.to_owned());
            link
        };
        let newest = Newest::default();
        let seen = |version: &str| newest.newest(&Arc::new(link(version))).resource_version().unwrap();
        assert_eq!(seen("99"), "99");
        // We read 99, somebody else wrote 100, and we wrote 101 into what was 100 by then.
        newest.wrote(link("101"));
        assert_eq!((seen("99"), seen("100")), ("101".to_owned(), "101".to_owned()));
        assert_eq!(seen("102"), "102");
        // What the watch has shown is not kept a second time.
        newest.wrote(link("104"));
        newest.heard(&link("103"));
        assert_eq!(newest.written.lock().unwrap().len(), 1);
        newest.heard(&link("104"));
        assert_eq!(newest.written.lock().unwrap().len(), 0);
    }
}
