//! Encryption and authentication.

use std::process::Command;

use async_trait::async_trait;
use mssql_tds::{
    connection::client_context::{EntraIdTokenFactory, TdsAuthenticationMethod},
    core::{EncryptionSetting, TdsResult},
    error::Error,
};

use super::{connect, context, error, file, login, query};
use crate::support::tds::{Answer, Encryption, Gate, LoginAnswer, Message, Rules, Script, Server, Type, row};

fn one() -> Script {
    Rules::new().on("SELECT 1", Answer::rows([("one", Type::Int)], [row![1]])).into()
}

#[tokio::test]
async fn a_login_is_recorded() {
    let server = Server::start(one());
    let mut client = connect(&server).await;
    assert_eq!(client.database(), "shop");
    query(&mut client, "SELECT 1").await.unwrap();
    let [login] = &server.logins()[..] else { panic!() };
    assert_eq!((login.user.as_str(), login.password.as_str()), ("reader", "p@ss wörd"));
    assert_eq!((login.database.as_str(), login.application.as_str()), ("shop", "tests"));
    assert_eq!((login.connection, login.token.as_ref(), login.encrypted), (1, None, false));
}

#[tokio::test]
async fn encryption_is_negotiated() {
    use EncryptionSetting as Client;
    for (server, client, encrypted) in [
        (Encryption::NotSupported, Client::PreferOff, Some(false)),
        (Encryption::NotSupported, Client::Required, None),
        (Encryption::Off, Client::PreferOff, Some(true)), // for the login only
        (Encryption::Off, Client::Required, Some(true)),
        (Encryption::Required, Client::PreferOff, Some(true)),
        (Encryption::Required, Client::Required, Some(true)),
        (Encryption::Required, Client::Strict, None),
        (Encryption::Strict, Client::Strict, Some(true)),
    ] {
        let server = Server::start(one().encryption(server));
        let (_dir, certificate) = file(server.certificate_pem());
        let mut context = context(client);
        context.encryption_options.server_certificate = Some(certificate);
        match (login(&server, context).await, encrypted) {
            (Ok(mut client), Some(encrypted)) => {
                assert_eq!(query(&mut client, "SELECT 1").await.unwrap().len(), 1);
                assert_eq!(server.logins()[0].encrypted, encrypted);
            }
            (Err(_), None) => assert_eq!(server.logins(), []),
            (result, _) => panic!("{client:?}: {:?}", result.err()),
        }
    }
}

/// OpenSSL takes the authorities that it trusts from the environment, so the client is another process.
#[tokio::test]
async fn the_certificate_is_checked() {
    for (encryption, mode) in [(Encryption::Required, "required"), (Encryption::Strict, "strict")] {
        let server = Server::start(one().encryption(encryption));
        let other = Server::start(one());
        for (trusted, works) in [(&server, true), (&other, false)] {
            let (_dir, path) = file(trusted.ca_pem());
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "--ignored", "tds_server::logins::client_of_another_process"]).env("SSL_CERT_FILE", path);
            command.env("PORT", server.address().port().to_string()).env("MODE", mode);
            let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
            assert_eq!(output.status.success(), works, "{}", String::from_utf8_lossy(&output.stdout));
        }
        assert_eq!(server.logins().len(), 1);
    }
}

#[tokio::test]
#[ignore = "part of the_certificate_is_checked"]
async fn client_of_another_process() {
    let mode = if std::env::var("MODE").unwrap() == "strict" { EncryptionSetting::Strict } else { EncryptionSetting::Required };
    let source = format!("tcp:localhost,{}", std::env::var("PORT").unwrap());
    let provider = mssql_tds::connection_provider::tds_connection_provider::TdsConnectionProvider {};
    let mut client = provider.create_client(context(mode), &source, None).await.unwrap();
    query(&mut client, "SELECT 1").await.unwrap();
}

