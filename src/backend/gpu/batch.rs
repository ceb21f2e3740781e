//! Sizes, places and dispatch counts of a batch, as plain data: no GPU is needed to work them out,
//! or to test them.

use super::kernels::Kernel;
use super::layout::{GIVEN, Image, Params, Tile, dtype_code, norm_code};
use super::timer::TIMESTAMPS;
use super::tuning::{Shape, Tuning};
use crate::backend::Span;
use crate::backend::cpu::range::{DeviceExtent, DeviceRange};
use crate::normalize::Rule;
use crate::tensor::Dtype;

/// Most images, whole or in blocks, of a batch.
pub const MOST_IMAGES: u32 = 16_384;
/// Fewest pixels of a slot, unless the whole job has less.
const LEAST_PIXELS: u64 = 256 << 10;
/// What aligning every run to a word may cost, of which a batch has at most [`MOST_IMAGES`].
const PADDING: u64 = 64 << 10;
/// Most tiles of a slot's three lists together, for `pixels` of capacity: two lists of whole
/// tiles, and in each list at most one cut tile an image.
const fn most_tiles(pixels: u64, tile: u32) -> u64 {
    2 * (pixels / tile as u64) + 3 * MOST_IMAGES as u64
}

/// Sizes of a slot's buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Capacity in samples, and so in pixels.
    pub samples: u64,
    /// Bytes for raw samples.
    pub raw: u64,
    /// Most tiles.
    pub tiles: u64,
}

impl Sizes {
    /// What a job needs whose images of a size that is not `taken` go elsewhere, and whose largest
    /// unit is a block: room for a quarter of it, so that reading, computing and writing overlap,
    /// within 1 to 64 MiB of pixels.
    #[must_use]
    pub fn of(spans: &[Span], block: u64, taken: impl Fn(&Span) -> bool) -> Sizes {
        Sizes::tuned(spans, block, &Tuning::CHOSEN, taken)
    }

    /// The same, with as many pixels as `tuning` says.
    #[must_use]
    pub fn tuned(
        spans: &[Span],
        block: u64,
        tuning: &Tuning,
        taken: impl Fn(&Span) -> bool,
    ) -> Sizes {
        let spans = || spans.iter().filter(|span| taken(span));
        let total = spans()
            .map(|span| span.samples.saturating_mul(span.images))
            .fold(0, u64::saturating_add);
        let largest = spans().map(|span| span.samples.min(block)).max().unwrap_or(1);
        let size = spans().map(|span| span.dtype.size()).max().unwrap_or(1) as u64;
        let wanted =
            (total / 4).clamp(LEAST_PIXELS, tuning.batch_pixels.max(LEAST_PIXELS)).min(total);
        let samples = wanted.max(largest).next_multiple_of(4);
        let raw = samples.saturating_mul(size).saturating_add(PADDING);
        Sizes { samples, raw, tiles: most_tiles(samples, tuning.shape.tile) }
    }

    /// Most samples that fit a unit, where a binding has at most `bytes`.
    #[must_use]
    pub fn most_samples(bytes: u64) -> u64 {
        bytes.saturating_sub(PADDING) / 4
    }

    /// Whether these buffers hold everything that `other` ones would.
    #[must_use]
    pub fn hold(&self, other: &Sizes) -> bool {
        self.samples >= other.samples && self.raw >= other.raw && self.tiles >= other.tiles
    }

    /// Bytes of pixels.
    #[must_use]
    pub fn pixels(&self) -> u64 {
        self.samples * 4
    }

    /// Bytes of the largest orders: parameters, images, ranges and tiles.
    #[must_use]
    pub fn orders(&self) -> u64 {
        let images = u64::from(MOST_IMAGES) * (bytes::<Image>() + bytes::<DeviceRange>());
        bytes::<Params>() + images + self.tiles * bytes::<Tile>()
    }

    /// Bytes of the largest readback: pixels, then extents, then timestamps.
    #[must_use]
    pub fn readback(&self) -> u64 {
        self.pixels() + u64::from(MOST_IMAGES) * bytes::<DeviceExtent>() + TIMESTAMPS
    }
}

const fn bytes<T>() -> u64 {
    size_of::<T>() as u64
}

/// What is done to an image of a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Role {
    /// A whole image: everything.
    Whole,
    /// A block of pass one: its extent.
    Extent,
    /// A block of pass two: its pixels.
    Normalize(DeviceRange),
    /// An image or a block of which the range was known before: everything.
    Known(DeviceRange),
}

/// Workgroups of each kernel, in the order of the dispatches; 0 for none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Workgroups {
    /// One a tile.
    pub extent: u32,
    /// One for every [`WORKGROUP`](super::layout::WORKGROUP) images.
    pub range: u32,
    /// One a tile.
    pub normalize: u32,
    /// One for every `WORKGROUP / LANES` small images.
    pub fused: u32,
}

