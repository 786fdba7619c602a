//! A landing zone in Azure Blob Storage: how the store is built, and what its refusals mean.

use std::{error::Error as _, sync::Arc, time::Duration};

use jiff::Timestamp;
use object_store::{
    BackoffConfig, ClientOptions, RetryConfig,
    azure::{MicrosoftAzure, MicrosoftAzureBuilder},
};

use super::{
    Error,
    credentials::{SasProvider, SasToken},
};
use crate::api::zone::AzureZone;

/// How hard a store tries before it reports a fault.
#[derive(Clone, Copy)]
pub(super) enum Patience {
    /// Rides over hiccups, within the 30 s in which a fault must show.
    Work,
    /// Answers at once: somebody waits to know how things are.
    Check,
}

/// Builds a store that takes its token from `provider` at each request. No I/O.
pub(super) fn build(zone: &AzureZone, provider: Arc<SasProvider>, patience: Patience) -> Result<MicrosoftAzure, Error> {
    // Retries of one request keep its token, so their window also bounds how long a rotated token is still used.
    let (retry, timeout) = match patience {
        Patience::Work => {
            let backoff =
                BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(3), ..BackoffConfig::default() };
            (RetryConfig { backoff, max_retries: 6, retry_timeout: Duration::from_secs(12) }, Duration::from_secs(30))
        }
        Patience::Check => {
            (RetryConfig { max_retries: 0, retry_timeout: Duration::from_secs(3), ..RetryConfig::default() }, Duration::from_secs(3))
        }
    };
    let mut builder = MicrosoftAzureBuilder::new()
        .with_account(&zone.account)
        .with_container_name(&zone.container)
        .with_credentials(provider)
        .with_retry(retry)
        .with_client_options(
            ClientOptions::new().with_timeout(timeout).with_connect_timeout(Duration::from_secs(3)).with_allow_http(is_plain(zone)),
        );
    // An emulator is only another endpoint: the builder's emulator flag would silently ignore the provider.
    if let Some(endpoint) = &zone.endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }
    builder.build().map_err(|error| Error::ZoneError(error.to_string()))
}

/// Only an endpoint that says so itself is spoken to without TLS.
fn is_plain(zone: &AzureZone) -> bool {
    zone.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"))
}

/// What was asked of the store, by the right that it takes (`sp` of a SAS token).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Read,
    Write,
    Create,
    Delete,
    List,
}

impl Operation {
    fn right(self) -> (char, &'static str) {
        match self {
            Self::Read => ('r', "read"),
            Self::Write => ('w', "write"),
            Self::Create => ('c', "create"),
            Self::Delete => ('d', "delete"),
            Self::List => ('l', "list"),
        }
    }

    /// Whether the token says itself that this must be refused. Write includes create.
    fn is_beyond(self, token: &SasToken) -> bool {
        let (right, _) = self.right();
        token.lacks(right) && (self != Self::Create || token.lacks('w'))
    }
}

/// What the store answered, as far as it can be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Answer {
    status: Option<u16>,
    code: Option<String>,
    message: Option<String>,
}

/// Names a failure. `token` is the one that the request was made with.
pub(super) fn explain(error: &object_store::Error, operation: Operation, zone: &AzureZone, token: &SasToken, now: Timestamp) -> Error {
    // The provider's own error, on its way through the store.
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(ours) = inner.downcast_ref::<Error>() {
            return ours.clone();
        }
        cause = inner.source();
    }
    // Of some calls (list) the status is only in the text, its type being private to the store.
    classify(&read_answer(&error.to_string()), operation, zone, token, now)
}

fn classify(answer: &Answer, operation: Operation, zone: &AzureZone, token: &SasToken, now: Timestamp) -> Error {
    let said = || match (&answer.code, answer.status, &answer.message) {
        (Some(code), _, Some(message)) => format!("{code}: {message}"),
        (Some(code), ..) => code.clone(),
        (None, Some(status), _) => format!("HTTP status {status}"),
        (None, None, Some(message)) => message.clone(),
        (None, None, None) => "no answer".to_owned(),
    };
    match (answer.status, answer.code.as_deref()) {
        (_, Some("ContainerNotFound" | "ContainerBeingDeleted" | "FilesystemNotFound")) => {
            Error::ZoneContainerMissing(zone.container.clone())
        }
        (Some(401 | 403), code) => {
            if let Err(error) = token.check_time(now) {
                return error;
            }
            let (_, right) = operation.right();
            if operation.is_beyond(token) || code == Some("AuthorizationPermissionMismatch") {
                return Error::ZonePermissionDenied(format!("the landing zone's SAS token lacks the right to {right}"));
            }
            Error::CredentialRejected(said())
        }
        (Some(408 | 429 | 500..), _) => Error::ZoneUnreachable(said()),
        (None, _) => Error::ZoneUnreachable(format!("{}: {}", address(zone), said())),
        _ => Error::ZoneError(said()),
    }
}

