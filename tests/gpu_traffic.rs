//! What the GPU half moves and starts, counted where the device is told to (`backend/gpu/recording.rs`,
//! beside which nothing may, says `tests/house.rs`): nothing twice, nothing more than it must, and tiny
//! images many at a time. (How long a card takes for it is another matter: `tensortiff bench`.)

#![cfg(feature = "gpu")]
#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

use std::sync::Arc;

use tensortiff::backend::cpu::range::{DeviceExtent, DeviceRange};
use tensortiff::backend::gpu::batch::MOST_IMAGES;
use tensortiff::backend::gpu::hooks::Hooks;
use tensortiff::backend::gpu::kernels::Kernel;
use tensortiff::backend::gpu::layout::{BINS, GATHERED_WORDS, Image, Params, TILE, Tile};
use tensortiff::backend::gpu::tuning::{Shape, Tuning};
use tensortiff::backend::gpu::{Gpu, GpuStats, adapters};
use tensortiff::{Device, Devices, Dtype, MemorySource, Norm, NullSink, Options, convert};

fn open(timed: bool) -> Arc<Gpu> {
    let all = adapters();
    let wanted = std::env::var("TENSORTIFF_TEST_ADAPTER").unwrap_or("llvmpipe".into());
    let adapter = all.iter().find(|adapter| adapter.info.matches_name(&wanted));
    let adapter = adapter.expect("install software Vulkan: mesa-vulkan-drivers libvulkan1");
    let open = if timed { Gpu::open_timed } else { Gpu::open };
    Arc::new(open(adapter, 4).unwrap())
}

/// What a run over one tensor of images does on the device alone.
fn stats(gpu: &Arc<Gpu>, dtype: Dtype, shape: [u64; 3]) -> GpuStats {
    let bytes = shape.iter().product::<u64>() * dtype.size() as u64;
    let samples: Vec<u8> = (0..bytes).map(|i| (i % 61) as u8).collect();
    let source = MemorySource::new("m").with("t", dtype, &shape, samples).unwrap();
    let devices = Devices::List(vec![Device::Ready(gpu.clone())]);
    let report = convert(&source, &NullSink, &Options { devices, ..Options::default() }).unwrap();
    assert_eq!((report.images, report.failed), (shape[0], 0));
    assert_eq!(report.devices.len(), 1, "{:?}", report.devices);
    assert_eq!(report.devices[0].images, shape[0], "the device did not do all");
    gpu.stats()
}

fn of(stats: &GpuStats, kernel: Kernel) -> u64 {
    stats.kernels[kernel as usize].dispatches
}

const fn bytes<T>() -> u64 {
    size_of::<T>() as u64
}

/// What goes up with an image beside its samples and tiles: no range, which the device makes.
const IMAGE: u64 = bytes::<Image>();

#[test]
fn tiny_images_go_by_the_thousand() {
    let gpu = open(false);
    let (images, samples) = (100_000, 28 * 28);
    let stats = stats(&gpu, Dtype::F32, [images, 28, 28]);
    // 313 MB: by the 25 MB or more, but for some at the end, so that no device waits for another.
    let fewest = images.div_ceil(u64::from(MOST_IMAGES));
    assert!((fewest..=2 * fewest + 2).contains(&stats.batches), "{stats:?}");
    assert!(stats.batches <= 16, "{stats:?}");
    assert_eq!(stats.submissions, stats.batches);
    // One kernel does all, in one dispatch a batch.
    assert_eq!(of(&stats, Kernel::Fused), stats.batches);
    // Samples are read once, and pixels written once.
    assert_eq!(stats.kernels[Kernel::Fused as usize].bytes, images * samples * 8);
    assert_eq!(stats.dispatches, stats.batches);
    // Parameters, images, tiles and samples up; pixels and extents down.
    assert_eq!(stats.copies, 6 * stats.batches);
    let orders = stats.batches * bytes::<Params>() + images * (IMAGE + bytes::<Tile>());
    assert_eq!(stats.bytes_up, images * samples * 4 + orders);
    assert_eq!(stats.bytes_down, images * (samples * 4 + bytes::<DeviceExtent>()));
}

