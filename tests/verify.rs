//! `tensortiff verify`: what is right is found right, and each thing that is wrong is named.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

#[path = "common/tool.rs"]
mod tool;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde_json::Value;
use tensortiff::back::{Difference, Looking, Output, verify};
use tool::{dump, ends_with, everything, folder, sample, sparse_dump};

fn golden(name: &str) -> String {
    format!("{}/tests/golden/{name}.safetensors", env!("CARGO_MANIFEST_DIR"))
}

/// Converts on the CPU, as `options` say.
fn convert(dumps: &[&str], out: &str, options: &[&str]) {
    let all = [&["convert", "-q", "-d", "cpu", "-o", out], dumps, options].concat();
    ends_with(0, &all);
}

#[test]
fn what_convert_wrote_is_right() {
    let (small, dtypes, norms) = (golden("small"), golden("dtypes"), golden("norms"));
    let list = tempfile::NamedTempFile::new().unwrap();
    // With and without an extension.
    let names = (0..317).map(|at| format!("x/{at} é{}\n", if at % 2 == 0 { "" } else { ".tif" }));
    let names: String = names.collect();
    fs::write(list.path(), names).unwrap();
    let list = list.path().to_str().unwrap();
    let all: [&[&str]; 25] = [
        &[],
        &["--hash"],
        &["--norm", "none", "--hash"],
        &["--norm", "percentile", "--clip", "10,90"],
        &["--norm", "percentile", "--scope", "tensor", "--constant", "half"],
        &["--norm", "symmetric", "--scope", "channel"],
        &["--norm", "zscore"],
        &["--norm", "zscore", "--scope", "dump", "--constant", "zero"],
        &["--norm", "zscore", "--sigma", "2", "--nonfinite", "clamp"],
        &["--norm", "fixed", "--range", "-1,3"],
        &["--scope", "tensor", "--constant", "zero"],
        &["--constant", "half", "--gamma", "2.2", "--nonfinite", "zero"],
        &["--out-range", "255,-3.7", "--nonfinite", "clamp"],
        &["--bigtiff", "yes"],
        &["--compress", "deflate", "--predictor", "float", "--hash"],
        &["--compress", "zstd:1", "--predictor", "auto", "--norm", "none"],
        &["--profile", "gis"],
        &["--tile", "32", "--hash"],
        &["--stack", "tensor", "--hash"],
        &["--stack", "tensor", "--norm", "none", "--bigtiff", "yes"],
        &["--rows", "1", "--transpose", "--flip", "x"],
        &["--limit", "7", "--hash"],
        &["--sample", "9", "--seed", "3"],
        &["--scope", "group", "-T", "(?<k>.)", "--group-by", "{k}"],
        &["--name", "{stem}{tensor}{index}.tiff"],
    ];
    for dumps in [&[sample()][..], &[&small, &dtypes], &[&norms]] {
        for options in all {
            let (_dir, out) = folder();
            convert(dumps, &out, options);
            for against in [&["verify", &out][..], &["verify", &out, "--against"]] {
                let (told, said) = ends_with(0, against);
                assert!(told.is_empty() && said.contains("all right"), "{options:?}: {told}{said}");
                let knows_pixels = options.contains(&"--hash") || against.contains(&"--against");
                assert_eq!(
                    said.contains("only ranges and counts are known (no --hash)"),
                    !knows_pixels,
                    "{said}"
                );
            }
        }
    }
    let (_dir, out) = folder();
    convert(&[sample()], &out, &["--names-from", list]);
    let (_, said) = ends_with(0, &["verify", &out, "--against", sample()]);
    assert!(said.contains("317 files are what the dump gives"), "{said}");
}

type Damage = fn(&Path);

