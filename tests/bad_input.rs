//! Every way a .safetensors file can lie: one error that names the file and the decisive facts,
//! and nothing worse.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data is small, and a test that panics says where"
)]

use std::fs;
use std::path::{Path, PathBuf};

use tensortiff::{Dtype, DumpFiles, Error, MemorySource, Source, TensorInfo};

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
    let error = DumpFiles::open(&[path]).expect_err("refused");
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
        (
            "array as a tensor",
            r#"{"a":["F32",[2],[0,8]]}"#.into(),
            8,
            &["tensor a", "sequence", "expected a map"],
        ),
        ("array as metadata", r#"{"__metadata__":[]}"#.into(), 0, &["sequence", "__metadata__"]),
        ("array of pairs as metadata", r#"{"__metadata__":[["k","v"]]}"#.into(), 0, &["sequence"]),
        ("no metadata", r#"{"__metadata__":null}"#.into(), 0, &["null", "__metadata__"]),
        ("number in metadata", r#"{"__metadata__":{"k":1}}"#.into(), 0, &["integer", "string"]),
        ("map in metadata", r#"{"__metadata__":{"k":{}}}"#.into(), 0, &["map", "string"]),
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
            &["tensor a", "end at 0, before they begin at 8"],
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
        ("data cut", format!("{{\"a\":{t}}}"), 7, &["truncated", "end at byte 8 of the data, which has 7"]),
        ("data left", format!("{{\"a\":{t}}}"), 9, &["bytes follow", "end at byte 8 of the data, which has 9"]),
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
    let error = DumpFiles::open(&[&good, &bad, &missing, &good]).unwrap_err();
    let text = error.to_string();
    assert_eq!(text.lines().count(), 3, "{text}");
    for part in ["bad: ", "missing: ", "named twice"] {
        assert!(text.contains(part), "{text}");
    }
}

/// Whatever its order: the crate of the format multiplies from left to right, and so takes
/// `[0, 2^40, 2^40]` and refuses `[2^40, 2^40, 0]`.
#[test]
fn a_shape_is_good_or_not_whatever_the_order_of_its_axes() {
    let (big, half) = (1_u64 << 40, 1_u64 << 30);
    let dir = tempfile::tempdir().unwrap();
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for order in orders {
        let open = |axes: [u64; 3]| {
            let shape = order.map(|i| axes[i]);
            let json =
                format!(r#"{{"a":{{"dtype":"F32","shape":{shape:?},"data_offsets":[0,0]}}}}"#);
            let path = file(dir.path(), "shape", json.as_bytes(), 0);
            (DumpFiles::open(&[&path]).map(|source| source.tensors()[0].bytes()), path)
        };
        assert!(refused(&open([0, big, big]).1).contains("64 bits"), "{order:?}");
        assert!(refused(&open([0, half, half]).1).contains("64 bits"), "the size counts too");
        assert_eq!(open([0, half, 3]).0.unwrap(), Some(0), "{order:?}");
        let shape = order.map(|i| [0, big, big][i]).to_vec();
        let info = TensorInfo::new("a", 0, Dtype::F32, shape);
        assert_eq!(info.elements(), None, "{order:?}");
    }
}

#[test]
#[cfg(unix)]
fn a_file_named_twice_is_told_whatever_its_names() {
    let dir = tempfile::tempdir().unwrap();
    let good = file(dir.path(), "good", b"{}", 0);
    let twin = file(dir.path(), "twin", b"{}", 0);
    let [soft, hard] = ["soft", "hard"].map(|name| dir.path().join(name));
    std::os::unix::fs::symlink(&good, &soft).unwrap();
    fs::hard_link(&good, &hard).unwrap();
    let dotted = dir.path().join("./good");
    for other in [&hard, &good, &soft, &dotted] {
        let error = DumpFiles::open(&[&good, &twin, other]).unwrap_err();
        let text = error.to_string();
        assert!(error.is_usage() && text.contains("named twice"), "{text}");
        assert!(text.starts_with(&format!("{}: ", other.display())), "{text}");
        let first = format!("as {}", good.display());
        assert!(*other == good || text.contains(&first), "names the first: {text}");
    }
    assert!(DumpFiles::open(&[&good, &twin]).is_ok(), "equal bytes are no equal files");
}

/// Names and shapes come from the file: a message is no longer for it, and still says what is wrong.
#[test]
fn no_message_is_as_long_as_a_name() {
    let long = "n".repeat(1 << 20);
    let entry = |name: &str, rest: &str| format!("{{\"{name}\":{{{rest}}}}}");
    let good = r#""dtype":"U8","shape":[1],"data_offsets":[0,1]"#;
    let axes = vec!["1"; 300_000].join(",");
    let cases = [
        (format!("{{\"{long}\":{{{good}}},\"{long}\":{{{good}}}}}"), 2, "stands twice"),
        (format!("{{\"__metadata__\":{{\"{long}\":\"\",\"{long}\":\"\"}}}}"), 0, "stands twice"),
        (entry(&long, r#""dtype":"U8","shape":[2],"data_offsets":[0,1]"#), 1, "takes 2 bytes"),
        (entry(&long, r#""dtype":"X","shape":[2],"data_offsets":[0,1]"#), 1, "X is unknown"),
        (entry("a", &good.replace("U8", &long)), 1, "is unknown"),
        (entry("a", &good.replace("dtype", &long)), 1, "tensor a: unknown field"),
        (entry(&long, &good.replace("dtype", &long)), 1, "unknown field"),
        (entry("a", &good.replace("[1]", &format!("\"{long}\""))), 1, "invalid type"),
        (entry("a", &good.replace("[1]", &format!("[{axes},2]"))), 1, "of shape [1, 1,"),
        (
            entry("a", &good.replace("[1]", &format!("[{axes},4294967296,4294967296]"))),
            1,
            "64 bits",
        ),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (json, data, part) in cases {
        let text = refused(&file(dir.path(), "long", json.as_bytes(), data));
        assert!(text.len() < 2000, "{} bytes: {part}", text.len());
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn reading_past_a_tensor_is_the_callers_mistake() {
    let dir = tempfile::tempdir().unwrap();
    let json = br#"{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"U8","shape":[3],"data_offsets":[3,6]}}"#;
    let path = file(dir.path(), "two", json, 6);
    let files = DumpFiles::open(&[&path]).unwrap();
    let memory = MemorySource::new("m").with("a", Dtype::U8, &[3], vec![0; 3]).unwrap();
    for source in [&files as &dyn Source, &memory] {
        for (offset, len) in
            [(0, 4), (2, 2), (3, 1), (4, 0), (u64::MAX, 0), (u64::MAX, 1), (u64::MAX - 1, 9)]
        {
            match source.read_at(0, offset, &mut vec![0; len]) {
                Err(Error::Read { tensor, source, .. }) => {
                    assert_eq!(source.kind(), std::io::ErrorKind::InvalidInput, "{offset} {len}");
                    assert_eq!(tensor, "a");
                    assert!(source.to_string().contains("has 3 bytes"), "{source}");
                }
                other => panic!("{offset} {len}: {other:?}"),
            }
        }
        source.read_at(0, 3, &mut []).unwrap();
        source.read_at(0, 0, &mut [0; 3]).unwrap();
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
    let source = DumpFiles::open(&[&path]).unwrap();
    let names: Vec<&str> = source.tensors().iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["a", "z", "empty"]);
    assert_eq!(source.dumps()[0].stem, "g.b");
    assert_eq!(source.metadata(0)["k"], "v");
    assert_eq!((source.tensors()[2].dtype, source.unsupported().len()), (Dtype::F4, 0));
    source.read_at(2, 0, &mut []).unwrap();
    let mut buf = [0; 2];
    source.read_at(1, 0, &mut buf).unwrap();
    assert_eq!(buf, [8, 9]);
    source.read_at(1, 1, &mut buf[..1]).unwrap();
    assert_eq!(buf[0], 9);
    // The file shrinks after it was opened.
    let end = bytes.len() as u64 - 1;
    // Where the file ends, wherever the read began.
    for (shrink_to, offset) in [(end, 0), (end, 1), (end - 1, 1), (8, 0), (8, 1)] {
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(shrink_to).unwrap();
        let part = &mut buf[..2 - usize::try_from(offset).unwrap()];
        let error = source.read_at(1, offset, part).unwrap_err();
        let text = error.to_string();
        assert!(
            matches!(error, Error::Changed { end, .. } if end == shrink_to),
            "at {offset} of a file of {shrink_to}: {text}"
        );
        assert!(text.contains("tensor z") && text.contains(&format!("byte {shrink_to}")), "{text}");
    }
}
