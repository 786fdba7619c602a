//! Messages that are too large for memory, taken from the socket in pieces: their large values go to where such values are
//! kept as they arrive, and the message goes on with their names in their place.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::{copy, pgoutput, wire::Incoming};
use crate::{
    data::{Form, LargeValue},
    source::{Error, LargeValues},
};

/// Messages of more bytes are taken in pieces.
pub const LARGE_MESSAGE: usize = 8 << 20;
/// Of them, values of more bytes are kept elsewhere.
pub const LARGE_VALUE: usize = 64 << 10;
/// Bytes of one part. Even, as [`LargeValue`] wants it.
const PART: usize = 8 << 20;

/// A message under way: what it was, without its large values.
struct Divert<'a> {
    incoming: &'a mut Incoming,
    values: &'a dyn LargeValues,
    /// Bytes of the message that are still to come.
    left: usize,
    out: BytesMut,
}

/// A row of a COPY whose head has arrived. Between two fields of the usual form stands [`copy::APART`], then the length of a
/// [`LargeValue`] as JSON, then that.
pub async fn row(incoming: &mut Incoming, length: usize, values: &dyn LargeValues) -> Result<Bytes, Error> {
    let mut divert = Divert::begin(incoming, length, values);
    let mut columns = divert.u16().await?;
    // The COPY's header comes with its first row.
    if columns.to_be_bytes() == copy::SIGNATURE[..2] {
        divert.copy(copy::HEADER - 2).await?;
        columns = divert.u16().await?;
    }
    for _ in 0..columns {
        let length = divert.piece(4).await?;
        let length = i32::from_be_bytes(length.as_ref().try_into().map_err(|_| garbled())?);
        match usize::try_from(length) {
            Ok(long) if long > LARGE_VALUE => {
                divert.out.put_i32(copy::APART);
                divert.value(long).await?;
            }
            known => {
                divert.out.put_i32(length);
                divert.copy(known.unwrap_or(0)).await?;
            }
        }
    }
    divert.end()
}

/// A message of the stream of changes whose head has arrived. `open`: it is of a transaction that is open. What is not a change
/// of a row comes as it is.
pub async fn change(incoming: &mut Incoming, length: usize, open: bool, values: &dyn LargeValues) -> Result<Bytes, Error> {
    let mut divert = Divert::begin(incoming, length, values);
    // XLogData: kind, start, end, clock.
    let kind = divert.u8().await?;
    if kind != b'w' {
        divert.copy(length - 1).await?;
        return divert.end();
    }
    divert.copy(24).await?;
    let kind = divert.u8().await?;
    if !matches!(kind, b'I' | b'U' | b'D') {
        divert.copy(divert.left).await?;
        return divert.end();
    }
    divert.copy(if open { 8 } else { 4 }).await?;
    while divert.left > 0 {
        // Which of its rows it is.
        divert.u8().await?;
        for _ in 0..divert.u16().await? {
            divert.cell(kind == b'D').await?;
        }
    }
    divert.end()
}

impl<'a> Divert<'a> {
    fn begin(incoming: &'a mut Incoming, length: usize, values: &'a dyn LargeValues) -> Self {
        incoming.begin_pieces();
        Self { incoming, values, left: length, out: BytesMut::new() }
    }

    fn end(self) -> Result<Bytes, Error> {
        if self.left == 0 { Ok(self.out.freeze()) } else { Err(garbled()) }
    }

    async fn piece(&mut self, length: usize) -> Result<Bytes, Error> {
        self.left = self.left.checked_sub(length).ok_or_else(garbled)?;
        self.incoming.piece(length).await
    }

    async fn copy(&mut self, length: usize) -> Result<Bytes, Error> {
        let piece = self.piece(length).await?;
        self.out.extend_from_slice(&piece);
        Ok(piece)
    }

    async fn u8(&mut self) -> Result<u8, Error> {
        Ok(self.copy(1).await?[0])
    }

    async fn u16(&mut self) -> Result<u16, Error> {
        let bytes = self.copy(2).await?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// A cell of pgoutput's TupleData. `gone`: of a row that was deleted, of which large values are in nobody's key.
    async fn cell(&mut self, gone: bool) -> Result<(), Error> {
        let kind = self.piece(1).await?[0];
        if !matches!(kind, b't' | b'b') {
            self.out.put_u8(kind);
            return Ok(());
        }
        let length = self.piece(4).await?;
        let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]);
        if length as usize > LARGE_VALUE && gone {
            self.out.put_u8(b'n');
            return self.skip(length as usize).await;
        }
        if length as usize > LARGE_VALUE {
            self.out.put_u8(if kind == b'b' { pgoutput::BINARY_APART } else { pgoutput::TEXT_APART });
            return self.value(length as usize).await;
        }
        self.out.put_u8(kind);
        self.out.put_u32(length);
        self.copy(length as usize).await.map(|_| ())
    }

    async fn skip(&mut self, mut length: usize) -> Result<(), Error> {
        while length > 0 {
            length -= self.piece(length.min(PART)).await?.len();
        }
        Ok(())
    }

    /// Keeps a value, and writes its name.
    async fn value(&mut self, length: usize) -> Result<(), Error> {
        let mut value = LargeValue { path: self.values.path(), parts: 0, bytes: length as u64, form: Form::Plain };
        let mut left = length;
        while left > 0 {
            let piece = self.piece(left.min(PART)).await?;
            left -= piece.len();
            self.values.put(&value.path, value.parts, piece).await?;
            value.parts += 1;
        }
        let name = serde_json::to_vec(&value).map_err(|error| Error::SourceError(error.to_string()))?;
        self.out.put_u32(name.len() as u32);
        self.out.extend_from_slice(&name);
        Ok(())
    }
}

fn garbled() -> Error {
    Error::SourceError("the server sent a row that is not of the form that its version has".to_owned())
}
