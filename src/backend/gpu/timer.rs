//! What kernels cost on the device, by its own clock, where somebody asks: each kernel becomes a
//! pass of its own with a timestamp at both ends, and the timestamps come back behind a batch's
//! extents.

use super::kernels::Kernel;

/// Timestamps of a batch: two of each kernel.
const QUERIES: u32 = 8;
const _: () = assert!(QUERIES as usize == 2 * Kernel::ALL.len());
/// Bytes of all of them.
pub(super) const TIMESTAMPS: u64 = 8 * QUERIES as u64;

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
}

impl Timer {
    /// `None` if the device was opened without timestamps.
    pub(super) fn new(device: &wgpu::Device) -> Option<Timer> {
        if !device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            return None;
        }
        let queries = device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("timestamps"),
            ty: wgpu::QueryType::Timestamp,
            count: QUERIES,
        });
        let resolved = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("timestamps"),
            size: TIMESTAMPS,
            usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        Some(Timer { queries, resolved })
    }

    /// Where a batch's pass number `pass` leaves its timestamps.
    pub(super) fn writes(&self, pass: usize) -> wgpu::ComputePassTimestampWrites<'_> {
        let first = first_of(pass);
        wgpu::ComputePassTimestampWrites {
            query_set: &self.queries,
            beginning_of_pass_write_index: Some(first),
            end_of_pass_write_index: Some(first + 1),
        }
    }

    /// Copies the timestamps of so many passes to byte `at` of `readback`, and says how many bytes
    /// they are.
    pub(super) fn resolve(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        passes: usize,
        readback: &wgpu::Buffer,
        at: u64,
    ) -> u64 {
        let end = first_of(passes);
        let bytes = 8 * u64::from(end);
        encoder.resolve_query_set(&self.queries, 0..end, &self.resolved, 0);
        encoder.copy_buffer_to_buffer(&self.resolved, 0, readback, at, bytes);
        bytes
    }
}

/// The first timestamp of a batch's pass.
fn first_of(pass: usize) -> u32 {
    u32::try_from(2 * pass).expect("a batch has at most as many passes as there are kernels")
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
