//! One slot of the ring: the buffers that a batch goes through. Made once, bound once.
//!
//! `staging` is mapped while a reader fills it: the orders first, then raw samples. After the
//! submission the kernels' results are in `readback`: pixels first, then extents.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::batch::{Batch, MOST_IMAGES, Part, Sizes};
use super::device::Device;
use super::kernels::{Bound, KERNELS, Kernel, Kernels};
use super::layout::{Image, Params, Tile};
use super::recording::{Moved, Recording, Way};
use super::timer::Timer;
use crate::backend::cpu::range::{DeviceExtent, DeviceRange};
use crate::error::Error;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) sizes: Sizes,
    pub(super) staging: wgpu::Buffer,
    pub(super) readback: wgpu::Buffer,
    params: wgpu::Buffer,
    images: wgpu::Buffer,
    tiles: wgpu::Buffer,
    raw: wgpu::Buffer,
    extents: wgpu::Buffer,
    ranges: wgpu::Buffer,
    pixels: wgpu::Buffer,
    bind_group: wgpu::BindGroup,
    timer: Option<Timer>,
    /// Mappings under way.
    coming: Arc<AtomicU8>,
}

impl Slot {
    pub(super) fn new(
        device: &Device,
        kernels: &Kernels,
        number: usize,
        sizes: Sizes,
    ) -> Result<Slot, Error> {
        use wgpu::BufferUsages as U;
        // Without timestamps a run is as good as with them.
        let timer = device.guarded("making timestamps", Timer::new).ok().flatten();
        let what = format!("allocating {} MiB for slot {number}", total(&sizes) >> 20);
        device.guarded(&what, |device| {
            let buffer = |name: &str, size: u64, usage: U| {
                device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some(&format!("slot {number} {name}")),
                    size: size.next_multiple_of(16),
                    usage,
                    mapped_at_creation: usage.contains(U::MAP_WRITE),
                })
            };
            let images_of = |size: usize| u64::from(MOST_IMAGES) * size as u64;
            let written = U::STORAGE | U::COPY_DST;
            let staging =
                buffer("staging", orders_end(&sizes) + sizes.raw, U::MAP_WRITE | U::COPY_SRC);
            let readback = buffer("readback", sizes.readback(), U::MAP_READ | U::COPY_DST);
            let params = buffer("params", size_of::<Params>() as u64, U::UNIFORM | U::COPY_DST);
            let images = buffer("images", images_of(size_of::<Image>()), written);
            let tiles = buffer("tiles", sizes.tiles * size_of::<Tile>() as u64, written);
            let raw = buffer("raw", sizes.raw, written);
            let extents =
                buffer("extents", images_of(size_of::<DeviceExtent>()), written | U::COPY_SRC);
            let ranges = buffer("ranges", images_of(size_of::<DeviceRange>()), written);
            let pixels = buffer("pixels", sizes.pixels(), U::STORAGE | U::COPY_SRC);
            let bound = Bound {
                params: &params,
                images: &images,
                tiles: &tiles,
                raw: &raw,
                extents: &extents,
                ranges: &ranges,
                pixels: &pixels,
            };
            let bind_group = kernels.bind(device, &format!("slot {number}"), &bound);
            let coming = Arc::default();
            Slot {
                sizes,
                staging,
                readback,
                params,
                images,
                tiles,
                raw,
                extents,
                ranges,
                pixels,
                bind_group,
                timer,
                coming,
            }
        })
    }

    /// Where raw samples begin in `staging`.
    pub(super) fn raw_at(&self) -> u64 {
        orders_end(&self.sizes)
    }

    /// Sends a batch, whose raw samples and orders are in `staging`, which nobody views, on its
    /// way, and asks for both mapped buffers back.
    pub(super) fn submit(
        &self,
        device: &Device,
        kernels: &Kernels,
        batch: &Batch,
    ) -> (wgpu::SubmissionIndex, Traffic) {
        self.staging.unmap();
        let mut traffic = Traffic::default();
        let mut recording = Recording::new(device, "batch");
        let copies = self.timer.as_ref().filter(|timer| timer.copies);
        let stamp = |recording: &mut Recording<'_>, edge| {
            if let Some(timer) = copies {
                timer.stamp(recording.encoder(), edge);
            }
        };
        traffic.timed_copies = copies.is_some();
        stamp(&mut recording, 0);
        let mut at = 0;
        for (part, len) in batch.order_sizes() {
            if len > 0 {
                recording.copy(Way::Up, (&self.staging, at), (self.part(part), 0), len);
            }
            at += len;
        }
        let raw = u64::from(batch.raw()).next_multiple_of(4);
        recording.copy(Way::Up, (&self.staging, self.raw_at()), (&self.raw, 0), raw);
        stamp(&mut recording, 1);
        let [pixels, extents] = batch.readback();
        recording.clear(&self.extents, Some(extents));
        self.dispatch(&mut recording, kernels, batch, &mut traffic);
        stamp(&mut recording, 2);
        if pixels > 0 {
            recording.copy(Way::Down, (&self.pixels, 0), (&self.readback, 0), pixels);
        }
        recording.copy(Way::Down, (&self.extents, 0), (&self.readback, pixels), extents);
        traffic.answer = pixels + extents;
        stamp(&mut recording, 3);
        if let Some(timer) = &self.timer {
            let passes = traffic.kernels.iter().flatten().count();
            let encoder = recording.encoder();
            traffic.timestamps = timer.resolve(encoder, passes, &self.readback, traffic.answer);
        }
        let (index, moved) = recording.submit();
        (index, Traffic { moved, ..traffic })
    }

    /// All kernels in one pass; each in its own where they are timed.
    fn dispatch(
        &self,
        recording: &mut Recording<'_>,
        kernels: &Kernels,
        batch: &Batch,
        traffic: &mut Traffic,
    ) {
        let workgroups = batch.workgroups();
        let all = Kernel::ALL.map(|kernel| (kernel, kernel.workgroups(&workgroups)));
        let wanted: Vec<_> = all.into_iter().filter(|(_, count)| *count > 0).collect();
        let in_one = if self.timer.is_some() { 1 } else { wanted.len().max(1) };
        for (number, together) in wanted.chunks(in_one).enumerate() {
            let timestamp_writes = self.timer.as_ref().map(|timer| timer.writes(number));
            let started =
                together.iter().map(|(kernel, count)| (kernels.pipeline(*kernel), *count));
            recording.pass(timestamp_writes, &self.bind_group, started);
        }
        for (kept, (kernel, _)) in traffic.kernels.iter_mut().zip(wanted) {
            *kept = Some((kernel, batch.traffic(kernel)));
        }
    }

    /// Asks for the readback's first `len` bytes and for the staging buffer.
    pub(super) fn map(&self, device: &Device, len: u64) {
        self.coming.store(2, Ordering::Release);
        let arrival = || {
            let (coming, trouble) = (Arc::clone(&self.coming), Arc::clone(&device.trouble));
            move |mapped: Result<(), wgpu::BufferAsyncError>| {
                if mapped.is_err() {
                    trouble.report("a buffer could not be mapped: the device is lost".to_owned());
                }
                coming.fetch_sub(1, Ordering::AcqRel);
            }
        };
        self.readback.map_async(wgpu::MapMode::Read, 0..len, arrival());
        self.staging.map_async(wgpu::MapMode::Write, .., arrival());
    }

    /// Whether both are there.
    pub(super) fn has_arrived(&self) -> bool {
        self.coming.load(Ordering::Acquire) == 0
    }

    fn part(&self, part: Part) -> &wgpu::Buffer {
        match part {
            Part::Params => &self.params,
            Part::Images => &self.images,
            Part::Ranges => &self.ranges,
            Part::Tiles => &self.tiles,
        }
    }
}

/// What a submission is about.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Traffic {
    pub(super) moved: Moved,
    /// Bytes in `readback`, and those of timestamps behind them.
    pub(super) answer: u64,
    pub(super) timestamps: u64,
    /// Whether the first of these are the copies'.
    pub(super) timed_copies: bool,
    /// Kernels in the order in which they were started, and the bytes that each moved.
    pub(super) kernels: [Option<(Kernel, u64)>; KERNELS],
}

fn orders_end(sizes: &Sizes) -> u64 {
    sizes.orders().next_multiple_of(256)
}

fn total(sizes: &Sizes) -> u64 {
    2 * (sizes.raw + sizes.pixels() + sizes.orders())
}
