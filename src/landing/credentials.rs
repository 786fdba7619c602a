//! SAS tokens: what they say of themselves, and how a rotated one comes into use without a rebuild of the store.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use jiff::{Timestamp, civil::Date, tz::TimeZone};
use object_store::{CredentialProvider, azure::AzureCredential};
use tokio::sync::Mutex;
use url::form_urlencoded;

use super::Error;
use crate::{api::database::SecretKey, secrets::Secrets};

/// How long a token is used before the Secret is read again: bounds the reads of files, not the life of the token.
const REREAD_AFTER: Duration = Duration::from_secs(2);

/// What a shared access signature says of itself. Holds no signature.
///
/// Fields: <https://learn.microsoft.com/rest/api/storageservices/create-service-sas>.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SasToken {
    /// `st`: when it begins.
    pub start: Option<Timestamp>,
    /// `se`: when it ends. None if a stored access policy says so.
    pub expiry: Option<Timestamp>,
    /// `sp`: one letter a right. None if a stored access policy says so.
    pub rights: Option<String>,
    /// `sr`: what it is for: `c` a container, `d` a directory, `b` a blob. None in a SAS of a whole account.
    pub resource: Option<String>,
    /// `si`: name of a stored access policy.
    pub policy: Option<String>,
}

impl SasToken {
    /// Reads a token as it stands in a Secret, with or without a leading `?`. Says what is wrong without showing any of it.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let pairs = pairs(text);
        let field = |name: &str| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        if field("sig").is_none_or(|signature| signature.is_empty()) {
            return Err(Error::CredentialMalformed("it has no signature (sig=…)"));
        }
        let time = |name: &str, problem: &'static str| {
            field(name).map(|text| parse_time(&text).ok_or(Error::CredentialMalformed(problem))).transpose()
        };
        Ok(Self {
            start: time("st", "its start (st=…) is no time")?,
            expiry: time("se", "its expiry (se=…) is no time")?,
            rights: field("sp"),
            resource: field("sr"),
            policy: field("si"),
        })
    }

    /// Whether the token is outside its time, as an error.
    pub fn check_time(&self, now: Timestamp) -> Result<(), Error> {
        match (self.start, self.expiry) {
            (_, Some(expiry)) if expiry <= now => Err(Error::CredentialExpired(expiry)),
            (Some(start), _) if start > now => Err(Error::CredentialNotYetValid(start)),
            _ => Ok(()),
        }
    }

    /// Whether the token itself says that it lacks the right.
    pub fn lacks(&self, right: char) -> bool {
        self.rights.as_deref().is_some_and(|rights| !rights.contains(right))
    }
}

/// The token's query parameters. A `+` is part of a signature that somebody decoded once already, not a blank.
fn pairs(text: &str) -> Vec<(String, String)> {
    let query = text.trim().trim_start_matches('?').replace('+', "%2B");
    form_urlencoded::parse(query.as_bytes()).map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned())).collect()
}

/// A SAS time: a date, or a time in UTC to the minute, the second or parts of it.
fn parse_time(text: &str) -> Option<Timestamp> {
    if let Ok(time) = text.parse() {
        return Some(time);
    }
    let date: Date = text.parse().ok()?;
    date.to_zoned(TimeZone::UTC).ok().map(|midnight| midnight.timestamp())
}

/// Gives the object store the token that the Secret holds now.
pub(super) struct SasProvider {
    secrets: Secrets,
    key: SecretKey,
    current: Mutex<Option<(Instant, Credential)>>,
}

/// A token, and what it says of itself.
#[derive(Clone)]
pub(super) struct Credential {
    pub token: Arc<SasToken>,
    pairs: Arc<AzureCredential>,
}

impl SasProvider {
    pub fn new(secrets: Secrets, key: SecretKey) -> Self {
        Self { secrets, key, current: Mutex::new(None) }
    }

    /// The token as the Secret holds it, at most [`REREAD_AFTER`] ago.
    pub async fn current(&self) -> Result<Credential, Error> {
        let mut current = self.current.lock().await;
        if let Some((read_at, credential)) = current.as_ref()
            && read_at.elapsed() < REREAD_AFTER
        {
            return Ok(credential.clone());
        }
        *current = None;
        let value = self.secrets.read(&self.key.name, &self.key.key).await?;
        let token = SasToken::parse(value.expose())?;
        let credential = Credential { token: Arc::new(token), pairs: Arc::new(AzureCredential::SASToken(pairs(value.expose()))) };
        *current = Some((Instant::now(), credential.clone()));
        Ok(credential)
    }
}

impl fmt::Debug for SasProvider {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SasProvider({}/{})", self.key.name, self.key.key)
    }
}

#[async_trait]
impl CredentialProvider for SasProvider {
    type Credential = AzureCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AzureCredential>> {
        match self.current().await {
            Ok(credential) => Ok(credential.pairs),
            Err(error) => Err(object_store::Error::Generic { store: "landing zone", source: Box::new(error) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn reads_times_of_every_precision() {
        for (text, expected) in [
            ("2026-02-03", "2026-02-03T00:00:00Z"),
            ("2026-02-03T04:05Z", "2026-02-03T04:05:00Z"),
            ("2026-02-03T04%3A05%3A06Z", "2026-02-03T04:05:06Z"),
            ("2026-02-03T04:05:06.1234567Z", "2026-02-03T04:05:06.1234567Z"),
        ] {
            let token = SasToken::parse(&format!("?sv=2023-11-03&se={text}&sr=c&sp=rl&sig=a%2Bb%3D")).unwrap();
            assert_eq!(token.expiry, Some(time(expected)), "{text}");
            assert_eq!((token.rights.as_deref(), token.resource.as_deref(), token.start), (Some("rl"), Some("c"), None));
        }
    }

    #[test]
    fn a_token_with_a_stored_policy_says_neither_expiry_nor_rights() {
        let token = SasToken::parse("sv=2023-11-03&si=loader&sr=c&sig=x").unwrap();
        assert_eq!((token.expiry, token.rights.clone(), token.policy.as_deref()), (None, None, Some("loader")));
        assert!(!token.lacks('w'));
        assert_eq!(token.check_time(Timestamp::now()), Ok(()));
    }

    #[test]
    fn compares_with_the_clock() {
        let token = SasToken::parse("st=2026-01-01&se=2026-01-02&sp=r&sig=x").unwrap();
        assert_eq!(token.check_time(time("2025-12-31T00:00:00Z")), Err(Error::CredentialNotYetValid(time("2026-01-01T00:00:00Z"))));
        assert_eq!(token.check_time(time("2026-01-01T12:00:00Z")), Ok(()));
        assert_eq!(token.check_time(time("2026-01-02T00:00:00Z")), Err(Error::CredentialExpired(time("2026-01-02T00:00:00Z"))));
        assert!(token.lacks('w') && !token.lacks('r'));
    }

    #[test]
    fn refuses_what_is_no_token_without_showing_it() {
        for text in ["hunter2", "", "?", "sv=1&sig=", "se=hunter2&sig=hunter2"] {
            let error = SasToken::parse(text).unwrap_err();
            assert!(matches!(error, Error::CredentialMalformed(_)) && !error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn keeps_a_signature_that_was_decoded_once() {
        let value = |text: &str| pairs(text).into_iter().find(|(key, _)| key == "sig").unwrap().1;
        assert_eq!(value("sig=a%2Bb%3D"), "a+b=");
        assert_eq!(value("sig=a+b="), "a+b=");
    }
}
