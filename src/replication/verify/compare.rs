//! The comparison of one table with its source, and its repair.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout},
};

use super::{
    blank,
    trial::{Difference, Trial, Verdict, differing_buckets, differing_keys},
};
use crate::{
    api::verification::{DifferingRange, Verification, VerificationResult},
    data::{Among, KeyRange, KeyTexts, Position},
    replication::{
        Context, Setup,
        capture::Order,
        error::Error,
        keys::{Keys, cells},
        repair::{Read, Repair},
        state::TableState,
    },
    source,
    target::{Incarnation, TargetTable},
};

/// Rows of a range: some tenths of a second of one core of the source.
const RANGE_ROWS: u64 = 50_000;
/// Rows are listed in about such numbers, whatever a bucket holds.
const LISTED_ROWS: u64 = 100_000;
/// Rows that may differ are looked at together once they are so many.
const SETTLED_AT_ONCE: usize = 20_000;
/// Rows of one repair: a record of the log.
const REPAIRED_AT_ONCE: usize = 500;
/// Pause between two looks at the same rows.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Rows that change whenever they are looked at are looked at so often at least.
const SETTLE_LOOKS: u32 = 5;
/// The target may take so long to apply what was captured.
const CATCH_UP_FOR: Duration = Duration::from_mins(10);
/// A repaired table is compared again, and repaired again if it must be, up to so many times in all.
const PASSES: u32 = 3;
/// So many ranges and keys are named.
const NAMED_RANGES: usize = 20;
const NAMED_KEYS: usize = 5;

/// One comparison.
pub struct Comparison<'a> {
    context: &'a Context,
    orders: &'a mpsc::Sender<Order>,
    id: u32,
    table: TableState,
    target: TargetTable,
    incarnation: Incarnation,
    repair: bool,
}

/// What one walk through the table found.
#[derive(Default)]
struct Pass {
    source_rows: u64,
    missing: u64,
    too_many: u64,
    different: u64,
    repaired: u64,
    /// Differ still, or again, after the repair.
    remaining: u64,
    unsettled: Suspects,
    /// Who has a transaction in the source for which it waited in vain.
    held_up_by: Option<String>,
    ranges: BTreeMap<usize, DifferingRange>,
    position: Option<Position>,
}

/// Keys of rows that may differ, each with the number of its range.
type Suspects = Vec<(KeyTexts, usize)>;

/// What became of suspects.
#[derive(Default)]
struct Settled {
    different: Vec<(KeyTexts, usize, Difference)>,
    open: Suspects,
}

impl<'a> Comparison<'a> {
    /// The comparison of a table that is exact or being adopted.
    pub fn new(context: &'a Context, orders: &'a mpsc::Sender<Order>, id: u32, table: TableState, repair: bool) -> Self {
        let incarnation = Incarnation { run: context.journal.log().run(), record: table.incarnation };
        Self { context, orders, id, target: context.target_table(&table), table, incarnation, repair }
    }

    /// Compares, repairs, and compares again what was repaired.
    pub async fn run(&self) -> Result<Verification, Error> {
        let mut all = blank(VerificationResult::Equal);
        for number in 1..=PASSES {
            let pass = self.pass().await?;
            let signed = |rows: u64| i64::try_from(rows).unwrap_or(i64::MAX);
            all.position = pass.position.map(|position| position.to_string());
            all.source_rows = signed(pass.source_rows);
            // What the repair brought is there, and what was too many is gone.
            let mended = self.repair && pass.remaining == 0;
            let (missing, too_many) = if mended { (0, 0) } else { (pass.missing, pass.too_many) };
            all.target_rows = signed((pass.source_rows + too_many).saturating_sub(missing));
            all.differing_rows += signed(pass.different);
            all.repaired += signed(pass.repaired);
            all.unsettled_rows = signed(pass.unsettled.len() as u64);
            all.differing_ranges.extend(pass.ranges.into_values());
            all.differing_ranges.truncate(NAMED_RANGES);
            all.result = match () {
                () if pass.different > 0 => VerificationResult::Different,
                () if !pass.unsettled.is_empty() => VerificationResult::Unsettled,
                () => VerificationResult::Equal,
            };
            all.message = pass.held_up_by.map(|whom| {
                let waited = self.context.setup.wait_for.as_secs();
                format!(
                    "OpenTransaction: waited {waited} s for {whom}; end the transaction in the source, then ask for the verification again"
                )
            });
            if pass.different == 0 || !self.repair || number == PASSES || all.message.is_some() {
                break;
            }
        }
        all.time = Timestamp::now();
        if all.result == VerificationResult::Equal
            && let Err(error) = self.context.setup.target.verified(&self.target, self.incarnation, all.time).await
        {
            tracing::warn!(table = %self.table.schema.name, %error, "the target is not told that the table is verified");
        }
        Ok(all)
    }

