//! What is found out of samples before any of their pixels is made: one piece at a time, from samples in
//! memory to counts and sums in memory. It is no part of the ring, and never at work beside it.

use super::device::Device;
use super::hooks::Fault;
use super::kernels::{Bound, Kernel, Kernels};
use super::layout::{
    BINS, GATHERED_WORDS, Image, MOST_PREFIXES, Params, SUM_PARTS, SUMS_AT, TILE, Tile, ZEROS_AT,
    dtype_code,
};
use super::recording::{Recording, Way};
use super::{Gpu, lock};
use crate::backend::cpu::range::DeviceExtent;
use crate::backend::{Answer, Question};
use crate::error::Error;

/// Most samples of a piece: sums of more might not fit their words.
pub(super) const MOST: u64 = 1 << 20;
/// Bytes of the buffers at most, those that are mapped among them twice: samples, counts.
pub(super) const MEMORY: u64 = 2 * (4 * MOST + COUNTS + WORDS);
const COUNTS: u64 = MOST_PREFIXES as u64 * 4 * BINS as u64;
const WORDS: u64 = 4 * GATHERED_WORDS as u64;

/// The buffers of a device that looks.
#[derive(Debug)]
pub(super) struct Looking {
    /// Keys of which the next bits may be counted.
    prefixes: u32,
    params: wgpu::Buffer,
    images: wgpu::Buffer,
    tiles: wgpu::Buffer,
    raw: wgpu::Buffer,
    found: wgpu::Buffer,
    bins: wgpu::Buffer,
    readback: wgpu::Buffer,
    bind_group: wgpu::BindGroup,
}

impl Looking {
    fn new(device: &Device, kernels: &Kernels, prefixes: u32) -> Result<Looking, Error> {
        use wgpu::BufferUsages as U;
        let bins = u64::from(prefixes) * 4 * u64::from(BINS);
        device.guarded("allocating buffers to look at samples", |device| {
            let buffer = |label: &str, size: u64, usage: U| {
                device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some(label),
                    size: size.next_multiple_of(16),
                    usage,
                    mapped_at_creation: false,
                })
            };
            let written = U::STORAGE | U::COPY_DST;
            let params = buffer("asked", size_of::<Params>() as u64, U::UNIFORM | U::COPY_DST);
            let images = buffer("piece", size_of::<Image>() as u64, written);
            let tiles = buffer("prefixes", u64::from(MOST_PREFIXES) * 8, written);
            let raw = buffer("samples", 4 * MOST, written);
            let found = buffer("found", WORDS, written | U::COPY_SRC);
            let bins_of = buffer("counts", bins, written | U::COPY_SRC);
            let none = buffer("no pixels", 16, U::STORAGE);
            let readback = buffer("answer", WORDS + bins, U::MAP_READ | U::COPY_DST);
            let bound = Bound {
                params: &params,
                images: &images,
                tiles: &tiles,
                raw: &raw,
                extents: &found,
                ranges: &bins_of,
                pixels: &none,
            };
            let bind_group = kernels.bind(device, "look", &bound);
            let bins = bins_of;
            Looking { prefixes, params, images, tiles, raw, found, bins, readback, bind_group }
        })
    }
}

/// Whether a device looks at samples for this question.
pub(super) fn is_answered(question: &Question<'_>) -> bool {
    let prefixes = question.prefixes.len();
    dtype_code(question.dtype).is_some() && prefixes <= MOST_PREFIXES as usize
}

