//! Hostile input, one kind after the other, through the tool: whatever a dump, a plan or an output
//! folder holds, there is no panic, no hang, no death by a signal, no memory beyond a limit from
//! outside, nothing is touched outside of the output folder, and errors are lines that name the
//! file. `tests/bad_input.rs` has the lies of headers one by one, `tests/header_props.rs` and
//! `tests/record_props.rs` random ones. `TENSORTIFF_LONG=1` makes a header of a million tensors of
//! that of a hundred thousand.

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
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use tool::text;
use trees::{Tree, tree};

/// A folder with a hostile dump in it, and with something outside of the output that must stay as
/// it is.
struct Place {
    dir: tempfile::TempDir,
    dump: PathBuf,
    out: PathBuf,
}

impl Place {
    fn new() -> Place {
        let dir = trees::folder();
        let [dump, out, outside] =
            ["d.safetensors", "out", "outside"].map(|name| dir.path().join(name));
        fs::create_dir_all(outside.join("below")).unwrap();
        fs::write(outside.join("file"), "theirs").unwrap();
        fs::write(outside.join("below/0.tif"), "theirs").unwrap();
        Place { dir, dump, out }
    }

    fn outside(&self) -> PathBuf {
        self.dir.path().join("outside")
    }

    /// A dump of this header and so many bytes.
    fn dump(&self, json: &[u8], data: u64) {
        fs::write(&self.dump, [&(json.len() as u64).to_le_bytes()[..], json].concat()).unwrap();
        let file = fs::OpenOptions::new().write(true).open(&self.dump).unwrap();
        file.set_len(8 + json.len() as u64 + data).unwrap();
    }

    /// The tool within 2 GiB, which must end in time, in one of these ways.
    fn run(&self, args: &[&str], codes: &[i32]) -> Output {
        let before = self.all_but_out();
        let started = Instant::now();
        let output = Command::new("prlimit")
            .args(["--as=2147483648", "timeout", "-s", "KILL", "30"])
            .arg(env!("CARGO_BIN_EXE_tensortiff"))
            .args(args)
            .current_dir(self.dir.path())
            .output()
            .unwrap();
        let (told, code) = (text(&output.stderr), output.status.code());
        assert!(started.elapsed() < Duration::from_secs(20), "{args:?} took too long");
        assert!(code.is_some_and(|code| codes.contains(&code)), "{args:?}: {code:?} {told}");
        assert!(!told.contains("panicked"), "{args:?}: {told}");
        assert!(!told.chars().any(|c| c.is_control() && c != '\n'), "{told:?}");
        if matches!(code, Some(1..=3)) {
            let errors: Vec<&str> =
                told.lines().filter(|line| line.starts_with("tensortiff: error: ")).collect();
            assert!(!errors.is_empty(), "{args:?}: {told}");
            assert!(errors.iter().all(|line| line.len() < 2500), "{told}");
        }
        assert!(self.all_but_out() == before, "{args:?} touched something outside");
        output
    }

    /// What there is beside the output folder.
    fn all_but_out(&self) -> Tree {
        let mut all = tree(self.outside());
        for entry in fs::read_dir(self.dir.path()).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap();
            if name != "out" && name != "outside" {
                let size = fs::symlink_metadata(&path).unwrap().len();
                all.insert(Path::new("beside").join(name), size.to_le_bytes().to_vec());
            }
        }
        all
    }

    /// What `convert`, `plan` and the rest make of the dump: they all end in one of these ways.
    fn all_commands(&self, codes: &[i32]) {
        let dump = "d.safetensors";
        self.run(&["ls", dump], &[0, 1, 2]);
        self.run(&["ls", dump, "--json"], &[0, 1, 2]);
        let on_cpu = ["-o", "out", "--device", "cpu"];
        self.run(&[&["convert", dump, "-n"], &on_cpu[..]].concat(), codes);
        self.run(&["plan", dump, "--shards", "3"], codes);
        self.run(&[&["convert", dump], &on_cpu[..]].concat(), codes);
        self.run(&[&["convert", dump, "--resume"], &on_cpu[..]].concat(), codes);
        for file in if self.out.is_dir() { tool::files(&self.out) } else { Vec::new() } {
            let name = file.strip_prefix(&self.out).unwrap().to_str().unwrap();
            assert!(!name.contains(['\\', ':', '*', '?', '<', '|']), "{name}");
            let is_safe =
                |part: &str| part != ".." && !part.ends_with(['.', ' ']) && part.len() <= 255;
            assert!(name.split('/').all(is_safe), "{name}");
            assert!(!name.chars().any(char::is_control), "{name:?}");
            assert_eq!(&fs::read(&file).unwrap()[..4], b"II*\0", "{name}");
        }
    }
}

