//! The tool where the system sets limits: full disks, few descriptors, folders that go away,
//! terminals. What a machine lacks for a test fails that test, by name.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data is small, and a test that panics says where"
)]
#![cfg(all(feature = "cli", target_os = "linux"))]

#[path = "common/tool.rs"]
mod tool;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use tool::{dump, files, folder, sample, sparse_dump, text, tool, until_at_work};

const TOOL: &str = env!("CARGO_BIN_EXE_tensortiff");

/// Runs the tool from a shell, in which it is `$0` and its arguments are `$@`.
fn from_shell(shell: &str, args: &[&str]) -> Output {
    let mut command = Command::new("sh");
    command.args(["-c", shell, TOOL]).args(args).env_remove("VK_DRIVER_FILES");
    command.stdin(Stdio::null()).output().expect("sh is there")
}

/// Runs the tool from a shell in a mount namespace of its own, after `mount`.
fn with_mount(mount: &str, after: &str, args: &[&str]) -> Output {
    let id = Command::new("id").arg("-u").output().expect("id is there");
    let user = if id.stdout == b"0\n" { "" } else { "-r" };
    let inner = format!("{mount} || exit 99; \"$0\" \"$@\"; code=$?; {after}; exit $code");
    let output = from_shell(&format!("exec unshare -m {user} sh -c '{inner}' \"$0\" \"$@\""), args);
    let told = text(&output.stderr);
    let able = output.status.code() != Some(99) && !told.contains("unshare:");
    assert!(able, "run as root, or allow user namespaces, for unshare and mount: {told}");
    output
}

fn whole(file: &Path, len: u64) {
    assert_eq!(file.extension().and_then(|e| e.to_str()), Some("tif"), "{}", file.display());
    assert_eq!(fs::metadata(file).unwrap().len(), len, "{}", file.display());
}

#[test]
fn a_full_disk_ends_the_run_with_whole_files_and_a_line_that_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let [path, out, kept] = ["d.safetensors", "out", "kept"].map(|name| dir.path().join(name));
    sparse_dump(&path, &[1000, 64, 64]);
    fs::create_dir(&out).unwrap();
    let [path, out, kept_at] = [&path, &out, &kept].map(|path| path.to_str().unwrap());
    let mount = format!("mount -t tmpfs -o size=1m none {out}");
    let output = with_mount(
        &mount,
        &format!("cp -r {out} {kept_at}"),
        &["convert", path, "-o", out, "--device", "cpu", "-j", "4", "--no-space-check"],
    );
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    for part in [out, ".tif: No space left on device", "stopped after", "which are whole"] {
        assert!(stderr.contains(part), "no {part} in {stderr}");
    }
    let written = files(&kept);
    // 1 MiB holds 51 images of 20 KiB; each thread may have been writing one.
    assert!(written.len() > 30 && written.len() < 64, "{} images", written.len());
    written.iter().for_each(|file| whole(file, 16_384 + 448));
    assert!(stderr.contains(&format!("stopped after {} of 1000", written.len())), "{stderr}");
}

/// Nothing is there of a stack for which a disk has not enough room, and of those before it all is.
#[test]
fn a_full_disk_in_the_middle_of_a_stack_leaves_none_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let [path, out, kept] = ["d.safetensors", "out", "kept"].map(|name| dir.path().join(name));
    dump(&path, &[("a", "U8", &[9, 64, 64], 9 * 4096), ("b", "U8", &[60, 64, 64], 60 * 4096)]);
    fs::create_dir(&out).unwrap();
    let [path, out, kept_at] = [&path, &out, &kept].map(|path| path.to_str().unwrap());
    let mount = format!("mount -t tmpfs -o size=1m none {out}");
    let after = format!("cp -r {out} {kept_at}");
    let convert =
        ["convert", path, "-o", out, "--device", "cpu", "-j", "1", "--stack", "tensor", "-q"];
    let output = with_mount(&mount, &after, &[&convert[..], &["--no-space-check"]].concat());
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    for part in ["d/b.tif: No space left on device", "stopped after 9 of 69 images"] {
        assert!(stderr.contains(part), "no {part} in {stderr}");
    }
    let name = |file: &std::path::PathBuf| file.strip_prefix(&kept).unwrap().to_owned();
    assert_eq!(files(&kept).iter().map(name).collect::<Vec<_>>(), [Path::new("d/a.tif")]);
    fs::remove_dir_all(&kept).unwrap();
    let output = with_mount(&mount, &after, &convert);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("the images need") && stderr.contains("left"), "{stderr}");
    assert!(files(&kept).is_empty());
}

