//! The manifest: JSON lines that say what a run made, in the order of the plan. The first is about
//! the run ([`Head`]), each other about one image ([`Line`]).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::files;
use super::identity::{Hash, Identity};
use crate::error::Error;

/// Longest line that is read: as long as the longest name of a tensor takes.
const LONGEST: u64 = 256 << 20;
/// What every manifest begins with.
const BEGIN: &[u8] = b"{\"tensortiff\":\"";
/// Longest line that is read of what begins like none, to find the next.
const LONGEST_DAMAGED: u64 = 1 << 20;
/// Longest name of a tensor that is written whole, in bytes: every image's line has it.
const NAME: usize = 1000;
/// Images whose lines a thread makes at once.
const CHUNK: u64 = 512;

/// The first line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// The version of the program that wrote it.
    pub tensortiff: String,
    /// Hash of the names of all images: runs of the same names share a manifest.
    pub names: Hash,
    /// Number of images that could not be made.
    pub failed: u64,
    /// Which run it was.
    #[serde(flatten)]
    pub identity: Identity,
    /// What each dump says of itself (`__metadata__` of safetensors).
    pub metadata: Vec<BTreeMap<String, String>>,
}

/// The line of an image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line<'a> {
    /// Path of its file below the output folder.
    pub name: Cow<'a, str>,
    /// Where several images share the file, as pages: which of them it is, from 0 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<u64>,
    /// Where the file is a tar: the name of the image's member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<Cow<'a, str>>,
    /// And where the image's own file begins in it, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Path of the dump as given.
    pub source: Cow<'a, str>,
    /// Name of the tensor; one of more than 1000 bytes is cut, and ends in `…`.
    pub tensor: Cow<'a, str>,
    /// How long a name that is cut is, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensor_bytes: Option<usize>,
    /// The image's place on the axes before its own.
    pub index: Vec<u64>,
    /// Element type.
    pub dtype: Cow<'a, str>,
    /// Height and width in samples.
    pub shape: [u64; 2],
    /// What maps to 0, or where there is no range the least finite sample; `null` where there is none
    /// or nothing is known.
    pub lo: Option<f64>,
    /// What maps to 1, or the greatest finite sample.
    pub hi: Option<f64>,
    /// How samples became pixels.
    pub norm: Cow<'a, str>,
    /// Of z-scores, instead of lo and hi: the mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<f64>,
    /// And the standard deviation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub std: Option<f64>,
    /// Number of NaN.
    pub nan: Option<u64>,
    /// Number of infinite pixels.
    pub inf: Option<u64>,
    /// Bytes of the file, header included; in a tar those of the image's own.
    pub bytes: Option<u64>,
    /// XXH3 (64 bit) of the pixels as stored; there where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xxh3: Option<Hash>,
    /// There if the run found the file and left it as it was: nothing else is known of it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub existed: bool,
    /// Why there is no file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Cow<'a, str>>,
}