/// Entries of tensors of one byte each.
fn tensors(names: impl Iterator<Item = String>) -> (Vec<u8>, u64) {
    let mut json = String::from("{");
    let mut count = 0;
    for name in names {
        let name = serde_json::Value::from(name);
        let comma = if count > 0 { "," } else { "" };
        json += &format!(
            "{comma}{name}:{{\"dtype\":\"U8\",\"shape\":[1,1],\"data_offsets\":[{count},{}]}}",
            count + 1
        );
        count += 1;
    }
    json.push('}');
    (json.into_bytes(), count)
}

#[test]
fn headers_of_100_mb() {
    const LONGEST: usize = 100_000_000;
    let place = Place::new();
    // Of spaces behind an empty map; of one name; of metadata; of as many tensors as there can be.
    let (one, data) = tensors(std::iter::once("n".repeat(LONGEST - 100)));
    let padded = |mut json: Vec<u8>| {
        json.resize(LONGEST, b' ');
        json
    };
    place.dump(&padded(b"{}".to_vec()), 0);
    place.run(&["convert", "d.safetensors", "-o", "out", "--device", "cpu"], &[0]);
    place.dump(&padded(one), data);
    drop(fs::remove_dir_all(&place.out));
    place.run(&["convert", "d.safetensors", "-o", "out", "--device", "cpu"], &[0]);
    place.run(&["plan", "d.safetensors", "--shards", "3"], &[0]);
    assert_eq!(tool::files(&place.out).len(), 1);
    let metadata = format!("{{\"__metadata__\":{{\"k\":\"{}\"}}}}", "v".repeat(LONGEST - 40));
    place.dump(&padded(metadata.into_bytes()), 0);
    place.run(&["ls", "d.safetensors"], &[0]);
    // One byte more is refused for what it says.
    let mut json = padded(b"{}".to_vec());
    json.push(b' ');
    place.dump(&json, 0);
    place.all_commands(&[1]);
}

#[test]
fn headers_of_very_many_tensors() {
    let place = Place::new();
    let many = if std::env::var_os("TENSORTIFF_LONG").is_some() { 1_000_000 } else { 100_000 };
    let (json, data) = tensors((0..many).map(|at| format!("t{at}")));
    place.dump(&json, data);
    place.run(&["convert", "d.safetensors", "-o", "out", "-n", "--device", "cpu"], &[0]);
    place.run(&["plan", "d.safetensors", "--shards", "3"], &[0]);
    // A few of them, with every name looked at.
    let take = ["-o", "out", "-t", "t7777?", "--device", "cpu"];
    place.run(&[&["convert", "d.safetensors"], &take[..]].concat(), &[0]);
    assert_eq!(tool::files(&place.out).len(), 10);
}

#[test]
fn depth_bombs() {
    let place = Place::new();
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{{\"t\":{}1{}}}", open.repeat(5_000_000), close.repeat(5_000_000));
        place.dump(deep.as_bytes(), 0);
        place.all_commands(&[1]);
    }
    // A plan, too.
    let deep = format!("{}{}\n", "[".repeat(1_000_000), "]".repeat(1_000_000));
    fs::write(place.dir.path().join("p.jsonl"), deep).unwrap();
    place.run(&["convert", "p.jsonl", "-o", "out", "--shard", "0"], &[1]);
    place.run(&["status", "p.jsonl", "out"], &[1]);
}

#[test]
fn sizes_beyond_64_bits() {
    let place = Place::new();
    let most = u64::MAX;
    for (shape, begin, end) in [
        (format!("[{most},{most}]"), 0, 8),
        (format!("[{most},2,2]"), 0, 8),
        ("[4294967296,4294967296,1]".to_owned(), 0, 0),
        ("[18446744073709551616]".to_owned(), 0, 8),
        ("[1e30,1]".to_owned(), 0, 8),
        ("[-1,-1]".to_owned(), 0, 1),
        ("[2,4]".to_owned(), most, 8),
        ("[2,4]".to_owned(), most - 8, most),
        ("[2,4]".to_owned(), 8, 0),
    ] {
        let json = format!(
            "{{\"t\":{{\"dtype\":\"U8\",\"shape\":{shape},\"data_offsets\":[{begin},{end}]}}}}"
        );
        place.dump(json.as_bytes(), 8);
        place.all_commands(&[1]);
        assert!(!place.out.exists(), "{json}");
    }
}

#[test]
fn keys_that_are_there_twice() {
    let place = Place::new();
    let t = r#"{"dtype":"U8","shape":[1,1],"data_offsets":[0,1]}"#;
    for json in [
        format!("{{\"a\":{t},\"a\":{t}}}"),
        format!("{{\"a\":{t},\"\\u0061\":{t}}}"),
        "{\"__metadata__\":{},\"__metadata__\":{}}".to_owned(),
        "{\"a\":{\"dtype\":\"U8\",\"dtype\":\"F32\",\"shape\":[1,1],\"data_offsets\":[0,1]}}"
            .to_owned(),
    ] {
        place.dump(json.as_bytes(), 1);
        place.all_commands(&[1]);
        assert!(!place.out.exists());
    }
}

