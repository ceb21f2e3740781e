//! Work that is to be done nearly in order: what comes too early is held in memory by who takes it.

use super::giant::Giant;
use super::queue::{State, Unit};
use super::{Span, Strips};

/// Where pixels lie among all, in samples; what an image takes besides is counted, too.
#[derive(Debug)]
pub(super) struct Order {
    /// Samples of all spans before each.
    begins: Vec<u64>,
    /// What an image of each takes.
    images: Vec<u64>,
    /// How far behind the first sample that is not done work may be.
    window: u64,
}

/// What an image takes besides its pixels, in samples: 2 KiB.
const BESIDES: u64 = 512;

fn takes(span: &Span) -> u64 {
    span.samples.saturating_add(BESIDES)
}

impl Order {
    /// How blocks of giants are told apart that are under way.
    pub(super) const STRIPS: Strips = Strips { samples: 1, first_tells: false };

    pub(super) fn new(spans: &[Span], window: u64) -> Order {
        let mut before = 0_u64;
        let begins = spans.iter().map(|span| {
            let begin = before;
            before = before.saturating_add(takes(span).saturating_mul(span.images));
            begin
        });
        let begins = begins.collect();
        Order { begins, images: spans.iter().map(takes).collect(), window }
    }

    /// Where an image begins.
    pub(super) fn place(&self, span: usize, image: u64) -> u64 {
        self.begins[span].saturating_add(self.images[span].saturating_mul(image))
    }

    /// Where the first sample is that was handed out, and is not done; `None` if there is none.
    pub(super) fn first(&self, state: &State) -> Option<u64> {
        let of_giant = |giant: &Giant| {
            let begin = self.place(giant.image.span, giant.image.index);
            begin + giant.under_way.iter().copied().chain([giant.made]).min().unwrap_or(0)
        };
        let returned = |unit: &Unit| match unit {
            Unit::Images { span, images } => Some(self.place(*span, images.start)),
            // Its giant has it under way.
            Unit::Block { .. } => None,
        };
        let giants = state.giants.iter().map(of_giant);
        let returned = state.returned.iter().filter_map(returned);
        giants.chain(returned).chain(state.runs.iter().copied()).min()
    }

    /// Whether work at `place` may be handed out, where that is the first that is not done.
    pub(super) fn is_near(&self, place: u64, first: Option<u64>) -> bool {
        first.is_none_or(|first| place.saturating_sub(first) < self.window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::queue::{Appetite, Lease, Pass, Queue};
    use crate::normalize::{Extent, Norm};
    use crate::tensor::Dtype;

    const ALL: Appetite = Appetite { samples: 1000, least_samples: 1, images: 1, everything: true };

    fn span(dtype: Dtype, samples: u64, images: u64) -> Span {
        let (contiguous, wide) = (true, dtype.is_wide());
        Span { dtype, samples, images, contiguous, wide, known: false, strips: None }
    }

    /// Images of more than 1000 samples are giants; f64 is for some backends only.
    fn queue(spans: Vec<Span>, window: u64) -> Queue {
        let queue = Queue::new(Norm::None, spans, 1000, 1, |span| span.dtype != Dtype::F64);
        queue.in_order(window)
    }

    /// Span, first image or sample, and whether pixels are made.
    fn told(lease: &Lease<'_>) -> (usize, u64, bool) {
        match lease.unit() {
            Unit::Images { span, images } => (*span, images.start, true),
            Unit::Block { image, pass, samples } => {
                (image.span, samples.start, *pass != Pass::Extent)
            }
        }
    }

    #[test]
    fn nothing_is_handed_out_far_behind_what_is_not_done() {
        let spans = vec![span(Dtype::F64, 100, 3), span(Dtype::F32, 100, 9)];
        let queue = queue(spans, 4 * (100 + BESIDES));
        let mut out: Vec<_> = std::iter::from_fn(|| queue.try_take(&ALL)).collect();
        let found: Vec<_> = out.iter().map(told).collect();
        assert_eq!(found, [(0, 0, true), (0, 1, true), (0, 2, true), (1, 0, true)]);
        // What is done behind the first one makes no room.
        out.remove(2).done();
        assert!(queue.try_take(&ALL).is_none());
        // One that comes back is the first, and is handed out again, to who takes it.
        drop(out.remove(0));
        assert!(queue.try_take(&Appetite { everything: false, ..ALL }).is_none());
        let again = queue.try_take(&ALL).unwrap();
        assert_eq!(told(&again), (0, 0, true));
        again.done();
        let next: Vec<_> = std::iter::from_fn(|| queue.try_take(&ALL)).collect();
        assert_eq!(next.iter().map(told).collect::<Vec<_>>(), [(1, 1, true)]);
        out.into_iter().chain(next).for_each(Lease::done);
        let mut left = 0;
        while let Some(lease) = queue.try_take(&ALL) {
            lease.done();
            left += 1;
        }
        assert_eq!((left, queue.is_finished()), (7, true));
    }

    /// Of a giant all is known before its pixels are made, though its range was known before; its blocks wait
    /// for each other, and others for it.
    #[test]
    fn a_giant_is_looked_at_first_and_waited_for() {
        let spans = vec![span(Dtype::F32, 4000, 2), span(Dtype::F32, 10, 3)];
        let queue = queue(spans, 2000);
        let image = super::super::ImageId { span: 0, index: 0 };
        for giant in 0..2 {
            let looks: Vec<_> = std::iter::from_fn(|| queue.try_take(&ALL)).collect();
            let found: Vec<_> = looks.iter().map(told).collect();
            assert_eq!(found, [0, 1000, 2000, 3000].map(|first| (0, first, false)));
            let image = super::super::ImageId { index: giant, ..image };
            for (number, lease) in looks.into_iter().enumerate() {
                assert_eq!(queue.found(image), None);
                let nan = number as u64;
                assert!(lease.done_block(Extent { nan, ..Extent::EMPTY }).is_none());
            }
            assert_eq!(queue.found(image).unwrap().extent.nan, 6);
            let mut out: Vec<_> = std::iter::from_fn(|| queue.try_take(&ALL)).collect();
            assert_eq!(out.iter().map(told).collect::<Vec<_>>(), [(0, 0, true), (0, 1000, true)]);
            let _ = out.remove(1).done_block(Extent::EMPTY);
            assert!(queue.try_take(&ALL).is_none());
            drop(out);
            let mut blocks = 0;
            let found = loop {
                let lease = queue.try_take(&ALL).unwrap();
                blocks += 1;
                if let Some(found) = lease.done_block(Extent::EMPTY) {
                    break found;
                }
            };
            assert_eq!((blocks, found.extent.nan), (3, 6));
        }
        let small: Vec<_> = std::iter::from_fn(|| queue.try_take(&ALL)).collect();
        assert_eq!(small.len(), 3);
        small.into_iter().for_each(Lease::done);
        assert!(queue.is_finished());
    }
}
