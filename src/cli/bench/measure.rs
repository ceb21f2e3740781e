//! What is measured, one run at a time. Speeds are 10^9 bytes of samples a second.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::convert::{Options, convert};
use crate::error::Error;
use crate::plan::Row;
use crate::report::Stages;
use crate::sink::{FilesSink, NullSink, Sink};
use crate::source::Source;

/// Bytes that are read, and written, at once.
const STEP: usize = 256 << 10;
/// What tensortiff writes before the pixels of most images.
const HEADER: usize = 512;
/// Bytes of the buffers that memory is measured with: more than caches hold.
const MEMORY: usize = 64 << 20;

pub(super) fn gigabytes_a_second(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / 1e9 / time.as_secs_f64().max(1e-9)
}

/// A whole conversion.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whole {
    pub(super) bytes: u64,
    pub(super) time: Duration,
    /// Of all devices' threads.
    pub(super) stages: Stages,
}

pub(super) fn to_nothing(source: &dyn Source, options: &Options) -> Result<Whole, Error> {
    whole(source, &NullSink, options)
}

/// Into a folder that is not there yet, and is gone again afterwards.
pub(super) fn to_files(
    source: &dyn Source,
    options: &Options,
    folder: &Path,
) -> anyhow::Result<Whole> {
    let outcome = whole(source, &FilesSink::new(folder, false), options);
    remove(folder)?;
    Ok(outcome?)
}

fn whole(source: &dyn Source, sink: &dyn Sink, options: &Options) -> Result<Whole, Error> {
    let report = convert(source, sink, options)?;
    if let Some(failure) = report.failures.into_iter().next() {
        return Err(failure.error);
    }
    let mut stages = Stages::default();
    report.devices.iter().for_each(|device| stages += device.stages);
    Ok(Whole { bytes: report.bytes_in, time: report.elapsed, stages })
}

/// Some neighbouring images of a row.
#[derive(Clone, Copy)]
struct Unit<'a> {
    row: &'a Row,
    number: usize,
    first: u64,
    images: u64,
}

/// The images of all rows, as a copy program takes them.
fn units(rows: &[Row]) -> Vec<Unit<'_>> {
    let mut units = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        let bytes = row.samples() * row.dtype.size() as u64;
        let each = if row.contiguous() { (STEP as u64 / bytes).max(1) } else { 1 };
        let mut first = 0;
        while first < row.images {
            let images = each.min(row.images - first);
            units.push(Unit { row, number, first, images });
            first += images;
        }
    }
    units
}

/// Calls `work` with every unit, from several threads, until one fails.
fn on_threads(
    threads: NonZeroUsize,
    rows: &[Row],
    work: impl Fn(Unit<'_>, &mut [u8]) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<Duration> {
    let units = units(rows);
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let drain = || -> anyhow::Result<()> {
        let mut buffer = vec![0; STEP];
        while let Some(unit) = units.get(next.fetch_add(1, Ordering::Relaxed)) {
            if failed.load(Ordering::Relaxed) {
                break;
            }
            work(*unit, &mut buffer).inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
        }
        Ok(())
    };
    let started = Instant::now();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.get()).map(|_| scope.spawn(drain)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    Ok(started.elapsed())
}

/// Reads the samples, and does nothing with them.
pub(super) fn read(
    source: &dyn Source,
    rows: &[Row],
    threads: NonZeroUsize,
    cancel: &AtomicBool,
) -> anyhow::Result<Duration> {
    on_threads(threads, rows, |unit, buffer| read_unit(source, unit, buffer, cancel, |_| Ok(())))
}

/// Reads the samples, and writes files of the sizes that their images will have.
pub(super) fn copy(
    source: &dyn Source,
    rows: &[Row],
    threads: NonZeroUsize,
    folder: &Path,
    cancel: &AtomicBool,
) -> anyhow::Result<Duration> {
    fs::create_dir(folder)?;
    for number in 0..rows.len() {
        fs::create_dir(folder.join(number.to_string()))?;
    }
    let outcome = on_threads(threads, rows, |unit, buffer| {
        let into = folder.join(unit.number.to_string());
        let name = |image: u64| into.join(format!("{image}.tif"));
        let pixels = usize::try_from(unit.row.samples() * 4)?;
        // A step of samples of one byte becomes four steps of pixels.
        let nothing = vec![0; HEADER + pixels.min(4 * STEP)];
        if unit.images > 1 {
            read_unit(source, unit, buffer, cancel, |_| Ok(()))?;
            for image in unit.first..unit.first + unit.images {
                write(&name(image), pixels, &nothing)?;
            }
            return Ok(());
        }
        // A large image is written as it is read.
        let mut file = File::create_new(name(unit.first))?;
        file.write_all(&nothing[..HEADER])?;
        let size = unit.row.dtype.size();
        read_unit(source, unit, buffer, cancel, |bytes| {
            let mut left = bytes / size * 4;
            while left > 0 {
                let part = left.min(nothing.len());
                file.write_all(&nothing[..part])?;
                left -= part;
            }
            Ok(())
        })
    });
    remove(folder)?;
    outcome
}

fn write(path: &Path, pixels: usize, nothing: &[u8]) -> io::Result<()> {
    File::create_new(path)?.write_all(&nothing[..HEADER + pixels])
}

/// Reads a unit in steps and tells of each how many bytes it had.
fn read_unit(
    source: &dyn Source,
    unit: Unit<'_>,
    buffer: &mut [u8],
    cancel: &AtomicBool,
    mut then: impl FnMut(usize) -> io::Result<()>,
) -> anyhow::Result<()> {
    let bytes = unit.images * unit.row.samples() * unit.row.dtype.size() as u64;
    let begins = unit.row.byte_offset(unit.first);
    for done in (0..bytes).step_by(STEP) {
        if cancel.load(Ordering::Relaxed) {
            return Err(Error::Interrupted.into());
        }
        let step = &mut buffer[..STEP.min(usize::try_from(bytes - done)?)];
        source.read_at(unit.row.tensor, begins + done, step)?;
        then(step.len())?;
    }
    Ok(())
}

/// GB/s at which so many threads copy memory; each byte that is copied counts once.
pub(super) fn memory_copy(threads: usize) -> f64 {
    let times = 4;
    let copy = || {
        let from = vec![1_u8; MEMORY];
        let mut to = vec![2_u8; MEMORY];
        let started = Instant::now();
        for _ in 0..times {
            to.copy_from_slice(std::hint::black_box(&from));
            std::hint::black_box(&mut to);
        }
        started.elapsed()
    };
    let longest = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(copy)).collect();
        workers.into_iter().filter_map(|worker| worker.join().ok()).max().unwrap_or_default()
    });
    gigabytes_a_second((times * threads * MEMORY) as u64, longest)
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// A new folder, which goes when this is dropped, with everything in it.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new(parent: &Path) -> Result<Scratch, Error> {
        let path = parent.join(format!("tensortiff-bench-{}", std::process::id()));
        fs::create_dir(&path).map_err(|source| Error::Write { path: path.clone(), source })?;
        Ok(Scratch(path))
    }

    pub(super) fn folder(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}
