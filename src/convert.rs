//! The run, top to bottom: plan, devices, sink, work, report. The only room that knows all stages:
//! [`workers`] starts the devices, [`run`] is what they see, [`desk`] what each of their threads sees.

mod asked;
mod clock;
mod desk;
mod doubt;
mod headers;
mod identify;
mod known;
mod limits;
mod listed;
mod made;
mod packing;
mod planned;
mod preview;
mod ranges;
mod recorder;
mod run;
mod shards;
mod space;
mod spans;
mod stacks;
mod stats;
mod tally;
mod tars;
mod workers;

use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use crate::backend::choose::Devices;
use crate::backend::cpu::Cpu;
use crate::encode::{BigTiff, Encoding, Profile};
use crate::error::Error;
use crate::normalize::{Rule, Scope, Undo};
use crate::plan::{Naming, Plan, Scopes, Selection, Stack, Tar};
use crate::record::identity::Identity;
use crate::report::Report;
use crate::sink::Sink;
use crate::source::Source;
pub use asked::Recorded;
pub use doubt::VerifySample;
use headers::{header, most_of_file, note_of_large, subject, too_large};
pub(crate) use listed::Listed;
#[cfg(feature = "cli")]
pub(crate) use planned::check_channels;
use planned::planned;
#[cfg(feature = "cli")]
pub(crate) use planned::unsupported;
pub use preview::{Preview, preview};
use recorder::Begun;
use run::Run;
pub use shards::{ShardState, divide, merge, shard_states};
pub use space::Need;
#[cfg(feature = "cli")]
pub(crate) use spans::span;
pub use stats::{ScopeStats, stats};
pub(crate) use tars::{Place, Places};
#[cfg(feature = "cli")]
pub(crate) use workers::HEAD_START;
use workers::Workers;

/// What a run does.
#[derive(Clone, Default)]
pub struct Options {
    /// How samples become pixels.
    pub rule: Rule,
    /// Which samples share a range.
    pub scope: Scope,
    /// Which tensors, and which of their planes.
    pub selection: Selection,
    /// What the images are called.
    pub naming: Naming,
    /// How pixels are stored.
    pub encoding: Encoding,
    /// Which images are pages of one file. A stack is whole or absent, so that the first image that
    /// fails ends the run.
    pub stack: Stack,
    /// The tar, or the numbered ones, that images are members of; `None`: they are files, or pages. A tar is
    /// whole or absent, so that the first image that fails ends the run.
    pub tar: Option<Tar>,
    /// Who works.
    pub devices: Devices,
    /// Number of CPU workers, and of threads that write a GPU's images, 1024 at most. `None`: all
    /// cores.
    pub threads: Option<NonZeroUsize>,
    /// Most bytes of memory that the process is to take, at least [`Options::LEAST_MEMORY`]; `None`:
    /// what all cores and devices gain by. Devices that need more are not used.
    pub max_memory: Option<u64>,
    /// Most samples in a buffer, at most and by default 16 Mi; images of more are done in blocks.
    pub block_samples: Option<u64>,
    /// Whether the run may return while adapters are still starting, on a thread that nobody waits
    /// for. Only for a process that then ends by `_exit`, as the command line tool does: an
    /// ordinary exit tears drivers down under that thread, and crashed 1 time in 100 on llvmpipe.
    /// Otherwise a run that is done waits for the thread, but no longer than 2 s.
    pub leave_starting: bool,
    /// Whether the report is to say where the threads' time went. It costs a look at the clock
    /// for each read and write.
    pub timings: bool,
    /// Which of the images that GPUs make are made by the CPU as well, and compared. A device that
    /// is found to compute wrongly so is not used any more, and all its images are made again.
    pub verify_sample: VerifySample,
    /// Images that are there already are left as they are, whatever they hold.
    pub skip_existing: bool,
    /// Only the images of these numbers are this run's, and others may be making the rest at the
    /// same time; `None`: all. A recorded run of a shard leaves a journal, of which
    /// [`merge`](crate::merge) makes the manifest.
    pub shard: Option<Range<u64>>,
    /// Whether the first image that fails ends the run.
    pub fail_fast: bool,
    /// Whether the run begins although the sink says that it has too little room.
    pub unchecked_space: bool,
    /// How the run is recorded, so that it can be continued; `None`: not at all.
    pub record: Option<Record>,
    /// Who is told how the run goes.
    pub watch: Option<Arc<dyn Watch>>,
    /// Set from outside to end the run early. A clone of the options shares it.
    pub cancel: Arc<AtomicBool>,
}

