//! LinkTables: their status, from what workers report. What is to be linked stands in the plan, which the link makes.

pub mod acceptance;
mod status;

pub use status::whole_second;

use std::{sync::Arc, time::Instant};

use jiff::Timestamp;
use kube::{
    Resource, ResourceExt,
    runtime::{controller::Action, reflector::ObjectRef},
};

use super::{
    Error,
    context::Context,
    status::{self as shared, Change},
    watch,
};
use crate::api::{
    conditions::annotation,
    link_connection::LinkPhase,
    link_table::{LinkTable, LinkTableStatus},
};
use status::Findings;

/// Brings the status of a LinkTable up to date. Who has a link is looked at again now and then by that: to be due takes room, and there
/// may be ten thousand.
pub async fn reconcile(table: Arc<LinkTable>, context: Arc<Context>) -> Result<Action, Error> {
    if table.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let this = ObjectRef::from_obj(table.as_ref());
    let namespace = table.namespace().unwrap_or_default();
    let link = watch::get(&context.stores.links, &namespace, &table.spec.link_connection_ref.name);
    let source = table.spec.source_name();
    let siblings = context.stores.tables.of_source(&namespace, &table.spec.link_connection_ref.name, &source);
    let rivals = link.as_ref().map(|link| context.rivals(&context.rival_links(link), &source)).unwrap_or_default();
    let table = context.memory.tables.newest(&table);
    let identity = acceptance::identity(&table);
    let heard = link.as_ref().and_then(|link| {
        let views = context.workers.view(&link.uid()?);
        let reports = views.into_iter().filter_map(|view| view.heard.report);
        reports.filter_map(|report| report.table(&identity).cloned()).next_back()
    });
    // One worker compares all tables; another may still tell of what it compared before.
    let verified = link.as_ref().and_then(|link| {
        let reports = context.workers.view(&link.uid()?).into_iter().filter_map(|view| view.heard.report);
        let found = reports.filter_map(|report| report.verifications.iter().find(|found| found.uid == identity).cloned());
        found.max_by_key(|found| found.found.time)
    });
    let probed = link
        .as_ref()
        .and_then(|link| context.memory.known(&link.uid()?)?.probe())
        .and_then(|probe| probe.tables.iter().find(|found| found.uid == identity).map(|found| found.error.clone().map_or(Ok(()), Err)));
    let findings = Findings {
        probed,
        generation: table.metadata.generation,
        refusal: acceptance::refusal(&table, &siblings, &rivals, link.as_deref()),
        owned: acceptance::is_owned(&table),
        link_phase: link.as_ref().map(|link| link.status.as_ref().and_then(|status| status.phase).unwrap_or(LinkPhase::Initial)),
        report: heard,
        verified,
        verify: table.annotations().get(annotation::VERIFY).cloned(),
    };
    let before = table.status.clone().unwrap_or_default();
    let (after, events) = status::status(&before, &findings, Timestamp::now());
    match status::change(&before, &after) {
        Change::None => {}
        Change::Progress(rest) if !context.budget.ask(&this.clone().into(), rest) => {}
        Change::Progress(_) | Change::State => {
            write(&table, &after, &context).await?;
            context.budget.written(&this.into(), Instant::now());
        }
    }
    for happened in &events {
        context.events.publish(&table.object_ref(&()), happened).await;
    }
    Ok(Action::await_change())
}

async fn write(table: &LinkTable, status: &LinkTableStatus, context: &Context) -> Result<(), Error> {
    let written = shared::write(&context.client, table, status).await?;
    context.memory.tables.wrote(written);
    Ok(())
}
