//! A session that speaks the protocol itself, for what the driver does not have: replication, and COPY read as it comes
//! (PostgreSQL manual, "Message Flow" and "Message Formats").

use std::{ops::Range, time::Duration};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use postgres_protocol::{
    authentication::{
        md5_hash,
        sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256},
    },
    message::{
        backend::{ErrorResponseBody, Message},
        frontend,
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf},
    time::timeout,
};
use tokio_postgres::{error::SqlState, fallible_iterator::FallibleIterator as _};

use super::APPLICATION;
use crate::{
    api::database::PostgresqlDatabase,
    postgresql::{
        connect::{Login, SESSION_SETTINGS, refused},
        dial::{Transport, dial},
        errors::{self, Class},
    },
    secrets::Secrets,
    source::Error,
};

/// Longest wait for the answer to a login or a simple command.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Room that is made for one read: so much at most is taken from the socket at once.
const READ_BYTES: usize = 256 << 10;
/// A message's tag and length.
const HEAD: usize = 5;

/// What ended a command or a session.
#[derive(Debug)]
pub enum Failure {
    /// The server refused.
    Refused {
        /// The sort of its reason.
        class: Class,
        /// Its own words, with place and SQLSTATE.
        message: String,
    },
    /// Nothing more can be had of the session.
    Broken(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Broken(error)
    }
}

impl From<&tokio_postgres::Error> for Failure {
    fn from(error: &tokio_postgres::Error) -> Self {
        Self::Refused { class: errors::class(error), message: errors::message(error) }
    }
}

impl Failure {
    /// The error of a failure that is about nothing in particular.
    pub fn general(self) -> Error {
        match self {
            Self::Broken(error) => error,
            Self::Refused { class: Class::ConnectionLost, message } => Error::SourceUnreachable(message),
            Self::Refused { message, .. } => Error::SourceError(message),
        }
    }
}

/// Rows of a command, as text.
pub type TextRows = Vec<Vec<Option<String>>>;

/// A session. Dropping it closes the socket at once, also in the middle of a COPY.
pub struct Wire {
    /// What comes.
    pub incoming: Incoming,
    /// What goes.
    pub outgoing: Outgoing,
}

/// The server's messages.
pub struct Incoming {
    stream: ReadHalf<Box<dyn Transport>>,
    received: BytesMut,
    place: String,
}

/// Messages to the server.
pub struct Outgoing {
    stream: WriteHalf<Box<dyn Transport>>,
    place: String,
}

impl Wire {
    /// Logs in, with the same TLS, credentials and settings as ordinary sessions. `replication`: as one that may stream.
    pub async fn connect(database: &PostgresqlDatabase, secrets: &Secrets, replication: bool) -> Result<Self, Error> {
        let login = Login::read(database, secrets).await?;
        let stream = dial(database, secrets, &login).await?;
        let place = format!("{} as user {}", login.place, login.user);
        let (reader, writer) = tokio::io::split(stream);
        let mut wire = Self {
            incoming: Incoming { stream: reader, received: BytesMut::new(), place: place.clone() },
            outgoing: Outgoing { stream: writer, place },
        };
        wire.in_time(async |wire| {
            wire.log_in(&login, &database.database, replication).await?;
            wire.query(SESSION_SETTINGS).await.map_err(Failure::general)
        })
        .await?;
        Ok(wire)
    }

