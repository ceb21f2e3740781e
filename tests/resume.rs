//! Runs that are interrupted and continued: whatever happens, the folder ends up byte for byte as if
//! nothing had. Every test calls the tool as people do.
//!
//! `TENSORTIFF_LONG=1` makes 200 kills of the few that every day has.

#![cfg(all(unix, feature = "cli"))]
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
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tool::{ends_with, everything, files, sample, text};
use trees::{Tree, folder, same, tree};

/// The same numbers every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}

/// Small images of two types, and large ones that come in steps.
fn write_dump(path: &Path) {
    const TENSORS: [(&str, &str, [u64; 3], u64); 3] = [
        ("a", "F32", [6000, 24, 24], 4),
        ("b/c", "BF16", [4000, 16, 16], 2),
        ("large", "F32", [3, 1100, 1100], 4),
    ];
    let (mut header, mut end) = (Vec::new(), 0);
    for (name, dtype, shape, size) in TENSORS {
        let begin = end;
        end += size * shape.iter().product::<u64>();
        header.push(format!(
            "\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[{begin},{end}]}}"
        ));
    }
    let json = format!("{{\"__metadata__\":{{\"from\":\"a test\"}},{}}}", header.join(","));
    let mut random = Random(1);
    let data: Vec<u8> = (0..end / 4).flat_map(|_| (random.next() as u32).to_le_bytes()).collect();
    let head = (json.len() as u64).to_le_bytes();
    fs::write(path, [&head[..], json.as_bytes(), &data].concat()).unwrap();
}

const IMAGES: usize = 6000 + 4000 + 3;

/// When a run is killed.
enum When {
    After(Duration),
    /// So many images are there.
    Made(usize),
}

struct Job {
    dir: tempfile::TempDir,
    dump: String,
    out: String,
    how: &'static [&'static str],
}

impl Job {
    fn new() -> Job {
        let dir = folder();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let (dump, out) = (path("d.safetensors"), path("out"));
        write_dump(Path::new(&dump));
        Job { dir, dump, out, how: &[] }
    }

    fn args<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let first = ["convert", &self.dump, "-o", &self.out, "--device", "cpu", "-j", "2"];
        [&first, self.how, more].concat()
    }

    fn spawn(&self, more: &[&str]) -> Child {
        tool::tool()
            .args(self.args(more))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// How many images are there.
    fn made(&self) -> usize {
        let count = |folder: &str| {
            fs::read_dir(Path::new(&self.out).join(folder)).map_or(0, Iterator::count)
        };
        ["d/a", "d/b/c", "d/large"].map(count).into_iter().sum()
    }

    fn run(&self, more: &[&str]) -> Output {
        tool::run(&self.args(more))
    }

    /// What an uninterrupted run leaves, and how long it takes.
    fn whole(&self) -> (Tree, Duration) {
        let out = self.dir.path().join("whole");
        let out = out.to_str().unwrap();
        let mut took = Duration::MAX;
        for _ in 0..2 {
            drop(fs::remove_dir_all(out));
            let started = Instant::now();
            let first = ["convert", &self.dump, "-o", out, "--device", "cpu", "-j", "2"];
            ends_with(0, &[&first, self.how].concat());
            took = took.min(started.elapsed());
        }
        let tree = tree(out);
        assert_eq!(tree.len(), IMAGES + 1);
        (tree, took)
    }

    /// Starts a run, and kills it when it has come so far. Whether it was at work then.
    fn kill(&self, more: &[&str], when: When, whole: &[&Tree]) -> bool {
        let mut child = self.spawn(more);
        match when {
            When::After(time) => thread::sleep(time),
            When::Made(images) => {
                while child.try_wait().unwrap().is_none() && self.made() < images {}
            }
        }
        child.kill().unwrap();
        let finished = child.wait().unwrap().success();
        let out = Path::new(&self.out);
        let made = if out.is_dir() { files(out) } else { Vec::new() };
        for file in &made {
            let name = file.strip_prefix(out).unwrap();
            // Other names are of files that were never finished.
            if name.extension().is_some_and(|e| e == "tif") {
                let bytes = fs::read(file).unwrap();
                assert!(whole.iter().any(|tree| tree[name] == bytes), "{}", name.display());
            }
        }
        !finished && !made.is_empty() && made.len() < IMAGES
    }
}

