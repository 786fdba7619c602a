//! What the reconcilers of all kinds share: stores of what is in the cluster, queues to wake each other, and tools.

use std::sync::Arc;

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Pod, ServiceAccount},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::{
        reflector::{ObjectRef, Store},
        watcher,
    },
};
use tokio::task::JoinSet;

use super::{
    Error, Options,
    apply::Applier,
    budget::Budget,
    events::Events,
    link_connection::Memory,
    link_table::acceptance::{self, Rival},
    metrics::Metrics,
    names::MANAGED_BY_LABEL,
    oneshot::{self, Made},
    pods::{self, OneShot, PodBase},
    rollouts::Rollouts,
    tables::{self, Tables},
    trim,
    watch::{self, Change, Queue},
    workers::Workers,
};
use crate::{
    api::{
        conditions::mark::{LINK, MANAGER},
        fault::Explain as _,
        integration_runtime::IntegrationRuntime,
        landing_zone::LandingZone,
        link_connection::LinkConnection,
        link_table::LinkTable,
    },
    data::TableName,
};

/// What the reconcilers share.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// The command line.
    pub options: Options,
    /// What is in the cluster.
    pub stores: Stores,
    /// Ways to wake reconcilers.
    pub queues: Queues,
    /// Applies children.
    pub applier: Arc<Applier>,
    /// Publishes Events.
    pub events: Events,
    /// Talks to workers.
    pub workers: Arc<Workers>,
    /// What is remembered of links between two reconciliations.
    pub memory: Arc<Memory>,
    /// Bounds rollouts.
    pub rollouts: Rollouts,
    /// Budget for progress.
    pub budget: Arc<Budget>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// What is in the cluster, as far as it was heard.
#[derive(Clone)]
pub struct Stores {
    /// Link connections.
    pub links: Store<LinkConnection>,
    /// Link tables.
    pub tables: Tables,
    /// Landing zones.
    pub zones: Store<LandingZone>,
    /// Integration runtimes.
    pub runtimes: Store<IntegrationRuntime>,
    /// Our pods.
    pub pods: Store<Pod>,
    /// Our StatefulSets.
    pub workers: Store<StatefulSet>,
}

/// One queue a kind.
#[derive(Clone)]
pub struct Queues {
    /// Link connections.
    pub links: Queue<LinkConnection>,
    /// Link tables.
    pub tables: Queue<LinkTable>,
    /// Landing zones.
    pub zones: Queue<LandingZone>,
    /// Integration runtimes.
    pub runtimes: Queue<IntegrationRuntime>,
}

impl Queues {
    /// How many objects of each kind wait for their turn.
    pub fn depths(&self) -> [(&'static str, usize); 4] {
        [
            ("LinkConnection", self.links.depth()),
            ("LinkTable", self.tables.depth()),
            ("LandingZone", self.zones.depth()),
            ("IntegrationRuntime", self.runtimes.depth()),
        ]
    }
}

impl Context {
    /// What all pods of a link or zone have in common, but for secrets and claim.
    pub fn pod_base(&self) -> PodBase {
        PodBase { image: self.options.worker_image.clone(), pull_policy: self.options.image_pull_policy.clone(), ..Default::default() }
    }

    /// Has the ServiceAccount of these pods be there.
    pub async fn ensure_account(&self, base: &PodBase, namespace: &str) -> Result<ServiceAccount, Error> {
        let runtimes = watch::list(&self.stores.runtimes, namespace, |_| true);
        let account = pods::service_account(base, namespace, runtimes.iter().filter_map(|runtime| runtime.spec.kubernetes.as_ref()));
        self.applier.apply(&account).await?;
        Ok(account)
    }

    /// Makes a one-shot pod. Whatever keeps it from being made is an answer: who asks has a status to tell it in.
    pub async fn ask(&self, base: &PodBase, one_shot: OneShot<'_>) -> Result<Made, Error> {
        let namespace = one_shot.namespace.to_owned();
        let account = self.ensure_account(base, &namespace).await;
        // Also without its account: in a namespace that is going away the pod's refusal tells so.
        match (oneshot::create(&self.client, &pods::one_shot(base, one_shot)).await, account) {
            (Ok(Made::Refused(_)), Err(error)) => Ok(Made::Refused(error.fault())),
            (Ok(Made::Refused(fault)), Ok(account)) => {
                // A namespace of the same name may have been made again, without the account.
                self.applier.forget::<ServiceAccount>(&namespace, &account.name_any());
                Ok(Made::Refused(fault))
            }
            (Ok(made), _) => Ok(made),
            (Err(error), _) => Ok(Made::Refused(Error::from(error).fault())),
        }
    }

    /// One of our pods.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        watch::get(&self.stores.pods, namespace, name)
    }

    /// The links of a namespace that satisfy a predicate.
    pub fn links(&self, namespace: &str, wanted: impl Fn(&LinkConnection) -> bool) -> Vec<Arc<LinkConnection>> {
        watch::list(&self.stores.links, namespace, wanted)
    }

    /// Other links, wherever, that read the same database and write to the same target.
    pub fn rival_links(&self, link: &LinkConnection) -> Vec<Arc<LinkConnection>> {
        self.stores.links.state_filter(|other| acceptance::are_rivals(link, other))
    }

