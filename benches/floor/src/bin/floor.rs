//! The floor: reads the samples that tensortiff reads and writes as many files of the same sizes,
//! with nothing in between. Samples of two bytes are read as they are, and pixels of four written.
//!
//! - `whole`: an image is read in steps into one buffer, then header and pixels, which are next to
//!   each other in memory, are written at once.
//! - `vector`: the same with one `writev` of a header and pixels that lie apart.
//! - `twice`: an image is read once to be looked at, and in steps once more, each of which is
//!   written as soon as it is there: memory stays in the cache.
//! - `steps`: the same without the first look. Only a program that need not know an image's extent
//!   before it writes (`--norm none`) can do so.
//! - `again`: `whole` after all threads have read all samples once: the floor of a program whose
//!   images share a range.
//!
//! Images that fit a step are read some at once, whatever the variant.

use std::fs::{self, File};
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::Value;

const USAGE: &str = "usage: floor DUMP OUT [--threads N] [--variant whole|vector|twice|steps|again] \
                     [--step BYTES] [--headers SMALL,LARGE] [--layout NCHW|NHWC]\n\
                     \n\
                     OUT must not exist. --headers: bytes before the pixels of images of less than \
                     64 KiB, and of others";

/// Room for the longest header; then pixels, so that they begin a page.
const ROOM: usize = 4096;

#[derive(Clone, Copy, PartialEq)]
enum Variant {
    Whole,
    Vector,
    Twice,
    Steps,
    Again,
}

struct Options {
    dump: PathBuf,
    out: PathBuf,
    threads: usize,
    variant: Variant,
    step: usize,
    /// As tensortiff's are where tensors have short names; run.py holds sizes against its own.
    headers: [usize; 2],
    /// The last axis of tensors of four counts images: as many bytes are read for each, from where
    /// they are next to each other.
    nhwc: bool,
}

/// Images of one tensor.
struct Row {
    /// Where its bytes begin in the file.
    begins: u64,
    images: usize,
    /// Bytes of an image in the dump, and as pixels.
    bytes: usize,
    pixels: usize,
    header: usize,
    folder: String,
}

/// Some images of a row, done at once.
struct Unit {
    row: usize,
    first: usize,
    count: usize,
}

struct Job {
    dump: File,
    options: Options,
    rows: Vec<Row>,
    units: Vec<Unit>,
    next: AtomicUsize,
}