fn change(path: &Path, with: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    with(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn replace(path: &Path, old: &str, new: &str) {
    assert_eq!(old.len(), new.len());
    change(path, |file| {
        let at = file.windows(old.len()).position(|part| part == old.as_bytes());
        file[at.unwrap()..][..old.len()].copy_from_slice(new.as_bytes());
    });
}

/// The value of a tag that stands in the directory itself.
fn set_tag(path: &Path, tag: u16, value: u8) {
    set_tag_to(path, tag, &[value]);
}

fn set_tag_to(path: &Path, tag: u16, value: &[u8]) {
    change(path, |file| {
        let entry =
            (0..14).map(|at| 10 + 12 * at).find(|&at| file[at..at + 2] == tag.to_le_bytes());
        file[entry.unwrap() + 8..][..value.len()].copy_from_slice(value);
    });
}

/// Of a stack a page that differs is named, and what the others are like is right.
#[test]
fn pages_of_stacks_are_looked_at_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let path = at("d.safetensors");
    // 150 pages: each of several threads comes back to the file.
    dump(Path::new(&path), &[("a", "U8", &[50, 3, 7, 11], 50 * 3 * 77)]);
    let bytes: Vec<u8> = (0..50 * 3 * 77_u32).map(|k| (k * k % 253) as u8).collect();
    change(Path::new(&path), |file| {
        let from = file.len() - bytes.len();
        file[from..].copy_from_slice(&bytes);
    });
    let (out, stack) = (at("out"), at("out/d/a.tif"));
    let how = ["--stack", "tensor", "--hash", "--norm", "none"];
    convert(&[&path], &out, &[&how[..], &["--overwrite"]].concat());
    let whole = fs::read(&stack).unwrap();
    let (_, said) = ends_with(0, &["verify", &out, "--against"]);
    assert!(
        said.contains("150 images") && said.contains("; 1 file is what the dump gives"),
        "{said}"
    );
    let pixels = whole.len() - 150 * 77 * 4;
    let text = |page: usize| {
        let text = format!("\"index\":[{},{}]", page / 3, page % 3);
        whole.windows(text.len()).position(|part| part == text.as_bytes()).unwrap()
    };
    type Case<'c> = (usize, u64, [&'c str; 2]);
    let imagej = whole.windows(8).position(|part| part == b"ImageJ=1").unwrap();
    let cases: [Case<'_>; 6] = [
        (imagej, 0, ["tags: the description has no line of ImageJ's", "header: from byte"]),
        (
            pixels,
            0,
            [
                "pixels: their XXH3",
                "1 of 11550 pixels are not what the dump gives, the first at page 0, row 0, column 0",
            ],
        ),
        (
            pixels + 4 * (149 * 77 + 12),
            149,
            ["pixels: their XXH3", "the first at page 149, row 1, column 1"],
        ),
        (pixels + 4 * 100 * 77, 100, ["pixels: their XXH3", "page 100, row 0"]),
        (text(120) + 9, 120, ["tags: the description's index is", "header: from byte"]),
        (text(0) + 9, 0, ["tags: the description's index is", "header: from byte"]),
    ];
    for (at, page, [told, against]) in cases {
        change(Path::new(&stack), |file| file[at] ^= 1);
        let (differences, _) = ends_with(5, &["verify", &out]);
        assert!(differences.lines().any(|line| line.contains(told)), "{at}: {differences}");
        let page = format!("a.tif, page {page}: ");
        assert!(differences.lines().all(|line| line.contains(&page)), "{at}: {differences}");
        assert!(differences.lines().count() <= 2, "{at}: {differences}");
        let (differences, _) = ends_with(5, &["verify", &out, "--against"]);
        assert!(differences.contains(against), "{at}: {differences}");
        fs::write(&stack, &whole).unwrap();
    }
    // Two pages that changed places: readers of directories see no difference, ImageJ does.
    let place = |page: usize| u32::try_from(pixels + 4 * 77 * page).unwrap().to_le_bytes();
    let of_page = |page: usize| whole.windows(4).position(|part| part == place(page)).unwrap();
    change(Path::new(&stack), |file| {
        for (page, other) in [(100, 101), (101, 100)] {
            file[of_page(page)..][..4].copy_from_slice(&place(other));
        }
    });
    let (differences, _) = ends_with(5, &["verify", &out]);
    for page in [100, 101] {
        let told = format!("a.tif, page {page}: tags: its pixels begin at ");
        assert!(differences.contains(&told), "{differences}");
    }
    fs::write(&stack, &whole).unwrap();
    // What is so of all pages: ImageJ's lines, the end of directories, and where pixels lie.
    let number = |at: usize, width: usize| {
        let mut number = [0; 8];
        number[..width].copy_from_slice(&whole[at..at + width]);
        usize::try_from(u64::from_le_bytes(number)).unwrap()
    };
    let nexts = std::iter::successors(Some(4), |&at| match number(at, 4) {
        0 => None,
        directory => Some(directory + 2 + 12 * number(directory, 2)),
    });
    let nexts: Vec<usize> = nexts.collect();
    assert_eq!(nexts.len(), 151);
    let max = whole.windows(5).position(|part| part == b"\nmax=").unwrap();
    type Change<'c> = &'c dyn Fn(&mut Vec<u8>);
    let cases: [(Change<'_>, &str); 4] = [
        (
            &|file| {
                for word in ["images=150", "slices=150"] {
                    let at = file.windows(10).position(|part| part == word.as_bytes()).unwrap();
                    file[at + 9] = b'1';
                }
            },
            "the description says images=151, and there are 150 pages",
        ),
        (&|file| file[max + 5] = b'1', "the description has pages shown from "),
        (&|file| file[nexts[150]] = 8, "directories do not end with that of page 149"),
        (
            &|file| {
                for page in (0..150).rev() {
                    let moved = u32::try_from(pixels + 4 * 77 * page - 4).unwrap().to_le_bytes();
                    file[of_page(page)..][..4].copy_from_slice(&moved);
                }
            },
            "150 pages of 308 bytes do not end where the file does",
        ),
    ];
    for (damage, problem) in cases {
        change(Path::new(&stack), damage);
        let (differences, _) = ends_with(5, &["verify", &out]);
        let told = differences.lines().find(|line| line.contains(problem)).expect(&differences);
        assert!(told.contains("a.tif, page 0: tags: "), "{told}");
        fs::write(&stack, &whole).unwrap();
    }
    // A file of one page is none of 150.
    let (single, _) = (at("single"), ());
    convert(&[&path], &single, &["--limit", "1", "--norm", "none"]);
    fs::copy(format!("{single}/d/a/00_0.tif"), &stack).unwrap();
    let (differences, _) = ends_with(5, &["verify", &out]);
    assert!(differences.contains("a.tif, page 1: file: it has no page 1\n"), "{differences}");
    fs::remove_file(&stack).unwrap();
    let (differences, _) = ends_with(5, &["verify", &out]);
    assert_eq!(differences.matches("a.tif: file: it is missing").count(), 1, "{differences}");
}

