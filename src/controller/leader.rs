//! Leadership: of several controllers one works, the others wait for its Lease.
//!
//! Who leads may be held up, by its node or the network, until another leads, and not know. So it writes through a client that
//! looks whether the claim still holds, and no longer writes once it does not.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::http::{Method, Request};
use backon::{ExponentialBuilder, Retryable as _};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client, client::Body};
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseManagerError};
use tokio_util::sync::CancellationToken;
use tower::BoxError;

use super::Error;

/// Name of the Lease.
pub const LEASE: &str = "link-operator-controller";
/// How long a claim holds without renewal, seconds; and how long before its end it is renewed.
const CLAIM: (u64, u64) = (15, 5);
/// Shortest and longest wait before an API server that does not answer is asked again for the Lease.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// So long before its end a claim no longer counts: a write that is on its way arrives while it holds.
const MARGIN: Duration = Duration::from_secs(2);

/// Runs what `work` makes of a client that writes only while this process leads. Returns with [`Error::LeaseLost`] when it no
/// longer does: the process ends and comes back as one that waits, with nothing left of what it knew.
pub async fn lead<F>(
    client: Client,
    namespace: &str,
    identity: &str,
    stop: CancellationToken,
    work: impl FnOnce(Client) -> F,
) -> Result<(), Error>
where
    F: Future<Output = Result<(), Error>>,
{
    let manager = tokio::select! {
        manager = manager(&client, namespace, identity) => manager.map_err(|error| Error::LeaseFailed(error.to_string()))?,
        () = stop.cancelled() => return Ok(()),
    };
    let (mut leads, task) = manager.watch().await;
    tracing::info!(lease = LEASE, identity, "waiting for leadership");
    let claimed = tokio::select! {
        claimed = leads.wait_for(|leads| *leads) => claimed.is_ok(),
        () = stop.cancelled() => false,
    };
    let result = if claimed {
        tracing::info!(lease = LEASE, identity, "leads");
        tokio::select! {
            result = work(guarded(client, namespace, identity)) => result,
            _ = leads.wait_for(|leads| !*leads) => Err(Error::LeaseLost),
        }
    } else if stop.is_cancelled() {
        Ok(())
    } else {
        Err(Error::LeaseLost)
    };
    // Closing the channel gives the claim back, so that another need not wait for its end.
    drop(leads);
    if let Ok(Err(error)) = task.await {
        tracing::warn!(%error, "the Lease was not given back");
    }
    result
}

/// Who looks after the Lease. Waits for an API server that does not answer; one that refuses is not asked again.
async fn manager(client: &Client, namespace: &str, identity: &str) -> Result<LeaseManager, LeaseManagerError> {
    let build = || {
        LeaseManagerBuilder::new(client.clone(), LEASE)
            .with_namespace(namespace)
            .with_identity(identity)
            .with_duration(CLAIM.0)
            .with_grace(CLAIM.1)
            .build()
    };
    let refused = |error: &LeaseManagerError| match error {
        LeaseManagerError::KubeError(kube::Error::Api(status)) => (400..500).contains(&status.code) && status.code != 429,
        _ => false,
    };
    build
        .retry(ExponentialBuilder::default().with_min_delay(AGAIN.0).with_max_delay(AGAIN.1).without_max_times())
        .when(|error| !refused(error))
        .notify(|error, _| tracing::warn!(%error, "cannot ask for the Lease; trying again"))
        .await
}

/// A client that reads, and writes only while `identity` holds the Lease of that namespace: [`Error::LeaseLost`] otherwise.
pub fn guarded(client: Client, namespace: &str, identity: &str) -> Client {
    let claim = Arc::new(Claim {
        leases: Api::namespaced(client.clone(), namespace),
        identity: identity.to_owned(),
        until: Mutex::new(Instant::now()),
    });
    let default_namespace = client.default_namespace().to_owned();
    let service = tower::service_fn(move |request: Request<Body>| {
        let (client, claim) = (client.clone(), claim.clone());
        async move {
            if request.method() != Method::GET && !claim.holds().await? {
                return Err(BoxError::from(Error::LeaseLost));
            }
            Ok(client.send(request).await?)
        }
    });
    Client::new(service, default_namespace)
}

/// A claim to the Lease, as it was last seen.
struct Claim {
    leases: Api<Lease>,
    identity: String,
    /// It held, and nobody else may claim it before.
    until: Mutex<Instant>,
}

impl Claim {
    async fn holds(&self) -> Result<bool, kube::Error> {
        if Instant::now() < *self.until.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(true);
        }
        let asked = Instant::now();
        let lease = self.leases.get_opt(LEASE).await?;
        let left = lease.and_then(|lease| left(&lease, &self.identity, Timestamp::now()));
        if let Some(left) = left {
            *self.until.lock().unwrap_or_else(PoisonError::into_inner) = asked + left;
        }
        Ok(left.is_some_and(|left| asked.elapsed() < left))
    }
}

/// For how long from `now` on a Lease is that of `identity`, come what may; none if it is not.
fn left(lease: &Lease, identity: &str, now: Timestamp) -> Option<Duration> {
    let spec = lease.spec.as_ref().filter(|spec| spec.holder_identity.as_deref() == Some(identity))?;
    let duration = Duration::from_secs(u64::try_from(spec.lease_duration_seconds?).ok()?);
    let end = spec.renew_time.as_ref()?.0.checked_add(duration).ok()?;
    Duration::try_from(end.duration_since(now)).ok()?.checked_sub(MARGIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_good_until_shortly_before_others_may_take_it() {
        let at = |second: i64| Timestamp::from_second(1_700_000_000 + second).unwrap();
        let lease: Lease = serde_json::from_value(serde_json::json!({
            "spec": {"holderIdentity": "us", "leaseDurationSeconds": 15, "renewTime": "2023-11-14T22:13:20.000000Z"}
        }))
        .unwrap();
        assert_eq!(left(&lease, "us", at(0)), Some(Duration::from_secs(13)));
        assert_eq!(left(&lease, "us", at(13)), Some(Duration::ZERO));
        assert_eq!(left(&lease, "us", at(14)), None);
        assert_eq!(left(&lease, "us", at(99)), None);
        assert_eq!(left(&lease, "them", at(0)), None);
        assert_eq!(left(&Lease::default(), "us", at(0)), None);
    }
}
