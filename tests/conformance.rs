//! The contract on numbers, through the whole run (memory source to memory sink), for the CPU
//! alone, a GPU alone and both on one queue: every file is the oracle's, bit for bit.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data is small, and a test that panics says where"
)]

mod common;

use std::collections::BTreeMap;

use common::{Random, files, fleets};
use tensortiff::normalize::oracle;
use tensortiff::{Dtype, MemorySource, Norm, Options, Rule, Source as _};

const NARROW: [Dtype; 16] = [
    Dtype::Bool,
    Dtype::F4,
    Dtype::F6E2m3,
    Dtype::F6E3m2,
    Dtype::U8,
    Dtype::I8,
    Dtype::F8E4m3,
    Dtype::F8E5m2,
    Dtype::F8E8m0,
    Dtype::F8E4m3Fnuz,
    Dtype::F8E5m2Fnuz,
    Dtype::U16,
    Dtype::I16,
    Dtype::F16,
    Dtype::Bf16,
    Dtype::F32,
];

/// One tensor of a case.
struct Tensor {
    name: String,
    dtype: Dtype,
    shape: Vec<u64>,
    bytes: Vec<u8>,
}

fn tensor(name: impl Into<String>, dtype: Dtype, shape: &[u64], bytes: Vec<u8>) -> Tensor {
    Tensor { name: name.into(), dtype, shape: shape.to_vec(), bytes }
}

fn f32_bytes(samples: impl IntoIterator<Item = f32>) -> Vec<u8> {
    samples.into_iter().flat_map(f32::to_le_bytes).collect()
}

/// Runs the tensors on every fleet and holds every image against the oracle, and the whole files
/// of the fleets against each other. A GPU alone gets the tensors that it takes.
fn check(tensors: &[Tensor], options: &Options) {
    check_on(fleets(), tensors, options);
}

fn check_on(fleets: Vec<common::Fleet>, tensors: &[Tensor], options: &Options) {
    let mut first: Option<BTreeMap<String, Vec<u8>>> = None;
    for fleet in fleets {
        let takes = |t: &&Tensor| fleet.label != "gpu" || !t.dtype.is_wide();
        let tensors: Vec<&Tensor> = tensors.iter().filter(takes).collect();
        let mut source = MemorySource::new("m");
        for t in &tensors {
            source = source.with(&t.name, t.dtype, &t.shape, &t.bytes[..]).unwrap();
        }
        if tensors.is_empty() {
            continue;
        }
        let (files, _) = files(&source, options, &fleet);
        if let Some(first) = &first {
            for (name, file) in &files {
                assert!(file == &first[name], "{name}: {} and cpu differ", fleet.label);
            }
            continue; // the CPU's files were held against the oracle
        }
        for (number, t) in tensors.iter().enumerate() {
            assert_eq!(source.tensors()[number].name, t.name);
            check_against_oracle(t, options.rule, &files, fleet.label);
        }
        first = Some(files);
    }
}

fn check_against_oracle(t: &Tensor, rule: Rule, files: &BTreeMap<String, Vec<u8>>, label: &str) {
    let samples = t.shape.iter().rev().take(2).product::<u64>();
    let size = usize::try_from(samples).unwrap() * t.dtype.size();
    let prefix = format!("m/{}", t.name);
    // Zero-padded names sort as the images lie.
    let mine: Vec<&Vec<u8>> = files
        .iter()
        .filter(|(name, _)| {
            name.strip_prefix(&prefix).is_some_and(|rest| rest.starts_with(['/', '.']))
        })
        .map(|(_, file)| file)
        .collect();
    assert_eq!(mine.len(), t.bytes.len() / size, "images of {}", t.name);
    for (k, (raw, file)) in t.bytes.chunks(size).zip(mine).enumerate() {
        let (_, expected) = oracle::normalize(rule, t.dtype, raw);
        let pixels = common::bits(&file[file.len() - 4 * expected.len()..]);
        if let Some(i) = (0..pixels.len()).find(|&i| pixels[i] != expected[i].to_bits()) {
            panic!(
                "{} image {k} sample {i} of {} on {label}: {:#010x}, not {:#010x}",
                t.name,
                pixels.len(),
                pixels[i],
                expected[i].to_bits()
            );
        }
    }
}

fn both_norms(tensors: &[Tensor], options: &Options) {
    for norm in [Norm::MinMax, Norm::None] {
        check(tensors, &Options { rule: norm.into(), ..options.clone() });
    }
}

