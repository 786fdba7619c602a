//! What targets share that speak T-SQL over TDS: SQL Server, and the Synapse dedicated SQL pool, which knows a part of it.
//!
//! [`progress`] and [`together`] say how far tables are, [`kind`] how a column stands there, [`digest`] compares rows with their
//! source. Nothing here makes, locks or moves a table: that is where the two differ.

pub(super) mod digest;
mod error;
pub(super) mod groups;
pub(super) mod kind;
pub(super) mod outline;
pub(super) mod pool;
pub(super) mod progress;
pub(super) mod rights;
pub(super) mod together;
pub(super) mod transaction;