#[test]
fn names_that_lead_elsewhere_or_cannot_be_files() {
    let reserved = ["CON", "con", "nul.txt", "COM1", "lpt9.tif", "aux", "PRN.", "CONIN$", "NUL "];
    let names = [
        "..",
        ".",
        "../../evil",
        "a/../../../evil",
        "/etc/passwd",
        "//server/share",
        "C:\\evil",
        "c:evil",
        "..\\..\\evil",
        "a\0b",
        "a\nb",
        "a\rb",
        "\u{1b}[2J",
        "\u{202E}gpj",
        "~",
        "~root",
        "-rf",
        "$(reboot)",
        "`x`",
        " ",
        "a ",
        "a.",
        "a/",
        "/",
        "a//b",
        "*",
        "?",
        "<|>\"",
        "",
        "é",
        "e\u{301}",
        "😀",
        "file:stream",
    ];
    let long = ["x", "é", "😀"].map(|text| text.repeat(300));
    let all = reserved.iter().chain(&names).map(|&name| name.to_owned()).chain(long);
    let place = Place::new();
    // Each by itself: some of them together would meet.
    let mut made = 0;
    for name in all {
        drop(fs::remove_dir_all(&place.out));
        let (json, data) = tensors(std::iter::once(name.clone()));
        place.dump(&json, data);
        place.all_commands(&[0]);
        let files = tool::files(&place.out);
        assert_eq!(files.len(), 1, "{name:?}");
        let stem = files[0].file_stem().unwrap().to_str().unwrap().to_ascii_lowercase();
        let device = stem.split('.').next().unwrap();
        assert!(
            !["con", "nul", "com1", "lpt9", "aux", "prn"].contains(&device),
            "{name:?}: {stem}"
        );
        made += 1;
    }
    assert!(made > 40);
}

#[test]
fn names_that_meet() {
    let place = Place::new();
    for pair in [["a", "A"], ["é", "É"], ["a/b", "A/B"], ["a", "a.tif/b"]] {
        let (json, data) = tensors(pair.into_iter().map(str::to_owned));
        place.dump(&json, data);
        let codes = if pair[0] == "é" { &[0, 2][..] } else { &[2] };
        place.all_commands(codes);
        drop(fs::remove_dir_all(&place.out));
    }
}

#[test]
fn axes_of_no_length() {
    let place = Place::new();
    let most = u64::MAX;
    for shape in ["[0,0]", "[0]", "[5,0,7]", "[]", "[0,1,1]", &format!("[{most},{most},0]")] {
        let end = u8::from(shape == "[]");
        let json =
            format!("{{\"t\":{{\"dtype\":\"U8\",\"shape\":{shape},\"data_offsets\":[0,{end}]}}}}");
        place.dump(json.as_bytes(), end.into());
        place.all_commands(if shape.len() > 20 { &[0, 1] } else { &[0] });
    }
}

/// A dump that is a hole of terabytes, of images of one byte.
#[test]
fn more_images_than_there_are_bits() {
    let place = Place::new();
    let images = 1_u64 << 40;
    let json = format!(
        "{{\"t\":{{\"dtype\":\"U8\",\"shape\":[{images},1,1],\"data_offsets\":[0,{images}]}}}}"
    );
    place.dump(json.as_bytes(), images);
    let plan = place.run(&["plan", "d.safetensors", "--shards", "1000"], &[0]);
    fs::write(place.dir.path().join("p.jsonl"), plan.stdout).unwrap();
    let on_cpu = ["-o", "out", "--device", "cpu"];
    for more in [&["--resume"][..], &["--skip-existing"], &["--resume=hash", "-n"]] {
        let output = place.run(&[&["convert", "d.safetensors"], &on_cpu[..], more].concat(), &[2]);
        assert!(text(&output.stderr).contains("images are too many"), "{more:?}");
    }
    place.run(&[&["convert", "p.jsonl", "--shard", "7"], &on_cpu[..]].concat(), &[2]);
    place.run(&["status", "p.jsonl", "out"], &[2]);
    place.run(&["merge", "p.jsonl", "out"], &[2]);
    // The disk has no room for so many, which is told at once.
    place.run(&[&["convert", "d.safetensors"], &on_cpu[..]].concat(), &[1]);
    assert!(!place.out.exists());
}