/// Reads status, code and the first line of the message out of an error's text; of an error without a status only a word
/// on what failed, since its text may hold the request's address and with it the signature.
fn read_answer(text: &str) -> Answer {
    let between = |start: &str, end: &str| {
        let from = text.find(start)? + start.len();
        Some(text[from..].split(end).next().unwrap_or_default().to_owned())
    };
    // The second form is that of one object of a bulk delete.
    let status = between("status code: ", " ")
        .or_else(|| between("(code: ", ")"))
        .and_then(|digits| digits.get(..3).and_then(|digits| digits.parse().ok()));
    let code = between("<Code>", "</Code>");
    let message = if status.is_some() {
        between("<Message>", "</Message>").and_then(|message| message.lines().next().map(|line| line.trim().to_owned()))
    } else {
        let lower = text.to_lowercase();
        [
            ("timed out", "it timed out"),
            ("timeout", "it timed out"),
            ("dns", "its name does not resolve"),
            ("certificate", "its certificate is not trusted"),
        ]
        .into_iter()
        .find(|(sign, _)| lower.contains(sign))
        .map(|(_, meaning)| meaning.to_owned())
        .or_else(|| Some("no connection".to_owned()))
    };
    Answer { status, code, message }
}

/// The store's address.
pub(super) fn address(zone: &AzureZone) -> String {
    zone.endpoint.clone().unwrap_or_else(|| format!("https://{}.blob.core.windows.net", zone.account))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::zone::AzureAuth;

    fn zone() -> AzureZone {
        AzureZone {
            account: "shop".to_owned(),
            container: "staging".to_owned(),
            folder: String::new(),
            endpoint: None,
            auth: AzureAuth { sas_token: None },
        }
    }

    fn reason(text: &str, operation: Operation, token: &str) -> &'static str {
        let token = SasToken::parse(token).unwrap();
        let now = "2026-06-01T00:00:00Z".parse().unwrap();
        (&classify(&read_answer(text), operation, &zone(), &token, now)).into()
    }

    const GOOD: &str = "sp=racwdl&se=2027-01-01&sig=x";
    const MISMATCH: &str = "Generic MicrosoftAzure error: Error performing GET REDACTED in 3ms - Server returned non-2xx status code: 403 \
                            Forbidden: <Error><Code>AuthorizationPermissionMismatch</Code><Message>This request…\nRequestId:1</Message></Error>";
    const FAILED: &str = "x - Server returned non-2xx status code: 403 Forbidden: <Code>AuthenticationFailed</Code><Message>Server failed to \
                          authenticate the request.\nRequestId:7</Message>";

    #[test]
    fn names_refusals_by_the_tokens_own_word_first() {
        assert_eq!(reason(FAILED, Operation::Read, "sp=racwdl&se=2026-01-01&sig=x"), "CredentialExpired");
        assert_eq!(reason(FAILED, Operation::Read, "sp=racwdl&st=2026-12-01&se=2027-01-01&sig=x"), "CredentialNotYetValid");
        assert_eq!(reason(FAILED, Operation::Read, "sp=wl&se=2027-01-01&sig=x"), "ZonePermissionDenied");
        assert_eq!(reason(FAILED, Operation::Create, "sp=rwdl&se=2027-01-01&sig=x"), "CredentialRejected");
        assert_eq!(reason(FAILED, Operation::Read, GOOD), "CredentialRejected");
        assert_eq!(reason(MISMATCH, Operation::List, GOOD), "ZonePermissionDenied");
    }

    #[test]
    fn names_other_answers() {
        let container = "status code: 404 Not Found: <Code>ContainerNotFound</Code>";
        assert_eq!(reason(container, Operation::Write, GOOD), "ZoneContainerMissing");
        assert_eq!(reason("status code: 503 Service Unavailable: ", Operation::Write, GOOD), "ZoneUnreachable");
        assert_eq!(reason("error sending request for url (http://h/?sig=abc)", Operation::Write, GOOD), "ZoneUnreachable");
        assert_eq!(reason("failed for key a: Forbidden (code: 403)", Operation::Delete, "sp=rwl&sig=x"), "ZonePermissionDenied");
        assert_eq!(reason("status code: 400 Bad Request: <Code>InvalidInput</Code>", Operation::Write, GOOD), "ZoneError");
    }

    #[test]
    fn keeps_the_first_line_and_never_the_address() {
        assert_eq!(read_answer(FAILED).message.as_deref(), Some("Server failed to authenticate the request."));
        assert!(!format!("{:?}", read_answer("error sending request for url (http://h/?sig=abc)")).contains("abc"));
    }
}
