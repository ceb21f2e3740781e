//! `tensortiff bench`: what it measures adds up, and it leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "a test that panics says where")]
#![cfg(feature = "cli")]

#[path = "common/tool.rs"]
mod tool;

use std::fs;
use std::path::Path;
#[cfg(unix)]
use std::process::{Command, Stdio};

use serde_json::Value;
use tool::{dump, ends_with, files, join, sample};

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}

/// The JSON of a run into a folder that is empty again afterwards.
fn bench(args: &[&str]) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap();
    let rounds: &[&str] = if args.contains(&"--rounds") { &[] } else { &["--rounds", "1"] };
    let all = [&["bench", "--json", "-q", "-o", folder], rounds, args].concat();
    let (out, err) = ends_with(0, &all);
    assert_eq!(err, "", "quiet means quiet");
    assert!(is_empty(dir.path()), "something was left behind");
    serde_json::from_str(&out).unwrap()
}

fn median(speed: &Value) -> f64 {
    let number = |what: &str| speed[what].as_f64().unwrap();
    let [least, median, greatest] = ["least", "median", "greatest"].map(number);
    assert!(0.0 < least && least <= median && median <= greatest, "{speed}");
    median
}

/// A speed on a set of data: its time, and its shares of the machine's own speeds.
fn of_set(results: &Value, set: &Value, speed: &Value) -> f64 {
    let number = |value: &Value| value.as_f64().unwrap();
    let middle = median(speed);
    let bytes = number(&set["bytes"]);
    let is = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-9;
    assert!(is(middle, bytes / 1e9 / number(&speed["seconds"])), "{speed} of {bytes} bytes");
    for one in ["memory_copy_one", "memory_copy_all"] {
        let share = number(&speed[format!("of_{one}")]);
        assert!(is(share, middle / median(&results[one])), "{one}: {speed}");
    }
    let of_files = number(&speed["of_file_copy"]);
    assert!(is(of_files, middle / median(&set["file_copy"])), "{speed}");
    middle
}

/// What holds of every device, on any machine.
fn check_device(results: &Value, set: &Value, device: &Value) {
    let [nothing, files] =
        ["to_nothing", "to_files"].map(|what| of_set(results, set, &device[what]));
    // GB/s: neither bytes a second nor some other unit, even on a slow machine.
    for speed in [nothing, files] {
        assert!((1e-4..1e4).contains(&speed), "{device}");
    }
    let stages = ["read", "compute", "write"].map(|what| device[what].as_f64().unwrap());
    // A part of the work is faster than the whole.
    assert!(stages.iter().all(|&speed| speed > 0.9 * files), "{device}");
    // Time adds up: what no stage took was spent waiting.
    let working = stages.iter().map(|speed| files / speed).sum::<f64>();
    let wait = device["wait"].as_f64().unwrap();
    assert!((0.0..1.0).contains(&wait), "{device}");
    assert!((working + wait - 1.0).abs() < 1e-3, "{working} {device}");
}

