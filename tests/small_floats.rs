//! Floats of at most 8 bits that are no bytes or have no infinities: F8_E8M0, the FNUZ ones, F6, F4. Every
//! code is what ml_dtypes says (scripts/make-small-golden.py), and planes begin at any bit of a file.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data is small, and a test that panics says where"
)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Random, bits, files, fleets, pixels, read_safetensors};
use tensortiff::{
    Dtype, DumpFiles, Error, MemorySource, Norm, Options, Reading, Scope, ScopeStats, Source,
    TensorInfo, stats,
};

const SMALL: [Dtype; 6] =
    [Dtype::F8E8m0, Dtype::F8E4m3Fnuz, Dtype::F8E5m2Fnuz, Dtype::F6E2m3, Dtype::F6E3m2, Dtype::F4];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn with_norm(norm: Norm) -> Options {
    Options { rule: norm.into(), ..Options::default() }
}

#[test]
fn every_code_is_what_ml_dtypes_says_on_every_device() {
    let expected = read_safetensors(&golden("small_expected.safetensors"));
    let source = DumpFiles::open(&[golden("small.safetensors")]).unwrap();
    for dtype in SMALL {
        let info = source.tensors().iter().find(|t| t.name == format!("{dtype}.codes")).unwrap();
        let codes = 1 << dtype.bits();
        assert_eq!((info.dtype, &info.shape[..]), (dtype, &[2, codes / 2][..]));
    }
    for fleet in fleets() {
        for (norm, suffix) in [(Norm::None, ""), (Norm::MinMax, ".minmax")] {
            let (files, report) = files(&source, &with_norm(norm), &fleet);
            assert_eq!(report.images, 6 * (1 + 8));
            for dtype in SMALL {
                let wanted = |what: &str| bits(&expected[&format!("{dtype}.{what}{suffix}")].2);
                let file = &files[&format!("small/{dtype}.codes.tif")];
                assert_eq!(pixels(file), wanted("codes"), "{dtype} {norm} on {}", fleet.label);
                for (k, wanted) in wanted("planes").chunks(21).enumerate() {
                    let file = &files[&format!("small/{dtype}.planes/{k}.tif")];
                    assert_eq!(pixels(file), wanted, "{dtype}[{k}] {norm} on {}", fleet.label);
                }
            }
        }
    }
}

/// Statistics of the codes are those of float32 that ml_dtypes made of them.
#[test]
fn statistics_are_those_of_the_widened_samples() {
    let expected = read_safetensors(&golden("small_expected.safetensors"));
    let source = DumpFiles::open(&[golden("small.safetensors")]).unwrap();
    let mut wide = MemorySource::new("small");
    for info in source.tensors() {
        let (_, shape, bytes) = &expected[&info.name];
        wide = wide.with(&info.name, Dtype::F32, shape, &bytes[..]).unwrap();
    }
    for scope in [Scope::Image, Scope::Channel, Scope::Tensor, Scope::Dump] {
        let [small, wide]: [Vec<ScopeStats>; 2] = [&source as &dyn Source, &wide].map(|source| {
            let mut all = Vec::new();
            let options = Options { scope, ..Options::default() };
            let tell = &mut |one| {
                all.push(one);
                Ok(())
            };
            stats(source, &options, &[0.0, 1.0, 37.5, 50.0, 99.0, 100.0], tell).unwrap();
            all
        });
        assert!(!small.is_empty() && small.iter().any(|one| one.extent.nan > 0));
        assert_eq!(small, wide, "{scope:?}");
    }
}

/// What a source has to give for samples that are packed so: bit by bit.
fn unpacked(packed: &[u8], bits: u64, samples: u64) -> Vec<u8> {
    let bit = |at: u64| packed[(at / 8) as usize] >> (at % 8) & 1;
    let sample = |at: u64| (0..bits).fold(0, |sum, k| sum | bit(at * bits + k) << k);
    (0..samples).map(sample).collect()
}

/// A file of tensors of these types, shapes and bytes.
fn safetensors(path: &Path, tensors: &[(&str, Dtype, &[u64], &[u8])]) {
    let (mut header, mut data) = (Vec::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let begin = data.len();
        data.extend_from_slice(bytes);
        let end = data.len();
        header.push(format!(
            r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#
        ));
    }
    let json = format!("{{{}}}", header.join(","));
    let bytes = [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &data].concat();
    fs::write(path, bytes).unwrap();
}

