//! The ring: slots go from readers to the device to writers and back to the readers.
//!
//! One thread, the one that drains, does every submission and every poll: two pollers can meet an
//! assertion in wgpu 30. Views of mapped buffers are safe with the other threads, because after a
//! loss nobody polls until they are gone.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::batch::Batch;
use super::hooks::Fault;
use super::pipe::{Pipe, Popped};
use super::reader::{Held, Limits, Reader, Task};
use super::slot::{Slot, Traffic};
use super::timer::nanoseconds;
use super::writer::{Board, Finished, write};
use super::{Gpu, GpuStats};
use crate::backend::queue::Queue;
use crate::backend::{DeviceIndex, Job};
use crate::error::Error;

/// How often the device is looked at while a reader is at work: a small part of the 3 ms that a
/// batch takes on its way to a card.
const LOOK: Duration = Duration::from_micros(200);
/// How long to wait for the device at once, before looking what else there is to do.
const WAIT: Duration = Duration::from_millis(100);

/// A batch on its way to the device.
#[derive(Debug)]
pub(super) struct Filled<'q> {
    pub(super) slot: Slot,
    pub(super) batch: Batch,
    pub(super) tasks: Vec<Task>,
    pub(super) held: Vec<Held<'q>>,
}

/// A batch on the device.
#[derive(Debug)]
struct Flying<'q> {
    filled: Filled<'q>,
    index: wgpu::SubmissionIndex,
    since: Instant,
    traffic: Traffic,
}

/// What the threads of one drain share.
#[derive(Debug)]
pub(super) struct Ring<'q> {
    free: Pipe<Slot>,
    filled: Pipe<Filled<'q>>,
    pub(super) board: Board<'q>,
    /// Readers that have not ended, and those of them that are not waiting for anything.
    readers: AtomicUsize,
    busy: AtomicUsize,
    ended: AtomicBool,
}

impl<'q> Ring<'q> {
    fn new(slots: Vec<Slot>, readers: usize, writers: usize) -> Ring<'q> {
        let free = Pipe::new();
        for slot in slots {
            free.push(slot);
        }
        Ring {
            free,
            filled: Pipe::new(),
            board: Board::new(writers),
            readers: AtomicUsize::new(readers),
            busy: AtomicUsize::new(readers),
            ended: AtomicBool::new(false),
        }
    }

    /// A slot to fill, once there is one.
    pub(super) fn free_slot(&self) -> Option<Slot> {
        self.free.try_pop().or_else(|| self.idle(|| self.free.pop()))
    }

    pub(super) fn give_back(&self, slot: Slot) {
        // After the end nobody needs it.
        drop(self.free.push(slot));
    }

    /// Does something that may wait for a batch under way.
    pub(super) fn idle<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.busy.fetch_sub(1, Ordering::AcqRel);
        let outcome = wait();
        self.busy.fetch_add(1, Ordering::AcqRel);
        outcome
    }

    pub(super) fn send(&self, filled: Filled<'q>) {
        // After the end its leases go back to the queue.
        drop(self.filled.push(filled));
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Lets every thread come to its end.
    fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.free.close();
        self.filled.close();
        self.board.close();
        drop(self.filled.take_all());
    }
}

/// Ends the ring when its thread panics, so that nobody waits for it.
struct Watch<'r, 'q>(&'r Ring<'q>);

impl Drop for Watch<'_, '_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.end();
        }
    }
}

/// Counts a reader out when its thread ends, in whatever way.
struct Reading<'r, 'q>(&'r Ring<'q>);

impl Drop for Reading<'_, '_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::AcqRel);
        if self.0.readers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.filled.close();
        }
    }
}

impl Gpu {
    /// Drains `queue` with these slots, at most `samples` to a batch, and gives them back.
    pub(super) fn turn(
        &self,
        slots: Vec<Slot>,
        samples: u64,
        queue: &Queue,
        job: &dyn Job,
        by: DeviceIndex,
    ) -> Result<Vec<Slot>, Error> {
        let ring = Ring::new(slots, self.readers, self.writers);
        let member = queue.join(self.readers);
        let limits = Limits { samples, shape: self.tuning.shape };
        let read = || {
            let _watch = Watch(&ring);
            let _reading = Reading(&ring);
            if let Err(error) = Reader::new(&ring, queue, &member, job, by, limits).run() {
                self.device.trouble.report(error);
            }
        };
        let hand_over = || {
            let _watch = Watch(&ring);
            let wrong = |problem| {
                self.device.trouble.report(format!("computes wrongly: {problem}"));
            };
            write(&ring, queue, job, by, &wrong);
        };
        let outcome = thread::scope(|scope| {
            let _watch = Watch(&ring);
            let mut spawned = true;
            for _ in 0..self.readers {
                let name = thread::Builder::new().name("gpu reader".into());
                spawned &= name.spawn_scoped(scope, read).is_ok();
            }
            for _ in 0..self.writers {
                let name = thread::Builder::new().name("gpu writer".into());
                spawned &= name.spawn_scoped(scope, hand_over).is_ok();
            }
            let outcome = if spawned {
                self.submit_and_poll(&ring)
            } else {
                Err(self.device.error("no more threads can be started"))
            };
            match &outcome {
                // Writers still have batches, which are whole, and give their slots back.
                Ok(()) => ring.board.close(),
                Err(_) => ring.end(),
            }
            outcome
        });
        outcome.map(|()| ring.free.take_all())
    }

