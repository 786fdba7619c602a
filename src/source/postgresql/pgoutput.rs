//! Messages of the output plugin `pgoutput`, protocol version 2 (PostgreSQL manual, "Logical Replication Message Formats").

use super::lsn::Lsn;

/// A message that is not of the form that the protocol has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// What the plugin tells.
#[derive(Debug, PartialEq)]
pub enum Message<'a> {
    /// A transaction's changes begin.
    Begin {
        /// Where its commit stands in the log.
        commit: Lsn,
        /// Its id.
        id: u32,
    },
    /// They end.
    Commit {
        /// Where the log goes on after the commit.
        end: Lsn,
        /// When, in microseconds since 2000-01-01 UTC.
        time: i64,
    },
    /// How a table is, sent before its first change and again after it changed.
    Relation(Relation),
    /// A new row.
    Insert {
        /// The table.
        oid: u32,
        /// All columns.
        new: Vec<Cell<'a>>,
    },
    /// A changed row.
    Update {
        /// The table.
        oid: u32,
        /// What identified the row before: its key if that changed (the other columns are NULL), the whole row under
        /// REPLICA IDENTITY FULL.
        old: Option<Vec<Cell<'a>>>,
        /// All columns.
        new: Vec<Cell<'a>>,
    },
    /// A row is gone.
    Delete {
        /// The table.
        oid: u32,
        /// Its key (the other columns are NULL), or the whole row under REPLICA IDENTITY FULL.
        old: Vec<Cell<'a>>,
    },
    /// Tables lost all rows.
    Truncate(Vec<u32>),
    /// What follows is of a transaction that is still open, up to [`Message::StreamStop`].
    StreamStart {
        /// Its id.
        id: u32,
    },
    /// The open transaction pauses.
    StreamStop,
    /// A transaction that was streamed while it was open has committed.
    StreamCommit {
        /// Its id.
        id: u32,
        /// Where its commit stands in the log.
        commit: Lsn,
        /// Where the log goes on after the commit.
        end: Lsn,
        /// When, in microseconds since 2000-01-01 UTC.
        time: i64,
    },
    /// It, or a subtransaction of it, was rolled back.
    StreamAbort {
        /// Its id.
        id: u32,
        /// The subtransaction's; its own if all of it was.
        sub: u32,
    },
    /// Names of types, origins, messages of applications: nothing for us.
    Other,
}

/// One column of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell<'a> {
    /// NULL.
    Null,
    /// A large value that the change left as it was, which is not sent.
    Unchanged,
    /// As the type's output function prints it.
    Text(&'a [u8]),
    /// As the type's send function gives it.
    Binary(&'a [u8]),
    /// As the output function prints it, but too large for memory: a [`crate::data::LargeValue`] as JSON.
    TextApart(&'a [u8]),
    /// The same, as the send function gives it.
    BinaryApart(&'a [u8]),
}

/// Kinds of cells that the protocol does not have, see [`super::divert`].
pub const TEXT_APART: u8 = b'T';
/// See [`TEXT_APART`].
pub const BINARY_APART: u8 = b'B';

/// A table, in the stream's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Schema and name.
    pub name: (String, String),
    /// REPLICA IDENTITY FULL: every column is said to be in the key.
    pub full: bool,
    /// Columns that travel, by `attnum`.
    pub columns: Vec<RelationColumn>,
}

/// A column of a [`Relation`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationColumn {
    /// Whether it is in the replica identity.
    pub key: bool,
    /// Name.
    pub name: String,
    /// Type and modifier.
    pub type_id: (u32, i32),
}

/// Reads one message.
pub fn parse(message: &[u8]) -> Result<Message<'_>, Malformed> {
    let mut rest = Reader(message);
    Ok(match rest.byte()? {
        b'B' => {
            let commit = Lsn(rest.u64()?);
            rest.take(8)?; // when
            Message::Begin { commit, id: rest.u32()? }
        }
        b'C' => {
            rest.take(1 + 8)?; // flags, place of the commit record
            Message::Commit { end: Lsn(rest.u64()?), time: rest.u64()? as i64 }
        }
        b'R' => Message::Relation(relation(&mut rest)?),
        b'I' => {
            let oid = rest.u32()?;
            rest.tag(b'N')?;
            Message::Insert { oid, new: rest.tuple()? }
        }
        b'U' => {
            let oid = rest.u32()?;
            let old = match rest.byte()? {
                b'K' | b'O' => {
                    let old = rest.tuple()?;
                    rest.tag(b'N')?;
                    Some(old)
                }
                b'N' => None,
                _ => return Err(Malformed),
            };
            Message::Update { oid, old, new: rest.tuple()? }
        }
        b'D' => {
            let oid = rest.u32()?;
            if !matches!(rest.byte()?, b'K' | b'O') {
                return Err(Malformed);
            }
            Message::Delete { oid, old: rest.tuple()? }
        }
        b'T' => {
            let tables = rest.u32()?;
            rest.byte()?; // CASCADE, RESTART IDENTITY: every table that lost its rows is named
            Message::Truncate((0..tables).map(|_| rest.u32()).collect::<Result<_, _>>()?)
        }
        b'S' => Message::StreamStart { id: rest.u32()? },
        b'E' => Message::StreamStop,
        b'c' => {
            let id = rest.u32()?;
            rest.take(1)?; // flags
            Message::StreamCommit { id, commit: Lsn(rest.u64()?), end: Lsn(rest.u64()?), time: rest.u64()? as i64 }
        }
        b'A' => Message::StreamAbort { id: rest.u32()?, sub: rest.u32()? },
        b'O' | b'Y' | b'M' => Message::Other,
        _ => return Err(Malformed),
    })
}

