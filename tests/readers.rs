//! Written files, opened with the readers of `tests/readers/check.py`: the same pixels, the right display
//! range and not a word on stderr. Runs in the Python environment that `scripts/test` makes, with ImageJ.
//!
//! `docs/readers.md` says which reader opens what. It is held to that, both ways: a further way to store
//! images is a row there, and one of [`VARIANTS`].

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data is small, and a test that panics says where"
)]
#![cfg(feature = "cli")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tensortiff::encode::{BigTiff, Compress, Encoding, EncodingText, Predictor, Profile};
use tensortiff::normalize::{Extent, oracle};
use tensortiff::{DumpFiles, Norm, Source as _, TensorInfo};

/// What is expected of a file.
struct Expected {
    shape: Vec<u64>,
    pixels: Vec<f32>,
    display: [f32; 2],
}

/// What is expected of every file that the tool writes for a dump, as the oracle says.
fn expected(dump: &Path, norm: Norm) -> BTreeMap<String, Expected> {
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
            let (extent, pixels) = oracle::normalize(norm, *dtype, raw);
            let display = display(norm, &extent);
            let expected = Expected { shape: image.to_vec(), pixels, display };
            files.insert(format!("{stem}/{name}{leaf}.tif"), expected);
        }
    }
    files
}

/// 0 and 1 for normalized pixels; the finite range of others, with 0 and 1 where it is no range.
fn display(norm: Norm, extent: &Extent) -> [f32; 2] {
    let is_normalized = norm == Norm::MinMax && extent.min < extent.max;
    if is_normalized || !extent.has_finite() {
        return [0.0, 1.0];
    }
    let [min, max] =
        [extent.min, extent.max].map(|x| x.clamp(f32::MIN.into(), f32::MAX.into()) as f32);
    if min < max { [min, max] } else { [min.min(0.0), max.max(1.0)] }
}

/// The images of a tensor as the pages of one file.
fn stacked(images: BTreeMap<String, Expected>) -> BTreeMap<String, Expected> {
    let mut stacks: BTreeMap<String, Expected> = BTreeMap::new();
    for (name, image) in images {
        let (tensor, _) = name.rsplit_once('/').unwrap();
        let stack = stacks.entry(format!("{tensor}.tif")).or_insert_with(|| Expected {
            shape: [&[0], &image.shape[..]].concat(),
            pixels: Vec::new(),
            display: image.display,
        });
        stack.shape[0] += 1;
        stack.pixels.extend(image.pixels);
        let ([least, most], [min, max]) = (stack.display, image.display);
        stack.display = [least.min(min), most.max(max)];
    }
    stacks
}

/// For the check: where each file's pixels lie in a file beside this one.
fn write_json(path: &Path, files: &BTreeMap<String, Expected>) {
    let (mut json, mut all) = (String::from("{"), Vec::new());
    for (i, (name, Expected { shape, pixels, display })) in files.iter().enumerate() {
        let comma = if i > 0 { "," } else { "" };
        let at = all.len();
        let display = display.map(f64::from);
        write!(json, "{comma}{name:?}:{{\"shape\":{shape:?},\"display\":{display:?},\"at\":{at}}}")
            .unwrap();
        all.extend(pixels.iter().flat_map(|x| x.to_bits().to_le_bytes()));
    }
    std::fs::write(path, json + "}").unwrap();
    std::fs::write(path.with_extension("bin"), all).unwrap();
}

fn python() -> PathBuf {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
    assert!(python.exists(), "no {}: run scripts/test, which makes it", python.display());
    python
}

fn open_all(dump: &str, norm: Norm, corrupt: impl Fn(&Path)) -> (bool, String) {
    let dump = Path::new(env!("CARGO_MANIFEST_DIR")).join(dump);
    check(&dump, norm, &[], &[], corrupt)
}

