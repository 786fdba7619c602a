//! The plan of a link: its content, its revision, and the ConfigMap that it is stored in.
//!
//! Its revision rises only with its content. A first one begins at the clock's seconds, so that a link that lost its
//! ConfigMap, or was made anew over the folder of a former one, never plans with a revision that its log has seen.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    sync::Arc,
};

use bytes::Bytes;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::core::v1::ConfigMap,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{Api, Client, ResourceExt, api::PostParams};

use super::lifecycle::Course;
use super::validate::Validated;
use crate::{
    api::{
        conditions::{annotation, mark::MANAGER},
        link_connection::{LinkConnection, TargetDeletion, ZoneDeletion},
        link_table::LinkTable,
        plan::{LinkIdentity, PLAN_FORMAT, PLAN_KEY, Plan, PlannedTable},
        verification::VerifyRequest,
    },
    controller::{Error, link_table::acceptance, names, workers::StoredPlan},
};

/// Largest plan, gzipped: a ConfigMap holds 1 MiB with everything around it.
const LARGEST: usize = 900 * 1024;

/// Longest filter of what is logged that goes into a plan, bytes.
const LONGEST_FILTER: usize = 1024;

/// A plan and the ConfigMap that holds it.
#[derive(Clone)]
pub struct Stored {
    /// The plan.
    pub plan: Plan,
    /// The same as it lies there.
    pub kept: Kept,
}

/// A plan as it is kept between two reconciliations: packed it is a tenth.
#[derive(Clone)]
pub struct Kept {
    /// As it is pushed.
    pub pushed: StoredPlan,
    /// Version of the ConfigMap, the precondition of the next write.
    version: Option<String>,
    /// When it was last seen there.
    pub seen: std::time::Instant,
}

impl Kept {
    /// The plan in it. One that was stored can be read.
    pub fn unpacked(self) -> Option<Stored> {
        Some(Stored { plan: unpack(&self.pushed.body)?, kept: self })
    }
}

impl Plan {
    /// Whether a run of this link began by it that the link's status does not know yet.
    pub fn begins_after(&self, link: &LinkConnection) -> bool {
        let known = link.status.as_ref().and_then(|status| status.run_id).unwrap_or_default();
        // A namesake's plan may still be there.
        Some(&self.link.uid) == link.metadata.uid.as_ref() && self.run > known
    }
}

/// What the workers are to do; its revision is set when it is stored.
pub fn plan(link: &LinkConnection, validated: &Validated, course: &Course, tables: &[Arc<LinkTable>]) -> Plan {
    let mut planned: Vec<PlannedTable> = acceptance::winners(tables).into_values().map(|table| planned_table(&table)).collect();
    planned.sort_by(|a, b| a.source.cmp(&b.source));
    let policy = &link.spec.deletion_policy;
    let confirmed = link.annotations().get(annotation::CONFIRM_DELETE) == Some(&link.name_any());
    Plan {
        format_version: PLAN_FORMAT,
        revision: 0,
        link: LinkIdentity {
            namespace: link.namespace().unwrap_or_default(),
            name: link.name_any(),
            uid: link.uid().unwrap_or_default(),
            link_id: validated.link_id.clone(),
        },
        run: course.run,
        intent: course.intent,
        batch: course.batch,
        workers: link.spec.compute.workers(),
        cores_per_worker: link.spec.compute.worker_cores(),
        flush_interval_ms: validated.flush_interval_ms,
        retention_seconds: validated.retention_seconds,
        transactional_consistency: link.spec.transactional_consistency,
        schema_change: link.spec.schema_change,
        on_position_lost: link.spec.on_position_lost,
        relink_policy: link.spec.relink_policy,
        bounds: validated.bounds,
        source: link.spec.source.clone(),
        target: link.spec.target.clone(),
        zone: validated.zone.clone(),
        tables: planned,
        discover: link.spec.discover.clone(),
        verify: verify_request(link, link.status.as_ref().and_then(|status| status.last_handled_verify_at.as_ref())),
        log: link.annotations().get(annotation::LOG).filter(|filter| filter.len() <= LONGEST_FILTER).cloned(),
        stop_only: false,
        delete_target_tables: policy.target == TargetDeletion::Delete && confirmed,
        retain_zone: policy.landing_zone == ZoneDeletion::Retain,
    }
}

fn planned_table(table: &LinkTable) -> PlannedTable {
    PlannedTable {
        name: table.name_any(),
        uid: acceptance::identity(table),
        source: table.spec.source_name(),
        target: table.spec.target_name(),
        options: table.spec.target_options(),
        reseed: table.annotations().get(annotation::RESEED).cloned(),
        verify: verify_request(table, table.status.as_ref().and_then(|status| status.last_handled_verify_at.as_ref())),
    }
}

/// The comparison with the source that an object asks for, unless that was done.
fn verify_request(object: &impl ResourceExt, handled: Option<&String>) -> Option<VerifyRequest> {
    let requested_at = object.annotations().get(annotation::VERIFY).filter(|value| Some(*value) != handled)?.clone();
    let repair = object.annotations().get(annotation::VERIFY_REPAIR).is_some_and(|value| value == "true");
    Some(VerifyRequest { requested_at, repair })
}