#[test]
fn killed_at_any_instant_and_continued_it_is_as_if_nothing_had_happened() {
    kill_and_continue(&Job::new(), 24, 200);
}

/// How long files are is known from the record alone.
#[test]
fn killed_where_images_are_packed_and_continued_it_is_as_if_nothing_had_happened() {
    let strips = &["--compress", "zstd:1", "--predictor", "auto"];
    let tiles = &["--tile", "64", "--compress", "deflate:1"];
    for how in [&strips[..], tiles] {
        kill_and_continue(&Job { how, ..Job::new() }, 5, 100);
    }
}

fn kill_and_continue(job: &Job, few: u32, many: u32) {
    let kills = if std::env::var_os("TENSORTIFF_LONG").is_some() { many } else { few };
    let (whole, took) = job.whole();
    let mut random = Random(7);
    let mut at_work = 0;
    for kill in 0..kills {
        drop(fs::remove_dir_all(&job.out));
        // With nothing to go on with `--resume` begins anew.
        let mut instant = || match random.next() % 4 {
            // Before the first image and after the last, too.
            0 => When::After(took * (random.next() % 1200) as u32 / 1000),
            _ => When::Made(1 + random.next() as usize % IMAGES),
        };
        at_work += u32::from(job.kill(&["--resume"], instant(), &[&whole]));
        if kill % 3 == 0 {
            job.kill(&["--resume"], instant(), &[&whole]);
        }
        let output = job.run(&["--resume"]);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "kill {kill}: {told}");
        same(&tree(&job.out), &whole, &format!("kill {kill}: {told}"));
    }
    assert!(at_work * 2 >= kills, "{at_work} of {kills} were killed at work");
    println!("{at_work} of {kills} were killed at work");
}

