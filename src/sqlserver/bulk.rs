//! Bulk loads: rows that were made ready for the wire, streamed into a table. One load takes any number of rows, and takes part in
//! the session's transaction.

use std::time::Duration;

use async_trait::async_trait;
use mssql_tds::{
    connection::bulk_copy::{BulkCopy, BulkLoadRow},
    core::TdsResult,
    datatypes::bulk_copy_metadata::{BulkCopyColumnMetadata, SqlDbType},
    error::Error as TdsError,
    message::bulk_load::StreamingBulkLoadWriter,
};
use tokio::sync::Mutex;

use super::{Class, Failure, Session, wire::Wire};

/// A column of the table that is loaded.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Its name.
    pub name: String,
    /// How its values are sent.
    pub wire: Wire,
}

/// Where the rows come from.
#[async_trait]
pub trait Feed: Send {
    /// Why there is no next row.
    type Error: Send;

    /// Appends what comes next on the wire: rows as [`super::wire`] has them, each behind [`super::wire::ROW`], cut anywhere but
    /// behind the first byte. False: that was all.
    async fn fill(&mut self, out: &mut Vec<u8>) -> Result<bool, Self::Error>;
}

/// Why a load failed.
#[derive(Debug)]
pub enum LoadError<E> {
    /// A row could not be made.
    Feed(E),
    /// The server does not take it, or is gone.
    Server(Failure),
}

/// Loads all rows of `feed` into `table` (quoted). `lock`: takes a lock of the table that other loads may take too, and nobody
/// else. After an error the session is of no use.
pub async fn load<F: Feed>(
    session: &mut Session,
    table: &str,
    columns: &[Sent],
    lock: bool,
    mut feed: F,
) -> Result<(), LoadError<F::Error>> {
    let mut first = Vec::new();
    // The driver makes no load of nothing.
    while first.is_empty() {
        if !feed.fill(&mut first).await.map_err(LoadError::Feed)? {
            return Ok(());
        }
    }
    let whole = Whole { columns: columns.len(), rows: Mutex::new((first, feed)), failed: Mutex::new(None) };
    let mut load = BulkCopy::new(session.client(), table).timeout(Duration::ZERO).keep_nulls(true).table_lock(lock);
    let described = Box::pin(load.retrieve_destination_metadata()).await.map_err(|error| LoadError::Server(error.into()))?;
    let differs = columns.iter().zip(&described).find(|(column, described)| !takes(described, column.wire));
    if described.len() != columns.len() || differs.is_some() {
        let what = differs
            .map(|(column, described)| format!(": {} is {:?} there, and is sent as {:?}", column.name, described.sql_type, column.wire));
        let message = format!("table {table} is not as it was made{}", what.unwrap_or_default());
        return Err(LoadError::Server(Failure { number: 0, class: Class::Other, message }));
    }
    let loaded = Box::pin(load.write_to_server_zerocopy([&whole])).await;
    match (whole.failed.into_inner(), loaded) {
        (Some(error), _) => Err(LoadError::Feed(error)),
        (None, Err(error)) => Err(LoadError::Server(error.into())),
        (None, Ok(_)) => Ok(()),
    }
}

/// Whether values sent as `wire` are what the server takes for a column. The driver asks it with every load, and lets nobody tell it.
fn takes(column: &BulkCopyColumnMetadata, wire: Wire) -> bool {
    match (column.sql_type, wire) {
        (SqlDbType::Bit, Wire::Bit)
        | (SqlDbType::TinyInt, Wire::TinyInt)
        | (SqlDbType::SmallInt, Wire::SmallInt)
        | (SqlDbType::Int, Wire::Int)
        | (SqlDbType::BigInt, Wire::BigInt)
        | (SqlDbType::Real, Wire::Real)
        | (SqlDbType::Float, Wire::Float)
        | (SqlDbType::Money, Wire::Money)
        | (SqlDbType::SmallMoney, Wire::SmallMoney)
        | (SqlDbType::Date, Wire::Date)
        | (SqlDbType::DateTime, Wire::DateTime)
        | (SqlDbType::SmallDateTime, Wire::SmallDateTime)
        | (SqlDbType::UniqueIdentifier, Wire::Uuid) => true,
        (SqlDbType::Decimal | SqlDbType::Numeric, Wire::Decimal { scale, .. })
        | (SqlDbType::Time, Wire::Time(scale))
        | (SqlDbType::DateTime2, Wire::DateTime2(scale))
        | (SqlDbType::DateTimeOffset, Wire::DateTimeOffset(scale)) => column.scale == scale,
        (SqlDbType::NVarChar | SqlDbType::NChar, Wire::Text(_))
        | (SqlDbType::Binary, Wire::Binary(_))
        | (SqlDbType::VarBinary, Wire::VarBinary(_)) => !column.is_plp(),
        (SqlDbType::NVarChar, Wire::TextMax) | (SqlDbType::VarBinary, Wire::VarBinaryMax) => column.is_plp(),
        _ => false,
    }
}

/// All rows of a load, as one row of the driver's: it would otherwise allocate for each of them, and want them from an iterator
/// that cannot wait.
struct Whole<F: Feed> {
    columns: usize,
    /// What is not written yet, and where more comes from.
    rows: Mutex<(Vec<u8>, F)>,
    failed: Mutex<Option<F::Error>>,
}

#[async_trait]
impl<F: Feed> BulkLoadRow for &Whole<F> {
    async fn write_to_packet(&self, writer: &mut StreamingBulkLoadWriter<'_>, column_index: &mut usize) -> TdsResult<()> {
        let mut rows = self.rows.lock().await;
        let (buffer, feed) = &mut *rows;
        // The driver wrote the first byte, which is that of a row.
        writer.write_raw_bytes(&buffer[1..]).await?;
        loop {
            buffer.clear();
            match feed.fill(buffer).await {
                Ok(true) => writer.write_raw_bytes(buffer).await?,
                Ok(false) => break,
                Err(error) => {
                    *self.failed.lock().await = Some(error);
                    return Err(TdsError::UsageError("the rows of a load could not be made".to_owned()));
                }
            }
        }
        *column_index += self.columns;
        Ok(())
    }
}
