//! Promises about time and memory that hold on any machine: how soon the first file is there, and
//! how much memory a run takes. (`benches/floor` measures speed.)

#![allow(clippy::unwrap_used, reason = "a test that panics says where")]
#![cfg(all(feature = "cli", target_os = "linux"))]

use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tensortiff::{DumpFiles, Error, NullSink, Options, Pending, Sink, Source as _};

/// A dump of one f32 tensor whose samples are zeros that take no room on disk.
fn sparse_dump(path: &Path, shape: [u64; 3]) {
    let bytes = 4 * shape.iter().product::<u64>();
    let header =
        format!("{{\"t\":{{\"dtype\":\"F32\",\"shape\":{shape:?},\"data_offsets\":[0,{bytes}]}}}}");
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    // One sample that is not zero in each image, so that they are normalized.
    for image in 0..shape[0] {
        let start = 8 + header.len() as u64 + image * shape[1] * shape[2] * 4;
        file.seek(SeekFrom::Start(start)).unwrap();
        file.write_all(&1_f32.to_le_bytes()).unwrap();
    }
    file.set_len(8 + header.len() as u64 + bytes).unwrap();
}

fn convert(dump: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tensortiff"));
    command.arg("convert").arg(dump).arg("-o").arg(out).args(more);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    command
}

fn ends_well(mut child: Child) {
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Time from the start of the process until its first image is there.
fn first_file(dump: &Path, out: &Path, driver: Option<&Path>) -> Duration {
    let image = out.join("d/t/000.tif");
    let mut command = convert(dump, out, &[]);
    if let Some(driver) = driver {
        command.env("VK_DRIVER_FILES", driver);
    }
    let started = Instant::now();
    let child = command.spawn().unwrap();
    while !image.exists() {
        assert!(started.elapsed() < Duration::from_secs(20), "no image within 20 s");
    }
    let elapsed = started.elapsed();
    ends_well(child);
    elapsed
}

#[test]
fn the_first_file_is_there_within_20_ms_whatever_the_driver_does() {
    let dir = tempfile::tempdir().unwrap();
    let dump = dir.path().join("d.safetensors");
    sparse_dump(&dump, [200, 64, 64]);
    // A driver that never answers: the loader opens the file that names it, and waits.
    let driver = dir.path().join("driver.json");
    assert!(Command::new("mkfifo").arg(&driver).status().unwrap().success());
    for driver in [None, Some(&*driver)] {
        // Others may have the processor: one try in time is enough.
        let mut least = Duration::MAX;
        for k in 0..60 {
            let out = dir.path().join(format!("{}-{k}", driver.is_some()));
            least = least.min(first_file(&dump, &out, driver));
            if least < Duration::from_millis(20) {
                break;
            }
        }
        assert!(least < Duration::from_millis(20), "{least:?} with driver {driver:?}");
    }
}

/// The most memory that was resident, in bytes, as far as looks at it every millisecond tell.
fn most_memory(mut child: Child) -> u64 {
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        most = most.max(1024 * kib.unwrap_or(0));
        std::thread::sleep(Duration::from_millis(1));
    }
    ends_well(child);
    assert!(most > 0, "the process was never seen");
    most
}

#[test]
fn memory_stays_below_64_mib_and_two_images_a_core() {
    let dir = tempfile::tempdir().unwrap();
    let dump = dir.path().join("d.safetensors");
    for (name, shape) in [("many", [50, 1024, 1024]), ("tiny", [30_000, 16, 16])] {
        sparse_dump(&dump, shape);
        let out = dir.path().join(name);
        let child = convert(&dump, &out, &["-j", "2", "--device", "cpu"]).spawn().unwrap();
        let most = most_memory(child);
        let allowed = (64 << 20) + 2 * 2 * 4 * shape[1] * shape[2];
        assert!(most <= allowed, "{name}: {most} bytes were resident, {allowed} are allowed");
        fs::remove_dir_all(out).unwrap();
    }
}

