//! Runs that go on with what other moments left than those that `tests/resume.rs` kills at: a
//! manifest that a loss of power tore, a header that is not what was written, another run of the same
//! dump, files that were to be kept. Every test calls the tool as people do.

#![cfg(all(target_os = "linux", feature = "cli"))]
#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

#[path = "common/tool.rs"]
mod tool;
#[path = "common/trees.rs"]
mod trees;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tool::{ends_with, text};
use trees::{Tree, folder, same, tree};

/// A dump of three tensors, nine images, and a folder for them.
struct Job {
    dir: tempfile::TempDir,
    dump: String,
    out: String,
}

impl Job {
    fn new() -> Job {
        let dir = folder();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let (dump, out) = (path("d.safetensors"), path("out"));
        tool::dump(
            Path::new(&dump),
            &[
                ("a", "U8", &[3, 8, 8], 192),
                ("b", "F32", &[4, 5, 5], 400),
                ("c", "F64", &[2, 2, 2], 64),
            ],
        );
        // More than one value in each image, and some that are not finite.
        let mut bytes = fs::read(&dump).unwrap();
        let data = bytes.len() - 656;
        for (k, byte) in bytes[data..].iter_mut().enumerate() {
            *byte = u8::try_from((k * k + 7 * k) % 251).unwrap();
        }
        bytes[data + 192..data + 196].copy_from_slice(&f32::NAN.to_le_bytes());
        bytes[data + 292..data + 296].copy_from_slice(&f32::INFINITY.to_le_bytes());
        fs::write(&dump, bytes).unwrap();
        Job { dir, dump, out }
    }

    fn args<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        [&["convert", &self.dump, "-o", &self.out, "--device", "cpu", "-j", "1"], more].concat()
    }

    fn at(&self, name: &str) -> PathBuf {
        Path::new(&self.out).join(name)
    }

    /// A run of its own, and what it leaves.
    fn whole(&self, more: &[&str]) -> Tree {
        drop(fs::remove_dir_all(&self.out));
        ends_with(0, &self.args(more));
        tree(&self.out)
    }
}

/// The tool under strace, with calls that are held up, or end it.
fn traced(inject: &str, args: &[&str]) -> Command {
    let call = inject.split(':').next().unwrap();
    let mut command = Command::new("strace");
    command
        .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")])
        .args(["-e", &format!("inject={inject}"), env!("CARGO_BIN_EXE_tensortiff")])
        .args(args)
        .stderr(std::process::Stdio::piped());
    command
}

/// A folder is locked when it is there. Of two runs that both found none the second looks again.
#[test]
fn a_run_that_was_overtaken_touches_nothing() {
    let job = Job::new();
    for more in [&["--norm", "none"][..], &[], &["--resume"]] {
        drop(fs::remove_dir_all(&job.out));
        let late = traced("flock:delay_enter=3000000:when=1", &job.args(more)).spawn().unwrap();
        // It has made the folder, and is about to lock it.
        while !Path::new(&job.out).is_dir() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        std::thread::sleep(std::time::Duration::from_millis(300));
        ends_with(0, &job.args(&[]));
        let whole = tree(&job.out);
        let output = late.wait_with_output().unwrap();
        let (code, told) = (output.status.code(), text(&output.stderr));
        // What is there is what it would have made, or somebody else's.
        let wanted = if more == ["--resume"] { 0 } else { 1 };
        assert_eq!(code, Some(wanted), "{more:?}: {told}");
        assert!(wanted == 0 || told.contains("exists already"), "{more:?}: {told}");
        same(&tree(&job.out), &whole, &told);
        ends_with(0, &job.args(&["--resume"]));
    }
}

/// A file is made and taken away to see whether that works here. Whatever kills a run in between, and before
/// it has a journal, leaves nothing that the next does not take away.
#[test]
fn a_run_that_was_killed_before_it_began_leaves_nothing() {
    let job = Job::new();
    let whole = job.whole(&[]);
    for call in ["unlinkat", "flock", "rename", "mkdir"] {
        for when in 1..=2 {
            drop(fs::remove_dir_all(&job.out));
            let inject = format!("{call}:signal=KILL:when={when}");
            let killed = traced(&inject, &job.args(&[])).output().unwrap();
            let left = if Path::new(&job.out).is_dir() { tree(&job.out) } else { Tree::new() };
            println!("{inject}: {:?}, {:?}", killed.status, left.keys());
            ends_with(0, &job.args(&["--resume"]));
            same(&tree(&job.out), &whole, &inject);
        }
    }
}

