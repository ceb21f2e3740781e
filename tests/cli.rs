//! The tool as people call it: what it prints where, how it ends, and what it leaves behind.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data is small, and a test that panics says where"
)]
#![cfg(feature = "cli")]

#[path = "common/tool.rs"]
mod tool;

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tool::{
    dump, ends_with, files, folder, join, sample, sparse_dump, text, tool, unsupported_dump,
    until_at_work,
};

#[test]
fn the_main_job_writes_one_file_an_image_and_one_summary_line() {
    let (_dir, out) = folder();
    let (stdout, stderr) = ends_with(0, &["convert", sample(), "-o", &out, "--device", "cpu"]);
    assert_eq!(stdout, "");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    for part in ["317 images", "2.562 MB read", "GB/s", "cpu 100 %"] {
        assert!(stderr.contains(part), "no {part} in {stderr}");
    }
    assert_eq!(files(Path::new(&out)).len(), 317);
    assert!(Path::new(&out).join("minilm/encoder.layer.3.attention.probs/2_11.tif").exists());
    assert!(Path::new(&out).join("minilm/sentence_embedding.tif").exists());

    let (_, stderr) = ends_with(1, &["convert", sample(), "-o", &out]);
    assert!(stderr.contains("exists already, and 316 more") && stderr.contains("--overwrite"));
    let (_, stderr) = ends_with(0, &["convert", "-q", sample(), "-o", &out, "--overwrite"]);
    assert_eq!(stderr, "");
    assert_eq!(files(Path::new(&out)).len(), 317);
}

#[test]
#[cfg(feature = "gpu")]
fn every_device_writes_the_same_files() {
    let (dir, _) = folder();
    let mut trees = Vec::new();
    for device in ["cpu", "llvmpipe", "cpu,LLVMpipe", "auto"] {
        let out = dir.path().join(device);
        let out = out.to_str().unwrap();
        let (_, stderr) = ends_with(0, &["convert", sample(), "-o", out, "--device", device]);
        if device == "llvmpipe" {
            assert!(stderr.contains("100 %") && !stderr.contains("cpu"), "{stderr}");
        }
        let root = Path::new(out);
        let tree = files(root)
            .into_iter()
            .map(|path| (path.strip_prefix(root).unwrap().to_owned(), fs::read(&path).unwrap()));
        trees.push(tree.collect::<Vec<_>>());
    }
    assert!(trees.iter().all(|tree| tree.len() == 317 && *tree == trees[0]));
}

#[test]
fn timings_say_where_the_time_went() {
    let (_dir, out) = folder();
    let args = ["convert", sample(), "-o", &out, "--device", "cpu", "-j", "2", "-q", "--timings"];
    let (_, stderr) = ends_with(0, &args);
    let line = stderr.strip_suffix('\n').unwrap();
    let rest = line.strip_prefix("timings: cpu: ").unwrap_or_else(|| panic!("{line}"));
    let mut sum = 0.0;
    for (part, what) in rest.split(", ").zip(["read", "compute", "write", "wait"]) {
        let share: f64 = part.split(' ').nth(1).unwrap().parse().unwrap();
        assert!(part.starts_with(what) && part.contains(" %"), "{line}");
        assert!(share >= 0.0, "{line}");
        sum += share;
    }
    assert!((sum - 100.0_f64).abs() < 0.3, "{line}");
    assert!(line.ends_with(" s of its threads"), "{line}");

    // What came before the first image has a line of its own; packing is no writing.
    let of = |options: &[&str]| -> (String, Vec<f64>) {
        let (_dir, out) = folder();
        let args =
            ["convert", sample(), "-o", &out, "--device", "cpu", "-j", "2", "-q", "--timings"];
        let (_, stderr) = ends_with(0, &join(&args, options));
        let last = stderr.lines().last().unwrap();
        let part = |part: &str| part.split(' ').rev().nth(1).unwrap().parse().unwrap();
        let rest = last.strip_prefix("timings: cpu: ").unwrap();
        (stderr.clone(), rest.split(", ").take(3).map(part).collect())
    };
    let (told, _) = of(&["--scope", "tensor", "--norm", "percentile"]);
    let ranges = told.lines().next().unwrap();
    assert!(ranges.starts_with("timings: ranges: read ") && told.lines().count() == 2, "{told}");
    let computed = ranges.split(", ").nth(1).unwrap().split(' ').nth(1).unwrap();
    assert!(computed.parse::<f64>().unwrap() > 10.0, "{told}");
    let (told, shares) = of(&["--compress", "zstd:19"]);
    assert!(shares[1] > shares[2] && !told.contains("ranges"), "{told}");
}

