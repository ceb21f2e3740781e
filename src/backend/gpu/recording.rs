//! Commands on their way to a device: the one place that has it copy, start a kernel or take a
//! submission. Each counts what it moves by what it is told to move, so that nothing goes to a
//! device uncounted (`tests/house.rs` knows the calls' names).

use super::device::Device;

/// See the [module](self).
pub(super) struct Recording<'a> {
    device: &'a Device,
    encoder: wgpu::CommandEncoder,
    moved: Moved,
}

/// What one submission moves and starts.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moved {
    /// Bytes to the device's memory, and from it.
    pub(super) up: u64,
    pub(super) down: u64,
    pub(super) copies: u64,
    pub(super) dispatches: u64,
}

/// Which way a copy goes; within the device's memory nothing crosses the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Up,
    Down,
    Within,
}

impl<'a> Recording<'a> {
    pub(super) fn new(device: &'a Device, label: &str) -> Recording<'a> {
        let descriptor = wgpu::CommandEncoderDescriptor { label: Some(label) };
        let encoder = device.inner.create_command_encoder(&descriptor);
        Recording { device, encoder, moved: Moved::default() }
    }

    /// For what moves nothing: timestamps.
    pub(super) fn encoder(&mut self) -> &mut wgpu::CommandEncoder {
        &mut self.encoder
    }

    /// Has so many bytes copied from and to these places of buffers.
    pub(super) fn copy(
        &mut self,
        way: Way,
        (from, from_at): (&wgpu::Buffer, u64),
        (to, to_at): (&wgpu::Buffer, u64),
        bytes: u64,
    ) {
        self.encoder.copy_buffer_to_buffer(from, from_at, to, to_at, bytes);
        self.moved.copies += 1;
        match way {
            Way::Up => self.moved.up += bytes,
            Way::Down => self.moved.down += bytes,
            Way::Within => {}
        }
    }

    /// Has bytes put into a buffer, before anything else of this recording.
    pub(super) fn write(&mut self, to: &wgpu::Buffer, at: u64, bytes: &[u8]) {
        self.device.queue.write_buffer(to, at, bytes);
        self.moved.copies += 1;
        self.moved.up += bytes.len() as u64;
    }

    /// Has the first bytes of a buffer be zeros, or all.
    pub(super) fn clear(&mut self, buffer: &wgpu::Buffer, bytes: Option<u64>) {
        self.encoder.clear_buffer(buffer, 0, bytes);
    }

    /// Has kernels started one after the other, each with so many workgroups.
    pub(super) fn pass<'p>(
        &mut self,
        timestamp_writes: Option<wgpu::ComputePassTimestampWrites<'_>>,
        bind_group: &wgpu::BindGroup,
        kernels: impl IntoIterator<Item = (&'p wgpu::ComputePipeline, u32)>,
    ) {
        let descriptor = wgpu::ComputePassDescriptor { label: None, timestamp_writes };
        let mut pass = self.encoder.begin_compute_pass(&descriptor);
        pass.set_bind_group(0, bind_group, &[]);
        for (pipeline, workgroups) in kernels {
            pass.set_pipeline(pipeline);
            pass.dispatch_workgroups(workgroups, 1, 1);
            self.moved.dispatches += 1;
        }
    }

    /// Sends everything on its way.
    pub(super) fn submit(self) -> (wgpu::SubmissionIndex, Moved) {
        (self.device.queue.submit([self.encoder.finish()]), self.moved)
    }
}
