//! Every norm and every option of it, for every element type, through the whole run: every file is
//! the oracle's, bit for bit, on the CPU, on a GPU that takes it, and on both at once.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data is small, and a test that panics says where"
)]

mod common;

use common::{Random, files, fleets};
use tensortiff::normalize::{RuleText, oracle};
use tensortiff::{Dtype, Error, MemorySink, MemorySource, Norm, Options, Rule, Scope, convert};

/// What can be typed.
fn rule(options: &str) -> (Rule, Scope) {
    let mut text = RuleText::default();
    for option in options.split_whitespace() {
        let (name, value) = option.split_once('=').unwrap();
        assert!(text.set(name, value), "{name}");
    }
    text.read().unwrap_or_else(|error| panic!("{options}: {error}"))
}

const RULES: [&str; 29] = [
    "norm=percentile",
    "norm=percentile clip=0,100",
    "norm=percentile clip=25,75 nonfinite=clamp",
    "norm=percentile clip=49.9,50.1 constant=half",
    "norm=percentile clip=5,95 gamma=0.5 out-range=0,255",
    "norm=symmetric",
    "norm=symmetric nonfinite=zero out-range=-1,1",
    "norm=symmetric constant=zero",
    "norm=zscore",
    "norm=zscore constant=zero",
    "norm=zscore sigma=2",
    "norm=zscore sigma=2.3",
    "norm=zscore sigma=0.5 nonfinite=clamp gamma=2.2",
    "norm=fixed range=-1,1",
    "norm=fixed range=0,255 nonfinite=clamp",
    "norm=fixed range=-3e38,3e38",
    "norm=fixed range=1e-45,1e-44 nonfinite=zero",
    "norm=minmax constant=zero",
    "norm=minmax constant=half nonfinite=clamp",
    "norm=minmax nonfinite=zero",
    "norm=minmax nonfinite=clamp out-range=10,-7.5",
    "norm=minmax gamma=2.2",
    "norm=minmax gamma=0.45 out-range=0,65535",
    "norm=minmax out-range=0.1,0.7",
    "norm=minmax out-range=3,3.000001",
    "norm=minmax out-range=1e8,1",
    "norm=percentile out-range=0.3,1e-9",
    "norm=minmax constant=half out-range=0,255 gamma=2",
    "norm=none",
];

/// Images of a type: random bits, few values, one value, none finite, nearly all the same.
fn images(dtype: Dtype, samples: usize, random: &mut Random) -> Vec<Vec<u8>> {
    let size = dtype.size();
    let any = random.bytes(samples * size);
    let few: Vec<u8> = any.chunks(size).flat_map(|_| &any[..size * 3]).copied().collect();
    let few = few[..samples * size].to_vec();
    let one = any[size..2 * size].repeat(samples);
    let none = match dtype {
        Dtype::F32 => f32::NAN.to_le_bytes().repeat(samples),
        Dtype::F64 => f64::NEG_INFINITY.to_le_bytes().repeat(samples),
        Dtype::F16 | Dtype::Bf16 => 0x7FFF_u16.to_le_bytes().repeat(samples),
        Dtype::F8E4m3 | Dtype::F8E5m2 => vec![0x7F; samples],
        Dtype::F8E8m0 => vec![0xFF; samples],
        Dtype::F8E4m3Fnuz | Dtype::F8E5m2Fnuz => vec![0x80; samples],
        _ => vec![0; samples * size],
    };
    let mut nearly = one.clone();
    nearly[..size].copy_from_slice(&any[..size]);
    vec![any, few, one, none, nearly]
}

/// Ordinary numbers where random bits are mostly huge: percentiles and deviations mean something.
fn gentle(dtype: Dtype, samples: usize, random: &mut Random) -> Option<Vec<u8>> {
    let mut number = || (random.next() >> 40) as f32 / 1e6 - 8.0;
    let all: Vec<f32> = (0..samples).map(|_| number()).collect();
    Some(match dtype {
        Dtype::F32 => all.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Dtype::F64 => all.iter().flat_map(|x| (f64::from(*x) / 3.0).to_le_bytes()).collect(),
        Dtype::F16 => all.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect(),
        Dtype::Bf16 => all.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
        _ => return None,
    })
}

