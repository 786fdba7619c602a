//! `worker --probe`: asks what the request names, once, and ends.

use std::{path::Path, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use jiff::Timestamp;
use tokio::time;

use super::{
    checks::{DISCOVER_PATIENCE, ask_source, ask_target, ask_zone, discover},
    reports,
};
use crate::{
    api::{
        fault::{Check, Explain, Fault},
        forecast::PlanStatus,
        plan::{PlannedTable, ProbeRequest},
        report::{PositionLost, Report, SourceReport, TablePhase, TableReport},
    },
    forecast::{Wishes, forecast},
    landing::Zone,
    replication::protect,
    secrets::Secrets,
    source::{self, Source},
    target,
};

/// How long one system may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the source may take to let a position go.
const GIVE_UP_PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take to reckon what a link would do.
const FORECAST_PATIENCE: Duration = Duration::from_secs(25);
/// With how many tables the target is tried.
const TRIES: usize = 200;
/// How many tables are looked at at once: a probe is gentle with the source.
const AT_ONCE: usize = 4;
/// Link id of a question that no link asks.
const NO_LINK: &str = "probe";

/// Asks everything that is in the request, all at once.
pub async fn probe(request: &ProbeRequest, secrets: &Secrets, volume: &Path) -> Report {
    let link = request.link_id.as_deref().unwrap_or(NO_LINK);
    let zone = async {
        match &request.zone {
            Some(zone) => ask_zone(&Zone::open(zone, secrets, volume, None).map_err(|error| error.fault()), PATIENCE).await,
            None => (Vec::new(), None),
        }
    };
    let source = async {
        let Some(source) = &request.source else { return (Vec::new(), Vec::new(), None) };
        let source = source::open(source, secrets, link).map_err(|error| error.fault());
        tokio::join!(ask_source(&source, PATIENCE), look_at_tables(&source, &request.tables), discover(&source, DISCOVER_PATIENCE))
    };
    let target = async {
        match &request.target {
            Some(target) => ask_target(&target::open(target, secrets, link, None).map_err(|error| error.fault()), PATIENCE).await,
            None => Vec::new(),
        }
    };
    let ((mut checks, credential_expiry), (source, tables, found), target) = tokio::join!(zone, source, target);
    checks.extend(source);
    checks.extend(target);
    let patterns = request.discover.as_ref().and_then(|discover| discover.patterns().ok());
    let discovery = found.map(|found| found.discovery(patterns.as_ref()));
    let plan = plan(request, secrets, &checks).await;
    let (source, position_lost) = kept(request, secrets).await.unwrap_or_default();
    Report { checks, credential_expiry, source, discovery, plan, position_lost, tables, ..reports::empty(super::pod_name()) }
}

/// What the link would do; none if its source does not say, which the checks tell then.
async fn plan(request: &ProbeRequest, secrets: &Secrets, checks: &[Check]) -> Option<PlanStatus> {
    let (link, cores) = (request.link_id.as_deref()?, request.forecast_cores?);
    let source = source::open(request.source.as_ref()?, secrets, link).ok()?;
    let target = target::open(request.target.as_ref()?, secrets, link, None).ok()?;
    let patterns = request.discover.as_ref().and_then(|discover| discover.patterns().ok());
    let target_is_ready = checks.iter().all(|check| !check.name.starts_with("Target") || check.fault.is_none());
    let wishes = Wishes {
        link_id: link,
        cores,
        tables: &request.tables,
        patterns: patterns.as_ref(),
        tries: if target_is_ready { TRIES } else { 0 },
    };
    let forecast = time::timeout(FORECAST_PATIENCE, forecast(&wishes, source.as_ref(), target.as_ref())).await.ok()?.ok()?;
    Some(PlanStatus { not_asked: request.not_asked, ..forecast.summary(Timestamp::now(), cores) })
}

/// What the source keeps for a link that no worker watches; too much of it is given up. None if it does not say.
async fn kept(request: &ProbeRequest, secrets: &Secrets) -> Option<(Option<SourceReport>, Option<PositionLost>)> {
    let (link, kept) = (request.link_id.as_deref()?, request.kept.as_ref()?);
    let ask = async {
        let source = source::open(request.source.as_ref()?, secrets, link).ok()?;
        let answer = match kept.give_up_above {
            Some(above) => source.give_up(above, &kept.uid).await,
            None => source.retained_log(&kept.uid).await,
        };
        match answer {
            Ok(log) => {
                let (retained_log_bytes, log_room_bytes) = (log.map(|log| log.bytes), log.and_then(|log| log.room));
                Some((Some(SourceReport { retained_log_bytes, log_room_bytes, ..SourceReport::default() }), None))
            }
            Err(error) => {
                let lost = protect::lost(&error, kept.run, kept.on_position_lost)?;
                Some((Some(SourceReport::default()), Some(lost)))
            }
        }
    };
    time::timeout(GIVE_UP_PATIENCE, ask).await.ok().flatten()
}

/// Whether each table can be linked. What is wrong with the source as a whole is not repeated for each.
async fn look_at_tables(source: &Result<Arc<dyn Source>, Fault>, tables: &[PlannedTable]) -> Vec<TableReport> {
    let Ok(source) = source else { return Vec::new() };
    let looks = tables.iter().map(|table| async move {
        let error = match time::timeout(PATIENCE, source.describe(&table.source)).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) if is_of_source(&error) => return None,
            Ok(Err(error)) => Some(error.fault()),
            Err(_) => return None,
        };
        Some(report(table, error))
    });
    stream::iter(looks).buffered(AT_ONCE).filter_map(std::future::ready).collect().await
}

fn is_of_source(error: &source::Error) -> bool {
    matches!(
        error,
        source::Error::SourceUnreachable(_)
            | source::Error::SourceAuthenticationFailed(_)
            | source::Error::SecretMissing(_)
            | source::Error::SecretKeyMissing(_)
            | source::Error::SourceNotPrepared { .. }
    )
}

fn report(table: &PlannedTable, error: Option<Fault>) -> TableReport {
    let phase = match &error {
        None => TablePhase::Waiting,
        Some(fault) if fault.heals => TablePhase::Suspended,
        Some(_) => TablePhase::Failed,
    };
    TableReport {
        consistent: false,
        uid: table.uid.clone(),
        phase,
        waiting: None,
        snapshot: None,
        rows: 0,
        bytes: 0,
        as_of: None,
        last_processed_time: None,
        position: None,
        reseed: None,
        schema: None,
        error,
        attempt: 0,
        next_attempt: None,
    }
}