/// Of a tar the same; of numbered ones those are there that had room, and the others when there is more.
#[test]
fn a_full_disk_in_the_middle_of_a_tar_leaves_none_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let [path, out, kept] = ["d.safetensors", "out", "kept"].map(|name| dir.path().join(name));
    dump(&path, &[("a", "U8", &[9, 64, 64], 9 * 4096), ("b", "U8", &[60, 64, 64], 60 * 4096)]);
    fs::create_dir(&out).unwrap();
    let tar = out.join("t.tar");
    let [path, out, kept_at, tar] = [&path, &out, &kept, &tar].map(|path| path.to_str().unwrap());
    let mount = format!("mount -t tmpfs -o size=1m none {out}");
    let after = format!("cp -r {out} {kept_at}");
    let convert = ["convert", path, "-o", tar, "--device", "cpu", "-j", "1", "-q"];
    for (more, images) in [(&[][..], 0), (&["--tar-size", "200K"], 55)] {
        let args = [&convert[..], more, &["--no-space-check"]].concat();
        let output = with_mount(&mount, &after, &args);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        for part in [".tar: No space left", &format!("stopped after {images} of 69 images")] {
            assert!(stderr.contains(part), "no {part} in {stderr}");
        }
        let tars: Vec<_> = fs::read_dir(&kept)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|of| of == "tar"))
            .collect();
        // Eleven images of 17,408 bytes to a tar.
        assert_eq!(tars.len(), images / 11, "{tars:?}");
        assert!(tars.iter().all(|tar| fs::metadata(tar).unwrap().len() > 11 * 17_408));
        fs::remove_dir_all(&kept).unwrap();
        let output = with_mount(&mount, &after, &[&convert[..], more].concat());
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("the images need") && stderr.contains("left"), "{stderr}");
        assert!(files(&kept).is_empty());
        fs::remove_dir_all(&kept).unwrap();
    }
}

/// A dry run finds what a run finds that is restricted to devices which cannot do it.
#[test]
fn a_dry_run_refuses_the_devices_that_a_run_refuses() {
    let (dir, out) = folder();
    let path = dir.path().join("d.safetensors");
    let dump_at = path.to_str().unwrap();
    dump(&path, &[("a", "U8", &[4, 4], 16), ("d", "F64", &[2, 2], 32)]);
    for more in [
        &["--device", "there is none"][..],
        &["--device", "gpu"],
        &["--device", "gpu", "--exclude", "d", "--max-memory", "32M"],
    ] {
        let args = [&["convert", dump_at, "-o", &out], more].concat();
        let output = tool::run(&args);
        let told = text(&output.stderr);
        assert!(matches!(output.status.code(), Some(1 | 2)), "{more:?}: {told}");
        let dry = tool::run(&[&args[..], &["-n", "--json"]].concat());
        assert_eq!(dry.status.code(), Some(1), "{more:?}: {}", text(&dry.stderr));
        assert!(text(&dry.stderr).contains(&told), "{more:?}: {} and {told}", text(&dry.stderr));
        let json: serde_json::Value = serde_json::from_slice(&dry.stdout).unwrap();
        assert!(told.contains(json["refused"].as_str().unwrap()), "{json}");
        assert_eq!(json["devices"], serde_json::json!([]), "{json}");
    }
    assert!(!Path::new(&out).exists());
    // Beside the CPU it is not used.
    let args = ["convert", dump_at, "-o", &out, "-n", "--max-memory", "32M", "--json"];
    let (told, _) = tool::ends_with(0, &[&args[..], &["--device", "cpu,gpu"]].concat());
    let json: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(json["devices"], serde_json::json!(["cpu"]), "{json}");
    assert!(told.contains("more memory than --max-memory allows"), "{told}");
}

