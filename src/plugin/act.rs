//! Asking for something, and waiting for it.

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
    runtime::{
        wait::{self, await_condition},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Error, Place, show, write};
use crate::{
    api::{
        conditions::{annotation, get, is_true, kind},
        link_connection::{LinkConnection, LinkPhase, LinkState},
        link_table::LinkTable,
        report::TablePhase,
        verification::VerificationResult,
    },
    controller::link_table::acceptance,
};

/// How soon a watch that broke off is begun again.
const AGAIN: Duration = Duration::from_secs(1);

/// How long the last look at an object may take.
const LAST_LOOK: Duration = Duration::from_secs(10);

type Out<'a> = &'a mut (dyn std::io::Write + Send);

/// Which tables.
#[derive(Args, Debug)]
pub struct Tables {
    /// The LinkConnection.
    link: String,
    /// Tables: by schema and name in the source, `public.orders`, or by the name of the LinkTable.
    table: Vec<String>,
}

/// Whether to wait.
#[derive(Args, Debug)]
pub struct Wait {
    /// Return only once it is done, with exit code 1 if it did not end well.
    #[arg(long)]
    wait: bool,
    /// Wait at most so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, requires = "wait")]
    timeout: u64,
}

/// When waiting ends: one end for all that a command waits for.
#[derive(Clone, Copy)]
struct Deadline {
    at: Instant,
    after: Duration,
}

impl Wait {
    fn deadline(&self) -> Deadline {
        let after = Duration::from_secs(self.timeout);
        Deadline { at: Instant::now() + after, after }
    }
}

/// Loads tables anew.
pub async fn reseed(place: &Place, chosen: &Tables, all: bool, wait: &Wait, out: Out<'_>) -> Result<(), Error> {
    if chosen.table.is_empty() && !all {
        return Err(Error::NotApplicable("name the tables that are to be loaded anew, or say --all".to_owned()));
    }
    let tables = place.chosen(chosen).await?;
    let (now, deadline) = (Timestamp::now().to_string(), wait.deadline());
    for table in &tables {
        place.annotate::<LinkTable>(&table.name_any(), json!({annotation::RESEED: now})).await?;
        write(out, &format!("linktable/{} ({}): a load anew is asked for\n", table.name_any(), table.spec.source_name()))?;
    }
    let mut worst = Ok(());
    for table in tables.iter().filter(|_| wait.wait) {
        let answered = |table: &LinkTable| {
            table.status.as_ref().is_some_and(|status| {
                // What it was before says nothing of this load.
                status.last_handled_reseed_at.as_ref() == Some(&now)
                    && matches!(status.phase, Some(TablePhase::Replicating | TablePhase::Failed))
            })
        };
        let told = match place.until(table, "the load", deadline, answered).await.and_then(|table| ended(&table)) {
            Ok(()) => format!("linktable/{} is loaded\n", table.name_any()),
            Err(error) => {
                let told = format!("{error}\n");
                worst = worst.and(Err(error));
                told
            }
        };
        write(out, &told)?;
    }
    worst
}

/// Compares tables, or all of a link, with the source.
pub async fn verify(place: &Place, chosen: &Tables, repair: bool, wait: &Wait, out: Out<'_>) -> Result<(), Error> {
    let tables = place.chosen(chosen).await?;
    let (now, deadline) = (Timestamp::now().to_string(), wait.deadline());
    let asked = json!({annotation::VERIFY: now, annotation::VERIFY_REPAIR: repair.to_string()});
    if chosen.table.is_empty() {
        let link = place.link(&chosen.link).await?;
        place.annotate::<LinkConnection>(&chosen.link, asked).await?;
        write(out, &format!("linkconnection/{}: a comparison of all tables is asked for\n", chosen.link))?;
        if !wait.wait {
            return Ok(());
        }
        let answered =
            |link: &LinkConnection| link.status.as_ref().is_some_and(|status| status.last_handled_verify_at.as_ref() == Some(&now));
        let link = place.until(&link, "the comparison", deadline, answered).await?;
        let Some(found) = link.status.and_then(|status| status.verification) else { return Ok(()) };
        let text = format!(
            "{}: {} of {} tables are equal to the source's; {} rows differed, {} were repaired",
            found.result, found.equal, found.tables, found.differing_rows, found.repaired
        );
        write(out, &format!("linkconnection/{}: {text}\n", chosen.link))?;
        return judged(found.result, text);
    }
    for table in &tables {
        place.annotate::<LinkTable>(&table.name_any(), asked.clone()).await?;
        write(out, &format!("linktable/{} ({}): a comparison is asked for\n", table.name_any(), table.spec.source_name()))?;
    }
    let mut worst = Ok(());
    for table in tables.iter().filter(|_| wait.wait) {
        let answered = |table: &LinkTable| table.status.as_ref().is_some_and(|status| status.last_handled_verify_at.as_ref() == Some(&now));
        let table = match place.until(table, "the comparison", deadline, answered).await {
            Ok(table) => table,
            Err(error) => {
                write(out, &format!("{error}\n"))?;
                worst = worst.and(Err(error));
                continue;
            }
        };
        let Some(found) = table.status.as_ref().and_then(|status| status.verification.as_ref()) else { continue };
        let text = format!("{} ({}): {}", found.result, table.spec.source_name(), found.summary());
        write(out, &format!("linktable/{}: {text}\n", table.name_any()))?;
        worst = worst.and(judged(found.result, text));
    }
    worst
}

