//! The worker API's credentials: kept in the link's Secret, which only the controller writes.

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
    controller::{Error, certificate::Credentials, context::Context, names},
};

/// After this long the Secret is looked at again.
const RECHECK: Duration = Duration::from_mins(5);

/// The credentials of a link's worker API; makes or renews them where needed.
pub async fn ensure(link: &LinkConnection, own: &mut Own, context: &Context) -> Result<Arc<Credentials>, Error> {
    let now = Timestamp::now();
    if let Some((credentials, at)) = &own.credentials
        && at.elapsed() < RECHECK
        && !credentials.is_due(now)
    {
        return Ok(credentials.clone());
    }
    let namespace = link.namespace().unwrap_or_default();
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &namespace);
    let name = names::api(&link.name_any());
    let kept = api.get_opt(&name).await?.as_ref().and_then(read);
    let credentials = match kept {
        Some(kept) if !kept.is_due(now) => kept,
        kept => {
            let fresh = Credentials::issue(now, kept.as_ref())?;
            context.applier.forget::<Secret>(&namespace, &name);
            context.applier.apply(&build::api_secret(link, &fresh)).await?;
            fresh
        }
    };
    let credentials = match &own.credentials {
        Some((before, _)) if **before == credentials => before.clone(),
        _ => Arc::new(credentials),
    };
    own.credentials = Some((credentials.clone(), Instant::now()));
    Ok(credentials)
}

/// Credentials as the Secret holds them; None if it is not as we made it.
fn read(secret: &Secret) -> Option<Credentials> {
    let data = secret.data.as_ref()?;
    let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
    Some(Credentials {
        authorities: text("ca.crt")?,
        certificate: text("tls.crt")?,
        key: text("tls.key")?,
        token: text("token")?,
        renew_at: secret.annotations().get(names::RENEW_AT)?.parse().ok()?,
    })
}
