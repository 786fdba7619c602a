//! Following change data capture: a batch is all that the change tables got in `(from, max]`, in the order of the log.
//!
//! The capture job writes what it reads of the log in transactions of its own, whole transactions of all tables together: what a
//! SNAPSHOT transaction sees up to the last commit that it knows is complete. That one is not "now": the job lags behind. The
//! clean-up takes old changes away, so each poll checks for each table that it has all of them.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use arrow::{
    array::{Array as _, ArrayRef, AsArray as _, BooleanArray, Int16Array, RecordBatch},
    compute::{and, concat, filter, kernels::cmp::distinct, nullif, or},
    datatypes::Int16Type,
};
use async_trait::async_trait;
use jiff::Timestamp;
use tokio::time::{Instant, sleep};

use super::{
    Kind, SNAPSHOT, Session, SqlServer,
    catalog::{self, Instance},
    evolve,
    position::{Lsn, cdc_off},
    preflight, rows, table_error,
};
use crate::{
    api::database::CaptureMode,
    data::{Op, Position, TableSchema, TableVersion},
    source::{Capture, CapturedTable, Cut, CutTable, Error, Limits, Segment},
    sqlserver::{quote, rows::Rows, types::select},
};

/// Pause between two looks at the last commit.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The last commit that the capture job has read, and when it was: the server tells it in its own zone.
pub const HEAD: &str = "DECLARE @max binary(10) = sys.fn_cdc_get_max_lsn(); SELECT @max, \
     (SELECT MAX(CONVERT(nvarchar(30), DATEADD(MINUTE, DATEDIFF(MINUTE, GETDATE(), GETUTCDATE()), m.tran_end_time), 126)) + N'Z' \
      FROM cdc.lsn_time_mapping AS m WHERE m.start_lsn = @max)";

/// Tables that were altered after a place in the log.
pub fn altered_query(after: Lsn) -> String {
    format!("SELECT DISTINCT h.source_object_id FROM cdc.ddl_history AS h WHERE h.ddl_lsn > {after}")
}

/// The changes of an instance with commits in `(after, upto]`. Of one transaction the commands come in their order: `__$seqval`
/// alone does not tell it (an old instance knows no more).
pub fn changes_query(schema: &TableSchema, instance: &Instance, after: Lsn, upto: Lsn) -> String {
    let columns = schema.columns.iter().map(|column| {
        let captured = !column.dropped && instance.columns.contains(&column.name);
        if captured { select(column, "c") } else { "NULL".to_owned() }
    });
    let columns: Vec<String> = columns.collect();
    let command = if instance.has_command_id { "c.[__$command_id], " } else { "" };
    format!(
        "SELECT CAST(c.[__$operation] AS smallint), {} FROM [cdc].{} AS c WHERE c.[__$start_lsn] > {after} AND c.[__$start_lsn] <= {upto} \
         ORDER BY c.[__$start_lsn], {command}c.[__$seqval], c.[__$operation]",
        columns.join(", "),
        quote::identifier(&format!("{}_CT", instance.name))
    )
}

/// What is read of one instance: commits in `(after, upto]`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Share {
    instance: Instance,
    after: Lsn,
    upto: Lsn,
}

/// Which instances have the table's changes in `(last, max]`: the older one up to where the newer begins. Pure.
fn shares(schema: &TableSchema, instances: &[Instance], last: Lsn, max: Lsn) -> Result<Vec<Share>, Error> {
    let name = &schema.name;
    let expired = |why: String| Err(Error::ChangeVersionExpired(format!("{name} {why}")));
    let mut of_table: Vec<(Lsn, &Instance)> = instances
        .iter()
        .filter(|instance| instance.object_id == schema.object_id)
        .filter_map(|instance| Some((instance.from?, instance)))
        .filter(|(from, _)| *from <= max.next())
        .collect();
    of_table.sort_by_key(|(from, _)| *from);
    let Some((oldest, _)) = of_table.first() else { return expired("has no capture instance any more".to_owned()) };
    if *oldest > last.next() {
        return expired(format!(
            "was read up to {last}, but its changes are kept only from {oldest} on: they were cleaned up, or its capture was switched off and on"
        ));
    }
    let mut shares = Vec::new();
    for (place, (from, instance)) in of_table.iter().enumerate() {
        let after = if place == 0 || *from <= last.next() { last } else { before(*from) };
        let upto = of_table.get(place + 1).map_or(max, |(next, _)| before(*next)).min(max);
        if after >= upto {
            continue;
        }
        let missing = schema.columns.iter().find(|column| !column.dropped && !instance.columns.contains(&column.name));
        if let Some(column) = missing {
            return Err(Error::SchemaChanged(format!(
                "{name} has the column {}, which capture instance {} does not capture",
                column.name, instance.name
            )));
        }
        shares.push(Share { instance: (*instance).clone(), after, upto });
    }
    Ok(shares)
}