/// While the system's loader is at a driver, threads cannot begin: all that are needed are there before, and a
/// signal ends the run.
#[test]
#[cfg(all(feature = "gpu", target_os = "linux"))]
fn a_driver_that_loads_slowly_delays_nobody() {
    let (dir, out) = folder();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let [source, library, driver, mark, path] =
        ["slow.c", "slow.so", "driver.json", "mark", "d.safetensors"].map(at);
    let slow = r#"
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
__attribute__((constructor)) static void load(void) {
    close(open(getenv("MARK"), O_CREAT | O_WRONLY, 0600));
    for (unsigned left = 30; left; left = sleep(left));
}
"#;
    fs::write(&source, slow).unwrap();
    // What links Rust programs compiles it.
    let made = Command::new("cc").args(["-shared", "-fPIC", "-o", &library, &source]).status();
    assert!(made.unwrap().success());
    let text = format!(
        "{{\"file_format_version\":\"1.0.0\",\"ICD\":{{\"library_path\":\"{library}\",\"api_version\":\"1.3.0\"}}}}"
    );
    fs::write(&driver, text).unwrap();
    sparse_dump(Path::new(&path), &[1500, 64, 64]);
    let start = |options: &[&str]| {
        drop((fs::remove_dir_all(&out), fs::remove_file(&mark)));
        tool()
            .args(["convert", "-q", &path, "-o", &out, "--device", "cpu,gpu", "-j", "2"])
            .args(options)
            .env("VK_DRIVER_FILES", &driver)
            .env("MARK", &mark)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    // Ranges first, by threads of their own; a manifest of more images than one thread makes lines of.
    for options in [
        &["--compress", "zstd:12"][..],
        &["--scope", "dump", "--norm", "percentile", "--compress", "zstd:12"],
    ] {
        let started = Instant::now();
        let output = start(options).wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", tool::text(&output.stderr));
        assert!(
            started.elapsed() < Duration::from_secs(25),
            "{options:?}: {:?}",
            started.elapsed()
        );
        assert!(Path::new(&mark).exists(), "{options:?}: nobody asked for the driver");
    }
    let child = start(&["--compress", "zstd:19"]);
    while !Path::new(&mark).exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let started = Instant::now();
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143), "{}", tool::text(&output.stderr));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[test]
#[cfg(feature = "gpu")]
fn devices_that_cannot_be_used_are_told() {
    let (_dir, out) = folder();
    let (_, stderr) = ends_with(1, &["convert", sample(), "-o", &out, "--device", "no such card"]);
    assert!(stderr.contains("llvmpipe") && stderr.contains("tensortiff devices"), "{stderr}");
    let (_, stderr) = ends_with(1, &["convert", sample(), "-o", &out, "--device", "99"]);
    assert!(stderr.contains("no GPU adapter is meant by 99; there are: 0 "), "{stderr}");
    // Without the CPU each must do: one good one does not hide a wrong one.
    let args = ["convert", sample(), "-o", &out, "--device", "llvmpipe,no such card"];
    let (_, stderr) = ends_with(1, &args);
    assert!(stderr.contains("no such card"), "{stderr}");
    assert!(!Path::new(&out).exists(), "nothing is made before devices are there");

    let no_driver = |dump: &str, device: &str, out: &str| {
        tool()
            .args(["convert", dump, "-o", out, "--device", device, "-j", "2"])
            .env("VK_DRIVER_FILES", "/nonexistent")
            .output()
            .unwrap()
    };
    let output = no_driver(sample(), "gpu", &out);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("--device auto"), "{}", text(&output.stderr));

    // A run of seconds, so that it is not over before the driver has been looked for.
    let (dir, out) = folder();
    let path = dir.path().join("d.safetensors");
    sparse_dump(&path, &[60_000, 64, 64]);
    let output = no_driver(path.to_str().unwrap(), "auto", &out);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let notes: Vec<&str> = stderr.lines().filter(|line| line.contains("note:")).collect();
    let told = "tensortiff: note: no GPU adapter was found; the CPU does the work";
    assert_eq!(notes, [told], "one line says so: {stderr}");
    assert!(stderr.lines().last().unwrap().contains("cpu 100 %"), "{stderr}");
    assert_eq!(files(Path::new(&out)).len(), 60_000);

    let wide = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/dtypes.safetensors");
    let (dir, out) = folder();
    let (_, stderr) = ends_with(1, &["convert", wide, "-o", &out, "--device", "llvmpipe"]);
    assert!(stderr.contains("tensor F64: F64") && stderr.contains("--exclude"), "{stderr}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
#[cfg(feature = "gpu")]
fn devices_lists_adapters_as_text_and_json() {
    let (stdout, stderr) = ends_with(0, &["devices"]);
    assert!(stdout.contains("llvmpipe") && stdout.contains("proof    passed"), "{stdout}");
    assert_eq!(stderr, "");
    let (stdout, _) = ends_with(0, &["devices", "--json"]);
    let list: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(list[0]["passed"], true);
    assert_eq!(list[0]["auto"], false, "software is never chosen by itself");
}

#[test]
fn ls_lists_tensors_as_text_and_json() {
    let (stdout, _) = ends_with(0, &["ls", sample()]);
    assert_eq!(stdout.lines().count(), 15, "{stdout}");
    assert!(stdout.contains("F32    [4, 12, 32, 32]  48      encoder.layer.0.attention.probs"));
    let (stdout, _) = ends_with(0, &["ls", "--json", "-t", "*.hidden", sample()]);
    let list: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 7);
    assert_eq!(list[0]["images"], 4);
    // A reader that has seen enough is no error.
    let mut child = tool().args(["ls", sample()]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn ls_folds_numbers_if_asked() {
    let (stdout, stderr) = ends_with(0, &["ls", sample(), "--fold"]);
    assert!(stdout.contains("encoder.layer.#.attention.probs (6 tensors)"), "{stdout}");
    assert_eq!(stdout.lines().count(), 4, "{stdout}");
    assert!(stderr.contains("14 tensors") && stderr.contains("317 images"), "{stderr}");
    let (stdout, _) = ends_with(0, &["ls", sample(), "--fold", "--json"]);
    let lines: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let probs = lines.as_array().unwrap().iter().find(|line| line["tensors"] == 6).unwrap();
    assert_eq!(probs["images"], 6 * 48);
    // What stands alone keeps its number, and other shapes and types are others.
    let (dir, _) = folder();
    let path = dir.path().join("d.safetensors");
    let (one, two): (&[u64], &[u64]) = (&[2, 2], &[2, 3]);
    dump(
        &path,
        &[
            ("a1", "U8", one, 4),
            ("a22", "U8", two, 6),
            ("b.3", "U8", one, 4),
            ("b.4", "I8", one, 4),
        ],
    );
    let (stdout, _) = ends_with(0, &["ls", path.to_str().unwrap(), "--fold"]);
    assert!(["a1", "a22", "b.3", "b.4"].iter().all(|name| stdout.contains(name)), "{stdout}");
    assert!(!stdout.contains('#'), "{stdout}");
}

#[test]
fn tensors_without_images_are_notes() {
    let (dir, out) = folder();
    let path = dir.path().join("d.safetensors");
    dump(&path, &[("bias", "F32", &[3], 12), ("one", "F32", &[], 4), ("none", "U8", &[0, 5], 0)]);
    let path = path.to_str().unwrap();
    let (_, stderr) = ends_with(0, &["convert", path, "-o", &out, "--device", "cpu"]);
    for part in ["tensor bias skipped: 1-D", "tensor one skipped: 0-D", "tensor none skipped"] {
        assert!(stderr.contains(part), "{stderr}");
    }
    assert!(stderr.contains("no images"), "{stderr}");
    assert!(!Path::new(&out).exists());
    let (_, stderr) = ends_with(0, &["convert", "-q", path, "-o", &out]);
    assert_eq!(stderr, "");

    // Hundreds of biases are one note.
    let path = dir.path().join("many.safetensors");
    let names: Vec<String> = (0..200).map(|i| format!("bias.{i:03}")).collect();
    let one: &[u64] = &[1];
    let many: Vec<_> = names.iter().map(|name| (name.as_str(), "U8", one, 1)).collect();
    dump(&path, &many);
    let path = path.to_str().unwrap();
    let (_, stderr) = ends_with(0, &["convert", path, "-o", &out, "--device", "cpu"]);
    assert!(stderr.contains("200 tensors skipped: 1-D") && stderr.contains("bias.000"), "{stderr}");
    assert_eq!(stderr.lines().count(), 3, "{stderr}");
    let (_, stderr) = ends_with(0, &["convert", "-v", path, "-o", &out, "--device", "cpu"]);
    assert!(stderr.contains("bias.199 skipped"), "{stderr}");
}

#[test]
fn channels_names_and_templates_do_what_they_say() {
    let (dir, out) = folder();
    let take = ["convert", "-q", "--device", "cpu", sample(), "-o", &out];
    ends_with(0, &join(&take, &["-t", "*.0.attention.*", "--channel", "11"]));
    assert_eq!(files(Path::new(&out)).len(), 4);
    assert!(Path::new(&out).join("minilm/encoder.layer.0.attention.probs/3_11.tif").exists());
    let (_, stderr) = ends_with(2, &join(&take, &["--channel", "12", "--overwrite"]));
    assert!(stderr.contains("12 channels, 0 to 11"), "{stderr}");

    let list = dir.path().join("names");
    fs::write(&list, "a\nb/c.tif\nd\n").unwrap();
    let list = list.to_str().unwrap();
    let hidden = ["-t", "encoder.layer.2.hidden", "--names-from", list];
    let (_, stderr) = ends_with(2, &join(&take, &hidden));
    let says = format!("{list}: 3 names for 4 images (first missing: number 4)");
    assert!(stderr.contains(&says), "{stderr}");
    fs::write(list, "a\nb/c.tif\nd\ne").unwrap();
    ends_with(0, &join(&take, &hidden));
    assert!(Path::new(&out).join("b/c.tif").exists() && Path::new(&out).join("e.tif").exists());

    ends_with(0, &join(&take, &["-t", "sentence*", "--name", "x/{tensor}-{stem}.tif"]));
    assert!(Path::new(&out).join("x/sentence_embedding-minilm.tif").exists());
    let (_, stderr) = ends_with(2, &join(&take, &["--name", "{tensr}.tif"]));
    assert!(stderr.contains("{tensr}") && stderr.contains("{tensor}"), "{stderr}");
    let (_, stderr) = ends_with(2, &join(&take, &["--name", "{tensor}.tif"]));
    assert!(stderr.contains("two images would both be written"), "{stderr}");
}

#[test]
fn all_that_is_wrong_with_inputs_is_told_at_once() {
    let (dir, out) = folder();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let [one, two, cut, list] = ["one.npz", "two.npz", "cut", "list"].map(path);
    for unsupported in [&one, &two] {
        unsupported_dump(Path::new(unsupported));
    }
    fs::write(&cut, "short").unwrap();
    let args = ["convert", &one, &cut, sample(), &two, "-o", &out, "--names-from", &list];
    let (_, told) = ends_with(1, &args);
    for part in [
        format!("error: {list}: No such file"),
        format!("error: {cut}: not a valid safetensors file"),
        format!("error: {one}: tensor q: the dtype <f16 is not converted"),
        format!("error: {two}: tensor q: the dtype <f16 is not converted"),
    ] {
        assert!(told.contains(&part), "no {part} in {told}");
    }
    assert_eq!(told.lines().count(), 4, "{told}");
    assert!(!Path::new(&out).exists());
    let (_, told) = ends_with(1, &["convert", &one, &two, "-o", &out]);
    assert_eq!(told.lines().count(), 2, "{told}");
    ends_with(0, &["convert", &one, &two, "-o", &out, "--exclude", "q", "-q"]);
}

/// Names that only some disks tell apart: no template can help.
#[test]
fn names_that_meet_by_case_can_be_given_one_by_one() {
    let (dir, out) = folder();
    let [path, list] = ["d.safetensors", "list"].map(|name| dir.path().join(name));
    dump(&path, &[("A", "U8", &[2, 2], 4), ("a", "U8", &[2, 2], 4)]);
    fs::write(&list, "upper\nlower\n").unwrap();
    let [path, list] = [&path, &list].map(|path| path.to_str().unwrap());
    let (_, told) = ends_with(2, &["convert", path, "-o", &out]);
    assert!(told.contains("--names-from") && told.contains("--exclude"), "{told}");
    ends_with(0, &["convert", path, "-o", &out, "--names-from", list]);
    assert_eq!(files(Path::new(&out)).len(), 2);
}

#[test]
fn wrong_calls_exit_with_2_and_help() {
    let (_dir, out) = folder();
    let calls: [(&[&str], &str); 8] = [
        (&[], "Usage"),
        (&["convert"], "required"),
        (&["convert", sample(), "-o", &out, "--norm", "minmx"], "minmax"),
        (&["convert", sample(), "-o", &out, "--divice", "cpu"], "--device"),
        (&["convert", sample(), "-o", &out, "--device", "cpu,"], "empty device"),
        (&["convert", sample(), "-o", &out, "-j", "0"], "invalid value '0' for '--threads"),
        (&["convert", sample(), "-o", &out, "-t", "hiddn"], "the nearest is"),
        (&["convert", sample(), sample(), "-o", &out], "named twice"),
    ];
    for (args, part) in calls {
        let (_, stderr) = ends_with(2, args);
        assert!(stderr.contains(part), "{args:?}: {stderr}");
    }
    assert!(!Path::new(&out).exists());
    let (stdout, _) = ends_with(0, &["convert", "--help"]);
    for part in ["Examples:", "Exit codes", "{index}", "--names-from"] {
        assert!(stdout.contains(part), "{stdout}");
    }
}

#[test]
fn bad_inputs_are_listed_and_nothing_is_written() {
    let (dir, out) = folder();
    let cut = dir.path().join("cut\u{1b}[2J.safetensors");
    fs::write(&cut, &fs::read(sample()).unwrap()[..100_000]).unwrap();
    let args = ["convert", sample(), cut.to_str().unwrap(), "missing.safetensors", "-o", &out];
    let (_, stderr) = ends_with(1, &args);
    assert_eq!(stderr.lines().count(), 2, "{stderr}");
    assert!(stderr.contains("cut\\u{1b}[2J.safetensors: not a valid safetensors file"), "{stderr}");
    assert!(stderr.contains("missing.safetensors: No such file"), "{stderr}");
    assert!(!Path::new(&out).exists());
}

#[test]
fn hostile_names_stay_inside_and_are_shown_escaped() {
    let (dir, out) = folder();
    let path = dir.path().join("d.safetensors");
    let names = ["../../evil", "/abs", "a\u{1b}[31m", "nul", "..", "x".repeat(300).leak()];
    let shape: &[u64] = &[1, 1];
    let tensors: Vec<_> = names.iter().map(|&name| (name, "U8", shape, 1)).collect();
    dump(&path, &tensors);
    ends_with(0, &["convert", "-q", path.to_str().unwrap(), "-o", &out, "--device", "cpu"]);
    assert_eq!(files(Path::new(&out)).len(), 6);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "the dump and the output");
    let (stdout, _) = ends_with(0, &["ls", path.to_str().unwrap()]);
    assert!(!stdout.contains('\u{1b}'), "{stdout:?}");
}

/// A list is about files; what runs read is counted in samples, a byte each.
#[test]
fn packed_tensors_are_listed_by_what_they_take_in_files() {
    let (dir, out) = folder();
    let path = dir.path().join("d.safetensors");
    dump(&path, &[("a", "F4", &[2, 3, 4], 12), ("b", "F6_E3M2", &[4, 8], 24)]);
    let path = path.to_str().unwrap();
    let (stdout, stderr) = ends_with(0, &["ls", path]);
    assert!(stdout.contains("F4       [2, 3, 4]  2       a"), "{stdout}");
    assert!(stdout.contains("F6_E3M2  [4, 8]     1       b"), "{stdout}");
    assert!(stderr.contains("2 tensors, 36 B, 3 images"), "{stderr}");
    let (stdout, _) = ends_with(0, &["ls", path, "--json"]);
    let list: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&list[0]["bytes"], &list[1]["bytes"]), (&12.into(), &24.into()));
    let take = ["convert", path, "-o", &out, "--device", "cpu"];
    let (stdout, _) = ends_with(0, &join(&take, &["-n", "--json"]));
    let told: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&told["images"], &told["bytes_read"]), (&3.into(), &56.into()), "{told}");
    ends_with(0, &take);
    assert_eq!(files(Path::new(&out)).len(), 3);
}

