//! A device that works on much at once: how much of the work it is given.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::{Appetite, Lease, Queue, State};

/// Samples that a member is given before anything is known of its speed: 1 MiB of f32, or one
/// image.
const PROBE: u64 = 256 << 10;
/// How long others may take to begin, before who came first takes a large image of few.
const OTHERS_COME: Duration = Duration::from_millis(20);
/// How often a member that was given nothing looks again.
const LOOK: Duration = Duration::from_millis(2);

/// See [`Queue::join`].
#[derive(Debug)]
pub struct Member<'q> {
    pub(super) queue: &'q Queue,
    pub(super) who: usize,
    /// Whether there is nobody else.
    pub(super) alone: bool,
    pub(super) since: Instant,
}

impl<'q> Member<'q> {
    /// The next unit, and how many samples more this member may take now. Waits while there is none
    /// for it, like [`Queue::take`].
    pub fn take(&self, appetite: &Appetite) -> Option<(Lease<'q>, u64)> {
        let mut state = self.queue.lock();
        loop {
            if let Some(taken) = self.next(&mut state, appetite) {
                return Some(taken);
            }
            let others_may_come = self.others_may_come() && state.has_more();
            if state.stopped || (state.leased == 0 && !others_may_come) {
                return None;
            }
            let waited = self.queue.changed.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The same, if there is one now.
    pub fn try_take(&self, appetite: &Appetite) -> Option<(Lease<'q>, u64)> {
        self.next(&mut self.queue.lock(), appetite)
    }

    /// Another unit beside one that was just taken, of at most `appetite.samples`.
    pub fn more(&self, appetite: &Appetite) -> Option<Lease<'q>> {
        let mut state = self.queue.lock();
        if state.stopped {
            return None;
        }
        let unit = self.queue.next(&mut state, appetite, Some(appetite.samples))?;
        Some(self.queue.lease(&mut state, self.who, unit))
    }

    /// How many samples this member may take now.
    #[must_use]
    pub fn allowance(&self, appetite: &Appetite) -> u64 {
        self.allowed(&self.queue.lock(), appetite)[0]
    }

    /// Whether those who are not at work may not have begun yet.
    fn others_may_come(&self) -> bool {
        !self.alone && self.since.elapsed() < OTHERS_COME
    }

    fn next(&self, state: &mut State, appetite: &Appetite) -> Option<(Lease<'q>, u64)> {
        if state.stopped {
            return None;
        }
        let [all, single] = self.allowed(state, appetite);
        if all == 0 {
            return None;
        }
        let appetite = Appetite { samples: appetite.samples.min(all), ..*appetite };
        let unit = self.queue.next(state, &appetite, Some(single))?;
        let lease = self.queue.lease(state, self.who, unit);
        let more = all.saturating_sub(lease.samples);
        Some((lease, more))
    }

    /// Most samples, and most of a single image.
    ///
    /// What this member has under way and what it takes on top should be done when the others have
    /// done the rest. Of runs it gets half of that, because speeds change and what is left shrinks;
    /// a single image, which cannot be cut, may be twice that.
    /// While nobody else is at work it need not hold back.
    fn allowed(&self, state: &State, appetite: &Appetite) -> [u64; 2] {
        if self.alone {
            return [u64::MAX; 2];
        }
        let own = &state.shares[self.who];
        let others_at_work = state.leased > own.leases;
        let left = self.queue.remaining(state);
        let [run, single] = if own.done > 0 {
            // What others have begun is half done: a core's block may take longer than this one
            // has been at work.
            let others_out: u64 = state.shares.iter().map(|share| share.out).sum::<u64>() - own.out;
            let all = u128::from(state.done() - own.since) + u128::from(others_out / 2);
            let mine = u128::from(left.saturating_add(own.out)) * u128::from(own.done) / all;
            let mine = u64::try_from(mine).unwrap_or(u64::MAX).saturating_sub(own.out);
            [mine / 2, mine.saturating_mul(2)]
        } else if own.out == 0 {
            // A large image only as long as there are many.
            [PROBE, PROBE.max(left / (2 * self.queue.pullers))]
        } else {
            return [0; 2];
        };
        match (run >= appetite.least_samples, others_at_work) {
            (true, true) => [run, single],
            (false, true) => [0; 2],
            (_, false) if own.done == 0 && self.others_may_come() => [run, single],
            (_, false) => [run.max(appetite.least_samples).max(1), u64::MAX],
        }
    }
}
