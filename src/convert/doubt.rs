//! What devices made that is compared with the CPU, and what becomes of the images of one that is
//! found to compute wrongly: nothing of it is believed, the journal forgets it, and when all else is
//! done the CPU makes it again.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;

use super::run::{CPU, Run, State};
use super::tally::Tally;
use crate::backend::cpu::Cpu;
use crate::backend::done::Done;
use crate::backend::queue::Queue;
use crate::backend::{Backend as _, DeviceIndex, ImageId};
use crate::error::Error;
use crate::record::entry::SIZE;
use crate::report::DeviceReport;

/// Of how many images (or blocks of one) that a GPU makes one is made by the CPU as well and
/// compared, before it gets its name; the first of each thread always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifySample(u64);

impl VerifySample {
    /// No image is.
    pub const NONE: VerifySample = VerifySample(0);
    /// Every image is.
    pub const ALL: VerifySample = VerifySample(1);

    /// One of `count` is; none if that is 0.
    #[must_use]
    pub const fn one_of(count: u64) -> VerifySample {
        VerifySample(count)
    }

    /// Whether any is.
    #[must_use]
    pub fn is_any(self) -> bool {
        self.0 > 0
    }

    /// Whether that one is: the same ones in every run.
    pub(super) fn takes(self, image: u64, first: u64) -> bool {
        self.is_any() && mix(image ^ mix(first)).is_multiple_of(self.0)
    }
}

impl Default for VerifySample {
    /// One of 256: that costs a core less than a hundredth of what the same images cost without a
    /// GPU, and a device that is wrong now and then is found within some batches.
    fn default() -> VerifySample {
        VerifySample(256)
    }
}

/// splitmix64's finalizer, so that no pattern of sizes or channels is met.
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// What a run must know to take back what a device did.
#[derive(Default)]
pub(super) struct Doubt {
    /// What each device that is compared has done so far.
    parts: HashMap<DeviceIndex, Part>,
    /// Devices that are not believed.
    distrusted: HashSet<DeviceIndex>,
    /// Images that come in blocks and in which such a device had a part: no block of them is of use.
    spoiled: HashSet<ImageId>,
    /// Images that came in blocks and are counted: of whom, and how. Several devices may have had a
    /// part in them.
    giants: HashMap<ImageId, (DeviceIndex, Tally)>,
    /// Numbers of those that failed: they are not made again.
    failed: BTreeSet<u64>,
    /// Numbers of the images to be made again.
    again: Vec<Range<u64>>,
}

/// One device's.
#[derive(Default)]
struct Part {
    images: Vec<Range<u64>>,
    tally: Tally,
}

