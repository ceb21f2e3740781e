//! The rules of the house: imports run one way, and each outside crate has one window.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data is small, and a test that panics says where"
)]

use std::path::{Path, PathBuf};

fn sources() -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&src, &mut found);
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        (path.strip_prefix(&src).unwrap().to_owned(), text)
    };
    let files: Vec<_> = found.into_iter().map(read).collect();
    assert!(files.len() > 20, "the walk found {} files", files.len());
    files
}

/// The code of a file: no comments, and no unit tests, which stand last.
fn code(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn room(path: &Path) -> String {
    let first = path.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// Rooms named in `crate::room` paths.
fn imports(code: &str) -> Vec<String> {
    let after = |(at, _): (usize, &str)| {
        let rest = &code[at + "crate::".len()..];
        let inside = rest.strip_prefix('{').map(|list| list.split('}').next().unwrap());
        let names: Vec<&str> = inside.map_or_else(|| vec![rest], |list| list.split(',').collect());
        let word = |name: &str| {
            let end = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
            name.trim().split(end).next().unwrap().to_owned()
        };
        names.into_iter().map(word).collect::<Vec<_>>()
    };
    code.match_indices("crate::").flat_map(after).collect()
}

#[test]
fn imports_run_one_way() {
    let data = ["tensor", "normalize", "error"];
    let stages = ["source", "plan", "backend", "encode", "sink", "record"];
    for (path, text) in sources() {
        let room = room(&path);
        for used in imports(&code(&text)) {
            let used = match used.as_str() {
                // Names that lib.rs re-exports from data rooms.
                "Error" => "error".to_owned(),
                _ => used,
            };
            if used == room {
                continue;
            }
            let allowed = match room.as_str() {
                "tensor" => used == "error",
                "normalize" => used == "tensor" || used == "error",
                "error" => used == "tensor",
                room if stages.contains(&room) => data.contains(&used.as_str()),
                "report" => data.contains(&used.as_str()),
                "convert" => !["cli", "in_memory", "back"].contains(&used.as_str()),
                // What runs left, looked at with their own engine: it knows them, and they not it.
                "back" => used != "cli" && used != "in_memory",
                "in_memory" => !["cli", "back", "backend", "encode"].contains(&used.as_str()),
                "cli" => used != "in_memory" && used != "encode",
                "lib" | "main" => true,
                other => panic!("{other} is no room of this house; add its rule"),
            };
            assert!(allowed, "src/{}: {room} must not import {used}", path.display());
        }
    }
}

#[test]
fn each_outside_crate_has_one_window() {
    let windows = [
        ("wgpu", "backend/gpu"),
        ("pollster", "backend/gpu"),
        ("tiff", "encode"),
        ("tar", "encode"),
        ("libdeflater", "encode"),
        ("zstd", "encode"),
        ("clap", "cli"),
        ("clap_complete", "cli"),
        ("clap_mangen", "cli"),
        ("csv", "cli"),
        ("indicatif", "cli"),
        ("anyhow", "cli"),
        ("signal_hook", "cli"),
        ("safetensors", "source"),
        ("miniz_oxide", "source"),
        ("crc32fast", "source"),
        ("regex", "plan"),
        ("rustix", "sink"),
        ("half", "tensor"),
        ("twox_hash", "record"),
    ];
    let files = sources();
    for (name, window) in windows {
        let mut used = 0;
        for (path, text) in &files {
            let code = code(text);
            let speaks = code.match_indices(&format!("{name}::")).any(|(at, _)| {
                let before = code[..at].chars().next_back();
                !before.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
            });
            if speaks {
                used += 1;
                assert!(
                    path.starts_with(window),
                    "src/{}: {name} is for src/{window} alone",
                    path.display()
                );
            }
        }
        assert!(used > 0, "nothing uses {name}");
    }
}

/// `tests/gpu_traffic.rs` counts what goes through it. Timestamps are not counted.
#[test]
fn a_device_is_told_what_to_do_in_one_place() {
    let calls = [
        "copy_buffer_to_buffer(",
        "copy_buffer_to_texture(",
        "write_buffer(",
        "write_buffer_with(",
        "write_texture(",
        "create_buffer_init(",
        "dispatch_workgroups(",
        "dispatch_workgroups_indirect(",
        "begin_compute_pass(",
        "clear_buffer(",
        "queue.submit(",
        "StagingBelt",
        "DownloadBuffer",
    ];
    let recording = Path::new("backend/gpu/recording.rs");
    let mut seen = 0;
    for (path, text) in sources() {
        if !path.starts_with("backend/gpu") {
            continue;
        }
        let code = code(&text);
        for call in calls {
            let times = code.matches(call).count();
            match path.file_name().unwrap().to_str().unwrap() {
                _ if path == recording => seen += times,
                "timer.rs" if call == "copy_buffer_to_buffer(" => assert_eq!(times, 2),
                _ => assert_eq!(times, 0, "src/{}: {call} is for {recording:?}", path.display()),
            }
        }
    }
    assert!(seen >= 6, "{seen} of these calls are left in {recording:?}");
}

/// Samples are copied once by the CPU on their way to a device, into the mapping, which is write-only; pixels are
/// handed over where the device put them. (Beside it only a batch's orders are copied.)
#[test]
fn on_the_way_through_a_device_samples_are_copied_once() {
    let copies = [
        "copy_from_slice(",
        "clone_from_slice(",
        "copy_within(",
        "copy_nonoverlapping(",
        "extend_from_slice(",
        "to_vec(",
        ".concat(",
        "Bytes::copy_from",
    ];
    let way = ["mod", "device", "pipe", "reader", "recording", "ring", "slot", "writer"];
    let mut seen = 0;
    for (path, text) in sources() {
        let name = path.file_stem().unwrap().to_str().unwrap();
        if !path.starts_with("backend/gpu") || !way.contains(&name) {
            continue;
        }
        seen += 1;
        let code = code(&text);
        let times: usize = copies.iter().map(|copy| code.matches(copy).count()).sum();
        let due = if name == "reader" { 2 } else { 0 };
        assert_eq!(times, due, "src/{}: bytes are copied in another place", path.display());
    }
    assert_eq!(seen, way.len());
}
