//! The queue that all backends pull from.
//!
//! A unit is a run of small images, or one block of an image that is too large for a buffer. Such
//! a *giant* is done in two passes: pass one finds the extents of its blocks, which merge here;
//! when the last has come, pass two makes the pixels. Blocks of one giant may be done by
//! different devices. Where images are packed, where a block's pixels go is known when all before it are
//! done: no more than some are under way at once, from the first of each giant that is not done.
//!
//! A device that works on much at once, and may be slow, [joins](Queue::join): it is given as much
//! as it will have done by the time at which all is done, by what it did so far, so that nobody
//! waits for it in the end.
//!
//! A taken unit is held as a [`Lease`]. Dropping a lease without [`Lease::done`] puts the unit
//! back, so that a device that fails, or a thread that panics, loses nothing.

mod lease;
mod member;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::done::Done;
use super::giant::{Giant, cut};
use super::order::Order;
use super::{Finding, ImageId, Span};
use crate::normalize::{Range as ValueRange, Rule};

pub use lease::Lease;
pub use member::Member;

/// Fewest samples in a block, unless a buffer holds fewer: 4 MiB of f32, so that an image little
/// larger than a buffer still occupies every core.
const LEAST_BLOCK: u64 = 1 << 20;

/// Largest buffer of pixels: images above it are done block by block.
pub const BLOCK_BYTES: u64 = 64 << 20;

/// Blocks for each puller that giants may have under way which are packed; each may have one in any case.
pub const WINDOW: u64 = 2;

/// Which pass over a giant a block belongs to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pass {
    /// Find the block's extent.
    Extent,
    /// Make the block's pixels from what the whole image showed.
    Normalize(Finding),
    /// The only pass where the range was known before: find the block's extent and make its pixels.
    Known(ValueRange),
}

/// A piece of work.
#[derive(Debug, Clone, PartialEq)]
pub enum Unit {
    /// Whole images of one span.
    Images {
        /// The span's index.
        span: usize,
        /// Indices within the span; not empty.
        images: Range<u64>,
    },
    /// Some samples of one giant.
    Block {
        /// The giant.
        image: ImageId,
        /// What to do with the samples.
        pass: Pass,
        /// Indices of the samples; not empty.
        samples: Range<u64>,
    },
}

/// How much a puller wants at once.
#[derive(Debug, Clone, Copy)]
pub struct Appetite {
    /// Most samples in a run of images; a single image may have more, up to the block size.
    pub samples: u64,
    /// Fewest samples worth a unit: near the end, runs do not shrink below this.
    pub least_samples: u64,
    /// Most images in a run.
    pub images: u64,
    /// Whether spans that not every backend takes are welcome (they come first then).
    pub everything: bool,
}