fn packed_len(dtype: Dtype, samples: u64) -> usize {
    (samples * dtype.bits()).div_ceil(8) as usize
}

#[test]
fn any_part_of_a_packed_tensor_is_read_as_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.safetensors");
    let mut random = Random(1);
    for dtype in SMALL {
        // The second tensor begins within the file, and is read in several pieces.
        for samples in [8, 24, 1_500_000] {
            let packed = random.bytes(packed_len(dtype, samples));
            let shape = [samples / 8, 8];
            safetensors(
                &path,
                &[("a", Dtype::U8, &[3], &[1, 2, 3]), ("t", dtype, &shape, &packed)],
            );
            let source = DumpFiles::open(&[&path]).unwrap();
            let info = &source.tensors()[1];
            assert_eq!(
                (info.bytes(), info.packed_bytes()),
                (Some(samples), Some(packed.len() as u64))
            );
            let wanted = unpacked(&packed, dtype.bits(), samples);
            let mut parts = vec![(0, samples), (samples, samples), (samples - 1, samples)];
            if samples < 100 {
                parts = (0..=samples).flat_map(|a| (a..=samples).map(move |b| (a, b))).collect();
            }
            for _ in 0..20 {
                let from = random.below(samples);
                parts.push((from, from + random.below(samples - from)));
            }
            for (from, to) in parts {
                let mut buf = vec![0xAA; (to - from) as usize];
                source.read_at(1, from, &mut buf).unwrap();
                assert!(buf == wanted[from as usize..to as usize], "{dtype} {from} to {to}");
            }
            for (offset, len) in [(0, samples + 1), (samples, 1), (u64::MAX, 1), (samples + 1, 0)] {
                let error = source.read_at(1, offset, &mut vec![0; len as usize]).unwrap_err();
                assert!(error.to_string().contains(&format!("has {samples} bytes")), "{error}");
            }
        }
    }
}

#[test]
fn a_packed_tensor_of_a_file_that_shrinks_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.safetensors");
    safetensors(&path, &[("t", Dtype::F6E2m3, &[4, 8], &[0x5A; 24])]);
    let source = DumpFiles::open(&[&path]).unwrap();
    let end = fs::metadata(&path).unwrap().len() - 1;
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(end).unwrap();
    // The last sample but one ends within the byte that is gone, the one before is whole.
    source.read_at(0, 0, &mut [0; 30]).unwrap();
    for first in [0, 30] {
        let error = source.read_at(0, first, &mut vec![0; 31 - first as usize]).unwrap_err();
        assert!(matches!(error, Error::Changed { end: told, .. } if told == end), "{error}");
    }
}

/// The files of a run over packed samples, and of one over the same in memory, a byte each; the latter is
/// what `tests/conformance.rs` holds against the oracle.
fn compare(source: &DumpFiles, wanted: &[(&str, Dtype, &[u64], &[u8])], options: &Options) {
    let mut memory = MemorySource::new(&source.dumps()[0].stem);
    for (name, dtype, shape, packed) in wanted {
        let samples = shape.iter().product();
        memory = memory.with(name, *dtype, shape, unpacked(packed, dtype.bits(), samples)).unwrap();
    }
    for fleet in fleets() {
        let (made, report) = files(source, options, &fleet);
        assert!(report.images > 0);
        // What is written tells of the dump, the same in both.
        let (wanted, _) = files(&memory, options, &fleet);
        assert_eq!(made.len(), wanted.len());
        for (name, file) in &made {
            assert!(pixels(file) == pixels(&wanted[name]), "{name} on {}", fleet.label);
        }
    }
}