#[test]
fn tensors_of_unknown_future_types_are_an_error_unless_left_out() {
    let (dir, out) = folder();
    let path = dir.path().join("d.npz");
    unsupported_dump(&path);
    let path = path.to_str().unwrap();
    let (_, stderr) = ends_with(1, &["convert", path, "-o", &out]);
    assert!(stderr.contains("tensor q: the dtype <f16 is not converted"), "{stderr}");
    let (stdout, _) = ends_with(0, &["ls", path]);
    assert!(stdout.contains("<f16   [2, 2]  - (this dtype is not converted)  q"), "{stdout}");
    ends_with(0, &["convert", "-q", path, "-o", &out, "--exclude", "q"]);

    // Asked for by name: that is no slip in the name.
    for pattern in ["q", "q*"] {
        let (stdout, _) = ends_with(0, &["ls", path, "-t", pattern]);
        assert_eq!(stdout.lines().count(), 2, "{stdout}");
        assert!(stdout.contains("<f16   [2, 2]  - (this dtype is not converted)  q"), "{stdout}");
        let (_, stderr) = ends_with(1, &["convert", path, "-o", &out, "-t", pattern, "-t", "a"]);
        assert!(stderr.contains("tensor q: the dtype <f16 is not converted"), "{stderr}");
        let (_, stderr) =
            ends_with(0, &["convert", path, "-o", &out, "-t", pattern, "--exclude", "q"]);
        assert!(stderr.contains("no images"), "{stderr}");
    }
    let (_, stderr) = ends_with(2, &["ls", path, "-t", "qq"]);
    assert!(stderr.contains("matches none of 2 tensors; the nearest is q "), "{stderr}");
    // What leaves nothing out is no error, but told.
    let note = "tensortiff: note: --exclude qq: matches none of 2 tensors; the nearest is q ";
    let convert = ["convert", path, "-o", &out, "--overwrite", "--exclude", "q"];
    for args in [&convert[..], &["ls", path, "--exclude", "a"], &[&convert[..], &["-n"]].concat()] {
        let (_, stderr) = ends_with(0, args);
        assert!(!stderr.contains("none of"), "{stderr}");
        let (_, stderr) = ends_with(0, &[args, &["--exclude", "qq"]].concat());
        assert!(stderr.contains(note), "{stderr}");
        let (_, stderr) = ends_with(0, &[args, &["--exclude", "qq", "-q"]].concat());
        assert!(!stderr.contains("none of"), "{stderr}");
    }
}