/// A tensor's name as lines have it, and its length where it is cut.
#[must_use]
pub fn named(tensor: &str) -> (Cow<'_, str>, Option<usize>) {
    if tensor.len() <= NAME {
        return (Cow::from(tensor), None);
    }
    let cut = (0..=NAME).rev().find(|&at| tensor.is_char_boundary(at)).unwrap_or(0);
    (Cow::from(format!("{}…", &tensor[..cut])), Some(tensor.len()))
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// A manifest to read.
#[derive(Debug)]
pub struct Manifest {
    path: PathBuf,
    lines: BufReader<File>,
    line: Vec<u8>,
    head: Head,
}

impl Manifest {
    /// The manifest at `path`; `None` if there is none, or something else.
    ///
    /// # Errors
    /// [`Error::InTheWay`], [`Error::Open`] where it cannot be read.
    pub fn open(path: &Path) -> Result<Option<Manifest>, Error> {
        let Some(file) = files::open_regular(path, false)? else { return Ok(None) };
        let mut lines = BufReader::with_capacity(1 << 16, file);
        let mut line = Vec::new();
        read_line(&mut lines, &mut line).map_err(failed(path))?;
        let head = parse(&line);
        Ok(head.map(|head| Manifest { path: path.to_owned(), lines, line, head }))
    }

    /// Whether what is at `path` is what a loss of power may leave of a manifest that was just written:
    /// nothing, or a part of its first line and zeros up to the end; with `zeros` also nothing but those. A
    /// first line that is whole and no manifest's is of something else.
    ///
    /// # Errors
    /// [`Error::InTheWay`], [`Error::Open`] where it cannot be read.
    pub fn is_torn(path: &Path, zeros: bool) -> Result<bool, Error> {
        let Some(file) = files::open_regular(path, false)? else { return Ok(false) };
        let mut file = BufReader::with_capacity(1 << 16, file);
        // Of what is written how much is read, and whether zeros have begun; of a hole of terabytes little is.
        let (mut written, mut is_over, mut zeros_read) = (0, false, 0);
        loop {
            if zeros_read > LONGEST_DAMAGED {
                return Ok(written > 0 || zeros);
            }
            let bytes = match file.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                bytes => bytes.map_err(failed(path))?,
            };
            if bytes.is_empty() {
                return Ok(written > 0 || !is_over || zeros);
            }
            let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
            let (text, rest) = bytes.split_at(end);
            let due = BEGIN.get(written..).unwrap_or_default();
            let is_begin = text.iter().zip(due).all(|(is, due)| is == due);
            if !is_begin || text.contains(&b'\n') || (is_over && !text.is_empty()) {
                return Ok(false);
            }
            written += text.len();
            zeros_read += rest.len() as u64;
            is_over |= !rest.is_empty();
            if rest.iter().any(|&byte| byte != 0) {
                return Ok(false);
            }
            let read = bytes.len();
            file.consume(read);
        }
    }

    /// Its first line.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Leaves out the next lines, so many.
    ///
    /// # Errors
    /// [`Error::Open`] where they cannot be read.
    pub fn skip(&mut self, lines: u64) -> Result<(), Error> {
        for _ in 0..lines {
            read_line(&mut self.lines, &mut self.line).map_err(failed(&self.path))?;
            if self.line.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// The next image's line; `None` at the end, or where a line is no image's.
    ///
    /// # Errors
    /// [`Error::Open`] where it cannot be read.
    pub fn next_line(&mut self) -> Result<Option<Line<'static>>, Error> {
        read_line(&mut self.lines, &mut self.line).map_err(failed(&self.path))?;
        Ok(parse(&self.line))
    }
}

fn parse<T: DeserializeOwned>(line: &[u8]) -> Option<T> {
    if files::is_crammed(line) { None } else { serde_json::from_slice(line).ok() }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Open { path: path.clone(), source }
}

/// The next line; empty at the end. Of what is no line, a hole of terabytes perhaps, little is read.
fn read_line(lines: &mut BufReader<File>, line: &mut Vec<u8>) -> io::Result<()> {
    let is_line = lines.fill_buf()?.first() == Some(&b'{');
    let most = if is_line { LONGEST } else { LONGEST_DAMAGED };
    files::read_line(lines, most, line)
}

/// Appends the lines of some images.
pub type Lines<'a> = dyn Fn(Range<u64>, &mut Vec<u8>) -> Result<(), Error> + Sync + 'a;

/// Writes a manifest in the place of one that may be there: `path` is whole or as it was. `lines`
/// is called by several threads.
///
/// # Errors
/// [`Error::Write`], and what `lines` says.
pub fn write(
    path: &Path,
    head: &Head,
    threads: usize,
    sync: bool,
    lines: &Lines<'_>,
) -> Result<(), Error> {
    let temporary = temporary(path, head.names);
    let failed = |source| Error::Write { path: path.to_owned(), source };
    let create = || {
        files::remove(&temporary)?;
        let mut file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
        let mut line = serde_json::to_vec(head).map_err(io::Error::other)?;
        line.push(b'\n');
        file.write_all(&line)?;
        Ok(file)
    };
    let written = create()
        .map_err(failed)
        .and_then(|file| write_lines(file, head.identity.images, threads, lines, &failed))
        .and_then(|file| {
            if sync {
                file.sync_all().map_err(failed)?;
            }
            std::fs::rename(&temporary, path).map_err(failed)
        });
    if written.is_err() {
        // The first error counts.
        let _ = files::remove(&temporary);
    }
    written
}

/// The name under which a manifest is written, in the same folder, where others of the same names may be
/// written at once: `--manifest` puts those of several folders into one.
fn temporary(path: &Path, names: Hash) -> PathBuf {
    let (names, process) = (String::from(names), std::process::id());
    path.with_file_name(format!(".tensortiff-{names}-{process}.manifest.tmp"))
}

/// Makes lines on all threads and writes them in order.
fn write_lines(
    file: File,
    images: u64,
    threads: usize,
    lines: &Lines<'_>,
    failed: &(dyn Fn(io::Error) -> Error + Sync),
) -> Result<File, Error> {
    struct Turn {
        next: u64,
        outcome: Result<(), Error>,
    }
    let chunks = images.div_ceil(CHUNK);
    let taken = AtomicU64::new(0);
    let turn = Mutex::new(Turn { next: 0, outcome: Ok(()) });
    let changed = Condvar::new();
    let work = || {
        let mut text = Vec::new();
        loop {
            let chunk = taken.fetch_add(1, Ordering::Relaxed);
            if chunk >= chunks {
                return;
            }
            text.clear();
            let first = chunk * CHUNK;
            let made = lines(first..images.min(first + CHUNK), &mut text);
            let mut turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
            while turn.next < chunk && turn.outcome.is_ok() {
                turn = changed.wait(turn).unwrap_or_else(PoisonError::into_inner);
            }
            if turn.outcome.is_ok() {
                turn.outcome = made.and_then(|()| (&file).write_all(&text).map_err(failed));
            }
            turn.next += 1;
            let go_on = turn.outcome.is_ok();
            drop(turn);
            changed.notify_all();
            if !go_on {
                return;
            }
        }
    };
    thread::scope(|scope| {
        let others = u64::try_from(threads).unwrap_or(u64::MAX).min(chunks);
        for _ in 1..others {
            if thread::Builder::new().spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
    let turn = turn.into_inner().unwrap_or_else(PoisonError::into_inner);
    turn.outcome.map(|()| file)
}
