//! Sessions that are kept between calls: a call a second for each table must not log in each time.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// A session that nobody used for so long is closed rather than used: the network may have forgotten it.
const IDLE: Duration = Duration::from_mins(1);
/// As many sessions are kept; more are open while more calls are under way.
const KEPT: usize = 16;

/// Idle sessions with one database.
pub(super) struct Kept<S>(Mutex<Vec<(Instant, S)>>);

impl<S> Default for Kept<S> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<S> Kept<S> {
    /// A session that is still of use. Whoever took it gives it back with [`Kept::put`] once its transaction has ended well.
    pub(super) fn take(&self, is_open: impl Fn(&S) -> bool) -> Option<S> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(since, session)| since.elapsed() < IDLE && is_open(session));
        idle.pop().map(|(_, session)| session)
    }

    /// Keeps a session for the next call.
    pub(super) fn put(&self, session: S) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEPT {
            idle.push((Instant::now(), session));
        }
    }
}
