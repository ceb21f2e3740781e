//! Every call to the system that the tool makes for its files fails once, by every way in which it
//! can; then the run is continued. Whatever fails: no panic, no hang, no file that is not whole, an
//! error of one line that names what it is about, and in the end the folder as it should be.
//!
//! `TENSORTIFF_LONG=1` tries every error at every call instead of one.

#![cfg(all(target_os = "linux", feature = "cli"))]
#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data is small, and a test that panics says where"
)]

#[path = "common/tool.rs"]
mod tool;
#[path = "common/trees.rs"]
mod trees;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use tool::{ends_with, text};
use trees::{Tree, folder};

/// What there is below a folder, if there is one.
fn tree(root: &str) -> Tree {
    if Path::new(root).is_dir() { trees::tree(root) } else { Tree::new() }
}

/// Calls that open, make, fill, name, look at and remove files, by all the names that they have.
const CALLS: [&str; 26] = [
    "openat",
    "?open",
    "read",
    "pread64",
    "write",
    "pwrite64",
    "writev",
    "ftruncate",
    "linkat",
    "renameat",
    "?renameat2",
    "?rename",
    "unlinkat",
    "?unlink",
    "mkdirat",
    "?mkdir",
    "statx",
    "newfstatat",
    "fstat",
    "statfs",
    "fstatfs",
    "getdents64",
    "flock",
    "fsync",
    "fdatasync",
    "syncfs",
];
const ERRORS: [&str; 4] = ["EIO", "ENOSPC", "EMFILE", "EDQUOT"];

/// The tool under strace, in which occurrence `when` of a call fails.
fn injected(call: &str, error: &str, when: usize, args: &[&str]) -> Output {
    let calls = call.to_owned();
    Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={calls}")])
        .args(["-e", &format!("inject={calls}:error={error}:when={when}")])
        .arg(env!("CARGO_BIN_EXE_tensortiff"))
        .args(args)
        .env_remove("VK_DRIVER_FILES")
        .output()
        .expect("strace is there: install it")
}

/// How often the tool makes a call.
fn occurrences(call: &str, args: &[&str], log: &Path) -> usize {
    let traced = Command::new("strace")
        .args(["-f", "-qq", "-o", log.to_str().unwrap(), "-e", &format!("trace={call}")])
        .arg(env!("CARGO_BIN_EXE_tensortiff"))
        .args(args)
        .env_remove("VK_DRIVER_FILES")
        .output()
        .expect("strace is there: install it");
    assert!(traced.status.success(), "{}", text(&traced.stderr));
    let is_call = |line: &&str| line.contains('(') && !line.contains("resumed>");
    fs::read_to_string(log).unwrap().lines().filter(is_call).count()
}

/// A dump, what one run makes of it, and a plan of two shards.
struct Job {
    dir: tempfile::TempDir,
    dump: String,
    plan: String,
    out: String,
    /// What `-o` is given: that folder, or a tar in it.
    target: String,
    /// How the dump is read, and its images normalized.
    how: &'static [&'static str],
    whole: Tree,
}

impl Job {
    fn new() -> Job {
        // Three small images, one that comes in steps, one more.
        let large = 1 << 21;
        Job::of("d.safetensors", &[], |dump| {
            tool::dump(
                dump,
                &[
                    ("a", "U8", &[3, 8, 8], 192),
                    ("b", "F16", &[1, 1024, 1024], large),
                    ("c", "U8", &[1025, 1025], 1025 * 1025),
                ],
            );
        })
    }

