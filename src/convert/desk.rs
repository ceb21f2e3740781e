//! What one thread of a device sees of the run, and its share of the account.

use std::mem;
use std::num::NonZeroU64;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::clock::{Clock, Stage};
use super::known::{hash_part, hash_stored};
use super::packing::Packing;
use super::recorder::Recorder;
use super::run::Run;
use super::tally::Tally;
use super::tars;
use crate::backend::{Desk, DeviceIndex, Finding, ImageId};
use crate::encode::{Header, Packed, Packer, Shown};
use crate::error::Error;
use crate::normalize::{Kept, Nonfinite, Range};
use crate::plan::Page;
use crate::record;
use crate::record::entry::{Entry, Found, SIZE};
use crate::report::SampleReport;

/// A tally goes to the run's account when it has this many images or bytes, so that progress is
/// told in time and threads seldom meet.
const IMAGES: u64 = 64;
const BYTES: u64 = 8 << 20;
/// Or when it is as old as this: where files take long, too.
const AT_MOST: Duration = Duration::from_millis(100);

/// See [`Desk`].
pub(super) struct RunDesk<'r, 'a> {
    run: &'r Run<'a>,
    by: DeviceIndex,
    /// The header that was used last: a thread does one tensor's images at a time.
    header: Option<(usize, Header)>,
    /// The same of pages of a stack.
    page_header: Option<(usize, Header)>,
    indices: Vec<u64>,
    name: String,
    bytes: Vec<u8>,
    /// A member of a tar.
    member_bytes: Vec<u8>,
    /// The hash of the image that was put last, where images are members.
    first_hash: Option<u64>,
    /// There from the first image on, where images are packed.
    packing: Option<Packing>,
    tally: Tally,
    told: Instant,
    /// Entries for the journal, as bytes, of neighbouring images from this number on.
    entries: (u64, Vec<u8>),
    clock: Option<Clock>,
    /// Where the device is compared with the CPU: whether that was done before, and the images in
    /// which it had a part since the run was told.
    compared: Option<(bool, Vec<std::ops::Range<u64>>)>,
}

/// What a tar's end counts with its first member.
fn tar_end(page: Page) -> u64 {
    if page.page == 0 { tars::END } else { 0 }
}

impl<'r, 'a> RunDesk<'r, 'a> {
    pub(super) fn new(run: &'r Run<'a>, by: DeviceIndex) -> RunDesk<'r, 'a> {
        RunDesk {
            run,
            by,
            header: None,
            page_header: None,
            indices: Vec::new(),
            name: String::new(),
            bytes: Vec::new(),
            member_bytes: Vec::new(),
            first_hash: None,
            packing: None,
            tally: Tally::default(),
            told: Instant::now(),
            entries: (0, Vec::new()),
            clock: Clock::start(run.options.timings),
            compared: run.is_compared(by).then(|| (false, Vec::new())),
        }
    }

    fn turn(&mut self, stage: Stage) {
        let Some(clock) = &mut self.clock else { return };
        // Files are packed while they are written.
        let packing = self.packing.as_mut().map_or(Duration::ZERO, Packing::take_spent);
        clock.turn(stage, packing, &mut self.tally.stages);
    }

    /// The bytes before an image's pixels, in `self.bytes`.
    fn make_header(&mut self, image: ImageId, finding: &Finding) -> Result<(), Error> {
        if self.header.as_ref().is_none_or(|(span, _)| *span != image.span) {
            self.header = Some((image.span, self.run.header(image.span)?));
        }
        let row = &self.run.plan.rows()[image.span];
        self.indices.clear();
        self.indices.extend(row.places(image.index).map(|(at, _)| at));
        if let Some((_, header)) = &self.header {
            header.write(&self.indices, &finding.extent, &finding.range, &mut self.bytes);
        }
        Ok(())
    }

