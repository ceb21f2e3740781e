//! Journals and manifests that were damaged in every way: nothing panics, hangs or takes memory by a
//! claim, and nothing is believed that was not written.
//!
//! `TENSORTIFF_LONG=1` tries a million of each.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data is small, and a test that panics says where"
)]

mod common;

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use common::Random;
use tensortiff::record::entry::{Doing, Entry, Failure, Found, SIZE};
use tensortiff::record::identity::{Asked, Hash, Identity, Origin};
use tensortiff::record::journal::{About, Journal, Opened};
use tensortiff::record::manifest::{self, Head, Line, Manifest};

const IMAGES: u64 = 40;

fn inputs() -> u64 {
    if std::env::var_os("TENSORTIFF_LONG").is_some() { 1_000_000 } else { 20_000 }
}

fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

fn identity() -> Identity {
    let asked = Asked {
        norm: "minmax".to_owned(),
        names: "{stem}/{tensor}/{index}.tif".to_owned(),
        tensors: vec!["a*".to_owned()],
        exclude: Vec::new(),
        channel: Some(3),
        hash: true,
    };
    let dump = Origin { path: "d.safetensors".to_owned(), bytes: 123_456, modified: Some(7) };
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
        source: Cow::from("d.safetensors"),
        tensor: Cow::from("a\u{202E}\""),
        tensor_bytes: (at == 3).then_some(5000),
        index: vec![at, 7],
        dtype: Cow::from("F32"),
        shape: [3, 4],
        lo: (at != 5).then_some(-0.1),
        hi: (at != 5).then_some(1e300),
        norm: Cow::from("minmax"),
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
