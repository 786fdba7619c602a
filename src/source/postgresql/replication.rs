//! A replication session: the protocol's messages, which the driver does not speak (PostgreSQL manual, "Streaming
//! Replication Protocol" and "Message Formats").

use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use jiff::Timestamp;
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
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};
use tokio_postgres::error::SqlState;
use tokio_postgres::fallible_iterator::FallibleIterator as _;

use super::{APPLICATION, lsn::Lsn};
use crate::{
    api::database::PostgresqlDatabase,
    postgresql::{
        ConnectError,
        connect::{Login, SESSION_SETTINGS},
        dial::{Transport, dial},
        errors::{self, Class},
        quote,
    },
    secrets::Secrets,
    source::Error,
};

/// Longest wait for the answer to a login or a simple command.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Room that is made for one read.
const READ_BYTES: usize = 256 << 10;
/// PostgreSQL's epoch, 2000-01-01, in seconds since 1970.
const EPOCH_SECONDS: i64 = 946_684_800;

/// A message of the stream.
#[derive(Debug)]
pub enum Frame {
    /// A message of the output plugin.
    Data(Bytes),
    /// Nothing more to come up to `end`.
    Keepalive {
        /// How far the server has read its log for us.
        end: Lsn,
        /// The server's clock.
        time: Timestamp,
        /// The server wants to hear from us at once.
        reply: bool,
    },
}

/// A session in replication mode.
pub struct Replication {
    stream: Box<dyn Transport>,
    received: BytesMut,
    place: String,
}

impl Replication {
    /// Logs in, with the same TLS, credentials and settings as ordinary sessions.
    pub async fn connect(database: &PostgresqlDatabase, secrets: &Secrets) -> Result<Self, Error> {
        let login = Login::read(database, secrets).await?;
        let stream = dial(database, secrets, &login).await?;
        let place = format!("{} as user {}", login.place, login.user);
        let mut session = Self { stream, received: BytesMut::new(), place };
        session.in_time(async |session| session.log_in(&login, &database.database).await).await?;
        session.query(SESSION_SETTINGS).await?;
        Ok(session)
    }

    async fn log_in(&mut self, login: &Login, database: &str) -> Result<(), Error> {
        let mut out = BytesMut::new();
        let parameters = [
            ("user", login.user.as_str()),
            ("database", database),
            ("replication", "database"),
            ("application_name", APPLICATION),
            ("client_encoding", "UTF8"),
        ];
        frontend::startup_message(parameters, &mut out).map_err(|error| self.broken(&error))?;
        let mut scram = None;
        loop {
            self.send(&mut out).await?;
            match self.message().await? {
                Message::AuthenticationCleartextPassword => {
                    frontend::password_message(login.password.expose().as_bytes(), &mut out).map_err(|error| self.broken(&error))?;
                }
                Message::AuthenticationMd5Password(body) => {
                    let hash = md5_hash(login.user.as_bytes(), login.password.expose().as_bytes(), body.salt());
                    frontend::password_message(hash.as_bytes(), &mut out).map_err(|error| self.broken(&error))?;
                }
                Message::AuthenticationSasl(body) => {
                    if !body.mechanisms().any(|mechanism| Ok(mechanism == SCRAM_SHA_256)).map_err(|error| self.broken(&error))? {
                        return Err(Error::SourceAuthenticationFailed(format!(
                            "{}: the server asks for an unknown way to log in",
                            self.place
                        )));
                    }
                    let started = ScramSha256::new(login.password.expose().as_bytes(), ChannelBinding::unsupported());
                    frontend::sasl_initial_response(SCRAM_SHA_256, started.message(), &mut out).map_err(|error| self.broken(&error))?;
                    scram = Some(started);
                }
                Message::AuthenticationSaslContinue(body) => {
                    let scram = scram.as_mut().ok_or_else(|| self.unexpected())?;
                    scram.update(body.data()).map_err(|error| self.broken(&error))?;
                    frontend::sasl_response(scram.message(), &mut out).map_err(|error| self.broken(&error))?;
                }
                Message::AuthenticationSaslFinal(body) => {
                    scram.as_mut().ok_or_else(|| self.unexpected())?.finish(body.data()).map_err(|error| self.broken(&error))?;
                }
                Message::ReadyForQuery(_) => return Ok(()),
                Message::ErrorResponse(body) => {
                    let (class, message) = self.refusal(&body);
                    return Err(ConnectError::refused(class, message).into());
                }
                Message::AuthenticationOk | Message::ParameterStatus(_) | Message::BackendKeyData(_) | Message::NoticeResponse(_) => {}
                _ => return Err(self.unexpected()),
            }
        }
    }

