//! `worker --release`: frees what the link made, once, and ends.

use std::{path::Path, time::Duration};

use tokio::time;

use super::{reports, systems::Systems};
use crate::{
    api::{
        fault::{Check, Explain, Fault},
        plan::Plan,
        report::Report,
    },
    landing::{self, log},
    secrets::Secrets,
    source, target,
};

/// How long one system may take.
const PATIENCE: Duration = Duration::from_mins(2);

/// Frees source, target and zone as the plan says, all at once; a failure of one does not keep the others.
pub async fn release(plan: &Plan, secrets: &Secrets, volume: &Path) -> Report {
    let systems = Systems::open(plan, secrets, volume, &landing::Requests::default());
    let whole = !plan.stop_only;
    if let Some(check) = not_ours(&systems, plan).await {
        let released = check.fault.is_none();
        return Report { plan_revision: plan.revision, released, checks: vec![check], ..reports::empty(super::pod_name()) };
    }
    let (source, target, zone) = tokio::join!(
        async { Some(free_source(&systems).await) },
        async { if whole { Some(free_target(&systems, plan).await) } else { None } },
        async { if whole && !plan.retain_zone { Some(free_zone(&systems).await) } else { None } },
    );
    let named = [("SourceReleased", source), ("TargetReleased", target), ("ZoneReleased", zone)];
    let checks: Vec<_> = named
        .into_iter()
        .filter_map(|(name, result)| {
            Some(match result? {
                Ok(()) => Check::passed(name, ""),
                Err(fault) => Check::failed(name, fault),
            })
        })
        .collect();
    let released = checks.iter().all(|check| check.fault.is_none());
    Report { plan_revision: plan.revision, released, checks, ..reports::empty(super::pod_name()) }
}

/// A link whose folder another one owns made nothing and must remove nothing: slot, progress and folder bear the id that both
/// have. A zone that does not answer does not say whose they are.
async fn not_ours(systems: &Systems, plan: &Plan) -> Option<Check> {
    let name = "ZoneOwned";
    let zone = match &systems.zone {
        Ok(zone) => zone,
        Err(fault) => return Some(Check::failed(name, fault.clone())),
    };
    match within(log::owner(zone), landing::Error::ZoneUnreachable).await {
        Ok(Some(owner)) if owner.uid != plan.link.uid => {
            Some(Check::passed(name, format!("belongs to LinkConnection {}/{}: nothing to remove", owner.namespace, owner.name)))
        }
        Ok(_) => None,
        Err(error) => Some(Check::failed(name, error.fault())),
    }
}

async fn free_source(systems: &Systems) -> Result<(), Fault> {
    let source = systems.source.clone()?;
    let result = within(source.release(), source::Error::SourceUnreachable).await;
    result.map_err(|error| {
        let by_hand = source.release_commands().join("; ");
        let fault = error.fault();
        Fault { remedy: format!("{}; or remove by hand: {by_hand}", fault.remedy), ..fault }
    })
}

async fn free_target(systems: &Systems, plan: &Plan) -> Result<(), Fault> {
    let target = systems.target.clone()?;
    let release = target.release(&plan.link.link_id, plan.delete_target_tables);
    within(release, target::Error::TargetUnreachable).await.map_err(|error| error.fault())
}

async fn free_zone(systems: &Systems) -> Result<(), Fault> {
    let zone = systems.zone.clone()?;
    within(zone.delete_folder(""), landing::Error::ZoneUnreachable).await.map_err(|error| error.fault())
}

async fn within<T, E>(work: impl Future<Output = Result<T, E>>, silent: fn(String) -> E) -> Result<T, E> {
    time::timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(silent(format!("no answer within {} s", PATIENCE.as_secs()))))
}
