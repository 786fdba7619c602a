//! How tables join and leave a running link (DESIGN 5.3, steps 1 and 2).
//!
//! A table is claimed in the target, admitted to the source's stream, and joins the log; from that record on its changes
//! are captured. Then the source settles (the double wait), and the chunk plan is recorded. Every step can be done again:
//! whoever reigns next goes on with what the log says.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::Instant,
};

use super::{
    Context,
    capture::Order,
    error::Error,
    group::Life,
    metrics::Task,
    retry, share,
    state::{RunState, TableState},
};
use crate::{
    api::{
        fault::{Explain, Fault},
        plan::PlannedTable,
        report::TablePhase,
    },
    data::{Position, TableName, TableSchema},
    landing::record::Event,
    source,
    target::{Claim, TargetTable},
};

/// How often the tables are looked at when nothing happens.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often the source is asked whether all tables are in its stream.
const STREAM_EVERY: Duration = Duration::from_mins(1);
/// How long the tables of a former link wait for LinkTables that take them over: manifests do not all come at once.
const HEIRS_WITHIN: Duration = Duration::from_mins(10);
/// How often the zone is asked which chunks were read.
const CHUNKS_EVERY: Duration = Duration::from_millis(300);

/// What a table of the plan needs before it can be loaded.
enum Need {
    /// To join, under this incarnation's state if it was there before.
    Join(Option<Box<TableState>>),
    /// A chunk plan, or to be adopted; it has joined.
    Plan,
    /// To go on, as a former link left it.
    Inherit(u32, u64),
}

/// Lets tables join and leave as the plan asks, for ever.
pub async fn manage(context: &Context, orders: mpsc::Sender<Order>) -> Result<(), Error> {
    let mut plan = context.plan.clone();
    let mut groups: JoinSet<Vec<(PlannedTable, Result<(), Fault>)>> = JoinSet::new();
    let mut leaves: JoinSet<TableName> = JoinSet::new();
    let mut expels: JoinSet<(TableName, Life, bool)> = JoinSet::new();
    let mut busy: HashSet<TableName> = HashSet::new();
    let mut silenced: HashSet<Life> = HashSet::new();
    let mut loud: HashMap<Life, (u32, Instant)> = HashMap::new();
    let mut retries: HashMap<String, (u32, Instant)> = HashMap::new();
    let began = Instant::now();
    loop {
        let tables = plan.borrow_and_update().tables.clone();
        let state = context.journal.state();

        let may_leave = |table: &TableState| !table.left && (!table.inherited || began.elapsed() > HEIRS_WITHIN);
        for (id, table) in state.tables.iter().filter(|(_, table)| may_leave(table)) {
            let name = &table.schema.name;
            if !tables.iter().any(|planned| planned.source == *name) && busy.insert(name.clone()) {
                leaves.spawn(leave(context.clone(), *id, table.clone(), orders.clone()));
            }
        }

        let due = |uid: &str| retries.get(uid).is_none_or(|(_, at)| *at <= Instant::now());
        let group: Vec<_> = tables
            .iter()
            .filter(|planned| due(&planned.uid) && !busy.contains(&planned.source))
            .filter_map(|planned| Some((planned.clone(), need(planned, &state)?)))
            .collect();
        if !group.is_empty() {
            busy.extend(group.iter().map(|(planned, _)| planned.source.clone()));
            groups.spawn(join(context.clone(), group, orders.clone()));
        }

        // Tables that left or wait for a person: while the stream has them, the application's updates of one that lost its key
        // fail. One at a time: a run may have had many.
        let ended = |table: &TableState| table.left || table.fault.as_ref().is_some_and(|fault| !fault.heals);
        let due = |life: &Life| !silenced.contains(life) && loud.get(life).is_none_or(|(_, at)| *at <= Instant::now());
        let next = state.tables.iter().filter(|(_, table)| ended(table)).map(|(id, table)| ((*id, table.incarnation), &table.schema.name));
        if expels.is_empty()
            && let Some((life, name)) = next.filter(|(life, _)| due(life)).find(|(_, name)| !busy.contains(name))
        {
            busy.insert(name.clone());
            expels.spawn(silence(context.clone(), life, name.clone()));
        }

        tokio::select! {
            changed = plan.changed() => if changed.is_err() { return Ok(()) },
            () = tokio::time::sleep(LOOK_EVERY) => {}
            Some(left) = leaves.join_next() => { busy.remove(&left?); }
            Some(silence) = expels.join_next() => {
                let (name, life, silent) = silence?;
                busy.remove(&name);
                if silent {
                    loud.remove(&life);
                    silenced.insert(life);
                } else {
                    let attempt = loud.get(&life).map_or(1, |(attempt, _)| attempt + 1);
                    loud.insert(life, (attempt, Instant::now() + retry::delay(attempt)));
                }
            },
            Some(group) = groups.join_next() => for (planned, result) in group? {
                busy.remove(&planned.source);
                match result {
                    Ok(()) => { retries.remove(&planned.uid); }
                    Err(fault) => {
                        let attempt = retries.get(&planned.uid).map_or(1, |(attempt, _)| attempt + 1);
                        let delay = retry::delay(attempt);
                        context.table_failed(Task::Join, &planned.uid, fault, attempt, delay);
                        retries.insert(planned.uid, (attempt, Instant::now() + delay));
                    }
                }
            },
        }
    }
}