/// One batch: images of one element type, and what the kernels are told about them.
#[derive(Debug, Clone)]
pub struct Batch {
    rule: Rule,
    dtype: Dtype,
    shape: Shape,
    images: Vec<Image>,
    ranges: Vec<DeviceRange>,
    /// Whether the kernels are given any of these; otherwise they stay here.
    given: bool,
    extent_tiles: Vec<Tile>,
    normalize_tiles: Vec<Tile>,
    small: Vec<Tile>,
    raw: u32,
    pixels: u32,
    /// Samples that each of the kernels looks at.
    looked_at: Workload,
}

/// Samples that the kernels look at; of the range kernel, images.
#[derive(Debug, Clone, Copy, Default)]
struct Workload {
    extent: u64,
    range: u64,
    normalize: u64,
    fused: u64,
}

impl Batch {
    /// A batch without images.
    #[must_use]
    pub fn new(rule: impl Into<Rule>, dtype: Dtype) -> Batch {
        Batch::shaped(rule, dtype, Shape::CHOSEN)
    }

    /// The same, for kernels of this shape.
    #[must_use]
    pub fn shaped(rule: impl Into<Rule>, dtype: Dtype, shape: Shape) -> Batch {
        Batch {
            rule: rule.into(),
            dtype,
            shape,
            given: false,
            images: Vec::new(),
            ranges: Vec::new(),
            extent_tiles: Vec::new(),
            normalize_tiles: Vec::new(),
            small: Vec::new(),
            raw: 0,
            pixels: 0,
            looked_at: Workload::default(),
        }
    }

    /// Its element type.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The images, in the order of [`push`](Batch::push).
    #[must_use]
    pub fn images(&self) -> &[Image] {
        &self.images
    }

    /// Bytes of raw samples.
    #[must_use]
    pub fn raw(&self) -> u32 {
        self.raw
    }

    /// Number of pixels.
    #[must_use]
    pub fn pixels(&self) -> u32 {
        self.pixels
    }

    /// Reserves `len` bytes of raw samples, from a word's beginning on, and says where.
    ///
    /// # Panics
    /// If raw bytes pass 4 GiB; no binding is so large.
    pub fn reserve(&mut self, len: usize) -> usize {
        let first = self.raw.next_multiple_of(4);
        self.raw = u32::try_from(len)
            .ok()
            .and_then(|len| first.checked_add(len))
            .expect("a slot's raw bytes fit a binding, which has fewer than 2^32");
        first as usize
    }

    /// Adds an image whose samples are at `first_byte`, which must be aligned to their size, and
    /// says which pixels will be its own.
    ///
    /// # Panics
    /// If places pass 2^32; no binding is so large.
    pub fn push(&mut self, role: Role, first_byte: usize, samples: u64) -> std::ops::Range<usize> {
        let index = u32::try_from(self.images.len()).expect("a batch has at most 16,384 images");
        let samples = u32::try_from(samples).expect("an image of a batch fits a binding");
        let first_byte = u32::try_from(first_byte).expect("places are within a binding");
        let first_pixel = self.pixels;
        let everything = matches!(role, Role::Whole | Role::Known(_));
        let small = everything && samples <= self.shape.small;
        if small {
            self.small.push(Tile { image: index, first_sample: 0 });
            self.looked_at.fused += u64::from(samples);
        } else {
            let tiles = || {
                let first = (0..samples).step_by(self.shape.tile as usize);
                first.map(|first_sample| Tile { image: index, first_sample })
            };
            if !matches!(role, Role::Normalize(_)) {
                self.extent_tiles.extend(tiles());
                self.looked_at.extent += u64::from(samples);
            }
            if role != Role::Extent {
                self.normalize_tiles.extend(tiles());
                self.looked_at.normalize += u64::from(samples);
            }
        }
        self.given |= matches!(role, Role::Normalize(_) | Role::Known(_));
        let ranged = match role {
            Role::Known(_) => GIVEN,
            role => u32::from(role == Role::Whole && !small),
        };
        self.looked_at.range += u64::from(ranged == 1);
        self.images.push(Image { first_byte, first_pixel, samples, ranged });
        self.ranges.push(match role {
            Role::Normalize(range) | Role::Known(range) => range,
            _ => DeviceRange::default(),
        });
        if role != Role::Extent {
            self.pixels = first_pixel.checked_add(samples).expect("pixels fit a binding");
        }
        first_pixel as usize..self.pixels as usize
    }

