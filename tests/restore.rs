//! `tensortiff restore`: samples come back, or it is said why not.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

#[path = "common/tool.rs"]
mod tool;

use std::fs;
use std::path::Path;

use serde_json::Value;
use tensortiff::{Dtype, DumpFiles, Source as _};
use tool::{dump, ends_with, everything, folder, sample};

fn golden(name: &str) -> String {
    format!("{}/tests/golden/{name}.safetensors", env!("CARGO_MANIFEST_DIR"))
}

fn convert(dumps: &[&str], out: &str, options: &[&str]) {
    ends_with(0, &[&["convert", "-q", "-d", "cpu", "-o", out], dumps, options].concat());
}

/// Names, shapes and bytes of all tensors.
fn tensors(path: &str) -> Vec<(String, Vec<u64>, Vec<u8>)> {
    let source = DumpFiles::open(&[path]).unwrap();
    let of = |(at, tensor): (usize, &tensortiff::TensorInfo)| {
        let mut bytes = vec![0; usize::try_from(tensor.bytes().unwrap()).unwrap()];
        source.read_at(at, 0, &mut bytes).unwrap();
        assert_eq!(tensor.dtype, Dtype::F32);
        (tensor.name.clone(), tensor.shape.clone(), bytes)
    };
    let mut all: Vec<_> = source.tensors().iter().enumerate().map(of).collect();
    all.sort();
    all
}

/// NaN and infinities, constants, subnormals: all bits come back.
#[test]
fn without_a_norm_all_bits_come_back() {
    let (dir, out) = folder();
    let file = dir.path().join("r.safetensors");
    let file = file.to_str().unwrap();
    let packed = ["--hash", "--compress", "zstd", "--predictor", "float"];
    let stack = ["--stack", "tensor"];
    let stacks = ["--stack", "tensor", "--hash"];
    for (bigtiff, more) in
        [("no", &[][..]), ("yes", &["--hash"]), ("no", &packed), ("no", &stack), ("yes", &stacks)]
    {
        let options = [&["--norm", "none", "--bigtiff", bigtiff][..], more];
        drop(fs::remove_dir_all(&out));
        convert(&[sample()], &out, &options.concat());
        let (told, said) = ends_with(0, &["restore", &out, "-o", file, "--overwrite", "--against"]);
        assert!(told.contains("all 640512 samples are those of the dump, bit for bit"), "{told}");
        assert!(said.contains("14 tensors of 317 images") && !said.contains("note"), "{said}");
        assert_eq!(tensors(file), tensors(sample()));
        let [is, was] = [file, sample()].map(|path| DumpFiles::open(&[path]).unwrap());
        assert_eq!(is.metadata(0), was.metadata(0));
    }
    let (_dir, out) = folder();
    let norms = golden("norms");
    convert(&[&norms], &out, &["--norm", "none"]);
    ends_with(0, &["restore", "-q", &out, "-o", file, "--overwrite", "--against"]);
    let f32s = |path: &str| {
        let source = DumpFiles::open(&[path]).unwrap();
        let mut all = Vec::new();
        for (at, tensor) in source.tensors().iter().enumerate() {
            if tensor.dtype == Dtype::F32 && tensor.shape.len() > 1 {
                let mut bytes = vec![0; usize::try_from(tensor.bytes().unwrap()).unwrap()];
                source.read_at(at, 0, &mut bytes).unwrap();
                all.push((tensor.name.clone(), bytes));
            }
        }
        all.sort();
        all
    };
    let (is, was) = (f32s(file), f32s(&norms));
    assert!(!was.is_empty() && was.iter().all(|tensor| is.contains(tensor)));
}