/// What the table needs, if anything.
fn need(planned: &PlannedTable, state: &RunState) -> Option<Need> {
    let Some((id, table)) = state.table(&planned.source) else { return Some(Need::Join(None)) };
    let same_place = table.target == planned.target && table.options == planned.options;
    if table.inherited && !table.left && same_place {
        return Some(Need::Inherit(id, table.incarnation));
    }
    let other = table.left || table.uid != planned.uid || planned.asks_for_load(table.reseed.as_ref()) || !same_place;
    let void = table.fault.as_ref().is_some_and(|fault| fault.heals);
    if other || void {
        return Some(Need::Join(Some(Box::new(table.clone()))));
    }
    (!table.planned() && table.followed()).then_some(Need::Plan)
}

/// Lets a group of tables join; they wait for the source's open transactions together.
async fn join(context: Context, group: Vec<(PlannedTable, Need)>, orders: mpsc::Sender<Order>) -> Vec<(PlannedTable, Result<(), Fault>)> {
    let mut done = Vec::new();
    let mut joined = Vec::new();
    for (planned, need) in group {
        let (result, why) = match need {
            Need::Inherit(table, incarnation) => {
                let (uid, reseed) = (planned.uid.clone(), planned.reseed.clone());
                let event = Event::Inherit { table, incarnation, uid, reseed };
                done.push((planned, commit(&orders, event).await.map(|_| ()).map_err(|error| error.fault())));
                continue;
            }
            Need::Plan => (Ok(()), None),
            Need::Join(before) => {
                let result = admit(&context, &planned, before.as_deref(), &orders).await;
                (result, before.and_then(|before| before.fault))
            }
        };
        match result {
            Ok(()) => {
                // Not before: what failed last time has failed until it has not.
                context.board.table_works(&planned.uid, TablePhase::Waiting);
                context.board.table(&planned.uid, |report| report.waiting = why);
                joined.push(planned);
            }
            Err(error) => done.push((planned, Err(error.fault()))),
        }
    }
    if joined.is_empty() {
        return done;
    }
    let waiting = |whom: Option<String>| show_waiting_of(&context, &joined, whom.as_deref());
    let settled = context.setup.source.settle(&waiting).await;
    for planned in joined {
        let result = match &settled {
            Ok(v0) => cut(&context, &planned, v0, &orders).await.map_err(|error| error.fault()),
            Err(error) => Err(error.fault()),
        };
        done.push((planned, result));
    }
    done
}

/// Shows whom all tables of the plan wait for.
pub fn show_waiting(context: &Context, whom: Option<&str>) {
    show_waiting_of(context, &context.plan.borrow().tables, whom);
}

fn show_waiting_of(context: &Context, tables: &[PlannedTable], whom: Option<&str>) {
    for planned in tables {
        context.board.table(&planned.uid, |report| report.waiting = whom.map(open_transaction));
    }
}

