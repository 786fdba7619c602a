//! A replication session (PostgreSQL manual, "Streaming Replication Protocol").

use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use jiff::Timestamp;

use super::{
    divert,
    lsn::Lsn,
    wire::{Failure, Incoming, Outgoing, Wire},
};
use crate::{
    api::database::PostgresqlDatabase,
    postgresql::{errors::Class, quote},
    secrets::Secrets,
    source::{Error, LargeValues},
};

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

/// How a stream's changes come.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A large transaction is sent while it is open, so that the server need not keep it on its disk.
    pub streaming: bool,
    /// Values come in the form of their type's send function, if it has one.
    pub binary: bool,
}

/// What the server knows of how a timeline came to be.
pub async fn timeline_history(database: &PostgresqlDatabase, secrets: &Secrets, timeline: u32) -> Result<String, Error> {
    let mut wire = Wire::connect(database, secrets, true).await?;
    let rows = wire.in_time(async |wire| wire.query(&format!("TIMELINE_HISTORY {timeline}")).await).await.map_err(refused)?;
    // File name, content.
    rows.into_iter().next().and_then(|mut row| row.pop().flatten()).ok_or_else(|| wire.incoming.unexpected())
}

/// Starts the stream of a slot's changes after `from`, for the publication of the same name. What is large goes to `values`.
pub async fn start(
    mut wire: Wire,
    slot: &str,
    from: Lsn,
    options: Options,
    values: Arc<dyn LargeValues>,
) -> Result<(Changes, Answers), Error> {
    let name = quote::identifier(slot);
    let on = |value| if value { "on" } else { "off" };
    let Options { streaming, binary } = options;
    let options =
        format!("proto_version '2', streaming '{}', binary '{}', publication_names {}", on(streaming), on(binary), quote::literal(&name));
    let command = format!("START_REPLICATION SLOT {name} LOGICAL {from} ({options})");
    wire.in_time(async |wire| wire.begin_copy(&command).await).await.map_err(refused)?;
    let Wire { incoming, outgoing } = wire;
    Ok((Changes { incoming, values, open: false }, Answers { outgoing }))
}

/// The stream's messages.
pub struct Changes {
    incoming: Incoming,
    values: Arc<dyn LargeValues>,
    /// Messages that arrive are of a transaction that is open.
    open: bool,
}

impl Changes {
    /// All messages of the stream that are there; waits for the first. Dropping the future loses the stream.
    pub async fn frames(&mut self) -> Result<Vec<Frame>, Error> {
        let mut frames = Vec::new();
        loop {
            while let Some((tag, length)) = self.incoming.head()? {
                let large = tag == b'd' && length > divert::LARGE_MESSAGE;
                // What came before is delivered first.
                if !frames.is_empty() && (large || matches!(tag, b'E' | b'c')) {
                    return Ok(frames);
                }
                let mut body = if large {
                    divert::change(&mut self.incoming, length, self.open, &*self.values).await?
                } else if let Some(body) = self.incoming.take_body(length) {
                    body
                } else {
                    break;
                };
                match tag {
                    b'd' => {
                        let frame = frame(&mut body).map_err(|()| self.incoming.unexpected())?;
                        if let Some(Frame::Data(data)) = &frame {
                            // StreamStart, StreamStop
                            self.open = match data.first() {
                                Some(b'S') => true,
                                Some(b'E') => false,
                                _ => self.open,
                            };
                        }
                        frames.extend(frame);
                    }
                    b'E' => return Err(refused(self.incoming.refused(&body))),
                    b'c' => return Err(Error::SourceUnreachable("the server ended the replication session".to_owned())),
                    b'N' | b'S' => {}
                    _ => return Err(self.incoming.unexpected()),
                }
            }
            if !frames.is_empty() {
                return Ok(frames);
            }
            self.incoming.read().await?;
        }
    }
}

/// The way back.
pub struct Answers {
    outgoing: Outgoing,
}

impl Answers {
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
        self.outgoing.send(&mut out).await
    }
}

fn refused(failure: Failure) -> Error {
    let Failure::Refused { class, message } = failure else { return failure.general() };
    match class {
        Class::ObjectInUse => Error::SlotInUse(message),
        Class::Internal => Error::DecodingFailed(message),
        Class::PermissionDenied => Error::SourcePermissionDenied {
            message,
            remedy: "ALTER ROLE … REPLICATION for the link's user (Amazon RDS: GRANT rds_replication TO …)".to_owned(),
        },
        // No such slot; an invalidated slot; log that was removed.
        Class::ObjectMissing | Class::NotReady | Class::FileMissing => Error::PositionLost(message),
        _ => Failure::Refused { class, message }.general(),
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