    /// Fails if the image has samples that it must not have.
    fn check_finite(&self, image: ImageId, finding: &Finding) -> Result<(), Error> {
        let extent = &finding.extent;
        if self.run.options.rule.nonfinite != Nonfinite::Fail || extent.nonfinite() == 0 {
            return Ok(());
        }
        let mut name = self.run.plan.name(image.span, image.index);
        if let Some(page) = self.run.plan.page(image.span, image.index)
            && self.run.plan.tar().is_none()
        {
            name += &format!(", page {}", page.page);
        }
        Err(Error::Nonfinite { name, nan: extent.nan, inf: extent.pos_inf + extent.neg_inf })
    }

    fn put_whole(
        &mut self,
        image: ImageId,
        finding: &Finding,
        pixels: &[u8],
    ) -> Result<u64, Error> {
        self.check_finite(image, finding)?;
        self.make_header(image, finding)?;
        self.run.plan.write_name(image.span, image.index, &mut self.name);
        // While they are hot in cache.
        let hash = self.hashes().then(|| record::hash(pixels));
        if let Some(page) = self.run.plan.page(image.span, image.index) {
            let file = self.run.open(image, page)?;
            if let Some((member, at)) = self.run.member(image) {
                let place = (at, self.name.as_str());
                let bytes =
                    member.put(&file, place, &self.bytes, pixels, &mut self.member_bytes)?;
                if page.page > 0 {
                    self.record(image, finding, hash, 0);
                }
                self.first_hash = hash;
                return Ok(bytes + tar_end(page));
            }
            file.write_at(self.run.pixels_at(image, page), pixels)?;
            self.record(image, finding, hash, 0);
            return Ok(self.put_page(page, image, finding)? + pixels.len() as u64);
        }
        self.pack_first(image)?;
        let pixels = match &mut self.packing {
            None => pixels,
            Some(packing) => {
                let packed = packing.image(self.run.cut(image.span), pixels);
                let (pixels, packed) =
                    packed.map_err(|source| self.run.not_packed(image, source))?;
                if let Some((_, header)) = &self.header {
                    header.write_packed(packed, &mut self.bytes);
                }
                pixels
            }
        };
        self.run.sink.put(&self.name, &self.bytes, pixels)?;
        let len = self.bytes.len() as u64 + pixels.len() as u64;
        self.record(image, finding, hash, len);
        Ok(len)
    }

    /// Writes what a stack has of a page beside its pixels, but for the first page, and says how many
    /// bytes that takes.
    fn put_page(&mut self, page: Page, image: ImageId, finding: &Finding) -> Result<u64, Error> {
        let run = self.run;
        let Some(file) = run.stacks.file(page.stack) else { return Ok(0) };
        self.indices.clear();
        self.indices.extend(run.plan.rows()[image.span].places(image.index).map(|(at, _)| at));
        if page.page == 0 {
            // Its header says what is known of all, and zeros behind all directories count here.
            let gap = file.gap();
            return Ok(file.first_header().end + gap.end - gap.start);
        }
        if self.page_header.as_ref().is_none_or(|(span, _)| *span != image.span) {
            self.page_header = Some((image.span, run.page_header(image.span, false)));
        }
        let Some((_, header)) = &self.page_header else { return Ok(0) };
        let found = (&finding.extent, &finding.range);
        let (at, bytes) = file.write(header, page.page, &self.indices, found, &mut self.bytes);
        run.open(image, page)?.write_at(at, bytes)?;
        Ok(bytes.len() as u64)
    }

