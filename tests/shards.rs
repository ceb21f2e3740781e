//! Runs that are divided among processes: whoever makes which shard, in whatever order, more than
//! once, at once, killed: the folder ends up byte for byte as one run leaves it.
//!
//! `TENSORTIFF_LONG=1` makes 100 rounds of the few that every day has.

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
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use tool::{ends_with, everything, text};
use trees::{Tree, same, tree};

/// The same numbers every time.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }

    fn shuffle(&mut self, list: &mut [usize]) {
        (1..list.len()).rev().for_each(|at| list.swap(at, self.below(at + 1)));
    }
}

const IMAGES: usize = 1500 + 800 + 7 + 1;

struct Job {
    dir: tempfile::TempDir,
    dump: String,
    plan: String,
    out: String,
    whole: Tree,
}

impl Job {
    fn new(shards: usize, more: &[&str]) -> Job {
        let dir = trees::folder();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let (dump, plan, out, whole) =
            (path("d.safetensors"), path("plan.jsonl"), path("out"), path("whole"));
        tool::dump(
            dump.as_ref(),
            &[
                ("a", "F32", &[1500, 12, 12], 4 * 1500 * 144),
                ("b/c", "BF16", &[800, 16, 16], 2 * 800 * 256),
                ("d", "F64", &[7, 40, 50], 8 * 7 * 2000),
                ("large", "F32", &[200, 300], 4 * 60_000),
            ],
        );
        // No two images are alike, so that one cannot stand for another.
        let mut bytes = fs::read(&dump).unwrap();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut random = Random(7);
        bytes[header..].fill_with(|| random.below(256) as u8);
        fs::write(&dump, bytes).unwrap();
        let convert = ["convert", &dump, "-o", &whole, "--device", "cpu", "-q"];
        ends_with(0, &[&convert[..], more].concat());
        let whole = tree(whole);
        assert_eq!(whole.len(), IMAGES + 1);
        let job = Job { dir, dump, plan, out, whole };
        job.plan(shards, more);
        job
    }

    fn plan(&self, shards: usize, more: &[&str]) {
        let shards = shards.to_string();
        let plan = ["plan", &self.dump, "--shards", &shards, "-o", &self.plan, "-q"];
        ends_with(0, &[&plan[..], more].concat());
    }

    fn command(&self, shard: &str, more: &[&str]) -> std::process::Command {
        let mut command = tool::tool();
        command
            .args(["convert", &self.plan, "-o", &self.out, "--shard", shard])
            .args(["--device", "cpu", "-j", "2", "-q"])
            .args(more);
        command
    }

