//! A run under way: what backends see of source, plan and sink, and the account of it.

use std::collections::HashMap;
use std::iter;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::desk::{RunDesk, Tally};
use super::doubt::Doubt;
use super::recorder::{Begun, Recorder};
use super::workers::{Event, Others, Starting, Workers};
use super::{Options, header};
use crate::backend::choose::{Devices, Opened};
use crate::backend::queue::{BLOCK_BYTES, Queue};
use crate::backend::{Backend, Desk, DeviceIndex, ImageId, Job, Span};
use crate::encode::Header;
use crate::error::{Error, shown};
use crate::normalize::Norm;
use crate::plan::{Plan, Row, SkipReason, Skipped};
use crate::report::{DeviceReport, Failure, Report};
use crate::sink::{Pending, Sink};
use crate::source::Source;

/// Up to so many tensors that are skipped for one reason get a note each.
const FEW: usize = 4;
/// How long a run that is done waits for adapters that are still starting, where it must.
const LONGEST_START: Duration = Duration::from_secs(2);

/// A run under way: what backends see of source, plan and sink.
pub(super) struct Run<'a> {
    pub(super) source: &'a dyn Source,
    pub(super) sink: &'a dyn Sink,
    pub(super) options: &'a Options,
    pub(super) plan: &'a Plan,
    pub(super) recorder: Option<Recorder<'a>>,
    queue: Queue,
    /// Of images that are made again.
    again: OnceLock<Queue>,
    /// Whether any device was found to compute wrongly.
    doubts: AtomicBool,
    state: Mutex<State<'a>>,
}

#[derive(Default)]
pub(super) struct State<'a> {
    pub(super) report: Report,
    pub(super) doubt: Doubt,
    /// Images under way that come in blocks; `None` once one has failed.
    in_blocks: HashMap<ImageId, Option<Arc<InBlocks<'a>>>>,
    /// Why the run must end.
    stopped: Option<Error>,
}

