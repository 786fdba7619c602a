//! Telling others what was found out about a link: its tables, links that want the same, its landing zone.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use kube::{ResourceExt, runtime::reflector::ObjectRef};

use super::{
    Seen, crew,
    lifecycle::Course,
    memory::{Claims, LinkMemory, Own, ZoneAnswer},
    probe::Probed,
};
use crate::{
    api::{link_connection::LinkConnection, report::Report},
    controller::{context::Context, fingerprint, link_table::acceptance},
};

/// After this long tables are looked at again, come what may.
const CALM: Duration = Duration::from_mins(10);

/// Keeps what was heard and wakes whom it concerns; `all`: something that concerns every table changed.
#[expect(clippy::too_many_arguments)] // all that one look at a link found
pub fn tell(
    link: &LinkConnection,
    course: &Course,
    seen: Seen,
    probed: &Probed,
    memory: &LinkMemory,
    own: &mut Own,
    all: bool,
    context: &Context,
) {
    let probe_changed = match (&probed.report, probed.over) {
        (Some(report), _) => memory.set_probe(Some(report.clone())),
        (None, true) => memory.set_probe(None),
        (None, false) => false,
    };
    if tell_zone(course, &seen, own, memory) {
        context.queues.zones.wake_named(&link.namespace().unwrap_or_default(), &link.spec.landing_zone_ref.name);
    }
    let claims = claims(&seen);
    let held_changed = own.claims.held != claims.held;
    if own.claims != claims {
        // What one link has or gives up, another may not, or may now.
        context.rival_links(link).iter().for_each(|rival| context.queues.links.wake(ObjectRef::from_obj(rival.as_ref())));
        own.claims = claims;
    }
    let due = own.tables_looked.is_none_or(|looked| looked.elapsed() > CALM);
    let all = all || held_changed || probe_changed || due;
    if all {
        own.tables_looked = Some(Instant::now());
    }
    wake_tables(&seen, &own.reports, all, context);
    own.reports = seen.crew.reports;
}

/// Live workers answer for their zone; whether they say something else than before. While they take up another plan, what they said
/// stands.
fn tell_zone(course: &Course, seen: &Seen, own: &Own, memory: &LinkMemory) -> bool {
    let crew = &seen.crew;
    match &own.plan {
        Some(stored) if crew.current > 0 && crew.current >= crew.desired => {
            memory.set_zone(ZoneAnswer::of(&stored.plan.zone, &crew.reports))
        }
        Some(_) if course.workers && crew.silent.is_none() && !crew.reports.is_empty() => false,
        _ => memory.set_zone(None),
    }
}

/// Wakes the tables of which something else is told than before; `all`: what concerns every table changed.
fn wake_tables(seen: &Seen, before: &[Arc<Report>], all: bool, context: &Context) {
    let (reported, reported_before) = (crew::reported(&seen.crew.reports), crew::reported(before));
    let (verifications, verifications_before) = (crew::verifications(&seen.crew.reports), crew::verifications(before));
    for table in &seen.tables {
        let identity = acceptance::identity(table);
        let identity = identity.as_str();
        let news = reported.get(identity).filter(|report| reported_before.get(identity) != Some(report));
        let verified = verifications.get(identity).filter(|found| verifications_before.get(identity) != Some(found));
        if all || news.is_some() || verified.is_some() {
            context.queues.tables.wake(ObjectRef::from_obj(table.as_ref()));
        }
    }
}

fn claims(seen: &Seen) -> Claims {
    // In the order of the source tables.
    let wanted = fingerprint(seen.tables.iter().map(|table| (table.spec.source_name(), table.uid())).collect::<Vec<_>>());
    let linked: HashSet<Option<String>> = seen.linked.iter().map(|table| table.uid()).collect();
    let held = seen.tables.iter().filter(|table| !linked.contains(&table.uid())).map(|table| table.spec.source_name()).collect();
    Claims { wanted, held }
}