/// The same where files have temporary names, which a kill leaves behind: files are replaced.
#[test]
fn what_a_killed_run_that_replaced_files_left_is_taken_away() {
    let job = Job::new();
    let (whole, took) = job.whole();
    ends_with(0, &job.args(&["--norm", "none", "-q"]));
    let first = tree(&job.out);
    let mut left = 0;
    let has = |extension: &str| {
        let found = everything(Path::new(&job.out));
        found.iter().filter(|path| path.extension().is_some_and(|e| e == extension)).count()
    };
    for part in (1..9).chain(std::iter::repeat_n(4, 50)) {
        job.kill(&["--overwrite"], When::After(took * part / 10), &[&whole, &first]);
        left += has("tmp");
        if part == 4 && has("journal") == 1 && left > 0 {
            break;
        }
    }
    assert!(left > 0 && has("journal") == 1, "{left} temporary files were left");
    let planted = Path::new(&job.out).join("d/a/.tensortiff-1-1.tmp");
    fs::write(&planted, "left behind").unwrap();
    let output = job.run(&["--resume"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    same(&tree(&job.out), &whole, &format!("{left} temporary files were left"));
}

#[test]
fn after_a_finished_run_there_is_nothing_to_do() {
    let job = Job::new();
    let (whole, _) = job.whole();
    ends_with(0, &job.args(&["--resume"]));
    let times = || -> Vec<_> {
        let found = everything(Path::new(&job.out));
        let time = |path: &PathBuf| (path.clone(), fs::metadata(path).unwrap().ctime_nsec());
        found.iter().map(time).collect()
    };
    let before = times();
    let folder = fs::metadata(&job.out).unwrap().mtime_nsec();
    let (_, told) = ends_with(0, &job.args(&["--resume"]));
    assert!(told.contains(&format!("nothing to do: all {IMAGES} images")), "{told}");
    assert_eq!(times(), before);
    assert_eq!(fs::metadata(&job.out).unwrap().mtime_nsec(), folder, "nothing was made meanwhile");
    // What is missing is made again, and only that.
    for name in ["d/a/0007.tif", "d/large/1.tif", "d/b/c/3999.tif"] {
        fs::remove_file(Path::new(&job.out).join(name)).unwrap();
    }
    fs::write(Path::new(&job.out).join("d/a/0008.tif"), "short").unwrap();
    let (_, told) = ends_with(0, &job.args(&["--resume"]));
    assert!(told.starts_with("4 images, "), "{told}");
    assert!(told.contains(&format!("{} were there already", IMAGES - 4)), "{told}");
    same(&tree(&job.out), &whole, &told);
}

/// Stops a run when it has made some images.
fn interrupted(job: &Job, more: &[&str]) {
    drop(fs::remove_dir_all(&job.out));
    let mut child = tool::tool()
        .args(
            [&["convert", &job.dump, "-o", &job.out, "--device", "cpu", "-j", "1"], more].concat(),
        )
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while child.try_wait().unwrap().is_none() && job.made() < 500 {}
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success(), "it was killed at work");
}

#[test]
fn another_dump_or_other_options_are_refused_with_the_reason() {
    let job = Job::new();
    interrupted(&job, &[]);
    let before = tree(&job.out);
    let refused = |more: &[&str], reason: &str| {
        let (_, told) = ends_with(1, &job.args(more));
        assert!(told.contains("cannot be resumed") && told.contains(reason), "{more:?}: {told}");
        assert_eq!(told.lines().count(), 1, "{told}");
        assert!(tree(&job.out) == before, "{more:?}");
    };
    refused(&["--resume", "--norm", "none"], "--norm was minmax, and now is none");
    refused(&["--resume", "-t", "a"], "-t was \"\", and now is \"a\"");
    refused(&["--resume", "--exclude", "a"], "--exclude was");
    refused(&["--resume", "--name", "{tensor}/{index}.tif"], "names was");
    refused(&["--resume", "--hash"], "without --hash, and now is with it");
    refused(&["--resume=hash"], "without --hash");
    let touched = fs::File::options().write(true).open(&job.dump).unwrap();
    let was = touched.metadata().unwrap().modified().unwrap();
    touched.set_modified(was + Duration::from_secs(1)).unwrap();
    refused(&["--resume"], "d.safetensors was modified since");
    touched.set_modified(was).unwrap();
    // The same dump by another name is the same, and so is a way of asking for the same images.
    let (_, told) = ends_with(
        0,
        &["convert", &job.dump.replace("/d.", "/./d."), "-o", &job.out, "--resume", "-t", "**"],
    );
    assert!(told.contains("there already"), "{told}");
}

/// A write that hangs: the first signal waits for it, but no longer than two seconds; the second
/// does not wait at all. Either way the run can be continued.
#[test]
#[cfg(target_os = "linux")]
fn a_second_signal_does_not_wait_for_what_hangs() {
    let job = Job::new();
    let (whole, _) = job.whole();
    for (signals, code, most) in [(&["-INT"][..], 130, 3000), (&["-TERM", "-TERM"], 143, 1400)] {
        drop(fs::remove_dir_all(&job.out));
        // In the middle of the run a thread's write takes a minute.
        let mut strace = std::process::Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=writev"])
            .args(["-e", "inject=writev:delay_enter=60000000:when=300"])
            .arg(env!("CARGO_BIN_EXE_tensortiff"))
            .args(job.args(&["-q"]))
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace is there; scripts/test installs it");
        let mut last = (0, Instant::now());
        while last.1.elapsed() < Duration::from_millis(300) || last.0 == 0 {
            assert!(strace.try_wait().unwrap().is_none(), "it came to its end");
            if job.made() != last.0 {
                last = (job.made(), Instant::now());
            }
            thread::sleep(Duration::from_millis(5));
        }
        let children = format!("/proc/{0}/task/{0}/children", strace.id());
        let tool = fs::read_to_string(children).unwrap().trim().to_owned();
        let started = Instant::now();
        for (at, signal) in signals.iter().enumerate() {
            if at > 0 {
                thread::sleep(Duration::from_millis(100));
            }
            let kill = std::process::Command::new("kill").args([signal, tool.as_str()]).status();
            assert!(kill.unwrap().success());
        }
        // strace itself waits for the call that it delays: whether the tool has ended is asked of
        // the system, which knows how, too.
        let ended = loop {
            let stat = fs::read_to_string(format!("/proc/{tool}/stat")).unwrap();
            let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split_whitespace().collect();
            if fields[0] == "Z" {
                break fields[fields.len() - 1].to_owned();
            }
            assert!(started.elapsed() < Duration::from_secs(10), "it goes on after {signals:?}");
            thread::sleep(Duration::from_millis(5));
        };
        let took = started.elapsed();
        strace.kill().unwrap();
        let told = text(&strace.wait_with_output().unwrap().stderr);
        let says = "images written so far are whole; the same command with --resume goes on";
        assert_eq!(told.contains(says), signals.len() == 1, "{told}");
        // Its last thread goes, and the lock with it, a moment after strace.
        let out = fs::File::open(&job.out).unwrap();
        while out.try_lock().is_err() {
            assert!(started.elapsed() < Duration::from_secs(20), "the folder is locked yet");
            thread::sleep(Duration::from_millis(5));
        }
        drop(out);
        // A child that another test starts just now may have it until it is another program.
        thread::sleep(Duration::from_millis(50));
        assert_eq!(ended, (code << 8).to_string(), "{signals:?}");
        assert!(took < Duration::from_millis(most), "{took:?} after {signals:?}");
        ends_with(0, &job.args(&["--resume", "-q"]));
        same(&tree(&job.out), &whole, &format!("{signals:?}"));
    }
}

#[test]
fn an_interrupted_run_says_how_to_go_on() {
    let job = Job::new();
    let (whole, _) = job.whole();
    let cases = [
        ("-INT", 130, "-q", "; the same command with --resume goes on"),
        ("-TERM", 143, "-q", "; the same command with --resume goes on"),
        ("-INT", 130, "--overwrite", " with --resume in the place of --overwrite goes on"),
        ("-INT", 130, "--skip-existing", " with --resume in the place of --skip-existing goes on"),
    ];
    for (signal, code, option, how) in cases {
        drop(fs::remove_dir_all(&job.out));
        let mut child =
            tool::tool().args(job.args(&[option])).stderr(Stdio::piped()).spawn().unwrap();
        while child.try_wait().unwrap().is_none() && job.made() < 500 {}
        let pid = child.id().to_string();
        assert!(
            std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success()
        );
        let output = child.wait_with_output().unwrap();
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{told}");
        let made = job.made();
        let says = format!("interrupted after {made} of {IMAGES} images, which are whole; ");
        assert!(told.contains(&says) && told.contains(how), "{told}");
        let (_, told) = ends_with(0, &job.args(&["--resume"]));
        assert!(told.contains(&format!("; {made} were there already")), "all are known: {told}");
        same(&tree(&job.out), &whole, &told);
    }
}

/// What is asked to be safe is asked of the system: each file before it has its name, or all at the
/// end, before the manifest says that they are there.
#[test]
#[cfg(target_os = "linux")]
fn what_fsync_promises_is_asked_of_the_system() {
    let dir = folder();
    let calls = |when: &str| -> Vec<String> {
        let [out, log] = ["out", "log"].map(|name| dir.path().join(format!("{when}-{name}")));
        let traced = std::process::Command::new("strace")
            .args(["-f", "-qq", "-e", "trace=fsync,fdatasync,syncfs,linkat,rename", "-o"])
            .args([log.as_os_str(), env!("CARGO_BIN_EXE_tensortiff").as_ref()])
            .args(["convert", sample(), "-q", "--device", "cpu", "-j", "1", "--fsync", when, "-o"])
            .arg(&out)
            .status()
            .expect("strace is there; scripts/test installs it");
        assert!(traced.success());
        tool::traced_calls(&fs::read_to_string(log).unwrap())
    };
    let count = |calls: &[String], name: &str| calls.iter().filter(|call| *call == name).count();
    let none = calls("none");
    assert!(
        ["fsync", "fdatasync", "syncfs"].iter().all(|name| count(&none, name) == 0),
        "{none:?}"
    );
    let file = calls("file");
    let pair = |pair: &&[String]| pair[0] == "fdatasync" && pair[1] == "linkat";
    assert_eq!(file.windows(2).filter(pair).count(), 317, "{file:?}");
    for calls in [file, calls("end")] {
        let end = &calls[calls.len() - 4..];
        assert_eq!(end, ["syncfs", "fsync", "rename", "fsync"], "{calls:?}");
    }
}

#[test]
fn of_two_runs_in_one_folder_the_second_is_told_and_stops() {
    let job = Job::new();
    let mut first = job.spawn(&[]);
    tool::until_at_work(&job.out);
    let stop = |signal: &str| {
        let pid = first.id().to_string();
        assert!(
            std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success()
        );
    };
    stop("-STOP");
    for more in [&["--resume"][..], &["--overwrite"], &["--skip-existing"], &[]] {
        let (_, told) = ends_with(1, &job.args(more));
        assert!(told.contains("another run is writing to this folder"), "{told}");
    }
    stop("-CONT");
    assert!(first.wait().unwrap().success());
    same(&tree(&job.out), &job.whole().0, "the first");
}

#[test]
fn a_torn_journal_costs_work_and_nothing_else() {
    let job = Job::new();
    let (whole, _) = job.whole();
    let mut random = Random(3);
    for way in 0..8 {
        interrupted(&job, &[]);
        let own = everything(Path::new(&job.out));
        let journal =
            own.iter().find(|path| path.extension().is_some_and(|e| e == "journal")).unwrap();
        let mut bytes = fs::read(journal).unwrap();
        match way {
            // The head.
            0 => bytes.clear(),
            1 => bytes.truncate(20),
            2 => bytes[40] ^= 1,
            3 => bytes[16..24].fill(0xff),
            // Entries.
            4 => bytes.truncate(4096 + (bytes.len() - 4096) / 2 + 17),
            5 => bytes[4096..].fill(0),
            6 => bytes[4096..].fill(0xff),
            _ => {
                for _ in 0..200 {
                    let at = 4096 + random.next() as usize % (bytes.len() - 4096);
                    bytes[at] ^= 1 << (random.next() % 8);
                }
            }
        }
        fs::write(journal, bytes).unwrap();
        let output = job.run(&["--resume"]);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "way {way}: {told}");
        same(&tree(&job.out), &whole, &format!("way {way}: {told}"));
    }
}