/// An image's file while its blocks come.
struct InBlocks<'a> {
    pending: Box<dyn Pending + 'a>,
    header_len: u64,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        source: &'a dyn Source,
        sink: &'a dyn Sink,
        options: &'a Options,
        plan: &'a Plan,
        pullers: usize,
        begun: Begun<'a>,
    ) -> Run<'a> {
        let spans = plan.rows().iter().map(span);
        let block = block(options);
        let Begun { recorder, done, there, finished } = begun;
        let queue =
            Queue::new(options.norm, spans.collect(), block, pullers, |span| !cpu_only(span));
        let queue = match done {
            Some(done) => queue.without(done),
            None => queue,
        };
        let images = options.images(plan);
        let planned = images.end - images.start;
        let report = Report { planned, there, finished, ..Report::default() };
        let state = Mutex::new(State { report, ..State::default() });
        let (again, doubts) = Default::default();
        Run { source, sink, options, plan, recorder, queue, again, doubts, state }
    }

    /// A note for each tensor without images; one for all of a kind where there are many, as the
    /// biases of a checkpoint are.
    pub(super) fn note_skipped(&self) {
        let label = |skipped: &Skipped| {
            let tensor = &self.source.tensors()[skipped.tensor];
            let dump = &self.source.dumps()[tensor.dump].label;
            format!("{}: tensor {}", shown(dump), shown(&tensor.name))
        };
        let mut kinds: Vec<(SkipReason, Vec<&Skipped>)> = Vec::new();
        for skipped in self.plan.skipped() {
            match kinds.iter_mut().find(|(reason, _)| *reason == skipped.reason) {
                Some((_, all)) => all.push(skipped),
                None => kinds.push((skipped.reason, vec![skipped])),
            }
        }
        for (reason, all) in kinds {
            let each = all.iter().map(|skipped| format!("{} skipped: {reason}", label(skipped)));
            if all.len() <= FEW {
                each.for_each(|text| self.note(text));
            } else {
                self.note(format!(
                    "{} tensors skipped: {reason}; the first is {}",
                    all.len(),
                    label(all[0])
                ));
                each.for_each(|text| self.detail(&text));
            }
        }
        let mut gives = vec![false; self.source.dumps().len()];
        for row in self.plan.rows() {
            gives[self.source.tensors()[row.tensor].dump] = true;
        }
        for (dump, _) in self.source.dumps().iter().zip(gives).filter(|(_, gives)| !gives) {
            self.note(format!("{}: no images", shown(&dump.label)));
        }
    }

    fn detail(&self, text: &str) {
        if let Some(watch) = &self.options.watch {
            watch.detail(text);
        }
    }

    pub(super) fn work(&self, workers: Workers<'_>) {
        if let Some(watch) = &self.options.watch {
            // A giant is read twice.
            let passes = |row: &Row| if row.samples() > self.queue.block() { 2 } else { 1 };
            let image = |row: &Row| row.samples() * row.dtype.size() as u64 * passes(row);
            let left = |(span, row): (usize, &Row)| image(row) * self.queue.images_left(span);
            let bytes = self.plan.rows().iter().enumerate().map(left).sum();
            let left = {
                let report = &self.lock().report;
                report.planned - report.there
            };
            watch.planned(left, bytes);
        }
        if self.queue.is_finished() {
            return;
        }
        let cpu = workers.use_cpu.then(|| self.enlist(workers.cpu.name()));
        thread::scope(|scope| {
            let done = match &workers.others {
                Others::Starting(starting) => Some(starting.cpu.clone()),
                _ => None,
            };
            if let Some(by) = cpu {
                scope.spawn(move || {
                    self.drain(workers.cpu, by);
                    done.map(|done| done.send(Event::Done))
                });
            }
            let opened = match workers.others {
                Others::None => return,
                Others::Ready(opened) => opened,
                Others::Starting(starting) => match self.wait_for(starting) {
                    Some(opened) => opened,
                    None => return,
                },
            };
            let who = match (cpu, opened.backends.is_empty()) {
                (Some(_), true) => "the CPU does the work",
                _ => "others do its work",
            };
            for problem in opened.problems() {
                self.note(format!("{problem}; {who}"));
            }
            for backend in opened.backends {
                let by = self.enlist(backend.name());
                scope.spawn(move || self.drain(&*backend, by));
            }
        });
        if !self.queue.is_finished() {
            self.note("the CPU does what is left".to_owned());
            self.drain(workers.cpu, cpu.unwrap_or_else(|| self.enlist(workers.cpu.name())));
        }
        self.make_again(workers.cpu, || cpu.unwrap_or_else(|| self.enlist(workers.cpu.name())));
    }

    /// The adapters, if they come before the work is done.
    fn wait_for(&self, starting: Starting) -> Option<Opened> {
        let Starting { events, cpu, wanted } = starting;
        // Then only those are left who have something to say.
        drop(cpu);
        if let Ok(Event::Opened(opened)) = events.recv() {
            return Some(opened);
        }
        if let Devices::List(_) = self.options.devices {
            let wanted = self.options.devices.others();
            let wanted: Vec<_> =
                wanted.iter().map(|device| shown(&format!("{device:?}"))).collect();
            self.note(format!(
                "the CPU had done the work before {} was looked for or ready",
                wanted.join(", ")
            ));
        }
        self.lock().report.gpu_not_needed = true;
        drop(wanted);
        if !self.options.leave_starting {
            // Its thread ends with the message, or without one.
            drop(events.recv_timeout(LONGEST_START));
        }
        None
    }

    /// A place in the report. Two cards of one name are told apart by number.
    fn enlist(&self, name: &str) -> DeviceIndex {
        let devices = &mut self.lock().report.devices;
        let is_free = |name: &String| devices.iter().all(|device| device.name != *name);
        let numbered = (2..).map(|number| format!("{name} ({number})"));
        let name = iter::once(name.to_owned()).chain(numbered).find(is_free);
        let name = name.expect("there are more numbers than devices");
        devices.push(DeviceReport { name, ..DeviceReport::default() });
        devices.len() - 1
    }

    fn drain(&self, backend: &dyn Backend, by: DeviceIndex) {
        let Err(error) = backend.drain(&self.queue, self, by) else { return };
        const OTHERS: &str = "its images are done by others";
        let error = self.given_up(by, &error);
        // One new device is tried: drivers that lost one often give another.
        let again = if self.queue.is_finished() { None } else { backend.again() };
        let problem = match again {
            None => return self.note(format!("{error}; {OTHERS}")),
            Some(Err(problem)) => problem.to_string(),
            Some(Ok(new)) => {
                self.note(format!("{error}; its images are done by a new device of that name"));
                match new.drain(&self.queue, self, by) {
                    Ok(()) => return,
                    Err(problem) => self.given_up(by, &problem),
                }
            }
        };
        self.note(format!("{problem}, again; {OTHERS}"));
    }

    /// What a device that failed did is taken back, if that was because it computes wrongly. Answers
    /// with what is to be said.
    fn given_up(&self, by: DeviceIndex, error: &Error) -> String {
        match self.take_back(by) {
            Ok(0) => error.to_string(),
            Ok(1) => format!("{error}; the image that it had made is made again"),
            Ok(images) => format!("{error}; the {images} images that it had made are made again"),
            Err(stop) => {
                self.stop(stop);
                error.to_string()
            }
        }
    }

    pub(super) fn report(self, started: Instant) -> Result<Report, Error> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut report = state.report;
        let stopped = match state.stopped {
            // Before the manifest says of which dump all of it is.
            None if report.images > 0 => self.source.check_unchanged().err(),
            stopped => stopped,
        };
        let stopped = match (stopped, self.recorder) {
            (None, Some(recorder)) => recorder.finish(self.sink, report.failed).err(),
            (None, None) if !report.finished => self.sink.finish().err(),
            (stopped, _) => stopped,
        };
        report.elapsed = started.elapsed();
        match stopped {
            None => Ok(report),
            Some(cause) => Err(Error::Stopped {
                cause: Box::new(cause),
                done: report.there + report.images,
                images: report.planned,
            }),
        }
    }

    pub(super) fn note(&self, text: String) {
        if let Some(watch) = &self.options.watch {
            watch.note(&text);
        }
        self.lock().report.notes.push(text);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State<'a>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The header of a span's images, with their own numbers left open.
    pub(super) fn header(&self, span: usize) -> Result<Header, Error> {
        header(self.source, self.plan, self.options.norm, span)
    }

    /// Whether images of the span come in blocks.
    pub(super) fn is_giant(&self, span: usize) -> bool {
        self.queue.spans()[span].samples > self.queue.block()
    }

    /// Whether blocks of the image came or may yet come.
    pub(super) fn comes_in_blocks(&self, image: ImageId) -> bool {
        self.is_giant(image.span) || self.lock().in_blocks.contains_key(&image)
    }

    /// The image under way; `None` if it has failed.
    fn in_blocks(&self, image: ImageId) -> Result<Option<Arc<InBlocks<'a>>>, Error> {
        if let Some(known) = self.lock().in_blocks.get(&image) {
            return Ok(known.clone());
        }
        let header_len = self.header(image.span)?.len() as u64;
        let len = header_len + self.plan.rows()[image.span].samples() * 4;
        let name = self.plan.name(image.span, image.index);
        let new = Arc::new(InBlocks { pending: self.sink.begin(&name, len)?, header_len });
        // Two threads may come here at once; the first one's file is used, the other's dropped.
        Ok(self.lock().in_blocks.entry(image).or_insert(Some(new)).clone())
    }

    /// False if the image has failed, which makes the block worthless.
    pub(super) fn put_block(
        &self,
        image: ImageId,
        first: u64,
        pixels: &[u8],
    ) -> Result<bool, Error> {
        if self.is_spoiled(image) {
            return Ok(false);
        }
        let Some(file) = self.in_blocks(image)? else { return Ok(false) };
        file.pending.write_at(file.header_len + first * 4, pixels)?;
        Ok(true)
    }

    /// The image whose blocks are all there, to be finished; `None` if it has failed.
    pub(super) fn take_pending(
        &self,
        image: ImageId,
    ) -> Result<Option<Box<dyn Pending + 'a>>, Error> {
        let spoiled = self.is_spoiled(image);
        let blocks = self.lock().in_blocks.remove(&image).flatten();
        let Some(blocks) = blocks.filter(|_| !spoiled) else { return Ok(None) };
        // Each block's thread let go of it before it said that the block was done.
        match Arc::into_inner(blocks) {
            Some(blocks) => Ok(Some(blocks.pending)),
            None => Err(Error::Write {
                path: self.plan.name(image.span, image.index).into(),
                source: std::io::Error::other("a block is still being written"),
            }),
        }
    }

    /// Adds a desk's tally to the account.
    pub(super) fn account(&self, by: DeviceIndex, tally: &Tally) {
        {
            let report = &mut self.lock().report;
            report.images += tally.images;
            report.bytes_in += tally.bytes_in;
            report.bytes_out += tally.bytes_out;
            report.samples += tally.samples;
            let device = &mut report.devices[by];
            device.images += tally.images;
            device.bytes_in += tally.worked;
            device.checked += tally.checked;
            device.stages += tally.stages;
        }
        if let Some(watch) = &self.options.watch
            && (tally.images, tally.progress) != (0, 0)
        {
            watch.advanced(tally.images, tally.progress);
        }
    }

    pub(super) fn stop(&self, error: Error) {
        self.lock().stopped.get_or_insert(error);
        self.queue.stop();
        if let Some(again) = self.again.get() {
            again.stop();
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.queue.is_stopped()
    }

    /// Most samples in a block.
    pub(super) fn block(&self) -> u64 {
        self.queue.block()
    }

    pub(super) fn spans(&self) -> Vec<Span> {
        self.queue.spans().to_vec()
    }

    /// The queue of the images that are made again.
    pub(super) fn begin_again(&self, queue: Queue) -> &Queue {
        {
            let mut state = self.lock();
            state.in_blocks.clear();
            state.doubt.begin_again();
        }
        self.again.get_or_init(|| queue)
    }

    /// Whether any device was found to compute wrongly.
    pub(super) fn has_doubts(&self) -> bool {
        self.doubts.load(Ordering::Acquire)
    }

    pub(super) fn begin_to_doubt(&self) {
        self.doubts.store(true, Ordering::Release);
    }

    /// Whether what device `by` makes is compared.
    pub(super) fn is_compared(&self, by: DeviceIndex) -> bool {
        self.options.verify_sample.is_any() && self.lock().report.devices[by].name != "cpu"
    }

    /// An image failed that comes whole.
    pub(super) fn fail(&self, image: ImageId, error: Error) {
        if error.stops_the_run() || self.options.fail_fast {
            return self.stop(error);
        }
        if let Some(recorder) = &self.recorder {
            let image = recorder.number(image.span, image.index);
            if let Err(error) = recorder.failed(image, &error) {
                return self.stop(error);
            }
        }
        let name = self.plan.name(image.span, image.index);
        let report = &mut self.lock().report;
        report.failed += 1;
        report.failed_for_good += u64::from(!error.is_transient());
        if report.failures.len() < Report::MOST_FAILURES {
            report.failures.push(Failure { name, error });
        }
    }

    /// An image failed that comes in blocks: once for each of them that is under way, perhaps.
    pub(super) fn fail_blocks(&self, image: ImageId, error: Error) {
        if !matches!(self.lock().in_blocks.insert(image, None), Some(None)) {
            self.fail(image, error);
        }
    }
}

impl Job for Run<'_> {
    fn norm(&self) -> Norm {
        self.options.norm
    }

    fn desk(&self, by: DeviceIndex) -> Box<dyn Desk + '_> {
        Box::new(RunDesk::new(self, by))
    }
}

/// Most samples in a buffer.
pub(super) fn block(options: &Options) -> u64 {
    options.block_samples.unwrap_or(u64::MAX).min(BLOCK_BYTES / 4)
}

/// A row as the queue has it.
pub(super) fn span(row: &Row) -> Span {
    Span {
        dtype: row.dtype,
        samples: row.samples(),
        images: row.images,
        contiguous: row.contiguous(),
    }
}

/// Whether only the CPU computes this type: WGSL has no f64.
fn cpu_only(span: &Span) -> bool {
    span.dtype.is_wide()
}