/// How a run is recorded: in a journal while it works, in a manifest when it is done.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The folder that the run's own files are in: that of the images. A run locks it.
    pub folder: PathBuf,
    /// Where the manifest goes.
    pub manifest: Manifest,
    /// Whether to go on with a run that was interrupted.
    pub resume: Resume,
    /// Whether pixels are hashed (XXH3, 64 bit) while they are written, for the manifest.
    pub hash: bool,
    /// Whether the manifest is made safe against a loss of power.
    pub sync: bool,
    /// The plan that the run is by: it must be the same run.
    pub planned: Option<Planned>,
}

/// What a plan says of its run.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// The plan's file.
    pub path: PathBuf,
    /// The run.
    pub identity: Identity,
    /// The ranges of its scopes that are wider than an image.
    pub ranges: Arc<[crate::normalize::Range]>,
}

impl Record {
    /// A record in `folder`, with a manifest and without hashes, of a run that begins anew.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Record {
        Record {
            folder: folder.into(),
            manifest: Manifest::Folder,
            resume: Resume::No,
            hash: false,
            sync: false,
            planned: None,
        }
    }
}

/// Where a manifest goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manifest {
    /// Into the folder, as `manifest.jsonl`; beside another run's as `manifest-KEY.jsonl`.
    Folder,
    /// Into this file.
    At(PathBuf),
    /// Nowhere.
    None,
}

/// Whether a run goes on with one that was interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// No: images that exist already are an error, unless they are to be replaced or skipped.
    No,
    /// Images that the journal or the manifest has, and that are there with the right size, are
    /// not made again. If there is nothing to go on with, the run begins anew.
    Sizes,
    /// The same, but their pixels are read and must have the hash that was recorded, and their headers
    /// must say what was.
    Hashes,
}

/// Is told how a run goes, from any of its threads.
pub trait Watch: Send + Sync {
    /// The plan stands and work begins: so many images, so many bytes of samples to read. An image
    /// larger than a buffer is read twice.
    fn planned(&self, images: u64, bytes: u64);

    /// Some images are finished, some more bytes are dealt with.
    fn advanced(&self, images: u64, bytes: u64);

    /// Something that the user may want to know now; it is in the report too.
    fn note(&self, text: &str);

    /// Something that only the curious want to know.
    fn detail(&self, text: &str) {
        let _ = text;
    }
}

/// Converts every selected image of `source` and hands it to `sink`.
///
/// Tensors without images and images that fail on their own do not end a run; they are in the
/// report. A run that is restricted to GPUs and loses them is finished by the CPU.
///
/// ```
/// use tensortiff::{Dtype, MemorySink, MemorySource, Options, convert};
/// let samples: Vec<u8> = [1.0_f32, 2.0, 3.0, 5.0].iter().flat_map(|x| x.to_le_bytes()).collect();
/// let source = MemorySource::new("dump").with("a", Dtype::F32, &[2, 2], samples)?;
/// let sink = MemorySink::default();
/// let report = convert(&source, &sink, &Options::default())?;
/// assert_eq!((report.images, report.failed), (1, 0));
/// let file = &sink.into_files()["dump/a.tif"];
/// assert_eq!(file[file.len() - 4..], 1.0_f32.to_le_bytes());
/// # Ok::<(), tensortiff::Error>(())
/// ```
///
/// # Errors
/// Before any work: whatever is wrong with the options, the plan, the devices or the sink.
/// [`Error::Stopped`] where the run had to end in the middle; images finished by then stay.
pub fn convert(source: &dyn Source, sink: &dyn Sink, options: &Options) -> Result<Report, Error> {
    let started = Instant::now();
    let plan = planned(source, options)?;
    let cpu = cpu(source, &plan, options)?;
    let workers = Workers::start(&cpu, source, &plan, options)?;
    let mut begun = match plan.images() {
        0 => Begun::empty(),
        _ => recorder::begin(source, sink, options, &plan, cpu.threads())?,
    };
    if plan.images() == 0 && options.is_streamed() {
        tars::write_empty(sink)?;
    }
    let notes = std::mem::take(&mut begun.notes);
    let run = Run::new(source, sink, options, &plan, workers.pullers(), begun);
    let run = run.with_files(stacks::Files::of(source, &plan, options)?);
    notes.into_iter().for_each(|text| run.note(text));
    run.note_skipped();
    run.note_stacks();
    note_of_large(source, &plan, options).into_iter().for_each(|text| run.note(text));
    run.work(workers);
    run.report(started)
}

