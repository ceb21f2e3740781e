//! Runs in which the CPU and a GPU both have a part, however small the case: left to themselves,
//! whoever comes first does a small case alone.
//!
//! The CPU has one thread, which takes a unit and does not get its bytes before the GPU reads, too.
//! The GPU begins when the CPU has its unit.

use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use tensortiff::backend::queue::Queue;
use tensortiff::backend::{Backend, DeviceIndex, Job, Span};
use tensortiff::{Device, Devices, Dump, Error, Options, Report, Rule, Sink, Source, TensorInfo};

/// Nobody takes so long, unless something is wrong.
const LONG: Duration = Duration::from_secs(10);
/// Most samples that a CPU worker takes at once, unless one image has more.
const UNIT: u64 = 1 << 16;

/// Who has begun to read.
#[derive(Default)]
struct Meeting {
    there: Mutex<[bool; 2]>,
    changed: Condvar,
}

const CPU: usize = 0;
const GPU: usize = 1;

impl Meeting {
    fn comes(&self, who: usize) {
        self.there.lock().unwrap()[who] = true;
        self.changed.notify_all();
    }

    fn wait_for(&self, who: usize) {
        let there = self.there.lock().unwrap();
        let there = self.changed.wait_timeout_while(there, LONG, |there| !there[who]).unwrap();
        assert!(!there.1.timed_out(), "only one of the devices has a part in the run");
    }
}

/// A source that lets the CPU wait for the GPU, if it is `to_meet`.
struct Met<'a> {
    source: &'a dyn Source,
    meeting: Arc<Meeting>,
    to_meet: bool,
}

impl Source for Met<'_> {
    fn dumps(&self) -> &[Dump] {
        self.source.dumps()
    }

    fn tensors(&self) -> &[TensorInfo] {
        self.source.tensors()
    }

    fn read_at(&self, tensor: usize, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        // Its writers read what they compare with the CPU.
        if thread::current().name().is_some_and(|name| name.starts_with("gpu ")) {
            self.meeting.comes(GPU);
        } else {
            self.meeting.comes(CPU);
            if self.to_meet {
                self.meeting.wait_for(GPU);
            }
        }
        self.source.read_at(tensor, offset, buf)
    }
}

/// A GPU that begins after the CPU.
struct Second {
    gpu: Arc<dyn Backend + Send + Sync>,
    meeting: Arc<Meeting>,
}

impl Backend for Second {
    fn name(&self) -> &str {
        self.gpu.name()
    }

    fn takes(&self, span: &Span, rule: &Rule) -> bool {
        self.gpu.takes(span, rule)
    }

    fn pullers(&self) -> usize {
        self.gpu.pullers()
    }

    fn drain(&self, queue: &Queue, job: &dyn Job, by: DeviceIndex) -> Result<(), Error> {
        self.meeting.wait_for(CPU);
        self.gpu.drain(queue, job, by)
    }
}

/// `tensortiff::convert` on the CPU and the GPU of [`gpu`](super::gpu). Where no image comes in
/// blocks and there is work for both, both must have made images.
pub fn convert(source: &dyn Source, sink: &dyn Sink, options: &Options) -> Result<Report, Error> {
    let report = convert_with(super::gpu(), source, sink, options)?;
    if for_both(source, options) == Some(true) {
        let idle = report.devices.iter().find(|device| device.images == 0);
        assert_eq!((report.devices.len(), idle), (2, None));
    }
    Ok(report)
}

/// The same with another GPU, of which it is only asked that it reads.
pub fn convert_with(
    gpu: Arc<dyn Backend + Send + Sync>,
    source: &dyn Source,
    sink: &dyn Sink,
    options: &Options,
) -> Result<Report, Error> {
    let meeting = Arc::new(Meeting::default());
    let to_meet = for_both(source, options).is_some();
    let source = Met { source, meeting: meeting.clone(), to_meet };
    let second = Second { gpu, meeting: meeting.clone() };
    let devices = Devices::List(vec![Device::Cpu, Device::Ready(Arc::new(second))]);
    let threads = std::num::NonZeroUsize::new(1);
    let options = Options { devices, threads, ..options.clone() };
    let report = tensortiff::convert(&source, sink, &options)?;
    if to_meet {
        meeting.wait_for(GPU);
    }
    Ok(report)
}

/// Whether the CPU's first unit leaves work that the GPU takes, and if so, whether all of it is
/// whole images.
fn for_both(source: &dyn Source, options: &Options) -> Option<bool> {
    let excluded = |tensor: &&TensorInfo| !options.selection.exclude.contains(&tensor.name);
    let spans: Vec<(u64, u64)> = source
        .tensors()
        .iter()
        .filter(excluded)
        .filter(|tensor| !tensor.dtype.is_wide() && tensor.shape.len() >= 2)
        .map(|tensor| {
            let (axes, plane) = tensor.shape.split_at(tensor.shape.len() - 2);
            let channels = options.selection.channel.map_or(1, |_| axes[axes.len() - 1]);
            (axes.iter().product::<u64>() / channels, plane.iter().product())
        })
        .collect();
    let block = options.block_samples.unwrap_or(16 << 20);
    let has_giants = spans.iter().any(|(_, samples)| *samples > block);
    let is_one_unit = spans.len() == 1 && (spans[0].0 == 1 || spans[0].0 * spans[0].1 <= UNIT);
    (has_giants || (!spans.is_empty() && !is_one_unit)).then_some(!has_giants)
}