#[test]
fn every_dtype_in_every_shape_is_the_oracles() {
    let shapes: [&[u64]; 12] = [
        &[1, 1],
        &[1, 7],
        &[7, 1],
        &[31, 33],
        &[64, 64], // the largest that shares a workgroup
        &[17, 241],
        &[128, 128], // one tile
        &[5, 3277],  // one sample more
        &[3, 1, 1],
        &[4, 3, 5, 7],
        &[2, 2, 3, 9, 11],
        &[2, 300, 257],
    ];
    let mut random = Random(1);
    for dtype in Dtype::ALL {
        let tensors: Vec<Tensor> = shapes
            .iter()
            .enumerate()
            .map(|(i, shape)| {
                let bytes = random.bytes(len(shape) * dtype.size());
                tensor(format!("{dtype}-{i}"), dtype, shape, bytes)
            })
            .collect();
        both_norms(&tensors, &Options::default());
    }
}

fn len(shape: &[u64]) -> usize {
    usize::try_from(shape.iter().product::<u64>()).unwrap()
}

/// Everything that a sample can be, alone and together.
#[test]
fn adversarial_values_are_the_oracles() {
    let bits = |bits: &[u32]| bits.iter().flat_map(|b| b.to_le_bytes()).collect::<Vec<u8>>();
    let (max, min, inf) = (f32::MAX.to_bits(), f32::MIN.to_bits(), 0x7F80_0000_u32);
    let cases: [(&str, &[u32]); 16] = [
        ("zeros of both signs", &[0, 0x8000_0000, 0, 0x8000_0000]),
        ("negative zeros", &[0x8000_0000; 4]),
        ("zero below", &[0x8000_0000, 0, 0x3F80_0000, 0x3F00_0000]),
        ("zero above", &[0x8000_0000, 0, 0xBF80_0000, 0xBF00_0000]),
        ("overflowing range", &[max, min, 0, 1]),
        ("just overflowing", &[max, 0xF380_0000, 0x8000_0001, 3]),
        ("just not", &[max, 0xF300_0000, 0x8000_0001, 3]),
        ("subnormals", &[1, 2, 3, 0x0080_0001]),
        ("least range", &[0x3F80_0000, 0x3F80_0001, 0x3F80_0000, 0x3F80_0001]),
        ("least subnormals", &[1, 0, 0x8000_0001, 0]),
        ("nan payloads", &[0x7F80_0001, 0xFFC1_2345, 0x7FFF_FFFF, 0x3F80_0000]),
        ("nan and two", &[0x7F80_0001, 0x4000_0000, 0x3F80_0000, 0xFFFF_FFFF]),
        ("infinities", &[inf, inf | 0x8000_0000, 0x4000_0000, 0x3F80_0000]),
        ("nothing finite", &[inf, inf | 0x8000_0000, 0x7FC0_0000, inf]),
        ("constant and nan", &[0x4000_0000, 0x7FC0_0001, 0x4000_0000, 0xFF80_0000]),
        ("one step from one", &[0x3F7F_FFFF, 0x3F80_0000, 0x3F80_0001, 0]),
    ];
    let mut tensors = Vec::new();
    for (i, (name, values)) in cases.iter().enumerate() {
        let name = format!("{i} {name}");
        tensors.push(tensor(format!("{name} alone"), Dtype::F32, &[2, 2], bits(values)));
        // The same in a tiled image, at its end.
        let mut large = vec![values[0]; 5000];
        large.extend_from_slice(values);
        tensors.push(tensor(format!("{name} late"), Dtype::F32, &[4, 1251], bits(&large)));
    }
    for code in 0..=255_u8 {
        for dtype in NARROW.into_iter().filter(|dtype| dtype.size() == 1) {
            let bytes = vec![code, 0x38, code, 0x3C];
            tensors.push(tensor(format!("{dtype} {code}"), dtype, &[2, 2], bytes));
        }
    }
    let halves: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for dtype in [Dtype::F16, Dtype::Bf16, Dtype::I16, Dtype::U16] {
        tensors.push(tensor(format!("{dtype} all"), dtype, &[256, 256], halves.clone()));
        tensors.push(tensor(format!("{dtype} rows"), dtype, &[256, 1, 256], halves.clone()));
    }
    both_norms(&tensors, &Options::default());
}

