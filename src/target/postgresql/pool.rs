//! Sessions for calls.

use crate::{
    api::database::PostgresqlDatabase,
    connect::ConnectError,
    postgresql::{Connected, connect},
    secrets::Secrets,
    target::kept::Kept,
};

/// Sessions with one database.
pub(super) struct Pool {
    database: PostgresqlDatabase,
    secrets: Secrets,
    /// What `pg_stat_activity` shows.
    application: String,
    kept: Kept<Connected>,
}

impl Pool {
    pub(super) fn new(database: PostgresqlDatabase, secrets: Secrets, application: String) -> Self {
        Self { database, secrets, application, kept: Kept::default() }
    }

    /// A session, kept or new. Whoever took it gives it back with [`Pool::put`] once its transaction has ended well; dropped
    /// instead, it closes and the server rolls back.
    pub(super) async fn get(&self) -> Result<Connected, ConnectError> {
        match self.kept.take(|session| !session.is_closed()) {
            Some(session) => Ok(session),
            None => connect(&self.database, &self.secrets, &self.application).await,
        }
    }

    /// Keeps a session for the next call.
    pub(super) fn put(&self, session: Connected) {
        self.kept.put(session);
    }
}