/// The greatest place that is less.
fn before(lsn: Lsn) -> Lsn {
    let mut bytes = lsn.0;
    for byte in bytes.iter_mut().rev() {
        *byte = byte.wrapping_sub(1);
        if *byte != u8::MAX {
            break;
        }
    }
    Lsn(bytes)
}

/// The changes of a batch of operations and columns: 1 a deleted row, 2 a new one, 3 a row before its update and 4 after. A change
/// may come twice, so a new row is not sure to be new. Holds back a last row that stands before an update whose other half has yet
/// to come; `ended`: nothing comes. Pure.
fn changes(schema: &TableSchema, arrays: &[ArrayRef], ended: bool) -> Result<(Option<RecordBatch>, Option<Vec<ArrayRef>>), Error> {
    let failed = |error: arrow::error::ArrowError| Error::SourceError(error.to_string());
    let ops = arrays[0].as_primitive::<Int16Type>().clone();
    let mut count = ops.len();
    let mut carry = None;
    if !ended && count > 0 && ops.value(count - 1) == 3 {
        count -= 1;
        carry = Some(arrays.iter().map(|array| array.slice(count, 1)).collect());
    }
    if count == 0 {
        return Ok((None, carry));
    }
    // Whether the key of the next row is another one: of the last row it is not asked.
    let mut moves = BooleanArray::from(vec![false; count]);
    for &column in &schema.key {
        let key = &arrays[column + 1];
        let other = if count > 1 {
            distinct(&key.slice(0, count - 1), &key.slice(1, count - 1)).map_err(failed)?
        } else {
            BooleanArray::from(Vec::<bool>::new())
        };
        let other: BooleanArray = other.iter().chain([Some(false)]).collect();
        moves = or(&moves, &other).map_err(failed)?;
    }
    let before: BooleanArray = (0..count).map(|row| Some(ops.value(row) == 3)).collect();
    let deletes: BooleanArray = (0..count).map(|row| Some(matches!(ops.value(row), 1 | 3))).collect();
    let kept = or(&arrow::compute::not(&before).map_err(failed)?, &and(&before, &moves).map_err(failed)?).map_err(failed)?;
    let op = |row| Some(if deletes.value(row) { Op::Delete as i16 } else { Op::Update as i16 });
    let ops: Int16Array = (0..count).map(op).collect();
    let mut columns: Vec<ArrayRef> = vec![filter(&ops, &kept).map_err(failed)?];
    for (at, array) in arrays.iter().skip(1).enumerate() {
        let array = array.slice(0, count);
        let array = if schema.key.contains(&at) { array } else { nullif(&array, &deletes).map_err(failed)? };
        columns.push(filter(&array, &kept).map_err(failed)?);
    }
    let batch = rows::change_batch(schema, columns)?;
    Ok(((batch.num_rows() > 0).then_some(batch), carry))
}

struct Followed {
    version: TableVersion,
    from: Position,
    last: Lsn,
    broken: bool,
}

/// A stream of polls.
pub struct CdcCapture {
    session: Session,
    at: Lsn,
    time: Option<Timestamp>,
    tables: BTreeMap<u32, Followed>,
    poll: Option<Poll>,
    versions: BTreeMap<u32, TableVersion>,
    broken: Vec<(u32, Error)>,
}

/// A poll under way: its transaction is open.
struct Poll {
    max: Lsn,
    time: Option<Timestamp>,
    left: VecDeque<(u32, Share)>,
    /// The result of the front, and a row of it that waits for the next.
    open: Option<(Rows, Option<Vec<ArrayRef>>)>,
}

/// Starts to follow the tables.
pub async fn start(source: &SqlServer, from: &Position, tables: Vec<CapturedTable>) -> Result<CdcCapture, Error> {
    let session = source.session_for(Kind::Stream).await?;
    let mut capture = CdcCapture {
        session,
        at: Lsn::of(from)?,
        time: None,
        tables: BTreeMap::new(),
        poll: None,
        versions: BTreeMap::new(),
        broken: Vec::new(),
    };
    capture.follow(tables);
    Ok(capture)
}

