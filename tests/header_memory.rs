//! What headers that were made to cost memory cost: each is read or refused within a small multiple of its
//! own bytes, by what is resident and under a limit from outside on what is mapped.

#![cfg(all(target_os = "linux", feature = "cli"))]
#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What the tool takes beside headers.
const BASE: u64 = 48 << 20;
/// What is mapped beside what is resident: the program, stacks, vectors that have grown.
const MAPPED: u64 = 192 << 20;

struct Ended {
    code: Option<i32>,
    told: String,
    most: u64,
    took: Duration,
}

/// The tool on a dump that must end within `limit` resident bytes, and some more that are mapped.
fn run(args: &[&str], dump: &Path, limit: u64) -> Ended {
    let started = Instant::now();
    let mut child = Command::new("prlimit")
        .args([&format!("--as={}", limit + MAPPED), env!("CARGO_BIN_EXE_tensortiff")])
        .args(args)
        .arg(dump)
        .current_dir(dump.parent().unwrap())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut told = Vec::new();
        stderr.read_to_end(&mut told).unwrap();
        String::from_utf8_lossy(&told).into_owned()
    });
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    let code = loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        most = most.max(1024 * kib.unwrap_or(0));
        if let Some(status) = child.try_wait().unwrap() {
            break status.code();
        }
        assert!(started.elapsed() < Duration::from_secs(30), "{args:?} {dump:?} takes too long");
        std::thread::sleep(Duration::from_millis(1));
    };
    let (told, took) = (reader.join().unwrap(), started.elapsed());
    assert!(most <= limit, "{args:?} {dump:?}: {most} bytes were resident, of {limit}: {told}");
    Ended { code, told, most, took }
}

