//! A connection after its login: requests ([MS-TDS] 2.2.6.1, 2.2.6.6 to 2.2.6.9) and their responses.

use std::{io, sync::Arc};

use bytes::{Buf, BufMut};

use super::{
    Shared,
    answer::{Answer, Fault, Kind, Parameter, Request, Step},
    login::login,
    tokens::{self, DONE_ATTN, DONE_COUNT, DONE_ERROR, DONE_MORE, env, from_utf16, read_b_varchar, take},
    types::{Column, Layout, Type},
    value::{self, Value},
    wire::{self, Wire, kind},
};

/// CurCmd of DONE: SELECT, and what changes rows. Not documented; SQL Server's numbers.
const SELECT: u16 = 0xC1;
const INSERT: u16 = 0xC3;
/// Tokens of result sets (2.2.7.4, 2.2.7.20, 2.2.7.15).
const COLMETADATA: u8 = 0x81;
const ROW: u8 = 0xD1;
const NBCROW: u8 = 0xD2;
/// ISOLATION_LEVEL (2.2.6.9).
const ISOLATION: [Option<&str>; 6] =
    [None, Some("READ UNCOMMITTED"), Some("READ COMMITTED"), Some("REPEATABLE READ"), Some("SERIALIZABLE"), Some("SNAPSHOT")];
/// As many bytes of rows wait before packets are sent.
const BUFFERED: usize = 64 * 1024;

struct Session {
    wire: Wire,
    shared: Arc<Shared>,
    connection: usize,
    database: String,
    /// Descriptor of the open transaction.
    transaction: Option<u64>,
    transactions: u64,
    /// What followed `INSERT BULK`.
    bulk: String,
    /// Tokens of DONE within a response and at its end.
    done: (u8, u8),
    /// Status, command and row count of a DONE that is not written yet: the next result decides on DONE_MORE.
    pending: Option<(u16, u16, u64)>,
}

/// How a part of a response ended.
#[derive(PartialEq)]
enum Flow {
    On,
    /// The client gave it up.
    Attention,
    /// Nothing may follow.
    Ended,
}

/// Serves a connection to its end.
pub(super) async fn serve(mut wire: Wire, shared: Arc<Shared>, connection: usize) -> io::Result<()> {
    let Some(login) = login(&mut wire, &shared, connection).await? else { return Ok(()) };
    let database = if login.database.is_empty() { "master".into() } else { login.database };
    let (transaction, transactions, bulk, done, pending) = (None, 0, String::new(), (0xFD, 0xFD), None);
    let mut session = Session { wire, shared, connection, database, transaction, transactions, bulk, done, pending };
    loop {
        let message = session.wire.read().await?;
        session.handle(&message).await?;
    }
}

impl Session {
    async fn handle(&mut self, message: &wire::Message) -> io::Result<()> {
        if message.kind == kind::ATTENTION {
            return self.acknowledge().await;
        }
        self.done = if message.kind == kind::RPC { (0xFF, 0xFE) } else { (0xFD, 0xFD) };
        if message.ignored() {
            return self.end(DONE_ERROR).await;
        }
        if message.resets() {
            self.transaction = self.transaction.filter(|_| message.keeps_transaction());
            tokens::env_bytes(&mut self.wire.out, env::RESET, &[], &[]);
        }
        let mut input = message.payload.as_slice();
        let descriptor = if message.kind == kind::BULK_LOAD { self.transaction.unwrap_or(0) } else { all_headers(&mut input) };
        let request = self.request(message.kind, input);
        self.shared.requests.lock().unwrap().push(request.clone());
        let mut answer = (self.shared.script.answer)(&request);
        if !message.resets() && descriptor != self.transaction.unwrap_or(0) {
            answer = Answer::error(3971, format!("The server failed to resume the transaction. Desc:{descriptor:x}."));
        }
        let failed = answer.0.iter().any(|step| matches!(step, Step::Fault(Fault::Error(_))));
        if request.kind == Kind::BulkLoad && answer.0.is_empty() {
            answer = Answer::count(request.rows.len() as u64);
        }
        if !failed {
            self.take_effect(&request, true);
        }
        for step in answer.0 {
            match self.step(step).await? {
                Flow::On => {}
                Flow::Attention => return self.acknowledge().await,
                Flow::Ended => return self.wire.flush(true).await,
            }
        }
        if !failed {
            self.take_effect(&request, false);
        }
        self.end(0).await
    }

