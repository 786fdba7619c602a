//! A scripted SQL Server: it speaks TDS 7.4 and 8.0 on loopback, answers what a test tells it to, and records what it is asked.
//!
//! ```ignore
//! let rules = Rules::new()
//!     .once("FROM [orders]", Answer::fault(Fault::Drop))
//!     .on("FROM [orders]", Answer::rows([("id", Type::Int), ("name", Type::NVarChar(20))], [row![1, "one"], row![2, None::<&str>]]))
//!     .on("DELETE", Answer::rollback().then(Answer::error(1205, "deadlock")));
//! let server = Server::start(Script::new(move |request| rules.answer(request)).encryption(Encryption::Required));
//! // … connect to server.address(), trusting server.ca_pem(); as any user unless Script::login says otherwise …
//! assert_eq!(server.statements(), ["BEGIN TRANSACTION", "SELECT * FROM [orders]", "COMMIT TRANSACTION"]);
//! ```
//!
//! Numbers in comments are sections of [MS-TDS]. A request that the server cannot read panics in its task and closes the
//! connection; the test's output says why. The server needs a tokio runtime, and stops when it is dropped.

#![allow(dead_code, unused_imports)] // each test binary uses its own part
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // clippy does not see that this is a test

mod answer;
mod calendar;
mod login;
mod session;
mod tokens;
mod types;
mod value;
mod wire;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::{ServerConfig, crypto::aws_lc_rs, server::NoServerSessionStorage, version};
use tokio::{net::TcpListener, task::JoinSet};

pub use answer::{Answer, Fault, Gate, Kind, Message, Parameter, Request, Rules};
pub use login::{Encryption, Login, LoginAnswer};
pub use types::{Collation, Column, Type};
pub use value::Value;

/// A row of values that convert into [`Value`].
#[macro_export]
macro_rules! row {
    ($($value:expr),* $(,)?) => { vec![$($value.into()),*] };
}
pub use crate::row;

/// How a server behaves.
pub struct Script {
    encryption: Encryption,
    login: Box<dyn Fn(&Login) -> LoginAnswer + Send + Sync>,
    answer: Box<dyn Fn(&Request) -> Answer + Send + Sync>,
}

impl Script {
    /// Answers requests like this; without encryption, to any user.
    pub fn new(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self { encryption: Encryption::NotSupported, login: Box::new(|_| LoginAnswer::Accept), answer: Box::new(answer) }
    }

    #[must_use]
    pub fn encryption(self, encryption: Encryption) -> Self {
        Self { encryption, ..self }
    }

    /// Decides on logins.
    #[must_use]
    pub fn login(self, login: impl Fn(&Login) -> LoginAnswer + Send + Sync + 'static) -> Self {
        Self { login: Box::new(login), ..self }
    }
}

impl From<Rules> for Script {
    fn from(rules: Rules) -> Self {
        Self::new(move |request| rules.answer(request))
    }
}

/// What connections share.
struct Shared {
    script: Script,
    tls: Arc<ServerConfig>,
    logins: Mutex<Vec<Login>>,
    requests: Mutex<Vec<Request>>,
}

/// A running server; it goes with its connections when it is dropped.
pub struct Server {
    address: SocketAddr,
    ca_pem: String,
    certificate_pem: String,
    shared: Arc<Shared>,
    accepting: tokio::task::AbortHandle,
}

impl Server {
    /// Starts on a free port of 127.0.0.1.
    pub fn start(script: impl Into<Script>) -> Self {
        let script = script.into();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let (tls, ca_pem, certificate_pem) = tls(script.encryption);
        let shared = Arc::new(Shared { script, tls, logins: Mutex::default(), requests: Mutex::default() });
        let state = Arc::clone(&shared);
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new(); // aborts them when this task is aborted
            for number in 1.. {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                connections.spawn(session::serve(wire::Wire::new(stream), Arc::clone(&state), number));
            }
        });
        Self { address, ca_pem, certificate_pem, shared, accepting: accepting.abort_handle() }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The authority that signed the server's certificate.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The server's certificate: for `localhost` and 127.0.0.1.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Logins in order, refused ones too.
    pub fn logins(&self) -> Vec<Login> {
        self.shared.logins.lock().unwrap().clone()
    }

    /// Requests in order, of all connections.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Statements of [`Server::requests`], with those that begin and end transactions.
    pub fn statements(&self) -> Vec<String> {
        self.requests().into_iter().map(|request| request.statement).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// The server's TLS, its authority's certificate and its own.
fn tls(encryption: Encryption) -> (Arc<ServerConfig>, String, String) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Authority of a scripted server");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "localhost");
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, &ca).unwrap();
    let versions = if encryption == Encryption::Strict { &[&version::TLS13][..] } else { &[&version::TLS12] };
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.into())
        .unwrap();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    if encryption == Encryption::Strict {
        config.alpn_protocols = vec![b"tds/8.0".to_vec()];
    }
    (Arc::new(config), ca.pem(), certificate.pem())
}