/// The tool refuses a dump within `limit` in one line that names it and says `part`.
fn refused(dump: &Path, limit: u64, part: &str) {
    for args in [&["ls"][..], &["convert", "-n", "-o", "out", "--device", "cpu"]] {
        let Ended { code, told, .. } = run(args, dump, limit);
        assert_eq!(code, Some(1), "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
        let name = dump.file_name().unwrap().to_str().unwrap();
        assert!(told.contains(name) && told.contains(part) && told.len() < 2500, "{told}");
    }
}

fn safetensors(dir: &Path, json: &str, data: u64) -> PathBuf {
    let path = dir.join("d.safetensors");
    fs::write(&path, [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat()).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(8 + json.len() as u64 + data).unwrap();
    path
}

/// A ZIP archive of members that are stored.
fn zip(path: &Path, members: &[(&str, Vec<u8>)]) {
    let (mut all, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in members {
        let begin = u32::try_from(all.len()).unwrap().to_le_bytes();
        let len = u32::try_from(bytes.len()).unwrap().to_le_bytes();
        let name_len = u16::try_from(name.len()).unwrap().to_le_bytes();
        let common = [&[0; 14][..], &len, &len, &name_len, &[0; 2]].concat();
        all.extend([b"PK\x03\x04", &common[..], name.as_bytes(), bytes].concat());
        directory.extend([b"PK\x01\x02\0\0", &common[..], &[0; 10], &begin].concat());
        directory.extend(name.as_bytes());
    }
    let [size, begin] =
        [directory.len(), all.len()].map(|n| u32::try_from(n).unwrap().to_le_bytes());
    let count = u16::try_from(members.len()).unwrap().to_le_bytes();
    let end = [b"PK\x05\x06\0\0\0\0", &count[..], &count, &size, &begin, &[0; 2]].concat();
    fs::write(path, [all, directory, end].concat()).unwrap();
}

fn torch(dir: &Path, pickle: &[&[u8]]) -> PathBuf {
    let path = dir.join("d.pt");
    zip(&path, &[("a/data.pkl", pickle.concat()), ("a/data/0", vec![0])]);
    path
}

/// Numbers as names that are as short as so many can be.
fn short(number: usize) -> String {
    const LETTERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
    (0..4).map(|place| char::from(LETTERS[number >> (6 * place) & 63])).collect()
}

fn joined(count: usize, entry: impl Fn(usize) -> String) -> String {
    (0..count).map(entry).collect::<Vec<_>>().join(",")
}

#[test]
fn a_header_of_axes_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let one = format!(
        "{{\"t\":{{\"dtype\":\"U8\",\"shape\":[{}1],\"data_offsets\":[0,1]}}}}",
        "1,".repeat(10_000_000)
    );
    refused(&safetensors(dir.path(), &one, 1), BASE + 3 * one.len() as u64, "1000000 axes");
    // No tensor has so many by itself.
    let some = "1,".repeat(1000);
    let many = joined(10_000, |k| {
        format!(
            "\"{}\":{{\"dtype\":\"U8\",\"shape\":[{some}1],\"data_offsets\":[{k},{}]}}",
            short(k),
            k + 1
        )
    });
    let many = format!("{{{many}}}");
    refused(&safetensors(dir.path(), &many, 10_000), BASE + 3 * many.len() as u64, "1000000 axes");
}

#[test]
fn metadata_of_very_many_keys_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let json = |keys| {
        format!("{{\"__metadata__\":{{{}}}}}", joined(keys, |k| format!("\"{}\":\"\"", short(k))))
    };
    let (most, many) = (json(100_000), json(4_000_000));
    let dump = safetensors(dir.path(), &most, 0);
    assert_eq!(run(&["ls"], &dump, BASE).code, Some(0));
    refused(&safetensors(dir.path(), &many, 0), BASE + 2 * many.len() as u64, "100000 keys");
}

/// As many tensors as a header of its length can have, and such as models have.
#[test]
fn very_many_tensors_are_opened_in_eight_times_their_header() {
    let dir = tempfile::tempdir().unwrap();
    let empty = joined(500_000, |k| {
        format!("\"{}\":{{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", short(k))
    });
    let honest = joined(400_000, |k| {
        let end = 2 * k + 2;
        format!(
            "\"model.layers.{k}.weight\":{{\"dtype\":\"F16\",\"shape\":[1,1],\"data_offsets\":[{},{end}]}}",
            2 * k
        )
    });
    for (json, data) in [(empty, 0), (honest, 800_000)] {
        let json = format!("{{{json}}}");
        let len = json.len() as u64;
        let dump = safetensors(dir.path(), &json, data);
        let none = ["convert", "-n", "-o", "out", "--device", "cpu", "-t", "none"];
        let Ended { code, told, most, took } = run(&none, &dump, BASE + 8 * len);
        assert_eq!(code, Some(2), "{told}");
        assert!(told.contains("matches none of"), "{told}");
        eprintln!("{len} bytes: {most} bytes in {took:?}");
        for args in [&["ls"][..], &["ls", "--json"], &["plan", "--shards", "3"]] {
            let Ended { code, told, most, took } = run(args, &dump, BASE + 13 * len);
            assert_eq!(code, Some(0), "{args:?} {told}");
            eprintln!("{args:?}: {most} bytes in {took:?}");
        }
    }
}

#[test]
fn an_index_takes_a_few_times_its_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let index = dir.path().join("d.safetensors.index.json");
    let map = |entries: String| format!("{{\"weight_map\":{{{entries}}}}}");
    let files = map(joined(600_000, |k| format!("\"{0}\":\"{0}.safetensors\"", short(k))));
    fs::write(&index, &files).unwrap();
    refused(&index, BASE + 4 * files.len() as u64, "100000 files");
    let one = map(joined(1_000_000, |k| format!("\"{}\":\"e.safetensors\"", short(k))));
    fs::write(&index, &one).unwrap();
    let empty = [&2_u64.to_le_bytes()[..], b"{}"].concat();
    fs::write(dir.path().join("e.safetensors"), empty).unwrap();
    refused(&index, BASE + 6 * one.len() as u64, "is said to be in e.safetensors, and is not");
}

#[test]
fn pickles_take_no_more_than_so_many_times_their_bytes() {
    const PRE: &[u8] = b"\x80\x04ctorch._utils\n_rebuild_tensor_v2\nq\x00(X\x07\0\0\0storage\
        ctorch\nByteStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x01tQq\x01(";
    let dir = tempfile::tempdir().unwrap();
    let ones = b"K\x01".repeat(64);
    let tensor = [PRE, &ones, b"tq\x020(h\x01K\x00h\x02h\x02\x89}tq\x050"].concat();
    let items = torch(dir.path(), &[b"\x80\x04]", &b"Na".repeat(6_000_000), b"."]);
    assert_eq!(run(&["ls"], &items, BASE + 18 * 12_000_000).code, Some(0), "as ever");
    let cases: [(&str, &[u8], usize, &[u8]); 8] = [
        ("lists", b"", 10_000_000, b"]"),
        ("lists that are kept", b"", 6_000_000, b"]\x94"),
        ("dictionaries", b"", 10_000_000, b"}"),
        ("texts", b"", 9_000_000, b"\x8c\x00"),
        ("tuples", b"", 9_000_000, b"N\x85"),
        ("tensors", &tensor, 3_000_000, b"h\x00h\x05R0"),
        (
            "storages",
            b"(X\x07\0\0\0storagectorch\nByteStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x01tq\x00",
            5_000_000,
            b"h\x00Q0",
        ),
        ("states", b"}", 9_000_000, b"Nb"),
    ];
    for (what, first, times, again) in cases {
        let start: &[u8] = if first.starts_with(b"\x80") { b"" } else { b"\x80\x04" };
        let dump = torch(dir.path(), &[start, first, &again.repeat(times), b"N."]);
        let limit = BASE + (64 << 20) + 18 * fs::metadata(&dump).unwrap().len();
        let Ended { code, told, most, .. } = run(&["ls"], &dump, limit);
        eprintln!("{what}: {most} of {limit}");
        assert_eq!((code, told.lines().count()), (Some(1), 1), "{what}: {told}");
        assert!(told.contains("more values than a pickle of its length may"), "{what}: {told}");
    }
}