/// What is wrong is told with the file and what differs, whether it is compared with the dump or not, or
/// only where it is.
#[test]
fn each_difference_is_named() {
    const FILE: &str = "minilm/sentence_embedding.tif";
    let flip: Damage = |path| change(path, |file| *file.last_mut().unwrap() ^= 1);
    // Without hash, with, against the dump; what it is called.
    let cases: [(Damage, [&str; 3]); 19] = [
        (flip, ["", "pixels: their XXH3 is", "samples: 1 of 1536 pixels"]),
        (|path| fs::remove_file(path).unwrap(), ["file: it is missing"; 3]),
        (
            |path| {
                fs::remove_file(path).unwrap();
                fs::create_dir(path).unwrap();
            },
            ["file: it is missing"; 3],
        ),
        (
            |path| change(path, |file| file.truncate(file.len() - 1)),
            ["pixels: it ends too early"; 3],
        ),
        (|path| change(path, |file| file.truncate(20)), ["file: "; 3]),
        (
            |path| change(path, |file| file.push(0)),
            ["size: 6593 bytes, and the manifest says 6592"; 3],
        ),
        (|path| fs::write(path, "").unwrap(), ["file: "; 3]),
        (|path| set_tag(path, 339, 1), ["file: its pixels are no 32-bit floats"; 3]),
        (|path| set_tag(path, 256, 8), ["pixels take"; 3]),
        (|path| set_tag(path, 262, 0), ["photometric interpretation 0"; 3]),
        (
            // Behind the last line there are zeros.
            |path| {
                change(path, |file| {
                    let end = file.windows(3).position(|part| part == b"}\n\0").unwrap() + 2;
                    file[end..end + 6].copy_from_slice(b"max=9\n");
                    let entry = (0..14).map(|at| 10 + 12 * at);
                    let at = entry.into_iter().find(|&at| file[at..at + 2] == [14, 1]).unwrap();
                    let count = u32::from(file[at + 4]) + 256 * u32::from(file[at + 5]) + 6;
                    file[at + 4..at + 8].copy_from_slice(&count.to_le_bytes());
                })
            },
            ["tags: the description is not worded as this program does it"; 3],
        ),
        (|path| set_tag(path, 278, 9), ["tags: RowsPerStrip (278) is 9, and ought to be 4"; 3]),
        (
            |path| replace(path, "tensortiff\0", "tensorTIFF\0"),
            ["tags: Software (305) is \"tensorTIFF\", and ought to be \"tensortiff\""; 3],
        ),
        (
            // Readers take the type for a LONG.
            |path| {
                change(path, |file| {
                    let entry = (0..14).map(|at| 10 + 12 * at);
                    let at = entry.into_iter().find(|&at| file[at..at + 2] == [1, 1]).unwrap();
                    file[at + 2] = 3;
                })
            },
            ["tags: ImageLength (257) has 1 of type SHORT, and ought to have 1 of type LONG"; 3],
        ),
        (|path| replace(path, "\"norm\"", "\"morn\""), ["tags: the description's norm is null"; 3]),
        (|path| replace(path, "max=1.0", "max=2.0"), ["in the description 0.0 to 2.0"; 3]),
        (|path| set_tag(path, 341, 7), ["tags: the display range is"; 3]),
        (
            // In both places alike.
            |path| {
                replace(path, "max=1.0", "max=0.5");
                set_tag_to(path, 341, &0.5_f32.to_le_bytes());
            },
            ["the display range is 0.0 to 0.5, and ought to be 0.0 to 1.0"; 3],
        ),
        (
            |path| {
                change(path, |file| {
                    let at = file.len() - 4;
                    file[at..].copy_from_slice(&f32::NAN.to_le_bytes());
                })
            },
            ["pixels: 1 NaN and 0 infinite ones"; 3],
        ),
    ];
    let (_dir, plain) = folder();
    let (_dir, hashed) = folder();
    convert(&[sample()], &plain, &[]);
    convert(&[sample()], &hashed, &["--hash"]);
    for (damage, told_as) in cases {
        for (how, sign) in told_as.into_iter().enumerate() {
            let out = if how == 1 { &hashed } else { &plain };
            let path = Path::new(out).join(FILE);
            let whole = fs::read(&path).unwrap();
            damage(&path);
            let against: &[&str] = if how == 2 { &["--against"] } else { &[] };
            let code = if sign.is_empty() { 0 } else { 5 };
            let (told, _) = ends_with(code, &[&["verify", out], against].concat());
            assert!(told.contains(sign), "{sign}: {told}");
            assert!(told.lines().all(|line| line.contains(FILE)), "{told}");
            let _ = fs::remove_dir(&path);
            fs::write(&path, whole).unwrap();
        }
    }
    // Two images that changed places.
    let [a, b] = ["0_00", "0_01"].map(|at| {
        Path::new(&plain).join(format!("minilm/encoder.layer.0.attention.probs/{at}.tif"))
    });
    let [one, other] = [&a, &b].map(|path| fs::read(path).unwrap());
    fs::write(&a, &other).unwrap();
    fs::write(&b, &one).unwrap();
    let (told, said) = ends_with(5, &["verify", &plain]);
    assert!(
        told.contains("the description's index is [0,1], and the manifest says [0,0]"),
        "{told}"
    );
    assert!(told.contains("description's hi is") && said.contains(" differences"), "{told}{said}");
    let (told, said) = ends_with(5, &["verify", "-q", "--json", &plain]);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert!(
        told["differences"].as_array().unwrap().len() as u64 == told["different"]
            && said.is_empty()
    );
    assert_eq!(told["images"], 317);
}

