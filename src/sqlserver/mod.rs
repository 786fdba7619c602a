//! What the SQL Server source and the targets over TDS share: sessions over TDS, what the server's errors mean, names in statements, types,
//! and rows as Arrow.
//!
//! Knows neither sources nor targets. Everything that touches the driver's own interface is here: it still changes from version
//! to version.

pub mod bulk;
mod certificate;
mod connect;
pub mod errors;
#[cfg(test)]
pub(crate) mod golden;
pub mod grants;
pub mod quote;
pub mod rows;
mod token;
pub mod types;
pub mod wire;

pub use connect::{POOL_SETTINGS, Row, SETTINGS, Session, connect, connect_with};
pub use errors::{Class, Failure};