/// Work for all backends of a run. See the [module](self).
#[derive(Debug)]
pub struct Queue {
    rule: Rule,
    spans: Vec<Span>,
    /// Whether every backend takes the span.
    common: Vec<bool>,
    block: u64,
    pullers: u64,
    ranges: Option<Ranges>,
    /// Where pixels are to come nearly in order.
    order: Option<Order>,
    /// Images that are never handed out, and each span's first one's number among all.
    done: Option<Done>,
    firsts: Vec<u64>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
pub(super) struct State {
    /// Spans that only some backends take, then spans that all take.
    lists: [List; 2],
    /// Units that came back.
    pub(super) returned: Vec<Unit>,
    /// Giants under way.
    pub(super) giants: VecDeque<Giant>,
    /// Units that are out.
    leased: u64,
    /// Where runs of images begin that are out, where order counts.
    pub(super) runs: Vec<u64>,
    /// What was taken and done by whom: first by all who did not join, then by each member.
    shares: Vec<Share>,
    /// Samples of images that were not handed out yet.
    left: u64,
    stopped: bool,
}

/// One member's part in the work. Samples count once for each pass.
#[derive(Debug, Default)]
struct Share {
    /// Units that are out, and their samples.
    leases: u64,
    out: u64,
    /// Samples that are done.
    done: u64,
    /// Samples that all had done when it joined.
    since: u64,
}

/// Spans in the order in which they are handed out, and how far that has come.
#[derive(Debug, Default)]
struct List {
    spans: Vec<usize>,
    at: usize,
    /// Next image of span `spans[at]`.
    image: u64,
}

impl Queue {
    /// A queue over `spans`. Images of more than `block` samples are giants. `common` says which
    /// spans every backend takes, `pullers` how many will share the work.
    #[must_use]
    pub fn new(
        rule: impl Into<Rule>,
        spans: Vec<Span>,
        block: u64,
        pullers: usize,
        common: impl Fn(&Span) -> bool,
    ) -> Queue {
        let common: Vec<bool> = spans.iter().map(common).collect();
        let lists = [false, true].map(|wanted| List {
            spans: (0..spans.len()).filter(|&i| common[i] == wanted).collect(),
            ..List::default()
        });
        let left = spans
            .iter()
            .map(|span| span.samples.saturating_mul(span.images))
            .fold(0, u64::saturating_add);
        let state = State {
            lists,
            returned: Vec::new(),
            giants: VecDeque::new(),
            leased: 0,
            runs: Vec::new(),
            shares: vec![Share::default()],
            left,
            stopped: false,
        };
        Queue {
            rule: rule.into(),
            spans,
            common,
            block: block.max(1),
            pullers: pullers.max(1) as u64,
            ranges: None,
            order: None,
            done: None,
            firsts: Vec::new(),
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// The same without images that are done already: they are never handed out. Images count over
    /// all spans.
    #[must_use]
    pub fn without(mut self, done: Done) -> Queue {
        let sums = self.spans.iter().scan(0, |end, span| {
            *end += span.images;
            Some(*end - span.images)
        });
        self.firsts = sums.collect();
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (span, &first) in self.spans.iter().zip(&self.firsts) {
            let there = span.images - done.missing(first, first + span.images);
            state.left = state.left.saturating_sub(span.samples.saturating_mul(there));
        }
        self.done = Some(done);
        for list in 0..state.lists.len() {
            skip_done(&mut state.lists[list], &self.spans, &self.firsts, self.done.as_ref());
        }
        self
    }

    /// The same, whose pixels are to come nearly in the order of the spans: what is handed out lies no further
    /// than `window` samples behind the first that is not done, and of giants the finding is known before
    /// any of their pixels is made.
    #[must_use]
    pub fn in_order(mut self, window: u64) -> Queue {
        self.order = Some(Order::new(&self.spans, window));
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let spans = (0..self.spans.len()).collect();
        state.lists = [List::default(), List { spans, ..List::default() }];
        self
    }

    /// What the first pass over a giant found, once that is over; `None` of others.
    #[must_use]
    pub fn found(&self, image: ImageId) -> Option<Finding> {
        let mut state = self.lock();
        let giant = state.giant(image).filter(|giant| giant.merged == giant.samples)?;
        giant.range.map(|range| Finding { extent: giant.extent, range })
    }

    /// The same with ranges that are known before.
    #[must_use]
    pub fn knowing(
        mut self,
        ranges: impl Fn(ImageId) -> Option<ValueRange> + Send + Sync + 'static,
    ) -> Queue {
        self.ranges = Some(Ranges(Box::new(ranges)));
        self
    }

    /// The range of an image, where it does not depend on the image's own samples.
    #[must_use]
    pub fn known(&self, image: ImageId) -> Option<ValueRange> {
        let found = self.ranges.as_ref().and_then(|ranges| ranges.0(image));
        found.or_else(|| ValueRange::known(&self.rule, self.spans[image.span].wide))
    }

    /// What the run does to samples.
    #[must_use]
    pub fn rule(&self) -> &Rule {
        &self.rule
    }

    /// The spans, as [`ImageId::span`] counts them.
    #[must_use]
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The images, of so many, that were not done before the run began, in runs of neighbours.
    #[must_use]
    pub fn not_done(&self, images: u64) -> Vec<Range<u64>> {
        let Some(done) = &self.done else { return std::iter::once(0..images).collect() };
        let (mut runs, mut at) = (Vec::new(), done.next(false, 0, images));
        while at < images {
            let end = done.next(true, at, images);
            runs.push(at..end);
            at = done.next(false, end, images);
        }
        runs
    }

    /// Images of a span that were not done before the run began.
    #[must_use]
    pub fn images_left(&self, span: usize) -> u64 {
        let images = self.spans[span].images;
        let Some(done) = &self.done else { return images };
        done.missing(self.firsts[span], self.firsts[span] + images)
    }

    /// Images of a part of a span that were not done before the run began.
    #[must_use]
    pub fn left(&self, span: usize, images: Range<u64>) -> u64 {
        let Some(done) = &self.done else { return images.end - images.start };
        done.missing(self.firsts[span] + images.start, self.firsts[span] + images.end)
    }

    /// Most samples in a block, and so in any image or block that a backend must hold at once.
    #[must_use]
    pub fn block(&self) -> u64 {
        self.block
    }

    /// A device that is to be given no more than it can do while the others do the rest. `pullers`
    /// of the queue's are its own; who has all of them is given everything.
    pub fn join(&self, pullers: usize) -> Member<'_> {
        let mut state = self.lock();
        let since = state.done();
        state.shares.push(Share { since, ..Share::default() });
        let alone = pullers as u64 >= self.pullers;
        Member { queue: self, who: state.shares.len() - 1, alone, since: Instant::now() }
    }

    /// The next unit. Waits while there is none but some may yet come (a giant's second pass, or
    /// a unit that another backend gives back); who holds leases of its own that nobody else will
    /// finish must use [`try_take`](Queue::try_take). `None`: nothing is left for this puller, or
    /// the queue was stopped.
    pub fn take(&self, appetite: &Appetite) -> Option<Lease<'_>> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            if let Some(unit) = self.next(&mut state, appetite, None) {
                return Some(self.lease(&mut state, 0, unit));
            }
            if state.leased == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next unit, if there is one now.
    pub fn try_take(&self, appetite: &Appetite) -> Option<Lease<'_>> {
        let mut state = self.lock();
        if state.stopped {
            return None;
        }
        let unit = self.next(&mut state, appetite, None)?;
        Some(self.lease(&mut state, 0, unit))
    }