/// Converts a dump and has all that was written opened by all readers.
fn check(
    dump: &Path,
    norm: Norm,
    options: &[&str],
    more: &[&str],
    corrupt: impl Fn(&Path),
) -> (bool, String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let of_tar = options.strip_prefix(&TAR[..]);
    let is_tar = of_tar.is_some();
    let target = if is_tar { dir.path().join("out.tar") } else { out.clone() };
    let options = of_tar.unwrap_or(options);
    let status = Command::new(env!("CARGO_BIN_EXE_tensortiff"))
        .args(["convert", "-q", "--device", "cpu", "--norm", norm.name(), "-o"])
        .arg(&target)
        .arg(dump)
        .args(options)
        .args(if is_tar { ["--tar-size", "20K"].as_slice() } else { &["--no-manifest"] })
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
    if is_tar {
        cut_members(dir.path(), &out);
    }
    corrupt(&out);
    let json = dir.path().join("expected.json");
    let files = expected(dump, norm);
    let is_stack = options.contains(&"--stack");
    write_json(&json, &if is_stack { stacked(files) } else { files });
    let check = Command::new(python())
        .arg(root.join("tests/readers/check.py"))
        .args([&out, &json])
        .args(more)
        .output()
        .unwrap();
    let said = [check.stdout, check.stderr].concat();
    (check.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// Makes files of the members of tars, as the manifest says where those are.
fn cut_members(dir: &Path, out: &Path) {
    let manifest = std::fs::read_to_string(dir.join("out.manifest.jsonl")).unwrap();
    for line in manifest.lines().skip(1) {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let [begin, bytes] = ["offset", "bytes"].map(|key| line[key].as_u64().unwrap() as usize);
        let tar = std::fs::read(dir.join(line["name"].as_str().unwrap())).unwrap();
        let path = out.join(line["member"].as_str().unwrap());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &tar[begin..begin + bytes]).unwrap();
    }
}

/// Python's `tarfile` and the system's `tar` find all members, also of names that fit no plain header; to
/// `WebDataset`, whose keys end at the first dot behind the last `/`, each is a sample of its own.
#[test]
fn readers_of_tars_find_every_member() {
    const SCRIPT: &str = r#"
import re, sys, tarfile
tar, files, manifest = sys.argv[1:]
import json, os
lines = [json.loads(line) for line in open(manifest)][1:]
keys = []
for mode in "r:", "r|":
    with tarfile.open(tar, mode) as found:
        for line, member in zip(lines, found, strict=True):
            assert (member.name, member.size) == (line["member"], line["bytes"]), member
            assert member.offset_data == line["offset"] and member.isfile() and member.mtime == 0
            data = found.extractfile(member).read()
            assert data == open(os.path.join(files, member.name), "rb").read(), member
            key, extension = re.match(r"^((?:.*/|)[^.]+)[.]([^/]*)$", member.name).groups()
            assert extension == "tif", member
            keys.append(key)
assert len(set(keys)) == len(lines) > 300
"#;
    let dir = tempfile::tempdir().unwrap();
    let long = format!("{}.{}", "folder/".repeat(30), "x.y".repeat(50));
    let dump = dir.path().join("long.safetensors");
    let json =
        format!("{{\"{long}\":{{\"dtype\":\"U8\",\"shape\":[2,3,4],\"data_offsets\":[0,24]}}}}");
    let head = (json.len() as u64).to_le_bytes();
    std::fs::write(&dump, [&head[..], json.as_bytes(), &[7; 24]].concat()).unwrap();
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/minilm.safetensors");
    let (tar, files) = (dir.path().join("out.tar"), dir.path().join("files"));
    let status = Command::new(env!("CARGO_BIN_EXE_tensortiff"))
        .args(["convert", "-q", "--device", "cpu", "-o"])
        .args([&tar, &sample, &dump])
        .status()
        .unwrap();
    assert!(status.success());
    std::fs::create_dir(&files).unwrap();
    let extract =
        Command::new("tar").arg("-xf").args([&tar]).arg("-C").arg(&files).output().unwrap();
    let told = String::from_utf8_lossy(&extract.stderr).into_owned();
    assert!(extract.status.success() && told.is_empty(), "{told}");
    let manifest = dir.path().join("out.manifest.jsonl");
    let check = Command::new(python())
        .args(["-c", SCRIPT])
        .args([&tar, &files, &manifest])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&check.stderr).into_owned();
    assert!(check.status.success() && told.is_empty(), "{told}");
    let verify = Command::new(env!("CARGO_BIN_EXE_tensortiff"))
        .args(["verify", "-q"])
        .arg(&tar)
        .arg("--against")
        .args([&sample, &dump])
        .output()
        .unwrap();
    assert!(verify.status.success(), "{verify:?}");
}

/// A way to store images: its name in the table, the samples of one image, and how it is written.
struct Variant {
    name: &'static str,
    shape: &'static [usize],
    sample: fn(usize) -> f32,
    norm: Norm,
    options: &'static [&'static str],
}

