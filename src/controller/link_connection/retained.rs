//! The log that the source keeps for a link: whether it is too much, and when it will be while nobody reads it. Pure.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    api::{
        conditions::{Truth, get, kind, reason},
        link_connection::{LinkConnectionStatus, LinkPhase, SourceStatus},
        report::SourceReport,
        source_protection::{Bounds, PositionLostStatus, readable},
    },
    controller::{events::Happened, link_table::whole_second, oneshot},
};

/// A link that must be resumed within this time says so: a person has to see it.
const SOON: Duration = Duration::from_hours(24);
/// The source of a link that no worker reads is asked no more often than this,
pub const ASK_AT_MOST: Duration = Duration::from_mins(5);
/// and, where there is a bound, no less often than this: log may begin to grow at any time.
const ASK_AT_LEAST: Duration = Duration::from_hours(1);

/// What the condition `SourceProtected` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Its status.
    pub truth: Truth,
    /// Its reason.
    pub reason: &'static str,
    /// Its message.
    pub message: String,
}

/// Whether the source is protected; none where nothing bounds the log, or nothing is known of it.
pub fn judge(source: &SourceStatus, bounds: &Bounds, resume_before: Option<Timestamp>, now: Timestamp) -> Option<Verdict> {
    let bytes = u64::try_from(source.retained_log_bytes?).ok()?;
    let kept = readable(bytes);
    if let Some(bound) = bounds.max_retained_log.filter(|bound| bytes > *bound) {
        let message = format!(
            "the source keeps {kept} of log for the link, more than the {} of spec.sourceProtection.maxRetainedLog; see why changes are \
             not read (CapturePrepared, ZoneReadable) or resume the link; to let the source drop the log set spec.state to Stopped: the next \
             start is a full load",
            readable(bound)
        );
        return Some(Verdict { truth: Truth::False, reason: reason::RETAINED_LOG_HIGH, message });
    }
    if let Some(time) = resume_before.filter(|time| now.checked_add(SOON).is_ok_and(|soon| *time < soon)) {
        let then = if bounds.give_up { "gives its position up, and its next start is a full load" } else { "is a danger to its source" };
        let message =
            format!("the source keeps {kept} of log for the link and more all the time: resume it before {time:.0}, else it {then}");
        return Some(Verdict { truth: Truth::False, reason: reason::RESUME_SOON, message });
    }
    let bound = bounds.max_retained_log?;
    // No figures: they would make a new message at every look.
    if bytes > bound / 5 * 4 {
        let message = "the source keeps more than 80 % of the log for the link that spec.sourceProtection.maxRetainedLog allows".to_owned();
        return Some(Verdict { truth: Truth::True, reason: reason::RETAINED_LOG_RISING, message });
    }
    Some(Verdict { truth: Truth::True, reason: reason::AS_REQUESTED, message: String::new() })
}

/// Writes down what a probe of a Paused link measured at a time, and what follows from it.
pub fn measured(status: &mut LinkConnectionStatus, said: &SourceReport, at: Timestamp, bounds: &Bounds) {
    status.resume_before = measured_since(status.stop_time, status, said, at, bounds);
}

/// Writes down what the probe of a link that nobody reads since `stop_time` measured at a time. Returns when, by how fast it
/// grows, it will be too much.
pub fn measured_since(
    stop_time: Option<Timestamp>,
    status: &mut LinkConnectionStatus,
    said: &SourceReport,
    at: Timestamp,
    bounds: &Bounds,
) -> Option<Timestamp> {
    let source = status.source.get_or_insert_default();
    let (Some(bytes), at) = (said.retained_log_bytes, whole_second(at)) else {
        forget(source);
        return None;
    };
    let earlier = source.retained_log_time.or(stop_time).zip(source.retained_log_bytes).map(|(time, bytes)| (time, bytes.unsigned_abs()));
    if source.retained_log_time != Some(at) {
        source.retained_log_growth = Some(growth(earlier, stop_time, (at, bytes)).try_into().unwrap_or(i64::MAX));
        source.retained_log_time = Some(at);
        source.retained_log_bytes = Some(bytes.try_into().unwrap_or(i64::MAX));
    }
    let left = [bounds.max_retained_log.map(|bound| bound.saturating_sub(bytes)), said.log_room_bytes].into_iter().flatten().min();
    let growth = source.retained_log_growth.unwrap_or_default().unsigned_abs();
    left.and_then(|left| full_at(at, left, growth))
}

/// Workers measure now.
pub fn resumed(status: &mut LinkConnectionStatus) {
    status.resume_before = None;
    if let Some(source) = &mut status.source {
        (source.retained_log_time, source.retained_log_growth) = (None, None);
    }
}

