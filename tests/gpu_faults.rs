//! Devices that fail in the middle of a run, in every way: whatever happens, all images are made,
//! none twice, with the same bytes, and the report says what happened.

#![cfg(feature = "gpu")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data is small, and a test that panics says where"
)]

mod common;
#[path = "common/trees.rs"]
mod trees;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::Random;
use tensortiff::backend::Backend as _;
use tensortiff::backend::gpu::hooks::{Fault, Hooks};
use tensortiff::backend::gpu::kernels::Kernel;
use tensortiff::backend::gpu::tuning::Tuning;
use tensortiff::backend::gpu::{Gpu, adapters};
use tensortiff::{
    Device, Devices, Dtype, Dump, Error, FilesSink, MemorySink, MemorySource, NullSink, Options,
    Record, Report, Resume, SampleReport, Source, TensorInfo, VerifySample, Watch, convert, merge,
    shard_states,
};

use trees::{same, tree};

type Files = BTreeMap<String, Vec<u8>>;
/// What the CPU makes, and finds in the samples.
type Expected = (Files, SampleReport);

fn open(hooks: &Hooks) -> Arc<Gpu> {
    let all = adapters();
    let adapter = all.iter().find(|adapter| adapter.info.matches_name(&common::wanted()));
    Arc::new(Gpu::open_with(adapter.expect("software Vulkan"), 2, hooks).unwrap())
}

const IMAGES: u64 = 3000 + 200 + 2 + 40;

/// Small images, larger ones, giants if blocks are of [`BLOCK`] samples, and the kind that a device
/// may get wrong last.
fn source() -> MemorySource<'static> {
    let mut random = Random(6);
    let mut source = MemorySource::new("m");
    for (name, dtype, shape) in [
        ("a", Dtype::F32, [3000, 30, 30]),
        ("b", Dtype::Bf16, [200, 100, 90]),
        ("giant", Dtype::F32, [2, 300, 1000]),
        ("late", Dtype::F32, [40, 32, 32]),
    ] {
        let bytes = shape.iter().product::<u64>() as usize * dtype.size();
        source = source.with(name, dtype, &shape, random.bytes(bytes)).unwrap();
    }
    source
}

const BLOCK: u64 = 100_000;

fn options(verify_sample: VerifySample) -> Options {
    Options { block_samples: Some(BLOCK), verify_sample, ..Options::default() }
}

fn expected(source: &dyn Source) -> Expected {
    let (files, report) = common::files(source, &options(VerifySample::NONE), &common::cpu());
    (files, report.samples)
}

/// A run on the device alone, or beside the CPU.
fn run(gpu: Arc<Gpu>, with_cpu: bool, source: &dyn Source, options: &Options) -> (Files, Report) {
    let sink = MemorySink::default();
    let report = if with_cpu {
        common::meeting::convert_with(gpu, source, &sink, options).unwrap()
    } else {
        let devices = Devices::List(vec![Device::Ready(gpu)]);
        convert(source, &sink, &Options { devices, ..options.clone() }).unwrap()
    };
    (sink.into_files(), report)
}

fn noted(report: &Report, text: &str) -> bool {
    report.notes.iter().any(|note| note.contains(text))
}

/// All of it is there and right, and counted once.
fn is_whole(found: &(Files, Report), expected: &Expected, what: &str) {
    let (files, report) = found;
    let (expected, samples) = expected;
    let notes = &report.notes;
    assert_eq!((report.images, report.failed), (expected.len() as u64, 0), "{what}: {notes:?}");
    let by: u64 = report.devices.iter().map(|device| device.images).sum();
    assert_eq!(by, report.images, "{what}: {:?}", report.devices);
    let bytes: u64 = expected.values().map(|file| file.len() as u64).sum();
    assert_eq!(report.bytes_out, bytes, "{what}");
    assert_eq!(report.samples, *samples, "{what}");
    let differ = expected.iter().filter(|(name, file)| files.get(*name) != Some(file));
    assert_eq!(differ.map(|(name, _)| name).next(), None, "{what}: {notes:?}");
}

