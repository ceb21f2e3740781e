//! Where a thread's time goes, where that is asked for.

use std::mem;
use std::time::{Duration, Instant};

use crate::report::Stages;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Read,
    Compute,
    Write,
    Wait,
}

/// Which stage this thread is in, and since when.
#[derive(Debug)]
pub(super) struct Clock {
    stage: Stage,
    since: Instant,
}

impl Clock {
    /// In the stage of computing; `None` where nobody asks.
    pub(super) fn start(is_asked_for: bool) -> Option<Clock> {
        is_asked_for.then(|| Clock { stage: Stage::Compute, since: Instant::now() })
    }

    /// The stage it was in is over, of which so much was computing whatever it was.
    pub(super) fn turn(&mut self, to: Stage, computing: Duration, stages: &mut Stages) {
        let now = Instant::now();
        let spent = now - mem::replace(&mut self.since, now);
        let computing = computing.min(spent);
        stages.compute += computing;
        *match mem::replace(&mut self.stage, to) {
            Stage::Read => &mut stages.read,
            Stage::Compute => &mut stages.compute,
            Stage::Write => &mut stages.write,
            Stage::Wait => &mut stages.wait,
        } += spent - computing;
    }
}
