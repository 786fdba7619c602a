//! The outside systems that a plan names, opened.

use std::{path::Path, sync::Arc};

use crate::{
    api::{
        fault::{Explain, Fault},
        plan::Plan,
    },
    landing::Zone,
    secrets::Secrets,
    source::{self, Source},
    target::{self, Target},
};

/// A plan's source, target and zone, or why one cannot be opened. To open connects to nothing.
#[derive(Clone)]
pub(super) struct Systems {
    pub zone: Result<Zone, Fault>,
    pub source: Result<Arc<dyn Source>, Fault>,
    pub target: Result<Arc<dyn Target>, Fault>,
}

impl Systems {
    pub fn open(plan: &Plan, secrets: &Secrets, volume: &Path) -> Self {
        let link = &plan.link.link_id;
        Self {
            zone: Zone::open(&plan.zone, secrets, volume, Some(link)).map_err(|error| error.fault()),
            source: source::open(&plan.source, secrets, link).map_err(|error| error.fault()),
            target: target::open(&plan.target, secrets, link).map_err(|error| error.fault()),
        }
    }
}

/// Whether two plans are about the same link in the same places, so that an engine can go from one to the other.
pub(super) fn same_places(one: &Plan, other: &Plan) -> bool {
    one.link == other.link && one.source == other.source && one.target == other.target && one.zone == other.zone
}
