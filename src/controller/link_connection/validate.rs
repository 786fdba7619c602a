//! Whether a link's spec can be carried out, given what it refers to. Pure.

use std::sync::Arc;

use k8s_openapi::{api::core::v1::PersistentVolumeClaim, apimachinery::pkg::api::resource::Quantity};
use kube::ResourceExt;

use crate::api::{
    conditions::reason,
    database::{CaptureMode, OnExistingTable},
    discover::Discover,
    fault::Fault,
    integration_runtime::{IntegrationRuntime, KubernetesRuntime},
    landing_zone::LandingZone,
    link_connection::{LinkConnection, LinkConnectionSpec},
    plan::Plan,
    source_protection::{Bounds, LEAST_CONNECTIONS},
    zone::ZoneStore,
};

/// Memory of a worker that is only to end, where the spec names none that could be.
const LEAST_MEMORY: &str = "512Mi";

/// What a link refers to.
#[derive(Clone, Default)]
pub struct References {
    /// Its LandingZone.
    pub zone: Option<Arc<LandingZone>>,
    /// Its IntegrationRuntime.
    pub runtime: Option<Arc<IntegrationRuntime>>,
    /// The claim of its zone; read only where its access modes matter.
    pub claim: Option<PersistentVolumeClaim>,
}

/// A spec that can be carried out.
#[derive(Clone, Debug)]
pub struct Validated {
    /// The link's lasting identity.
    pub link_id: String,
    /// Where files are staged.
    pub zone: ZoneStore,
    /// How long committed files stay there, seconds.
    pub retention_seconds: u64,
    /// Where pods run.
    pub runtime: Option<KubernetesRuntime>,
    /// Shortest time between two batches, milliseconds.
    pub flush_interval_ms: u64,
    /// Memory of each worker.
    pub memory: Quantity,
    /// What bounds the harm to the source.
    pub bounds: Bounds,
}

/// The lasting identity of a link.
pub fn link_id(link: &LinkConnection) -> String {
    link.spec.link_id.clone().unwrap_or_else(|| format!("{}.{}", link.namespace().unwrap_or_default(), link.name_any()))
}

/// The spec, or why it cannot be carried out.
pub fn validate(link: &LinkConnection, references: &References) -> Result<Validated, Fault> {
    let spec = &link.spec;
    let not_applicable = |message: String, remedy: &str| Fault {
        reason: reason::NOT_APPLICABLE.to_owned(),
        message,
        remedy: remedy.to_owned(),
        heals: false,
    };
    let missing = |kind: &str, name: &str| Fault {
        reason: format!("{kind}NotFound"),
        message: format!("{kind} {name} does not exist in this namespace"),
        remedy: format!("create {kind} {name}"),
        heals: true,
    };
    if let Some((message, remedy)) = unfit(spec) {
        return Err(not_applicable(message.to_owned(), remedy));
    }
    let zone = references.zone.as_ref().ok_or_else(|| missing("LandingZone", &spec.landing_zone_ref.name))?;
    if spec.target.synapse.is_some() && zone.spec.store.azure.is_none() {
        return Err(not_applicable(
            format!("LandingZone {} is not in Azure storage, and a Synapse pool loads from nowhere else", zone.name_any()),
            "refer to a LandingZone that has spec.azure",
        ));
    }
    let runtime = match &spec.compute.integration_runtime_ref {
        None => None,
        Some(named) => {
            let runtime = references.runtime.as_ref().ok_or_else(|| missing("IntegrationRuntime", &named.name))?;
            Some(runtime.spec.kubernetes.clone().ok_or_else(|| {
                not_applicable(format!("IntegrationRuntime {} is not of kind kubernetes", named.name), "refer to one that is")
            })?)
        }
    };
    if let (true, Some(claim)) = (spec.compute.workers() > 1, &references.claim) {
        let modes = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_ref());
        if !modes.into_iter().flatten().any(|mode| mode == "ReadWriteMany") {
            return Err(not_applicable(
                format!("{} workers need a claim with ReadWriteMany, which {} is not", spec.compute.workers(), claim.name_any()),
                "lower spec.compute.coreCount to at most coresPerWorker, or use another LandingZone",
            ));
        }
    }
    let flush_interval = spec.compute.flush_interval().ok_or_else(|| {
        not_applicable(format!("spec.compute.flushInterval is {}", spec.compute.flush_interval), "set it to 200ms to 60s, such as 1s")
    })?;
    let retention = zone.spec.retention.committed_files().ok_or_else(|| {
        let text = &zone.spec.retention.committed_files;
        not_applicable(
            format!("spec.retention.committedFiles of LandingZone {} is {text}", zone.name_any()),
            "set it to 1h to 8760h, such as 24h",
        )
    })?;
    let memory = times(&spec.compute.memory_per_core, spec.compute.worker_cores()).ok_or_else(|| {
        not_applicable(format!("spec.compute.memoryPerCore is {}", spec.compute.memory_per_core), "set it to a quantity such as 2Gi")
    })?;
    let bounds = spec.source_protection.bounds().map_err(|field| {
        not_applicable(
            format!("spec.sourceProtection.{field} is no quantity"),
            "set it to a quantity of bytes such as 20Gi, or leave it out",
        )
    })?;
    if let Some(Err(error)) = spec.discover.as_ref().map(Discover::patterns) {
        return Err(not_applicable(
            format!("spec.discover: {error}"),
            "write <schema>.<table> with *, ?, [a-z] or {a,b} in it, such as public.*; \\ before such a character means the character itself",
        ));
    }
    let least = spec.compute.workers() * LEAST_CONNECTIONS;
    if let Some(most) = bounds.max_connections.filter(|most| *most < least) {
        return Err(not_applicable(
            format!("spec.sourceProtection.maxConnections is {most}, and {} workers need at least {least}", spec.compute.workers()),
            "raise it, or lower spec.compute.coreCount or raise coresPerWorker, so that there are fewer workers",
        ));
    }
    Ok(Validated {
        link_id: link_id(link),
        zone: zone.spec.store.clone(),
        retention_seconds: retention.as_secs(),
        runtime,
        flush_interval_ms: flush_interval.as_millis().try_into().unwrap_or(u64::MAX),
        memory,
        bounds,
    })
}