    /// Walks through the table once.
    async fn pass(&self) -> Result<Pass, Error> {
        let (source, target, schema) = (&self.context.setup.source, &self.context.setup.target, &self.table.schema);
        // Also: the target may have yet to put the table in its place.
        let mut pass = Pass { position: Some(self.caught_up().await?), ..Pass::default() };
        let mut suspects = Suspects::new();
        let mut range = KeyRange::default();
        let mut ranges: Vec<KeyRange> = Vec::new();
        self.check_schema().await?;
        loop {
            self.check_life()?;
            range.upto = source.cut_range(schema, range.after.as_ref(), RANGE_ROWS).await?;
            let ours = source.digest(schema, &range).await?;
            let theirs = target.digest(&self.target, schema, &range).await?;
            pass.source_rows += ours.values().map(|digest| digest.rows).sum::<u64>();
            for buckets in differing_buckets(&ours, &theirs, LISTED_ROWS) {
                let among = Among::Buckets(&range, &buckets);
                let ours = source.row_digests(schema, among).await?;
                let theirs = target.row_digests(&self.target, schema, among).await?;
                if ranges.last() != Some(&range) {
                    ranges.push(range.clone());
                }
                suspects.extend(differing_keys(&ours, &theirs).into_iter().map(|key| (key, ranges.len() - 1)));
                if suspects.len() >= SETTLED_AT_ONCE {
                    self.judge(&mut pass, std::mem::take(&mut suspects), &ranges).await?;
                }
            }
            let Some(upto) = range.upto.take() else { break };
            range.after = Some(upto);
        }
        self.judge(&mut pass, suspects, &ranges).await?;
        // Rows that had no rest when their turn came may have it now.
        let restless = std::mem::take(&mut pass.unsettled);
        self.judge(&mut pass, restless, &ranges).await?;
        Ok(pass)
    }

    /// Finds out which of the suspects differ, and repairs those if that was asked for.
    async fn judge(&self, pass: &mut Pass, suspects: Suspects, ranges: &[KeyRange]) -> Result<(), Error> {
        if suspects.is_empty() {
            return Ok(());
        }
        let found = self.settle(pass, suspects).await?;
        pass.unsettled.extend(found.open);
        for (key, range, difference) in &found.different {
            pass.different += 1;
            pass.missing += u64::from(*difference == Difference::Missing);
            pass.too_many += u64::from(*difference == Difference::TooMany);
            let named = pass.ranges.entry(*range).or_insert_with(|| name_of(&ranges[*range]));
            named.rows += 1;
            if named.keys.len() < NAMED_KEYS {
                named.keys.push(text_of(key));
            }
        }
        if !found.different.is_empty() {
            // Of a table that was retyped all rows differ, and none would be repaired by what is read now.
            self.check_schema().await?;
        }
        if !self.repair {
            pass.remaining += found.different.len() as u64;
            return Ok(());
        }
        for chunk in found.different.chunks(REPAIRED_AT_ONCE) {
            let keys: Vec<KeyTexts> = chunk.iter().map(|(key, ..)| key.clone()).collect();
            pass.repaired += self.mend(pass, &keys).await?;
        }
        if !found.different.is_empty() {
            let again = found.different.into_iter().map(|(key, range, _)| (key, range)).collect();
            let still = self.settle(pass, again).await?;
            pass.remaining += still.different.len() as u64;
            if pass.held_up_by.is_some() {
                // Most were not repaired at all.
                pass.remaining += still.open.len() as u64;
            } else {
                pass.unsettled.extend(still.open);
            }
        }
        Ok(())
    }

