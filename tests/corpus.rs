//! Inputs that parsers once took wrongly, or were written to take wrongly, one lie a file, and what
//! becomes of each: `corpus/outcomes.txt` has it line by line. What was found by chance, by the random
//! suites or by people, is put here, so that it is tried for ever; each is damaged further as well.
//!
//! `TENSORTIFF_LONG=1` tries a million damaged ones of each kind.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data is small, and a test that panics says where"
)]

mod common;
#[path = "common/trees.rs"]
mod trees;

use std::fs;
use std::path::{Path, PathBuf};

use common::Random;
use tensortiff::record::journal::{Journal, Opened};
use tensortiff::record::manifest::Manifest;
use tensortiff::record::shards::Shards;
use tensortiff::{DumpFiles, Error, Source as _};

type Parser = fn(&Path) -> Result<String, Error>;

const PARSERS: [(&str, Parser); 4] =
    [("header", header), ("journal", journal), ("manifest", manifest), ("plan", plan)];

fn header(path: &Path) -> Result<String, Error> {
    let source = DumpFiles::open(&[path])?;
    for (at, tensor) in source.tensors().iter().enumerate() {
        let mut bytes = vec![0; tensor.bytes().unwrap() as usize];
        source.read_at(at, 0, &mut bytes)?;
    }
    let (tensors, refused) = (source.tensors().len(), source.unsupported().len());
    Ok(format!("{tensors} tensors, {refused} refused"))
}

fn journal(path: &Path) -> Result<String, Error> {
    Ok(match Journal::open(path, false)? {
        Opened::None => "there is none".to_owned(),
        Opened::Torn => "torn".to_owned(),
        Opened::Whole(journal, about) => {
            let entries = journal.read(0, 100)?.iter().flatten().count();
            format!("{entries} entries of {:?}", about.range())
        }
    })
}

fn manifest(path: &Path) -> Result<String, Error> {
    let Some(mut manifest) = Manifest::open(path)? else { return Ok("none".to_owned()) };
    let mut lines = 0;
    while manifest.next_line()?.is_some() {
        lines += 1;
    }
    Ok(format!("{lines} lines of {}", manifest.head().identity.images))
}

fn plan(path: &Path) -> Result<String, Error> {
    let Shards { head, units, ranges } = Shards::read(path)?;
    let end = units.last().unwrap().range().end;
    assert_eq!(end, head.identity.images);
    Ok(format!("{} shards of {end} images, {} ranges", units.len(), ranges.len()))
}

/// What is said of a file, without where it is.
fn told(outcome: Result<String, Error>, path: &Path) -> String {
    match outcome {
        Ok(told) => told,
        Err(error) => {
            let text = error.to_string().replace(path.to_str().unwrap(), "");
            assert!(!text.chars().any(char::is_control), "{text:?}");
            format!("refused{text}")
        }
    }
}

fn files(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(kind);
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.collect();
    files.sort();
    files
}

#[test]
fn what_was_met_before_ends_as_it_did() {
    let mut found = String::new();
    for (kind, parser) in PARSERS {
        for path in files(kind) {
            let name = path.file_stem().unwrap().to_str().unwrap();
            found += &format!("{kind}/{name}: {}\n", told(parser(&path), &path));
        }
    }
    let wanted = include_str!("corpus/outcomes.txt");
    let differs = found.lines().zip(wanted.lines()).find(|(found, wanted)| found != wanted);
    assert!(found == wanted, "{differs:?} of\n{found}");
}

/// One to three bytes changed, lost or doubled: nobody panics, and errors have one line.
#[test]
fn what_is_damaged_further_is_read_or_refused() {
    let long = std::env::var_os("TENSORTIFF_LONG").is_some();
    let inputs = if long { 1_000_000 } else { 10_000 };
    let dir = trees::folder();
    for (kind, parser) in PARSERS {
        let seeds: Vec<(PathBuf, Vec<u8>)> =
            files(kind).into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
        let mut random = Random(8);
        for _ in 0..inputs {
            let (path, seed) = &seeds[random.next() as usize % seeds.len()];
            let mut bytes = seed.clone();
            for _ in 0..1 + random.next() % 3 {
                let at = random.next() as usize % bytes.len().max(1);
                match (random.next() % 4, bytes.get(at).copied()) {
                    (_, None) => {}
                    (0, Some(_)) => drop(bytes.remove(at)),
                    (1, Some(byte)) => bytes.insert(at, byte),
                    (2, Some(_)) => bytes[at] = random.next() as u8,
                    (_, Some(_)) => bytes[at] = b"0179-\"{}[],:\n"[random.next() as usize % 13],
                }
            }
            let path = dir.path().join(path.file_name().unwrap());
            fs::write(&path, bytes).unwrap();
            told(parser(&path), &path);
        }
    }
}
