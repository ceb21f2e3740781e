//! `.npz` files as `numpy.savez_compressed` writes them: the same tensors as those of `numpy.savez`, read
//! anywhere and by many threads, in bounded memory; and what is damaged is told.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data is small, and a test that panics says where"
)]

mod common;
#[path = "common/trees.rs"]
mod trees;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::Random;
use tensortiff::{Dtype, DumpFiles, Error, Options, Reading, Source as _};

/// The same arrays with and without compression: small ones, ones of several chunks, in every order.
const WRITE: &str = r#"
import os, sys
import numpy as np
out = sys.argv[1]
random = np.random.default_rng(5)
arrays = {}
for kind in ["?", "u1", "i2", "f2", "f4", "f8", "i8"]:
    for order in "CF":
        for byteorder in "<>":
            values = random.normal(size=(3, 20, 30)) * 50
            name = f"{np.dtype(kind).name}-{order}-{'swapped' if byteorder == '>' else 'plain'}"
            arrays[name] = np.asarray(values.astype(kind), dtype=np.dtype(kind).newbyteorder(byteorder), order=order)
smooth = np.add.outer(np.arange(700.0), np.arange(600.0)).astype("<f4")
arrays["large"] = np.stack([smooth, random.normal(size=smooth.shape).astype("<f4"), smooth * 0, smooth ** 2])
arrays["columns"] = np.asfortranarray(random.integers(0, 9, (900, 800)).astype("<i2"))
arrays["giant"] = np.repeat(random.integers(0, 200, (3000, 1000)).astype("u1"), 2, axis=1)
arrays["scalar"] = np.float32(3)
arrays["empty"] = np.empty((0, 4), "<f4")
for name, save in [("stored", np.savez), ("packed", np.savez_compressed)]:
    os.makedirs(f"{out}/{name}")
    save(f"{out}/{name}/d.npz", **arrays)
np.savez_compressed(f"{out}/small.npz", a=random.integers(0, 4, (40, 50)).astype("<f4"), b=np.arange(999, dtype="u1"))
"#;

fn python() -> PathBuf {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
    assert!(python.exists(), "scripts/test makes the Python environment");
    python
}

fn written() -> tempfile::TempDir {
    let dir = trees::folder();
    let status = Command::new(python()).args(["-c", WRITE]).arg(dir.path()).status().unwrap();
    assert!(status.success());
    dir
}

fn bytes(source: &DumpFiles, tensor: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; source.tensors()[tensor].bytes().unwrap() as usize];
    source.read_at(tensor, 0, &mut bytes).map(|()| bytes)
}

/// What lies there is found in the file, end for end, and is of the size that the archive has.
#[test]
fn what_lies_in_a_file_can_be_read_as_it_is() {
    let dir = written();
    for (name, packed) in [("stored", false), ("packed", true)] {
        let path = dir.path().join(name).join("d.npz");
        let (file, source) = (fs::read(&path).unwrap(), DumpFiles::open(&[&path]).unwrap());
        let mut total = 0;
        for (tensor, info) in source.tensors().iter().enumerate() {
            let len = source.stored_bytes(tensor);
            let mut lies = vec![0; len as usize];
            source.read_stored(tensor, 0, &mut lies).unwrap();
            assert!(lies.is_empty() || file.windows(lies.len()).any(|part| part == lies));
            let mut last = [0];
            if len > 0 {
                source.read_stored(tensor, len - 1, &mut last).unwrap();
                assert_eq!(last[0], *lies.last().unwrap());
            }
            assert!(source.read_stored(tensor, len, &mut last).is_err(), "{}", info.name);
            assert!(packed || Some(len) == info.bytes(), "{}", info.name);
            total += len;
        }
        assert!(total <= file.len() as u64 && total > file.len() as u64 * 9 / 10, "{total}");
    }
}

#[test]
fn compressed_arrays_are_those_that_are_not() {
    let dir = written();
    let [stored, packed] = ["stored", "packed"].map(|name| dir.path().join(name).join("d.npz"));
    assert!(fs::metadata(&packed).unwrap().len() < fs::metadata(&stored).unwrap().len());
    let [stored, packed] = [stored, packed].map(|path| DumpFiles::open(&[path]).unwrap());
    assert_eq!(stored.tensors(), packed.tensors());
    assert_eq!(stored.tensors().len(), 7 * 4 + 5);
    let whole: Vec<Vec<u8>> =
        (0..stored.tensors().len()).map(|tensor| bytes(&stored, tensor).unwrap()).collect();
    let look = |source: &DumpFiles, seed: u64, looks: usize| {
        let mut random = Random(seed);
        for _ in 0..looks {
            let tensor = random.below(whole.len() as u64) as usize;
            let all = &whole[tensor];
            let at = random.below(all.len() as u64 + 1) as usize;
            let most = [10, 5000, 1 << 20][random.below(3) as usize];
            let len = random.below((all.len() - at).min(most) as u64 + 1) as usize;
            let mut part = vec![0; len];
            source.read_at(tensor, at as u64, &mut part).unwrap();
            assert!(
                part == all[at..at + len],
                "{}: {len} from {at}",
                stored.tensors()[tensor].name
            );
        }
    };
    std::thread::scope(|scope| {
        for seed in 0..6 {
            let (packed, look) = (&packed, &look);
            scope.spawn(move || look(packed, seed, 150));
        }
    });
    for (tensor, all) in whole.iter().enumerate() {
        assert!(bytes(&packed, tensor).unwrap() == *all, "{}", stored.tensors()[tensor].name);
    }
    packed.check_unchanged().unwrap();
}

