//! A run under way: what backends see of source, plan and sink, and the account of it.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::workers::{Others, Workers};
use super::{Options, header};
use crate::backend::choose::{Devices, Opened};
use crate::backend::queue::Queue;
use crate::backend::{Backend, DeviceIndex, Finding, ImageId, Job, Span};
use crate::encode::Header;
use crate::error::{Error, shown};
use crate::normalize::{Norm, Range};
use crate::plan::{Plan, Row, SkipReason, Skipped};
use crate::report::{DeviceReport, Failure, Report};
use crate::sink::{Pending, Sink};
use crate::source::Source;

/// Largest buffer of pixels: images above it are done block by block.
const BLOCK_BYTES: u64 = 64 << 20;
/// Up to so many tensors that are skipped for one reason get a note each.
const FEW: usize = 4;
/// How long a run that is done waits for adapters that are still starting, where it must.
const LONGEST_START: Duration = Duration::from_secs(2);
/// How often a run looks whether a starting adapter is ready, and whether it is still wanted.
const STARTING: Duration = Duration::from_millis(2);

/// A run under way: what backends see of source, plan and sink.
pub(super) struct Run<'a> {
    source: &'a dyn Source,
    sink: &'a dyn Sink,
    options: &'a Options,
    plan: &'a Plan,
    queue: Queue,
    state: Mutex<State<'a>>,
    /// The header that was used last: workers do one tensor's images at a time.
    header: Mutex<Option<(usize, Arc<Header>)>>,
}

#[derive(Default)]
struct State<'a> {
    report: Report,
    /// Images that come in blocks; `None` once one has failed.
    giants: HashMap<ImageId, Option<Arc<Giant<'a>>>>,
    /// Why the run must end.
    stopped: Option<Error>,
}