/// Runs whose manifests are put into one folder at once do not mix them.
#[test]
fn manifests_of_several_folders_in_one_are_each_its_own() {
    let job = Job::new();
    let path = |name: &str| job.dir.path().join(name).to_str().unwrap().to_owned();
    let [other, out, mine, theirs] = ["other", "out2", "m/mine.jsonl", "m/theirs.jsonl"].map(path);
    fs::create_dir_all(&other).unwrap();
    fs::create_dir_all(path("m")).unwrap();
    let other = format!("{other}/d.safetensors");
    fs::copy(&job.dump, &other).unwrap();
    let args = job.args(&["--manifest", &mine]);
    let slow = traced("rename:delay_enter=1500000", &args).spawn().unwrap();
    while !fs::read_dir(path("m")).unwrap().any(|_| true) {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    ends_with(0, &["convert", &other, "-o", &out, "--device", "cpu", "--manifest", &theirs]);
    let output = slow.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    for (manifest, dump) in [(mine, &job.dump), (theirs, &other)] {
        let lines = fs::read_to_string(manifest).unwrap();
        let of_it = |line: &&str| line.contains(&format!("\"source\":\"{dump}\""));
        assert_eq!(lines.lines().filter(of_it).count(), 9, "{dump}");
    }
}

/// A manifest that is cut short is not printed as if it were whole.
#[test]
fn a_damaged_manifest_is_told_when_it_is_printed() {
    let job = Job::new();
    job.whole(&[]);
    let manifest = job.at("manifest.jsonl");
    let whole = fs::read_to_string(&manifest).unwrap();
    let (printed, _) = ends_with(0, &["manifest", &job.out, "--csv"]);
    assert_eq!(printed.lines().count(), 10);
    let cut = whole.len() * 2 / 3;
    fs::write(&manifest, &whole[..cut]).unwrap();
    let (printed, told) = ends_with(1, &["manifest", &job.out, "--csv"]);
    let lines = printed.lines().count();
    assert!((3..10).contains(&lines), "{printed}");
    let says = format!("line {} is none of the 9 that it has of images", lines + 1);
    assert!(told.contains(&says) && told.contains("manifest.jsonl"), "{told}");
}

/// What a manifest's lines say of the dump's path is part of what a run takes.
#[test]
fn room_for_long_paths_is_counted() {
    let dir = folder();
    let deep =
        (0..12).fold(dir.path().to_owned(), |path, k| path.join((k % 10).to_string().repeat(200)));
    fs::create_dir_all(&deep).unwrap();
    let dump = deep.join("d.safetensors");
    tool::dump(&dump, &[("a", "U8", &[3000, 2, 2], 12_000)]);
    let out = dir.path().join("out");
    let args = ["convert", dump.to_str().unwrap(), "-o", out.to_str().unwrap(), "--device", "cpu"];
    let (told, _) = ends_with(0, &tool::join(&args, &["-n", "--json"]));
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    ends_with(0, &tool::join(&args, &["-q"]));
    let blocks = |bytes: usize| bytes.next_multiple_of(4096) as u64;
    let taken: u64 = tree(&out).values().map(|bytes| blocks(bytes.len())).sum();
    // And the journal, which was there beside the manifest.
    let most = told["disk_bytes"].as_u64().unwrap();
    assert!(most >= taken + 64 * 3000, "{most} for {taken}");
    assert!(most < taken + taken / 4, "{most} for {taken}");
}

/// Of a sharded dump each file counts, and not only all bytes and the latest time: here two change places,
/// and keep their times.
#[test]
fn another_part_of_a_sharded_dump_is_another_dump() {
    let dir = folder();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let parts = ["m-1.safetensors", "m-2.safetensors", "m-3.safetensors"].map(path);
    for (part, name) in parts.iter().zip(["a", "b", "c"]) {
        tool::dump(Path::new(part), &[(name, "U8", &[2, 8, 8], 128)]);
    }
    let [index, out] = ["m.safetensors.index.json", "out"].map(path);
    let map =
        r#"{"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors","c":"m-3.safetensors"}}"#;
    fs::write(&index, map).unwrap();
    let dated = |part: &str, day: u64| {
        let file = fs::File::options().write(true).open(part).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(86_400 * day);
        file.set_modified(time).unwrap();
    };
    let all = |days: [u64; 3]| parts.iter().zip(days).for_each(|(part, day)| dated(part, day));
    all([1, 2, 3]);
    let args = ["convert", &index, "-o", &out, "--device", "cpu", "-q"];
    ends_with(0, &args);
    ends_with(0, &tool::join(&args, &["--resume"]));
    all([2, 1, 3]);
    let (_, told) = ends_with(1, &tool::join(&args, &["--resume"]));
    assert!(told.contains("m.safetensors.index.json was modified since"), "{told}");
    all([1, 2, 3]);
    ends_with(0, &tool::join(&args, &["--resume"]));
}

/// Nothing of it is on the disk, or zeros, or its beginning; in the folder, beside another run's, or
/// elsewhere.
#[test]
fn a_torn_manifest_costs_work_and_nothing_else() {
    let job = Job::new();
    let other = concat!(env!("CARGO_MANIFEST_DIR"), "/data/minilm.safetensors");
    let elsewhere = job.dir.path().join("m.jsonl").to_str().unwrap().to_owned();
    for place in ["alone", "beside", "elsewhere"] {
        let more = if place == "elsewhere" { vec!["--manifest", &elsewhere] } else { vec![] };
        for way in 0..7 {
            drop(fs::remove_dir_all(&job.out));
            drop(fs::remove_file(&elsewhere));
            if place == "beside" {
                ends_with(0, &["convert", other, "-o", &job.out, "-q"]);
            }
            let before = if Path::new(&job.out).is_dir() { tree(&job.out) } else { Tree::new() };
            ends_with(0, &job.args(&more));
            let whole = tree(&job.out);
            let new = || {
                whole.keys().find(|name| {
                    !before.contains_key(*name) && name.extension().unwrap() == "jsonl"
                })
            };
            let path = if place == "elsewhere" {
                elsewhere.clone().into()
            } else {
                job.at(new().unwrap().to_str().unwrap())
            };
            let mut bytes = fs::read(&path).unwrap();
            let right = bytes.clone();
            let head = bytes.iter().position(|&byte| byte == b'\n').unwrap();
            match way {
                0 => bytes.clear(),
                1 => bytes.fill(0),
                2 => bytes.truncate(9),
                3 => bytes.truncate(head - 20),
                4 => bytes[head / 2..].fill(0),
                5 => bytes.truncate(head + 300),
                _ => bytes[head + 200..head + 600].fill(0),
            }
            fs::write(&path, bytes).unwrap();
            let resumed = [&more[..], &["--resume"]].concat();
            let (_, told) = ends_with(0, &job.args(&resumed));
            same(&tree(&job.out), &whole, &format!("{place}, way {way}: {told}"));
            assert!(fs::read(&path).unwrap() == right, "{place}, way {way}: {told}");
            let (_, told) = ends_with(0, &job.args(&resumed));
            assert!(told.contains("nothing to do"), "{place}, way {way}: {told}");
        }
    }
    // What is no manifest is nobody's to replace.
    let holes = format!("{}theirs", "\0".repeat(20_000));
    let others = [
        "theirs\n",
        "[1, 2]\n",
        "{\"theirs\": 1}\n",
        "{\"tensortiff\":\"0.1.0\",\"shards\":2}\n",
        "{\"tensortiff\":\"notes\"}\n\0\0",
        &holes,
    ];
    for theirs in others {
        drop(fs::remove_dir_all(&job.out));
        fs::create_dir(&job.out).unwrap();
        fs::write(job.at("manifest.jsonl"), theirs).unwrap();
        ends_with(0, &job.args(&["--resume"]));
        assert_eq!(fs::read_to_string(job.at("manifest.jsonl")).unwrap(), theirs);
    }
}

/// Of images that another run replaces nobody says any more that they are there; of others everybody does.
#[test]
fn a_manifest_of_images_that_were_replaced_goes() {
    let job = Job::new();
    let other = concat!(env!("CARGO_MANIFEST_DIR"), "/data/minilm.safetensors");
    ends_with(0, &["convert", other, "-o", &job.out, "-q"]);
    ends_with(0, &job.args(&["--norm", "percentile"]));
    let manifests = || {
        let names = fs::read_dir(&job.out).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_str().unwrap().starts_with("manifest")).count()
    };
    assert_eq!(manifests(), 2);
    let some = ["-t", "a", "--norm", "percentile", "--clip", "2,98"];
    let (_, told) = ends_with(0, &job.args(&[&some[..], &["--overwrite"]].concat()));
    assert!(told.contains("taken away") && told.contains("(d/a"), "{told}");
    assert_eq!(manifests(), 2, "its own, and the one of other images");
    let (_, told) = ends_with(1, &job.args(&["--norm", "percentile", "--resume"]));
    assert!(told.contains("cannot be resumed: --clip was 2.0,98.0"), "{told}");
    ends_with(0, &["verify", &job.out, "-q"]);
    // What is kept stays whose it is.
    ends_with(0, &job.args(&["--norm", "percentile", "--skip-existing"]));
    assert_eq!(manifests(), 3);
}