/// Random data does not test a reduction: an off-by-one stride survives most of it. The extremes
/// stand at every place where something begins or ends.
#[test]
fn extremes_are_found_wherever_they_are() {
    let edges = [32, 256, 1024, 4096, 16_384, 65_536];
    for (n, width) in [(40, 8), (300, 25), (4096, 64), (4097, 17), (20_000, 100), (70_000, 250)] {
        let around = |e: usize| [e.wrapping_sub(1), e, e + 1];
        let mut places: Vec<usize> = edges
            .iter()
            .chain([0, width, n - 1].iter())
            .flat_map(|&e| around(e))
            .filter(|&place| place < n)
            .collect();
        places.sort_unstable();
        places.dedup();
        let mut bytes = Vec::new();
        for &place in &places {
            for plant in [-3.0, 5.0] {
                let sample = |i| if i == place { plant } else { (i % 977) as f32 / 977.0 };
                bytes.extend(f32_bytes((0..n).map(sample)));
            }
        }
        let images = 2 * places.len() as u64;
        let shape = [images, (n / width) as u64, width as u64];
        check(&[tensor(format!("n{n}"), Dtype::F32, &shape, bytes)], &Options::default());
    }
}

/// Images larger than a buffer: the same bytes in blocks of any size, extremes and specials at
/// every block's ends.
#[test]
fn blocks_of_any_size_make_the_same_bytes() {
    let mut random = Random(2);
    for dtype in Dtype::ALL {
        let bytes = random.bytes(3 * 37 * 41 * dtype.size());
        let tensors = [tensor(format!("{dtype}"), dtype, &[3, 37, 41], bytes)];
        for block in [1, 100, 1000, 1516, 1517] {
            let options = Options { block_samples: Some(block), ..Options::default() };
            both_norms(&tensors, &options);
        }
    }
    // An extreme in each of the 77 places, the last block's last among them.
    let planted = |place| (0..77).map(move |i| if i == place { -9.0 } else { i as f32 });
    let bytes = f32_bytes((0..77).flat_map(planted));
    let tensors = [tensor("planted", Dtype::F32, &[77, 7, 11], bytes)];
    for block in [1, 2, 38, 76] {
        check(&tensors, &Options { block_samples: Some(block), ..Options::default() });
    }
    let block = 20_000;
    let mut tensors = Vec::new();
    for place in [0, 1, 19_999, 20_000, 20_001, 39_999, 40_000, 49_999_usize] {
        let sample = |i| if i == place { -7.0 } else { (i % 1013) as f32 };
        tensors.push(tensor(
            format!("p{place}"),
            Dtype::F32,
            &[50, 1000],
            f32_bytes((0..50_000).map(sample)),
        ));
    }
    check(&tensors, &Options { block_samples: Some(block), ..Options::default() });
}

/// One image of a family, `count` samples.
fn family(random: &mut Random, family: u32, count: usize) -> Vec<u8> {
    let near = (random.next() >> 32) as u32;
    let sample = |random: &mut Random| {
        let bits = (random.next() >> 32) as u32;
        match family {
            0 => bits,                                        // anything
            1 => (bits & 0x807F_FFFF) | (near & 0x7F00_0000), // near exponents
            2 => bits & 0x80FF_FFFF,                          // mostly subnormal
            3 => (near & 0x3FFF_FFFF) + bits % 19,            // a few steps apart
            4 => gaussian(bits).to_bits(),
            _ => [0, 1, 0x7F_FFFF, 0x80_0000, 0x7F7F_FFFF, 0x8000_0000, 0xFF7F_FFFF, 0x3F80_0000]
                [(bits % 8) as usize],
        }
    };
    (0..count).flat_map(|_| sample(random).to_le_bytes()).collect()
}

/// A sum of four uniform numbers: bell-shaped enough.
fn gaussian(bits: u32) -> f32 {
    bits.to_le_bytes().into_iter().map(|b| f32::from(b) / 128.0 - 1.0).sum()
}

/// Ten million samples in small, middling and large images, each as `image` makes it of so many.
fn ten_million(name: &str, dtype: Dtype, mut image: impl FnMut(usize) -> Vec<u8>) -> Vec<Tensor> {
    let shapes: [&[u64]; 3] = [&[4000, 25, 30], &[40, 250, 450], &[1, 1500, 1700]];
    assert!(shapes.iter().map(|shape| len(shape)).sum::<usize>() >= 10_000_000);
    let make = |shape: &[u64]| {
        let per_image = len(&shape[1..]);
        let bytes = (0..shape[0]).flat_map(|_| image(per_image)).collect();
        tensor(format!("{name}-{per_image}"), dtype, shape, bytes)
    };
    shapes.map(make).into()
}