/// Bytes, or files, that a small file system lacks are told before the first is taken.
#[test]
fn too_little_room_is_told_before_any_work() {
    let dir = tempfile::tempdir().unwrap();
    let [path, out] = ["d.safetensors", "out"].map(|name| dir.path().join(name));
    sparse_dump(&path, &[1000, 64, 64]);
    fs::create_dir(&out).unwrap();
    let [path, out] = [&path, &out].map(|path| path.to_str().unwrap());
    // 1000 images of 16,832 bytes in pages of 4096, and the run's own files.
    let told = |size: &str, more: &[&str]| {
        let output = with_mount(
            &format!("mount -t tmpfs -o {size} none {out}"),
            &format!("ls -A {out} | wc -l"),
            &[&["convert", path, "-o", out, "--device", "cpu", "-q"], more].concat(),
        );
        (output.status.code(), text(&output.stderr), text(&output.stdout))
    };
    for more in [&[][..], &["--overwrite"], &["--skip-existing"], &["--resume"]] {
        let (code, err, left) = told("size=19m", more);
        assert_eq!((code, left.trim()), (Some(1), "0"), "{err}");
        assert!(err.contains(out) && err.contains("the images need 2"), "{err}");
        assert!(err.contains(" bytes, and the file system has 19922944 left"), "{err}");
        let (code, err, left) = told("size=40m,nr_inodes=900", more);
        assert_eq!((code, left.trim()), (Some(1), "0"), "{err}");
        assert!(err.contains("the images need 1004 files and folders"), "{err}");
    }
    let (code, err, _) = told("size=19m", &["-n"]);
    assert!(code == Some(1) && err.contains("--no-space-check"), "{err}");
    assert_eq!(told("size=24m,nr_inodes=1010", &[]).0, Some(0));
    // What would be done is what is done, to the last file, also where the folder is made first; and files
    // that are replaced give back what they took, in whole blocks.
    let run = |mount: &str, more: &[&str]| {
        let below = format!("{out}/o");
        let args = [&["convert", path, "-o", &below, "-d", "cpu", "-q"], more].concat();
        with_mount(mount, &format!("ls -A {out} | wc -l"), &args)
    };
    let mut codes = Vec::new();
    for inodes in 1003..1010 {
        let mount = format!("mount -t tmpfs -o size=40m,nr_inodes={inodes} none {out}");
        let [dry, real] = [&["-n"][..], &[]].map(|more| run(&mount, more));
        let told = text(&real.stderr);
        assert_eq!(dry.status.code(), real.status.code(), "{inodes}: {told}");
        assert!(real.status.success() || text(&real.stdout).trim() == "0", "{inodes}: {told}");
        codes.push(real.status.success());
    }
    assert!(!codes[0] && codes[6], "{codes:?}");
    let tool = env!("CARGO_BIN_EXE_tensortiff");
    let mount = format!(
        "mount -t tmpfs -o size=22m none {out} && {tool} convert {path} -o {out}/o -d cpu -q"
    );
    let again = run(&mount, &["--overwrite"]);
    assert!(again.status.success(), "{}", text(&again.stderr));
}

