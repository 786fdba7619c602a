//! A link that is made anew over the folder of a former one.

use std::sync::Arc;

use link_operator::{
    api::{link_connection::RelinkPolicy, report::TablePhase},
    replication::EngineReport,
};
use tokio::sync::watch;

use super::{Engine, Link, planned};
use crate::support::postgres::Server;

async fn two_tables() -> Link {
    let link = Link::new(Server::shared(), &["t", "other"]).await;
    let rows = "INSERT INTO t SELECT i, 0 FROM generate_series(1, 1000) i; INSERT INTO other SELECT i, 0 FROM generate_series(1, 10) i";
    let tables = "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE other (id int PRIMARY KEY, v int)";
    link.source.execute(&format!("{tables}; {rows}")).await;
    link
}

/// As another LinkConnection with LinkTables of its own, of which the first come at once.
fn made_anew(link: &Link, uid: &str, policy: RelinkPolicy, tables: &[&str]) {
    link.replan(|plan| {
        (plan.link.uid, plan.relink_policy) = (uid.to_owned(), policy);
        plan.tables = tables.iter().map(|name| planned(name, 2)).collect();
    });
}

impl Engine {
    async fn says_of_the_zone(&self, reason: &str) {
        let says = |report: &EngineReport| {
            let mut faults = report.checks.iter().filter(|check| check.name == "ZoneOwned").filter_map(|check| check.fault.as_ref());
            faults.any(|fault| fault.reason == reason && !fault.heals)
        };
        self.until(reason, says).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_was_rebuilt_goes_on_without_a_reload_once_it_may() {
    let link = two_tables().await;
    let engine = link.start();
    engine.replicating(2).await;
    link.converged("t").await;
    engine.kill().await;
    link.source.execute("UPDATE t SET v = 1 WHERE id <= 100; INSERT INTO other VALUES (11, 0)").await;

    made_anew(&link, "anew", RelinkPolicy::Refuse, &[]);
    let engine = link.start();
    engine.says_of_the_zone("ZoneNotEmpty").await;
    made_anew(&link, "anew", RelinkPolicy::Adopt, &[]);
    engine.until("it goes on", |report| report.term.is_some()).await;
    // Manifests come one by one, and none is missed.
    made_anew(&link, "anew", RelinkPolicy::Adopt, &["t"]);
    engine.table("public.t-2", TablePhase::Replicating, None).await;
    link.converged("t").await;
    made_anew(&link, "anew", RelinkPolicy::Adopt, &["t", "other"]);
    engine.table("public.other-2", TablePhase::Replicating, None).await;
    link.source.execute("DELETE FROM t WHERE id = 1; UPDATE other SET v = 2").await;
    link.converged("t").await;
    link.converged("other").await;
    assert_eq!((link.loads("t"), link.loads("other")), (1, 1), "loaded again");
    // The source knows whose position it keeps: else nothing would bound what it keeps for it.
    let comment = "SELECT obj_description(oid, 'pg_publication') FROM pg_publication";
    let comment: String = link.source.connect().await.query_one(comment, &[]).await.unwrap().get(0);
    assert!(comment.ends_with(" anew"), "{comment}");
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_live_links_with_one_id_the_later_goes_on_and_the_other_says_so() {
    let link = two_tables().await;
    let old = Arc::clone(&link.plan.borrow());
    let (plans, of_old) = watch::channel(old.clone());
    let former = link.start_under(0, of_old);
    former.replicating(2).await;

    made_anew(&link, "anew", RelinkPolicy::Adopt, &["t", "other"]);
    let engine = link.start();
    engine.table("public.t-2", TablePhase::Replicating, None).await;
    former.says_of_the_zone("LinkTakenOver").await;
    // Nor does a newer plan, or a policy, give it back.
    let again = link_operator::api::plan::Plan { revision: old.revision + 100, relink_policy: RelinkPolicy::Adopt, ..(*old).clone() };
    plans.send_replace(Arc::new(again));
    former.kill().await;
    let former = link.start_under(0, plans.subscribe());
    former.says_of_the_zone("LinkTakenOver").await;
    link.source.execute("UPDATE t SET v = 3; UPDATE other SET v = 3").await;
    link.converged("t").await;
    link.converged("other").await;
    assert_eq!(link.loads("t"), 1);
    former.kill().await;
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_purges_starts_over_in_a_run_of_its_own() {
    let link = two_tables().await;
    let engine = link.start();
    engine.replicating(2).await;
    engine.kill().await;
    link.source.execute("UPDATE t SET v = 4").await;
    made_anew(&link, "anew", RelinkPolicy::Purge, &["t", "other"]);
    let engine = link.start();
    engine.replicates_in_run(2).await;
    engine.replicating(2).await;
    link.converged("t").await;
    // Once is enough.
    engine.kill().await;
    let engine = link.start();
    engine.replicates_in_run(2).await;
    engine.kill().await;
}
