//! Formats of dumps beside `.safetensors`: what NumPy itself writes is read element by element, in
//! any order of axes and bytes, and becomes the images that the same array gives as safetensors.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data is small, and a test that panics says where"
)]

mod common;
#[path = "common/damage.rs"]
mod damage;
#[path = "common/trees.rs"]
mod trees;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::Random;
use damage::npy;
use tensortiff::{DumpFiles, Error, MemorySink, MemorySource, Options, Source as _, convert};

/// Arrays that NumPy writes: each as `.npy`, and beside it as plain little-endian bytes in C order.
const WRITE: &str = r#"
import os, sys
import numpy as np
out = sys.argv[1]
random = np.random.default_rng(1)
types = ["?", "u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8"]
shapes = [(5, 7), (3, 4, 6), (2, 1, 3, 5), (1, 70, 300), (9,), ()]
for kind in types:
    for at, shape in enumerate(shapes):
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        plain = np.frombuffer(random.bytes(size), "u1")
        plain = (plain & 1).astype("?") if kind == "?" else plain.view("<" + kind)
        plain = plain.reshape(shape)
        for order in "CF":
            for byteorder in "<>":
                name = f"{out}/{np.dtype(kind).name}-{at}-{order}-{'swapped' if byteorder == '>' else 'plain'}"
                array = np.asarray(plain, dtype=plain.dtype.newbyteorder(byteorder), order=order)
                np.save(name + ".npy", array)
                plain.tofile(name + ".bin")
# Of other versions of the format, and transposed.
array = np.arange(12, dtype="<f4").reshape(3, 4)
for version in [(1, 0), (2, 0), (3, 0)]:
    with open(f"{out}/version-{version[0]}.npy", "wb") as file:
        np.lib.format.write_array(file, array, version=version)
    array.tofile(f"{out}/version-{version[0]}.bin")
np.save(f"{out}/transposed.npy", array.T)
array.T.astype("<f4").copy(order="C").tofile(f"{out}/transposed.bin")
"#;

fn python() -> PathBuf {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
    assert!(python.exists(), "scripts/test makes the Python environment");
    python
}

#[test]
fn what_numpy_writes_is_read_element_by_element() {
    let dir = tempfile::tempdir().unwrap();
    let written = Command::new(python()).args(["-c", WRITE]).arg(dir.path()).status().unwrap();
    assert!(written.success());
    let mut files: Vec<PathBuf> =
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().unwrap() == "npy");
    assert_eq!(files.len(), 12 * 6 * 4 + 4);
    let mut random = Random(1);
    for path in files {
        let what = path.display();
        let plain = fs::read(path.with_extension("bin")).unwrap();
        let source = DumpFiles::open(&[&path]).unwrap();
        let [tensor] = source.tensors() else { panic!("{what}") };
        assert_eq!(tensor.name, path.file_stem().unwrap().to_str().unwrap());
        let mut whole = vec![0; plain.len()];
        source.read_at(0, 0, &mut whole).unwrap();
        assert!(whole == plain, "{what}");
        for _ in 0..20 {
            // Any part of it, whole elements or not.
            let at = random.below(plain.len() as u64) as usize;
            let count = random.below((plain.len() - at) as u64 + 1) as usize;
            let mut part = vec![0; count];
            source.read_at(0, at as u64, &mut part).unwrap();
            assert!(part == plain[at..at + count], "{what}, {count} bytes at {at}");
        }
        let past = source.read_at(0, 1, &mut whole);
        assert!(matches!(past, Err(Error::Read { .. })), "{what}");
        // The images are those of the same array in memory.
        let stem = tensor.name.as_str();
        let memory = MemorySource::new(stem).with(stem, tensor.dtype, &tensor.shape, &plain[..]);
        let memory = memory.unwrap();
        let options = Options { devices: "cpu".parse().unwrap(), ..Options::default() };
        let [files, wanted] = [&source as &dyn tensortiff::Source, &memory].map(|source| {
            let sink = MemorySink::default();
            drop(convert(source, &sink, &options).unwrap());
            sink.into_files()
        });
        assert!(files == wanted, "{what}");
        assert_eq!(files.is_empty(), tensor.shape.len() < 2, "{what}");
    }
}

