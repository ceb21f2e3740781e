//! What `--bigtiff`, `--compress`, `--predictor`, `--tile` and `--profile` make: the same pixels as the
//! default in other files, whole or absent, the same bytes from every device and number of threads.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data is small, and a test that panics says where"
)]

mod common;
#[path = "common/tool.rs"]
mod tool;
#[path = "common/trees.rs"]
mod trees;

use std::collections::BTreeMap;
use std::io::Cursor;
use std::num::NonZeroUsize;

use tensortiff::{
    Device, Devices, Dtype, Encoding, EncodingText, MemorySink, MemorySource, Options, convert,
};
use tiff::decoder::{Decoder, DecodingResult, Limits};

fn encoding(texts: &[(&str, &str)]) -> Encoding {
    let mut text = EncodingText::default();
    assert!(texts.iter().all(|(name, value)| text.set(name, value)), "{texts:?}");
    text.read().unwrap()
}

/// Smooth samples with some noise, and some that are not finite.
fn samples(count: u64) -> Vec<u8> {
    let mut state = 7_u64;
    let sample = |i: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let noise = (state >> 40) as f32 / 1e6;
        match i % 10_007 {
            5000 => f32::NAN,
            5001 => f32::INFINITY,
            _ => (i as f32 / 500.0).sin() + noise,
        }
    };
    (0..count).map(sample).flat_map(f32::to_le_bytes).collect()
}

/// Images of many shapes: small ones, one that is read twice, giants of blocks.
fn source() -> MemorySource<'static> {
    let shapes: [(&str, &[u64]); 5] = [
        ("tiny", &[40, 3, 5]),
        ("line", &[2, 1, 4000]),
        ("small", &[3, 100, 257]),
        ("large", &[1500, 1001]),
        ("tall", &[300_000, 3]),
    ];
    shapes.into_iter().fold(MemorySource::new("m"), |source, (name, shape)| {
        source.with(name, Dtype::F32, shape, samples(shape.iter().product())).unwrap()
    })
}

fn made(options: &Options) -> BTreeMap<String, Vec<u8>> {
    let sink = MemorySink::default();
    let report = convert(&source(), &sink, options).unwrap();
    assert_eq!((report.images, report.failed), (47, 0), "{:?}", report.failures);
    sink.into_files()
}

fn cpu() -> Options {
    Options { devices: Devices::List(vec![Device::Cpu]), ..Options::default() }
}

/// An image's pixels, as bits.
fn pixels(file: &[u8]) -> Vec<u32> {
    let mut decoder = Decoder::new(Cursor::new(file)).unwrap().with_limits(Limits::unlimited());
    let DecodingResult::F32(pixels) = decoder.read_image().unwrap() else { panic!("not f32") };
    pixels.iter().map(|x| x.to_bits()).collect()
}

/// On the CPU with one thread and three, on the GPU, on both, and of blocks.
fn ways(encoding: Encoding) -> Vec<(String, Options)> {
    let mut ways = Vec::new();
    for threads in [1, 3] {
        for block_samples in [None, Some(100_000)] {
            let threads = NonZeroUsize::new(threads);
            let name = format!("{threads:?} {block_samples:?}");
            ways.push((name, Options { threads, block_samples, encoding, ..cpu() }));
        }
    }
    for fleet in common::fleets() {
        for block_samples in [None, Some(100_000)] {
            let name = format!("{} {block_samples:?}", fleet.label);
            let devices = fleet.devices.clone();
            ways.push((name, Options { devices, block_samples, encoding, ..Options::default() }));
        }
    }
    ways
}

/// Every way of storing pixels, by what is typed.
const ENCODINGS: [&[(&str, &str)]; 13] = [
    &[("bigtiff", "yes")],
    &[("compress", "deflate")],
    &[("compress", "deflate:1"), ("predictor", "float")],
    &[("compress", "deflate:4"), ("predictor", "auto")],
    &[("compress", "deflate:2"), ("bigtiff", "yes")],
    &[("compress", "zstd:1")],
    &[("compress", "zstd"), ("predictor", "float")],
    &[("compress", "zstd:7"), ("predictor", "auto"), ("bigtiff", "yes")],
    &[("compress", "zstd:5"), ("predictor", "auto")],
    &[("tile", "16")],
    &[("tile", "256"), ("bigtiff", "yes")],
    &[("profile", "gis"), ("predictor", "auto")],
    &[("profile", "archive"), ("tile", "64")],
];

#[test]
fn pixels_are_those_of_the_default_and_bytes_the_same_from_all_devices() {
    let plain = made(&cpu());
    for texts in ENCODINGS {
        let mut first: Option<BTreeMap<String, Vec<u8>>> = None;
        for (way, options) in ways(encoding(texts)) {
            let files = made(&options);
            let first = first.get_or_insert_with(|| files.clone());
            assert_eq!(files.keys().collect::<Vec<_>>(), plain.keys().collect::<Vec<_>>());
            for (name, file) in &files {
                assert!(*file == first[name], "{texts:?}: {name} is another by {way}");
            }
        }
        for (name, file) in first.unwrap() {
            assert!(file != plain[&name], "{texts:?}: {name}");
            assert!(pixels(&file) == pixels(&plain[&name]), "{texts:?}: {name}");
        }
    }
}

