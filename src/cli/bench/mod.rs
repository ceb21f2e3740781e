//! `tensortiff bench`: [`measure`] has what is timed, [`results`] what is made of it, [`table`] how
//! it is shown.

#[cfg(feature = "gpu")]
mod gpu;
#[cfg(not(feature = "gpu"))]
#[path = "no_gpu.rs"]
mod gpu;
mod made;
mod measure;
mod results;
mod scratch;
mod table;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::args::BenchArgs;
use super::inputs::open;
use super::{Ending, Verbosity, devices, results as to_stdout, say, signals};
use crate::backend::choose::{self, Device, Devices, Opened};
use crate::backend::cpu::Cpu;
use crate::convert::Options;
use crate::convert::span;
use crate::error::Error;
use crate::normalize::Rule;
use crate::plan::{Row, Selected, Selection};
use crate::source::Source;
use gpu::Timed;
use made::Made;
use measure::{Whole, gigabytes_a_second};
use results::{Memory, NotMeasured, Pays, Results, Rounds, SetResults, Yardstick};
use scratch::Scratch;

/// Longest wait for adapters that a run left opening.
const LONGEST_SETTLING: Duration = Duration::from_secs(2);

pub(super) fn run(args: &BenchArgs, verbosity: Verbosity) -> anyhow::Result<Ending> {
    let files = match args.dumps.is_empty() {
        true => None,
        false => Some(open(&args.dumps, &args.reading, verbosity)?),
    };
    let options = options(args);
    if files.is_none() && options.selection != Selection::default() {
        let problem = "a selection is of a DUMP, and there is none: of made data all is measured";
        return Err(Error::Usage(problem.to_owned()).into());
    }
    signals::cancel_on_signal(Arc::clone(&options.cancel))?;
    let folder = args.output.clone().unwrap_or_else(std::env::temp_dir);
    let bench = Bench {
        scratch: Scratch::new(&folder)?,
        threads: options.threads.unwrap_or(NonZeroUsize::MIN),
        rounds: args.rounds.get(),
        machine: Machine::open(&args.device, &options)?,
        options,
        verbosity,
    };
    let memory = bench.memory();
    let mut sets = Vec::new();
    if let Some(files) = &files {
        let names: Vec<&str> = files.dumps().iter().map(|dump| dump.label.as_str()).collect();
        sets.push(bench.set(&names.join(", "), files, memory)?);
    } else {
        for made in Made::all(args.quick) {
            sets.push(bench.set(&made.name(), &made.source()?, memory)?);
        }
    }
    let results = bench.results(folder.display().to_string(), memory, sets);
    to_stdout(|out| {
        if args.json {
            serde_json::to_writer_pretty(&mut *out, &results)?;
            writeln!(out)
        } else {
            table::write(out, &results, matches!(args.device, Devices::Auto))
        }
    })?;
    Ok(Ending::Done)
}

fn options(args: &BenchArgs) -> Options {
    let cores = || thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let most = NonZeroUsize::new(Cpu::MOST_THREADS).unwrap_or(NonZeroUsize::MIN);
    Options {
        selection: args.selection.selection(),
        threads: Some(args.threads.unwrap_or_else(cores).min(most)),
        timings: true,
        leave_starting: true, // this process ends by _exit
        ..Options::default()
    }
}

/// One device, or several.
struct Fleet {
    name: String,
    devices: Devices,
}

/// What there is to be measured.
struct Machine {
    fleets: Vec<Fleet>,
    timed: Vec<Timed>,
    found: Option<Vec<devices::Line>>,
    not_used: Vec<String>,
    adapters_seconds: f64,
}