/// Images that were replaced by a run that left no manifest there: the old one would say that
/// they are right, and their sizes are.
#[test]
fn a_manifest_of_images_that_were_replaced_is_not_believed() {
    let job = Job::new();
    let elsewhere = job.dir.path().join("m.jsonl").to_str().unwrap().to_owned();
    for more in [&["--no-manifest"][..], &["--manifest", &elsewhere]] {
        ends_with(0, &job.args(&["-q", "--overwrite"]));
        ends_with(0, &job.args(&[&["-q", "--overwrite", "--norm", "none"], more].concat()));
        let (_, told) = ends_with(1, &job.args(&["--resume"]));
        assert!(told.contains("exists already"), "{told}");
    }
    // Nor one elsewhere, if a run since then has its own in the folder.
    ends_with(0, &job.args(&["-q", "--overwrite", "--manifest", &elsewhere]));
    ends_with(0, &job.args(&["-q", "--overwrite", "--norm", "none"]));
    let (_, told) = ends_with(1, &job.args(&["--resume", "--manifest", &elsewhere]));
    assert!(told.contains("--norm was none, and now is minmax"), "{told}");
}

#[test]
fn hashes_find_what_sizes_do_not() {
    let job = Job::new();
    ends_with(0, &job.args(&["--hash"]));
    let whole = tree(&job.out);
    let manifest = String::from_utf8(whole[Path::new("manifest.jsonl")].clone()).unwrap();
    assert_eq!(
        manifest.lines().skip(1).filter(|line| line.contains("\"xxh3\":\"")).count(),
        IMAGES
    );
    let corrupt = |name: &str| {
        let path = Path::new(&job.out).join(name);
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 3;
        bytes[last] ^= 1;
        fs::write(&path, bytes).unwrap();
    };
    for name in ["d/a/0100.tif", "d/large/2.tif"] {
        corrupt(name);
    }
    let (_, told) = ends_with(0, &job.args(&["--resume", "--hash"]));
    assert!(told.contains("nothing to do"), "{told}");
    let (_, told) = ends_with(0, &job.args(&["--resume=hash"]));
    assert!(told.starts_with("2 images, "), "{told}");
    same(&tree(&job.out), &whole, &told);
}