/// Ten million samples a family.
#[test]
fn random_families_are_the_oracles() {
    let mut random = Random(3);
    for number in 0..6 {
        let image = |count| family(&mut random, number, count);
        check(&ten_million(&format!("f{number}"), Dtype::F32, image), &Options::default());
    }
}

/// One image of bits that any type may have: all of them random, low ones and the sign, a few steps
/// apart, or at the ends of what the type has.
fn family_of_bits(random: &mut Random, family: u64, dtype: Dtype, count: usize) -> Vec<u8> {
    let size = dtype.size();
    let sign = 1_u64 << (8 * size - 1);
    let (own, near) = (sign | ((1 << (4 * size)) - 1), random.next());
    let sample = |random: &mut Random| {
        let bits = random.next();
        match family {
            0 => bits,
            1 => (bits & own) | (near & !own),
            2 => near.wrapping_add(bits % 19),
            _ => sign.wrapping_mul(bits & 1).wrapping_add((bits >> 1) % 5).wrapping_sub(2),
        }
    };
    (0..count).flat_map(|_| sample(random).to_le_bytes().into_iter().take(size)).collect()
}

/// Ten million samples of each type of 16 bits, of all families. Every value of these, and of the
/// types of 8 bits, is in `adversarial_values_are_the_oracles`.
#[test]
fn random_samples_of_16_bits_are_the_oracles() {
    let mut random = Random(10);
    for dtype in NARROW.into_iter().filter(|dtype| dtype.size() == 2) {
        let image = |count| {
            let family = random.below(4);
            family_of_bits(&mut random, family, dtype, count)
        };
        check(&ten_million(&dtype.to_string(), dtype, image), &Options::default());
    }
}

/// The same of every integer that only f64 holds; no GPU takes these, nor f64.
#[test]
fn random_wide_integers_are_the_oracles() {
    let mut random = Random(11);
    for dtype in [Dtype::I32, Dtype::U32, Dtype::I64, Dtype::U64] {
        let image = |count| {
            let family = random.below(4);
            family_of_bits(&mut random, family, dtype, count)
        };
        let tensors = ten_million(&dtype.to_string(), dtype, image);
        check_on(vec![common::cpu()], &tensors, &Options::default());
    }
}

/// Ten million samples a family of f64.
#[test]
fn random_families_of_f64_are_the_oracles() {
    let mut random = Random(13);
    for number in 0..7 {
        let image = |count| {
            let sample = |random: &mut Random| {
                let bits = random.next();
                match number {
                    4 => bits & 0x801F_FFFF_FFFF_FFFF, // mostly subnormal
                    5 => (f64::from(gaussian(bits as u32)) + (bits >> 32) as f64 * 1e-15).to_bits(),
                    // Where f32 has numbers, half way between two, and a step beside these.
                    _ => (f64::from(f32::from_bits(bits as u32)).to_bits()
                        | (bits >> 35 & 1) << 28)
                        .wrapping_add((bits >> 32) % 3)
                        .wrapping_sub(1),
                }
            };
            match number {
                0..4 => family_of_bits(&mut random, number, Dtype::F64, count),
                _ => (0..count).flat_map(|_| sample(&mut random).to_le_bytes()).collect(),
            }
        };
        let tensors = ten_million(&format!("f{number}"), Dtype::F64, image);
        // The last is about the one rounding, which normalization hides.
        let norm = if number == 6 { Norm::None } else { Norm::MinMax };
        check_on(
            vec![common::cpu()],
            &tensors,
            &Options { rule: norm.into(), ..Options::default() },
        );
    }
}

#[test]
fn hundreds_of_thousands_of_tiny_images_are_the_oracles() {
    let mut random = Random(4);
    let mut tensors = vec![tensor("one", Dtype::F32, &[200_000, 1, 1], random.bytes(800_000))];
    for dtype in NARROW {
        let bytes = random.bytes(20_011 * 15 * dtype.size());
        tensors.push(tensor(format!("{dtype}"), dtype, &[20_011, 3, 5], bytes));
    }
    check(&tensors, &Options::default());
}

