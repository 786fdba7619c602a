//! How a table would stand in a target, and what becomes of its values there.

/// How a table would stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    /// Its columns, in the order of the source's.
    pub columns: Vec<OutlinedColumn>,
    /// The statements that would make it under its name.
    pub statements: Vec<String>,
}

/// How a column would stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlinedColumn {
    /// Its type.
    pub kind: String,
    /// What becomes of its values.
    pub fit: Fit,
}

/// What becomes of a column's values in a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fit {
    /// They are as they were.
    Whole,
    /// All of each is there, in another form.
    Form(&'static str),
    /// Some would be refused, and make the table Failed: which.
    Refuses(String),
    /// Something of them is lost: what.
    Lossy(&'static str),
}
