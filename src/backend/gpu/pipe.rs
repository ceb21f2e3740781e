//! A queue between threads: unbounded, closable, shared by any number of takers. (`mpsc` has one
//! taker only.) What is bounded is the number of slots that go round.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Pipe<T> {
    state: Mutex<(VecDeque<T>, bool)>,
    changed: Condvar,
}

/// What a timed look found.
#[derive(Debug, PartialEq)]
pub(super) enum Popped<T> {
    /// The next one.
    One(T),
    /// None so far.
    NotYet,
    /// None, and none will come.
    Closed,
}

impl<T> Pipe<T> {
    pub(super) fn new() -> Pipe<T> {
        Pipe { state: Mutex::new((VecDeque::new(), false)), changed: Condvar::new() }
    }

    /// Adds one; gives it back if the pipe is closed.
    pub(super) fn push(&self, one: T) -> Option<T> {
        let mut state = self.lock();
        if state.1 {
            return Some(one);
        }
        state.0.push_back(one);
        self.changed.notify_one();
        None
    }

    /// The next one, now.
    pub(super) fn try_pop(&self) -> Option<T> {
        self.lock().0.pop_front()
    }

    /// The next one; `None` when there is none and the pipe is closed.
    pub(super) fn pop(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some(one) = state.0.pop_front() {
                return Some(one);
            }
            if state.1 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next one, if it comes in time.
    pub(super) fn pop_for(&self, time: Duration) -> Popped<T> {
        let mut state = self.lock();
        if state.0.is_empty() && !state.1 {
            state = match self.changed.wait_timeout(state, time) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        match state.0.pop_front() {
            Some(one) => Popped::One(one),
            None if state.1 => Popped::Closed,
            None => Popped::NotYet,
        }
    }

    /// Takes no more; what is there can still be taken.
    pub(super) fn close(&self) {
        self.lock().1 = true;
        self.changed.notify_all();
    }

    /// Everything that is there.
    pub(super) fn take_all(&self) -> Vec<T> {
        self.lock().0.drain(..).collect()
    }

    fn lock(&self) -> MutexGuard<'_, (VecDeque<T>, bool)> {
        // No method panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_pipe_runs_dry_and_then_ends() {
        let pipe = Pipe::new();
        assert_eq!(pipe.pop_for(Duration::ZERO), Popped::NotYet);
        assert_eq!(pipe.push(1), None);
        pipe.close();
        assert_eq!(pipe.push(2), Some(2));
        assert_eq!(pipe.pop(), Some(1));
        assert_eq!((pipe.pop(), pipe.pop_for(Duration::ZERO)), (None, Popped::Closed));
    }

    #[test]
    fn closing_wakes_who_waits() {
        let pipe = Pipe::<u8>::new();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| pipe.pop());
            // Long enough for it to be waiting.
            std::thread::sleep(Duration::from_millis(50));
            pipe.close();
            assert_eq!(waiting.join().unwrap(), None);
        });
    }
}