    fn submit_and_poll<'q>(&self, ring: &Ring<'q>) -> Result<(), Error> {
        // Submissions that should be under way before the device is waited for; one slot is filled.
        let depth = self.tuning.slots - 1;
        let mut flying: VecDeque<Flying<'q>> = VecDeque::new();
        loop {
            self.device.check()?;
            while flying.front().is_some_and(|first| first.filled.slot.has_arrived()) {
                self.device.check()?;
                if let Some(first) = flying.pop_front() {
                    ring.board.push(self.arrived(first)?);
                }
            }
            let wait_for_reader = flying.len() < depth && ring.busy.load(Ordering::Acquire) > 0;
            let patience = match (flying.is_empty(), wait_for_reader) {
                (true, _) => WAIT,
                (false, true) => LOOK,
                (false, false) => Duration::ZERO,
            };
            match ring.filled.pop_for(patience) {
                Popped::One(filled) => {
                    flying.push_back(self.send(filled)?);
                    continue;
                }
                // A reader that failed has said so before it ended.
                Popped::Closed if flying.is_empty() => return self.device.check(),
                _ => {}
            }
            let Some(first) = flying.front() else { continue };
            if first.since.elapsed() > self.device.patience {
                let problem = format!("no answer within {:?}", self.device.patience);
                self.device.trouble.report(problem);
            }
            if wait_for_reader {
                self.device.poll(None)?;
            } else {
                self.count(|stats| {
                    if stats.waits == 0 {
                        stats.submissions_before_first_wait = stats.submissions;
                    }
                    stats.waits += 1;
                });
                // With one batch under way a reader may be about to bring another.
                let timeout = if flying.len() < depth { 2 * LOOK } else { WAIT };
                self.device.poll(Some((first.index.clone(), timeout)))?;
            }
        }
    }

    fn send<'q>(&self, filled: Filled<'q>) -> Result<Flying<'q>, Error> {
        let fault = self.fault();
        self.suffer(fault, Fault::LostBefore);
        let (index, traffic) = filled.slot.submit(&self.device, &self.kernels, &filled.batch);
        self.count(|stats| {
            stats.batches += 1;
            stats.submissions += 1;
            stats.copies += traffic.moved.copies;
            stats.dispatches += traffic.moved.dispatches;
            for (kernel, bytes) in traffic.kernels.into_iter().flatten() {
                let of = &mut stats.kernels[kernel as usize];
                of.dispatches += 1;
                of.bytes += bytes;
            }
            stats.bytes_up += traffic.moved.up;
            stats.bytes_down += traffic.moved.down;
        });
        self.suffer(fault, Fault::LostAfter);
        self.suffer(fault, Fault::Invalid);
        self.device.check()?;
        filled.slot.map(&self.device, traffic.answer + traffic.timestamps);
        self.suffer(fault, Fault::LostMapping);
        self.device.check()?;
        Ok(Flying { filled, index, since: Instant::now(), traffic })
    }

    fn arrived<'q>(&self, flying: Flying<'q>) -> Result<Finished<'q>, Error> {
        let Filled { slot, batch, tasks, held } = flying.filled;
        let traffic = flying.traffic;
        let view =
            slot.readback
                .slice(0..traffic.answer + traffic.timestamps)
                .get_mapped_range()
                .map_err(|error| self.device.error(super::device::one_line(&error.to_string())))?;
        if traffic.timestamps > 0 {
            let answer = usize::try_from(traffic.answer).expect("a mapped buffer fits memory");
            let period = self.device.queue.get_timestamp_period();
            let mut times = nanoseconds(&view[answer..], period);
            self.count(|stats| {
                if traffic.timed_copies {
                    stats.nanoseconds_up += times.next().unwrap_or_default();
                    stats.nanoseconds_down += times.next().unwrap_or_default();
                }
                for ((kernel, _), time) in traffic.kernels.into_iter().flatten().zip(times) {
                    stats.kernels[kernel as usize].nanoseconds += time;
                }
            });
        }
        let finished = Finished { slot, view, batch, tasks, held, done: AtomicUsize::new(0) };
        // Before any of it is handed over: then all of the batch can be done again by others.
        if let Some((visited, samples)) = finished.left_out() {
            let problem = format!("looked at {visited} of an image's {samples} samples");
            self.device.trouble.report(problem);
        }
        self.device.check().map(|()| finished)
    }

    fn count(&self, add: impl FnOnce(&mut GpuStats)) {
        add(&mut self.stats.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
}
