//! The slot's stream. A task of its own reads the socket and talks to the server, so that the server hears from us every few
//! seconds however long a batch is under way.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    Postgresql,
    lsn::Lsn,
    replication::{self, Answers, Changes, Frame, Options},
    slot,
    wire::Wire,
};
use crate::{
    protection::Protection,
    source::{Error, LargeValues},
};

/// Time between two words to the server, well below its `wal_sender_timeout` (1 min).
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// Reads of the socket that may wait to be taken; each is about as large as the socket's buffer, or one message.
const WAITING_READS: usize = 8;
/// Tries to get a slot that its ended reader has not let go of yet.
const TAKE_OVER_TRIES: u32 = 20;

/// The stream of a slot's changes. It ends with this.
pub struct Stream {
    arrived: mpsc::Receiver<Result<Vec<Frame>, Error>>,
    acknowledged: watch::Sender<Lsn>,
    pump: JoinHandle<()>,
    /// Values come in their types' binary form.
    pub binary: bool,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

impl Stream {
    /// What has arrived; waits for it.
    pub async fn next(&mut self) -> Result<Vec<Frame>, Error> {
        self.arrived.recv().await.ok_or_else(|| Error::SourceUnreachable("the stream of changes has ended".to_owned()))?
    }

    /// Nothing up to here is needed from the server any more.
    pub fn acknowledge(&self, position: Lsn) {
        // Never back: the server would not follow, and a lower number would only hide that somebody erred.
        self.acknowledged.send_if_modified(|acknowledged| {
            let forward = position > *acknowledged;
            *acknowledged = position.max(*acknowledged);
            forward
        });
    }
}

/// Starts the stream of all that commits after `from`. What is large goes to `values`.
pub async fn start(source: &Postgresql, from: Lsn, take_over: bool, binary: bool, values: Arc<dyn LargeValues>) -> Result<Stream, Error> {
    let name = &source.name;
    let session = source.session().await?;
    let mut tries = 0;
    // Only this time: what the server stumbles over is passed then.
    let streaming = !source.without_streaming.swap(false, Ordering::Relaxed);
    let options = Options { streaming, binary };
    let (changes, answers) = loop {
        let Some(slot) = slot::find(&session, name).await? else {
            return Err(Error::PositionLost(format!("replication slot {name} is gone")));
        };
        if let Some(why) = slot.lost {
            return Err(Error::PositionLost(format!("replication slot {name} {why}")));
        }
        // PostgreSQL would go on from where the slot is without a word.
        if let Some(confirmed) = slot.confirmed.filter(|&confirmed| confirmed > from && Protection::Continuity.holds()) {
            return Err(Error::PositionLost(format!("replication slot {name} starts at {confirmed}, after {from}")));
        }
        match slot.active_pid {
            Some(_) if take_over => slot::end_reader(&session, name).await?,
            Some(pid) => return Err(Error::SlotInUse(format!("process {pid} of the server reads from slot {name}"))),
            None => {}
        }
        let wire = Wire::connect(&source.database, &source.secrets, true).await?;
        match replication::start(wire, name, from, options, values.clone()).await {
            Ok(both) => break both,
            Err(Error::SlotInUse(_)) if take_over && tries < TAKE_OVER_TRIES => {
                tries += 1;
                sleep(Duration::from_millis(100)).await;
            }
            Err(error) => return Err(error),
        }
    };
    let (acknowledged, acknowledgements) = watch::channel(from);
    let (sender, arrived) = mpsc::channel(WAITING_READS);
    let without_streaming = source.without_streaming.clone();
    let pump = tokio::spawn(async move {
        let (seen, asked) = (watch::Sender::new(from), Notify::new());
        let ended = tokio::select! {
            ended = read(changes, &sender, &seen, &asked) => ended,
            ended = answer(answers, acknowledgements, &seen, &asked) => ended,
        };
        if let Err(error) = ended {
            if streaming && matches!(error, Error::DecodingFailed(_)) {
                without_streaming.store(true, Ordering::Relaxed);
            }
            // Nobody listens any more if this fails.
            let _ = sender.send(Err(error)).await;
        }
    });
    Ok(Stream { arrived, acknowledged, pump, binary })
}

/// Moves what arrives to the capture, until it is gone. `seen`: how far the server has read its log for us; `asked`: it wants to
/// hear from us.
async fn read(
    mut changes: Changes,
    sender: &mpsc::Sender<Result<Vec<Frame>, Error>>,
    seen: &watch::Sender<Lsn>,
    asked: &Notify,
) -> Result<(), Error> {
    loop {
        let frames = changes.frames().await?;
        for frame in &frames {
            if let Frame::Keepalive { end, reply, .. } = frame {
                seen.send_modify(|seen| *seen = (*seen).max(*end));
                if *reply {
                    asked.notify_one();
                }
            }
        }
        if sender.send(Ok(frames)).await.is_err() {
            return Ok(());
        }
    }
}

/// Keeps the server informed, until the capture is gone.
async fn answer(
    mut answers: Answers,
    mut acknowledgements: watch::Receiver<Lsn>,
    seen: &watch::Sender<Lsn>,
    asked: &Notify,
) -> Result<(), Error> {
    let mut ticks = interval(STATUS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            changed = acknowledgements.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
            }
            _ = ticks.tick() => {}
            () = asked.notified() => {}
        }
        let (seen, flushed) = (*seen.borrow(), *acknowledgements.borrow_and_update());
        answers.send_status(seen, flushed).await?;
    }
}
