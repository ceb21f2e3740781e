//! What files do not say themselves: `--raw` for bytes without a header, `--npy-v2` for NumPy's |V2. Both are
//! part of what a run is: plans, shards and a run that goes on read the same tensors.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data is small, and a test that panics says where"
)]

mod common;
#[path = "common/trees.rs"]
mod trees;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::Random;
use tensortiff::{
    DumpFiles, Error, MemorySink, NpyV2, Options, Raw, Reading, Source as _, convert,
};

/// The same arrays as `.npy` and raw, in both byte orders, and what torch calls bfloat16 as NumPy has it.
const WRITE: &str = r#"
import sys
import numpy as np
out = sys.argv[1]
random = np.random.default_rng(3)
for kind, name in [("?", "bool"), ("u1", "uint8"), ("i1", "int8"), ("u2", "uint16"), ("i2", "int16"), ("f2", "float16"), ("u4", "uint32"),
                   ("i4", "int32"), ("f4", "float32"), ("u8", "uint64"), ("i8", "int64"), ("f8", "float64")]:
    array = (random.normal(size=(4, 5, 6)) * 50).astype(kind)
    np.save(f"{out}/{name}.npy", array)
    array.tofile(f"{out}/{name}.le")
    array.astype(np.dtype(kind).newbyteorder(">")).tofile(f"{out}/{name}.be")
    with open(f"{out}/{name}.behind", "wb") as file:
        file.write(b"a header!")
        array.tofile(file)
bits = random.integers(0, 0x7F80, (3, 7, 9)).astype("<u2")
bits.view("V2")[...].tofile(f"{out}/bf16.le")
np.save(f"{out}/v2.npy", bits.view("V2"))
np.save(f"{out}/columns.npy", np.asfortranarray(bits.view("V2")))
np.savez(f"{out}/v2.npz", v2=bits.view("V2"), plain=bits[0])
np.savez_compressed(f"{out}/packed.npz", v2=bits.view("V2"))
"#;

fn written() -> tempfile::TempDir {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
    assert!(python.exists(), "scripts/test makes the Python environment");
    let dir = tempfile::tempdir().unwrap();
    let status = Command::new(python).args(["-c", WRITE]).arg(dir.path()).status().unwrap();
    assert!(status.success());
    dir
}

fn raw(text: &str) -> Reading {
    Reading { raw: Some(text.parse().unwrap()), ..Reading::default() }
}

fn bytes(source: &DumpFiles, tensor: usize) -> Vec<u8> {
    let mut bytes = vec![0; source.tensors()[tensor].bytes().unwrap() as usize];
    source.read_at(tensor, 0, &mut bytes).unwrap();
    bytes
}

#[test]
fn raw_files_hold_what_numpy_wrote_into_them() {
    let dir = written();
    let at = |name: &str| dir.path().join(name);
    let mut seen = 0;
    for kind in [
        "bool", "uint8", "int8", "uint16", "int16", "float16", "uint32", "int32", "float32",
        "uint64", "int64", "float64",
    ] {
        let wanted = DumpFiles::open(&[at(&format!("{kind}.npy"))]).unwrap();
        for (file, text) in [
            ("le", format!("{kind}:4x5x6")),
            ("le", format!("{kind}:?,5,6")),
            ("be", format!("{kind}BE:4x?x6")),
            ("behind", format!("{kind}:4x5x-1:9")),
        ] {
            let source = DumpFiles::open_as(&[at(&format!("{kind}.{file}"))], &raw(&text)).unwrap();
            assert_eq!(source.tensors(), wanted.tensors(), "{text}");
            assert!(bytes(&source, 0) == bytes(&wanted, 0), "{text}");
            let files = [&source, &wanted].map(|source| {
                let sink = MemorySink::default();
                let options = Options { devices: "cpu".parse().unwrap(), ..Options::default() };
                drop(convert(source, &sink, &options).unwrap());
                sink.into_files()
            });
            assert!(files[0] == files[1] && files[0].len() == 4, "{text}");
            seen += 1;
        }
    }
    assert_eq!(seen, 48);
}

