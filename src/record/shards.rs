//! The file that divides a run into shards: JSON lines. The first says which run it is ([`Head`]),
//! then each says which images a shard makes ([`Unit`]), and where images share ranges, each of the
//! last ones such a [`Range`].
//!
//! It is a function of the dumps and the options alone, so that whoever divides the same run gets
//! the same shards.

use std::fs::{self, File};
use std::io::{self, BufReader, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::identity::{Hash, Identity};
use super::{Hasher, files};
use crate::error::{Error, counted, shown, shown_problem};
use crate::normalize::Range;

/// Longest line that is read: the first may hold a list of names.
const LONGEST: u64 = 1 << 30;
/// Most shards: what no scheduler takes.
pub const MOST: u64 = 1_000_000;
const FORMAT: &str = "plan";

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The version of the program that wrote it.
    pub tensortiff: String,
    /// Number of shards.
    pub shards: u64,
    /// Hash of the names of all images.
    pub names: Hash,
    /// Which run it is.
    #[serde(flatten)]
    pub identity: Identity,
    /// The name of each image, where they come from a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list: Option<Vec<String>>,
    /// Number of scopes that are wider than an image.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub scopes: u64,
    /// [`sum`] of their ranges, if there are any: pixels depend on them, and nothing else would show
    /// that one is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranges: Option<Hash>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What a plan's first line says of its ranges.
#[must_use]
pub fn sum(ranges: &[Range]) -> Option<Hash> {
    let mut hasher = Hasher::default();
    ranges.iter().for_each(|range| hasher.text(&range.to_text()));
    (!ranges.is_empty()).then(|| Hash(hasher.finish()))
}

/// The line of a scope.
#[derive(Serialize, Deserialize)]
struct ScopeLine {
    scope: u64,
    range: String,
}

/// The line of a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// Its number, from 0 on.
    pub shard: u64,
    /// Number of its first image among all.
    pub first: u64,
    /// How many images it makes.
    pub images: u64,
    /// Bytes of samples that it reads.
    pub read: u64,
    /// Bytes of the files that it writes.
    pub written: u64,
    /// Name of its first image; `null` where it has none.
    pub from: Option<String>,
    /// Name of its last image.
    pub to: Option<String>,
}

/// A run, divided.
#[derive(Debug, Clone, PartialEq)]
pub struct Shards {
    /// Which run.
    pub head: Head,
    /// Its shards, in order. They cover its images without a gap.
    pub units: Vec<Unit>,
    /// The ranges of its scopes that are wider than an image, so that no shard need look for them.
    pub ranges: Vec<Range>,
}

impl Unit {
    /// The numbers of its images.
    #[must_use]
    pub fn range(&self) -> std::ops::Range<u64> {
        self.first..self.first + self.images
    }
}

impl Shards {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// [`Error::Open`] where it cannot be read, [`Error::Format`] where it is none.
    pub fn read(path: &Path) -> Result<Shards, Error> {
        let open = |source| Error::Open { path: path.to_owned(), source };
        let wrong = |problem| Error::Format { path: path.to_owned(), format: FORMAT, problem };
        // Looked at before it is opened: opening a pipe waits for a writer.
        let kind = fs::metadata(path).map_err(open)?.file_type();
        if kind.is_dir() {
            return Err(open(io::ErrorKind::IsADirectory.into()));
        }
        if !kind.is_file() {
            return Err(wrong("it is not a regular file".to_owned()));
        }
        let file = File::open(path).map_err(open)?;
        Shards::parse(BufReader::with_capacity(1 << 16, file)).map_err(|problem| match problem {
            Problem::Io(source) => open(source),
            Problem::Format(problem) => wrong(problem),
        })
    }