    /// Of a dump of that name.
    fn of(name: &str, how: &'static [&'static str], write: impl FnOnce(&Path)) -> Job {
        Job::to("", name, how, write)
    }

    /// The same; the run goes to a tar of that name, if it has one.
    fn to(tar: &str, name: &str, how: &'static [&'static str], write: impl FnOnce(&Path)) -> Job {
        let dir = folder();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let (dump, plan, out, whole) = (path(name), path("plan.jsonl"), path("out"), path("whole"));
        write(Path::new(&dump));
        let [target, whole_at] = [&out, &whole].map(|folder| match tar {
            "" => folder.clone(),
            tar => format!("{folder}/{tar}"),
        });
        let convert = ["convert", &dump, "-o", &whole_at, "--device", "cpu", "-j", "1", "-q"];
        ends_with(0, &tool::join(&convert, how));
        // Stacks and tars have no shards.
        let has_none = how.contains(&"--stack") || !tar.is_empty();
        let of_plan = if has_none { &[] } else { how };
        ends_with(0, &tool::join(&["plan", &dump, "-o", &plan, "--shards", "2", "-q"], of_plan));
        let whole = tree(&whole);
        Job { dir, dump, plan, out, target, how, whole }
    }

    /// A run of the dump or the plan.
    fn convert<'a>(&'a self, of: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let how = if of == self.dump { self.how } else { &[] };
        [&["convert", of, "-o", &self.target, "--device", "cpu", "-j", "1", "-q"], how, more]
            .concat()
    }

    fn merge(&self) -> Vec<&str> {
        vec!["merge", &self.plan, &self.out, "-q"]
    }

    /// Tries every occurrence of every call of `args`, from what `before` leaves. Where that ends
    /// with 0 `is_done` must be true; the commands `after` it must lead to what one run makes.
    fn sweep(
        &self,
        args: &[&str],
        before: &dyn Fn(),
        is_done: &dyn Fn(&Tree) -> bool,
        after: &[Vec<&str>],
    ) {
        let log = self.dir.path().join("log");
        let reset = || {
            drop(fs::remove_dir_all(&self.out));
            before();
        };
        let all = std::env::var_os("TENSORTIFF_LONG").is_some();
        let (mut tried, mut failed) = (0, 0);
        for call in CALLS {
            reset();
            let times = occurrences(call, args, &log);
            for when in 1..=times {
                let some = [ERRORS[when % ERRORS.len()]];
                for error in if all { &ERRORS[..] } else { &some[..] } {
                    reset();
                    let begun = tree(&self.out);
                    let what = format!("{error} at {call} number {when} of {times}, {args:?}");
                    let started = Instant::now();
                    let output = injected(call, error, when, args);
                    assert!(started.elapsed() < Duration::from_secs(20), "{what} took too long");
                    failed += usize::from(self.check(&output, &what, &begun, is_done));
                    self.go_on(after, &what, &begun);
                    tried += 1;
                }
            }
        }
        println!("{tried} calls failed, {failed} of the runs with them: {args:?}");
        assert!(tried > 60 && failed > 15, "{tried} tried, {failed} failed");
    }

    /// What holds after any failure. Whether the run failed.
    fn check(
        &self,
        output: &Output,
        what: &str,
        begun: &Tree,
        is_done: &dyn Fn(&Tree) -> bool,
    ) -> bool {
        let (told, code) = (text(&output.stderr), output.status.code());
        // Before `main` the loader speaks.
        let loader = told.contains("error while loading") || code == Some(127);
        assert!(matches!(code, Some(0 | 1 | 3 | 75)) || loader, "{what}: {code:?} {told}");
        assert!(!told.contains("panicked"), "{what}: {told}");
        let found = tree(&self.out);
        for (name, bytes) in &found {
            let is_image = name.extension().is_some_and(|e| e == "tif" || e == "tar");
            let right = self.whole.get(name) == Some(bytes) || begun.get(name) == Some(bytes);
            assert!(!is_image || right, "{what}: {} is not whole: {told}", name.display());
        }
        let is_left = found.keys().any(|name| name.to_string_lossy().ends_with(".manifest.tmp"));
        assert!(
            !is_left || what.contains("unlink"),
            "{what}: a part of a manifest is left: {told}"
        );
        let dump = Path::new(&self.dump).file_name().unwrap().to_str().unwrap();
        assert_eq!(self.beside(), [dump, "plan.jsonl", "whole"], "{what}: {told}");
        if code == Some(0) {
            assert!(is_done(&found), "{what}: done, but it is not");
        } else if !loader {
            let is_error = |line: &str| line.starts_with("tensortiff: error: ");
            assert!(!told.is_empty() && told.lines().all(is_error), "{what}: {told}");
            let place = self.dir.path().to_str().unwrap();
            let names = ["d/", "t.tar", "t-00000"];
            let names =
                |line: &str| names.iter().any(|name| line.contains(name)) || line.contains(place);
            assert!(told.lines().all(names), "{what}: {told}");
            return true;
        }
        false
    }

    /// What there is beside the output folder.
    fn beside(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name != "out" && name != "log").collect();
        names.sort();
        names
    }

    /// What makes it good, whatever it was.
    fn go_on(&self, after: &[Vec<&str>], what: &str, begun: &Tree) {
        for args in after {
            let output = tool::run(args);
            let told = text(&output.stderr);
            if output.status.code() == Some(1) && told.contains("exists already") {
                // It had not begun: what is there is what was there before.
                assert!(tree(&self.out) == *begun, "{what}: {told}");
                return;
            }
            assert_eq!(output.status.code(), Some(0), "{what}, then {args:?}: {told}");
        }
        trees::same(&tree(&self.out), &self.whole, what);
    }
}

#[test]
fn every_call_of_a_new_run_may_fail_once() {
    let job = Job::new();
    let after = [job.convert(&job.dump, &["--resume"])];
    let is_done = |found: &Tree| *found == job.whole;
    let args = job.convert(&job.dump, &["--fsync", "file"]);
    job.sweep(&args, &|| {}, &is_done, &after);
}