/// Headers that no check looks into differ from what the dump gives.
#[test]
fn against_the_dump_each_byte_counts() {
    let (_dir, out) = folder();
    convert(&[sample()], &out, &[]);
    let path = Path::new(&out).join("minilm/sentence_embedding.tif");
    let whole = fs::read(&path).unwrap();
    for at in (0..whole.len()).step_by(23) {
        change(&path, |file| file[at] ^= 0x10);
        let (told, _) = ends_with(5, &["verify", "-q", &out, "--against"]);
        let sign = if at < whole.len() - 4 * 1536 { ": header: " } else { ": samples: " };
        assert!(told.contains(sign), "{at}: {told}");
        fs::write(&path, &whole).unwrap();
    }
}

#[test]
fn another_dump_is_refused_and_the_same_elsewhere_is_not() {
    let (dir, out) = folder();
    let [own, moved] = ["a", "b/a"].map(|name| dir.path().join(format!("{name}.safetensors")));
    dump(&own, &[("t", "U8", &[3, 2, 2], 12)]);
    let own = own.to_str().unwrap();
    convert(&[own], &out, &[]);
    fs::create_dir(dir.path().join("b")).unwrap();
    fs::rename(own, &moved).unwrap();
    let moved = moved.to_str().unwrap();
    let (_, said) = ends_with(1, &["verify", &out, "--against"]);
    assert!(said.contains("a.safetensors") && said.lines().count() == 1, "{said}");
    ends_with(0, &["verify", &out, "--against", moved]);
    let (_, said) = ends_with(2, &["verify", &out, "--against", sample()]);
    assert!(said.contains("the run was not of this dump"), "{said}");
    // The same but for a sample.
    change(Path::new(moved), |file| *file.last_mut().unwrap() = 7);
    let (told, _) = ends_with(5, &["verify", &out, "--against", moved]);
    assert!(told.contains("a/t/2.tif") && !told.contains("a/t/1.tif"), "{told}");
    for wrong in [&["verify"][..], &["verify", &out, "--images"], &["verify", &out, "-j", "0"]] {
        ends_with(2, wrong);
    }
    ends_with(1, &["verify", "/nowhere"]);
    ends_with(1, &["verify", dir.path().to_str().unwrap()]);
}

