//! `worker --probe`: asks what the request names, once, and ends.

use std::{path::Path, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use tokio::time;

use super::{
    checks::{ask_source, ask_target, ask_zone},
    reports,
};
use crate::{
    api::{
        fault::{Explain, Fault},
        plan::{PlannedTable, ProbeRequest},
        report::{Report, TablePhase, TableReport},
    },
    landing::Zone,
    secrets::Secrets,
    source::{self, Source},
    target,
};

/// How long one system may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
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
        let Some(source) = &request.source else { return (Vec::new(), Vec::new()) };
        let source = source::open(source, secrets, link).map_err(|error| error.fault());
        tokio::join!(ask_source(&source, PATIENCE), look_at_tables(&source, &request.tables))
    };
    let target = async {
        match &request.target {
            Some(target) => ask_target(&target::open(target, secrets, link).map_err(|error| error.fault()), PATIENCE).await,
            None => Vec::new(),
        }
    };
    let ((mut checks, credential_expiry), (source, tables), target) = tokio::join!(zone, source, target);
    checks.extend(source);
    checks.extend(target);
    Report { checks, credential_expiry, tables, ..reports::empty(super::pod_name()) }
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
        schema: None,
        error,
        attempt: 0,
        next_attempt: None,
    }
}