    fn request(&mut self, packet: u8, mut input: &[u8]) -> Request {
        let mut request = Request {
            connection: self.connection,
            database: self.database.clone(),
            kind: Kind::Batch,
            statement: String::new(),
            parameters: Vec::new(),
            isolation: None,
            columns: Vec::new(),
            rows: Vec::new(),
            transaction: self.transaction,
        };
        match packet {
            kind::BATCH => {
                request.statement = from_utf16(input);
                if let Some(bulk) = request.statement.strip_prefix("INSERT BULK") {
                    bulk.clone_into(&mut self.bulk);
                }
            }
            kind::RPC => {
                request.kind = Kind::Rpc;
                (request.statement, request.parameters) = procedure(input);
            }
            kind::TRANSACTION => {
                request.kind = Kind::Transaction;
                let (verb, begins) = match input.get_u16_le() {
                    5 => ("BEGIN", true),
                    7 => ("COMMIT", false),
                    8 => ("ROLLBACK", false),
                    9 => ("SAVE", false),
                    other => panic!("transaction manager request {other} is not covered"),
                };
                request.statement = format!("{verb} TRANSACTION");
                if begins {
                    request.isolation = ISOLATION[usize::from(input.get_u8())];
                }
            }
            kind::BULK_LOAD => {
                request.kind = Kind::BulkLoad;
                request.statement = format!("BULK LOAD{}", self.bulk);
                (request.columns, request.rows) = bulk_rows(input);
            }
            other => panic!("packets of type 0x{other:02X} are not covered"),
        }
        request
    }

    async fn step(&mut self, step: Step) -> io::Result<Flow> {
        match step {
            Step::Rows { columns, rows, fault } => return self.rows(&columns, &rows, fault).await,
            Step::Count(count) => self.result(DONE_COUNT, INSERT, count),
            Step::Info(message) => {
                self.settle();
                tokens::message(&mut self.wire.out, &message);
            }
            Step::Fault(fault) => {
                self.settle();
                return self.fail(fault).await;
            }
            Step::Rollback => self.end_transaction(env::ROLLBACK),
        }
        Ok(Flow::On)
    }

    /// COLMETADATA (2.2.7.4) and rows (2.2.7.20).
    async fn rows(&mut self, columns: &[Column], rows: &[Vec<Value>], mut fault: Option<(usize, Fault)>) -> io::Result<Flow> {
        self.settle();
        let out = &mut self.wire.out;
        out.push(COLMETADATA);
        out.put_u16_le(columns.len() as u16);
        let layouts: Vec<Layout> = columns.iter().map(|column| column.write(out)).collect();
        for (number, row) in rows.iter().enumerate() {
            assert_eq!(row.len(), columns.len(), "values of row {number}");
            let start = self.wire.out.len();
            self.wire.out.push(ROW);
            for ((column, layout), value) in columns.iter().zip(&layouts).zip(row) {
                value::write(&column.ty, *layout, value, &mut self.wire.out);
            }
            if let Some((_, fault)) = fault.take_if(|(after, _)| *after == number) {
                let ends = matches!(fault, Fault::Error(_));
                let middle = if ends { start } else { start.midpoint(self.wire.out.len()) };
                let rest = self.wire.out.split_off(middle);
                let flow = self.fail(fault).await?;
                if ends || flow == Flow::Ended {
                    return Ok(flow);
                }
                self.wire.out.extend(rest); // also for an attention: its acknowledgement comes between tokens
                if flow == Flow::Attention {
                    return Ok(flow);
                }
            }
            if self.wire.out.len() > BUFFERED {
                self.wire.flush(false).await?;
                if self.wire.interrupted()? {
                    return Ok(Flow::Attention);
                }
            }
        }
        if let Some((_, fault)) = fault {
            let ends = matches!(fault, Fault::Error(_));
            let flow = self.fail(fault).await?;
            if ends || flow != Flow::On {
                return Ok(flow);
            }
        }
        self.result(DONE_COUNT, SELECT, rows.len() as u64);
        Ok(Flow::On)
    }

    async fn fail(&mut self, fault: Fault) -> io::Result<Flow> {
        match fault {
            Fault::Error(message) => {
                tokens::message(&mut self.wire.out, &message);
                self.result(DONE_ERROR, 0, 0);
                Ok(Flow::On)
            }
            Fault::Garbage(bytes) => {
                self.wire.out.extend(bytes);
                Ok(Flow::Ended)
            }
            Fault::Drop => {
                self.wire.flush(false).await?;
                Err(io::ErrorKind::ConnectionAborted.into())
            }
            Fault::Stall(duration) => self.pause(tokio::time::sleep(duration)).await,
            Fault::Hold(gate) => self.pause(gate.pass()).await,
        }
    }

    async fn pause(&mut self, pause: impl Future<Output = ()>) -> io::Result<Flow> {
        self.wire.flush(false).await?;
        tokio::select! {
            () = pause => Ok(Flow::On),
            attention = self.wire.attention() => attention.map(|()| Flow::Attention),
        }
    }

    /// What a request that succeeds does to the session before its results, or after them: ENVCHANGE 1 and 8 to 10 (2.2.7.9).
    fn take_effect(&mut self, request: &Request, before: bool) {
        for statement in request.statement.split(';') {
            let words: Vec<String> = statement.split_whitespace().take(2).map(str::to_ascii_uppercase).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            match words[..] {
                ["BEGIN", "TRAN" | "TRANSACTION"] if before && self.transaction.is_none() => {
                    self.transactions += 1;
                    let descriptor = (self.connection as u64) << 32 | self.transactions;
                    self.transaction = Some(descriptor);
                    tokens::env_bytes(&mut self.wire.out, env::BEGIN, &descriptor.to_le_bytes(), &[]);
                }
                ["COMMIT"] | ["COMMIT", "TRAN" | "TRANSACTION"] if !before => self.end_transaction(env::COMMIT),
                ["ROLLBACK"] | ["ROLLBACK", "TRAN" | "TRANSACTION"] if !before => self.end_transaction(env::ROLLBACK),
                ["USE", _] if !before => {
                    let name = statement.trim_start()[3..].trim_matches([' ', '[', ']']).to_owned();
                    self.settle();
                    tokens::env_text(&mut self.wire.out, env::DATABASE, &name, &self.database);
                    self.database = name;
                }
                _ => {}
            }
        }
    }