/// Every way that there is, a row each of the table.
const VARIANTS: [Variant; 34] = [
    Variant { name: "normalized", shape: &SMALL, sample: some, norm: Norm::MinMax, options: &[] },
    Variant { name: "`--norm none`", shape: &SMALL, sample: some, norm: Norm::None, options: &[] },
    Variant {
        name: "a constant image",
        shape: &SMALL,
        sample: |_| -0.25,
        norm: Norm::MinMax,
        options: &[],
    },
    Variant {
        name: "NaN and ±Inf among its pixels",
        shape: &SMALL,
        sample: odd,
        norm: Norm::MinMax,
        options: &[],
    },
    Variant {
        name: "more than 64 MiB: several strips",
        shape: &LARGE,
        sample: some,
        norm: Norm::MinMax,
        options: &[],
    },
    Variant {
        name: "`--bigtiff yes`",
        shape: &SMALL,
        sample: some,
        norm: Norm::MinMax,
        options: &["--bigtiff", "yes"],
    },
    Variant {
        name: "`--bigtiff yes`, several strips",
        shape: &LARGE,
        sample: some,
        norm: Norm::MinMax,
        options: &["--bigtiff", "yes"],
    },
    Variant {
        name: "`--compress deflate`",
        shape: &PACKED,
        sample: some,
        norm: Norm::MinMax,
        options: &["--compress", "deflate"],
    },
    Variant {
        name: "`--compress deflate --predictor float`",
        shape: &PACKED,
        sample: some,
        norm: Norm::MinMax,
        options: &["--compress", "deflate", "--predictor", "float"],
    },
    Variant {
        name: "`--compress zstd`",
        shape: &PACKED,
        sample: some,
        norm: Norm::MinMax,
        options: &["--compress", "zstd"],
    },
    Variant {
        name: "`--compress zstd --predictor float`",
        shape: &PACKED,
        sample: some,
        norm: Norm::MinMax,
        options: &["--compress", "zstd", "--predictor", "float"],
    },
    Variant {
        name: "`--tile 256`",
        shape: &PACKED,
        sample: some,
        norm: Norm::MinMax,
        options: &["--tile", "256"],
    },
    Variant {
        name: "`--profile gis`",
        shape: &PACKED,
        sample: some,
        norm: Norm::MinMax,
        options: &["--profile", "gis"],
    },
    Variant {
        name: "`--profile archive`",
        shape: &PACKED,
        sample: some,
        norm: Norm::MinMax,
        options: &["--profile", "archive"],
    },
    Variant {
        name: "`--stack tensor`",
        shape: &[7, 37, 53],
        sample: some,
        norm: Norm::MinMax,
        options: &["--stack", "tensor"],
    },
    Variant {
        name: "`--stack tensor --norm none`, NaN and ±Inf among its pixels",
        shape: &[2, 3, 37, 53],
        sample: odd,
        norm: Norm::None,
        options: &["--stack", "tensor"],
    },
    Variant {
        name: "`--stack tensor`, 3 pages",
        shape: &[3, 37, 53],
        sample: some,
        norm: Norm::MinMax,
        options: &["--stack", "tensor"],
    },
    Variant {
        name: "`--stack tensor`, 4 pages",
        shape: &[4, 37, 53],
        sample: some,
        norm: Norm::MinMax,
        options: &["--stack", "tensor"],
    },
    Variant {
        name: "`--stack tensor`, pages of several strips",
        shape: &[2, LARGE[0], LARGE[1]],
        sample: some,
        norm: Norm::MinMax,
        options: &["--stack", "tensor"],
    },
    Variant {
        name: "`--stack tensor --bigtiff yes`",
        shape: &[7, 37, 53],
        sample: some,
        norm: Norm::MinMax,
        options: &["--stack", "tensor", "--bigtiff", "yes"],
    },
    Variant {
        name: "`--stack all`",
        shape: &[7, 37, 53],
        sample: some,
        norm: Norm::MinMax,
        options: &["--stack", "all", "--name", "d/t.tif"],
    },
    Variant {
        name: "`--compress deflate --predictor auto`",
        shape: &PACKED,
        sample: some,
        norm: Norm::MinMax,
        options: &["--compress", "deflate", "--predictor", "auto"],
    },
    Variant {
        name: "`--compress deflate --bigtiff yes`",
        shape: &PACKED,
        sample: some,
        norm: Norm::MinMax,
        options: &["--compress", "deflate", "--bigtiff", "yes"],
    },
    Variant {
        name: "`--tile 256 --bigtiff yes`",
        shape: &PACKED,
        sample: some,
        norm: Norm::MinMax,
        options: &["--tile", "256", "--bigtiff", "yes"],
    },
    Variant {
        name: "`--tile 256 --compress deflate`",
        shape: &PACKED,
        sample: some,
        norm: Norm::MinMax,
        options: &["--tile", "256", "--compress", "deflate"],
    },
    Variant {
        name: "`--tile 256 --compress zstd`",
        shape: &PACKED,
        sample: some,
        norm: Norm::MinMax,
        options: &["--tile", "256", "--compress", "zstd"],
    },
    Variant {
        name: "`--profile gis --norm none`",
        shape: &PACKED,
        sample: some,
        norm: Norm::None,
        options: &["--profile", "gis"],
    },
    Variant {
        name: "`--profile gis --compress zstd --bigtiff yes`",
        shape: &PACKED,
        sample: some,
        norm: Norm::MinMax,
        options: &["--profile", "gis", "--compress", "zstd", "--bigtiff", "yes"],
    },
    Variant {
        name: "`--profile gis --compress none`",
        shape: &PACKED,
        sample: some,
        norm: Norm::MinMax,
        options: &["--profile", "gis", "--compress", "none"],
    },
    Variant {
        name: "`--profile gis --tile none`",
        shape: &PACKED,
        sample: some,
        norm: Norm::MinMax,
        options: &["--profile", "gis", "--tile", "none"],
    },
    Variant {
        name: "`--profile archive --tile 64`",
        shape: &PACKED,
        sample: some,
        norm: Norm::MinMax,
        options: &["--profile", "archive", "--tile", "64"],
    },
    Variant {
        name: "`--stack all --bigtiff yes`",
        shape: &[7, 37, 53],
        sample: some,
        norm: Norm::MinMax,
        options: &["--stack", "all", "--name", "d/t.tif", "--bigtiff", "yes"],
    },
    Variant {
        name: "a member of `-o NAME.tar`, by its place in the manifest",
        shape: &[1, 37, 53],
        sample: some,
        norm: Norm::MinMax,
        options: &TAR,
    },
    Variant {
        name: "a member of `-o NAME.tar --bigtiff yes`",
        shape: &[1, 37, 53],
        sample: some,
        norm: Norm::MinMax,
        options: &[TAR[0], TAR[1], "--bigtiff", "yes"],
    },
];