/// The same of ranges that images share two by two.
#[test]
fn more_ranges_than_memory_holds() {
    let place = Place::new();
    let channels = 1_u64 << 40;
    let json = format!(
        "{{\"t\":{{\"dtype\":\"U8\",\"shape\":[2,{channels},1,1],\"data_offsets\":[0,{}]}}}}",
        2 * channels
    );
    place.dump(json.as_bytes(), 2 * channels);
    let on_cpu = ["-o", "out", "--device", "cpu", "--no-space-check"];
    let commands: [&[&str]; 4] = [
        &["stats", "d.safetensors", "--by", "channel"],
        &["plan", "d.safetensors", "--shards", "3", "--scope", "channel"],
        &[&["convert", "d.safetensors", "--scope", "channel"], &on_cpu[..]].concat(),
        &[&["convert", "d.safetensors", "--scope", "channel", "-n"], &on_cpu[..]].concat(),
    ];
    for args in commands {
        let told = text(&place.run(args, &[2]).stderr);
        assert!(told.contains("ranges are too many"), "{args:?}: {told}");
    }
    assert!(!place.out.exists());
}

/// Links in the output folder that lead outside: to a folder, to a file, to nothing, in the place of a
/// folder of images, of an image, of the run's own files.
#[test]
fn links_in_the_output_folder() {
    let place = Place::new();
    let (json, data) = tensors(["a/b".to_owned(), "c".to_owned()].into_iter());
    place.dump(&json, data);
    let outside = place.outside();
    let plan = place.run(&["plan", "d.safetensors", "--shards", "1"], &[0]);
    fs::write(place.dir.path().join("p.jsonl"), plan.stdout).unwrap();
    for (link, target) in [
        ("d", outside.clone()),
        ("d/a", outside.join("below")),
        ("d/c.tif", outside.join("file")),
        ("d/a/b.tif", outside.join("missing")),
        ("manifest.jsonl", outside.join("file")),
    ] {
        for more in [&[][..], &["--overwrite"], &["--resume"], &["--skip-existing"], &["shard"]] {
            drop(fs::remove_dir_all(&place.out));
            let at = place.out.join(link);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            symlink(&target, &at).unwrap();
            let args: &[&str] = match more {
                ["shard"] => &["convert", "p.jsonl", "-o", "out", "--shard", "0"],
                _ => &["convert", "d.safetensors", "-o", "out"],
            };
            let more = if *more == ["shard"] { &[] } else { more };
            // A shard makes no manifest.
            let codes = if args.len() > 4 && link == "manifest.jsonl" { &[0, 1][..] } else { &[1] };
            place.run(&[args, more, &["--device", "cpu"]].concat(), codes);
            assert!(at.symlink_metadata().unwrap().is_symlink(), "{link} {more:?}");
        }
    }
}

/// The output folder itself may be a link: the user named it.
#[test]
fn an_output_folder_that_is_a_link() {
    let place = Place::new();
    let (json, data) = tensors(std::iter::once("t".to_owned()));
    place.dump(&json, data);
    let elsewhere = tempfile::tempdir().unwrap();
    let real = elsewhere.path().to_owned();
    symlink(&real, &place.out).unwrap();
    place.run(&["convert", "d.safetensors", "-o", "out", "--device", "cpu"], &[0]);
    assert!(real.join("d/t.tif").is_file());
}

/// A dump, or a plan, that is no file, or is another thing by the time that it is read.
#[test]
fn dumps_that_are_no_files() {
    let place = Place::new();
    let path = |name: &str| place.dir.path().join(name);
    fs::create_dir(path("folder.safetensors")).unwrap();
    assert!(Command::new("mkfifo").arg(path("pipe.safetensors")).status().unwrap().success());
    symlink(path("loop.safetensors"), path("loop.safetensors")).unwrap();
    symlink("/dev/zero", path("zero.safetensors")).unwrap();
    for name in ["folder", "pipe", "loop", "zero", "missing"] {
        let dump = format!("{name}.safetensors");
        // By its name it is a plan.
        let plan = format!("{name}.jsonl");
        if name != "missing" {
            symlink(path(&dump), path(&plan)).unwrap();
        }
        // Nothing of these is compared: a pipe cannot be.
        for (command, file, more) in [
            ("ls", &dump, &[][..]),
            ("convert", &dump, &["-o", "out"]),
            ("convert", &plan, &["-o", "out", "--shard", "0"]),
            ("status", &plan, &["out"]),
            ("merge", &plan, &["out"]),
        ] {
            let output = Command::new("timeout")
                .args(["-s", "KILL", "20", "prlimit", "--as=536870912"])
                .args([env!("CARGO_BIN_EXE_tensortiff"), command])
                .arg(path(file))
                .args(more)
                .current_dir(place.dir.path())
                .output()
                .unwrap();
            let told = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{command} {file}: {told}");
            assert!(told.contains(file), "{told}");
            assert_eq!(told.lines().count(), 1, "{told}");
        }
    }
    assert!(!Path::new(&place.out).exists());
}