/// The manifest's lines come from the one before where images are there, whatever the norm.
#[test]
fn one_image_that_is_missing_changes_nothing_of_the_manifest() {
    let job = Job::new();
    let norms: [&[&str]; 6] = [
        &[],
        &["--norm", "zscore"],
        &["--norm", "zscore", "--scope", "dump", "--sigma", "2"],
        &["--norm", "percentile", "--scope", "tensor"],
        &["--norm", "symmetric", "--scope", "channel", "--constant", "half"],
        &["--norm", "none"],
    ];
    for norm in norms {
        let more = [norm, &["--hash"]].concat();
        let whole = job.whole(&more);
        for check in ["--resume", "--resume=hash"] {
            fs::remove_file(job.at("d/b/2.tif")).unwrap();
            let (_, told) = ends_with(0, &job.args(&[&more[..], &[check]].concat()));
            assert!(told.starts_with("1 image, "), "{norm:?}: {told}");
            same(&tree(&job.out), &whole, &format!("{norm:?} {check}"));
        }
    }
}

/// Every byte of a header counts, and none of a right one is doubted.
#[test]
fn damaged_headers_are_found_by_hashes() {
    let job = Job::new();
    let asked = [
        &[][..],
        &["--norm", "zscore"],
        &["--norm", "percentile", "--scope", "dump"],
        &["--compress", "deflate", "--predictor", "auto"],
        &["--compress", "zstd", "--bigtiff", "yes"],
        &["--tile", "16"],
        &["--profile", "gis", "--scope", "tensor"],
    ];
    for norm in asked {
        let more = [norm, &["--hash"]].concat();
        let whole = job.whole(&more);
        let again = job.args(&[&more[..], &["--resume=hash"]].concat());
        let (_, told) = ends_with(0, &again);
        assert!(told.contains("nothing to do"), "{norm:?}: {told}");
        for name in ["d/a/1.tif", "d/b/0.tif", "d/c/1.tif"] {
            let pixels = match name {
                "d/a/1.tif" => 256,
                "d/b/0.tif" => 100,
                _ => 16,
            };
            let right = &whole[Path::new(name)];
            // Of what is packed every byte counts as well.
            let is_packed = norm.contains(&"--compress")
                || norm.iter().any(|option| ["--tile", "--profile"].contains(option));
            let header = if is_packed { right.len() } else { right.len() - pixels };
            for at in (0..header).step_by(29).chain([header - 1]) {
                let mut bytes = right.clone();
                bytes[at] ^= 1;
                fs::write(job.at(name), bytes).unwrap();
                let (_, told) = ends_with(0, &again);
                let one = told.lines().any(|line| line.starts_with("1 image, "));
                assert!(one, "{norm:?} {name}, byte {at}: {told}");
                same(&tree(&job.out), &whole, &format!("{norm:?} {name}, byte {at}"));
            }
            let mut bytes = right.clone();
            bytes[..header].fill(0);
            fs::write(job.at(name), bytes).unwrap();
            ends_with(0, &again);
            same(&tree(&job.out), &whole, name);
        }
    }
}

