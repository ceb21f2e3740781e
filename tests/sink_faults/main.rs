//! What the sink does when the system fails: every call once, full disks, limits, `kill -9`.
//!
//! The work is done by a child, which is this test binary again, so that it can be traced, limited
//! and killed. Root is not needed, but user namespaces or root are where something is mounted; what
//! is missing makes a test fail with what to install or allow.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "clippy.toml allows it in functions marked as tests only")]

mod jobs;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use support::{FILES, content, entries, plant, tree};
use tensortiff::{FilesSink, Sink};

/// The images of the job `images`: in the root, in folders, one of which is in a known one, in pieces.
const IMAGES: [(&str, usize); 5] =
    [("one", 5000), ("f/two", 0), ("f/g/three", 5000), ("f/four", 100), ("f/pieces", 9000)];

/// Runs a job in a child: `$0` is the binary that does it.
fn child(job: &str, way: &str, overwrite: bool, out: &Path, shell: &str) -> Command {
    let binary = std::env::current_exe().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", shell]).arg(binary).args(["the_child", "--exact", "--ignored"]);
    command.args(["--nocapture", "--test-threads=1", "-q"]);
    command.env("SINK_JOB", job).env("SINK_WAY", way).env("SINK_OUT", out);
    command.env("SINK_OVERWRITE", if overwrite { "1" } else { "0" }).env("RUST_BACKTRACE", "0");
    command
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

/// Runs a command that must succeed, or say what it found.
fn must(mut command: Command, what_helps: &str) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{error}; {what_helps}"));
    let text = text(&output);
    assert!(output.status.success(), "{:?} {text}\n({what_helps})", output.status);
    assert!(text.contains("the child is done"), "the child did not do its job: {text}");
    text
}

#[test]
#[ignore = "the other tests run it in a child process"]
fn the_child() {
    let Ok(job) = std::env::var("SINK_JOB") else { return };
    let var = |name| std::env::var(name).unwrap();
    let out = PathBuf::from(var("SINK_OUT"));
    let way = FILES.iter().find(|way| way.name == var("SINK_WAY")).unwrap();
    let sink = (way.make)(&out, var("SINK_OVERWRITE") == "1");
    match job.as_str() {
        "images" => jobs::images(&sink),
        "fill" => jobs::fill(&sink, &out),
        "endless" => jobs::endless(&sink),
        "too-large" => jobs::too_large(&sink, &out),
        "read-only" => jobs::read_only(&sink, &out),
        "few-descriptors" => jobs::few_descriptors(&sink, &out),
        "modes" => jobs::modes(&sink, &out),
        other => panic!("no job {other}"),
    }
    println!("the child is done");
}

/// Calls that make, fill, name and remove files, by all the names that they have. Newer machines
/// lack some (`?`).
const CALLS: [&str; 12] = [
    "openat",
    "mkdirat",
    "?mkdir",
    "writev",
    "write",
    "pwrite64",
    "ftruncate",
    "linkat",
    "?renameat",
    "renameat2",
    "?rename",
    "unlinkat",
];