#[test]
fn existing_files_are_an_error_or_kept_or_replaced() {
    let job = Job::new();
    let (whole, _) = job.whole();
    let kept = Path::new(&job.out).join("d/a/0003.tif");
    fs::create_dir_all(kept.parent().unwrap()).unwrap();
    fs::write(&kept, "mine").unwrap();
    let (_, told) = ends_with(1, &job.args(&[]));
    assert!(told.contains("0003.tif: exists already (--overwrite"), "{told}");
    // There is no run to go on with: what is there is not its.
    let (_, told) = ends_with(1, &job.args(&["--resume"]));
    assert!(told.contains("exists already"), "{told}");
    assert_eq!(tree(&job.out).len(), 1);
    let (_, told) = ends_with(0, &job.args(&["--skip-existing"]));
    assert!(told.contains("; 1 was there already"), "{told}");
    assert_eq!(fs::read(&kept).unwrap(), b"mine");
    let manifest = fs::read_to_string(Path::new(&job.out).join("manifest.jsonl")).unwrap();
    let lines: Vec<&str> =
        manifest.lines().filter(|line| line.contains("\"existed\":true")).collect();
    assert!(lines.len() == 1 && lines[0].contains("d/a/0003.tif"), "{lines:?}");
    // What is known of the others stays known.
    let (_, told) = ends_with(0, &job.args(&["--skip-existing"]));
    assert!(told.contains("nothing to do"), "{told}");
    assert_eq!(fs::read_to_string(Path::new(&job.out).join("manifest.jsonl")).unwrap(), manifest);
    ends_with(0, &job.args(&["--overwrite"]));
    same(&tree(&job.out), &whole, "replaced");
    for pair in [["--overwrite", "--resume"], ["--resume", "--skip-existing"]] {
        let (_, told) = ends_with(2, &job.args(&pair));
        assert!(told.contains("cannot be used with"), "{told}");
    }
}