    /// What the server knows of how a timeline came to be.
    pub async fn timeline_history(&mut self, timeline: u32) -> Result<String, Error> {
        let rows = self.query(&format!("TIMELINE_HISTORY {timeline}")).await?;
        rows.into_iter().next().and_then(|mut row| row.pop().flatten()).ok_or_else(|| self.unexpected())
    }

    /// Runs a command, or several; gives the rows of all as text.
    async fn query(&mut self, command: &str) -> Result<Vec<Vec<Option<String>>>, Error> {
        self.in_time(async |session| {
            let mut out = BytesMut::new();
            frontend::query(command, &mut out).map_err(|error| session.broken(&error))?;
            session.send(&mut out).await?;
            let mut rows = Vec::new();
            loop {
                match session.message().await? {
                    Message::DataRow(body) => {
                        let text = |range: Option<std::ops::Range<usize>>| {
                            range.map(|range| String::from_utf8_lossy(&body.buffer()[range]).into_owned())
                        };
                        rows.push(body.ranges().map(|range| Ok(text(range))).collect().map_err(|error| session.broken(&error))?);
                    }
                    Message::ReadyForQuery(_) => return Ok(rows),
                    Message::ErrorResponse(body) => return Err(session.refused(&body)),
                    _ => {}
                }
            }
        })
        .await
    }

    /// Starts the stream of a slot's changes after `from`, for the publication of the same name. With `streaming` a large transaction
    /// is sent while it is open, so that the server need not keep it on its disk.
    pub async fn start(&mut self, slot: &str, from: Lsn, streaming: bool) -> Result<(), Error> {
        let name = quote::identifier(slot);
        let streaming = if streaming { "on" } else { "off" };
        let options = format!("proto_version '2', streaming '{streaming}', publication_names {}", quote::literal(&name));
        let command = format!("START_REPLICATION SLOT {name} LOGICAL {from} ({options})");
        self.in_time(async |session| {
            let mut out = BytesMut::new();
            frontend::query(&command, &mut out).map_err(|error| session.broken(&error))?;
            session.send(&mut out).await?;
            loop {
                match session.raw().await? {
                    // CopyBothResponse
                    (b'W', _) => return Ok(()),
                    (b'E', body) => return Err(session.refusal_of(&body)),
                    // NoticeResponse, ParameterStatus
                    (b'N' | b'S', _) => {}
                    _ => return Err(session.unexpected()),
                }
            }
        })
        .await
    }

    /// All messages of the stream that are there; waits for the first. Nothing is lost when the future is dropped.
    pub async fn frames(&mut self) -> Result<Vec<Frame>, Error> {
        let mut frames = Vec::new();
        loop {
            while let Some((tag, mut body)) = self.buffered()? {
                match tag {
                    b'd' => frames.extend(frame(&mut body).map_err(|()| self.unexpected())?),
                    // What came before the end is delivered first; the end is met again.
                    b'E' if frames.is_empty() => return Err(self.refusal_of(&body)),
                    b'c' if frames.is_empty() => return Err(self.ended()),
                    b'E' | b'c' => {
                        let mut head = BytesMut::new();
                        head.put_u8(tag);
                        head.put_u32(body.len() as u32 + 4);
                        head.extend_from_slice(&body);
                        head.extend_from_slice(&self.received);
                        self.received = head;
                        break;
                    }
                    b'N' | b'S' => {}
                    _ => return Err(self.unexpected()),
                }
            }
            if !frames.is_empty() {
                return Ok(frames);
            }
            self.read().await?;
        }
    }

    /// Tells the server how far we have read and what we no longer need ("Standby status update").
    pub async fn send_status(&mut self, written: Lsn, flushed: Lsn) -> Result<(), Error> {
        let clock = (Timestamp::now().as_microsecond() - EPOCH_SECONDS * 1_000_000).max(0);
        let mut out = BytesMut::with_capacity(64);
        out.put_u8(b'd');
        out.put_u32(4 + 1 + 8 * 4 + 1);
        out.put_u8(b'r');
        out.put_u64(written.0.max(flushed.0));
        out.put_u64(flushed.0);
        out.put_u64(flushed.0);
        out.put_i64(clock);
        out.put_u8(0);
        self.send(&mut out).await
    }