#[test]
fn made_data_are_measured_on_each_device() {
    let results = bench(&["--quick", "--device", "cpu", "-j", "2"]);
    assert_eq!(results["threads"], 2);
    for what in ["memory_copy_one", "memory_copy_all"] {
        assert!((0.01..1e4).contains(&median(&results[what])), "{what}: {results}");
    }
    let sets = results["sets"].as_array().unwrap();
    let names: Vec<&str> = sets.iter().map(|set| set["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 4, "{names:?}");
    assert_eq!((&sets[0]["images"], &sets[0]["bytes"]), (&16.into(), &(16 << 20).into()));
    for set in sets {
        ["read", "file_copy"]
            .iter()
            .for_each(|what| assert!(of_set(&results, set, &set[what]) > 0.0));
        let devices = set["devices"].as_array().unwrap();
        assert_eq!(devices.len(), 1);
        assert_eq!(devices[0]["name"], "cpu");
        check_device(&results, set, &devices[0]);
    }
}

#[test]
#[cfg(feature = "gpu")]
fn dumps_are_measured_on_each_device_and_all_together() {
    let args = [sample(), "-t", "*attention*", "--device", "cpu,llvmpipe"];
    let results = bench(&args);
    let sets = results["sets"].as_array().unwrap();
    assert_eq!(sets.len(), 1);
    let (out, _) = ends_with(0, &["ls", "--json", sample(), "-t", "*attention*"]);
    let tensors: Vec<Value> = serde_json::from_str(&out).unwrap();
    let sum = |what: &str| tensors.iter().map(|t| t[what].as_u64().unwrap()).sum::<u64>();
    assert!(sum("images") > 0);
    assert_eq!(
        (&sets[0]["images"], &sets[0]["bytes"]),
        (&sum("images").into(), &sum("bytes").into())
    );
    let devices = sets[0]["devices"].as_array().unwrap();
    let names: Vec<&str> = devices.iter().map(|d| d["name"].as_str().unwrap()).collect();
    assert!(matches!(names[..], ["cpu", gpu, "together"] if gpu.contains("llvmpipe")), "{names:?}");
    devices.iter().for_each(|device| check_device(&results, &sets[0], device));

    let adapters = results["adapters"].as_array().unwrap();
    assert_eq!(adapters.len(), 1);
    assert_eq!(adapters[0]["name"], devices[1]["name"]);
    for what in ["memory_copy", "up", "down"] {
        assert!((0.01..1e5).contains(&adapters[0][what].as_f64().unwrap()), "{adapters:?}");
    }
    let kernels = sets[0]["kernels"].as_array().unwrap();
    assert!(!kernels.is_empty());
    for kernel in kernels {
        assert!(kernel["dispatches"].as_u64().unwrap() > 0, "{kernel}");
        assert!(kernel["speed"].as_f64().unwrap() > 0.0, "{kernel}");
    }
}

/// Two of these images are one read, and each one's pixels are more than a read.
#[test]
fn narrow_samples_whose_pixels_are_many_are_measured() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("u8.safetensors");
    tool::dump(&path, &[("t", "U8", &[5, 300, 300], 450_000)]);
    let results = bench(&[path.to_str().unwrap(), "--device", "cpu"]);
    assert_eq!(results["sets"][0]["images"], 5);
    let set = &results["sets"][0];
    check_device(&results, set, &set["devices"][0]);
}

#[test]
fn the_table_says_what_auto_uses() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap();
    let (out, err) = ends_with(0, &["bench", sample(), "--rounds", "1", "-o", folder]);
    for part in ["memory copy: ", "  plain copies\n    reading  ", "    file copy  ", "  auto"] {
        assert!(out.contains(part), "{part}: {out}");
    }
    for part in ["    to nothing  ", "    to files  ", "      compute  ", "      wait  "] {
        assert_eq!(out.matches(part).count(), out.matches("    to files  ").count(), "{out}");
    }
    assert!(out.matches("    to files  ").count() >= 2, "{out}");
    assert!(out.lines().all(|line| line.chars().count() <= 100 || line.contains("not used: ")));
    assert!(out.contains("\n--device auto uses: cpu"), "{out}");
    #[cfg(feature = "gpu")]
    assert!(out.contains("software: used only when named"), "{out}");
    assert!(out.contains("pay"), "{out}");
    assert!(err.contains("round 1 of 1"), "{err}");
    assert!(is_empty(dir.path()));
}

