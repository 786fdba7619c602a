//! The server's certificate, where the driver cannot verify it as the spec asks.
//!
//! The driver trusts the system's authorities, or one certificate exactly. Where the spec names authorities of its own, or any
//! name will do (`VerifyCA`), a connection of our own greets the server, verifies what it shows by the rules of [`crate::tls`] and
//! leaves; the driver then accepts that one certificate.

use std::{
    collections::HashMap,
    io::Write as _,
    path::Path,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use futures::{FutureExt as _, future::select_ok};
use rustls::{ClientConnection, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::connect::CONNECT_TIMEOUT;
use crate::{
    api::database::{SqlServerDatabase, TlsMode},
    connect::{ConnectError, chain},
    secrets::Secrets,
    tls,
};

/// A file that holds the one certificate that the server may show.
pub struct Pin(tempfile::NamedTempFile);

impl Pin {
    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

/// Who shows a certificate, and what it was verified by: host, port, mode, name and authorities.
type Verified = (String, u16, TlsMode, Option<String>, Option<String>);

/// Certificates (DER) that this process has verified: one greeting serves many sessions.
static VERIFIED: LazyLock<Mutex<HashMap<Verified, Vec<u8>>>> = LazyLock::new(Mutex::default);

/// The certificate to accept; none if the driver verifies it by itself. `anew`: do not go by what was verified before.
pub async fn pin(database: &SqlServerDatabase, secrets: &Secrets, anew: bool) -> Result<Option<Pin>, ConnectError> {
    let wanted = &database.tls;
    let ours = match wanted.mode {
        TlsMode::VerifyCA => true,
        TlsMode::VerifyFull | TlsMode::Strict => wanted.ca.is_some(),
        TlsMode::Require | TlsMode::Disable => false,
    };
    if !ours {
        return Ok(None);
    }
    let authorities = match &wanted.ca {
        Some(ca) => Some(secrets.authorities(ca).await?),
        None => None,
    };
    let key = (database.host.clone(), database.port, wanted.mode, wanted.server_name.clone(), authorities);
    let known = VERIFIED.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
    let certificate = if let Some(certificate) = known.filter(|_| !anew) {
        certificate
    } else {
        let certificate = verify(database, key.4.as_deref()).await?;
        VERIFIED.lock().unwrap_or_else(PoisonError::into_inner).insert(key, certificate.clone());
        certificate
    };
    let kept = tempfile::NamedTempFile::new().and_then(|mut file| file.write_all(&certificate).map(|()| file));
    let file = kept.map_err(|error| ConnectError::Other(format!("cannot keep the server's certificate in a file: {error}")))?;
    Ok(Some(Pin(file)))
}

/// Greets the server and verifies its certificate.
async fn verify(database: &SqlServerDatabase, authorities: Option<&str>) -> Result<Vec<u8>, ConnectError> {
    let SqlServerDatabase { host, port, tls: wanted, .. } = database;
    let place = format!("{host}:{port}");
    let failed = |what: String| ConnectError::TlsFailed(format!("{place}: {what}"));
    let Some(mut config) = tls::config(wanted.mode, authorities).map_err(failed)? else {
        return Err(failed("nothing is verified in this mode".to_owned()));
    };
    let strict = wanted.mode == TlsMode::Strict;
    if strict {
        config.alpn_protocols = vec![b"tds/8.0".to_vec()];
    }
    let name = wanted.server_name.as_deref().unwrap_or(host).to_owned();
    let name = ServerName::try_from(name).map_err(|error| failed(error.to_string()))?;
    let session = ClientConnection::new(Arc::new(config), name).map_err(|error| failed(error.to_string()))?;
    let greet = async {
        let mut socket = dial(host, *port).await.map_err(|error| Trouble::Unreachable(error.to_string()))?;
        if !strict {
            prelogin(&mut socket).await?;
        }
        handshake(&mut socket, session, strict).await
    };
    let answer = timeout(CONNECT_TIMEOUT, greet).await;
    let answer = answer.unwrap_or_else(|_| Err(Trouble::Lost(format!("no TLS answer within {} s", CONNECT_TIMEOUT.as_secs()))));
    answer.map_err(|trouble| match trouble {
        // What a server does that does not know TDS 8.0.
        Trouble::Lost(what) if strict => failed(format!(
            "{what}; Strict needs SQL Server 2022 or newer, Azure SQL Database or SQL Managed Instance: else set VerifyFull"
        )),
        Trouble::Unreachable(what) | Trouble::Lost(what) => ConnectError::Unreachable(format!("{place}: {what}")),
        Trouble::Refused(what) => failed(what),
    })
}

/// Why there is no certificate.
enum Trouble {
    /// There is no connection.
    Unreachable(String),
    /// The connection broke, or nothing came.
    Lost(String),
    /// The server or its certificate is not as it should be.
    Refused(String),
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Self {
        Self::Lost(error.to_string())
    }
}

/// Connects to the first address of the host that answers: the listener of an availability group has one that does not.
async fn dial(host: &str, port: u16) -> std::io::Result<TcpStream> {
    let attempts: Vec<_> = tokio::net::lookup_host((host, port)).await?.map(|address| TcpStream::connect(address).boxed()).collect();
    if attempts.is_empty() {
        return Err(std::io::Error::new(std::io::ErrorKind::NotFound, "the host has no address"));
    }
    select_ok(attempts).await.map(|(socket, _)| socket)
}

/// Type of a pre-login packet (MS-TDS 2.2.3.1.1).
const PRELOGIN: u8 = 0x12;
/// Bytes of a packet's header.
const HEADER: usize = 8;
/// Largest packet before the login has agreed on a size.
const PACKET: usize = 4096;

/// Asks for encryption (MS-TDS 2.2.6.5, PRELOGIN): of the options version and encryption alone.
async fn prelogin(socket: &mut TcpStream) -> Result<(), Trouble> {
    // Each option: its token, where its data stands, and how long it is.
    let options = [0x00, 0, 11, 0, 6, 0x01, 0, 17, 0, 1, 0xff];
    let (version, encrypt) = ([0; 6], [0x01]);
    write(socket, &[&options[..], &version, &encrypt].concat()).await?;
    let answer = read(socket).await?;
    let mut options = answer.chunks_exact(5).take_while(|option| option[0] != 0xff);
    let at = options.find(|option| option[0] == 0x01).map(|option| usize::from(u16::from_be_bytes([option[1], option[2]])));
    match at.and_then(|at| answer.get(at)) {
        // On, or required.
        Some(0x01 | 0x03) => Ok(()),
        _ => Err(Trouble::Refused("the server does not encrypt: give it a certificate, or set tls.mode to Disable".to_owned())),
    }
}

/// Shakes hands, and returns the certificate that was verified. In a session that is not strict the bytes of the handshake travel
/// in pre-login packets.
async fn handshake(socket: &mut TcpStream, mut session: ClientConnection, strict: bool) -> Result<Vec<u8>, Trouble> {
    loop {
        let mut bytes = Vec::new();
        while session.wants_write() {
            session.write_tls(&mut bytes)?;
        }
        match (bytes.is_empty(), strict) {
            (true, _) => {}
            (false, true) => socket.write_all(&bytes).await?,
            (false, false) => write(socket, &bytes).await?,
        }
        if !session.is_handshaking() {
            break;
        }
        let received = if strict { receive(socket).await? } else { read(socket).await? };
        let mut unread = &received[..];
        while !unread.is_empty() {
            session.read_tls(&mut unread)?;
            if let Err(error) = session.process_new_packets() {
                return Err(Trouble::Refused(chain(&error)));
            }
        }
    }
    let certificate = session.peer_certificates().and_then(|chain| chain.first());
    certificate.map(|leaf| leaf.to_vec()).ok_or_else(|| Trouble::Refused("the server shows no certificate".to_owned()))
}

async fn receive(socket: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; PACKET];
    let length = socket.read(&mut bytes).await?;
    if length == 0 {
        return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the server hung up while encryption was agreed on"));
    }
    bytes.truncate(length);
    Ok(bytes)
}

/// Sends a message in as many packets as it needs.
async fn write(socket: &mut TcpStream, message: &[u8]) -> std::io::Result<()> {
    let parts = message.chunks(PACKET - HEADER);
    let last = parts.len();
    for (number, part) in (1..).zip(parts) {
        let [high, low] = ((part.len() + HEADER) as u16).to_be_bytes();
        let header = [PRELOGIN, u8::from(number == last), high, low, 0, 0, number as u8, 0];
        socket.write_all(&[&header[..], part].concat()).await?;
    }
    socket.flush().await
}

/// Receives the data of one packet.
async fn read(socket: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut header = [0; HEADER];
    socket.read_exact(&mut header).await?;
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let mut data = vec![0; length.saturating_sub(HEADER)];
    socket.read_exact(&mut data).await?;
    Ok(data)
}
