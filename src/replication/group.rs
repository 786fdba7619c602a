//! The group: with `transactionalConsistency`, all exact tables move together, in one transaction of the target a batch, so that
//! readers see them as of one moment of the source (DESIGN 5.5). One worker moves them all.
//!
//! A table's own applier loads it and brings it near the present, then hands it over ([`Group::enter`]) until something is
//! wrong with it. Who is in the group stands in the target, moved by the same compare-and-set as progress: a group that was
//! interrupted waits for all its tables before it moves on. A table with an error that heals holds the group; one that needs a
//! person leaves it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::{Notify, oneshot, watch},
    time::Instant,
};

use super::{
    Applied, Context,
    apply::{self, IDLE_RECORDS},
    batch::{self, Batch, Place},
    error::Error,
    metrics::Way,
    retry,
    state::RunState,
};
use crate::{
    api::{
        fault::{Explain, Fault},
        plan::Plan,
    },
    data::TableSchema,
    protection::Protection,
    target::{self, Apart, Incarnation, Stride, TargetTable, Together},
};

/// An incarnation of a table: its number in the run and the record that admitted it.
pub type Life = (u32, u64);

/// The tables that move together.
#[derive(Default)]
pub struct Group {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    members: BTreeMap<Life, (Arc<Member>, oneshot::Sender<Option<Fault>>)>,
    /// Nobody waits for these: a person must see to them first.
    excused: BTreeSet<Life>,
}

/// A table of the group.
#[derive(Clone)]
pub struct Member {
    /// UID of its LinkTable.
    pub uid: String,
    /// Where its rows are.
    pub target: TargetTable,
    /// Its columns and key.
    pub schema: TableSchema,
    /// Its life.
    pub incarnation: Incarnation,
    /// Number of the table in the run.
    pub id: u32,
    /// Where its progress in the target was when it came.
    pub at: u64,
}

impl Member {
    fn life(&self) -> Life {
        (self.id, self.incarnation.record)
    }
}

/// Takes a table out of the group when its applier ends.
struct Seat<'g>(&'g Group, Life);

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.0.lock().members.remove(&self.1);
        self.0.changed.notify_one();
    }
}

impl Group {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The table moves with the group until this returns: with what is wrong with it, or with nothing if it is to begin anew from
    /// its progress in the target.
    pub async fn enter(&self, member: Member) -> Option<Fault> {
        let life = member.life();
        let (leave, left) = oneshot::channel();
        {
            let mut inner = self.lock();
            inner.excused.remove(&life);
            inner.members.insert(life, (Arc::new(member), leave));
        }
        let _seat = Seat(self, life);
        self.changed.notify_one();
        left.await.ok().flatten()
    }

    /// Sends all tables away.
    pub fn dissolve(&self, fault: Option<&Fault>) {
        for (_, leave) in std::mem::take(&mut self.lock().members).into_values() {
            // Its applier may have ended.
            let _ = leave.send(fault.cloned());
        }
    }

    fn send_away(&self, life: Life, fault: Fault) {
        let mut inner = self.lock();
        if !fault.heals {
            inner.excused.insert(life);
        }
        if let Some((_, leave)) = inner.members.remove(&life) {
            let _ = leave.send(Some(fault));
        }
    }

    /// The table has these columns from here on.
    fn altered(&self, life: Life, schema: TableSchema) {
        if let Some((member, _)) = self.lock().members.get_mut(&life) {
            *member = Arc::new(Member { schema, ..Member::clone(member) });
        }
    }
}

/// Moves the group until the future is dropped. Errors are reported with the tables that they concern, and tried again.
pub async fn run(context: Context) {
    loop {
        let Err(error) = (Mover { context: &context, places: BTreeMap::new(), seen: 0 }).work().await else { return };
        tracing::warn!(%error, "the tables that move together begin anew");
        // Each table comes back by itself, and the group waits for all of them. That another moved them is no fault of theirs.
        let moved = matches!(error, Error::Target(target::Error::ProgressMoved(_)));
        context.group.dissolve((!moved).then(|| error.fault()).as_ref());
        tokio::time::sleep(retry::delay(1)).await;
    }
}

struct Mover<'a> {
    context: &'a Context,
    /// Where the tables are that move together, in the target. The group waits for each of them.
    places: BTreeMap<Life, u64>,
    /// All records up to this one are in all of them.
    seen: u64,
}