impl Gpu {
    /// Looks at samples, at most [`MOST`].
    pub(super) fn answer(&self, question: &Question<'_>, raw: &[u8]) -> Result<Answer, Error> {
        // A device has one poller.
        let _alone = lock(&self.slots);
        self.device.check()?;
        let prefixes = u32::try_from(question.prefixes.len()).unwrap_or(u32::MAX);
        let mut kept = lock(&self.looking);
        let looking = match kept.take().filter(|looking| looking.prefixes >= prefixes) {
            Some(looking) => looking,
            None => Looking::new(&self.device, &self.kernels, prefixes.next_power_of_two().max(1))?,
        };
        let fault = self.fault();
        self.suffer(fault, Fault::LostBefore);
        let samples = (raw.len() / question.dtype.size()) as u64;
        let samples = u32::try_from(samples).ok().filter(|count| u64::from(*count) <= MOST);
        let samples = samples.ok_or_else(|| self.device.error("was handed too many samples"))?;
        let mut recording = Recording::new(&self.device, "look");
        write(&mut recording, &looking, question, (samples, prefixes), raw);
        let bins = u64::from(prefixes) * 4 * u64::from(BINS);
        recording.clear(&looking.found, None);
        if bins > 0 {
            recording.clear(&looking.bins, Some(bins));
        }
        let workgroups = samples.div_ceil(self.tuning.shape.tile);
        let started = [(self.kernels.pipeline(Kernel::Gather), workgroups)];
        recording.pass(None, &looking.bind_group, started);
        recording.copy(Way::Down, (&looking.found, 0), (&looking.readback, 0), WORDS);
        if bins > 0 {
            recording.copy(Way::Down, (&looking.bins, 0), (&looking.readback, WORDS), bins);
        }
        let (_, moved) = recording.submit();
        let mut looks = lock(&self.looks);
        looks.dispatches += moved.dispatches;
        looks.bytes += raw.len() as u64 + moved.down;
        drop(looks);
        self.suffer(fault, Fault::LostAfter);
        self.suffer(fault, Fault::Invalid);
        self.device.check()?;
        self.suffer(fault, Fault::LostMapping);
        let view = self.device.mapped(&looking.readback, WORDS + bins)?;
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(&view[..]);
        drop(view);
        looking.readback.unmap();
        *kept = Some(looking);
        let answer = answer_of(&words);
        if answer.extent.visited != u64::from(samples) {
            let visited = answer.extent.visited;
            let problem = format!("looked at {visited} of {samples} samples");
            self.device.trouble.report(problem);
        }
        self.device.check()?;
        self.looked.fetch_add(u64::from(samples), std::sync::atomic::Ordering::Relaxed);
        Ok(answer)
    }
}

fn write(
    recording: &mut Recording<'_>,
    looking: &Looking,
    question: &Question<'_>,
    (samples, prefixes): (u32, u32),
    raw: &[u8],
) {
    let params = Params {
        dtype: dtype_code(question.dtype).unwrap_or(u32::MAX),
        images: 1,
        settled: question.settled,
        prefixes,
        sums: u32::from(question.sums),
        ..Params::default()
    };
    let image = Image { samples, ..Image::default() };
    #[allow(clippy::cast_possible_truncation, reason = "of 32 bits half are settled")]
    let tile = |prefix: &u64| Tile { image: *prefix as u32, first_sample: 0 };
    let tiles: Vec<Tile> = question.prefixes.iter().map(tile).collect();
    recording.write(&looking.params, 0, bytemuck::bytes_of(&params));
    recording.write(&looking.images, 0, bytemuck::bytes_of(&image));
    if !tiles.is_empty() {
        recording.write(&looking.tiles, 0, bytemuck::cast_slice(&tiles));
    }
    // Whole words.
    let (words, rest) = raw.split_at(raw.len() / 4 * 4);
    if !words.is_empty() {
        recording.write(&looking.raw, 0, words);
    }
    if !rest.is_empty() {
        let mut word = [0; 4];
        word[..rest.len()].copy_from_slice(rest);
        recording.write(&looking.raw, words.len() as u64, &word);
    }
}

const _: () = assert!(TILE <= 1 << 16, "a workgroup's sums of bytes fit their words");

/// From the words as they come back: what was found, then counts.
fn answer_of(words: &[u32]) -> Answer {
    let (found, bins) = words.split_at(GATHERED_WORDS as usize);
    let extent: DeviceExtent = bytemuck::pod_read_unaligned(bytemuck::cast_slice(&found[..6]));
    let parts = found[SUMS_AT as usize..].chunks_exact(SUM_PARTS as usize);
    let sums = parts.map(|parts| {
        let mantissas = (0..3).map(|k| i64::from(parts[k].cast_signed()) << (8 * k)).sum();
        let squares = (0..6).map(|k| u128::from(parts[3 + k]) << (8 * k)).sum();
        (mantissas, squares)
    });
    Answer {
        extent: extent.into(),
        zeros: found[ZEROS_AT as usize].into(),
        sums: sums.collect(),
        bins: bins.to_vec(),
    }
}
