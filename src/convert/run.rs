//! A run under way: what backends see of source, plan and sink, and the account of it.

use std::collections::HashMap;
use std::iter;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::desk::RunDesk;
use super::doubt::Doubt;
use super::packing::{Cut, PackedFile, Packing};
use super::ranges::{Before, Known};
use super::recorder::{Begun, Recorder};
use super::spans::{PACKED_BLOCK, block, cpu_only, cut, spans};
use super::stacks::{Files, Open, Stacks};
use super::tally::Tally;
use super::tars::Member;
use super::workers::{Event, Others, Starting, Workers};
use super::{Options, header};
use crate::backend::choose::{Devices, Opened};
use crate::backend::cpu::survey::Lookers;
use crate::backend::queue::{Queue, WINDOW};
use crate::backend::{Backend, Desk, DeviceIndex, ImageId, Job, Span};
use crate::encode::{Header, Packed};
use crate::error::{Error, shown};
use crate::plan::{Page, Plan, Row, SkipReason, Skipped, TarFile};
use crate::report::{DeviceReport, Failure, Report, Stages};
use crate::sink::{Pending, Sink};
use crate::source::Source;

/// Up to so many tensors that are skipped for one reason get a note each.
const FEW: usize = 4;
/// What the CPU is called.
pub(super) const CPU: &str = "cpu";
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
    /// Which ranges are known before images are made, and what they are, once they are.
    pub(super) before: Option<Arc<Before>>,
    known: Arc<OnceLock<Known>>,
    /// Of images that are made again.
    again: OnceLock<Queue>,
    /// Whether any device was found to compute wrongly.
    doubts: AtomicBool,
    state: Mutex<State<'a>>,
    /// Empty where each image is a file.
    pub(super) stacks: Stacks<'a>,
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
    file: Target<'a>,
    /// Where its pixels begin.
    pixels: u64,
    strips: u64,
    packed: Option<PackedFile>,
    /// Whether a block came.
    begun: AtomicBool,
}

/// What blocks are written to.
enum Target<'a> {
    Own(Box<dyn Pending + 'a>),
    Page(Arc<Open<'a>>),
}

impl Target<'_> {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        match self {
            Target::Own(file) => file.write_at(offset, bytes),
            Target::Page(stack) => stack.write_at(offset, bytes),
        }
    }
}

/// An image all of whose blocks are there: its file, where it is no page of a stack, and its strips where
/// they are packed.
type Whole<'a> = (Option<Box<dyn Pending + 'a>>, Option<Packed>);

