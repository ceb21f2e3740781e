//! A unit in somebody's hands, and how it ends.

use super::{Pass, Queue, Unit};
use crate::backend::Finding;
use crate::normalize::Extent;

/// A unit that somebody works on. Dropped unfinished, it goes back to the queue.
#[derive(Debug)]
pub struct Lease<'q> {
    pub(super) queue: &'q Queue,
    /// Which of the shares it counts for, and how much.
    pub(super) who: usize,
    pub(super) samples: u64,
    /// Taken out when the lease ends in another way than by being dropped.
    pub(super) unit: Option<Unit>,
    /// Of a run of images, those that failed, in order.
    pub(super) failed: Vec<u64>,
}

impl Lease<'_> {
    /// The unit.
    #[must_use]
    pub fn unit(&self) -> &Unit {
        self.unit.as_ref().expect("a lease holds its unit until it is consumed")
    }

    /// Says that an image of the run, behind all of which that was said before, has failed, and that
    /// the job knows: if the lease is dropped, the image does not go back to be tried once more.
    pub fn failed(&mut self, index: u64) {
        self.failed.push(index);
    }

    /// Ends a run of images, each of which was handed over or failed.
    pub fn done(mut self) {
        let unit = self.unit.take();
        let mut state = self.queue.lock();
        self.queue.end_run(&mut state, unit.as_ref());
        self.queue.end_lease(&mut state, self.who, self.samples);
    }

    /// Ends a block: with its extent, which counts where its pass found one, and after its pixels
    /// were handed over, where its pass made them. Answers with the finding when it was the giant's
    /// last: the caller then says so to the job.
    #[must_use]
    pub fn done_block(mut self, extent: Extent) -> Option<Finding> {
        let mut state = self.queue.lock();
        let mut last = None;
        if let Some(Unit::Block { image, samples, pass }) = self.unit.take()
            && let Some(giant) = state.giant(image)
        {
            giant.under_way.retain(|&first| pass == Pass::Extent || first != samples.start);
            if giant.strips.is_some() {
                // Others may have waited for it.
                self.queue.changed.notify_all();
            }
            let samples = samples.end - samples.start;
            if !matches!(pass, Pass::Normalize(_)) {
                giant.extent = giant.extent.merge(extent);
            }
            if pass == Pass::Extent {
                giant.merged += samples;
                if giant.merged == giant.samples {
                    let wide = self.queue.spans[image.span].wide;
                    let found = || Finding::of(&self.queue.rule, giant.extent, wide).range;
                    giant.range = Some(self.queue.known(image).unwrap_or_else(found));
                    self.queue.changed.notify_all();
                }
            } else {
                giant.handed_over += samples;
                if giant.handed_over == giant.samples {
                    last = giant.range.map(|range| Finding { extent: giant.extent, range });
                    state.giants.retain(|giant| giant.image != image);
                }
            }
        }
        self.queue.end_lease(&mut state, self.who, self.samples);
        last
    }

    /// Ends a block whose giant cannot be made; no more of its blocks are handed out. `true` the
    /// first time: the caller then says so to the job.
    #[must_use]
    pub fn fail_giant(mut self) -> bool {
        let mut state = self.queue.lock();
        let mut known = false;
        if let Some(Unit::Block { image, .. }) = self.unit.take() {
            known = state.giant(image).is_some();
            state.giants.retain(|giant| giant.image != image);
            state.returned.retain(
                |unit| !matches!(unit, Unit::Block { image: other, .. } if *other == image),
            );
        }
        self.queue.end_lease(&mut state, self.who, self.samples);
        known
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let Some(unit) = self.unit.take() else { return };
        let mut state = self.queue.lock();
        self.queue.end_run(&mut state, Some(&unit));
        match unit {
            Unit::Images { span, images } => {
                let mut first = images.start;
                for end in self.failed.drain(..).chain([images.end]) {
                    if first < end {
                        state.returned.push(Unit::Images { span, images: first..end });
                    }
                    first = end + 1;
                }
            }
            Unit::Block { image, .. } if state.giant(image).is_none() => {}
            block @ Unit::Block { .. } => state.returned.push(block),
        }
        state.end_lease(self.who, self.samples);
        self.queue.changed.notify_all();
    }
}