fn main() -> ExitCode {
    let Some(options) = options(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("floor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn options(mut words: impl Iterator<Item = String>) -> Option<Options> {
    let (dump, out) = (words.next()?.into(), words.next()?.into());
    let mut found = Options {
        dump,
        out,
        threads: thread::available_parallelism().map_or(1, usize::from),
        variant: Variant::Whole,
        step: 256 << 10,
        headers: [448, 512],
        nhwc: false,
    };
    while let Some(word) = words.next() {
        let value = words.next()?;
        match word.as_str() {
            "--threads" => found.threads = value.parse().ok()?,
            "--step" => found.step = value.parse().ok()?,
            "--headers" => {
                let (small, large) = value.split_once(',')?;
                found.headers = [small.parse().ok()?, large.parse().ok()?];
            }
            "--layout" => {
                found.nhwc = ["NCHW", "NHWC"].iter().position(|&name| name == value)? == 1
            }
            "--variant" => {
                found.variant = match value.as_str() {
                    "whole" => Variant::Whole,
                    "vector" => Variant::Vector,
                    "twice" => Variant::Twice,
                    "steps" => Variant::Steps,
                    "again" => Variant::Again,
                    _ => return None,
                }
            }
            _ => return None,
        }
    }
    let fit = found.headers.iter().all(|&header| header <= ROOM);
    // Steps are whole numbers of samples.
    (fit && found.threads > 0 && found.step >= 4 && found.step.is_multiple_of(4)).then_some(found)
}

fn run(options: Options) -> io::Result<()> {
    let dump = File::open(&options.dump)?;
    let rows = rows(&dump, &options)?;
    fs::create_dir(&options.out)?;
    // From here on paths are short: a walk through folders for each file would not be the floor.
    std::env::set_current_dir(&options.out)?;
    let mut units = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        fs::create_dir(&row.folder)?;
        let each = (options.step / row.bytes).max(1);
        units.extend((0..row.images).step_by(each).map(|first| Unit {
            row: number,
            first,
            count: each.min(row.images - first),
        }));
    }
    let job = Job { dump, options, rows, units, next: AtomicUsize::new(0) };
    if job.options.variant == Variant::Again {
        in_all_threads(&job, look)?;
        job.next.store(0, Ordering::Relaxed);
    }
    in_all_threads(&job, work)
}

fn in_all_threads(job: &Job, work: fn(&Job) -> io::Result<()>) -> io::Result<()> {
    thread::scope(|scope| {
        let workers: Vec<_> = (0..job.options.threads).map(|_| scope.spawn(|| work(job))).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no worker panics"))
    })
}

/// Reads all samples, and writes nothing.
fn look(job: &Job) -> io::Result<()> {
    let mut buffer = vec![0; job.options.step];
    while let Some(unit) = job.units.get(job.next.fetch_add(1, Ordering::Relaxed)) {
        let row = &job.rows[unit.row];
        let (mut at, end) = (unit.first * row.bytes, (unit.first + unit.count) * row.bytes);
        while at < end {
            let len = buffer.len().min(end - at);
            job.dump.read_exact_at(&mut buffer[..len], row.begins + at as u64)?;
            at += len;
        }
    }
    Ok(())
}

/// What the dump's header says of tensors that hold images.
fn rows(dump: &File, options: &Options) -> io::Result<Vec<Row>> {
    let mut len = [0; 8];
    dump.read_exact_at(&mut len, 0)?;
    let len = u64::from_le_bytes(len);
    if len > dump.metadata()?.len() {
        return Err(io::Error::other("this is no dump"));
    }
    let mut header = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    dump.read_exact_at(&mut header, 8)?;
    let header: Value = serde_json::from_slice(&header)?;
    let tensors = header.as_object().ok_or(io::Error::other("the header is no map"))?;
    let rows = tensors.iter().filter(|(name, _)| *name != "__metadata__").enumerate();
    rows.filter_map(|(number, (_, tensor))| {
        let shape: Vec<usize> = serde_json::from_value(tensor["shape"].clone()).ok()?;
        let [begin, end]: [usize; 2] =
            serde_json::from_value(tensor["data_offsets"].clone()).ok()?;
        let (images, [height, width]) = match shape[..] {
            [number, height, width, channels] if options.nhwc => {
                (number * channels, [height, width])
            }
            [ref axes @ .., height, width] => (axes.iter().product(), [height, width]),
            _ => return None,
        };
        (begin < end).then(|| {
            let pixels = height * width * 4;
            Ok(Row {
                begins: 8 + len + begin as u64,
                images,
                bytes: (end - begin) / images,
                pixels,
                header: options.headers[usize::from(pixels >= 64 << 10)],
                folder: number.to_string(),
            })
        })
    })
    .collect()
}

fn work(job: &Job) -> io::Result<()> {
    let (mut buffer, mut raw) = (Vec::new(), Vec::new());
    while let Some(unit) = job.units.get(job.next.fetch_add(1, Ordering::Relaxed)) {
        let row = &job.rows[unit.row];
        let at = row.begins + (unit.first * row.bytes) as u64;
        if unit.count > 1 {
            grow(&mut raw, unit.count * row.bytes);
            some(job, row, unit, at, &mut raw[..unit.count * row.bytes], &mut buffer)?;
        } else {
            one(job, row, unit.first, at, &mut buffer)?;
        }
    }
    Ok(())
}

fn create(row: &Row, index: usize) -> io::Result<File> {
    File::create_new(Path::new(&row.folder).join(format!("{index}.tif")))
}

/// Small images, read at once and written one by one.
fn some(
    job: &Job,
    row: &Row,
    unit: &Unit,
    at: u64,
    raw: &mut [u8],
    buffer: &mut Vec<u8>,
) -> io::Result<()> {
    grow(buffer, ROOM + row.pixels);
    job.dump.read_exact_at(raw, at)?;
    for (k, raw) in raw.chunks(row.bytes).enumerate() {
        let file = create(row, unit.first + k)?;
        if job.options.variant == Variant::Vector && row.bytes == row.pixels {
            both(file, &buffer[..row.header], raw)?;
        } else {
            let copied = row.bytes.min(row.pixels);
            buffer[ROOM..ROOM + copied].copy_from_slice(&raw[..copied]);
            (&file).write_all(&buffer[ROOM - row.header..ROOM + row.pixels])?;
        }
    }
    Ok(())
}

/// An image of its own.
fn one(job: &Job, row: &Row, index: usize, at: u64, buffer: &mut Vec<u8>) -> io::Result<()> {
    let Options { variant, step, .. } = job.options;
    let starts = (0..row.bytes).step_by(step);
    let read = |buffer: &mut [u8], done: usize| job.dump.read_exact_at(buffer, at + done as u64);
    if matches!(variant, Variant::Whole | Variant::Vector | Variant::Again) {
        grow(buffer, ROOM + row.pixels.max(row.bytes));
        for done in starts {
            let end = row.bytes.min(done + step);
            read(&mut buffer[ROOM + done..ROOM + end], done)?;
        }
        let file = create(row, index)?;
        if variant == Variant::Vector {
            return both(file, &buffer[..row.header], &buffer[ROOM..ROOM + row.pixels]);
        }
        return (&file).write_all(&buffer[ROOM - row.header..ROOM + row.pixels]);
    }
    // A step of one-byte samples would become four times as many pixels.
    grow(buffer, ROOM + step.min(row.bytes) * row.pixels.div_ceil(row.bytes));
    let step_of = |done: usize| ROOM..ROOM + step.min(row.bytes - done);
    if variant == Variant::Twice {
        for done in starts.clone() {
            read(&mut buffer[step_of(done)], done)?;
        }
    }
    let mut file = create(row, index)?;
    let pixels = |bytes: usize| bytes * row.pixels / row.bytes;
    for done in starts {
        let read_to = step_of(done);
        let written = pixels(done + read_to.len()) - pixels(done);
        read(&mut buffer[read_to], done)?;
        let start = if done == 0 { ROOM - row.header } else { ROOM };
        file.write_all(&buffer[start..ROOM + written])?;
    }
    Ok(())
}

/// Header and pixels by one call; the rest by another where a system does not take all.
fn both(mut file: File, header: &[u8], pixels: &[u8]) -> io::Result<()> {
    let done = file.write_vectored(&[IoSlice::new(header), IoSlice::new(pixels)])?;
    let left = header.get(done..).unwrap_or_default();
    file.write_all(left)?;
    file.write_all(&pixels[(done + left.len()).saturating_sub(header.len())..])
}

fn grow(buffer: &mut Vec<u8>, len: usize) {
    if buffer.len() < len {
        // Not zeros: those come from the system, and are all one page until something is written there.
        *buffer = vec![1; len];
    }
}