    /// Notes that a page or member is there; with the last one its stack gets its first header, or its tar its
    /// end, and its name.
    fn finish_page(
        &mut self,
        page: Page,
        image: ImageId,
        finding: &Finding,
        (one, in_blocks): (&Tally, bool),
    ) -> Result<(), Error> {
        let run = self.run;
        let rule = &run.options.rule;
        let note = |shown: &mut Shown| shown.add(rule, &finding.extent, &finding.range);
        // What comes in blocks is hashed once it is all there.
        let kept = in_blocks && self.hashes();
        let hash = self.first_hash;
        let Some(whole) = run.stacks.add(page, image, finding, note, (one, hash, kept)) else {
            return Ok(());
        };
        let (first_image, first, mut first_hash) = whole.first;
        if let Some(file) = run.stacks.file(page.stack) {
            let row = run.plan.first_of(page.stack);
            let header = run.page_header(row, true);
            let index = run.plan.rows()[row].indices(0);
            let (found, shown) = ((&first.extent, &first.range), &whole.shown);
            let (at, bytes) = file.write_first(&header, &index, found, shown, &mut self.bytes);
            whole.pending.write_at(at, bytes)?;
            let gap = file.gap();
            if !gap.is_empty() {
                let zeros = vec![0; usize::try_from(gap.end - gap.start).expect("it is short")];
                whole.pending.write_at(gap.start, &zeros)?;
            }
        } else {
            tars::end(&*whole.pending, run.plan.tar_file(page.stack as u64).len)?;
            run.recorder.as_ref().map_or(Ok(()), Recorder::replaces_tar)?;
        }
        whole.pending.commit()?;
        let is_tar = run.stacks.file(page.stack).is_none();
        for (image, finding) in whole.in_blocks {
            // Its blocks came in any order, from any thread; the system still has them in memory.
            let Some(page) = run.plan.page(image.span, image.index) else { continue };
            let name = run.plan.file(image.span, image.index);
            let bytes = run.plan.rows()[image.span].samples() * 4;
            let hash = hash_part(run.sink, &name, run.pixels_at(image, page), bytes)?;
            if is_tar && page.page == 0 {
                first_hash = hash;
            } else {
                self.record(image, &finding, hash, 0);
            }
        }
        self.tally += &whole.tally;
        if is_tar { self.record_tar(first_image, &first, first_hash) } else { Ok(()) }
    }

    /// Has the journal say that a tar is there: the entry of its first image is the last that is written of
    /// it. Not where a device is known to be wrong: all tars are made again then.
    fn record_tar(
        &mut self,
        image: ImageId,
        finding: &Finding,
        hash: Option<u64>,
    ) -> Result<(), Error> {
        self.write_entries()?;
        let run = self.run;
        run.unless_in_doubt(|| {
            self.keep_entry(image, finding, hash, 0)?;
            self.write_entries()
        })
    }

    /// Has what it takes to pack, where images are packed.
    fn pack_first(&mut self, image: ImageId) -> Result<(), Error> {
        if self.packing.is_none() && self.run.options.encoding.is_packed() {
            let packer = Packer::new(&self.run.options.encoding);
            let packer = packer.map_err(|source| self.run.not_packed(image, source))?;
            self.packing = packer.map(Packing::new);
        }
        Ok(())
    }

    fn put_part(&mut self, image: ImageId, first: u64, pixels: &[u8]) -> Result<bool, Error> {
        self.pack_first(image)?;
        // With the blocks beside them, which the order of a stream knows to be under way: what is written later is
        // missing while others go on.
        let in_order = self.run.begins_with_header(image);
        if in_order && first == 0 {
            self.begin_member(image)?;
        }
        let is_there = self.run.put_block(image, first, pixels, self.packing.as_mut())?;
        let end = first + pixels.len() as u64 / 4;
        if in_order && is_there && end == self.run.plan.rows()[image.span].samples() {
            self.end_member(image)?;
        }
        Ok(is_there)
    }

    /// Writes what comes before the pixels of a member of a stream, with the first of its blocks.
    fn begin_member(&mut self, image: ImageId) -> Result<(), Error> {
        let run = self.run;
        let (Some((member, at)), Some(page)) =
            (run.member(image), run.plan.page(image.span, image.index))
        else {
            return Ok(());
        };
        if !run.is_first_block(image)? {
            return Ok(());
        }
        let finding = run.queue().found(image).ok_or_else(|| {
            let problem = "its pixels came before anything was known of them";
            run.not_packed(image, std::io::Error::other(problem))
        })?;
        self.make_header(image, &finding)?;
        run.plan.write_name(image.span, image.index, &mut self.name);
        let (file, place) = (run.open(image, page)?, (at, self.name.as_str()));
        member.begin(&file, place, &self.bytes, &mut self.member_bytes)
    }