/// What stands for a tar among the options of a variant.
const TAR: [&str; 2] = ["-o", "NAME.tar"];

const SMALL: [usize; 2] = [37, 53];
const LARGE: [usize; 2] = [4100, 4099];
/// Four strips, where they are packed.
const PACKED: [usize; 2] = [602, 701];

fn some(at: usize) -> f32 {
    ((at * 7919) % 10_007) as f32 / 64.0 - 20.0
}

/// As weights are: no difference of two is exact, and with that of the ends as scale the error is 1.15 of what
/// it may be.
fn uneven(at: usize) -> f32 {
    let mut state = at as u64 ^ 0x9E37_79B9_7F4A_7C15;
    let mut unit = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    (0..6).map(|_| unit()).sum::<f32>() * 0.8 - 2.4
}

fn odd(at: usize) -> f32 {
    let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0];
    odd.get(at % 11).copied().unwrap_or(some(at))
}

/// A dump of one tensor.
fn write_dump(path: &Path, variant: &Variant) {
    let samples: usize = variant.shape.iter().product();
    let bytes = 4 * samples;
    let json = format!(
        "{{\"t\":{{\"dtype\":\"F32\",\"shape\":{:?},\"data_offsets\":[0,{bytes}]}}}}",
        variant.shape
    );
    let mut file = [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat();
    file.extend((0..samples).flat_map(|at| (variant.sample)(at).to_le_bytes()));
    std::fs::write(path, file).unwrap();
}

/// The cells of the table in a text, line by line; none where it has no table of readers.
fn table(text: &str) -> Vec<Vec<String>> {
    let lines = text.lines().skip_while(|line| !line.starts_with("| image |"));
    let rows = lines.take_while(|line| line.starts_with('|'));
    rows.map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect()
}

fn documented(name: &str) -> Vec<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    table(&std::fs::read_to_string(path).unwrap())
}

