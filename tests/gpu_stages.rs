//! Every kernel alone on software Vulkan, held against its twin and against the oracle over the
//! same buffers. No tolerance.
#![cfg(feature = "gpu")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data is small, and a test that panics says where"
)]

#[path = "support/software.rs"]
mod software;

use std::ops::Range as Places;

use software::llvmpipe;
use tensortiff::backend::cpu::fused::fused;
use tensortiff::backend::cpu::range::{DeviceExtent, DeviceRange, minmax, pixel, range_of};
use tensortiff::backend::cpu::triples::{Family, member, mix};
use tensortiff::backend::cpu::widen;
use tensortiff::backend::gpu::Gpu;
use tensortiff::backend::gpu::batch::{Batch, Role};
use tensortiff::backend::gpu::hooks::Hooks;
use tensortiff::backend::gpu::kernels::Kernel;
use tensortiff::backend::gpu::layout::{LANES, SMALL, TILE, WORKGROUP};
use tensortiff::backend::gpu::stage::Stage;
use tensortiff::normalize::oracle;
use tensortiff::{Dtype, Extent, Norm};

fn gpu() -> Gpu {
    Gpu::open(&llvmpipe(), 1).unwrap()
}

/// A batch under construction, and its raw samples.
struct Set {
    batch: Batch,
    raw: Vec<u8>,
    images: Vec<(Places<usize>, Places<usize>)>,
}

impl Set {
    fn new(norm: Norm, dtype: Dtype) -> Set {
        Set { batch: Batch::new(norm, dtype), raw: Vec::new(), images: Vec::new() }
    }

    fn push(&mut self, role: Role, raw: &[u8]) {
        let at = self.batch.reserve(raw.len());
        self.push_at(role, at, raw);
    }

    /// At a place that need not be a word's beginning.
    fn push_at(&mut self, role: Role, at: usize, raw: &[u8]) {
        self.raw.resize(at, 0xAA);
        self.raw.extend_from_slice(raw);
        let samples = raw.len() / self.batch.dtype().size();
        let pixels = self.batch.push(role, at, samples as u64);
        self.images.push((at..at + raw.len(), pixels));
    }

    fn words(&self) -> Vec<u32> {
        let mut raw = self.raw.clone();
        raw.resize(raw.len().next_multiple_of(4), 0xAA);
        bytemuck::pod_collect_to_vec(&raw)
    }

    fn empty(&self) -> Stage {
        Stage {
            extents: vec![DeviceExtent::default(); self.images.len()],
            ranges: vec![DeviceRange::default(); self.images.len()],
            pixels: vec![0xDEAD_BEEF; self.batch.pixels() as usize],
        }
    }

    fn run(&self, gpu: &Gpu, kernel: Kernel, before: &Stage) -> Stage {
        gpu.stage(kernel, &self.batch, &self.words(), before).unwrap()
    }

    fn raw_of(&self, image: usize) -> &[u8] {
        &self.raw[self.images[image].0.clone()]
    }

    /// The oracle's extents and pixels against a stage's.
    fn check(&self, norm: Norm, stage: &Stage, what: &str) {
        for (i, (_, pixels)) in self.images.iter().enumerate() {
            let (extent, want) = oracle::normalize(norm, self.batch.dtype(), self.raw_of(i));
            assert_eq!(Extent::from(stage.extents[i]), extent, "{what}, image {i}");
            for (k, (got, want)) in stage.pixels[pixels.clone()].iter().zip(&want).enumerate() {
                assert_eq!(*got, want.to_bits(), "{what}, image {i}, pixel {k}");
            }
        }
    }
}

fn f32s(values: impl IntoIterator<Item = u32>) -> Vec<u8> {
    values.into_iter().flat_map(u32::to_le_bytes).collect()
}

/// Where an off-by-one stride loses a sample.
fn edges(samples: usize) -> Vec<usize> {
    let [w, tile, lanes] = [WORKGROUP, TILE, LANES].map(|n| n as usize);
    let mut at = vec![0, 1, samples / 2, samples.saturating_sub(2), samples - 1];
    for step in [lanes, w, tile, 2 * tile] {
        at.extend([step - 1, step, step + 1]);
    }
    at.retain(|&at| at < samples);
    at.sort_unstable();
    at.dedup();
    at
}

const SIZES: [usize; 11] = [1, 2, 31, 255, 256, 257, 4096, 16_383, 16_384, 16_385, 40_000];