#[test]
fn millions_of_images_are_all_counted() {
    let images = 2_000_000;
    let bytes = Random(7).bytes(2_000_000 * 2);
    let source = MemorySource::new("m").with("t", Dtype::I16, &[images, 1, 1], bytes).unwrap();
    for fleet in fleets() {
        let options = Options { devices: fleet.devices.clone(), ..Options::default() };
        let report = tensortiff::convert(&source, &tensortiff::NullSink, &options).unwrap();
        assert_eq!((report.images, report.samples.constant_images), (images, images));
        if let Some(only) = &fleet.only {
            assert!(report.devices.iter().all(|d| d.name == *only), "{:?}", report.devices);
        }
    }
}

/// More samples than a workgroup may loop over on llvmpipe (65,535 iterations of 256 invocations),
/// more than a buffer holds, and more bytes than a storage buffer binding may have (128 MiB).
#[test]
fn images_beyond_every_limit_are_the_oracles() {
    let last = |n: usize, i: usize| if i == n - 1 { 200_u8 } else { 100 + (i % 50) as u8 };
    let n = 6000 * 6000;
    let bytes = (0..n).map(|i| last(n, i)).collect();
    check(&[tensor("u8", Dtype::U8, &[6000, 6000], bytes)], &Options::default());
    let n = 4096 * 4096;
    let sample = |i| if i == n - 1 { -1.0 } else { (i % 8191) as f32 };
    let at_once = tensor("f32", Dtype::F32, &[4096, 4096], f32_bytes((0..n).map(sample)));
    check(&[at_once], &Options::default());
}

/// A finite sample that grows with `value`, which is −100 to 100.
fn finite(dtype: Dtype, value: i8) -> Vec<u8> {
    let x = f32::from(value);
    let shifted = value as u8 ^ 0x80; // unsigned types: 28 to 228
    match dtype {
        Dtype::F32 => x.to_le_bytes().to_vec(),
        Dtype::F64 => f64::from(x).to_le_bytes().to_vec(),
        // Codes of halves and of bytes grow with the value, but for the sign.
        Dtype::F16 | Dtype::Bf16 => {
            let sign = if value < 0 { 0x8000 } else { 0 };
            (sign | (u16::from(value.unsigned_abs()) << 8)).to_le_bytes().to_vec()
        }
        Dtype::F8E4m3 | Dtype::F8E5m2 | Dtype::F8E4m3Fnuz | Dtype::F8E5m2Fnuz => {
            vec![(value as u8 & 0x80) | value.unsigned_abs()]
        }
        Dtype::F8E8m0 => vec![shifted],
        // The sign and what there is of the magnitude's highest bits.
        Dtype::F6E2m3 | Dtype::F6E3m2 => {
            vec![(value as u8 >> 7 << 5) | (value.unsigned_abs() >> 2)]
        }
        Dtype::F4 => vec![(value as u8 >> 7 << 3) | (value.unsigned_abs() >> 4)],
        Dtype::Bool => vec![u8::from(value > 0)],
        Dtype::I8 => vec![value as u8],
        Dtype::U8 => vec![shifted],
        Dtype::I16 => i16::from(value).to_le_bytes().to_vec(),
        Dtype::U16 => u16::from(shifted).to_le_bytes().to_vec(),
        Dtype::I32 => i32::from(value).to_le_bytes().to_vec(),
        Dtype::U32 => u32::from(shifted).to_le_bytes().to_vec(),
        Dtype::I64 => i64::from(value).to_le_bytes().to_vec(),
        Dtype::U64 => u64::from(shifted).to_le_bytes().to_vec(),
    }
}

/// Images in which every sample is finite, which is a path of its own for many types; the larger
/// ones no longer stay in a processor's cache and are handed over in steps of 65,536 samples. The
/// extremes stand where steps begin and end.
#[test]
fn finite_images_of_every_dtype_are_the_oracles() {
    for dtype in Dtype::ALL {
        let mut tensors = Vec::new();
        for (height, width) in [(3, 1), (61, 67), (1030, 1021)] {
            let n: usize = height * width;
            let mut places = vec![[0, n - 1], [n - 1, 0]];
            if n > 1 << 20 {
                places.extend([[65_535, 65_536], [(1 << 20) - 1, 1 << 20], [1 << 20, 131_071]]);
            }
            for [least, greatest] in places {
                let sample = |i| match i {
                    i if i == least => -100,
                    i if i == greatest => 100,
                    i => (i * 31 % 181) as i8,
                };
                let bytes = (0..n).flat_map(|i| finite(dtype, sample(i).min(90))).collect();
                let name = format!("{dtype}-{n}-{least}");
                tensors.push(tensor(name, dtype, &[height as u64, width as u64], bytes));
            }
        }
        both_norms(&tensors, &Options::default());
    }
}