    /// Hands out nothing more. Units that are out may still be finished.
    pub fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    /// Whether the queue was stopped.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// Whether everything is done, or the queue was stopped.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        let state = self.lock();
        state.stopped || (state.leased == 0 && !state.has_more())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panicking puller holds no half-made change: every method leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lease(&self, state: &mut State, who: usize, unit: Unit) -> Lease<'_> {
        let samples = self.samples(&unit);
        state.leased += 1;
        if let (Some(order), Unit::Images { span, images }) = (&self.order, &unit) {
            state.runs.push(order.place(*span, images.start));
        }
        state.shares[who].leases += 1;
        state.shares[who].out += samples;
        Lease { queue: self, who, samples, unit: Some(unit), failed: Vec::new() }
    }

    /// Samples of a unit.
    fn samples(&self, unit: &Unit) -> u64 {
        match unit {
            Unit::Images { span, images } => {
                self.spans[*span].samples.saturating_mul(images.end - images.start)
            }
            Unit::Block { samples, .. } => samples.end - samples.start,
        }
    }

    /// Samples to be handed out yet; of giants under way, for each of their passes.
    fn remaining(&self, state: &State) -> u64 {
        let giants = state.giants.iter().map(Giant::remaining);
        let returned = state.returned.iter().map(|unit| self.samples(unit));
        giants.chain(returned).fold(state.left, u64::saturating_add)
    }

    /// The next unit. With `most`, the appetite's samples bound blocks as well, and `most` single
    /// images.
    fn next(&self, state: &mut State, appetite: &Appetite, most: Option<u64>) -> Option<Unit> {
        let most_block = most.map_or(u64::MAX, |_| appetite.samples);
        let most = most.unwrap_or(u64::MAX);
        if let Some(unit) = self.next_returned(state, appetite, most) {
            return Some(unit);
        }
        if let Some(unit) = self.next_block(state, appetite, most_block) {
            return Some(unit);
        }
        let first_undone = self.order.as_ref().and_then(|order| order.first(state));
        let first_list = if appetite.everything { 0 } else { 1 };
        for list in &mut state.lists[first_list..] {
            let Some(&span) = list.spans.get(list.at) else { continue };
            if let Some(order) = &self.order {
                let place = order.place(span, list.image);
                let is_welcome = appetite.everything || self.common[span];
                if !is_welcome || !order.is_near(place, first_undone) {
                    continue;
                }
            }
            let Span { samples, images, .. } = self.spans[span];
            if samples > self.block {
                let image = ImageId { span, index: list.image };
                list.advance(1, images);
                skip_done(list, &self.spans, &self.firsts, self.done.as_ref());
                state.left = state.left.saturating_sub(samples);
                let share = samples.div_ceil(self.pullers).max(LEAST_BLOCK);
                let known = self.known(image).filter(|_| self.order.is_none());
                let giant = Giant::new(image, samples, self.block.min(share), known);
                let strips = self.spans[span].strips;
                let giant = match &self.order {
                    None => giant.packed(strips, WINDOW * self.pullers),
                    Some(_) => giant.packed(Some(Order::STRIPS), u64::MAX),
                };
                state.giants.push_back(giant);
                return self.next_block(state, appetite, most_block);
            }
            if samples > most {
                continue;
            }
            let end = self.end_of_run(span, list.image, images);
            let run = self.run_length(state.left, samples, appetite).min(end - list.image);
            let images_taken = list.image..list.image + run;
            list.advance(run, images);
            skip_done(list, &self.spans, &self.firsts, self.done.as_ref());
            state.left = state.left.saturating_sub(run.saturating_mul(samples));
            return Some(Unit::Images { span, images: images_taken });
        }
        None
    }

    /// Where the run of images that are not done, and that image number `from` of a span is of, ends.
    fn end_of_run(&self, span: usize, from: u64, images: u64) -> u64 {
        let Some(done) = &self.done else { return images };
        let first = self.firsts[span];
        done.next(true, first + from, first + images) - first
    }

    /// A unit that came back, cut to the appetite.
    fn next_returned(&self, state: &mut State, appetite: &Appetite, most: u64) -> Option<Unit> {
        let single = |unit: &Unit| match unit {
            Unit::Images { span, .. } => self.spans[*span].samples,
            Unit::Block { .. } => self.samples(unit),
        };
        let welcome =
            |unit: &Unit| (appetite.everything || self.common[unit.span()]) && single(unit) <= most;
        let at = state.returned.iter().position(welcome)?;
        if let Unit::Images { span, images } = &mut state.returned[at] {
            let run = self.run_length(u64::MAX, self.spans[*span].samples, appetite);
            if run < images.end - images.start {
                let first = images.start;
                images.start += run;
                return Some(Unit::Images { span: *span, images: first..first + run });
            }
        }
        Some(state.returned.swap_remove(at))
    }

    /// How many images of `samples` samples make a run: as many as fit the appetite, fewer when
    /// `left` samples would not go round twice among the pullers.
    fn run_length(&self, left: u64, samples: u64, appetite: &Appetite) -> u64 {
        let share = (left / (2 * self.pullers)).max(appetite.least_samples);
        (share.min(appetite.samples) / samples).clamp(1, appetite.images.max(1))
    }

    /// A block of a giant under way: second passes first, they finish images. Who may only take
    /// less than a block gets less, but no crumbs.
    fn next_block(&self, state: &mut State, appetite: &Appetite, most: u64) -> Option<Unit> {
        let welcome = |giant: &&mut Giant| {
            (appetite.everything || self.common[giant.image.span])
                && giant.block.min(appetite.least_samples) <= most
        };
        let ahead = state.giants.iter().map(Giant::ahead).fold(0, u64::saturating_add);
        let first_undone = self.order.as_ref().and_then(|order| order.first(state));
        let is_near = |giant: &Giant| {
            self.order.as_ref().is_none_or(|order| {
                let place = order.place(giant.image.span, giant.image.index) + giant.made;
                order.is_near(place, first_undone)
            })
        };
        let mut giants = state.giants.iter_mut().filter(welcome);
        let mut first_pass = None;
        for giant in giants.by_ref() {
            if let Some(range) = giant.range {
                if is_near(giant)
                    && let Some(samples) = giant.next_to_make(most, ahead)
                {
                    let pass = match giant.known {
                        true => Pass::Known(range),
                        false => Pass::Normalize(Finding { extent: giant.extent, range }),
                    };
                    return Some(Unit::Block { image: giant.image, pass, samples });
                }
            } else if giant.looked < giant.samples && first_pass.is_none() {
                first_pass = Some(giant);
            }
        }
        let giant = first_pass?;
        let samples = cut(&mut giant.looked, giant.samples, giant.block.min(most))?;
        Some(Unit::Block { image: giant.image, pass: Pass::Extent, samples })
    }

    /// Notes that a run of images is not out any more.
    fn end_run(&self, state: &mut State, unit: Option<&Unit>) {
        if let (Some(order), Some(Unit::Images { span, images })) = (&self.order, unit) {
            let place = order.place(*span, images.start);
            if let Some(at) = state.runs.iter().position(|&run| run == place) {
                state.runs.swap_remove(at);
            }
        }
    }

    fn end_lease(&self, state: &mut State, who: usize, samples: u64) {
        state.end_lease(who, samples);
        state.shares[who].done += samples;
        // Others may wait for what is behind it.
        if state.leased == 0 || self.order.is_some() {
            self.changed.notify_all();
        }
    }
}