/// Arrays in an archive whose headers are a MiB each, of axes or of zeros, and a thousandth of that as they
/// are packed.
#[test]
fn headers_that_are_packed_are_no_way_around() {
    const PACK: &str = "import sys, zipfile, struct\n\
        head = {'axes': b\"{'descr': '|u1', 'fortran_order': True, 'shape': (\" + b'1,' * 500000 + b'2)}',\n\
        \x20   'zeros': b\"{'descr': '<f\" + b'0' * 1000000 + b\"16', 'fortran_order': False, 'shape': (1,)}\"}[sys.argv[2]]\n\
        data = b'\\x93NUMPY\\x02\\0' + struct.pack('<I', len(head)) + head + bytes(2 if sys.argv[2] == 'axes' else 16)\n\
        with zipfile.ZipFile(sys.argv[1], 'w', zipfile.ZIP_DEFLATED) as archive:\n\
        \x20   for k in range(300): archive.writestr(f'{k}.npy', data)\n";
    let dir = tempfile::tempdir().unwrap();
    let dump = dir.path().join("d.npz");
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/.venv/bin/python");
    let python = if Path::new(python).exists() { python } else { "python3" };
    for (what, part) in [("axes", "64 axes"), ("zeros", "none of numbers")] {
        let written = Command::new(python).args(["-c", PACK]).arg(&dump).arg(what).status();
        assert!(written.unwrap().success());
        refused(&dump, BASE, part);
    }
}

/// The head of a plan, of a manifest and of a journal, with values that nobody asked for.
#[test]
fn heads_of_records_are_not_crammed() {
    let dir = tempfile::tempdir().unwrap();
    let dump = safetensors(
        dir.path(),
        "{\"t\":{\"dtype\":\"U8\",\"shape\":[1,1],\"data_offsets\":[0,1]}}",
        1,
    );
    let plan = dir.path().join("p.jsonl");
    let tool = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tensortiff"));
        command.args(args).current_dir(dir.path()).stdin(Stdio::null()).output().unwrap()
    };
    let good = tool(&["plan", "d.safetensors", "--shards", "1"]);
    assert_eq!(good.status.code(), Some(0));
    let convert = ["convert", "d.safetensors", "-o", "out", "--device", "cpu"];
    assert_eq!(tool(&convert).status.code(), Some(0));
    let manifest = dir.path().join("out/manifest.jsonl");
    let written = fs::read_to_string(&manifest).unwrap();
    let crammed = |text: &str| format!("{{\"x\":[{}[]],{}", "[],".repeat(12_000_000), &text[1..]);
    fs::write(&plan, crammed(&String::from_utf8(good.stdout).unwrap())).unwrap();
    let limit = BASE + 2 * fs::metadata(&plan).unwrap().len();
    let Ended { code, told, .. } =
        run(&["convert", "-o", "out", "--shard", "0", "--device", "cpu"], &plan, limit);
    assert_eq!((code, told.lines().count()), (Some(1), 1), "{told}");
    assert!(told.contains("p.jsonl") && told.contains("more values than"), "{told}");
    let status = [&["status"][..], &[plan.to_str().unwrap()]].concat();
    assert_eq!(run(&status, Path::new(dir.path()), limit).code, Some(1));
    fs::write(&manifest, crammed(&written)).unwrap();
    let resume = ["convert", "-o", "out", "--device", "cpu", "--resume"];
    run(&resume, &dump, limit);
    assert!(fs::metadata(dir.path().join("out/d/t.tif")).is_ok());
}