fn open_transaction(whom: &str) -> Fault {
    Fault {
        reason: "OpenTransaction".to_owned(),
        message: format!("waits for a transaction that was open when the table joined: {whom}"),
        remedy: "end the transaction in the source; the table goes on by itself".to_owned(),
        heals: true,
    }
}

/// Claims the table in the target, admits it to the stream, and records that it joined.
async fn admit(context: &Context, planned: &PlannedTable, before: Option<&TableState>, orders: &mpsc::Sender<Order>) -> Result<(), Error> {
    let setup = &context.setup;
    let schema = match setup.source.describe(&planned.source).await {
        // It cannot be linked any more: it must not stay in the stream, see above.
        Err(error) if error.is_of_table() && before.is_some_and(|before| !before.left) => {
            expel(context, &planned.source).await;
            return Err(error.into());
        }
        described => described?,
    };
    // What was not adopted to the end is adopted again: a load would replace a table that is not the link's own yet, and only a
    // reseed that a person asks for may.
    let to_adopt = |before: &TableState| before.adopted && before.exact.is_none() && !planned.asks_for_load(before.reseed.as_ref());
    if let Some(before) = before.filter(|before| before.target != planned.target || to_adopt(before)) {
        setup.target.forget(&context.target_table(before), false).await?;
    }
    let link_id = context.plan.borrow().link.link_id.clone();
    let (source, name, options) = (planned.source.clone(), planned.target.clone(), planned.options.clone());
    setup.target.claim(&TargetTable { link_id, source, name, options }, &schema).await?;
    let source::Admitted { from, parts } = setup.source.admit(&schema).await?;
    let (uid, reseed, target, options) =
        (planned.uid.clone(), planned.reseed.clone(), planned.target.clone(), Box::new(planned.options.clone()));
    commit(orders, Event::Join { table: 0, uid, reseed, target, options, schema, parts, from }).await.map(|_| ())
}

/// Cuts the table into chunks, or finds that it is to be adopted, and records that.
async fn cut(context: &Context, planned: &PlannedTable, v0: &Position, orders: &mpsc::Sender<Order>) -> Result<(), Error> {
    let state = context.journal.state();
    let Some((id, table)) = state.table(&planned.source).filter(|(_, table)| table.followed()) else { return Ok(()) };
    let schema: &TableSchema = &table.schema;
    // What a worker that is gone began may have come late: a table that left and joined again would be silent.
    if let Some(name) = context.setup.source.silent(std::slice::from_ref(schema)).await?.pop() {
        return fail(orders, id, table, &source::Error::TableNotPublished(name)).await;
    }
    let plan = context.setup.source.plan_chunks(schema, context.setup.chunk_bytes).await?;
    // The stream brings changes of what held the rows when the table joined.
    let parts: HashSet<u32> = table.parts.iter().map(|part| part.object_id).collect();
    if !parts.is_empty() && parts != plan.chunks.iter().map(|chunk| chunk.object_id).collect() {
        return fail(orders, id, table, &source::Error::TableRewritten(format!("{} got or lost a partition", schema.name))).await;
    }
    let (incarnation, v0) = (table.incarnation, v0.clone());
    let event = match context.setup.target.claim(&context.target_table(table), schema).await? {
        Claim::Load | Claim::Replace => Event::Plan { table: id, incarnation, v0, plan },
        Claim::Adopt => Event::Adopt { table: id, incarnation, v0 },
    };
    commit(orders, event).await?;
    if share::applier(&context.plan.borrow(), id) != context.setup.ordinal {
        // From here on the worker that applies the table reports it.
        context.board.retain(|uid| uid != planned.uid);
    }
    Ok(())
}

/// Records that a table left, and takes back what was made for it in the target. What cannot be reached now is left to the release.
async fn leave(context: Context, id: u32, table: TableState, orders: mpsc::Sender<Order>) -> TableName {
    let name = table.schema.name.clone();
    if commit(&orders, Event::Leave { table: id }).await.is_ok() {
        tracing::info!(table = %name, "table left the link");
        context.board.retain(|uid| uid != table.uid);
        if let Err(error) = context.setup.target.forget(&context.target_table(&table), false).await {
            tracing::warn!(table = %name, %error, "the target keeps the table's progress");
        }
    }
    name
}

