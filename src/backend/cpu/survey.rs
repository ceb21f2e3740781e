//! Pass one over scopes that are wider than a buffer: what is wanted of each of them, before any of
//! its pixels can be made.
//!
//! A worker does a small scope alone; a large one is cut into pieces, which all workers take until
//! there are none, pass after pass. So memory does not grow with the scopes. Other devices take pieces
//! as well; where they work without the CPU, they take those of small scopes too.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::gather::{AtOnce, Gathered, Gatherer, Wanted};
use super::triples::mix;
use super::{Cpu, Load, Worker, steps, widen};
use crate::backend::queue::Queue;
use crate::backend::{Backend, Desk, ImageId, wait_at};
use crate::error::Error;
use crate::normalize::Extent;
use crate::tensor::{Dtype, decode};

/// Scopes of no more samples are done by one worker, which keeps a key of each where percentiles are
/// wanted.
const SMALL: u64 = 1 << 20;
/// Samples of a piece of a larger one.
const PIECE: u64 = 1 << 20;
/// Pieces of which one is compared with what the CPU finds, beside a device's first two of each type and pass.
const COMPARED: u64 = 64;

/// Who looks.
pub(crate) struct Lookers<'l> {
    cpu: &'l Cpu,
    /// Whether the CPU takes part where others can do it.
    use_cpu: bool,
    others: Vec<Looker<'l>>,
}

/// Another device.
struct Looker<'l> {
    backend: &'l dyn Backend,
    failed: AtomicBool,
    proved: AtomicBool,
    /// Pieces that it has done, of each type and pass: by bits of keys that are settled.
    pieces: Mutex<HashMap<(Dtype, u32), u64>>,
}

impl Looker<'_> {
    /// Has the device look at planted samples of every type, in every pass, before it is believed anything.
    fn prove(&self) -> Result<(), Failed> {
        let percents = vec![0.0, 1.0, 50.0, 99.0, 100.0];
        let wanted = Wanted { moments: true, percents, zeros: true };
        for dtype in Dtype::ALL.into_iter().filter(|dtype| !dtype.is_wide()) {
            let raw = planted(dtype);
            let mut samples = vec![0.0; raw.len() / dtype.size()];
            decode::to_f32(dtype, &raw, &mut samples);
            let mut whole = Gatherer::new(wanted.clone(), false);
            loop {
                let question = whole.question(dtype).filter(|asked| self.backend.answers(asked));
                let Some(question) = question else { break };
                let answer = self.backend.look(&question, &raw);
                let answer = answer.map_err(|error| Failed { error, is_wrong: false })?;
                let [mut theirs, mut ours] = [whole.fresh(), whole.fresh()];
                theirs.answered(&answer);
                ours.look_f32(&samples);
                if !theirs.is_same(&mut ours) {
                    return Err(self.is_wrong(&format!("planted samples of {dtype}")));
                }
                whole.merge(ours);
                if !whole.next() {
                    break;
                }
            }
        }
        self.proved.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn is_wrong(&self, what: &str) -> Failed {
        let problem = format!("it found something else in {what} than the CPU");
        self.backend.distrust(&problem);
        let device = self.backend.name().to_owned();
        let problem = format!("computes wrongly: {problem}");
        Failed { error: Error::Gpu { device, problem }, is_wrong: true }
    }

    /// Whether the piece of this kind that it has just done is to be compared.
    fn is_compared(&self, kind: (Dtype, u32)) -> bool {
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        let done = pieces.entry(kind).or_default();
        *done += 1;
        *done <= 2 || done.is_multiple_of(COMPARED)
    }
}

