//! `tensortiff bench`.

#[cfg(feature = "gpu")]
mod gpu;
#[cfg(not(feature = "gpu"))]
#[path = "no_gpu.rs"]
mod gpu;
mod measure;

use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::args::BenchArgs;
use super::convert::bytes;
use super::{Ending, Verbosity, results, say, signals};
use crate::backend::choose::{self, Device, Devices, Opened};
use crate::backend::cpu::Cpu;
use crate::convert::Options;
use crate::error::{Error, shown};
use crate::plan::{Row, Selected};
use crate::source::{MemorySource, SafetensorsFiles, Source};
use crate::tensor::Dtype;
use gpu::Timed;
use measure::{Scratch, Whole, gigabytes_a_second};

/// Everything that was measured.
#[derive(Serialize)]
struct Results {
    threads: usize,
    /// GB/s of a plain copy in memory, by one thread and by all.
    memory_copy_one: f64,
    memory_copy_all: f64,
    /// Seconds that it took to open and prove the adapters.
    adapters_seconds: f64,
    /// What `--device auto` would use, and why not others.
    auto: Vec<String>,
    not_used: Vec<String>,
    adapters: Vec<AdapterResults>,
    sets: Vec<SetResults>,
}

/// One set of data.
#[derive(Serialize)]
struct SetResults {
    name: String,
    images: u64,
    bytes: u64,
    read: Speed,
    file_copy: Speed,
    devices: Vec<DeviceResults>,
    kernels: Vec<KernelResults>,
}

/// One device, or all together.
#[derive(Serialize)]
struct DeviceResults {
    name: String,
    to_nothing: Speed,
    to_files: Speed,
    /// Of the run to files in the middle: GB/s in the share of its time that its threads spent on
    /// this; nothing where they spent none.
    read: Option<f64>,
    compute: Option<f64>,
    write: Option<f64>,
    /// Share of the threads' time that was spent waiting.
    wait: f64,
}

/// What an adapter can do at best, in GB/s.
#[derive(Serialize, Clone)]
#[cfg_attr(not(feature = "gpu"), allow(dead_code, reason = "there are no adapters"))]
struct AdapterResults {
    name: String,
    /// Copying in its memory, bytes read and bytes written both counted.
    memory_copy: f64,
    /// To it, and back.
    up: f64,
    down: f64,
}

/// One kernel, on one set of data.
#[derive(Serialize)]
#[cfg_attr(not(feature = "gpu"), allow(dead_code, reason = "there are no adapters"))]
struct KernelResults {
    adapter: String,
    kernel: &'static str,
    /// GB/s of bytes read and written; nothing where the adapter has no clock.
    speed: Option<f64>,
    /// As a share of copying in its memory.
    of_memory_copy: Option<f64>,
    /// Times that it was started.
    dispatches: u64,
}

/// GB/s of the rounds.
#[derive(Serialize)]
struct Speed {
    median: f64,
    least: f64,
    greatest: f64,
}

impl Speed {
    fn of(mut speeds: Vec<f64>) -> Speed {
        speeds.sort_by(f64::total_cmp);
        let at = |k: usize| speeds.get(k).copied().unwrap_or(f64::NAN);
        let last = speeds.len().saturating_sub(1);
        Speed { median: at(last / 2), least: at(0), greatest: at(last) }
    }

    fn text(&self) -> String {
        format!("{:.2} ({:.2}-{:.2})", self.median, self.least, self.greatest)
    }
}

