//! A place in a source's log of changes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A place in a source's log, written so that text order is log order. PostgreSQL: a log sequence number as two groups of
/// eight hexadecimal digits, `00000000/016B3748`. Only its own source makes or takes one apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(pub String);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