    async fn log_in(&mut self, login: &Login, database: &str, replication: bool) -> Result<(), Error> {
        let mut out = BytesMut::new();
        let mut parameters =
            vec![("user", login.user.as_str()), ("database", database), ("application_name", APPLICATION), ("client_encoding", "UTF8")];
        if replication {
            parameters.push(("replication", "database"));
        }
        frontend::startup_message(parameters, &mut out).map_err(|error| self.incoming.broken(&error))?;
        let mut scram = None;
        loop {
            self.outgoing.send(&mut out).await?;
            let broken = |error: std::io::Error| broken(&self.outgoing.place, &error);
            match self.incoming.message().await? {
                Message::AuthenticationCleartextPassword => {
                    frontend::password_message(login.password.expose().as_bytes(), &mut out).map_err(broken)?;
                }
                Message::AuthenticationMd5Password(body) => {
                    let hash = md5_hash(login.user.as_bytes(), login.password.expose().as_bytes(), body.salt());
                    frontend::password_message(hash.as_bytes(), &mut out).map_err(broken)?;
                }
                Message::AuthenticationSasl(body) => {
                    if !body.mechanisms().any(|mechanism| Ok(mechanism == SCRAM_SHA_256)).map_err(broken)? {
                        let place = &self.outgoing.place;
                        return Err(Error::SourceAuthenticationFailed(format!("{place}: the server asks for an unknown way to log in")));
                    }
                    let started = ScramSha256::new(login.password.expose().as_bytes(), ChannelBinding::unsupported());
                    frontend::sasl_initial_response(SCRAM_SHA_256, started.message(), &mut out).map_err(broken)?;
                    scram = Some(started);
                }
                Message::AuthenticationSaslContinue(body) => {
                    let scram = scram.as_mut().ok_or_else(|| self.incoming.unexpected())?;
                    scram.update(body.data()).map_err(broken)?;
                    frontend::sasl_response(scram.message(), &mut out).map_err(broken)?;
                }
                Message::AuthenticationSaslFinal(body) => {
                    scram.as_mut().ok_or_else(|| self.incoming.unexpected())?.finish(body.data()).map_err(broken)?;
                }
                Message::ReadyForQuery(_) => return Ok(()),
                Message::ErrorResponse(body) => {
                    let (class, message) = self.incoming.refusal(&body);
                    return Err(refused(class, message).into());
                }
                Message::AuthenticationOk | Message::ParameterStatus(_) | Message::BackendKeyData(_) | Message::NoticeResponse(_) => {}
                _ => return Err(self.incoming.unexpected()),
            }
        }
    }

    /// Runs a command, or several, however long it takes; gives the rows of all.
    pub async fn query(&mut self, commands: &str) -> Result<TextRows, Failure> {
        self.send(commands).await?;
        let mut rows = Vec::new();
        let mut refused = None;
        loop {
            match self.incoming.message().await? {
                Message::DataRow(body) => {
                    let text = |range: Range<usize>| String::from_utf8_lossy(&body.buffer()[range]).into_owned();
                    let row = body.ranges().map(|range| Ok(range.map(text))).collect();
                    rows.push(row.map_err(|error| self.incoming.broken(&error))?);
                }
                Message::ErrorResponse(body) => {
                    let (class, message) = self.incoming.refusal(&body);
                    refused = Some(Failure::Refused { class, message });
                }
                Message::ReadyForQuery(_) => return refused.map_or(Ok(rows), Err),
                _ => {}
            }
        }
    }

    /// Runs a command that begins a COPY; waits until it has begun.
    pub async fn begin_copy(&mut self, command: &str) -> Result<(), Failure> {
        self.send(command).await?;
        loop {
            let (tag, body) = self.incoming.next().await?;
            match tag {
                // CopyOutResponse, CopyBothResponse
                b'H' | b'W' => return Ok(()),
                b'E' => return Err(self.incoming.refused(&body)),
                // NoticeResponse, ParameterStatus
                b'N' | b'S' => {}
                _ => return Err(self.incoming.unexpected().into()),
            }
        }
    }

    /// The rows of a COPY were read; ends the command.
    pub async fn end_copy(&mut self) -> Result<(), Failure> {
        loop {
            match self.incoming.next().await? {
                (b'E', body) => return Err(self.incoming.refused(&body)),
                // ReadyForQuery
                (b'Z', _) => return Ok(()),
                _ => {}
            }
        }
    }

    async fn send(&mut self, commands: &str) -> Result<(), Error> {
        let mut out = BytesMut::new();
        frontend::query(commands, &mut out).map_err(|error| self.incoming.broken(&error))?;
        self.outgoing.send(&mut out).await
    }

    /// Does what must not take long.
    pub async fn in_time<T, E: From<Error>>(&mut self, work: impl AsyncFnOnce(&mut Self) -> Result<T, E>) -> Result<T, E> {
        let place = self.incoming.place.clone();
        match timeout(ANSWER_TIMEOUT, work(self)).await {
            Ok(done) => done,
            Err(_) => Err(Error::SourceUnreachable(format!("{place}: no answer within {} s", ANSWER_TIMEOUT.as_secs())).into()),
        }
    }
}

impl Outgoing {
    /// Sends messages; `out` is empty then.
    pub async fn send(&mut self, out: &mut BytesMut) -> Result<(), Error> {
        let sent = async {
            self.stream.write_all(out).await?;
            self.stream.flush().await
        }
        .await;
        out.clear();
        sent.map_err(|error| broken(&self.place, &error))
    }
}

