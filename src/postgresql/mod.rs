//! What a PostgreSQL source and a PostgreSQL target share: how to connect, how to quote, what an error means.
//!
//! [`connect`] opens ordinary sessions, [`dial`] the encrypted socket below them (a replication session starts there, since
//! the driver has none), [`quote`] writes names and values into SQL, [`errors`] tells the kinds of server errors apart,
//! [`digest`] computes what two databases compare of a table.

pub mod connect;
pub mod dial;
pub mod digest;
pub mod errors;
pub mod grants;
pub mod quote;

pub use connect::{Connected, connect};
