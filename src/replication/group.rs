//! The group: with `transactionalConsistency`, all exact tables move together, in one transaction of the target a batch, so that
//! readers see them as of one moment of the source (DESIGN 5.5). One worker moves them all.
//!
//! A table's own applier loads it and brings it near the present, then hands it over ([`Group::enter`]) until something is
//! wrong with it. Who is in the group stands in the target, moved by the same compare-and-set as progress: a group that was
//! interrupted waits for all its tables before it moves on. A table with an error that heals holds the group; one that needs a
//! person leaves it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, oneshot};

use super::{
    Applied, Context,
    apply::{self, IDLE_RECORDS},
    batch::{self, Place},
    error::Error,
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
    target::{Apart, Incarnation, TargetTable, Together},
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
    members: BTreeMap<Life, (Member, oneshot::Sender<Option<Fault>>)>,
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
    /// Where its progress in the target is.
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
            inner.members.insert(life, (member, leave));
        }
        let _place = Seat(self, life);
        self.changed.notify_one();
        left.await.ok().flatten()
    }

    /// The table failed in a way that needs a person: the others go on without it.
    pub fn excuse(&self, life: Life) {
        self.lock().excused.insert(life);
        self.changed.notify_one();
    }

    /// Sends all tables away.
    pub fn dissolve(&self, fault: Option<&Fault>) {
        for (_, leave) in std::mem::take(&mut self.lock().members).into_values() {
            // Its applier may have ended.
            let _ = leave.send(fault.cloned());
        }
    }

    fn send_away(&self, life: Life, fault: Fault) {
        if let Some((_, leave)) = self.lock().members.remove(&life) {
            let _ = leave.send(Some(fault));
        }
    }

    fn members(&self) -> Vec<Member> {
        self.lock().members.values().map(|(member, _)| member.clone()).collect()
    }

    fn moved(&self, life: Life, at: u64) {
        if let Some((member, _)) = self.lock().members.get_mut(&life) {
            member.at = at;
        }
    }
}

/// Moves the group until the future is dropped. Errors are reported with the tables that they concern, and tried again.
pub async fn run(context: Context) {
    loop {
        let Err(error) = work(&context).await else { return };
        // Each table waits by itself and comes back.
        context.group.dissolve(Some(&error.fault()));
        tokio::time::sleep(retry::delay(1)).await;
    }
}

async fn work(context: &Context) -> Result<(), Error> {
    let group = &context.group;
    let mut states = context.journal.subscribe();
    let mut expected = interrupted(context).await?;
    let mut seen = 0;
    loop {
        let state = states.borrow_and_update().clone();
        let plan = context.plan.borrow().clone();
        {
            let mut inner = group.lock();
            inner.excused.retain(|life| is_live(&plan, &state, *life));
            expected.retain(|life| is_live(&plan, &state, *life) && !inner.excused.contains(life));
        }
        let mut members = group.members();
        let complete = expected.iter().all(|life| members.iter().any(|member| member.life() == *life));
        let entrants = members.iter().any(|member| !expected.contains(&member.life()));
        if !complete || members.is_empty() || (state.number <= seen && !entrants) {
            tokio::select! {
                changed = states.changed() => if changed.is_err() { return Ok(()) },
                () = group.changed.notified() => {}
            }
            continue;
        }
        let place = |member: &Member| Place { table: member.id, incarnation: member.incarnation.record, after: member.at };
        let places: Vec<Place> = members.iter().map(place).collect();
        let mut found = batch::gather(context, &places, state.number).await?;
        // A table that is further than this batch joins with a later one.
        let mut shares = std::mem::take(&mut found.tables).into_iter();
        let mut taken = Vec::new();
        members.retain(|member| {
            let share = shares.next().unwrap_or_default();
            let takes_part = member.at <= found.upto;
            if takes_part {
                taken.push(share);
            }
            takes_part
        });
        let at = members.iter().map(|member| member.at).min().unwrap_or(found.upto);
        let idle = taken.iter().all(|share| share.entries.is_empty());
        if idle && members.iter().all(|member| expected.contains(&member.life())) && found.upto - at < IDLE_RECORDS {
            for member in &members {
                apply::advanced(context, &member.uid, &found, None);
                let applied = Applied { seen: found.upto, as_of: found.as_of, at: member.at };
                context.applied(member.id, member.incarnation.record, applied);
            }
            seen = found.upto;
            continue;
        }
        let together = members.iter().zip(&taken).map(|(member, share)| Together {
            table: &member.target,
            schema: &member.schema,
            incarnation: member.incarnation,
            from: member.at,
            // Not begun before the one of the table before is through: the budget for rows in memory is one for all.
            steps: (!share.entries.is_empty()).then(|| batch::steps(context, &member.schema, &share.entries)),
        });
        let together = together.collect();
        let link_id = &plan.link.link_id;
        match context.setup.target.apply_together(link_id, found.upto, found.as_of, together).await {
            Ok(rows) => {
                for ((member, share), rows) in members.iter().zip(&taken).zip(rows) {
                    apply::advanced(context, &member.uid, &found, (!share.entries.is_empty()).then_some((rows, share.bytes)));
                    context.board.table(&member.uid, |report| report.consistent = true);
                    let applied = Applied { seen: found.upto, as_of: found.as_of, at: found.upto };
                    context.applied(member.id, member.incarnation.record, applied);
                    group.moved(member.life(), found.upto);
                    expected.insert(member.life());
                }
                seen = found.upto;
            }
            Err(Apart { table, error }) => match table.and_then(|table| members.get(table)) {
                Some(member) if !error.heals() => {
                    group.excuse(member.life());
                    group.send_away(member.life(), error.fault());
                }
                Some(member) => {
                    // The others come back at once and wait for it.
                    group.send_away(member.life(), error.fault());
                    group.dissolve(None);
                }
                None => return Err(error.into()),
            },
        }
    }
}

/// The tables that moved together when the group was interrupted.
async fn interrupted(context: &Context) -> Result<BTreeSet<Life>, Error> {
    if !Protection::Reunion.holds() {
        return Ok(BTreeSet::new());
    }
    let link_id = context.plan.borrow().link.link_id.clone();
    let progresses = context.setup.target.link_progress(&link_id).await?;
    let state = context.journal.state();
    let grouped = progresses.iter().filter(|(_, progress)| progress.grouped && progress.exact && progress.incarnation.run == state.run);
    Ok(grouped.filter_map(|(name, progress)| Some((state.table(name)?.0, progress.incarnation.record))).collect())
}

/// Whether that life of a table goes on.
fn is_live(plan: &Plan, state: &RunState, (id, incarnation): Life) -> bool {
    let table = state.tables.get(&id).filter(|table| table.incarnation == incarnation && table.followed());
    table.is_some_and(|table| plan.tables.iter().any(|planned| planned.uid == table.uid))
}