#[test]
fn the_manifest_says_what_was_made_and_of_what() {
    let dir = folder();
    let out = dir.path().join("out").to_str().unwrap().to_owned();
    ends_with(0, &["convert", sample(), "-o", &out, "-q"]);
    let manifest = fs::read_to_string(Path::new(&out).join("manifest.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> =
        manifest.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 318);
    assert_eq!(lines[0]["images"], 317);
    assert_eq!(lines[0]["options"]["norm"], "minmax");
    assert_eq!(lines[0]["metadata"][0]["what"], "hidden states and attention maps");
    let listed = tool::run(&["ls", sample(), "--json"]);
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(lines[1]["tensor"], listed[0]["tensor"], "in the order of the plan");
    for line in &lines[1..] {
        let file = fs::read(Path::new(&out).join(line["name"].as_str().unwrap())).unwrap();
        assert_eq!(file.len() as u64, line["bytes"].as_u64().unwrap(), "{line}");
        // What the file says of itself.
        let at = file.windows(11).position(|bytes| bytes == b"tensortiff=").unwrap() + 11;
        let end = at + file[at..].iter().position(|byte| *byte == b'\n').unwrap();
        let own: serde_json::Value = serde_json::from_slice(&file[at..end]).unwrap();
        for key in ["tensor", "index", "dtype", "norm", "lo", "hi", "nan", "inf"] {
            assert_eq!(own[key], line[key], "{key} of {line}");
        }
    }
    let (csv, _) = ends_with(0, &["manifest", &out, "--csv"]);
    let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows.len(), 318);
    assert_eq!(rows[0][..4], ["name", "source", "tensor", "index"]);
    assert_eq!(rows[5][0], lines[5]["name"]);
    assert_eq!(rows[5][7].parse::<f64>().unwrap(), lines[5]["lo"].as_f64().unwrap());
    let (all, _) = ends_with(0, &["manifest", &out]);
    assert_eq!(all, manifest);
    let (_, told) = ends_with(1, &["manifest", dir.path().to_str().unwrap()]);
    assert!(told.contains("no manifest is there"), "{told}");
}

