//! Inputs that parsers once took wrongly, or were written to take wrongly, one lie a file, and what
//! becomes of each: `corpus/outcomes.txt` has it line by line. What was found by chance, by the random
//! suites or by people, is put here, so that it is tried for ever; each is damaged further as well.
//!
//! No answer takes long, or more memory than is promised for a file of that length.
//!
//! `TENSORTIFF_LONG=1` tries a million damaged ones of each kind.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data is small, and a test that panics says where"
)]

#[path = "common/allocated.rs"]
mod allocated;
mod common;
#[path = "common/damage.rs"]
mod damage;
#[path = "common/trees.rs"]
mod trees;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::Random;
use tensortiff::record::journal::{Journal, Opened};
use tensortiff::record::manifest::Manifest;
use tensortiff::record::shards::Shards;
use tensortiff::{DumpFiles, Error, Source as _};

/// A parser, and what it is tried with.
struct Kind {
    name: &'static str,
    /// What files are called that it is for; beside them may be others, which they name.
    ends: &'static str,
    parse: fn(&Path) -> Result<String, Error>,
    damage: fn(&mut Random, &[u8]) -> Vec<u8>,
    /// Bytes of memory that opening and reading a file takes at most: some, and so many times its own.
    memory: (u64, u64),
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

const KINDS: [Kind; 8] = [
    Kind { name: "header", ends: "", parse: dump, damage: header, memory: (64 * KIB, 8) },
    Kind { name: "journal", ends: "", parse: journal, damage: damage::lines, memory: (MIB, 16) },
    Kind { name: "manifest", ends: "", parse: manifest, damage: damage::lines, memory: (MIB, 16) },
    Kind { name: "plan", ends: "", parse: plan, damage: damage::lines, memory: (MIB, 16) },
    Kind { name: "npy", ends: "", parse: dump, damage: damage::array, memory: (64 * KIB, 8) },
    // Its last 64 KiB are looked at for an end; of what is deflated there is a chunk, and points to go on from.
    Kind { name: "npz", ends: "", parse: dump, damage: arrays, memory: (4 * MIB, 8) },
    Kind {
        name: "index",
        ends: ".safetensors.index.json",
        parse: dump,
        damage: index,
        memory: (64 * KIB, 6),
    },
    Kind { name: "torch", ends: "", parse: dump, damage: torch, memory: (64 * MIB, 16) },
];

/// The longest that a parser takes for a file, on a machine that does other things as well.
const LONGEST: Duration = Duration::from_secs(10);

/// A header damaged as bytes, or with its text changed and its length then said right.
fn header(random: &mut Random, whole: &[u8]) -> Vec<u8> {
    let length = |file: &[u8]| Some(u64::from_le_bytes(file.get(..8)?.try_into().ok()?));
    let end = length(whole).and_then(|length| usize::try_from(length.checked_add(8)?).ok());
    let Some(text) = end.and_then(|end| whole.get(8..end)).filter(|_| random.below(4) > 0) else {
        return damage::lines(random, whole);
    };
    let data = &whole[8 + text.len()..];
    let text = damage::lines(random, text);
    [&(text.len() as u64).to_le_bytes()[..], &text, data].concat()
}

/// An archive damaged as bytes, in its directory, or within an array of it.
fn arrays(random: &mut Random, whole: &[u8]) -> Vec<u8> {
    match random.below(4) {
        0 => damage::any_archive(random, whole),
        1 => damage::directory(random, whole),
        _ => damage::within_archive(random, whole, ".npy", damage::array),
    }
}

/// The same, within a pickle.
fn torch(random: &mut Random, whole: &[u8]) -> Vec<u8> {
    match random.below(4) {
        0 => damage::any_archive(random, whole),
        1 => damage::directory(random, whole),
        _ => damage::within_archive(random, whole, "data.pkl", damage::pickle),
    }
}

fn index(random: &mut Random, whole: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(whole) {
        Ok(text) if random.below(4) > 0 => {
            let times = 1 + random.below(3);
            damage::text(random, text, times, &damage::INDEX).into_bytes()
        }
        _ => damage::lines(random, whole),
    }
}

/// Most bytes of a tensor that are read: expanded ones may be of any size.
const READ: u64 = 2 << 20;

fn dump(path: &Path) -> Result<String, Error> {
    let source = DumpFiles::open(&[path])?;
    for (at, tensor) in source.tensors().iter().enumerate() {
        let mut bytes = vec![0; tensor.bytes().unwrap().min(READ) as usize];
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

/// What is said of a file, without where it is: soon, in little memory, in one line.
fn told(kind: &Kind, path: &Path) -> String {
    let (started, len) = (Instant::now(), fs::metadata(path).unwrap().len());
    let (outcome, most) = allocated::most(|| (kind.parse)(path));
    let (some, times) = kind.memory;
    // What it reads in the end, the test allocates.
    let read = if outcome.is_ok() { READ } else { 0 };
    let name = path.display();
    assert!(most <= some + times * len + read, "{name}: {most} bytes were allocated for {len}");
    assert!(started.elapsed() < LONGEST, "{name} takes {:?}", started.elapsed());
    let folder = format!("{}/", path.parent().unwrap().display());
    let said = |error: &Error| {
        let text = error.to_string().replace(&path.display().to_string(), "").replace(&folder, "");
        assert!(!text.chars().any(char::is_control), "{text:?}");
        assert!(text.len() < 3000, "{text}");
        text
    };
    match outcome {
        Ok(told) => told,
        // Of several files that cannot be opened each has a line.
        Err(Error::Inputs(all)) => {
            let all: Vec<String> = all.iter().map(said).collect();
            format!("refused: {}", all.join(" | "))
        }
        Err(error) => format!("refused{}", said(&error)),
    }
}

fn folder(kind: &Kind) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(kind.name)
}

/// The files of a kind, in order.
fn files(kind: &Kind) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder(kind)).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries
        .filter(|path| path.is_file() && path.to_str().unwrap().ends_with(kind.ends))
        .collect();
    files.sort();
    files
}