/// What the table promises and what readers do, where they differ; `promise` may change a cell first.
fn broken_promises(
    variants: &[Variant],
    promise: impl Fn(&str, &str, String) -> String,
) -> Vec<String> {
    let rows = documented("docs/readers.md");
    let readers = &rows[0][1..];
    let dir = tempfile::tempdir().unwrap();
    let mut broken = Vec::new();
    for variant in variants {
        let dump = dir.path().join("d.safetensors");
        write_dump(&dump, variant);
        let row = rows.iter().find(|row| row[0] == variant.name);
        let row = row.unwrap_or_else(|| panic!("no row for {}", variant.name));
        let (right, said) = check(&dump, variant.norm, variant.options, &["--json"], |_| {});
        assert!(right, "{said}");
        // Java prints before it.
        let found = said.lines().find(|line| line.starts_with("{\"files\"")).expect(&said);
        let found: serde_json::Value = serde_json::from_str(found).unwrap();
        let found = found["readers"].as_object().unwrap();
        let known: Vec<&String> = found.keys().collect();
        let mut named: Vec<&String> = readers.iter().collect();
        named.sort();
        assert_eq!(known, named, "the table has the readers that are tried");
        for (reader, cell) in readers.iter().zip(&row[1..]) {
            let problems = &found[reader]["problems"];
            let opens = found[reader]["right"] == 1;
            match promise(variant.name, reader, cell.clone()).as_str() {
                "yes" if !opens => broken.push(format!("{}: {reader}: {problems}", variant.name)),
                "no" if opens => broken.push(format!("{}: {reader} opens it", variant.name)),
                "yes" | "no" => {}
                other => broken.push(format!("{}: {reader}: {other}: yes or no", variant.name)),
            }
        }
    }
    broken
}

