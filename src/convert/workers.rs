//! Which devices work, and from when on.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::Options;
use crate::backend::choose::{self, Device, Devices, Opened};
use crate::backend::cpu::Cpu;
use crate::backend::{Backend as _, Span};
use crate::error::Error;
use crate::plan::Plan;
use crate::source::Source;

/// The devices of a run: the CPU or not, and others that are ready or on their way.
pub(super) struct Workers<'a> {
    pub(super) cpu: &'a Cpu,
    pub(super) use_cpu: bool,
    pub(super) others: Others,
}

pub(super) enum Others {
    None,
    Ready(Opened),
    /// Opened on a thread of its own, which nobody waits for.
    Starting(Starting),
}

/// Adapters on their way.
pub(super) struct Starting {
    pub(super) events: Receiver<Event>,
    /// Where it is said that the CPU's threads are there.
    pub(super) begun: Sender<()>,
    /// For the CPU to say that it is done.
    pub(super) cpu: Sender<Event>,
    /// Dropped, it calls them off if they were not tried yet.
    pub(super) wanted: Sender<()>,
}

/// What is waited for while adapters start.
pub(super) enum Event {
    /// They are ready.
    Opened(Opened),
    /// The CPU found no more work.
    Done,
}

/// With `auto` the CPU has so much time for itself. Loading a driver takes tens of milliseconds of a
/// core and more until it has gained anything, which a run that is over by then should not pay:
/// with 100 ms, runs of 150 ms took 10 % longer.
pub(crate) const HEAD_START: Duration = Duration::from_millis(500);

/// While the system's loader is at a driver, threads cannot begin (glibc registers what is done at their end
/// under the loader's lock). Those of the CPU had so much time to begin before.
const SETTLED: Duration = Duration::from_millis(5);

/// How many runs of this process are loading drivers.
static LOADING: AtomicUsize = AtomicUsize::new(0);

/// Of so many threads, this one among them, how many can begin now.
pub(super) fn that_can_begin(threads: usize) -> usize {
    if LOADING.load(Ordering::SeqCst) > 0 { 1 } else { threads }
}

impl<'a> Workers<'a> {
    /// With the CPU at work nobody waits for an adapter, and one that cannot be used is a note.
    /// Without it the adapters are opened first: each word must mean one, and one of them must do.
    pub(super) fn start(
        cpu: &'a Cpu,
        source: &dyn Source,
        plan: &Plan,
        options: &Options,
    ) -> Result<Workers<'a>, Error> {
        let mut wanted = options.devices.others();
        let use_cpu = options.devices.use_cpu();
        let threads = cpu.pullers();
        let ready = |device: &Device| matches!(device, Device::Ready(_));
        let quick = cfg!(not(feature = "gpu")) || wanted.iter().all(ready);
        let too_large = too_large(source, plan, options).or_else(|| nothing_to_do(plan, options));
        if let Some(problem) = &too_large {
            if !use_cpu {
                return Err(Error::Usage(problem.clone()));
            }
            wanted.clear();
        }
        let others = if let (Some(problem), Devices::List(_)) = (too_large, &options.devices) {
            Others::Ready(Opened { unusable: vec![problem], ..Opened::default() })
        } else if wanted.is_empty() && use_cpu {
            Others::None
        } else if !use_cpu {
            Others::Ready(alone(source, plan, options, threads)?)
        } else if quick {
            Others::Ready(choose::open(&wanted, threads))
        } else {
            let (sender, events) = mpsc::channel();
            let cpu = sender.clone();
            let started = Instant::now();
            let (begun, is_begun) = mpsc::channel();
            let (still_wanted, called_off) = mpsc::channel();
            let wait = match options.devices {
                Devices::Auto => HEAD_START,
                Devices::List(_) => Duration::ZERO,
            };
            let open = move || {
                if is_begun.recv().is_err() {
                    return; // the run ended before
                }
                let wait = wait.saturating_sub(started.elapsed()).max(SETTLED);
                if called_off.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                    LOADING.fetch_add(1, Ordering::SeqCst);
                    let opened = choose::open(&wanted, threads);
                    LOADING.fetch_sub(1, Ordering::SeqCst);
                    drop(sender.send(Event::Opened(opened)));
                }
            };
            match thread::Builder::new().name("adapters".to_owned()).spawn(open) {
                Ok(_) => Others::Starting(Starting { events, begun, cpu, wanted: still_wanted }),
                Err(_) => Others::None,
            }
        };
        Ok(Workers { cpu, use_cpu, others })
    }

    pub(super) fn pullers(&self) -> usize {
        let others = match &self.others {
            Others::None => 0,
            Others::Ready(opened) => opened.backends.iter().map(|b| b.pullers()).sum(),
            Others::Starting(_) => 1,
        };
        others + if self.use_cpu { self.cpu.pullers() } else { 0 }
    }
}