pub(super) fn run(args: &BenchArgs, verbosity: Verbosity) -> anyhow::Result<Ending> {
    let told = |text: &str| {
        if verbosity > Verbosity::Quiet {
            say(&format!("tensortiff: {text}"));
        }
    };
    let cores = || thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let most = NonZeroUsize::new(Cpu::MOST_THREADS).unwrap_or(NonZeroUsize::MIN);
    let threads = args.threads.unwrap_or_else(cores).min(most);
    let options = Options {
        selection: args.selection.selection(),
        threads: Some(threads),
        timings: true,
        leave_starting: true, // this process ends by _exit
        ..Options::default()
    };
    let files =
        if args.dumps.is_empty() { None } else { Some(SafetensorsFiles::open(&args.dumps)?) };
    signals::cancel_on_signal(Arc::clone(&options.cancel))?;

    let started = Instant::now();
    let opened = choose::open(&args.device.others(), threads.get());
    let adapters_seconds = started.elapsed().as_secs_f64();
    let fleets = fleets(&args.device, &opened)?;

    told("memory");
    let names: Vec<String> =
        opened.backends.iter().map(|backend| backend.name().to_owned()).collect();
    let timed = Timed::open(&names, threads.get())?;
    let [memory_copy_one, memory_copy_all] = [1, threads.get()].map(measure::memory_copy);
    // From here on everything looks whether it is to end, and takes the folder away.
    let parent = args.output.clone().unwrap_or_else(std::env::temp_dir);
    let scratch = Scratch::new(&parent)?;
    let mut sets = Vec::new();
    if let Some(files) = &files {
        let names: Vec<&str> = files.dumps().iter().map(|dump| dump.label.as_str()).collect();
        let set = Set { name: names.join(", "), source: files };
        sets.push(set.measure(args, &options, threads, (&fleets, &timed), &scratch, &told)?);
    } else {
        for made in Made::all(args.quick) {
            let source = made.source()?;
            let set = Set { name: made.name(), source: &source };
            sets.push(set.measure(args, &options, threads, (&fleets, &timed), &scratch, &told)?);
        }
    }
    let results_of = Results {
        threads: threads.get(),
        memory_copy_one,
        memory_copy_all,
        adapters_seconds,
        auto: std::iter::once("cpu".to_owned()).chain(names).collect(),
        not_used: opened.problems.clone(),
        adapters: timed.iter().map(|timed| timed.results().clone()).collect(),
        sets,
    };
    results(|out| {
        if args.json {
            serde_json::to_writer_pretty(&mut *out, &results_of)?;
            writeln!(out)
        } else {
            table(out, &results_of, &args.device, &parent)
        }
    })?;
    Ok(Ending::Done)
}

/// Each device alone, and all together.
fn fleets(asked: &Devices, opened: &Opened) -> Result<Vec<(String, Devices)>, Error> {
    if let (Devices::List(_), Some(problem)) = (asked, opened.problems.first()) {
        let help = "(`tensortiff devices` lists adapters)";
        return Err(Error::Device(format!("{problem} {help}")));
    }
    let mut alone: Vec<(String, Device)> = Vec::new();
    if asked.use_cpu() {
        alone.push(("cpu".to_owned(), Device::Cpu));
    }
    for backend in &opened.backends {
        alone.push((backend.name().to_owned(), Device::Ready(Arc::clone(backend))));
    }
    let all: Vec<Device> = alone.iter().map(|(_, device)| device.clone()).collect();
    let mut fleets: Vec<(String, Devices)> =
        alone.into_iter().map(|(name, device)| (name, Devices::List(vec![device]))).collect();
    if all.len() > 1 {
        let name = if matches!(asked, Devices::Auto) { "auto" } else { "together" };
        fleets.push((name.to_owned(), Devices::List(all)));
    }
    Ok(fleets)
}

/// Data that is made, by a seed.
struct Made {
    dtype: Dtype,
    shape: [u64; 3],
}

impl Made {
    fn all(quick: bool) -> Vec<Made> {
        let sets = [
            (Dtype::F32, [256, 512, 512]),
            (Dtype::F32, [32_000, 28, 28]),
            (Dtype::Bf16, [1024, 256, 256]),
            (Dtype::F32, [4, 4096, 4096]),
        ];
        let fewer = |images: u64| if quick { (images / 16).max(1) } else { images };
        sets.map(|(dtype, [n, h, w])| Made { dtype, shape: [fewer(n), h, w] }).into()
    }

