//! What an error of the server means, told from its SQLSTATE (PostgreSQL manual, appendix A).

use std::error::Error as _;

use tokio_postgres::error::SqlState;

use crate::connect::chain;

/// Kinds of errors that call for different answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The connection is gone, or the server is starting or stopping: try again.
    ConnectionLost,
    /// User or password are wrong, or `pg_hba.conf` refuses them.
    AuthenticationFailed,
    /// The database does not exist.
    DatabaseMissing,
    /// No connection is left, or another resource of the server is used up.
    ResourcesExhausted,
    /// The user lacks a right.
    PermissionDenied,
    /// A table, slot or other object does not exist.
    ObjectMissing,
    /// A table does not have the column.
    ColumnMissing,
    /// An object of that name is there already.
    ObjectExists,
    /// Somebody else uses the object (an active slot).
    ObjectInUse,
    /// The object is not in a state that allows this (an invalidated slot).
    NotReady,
    /// A file of the server is gone (log that was removed).
    FileMissing,
    /// Deadlock, serialisation failure or lock timeout: the same statement may succeed later.
    Conflict,
    /// The server says that it is at fault itself.
    Internal,
    /// Anything else.
    Other,
}

/// The kind of a server error.
pub fn classify(state: &SqlState) -> Class {
    match state.code() {
        "42501" => Class::PermissionDenied,
        "28000" | "28P01" => Class::AuthenticationFailed,
        "3D000" => Class::DatabaseMissing,
        // undefined_table, _object, _function, invalid_schema_name
        "42P01" | "42704" | "42883" | "3F000" => Class::ObjectMissing,
        "42703" => Class::ColumnMissing,
        // duplicate_table, _object, _database, _schema
        "42P07" | "42710" | "42P04" | "42P06" => Class::ObjectExists,
        "55000" => Class::NotReady,
        "58P01" => Class::FileMissing,
        "55006" => Class::ObjectInUse,
        "40001" | "40P01" | "55P03" => Class::Conflict,
        // admin_shutdown, crash_shutdown, cannot_connect_now, idle session timeouts
        "57P01" | "57P02" | "57P03" | "57P05" | "25P03" => Class::ConnectionLost,
        "XX000" => Class::Internal,
        code if code.starts_with("08") => Class::ConnectionLost,
        code if code.starts_with("53") => Class::ResourcesExhausted,
        _ => Class::Other,
    }
}

/// The kind of a driver's error.
pub fn class(error: &tokio_postgres::Error) -> Class {
    match error.code() {
        Some(state) => classify(state),
        None if error.is_closed() => Class::ConnectionLost,
        None if error.source().is_some_and(<dyn std::error::Error>::is::<std::io::Error>) => Class::ConnectionLost,
        None => Class::Other,
    }
}

/// The error in one line: what the server said, or what the driver met.
pub fn message(error: &tokio_postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        let mut text = format!("{} (SQLSTATE {})", db.message(), db.code().code());
        // Of values that are refused it repeats the row.
        let of_values = matches!(db.code().code().get(..2), Some("22" | "23"));
        if let Some(detail) = db.detail().filter(|_| !of_values) {
            text.push_str("; ");
            text.push_str(detail);
        }
        return text.replace('\n', " ");
    }
    chain(error)
}