#[test]
fn wrong_calls_say_what_is_wrong_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap();
    let missing = format!("{folder}/missing");
    let card = if cfg!(feature = "gpu") { "no such card" } else { "without GPU support" };
    let cases: [(i32, &[&str], &str); 6] = [
        (1, &["/no/such.safetensors"], "/no/such.safetensors"),
        (1, &["--quick", "--device", "no such card"], card),
        (2, &[sample(), "-t", "nothing like it"], "nothing like it"),
        (2, &["--quick", "--rounds", "0"], "--rounds"),
        (2, &["--quick", sample()], "--quick"),
        (2, &["--quick", "--channel", "1"], "a selection is of a DUMP"),
    ];
    for (code, args, part) in cases {
        let (_, err) = ends_with(code, &[&["bench", "-o", folder], args].concat());
        let err =
            err.lines().filter(|line| !line.contains(": round ")).collect::<Vec<_>>().join("\n");
        assert!(err.contains(part), "{args:?}: {err}");
        assert!(is_empty(dir.path()), "{args:?}");
    }
    let (_, err) = ends_with(1, &["bench", "--quick", "--device", "cpu", "-o", &missing]);
    assert!(err.contains("missing: ") && err.lines().count() == 1, "{err}");
    // A file, and a folder where nobody may make another.
    let file = format!("{folder}/file");
    fs::write(&file, "").unwrap();
    for unwritable in [file.as_str(), "/proc"] {
        let (_, err) = ends_with(1, &["bench", "--quick", "--device", "cpu", "-o", unwritable]);
        assert!(err.contains(&format!("{unwritable}: ")) && err.lines().count() == 1, "{err}");
    }
}

/// The copies beside it deal with whatever it converts: types that grow as they become pixels, images
/// of one sample and images larger than a step, planes that do not lie side by side.
#[test]
fn every_type_and_size_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    let sizes = [("U8", 1), ("F16", 2), ("BF16", 2), ("I32", 4), ("F32", 4), ("F64", 8)];
    let shapes: [&[u64]; 5] =
        [&[20, 300, 300], &[9, 2, 64, 64], &[3, 700, 900], &[1, 1], &[5, 361, 726]];
    for (dtype, size) in sizes {
        let path = dir.path().join(format!("{dtype}.safetensors"));
        let names: Vec<String> = (0..shapes.len()).map(|k| format!("t{k}")).collect();
        let tensors: Vec<_> = names
            .iter()
            .zip(shapes)
            .map(|(name, shape)| {
                let elements = usize::try_from(shape.iter().product::<u64>()).unwrap();
                (name.as_str(), dtype, shape, elements * size)
            })
            .collect();
        dump(&path, &tensors);
        let path = path.to_str().unwrap();
        for more in [&[][..], &["--channel", "1"]] {
            let results = bench(&join(&[path, "--device", "cpu"], more));
            let set = &results["sets"][0];
            check_sizes(&results, set, more.is_empty(), size as u64);
        }
    }
}

fn check_sizes(results: &Value, set: &Value, all: bool, size: u64) {
    let images = if all { 20 + 9 * 2 + 3 + 1 + 5 } else { 1 + 9 + 1 + 1 };
    assert_eq!(set["images"], images, "{set}");
    let samples: u64 = if all {
        20 * 300 * 300 + 18 * 64 * 64 + 3 * 700 * 900 + 1 + 5 * 361 * 726
    } else {
        300 * 300 + 9 * 64 * 64 + 700 * 900 + 361 * 726
    };
    assert_eq!(set["bytes"], samples * size, "{set}");
    assert!(of_set(results, set, &set["file_copy"]) > 0.0);
}

