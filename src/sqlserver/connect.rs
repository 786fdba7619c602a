//! Sessions with a SQL Server.

use std::time::Duration;

use mssql_tds::{
    connection::{
        client_context::{ClientContext, TdsAuthenticationMethod},
        tds_client::{StatementResult, TdsClient},
    },
    connection_provider::tds_connection_provider::TdsConnectionProvider,
    core::{EncryptionOptions, EncryptionSetting},
    datatypes::{
        column_values::ColumnValues,
        row_writer::{DefaultRowWriter, RowWriter},
    },
    error::Error as TdsError,
};
use tokio::time::timeout;

use super::{Class, Failure, certificate, token};
use crate::{
    api::database::{SqlServerDatabase, TlsMode},
    connect::ConnectError,
    secrets::Secrets,
};

/// Longest time for a login, TCP and TLS with it.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// Settings that fix how values look as text, that a failed statement ends its transaction, and that nothing waits for a lock
/// for ever; the server's defaults depend on login and database.
pub const SETTINGS: &str = "SET ANSI_NULLS, ANSI_PADDING, ANSI_WARNINGS, ARITHABORT, CONCAT_NULL_YIELDS_NULL, QUOTED_IDENTIFIER ON; \
     SET NUMERIC_ROUNDABORT OFF; SET XACT_ABORT ON; SET NOCOUNT OFF; SET IMPLICIT_TRANSACTIONS OFF; SET LANGUAGE us_english; \
     SET DATEFORMAT ymd; SET LOCK_TIMEOUT 5000; SET TEXTSIZE 2147483647";

/// The same for a Synapse dedicated SQL pool, which takes few of them: its sessions are as these say but for the size of a text.
pub const POOL_SETTINGS: &str = "SET TEXTSIZE 2147483647";

/// A session. Dropping it closes the socket at once, and so rolls back what it has not committed.
pub struct Session {
    client: TdsClient,
}

/// Opens a session. `application`: its name in `sys.dm_exec_sessions`.
pub async fn connect(database: &SqlServerDatabase, secrets: &Secrets, application: &str) -> Result<Session, ConnectError> {
    connect_with(database, secrets, application, SETTINGS).await
}

/// The same with the settings of its kind of server.
pub async fn connect_with(
    database: &SqlServerDatabase,
    secrets: &Secrets,
    application: &str,
    settings: &str,
) -> Result<Session, ConnectError> {
    let mut pin = certificate::pin(database, secrets, false).await?;
    let (mut answer, mut place) = attempt(database, secrets, application, settings, pin.as_ref()).await?;
    if matches!(answer, Err(TdsError::CertificateMismatch)) && pin.is_some() {
        // The server has a new one, or another server of the same name answered.
        pin = certificate::pin(database, secrets, true).await?;
        (answer, place) = attempt(database, secrets, application, settings, pin.as_ref()).await?;
    }
    answer.map_err(|error| refused(error, &place))
}

/// Tries once; says also who logged in, and where, for messages.
async fn attempt(
    database: &SqlServerDatabase,
    secrets: &Secrets,
    application: &str,
    settings: &str,
    pin: Option<&certificate::Pin>,
) -> Result<(Result<Session, TdsError>, String), ConnectError> {
    let place = format!("{}:{}/{}", database.host, database.port, database.database);
    let server = format!("tcp:{},{}", database.host, database.port);
    let mut context = ClientContext::with_data_source(&server);
    context.database.clone_from(&database.database);
    application.clone_into(&mut context.application_name);
    // A session may hold a snapshot transaction: it must not come back as another one.
    context.connect_retry_count = 0;
    context.connect_timeout = CONNECT_TIMEOUT.as_secs() as u32;
    // The listener of an availability group has an address in each of its subnets.
    context.multi_subnet_failover = Some(true);

    let user = login(&mut context, database, secrets).await?;
    let place = format!("{place} as {user}");
    context.encryption_options = encryption(database, pin.map(certificate::Pin::path));

    let start = async {
        let client = TdsConnectionProvider::new().create_client(context, &server, None).await?;
        if !client.is_encrypted() && database.tls.mode != TlsMode::Disable {
            return Err(TdsError::ConnectionError("the server does not encrypt".to_owned()));
        }
        let mut session = Session { client };
        session.client.execute(settings.to_owned(), ()).await?;
        session.client.close_query().await?;
        Ok(session)
    };
    match timeout(CONNECT_TIMEOUT, start).await {
        Ok(answer) => Ok((answer, place)),
        Err(_) => Err(ConnectError::Unreachable(format!("{place}: no session within {} s", CONNECT_TIMEOUT.as_secs()))),
    }
}

/// Puts the credentials into the context; says who logs in. Read for every connection, so that a rotated secret is in use at once.
async fn login(context: &mut ClientContext, database: &SqlServerDatabase, secrets: &Secrets) -> Result<String, ConnectError> {
    if let Some(auth) = &database.auth.password {
        let user = secrets.read(&auth.secret_ref.name, &auth.username_key).await?.expose().to_owned();
        secrets.read(&auth.secret_ref.name, &auth.password_key).await?.expose().clone_into(&mut context.password);
        context.user_name.clone_from(&user);
        return Ok(format!("user {user}"));
    }
    let (token, who) = token::of(&database.auth, secrets).await?;
    context.tds_authentication_method = TdsAuthenticationMethod::AccessToken;
    context.access_token = Some(token);
    Ok(who)
}