#[test]
fn files_that_no_manifest_names_are_told() {
    let (dir, out) = folder();
    convert(&[sample()], &out, &["--limit", "3"]);
    let (small, elsewhere) = (golden("small"), dir.path().join("m.jsonl"));
    let elsewhere = elsewhere.to_str().unwrap();
    convert(&[&small], &out, &["--limit", "3"]);
    let (_, said) = ends_with(0, &["verify", &out]);
    assert!(said.contains("6 images") && !said.contains("no manifest names"), "{said}");
    fs::write(Path::new(&out).join("minilm/notes.txt"), "").unwrap();
    let (told, said) = ends_with(0, &["verify", &out]);
    assert!(told.is_empty() && said.contains("minilm/notes.txt: no manifest names it"), "{said}");
    // Of two runs `--against` can mean but one.
    let (_, said) = ends_with(2, &["verify", &out, "--against", sample()]);
    assert!(said.contains("manifest.jsonl") && said.contains("manifest-"), "{said}");
    ends_with(0, &["verify", &format!("{out}/manifest.jsonl"), "--against", sample()]);
    // A manifest that lies elsewhere.
    let (_dir, other) = folder();
    convert(&[sample()], &other, &["--limit", "3", "--manifest", elsewhere]);
    ends_with(0, &["verify", elsewhere, "--images", &other, "--against"]);
    ends_with(5, &["verify", elsewhere]);
}