#[test]
fn extremes_are_found_wherever_they_are() {
    let gpu = gpu();
    let plants = [-3.0_f32, 3.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 1e-45, f32::MAX];
    for plant in plants {
        let mut set = Set::new(Norm::MinMax, Dtype::F32);
        for samples in SIZES {
            for at in edges(samples) {
                let noise = |i: usize| (0.5 + (i % 1000) as f32 * 1e-4).to_bits();
                let bits = |i| if i == at { plant.to_bits() } else { noise(i) };
                set.push(Role::Extent, &f32s((0..samples).map(bits)));
            }
        }
        let stage = set.run(&gpu, Kernel::Extent, &set.empty());
        for (i, got) in stage.extents.iter().enumerate() {
            let samples = bytemuck::pod_collect_to_vec::<u8, u32>(set.raw_of(i));
            let twin = samples.iter().fold(DeviceExtent::default(), |e, &x| e.look(x));
            assert_eq!(*got, twin, "{plant} in image {i} of {} samples", samples.len());
            let naive = samples
                .iter()
                .fold(Extent::EMPTY, |e, &x| e.merge(Extent::of(f32::from_bits(x).into())));
            assert_eq!(Extent::from(*got), naive, "{plant} in image {i}");
            assert_eq!(got.visited as usize, samples.len());
        }
    }
}

#[test]
fn bytes_are_found_at_every_alignment() {
    let gpu = gpu();
    let kinds = [Dtype::U8, Dtype::I8, Dtype::F8E4m3, Dtype::Bool, Dtype::I16, Dtype::F16];
    for dtype in kinds.into_iter().chain([Dtype::F4, Dtype::F8E8m0]) {
        let mut set = Set::new(Norm::MinMax, dtype);
        for (seed, samples) in (0..).zip([1, 3, 255, 257, 4096, 4097, 16_385]) {
            for shift in (0..4).step_by(dtype.size()) {
                let raw: Vec<u8> = (0..samples * dtype.size() as u64)
                    .map(|i| mix(seed << 40 | i << 3 | shift as u64) as u8)
                    .collect();
                let at = set.batch.reserve(raw.len() + shift) + shift;
                set.push_at(Role::Whole, at, &raw);
            }
        }
        let mut stage = set.empty();
        for kernel in Kernel::ALL {
            stage = set.run(&gpu, kernel, &stage);
        }
        set.check(Norm::MinMax, &stage, dtype.name());
    }
}

#[test]
fn every_code_of_eight_and_sixteen_bits_widens_as_its_twin_says() {
    let gpu = gpu();
    for dtype in Dtype::ALL.into_iter().filter(|dtype| dtype.size() < 4) {
        let codes = 1_u32 << (8 * dtype.size());
        let raw: Vec<u8> =
            (0..codes).flat_map(|c| c.to_le_bytes()[..dtype.size()].to_vec()).collect();
        // Whole, in one image of tiles, and in small ones.
        let mut set = Set::new(Norm::None, dtype);
        set.push(Role::Whole, &raw);
        raw.chunks(SMALL as usize).for_each(|part| set.push(Role::Whole, part));
        let mut stage = set.empty();
        for kernel in Kernel::ALL {
            stage = set.run(&gpu, kernel, &stage);
        }
        set.check(Norm::None, &stage, dtype.name());
        for code in 0..codes {
            let twin = widen::decode(dtype, code).unwrap();
            let at = set.images[0].1.start + code as usize;
            assert_eq!(stage.pixels[at], twin, "{dtype} {code:#x}");
        }
    }
}

