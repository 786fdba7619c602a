//! Transactions, and locks that last as long.

use crate::{
    sqlserver::{Failure, Row, Session, quote::literal},
    target::Error,
};

/// Longest wait for a lock of ours, in milliseconds. Readers do not queue behind it, as they do behind those of tables.
const WAIT: u32 = 30_000;

/// Begins a transaction. Said each time: the level stays with the session.
pub(super) const BEGIN: &str = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; BEGIN TRANSACTION";
/// Ends it.
pub(super) const COMMIT: &str = "COMMIT TRANSACTION";

/// A transaction of a session. Dropped before it is committed, the session closes and the server rolls back.
pub(super) struct Transaction(Session);

/// How a lock is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Shared,
    Exclusive,
}

impl Transaction {
    pub(super) async fn begin(mut session: Session) -> Result<Self, Failure> {
        session.run(BEGIN).await?;
        Ok(Self(session))
    }

    /// Returns the session.
    pub(super) async fn commit(mut self) -> Result<Session, Failure> {
        self.0.run(COMMIT).await?;
        Ok(self.0)
    }

    /// Runs statements. Returns the rows that they changed.
    pub(super) async fn run(&mut self, sql: &str) -> Result<u64, Failure> {
        self.0.run(sql).await
    }

    /// The rows of a question.
    pub(super) async fn query(&mut self, sql: &str) -> Result<Vec<Row>, Failure> {
        self.0.query(sql).await
    }

    /// Its session, for a bulk load or for rows that are not kept.
    pub(super) fn session(&mut self) -> &mut Session {
        &mut self.0
    }

    /// Takes a lock of ours until the transaction ends.
    pub(super) async fn lock(&mut self, name: &str, mode: Mode) -> Result<(), Error> {
        let got = self.query(&lock(name, mode)).await?.first().and_then(|row| row.number(0));
        match got {
            Some(0 | 1) => Ok(()),
            _ => Err(Error::TargetError(format!("lock {name} is held by another transaction of a link"))),
        }
    }
}

/// Asks for a lock: 0 or 1 if it was got.
pub(super) fn lock(name: &str, mode: Mode) -> String {
    format!(
        "DECLARE @got int; EXEC @got = sp_getapplock @Resource = {}, @LockMode = '{mode:?}', @LockOwner = 'Transaction', @LockTimeout = {WAIT}; \
         SELECT @got",
        literal(&format!("link-operator {name}"))
    )
}