impl CdcCapture {
    /// The last commit that the capture job has read, and its time.
    async fn head(&mut self) -> Result<(Lsn, Option<Timestamp>), Error> {
        let row = self.session.query(HEAD).await.map_err(cdc_off)?.pop();
        let max = row.as_ref().and_then(|row| row.bytes(0)).map(Lsn::from_bytes).transpose()?.unwrap_or_default();
        if max < self.at {
            return Err(Error::PositionLost(format!("the changes end at {max}, before {}, where the link left off", self.at)));
        }
        Ok((max, row.and_then(|row| row.text(1)).and_then(|time| time.parse().ok())))
    }

    fn break_off(&mut self, id: u32, error: Error) {
        self.versions.remove(&id);
        self.broken.push((id, error));
        if let Some(table) = self.tables.get_mut(&id) {
            table.broken = true;
        }
    }

    async fn compare_with_catalog(&mut self, ids: Vec<u32>) -> Result<(), Error> {
        for id in ids {
            let Some(known) = self.tables.get(&id).filter(|table| !table.broken).map(|table| table.version.clone()) else { continue };
            let next = match catalog::describe(&mut self.session, CaptureMode::ChangeDataCapture, &known.schema.name).await {
                Ok(now) => evolve::evolve(CaptureMode::ChangeDataCapture, &known, &now)
                    .map_err(|what| Error::SchemaChanged(format!("{} {what}", known.schema.name))),
                // It says that a column is not captured: that one was added, and the table can be loaded anew once it is.
                Err(Error::TableNotSupported { message, .. }) => Err(Error::SchemaChanged(message)),
                Err(error) if error.is_of_table() && !matches!(error, Error::SourceError(_)) => Err(error),
                Err(error) => return Err(error),
            };
            match next {
                Ok(None) => {}
                Ok(Some(next)) => {
                    if let Some(table) = self.tables.get_mut(&id) {
                        table.version = next.clone();
                        self.versions.insert(id, next);
                    }
                }
                Err(error) => self.break_off(id, error),
            }
        }
        Ok(())
    }

    async fn begin(&mut self) -> Result<Poll, Error> {
        self.session.run(SNAPSHOT).await?;
        let (max, time) = self.head().await?;
        let altered = self.session.query(&altered_query(self.at)).await.map_err(cdc_off)?;
        let altered: Vec<i64> = altered.iter().filter_map(|row| row.number(0)).collect();
        let of = |table: &Followed| i64::from(table.version.schema.object_id.cast_signed());
        let ids = self.tables.iter().filter(|(_, table)| altered.contains(&of(table))).map(|(id, _)| *id).collect();
        self.compare_with_catalog(ids).await?;
        let instances = catalog::instances(&mut self.session, None).await?;
        let mut left = VecDeque::new();
        let mut failed = Vec::new();
        for (id, table) in self.tables.iter().filter(|(_, table)| !table.broken) {
            match shares(&table.version.schema, &instances, table.last, max) {
                Ok(shares) => left.extend(shares.into_iter().map(|share| (*id, share))),
                Err(error) => failed.push((*id, error)),
            }
        }
        for (id, error) in failed {
            self.break_off(id, error);
        }
        Ok(Poll { max, time, left, open: None })
    }

    /// Reads the poll on, up to `bytes`; says whether it is complete.
    async fn read(&mut self, poll: &mut Poll, bytes: usize, tables: &mut BTreeMap<u32, Vec<Segment>>) -> Result<bool, Error> {
        let mut held = 0;
        while let Some((id, share)) = poll.left.front() {
            if held >= bytes {
                return Ok(false);
            }
            let Some(table) = self.tables.get(id).filter(|table| !table.broken) else {
                poll.left.pop_front();
                continue;
            };
            let schema = &table.version.schema;
            let failed = |failure| table_error(&schema.name, failure);
            let (rows, carry) = if let Some(open) = &mut poll.open {
                open
            } else {
                self.session.open(&changes_query(schema, &share.instance, share.after, share.upto)).await.map_err(failed)?;
                poll.open.insert((rows::of_changes(schema), None))
            };
            let ended = rows::fill(&mut self.session, rows, bytes - held).await.map_err(failed)?;
            held += rows.bytes();
            let mut arrays = rows::take(schema, rows)?;
            if let Some(carried) = carry.take() {
                let joined = carried.iter().zip(&arrays).map(|(one, other)| concat(&[one.as_ref(), other.as_ref()]));
                arrays = joined.collect::<Result<_, _>>().map_err(|error| Error::SourceError(error.to_string()))?;
            }
            let (batch, held_back) = changes(schema, &arrays, ended)?;
            *carry = held_back;
            if let Some(batch) = batch {
                tables.entry(*id).or_default().push(Segment::Rows(batch));
            }
            if ended {
                self.session.close().await.map_err(failed)?;
                poll.open = None;
                poll.left.pop_front();
            }
        }
        self.session.run("COMMIT TRANSACTION").await?;
        Ok(true)
    }