impl Mover<'_> {
    async fn work(mut self) -> Result<(), Error> {
        let group = &self.context.group;
        let mut states = self.context.journal.subscribe();
        let mut plans = self.context.plan.clone();
        self.interrupted(&mut states).await?;
        loop {
            let state = states.borrow_and_update().clone();
            let plan = plans.borrow_and_update().clone();
            let members = self.gathered(&plan, &state);
            let Some(members) = members.filter(|members| state.number > self.seen || self.entrants(members)) else {
                tokio::select! {
                    changed = states.changed() => if changed.is_err() { return Ok(()) },
                    changed = plans.changed() => if changed.is_err() { return Ok(()) },
                    () = group.changed.notified() => {}
                }
                continue;
            };
            self.step(&plan, members, state.number).await?;
        }
    }

    /// Takes up what moved together when the group was interrupted.
    async fn interrupted(&mut self, states: &mut watch::Receiver<Arc<RunState>>) -> Result<(), Error> {
        if !Protection::Reunion.holds() {
            return Ok(());
        }
        let link_id = self.context.plan.borrow().link.link_id.clone();
        let mut progresses = self.context.setup.target.link_progress(&link_id).await?;
        let run = self.context.journal.log().run();
        progresses.retain(|_, progress| progress.grouped && progress.exact && progress.incarnation.run == run);
        let newest = progresses.values().map(|progress| progress.record).max().unwrap_or_default();
        // Whoever moved them knew more of the log.
        let state = states.wait_for(|state| state.number >= newest).await.map_err(|_| Error::Internal("the log ended".to_owned()))?.clone();
        let place = |(name, progress): (_, &target::Progress)| Some(((state.table(name)?.0, progress.incarnation.record), progress.record));
        self.places = progresses.iter().filter_map(place).collect();
        Ok(())
    }

    /// The members, if all are there that must be.
    fn gathered(&mut self, plan: &Plan, state: &RunState) -> Option<Vec<Arc<Member>>> {
        let mut inner = self.context.group.lock();
        inner.excused.retain(|life| is_live(plan, state, *life));
        self.places.retain(|life, _| is_live(plan, state, *life) && !inner.excused.contains(life));
        let complete = self.places.keys().all(|life| inner.members.contains_key(life));
        let members: Vec<Arc<Member>> =
            inner.members.values().map(|(member, _)| member).filter(|member| is_live(plan, state, member.life())).cloned().collect();
        (complete && !members.is_empty()).then_some(members)
    }

    fn entrants(&self, members: &[Arc<Member>]) -> bool {
        members.iter().any(|member| !self.places.contains_key(&member.life()))
    }

    /// Moves the members on by one batch.
    async fn step(&mut self, plan: &Plan, mut members: Vec<Arc<Member>>, newest: u64) -> Result<(), Error> {
        let context = self.context;
        let at = |member: &Member| self.places.get(&member.life()).copied().unwrap_or(member.at);
        let place = |member: &Arc<Member>| {
            // What is known to be idle is not read again.
            let after = if self.places.contains_key(&member.life()) { at(member).max(self.seen) } else { member.at };
            Place { table: member.id, incarnation: member.incarnation.record, after }
        };
        let places: Vec<Place> = members.iter().map(place).collect();
        // Nobody of the group may be left behind, however much an entrant has yet to take in.
        let at_least = self.places.values().copied().max().unwrap_or_default().max(self.seen);
        let mut found = batch::gather(context, &places, newest, at_least).await?;
        // An entrant that is further than this batch joins with a later one.
        let mut shares = std::mem::take(&mut found.tables).into_iter();
        let mut taken = Vec::new();
        members.retain(|member| {
            let share = shares.next().unwrap_or_default();
            let takes_part = at(member) <= found.upto;
            if takes_part {
                taken.push(share);
            }
            takes_part
        });
        let lowest = members.iter().map(|member| at(member)).min().unwrap_or(found.upto);
        let idle = taken.iter().all(|share| share.entries.is_empty());
        if idle && !self.entrants(&members) && found.upto - lowest < IDLE_RECORDS {
            for member in &members {
                self.moved(member, &found, at(member), None);
            }
            self.seen = found.upto;
            return Ok(());
        }
        let together = members.iter().zip(&taken).map(|(member, share)| Together {
            table: &member.target,
            schema: &member.schema,
            incarnation: member.incarnation,
            from: at(member),
            // Not begun before the one of the table before is through: the budget for rows in memory is one for all.
            steps: (!share.entries.is_empty()).then(|| batch::steps(context, &member.schema, &share.entries)),
        });
        let together = together.collect();
        let stride = Stride { link_id: &plan.link.link_id, to: found.upto, as_of: found.as_of, plan_revision: plan.revision };
        let began = Instant::now();
        match context.setup.target.apply_together(stride, together).await {
            Ok(rows) => {
                if !idle {
                    context.setup.metrics.apply_took(Way::Changes, began.elapsed());
                }
                for ((member, share), rows) in members.iter().zip(&taken).zip(rows) {
                    self.moved(member, &found, found.upto, (!share.entries.is_empty()).then_some((rows, share.bytes)));
                    self.places.insert(member.life(), found.upto);
                    if let Some(schema) = share.schema() {
                        context.group.altered(member.life(), schema);
                    }
                }
                self.seen = found.upto;
                Ok(())
            }
            Err(Apart { table, error }) => {
                let Some(member) = table.and_then(|table| members.get(table)) else { return Err(error.into()) };
                context.group.send_away(member.life(), error.fault());
                if error.heals() {
                    // The others come back at once and wait for it.
                    context.group.dissolve(None);
                }
                Ok(())
            }
        }
    }

    /// A member holds all of a batch; its progress in the target is `at`.
    fn moved(&self, member: &Member, batch: &Batch, at: u64, written: Option<(u64, u64)>) {
        apply::advanced(self.context, &member.uid, &member.target, batch, written);
        self.context.board.table(&member.uid, |report| report.consistent = true);
        self.context.applied(member.id, member.incarnation.record, Applied { seen: batch.upto, as_of: batch.as_of, at });
    }
}

/// Whether that life of a table goes on.
fn is_live(plan: &Plan, state: &RunState, (id, incarnation): Life) -> bool {
    let table = state.tables.get(&id).filter(|table| table.incarnation == incarnation && table.followed());
    table.is_some_and(|table| plan.tables.iter().any(|planned| planned.uid == table.uid))
}
