//! What a norm needs to know of a scope, found out in as many passes over its samples as it takes.

use super::extent;
use crate::backend::{Answer, Question};
use crate::normalize::quantiles::{self, Key, Refinement, key_of_f32, key_of_f64};
use crate::normalize::sums::Sums;
use crate::normalize::{Extent, Norm, Stats};
use crate::tensor::Dtype;

/// What is wanted of a scope beside its extent.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Wanted {
    /// Mean and deviation.
    pub(crate) moments: bool,
    /// Percentiles, ascending.
    pub(crate) percents: Vec<f64>,
    /// How many samples are 0.
    pub(crate) zeros: bool,
}

impl Wanted {
    /// What a norm needs.
    pub(crate) fn of(norm: Norm) -> Wanted {
        match norm {
            Norm::ZScore { .. } => Wanted { moments: true, ..Wanted::default() },
            Norm::Percentile { low, high } => {
                Wanted { percents: vec![low, high], ..Wanted::default() }
            }
            Norm::MinMax | Norm::Symmetric | Norm::Fixed { .. } | Norm::None => Wanted::default(),
        }
    }

    /// Whether the extent is enough.
    pub(crate) fn is_nothing(&self) -> bool {
        !self.moments && self.percents.is_empty() && !self.zeros
    }

    /// The order statistics that the percentiles lie between, ascending, of so many samples.
    fn places(&self, count: u64) -> Vec<u64> {
        let mut places: Vec<u64> =
            self.percents.iter().flat_map(|&p| quantiles::places(count, p).0).collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    /// The percentiles, from the values at those places.
    fn percentiles(&self, count: u64, values: impl Fn(u64) -> f64) -> Vec<f64> {
        let percentile = |&percent: &f64| {
            let (places, t) = quantiles::places(count, percent);
            quantiles::between(places.map(&values), t) + 0.0
        };
        self.percents.iter().map(percentile).collect()
    }
}

/// What was found out.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Gathered {
    pub(crate) stats: Stats,
    /// All that were wanted, in their order; none without a finite sample.
    pub(crate) percentiles: Vec<f64>,
    /// If that was wanted.
    pub(crate) zeros: u64,
}

impl Gathered {
    fn new(extent: Extent, sums: Option<&mut Sums>, wide: bool, percentiles: Vec<f64>) -> Gathered {
        let moments = sums.and_then(|sums| sums.moments(wide));
        let both = percentiles.first_chunk().copied();
        Gathered { stats: Stats { extent, moments, percentiles: both }, percentiles, zeros: 0 }
    }
}

/// Samples of one thread's part of a scope, pass after pass. What several threads gathered in one
/// pass merges in any order.
#[derive(Debug, Clone)]
pub(crate) struct Gatherer {
    wanted: Wanted,
    /// Whether the scope works in f64.
    wide: bool,
    extent: Extent,
    zeros: u64,
    sums: Option<Sums>,
    order: Option<Refinement>,
    /// Passes that are over.
    passes: u32,
}

impl Gatherer {
    pub(crate) fn new(wanted: Wanted, wide: bool) -> Gatherer {
        let order = (!wanted.percents.is_empty())
            .then(|| Refinement::new(if wide { u64::BITS } else { u32::BITS }));
        let sums = wanted.moments.then_some(Sums::EMPTY);
        Gatherer { wanted, wide, extent: Extent::EMPTY, zeros: 0, sums, order, passes: 0 }
    }

    /// The same with nothing gathered in this pass, for another thread.
    pub(crate) fn fresh(&self) -> Gatherer {
        Gatherer {
            wanted: self.wanted.clone(),
            wide: self.wide,
            extent: Extent::EMPTY,
            zeros: 0,
            sums: self.sums.as_ref().map(|_| Sums::EMPTY),
            order: self.order.as_ref().map(Refinement::fresh),
            passes: self.passes,
        }
    }

    /// Looks at samples in this pass. In a scope that works in f64 they may be narrow.
    pub(crate) fn look_f32(&mut self, samples: &[f32]) {
        if self.passes == 0 {
            self.extent = self.extent.merge(extent::extent(samples));
            if self.wanted.zeros {
                self.zeros += zeros(samples);
            }
            if let Some(sums) = &mut self.sums {
                sums.add_f32(samples);
            }
        }
        let Some(order) = &mut self.order else { return };
        let finite = samples.iter().filter(|x| x.is_finite());
        if self.wide {
            order.look(finite.map(|&x| key_of_f64(x.into())));
        } else {
            order.look(finite.map(|&x| key_of_f32(x).into()));
        }
    }

