//! The tool, called as people call it.

#![allow(dead_code, reason = "each suite uses its own part")]
#![allow(unreachable_pub, reason = "a module of test binaries")]
#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

pub fn tool() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tensortiff"));
    command.stdin(Stdio::null()).env_remove("VK_DRIVER_FILES");
    command
}

pub fn run(args: &[&str]) -> Output {
    tool().args(args).output().unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs and holds the exit code; answers with stdout and stderr.
pub fn ends_with(code: i32, args: &[&str]) -> (String, String) {
    let output = run(args);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{args:?}\n{out}\n{err}");
    (out, err)
}

pub fn sample() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/data/minilm.safetensors")
}

pub fn join<'a>(take: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [take, more].concat()
}

/// The names of the calls in a log of `strace -f -o`, in its order. Each line begins with the
/// thread's number, which is padded with spaces where it is short; a call that another thread cut in
/// two has two lines, of which the second begins with `<...`.
pub fn traced_calls(log: &str) -> Vec<String> {
    let name = |line: &str| {
        let call = line.split_once(' ').map_or("", |(_, call)| call.trim_start());
        let (name, _) = call.split_once('(').filter(|(name, _)| !name.starts_with('<'))?;
        Some(name.to_owned())
    };
    log.lines().filter_map(name).collect()
}

/// A folder for a test, and its path as text.
pub fn folder() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out").to_str().unwrap().to_owned();
    (dir, path)
}

/// All files below a folder but a run's manifest and journal.
pub fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = everything(root);
    found.retain(|path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        let journal = name.starts_with(".tensortiff-") && name.ends_with(".journal");
        name != "manifest.jsonl" && !journal
    });
    found
}

/// All files below a folder.
pub fn everything(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

/// A dump of tensors of zeros but for the first byte of each, which is `k`.
pub fn dump(path: &Path, tensors: &[(&str, &str, &[u64], usize)]) {
    let (mut header, mut data) = (Vec::new(), Vec::new());
    for (k, (name, dtype, shape, bytes)) in tensors.iter().enumerate() {
        let begin = data.len();
        data.resize(begin + bytes, 0);
        if *bytes > 0 {
            data[begin] = u8::try_from(k + 1).unwrap();
        }
        header.push(format!(
            "{}:{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[{begin},{}]}}",
            serde_json::Value::from(*name),
            data.len()
        ));
    }
    let json = format!("{{{}}}", header.join(","));
    let bytes = [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &data].concat();
    fs::write(path, bytes).unwrap();
}

/// An `.npz` of `a`, one byte, and of `q`, four numbers of NumPy's `longdouble`, which are not converted.
pub fn unsupported_dump(path: &Path) {
    let array = |descr: &str, shape: &str, data: usize| {
        let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}\n");
        let length = u16::try_from(header.len()).unwrap().to_le_bytes();
        [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), &vec![0; data]].concat()
    };
    let (mut members, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in [("a", array("|u1", "(1, 1)", 1)), ("q", array("<f16", "(2, 2)", 64))] {
        let begin = u32::try_from(members.len()).unwrap().to_le_bytes();
        let len = u32::try_from(data.len()).unwrap().to_le_bytes();
        // Both headers: version to checksum, which nobody looks at of what is stored; sizes; lengths.
        let common = [&[0; 14], &len[..], &len, &[5, 0, 0, 0]].concat();
        members.extend([b"PK\x03\x04", &common[..], name.as_bytes(), b".npy", &data].concat());
        directory.extend([b"PK\x01\x02\0\0", &common[..], &[0; 10], &begin].concat());
        directory.extend([name.as_bytes(), b".npy"].concat());
    }
    let [size, begin] =
        [directory.len(), members.len()].map(|n| u32::try_from(n).unwrap().to_le_bytes());
    let end = [b"PK\x05\x06\0\0\0\0\x02\0\x02\0", &size[..], &begin, &[0, 0]].concat();
    fs::write(path, [members, directory, end].concat()).unwrap();
}

/// A dump whose data is a hole: any size at no cost.
pub fn sparse_dump(path: &Path, shape: &[u64]) {
    let bytes = 4 * shape.iter().product::<u64>();
    let json =
        format!("{{\"t\":{{\"dtype\":\"F32\",\"shape\":{shape:?},\"data_offsets\":[0,{bytes}]}}}}");
    fs::write(path, [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat()).unwrap();
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(8 + json.len() as u64 + bytes).unwrap();
}

/// Waits until the tool has written an image. (Before that it makes a file to see whether it can.)
pub fn until_at_work(out: &str) {
    let started = Instant::now();
    let is_image = |path: &PathBuf| path.extension().is_some_and(|e| e == "tif");
    while !Path::new(out).is_dir() || !files(Path::new(out)).iter().any(is_image) {
        assert!(started.elapsed() < Duration::from_secs(30), "no file appeared");
        std::thread::sleep(Duration::from_millis(2));
    }
}
