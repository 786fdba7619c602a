//! What an error of the server or of connecting means for a link.

use crate::{
    sqlserver::{Class, Failure, bulk::LoadError},
    target::Error,
};

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let Failure { number, class, message } = failure;
        match class {
            Class::ConnectionLost => Self::TargetUnreachable(message),
            Class::AuthenticationFailed => Self::TargetAuthenticationFailed(message),
            Class::PermissionDenied => Self::TargetPermissionDenied {
                message,
                remedy: "as the owner of what the message names, GRANT the right to the user that spec.target logs in as".to_owned(),
            },
            // Somebody dropped what progress says is there.
            Class::ObjectMissing | Class::ColumnMissing => Self::TargetInconsistent(message),
            Class::Duplicate => Self::TargetInconsistent(format!("two rows have one key as the target compares it: {message}")),
            Class::ValueNotSupported => Self::ValueNotSupported(message),
            _ => match number {
                // A collation or type that the server does not have; a row, or a key, that is too wide.
                448 | 2715 | 511 | 1701 | 1944 | 1946 => Self::ValueNotSupported(message),
                _ => Self::TargetError(message),
            },
        }
    }
}

impl From<LoadError<Error>> for Error {
    fn from(error: LoadError<Error>) -> Self {
        match error {
            LoadError::Feed(error) => error,
            LoadError::Server(failure) => failure.into(),
        }
    }
}