/// A bench looks for no room: what it cannot write is named, and nothing of it stays.
#[test]
fn a_bench_that_fills_a_disk_says_where_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let [path, out] = ["d.safetensors", "out"].map(|name| dir.path().join(name));
    sparse_dump(&path, &[1000, 64, 64]);
    let large = dir.path().join("large.safetensors");
    sparse_dump(&large, &[2, 2048, 2048]);
    fs::create_dir(&out).unwrap();
    let [path, large, out] = [&path, &large, &out].map(|path| path.to_str().unwrap());
    for (size, dump) in [
        ("size=1m", path),
        ("size=1m", large),
        ("size=40m,nr_inodes=3", path),
        ("size=40m,nr_inodes=900", path),
    ] {
        let output = with_mount(
            &format!("mount -t tmpfs -o {size} none {out}"),
            &format!("ls -A {out} | wc -l"),
            &["bench", dump, "-o", out, "--device", "cpu", "--rounds", "1", "-q"],
        );
        let (err, left) = (text(&output.stderr), text(&output.stdout));
        assert_eq!((output.status.code(), left.trim()), (Some(1), "0"), "{size}: {err}");
        let named = err.contains(&format!("{out}/tensortiff-bench-"));
        assert!(named && err.lines().count() == 1, "{size}: {err}");
    }
}

/// A run that filled a disk is continued when there is room.
#[test]
fn a_full_disk_that_got_room_is_no_loss() {
    let dir = tempfile::tempdir().unwrap();
    let [path, out, kept, whole] =
        ["d.safetensors", "out", "kept", "whole"].map(|name| dir.path().join(name));
    sparse_dump(&path, &[300, 64, 64]);
    fs::create_dir(&out).unwrap();
    let [path, out, kept_at, whole_at] =
        [&path, &out, &kept, &whole].map(|path| path.to_str().unwrap());
    tool::ends_with(0, &["convert", path, "-o", whole_at, "-q"]);
    for size in ["size=64k", "size=1m", "size=3m", "nr_inodes=50,size=9m", "nr_inodes=200,size=9m"]
    {
        drop(fs::remove_dir_all(&kept));
        let output = with_mount(
            &format!("mount -t tmpfs -o {size} none {out}"),
            &format!(
                "mount -o remount,size=64m,nr_inodes=9000 {out} && \"$0\" \"$@\" --resume; cp -r {out} {kept_at}"
            ),
            &["convert", path, "-o", out, "--device", "cpu", "-j", "2", "-q", "--no-space-check"],
        );
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{size}: {told}");
        assert_eq!(told.lines().count(), 1, "{size}: {told}");
        let same = Command::new("diff").args(["-r", kept_at, whole_at]).output().unwrap();
        assert!(same.status.success(), "{size}: {told} {}", text(&same.stdout));
    }
}