/// They are legal in JSON, and so in a name: shown escaped, `%XX` in file names, and as JSON has them
/// in the file, where a bare NUL would end the description.
#[test]
fn control_characters_in_a_name_are_escaped_wherever_they_come() {
    let (dir, out) = folder();
    let path = dir.path().join("d.safetensors");
    let name = "a\0b\u{1b}[31m\u{7f}\u{9b}\n";
    dump(&path, &[(name, "U8", &[1, 2], 2), ("a", "U8", &[1, 2], 2)]);
    let path = path.to_str().unwrap();
    ends_with(0, &["convert", "-q", path, "-o", &out, "--device", "cpu"]);
    let file = Path::new(&out).join("d/a%00b%1B[31m%7F%C2%9B%0A.tif");
    let bytes = fs::read(&file).unwrap_or_else(|e| panic!("{e}: {:?}", files(Path::new(&out))));
    let description = description(&bytes);
    assert!(description.is_ascii() && !description.contains('\0'), "{description:?}");
    let about: serde_json::Value =
        serde_json::from_str(description.split("tensortiff=").nth(1).unwrap()).unwrap();
    assert_eq!(about["tensor"], name);
    let (stdout, _) = ends_with(0, &["ls", path]);
    assert!(stdout.contains("  a\\u{0}b\\u{1b}[31m\\u{7f}\\u{9b}\\n\n"), "{stdout:?}");
    let (stdout, _) = ends_with(0, &["ls", "--json", path]);
    let list: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(list[0]["tensor"], name);
}

