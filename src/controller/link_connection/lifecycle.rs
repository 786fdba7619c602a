//! The life of a link: from its phase, what its spec asks and what is so, to its next phase and what is to be done. Pure.

use jiff::Timestamp;

use crate::api::{
    link_connection::{LinkPhase, LinkState},
    plan::Intent,
};

/// What is so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools)] // they are facts, each by itself
pub struct Facts {
    /// Worker pods that exist, also those that are about to end.
    pub pods: usize,
    /// The StatefulSet asks for no workers, or does not exist.
    pub scaled_down: bool,
    /// No worker is left and none can come: the API server itself says so.
    pub gone: bool,
    /// All workers are ready and work by the newest plan, and no check of the link fails.
    pub working: bool,
    /// Every worker has carried out the intent Drain.
    pub drained: bool,
    /// The time to drain is over.
    pub drain_expired: bool,
    /// What the link made in its source is gone.
    pub released: bool,
    /// The run's position is lost, and the next run is to begin now.
    pub reseed: bool,
}

/// Where the link goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Course {
    /// Its phase.
    pub phase: LinkPhase,
    /// Its run; 0 before the first start.
    pub run: u32,
    /// Whether workers are wanted.
    pub workers: bool,
    /// What they are to do.
    pub intent: Intent,
    /// Whether to release what the link made in its source.
    pub release: bool,
    /// When its batch began, if it works in batches.
    pub batch: Option<Timestamp>,
}

impl Course {
    /// Between two batches: no workers, although the link runs.
    pub fn is_idle(&self) -> bool {
        self.phase == LinkPhase::Running && self.batch.is_some() && !self.workers
    }
}

/// The next step from `phase` and `run` towards `state`.
pub fn course(phase: LinkPhase, run: u32, state: LinkState, facts: &Facts) -> Course {
    let (phase, run) = next(phase, run, state, facts);
    // Once scaled down it stays so: the workers' word that they have drained went with them.
    let workers = match phase {
        LinkPhase::Initial | LinkPhase::Paused | LinkPhase::Stopped => false,
        LinkPhase::Starting | LinkPhase::Running | LinkPhase::Resuming => true,
        LinkPhase::Pausing | LinkPhase::Stopping => !at_rest(facts),
    };
    Course {
        phase,
        run,
        workers,
        // Also at rest: a worker that is where none should be must not begin.
        intent: if matches!(phase, LinkPhase::Starting | LinkPhase::Running | LinkPhase::Resuming) { Intent::Run } else { Intent::Drain },
        release: phase == LinkPhase::Stopping && facts.gone,
        batch: None,
    }
}

/// Nobody works any more, or need not.
fn at_rest(facts: &Facts) -> bool {
    facts.scaled_down || facts.drained || facts.drain_expired || facts.pods == 0
}

