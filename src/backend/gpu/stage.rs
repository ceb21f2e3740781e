//! One kernel at a time, over buffers that a test chooses: how `tests/gpu_stages.rs` holds each
//! kernel against its twin.

use super::Gpu;
use super::batch::{Batch, Workgroups};
use super::kernels::{Bound, Kernel};
use super::recording::{Recording, Way};
use crate::backend::cpu::range::{DeviceExtent, DeviceRange};
use crate::error::Error;

/// What a stage leaves behind.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// One an image.
    pub extents: Vec<DeviceExtent>,
    /// One an image.
    pub ranges: Vec<DeviceRange>,
    /// Bits of all pixels.
    pub pixels: Vec<u32>,
}

impl Gpu {
    /// Runs one kernel, with a batch's orders, over `raw` and over what an earlier stage left.
    ///
    /// # Errors
    /// [`Error::Gpu`] if the device fails.
    pub fn stage(
        &self,
        kernel: Kernel,
        batch: &Batch,
        raw: &[u32],
        before: &Stage,
    ) -> Result<Stage, Error> {
        use wgpu::BufferUsages as U;
        let orders = batch.orders();
        let contents: [&[u8]; 7] = [
            &orders[0].1,
            &orders[1].1,
            &orders[3].1,
            bytemuck::cast_slice(raw),
            bytemuck::cast_slice(&before.extents),
            bytemuck::cast_slice(&before.ranges),
            bytemuck::cast_slice(&before.pixels),
        ];
        let [buffers, backs] = self.device.guarded("allocating a stage", |device| {
            let make = |bytes: &[u8], usage| {
                device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("stage"),
                    size: (bytes.len() as u64).next_multiple_of(16).max(32),
                    usage,
                    mapped_at_creation: false,
                })
            };
            let bound = U::STORAGE | U::UNIFORM | U::COPY_DST | U::COPY_SRC;
            let buffers: Vec<_> = contents.iter().map(|bytes| make(bytes, bound)).collect();
            let back = U::MAP_READ | U::COPY_DST;
            let backs: Vec<_> = contents[4..].iter().map(|bytes| make(bytes, back)).collect();
            [buffers, backs]
        })?;
        let mut recording = Recording::new(&self.device, "stage");
        for (buffer, bytes) in buffers.iter().zip(contents) {
            recording.write(buffer, 0, bytes);
        }
        let bound = Bound {
            params: &buffers[0],
            images: &buffers[1],
            tiles: &buffers[2],
            raw: &buffers[3],
            extents: &buffers[4],
            ranges: &buffers[5],
            pixels: &buffers[6],
        };
        let bind_group = self.kernels.bind(&self.device.inner, "stage", &bound);
        let all: Workgroups = batch.workgroups();
        let started = [(self.kernels.pipeline(kernel), kernel.workgroups(&all))];
        recording.pass(None, &bind_group, started);
        for (buffer, back) in buffers[4..].iter().zip(&backs) {
            recording.copy(Way::Down, (buffer, 0), (back, 0), back.size());
        }
        recording.submit();
        let mut after = Vec::new();
        for (back, bytes) in backs.iter().zip(&contents[4..]) {
            let view = self.device.mapped(back, back.size())?;
            after.push(view[..bytes.len()].to_vec());
        }
        Ok(Stage {
            extents: bytemuck::pod_collect_to_vec(&after[0]),
            ranges: bytemuck::pod_collect_to_vec(&after[1]),
            pixels: bytemuck::pod_collect_to_vec(&after[2]),
        })
    }
}
