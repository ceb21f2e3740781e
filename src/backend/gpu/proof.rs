//! The proof that a device must give before it is used: a planted set, milliseconds of work, goes
//! through the very ring and kernels that a run uses, and every pixel and every extent is compared
//! with the oracle. It holds every element type, every path (fused, tiled, in blocks), arithmetic
//! that goes wrong on drivers that flush, approximate or contract, and more samples than a loop
//! that loses iterations could see.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::layout::{SMALL, TILE};
use super::{Gpu, lock};
use crate::backend::cpu::triples::{Family, mix, triple};
use crate::backend::queue::Queue;
use crate::backend::{Backend, Desk, DeviceIndex, Finding, ImageId, Job, Span};
use crate::error::Error;
use crate::normalize::{Norm, oracle};
use crate::tensor::Dtype;

/// Blocks of the planted giant: not a multiple of a tile.
const BLOCK: u64 = 40_000;
/// Bytes by which the readback's speed is measured.
const READ: usize = 4 << 20;

/// How a device's proof went. One that fails cannot be opened, so that this is always good news.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Proof {
    /// Images that were compared with the oracle.
    pub images: u64,
    /// Samples of these.
    pub samples: u64,
    /// GB/s at which one thread reads what came back. Below 1 the memory is not cached, and every
    /// write of pixels will be slow.
    pub readback_gb_s: f64,
    /// How long it took.
    pub took: Duration,
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} planted images bit for bit in {:.0} ms, readback {:.1} GB/s",
            self.images,
            self.took.as_secs_f64() * 1e3,
            self.readback_gb_s
        )
    }
}

/// One for each way to a range: from the extent, mirrored, given by the host and clamped, none.
const NORMS: [Norm; 4] =
    [Norm::MinMax, Norm::Symmetric, Norm::Fixed { lo: -2.0, hi: 3.5 }, Norm::None];

/// Has `gpu` prove itself.
pub(super) fn prove(gpu: &Gpu) -> Result<Proof, Error> {
    let start = Instant::now();
    let mut proof = Proof::default();
    for norm in NORMS {
        let planted = Planted::new(norm);
        let spans: Vec<Span> = planted.sets.iter().map(|(span, _)| *span).collect();
        proof.images += spans.iter().map(|span| span.images).sum::<u64>();
        proof.samples += spans.iter().map(|span| span.images * span.samples).sum::<u64>();
        let images = spans.iter().map(|span| span.images).sum();
        let queue = Queue::new(norm, spans, BLOCK, gpu.pullers(), |_| true);
        let drained = gpu.drain(&queue, &planted, 0).map_err(|error| match error {
            Error::Gpu { problem, .. } => problem,
            other => other.to_string(),
        });
        drained
            .and_then(|()| planted.verdict(images))
            .map_err(|wrong| gpu.device.error(format!("failed its proof: {wrong}")))?;
    }
    proof.readback_gb_s = readback_speed(gpu)?;
    // The slots were made for the planted set.
    lock(&gpu.slots).clear();
    proof.took = start.elapsed();
    Ok(proof)
}

/// The planted set, and what came back of it.
struct Planted {
    norm: Norm,
    sets: Vec<(Span, Vec<u8>)>,
    /// The giant's pixels so far.
    giant: Mutex<Vec<u8>>,
    seen: Mutex<(u64, Option<String>)>,
}

impl Planted {
    fn new(norm: Norm) -> Planted {
        let mut sets = Vec::new();
        let narrow = Dtype::ALL.into_iter().filter(|dtype| !dtype.is_wide());
        for (seed, dtype) in (1..).zip(narrow) {
            for (samples, images) in [(3, 100), (333, 5), (u64::from(SMALL) + 1, 2)] {
                let bytes = samples * images * dtype.size() as u64;
                let raw = (0..bytes).map(|i| mix(seed << 32 | i).to_le_bytes()[0]).collect();
                sets.push((
                    Span {
                        dtype,
                        samples,
                        images,
                        contiguous: true,
                        wide: false,
                        known: false,
                        strips: None,
                    },
                    raw,
                ));
            }
        }
        if norm == Norm::MinMax {
            for family in Family::ALL {
                sets.push(f32s(3, (0..96).flat_map(|i| triple(family, i))));
                // A small one, and one in tiles of which the last has one sample.
                for samples in [400, u64::from(TILE) + 1] {
                    sets.push(f32s(samples, (0..samples).map(|i| triple(family, i)[1])));
                }
            }
        }
        if norm.name() != Norm::None.name() && norm != Norm::Symmetric {
            sets.push(f32s(2 * BLOCK + 7, (0..2 * BLOCK + 7).map(planted_in_blocks)));
        }
        Planted { norm, sets, giant: Mutex::default(), seen: Mutex::default() }
    }