/// Fails the k-th call, for each k until there is none.
fn fail_each_call(way: &str, overwrite: bool) {
    let mut failures: BTreeMap<&str, usize> = BTreeMap::new();
    for call in CALLS {
        for k in 1.. {
            assert!(k < 200, "{call} never runs out");
            let dir = tempfile::tempdir().unwrap();
            let (out, log) = (dir.path().join("out"), dir.path().join("log"));
            if overwrite {
                ["one", "f/pieces"].iter().for_each(|name| plant(&out.join(name)));
            }
            let trace = format!(
                "exec strace -f -qq -o '{}' -e trace={call} -e inject={call}:error=EIO:when={k} \"$0\" \"$@\"",
                log.display()
            );
            let output = child("images", way, overwrite, &out, &trace).output().unwrap();
            let text = text(&output);
            assert!(!text.contains("not found"), "install strace: {text}");
            let log = fs::read_to_string(&log).expect("install strace: it wrote no log");
            if !log.contains("(INJECTED)") {
                assert!(text.contains("the child is done"), "{call} {k}: {text}");
                break;
            }
            let injected = log.lines().find(|line| line.contains("(INJECTED)")).unwrap();
            // The child's own words, not the sink's bytes.
            if ["write(1,", "write(2,"].iter().any(|call| injected.contains(call)) {
                continue;
            }
            let case = format!("{way}, overwrite {overwrite}, {injected}\n{text}");
            *failures.entry(call).or_default() += text.matches("\nfailed ").count();
            whole_or_absent(&out, overwrite, &text, &case);
            let left: Vec<_> = entries(&out).into_iter().filter(|n| n.contains(".tmp")).collect();
            // A name whose removal fails stays, and no other.
            assert!(left.len() <= usize::from(call == "unlinkat"), "{left:?} left: {case}");
        }
    }
    let seen = |call: &&str| failures.get(call).is_some_and(|count| *count > 0);
    let renames: &[&str] = &["?rename", "?renameat", "renameat2"];
    let naming: &[&[&str]] = match (way, overwrite) {
        ("nameless", false) | ("std", false) => &[&["linkat"]],
        ("nameless", true) => &[&["linkat"], renames],
        _ => &[renames],
    };
    let write = if way == "std" { "write" } else { "writev" };
    let all = [&["openat"][..], &["pwrite64"], &["ftruncate"], &[write]];
    for calls in all.iter().chain(naming) {
        assert!(calls.iter().any(seen), "no image failed by {calls:?}: {way}, {failures:?}");
    }
}

fn whole_or_absent(out: &Path, overwrite: bool, text: &str, case: &str) {
    let files = tree(out);
    for (i, (name, len)) in IMAGES.iter().enumerate() {
        let whole = content(i, *len);
        let old = (overwrite && ["one", "f/pieces"].contains(name)).then(|| b"planted".to_vec());
        let found = files.get(*name);
        if text.contains(&format!("\nstored {name}\n")) {
            assert!(found == Some(&whole), "{name} was stored: {case}");
        } else {
            assert!(found == old.as_ref(), "{name} was not stored: {case}");
        }
    }
    let ours = |name: &String| name.contains(".tmp") || IMAGES.iter().any(|(n, _)| n == name);
    assert!(files.keys().all(ours), "{:?}: {case}", files.keys());
}

#[test]
fn nameless_files_are_whole_or_absent_whatever_call_fails() {
    fail_each_call("nameless", false);
}

#[test]
fn nameless_files_replace_whole_or_not_at_all_whatever_call_fails() {
    fail_each_call("nameless", true);
}

#[test]
fn temporary_files_are_whole_or_absent_whatever_call_fails() {
    fail_each_call("temporary", false);
}

#[test]
fn temporary_files_replace_whole_or_not_at_all_whatever_call_fails() {
    fail_each_call("temporary", true);
}

#[test]
fn std_files_are_whole_or_absent_whatever_call_fails() {
    fail_each_call("std", false);
}

#[test]
fn std_files_replace_whole_or_not_at_all_whatever_call_fails() {
    fail_each_call("std", true);
}

/// Runs the job `images`, which must store all of them, with calls failing for good.
fn all_are_stored_with(way: &str, inject: &str, log_holds: impl Fn(&str) -> bool) {
    for overwrite in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (out, log) = (dir.path().join("out"), dir.path().join("log"));
        let trace = format!(
            "exec strace -f -qq -o '{}' -e trace=openat,linkat,writev,renameat2 {inject} \"$0\" \"$@\"",
            log.display()
        );
        let text = must(child("images", way, overwrite, &out, &trace), "install strace");
        whole_or_absent(&out, false, &text, inject);
        assert_eq!(tree(&out).len(), IMAGES.len(), "{inject}: {text}");
        let log = fs::read_to_string(&log).unwrap();
        assert!(log_holds(&log), "{inject}: {log}");
    }
}

