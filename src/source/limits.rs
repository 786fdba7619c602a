//! How many sessions a process opens to the source, and how fast snapshots read: both can be changed at any time.
//!
//! Sessions are of kinds ([`Kind`]) with a bound each, so that no kind keeps another waiting: while it has a session, a chunk's
//! reader or whoever waits for open transactions may need one of kind [`Kind::Inner`], and such a one never needs another.
//! That is why nobody waits in a circle, however low the bound.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use crate::{protection::Protection, source::ReadLimits};

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The stream of changes. One, and it stays.
    Stream,
    /// A wait for open transactions. It may last for hours.
    Wait,
    /// A question. Soon over.
    Question,
    /// A question of who has a session of another kind, and that must not starve. Soon over, and needs no other session.
    Inner,
    /// A chunk of a snapshot.
    Chunk,
}

/// The limits of one process.
#[derive(Default)]
pub struct Limits {
    gates: [Arc<Gate>; 5],
    throttle: Throttle,
}

impl Limits {
    /// From now on these are the limits.
    pub fn set(&self, limits: &ReadLimits) {
        for kind in [Kind::Stream, Kind::Wait, Kind::Question, Kind::Inner, Kind::Chunk] {
            self.gates[kind as usize].set(limits.connections.map(|most| share(most, kind)));
        }
        self.throttle.set(limits.snapshot_rate);
    }

    /// Waits until there may be one more session of this kind. The session counts until the permit is dropped.
    pub async fn permit(&self, kind: Kind) -> Permit {
        self.gates[kind as usize].clone().enter().await
    }

    /// Waits until so many bytes more may have been read.
    pub async fn read(&self, bytes: usize) {
        self.throttle.take(bytes).await;
    }
}

/// How many sessions of a kind there are, of so many in all.
fn share(most: u32, kind: Kind) -> u32 {
    let questions = if most < 8 { 1 } else { 2 };
    match kind {
        Kind::Stream | Kind::Wait | Kind::Inner => 1,
        Kind::Question => questions,
        Kind::Chunk => most.saturating_sub(3 + questions).max(1),
    }
}

/// A semaphore whose size can be changed: who is in stays, and nobody enters until fewer are in than may be.
#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    news: Notify,
}

#[derive(Default)]
struct GateState {
    inside: u32,
    /// None: any number.
    most: Option<u32>,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, most: Option<u32>) {
        self.lock().most = most;
        self.news.notify_waiters();
    }

    async fn enter(self: Arc<Self>) -> Permit {
        loop {
            // Made before the look: a change in between wakes it.
            let news = self.news.notified();
            {
                let mut state = self.lock();
                if state.most.is_none_or(|most| state.inside < most) || !Protection::Connections.holds() {
                    state.inside += 1;
                    break;
                }
            }
            news.await;
        }
        Permit(self)
    }
}

/// A place inside a gate.
pub struct Permit(Arc<Gate>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.lock().inside -= 1;
        // All of them: they are few, and one that was woken may have gone.
        self.0.news.notify_waiters();
    }
}

/// A token bucket for all who read.
#[derive(Default)]
struct Throttle {
    /// Bytes per second; none: no limit.
    rate: watch::Sender<Option<u64>>,
    bucket: Mutex<Bucket>,
}

impl Throttle {
    fn set(&self, rate: Option<u64>) {
        self.rate.send_if_modified(|now| std::mem::replace(now, rate) != rate);
    }

    async fn take(&self, bytes: usize) {
        let mut rate = self.rate.subscribe();
        loop {
            let Some(per_second) = *rate.borrow_and_update() else { return };
            let taken = self.bucket.lock().unwrap_or_else(PoisonError::into_inner).take(bytes, per_second, Instant::now());
            let Err(wait) = taken else { return };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                // The sender is ours.
                _ = rate.changed() => {}
            }
        }
    }
}

/// What may be taken. Who takes more than there is leaves a debt, which the next waits for: so a piece may have any size, and on
/// average no more than the rate is taken.
#[derive(Default)]
struct Bucket {
    /// Bytes; below zero a debt.
    balance: f64,
    filled_at: Option<Instant>,
}

/// A bucket holds what comes in so long.
const DEPTH: Duration = Duration::from_millis(250);

