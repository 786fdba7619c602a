//! The tokens of [MS-TDS] 2.2.7 that are not rows, and the strings of 2.2.5.2.

use bytes::{Buf, BufMut};

use super::answer::Message;

/// DONE status: more results follow (2.2.7.6).
pub const DONE_MORE: u16 = 0x01;
/// DONE status: the statement failed.
pub const DONE_ERROR: u16 = 0x02;
/// DONE status: the row count is valid.
pub const DONE_COUNT: u16 = 0x10;
/// DONE status: an attention is acknowledged.
pub const DONE_ATTN: u16 = 0x20;

/// ENVCHANGE types (2.2.7.9).
pub mod env {
    pub const DATABASE: u8 = 1;
    pub const LANGUAGE: u8 = 2;
    pub const PACKET_SIZE: u8 = 4;
    pub const COLLATION: u8 = 7;
    pub const BEGIN: u8 = 8;
    pub const COMMIT: u8 = 9;
    pub const ROLLBACK: u8 = 10;
    pub const RESET: u8 = 18;
    pub const ROUTING: u8 = 20;
}

pub fn utf16(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 * text.len());
    for unit in text.encode_utf16() {
        out.put_u16_le(unit); // much faster than flat_map without optimization
    }
    out
}

pub fn from_utf16(bytes: &[u8]) -> String {
    let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    String::from_utf16(&units).unwrap()
}

pub fn b_varchar(out: &mut Vec<u8>, text: &str) {
    out.push(text.encode_utf16().count() as u8);
    out.extend(utf16(text));
}

pub fn us_varchar(out: &mut Vec<u8>, text: &str) {
    out.put_u16_le(text.encode_utf16().count() as u16);
    out.extend(utf16(text));
}

/// So many bytes off the front.
pub fn take<'a>(input: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (head, rest) = input.split_at(len);
    *input = rest;
    head
}

pub fn read_b_varchar(input: &mut &[u8]) -> String {
    let len = usize::from(input.get_u8());
    from_utf16(take(input, 2 * len))
}

/// A token whose length comes before its body as two bytes.
pub fn token(out: &mut Vec<u8>, kind: u8, body: &[u8]) {
    out.push(kind);
    out.put_u16_le(body.len() as u16);
    out.extend(body);
}

/// DONE 0xFD, DONEPROC 0xFE or DONEINPROC 0xFF (2.2.7.6 to 2.2.7.8).
pub fn done(out: &mut Vec<u8>, kind: u8, status: u16, command: u16, count: u64) {
    out.push(kind);
    out.put_u16_le(status);
    out.put_u16_le(command);
    out.put_u64_le(count);
}

/// ERROR 0xAA or INFO 0xAB (2.2.7.10, 2.2.7.13): below severity 11 it informs.
pub fn message(out: &mut Vec<u8>, message: &Message) {
    let mut body = Vec::new();
    body.put_u32_le(message.number);
    body.extend([message.state, message.severity]);
    us_varchar(&mut body, &message.text);
    b_varchar(&mut body, "scripted");
    b_varchar(&mut body, "");
    body.put_u32_le(1);
    token(out, if message.severity > 10 { 0xAA } else { 0xAB }, &body);
}

/// ENVCHANGE 0xE3 (2.2.7.9) with two B_VARCHAR.
pub fn env_text(out: &mut Vec<u8>, kind: u8, new: &str, old: &str) {
    let mut body = vec![kind];
    b_varchar(&mut body, new);
    b_varchar(&mut body, old);
    token(out, 0xE3, &body);
}

/// ENVCHANGE 0xE3 (2.2.7.9) with two B_VARBYTE.
pub fn env_bytes(out: &mut Vec<u8>, kind: u8, new: &[u8], old: &[u8]) {
    let mut body = vec![kind];
    for bytes in [new, old] {
        body.push(bytes.len() as u8);
        body.extend(bytes);
    }
    token(out, 0xE3, &body);
}