/// A message that arrives within an open transaction.
#[derive(Debug, PartialEq)]
pub struct Streamed<'a> {
    /// The id of its subtransaction.
    pub sub: u32,
    /// The message's first byte.
    pub kind: u8,
    /// The message without it and the id: as it would be without streaming.
    pub rest: &'a [u8],
}

/// Reads a message that arrives within an open transaction. None: it ends the arrival.
pub fn streamed(message: &[u8]) -> Result<Option<Streamed<'_>>, Malformed> {
    let mut rest = Reader(message);
    match rest.byte()? {
        b'E' => Ok(None),
        kind => Ok(Some(Streamed { sub: rest.u32()?, kind, rest: rest.0 })),
    }
}

fn relation(rest: &mut Reader<'_>) -> Result<Relation, Malformed> {
    let oid = rest.u32()?;
    let schema = match rest.string()? {
        // The protocol's way to save bytes.
        schema if schema.is_empty() => "pg_catalog".to_owned(),
        schema => schema,
    };
    let name = (schema, rest.string()?);
    let full = rest.byte()? == b'f';
    let columns = (0..rest.u16()?)
        .map(|_| {
            let key = rest.byte()? & 1 == 1;
            Ok(RelationColumn { key, name: rest.string()?, type_id: (rest.u32()?, rest.u32()? as i32) })
        })
        .collect::<Result<_, Malformed>>()?;
    Ok(Relation { oid, name, full, columns })
}

/// The part of a message that was not read yet.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    fn tag(&mut self, byte: u8) -> Result<(), Malformed> {
        if self.byte()? == byte { Ok(()) } else { Err(Malformed) }
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    fn string(&mut self) -> Result<String, Malformed> {
        let end = self.0.iter().position(|&byte| byte == 0).ok_or(Malformed)?;
        let text = self.take(end)?;
        self.byte()?;
        String::from_utf8(text.to_vec()).map_err(|_| Malformed)
    }

    fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    fn tuple(&mut self) -> Result<Vec<Cell<'a>>, Malformed> {
        let count = usize::from(self.u16()?);
        let mut cells = Vec::with_capacity(count);
        for _ in 0..count {
            cells.push(match self.byte()? {
                b'n' => Cell::Null,
                b'u' => Cell::Unchanged,
                b't' => Cell::Text(self.bytes()?),
                b'b' => Cell::Binary(self.bytes()?),
                TEXT_APART => Cell::TextApart(self.bytes()?),
                BINARY_APART => Cell::BinaryApart(self.bytes()?),
                _ => return Err(Malformed),
            });
        }
        Ok(cells)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_an_update_with_its_old_key() {
        let message = b"U\0\0\0\x07K\0\x02t\0\0\0\x01anN\0\x02t\0\0\0\x01bu";
        assert_eq!(
            parse(message),
            Ok(Message::Update { oid: 7, old: Some(vec![Cell::Text(b"a"), Cell::Null]), new: vec![Cell::Text(b"b"), Cell::Unchanged] })
        );
        // Cut anywhere, it is refused and nothing is read past its end.
        for end in 0..message.len() {
            assert_eq!(parse(&message[..end]), Err(Malformed), "{end}");
        }
    }

    #[test]
    fn reads_what_is_of_an_open_transaction() {
        assert_eq!(streamed(b"I\0\0\0\x05rest"), Ok(Some(Streamed { sub: 5, kind: b'I', rest: b"rest" })));
        assert_eq!(streamed(b"E"), Ok(None));
        assert_eq!(streamed(b"I\0\0"), Err(Malformed));
        assert_eq!(parse(b"A\0\0\0\x05\0\0\0\x06"), Ok(Message::StreamAbort { id: 5, sub: 6 }));
    }

    #[test]
    fn reads_where_a_commit_ends() {
        let mut message = b"C\0".to_vec();
        message.extend([0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3]);
        assert_eq!(parse(&message), Ok(Message::Commit { end: Lsn(2), time: 3 }));
    }
}