impl Incoming {
    /// Tag and body's length of the next message, which is not taken yet; none if they have not arrived.
    pub fn head(&self) -> Result<Option<(u8, usize)>, Error> {
        let Some(&[tag, a, b, c, d]) = self.received.first_chunk::<HEAD>() else { return Ok(None) };
        match u32::from_be_bytes([a, b, c, d]).checked_sub(4) {
            Some(length) => Ok(Some((tag, length as usize))),
            None => Err(self.unexpected()),
        }
    }

    /// The body of the next message, which is of so many bytes; none if it has not arrived as a whole.
    pub fn body(&self, length: usize) -> Option<&[u8]> {
        self.received.get(HEAD..HEAD + length)
    }

    /// The message that is of so many bytes was read.
    pub fn pass(&mut self, length: usize) {
        self.received.advance(HEAD + length);
    }

    /// The body of the next message, if it has arrived as a whole.
    pub fn take_body(&mut self, length: usize) -> Option<Bytes> {
        if self.received.len() < HEAD + length {
            return None;
        }
        self.received.advance(HEAD);
        Some(self.received.split_to(length).freeze())
    }

    /// The next message is taken in pieces: its head is passed.
    pub fn begin_pieces(&mut self) {
        self.received.advance(HEAD);
    }

    /// So many bytes of a message whose head was passed.
    pub async fn piece(&mut self, length: usize) -> Result<Bytes, Error> {
        while self.received.len() < length {
            self.received.reserve(length - self.received.len());
            self.read().await?;
        }
        Ok(self.received.split_to(length).freeze())
    }

    /// Takes what has arrived from the socket; waits for it.
    pub async fn read(&mut self) -> Result<(), Error> {
        self.received.reserve(READ_BYTES);
        match self.stream.read_buf(&mut self.received).await {
            Ok(0) => Err(Error::SourceUnreachable(format!("{}: the server ended the session", self.place))),
            Ok(_) => Ok(()),
            Err(error) => Err(self.broken(&error)),
        }
    }

    /// The next message, its tag and body.
    async fn next(&mut self) -> Result<(u8, Bytes), Error> {
        loop {
            if let Some((tag, length)) = self.head()?
                && let Some(body) = self.take_body(length)
            {
                return Ok((tag, body));
            }
            self.read().await?;
        }
    }

    async fn message(&mut self) -> Result<Message, Error> {
        loop {
            if let Some(message) = Message::parse(&mut self.received).map_err(|error| self.broken(&error))? {
                return Ok(message);
            }
            self.read().await?;
        }
    }

    fn broken(&self, error: &std::io::Error) -> Error {
        broken(&self.place, error)
    }

    /// The error of a message that cannot come here.
    pub fn unexpected(&self) -> Error {
        Error::SourceError(format!("{}: the server sent a message that the protocol does not have here", self.place))
    }

    /// The failure that the body of an ErrorResponse tells.
    pub fn refused(&self, body: &[u8]) -> Failure {
        let mut whole = BytesMut::with_capacity(body.len() + HEAD);
        whole.put_u8(b'E');
        whole.put_u32(body.len() as u32 + 4);
        whole.extend_from_slice(body);
        match Message::parse(&mut whole) {
            Ok(Some(Message::ErrorResponse(body))) => {
                let (class, message) = self.refusal(&body);
                Failure::Refused { class, message }
            }
            _ => self.unexpected().into(),
        }
    }

    /// The class of a server's error, and its message in one line.
    fn refusal(&self, body: &ErrorResponseBody) -> (Class, String) {
        let (mut code, mut message, mut detail) = (String::new(), String::new(), String::new());
        let mut fields = body.fields();
        while let Ok(Some(field)) = fields.next() {
            let text = || String::from_utf8_lossy(field.value_bytes()).replace('\n', " ");
            match field.type_() {
                b'C' => code = text(),
                b'M' => message = text(),
                b'D' => detail = format!("; {}", text()),
                _ => {}
            }
        }
        let class = errors::classify(&SqlState::from_code(&code));
        (class, format!("{}: {message} (SQLSTATE {code}){detail}", self.place))
    }
}

fn broken(place: &str, error: &std::io::Error) -> Error {
    Error::SourceUnreachable(format!("{place}: {error}"))
}