    /// Writes what comes behind them, with the last of its blocks.
    fn end_member(&self, image: ImageId) -> Result<(), Error> {
        let run = self.run;
        match (run.member(image), run.plan.page(image.span, image.index)) {
            (Some((member, at)), Some(page)) => {
                let file = run.open(image, page)?;
                member.end(&file, at)
            }
            _ => Ok(()),
        }
    }

    /// Whether the run is to end; images that were begun are left.
    fn is_cancelled(&self) -> bool {
        let cancelled = self.run.options.cancel.load(Ordering::Relaxed);
        if cancelled {
            self.run.stop(Error::Interrupted);
        }
        cancelled
    }

    fn hashes(&self) -> bool {
        self.run.recorder.as_ref().is_some_and(Recorder::hashes)
    }

    /// Keeps an image's entry for the journal. Where that takes no more the run ends, but the image is
    /// there, and counts.
    fn record(&mut self, image: ImageId, finding: &Finding, hash: Option<u64>, len: u64) {
        if let Err(error) = self.keep_entry(image, finding, hash, len) {
            self.run.stop(error);
        }
    }

    fn keep_entry(
        &mut self,
        image: ImageId,
        finding: &Finding,
        hash: Option<u64>,
        len: u64,
    ) -> Result<(), Error> {
        let Some(recorder) = &self.run.recorder else { return Ok(()) };
        let image = recorder.number(image.span, image.index);
        let rule = &self.run.options.rule;
        let len = NonZeroU64::new(len).filter(|_| self.run.options.encoding.is_packed());
        let found = Found::of(rule, &finding.extent, &finding.range, hash, len);
        let entry = Entry::Done(found);
        let (first, entries) = &self.entries;
        if first + (entries.len() / SIZE) as u64 != image {
            self.write_entries()?;
            self.entries.0 = image;
        }
        self.entries.1.extend(recorder.bytes(image, entry));
        Ok(())
    }

    /// Writes the entries to the journal.
    fn write_entries(&mut self) -> Result<(), Error> {
        let (first, entries) = &mut self.entries;
        if let Some(recorder) = &self.run.recorder
            && !entries.is_empty()
        {
            recorder.write(*first, entries)?;
            *first += (entries.len() / SIZE) as u64;
            entries.clear();
        }
        Ok(())
    }

    fn commit(&mut self, image: ImageId, finding: &Finding) -> Result<Option<u64>, Error> {
        self.check_finite(image, finding)?;
        let Some((file, packed)) = self.run.take_pending(image)? else { return Ok(None) };
        let Some(file) = file else {
            let Some(page) = self.run.plan.page(image.span, image.index) else { return Ok(None) };
            self.run.plan.write_name(image.span, image.index, &mut self.name);
            if let Some((member, at)) = self.run.member(image) {
                if !self.run.begins_with_header(image) {
                    let file = self.run.open(image, page)?;
                    self.make_header(image, finding)?;
                    let place = (at, self.name.as_str());
                    member.begin(&file, place, &self.bytes, &mut self.member_bytes)?;
                    member.end(&file, at)?;
                }
                if !self.hashes() && page.page > 0 {
                    self.record(image, finding, None, 0);
                }
                self.first_hash = None;
                return Ok(Some(member.bytes() + tar_end(page)));
            }
            let header = self.put_page(page, image, finding)?;
            if !self.hashes() {
                self.record(image, finding, None, 0);
            }
            return Ok(Some(header + self.run.plan.rows()[image.span].samples() * 4));
        };
        self.make_header(image, finding)?;
        let pixels = match &packed {
            None => self.run.plan.rows()[image.span].samples() * 4,
            Some(Packed { lens, .. }) => lens.iter().sum(),
        };
        if let (Some((_, header)), Some(packed)) = (&self.header, &packed) {
            header.write_packed(packed, &mut self.bytes);
        }
        file.write_at(0, &self.bytes)?;
        file.commit()?;
        let hash = if self.hashes() {
            // Its blocks came in any order, from any thread; the system still has them in memory.
            let name = self.run.plan.name(image.span, image.index);
            hash_stored(self.run.sink, &name, self.bytes.len() as u64, packed.is_some())?
        } else {
            None
        };
        let len = self.bytes.len() as u64 + pixels;
        self.record(image, finding, hash, len);
        Ok(Some(len))
    }

