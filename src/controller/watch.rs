//! Watching: one reflector a kind for the whole process, and queues by which a change of one object wakes the reconcilers
//! of others.

use std::{
    collections::HashMap,
    fmt::Debug,
    future::Future,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::{Stream, StreamExt, stream};
use kube::{
    Api, Resource, ResourceExt,
    runtime::{
        WatchStreamExt,
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::trim;

/// Wakes the reconciler of one kind, and knows since when who waits. Cheap to clone.
pub struct Queue<K: Resource<DynamicType = ()>> {
    sender: mpsc::UnboundedSender<ObjectRef<K>>,
    woken: Arc<Mutex<HashMap<(String, String), Instant>>>,
}

impl<K: Resource<DynamicType = ()>> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), woken: self.woken.clone() }
    }
}

impl<K: Resource<DynamicType = ()> + 'static> Queue<K> {
    /// A queue and what comes out of it.
    pub fn new() -> (Self, impl Stream<Item = ObjectRef<K>> + Send + 'static)
    where
        ObjectRef<K>: Send,
    {
        let (sender, receiver) = mpsc::unbounded_channel();
        let stream = stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|item| (item, receiver)) });
        (Self { sender, woken: Arc::default() }, stream)
    }

    /// Wakes the reconciler for this object.
    pub fn wake(&self, object: ObjectRef<K>) {
        let key = (object.namespace.clone().unwrap_or_default(), object.name.clone());
        self.woken.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_insert_with(Instant::now);
        // Fails only when the process is about to end.
        let _ = self.sender.send(object);
    }

    /// Wakes the reconciler for the object of this name.
    pub fn wake_named(&self, namespace: &str, name: &str) {
        self.wake(ObjectRef::new(name).within(namespace));
    }

    /// The object's turn has come, or it turned out not to be there. How long it waited, if it was woken: the time of its next
    /// look may have come by itself.
    pub fn taken(&self, namespace: &str, name: &str) -> Option<Duration> {
        let mut woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
        woken.remove(&(namespace.to_owned(), name.to_owned())).map(|since| since.elapsed())
    }

    /// Objects that wait for their turn.
    pub fn depth(&self) -> usize {
        self.woken.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is new to us.
    Come,
    /// Somebody asks for something else: another spec, an annotation, a finalizer, its deletion.
    Asked,
    /// Only its status changed.
    Status,
    /// It is gone.
    Gone,
}

fn change<K: Resource>(before: Option<&K>, after: &K) -> Change {
    let asked = |object: &K| {
        let meta = object.meta();
        let labels = (meta.labels.clone(), meta.annotations.clone());
        (meta.uid.clone(), meta.generation, meta.deletion_timestamp.clone(), meta.finalizers.clone(), labels)
    };
    match before {
        None => Change::Come,
        Some(before) if asked(before) == asked(after) => Change::Status,
        Some(_) => Change::Asked,
    }
}

/// Prepares nothing.
pub fn as_it_is<K>(_: &mut K) {}

/// Keeps a store of all objects and tells `route` of each that came, changed or went. `prepare` has each before the store: what nobody
/// asks for need not be kept. The future does the work.
pub fn watch<K>(
    api: Api<K>,
    config: watcher::Config,
    prepare: impl Fn(&mut K) + Send + 'static,
    route: impl Fn(&K, Change, &Store<K>) + Send + 'static,
) -> (Store<K>, impl Future<Output = ()> + Send)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Hash + Eq,
{
    let (store, mut writer) = reflector::store::<K>();
    let reader = store.clone();
    let work = async move {
        let mut events = std::pin::pin!(watcher(api, config).default_backoff());
        while let Some(event) = events.next().await {
            let mut event = match event {
                Ok(event) => event,
                Err(error) => {
                    tracing::warn!(kind = %K::kind(&()), %error, "watching failed; trying again");
                    continue;
                }
            };
            if let watcher::Event::Apply(object) | watcher::Event::InitApply(object) = &mut event {
                trim::meta(object.meta_mut());
                prepare(object);
            }
            // Of a fresh list it is unknown what changed, and what it no longer has went away unseen.
            let before: Vec<Arc<K>> = match &event {
                watcher::Event::InitDone => reader.state(),
                watcher::Event::Apply(object) => reader.get(&ObjectRef::from_obj(object)).into_iter().collect(),
                _ => Vec::new(),
            };
            writer.apply_watcher_event(&event);
            match &event {
                watcher::Event::Apply(object) => route(object, change(before.first().map(AsRef::as_ref), object), &reader),
                watcher::Event::Delete(object) => route(object, Change::Gone, &reader),
                watcher::Event::InitDone => {
                    reader.state().iter().for_each(|object| route(object, Change::Come, &reader));
                    let gone = |object: &&Arc<K>| reader.get(&ObjectRef::from_obj(object.as_ref())).is_none();
                    before.iter().filter(gone).for_each(|object| route(object, Change::Gone, &reader));
                }
                watcher::Event::Init | watcher::Event::InitApply(_) => {}
            }
        }
    };
    (store, work)
}

/// An object of a store by namespace and name.
pub fn get<K>(store: &Store<K>, namespace: &str, name: &str) -> Option<Arc<K>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    store.get(&ObjectRef::new(name).within(namespace))
}

/// All objects of a namespace that satisfy a predicate, ordered by name.
pub fn list<K>(store: &Store<K>, namespace: &str, wanted: impl Fn(&K) -> bool) -> Vec<Arc<K>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let mut found = store.state_filter(|object| object.namespace().as_deref() == Some(namespace) && wanted(object));
    found.sort_by_key(|object| object.name_any());
    found
}