fn judged(result: VerificationResult, text: String) -> Result<(), Error> {
    match result {
        VerificationResult::Equal => Ok(()),
        VerificationResult::Unsettled | VerificationResult::Different | VerificationResult::Failed => Err(Error::EndedBadly(text)),
    }
}

/// Brings a link to rest.
pub async fn pause(place: &Place, link: &str, wait: &Wait, out: Out<'_>) -> Result<(), Error> {
    let found = place.link(link).await?;
    if found.spec.state == LinkState::Stopped {
        return Err(Error::NotApplicable(format!(
            "link {link} is to be Stopped: it rests already, and has no position that could be kept"
        )));
    }
    place.go(link, LinkState::Paused, LinkPhase::Paused, wait, out).await
}

/// Lets a link go on.
pub async fn resume(place: &Place, link: &str, wait: &Wait, out: Out<'_>) -> Result<(), Error> {
    let found = place.link(link).await?;
    if found.spec.state == LinkState::Stopped {
        return Err(Error::NotApplicable(format!(
            "link {link} is Stopped, so that its next start is a full load. If that is wanted: kubectl patch linkconnection {link} --namespace {} \
             --type merge --patch '{{\"spec\": {{\"state\": \"Running\"}}}}'",
            place.namespace
        )));
    }
    place.go(link, LinkState::Running, LinkPhase::Running, wait, out).await
}

/// A table that did not end as was asked for.
fn ended(table: &LinkTable) -> Result<(), Error> {
    match table.status.as_ref().and_then(|status| status.error.as_ref()) {
        Some(error) if table.status.as_ref().is_some_and(|status| status.phase == Some(TablePhase::Failed)) => Err(Error::EndedBadly(
            format!("linktable/{} is Failed ({}): {}; {}", table.name_any(), error.code, error.message, error.remedy),
        )),
        _ => Ok(()),
    }
}

/// The table of this name, which may be its own or the source table's.
fn named<'a>(name: &str, linked: &'a [LinkTable], link: &str) -> Result<&'a LinkTable, Error> {
    let is_named = |table: &&LinkTable| table.name_any() == name || table.spec.source_name().to_string() == name;
    let found: Vec<&LinkTable> = linked.iter().filter(is_named).collect();
    match found.as_slice() {
        [] => Err(Error::NotFound(format!("link {link} has no table {name} (of the source, as schema.table, or a LinkTable)"))),
        [table] => Ok(table),
        several => {
            let each = |table: &&LinkTable| format!("linktable/{} ({})", table.name_any(), table.spec.source_name());
            let several: Vec<String> = several.iter().map(each).collect();
            Err(Error::NotApplicable(format!("{name} names several tables: {}", several.join(", "))))
        }
    }
}

/// Why a table is not linked, if it is not.
fn refusal(table: &LinkTable) -> Option<String> {
    let accepted = get(table.conditions(), kind::ACCEPTED).filter(|accepted| accepted.status == "False")?;
    Some(format!("{}, {}", accepted.reason, accepted.message))
}

/// Whether the API server will not show the object, however often it is asked.
fn is_refused(error: &wait::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
    let wait::Error::ProbeFailed(error) = error;
    match error {
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchFailed(kube::Error::Api(status))
        | WatchError(status) => matches!(status.code, 401 | 403 | 404),
        _ => false,
    }
}

impl Place {
    /// The tables that were named, each once; if none was, all that are linked. Of a link that is to rest nobody would be there to do
    /// anything with them.
    async fn chosen(&self, chosen: &Tables) -> Result<Vec<LinkTable>, Error> {
        let link = self.link(&chosen.link).await?;
        if link.spec.state != LinkState::Running {
            let (name, state) = (&chosen.link, link.spec.state);
            return Err(Error::NotApplicable(format!("link {name} is to be {state}: let it run first (spec.state: Running)")));
        }
        let tables: Vec<_> = self.tables(&chosen.link).await?.into_iter().map(std::sync::Arc::new).collect();
        // Of several for one source table the one that is linked.
        let mut linked: Vec<LinkTable> = acceptance::winners(&tables).into_values().map(|table| LinkTable::clone(&table)).collect();
        linked.sort_by_key(ResourceExt::name_any);
        if chosen.table.is_empty() {
            linked.retain(|table| refusal(table).is_none());
            return if linked.is_empty() { Err(Error::NotFound(format!("link {} has no tables", chosen.link))) } else { Ok(linked) };
        }
        let mut found: Vec<LinkTable> = Vec::new();
        for name in &chosen.table {
            let table = named(name, &linked, &chosen.link)?;
            if let Some(why) = refusal(table) {
                return Err(Error::NotApplicable(format!("linktable/{} is not linked: {why}", table.name_any())));
            }
            if !found.iter().any(|other| other.name_any() == table.name_any()) {
                found.push(table.clone());
            }
        }
        Ok(found)
    }