/// The adapters that would work and why others would not, as far as that can be told before: those that
/// the CPU does not wait for may come too late.
///
/// # Errors
/// Where the run would be refused.
pub(super) fn adapters(
    source: &dyn Source,
    plan: &Plan,
    options: &Options,
    threads: usize,
) -> Result<Opened, Error> {
    let problem = too_large(source, plan, options).or_else(|| nothing_to_do(plan, options));
    match (problem, options.devices.use_cpu()) {
        (Some(problem), false) => Err(Error::Usage(problem)),
        (Some(problem), true) => Ok(Opened { unusable: vec![problem], ..Opened::default() }),
        (None, false) => alone(source, plan, options, threads),
        (None, true) => Ok(in_time(options.devices.others(), threads)),
    }
}

/// The adapters, where nobody depends on them: drivers that do not answer are told.
fn in_time(wanted: Vec<Device>, threads: usize) -> Opened {
    /// Many times as long as any driver took that was seen.
    const LONGEST: Duration = Duration::from_secs(10);
    if wanted.is_empty() {
        return Opened::default();
    }
    let (sender, opened) = mpsc::channel();
    let open = move || drop(sender.send(choose::open(&wanted, threads)));
    let problem = match thread::Builder::new().name("adapters".to_owned()).spawn(open) {
        Err(error) => format!("no thread to look for adapters: {error}"),
        Ok(_) => match opened.recv_timeout(LONGEST) {
            Ok(opened) => return opened,
            Err(_) => format!("no adapter was ready within {} s", LONGEST.as_secs()),
        },
    };
    Opened { unusable: vec![problem], ..Opened::default() }
}

/// The adapters, where the CPU is not to work: each word must mean one, and one of them must do.
fn alone(
    source: &dyn Source,
    plan: &Plan,
    options: &Options,
    threads: usize,
) -> Result<Opened, Error> {
    refuse_cpu_only(source, plan, options)?;
    let opened = choose::open(&options.devices.others(), threads);
    if opened.unknown.is_empty() && !opened.backends.is_empty() {
        return Ok(opened);
    }
    let mut problems = opened.problems().collect::<Vec<_>>().join("; ");
    if problems.is_empty() {
        problems.push_str("no device was named");
    }
    Err(Error::Device(format!(
        "{problems} (a GPU needs its driver for Vulkan, Metal or DirectX 12; `tensortiff devices` lists \
         adapters; --device auto does what it can on the CPU)"
    )))
}

/// Why GPUs beside the CPU would have nothing to do.
fn nothing_to_do(plan: &Plan, options: &Options) -> Option<String> {
    if options.devices.others().is_empty() || !options.devices.use_cpu() {
        return None;
    }
    let spans = super::spans::spans(options, plan);
    let mut reasons = spans.iter().map(|span| super::spans::cpu_only(&options.rule, span));
    let first = reasons.next()??;
    reasons.all(|reason| reason.is_some()).then_some(first)
}

/// Why no GPU can be used with the memory that the run may take.
#[cfg(feature = "gpu")]
fn too_large(source: &dyn Source, plan: &Plan, options: &Options) -> Option<String> {
    let most = options.memory_of_a_gpu(source)?;
    if options.devices.others().is_empty() {
        return None;
    }
    let spans = super::spans::spans(options, plan);
    let needed = crate::backend::gpu::memory(&spans, super::spans::block(options, plan));
    let writers = Cpu::new(options.threads).threads() as u64;
    let needed = needed.saturating_add(writers * super::spans::packing(options, plan));
    (needed > most).then(|| {
        let least = options.max_memory.unwrap_or(0) - most + needed;
        format!("a GPU and its driver take more memory than --max-memory allows ({least} bytes)")
    })
}

/// There is none.
#[cfg(not(feature = "gpu"))]
fn too_large(_: &dyn Source, _: &Plan, _: &Options) -> Option<String> {
    None
}

/// Fails for the first tensor that no GPU takes.
fn refuse_cpu_only(source: &dyn Source, plan: &Plan, options: &Options) -> Result<(), Error> {
    let spans = super::spans::spans(options, plan);
    let reason = |span: &Span| super::spans::cpu_only(&options.rule, span);
    match plan.rows().iter().zip(&spans).find_map(|(row, span)| Some((row, reason(span)?))) {
        None => Ok(()),
        Some((row, reason)) => {
            let tensor = &source.tensors()[row.tensor];
            Err(Error::CpuOnly {
                dump: source.dumps()[tensor.dump].label.clone(),
                tensor: tensor.name.clone(),
                reason,
            })
        }
    }
}