/// What a run could not make is missing, and that is known; of what it left as it was nothing is.
#[test]
fn images_that_failed_or_were_there_are_counted() {
    let (dir, out) = folder();
    let norms = golden("norms");
    ends_with(3, &["convert", "-q", "-d", "cpu", &norms, "-o", &out, "--nonfinite", "fail"]);
    let (told, said) = ends_with(3, &["verify", &out]);
    assert!(told.is_empty() && said.contains("could not be made"), "{said}");
    ends_with(3, &["verify", &out, "--against"]);
    let manifest = fs::read_to_string(format!("{out}/manifest.jsonl")).unwrap();
    let lines = manifest.lines().skip(1).map(|line| serde_json::from_str::<Value>(line).unwrap());
    let name =
        lines.filter(|line| line["error"].is_string()).map(|line| line["name"].clone()).next();
    let name = Path::new(&out).join(name.unwrap().as_str().unwrap());
    fs::create_dir_all(name.parent().unwrap()).unwrap();
    fs::write(&name, "mine").unwrap();
    let (told, _) = ends_with(5, &["verify", &out]);
    let due = format!("{}: file: it is there, and the run could not make it\n", name.display());
    assert_eq!(told, due);
    let own = dir.path().join("a.safetensors");
    dump(&own, &[("t", "U8", &[3, 2, 2], 12)]);
    let own = own.to_str().unwrap();
    let (_dir, out) = folder();
    fs::create_dir_all(format!("{out}/a/t")).unwrap();
    fs::write(format!("{out}/a/t/1.tif"), "mine").unwrap();
    convert(&[own], &out, &["--skip-existing"]);
    let (_, said) = ends_with(0, &["verify", &out]);
    assert!(said.contains("1 was there before the run"), "{said}");
    let (told, _) = ends_with(5, &["verify", &out, "--against"]);
    assert!(told.contains("a/t/1.tif: size: it ends at byte 4"), "{told}");
}

/// In this process, so that a panic is one.
fn look(out: &Path) -> Result<Vec<Difference>, String> {
    let outputs = Output::find(out, None).map_err(|error| error.to_string())?;
    let found: Mutex<Vec<Difference>> = Mutex::default();
    let tell = |difference| Mutex::lock(&found).unwrap().push(difference);
    let _ = verify(&outputs[0], None, &Looking::default(), &tell).map_err(|e| e.to_string())?;
    Ok(found.into_inner().unwrap())
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
        usize::try_from(self.0 >> 33).unwrap() % end
    }
}

#[test]
fn whatever_manifests_and_files_hold_there_is_an_answer() {
    let (_dir, out) = folder();
    let small = golden("dtypes");
    convert(&[&small], &out, &["--hash"]);
    let root = PathBuf::from(&out);
    assert_eq!(look(&root).unwrap(), []);
    let rounds = if std::env::var_os("TENSORTIFF_LONG").is_some() { 20_000 } else { 400 };
    let mut random = Random(1);
    let mut all = everything(&root);
    all.sort_by_key(|path| path.extension().is_some_and(|extension| extension == "tif"));
    let (manifest, images) = all.split_first().unwrap();
    let mut told = [0, 0];
    for round in 0..rounds {
        let path = if round % 2 == 0 { manifest } else { &images[random.below(images.len())] };
        let whole = fs::read(path).unwrap();
        let mut bytes = whole.clone();
        // Of an image mostly its header.
        let end = if round % 2 == 0 { bytes.len() } else { bytes.len().min(512) };
        for _ in 0..=random.below(3) {
            let at = random.below(end);
            bytes[at] = u8::try_from(random.below(256)).unwrap();
        }
        if random.below(8) == 0 {
            bytes.truncate(random.below(bytes.len()));
        }
        fs::write(path, bytes).unwrap();
        match look(&root) {
            Ok(differences) => {
                told[0] += usize::from(!differences.is_empty());
                for difference in differences {
                    assert_eq!(difference.to_string().lines().count(), 1, "{difference}");
                }
            }
            Err(error) => {
                told[1] += 1;
                assert_eq!(error.lines().count(), 1, "{error}");
            }
        }
        fs::write(path, whole).unwrap();
    }
    assert!(told[0] > rounds / 4 && told[1] > rounds / 20, "{told:?} of {rounds}");
}