#[test]
fn a_read_only_output_is_an_error_before_any_work() {
    let (dir, out) = folder();
    fs::create_dir(&out).unwrap();
    for below in ["", "/new"] {
        let target = format!("{out}{below}");
        let mount = format!("mount -t tmpfs -o ro none {out}");
        let output = with_mount(&mount, "true", &["convert", sample(), "-o", &target]);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        let told = format!("error: {target}: Read-only file system");
        assert!(stderr.contains(&told), "{stderr}");
        assert!(!stderr.contains("stopped after"), "{stderr}");
    }
    // Somebody else than root, who cannot look into every folder that the tool may lie in.
    let binary = dir.path().join("tool");
    fs::copy(TOOL, &binary).unwrap();
    fs::copy(sample(), dir.path().join("d.safetensors")).unwrap();
    let mode = |path: &Path, mode| {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(dir.path(), 0o755);
    mode(Path::new(&out), 0o555);
    let id = Command::new("id").arg("-u").output().expect("id is there");
    let other = if id.stdout == b"0\n" { "setpriv --reuid 65534 --clear-groups" } else { "" };
    let shell = format!("cd {} && exec {other} ./tool \"$@\"", dir.path().display());
    let output = from_shell(&shell, &["convert", "d.safetensors", "-o", "out"]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr} (install util-linux for setpriv)");
    assert!(stderr.contains("error: out: Permission denied"), "{stderr}");
    assert_eq!(files(Path::new(&out)).len(), 0);
}

/// Every dump has a number of its own as its one pixel.
#[test]
fn dumps_by_the_thousand_need_few_descriptors() {
    const DUMPS: usize = 1500;
    let (dir, out) = folder();
    let mut paths = Vec::new();
    for i in 0..DUMPS {
        let path = dir.path().join(format!("{i}.safetensors"));
        let value = f32::from(u16::try_from(i).unwrap());
        let json = r#"{"t":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]}}"#;
        let parts = [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &value.to_le_bytes()];
        fs::write(&path, parts.concat()).unwrap();
        paths.push(path.to_str().unwrap().to_owned());
    }
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let shell = "ulimit -n 64 && exec \"$0\" \"$@\"";
    let args = [&["convert", "--device", "cpu", "-j", "4", "-o", &out][..], &paths].concat();
    let output = from_shell(shell, &args);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.starts_with("1500 images"), "{stderr}");
    assert_eq!(files(Path::new(&out)).len(), DUMPS);
    for i in 0..DUMPS {
        let file = fs::read(Path::new(&out).join(format!("{i}/t.tif"))).unwrap();
        let pixel = f32::from_le_bytes(*file.last_chunk().unwrap());
        assert_eq!(pixel, f32::from(u16::try_from(i).unwrap()), "dump {i}");
    }
    let output = from_shell(shell, &[&["ls"][..], &paths].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout).lines().count(), DUMPS + 1);
}

/// What a driver opens meanwhile, say, is not known when the number of open inputs is decided.
#[test]
fn an_input_makes_room_for_itself_where_descriptors_run_out() {
    let (dir, out) = folder();
    let names: Vec<String> = (0..40).map(|i| format!("{i}.safetensors")).collect();
    for name in &names {
        dump(&dir.path().join(name), &[("a", "U8", &[1, 2], 2)]);
    }
    // Opened by its relative name for its header, by its absolute one for its image: of 64
    // descriptors inputs take 16.
    let shell = format!(
        "cd {dir} && ulimit -n 64 && exec strace -f -qq -o {out}.log -P {dir}/30.safetensors \
         -e trace=openat -e inject=openat:error=EMFILE:when=1 \"$0\" \"$@\"",
        dir = dir.path().display()
    );
    let mut args = vec!["convert", "--device", "cpu", "-j", "1", "-o", &out];
    args.extend(names.iter().map(String::as_str));
    let output = from_shell(&shell, &args);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr} (scripts/test installs strace)");
    let log = fs::read_to_string(format!("{out}.log")).unwrap();
    assert_eq!(log.matches("INJECTED").count(), 1, "{log}");
    assert_eq!(files(Path::new(&out)).len(), 40);
}

#[test]
fn without_descriptors_the_file_and_the_way_out_are_named() {
    let (dir, out) = folder();
    let path = dir.path().join("d.safetensors");
    dump(&path, &[("a", "U8", &[1, 2], 2)]);
    let path = path.to_str().unwrap();
    let traced = |inject: &str, args: &[&str]| {
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o", "/dev/null"]).args(inject.split(' ')).arg(TOOL).args(args);
        let output = command.output().expect("strace is there; scripts/test installs it");
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("Too many open files"), "{stderr}");
        assert!(stderr.contains("ulimit -n"), "what helps: {stderr}");
        stderr
    };
    let input = format!("-P {path} -e inject=openat:error=EMFILE");
    assert!(traced(&input, &["ls", path]).contains(&format!("error: {path}: ")));
    fs::create_dir(&out).unwrap();
    let output = format!("-P {out} -e inject=openat:error=EMFILE:when=3+");
    let stderr = traced(&output, &["convert", path, "-o", &out, "--device", "cpu"]);
    assert!(stderr.contains(&format!("error: {out}")), "{stderr}");
}