impl Bucket {
    /// Takes the bytes, or says how long to wait until somebody may.
    fn take(&mut self, bytes: usize, rate: u64, now: Instant) -> Result<(), Duration> {
        let rate = rate.max(1) as f64;
        let since = self.filled_at.map_or(Duration::ZERO, |filled_at| now.duration_since(filled_at));
        self.balance = (self.balance + since.as_secs_f64() * rate).min(rate * DEPTH.as_secs_f64());
        self.filled_at = Some(now);
        if self.balance >= 0.0 {
            self.balance -= bytes as f64;
            return Ok(());
        }
        // A timer has milliseconds: a shorter wait would be none.
        Err(Duration::from_secs_f64(-self.balance / rate).max(Duration::from_millis(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::source_protection::LEAST_CONNECTIONS;
    use futures::FutureExt as _;

    const KINDS: [Kind; 5] = [Kind::Stream, Kind::Wait, Kind::Question, Kind::Inner, Kind::Chunk];

    fn connections(most: u32) -> ReadLimits {
        ReadLimits { connections: Some(most), snapshot_rate: None }
    }

    #[test]
    fn shares_add_up_to_the_bound() {
        for most in LEAST_CONNECTIONS..100 {
            assert_eq!(KINDS.iter().map(|kind| share(most, *kind)).sum::<u32>(), most);
        }
    }

    #[tokio::test]
    async fn a_bound_counts_at_once_for_those_who_wait_and_those_who_come() {
        let limits = Limits::default();
        let enters = |kind| limits.permit(kind).now_or_never();
        let mut inside: Vec<Permit> = (0..4).map(|_| enters(Kind::Chunk).unwrap()).collect();
        limits.set(&connections(6));
        // Two may be inside; four are. The other kinds have their own places.
        assert!(enters(Kind::Chunk).is_none());
        inside.truncate(2);
        assert!(enters(Kind::Chunk).is_none());
        let inner = enters(Kind::Inner).unwrap();
        assert!(enters(Kind::Inner).is_none());
        drop(inner);
        inside.truncate(1);
        inside.push(enters(Kind::Chunk).unwrap());
        // Who waits learns of a higher bound, and of a place that is free again.
        let mut waits = Box::pin(limits.permit(Kind::Chunk));
        assert!(waits.as_mut().now_or_never().is_none());
        limits.set(&connections(7));
        inside.push(waits.await);
        let mut waits = Box::pin(limits.permit(Kind::Chunk));
        assert!(waits.as_mut().now_or_never().is_none());
        inside.pop();
        waits.await;
        limits.set(&ReadLimits::default());
        inside.extend((0..100).map(|_| enters(Kind::Chunk).unwrap()));
    }

    /// Bytes that readers, who ask in turn, take of a bucket in so many seconds of a clock of its own.
    fn taken(bucket: &mut Bucket, now: &mut Instant, rate: u64, piece: usize, seconds: u64) -> u64 {
        let end = *now + Duration::from_secs(seconds);
        let mut bytes = 0;
        while *now < end {
            match bucket.take(piece, rate, *now) {
                Ok(()) => bytes += piece as u64,
                Err(wait) => *now += wait,
            }
        }
        bytes
    }

    #[test]
    fn no_more_than_the_rate_is_taken_whatever_the_pieces() {
        const MIB: u64 = 1 << 20;
        for piece in [1, 1000, 64 << 10, 5 << 20] {
            let (mut bucket, mut now) = (Bucket::default(), Instant::now());
            let tenth = piece as u64 + 10 * MIB / 10;
            let bytes = taken(&mut bucket, &mut now, MIB, piece, 10);
            assert!(bytes.abs_diff(10 * MIB) <= tenth, "{bytes} in pieces of {piece}");
            // Nobody read for an hour: that is no reason to read an hour's worth at once.
            now += Duration::from_hours(1);
            let bytes = taken(&mut bucket, &mut now, MIB, piece, 10);
            assert!(bytes.abs_diff(10 * MIB) <= tenth + MIB / 4, "{bytes} in pieces of {piece} after an hour");
            // Ten times slower, at once.
            let bytes = taken(&mut bucket, &mut now, MIB / 10, piece, 100);
            assert!(bytes.abs_diff(10 * MIB) <= tenth + piece as u64, "{bytes} in pieces of {piece} at a tenth");
        }
    }

    #[tokio::test]
    async fn who_waits_learns_of_a_new_rate_at_once() {
        let limits = Limits::default();
        limits.read(1 << 40).await;
        limits.set(&ReadLimits { connections: None, snapshot_rate: Some(1) });
        limits.read(1 << 20).await;
        // Twelve days.
        let mut waits = Box::pin(limits.read(1));
        assert!(waits.as_mut().now_or_never().is_none());
        limits.set(&ReadLimits::default());
        waits.await;
    }
}