/// Planes of odd sizes, so that most begin within a byte: small, tiled, in blocks, by channels, and from
/// several files.
#[test]
fn runs_over_packed_samples_are_those_over_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.safetensors");
    let mut random = Random(2);
    let shapes: [&[u64]; 4] = [&[8, 3, 5], &[4, 8, 7, 11], &[8, 67, 65], &[8, 301, 233]];
    for dtype in SMALL {
        let packed = shapes.map(|shape| random.bytes(packed_len(dtype, shape.iter().product())));
        let names = ["a", "b", "c", "d"];
        let tensors: Vec<(&str, Dtype, &[u64], &[u8])> =
            (0..4).map(|k| (names[k], dtype, shapes[k], &packed[k][..])).collect();
        safetensors(&path, &tensors);
        let source = DumpFiles::open(&[&path]).unwrap();
        for block_samples in [None, Some(1001)] {
            compare(&source, &tensors, &Options { block_samples, ..with_norm(Norm::MinMax) });
        }
        compare(&source, &tensors, &with_norm(Norm::None));
        let mut channel = with_norm(Norm::Symmetric);
        channel.selection.channel = Some(3);
        compare(&source, &tensors, &channel);

        let parts = ["x-1.safetensors", "x-2.safetensors"].map(|name| dir.path().join(name));
        safetensors(&parts[0], &tensors[..1]);
        safetensors(&parts[1], &tensors[1..]);
        let index = dir.path().join("x.safetensors.index.json");
        let map =
            |(k, name): (usize, &&str)| format!("\"{name}\":\"x-{}.safetensors\"", 1 + k.min(1));
        let map: Vec<String> = names.iter().enumerate().map(map).collect();
        fs::write(&index, format!("{{\"weight_map\":{{{}}}}}", map.join(","))).unwrap();
        compare(&DumpFiles::open(&[&index]).unwrap(), &tensors, &with_norm(Norm::MinMax));
    }
}

fn raw(path: &Path, text: &str) -> Result<DumpFiles, Error> {
    let reading = Reading { raw: Some(text.parse()?), ..Reading::default() };
    DumpFiles::open_as(&[path], &reading)
}

#[test]
fn raw_files_are_packed_as_safetensors_are() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("raw");
    let mut random = Random(3);
    for dtype in SMALL {
        // Whole bytes at the end, and not.
        for shape in [[8, 3, 5], [3, 3, 5], [5, 1, 1], [1, 1, 1]] {
            let samples = shape.iter().product();
            let packed = random.bytes(packed_len(dtype, samples));
            fs::write(&path, [b"behind this".to_vec(), packed.clone()].concat()).unwrap();
            let [n, h, w] = shape;
            for text in [format!("{dtype}:{n}x{h}x{w}:11"), format!("{dtype}be:{n}x{h}x{w}:11")] {
                let source = raw(&path, &text).unwrap();
                assert_eq!(source.tensors()[0].shape, shape, "{text}");
                compare(&source, &[("raw", dtype, &shape, &packed)], &with_norm(Norm::MinMax));
            }
            if h * w > 1 {
                let source = raw(&path, &format!("{dtype}:?x{h}x{w}:11")).unwrap();
                assert_eq!(source.tensors()[0].shape, shape, "{dtype}");
            }
        }
    }
    fs::write(&path, [0x21, 0x43, 0x65]).unwrap();
    let samples = |text: &str| {
        let source = raw(&path, text).unwrap();
        let mut buf = vec![0; source.tensors()[0].bytes().unwrap() as usize];
        source.read_at(0, 0, &mut buf).unwrap();
        buf
    };
    assert_eq!(samples("F4:2x3"), [1, 2, 3, 4, 5, 6]);
    assert_eq!(samples("F4:?"), [1, 2, 3, 4, 5, 6]);
    assert_eq!(samples("F4:5"), [1, 2, 3, 4, 5]);
    assert_eq!(samples("F4:?x5"), [1, 2, 3, 4, 5]);
    // 0110_0101_0100_0011_0010_0001
    assert_eq!(samples("F6_E2M3:2x2"), [0b10_0001, 0b00_1100, 0b01_0100, 0b01_1001]);
    assert_eq!(samples("F6_E3M2:?x1"), [0b10_0001, 0b00_1100, 0b01_0100, 0b01_1001]);
    assert_eq!(samples("float8_e8m0fnu:3"), [0x21, 0x43, 0x65]);
    for (text, part) in [
        ("F4:7", "F4 of shape [7] takes 4 bytes, and 3 are there; 6 in the place of 7 would fit"),
        ("F4:4", "takes 2 bytes, and 3 are there; 6 in the place of 4"),
        ("F4:?x7", "F4 of shape [?, 7] takes a multiple of 28 bits, and 3 are there"),
        ("F4:?x4", "takes a multiple of 2 bytes, and 3 are there"),
        ("F6_E2M3:3", "takes 3 bytes"),
        ("F6_E2M3:2", "takes 2 bytes, and 3 are there; 4 in the place of 2"),
        ("F6_E2M3:5x1", "takes 4 bytes, and 3 are there; 4 in the place of 5"),
        ("F6_E2M3:5x7", "takes 27 bytes, and 3 are there; 24 bytes are missing"),
        ("F4:2x1:2", "takes 1 byte, "),
        ("F4:4294967296x4294967296", "more than 2^64 bytes"),
        ("F4:4294967295x4294967296", "bytes are missing"),
    ] {
        match raw(&path, text) {
            Err(error) => assert!(error.to_string().contains(part), "{text}: {error}"),
            // Those that fit are there to show where the end of the others is.
            Ok(_) => assert!(["F6_E2M3:3", "F4:2x1:2"].contains(&text), "{text} was taken"),
        }
    }
}

