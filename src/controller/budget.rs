//! The budget for writing progress: so many LinkTable statuses a second for the whole controller, the longest unwritten
//! first. Changes of phase or condition do not ask here.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use kube::runtime::reflector::ObjectRef;
use tokio::time;

use super::watch::Queue;
use crate::api::link_table::LinkTable;

/// Time between two grants: 10 a second.
const EVERY: Duration = Duration::from_millis(100);
/// Shortest time between two writes of one table's progress.
const EACH: Duration = Duration::from_secs(1);

/// Who waits for a write, and who may.
#[derive(Default)]
pub struct Budget {
    tables: Mutex<HashMap<ObjectRef<LinkTable>, Entry>>,
}

#[derive(Clone, Copy, Default)]
struct Entry {
    written: Option<Instant>,
    waits: bool,
    granted: bool,
}

impl Budget {
    /// Whether the table's progress may be written now. If not, its reconciler is woken when it may.
    pub fn ask(&self, table: &ObjectRef<LinkTable>) -> bool {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = tables.entry(table.clone()).or_default();
        entry.waits = !entry.granted;
        std::mem::take(&mut entry.granted)
    }

    /// The table's status was written, for whatever reason.
    pub fn written(&self, table: &ObjectRef<LinkTable>, now: Instant) {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.insert(table.clone(), Entry { written: Some(now), waits: false, granted: false });
    }

    /// The table is gone.
    pub fn forget(&self, table: &ObjectRef<LinkTable>) {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner).remove(table);
    }

    /// Grants one write to who waits longest.
    fn grant(&self, now: Instant) -> Option<ObjectRef<LinkTable>> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let rested = |entry: &Entry| entry.written.is_none_or(|written| now.duration_since(written) >= EACH);
        let (table, entry) = tables.iter_mut().filter(|(_, entry)| entry.waits && rested(entry)).min_by_key(|(_, entry)| entry.written)?;
        *entry = Entry { waits: false, granted: true, ..*entry };
        Some(table.clone())
    }

    /// Grants for ever.
    pub async fn run(self: Arc<Self>, queue: Queue<LinkTable>) {
        let mut ticks = time::interval(EVERY);
        ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Some(table) = self.grant(Instant::now()) {
                queue.wake(table);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unwritten_goes_first_and_nobody_twice() {
        let budget = Budget::default();
        let table = |name: &str| ObjectRef::<LinkTable>::new(name).within("shop");
        let start = Instant::now();
        budget.written(&table("old"), start);
        budget.written(&table("young"), start + Duration::from_secs(5));
        for name in ["young", "old", "never"] {
            assert!(!budget.ask(&table(name)), "{name}");
        }
        let later = start + Duration::from_secs(10);
        assert_eq!(budget.grant(later), Some(table("never")));
        assert_eq!(budget.grant(later), Some(table("old")));
        assert!(budget.ask(&table("old")));
        budget.written(&table("old"), later);
        assert!(!budget.ask(&table("old")));
        assert_eq!(budget.grant(later), Some(table("young")));
        // `old` was written just now.
        assert_eq!(budget.grant(later), None);
        assert_eq!(budget.grant(later + EACH), Some(table("old")));
    }
}
