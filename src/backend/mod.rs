//! The stage that works: devices that drain one [`Queue`] of units.
//!
//! A backend knows nothing of files, names or TIFF. It takes units from the queue, asks the
//! [`Job`] for their bytes, finds extents, makes pixels and hands them back to the job. All
//! backends make the same bytes, so it does not matter who does an image, and a unit that one
//! gives up another may do.

pub mod choose;
pub mod cpu;
pub mod done;
mod giant;
#[cfg(feature = "gpu")]
pub mod gpu;
mod order;
pub mod queue;

use crate::error::Error;
use crate::normalize::{Extent, Range as ValueRange, Rule, Stats};
use crate::tensor::Dtype;
use queue::Queue;

/// A row of images of one size and dtype: what one tensor gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Element type of the samples.
    pub dtype: Dtype,
    /// Samples per image, at least 1.
    pub samples: u64,
    /// Number of images, at least 1.
    pub images: u64,
    /// Whether image k + 1's bytes follow image k's, so that one read may cover several.
    pub contiguous: bool,
    /// Whether the images are computed in f64: their type asks for it, or another's with which they
    /// share a range.
    pub wide: bool,
    /// Whether ranges are known before their images are made.
    pub known: bool,
    /// Where images are packed, how they are cut.
    pub strips: Option<Strips>,
}

/// How images are cut that are packed, strip by strip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strips {
    /// Samples of a strip, but for an image's last: blocks are made of whole strips.
    pub samples: u64,
    /// Whether an image's first strip tells how the others are packed: none is handed out before that is
    /// done.
    pub first_tells: bool,
}

/// One image of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageId {
    /// Index of the span.
    pub span: usize,
    /// Index within the span.
    pub index: u64,
}

/// What is known of an image when its pixels are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Finding {
    /// What a pass over the whole image found.
    pub extent: Extent,
    /// What was done to its samples.
    pub range: ValueRange,
}

impl Finding {
    /// The finding of an image that has a range of its own, for which its extent is enough.
    #[must_use]
    pub fn of(rule: &Rule, extent: Extent, wide: bool) -> Finding {
        Finding { extent, range: ValueRange::of(rule, &Stats::from(extent), wide) }
    }
}

/// Which of the run's devices is speaking: an index into the report's list.
pub type DeviceIndex = usize;

/// The run, as a backend sees it.
pub trait Job: Sync {
    /// A desk for one thread of device `by`.
    fn desk(&self, by: DeviceIndex) -> Box<dyn Desk + '_>;
}

/// Where one thread of a backend deals with the run: bytes come from it and finished pixels go to
/// it. It keeps what can be reused from image to image, and its share of the account until it is
/// dropped, so that threads do not meet at every image.
///
/// Results are handed over, not returned: what becomes of a failed write is the run's affair. A
/// failed read is reported with [`fail`](Desk::fail), after which the image is done with.
pub trait Desk {
    /// Fills `buf` from byte `offset` of the image on. In a contiguous span the read may run on
    /// into the images that follow.
    ///
    /// # Errors
    /// Whatever the source says. Where the read covered several images, the caller should try
    /// each alone, so that only those that cannot be read fail.
    fn read(&mut self, image: ImageId, offset: u64, buf: &mut [u8]) -> Result<(), Error>;

    /// Takes a whole image: its little-endian f32 pixels.
    fn put(&mut self, image: ImageId, finding: &Finding, pixels: &[u8]);

    /// Takes the pixels of one block, which begins at sample `first` of the image.
    fn put_block(&mut self, image: ImageId, first: u64, pixels: &[u8]);

    /// Says that every block of the image was handed over.
    fn finish_blocks(&mut self, image: ImageId, finding: &Finding);

    /// Says that the image cannot be made.
    fn fail(&mut self, image: ImageId, error: Error);

    /// Whether what the device made of the image, from sample `first` on, is to be compared with
    /// what the CPU makes of it.
    fn is_sampled(&mut self, image: ImageId, first: u64) -> bool {
        let _ = (image, first);
        false
    }

    /// Says that the device had a part in the image's extent.
    fn looked(&mut self, image: ImageId) {
        let _ = image;
    }

    /// Says that the device made something else than the CPU. Nothing is believed that it did, nor
    /// what it may yet hand over.
    fn distrust(&mut self) {}

    /// Says that this thread begins to wait, or that it is at work again. The desk knows itself
    /// when it reads and writes.
    fn waiting(&mut self, begins: bool) {
        let _ = begins;
    }
}

/// Calls `wait` as time that `desk` spends waiting.
pub fn wait_at<T>(desk: &mut dyn Desk, wait: impl FnOnce() -> T) -> T {
    desk.waiting(true);
    let outcome = wait();
    desk.waiting(false);
    outcome
}

/// What is asked of samples before any of their pixels is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question<'q> {
    /// Their type: one that is computed in f32.
    pub dtype: Dtype,
    /// Whether sums of them are wanted.
    pub sums: bool,
    /// How many upper bits of a sample's key are settled: 0 or 16 of 32. Keys are numbers that have the
    /// order of the finite floats.
    pub settled: u32,
    /// What those bits may be; the next 16 bits are counted of each such key. Where none are settled, one
    /// that is 0.
    pub prefixes: &'q [u64],
}

/// The answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Of all samples.
    pub extent: Extent,
    /// Number of samples that are 0.
    pub zeros: u64,
    /// Of the finite samples of each exponent, from 0 to 255, the sums of their mantissas, which are whole
    /// numbers, and of the squares of these.
    pub sums: Vec<(i64, u128)>,
    /// How many keys have which 16 bits next: 65,536 numbers for each prefix.
    pub bins: Vec<u32>,
}

/// A device that can drain a queue.
pub trait Backend: Sync {
    /// The device's name, as reports show it.
    fn name(&self) -> &str;

    /// Whether it makes images of a span by a rule.
    fn takes(&self, span: &Span, rule: &Rule) -> bool;

    /// How many pullers it sends to the queue.
    fn pullers(&self) -> usize;

    /// Bytes of this process's memory that its buffers take at most, for units of these spans with
    /// at most `block` samples.
    fn memory(&self, spans: &[Span], block: u64) -> u64 {
        let _ = (spans, block);
        0
    }

    /// A new one in the place of this, which failed; `None` if there can be none.
    ///
    /// # Errors
    /// [`Error::Gpu`] if it cannot be opened, or fails its proof.
    fn again(&self) -> Option<Result<Box<dyn Backend>, Error>> {
        None
    }

    /// Whether it answers a question.
    fn answers(&self, question: &Question<'_>) -> bool {
        let _ = question;
        false
    }

    /// Looks at little-endian samples, at most 2^20. Never while it drains.
    ///
    /// # Errors
    /// [`Error::Gpu`] if the device failed, or does not answer such questions.
    fn look(&self, question: &Question<'_>, raw: &[u8]) -> Result<Answer, Error> {
        let _ = (question, raw);
        let problem = "does not look at samples before their pixels are made".to_owned();
        Err(Error::Gpu { device: self.name().to_owned(), problem })
    }

    /// Says that it answered something else than the CPU: it is not to be used any more.
    fn distrust(&self, problem: &str) {
        let _ = problem;
    }

    /// Does units until there are none left or the queue is stopped.
    ///
    /// # Errors
    /// [`Error::Gpu`] if the device failed. The units that it held are back in the queue.
    fn drain(&self, queue: &Queue, job: &dyn Job, by: DeviceIndex) -> Result<(), Error>;
}
