//! What a device can do at best: how fast it copies its own memory, and how fast bytes go to it and
//! come back. What kernels and runs are measured against.

use std::time::Instant;

use super::Gpu;
use super::recording::{Recording, Way};
use super::timer::Timer;
use crate::error::Error;

/// GB/s (10^9 bytes a second).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speeds {
    /// Copying in the device's memory; bytes read and bytes written both count, as they do in
    /// [`KernelStats`](super::KernelStats).
    pub copy: f64,
    /// From a mapped buffer to the device.
    pub up: f64,
    /// From the device to a mapped buffer.
    pub down: f64,
    /// Whether the device's own clock said so. Otherwise a submission's way there and back is in it.
    pub by_its_clock: bool,
}

/// Copies that are timed together, so that a submission's own time does not count.
const COPIES: u32 = 8;

impl Gpu {
    /// Measures copies of `bytes` bytes: not for use beside a drain.
    ///
    /// # Errors
    /// [`Error::Gpu`] if the device fails.
    pub fn speeds(&self, bytes: u64) -> Result<Speeds, Error> {
        use wgpu::BufferUsages as U;
        let size = bytes.next_multiple_of(16).max(16);
        let usages = [
            U::COPY_SRC | U::COPY_DST,
            U::COPY_SRC | U::COPY_DST,
            U::MAP_WRITE | U::COPY_SRC,
            U::MAP_READ | U::COPY_DST,
        ];
        let [one, other, up, down] =
            self.device.guarded("allocating buffers to measure copies with", |device| {
                usages.map(|usage| {
                    device.create_buffer(&wgpu::BufferDescriptor {
                        label: Some("speed"),
                        size,
                        usage,
                        mapped_at_creation: false,
                    })
                })
            })?;
        let timer = self.device.guarded("making timestamps", Timer::new).ok().flatten();
        let timer = timer.filter(|timer| timer.copies);
        let stamps = self.device.guarded("allocating a buffer for timestamps", |device| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("stamps"),
                size: 16,
                usage: U::MAP_READ | U::COPY_DST,
                mapped_at_creation: false,
            })
        })?;
        let speed = |from: &wgpu::Buffer, to: &wgpu::Buffer, each: u64| {
            // The first round meets memory that nobody touched yet.
            let mut seconds = [0.0; 3];
            for seconds in &mut seconds {
                let mut recording = Recording::new(&self.device, "speed");
                if let Some(timer) = &timer {
                    timer.stamp(recording.encoder(), 0);
                }
                for _ in 0..COPIES {
                    recording.copy(Way::Within, (from, 0), (to, 0), size);
                }
                if let Some(timer) = &timer {
                    timer.stamp(recording.encoder(), 1);
                    timer.resolve_one(recording.encoder(), &stamps);
                }
                let start = Instant::now();
                let (index, _) = recording.submit();
                self.device.poll(Some((index, self.device.patience)))?;
                *seconds = start.elapsed().as_secs_f64();
                if let Some(timer) = &timer {
                    let by_clock = timer.of_one(&self.device, &stamps)? as f64 / 1e9;
                    // A clock that stands still is none.
                    *seconds = if by_clock > 0.0 { by_clock } else { *seconds };
                }
            }
            let least = seconds[1].min(seconds[2]).max(1e-9);
            Ok::<f64, Error>((each * u64::from(COPIES)) as f64 / 1e9 / least)
        };
        Ok(Speeds {
            copy: speed(&one, &other, 2 * size)?,
            up: speed(&up, &one, size)?,
            down: speed(&other, &down, size)?,
            by_its_clock: timer.is_some(),
        })
    }

    /// Seconds in which so many bytes go to the device and so many come back, both at once, and nothing else: from
    /// and to mapped buffers, by the host's clock. Not for use beside a drain.
    ///
    /// # Errors
    /// As those of [`speeds`](Gpu::speeds).
    pub fn link(&self, up: u64, down: u64) -> Result<f64, Error> {
        use wgpu::BufferUsages as U;
        const EACH: u64 = 64 << 20;
        let usages = [
            (U::MAP_WRITE | U::COPY_SRC, up),
            (U::COPY_DST, up),
            (U::COPY_SRC, down),
            (U::MAP_READ | U::COPY_DST, down),
        ];
        let [from, there, source, back] =
            self.device.guarded("allocating buffers to measure the link with", |device| {
                usages.map(|(usage, bytes)| {
                    device.create_buffer(&wgpu::BufferDescriptor {
                        label: Some("link"),
                        size: bytes.clamp(16, EACH).next_multiple_of(16),
                        usage,
                        mapped_at_creation: false,
                    })
                })
            })?;
        let mut seconds = 0.0;
        // The first round meets memory that nobody touched yet.
        for _ in 0..2 {
            let start = Instant::now();
            let (mut up, mut down) = (up, down);
            while up + down > 0 {
                let mut recording = Recording::new(&self.device, "link");
                let ways =
                    [(Way::Up, &from, &there, &mut up), (Way::Down, &source, &back, &mut down)];
                for (way, from, to, left) in ways {
                    // Copies are of whole words.
                    let bytes = (*left).min(EACH).next_multiple_of(4).min(from.size());
                    if bytes > 0 {
                        recording.copy(way, (from, 0), (to, 0), bytes);
                    }
                    *left -= bytes.min(*left);
                }
                let (index, _) = recording.submit();
                if up + down == 0 {
                    self.device.poll(Some((index, self.device.patience)))?;
                }
            }
            seconds = start.elapsed().as_secs_f64();
        }
        Ok(seconds)
    }
}