impl Options {
    /// The numbers of the images that are this run's.
    fn images(&self, plan: &Plan) -> Range<u64> {
        self.shard.clone().unwrap_or(0..plan.images())
    }

    /// Fails where a bit for each of so many images, to tell those that are done, takes more memory
    /// than it may: a dump that is a hole can have any number.
    fn check_marks(&self, images: u64) -> Result<(), Error> {
        const MOST: u64 = 1 << 33;
        let most = self.max_memory.map_or(MOST, |bytes| MOST.min(bytes.saturating_mul(2)));
        if images <= most {
            return Ok(());
        }
        Err(Error::Usage(format!(
            "{images} images are too many for a run that is continued, divided, or skips what \
             exists ({most} are the most, with a bit of memory each); --tensor takes some"
        )))
    }

    /// What may surprise who opens the files, in a line each: which readers have trouble with them, and which
    /// have no scale by which GDAL undoes the normalization.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> =
            self.encoding.warnings().into_iter().map(str::to_owned).collect();
        // Of stacks it is told by itself.
        if self.encoding.bigtiff == BigTiff::Yes && self.stack == Stack::None {
            warnings.push(format!("files are BigTIFFs, {NOT_IMAGEJ}"));
        }
        if self.encoding.profile == Profile::Gis {
            const NONE: &str = "GDAL's tags have no scale and offset";
            let fills = self.rule.constant.fill().is_some() || self.rule.nonfinite.fill().is_some();
            match Undo::refusal(&self.rule) {
                Some(reason) => warnings.push(format!("{NONE}: {reason}")),
                None if fills => warnings.push(format!(
                    "{NONE} in images that --constant or --nonfinite filled: nobody knows what was there"
                )),
                None => {}
            }
        }
        warnings
    }

    /// Least bytes that [`max_memory`](Options::max_memory) can be: the program itself, and one
    /// worker. What a [source](Source::memory) takes to unpack comes on top.
    pub const LEAST_MEMORY: u64 = OWN_MEMORY + (8 << 20);

    /// What is left of the memory for a GPU, whose driver takes its part; `None`: enough.
    #[cfg(feature = "gpu")]
    fn memory_of_a_gpu(&self, source: &dyn Source) -> Option<u64> {
        let others = OWN_MEMORY + DRIVER + source.memory();
        self.max_memory.map(|bytes| bytes.saturating_sub(others))
    }
}

/// What is so of a BigTIFF.
const NOT_IMAGEJ: &str = "which ImageJ's own File > Open does not open";

/// Bytes that the program takes before it has a buffer: its code, the plan of a few thousand
/// tensors, the lines of a manifest that are made at once.
const OWN_MEMORY: u64 = 24 << 20;
/// Bytes that a driver of a GPU may take.
#[cfg(feature = "gpu")]
const DRIVER: u64 = 512 << 20;

/// Bytes that a range takes which is known before the images are made.
const RANGE: u64 = 64;

/// How many ranges are known before the images are made.
fn ranges(plan: &Plan, options: &Options) -> u64 {
    match Scopes::new(options.scope, plan.rows()) {
        Some(scopes) => scopes.count() as u64,
        None if ranges::is_every_range_known_before(options) => plan.images(),
        None => 0,
    }
}

