//! One case: so many links, of so many tables.

use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{Api, api::PostParams};
use link_operator::api::{landing_zone::LandingZone, link_connection::LinkConnection};
use serde_json::{Value, json};
use tokio::{sync::watch, time};

use crate::{
    cluster::{Cluster, Controller, named},
    counts::{self, Counts},
    limit,
    workers::{Play, Workers},
};

/// How large.
#[derive(Clone, Copy)]
pub struct Size {
    pub links: u64,
    /// Of each link.
    pub tables: u64,
    /// Or listed in the link.
    pub discovered: bool,
}

/// For how long it is watched when all is Ready.
#[derive(Clone, Copy)]
pub struct Rest {
    pub idle: Duration,
    pub beat: Duration,
}

/// Links of one namespace.
const TOGETHER: u64 = 50;
/// Links that are created at once.
const CREATORS: usize = 8;
/// How often it is looked whether all is Ready: each look counts all links and tables.
const LOOK: Duration = Duration::from_secs(2);
/// After this long without any progress it is given up.
const STUCK: Duration = Duration::from_mins(5);
/// So long after the first moment in which all is Ready the last writes are done.
const SETTLE: Duration = Duration::from_secs(15);
const MEBIBYTE: f64 = 1_048_576.0;

/// Figures of a moment.
struct Seen {
    at: Instant,
    writes: Counts,
    served: Counts,
    cpu: f64,
    metrics: String,
}

impl Seen {
    async fn now(cluster: &Cluster, controller: &Controller) -> Self {
        Self { served: cluster.served().await, ..Self::of(controller).await }
    }

    /// Without what the API server counted: its answer is long, and it has other things to do.
    async fn of(controller: &Controller) -> Self {
        let metrics = controller.metrics().await;
        let writes = Counts::read(&metrics, "link_operator_api_requests_total");
        Self { at: Instant::now(), writes, served: Counts::default(), cpu: controller.cpu(), metrics }
    }

    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        counts::sum(&self.metrics, name, labels)
    }

    fn ready(&self) -> (u64, u64) {
        let links = self.sum("link_operator_links", &[("phase", "Running"), ("state", "Ready")]);
        (links as u64, self.sum("link_operator_tables", &[("phase", "Replicating")]) as u64)
    }
}

pub async fn run(size: Size, rest: Rest) {
    let tables = size.links * size.tables;
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("\n{} links of {} tables each [load {}]", size.links, size.tables, load.split(' ').take(3).collect::<Vec<_>>().join(" "));
    let cluster = Cluster::start().await;
    let limit = limit::measure(&cluster.client).await;
    println!("the API server writes at most {limit:.0} objects/s (16 writers, statuses of LinkTables, nothing else running)");
    let (heart, beats) = watch::channel(0);
    let _workers = Workers::start(&cluster.client, Play { discover: size.tables as usize, heart: beats }).await;
    let controller = cluster.controller();
    controller.metrics().await;
    namespaces(&cluster, size).await;
    time::sleep(SETTLE).await;
    println!("  empty: {:.0} MiB", controller.memory().0 as f64 / MEBIBYTE);

    let start = Seen::now(&cluster, &controller).await;
    let creating = {
        let client = cluster.client.clone();
        tokio::spawn(async move { create(client, size).await })
    };
    let Some(took) = until_ready(&controller, size.links, tables, start.at).await else {
        println!("  given up:\n{}", cluster.log("controller").lines().rev().take(10).collect::<Vec<_>>().join("\n"));
        return;
    };
    creating.await.unwrap();
    time::sleep(SETTLE).await;
    let ready = Seen::now(&cluster, &controller).await;
    until(&start, &ready, size, took, limit);
    if size.discovered {
        plan(&cluster).await;
    }
    print("controller memory", controller.memory().1 as f64 / MEBIBYTE, "MiB at most", "< 150");

    let quiet = watched(&cluster, &controller, rest.idle, "idle, reports unchanged").await;
    print("writes a minute, idle", quiet, "", "0");
    let beating = tokio::spawn(async move {
        let mut minutes = time::interval(Duration::from_mins(1));
        loop {
            minutes.tick().await;
            heart.send_modify(|beats| *beats += 1);
        }
    });
    watched(&cluster, &controller, rest.beat, "idle, positions move on each minute").await;
    beating.abort();
    let (now, most) = controller.memory();
    println!("  memory: {:.0} MiB now, {:.0} MiB at most", now as f64 / MEBIBYTE, most as f64 / MEBIBYTE);
}

fn print(what: &str, value: f64, unit: &str, goal: &str) {
    println!("  {what:<34} {value:>9.2} {unit:<12} goal {goal}");
}

async fn namespaces(cluster: &Cluster, size: Size) {
    let all: Api<Namespace> = Api::all(cluster.client.clone());
    for number in 0..size.links.div_ceil(TOGETHER) {
        let namespace = format!("team-{number}");
        all.create(&PostParams::default(), &named(&json!({"name": namespace}))).await.unwrap();
        let zone = json!({"apiVersion": "link-operator.io/v1alpha1", "kind": "LandingZone", "metadata": {"name": "staging"},
            "spec": {"azure": {"account": "account", "container": "container", "auth": {"sasToken": {"secretKeyRef": {"name": "zone-sas", "key": "token"}}}}}});
        let zones: Api<LandingZone> = Api::namespaced(cluster.client.clone(), &namespace);
        zones.create(&PostParams::default(), &serde_json::from_value(zone).unwrap()).await.unwrap();
    }
}