#[test]
fn a_file_system_without_nameless_files_is_noticed_once() {
    // The call to fail is the probe's: the first with O_TMPFILE, which a plain run shows.
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let trace = format!("exec strace -f -qq -o '{}' -e trace=openat \"$0\" \"$@\"", log.display());
    must(child("images", "nameless", false, &dir.path().join("out"), &trace), "install strace");
    let log = fs::read_to_string(&log).unwrap();
    let probe = log.lines().find(|line| line.contains("O_TMPFILE")).unwrap();
    // Calls are counted by thread.
    let thread = probe.split_whitespace().next();
    let same = |line: &&str| line.split_whitespace().next() == thread;
    let before = log.lines().take_while(|line| *line != probe).filter(same).count();
    for error in ["EOPNOTSUPP", "EISDIR", "EINVAL", "ENOENT"] {
        let inject = format!("-e inject=openat:error={error}:when={}", before + 1);
        all_are_stored_with("nameless", &inject, |log| log.matches("O_TMPFILE").count() == 1);
    }
}

/// Before Linux 6.10 an ordinary process may not link a file by its descriptor alone. The first
/// link, the probe's, finds out.
#[test]
fn a_system_that_links_no_descriptors_is_noticed_once() {
    for error in ["ENOENT", "EPERM", "EINVAL"] {
        let inject = format!("-e inject=linkat:error={error}:when=1");
        all_are_stored_with("nameless", &inject, |log| {
            log.matches("AT_EMPTY_PATH").count() == 1
                && log.matches("AT_SYMLINK_FOLLOW").count() >= IMAGES.len()
        });
    }
}

#[test]
fn a_file_system_without_renaming_that_keeps_links_instead() {
    for error in ["EINVAL", "ENOSYS"] {
        let inject = format!("-e inject=renameat2:error={error}");
        // Files that are replaced may be renamed by another call.
        let met = std::cell::Cell::new(false);
        all_are_stored_with("temporary", &inject, |log| {
            met.set(met.get() || log.contains("(INJECTED)"));
            true
        });
        assert!(met.get(), "{error} was never answered");
    }
}

#[test]
fn an_interrupted_write_goes_on() {
    for way in ["nameless", "temporary"] {
        let injected = |log: &str| log.contains("EINTR");
        all_are_stored_with(way, "-e inject=writev:error=EINTR:when=1+2", injected);
    }
}

/// Linux takes 2 GiB - 4096 bytes at most in one call, whatever it is asked for.
#[test]
fn an_image_larger_than_one_write_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let sink = FilesSink::new(dir.path(), false);
    let mut pixels = vec![0; 2 << 30];
    pixels.extend_from_slice(b"end");
    sink.put("a", b"head", &pixels).unwrap();
    let file = fs::File::open(dir.path().join("a")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 4 + pixels.len() as u64);
    let mut end = [0; 4];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut end, 3 + (2 << 30)).unwrap();
    assert_eq!(&end, b"\0end");
}

const NAMESPACE: &str = "run as root, or allow user namespaces, for unshare and mount";

/// The command of a child in a mount namespace of its own, where `mounts` is run first.
fn in_namespace(mounts: &str) -> String {
    let user = if is_root() { "" } else { "-r" };
    format!("exec unshare -m {user} sh -c '{mounts} && exec \"$0\" \"$@\"' \"$0\" \"$@\"")
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("id is there");
    id.stdout == b"0\n"
}

#[test]
fn without_proc_files_get_temporary_names() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let shell = in_namespace("mount -t tmpfs none /proc");
    let text = must(child("images", "nameless", false, &out, &shell), NAMESPACE);
    whole_or_absent(&out, false, &text, "no /proc");
    assert_eq!(tree(&out).len(), IMAGES.len(), "{text}");
}

#[test]
fn a_full_disk_leaves_whole_images_alone() {
    for way in FILES {
        for limit in ["size=1m", "size=1m,nr_inodes=40", "nr_inodes=40"] {
            for overwrite in [false, true] {
                let dir = tempfile::tempdir().unwrap();
                let shell = in_namespace(&format!("mount -t tmpfs -o {limit} none \"$SINK_OUT\""));
                must(child("fill", way.name, overwrite, dir.path(), &shell), NAMESPACE);
            }
        }
    }
}