#[test]
fn images_of_compressed_arrays_are_the_same_from_every_device() {
    let dir = written();
    let stored = DumpFiles::open(&[dir.path().join("stored/d.npz")]).unwrap();
    let (wanted, _) = common::files(&stored, &Options::default(), &common::cpu());
    assert_eq!(wanted.len(), 7 * 4 * 3 + 4 + 1 + 1);
    for fleet in common::fleets() {
        // The GPU does those that it takes.
        let tensors =
            ["large", "columns", "giant", "float16*", "bool*"].map(str::to_owned).to_vec();
        let selection = tensortiff::Selection { tensors, ..tensortiff::Selection::default() };
        let options = Options { selection, ..Options::default() };
        let packed = DumpFiles::open(&[dir.path().join("packed/d.npz")]).unwrap();
        let (files, _) = common::files(&packed, &options, &fleet);
        assert_eq!(files.len(), 4 + 1 + 1 + 4 * 3 * 2);
        for (name, file) in files {
            assert!(file == wanted[&name], "{}: {name}", fleet.label);
        }
    }
}

/// Committed files, whoever has which NumPy: packed, as |V2, raw; and the same arrays plain.
#[test]
fn golden_files_of_numpy_hold_what_it_says() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/numpy");
    let open = |name: &str, raw: Option<&str>| {
        let reading = Reading::of(raw, Some("bf16"), None).unwrap();
        DumpFiles::open_as(&[golden.join(name)], &reading).unwrap()
    };
    let expected = open("expected.npz", None);
    let wanted = |name: &str| {
        let at = expected.tensors().iter().position(|tensor| tensor.name == name).unwrap();
        (expected.tensors()[at].shape.clone(), bytes(&expected, at).unwrap())
    };
    let mut seen = 0;
    let raw = Some("f64be:?x5x6:6");
    for (file, raw) in [("packed.npz", None), ("bf16.npz", None), ("swapped.bin", raw)] {
        let source = open(file, raw);
        for (at, tensor) in source.tensors().iter().enumerate() {
            let found = bytes(&source, at).unwrap();
            if tensor.name == "smooth" {
                let value = |at: usize| (at / 300 + at % 300) as f32;
                let bytes: Vec<u8> = (0..120_000).flat_map(|at| value(at).to_le_bytes()).collect();
                assert!(found == bytes && tensor.shape == [400, 300]);
            } else {
                assert_eq!((tensor.shape.clone(), found), wanted(&tensor.name), "{file}");
            }
            assert_eq!(tensor.dtype == Dtype::Bf16, tensor.name == "bf16");
            seen += 1;
        }
    }
    assert_eq!(seen, 5 + 1 + 1);
}

/// Whatever is done to an archive, there is an answer; and what is read to its end is what was written.
#[test]
fn damaged_archives_are_refused_or_read_as_they_were() {
    let inputs = if std::env::var_os("TENSORTIFF_LONG").is_some() { 1_000_000 } else { 20_000_u64 };
    let dir = written();
    let path = dir.path().join("small.npz");
    let good = fs::read(&path).unwrap();
    let source = DumpFiles::open(&[&path]).unwrap();
    let whole: Vec<(String, Vec<u8>)> = (0..2)
        .map(|tensor| (source.tensors()[tensor].name.clone(), bytes(&source, tensor).unwrap()))
        .collect();
    let mut random = Random(4);
    let (mut refused, mut damaged, mut same) = (0_u64, 0_u64, 0_u64);
    for _ in 0..inputs {
        let mut file = good.clone();
        for _ in 0..1 + random.below(2) {
            let at = random.below(file.len() as u64) as usize;
            match random.below(6) {
                0 | 1 => file[at] ^= 1 << random.below(8),
                2 => file[at] = random.next() as u8,
                3 => file.iter_mut().skip(at).take(4).for_each(|byte| *byte = 0xFF),
                4 => file.iter_mut().skip(at).take(9).for_each(|byte| *byte = 0),
                _ => file.swap(at, good.len() - 1 - at),
            }
        }
        fs::write(&path, &file).unwrap();
        match DumpFiles::open(&[&path]) {
            Err(error) => {
                refused += 1;
                assert_eq!(error.to_string().lines().count(), 1, "{error}");
            }
            Ok(source) => {
                for (number, tensor) in source.tensors().iter().enumerate() {
                    let size = tensor.bytes().unwrap();
                    assert!(size <= 1032 * good.len() as u64, "{size}");
                    match bytes(&source, number) {
                        Ok(found) => {
                            let known = whole.iter().find(|(_, bytes)| *bytes == found);
                            assert!(known.is_some(), "{} was read otherwise", tensor.name);
                            same += 1;
                        }
                        Err(error) => {
                            damaged += 1;
                            assert!(matches!(error, Error::Damaged { .. }), "{error}");
                        }
                    }
                }
            }
        }
    }
    for count in [refused, damaged, same] {
        assert!(count * 20 > inputs, "{refused} refused, {damaged} damaged, {same} the same");
    }
}