/// A manifest names nothing outside of its folder.
#[test]
#[cfg(unix)]
fn nothing_outside_the_folder_is_read() {
    let (dir, out) = folder();
    let own = dir.path().join("a.safetensors");
    dump(&own, &[("t", "U8", &[2, 2], 4)]);
    convert(&[own.to_str().unwrap()], &out, &[]);
    let (image, manifest) = (format!("{out}/a/t.tif"), format!("{out}/manifest.jsonl"));
    let whole = fs::read_to_string(&manifest).unwrap();
    let stolen = dir.path().join("stolen.tif");
    fs::rename(&image, &stolen).unwrap();
    std::os::unix::fs::symlink(&stolen, &image).unwrap();
    let (told, _) = ends_with(5, &["verify", &out]);
    assert!(told.contains("a/t.tif: file: it is missing"), "{told}");
    for name in ["../stolen.tif", stolen.to_str().unwrap(), "a/../../stolen.tif"] {
        fs::write(&manifest, whole.replace("a/t.tif", name)).unwrap();
        let (told, _) = ends_with(5, &["verify", &out]);
        assert!(told.contains("outside the output folder"), "{told}");
    }
}

/// Strips as they are, rows longer than what the decoder takes at once, and memory that does not grow.
#[test]
#[cfg(target_os = "linux")]
fn giants_are_read_piece_by_piece() {
    let dir = tempfile::tempdir().unwrap();
    let dump = dir.path().join("d.safetensors");
    let dump = dump.to_str().unwrap();
    for (shape, bigtiff) in [([8500, 8500], "yes"), ([2, 20_000_000], "no")] {
        let (_dir, out) = folder();
        sparse_dump(Path::new(dump), &shape);
        change_one(Path::new(dump));
        convert(&[dump], &out, &["--bigtiff", bigtiff, "--hash"]);
        for against in [&[][..], &["--against"]] {
            let mut command = tool::tool();
            command.args(["verify", "-q", "-j", "2", &out]).args(against);
            let mut child = command.spawn().unwrap();
            let status = format!("/proc/{}/status", child.id());
            let mut most = 0;
            let code = loop {
                if let Some(code) = child.try_wait().unwrap() {
                    break code;
                }
                let text = fs::read_to_string(&status).unwrap_or_default();
                let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
                let kib = line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok());
                most = most.max(kib.unwrap_or(0));
                std::thread::sleep(std::time::Duration::from_millis(1));
            };
            assert_eq!(code.code(), Some(0));
            assert!(most > 0 && most < 64 << 10, "{shape:?} {against:?}: {most} KiB");
        }
        let image = everything(Path::new(&out)).into_iter().find(|p| p.ends_with("t.tif")).unwrap();
        let file = fs::OpenOptions::new().read(true).write(true).open(image).unwrap();
        let end = file.metadata().unwrap().len();
        std::os::unix::fs::FileExt::write_all_at(&file, &[0, 0, 0, 63], end - 8).unwrap();
        let (told, _) = ends_with(5, &["verify", &out, "--against"]);
        let place =
            format!("row {}, column {}: 0.5, and it ought to be 0.0", shape[0] - 1, shape[1] - 2);
        assert!(told.contains("XXH3") && told.contains(&place), "{told}");
    }
}

/// So that the image is not constant.
#[cfg(target_os = "linux")]
fn change_one(dump: &Path) {
    let file = fs::OpenOptions::new().write(true).open(dump).unwrap();
    let len = file.metadata().unwrap().len();
    std::os::unix::fs::FileExt::write_all_at(&file, &1_f32.to_le_bytes(), len - 4).unwrap();
}
