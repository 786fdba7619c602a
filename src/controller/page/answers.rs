//! What the page's server answers: files, and what they ask for as JSON.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::{StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use jiff::Timestamp;
use kube::ResourceExt;
use serde::Serialize;

use super::{
    Page, Seen,
    ask::{Ask, Found, LinkOrder, TableOrder, find},
    guard::guard,
    view::{self, LinkPicture, LinkRow, TablePicture, TableRow},
};
use crate::{
    api::{link_connection::LinkConnection, link_table::LinkTable},
    controller::watch,
};

/// Samples of lag that a list shows of each link: ten minutes.
const RECENT: usize = 40;

/// Files of the page: name, type, content.
const FILES: [(&str, &str, &str); 7] = [
    ("/", "text/html; charset=utf-8", include_str!("assets/index.html")),
    ("/page.css", "text/css; charset=utf-8", include_str!("assets/page.css")),
    ("/page.js", "text/javascript; charset=utf-8", include_str!("assets/page.js")),
    ("/views.js", "text/javascript; charset=utf-8", include_str!("assets/views.js")),
    ("/chart.js", "text/javascript; charset=utf-8", include_str!("assets/chart.js")),
    ("/dom.js", "text/javascript; charset=utf-8", include_str!("assets/dom.js")),
    ("/icon.svg", "image/svg+xml", include_str!("assets/icon.svg")),
];

/// Who says so, and when.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Told<T> {
    now: Timestamp,
    replica: Option<String>,
    leads: bool,
    version: &'static str,
    #[serde(flatten)]
    what: T,
}

/// Links, and how many of all there are in which state.
#[derive(Serialize)]
struct Links {
    states: HashMap<&'static str, usize>,
    #[serde(flatten)]
    found: Found<LinkRow>,
}

/// Why there is no answer.
enum Refusal {
    /// The API server was not heard yet.
    NotYet,
    /// There is no such object.
    Unknown,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::NotYet => (StatusCode::SERVICE_UNAVAILABLE, "the controller has only just begun and waits for the API server\n"),
            Self::Unknown => (StatusCode::NOT_FOUND, "there is no such object (any more)\n"),
        }
        .into_response()
    }
}

type Answer<T> = Result<Json<Told<T>>, Refusal>;

/// All that is answered. Everything goes past [`guard`], also what is not found.
pub fn router(page: Arc<Page>) -> Router {
    let files = FILES.into_iter().fold(Router::new(), |router, (path, kind, content)| {
        router.route(path, get(async move || ([(header::CONTENT_TYPE, kind)], content)))
    });
    files
        .route("/api/links", get(links))
        .route("/api/links/{namespace}/{link}", get(link))
        .route("/api/links/{namespace}/{link}/tables", get(tables))
        .route("/api/links/{namespace}/{link}/tables/{table}", get(table))
        .layer(middleware::from_fn(guard))
        .with_state(page)
}

async fn links(State(page): State<Arc<Page>>, Query(ask): Query<Ask<LinkOrder>>) -> Answer<Links> {
    answer(&page, |seen, now| {
        let all = seen.links.state();
        let mut states = HashMap::from([("Ready", 0), ("Reconciling", 0), ("Stalled", 0)]);
        for link in &all {
            *states.entry(view::link_state(link).0.into()).or_default() += 1;
        }
        // One pass over all tables, whatever the number of links.
        let mut loading: HashMap<(String, String), Vec<Arc<LinkTable>>> = HashMap::new();
        for table in seen.tables.state_filter(|table| table.status.as_ref().is_some_and(|status| view::table_loaded(status).is_some())) {
            let link = (table.namespace().unwrap_or_default(), table.spec.link_connection_ref.name.clone());
            loading.entry(link).or_default().push(table);
        }
        let row = |link: Arc<LinkConnection>| {
            let tables = loading.remove(&(link.namespace().unwrap_or_default(), link.name_any())).unwrap_or_default();
            view::link_row(&link, &tables, page.lags(&link, RECENT), now)
        };
        Ok(Links { states, found: find(all, &ask, now).map(row) })
    })
}

async fn link(State(page): State<Arc<Page>>, Path((namespace, name)): Path<(String, String)>) -> Answer<LinkPicture> {
    answer(&page, |seen, now| {
        let link = watch::get(&seen.links, &namespace, &name).ok_or(Refusal::Unknown)?;
        let tables = tables_of(seen, &namespace, &name);
        Ok(view::link_picture(&link, &tables, page.lags(&link, usize::MAX), now))
    })
}

async fn tables(
    State(page): State<Arc<Page>>,
    Path((namespace, name)): Path<(String, String)>,
    Query(ask): Query<Ask<TableOrder>>,
) -> Answer<Found<TableRow>> {
    answer(&page, |seen, now| Ok(find(tables_of(seen, &namespace, &name), &ask, now).map(|table| view::table_row(&table, now))))
}

async fn table(State(page): State<Arc<Page>>, Path((namespace, link, name)): Path<(String, String, String)>) -> Answer<TablePicture> {
    answer(&page, |seen, now| {
        let table = watch::get(&seen.tables, &namespace, &name).filter(|table| table.spec.link_connection_ref.name == link);
        Ok(view::table_picture(&*table.ok_or(Refusal::Unknown)?, now))
    })
}

fn tables_of(seen: &Seen, namespace: &str, link: &str) -> Vec<Arc<LinkTable>> {
    let is_of = |table: &LinkTable| table.spec.link_connection_ref.name == link && table.metadata.namespace.as_deref() == Some(namespace);
    seen.tables.state_filter(is_of)
}

fn answer<T>(page: &Page, what: impl FnOnce(&Seen, Timestamp) -> Result<T, Refusal>) -> Answer<T> {
    let (seen, now) = (page.look().ok_or(Refusal::NotYet)?, Timestamp::now());
    let told = Told { now, replica: page.replica.clone(), leads: seen.leads, version: env!("CARGO_PKG_VERSION"), what: what(&seen, now)? };
    Ok(Json(told))
}
