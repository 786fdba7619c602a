//! Why a database cannot be reached: in the same words whatever system it is, and whether it is a source or a target.

use crate::secrets;

/// Cures [`ConnectError::TlsFailed`].
pub const CORRECT_TLS: &str = "correct tls.mode, tls.ca or tls.serverName";
/// Cures [`ConnectError::DatabaseMissing`].
pub const CORRECT_DATABASE: &str =
    "create the database, or correct its name in the spec; in SQL Server, CREATE USER … FOR LOGIN … lets a login enter it";

/// Why there is no session. Messages name host, database and user, never the password.
#[derive(Debug, thiserror::Error, strum::IntoStaticStr)]
pub enum ConnectError {
    /// Nobody answers, or the server or the database is starting, stopping, moving or paused.
    #[error("{0}")]
    Unreachable(String),
    /// Wrong user, password or token, or the server allows them not from here.
    #[error("{0}")]
    AuthenticationFailed(String),
    /// A Secret is not there.
    #[error("{0}")]
    SecretMissing(String),
    /// A Secret lacks a key.
    #[error("{0}")]
    SecretKeyMissing(String),
    /// The server does not encrypt, or its certificate is not trusted.
    #[error("{0}")]
    TlsFailed(String),
    /// The server has no such database.
    #[error("{0}")]
    DatabaseMissing(String),
    /// The server has no connection left.
    #[error("{0}")]
    TooManyConnections(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl From<secrets::Error> for ConnectError {
    fn from(error: secrets::Error) -> Self {
        let message = error.to_string();
        match error {
            secrets::Error::SecretMissing(_) => Self::SecretMissing(message),
            secrets::Error::SecretKeyMissing { .. } => Self::SecretKeyMissing(message),
            secrets::Error::SecretUnreadable { .. } => Self::Other(message),
            secrets::Error::AuthoritiesMissing(_) => Self::TlsFailed(message),
        }
    }
}

/// An error and what caused it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let next = source.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = source.source();
    }
    text.replace('\n', " ")
}
