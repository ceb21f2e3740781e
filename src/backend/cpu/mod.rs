//! The CPU backend: every worker does one image at a time while it is hot in cache, so that no
//! pixel crosses a thread.
//!
//! f32 samples are read into the worker's pixel buffer in steps that fit the second-level cache;
//! their extent is taken from each step while it is there, and they are normalized in place.
//! Samples of other types stay as raw bytes until their range is known: they are decoded twice,
//! each time in pieces that stay in the first-level cache.
//!
//! Memory: a worker holds at most one block's pixels and, of types other than f32, its raw bytes.

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
use super::{Backend, Desk, DeviceIndex, Finding, ImageId, Job, Span, wait_at};
use crate::error::Error;
use crate::normalize::{Extent, Norm, Range as ValueRange};
use crate::tensor::{Dtype, decode};

/// Bytes read at once: the step that stays in cache between reading and the look at it.
const STEP: usize = 256 << 10;
/// Samples decoded at once: 16 KiB of f32, 32 KiB of f64.
const PIECE: usize = 4096;

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
            let mut worker = Worker::new(queue, job, by);
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
    queue: &'a Queue,
    desk: Box<dyn Desk + 'a>,
    norm: Norm,
    /// Raw bytes of types other than f32.
    raw: Vec<u8>,
    pixels: Vec<f32>,
    /// A piece decoded on its way.
    narrow: Box<[f32; PIECE]>,
    wide: Box<[f64; PIECE]>,
}

impl<'a> Worker<'a> {
    fn new(queue: &'a Queue, job: &'a dyn Job, by: DeviceIndex) -> Worker<'a> {
        Worker {
            queue,
            desk: job.desk(by),
            norm: job.norm(),
            raw: Vec::new(),
            pixels: Vec::new(),
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
                Err(error) => self.desk.fail(image, error),
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
        let finding = Finding::of(self.norm, extent);
        self.make(shape, place.clone(), &finding);
        let pixels = bytemuck::cast_slice(&self.pixels[place]);
        self.desk.put(image, &finding, pixels);
    }

    fn block(&mut self, lease: Lease<'_>, image: ImageId, pass: Pass, samples: Range<u64>) {
        let shape = self.queue.spans()[image.span];
        let extent = match self.load(&shape, image, samples.clone(), pass == Pass::Extent) {
            Ok(extent) => extent,
            Err(error) => {
                if lease.fail_giant() {
                    self.desk.fail(image, error);
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
                self.desk.put_block(image, samples.start, pixels);
                if let Some(finding) = lease.done_block() {
                    self.desk.finish_blocks(image, &finding);
                }
            }
        }
    }

    /// Reads samples to the start of the buffers: f32 into `pixels`, others as they are into `raw`.
    /// If they are to be looked at, the extent is that of everything read.
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
        grow(&mut self.pixels, count);
        if shape.dtype != Dtype::F32 {
            grow(&mut self.raw, count * size);
        }
        let mut extent = Extent::EMPTY;
        let step = STEP / size;
        for first in (0..count).step_by(step) {
            let place = first..count.min(first + step);
            let bytes = if shape.dtype == Dtype::F32 {
                bytemuck::cast_slice_mut(&mut self.pixels[place.clone()])
            } else {
                &mut self.raw[place.start * size..place.end * size]
            };
            self.desk.read(image, offset + (first * size) as u64, bytes)?;
            if look {
                extent = extent.merge(self.look(shape, place));
            }
        }
        Ok(extent)
    }

    /// The extent of loaded samples.
    fn look(&mut self, shape: &Span, place: Range<usize>) -> Extent {
        let dtype = shape.dtype;
        if dtype == Dtype::F32 {
            return extent::extent(&self.pixels[place]);
        }
        let raw = &self.raw[place.start * dtype.size()..place.end * dtype.size()];
        raw.chunks(PIECE * dtype.size()).fold(Extent::EMPTY, |extent, raw| {
            let count = raw.len() / dtype.size();
            extent.merge(if dtype.is_wide() {
                let samples = &mut self.wide[..count];
                decode::to_f64(dtype, raw, samples);
                extent::extent(samples)
            } else {
                let samples = &mut self.narrow[..count];
                decode::to_f32(dtype, raw, samples);
                extent::extent(samples)
            })
        })
    }

    /// Turns loaded samples into pixels.
    fn make(&mut self, shape: &Span, place: Range<usize>, finding: &Finding) {
        let dtype = shape.dtype;
        let raw = place.start * dtype.size()..place.end * dtype.size();
        let pixels = &mut self.pixels[place];
        if dtype == Dtype::F32 {
            return make_narrow(finding, pixels);
        }
        let pieces = pixels.chunks_mut(PIECE).zip(self.raw[raw].chunks(PIECE * dtype.size()));
        for (pixels, raw) in pieces {
            if dtype.is_wide() {
                let samples = &mut self.wide[..pixels.len()];
                decode::to_f64(dtype, raw, samples);
                make_wide(finding, samples, pixels);
            } else {
                decode::to_f32(dtype, raw, pixels);
                make_narrow(finding, pixels);
            }
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "a narrow image's lo and hi came from f32")]
fn make_narrow(finding: &Finding, pixels: &mut [f32]) {
    match finding.range {
        ValueRange::Keep(_) => {}
        ValueRange::MinMax { lo, hi } => {
            normalize::normalize_f32(lo as f32, hi as f32, &finding.extent, pixels);
        }
    }
}

fn make_wide(finding: &Finding, samples: &[f64], pixels: &mut [f32]) {
    match finding.range {
        ValueRange::Keep(_) => {
            for (pixel, &x) in pixels.iter_mut().zip(samples) {
                *pixel = decode::pixel_of_f64(x);
            }
        }
        ValueRange::MinMax { lo, hi } => normalize::normalize_f64(lo, hi, samples, pixels),
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
