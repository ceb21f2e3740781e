//! What devices made that is compared with the CPU, and what becomes of the images of one that is
//! found to compute wrongly: nothing of it is believed, the journal forgets it, and when all else is
//! done the CPU makes it again.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::desk::Tally;
use super::run::Run;
use crate::backend::cpu::Cpu;
use crate::backend::done::Done;
use crate::backend::queue::Queue;
use crate::backend::{Backend as _, DeviceIndex, ImageId};
use crate::error::Error;
use crate::record::entry::{Doing, Entry, Failure};

/// Of how many images (or blocks of one) that a GPU makes one is made by the CPU as well and
/// compared, before it gets its name; the first of each thread always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifySample(u64);

impl VerifySample {
    /// No image is.
    pub const NONE: VerifySample = VerifySample(0);
    /// Every image is.
    pub const ALL: VerifySample = VerifySample(1);

    /// One of `count` is; none if that is 0.
    #[must_use]
    pub const fn one_of(count: u64) -> VerifySample {
        VerifySample(count)
    }

    /// Whether any is.
    #[must_use]
    pub fn is_any(self) -> bool {
        self.0 > 0
    }

    /// Whether that one is: the same ones in every run.
    pub(super) fn takes(self, image: u64, first: u64) -> bool {
        self.is_any() && mix(image ^ mix(first)).is_multiple_of(self.0)
    }
}

impl Default for VerifySample {
    /// One of 256: that costs a core less than a hundredth of what the same images cost without a
    /// GPU, and a device that is wrong now and then is found within some batches.
    fn default() -> VerifySample {
        VerifySample(256)
    }
}

/// splitmix64's finalizer, so that no pattern of sizes or channels is met.
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// What a run must know to take back what a device did.
#[derive(Default)]
pub(super) struct Doubt {
    /// What each device that is compared has done so far.
    parts: HashMap<DeviceIndex, Part>,
    /// Devices that are not believed.
    distrusted: HashSet<DeviceIndex>,
    /// Images that come in blocks and in which such a device had a part: no block of them is of use.
    spoiled: HashSet<ImageId>,
    /// Images that came in blocks, and that others finished: they are counted.
    counted: HashSet<ImageId>,
    /// Numbers of the images to be made again.
    again: Vec<Range<u64>>,
}

/// One device's.
#[derive(Default)]
struct Part {
    images: Vec<Range<u64>>,
    tally: Tally,
}

