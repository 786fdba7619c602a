//! What an error of the server means, told from its number (`sys.messages`).

use mssql_tds::error::Error;

/// Kinds of errors that call for different answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The connection is gone, or the database is moving, starting or paused: try again.
    ConnectionLost,
    /// User, password or token are wrong.
    AuthenticationFailed,
    /// The database does not exist, or the user may not enter it.
    DatabaseMissing,
    /// No connection, worker or memory is left.
    ResourcesExhausted,
    /// The user lacks a right.
    PermissionDenied,
    /// A table or other object does not exist.
    ObjectMissing,
    /// A table does not have the column.
    ColumnMissing,
    /// An object of that name is there already.
    ObjectExists,
    /// A row with this key is there already.
    Duplicate,
    /// Deadlock, lock timeout or a table that changed under a snapshot: the same statement may succeed later.
    Conflict,
    /// The database does not allow SNAPSHOT isolation.
    SnapshotNotAllowed,
    /// A value does not fit its column.
    ValueNotSupported,
    /// Anything else.
    Other,
}

/// Why a statement failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The server's number; 0 if it is not the server who says so.
    pub number: u32,
    /// What it means.
    pub class: Class,
    /// In words. Bears no value of the user's beyond what the server tells.
    pub message: String,
}

impl Failure {
    /// The connection broke.
    pub fn lost(message: impl Into<String>) -> Self {
        Self { number: 0, class: Class::ConnectionLost, message: message.into() }
    }
}

/// The kind of a server error.
pub fn classify(number: u32) -> Class {
    match number {
        18450..=18452 | 18456..=18468 | 18470 | 18486..=18488 | 18061 | 33134 | 40607 => Class::AuthenticationFailed,
        // Cannot open the database that the login asks for; not there; not accessible to the user.
        4060 | 4064 | 911 | 916 => Class::DatabaseMissing,
        229 | 230 | 262 | 297 | 300 | 350 | 378 | 1088 | 2760 | 3704 | 3930 | 15151 | 15247 | 20001..=20003 => Class::PermissionDenied,
        208 | 3701 | 3702 | 4701 | 4902 | 15225 => Class::ObjectMissing,
        207 | 1911 => Class::ColumnMissing,
        2705 | 2714 | 2759 | 15335 => Class::ObjectExists,
        // By an index that is there; by one that is made.
        2601 | 2627 | 1505 => Class::Duplicate,
        1204 | 1205 | 1222 | 3960 | 3961 | 3966 | 8645 | 41302 | 41305 => Class::Conflict,
        3952 => Class::SnapshotNotAllowed,
        // Overflow, conversion, truncation, NULL where none may be.
        220 | 232 | 241 | 242 | 244 | 245 | 248 | 295 | 296 | 515 | 517 | 535 | 2628 | 6522 | 8114 | 8115 | 8152 | 8169 | 9803 | 9810
        | 13608 | 13609 => Class::ValueNotSupported,
        // Connections, workers, memory; limits of Azure SQL.
        701 | 10928 | 10929 | 10936 | 17300 | 17803 | 17809 | 40501 | 40550..=40553 | 40549 => Class::ResourcesExhausted,
        // Shutting down, starting, failing over, paused, not on this replica, being moved, killed.
        233
        | 596
        | 921
        | 922
        | 923
        | 927
        | 942
        | 945
        | 952
        | 976
        | 978
        | 979
        | 982
        | 983
        | 4221
        | 6005
        | 10053
        | 10054
        | 10060
        | 17142
        | 17197
        | 18401
        | 40143
        | 40166
        | 40197
        | 40540
        | 40613
        | 42108
        | 42109
        | 49918..=49920 => Class::ConnectionLost,
        _ => Class::Other,
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match &error {
            Error::SqlServerError { diagnostics } => {
                // The first is the cause; what follows says what it ended.
                let Some(first) = diagnostics.errors.first() else { return Self::lost("the server ended the request without saying why") };
                let known = diagnostics.errors.iter().find(|error| classify(error.number) != Class::Other).unwrap_or(first);
                let message = if known.number == first.number {
                    format!("{} (error {})", first.message, first.number)
                } else {
                    format!("{} (error {}); {} (error {})", first.message, first.number, known.message, known.number)
                };
                Self { number: known.number, class: classify(known.number), message }
            }
            Error::UsageError(_) | Error::ImplementationError(_) | Error::UnimplementedFeature { .. } => {
                Self { number: 0, class: Class::Other, message: error.to_string() }
            }
            Error::TypeConversionError(_) | Error::EncodedValueTooLong { .. } | Error::UnsupportedEncoding { .. } => {
                Self { number: 0, class: Class::ValueNotSupported, message: error.to_string() }
            }
            _ => Self::lost(error.to_string()),
        }
    }
}