impl State {
    fn end_lease(&mut self, who: usize, samples: u64) {
        self.leased -= 1;
        self.shares[who].leases -= 1;
        self.shares[who].out -= samples;
    }

    /// Samples that are done, by all.
    fn done(&self) -> u64 {
        self.shares.iter().map(|share| share.done).sum()
    }

    fn has_more(&self) -> bool {
        !self.returned.is_empty()
            || !self.giants.is_empty()
            || self.lists.iter().any(|list| list.at < list.spans.len())
    }

    fn giant(&mut self, image: ImageId) -> Option<&mut Giant> {
        self.giants.iter_mut().find(|giant| giant.image == image)
    }
}

/// Moves a list on to the next image that is not done.
fn skip_done(list: &mut List, spans: &[Span], firsts: &[u64], done: Option<&Done>) {
    let Some(done) = done else { return };
    while let Some(&span) = list.spans.get(list.at) {
        let (first, images) = (firsts[span], spans[span].images);
        let next = done.next(false, first + list.image, first + images) - first;
        list.image = next;
        if next < images {
            return;
        }
        list.advance(0, images);
    }
}

impl List {
    fn advance(&mut self, run: u64, images_of_span: u64) {
        self.image += run;
        if self.image == images_of_span {
            self.at += 1;
            self.image = 0;
        }
    }
}

