//! What clients ask, and what the script has the server answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use super::{
    types::{Column, Type},
    value::Value,
};

/// What a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A SQL batch.
    Batch,
    /// A procedure call.
    Rpc,
    /// A transaction manager request; the statement says which.
    Transaction,
    /// The rows of a bulk load, after the batch `INSERT BULK …`.
    BulkLoad,
    /// A cancellation; only recorded, never asked of the script.
    Attention,
}

/// A request of a client.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Number of the connection, from 1 in the order of their coming.
    pub connection: usize,
    pub database: String,
    pub kind: Kind,
    /// The batch, the statement of `sp_executesql`, `EXEC` with another procedure's name, `BEGIN TRANSACTION`, `COMMIT
    /// TRANSACTION`, `ROLLBACK TRANSACTION`, `SAVE TRANSACTION`, `BULK LOAD` with what followed `INSERT BULK`, `ATTENTION`.
    pub statement: String,
    /// Parameters of a procedure; with `sp_executesql` only those of its statement.
    pub parameters: Vec<Parameter>,
    /// The isolation level that a transaction begins with, unless it is the session's.
    pub isolation: Option<&'static str>,
    /// Columns and rows of a bulk load.
    pub columns: Vec<Column>,
    pub rows: Vec<Vec<Value>>,
    /// Descriptor of the transaction that was open when the request came.
    pub transaction: Option<u64>,
}

/// A parameter of a procedure.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    pub name: String,
    pub ty: Type,
    pub value: Value,
}

/// An error, or with a severity up to 10 an information.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub number: u32,
    pub state: u8,
    pub severity: u8,
    pub text: String,
}

impl Message {
    pub fn new(number: u32, state: u8, severity: u8, text: impl Into<String>) -> Self {
        Self { number, state, severity, text: text.into() }
    }

    /// An error of the user's making: severity 16.
    pub fn error(number: u32, text: impl Into<String>) -> Self {
        Self::new(number, 1, 16, text)
    }

    /// An information.
    pub fn info(number: u32, text: impl Into<String>) -> Self {
        Self::new(number, 1, 0, text)
    }
}

/// What goes wrong, between results or within one.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The connection drops.
    Drop,
    /// Nothing happens for a while.
    Stall(Duration),
    /// Nothing happens until the test opens the gate.
    Hold(Gate),
    /// These bytes come instead of tokens, and the response ends.
    Garbage(Vec<u8>),
    /// The statement fails; a result set that it interrupts ends.
    Error(Message),
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    Rows { columns: Arc<[Column]>, rows: Arc<[Vec<Value>]>, fault: Option<(usize, Fault)> },
    Count(u64),
    Info(Message),
    Fault(Fault),
    Rollback,
}

/// An answer: results one after the other. None at all is success.
#[derive(Debug, Clone, Default)]
pub struct Answer(pub(super) Vec<Step>);

impl Answer {
    /// Success without a result.
    pub fn done() -> Self {
        Self::default()
    }

    /// A result set.
    pub fn rows<C: Into<Column>>(columns: impl IntoIterator<Item = C>, rows: impl IntoIterator<Item = Vec<Value>>) -> Self {
        let columns = columns.into_iter().map(Into::into).collect();
        Self(vec![Step::Rows { columns, rows: rows.into_iter().collect(), fault: None }])
    }

    /// So many rows were affected.
    pub fn count(rows: u64) -> Self {
        Self(vec![Step::Count(rows)])
    }

    /// An error of severity 16.
    pub fn error(number: u32, text: impl Into<String>) -> Self {
        Self::fault(Fault::Error(Message::error(number, text)))
    }

    /// A message that is no error.
    pub fn info(message: Message) -> Self {
        Self(vec![Step::Info(message)])
    }

    pub fn fault(fault: Fault) -> Self {
        Self(vec![Step::Fault(fault)])
    }

    /// The server rolls the open transaction back, as it does for a deadlock's victim.
    pub fn rollback() -> Self {
        Self(vec![Step::Rollback])
    }

    /// This answer and then that one.
    #[must_use]
    pub fn then(mut self, next: Self) -> Self {
        self.0.extend(next.0);
        self
    }

    /// The last result set meets a fault in the row after so many; an error comes before that row.
    #[must_use]
    pub fn after_rows(mut self, count: usize, it: Fault) -> Self {
        let Some(Step::Rows { fault, .. }) = self.0.last_mut() else { panic!("no result set to fail in") };
        *fault = Some((count, it));
        self
    }
}

/// Holds answers until it is opened.
#[derive(Debug, Clone)]
pub struct Gate(Arc<watch::Sender<(bool, bool)>>);

impl Default for Gate {
    fn default() -> Self {
        Self(Arc::new(watch::channel((false, false)).0))
    }
}

impl Gate {
    /// Lets every answer go on, now and later.
    pub fn open(&self) {
        self.0.send_modify(|(_, open)| *open = true);
    }

    /// Returns once an answer has come to the gate.
    pub async fn reached(&self) {
        self.0.subscribe().wait_for(|(reached, _)| *reached).await.unwrap();
    }

    pub(super) async fn pass(&self) {
        self.0.send_modify(|(reached, _)| *reached = true);
        self.0.subscribe().wait_for(|(_, open)| *open).await.unwrap();
    }
}

/// Answers by substrings of the statement, case as it is: the first that matches answers.
///
/// What nothing matches fails with error 50000, except transactions, bulk loads and settings (`SET …`): they succeed.
#[derive(Default)]
pub struct Rules(Vec<Rule>);

struct Rule {
    pattern: String,
    answer: Answer,
    /// For a rule that answers only once.
    used: Option<AtomicBool>,
}

impl Rules {
    pub fn new() -> Self {
        Self::default()
    }

    /// Whatever contains this gets this answer.
    #[must_use]
    pub fn on(self, pattern: &str, answer: Answer) -> Self {
        self.rule(pattern, answer, None)
    }

    /// The first request that contains this gets this answer; later ones go to the rules after it.
    #[must_use]
    pub fn once(self, pattern: &str, answer: Answer) -> Self {
        self.rule(pattern, answer, Some(AtomicBool::new(false)))
    }

    fn rule(mut self, pattern: &str, answer: Answer, used: Option<AtomicBool>) -> Self {
        self.0.push(Rule { pattern: pattern.into(), answer, used });
        self
    }

    /// The answer to a request.
    pub fn answer(&self, request: &Request) -> Answer {
        let fits = |rule: &&Rule| {
            request.statement.contains(&rule.pattern) && rule.used.as_ref().is_none_or(|used| !used.swap(true, Ordering::Relaxed))
        };
        let trivial = matches!(request.kind, Kind::Transaction | Kind::BulkLoad)
            || ["INSERT BULK", "SET "].iter().any(|verb| request.statement.starts_with(verb));
        match self.0.iter().find(fits) {
            Some(rule) => rule.answer.clone(),
            None if trivial => Answer::done(),
            None => Answer::error(50_000, format!("no answer is scripted for: {}", request.statement)),
        }
    }
}
