//! The CPU backend: every worker does one image at a time while it is hot in cache, so that no
//! pixel crosses a thread.
//!
//! Samples are read in steps that fit the second-level cache, and their extent is taken from each
//! step while it is there. Small images stay as they are until their range is known; then they
//! become pixels in the same buffer: raw samples lie at its end, pixels grow from its start, and
//! pixels only take room that raw samples have left. Of large images only the extent is kept, and
//! they are read again, step by step, for their pixels: to copy them once more out of the system's
//! cache is cheaper than to write them to memory of our own and to read them back.
//!
//! Memory: a worker holds one small image's samples, each in 4 bytes, or in 8 if its type has so
//! many, and a step.

pub(in crate::backend) mod check;
pub mod extent;
pub mod fused;
pub(crate) mod gather;
mod map;
pub mod normalize;
pub mod range;
pub mod softfloat;
pub(crate) mod survey;
pub mod triples;
pub mod widen;

use std::num::NonZeroUsize;
use std::ops::Range;
use std::thread;

use super::queue::{Appetite, Lease, Pass, Queue, Unit};
use super::{Backend, Desk, DeviceIndex, Finding, ImageId, Job, Span, wait_at};
use crate::error::Error;
use crate::normalize::{Extent, Range as ValueRange, Rule};
use crate::tensor::{Dtype, decode};
use gather::{AtOnce, Gatherer, Keys, Wanted};

/// Bytes read at once: the step that stays in cache between reading and the look at it.
const STEP: usize = 256 << 10;
/// Samples that become pixels at once where a copy in the first-level cache is needed.
const PIECE: usize = 2048;
/// Images of more samples are large: the third-level cache no longer holds one for each core. 16
/// images of 4096×4096 took 0.19 s read twice, 0.25 s kept in a buffer.
const LARGE: u64 = 1 << 20;

/// Bytes of a worker's pieces: raw, narrow and wide.
const PIECES: u64 = (PIECE * (8 + 4 + 8)) as u64;
/// Bytes of a worker that keeps no image: a step of samples of 8 bytes, its pieces, its stack and
/// its desk.
const LEAST_WORKER: u64 = 2 * STEP as u64 + PIECES + (128 << 10);

const APPETITE: Appetite =
    Appetite { samples: STEP as u64 / 4, least_samples: 1024, images: 4096, everything: true };

/// Bytes of address space that a thread may take: its stack, its buffers, and what the allocator sets
/// aside for it (glibc twice 64 MiB, for a moment) before it has asked for any.
const MAPPED: u64 = 144 << 20;

/// Files that a run has open whatever it does: standard streams, what signals come by, the folder, its lock,
/// journal and manifest, folders that are kept.
const OPEN: u64 = 27;

/// All cores of this machine, or as many as wished.
#[derive(Debug)]
pub struct Cpu {
    threads: usize,
    /// Images of more bytes in a worker's buffer are large.
    kept: u64,
    /// Bytes that a worker's desk takes.
    desk: u64,
}

impl Cpu {
    /// Most workers, whatever is wished: no machine gains by more, and systems run out of them.
    pub const MOST_THREADS: usize = 1024;

    /// Number of workers.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// A backend of `threads` workers; as many as there are cores if `None`.
    #[must_use]
    pub fn new(threads: Option<NonZeroUsize>) -> Cpu {
        let cores = || thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let threads = threads.unwrap_or_else(cores).get().min(Cpu::MOST_THREADS);
        Cpu { threads, kept: u64::MAX, desk: 0 }
    }

    /// The same with as many workers as may be where so many bytes can be mapped, but one.
    #[must_use]
    pub fn mapping(mut self, bytes: u64) -> Cpu {
        let most = usize::try_from(bytes / MAPPED).unwrap_or(usize::MAX).max(1);
        self.threads = self.threads.min(most);
        self
    }

    /// The same with as many workers as may be where so many files can be open, but one. Each has its own and
    /// two folders open at most; a quarter is the dumps'.
    #[must_use]
    pub fn opening(mut self, files: u64) -> Cpu {
        let most = (files / 4 * 3).saturating_sub(OPEN) / 3;
        self.threads = self.threads.min(usize::try_from(most).unwrap_or(usize::MAX).max(1));
        self
    }

    /// The same where the desk of each worker takes so many bytes.
    #[must_use]
    pub fn with_desks(mut self, bytes: u64) -> Cpu {
        self.desk = bytes;
        self
    }

