//! The landing zone: object store, credentials and their expiry, layout, log.

/// A link's folder in object storage.
#[derive(Clone)]
pub struct Zone;