    fn raw(&self, image: ImageId) -> &[u8] {
        let (span, raw) = &self.sets[image.span];
        let bytes = len(span.samples) * span.dtype.size();
        &raw[len(image.index) * bytes..][..bytes]
    }

    fn compare(&self, image: ImageId, finding: &Finding, pixels: &[u8]) {
        let dtype = self.sets[image.span].0.dtype;
        let (extent, want) = oracle::normalize(self.norm, dtype, self.raw(image));
        let wrong = || format!("{dtype}, {} samples, {}", want.len(), self.norm);
        if *finding != Finding::of(&self.norm.into(), extent, false) {
            self.wrong(format!("{}: found {:?} instead of {extent:?}", wrong(), finding.extent));
        }
        let got = pixels.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let off = got.zip(&want).position(|(got, want)| got != want.to_bits());
        if let Some(i) = off {
            let got = &pixels[4 * i..4 * i + 4];
            let bits = want[i].to_bits();
            self.wrong(format!("{}: pixel {i} is {got:02x?} instead of {bits:#x}", wrong()));
        }
        if pixels.len() != 4 * want.len() {
            self.wrong(format!("{}: {} bytes of pixels", wrong(), pixels.len()));
        }
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).0 += 1;
    }

    fn wrong(&self, what: String) {
        lock(&self.seen).1.get_or_insert(what);
    }

    fn verdict(&self, images: u64) -> Result<(), String> {
        match &*lock(&self.seen) {
            (_, Some(wrong)) => Err(wrong.clone()),
            (seen, None) if *seen != images => Err(format!("{seen} of {images} images came back")),
            _ => Ok(()),
        }
    }
}

fn len(count: u64) -> usize {
    usize::try_from(count).expect("the planted set is a few hundred thousand samples")
}

/// Extremes at both sides of a block's end and at the end of all, and beside them what is not
/// finite.
fn planted_in_blocks(i: u64) -> u32 {
    let value = match i {
        _ if i == BLOCK - 1 => -2.5,
        _ if i == BLOCK => 1.75,
        _ if i == 2 * BLOCK + 6 => 9.0,
        _ if i == BLOCK - 2 => f32::NAN,
        _ if i == BLOCK + 1 => f32::INFINITY,
        _ if i == 2 * BLOCK + 5 => f32::NEG_INFINITY,
        _ => triple(Family::Gaussian, i)[1] as f32 * 1e-10,
    };
    value.to_bits()
}

fn f32s(samples: u64, bits: impl Iterator<Item = u32>) -> (Span, Vec<u8>) {
    let raw: Vec<u8> = bits.flat_map(u32::to_le_bytes).collect();
    let images = raw.len() as u64 / (4 * samples);
    (
        Span {
            dtype: Dtype::F32,
            samples,
            images,
            contiguous: true,
            wide: false,
            known: false,
            strips: None,
        },
        raw,
    )
}

impl Job for Planted {
    fn desk(&self, _: DeviceIndex) -> Box<dyn Desk + '_> {
        Box::new(PlantedDesk(self))
    }
}

struct PlantedDesk<'a>(&'a Planted);

impl Desk for PlantedDesk<'_> {
    fn read(&mut self, image: ImageId, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let (span, raw) = &self.0.sets[image.span];
        let at = len(image.index * span.samples * span.dtype.size() as u64 + offset);
        buf.copy_from_slice(&raw[at..at + buf.len()]);
        Ok(())
    }

    fn put(&mut self, image: ImageId, finding: &Finding, pixels: &[u8]) {
        self.0.compare(image, finding, pixels);
    }

    fn put_block(&mut self, _: ImageId, first: u64, pixels: &[u8]) {
        let at = len(first) * 4;
        let mut giant = lock(&self.0.giant);
        let len = giant.len().max(at + pixels.len());
        giant.resize(len, 0xFF);
        giant[at..at + pixels.len()].copy_from_slice(pixels);
    }

    fn finish_blocks(&mut self, image: ImageId, finding: &Finding) {
        self.0.compare(image, finding, &lock(&self.0.giant));
    }

    fn fail(&mut self, _: ImageId, error: Error) {
        self.0.wrong(error.to_string());
    }
}