const GOOD: &str = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n";

#[test]
fn files_that_are_cut_or_lie_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.npy");
    let good = npy(GOOD, 24);
    fs::write(&path, &good).unwrap();
    DumpFiles::open(&[&path]).unwrap();
    let refused = |bytes: &[u8], part: &str| {
        fs::write(&path, bytes).unwrap();
        let error = DumpFiles::open(&[&path]).unwrap_err();
        assert!(matches!(error, Error::Format { format: "npy", .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("a.npy") && text.contains(part), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    };
    for end in 0..good.len() {
        refused(&good[..end], "");
    }
    refused(&[&good[..], b"x"].concat(), "takes 24 bytes, and 25 are there");
    refused(&npy(GOOD, 23), "takes 24 bytes, and 23 are there");
    refused(b"{}", "does not begin as .npy files do");
    let mut long = b"\x93NUMPY\x02\x00".to_vec();
    long.extend(u32::MAX.to_le_bytes());
    refused(&long, "4294967295 bytes, and 1048576 are the most");
    refused(&npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", 8), "Python objects");
}

/// Whatever is done to a header, there is an answer.
#[test]
fn damaged_files_are_read_or_refused() {
    let inputs = damage::inputs(20_000);
    let dir = trees::folder();
    let path = dir.path().join("a.npy");
    let mut random = Random(2);
    let (mut opened, mut refused) = (0_u64, 0);
    for _ in 0..inputs {
        let times = random.below(4);
        let header = damage::text(&mut random, GOOD, times, &damage::NPY);
        let data = if random.below(8) == 0 { 0 } else { 24 };
        let mut file = npy(&header, data);
        // Versions 2 and 3 say the header's length in four bytes; some say a wrong one, or no version.
        if random.below(2) == 0 {
            file[6] = 1 + random.below(3) as u8;
            if file[6] > 1 {
                file.splice(10..10, [0, 0]);
            }
        }
        if random.below(8) == 0 {
            file[random.below(12) as usize] = random.next() as u8;
        }
        fs::write(&path, file).unwrap();
        match DumpFiles::open(&[&path]) {
            Err(error) => {
                refused += 1;
                assert!(error.to_string().len() < 1500, "{error}");
            }
            Ok(source) => {
                opened += 1;
                for tensor in source.tensors() {
                    let bytes = tensor.bytes().unwrap();
                    assert!(bytes == 0 || bytes == 24, "{header}");
                    source.read_at(0, 0, &mut vec![0; bytes as usize]).unwrap();
                }
            }
        }
    }
    assert!(opened * 100 > inputs && refused * 4 > inputs, "{opened} opened, {refused} refused");
}

/// A small `.safetensors` file of tensors of four bytes.
fn safetensors(path: &Path, names: &[&str]) {
    let entry = |(at, name): (usize, &&str)| {
        let offsets = [4 * at, 4 * at + 4];
        format!("\"{name}\":{{\"dtype\":\"U8\",\"shape\":[2,2],\"data_offsets\":{offsets:?}}}")
    };
    let entries: Vec<String> = names.iter().enumerate().map(entry).collect();
    let json = format!("{{\"__metadata__\":{{\"format\":\"pt\"}},{}}}", entries.join(","));
    let data: Vec<u8> = names.iter().flat_map(|name| [0, 1, 2, name.as_bytes()[0]]).collect();
    let length = (json.len() as u64).to_le_bytes();
    fs::write(path, [&length[..], json.as_bytes(), &data].concat()).unwrap();
}

#[test]
fn an_index_is_one_dump_of_several_files() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("below")).unwrap();
    safetensors(&at("m-2.safetensors"), &["b", "c"]);
    safetensors(&at("below/m-1.safetensors"), &["a"]);
    safetensors(&at("whole.safetensors"), &["a", "b", "c"]);
    let index = at("whole.safetensors.index.json");
    let map = r#"{"metadata":{"total_size":12,"more":[1]},"weight_map":{
        "c":"m-2.safetensors","a":"below/m-1.safetensors","b":"m-2.safetensors"}}"#;
    fs::write(&index, map).unwrap();
    let source = DumpFiles::open(&[&index]).unwrap();
    let [dump] = source.dumps() else { panic!("{:?}", source.dumps()) };
    assert_eq!((dump.stem.as_str(), source.tensors().len()), ("whole", 3));
    assert_eq!(source.metadata(0)["format"], "pt");
    let sizes: u64 = ["m-2.safetensors", "below/m-1.safetensors"]
        .iter()
        .map(|name| fs::metadata(at(name)).unwrap().len())
        .sum();
    let found: Vec<u64> = source.origins(0).iter().map(|file| file.bytes).collect();
    assert_eq!((found.len(), found.iter().sum()), (2, sizes));
    let made = |source: &dyn tensortiff::Source| {
        let sink = MemorySink::default();
        drop(convert(source, &sink, &Options::default()).unwrap());
        sink.into_files()
    };
    let whole = DumpFiles::open(&[at("whole.safetensors")]).unwrap();
    assert_eq!(made(&source), made(&whole), "as one file of the same tensors");
    source.check_unchanged().unwrap();
    let file = fs::File::options().write(true).open(at("m-2.safetensors")).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert!(matches!(source.check_unchanged(), Err(Error::Modified { .. })));
    // A file of it beside it is there twice.
    let twice = DumpFiles::open(&[index.clone(), at("m-2.safetensors")]).unwrap_err();
    assert!(twice.is_usage() && twice.to_string().contains("named twice"), "{twice}");
}