/// Samples of a type: every one where there are 256 or 65,536, of others the edges and many.
fn planted(dtype: Dtype) -> Vec<u8> {
    match dtype.size() {
        1 => (0..=u8::MAX).cycle().take(1000).collect(),
        2 => (0..=u16::MAX).flat_map(u16::to_le_bytes).collect(),
        _ => {
            let magnitudes =
                [0, 1, 0x7F_FFFF, 0x80_0000, 0x3F80_0000, 0x7F7F_FFFF, widen::INF, 0x7F80_0001];
            let edges = magnitudes.into_iter().flat_map(|bits| [bits, bits | 0x8000_0000]);
            #[allow(clippy::cast_possible_truncation, reason = "any bits will do")]
            let many = (0..40_000).map(|at| mix(at) as u32);
            // Some more often than once.
            edges.chain(many.clone()).chain(many.take(5000)).flat_map(u32::to_le_bytes).collect()
        }
    }
}

impl<'l> Lookers<'l> {
    pub(crate) fn new(
        cpu: &'l Cpu,
        use_cpu: bool,
        others: impl Iterator<Item = &'l dyn Backend>,
    ) -> Lookers<'l> {
        let looker = |backend| Looker {
            backend,
            failed: false.into(),
            proved: false.into(),
            pieces: Mutex::default(),
        };
        Lookers { cpu, use_cpu, others: others.map(looker).collect() }
    }

    /// The other devices that have not failed.
    fn others(&self) -> impl Iterator<Item = &Looker<'l>> {
        self.others.iter().filter(|looker| !looker.failed.load(Ordering::Relaxed))
    }

    /// Whether others do all that they can.
    fn are_others_alone(&self) -> bool {
        !self.use_cpu && self.others().next().is_some()
    }
}

/// Samples that follow one another, from sample `samples.start` after the beginning of an image on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) first: ImageId,
    pub(crate) samples: Range<u64>,
}

/// What is looked at.
pub(crate) trait Surveyed: Sync {
    /// Number of scopes.
    fn scopes(&self) -> u64;

    /// The samples of a scope.
    fn stretches(&self, scope: u64) -> Box<dyn Iterator<Item = Stretch> + Send + '_>;

    /// Whether a scope works in f64.
    fn is_wide(&self, scope: u64) -> bool;

    /// Where a thread reads.
    fn desk(&self) -> Box<dyn Desk + '_>;

    /// Takes what was found.
    fn found(&self, scope: u64, gathered: Gathered);

    /// Hears of a device that failed, which is not used any more.
    fn gave_up(&self, error: &Error) {
        let _ = error;
    }

    /// Nothing counts that was found: all of it is found again.
    fn again(&self) {}
}

/// A device failed.
struct Failed {
    error: Error,
    /// Whether all that it found before may be wrong as well.
    is_wrong: bool,
}

/// Finds out what is wanted of all scopes.
///
/// # Errors
/// The first that a desk answers with.
pub(crate) fn survey(
    lookers: &Lookers<'_>,
    queue: &Queue,
    wanted: &Wanted,
    surveyed: &dyn Surveyed,
) -> Result<(), Error> {
    while !survey_once(lookers, queue, wanted, surveyed)? {
        surveyed.again();
    }
    Ok(())
}