/// A device that cannot do the samples is no reason not to measure the others.
#[test]
#[cfg(feature = "gpu")]
fn a_device_that_does_not_take_the_samples_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wide.safetensors");
    dump(&path, &[("t", "F64", &[8, 64, 64], 8 * 8 * 64 * 64)]);
    let path = path.to_str().unwrap();
    let results = bench(&[path, "--device", "cpu,llvmpipe"]);
    let set = &results["sets"][0];
    let names: Vec<&str> =
        set["devices"].as_array().unwrap().iter().map(|d| d["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["cpu", "together"]);
    let left_out = set["not_measured"].as_array().unwrap();
    assert_eq!(left_out.len(), 1, "{left_out:?}");
    assert!(left_out[0]["name"].as_str().unwrap().contains("llvmpipe"), "{left_out:?}");
    assert!(left_out[0]["why"].as_str().unwrap().contains("F64"), "{left_out:?}");
    // Where nobody is left, it is the error that `convert` gives.
    let folder = dir.path().to_str().unwrap();
    let (_, err) = ends_with(1, &["bench", "-q", path, "--device", "llvmpipe", "-o", folder]);
    assert!(err.contains("add cpu to --device"), "{err}");
}

/// What is named to be measured does not change what `auto` would do.
#[test]
#[cfg(feature = "gpu")]
fn what_auto_uses_does_not_depend_on_what_is_measured() {
    let results = bench(&[sample(), "--device", "llvmpipe"]);
    let found = results["found"].as_array().unwrap();
    let software = found
        .iter()
        .find(|adapter| adapter["name"].as_str().unwrap().contains("llvmpipe"))
        .unwrap();
    assert_eq!((&software["auto"], &software["passed"]), (&false.into(), &true.into()));
    assert_eq!(software["kind"], "software");
    let hardware = found.iter().filter(|adapter| adapter["auto"] == true);
    let auto: Vec<&Value> = results["auto"].as_array().unwrap().iter().collect();
    assert_eq!(auto[0], "cpu");
    assert!(auto[1..].iter().copied().eq(hardware.map(|adapter| &adapter["name"])), "{auto:?}");
    // Nobody who asks for the CPU alone waits for drivers.
    let results = bench(&[sample(), "--device", "cpu"]);
    assert_eq!((&results["found"], &results["auto"]), (&Value::Null, &Value::Null));
}

#[test]
#[cfg(feature = "gpu")]
fn whether_a_gpu_pays_is_told_beside_the_numbers() {
    let twice = bench(&["--quick", "--device", "cpu,llvmpipe", "--rounds", "2"]);
    let often = bench(&[sample(), "--device", "cpu,llvmpipe", "--rounds", "5"]);
    for results in [twice, often] {
        check_whether_it_pays(&results);
    }
}

#[cfg(feature = "gpu")]
fn check_whether_it_pays(results: &Value) {
    for set in results["sets"].as_array().unwrap() {
        let of = |name: &str| {
            let all = set["devices"].as_array().unwrap();
            all.iter().find(|device| device["name"] == name).unwrap()["to_files"].clone()
        };
        let [cpu, both] = ["cpu", "together"].map(of);
        let pays = &set["gpu_pays"];
        let ratio = median(&both) / median(&cpu);
        assert!((pays["times_cpu"].as_f64().unwrap() / ratio - 1.0).abs() < 1e-9, "{pays}");
        let above = |a: &Value, b: &Value| a["least"].as_f64() > b["greatest"].as_f64();
        let verdict = match (above(&both, &cpu), above(&cpu, &both)) {
            _ if results["rounds"] == 2 => "unclear",
            (true, _) => "yes",
            (_, true) => "no",
            _ => "unclear",
        };
        assert_eq!(pays["verdict"], verdict, "{set}");
        // Who did what adds up.
        for device in set["devices"].as_array().unwrap() {
            let shares = device["shares"].as_array().unwrap();
            let sum: f64 = shares.iter().map(|one| one["share"].as_f64().unwrap()).sum();
            assert!((sum - 1.0).abs() < 1e-9, "{device}");
        }
    }
}

/// `auto` in the table is what `convert` does by default.
#[test]
fn auto_is_measured_as_it_runs() {
    let results = bench(&["--quick"]);
    for set in results["sets"].as_array().unwrap() {
        let names: Vec<&Value> =
            set["devices"].as_array().unwrap().iter().map(|device| &device["name"]).collect();
        assert_eq!((names[0], names[names.len() - 1]), (&"cpu".into(), &"auto".into()), "{set}");
    }
}

/// Journal and manifest cost time, and `convert` writes them by default.
#[test]
#[cfg(target_os = "linux")]
fn runs_into_files_are_recorded_as_by_convert() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("out");
    fs::create_dir(&folder).unwrap();
    let log = dir.path().join("log");
    let status = Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=rename,renameat,renameat2", "-o"])
        .arg(&log)
        .args([env!("CARGO_BIN_EXE_tensortiff"), "bench", "-q", "--device", "cpu", "--rounds", "2"])
        .args([sample(), "-o", folder.to_str().unwrap()])
        .stdout(Stdio::null())
        .status();
    assert!(status.unwrap().success());
    let log = fs::read_to_string(log).unwrap();
    assert_eq!(log.matches("/manifest.jsonl\"").count(), 2, "{log}");
}