    /// The kernels' parameters.
    #[must_use]
    pub fn params(&self) -> Params {
        let [normalize_at, small_at] =
            [self.extent_tiles.len(), self.extent_tiles.len() + self.normalize_tiles.len()];
        Params {
            dtype: dtype_code(self.dtype).unwrap_or(u32::MAX),
            norm: norm_code(self.rule.norm),
            images: count(self.images.len()),
            normalize_at: count(normalize_at),
            small_at: count(small_at),
            small: count(self.small.len()),
            ..Params::default()
        }
    }

    /// What to dispatch. A dimension never passes 65,535: a slot has far fewer tiles.
    #[must_use]
    pub fn workgroups(&self) -> Workgroups {
        let ranged = self.images.iter().any(|image| image.ranged == 1);
        Workgroups {
            extent: count(self.extent_tiles.len()),
            range: if ranged { count(self.images.len()).div_ceil(self.shape.workgroup) } else { 0 },
            normalize: count(self.normalize_tiles.len()),
            fused: count(self.small.len()).div_ceil(self.shape.workgroup / self.shape.lanes),
        }
    }

    /// Bytes of samples, pixels, extents and ranges that a kernel reads and writes, each once.
    #[must_use]
    pub fn traffic(&self, kernel: Kernel) -> u64 {
        let size = self.dtype.size() as u64;
        let all = &self.looked_at;
        match kernel {
            Kernel::Extent => all.extent * size,
            Kernel::Range => all.range * (bytes::<DeviceExtent>() + bytes::<DeviceRange>()),
            Kernel::Normalize => all.normalize * (size + 4),
            Kernel::Fused => all.fused * (size + 4),
            Kernel::Gather => 0, // it is in no batch: see `look.rs`
        }
    }

    /// The orders, one after the other as they lie in staging.
    #[must_use]
    pub fn orders(&self) -> [(Part, Vec<u8>); 4] {
        let lists = [&self.extent_tiles, &self.normalize_tiles, &self.small];
        let tiles: Vec<Tile> = lists.into_iter().flatten().copied().collect();
        [
            (Part::Params, bytemuck::bytes_of(&self.params()).to_vec()),
            (Part::Images, bytemuck::cast_slice(&self.images).to_vec()),
            (Part::Ranges, bytemuck::cast_slice(self.given_ranges()).to_vec()),
            (Part::Tiles, bytemuck::cast_slice(&tiles).to_vec()),
        ]
    }

    /// Ranges that travel: none where the range kernel makes all that are needed.
    fn given_ranges(&self) -> &[DeviceRange] {
        if self.given { &self.ranges } else { &[] }
    }

    /// How many bytes of orders go to each buffer.
    #[must_use]
    pub fn order_sizes(&self) -> [(Part, u64); 4] {
        let lists = [&self.extent_tiles, &self.normalize_tiles, &self.small];
        let tiles: usize = lists.into_iter().map(Vec::len).sum();
        let images = self.images.len() as u64;
        [
            (Part::Params, bytes::<Params>()),
            (Part::Images, images * bytes::<Image>()),
            (Part::Ranges, self.given_ranges().len() as u64 * bytes::<DeviceRange>()),
            (Part::Tiles, tiles as u64 * bytes::<Tile>()),
        ]
    }

    /// Bytes of the readback: of pixels, then of extents.
    #[must_use]
    pub fn readback(&self) -> [u64; 2] {
        [u64::from(self.pixels) * 4, self.images.len() as u64 * bytes::<DeviceExtent>()]
    }
}

/// A buffer that the orders go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Uniform parameters.
    Params,
    /// Images.
    Images,
    /// Ranges.
    Ranges,
    /// All lists of tiles.
    Tiles,
}

fn count(len: usize) -> u32 {
    u32::try_from(len).expect("a batch's lists are bounded by its slot's tiles, fewer than 2^32")
}

#[cfg(test)]
mod tests {
    use super::super::layout::{SMALL, TILE};
    use super::*;
    use crate::normalize::Norm;

    /// A binding of WebGPU's floor.
    const FLOOR: u64 = 128 << 20;
    /// Workgroups of a dimension, likewise.
    const MOST_WORKGROUPS: u32 = 65_535;

    fn span(dtype: Dtype, samples: u64, images: u64) -> Span {
        Span {
            dtype,
            samples,
            images,
            contiguous: true,
            wide: dtype.is_wide(),
            known: false,
            strips: None,
        }
    }