    fn cut(&mut self, whole: bool, time: Option<Timestamp>, mut tables: BTreeMap<u32, Vec<Segment>>) -> Cut {
        for (id, version) in std::mem::take(&mut self.versions) {
            tables.entry(id).or_default().insert(0, Segment::Version(Box::new(version)));
        }
        let tables = tables.into_iter().map(|(id, segments)| CutTable { id, segments }).collect();
        Cut { whole, to: self.at.position(), time, transactions: vec![], tables, broken: std::mem::take(&mut self.broken) }
    }

    async fn piece(&mut self, bytes: usize) -> Result<Cut, Error> {
        let mut poll = match self.poll.take() {
            Some(poll) => poll,
            None => self.begin().await?,
        };
        let mut tables = BTreeMap::new();
        let whole = self.read(&mut poll, bytes, &mut tables).await?;
        let time = poll.time.filter(|_| whole);
        if whole {
            (self.at, self.time) = (poll.max, time);
            for table in self.tables.values_mut() {
                table.last = table.last.max(poll.max);
            }
        } else {
            self.poll = Some(poll);
        }
        Ok(self.cut(whole, time, tables))
    }
}

#[async_trait]
impl Capture for CdcCapture {
    fn follow(&mut self, tables: Vec<CapturedTable>) {
        let mut former = std::mem::take(&mut self.tables);
        for CapturedTable { id, version, from } in tables {
            let same = former.remove(&id).filter(|known| known.from == from);
            let table = same.unwrap_or_else(|| {
                let last = Lsn::of(&from).unwrap_or_default().max(self.at);
                Followed { version, from, last, broken: false }
            });
            self.tables.insert(id, table);
        }
    }

    async fn next_cut(&mut self, limits: Limits) -> Result<Cut, Error> {
        if self.poll.is_some() {
            return self.piece(limits.bytes).await;
        }
        let until = Instant::now() + limits.idle;
        loop {
            let mut time = None;
            if Instant::now() >= limits.not_before {
                let (max, told) = self.head().await?;
                if max > self.at {
                    return self.piece(limits.bytes).await;
                }
                time = told;
            }
            let now = Instant::now();
            if now >= until || !self.broken.is_empty() || !self.versions.is_empty() {
                return Ok(self.cut(true, time, BTreeMap::new()));
            }
            sleep(LOOK_EVERY.min(until - now)).await;
        }
    }

    async fn compare(&mut self) -> Result<(), Error> {
        if self.poll.is_some() {
            return Ok(());
        }
        let row = self.session.query(preflight::CDC).await.map_err(cdc_off)?.pop();
        if let Some(row) = row {
            preflight::running(row.number(0), row.number(1).unwrap_or_default())?;
        }
        self.compare_with_catalog(self.tables.keys().copied().collect()).await
    }