fn encryption(database: &SqlServerDatabase, pin: Option<&std::path::Path>) -> EncryptionOptions {
    let mut options = EncryptionOptions::new();
    options.mode = match database.tls.mode {
        TlsMode::Disable => EncryptionSetting::PreferOff,
        TlsMode::Strict => EncryptionSetting::Strict,
        TlsMode::Require | TlsMode::VerifyCA | TlsMode::VerifyFull => EncryptionSetting::Required,
    };
    options.trust_server_certificate = matches!(database.tls.mode, TlsMode::Require | TlsMode::Disable);
    match pin {
        Some(pin) => options.server_certificate = Some(pin.to_owned()),
        None => options.host_name_in_cert.clone_from(&database.tls.server_name),
    }
    options
}

fn refused(error: TdsError, place: &str) -> ConnectError {
    let tls = matches!(
        error,
        TdsError::TlsError(_)
            | TdsError::TlsHandshakeError { .. }
            | TdsError::CertificateExpired
            | TdsError::CertificateMismatch
            | TdsError::NoServerCertificate
    );
    let failure = Failure::from(error);
    let message = format!("{place}: {}", failure.message);
    match failure.class {
        _ if tls => ConnectError::TlsFailed(message),
        Class::ConnectionLost => ConnectError::Unreachable(message),
        Class::AuthenticationFailed => ConnectError::AuthenticationFailed(message),
        Class::DatabaseMissing => ConnectError::DatabaseMissing(message),
        Class::ResourcesExhausted => ConnectError::TooManyConnections(message),
        _ => ConnectError::Other(message),
    }
}

impl Session {
    /// Runs statements to their end. Returns the rows that they changed.
    pub async fn run(&mut self, sql: &str) -> Result<u64, Failure> {
        let mut changed = 0;
        // The driver's futures are large: boxed here, those of who calls are not.
        let mut result = Box::pin(self.client.execute(sql.to_owned(), ())).await?;
        while result != StatementResult::End {
            if let StatementResult::NoRows { rows_affected: Some(rows) } = result {
                changed += rows;
            }
            result = Box::pin(self.client.advance()).await?;
        }
        Box::pin(self.client.close_query()).await?;
        Ok(changed)
    }

    /// The rows of the first result that has some columns. For questions with few rows: they are kept.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Row>, Failure> {
        let mut rows = Vec::new();
        if self.open(sql).await? {
            let mut writer = DefaultRowWriter::new(0);
            while self.next(&mut writer).await? {
                rows.push(Row(writer.take_row()));
            }
        }
        self.close().await?;
        Ok(rows)
    }

    /// Runs statements up to the first result that has columns; says whether there is one. Its rows come by [`Self::next`].
    pub async fn open(&mut self, sql: &str) -> Result<bool, Failure> {
        match Box::pin(self.client.execute(sql.to_owned(), ())).await? {
            StatementResult::Rows => Ok(true),
            StatementResult::NoRows { .. } => Ok(Box::pin(self.client.advance_to_rows()).await?),
            StatementResult::End => Ok(false),
        }
    }

    /// Writes the next row of the open result; says whether there was one.
    pub async fn next<W: RowWriter + Send>(&mut self, writer: &mut W) -> Result<bool, Failure> {
        Ok(self.client.next_row_into(writer).await?)
    }

    /// Goes on to the next result that has columns; says whether there is one.
    pub async fn next_result(&mut self) -> Result<bool, Failure> {
        Ok(Box::pin(self.client.advance_to_rows()).await?)
    }

    /// Reads what is left of the statements under way.
    pub async fn close(&mut self) -> Result<(), Failure> {
        Ok(Box::pin(self.client.close_query()).await?)
    }

    /// Whether the driver still believes in the connection.
    pub fn is_open(&self) -> bool {
        !self.client.is_connection_dead()
    }

    /// The driver's own session, for a bulk load.
    pub fn client(&mut self) -> &mut TdsClient {
        &mut self.client
    }
}

/// A row of a question's answer.
#[derive(Debug)]
pub struct Row(Vec<ColumnValues>);

impl Row {
    /// A text; none if it is NULL, or of another type.
    pub fn text(&self, column: usize) -> Option<String> {
        match self.0.get(column)? {
            ColumnValues::String(text) => Some(text.to_utf8_string()),
            ColumnValues::Uuid(uuid) => Some(uuid.to_string()),
            _ => None,
        }
    }

    /// A whole number of any width, or a bit.
    pub fn number(&self, column: usize) -> Option<i64> {
        Some(match self.0.get(column)? {
            ColumnValues::Bit(value) => i64::from(*value),
            ColumnValues::TinyInt(value) => i64::from(*value),
            ColumnValues::SmallInt(value) => i64::from(*value),
            ColumnValues::Int(value) => i64::from(*value),
            ColumnValues::BigInt(value) => *value,
            ColumnValues::Decimal(value) | ColumnValues::Numeric(value) if value.scale == 0 => {
                let magnitude = i64::try_from(value.magnitude()).ok()?;
                if value.is_positive { magnitude } else { -magnitude }
            }
            _ => return None,
        })
    }

    /// Whether a number is there and is not 0.
    pub fn flag(&self, column: usize) -> bool {
        self.number(column).is_some_and(|value| value != 0)
    }

    /// Bytes.
    pub fn bytes(&self, column: usize) -> Option<&[u8]> {
        if let ColumnValues::Bytes(bytes) = self.0.get(column)? { Some(bytes) } else { None }
    }
}