async fn create(client: kube::Client, size: Size) {
    let create = |number: u64| {
        let links: Api<LinkConnection> = Api::namespaced(client.clone(), &format!("team-{}", number / TOGETHER));
        async move { links.create(&PostParams::default(), &serde_json::from_value(link(number, size)).unwrap()).await.map(|_| ()).unwrap() }
    };
    stream::iter(0..size.links).map(create).buffer_unordered(CREATORS).collect::<()>().await;
}

fn link(number: u64, size: Size) -> Value {
    let database = |host: String| json!({"host": host, "database": "shop", "auth": {"password": {"secretRef": {"name": "shop-app"}}}});
    let mut spec = json!({"source": {"postgresql": database(format!("shop-{number}"))}, "target": {"postgresql": database("dw".into())},
        "landingZoneRef": {"name": "staging"}});
    if size.discovered {
        spec["discover"] = json!({"include": ["public.*"]});
    } else {
        let table = |table| json!({"schemaName": "public", "tableName": format!("table_{table}")});
        spec["tables"] = (0..size.tables).map(table).collect();
    }
    json!({"apiVersion": "link-operator.io/v1alpha1", "kind": "LinkConnection", "metadata": {"name": format!("shop-{number}")}, "spec": spec})
}

/// How long it took until all is Ready; none if there was no progress for long.
async fn until_ready(controller: &Controller, links: u64, tables: u64, start: Instant) -> Option<Duration> {
    let (mut progress, mut since, mut said) = ((0, 0), Instant::now(), Instant::now());
    loop {
        let seen = Seen::of(controller).await;
        if seen.ready() == (links, tables) {
            return Some(seen.at - start);
        }
        if seen.ready() != progress {
            (progress, since) = (seen.ready(), Instant::now());
        }
        if said.elapsed() > Duration::from_secs(20) {
            said = Instant::now();
            let memory = controller.memory().0 as f64 / MEBIBYTE;
            println!(
                "    {:>4} s: {} links and {} tables are ready; {} writes; {memory:.0} MiB",
                start.elapsed().as_secs(),
                progress.0,
                progress.1,
                seen.writes.total()
            );
        }
        if since.elapsed() > STUCK {
            return None;
        }
        time::sleep(LOOK).await;
    }
}

/// What it took until all was Ready.
fn until(start: &Seen, ready: &Seen, size: Size, took: Duration, limit: f64) {
    let writes = (&ready.writes - &start.writes).without(&["leases"]);
    let served = (&ready.served - &start.served).without(&["leases"]);
    let (links, tables) = (size.links as f64, (size.links * size.tables) as f64);
    let of_tables = writes.of(&["linktables", "linktables/status"]);
    let rest = writes.without(&["linktables", "linktables/status", "events"]);
    println!("  writes of the controller until Ready, by kind:");
    writes.print(links + tables, "an object");
    print("writes per object", writes.total() as f64 / (links + tables), "", "≤ 6");
    print("  without Events", (writes.total() - writes.of(&["events"])) as f64 / (links + tables), "", "≤ 6");
    print("  of a LinkTable, without Events", of_tables as f64 / tables, "", "≤ 6");
    print("  of a link and its 7 children", rest.total() as f64 / links, "", "");
    let same = |resource: &str| (writes.of(&[resource]), served.of(&[resource]));
    println!(
        "  counted by controller and API server: linktables/status {:?}, linkconnections/status {:?}",
        same("linktables/status"),
        same("linkconnections/status")
    );
    let bound = |writes: u64| writes as f64 / limit;
    print("time until Ready", took.as_secs_f64(), "s", "");
    print("  by the limit: its own writes", bound(writes.total()), "s", "");
    print("  by the limit: everybody's writes", bound(served.total()), "s", "");
    busy(start, ready);
}

/// What the controller did from one moment to another.
fn busy(before: &Seen, after: &Seen) {
    for kind in ["LinkConnection", "LinkTable"] {
        let sum = |what: &str| {
            let name = format!("link_operator_reconcile_duration_seconds_{what}");
            after.sum(&name, &[("kind", kind)]) - before.sum(&name, &[("kind", kind)])
        };
        println!("  {:>8.0} reconciliations of a {kind}, {:.1} ms each", sum("count"), 1000.0 * sum("sum") / sum("count").max(1.0));
    }
    println!("  {:.1} s of CPU in {:.0} s", after.cpu - before.cpu, (after.at - before.at).as_secs_f64());
}

/// The size of the plan.
async fn plan(cluster: &Cluster) {
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "team-0");
    let map = maps.get("shop-0-plan").await.unwrap();
    let size: usize = map.binary_data.iter().flatten().map(|(_, data)| data.0.len()).sum();
    print("plan, gzipped", size as f64 / 1024.0, "KiB", "≤ 900");
}

/// Writes a minute while nothing is to be done.
async fn watched(cluster: &Cluster, controller: &Controller, time: Duration, what: &str) -> f64 {
    let before = Seen::now(cluster, controller).await;
    time::sleep(time).await;
    let after = Seen::now(cluster, controller).await;
    let writes = &after.writes - &before.writes;
    let minutes = (after.at - before.at).as_secs_f64() / 60.0;
    let rest = writes.without(&["leases"]);
    println!(
        "  {what}, {} s: {:.1} writes a minute, and {:.1} of its Lease",
        time.as_secs(),
        rest.total() as f64 / minutes,
        writes.of(&["leases"]) as f64 / minutes
    );
    rest.print(minutes, "a minute");
    busy(&before, &after);
    rest.total() as f64 / minutes
}