    fn end_transaction(&mut self, how: u8) {
        self.settle();
        if let Some(descriptor) = self.transaction.take() {
            tokens::env_bytes(&mut self.wire.out, how, &[], &descriptor.to_le_bytes());
        }
    }

    /// A result is complete.
    fn result(&mut self, status: u16, command: u16, count: u64) {
        self.settle();
        self.pending = Some((status, command, count));
    }

    /// Something follows, so the last result is not the last of the response.
    fn settle(&mut self) {
        if let Some((status, command, count)) = self.pending.take() {
            tokens::done(&mut self.wire.out, self.done.0, status | DONE_MORE, command, count);
        }
    }

    /// Ends the response.
    async fn end(&mut self, status: u16) -> io::Result<()> {
        let (mut status, mut command, mut count) = (status, 0, 0);
        if self.done.1 == 0xFE {
            self.settle();
            self.wire.out.extend([0x79, 0, 0, 0, 0]); // RETURNSTATUS (2.2.7.18)
        } else if let Some(pending) = self.pending.take() {
            (status, command, count) = pending;
        }
        tokens::done(&mut self.wire.out, self.done.1, status, command, count);
        self.wire.flush(true).await
    }

    /// Ends the response because of an attention (2.2.1.7).
    async fn acknowledge(&mut self) -> io::Result<()> {
        let attention = Request { kind: Kind::Attention, statement: "ATTENTION".into(), ..self.request(kind::BATCH, &[]) };
        self.shared.requests.lock().unwrap().push(attention);
        self.pending = None;
        tokens::done(&mut self.wire.out, 0xFD, DONE_ATTN, 0, 0);
        self.wire.flush(true).await
    }
}

/// ALL_HEADERS (2.2.5.3): the transaction descriptor in it, 0 for none.
fn all_headers(input: &mut &[u8]) -> u64 {
    let len = input.get_u32_le() as usize - 4;
    let mut headers = take(input, len);
    let mut descriptor = 0;
    while !headers.is_empty() {
        let len = headers.get_u32_le() as usize - 4;
        let mut header = take(&mut headers, len);
        if header.get_u16_le() == 2 {
            descriptor = header.get_u64_le();
        }
    }
    descriptor
}

/// RPC (2.2.6.6): the statement and its parameters.
fn procedure(mut input: &[u8]) -> (String, Vec<Parameter>) {
    let name = match input.get_u16_le() {
        u16::MAX => match input.get_u16_le() {
            10 => "sp_executesql".to_owned(),
            number => format!("procedure {number}"),
        },
        len => from_utf16(take(&mut input, 2 * usize::from(len))),
    };
    input.advance(2); // OptionFlags
    let mut parameters = Vec::new();
    while !input.is_empty() {
        assert!(!matches!(input[0], 0x80 | 0xFE | 0xFF), "several procedures a request are not covered");
        let name = read_b_varchar(&mut input);
        input.advance(1); // StatusFlags
        let (ty, layout) = Type::read_info(&mut input);
        let value = value::read(&ty, layout, &mut input);
        parameters.push(Parameter { name, ty, value });
    }
    if name != "sp_executesql" {
        return (format!("EXEC {name}"), parameters);
    }
    let values = parameters.split_off(parameters.len().min(2)); // after the statement and the parameters' declaration
    let Some(Parameter { value: Value::Text(statement), .. }) = parameters.into_iter().next() else {
        panic!("sp_executesql without a statement")
    };
    (statement, values)
}

/// BULK_LOAD (2.2.6.1): COLMETADATA, rows, DONE.
fn bulk_rows(mut input: &[u8]) -> (Vec<Column>, Vec<Vec<Value>>) {
    assert_eq!(input.get_u8(), COLMETADATA);
    let columns: Vec<(Column, Layout)> = (0..input.get_u16_le()).map(|_| Column::read(&mut input)).collect();
    let mut rows = Vec::new();
    while let token @ (ROW | NBCROW) = input.get_u8() {
        let nulls = if token == NBCROW { take(&mut input, columns.len().div_ceil(8)) } else { &[] };
        let mut row = Vec::new();
        for (index, (column, layout)) in columns.iter().enumerate() {
            let null = nulls.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1);
            row.push(if null { Value::Null } else { value::read(&column.ty, *layout, &mut input) });
        }
        rows.push(row);
    }
    (columns.into_iter().map(|(column, _)| column).collect(), rows)
}