    fn parse(mut lines: impl io::BufRead) -> Result<Shards, Problem> {
        let mut line = Vec::new();
        next(&mut lines, &mut line)?;
        let head: Head = serde_json::from_slice(&line).map_err(|error| {
            told(1, "the head of a plan, as `tensortiff plan` writes it", &error)
        })?;
        if head.shards == 0 || head.shards > MOST {
            return Err(format!("{} shards, and 1 to {MOST} can be", head.shards).into());
        }
        if let Some(list) = &head.list
            && list.len() as u64 != head.identity.images
        {
            let (names, images) = (list.len(), head.identity.images);
            return Err(format!(
                "it lists {} for {}",
                counted(names as u64, "name"),
                counted(images, "image")
            )
            .into());
        }
        let mut units = Vec::new();
        let mut end: u64 = 0;
        for shard in 0..head.shards {
            if !next(&mut lines, &mut line)? {
                return Err(format!("it ends after {shard} of {} shards", head.shards).into());
            }
            let unit: Unit = serde_json::from_slice(&line)
                .map_err(|error| told(shard + 2, "a shard's", &error))?;
            let follows = unit.shard == shard && unit.first == end;
            let all = head.identity.images;
            let to = end.checked_add(unit.images).filter(|to| follows && *to <= all);
            end = to.ok_or_else(|| {
                format!(
                    "line {} is shard {} with {} from number {} on, where shard {shard} \
                     from number {end} on is due, of {all} in all",
                    shard + 2,
                    unit.shard,
                    counted(unit.images, "image"),
                    unit.first
                )
            })?;
            units.push(unit);
        }
        if end != head.identity.images {
            let all = head.identity.images;
            return Err(format!("its shards end at image {end} of {all}").into());
        }
        let ranges = Shards::parse_ranges(&mut lines, &mut line, &head)?;
        if next(&mut lines, &mut line)? {
            return Err(format!("it goes on after its {} shards", head.shards).into());
        }
        Ok(Shards { head, units, ranges })
    }

    fn parse_ranges(
        mut lines: impl io::BufRead,
        line: &mut Vec<u8>,
        head: &Head,
    ) -> Result<Vec<Range>, Problem> {
        let mut ranges = Vec::new();
        for scope in 0..head.scopes {
            if !next(&mut lines, line)? {
                return Err(format!("it ends after {scope} of {} scopes", head.scopes).into());
            }
            let number = head.shards + scope + 2;
            let due: ScopeLine =
                serde_json::from_slice(line).map_err(|error| told(number, "a scope's", &error))?;
            if due.scope != scope {
                let found = due.scope;
                return Err(format!("line {number} is scope {found}, and {scope} is due").into());
            }
            let range = Range::from_text(&due.range)
                .ok_or_else(|| format!("line {number}: {} is no range", shown(&due.range)))?;
            ranges.push(range);
        }
        if sum(&ranges) != head.ranges {
            return Err("its ranges are not those that it was written with".to_owned().into());
        }
        Ok(ranges)
    }

    /// Writes the file's text.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer(&mut *out, &self.head)?;
        out.write_all(b"\n")?;
        for unit in &self.units {
            serde_json::to_writer(&mut *out, unit)?;
            out.write_all(b"\n")?;
        }
        for (scope, range) in (0..).zip(&self.ranges) {
            serde_json::to_writer(&mut *out, &ScopeLine { scope, range: range.to_text() })?;
            out.write_all(b"\n")?;
        }
        Ok(())
    }
}

enum Problem {
    Io(io::Error),
    Format(String),
}

impl From<String> for Problem {
    fn from(problem: String) -> Problem {
        Problem::Format(problem)
    }
}

fn told(number: u64, what: &str, error: &serde_json::Error) -> String {
    format!("line {number} is not {what}: {}", shown_problem(error))
}

/// The next line without its end; false at the end of the file.
fn next(lines: &mut impl io::BufRead, line: &mut Vec<u8>) -> Result<bool, Problem> {
    files::read_line(lines, LONGEST, line).map_err(Problem::Io)?;
    match line.pop() {
        None => Ok(false),
        Some(b'\n') if files::is_crammed(line) => {
            Err("a line of it has more values than one of its length may".to_owned().into())
        }
        Some(b'\n') => Ok(true),
        Some(_) => Err("it ends in the middle of a line".to_owned().into()),
    }
}
