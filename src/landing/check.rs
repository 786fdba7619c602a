//! Whether a landing zone can do what a link needs, tried and not assumed.

use bytes::Bytes;
use jiff::Timestamp;
use uuid::Uuid;

use super::{Created, Error, Zone};
use crate::api::fault::{Check, Explain};

/// Objects and folders can be read.
const READABLE: &str = "ZoneReadable";
/// Objects can be created, only where there is none, and deleted.
const WRITABLE: &str = "ZoneWritable";
/// The store accepts the credential, and its time has begun and is not over.
const CREDENTIAL: &str = "CredentialValid";
/// Folder of the throw-away objects.
const PROBE: &str = "_probe";

impl Zone {
    /// Writes, reads and removes a throw-away object, and says what worked: `ZoneReadable`, `ZoneWritable` and, of a store
    /// with a credential, `CredentialValid`. Answers within seconds, whatever the store does.
    pub async fn checks(&self) -> Vec<Check> {
        let zone = self.impatient();
        let path = format!("{PROBE}/{}", Uuid::new_v4().simple());
        let created = zone.try_create(&path).await;
        let read = zone.try_read(&path, created.is_ok()).await;
        let written = match created {
            Ok(()) => zone.delete(std::slice::from_ref(&path)).await,
            Err(error) => Err(error),
        };
        let mut checks = Vec::new();
        if let Some(credential) = zone.credential().await {
            let fault = [&written, &read].into_iter().filter_map(|result| result.as_ref().err()).find(|error| error.is_of_credential());
            checks.push(match (credential, fault) {
                (Err(error), _) => Check::failed(CREDENTIAL, error.fault()),
                (Ok(_), Some(error)) => Check::failed(CREDENTIAL, error.fault()),
                // Whatever else the store complains of.
                (Ok(token), None) if token.expiry.is_some_and(|expiry| expiry < Timestamp::now()) => {
                    Check::failed(CREDENTIAL, Error::CredentialExpired(token.expiry.unwrap_or_default()).fault())
                }
                (Ok(token), None) => Check::passed(
                    CREDENTIAL,
                    token.expiry.map_or("its end is not in the token".to_owned(), |expiry| format!("valid until {expiry}")),
                ),
            });
        }
        checks.push(outcome(READABLE, read));
        checks.push(outcome(WRITABLE, written));
        checks
    }

    /// Creates an object twice: the second attempt must find the first.
    async fn try_create(&self, path: &str) -> Result<(), Error> {
        let ours = Bytes::from(path.to_owned());
        match self.create(path, ours.clone()).await? {
            Created::Ours => {}
            Created::Theirs(_) => return Err(Error::ZoneError(format!("{path} holds something else than was written"))),
        }
        match self.create(path, Bytes::from_static(b"another writer")).await? {
            Created::Theirs(found) if found == ours => Ok(()),
            Created::Theirs(_) | Created::Ours => {
                Err(Error::ConditionalWritesUnsupported("a second create replaced the object of the first".to_owned()))
            }
        }
    }

    async fn try_read(&self, path: &str, there: bool) -> Result<(), Error> {
        let found = self.get(path).await?.is_some();
        let listed = self.list(PROBE).await?.iter().any(|listed| listed == path);
        if there && !(found && listed) {
            return Err(Error::ZoneError(format!("{path} was written and cannot be {}", if found { "listed" } else { "read" })));
        }
        Ok(())
    }
}

fn outcome(name: &str, result: Result<(), Error>) -> Check {
    match result {
        Ok(()) => Check::passed(name, ""),
        Err(error) => Check::failed(name, error.fault()),
    }
}
