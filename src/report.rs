//! What a run did.

use std::ops::{AddAssign, SubAssign};
use std::time::Duration;

use crate::error::Error;

/// The account of a run that came to its end. Images may have failed; see
/// [`failed`](Report::failed).
#[derive(Debug, Default)]
#[must_use]
pub struct Report {
    /// Images planned.
    pub planned: u64,
    /// Images written whole.
    pub images: u64,
    /// Images that were there already: of a run that was continued, or because those that are
    /// there were to be skipped.
    pub there: u64,
    /// An earlier run had done everything, so that nothing was done, nor looked at but the files'
    /// sizes.
    pub finished: bool,
    /// Images that could not be made; the rest were.
    pub failed: u64,
    /// Those of them that would fail again: [`Error::is_transient`] is false of their errors.
    pub failed_for_good: u64,
    /// Why, for the first of them.
    pub failures: Vec<Failure>,
    /// Bytes of samples that became images, as [`Dtype::size`](crate::tensor::Dtype::size) counts them.
    pub bytes_in: u64,
    /// Bytes written, headers included.
    pub bytes_out: u64,
    /// From the first look at the plan to the last image.
    pub elapsed: Duration,
    /// Who did what.
    pub devices: Vec<DeviceReport>,
    /// GPU adapters were wanted beside the CPU, but the work was done before one was ready.
    pub gpu_not_needed: bool,
    /// What was found in the samples.
    pub samples: SampleReport,
    /// Where the time of the threads went that found ranges before the first image, if
    /// [`Options::timings`](crate::Options::timings) asked for it.
    pub ranges: Stages,
    /// Tensors that gave no image, and why; devices that were not used, and why.
    pub notes: Vec<String>,
}

/// One image that could not be made.
#[derive(Debug)]
pub struct Failure {
    /// The name that it would have had.
    pub name: String,
    /// What went wrong.
    pub error: Error,
}

/// One device's share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceReport {
    /// The device's name.
    pub name: String,
    /// Images that it finished.
    pub images: u64,
    /// Bytes of samples that it turned into pixels, parts of images included.
    pub bytes_in: u64,
    /// How many of them, or of their blocks, were compared with what the CPU makes.
    pub checked: u64,
    /// Where its threads' time went; zero unless [`Options::timings`](crate::Options::timings)
    /// asked for it.
    pub stages: Stages,
}

/// Time by what it was spent on, added up over threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stages {
    /// Reading samples from the source.
    pub read: Duration,
    /// Decoding, extents, normalizing; of a GPU only what its threads do themselves.
    pub compute: Duration,
    /// Handing images to the sink, their headers included.
    pub write: Duration,
    /// Waiting for work, or for a GPU.
    pub wait: Duration,
}

/// What was found in the samples of the images written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SampleReport {
    /// NaN.
    pub nan: u64,
    /// +∞.
    pub pos_inf: u64,
    /// −∞.
    pub neg_inf: u64,
    /// Finite f64 samples that became ±∞ in f32.
    pub overflow: u64,
    /// Images with a sample that is not finite.
    pub nonfinite_images: u64,
    /// Images whose finite samples are all equal, with those of their scope.
    pub constant_images: u64,
    /// Images without a finite sample.
    pub no_finite_images: u64,
    /// Images whose samples differ, and whose range has no width all the same: one sample is at both
    /// percentiles, or the deviation is 0.
    pub degenerate_images: u64,
}

impl Stages {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.read + self.compute + self.write + self.wait
    }
}

impl AddAssign for Stages {
    fn add_assign(&mut self, other: Stages) {
        self.read += other.read;
        self.compute += other.compute;
        self.write += other.write;
        self.wait += other.wait;
    }
}

impl AddAssign for SampleReport {
    fn add_assign(&mut self, other: SampleReport) {
        self.nan += other.nan;
        self.pos_inf += other.pos_inf;
        self.neg_inf += other.neg_inf;
        self.overflow += other.overflow;
        self.nonfinite_images += other.nonfinite_images;
        self.constant_images += other.constant_images;
        self.no_finite_images += other.no_finite_images;
        self.degenerate_images += other.degenerate_images;
    }
}

impl SubAssign for SampleReport {
    fn sub_assign(&mut self, other: SampleReport) {
        self.nan -= other.nan;
        self.pos_inf -= other.pos_inf;
        self.neg_inf -= other.neg_inf;
        self.overflow -= other.overflow;
        self.nonfinite_images -= other.nonfinite_images;
        self.constant_images -= other.constant_images;
        self.no_finite_images -= other.no_finite_images;
        self.degenerate_images -= other.degenerate_images;
    }
}

impl Report {
    /// Most failures that are kept with their reasons; the rest are only counted.
    pub const MOST_FAILURES: usize = 100;

    /// Counts no image any more that was made; that devices took time stays.
    pub(crate) fn take_back_all(&mut self) {
        (self.images, self.bytes_in, self.bytes_out) = (0, 0, 0);
        self.samples = SampleReport::default();
        for device in &mut self.devices {
            (device.images, device.bytes_in) = (0, 0);
        }
    }
}
