//! Properties of the header's parser over files that were valid once: whatever is done to them, it
//! answers, and what it accepts can be read. `TENSORTIFF_LONG=1` tries a million inputs,
//! `TENSORTIFF_CASES` any other number.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data is small, and a test that panics says where"
)]

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tensortiff::{Dtype, DumpFiles, Source as _};

fn cases(default: u32) -> u32 {
    let all = std::env::var_os("TENSORTIFF_LONG").map_or(default, |_| 1_000_000);
    std::env::var("TENSORTIFF_CASES").map_or(all, |n| n.parse().expect("a number of cases"))
}

/// A tensor's entry, which may come to lie.
#[derive(Debug, Clone)]
struct Entry {
    name: String,
    dtype: String,
    shape: Vec<u64>,
    begin: u64,
    end: u64,
}

/// One thing done to a valid file.
#[derive(Debug, Clone)]
enum Damage {
    None,
    Begin(usize, u64),
    End(usize, u64),
    Axis(usize, u64),
    Dtype(usize, &'static str),
    Rename(usize, usize),
    EscapedTwin(usize),
    Swap(usize, usize),
    HeaderLen(u64),
    Cut(usize),
    Flip(usize, u8),
    Insert(usize, u8),
    Extra(usize),
}

fn edge() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..20_u64,
        Just(1 << 63),
        Just(u64::MAX),
        Just(u64::MAX - 7),
        Just(1 << 62),
        Just(u64::MAX / 4 + 1),
        any::<u64>()
    ]
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = 0..8_usize;
    prop_oneof![
        2 => Just(Damage::None),
        2 => (at.clone(), edge()).prop_map(|(i, x)| Damage::Begin(i, x)),
        2 => (at.clone(), edge()).prop_map(|(i, x)| Damage::End(i, x)),
        2 => (at.clone(), edge()).prop_map(|(i, x)| Damage::Axis(i, x)),
        1 => (at.clone(), prop::sample::select(vec!["F32", "F4", "C64", "F6_E2M3", "F8_E8M0", "X", ""]))
            .prop_map(|(i, d)| Damage::Dtype(i, d)),
        1 => (at.clone(), at.clone()).prop_map(|(i, j)| Damage::Rename(i, j)),
        1 => at.clone().prop_map(Damage::EscapedTwin),
        1 => (at.clone(), at).prop_map(|(i, j)| Damage::Swap(i, j)),
        1 => edge().prop_map(Damage::HeaderLen),
        1 => (0..400_usize).prop_map(Damage::Cut),
        2 => (0..400_usize, any::<u8>()).prop_map(|(i, b)| Damage::Flip(i, b)),
        1 => (0..400_usize, any::<u8>()).prop_map(|(i, b)| Damage::Insert(i, b)),
        1 => (1..9_usize).prop_map(Damage::Extra),
    ]
}

/// Valid entries: dtypes and shapes of any kind, laid end to end.
fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let one = (
        "[a-z./é\\\\\"]{0,6}",
        prop::sample::select(Dtype::ALL.to_vec()),
        prop::collection::vec(0..4_u64, 0..4),
    );
    prop::collection::vec(one, 0..6).prop_map(|list| {
        let mut end = 0;
        let entry = |(i, (name, dtype, shape)): (usize, (String, Dtype, Vec<u64>))| {
            let begin = end;
            // No whole bytes are refused, which is another test.
            let dtype = match shape.iter().product::<u64>() * dtype.bits() {
                bits if bits % 8 == 0 => dtype,
                _ => Dtype::U8,
            };
            end += shape.iter().product::<u64>() * dtype.bits() / 8;
            Entry { name: format!("{name}{i}"), dtype: dtype.name().to_owned(), shape, begin, end }
        };
        list.into_iter().enumerate().map(entry).collect()
    })
}

