//! One GPU, measured for choosing by: its kernels beside its own copies, the whole conversion beside
//! the bare way there and back, and what else the ring and the kernels could be. Prints Markdown for
//! `benches/record`; its README says how to use it. On software Vulkan the figures say nothing of a
//! card.
//!
//!     TENSORTIFF_TEST_ADAPTER=NAME cargo bench --bench gpu -- [--mib 512] [--rounds 5] [--folder DIR] [--no-sweeps]

#![allow(clippy::cast_possible_truncation, reason = "made data, whose sizes and values are small")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tensortiff::backend::gpu::hooks::Hooks;
use tensortiff::backend::gpu::kernels::Kernel;
use tensortiff::backend::gpu::tuning::{Shape, Tuning};
use tensortiff::backend::gpu::{Adapter, Gpu, GpuStats, Speeds};
use tensortiff::{
    Device, Devices, Dtype, FilesSink, MemorySource, Norm, NullSink, Options, Record, Sink,
    Source as _, convert,
};

mod support;

/// Name, dtype and image size of each set.
const SETS: [(&str, Dtype, [u64; 2]); 5] = [
    ("tiny f32 28x28", Dtype::F32, [28, 28]),
    ("medium f32 512x512", Dtype::F32, [512, 512]),
    ("large f32 4096x4096", Dtype::F32, [4096, 4096]),
    ("medium bf16 256x256", Dtype::Bf16, [256, 256]),
    ("small u8 64x64", Dtype::U8, [64, 64]),
];
/// The sets that sweeps go over: one for the fused kernel, one for tiles.
const SWEPT: [usize; 2] = [0, 1];

type Outcome<T> = Result<T, Box<dyn Error>>;

struct Args {
    quick: bool,
    pixels: u64,
    rounds: usize,
    folder: PathBuf,
    sweeps: bool,
}

impl Args {
    fn parse() -> Outcome<Args> {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let mut args = Args { quick: false, pixels: 64 << 20, rounds: 5, folder, sweeps: true };
        let mut given = std::env::args().skip(1);
        while let Some(word) = given.next() {
            let mut value = || given.next().ok_or(format!("{word} needs a value"));
            match word.as_str() {
                // What cargo passes.
                "--bench" => {}
                "--test" => {
                    args.quick = true;
                    args.pixels = 1 << 19;
                    args.rounds = 1;
                }
                "--mib" => args.pixels = value()?.parse::<u64>()? << 18,
                "--rounds" => args.rounds = value()?.parse::<usize>()?.max(1),
                "--folder" => args.folder = value()?.into(),
                "--no-sweeps" => args.sweeps = false,
                other => return Err(format!("what is {other}?").into()),
            }
        }
        Ok(args)
    }
}

/// One set, in memory.
struct Set {
    name: &'static str,
    source: MemorySource<'static>,
    images: u64,
    norm: Norm,
}

impl Set {
    fn made(number: usize, pixels: u64) -> Outcome<Set> {
        let (name, dtype, [height, width]) = SETS[number];
        let images = (pixels / (height * width)).max(1);
        let count = (images * height * width) as u32;
        let noise = |i: u32| (i.wrapping_mul(2_654_435_761) >> 12) as f32 / 1e5 - 5.0;
        let samples: Vec<u8> = match dtype {
            Dtype::U8 => (0..count).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect(),
            // bf16 is the upper half of an f32.
            Dtype::Bf16 => (0..count)
                .flat_map(|i| {
                    let [_, _, low, high] = noise(i).to_le_bytes();
                    [low, high]
                })
                .collect(),
            _ => (0..count).flat_map(|i| noise(i).to_le_bytes()).collect(),
        };
        let shape = [images, height, width];
        let source = MemorySource::new("m").with("t", dtype, &shape, samples)?;
        Ok(Set { name, source, images, norm: Norm::MinMax })
    }

    /// Seconds of a whole conversion.
    fn run(&self, devices: &[Device], sink: &dyn Sink, record: Option<Record>) -> Outcome<f64> {
        let (devices, rule) = (Devices::List(devices.to_vec()), self.norm.into());
        let options = Options { devices, rule, record, ..Options::default() };
        let report = convert(&self.source, sink, &options)?;
        if (report.images, report.failed) != (self.images, 0) {
            return Err(format!("{}: {report:?}", self.name).into());
        }
        Ok(report.elapsed.as_secs_f64())
    }