fn check(dtype: Dtype, shape: [u64; 2], images: &[Vec<u8>], options: &Options, what: &str) {
    let shape = [images.len() as u64, shape[0], shape[1]];
    let bytes = images.concat();
    let source = MemorySource::new("m").with("t", dtype, &shape, &bytes[..]).unwrap();
    let want = |k: usize| oracle::normalize(options.rule, dtype, &images[k]).1;
    for fleet in fleets() {
        // Alone a GPU finds percentiles before it makes images.
        let known = fleet.label == "gpu" && matches!(options.rule.norm, Norm::Percentile { .. });
        let spans_taken = !dtype.is_wide() && options.rule.is_linear(known);
        if fleet.label == "both" && !spans_taken {
            continue; // they would never meet
        }
        if fleet.label == "gpu" && !spans_taken {
            let devices = fleet.devices.clone();
            let refused =
                convert(&source, &MemorySink::default(), &Options { devices, ..options.clone() });
            assert!(matches!(refused, Err(Error::CpuOnly { .. })), "{what}: {refused:?}");
            continue;
        }
        let (files, report) = files(&source, options, &fleet);
        assert_eq!(report.failed, 0, "{what}");
        for (k, (name, file)) in files.iter().enumerate() {
            let want = want(k);
            let pixels = common::bits(&file[file.len() - 4 * want.len()..]);
            let differs = (0..pixels.len()).find(|&i| pixels[i] != want[i].to_bits());
            if let Some(i) = differs {
                let got = f32::from_bits(pixels[i]);
                panic!(
                    "{what} {dtype} {name} sample {i} on {}: {got:e}, not {:e}",
                    fleet.label, want[i]
                );
            }
        }
    }
}

#[test]
fn every_option_for_every_type_is_the_oracles() {
    let mut random = Random(11);
    for dtype in Dtype::ALL {
        for shape in [[5, 7], [33, 41]] {
            let samples = (shape[0] * shape[1]) as usize;
            let mut images = images(dtype, samples, &mut random);
            images.extend(gentle(dtype, samples, &mut random));
            for options in RULES {
                let (rule, scope) = rule(options);
                check(
                    dtype,
                    shape,
                    &images,
                    &Options { rule, scope, ..Options::default() },
                    options,
                );
            }
        }
    }
}

/// Images that are read twice or in blocks, and so looked at pass by pass.
#[test]
fn large_images_and_giants_are_the_oracles() {
    let mut random = Random(12);
    let kinds = [Dtype::F32, Dtype::Bf16, Dtype::U8, Dtype::F64, Dtype::I64, Dtype::F8E8m0];
    for dtype in kinds.into_iter().chain([Dtype::F4, Dtype::F8E5m2Fnuz]) {
        let shape = [1025, 1025]; // one more than is kept
        let samples = (shape[0] * shape[1]) as usize;
        let image = gentle(dtype, samples, &mut random)
            .unwrap_or_else(|| random.bytes(samples * dtype.size()));
        for options in [
            "norm=percentile",
            "norm=zscore",
            "norm=zscore sigma=3",
            "norm=fixed range=-2,3",
            "norm=symmetric",
        ] {
            let (rule, scope) = rule(options);
            let whole = Options { rule, scope, ..Options::default() };
            check(dtype, shape, std::slice::from_ref(&image), &whole, options);
            let blocks = Options { block_samples: Some(100_001), ..whole };
            check(
                dtype,
                shape,
                std::slice::from_ref(&image),
                &blocks,
                &format!("{options}, in blocks"),
            );
        }
    }
}

