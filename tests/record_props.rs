//! Journals, manifests and plans that were damaged in every way: nothing panics, hangs or takes memory by a
//! claim, and nothing is believed that was not written.
//!
//! `TENSORTIFF_LONG=1` tries a million of each.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data is small, and a test that panics says where"
)]

mod common;
#[path = "common/trees.rs"]
mod trees;

use std::borrow::Cow;
use std::fs;
use std::num::NonZeroU64;

use common::Random;
use tensortiff::normalize::{Kept, Range};
use tensortiff::record::entry::{Doing, Entry, Failure, Found, SIZE};
use tensortiff::record::identity::{Asked, Hash, Identity, Origin};
use tensortiff::record::journal::{About, Journal, Opened};
use tensortiff::record::manifest::{self, Head, Line, Manifest};
use tensortiff::record::shards::{self, Shards, Unit};
use trees::folder;

const IMAGES: u64 = 40;

fn inputs() -> u64 {
    if std::env::var_os("TENSORTIFF_LONG").is_some() { 1_000_000 } else { 20_000 }
}

fn identity() -> Identity {
    let asked = Asked {
        raw: Some("F32:?x2:7".to_owned()),
        npy_v2: Some("bf16".to_owned()),
        more: [("layout".to_owned(), vec!["NHWC".to_owned(), "a=auto".to_owned()])].into(),
        norm: "minmax".to_owned(),
        rule: [("constant".to_owned(), "half".to_owned())].into(),
        encoding: [("bigtiff".to_owned(), "yes".to_owned())].into(),
        names: "{stem}/{tensor}/{index}.tif".to_owned(),
        tensors: vec!["a*".to_owned()],
        exclude: Vec::new(),
        channel: Some(3),
        hash: true,
    };
    let dump =
        Origin { path: "d.safetensors".to_owned(), bytes: 123_456, modified: Some(7), files: None };
    Identity::new(0xDEAD_BEEF_0123_4567, IMAGES, asked, vec![dump])
}

fn entry(random: &mut Random) -> Entry {
    let number = |random: &mut Random| f64::from((random.next() >> 40) as u32);
    match random.next() % 8 {
        0 => Entry::Failed(Failure { doing: Doing::Read, errno: 5 }),
        1 => Entry::Existed,
        kind => Entry::Done(Found {
            range: (kind > 2).then(|| (-number(random), number(random))),
            nan: random.next(),
            inf: random.next() % 9,
            hash: (kind % 2 == 0).then(|| random.next()),
            len: (kind > 5).then(|| NonZeroU64::MIN.saturating_add(random.next() >> 1)),
        }),
    }
}

/// Bytes changed, cut, doubled, swapped, or put in from elsewhere.
fn damage(random: &mut Random, whole: &[u8]) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    for _ in 0..1 + random.next() % 4 {
        let len = bytes.len().max(1);
        let at = random.next() as usize % len;
        let span = (random.next() as usize % 80).min(bytes.len().saturating_sub(at));
        match random.next() % 8 {
            0 => bytes.truncate(at),
            1 => bytes.iter_mut().skip(at).take(span).for_each(|byte| *byte = 0),
            2 => bytes.iter_mut().skip(at).take(8).for_each(|byte| *byte = 0xFF),
            3 => {
                let copied = bytes[at..at + span].to_vec();
                let to = random.next() as usize % len;
                bytes.splice(to.min(bytes.len())..to.min(bytes.len()), copied);
            }
            4 => drop(bytes.drain(at..at + span)),
            // In the head, where lengths and sums are.
            5 => {
                if let Some(byte) = bytes.get_mut(at % 40) {
                    *byte = random.next() as u8;
                }
            }
            // An entry in another's place.
            6 if bytes.len() > 4096 + 2 * SIZE => {
                let entries = (bytes.len() - 4096) / SIZE;
                let [from, to] = [(); 2].map(|()| 4096 + random.next() as usize % entries * SIZE);
                bytes.copy_within(from..from + SIZE, to);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << (random.next() % 8);
                }
            }
        }
    }
    bytes
}

#[test]
fn a_damaged_journal_says_nothing_that_was_not_written() {
    let dir = folder();
    let path = dir.path().join("journal");
    let identity = identity();
    let mut random = Random(1);
    let entries: Vec<Entry> = (0..IMAGES).map(|_| entry(&mut random)).collect();
    let about = About { identity: identity.clone(), shard: None };
    let journal = Journal::create(&path, &about).unwrap();
    for (at, entry) in (0..).zip(&entries) {
        journal.write(at, &entry.to_bytes(identity.plan.0, at)).unwrap();
    }
    let whole = fs::read(&path).unwrap();
    let (mut torn, mut partly, mut said) = (0, 0, 0);
    for _ in 0..inputs() {
        fs::write(&path, damage(&mut random, &whole)).unwrap();
        match Journal::open(&path, true).unwrap() {
            Opened::None => panic!("it is there"),
            Opened::Torn => torn += 1,
            Opened::Whole(journal, found) => {
                assert_eq!(*found, about, "a head that is believed is whole");
                let read = journal.read(0, IMAGES as usize).unwrap();
                for (read, written) in read.iter().zip(&entries) {
                    assert!(read.is_none() || *read == Some(*written), "{read:?}");
                }
                let known = read.iter().flatten().count();
                said += known;
                partly += u64::from(known < IMAGES as usize);
            }
        }
    }
    // The damage reaches heads and entries, and leaves others.
    assert!(torn * 50 > inputs() && partly * 50 > inputs() && said > 0, "{torn} {partly} {said}");
}