#[test]
fn ranges_are_those_of_the_twin() {
    let gpu = gpu();
    let mut set = Set::new(Norm::MinMax, Dtype::F32);
    let mut before = Vec::new();
    let special = [
        (0, 0),
        (0, 1 << 31),
        (1, 2),
        (0xFF7F_FFFF, 0x7F7F_FFFF),
        (0xFF7F_FFFF, 0),
        (0xFEFF_FFFF, 0x7F00_0000),
        (0x8000_0001, 1),
        (0x7F7F_FFFF, 0x7F7F_FFFF),
    ];
    let random = Family::ALL
        .into_iter()
        .flat_map(|family| (0..20_000).map(move |i| (member(family, i, 0), member(family, i, 1))));
    for (a, b) in special.into_iter().chain(random) {
        let extent = DeviceExtent::default().look(a).look(b);
        before.push(extent);
    }
    // None finite: nothing, only NaN, only infinities.
    before.push(DeviceExtent::default());
    before.push(DeviceExtent::default().look(0x7FC0_0001));
    before.push(DeviceExtent::default().look(0x7F80_0000).look(0xFF80_0000));
    // The kernel looks at images that are whole and not small; its samples it does not look at.
    for _ in &before {
        set.batch.push(Role::Extent, 0, 1);
        set.images.push((0..0, 0..0));
    }
    let mut ranged = Set::new(Norm::MinMax, Dtype::F32);
    for _ in &before {
        ranged.batch.push(Role::Whole, 0, u64::from(SMALL) + 1);
        ranged.images.push((0..0, 0..0));
    }
    let unused = DeviceRange { mode: 9, lo: 9, hi: 9, divisor_mantissa: 9, divisor_exponent: 9 };
    let start =
        Stage { extents: before.clone(), ranges: vec![unused; before.len()], pixels: vec![0] };
    let stage = ranged.run(&gpu, Kernel::Range, &start);
    for (extent, got) in before.iter().zip(&stage.ranges) {
        assert_eq!(*got, range_of(Norm::MinMax, extent), "{extent:?}");
    }
    // Blocks' ranges are the host's.
    assert_eq!(set.batch.workgroups().range, 0);
}

/// Every pair of these as lo and hi, and every one between as x.
fn special() -> Vec<u32> {
    let mut bits: Vec<u32> = (0..400)
        .map(|i| member(Family::Special, i, 0))
        .chain((0..8).map(|i| member(Family::Random, i, 0)))
        .chain((0..8).map(|i| member(Family::Subnormal, i, 0)))
        .collect();
    bits.sort_by(|a, b| f32::from_bits(*a).total_cmp(&f32::from_bits(*b)));
    bits.dedup();
    bits
}

#[test]
fn special_values_crossed_come_out_as_by_the_processor() {
    let gpu = gpu();
    let bits = special();
    assert!(bits.len() > 40, "{} special values", bits.len());
    let nonfinite = [0x7F80_0000, 0xFF80_0000, 0x7FC0_0001, 0xFFA0_0002, 0x7F80_0001];
    for role in [Role::Whole, Role::Normalize(DeviceRange::default())] {
        let mut set = Set::new(Norm::MinMax, Dtype::F32);
        for (i, &lo) in bits.iter().enumerate() {
            for &hi in &bits[i + 1..] {
                let between = bits.iter().copied().filter(|&x| {
                    (f32::from_bits(lo)..=f32::from_bits(hi)).contains(&f32::from_bits(x))
                });
                let raw = f32s(between.chain(nonfinite));
                let role = match role {
                    // A zero of a finding's range is +0.
                    Role::Normalize(_) => {
                        let plus = |b: u32| (f32::from_bits(b) + 0.0).to_bits();
                        let same = plus(lo) == plus(hi);
                        Role::Normalize(if same {
                            DeviceRange::default()
                        } else {
                            minmax(plus(lo), plus(hi))
                        })
                    }
                    role => role,
                };
                set.push(role, &raw);
            }
        }
        let kernel = if role == Role::Whole { Kernel::Fused } else { Kernel::Normalize };
        let mut stage = set.run(&gpu, kernel, &set.empty_with_ranges());
        if kernel == Kernel::Normalize {
            stage.extents = twin_extents(&set);
        }
        set.check(Norm::MinMax, &stage, kernel.stem());
    }
}

impl Set {
    /// With the ranges that the orders carry.
    fn empty_with_ranges(&self) -> Stage {
        let ranges = bytemuck::pod_collect_to_vec(&self.batch.orders()[2].1);
        Stage { ranges, ..self.empty() }
    }
}

fn twin_extents(set: &Set) -> Vec<DeviceExtent> {
    (0..set.images.len())
        .map(|i| {
            let samples = bytemuck::pod_collect_to_vec::<u8, u32>(set.raw_of(i));
            samples.iter().fold(DeviceExtent::default(), |e, &x| e.look(x))
        })
        .collect()
}

/// `images` images of `each` samples of a family.
fn random_images(family: Family, images: u64, each: u64, role: impl Fn(&[u8]) -> Role) -> Set {
    let mut set = Set::new(Norm::MinMax, Dtype::F32);
    for i in 0..images {
        let raw = f32s((0..each).map(|k| member(family, i << 8 | each, k)));
        let role = role(&raw);
        set.push(role, &raw);
    }
    set
}