#[test]
fn linear_norms_come_back_but_for_rounding() {
    let (dtypes, small) = (golden("dtypes"), golden("small"));
    let cases: [(&[&str], f64); 10] = [
        (&[], 3e-6),
        (&["--scope", "tensor", "--out-range", "255,-1"], 3e-5),
        (&["--norm", "symmetric", "--scope", "dump", "--hash"], 3e-6),
        (&["--norm", "zscore"], 3e-6),
        (&["--norm", "fixed", "--range", "-100,100", "--bigtiff", "yes"], 3e-5),
        (&["--compress", "deflate", "--predictor", "auto", "--hash"], 3e-6),
        (&["--stack", "tensor"], 3e-6),
        (&["--stack", "tensor", "--norm", "zscore", "--hash"], 3e-6),
        (&["--constant", "half", "--layout", "BTD"], 3e-6),
        (&["--name", "{stem}-{tensor}-{index}.tif", "--limit", "24"], 3e-6),
    ];
    for (options, most) in cases {
        let (dir, out) = folder();
        let file = dir.path().join("r.safetensors");
        let file = file.to_str().unwrap();
        convert(&[sample()], &out, options);
        let (told, said) = ends_with(0, &["restore", "--json", &out, "-o", file, "--against"]);
        let told: Value = serde_json::from_str(&told).unwrap();
        let largest = told["against"]["largest_error"].as_f64().unwrap();
        assert!(largest <= most && told["against"]["unlike"] == 0, "{options:?}: {told}");
        let parts = said.contains("tensors are as its images have them");
        assert_eq!(parts, options.iter().any(|o| ["--layout", "--limit"].contains(o)), "{said}");
        // What was told is so.
        let was = tensors(sample());
        for (name, shape, bytes) in tensors(file) {
            let (_, of, due) = was.iter().find(|(other, ..)| *other == name).unwrap();
            assert!(*of == shape || options.contains(&"--limit"));
            let floats = |bytes: &[u8]| -> Vec<f64> {
                let float = |b: &[u8]| f32::from_le_bytes(b.try_into().unwrap()).into();
                bytes.chunks(4).map(float).collect()
            };
            let mut pairs = floats(&bytes).into_iter().zip(floats(due));
            assert!(pairs.all(|(is, was)| (is - was).abs() <= largest), "{options:?} {name}");
        }
    }
    // Of all types there is an error that is told; where ranges leave f32 there is none, and that is an end
    // of its own.
    for (dump, code, sign) in [(&dtypes, 5, "in only one of them"), (&small, 0, "samples differ\n")]
    {
        let (dir, out) = folder();
        let file = dir.path().join("r.safetensors");
        convert(&[dump], &out, &[]);
        let args = ["restore", &out, "-o", file.to_str().unwrap(), "--against"];
        let (told, said) = ends_with(code, &args);
        assert!(told.contains("largest absolute error") && told.contains(sign), "{told}");
        assert_eq!(
            said.contains("samples beyond 32-bit floats became infinite"),
            code == 5,
            "{said}"
        );
    }
}

#[test]
fn what_was_cut_off_is_told() {
    let (dir, out) = folder();
    let file = dir.path().join("r.safetensors");
    let file = file.to_str().unwrap();
    convert(&[sample()], &out, &["--norm", "percentile", "--clip", "5,95"]);
    let (told, said) = ends_with(0, &["restore", &out, "-o", file, "--against"]);
    assert!(said.contains("--norm percentile cut off") && said.contains("is lost"), "{said}");
    assert!(told.starts_with("the largest absolute error is "), "{told}");
    let (_dir, out) = folder();
    convert(&[sample()], &out, &["--select", "N=1:3,C=::5", "-t", "*attention*"]);
    let (_, said) = ends_with(0, &["restore", &out, "-o", file, "--overwrite", "--against"]);
    assert!(said.contains("--select") && said.contains("indices alone"), "{said}");
    assert!(tensors(file).iter().all(|(_, shape, _)| shape.len() == 4 && shape[..2] == [2, 3]));
}

/// Nothing is left of what fails.
#[test]
fn what_cannot_be_undone_is_refused_with_the_reason() {
    let norms = golden("norms");
    let gamma: &[&str] = &["--gamma", "2.2"];
    let cases: [(&str, &[&str], i32, &str); 4] = [
        (sample(), gamma, 2, "--gamma 2.2 cannot be undone"),
        (&norms, &["--nonfinite", "zero"], 2, "and nobody knows which"),
        (&norms, &["--norm", "percentile", "--constant", "zero"], 2, "may have differed"),
        (sample(), &["--sample", "50"], 2, " not fill axes of"),
    ];
    for (dump, options, code, sign) in cases {
        let (dir, out) = folder();
        let file = dir.path().join("r.safetensors");
        convert(&[dump], &out, options);
        let to = file.to_str().unwrap();
        let (_, said) = ends_with(code, &["restore", &out, "-o", to]);
        assert!(said.contains(sign) && said.lines().count() == 1, "{said}");
        assert!(!file.exists());
    }
}