impl Run<'_> {
    /// Whether device `by` is not believed.
    pub(super) fn is_distrusted(&self, by: DeviceIndex) -> bool {
        self.has_doubts() && self.lock().doubt.distrusted.contains(&by)
    }

    /// Believes device `by` no more.
    pub(super) fn distrust(&self, by: DeviceIndex) {
        self.lock().doubt.distrusted.insert(by);
        self.begin_to_doubt();
        if self.options.is_streamed() {
            let problem = "a device computed wrongly, and what it made may be sent; --device cpu does without it";
            let (path, source) = ("standard output".into(), std::io::Error::other(problem));
            self.stop(Error::Write { path, source });
        }
    }

    /// Adds to what device `by`, which is compared, has done.
    pub(super) fn add_part(&self, by: DeviceIndex, images: &[Range<u64>], tally: &Tally) {
        let part = &mut self.lock().doubt;
        let part = part.parts.entry(by).or_default();
        part.images.extend_from_slice(images);
        part.tally += tally;
    }

    /// No block of the image is of use any more.
    pub(super) fn spoil(&self, image: ImageId) {
        self.lock().doubt.spoiled.insert(image);
    }

    /// Whether that was said of it.
    pub(super) fn is_spoiled(&self, image: ImageId) -> bool {
        self.has_doubts() && self.lock().doubt.spoiled.contains(&image)
    }

    /// Whether any device is compared, so that images may have to be made again.
    pub(super) fn has_compared(&self) -> bool {
        let is_compared = |device: &DeviceReport| device.name != CPU;
        self.options.verify_sample.is_any() && self.lock().report.devices.iter().any(is_compared)
    }

    /// Adds an image that came in blocks to the account, of whoever finished it. False if it is to be
    /// made again, and counts then.
    pub(super) fn account_giant(&self, by: DeviceIndex, image: ImageId, tally: &Tally) -> bool {
        let counts = {
            let State { report, doubt, .. } = &mut *self.lock();
            let counts = !doubt.spoiled.contains(&image);
            if counts {
                tally.add_to(report, by);
                doubt.giants.insert(image, (by, tally.clone()));
            }
            counts
        };
        self.advanced(tally);
        counts
    }

    /// Notes that the image, which came in blocks, has failed.
    pub(super) fn fail_giant(&self, image: ImageId) {
        self.lock().doubt.failed.insert(self.number(image));
    }

    /// Takes back what device `by` did, all of whose threads have ended, if it is not believed.
    /// Answers with the number of its images.
    pub(super) fn take_back(&self, by: DeviceIndex) -> Result<u64, Error> {
        let images = {
            let State { report, doubt, .. } = &mut *self.lock();
            if !doubt.distrusted.remove(&by) {
                return Ok(0);
            }
            let Part { images, tally } = doubt.parts.remove(&by).unwrap_or_default();
            let images = without(merged(images), &doubt.failed);
            tally.take_from(report, by);
            for image in images.iter().cloned().flatten().map(|image| self.id(image)) {
                if self.is_giant(image.span) {
                    doubt.spoiled.insert(image);
                    if let Some((who, tally)) = doubt.giants.remove(&image) {
                        tally.take_from(report, who);
                    }
                }
            }
            doubt.again.extend(images.iter().cloned());
            images
        };
        images.iter().cloned().flatten().try_for_each(|image| self.forget(image))?;
        Ok(images.iter().map(|range| range.end - range.start).sum())
    }

    /// Has the journal say no more of an image than if nobody had tried it: who merges shards must not
    /// take it for one that failed, as there is a file of its name.
    pub(super) fn forget(&self, image: u64) -> Result<(), Error> {
        self.recorder.as_ref().map_or(Ok(()), |recorder| recorder.write(image, &[0; SIZE]))
    }

    /// Makes again what was taken back.
    pub(super) fn make_again(&self, cpu: &Cpu, by: impl FnOnce() -> DeviceIndex) {
        let again = {
            let State { doubt, report, .. } = &mut *self.lock();
            let again = without(merged(std::mem::take(&mut doubt.again)), &doubt.failed);
            // Of tars that were finished meanwhile the journal does not say so.
            let all = !again.is_empty() || (self.plan.tar().is_some() && self.has_doubts());
            if self.stacks.is_empty() || !all {
                again
            } else {
                // Others had a part in the same files, which have their names, or not yet.
                report.take_back_all();
                self.queue().not_done(self.plan.images())
            }
        };
        if again.is_empty() || self.is_stopped() {
            return;
        }
        if let Err(error) = self.options.check_marks(self.plan.images()) {
            return self.stop(error);
        }
        let mut done = Done::all_but(self.plan.images(), &(0..0));
        again.iter().cloned().flatten().for_each(|image| done.remove(image));
        let bytes = |image: u64| {
            let row = &self.plan.rows()[self.id(image).span];
            row.samples() * row.dtype.size() as u64
        };
        let bytes = again.iter().cloned().flatten().map(bytes).sum();
        let images = again.iter().map(|range| range.end - range.start).sum();
        if let Some(watch) = &self.options.watch {
            watch.planned(images, bytes);
        }
        self.sink.replace();
        let spans = self.spans();
        let queue = Queue::new(self.options.rule, spans, self.block(), cpu.pullers(), |_| true);
        let queue = self.begin_again(self.knowing(queue.without(done)));
        // The CPU does not fail as a device does.
        if let Err(error) = cpu.drain(queue, self, by()) {
            self.stop(error);
        }
    }

    /// Does it if no device is known to be wrong, and none becomes so meanwhile; or if what such a one made is
    /// made again.
    pub(super) fn unless_in_doubt(
        &self,
        work: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let _state = self.lock();
        if self.has_doubts() && !self.is_again() { Ok(()) } else { work() }
    }

    /// The number of an image among all.
    pub(super) fn number(&self, image: ImageId) -> u64 {
        self.plan.rows()[image.span].first_image + image.index
    }

    fn id(&self, image: u64) -> ImageId {
        let rows = self.plan.rows();
        let span = rows.partition_point(|row| row.first_image <= image) - 1;
        ImageId { span, index: image - rows[span].first_image }
    }
}