#[test]
fn each_run_in_one_folder_keeps_its_manifest() {
    let job = Job::new();
    ends_with(0, &["convert", sample(), "-o", &job.out, "-q"]);
    let first = fs::read(Path::new(&job.out).join("manifest.jsonl")).unwrap();
    ends_with(0, &job.args(&["--resume"]));
    assert_eq!(fs::read(Path::new(&job.out).join("manifest.jsonl")).unwrap(), first);
    let found = everything(Path::new(&job.out));
    let manifests = found.iter().filter(|path| path.extension().is_some_and(|e| e == "jsonl"));
    assert_eq!(manifests.count(), 2);
    let (csv, _) = ends_with(0, &["manifest", &job.out, "--csv"]);
    assert_eq!(csv.lines().count(), 1 + 317 + IMAGES);
    let (_, told) = ends_with(0, &job.args(&["--resume"]));
    assert!(told.contains("nothing to do"), "{told}");
    // Elsewhere, and nowhere.
    let elsewhere = job.dir.path().join("m.jsonl").to_str().unwrap().to_owned();
    ends_with(0, &job.args(&["--overwrite", "--manifest", &elsewhere]));
    assert_eq!(fs::read_to_string(&elsewhere).unwrap().lines().count(), 1 + IMAGES);
    let out = job.dir.path().join("none").to_str().unwrap().to_owned();
    ends_with(0, &["convert", sample(), "-o", &out, "-q", "--no-manifest"]);
    assert_eq!(everything(Path::new(&out)).len(), 317);
}

/// A link in the place of the run's own files is not followed, and told before any work.
#[test]
fn links_in_the_place_of_a_record_are_not_followed() {
    let job = Job::new();
    let elsewhere = job.dir.path().join("elsewhere");
    fs::write(&elsewhere, "mine").unwrap();
    ends_with(0, &job.args(&["-q"]));
    let manifest = Path::new(&job.out).join("manifest.jsonl");
    fs::remove_file(&manifest).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &manifest).unwrap();
    for more in [&["--overwrite"][..], &["--resume"], &["--skip-existing"]] {
        let (_, told) = ends_with(1, &job.args(more));
        assert!(told.contains("manifest.jsonl: not a file"), "{told}");
        assert!(!told.contains("stopped after"), "{told}");
    }
    interrupted(&job, &[]);
    let found = everything(Path::new(&job.out));
    let journal =
        found.iter().find(|path| path.extension().is_some_and(|e| e == "journal")).unwrap();
    fs::remove_file(journal).unwrap();
    std::os::unix::fs::symlink(&elsewhere, journal).unwrap();
    let (_, told) = ends_with(1, &job.args(&["--resume"]));
    assert!(told.contains(".journal: not a file"), "{told}");
    // A new run makes its own in the link's place.
    ends_with(0, &job.args(&["--overwrite", "-q"]));
    same(&tree(&job.out), &job.whole().0, "replaced");
    assert_eq!(fs::read(&elsewhere).unwrap(), b"mine");
}

