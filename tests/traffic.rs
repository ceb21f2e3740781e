//! What a run asks of the system, counted by strace: every byte of a dump is read as often as it must
//! be, every byte of a file written once, and a tiny image costs a handful of calls. Where time is too
//! coarse to show a second look at everything, this is not.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

#[path = "common/tool.rs"]
mod tool;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tool::{ends_with, everything, files, traced_calls};

/// Bytes of everything that is read or written beside samples and pixels: the header, which is looked
/// at when a dump is opened, and its first bytes.
const SLACK: u64 = 4096;

struct Traced {
    dir: tempfile::TempDir,
    dump: PathBuf,
    log: PathBuf,
}

impl Traced {
    fn new(tensors: &[(&str, &str, &[u64], usize)]) -> Traced {
        let dir = tempfile::tempdir().unwrap();
        let [dump, log] = ["d.safetensors", "log"].map(|name| dir.path().join(name));
        tool::dump(&dump, tensors);
        Traced { dir, dump, log }
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    /// The log of a conversion into a fresh folder.
    fn convert(&self, strace: &[&str], options: &[&str]) -> String {
        let _ = fs::remove_dir_all(self.out());
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o"]).arg(&self.log).args(strace);
        command.arg(env!("CARGO_BIN_EXE_tensortiff")).arg("convert").arg(&self.dump);
        command.arg("-o").arg(self.out()).arg("-q").args(options);
        if !options.contains(&"-j") {
            command.args(["-j", "2"]);
        }
        let status = command.status().expect("strace is there; scripts/test installs it");
        assert!(status.success(), "{options:?}");
        fs::read_to_string(&self.log).unwrap()
    }

    /// Bytes of the dump that a conversion reads.
    fn read(&self, options: &[&str]) -> u64 {
        let calls = "trace=read,pread64,readv,preadv,preadv2,sendfile,splice,copy_file_range,mmap";
        let log = self.convert(&["-e", calls, "-P", self.dump.to_str().unwrap()], options);
        assert!(!log.contains("mmap("), "{log}");
        answers(&log)
    }
}

/// The sum of what the calls of a log answered, of which none failed. A call that another thread cut
/// in two answers in its second line.
fn answers(log: &str) -> u64 {
    let answer = |line: &str| {
        let (_, after) = line.rsplit_once(" = ")?;
        Some(after.split(' ').next().unwrap().parse::<u64>().unwrap())
    };
    log.lines().filter_map(answer).sum()
}

/// One image of each kind: many to a read, one to a read, and one that is larger than a buffer.
const TENSORS: [(&str, &str, &[u64], usize); 3] = [
    ("tiny", "F32", &[500, 16, 16], 500 * 1024),
    ("medium", "BF16", &[6, 300, 400], 6 * 300 * 400 * 2),
    ("large", "U8", &[1, 1500, 1000], 1500 * 1000),
];

#[test]
#[cfg(target_os = "linux")]
fn samples_are_read_as_often_as_they_must_be() {
    let traced = Traced::new(&TENSORS);
    let header = fs::metadata(&traced.dump).unwrap().len();
    let [tiny, medium, large] = TENSORS.map(|(.., bytes)| bytes as u64);
    let samples = tiny + medium + large;
    assert!(header > samples && header < samples + SLACK);
    let cpu = ["--device", "cpu"];
    for (options, needed) in [
        // An image of which memory holds no more than a step is looked at first.
        (&[][..], samples + large),
        (&["--norm", "none"], samples),
        (&["--norm", "fixed", "--range", "0,1"], samples),
        (&["--norm", "symmetric"], samples + large),
        (&["--scope", "tensor"], 2 * samples),
        (&["--scope", "dump"], 2 * samples),
        (&["--channel", "0", "--tensor", "medium"], medium / 6),
        (&["--tensor", "tiny"], tiny),
    ] {
        let read = traced.read(&tool::join(&cpu, options));
        assert!((needed..needed + SLACK).contains(&read), "{options:?}: {read}, not {needed}");
    }
}

#[test]
#[cfg(all(target_os = "linux", feature = "gpu"))]
fn a_gpu_is_fed_by_reading_once() {
    let traced = Traced::new(&TENSORS[..2]);
    let samples: u64 = TENSORS[..2].iter().map(|(.., bytes)| *bytes as u64).sum();
    let read = traced.read(&["--device", "llvmpipe", "--verify-sample", "0"]);
    assert!((samples..samples + SLACK).contains(&read), "{read}, not {samples}");
}

/// And nothing else is: what is kept about a run is a small part of it.
#[test]
#[cfg(target_os = "linux")]
fn files_are_written_once() {
    let traced = Traced::new(&TENSORS);
    let trace = "trace=write,pwrite64,writev,pwritev,pwritev2,sendfile,splice,copy_file_range";
    let log = traced.convert(&["-e", trace], &["--device", "cpu"]);
    let length = |path: &PathBuf| fs::metadata(path).unwrap().len();
    let images: u64 = files(&traced.out()).iter().map(length).sum();
    let manifest = length(&traced.out().join("manifest.jsonl"));
    let written = answers(&log);
    // The journal, which is gone or small: a line an image.
    let journal = 507 * 128;
    let most = images + manifest + journal + SLACK;
    assert!((images + manifest..=most).contains(&written), "{written} of {images} + {manifest}");
}

/// Calls for each image more of these sides, by a run of a few and one of more.
fn calls_an_image(side: u64, images: [u64; 2], threads: &str) -> BTreeMap<String, f64> {
    let [few, many] = images.map(|images| {
        let bytes = usize::try_from(images * side * side * 4).unwrap();
        let traced = Traced::new(&[("t", "F32", &[images, side, side], bytes)]);
        let log = traced.convert(&[], &["--device", "cpu", "-j", threads]);
        assert_eq!(files(&traced.out()).len() as u64, images);
        let mut calls = BTreeMap::new();
        // How threads wait for each other is not the images', and a debug build of the standard
        // library looks at each descriptor before it closes it.
        let others = ["futex", "fcntl"];
        for call in traced_calls(&log).into_iter().filter(|call| !others.contains(&call.as_str())) {
            *calls.entry(call).or_insert(0_i64) += 1;
        }
        calls
    });
    let more = (images[1] - images[0]) as f64;
    let each = |(call, times): (String, i64)| {
        let before = few.get(&call).copied().unwrap_or(0);
        (call, (times - before) as f64 / more)
    };
    many.into_iter().map(each).filter(|(_, times)| *times > 0.05).collect()
}

#[test]
#[cfg(target_os = "linux")]
fn a_tiny_image_costs_a_handful_of_calls() {
    let calls = calls_an_image(28, [1000, 3000], "2");
    assert!(calls.keys().eq(["close", "linkat", "openat", "writev"]), "{calls:?}");
    assert!(calls.values().all(|times| (0.9..1.1).contains(times)), "{calls:?}");
}

/// It is read a quarter of a megabyte at a time and written at once. Its entry in the journal is a write of its
/// own where threads take turns.
#[test]
#[cfg(target_os = "linux")]
fn a_larger_image_costs_its_reads_and_a_handful_of_calls() {
    for threads in ["1", "2"] {
        let mut calls = calls_an_image(512, [20, 60], threads);
        calls.retain(|call, times| match call.as_str() {
            "pread64" => !(3.9..4.2).contains(times),
            "close" | "linkat" | "openat" | "writev" => !(0.9..1.1).contains(times),
            // The few may have had theirs put together: at most one each of the more, by the difference.
            "pwrite64" => *times > 1.5,
            // How much memory is taken and given back depends on who is first.
            "mmap" | "munmap" | "brk" | "madvise" | "mremap" => *times > 0.5,
            _ => true,
        });
        assert!(calls.is_empty(), "-j {threads}: {calls:?}");
    }
}

/// A dump that is not converted is not read: its header says what is asked.
#[test]
#[cfg(target_os = "linux")]
fn to_list_and_to_preview_reads_headers_alone() {
    let traced = Traced::new(&TENSORS);
    let dump = traced.dump.to_str().unwrap();
    for args in [&["ls", dump][..], &["convert", dump, "-n", "-o", "x", "--device", "cpu"]] {
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-P", dump, "-e", "trace=read,pread64,mmap", "-o"]);
        command.arg(&traced.log).arg(env!("CARGO_BIN_EXE_tensortiff")).args(args);
        assert!(command.output().unwrap().status.success());
        let log = fs::read_to_string(&traced.log).unwrap();
        assert!((9..SLACK).contains(&answers(&log)), "{args:?}: {log}");
    }
    assert!(!Path::new("x").exists());
    ends_with(0, &["ls", dump]);
    assert_eq!(everything(traced.dir.path()).len(), 2);
}
