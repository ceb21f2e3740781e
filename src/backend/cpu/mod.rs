//! The CPU backend: every worker does one image at a time while it is hot in cache, so that no
//! pixel crosses a thread.
//!
//! Narrow samples are widened into the worker's pixel buffer as they are read, in steps that fit
//! the second-level cache, and their extent is taken from each step while it is there; they are
//! normalized in place. Wide samples stay as raw bytes until their range is known.
//!
//! Memory: a worker holds at most one block's pixels and, of wide types, its raw bytes.

pub mod extent;
pub mod fused;
pub mod normalize;
pub mod range;
pub mod softfloat;
pub mod triples;
pub mod widen;

use std::num::NonZeroUsize;
use std::ops::Range;
use std::thread;

use super::queue::{Appetite, Lease, Pass, Queue, Unit};
use super::{Backend, DeviceIndex, Finding, ImageId, Job, Span};
use crate::error::Error;
use crate::normalize::{Extent, Range as ValueRange};
use crate::tensor::{Dtype, decode};

/// Bytes read at once: the step that stays in cache between reading and the look at it.
const STEP: usize = 256 << 10;
/// Wide samples decoded at once, on the stack.
const WIDE_STEP: usize = 1024;

const APPETITE: Appetite =
    Appetite { samples: STEP as u64 / 4, least_samples: 1024, images: 4096, everything: true };

/// All cores of this machine, or as many as wished.
#[derive(Debug)]
pub struct Cpu {
    threads: usize,
}

impl Cpu {
    /// A backend of `threads` workers; as many as there are cores if `None`.
    #[must_use]
    pub fn new(threads: Option<NonZeroUsize>) -> Cpu {
        let cores = || thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Cpu { threads: threads.unwrap_or_else(cores).get() }
    }
}

impl Backend for Cpu {
    fn name(&self) -> &str {
        "cpu"
    }

    fn takes(&self, _dtype: Dtype) -> bool {
        true
    }

    fn pullers(&self) -> usize {
        self.threads
    }