    async fn annotate<K>(&self, name: &str, annotations: Value) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
    {
        self.patch::<K>(name, &json!({"metadata": {"annotations": annotations}})).await
    }

    async fn patch<K>(&self, name: &str, patch: &Value) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
    {
        let params = PatchParams { field_manager: Some(super::NAME.to_owned()), ..PatchParams::default() };
        self.api::<K>().patch(name, &params, &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// Sets what a link shall do, and waits until it does.
    async fn go(&self, link: &str, state: LinkState, phase: LinkPhase, wait: &Wait, out: Out<'_>) -> Result<(), Error> {
        self.patch::<LinkConnection>(link, &json!({"spec": {"state": state}})).await?;
        write(out, &format!("linkconnection/{link}: spec.state is {state}\n"))?;
        if !wait.wait {
            return Ok(());
        }
        let deadline = wait.deadline();
        let reached = move |link: &LinkConnection| {
            link.status.as_ref().is_some_and(|status| {
                status.observed_generation == link.metadata.generation
                    && (status.phase == Some(phase) && is_true(&status.conditions, kind::READY)
                        // What never started rests as it is.
                        || state == LinkState::Paused && status.phase == Some(LinkPhase::Initial) && is_true(&status.conditions, kind::READY)
                        || is_true(&status.conditions, kind::STALLED))
            })
        };
        let found = self.until(&self.link(link).await?, &format!("{phase}"), deadline, reached).await?;
        let conditions = found.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        if !is_true(conditions, kind::READY) {
            return Err(Error::EndedBadly(format!("linkconnection/{link}: {}", show::ready(conditions))));
        }
        let phase = found.status.and_then(|status| status.phase).unwrap_or_default();
        write(out, &format!("linkconnection/{link} is {phase}\n"))
    }

    /// The object, once it is so.
    async fn until<K>(&self, object: &K, what: &str, deadline: Deadline, so: impl Fn(&K) -> bool) -> Result<K, Error>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned
            + Send
            + 'static
            + Conditioned,
    {
        let (api, name): (Api<K>, String) = (self.api(), object.name_any());
        let gone = || Error::NotFound(format!("{} {name} is gone", K::kind(&())));
        // What is gone will never be so.
        let so_or_gone = |object: Option<&K>| object.is_none_or(&so);
        loop {
            let found = Box::pin(await_condition(api.clone(), &name, so_or_gone));
            match tokio::time::timeout_at(deadline.at, found).await {
                Ok(Ok(found)) => return found.ok_or_else(gone),
                Ok(Err(error)) if is_refused(&error) => return Err(Error::NotWatchable(format!("{} {name}", K::kind(&())), error)),
                // An API server that is being replaced, or a connection that is.
                Ok(Err(_)) => tokio::time::sleep(AGAIN).await,
                Err(_) => break,
            }
        }
        // A watch may have fallen silent; and so may the API server.
        let last = tokio::time::timeout(LAST_LOOK, api.get_opt(&name)).await.ok().transpose()?.map(|last| last.ok_or_else(gone));
        let now = match last.transpose()? {
            Some(last) if so(&last) => return Ok(last),
            Some(last) => show::ready(last.conditions()),
            None => "the API server does not answer".to_owned(),
        };
        Err(Error::TimedOut { what: format!("{what} of {} {name}", K::kind(&())), after: deadline.after, now })
    }
}

/// What has conditions in its status.
pub trait Conditioned {
    /// Those.
    fn conditions(&self) -> &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition];
}

impl Conditioned for LinkConnection {
    fn conditions(&self) -> &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition] {
        self.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default()
    }
}

impl Conditioned for LinkTable {
    fn conditions(&self) -> &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition] {
        self.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_may_be_either_of_two_tables_is_neither() {
        let table = |name: &str, source: &str| -> LinkTable {
            let spec = json!({"linkConnectionRef": {"name": "shop"}, "source": {"schemaName": "public", "tableName": source}});
            let (version, kind) = (LinkTable::api_version(&()), LinkTable::kind(&()));
            serde_json::from_value(json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec})).unwrap()
        };
        let linked = [table("public.orders", "orders_v1"), table("x", "orders")];
        let told = named("public.orders", &linked, "shop").unwrap_err().to_string();
        assert_eq!(told, "public.orders names several tables: linktable/public.orders (public.orders_v1), linktable/x (public.orders)");
        assert_eq!(named("public.orders_v1", &linked, "shop").unwrap().name_any(), "public.orders");
        assert_eq!(named("x", &linked, "shop").unwrap().name_any(), "x");
    }
}