struct Giant<'a> {
    pending: Box<dyn Pending + 'a>,
    header: Arc<Header>,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        source: &'a dyn Source,
        sink: &'a dyn Sink,
        options: &'a Options,
        plan: &'a Plan,
        pullers: usize,
    ) -> Run<'a> {
        let spans = plan.rows().iter().map(|row| Span {
            dtype: row.dtype,
            samples: row.samples(),
            images: row.images,
            contiguous: row.contiguous(),
        });
        let block = options.block_samples.unwrap_or(u64::MAX).min(BLOCK_BYTES / 4);
        let queue =
            Queue::new(options.norm, spans.collect(), block, pullers, |span| !cpu_only(span));
        let report = Report { planned: plan.images(), ..Report::default() };
        Run {
            source,
            sink,
            options,
            plan,
            queue,
            state: Mutex::new(State { report, ..State::default() }),
            header: Mutex::new(None),
        }
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
            let bytes = self.plan.rows().iter().map(|row| row.bytes() * passes(row)).sum();
            watch.planned(self.plan.images(), bytes);
        }
        thread::scope(|scope| {
            if workers.use_cpu {
                scope.spawn(|| self.drain(workers.cpu));
            }
            let opened = match workers.others {
                Others::None => return,
                Others::Ready(opened) => Some(opened),
                Others::Starting(receiver) => self.wait_for(&receiver),
            };
            let Some(opened) = opened else { return };
            for problem in opened.problems {
                self.note(format!("{problem}; the CPU does the work"));
            }
            for backend in opened.backends {
                scope.spawn(move || self.drain(&*backend));
            }
        });
        if !self.queue.is_finished() {
            self.note("the CPU does what is left".to_owned());
            self.drain(workers.cpu);
        }
    }

    /// The adapters, if they come before the work is done.
    fn wait_for(&self, receiver: &Receiver<Opened>) -> Option<Opened> {
        loop {
            match receiver.recv_timeout(STARTING) {
                Ok(opened) => return Some(opened),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) if self.queue.is_finished() => {
                    let text = "the work was done before a GPU adapter was ready";
                    match self.options.devices {
                        Devices::List(_) => self.note(text.to_owned()),
                        Devices::Auto => self.detail(text),
                    }
                    if !self.options.leave_starting {
                        // Its thread ends with the message.
                        drop(receiver.recv_timeout(LONGEST_START));
                    }
                    return None;
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn drain(&self, backend: &dyn Backend) {
        let by = {
            let devices = &mut self.lock().report.devices;
            let name = backend.name().to_owned();
            devices.iter().position(|device| device.name == name).unwrap_or_else(|| {
                devices.push(DeviceReport { name, images: 0, bytes_in: 0 });
                devices.len() - 1
            })
        };
        if let Err(error) = backend.drain(&self.queue, self, by) {
            self.note(format!("{error}; its images are done by others"));
        }
    }

    pub(super) fn report(self, started: Instant) -> Result<Report, Error> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut report = state.report;
        report.elapsed = started.elapsed();
        match state.stopped {
            None => Ok(report),
            Some(cause) => Err(Error::Stopped {
                cause: Box::new(cause),
                done: report.images,
                images: report.planned,
            }),
        }
    }

    fn note(&self, text: String) {
        if let Some(watch) = &self.options.watch {
            watch.note(&text);
        }
        self.lock().report.notes.push(text);
    }

    fn lock(&self) -> MutexGuard<'_, State<'a>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn header(&self, span: usize) -> Result<Arc<Header>, Error> {
        let mut last = self.header.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, header)) = &*last
            && *of == span
        {
            return Ok(Arc::clone(header));
        }
        let new = Arc::new(header(self.source, self.plan, self.options.norm, span)?);
        *last = Some((span, Arc::clone(&new)));
        Ok(new)
    }

    fn header_bytes(&self, header: &Header, image: ImageId, finding: &Finding) -> Vec<u8> {
        let mut bytes = Vec::new();
        let index = self.plan.rows()[image.span].indices(image.index);
        header.write(&index, &finding.extent, &finding.range, &mut bytes);
        bytes
    }

    fn put_whole(&self, image: ImageId, finding: &Finding, pixels: &[u8]) -> Result<u64, Error> {
        let header = self.header(image.span)?;
        let bytes = self.header_bytes(&header, image, finding);
        self.sink.put(&self.plan.name(image.span, image.index), &bytes, pixels)?;
        Ok(bytes.len() as u64 + pixels.len() as u64)
    }

    /// The giant under way; `None` if it has failed.
    fn giant(&self, image: ImageId) -> Result<Option<Arc<Giant<'a>>>, Error> {
        if let Some(known) = self.lock().giants.get(&image) {
            return Ok(known.clone());
        }
        let header = self.header(image.span)?;
        let len = header.len() as u64 + self.plan.rows()[image.span].samples() * 4;
        let name = self.plan.name(image.span, image.index);
        let new = Arc::new(Giant { pending: self.sink.begin(&name, len)?, header });
        // Two threads may come here at once; the first one's file is used, the other's dropped.
        Ok(self.lock().giants.entry(image).or_insert(Some(new)).clone())
    }

    fn commit(&self, image: ImageId, finding: &Finding) -> Result<Option<u64>, Error> {
        let Some(giant) = self.lock().giants.remove(&image).flatten() else { return Ok(None) };
        let bytes = self.header_bytes(&giant.header, image, finding);
        giant.pending.write_at(0, &bytes)?;
        // Each block's thread let go of the giant before it said that the block was done.
        let Some(giant) = Arc::into_inner(giant) else {
            return Err(Error::Write {
                path: self.plan.name(image.span, image.index).into(),
                source: std::io::Error::other("a block is still being written"),
            });
        };
        giant.pending.commit()?;
        Ok(Some(bytes.len() as u64 + self.plan.rows()[image.span].samples() * 4))
    }

    /// Accounts for a finished image.
    fn finished(&self, by: DeviceIndex, finding: &Finding, bytes_in: u64, bytes_out: u64) {
        {
            let report = &mut self.lock().report;
            report.images += 1;
            report.bytes_out += bytes_out;
            report.devices[by].images += 1;
            let extent = &finding.extent;
            let samples = &mut report.samples;
            samples.nan += extent.nan;
            samples.pos_inf += extent.pos_inf;
            samples.neg_inf += extent.neg_inf;
            if matches!(finding.range, Range::Keep(_)) {
                samples.overflow += extent.overflow;
            }
            samples.nonfinite_images += u64::from(extent.nonfinite() > 0);
            samples.constant_images += u64::from(extent.has_finite() && extent.min == extent.max);
            samples.no_finite_images += u64::from(!extent.has_finite());
        }
        self.count_bytes(by, bytes_in);
        self.advanced(1, bytes_in);
    }

    fn count_bytes(&self, by: DeviceIndex, bytes_in: u64) {
        let report = &mut self.lock().report;
        report.bytes_in += bytes_in;
        report.devices[by].bytes_in += bytes_in;
    }

    fn advanced(&self, images: u64, bytes: u64) {
        if let Some(watch) = &self.options.watch {
            watch.advanced(images, bytes);
        }
    }

    fn stop(&self, error: Error) {
        self.lock().stopped.get_or_insert(error);
        self.queue.stop();
    }
}

