//! Handing finished pixels over, straight from the mapped readback. All writers share a batch:
//! each takes the next few of its images.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::batch::Batch;
use super::reader::{Held, Task};
use super::ring::Ring;
use super::slot::Slot;
use crate::backend::cpu::check;
use crate::backend::cpu::range::DeviceExtent;
use crate::backend::queue::{Lease, Pass, Queue, Unit};
use crate::backend::{Desk, DeviceIndex, Finding, Job, wait_at};
use crate::normalize::Extent;

/// A batch whose results are in memory.
#[derive(Debug)]
pub(super) struct Finished<'q> {
    pub(super) slot: Slot,
    pub(super) view: wgpu::BufferView,
    pub(super) batch: Batch,
    pub(super) tasks: Vec<Task>,
    pub(super) held: Vec<Held<'q>>,
    /// Tasks that are done. Fewer than all, and nobody working on the others, means that a writer
    /// panicked: the leases must go back.
    pub(super) done: AtomicUsize,
}

/// Finished batches and how far they are handed over.
#[derive(Debug)]
pub(super) struct Board<'q> {
    state: Mutex<State<'q>>,
    changed: Condvar,
    writers: usize,
}

#[derive(Debug)]
struct State<'q> {
    batches: VecDeque<(Arc<Finished<'q>>, usize)>,
    closed: bool,
}

impl<'q> Board<'q> {
    pub(super) fn new(writers: usize) -> Board<'q> {
        let state = State { batches: VecDeque::new(), closed: false };
        Board { state: Mutex::new(state), changed: Condvar::new(), writers }
    }

    pub(super) fn push(&self, finished: Finished<'q>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.batches.push_back((Arc::new(finished), 0));
        self.changed.notify_all();
    }

    pub(super) fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.changed.notify_all();
    }

    /// Some tasks. The board gives its own share of the batch away with the last of them, so that
    /// whoever drops the last share knows that all are done.
    fn next(&self) -> Option<(Arc<Finished<'q>>, Range<usize>)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some((batch, at)) = state.batches.front_mut() {
                let tasks = batch.tasks.len();
                // Eight rounds each, so that writers end at about the same time.
                let step = (tasks / (8 * self.writers)).max(1);
                let range = *at..tasks.min(*at + step);
                *at = range.end;
                if range.end < tasks {
                    return Some((Arc::clone(batch), range));
                }
                return state.batches.pop_front().map(|(batch, _)| (batch, range));
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Finds out what the CPU makes otherwise.
type Differs<'d> = dyn Fn(&mut dyn Desk) -> Option<String> + 'd;

/// One thread that hands pixels over, until the board is closed and empty. `wrong` is told what the
/// CPU makes otherwise: after that the desk takes nothing more, and leases end as ever.
pub(super) fn write(
    ring: &Ring<'_>,
    queue: &Queue,
    job: &dyn Job,
    by: DeviceIndex,
    wrong: &dyn Fn(String),
) {
    let mut desk = job.desk(by);
    while let Some((batch, range)) = wait_at(&mut *desk, || ring.board.next()) {
        for task in &batch.tasks[range] {
            if let Some(problem) = batch.hand_over(task, queue, &mut *desk) {
                wrong(problem);
            }
            batch.done.fetch_add(1, Ordering::Relaxed);
        }
        let whole = |batch: &Finished<'_>| batch.done.load(Ordering::Relaxed) == batch.tasks.len();
        if let Some(batch) = Arc::into_inner(batch).filter(whole) {
            ring.give_back(batch.end(&mut *desk));
        }
    }
}

impl Finished<'_> {
    /// Answers with what the CPU makes otherwise, if this is of what is compared.
    fn hand_over(&self, task: &Task, queue: &Queue, desk: &mut dyn Desk) -> Option<String> {
        let pixels = &self.view[4 * task.pixels.start..4 * task.pixels.end];
        let image = task.image;
        let check = |desk: &mut dyn Desk, first: u64, differs: &Differs<'_>| {
            let problem = desk.is_sampled(image, first).then(|| differs(desk)).flatten();
            if problem.is_some() {
                desk.distrust();
            }
            problem
        };
        match self.block(task) {
            None => {
                let extent = self.extent(task.index);
                let finding = match queue.known(image) {
                    Some(range) => Finding { extent, range },
                    None => Finding::of(queue.rule(), extent, false),
                };
                let problem =
                    check(desk, 0, &|desk| check::image(queue, desk, image, &finding, pixels));
                desk.put(image, &finding, pixels);
                problem
            }
            Some((Pass::Extent, samples)) => {
                let extent = self.extent(task.index);
                desk.looked(image);
                check(desk, samples.start, &|desk| {
                    check::extent(queue, desk, image, samples.clone(), &extent)
                })
            }
            Some((pass @ (Pass::Normalize(_) | Pass::Known(_)), samples)) => {
                let first = samples.start;
                let extent = self.extent(task.index);
                let finding = match pass {
                    Pass::Known(range) => Finding { extent, range },
                    Pass::Normalize(finding) => finding,
                    Pass::Extent => unreachable!("it makes no pixels"),
                };
                let problem = check(desk, first, &|desk| {
                    let looked = task
                        .looked
                        .then(|| check::extent(queue, desk, image, samples.clone(), &extent));
                    looked
                        .flatten()
                        .or_else(|| check::block(queue, desk, image, first, &finding, pixels))
                });
                desk.put_block(image, first, pixels);
                problem
            }
        }
    }

    /// The block that a task stands for; `None` of a whole image.
    fn block(&self, task: &Task) -> Option<(Pass, Range<u64>)> {
        let of_task = |held: &&Held<'_>| !task.whole && held.task == Some(task.index);
        match self.held.iter().find(of_task)?.lease.unit() {
            Unit::Block { pass, samples, .. } => Some((*pass, samples.clone())),
            Unit::Images { .. } => None,
        }
    }

    /// How many samples a kernel looked at, of how many, where that is not all of an image.
    pub(super) fn left_out(&self) -> Option<(u64, u64)> {
        // Blocks of a second pass were counted in the first.
        let looked_at = self.tasks.iter().filter(|task| task.looked);
        let samples = |index: usize| u64::from(self.batch.images()[index].samples);
        looked_at
            .map(|task| (self.extent(task.index).visited, samples(task.index)))
            .find(|(visited, samples)| visited != samples)
    }

    fn extent(&self, index: usize) -> Extent {
        const BYTES: usize = size_of::<DeviceExtent>();
        let at = 4 * self.batch.pixels() as usize + index * BYTES;
        bytemuck::pod_read_unaligned::<DeviceExtent>(&self.view[at..at + BYTES]).into()
    }

    /// Ends the leases, and frees the slot.
    fn end(mut self, desk: &mut dyn Desk) -> Slot {
        for Held { lease, task } in std::mem::take(&mut self.held) {
            let extent = task.map(|task| self.extent(self.tasks[task].index));
            end_lease(lease, extent, desk);
        }
        let Finished { slot, view, .. } = self;
        drop(view);
        slot.readback.unmap();
        slot
    }
}

fn end_lease(lease: Lease<'_>, extent: Option<Extent>, desk: &mut dyn Desk) {
    match (lease.unit().clone(), extent) {
        (Unit::Block { image, .. }, Some(extent)) => {
            if let Some(finding) = lease.done_block(extent) {
                desk.finish_blocks(image, &finding);
            }
        }
        _ => lease.done(),
    }
}