/// Where the directory's entries begin.
fn entries(file: &[u8]) -> Vec<usize> {
    file.windows(4)
        .enumerate()
        .filter(|(_, four)| four == b"PK\x01\x02")
        .map(|(at, _)| at)
        .collect()
}

#[test]
fn archives_that_lie_are_refused_by_name() {
    let dir = written();
    let path = dir.path().join("small.npz");
    let good = fs::read(&path).unwrap();
    let [one, other] = entries(&good)[..] else { panic!("two members") };
    let number = |at: usize| u32::from_le_bytes(good[at..at + 4].try_into().unwrap());
    let told = |changes: &[(usize, &[u8])]| {
        let mut file = good.clone();
        for (at, bytes) in changes {
            file[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        fs::write(&path, &file).unwrap();
        let opened = DumpFiles::open(&[&path]);
        let error = match opened {
            Err(error) => error,
            Ok(source) => bytes(&source, 0).unwrap_err(),
        };
        let text = error.to_string();
        assert!(text.contains("small.npz") && text.lines().count() == 1, "{text}");
        text
    };
    // (Offsets of fields in an entry: PKWARE's APPNOTE, 4.3.12.)
    let (size, packed) = (number(one + 24), number(one + 20));
    let crc = (number(one + 16) ^ 1).to_le_bytes();
    let bomb = (packed * 1032 + 1).to_le_bytes();
    type Change<'a> = (usize, &'a [u8]);
    let cases: [(&[Change<'_>], &str); 8] = [
        (&[(one + 10, &[12])], "a.npy: is compressed by method 12, and can be read stored (0) or"),
        (&[(one + 10, &[0])], "a.npy: is not where the directory says"),
        (&[(one + 8, &[1])], "a.npy: is encrypted"),
        (&[(one + 24, &bomb)], "which"),
        (&[(one + 24, &(size + 4).to_le_bytes())], "takes 8000 bytes, and 8004 are there"),
        (&[(one + 16, &crc)], "its checksum is"),
        (&[(other + 42, &number(one + 42).to_le_bytes())], "b.npy and a.npy overlap"),
        (&[(one + 20, &(packed - 1).to_le_bytes())], "its packed bytes are cut off"),
    ];
    for (changes, part) in cases {
        let text = told(changes);
        assert!(text.contains(part), "{part}: {text}");
    }
    let bomb = told(&[(one + 24, &bomb)]);
    assert!(bomb.contains(&format!("{packed} deflated ones cannot be")), "{bomb}");
}

#[cfg(feature = "cli")]
#[path = "common/tool.rs"]
mod tool;

/// A run of what is damaged ends with an error and without a manifest.
#[test]
#[cfg(feature = "cli")]
fn a_run_of_a_damaged_array_fails() {
    let dir = written();
    let path = dir.path().join("packed/d.npz");
    let mut file = fs::read(&path).unwrap();
    // In the middle of the largest member: noise, where nothing but the checksum notices.
    let large = file.windows(9).position(|nine| nine == b"large.npy").unwrap();
    file[large + 1_000_000] ^= 0x10;
    fs::write(&path, &file).unwrap();
    let (dump, out) = (path.to_str().unwrap(), dir.path().join("out"));
    let output = out.to_str().unwrap();
    let (_, told) = tool::ends_with(1, &["convert", dump, "-o", output, "--device", "cpu"]);
    assert!(told.contains("tensor large: its ") && told.contains("not to be trusted"), "{told}");
    assert!(!out.join("manifest.jsonl").exists());
    let again = ["convert", dump, "-o", output, "--device", "cpu", "--resume"];
    let (_, told) = tool::ends_with(1, &again);
    assert!(told.contains("tensor large"), "{told}");
    tool::ends_with(0, &["convert", dump, "-o", output, "--overwrite", "--exclude", "large"]);
}
