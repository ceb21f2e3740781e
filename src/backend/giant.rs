//! An image that is done block by block, in two passes.

use std::ops::Range;

use super::{ImageId, Strips};
use crate::normalize::{Extent, Range as ValueRange};

#[derive(Debug)]
pub(super) struct Giant {
    pub(super) image: ImageId,
    pub(super) samples: u64,
    /// Samples in its blocks: a share for every puller, but no more than a buffer holds.
    pub(super) block: u64,
    pub(super) extent: Extent,
    /// Pass one: samples whose blocks are handed out, and samples whose extents are merged.
    pub(super) looked: u64,
    pub(super) merged: u64,
    /// There once pass one is over, or before it.
    pub(super) range: Option<ValueRange>,
    /// Whether the range was known before, so that there is no pass one.
    pub(super) known: bool,
    /// Pass two: samples whose blocks are handed out, and samples whose pixels are handed over.
    pub(super) made: u64,
    pub(super) handed_over: u64,
    pub(super) strips: Option<Strips>,
    /// Where it is packed: most samples that giants are ahead in all, and the first samples of its blocks of
    /// pass two that are under way.
    pub(super) window: u64,
    pub(super) under_way: Vec<u64>,
}

/// The next `block` of `0..end`, after `at`.
pub(super) fn cut(at: &mut u64, end: u64, block: u64) -> Option<Range<u64>> {
    let first = *at;
    *at = end.min(first.saturating_add(block));
    (first < *at).then_some(first..*at)
}

impl Giant {
    pub(super) fn new(
        image: ImageId,
        samples: u64,
        block: u64,
        known: Option<ValueRange>,
    ) -> Giant {
        Giant {
            image,
            samples,
            block,
            extent: Extent::EMPTY,
            looked: if known.is_some() { samples } else { 0 },
            merged: 0,
            range: known,
            known: known.is_some(),
            made: 0,
            handed_over: 0,
            strips: None,
            window: u64::MAX,
            under_way: Vec::new(),
        }
    }

    /// The same in blocks of whole strips, of which no more than some are under way.
    pub(super) fn packed(mut self, strips: Option<Strips>, window: u64) -> Giant {
        if let Some(Strips { samples, .. }) = strips {
            self.block = (self.block / samples).max(1) * samples;
            self.window = self.block.saturating_mul(window);
        }
        self.strips = strips;
        self
    }

    /// Where it is packed, samples from the first of its blocks under way to the last.
    pub(super) fn ahead(&self) -> u64 {
        self.under_way.iter().min().map_or(0, |first| self.made - first)
    }

    /// A block of the second pass, of at most so many samples; where it is packed, of a strip at least, and
    /// none where giants are so far `ahead` in all.
    pub(super) fn next_to_make(&mut self, most: u64, ahead: u64) -> Option<Range<u64>> {
        let most = self.block.min(most);
        let Some(strips) = self.strips else { return cut(&mut self.made, self.samples, most) };
        let most = match strips.first_tells && self.handed_over == 0 {
            true if self.made > 0 => return None,
            true => strips.samples,
            false => (most / strips.samples).max(1) * strips.samples,
        };
        if !self.under_way.is_empty() && ahead >= self.window {
            return None;
        }
        let samples = cut(&mut self.made, self.samples, most)?;
        self.under_way.push(samples.start);
        Some(samples)
    }

    /// Samples to be handed out yet, in either pass.
    pub(super) fn remaining(&self) -> u64 {
        (self.samples - self.looked) + (self.samples - self.made)
    }
}