#[tokio::test]
async fn a_login_is_refused() {
    let server = Server::start(one().login(|login| match login.database.as_str() {
        "shop" => LoginAnswer::Refuse(Message::new(18456, 1, 14, format!("Login failed for user '{}'.", login.user))),
        "gone" => LoginAnswer::Drop,
        _ => LoginAnswer::Accept,
    }));
    let refused = login(&server, context(EncryptionSetting::PreferOff)).await.err().unwrap();
    assert_eq!(error(refused), (18456, "Login failed for user 'reader'.".into()));
    for (database, works) in [("gone", false), ("other", true)] {
        let mut context = context(EncryptionSetting::PreferOff);
        context.database = database.into();
        assert_eq!(login(&server, context).await.is_ok(), works);
    }
    assert_eq!(server.logins().len(), 3);
}

#[tokio::test]
async fn a_login_is_held() {
    let gate = Gate::default();
    let held = gate.clone();
    let server = Server::start(one().login(move |_| LoginAnswer::Hold(held.clone())));
    let mut impatient = context(EncryptionSetting::PreferOff);
    impatient.login_timeout = Some(1);
    assert!(login(&server, impatient).await.is_err());
    gate.open();
    query(&mut connect(&server).await, "SELECT 1").await.unwrap();
}

#[tokio::test]
async fn a_login_is_redirected() {
    let target = Server::start(one());
    let port = target.address().port();
    let gateway = Server::start(one().login(move |_| LoginAnswer::Redirect("127.0.0.1".into(), port)));
    let mut client = connect(&gateway).await;
    query(&mut client, "SELECT 1").await.unwrap();
    assert_eq!((gateway.logins().len(), target.logins().len()), (1, 1));
    assert_eq!((gateway.statements().len(), target.statements().len()), (0, 1));
}

#[tokio::test]
async fn a_token_comes_with_the_login() {
    for encryption in [Encryption::Required, Encryption::Strict] {
        let server = Server::start(one().encryption(encryption));
        let (_dir, certificate) = file(server.certificate_pem());
        let strict = encryption == Encryption::Strict;
        let mut context = context(if strict { EncryptionSetting::Strict } else { EncryptionSetting::Required });
        context.encryption_options.server_certificate = Some(certificate);
        context.tds_authentication_method = TdsAuthenticationMethod::AccessToken;
        context.access_token = Some("header.payload.signature".into());
        query(&mut login(&server, context).await.unwrap(), "SELECT 1").await.unwrap();
        assert_eq!(server.logins()[0].token.as_deref(), Some("header.payload.signature"));
    }
}

/// Gets tokens that tell where they are for.
#[derive(Clone)]
struct Tokens;

#[async_trait]
impl EntraIdTokenFactory for Tokens {
    async fn create_token(&self, spn: String, sts: String, _: TdsAuthenticationMethod) -> TdsResult<Vec<u8>> {
        Ok(format!("{spn} {sts}").encode_utf16().flat_map(u16::to_le_bytes).collect())
    }
}

#[tokio::test]
async fn a_token_is_asked_for() {
    let server = Server::start(one().login(|login| match &login.token {
        Some(_) => LoginAnswer::Accept,
        None => LoginAnswer::Refuse(Message::error(18456, "no token")),
    }));
    let mut context = context(EncryptionSetting::PreferOff);
    context.tds_authentication_method = TdsAuthenticationMethod::ActiveDirectoryWorkloadIdentity;
    context.auth_method_map.insert(TdsAuthenticationMethod::ActiveDirectoryWorkloadIdentity, Box::new(Tokens));
    query(&mut login(&server, context).await.unwrap(), "SELECT 1").await.unwrap();
    assert_eq!(server.logins()[0].token.as_deref(), Some("https://database.example/ https://login.example/tenant"));
}

#[tokio::test]
async fn it_stops_when_it_is_dropped() {
    let server = Server::start(one());
    let mut client = connect(&server).await;
    query(&mut client, "SELECT 1").await.unwrap();
    let address = server.address();
    drop(server);
    assert!(matches!(query(&mut client, "SELECT 1").await, Err(Error::Io(_) | Error::ConnectionClosed(_))));
    assert!(std::net::TcpStream::connect(address).is_err());
}
