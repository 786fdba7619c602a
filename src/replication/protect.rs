//! Bounds what the link asks of its source and what the source must keep for it (DESIGN 3, `sourceProtection`).
//!
//! Beside all other tasks and for as long as the engine lives: log piles up when the landing zone, the target or a reign is in
//! trouble, and that is when it must be watched.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{Setup, board::Board, share};
use crate::{
    api::{
        fault::{Explain, Fault},
        plan::Plan,
        report::{PositionLost, SourceReport},
        source_protection::OnPositionLost,
    },
    protection::Protection,
    source::{self, ReadLimits, RetainedLog},
};

/// Longest time between two looks at how much log the source keeps.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Shortest.
const LOOK_SOON: Duration = Duration::from_secs(1);
/// How long one look may take, the giving up included.
const PATIENCE: Duration = Duration::from_secs(30);

/// Puts the plan's limits in force for this worker's share of the work.
pub fn limit(setup: &Setup, plan: &Plan) {
    let workers = plan.workers.max(1);
    let limits = ReadLimits {
        connections: plan.bounds.max_connections.map(|most| most / workers),
        snapshot_rate: plan.bounds.max_snapshot_rate.map(|rate| (rate / u64::from(workers)).max(1)),
    };
    setup.source.limit(&limits);
}

/// What is told of an error by which a run's position is lost. It heals where the next run may begin by itself.
pub fn lost(error: &source::Error, run: u32, policy: OnPositionLost) -> Option<PositionLost> {
    let fault = match error {
        source::Error::PositionLost(_) if policy == OnPositionLost::Reseed => {
            Fault { heals: true, remedy: "none needed: all tables are loaded anew".to_owned(), ..error.fault() }
        }
        source::Error::PositionLost(_) | source::Error::PositionGivenUp(_) => error.fault(),
        _ => return None,
    };
    Some(PositionLost { run, fault })
}

/// Keeps the plan's bounds, for ever.
pub async fn guard(setup: &Setup, mut plan: watch::Receiver<Arc<Plan>>, board: &Board) {
    let mut before: Option<(RetainedLog, Instant)> = None;
    let mut told = false;
    loop {
        let planned = plan.borrow_and_update().clone();
        limit(setup, &planned);
        let mut next = LOOK_EVERY;
        if share::capturer(planned.workers) == setup.ordinal {
            // A source that does not say where its log ends says so elsewhere; what was said last stands.
            if let Ok(Ok(head)) = timeout(PATIENCE, setup.source.head()).await {
                board.link(|report| report.position.get_or_insert_default().source_head = Some(head.to_string()));
            }
            match look(setup, &planned, board).await {
                Ok(log) => {
                    show(board, log);
                    let now = Instant::now();
                    let bound = planned.bounds.max_retained_log;
                    next = next_look(before.map(|(log, at)| (log.bytes, now - at)), log.map_or(0, |log| log.bytes), bound);
                    let above = log.zip(bound).is_some_and(|(log, bound)| log.bytes > bound);
                    if above && !told {
                        tracing::warn!(bytes = log.map(|log| log.bytes), bound, "the source keeps more log for the link than it may");
                    }
                    told = above;
                    before = log.map(|log| (log, now));
                }
                // The reign says so, and of which run.
                Err(source::Error::PositionLost(_) | source::Error::PositionGivenUp(_)) => {
                    show(board, None);
                    before = None;
                }
                Err(error) => {
                    tracing::debug!(%error, "the source does not say how much log it keeps");
                    if planned.bounds.give_up {
                        next = LOOK_SOON;
                    }
                }
            }
        } else {
            // Another worker's to tell.
            show(board, None);
            board.link(|report| {
                if let Some(position) = &mut report.position {
                    (position.source_head, position.captured) = (None, None);
                }
            });
        }
        tokio::select! {
            changed = plan.changed() => if changed.is_err() { return std::future::pending().await },
            () = sleep(next) => {}
        }
    }
}