    /// What is linked of a source table there: a link's own table is linked if it is older.
    pub fn rivals(&self, rival_links: &[Arc<LinkConnection>], source: &TableName) -> Vec<Rival> {
        let linked = |link: &Arc<LinkConnection>| {
            let tables = self.stores.tables.of_source(&link.namespace().unwrap_or_default(), &link.name_any(), source);
            let fit: Vec<_> = tables.into_iter().filter(|table| acceptance::unfit(table, link).is_none()).collect();
            acceptance::winners(&fit).remove(source).map(|table| Rival { link: link.clone(), table })
        };
        rival_links.iter().filter(|link| link.metadata.deletion_timestamp.is_none()).filter_map(linked).collect()
    }
}

/// A kind in the one namespace that is looked after, or in all.
pub(super) fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    namespace.map_or_else(|| Api::all(client.clone()), |namespace| Api::namespaced(client.clone(), namespace))
}

/// What is kept of objects beside the stores.
#[derive(Clone)]
pub struct Kept {
    /// Of what was written when.
    pub budget: Arc<Budget>,
    /// Of what was found out about links and tables.
    pub memory: Arc<Memory>,
    /// Of what was applied.
    pub applier: Arc<Applier>,
    /// Of what workers said.
    pub workers: Arc<Workers>,
}

impl Kept {
    /// The link is gone, also if somebody took its finalizer away.
    fn forget(&self, link: &LinkConnection) {
        let uid = link.uid().unwrap_or_default();
        self.budget.forget(&ObjectRef::from_obj(link).into());
        self.memory.forget(&uid);
        self.workers.forget(&uid);
    }
}

/// Starts to watch all kinds and says how they wake each other.
pub fn watch_all(client: &Client, namespace: Option<&str>, queues: &Queues, kept: &Kept, tasks: &mut JoinSet<()>) -> Stores {
    let all = watcher::Config::default;
    let ours = || watcher::Config::default().labels(&format!("{MANAGED_BY_LABEL}={MANAGER}"));

    let (tables, work) = tables::watch_all(
        api::<LinkTable>(client, namespace),
        queues.clone(),
        kept.budget.clone(),
        kept.memory.clone(),
        kept.applier.clone(),
    );
    tasks.spawn(work);

    let (q, t, of_links) = (queues.clone(), tables.clone(), kept.clone());
    let (links, work) = watch::watch(api::<LinkConnection>(client, namespace), all(), watch::as_it_is, move |link, change, store| {
        let namespace = link.namespace().unwrap_or_default();
        q.links.wake(ObjectRef::from_obj(link));
        if change == Change::Gone {
            of_links.forget(link);
        }
        if change != Change::Status {
            // Who has a source table may have changed.
            for rival in store.state_filter(|other| acceptance::are_rivals(link, other)) {
                q.links.wake(ObjectRef::from_obj(rival.as_ref()));
            }
            q.zones.wake_named(&namespace, &link.spec.landing_zone_ref.name);
            if let Some(runtime) = &link.spec.compute.integration_runtime_ref {
                q.runtimes.wake_named(&namespace, &runtime.name);
            }
            // Whether their link is there, and stays, concerns its tables.
            let name = link.name_any();
            for table in t.of_link(&namespace, &name) {
                q.tables.wake(ObjectRef::from_obj(table.as_ref()));
            }
        }
    });
    tasks.spawn(work);

    let (q, l) = (queues.clone(), links.clone());
    let (zones, work) = watch::watch(api::<LandingZone>(client, namespace), all(), watch::as_it_is, move |zone, _, _| {
        let name = zone.name_any();
        q.zones.wake(ObjectRef::from_obj(zone));
        for link in watch::list(&l, &zone.namespace().unwrap_or_default(), |link: &LinkConnection| link.spec.landing_zone_ref.name == name)
        {
            q.links.wake(ObjectRef::from_obj(link.as_ref()));
        }
    });
    tasks.spawn(work);

    let (q, l) = (queues.clone(), links.clone());
    let (runtimes, work) = watch::watch(api::<IntegrationRuntime>(client, namespace), all(), watch::as_it_is, move |runtime, _, _| {
        let name = runtime.name_any();
        q.runtimes.wake(ObjectRef::from_obj(runtime));
        let uses = |link: &LinkConnection| link.spec.compute.integration_runtime_ref.as_ref().is_some_and(|runtime| runtime.name == name);
        for link in watch::list(&l, &runtime.namespace().unwrap_or_default(), uses) {
            q.links.wake(ObjectRef::from_obj(link.as_ref()));
        }
    });
    tasks.spawn(work);

    let q = queues.clone();
    let (pods, work) = watch::watch(api::<Pod>(client, namespace), ours(), trim::pod, move |pod, _, _| {
        let namespace = pod.namespace().unwrap_or_default();
        if let Some(link) = pod.labels().get(LINK) {
            q.links.wake_named(&namespace, link);
        }
        for zone in pod.owner_references().iter().filter(|owner| owner.kind == LandingZone::kind(&())) {
            q.zones.wake_named(&namespace, &zone.name);
        }
    });
    tasks.spawn(work);

    let (q, a) = (queues.clone(), kept.applier.clone());
    let (workers, work) = watch::watch(api::<StatefulSet>(client, namespace), ours(), trim::set, move |set, change, _| {
        let namespace = set.namespace().unwrap_or_default();
        if change == Change::Gone {
            a.forget::<StatefulSet>(&namespace, &set.name_any());
            // Without an owner, and not watched: one goes with its namespace alone, whose name may come again.
            a.forget_all::<ServiceAccount>(&namespace);
        }
        if let Some(link) = set.labels().get(LINK) {
            q.links.wake_named(&namespace, link);
        }
    });
    tasks.spawn(work);
    Stores { links, tables, zones, runtimes, pods, workers }
}