/// Takes a table that is not followed out of the source's stream, until it joins again. Says whether it is out.
async fn silence(context: Context, life: Life, name: TableName) -> (TableName, Life, bool) {
    let silent = expel(&context, &name).await;
    (name, life, silent)
}

/// Whether the table is out of the source's stream now. Whoever builds an index holds it there meanwhile.
async fn expel(context: &Context, name: &TableName) -> bool {
    let expelled = context.setup.source.expel(name).await;
    if let Err(error) = &expelled {
        tracing::warn!(table = %name, %error, "table stays in the source's stream for now");
    }
    expelled.is_ok()
}

async fn commit(orders: &mpsc::Sender<Order>, event: Event) -> Result<u64, Error> {
    let (reply, answer) = oneshot::channel();
    let ended = || Error::Internal("the capture ended".to_owned());
    orders.send(Order::Commit(Box::new(event), reply)).await.map_err(|_| ended())?;
    answer.await.map_err(|_| ended())
}

/// Ends the incarnation of every table that somebody took out of the source's stream: it joins anew.
pub async fn watch_stream(context: &Context, orders: mpsc::Sender<Order>) -> Result<(), Error> {
    loop {
        tokio::time::sleep(STREAM_EVERY).await;
        let state = context.journal.state();
        let followed: Vec<TableSchema> = state.tables.values().filter(|table| table.followed()).map(|table| table.schema.clone()).collect();
        for name in context.setup.source.silent(&followed).await? {
            let state = context.journal.state();
            if let Some((id, table)) = state.table(&name).filter(|(_, table)| table.followed()) {
                fail(&orders, id, table, &source::Error::TableNotPublished(name)).await?;
            }
        }
    }
}

/// Ends an incarnation; it is loaded anew.
async fn fail(orders: &mpsc::Sender<Order>, id: u32, table: &TableState, error: &source::Error) -> Result<(), Error> {
    commit(orders, Event::Fail { table: id, incarnation: table.incarnation, fault: error.fault() }).await.map(|_| ())
}

/// Tells the capture of every table whose chunks were all read, by whichever workers; a void plan ends its incarnation. And of
/// adopted tables that an earlier reign had found to be right.
pub async fn watch_chunks(context: &Context, orders: mpsc::Sender<Order>) -> Result<(), Error> {
    let mut seen: HashMap<(u32, u64), HashMap<u32, Position>> = HashMap::new();
    let mut told: HashSet<(u32, u64)> = HashSet::new();
    loop {
        let state: Arc<RunState> = context.journal.state();
        for (id, table) in state.tables.iter().filter(|(_, table)| table.followed() && table.exact.is_none()) {
            let key = (*id, table.incarnation);
            if table.adopted && table.passed.is_some() && told.insert(key) {
                read_all(&orders, key, Position::default()).await?;
            }
            let Some(plan) = table.plan.as_ref().filter(|_| !told.contains(&key)) else { continue };
            let read = seen.entry(key).or_default();
            for chunk in context.journal.log().chunks_read(*id, table.incarnation).await? {
                if read.contains_key(&chunk) {
                    continue;
                }
                let Some(record) = context.journal.log().chunk(*id, table.incarnation, chunk).await? else { continue };
                if let Some(fault) = record.void {
                    told.insert(key);
                    commit(&orders, Event::Fail { table: *id, incarnation: table.incarnation, fault }).await?;
                    break;
                }
                read.insert(chunk, record.read_at);
            }
            if read.len() == plan.chunks.len() && told.insert(key) {
                let read_at = read.values().max().cloned().unwrap_or_default();
                read_all(&orders, key, read_at).await?;
            }
        }
        tokio::time::sleep(CHUNKS_EVERY).await;
    }
}

/// Tells the capture that a table has all its rows.
pub async fn read_all(orders: &mpsc::Sender<Order>, (table, incarnation): (u32, u64), read_at: Position) -> Result<(), Error> {
    let order = Order::ChunksRead { table, incarnation, read_at };
    orders.send(order).await.map_err(|_| Error::Internal("the capture ended".to_owned()))
}
