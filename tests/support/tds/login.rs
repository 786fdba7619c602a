//! PRELOGIN, LOGIN7 and federated authentication: [MS-TDS] 2.2.6.4, 2.2.6.5, 2.2.6.3 and 2.2.7.12.

use std::{io, sync::Arc};

use bytes::{Buf, BufMut};

use super::{
    Shared,
    answer::{Gate, Message},
    tokens::{self, DONE_ERROR, env, from_utf16, take, us_varchar, utf16},
    types::Collation,
    wire::{Wire, kind},
};

/// What the server makes of encryption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// There is none (ENCRYPT_NOT_SUP).
    NotSupported,
    /// Only the login is encrypted, unless the client wants more (ENCRYPT_OFF).
    Off,
    /// TLS within TDS 7.4 (ENCRYPT_REQ), as old as 1.2: there is no place for 1.3's tickets.
    Required,
    /// TLS first, then TDS 8.0.
    Strict,
}

/// A login that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    pub connection: usize,
    pub user: String,
    pub password: String,
    pub database: String,
    pub application: String,
    /// The server's name as the client knows it.
    pub server: String,
    /// The access token, with an Entra login.
    pub token: Option<String>,
    pub read_only: bool,
    pub encrypted: bool,
}

/// What becomes of a login.
#[derive(Debug, Clone)]
pub enum LoginAnswer {
    Accept,
    /// 18456, 4060, ….
    Refuse(Message),
    /// Routing to another host and port (ENVCHANGE 20).
    Redirect(String, u16),
    /// The connection drops.
    Drop,
    /// Accepted once the test opens the gate.
    Hold(Gate),
}

const FEATURE_FEDAUTH: u8 = 0x02;
const FEATURE_UTF8: u8 = 0x0A;
const FEATURE_END: u8 = 0xFF;

/// The LOGIN7 record (2.2.6.4) as far as it matters.
struct Record {
    login: Login,
    tds_version: u32,
    packet_size: u32,
    /// Identifiers and data of feature extensions.
    features: Vec<(u8, Vec<u8>)>,
}

/// Serves a connection up to its login; without one it ends here.
pub(super) async fn login(wire: &mut Wire, shared: &Shared, connection: usize) -> io::Result<Option<Login>> {
    let strict = shared.script.encryption == Encryption::Strict;
    if strict {
        wire.start_tls(Arc::clone(&shared.tls), false).await?;
    }
    let prelogin = wire.read().await?;
    if prelogin.kind != kind::PRELOGIN {
        return Err(io::ErrorKind::InvalidData.into()); // TLS, say, from a client that wants TDS 8.0
    }
    let requested = option(&prelogin.payload, 1).map_or(2, |value| value[0]);
    // What each side wants, and what the server answers: 0 off, 1 on, 2 not supported, 3 required.
    let encryption = [match (shared.script.encryption, requested) {
        (Encryption::NotSupported, _) | (Encryption::Off, 2) => 2,
        (Encryption::Off, 0) => 0,
        (Encryption::Required, 0 | 2) => 3,
        _ => 1,
    }];
    let mut options: Vec<(u8, &[u8])> = vec![(0, &[16, 0, 0x10, 0, 0, 0]), (1, &encryption), (2, &[0]), (3, &[]), (4, &[0])];
    if option(&prelogin.payload, 6).is_some() {
        options.push((6, &[1])); // FEDAUTHREQUIRED: only clients that know of it hear of it
    }
    wire.out = prelogin_response(&options);
    wire.flush(true).await?;
    if !strict && encryption != [2] {
        wire.start_tls(Arc::clone(&shared.tls), true).await?;
    }

    let mut record = record(&wire.read().await?.payload, connection);
    record.login.encrypted = wire.encrypted();
    if encryption == [0] {
        wire.end_tls();
    }
    if let Some((_, data)) = record.features.iter().find(|(id, _)| *id == FEATURE_FEDAUTH) {
        // FEDAUTH: bFedAuthLibrary is the upper 7 bits of the options; 1 comes with the token, 2 asks where to get one.
        if data[0] >> 1 == 1 {
            record.login.token = Some(from_utf16(&data[5..]));
        } else {
            fed_auth_info(&mut wire.out);
            wire.flush(true).await?;
            let message = wire.read().await?;
            assert_eq!(message.kind, kind::FEDAUTH_TOKEN);
            let len = (&message.payload[4..]).get_u32_le() as usize;
            record.login.token = Some(from_utf16(&message.payload[8..8 + len]));
        }
    }
    shared.logins.lock().unwrap().push(record.login.clone());
    let answer = (shared.script.login)(&record.login);
    let accepted = matches!(answer, LoginAnswer::Accept | LoginAnswer::Hold(_));
    if let LoginAnswer::Hold(gate) = &answer {
        gate.pass().await;
    }
    match answer {
        LoginAnswer::Accept | LoginAnswer::Hold(_) => login_ack(&mut wire.out, &record),
        LoginAnswer::Refuse(message) => {
            tokens::message(&mut wire.out, &message);
            tokens::done(&mut wire.out, 0xFD, DONE_ERROR, 0, 0);
        }
        LoginAnswer::Redirect(host, port) => {
            login_ack(&mut wire.out, &record);
            wire.out.truncate(wire.out.len() - 13); // DONE comes after the routing
            let mut routing = vec![0]; // TCP
            routing.put_u16_le(port);
            us_varchar(&mut routing, &host);
            let mut body = vec![env::ROUTING];
            body.put_u16_le(routing.len() as u16);
            body.extend(routing);
            body.put_u16_le(0);
            tokens::token(&mut wire.out, 0xE3, &body);
            tokens::done(&mut wire.out, 0xFD, 0, 0, 0);
        }
        LoginAnswer::Drop => return Ok(None),
    }
    wire.flush(true).await?;
    wire.packet_size = record.packet_size as usize;
    Ok(accepted.then_some(record.login))
}