/// Every row and every cell is tried, and no way to store images lacks a row.
#[test]
fn readers_open_what_the_table_says_and_nothing_else() {
    let rows = documented("docs/readers.md");
    let names: Vec<&str> = rows[2..].iter().map(|row| row[0].as_str()).collect();
    assert_eq!(names, VARIANTS.map(|variant| variant.name), "docs/readers.md");
    assert_eq!(documented("README.md"), rows, "README.md shows the table of docs/readers.md");
    let broken = broken_promises(&VARIANTS, |_, _, cell| cell);
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// What readers may stumble over in a file, and how it is held: what is asked for may be had in other words.
fn features(options: &[&str]) -> Option<Vec<String>> {
    let (mut text, mut holder) = (EncodingText::default(), "file");
    for option in options.chunks(2) {
        match option {
            ["--stack", "none"] | ["--name", _] => {}
            ["--stack", "tensor"] => holder = "stack",
            ["--stack", "all"] => holder = "stack of all",
            option if option == TAR => holder = "tar",
            [name, value] => assert!(text.set(name.strip_prefix("--")?, value), "{name}"),
            other => panic!("{other:?}"),
        }
    }
    let Encoding { profile, bigtiff, compress, predictor, tile } = text.read().ok()?;
    let is_gdal = profile == Profile::Gis;
    if holder != "file" && (compress != Compress::None || tile.is_some() || is_gdal) {
        return None;
    }
    let codec = match compress {
        Compress::None => "none",
        Compress::Deflate(_) => "deflate",
        Compress::Zstd(_) => "zstd",
    };
    let has_predictor = predictor != Predictor::None;
    Some(vec![
        holder.to_owned(),
        format!("codec {codec}"),
        format!("predictor {has_predictor}"),
        format!("tiles {}", tile.is_some()),
        format!("GDAL's tags {is_gdal}"),
        format!("BigTIFF {}", bigtiff == BigTiff::Yes),
    ])
}

/// Any two things that can be so of a file at once are so in some row.
#[test]
fn all_pairs_of_what_files_can_be_have_a_row() {
    let pairs = |options: &[&str]| -> Vec<[String; 2]> {
        let features = features(options).unwrap_or_default();
        let pair = |(at, one): (usize, &String)| {
            features[at + 1..].iter().map(|other| [one.clone(), other.clone()]).collect::<Vec<_>>()
        };
        features.iter().enumerate().flat_map(pair).collect()
    };
    let tried: BTreeSet<_> = VARIANTS.iter().flat_map(|variant| pairs(variant.options)).collect();
    let words: [&[&[&'static str]]; 6] = [
        &[&[], &["--stack", "tensor"], &["--stack", "all"], &TAR],
        &[&[], &["--profile", "fiji"], &["--profile", "gis"], &["--profile", "archive"]],
        &[&[], &["--compress", "none"], &["--compress", "deflate"], &["--compress", "zstd"]],
        &[&[], &["--predictor", "none"], &["--predictor", "float"], &["--predictor", "auto"]],
        &[&[], &["--tile", "none"], &["--tile", "64"]],
        &[&[], &["--bigtiff", "yes"], &["--bigtiff", "no"]],
    ];
    let mut all: Vec<Vec<&'static str>> = vec![Vec::new()];
    for words in words {
        let with = |all: &Vec<&'static str>, more: &[&'static str]| [&all[..], more].concat();
        all = all.iter().flat_map(|all| words.iter().map(|more| with(all, more))).collect();
    }
    let possible: BTreeSet<_> = all.iter().flat_map(|options| pairs(options)).collect();
    assert!(possible.len() > 40, "{possible:?}");
    let untried: Vec<_> = possible.difference(&tried).collect();
    assert!(untried.is_empty(), "no row has {untried:?}");
}

/// A promise that is wrong is seen, whichever way.
#[test]
fn wrong_promises_are_seen() {
    let variants = || VARIANTS.into_iter().filter(|variant| variant.name == "`--bigtiff yes`");
    let variants: Vec<Variant> = variants().collect();
    let turned = |_: &str, reader: &str, cell: String| match (reader, cell.as_str()) {
        ("ImageJ" | "Pillow", "no") => "yes".to_owned(),
        ("ImageJ" | "Pillow", "yes") => "no".to_owned(),
        ("OpenCV", _) => "perhaps".to_owned(),
        _ => cell,
    };
    let broken = broken_promises(&variants, turned).join("\n");
    assert_eq!(broken.lines().count(), 3, "{broken}");
    for part in ["ImageJ: [", "Pillow opens it", "OpenCV: perhaps"] {
        assert!(broken.contains(part), "{part}: {broken}");
    }
}

/// GDAL gives the samples back by scale and offset, and knows what has no data.
#[test]
fn gdal_undoes_the_normalization_of_its_profile() {
    let dir = tempfile::tempdir().unwrap();
    let (dump, samples) = (dir.path().join("d.safetensors"), dir.path().join("samples"));
    let of = |sample: fn(usize) -> f32| {
        let [height, width] = PACKED;
        let options = &["--profile", "gis"];
        let variant = Variant { name: "", shape: &PACKED, sample, norm: Norm::MinMax, options };
        write_dump(&dump, &variant);
        let all: Vec<u8> =
            (0..height * width).flat_map(|at| (variant.sample)(at).to_le_bytes()).collect();
        std::fs::write(&samples, all).unwrap();
    };
    let said = |more: &[&str]| {
        let out = dir.path().join("out");
        let convert = Command::new(env!("CARGO_BIN_EXE_tensortiff"))
            .args(["convert", "-q", "--overwrite", "--device", "cpu", "--profile", "gis", "-o"])
            .arg(&out)
            .arg(&dump)
            .args(more)
            .status()
            .unwrap();
        assert!(convert.success());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/readers/gdal.py");
        let [height, width] = PACKED.map(|side| side.to_string());
        let check = Command::new(python())
            .args([&script, &out.join("d/t.tif"), &samples])
            .args([height, width])
            .output()
            .unwrap();
        String::from_utf8_lossy(&[check.stdout, check.stderr].concat()).into_owned()
    };
    for sample in [some, odd, uneven] {
        of(sample);
        assert_eq!(said(&[]), "");
        assert_eq!(said(&["--compress", "zstd", "--bigtiff", "yes"]), "");
        assert_eq!(said(&["--out-range", "0,1"]), "");
    }
    // What is wrong is seen.
    assert!(said(&["--norm", "symmetric"]).contains("AssertionError"));
    assert!(said(&["--tile", "128"]).contains("AssertionError"));
    // As wide as f32 is.
    of(|at| if at % 2 == 0 { f32::MAX } else { -f32::MAX + at as f32 * 1e30 });
    assert_eq!(said(&[]), "");
    // And of f64, far from 0, where f32 would have nothing of them.
    let [height, width] = PACKED;
    let json = format!(
        "{{\"t\":{{\"dtype\":\"F64\",\"shape\":{PACKED:?},\"data_offsets\":[0,{}]}}}}",
        8 * height * width
    );
    let all: Vec<u8> =
        (0..height * width).flat_map(|at| (1e9 + f64::from(uneven(at))).to_le_bytes()).collect();
    let file = [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &all].concat();
    std::fs::write(&dump, file).unwrap();
    std::fs::write(&samples, all).unwrap();
    assert_eq!(said(&[]), "");
}

#[test]
fn a_real_dump_opens_right_everywhere() {
    let (right, said) = open_all("data/minilm.safetensors", Norm::MinMax, |_| {});
    assert!(right, "{said}");
    assert!(said.contains("2536 readings of 317 files"), "{said}");
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
