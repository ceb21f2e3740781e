//! Whether another device made of samples what the CPU makes of them: by the CPU's own worker,
//! whose pixels are compared and not handed over.

use std::num::NonZeroUsize;
use std::ops::Range;

use super::{Cpu, Worker};
use crate::backend::queue::Queue;
use crate::backend::{Desk, Finding, ImageId};
use crate::error::Error;
use crate::normalize::Extent;

/// What differs in a whole image; `None` if nothing does, or if it cannot be read any more.
#[cfg_attr(
    not(feature = "gpu"),
    allow(dead_code, reason = "the CPU is not checked against itself")
)]
pub(in crate::backend) fn image(
    queue: &Queue,
    desk: &mut dyn Desk,
    image: ImageId,
    finding: &Finding,
    pixels: &[u8],
) -> Option<String> {
    let samples = 0..queue.spans()[image.span].samples;
    extent(queue, desk, image, samples, &finding.extent)
        .or_else(|| block(queue, desk, image, 0, finding, pixels))
}

/// What differs in the extent of some samples.
#[cfg_attr(
    not(feature = "gpu"),
    allow(dead_code, reason = "the CPU is not checked against itself")
)]
pub(in crate::backend) fn extent(
    queue: &Queue,
    desk: &mut dyn Desk,
    image: ImageId,
    samples: Range<u64>,
    found: &Extent,
) -> Option<String> {
    let shape = queue.spans()[image.span];
    let mut differs = None;
    let own = compare(queue, desk, 0, &[], &mut differs, |worker| {
        worker.extent_of(&shape, image, samples)
    });
    let own = own.ok()?;
    let range = |extent: &Extent| format!("{:?} to {:?}", extent.min, extent.max);
    (own != *found).then(|| match (range(found), range(&own)) {
        (found, own) if found == own => "counted other samples than the CPU".to_owned(),
        (found, own) => format!("found a range of {found}, and the CPU finds {own}"),
    })
}

/// What differs in the pixels from sample `first` on of an image of which `finding` is known.
#[cfg_attr(
    not(feature = "gpu"),
    allow(dead_code, reason = "the CPU is not checked against itself")
)]
pub(in crate::backend) fn block(
    queue: &Queue,
    desk: &mut dyn Desk,
    image: ImageId,
    first: u64,
    finding: &Finding,
    pixels: &[u8],
) -> Option<String> {
    let shape = queue.spans()[image.span];
    let samples = first..first + pixels.len() as u64 / 4;
    let mut differs = None;
    let made = compare(queue, desk, first, pixels, &mut differs, |worker| {
        worker.hand_over(&shape, image, samples, finding)
    });
    made.ok().and(differs)
}

/// Has the CPU's worker do something that ends in pixels that ought to be `pixels`.
fn compare<T>(
    queue: &Queue,
    desk: &mut dyn Desk,
    first: u64,
    pixels: &[u8],
    differs: &mut Option<String>,
    work: impl FnOnce(&mut Worker<'_>) -> T,
) -> T {
    let cpu = Cpu::new(Some(NonZeroUsize::MIN));
    let desk = Box::new(Comparing { inner: desk, first, pixels, differs });
    work(&mut Worker::at(&cpu, queue, desk))
}

/// A desk that reads from another one, and compares.
struct Comparing<'a> {
    inner: &'a mut dyn Desk,
    /// The pixels that there should be, from this sample on.
    first: u64,
    pixels: &'a [u8],
    differs: &'a mut Option<String>,
}

impl Desk for Comparing<'_> {
    fn read(&mut self, image: ImageId, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        self.inner.read(image, offset, buf)
    }

    fn put(&mut self, _: ImageId, _: &Finding, _: &[u8]) {}

    fn put_block(&mut self, _: ImageId, first: u64, pixels: &[u8]) {
        let at = usize::try_from(4 * (first - self.first)).expect("it is within the pixels");
        let [was, own] = [&self.pixels[at..at + pixels.len()], pixels].map(<[u8]>::as_chunks::<4>);
        let pairs = was.0.iter().zip(own.0);
        if let (Some((at, (was, own))), None) =
            ((first..).zip(pairs).find(|(_, (was, own))| was != own), &self.differs)
        {
            let [was, own] = [was, own].map(|bytes| f32::from_le_bytes(*bytes));
            *self.differs = Some(format!("made {was:e} of sample {at}, and the CPU makes {own:e}"));
        }
    }

    fn finish_blocks(&mut self, _: ImageId, _: &Finding) {}

    fn fail(&mut self, _: ImageId, _: Error) {}
}
