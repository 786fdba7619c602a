//! Access tokens of Microsoft Entra ID for Azure SQL.

use super::ConnectError;
use crate::{api::database::SqlServerAuth, secrets::Secrets};

/// A token for the way to log in that the spec names, and whose it is.
pub async fn of(_auth: &SqlServerAuth, _secrets: &Secrets) -> Result<(String, String), ConnectError> {
    Err(ConnectError::Other("this way to log in is not there yet".to_owned()))
}