#[test]
fn a_dry_run_says_what_would_be_and_makes_nothing() {
    let job = Job::new();
    let (out, told) = ends_with(0, &job.args(&["-n"]));
    assert!(out.contains(&format!("images   {IMAGES}\n")), "{out}");
    assert!(out.contains("d/a/0000.tif") && out.contains("d/large/2.tif"), "{out}");
    assert_eq!(told, "");
    assert!(!Path::new(&job.out).exists());
    let (json, _) = ends_with(0, &job.args(&["--dry-run", "--json"]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let (whole, _) = job.whole();
    let images = || whole.iter().filter(|(name, _)| name.extension().is_some_and(|e| e == "tif"));
    let bytes: usize = images().map(|(_, bytes)| bytes.len()).sum();
    assert_eq!(json["images"], IMAGES);
    assert_eq!(json["bytes_written"], bytes);
    assert!(json["disk_bytes"].as_u64().unwrap() as usize > bytes);
    assert!(json["inodes"].as_u64().unwrap() as usize > IMAGES);
    assert_eq!(json["devices"], serde_json::json!(["cpu"]));
    assert_eq!(json["refused"], serde_json::Value::Null);
    interrupted(&job, &[]);
    let before = tree(&job.out);
    let (json, told) = ends_with(1, &job.args(&["-n", "--json"]));
    assert!(told.contains("exists already"), "{told}");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(json["refused"].as_str().unwrap().contains("exists already"), "{json}");
    let (json, _) = ends_with(0, &job.args(&["-n", "--json", "--resume"]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(json["there"].as_u64().unwrap() > 0, "{json}");
    // Of what cannot even be planned a machine reads why.
    let (json, told) = ends_with(2, &job.args(&["-n", "--json", "--name", "{tensor}.tif"]));
    assert!(told.contains("two images would both be written to"), "{told}");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let refused = json["refused"].as_str().unwrap();
    assert!(told.contains(refused) && json.get("images").is_none(), "{json}");
    assert!(tree(&job.out) == before);
}

/// What failed before the run was stopped is not taken for done by the next.
#[test]
#[cfg(target_os = "linux")]
fn an_image_that_failed_in_a_run_that_was_stopped_is_made_by_the_next() {
    let job = Job::new();
    let (whole, _) = job.whole();
    let output = std::process::Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=writev,linkat"])
        .args(["-e", "inject=writev:error=EISDIR:when=9"])
        .args(["-e", "inject=linkat:error=ENOSPC:when=2000"])
        .arg(env!("CARGO_BIN_EXE_tensortiff"))
        .args(["convert", &job.dump, "-o", &job.out, "--device", "cpu", "-j", "1", "-q"])
        .output()
        .expect("strace is there; scripts/test installs it");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let made = job.made();
    assert!(made > 1000 && made < IMAGES, "{made}");
    let failed: Vec<_> = whole
        .keys()
        .take_while(|name| !name.ends_with("d/a/1000.tif"))
        .filter(|name| !Path::new(&job.out).join(name).exists())
        .collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    ends_with(0, &job.args(&["--resume", "-q"]));
    same(&tree(&job.out), &whole, "an image that failed");
}

/// What a finished run recorded of z-scores is in the manifest of the run that goes on with it.
#[test]
fn means_and_deviations_are_kept_from_run_to_run() {
    let dir = folder();
    let out = dir.path().join("out").to_str().unwrap().to_owned();
    let args = ["convert", sample(), "-o", &out, "-q", "--norm", "zscore"];
    ends_with(0, &args);
    let whole = tree(&out);
    let gone = whole.keys().find(|path| path.extension().is_some_and(|e| e == "tif")).unwrap();
    fs::remove_file(Path::new(&out).join(gone)).unwrap();
    ends_with(0, &[&args[..], &["--resume"]].concat());
    same(&tree(&out), &whole, "one image that was gone");
}