/// What the spec asks of its source or target that this system cannot do, and what to write instead.
fn unfit(spec: &LinkConnectionSpec) -> Option<(&'static str, &'static str)> {
    let (source, target) = (&spec.source, &spec.target);
    if source.postgresql.is_none() && source.sql_server.is_none() {
        return Some(("spec.source names no system that this version knows", "set spec.source.postgresql or spec.source.sqlServer"));
    }
    if target.postgresql.is_none() && target.sql_server_database().is_none() {
        return Some((
            "spec.target names no system that this version knows",
            "set spec.target.postgresql, spec.target.sqlServer or spec.target.synapse",
        ));
    }
    if let Some(sql_server) = &source.sql_server
        && spec.source_protection.max_retained_log.is_some()
    {
        return Some(match sql_server.capture_mode {
            CaptureMode::ChangeTracking => (
                "spec.sourceProtection.maxRetainedLog is set, and Change Tracking keeps no log for a link",
                "remove maxRetainedLog and action; how long the source keeps changes is its CHANGE_RETENTION",
            ),
            CaptureMode::ChangeDataCapture => (
                "spec.sourceProtection.maxRetainedLog is set, and change data capture keeps no log for a link: the source's own jobs read \
                 the log and clean up what they have read",
                "remove maxRetainedLog and action; how long the source keeps changes is the retention of its job: EXEC \
                 sys.sp_cdc_change_job @job_type = N'cleanup', @retention = … (minutes)",
            ),
        });
    }
    if target.sql_server.as_ref().is_some_and(|target| target.on_existing_table == OnExistingTable::Adopt) {
        return Some((
            "spec.target.sqlServer.onExistingTable is Adopt, which PostgreSQL targets alone can do",
            "set it to Recreate, or to Fail and drop or rename tables that are there",
        ));
    }
    if target.synapse.as_ref().is_some_and(|target| target.on_existing_table == OnExistingTable::Adopt) {
        return Some((
            "spec.target.synapse.onExistingTable is Adopt, which PostgreSQL targets alone can do",
            "set it to Recreate, or to Fail and drop or rename tables that are there",
        ));
    }
    None
}

/// What the last plan tells of a link whose spec cannot be carried out now: enough to pause, stop or release it.
pub fn as_planned(link: &LinkConnection, plan: &Plan, references: &References) -> Validated {
    let compute = &link.spec.compute;
    Validated {
        link_id: plan.link.link_id.clone(),
        zone: plan.zone.clone(),
        retention_seconds: plan.retention_seconds,
        runtime: references.runtime.as_ref().and_then(|runtime| runtime.spec.kubernetes.clone()),
        flush_interval_ms: plan.flush_interval_ms,
        memory: times(&compute.memory_per_core, compute.worker_cores()).unwrap_or_else(|| Quantity(LEAST_MEMORY.to_owned())),
        bounds: plan.bounds,
    }
}