#[test]
fn twelve_million_random_triples_are_exact_in_the_fused_kernel() {
    let gpu = gpu();
    let mut triples = 0;
    for family in Family::ALL {
        for (images, each) in [(40_000, 3), (8_000, 9), (56_000, 32)] {
            let set = random_images(family, images, each, |_| Role::Whole);
            let stage = set.run(&gpu, Kernel::Fused, &set.empty());
            set.check(Norm::MinMax, &stage, &format!("{family:?} by {each}"));
            triples += images * each;
        }
    }
    assert!(triples > 11_000_000, "{triples}");
}

#[test]
fn estimates_may_be_bad_in_the_tiled_kernel() {
    for spoil in [0, 16, -16, 48, -48] {
        let gpu = Gpu::open_with(&llvmpipe(), 1, &Hooks { spoil, ..Hooks::NONE }).unwrap();
        for family in Family::ALL {
            let role = |raw: &[u8]| {
                let samples = bytemuck::pod_collect_to_vec::<u8, u32>(raw);
                let extent = samples.iter().fold(DeviceExtent::default(), |e, &x| e.look(x));
                Role::Normalize(range_of(Norm::MinMax, &extent))
            };
            let set = random_images(family, 4_000, 20, role);
            let mut stage = set.run(&gpu, Kernel::Normalize, &set.empty_with_ranges());
            stage.extents = twin_extents(&set);
            set.check(Norm::MinMax, &stage, &format!("{family:?} spoiled by {spoil}"));
            let ranges = set.empty_with_ranges().ranges;
            for ((raw, pixels), range) in set.images.iter().zip(&ranges) {
                let samples = bytemuck::pod_collect_to_vec::<u8, u32>(&set.raw[raw.clone()]);
                let got = &stage.pixels[pixels.clone()];
                for (x, got) in samples.iter().zip(got) {
                    assert_eq!(*got, pixel(range, *x, spoil), "{family:?} twin");
                }
            }
        }
    }
}

#[test]
fn the_fused_kernel_and_its_twin_agree_over_one_buffer() {
    let gpu = gpu();
    for dtype in Dtype::ALL.into_iter().filter(|dtype| !dtype.is_wide()) {
        for norm in [Norm::MinMax, Norm::None] {
            let mut set = Set::new(norm, dtype);
            // Up to the most, and 1 to 9 images in the last workgroup's rows.
            for (seed, samples) in (0..).zip([1, 2, 31, 32, 33, 1000, 4095, 4096, 77, 5, 4096]) {
                let bytes = samples * dtype.size() as u64;
                let raw: Vec<u8> = (0..bytes).map(|i| mix(seed << 40 | i) as u8).collect();
                set.push(Role::Whole, &raw);
            }
            let words = set.words();
            let stage = set.run(&gpu, Kernel::Fused, &set.empty());
            set.check(norm, &stage, dtype.name());
            for (i, (raw, pixels)) in set.images.iter().enumerate() {
                let (extent, twin) =
                    fused(norm, dtype, &words, raw.start, pixels.len(), 0).unwrap();
                assert_eq!(stage.extents[i], extent, "{dtype} {norm} image {i}");
                assert_eq!(stage.pixels[pixels.clone()], twin, "{dtype} {norm} image {i}");
            }
        }
    }
}

#[test]
fn one_image_may_have_more_samples_than_a_driver_has_iterations() {
    // 65,535 iterations of 256 invocations are 16,776,960 samples.
    let samples = 65_535 * WORKGROUP as usize + 5_000;
    let mut raw: Vec<u8> = (0..samples).map(|i| 3 + (i % 200) as u8).collect();
    raw[samples - 1] = 255;
    raw[65_535 * WORKGROUP as usize + 1] = 0;
    let mut set = Set::new(Norm::MinMax, Dtype::U8);
    set.push(Role::Whole, &raw);
    let gpu = gpu();
    let mut stage = set.empty();
    for kernel in [Kernel::Extent, Kernel::Range, Kernel::Normalize] {
        stage = set.run(&gpu, kernel, &stage);
    }
    assert_eq!(stage.extents[0].visited as usize, samples);
    set.check(Norm::MinMax, &stage, "17 million samples");
}