    /// Seconds of a conversion into files, recorded as `tensortiff convert` does.
    fn to_files(&self, devices: &[Device], folder: &Path) -> Outcome<f64> {
        let folder = tempfile::tempdir_in(folder)?;
        let out = folder.path().join("out");
        self.run(devices, &FilesSink::new(&out, false), Some(Record::new(&out)))
    }

    /// Seconds in which all threads copy the samples into files of the same sizes: the floor.
    fn copied(&self, folder: &Path) -> Outcome<f64> {
        const HEADER: usize = 512;
        let folder = tempfile::tempdir_in(folder)?;
        let tensor = &self.source.tensors()[0];
        let pixels = 4 * tensor.shape[1..].iter().product::<u64>() as usize;
        let bytes = pixels / 4 * tensor.dtype.size();
        let next = AtomicU64::new(0);
        let work = || -> Result<(), Box<dyn Error + Send + Sync>> {
            let mut buffer = vec![1; HEADER + pixels];
            loop {
                let image = next.fetch_add(1, Ordering::Relaxed);
                if image >= self.images {
                    return Ok(());
                }
                self.source.read_at(
                    0,
                    image * bytes as u64,
                    &mut buffer[HEADER..HEADER + bytes],
                )?;
                std::fs::write(folder.path().join(format!("{image}.tif")), &buffer)?;
            }
        };
        let start = Instant::now();
        std::thread::scope(|scope| {
            let threads = std::thread::available_parallelism().map_or(1, usize::from);
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| worker.join().expect("no worker panics"))
        })
        .map_err(|error| error.to_string())?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// Seconds of the round in the middle, and what the device did in it.
    fn on(&self, gpu: &Arc<Gpu>, rounds: usize) -> Outcome<(f64, GpuStats)> {
        let mut times = Vec::new();
        for _ in 0..=rounds {
            let time = self.run(&[Device::Ready(gpu.clone())], &NullSink, None)?;
            times.push((time, gpu.stats()));
        }
        // The first round makes the slots.
        times.remove(0);
        times.sort_by(|a, b| a.0.total_cmp(&b.0));
        Ok(times[times.len() / 2])
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn open(adapter: &Adapter, timed: bool, tuning: Tuning) -> Outcome<Arc<Gpu>> {
    let threads = std::thread::available_parallelism()?.get();
    Ok(Arc::new(Gpu::open_with(adapter, threads, &Hooks { timed, tuning, ..Hooks::NONE })?))
}

fn main() -> Outcome<()> {
    let args = Args::parse()?;
    let adapter = support::adapter();
    let info = &adapter.info;
    println!("## {}, {}, {} ({})\n", info.name, info.driver, info.api, info.kind);
    if info.is_software() {
        println!("**Software: a check that this works. No real card was measured.**\n");
    }
    let threads = std::thread::available_parallelism()?;
    println!(
        "{threads} CPU threads; {} MiB of pixels a set; medians of {} rounds.\n",
        args.pixels >> 18,
        args.rounds
    );

    let timed = open(&adapter, true, Tuning::CHOSEN)?;
    println!("Proof: {}.\n", timed.proof());
    let speeds = copies(&timed, &args)?;
    let sets =
        (0..SETS.len()).map(|set| Set::made(set, args.pixels)).collect::<Outcome<Vec<_>>>()?;
    kernels(&timed, &sets, &speeds, &args)?;
    looks(&timed, &args)?;
    drop(timed);
    whole(&adapter, &sets, &args)?;
    if args.sweeps {
        sweeps(&adapter, &sets, &args)?;
    }
    Ok(())
}

/// Prints the device's own copies, and gives those of a batch's size.
fn copies(gpu: &Gpu, args: &Args) -> Outcome<Speeds> {
    println!(
        "### Its own copies\n\nGB/s; within the device both what is read and what is written counts.\n"
    );
    println!("| MiB | within | to it | from it | clock |\n| ---: | ---: | ---: | ---: | --- |");
    let sizes: &[u64] = if args.quick { &[1] } else { &[4, 16, 64] };
    let mut last = None;
    for mib in sizes {
        let s = gpu.speeds(mib << 20)?;
        let clock = if s.by_its_clock { "the device's" } else { "the host's" };
        println!("| {mib} | {:.2} | {:.2} | {:.2} | {clock} |", s.copy, s.up, s.down);
        last = Some(s);
    }
    println!();
    last.ok_or_else(|| "no size was measured".into())
}

/// Nanoseconds in milliseconds; a dash where nothing was measured.
fn milliseconds(nanoseconds: u64) -> String {
    if nanoseconds == 0 { "-".to_owned() } else { format!("{:.2}", nanoseconds as f64 / 1e6) }
}

fn kernels(gpu: &Arc<Gpu>, sets: &[Set], speeds: &Speeds, args: &Args) -> Outcome<()> {
    println!(
        "### Kernels\n\nBytes read and written, each once, by the device's clock; the share is of its own copies. 80 % is the aim.\n"
    );
    println!("| set | what | dispatches | MB | ms | GB/s | share |");
    println!("| --- | --- | ---: | ---: | ---: | ---: | ---: |");
    for set in sets {
        let (_, stats) = set.on(gpu, args.rounds)?;
        for kernel in Kernel::ALL {
            let of = stats.kernels[kernel as usize];
            if of.dispatches == 0 {
                continue;
            }
            let [speed, share] = match of.gigabytes_a_second() {
                Some(speed) => {
                    [format!("{speed:.2}"), format!("{:.0} %", 100.0 * speed / speeds.copy)]
                }
                None => ["-".to_owned(), "-".to_owned()],
            };
            let mb = of.bytes as f64 / 1e6;
            let ms = milliseconds(of.nanoseconds);
            println!(
                "| {} | {} | {} | {mb:.1} | {ms} | {speed} | {share} |",
                set.name,
                kernel.stem(),
                of.dispatches
            );
        }
        for (way, bytes, time) in [
            ("up", stats.bytes_up, stats.nanoseconds_up),
            ("down", stats.bytes_down, stats.nanoseconds_down),
        ] {
            let speed = if time == 0 { 0.0 } else { bytes as f64 / time as f64 };
            println!(
                "| {} | copies {way} | {} | {:.1} | {} | {speed:.2} | |",
                set.name,
                stats.batches,
                bytes as f64 / 1e6,
                milliseconds(time)
            );
        }
    }
    println!();
    Ok(())
}

/// Prints what a look at samples costs, which percentiles are found by: one piece at a time, there and back, so that
/// it is told beside the bare link and has no aim.
fn looks(gpu: &Arc<Gpu>, args: &Args) -> Outcome<()> {
    println!(
        "### Looks at samples\n\nPercentiles of the medium set, in ms; bytes that looks read and wrote.\n"
    );
    println!(
        "| set | looks | MB | run without files | without percentiles |\n| --- | ---: | ---: | ---: | ---: |"
    );
    let plain = Set::made(SWEPT[1], args.pixels)?;
    let (without, _) = plain.on(gpu, args.rounds)?;
    let set = Set { norm: Norm::Percentile { low: 1.0, high: 99.0 }, ..plain };
    let (with, _) = set.on(gpu, args.rounds)?;
    // They are counted from run to run.
    let of = || gpu.stats().kernels[Kernel::Gather as usize];
    let before = of();
    set.run(&[Device::Ready(gpu.clone())], &NullSink, None)?;
    let after = of();
    println!(
        "| {} | {} | {:.1} | {:.1} | {:.1} |\n",
        set.name,
        after.dispatches - before.dispatches,
        (after.bytes - before.bytes) as f64 / 1e6,
        1e3 * with,
        1e3 * without
    );
    Ok(())
}

fn whole(adapter: &Adapter, sets: &[Set], args: &Args) -> Outcome<()> {
    let gpu = open(adapter, false, Tuning::CHOSEN)?;
    println!(
        "### Whole conversions\n\nFrom memory, in ms. `link`: the bytes of the run there and back at once, and nothing else. `floor`: all threads copy the samples into files of the same sizes. The share is that of the slower of the two in the run into files: 90 % is the aim.\n"
    );
    println!(
        "| set | link | floor | gpu, files | share | cpu, files | both, files | gpu, no files | cpu, no files | both, no files |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let gpu_alone = vec![Device::Ready(gpu.clone())];
    let fleets = [gpu_alone, vec![Device::Cpu], vec![Device::Cpu, Device::Ready(gpu.clone())]];
    for set in sets {
        let (_, stats) = set.on(&gpu, 1)?;
        let mut times = [const { Vec::new() }; 8];
        // All in turn, so that what else the machine does meets all of them.
        for _ in 0..args.rounds {
            for (number, devices) in fleets.iter().enumerate() {
                times[number].push(1e3 * set.run(devices, &NullSink, None)?);
                times[3 + number].push(1e3 * set.to_files(devices, &args.folder)?);
            }
            times[6].push(1e3 * gpu.link(stats.bytes_up, stats.bytes_down)?);
            times[7].push(1e3 * set.copied(&args.folder)?);
        }
        let [gpu, cpu, both, gpu_files, cpu_files, both_files, link, floor] = times.map(median);
        println!(
            "| {} | {link:.1} | {floor:.1} | {gpu_files:.1} | {:.0} % | {cpu_files:.1} | {both_files:.1} | {gpu:.1} | {cpu:.1} | {both:.1} |",
            set.name,
            100.0 * link.max(floor) / gpu_files
        );
    }
    println!();
    Ok(())
}

/// Every parameter alone, around what was chosen.
fn tunings(quick: bool) -> Vec<(String, Tuning)> {
    let chosen = Tuning::CHOSEN;
    let mut all = vec![("as chosen".to_owned(), chosen)];
    let mut add = |name: String, tuning: Tuning| {
        if tuning != chosen {
            all.push((name, tuning));
        }
    };
    let some = |values: &[u64]| values[..if quick { 1 } else { values.len() }].to_vec();
    for slots in some(&[2, 3, 4, 6]) {
        add(format!("{slots} slots"), Tuning { slots: slots as usize, ..chosen });
    }
    for readers in some(&[1, 2, 4]) {
        let tuning = Tuning { slots: 6, readers: Some(readers as usize), ..chosen };
        add(format!("6 slots, {readers} readers"), tuning);
    }
    for mib in some(&[4, 16, 32, 64, 120]) {
        add(format!("batches of {mib} MiB"), Tuning { batch_pixels: mib << 18, ..chosen });
    }
    let mut shape = |name: String, shape: Shape| add(name, Tuning { shape, ..chosen });
    for workgroup in some(&[64, 128, 256]) {
        let workgroup = workgroup as u32;
        shape(format!("workgroups of {workgroup}"), Shape { workgroup, ..Shape::CHOSEN });
    }
    for tile in some(&[4096, 16_384, 65_536]) {
        shape(format!("tiles of {tile}"), Shape { tile: tile as u32, ..Shape::CHOSEN });
    }
    for lanes in some(&[8, 32, 64]) {
        shape(format!("{lanes} lanes"), Shape { lanes: lanes as u32, ..Shape::CHOSEN });
    }
    for small in some(&[512, 4096, 16_384]) {
        shape(format!("small up to {small}"), Shape { small: small as u32, ..Shape::CHOSEN });
    }
    all
}

fn sweeps(adapter: &Adapter, sets: &[Set], args: &Args) -> Outcome<()> {
    println!(
        "### Other sizes and shapes\n\nEach alone, proved like the chosen ones. ms of the kernels, and of the whole conversion without files.\n"
    );
    let names = SWEPT.map(|set| sets[set].name);
    println!("| | {} kernels | whole | {} kernels | whole |", names[0], names[1]);
    println!("| --- | ---: | ---: | ---: | ---: |");
    for (name, tuning) in tunings(args.quick) {
        let mut cells = Vec::new();
        for timed in [true, false] {
            let gpu = open(adapter, timed, tuning)?;
            for set in SWEPT {
                let (time, stats) = sets[set].on(&gpu, args.rounds)?;
                let kernels = stats.kernels.iter().map(|kernel| kernel.nanoseconds).sum();
                cells.push(if timed {
                    milliseconds(kernels)
                } else {
                    format!("{:.1}", 1e3 * time)
                });
            }
        }
        println!("| {name} | {} | {} | {} | {} |", cells[0], cells[2], cells[1], cells[3]);
    }
    println!();
    Ok(())
}
