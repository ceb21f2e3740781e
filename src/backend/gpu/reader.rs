//! Filling a slot: units from the queue, their bytes into mapped staging.
//!
//! Bytes are read into a buffer that stays in cache and copied from there into the mapping, which
//! is write-only (it may be write-combined memory) and is filled in order.

use std::ops::Range;

use super::batch::{Batch, MOST_IMAGES, Role};
use super::device::one_line;
use super::layout::dtype_code;
use super::ring::{Filled, Ring};
use super::slot::Slot;
use super::tuning::Shape;
use crate::backend::cpu::range::DeviceRange;
use crate::backend::queue::{Appetite, Lease, Member, Pass, Queue, Unit};
use crate::backend::{Desk, DeviceIndex, ImageId, Job, Span, wait_at};
use crate::error::Error;
use crate::normalize::Rule;

/// Bytes read at once: they are still in the second-level cache when they are copied.
const CHUNK: usize = 512 << 10;
/// Fewest samples worth a unit: 1 MiB of pixels.
const LEAST: u64 = 256 << 10;

/// What becomes of an image of a batch.
#[derive(Debug, Clone)]
pub(super) struct Task {
    pub(super) image: ImageId,
    /// Where its pixels are.
    pub(super) pixels: Range<usize>,
    /// Which image of the batch it is.
    pub(super) index: usize,
    /// Whether its extent is found, and not known.
    pub(super) looked: bool,
    /// Whether it is whole.
    pub(super) whole: bool,
}

/// A lease of the batch, and of a block the task that it stands for.
#[derive(Debug)]
pub(super) struct Held<'q> {
    pub(super) lease: Lease<'q>,
    pub(super) task: Option<usize>,
}

/// What bounds and shapes a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Most samples of a batch: what this drain's slots were made for. Slots of an earlier drain
    /// may hold more, but of narrower types.
    pub(super) samples: u64,
    pub(super) shape: Shape,
}

/// One thread that fills slots.
pub(super) struct Reader<'r, 'q> {
    ring: &'r Ring<'q>,
    queue: &'q Queue,
    member: &'r Member<'q>,
    desk: Box<dyn Desk + 'r>,
    rule: Rule,
    limits: Limits,
    chunk: Vec<u8>,
    /// A unit that did not fit the batch for which it was taken.
    pending: Option<Lease<'q>>,
}

/// The batch that a reader is filling.
struct Filling<'q> {
    batch: Batch,
    tasks: Vec<Task>,
    held: Vec<Held<'q>>,
    view: wgpu::BufferViewMut,
    raw_at: usize,
}

impl<'r, 'q> Reader<'r, 'q> {
    pub(super) fn new(
        ring: &'r Ring<'q>,
        queue: &'q Queue,
        member: &'r Member<'q>,
        job: &'r dyn Job,
        by: DeviceIndex,
        limits: Limits,
    ) -> Reader<'r, 'q> {
        let (desk, rule) = (job.desk(by), *queue.rule());
        Reader { ring, queue, member, desk, rule, limits, chunk: vec![0; CHUNK], pending: None }
    }

    /// Fills slots until there is nothing left to read.
    pub(super) fn run(mut self) -> Result<(), String> {
        let ring = self.ring;
        while let Some(slot) = wait_at(&mut *self.desk, || ring.free_slot()) {
            let appetite = self.appetite(self.limits.samples, u64::from(MOST_IMAGES));
            let member = self.member;
            let pending = self.pending.take().map(|lease| (lease, member.allowance(&appetite)));
            let taken = match pending.or_else(|| member.try_take(&appetite)) {
                // Others', or this backend's own batches under way, may yet bring some.
                None => wait_at(&mut *self.desk, || ring.idle(|| member.take(&appetite))),
                taken => taken,
            };
            let Some((first, more)) = taken else {
                self.ring.give_back(slot);
                return Ok(());
            };
            if self.ring.has_ended() {
                return Ok(());
            }
            self.fill(slot, first, more)?;
        }
        Ok(())
    }