/// GB/s at which one thread copies out of a mapped readback buffer.
fn readback_speed(gpu: &Gpu) -> Result<f64, Error> {
    let buffer = gpu.device.guarded("allocating a readback buffer", |device| {
        device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("readback speed"),
            size: READ as u64,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    })?;
    let view = gpu.device.mapped(&buffer, READ as u64)?;
    let mut out = vec![1_u8; READ];
    // The first copy meets pages that nobody touched yet.
    let seconds = [(); 3].map(|()| {
        let start = Instant::now();
        out.copy_from_slice(&view);
        std::hint::black_box(&out);
        start.elapsed().as_secs_f64()
    });
    drop(view);
    buffer.unmap();
    Ok(READ as f64 / seconds[1].min(seconds[2]).max(1e-9) / 1e9)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::backend::cpu::Cpu;
    use crate::normalize::Extent;

    /// What goes wrong with an image's extent and pixels.
    type Change = fn(&mut Extent, &mut Vec<u8>);

    /// Has every image made rightly; some are changed on their way back, some come more often than
    /// once or not at all.
    struct Changed {
        planted: Planted,
        change: Change,
        which: fn(&Span) -> bool,
        times: fn(ImageId) -> u64,
    }

    impl Changed {
        fn come_back(&self, image: ImageId, finding: &Finding, pixels: &[u8]) {
            let (mut extent, mut pixels) = (finding.extent, pixels.to_vec());
            if (self.which)(&self.planted.sets[image.span].0) {
                (self.change)(&mut extent, &mut pixels);
            }
            for _ in 0..(self.times)(image) {
                self.planted.compare(image, &Finding { extent, ..*finding }, &pixels);
            }
        }

        fn verdict(self) -> Result<(), String> {
            let spans: Vec<Span> = self.planted.sets.iter().map(|(span, _)| *span).collect();
            let images = spans.iter().map(|span| span.images).sum();
            let queue = Queue::new(self.planted.norm, spans, BLOCK, 2, |_| true);
            Cpu::new(NonZeroUsize::new(2)).drain(&queue, &self, 0).unwrap();
            self.planted.verdict(images)
        }
    }

    impl Job for Changed {
        fn desk(&self, _: DeviceIndex) -> Box<dyn Desk + '_> {
            Box::new(ChangedDesk(self, PlantedDesk(&self.planted)))
        }
    }

    struct ChangedDesk<'a>(&'a Changed, PlantedDesk<'a>);

    impl Desk for ChangedDesk<'_> {
        fn read(&mut self, image: ImageId, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
            self.1.read(image, offset, buf)
        }

        fn put(&mut self, image: ImageId, finding: &Finding, pixels: &[u8]) {
            self.0.come_back(image, finding, pixels);
        }

        fn put_block(&mut self, image: ImageId, first: u64, pixels: &[u8]) {
            self.1.put_block(image, first, pixels);
        }

        fn finish_blocks(&mut self, image: ImageId, finding: &Finding) {
            self.0.come_back(image, finding, &lock(&self.0.planted.giant));
        }

        fn fail(&mut self, image: ImageId, error: Error) {
            self.1.fail(image, error);
        }
    }

    #[test]
    fn everything_of_every_path_is_compared() {
        let paths: [fn(&Span) -> bool; 3] = [
            |span| span.samples <= SMALL.into(),
            |span| (u64::from(SMALL) + 1..=BLOCK).contains(&span.samples),
            |span| span.samples > BLOCK,
        ];
        let wrong: [(&str, Change); 9] = [
            ("least sample", |e, _| e.min = e.min.next_up()),
            ("greatest sample", |e, _| e.max = e.max.next_down()),
            ("NaN", |e, _| e.nan *= 2),
            ("+∞", |e, _| e.pos_inf *= 2),
            ("−∞", |e, _| e.neg_inf *= 2),
            ("samples looked at", |e, _| e.visited -= 1),
            ("last pixel", |_, pixels| *pixels.last_mut().unwrap() ^= 1),
            ("pixels too few", |_, pixels| pixels.truncate(pixels.len() - 4)),
            ("pixels too many", |_, pixels| pixels.extend([0; 4])),
        ];
        for (what, change) in wrong {
            for (path, which) in paths.into_iter().enumerate() {
                let planted = Planted::new(Norm::MinMax);
                let changed = Changed { planted, change, which, times: |_| 1 };
                assert!(changed.verdict().is_err(), "{what}, path {path}");
            }
        }
    }

    #[test]
    fn every_image_must_come_back_once() {
        let verdict = |norm, times| {
            let planted = Planted::new(norm);
            Changed { planted, change: |_, _| (), which: |_| true, times }.verdict()
        };
        for norm in NORMS {
            assert_eq!(verdict(norm, |_| 1), Ok(()));
            let missing = verdict(norm, |image| u64::from(image != ImageId { span: 0, index: 0 }));
            assert!(missing.unwrap_err().contains("images came back"));
            let twice = verdict(norm, |image| if image.span == 1 { 2 } else { 1 });
            assert!(twice.unwrap_err().contains("images came back"));
        }
    }
}
