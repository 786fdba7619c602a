//! Asks source, target and zone again and again whether all is as the link needs it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{
    sync::watch,
    time::{self, Instant},
};

use super::systems::Systems;
use crate::{
    api::{
        discovery::Found,
        fault::{Check, Explain, Fault},
        plan::Plan,
    },
    landing, source, target,
};

/// How often is asked while all is well. A fault must show within 30 s.
const CALM: Duration = Duration::from_secs(10);
/// How soon is asked again after a first failure.
const WORRIED: Duration = Duration::from_secs(2);
/// How long one system may take to answer.
const PATIENCE: Duration = Duration::from_secs(8);
/// How often is asked which tables there are,
const DISCOVER_EVERY: Duration = Duration::from_mins(10);
/// and how often where new ones are to be linked.
const DISCOVER_OFTEN: Duration = Duration::from_mins(1);
/// How long the source may take to tell: it may have ten thousand.
pub(super) const DISCOVER_PATIENCE: Duration = Duration::from_secs(20);

/// What was answered last.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Answers {
    /// Revision of the plan whose systems answered; 0 before any did.
    pub revision: u64,
    pub checks: Vec<Check>,
    pub credential_expiry: Option<Timestamp>,
    /// The tables of the source; another list only if it says something else.
    pub found: Option<Arc<Found>>,
}

/// The plans by which a worker works.
type NewestPlan = watch::Receiver<Option<Arc<Plan>>>;

/// Asks for ever, at once when the systems change. Tells `answers` when there is news. One worker of a link `discovers`, by its plans.
pub(super) async fn keep_asking(
    mut systems: watch::Receiver<Option<Arc<Systems>>>,
    answers: watch::Sender<Answers>,
    discovers: Option<NewestPlan>,
) {
    let mut pause = WORRIED;
    let mut discovered: Option<Instant> = None;
    loop {
        let current = systems.borrow_and_update().clone();
        if let Some(current) = current {
            let mut new = ask(&current, PATIENCE).await;
            new.found.clone_from(&answers.borrow().found);
            // Whoever waits for the checks does not wait for a long list.
            tell(&answers, &new);
            if let Some(plans) = &discovers
                && discovered.is_none_or(|at| at.elapsed() > discover_every(plans))
            {
                let found = discover(&current.source, DISCOVER_PATIENCE).await;
                discovered = found.is_some().then(Instant::now);
                let news = found.filter(|found| new.found.as_ref().is_none_or(|known| !known.is_as(found)));
                new.found = news.map(Arc::new).or(new.found);
                tell(&answers, &new);
            }
            let failed = new.checks.iter().any(|check| check.fault.is_some());
            if !failed {
                pause = WORRIED;
            }
            let sleep = if failed { pause } else { CALM };
            tokio::select! {
                () = time::sleep(sleep) => {}
                changed = systems.changed() => if changed.is_err() { return },
            }
            if failed {
                pause = (pause * 2).min(CALM);
            }
        } else if systems.changed().await.is_err() {
            return;
        }
    }
}

fn tell(answers: &watch::Sender<Answers>, new: &Answers) {
    note(&answers.borrow(), new);
    answers.send_if_modified(|old| {
        let news = old != new;
        old.clone_from(new);
        news
    });
}

fn discover_every(plans: &NewestPlan) -> Duration {
    let links_new = plans.borrow().as_ref().is_some_and(|plan| plan.discover.is_some());
    if links_new { DISCOVER_OFTEN } else { DISCOVER_EVERY }
}

/// Asks all systems at once.
pub(super) async fn ask(systems: &Systems, patience: Duration) -> Answers {
    let (zone, source, target) =
        tokio::join!(ask_zone(&systems.zone, patience), ask_source(&systems.source, patience), ask_target(&systems.target, patience));
    let (mut checks, credential_expiry) = zone;
    checks.extend(source);
    checks.extend(target);
    Answers { revision: systems.revision, checks, credential_expiry, found: None }
}

/// The tables of the source; none if it does not say. What is wrong with it then, its checks tell.
pub(super) async fn discover(source: &Result<Arc<dyn source::Source>, Fault>, patience: Duration) -> Option<Found> {
    let tables = time::timeout(patience, source.as_ref().ok()?.discover()).await.ok()?.ok()?;
    let tables = tables.into_iter().map(|(name, obstacle)| (name, obstacle.map(|error| error.fault()))).collect();
    Some(Found::new(Timestamp::now(), tables))
}

pub(crate) async fn ask_zone(zone: &Result<landing::Zone, Fault>, patience: Duration) -> (Vec<Check>, Option<Timestamp>) {
    let name = "ZoneReadable";
    match zone {
        Err(fault) => (vec![Check::failed(name, fault.clone())], None),
        Ok(zone) => match time::timeout(patience, async { (zone.checks().await, zone.credential_expiry().await) }).await {
            Ok(answer) => answer,
            Err(_) => (vec![Check::failed(name, landing::Error::ZoneUnreachable(silent(patience)).fault())], None),
        },
    }
}

pub(crate) async fn ask_source(source: &Result<Arc<dyn source::Source>, Fault>, patience: Duration) -> Vec<Check> {
    let name = "SourceReachable";
    match source {
        Err(fault) => vec![Check::failed(name, fault.clone())],
        Ok(source) => match time::timeout(patience, source.preflight()).await {
            Ok(checks) => checks,
            Err(_) => vec![Check::failed(name, source::Error::SourceUnreachable(silent(patience)).fault())],
        },
    }
}

pub(crate) async fn ask_target(target: &Result<Arc<dyn target::Target>, Fault>, patience: Duration) -> Vec<Check> {
    let name = "TargetReachable";
    match target {
        Err(fault) => vec![Check::failed(name, fault.clone())],
        Ok(target) => match time::timeout(patience, target.preflight()).await {
            Ok(checks) => checks,
            Err(_) => vec![Check::failed(name, target::Error::TargetUnreachable(silent(patience)).fault())],
        },
    }
}

fn silent(patience: Duration) -> String {
    format!("no answer within {} s", patience.as_secs())
}

/// Logs what came and what went.
fn note(old: &Answers, new: &Answers) {
    let failed = |answers: &Answers| -> BTreeSet<(String, String)> {
        let faults = answers.checks.iter().filter_map(|check| Some((check.name.clone(), check.fault.as_ref()?.reason.clone())));
        faults.collect()
    };
    let (before, now) = (failed(old), failed(new));
    for check in &new.checks {
        if let Some(fault) = &check.fault
            && !before.contains(&(check.name.clone(), fault.reason.clone()))
        {
            tracing::warn!(check = check.name, reason = fault.reason, remedy = fault.remedy, "{}", fault.message);
        }
    }
    for (check, reason) in before.difference(&now) {
        tracing::info!(check, reason, "healed");
    }
}