fn build(mut entries: Vec<Entry>, damages: &[Damage]) -> Vec<u8> {
    let data = entries.last().map_or(0, |e| e.end);
    let mut twins = Vec::new();
    let n = entries.len().max(1);
    for damage in damages {
        let mut change = |i: usize, f: &dyn Fn(&mut Entry)| {
            if let Some(entry) = entries.get_mut(i % n) {
                f(entry);
            }
        };
        match damage {
            Damage::Begin(i, x) => change(*i, &|e| e.begin = *x),
            Damage::End(i, x) => change(*i, &|e| e.end = *x),
            Damage::Axis(i, x) => change(*i, &|e| {
                if let Some(axis) = e.shape.last_mut() {
                    *axis = *x;
                }
            }),
            Damage::Dtype(i, d) => change(*i, &|e| e.dtype = (*d).to_owned()),
            Damage::Rename(i, j) => {
                if let Some(name) = entries.get(j % n).map(|e| e.name.clone())
                    && let Some(entry) = entries.get_mut(i % n)
                {
                    entry.name = name;
                }
            }
            Damage::EscapedTwin(i) => twins.push(i % n),
            Damage::Swap(i, j) if !entries.is_empty() => entries.swap(i % n, j % n),
            _ => {}
        }
    }
    let mut parts = Vec::new();
    for (i, e) in entries.iter().enumerate() {
        let value = format!(
            "{{\"dtype\":{},\"shape\":{:?},\"data_offsets\":[{},{}]}}",
            serde_json::Value::from(e.dtype.as_str()),
            e.shape,
            e.begin,
            e.end
        );
        parts.push(format!("{}:{value}", serde_json::Value::from(e.name.as_str())));
        if twins.contains(&i) {
            let escaped: String =
                e.name.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
            parts.push(format!("\"{escaped}\":{value}"));
        }
    }
    let json = format!("{{{}}}", parts.join(","));
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json.as_bytes());
    bytes.resize(bytes.len() + usize::try_from(data).unwrap(), 0x5A);
    for damage in damages {
        match *damage {
            Damage::HeaderLen(x) => {
                let old = u64::from_le_bytes(bytes[..8].try_into().unwrap());
                let new = if x < 20 { old.wrapping_add(x).wrapping_sub(10) } else { x };
                bytes[..8].copy_from_slice(&new.to_le_bytes());
            }
            Damage::Cut(n) => bytes.truncate(bytes.len().saturating_sub(n)),
            Damage::Flip(at, with) if at < bytes.len() => bytes[at] ^= with,
            Damage::Insert(at, byte) if at <= bytes.len() => bytes.insert(at, byte),
            Damage::Extra(n) => bytes.resize(bytes.len() + n, 1),
            _ => {}
        }
        if bytes.len() < 8 {
            break;
        }
    }
    bytes
}

/// Opens the bytes; if they are accepted, every promise about tensors must hold.
fn open(path: &Path, bytes: &[u8]) -> Result<bool, TestCaseError> {
    fs::write(path, bytes).unwrap();
    let source = match DumpFiles::open(&[path]) {
        Ok(source) => source,
        Err(error) => {
            let text = error.to_string();
            prop_assert!(text.lines().count() == 1 && !text.chars().any(char::is_control));
            return Ok(false);
        }
    };
    let mut total = 0;
    let mut names: Vec<&str> = source.tensors().iter().map(|t| t.name.as_str()).collect();
    for (i, tensor) in source.tensors().iter().enumerate() {
        let len = tensor.bytes().expect("an accepted tensor has a size");
        let packed = tensor.packed_bytes().expect("it has this one as well");
        prop_assert!(packed <= len && packed <= bytes.len() as u64);
        let mut buf = vec![0; usize::try_from(len).unwrap()];
        source.read_at(i, 0, &mut buf).map_err(|e| TestCaseError::fail(e.to_string()))?;
        total += packed;
    }
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap());
    if source.unsupported().is_empty() {
        prop_assert_eq!(header + total, bytes.len() as u64, "the tensors are all there is");
    }
    names.sort_unstable();
    let before = names.len();
    names.dedup();
    prop_assert_eq!(names.len(), before, "names are unique");
    Ok(true)
}

#[test]
fn whatever_is_done_to_a_header_it_is_refused_or_right() {
    let dir = tempfile::tempdir_in(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "." })
        .unwrap();
    let path = dir.path().join("case");
    let mut runner = TestRunner::new(Config {
        cases: cases(30_000),
        failure_persistence: None,
        ..Config::default()
    });
    let accepted = std::cell::Cell::new((0_u32, 0_u32));
    let strategy = (entries(), prop::collection::vec(damage(), 0..3));
    runner
        .run(&strategy, |(entries, damages)| {
            let pristine = damages.iter().all(|d| matches!(d, Damage::None));
            let good = open(&path, &build(entries, &damages))?;
            prop_assert!(good || !pristine, "a valid file was refused");
            let (yes, no) = accepted.get();
            accepted.set(if good { (yes + 1, no) } else { (yes, no + 1) });
            Ok(())
        })
        .unwrap();
    // Both kinds must be there in numbers, or the test says nothing.
    let (yes, no) = accepted.get();
    assert!(yes > no / 20 && no > yes / 20, "{yes} accepted, {no} refused");
    println!("{yes} accepted, {no} refused");
}

#[test]
fn what_the_formats_own_crate_writes_is_accepted() {
    use safetensors::tensor::{Dtype as FormatDtype, TensorView};
    let dir = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = (0..48).collect();
    let views = [
        ("b/1", TensorView::new(FormatDtype::F32, vec![3, 4], &bytes).unwrap()),
        ("a", TensorView::new(FormatDtype::F64, vec![6], &bytes).unwrap()),
        ("é", TensorView::new(FormatDtype::U8, vec![0], &[]).unwrap()),
    ];
    let file = safetensors::serialize(views, None).unwrap();
    assert!(open(&dir.path().join("own"), &file).unwrap());
}
