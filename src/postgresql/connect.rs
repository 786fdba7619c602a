//! Sessions with a PostgreSQL server.

use std::ops::{Deref, DerefMut};

use tokio::{task::JoinHandle, time::timeout};
use tokio_postgres::{Client, Config, NoTls};

use super::{
    dial::{CONNECT_TIMEOUT, dial},
    errors::{self, Class},
};
use crate::{
    api::database::PostgresqlDatabase,
    connect::ConnectError,
    secrets::{SecretValue, Secrets},
};

/// Settings that fix how values look as text and that nothing ends or filters what we run, whatever the server, database
/// or role say. Run right after login, in replication sessions too, so that snapshot and stream print alike.
pub const SESSION_SETTINGS: &str = "SET datestyle = 'ISO, YMD'; SET intervalstyle = 'postgres'; SET timezone = 'UTC'; \
     SET extra_float_digits = 3; SET bytea_output = 'hex'; SET client_encoding = 'UTF8'; SET lc_monetary = 'C'; \
     SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
     SET search_path = pg_catalog; SET row_security = off; SET jit = off";

/// The error for a server's answer to a login.
pub(crate) fn refused(class: Class, message: String) -> ConnectError {
    match class {
        Class::ConnectionLost => ConnectError::Unreachable(message),
        Class::AuthenticationFailed => ConnectError::AuthenticationFailed(message),
        Class::DatabaseMissing => ConnectError::DatabaseMissing(message),
        Class::ResourcesExhausted => ConnectError::TooManyConnections(message),
        _ => ConnectError::Other(message),
    }
}

/// Who logs in, and where. Read from the Secret for every connection, so that a rotated password is in use at once.
pub struct Login {
    /// `host:port/database`, for messages.
    pub place: String,
    /// User name.
    pub user: String,
    /// Password.
    pub password: SecretValue,
}

impl Login {
    /// Reads the credentials of a database.
    pub async fn read(database: &PostgresqlDatabase, secrets: &Secrets) -> Result<Self, ConnectError> {
        let place = format!("{}:{}/{}", database.host, database.port, database.database);
        let Some(auth) = &database.auth.password else {
            return Err(ConnectError::Other(format!("{place}: no way to log in is given")));
        };
        let user = secrets.read(&auth.secret_ref.name, &auth.username_key).await?.expose().to_owned();
        let password = secrets.read(&auth.secret_ref.name, &auth.password_key).await?;
        Ok(Self { place, user, password })
    }
}

/// A session. Dropping it closes the socket at once, also in the middle of a COPY.
pub struct Connected {
    client: Client,
    connection: JoinHandle<()>,
}

impl Deref for Connected {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Connected {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        // The driver would read a COPY to its end before it lets go.
        self.connection.abort();
    }
}

/// Opens a session. `application`: its name in `pg_stat_activity`.
pub async fn connect(database: &PostgresqlDatabase, secrets: &Secrets, application: &str) -> Result<Connected, ConnectError> {
    let login = Login::read(database, secrets).await?;
    let stream = dial(database, secrets, &login).await?;
    let mut config = Config::new();
    config.user(&login.user).password(login.password.expose()).dbname(&database.database).application_name(application);

    let place = format!("{} as user {}", login.place, login.user);
    let refuse = |error: &tokio_postgres::Error| refused(errors::class(error), format!("{place}: {}", errors::message(error)));
    let start = async {
        let (client, connection) = config.connect_raw(stream, NoTls).await?;
        let connection = tokio::spawn(async move {
            // An error of the connection reaches whoever waits for an answer.
            if let Err(error) = connection.await {
                tracing::debug!(error = errors::message(&error), "database connection ended");
            }
        });
        let connected = Connected { client, connection };
        connected.batch_execute(SESSION_SETTINGS).await?;
        Ok::<_, tokio_postgres::Error>(connected)
    };
    match timeout(CONNECT_TIMEOUT, start).await {
        Ok(Ok(connected)) => Ok(connected),
        Ok(Err(error)) => Err(refuse(&error)),
        Err(_) => Err(ConnectError::Unreachable(format!("{place}: no answer to the login within {} s", CONNECT_TIMEOUT.as_secs()))),
    }
}