/// After a run that was finished, one that would make some of its files otherwise.
#[test]
fn other_images_of_the_same_dump_are_refused_with_the_reason() {
    let job = Job::new();
    let cases: [(&[&str], &str); 4] = [
        (&["-t", "b"], "-t was \"\", and now is \"b\""),
        (&["--exclude", "b"], "--exclude was \"\", and now is \"b\""),
        (&["--channel", "1"], "--channel was none, and now is 1"),
        (&["--name", "{stem}/{tensor}/{index}.tif", "-t", "[bc]"], "-t was"),
    ];
    let whole = job.whole(&[]);
    for (more, why) in cases {
        for dry in [&[][..], &["-n"]] {
            let (_, told) = ends_with(1, &job.args(&[more, &["--resume"], dry].concat()));
            assert!(told.contains("cannot be resumed") && told.contains(why), "{more:?}: {told}");
        }
        // Who does not ask to go on is told what is there.
        let (_, told) = ends_with(1, &job.args(more));
        assert!(told.contains("exists already"), "{more:?}: {told}");
    }
    same(&tree(&job.out), &whole, "after all of them");
    // Other files of the same dump are another run.
    job.whole(&["-t", "a"]);
    ends_with(0, &job.args(&["-t", "b", "--resume"]));
}

/// A run that was to keep what exists is killed at each of its first writes to its record; the one
/// that goes on replaces nothing of it.
#[test]
fn what_was_to_be_kept_is_kept_by_the_run_that_goes_on() {
    let job = Job::new();
    let theirs = ["d/a/1.tif", "d/b/0.tif", "d/c/1.tif"];
    let mut at_work = 0;
    for when in 1..=8 {
        drop(fs::remove_dir_all(&job.out));
        for name in theirs {
            fs::create_dir_all(job.at(name).parent().unwrap()).unwrap();
            fs::write(job.at(name), "theirs").unwrap();
        }
        let killed = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=pwrite64"])
            .args(["-e", &format!("inject=pwrite64:signal=KILL:when={when}")])
            .arg(env!("CARGO_BIN_EXE_tensortiff"))
            .args(job.args(&["--skip-existing"]))
            .output()
            .expect("strace is there: install it");
        at_work += u32::from(!killed.status.success());
        let output = tool::run(&job.args(&["--resume"]));
        let told = text(&output.stderr);
        assert!(matches!(output.status.code(), Some(0 | 1)), "{when}: {told}");
        for name in theirs {
            let kept = fs::read(job.at(name)).unwrap();
            assert!(kept == b"theirs", "{when}: {name} was replaced; {told}");
        }
        ends_with(0, &job.args(&["--skip-existing"]));
        let left: Vec<PathBuf> = tree(&job.out).into_keys().collect();
        assert_eq!(left.len(), 10, "{when}: {left:?}");
    }
    assert!(at_work > 3, "{at_work} runs were killed");
}