#[test]
fn samples_that_are_not_finite_fail_their_image_alone() {
    let mut random = Random(13);
    let mut bytes = Vec::new();
    for k in 0..4_u32 {
        for i in 0..12_u32 {
            let x = if k == 2 && i == 5 { f32::NAN } else { (random.next() >> 50) as f32 };
            bytes.extend(x.to_le_bytes());
        }
    }
    for (norm, block) in [
        ("norm=minmax", None),
        ("norm=none", None),
        ("norm=symmetric", None),
        ("norm=minmax", Some(5)),
        ("norm=none", Some(5)),
    ] {
        let (rule, _) = rule(&format!("{norm} nonfinite=fail"));
        let source = MemorySource::new("m").with("t", Dtype::F32, &[4, 3, 4], &bytes[..]).unwrap();
        for fleet in fleets() {
            if fleet.label == "gpu" && !rule.is_linear(false) {
                continue;
            }
            let options = Options {
                rule,
                block_samples: block,
                devices: fleet.devices.clone(),
                ..Options::default()
            };
            let sink = MemorySink::default();
            let report = convert(&source, &sink, &options).unwrap();
            assert_eq!((report.images, report.failed), (3, 1), "{norm} {block:?} {}", fleet.label);
            assert_eq!(report.failures[0].name, "m/t/2.tif");
            let said = report.failures[0].error.to_string();
            assert!(said.contains("1 NaN and 0 infinite"), "{said}");
            assert!(!sink.into_files().contains_key("m/t/2.tif"));
        }
    }
}

/// A tensor of a dump with several, and its images' bytes in order.
struct Tensor {
    name: &'static str,
    dtype: Dtype,
    shape: Vec<u64>,
    bytes: Vec<u8>,
}

impl Tensor {
    fn images(&self) -> impl Iterator<Item = &[u8]> {
        let samples: u64 = self.shape.iter().rev().take(2).product();
        self.bytes.chunks(samples as usize * self.dtype.size())
    }

    fn channels(&self) -> usize {
        self.shape.iter().rev().nth(2).copied().unwrap_or(1) as usize
    }
}

/// The pixels of all images, tensor by tensor, by the oracle.
fn expected(rule: Rule, scope: Scope, tensors: &[Tensor]) -> Vec<Vec<f32>> {
    let key = |tensor: usize, image: usize| match scope {
        Scope::Image => (tensor, image),
        Scope::Channel => (tensor, image % tensors[tensor].channels()),
        Scope::Tensor => (tensor, 0),
        Scope::Dump => (0, 0),
        Scope::Group => panic!("tests/picks.rs has groups"),
    };
    let all: Vec<_> = tensors
        .iter()
        .enumerate()
        .flat_map(|(t, tensor)| {
            tensor.images().enumerate().map(move |(k, raw)| (key(t, k), (tensor.dtype, raw)))
        })
        .collect();
    let mut of_scopes: std::collections::BTreeMap<_, (Vec<_>, usize)> = Default::default();
    for (key, image) in &all {
        of_scopes.entry(*key).or_default().0.push(*image);
    }
    let mut pixels: std::collections::BTreeMap<_, _> = of_scopes
        .iter()
        .map(|(key, (images, _))| (*key, oracle::scope(rule, images).1.into_iter()))
        .collect();
    all.iter().map(|(key, _)| pixels.get_mut(key).unwrap().next().unwrap()).collect()
}

fn check_scopes(rule: Rule, scope: Scope, tensors: &[Tensor], block: Option<u64>, what: &str) {
    let mut source = MemorySource::new("m");
    for t in tensors {
        source = source.with(t.name, t.dtype, &t.shape, &t.bytes[..]).unwrap();
    }
    let want = expected(rule, scope, tensors);
    let options = |threads| Options {
        rule,
        scope,
        block_samples: block,
        threads: std::num::NonZeroUsize::new(threads),
        ..Options::default()
    };
    // Names sort as tensors and images do.
    let compare = |files: &std::collections::BTreeMap<String, Vec<u8>>, who: &str| {
        assert_eq!(files.len(), want.len());
        for ((name, file), want) in files.iter().zip(&want) {
            let pixels = common::bits(&file[file.len() - 4 * want.len()..]);
            let differs = (0..pixels.len()).find(|&i| pixels[i] != want[i].to_bits());
            if let Some(i) = differs {
                let got = f32::from_bits(pixels[i]);
                panic!("{what} {scope:?} {name} sample {i}, {who}: {got:e}, not {:e}", want[i]);
            }
        }
    };
    for threads in [1, 3] {
        let options = Options { devices: "cpu".parse().unwrap(), ..options(threads) };
        let sink = MemorySink::default();
        let report = convert(&source, &sink, &options).unwrap();
        assert_eq!((report.images, report.failed), (want.len() as u64, 0), "{what}");
        compare(&sink.into_files(), &format!("{threads} threads"));
    }
    // On a GPU where it takes all of it; who did it is asserted there.
    if rule.is_linear(true) && tensors.iter().all(|tensor| !tensor.dtype.is_wide()) {
        for fleet in fleets().into_iter().filter(|fleet| fleet.label == "gpu") {
            compare(&files(&source, &options(1), &fleet).0, fleet.label);
        }
    }
}

