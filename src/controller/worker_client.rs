//! The client of one worker's API: one connection that lasts as long as its worker.
//!
//! A controller holds one for each of a thousand workers, and most of them wait most of the time: so it speaks HTTP/1.1 over one TLS
//! session and keeps no buffer while it waits. A general client's pools, channels and buffers are larger than all else that is kept of a
//! small link.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::http::{
    Method, Request, StatusCode,
    header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE},
};
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    pki_types::{
        CertificateDer, ServerName,
        pem::{self, PemObject as _},
    },
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use ureq_proto::client::{
    Call, RecvBodyResult, RecvResponseResult, SendRequestResult,
    state::{RecvBody, RecvResponse},
};

use super::{certificate::Trust, workers::StoredPlan};
use crate::api::{plan::API_SERVER_NAME, report::Report};

/// How long a worker may hold a request for its report, seconds.
const LONG_POLL: u64 = 25;
/// How long it may take to reach a worker.
const CONNECT: Duration = Duration::from_secs(5);
/// How long it may take to answer, beyond the time for which it holds a request.
const ANSWER: Duration = Duration::from_secs(10);
/// Room for the head of a request: some 200 bytes, and a token of 64.
const REQUEST_HEAD: usize = 1024;
/// The longest head of an answer, bytes.
const LONGEST_HEAD: usize = 16 << 10;
/// The longest report, bytes. One of 10,000 tables has 6 MB.
const LONGEST: usize = 64 << 20;