/// The plan to store, if its content is another than that of the stored one. `highest` is the highest revision ever seen.
pub fn revise(stored: Option<&Plan>, mut wanted: Plan, highest: u64, now: Timestamp) -> Option<Plan> {
    if let Some(stored) = stored {
        wanted.revision = stored.revision;
        if wanted == *stored {
            return None;
        }
    }
    let seen = stored.map_or(highest, |stored| stored.revision.max(highest));
    wanted.revision = if seen == 0 { now.as_second().unsigned_abs() } else { seen + 1 };
    Some(wanted)
}

/// The plan as it is stored and pushed.
pub fn pack(plan: &Plan) -> Result<Bytes, Error> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&serde_json::to_vec(plan)?)?;
    let body = encoder.finish()?;
    if body.len() > LARGEST {
        return Err(Error::PlanTooLarge { size: body.len(), tables: plan.tables.len() });
    }
    Ok(body.into())
}

/// Whether it can be stored.
pub fn fits(plan: &Plan) -> bool {
    pack(plan).is_ok()
}

fn unpack(body: &[u8]) -> Option<Plan> {
    let mut json = Vec::new();
    GzDecoder::new(body).read_to_end(&mut json).ok()?;
    serde_json::from_slice(&json).ok()
}

/// The plan that is stored for a link.
pub async fn load(client: &Client, namespace: &str, link: &str) -> Result<Option<Stored>, kube::Error> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let Some(map) = api.get_opt(&names::plan(link)).await? else { return Ok(None) };
    let Some(body) = body_of(&map) else { return Ok(None) };
    Ok(unpack(body).map(|plan| stored(plan, Bytes::copy_from_slice(body), map.resource_version())))
}

fn stored(plan: Plan, body: Bytes, version: Option<String>) -> Stored {
    let kept = Kept { pushed: StoredPlan { revision: plan.revision, body }, version, seen: std::time::Instant::now() };
    Stored { plan, kept }
}

/// Stores a plan in place of the one that was read: whoever wrote since wins, and this fails with a conflict.
pub async fn store(client: &Client, plan: Plan, before: Option<&Stored>, owner: OwnerReference) -> Result<Stored, Error> {
    let body = pack(&plan)?;
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), &plan.link.namespace);
    let name = names::plan(&plan.link.name);
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(plan.link.namespace.clone()),
            labels: Some(names::link_labels(&plan.link.name)),
            annotations: Some([("link-operator.io/plan-revision".to_owned(), plan.revision.to_string())].into()),
            owner_references: Some(vec![owner]),
            resource_version: before.and_then(|before| before.kept.version.clone()),
            ..Default::default()
        },
        binary_data: Some(BTreeMap::from([(PLAN_KEY.to_owned(), ByteString(body.to_vec()))])),
        ..Default::default()
    };
    let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..Default::default() };
    let written = match before {
        Some(_) => api.replace(&name, &params, &map).await?,
        None => match api.create(&params, &map).await {
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => replace_unreadable(&api, &params, map).await?,
            written => written?,
        },
    };
    Ok(stored(plan, body, written.resource_version()))
}

/// Stores a plan where there is something that is none: what another version wrote, or what somebody spoiled.
async fn replace_unreadable(api: &Api<ConfigMap>, params: &PostParams, mut map: ConfigMap) -> Result<ConfigMap, Error> {
    let name = map.name_any();
    let Some(there) = api.get_opt(&name).await? else { return Ok(api.create(params, &map).await?) };
    if there.labels().get(names::MANAGED_BY_LABEL).map(String::as_str) != Some(MANAGER) {
        return Err(Error::NameTaken { kind: "ConfigMap".to_owned(), name });
    }
    // One that can be read somebody else wrote just now: creating it fails again, as it should.
    if body_of(&there).and_then(unpack).is_none() {
        tracing::warn!(name, "what is stored is no plan of this version; it is replaced");
        map.metadata.resource_version = there.resource_version();
        return Ok(api.replace(&name, params, &map).await?);
    }
    Ok(api.create(params, &map).await?)
}

fn body_of(map: &ConfigMap) -> Option<&[u8]> {
    Some(&map.binary_data.as_ref()?.get(PLAN_KEY)?.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::link_table::TableOptions, controller::link_connection::fixtures};

    #[test]
    fn revision_rises_only_with_content() {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let plan = fixtures::plan();
        let first = revise(None, plan.clone(), 0, now).unwrap();
        assert_eq!(first.revision, 1_700_000_000);
        assert_eq!(revise(Some(&first), plan.clone(), 0, now), None);

        let more = Plan { workers: 2, ..plan.clone() };
        assert_eq!(revise(Some(&first), more, 0, now).unwrap().revision, 1_700_000_001);
        // The ConfigMap is gone: what was pushed before must not come again.
        assert_eq!(revise(None, plan, 1_700_000_009, now).unwrap().revision, 1_700_000_010);
    }

    #[test]
    fn ten_thousand_tables_fit_and_too_many_are_refused() {
        let mut plan = fixtures::plan();
        let table = |n: usize| PlannedTable {
            name: format!("shop-table-with-a-long-name-{n}"),
            uid: uuid::Uuid::new_v4().to_string(),
            source: crate::data::TableName::new("public", format!("table_with_a_long_name_{n}")),
            target: crate::data::TableName::new("public", format!("table_with_a_long_name_{n}")),
            options: TableOptions::default(),
            reseed: None,
            verify: None,
        };
        plan.tables = (0..10_000).map(table).collect();
        assert_eq!(unpack(&pack(&plan).unwrap()), Some(plan.clone()));
        plan.tables = (0..60_000).map(table).collect();
        assert!(matches!(pack(&plan), Err(Error::PlanTooLarge { .. })));
    }
}
