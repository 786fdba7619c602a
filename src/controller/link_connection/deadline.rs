//! How long a start may take before the link says that it takes too long. It goes on trying all the same. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::{
    api::{
        conditions::{Truth, get, kind, reason, remove, set},
        link_connection::LinkPhase,
    },
    controller::status::Ready,
};

/// How long Starting or Resuming may take (Synapse: a start that takes longer than five minutes is to be reported).
const START: SignedDuration = SignedDuration::from_mins(5);

/// Keeps the condition `StartDeadlineExceeded` of a link that starts: its transition time says since when. `ready` is what is
/// to be said of the link; returned as it is to be said of one that is late.
pub fn heed(
    conditions: &mut Vec<Condition>,
    phase: LinkPhase,
    ready: Option<Ready>,
    generation: Option<i64>,
    now: Timestamp,
) -> Option<Ready> {
    if !matches!(phase, LinkPhase::Starting | LinkPhase::Resuming) {
        remove(conditions, kind::START_DEADLINE_EXCEEDED);
        return ready;
    }
    let known = get(conditions, kind::START_DEADLINE_EXCEEDED);
    let late = known.is_some_and(|known| known.status == "True" || now.duration_since(known.last_transition_time.0) > START);
    let word: &str = phase.into();
    if !late {
        set(conditions, kind::START_DEADLINE_EXCEEDED, Truth::False, word, "", generation, now);
        return ready;
    }
    let why = ready.as_ref().map_or(String::new(), |ready| format!(": {} ({})", ready.message, ready.reason));
    let text = format!("the link has been {phase} for more than {} minutes and goes on trying{why}", START.as_mins());
    set(conditions, kind::START_DEADLINE_EXCEEDED, Truth::True, word, &text, generation, now);
    // What is known to be wrong says more than that it takes long.
    match ready {
        Some(ready) if ready.reason == word => Some(Ready::progressing(reason::START_DEADLINE_EXCEEDED, text)),
        ready => ready,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_that_takes_long_says_so_and_why_until_it_has_started() {
        let at = |minute: i64| Timestamp::from_second(1_700_000_000 + 60 * minute).unwrap();
        let mut conditions = Vec::new();
        let mut told = |phase: LinkPhase, ready: Ready, minute: i64| {
            let ready = heed(&mut conditions, phase, Some(ready), Some(1), at(minute)).unwrap();
            (ready.reason, get(&conditions, kind::START_DEADLINE_EXCEEDED).map(|known| (known.status.clone(), known.message.clone())))
        };
        let starting = || Ready::progressing("Starting", "0 of 1 workers are ready");
        let refused = || Ready::progressing("SourceUnreachable", "no answer");

        let on_time = Some(("False".to_owned(), String::new()));
        assert_eq!(told(LinkPhase::Starting, starting(), 0), ("Starting".to_owned(), on_time.clone()));
        assert_eq!(told(LinkPhase::Starting, refused(), 5), ("SourceUnreachable".to_owned(), on_time));
        let (reason, late) = told(LinkPhase::Starting, starting(), 6);
        assert_eq!(reason, reason::START_DEADLINE_EXCEEDED);
        assert!(late.is_some_and(|(truth, text)| truth == "True" && text.contains("0 of 1 workers are ready")));
        // What is wrong is named.
        let (reason, late) = told(LinkPhase::Starting, refused(), 7);
        assert_eq!(reason, "SourceUnreachable");
        assert!(late.is_some_and(|(truth, text)| truth == "True" && text.contains("no answer (SourceUnreachable)")));
        assert_eq!(told(LinkPhase::Running, Ready::yes("Replicating", ""), 8).1, None);
        // The next start has its own time.
        assert_eq!(told(LinkPhase::Resuming, starting(), 90).1.unwrap().0, "False");
    }
}