/// As NumPy writes and names them.
#[test]
fn raw_complex_numbers_are_read_where_it_is_said_what_is_made_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.raw");
    let parts = [3.0_f32, 4.0, -1.0, 0.0];
    for (text, swapped) in [("c64:1x2", false), ("complex64:?x2", false), (">c8:1x2", true)] {
        let bytes = |x: &f32| if swapped { x.to_be_bytes() } else { x.to_le_bytes() };
        fs::write(&path, parts.iter().flat_map(bytes).collect::<Vec<u8>>()).unwrap();
        let source = DumpFiles::open_as(&[&path], &raw(text)).unwrap();
        assert_eq!((source.tensors().len(), source.unsupported()[0].dtype.as_str()), (0, "C64"));
        let error = convert(&source, &MemorySink::default(), &Options::default()).unwrap_err();
        assert!(error.to_string().contains("--complex abs"), "{error}");
        for (complex, want) in [("abs", [5.0_f32, 1.0]), ("re", [3.0, -1.0]), ("im", [4.0, 0.0])] {
            let complex = Some(complex.parse().unwrap());
            let reading = Reading { complex, ..raw(text) };
            let source = DumpFiles::open_as(&[&path], &reading).unwrap();
            assert_eq!(source.tensors()[0].shape, [1, 2]);
            assert!(bytes_of(&want) == self::bytes(&source, 0), "{text}: {complex:?}");
        }
    }
}

fn bytes_of(samples: &[f32]) -> Vec<u8> {
    samples.iter().flat_map(|x| x.to_le_bytes()).collect()
}

#[test]
fn two_bytes_of_numpy_are_bfloat16_where_that_is_said() {
    let dir = written();
    let at = |name: &str| dir.path().join(name);
    let plain = DumpFiles::open_as(&[at("bf16.le")], &raw("bf16:3x7x9")).unwrap();
    let reading = Reading { npy_v2: Some(NpyV2::Bf16), ..Reading::default() };
    for name in ["v2.npy", "columns.npy", "v2.npz", "packed.npz"] {
        let told = DumpFiles::open(&[at(name)]).unwrap_err().to_string();
        assert!(told.contains(name) && told.contains("--npy-v2 bf16"), "{told}");
        let source = DumpFiles::open_as(&[at(name)], &reading).unwrap();
        let number = source.tensors().iter().position(|tensor| tensor.shape == [3, 7, 9]).unwrap();
        assert_eq!(source.tensors()[number].dtype, tensortiff::Dtype::Bf16, "{name}");
        assert!(bytes(&source, number) == bytes(&plain, 0), "{name}");
    }
    let source = DumpFiles::open_as(&[at("v2.npz")], &reading).unwrap();
    assert!(source.tensors().iter().any(|tensor| tensor.dtype == tensortiff::Dtype::U16));
}

#[test]
fn raw_files_of_other_sizes_are_refused_and_all_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for (name, len) in [("good", 48), ("short", 47), ("long", 49), ("twice", 96), ("empty", 0)] {
        fs::write(at(name), vec![1; len]).unwrap();
    }
    let names = ["good", "short", "long", "twice", "empty"].map(at);
    let error = DumpFiles::open_as(&names, &raw("f32:3x4")).unwrap_err();
    let Error::Inputs(all) = &error else { panic!("{error}") };
    assert_eq!(all.len(), 4, "{error}");
    let parts = ["1 byte is missing", "1 byte is too many", "6 in the place of 3", "0 are there"];
    for (error, part) in all.iter().zip(parts) {
        assert!(error.to_string().contains(part), "{error}");
    }
    // An index is a file like others.
    fs::write(at("x.safetensors.index.json"), [0; 48]).unwrap();
    let index = DumpFiles::open_as(&[at("x.safetensors.index.json")], &raw("f32:3x4")).unwrap();
    assert_eq!(index.tensors()[0].name, "x.safetensors.index");
    let folder = DumpFiles::open_as(&[dir.path()], &raw("f32:3x4")).unwrap_err();
    assert!(folder.to_string().contains("it is a folder"), "{folder}");
}

