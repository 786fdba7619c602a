//! What follows when a run's position is lost: the next run, at once or after a pause, or a wait for a person. Pure.
//!
//! Workers and probes say that a run's position is lost and whether that heals; only this raises the run. Until it does, whoever
//! works goes on in the old run, finds its position lost and captures nothing: to raise it late, twice by two controllers from the
//! same number, or not at all loses nothing.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{
        report::{PositionLost, Report},
        source_protection::PositionLostStatus,
    },
    controller::link_table::whole_second,
};

/// A loss so long after the one before is a first one.
const CALM: SignedDuration = SignedDuration::from_hours(24);
/// Pause before a second run in a row.
const FIRST_PAUSE: Duration = Duration::from_mins(5);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_hours(6);

/// A loss and what is to be done about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// The last loss, of this run or one before.
    pub last: Option<PositionLostStatus>,
    /// The next run is to begin now.
    pub due: bool,
    /// The next run is to begin then.
    pub waits: Option<Timestamp>,
}

/// The report of a loss of `run`, if there is one: what is said of an earlier run is over.
pub fn reported<'a>(reports: impl IntoIterator<Item = &'a Report>, run: u32) -> Option<&'a PositionLost> {
    reports.into_iter().filter_map(|report| report.position_lost.as_ref()).find(|lost| lost.run == run)
}

/// What follows from what is known of the last loss, and from what is reported of the run now.
pub fn heed(before: Option<&PositionLostStatus>, reported: Option<&PositionLost>, now: Timestamp) -> Loss {
    let Some(lost) = reported else { return Loss { last: before.cloned(), ..Loss::default() } };
    let (time, attempt) = match before {
        Some(known) if known.run_id == lost.run => (known.time.unwrap_or(now), known.attempt),
        Some(earlier) if earlier.time.is_some_and(|time| now.duration_since(time) < CALM) => (whole_second(now), earlier.attempt + 1),
        _ => (whole_second(now), 1),
    };
    let next = lost.fault.heals.then(|| time.checked_add(pause(attempt)).unwrap_or(time));
    Loss {
        due: next.is_some_and(|next| next <= now),
        waits: next.filter(|next| *next > now),
        last: Some(PositionLostStatus {
            run_id: lost.run,
            time: Some(time),
            reason: lost.fault.reason.clone(),
            message: lost.fault.message.clone(),
            attempt,
            next_attempt: next,
        }),
    }
}

/// How long to wait with the next run after so many in a row lost their position.
fn pause(attempt: u32) -> Duration {
    match attempt.checked_sub(2) {
        None => Duration::ZERO,
        Some(doublings) => FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(doublings)).min(LONGEST_PAUSE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fault::Fault;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn lost(run: u32, heals: bool) -> PositionLost {
        let fault = Fault { reason: "PositionLost".into(), message: "gone".into(), remedy: String::new(), heals };
        PositionLost { run, fault }
    }

    #[test]
    fn the_first_loss_is_heeded_at_once_and_the_next_ones_after_growing_pauses() {
        let (mut last, mut now, mut pauses) = (None, 0, Vec::new());
        for run in 1..=10 {
            let first = heed(last.as_ref(), Some(&lost(run, true)), at(now));
            let next = first.last.as_ref().unwrap().next_attempt.unwrap();
            pauses.push(next.duration_since(at(now)).as_mins());
            assert_eq!((first.due, first.waits), (run == 1, (run > 1).then_some(next)));
            if run > 1 {
                // Not a second earlier, whoever looks.
                let early = heed(first.last.as_ref(), Some(&lost(run, true)), next.checked_sub(Duration::from_secs(1)).unwrap());
                assert_eq!((early.due, early.waits, &early.last), (false, Some(next), &first.last));
            }
            let then = heed(first.last.as_ref(), Some(&lost(run, true)), next);
            assert!(then.due && then.waits.is_none());
            now = next.as_second() - at(0).as_second();
            last = then.last;
        }
        assert_eq!(pauses, [0, 5, 10, 20, 40, 80, 160, 320, 360, 360]);
        // Calm for a day: it starts over.
        let later = heed(last.as_ref(), Some(&lost(11, true)), at(now + 25 * 3600));
        assert!(later.due && later.last.unwrap().attempt == 1);
    }

    #[test]
    fn a_loss_that_needs_a_person_is_told_and_waits() {
        let told = heed(None, Some(&lost(1, false)), at(0));
        assert_eq!((told.due, told.waits, told.last.as_ref().unwrap().next_attempt), (false, None, None));
        // The person says Reseed.
        assert!(heed(told.last.as_ref(), Some(&lost(1, true)), at(60)).due);
        // It was a mistake: the position is there.
        assert_eq!(heed(told.last.as_ref(), None, at(60)), Loss { last: told.last, ..Loss::default() });
    }
}