    fn name(&self) -> String {
        let [_, height, width] = self.shape;
        format!("made: {} of {height}x{width}", self.dtype)
    }

    /// Finite samples, a pattern that repeats only after a prime number of them.
    fn source(&self) -> anyhow::Result<MemorySource<'static>> {
        const PRIME: usize = 1_000_003;
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let pattern: Vec<u8> = (0..PRIME)
            .flat_map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                // 1.0 to 2.0, of either sign: the upper half of it is a bf16 of that kind too.
                let bits = (state >> 32 & 0x807F_FFFF) | 0x3F80_0000;
                let bytes = u32::try_from(bits).unwrap_or_default().to_le_bytes();
                bytes[4 - self.dtype.size().min(4)..].to_vec()
            })
            .collect();
        let size = self.shape.iter().product::<u64>() * self.dtype.size() as u64;
        let samples = pattern.into_iter().cycle().take(usize::try_from(size)?).collect::<Vec<u8>>();
        Ok(MemorySource::new("made").with("t", self.dtype, &self.shape, samples)?)
    }
}

/// A set of data to measure on.
struct Set<'a> {
    name: String,
    source: &'a dyn Source,
}

impl Set<'_> {
    fn measure(
        &self,
        args: &BenchArgs,
        options: &Options,
        threads: NonZeroUsize,
        (fleets, timed): (&[(String, Devices)], &[Timed]),
        scratch: &Scratch,
        told: &impl Fn(&str),
    ) -> anyhow::Result<SetResults> {
        let source = self.source;
        let unsupported = source.unsupported();
        let (dumps, tensors) = (source.dumps(), source.tensors());
        let plan = Selected::new(dumps, tensors, unsupported, &options.selection)?;
        if plan.images() == 0 {
            return Err(
                Error::Usage("no image is selected, so nothing can be measured".into()).into()
            );
        }
        let total: u64 = plan.rows().iter().map(Row::bytes).sum();
        let speed = |time: Duration| gigabytes_a_second(total, time);
        let (mut read, mut copy) = (Vec::new(), Vec::new());
        let mut runs: Vec<[Vec<Whole>; 2]> = fleets.iter().map(|_| Default::default()).collect();
        for round in 0..args.rounds.get() {
            told(&format!("{}: round {} of {}", self.name, round + 1, args.rounds));
            let cancel = &options.cancel;
            read.push(speed(measure::read(source, plan.rows(), threads, cancel)?));
            let folder = scratch.folder(&format!("copy-{round}"));
            copy.push(speed(measure::copy(source, plan.rows(), threads, &folder, cancel)?));
            for ((number, (_, devices)), [nothing, files]) in
                fleets.iter().enumerate().zip(&mut runs)
            {
                let options = Options { devices: devices.clone(), ..options.clone() };
                nothing.push(measure::to_nothing(source, &options)?);
                let folder = scratch.folder(&format!("files-{round}-{number}"));
                files.push(measure::to_files(source, &options, &folder)?);
            }
        }
        let devices = fleets
            .iter()
            .zip(runs)
            .map(|((name, _), [nothing, files])| DeviceResults::of(name.clone(), &nothing, files));
        let mut kernels = Vec::new();
        for timed in timed {
            kernels.extend(timed.kernels(source, options)?);
        }
        Ok(SetResults {
            kernels,
            name: self.name.clone(),
            images: plan.images(),
            bytes: total,
            read: Speed::of(read),
            file_copy: Speed::of(copy),
            devices: devices.collect(),
        })
    }
}

