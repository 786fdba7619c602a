//! Sessions that are kept between calls: a call a second for each table must not log in each time.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    api::database::PostgresqlDatabase,
    postgresql::{ConnectError, Connected, connect},
    secrets::Secrets,
};

/// A session that nobody used for so long is closed rather than used: the network may have forgotten it.
const IDLE: Duration = Duration::from_mins(1);
/// As many sessions are kept; more are open while more calls are under way.
const KEPT: usize = 16;

/// Idle sessions with one database.
pub(super) struct Pool {
    database: PostgresqlDatabase,
    secrets: Secrets,
    /// What `pg_stat_activity` shows.
    application: String,
    idle: Mutex<Vec<(Instant, Connected)>>,
}

impl Pool {
    pub(super) fn new(database: PostgresqlDatabase, secrets: Secrets, application: String) -> Self {
        Self { database, secrets, application, idle: Mutex::default() }
    }

    /// A session, kept or new. Whoever took it gives it back with [`Pool::put`] once its transaction has ended well; dropped
    /// instead, it closes and the server rolls back.
    pub(super) async fn get(&self) -> Result<Connected, ConnectError> {
        let kept = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.retain(|(since, session)| since.elapsed() < IDLE && !session.is_closed());
            idle.pop()
        };
        match kept {
            Some((_, session)) => Ok(session),
            None => connect(&self.database, &self.secrets, &self.application).await,
        }
    }

    /// Keeps a session for the next call.
    pub(super) fn put(&self, session: Connected) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEPT {
            idle.push((Instant::now(), session));
        }
    }
}
