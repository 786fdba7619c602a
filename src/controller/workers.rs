//! Talking to workers: one task a worker pod pushes the stored plan and long-polls for reports.
//!
//! Owns what was last heard of each worker. Never decides anything: a new report wakes the link's reconciler.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use kube::runtime::reflector::ObjectRef;
use tokio::{sync::watch, time};
use tokio_util::task::AbortOnDropHandle;

use super::{
    certificate::Trust,
    worker_client::{Error, WorkerClient},
};
use crate::api::{link_connection::LinkConnection, plan::API_PORT, report::Report};

/// Pauses after failures: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// A plan as the ConfigMap holds it: only such a plan is pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPlan {
    /// Its revision.
    pub revision: u64,
    /// Gzipped JSON.
    pub body: Bytes,
}

/// A worker pod that can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerPod {
    /// UID.
    pub uid: String,
    /// Name.
    pub name: String,
    /// Address.
    pub address: IpAddr,
}

/// What was last heard of a worker.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// Its newest report.
    pub report: Option<Arc<Report>>,
    /// When it last answered.
    pub at: Option<Instant>,
    /// Why it does not answer, since it last did.
    pub error: Option<String>,
}

/// Who is to be told that something was heard of a link's workers.
pub type Wake = Arc<dyn Fn(&ObjectRef<LinkConnection>) + Send + Sync>;

/// All links' workers.
pub struct Workers {
    links: Mutex<HashMap<String, Link>>,
    wake: Wake,
}

struct Link {
    desired: watch::Sender<Desired>,
    pollers: HashMap<String, Poller>,
}

#[derive(Clone)]
struct Desired {
    trust: Arc<Trust>,
    plan: StoredPlan,
}

struct Poller {
    pod: WorkerPod,
    heard: Arc<Mutex<Heard>>,
    since: Instant,
    _task: AbortOnDropHandle<()>,
}

/// One worker and what was heard of it.
#[derive(Clone, Debug)]
pub struct WorkerView {
    /// The pod.
    pub pod: WorkerPod,
    /// What was last heard.
    pub heard: Heard,
    /// For how long it has been asked.
    pub asked_for: Duration,
}

impl Workers {
    /// No links yet; `wake` is called with every report.
    pub fn new(wake: Wake) -> Self {
        Self { links: Mutex::default(), wake }
    }

    /// Talks to exactly these pods of a link, and pushes this plan to each.
    pub fn sync(&self, link: &ObjectRef<LinkConnection>, uid: &str, trust: &Arc<Trust>, plan: &StoredPlan, pods: Vec<WorkerPod>) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = links.entry(uid.to_owned()).or_insert_with(|| Link {
            desired: watch::Sender::new(Desired { trust: trust.clone(), plan: plan.clone() }),
            pollers: HashMap::new(),
        });
        entry.desired.send_if_modified(|desired| {
            let changed = desired.plan.revision != plan.revision || desired.trust != *trust;
            if changed {
                *desired = Desired { trust: trust.clone(), plan: plan.clone() };
            }
            changed
        });
        entry.pollers.retain(|_, poller| pods.contains(&poller.pod));
        for pod in pods {
            if entry.pollers.contains_key(&pod.uid) {
                continue;
            }
            let heard = Arc::new(Mutex::new(Heard::default()));
            let conversation = Conversation {
                address: SocketAddr::new(pod.address, API_PORT),
                heard: heard.clone(),
                desired: entry.desired.subscribe(),
                link: link.clone(),
                wake: self.wake.clone(),
            };
            let task = AbortOnDropHandle::new(tokio::spawn(conversation.hold()));
            entry.pollers.insert(pod.uid.clone(), Poller { pod, heard, since: Instant::now(), _task: task });
        }
    }

    /// Stops talking to a link's workers and forgets what they said.
    pub fn forget(&self, uid: &str) {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    /// What was last heard of a link's workers, by pod name.
    pub fn view(&self, uid: &str) -> Vec<WorkerView> {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let mut views: Vec<WorkerView> = links
            .get(uid)
            .into_iter()
            .flat_map(|link| link.pollers.values())
            .map(|poller| WorkerView {
                pod: poller.pod.clone(),
                heard: poller.heard.lock().unwrap_or_else(PoisonError::into_inner).clone(),
                asked_for: poller.since.elapsed(),
            })
            .collect();
        views.sort_by(|a, b| a.pod.name.cmp(&b.pod.name));
        views
    }
}

/// The conversation with one worker.
struct Conversation {
    address: SocketAddr,
    heard: Arc<Mutex<Heard>>,
    desired: watch::Receiver<Desired>,
    link: ObjectRef<LinkConnection>,
    wake: Wake,
}

impl Conversation {
    async fn hold(mut self) {
        let mut pause = PAUSES.0;
        loop {
            let Err(error) = self.talk(&mut pause).await else {
                pause = PAUSES.0;
                continue;
            };
            tracing::debug!(link = %self.link, worker = %self.address, %error, "worker does not answer");
            self.note(|heard| heard.error = Some(error.to_string()));
            time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Talks on one connection, until another plan or other credentials are wanted. Begins with the plan: a worker that was restarted
    /// may have read an older one from its mount, and counts its reports from the start.
    async fn talk(&mut self, pause: &mut Duration) -> Result<(), Error> {
        let desired = self.desired.borrow_and_update().clone();
        let mut client = WorkerClient::connect(self.address, &desired.trust).await?;
        client.push(&desired.plan).await?;
        drop(desired);
        let mut after = 0;
        loop {
            let answer = tokio::select! {
                answer = client.ask(after) => answer?,
                changed = self.desired.changed() => match changed {
                    Ok(()) => return Ok(()),
                    // Nobody wants this conversation any more; the task is about to be aborted.
                    Err(_) => std::future::pending().await,
                },
            };
            *pause = PAUSES.0;
            let told = answer.map(|report| Arc::new(report.sorted()));
            if let Some(report) = &told {
                after = report.sequence;
            }
            let news = told.is_some();
            let recovered = self.note(|heard| {
                heard.at = Some(Instant::now());
                heard.report = told.or(heard.report.take());
                heard.error.take().is_some()
            });
            if news || recovered {
                (self.wake)(&self.link);
            }
        }
    }

    fn note<T>(&self, change: impl FnOnce(&mut Heard) -> T) -> T {
        change(&mut self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