/// Whatever is typed, there is an answer; what is taken is written the same again, and a tensor of it lies
/// in its file.
#[test]
fn what_is_typed_is_taken_or_refused() {
    let inputs = if std::env::var_os("TENSORTIFF_LONG").is_some() { 1_000_000 } else { 50_000_u64 };
    let dir = trees::folder();
    let path = dir.path().join("raw");
    let pieces = [
        "f32",
        "F16",
        "bf16",
        "u8",
        "i64",
        "<f4",
        ">i2",
        "|b1",
        "BE",
        "be",
        ":",
        ":",
        ":",
        "x",
        ",",
        "?",
        "-1",
        "0",
        "1",
        "2",
        "3",
        "12",
        "18446744073709551615",
        "4294967296",
        " ",
        "é",
        "-",
    ];
    let good = ["f32:2x3", "u8:?x3:4", ">f4:2,2", "bool:1x?x2:1"];
    let mut random = Random(6);
    let (mut taken, mut opened) = (0_u64, 0_u64);
    for _ in 0..inputs {
        let mut text = good[random.below(good.len() as u64) as usize].to_owned();
        for _ in 0..random.below(3) {
            let piece = pieces[random.below(pieces.len() as u64) as usize];
            let at = random.below(text.len() as u64 + 1) as usize;
            let end = (at + random.below(3) as usize).min(text.len());
            if text.is_char_boundary(at) && text.is_char_boundary(end) {
                text.replace_range(at..end, piece);
            }
        }
        let raw: Raw = match text.parse() {
            Ok(raw) => raw,
            Err(error) => {
                let error: Error = error;
                assert!(error.is_usage() && error.to_string().lines().count() == 1, "{error}");
                continue;
            }
        };
        taken += 1;
        assert_eq!(raw.to_string().parse::<Raw>().unwrap(), raw, "{text}");
        let len = random.below(40);
        fs::write(&path, vec![7; len as usize]).unwrap();
        let reading = Reading { raw: Some(raw), ..Reading::default() };
        if let Ok(source) = DumpFiles::open_as(&[&path], &reading) {
            opened += 1;
            let found = bytes(&source, 0);
            assert!(!found.is_empty() && found.len() as u64 <= len, "{text} of {len}");
            assert!(found.iter().all(|byte| *byte == 7));
        }
    }
    assert!(taken * 5 > inputs && opened * 50 > inputs, "{taken} taken, {opened} opened");
}

#[cfg(feature = "cli")]
#[path = "common/tool.rs"]
mod tool;

#[cfg(feature = "cli")]
struct Job {
    dir: tempfile::TempDir,
}