/// What a run left that was killed when it found out whether it can write, before it had a journal.
#[test]
fn leftovers_beside_a_finished_run_are_taken_away() {
    let job = Job::new();
    let whole = job.whole(&[]);
    for name in [".tensortiff-1-0.tmp", ".tensortiff-0123456789abcdef.tmp"] {
        fs::write(job.at(name), "half").unwrap();
    }
    let (_, told) = ends_with(0, &job.args(&["--resume"]));
    assert!(told.contains("nothing to do"), "{told}");
    same(&tree(&job.out), &whole, "after --resume");
}

/// A list may call a folder as the files are called that a killed run leaves: it stays.
#[test]
fn folders_with_temporary_names_are_no_leftovers() {
    let job = Job::new();
    let list = job.dir.path().join("names");
    let folder = |k: usize| if k.is_multiple_of(2) { "x/.tensortiff-1.tmp" } else { "x" };
    let names: Vec<String> = (0..9).map(|k| format!("{}/{k}", folder(k))).collect();
    fs::write(&list, names.join("\n")).unwrap();
    let named = ["--names-from", list.to_str().unwrap()];
    let whole = job.whole(&named);
    fs::remove_dir_all(&job.out).unwrap();
    // What a run that was killed left.
    fs::create_dir_all(job.at("x/.tensortiff-1.tmp")).unwrap();
    fs::write(job.at("x/.tensortiff-1.tmp/.tensortiff-7-1.tmp"), "left").unwrap();
    fs::write(job.at("x/.tensortiff-2.tmp"), "left").unwrap();
    for _ in 0..2 {
        ends_with(0, &job.args(&tool::join(&named, &["--resume"])));
        same(&tree(&job.out), &whole, "a resumed run");
        // So that there is something to do, and the folders are looked through.
        fs::remove_file(job.at("x/1.tif")).unwrap();
    }
}