    /// The same of f64.
    pub(crate) fn look_f64(&mut self, samples: &[f64]) {
        if self.passes == 0 {
            self.extent = self.extent.merge(extent::extent(samples));
            if self.wanted.zeros {
                self.zeros += zeros(samples);
            }
            if let Some(sums) = &mut self.sums {
                sums.add_f64(samples);
            }
        }
        if let Some(order) = &mut self.order {
            order.look(samples.iter().filter(|x| x.is_finite()).map(|&x| key_of_f64(x)));
        }
    }

    /// What is to be asked of samples of a type in this pass; `None` where the scope works in f64.
    pub(crate) fn question(&self, dtype: Dtype) -> Option<Question<'_>> {
        let (settled, prefixes) = match &self.order {
            None => (0, &[][..]),
            Some(order) => order.asks()?,
        };
        let sums = self.sums.is_some() && self.passes == 0;
        (!self.wide).then_some(Question { dtype, sums, settled, prefixes })
    }

    /// Adds an answer to that.
    pub(crate) fn answered(&mut self, answer: &Answer) {
        if self.passes == 0 {
            self.extent = self.extent.merge(answer.extent);
            if self.wanted.zeros {
                self.zeros += answer.zeros;
            }
            if let Some(sums) = &mut self.sums {
                sums.add_by_exponent(&answer.sums, finite(&answer.extent));
            }
        }
        if let Some(order) = &mut self.order {
            order.add(&answer.bins);
        }
    }

    /// Whether both gathered the same in this pass.
    pub(crate) fn is_same(&mut self, other: &mut Gatherer) -> bool {
        let sums = match (&mut self.sums, &mut other.sums) {
            (Some(own), Some(other)) => own.is_same(other),
            (own, other) => own.is_none() && other.is_none(),
        };
        let order = match (&self.order, &other.order) {
            (Some(own), Some(other)) => own.is_same(other),
            (own, other) => own.is_none() && other.is_none(),
        };
        sums && order && (self.extent, self.zeros) == (other.extent, other.zeros)
    }

    /// Adds what another thread gathered in this pass.
    pub(crate) fn merge(&mut self, other: Gatherer) {
        self.extent = self.extent.merge(other.extent);
        self.zeros += other.zeros;
        if let (Some(own), Some(other)) = (&mut self.sums, other.sums) {
            own.merge(other);
        }
        if let (Some(own), Some(other)) = (&mut self.order, &other.order) {
            own.merge(other);
        }
    }

    /// Ends a pass; whether another one is needed.
    pub(crate) fn next(&mut self) -> bool {
        let Some(order) = &mut self.order else { return false };
        if self.passes == 0 {
            let count = finite(&self.extent);
            if count == 0 {
                self.order = None;
                return false;
            }
            order.ask(&self.wanted.places(count));
        }
        self.passes += 1;
        order.next()
    }

    /// What was found, once no pass is needed any more.
    pub(crate) fn gathered(mut self) -> Gathered {
        let percentiles = match &self.order {
            None => Vec::new(),
            Some(order) => {
                let count = finite(&self.extent);
                let places = self.wanted.places(count);
                let keys: Vec<u64> = order.keys().collect();
                let value = |place| {
                    let key = keys[places.partition_point(|&other| other < place)];
                    if self.wide { key.value() } else { narrow(key).value() }
                };
                self.wanted.percentiles(count, value)
            }
        };
        let zeros = self.zeros;
        Gathered { zeros, ..Gathered::new(self.extent, self.sums.as_mut(), self.wide, percentiles) }
    }
}

fn zeros<T: Copy + Into<f64>>(samples: &[T]) -> u64 {
    samples.iter().filter(|x| (**x).into() == 0.0).count() as u64
}

#[allow(clippy::cast_possible_truncation, reason = "it was made from 32 bits")]
fn narrow(key: u64) -> u32 {
    key as u32
}

fn finite(extent: &Extent) -> u64 {
    // A device that is wrong may have counted anything.
    extent.visited.saturating_sub(extent.nonfinite())
}

/// The same at once, of samples that are all in memory, whose extent is known. `samples` is called
/// with a function that takes them piece by piece. The keys are kept for the next time.
pub(crate) struct AtOnce<'w> {
    wanted: &'w Wanted,
    /// Whether the scope works in f64.
    wide: bool,
    zeros: u64,
    sums: Option<Sums>,
    keys: &'w mut Keys,
}