#[expect(clippy::match_same_arms, clippy::unnested_or_patterns)] // a line a reason
fn next(phase: LinkPhase, run: u32, state: LinkState, facts: &Facts) -> (LinkPhase, u32) {
    use {LinkPhase as P, LinkState as S};
    match (phase, state) {
        (P::Initial | P::Stopped, S::Running) => (P::Starting, run + 1),
        // Without a position there is nothing to keep: asked to pause, it stays as it is.
        (P::Initial | P::Stopped, S::Paused | S::Stopped) => (phase, run),
        // Workers stay: they go on in the new run as soon as its plan is there.
        (P::Starting | P::Resuming | P::Running, S::Running) if facts.reseed => (P::Starting, run + 1),
        (P::Starting | P::Resuming, S::Running) if facts.working => (P::Running, run),
        (P::Starting | P::Resuming | P::Running, S::Running) => (phase, run),
        (P::Starting | P::Resuming | P::Running, S::Paused) => (P::Pausing, run),
        (P::Starting | P::Resuming | P::Running | P::Pausing | P::Paused, S::Stopped) => (P::Stopping, run),
        (P::Pausing, S::Paused) if facts.gone => (P::Paused, run),
        (P::Pausing, S::Paused) | (P::Paused, S::Paused) => (phase, run),
        (P::Pausing | P::Paused, S::Running) => (P::Resuming, run),
        // Half of it may be gone already: it is stopped to the end, whatever is asked meanwhile.
        (P::Stopping, _) if facts.released && facts.gone => (P::Stopped, run),
        (P::Stopping, _) => (P::Stopping, run),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOWN: Facts = Facts {
        pods: 0,
        scaled_down: true,
        gone: true,
        working: false,
        drained: false,
        drain_expired: false,
        released: false,
        reseed: false,
    };
    const UP: Facts = Facts { pods: 2, scaled_down: false, gone: false, ..DOWN };
    const WORKING: Facts = Facts { working: true, ..UP };
    const DRAINED: Facts = Facts { drained: true, ..UP };
    const EXPIRED: Facts = Facts { drain_expired: true, ..UP };
    const ENDING: Facts = Facts { pods: 1, gone: false, ..DOWN };
    /// Asked for, and not there yet.
    const COMING: Facts = Facts { pods: 0, scaled_down: false, gone: false, ..DOWN };
    const LOST: Facts = Facts { reseed: true, ..UP };
    const RELEASED: Facts = Facts { released: true, ..DOWN };

    #[test]
    fn goes_where_the_spec_asks() {
        use {Intent::*, LinkPhase as P, LinkState as S};
        // phase, run, asked, facts → phase, run, workers, intent, release
        let table = [
            (P::Initial, 0, S::Running, DOWN, (P::Starting, 1, true, Run, false)),
            (P::Initial, 0, S::Stopped, DOWN, (P::Initial, 0, false, Drain, false)),
            (P::Initial, 0, S::Paused, DOWN, (P::Initial, 0, false, Drain, false)),
            (P::Starting, 1, S::Running, UP, (P::Starting, 1, true, Run, false)),
            (P::Starting, 1, S::Running, WORKING, (P::Running, 1, true, Run, false)),
            // A worker that goes missing is no phase: the link still runs.
            (P::Running, 1, S::Running, UP, (P::Running, 1, true, Run, false)),
            (P::Running, 1, S::Paused, WORKING, (P::Pausing, 1, true, Drain, false)),
            (P::Pausing, 1, S::Paused, UP, (P::Pausing, 1, true, Drain, false)),
            (P::Pausing, 1, S::Paused, DRAINED, (P::Pausing, 1, false, Drain, false)),
            (P::Pausing, 1, S::Paused, EXPIRED, (P::Pausing, 1, false, Drain, false)),
            (P::Pausing, 1, S::Paused, COMING, (P::Pausing, 1, false, Drain, false)),
            (P::Pausing, 1, S::Paused, ENDING, (P::Pausing, 1, false, Drain, false)),
            (P::Pausing, 1, S::Paused, DOWN, (P::Paused, 1, false, Drain, false)),
            (P::Pausing, 1, S::Running, DRAINED, (P::Resuming, 1, true, Run, false)),
            (P::Paused, 1, S::Running, DOWN, (P::Resuming, 1, true, Run, false)),
            // The same run goes on.
            (P::Resuming, 1, S::Running, WORKING, (P::Running, 1, true, Run, false)),
            (P::Paused, 1, S::Stopped, DOWN, (P::Stopping, 1, false, Drain, true)),
            (P::Running, 1, S::Stopped, WORKING, (P::Stopping, 1, true, Drain, false)),
            (P::Stopping, 1, S::Stopped, DRAINED, (P::Stopping, 1, false, Drain, false)),
            // While a worker may still be alive nothing is released.
            (P::Stopping, 1, S::Stopped, ENDING, (P::Stopping, 1, false, Drain, false)),
            (P::Stopping, 1, S::Stopped, DOWN, (P::Stopping, 1, false, Drain, true)),
            (P::Stopping, 1, S::Running, DOWN, (P::Stopping, 1, false, Drain, true)),
            (P::Stopping, 1, S::Running, RELEASED, (P::Stopped, 1, false, Drain, false)),
            (P::Stopped, 1, S::Paused, DOWN, (P::Stopped, 1, false, Drain, false)),
            // Lost: a new run, but only of a link that shall run.
            (P::Running, 1, S::Running, LOST, (P::Starting, 2, true, Run, false)),
            (P::Resuming, 3, S::Running, LOST, (P::Starting, 4, true, Run, false)),
            (P::Starting, 1, S::Running, LOST, (P::Starting, 2, true, Run, false)),
            (P::Running, 1, S::Paused, LOST, (P::Pausing, 1, true, Drain, false)),
            (P::Pausing, 1, S::Paused, LOST, (P::Pausing, 1, true, Drain, false)),
            (P::Running, 1, S::Stopped, LOST, (P::Stopping, 1, true, Drain, false)),
            // A full load is a new run.
            (P::Stopped, 1, S::Running, DOWN, (P::Starting, 2, true, Run, false)),
        ];
        for (phase, run, state, facts, expected) in table {
            let course = course(phase, run, state, &facts);
            let found = (course.phase, course.run, course.workers, course.intent, course.release);
            assert_eq!(found, expected, "{phase} {state} {facts:?}");
        }
    }
}