#[test]
fn an_output_folder_that_is_removed_in_mid_run_is_told() {
    for below in ["", "d", "d/t"] {
        let (dir, out) = folder();
        let path = dir.path().join("d.safetensors");
        sparse_dump(&path, &[400_000, 64, 64]);
        let child = tool()
            .args(["convert", path.to_str().unwrap(), "-o", &out, "--device", "cpu", "-j", "2"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        until_at_work(&out);
        let gone = if below.is_empty() { out.clone() } else { format!("{out}/{below}") };
        let (gone, started) = (Path::new(&gone), Instant::now());
        // The tool goes on writing meanwhile: a folder may be filled again while it is emptied.
        while gone.exists() && started.elapsed() < Duration::from_secs(30) {
            let _ = fs::remove_dir_all(gone);
        }
        let output = child.wait_with_output().unwrap();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        let error = stderr.lines().last().unwrap();
        let part = format!("{} is gone; was it removed or moved during the run?", gone.display());
        assert!(error.contains(&part), "no {part} in {error}");
        assert!(error.contains("which are whole"), "{error}");
    }
}

#[test]
fn a_full_standard_output_is_named() {
    for args in [&["ls", sample()][..], &["ls", "--json", sample()], &["devices"]] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let output = tool().args(args).stdout(full).output().unwrap();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
        assert_eq!(
            stderr,
            "tensortiff: error: standard output: No space left on device (os error 28)\n"
        );
    }
}

/// A limit on the length of files is an error that names the file, of whatever command, and no death by
/// a signal.
#[test]
fn files_that_may_not_be_so_long_are_errors_of_every_command() {
    let (dir, out) = folder();
    let [dump_at, plan, short] =
        ["d.safetensors", "plan.jsonl", "short.jsonl"].map(|name| dir.path().join(name));
    let names: Vec<String> = (0..250).map(|i| format!("tensor{i:03}")).collect();
    let one: &[u64] = &[1, 1];
    let tensors: Vec<_> = names.iter().map(|name| (name.as_str(), "U8", one, 1)).collect();
    dump(&dump_at, &tensors);
    let [dump, plan, short] = [&dump_at, &plan, &short].map(|path| path.to_str().unwrap());
    tool::ends_with(0, &["plan", dump, "-q", "--shards", "100", "-o", plan]);
    tool::ends_with(0, &["convert", dump, "-q", "-o", &out, "--device", "cpu"]);
    let shards = format!("{out}-shards");
    tool::ends_with(0, &["plan", dump, "-q", "--shards", "1", "-o", &format!("{plan}.1.jsonl")]);
    let of_one = format!("{plan}.1.jsonl");
    tool::ends_with(0, &["convert", &of_one, "-q", "-o", &shards, "--shard", "0"]);
    let results = format!("exec \"$0\" \"$@\" > {}/results", dir.path().display());
    let commands: [(&[&str], &str); 6] = [
        (&["ls", dump], "standard output"),
        (&["plan", dump, "--shards", "100"], "standard output"),
        (&["plan", dump, "--shards", "100", "-o", short], short),
        (&["manifest", &out], "standard output"),
        (&["manifest", &out, "--csv"], "standard output"),
        (&["merge", &of_one, &shards], &shards),
    ];
    for (args, about) in commands {
        // Of 512 bytes each, or of 1024.
        let output = from_shell(&format!("ulimit -f 4; {results}"), args);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {told}");
        assert!(told.starts_with("tensortiff: error: ") && told.lines().count() == 1, "{told}");
        assert!(told.contains(about) && told.contains("File too large"), "{args:?}: {told}");
    }
    let left = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let mut left: Vec<String> = left.map(|name| name.into_string().unwrap()).collect();
    left.sort();
    let all = ["d.safetensors", "out", "out-shards", "plan.jsonl", "plan.jsonl.1.jsonl", "results"];
    assert_eq!(left, all);
    tool::ends_with(0, &["merge", &of_one, &shards]);
}

/// Where the system gives no thread, others do its work.
#[test]
fn threads_that_cannot_be_had_are_not_missed() {
    let (_dir, out) = folder();
    for when in ["2", "3", "4", "2+", "3+", "4+"] {
        let output = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=clone,clone3"])
            .args(["-e", &format!("inject=clone,clone3:error=EAGAIN:when={when}")])
            .args([TOOL, "convert", sample(), "-o", &out, "-j", "4", "-q"])
            .output()
            .expect("strace is there; scripts/test installs it");
        assert_eq!(output.status.code(), Some(0), "{when}: {}", text(&output.stderr));
        assert_eq!(files(Path::new(&out)).len(), 317);
        fs::remove_dir_all(&out).unwrap();
    }
}

/// Nobody listens: the images are made all the same.
#[test]
fn closed_streams_cost_no_image() {
    for streams in [">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full", ">/dev/full 2>/dev/full"] {
        let (_dir, out) = folder();
        let shell = format!("exec \"$0\" \"$@\" {streams}");
        let output = from_shell(&shell, &["convert", sample(), "-o", &out, "--device", "cpu"]);
        assert_eq!(output.status.code(), Some(0), "{streams}");
        assert_eq!(files(Path::new(&out)).len(), 317, "{streams}");
        let mut child =
            tool().args(["convert", "-o", &out, sample()]).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stderr.take());
        assert_eq!(child.wait().unwrap().code(), Some(1), "they exist, which nobody reads");
    }
}