#[test]
fn an_index_that_is_broken_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("in")).unwrap();
    safetensors(&at("in/m.safetensors"), &["a", "b"]);
    safetensors(&at("out.safetensors"), &["a", "b"]);
    let index = at("in/x.safetensors.index.json");
    let map = |map: &str| format!("{{\"weight_map\":{{{map}}}}}");
    let absolute = at("out.safetensors");
    let cases: [(String, &str); 16] = [
        (String::new(), "no map"),
        ("[{},{}]".to_owned(), "no map"),
        ("{".to_owned(), "EOF"),
        ("{}".to_owned(), "weight_map"),
        (map(""), "is empty"),
        (map(r#""a":"m.safetensors""#), "tensor b is in m.safetensors, which it does not say"),
        (
            map(r#""a":"m.safetensors","b":"m.safetensors","c":"m.safetensors""#),
            "tensor c is said to be in m.safetensors, and is not",
        ),
        (map(r#""a":"m.safetensors","a":"m.safetensors""#), "stands twice"),
        (map(r#""a":"missing.safetensors""#), "missing.safetensors: No such file"),
        (map(r#""a":"../out.safetensors","b":"../out.safetensors""#), "beside the index"),
        (map(r#""a":"./m.safetensors""#), "beside the index"),
        (map(&format!("\"a\":\"{}\"", absolute.display())), "relative to the index"),
        (map(r#""a":"C:m.safetensors""#), "relative to the index"),
        (map(r#""a":"m.bin""#), "no .safetensors file"),
        (map(r#""a":7"#), "invalid type"),
        (r#"{"weight_map":{},"weight_map":{}}"#.to_owned(), "duplicate field"),
    ];
    for (text, part) in cases {
        fs::write(&index, &text).unwrap();
        let error = DumpFiles::open(&[&index]).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    fs::remove_file(&index).unwrap();
    fs::create_dir(&index).unwrap();
    assert!(DumpFiles::open(&[&index]).unwrap_err().to_string().contains("not a regular file"));
}

/// Whatever is done to an index, it is refused in one line, or opens what it said before: a file that it does
/// not name, or a tensor that is not where it says, is never read.
#[test]
fn damaged_indices_are_refused_or_as_they_were() {
    let inputs = damage::inputs(5000);
    let dir = trees::folder();
    let at = |name: &str| dir.path().join("in").join(name);
    fs::create_dir_all(at("below")).unwrap();
    safetensors(&at("m-2.safetensors"), &["b", "c"]);
    safetensors(&at("below/m-1.safetensors"), &["a"]);
    // Whose tensor is of the same name, and other samples.
    let mut outside = fs::read(at("below/m-1.safetensors")).unwrap();
    *outside.last_mut().unwrap() = 9;
    fs::write(at("../out.safetensors"), &outside).unwrap();
    fs::write(at("out.safetensors"), &outside).unwrap();
    let index = at("x.safetensors.index.json");
    let good = r#"{"metadata":{"total_size":12},"weight_map":{"c":"m-2.safetensors","a":"below/m-1.safetensors","b":"m-2.safetensors"}}"#;
    let (mut random, mut opened, mut refused) = (Random(7), 0_u64, 0);
    for _ in 0..inputs {
        let times = 1 + random.below(3);
        let text = damage::text(&mut random, good, times, &damage::INDEX);
        fs::write(&index, &text).unwrap();
        match DumpFiles::open(&[&index]) {
            Ok(source) => {
                opened += 1;
                let names: Vec<&str> = source.tensors().iter().map(|t| t.name.as_str()).collect();
                // All of each file that is named, and no other: files in order of their names.
                let known = [&["a", "b", "c"][..], &["a"], &["b", "c"]];
                assert!(known.contains(&&names[..]), "{text}: {names:?}");
                assert!(source.origins(0).len() <= 2, "{text}");
                let mut last = [0];
                source.read_at(0, 3, &mut last).unwrap();
                // Named as it is, the other file is as good as any.
                let other = text.contains("\"out.safetensors\"") && last == [9];
                assert!(other || last == names[0].as_bytes()[..1], "{text}: {names:?} {last:?}");
            }
            Err(error) => {
                refused += 1;
                let told = error.to_string();
                // Of several files that cannot be opened each has a line.
                assert!(told.lines().count() <= 4 && told.len() < 3000, "{text}: {told}");
            }
        }
    }
    assert!(opened * 50 > inputs && refused * 4 > inputs, "{opened} opened, {refused} refused");
}

/// Folders, patterns and lists, as people type them.
#[test]
#[cfg(feature = "cli")]
fn dumps_are_named_in_many_ways() {
    use std::io::Write as _;
    use std::process::Stdio;
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("acts/sub")).unwrap();
    safetensors(&at("acts/one.safetensors"), &["a"]);
    fs::write(at("acts/sub/two.npy"), npy(GOOD, 24)).unwrap();
    fs::write(at("acts/notes.txt"), "no dump").unwrap();
    fs::write(at("list.txt"), "acts/one.safetensors\nacts/sub/two.npy\n").unwrap();
    let run = |typed: &[&str], input: &str| {
        drop(fs::remove_dir_all(at("out")));
        let mut child = Command::new(env!("CARGO_BIN_EXE_tensortiff"))
            .arg("convert")
            .args(typed)
            .args(["-o", "out", "--device", "cpu", "-q"])
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), told)
    };
    let both = [at("out/one/a.tif"), at("out/two/two.tif")];
    for (typed, input) in [
        (&["acts"][..], ""),
        (&["acts/**.safetensors", "acts/**.npy"], ""),
        (&["@list.txt"], ""),
        (&["-"], "acts/sub/two.npy\nacts/one.safetensors\n"),
        (&["acts/one.safetensors", "acts/sub"], ""),
    ] {
        let (code, told) = run(typed, input);
        assert_eq!((code, told.as_str()), (0, ""), "{typed:?}");
        assert!(both.iter().all(|path| path.is_file()), "{typed:?}");
    }
    for (typed, input, code, part) in [
        (&["acts/*.bin"][..], "", 1, "acts/*.bin: no file is meant by this pattern"),
        (&["acts", "acts/one.safetensors"], "", 2, "named twice"),
        (&["-"], "", 2, "names no dump"),
        (&["-"], "missing.npy\n", 1, "missing.npy: No such file"),
        (&["@missing.txt"], "", 1, "missing.txt: No such file"),
        (&["acts/notes.txt"], "", 1, "not a valid safetensors file"),
    ] {
        let (found, told) = run(typed, input);
        assert_eq!(found, code, "{typed:?}: {told}");
        assert!(told.contains(part), "{typed:?}: {told}");
        assert!(!at("out").exists());
    }
}

/// Archives that NumPy writes: of several arrays, with a comment, of so many that only ZIP64 counts
/// them; others. (`tests/deflated.rs` has compressed ones.)
const ARCHIVES: &str = r#"
import io, sys, zipfile
import numpy as np
out = sys.argv[1]
a = np.arange(24, dtype="<f4").reshape(2, 3, 4)
b = np.asfortranarray(np.arange(30, dtype=">i2").reshape(5, 6))
np.savez(f"{out}/good.npz", a, b, named=a[0], **{"with/folder": b})
array = io.BytesIO()
np.save(array, np.arange(4, dtype="u1").reshape(2, 2))
with zipfile.ZipFile(f"{out}/many.npz", "w") as archive:
    archive.comment = b"PK\x05\x06" * 20
    for at in range(66000):
        archive.writestr(f"m{at}.npy", array.getvalue())
with zipfile.ZipFile(f"{out}/other.npz", "w") as archive:
    archive.writestr("a.npy", array.getvalue())
    archive.writestr("notes.txt", "no array")
with zipfile.ZipFile(f"{out}/broken.npz", "w") as archive:
    archive.writestr("a.npy", b"no array either")
"#;

#[test]
fn archives_of_arrays_are_one_dump() {
    let dir = tempfile::tempdir().unwrap();
    let written = Command::new(python()).args(["-c", ARCHIVES]).arg(dir.path()).status().unwrap();
    assert!(written.success());
    let at = |name: &str| dir.path().join(name);
    let source = DumpFiles::open(&[at("good.npz")]).unwrap();
    let names: Vec<&str> = source.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["named", "with/folder", "arr_0", "arr_1"]);
    assert_eq!((source.dumps().len(), source.dumps()[0].stem.as_str()), (1, "good"));
    let bytes = |tensor: usize| {
        let mut bytes = vec![0; source.tensors()[tensor].bytes().unwrap() as usize];
        source.read_at(tensor, 0, &mut bytes).unwrap();
        bytes
    };
    let a: Vec<u8> = (0..24_u8).flat_map(|x| f32::from(x).to_le_bytes()).collect();
    let b: Vec<u8> = (0..30_i16).flat_map(i16::to_le_bytes).collect();
    assert_eq!([bytes(0), bytes(1), bytes(2), bytes(3)], [a[..48].to_vec(), b.clone(), a, b]);
    let many = DumpFiles::open(&[at("many.npz")]).unwrap();
    assert_eq!(many.tensors().len(), 66_000);
    let mut last = [9; 4];
    many.read_at(65_999, 0, &mut last).unwrap();
    assert_eq!(last, [0, 1, 2, 3]);
    for (name, part) in [
        ("other.npz", "notes.txt is no array"),
        ("broken.npz", "a.npy: it does not begin as .npy files do"),
    ] {
        let error = DumpFiles::open(&[at(name)]).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(part), "{error}");
    }
    // Whatever is done to an archive, there is an answer.
    let inputs = damage::inputs(20_000);
    let whole = fs::read(at("good.npz")).unwrap();
    let memory = trees::folder();
    let path = memory.path().join("damaged.npz");
    let mut random = Random(3);
    let (mut opened, mut refused) = (0_u64, 0);
    for _ in 0..inputs {
        let bytes = damage::any_archive(&mut random, &whole);
        fs::write(&path, &bytes).unwrap();
        match DumpFiles::open(&[&path]) {
            Err(error) => {
                refused += 1;
                assert!(error.to_string().lines().count() == 1, "{error}");
            }
            Ok(source) => {
                opened += 1;
                for (number, tensor) in source.tensors().iter().enumerate() {
                    let size = tensor.bytes().unwrap();
                    assert!(size <= bytes.len() as u64);
                    source.read_at(number, 0, &mut vec![0; size as usize]).unwrap();
                }
            }
        }
    }
    assert!(opened * 20 > inputs && refused * 4 > inputs, "{opened} opened, {refused} refused");
}
