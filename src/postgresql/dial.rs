//! The socket to a PostgreSQL server, encrypted as asked, before any message of a session.
//!
//! Ordinary sessions and replication sessions both start here, so that they verify certificates and time out alike.

use std::{sync::Arc, time::Duration};

use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::connect::Login;
use crate::{
    api::database::{PostgresqlDatabase, TlsMode},
    connect::{ConnectError, chain},
    secrets::Secrets,
    tls,
};

/// Longest time for each of: TCP, TLS and login.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A duplex stream of bytes to a server.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for T {}

/// Opens the socket and, unless the mode is `Disable`, negotiates TLS.
pub async fn dial(database: &PostgresqlDatabase, secrets: &Secrets, login: &Login) -> Result<Box<dyn Transport>, ConnectError> {
    let place = &login.place;
    let unreachable = |what: String| ConnectError::Unreachable(format!("{place}: {what}"));
    let socket = timeout(CONNECT_TIMEOUT, TcpStream::connect((database.host.as_str(), database.port)))
        .await
        .map_err(|_| unreachable(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs())))?
        .map_err(|error| unreachable(error.to_string()))?;
    // A peer that vanished is noticed within a minute, also by a reader that only listens.
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10)).with_retries(3);
    SockRef::from(&socket).set_tcp_keepalive(&keepalive).map_err(|error| unreachable(error.to_string()))?;
    socket.set_nodelay(true).map_err(|error| unreachable(error.to_string()))?;

    if database.tls.mode == TlsMode::Disable {
        return Ok(Box::new(socket));
    }
    timeout(CONNECT_TIMEOUT, encrypt(socket, database, secrets, place))
        .await
        .map_err(|_| unreachable(format!("no TLS answer within {} s", CONNECT_TIMEOUT.as_secs())))?
}

async fn encrypt(
    mut socket: TcpStream,
    database: &PostgresqlDatabase,
    secrets: &Secrets,
    place: &str,
) -> Result<Box<dyn Transport>, ConnectError> {
    let failed = |what: String| ConnectError::TlsFailed(format!("{place}: {what}"));
    let authorities = match &database.tls.ca {
        Some(ca) => Some(secrets.authorities(ca).await?),
        None => None,
    };
    let Some(config) = tls::config(database.tls.mode, authorities.as_deref()).map_err(failed)? else {
        return Ok(Box::new(socket));
    };
    let name = database.tls.server_name.as_deref().unwrap_or(&database.host).to_owned();
    let name = ServerName::try_from(name).map_err(|error| failed(error.to_string()))?;

    // SSLRequest (PostgreSQL manual, "Message Formats"): answered by one byte, S or N.
    let io = |error: std::io::Error| ConnectError::Unreachable(format!("{place}: {error}"));
    socket.write_all(&[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f]).await.map_err(io)?;
    if socket.read_u8().await.map_err(io)? != b'S' {
        return Err(failed("the server does not offer TLS; set tls.mode to Disable if the network is trusted".to_owned()));
    }
    let stream = TlsConnector::from(Arc::new(config)).connect(name, socket).await.map_err(|error| failed(chain(&error)))?;
    Ok(Box::new(stream))
}