impl Job for Run<'_> {
    fn norm(&self) -> Norm {
        self.options.norm
    }

    fn read(&self, image: ImageId, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        if self.options.cancel.load(Ordering::Relaxed) {
            self.stop(Error::Interrupted);
            return Err(Error::Interrupted);
        }
        let row = &self.plan.rows()[image.span];
        self.source.read_at(row.tensor, row.byte_offset(image.index) + offset, buf)?;
        // The long work of a giant is told as it is read, in both passes.
        if row.samples() > self.queue.block() {
            self.advanced(0, buf.len() as u64);
        }
        Ok(())
    }

    fn put(&self, by: DeviceIndex, image: ImageId, finding: &Finding, pixels: &[u8]) {
        let bytes_in = pixels.len() as u64 / 4 * self.plan.rows()[image.span].dtype.size() as u64;
        match self.put_whole(image, finding, pixels) {
            Ok(bytes_out) => self.finished(by, finding, bytes_in, bytes_out),
            Err(error) => self.fail(image, error),
        }
    }

    fn put_block(&self, by: DeviceIndex, image: ImageId, first: u64, pixels: &[u8]) {
        let result = self.giant(image).and_then(|giant| match giant {
            None => Ok(()),
            Some(giant) => giant.pending.write_at(giant.header.len() as u64 + first * 4, pixels),
        });
        match result {
            Err(error) => self.fail(image, error),
            Ok(()) => {
                let size = self.plan.rows()[image.span].dtype.size() as u64;
                self.count_bytes(by, pixels.len() as u64 / 4 * size);
            }
        }
    }

    fn finish_blocks(&self, by: DeviceIndex, image: ImageId, finding: &Finding) {
        match self.commit(image, finding) {
            Ok(None) => {}
            Ok(Some(bytes_out)) => self.finished(by, finding, 0, bytes_out),
            Err(error) => self.fail(image, error),
        }
    }

    fn fail(&self, image: ImageId, error: Error) {
        if error.stops_the_run() {
            return self.stop(error);
        }
        let name = self.plan.name(image.span, image.index);
        let mut state = self.lock();
        // A giant can fail once for each of its blocks that are under way.
        let first_time = !matches!(state.giants.get(&image), Some(None));
        if self.queue.spans()[image.span].samples > self.queue.block() {
            state.giants.insert(image, None);
        }
        if first_time {
            state.report.failed += 1;
            if state.report.failures.len() < Report::MOST_FAILURES {
                state.report.failures.push(Failure { name, error });
            }
        }
    }
}

/// Whether only the CPU computes this type: WGSL has no f64.
fn cpu_only(span: &Span) -> bool {
    span.dtype.is_wide()
}
