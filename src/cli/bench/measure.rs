//! What is measured, one run at a time. Speeds are 10^9 bytes of samples a second.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::convert::{HEAD_START, Options, Record, convert};
use crate::error::Error;
use crate::plan::Row;
use crate::report::Stages;
use crate::sink::{FilesSink, NullSink, Sink};
use crate::source::Source;

/// Bytes that are read, and written, at once.
const STEP: usize = 256 << 10;
/// What tensortiff writes before the pixels of most images.
const HEADER: usize = 512;
/// Most bytes that one sample becomes, for one byte of it.
const GROWTH: usize = 4;
/// Bytes that memory is measured with, once as source and once as target, by all threads together
/// and by each: more than caches hold, but for machines of more than 64 cores.
const MEMORY: usize = 256 << 20;
const MOST_MEMORY: usize = 64 << 20;
const LEAST_MEMORY: usize = 4 << 20;

pub(super) fn gigabytes_a_second(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / 1e9 / time.as_secs_f64().max(1e-9)
}

/// A whole conversion.
#[derive(Debug, Clone)]
pub(super) struct Whole {
    pub(super) time: Duration,
    /// Of all devices' threads.
    pub(super) stages: Stages,
    /// Bytes that each device turned into pixels.
    pub(super) shares: Vec<(String, u64)>,
    /// It was over before the adapters that it wanted were ready; they may still be opening.
    pub(super) leaves_starting: bool,
}

pub(super) fn to_nothing(source: &dyn Source, options: &Options) -> Result<Whole, Error> {
    whole(source, &NullSink, options)
}

/// Into a folder that is not there yet, and is gone again afterwards. The run is recorded, as
/// `convert` does by default.
pub(super) fn to_files(
    source: &dyn Source,
    options: &Options,
    folder: &Path,
) -> anyhow::Result<Whole> {
    let options = Options { record: Some(Record::new(folder)), ..options.clone() };
    let outcome = whole(source, &FilesSink::new(folder, false), &options);
    remove(folder)?;
    Ok(outcome?)
}

fn whole(source: &dyn Source, sink: &dyn Sink, options: &Options) -> Result<Whole, Error> {
    let report = convert(source, sink, options).map_err(|error| match error {
        // Nobody keeps the images that were done.
        Error::Stopped { cause, .. } => *cause,
        other => other,
    })?;
    if let Some(failure) = report.failures.into_iter().next() {
        return Err(failure.error);
    }
    let mut stages = report.ranges;
    report.devices.iter().for_each(|device| stages += device.stages);
    let shares = report.devices.into_iter().map(|device| (device.name, device.bytes_in));
    Ok(Whole {
        time: report.elapsed,
        stages,
        shares: shares.collect(),
        leaves_starting: report.gpu_not_needed && report.elapsed >= HEAD_START,
    })
}

/// Some neighbouring images of a row.
#[derive(Clone, Copy)]
struct Unit<'a> {
    row: &'a Row,
    number: usize,
    first: u64,
    images: u64,
}

