//! The outside systems that a plan names, opened.

use std::{path::Path, sync::Arc};

use crate::{
    api::{
        fault::{Explain, Fault},
        plan::Plan,
    },
    landing::{Requests, Zone},
    secrets::Secrets,
    source::{self, Source},
    target::{self, Target},
};

/// A plan's source, target and zone, or why one cannot be opened. To open connects to nothing.
#[derive(Clone)]
pub(super) struct Systems {
    /// Revision of that plan.
    pub revision: u64,
    pub zone: Result<Zone, Fault>,
    pub source: Result<Arc<dyn Source>, Fault>,
    pub target: Result<Arc<dyn Target>, Fault>,
}

impl Systems {
    /// `requests` counts those to the zone.
    pub fn open(plan: &Plan, secrets: &Secrets, volume: &Path, requests: &Requests) -> Self {
        let link = &plan.link.link_id;
        let zone = Zone::open(&plan.zone, secrets, volume, Some(link)).map(|zone| zone.counted(requests)).map_err(|error| error.fault());
        let staging = zone.as_ref().ok().map(|zone| Arc::new(zone.clone()) as Arc<dyn target::Zone>);
        Self {
            revision: plan.revision,
            source: source::open(&plan.source, secrets, link).map_err(|error| error.fault()),
            target: target::open(&plan.target, secrets, link, staging).map_err(|error| error.fault()),
            zone,
        }
    }
}

/// Whether two plans are about the same link in the same places, so that an engine can go from one to the other.
pub(super) fn same_places(one: &Plan, other: &Plan) -> bool {
    one.link == other.link && one.source == other.source && one.target == other.target && one.zone == other.zone
}
