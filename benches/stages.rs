//! Extent and normalize alone, on both backends, over sizes. Every bench first holds the answer
//! against the oracle, so that a wrong engine cannot win. The GPU's figures include the copies to
//! and from the device; on software Vulkan they say nothing of a card.

#![allow(clippy::cast_possible_truncation, reason = "made data, whose sizes and values are small")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tensortiff::backend::cpu::{extent, normalize};
use tensortiff::normalize::oracle;
use tensortiff::{Dtype, Norm};

/// Samples of one image: in the first-level cache, in the second, in memory.
const SIZES: [usize; 4] = [784, 1 << 12, 1 << 16, 1 << 22];

/// Uneven values of both signs.
fn samples(count: usize) -> Vec<f32> {
    let noise = |i: usize| (i as u32).wrapping_mul(2_654_435_761) >> 8;
    (0..count).map(|i| noise(i) as f32 / 1e6 - 8.0).collect()
}

fn cpu(c: &mut Criterion) {
    for size in SIZES {
        let samples = samples(size);
        let (found, pixels) =
            oracle::normalize(Norm::MinMax, Dtype::F32, bytemuck::cast_slice(&samples));
        assert_eq!(extent::extent(&samples), found);
        let (lo, hi) = (found.min as f32, found.max as f32);
        let mut buffer = samples.clone();
        normalize::normalize_f32(lo, hi, &found, &mut buffer);
        assert!(buffer == pixels);

        let mut group = c.benchmark_group("cpu");
        group.throughput(Throughput::Bytes(4 * size as u64));
        group.bench_function(BenchmarkId::new("extent f32", size), |b| {
            b.iter(|| extent::extent(&samples));
        });
        let wide: Vec<f64> = samples.iter().map(|&x| x.into()).collect();
        group.throughput(Throughput::Bytes(8 * size as u64));
        group.bench_function(BenchmarkId::new("extent f64", size), |b| {
            b.iter(|| extent::extent(&wide));
        });
        group.throughput(Throughput::Bytes(4 * size as u64));
        group.bench_function(BenchmarkId::new("normalize f32", size), |b| {
            // In place again and again: the values stay within 0..1, the work is the same.
            b.iter(|| normalize::normalize_f32(lo, hi, &found, &mut buffer));
        });
    }
}

#[cfg(feature = "gpu")]
fn gpu(c: &mut Criterion) {
    use tensortiff::Extent;
    use tensortiff::backend::cpu::range::{DeviceExtent, DeviceRange};
    use tensortiff::backend::gpu::batch::{Batch, Role};
    use tensortiff::backend::gpu::kernels::Kernel;
    use tensortiff::backend::gpu::stage::Stage;

    let gpu = support::gpu();
    for size in SIZES {
        let samples = samples(size);
        let raw: &[u32] = bytemuck::cast_slice(&samples);
        let (found, pixels) =
            oracle::normalize(Norm::MinMax, Dtype::F32, bytemuck::cast_slice(&samples));
        let before = || Stage {
            extents: vec![DeviceExtent::default()],
            ranges: vec![DeviceRange::from(tensortiff::Range::of(
                &Norm::MinMax.into(),
                &found.into(),
                false,
            ))],
            pixels: vec![0; size],
        };
        let batch = |role| {
            let mut batch = Batch::new(Norm::MinMax, Dtype::F32);
            let at = batch.reserve(4 * size);
            batch.push(role, at, size as u64);
            batch
        };
        let (look, make) = (batch(Role::Extent), batch(Role::Normalize(before().ranges[0])));
        let after = gpu.stage(Kernel::Extent, &look, raw, &before()).expect("the device works");
        assert_eq!(Extent::from(after.extents[0]), found);
        let after = gpu.stage(Kernel::Normalize, &make, raw, &before()).expect("the device works");
        assert!(after.pixels.iter().zip(&pixels).all(|(a, b)| *a == b.to_bits()));

        let mut group = c.benchmark_group(format!("gpu {}", support::name(&gpu)));
        group.sample_size(10);
        group.throughput(Throughput::Bytes(4 * size as u64));
        for (name, kernel, batch) in
            [("extent f32", Kernel::Extent, &look), ("normalize f32", Kernel::Normalize, &make)]
        {
            group.bench_function(BenchmarkId::new(name, size), |b| {
                b.iter(|| gpu.stage(kernel, batch, raw, &before()));
            });
        }
    }
}

#[cfg(not(feature = "gpu"))]
fn gpu(_: &mut Criterion) {}

#[cfg(feature = "gpu")]
mod support;

criterion_group!(benches, cpu, gpu);
criterion_main!(benches);
