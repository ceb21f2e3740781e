//! The whole conversion, from memory to the null sink (everything but files) and to files, on the
//! CPU, a GPU and both. On software Vulkan the GPU's figures say nothing of a card.

#![allow(clippy::cast_possible_truncation, reason = "made data, whose sizes and values are small")]

use std::path::Path;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tensortiff::{
    Device, Devices, Dtype, FilesSink, MemorySource, NullSink, Options, Sink, convert,
};

#[cfg(feature = "gpu")]
mod support;

/// Name, dtype and shape of each case: about 16 MiB of pixels.
const CASES: [(&str, Dtype, [u64; 3]); 4] = [
    ("tiny f32 28x28", Dtype::F32, [5000, 28, 28]),
    ("medium f32 512x512", Dtype::F32, [16, 512, 512]),
    ("medium bf16 256x256", Dtype::Bf16, [64, 256, 256]),
    ("large f32 2048x2048", Dtype::F32, [1, 2048, 2048]),
];

fn source(dtype: Dtype, shape: &[u64]) -> MemorySource<'static> {
    let count = usize::try_from(shape.iter().product::<u64>()).expect("it fits memory");
    let noise = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 12) as f32 / 1e5 - 5.0;
    let bytes: Vec<u8> = match dtype {
        // bf16 is the upper half of an f32.
        Dtype::Bf16 => (0..count).flat_map(|i| noise(i).to_le_bytes()[2..].to_vec()).collect(),
        _ => (0..count).flat_map(|i| noise(i).to_le_bytes()).collect(),
    };
    MemorySource::new("m").with("t", dtype, shape, bytes).expect("the shape fits")
}

fn fleets() -> Vec<(&'static str, Devices)> {
    #[cfg_attr(not(feature = "gpu"), allow(unused_mut, reason = "only GPUs are added"))]
    let mut fleets = vec![("cpu", Devices::List(vec![Device::Cpu]))];
    #[cfg(feature = "gpu")]
    {
        let gpu = support::gpu();
        println!("gpu: {}", support::name(&gpu));
        let ready = || Device::Ready(gpu.clone());
        fleets.push(("gpu", Devices::List(vec![ready()])));
        fleets.push(("both", Devices::List(vec![Device::Cpu, ready()])));
    }
    fleets
}

fn run(source: &MemorySource<'_>, sink: &dyn Sink, devices: &Devices) {
    let options = Options { devices: devices.clone(), ..Options::default() };
    let report = convert(source, sink, &options).expect("the run succeeds");
    assert_eq!((report.images, report.failed), (report.planned, 0));
}

fn conversions(c: &mut Criterion) {
    let folder = if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "." };
    for (name, dtype, shape) in CASES {
        let source = source(dtype, &shape);
        let bytes = shape.iter().product::<u64>() * dtype.size() as u64;
        for (fleet, devices) in fleets() {
            let mut group = c.benchmark_group(name);
            group.sample_size(10);
            group.throughput(Throughput::Bytes(bytes));
            group.bench_function(BenchmarkId::new("null", fleet), |b| {
                b.iter(|| run(&source, &NullSink, &devices));
            });
            // Fresh folders, which are kept until the bench is over: making files where others
            // were just deleted is slow on some disks.
            let kept = tempfile::tempdir_in(folder).expect("a folder");
            let mut number = 0;
            group.bench_function(BenchmarkId::new("files", fleet), |b| {
                b.iter_batched(
                    || {
                        number += 1;
                        FilesSink::new(kept.path().join(number.to_string()), false)
                    },
                    |sink| run(&source, &sink, &devices),
                    BatchSize::PerIteration,
                );
            });
        }
    }
}

criterion_group!(benches, conversions);
criterion_main!(benches);