#[test]
fn a_write_that_ends_in_the_middle_leaves_nothing() {
    for way in FILES {
        let dir = tempfile::tempdir().unwrap();
        // ulimit counts 512 bytes in a POSIX shell and 1024 in some; SIGXFSZ would kill.
        let shell = "trap '' XFSZ; ulimit -f 200 && exec \"$0\" \"$@\"";
        must(child("too-large", way.name, false, dir.path(), shell), "sh with ulimit -f");
    }
}

#[test]
fn a_read_only_file_system_is_found_by_prepare() {
    for way in FILES {
        let dir = tempfile::tempdir().unwrap();
        let shell = in_namespace("mount -t tmpfs -o ro none \"$SINK_OUT\"");
        must(child("read-only", way.name, false, dir.path(), &shell), NAMESPACE);
    }
}

#[test]
fn a_folder_without_write_permission_is_found_by_prepare() {
    for way in FILES {
        let dir = tempfile::tempdir().unwrap();
        // Somebody else than root cannot look into every folder that this binary may lie in.
        let (out, binary) = (dir.path().join("out"), dir.path().join("binary"));
        fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
        fs::create_dir(&out).unwrap();
        let readable = |path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
        readable(dir.path(), 0o755).unwrap();
        readable(&out, 0o555).unwrap();
        let other = if is_root() { "setpriv --reuid 65534 --clear-groups" } else { "" };
        let shell = format!("exec {other} '{}' \"$@\"", binary.display());
        for below in ["", "new", "new/er"] {
            let out = out.join(below);
            must(child("read-only", way.name, false, &out, &shell), "install util-linux (setpriv)");
        }
        assert_eq!(entries(&out), [""; 0]);
    }
}

#[test]
fn sixty_four_descriptors_suffice() {
    for way in FILES {
        let dir = tempfile::tempdir().unwrap();
        let shell = "ulimit -n 64 && exec \"$0\" \"$@\"";
        must(child("few-descriptors", way.name, false, dir.path(), shell), "sh with ulimit -n");
    }
}

#[test]
fn permissions_are_what_the_umask_leaves() {
    for (umask, folder, file) in
        [("022", "40755", "100644"), ("027", "40750", "100640"), ("0", "40777", "100666")]
    {
        for way in FILES {
            for overwrite in [false, true] {
                let dir = tempfile::tempdir().unwrap();
                let shell = format!("umask {umask}; exec \"$0\" \"$@\"");
                let out = dir.path().join("out");
                let text = must(child("modes", way.name, overwrite, &out, &shell), "sh");
                for (name, mode) in [("", folder), ("f", folder), ("f/a", file), ("f/b", file)] {
                    let line = format!("\nmode {mode} of {name}\n");
                    assert!(text.contains(&line), "{} {umask} {name:?}: {text}", way.name);
                }
            }
        }
    }
}

#[test]
fn a_killed_process_leaves_whole_images() {
    for (way, overwrite) in FILES.iter().flat_map(|way| [(way, false), (way, true)]) {
        for round in 0..5 {
            let dir = tempfile::tempdir().unwrap();
            let out = dir.path().join("out");
            let shell = "exec \"$0\" \"$@\" >/dev/null 2>&1";
            let mut process =
                child("endless", way.name, overwrite, &out, shell).spawn().expect("sh is there");
            let started = Instant::now();
            while tree(&out).len() < 20 + round {
                assert!(started.elapsed() < Duration::from_secs(20), "it wrote nothing");
            }
            process.kill().unwrap();
            process.wait().unwrap();
            for (name, bytes) in tree(&out) {
                let parts: Vec<_> = name.split('/').collect();
                if parts.last().unwrap().starts_with(".tensortiff-") {
                    // Only where there is no other way; at most one a thread.
                    assert!(way.name != "nameless" || overwrite, "{name} is left over");
                } else {
                    let i = parts[1].parse().unwrap();
                    assert!(bytes == content(i, 100_000), "{} {name} is not whole", way.name);
                }
            }
        }
    }
}