/// Blocks of larger images and whole images of their type go to a device in one batch: what is
/// known of the one must not be worked out again from the other.
#[test]
fn blocks_and_whole_images_of_one_type_do_not_disturb_each_other() {
    let mut random = Random(12);
    for dtype in [Dtype::U8, Dtype::Bf16] {
        let mut tensors = Vec::new();
        for k in 0..4 {
            for (name, shape) in [("giant", [3, 300, 500]), ("whole", [40, 80, 90])] {
                let bytes = random.bytes(len(&shape) * dtype.size());
                tensors.push(tensor(format!("{k}-{name}"), dtype, &shape, bytes));
            }
        }
        check(&tensors, &Options { block_samples: Some(100_000), ..Options::default() });
    }
}

/// Selected channels lie apart in the file: nothing between them is read into their images.
#[test]
fn channels_are_the_oracles() {
    let mut random = Random(5);
    let bytes = random.bytes(7 * 5 * 12 * 4);
    let per_image = 12 * 4;
    let whole = MemorySource::new("m").with("t", Dtype::F32, &[7, 5, 3, 4], &bytes[..]).unwrap();
    let mut options = Options::default();
    options.selection.channel = Some(3);
    for fleet in fleets() {
        let (files, _) = files(&whole, &options, &fleet);
        assert_eq!(files.len(), 7);
        for (k, file) in (0..7).map(|k| (k, &files[&format!("m/t/{k}_3.tif")])) {
            let at = (k * 5 + 3) * per_image;
            let (_, expected) =
                oracle::normalize(Norm::MinMax, Dtype::F32, &bytes[at..at + per_image]);
            let expected: Vec<u32> = expected.into_iter().map(f32::to_bits).collect();
            assert_eq!(common::pixels(file), expected, "{k} on {}", fleet.label);
        }
    }
}

/// A device that is lost in the middle of a run: a new one or others do its images, and nobody can
/// tell by the bytes.
#[test]
#[cfg(feature = "gpu")]
fn a_device_lost_in_mid_run_costs_no_image() {
    use std::sync::Arc;
    use tensortiff::backend::gpu::hooks::Hooks;
    use tensortiff::backend::gpu::{Gpu, adapters};
    use tensortiff::{Device, Devices, MemorySink, convert};

    let adapters = adapters();
    let adapter = adapters.iter().find(|a| a.info.matches_name(&common::wanted())).unwrap();
    let bytes = Random(6).bytes(4000 * 32 * 32 * 4);
    let source = || {
        let source = MemorySource::new("m").with("t", Dtype::F32, &[4000, 32, 32], &bytes[..]);
        source.unwrap().with("giant", Dtype::F32, &[2, 300, 1000], &bytes[..2_400_000]).unwrap()
    };
    let options = Options { block_samples: Some(100_000), ..Options::default() };
    let (expected, _) = files(&source(), &options, &common::cpu());
    for (submissions, losses) in [(0, 1), (0, 2), (1, 1), (1, 2), (2, 2), (3, 1)] {
        for with_cpu in [false, true] {
            let hooks = Hooks { submissions, losses, ..Hooks::NONE };
            let gpu = Arc::new(Gpu::open_with(adapter, 2, &hooks).unwrap());
            let sink = MemorySink::default();
            let report = if with_cpu {
                common::meeting::convert_with(gpu, &source(), &sink, &options).unwrap()
            } else {
                let devices = Devices::List(vec![Device::Ready(gpu)]);
                convert(&source(), &sink, &Options { devices, ..options.clone() }).unwrap()
            };
            assert_eq!((report.images, report.failed), (4002, 0), "after {submissions}");
            assert!(sink.into_files() == expected, "after {submissions}");
            let noted = |text| report.notes.iter().any(|note| note.contains(text));
            let notes = &report.notes;
            if !with_cpu {
                // One new device is tried, and if that is lost, too, the CPU comes.
                assert!(noted("its images are done by a new device"), "{notes:?}");
                assert_eq!(noted("again; its images are done by others"), losses == 2, "{notes:?}");
                assert_eq!(report.devices.len(), if losses == 2 { 2 } else { 1 }, "{notes:?}");
            } else if submissions == 0 {
                // Later it may have no second batch to lose.
                assert!(noted("its images are done by others"), "{notes:?}");
            }
            let cpu_came = !with_cpu && losses == 2;
            assert_eq!(noted("the CPU does what is left"), cpu_came, "{notes:?}");
        }
    }
}

