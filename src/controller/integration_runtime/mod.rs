//! IntegrationRuntimes of kind `kubernetes`: nothing runs for them, so they are ready as soon as they are seen. A finalizer
//! holds one while a link refers to it.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::{ResourceExt, runtime::controller::Action};

use super::{
    Error,
    context::Context,
    status::{self as shared, Ready},
};
use crate::api::{
    conditions::{Truth, kind, mark::IN_USE_FINALIZER, reason, set},
    integration_runtime::{IntegrationRuntime, IntegrationRuntimeSpec, IntegrationRuntimeStatus, RuntimePhase},
};

/// After this long a runtime is looked at again, come what may.
const CALM: Duration = Duration::from_mins(10);

/// Brings an IntegrationRuntime's finalizer and status up to date.
pub async fn reconcile(runtime: Arc<IntegrationRuntime>, context: Arc<Context>) -> Result<Action, Error> {
    let (namespace, name) = (runtime.namespace().unwrap_or_default(), runtime.name_any());
    let users =
        context.links(&namespace, |link| link.spec.compute.integration_runtime_ref.as_ref().is_some_and(|runtime| runtime.name == name));
    if shared::set_finalizer(&context.client, runtime.as_ref(), IN_USE_FINALIZER, !users.is_empty()).await?.is_some() {
        return Ok(Action::await_change());
    }
    let before = runtime.status.clone().unwrap_or_default();
    let deleting = runtime.metadata.deletion_timestamp.is_some();
    let after = status(&before, &runtime.spec, runtime.metadata.generation, deleting, Timestamp::now());
    if after != before {
        shared::write(&context.client, runtime.as_ref(), &after).await?;
    }
    Ok(Action::requeue(CALM))
}

fn status(
    before: &IntegrationRuntimeStatus,
    spec: &IntegrationRuntimeSpec,
    generation: Option<i64>,
    deleting: bool,
    now: Timestamp,
) -> IntegrationRuntimeStatus {
    let mut status = before.clone();
    status.observed_generation = generation;
    let known = spec.kubernetes.is_some();
    status.phase = Some(if known { RuntimePhase::Online } else { RuntimePhase::Offline });
    let (word, text) =
        if known { (reason::AS_REQUESTED, "") } else { (reason::NOT_APPLICABLE, "this version knows the kind kubernetes only") };
    set(&mut status.conditions, kind::ACCEPTED, Truth::from(known), word, text, generation, now);
    let ready = if deleting {
        Ready::progressing(reason::DELETING, "waits until no LinkConnection refers to it")
    } else if known {
        Ready::yes(reason::AS_REQUESTED, "links can use it")
    } else {
        Ready::stalled(word, text)
    };
    ready.write(&mut status.conditions, generation, now);
    status
}