#[test]
fn a_device_that_fails_at_any_stage_costs_no_image() {
    let source = source();
    let expected = expected(&source);
    let faults =
        [Fault::LostBefore, Fault::LostAfter, Fault::LostMapping, Fault::Invalid].into_iter();
    for (fault, submissions) in faults.flat_map(|fault| [0, 1, 3].map(|after| (fault, after))) {
        for (losses, with_cpu) in [(1, false), (2, false), (1, true)] {
            let what = format!("{fault:?} after {submissions}, {losses} times, {with_cpu}");
            let gpu = open(&Hooks { fault, submissions, losses, ..Hooks::NONE });
            let found = run(gpu, with_cpu, &source, &options(VerifySample::default()));
            is_whole(&found, &expected, &what);
            let report = &found.1;
            if with_cpu {
                continue; // it may have no second batch to fail at
            }
            assert!(noted(report, "its images are done by a new device"), "{what}: {report:?}");
            let again = noted(report, "again; its images are done by others");
            assert_eq!(again, losses == 2, "{what}: {report:?}");
            assert_eq!(noted(report, "the CPU does what is left"), losses == 2, "{what}");
        }
    }
}

/// Bytes of one tensor that cannot be read, or not the first two times: with its neighbours, and
/// alone.
struct Unreadable(MemorySource<'static>, std::ops::Range<u64>, AtomicU64);

impl Source for Unreadable {
    fn dumps(&self) -> &[Dump] {
        self.0.dumps()
    }

    fn tensors(&self) -> &[TensorInfo] {
        self.0.tensors()
    }

    fn read_at(&self, tensor: usize, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let meets = offset < self.1.end && self.1.start < offset + buf.len() as u64;
        let take = |left: u64| left.checked_sub(1);
        if tensor == 0
            && meets
            && self.2.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
        {
            let source = std::io::Error::other("planted");
            return Err(Error::Read { dump: "m".into(), tensor: "a".into(), source });
        }
        self.0.read_at(tensor, offset, buf)
    }
}

/// Whoever does its neighbours again.
#[test]
fn an_image_that_cannot_be_read_fails_once_though_its_device_is_lost() {
    let (mut expected, samples) = expected(&source());
    expected.remove("m/a/0001.tif").unwrap();
    for (times, losses) in [(u64::MAX, 1), (u64::MAX, 2), (2, 1)] {
        let image = 4 * 900..2 * 4 * 900;
        let source = Unreadable(source(), image, AtomicU64::new(times));
        let gpu = open(&Hooks { submissions: 0, losses, ..Hooks::NONE });
        let (files, report) = run(gpu, false, &source, &options(VerifySample::default()));
        let what = format!("{times} times, {losses}: {:?}", report.notes);
        assert_eq!((report.images, report.failed), (IMAGES - 1, 1), "{what}");
        assert_eq!(report.failures.len(), 1, "{what}");
        assert_eq!(report.failures[0].name, "m/a/0001.tif", "{what}");
        assert!(files == expected, "{what}");
        assert!(report.samples.nan <= samples.nan, "{what}");
    }
}

static OPENED: AtomicBool = AtomicBool::new(false);

/// The second time a kernel does not compile.
const NEVER_AGAIN: Hooks = Hooks {
    rewrite: |_, _| OPENED.load(Ordering::Relaxed).then(|| "fn main( {".to_owned()),
    submissions: 1,
    ..Hooks::NONE
};

#[test]
fn a_device_whose_successor_has_no_pipelines_costs_no_image() {
    let source = source();
    let expected = expected(&source);
    let gpu = open(&NEVER_AGAIN);
    OPENED.store(true, Ordering::Relaxed);
    let found = run(gpu, false, &source, &options(VerifySample::default()));
    is_whole(&found, &expected, "no pipelines");
    let notes = &found.1.notes;
    let is_told = |note: &String| note.contains("kernel") && note.contains("again; its images");
    assert!(notes.iter().any(is_told), "{notes:?}");
    assert!(noted(&found.1, "the CPU does what is left"), "{notes:?}");
}

static AT_WORK: AtomicBool = AtomicBool::new(false);

/// The second one is lost before it has pipelines.
const LOST_OPENING: Hooks = Hooks {
    opening: |device| {
        if AT_WORK.load(Ordering::Relaxed) {
            device.destroy();
        }
    },
    submissions: 1,
    ..Hooks::NONE
};

#[test]
fn a_device_that_is_lost_while_it_is_opened_costs_no_image() {
    let source = source();
    let expected = expected(&source);
    let gpu = open(&LOST_OPENING);
    AT_WORK.store(true, Ordering::Relaxed);
    let found = run(gpu, false, &source, &options(VerifySample::default()));
    is_whole(&found, &expected, "lost while it is opened");
    let notes = &found.1.notes;
    assert!(noted(&found.1, "again; its images are done by others"), "{notes:?}");
    // And the first: where others work it is a note, and else the run's error.
    let hooked = Device::Hooked(common::wanted(), &LOST_OPENING);
    let sink = MemorySink::default();
    let alone = Options { devices: Devices::List(vec![hooked.clone()]), ..Options::default() };
    let error = convert(&source, &sink, &alone).unwrap_err();
    assert!(matches!(error, Error::Device(_)), "{error}");
    let beside = Options {
        devices: Devices::List(vec![Device::Cpu, hooked]),
        ..options(VerifySample::default())
    };
    let report = convert(&source, &sink, &beside).unwrap();
    is_whole(&(sink.into_files(), report), &expected, "lost while it is opened, and the CPU");
}

static FIRST_IS_OPEN: AtomicBool = AtomicBool::new(false);
/// So long the driver below does not come back: longer than anybody may wait.
const STUCK: Duration = Duration::from_secs(20);

/// The driver does not come back from opening the second one.
const STUCK_OPENING: Hooks = Hooks {
    opening: |_| {
        if FIRST_IS_OPEN.load(Ordering::Relaxed) {
            std::thread::sleep(STUCK);
        }
    },
    submissions: 1,
    opening_patience: Duration::from_secs(2),
    ..Hooks::NONE
};

#[test]
fn a_device_whose_successor_hangs_while_it_is_opened_costs_no_image_and_little_time() {
    let source = source();
    let expected = expected(&source);
    let gpu = open(&STUCK_OPENING);
    FIRST_IS_OPEN.store(true, Ordering::Relaxed);
    let started = Instant::now();
    let found = run(gpu, false, &source, &options(VerifySample::default()));
    let took = started.elapsed();
    is_whole(&found, &expected, "stuck while it is opened");
    let notes = &found.1.notes;
    assert!(noted(&found.1, "was not opened within 2s, again; its images are done"), "{notes:?}");
    assert!(noted(&found.1, "the CPU does what is left"), "{notes:?}");
    assert!(took < STUCK * 3 / 4, "{took:?}");
}

/// Zeros, as many as one likes.
struct Zeros([Dump; 1], [TensorInfo; 1]);

impl Source for Zeros {
    fn dumps(&self) -> &[Dump] {
        &self.0
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.1
    }

    fn read_at(&self, _: usize, _: u64, buf: &mut [u8]) -> Result<(), Error> {
        buf.fill(0);
        Ok(())
    }
}

/// Buffers that the device cannot have: too large to be made, or to be bound.
#[test]
fn a_device_without_enough_memory_is_replaced() {
    let info = TensorInfo::new("t", 0, Dtype::F32, vec![300, 1024, 1024]);
    let source = Zeros([Dump { label: "z".into(), stem: "z".into() }], [info]);
    for batch_pixels in [40 << 20, 256 << 20] {
        let tuning = Tuning { batch_pixels, ..Tuning::CHOSEN };
        let gpu = open(&Hooks { tuning, ..Hooks::NONE });
        let devices = Devices::List(vec![Device::Ready(gpu)]);
        let report = convert(&source, &NullSink, &Options { devices, ..Options::default() });
        let report = report.unwrap();
        assert_eq!((report.images, report.failed), (300, 0), "{:?}", report.notes);
        assert!(noted(&report, "allocating "), "{:?}", report.notes);
        assert!(noted(&report, "the CPU does what is left"), "{:?}", report.notes);
    }
}

/// So long a device may take in this test, and so long it takes at least.
const PATIENCE: Duration = Duration::from_millis(700);

/// A kernel that does not come to its end for seconds, when it meets images of a size that the
/// proof does not have.
const HANGING: Hooks = Hooks {
    rewrite: |kernel, text| {
        let line = "    var range = range_of(params.norm, extent);";
        assert!(kernel != Kernel::Fused || text.contains(line));
        // llvmpipe lets no invocation go round more than 65,535 times in all.
        let spin = "
    var x = extent.max_key | 1u;
    if image.samples == 1024u {
        for (var i = 1u; i < 60000u; i++) {
            ROUND
        }
        if x == 12345u { pixels[0] = 1u; }
    }";
        let round = "x = x * 1664525u + 4294967291u % (x | i);".repeat(40);
        let spin = spin.replace("ROUND", &round);
        (kernel == Kernel::Fused).then(|| text.replace(line, &format!("{spin}\n{line}")))
    },
    patience: PATIENCE,
    ..Hooks::NONE
};

/// What was told, and when.
#[derive(Default)]
struct Told(Mutex<Vec<(Instant, String)>>);

impl Watch for Told {
    fn planned(&self, _: u64, _: u64) {}

    fn advanced(&self, _: u64, _: u64) {}

    fn note(&self, text: &str) {
        self.0.lock().unwrap().push((Instant::now(), text.to_owned()));
    }
}

#[test]
fn a_device_that_hangs_is_given_up_in_time() {
    let source = source();
    let expected = expected(&source);
    let gpu = open(&HANGING);
    let started = Instant::now();
    let told = Arc::new(Told::default());
    let watch: Arc<dyn Watch> = Arc::clone(&told) as _;
    let watched = Options { watch: Some(watch), ..options(VerifySample::default()) };
    let found = run(gpu, false, &source, &watched);
    let took = started.elapsed();
    println!("{took:?}: {:?}", found.1.notes);
    // The second hangs as the first did, from when that was told on.
    let given_up = |text: &str| {
        let told = told.0.lock().unwrap();
        told.iter().find(|(_, note)| note.contains(text)).expect("it is told").0
    };
    let second = given_up("again; its images").duration_since(given_up("by a new device"));
    assert!(second >= PATIENCE && second < PATIENCE + Duration::from_millis(1500), "{second:?}");
    is_whole(&found, &expected, "a device that hangs");
    assert!(noted(&found.1, "no answer within 700ms"), "{:?}", found.1.notes);
    assert!(took >= PATIENCE, "{took:?}: it did not hang");
    // Its driver is at work yet; the process must not end under it.
    std::thread::sleep(Duration::from_secs(10).saturating_sub(took));
}

type Rewrite = fn(Kernel, &str) -> Option<String>;

fn rewritten(text: &str, from: &str, to: &str) -> Option<String> {
    assert!(text.contains(from), "{from}");
    Some(text.replace(from, to))
}

/// Drivers that compute wrongly what the proof does not have: pixels, ranges, counts, of small
/// images, of larger ones, of blocks.
const WRONG: [(&str, &str, Rewrite); 6] = [
    ("pixels of small images", "made ", |kernel, text| match kernel {
        Kernel::Fused => {
            let to = "= select(0u, 1u, image.samples == 1024u && i == 77u) ^ pixel(range,";
            rewritten(text, "= pixel(range,", to)
        }
        _ => None,
    }),
    ("ranges of small images", "found a range", |kernel, text| match kernel {
        Kernel::Fused => {
            let to = "part.max_key + select(0u, 4096u, image.samples == 1024u))";
            rewritten(text, "part.max_key)", to)
        }
        _ => None,
    }),
    ("NaN of small images", "counted other samples", |kernel, text| match kernel {
        Kernel::Fused => {
            rewritten(text, "part.nan)", "part.nan + select(0u, 1u, image.samples == 1024u))")
        }
        _ => None,
    }),
    ("pixels of larger images", "made ", |kernel, text| match kernel {
        Kernel::Normalize => {
            let to = "image.first_byte, i)) ^ select(0u, 1u, image.samples == 9000u);";
            rewritten(text, "image.first_byte, i));", to)
        }
        _ => None,
    }),
    ("ranges of blocks", "found a range", |kernel, text| match kernel {
        Kernel::Extent => {
            let to = "atomicMax(&found[0], extent.max_key + select(0u, 4096u, image.samples == 100000u))";
            rewritten(text, "atomicMax(&found[0], extent.max_key)", to)
        }
        _ => None,
    }),
    ("pixels of blocks", "made ", |kernel, text| match kernel {
        Kernel::Normalize => {
            let to = "image.first_byte, i)) ^ select(0u, 1u, image.samples == 100000u);";
            rewritten(text, "image.first_byte, i));", to)
        }
        _ => None,
    }),
];

#[test]
fn a_device_that_computes_wrongly_in_mid_run_is_found_and_its_images_made_again() {
    let source = source();
    let expected = expected(&source);
    for (what, problem, rewrite) in WRONG {
        let hooks = Hooks { rewrite, ..Hooks::NONE };
        // If nothing is compared nobody notices: the driver is wrong indeed.
        let (files, report) = run(open(&hooks), false, &source, &options(VerifySample::NONE));
        assert!(files != expected.0 && report.notes.is_empty(), "{what}: {:?}", report.notes);
        for with_cpu in [false, true] {
            let what = format!("{what}, {with_cpu}");
            let found = run(open(&hooks), with_cpu, &source, &options(VerifySample::ALL));
            let notes = &found.1.notes;
            println!("{what}: {notes:?}");
            is_whole(&found, &expected, &what);
            assert!(with_cpu || noted(&found.1, problem), "{what}: {notes:?}");
            // The new device is no better.
            assert!(with_cpu || noted(&found.1, "it had made are made again"), "{what}: {notes:?}");
        }
    }
}

/// Cancels the run when it is said that images are made again.
struct Cancels(Arc<AtomicBool>);

impl Watch for Cancels {
    fn planned(&self, _: u64, _: u64) {}

    fn advanced(&self, _: u64, _: u64) {}

    fn note(&self, text: &str) {
        if text.contains("made again") {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// What it made before it was found out is not believed either: it is made again in the same run, or
/// in one that goes on where that was stopped.
#[test]
fn images_that_a_wrong_device_made_before_are_made_again_in_their_files() {
    let source = source();
    let (_, _, rewrite) = WRONG[0];
    let dir = trees::folder();
    let at = |name: &str| dir.path().join(name);
    let convert_to = |name: &str, options: Options| {
        let record = Some(Record { resume: Resume::Sizes, ..Record::new(at(name)) });
        let options = Options { record, ..options };
        convert(&source, &FilesSink::new(at(name), false), &options)
    };
    let on_cpu = || Options { devices: "cpu".parse().unwrap(), ..options(VerifySample::NONE) };
    let on_wrong = || {
        let gpu = open(&Hooks { rewrite, ..Hooks::NONE });
        let devices = Devices::List(vec![Device::Ready(gpu)]);
        // The first image of each thread is right, and so is most of what follows.
        Options { devices, ..options(VerifySample::one_of(16)) }
    };
    drop(convert_to("whole", on_cpu()).unwrap());
    let whole = tree(at("whole"));
    let report = convert_to("wrong", on_wrong()).unwrap();
    let noted = report.notes.iter().find(|note| note.contains("made are made again")).unwrap();
    let (_, count) = noted.split_once("; the ").unwrap();
    assert!(count.split(' ').next().unwrap().parse::<u64>().unwrap() > 1000, "{noted}");
    same(&tree(at("wrong")), &whole, noted);

    let options = on_wrong();
    let watch: Arc<dyn Watch> = Arc::new(Cancels(Arc::clone(&options.cancel)));
    let stopped = convert_to("stopped", Options { watch: Some(watch), ..options });
    assert!(matches!(stopped.unwrap_err(), Error::Stopped { .. }));
    let is_wrong = |(name, file): &(_, _)| whole.get(*name).is_some_and(|right| right != *file);
    let left = tree(at("stopped"));
    assert!(left.iter().any(|found| is_wrong(&found)), "nothing that is wrong was left");
    // Nor does a merge take them for images that failed.
    let sink = FilesSink::new(at("stopped"), false);
    let record = Some(Record { resume: Resume::Sizes, ..Record::new(at("stopped")) });
    let to_merge = Options { record, ..on_cpu() };
    let all = std::slice::from_ref(&(0..IMAGES));
    let there = shard_states(&source, &sink, &to_merge, all).unwrap()[0].there;
    match merge(&source, &sink, &to_merge) {
        Err(Error::Incomplete { missing, .. }) => assert_eq!(missing, IMAGES - there),
        other => panic!("{other:?}"),
    }
    drop(convert_to("stopped", on_cpu()).unwrap());
    same(&tree(at("stopped")), &whole, "after a run that was stopped");
}

#[test]
fn a_device_that_computes_rightly_is_believed() {
    let source = source();
    let expected = expected(&source);
    let gpu = open(&Hooks::NONE);
    for (sample, least, most) in [
        (VerifySample::ALL, IMAGES + 6, IMAGES + 20),
        (VerifySample::one_of(50), 30, 200),
        (VerifySample::default(), 1, 60),
        // The first of each of its two threads, whatever is asked for.
        (VerifySample::one_of(1 << 40), 1, 2),
        (VerifySample::NONE, 0, 0),
    ] {
        let found = run(gpu.clone(), false, &source, &options(sample));
        is_whole(&found, &expected, &format!("{sample:?}"));
        assert_eq!(found.1.notes, Vec::<String>::new(), "{sample:?}");
        let [device] = &found.1.devices[..] else { panic!("{:?}", found.1.devices) };
        assert_eq!(device.name, gpu.name());
        assert!((least..=most).contains(&device.checked), "{sample:?}: {}", device.checked);
    }
}