impl<'a> Run<'a> {
    pub(super) fn new(
        source: &'a dyn Source,
        sink: &'a dyn Sink,
        options: &'a Options,
        plan: &'a Plan,
        pullers: usize,
        begun: Begun<'a>,
    ) -> Run<'a> {
        let spans = spans(options, plan);
        let block = block(options, plan);
        let before = Before::new(options, plan).map(Arc::new);
        let known: Arc<OnceLock<Known>> = Arc::default();
        let Begun { recorder, done, there, finished, .. } = begun;
        let queue = Queue::new(options.rule, spans, block, pullers, |span| {
            cpu_only(&options.rule, span).is_none()
        });
        let queue = match options.is_streamed() {
            true => queue.in_order(WINDOW * (pullers.max(1) as u64) * PACKED_BLOCK),
            false => queue,
        };
        let queue = match done {
            Some(done) => queue.without(done),
            None => queue,
        };
        let queue = queue_knowing(queue, before.as_ref(), &known);
        let images = options.images(plan);
        let planned = images.end - images.start;
        let report = Report { planned, there, finished, ..Report::default() };
        let state = Mutex::new(State { report, ..State::default() });
        let (again, doubts) = Default::default();
        let stacks = Stacks::new(Files::Stacks(Vec::new()));
        Run {
            source,
            sink,
            options,
            plan,
            recorder,
            queue,
            before,
            known,
            again,
            doubts,
            state,
            stacks,
        }
    }

    /// The same; its images are pages or members of these files.
    pub(super) fn with_files(self, files: Files) -> Run<'a> {
        Run { stacks: Stacks::new(files), ..self }
    }

    /// What may surprise who opens the stacks.
    pub(super) fn note_stacks(&self) {
        self.stacks.note().into_iter().for_each(|text| self.note(text));
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
        self.plan.notes().iter().for_each(|text| self.note(text.clone()));
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
            // A giant is read twice, unless its range is known before.
            let passes = |span: usize| {
                let first = ImageId { span, index: 0 };
                let known = self.before.is_some() || self.queue.known(first).is_some();
                let known = known && !self.options.is_streamed();
                if self.is_giant(span) && !known { 2 } else { 1 }
            };
            let left = |(span, row): (usize, &Row)| {
                let bytes = row.samples() * row.dtype.size() as u64;
                bytes * passes(span) * self.queue.images_left(span)
            };
            let bytes: u64 = self.plan.rows().iter().enumerate().map(left).sum();
            let bytes = bytes.saturating_add(self.bytes_before());
            let left = {
                let report = &self.lock().report;
                report.planned - report.there
            };
            watch.planned(left, bytes);
        }
        if self.queue.is_finished() {
            return;
        }
        let others: &[Arc<dyn Backend + Send + Sync>] = match &workers.others {
            Others::Ready(opened) => &opened.backends,
            _ => &[],
        };
        let others = others.iter().map(|backend| -> &dyn Backend { &**backend });
        let lookers = Lookers::new(workers.cpu, workers.use_cpu, others);
        if let Err(error) = self.find_ranges(&lookers) {
            return self.stop(error);
        }
        let cpu = workers.use_cpu.then(|| self.enlist(workers.cpu.name()));
        thread::scope(|scope| {
            let done = match &workers.others {
                Others::Starting(starting) => Some(starting.cpu.clone()),
                _ => None,
            };
            if let Some(by) = cpu {
                start(scope, move || {
                    self.drain(workers.cpu, by);
                    if let Some(done) = &done {
                        drop(done.send(Event::Done));
                    }
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
                start(scope, move || self.drain(&*backend, by));
            }
        });
        if !self.queue.is_finished() {
            self.note("the CPU does what is left".to_owned());
            self.drain(workers.cpu, cpu.unwrap_or_else(|| self.enlist(workers.cpu.name())));
        }
        self.make_again(workers.cpu, || cpu.unwrap_or_else(|| self.enlist(workers.cpu.name())));
    }

    /// Adds where the time of a thread went that found ranges.
    pub(super) fn account_ranges(&self, stages: Stages) {
        self.lock().report.ranges += stages;
    }

    /// The adapters, if they come before the work is done.
    fn wait_for(&self, starting: Starting) -> Option<Opened> {
        let Starting { events, begun, cpu, wanted } = starting;
        // The CPU's threads are there, or begin just now. Who did not begin to wait waits for nothing.
        let _ = begun.send(());
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
            (Some(cause), Some(recorder)) => {
                recorder.give_up();
                Some(cause)
            }
            (stopped, _) => stopped,
        };
        report.elapsed = started.elapsed();
        match stopped {
            None => Ok(report),
            Some(cause) => Err(Error::Stopped {
                cause: Box::new(cause),
                failed_for_good: report.failed_for_good,
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
        header(self.source, self.plan, self.options, span)
    }

    /// The same of its images as pages of a stack, of the first one or of the others.
    pub(super) fn page_header(&self, span: usize, is_first: bool) -> Header {
        let stack = self.plan.page(span, 0).map_or(0, |page| page.stack);
        let axes = self.plan.rows()[span].index_axes();
        let subject = super::subject(self.source, self.plan, self.options, span, &axes);
        let stack = self.stacks.file(stack).expect("pages are of a stack");
        stack.header(&subject, is_first)
    }

    /// The stack or tar that an image is in, which is begun with its first one.
    pub(super) fn open(&self, image: ImageId, page: Page) -> Result<Arc<Open<'a>>, Error> {
        self.stacks.open(self.sink, page, || match self.stacks.file(page.stack) {
            Some(stack) => (self.plan.name(image.span, image.index), stack.len()),
            None => {
                let TarFile { name, len, .. } = self.plan.tar_file(page.stack as u64);
                (name, len)
            }
        })
    }

    /// Where an image's pixels lie in its stack or tar.
    pub(super) fn pixels_at(&self, image: ImageId, page: Page) -> u64 {
        match (self.stacks.file(page.stack), self.member(image)) {
            (Some(stack), _) => stack.pixels(page.page),
            (None, Some((member, at))) => at + member.head + member.header,
            (None, None) => 0,
        }
    }

    /// The member that an image is of a tar, and where it begins.
    pub(super) fn member(&self, image: ImageId) -> Option<(&Member, u64)> {
        let member = self.stacks.member(image.span)?;
        let (_, at) = self.plan.in_tar(image.span, image.index)?;
        Some((member, at))
    }

    /// Whether images of the span come in blocks.
    pub(super) fn is_giant(&self, span: usize) -> bool {
        self.queue.spans()[span].samples > self.queue.block()
    }

    /// Whether an image's header is written with the first of its blocks, and not after the last: those of a
    /// giant would have to wait for it. What one thread hands over in steps is small.
    pub(super) fn begins_with_header(&self, image: ImageId) -> bool {
        self.options.is_streamed() && self.is_giant(image.span)
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
        let header = self.header(image.span)?;
        let (mut pixels, (_, strips)) = (header.len() as u64, header.strips());
        let is_packed = self.options.encoding.is_packed();
        let packed = is_packed.then(|| PackedFile::new(pixels));
        let name = self.plan.name(image.span, image.index);
        let file = match self.plan.page(image.span, image.index) {
            None => Target::Own(self.sink.begin(&name, (!is_packed).then(|| header.most()))?),
            Some(page) => {
                pixels = self.pixels_at(image, page);
                Target::Page(self.open(image, page)?)
            }
        };
        let begun = AtomicBool::new(false);
        let new = Arc::new(InBlocks { file, pixels, strips, packed, begun });
        // Two threads may come here at once; the first one's file is used, the other's dropped.
        Ok(self.lock().in_blocks.entry(image).or_insert(Some(new)).clone())
    }

    /// Whether nobody has asked before: the block to come is the first of an image that has not failed.
    pub(super) fn is_first_block(&self, image: ImageId) -> Result<bool, Error> {
        let Some(file) = self.in_blocks(image)? else { return Ok(false) };
        Ok(!file.begun.swap(true, Ordering::Relaxed))
    }

    /// False if the image has failed, which makes the block worthless.
    pub(super) fn put_block(
        &self,
        image: ImageId,
        first: u64,
        pixels: &[u8],
        packing: Option<&mut Packing>,
    ) -> Result<bool, Error> {
        if self.is_spoiled(image) {
            return Ok(false);
        }
        let Some(file) = self.in_blocks(image)? else { return Ok(false) };
        match (&file.packed, packing) {
            (Some(packed), Some(packing)) => {
                // What the sink says is the error, and what packing says another.
                let failed = Mutex::new(None);
                let write = |at: u64, bytes: &[u8]| {
                    file.file.write_at(at, bytes).map_err(|error| {
                        *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                        std::io::ErrorKind::Other.into()
                    })
                };
                let cut = self.cut(image.span);
                let outcome = packing.pixels(image, cut, first * 4, pixels, packed, &write);
                outcome.map_err(|source| {
                    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
                    failed.unwrap_or_else(|| self.not_packed(image, source))
                })?;
            }
            _ => file.file.write_at(file.pixels + first * 4, pixels)?,
        }
        Ok(true)
    }

    /// How images of a span are cut, where they are packed.
    pub(super) fn cut(&self, span: usize) -> Cut {
        cut(self.options, &self.plan.rows()[span])
    }

    pub(super) fn not_packed(&self, image: ImageId, source: std::io::Error) -> Error {
        Error::Write { path: self.plan.name(image.span, image.index).into(), source }
    }

    /// The image whose blocks are all there, to be finished; `None` if it has failed.
    pub(super) fn take_pending(&self, image: ImageId) -> Result<Option<Whole<'a>>, Error> {
        let spoiled = self.is_spoiled(image);
        let blocks = self.lock().in_blocks.remove(&image).flatten();
        let Some(blocks) = blocks.filter(|_| !spoiled) else { return Ok(None) };
        // Each block's thread let go of it before it said that the block was done.
        match Arc::into_inner(blocks) {
            Some(InBlocks { file, packed, strips, .. }) => {
                let Target::Own(pending) = file else { return Ok(Some((None, None))) };
                let packed = packed.map(|packed| packed.finish(strips)).transpose();
                let packed = packed.map_err(|source| self.not_packed(image, source))?;
                Ok(Some((Some(pending), packed)))
            }
            None => Err(Error::Write {
                path: self.plan.name(image.span, image.index).into(),
                source: std::io::Error::other("a block is still being written"),
            }),
        }
    }

    /// Adds a desk's tally to the account.
    pub(super) fn account(&self, by: DeviceIndex, tally: &Tally) {
        tally.add_to(&mut self.lock().report, by);
        self.advanced(tally);
    }

    /// Tells whoever watches.
    pub(super) fn advanced(&self, tally: &Tally) {
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

    pub(super) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// From now on these ranges are known.
    pub(super) fn know(&self, known: Known) {
        // Nobody asked before.
        let _ = self.known.set(known);
    }

    /// The ranges that are known, once they are.
    pub(super) fn known(&self) -> Option<&Known> {
        self.known.get()
    }

    /// A queue for the same images that knows the same ranges.
    pub(super) fn knowing(&self, queue: Queue) -> Queue {
        queue_knowing(queue, self.before.as_ref(), &self.known)
    }

    /// Reads samples of which nothing is made yet.
    pub(super) fn read_before(
        &self,
        image: ImageId,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<(), Error> {
        if self.options.cancel.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        let row = &self.plan.rows()[image.span];
        self.source.read_at(row.tensor, row.byte_offset(image.index) + offset, buf)?;
        if let Some(watch) = &self.options.watch {
            watch.advanced(0, buf.len() as u64);
        }
        Ok(())
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
            self.stacks.clear();
            state.doubt.begin_again();
        }
        self.again.get_or_init(|| queue)
    }

    /// Whether images are made again.
    pub(super) fn is_again(&self) -> bool {
        self.again.get().is_some()
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
        self.options.verify_sample.is_any() && self.lock().report.devices[by].name != CPU
    }

    /// An image failed that comes whole.
    pub(super) fn fail(&self, image: ImageId, error: Error) {
        // A stack of which a page is missing is none.
        if error.stops_the_run() || self.options.fail_fast || !self.stacks.is_empty() {
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
            if self.has_compared() {
                self.fail_giant(image);
            }
            self.fail(image, error);
        }
    }
}

impl Job for Run<'_> {
    fn desk(&self, by: DeviceIndex) -> Box<dyn Desk + '_> {
        Box::new(RunDesk::new(self, by))
    }
}

/// Does something on a thread of its own; where the system gives none (a limit on processes, say), on
/// this one.
fn start<'scope>(scope: &'scope thread::Scope<'scope, '_>, work: impl Fn() + Send + Sync + 'scope) {
    let work = Arc::new(work);
    let its = Arc::clone(&work);
    if thread::Builder::new().spawn_scoped(scope, move || its()).is_err() {
        work();
    }
}

fn queue_knowing(
    queue: Queue,
    before: Option<&Arc<Before>>,
    known: &Arc<OnceLock<Known>>,
) -> Queue {
    let Some(before) = before.cloned() else { return queue };
    let known = Arc::clone(known);
    queue.knowing(move |image| before.range(known.get()?, image))
}