/// A source from which a thread reads so slowly that no backend can drain the queue alone.
#[cfg(feature = "gpu")]
struct Slow<'a>(MemorySource<'a>);

#[cfg(feature = "gpu")]
impl tensortiff::Source for Slow<'_> {
    fn dumps(&self) -> &[tensortiff::Dump] {
        self.0.dumps()
    }

    fn tensors(&self) -> &[tensortiff::TensorInfo] {
        self.0.tensors()
    }

    fn read_at(&self, tensor: usize, offset: u64, buf: &mut [u8]) -> Result<(), tensortiff::Error> {
        std::thread::sleep(std::time::Duration::from_millis(3));
        self.0.read_at(tensor, offset, buf)
    }
}

/// Left to themselves on one queue, both work, and their files are the CPU's.
#[test]
#[cfg(feature = "gpu")]
fn a_mixed_run_is_done_by_both() {
    let bytes = Random(8).bytes(400 * 200 * 200 * 4);
    let source = || {
        let source = MemorySource::new("m").with("t", Dtype::F32, &[400, 200, 200], &bytes[..]);
        Slow(source.unwrap())
    };
    let report = mixed(&source(), &Options::default());
    assert!(report.devices.iter().all(|device| device.images > 0), "{:?}", report.devices);
}

/// Both find extents of blocks and both make pixels of blocks, of images that neither does alone.
#[test]
#[cfg(feature = "gpu")]
fn giants_of_a_mixed_run_are_done_by_both() {
    let (images, side) = (6_u64, 1500_u64);
    let options = Options { block_samples: Some(300_000), ..Options::default() };
    for dtype in [Dtype::U8, Dtype::F16, Dtype::F32] {
        let bytes = Random(9).bytes(len(&[images, side, side]) * dtype.size());
        let source = MemorySource::new("m").with("t", dtype, &[images, side, side], &bytes[..]);
        let report = mixed(&Slow(source.unwrap()), &options);
        // Of these bytes they made pixels.
        assert!(report.devices.iter().all(|device| device.bytes_in > 0), "{:?}", report.devices);
    }
}

/// A run of one CPU thread and the GPU, whose files are those of the CPU alone.
#[cfg(feature = "gpu")]
fn mixed(source: &Slow<'_>, options: &Options) -> tensortiff::Report {
    let threads = std::num::NonZeroUsize::new(1);
    let options = Options { threads, ..options.clone() };
    let (expected, _) = files(&source.0, &options, &common::cpu());
    let both = common::Fleet { label: "mixed", ..fleets().pop().unwrap() };
    let (made, report) = files(source, &options, &both);
    assert!(made == expected);
    assert_eq!(report.devices.len(), 2, "{:?}", report.devices);
    report
}

/// Nobody waits for an adapter that starts, and one that has started joins the run.
#[test]
#[cfg(feature = "gpu")]
fn an_adapter_that_starts_in_mid_run_takes_part() {
    use tensortiff::{NullSink, convert};

    let (images, side) = (2000_u64, 256_u64);
    let bytes = Random(8).bytes(usize::try_from(images * side * side).unwrap());
    let source = MemorySource::new("m").with("t", Dtype::U8, &[images, side, side], bytes);
    let source = Slow(source.unwrap());
    let devices = format!("cpu,{}", common::wanted()).parse().unwrap();
    let threads = std::num::NonZeroUsize::new(1);
    let options = Options { devices, threads, ..Options::default() };
    let report = convert(&source, &NullSink, &options).unwrap();
    assert_eq!((report.images, report.failed), (images, 0));
    let [cpu, gpu] = &report.devices[..] else { panic!("{:?}", report.devices) };
    assert!(cpu.name == "cpu" && cpu.images > 0, "{cpu:?}");
    assert!(gpu.images > 0, "{gpu:?}");
    assert_eq!(cpu.images + gpu.images, images);
}