/// Tag 270 up to its one NUL.
fn description(file: &[u8]) -> String {
    use tiff::decoder::{Decoder, ifd::Value};
    let mut decoder = Decoder::new(std::io::Cursor::new(file)).unwrap();
    let Value::Ascii(text) = decoder.get_tag(tiff::tags::Tag::ImageDescription).unwrap() else {
        panic!("not text");
    };
    let at = file.windows(text.len()).position(|bytes| bytes == text.as_bytes()).unwrap();
    assert_eq!(file[at + text.len()], 0, "it ends in a NUL");
    text
}

#[test]
fn a_name_of_megabytes_is_cut_in_the_file_and_whole_in_the_list() {
    let (dir, out) = folder();
    let path = dir.path().join("d.safetensors");
    let name = "n".repeat(10 << 20);
    dump(&path, &[(&name, "U8", &[1, 2], 2), ("b", "F4", &[2, 2], 2)]);
    let path = path.to_str().unwrap();
    let take = ["convert", path, "-o", &out, "--device", "cpu"];
    ends_with(0, &join(&take, &["-q", "--exclude", "b"]));
    let written = files(Path::new(&out));
    assert_eq!(written.len(), 1);
    assert!(written[0].file_name().unwrap().len() <= 255);
    let bytes = fs::read(&written[0]).unwrap();
    assert!(bytes.len() < 4096, "a file of {} bytes for two pixels", bytes.len());
    let description = description(&bytes);
    let about: serde_json::Value =
        serde_json::from_str(description.split("tensortiff=").nth(1).unwrap()).unwrap();
    assert_eq!(about["tensor_bytes"], 10 << 20);
    assert!(about["tensor"].as_str().unwrap().starts_with("nnn"));
    let manifest = fs::read_to_string(Path::new(&out).join("manifest.jsonl")).unwrap();
    let line: serde_json::Value = serde_json::from_str(manifest.lines().nth(1).unwrap()).unwrap();
    assert_eq!(
        (&line["tensor"], &line["tensor_bytes"]),
        (&about["tensor"], &about["tensor_bytes"])
    );
    let (stdout, _) = ends_with(0, &["ls", path]);
    assert!(stdout.contains(&name));
    // Whatever is wrong with it, a line about it can be read.
    ends_with(0, &join(&take, &["-q", "--exclude", "b", "--overwrite"]));
    let (_, stderr) = ends_with(1, &join(&take, &["--exclude", "b"]));
    assert!(stderr.contains("exists already") && stderr.len() < 2000, "{}", stderr.len());
}