/// A head that is whole and says whatever: somebody else wrote it, or another version.
#[test]
fn a_journal_of_any_range_is_read_within_its_images() {
    let dir = folder();
    let path = dir.path().join("journal");
    let mut random = Random(4);
    let identity = identity();
    let about = About { identity: identity.clone(), shard: Some(7..29) };
    let json = serde_json::to_vec(&about).unwrap();
    let entries: Vec<Entry> = (0..IMAGES).map(|_| entry(&mut random)).collect();
    let (mut torn, mut read) = (0, 0);
    for _ in 0..inputs() {
        let mut json = confused(&mut random, &json);
        json.truncate(4000);
        let mut file = b"tensortiff jrn 1".to_vec();
        file.extend((json.len() as u64).to_le_bytes());
        file.extend(tensortiff::record::hash(&json).to_le_bytes());
        file.extend(&json);
        file.resize(4096, 0);
        for (at, entry) in (0..).zip(&entries).skip(7).take(22) {
            file.extend(entry.to_bytes(identity.plan.0, at));
        }
        fs::write(&path, file).unwrap();
        match Journal::open(&path, false).unwrap() {
            Opened::None => panic!("it is there"),
            Opened::Torn => torn += 1,
            Opened::Whole(journal, found) => {
                let images = found.range();
                assert!(images.start <= images.end && images.end <= found.identity.images);
                let first = [0, 3, u64::MAX - 9, random.next()][random.next() as usize % 4];
                let got = journal.read(first, 64).unwrap();
                for (at, got) in (0..).zip(&got) {
                    let number = first.saturating_add(at);
                    let written = usize::try_from(number).ok().and_then(|at| entries.get(at));
                    assert!(got.is_none() || *got == written.copied(), "{number} of {images:?}");
                    assert!(got.is_none() || images.contains(&number), "{number} of {images:?}");
                }
                read += got.iter().flatten().count();
            }
        }
    }
    assert!(torn * 50 > inputs() && read as u64 > inputs(), "{torn} torn, {read} entries");
}

#[test]
fn a_damaged_manifest_is_read_to_its_end() {
    let dir = folder();
    let path = dir.path().join("manifest.jsonl");
    let head = Head {
        tensortiff: "0.1.0".to_owned(),
        names: Hash(0x0123_4567_89AB_CDEF),
        failed: 0,
        identity: identity(),
        metadata: vec![[("k".to_owned(), "v\n\"".to_owned())].into()],
    };
    let line = |at: u64| Line {
        name: Cow::from(format!("d/a/{at}.tif")),
        page: (!at.is_multiple_of(3)).then_some(at),
        member: at.is_multiple_of(3).then(|| Cow::from(format!("d/\"{at}.tif"))),
        offset: at.is_multiple_of(3).then_some(at << 40),
        source: Cow::from("d.safetensors"),
        tensor: Cow::from("a\u{202E}\""),
        tensor_bytes: (at == 3).then_some(5000),
        index: vec![at, 7],
        dtype: Cow::from("F32"),
        shape: [3, 4],
        lo: (at != 5).then_some(-0.1),
        hi: (at != 5).then_some(1e300),
        norm: Cow::from("minmax"),
        mean: (at == 6).then_some(-3.5),
        std: (at == 6).then_some(0.1),
        nan: Some(at),
        inf: Some(0),
        bytes: Some(4608),
        xxh3: Some(Hash(at)),
        existed: at == 7,
        error: (at == 8).then(|| Cow::from("its samples cannot be read")),
    };
    let lines = |images: std::ops::Range<u64>, out: &mut Vec<u8>| {
        for at in images {
            serde_json::to_writer(&mut *out, &line(at)).unwrap();
            out.push(b'\n');
        }
        Ok(())
    };
    manifest::write(&path, &head, 3, false, &lines).unwrap();
    let whole = fs::read(&path).unwrap();
    let mut manifest = Manifest::open(&path).unwrap().unwrap();
    assert_eq!(*manifest.head(), head);
    for at in 0..IMAGES {
        assert_eq!(manifest.next_line().unwrap(), Some(line(at)));
    }
    assert_eq!(manifest.next_line().unwrap(), None);
    let mut random = Random(2);
    let (mut none, mut read) = (0, 0);
    for _ in 0..inputs() {
        fs::write(&path, damage(&mut random, &whole)).unwrap();
        match Manifest::open(&path).unwrap() {
            None => none += 1,
            Some(mut manifest) => {
                let mut lines = 0;
                while manifest.next_line().unwrap().is_some() {
                    lines += 1;
                    assert!(lines < 1000, "it ends");
                }
                read += lines;
            }
        }
    }
    assert!(none > 0 && read > inputs(), "{none} heads were torn, {read} lines read");
}