#[test]
fn larger_images_are_looked_at_and_made_once() {
    let gpu = open(false);
    let (images, side) = (24, 512);
    let samples = side * side;
    let stats = stats(&gpu, Dtype::F32, [images, side, side]);
    // A slot holds a quarter of them, and each of the two readers may end with a part of one.
    assert!((4..=5).contains(&stats.batches), "{stats:?}");
    for kernel in [Kernel::Extent, Kernel::Range, Kernel::Normalize] {
        assert_eq!(of(&stats, kernel), stats.batches, "{kernel:?} {stats:?}");
    }
    assert_eq!(of(&stats, Kernel::Fused), 0);
    assert_eq!(stats.dispatches, 3 * stats.batches);
    assert_eq!(stats.copies, 6 * stats.batches);
    let tiles = 2 * samples.div_ceil(u64::from(TILE));
    let orders = stats.batches * bytes::<Params>() + images * (IMAGE + tiles * bytes::<Tile>());
    assert_eq!(stats.bytes_up, images * samples * 4 + orders);
    assert_eq!(stats.bytes_down, images * (samples * 4 + bytes::<DeviceExtent>()));
    let moved = |kernel: Kernel| stats.kernels[kernel as usize].bytes;
    assert_eq!(moved(Kernel::Extent), images * samples * 4);
    assert_eq!(moved(Kernel::Normalize), images * samples * 8);
    assert_eq!(moved(Kernel::Range), images * (bytes::<DeviceExtent>() + bytes::<DeviceRange>()));
}

/// Percentiles are found by two looks at each sample, and what was found is all that comes back.
#[test]
fn looks_at_samples_are_counted() {
    let gpu = open(false);
    let (images, side) = (3, 1100);
    let samples = side * side;
    let value = |i: u64| (i * i % 25_117) as f32;
    let bytes: Vec<u8> = (0..images * samples).flat_map(|i| value(i).to_le_bytes()).collect();
    let shape = [images, side, side];
    let source = MemorySource::new("m").with("t", Dtype::F32, &shape, bytes).unwrap();
    let devices = Devices::List(vec![Device::Ready(gpu.clone())]);
    let options = Options {
        devices,
        rule: Norm::Percentile { low: 1.0, high: 99.0 }.into(),
        ..Options::default()
    };
    assert_eq!(convert(&source, &NullSink, &options).unwrap().images, images);
    let looks = gpu.stats().kernels[Kernel::Gather as usize];
    // Keys of 32 bits, of which a look settles 16; of each no more comes back than the counts of the four samples
    // that are sought.
    let found =
        looks.bytes.checked_sub(2 * images * samples * 4).expect("two looks at each sample");
    let most = looks.dispatches * 4 * u64::from(GATHERED_WORDS + 4 * BINS);
    let least = looks.dispatches * 4 * u64::from(GATHERED_WORDS + BINS);
    assert!((least..=most).contains(&found) && looks.dispatches >= 2 * images, "{looks:?}");
}

/// Raw codes go up as they are, and are decoded there.
#[test]
fn narrow_samples_take_less_of_the_way_up() {
    let gpu = open(false);
    let shape = [64, 128, 128];
    let samples = shape.iter().product::<u64>();
    for dtype in [Dtype::U8, Dtype::Bf16, Dtype::F32] {
        let stats = stats(&gpu, dtype, shape);
        let orders = stats.bytes_up - samples * dtype.size() as u64;
        assert!(orders < 100 * 64, "{dtype}: {orders} bytes of orders, {stats:?}");
        assert_eq!(stats.bytes_down, samples * 4 + 64 * bytes::<DeviceExtent>(), "{dtype}");
    }
}