#[test]
fn an_image_that_no_tiff_holds_names_the_way_round() {
    let (dir, out) = folder();
    for shape in [[1 << 16, 1 << 14], [1 << 32, 1]] {
        let path = dir.path().join("d.safetensors");
        sparse_dump(&path, &shape);
        let path = path.to_str().unwrap();
        let (_, stderr) = ends_with(1, &["convert", path, "-o", &out, "--bigtiff", "no"]);
        assert!(stderr.contains("tensor t") && stderr.contains("--exclude"), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
    assert!(!Path::new(&out).exists());
}

#[test]
fn nonfinite_samples_are_counted_in_the_summary() {
    let (_dir, out) = folder();
    let dump = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/dtypes.safetensors");
    let (_, stderr) =
        ends_with(0, &["convert", dump, "-o", &out, "-t", "F8_E5M2", "--device", "cpu"]);
    assert!(stderr.contains("6 NaN, 1 +Inf, 1 -Inf in 1 image"), "{stderr}");
}

#[test]
#[cfg(unix)]
fn signals_end_the_run_soon_and_leave_whole_files() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let (dir, out) = folder();
        let path = dir.path().join("big.safetensors");
        sparse_dump(&path, &[100_000, 64, 64]);
        let mut child = tool()
            .args(["convert", path.to_str().unwrap(), "-o", &out, "--device", "cpu", "-j", "1"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        until_at_work(&out);
        let sent = Instant::now();
        let kill = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
        assert!(kill.unwrap().success());
        let status = child.wait().unwrap();
        assert!(sent.elapsed() < Duration::from_secs(2), "{:?}", sent.elapsed());
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        assert_eq!(status.code(), Some(code), "{stderr}");
        assert!(stderr.contains("interrupted after"), "{stderr}");
        let written = files(Path::new(&out));
        assert!(!written.is_empty() && written.len() < 100_000);
        for file in written {
            assert!(file.extension().is_some_and(|e| e == "tif"), "{}", file.display());
            assert_eq!(fs::metadata(&file).unwrap().len(), 16_384 + 448, "{}", file.display());
        }
    }
}

/// Whatever it waits for: a write that does not return, or a reader of stderr that does not read.
#[test]
#[cfg(target_os = "linux")]
fn a_signal_ends_a_run_that_hangs_within_two_seconds() {
    use std::os::fd::AsRawFd as _;
    let (dir, out) = folder();
    let path = dir.path().join("d.safetensors");
    tool::dump(&path, &[("t", "U8", &[2000, 8, 8], 2000 * 64)]);
    for (signal, code, full) in [("INT", 130, false), ("TERM", 143, true)] {
        let _ = fs::remove_dir_all(&out);
        let (mut told, mut end) = std::io::pipe().unwrap();
        if full {
            end.write_all(&[b'.'; 64 << 10]).unwrap(); // all that a pipe holds
        }
        // Not of strace, which would wait for a reader, too.
        let stderr = format!("/proc/{}/fd/{}", std::process::id(), end.as_raw_fd());
        let mut child = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=writev"])
            .args(["-e", "inject=writev:delay_enter=5000000:when=100", "sh", "-c"])
            .args([&format!("exec \"$0\" \"$@\" 2>{stderr}"), env!("CARGO_BIN_EXE_tensortiff")])
            .args(["convert", path.to_str().unwrap(), "-o", &out, "--device", "cpu", "-j", "1"])
            .spawn()
            .expect("strace is there; scripts/test installs it");
        until_at_work(&out);
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        let tool = fs::read_to_string(children).unwrap().trim().to_owned();
        // The write that hangs is the only thing left to do.
        std::thread::sleep(Duration::from_millis(500));
        let sent = Instant::now();
        assert!(Command::new("kill").args(["-s", signal, &tool]).status().unwrap().success());
        // strace itself waits until the delay is over.
        let stat = format!("/proc/{tool}/stat");
        let is_alive = || fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
        while is_alive() && sent.elapsed() < Duration::from_secs(9) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let took = sent.elapsed();
        if took >= Duration::from_secs(2) {
            let _ = Command::new("kill").args(["-s", "KILL", &tool]).status();
            panic!("{signal}: {took:?}");
        }
        drop(end);
        let mut stderr = String::new();
        told.read_to_string(&mut stderr).unwrap();
        assert!(took > Duration::from_secs(1), "{signal}: it did not hang ({took:?})");
        assert_eq!(child.wait().unwrap().code(), Some(code), "{signal}");
        assert_eq!(stderr.contains("with --resume"), !full, "{stderr}");
        assert!(files(Path::new(&out)).len() < 2000);
    }
}

#[test]
fn an_input_that_shrinks_ends_the_run_and_what_was_done_stays() {
    let (dir, out) = folder();
    let path = dir.path().join("big.safetensors");
    sparse_dump(&path, &[200_000, 64, 64]);
    let child = tool()
        .args(["convert", path.to_str().unwrap(), "-o", &out, "--device", "cpu", "-j", "1"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until_at_work(&out);
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(100_000).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("input changed") && stderr.contains("tensor t"), "{stderr}");
    assert!(stderr.contains("images, which are whole"), "{stderr}");
    let written = files(Path::new(&out));
    assert!(!written.is_empty(), "one was there before the input shrank");
    assert!(written.iter().all(|f| fs::metadata(f).unwrap().len() == 16_832));
}

/// Its length stays: only that it was written to can be known.
#[test]
fn an_input_that_is_written_to_fails_the_run() {
    use std::os::unix::fs::FileExt as _;
    let (dir, out) = folder();
    let path = dir.path().join("big.safetensors");
    sparse_dump(&path, &[20_000, 64, 64]);
    let args = ["convert", path.to_str().unwrap(), "-o", &out, "--device", "cpu", "-j", "1"];
    let child = tool().args(args).stderr(Stdio::piped()).spawn().unwrap();
    until_at_work(&out);
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0x40; 8], 300_000_000).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("big.safetensors: input changed: it was modified"), "{stderr}");
    assert!(!Path::new(&out).join("manifest.jsonl").exists());
    let (_, stderr) = ends_with(1, &join(&args, &["--resume"]));
    assert!(stderr.contains("was modified since"), "{stderr}");
}

