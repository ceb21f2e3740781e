//! Written files, opened with tifffile, Pillow and OpenCV: the same pixels and not a word on
//! stderr. Runs in the Python environment that `scripts/test` makes.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data is small, and a test that panics says where"
)]
#![cfg(feature = "cli")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tensortiff::normalize::oracle;
use tensortiff::{DumpFiles, Norm, Source as _, TensorInfo};

/// What is expected of every file that the tool writes for a dump, as the oracle says.
fn expected(dump: &Path, norm: Norm) -> BTreeMap<String, (Vec<u64>, Vec<f32>)> {
    let stem = dump.file_stem().unwrap().to_str().unwrap();
    let mut files = BTreeMap::new();
    let source = DumpFiles::open(&[dump]).unwrap();
    for (number, TensorInfo { name, dtype, shape, .. }) in source.tensors().iter().enumerate() {
        let mut bytes =
            vec![0; usize::try_from(source.tensors()[number].bytes().unwrap()).unwrap()];
        source.read_at(number, 0, &mut bytes).unwrap();
        let (axes, image) = shape.split_at(shape.len() - 2);
        let size = usize::try_from(image.iter().product::<u64>()).unwrap() * dtype.size();
        for (k, raw) in bytes.chunks(size).enumerate() {
            let (mut rest, mut index) = (k as u64, Vec::new());
            for &axis in axes.iter().rev() {
                index.push(format!(
                    "{:0width$}",
                    rest % axis,
                    width = (axis - 1).to_string().len()
                ));
                rest /= axis;
            }
            index.reverse();
            let leaf =
                if axes.is_empty() { String::new() } else { format!("/{}", index.join("_")) };
            let (_, pixels) = oracle::normalize(norm, *dtype, raw);
            files.insert(format!("{stem}/{name}{leaf}.tif"), (image.to_vec(), pixels));
        }
    }
    files
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut group = [0; 3];
        group[..chunk.len()].copy_from_slice(chunk);
        let word = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for digit in 0..4 {
            let value = (word >> (18 - 6 * digit)) & 63;
            let digit = if digit > chunk.len() { b'=' } else { DIGITS[value as usize] };
            text.push(char::from(digit));
        }
    }
    text
}

fn write_json(path: &Path, files: &BTreeMap<String, (Vec<u64>, Vec<f32>)>) {
    let mut json = String::from("{");
    for (i, (name, (shape, pixels))) in files.iter().enumerate() {
        let bytes: Vec<u8> = pixels.iter().flat_map(|x| x.to_bits().to_le_bytes()).collect();
        let comma = if i > 0 { "," } else { "" };
        write!(json, "{comma}{name:?}:{{\"shape\":{shape:?},\"bits\":\"{}\"}}", base64(&bytes))
            .unwrap();
    }
    std::fs::write(path, json + "}").unwrap();
}

fn python() -> PathBuf {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
    assert!(python.exists(), "no {}: run scripts/test, which makes it", python.display());
    python
}

fn open_all(dump: &str, norm: Norm, corrupt: impl Fn(&Path)) -> (bool, String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dump = root.join(dump);
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let status = Command::new(env!("CARGO_BIN_EXE_tensortiff"))
        .args(["convert", "-q", "--no-manifest", "--device", "cpu", "--norm", norm.name(), "-o"])
        .arg(&out)
        .arg(&dump)
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
    corrupt(&out);
    let json = dir.path().join("expected.json");
    write_json(&json, &expected(&dump, norm));
    let check = Command::new(python())
        .arg(root.join("tests/readers/check.py"))
        .args([&out, &json])
        .output()
        .unwrap();
    let said = [check.stdout, check.stderr].concat();
    (check.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn a_real_dump_opens_right_everywhere() {
    let (right, said) = open_all("data/minilm.safetensors", Norm::MinMax, |_| {});
    assert!(right, "{said}");
    assert!(said.contains("951 readings of 317 files"), "{said}");
}

#[test]
fn every_dtype_opens_right_everywhere() {
    for norm in [Norm::MinMax, Norm::None] {
        for dump in ["dtypes", "small"] {
            let (right, said) = open_all(&format!("tests/golden/{dump}.safetensors"), norm, |_| {});
            assert!(right, "{dump} {norm}: {said}");
        }
    }
}

/// The check itself must see what is wrong: it is shown files that are.
#[test]
fn the_check_sees_broken_files() {
    type Damage = fn(&mut Vec<u8>);
    let broken: [(&str, Damage); 7] = [
        ("pixels differ", |file| *file.last_mut().unwrap() ^= 1),
        // The value of tag 339, SampleFormat: unsigned integers.
        ("dtype", |file| patch(file, 339, 1)),
        // Two NULs at the end of tag 270 make libtiff warn.
        ("printed", |file| {
            let at = entry(file, 270) + 4;
            let count = u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) + 1;
            file[at..at + 4].copy_from_slice(&count.to_le_bytes());
        }),
        // Tag 270 as 271 (Make): no description at all.
        ("no display range", |file| retag(file, 270, 271)),
        // A key of the JSON, and ImageJ's line for the maximum, misspelt.
        ("keys", |file| replace(file, b"\"norm\"", b"\"morn\"")),
        ("max", |file| replace(file, b"\nmax=", b"\nmix=")),
        ("reader", |file| file.truncate(100)),
    ];
    for (sign, damage) in broken {
        let (right, said) = open_all("tests/golden/original.safetensors", Norm::MinMax, |out| {
            let path = out.join("original/image.tif");
            let mut file = std::fs::read(&path).unwrap();
            damage(&mut file);
            std::fs::write(path, file).unwrap();
        });
        assert!(!right, "{sign}: {said}");
        assert!(sign == "reader" || said.contains(sign), "{sign}: {said}");
    }
}

/// Where a tag's directory entry begins.
fn entry(file: &[u8], tag: u16) -> usize {
    (0..14)
        .map(|i| 10 + 12 * i)
        .find(|&at| file[at..at + 2] == tag.to_le_bytes())
        .expect("the tag is there")
}

fn retag(file: &mut [u8], tag: u16, other: u16) {
    let at = entry(file, tag);
    file[at..at + 2].copy_from_slice(&other.to_le_bytes());
}

fn replace(file: &mut [u8], old: &[u8], new: &[u8]) {
    let at = file.windows(old.len()).position(|part| part == old).expect("the text is there");
    file[at..at + old.len()].copy_from_slice(new);
}

fn patch(file: &mut [u8], tag: u16, value: u8) {
    let at = entry(file, tag) + 8;
    file[at] = value;
}
