//! Sessions for calls.

use crate::{
    api::database::SqlServerDatabase,
    connect::ConnectError,
    secrets::Secrets,
    sqlserver::{Session, connect_with},
    target::kept::Kept,
};

/// Sessions with one database.
pub(in crate::target) struct Pool {
    database: SqlServerDatabase,
    secrets: Secrets,
    /// What `sys.dm_exec_sessions` shows.
    application: String,
    /// What a new session is told first.
    settings: &'static str,
    kept: Kept<Session>,
}

impl Pool {
    pub(in crate::target) fn new(database: SqlServerDatabase, secrets: Secrets, application: String, settings: &'static str) -> Self {
        Self { database, secrets, application, settings, kept: Kept::default() }
    }

    /// A session, kept or new. Whoever took it gives it back with [`Pool::put`] once its transaction has ended well; dropped
    /// instead, it closes and the server rolls back.
    pub(in crate::target) async fn get(&self) -> Result<Session, ConnectError> {
        match self.kept.take(Session::is_open) {
            Some(session) => Ok(session),
            None => connect_with(&self.database, &self.secrets, &self.application, self.settings).await,
        }
    }

    /// Keeps a session for the next call.
    pub(in crate::target) fn put(&self, session: Session) {
        self.kept.put(session);
    }
}