/// Types apart, and types that share a range and are computed in f64 for it.
#[test]
fn ranges_that_images_share_are_the_oracles() {
    let mut random = Random(14);
    let mut tensor = |name, dtype: Dtype, shape: &[u64]| {
        let samples: u64 = shape.iter().product();
        let bytes = gentle(dtype, samples as usize, &mut random)
            .unwrap_or_else(|| random.bytes(samples as usize * dtype.size()));
        Tensor { name, dtype, shape: shape.to_vec(), bytes }
    };
    let narrow = [
        tensor("a", Dtype::F32, &[3, 4, 6, 5]),
        tensor("b", Dtype::Bf16, &[7, 9]),
        tensor("c", Dtype::U8, &[5, 8, 8]),
        tensor("d", Dtype::F16, &[2, 2, 2, 11, 3]),
        // More than shares a workgroup.
        tensor("e", Dtype::F32, &[2, 70, 71]),
        tensor("f", Dtype::F4, &[3, 5, 7]),
        tensor("g", Dtype::F6E3m2, &[2, 9, 9]),
        tensor("h", Dtype::F8E4m3Fnuz, &[2, 9, 9]),
    ];
    // Beside these all others are nothing.
    let powers = [tensor("a", Dtype::F8E8m0, &[3, 4, 6, 5]), tensor("b", Dtype::F6E2m3, &[7, 9])];
    let mixed = [
        tensor("a", Dtype::F32, &[2, 3, 6, 5]),
        tensor("b", Dtype::I32, &[2, 7, 9]),
        tensor("c", Dtype::F64, &[3, 8, 8]),
        tensor("d", Dtype::U8, &[4, 4]),
        tensor("e", Dtype::Bf16, &[3, 5, 7]),
        tensor("f", Dtype::F16, &[2, 5, 7]),
    ];
    // A NaN that must stay as it is.
    let mut holed = tensor("a", Dtype::F32, &[2, 3, 6, 5]);
    holed.bytes[40..44].copy_from_slice(&0xFFA1_2345_u32.to_le_bytes());
    let holed = [holed, tensor("b", Dtype::F64, &[2, 7, 9])];
    for options in
        RULES.into_iter().filter(|options| !options.contains("none") && !options.contains("fixed"))
    {
        let (rule, _) = rule(options);
        for scope in [Scope::Channel, Scope::Tensor, Scope::Dump] {
            check_scopes(rule, scope, &narrow, None, options);
            check_scopes(rule, scope, &narrow, Some(31), options);
            check_scopes(rule, scope, &powers, None, options);
            check_scopes(rule, scope, &mixed, None, options);
            check_scopes(rule, scope, &holed, None, options);
            check_scopes(rule, scope, &mixed, Some(31), options);
        }
    }
}

