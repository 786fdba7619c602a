//! Packets ([MS-TDS] 2.2.3) over TCP or TLS.

use std::{io, sync::Arc};

use bytes::{Buf, BytesMut};
use rustls::{ServerConfig, ServerConnection};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Packet types (2.2.3.1.1).
pub mod kind {
    pub const BATCH: u8 = 0x01;
    pub const RPC: u8 = 0x03;
    pub const RESPONSE: u8 = 0x04;
    pub const ATTENTION: u8 = 0x06;
    pub const BULK_LOAD: u8 = 0x07;
    pub const FEDAUTH_TOKEN: u8 = 0x08;
    pub const TRANSACTION: u8 = 0x0E;
    pub const LOGIN7: u8 = 0x10;
    pub const PRELOGIN: u8 = 0x12;
}

/// Packet status bits (2.2.3.1.2).
const END_OF_MESSAGE: u8 = 0x01;
const IGNORE: u8 = 0x02;
const RESET_CONNECTION: u8 = 0x08;
const RESET_CONNECTION_SKIP_TRAN: u8 = 0x10;
const HEADER: usize = 8;

/// A message of the client, or one of its packets.
pub struct Message {
    pub kind: u8,
    status: u8,
    pub payload: Vec<u8>,
}

impl Message {
    /// The client wants the session reset before this request.
    pub fn resets(&self) -> bool {
        self.status & (RESET_CONNECTION | RESET_CONNECTION_SKIP_TRAN) != 0
    }

    /// … but not its transaction.
    pub fn keeps_transaction(&self) -> bool {
        self.status & RESET_CONNECTION == 0
    }

    /// The client gave this request up while it sent it.
    pub fn ignored(&self) -> bool {
        self.status & IGNORE != 0
    }
}

/// A connection, and the response that is being made on it.
pub struct Wire {
    tcp: TcpStream,
    tls: Option<ServerConnection>,
    input: BytesMut,
    /// Tokens not sent yet.
    pub out: Vec<u8>,
    pub packet_size: usize,
    sequence: u8,
}

impl Wire {
    pub fn new(tcp: TcpStream) -> Self {
        Self { tcp, tls: None, input: BytesMut::new(), out: Vec::new(), packet_size: 4096, sequence: 0 }
    }

    /// TLS from here on; with TDS 7 (`wrapped`) its handshake travels in PRELOGIN packets (2.2.6.5).
    pub async fn start_tls(&mut self, config: Arc<ServerConfig>, wrapped: bool) -> io::Result<()> {
        self.tls = Some(ServerConnection::new(config).map_err(io::Error::other)?);
        loop {
            let records = self.records()?;
            if wrapped && !records.is_empty() {
                let packets = self.packets(kind::PRELOGIN, &records, true);
                self.tcp.write_all(&packets).await?;
            } else {
                self.tcp.write_all(&records).await?;
            }
            if !self.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
                return Ok(());
            }
            let tls = self.tls.take(); // what comes now is not TLS for read_packet
            let records = if wrapped { self.read_packet().await?.payload } else { self.receive().await?.to_vec() };
            self.tls = tls;
            self.feed(&records)?;
        }
    }

    /// Plain from here on, as after a login that alone was encrypted.
    pub fn end_tls(&mut self) {
        self.tls = None;
    }

    pub fn encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// TLS records to send.
    fn records(&mut self) -> io::Result<Vec<u8>> {
        let mut records = Vec::new();
        while let Some(tls) = self.tls.as_mut().filter(|tls| tls.wants_write()) {
            tls.write_tls(&mut records)?;
        }
        Ok(records)
    }

    async fn receive(&mut self) -> io::Result<BytesMut> {
        let mut bytes = BytesMut::with_capacity(16 * 1024);
        if self.tcp.read_buf(&mut bytes).await? == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(bytes) }
    }

    /// Takes what the socket gave.
    fn feed(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            self.input.extend_from_slice(bytes);
            return Ok(());
        };
        while !bytes.is_empty() {
            tls.read_tls(&mut bytes)?;
            let state = tls.process_new_packets().map_err(io::Error::other)?;
            let mut plain = vec![0; state.plaintext_bytes_to_read()];
            io::Read::read_exact(&mut tls.reader(), &mut plain)?;
            self.input.extend_from_slice(&plain);
        }
        Ok(())
    }

    /// The first packet of the input, when it is there.
    fn packet(&mut self) -> Option<Message> {
        let len = usize::from(u16::from_be_bytes([*self.input.get(2)?, *self.input.get(3)?]));
        if self.input.len() < len.max(HEADER) {
            return None;
        }
        let mut packet = self.input.split_to(len);
        let (kind, status) = (packet[0], packet[1]);
        packet.advance(HEADER);
        Some(Message { kind, status, payload: packet.to_vec() })
    }

    /// May be cancelled.
    async fn read_packet(&mut self) -> io::Result<Message> {
        loop {
            if let Some(packet) = self.packet() {
                return Ok(packet);
            }
            let bytes = self.receive().await?;
            self.feed(&bytes)?;
        }
    }

    pub async fn read(&mut self) -> io::Result<Message> {
        let mut message = self.read_packet().await?;
        while message.status & END_OF_MESSAGE == 0 {
            let next = self.read_packet().await?;
            if next.kind == kind::ATTENTION {
                return Ok(next); // the client gives up a request that it was still sending
            }
            message.status |= next.status;
            message.payload.extend(next.payload);
        }
        Ok(message)
    }

    /// Waits for an attention. May be cancelled.
    pub async fn attention(&mut self) -> io::Result<()> {
        while self.read_packet().await?.kind != kind::ATTENTION {}
        Ok(())
    }

    /// Whether an attention is there already.
    pub fn interrupted(&mut self) -> io::Result<bool> {
        let mut bytes = BytesMut::with_capacity(1024);
        match self.tcp.try_read_buf(&mut bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => self.feed(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(self.packet().is_some_and(|packet| packet.kind == kind::ATTENTION))
    }

    /// Sends the tokens so far, and ends the message or not.
    pub async fn flush(&mut self, end: bool) -> io::Result<()> {
        let tokens = std::mem::take(&mut self.out);
        let packets = self.packets(kind::RESPONSE, &tokens, end);
        if let Some(tls) = &mut self.tls {
            tls.set_buffer_limit(None);
            io::Write::write_all(&mut tls.writer(), &packets)?;
            let records = self.records()?;
            self.tcp.write_all(&records).await
        } else {
            self.tcp.write_all(&packets).await
        }
    }

    fn packets(&mut self, kind: u8, data: &[u8], end: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(data.len() + data.len() / 32 + HEADER);
        let mut chunks = data.chunks(self.packet_size - HEADER).peekable();
        while let Some(chunk) = chunks.next() {
            let last = end && chunks.peek().is_none();
            self.sequence = self.sequence.wrapping_add(1);
            out.extend([kind, if last { END_OF_MESSAGE } else { 0 }]);
            out.extend(((chunk.len() + HEADER) as u16).to_be_bytes());
            out.extend([0, 0, self.sequence, 0]);
            out.extend(chunk);
        }
        if end {
            self.sequence = 0;
        }
        out
    }
}
