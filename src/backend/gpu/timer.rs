//! What kernels cost on the device, by its own clock, where somebody asks: each kernel becomes a
//! pass of its own with a timestamp at both ends, and the timestamps come back behind a batch's
//! extents.

use super::device::Device;
use super::kernels::Kernel;
use crate::error::Error;

/// Timestamps of the copies: before and after those to the device, before and after those from it.
const COPIES: u32 = 4;
/// All timestamps of a batch.
const ALL: u32 = COPIES + 2 * KERNELS;
#[allow(clippy::cast_possible_truncation, reason = "there are four")]
const KERNELS: u32 = Kernel::ALL.len() as u32;
/// Bytes of all timestamps of a batch.
pub(super) const TIMESTAMPS: u64 = 8 * ALL as u64;

/// One kernel's share of a drain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KernelStats {
    /// Times that it was started.
    pub dispatches: u64,
    /// Bytes of samples, pixels, extents and ranges that it read and wrote, each counted once.
    pub bytes: u64,
    /// How long that took on the device; 0 where it was not measured.
    pub nanoseconds: u64,
}

impl KernelStats {
    /// GB/s (10^9 bytes read and written a second); `None` where it was not measured.
    #[must_use]
    pub fn gigabytes_a_second(&self) -> Option<f64> {
        (self.nanoseconds > 0).then(|| self.bytes as f64 / self.nanoseconds as f64)
    }
}

/// A slot's timestamps.
#[derive(Debug)]
pub(super) struct Timer {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    /// Whether copies are timed too: not every device has timestamps outside of passes.
    pub(super) copies: bool,
}

impl Timer {
    /// `None` if the device was opened without timestamps.
    pub(super) fn new(device: &wgpu::Device) -> Option<Timer> {
        if !device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            return None;
        }
        let copies = device.features().contains(wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS);
        let queries = device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("timestamps"),
            ty: wgpu::QueryType::Timestamp,
            count: ALL,
        });
        let resolved = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("timestamps"),
            size: TIMESTAMPS,
            usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        Some(Timer { queries, resolved, copies })
    }

    /// Leaves a timestamp among the commands: 0 and 1 around the copies to the device, 2 and 3
    /// around those from it.
    pub(super) fn stamp(&self, encoder: &mut wgpu::CommandEncoder, edge: u32) {
        encoder.write_timestamp(&self.queries, edge);
    }

    /// The first timestamp of pass number `pass`.
    fn of_pass(&self, pass: usize) -> u32 {
        let first = if self.copies { COPIES } else { 0 };
        first + 2 * u32::try_from(pass).expect("there are four kernels")
    }

    /// Where a batch's pass number `pass` leaves its timestamps.
    pub(super) fn writes(&self, pass: usize) -> wgpu::ComputePassTimestampWrites<'_> {
        let first = self.of_pass(pass);
        wgpu::ComputePassTimestampWrites {
            query_set: &self.queries,
            beginning_of_pass_write_index: Some(first),
            end_of_pass_write_index: Some(first + 1),
        }
    }

    /// Copies the timestamps of the copies and so many passes to byte `at` of `readback`, and says
    /// how many bytes they are.
    pub(super) fn resolve(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        passes: usize,
        readback: &wgpu::Buffer,
        at: u64,
    ) -> u64 {
        let count = self.of_pass(passes);
        if count == 0 {
            return 0;
        }
        let bytes = 8 * u64::from(count);
        encoder.resolve_query_set(&self.queries, 0..count, &self.resolved, 0);
        encoder.copy_buffer_to_buffer(&self.resolved, 0, readback, at, bytes);
        bytes
    }

    /// How long the copies between stamps 0 and 1 of these commands took, once they are done.
    pub(super) fn of_one(&self, device: &Device, readback: &wgpu::Buffer) -> Result<u64, Error> {
        let view = device.mapped(readback, 16)?;
        let period = device.queue.get_timestamp_period();
        let time = nanoseconds(&view, period).next().unwrap_or_default();
        drop(view);
        readback.unmap();
        Ok(time)
    }

    /// Has stamps 0 and 1 copied to `readback`.
    pub(super) fn resolve_one(&self, encoder: &mut wgpu::CommandEncoder, readback: &wgpu::Buffer) {
        encoder.resolve_query_set(&self.queries, 0..2, &self.resolved, 0);
        encoder.copy_buffer_to_buffer(&self.resolved, 0, readback, 0, 16);
    }
}

/// Nanoseconds of each pass, from timestamps of `period` nanoseconds each. One that runs backwards,
/// as some drivers' do now and then, counts as nothing.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a pass takes less than centuries"
)]
pub(super) fn nanoseconds(timestamps: &[u8], period: f32) -> impl Iterator<Item = u64> {
    timestamps.as_chunks::<16>().0.iter().map(move |both| {
        let [from, to] = bytemuck::pod_read_unaligned::<[u64; 2]>(both);
        (to.saturating_sub(from) as f64 * f64::from(period)) as u64
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_last_from_one_timestamp_to_the_next() {
        let ticks = [100_u64, 150, 160, 200, 30, 20];
        let bytes: Vec<u8> = ticks.iter().flat_map(|t| t.to_le_bytes()).collect();
        assert_eq!(nanoseconds(&bytes, 2.5).collect::<Vec<_>>(), [125, 100, 0]);
        let stats = KernelStats { dispatches: 1, bytes: 1000, nanoseconds: 125 };
        assert_eq!(stats.gigabytes_a_second(), Some(8.0));
        assert_eq!(KernelStats::default().gigabytes_a_second(), None);
    }
}