/// What several processes made of a plan, each its part, is what one makes.
#[test]
fn shards_of_packed_images_are_those_of_one_run() {
    let dir = trees::folder();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (dump, plan, whole, out) =
        (path("d.safetensors"), path("plan.jsonl"), path("w"), path("o"));
    let large = 1100 * 1000;
    let tensors: [(&str, &str, &[u64], usize); 2] =
        [("a", "F32", &[30, 20, 20], 30 * 1600), ("b", "U8", &[2, 1100, 1000], 2 * large)];
    tool::dump(std::path::Path::new(&dump), &tensors);
    let mut bytes = std::fs::read(&dump).unwrap();
    let begin = bytes.len() - 2 * large;
    bytes[begin..].iter_mut().enumerate().for_each(|(at, byte)| *byte = (at * at % 251) as u8);
    std::fs::write(&dump, bytes).unwrap();
    for how in [&["--profile", "gis"][..], &["--compress", "zstd:1", "--predictor", "auto"]] {
        for folder in [&whole, &out] {
            drop(std::fs::remove_dir_all(folder));
        }
        drop(std::fs::remove_file(&plan));
        let one = ["convert", &dump, "-o", &whole, "--device", "cpu", "-j", "2"];
        tool::ends_with(0, &[&one[..], how].concat());
        tool::ends_with(0, &[&["plan", &dump, "--shards", "3", "-o", &plan][..], how].concat());
        for shard in ["2", "0", "1", "0"] {
            let one = ["convert", &plan, "--shard", shard, "-o", &out, "--device", "cpu"];
            tool::ends_with(0, &one);
        }
        tool::ends_with(0, &["merge", &plan, &out]);
        trees::same(&trees::tree(&out), &trees::tree(&whole), &format!("{how:?}"));
        let (_, said) = tool::ends_with(0, &["verify", &out, "--against"]);
        assert!(said.contains("32 files are what the dump gives"), "{said}");
    }
}

/// By who writes such files, and by nobody who only reads them.
#[test]
fn who_has_trouble_with_files_is_told() {
    let dir = trees::folder();
    let out = dir.path().join("o");
    let out = out.to_str().unwrap();
    let told = |how: &[&str]| {
        let convert = ["convert", tool::sample(), "-o", out, "--device", "cpu", "--overwrite"];
        tool::ends_with(0, &[&convert[..], how].concat()).1
    };
    let gis = told(&["--profile", "gis"]);
    assert!(gis.contains("ImageJ does not open tiles") && gis.contains("OpenCV"), "{gis}");
    assert!(!gis.contains("noise") && !gis.contains("no scale"), "{gis}");
    assert!(told(&["--profile", "gis", "--gamma", "2"]).contains("no scale and offset: --gamma"));
    assert!(told(&["--profile", "gis", "--constant", "half"]).contains("no scale and offset in"));
    told(&["--profile", "gis"]);
    let (_, said) = tool::ends_with(0, &["verify", out, "--against"]);
    assert!(!said.contains("note"), "{said}");
    assert!(told(&["--compress", "deflate", "--predictor", "auto"]).contains("ImageJ shows noise"));
    assert!(told(&["--profile", "archive"]).contains("libvips shows zeros"));
    assert!(told(&["--bigtiff", "yes"]).contains("files are BigTIFFs, which ImageJ's own File"));
    for silent in [&["--compress", "deflate"][..], &["--profile", "gis", "-q"], &[]] {
        assert!(!told(silent).contains("note"), "{silent:?}");
    }
    let dry = |how: &[&str]| {
        let convert = ["convert", tool::sample(), "-o", out, "--device", "cpu", "-n"];
        tool::ends_with(0, &[&convert[..], &["--overwrite"], how].concat())
    };
    let (plan, notes) = dry(&["--compress", "zstd"]);
    assert!(plan.contains("written  at most") && notes.contains("zstd"), "{plan}{notes}");
    assert!(!dry(&[]).0.contains("written  at most"));
    // Images that are too large for classic files, by those that are not there; and tiles that are too many.
    let large = dir.path().join("large.safetensors");
    tool::sparse_dump(&large, &[2, 40_000, 30_000]);
    let large = |how: &[&str], code: i32| {
        let convert =
            ["convert", large.to_str().unwrap(), "-o", out, "-d", "cpu", "-n", "--no-space-check"];
        tool::ends_with(code, &[&convert[..], how].concat()).1
    };
    let told = large(&[], 0);
    assert!(
        told.contains("the files of 2 images may pass 4 GiB and are BigTIFFs, which"),
        "{told}"
    );
    let told = large(&["--tile", "16"], 1);
    assert!(told.contains("4687500 tiles of 16×16: there are 262144 at most"), "{told}");
    let (json, _) = dry(&["--tile", "64", "--json"]);
    assert!(json.contains("\"packed\": true") && json.contains("does not open tiles"), "{json}");
    for (how, problem) in [
        (&["--compress", "lzw"][..], "there are none, deflate"),
        (&["--compress", "zstd:23"], "1 to 22"),
        (&["--predictor", "float"], "--compress"),
        (&["--tile", "100"], "a multiple of 16"),
    ] {
        let convert = ["convert", tool::sample(), "-o", out, "--device", "cpu"];
        let (_, told) = tool::ends_with(2, &[&convert[..], how].concat());
        assert!(told.contains(problem) && told.contains(how[0]), "{told}");
        assert_eq!(told.trim().lines().count(), 1, "{told}");
    }
}
