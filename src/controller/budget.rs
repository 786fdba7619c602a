//! The budget for writing progress: so many statuses of LinkTables and LinkConnections a second for the whole controller, the
//! longest unwritten first. Changes of phase or condition do not ask here.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use kube::runtime::reflector::ObjectRef;
use tokio::time;

use super::context::Queues;
use crate::api::{link_connection::LinkConnection, link_table::LinkTable};

/// Time between two grants: 10 a second.
const EVERY: Duration = Duration::from_millis(100);
/// Shortest time between two writes of one object's progress.
pub const EACH: Duration = Duration::from_secs(1);
/// And of figures that move all the time, whatever the object does.
pub const SELDOM: Duration = Duration::from_mins(1);

/// An object that makes progress.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Object {
    /// A link.
    Link(ObjectRef<LinkConnection>),
    /// A table.
    Table(ObjectRef<LinkTable>),
}

impl From<ObjectRef<LinkConnection>> for Object {
    fn from(link: ObjectRef<LinkConnection>) -> Self {
        Self::Link(link)
    }
}

impl From<ObjectRef<LinkTable>> for Object {
    fn from(table: ObjectRef<LinkTable>) -> Self {
        Self::Table(table)
    }
}

/// Who waits for a write, and who may.
#[derive(Default)]
pub struct Budget {
    objects: Mutex<HashMap<Object, Entry>>,
}

#[derive(Clone, Copy, Default)]
struct Entry {
    written: Option<Instant>,
    /// How long it rests between two writes.
    rest: Duration,
    waits: bool,
    granted: bool,
}

impl Budget {
    /// Whether the object's progress may be written now, if it rests so long between two writes. If not, its reconciler is woken
    /// when it may.
    pub fn ask(&self, object: &Object, rest: Duration) -> bool {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = objects.entry(object.clone()).or_default();
        entry.waits = !entry.granted;
        entry.rest = rest;
        std::mem::take(&mut entry.granted)
    }

    /// The object's status was written, for whatever reason.
    pub fn written(&self, object: &Object, now: Instant) {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects.insert(object.clone(), Entry { written: Some(now), ..Entry::default() });
    }

    /// The object is gone.
    pub fn forget(&self, object: &Object) {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner).remove(object);
    }

    /// Grants one write to who waits longest.
    fn grant(&self, now: Instant) -> Option<Object> {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let rested = |entry: &Entry| entry.written.is_none_or(|written| now.duration_since(written) >= entry.rest);
        let (object, entry) =
            objects.iter_mut().filter(|(_, entry)| entry.waits && rested(entry)).min_by_key(|(_, entry)| entry.written)?;
        *entry = Entry { waits: false, granted: true, ..*entry };
        Some(object.clone())
    }

    /// Forgets objects that nothing holds back any more: most of many have nothing to tell most of the time.
    fn tidy(&self, now: Instant) {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = |entry: &Entry| entry.written.is_some_and(|written| now.duration_since(written) < SELDOM);
        objects.retain(|_, entry| entry.waits || entry.granted || holds(entry));
        objects.shrink_to_fit();
    }

    /// Grants for ever.
    pub async fn run(self: Arc<Self>, queues: Queues) {
        let mut ticks = time::interval(EVERY);
        ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let mut tidied = Instant::now();
        loop {
            ticks.tick().await;
            if tidied.elapsed() > SELDOM {
                tidied = Instant::now();
                self.tidy(tidied);
            }
            match self.grant(Instant::now()) {
                Some(Object::Link(link)) => queues.links.wake(link),
                Some(Object::Table(table)) => queues.tables.wake(table),
                None => {}
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
        let table = |name: &str| Object::from(ObjectRef::<LinkTable>::new(name).within("shop"));
        let start = Instant::now();
        budget.written(&table("old"), start);
        budget.written(&table("young"), start + Duration::from_secs(5));
        for name in ["young", "old", "never"] {
            assert!(!budget.ask(&table(name), EACH), "{name}");
        }
        let later = start + Duration::from_secs(10);
        assert_eq!(budget.grant(later), Some(table("never")));
        assert_eq!(budget.grant(later), Some(table("old")));
        assert!(budget.ask(&table("old"), EACH));
        budget.written(&table("old"), later);
        assert!(!budget.ask(&table("old"), EACH));
        assert_eq!(budget.grant(later), Some(table("young")));
        // `old` was written just now.
        assert_eq!(budget.grant(later), None);
        assert_eq!(budget.grant(later + EACH), Some(table("old")));

        // Figures rest longer, unless there is progress too.
        budget.written(&table("old"), later);
        assert!(!budget.ask(&table("old"), SELDOM));
        assert_eq!(budget.grant(later + SELDOM / 2), None);
        assert!(!budget.ask(&table("old"), EACH));
        assert_eq!(budget.grant(later + SELDOM / 2), Some(table("old")));
    }
    #[test]
    fn who_has_nothing_to_tell_is_forgotten_after_its_rest() {
        let budget = Budget::default();
        let table = |name: &str| Object::from(ObjectRef::<LinkTable>::new(name).within("shop"));
        let start = Instant::now();
        for name in ["quiet", "waits"] {
            budget.written(&table(name), start);
        }
        assert!(!budget.ask(&table("waits"), SELDOM));
        let known = || budget.objects.lock().unwrap().len();
        budget.tidy(start + SELDOM / 2);
        assert_eq!(known(), 2);
        budget.tidy(start + SELDOM);
        assert_eq!((known(), budget.grant(start + SELDOM)), (1, Some(table("waits"))));
    }
}
