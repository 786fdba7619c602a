//! What an error of the server or of connecting means for a link.

use crate::{
    postgresql::errors::{self, Class},
    target::Error,
};

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::from(&error)
    }
}

impl From<&tokio_postgres::Error> for Error {
    fn from(error: &tokio_postgres::Error) -> Self {
        let message = errors::message(error);
        match errors::class(error) {
            Class::ConnectionLost => Self::TargetUnreachable(message),
            Class::AuthenticationFailed => Self::TargetAuthenticationFailed(message),
            Class::PermissionDenied => Self::TargetPermissionDenied {
                message,
                remedy: "as the owner of what the message names, GRANT the right to the user that spec.target logs in as".to_owned(),
            },
            _ => match error.code().map_or("", |state| state.code()) {
                // undefined_table, undefined_column: somebody dropped what progress says is there.
                "42P01" | "42703" => Self::TargetInconsistent(message),
                // undefined_object (a type), datatype_mismatch; class 22: data exceptions
                "42704" | "42804" => Self::ValueNotSupported(message),
                code if code.starts_with("22") => Self::ValueNotSupported(message),
                // out_of_memory of the table of locks: a transaction over many tables.
                "53200" if message.contains("max_locks_per_transaction") || message.contains("shared memory") => {
                    Self::TargetNotPrepared { message, remedy: "raise max_locks_per_transaction of the target and restart it".to_owned() }
                }
                _ => Self::TargetError(message),
            },
        }
    }
}

/// Whether an error is `unique_violation`.
pub(super) fn is_duplicate(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|state| state.code() == "23505")
}

/// Whether an error is `duplicate_column`.
pub(super) fn is_duplicate_column(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|state| state.code() == "42701")
}

/// Whether an error is `dependent_objects_still_exist`.
pub(super) fn is_depended_on(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|state| state.code() == "2BP01")
}
