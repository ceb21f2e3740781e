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

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use tool::{ends_with, everything, text};

type Tree = BTreeMap<PathBuf, Vec<u8>>;

fn tree(root: &Path) -> Tree {
    let read =
        |path: PathBuf| (path.strip_prefix(root).unwrap().to_owned(), fs::read(&path).unwrap());
    if root.is_dir() { everything(root).into_iter().map(read).collect() } else { Tree::new() }
}

/// Calls that open, make, fill, name, look at and remove files, by all the names that they have.
const CALLS: [&str; 24] = [
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

/// Tries every occurrence of every call, with `more` options, from what `before` leaves.
fn sweep(more: &[&str], before: &dyn Fn(&str)) {
    let dir =
        tempfile::tempdir_in(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" });
    let dir = dir.unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (dump, out, whole_at, log) =
        (path("d.safetensors"), path("out"), path("whole"), path("log"));
    // Three small images, and one that comes in steps.
    let large = 1 << 21;
    tool::dump(
        Path::new(&dump),
        &[
            ("a", "U8", &[3, 8, 8], 192),
            ("b", "F16", &[1, 1024, 1024], large),
            ("c", "U8", &[1025, 1025], 1025 * 1025),
        ],
    );
    let args = [&["convert", &dump, "-o", &out, "--device", "cpu", "-j", "1", "-q"], more].concat();
    ends_with(0, &["convert", &dump, "-o", &whole_at, "--device", "cpu", "-j", "1", "-q"]);
    let whole = tree(Path::new(&whole_at));
    let all = std::env::var_os("TENSORTIFF_LONG").is_some();
    let (mut tried, mut failed) = (0, 0);
    for call in CALLS {
        let reset = || {
            drop(fs::remove_dir_all(&out));
            before(&out);
        };
        reset();
        let times = occurrences(call, &args, Path::new(&log));
        for when in 1..=times {
            let some = [ERRORS[when % ERRORS.len()]];
            for error in if all { &ERRORS[..] } else { &some[..] } {
                reset();
                let begun = tree(Path::new(&out));
                let started = Instant::now();
                let output = injected(call, error, when, &args);
                let what = format!("{error} at {call} number {when} of {times}, {more:?}");
                let told = text(&output.stderr);
                let code = output.status.code();
                // Before `main` the loader speaks.
                let loader = told.contains("error while loading") || code == Some(127);
                assert!(matches!(code, Some(0 | 1 | 3)) || loader, "{what}: {code:?} {told}");
                assert!(started.elapsed() < Duration::from_secs(20), "{what} took too long");
                assert!(!told.contains("panicked"), "{what}: {told}");
                if code == Some(0) {
                    assert!(tree(Path::new(&out)) == whole, "{what}: done, but it is not");
                } else if !loader {
                    failed += 1;
                    let is_error = |line: &str| line.starts_with("tensortiff: error: ");
                    assert!(!told.is_empty() && told.lines().all(is_error), "{what}: {told}");
                    let place = dir.path().to_str().unwrap();
                    assert!(
                        told.lines().all(|line| line.contains(place) || line.contains("d/")),
                        "{what}: {told}"
                    );
                }
                for (name, bytes) in tree(Path::new(&out)) {
                    let is_image = name.extension().is_some_and(|e| e == "tif");
                    let right = || whole[&name] == bytes || begun.get(&name) == Some(&bytes);
                    assert!(
                        !is_image || right(),
                        "{what}: {} is not whole: {told}",
                        name.display()
                    );
                }
                let goes_on = [&args[..9], &["--resume"][..]].concat();
                let goes_on: Vec<&str> = goes_on;
                let output = tool::run(&goes_on);
                let told = text(&output.stderr);
                if output.status.code() == Some(1) && told.contains("exists already") {
                    // It had not begun: what is there is what was there before.
                    assert!(tree(Path::new(&out)) == begun, "{what}: {told}");
                } else {
                    assert_eq!(output.status.code(), Some(0), "{what}, then --resume: {told}");
                    let found = tree(Path::new(&out));
                    let names = || found.keys().collect::<Vec<_>>();
                    assert!(found == whole, "{what}, then --resume: {:?} {told}", names());
                }
                tried += 1;
            }
        }
    }
    println!("{tried} calls failed, {failed} of the runs with them: {more:?}");
    assert!(tried > 60 && failed > 30, "{tried} tried, {failed} failed");
}

#[test]
fn every_call_of_a_new_run_may_fail_once() {
    sweep(&[], &|_| {});
}

#[test]
fn every_call_of_a_run_that_replaces_files_may_fail_once() {
    sweep(&["--overwrite", "--fsync", "end"], &|out| {
        for name in ["d/a/0.tif", "d/b/0.tif", "d/c.tif"] {
            let path = Path::new(out).join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "before").unwrap();
        }
    });
}