impl Machine {
    fn open(asked: &Devices, options: &Options) -> Result<Machine, Error> {
        let threads = options.threads.map_or(1, NonZeroUsize::get);
        let wanted = asked.others();
        let started = Instant::now();
        let opened = choose::open(&wanted, threads);
        let adapters_seconds = started.elapsed().as_secs_f64();
        if let (Devices::List(_), Some(problem)) = (asked, opened.problems().next()) {
            let help = "(`tensortiff devices` lists adapters)";
            return Err(Error::Device(format!("{problem} {help}")));
        }
        let names: Vec<String> =
            opened.backends.iter().map(|backend| backend.name().to_owned()).collect();
        Ok(Machine {
            fleets: fleets(asked, &opened),
            timed: Timed::open(&names, threads)?,
            // Who asks for the CPU alone may have a driver that is better left alone.
            found: (!wanted.is_empty()).then(devices::lines),
            not_used: opened.problems().map(str::to_owned).collect(),
            adapters_seconds,
        })
    }
}

/// Each device alone; all together, ready beforehand; and `auto` as it runs by default.
fn fleets(asked: &Devices, opened: &Opened) -> Vec<Fleet> {
    let mut alone: Vec<(String, Device)> = Vec::new();
    if asked.use_cpu() {
        alone.push(("cpu".to_owned(), Device::Cpu));
    }
    for backend in &opened.backends {
        alone.push((backend.name().to_owned(), Device::Ready(Arc::clone(backend))));
    }
    let all: Vec<Device> = alone.iter().map(|(_, device)| device.clone()).collect();
    let mut fleets: Vec<Fleet> = alone
        .into_iter()
        .map(|(name, device)| Fleet { name, devices: Devices::List(vec![device]) })
        .collect();
    if all.len() > 1 {
        fleets.push(Fleet { name: "together".to_owned(), devices: Devices::List(all) });
    }
    if matches!(asked, Devices::Auto) {
        fleets.push(Fleet { name: "auto".to_owned(), devices: Devices::Auto });
    }
    fleets
}

impl Fleet {
    /// Why it cannot do these images, if it cannot.
    fn refuses(&self, rows: &[Row]) -> Option<String> {
        if self.devices.use_cpu() {
            return None;
        }
        let Devices::List(list) = &self.devices else { return None };
        list.iter().find_map(|device| {
            let Device::Ready(backend) = device else { return None };
            let rule = Rule::default();
            let row = rows.iter().find(|row| !backend.takes(&span(row), &rule))?;
            Some(format!("{} samples are for the CPU alone", row.dtype))
        })
    }
}

struct Bench {
    scratch: Scratch,
    threads: NonZeroUsize,
    rounds: usize,
    machine: Machine,
    options: Options,
    verbosity: Verbosity,
}

impl Bench {
    fn told(&self, text: &str) {
        if self.verbosity > Verbosity::Quiet {
            say(&format!("tensortiff: {text}"));
        }
    }

    /// More threads than cores copy no faster.
    fn memory(&self) -> Memory {
        self.told("memory");
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let copy = |threads: usize| {
            let (bytes, time) = measure::memory_copy(threads);
            gigabytes_a_second(bytes, time)
        };
        let threads = self.threads.get().min(cores);
        let both = || (copy(1), copy(threads));
        let (one, all): (Vec<f64>, Vec<f64>) = (0..self.rounds).map(|_| both()).unzip();
        Memory {
            memory_copy_one: Rounds::of(one),
            memory_copy_all: Rounds::of(all),
            memory_copy_threads: threads,
        }
    }

