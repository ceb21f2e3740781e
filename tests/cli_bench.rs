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
use tool::{ends_with, sample};

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}

/// The JSON of a run into a folder that is empty again afterwards.
fn bench(args: &[&str]) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap();
    let all = [&["bench", "--json", "-q", "--rounds", "1", "-o", folder], args].concat();
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

/// What holds of every device, on any machine.
fn check_device(device: &Value) {
    let [nothing, files] = ["to_nothing", "to_files"].map(|what| median(&device[what]));
    // GB/s: neither bytes a second nor some other unit, even on a slow machine.
    for speed in [nothing, files] {
        assert!((1e-4..1e4).contains(&speed), "{device}");
    }
    let stages = ["read", "compute", "write"].map(|what| device[what].as_f64().unwrap());
    // A part of the work is faster than the whole.
    assert!(stages.iter().all(|&speed| speed > 0.9 * files), "{device}");
    // Time adds up: what no stage took was spent waiting.
    let working = stages.iter().map(|speed| files / speed).sum::<f64>();
    assert!(working < 1.2 * 4.0, "{device}");
    let wait = device["wait"].as_f64().unwrap();
    assert!((0.0..1.0).contains(&wait), "{device}");
}

#[test]
fn made_data_are_measured_on_each_device() {
    let results = bench(&["--quick", "--device", "cpu", "-j", "2"]);
    assert_eq!(results["threads"], 2);
    for what in ["memory_copy_one", "memory_copy_all"] {
        assert!((0.01..1e4).contains(&results[what].as_f64().unwrap()), "{what}: {results}");
    }
    let sets = results["sets"].as_array().unwrap();
    let names: Vec<&str> = sets.iter().map(|set| set["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 4, "{names:?}");
    assert_eq!((&sets[0]["images"], &sets[0]["bytes"]), (&16.into(), &(16 << 20).into()));
    for set in sets {
        assert!(median(&set["read"]) > 0.0 && median(&set["file_copy"]) > 0.0);
        let devices = set["devices"].as_array().unwrap();
        assert_eq!(devices.len(), 1);
        assert_eq!(devices[0]["name"], "cpu");
        check_device(&devices[0]);
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
    devices.iter().for_each(check_device);

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
    check_device(&results["sets"][0]["devices"][0]);
}

#[test]
fn the_table_says_what_auto_uses() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap();
    let (out, err) = ends_with(0, &["bench", sample(), "--rounds", "1", "-o", folder]);
    assert!(out.contains("memory copy: ") && out.contains("of file copy"), "{out}");
    assert!(out.contains("\n--device auto uses: cpu"), "{out}");
    assert!(err.contains("round 1 of 1"), "{err}");
    assert!(is_empty(dir.path()));
}

#[test]
fn wrong_calls_say_what_is_wrong_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap();
    let missing = format!("{folder}/missing");
    let cases: [(i32, &[&str], &str); 5] = [
        (1, &["/no/such.safetensors"], "/no/such.safetensors"),
        (1, &["--quick", "--device", "no such card"], "no such card"),
        (2, &[sample(), "-t", "nothing like it"], "nothing like it"),
        (2, &["--quick", "--rounds", "0"], "--rounds"),
        (2, &["--quick", sample()], "--quick"),
    ];
    for (code, args, part) in cases {
        let (_, err) = ends_with(code, &[&["bench", "-o", folder], args].concat());
        let err =
            err.lines().filter(|line| !line.contains(": round ")).collect::<Vec<_>>().join("\n");
        assert!(err.contains(part), "{args:?}: {err}");
        assert!(is_empty(dir.path()), "{args:?}");
    }
    let (_, err) = ends_with(1, &["bench", "--quick", "--device", "cpu", "-o", &missing]);
    let errors: Vec<&str> = err.lines().filter(|line| line.contains("error")).collect();
    assert!(matches!(errors[..], [one] if one.contains("missing")), "{err}");
}

#[test]
#[cfg(unix)]
fn an_interrupted_one_takes_its_folder_away() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_tensortiff"))
        .args(["bench", "--rounds", "1000", "--device", "cpu", "-o"])
        .arg(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while is_empty(dir.path()) {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    std::thread::sleep(std::time::Duration::from_millis(700));
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(is_empty(dir.path()), "something was left behind");
}