/// A plan of so many shards.
fn plan(count: u64) -> Shards {
    let ranges = [
        Range::Linear { lo: -0.1, hi: 1e300, clamp: count > 1 },
        Range::Score { mean: 3.5, std: 1e-7, bounds: [-2.0, 1e9] },
        Range::Keep(Kept::Degenerate(1.5, f64::INFINITY)),
        Range::Keep(Kept::NoFinite),
    ];
    let head = shards::Head {
        tensortiff: "0.1.0".to_owned(),
        shards: count,
        names: Hash(7),
        identity: identity(),
        scopes: ranges.len() as u64,
        ranges: shards::sum(&ranges),
        list: Some((0..IMAGES).map(|at| format!("n\u{e9}/{at}")).collect()),
    };
    let unit = |shard: u64| {
        let [first, end] = [shard, shard + 1].map(|shard| IMAGES * shard / count);
        let name = |at: u64| (first < end).then(|| format!("d/a/{at}.tif"));
        let images = end - first;
        let (from, to) = (name(first), name(end.max(1) - 1));
        Unit { shard, first, images, read: 9 * images, written: u64::MAX, from, to }
    };
    Shards { head, units: (0..count).map(unit).collect(), ranges: ranges.to_vec() }
}

/// Lines doubled, left out, swapped; numbers that are others.
fn confused(random: &mut Random, whole: &[u8]) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> =
        whole.split_inclusive(|&b| b == b'\n').map(<[u8]>::to_vec).collect();
    for _ in 0..1 + random.next() % 2 {
        let [one, other] = [(); 2].map(|()| random.next() as usize % lines.len());
        match random.next() % 5 {
            0 => lines.swap(one, other),
            1 => lines.insert(one, lines[other].clone()),
            2 if lines.len() > 1 => drop(lines.remove(one)),
            _ => {
                let text = String::from_utf8_lossy(&lines[one]).into_owned();
                let digits: Vec<usize> =
                    text.match_indices(|c: char| c.is_ascii_digit()).map(|(at, _)| at).collect();
                if !digits.is_empty() {
                    let at = digits[random.next() as usize % digits.len()];
                    let other =
                        ["0", "7", "-1", "18446744073709551615", "99999999999999999999", "1e3"];
                    let other = other[random.next() as usize % other.len()];
                    lines[one] = format!("{}{other}{}", &text[..at], &text[at + 1..]).into_bytes();
                }
            }
        }
    }
    lines.concat()
}

#[test]
fn a_damaged_plan_is_refused_or_covers_all_images() {
    let dir = folder();
    let path = dir.path().join("plan.jsonl");
    let mut random = Random(3);
    let (mut refused, mut read) = (0, 0);
    let wholes: Vec<Vec<u8>> = [1, 3, 41]
        .into_iter()
        .map(|count| {
            let mut text = Vec::new();
            plan(count).write(&mut text).unwrap();
            fs::write(&path, &text).unwrap();
            assert_eq!(Shards::read(&path).unwrap(), plan(count));
            text
        })
        .collect();
    for at in 0..inputs() {
        let whole = &wholes[random.next() as usize % wholes.len()];
        let damaged =
            if at % 2 == 0 { damage(&mut random, whole) } else { confused(&mut random, whole) };
        fs::write(&path, damaged).unwrap();
        match Shards::read(&path) {
            Err(error) => {
                refused += 1;
                let told = error.to_string();
                assert!(told.contains("plan.jsonl") && told.lines().count() == 1, "{told}");
                assert!(told.len() < 2000, "{told}");
            }
            Ok(Shards { head, units, ranges }) => {
                read += 1;
                assert_eq!(units.len() as u64, head.shards);
                let mut end = 0;
                for (at, unit) in (0..).zip(&units) {
                    assert_eq!((unit.shard, unit.range().start), (at, end));
                    end = unit.range().end;
                }
                assert_eq!(end, head.identity.images);
                // Pixels come of them.
                let written = [1, 3, 41].map(|count| plan(count).ranges);
                assert!(ranges.is_empty() || written.contains(&ranges), "{ranges:?}");
            }
        }
    }
    assert!(refused * 4 > inputs() && read * 50 > inputs(), "{refused} refused, {read} read");
}
