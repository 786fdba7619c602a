use super::*;

#[tokio::test]
async fn every_session_prints_alike_whatever_the_server_says() {
    let database = Server::shared().create_database().await;
    let session = connect(&database.spec, &database.secrets, "test").await.unwrap();
    let row = session
        .query_one("SELECT now()::text LIKE '%+00', interval '1 day 1 s'::text, '\\x00'::bytea::text, current_setting('search_path')", &[])
        .await
        .unwrap();
    assert!(row.get::<_, bool>(0));
    assert_eq!(row.get::<_, &str>(1), "1 day 00:00:01");
    assert_eq!((row.get::<_, &str>(2), row.get::<_, &str>(3)), ("\\x00", "pg_catalog"));
}

#[tokio::test]
async fn certificates_are_verified_as_the_mode_says() {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_pem = authority.self_signed(&authority_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let certificate = CertificateParams::new(vec!["shop.example".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let server = Server::start_with_files(
        &["ssl=on", "ssl_cert_file=../server.crt", "ssl_key_file=../server.key"],
        &[("server.crt", &certificate.pem()), ("server.key", &key.serialize_pem())],
    );
    let mut database = server.create_database().await;
    database.set_secret("ca.crt", &authority_pem);
    let ca =
        || Some(CaSource { secret_key_ref: Some(SecretKey { name: SECRET.to_owned(), key: "ca.crt".to_owned() }), ..Default::default() });
    let name = || Some("shop.example".to_owned());
    for (mode, ca, server_name, expected) in [
        (TlsMode::VerifyFull, ca(), name(), Ok(())),
        (TlsMode::VerifyFull, ca(), None, Err("TlsFailed")),
        (TlsMode::VerifyFull, None, name(), Err("TlsFailed")),
        (TlsMode::VerifyCA, ca(), None, Ok(())),
        (TlsMode::VerifyCA, None, None, Err("TlsFailed")),
        (TlsMode::Require, None, None, Ok(())),
    ] {
        let case = format!("{mode:?} {} {server_name:?}", ca.is_some());
        database.spec.tls = Tls { mode, ca, server_name };
        let connected = connect(&database.spec, &database.secrets, "test").await;
        assert_eq!(connected.as_ref().map(|_| ()).map_err(<&str>::from), expected, "{case}");
        if let Ok(session) = connected {
            let encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
            assert!(session.query_one(encrypted, &[]).await.unwrap().get::<_, bool>(0), "{case}");
        }
    }
    // A replication session goes the same way.
    database.spec.tls = Tls { mode: TlsMode::VerifyFull, ca: ca(), server_name: name() };
    let source = source(&database);
    let from = source.begin_run("test").await.unwrap();
    source.capture(&from, false, vec![], keep()).await.unwrap();
    source.release().await.unwrap();
}

#[tokio::test]
async fn names_the_reason_and_never_the_password() {
    let database = Server::shared().create_database().await;
    let reason = async |change: &dyn Fn(&mut link_operator::api::database::PostgresqlDatabase)| {
        let mut spec = database.spec.clone();
        change(&mut spec);
        let error = connect(&spec, &database.secrets, "test").await.err().unwrap();
        assert!(!error.to_string().contains("wrong horse"), "{error}");
        <&str>::from(&error)
    };
    assert_eq!(reason(&|spec| spec.port = 1).await, "Unreachable");
    assert_eq!(reason(&|spec| spec.host = "no-such-host.invalid".to_owned()).await, "Unreachable");
    assert_eq!(reason(&|spec| spec.database = "absent".to_owned()).await, "DatabaseMissing");
    assert_eq!(reason(&|spec| spec.tls.mode = TlsMode::Require).await, "TlsFailed");
    assert_eq!(reason(&|spec| spec.auth.password.as_mut().unwrap().secret_ref.name = "absent".to_owned()).await, "SecretMissing");
    assert_eq!(reason(&|spec| spec.auth.password.as_mut().unwrap().password_key = "absent".to_owned()).await, "SecretKeyMissing");
    database.set_secret("password", "wrong horse");
    assert_eq!(reason(&|_| {}).await, "AuthenticationFailed");
}
