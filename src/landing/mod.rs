//! The landing zone: object store, credentials and their expiry, layout, log.
//!
//! A [`Zone`] is one link's folder in an Azure container or a mounted volume, reduced to the few operations that are safe
//! on every store: plain put, create-if-absent, get, list, delete. It must not know what the objects mean.
//!
//! The built object store prints its signature with `{:?}`, so nothing here is `Debug` with its parts, and errors are
//! built from the store's answer (status, code, first line), never from its request.

pub mod layout;
pub mod log;
pub mod record;

mod azure;
mod check;
mod credentials;
mod error;
mod folder;
mod requests;
mod store;

pub use credentials::SasToken;
pub use error::Error;
pub use requests::Requests;
pub use store::{Created, Zone};
