//! What a GPU finds out of samples before their pixels are made: statistics, and ranges of percentiles and
//! of wide scopes. They are what the CPU finds, to the last bit, whatever fails meanwhile; and it is the GPU
//! that looked.

#![cfg(feature = "gpu")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data is small, and a test that panics says where"
)]

mod common;

use std::sync::{Arc, Mutex};

use common::Random;
use tensortiff::backend::gpu::hooks::{Fault, Hooks};
use tensortiff::backend::gpu::kernels::Kernel;
use tensortiff::backend::gpu::{Gpu, adapters};
use tensortiff::{
    Device, Devices, Dtype, Error, MemorySink, MemorySource, Norm, Options, Report, Scope,
    ScopeStats, Source, Watch, convert, stats,
};

fn open(hooks: &Hooks) -> Arc<Gpu> {
    let all = adapters();
    let adapter = all.iter().find(|adapter| adapter.info.matches_name(&common::wanted()));
    Arc::new(Gpu::open_with(adapter.expect("software Vulkan"), 2, hooks).unwrap())
}

fn alone(gpu: &Arc<Gpu>) -> Devices {
    Devices::List(vec![Device::Ready(gpu.clone())])
}

fn beside(gpu: &Arc<Gpu>) -> Devices {
    Devices::List(vec![Device::Cpu, Device::Ready(gpu.clone())])
}

fn cpu() -> Devices {
    Devices::List(vec![Device::Cpu])
}

/// Every type that is computed in f32, and tensors of more than one piece; samples that are nothing special,
/// few values, and none that is finite.
fn source() -> MemorySource<'static> {
    let mut random = Random(11);
    let mut source = MemorySource::new("m");
    for dtype in Dtype::ALL.into_iter().filter(|dtype| !dtype.is_wide()) {
        let bytes = random.bytes(3 * 37 * 41 * dtype.size());
        source = source.with(dtype.name(), dtype, &[3, 37, 41], bytes).unwrap();
    }
    let normal = |at: u64| ((at * at % 1009) as f32 - 300.0) / 7.0;
    let few = |at: u64| [0.0, -0.0, 1.5, 1.5, -3e-41, f32::MAX][(at % 6) as usize];
    let none = |at: u64| [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][(at % 3) as usize];
    let f32s = |shape: &[u64], value: &dyn Fn(u64) -> f32| -> Vec<u8> {
        (0..shape.iter().product()).flat_map(|at| value(at).to_le_bytes()).collect()
    };
    type Value<'v> = &'v dyn Fn(u64) -> f32;
    let shapes: [(&str, &[u64], Value<'_>); 4] = [
        ("normal", &[3, 2, 600, 700], &normal),
        ("few", &[2, 1, 900, 800], &few),
        ("none", &[2, 30, 20], &none),
        ("one", &[1, 1], &normal),
    ];
    for (name, shape, value) in shapes {
        source = source.with(name, Dtype::F32, shape, f32s(shape, value)).unwrap();
    }
    let halves = random.bytes(2 * 1100 * 1001);
    source.with("halves", Dtype::Bf16, &[1100, 1001], halves).unwrap()
}

fn samples(source: &dyn Source) -> u64 {
    source.tensors().iter().map(|tensor| tensor.elements().unwrap()).sum()
}