    /// The same with buffers of so many bytes at most: images that do not fit are read twice, and
    /// if not even steps do, there are fewer workers, but one.
    #[must_use]
    pub fn within(mut self, bytes: u64) -> Cpu {
        let least = LEAST_WORKER.saturating_add(self.desk);
        let most = usize::try_from(bytes / least).unwrap_or(usize::MAX).max(1);
        self.threads = self.threads.min(most);
        let each = (bytes / self.threads as u64).saturating_sub(self.desk);
        self.kept = each.saturating_sub(PIECES).max(2 * STEP as u64);
        self
    }
}

impl Cpu {
    /// Whether images of a span are read twice, and not kept. To find percentiles in what is kept
    /// takes as much room again.
    fn is_large(&self, span: &Span, wanted: &Wanted) -> bool {
        let room = if wanted.percents.is_empty() { 1 } else { 2 };
        let bytes = span.samples.saturating_mul(room * span.dtype.size().max(4) as u64);
        span.samples > LARGE || bytes > self.kept
    }
}

impl Backend for Cpu {
    fn name(&self) -> &str {
        "cpu"
    }

    fn takes(&self, _: &Span, _: &Rule) -> bool {
        true
    }

    fn pullers(&self) -> usize {
        self.threads
    }

    fn memory(&self, spans: &[Span], _block: u64) -> u64 {
        let bytes = |span: &Span| {
            let size = span.dtype.size().max(4) as u64;
            let kept =
                if self.is_large(span, &Wanted::default()) { 0 } else { span.samples * size };
            kept.max(STEP as u64 / 4 * size)
        };
        let images = spans.iter().map(bytes).max().unwrap_or(0);
        (self.threads as u64).saturating_mul(images + PIECES + self.desk)
    }

    fn drain(&self, queue: &Queue, job: &dyn Job, by: DeviceIndex) -> Result<(), Error> {
        let work = || {
            let mut worker = Worker::new(self, queue, job, by);
            while let Some(lease) = wait_at(&mut *worker.desk, || queue.take(&APPETITE)) {
                worker.unit(lease);
            }
        };
        thread::scope(|scope| {
            for _ in 1..self.threads {
                // Fewer threads than wished (a process limit, say) do the same work.
                if thread::Builder::new().spawn_scoped(scope, work).is_err() {
                    break;
                }
            }
            work();
        });
        Ok(())
    }
}

/// One thread's buffers, grown to the largest image it met and reused.
struct Worker<'a> {
    cpu: &'a Cpu,
    queue: &'a Queue,
    desk: Box<dyn Desk + 'a>,
    rule: Rule,
    /// What images of unknown range are to be asked beside their extent.
    wanted: Wanted,
    keys: Keys,
    buffer: Vec<f32>,
    /// A piece's raw samples, and what they are decoded to on the way.
    raw: Box<[u8; 8 * PIECE]>,
    narrow: Box<[f32; PIECE]>,
    wide: Box<[f64; PIECE]>,
}

/// What is loaded: `count` samples of `dtype`, which end where the used part of the buffer does.
#[derive(Clone, Copy)]
struct Load {
    dtype: Dtype,
    count: usize,
    /// Whether they are computed in f64.
    wide: bool,
}

impl Load {
    fn of(shape: &Span, count: usize) -> Load {
        Load { dtype: shape.dtype, count, wide: shape.wide }
    }

    /// f32s in the used part of the buffer.
    fn len(self) -> usize {
        self.count * self.dtype.size().div_ceil(4)
    }

    /// Where the raw bytes of some samples lie in the buffer.
    fn raw(self, samples: Range<usize>) -> Range<usize> {
        let size = self.dtype.size();
        let start = 4 * self.len() - self.count * size;
        start + samples.start * size..start + samples.end * size
    }
}