/// A file's name up to the first dot.
fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap().split('.').next().unwrap()
}

#[test]
fn what_was_met_before_ends_as_it_did() {
    let mut found = String::new();
    for kind in &KINDS {
        for path in files(kind) {
            found += &format!("{}/{}: {}\n", kind.name, name(&path), told(kind, &path));
        }
    }
    let wanted = include_str!("corpus/outcomes.txt");
    let differs = found.lines().zip(wanted.lines()).find(|(found, wanted)| found != wanted);
    assert!(found == wanted, "{differs:?} of\n{found}");
}

/// Changed, lost or doubled parts, half of the times of what is valid: nobody panics, and errors have one
/// line.
#[test]
fn what_is_damaged_further_is_read_or_refused() {
    let inputs = damage::inputs(10_000);
    for kind in &KINDS {
        let dir = trees::folder();
        let within = dir.path().join("in");
        fs::create_dir(&within).unwrap();
        // What files may name, and what they must not.
        for (path, bytes) in trees::tree(folder(kind)) {
            if !kind.ends.is_empty() && !path.to_str().unwrap().ends_with(kind.ends) {
                fs::create_dir_all(within.join(&path).parent().unwrap()).unwrap();
                fs::write(within.join(&path), &bytes).unwrap();
                fs::write(dir.path().join("out.safetensors"), bytes).unwrap();
            }
        }
        let seed =
            |path: PathBuf| (within.join(path.file_name().unwrap()), fs::read(path).unwrap());
        // What ends at a limit on work takes as long when it is damaged: a hundred times as long as others.
        let is_long =
            |path: &PathBuf| ["a-billion", "many"].iter().any(|a| name(path).starts_with(a));
        let files = files(kind).into_iter().filter(|path| !is_long(path));
        let seeds: Vec<(PathBuf, Vec<u8>)> = files.map(seed).collect();
        let is_valid = |seed: &&(PathBuf, Vec<u8>)| name(&seed.0).starts_with("valid");
        let valid: Vec<_> = seeds.iter().filter(is_valid).collect();
        let mut random = Random(8);
        let mut read = 0;
        let started = Instant::now();
        for _ in 0..inputs {
            let of_any = random.below(2) == 0;
            let (path, seed) = match of_any {
                true => &seeds[random.below(seeds.len() as u64) as usize],
                false => valid[random.below(valid.len() as u64) as usize],
            };
            fs::write(path, (kind.damage)(&mut random, seed)).unwrap();
            read += u64::from(!told(kind, path).starts_with("refused"));
        }
        let (name, took) = (kind.name, started.elapsed());
        println!("{name}: {read} of {inputs} were read, in {took:?}");
        // Damage that is always noticed at once would find nothing.
        assert!(read * 50 > inputs, "{name}: {read} of {inputs} were read");
        let refuses = !["journal", "manifest"].contains(&name);
        assert!(!refuses || read * 50 < inputs * 49, "{name}: {read} of {inputs} were read");
    }
}
