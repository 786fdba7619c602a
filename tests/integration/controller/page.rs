//! The page, as a person sees it in a browser, and who does not get to it.

use std::{
    net::{IpAddr, UdpSocket},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    core::v1::{Endpoints, Pod, Service},
    rbac::v1::{Role, RoleBinding},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use link_operator::{
    api::{link_connection::LinkConnection, link_table::LinkTable, runbook},
    controller::{Options, page::Listen},
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::stage::{PATIENCE, Stage, Worker, reason};
use crate::support::{apiserver::ApiServer, azurite::free_port, browser::Browser};

/// What would run if data became markup.
const SCRIPT: &str = "<script>pwned=1</script>";
const IMAGE: &str = "<img src=x onerror=pwned=2>";

/// A stage whose controller serves the page, and the page's port.
async fn staged(change: impl FnOnce(&mut Options)) -> (Stage, u16) {
    let mut stage = Stage::new().await;
    stage.kill_controller().await;
    let port = free_port();
    stage
        .start_controller_as(|options| {
            options.page.page_port = Some(port);
            change(options);
        })
        .await;
    stage.zone("staging").await;
    (stage, port)
}

/// A link with a table that fails, one that is loaded and one that replicates, and another link that nobody works for yet.
async fn shop(stage: &Stage) -> Worker {
    stage.link("crm", json!({})).await;
    stage.link("shop", json!({"compute": {"coreCount": 4}})).await;
    for (name, source) in [("orders", "orders"), ("customers", "customers"), ("odd", SCRIPT)] {
        stage.table(name, "shop", source).await;
    }
    let worker = stage.start_worker("shop").await;
    let plan = worker.plan_where(|plan| plan.tables.len() == 3).await;
    let uid = |name: &str| plan.tables.iter().find(|table| table.name == name).unwrap().uid.clone();
    let now = Timestamp::now();
    let up_to = now - SignedDuration::from_secs(7);
    let snapshot = json!({"rowsDone": 1234, "rowsEstimated": 4936, "bytesDone": 5_242_880, "chunksDone": 3, "chunksTotal": 12,
        "startTime": now - SignedDuration::from_mins(5), "estimatedCompletion": now + SignedDuration::from_mins(15)});
    let failed = json!({"reason": "NoPrimaryKey", "message": format!("has no key {IMAGE}"), "remedy": "add a primary key", "heals": false});
    worker.tells(
        &plan,
        &[
            json!({"uid": uid("orders"), "phase": "Replicating", "rows": 1_234_567, "bytes": 7_340_032, "asOf": up_to, "consistent": true,
                "lastProcessedTime": up_to, "position": "0/5"}),
            json!({"uid": uid("customers"), "phase": "Snapshotting", "rows": 1234, "snapshot": snapshot}),
            json!({"uid": uid("odd"), "phase": "Failed", "error": failed}),
        ],
        up_to,
    );
    stage.link_where("shop", |link| reason(link) == "TablesFailed").await;
    let is_loading = |table: &LinkTable| table.status.as_ref().is_some_and(|status| status.snapshot.is_some());
    stage.becomes::<LinkTable>("customers", is_loading).await;
    stage.becomes::<LinkTable>("odd", |table| table.status.as_ref().is_some_and(|status| status.error.is_some())).await;
    worker
}

fn http() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_sees_links_tables_lag_progress_and_errors_with_their_remedies() {
    let (stage, port) = staged(|_| {}).await;
    let _worker = shop(&stage).await;
    let own = format!("http://127.0.0.1:{port}/");
    let mut browser = Browser::start(&[]).await;
    let b = &mut browser;
    assert_eq!(b.open(&own).await, 200);

    // All links, the worst first.
    b.wait("document.querySelectorAll('#links tbody tr').length === 2").await;
    b.wait("document.querySelector('#links tbody tr').innerText.includes('TablesFailed')").await;
    let row = b.eval("document.querySelector('#links tbody tr').innerText").await;
    for word in ["shop", stage.namespace.as_str(), "Running", "1 / 3", "25 %", "PostgreSQL 15.18", "dw"] {
        assert!(row.as_str().unwrap().contains(word), "{word} is not in {row}");
    }
    let lag = "parseInt(document.querySelector('#links tbody tr td:nth-of-type(3)').innerText)";
    assert!((7..60).contains(&b.wait(lag).await.as_i64().unwrap()));

    // Filters.
    b.click("#search").await;
    b.type_text("cr").await;
    b.wait("document.querySelectorAll('#links tbody tr').length === 1").await;
    b.wait("document.querySelector('#links tbody th').innerText.includes('crm')").await;
    assert_eq!(b.eval("document.activeElement.id + document.activeElement.value").await, "searchcr", "it was taken from who types");
    for _ in 0..2 {
        b.press("Backspace", 8).await;
    }
    b.wait("document.querySelectorAll('#links tbody tr').length === 2").await;

    // One link.
    b.click("#links tbody a").await;
    b.wait("document.querySelectorAll('#tables tbody tr').length === 3").await;
    let text = "document.getElementById('main').innerText";
    let shown = b.eval(text).await.as_str().unwrap().to_owned();
    for word in ["TablesFailed", "Core count", "1 of 1 workers ready", "1,234 of about 4,936 rows", "5.0 MiB", "Source’s log", "1.0 MiB"]
    {
        assert!(shown.contains(word), "{word} is not in {shown}");
    }
    assert!(b.eval("document.getElementById('snapshot').innerText").await.as_str().unwrap().contains("expected to end in 1"), "{shown}");
    let phases = b.eval("[...document.querySelectorAll('#tables .pill')].map(pill => pill.innerText).join()").await;
    assert_eq!(phases, "Failed,Snapshotting,Replicating");

    // An error with its remedy, and what it has in it is text.
    b.click("#tables tbody button").await;
    b.wait("document.querySelector('.more .remedy')").await;
    let more = b.eval("document.querySelector('.more').innerText").await.as_str().unwrap().to_owned();
    for word in ["NoPrimaryKey", &format!("has no key {IMAGE}"), "What to do: add a primary key", "Recent errors"] {
        assert!(more.contains(word), "{word} is not in {more}");
    }
    let page = format!("{}LinkTablesFailed.md", runbook::BASE);
    assert_eq!(b.eval("document.querySelector('.more a').href").await, page);
    assert_eq!(b.eval("document.querySelector('#tables tbody th').innerText.trim()").await, format!("public.{SCRIPT}"));
    assert_eq!(b.eval("document.querySelectorAll('main script, main img').length + typeof pwned").await, "0undefined");
    b.press("Enter", 13).await;
    b.wait("!document.querySelector('.more')").await;
    b.click("#problems").await;
    b.wait("document.querySelectorAll('#tables tbody tr:not(.more)').length === 1").await;
    b.click("#problems").await;
    b.wait("document.querySelectorAll('#tables tbody tr:not(.more)').length === 3").await;

    // Lag over time.
    b.wait("document.querySelector('#lag').dataset.points >= 2 && document.querySelector('#lag .line')?.getTotalLength() > 0").await;
    b.eval("document.getElementById('lag').focus()").await;
    b.press("ArrowLeft", 37).await;
    b.wait("document.querySelector('#lag .cursor')").await;

    // With LINK_PICTURES=folder a person can look at it, too.
    if let Some(folder) = std::env::var_os("LINK_PICTURES") {
        for scheme in ["light", "dark"] {
            b.picture(&std::path::Path::new(&folder).join(format!("link-{scheme}.png")), scheme).await;
        }
        b.click("header .home").await;
        b.wait("document.querySelector('#links')").await;
        for scheme in ["light", "dark"] {
            b.picture(&std::path::Path::new(&folder).join(format!("links-{scheme}.png")), scheme).await;
        }
    }
    assert_eq!(b.complaints, [""; 0]);
    let foreign: Vec<_> = b.requests.iter().filter(|request| !request.starts_with(&own)).collect();
    assert!(foreign.is_empty() && b.requests.len() > 8, "{foreign:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_reads_it_but_by_loopback_and_its_own_name_and_nobody_writes() {
    let (_stage, port) = staged(|_| {}).await;
    let links = format!("http://127.0.0.1:{port}/api/links");
    let until = tokio::time::Instant::now() + PATIENCE;
    while !http().get(&links).send().await.is_ok_and(|answer| answer.status() == StatusCode::OK) {
        assert!(tokio::time::Instant::now() < until, "{links} does not answer");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(TcpStream::connect((own_address(), port)).await.is_err(), "the pod's address answers");

    for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
        for path in ["", "api/links", "nothing"] {
            let answer = http().request(method.clone(), format!("http://127.0.0.1:{port}/{path}")).send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        }
    }
    let answer = http().get(&links).header("host", "evil.example").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::MISDIRECTED_REQUEST);
    assert_eq!(answer.headers()["x-frame-options"], "DENY");
    assert!(answer.headers()["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"));
    let unknown = http().get(format!("{links}/shops/none")).send().await.unwrap();
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);

    // A site whose name leads here (DNS rebinding) is of one origin with what answers it, and gets nothing.
    let mut browser = Browser::start(&["evil.example"]).await;
    assert_eq!(browser.open(&format!("http://evil.example:{port}/")).await, 421);
    let stolen = "fetch('/api/links').then(answer => answer.text())";
    assert!(browser.eval(stolen).await.as_str().unwrap().starts_with("this page is at localhost"));
    // Markup that came into the page after all would not run.
    browser.open(&format!("http://localhost:{port}/")).await;
    browser.eval("document.body.insertAdjacentHTML('beforeend', '<img src=icon.svg onload=pwned=1>')").await;
    browser.wait("document.querySelector('body > img').complete").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(browser.eval("typeof pwned").await, "undefined");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_the_lease_shows_the_same_and_goes_on_when_it_leads() {
    let elected = |name: &str, port: u16| {
        let name = name.to_owned();
        move |options: &mut Options| {
            (options.no_leader_election, options.pod_name, options.page.page_port) = (false, Some(name), Some(port));
        }
    };
    let first_port = free_port();
    let (mut stage, _) = staged(elected("one", first_port)).await;
    stage.link("shop", json!({})).await;
    stage.becomes::<LinkConnection>("shop", |link| link.status.is_some()).await;
    let told = async |port: u16, replica: &str, leads: bool| {
        let url = format!("http://127.0.0.1:{port}/api/links?search=shop");
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            let answer = http().get(&url).send().await;
            let text = match answer {
                Ok(answer) => answer.text().await.unwrap_or_default(),
                Err(error) => error.to_string(),
            };
            let told: Value = serde_json::from_str(&text).unwrap_or_default();
            if told["replica"] == replica && told["leads"] == leads && told["items"][0]["name"] == "shop" {
                return;
            }
            assert!(tokio::time::Instant::now() < until, "{replica} never says leads={leads}: {text}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    told(first_port, "one", true).await;
    let second_port = free_port();
    let first = stage.swap_controller(elected("two", second_port)).await;
    told(second_port, "two", false).await;
    drop(first);
    told(second_port, "two", true).await;
}

/// This machine's address, beside loopback.
fn own_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // Nothing is sent.
    socket.connect("192.0.2.1:9").expect("a network beside loopback");
    socket.local_addr().unwrap().ip()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_servers_proxy_lets_in_who_may() {
    let (stage, port) = staged(|options| options.page.page_listen = Listen::Pod).await;
    stage.link("shop", json!({})).await;
    // The pod and the Service as the chart makes them, in front of this process.
    let (pods, address) = (stage.api::<Pod>(), own_address());
    let pod = json!({"metadata": {"name": "operator"}, "spec": {"containers": [{"name": "controller", "image": "i"}]}});
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    let status = json!({"status": {"podIP": address, "podIPs": [{"ip": address}]}});
    pods.patch_status("operator", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    let service = json!({"metadata": {"name": "page"}, "spec": {"ports": [{"name": "page", "port": 8090, "targetPort": "page"}]}});
    create::<Service>(&stage, service).await;
    let of_pod = json!({"ip": address, "targetRef": {"kind": "Pod", "name": "operator", "namespace": stage.namespace}});
    let endpoints = json!({"metadata": {"name": "page"}, "subsets": [{"addresses": [of_pod], "ports": [{"name": "page", "port": port}]}]});
    create::<Endpoints>(&stage, endpoints).await;
    let proxy = format!("/api/v1/namespaces/{}/services/page:page/proxy/", stage.namespace);
    let get = async |client: &Client, path: &str| {
        let asked = client.request_text(axum::http::Request::get(format!("{proxy}{path}")).body(Vec::new()).unwrap());
        tokio::time::timeout(PATIENCE, asked).await.expect("the API server's proxy does not answer")
    };
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let answer = get(&stage.client, "api/links").await;
        if answer.as_ref().is_ok_and(|text| text.contains("\"shop\"")) {
            break;
        }
        assert!(tokio::time::Instant::now() < until, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(get(&stage.client, "").await.unwrap().contains("<script type=\"module\" src=\"page.js\">"));

    let server = ApiServer::shared().await;
    let viewer = server.client_as(&stage.namespace, "viewer");
    let refused = get(&viewer, "").await.unwrap_err();
    assert!(matches!(&refused, kube::Error::Api(status) if status.code == 403), "{refused:?}");
    let role = json!({"metadata": {"name": "viewer"}, "rules": [{"apiGroups": [""], "resources": ["services/proxy"], "verbs": ["get"]}]});
    create::<Role>(&stage, role).await;
    let binding = json!({"metadata": {"name": "viewer"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "viewer"},
        "subjects": [{"kind": "ServiceAccount", "name": "viewer", "namespace": stage.namespace}]});
    create::<RoleBinding>(&stage, binding).await;
    while get(&viewer, "").await.is_err() {
        assert!(tokio::time::Instant::now() < until, "the right to get services/proxy does not suffice");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn create<K>(stage: &Stage, object: Value)
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + serde::Serialize,
{
    let api: Api<K> = stage.api();
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
}