    /// Notes that the device has a part in an image, if it is compared; false if what it makes is
    /// not believed.
    fn takes_part(&mut self, image: ImageId) -> bool {
        let Some((_, images)) = &mut self.compared else { return true };
        let number = self.run.number(image);
        match images.last_mut() {
            Some(last) if last.end == number => last.end += 1,
            Some(last) if last.contains(&number) => {}
            _ => images.push(number..number + 1),
        }
        !self.run.is_distrusted(self.by)
    }

    /// Takes that back of an image that could not be stored: it is not made again either.
    fn takes_no_part(&mut self, image: ImageId) {
        let Some((_, images)) = &mut self.compared else { return };
        let number = self.run.number(image);
        images
            .last_mut()
            .filter(|last| last.end == number + 1)
            .into_iter()
            .for_each(|last| last.end -= 1);
    }

    /// Accounts for a finished image.
    fn finished(&mut self, image: ImageId, finding: &Finding, bytes_out: u64, in_blocks: bool) {
        let one = self.tally_of(image, finding, bytes_out);
        if let Some(page) = self.run.plan.page(image.span, image.index) {
            if let Err(error) = self.finish_page(page, image, finding, (&one, in_blocks)) {
                self.run.fail(image, error);
            }
        } else if self.run.is_giant(image.span) && self.run.has_compared() {
            self.finished_giant(image, &one);
        } else {
            self.tally += &one;
        }
        self.tell();
    }

    /// Accounts for a giant in which a device may have a part that is found to be wrong any time.
    fn finished_giant(&mut self, image: ImageId, one: &Tally) {
        // Its entry first: whoever finds the device wrong comes after that, or is known of here.
        let mut outcome = self.write_entries();
        if !self.run.account_giant(self.by, image, one) {
            outcome = outcome.and_then(|()| self.run.forget(self.run.number(image)));
        }
        if let Err(error) = outcome {
            self.run.stop(error);
        }
    }

    fn tally_of(&self, image: ImageId, finding: &Finding, bytes_out: u64) -> Tally {
        let row = &self.run.plan.rows()[image.span];
        let extent = &finding.extent;
        let keeps = finding.range.keeps(&self.run.options.rule);
        let samples = SampleReport {
            nan: extent.nan,
            pos_inf: extent.pos_inf,
            neg_inf: extent.neg_inf,
            overflow: if keeps { extent.overflow } else { 0 },
            nonfinite_images: u64::from(extent.nonfinite() > 0),
            constant_images: u64::from(match finding.range {
                // Nothing was asked of their range.
                Range::Keep(Kept::Asked) => extent.has_finite() && extent.min == extent.max,
                range => range == Range::Keep(Kept::Constant),
            }),
            degenerate_images: u64::from(matches!(
                finding.range,
                Range::Keep(Kept::Degenerate(..))
            )),
            no_finite_images: u64::from(!extent.has_finite()),
        };
        let bytes_in = row.samples() * row.dtype.size() as u64;
        Tally { images: 1, bytes_in, bytes_out, samples, ..Tally::default() }
    }

    /// Tells the run if it is worth it.
    fn tell(&mut self) {
        let tally = &self.tally;
        let late = || self.told.elapsed() >= AT_MOST;
        if tally.images >= IMAGES || tally.progress >= BYTES || late() {
            self.told = Instant::now();
            self.account();
            if let Err(error) = self.write_entries() {
                self.run.stop(error);
            }
        }
    }