/// How much log is kept; more than may be, and the position is given up.
async fn look(setup: &Setup, plan: &Plan, board: &Board) -> Result<Option<RetainedLog>, source::Error> {
    let bound = plan.bounds.max_retained_log.filter(|_| plan.bounds.give_up && Protection::GiveUp.holds());
    // The plan's before the zone could be read.
    let (run, owner) = (board.run().unwrap_or(plan.run), &plan.link.uid);
    let answer = async {
        let kept = setup.source.retained_log(owner).await;
        let Some(bound) = bound else { return kept };
        let too_much = matches!(&kept, Ok(Some(log)) if log.bytes > bound);
        if !too_much && !matches!(kept, Err(source::Error::PositionGivenUp(_))) {
            return kept;
        }
        let left = setup.source.give_up(bound, owner).await;
        // The reign may hang at what made the log pile up, and not see it. What was given up before was another run's, perhaps.
        if let (true, Err(error @ source::Error::PositionGivenUp(_))) = (too_much, &left) {
            tracing::warn!(%error, run, "position given up");
            board.check("CapturePrepared", Some(error.fault()));
            board.link(|report| report.position_lost = lost(error, run, plan.on_position_lost));
        }
        left
    };
    let silent = |_| Err(source::Error::SourceUnreachable("no answer".to_owned()));
    timeout(PATIENCE, answer).await.unwrap_or_else(silent)
}

fn show(board: &Board, log: Option<RetainedLog>) {
    board.link(|report| {
        if report.source.is_none() && log.is_none() {
            return;
        }
        let source = report.source.get_or_insert_with(SourceReport::default);
        source.retained_log_bytes = log.map(|log| log.bytes);
        source.log_room_bytes = log.and_then(|log| log.room);
    });
}

/// When to look again, by how much there was some time ago, how much there is, and how much there may be: four times before it is
/// too much.
fn next_look(before: Option<(u64, Duration)>, bytes: u64, bound: Option<u64>) -> Duration {
    let Some(bound) = bound.filter(|bound| bytes <= *bound) else { return LOOK_EVERY };
    let Some((earlier, time)) = before else { return LOOK_SOON };
    let growth = bytes.saturating_sub(earlier) as f64 / time.as_secs_f64().max(0.001);
    if growth == 0.0 {
        return LOOK_EVERY;
    }
    let left = (bound - bytes) as f64 / growth;
    Duration::from_secs_f64((left / 4.0).clamp(LOOK_SOON.as_secs_f64(), LOOK_EVERY.as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_sooner_the_faster_it_grows() {
        let (second, mib) = (Duration::from_secs(1), 1 << 20);
        for (before, bytes, bound, seconds) in [
            (None, 5 * mib, None, 10),
            (None, 5 * mib, Some(100 * mib), 1),
            (Some((5 * mib, second)), 5 * mib, Some(100 * mib), 10),
            (Some((9 * mib, second)), 5 * mib, Some(100 * mib), 10),
            (Some((mib, second)), 2 * mib, Some(100 * mib), 10),
            (Some((mib, second)), 2 * mib, Some(22 * mib), 5),
            (Some((mib, second)), 90 * mib, Some(100 * mib), 1),
            // Too late.
            (Some((mib, second)), 101 * mib, Some(100 * mib), 10),
        ] {
            assert_eq!(next_look(before, bytes, bound).as_secs(), seconds, "{before:?} {bytes} {bound:?}");
        }
    }

    #[test]
    fn a_lost_position_heals_if_the_link_may_load_anew_and_a_given_up_one_always() {
        use source::Error as E;
        let heals = |error: E, policy| lost(&error, 3, policy).map(|lost| (lost.run, lost.fault.heals));
        assert_eq!(heals(E::PositionLost(String::new()), OnPositionLost::Fail), Some((3, false)));
        assert_eq!(heals(E::PositionLost(String::new()), OnPositionLost::Reseed), Some((3, true)));
        assert_eq!(heals(E::PositionGivenUp(String::new()), OnPositionLost::Fail), Some((3, true)));
        assert_eq!(heals(E::SourceUnreachable(String::new()), OnPositionLost::Reseed), None);
    }
}