    /// Looks at suspects until all are equal or differ, or time is up.
    async fn settle(&self, pass: &mut Pass, suspects: Suspects) -> Result<Settled, Error> {
        let (source, target, schema) = (&self.context.setup.source, &self.context.setup.target, &self.table.schema);
        let deadline = Instant::now() + self.context.setup.settle_for;
        let mut open: BTreeMap<KeyTexts, (usize, Trial)> =
            suspects.into_iter().map(|(key, range)| (key, (range, Trial::default()))).collect();
        let mut settled = Settled::default();
        for look in 1.. {
            let keys: Vec<KeyTexts> = open.keys().cloned().collect();
            let ours = source.row_digests(schema, Among::Keys(&keys)).await?;
            pass.position = Some(self.caught_up().await?);
            let theirs = target.row_digests(&self.target, schema, Among::Keys(&keys)).await?;
            open.retain(|key, (range, trial)| match trial.look(ours.get(key), theirs.get(key)) {
                Verdict::Equal => false,
                Verdict::Open => true,
                Verdict::Different(difference) => {
                    settled.different.push((key.clone(), *range, difference));
                    false
                }
            });
            if open.is_empty() || (look >= SETTLE_LOOKS && Instant::now() >= deadline) {
                break;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
            // What the target had at this look is visible in the source at the next.
            if self.wait_out(pass).await?.is_none() {
                break;
            }
        }
        settled.open = open.into_iter().map(|(key, (range, _))| (key, range)).collect();
        Ok(settled)
    }

    /// Waits until all transactions of the source that are open now have ended, but not for ever, nor twice in vain. Everything up
    /// to the position that it returns is visible.
    async fn wait_out(&self, pass: &mut Pass) -> Result<Option<Position>, Error> {
        if pass.held_up_by.is_some() {
            return Ok(None);
        }
        let (told, whom) = watch::channel(None);
        let waits = |whom: Option<String>| {
            if let Some(whom) = &whom {
                tracing::info!(table = %self.table.schema.name, whom, "the comparison waits for a transaction of the source");
            }
            told.send_replace(whom);
        };
        let Setup { source, wait_for, .. } = &self.context.setup;
        if let Ok(v0) = timeout(*wait_for, source.settle(&waits)).await {
            return Ok(Some(v0?));
        }
        pass.held_up_by = Some(whom.borrow().clone().unwrap_or_else(|| "the source".to_owned()));
        Ok(None)
    }

    /// Waits until the target holds all that the source had committed when this was called. Returns where that was.
    async fn caught_up(&self) -> Result<Position, Error> {
        let deadline = Instant::now() + CATCH_UP_FOR;
        let position = self.context.setup.source.heartbeat().await?;
        let (reply, answer) = oneshot::channel();
        self.order(Order::Passed(position.clone(), reply)).await?;
        let record = answer.await.map_err(|_| ended())?;
        loop {
            self.check_life()?;
            let progress = self.context.setup.target.progress(&self.target).await?;
            if let Some(progress) =
                progress.filter(|progress| progress.incarnation == self.incarnation && (progress.exact || self.table.adopted))
                && !self.has_changes(progress.record, record).await?
            {
                return Ok(position);
            }
            if Instant::now() > deadline {
                return Err(Error::TargetBehind(self.table.schema.name.clone()));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Whether records after `after` up to `upto` hold anything for the table. A table without changes does not move its
    /// progress with every record.
    async fn has_changes(&self, after: u64, upto: u64) -> Result<bool, Error> {
        for number in after + 1..=upto {
            let record = self.context.journal.record(number).await?;
            if record.data.iter().any(|data| data.table == self.id && data.incarnation == self.table.incarnation) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Puts the rows of these keys into the log as they are in the source. Returns how many there were; keys that changed
    /// meanwhile are not among them.
    async fn mend(&self, pass: &mut Pass, keys: &[KeyTexts]) -> Result<u64, Error> {
        let (source, schema) = (&self.context.setup.source, &self.table.schema);
        let reader = Keys::new(schema)?;
        let mut wanted = keys.to_vec();
        for spellings_known in [false, true] {
            self.check_life()?;
            let batch = source.keys(schema, &wanted)?;
            let repair = Repair::new(self.id, self.table.incarnation, schema, batch.clone())?;
            let (reply, answer) = oneshot::channel();
            self.order(Order::Watch(Box::new(repair), reply)).await?;
            answer.await.map_err(|_| ended())?;
            let Some(v0) = self.wait_out(pass).await? else { break };
            let values = self.context.values_of_changes(self.context.journal.state().term);
            let found = source.fetch(schema, &batch, &[], values).await?;
            // After the read: what was read is of the table as it was then.
            self.check_schema().await?;
            // A row may be found under another spelling of its key (1.5 for 1.50): to be left alone if it changes, that key must
            // be watched too.
            let known = reader.of_keys(&batch)?;
            let others = reader.of_rows(&found.rows, &cells(&found.rows)?)?.into_iter().any(|key| !known.contains(&key));
            if others && !spellings_known {
                let spelled = source.row_digests(schema, Among::Keys(keys)).await?;
                wanted.extend(spelled.into_keys().filter(|key| !keys.contains(key)));
                continue;
            }
            if others {
                break;
            }
            let (reply, answer) = oneshot::channel();
            self.order(Order::Repair(Box::new(Read { v0, rows: found.rows, read_at: found.read_at }), reply)).await?;
            return answer.await.map_err(|_| self.interrupted());
        }
        Ok(0)
    }

    async fn order(&self, order: Order) -> Result<(), Error> {
        self.orders.send(order).await.map_err(|_| ended())
    }

    /// The table is still the one that is compared.
    fn check_life(&self) -> Result<(), Error> {
        let state = self.context.journal.state();
        let alive = state
            .tables
            .get(&self.id)
            .is_some_and(|table| table.incarnation == self.table.incarnation && table.schema == self.table.schema && table.followed());
        if alive { Ok(()) } else { Err(self.interrupted()) }
    }

    /// The source has the table as it was when it joined.
    async fn check_schema(&self) -> Result<(), Error> {
        let schema = &self.table.schema;
        if schema.is_within(&self.context.setup.source.describe(&schema.name).await?) {
            return Ok(());
        }
        Err(source::Error::SchemaChanged(format!("{} is no longer as it was when it was loaded", schema.name)).into())
    }

    fn interrupted(&self) -> Error {
        Error::VerificationInterrupted(self.table.schema.name.clone())
    }
}

fn ended() -> Error {
    Error::Internal("the capture ended".to_owned())
}

fn name_of(range: &KeyRange) -> DifferingRange {
    let name = |key: &Option<KeyTexts>| key.as_ref().map(text_of);
    DifferingRange { after: name(&range.after), up_to: name(&range.upto), ..DifferingRange::default() }
}

fn text_of(key: &KeyTexts) -> String {
    format!("({})", key.join(", "))
}