/// The CPU backend of a run.
fn cpu(source: &dyn Source, plan: &Plan, options: &Options) -> Result<Cpu, Error> {
    let cpu = Cpu::new(options.threads);
    let (unpacking, ranges) = (source.memory(), ranges(plan, options));
    let others = unpacking.saturating_add(ranges.saturating_mul(RANGE));
    let packing = spans::packing(options, plan);
    let cpu = cpu.with_desks(packing);
    let cpu = match limits::open_files() {
        None => cpu,
        Some(files) => cpu.opening(files),
    };
    let cpu = match limits::left_to_map() {
        None => cpu,
        Some(bytes) => cpu.mapping(bytes.saturating_sub(OWN_MEMORY.saturating_add(others))),
    };
    let least = Options::LEAST_MEMORY.saturating_add(others).saturating_add(packing);
    match options.max_memory {
        None => Ok(cpu),
        Some(bytes) if bytes < least => {
            let to = match () {
                () if options.is_streamed() => " for a stream".to_owned(),
                () if packing > 0 => " to pack images".to_owned(),
                () if unpacking > 0 => " to unpack or turn these dumps".to_owned(),
                () if ranges > 1 => format!(" for {ranges} ranges"),
                () => String::new(),
            };
            let problem = format!("{bytes} bytes of memory are too few{to}, {least} are the least");
            Err(Error::Usage(problem))
        }
        Some(bytes) => Ok(cpu.within(bytes - OWN_MEMORY - others)),
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("rule", &self.rule)
            .field("scope", &self.scope)
            .field("selection", &self.selection)
            .field("naming", &self.naming)
            .field("encoding", &self.encoding)
            .field("stack", &self.stack)
            .field("tar", &self.tar)
            .field("devices", &self.devices)
            .field("threads", &self.threads)
            .field("block_samples", &self.block_samples)
            .field("max_memory", &self.max_memory)
            .field("timings", &self.timings)
            .field("verify_sample", &self.verify_sample)
            .field("skip_existing", &self.skip_existing)
            .field("shard", &self.shard)
            .field("fail_fast", &self.fail_fast)
            .field("record", &self.record)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::normalize::Norm;
    use crate::report::Stages;
    use crate::sink::{MemorySink, NullSink, Pending};
    use crate::source::MemorySource;
    use crate::tensor::{Dtype, Dump, TensorInfo};

    fn small() -> MemorySource<'static> {
        let samples: Vec<u8> = (0..=255).collect();
        MemorySource::new("m").with("a", Dtype::U8, &[4, 8, 8], samples).unwrap()
    }

    /// Loading a driver would cost a run that is over by then more than it could gain.
    #[test]
    #[cfg(feature = "gpu")]
    fn a_short_run_tries_no_adapter_of_its_own_accord() {
        let started = Instant::now();
        let report = convert(&small(), &NullSink, &Options::default()).unwrap();
        assert_eq!((report.images, report.gpu_not_needed), (4, true));
        assert_eq!(report.devices.len(), 1);
        assert_eq!(report.notes, Vec::<String>::new());
        // It does not wait for the time when it would have been tried either.
        assert!(started.elapsed() < workers::HEAD_START, "{:?}", started.elapsed());
    }

    /// Samples beyond f32 count where they became infinite, and not where they were normalized.
    #[test]
    fn overflow_counts_where_pixels_show_it() {
        for (norm, overflow) in [(Norm::MinMax, 0), (Norm::None, 2)] {
            let samples: Vec<u8> = [1e300, -1e300, 3.0, 4.0_f64].map(f64::to_le_bytes).concat();
            let source = MemorySource::new("m").with("a", Dtype::F64, &[2, 2], samples).unwrap();
            let options = Options {
                rule: norm.into(),
                devices: "cpu".parse().unwrap(),
                ..Options::default()
            };
            let report = convert(&source, &NullSink, &options).unwrap();
            assert_eq!(report.samples.overflow, overflow, "{norm}");
        }
    }

    /// Each kind of sample that is not finite has its own count.
    #[test]
    fn samples_that_are_not_finite_are_counted_by_kind() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        let images = [[nan, 1.0, 2.0, 3.0], [inf, inf, -inf, 1.0], [nan, nan, nan, inf]];
        let samples: Vec<u8> = images.as_flattened().iter().flat_map(|x| x.to_le_bytes()).collect();
        let source = MemorySource::new("m").with("a", Dtype::F32, &[3, 2, 2], samples).unwrap();
        let options = Options { devices: "cpu".parse().unwrap(), ..Options::default() };
        let samples = convert(&source, &NullSink, &options).unwrap().samples;
        assert_eq!((samples.nan, samples.pos_inf, samples.neg_inf), (4, 3, 1));
        assert_eq!(samples.nonfinite_images, 3);
        assert_eq!((samples.constant_images, samples.no_finite_images), (1, 1));
    }

    #[derive(Default)]
    struct Told {
        calls: AtomicU64,
        images: AtomicU64,
        bytes: AtomicU64,
    }

    impl Watch for Told {
        fn planned(&self, _: u64, _: u64) {}

        fn advanced(&self, images: u64, bytes: u64) {
            self.calls.fetch_add(1, Ordering::Relaxed);
            self.images.fetch_add(images, Ordering::Relaxed);
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        }

        fn note(&self, _: &str) {}
    }

    /// Neither only at the end nor for each image: after some images, or some bytes.
    #[test]
    fn progress_is_told_as_it_is_made() {
        for (shape, calls) in [([2000, 2, 2], 20..200), ([60, 1 << 10, 1 << 11], 10..200)] {
            let bytes = shape.iter().product::<u64>();
            let samples = vec![7; usize::try_from(bytes).unwrap()];
            let source = MemorySource::new("m").with("a", Dtype::U8, &shape, samples).unwrap();
            let told = Arc::new(Told::default());
            let devices = "cpu".parse().unwrap();
            let options = Options { watch: Some(told.clone()), devices, ..Options::default() };
            let report = convert(&source, &NullSink, &options).unwrap();
            assert_eq!(report.images, shape[0]);
            assert_eq!(told.images.load(Ordering::Relaxed), shape[0]);
            assert_eq!(told.bytes.load(Ordering::Relaxed), bytes);
            let times = told.calls.load(Ordering::Relaxed);
            assert!(calls.contains(&times), "told {times} times, not {calls:?}");
        }
    }

    /// Takes its time for every image, and cancels the run at one of them.
    struct Slow {
        cancel: Arc<AtomicBool>,
        at: u64,
        puts: AtomicU64,
    }

    impl Sink for Slow {
        fn prepare(&self, _: &mut dyn Iterator<Item = String>) -> Result<(), Error> {
            Ok(())
        }

        fn put(&self, _: &str, _: &[u8], _: &[u8]) -> Result<(), Error> {
            std::thread::sleep(std::time::Duration::from_millis(60));
            if self.puts.fetch_add(1, Ordering::Relaxed) + 1 == self.at {
                self.cancel.store(true, Ordering::Relaxed);
            }
            Ok(())
        }

        fn begin(&self, _: &str, _: Option<u64>) -> Result<Box<dyn Pending + '_>, Error> {
            Ok(Box::new(NullSink))
        }
    }

    /// However long an image takes, and however many are read at once.
    #[test]
    fn a_slow_sink_is_told_of_in_time_and_left_in_time() {
        let samples = vec![7; 20 * 4];
        let source = MemorySource::new("m").with("a", Dtype::U8, &[20, 2, 2], samples).unwrap();
        for (at, told_at_least) in [(u64::MAX, 8), (2, 1)] {
            let told = Arc::new(Told::default());
            let options = Options {
                watch: Some(told.clone()),
                devices: "cpu".parse().unwrap(),
                threads: NonZeroUsize::new(1),
                ..Options::default()
            };
            let sink = Slow { cancel: options.cancel.clone(), at, puts: AtomicU64::new(0) };
            let outcome = convert(&source, &sink, &options);
            let times = told.calls.load(Ordering::Relaxed);
            assert!(times >= told_at_least, "told {times} times");
            if at == u64::MAX {
                assert_eq!(outcome.unwrap().images, 20);
            } else {
                let error = outcome.unwrap_err();
                assert!(matches!(error, Error::Stopped { done: 2, images: 20, .. }), "{error}");
                assert_eq!(sink.puts.load(Ordering::Relaxed), 2, "none after the cancel");
            }
        }
    }

    /// Refuses every block, as where a folder has taken the name; counts what it is asked.
    #[derive(Default)]
    struct Refusing {
        blocks: AtomicU64,
        commits: AtomicU64,
    }

    impl Sink for Refusing {
        fn prepare(&self, _: &mut dyn Iterator<Item = String>) -> Result<(), Error> {
            Ok(())
        }

        fn put(&self, _: &str, _: &[u8], _: &[u8]) -> Result<(), Error> {
            Ok(())
        }

        fn begin(&self, _: &str, _: Option<u64>) -> Result<Box<dyn Pending + '_>, Error> {
            Ok(Box::new(self))
        }
    }

    impl Pending for &Refusing {
        fn write_at(&self, _: u64, _: &[u8]) -> Result<(), Error> {
            self.blocks.fetch_add(1, Ordering::Relaxed);
            Err(Error::Exists { first: "taken".into(), count: 1 })
        }

        fn commit(self: Box<Self>) -> Result<(), Error> {
            self.commits.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    }

    /// Can be read so many times only.
    struct Failing<'a>(MemorySource<'a>, AtomicU64);

    impl Source for Failing<'_> {
        fn dumps(&self) -> &[Dump] {
            self.0.dumps()
        }

        fn tensors(&self) -> &[TensorInfo] {
            self.0.tensors()
        }

        fn read_at(&self, tensor: usize, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
            let take = |left: u64| left.checked_sub(1);
            if self.1.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
                let source = std::io::Error::other("planted");
                return Err(Error::Read { dump: "m".into(), tensor: "a".into(), source });
            }
            self.0.read_at(tensor, offset, buf)
        }
    }

    /// A large image is read twice by one thread, in 17 steps each; a giant in blocks.
    #[test]
    fn an_image_that_cannot_be_read_again_fails_once_and_is_not_there() {
        let samples: Vec<u8> = (0..1100 * 1000).map(|i| u8::try_from(i % 251).unwrap()).collect();
        for block_samples in [None, Some(100_000)] {
            for reads in [1, 10, 17, 18, 19, 25] {
                let source =
                    MemorySource::new("m").with("a", Dtype::U8, &[1100, 1000], &samples[..]);
                let source = Failing(source.unwrap(), AtomicU64::new(reads));
                let devices = "cpu".parse().unwrap();
                let options = Options { block_samples, devices, ..Options::default() };
                let sink = MemorySink::default();
                let report = convert(&source, &sink, &options).unwrap();
                assert_eq!((report.images, report.failed, report.failures.len()), (0, 1, 1));
                assert_eq!(sink.into_files().len(), 0);
            }
        }
    }

    /// Of an image that is larger than a buffer, and of one that one thread hands over in steps.
    #[test]
    fn an_image_whose_blocks_fail_fails_once() {
        let samples: Vec<u8> = (0..1100 * 1000).map(|i| u8::try_from(i % 251).unwrap()).collect();
        for block_samples in [None, Some(10_000)] {
            let source = MemorySource::new("m").with("a", Dtype::U8, &[1100, 1000], &samples[..]);
            let options =
                Options { block_samples, devices: "cpu".parse().unwrap(), ..Options::default() };
            let sink = Refusing::default();
            let report = convert(&source.unwrap(), &sink, &options).unwrap();
            assert_eq!((report.images, report.failed, report.failures.len()), (0, 1, 1));
            assert_eq!(report.bytes_in, 0);
            let [blocks, commits] =
                [&sink.blocks, &sink.commits].map(|n| n.load(Ordering::Relaxed));
            // Threads may be at it when the first fails.
            assert!((1..=64).contains(&blocks), "{blocks} blocks were tried");
            assert_eq!(commits, 0);
        }
    }

    /// Takes its time for every read.
    struct SlowSource(MemorySource<'static>);

    impl Source for SlowSource {
        fn dumps(&self) -> &[crate::tensor::Dump] {
            self.0.dumps()
        }

        fn tensors(&self) -> &[crate::tensor::TensorInfo] {
            self.0.tensors()
        }

        fn read_at(&self, tensor: usize, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
            std::thread::sleep(std::time::Duration::from_millis(400));
            self.0.read_at(tensor, offset, buf)
        }
    }

    /// Each by its own name.
    #[test]
    fn slow_reads_are_read_and_slow_writes_are_write() {
        let options = Options {
            timings: true,
            devices: "cpu".parse().unwrap(),
            threads: NonZeroUsize::new(1),
            ..Options::default()
        };
        let slow = std::time::Duration::from_millis(400);
        let source =
            || MemorySource::new("m").with("a", Dtype::U8, &[7, 2, 2], vec![7; 28]).unwrap();
        let of = |source: &dyn Source, sink: &dyn Sink| {
            convert(source, sink, &options).unwrap().devices[0].stages
        };
        let told = of(&SlowSource(source()), &NullSink);
        assert!(told.read >= slow && told.read > told.compute + told.write + told.wait, "{told:?}");
        let cancel = options.cancel.clone();
        let told = of(&source(), &Slow { cancel, at: u64::MAX, puts: AtomicU64::new(0) });
        assert!(
            told.write >= slow && told.write > told.read + told.compute + told.wait,
            "{told:?}"
        );
    }

    #[test]
    fn stages_are_told_where_they_are_asked_for() {
        let stages = |timings| {
            let devices = "cpu".parse().unwrap();
            let options = Options { timings, devices, ..Options::default() };
            convert(&small(), &NullSink, &options).unwrap().devices[0].stages
        };
        assert_eq!(stages(false), Stages::default());
        let told = stages(true);
        assert!(
            told.read.min(told.compute).min(told.write) > std::time::Duration::ZERO,
            "{told:?}"
        );
        assert!(told.total() >= told.read + told.compute + told.write);
    }
}