/// By what is resident, and with a limit from outside on all that is mapped: stacks and what the
/// allocator keeps for each thread count there as well.
#[test]
fn memory_stays_below_what_is_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let dump = dir.path().join("d.safetensors");
    let shapes: [(&str, [u64; 3]); 4] = [
        ("large", [2, 3000, 3000]),
        ("medium", [40, 1000, 1000]),
        ("tiny", [60_000, 12, 12]),
        ("giant", [1, 6000, 4000]),
    ];
    for (name, shape) in shapes {
        sparse_dump(&dump, shape);
        let (size, bytes) = ("32M", 32 << 20);
        for threads in ["1", "64"] {
            let out = dir.path().join(name);
            let more = ["-j", threads, "--device", "cpu", "--max-memory", size];
            let most = most_memory(convert(&dump, &out, &more).spawn().unwrap());
            assert!(most <= bytes, "{name}, {threads} threads: {most} of {size} were resident");
            fs::remove_dir_all(&out).unwrap();
        }
    }
    let out = dir.path().join("limited");
    let status = Command::new("prlimit")
        .args(["--as=600000000", env!("CARGO_BIN_EXE_tensortiff"), "convert"])
        .arg(&dump)
        .arg("-o")
        .arg(&out)
        .args(["-q", "-j", "4", "--device", "cpu", "--max-memory", "64M"])
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(0));
    let few = convert(&dump, &out, &["--max-memory", "16M"]).status().unwrap();
    assert_eq!(few.code(), Some(2));
}

/// Ten million images, or a place that takes its time for each: a child process, so that what is
/// resident is its own.
const WHAT: &str = "TENSORTIFF_CEILINGS_CHILD";

/// Takes images slowly, and keeps none.
struct Slow(AtomicU64);

impl Sink for Slow {
    fn prepare(&self, _: &mut dyn Iterator<Item = String>) -> Result<(), Error> {
        Ok(())
    }

    fn put(&self, _: &str, _: &[u8], _: &[u8]) -> Result<(), Error> {
        self.0.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_micros(500));
        Ok(())
    }

    fn begin(&self, name: &str, _: u64) -> Result<Box<dyn Pending + '_>, Error> {
        panic!("{name} comes whole")
    }
}

#[test]
#[ignore = "the other tests run it in a child process"]
fn the_child() {
    let what = std::env::var(WHAT).unwrap();
    let (what, dump) = what.split_once(' ').unwrap();
    let source = DumpFiles::open(&[dump]).unwrap();
    let options = Options {
        devices: "cpu".parse().unwrap(),
        threads: NonZeroUsize::new(2),
        max_memory: Some(32 << 20),
        ..Options::default()
    };
    let images = source.tensors()[0].shape[0];
    let report = match what {
        "many" => tensortiff::convert(&source, &NullSink, &options),
        _ => tensortiff::convert(&source, &Slow(AtomicU64::new(0)), &options),
    };
    assert_eq!(report.unwrap().images, images);
}

#[test]
fn memory_grows_neither_with_images_nor_with_a_slow_disk() {
    let dir = tempfile::tempdir().unwrap();
    let dump = dir.path().join("d.safetensors");
    for (what, shape) in [("many", [10_000_000, 1, 1]), ("slow", [3000, 128, 128])] {
        let bytes = shape.iter().product::<u64>();
        let header = format!(
            "{{\"t\":{{\"dtype\":\"U8\",\"shape\":{shape:?},\"data_offsets\":[0,{bytes}]}}}}"
        );
        fs::write(&dump, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat())
            .unwrap();
        let file = fs::OpenOptions::new().write(true).open(&dump).unwrap();
        file.set_len(8 + header.len() as u64 + bytes).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["the_child", "--exact", "--ignored", "--quiet"])
            .env(WHAT, format!("{what} {}", dump.display()))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let most = most_memory(child);
        assert!(most <= 32 << 20, "{what}: {most} bytes were resident");
    }
}
