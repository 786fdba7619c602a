//! Locks that last as long as a transaction.

use crate::{
    sqlserver::{Session, quote::literal},
    target::Error,
};

/// Longest wait for a lock of ours, in milliseconds. Readers do not queue behind it, as they do behind those of tables.
const WAIT: u32 = 30_000;

/// How a lock is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Shared,
    Exclusive,
}

/// Takes a lock of ours until the transaction ends.
pub(super) async fn take(session: &mut Session, name: &str, mode: Mode) -> Result<(), Error> {
    let got = session.query(&ask(name, mode)).await?.first().and_then(|row| row.number(0));
    match got {
        Some(0 | 1) => Ok(()),
        _ => Err(Error::TargetError(format!("lock {name} is held by another transaction of a link"))),
    }
}

/// Asks for a lock: 0 or 1 if it was got.
pub(super) fn ask(name: &str, mode: Mode) -> String {
    format!(
        "DECLARE @got int; EXEC @got = sp_getapplock @Resource = {}, @LockMode = '{mode:?}', @LockOwner = 'Transaction', @LockTimeout = {WAIT}; \
         SELECT @got",
        literal(&format!("link-operator {name}"))
    )
}
