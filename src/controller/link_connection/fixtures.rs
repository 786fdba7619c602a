//! Objects for the tests of this folder.

use std::sync::Arc;

use serde_json::json;

use super::validate::References;
use crate::api::{
    landing_zone::LandingZone,
    link_connection::LinkConnection,
    plan::{Intent, LinkIdentity, PLAN_FORMAT, Plan},
};

/// A link of four cores in one worker.
pub fn link() -> LinkConnection {
    let database =
        |host: &str| json!({"host": host, "database": "shop", "auth": {"password": {"secretRef": {"name": format!("{host}-app")}}}});
    serde_json::from_value(json!({
        "apiVersion": "link-operator.io/v1alpha1", "kind": "LinkConnection",
        "metadata": {"name": "shop", "namespace": "shops", "uid": "11111111-2222-3333-4444-555555555555", "generation": 1},
        "spec": {
            "source": {"postgresql": database("db")}, "target": {"postgresql": database("dw")},
            "landingZoneRef": {"name": "staging"}, "compute": {"coreCount": 4},
            "tables": [{"schemaName": "public", "tableName": "orders"}],
        },
    }))
    .unwrap()
}

/// What it refers to.
pub fn references() -> References {
    let zone: LandingZone = serde_json::from_value(json!({
        "apiVersion": "link-operator.io/v1alpha1", "kind": "LandingZone", "metadata": {"name": "staging", "namespace": "shops"},
        "spec": {"azure": {"account": "a", "container": "c", "auth": {"sasToken": {"secretKeyRef": {"name": "zone-sas", "key": "token"}}}}},
    }))
    .unwrap();
    References { zone: Some(Arc::new(zone)), ..Default::default() }
}

/// Its plan.
pub fn plan() -> Plan {
    let link = link();
    Plan {
        format_version: PLAN_FORMAT,
        revision: 0,
        link: LinkIdentity { namespace: "shops".into(), name: "shop".into(), uid: "u".into(), link_id: "shops.shop".into() },
        run: 1,
        intent: Intent::Run,
        batch: None,
        workers: 1,
        cores_per_worker: 4,
        flush_interval_ms: 1000,
        retention_seconds: 86_400,
        transactional_consistency: false,
        schema_change: crate::api::link_connection::SchemaChange::default(),
        on_position_lost: crate::api::source_protection::OnPositionLost::default(),
        relink_policy: crate::api::link_connection::RelinkPolicy::default(),
        bounds: crate::api::source_protection::Bounds::default(),
        source: link.spec.source,
        target: link.spec.target,
        zone: references().zone.unwrap().spec.store.clone(),
        tables: Vec::new(),
        discover: None,
        log: None,
        stop_only: false,
        delete_target_tables: false,
        retain_zone: false,
        verify: None,
    }
}
