//! Transactions.

use std::ops::{Deref, DerefMut};

use crate::sqlserver::{Failure, Session};

/// Ends a transaction.
pub(in crate::target) const COMMIT: &str = "COMMIT TRANSACTION";

/// A transaction of a session. Dropped before it is committed, the session closes and the server rolls back.
pub(in crate::target) struct Transaction(Session);

impl Transaction {
    /// Begins one by the target's own words.
    pub(in crate::target) async fn begin(mut session: Session, words: &str) -> Result<Self, Failure> {
        session.run(words).await?;
        Ok(Self(session))
    }

    /// Returns the session.
    pub(in crate::target) async fn commit(mut self) -> Result<Session, Failure> {
        self.0.run(COMMIT).await?;
        Ok(self.0)
    }
}

impl Deref for Transaction {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.0
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.0
    }
}
