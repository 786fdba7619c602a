//! The worker API's credentials: kept in the link's Secret, which only the controller writes. It remembers no more of them than it needs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};

use super::{build, memory::Own};
use crate::{
    api::link_connection::LinkConnection,
    controller::{
        Error,
        certificate::{Credentials, Trust},
        context::Context,
        names,
    },
};

/// After this long the Secret is looked at again.
const RECHECK: Duration = Duration::from_mins(5);

/// Makes or renews the credentials of a link's worker API where needed, and says what to trust.
pub async fn ensure(link: &LinkConnection, own: &mut Own, context: &Context) -> Result<Arc<Trust>, Error> {
    let now = Timestamp::now();
    if let Some((trust, at)) = &own.trust
        && at.elapsed() < RECHECK
        && !trust.is_due(now)
    {
        return Ok(trust.clone());
    }
    let namespace = link.namespace().unwrap_or_default();
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &namespace);
    let name = names::api(&link.name_any());
    let kept = api.get_opt(&name).await?.as_ref().and_then(read);
    let trust = match kept {
        Some(kept) if !kept.is_due(now) => kept,
        kept => {
            let fresh = Credentials::issue(now, kept.as_ref())?;
            context.applier.forget::<Secret>(&namespace, &name);
            context.applier.apply(&build::api_secret(link, &fresh)).await?;
            fresh.trust
        }
    };
    let trust = match &own.trust {
        Some((before, _)) if **before == trust => before.clone(),
        _ => Arc::new(trust),
    };
    own.trust = Some((trust.clone(), Instant::now()));
    Ok(trust)
}

/// What the Secret says is to be trusted; None if it is not as we made it.
fn read(secret: &Secret) -> Option<Trust> {
    let data = secret.data.as_ref()?;
    let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
    data.get("tls.crt").and(data.get("tls.key"))?;
    Some(Trust { authorities: text("ca.crt")?, token: text("token")?, renew_at: secret.annotations().get(names::RENEW_AT)?.parse().ok()? })
}
