//! `spec.discover` without a cluster: here the plan itself gets the tables that are found, for there is no LinkTable to make.

use std::collections::HashSet;

use jiff::Timestamp;

use crate::{
    api::{
        discovery::Found,
        fault::Explain as _,
        link_table::TableOptions,
        plan::{Plan, PlannedTable},
    },
    controller::names,
    data::TableName,
    source::{self, Source},
    target::{self, Target},
};

/// Tables that the link had before and asks for still: discovery only adds, so they stay though the source may not have them now.
pub async fn known(plan: &Plan, target: &dyn Target) -> Result<Vec<PlannedTable>, target::Error> {
    let Some(patterns) = plan.discover.as_ref().and_then(|discover| discover.patterns().ok()) else { return Ok(Vec::new()) };
    let known = target.link_progress(&plan.link.link_id).await?;
    let linked = linked(plan);
    let mut known: Vec<&TableName> = known.keys().filter(|name| patterns.ask_for(name) && !linked.contains(name)).collect();
    known.sort();
    Ok(known.into_iter().map(|name| planned(plan, name)).collect())
}

/// Tables that the source has, and that are asked for and not linked yet.
pub async fn joining(plan: &Plan, source: &dyn Source) -> Result<Vec<PlannedTable>, source::Error> {
    let Some(patterns) = plan.discover.as_ref().and_then(|discover| discover.patterns().ok()) else { return Ok(Vec::new()) };
    let tables = source.discover().await?.into_iter().map(|(name, obstacle)| (name, obstacle.map(|error| error.fault())));
    let found = Found::new(Timestamp::now(), tables.collect());
    Ok(found.unlinked(&patterns, &linked(plan)).map(|name| planned(plan, name)).collect())
}

fn linked(plan: &Plan) -> HashSet<&TableName> {
    plan.tables.iter().map(|table| &table.source).collect()
}

fn planned(plan: &Plan, table: &TableName) -> PlannedTable {
    let name = names::owned_table(&plan.link.name, table);
    // The identity that a listed table has: the same from start to start.
    let uid = format!("run:{}/{name}", plan.link.namespace);
    PlannedTable { name, uid, source: table.clone(), target: table.clone(), options: TableOptions::default(), reseed: None, verify: None }
}
