//! Every way a .safetensors file can lie: one error that names the file and the decisive facts,
//! and nothing worse.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data is small, and a test that panics says where"
)]

use std::fs;
use std::path::{Path, PathBuf};

use tensortiff::{Error, SafetensorsFiles, Source as _};

/// A file of a header and so many bytes of data.
fn file(dir: &Path, name: &str, json: &[u8], data: usize) -> PathBuf {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json);
    bytes.resize(bytes.len() + data, 0);
    let path = dir.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn refused(path: &Path) -> String {
    let error = SafetensorsFiles::open(&[path]).expect_err("refused");
    assert!(matches!(error, Error::Format { .. } | Error::Open { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(path.file_name().unwrap().to_str().unwrap()), "names the file: {text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(!text.chars().any(char::is_control), "{text:?}");
    text
}

#[test]
fn lying_headers_are_refused_with_the_decisive_facts() {
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let t = r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
    let cases: Vec<(&str, String, usize, &[&str])> = vec![
        ("empty", String::new(), 0, &["empty"]),
        ("array", "[]".into(), 0, &["0x5b"]),
        ("blank before", format!(" {{\"a\":{t}}}"), 8, &["0x20"]),
        ("bom", "\u{feff}{}".into(), 0, &["0xef"]),
        ("cut json", "{\"a\":".into(), 0, &["EOF"]),
        ("after json", "{} x".into(), 0, &["trailing"]),
        ("duplicate", format!("{{\"a\":{t},\"a\":{t}}}"), 8, &["key a", "twice"]),
        ("escaped duplicate", format!("{{\"w\":{t},\"\\u0077\":{t}}}"), 8, &["key w", "twice"]),
        (
            "duplicate metadata",
            r#"{"__metadata__":{},"__metadata__":{}}"#.into(),
            0,
            &["__metadata__", "twice"],
        ),
        ("duplicate in metadata", r#"{"__metadata__":{"k":"1","k":"2"}}"#.into(), 0, &["key k"]),
        ("tensor as metadata", format!("{{\"__metadata__\":{t}}}"), 8, &["string"]),
        (
            "duplicate field",
            r#"{"a":{"dtype":"F32","dtype":"F16","shape":[2],"data_offsets":[0,8]}}"#.into(),
            8,
            &["tensor a", "dtype"],
        ),
        (
            "unknown field",
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"strides":[1]}}"#.into(),
            8,
            &["tensor a", "strides"],
        ),
        ("missing field", r#"{"a":{"dtype":"F32","shape":[2]}}"#.into(), 8, &["data_offsets"]),
        (
            "unknown dtype",
            r#"{"a":{"dtype":"F128","shape":[2],"data_offsets":[0,8]}}"#.into(),
            8,
            &["tensor a", "F128"],
        ),
        (
            "negative",
            r#"{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}"#.into(),
            8,
            &["tensor a"],
        ),
        (
            "backwards",
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#.into(),
            8,
            &["tensor a", "8", "0"],
        ),
        (
            "gap",
            r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}"#.into(),
            3,
            &["tensor b", "gap"],
        ),
        (
            "overlap",
            r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#.into(),
            3,
            &["tensor b", "overlaps"],
        ),
        (
            "wrong size",
            r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#.into(),
            8,
            &["takes 12 bytes", "span 8"],
        ),
        (
            "sizes wrap",
            r#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}"#.into(),
            0,
            &["tensor a", "64 bits"],
        ),
        (
            "offsets at the end of numbers",
            r#"{"a":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,18446744073709551615]},"b":{"dtype":"U8","shape":[1],"data_offsets":[18446744073709551615,18446744073709551615]}}"#.into(),
            8,
            &["tensor"],
        ),
        (
            "beyond 64 bits",
            r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,18446744073709551616]}}"#.into(),
            1,
            &["tensor a"],
        ),
        ("data cut", format!("{{\"a\":{t}}}"), 7, &["truncated", "8", "7"]),
        ("data left", format!("{{\"a\":{t}}}"), 9, &["bytes follow", "8", "9"]),
        ("data without tensors", "{}".into(), 1, &["bytes follow"]),
        ("depth bomb", deep, 0, &["header"]),
        ("control characters", "{\"a\u{1b}[2J\\n\":1}".into(), 0, &["header"]),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (name, json, data, parts) in cases {
        let text = refused(&file(dir.path(), name, json.as_bytes(), data));
        for part in parts {
            assert!(text.contains(part), "{name}: no {part} in {text}");
        }
    }
    assert!(refused(&file(dir.path(), "latin1", b"{\"\xe9\":1}", 0)).contains("UTF-8"));
}