    fn appetite(&self, samples: u64, images: u64) -> Appetite {
        Appetite { samples, least_samples: LEAST.min(samples), images, everything: false }
    }

    /// Fills a batch that begins with `first`, with `more` samples on top at most.
    fn fill(&mut self, slot: Slot, first: Lease<'q>, mut more: u64) -> Result<(), String> {
        let dtype = self.shape(first.unit()).dtype;
        if dtype_code(dtype).is_none() {
            return Err(format!("was handed {dtype}, which it does not take"));
        }
        let view = slot.staging.slice(..).get_mapped_range_mut();
        let view = view.map_err(|error| one_line(&error.to_string()))?;
        let raw_at = usize::try_from(slot.raw_at()).expect("a mapped buffer fits memory");
        let batch = Batch::shaped(self.rule, dtype, self.limits.shape);
        let mut filling = Filling { batch, tasks: Vec::new(), held: Vec::new(), view, raw_at };
        let [mut samples, mut images] = [self.limits.samples, u64::from(MOST_IMAGES)];
        let mut next = Some(first);
        while let Some(lease) = next {
            let [unit_samples, unit_images] = self.size(lease.unit());
            let fits = unit_samples <= samples && unit_images <= images;
            if !fits && filling.held.is_empty() && filling.batch.raw() == 0 {
                // Only an error in the sizes leads here; trying again would never end.
                return Err(format!("a unit of {unit_samples} samples does not fit a slot"));
            }
            if !fits || self.shape(lease.unit()).dtype != dtype {
                self.pending = Some(lease);
                break;
            }
            samples -= unit_samples;
            images -= unit_images;
            self.unit(&mut filling, lease);
            next = match (samples.min(more), images) {
                (0, _) | (_, 0) => None,
                (samples, _) => self.member.more(&self.appetite(samples, images)),
            };
            if let Some(lease) = &next {
                more = more.saturating_sub(self.size(lease.unit())[0]);
            }
        }
        self.send(slot, filling);
        Ok(())
    }

    fn shape(&self, unit: &Unit) -> Span {
        match unit {
            Unit::Images { span, .. } => self.queue.spans()[*span],
            Unit::Block { image, .. } => self.queue.spans()[image.span],
        }
    }

    /// Samples and images of a unit.
    fn size(&self, unit: &Unit) -> [u64; 2] {
        match unit {
            Unit::Images { images, .. } => {
                let count = images.end - images.start;
                [self.shape(unit).samples.saturating_mul(count), count]
            }
            Unit::Block { samples, .. } => [samples.end - samples.start, 1],
        }
    }

    fn unit(&mut self, filling: &mut Filling<'q>, mut lease: Lease<'q>) {
        let shape = self.shape(lease.unit());
        match lease.unit().clone() {
            Unit::Images { span, images } => {
                self.images(filling, &shape, &mut lease, span, images);
                filling.held.push(Held { lease, task: None });
            }
            Unit::Block { image, pass, samples } => {
                self.block(filling, &shape, lease, image, pass, samples);
            }
        }
    }