    #[test]
    fn a_slot_is_no_larger_than_its_job_and_never_above_the_floor() {
        let tiny = Sizes::of(&[span(Dtype::Bf16, 784, 10)], 1 << 24, |_| true);
        assert_eq!(tiny.samples, 7840);
        let large = Sizes::of(&[span(Dtype::F32, 1 << 20, 1 << 20)], 1 << 20, |_| true);
        assert_eq!(large.pixels(), 64 << 20);
        let most = Sizes::most_samples(FLOOR);
        let giant = Sizes::of(&[span(Dtype::F32, u64::MAX, 1)], most, |_| true);
        assert!(giant.samples >= most && giant.raw <= FLOOR && giant.pixels() <= FLOOR);
        for sizes in [tiny, large, giant] {
            assert!(sizes.tiles < u64::from(MOST_WORKGROUPS), "{sizes:?}");
        }
        let elsewhere = [span(Dtype::F64, 1 << 30, 9), span(Dtype::U8, 100, 3)];
        assert_eq!(Sizes::of(&elsewhere, 1 << 24, |span| span.dtype == Dtype::U8).samples, 300);
    }

    #[test]
    fn every_sample_is_in_one_tile_of_each_list_that_its_role_asks_for() {
        let edges = [1, SMALL, SMALL + 1, TILE - 1, TILE, TILE + 1, 3 * TILE, 1_000_003];
        let mut batch = Batch::new(Norm::MinMax, Dtype::U8);
        let range = DeviceRange::default();
        let roles = [Role::Whole, Role::Extent, Role::Normalize(range), Role::Known(range)];
        let mut want = Vec::new();
        for samples in edges {
            for role in roles {
                let first = batch.reserve(samples as usize);
                let pixels = batch.push(role, first, u64::from(samples));
                assert_eq!(first % 4, 0);
                let made = if role == Role::Extent { 0 } else { samples };
                assert_eq!(pixels.len(), made as usize);
                let small = matches!(role, Role::Whole | Role::Known(_)) && samples <= SMALL;
                let is = |yes: bool| if yes { samples } else { 0 };
                want.push([
                    is(!small && !matches!(role, Role::Normalize(_))),
                    is(!small && role != Role::Extent),
                    is(small),
                ]);
            }
        }
        let covered = |list: &[Tile], most: u32| {
            let mut covered = vec![0; want.len()];
            for tile in list {
                let samples = batch.images[tile.image as usize].samples;
                assert_eq!(covered[tile.image as usize], tile.first_sample, "tiles in order");
                covered[tile.image as usize] += (samples - tile.first_sample).min(most);
            }
            covered
        };
        let lists = [
            covered(&batch.extent_tiles, TILE),
            covered(&batch.normalize_tiles, TILE),
            covered(&batch.small, SMALL),
        ];
        for (i, want) in want.iter().enumerate() {
            assert_eq!([lists[0][i], lists[1][i], lists[2][i]], *want, "image {i}");
        }
    }

    #[test]
    fn the_fullest_batch_fits_its_slot() {
        let sizes = Sizes::of(&[span(Dtype::F32, 1025, 1 << 30)], 1 << 24, |_| true);
        for (samples, role) in [(1024, Role::Whole), (1024, Role::Extent), (4097, Role::Whole)] {
            let mut batch = Batch::new(Norm::MinMax, Dtype::F32);
            let images = (sizes.samples / samples).min(u64::from(MOST_IMAGES));
            for _ in 0..images {
                let first = batch.reserve(usize::try_from(4 * samples).unwrap());
                batch.push(role, first, samples);
            }
            let written = batch.orders().map(|(part, bytes)| (part, bytes.len() as u64));
            assert_eq!(written, batch.order_sizes());
            let orders: u64 = written.iter().map(|(_, len)| len).sum();
            assert!(orders <= sizes.orders() && u64::from(batch.raw()) <= sizes.raw);
            assert!(batch.readback().iter().sum::<u64>() <= sizes.readback());
            let w = batch.workgroups();
            for workgroups in [w.extent, w.range, w.normalize, w.fused] {
                assert!(workgroups <= MOST_WORKGROUPS, "{w:?}");
            }
        }
    }

    /// Every one of them begins a word: none is contiguous with the next.
    #[test]
    fn the_fullest_batch_of_odd_images_fits_its_slot() {
        for samples in [1, 3, 5, 4097] {
            let images = u64::from(MOST_IMAGES);
            let spans = [span(Dtype::U8, samples, images)];
            let tuning = Tuning { batch_pixels: samples * images, ..Tuning::CHOSEN };
            let sizes = Sizes::tuned(&spans, 1 << 24, &tuning, |_| true);
            let mut batch = Batch::new(Norm::MinMax, Dtype::U8);
            for _ in 0..images.min(sizes.samples / samples) {
                let first = batch.reserve(usize::try_from(samples).unwrap());
                batch.push(Role::Whole, first, samples);
            }
            let raw = u64::from(batch.raw());
            assert!(raw <= sizes.raw, "{samples}: {raw} bytes, room for {}", sizes.raw);
        }
    }
}