/// The same while its header is read: what is said of it was true of another file.
#[test]
#[cfg(target_os = "linux")]
fn an_input_that_is_written_to_while_its_header_is_read_fails_the_run() {
    use std::os::unix::fs::FileExt as _;
    let (dir, out) = folder();
    let path = dir.path().join("d.safetensors");
    let dump = path.to_str().unwrap();
    sparse_dump(&path, &[20, 64, 64]);
    // Two seconds between the header's length and the header.
    let args = ["convert", dump, "-o", &out, "--device", "cpu", "-j", "1"];
    let mut child = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-P", dump, "-e", "trace=pread64"])
        .args(["-e", "inject=pread64:delay_exit=2000000:when=1"])
        .arg(env!("CARGO_BIN_EXE_tensortiff"))
        .args(args)
        .stderr(Stdio::piped())
        .spawn()
        .expect("strace is there: install it");
    let is_open = |process: fs::DirEntry| {
        let files = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        files.map(|file| fs::read_link(file.path())).any(|file| file.is_ok_and(|to| to == path))
    };
    while !fs::read_dir("/proc").unwrap().flatten().any(is_open) {
        assert!(child.try_wait().unwrap().is_none(), "it was never open");
    }
    std::thread::sleep(Duration::from_millis(200));
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0x40; 8], 200_000).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("d.safetensors: input changed: it was modified"), "{stderr}");
}

/// The Vulkan loader opens the file that names a driver; this one never answers.
#[test]
#[cfg(all(feature = "gpu", target_os = "linux"))]
fn a_driver_that_never_starts_delays_nobody() {
    use std::os::unix::fs::OpenOptionsExt as _;
    const O_NONBLOCK: i32 = 0o4000;
    let (dir, out) = folder();
    let [path, pipe] = ["d.safetensors", "driver.json"].map(|name| dir.path().join(name));
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // Whether the driver was asked before the run was over.
    let is_asked = |device: &str, images: u64| {
        sparse_dump(&path, &[images, 64, 64]);
        drop(fs::remove_dir_all(&out));
        let mut child = tool()
            .args(["convert", path.to_str().unwrap(), "-o", &out, "--device", device, "-j", "1"])
            .env("VK_DRIVER_FILES", &pipe)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let started = Instant::now();
        // Can be opened once the loader reads, which then waits for what never comes.
        let mut driver = None;
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if driver.is_none() {
                driver = fs::File::options().write(true).custom_flags(O_NONBLOCK).open(&pipe).ok();
            }
            if started.elapsed() > Duration::from_secs(100) {
                child.kill().unwrap();
                panic!("--device {device} waits for the driver");
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        assert_eq!(status.code(), Some(0));
        assert_eq!(files(Path::new(&out)).len() as u64, images);
        driver.is_some()
    };
    for device in ["auto", "cpu,gpu"] {
        // With auto the CPU has half a second for itself: how many images that is, depends.
        let asked = [2000, 8000, 32_000, 128_000].iter().any(|&images| is_asked(device, images));
        assert!(asked, "--device {device}: nobody asked the driver");
    }
}

/// Images of one tensor fit this limit on the length of a file, that of the next one does not.
#[test]
#[cfg(target_os = "linux")]
fn a_file_that_cannot_be_written_whole_is_not_there_and_the_run_says_so() {
    let (dir, out) = folder();
    let path = dir.path().join("d.safetensors");
    dump(&path, &[("a", "U8", &[50, 32, 32], 50 << 10), ("b", "U8", &[100, 100], 10_000)]);
    let output = Command::new("prlimit")
        .args(["--fsize=20000", env!("CARGO_BIN_EXE_tensortiff"), "convert"])
        .args([path.to_str().unwrap(), "-o", &out, "--device", "cpu", "-j", "1"])
        .output()
        .unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("b.tif: File too large"), "{stderr}");
    assert!(stderr.contains("stopped after 50 of 51 images, which are whole"), "{stderr}");
    let written = files(Path::new(&out));
    assert_eq!(written.len(), 50, "those that fit, and nothing of the one that does not");
    for file in written {
        assert!(file.parent().unwrap().ends_with("d/a"), "{}", file.display());
        assert_eq!(fs::metadata(&file).unwrap().len(), 4096 + 448, "{}", file.display());
    }
}

/// One odd tensor does not take the list of a whole dump down.
#[test]
fn thousands_of_axes_are_listed_and_long_errors_are_cut() {
    let (dir, out) = folder();
    let path = dir.path().join("axes.safetensors");
    dump(&path, &[("a", "U8", &vec![1; 22_000], 1), ("b", "U8", &[1, 1], 1)]);
    let path = path.to_str().unwrap();
    let (stdout, _) = ends_with(0, &["ls", path]);
    assert_eq!(stdout.lines().count(), 3);
    let (_, stderr) = ends_with(2, &["convert", path, "-o", &out, "--device", "cpu"]);
    assert!(stderr.len() < 2200 && stderr.contains("bytes in all"), "{}", stderr.len());
}