impl Run<'_> {
    /// Whether device `by` is not believed.
    pub(super) fn is_distrusted(&self, by: DeviceIndex) -> bool {
        self.has_doubts() && self.lock().doubt.distrusted.contains(&by)
    }

    /// Believes device `by` no more.
    pub(super) fn distrust(&self, by: DeviceIndex) {
        self.lock().doubt.distrusted.insert(by);
        self.begin_to_doubt();
    }

    /// Adds to what device `by`, which is compared, has done.
    pub(super) fn add_part(&self, by: DeviceIndex, images: &[Range<u64>], tally: &Tally) {
        let part = &mut self.lock().doubt;
        let part = part.parts.entry(by).or_default();
        part.images.extend_from_slice(images);
        part.tally += tally;
    }

    /// No block of the image is of use any more.
    pub(super) fn spoil(&self, image: ImageId) {
        self.lock().doubt.spoiled.insert(image);
    }

    /// Whether that was said of it.
    pub(super) fn is_spoiled(&self, image: ImageId) -> bool {
        self.has_doubts() && self.lock().doubt.spoiled.contains(&image)
    }

    /// Notes that the image, which came in blocks, is finished and counted.
    pub(super) fn count_giant(&self, image: ImageId) {
        self.lock().doubt.counted.insert(image);
    }

    /// Whether it was counted before it was made again.
    pub(super) fn was_counted(&self, image: ImageId) -> bool {
        self.has_doubts() && self.lock().doubt.counted.contains(&image)
    }

    /// Takes back what device `by` did, all of whose threads have ended, if it is not believed.
    /// Answers with the number of its images.
    pub(super) fn take_back(&self, by: DeviceIndex) -> Result<u64, Error> {
        let images = {
            let mut state = self.lock();
            if !state.doubt.distrusted.remove(&by) {
                return Ok(0);
            }
            let part = state.doubt.parts.remove(&by).unwrap_or_default();
            let Part { images, tally } = part;
            let images = merged(images);
            let report = &mut state.report;
            report.images -= tally.images;
            report.bytes_in -= tally.bytes_in;
            report.bytes_out -= tally.bytes_out;
            report.samples -= tally.samples;
            let device = &mut report.devices[by];
            device.images -= tally.images;
            device.bytes_in -= tally.worked;
            state.doubt.again.extend(images.iter().cloned());
            images
        };
        for image in images.iter().cloned().flatten() {
            let id = self.id(image);
            if self.is_giant(id.span) {
                self.spoil(id);
            }
            if let Some(recorder) = &self.recorder {
                // As if it could not be made: so it is, until it is made again.
                let failure = Failure { doing: Doing::Write, errno: 0 };
                recorder.write(image, &recorder.bytes(image, Entry::Failed(failure)))?;
            }
        }
        Ok(images.iter().map(|range| range.end - range.start).sum())
    }

    /// Makes again what was taken back.
    pub(super) fn make_again(&self, cpu: &Cpu, by: impl FnOnce() -> DeviceIndex) {
        let again = merged(std::mem::take(&mut self.lock().doubt.again));
        if again.is_empty() || self.is_stopped() {
            return;
        }
        if let Err(error) = self.options.check_marks(self.plan.images()) {
            return self.stop(error);
        }
        let mut done = Done::all_but(self.plan.images(), &(0..0));
        again.iter().cloned().flatten().for_each(|image| done.remove(image));
        let bytes = |image: u64| {
            let row = &self.plan.rows()[self.id(image).span];
            row.samples() * row.dtype.size() as u64
        };
        let bytes = again.iter().cloned().flatten().map(bytes).sum();
        let images = again.iter().map(|range| range.end - range.start).sum();
        if let Some(watch) = &self.options.watch {
            watch.planned(images, bytes);
        }
        self.sink.replace();
        let spans = self.spans();
        let queue = Queue::new(self.options.norm, spans, self.block(), cpu.pullers(), |_| true);
        let queue = self.begin_again(queue.without(done));
        // The CPU does not fail as a device does.
        if let Err(error) = cpu.drain(queue, self, by()) {
            self.stop(error);
        }
    }

    fn id(&self, image: u64) -> ImageId {
        let rows = self.plan.rows();
        let span = rows.partition_point(|row| row.first_image <= image) - 1;
        ImageId { span, index: image - rows[span].first_image }
    }
}

impl Doubt {
    /// Forgets what only concerned the first time.
    pub(super) fn begin_again(&mut self) {
        self.spoiled.clear();
    }
}

/// The same numbers in order, without those that are there twice.
fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_meet_are_one() {
        assert_eq!(merged(vec![5..7, 0..1, 6..9, 1..3, 4..5]), [0..3, 4..9]);
        assert_eq!(merged(vec![2..9, 3..4, 20..21]), [2..9, 20..21]);
        assert!(merged(Vec::new()).is_empty());
    }

    #[test]
    fn about_as_many_are_compared_as_asked_for() {
        for one_of in [1, 2, 16, 256] {
            let sample = VerifySample::one_of(one_of);
            let taken = (0..100_000).filter(|&image| sample.takes(image, 0)).count() as u64;
            let wanted = 100_000 / one_of;
            assert!(taken.abs_diff(wanted) * 5 <= wanted.max(500), "{taken} of {wanted}");
            // Neither all nor none of one channel of 16, or one block of 4.
            let channel = (0..6250).filter(|&image| sample.takes(16 * image + 3, 0)).count();
            assert!(channel as u64 >= 6250 / one_of / 3, "{channel}");
            let blocks = (0..6250).filter(|&image| sample.takes(image, 1 << 24)).count();
            assert!(blocks as u64 >= 6250 / one_of / 3, "{blocks}");
        }
        assert!((0..1000).all(|image| !VerifySample::NONE.takes(image, 0)));
    }
}