fn forget(source: &mut SourceStatus) {
    (source.retained_log_bytes, source.retained_log_time, source.retained_log_growth) = (None, None, None);
}

/// Bytes an hour by which the log grows: since it was last measured or since the pause began, whichever is more. A quiet hour
/// is no promise.
fn growth(earlier: Option<(Timestamp, u64)>, paused: Option<Timestamp>, (at, bytes): (Timestamp, u64)) -> u64 {
    let per_hour = |since: Timestamp, grown: u64| {
        let seconds = at.duration_since(since).as_secs_f64();
        if seconds >= 1.0 { (grown as f64 / seconds * 3600.0).round() as u64 } else { 0 }
    };
    // A database at rest keeps what it is at work with, which is not growth: at the beginning of the pause as well.
    let recent = earlier.map_or(0, |(time, before)| per_hour(time, bytes.saturating_sub(before)));
    let whole = paused.map_or(0, |paused| per_hour(paused, bytes));
    // Minutes after the pause began, all that is kept would seem to have come in these minutes.
    let settled = paused.is_some_and(|paused| at.duration_since(paused).unsigned_abs() >= ASK_AT_LEAST);
    if settled || earlier.is_none() { recent.max(whole) } else { recent }
}

/// When so many bytes more will be there; none if that is not to be foreseen.
fn full_at(from: Timestamp, left: u64, growth: u64) -> Option<Timestamp> {
    if left == 0 {
        return Some(from);
    }
    let hours = left as f64 / growth as f64;
    // What is further away than ten years is not told.
    (hours < 10.0 * 365.0 * 24.0).then(|| from.checked_add(Duration::from_secs((hours * 3600.0).round() as u64)).ok()).flatten()
}

/// How old the answer of a Paused link's probe may become: four more are to come before the log is too much.
pub fn good_for(status: &LinkConnectionStatus, bounds: &Bounds, room: Option<u64>) -> Duration {
    if bounds.max_retained_log.is_none() && room.is_none() {
        return oneshot::GOOD_FOR;
    }
    let measured = status.source.as_ref().and_then(|source| source.retained_log_time);
    let left = status.resume_before.zip(measured).map_or(Duration::MAX, |(full, at)| full.duration_since(at).unsigned_abs());
    (left / 4).clamp(ASK_AT_MOST, ASK_AT_LEAST)
}

/// Whether a new run begins because the position of the one before was lost.
pub fn reseeds(before: &LinkConnectionStatus, after: &LinkConnectionStatus) -> bool {
    let lost = after.position_lost.as_ref().map(|lost| lost.run_id);
    lost.is_some() && lost == before.run_id && after.run_id > before.run_id && after.phase == Some(LinkPhase::Starting)
}

