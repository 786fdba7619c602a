//! What is remembered of objects between two reconciliations: nothing that could not be found out again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use kube::{Resource, ResourceExt};
use tokio::sync::Mutex as AsyncMutex;

use super::plan::Stored;
use crate::{
    api::{
        link_connection::{LinkConnection, LinkPhase},
        link_table::LinkTable,
        report::{Report, TableReport},
        verification::TableVerification,
    },
    controller::certificate::Credentials,
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
}

/// What only the link's reconciler uses.
#[derive(Default)]
pub struct Own {
    /// The plan as it is stored.
    pub plan: Option<Stored>,
    /// When this process last stored a plan.
    pub plan_written: Option<Instant>,
    /// Highest revision that was ever stored, also if the ConfigMap is gone since.
    pub revision: u64,
    /// The worker API's credentials and when they were last compared with the Secret.
    pub credentials: Option<(Arc<Credentials>, Instant)>,
    /// The phase and since when this process sees it.
    pub phase: Option<(LinkPhase, Instant)>,
    /// What was last told of each table, by its identity.
    pub tables: HashMap<String, TableReport>,
    /// What was last told of its comparison, by its identity.
    pub verifications: HashMap<String, TableVerification>,
}

impl Memory {
    /// Memory of the link of this UID.
    pub fn link(&self, uid: &str) -> Arc<LinkMemory> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).entry(uid.to_owned()).or_default().clone()
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
    written: Mutex<HashMap<String, Written<K>>>,
}

struct Written<K> {
    /// Resource versions that are older than what we wrote.
    older: Vec<String>,
    object: Arc<K>,
}

impl<K> Default for Newest<K> {
    fn default() -> Self {
        Self { written: Mutex::default() }
    }
}

impl<K: Resource<DynamicType = ()>> Newest<K> {
    /// The object as we wrote it last, if the watch shows an older one.
    pub fn newest(&self, object: &Arc<K>) -> Arc<K> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let (uid, version) = (object.uid().unwrap_or_default(), object.resource_version().unwrap_or_default());
        match written.get(&uid) {
            Some(entry) if entry.older.contains(&version) => entry.object.clone(),
            Some(_) => {
                written.remove(&uid);
                object.clone()
            }
            None => object.clone(),
        }
    }

    /// `before` became `after`.
    pub fn wrote(&self, before: &K, after: K) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let uid = before.uid().unwrap_or_default();
        let mut older = written.remove(&uid).map(|entry| entry.older).unwrap_or_default();
        // A write that changes nothing leaves the version as it is.
        if before.resource_version() != after.resource_version() {
            older.push(before.resource_version().unwrap_or_default());
        }
        let excess = older.len().saturating_sub(8);
        older.drain(..excess);
        written.insert(uid, Written { older, object: Arc::new(after) });
    }

    /// The object is gone.
    pub fn forget(&self, uid: &str) {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}