impl<'a> Worker<'a> {
    fn new(cpu: &'a Cpu, queue: &'a Queue, job: &'a dyn Job, by: DeviceIndex) -> Worker<'a> {
        Worker::at(cpu, queue, job.desk(by))
    }

    fn at(cpu: &'a Cpu, queue: &'a Queue, desk: Box<dyn Desk + 'a>) -> Worker<'a> {
        let rule = *queue.rule();
        Worker {
            cpu,
            queue,
            desk,
            rule,
            wanted: Wanted::of(rule.norm),
            keys: Keys::default(),
            buffer: Vec::new(),
            raw: Box::new([0; 8 * PIECE]),
            narrow: Box::new([0.0; PIECE]),
            wide: Box::new([0.0; PIECE]),
        }
    }

    fn unit(&mut self, lease: Lease<'_>) {
        match lease.unit().clone() {
            Unit::Images { span, images } => {
                self.images(span, images);
                lease.done();
            }
            Unit::Block { image, pass, samples } => self.block(lease, image, pass, samples),
        }
    }

    fn images(&mut self, span: usize, images: Range<u64>) {
        let shape = self.queue.spans()[span];
        let each = len(shape.samples);
        let count = images.end - images.start;
        // A run was cut to the appetite, so several images are one step.
        if count > 1 && shape.contiguous {
            let first = ImageId { span, index: images.start };
            let load = Load::of(&shape, each * len(count));
            if self.read(load, first, 0, None).is_ok() {
                for (k, index) in images.enumerate() {
                    let place = k * each..(k + 1) * each;
                    let extent = self.look(load, place.clone());
                    self.finish(load, ImageId { span, index }, place, extent);
                }
                return;
            }
            // One of them cannot be read: each alone, so that only that one fails.
        }
        if self.cpu.is_large(&shape, &self.wanted) {
            for index in images {
                let image = ImageId { span, index };
                if let Err(error) = self.large(&shape, image) {
                    self.desk.fail(image, error);
                }
            }
            return;
        }
        let load = Load::of(&shape, each);
        for index in images {
            let image = ImageId { span, index };
            let mut extent = Extent::EMPTY;
            match self.read(load, image, 0, Some(&mut extent)) {
                Ok(()) => self.finish(load, image, 0..each, extent),
                Err(error) => self.desk.fail(image, error),
            }
        }
    }

    /// Makes the pixels of one loaded image and hands them over.
    fn finish(&mut self, load: Load, image: ImageId, place: Range<usize>, extent: Extent) {
        let range = match self.queue.known(image) {
            Some(range) => range,
            None if self.wanted.is_nothing() => {
                ValueRange::of(&self.rule, &extent.into(), load.wide)
            }
            None => self.range_of(load, place.clone(), extent),
        };
        let finding = Finding { extent, range };
        self.make(load, place.clone(), &finding);
        self.desk.put(image, &finding, bytemuck::cast_slice(&self.buffer[place]));
    }

    /// The range of loaded samples of that extent, where that is not enough to know.
    fn range_of(&mut self, load: Load, place: Range<usize>, extent: Extent) -> ValueRange {
        let (mut keys, wanted) = (std::mem::take(&mut self.keys), self.wanted.clone());
        let mut at_once = AtOnce::new(&wanted, load.wide, &mut keys);
        self.look_at_once(load, place, &mut at_once);
        let gathered = at_once.gathered(extent);
        self.keys = keys;
        ValueRange::of(&self.rule, &gathered.stats, load.wide)
    }

    /// Has loaded samples looked at.
    fn look_at_once(&mut self, load: Load, place: Range<usize>, at_once: &mut AtOnce<'_>) {
        if load.dtype == Dtype::F32 {
            at_once.look_f32(&self.buffer[place]);
        } else {
            let size = load.dtype.size();
            let raw = &bytemuck::cast_slice(&self.buffer)[load.raw(place)];
            for raw in raw.chunks(PIECE * size) {
                let count = raw.len() / size;
                if load.dtype.is_wide() {
                    decode::to_f64(load.dtype, raw, &mut self.wide[..count]);
                    at_once.look_f64(&self.wide[..count]);
                } else {
                    decode::to_f32(load.dtype, raw, &mut self.narrow[..count]);
                    at_once.look_f32(&self.narrow[..count]);
                }
            }
        }
    }

    /// Does a whole large image.
    fn large(&mut self, shape: &Span, image: ImageId) -> Result<(), Error> {
        let samples = 0..shape.samples;
        let finding = if let Some(range) = self.queue.known(image) {
            let extent = self.look_and_hand_over(shape, image, samples, range)?;
            Finding { extent, range }
        } else {
            let finding = if self.wanted.is_nothing() {
                let extent = self.extent_of(shape, image, samples.clone())?;
                Finding::of(&self.rule, extent, shape.wide)
            } else {
                self.finding_by_passes(shape, image)?
            };
            self.hand_over(shape, image, samples, &finding)?;
            finding
        };
        self.desk.finish_blocks(image, &finding);
        Ok(())
    }

    /// What is found in an image of which nothing is kept, and which is read as often as it takes.
    fn finding_by_passes(&mut self, shape: &Span, image: ImageId) -> Result<Finding, Error> {
        let mut gatherer = Gatherer::new(self.wanted.clone(), shape.wide);
        loop {
            for (first, load) in steps(shape, 0..shape.samples) {
                self.read(load, image, first, None)?;
                self.gather(load, &mut gatherer);
            }
            if !gatherer.next() {
                break;
            }
        }
        let stats = gatherer.gathered().stats;
        let range = ValueRange::of(&self.rule, &stats, shape.wide);
        Ok(Finding { extent: stats.extent, range })
    }

    /// Has all loaded samples looked at.
    fn gather(&mut self, load: Load, gatherer: &mut Gatherer) {
        if load.dtype == Dtype::F32 {
            return gatherer.look_f32(&self.buffer[..load.count]);
        }
        let size = load.dtype.size();
        let raw = &bytemuck::cast_slice(&self.buffer)[load.raw(0..load.count)];
        for raw in raw.chunks(PIECE * size) {
            let count = raw.len() / size;
            if load.dtype.is_wide() {
                decode::to_f64(load.dtype, raw, &mut self.wide[..count]);
                gatherer.look_f64(&self.wide[..count]);
            } else {
                decode::to_f32(load.dtype, raw, &mut self.narrow[..count]);
                gatherer.look_f32(&self.narrow[..count]);
            }
        }
    }

    fn block(&mut self, lease: Lease<'_>, image: ImageId, pass: Pass, samples: Range<u64>) {
        let shape = self.queue.spans()[image.span];
        let outcome = match pass {
            Pass::Extent => self.extent_of(&shape, image, samples),
            Pass::Normalize(finding) => {
                self.hand_over(&shape, image, samples, &finding).map(|()| Extent::EMPTY)
            }
            Pass::Known(range) => self.look_and_hand_over(&shape, image, samples, range),
        };
        match outcome {
            Ok(extent) => {
                if let Some(finding) = lease.done_block(extent) {
                    self.desk.finish_blocks(image, &finding);
                }
            }
            Err(error) => {
                if lease.fail_giant() {
                    self.desk.fail(image, error);
                }
            }
        }
    }

    /// The extent of some samples, of which none are kept.
    fn extent_of(
        &mut self,
        shape: &Span,
        image: ImageId,
        samples: Range<u64>,
    ) -> Result<Extent, Error> {
        let mut extent = Extent::EMPTY;
        for (first, load) in steps(shape, samples) {
            self.read(load, image, first, Some(&mut extent))?;
        }
        Ok(extent)
    }

    /// Makes the pixels of some samples and hands them over, step by step.
    fn hand_over(
        &mut self,
        shape: &Span,
        image: ImageId,
        samples: Range<u64>,
        finding: &Finding,
    ) -> Result<(), Error> {
        for (first, load) in steps(shape, samples) {
            self.read(load, image, first, None)?;
            self.make(load, 0..load.count, finding);
            let pixels = bytemuck::cast_slice(&self.buffer[..load.count]);
            self.desk.put_block(image, first, pixels);
        }
        Ok(())
    }

    /// The same by a range that was known before; answers with the samples' extent.
    fn look_and_hand_over(
        &mut self,
        shape: &Span,
        image: ImageId,
        samples: Range<u64>,
        range: ValueRange,
    ) -> Result<Extent, Error> {
        let mut all = Extent::EMPTY;
        for (first, load) in steps(shape, samples) {
            let mut extent = Extent::EMPTY;
            self.read(load, image, first, Some(&mut extent))?;
            self.make(load, 0..load.count, &Finding { extent, range });
            let pixels = bytemuck::cast_slice(&self.buffer[..load.count]);
            self.desk.put_block(image, first, pixels);
            all = all.merge(extent);
        }
        Ok(all)
    }

    /// Reads samples from number `first` of the image on. An `extent` grows by what is read.
    fn read(
        &mut self,
        load: Load,
        image: ImageId,
        first: u64,
        mut extent: Option<&mut Extent>,
    ) -> Result<(), Error> {
        let size = load.dtype.size();
        if self.buffer.len() < load.len() {
            // Not both at once; and fresh zeros come from the system untouched.
            self.buffer = Vec::new();
            self.buffer = vec![0.0; load.len()];
        }
        for start in (0..load.count).step_by(STEP / size) {
            let place = start..load.count.min(start + STEP / size);
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self.buffer);
            let offset = (first + start as u64) * size as u64;
            self.desk.read(image, offset, &mut bytes[load.raw(place.clone())])?;
            if let Some(extent) = &mut extent {
                **extent = extent.merge(self.look(load, place));
            }
        }
        Ok(())
    }

    /// The extent of loaded samples.
    fn look(&mut self, load: Load, place: Range<usize>) -> Extent {
        if load.dtype == Dtype::F32 {
            return extent::extent(&self.buffer[place]);
        }
        let raw = &bytemuck::cast_slice(&self.buffer)[load.raw(place)];
        if matches!(load.dtype, Dtype::F16 | Dtype::Bf16) {
            return extent::extent_of_halves(load.dtype, raw);
        }
        let size = load.dtype.size();
        raw.chunks(PIECE * size).fold(Extent::EMPTY, |extent, raw| {
            let count = raw.len() / size;
            extent.merge(if load.dtype.is_wide() {
                let samples = &mut self.wide[..count];
                decode::to_f64(load.dtype, raw, samples);
                extent::extent(samples)
            } else {
                let samples = &mut self.narrow[..count];
                decode::to_f32(load.dtype, raw, samples);
                extent::extent(samples)
            })
        })
    }

    /// Turns loaded samples into pixels at `place` of the buffer; those before it must be done.
    fn make(&mut self, load: Load, place: Range<usize>, finding: &Finding) {
        let how = How { rule: &self.rule, finding, wide: load.wide };
        if load.dtype == Dtype::F32 {
            return how.narrow(&mut self.buffer[place]);
        }
        for start in place.clone().step_by(PIECE) {
            let piece = start..place.end.min(start + PIECE);
            let raw = load.raw(piece.clone());
            // Raw samples behind the piece begin where its pixels end, or later, as the last of
            // both end together at most. Its own may begin sooner.
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self.buffer);
            let pixels_end = 4 * piece.end;
            let (pixels, raw) = if raw.start < pixels_end {
                let copy = &mut self.raw[..raw.len()];
                copy.copy_from_slice(&bytes[raw]);
                (&mut bytes[4 * piece.start..pixels_end], &*copy)
            } else {
                let (pixels, rest) = bytes.split_at_mut(pixels_end);
                let raw = raw.start - pixels_end..raw.end - pixels_end;
                (&mut pixels[4 * piece.start..], &rest[raw])
            };
            let pixels = bytemuck::cast_slice_mut(pixels);
            how.pixels_of(load.dtype, raw, pixels, &mut self.wide);
        }
    }
}