/// One that is larger than a buffer, for its extent and for its pixels; every other image once.
#[test]
fn only_images_larger_than_a_buffer_go_up_twice() {
    let gpu = open(false);
    for (block_samples, times) in [(None, 1), (Some(100_000), 2)] {
        let shape = [3, 500, 700];
        let samples: Vec<u8> = (0..3 * 500 * 700).map(|i| (i % 61) as u8).collect();
        let count = samples.len() as u64;
        let source = MemorySource::new("m").with("t", Dtype::U8, &shape, samples).unwrap();
        let devices = Devices::List(vec![Device::Ready(gpu.clone())]);
        let options = Options { devices, block_samples, ..Options::default() };
        assert_eq!(convert(&source, &NullSink, &options).unwrap().images, 3);
        let stats = gpu.stats();
        let orders = stats.bytes_up - times * count;
        assert!(orders < 100 * 1024, "{orders} bytes of orders, {stats:?}");
        let extents = stats.bytes_down - 4 * count;
        assert!(extents < 1024, "{extents} bytes of extents, {stats:?}");
        let started: u64 = stats.kernels.iter().map(|kernel| kernel.dispatches).sum();
        assert_eq!(stats.dispatches, started, "{stats:?}");
        let looked = stats.kernels[Kernel::Extent as usize].bytes;
        let made = stats.kernels[Kernel::Normalize as usize].bytes;
        assert_eq!((looked, made), (count, 5 * count));
    }
}

/// Others than those that were chosen are proved like them, and do what they say.
#[test]
fn ring_batches_and_kernels_can_have_other_shapes() {
    let shape = Shape { workgroup: 64, tile: 1024, small: 700, lanes: 8 };
    let tuning = Tuning { slots: 5, readers: Some(3), batch_pixels: 1 << 18, shape };
    let all = adapters();
    let adapter = all.iter().find(|adapter| adapter.info.matches_name("llvmpipe")).unwrap();
    let gpu = Gpu::open_with(adapter, 4, &Hooks { tuning, ..Hooks::NONE }).unwrap();
    assert!(gpu.proof().images > 1000);
    let gpu = Arc::new(gpu);
    let stats = stats(&gpu, Dtype::F32, [2000, 28, 28]);
    assert!(stats.batches >= 6, "{stats:?}");
    assert_eq!(of(&stats, Kernel::Fused), 0, "784 samples are no small image here");
    assert!(of(&stats, Kernel::Normalize) >= 6);
}

/// Timing changes passes, not what is done; and ordinary runs are not timed.
#[test]
fn kernels_are_timed_where_that_is_asked_for() {
    for timed in [false, true] {
        let gpu = open(timed);
        for (shape, kernels) in [
            ([3000, 28, 28], &[Kernel::Fused][..]),
            ([8, 300, 300], &[Kernel::Extent, Kernel::Range, Kernel::Normalize][..]),
        ] {
            let stats = stats(&gpu, Dtype::F16, shape);
            for kernel in Kernel::ALL {
                let of = stats.kernels[kernel as usize];
                let used = kernels.contains(&kernel);
                assert_eq!(of.dispatches > 0, used, "{kernel:?} {stats:?}");
                assert_eq!(of.nanoseconds > 0, used && timed, "{kernel:?} {stats:?}");
                assert_eq!(of.gigabytes_a_second().is_some(), used && timed);
            }
            let copies = (stats.nanoseconds_up > 0, stats.nanoseconds_down > 0);
            assert_eq!(copies, (timed, timed), "{stats:?}");
        }
    }
}

#[test]
fn a_device_knows_how_fast_it_copies() {
    for timed in [false, true] {
        let speeds = open(timed).speeds(8 << 20).unwrap();
        assert_eq!(speeds.by_its_clock, timed);
        for speed in [speeds.copy, speeds.up, speeds.down] {
            assert!((0.01..100_000.0).contains(&speed), "{speeds:?}");
        }
    }
}