#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Watch for Notes {
    fn planned(&self, _: u64, _: u64) {}

    fn advanced(&self, _: u64, _: u64) {}

    fn note(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

const PERCENTS: [f64; 7] = [0.0, 1.0, 25.0, 50.0, 50.0, 99.9, 100.0];

fn told(source: &dyn Source, scope: Scope, devices: Devices) -> (Vec<ScopeStats>, Vec<String>) {
    let notes = Arc::new(Notes::default());
    let watch: Option<Arc<dyn Watch>> = Some(notes.clone());
    let options = Options { scope, devices, watch, ..Options::default() };
    let mut told = Vec::new();
    stats(source, &options, &PERCENTS, &mut |found| {
        told.push(found);
        Ok(())
    })
    .unwrap();
    let notes = std::mem::take(&mut *notes.0.lock().unwrap());
    (told, notes)
}

const SCOPES: [Scope; 4] = [Scope::Image, Scope::Channel, Scope::Tensor, Scope::Dump];

#[test]
fn statistics_are_those_of_the_cpu() {
    let source = source();
    let gpu = open(&Hooks::NONE);
    // Before each run it proves itself.
    let one = MemorySource::new("m").with("t", Dtype::U8, &[1, 1], vec![3]).unwrap();
    drop(told(&one, Scope::Image, alone(&gpu)));
    let proof = gpu.looked() - 2;
    for scope in SCOPES {
        let (want, notes) = told(&source, scope, cpu());
        assert!(!want.is_empty() && notes.is_empty(), "{notes:?}");
        let before = gpu.looked();
        let (found, notes) = told(&source, scope, alone(&gpu));
        assert_eq!(found, want, "{scope:?}");
        assert!(notes.is_empty(), "{notes:?}");
        // Keys are settled in two passes; images are looked at for constant ones before.
        let passes = if scope == Scope::Image { 2 } else { 3 };
        let looked = gpu.looked() - before - proof;
        let most = passes * samples(&source);
        // Of what has no finite sample there is no second pass.
        assert!((most - 1200..=most).contains(&looked), "{scope:?}: {looked} of {most}");
        let before = gpu.looked();
        assert_eq!(told(&source, scope, beside(&gpu)).0, want, "{scope:?}, both");
        // Scopes of more than a piece are for all.
        assert!(scope == Scope::Image || gpu.looked() > before + proof, "{scope:?}");
    }
}

#[test]
fn types_that_no_kernel_takes_are_refused_or_the_cpus() {
    let wide: Vec<u8> =
        (0..1_200_000_u32).flat_map(|at| f64::from(at % 999).to_le_bytes()).collect();
    let source = source().with("wide", Dtype::F64, &[1000, 1200], wide).unwrap();
    let gpu = open(&Hooks::NONE);
    let options = Options { devices: alone(&gpu), ..Options::default() };
    let refused = stats(&source, &options, &PERCENTS, &mut |_| Ok(())).unwrap_err();
    assert!(matches!(&refused, Error::CpuOnly { tensor, .. } if tensor == "wide"), "{refused}");
    for scope in [Scope::Tensor, Scope::Dump] {
        let want = told(&source, scope, cpu()).0;
        assert_eq!(told(&source, scope, beside(&gpu)).0, want, "{scope:?}");
    }
}

fn made(source: &dyn Source, options: &Options) -> (Vec<(String, Vec<u8>)>, Report) {
    let sink = MemorySink::default();
    let report = convert(source, &sink, options).unwrap();
    assert_eq!((report.images, report.failed), (report.planned, 0), "{:?}", report.notes);
    (sink.into_files().into_iter().collect(), report)
}

#[test]
fn images_by_percentiles_and_in_wide_scopes_are_those_of_the_cpu() {
    let source = source();
    let gpu = open(&Hooks::NONE);
    let percentile = Norm::Percentile { low: 2.0, high: 97.5 };
    for (norm, block_samples) in [
        (percentile, None),
        (percentile, Some(100_000)),
        (Norm::MinMax, None),
        (Norm::Symmetric, None),
    ] {
        for scope in SCOPES {
            let options = Options { rule: norm.into(), scope, block_samples, ..Options::default() };
            let (want, _) = made(&source, &Options { devices: cpu(), ..options.clone() });
            let before = gpu.looked();
            let (found, report) =
                made(&source, &Options { devices: alone(&gpu), ..options.clone() });
            assert!(found == want, "{norm} {scope:?}");
            let [device] = &report.devices[..] else { panic!("{:?}", report.devices) };
            assert_eq!((&*device.name, &report.notes[..]), (gpu_name(&gpu), &[][..]));
            let is_before = scope != Scope::Image || norm == percentile;
            assert_eq!(gpu.looked() > before, is_before, "{norm} {scope:?}");
        }
    }
}

fn gpu_name(gpu: &Gpu) -> &str {
    tensortiff::backend::Backend::name(gpu)
}

#[test]
fn a_device_that_fails_costs_no_range() {
    let source = source();
    let want = told(&source, Scope::Tensor, cpu()).0;
    let options = Options {
        rule: Norm::Percentile { low: 1.0, high: 99.0 }.into(),
        scope: Scope::Tensor,
        ..Options::default()
    };
    let (files, _) = made(&source, &Options { devices: cpu(), ..options.clone() });
    for fault in [Fault::LostBefore, Fault::LostAfter, Fault::LostMapping, Fault::Invalid] {
        for submissions in [0, 40, 70] {
            let hooks = Hooks { submissions, fault, ..Hooks::NONE };
            let (found, notes) = told(&source, Scope::Tensor, alone(&open(&hooks)));
            assert_eq!(found, want, "{fault:?} after {submissions}");
            let is_told = notes.iter().any(|note| note.ends_with("; others look at its samples"));
            assert!(is_told, "{fault:?} after {submissions}: {notes:?}");
            for (devices, is_alone) in
                [(alone(&open(&hooks)), true), (beside(&open(&hooks)), false)]
            {
                let (found, report) = made(&source, &Options { devices, ..options.clone() });
                assert!(found == files, "{fault:?} after {submissions}");
                // Beside the CPU it may not come so far.
                assert!(!is_alone || !report.notes.is_empty(), "{fault:?} after {submissions}");
            }
        }
    }
}

type Rewrite = fn(Kernel, &str) -> Option<String>;

fn changed(kernel: Kernel, text: &str, from: &str, to: &str) -> Option<String> {
    let is_gather = kernel == Kernel::Gather;
    assert!(!is_gather || text.contains(from), "{from}");
    is_gather.then(|| text.replace(from, to))
}

/// Drivers that get one thing wrong.
const WRONG: [(&str, Rewrite); 8] = [
    ("extents", |k, t| {
        changed(k, t, "part[0], extent.max_key)", "part[0], extent.max_key + 4096u)")
    }),
    ("NaN", |k, t| changed(k, t, "part[2], extent.nan)", "part[2], 2u * extent.nan)")),
    ("samples left out", |k, t| {
        changed(k, t, "part[5], extent.visited)", "part[5], extent.visited / 2u)")
    }),
    ("zeros", |k, t| changed(k, t, "(x & 0x7FFFFFFFu) == 0u)", "x == 0u)")),
    ("sums", |k, t| {
        changed(
            k,
            t,
            "add(at + 2u, mantissa >> 16u, negative)",
            "add(at + 2u, mantissa >> 16u, false)",
        )
    }),
    ("squares", |k, t| changed(k, t, "+ (low >> 24u);", ";")),
    ("upper bits of keys", |k, t| {
        changed(k, t, "(key >> 16u)], 1u)", "((key + 512u) >> 16u)], 1u)")
    }),
    ("lower bits of keys", |k, t| changed(k, t, "(key & 0xFFFFu)], 1u)", "(key & 0xFFFEu)], 1u)")),
];

#[test]
fn a_device_that_is_wrong_is_found_and_not_believed() {
    let source = source();
    let want = told(&source, Scope::Tensor, cpu()).0;
    for (what, rewrite) in WRONG {
        let gpu = open(&Hooks { rewrite, ..Hooks::NONE });
        let (found, notes) = told(&source, Scope::Tensor, alone(&gpu));
        assert_eq!(found, want, "{what}");
        let is_told =
            |note: &String| note.contains("computes wrongly") || note.contains("looked at");
        assert!(notes.len() == 1 && is_told(&notes[0]), "{what}: {notes:?}");
    }
}