impl Doubt {
    /// Forgets what only concerned the first time.
    pub(super) fn begin_again(&mut self) {
        self.spoiled.clear();
    }
}

/// The same numbers in order, without those that are there twice.
fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// The same numbers but for some.
fn without(ranges: Vec<Range<u64>>, out: &BTreeSet<u64>) -> Vec<Range<u64>> {
    let mut left = Vec::new();
    for Range { start, end } in ranges {
        let mut first = start;
        for &number in out.range(start..end) {
            left.push(first..number);
            first = number + 1;
        }
        left.push(first..end);
    }
    left.retain(|range| !range.is_empty());
    left
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex, PoisonError};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::backend::choose::{Device, Devices};
    use crate::backend::queue::{Appetite, Pass, Unit};
    use crate::backend::{Desk, Finding, Job};
    use crate::convert::{Options, convert};
    use crate::normalize::Extent;
    use crate::plan::{Stack, Tar};
    use crate::sink::{MemorySink, Pending, Sink};
    use crate::source::{MemorySource, Source};
    use crate::tensor::{Dtype, Dump, TensorInfo};

    fn wait_until(mut come: impl FnMut() -> bool) {
        let since = Instant::now();
        while !come() && since.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Makes one block of a giant's pixels, or an image, and is found to be wrong before others have
    /// made the rest, or after that.
    struct Wrong {
        late: bool,
        /// That it had its turn.
        told: Arc<AtomicBool>,
    }

    impl crate::backend::Backend for Wrong {
        fn name(&self) -> &'static str {
            "wrong"
        }

        fn takes(&self, _: &crate::backend::Span, _: &crate::normalize::Rule) -> bool {
            true
        }

        fn pullers(&self) -> usize {
            1
        }

        fn drain(&self, queue: &Queue, job: &dyn Job, by: DeviceIndex) -> Result<(), Error> {
            let appetite =
                Appetite { samples: 1 << 20, least_samples: 1, images: 1, everything: false };
            let mut desk = job.desk(by);
            let distrust_if = |now, desk: &mut dyn Desk| {
                if now {
                    desk.distrust()
                }
            };
            let mut turn = || {
                let Some(lease) = queue.try_take(&appetite) else { return false };
                match lease.unit().clone() {
                    Unit::Block { image, pass: Pass::Normalize(_), samples } => {
                        distrust_if(!self.late, &mut *desk);
                        let len = usize::try_from(4 * (samples.end - samples.start)).unwrap();
                        desk.put_block(image, samples.start, &vec![0; len]);
                        let last = lease.done_block(Extent::EMPTY);
                        assert_eq!(last, None, "others have blocks yet");
                    }
                    Unit::Block { .. } => return false,
                    Unit::Images { span, images } => {
                        let finding = Finding::of(queue.rule(), Extent::EMPTY, false);
                        let image = ImageId { span, index: images.start };
                        let len = usize::try_from(4 * queue.spans()[span].samples).unwrap();
                        desk.put(image, &finding, &vec![0; len]);
                        distrust_if(!self.late, &mut *desk);
                        lease.done();
                    }
                }
                true
            };
            wait_until(&mut turn);
            self.told.store(true, Ordering::Release);
            wait_until(|| queue.is_finished());
            // Whoever made the last block hands the image over now.
            std::thread::sleep(Duration::from_millis(100));
            distrust_if(self.late, &mut *desk);
            Err(Error::Gpu { device: "wrong".to_owned(), problem: "is wrong".to_owned() })
        }
    }

    /// Who reads anything for the second time, or anything, waits until the device that is wrong had
    /// its turn.
    struct Gated {
        inner: MemorySource<'static>,
        read: Mutex<HashSet<u64>>,
        giants: bool,
        told: Arc<AtomicBool>,
    }

    impl Source for Gated {
        fn dumps(&self) -> &[Dump] {
            self.inner.dumps()
        }

        fn tensors(&self) -> &[TensorInfo] {
            self.inner.tensors()
        }

        fn read_at(&self, tensor: usize, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
            let is_new = self.read.lock().unwrap_or_else(PoisonError::into_inner).insert(offset);
            if !(is_new && self.giants) {
                wait_until(|| self.told.load(Ordering::Acquire));
            }
            self.inner.read_at(tensor, offset, buf)
        }
    }

    /// The first thing that is put into it fails.
    #[derive(Default)]
    struct Failing {
        inner: MemorySink,
        fails: AtomicBool,
    }

    impl Failing {
        fn fail(&self) -> Result<(), Error> {
            match self.fails.swap(false, Ordering::Relaxed) {
                true => Err(Error::Exists { first: "taken".into(), count: 1 }),
                false => Ok(()),
            }
        }
    }

    impl Sink for Failing {
        fn prepare(&self, names: &mut dyn Iterator<Item = String>) -> Result<(), Error> {
            self.inner.prepare(names)
        }

        fn replace(&self) {
            self.inner.replace();
        }

        fn put(&self, name: &str, header: &[u8], pixels: &[u8]) -> Result<(), Error> {
            self.fail().and_then(|()| self.inner.put(name, header, pixels))
        }

        fn begin(&self, name: &str, len: Option<u64>) -> Result<Box<dyn Pending + '_>, Error> {
            self.fail().and_then(|()| self.inner.begin(name, len))
        }
    }

    /// Of five images, giants or not, beside the CPU; the first thing that is written fails, or not.
    /// Each is made right, and counted once.
    fn beside_a_wrong_one(giants: bool, late: bool, fails: bool, stack: Stack, tar: Option<Tar>) {
        let what =
            format!("giants: {giants}, late: {late}, fails: {fails}, stack: {stack}, tar: {tar:?}");
        let samples: Vec<u8> = (0..200_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let shape = if giants { vec![1, 500, 400] } else { vec![5, 200, 200] };
        let images = shape[0];
        let source = || MemorySource::new("m").with("a", Dtype::U8, &shape, samples.clone());
        let options = |list| Options {
            devices: Devices::List(list),
            threads: std::num::NonZeroUsize::new(1),
            block_samples: Some(50_000),
            stack,
            tar: tar.clone(),
            ..Options::default()
        };
        let right = MemorySink::default();
        let expected = convert(&source().unwrap(), &right, &options(vec![Device::Cpu])).unwrap();
        let told = Arc::default();
        let wrong = Wrong { late, told: Arc::clone(&told) };
        let inner = source().unwrap();
        let source = Gated { inner, read: Mutex::default(), giants, told };
        let sink = Failing { fails: fails.into(), ..Failing::default() };
        let devices = vec![Device::Cpu, Device::Ready(Arc::new(wrong))];
        let report = convert(&source, &sink, &options(devices)).unwrap();
        let failed = u64::from(fails);
        assert_eq!((report.images, report.failed), (images - failed, failed), "{what}");
        let by: u64 = report.devices.iter().map(|device| device.images).sum();
        assert_eq!(by, report.images, "{what}");
        let again = report.notes[0].contains("it had made is made again");
        assert_eq!(again, !fails, "{what}: {:?}", report.notes);
        let (files, right) = (sink.inner.into_files(), right.into_files());
        let due = if stack == Stack::None && tar.is_none() { images - failed } else { 1 };
        assert_eq!(files.len() as u64, due, "{what}");
        assert!(files.iter().all(|(name, file)| right[name] == *file), "{what}");
        if !fails {
            assert_eq!(report.samples, expected.samples, "{what}");
            assert_eq!(report.bytes_out, expected.bytes_out, "{what}");
        }
    }

    /// If it is found early the last block of a giant comes when others do not know yet that one is
    /// missing; if late others have finished and counted the giant.
    #[test]
    fn what_a_wrong_device_had_a_part_in_is_made_again_and_counted_once() {
        for (giants, late) in [(true, false), (true, true), (false, false), (false, true)] {
            for stack in [Stack::None, Stack::Tensor, Stack::All] {
                beside_a_wrong_one(giants, late, false, stack, None);
            }
            let tar = Tar::new("t.tar", None).ok();
            beside_a_wrong_one(giants, late, false, Stack::None, tar);
        }
    }

    /// Nothing is written that says of a tar that it is there, once a device is known to be wrong.
    #[test]
    fn a_tar_is_not_said_to_be_there_where_a_device_is_wrong() {
        let source = MemorySource::new("m").with("a", Dtype::U8, &[2, 2, 2], vec![0; 8]).unwrap();
        let options = Options::default();
        let plan = crate::convert::planned(&source, &options).unwrap();
        let sink = MemorySink::default();
        let begun = crate::convert::recorder::Begun::empty();
        let run = Run::new(&source, &sink, &options, &plan, 1, begun);
        let done = std::cell::Cell::new(0);
        let work = || {
            done.set(done.get() + 1);
            Ok(())
        };
        run.unless_in_doubt(work).unwrap();
        run.begin_to_doubt();
        run.unless_in_doubt(work).unwrap();
        assert_eq!(done.get(), 1);
        let spans = run.spans();
        run.begin_again(Queue::new(options.rule, spans, 8, 1, |_| true));
        run.unless_in_doubt(work).unwrap();
        assert_eq!(done.get(), 2);
    }

    /// What others finish, or fail to, while it is taken back: nothing of it counts, and what failed
    /// has failed.
    #[test]
    fn what_comes_while_a_device_is_taken_back_is_not_counted_twice() {
        let source = MemorySource::new("m").with("a", Dtype::U8, &[2, 2, 2], vec![0; 8]).unwrap();
        let options = Options { block_samples: Some(2), ..Options::default() };
        let plan = crate::convert::planned(&source, &options).unwrap();
        let sink = MemorySink::default();
        let begun = crate::convert::recorder::Begun::empty();
        let run = Run::new(&source, &sink, &options, &plan, 1, begun);
        let device = DeviceReport { name: "gpu".to_owned(), ..DeviceReport::default() };
        run.lock().report.devices.push(device);
        let [one, other] = [0, 1].map(|index| ImageId { span: 0, index });
        let tally = Tally { images: 1, ..Tally::default() };
        assert!(run.account_giant(0, one, &tally));
        run.spoil(other);
        assert!(!run.account_giant(0, other, &tally));
        assert_eq!(run.lock().report.images, 1);
        run.lock().doubt.again.push(1..2);
        run.fail_giant(other);
        let cpu = Cpu::new(std::num::NonZeroUsize::new(1));
        run.make_again(&cpu, || panic!("there is nothing to be made"));
        assert!(sink.files().is_empty());
    }

    /// Nor counted as both.
    #[test]
    fn an_image_that_failed_is_not_made_again() {
        for (giants, late) in [(true, true), (false, false), (false, true)] {
            beside_a_wrong_one(giants, late, true, Stack::None, None);
        }
    }

    #[test]
    fn numbers_are_left_out_of_ranges() {
        let left = |ranges: &[Range<u64>], out: &[u64]| {
            without(ranges.to_vec(), &out.iter().copied().collect())
        };
        assert_eq!(left(&[0..3, 5..9], &[]), [0..3, 5..9]);
        assert_eq!(left(&[0..3, 5..9], &[0, 4, 6, 8, 9]), [1..3, 5..6, 7..8]);
        assert_eq!(left(&[2..3, 5..6], &[2]), std::slice::from_ref(&(5..6)));
    }

    #[test]
    fn ranges_that_meet_are_one() {
        assert_eq!(merged(vec![5..7, 0..1, 6..9, 1..3, 4..5]), [0..3, 4..9]);
        assert_eq!(merged(vec![2..9, 3..4, 20..21]), [2..9, 20..21]);
        assert!(merged(Vec::new()).is_empty());
    }

    #[test]
    fn about_as_many_are_compared_as_asked_for() {
        for one_of in [1, 2, 16, 256] {
            let sample = VerifySample::one_of(one_of);
            let taken = (0..100_000).filter(|&image| sample.takes(image, 0)).count() as u64;
            let wanted = 100_000 / one_of;
            assert!(taken.abs_diff(wanted) * 5 <= wanted.max(500), "{taken} of {wanted}");
            // Neither all nor none of one channel of 16, or one block of 4.
            let channel = (0..6250).filter(|&image| sample.takes(16 * image + 3, 0)).count();
            assert!(channel as u64 >= 6250 / one_of / 3, "{channel}");
            let blocks = (0..6250).filter(|&image| sample.takes(image, 1 << 24)).count();
            assert!(blocks as u64 >= 6250 / one_of / 3, "{blocks}");
        }
        assert!((0..1000).all(|image| !VerifySample::NONE.takes(image, 0)));
    }
}
