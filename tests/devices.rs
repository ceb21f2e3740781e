//! Adapters as a run finds, opens and refuses them, on software Vulkan.
#![cfg(feature = "gpu")]
#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

#[path = "support/software.rs"]
mod software;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use software::llvmpipe;
use tensortiff::backend::gpu::hooks::Hooks;
use tensortiff::{
    Device, Devices, Dtype, Dump, Error, MemorySink, MemorySource, NullSink, Options, Report,
    Source, TensorInfo, Watch, convert,
};

fn samples() -> MemorySource<'static> {
    let samples = (0..50 * 40 * 30_u32).map(|i| u8::try_from(i % 251).unwrap()).collect::<Vec<_>>();
    MemorySource::new("m").with("t", Dtype::U8, &[50, 40, 30], samples).unwrap()
}

fn on(devices: Devices) -> Options {
    Options { devices, ..Options::default() }
}

fn done_by(report: &Report) -> Vec<(&str, u64)> {
    report.devices.iter().map(|device| (&*device.name, device.images)).collect()
}

#[test]
fn an_adapter_is_meant_by_its_index() {
    let adapter = llvmpipe();
    let devices = adapter.info.index.to_string().parse().unwrap();
    let report = convert(&samples(), &NullSink, &on(devices)).unwrap();
    assert_eq!(done_by(&report), [(&*adapter.info.name, 50)]);
    assert_eq!(report.notes, Vec::<String>::new());
}

#[test]
#[cfg(feature = "cli")]
fn the_command_line_means_an_adapter_by_its_index() {
    let adapter = llvmpipe();
    let dir = tempfile::tempdir().unwrap();
    let dump = concat!(env!("CARGO_MANIFEST_DIR"), "/data/minilm.safetensors");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_tensortiff"))
        .args(["convert", dump, "--device", &adapter.info.index.to_string(), "-o"])
        .arg(dir.path().join("out"))
        .output()
        .unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{told}");
    let summary = told.lines().last().unwrap();
    println!("{summary}");
    assert!(summary.contains("317 images") && summary.contains(&adapter.info.name), "{told}");
    assert!(!summary.contains("cpu"), "{told}");
}

/// The estimates of its quotients are far off.
const BROKEN: Hooks = Hooks { spoil: 5000, ..Hooks::NONE };

fn hooked(hooks: &'static Hooks) -> Device {
    Device::Hooked("llvmpipe".to_owned(), hooks)
}

/// A source that can be read once something has happened.
struct Once<'a>(MemorySource<'static>, &'a (dyn Fn() -> bool + Sync));

impl Source for Once<'_> {
    fn dumps(&self) -> &[Dump] {
        self.0.dumps()
    }

    fn tensors(&self) -> &[TensorInfo] {
        self.0.tensors()
    }

    fn read_at(&self, tensor: usize, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let started = Instant::now();
        while !self.1() {
            assert!(started.elapsed() < Duration::from_secs(10), "it did not happen");
            thread::sleep(Duration::from_millis(2));
        }
        self.0.read_at(tensor, offset, buf)
    }
}

/// Whether a note was told.
#[derive(Default)]
struct Noted(AtomicBool);

impl Watch for Noted {
    fn planned(&self, _: u64, _: u64) {}

    fn advanced(&self, _: u64, _: u64) {}

    fn note(&self, _: &str) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_proof_that_fails_is_a_note_and_the_cpu_does_the_work() {
    let expected = MemorySink::default();
    let of_cpu = convert(&samples(), &expected, &on("cpu".parse().unwrap())).unwrap();
    assert_eq!(of_cpu.notes, Vec::<String>::new());
    let (sink, noted) = (MemorySink::default(), Arc::new(Noted::default()));
    let devices = Devices::List(vec![Device::Cpu, hooked(&BROKEN)]);
    let options = Options { watch: Some(noted.clone()), ..on(devices) };
    let source = || noted.0.load(Ordering::Relaxed);
    let report = convert(&Once(samples(), &source), &sink, &options).unwrap();
    assert_eq!(done_by(&report), [("cpu", 50)]);
    let [note] = &report.notes[..] else { panic!("{:?}", report.notes) };
    assert!(note.contains("llvmpipe") && note.contains("failed its proof"), "{note}");
    assert!(note.ends_with("it is not used; the CPU does the work"), "{note}");
    assert!(!report.gpu_not_needed);
    assert!(sink.into_files() == expected.into_files());
}

#[test]
fn without_the_cpu_a_proof_that_fails_is_an_error_before_any_work() {
    let sink = MemorySink::default();
    let error = convert(&samples(), &sink, &on(Devices::List(vec![hooked(&BROKEN)]))).unwrap_err();
    let told = error.to_string();
    assert!(matches!(error, Error::Device(_)) && told.contains("failed its proof"), "{told}");
    assert!(told.contains("--device auto"), "{told}");
    assert!(sink.into_files().is_empty());
}

static HANGS: AtomicBool = AtomicBool::new(false);
static GOES_ON: AtomicBool = AtomicBool::new(false);
/// Longer than anybody may wait.
const HANG: Duration = Duration::from_secs(12);

/// A driver that hangs while it compiles, and then fails.
const HANGING: Hooks = Hooks {
    rewrite: |_, _| {
        let started = Instant::now();
        HANGS.store(true, Ordering::Relaxed);
        while !GOES_ON.load(Ordering::Relaxed) && started.elapsed() < HANG {
            thread::sleep(Duration::from_millis(5));
        }
        Some("no kernel".to_owned())
    },
    ..Hooks::NONE
};

/// A run that is done waits 2 s for it, because a process must not end under a driver that starts;
/// one that ends in another way does not wait.
#[test]
fn a_run_that_is_done_waits_two_seconds_for_an_adapter_that_hangs() {
    for leave_starting in [false, true] {
        HANGS.store(false, Ordering::Relaxed);
        GOES_ON.store(false, Ordering::Relaxed);
        let devices = Devices::List(vec![Device::Cpu, hooked(&HANGING)]);
        let options = Options { leave_starting, ..on(devices) };
        let done = Mutex::new(Instant::now());
        let source = || {
            *done.lock().unwrap() = Instant::now();
            HANGS.load(Ordering::Relaxed)
        };
        let report = convert(&Once(samples(), &source), &NullSink, &options).unwrap();
        let waited = done.into_inner().unwrap().elapsed();
        GOES_ON.store(true, Ordering::Relaxed);
        println!("{waited:?}");
        let [least, most] = if leave_starting { [0, 1500] } else { [1900, 5000] };
        let bounds = Duration::from_millis(least)..Duration::from_millis(most);
        assert!(bounds.contains(&waited), "{waited:?}, leave_starting: {leave_starting}");
        assert_eq!(done_by(&report), [("cpu", 50)]);
        assert!(report.gpu_not_needed);
        let [note] = &report.notes[..] else { panic!("{:?}", report.notes) };
        assert!(note.contains("had done the work before llvmpipe"), "{note}");
        // Its thread ends before the process does.
        thread::sleep(Duration::from_millis(700));
    }
}