/// A manifest takes the place of one of the same images, and of nothing else; that it cannot be where
/// it is wanted is told before any work.
#[test]
fn a_manifest_takes_nothings_place() {
    let (dir, out) = folder();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (dump_at, other, theirs) = (at("d.safetensors"), at("other.jsonl"), at("theirs"));
    dump(Path::new(&dump_at), &[("a", "U8", &[1, 2], 2), ("b", "U8", &[1, 2], 2)]);
    tool::ends_with(0, &["convert", sample(), "-o", &at("o"), "-q", "--manifest", &other]);
    fs::write(&theirs, "theirs").unwrap();
    std::os::unix::fs::symlink(&theirs, at("link")).unwrap();
    assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
    let image = format!("{out}/d/a.tif");
    let convert = |more: &[&str]| {
        tool::run(&[&["convert", &dump_at, "-o", &out, "-q", "--device", "cpu"], more].concat())
    };
    let refused = |path: &str, why: &str| {
        for more in [&[][..], &["--overwrite"], &["--resume"], &["-n"]] {
            let before = fs::symlink_metadata(path).ok().map(|found| found.modified().unwrap());
            let output = convert(&[more, &["--manifest", path]].concat());
            let told = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{path} {more:?}: {told}");
            assert!(told.contains(path) && told.contains(why), "{path}: {told}");
            assert!(!Path::new(&out).exists(), "{path} {more:?}");
            let after = fs::symlink_metadata(path).ok().map(|found| found.modified().unwrap());
            assert_eq!(after, before, "{path} {more:?}");
        }
    };
    refused(&dump_at, "something else than a manifest");
    refused(&theirs, "something else than a manifest");
    refused(&other, "a manifest of other images");
    // Whole files that begin alike, and samples that begin with zeros.
    let plan = at("plan.jsonl");
    tool::ends_with(0, &["plan", "-q", &dump_at, "--shards", "2", "-o", &plan]);
    let [notes, zeros, damaged, holes] = ["n.jsonl", "z.raw", "m.jsonl", "h.jsonl"].map(at);
    fs::write(&notes, "{\"tensortiff\":\"notes\"}\n").unwrap();
    fs::write(&zeros, [0; 5000]).unwrap();
    let head = fs::read_to_string(&other).unwrap().replacen("\"failed\"", "\"fooled\"", 1);
    fs::write(&damaged, head).unwrap();
    fs::write(&holes, [&[0; 100][..], b"theirs", &[0; 100]].concat()).unwrap();
    for path in [&plan, &notes, &zeros, &damaged, &holes] {
        let before = fs::read(path).unwrap();
        refused(path, "something else than a manifest");
        assert!(fs::read(path).unwrap() == before, "{path}");
    }
    ["link", "pipe", "o"].iter().for_each(|name| refused(&at(name), "not a file"));
    refused(&at("missing/m.jsonl"), "no such folder");
    refused(&image, "no such folder");
    fs::create_dir_all(format!("{out}/d")).unwrap();
    let told = text(&convert(&["--manifest", &image]).stderr);
    assert!(told.contains("an image, or a folder of images, is to be here"), "{told}");
    // Of their folder, whether it is there or not, and of what a run takes away.
    fs::remove_dir_all(&out).unwrap();
    for (name, why) in [("d", "a folder of images"), (".tensortiff-1.tmp", "a run's own")] {
        let path = format!("{out}/{name}");
        let output = convert(&["--manifest", &path]);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains(&path) && told.contains(why), "{told}");
        assert!(!Path::new(&out).exists(), "{name}");
    }
    // Beside the images, and again.
    for more in [&[][..], &["--overwrite"], &["--resume"]] {
        let inside = format!("{out}/m.jsonl");
        assert_eq!(convert(&[more, &["--manifest", &inside]].concat()).status.code(), Some(0));
        assert_eq!(fs::read_to_string(inside).unwrap().lines().count(), 3);
    }
    fs::remove_dir_all(&out).unwrap();
    assert_eq!(convert(&["--manifest", &format!("{out}/m.jsonl")]).status.code(), Some(0));
}

