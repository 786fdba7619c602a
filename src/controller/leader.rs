//! Leadership: of several controllers one works, the others wait for its Lease.

use std::future::Future;

use kube::Client;
use kube_lease_manager::LeaseManagerBuilder;
use tokio_util::sync::CancellationToken;

use super::Error;

/// Name of the Lease.
const LEASE: &str = "link-operator-controller";
/// How long a claim holds without renewal, seconds; and how long before its end it is renewed.
const CLAIM: (u64, u64) = (15, 5);

/// Runs `work` while this process leads. Returns with [`Error::LeaseLost`] when it no longer does: the process ends and
/// comes back as one that waits, with nothing left of what it knew.
pub async fn lead<F>(client: Client, namespace: &str, identity: &str, stop: CancellationToken, work: F) -> Result<(), Error>
where
    F: Future<Output = Result<(), Error>>,
{
    let failed = |error: kube_lease_manager::LeaseManagerError| Error::LeaseFailed(error.to_string());
    let manager = LeaseManagerBuilder::new(client, LEASE)
        .with_namespace(namespace)
        .with_identity(identity)
        .with_duration(CLAIM.0)
        .with_grace(CLAIM.1)
        .build()
        .await
        .map_err(failed)?;
    let (mut leads, task) = manager.watch().await;
    tracing::info!(lease = LEASE, identity, "waiting for leadership");
    let claimed = tokio::select! {
        claimed = leads.wait_for(|leads| *leads) => claimed.is_ok(),
        () = stop.cancelled() => false,
    };
    let result = if claimed {
        tracing::info!(lease = LEASE, identity, "leads");
        tokio::select! {
            result = work => result,
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
