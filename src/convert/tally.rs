//! What was done: added to the account of a run, and taken back where a device was wrong.

use crate::backend::DeviceIndex;
use crate::report::{Report, SampleReport, Stages};

/// What a desk has done since the run was told.
#[derive(Debug, Default, Clone)]
pub(super) struct Tally {
    pub(super) images: u64,
    /// Bytes of samples of those images.
    pub(super) bytes_in: u64,
    /// Bytes of samples that became pixels here, parts of images included.
    pub(super) worked: u64,
    pub(super) bytes_out: u64,
    /// Bytes that count as progress: a giant's are read twice.
    pub(super) progress: u64,
    pub(super) samples: SampleReport,
    /// Images or blocks that were compared with what the CPU makes.
    pub(super) checked: u64,
    pub(super) stages: Stages,
}

impl Tally {
    /// Adds it to the account of a run, and of who did it.
    pub(super) fn add_to(&self, report: &mut Report, by: DeviceIndex) {
        report.images += self.images;
        report.bytes_in += self.bytes_in;
        report.bytes_out += self.bytes_out;
        report.samples += self.samples;
        let device = &mut report.devices[by];
        device.images += self.images;
        device.bytes_in += self.worked;
        device.checked += self.checked;
        device.stages += self.stages;
    }

    /// Takes the images back that it was added for; that they took time, and were compared, stays.
    pub(super) fn take_from(&self, report: &mut Report, by: DeviceIndex) {
        report.images -= self.images;
        report.bytes_in -= self.bytes_in;
        report.bytes_out -= self.bytes_out;
        report.samples -= self.samples;
        let device = &mut report.devices[by];
        device.images -= self.images;
        device.bytes_in -= self.worked;
    }
}

impl std::ops::AddAssign<&Tally> for Tally {
    fn add_assign(&mut self, other: &Tally) {
        self.images += other.images;
        self.bytes_in += other.bytes_in;
        self.worked += other.worked;
        self.bytes_out += other.bytes_out;
        self.progress += other.progress;
        self.samples += other.samples;
        self.checked += other.checked;
        self.stages += other.stages;
    }
}