impl Unit {
    fn span(&self) -> usize {
        match self {
            Unit::Images { span, .. } => *span,
            Unit::Block { image, .. } => image.span,
        }
    }
}

/// Ranges of images that are known before.
struct Ranges(Box<dyn Fn(ImageId) -> Option<ValueRange> + Send + Sync>);

impl std::fmt::Debug for Ranges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ranges")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Strips;
    use super::*;
    use crate::normalize::{Extent, Norm};
    use crate::tensor::Dtype;

    const ALL: Appetite =
        Appetite { samples: 1000, least_samples: 1, images: 10, everything: true };
    const COMMON: Appetite = Appetite { everything: false, ..ALL };

    fn span(dtype: Dtype, samples: u64, images: u64) -> Span {
        Span {
            dtype,
            samples,
            images,
            contiguous: true,
            wide: dtype.is_wide(),
            known: false,
            strips: None,
        }
    }

    /// Blocks of at most 100 samples; f64 is for some backends only.
    fn queue(spans: Vec<Span>) -> Queue {
        Queue::new(Norm::MinMax, spans, 100, 1, |span| span.dtype != Dtype::F64)
    }

    fn span_of(lease: &Lease<'_>) -> usize {
        lease.unit().span()
    }

    /// Each failed once, whatever becomes of the rest of its run.
    #[test]
    fn images_that_failed_do_not_come_back() {
        let queue = queue(vec![span(Dtype::F32, 50, 8)]);
        let all = Appetite { least_samples: 1000, ..ALL };
        let come_back = |failed: &[u64]| {
            let mut lease = queue.try_take(&all).unwrap();
            assert_eq!(*lease.unit(), Unit::Images { span: 0, images: 0..8 });
            failed.iter().for_each(|&index| lease.failed(index));
            drop(lease);
            let mut left = Vec::new();
            while let Some(lease) = queue.try_take(&all) {
                let Unit::Images { images, .. } = lease.unit().clone() else { panic!("a block") };
                left.push(images);
                lease.done();
            }
            left.sort_by_key(|images| images.start);
            // As if nothing had been handed out yet.
            queue.lock().returned.push(Unit::Images { span: 0, images: 0..8 });
            left
        };
        assert_eq!(come_back(&[]), std::slice::from_ref(&(0..8)));
        assert_eq!(come_back(&[3]), [0..3, 4..8]);
        assert_eq!(come_back(&[0, 1, 7]), std::slice::from_ref(&(2..7)));
        assert!(come_back(&[0, 1, 2, 3, 4, 5, 6, 7]).is_empty());
    }

    /// Neither fresh, nor come back, nor in blocks.
    #[test]
    fn what_a_backend_cannot_take_is_never_given_to_it() {
        let queue = queue(vec![span(Dtype::F64, 50, 3), span(Dtype::F64, 500, 1)]);
        assert!(queue.try_take(&COMMON).is_none(), "fresh");
        drop(queue.try_take(&ALL).unwrap());
        assert!(queue.try_take(&COMMON).is_none(), "come back");
        let mut taken = Vec::new();
        while let Some(lease) = queue.try_take(&ALL) {
            let is_block = matches!(lease.unit(), Unit::Block { .. });
            taken.push(lease);
            if is_block {
                break;
            }
        }
        assert!(matches!(taken.last().unwrap().unit(), Unit::Block { .. }));
        assert!(queue.try_take(&COMMON).is_none(), "blocks under way");
        drop(taken);
        assert!(queue.try_take(&COMMON).is_none(), "blocks come back");
    }

    #[test]
    fn what_only_some_take_comes_first_for_them() {
        let queue = queue(vec![span(Dtype::F32, 10, 1), span(Dtype::F64, 10, 1)]);
        let first = queue.try_take(&ALL).unwrap();
        assert_eq!(span_of(&first), 1);
        let second = queue.try_take(&COMMON).unwrap();
        assert_eq!(span_of(&second), 0);
        assert!(queue.try_take(&ALL).is_none());
        assert!(!queue.is_finished());
        first.done();
        second.done();
        assert!(queue.is_finished());
    }

    /// With two giants under way, a second puller gets blocks of the second while all of the
    /// first one's are out.
    #[test]
    fn giants_do_not_wait_for_each_other() {
        let queue = queue(vec![span(Dtype::F32, 150, 2)]);
        let leases: Vec<_> = std::iter::from_fn(|| queue.try_take(&ALL)).collect();
        let giants: Vec<u64> = leases
            .iter()
            .map(|lease| match lease.unit() {
                Unit::Block { image, pass: Pass::Extent, .. } => image.index,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(giants, [0, 0, 1, 1]);
    }

    #[test]
    fn an_empty_extent_of_every_block_leads_to_the_second_pass_once() {
        let queue = queue(vec![span(Dtype::F32, 150, 1)]);
        let extent = |visited| Extent { visited, ..Extent::EMPTY };
        assert_eq!(queue.try_take(&ALL).unwrap().done_block(extent(100)), None);
        let last = queue.try_take(&ALL).unwrap();
        assert!(queue.try_take(&ALL).is_none(), "the second pass needs the whole extent");
        assert_eq!(last.done_block(extent(50)), None);
        let [one, other] = [(); 2].map(|()| queue.try_take(&ALL).unwrap());
        assert!(queue.try_take(&ALL).is_none());
        assert_eq!(other.done_block(Extent::EMPTY), None);
        assert_eq!(one.done_block(Extent::EMPTY).unwrap().extent.visited, 150);
        assert!(queue.is_finished());
    }

    /// Lengths of the blocks that `pullers` get who come once each.
    fn blocks_of(queue: &Queue, pullers: usize) -> (Vec<u64>, Vec<Lease<'_>>) {
        let leases: Vec<_> = (0..pullers).map_while(|_| queue.try_take(&ALL)).collect();
        (leases.iter().map(|lease| lease.samples).collect(), leases)
    }

    /// However little larger than a buffer it is, in both passes.
    #[test]
    fn a_giant_occupies_every_puller() {
        let (samples, pullers) = (BLOCK_BYTES / 4 + 5, 8);
        let block = BLOCK_BYTES / 4;
        let spans = vec![span(Dtype::F32, samples, 1)];
        let queue = Queue::new(Norm::MinMax, spans, block, pullers, |_| true);
        for pass in 1..=2 {
            let (blocks, leases) = blocks_of(&queue, pullers);
            let share = samples.div_ceil(pullers as u64);
            assert_eq!(blocks[..pullers - 1], vec![share; pullers - 1], "pass {pass}");
            assert_eq!(blocks.iter().sum::<u64>(), samples, "pass {pass}");
            assert!(queue.try_take(&ALL).is_none());
            for lease in leases {
                let _ = lease.done_block(Extent::EMPTY);
            }
        }
        assert!(queue.is_finished());
    }

    fn packed(samples: u64, block: u64, pullers: usize, strips: Strips) -> Queue {
        packed_images(1, samples, block, pullers, strips)
    }

    fn packed_images(
        images: u64,
        samples: u64,
        block: u64,
        pullers: usize,
        strips: Strips,
    ) -> Queue {
        let spans = vec![Span { strips: Some(strips), ..span(Dtype::F32, samples, images) }];
        // Of a known range, so that pixels are made in the only pass.
        Queue::new(Norm::None, spans, block, pullers, |_| true)
    }

    fn made(lease: &Lease<'_>) -> Range<u64> {
        let Unit::Block { samples, .. } = lease.unit() else { panic!("not in blocks") };
        samples.clone()
    }

    /// However little a puller may take; and no more than some are under way from the first on that is not
    /// done, whoever has it.
    #[test]
    fn blocks_of_a_packed_giant_are_whole_strips_in_a_window() {
        let queue = packed(1000, 100, 2, Strips { samples: 30, first_tells: false });
        let mut leases: Vec<_> = std::iter::from_fn(|| queue.try_take(&ALL)).collect();
        let taken: Vec<_> = leases.iter().map(made).collect();
        assert_eq!(taken, [0..90, 90..180, 180..270, 270..360]);
        // What is behind the first is of no use.
        let _ = leases.pop().unwrap().done_block(Extent::EMPTY);
        assert!(queue.try_take(&ALL).is_none(), "the first is not done");
        let first = leases.remove(0);
        drop(first);
        let again = queue.try_take(&ALL).unwrap();
        assert_eq!(made(&again), 0..90, "it came back");
        assert!(queue.try_take(&ALL).is_none());
        let _ = again.done_block(Extent::EMPTY);
        let next = queue.try_take(&ALL).unwrap();
        assert_eq!(made(&next), 360..450);
        assert!(queue.try_take(&ALL).is_none(), "the second is not done");
        // To the end, by somebody who takes little.
        leases.push(next);
        let member = queue.join(2);
        let little = Appetite { samples: 7, ..ALL };
        let mut sum = 0;
        loop {
            for lease in leases.drain(..) {
                sum += lease.samples;
                let _ = lease.done_block(Extent::EMPTY);
            }
            let Some((lease, _)) = member.try_take(&little) else { break };
            assert!(
                made(&lease).start.is_multiple_of(30)
                    && (lease.samples == 30 || lease.samples == 10)
            );
            leases.push(lease);
        }
        assert_eq!((sum, queue.is_finished()), (1000 - 180, true));
    }

    /// What waits for the first block of each is bounded, however many giants there are: but each goes on
    /// with one block at a time, which waits for nothing.
    #[test]
    fn packed_giants_share_a_window() {
        let queue = packed_images(3, 1000, 100, 2, Strips { samples: 50, first_tells: false });
        let image = |lease: &Lease<'_>| match lease.unit() {
            Unit::Block { image, .. } => image.index,
            Unit::Images { .. } => panic!("not in blocks"),
        };
        let mut leases: Vec<_> = std::iter::from_fn(|| queue.try_take(&ALL)).collect();
        assert_eq!(leases.iter().map(image).collect::<Vec<_>>(), [0, 0, 0, 0, 1, 2]);
        for at in 1..=9 {
            let _ = leases.pop().unwrap().done_block(Extent::EMPTY);
            let next = queue.try_take(&ALL).unwrap();
            assert_eq!((image(&next), made(&next)), (2, 100 * at..100 * (at + 1)));
            assert!(queue.try_take(&ALL).is_none());
            leases.push(next);
        }
        // The third giant is done, and the first goes on when all are little enough ahead.
        let _ = leases.pop().unwrap().done_block(Extent::EMPTY);
        let _ = leases.remove(0).done_block(Extent::EMPTY);
        assert!(queue.try_take(&ALL).is_none(), "they are 300 and 100 ahead");
        let _ = leases.remove(0).done_block(Extent::EMPTY);
        let next = queue.try_take(&ALL).unwrap();
        assert_eq!((image(&next), made(&next)), (0, 400..500));
    }

    #[test]
    fn the_first_strip_of_a_giant_comes_alone_where_it_tells() {
        let queue = packed(1000, 100, 3, Strips { samples: 30, first_tells: true });
        let first = queue.try_take(&ALL).unwrap();
        assert_eq!(made(&first), 0..30);
        assert!(queue.try_take(&ALL).is_none());
        drop(first);
        let first = queue.try_take(&ALL).unwrap();
        assert_eq!(made(&first), 0..30, "it came back");
        assert!(queue.try_take(&ALL).is_none());
        let _ = first.done_block(Extent::EMPTY);
        let others: Vec<_> = std::iter::from_fn(|| queue.try_take(&ALL)).collect();
        assert_eq!(made(&others[0]), 30..120);
        assert_eq!(others.len(), 6);
    }

    /// Who waits for the window to move is woken when it does.
    #[test]
    fn a_puller_waits_while_the_window_is_full() {
        let queue = packed(1000, 100, 1, Strips { samples: 100, first_tells: false });
        let first = queue.take(&ALL).unwrap();
        let second = queue.take(&ALL).unwrap();
        std::thread::scope(|scope| {
            let other = scope.spawn(|| queue.take(&ALL).map(|lease| made(&lease)));
            std::thread::sleep(Duration::from_millis(50));
            assert!(!other.is_finished(), "it did not wait");
            let _ = first.done_block(Extent::EMPTY);
            assert_eq!(other.join().unwrap(), Some(200..300));
        });
        drop(second);
    }

    /// No block has more than a buffer holds, and none is a crumb, but the last.
    #[test]
    fn blocks_of_a_giant_are_neither_too_large_nor_too_small() {
        for (samples, block, pullers, expected) in [
            (10 * LEAST_BLOCK, 3 * LEAST_BLOCK, 2, vec![3 * LEAST_BLOCK; 2]),
            (
                3 * LEAST_BLOCK + 1,
                3 * LEAST_BLOCK,
                8,
                vec![LEAST_BLOCK, LEAST_BLOCK, LEAST_BLOCK, 1],
            ),
            (250, 100, 8, vec![100, 100, 50]),
        ] {
            let spans = vec![span(Dtype::F32, samples, 1)];
            let queue = Queue::new(Norm::MinMax, spans, block, pullers, |_| true);
            assert_eq!(blocks_of(&queue, pullers).0, expected, "{samples} in {block}");
        }
    }
}