/// Room for keys.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    narrow: Vec<u32>,
    wide: Vec<u64>,
}

impl<'w> AtOnce<'w> {
    pub(crate) fn new(wanted: &'w Wanted, wide: bool, keys: &'w mut Keys) -> AtOnce<'w> {
        keys.narrow.clear();
        keys.wide.clear();
        AtOnce { wanted, wide, zeros: 0, sums: wanted.moments.then_some(Sums::EMPTY), keys }
    }

    pub(crate) fn look_f32(&mut self, samples: &[f32]) {
        if self.wanted.zeros {
            self.zeros += zeros(samples);
        }
        if let Some(sums) = &mut self.sums {
            sums.add_f32(samples);
        }
        if !self.wanted.percents.is_empty() {
            if self.wide {
                let finite = samples.iter().filter(|x| x.is_finite());
                self.keys.wide.extend(finite.map(|&x| key_of_f64(x.into())));
            } else {
                add_keys(samples, &mut self.keys.narrow);
            }
        }
    }

    pub(crate) fn look_f64(&mut self, samples: &[f64]) {
        if self.wanted.zeros {
            self.zeros += zeros(samples);
        }
        if let Some(sums) = &mut self.sums {
            sums.add_f64(samples);
        }
        if !self.wanted.percents.is_empty() {
            let finite = samples.iter().filter(|x| x.is_finite());
            self.keys.wide.extend(finite.map(|&x| key_of_f64(x)));
        }
    }

    /// What was found, given the extent of the samples.
    pub(crate) fn gathered(mut self, extent: Extent) -> Gathered {
        let wide = self.wide;
        let count = finite(&extent);
        let percentiles = if count == 0 || self.wanted.percents.is_empty() {
            Vec::new()
        } else if wide {
            of_keys(self.wanted, count, &mut self.keys.wide)
        } else {
            of_keys(self.wanted, count, &mut self.keys.narrow)
        };
        let zeros = self.zeros;
        Gathered { zeros, ..Gathered::new(extent, self.sums.as_mut(), wide, percentiles) }
    }
}

/// Appends the keys of the finite samples: many at once where all are, which vectors do.
fn add_keys(samples: &[f32], keys: &mut Vec<u32>) {
    for samples in samples.chunks(256) {
        if samples.iter().fold(true, |all, x| all & x.is_finite()) {
            keys.extend(samples.iter().map(|&x| key_of_f32(x)));
        } else {
            keys.extend(samples.iter().filter(|x| x.is_finite()).map(|&x| key_of_f32(x)));
        }
    }
}

fn of_keys<K: Key>(wanted: &Wanted, count: u64, keys: &mut [K]) -> Vec<f64> {
    let places = wanted.places(count);
    let selected = quantiles::select(keys, &places);
    let value = |place| selected[places.partition_point(|&other| other < place)].value();
    wanted.percentiles(count, value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn passes_and_parts_find_what_is_found_at_once(
            samples in prop::collection::vec(
                prop_oneof![any::<f32>(), Just(f32::NAN), Just(f32::INFINITY), Just(-0.0), -2.0..2.0_f32],
                0..300,
            ),
            percents in prop::collection::vec(0.0..=100.0, 0..4),
            (moments, wide, zeros) in any::<(bool, bool, bool)>(),
        ) {
            let mut percents: Vec<f64> = percents;
            percents.sort_by(f64::total_cmp);
            let wanted = Wanted { moments, percents, zeros };
            let wider: Vec<f64> = samples.iter().map(|&x| f64::from(x) / 3.0).collect();
            let mut gatherer = Gatherer::new(wanted.clone(), wide);
            loop {
                let mut other = gatherer.fresh();
                for (at, range) in (0..samples.len()).step_by(7).enumerate() {
                    let range = range..samples.len().min(range + 7);
                    let to = if at % 2 == 0 { &mut other } else { &mut gatherer };
                    if wide { to.look_f64(&wider[range]) } else { to.look_f32(&samples[range]) }
                }
                gatherer.merge(other);
                if !gatherer.next() {
                    break;
                }
            }
            let mut keys = Keys::default();
            let mut at_once = AtOnce::new(&wanted, wide, &mut keys);
            let extent = if wide {
                at_once.look_f64(&wider);
                extent::extent(&wider)
            } else {
                at_once.look_f32(&samples);
                extent::extent(&samples)
            };
            prop_assert_eq!(gatherer.gathered(), at_once.gathered(extent));
        }
    }
}