impl DeviceResults {
    fn of(name: String, nothing: &[Whole], mut files: Vec<Whole>) -> Self {
        let speeds = |runs: &[Whole]| {
            Speed::of(runs.iter().map(|run| gigabytes_a_second(run.bytes, run.time)).collect())
        };
        let (to_nothing, to_files) = (speeds(nothing), speeds(&files));
        files.sort_by_key(|run| run.time);
        let middle = files[(files.len() - 1) / 2];
        let stages = middle.stages;
        let while_in = |time: Duration| {
            let share = time.as_secs_f64() / stages.total().as_secs_f64().max(1e-9);
            let spent = middle.time.mul_f64(share);
            (time > Duration::ZERO).then(|| gigabytes_a_second(middle.bytes, spent))
        };
        DeviceResults {
            name,
            to_nothing,
            to_files,
            read: while_in(stages.read),
            compute: while_in(stages.compute),
            write: while_in(stages.write),
            wait: stages.wait.as_secs_f64() / stages.total().as_secs_f64().max(1e-9),
        }
    }
}

fn table(
    out: &mut dyn io::Write,
    results: &Results,
    asked: &Devices,
    folder: &Path,
) -> io::Result<()> {
    writeln!(
        out,
        "memory copy: {:.2} GB/s with 1 thread, {:.2} with {}; files in {}",
        results.memory_copy_one,
        results.memory_copy_all,
        results.threads,
        shown(&folder.display().to_string())
    )?;
    for adapter in &results.adapters {
        writeln!(
            out,
            "{}: memory copy {:.2} GB/s read and written, {:.2} up, {:.2} down",
            shown(&adapter.name),
            adapter.memory_copy,
            adapter.up,
            adapter.down
        )?;
    }
    for set in &results.sets {
        writeln!(
            out,
            "\n{}: {} images, {}; reading alone {} GB/s, file copy {} GB/s",
            shown(&set.name),
            set.images,
            bytes(set.bytes),
            set.read.text(),
            set.file_copy.text()
        )?;
        let heads = ["to nothing", "of memory copy", "to files", "of file copy"];
        let [a, b, c, d] = heads;
        writeln!(
            out,
            "  {:24}{a:>20}{b:>16}{c:>20}{d:>14}{:>8}{:>9}{:>8}{:>7}",
            "GB/s", "read", "compute", "write", "wait"
        )?;
        for device in &set.devices {
            let share = |x: f64, of: f64| format!("{:.0} %", 100.0 * x / of);
            let stage = |speed: Option<f64>| speed.map_or("-".to_owned(), |x| format!("{x:.1}"));
            writeln!(
                out,
                "  {:24}{:>20}{:>16}{:>20}{:>14}{:>8}{:>9}{:>8}{:>7}",
                shown(&device.name).chars().take(24).collect::<String>(),
                device.to_nothing.text(),
                share(device.to_nothing.median, results.memory_copy_all),
                device.to_files.text(),
                share(device.to_files.median, set.file_copy.median),
                stage(device.read),
                stage(device.compute),
                stage(device.write),
                share(device.wait, 1.0),
            )?;
        }
        for kernel in &set.kernels {
            let speed = match (kernel.speed, kernel.of_memory_copy) {
                (Some(speed), Some(share)) => {
                    format!("{speed:.2} GB/s, {:.0} % of its memory copy", 100.0 * share)
                }
                _ => "not timed: the adapter has no clock for it".to_owned(),
            };
            let (adapter, kernel, times) =
                (shown(&kernel.adapter), kernel.kernel, kernel.dispatches);
            writeln!(out, "  {adapter}: kernel {kernel}: {speed} ({times} times)")?;
        }
    }
    writeln!(out)?;
    if matches!(asked, Devices::Auto) {
        writeln!(out, "--device auto uses: {}", shown(&results.auto.join(", ")))?;
    }
    results.not_used.iter().try_for_each(|why| writeln!(out, "not used: {}", shown(why)))?;
    if results.auto.len() > 1 {
        let opening = "opening and proving the adapters took";
        writeln!(out, "{opening} {:.2} s, which no run waits for", results.adapters_seconds)?;
    }
    Ok(())
}