/// How samples become pixels.
struct How<'h> {
    rule: &'h Rule,
    finding: &'h Finding,
    /// Whether they are computed in f64.
    wide: bool,
}

impl How<'_> {
    /// Turns raw samples into pixels. The wide ones pass through `wide`.
    fn pixels_of(&self, dtype: Dtype, raw: &[u8], pixels: &mut [f32], wide: &mut [f64; PIECE]) {
        if self.halves(dtype, raw, pixels) {
            return;
        }
        for (pixels, raw) in pixels.chunks_mut(PIECE).zip(raw.chunks(PIECE * dtype.size())) {
            if dtype.is_wide() {
                let samples = &mut wide[..pixels.len()];
                decode::to_f64(dtype, raw, samples);
                map::wide(self.rule, &self.finding.range, samples, pixels);
            } else {
                decode::to_f32(dtype, raw, pixels);
                self.narrow(pixels);
            }
        }
    }

    /// Turns samples of a narrow type into pixels, in place.
    fn narrow(&self, pixels: &mut [f32]) {
        let Finding { extent, range } = self.finding;
        if self.wide {
            map::narrow_in_f64(self.rule, range, pixels);
        } else {
            map::narrow(self.rule, range, extent, pixels);
        }
    }

    /// F16 and BF16 in one go, where that can be; false elsewhere.
    #[allow(clippy::cast_possible_truncation, reason = "a narrow image's lo and hi came from f32")]
    fn halves(&self, dtype: Dtype, raw: &[u8], pixels: &mut [f32]) -> bool {
        match self.finding.range {
            ValueRange::Linear { lo, hi, clamp: false }
                if matches!(dtype, Dtype::F16 | Dtype::Bf16)
                    && !self.wide
                    && self.finding.extent.nonfinite() == 0
                    && (self.rule.gamma, self.rule.out) == (None, None) =>
            {
                normalize::normalize_halves(lo as f32, hi as f32, dtype, raw, pixels)
            }
            _ => false,
        }
    }
}

/// Samples in steps of at most [`STEP`] bytes as f32: each one's first sample, and its load.
fn steps(shape: &Span, samples: Range<u64>) -> impl Iterator<Item = (u64, Load)> {
    const SAMPLES: usize = STEP / 4;
    let shape = *shape;
    samples.clone().step_by(SAMPLES).map(move |first| {
        let count = len((samples.end - first).min(SAMPLES as u64));
        (first, Load::of(&shape, count))
    })
}

fn len(samples: u64) -> usize {
    usize::try_from(samples).expect("a block's samples fit memory, and the queue cuts to blocks")
}