/// What happens to the log that the source keeps, and to the position in it.
pub fn events(before: &LinkConnectionStatus, after: &LinkConnectionStatus) -> Vec<Happened> {
    let mut events = Vec::new();
    let said = |status: &LinkConnectionStatus| get(&status.conditions, kind::SOURCE_PROTECTED).cloned();
    if let Some(now) = said(after)
        && said(before).is_none_or(|was| was.reason != now.reason)
        && now.reason != reason::AS_REQUESTED
    {
        events.push(Happened::warning(now.reason, now.message));
    }
    let of = |lost: Option<&PositionLostStatus>| lost.map(|lost| lost.run_id);
    // Of a link that is at work, Ready tells it.
    if let Some(lost) = after.position_lost.as_ref().filter(|_| after.phase == Some(LinkPhase::Paused))
        && of(before.position_lost.as_ref()) != Some(lost.run_id)
    {
        events.push(Happened::warning(lost.reason.clone(), lost.message.clone()));
    }
    if let (true, Some(lost), Some(run)) = (reseeds(before, after), &after.position_lost, after.run_id) {
        events.push(Happened::warning("LinkReseeding", format!("run {run} begins with a full load of every table: {}", lost.message)));
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const HOUR: i64 = 3600;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn said(bytes: u64, room: Option<u64>) -> SourceReport {
        SourceReport { retained_log_bytes: Some(bytes), log_room_bytes: room, ..Default::default() }
    }

    /// Paused at 0 with so many bytes kept.
    fn paused(bytes: u64) -> LinkConnectionStatus {
        let source = SourceStatus { retained_log_bytes: Some(bytes as i64), ..Default::default() };
        LinkConnectionStatus { stop_time: Some(at(0)), source: Some(source), ..Default::default() }
    }

    fn bounds(bytes: u64) -> Bounds {
        Bounds { max_retained_log: Some(bytes), ..Bounds::default() }
    }

    #[test]
    fn the_time_to_resume_before_follows_from_growth_and_bound() {
        let mut status = paused(0);
        // 1 GiB in two hours: 9 more take 18 hours.
        measured(&mut status, &said(GIB, None), at(2 * HOUR), &bounds(10 * GIB));
        assert_eq!(status.resume_before, Some(at(20 * HOUR)));
        // Told again, with nothing new, it is the same; by another bound it is another.
        let before = status.clone();
        measured(&mut status, &said(GIB, None), at(2 * HOUR), &bounds(10 * GIB));
        assert_eq!(status, before);
        measured(&mut status, &said(GIB, None), at(2 * HOUR), &bounds(2 * GIB));
        assert_eq!(status.resume_before, Some(at(4 * HOUR)));
        // Faster of late: 2 GiB in the last hour.
        measured(&mut status, &said(3 * GIB, None), at(3 * HOUR), &bounds(10 * GIB));
        assert_eq!(status.resume_before, Some(at(3 * HOUR + 3 * HOUR + HOUR / 2)));
        // A quiet hour is no promise: 3 GiB in four hours.
        measured(&mut status, &said(3 * GIB, None), at(4 * HOUR), &bounds(6 * GIB));
        assert_eq!(status.resume_before, Some(at(8 * HOUR)));
        // The source's own bound comes first.
        measured(&mut status, &said(3 * GIB, Some(3 * GIB / 4)), at(4 * HOUR), &bounds(10 * GIB));
        assert_eq!(status.resume_before, Some(at(5 * HOUR)));
        // Full.
        measured(&mut status, &said(7 * GIB, None), at(6 * HOUR), &bounds(6 * GIB));
        assert_eq!(status.resume_before, Some(at(6 * HOUR)));
        // Given up: nothing is kept, nothing is in danger.
        measured(&mut status, &SourceReport::default(), at(7 * HOUR), &bounds(6 * GIB));
        assert_eq!((status.resume_before, status.source.unwrap()), (None, SourceStatus::default()));
    }

    #[test]
    fn what_does_not_grow_or_has_no_bound_need_not_be_resumed() {
        let mut status = paused(GIB);
        measured(&mut status, &said(GIB, None), at(600), &bounds(10 * GIB));
        assert_eq!(status.resume_before, None);
        measured(&mut status, &said(2 * GIB, None), at(1200), &Bounds::default());
        assert_eq!(status.resume_before, None);
        // It began to grow: 1 GiB in ten minutes.
        measured(&mut status, &said(3 * GIB, None), at(1800), &bounds(10 * GIB));
        assert_eq!(status.resume_before, Some(at(1800 + 4200)));
        resumed(&mut status);
        assert_eq!((status.resume_before, status.source.unwrap().retained_log_bytes), (None, Some(3 * GIB as i64)));
    }

    #[test]
    fn a_source_whose_log_grows_is_asked_more_often() {
        let asked = |left: Option<i64>, room| {
            let mut status = paused(GIB);
            status.source.as_mut().unwrap().retained_log_time = Some(at(0));
            status.resume_before = left.map(at);
            good_for(&status, &Bounds::default(), room).as_secs()
        };
        assert_eq!(asked(Some(HOUR), None), 6 * 3600);
        assert_eq!(asked(None, Some(1)), 3600);
        assert_eq!(asked(Some(100 * HOUR), Some(1)), 3600);
        assert_eq!(asked(Some(2 * HOUR), Some(1)), 1800);
        assert_eq!(asked(Some(HOUR / 60), Some(1)), 300);
        assert_eq!(asked(Some(0), Some(1)), 300);
    }

    #[test]
    fn the_condition_warns_before_and_says_what_will_be() {
        let word = |bytes: u64, resume_before: Option<i64>, bounds: &Bounds| {
            let source = SourceStatus { retained_log_bytes: Some(bytes as i64), ..Default::default() };
            judge(&source, bounds, resume_before.map(at), at(0)).map(|verdict| (verdict.truth, verdict.reason))
        };
        let (ten, none) = (bounds(10 * GIB), Bounds::default());
        assert_eq!(word(8 * GIB, None, &ten), Some((Truth::True, "AsRequested")));
        assert_eq!(word(9 * GIB, None, &ten), Some((Truth::True, "RetainedLogRising")));
        assert_eq!(word(11 * GIB, Some(0), &ten), Some((Truth::False, "RetainedLogHigh")));
        assert_eq!(word(GIB, Some(23 * HOUR), &ten), Some((Truth::False, "ResumeSoon")));
        assert_eq!(word(GIB, Some(25 * HOUR), &ten), Some((Truth::True, "AsRequested")));
        // The source's own bound.
        assert_eq!(word(GIB, Some(HOUR), &none), Some((Truth::False, "ResumeSoon")));
        assert_eq!(word(100 * GIB, None, &none), None);
    }
}
