//! The floor: reads the samples that tensortiff reads and writes as many files of the same sizes,
//! with nothing in between. Nothing that looks at the data and writes such files is faster than
//! the best of its variants.
//!
//! `floor DUMP OUT [--threads N] [--variant whole|steps] [--step BYTES]`
//!
//! - `whole`: an image is read in steps into one buffer, then written at once.
//! - `steps`: each step is written as soon as it is read. (No program that needs an image's extent
//!   before it writes can do so; it is the floor all the same where it is faster.)

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::Value;

/// Length of tensortiff's header where tensors have short names.
fn header_len(pixels: usize) -> usize {
    if pixels < 64 << 10 { 448 } else { 512 }
}

/// Images of one tensor.
struct Row {
    /// Where its bytes begin in the file.
    begins: u64,
    images: usize,
    samples: usize,
    /// Bytes of a sample.
    size: usize,
    folder: PathBuf,
}

/// Some images of a row, done at once.
struct Unit {
    row: usize,
    first: usize,
    count: usize,
}

struct Job {
    dump: File,
    rows: Vec<Row>,
    units: Vec<Unit>,
    next: AtomicUsize,
    steps: bool,
    step: usize,
}

fn main() -> io::Result<()> {
    let mut words = std::env::args().skip(1);
    let mut place = || words.next().expect("usage: floor DUMP OUT [--threads N] [--variant V]");
    let (dump, out) = (place(), PathBuf::from(place()));
    let (mut threads, mut steps, mut step) = (4, false, 256 << 10);
    while let Some(word) = words.next() {
        let value = words.next().expect("an option needs a value");
        match word.as_str() {
            "--threads" => threads = value.parse().expect("--threads needs a number"),
            "--variant" => steps = value == "steps",
            "--step" => step = value.parse().expect("--step needs a number"),
            other => panic!("there is no option {other}"),
        }
    }
    let job = Job { steps, ..plan(&dump, &out, step)? };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| work(&job))).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no worker panics"))
    })
}

fn plan(dump: &str, out: &Path, step: usize) -> io::Result<Job> {
    let dump = File::open(dump)?;
    let mut len = [0; 8];
    dump.read_exact_at(&mut len, 0)?;
    let len = u64::from_le_bytes(len);
    let mut header = vec![0; usize::try_from(len).expect("a header fits memory")];
    dump.read_exact_at(&mut header, 8)?;
    let header: Value = serde_json::from_slice(&header)?;
    fs::create_dir(out)?;
    let (mut rows, mut units) = (Vec::new(), Vec::new());
    for (name, tensor) in header.as_object().expect("a header is an object") {
        if name == "__metadata__" {
            continue;
        }
        let number = |value: &Value| {
            usize::try_from(value.as_u64().expect("a number")).expect("a size fits memory")
        };
        let shape: Vec<usize> =
            tensor["shape"].as_array().expect("a shape").iter().map(number).collect();
        let [.., height, width] = shape[..] else { continue };
        let samples = height * width;
        let bytes = number(&tensor["data_offsets"][1]) - number(&tensor["data_offsets"][0]);
        if bytes == 0 {
            continue;
        }
        let images: usize = shape[..shape.len() - 2].iter().product();
        let folder = out.join(rows.len().to_string());
        fs::create_dir(&folder)?;
        let begins = 8 + len + number(&tensor["data_offsets"][0]) as u64;
        let size = bytes / images / samples;
        let each = (step / (samples * size)).max(1);
        units.extend((0..images).step_by(each).map(|first| Unit {
            row: rows.len(),
            first,
            count: each.min(images - first),
        }));
        rows.push(Row { begins, images, samples, size, folder });
    }
    assert!(rows.iter().all(|row| row.images > 0));
    let next = AtomicUsize::new(0);
    Ok(Job { dump, rows, units, next, steps: false, step })
}

fn work(job: &Job) -> io::Result<()> {
    // Room for the longest header, then pixels from the start of a page on.
    const ROOM: usize = 4096;
    let mut buffer = Vec::new();
    let mut raw = Vec::new();
    while let Some(unit) = job.units.get(job.next.fetch_add(1, Ordering::Relaxed)) {
        let row = &job.rows[unit.row];
        let (bytes, pixels) = (row.samples * row.size, row.samples * 4);
        let header = header_len(pixels);
        let at = row.begins + (unit.first * bytes) as u64;
        let create = |index: usize| File::create_new(row.folder.join(format!("{index}.tif")));
        grow(&mut buffer, ROOM + pixels.max(bytes));
        if unit.count > 1 {
            grow(&mut raw, unit.count * bytes);
            job.dump.read_exact_at(&mut raw[..unit.count * bytes], at)?;
            for (k, raw) in raw.chunks(bytes).take(unit.count).enumerate() {
                let copied = bytes.min(pixels);
                buffer[ROOM..ROOM + copied].copy_from_slice(&raw[..copied]);
                create(unit.first + k)?.write_all(&buffer[ROOM - header..ROOM + pixels])?;
            }
        } else if job.steps {
            let mut file = create(unit.first)?;
            // The last step's pixels reach the image's end whatever the types' sizes.
            let mut written = 0;
            for done in (0..bytes).step_by(job.step) {
                let step = job.step.min(bytes - done);
                job.dump.read_exact_at(&mut buffer[ROOM..ROOM + step], at + done as u64)?;
                let end = (done + step) / row.size * 4;
                let start = if done == 0 { ROOM - header } else { ROOM };
                file.write_all(&buffer[start..ROOM + end - written])?;
                written = end;
            }
        } else {
            for done in (0..bytes).step_by(job.step) {
                let step = ROOM + done..ROOM + bytes.min(done + job.step);
                job.dump.read_exact_at(&mut buffer[step], at + done as u64)?;
            }
            create(unit.first)?.write_all(&buffer[ROOM - header..ROOM + pixels])?;
        }
    }
    Ok(())
}

fn grow(buffer: &mut Vec<u8>, len: usize) {
    if buffer.len() < len {
        *buffer = vec![0; len];
    }
}