/// The same; false if a device was found to be wrong.
fn survey_once(
    lookers: &Lookers<'_>,
    queue: &Queue,
    wanted: &Wanted,
    surveyed: &dyn Surveyed,
) -> Result<bool, Error> {
    let cpu = lookers.cpu;
    for looker in lookers.others().filter(|looker| !looker.proved.load(Ordering::Relaxed)) {
        if let Err(failed) = looker.prove() {
            looker.failed.store(true, Ordering::Relaxed);
            surveyed.gave_up(&failed.error);
        }
    }
    let samples = |scope| -> u64 {
        surveyed.stretches(scope).map(|stretch| stretch.samples.end - stretch.samples.start).sum()
    };
    let large = Mutex::new(Vec::new());
    let is_divided = cpu.threads > 1 || lookers.others().next().is_some();
    let work = || {
        let mut worker = Worker::at(cpu, queue, surveyed.desk());
        move |scope: u64| -> Result<(), Error> {
            let stretches = surveyed.stretches(scope);
            let gathered = if samples(scope) <= SMALL {
                worker.at_once(wanted, stretches, surveyed.is_wide(scope))?
            } else {
                let mut gatherer = Gatherer::new(wanted.clone(), surveyed.is_wide(scope));
                loop {
                    for stretch in surveyed.stretches(scope) {
                        worker.pass(&mut gatherer, stretch)?;
                    }
                    if !gatherer.next() {
                        break gatherer.gathered();
                    }
                }
            };
            surveyed.found(scope, gathered);
            Ok(())
        }
    };
    let next = AtomicU64::new(0);
    let alone = lookers.are_others_alone();
    if !alone {
        in_all_threads(cpu.threads, |_| {
            let mut one = work();
            loop {
                let scope = next.fetch_add(1, Ordering::Relaxed);
                if scope >= surveyed.scopes() {
                    return Ok(());
                }
                if is_divided && samples(scope) > SMALL {
                    large.lock().unwrap_or_else(PoisonError::into_inner).push(scope);
                } else {
                    one(scope)?;
                }
            }
        })?;
    }
    let mut large = large.into_inner().unwrap_or_else(PoisonError::into_inner);
    // In the order of their bytes, as disks like it.
    large.sort_unstable();
    let all: Box<dyn Iterator<Item = u64>> =
        if alone { Box::new(0..surveyed.scopes()) } else { Box::new(large.into_iter()) };
    for scope in all {
        let gathered = loop {
            match together(lookers, queue, wanted, surveyed, scope)? {
                Ok(gathered) => break gathered,
                Err(failed) => {
                    surveyed.gave_up(&failed.error);
                    if failed.is_wrong {
                        return Ok(false);
                    }
                }
            }
        };
        surveyed.found(scope, gathered);
    }
    Ok(true)
}

/// One scope by all workers and devices; by none if a device failed.
fn together(
    lookers: &Lookers<'_>,
    queue: &Queue,
    wanted: &Wanted,
    surveyed: &dyn Surveyed,
    scope: u64,
) -> Result<Result<Gathered, Failed>, Error> {
    let cpu = lookers.cpu;
    let mut whole = Gatherer::new(wanted.clone(), surveyed.is_wide(scope));
    loop {
        let pieces = Mutex::new(surveyed.stretches(scope).flat_map(pieces));
        let merged = Mutex::new(whole.fresh());
        let failed = Mutex::new(None);
        // Types that a device does not take are the CPU's.
        let first = surveyed.stretches(scope).next();
        let dtype = first.map(|stretch| queue.spans()[stretch.first.span].dtype);
        let takes = |looker: &&Looker<'_>| {
            let question = dtype.and_then(|dtype| whole.question(dtype));
            question.is_some_and(|question| looker.backend.answers(&question))
        };
        let others: Vec<&Looker<'_>> = lookers.others().filter(takes).collect();
        let workers = if lookers.use_cpu || others.is_empty() { cpu.threads } else { 0 };
        in_all_threads(workers + others.len(), |number| {
            let looker = number.checked_sub(workers).map(|number| others[number]);
            let mut worker = Worker::at(cpu, queue, surveyed.desk());
            let mut own = whole.fresh();
            let has_failed = || failed.lock().unwrap_or_else(PoisonError::into_inner).is_some();
            while !has_failed() {
                let piece = pieces.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(piece) = piece else { break };
                match looker {
                    None => worker.pass(&mut own, piece)?,
                    Some(looker) => {
                        if let Err(failure) = worker.pass_with(looker, &mut own, piece)? {
                            looker.failed.store(true, Ordering::Relaxed);
                            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                            failed.get_or_insert(failure);
                        }
                    }
                }
            }
            merged.lock().unwrap_or_else(PoisonError::into_inner).merge(own);
            Ok(())
        })?;
        if let Some(failed) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Ok(Err(failed));
        }
        whole.merge(merged.into_inner().unwrap_or_else(PoisonError::into_inner));
        if !whole.next() {
            return Ok(Ok(whole.gathered()));
        }
    }
}