    fn drain(&self, queue: &Queue, job: &dyn Job, by: DeviceIndex) -> Result<(), Error> {
        let work = || {
            let mut worker = Worker { queue, job, by, raw: Vec::new(), pixels: Vec::new() };
            while let Some(lease) = queue.take(&APPETITE) {
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
    queue: &'a Queue,
    job: &'a dyn Job,
    by: DeviceIndex,
    /// Raw bytes: a step of narrow samples, or everything of wide ones.
    raw: Vec<u8>,
    pixels: Vec<f32>,
}

impl Worker<'_> {
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
        let count = images.end - images.start;
        // A run was cut to the appetite, so several images are one step.
        if count > 1 && shape.contiguous {
            let first = ImageId { span, index: images.start };
            if self.load(&shape, first, 0..shape.samples * count, false).is_ok() {
                let each = len(shape.samples);
                for (k, index) in images.enumerate() {
                    self.finish(&shape, ImageId { span, index }, k * each..(k + 1) * each, None);
                }
                return;
            }
            // One of them cannot be read: each alone, so that only that one fails.
        }
        for index in images {
            let image = ImageId { span, index };
            match self.load(&shape, image, 0..shape.samples, true) {
                Ok(extent) => {
                    self.finish(&shape, image, 0..len(shape.samples), Some(extent));
                }
                Err(error) => self.job.fail(image, error),
            }
        }
    }

    /// Finds out about one loaded image, makes its pixels and hands them over.
    fn finish(
        &mut self,
        shape: &Span,
        image: ImageId,
        place: Range<usize>,
        extent: Option<Extent>,
    ) {
        let extent = extent.unwrap_or_else(|| self.look(shape, place.clone()));
        let finding = Finding::of(self.job.norm(), extent);
        self.make(shape, place.clone(), &finding);
        let pixels = bytemuck::cast_slice(&self.pixels[place]);
        self.job.put(self.by, image, &finding, pixels);
    }

    fn block(&mut self, lease: Lease<'_>, image: ImageId, pass: Pass, samples: Range<u64>) {
        let shape = self.queue.spans()[image.span];
        let extent = match self.load(&shape, image, samples.clone(), pass == Pass::Extent) {
            Ok(extent) => extent,
            Err(error) => {
                if lease.fail_giant() {
                    self.job.fail(image, error);
                }
                return;
            }
        };
        match pass {
            Pass::Extent => lease.done_extent(extent),
            Pass::Normalize(finding) => {
                let place = 0..len(samples.end - samples.start);
                self.make(&shape, place.clone(), &finding);
                let pixels = bytemuck::cast_slice(&self.pixels[place]);
                self.job.put_block(self.by, image, samples.start, pixels);
                if let Some(finding) = lease.done_block() {
                    self.job.finish_blocks(self.by, image, &finding);
                }
            }
        }
    }

    /// Reads samples to the start of the buffers: narrow ones widened into `pixels`, wide ones as
    /// they are into `raw`. If they are to be looked at, the extent is that of everything read.
    fn load(
        &mut self,
        shape: &Span,
        image: ImageId,
        samples: Range<u64>,
        look: bool,
    ) -> Result<Extent, Error> {
        let size = shape.dtype.size();
        let count = len(samples.end - samples.start);
        let offset = samples.start * size as u64;
        let wide = shape.dtype.is_wide();
        let raw_len = if wide { count * size } else { STEP.min(count * size) };
        grow(&mut self.raw, if shape.dtype == Dtype::F32 { 0 } else { raw_len });
        grow(&mut self.pixels, count);
        let mut extent = Extent::EMPTY;
        let step = STEP / size;
        for first in (0..count).step_by(step) {
            let place = first..count.min(first + step);
            let at = offset + (first * size) as u64;
            if shape.dtype == Dtype::F32 {
                let bytes = bytemuck::cast_slice_mut(&mut self.pixels[place.clone()]);
                self.job.read(image, at, bytes)?;
            } else {
                let start = if wide { first * size } else { 0 };
                let bytes = &mut self.raw[start..start + place.len() * size];
                self.job.read(image, at, bytes)?;
                if !wide {
                    decode::to_f32(shape.dtype, bytes, &mut self.pixels[place.clone()]);
                }
            }
            if look {
                extent = extent.merge(self.look(shape, place));
            }
        }
        Ok(extent)
    }

    /// The extent of loaded samples.
    fn look(&self, shape: &Span, place: Range<usize>) -> Extent {
        if !shape.dtype.is_wide() {
            return extent::extent(&self.pixels[place]);
        }
        let mut extent = Extent::EMPTY;
        each_wide(shape.dtype, &self.raw, place, |samples, _| {
            extent = extent.merge(extent::extent(samples));
        });
        extent
    }

    /// Turns loaded samples into pixels.
    #[allow(clippy::cast_possible_truncation, reason = "a narrow image's lo and hi came from f32")]
    fn make(&mut self, shape: &Span, place: Range<usize>, finding: &Finding) {
        let wide = shape.dtype.is_wide();
        match finding.range {
            ValueRange::Keep(_) if !wide => {}
            ValueRange::Keep(_) => {
                let pixels = &mut self.pixels;
                each_wide(shape.dtype, &self.raw, place, |samples, place| {
                    for (pixel, &x) in pixels[place].iter_mut().zip(samples) {
                        *pixel = decode::pixel_of_f64(x);
                    }
                });
            }
            ValueRange::MinMax { lo, hi } if !wide => {
                let samples = &mut self.pixels[place];
                normalize::normalize_f32(lo as f32, hi as f32, &finding.extent, samples);
            }
            ValueRange::MinMax { lo, hi } => {
                let pixels = &mut self.pixels;
                each_wide(shape.dtype, &self.raw, place, |samples, place| {
                    normalize::normalize_f64(lo, hi, samples, &mut pixels[place]);
                });
            }
        }
    }
}

/// Decodes the samples at `place` of `raw` piece by piece.
fn each_wide(
    dtype: Dtype,
    raw: &[u8],
    place: Range<usize>,
    mut visit: impl FnMut(&[f64], Range<usize>),
) {
    let mut samples = [0.0; WIDE_STEP];
    for first in place.clone().step_by(WIDE_STEP) {
        let piece = first..place.end.min(first + WIDE_STEP);
        let samples = &mut samples[..piece.len()];
        decode::to_f64(dtype, &raw[piece.start * dtype.size()..piece.end * dtype.size()], samples);
        visit(samples, piece);
    }
}

fn grow<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
}

fn len(samples: u64) -> usize {
    usize::try_from(samples).expect("a block's samples fit memory, and the queue cuts to blocks")
}