#[test]
fn claims_about_lengths_allocate_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cases = [
        ("short", vec![1, 2, 3], "3 bytes"),
        ("nothing", vec![], "0 bytes"),
        ("all ones", vec![0xFF; 8], "18446744073709551615"),
        ("larger than the format", 100_000_001_u64.to_le_bytes().to_vec(), "100000001"),
        ("larger than the file", 99_000_000_u64.to_le_bytes().to_vec(), "truncated"),
        ("one byte larger", [&3_u64.to_le_bytes()[..], b"{}"].concat(), "truncated"),
    ];
    for (name, bytes, part) in cases {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        let text = refused(&path);
        assert!(text.contains(part), "{name}: {text}");
    }
}

#[test]
fn things_that_are_no_files_are_refused_without_waiting() {
    let dir = tempfile::tempdir().unwrap();
    assert!(refused(&dir.path().join("missing")).contains("No such file"));
    let folder = dir.path().join("folder");
    fs::create_dir(&folder).unwrap();
    assert!(refused(&folder).contains("folder"));
    let pipe = dir.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    assert!(refused(&pipe).contains("regular file"));
    refused(Path::new("/dev/null"));
}

#[test]
fn all_bad_inputs_are_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let good = file(dir.path(), "good", b"{}", 0);
    let bad = file(dir.path(), "bad", b"[]", 0);
    let missing = dir.path().join("missing");
    let error = SafetensorsFiles::open(&[&good, &bad, &missing, &good]).unwrap_err();
    let text = error.to_string();
    assert_eq!(text.lines().count(), 3, "{text}");
    for part in ["bad: ", "missing: ", "named twice"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn good_files_are_read_in_the_order_of_their_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let json = br#"{"z":{"dtype":"U8","shape":[2],"data_offsets":[1,3]},"__metadata__":{"k":"v"},"empty":{"dtype":"F4","shape":[0,3],"data_offsets":[3,3]},"a":{"dtype":"BOOL","shape":[],"data_offsets":[0,1]}}  "#;
    let path = dir.path().join("g.b.safetensors");
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json);
    bytes.extend_from_slice(&[7, 8, 9]);
    fs::write(&path, &bytes).unwrap();
    let source = SafetensorsFiles::open(&[&path]).unwrap();
    let names: Vec<&str> = source.tensors().iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["a", "z"]);
    assert_eq!(source.dumps()[0].stem, "g.b");
    assert_eq!(source.metadata(0)["k"], "v");
    assert_eq!(
        (&*source.unsupported()[0].tensor, &*source.unsupported()[0].dtype),
        ("empty", "F4")
    );
    let mut buf = [0; 2];
    source.read_at(1, 0, &mut buf).unwrap();
    assert_eq!(buf, [8, 9]);
    source.read_at(1, 1, &mut buf[..1]).unwrap();
    assert_eq!(buf[0], 9);
    // The file shrinks after it was opened.
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(bytes.len() as u64 - 1)
        .unwrap();
    let error = source.read_at(1, 0, &mut buf).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Changed { .. }) && text.contains("tensor z"), "{text}");
    assert!(text.contains(&format!("byte {}", bytes.len() - 1)), "{text}");
}