    async fn send(&mut self, out: &mut BytesMut) -> Result<(), Error> {
        let sent = async {
            self.stream.write_all(out).await?;
            self.stream.flush().await
        }
        .await;
        out.clear();
        sent.map_err(|error| self.broken(&error))
    }

    async fn message(&mut self) -> Result<Message, Error> {
        loop {
            if let Some(message) = Message::parse(&mut self.received).map_err(|error| self.broken(&error))? {
                return Ok(message);
            }
            self.read().await?;
        }
    }

    async fn raw(&mut self) -> Result<(u8, Bytes), Error> {
        loop {
            if let Some(message) = self.buffered()? {
                return Ok(message);
            }
            self.read().await?;
        }
    }

    /// The next message, its tag and body, if it is there as a whole.
    fn buffered(&mut self) -> Result<Option<(u8, Bytes)>, Error> {
        let Some(&[tag, a, b, c, d]) = self.received.first_chunk::<5>() else { return Ok(None) };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length < 4 {
            return Err(self.unexpected());
        }
        if self.received.len() <= length {
            self.received.reserve(length + 1 - self.received.len());
            return Ok(None);
        }
        let mut message = self.received.split_to(length + 1).freeze();
        message.advance(5);
        Ok(Some((tag, message)))
    }

    async fn read(&mut self) -> Result<(), Error> {
        self.received.reserve(READ_BYTES);
        match self.stream.read_buf(&mut self.received).await {
            Ok(0) => Err(self.ended()),
            Ok(_) => Ok(()),
            Err(error) => Err(self.broken(&error)),
        }
    }

    async fn in_time<T>(&mut self, work: impl AsyncFnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        let place = self.place.clone();
        match timeout(ANSWER_TIMEOUT, work(self)).await {
            Ok(done) => done,
            Err(_) => Err(Error::SourceUnreachable(format!("{place}: no answer within {} s", ANSWER_TIMEOUT.as_secs()))),
        }
    }

    fn broken(&self, error: &std::io::Error) -> Error {
        Error::SourceUnreachable(format!("{}: {error}", self.place))
    }

    fn ended(&self) -> Error {
        Error::SourceUnreachable(format!("{}: the server ended the replication session", self.place))
    }

    fn unexpected(&self) -> Error {
        Error::SourceError(format!("{}: the server sent a message that the replication protocol does not have here", self.place))
    }

    fn refusal_of(&self, body: &Bytes) -> Error {
        let mut whole = BytesMut::with_capacity(body.len() + 5);
        whole.put_u8(b'E');
        whole.put_u32(body.len() as u32 + 4);
        whole.extend_from_slice(body);
        match Message::parse(&mut whole) {
            Ok(Some(Message::ErrorResponse(body))) => self.refused(&body),
            _ => self.unexpected(),
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

    fn refused(&self, body: &ErrorResponseBody) -> Error {
        let (class, message) = self.refusal(body);
        match class {
            Class::ObjectInUse => Error::SlotInUse(message),
            Class::Internal => Error::DecodingFailed(message),
            Class::ConnectionLost => Error::SourceUnreachable(message),
            Class::PermissionDenied => Error::SourcePermissionDenied {
                message,
                remedy: "ALTER ROLE … REPLICATION for the link's user (Amazon RDS: GRANT rds_replication TO …)".to_owned(),
            },
            // No such slot; an invalidated slot; log that was removed.
            Class::ObjectMissing | Class::NotReady | Class::FileMissing => Error::PositionLost(message),
            _ => Error::SourceError(message),
        }
    }
}

/// Takes a CopyData message apart; other kinds of it are ignored.
fn frame(body: &mut Bytes) -> Result<Option<Frame>, ()> {
    match (body.first(), body.len()) {
        // XLogData: start, end, clock, then the plugin's message.
        (Some(b'w'), 25..) => Ok(Some(Frame::Data(body.slice(25..)))),
        (Some(b'k'), 18) => {
            body.advance(1);
            Ok(Some(Frame::Keepalive { end: Lsn(body.get_u64()), time: timestamp(body.get_i64())?, reply: body.get_u8() != 0 }))
        }
        (Some(b'w' | b'k') | None, _) => Err(()),
        _ => Ok(None),
    }
}

/// A time of the protocol, microseconds since 2000-01-01 UTC.
pub fn timestamp(micros: i64) -> Result<Timestamp, ()> {
    let micros = micros.checked_add(EPOCH_SECONDS * 1_000_000).ok_or(())?;
    Timestamp::from_microsecond(micros).map_err(|_| ())
}