fn pieces(stretch: Stretch) -> impl Iterator<Item = Stretch> {
    let Stretch { first, samples } = stretch;
    (samples.start..samples.end)
        .step_by(len(PIECE))
        .map(move |start| Stretch { first, samples: start..samples.end.min(start + PIECE) })
}

fn len(samples: u64) -> usize {
    usize::try_from(samples).expect("a piece's samples fit memory")
}

/// Has so many threads do it, each by its number; the first error counts. Where the system gives fewer, this
/// one does what is left.
fn in_all_threads(
    threads: usize,
    work: impl Fn(usize) -> Result<(), Error> + Sync,
) -> Result<(), Error> {
    let outcome = Mutex::new(Ok(()));
    let work = |number| {
        if let Err(error) = work(number) {
            let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
            if outcome.is_ok() {
                *outcome = Err(error);
            }
        }
    };
    thread::scope(|scope| {
        for number in 1..threads {
            let work = &work;
            if thread::Builder::new().spawn_scoped(scope, move || work(number)).is_err() {
                break;
            }
        }
        work(0);
    });
    outcome.into_inner().unwrap_or_else(PoisonError::into_inner)
}

impl Worker<'_> {
    /// Looks at samples in a gatherer's pass.
    fn pass(&mut self, gatherer: &mut Gatherer, stretch: Stretch) -> Result<(), Error> {
        let shape = self.queue.spans()[stretch.first.span];
        for (first, load) in steps(&shape, stretch.samples) {
            self.read(load, stretch.first, first, None)?;
            self.gather(load, gatherer);
        }
        Ok(())
    }

    /// Has another device look at samples in a gatherer's pass, and compares some with what is found here.
    fn pass_with(
        &mut self,
        looker: &Looker<'_>,
        gatherer: &mut Gatherer,
        stretch: Stretch,
    ) -> Result<Result<(), Failed>, Error> {
        let shape = self.queue.spans()[stretch.first.span];
        let Stretch { first, samples } = stretch;
        let load = Load::of(&shape, len(samples.end - samples.start));
        self.read(load, first, samples.start, None)?;
        let raw = &bytemuck::cast_slice(&self.buffer)[load.raw(0..load.count)];
        let question = gatherer.question(shape.dtype);
        let Some(question) = question.filter(|question| looker.backend.answers(question)) else {
            self.gather(load, gatherer);
            return Ok(Ok(()));
        };
        let kind = (shape.dtype, question.settled);
        let answer = wait_at(&mut *self.desk, || looker.backend.look(&question, raw));
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return Ok(Err(Failed { error, is_wrong: false })),
        };
        if looker.is_compared(kind) {
            let [mut theirs, mut ours] = [gatherer.fresh(), gatherer.fresh()];
            theirs.answered(&answer);
            self.gather(load, &mut ours);
            if !theirs.is_same(&mut ours) {
                return Ok(Err(looker.is_wrong("samples")));
            }
        }
        gatherer.answered(&answer);
        Ok(Ok(()))
    }

    /// Looks at all samples of a small scope in one pass.
    fn at_once(
        &mut self,
        wanted: &Wanted,
        stretches: impl Iterator<Item = Stretch>,
        wide: bool,
    ) -> Result<Gathered, Error> {
        let mut extent = Extent::EMPTY;
        let mut keys = std::mem::take(&mut self.keys);
        let mut at_once = AtOnce::new(wanted, wide, &mut keys);
        for Stretch { first: image, samples } in stretches {
            let shape = self.queue.spans()[image.span];
            for (first, load) in steps(&shape, samples) {
                self.read(load, image, first, Some(&mut extent))?;
                if !wanted.is_nothing() {
                    self.look_at_once(load, 0..load.count, &mut at_once);
                }
            }
        }
        let gathered = at_once.gathered(extent);
        self.keys = keys;
        Ok(gathered)
    }
}