#[cfg(feature = "cli")]
impl Job {
    /// Two raw files of images, and two bytes of NumPy.
    fn new() -> Job {
        let dir = trees::folder();
        let mut random = Random(9);
        for name in ["a.bin", "b.raw"] {
            fs::write(dir.path().join(name), random.bytes(5 + 2 * 6 * 7 * 8)).unwrap();
        }
        let header = "{'descr': '|V2', 'fortran_order': False, 'shape': (4, 6, 7)}";
        let length = (header.len() as u16).to_le_bytes();
        let prefix = [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes()].concat();
        let data = random.bytes(2 * 4 * 6 * 7);
        fs::write(dir.path().join("v2.npy"), [prefix, data].concat()).unwrap();
        Job { dir }
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, code: i32, args: &[&str]) -> (String, String) {
        let output = tool::tool().args(args).current_dir(self.dir.path()).output().unwrap();
        let (out, err) = (tool::text(&output.stdout), tool::text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{args:?}\n{out}\n{err}");
        (out, err)
    }
}

#[cfg(feature = "cli")]
const CASES: [(&[&str], &[&str]); 2] =
    [(&["a.bin", "b.raw"], &["--raw", "f16be:?x7x8:5"]), (&["v2.npy"], &["--npy-v2", "bf16"])];

/// The plan says how its dumps are read, and nobody has to say it again.
#[test]
#[cfg(feature = "cli")]
fn shards_read_the_tensors_that_were_planned() {
    for (dumps, how) in CASES {
        let job = Job::new();
        job.run(0, &[&["convert"], dumps, how, &["-o", "whole", "--device", "cpu"]].concat());
        job.run(0, &[&["plan"], dumps, how, &["--shards", "3", "-o", "p.jsonl"]].concat());
        for shard in ["2", "0/3", "1"] {
            let (missing, _) = job.run(3, &["status", "p.jsonl", "out"]);
            assert!(missing.contains(&shard[..1]), "{missing}");
            job.run(0, &["convert", "p.jsonl", "-o", "out", "--shard", shard, "--device", "cpu"]);
        }
        job.run(0, &["status", "p.jsonl", "out"]);
        job.run(0, &["merge", "p.jsonl", "out"]);
        trees::same(&trees::tree(job.at("out")), &trees::tree(job.at("whole")), "three shards");
        let (_, told) = job.run(2, &[&["convert", "p.jsonl", "-o", "other"], how].concat());
        assert!(told.contains(&format!("{}: p.jsonl says that", how[0])), "{told}");
        // A plan that says it otherwise is another one.
        let plan = fs::read_to_string(job.at("p.jsonl")).unwrap();
        for (from, to, code, part) in [
            ("F16BE:?x7x8:5", "F16:?x7x8:5", 1, "planned otherwise: the tensors"),
            ("F16BE:?x7x8:5", "F31:?x7x8:5", 1, "read otherwise: the dtype F31 is unknown"),
            ("\"npy_v2\":\"bf16\"", "\"npy_v2\":\"f16\"", 1, "read otherwise: --npy-v2 f16"),
            (",\"npy_v2\":\"bf16\"", "", 1, "its dtype is |V2"),
        ] {
            let other = plan.replace(from, to);
            if other != plan {
                fs::write(job.at("q.jsonl"), other).unwrap();
                let (_, told) = job.run(code, &["convert", "q.jsonl", "-o", "new", "--shard", "0"]);
                assert!(told.contains(part), "{part}: {told}");
            }
        }
    }
}

/// What was read otherwise is not gone on with.
#[test]
#[cfg(feature = "cli")]
fn a_run_is_gone_on_with_as_its_dumps_were_read() {
    let job = Job::new();
    let run = |code: i32, raw: &str, more: &str| {
        let more = ["-o", "out", "--device", "cpu", more];
        job.run(code, &[&["convert", "a.bin", "--raw", raw], &more[..]].concat()).1
    };
    run(0, "f16be:6x7x8:5", "-q");
    for same in ["f16be:6x7x8:5", "F16BE:?x7x8:5", ">f2:6,7,8:5"] {
        let told = run(0, same, "--resume");
        assert!(told.contains("nothing to do"), "{told}");
    }
    for (other, part) in [
        ("f16:6x7x8:5", "--raw was F16BE:6x7x8:5, and now is F16:6x7x8:5"),
        ("f16be:?x8x7:5", "--raw was F16BE:6x7x8:5, and now is F16BE:?x8x7:5"),
        ("i16be:6x7x8:5", "--raw was F16BE:6x7x8:5, and now is I16BE:6x7x8:5"),
    ] {
        let told = run(1, other, "--resume");
        assert!(told.contains("cannot be resumed") && told.contains(part), "{told}");
    }
}

#[test]
#[cfg(feature = "cli")]
fn every_command_that_opens_dumps_takes_it() {
    let job = Job::new();
    for (dumps, how) in CASES {
        let (listed, _) = job.run(0, &[&["ls"], dumps, how].concat());
        let shape = if how[0] == "--raw" { "[6, 7, 8]" } else { "[4, 6, 7]" };
        assert!(listed.contains(shape), "{listed}");
        let images = if how[0] == "--raw" { "images   12" } else { "images   4" };
        let (told, _) = job.run(0, &[&["convert"], dumps, how, &["-o", "x", "-n"]].concat());
        assert!(told.contains(images), "{told}");
    }
    job.run(1, &["ls", "a.bin"]);
    // (What it measures takes its time.)
    let (_, told) = job.run(1, &["bench", "a.bin", "--raw", "u8:7"]);
    assert!(told.contains("not a valid --raw file"), "{told}");
    let none = ["bench", "v2.npy", "--npy-v2", "bf16", "-t", "none"];
    let (_, told) = job.run(2, &none);
    assert!(told.contains("matches none"), "{told}");
    // All files of a folder, and each that does not fit is told.
    fs::create_dir(job.at("folder")).unwrap();
    for (name, len) in [("one.dat", 6), ("two", 12), ("three.txt", 5)] {
        fs::write(job.at("folder").join(name), vec![0; len]).unwrap();
    }
    let (_, told) = job.run(1, &["ls", "folder", "--raw", "u8:?x3"]);
    assert!(told.contains("three.txt: not a valid --raw file") && !told.contains("two"), "{told}");
    for (typed, part) in [
        (["--raw", "f33:2x2"], "the dtype f33 is unknown; the nearest is F32"),
        (["--raw", "f32"], "DTYPE:SHAPE"),
        (["--npy-v2", "f16"], "possible values: bf16"),
    ] {
        let (_, told) = job.run(2, &["ls", "a.bin", typed[0], typed[1]]);
        assert!(told.contains(part) && told.contains(typed[0]), "{told}");
    }
}