    fn account(&mut self) {
        let tally = mem::take(&mut self.tally);
        if let Some((_, images)) = &mut self.compared {
            self.run.add_part(self.by, images, &tally);
            images.clear();
        }
        self.run.account(self.by, &tally);
    }

    fn samples_size(&self, image: ImageId, pixels: &[u8]) -> u64 {
        pixels.len() as u64 / 4 * self.run.plan.rows()[image.span].dtype.size() as u64
    }
}

impl Desk for RunDesk<'_, '_> {
    fn read(&mut self, image: ImageId, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        if self.is_cancelled() {
            return Err(Error::Interrupted);
        }
        self.turn(Stage::Read);
        let row = &self.run.plan.rows()[image.span];
        let place = row.byte_offset(image.index) + offset;
        let outcome = self.run.source.read_at(row.tensor, place, buf);
        self.turn(Stage::Compute);
        // The long work of a giant is told as it is read, in both passes.
        if outcome.is_ok() && self.run.is_giant(image.span) {
            self.tally.progress += buf.len() as u64;
            self.tell();
        }
        outcome
    }

    fn put(&mut self, image: ImageId, finding: &Finding, pixels: &[u8]) {
        if self.is_cancelled() || !self.takes_part(image) {
            return;
        }
        self.turn(Stage::Write);
        match self.put_whole(image, finding, pixels) {
            Ok(bytes_out) => {
                let bytes_in = self.samples_size(image, pixels);
                self.tally.worked += bytes_in;
                self.tally.progress += bytes_in;
                self.finished(image, finding, bytes_out, false);
            }
            Err(error) => {
                self.takes_no_part(image);
                self.fail(image, error);
            }
        }
        self.turn(Stage::Compute);
    }

    fn put_block(&mut self, image: ImageId, first: u64, pixels: &[u8]) {
        if self.is_cancelled() {
            return;
        }
        if !self.takes_part(image) {
            return self.run.spoil(image);
        }
        self.turn(Stage::Write);
        match self.put_part(image, first, pixels) {
            Ok(false) => {}
            Ok(true) => {
                let bytes_in = self.samples_size(image, pixels);
                self.tally.worked += bytes_in;
                if !self.run.is_giant(image.span) {
                    self.tally.progress += bytes_in;
                }
            }
            Err(error) => self.run.fail_blocks(image, error),
        }
        self.turn(Stage::Compute);
    }

    fn finish_blocks(&mut self, image: ImageId, finding: &Finding) {
        if !self.takes_part(image) {
            self.run.spoil(image);
        }
        self.turn(Stage::Write);
        match self.commit(image, finding) {
            Ok(None) => {}
            Ok(Some(bytes_out)) => self.finished(image, finding, bytes_out, true),
            Err(error) => self.run.fail_blocks(image, error),
        }
        self.turn(Stage::Compute);
    }

    fn fail(&mut self, image: ImageId, error: Error) {
        if self.run.comes_in_blocks(image) {
            self.run.fail_blocks(image, error);
        } else {
            self.run.fail(image, error);
        }
    }

    fn is_sampled(&mut self, image: ImageId, first: u64) -> bool {
        let number = self.run.number(image);
        let sample = self.run.options.verify_sample;
        let Some((before, _)) = &mut self.compared else { return false };
        let sampled = !mem::replace(before, true) || sample.takes(number, first);
        self.tally.checked += u64::from(sampled);
        sampled
    }

    fn looked(&mut self, image: ImageId) {
        self.takes_part(image);
    }

    fn distrust(&mut self) {
        self.run.distrust(self.by);
    }

    fn waiting(&mut self, begins: bool) {
        self.turn(if begins { Stage::Wait } else { Stage::Compute });
    }
}

impl Drop for RunDesk<'_, '_> {
    fn drop(&mut self) {
        self.turn(Stage::Wait);
        self.account();
        if let Err(error) = self.write_entries() {
            self.run.stop(error);
        }
    }
}