/// A disk that cannot read some bytes: a read over several images is tried again image by image,
/// and only those that cannot be read fail.
#[test]
#[cfg(target_os = "linux")]
fn images_that_cannot_be_read_are_named_and_the_rest_is_there() {
    for (calls, failed, code) in [("5", 0, 0), ("5..9", 4, 3)] {
        let (_dir, out) = folder();
        let output = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-P", sample(), "-e", "trace=pread64"])
            .args(["-e", &format!("inject=pread64:error=EIO:when={calls}")])
            .args([env!("CARGO_BIN_EXE_tensortiff"), "convert", sample()])
            .args(["-o", &out, "--device", "cpu", "-j", "1"])
            .output()
            .expect("strace is there; scripts/test installs it");
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        let errors: Vec<&str> = stderr.lines().filter(|line| line.contains("error:")).collect();
        assert_eq!(errors.len(), failed, "{stderr}");
        for line in &errors {
            assert!(line.contains(".tif: ") && line.contains("Input/output error"), "{line}");
        }
        assert_eq!(files(Path::new(&out)).len(), 317 - failed);
        // They are recorded, and made by a run that goes on.
        let (manifest, _) = ends_with(0, &["manifest", &out]);
        let named = manifest.lines().filter(|line| {
            line.contains("\"error\":\"its samples cannot be read: Input/output error")
        });
        assert_eq!(named.count(), failed);
        assert!(manifest.lines().next().unwrap().contains(&format!("\"failed\":{failed},")));
        let (_, told) = ends_with(0, &["convert", sample(), "-o", &out, "--resume"]);
        let expected = if failed > 0 { "4 images, " } else { "nothing to do" };
        assert!(told.starts_with(expected), "{told}");
        let (manifest, _) = ends_with(0, &["manifest", &out]);
        assert!(!manifest.contains("\"error\""));
        assert_eq!(files(Path::new(&out)).len(), 317);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn the_first_image_that_fails_may_end_the_run() {
    let (_dir, out) = folder();
    let output = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-P", sample(), "-e", "trace=pread64"])
        .args(["-e", "inject=pread64:error=EIO:when=5..9"])
        .args([env!("CARGO_BIN_EXE_tensortiff"), "convert", sample(), "--fail-fast"])
        .args(["-o", &out, "--device", "cpu", "-j", "1"])
        .output()
        .expect("strace is there; scripts/test installs it");
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("Input/output error (os error 5); stopped after "), "{stderr}");
    let made = files(Path::new(&out)).len();
    assert!(made > 0 && made < 313, "{made}");
    let (_, told) = ends_with(0, &["convert", sample(), "-o", &out, "--resume"]);
    assert!(told.contains(&format!("; {made} were there already")), "{told}");
}

/// A name may hold what stands for a number.
#[test]
fn what_is_folded_is_told_from_what_is_called_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.safetensors");
    let of = |name| (name, "U8", &[1_u64, 1][..], 1);
    dump(&path, &[of("l.0.a"), of("l.#.a"), of("l.12.a"), of("l.#.b")]);
    let (out, _) = ends_with(0, &["ls", "--fold", path.to_str().unwrap()]);
    let names: Vec<&str> =
        out.lines().skip(1).map(|line| line.rsplit("  ").next().unwrap()).collect();
    assert_eq!(names, ["l.#.a (2 tensors)", "l.#.a", "l.#.b"], "{out}");
}

/// That it is complex says what helps.
#[test]
fn a_list_says_what_makes_numbers_of_complex_ones() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.safetensors");
    dump(&path, &[("c", "C64", &[1, 1], 8)]);
    let (out, _) = ends_with(0, &["ls", path.to_str().unwrap()]);
    assert!(out.contains("this dtype is not converted without --complex"), "{out}");
}

/// What torch wrote is taken by what it is, and of other files of that name it is told.
#[test]
fn folders_hold_torchs_files_of_any_name() {
    let dir = tempfile::tempdir().unwrap();
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/torch/state_dict.pt");
    std::fs::copy(golden, dir.path().join("model.bin")).unwrap();
    std::fs::write(dir.path().join("raw.bin"), [0; 64]).unwrap();
    let folder = dir.path().to_str().unwrap();
    let (out, said) = ends_with(0, &["ls", folder]);
    assert!(out.lines().count() > 1, "{out}");
    let left_out =
        "raw.bin: left out, as no file of torch.save with tensors (it does not begin as files of";
    assert!(said.contains(left_out) && said.contains("--raw"), "{said}");
    // What a training run leaves beside its tensors.
    let class = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/torch/obj.pt");
    std::fs::copy(class, dir.path().join("args.bin")).unwrap();
    let (_, said) = ends_with(0, &["ls", folder]);
    assert!(said.contains("args.bin and 1 more file: left out, as no file"), "{said}");
    assert!(said.contains("it wants Python to load"), "{said}");
    let (_, said) = ends_with(0, &["ls", "-q", folder]);
    assert_eq!(said, "");
    let legacy = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/torch/legacy.pt");
    std::fs::copy(legacy, dir.path().join("old.bin")).unwrap();
    let (_, said) = ends_with(1, &["ls", folder]);
    assert!(
        said.contains("old.bin: this torch file is not read: it is of torch.save's old"),
        "{said}"
    );
}