    /// The server keeps changes for a time, whoever read them.
    async fn acknowledge(&mut self, _position: &Position) -> Result<(), Error> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{Int32Array, StringArray},
        datatypes::UInt8Type,
    };

    use super::*;
    use crate::{
        api::fault::Explain as _,
        data::{Travel, fixtures},
    };

    fn schema() -> TableSchema {
        let columns = vec![fixtures::column(1, "id", Travel::Int32), fixtures::column(2, "v", Travel::Utf8)];
        TableSchema { system: "sqlserver".into(), ..fixtures::table("t", columns, &[0]) }
    }

    fn lsn(number: u8) -> Lsn {
        Lsn([0, 0, 0, 0, 0, 0, 0, 0, 1, number])
    }

    fn instance(name: &str, from: u8) -> Instance {
        let columns = vec!["id".to_owned(), "v".to_owned()];
        Instance { object_id: 1, name: name.into(), from: Some(lsn(from)), has_command_id: true, columns }
    }

    #[test]
    fn an_older_instance_is_read_up_to_where_the_newer_begins() {
        let of = |instances: &[Instance], last, max| {
            let shares = shares(&schema(), instances, lsn(last), lsn(max));
            shares.map(|shares| {
                shares.iter().map(|share| (share.instance.name.clone(), share.after.0[9], share.upto.0[9])).collect::<Vec<_>>()
            })
        };
        let (old, new) = (instance("old", 5), instance("new", 20));
        assert_eq!(of(std::slice::from_ref(&old), 4, 30).unwrap(), [("old".to_owned(), 4, 30)]);
        assert_eq!(of(&[new.clone(), old.clone()], 10, 30).unwrap(), [("old".to_owned(), 10, 19), ("new".to_owned(), 19, 30)]);
        assert_eq!(of(&[new.clone(), old.clone()], 19, 30).unwrap(), [("new".to_owned(), 19, 30)]);
        assert_eq!(of(&[new.clone(), old.clone()], 25, 30).unwrap(), [("new".to_owned(), 25, 30)]);
        assert_eq!(of(&[new.clone(), old.clone()], 10, 15).unwrap(), [("old".to_owned(), 10, 15)]);
        assert_eq!(of(std::slice::from_ref(&old), 30, 30).unwrap(), []);
        // What is not there any more is never passed over.
        for instances in [&[new.clone()][..], &[]] {
            let error = of(instances, 10, 30).unwrap_err();
            assert!(matches!(error, Error::ChangeVersionExpired(_)) && error.heals(), "{error}");
        }
        let narrow = Instance { columns: vec!["id".into()], ..new };
        assert!(matches!(of(&[old, narrow], 10, 30), Err(Error::SchemaChanged(_))));
    }

    /// Operation, key and value of each change.
    fn told(batch: &RecordBatch) -> Vec<(u8, i32, Option<String>)> {
        let (ids, values) = (batch.column(0).as_primitive::<arrow::datatypes::Int32Type>(), batch.column(1).as_string::<i32>());
        let ops = batch.column(2).as_primitive::<UInt8Type>();
        (0..batch.num_rows())
            .map(|row| (ops.value(row), ids.value(row), (!values.is_null(row)).then(|| values.value(row).to_owned())))
            .collect()
    }

    fn arrays(rows: &[(i16, i32, &str)]) -> Vec<ArrayRef> {
        vec![
            Arc::new(rows.iter().map(|row| Some(row.0)).collect::<Int16Array>()),
            Arc::new(rows.iter().map(|row| Some(row.1)).collect::<Int32Array>()),
            Arc::new(rows.iter().map(|row| Some(row.2)).collect::<StringArray>()),
        ]
    }

    #[test]
    fn an_update_that_moves_a_row_deletes_it_where_it_was() {
        let rows = [(2, 1, "a"), (3, 1, "a"), (4, 1, "b"), (3, 1, "b"), (4, 7, "b"), (1, 7, "b")];
        let (batch, carry) = changes(&schema(), &arrays(&rows), true).unwrap();
        let value = |text: &str| Some(text.to_owned());
        assert_eq!(told(&batch.unwrap()), [(2, 1, value("a")), (2, 1, value("b")), (3, 1, None), (2, 7, value("b")), (3, 7, None)]);
        assert!(carry.is_none());
        // Its second half is in the next batch.
        let (batch, carry) = changes(&schema(), &arrays(&rows[..4]), false).unwrap();
        assert_eq!((told(&batch.unwrap()).len(), carry.unwrap()[0].len()), (2, 1));
    }

    #[test]
    fn commands_of_a_transaction_are_read_in_their_order() {
        let sql = changes_query(&schema(), &instance("dbo_t", 5), lsn(5), lsn(6));
        assert!(sql.ends_with("ORDER BY c.[__$start_lsn], c.[__$command_id], c.[__$seqval], c.[__$operation]"), "{sql}");
        assert!(sql.contains("FROM [cdc].[dbo_t_CT] AS c WHERE c.[__$start_lsn] > 0x00000000000000000105"), "{sql}");
        assert_eq!(before(lsn(0)), Lsn([0, 0, 0, 0, 0, 0, 0, 0, 0, 255]));
    }
}
