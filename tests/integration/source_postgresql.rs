//! The PostgreSQL source against a real server.

use link_operator::{api::database::TlsMode, postgresql::connect};

use crate::support::postgres::Server;

mod connecting {
    use super::*;

    #[tokio::test]
    async fn every_session_prints_alike_whatever_the_server_says() {
        let database = Server::shared().create_database().await;
        let session = database.connect().await;
        let row = session
            .query_one(
                "SELECT now()::text LIKE '%+00', interval '1 day 1 s'::text, '\\x00'::bytea::text, current_setting('search_path')",
                &[],
            )
            .await
            .unwrap();
        assert!(row.get::<_, bool>(0));
        assert_eq!(row.get::<_, &str>(1), "1 day 00:00:01");
        assert_eq!((row.get::<_, &str>(2), row.get::<_, &str>(3)), ("\\x00", "pg_catalog"));
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
}