impl Unit<'_> {
    fn bytes(&self) -> u64 {
        self.images * self.row.samples() * self.row.dtype.size() as u64
    }

    /// Its share of a tensor of so many bytes that takes `stored` where it lies.
    fn lies(&self, bytes: u64, stored: u64) -> Range<u64> {
        let begin = self.row.byte_offset(self.first);
        part(stored, begin, bytes)..part(stored, begin + self.bytes(), bytes)
    }
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
        // A header, and the pixels of a step whatever its type. Not zeros as they come from the
        // system, which are all one page.
        let mut buffer = vec![1; HEADER + GROWTH * STEP];
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
        // As in a conversion, fewer threads than wished do the same work.
        let others = 1..threads.get().min(units.len());
        let workers: Vec<_> =
            others.map_while(|_| thread::Builder::new().spawn_scoped(scope, drain).ok()).collect();
        let own = drain();
        workers.into_iter().fold(own, |outcome, worker| match worker.join() {
            Ok(theirs) => outcome.and(theirs),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    Ok(started.elapsed())
}

/// Reads the samples, as a conversion does, and does nothing with them.
pub(super) fn read(
    source: &dyn Source,
    rows: &[Row],
    threads: NonZeroUsize,
    cancel: &AtomicBool,
) -> anyhow::Result<Duration> {
    on_threads(threads, rows, |unit, buffer| {
        let at = unit.row.byte_offset(unit.first);
        let mut read = |at, buf: &mut [u8]| source.read_at(unit.row.tensor, at, buf);
        in_steps(at..at + unit.bytes(), &mut read, buffer, cancel, |_, _| Ok(()))
    })
}

/// Reads bytes as they lie in the dump, an equal share of a tensor's for each of its images, and
/// writes files of the sizes that these will have.
pub(super) fn copy(
    source: &dyn Source,
    rows: &[Row],
    threads: NonZeroUsize,
    folder: &Path,
    cancel: &AtomicBool,
) -> anyhow::Result<Duration> {
    let made = |path: &Path| fs::create_dir(path).map_err(|error| unwritable(path, error));
    made(folder)?;
    for number in 0..rows.len() {
        made(&folder.join(number.to_string()))?;
    }
    let outcome = on_threads(threads, rows, |unit, buffer| {
        let into = folder.join(unit.number.to_string());
        let told = |error| unwritable(&into, error);
        let create = |image: u64| File::create_new(into.join(format!("{image}.tif")));
        let mut read = |at, buf: &mut [u8]| source.read_stored(unit.row.tensor, at, buf);
        let all = source.tensors()[unit.row.tensor].bytes().unwrap_or(u64::MAX);
        let lies = unit.lies(all, source.stored_bytes(unit.row.tensor));
        let pixels = unit.row.samples() * 4;
        if unit.bytes() <= STEP as u64 {
            in_steps(lies, &mut read, buffer, cancel, |_, _| Ok(()))?;
            let file = HEADER + usize::try_from(pixels)?;
            for image in unit.first..unit.first + unit.images {
                create(image).and_then(|mut to| to.write_all(&buffer[..file])).map_err(told)?;
            }
            return Ok(());
        }
        // A large image is written as it is read; of a packed one what is left, at the end.
        let mut file = create(unit.first).map_err(told)?;
        let (mut header, mut left) = (HEADER, pixels);
        let bytes = (lies.end - lies.start).max(1);
        in_steps(lies, &mut read, buffer, cancel, |buffer, step| {
            let header = std::mem::take(&mut header);
            let share = part(pixels, step as u64, bytes).min(left);
            left -= share;
            write(&mut file, buffer, header, share).map_err(told)
        })?;
        Ok(write(&mut file, buffer, header, left).map_err(told)?)
    });
    remove(folder)?;
    outcome
}

/// So many of `all`, as `share` is of `of`.
fn part(all: u64, share: u64, of: u64) -> u64 {
    let part = u128::from(all) * u128::from(share) / u128::from(of.max(1));
    u64::try_from(part).unwrap_or(u64::MAX)
}

/// Writes so many bytes of a header and behind it of pixels, whatever these are.
fn write(file: &mut File, buffer: &[u8], header: usize, mut pixels: u64) -> io::Result<()> {
    let mut most = buffer.len() - header;
    let mut before = header;
    while before > 0 || pixels > 0 {
        let len = usize::try_from(pixels).unwrap_or(usize::MAX).min(most);
        file.write_all(&buffer[..before + len])?;
        pixels -= len as u64;
        (before, most) = (0, buffer.len());
    }
    Ok(())
}

/// Fills a buffer from a byte on.
type ReadAt<'r> = dyn FnMut(u64, &mut [u8]) -> Result<(), Error> + 'r;

/// Reads these bytes in steps, and tells of each how many it has.
fn in_steps(
    bytes: Range<u64>,
    read: &mut ReadAt<'_>,
    buffer: &mut [u8],
    cancel: &AtomicBool,
    mut then: impl FnMut(&[u8], usize) -> Result<(), Error>,
) -> anyhow::Result<()> {
    for at in bytes.clone().step_by(STEP) {
        if cancel.load(Ordering::Relaxed) {
            return Err(Error::Interrupted.into());
        }
        let len = STEP.min(usize::try_from(bytes.end - at)?);
        read(at, &mut buffer[..len])?;
        then(buffer, len)?;
    }
    Ok(())
}

/// Copies memory with so many threads; each byte that is copied counts once.
pub(super) fn memory_copy(threads: usize) -> (u64, Duration) {
    const TIMES: usize = 4;
    let each = (MEMORY / threads).clamp(LEAST_MEMORY, MOST_MEMORY);
    let (ready, go) = (AtomicUsize::new(0), AtomicBool::new(false));
    let copy = || {
        let from = vec![1_u8; each];
        let mut to = vec![2_u8; each];
        ready.fetch_add(1, Ordering::Release);
        while !go.load(Ordering::Acquire) {
            thread::yield_now();
        }
        for _ in 0..TIMES {
            to.copy_from_slice(std::hint::black_box(&from));
            std::hint::black_box(&mut to);
        }
        Instant::now()
    };
    thread::scope(|scope| {
        // All copy at once or the sum is of more than this machine can do; and where threads are
        // short, those that there are.
        let workers: Vec<_> = (0..threads)
            .map_while(|_| thread::Builder::new().spawn_scoped(scope, copy).ok())
            .collect();
        let spawned = workers.len();
        while ready.load(Ordering::Acquire) < spawned {
            thread::yield_now();
        }
        let started = Instant::now();
        go.store(true, Ordering::Release);
        let ended = workers.into_iter().filter_map(|worker| worker.join().ok()).max();
        let took = ended.map_or(Duration::MAX, |ended| ended.duration_since(started));
        ((TIMES * spawned * each) as u64, took)
    })
}

fn unwritable(path: &Path, source: io::Error) -> Error {
    Error::Write { path: path.to_owned(), source }
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(unwritable(folder, error).into())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::plan::Selected;
    use crate::source::MemorySource;
    use crate::tensor::{Dtype, Dump, TensorInfo};

    /// Not how many images were whole, as `convert` would: they go with the folder.
    #[test]
    fn an_interrupt_is_told_as_one() {
        let source = MemorySource::new("m").with("a", Dtype::U8, &[4, 8, 8], vec![1; 256]).unwrap();
        let options = Options::default();
        options.cancel.store(true, Ordering::Relaxed);
        let error = to_nothing(&source, &options).unwrap_err();
        assert!(matches!(error, Error::Interrupted), "{error}");
    }

    /// Ten bytes of samples are packed in one.
    struct Tenth {
        of: MemorySource<'static>,
        read: Mutex<Vec<Range<u64>>>,
    }

    impl Source for Tenth {
        fn dumps(&self) -> &[Dump] {
            self.of.dumps()
        }
        fn tensors(&self) -> &[TensorInfo] {
            self.of.tensors()
        }
        fn read_at(&self, _: usize, _: u64, _: &mut [u8]) -> Result<(), Error> {
            panic!("nobody asked for samples");
        }
        fn stored_bytes(&self, tensor: usize) -> u64 {
            self.of.stored_bytes(tensor) / 10
        }
        fn read_stored(&self, _: usize, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
            self.read.lock().unwrap().push(offset..offset + buf.len() as u64);
            Ok(())
        }
    }

    #[test]
    fn a_copy_reads_what_lies_there_and_reads_it_once() {
        // Many images to a step, and many steps to an image.
        for shape in [[1000, 10, 10], [3, 1000, 1400]] {
            let bytes = usize::try_from(shape.iter().product::<u64>()).unwrap();
            let of = MemorySource::new("m").with("a", Dtype::U8, &shape, vec![1; bytes]).unwrap();
            let source = Tenth { of, read: Mutex::default() };
            let selection = Options::default().selection;
            let plan = Selected::new(source.dumps(), source.tensors(), &[], &selection).unwrap();
            let folder = tempfile::tempdir().unwrap();
            let threads = NonZeroUsize::new(2).unwrap();
            let into = folder.path().join("copy");
            copy(&source, plan.rows(), threads, &into, &AtomicBool::new(false)).unwrap();
            let mut read = source.read.into_inner().unwrap();
            read.sort_by_key(|range| range.start);
            let mut end = 0;
            for range in read {
                assert_eq!(range.start, end, "{shape:?}");
                end = range.end;
            }
            assert_eq!(end, bytes as u64 / 10, "{shape:?}");
        }
    }

    #[test]
    fn files_have_a_header_and_all_their_pixels() {
        let path = tempfile::tempdir().unwrap().keep().join("file");
        for (header, pixels) in [(0, 0), (512, 0), (512, 10), (512, 5000), (0, 1024), (0, 1025)] {
            let mut file = File::create(&path).unwrap();
            write(&mut file, &[1; 1024], header, pixels).unwrap();
            assert_eq!(file.metadata().unwrap().len(), header as u64 + pixels);
        }
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    /// However many threads are wished, all of them together copy what caches do not hold.
    #[test]
    fn memory_is_copied_by_as_many_as_wished() {
        for (threads, each) in [(1, MOST_MEMORY), (8, 32 << 20), (100, LEAST_MEMORY)] {
            let (bytes, time) = memory_copy(threads);
            assert_eq!(bytes, (4 * threads * each) as u64, "{threads} threads");
            assert!(time > Duration::ZERO && time < Duration::from_secs(60), "{time:?}");
        }
    }
}
