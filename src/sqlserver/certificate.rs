//! The server's certificate, where the driver cannot verify it as the spec asks.

use std::path::Path;

use super::ConnectError;
use crate::{api::database::SqlServerDatabase, secrets::Secrets};

/// A file that holds the one certificate that the server may show.
pub struct Pin(tempfile::NamedTempFile);

impl Pin {
    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

/// The certificate to accept; none if the driver verifies it by itself.
pub async fn pin(_database: &SqlServerDatabase, _secrets: &Secrets) -> Result<Option<Pin>, ConnectError> {
    Ok(None)
}
