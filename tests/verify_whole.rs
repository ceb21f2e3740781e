//! `tensortiff verify` and `restore --against`, of what a decoder alone does not see: the ends of packed
//! strips, whose lines a manifest's are, how far rounding goes.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

#[path = "common/tool.rs"]
mod tool;

use std::fs;
use std::path::Path;

use tool::{dump, ends_with, folder, sample};

fn convert(dumps: &[&str], out: &str, options: &[&str]) {
    let all = [&["convert", "-q", "-d", "cpu", "-o", out], dumps, options].concat();
    ends_with(0, &all);
}

/// A dump of two tensors, 4 images of 10×12 and one of 6×7, of numbers without a pattern.
fn two(folder: &Path, name: &str) -> String {
    let path = folder.join(name);
    let samples = 4 * 120 + 42;
    dump(&path, &[("t", "F32", &[4, 10, 12], 4 * 480), ("u", "F32", &[6, 7], 4 * 42)]);
    let mut bytes = fs::read(&path).unwrap();
    let from = bytes.len() - 4 * samples;
    let mut state = 1_u32;
    for sample in bytes[from..].chunks_mut(4) {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        sample.copy_from_slice(&((state >> 8) as f32 / 4e6 - 1.0).to_le_bytes());
    }
    fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

fn change(path: &Path, with: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    with(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// All of a packed strip counts, also what is behind the last pixel, where others look and the decoder does not.
#[test]
fn packed_strips_are_whole() {
    let dir = tempfile::tempdir().unwrap();
    let dump = two(dir.path(), "d.safetensors");
    let cases: [&[&str]; 4] = [
        &["--compress", "deflate"],
        &["--compress", "zstd"],
        &["--profile", "gis"],
        &["--profile", "archive"],
    ];
    for options in cases {
        let (_dir, out) = folder();
        convert(&[&dump], &out, &[options, &["--hash"]].concat());
        let file = Path::new(&out).join("d/u.tif");
        let whole = fs::read(&file).unwrap();
        // Deflate's last 4 bytes are a sum; bit 2 of Zstandard's fifth byte says that there is one.
        let is_zstd = options.contains(&"zstd") || options.contains(&"archive");
        let magic = [0x28, 0xB5, 0x2F, 0xFD];
        let (at, mask) = match is_zstd {
            true => (whole.windows(4).position(|part| part == magic).unwrap() + 4, 4),
            false => (whole.len() - 2, 1),
        };
        change(&file, |bytes| bytes[at] ^= mask);
        // The decoder sees some of it itself.
        let is_told = |told: &str| {
            ["a packed strip is damaged", "corrupt deflate stream"]
                .iter()
                .any(|part| told.contains(part))
        };
        let (told, _) = ends_with(5, &["verify", &out]);
        assert!(told.contains("d/u.tif: pixels: ") && is_told(&told), "{options:?}: {told}");
        let (told, _) = ends_with(5, &["verify", &out, "--against"]);
        let packed =
            "d/u.tif: samples: what they are packed in is not what the dump gives from byte ";
        assert!(told.contains(packed), "{options:?}: {told}");
        let restored = dir.path().join("r.safetensors");
        let (_, told) = ends_with(1, &["restore", &out, "-o", restored.to_str().unwrap()]);
        assert!(is_told(&told), "{options:?}: {told}");
        // What is behind a stream, within its strip, is no part of it either.
        if !options.contains(&"--profile") {
            fs::write(&file, &whole).unwrap();
            let entry = (0..14).map(|at| 10 + 12 * at);
            let is_count = |at: &usize| whole[*at..*at + 2] == 279_u16.to_le_bytes();
            let entry = entry.into_iter().find(is_count).unwrap();
            change(&file, |bytes| {
                let count = u32::from_le_bytes(bytes[entry + 8..entry + 12].try_into().unwrap());
                bytes[entry + 8..entry + 12].copy_from_slice(&(count + 3).to_le_bytes());
                bytes.extend([0; 3]);
            });
            let (told, _) = ends_with(5, &["verify", &out]);
            assert!(told.contains("a packed strip is damaged"), "{options:?}: {told}");
        }
    }
}

/// Changes lines.
type Edit<'e> = &'e dyn Fn(&mut Vec<String>);

/// Lines say of which dump, of which image they are, and how many there are that failed.
#[test]
fn lines_of_a_manifest_are_of_their_images() {
    let dir = tempfile::tempdir().unwrap();
    let [one, other] = ["d.safetensors", "e.safetensors"].map(|name| two(dir.path(), name));
    let (_dir, out) = folder();
    let names = ["--name", "{stem}/{tensor}/{index}.tif", "--hash"];
    convert(&[&one, &other], &out, &names);
    let manifest = Path::new(&out).join("manifest.jsonl");
    let whole = fs::read_to_string(&manifest).unwrap();
    let with = |edit: Edit<'_>| {
        let mut lines: Vec<String> = whole.lines().map(str::to_owned).collect();
        edit(&mut lines);
        fs::write(&manifest, lines.join("\n") + "\n").unwrap();
    };
    // What contradicts the first line, or is no line, needs no dump.
    let edits: [(Edit<'_>, &str); 4] = [
        (&|lines| lines[2] = lines[2].replace("d.safetensors", "f.safetensors"), "is no dump of"),
        (
            &|lines| lines[0] = lines[0].replace("\"failed\":0", "\"failed\":3"),
            "says that 3 failed",
        ),
        (&|lines| lines[1] = lines[1].replace("\"xxh3\"", "\"xxh4\""), "a damaged one"),
        (&|lines| lines[1] = lines[1].replace("\"bytes\"", "\"byte\""), "a damaged one"),
    ];
    for (edit, part) in edits {
        with(edit);
        for more in [&["verify", &out][..], &["verify", &out, "--against"]] {
            let (_, told) = ends_with(1, more);
            assert!(told.contains("manifest.jsonl") && told.contains(part), "{told}");
        }
    }
    // Others need it.
    let edits: [(Edit<'_>, &str); 3] = [
        (&|lines| lines.swap(2, 4), "line 3: it is of d/t/3.tif, and ought to be of d/t/1.tif"),
        (
            &|lines| lines[2] = lines[2].replace("d.safetensors", "e.safetensors"),
            "line 3: d/t/1.tif: its source or tensor is not what the dump gives",
        ),
        (
            &|lines| lines[3] = lines[3].replace("\"norm\":\"minmax\"", "\"norm\":\"none\""),
            "line 4: d/t/2.tif: its norm is not",
        ),
    ];
    for (edit, part) in edits {
        with(edit);
        let (told, _) = ends_with(5, &["verify", &out, "--against"]);
        assert!(told.contains(&format!("manifest.jsonl: line: {part}")), "{part}: {told}");
    }
    with(&|_| ());
    ends_with(0, &["verify", &out, "--against"]);
}

/// A folder that is gone has none of the images; a dump by another name is told by that.
#[test]
fn what_is_not_there_is_told_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let dump = two(dir.path(), "d.safetensors");
    let (_dir, out) = folder();
    convert(&[&dump], &out, &[]);
    let manifest = format!("{out}/manifest.jsonl");
    let nowhere = dir.path().join("nowhere");
    let nowhere = nowhere.to_str().unwrap();
    let (told, _) = ends_with(5, &["verify", &manifest, "--images", nowhere]);
    assert_eq!(told.matches("file: it is missing").count(), 5, "{told}");
    let copy = dir.path().join("other.safetensors");
    fs::copy(&dump, &copy).unwrap();
    let (_, told) = ends_with(2, &["verify", &out, "--against", copy.to_str().unwrap()]);
    let due = format!("the dump was {dump}, and now is {}", copy.to_str().unwrap());
    assert!(told.contains(&due) && told.contains("called the same"), "{told}");
}

/// Who reads no further than a line is told by the code what was found.
#[test]
#[cfg(unix)]
fn differences_count_where_nobody_reads_them() {
    let dir = tempfile::tempdir().unwrap();
    let dump = two(dir.path(), "d.safetensors");
    let (_dir, out) = folder();
    convert(&[&dump], &out, &[]);
    for index in 0..4 {
        change(&Path::new(&out).join(format!("d/t/{index}.tif")), |bytes| bytes.push(0));
    }
    let (reads, writes) = std::io::pipe().unwrap();
    drop(reads);
    let status = tool::tool().args(["verify", "-q", &out]).stdout(writes).status().unwrap();
    assert_eq!(status.code(), Some(5));
}

/// Of scores the display range is that of the pixels.
#[test]
fn scores_have_the_display_range_of_their_pixels() {
    let dir = tempfile::tempdir().unwrap();
    let dump = two(dir.path(), "d.safetensors");
    for scope in ["image", "tensor"] {
        let (_dir, out) = folder();
        convert(&[&dump], &out, &["--norm", "zscore", "--hash", "--scope", scope]);
        ends_with(0, &["verify", &out]);
        let file = Path::new(&out).join("d/u.tif");
        change(&file, |bytes| {
            let entry = (0..14).map(|at| 10 + 12 * at);
            let entry =
                entry.into_iter().find(|&at| bytes[at..at + 2] == 341_u16.to_le_bytes()).unwrap();
            let max = f32::from_le_bytes(bytes[entry + 8..entry + 12].try_into().unwrap());
            let line = format!("\nmax={max:?}\n");
            let less = format!("\nmax={:.*}\n", line.len() - 8, max / 2.0);
            assert_eq!(line.len(), less.len());
            let less_max: f32 = less.trim()[4..].parse().unwrap();
            bytes[entry + 8..entry + 12].copy_from_slice(&less_max.to_le_bytes());
            let text = bytes.windows(line.len()).position(|part| part == line.as_bytes()).unwrap();
            bytes[text..text + line.len()].copy_from_slice(less.as_bytes());
        });
        let (told, _) = ends_with(5, &["verify", &out]);
        assert!(
            told.contains("the display range is ") && told.contains(", and pixels are from"),
            "{told}"
        );
    }
}

/// What rounding does not explain is a difference, in every norm.
#[test]
fn restored_samples_differ_by_rounding_alone() {
    let dir = tempfile::tempdir().unwrap();
    let dump = two(dir.path(), "d.safetensors");
    let restored = dir.path().join("r.safetensors");
    let restored = restored.to_str().unwrap();
    let cases: [&[&str]; 7] = [
        &[],
        &["--scope", "tensor", "--out-range", "1000,1001"],
        &["--norm", "symmetric"],
        &["--norm", "zscore"],
        &["--norm", "zscore", "--sigma", "1"],
        &["--norm", "percentile"],
        &["--norm", "fixed", "--range", "-1,2"],
    ];
    for options in cases {
        let (_dir, out) = folder();
        convert(&[&dump], &out, options);
        let args = ["restore", &out, "-o", restored, "--overwrite", "--against"];
        let (told, _) = ends_with(0, &args);
        assert!(!told.contains("more than rounding"), "{options:?}: {told}");
        // A pixel that is another: by a thousandth of the range.
        change(&Path::new(&out).join("d/u.tif"), |bytes| {
            let at = bytes.len() - 4 * 20;
            let pixel = f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            bytes[at..at + 4].copy_from_slice(&(pixel * 0.998 + 1e-3).to_le_bytes());
        });
        let (told, _) = ends_with(5, &args);
        assert!(told.contains(", 1 of them by more than rounding does"), "{options:?}: {told}");
    }
    let (_dir, out) = folder();
    convert(&[sample()], &out, &[]);
    ends_with(0, &["restore", &out, "-o", restored, "--overwrite", "--against"]);
}