#[test]
fn the_file_is_there_whole_or_not_at_all() {
    let (dir, out) = folder();
    convert(&[sample()], &out, &["--hash"]);
    let folder = dir.path().join("to");
    let file = folder.join("r.safetensors");
    let to = file.to_str().unwrap();
    let image = Path::new(&out).join("minilm/sentence_embedding.tif");
    let whole = fs::read(&image).unwrap();
    for at in [2, 300, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[at] ^= 4;
        fs::write(&image, &damaged).unwrap();
        let (_, said) = ends_with(1, &["restore", &out, "-o", to]);
        assert!(said.contains("sentence_embedding.tif: not a valid TIFF"), "{said}");
        assert!(everything(&folder).is_empty());
    }
    fs::remove_file(&image).unwrap();
    let (_, said) = ends_with(1, &["restore", &out, "-o", to]);
    assert!(said.contains("it is missing") && everything(&folder).is_empty(), "{said}");
    fs::write(&image, whole).unwrap();
    ends_with(0, &["restore", "-q", &out, "-o", to]);
    let first = fs::read(&file).unwrap();
    let (_, said) = ends_with(1, &["restore", &out, "-o", to]);
    assert!(said.contains("exists already (--overwrite replaces it)"), "{said}");
    // The same bytes every time.
    ends_with(0, &["restore", "-q", &out, "-o", to, "--overwrite", "-j", "1"]);
    assert!(fs::read(&file).unwrap() == first && everything(&folder).len() == 1);
    // A line of the manifest twice, in the place of another.
    let manifest = Path::new(&out).join("manifest.jsonl");
    let text = fs::read_to_string(&manifest).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    fs::write(&manifest, text.replace(lines[5], lines[6])).unwrap();
    let (_, said) = ends_with(2, &["restore", &out, "-o", to, "--overwrite"]);
    assert!(said.contains("two images are at the place") || said.contains("do not fill"), "{said}");
    assert!(fs::read(&file).unwrap() == first);
}

/// The samples of the dump that is asked for, and that 32-bit floats do not hold some of them.
#[test]
fn what_is_compared_is_told() {
    let (dir, _) = folder();
    let [a, b] = ["a", "b"].map(|name| dir.path().join(format!("{name}.safetensors")));
    dump(&a, &[("t", "I32", &[2, 3, 5], 120)]);
    let mut bytes = fs::read(&a).unwrap();
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&16_777_217_i32.to_le_bytes());
    fs::write(&a, bytes).unwrap();
    dump(&b, &[("u", "F32", &[3, 3, 5], 180)]);
    let [a, b] = [&a, &b].map(|path| path.to_str().unwrap());
    let file = dir.path().join("r.safetensors");
    let file = file.to_str().unwrap();
    for stack in ["none", "tensor"] {
        let (_dir, out) = folder();
        convert(&[a, b], &out, &["--norm", "none", "--stack", stack]);
        for (source, samples, is_rounded) in
            [(&[][..], 75, true), (&["--source", a], 30, true), (&["--source", b], 45, false)]
        {
            let of = ["restore", "--overwrite", &out, "-o", file, "--against"];
            let (told, _) = ends_with(0, &[&of[..], source].concat());
            let due = format!("all {samples} samples are those of the dump, bit for bit");
            assert!(told.starts_with(&due), "{told}");
            assert_eq!(told.contains("as 32-bit floats"), is_rounded, "{told}");
            let (told, _) = ends_with(0, &[&of[..], source, &["--json"]].concat());
            let told: Value = serde_json::from_str(&told).unwrap();
            assert_eq!(told["against"]["samples"], samples, "{told}");
            assert_eq!(told["against"]["rounded"], is_rounded, "{told}");
        }
    }
}

#[test]
fn tensors_of_several_dumps_are_told_apart() {
    let (dir, out) = folder();
    let [a, b] = ["a", "b"].map(|name| dir.path().join(format!("{name}.safetensors")));
    dump(&a, &[("t", "U8", &[3, 2, 2], 12), ("u", "U8", &[2, 2], 4)]);
    dump(&b, &[("t", "U8", &[2, 2], 4)]);
    let (a, b) = (a.to_str().unwrap(), b.to_str().unwrap());
    convert(&[a, b], &out, &["--norm", "none"]);
    let file = dir.path().join("r.safetensors");
    let to = file.to_str().unwrap();
    let (_, said) = ends_with(2, &["restore", &out, "-o", to]);
    assert!(said.contains("more than one tensor t") && said.contains("--source"), "{said}");
    ends_with(0, &["restore", &out, "-o", to, "--source", a, "--against"]);
    let shapes: Vec<_> = tensors(to).into_iter().map(|(name, shape, _)| (name, shape)).collect();
    assert_eq!(shapes, [("t".to_owned(), vec![3, 2, 2]), ("u".to_owned(), vec![2, 2])]);
    let (_, said) = ends_with(2, &["restore", &out, "-o", to, "--overwrite", "--source", "c"]);
    assert!(said.contains("no image is of c"), "{said}");
    // An image that could not be made.
    let (_dir, out) = folder();
    let norms = golden("norms");
    ends_with(3, &["convert", "-q", "-d", "cpu", &norms, "-o", &out, "--nonfinite", "fail"]);
    let (_, said) = ends_with(2, &["restore", &out, "-o", to, "--overwrite"]);
    assert!(said.contains("could not be made"), "{said}");
}