/// A bar that is drawn over and over, and taken away at the end.
#[test]
fn a_terminal_shows_a_bar_with_rates_and_time_left() {
    let (dir, out) = folder();
    let path = dir.path().join("d.safetensors");
    sparse_dump(&path, &[40_000, 64, 64]);
    let command =
        format!("stty cols 80; '{TOOL}' convert '{}' -o '{out}' --device cpu -j 1", path.display());
    let output = Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .output()
        .expect("install bsdutils or util-linux (script)");
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{shown}");
    let bars: Vec<&str> =
        shown.split(['\r', '\n']).filter(|line| line.contains("images/s")).collect();
    assert!(bars.len() > 2, "{shown:?}");
    for bar in bars {
        for part in [" %  ", " of 40000 images, ", " GB/s, ", " s left"] {
            assert!(bar.contains(part), "no {part:?} in {bar:?}");
        }
    }
    assert!(shown.contains('█'), "the bar grows: {shown:?}");
    assert!(!shown.contains("\u{1b}[1A"), "it takes one line of 80 columns: {shown:?}");
    let last = shown.trim_end().rsplit(['\r', '\n', '\u{1b}']).next().unwrap();
    assert!(last.contains("40000 images, ") && last.contains("cpu 100 %"), "{last:?}");
}

/// With every image compared the run ends as ever, and says so to who wants to know.
#[test]
#[cfg(feature = "gpu")]
fn images_of_a_gpu_are_compared_with_the_cpus() {
    for (of, compared) in [("1", Some(317)), ("0", None)] {
        let (_dir, out) = tool::folder();
        let args = ["convert", tool::sample(), "-o", &out, "--device", "llvmpipe", "-v"];
        let (_, told) = tool::ends_with(0, &tool::join(&args, &["--verify-sample", of]));
        let says = compared.map(|compared| format!(", {compared} compared with the CPU's"));
        match says {
            Some(says) => assert!(told.contains(&says), "{told}"),
            None => assert!(!told.contains("compared"), "{told}"),
        }
    }
}