    fn spawn(&self, shard: usize, more: &[&str]) -> Child {
        let mut command = self.command(&shard.to_string(), more);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Makes a shard, which must end so.
    fn make(&self, shard: &str, more: &[&str], code: i32) -> String {
        ended(self.command(shard, more).output().unwrap(), code)
    }

    /// What `status` says is missing.
    fn missing(&self) -> String {
        let output = tool::run(&["status", &self.plan, &self.out]);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        let missing = out.trim_end().to_owned();
        assert_eq!(output.status.code(), Some(if missing.is_empty() { 0 } else { 3 }), "{err}");
        missing
    }

    /// Merges, and looks whether the folder is one run's.
    fn merge(&self, after: &str) {
        assert_eq!(self.missing(), "", "{after}");
        ends_with(0, &["merge", &self.plan, &self.out]);
        same(&tree(&self.out), &self.whole, after);
    }

    /// The first shard, or all, with one thread of which a late call fails; neighbours are read
    /// together first, and then each by itself.
    #[cfg(target_os = "linux")]
    fn inject(&self, errors: &[(&str, &str)], shard: bool, code: i32) {
        let mut command = std::process::Command::new("strace");
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=pread64,writev,linkat"]);
        for (at, error) in errors {
            let when = match *at {
                "pread64" => "6+",
                "linkat" => "5",
                _ => "9",
            };
            command.args(["-e", &format!("inject={at}:error={error}:when={when}")]);
        }
        command
            .arg(env!("CARGO_BIN_EXE_tensortiff"))
            .args(["convert", &self.plan, "-o", &self.out, "-j", "1", "--device", "cpu", "-q"]);
        // For its manifest a run of all would read its journal, which fails as well.
        command.args(if shard { &["--shard", "0"][..] } else { &["--no-manifest"] });
        ended(command.output().unwrap(), code);
    }

    fn clear(&self) {
        drop(fs::remove_dir_all(&self.out));
    }
}

fn ended(output: Output, code: i32) -> String {
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{told}");
    told
}

fn rounds(few: usize) -> usize {
    if std::env::var_os("TENSORTIFF_LONG").is_some() { 100 } else { few }
}

#[test]
fn shards_in_any_order_and_number_are_one_run() {
    let mut random = Random(1);
    for (shards, more) in [
        (1, &[][..]),
        (3, &["--hash"]),
        (16, &["--norm", "none"]),
        (2500, &["-t", "large", "-t", "b/c", "-t", "a", "-t", "d"]),
    ] {
        let job = Job::new(shards, more);
        let all = if shards > 1 { format!("0-{}", shards - 1) } else { "0".to_owned() };
        assert!(shards > 100 || job.missing() == all);
        // Of more shards than images there are empty ones; a few of all stand for them.
        let mut order: Vec<usize> = (0..shards).collect();
        random.shuffle(&mut order);
        if shards > 100 {
            for shard in order.drain(..40) {
                job.make(&shard.to_string(), &[], 0);
            }
            // Another plan of the same run goes on with what was made.
            job.plan(7, more);
            order = (0..7).collect();
        }
        for shard in order {
            job.make(&format!("{shard}"), &[], 0);
        }
        job.merge(&format!("{shards} shards"));
    }
}

#[test]
fn repeated_and_raced_shards_are_one_run() {
    let job = Job::new(5, &[]);
    let mut random = Random(2);
    for round in 0..rounds(4) {
        job.clear();
        // Each of them one to three times, all at once.
        let mut runs: Vec<usize> = (0..5).collect();
        runs.extend((0..6).map(|_| random.below(5)));
        random.shuffle(&mut runs);
        let runs: Vec<Child> = runs.into_iter().map(|shard| job.spawn(shard, &[])).collect();
        for run in runs {
            ended(run.wait_with_output().unwrap(), 0);
        }
        // And once more after all of it, when there is nothing to do.
        let before = tree(&job.out);
        job.make("3/5", &[], 0);
        assert!(tree(&job.out) == before, "a shard that is complete leaves nothing more");
        job.merge(&format!("round {round}"));
        // Even after that, which changes nothing.
        job.make("0/5", &[], 0);
        same(&tree(&job.out), &job.whole, "a shard after the merge");
        ends_with(0, &["merge", &job.plan, &job.out]);
        same(&tree(&job.out), &job.whole, "a second merge");
    }
}

#[test]
fn shards_that_are_killed_are_made_again() {
    let job = Job::new(3, &[]);
    let mut random = Random(3);
    let mut at_work = 0;
    for round in 0.. {
        // On a machine with other things to do they may be done before they are looked at.
        if round >= rounds(6) && (2 * at_work >= rounds(6) || round >= 10 * rounds(6)) {
            break;
        }
        job.clear();
        let mut runs: Vec<Child> = (0..3).map(|shard| job.spawn(shard, &[])).collect();
        let made = || {
            let out = Path::new(&job.out);
            if out.is_dir() { tool::files(out).len() } else { 0 }
        };
        let enough = 1 + random.below(IMAGES - 200);
        while runs.iter_mut().any(|run| run.try_wait().unwrap().is_none()) && made() < enough {}
        for mut run in runs {
            run.kill().unwrap();
            run.wait().unwrap();
        }
        for file in tool::files(Path::new(&job.out)) {
            let name = file.strip_prefix(&job.out).unwrap();
            if name.extension().is_some_and(|extension| extension == "tif") {
                assert_eq!(fs::read(&file).unwrap(), job.whole[name], "{}", name.display());
            }
        }
        let missing = job.missing();
        at_work += usize::from(!missing.is_empty());
        if round % 2 == 0 {
            for shard in ["0", "1", "2"] {
                job.make(shard, &[], 0);
            }
            job.merge(&format!("round {round}, {enough} images"));
        } else {
            // A run of all goes on with what shards made.
            let told = ended(
                tool::run(&["convert", &job.plan, "-o", &job.out, "--device", "cpu", "--resume"]),
                0,
            );
            assert!(told.contains("there already"), "{told}");
            same(&tree(&job.out), &job.whole, &format!("round {round}, {enough} images"));
        }
    }
    assert!(at_work * 2 >= rounds(6), "{at_work} were killed at work");
}

/// What is left by processes that are killed while names are temporary goes with the merge.
#[test]
fn merging_takes_away_what_killed_shards_left() {
    let job = Job::new(2, &[]);
    job.make("0", &[], 0);
    let planted = [".tensortiff-7-1.tmp", "d/a/.tensortiff-7-2.tmp", "d/.tensortiff-9-9.tmp"];
    for name in planted {
        fs::write(Path::new(&job.out).join(name), "left").unwrap();
    }
    // It may be another shard's that is at work.
    job.make("1", &[], 0);
    assert!(planted.iter().all(|name| Path::new(&job.out).join(name).exists()));
    let copy = format!("{}2", job.out);
    let copied = std::process::Command::new("cp").args(["-a", &job.out, &copy]).status();
    assert!(copied.unwrap().success());
    job.merge("leftovers");
    // A run of all that finds everything made does the same.
    ends_with(0, &["convert", &job.plan, "-o", &copy, "--resume", "--device", "cpu", "-q"]);
    same(&tree(&copy), &job.whole, "leftovers, and a run of all");
}

#[test]
fn a_merge_waits_until_all_images_are_there() {
    let job = Job::new(4, &[]);
    for shard in ["1", "3"] {
        job.make(shard, &[], 0);
    }
    assert_eq!(job.missing(), "0,2");
    let before = tree(&job.out);
    let (_, told) = ends_with(1, &["merge", &job.plan, &job.out]);
    assert!(told.contains("images are missing") && told.contains("tensortiff status"), "{told}");
    assert!(tree(&job.out) == before);
    job.make("0", &[], 0);
    job.make("2", &[], 0);
    // One image that is lost after that is missed.
    let lost = Path::new(&job.out).join("d/b/c/123.tif");
    fs::remove_file(&lost).unwrap();
    let missing = job.missing();
    assert!(missing.parse::<u32>().is_ok(), "{missing}");
    ends_with(1, &["merge", &job.plan, &job.out]);
    job.make(&missing, &[], 0);
    job.merge("a lost image");
    // And after the merge, too.
    fs::remove_file(&lost).unwrap();
    assert_eq!(job.missing(), missing);
    job.make(&missing, &[], 0);
    job.merge("a lost image after the merge");
}

/// As a loss of power leaves it: nobody knows what it said, nor of which shard.
#[test]
fn a_torn_journal_of_a_shard_costs_work_and_nothing_else() {
    let job = Job::new(3, &[]);
    let tear = |to: &dyn Fn(&mut Vec<u8>)| {
        job.clear();
        job.make("0", &[], 0);
        let is_journal = |path: &&std::path::PathBuf| path.to_str().unwrap().ends_with(".journal");
        let all = everything(Path::new(&job.out));
        let journal = all.iter().find(is_journal).unwrap();
        let mut bytes = fs::read(journal).unwrap();
        to(&mut bytes);
        fs::write(journal, bytes).unwrap();
        assert_eq!(job.missing(), "0-2");
    };
    let empty: &dyn Fn(&mut Vec<u8>) = &Vec::clear;
    for to in [empty, &|bytes| bytes.truncate(20), &|bytes| bytes[..4096].fill(0)] {
        tear(to);
        for shard in ["1", "0", "2"] {
            job.make(shard, &[], 0);
        }
        job.merge("a torn journal");
        tear(to);
        let all = ["convert", &job.plan, "-o", &job.out, "--resume", "--device", "cpu", "-q"];
        ends_with(0, &all);
        same(&tree(&job.out), &job.whole, "a torn journal, and a run of all");
        // After the merge, too, and it goes with the next.
        let head = fs::read_to_string(Path::new(&job.out).join("manifest.jsonl")).unwrap();
        let key = head.split("\"names\":\"").nth(1).unwrap().split('"').next().unwrap();
        let torn = Path::new(&job.out).join(format!(".tensortiff-{key}-1.journal"));
        fs::write(&torn, "").unwrap();
        job.merge("a torn journal after the merge");
        assert!(!torn.exists());
    }
}

#[test]
fn shards_share_a_folder_and_runs_of_all_do_not() {
    let job = Job::new(2, &[]);
    let busy = |told: &str| assert!(told.contains("another run is writing"), "{told}");
    // A lock that is held here is to the tool the lock of another run.
    fs::create_dir(&job.out).unwrap();
    let held = fs::File::open(&job.out).unwrap();
    held.lock_shared().unwrap();
    job.make("0", &[], 0);
    let all = ["convert", &job.plan, "-o", &job.out, "--resume", "--device", "cpu"];
    busy(&ends_with(1, &all).1);
    job.make("1", &[], 0);
    busy(&ends_with(1, &["merge", &job.plan, &job.out]).1);
    assert_eq!(job.missing(), "", "who only looks is not kept out");
    drop(held);
    let held = fs::File::open(&job.out).unwrap();
    held.lock().unwrap();
    busy(&job.make("0", &["--overwrite"], 1));
    drop(held);
    job.merge("locks");
}

#[test]
fn the_scheduler_says_which_shard() {
    let job = Job::new(3, &[]);
    let auto = |set: &[(&str, &str)], code| {
        let mut command = job.command("auto", &[]);
        for name in [
            "SLURM_ARRAY_TASK_ID",
            "SLURM_PROCID",
            "JOB_COMPLETION_INDEX",
            "AWS_BATCH_JOB_ARRAY_INDEX",
        ] {
            command.env_remove(name);
        }
        // A resubmitted array counts other tasks; the plan counts.
        command.env("SLURM_ARRAY_TASK_COUNT", "1");
        ended(command.envs(set.iter().copied()).output().unwrap(), code)
    };
    auto(&[("SLURM_ARRAY_TASK_ID", "2"), ("SLURM_PROCID", "0")], 0);
    assert_eq!(job.missing(), "0-1");
    auto(&[("JOB_COMPLETION_INDEX", "0")], 0);
    assert_eq!(job.missing(), "1");
    let told = auto(&[("SLURM_PROCID", "3")], 2);
    assert!(told.contains("--shard 3 (of SLURM_PROCID)") && told.contains("0 to 2"), "{told}");
    let told = auto(&[("AWS_BATCH_JOB_ARRAY_INDEX", "x")], 2);
    assert!(told.contains("AWS_BATCH_JOB_ARRAY_INDEX is x"), "{told}");
    assert!(auto(&[], 2).contains("none of SLURM_ARRAY_TASK_ID, "));
    auto(&[("AWS_BATCH_JOB_ARRAY_INDEX", "1")], 0);
    job.merge("auto");
}

#[test]
fn wrong_calls_are_refused_and_change_nothing() {
    let job = Job::new(3, &[]);
    job.make("1", &[], 0);
    let before = tree(&job.out);
    let dump = job.dump.as_str();
    let refused = |args: &[&str], reason: &str| {
        let (_, told) = ends_with(2, args);
        assert!(told.contains(reason), "{args:?}: {told}");
        assert!(tree(&job.out) == before, "{args:?}");
    };
    let (plan, out) = (job.plan.as_str(), job.out.as_str());
    let convert = |more: &[&'static str]| {
        let args = ["convert", plan, "-o", out].into_iter().map(str::to_owned);
        args.chain(more.iter().map(|&arg| arg.to_owned())).collect::<Vec<String>>()
    };
    for (more, reason) in [
        (&["--shard", "3"][..], "the plan has 3 shards, 0 to 2"),
        (&["--shard", "1/4"], "the plan has 3 shards, and what it says counts"),
        (&["--shard", "-1"], "-1"),
        (&["--shard", "first"], "first is no shard"),
        (&["--shard", "1", "--norm", "none"], "--norm: "),
        (&["--shard", "1", "-t", "a"], "--tensor: "),
        (&["--shard", "1", "--hash"], "--hash: "),
        (&["--name", "{tensor}.tif"], "--name: "),
        (&["--shard", "1", "--skip-existing"], "cannot be used with"),
        (&["--shard", "1", "--manifest", "m.jsonl"], "cannot be used with"),
    ] {
        let args = convert(more);
        refused(&args.iter().map(String::as_str).collect::<Vec<_>>(), reason);
    }
    refused(&["convert", plan, dump, "-o", out], "is given alone");
    refused(&["convert", dump, "-o", out, "--shard", "0/3"], "a shard is one of a plan");
    refused(&["plan", plan, "--shards", "3"], "cannot be planned again");
    refused(&["plan", dump, "--shards", "0"], "1 to 1000000");
    refused(&["plan", dump, "--shards", "1000001"], "1 to 1000000");
    // What `convert` would not know again is not made.
    let other = format!("{plan}.txt");
    refused(&["plan", dump, "--shards", "2", "-o", &other], "must be .jsonl");
    assert!(!Path::new(&other).exists());
    // A file that is no plan is not replaced by one.
    let other = format!("{plan}.jsonl");
    fs::write(&other, "theirs").unwrap();
    let (_, told) = ends_with(1, &["plan", dump, "--shards", "2", "-o", &other]);
    assert!(told.contains("something else than a plan"), "{told}");
    assert_eq!(fs::read(&other).unwrap(), b"theirs");
    // Nor is a file a folder in which nothing was made yet.
    for command in ["status", "merge"] {
        for file in [other.clone(), format!("{other}/out")] {
            let (_, told) = ends_with(1, &[command, plan, &file]);
            assert!(told.contains(&other) && !told.contains("missing"), "{command}: {told}");
        }
    }
    ends_with(0, &["convert", dump, "-o", &format!("{out}2"), "-q"]);
}

#[test]
fn a_plan_is_a_function_of_dump_and_options() {
    let job = Job::new(9, &[]);
    let first = fs::read(&job.plan).unwrap();
    job.plan(9, &[]);
    assert_eq!(fs::read(&job.plan).unwrap(), first);
    let (printed, _) = ends_with(0, &["plan", &job.dump, "--shards", "9", "-q"]);
    assert_eq!(printed.as_bytes(), first);
    // Without a shard a plan is a run like any other.
    ends_with(0, &["convert", &job.plan, "-o", &job.out, "-q", "--device", "cpu"]);
    same(&tree(&job.out), &job.whole, "a run by a plan");
    // Names of a list are in it.
    let list = job.dir.path().join("names.txt");
    let names: Vec<String> = (0..IMAGES).map(|at| format!("{}/{at}", at % 3)).collect();
    fs::write(&list, names.join("\n")).unwrap();
    let list = list.to_str().unwrap();
    job.clear();
    job.plan(2, &["--names-from", list]);
    fs::remove_file(list).unwrap();
    job.make("1", &[], 0);
    job.make("0", &[], 0);
    ends_with(0, &["merge", &job.plan, &job.out, "-q"]);
    let made = tree(&job.out);
    assert_eq!(made.len(), IMAGES + 1);
    assert!(made[Path::new("0/0.tif")] == job.whole[Path::new("d/a/0000.tif")]);
    assert!(
        made[Path::new("1/2308.tif").with_file_name(format!("{}.tif", 2305)).as_path()].len() > 448
    );
}

/// Another plan's shard, that makes other files of the same names, is not begun beside one that is at work.
#[test]
#[cfg(target_os = "linux")]
fn a_shard_at_work_keeps_others_plans_away() {
    let job = Job::new(2, &[]);
    let other = job.dir.path().join("other.jsonl").to_str().unwrap().to_owned();
    ends_with(0, &["plan", &job.dump, "--shards", "2", "-o", &other, "-q", "--norm", "none"]);
    let slow = std::process::Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=writev"])
        .args(["-e", "inject=writev:delay_enter=4000", env!("CARGO_BIN_EXE_tensortiff")])
        .args(["convert", &job.plan, "-o", &job.out, "--shard", "0", "--device", "cpu", "-q"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let images = || walked(&job.out);
    while images() < 5 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let begin = ["convert", &other, "-o", &job.out, "--shard", "0", "--device", "cpu", "-q"];
    let (_, told) = ends_with(1, &tool::join(&begin, &["--overwrite"]));
    assert!(told.contains("another run is writing to this folder"), "{told}");
    let output = slow.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    job.make("1", &[], 0);
    job.merge("a shard that others were kept away from");
    // Now nobody is at work.
    ends_with(0, &tool::join(&begin, &["--overwrite"]));
}

/// How many files there are below a folder in which somebody is at work: those that are listed may be gone
/// again, as the one is by which a run finds out whether it may write.
#[cfg(target_os = "linux")]
fn walked(folder: &str) -> usize {
    if Path::new(folder).is_dir() { tool::everything(Path::new(folder)).len() } else { 0 }
}

/// What a shard writes counts as much as what it reads: of tiny images most are headers.
#[test]
fn shards_read_and_write_about_as_many_bytes() {
    let dir = trees::folder();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let [dump, plan] = ["d.safetensors", "plan.jsonl"].map(path);
    let large = 64 * 64 * 4;
    tool::dump(
        dump.as_ref(),
        &[("large", "F32", &[8, 64, 64], 8 * large), ("tiny", "U8", &[4000, 2, 2], 16_000)],
    );
    ends_with(0, &["plan", &dump, "--shards", "4", "-o", &plan, "-q"]);
    let lines = fs::read_to_string(&plan).unwrap();
    let units = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let units: Vec<_> = units.filter(|line| line.get("written").is_some()).collect();
    let number = |of: &serde_json::Value, name: &str| of[name].as_u64().unwrap();
    let all = units.iter().map(|unit| number(unit, "read") + number(unit, "written"));
    let (least, most) = (all.clone().min().unwrap(), all.clone().max().unwrap());
    // By one image, at either end.
    assert!(units.len() == 4 && most - least <= 2 * (2 * large as u64 + 1024), "{least} {most}");
    assert_eq!(units.iter().map(|unit| number(unit, "images")).sum::<u64>(), 4008);
    for (shard, unit) in units.iter().enumerate() {
        let (out, shard) = (path(&format!("out{shard}")), shard.to_string());
        let convert = ["convert", &plan, "-o", &out, "--shard", &shard, "--device", "cpu", "-q"];
        ends_with(0, &convert);
        let images = |name: &Path| name.extension().is_some_and(|e| e == "tif");
        let files = tree(&out).into_iter().filter(|(name, _)| images(name));
        let bytes: usize = files.map(|(_, bytes)| bytes.len()).sum();
        assert_eq!(number(unit, "written"), bytes as u64, "{unit}");
    }
}

#[test]
fn a_dump_that_changed_since_the_plan_is_refused() {
    let job = Job::new(2, &[]);
    job.make("0", &[], 0);
    let before = tree(&job.out);
    let file = fs::File::options().write(true).open(&job.dump).unwrap();
    let was = file.metadata().unwrap().modified().unwrap();
    file.set_modified(was + Duration::from_secs(1)).unwrap();
    let told = job.make("1", &[], 1);
    assert!(
        told.contains("plan.jsonl") && told.contains("d.safetensors was modified since"),
        "{told}"
    );
    for command in ["status", "merge"] {
        let (_, told) = ends_with(1, &[command, &job.plan, &job.out]);
        assert!(told.contains("was modified since"), "{told}");
    }
    // A new plan does not take what the old one's shards made for its own, unless it is told to.
    job.plan(2, &[]);
    let told = job.make("0", &[], 1);
    assert!(told.contains("cannot be resumed") && told.contains("modified since"), "{told}");
    assert!(tree(&job.out) == before);
    file.set_modified(was).unwrap();
    job.plan(2, &[]);
    job.make("1", &[], 0);
    job.merge("the dump as it was");
    // Told to, they forget what was made of the dump before: shards, and a merge.
    for seconds in [1, 2] {
        file.set_modified(was + Duration::from_secs(seconds)).unwrap();
        job.plan(2, &[]);
        job.make("0", &["--overwrite"], 0);
        assert_eq!(job.missing(), "1");
        // What the first one made stands.
        job.make("1", &["--overwrite"], 0);
        assert_eq!(job.missing(), "");
        if seconds == 2 {
            ends_with(0, &["merge", &job.plan, &job.out]);
            let manifest = Path::new("manifest.jsonl");
            let is_image = |(name, file): (_, _)| (name != manifest).then_some((name, file));
            let images = |tree: Tree| tree.into_iter().filter_map(is_image).collect::<Tree>();
            same(&images(tree(&job.out)), &images(job.whole.clone()), "a dump that was changed");
        }
    }
}

#[test]
fn files_of_others_are_not_replaced_unasked() {
    let job = Job::new(2, &[]);
    let theirs = Path::new(&job.out).join("d/a/0005.tif");
    fs::create_dir_all(theirs.parent().unwrap()).unwrap();
    fs::write(&theirs, "theirs").unwrap();
    let told = job.make("0", &[], 1);
    assert!(told.contains("0005.tif: exists already"), "{told}");
    assert_eq!(everything(Path::new(&job.out)), std::slice::from_ref(&theirs));
    // It is in nobody else's way.
    job.make("1", &[], 0);
    job.make("0", &[], 1);
    assert_eq!(fs::read(&theirs).unwrap(), b"theirs");
    job.make("0", &["--overwrite"], 0);
    job.merge("a file in the way");
}

/// An image that fails is a shard that is not complete, and in the manifest as in one run's.
#[test]
#[cfg(target_os = "linux")]
fn failed_images_are_told_by_shard_and_in_the_manifest() {
    let job = Job::new(3, &[]);
    job.inject(&[("writev", "EISDIR")], true, 3);
    job.make("1", &[], 0);
    job.make("2", &[], 0);
    assert_eq!(job.missing(), "0");
    let (_, told) = ends_with(3, &["merge", &job.plan, &job.out]);
    assert!(told.contains(&format!("one manifest of {} images; 1 failed", IMAGES - 1)), "{told}");
    let (_, again) = ends_with(3, &["merge", &job.plan, &job.out]);
    assert!(again.contains("nothing to do") && again.contains("1 failed"), "{again}");
    let manifest = fs::read_to_string(Path::new(&job.out).join("manifest.jsonl")).unwrap();
    let failed: Vec<&str> = manifest.lines().filter(|line| line.contains("\"error\":\"")).collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(failed[0].contains("its file cannot be written"), "{}", failed[0]);
    // The shard makes it good.
    assert_eq!(job.missing(), "0");
    job.make("0", &[], 0);
    job.merge("a failed image");
    // Whichever journal comes first: that it failed once says nothing.
    for round in 0..6 {
        job.clear();
        job.inject(&[("writev", "EISDIR")], true, 3);
        for shard in ["0", "1", "2"] {
            job.make(shard, &[], 0);
        }
        job.merge(&format!("a failed image, round {round}"));
    }
}

/// Only what may go right another time ends with 75, and only of shards.
#[test]
#[cfg(target_os = "linux")]
fn a_scheduler_is_told_to_try_again_only_where_that_may_help() {
    let job = Job::new(1, &[]);
    let inject = |errors: &[(&str, &str)], shard: bool, code: i32| {
        job.clear();
        job.inject(errors, shard, code);
    };
    // One image that cannot be read; a run that cannot go on.
    inject(&[("pread64", "EIO")], true, 75);
    inject(&[("pread64", "EIO")], false, 3);
    inject(&[("writev", "ENOSPC")], true, 75);
    inject(&[("writev", "ENOSPC")], false, 1);
    inject(&[("writev", "EDQUOT")], true, 75);
    inject(&[("pread64", "ESTALE")], true, 75);
    // Not of the moment: the same again would fail again.
    inject(&[("pread64", "EINVAL")], true, 3);
    inject(&[("writev", "EROFS")], true, 1);
    // One that is, and one that is not.
    inject(&[("pread64", "EIO"), ("writev", "EISDIR")], true, 3);
    // One that is not, before the end of the run that is.
    inject(&[("linkat", "EISDIR"), ("writev", "ENOSPC")], true, 1);
    job.make("0", &[], 0);
    job.merge("all of that");
}

#[test]
#[cfg(target_os = "linux")]
fn a_shard_is_on_the_disk_when_that_was_asked_for() {
    let job = Job::new(2, &[]);
    for (when, wanted) in [("none", &[][..]), ("end", &["syncfs", "fsync", "fsync"])] {
        job.clear();
        let log = job.dir.path().join("log");
        let mut command = std::process::Command::new("strace");
        command
            .args(["-f", "-qq", "-e", "trace=fsync,fdatasync,syncfs", "-o", log.to_str().unwrap()])
            .arg(env!("CARGO_BIN_EXE_tensortiff"))
            .args(["convert", &job.plan, "-o", &job.out, "--shard", "0", "--device", "cpu", "-q"])
            .args(["--fsync", when]);
        ended(command.output().unwrap(), 0);
        let log = fs::read_to_string(log).unwrap();
        let mut calls = tool::traced_calls(&log);
        calls.retain(|call| call.contains("sync"));
        assert_eq!(calls, wanted, "{when}: {log}");
    }
}

/// It would be found by nobody who has the plan.
#[test]
#[cfg(target_os = "linux")]
fn a_dump_that_a_plan_cannot_name_is_not_planned() {
    use std::os::unix::ffi::OsStrExt as _;
    let job = Job::new(1, &[]);
    let odd = job.dir.path().join(std::ffi::OsStr::from_bytes(b"d\xff.safetensors"));
    fs::rename(&job.dump, &odd).unwrap();
    let plan = job.dir.path().join("other.jsonl");
    let mut command = tool::tool();
    command.arg("plan").arg(&odd).args(["--shards", "2", "-o"]).arg(&plan);
    let told = ended(command.output().unwrap(), 2);
    assert!(told.contains("no UTF-8"), "{told}");
    assert!(!plan.exists());
}