/// Why a worker did not answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be reached, is not who it should be, or the connection broke.
    #[error("no connection: {0}")]
    Connection(#[from] io::Error),
    /// What it says is no HTTP.
    #[error("it does not speak HTTP: {0}")]
    Protocol(#[from] ureq_proto::Error),
    /// No request can be made of what is to be said.
    #[error("it cannot be asked: {0}")]
    Request(#[from] axum::http::Error),
    /// It is too slow.
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// It refuses.
    #[error("it answered {0}")]
    Status(StatusCode),
    /// An answer that never ends.
    #[error("its answer has more than {0} bytes")]
    TooLong(usize),
    /// A report of another form.
    #[error("its report cannot be understood: {0}")]
    Report(#[from] serde_json::Error),
    /// The Secret's certificates.
    #[error("its authority is not readable: {0}")]
    Authority(#[from] pem::Error),
    /// The Secret's certificates.
    #[error("its authority is not one: {0}")]
    NoAuthority(#[from] rustls::Error),
}

/// A connection to a worker's API. One that met an error is of no more use, and so is one whose answer nobody waited for.
pub struct WorkerClient {
    stream: TlsStream<TcpStream>,
    /// Value of the header that says who asks.
    authorization: String,
}

impl WorkerClient {
    /// Connects to the worker at this address.
    pub async fn connect(address: SocketAddr, trust: &Trust) -> Result<Self, Error> {
        let connector = TlsConnector::from(Arc::new(tls(trust)?));
        let connect = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            connector.connect(ServerName::try_from(API_SERVER_NAME).map_err(io::Error::other)?, stream).await
        };
        let stream = within(CONNECT, Box::pin(connect)).await??;
        Ok(Self { stream, authorization: format!("Bearer {}", trust.token) })
    }

    /// Hands over a plan.
    pub async fn push(&mut self, plan: &StoredPlan) -> Result<(), Error> {
        match within(ANSWER, self.exchange(Method::PUT, "/v1/plan", &plan.body)).await??.0 {
            // A newer plan than the one that is stored: another leader's, which this process will soon hear of.
            StatusCode::CONFLICT => Ok(()),
            status if status.is_success() => Ok(()),
            status => Err(Error::Status(status)),
        }
    }

    /// Waits for a report of a higher sequence than this; None if there was none for long.
    pub async fn ask(&mut self, after: u64) -> Result<Option<Report>, Error> {
        let path = format!("/v1/report?after={after}&timeout={LONG_POLL}");
        match within(Duration::from_secs(LONG_POLL) + ANSWER, self.exchange(Method::GET, &path, &[])).await?? {
            (StatusCode::NO_CONTENT, _) => Ok(None),
            (StatusCode::OK, report) => Ok(Some(serde_json::from_slice(&report)?)),
            (status, _) => Err(Error::Status(status)),
        }
    }

    /// Sends a request and reads the answer to it. What takes room to read it is made once there is something to read.
    async fn exchange(&mut self, method: Method, path: &str, body: &[u8]) -> Result<(StatusCode, Vec<u8>), Error> {
        let head = self.request(&method, path, body.len())?.0;
        self.stream.write_all(&head).await?;
        drop(head);
        self.stream.write_all(body).await?;
        self.stream.flush().await?;
        filled(self.stream.fill_buf().await?)?;
        let call = self.request(&method, path, body.len())?.1;
        Box::pin(self.receive(call)).await
    }

    /// The head of a request, and who understands the answer to it.
    fn request(&self, method: &Method, path: &str, length: usize) -> Result<(Vec<u8>, Call<RecvResponse>), Error> {
        let mut request = Request::builder().method(method).uri(format!("https://{API_SERVER_NAME}{path}"));
        request = request.header(AUTHORIZATION, &self.authorization);
        if length > 0 {
            request = request.header(CONTENT_TYPE, "application/gzip").header(CONTENT_LENGTH, length);
        }
        let mut call = Call::new(request.body(())?)?.proceed();
        let mut head = vec![0; REQUEST_HEAD];
        let used = call.write(&mut head)?;
        head.truncate(used);
        let call = match call.proceed()? {
            Some(SendRequestResult::RecvResponse(call)) => Some(call),
            Some(SendRequestResult::SendBody(mut call)) => {
                call.consume_direct_write(length)?;
                call.proceed()
            }
            Some(SendRequestResult::Await100(_)) | None => None,
        };
        Ok((head, call.ok_or_else(broken)?))
    }

    async fn receive(&mut self, call: Call<RecvResponse>) -> Result<(StatusCode, Vec<u8>), Error> {
        let (status, call) = self.answer(call).await?;
        let body = match call {
            RecvResponseResult::RecvBody(call) => self.body(call).await?,
            RecvResponseResult::Redirect(_) | RecvResponseResult::Cleanup(_) => Vec::new(),
        };
        Ok((status, body))
    }

    /// Waits for the head of an answer.
    async fn answer(&mut self, mut call: Call<RecvResponse>) -> Result<(StatusCode, RecvResponseResult), Error> {
        let mut head = Vec::new();
        loop {
            let known = head.len();
            head.extend_from_slice(filled(self.stream.fill_buf().await?)?);
            let (used, answer) = call.try_response(&head, false)?;
            if let Some(answer) = answer {
                self.stream.consume(used.saturating_sub(known));
                return Ok((answer.status(), call.proceed().ok_or_else(broken)?));
            }
            self.stream.consume(head.len() - known);
            head.drain(..used);
            if head.len() > LONGEST_HEAD {
                return Err(Error::TooLong(LONGEST_HEAD));
            }
        }
    }

    /// Reads the body of an answer.
    async fn body(&mut self, mut call: Call<RecvBody>) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        while !call.can_proceed() {
            let input = filled(self.stream.fill_buf().await?)?;
            let known = body.len();
            body.resize(known + input.len(), 0);
            let (used, read) = call.read(input, &mut body[known..])?;
            body.truncate(known + read);
            self.stream.consume(used);
            if body.len() > LONGEST {
                return Err(Error::TooLong(LONGEST));
            }
        }
        match call.proceed() {
            // The next request follows on the same connection.
            Some(RecvBodyResult::Cleanup(call)) if !call.must_close_connection() => Ok(body),
            _ => Err(broken()),
        }
    }
}

/// What there is to read, unless that is the end.
fn filled(input: &[u8]) -> Result<&[u8], Error> {
    if input.is_empty() { Err(broken()) } else { Ok(input) }
}

fn broken() -> Error {
    io::Error::from(io::ErrorKind::UnexpectedEof).into()
}

async fn within<T>(time: Duration, work: impl Future<Output = T>) -> Result<T, Error> {
    time::timeout(time, work).await.map_err(|_| Error::Timeout(time))
}

fn tls(trust: &Trust) -> Result<ClientConfig, Error> {
    let mut authorities = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(trust.authorities.as_bytes()) {
        authorities.add(authority?)?;
    }
    let mut tls = ClientConfig::builder().with_root_certificates(authorities).with_no_client_auth();
    // What would make the next connection cheaper is as large as all else of this one.
    tls.resumption = Resumption::disabled();
    Ok(tls)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use jiff::Timestamp;
    use rustls::{ServerConfig, pki_types::PrivateKeyDer};
    use tokio::{io::AsyncReadExt as _, net::TcpListener};
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::controller::certificate::Credentials;

    const REPORT: &str = r#"{"formatVersion":1,"sequence":7,"worker":"shop-0","version":"1","planRevision":3}"#;

    /// A server that reads a request and writes these pieces of an answer, one after the other, for each of these answers; then it ends
    /// the connection. And what it was asked.
    async fn client(answers: Vec<Vec<String>>) -> (WorkerClient, tokio::task::JoinHandle<Vec<String>>) {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let credentials = Credentials::issue(Timestamp::now(), None).unwrap();
        let certificates = CertificateDer::pem_slice_iter(credentials.certificate.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(credentials.key.as_bytes()).unwrap();
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(certificates, key).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let stream = listener.accept().await.unwrap().0;
            let mut stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.unwrap();
            let mut asked = Vec::new();
            for answer in answers {
                let mut request = vec![0; 4096];
                let length = stream.read(&mut request).await.unwrap();
                asked.push(String::from_utf8_lossy(&request[..length]).into_owned());
                for piece in answer {
                    stream.write_all(piece.as_bytes()).await.unwrap();
                    stream.flush().await.unwrap();
                    time::sleep(Duration::from_millis(20)).await;
                }
            }
            asked
        });
        (WorkerClient::connect(address, &credentials.trust).await.unwrap(), server)
    }

    fn pieces(pieces: &[&str]) -> Vec<String> {
        pieces.iter().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn answers_in_pieces_follow_each_other_on_one_connection() {
        let (head, tail) = REPORT.split_at(20);
        let sized = format!("Content-Length: {}\r\n\r\n{head}", REPORT.len());
        let chunked =
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{head}\r\n{:x}\r\n{tail}", head.len(), tail.len());
        let (mut client, server) = client(vec![
            pieces(&["HTTP/1.1 204 No Content\r\n\r\n"]),
            pieces(&["HTTP/1.1 200 O", "K\r\n", &sized, tail]),
            pieces(&[&chunked, "\r\n0\r\n", "\r\n"]),
            pieces(&["HTTP/1.1 409 Conflict\r\nContent-Length: 2\r\n\r\n{}"]),
            pieces(&["HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"]),
        ])
        .await;
        assert_eq!(client.ask(0).await.unwrap(), None);
        assert_eq!(client.ask(0).await.unwrap().unwrap().sequence, 7);
        assert_eq!(client.ask(7).await.unwrap().unwrap().plan_revision, 3);
        client.push(&StoredPlan { revision: 1, body: Bytes::from_static(b"a plan") }).await.unwrap();
        assert_eq!(client.ask(7).await.unwrap_err().to_string(), "it answered 401 Unauthorized");
        let asked = server.await.unwrap();
        assert!(
            asked[2].starts_with("GET /v1/report?after=7&timeout=25 HTTP/1.1\r\n") && asked[2].contains("uthorization: Bearer "),
            "{}",
            asked[2]
        );
        assert!(
            asked[3].starts_with("PUT /v1/plan HTTP/1.1\r\n") && asked[3].to_lowercase().contains("content-length: 6\r\n"),
            "{}",
            asked[3]
        );
        assert!(client.ask(7).await.unwrap_err().to_string().starts_with("no connection: "), "it has ended");
    }

    #[tokio::test]
    async fn what_is_no_report_is_an_error_and_nobody_reads_for_ever() {
        let answer = |body: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        for (answer, error) in [
            ("SSH-2.0-OpenSSH_9.2\r\n\r\n".to_owned(), "it does not speak HTTP"),
            (answer("[1, 2]"), "its report cannot be understood"),
            (answer(&REPORT[..20]).replace("20", "90"), "no connection"),
            (format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(20_000)), "its answer has more than 16384 bytes"),
        ] {
            let (mut client, _server) = client(vec![vec![answer.clone()]]).await;
            let said = client.ask(0).await.unwrap_err().to_string();
            assert!(said.starts_with(error), "{said}: {}", &answer[..30.min(answer.len())]);
        }
    }
}