    fn images(
        &mut self,
        filling: &mut Filling<'q>,
        shape: &Span,
        lease: &mut Lease<'q>,
        span: usize,
        images: Range<u64>,
    ) {
        let id = |index| ImageId { span, index };
        let bytes = len(shape.samples) * shape.dtype.size();
        let queue = self.queue;
        let whole = |filling: &mut Filling<'q>, index, at| {
            let known = queue.known(id(index)).map(DeviceRange::from);
            filling.add(known.map_or(Role::Whole, Role::Known), id(index), at, shape.samples, true);
        };
        if shape.contiguous {
            let count = len(images.end - images.start);
            let at = filling.batch.reserve(count * bytes);
            if self.read(filling, at, id(images.start), 0, bytes, count * bytes).is_ok() {
                for (k, index) in images.enumerate() {
                    whole(filling, index, at + k * bytes);
                }
                return;
            }
            // One of them cannot be read: each alone, at the place that it has already.
            for (k, index) in images.enumerate() {
                match self.read(filling, at + k * bytes, id(index), 0, bytes, bytes) {
                    Ok(()) => whole(filling, index, at + k * bytes),
                    Err(error) => self.fail(lease, id(index), error),
                }
            }
            return;
        }
        for index in images {
            let at = filling.batch.reserve(bytes);
            match self.read(filling, at, id(index), 0, bytes, bytes) {
                Ok(()) => whole(filling, index, at),
                Err(error) => self.fail(lease, id(index), error),
            }
        }
    }

    /// The rest of its run may be done again, if the device fails.
    fn fail(&mut self, lease: &mut Lease<'q>, image: ImageId, error: Error) {
        self.desk.fail(image, error);
        lease.failed(image.index);
    }

    fn block(
        &mut self,
        filling: &mut Filling<'q>,
        shape: &Span,
        lease: Lease<'q>,
        image: ImageId,
        pass: Pass,
        samples: Range<u64>,
    ) {
        let size = shape.dtype.size();
        let count = samples.end - samples.start;
        let bytes = len(count) * size;
        let at = filling.batch.reserve(bytes);
        let offset = samples.start * size as u64;
        if let Err(error) = self.read(filling, at, image, offset, usize::MAX, bytes) {
            if lease.fail_giant() {
                self.desk.fail(image, error);
            }
            return;
        }
        let role = match pass {
            Pass::Extent => Role::Extent,
            Pass::Normalize(finding) => Role::Normalize(DeviceRange::from(finding.range)),
            Pass::Known(range) => Role::Known(DeviceRange::from(range)),
        };
        filling.add(role, image, at, count, false);
        filling.held.push(Held { lease, task: Some(filling.tasks.len() - 1) });
    }

    /// Reads `total` bytes from byte `offset` of `first` on to place `at` of the raw samples; images
    /// of `each` bytes follow one another.
    fn read(
        &mut self,
        filling: &mut Filling<'q>,
        at: usize,
        first: ImageId,
        offset: u64,
        each: usize,
        total: usize,
    ) -> Result<(), Error> {
        for done in (0..total).step_by(CHUNK) {
            let chunk = &mut self.chunk[..CHUNK.min(total - done)];
            let index = first.index + (done / each) as u64;
            let image = ImageId { index, ..first };
            self.desk.read(image, offset + (done % each) as u64, chunk)?;
            let place = filling.raw_at + at + done;
            filling.view.slice(place..place + chunk.len()).copy_from_slice(chunk);
        }
        Ok(())
    }

    /// Writes the orders and hands the slot over.
    fn send(&mut self, slot: Slot, mut filling: Filling<'q>) {
        if filling.batch.images().is_empty() {
            // Nothing could be read, and every image has failed.
            filling.held.into_iter().for_each(|held| held.lease.done());
            drop(filling.view);
            self.ring.give_back(slot);
            return;
        }
        let mut at = 0;
        for (_, bytes) in filling.batch.orders() {
            filling.view.slice(at..at + bytes.len()).copy_from_slice(&bytes);
            at += bytes.len();
        }
        let Filling { batch, tasks, held, view, .. } = filling;
        drop(view);
        self.ring.send(Filled { slot, batch, tasks, held });
    }
}

impl Filling<'_> {
    fn add(&mut self, role: Role, image: ImageId, at: usize, samples: u64, whole: bool) {
        let index = self.batch.images().len();
        let pixels = self.batch.push(role, at, samples);
        let looked = !matches!(role, Role::Normalize(_));
        self.tasks.push(Task { image, pixels, index, looked, whole });
    }
}

fn len(samples: u64) -> usize {
    usize::try_from(samples).expect("a unit fits a slot, and a slot fits memory")
}
