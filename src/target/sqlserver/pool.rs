//! Sessions for calls.

use crate::{
    api::database::SqlServerDatabase,
    connect::ConnectError,
    secrets::Secrets,
    sqlserver::{Session, connect},
    target::kept::Kept,
};

/// Sessions with one database.
pub(super) struct Pool {
    database: SqlServerDatabase,
    secrets: Secrets,
    /// What `sys.dm_exec_sessions` shows.
    application: String,
    kept: Kept<Session>,
}

impl Pool {
    pub(super) fn new(database: SqlServerDatabase, secrets: Secrets, application: String) -> Self {
        Self { database, secrets, application, kept: Kept::default() }
    }

    /// A session, kept or new. Whoever took it gives it back with [`Pool::put`] once its transaction has ended well; dropped
    /// instead, it closes and the server rolls back.
    pub(super) async fn get(&self) -> Result<Session, ConnectError> {
        match self.kept.take(Session::is_open) {
            Some(session) => Ok(session),
            None => connect(&self.database, &self.secrets, &self.application).await,
        }
    }

    /// Keeps a session for the next call.
    pub(super) fn put(&self, session: Session) {
        self.kept.put(session);
    }
}