/// Scores of small numbers beside large ones round to zero, which has no sign.
#[test]
fn zeros_of_a_mixed_scope_are_positive() {
    let bytes = [-1e-3_f32, 1e-3, 0.0, -0.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let small = Tensor { name: "a", dtype: Dtype::F32, shape: vec![2, 2], bytes };
    let bytes = [-1e150_f64, 1e150, -1e-3, 1e-3].iter().flat_map(|x| x.to_le_bytes()).collect();
    let large = Tensor { name: "b", dtype: Dtype::F64, shape: vec![2, 2], bytes };
    let (rule, _) = rule("norm=zscore");
    let tensors = [small, large];
    assert_eq!(expected(rule, Scope::Dump, &tensors)[0].iter().map(|y| y.to_bits()).max(), Some(0));
    check_scopes(rule, Scope::Dump, &tensors, None, "zscore");
}

/// Of a channel that is selected nothing else is in the range.
#[test]
fn what_is_not_converted_is_in_no_range() {
    let mut random = Random(16);
    let shape = [3, 4, 5, 6];
    let bytes = gentle(Dtype::F32, shape.iter().product::<u64>() as usize, &mut random).unwrap();
    let source = MemorySource::new("m").with("a", Dtype::F32, &shape, &bytes[..]).unwrap();
    let images: Vec<(Dtype, &[u8])> =
        bytes.chunks(120).skip(2).step_by(4).map(|raw| (Dtype::F32, raw)).collect();
    for options in ["norm=minmax", "norm=percentile", "norm=zscore"] {
        let (rule, _) = rule(options);
        let (_, want) = oracle::scope(rule, &images);
        let selection = tensortiff::Selection { channel: Some(2), ..Default::default() };
        let options = Options {
            rule,
            scope: Scope::Tensor,
            selection,
            devices: "cpu".parse().unwrap(),
            ..Options::default()
        };
        let sink = MemorySink::default();
        assert_eq!(convert(&source, &sink, &options).unwrap().images, 3);
        for ((name, file), want) in sink.into_files().iter().zip(&want) {
            let pixels = common::bits(&file[file.len() - 4 * want.len()..]);
            assert!(pixels.iter().zip(want).all(|(got, want)| *got == want.to_bits()), "{name}");
        }
    }
}

/// Scopes that all workers do together, in pieces and passes.
#[test]
fn ranges_of_large_scopes_are_the_oracles() {
    let mut random = Random(15);
    let shapes = [[3, 2, 500, 701], [2, 1, 300, 301]];
    for (dtype, shape) in [Dtype::F32, Dtype::F64]
        .into_iter()
        .zip(shapes.into_iter().rev())
        .chain([Dtype::F64, Dtype::F32].into_iter().zip(shapes.into_iter().rev()))
    {
        let samples = shape.iter().product::<u64>() as usize;
        let tensors = [Tensor {
            name: "a",
            dtype,
            shape: shape.to_vec(),
            bytes: gentle(dtype, samples, &mut random).unwrap(),
        }];
        for options in ["norm=minmax", "norm=percentile", "norm=zscore"] {
            let (rule, _) = rule(options);
            for scope in [Scope::Channel, Scope::Tensor, Scope::Dump] {
                check_scopes(rule, scope, &tensors, None, options);
            }
        }
    }
}

/// What scripts/make-norms-golden.py has of NumPy, exact fractions and Python's math.
#[test]
fn every_norm_and_scope_is_numpys() {
    let golden = |name: &str| {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        common::read_safetensors(&folder.join(name))
    };
    let (inputs, expected) = (golden("norms.safetensors"), golden("norms_expected.safetensors"));
    let mut source = MemorySource::new("m");
    for (name, (dtype, shape, bytes)) in &inputs {
        source = source.with(name, Dtype::from_name(dtype).unwrap(), shape, &bytes[..]).unwrap();
    }
    let mut runs = std::collections::BTreeMap::new();
    for (name, (_, shape, bytes)) in &expected {
        let (options, tensor) = name.split_once('|').unwrap();
        let files = runs.entry(options).or_insert_with(|| {
            let (rule, scope) = rule(options);
            let devices = "cpu".parse().unwrap();
            let options = Options { rule, scope, devices, ..Options::default() };
            let sink = MemorySink::default();
            assert_eq!(convert(&source, &sink, &options).unwrap().failed, 0);
            sink.into_files()
        });
        let samples = (shape[1] * shape[2]) as usize;
        for (k, want) in bytes.chunks(4 * samples).enumerate() {
            let start = format!("m/{tensor}/");
            let mut of_tensor = files.iter().filter(|(name, _)| name.starts_with(&start));
            let (file, got) = of_tensor.nth(k).unwrap();
            let got = &got[got.len() - want.len()..];
            let differs = (0..samples).find(|&i| got[4 * i..4 * i + 4] != want[4 * i..4 * i + 4]);
            if let Some(i) = differs {
                let [got, want] = [got, want].map(|bytes| f32::from_bits(common::bits(bytes)[i]));
                panic!("{name}: {file} sample {i} is {got:e}, not {want:e}");
            }
        }
    }
    assert_eq!(runs.len(), 10 * 4 + 1);
}

/// The same of the other types: the oracle, whole runs, and a GPU where it takes them.
#[test]
fn every_norm_of_every_type_is_numpys() {
    let golden = |name: &str| {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        common::read_safetensors(&folder.join(name))
    };
    let inputs = golden("norms_types.safetensors");
    let expected = golden("norms_types_expected.safetensors");
    // With F32 and F64 of the test above, F4 and F6 apart: those have a test of their own.
    let others = [Dtype::F32, Dtype::F64, Dtype::U8, Dtype::F4, Dtype::F6E2m3, Dtype::F6E3m2];
    assert_eq!(inputs.len() + others.len(), Dtype::ALL.len());
    let mut source = MemorySource::new("m");
    for (name, (dtype, shape, bytes)) in &inputs {
        source = source.with(name, Dtype::from_name(dtype).unwrap(), shape, &bytes[..]).unwrap();
    }
    let wide = ["I32", "I64", "U32", "U64"];
    for (asked, (_, shape, want)) in &expected {
        let (rule, scope) = rule(asked);
        let samples = (shape[1] * shape[2]) as usize;
        let want: Vec<&[u8]> = want.chunks(4 * samples).collect();
        let same = |got: &[u8], image: usize, what: &str| {
            for i in 0..samples {
                let [got, want] = [got, want[image]].map(|bytes| common::bits(bytes)[i]);
                let [is, due] = [got, want].map(f32::from_bits);
                assert!(
                    got == want,
                    "{asked}: {what} sample {i}: {got:x} ({is:e}), not {want:x} ({due:e})"
                );
            }
        };
        for (at, (name, (dtype, _, bytes))) in inputs.iter().enumerate() {
            let dtype = Dtype::from_name(dtype).unwrap();
            let images: Vec<(Dtype, &[u8])> =
                bytes.chunks(bytes.len() / 2).map(|raw| (dtype, raw)).collect();
            let made = match scope {
                Scope::Image => {
                    images.iter().map(|(_, raw)| oracle::normalize(rule, dtype, raw).1).collect()
                }
                _ => oracle::scope(rule, &images).1,
            };
            for (k, pixels) in made.iter().enumerate() {
                let bytes: Vec<u8> = pixels.iter().flat_map(|y| y.to_le_bytes()).collect();
                same(&bytes, 2 * at + k, &format!("{name}[{k}] of the oracle"));
            }
        }
        for fleet in fleets().into_iter().filter(|fleet| fleet.label != "both") {
            let mut options = Options { rule, scope, ..Options::default() };
            if fleet.label == "gpu" {
                if !rule.is_linear(true) {
                    continue;
                }
                options.selection.exclude = wide.map(str::to_owned).to_vec();
            }
            let (made, _) = files(&source, &options, &fleet);
            let mut seen = 0;
            for (at, name) in inputs.keys().enumerate() {
                for k in 0..2 {
                    let Some(file) = made.get(&format!("m/{name}/{k}.tif")) else {
                        assert!(fleet.label == "gpu" && wide.contains(&name.as_str()));
                        continue;
                    };
                    let got = &file[file.len() - 4 * samples..];
                    same(got, 2 * at + k, &format!("{name}[{k}] on {}", fleet.label));
                    seen += 1;
                }
            }
            assert_eq!(seen, made.len());
        }
    }
    assert_eq!(expected.len(), 7 * 2 + 2);
}