#[test]
fn every_call_of_a_run_that_replaces_files_may_fail_once() {
    let job = Job::new();
    let before = || {
        for name in ["d/a/0.tif", "d/b/0.tif", "d/c.tif"] {
            let path = Path::new(&job.out).join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "before").unwrap();
        }
    };
    let after = [job.convert(&job.dump, &["--resume"])];
    let is_done = |found: &Tree| *found == job.whole;
    let args = job.convert(&job.dump, &["--overwrite", "--fsync", "end"]);
    job.sweep(&args, &before, &is_done, &after);
}

/// What is read in another way: unpacked, with a pass for ranges before; turned, by images that are read
/// together.
#[test]
fn every_call_of_a_run_that_reads_otherwise_may_fail_once() {
    let packed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/numpy/packed.npz");
    let copied = |dump: &Path| assert!(fs::copy(&packed, dump).unwrap() > 0);
    let raw = |dump: &Path| {
        let bytes: Vec<u8> = (0..2_u32 * 40 * 50 * 3).map(|k| (k * k % 251) as u8).collect();
        fs::write(dump, bytes).unwrap();
    };
    let packed_how: &[&str] = &["--npy-v2", "bf16", "--scope", "tensor", "--norm", "percentile"];
    let turned: &[&str] = &["--raw", "u8:2x40x50x3", "--layout", "NHWC", "--scope", "channel"];
    let jobs = [Job::of("d.npz", packed_how, copied), Job::of("d.bin", turned, raw)];
    for job in jobs {
        let after = [job.convert(&job.dump, &["--resume"])];
        let is_done = |found: &Tree| *found == job.whole;
        job.sweep(&job.convert(&job.dump, &[]), &|| {}, &is_done, &after);
    }
}

/// What is packed, whole and strip by strip.
#[test]
fn every_call_of_a_run_that_packs_may_fail_once() {
    let how = &["--compress", "deflate:1", "--predictor", "auto"];
    let job = Job::of("d.safetensors", how, |dump| {
        let tensors: [(&str, &str, &[u64], usize); 2] =
            [("a", "U8", &[2, 8, 8], 128), ("c", "U8", &[1025, 1025], 1025 * 1025)];
        tool::dump(dump, &tensors);
    });
    let after = [job.convert(&job.dump, &["--resume"])];
    let is_done = |found: &Tree| *found == job.whole;
    job.sweep(&job.convert(&job.dump, &[]), &|| {}, &is_done, &after);
}

/// Pages of one file, whole and step by step: what fails leaves none of it, and it is made from the begin.
#[test]
fn every_call_of_a_run_of_stacks_may_fail_once() {
    let job = Job::of("d.safetensors", &["--stack", "tensor", "--hash"], |dump| {
        let tensors: [(&str, &str, &[u64], usize); 2] =
            [("a", "U8", &[2, 8, 8], 128), ("c", "U8", &[1, 1025, 1025], 1025 * 1025)];
        tool::dump(dump, &tensors);
    });
    let after = [job.convert(&job.dump, &["--overwrite"])];
    let is_done = |found: &Tree| *found == job.whole;
    job.sweep(&job.convert(&job.dump, &["--fsync", "file"]), &|| {}, &is_done, &after);
}

/// Members of two numbered tars: what fails leaves none of its tar, and those that are there are not made
/// again.
#[test]
fn every_call_of_a_run_of_tars_may_fail_once() {
    let job = Job::to("t.tar", "d.safetensors", &["--tar-size", "4M", "--hash"], |dump| {
        let tensors: [(&str, &str, &[u64], usize); 2] =
            [("a", "U8", &[2, 8, 8], 128), ("c", "U8", &[1, 1025, 1025], 1025 * 1025)];
        tool::dump(dump, &tensors);
    });
    assert_eq!(job.whole.len(), 3);
    let after = [job.convert(&job.dump, &["--resume=hash"])];
    let is_done = |found: &Tree| *found == job.whole;
    job.sweep(&job.convert(&job.dump, &["--fsync", "file"]), &|| {}, &is_done, &after);
}

#[test]
fn every_call_of_a_shard_and_of_a_merge_may_fail_once() {
    let job = Job::new();
    let shard = |number| job.convert(&job.plan, &["--shard", number]);
    let (first, second) = (shard("0/2"), shard("1/2"));
    ends_with(0, &first);
    let images = |found: &Tree| {
        found.keys().filter(|name| name.extension().is_some_and(|e| e == "tif")).count()
    };
    let of_first = images(&tree(&job.out));
    assert!(of_first > 0 && of_first + 1 < job.whole.len());
    let is_made = |found: &Tree| images(found) == of_first;
    job.sweep(&first, &|| {}, &is_made, &[first.clone(), second.clone(), job.merge()]);
    let before = || {
        ends_with(0, &second);
        ends_with(0, &first);
    };
    let is_merged = |found: &Tree| *found == job.whole;
    job.sweep(&job.merge(), &before, &is_merged, &[job.merge()]);
}