#[test]
fn headers_that_lie_about_packed_sizes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.safetensors");
    let open = |dtype: &str, shape: &str, len: usize| {
        let json = format!(
            "{{\"t\":{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[0,{len}]}}}}"
        );
        let head = (json.len() as u64).to_le_bytes();
        fs::write(&path, [&head[..], json.as_bytes(), &vec![0; len]].concat()).unwrap();
        DumpFiles::open(&[&path])
    };
    for (dtype, shape, len, part) in [
        ("F4", "[3]", 2, "F4 of shape [3] takes 12 bits, which are no whole bytes"),
        ("F4", "[3]", 1, "12 bits"),
        ("F4", "[1,1]", 1, "4 bits"),
        ("F4", "[]", 1, "4 bits"),
        ("F4", "[4]", 4, "F4 of shape [4] takes 2 bytes, but its offsets span 4"),
        ("F4", "[4]", 1, "takes 2 bytes"),
        ("F4", "[4]", 3, "takes 2 bytes"),
        ("F4", "[4]", 0, "takes 2 bytes"),
        ("F6_E2M3", "[4]", 4, "takes 3 bytes"),
        ("F6_E3M2", "[4]", 2, "takes 3 bytes"),
        ("F6_E3M2", "[2]", 2, "takes 12 bits"),
        ("F6_E3M2", "[1,5]", 4, "takes 30 bits"),
        ("F4", "[2305843009213693952]", 0, "takes 1152921504606846976 bytes"),
        ("F4", "[4611686018427387904]", 0, "larger than 64 bits"),
        ("F4", "[4611686018427387904,2]", 0, "larger than 64 bits"),
        ("F6_E2M3", "[3074457345618258604]", 0, "larger than 64 bits"),
        ("F6_E2M3", "[4294967296,4294967296]", 0, "larger than 64 bits"),
        ("F4", "[0,9223372036854775808]", 0, "larger than 64 bits"),
        ("F4", "[3,0]", 1, "takes 0 bytes"),
        ("F8_E8M0", "[3]", 2, "takes 3 bytes"),
        ("F8_E4M3FNUZ", "[3]", 4, "takes 3 bytes"),
        ("F8_E5M2FNUZ", "[3]", 0, "takes 3 bytes"),
    ] {
        let error = open(dtype, shape, len).unwrap_err();
        assert!(matches!(error, Error::Format { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("tensor t") && text.contains(part), "{dtype} {shape} {len}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    for (dtype, shape, len) in
        [("F4", "[2]", 1), ("F4", "[3,0]", 0), ("F6_E2M3", "[4]", 3), ("F6_E3M2", "[2,2]", 3)]
    {
        open(dtype, shape, len).unwrap();
    }
}

#[test]
fn sizes_in_files_are_known_without_reading() {
    let info = |dtype, shape: &[u64]| TensorInfo::new("t".to_owned(), 0, dtype, shape.to_vec());
    for (dtype, shape, bytes, packed) in [
        (Dtype::F4, &[3, 3][..], Some(9), Some(5)),
        (Dtype::F6E2m3, &[3, 3], Some(9), Some(7)),
        (Dtype::F6E3m2, &[4], Some(4), Some(3)),
        (Dtype::F8E8m0, &[3, 3], Some(9), Some(9)),
        (Dtype::F64, &[3, 3], Some(72), Some(72)),
        (Dtype::F4, &[0, 3], Some(0), Some(0)),
        (Dtype::F4, &[1 << 63], Some(1 << 63), Some(1 << 62)),
        (Dtype::F4, &[1 << 32, 1 << 32], None, None),
        (Dtype::F64, &[1 << 61], None, None),
    ] {
        let info = info(dtype, shape);
        assert_eq!((info.bytes(), info.packed_bytes()), (bytes, packed), "{dtype} {shape:?}");
    }
}
