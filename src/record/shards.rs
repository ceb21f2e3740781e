//! The file that divides a run into shards: JSON lines. The first says which run it is ([`Head`]),
//! each other which images a shard makes ([`Unit`]).
//!
//! It is a function of the dumps and the options alone, so that whoever divides the same run gets
//! the same shards.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write};
use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::identity::{Hash, Identity};
use crate::error::{Error, shown_problem};

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shards {
    /// Which run.
    pub head: Head,
    /// Its shards, in order. They cover its images without a gap.
    pub units: Vec<Unit>,
}

impl Unit {
    /// The numbers of its images.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
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
        let file = File::open(path).map_err(open)?;
        if file.metadata().map_err(open)?.is_dir() {
            return Err(open(io::ErrorKind::IsADirectory.into()));
        }
        Shards::parse(BufReader::with_capacity(1 << 16, file)).map_err(|problem| match problem {
            Problem::Io(source) => open(source),
            Problem::Format(problem) => {
                Error::Format { path: path.to_owned(), format: FORMAT, problem }
            }
        })
    }

    fn parse(mut lines: impl io::BufRead) -> Result<Shards, Problem> {
        let mut line = Vec::new();
        let told = |number: u64, what: &str, error: serde_json::Error| {
            format!("line {number} is not {what}: {}", shown_problem(&error))
        };
        next(&mut lines, &mut line)?;
        let head: Head = serde_json::from_slice(&line).map_err(|error| {
            told(1, "the head of a plan, as `tensortiff plan` writes it", error)
        })?;
        if head.shards == 0 || head.shards > MOST {
            return Err(format!("{} shards, and 1 to {MOST} can be", head.shards).into());
        }
        if let Some(list) = &head.list
            && list.len() as u64 != head.identity.images
        {
            let (names, images) = (list.len(), head.identity.images);
            return Err(format!("it lists {names} names for {images} images").into());
        }
        let mut units = Vec::new();
        let mut end: u64 = 0;
        for shard in 0..head.shards {
            if !next(&mut lines, &mut line)? {
                return Err(format!("it ends after {shard} of {} shards", head.shards).into());
            }
            let unit: Unit = serde_json::from_slice(&line)
                .map_err(|error| told(shard + 2, "a shard's", error))?;
            let follows = unit.shard == shard && unit.first == end;
            let all = head.identity.images;
            let to = end.checked_add(unit.images).filter(|to| follows && *to <= all);
            end = to.ok_or_else(|| {
                format!(
                    "line {} is shard {} with {} images from number {} on, where shard {shard} \
                     from number {end} on is due, of {all} in all",
                    shard + 2,
                    unit.shard,
                    unit.images,
                    unit.first
                )
            })?;
            units.push(unit);
        }
        if end != head.identity.images {
            let all = head.identity.images;
            return Err(format!("its shards end at image {end} of {all}").into());
        }
        if next(&mut lines, &mut line)? {
            return Err(format!("it goes on after its {} shards", head.shards).into());
        }
        Ok(Shards { head, units })
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

/// The next line without its end; false at the end of the file.
fn next(lines: &mut impl io::BufRead, line: &mut Vec<u8>) -> Result<bool, Problem> {
    line.clear();
    lines.by_ref().take(LONGEST).read_until(b'\n', line).map_err(Problem::Io)?;
    match line.pop() {
        None => Ok(false),
        Some(b'\n') => Ok(true),
        Some(_) => Err("it ends in the middle of a line".to_owned().into()),
    }
}
