//! A page to look at: links, their tables, lag over time, progress of first loads, errors with their remedies. Synapse: the
//! Monitor hub.
//!
//! It only reads, and shows what stands in status. It asks for no password and so listens on the pod's loopback interface, where
//! nothing arrives but what the API server lets through to `kubectl port-forward`; see [`Listen`]. Every replica serves it: one that
//! waits for the Lease watches links and tables for it, one that leads shows what it watches anyway. What is shown comes from
//! memory: a viewer costs the API server nothing.

mod answers;
mod ask;
mod guard;
mod lag;
mod view;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use futures::FutureExt;
use jiff::Timestamp;
use kube::{
    Client, ResourceExt,
    runtime::{reflector::Store, watcher},
};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use self::lag::{History, Lags, STEP};
use super::{
    context::{Stores, api},
    watch,
};
use crate::{
    api::{link_connection::LinkConnection, link_table::LinkTable},
    telemetry,
};

/// Where the page is served.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(id = "page")]
pub struct Options {
    /// Port of the page that shows links and tables to a person. Default: none is served.
    #[arg(long, env = "PAGE_PORT")]
    pub page_port: Option<u16>,
    /// Who reaches it.
    #[arg(long, env = "PAGE_LISTEN", value_enum, default_value_t = Listen::Loopback)]
    pub page_listen: Listen,
}

/// Who reaches the page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Listen {
    /// Who may `kubectl port-forward` to the pod, and nobody else: it listens on the loopback interface.
    #[default]
    Loopback,
    /// Everybody who reaches the pod: for the API server's proxy of Services. A NetworkPolicy has to keep everybody else away.
    Pod,
}

/// The page.
pub struct Page {
    options: Options,
    replica: Option<String>,
    watched: Option<String>,
    seen: RwLock<Option<Seen>>,
    history: Mutex<History>,
}

/// What is in the cluster.
#[derive(Clone)]
struct Seen {
    links: Store<LinkConnection>,
    tables: Store<LinkTable>,
    leads: bool,
    /// Of a replica that does not lead. They end when nobody looks any more.
    _watches: Option<Arc<JoinSet<()>>>,
}

impl Page {
    /// A page that shows nothing yet.
    pub fn new(options: &super::Options) -> Self {
        Self {
            options: options.page.clone(),
            replica: options.pod_name.clone(),
            watched: options.namespace.clone(),
            seen: RwLock::default(),
            history: Mutex::default(),
        }
    }

    /// Until this process leads, it watches what it shows for itself.
    pub fn waits(&self, client: &Client) {
        if self.options.page_port.is_none() {
            return;
        }
        let namespace = self.watched.as_deref();
        let mut watches = JoinSet::new();
        let (links, work) =
            watch::watch(api(client, namespace), watcher::Config::default(), watch::as_it_is, |_: &LinkConnection, _, _| {});
        watches.spawn(work);
        let (tables, work) = watch::watch(api(client, namespace), watcher::Config::default(), watch::as_it_is, |_: &LinkTable, _, _| {});
        watches.spawn(work);
        self.sees(Seen { links, tables, leads: false, _watches: Some(Arc::new(watches)) });
    }

    /// This process leads, and watches for its work.
    pub fn leads(&self, stores: &Stores) {
        self.sees(Seen { links: stores.links.clone(), tables: stores.tables.store.clone(), leads: true, _watches: None });
    }

    fn sees(&self, seen: Seen) {
        *self.seen.write().unwrap_or_else(PoisonError::into_inner) = Some(seen);
    }

    /// What is in the cluster; none before all of it was heard.
    fn look(&self) -> Option<Seen> {
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner).clone()?;
        let is_complete = |ready: Option<Result<(), _>>| matches!(ready, Some(Ok(())));
        let complete =
            is_complete(seen.links.wait_until_ready().now_or_never()) && is_complete(seen.tables.wait_until_ready().now_or_never());
        complete.then_some(seen)
    }

    /// Serves the page until `stop`; for ever nothing, if it has no port.
    pub async fn serve(self: Arc<Self>, stop: CancellationToken) -> io::Result<()> {
        let Some(port) = self.options.page_port else { return std::future::pending().await };
        let listener = match self.options.page_listen {
            Listen::Loopback => TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?,
            Listen::Pod => telemetry::listen(port).await?,
        };
        tracing::info!(address = %listener.local_addr()?, "the page is there");
        let service = answers::router(self.clone()).into_make_service_with_connect_info::<SocketAddr>();
        let served = axum::serve(listener, service).with_graceful_shutdown(stop.cancelled_owned());
        tokio::select! {
            result = served.into_future() => result,
            () = self.take_samples() => Ok(()),
        }
    }

    async fn take_samples(&self) {
        loop {
            let pause = match self.look() {
                Some(seen) => {
                    self.sample(&seen, Timestamp::now());
                    STEP
                }
                None => STEP / 15,
            };
            tokio::time::sleep(pause).await;
        }
    }

    fn sample(&self, seen: &Seen, now: Timestamp) {
        let lag = |link: &Arc<LinkConnection>| view::lag(link.status.as_ref().and_then(|status| status.consistent_as_of), now);
        let lags: Vec<_> = seen.links.state().iter().map(|link| (link.uid().unwrap_or_default(), lag(link))).collect();
        self.history.lock().unwrap_or_else(PoisonError::into_inner).sample(now, lags);
    }

    fn lags(&self, link: &LinkConnection, most: usize) -> Lags {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).of(&link.uid().unwrap_or_default(), most)
    }
}