/// A share of a copy by all threads is of those that copied.
#[test]
fn memory_is_measured_by_no_more_threads_than_cores() {
    let cores = std::thread::available_parallelism().unwrap().get();
    for asked in [1, 300] {
        let results = bench(&[sample(), "--device", "cpu", "-j", &asked.to_string()]);
        let told = ["threads", "memory_copy_threads"].map(|what| &results[what]);
        assert_eq!(told, [&Value::from(asked), &cores.min(asked).into()]);
    }
}

/// Buffers to measure memory with are there for each core, not for each thread that is wished.
#[test]
#[cfg(target_os = "linux")]
fn many_threads_fit_memory() {
    let dir = tempfile::tempdir().unwrap();
    let tool = env!("CARGO_BIN_EXE_tensortiff");
    let line = format!(
        "ulimit -v 6000000; exec {tool} bench {} -q --device cpu --rounds 1 -j 300 -o {}",
        sample(),
        dir.path().display()
    );
    let output = Command::new("sh").args(["-c", &line]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(is_empty(dir.path()), "something was left behind");
}

/// Whenever it comes: while adapters open, memory is measured, data are made or files written; and
/// also if it comes twice.
#[test]
#[cfg(unix)]
fn an_interrupted_one_takes_its_folder_away() {
    let device = if cfg!(feature = "gpu") { "cpu,llvmpipe" } else { "cpu" };
    for (milliseconds, signals, number) in [
        (0, 1, 15),
        (0, 2, 15),
        (50, 1, 15),
        (200, 1, 15),
        (700, 1, 15),
        (1500, 2, 15),
        (2500, 1, 15),
        (700, 1, 1), // as when a terminal goes
    ]
    .into_iter()
    .filter(|(.., number)| *number != 1 || cfg!(target_os = "linux"))
    {
        let dir = tempfile::tempdir().unwrap();
        // Who runs the tests may have had the signal ignored (`nohup`), which children inherit.
        let mut command = match number {
            1 => {
                let mut command = Command::new("env");
                command.args(["--default-signal=HUP", env!("CARGO_BIN_EXE_tensortiff")]);
                command
            }
            _ => Command::new(env!("CARGO_BIN_EXE_tensortiff")),
        };
        let child = command
            .args(["bench", "--rounds", "1000", "--device", device, "-o"])
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        while is_empty(dir.path()) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        for _ in 0..signals {
            let [signal, process] = [format!("-{number}"), child.id().to_string()];
            assert!(Command::new("kill").args([signal, process]).status().unwrap().success());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let what = format!("{signals} signals after {milliseconds} ms");
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(128 + number), "{what}");
        // No image is whole: none is left.
        let err = tool::text(&output.stderr);
        assert!(!err.contains("whole"), "{what}: {err}");
        // The second ends it without a word.
        assert!(signals > 1 || err.contains("interrupted"), "{what}: {err}");
        assert!(is_empty(dir.path()), "{what}: something was left behind");
    }
}

/// Only what it made is taken away again.
#[test]
fn what_was_there_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, file) = (dir.path().join("tensortiff-bench-1"), dir.path().join("files-0-0"));
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("mine"), "mine").unwrap();
    fs::write(&file, "mine").unwrap();
    let path = dir.path().to_str().unwrap();
    ends_with(0, &["bench", "-q", sample(), "--device", "cpu", "--rounds", "1", "-o", path]);
    ends_with(2, &["bench", "-q", sample(), "-t", "none", "--device", "cpu", "-o", path]);
    assert_eq!(files(dir.path()), [file, folder.join("mine")]);
}