/// The data of an option of PRELOGIN (2.2.6.5).
fn option(payload: &[u8], wanted: u8) -> Option<&[u8]> {
    let mut options = payload;
    while options[0] != 0xFF {
        let (id, offset, len) = (options.get_u8(), usize::from(options.get_u16()), usize::from(options.get_u16()));
        if id == wanted && len > 0 {
            return Some(&payload[offset..offset + len]);
        }
    }
    None
}

fn prelogin_response(options: &[(u8, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut data = Vec::new();
    for (id, value) in options {
        out.push(*id);
        out.extend(((options.len() * 5 + 1 + data.len()) as u16).to_be_bytes());
        out.extend((value.len() as u16).to_be_bytes());
        data.extend_from_slice(value);
    }
    out.push(0xFF);
    out.extend(data);
    out
}

fn record(payload: &[u8], connection: usize) -> Record {
    let word = |at: usize| usize::from((&payload[at..]).get_u16_le());
    let double = |at: usize| (&payload[at..]).get_u32_le();
    let field = |at: usize| &payload[word(at)..word(at) + 2 * word(at + 2)];
    // Each byte of the password has its halves swapped and is then XORed with 0xA5.
    let password: Vec<u8> = field(44).iter().map(|byte| (byte ^ 0xA5).rotate_left(4)).collect();
    let mut features = Vec::new();
    if payload[27] & 0x10 != 0 {
        let mut input = &payload[double(word(56)) as usize..];
        loop {
            let id = input.get_u8();
            if id == FEATURE_END {
                break;
            }
            let len = input.get_u32_le() as usize;
            features.push((id, take(&mut input, len).to_vec()));
        }
    }
    let login = Login {
        connection,
        user: from_utf16(field(40)),
        password: from_utf16(&password),
        database: from_utf16(field(68)),
        application: from_utf16(field(48)),
        server: from_utf16(field(52)),
        token: None,
        read_only: payload[26] & 0x20 != 0,
        encrypted: false,
    };
    Record { login, tds_version: double(4), packet_size: double(8).clamp(512, 32_767), features }
}

/// FEDAUTHINFO 0xEE (2.2.7.12): where the client gets its token, and for what. Offsets count from the number of options.
fn fed_auth_info(out: &mut Vec<u8>) {
    let (sts, spn) = (utf16("https://login.example/tenant"), utf16("https://database.example/"));
    let mut body = Vec::new();
    body.put_u32_le(2);
    let data = 4 + 2 * 9;
    for (id, len, offset) in [(1, sts.len(), data), (2, spn.len(), data + sts.len())] {
        body.push(id);
        body.put_u32_le(len as u32);
        body.put_u32_le(offset as u32);
    }
    body.extend(sts);
    body.extend(spn);
    out.push(0xEE);
    out.put_u32_le(body.len() as u32);
    out.extend(body);
}

/// LOGINACK 0xAD (2.2.7.14) and what goes with it.
fn login_ack(out: &mut Vec<u8>, record: &Record) {
    let database = if record.login.database.is_empty() { "master" } else { &record.login.database };
    tokens::env_text(out, env::DATABASE, database, "master");
    tokens::message(out, &Message::info(5701, format!("Changed database context to '{database}'.")));
    tokens::env_bytes(out, env::COLLATION, &Collation::Latin1.bytes(), &[]);
    tokens::env_text(out, env::LANGUAGE, "us_english", "");
    let mut body = vec![1]; // SQL_TSQL
    body.extend(record.tds_version.to_be_bytes());
    tokens::b_varchar(&mut body, "Microsoft SQL Server");
    body.extend([16, 0, 0x10, 0]);
    tokens::token(out, 0xAD, &body);
    tokens::env_text(out, env::PACKET_SIZE, &record.packet_size.to_string(), "4096");
    let mut acknowledged = Vec::new(); // FEATUREEXTACK 0xAE (2.2.7.11)
    for (id, _) in &record.features {
        let data: &[u8] = match *id {
            FEATURE_FEDAUTH => &[],
            FEATURE_UTF8 => &[1],
            _ => continue,
        };
        acknowledged.push(*id);
        acknowledged.put_u32_le(data.len() as u32);
        acknowledged.extend(data);
    }
    if !acknowledged.is_empty() {
        out.push(0xAE);
        out.extend(acknowledged);
        out.push(FEATURE_END);
    }
    tokens::done(out, 0xFD, 0, 0, 0);
}