/// A quantity of memory, so many times.
fn times(quantity: &str, factor: u32) -> Option<Quantity> {
    let digits = quantity.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(quantity.len());
    let (number, unit) = quantity.split_at(digits);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let scaled: u128 = format!("{whole}{fraction}").parse().ok()?;
    let product = (scaled * u128::from(factor)).to_string();
    let product = format!("{product:0>width$}", width = fraction.len() + 1);
    let (whole, fraction) = product.split_at(product.len() - fraction.len());
    let fraction = fraction.trim_end_matches('0');
    Some(Quantity(if fraction.is_empty() { format!("{whole}{unit}") } else { format!("{whole}.{fraction}{unit}") }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::link_connection::fixtures;

    #[test]
    fn memory_is_multiplied_exactly() {
        for (quantity, factor, product) in
            [("2Gi", 4, "8Gi"), ("512Mi", 1, "512Mi"), ("1.5Gi", 3, "4.5Gi"), ("0.25Gi", 4, "1Gi"), ("1000000000", 2, "2000000000")]
        {
            assert_eq!(times(quantity, factor).unwrap().0, product, "{quantity} × {factor}");
        }
        assert_eq!(times("Gi", 2), None);
    }

    #[test]
    fn names_what_is_missing_or_does_not_fit() {
        let (link, references) = (fixtures::link(), fixtures::references());
        assert_eq!(validate(&link, &references).unwrap().link_id, "shops.shop");

        let fault = validate(&link, &References::default()).unwrap_err();
        assert_eq!((fault.reason.as_str(), fault.heals), ("LandingZoneNotFound", true));

        let mut wide = link.clone();
        wide.spec.compute.core_count = 8;
        let claim: PersistentVolumeClaim = serde_json::from_value(serde_json::json!(
            {"metadata": {"name": "disk"}, "spec": {"accessModes": ["ReadWriteOnce"]}}))
        .unwrap();
        let references = References { claim: Some(claim), ..references };
        assert_eq!(validate(&wide, &references).unwrap_err().reason, "NotApplicable");
        assert!(validate(&link, &references).is_ok());

        // Each worker needs five connections.
        let references = References { claim: None, ..references };
        wide.spec.source_protection.max_connections = Some(9);
        let fault = validate(&wide, &references).unwrap_err();
        assert!(fault.reason == "NotApplicable" && fault.message.contains("2 workers need at least 10"), "{fault:?}");
        wide.spec.source_protection.max_connections = Some(10);
        assert_eq!(validate(&wide, &references).unwrap().bounds.max_connections, Some(10));
    }

    #[test]
    fn refuses_what_sql_server_cannot_do() {
        let references = fixtures::references();
        let server = serde_json::json!({"host": "db", "database": "shop", "auth": {"password": {"secretRef": {"name": "app"}}}});
        let mut link = fixtures::link();
        link.spec.source = serde_json::from_value(serde_json::json!({"sqlServer": server})).unwrap();
        link.spec.target = serde_json::from_value(serde_json::json!({"sqlServer": server})).unwrap();
        validate(&link, &references).unwrap();

        let mut adopting = link.clone();
        adopting.spec.target.sql_server.as_mut().unwrap().on_existing_table = OnExistingTable::Adopt;
        let fault = validate(&adopting, &references).unwrap_err();
        assert!(fault.reason == "NotApplicable" && fault.message.contains("onExistingTable is Adopt"), "{fault:?}");

        link.spec.source_protection.max_retained_log = Some("1Gi".to_owned());
        let fault = validate(&link, &references).unwrap_err();
        assert!(fault.reason == "NotApplicable" && fault.remedy.contains("CHANGE_RETENTION"), "{fault:?}");
        link.spec.source.sql_server.as_mut().unwrap().capture_mode = CaptureMode::ChangeDataCapture;
        let fault = validate(&link, &references).unwrap_err();
        assert!(fault.reason == "NotApplicable" && fault.remedy.contains("sp_cdc_change_job"), "{fault:?}");
    }

    #[test]
    fn refuses_what_a_pool_cannot_do() {
        let references = fixtures::references();
        let mut link = fixtures::link();
        link.spec.target = serde_json::from_value(serde_json::json!({"synapse": {
            "host": "w.sql.azuresynapse.net", "database": "pool", "auth": {"managedIdentity": {}}, "copyAuth": {"managedIdentity": {}},
        }}))
        .unwrap();
        validate(&link, &references).unwrap();

        let folder: LandingZone = serde_json::from_value(serde_json::json!({
            "apiVersion": "link-operator.io/v1alpha1", "kind": "LandingZone", "metadata": {"name": "disk"},
            "spec": {"persistentVolumeClaim": {"claimName": "disk"}},
        }))
        .unwrap();
        let elsewhere = References { zone: Some(Arc::new(folder)), ..References::default() };
        let fault = validate(&link, &elsewhere).unwrap_err();
        assert!(fault.reason == "NotApplicable" && fault.message.starts_with("LandingZone disk is not in Azure storage"), "{fault:?}");

        link.spec.target.synapse.as_mut().unwrap().on_existing_table = OnExistingTable::Adopt;
        let fault = validate(&link, &references).unwrap_err();
        assert!(fault.reason == "NotApplicable" && fault.message.contains("synapse.onExistingTable is Adopt"), "{fault:?}");
    }
}