/// The manifest and the journal of a shard may be read by whom the umask allows.
#[test]
fn records_have_the_permissions_that_the_umask_leaves() {
    use std::os::unix::fs::PermissionsExt as _;
    let job = Job::new();
    let plan = job.dir.path().join("p.jsonl");
    let plan = plan.to_str().unwrap();
    ends_with(0, &["plan", &job.dump, "-o", plan, "--shards", "2", "-q"]);
    for (umask, mode) in [("027", 0o640), ("000", 0o666), ("077", 0o600)] {
        drop(fs::remove_dir_all(&job.out));
        let run = |args: &[&str]| {
            let script = format!("umask {umask}; exec \"$@\"");
            let status = Command::new("sh")
                .args(["-c", &script, "sh", env!("CARGO_BIN_EXE_tensortiff")])
                .args(args)
                .status();
            assert!(status.unwrap().success(), "{args:?}");
        };
        let shard = |number| ["convert", plan, "-o", &job.out, "--shard", number, "-q"];
        run(&shard("0/2"));
        let journals: Vec<PathBuf> = tree(&job.out)
            .into_keys()
            .filter(|name| name.extension().is_some_and(|extension| extension == "journal"))
            .collect();
        assert_eq!(journals.len(), 1);
        let mode_of = |name: &Path| {
            fs::metadata(Path::new(&job.out).join(name)).unwrap().permissions().mode() & 0o777
        };
        assert_eq!(mode_of(&journals[0]), mode, "{umask}");
        run(&shard("1/2"));
        run(&["merge", plan, &job.out, "-q"]);
        assert_eq!(mode_of(Path::new("manifest.jsonl")), mode, "{umask}");
    }
}

/// Nobody finds a journal of a shard by its name before its head is whole.
#[test]
fn a_shards_journal_has_its_name_only_when_its_head_is_whole() {
    let job = Job::new();
    let path = |name: &str| job.dir.path().join(name).to_str().unwrap().to_owned();
    let (plan, log) = (path("p.jsonl"), path("log"));
    ends_with(0, &["plan", &job.dump, "-o", &plan, "--shards", "2", "-q"]);
    let traced = Command::new("strace")
        .args(["-f", "-qq", "-o", &log, "-e", "trace=openat,?open,?rename,renameat,?renameat2"])
        .arg(env!("CARGO_BIN_EXE_tensortiff"))
        .args(["convert", &plan, "-o", &job.out, "--shard", "0/2", "-q", "--device", "cpu"])
        .status();
    assert!(traced.expect("strace is there; scripts/test installs it").success());
    let log = fs::read_to_string(log).unwrap();
    let named = |line: &&str| line.contains(".journal\"");
    let made: Vec<&str> = log.lines().filter(named).filter(|l| l.contains("O_CREAT")).collect();
    assert_eq!(made, [""; 0]);
    assert_eq!(
        log.lines().filter(named).filter(|line| line.contains("rename")).count(),
        1,
        "{log}"
    );
}