    fn set(&self, name: &str, source: &dyn Source, memory: Memory) -> anyhow::Result<SetResults> {
        let (dumps, tensors) = (source.dumps(), source.tensors());
        let plan = Selected::new(dumps, tensors, source.unsupported(), &self.options.selection)?;
        if plan.images() == 0 {
            let nothing = "no image is selected, so nothing can be measured";
            return Err(Error::Usage(nothing.to_owned()).into());
        }
        let (mut fleets, mut not_measured) = (Vec::new(), Vec::new());
        for fleet in &self.machine.fleets {
            match fleet.refuses(plan.rows()) {
                None => fleets.push(fleet),
                Some(why) => not_measured.push(NotMeasured { name: fleet.name.clone(), why }),
            }
        }
        if let ([], [first, ..]) = (&fleets[..], &self.machine.fleets[..]) {
            // It has the words for it.
            measure::to_nothing(source, &self.options_for(first))?;
        }
        let times = self.rounds(name, source, plan.rows(), &fleets)?;
        let bytes = plan.rows().iter().map(Row::bytes).sum();
        let yardstick = Yardstick::new(bytes, memory, &times.copy);
        let devices: Vec<_> = fleets
            .iter()
            .zip(&times.runs)
            .map(|(fleet, [nothing, files])| yardstick.device(&fleet.name, nothing, files))
            .collect();
        let of = |name: &str| devices.iter().find(|device| device.name == name);
        let gpu_pays = of("cpu")
            .zip(of("together"))
            .map(|(cpu, all)| Pays::of(cpu.to_files.rounds, all.to_files.rounds));
        let mut kernels = Vec::new();
        for timed in &self.machine.timed {
            if !not_measured.iter().any(|left_out| left_out.name == timed.results().name) {
                kernels.extend(timed.kernels(source, &self.options)?);
            }
        }
        Ok(SetResults {
            name: name.to_owned(),
            images: plan.images(),
            bytes,
            read: yardstick.speed(&times.read),
            file_copy: yardstick.speed(&times.copy),
            devices,
            not_measured,
            gpu_pays,
            kernels,
        })
    }

    fn options_for(&self, fleet: &Fleet) -> Options {
        Options { devices: fleet.devices.clone(), ..self.options.clone() }
    }

    /// Everything once in every round, so that what else goes on in the machine meets all alike.
    fn rounds(
        &self,
        name: &str,
        source: &dyn Source,
        rows: &[Row],
        fleets: &[&Fleet],
    ) -> anyhow::Result<Times> {
        let cancel = &self.options.cancel;
        let mut times = Times::default();
        times.runs.resize_with(fleets.len(), Default::default);
        for round in 0..self.rounds {
            self.told(&format!("{name}: round {} of {}", round + 1, self.rounds));
            times.read.push(measure::read(source, rows, self.threads, cancel)?);
            let folder = self.scratch.folder(&format!("copy-{round}"));
            times.copy.push(measure::copy(source, rows, self.threads, &folder, cancel)?);
            for ((number, fleet), [nothing, files]) in
                fleets.iter().enumerate().zip(&mut times.runs)
            {
                let options = self.options_for(fleet);
                nothing.push(self.settled(measure::to_nothing(source, &options)?));
                let folder = self.scratch.folder(&format!("files-{round}-{number}"));
                files.push(self.settled(measure::to_files(source, &options, &folder)?));
            }
        }
        Ok(times)
    }

    /// Waits until adapters that the run left opening do not disturb the next one.
    fn settled(&self, run: Whole) -> Whole {
        if run.leaves_starting {
            let opening = Duration::from_secs_f64(2.0 * self.machine.adapters_seconds);
            thread::sleep(opening.min(LONGEST_SETTLING));
        }
        run
    }

    fn results(self, folder: String, memory: Memory, sets: Vec<SetResults>) -> Results {
        let machine = self.machine;
        let auto = machine.found.as_ref().map(|found| {
            let used = found.iter().filter(|adapter| adapter.auto);
            let names = used.map(|adapter| adapter.name.clone());
            std::iter::once("cpu".to_owned()).chain(names).collect()
        });
        Results {
            threads: self.threads.get(),
            rounds: self.rounds,
            folder,
            memory,
            adapters_seconds: machine.adapters_seconds,
            auto,
            adapters: machine.timed.iter().map(|timed| timed.results().clone()).collect(),
            found: machine.found,
            not_used: machine.not_used,
            sets,
        }
    }
}

/// Of every round.
#[derive(Default)]
struct Times {
    read: Vec<Duration>,
    copy: Vec<Duration>,
    /// Of each fleet, to nothing and to files.
    runs: Vec<[Vec<Whole>; 2]>,
}
