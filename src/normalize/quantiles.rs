//! Percentiles: exact order statistics, and the interpolation between two of them.

/// The two order statistics that a percentile lies between, by their place from 0 on, and how far
/// it lies from the first: the virtual index (n − 1)·(percent / 100) in f64.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to n − 1")]
pub(crate) fn places(count: u64, percent: f64) -> ([u64; 2], f64) {
    let last = count.saturating_sub(1);
    let index = last as f64 * (percent / 100.0);
    if index >= last as f64 {
        return ([last; 2], 0.0);
    }
    let below = index.floor();
    ([below as u64, below as u64 + 1], index - below)
}

/// Between a and b, from the nearer end, as NumPy's `linear` method does it.
pub(crate) fn between([a, b]: [f64; 2], t: f64) -> f64 {
    let width = b - a;
    if !width.is_finite() {
        return 2.0 * between([a / 2.0, b / 2.0], t);
    }
    if t >= 0.5 { b - width * (1.0 - t) } else { a + width * t }
}

/// A number whose order is that of the finite floats; both zeros have one.
pub(crate) trait Key: Copy + Ord + Default {
    /// The value that it stands for.
    fn value(self) -> f64;
}

impl Key for u32 {
    fn value(self) -> f64 {
        let bits = if self >> 31 == 1 { self ^ 0x8000_0000 } else { !self };
        f64::from(f32::from_bits(bits))
    }
}

impl Key for u64 {
    fn value(self) -> f64 {
        f64::from_bits(if self >> 63 == 1 { self ^ (1 << 63) } else { !self })
    }
}

/// The key of a finite f32.
pub(crate) fn key_of_f32(x: f32) -> u32 {
    let bits = (x + 0.0).to_bits(); // −0 + 0 = +0
    if bits >> 31 == 1 { !bits } else { bits | 0x8000_0000 }
}

/// The key of a finite f64.
pub(crate) fn key_of_f64(x: f64) -> u64 {
    let bits = (x + 0.0).to_bits();
    if bits >> 63 == 1 { !bits } else { bits | (1 << 63) }
}

/// Bits of a key that one pass over the samples settles.
const LEVEL: u32 = 16;
const BINS: usize = 1 << LEVEL;

/// Order statistics of samples that are looked at several times, [`LEVEL`] bits of their keys each
/// time: radix refinement. What several threads saw of one pass merges in any order.
#[derive(Debug, Clone)]
pub(crate) struct Refinement {
    bits: u32,
    /// Bits that are settled.
    settled: u32,
    /// The wanted order statistics: the bits of their keys that are settled, and their place among
    /// the keys that begin so.
    wanted: Vec<(u64, u64)>,
    /// Keys that begin as a wanted one does, in order and each once; and how many samples have
    /// which bits next.
    prefixes: Vec<u64>,
    bins: Vec<Box<[u64]>>,
}

impl Refinement {
    /// For keys of so many bits.
    pub(crate) fn new(bits: u32) -> Refinement {
        let (settled, wanted) = (0, Vec::new());
        Refinement { bits, settled, wanted, prefixes: vec![0], bins: vec![zeros()] }
    }

    /// Says which places are asked for: when the first pass is over, and so the keys are counted.
    pub(crate) fn ask(&mut self, places: &[u64]) {
        self.wanted = places.iter().map(|&place| (0, place)).collect();
    }

    /// The same with nothing seen in this pass, for another thread.
    pub(crate) fn fresh(&self) -> Refinement {
        Refinement { bins: self.bins.iter().map(|_| zeros()).collect(), ..self.clone() }
    }

    /// Looks at keys in this pass.
    #[inline(always)]
    pub(crate) fn look(&mut self, keys: impl Iterator<Item = u64>) {
        let next = self.bits - self.settled - LEVEL;
        if let ([0], [bins], 0) = (&*self.prefixes, &mut *self.bins, self.settled) {
            keys.for_each(|key| bins[usize::from(low_bits(key >> next))] += 1);
            return;
        }
        for key in keys {
            // A shift by all bits gives 0, as it should.
            let prefix = key.checked_shr(next + LEVEL).unwrap_or(0);
            for (own, bins) in self.prefixes.iter().zip(&mut self.bins) {
                if *own == prefix {
                    bins[usize::from(low_bits(key >> next))] += 1;
                }
            }
        }
    }

    /// How many bits of keys are settled, and the prefixes of which the next bits are counted; `None` where
    /// keys have 64 bits.
    pub(crate) fn asks(&self) -> Option<(u32, &[u64])> {
        (self.bits == u32::BITS).then_some((self.settled, &self.prefixes[..]))
    }

    /// Adds counts of the next bits, prefix after prefix.
    pub(crate) fn add(&mut self, counts: &[u32]) {
        for (own, counts) in self.bins.iter_mut().zip(counts.chunks_exact(BINS)) {
            own.iter_mut().zip(counts).for_each(|(own, &count)| *own += u64::from(count));
        }
    }

    /// Whether both saw the same in this pass.
    pub(crate) fn is_same(&self, other: &Refinement) -> bool {
        self.bins == other.bins
    }

    /// Adds what another thread saw in this pass.
    pub(crate) fn merge(&mut self, other: &Refinement) {
        for (own, other) in self.bins.iter_mut().zip(&other.bins) {
            for (own, other) in own.iter_mut().zip(other) {
                *own += other;
            }
        }
    }

    /// Ends a pass; whether another one is needed.
    pub(crate) fn next(&mut self) -> bool {
        for (prefix, place) in &mut self.wanted {
            let Ok(at) = self.prefixes.binary_search(prefix) else { continue };
            let mut bin = 0;
            for (number, &samples) in (0..).zip(&*self.bins[at]) {
                bin = number;
                if *place < samples {
                    break;
                }
                *place -= samples;
            }
            *prefix = (*prefix << LEVEL) | bin;
        }
        self.settled += LEVEL;
        self.prefixes = self.wanted.iter().map(|(prefix, _)| *prefix).collect();
        self.prefixes.sort_unstable();
        self.prefixes.dedup();
        let more = self.settled < self.bits;
        self.bins = if more { self.prefixes.iter().map(|_| zeros()).collect() } else { Vec::new() };
        more
    }

    /// The keys, in the order in which they were asked for, once no pass is needed any more.
    pub(crate) fn keys(&self) -> impl Iterator<Item = u64> + '_ {
        self.wanted.iter().map(|(key, _)| *key)
    }
}

#[allow(clippy::cast_possible_truncation, reason = "that is what it is for")]
fn low_bits(key: u64) -> u16 {
    key as u16
}

fn zeros() -> Box<[u64]> {
    vec![0; BINS].into_boxed_slice()
}

/// The keys at these places of the order, which must be ascending and within it; the keys are left
/// in another order.
pub(crate) fn select<K: Key>(keys: &mut [K], places: &[u64]) -> Vec<K> {
    let mut selected: Vec<K> = Vec::with_capacity(places.len());
    // All before this place are no greater than all from it on.
    let mut from = 0;
    for &place in places {
        let place = usize::try_from(place).expect("it is within the keys");
        // One that is asked for again was the last.
        if place >= from {
            // Of two neighbours, as a percentile lies between, the second is the least of the rest.
            let (_, key, _) = keys[from..].select_nth_unstable(place - from);
            selected.push(*key);
            from = place + 1;
        } else if let Some(&last) = selected.last() {
            selected.push(last);
        }
    }
    selected
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_have_the_order_and_the_values_of_floats() {
        let all = [-f32::MAX, -1.0, -1e-45, 0.0, 1e-45, 1.0, f32::MAX];
        assert!(all.is_sorted_by(|a, b| key_of_f32(*a) < key_of_f32(*b)));
        for x in all {
            assert_eq!(key_of_f32(x).value(), f64::from(x));
            assert_eq!(key_of_f64(x.into()).value(), f64::from(x));
        }
        assert_eq!(key_of_f32(-0.0), key_of_f32(0.0));
        assert_eq!(key_of_f64(-0.0).value().to_bits(), 0);
    }

    #[test]
    fn places_and_values_are_those_of_numpy() {
        // numpy.percentile([..], p) of 0..10 and of a few others.
        let at = |samples: &[f64], p: f64| {
            let ([a, b], t) = places(samples.len() as u64, p);
            between([a, b].map(|at| samples[usize::try_from(at).unwrap()]), t)
        };
        let ten: Vec<f64> = (0..10).map(f64::from).collect();
        for (p, want) in [(0.0, 0.0), (1.0, 0.09), (25.0, 2.25), (50.0, 4.5), (99.0, 8.91)] {
            assert_eq!(at(&ten, p), want, "{p}");
        }
        assert_eq!(at(&ten, 100.0), 9.0);
        assert_eq!(at(&[3.0], 99.0), 3.0);
        assert_eq!(at(&[-f64::MAX, f64::MAX], 50.0), 0.0);
    }

    proptest! {
        #[test]
        fn refining_and_selecting_find_what_sorting_finds(
            samples in prop::collection::vec(any::<f64>().prop_filter("finite", |x| x.is_finite()), 1..200),
            few in prop::collection::vec(0..4_u32, 1..200),
            places in prop::collection::vec(any::<prop::sample::Index>(), 1..5),
        ) {
            let keys: Vec<u64> = samples.iter().map(|&x| key_of_f64(x)).collect();
            check(&keys, 64, &places);
            let few: Vec<u64> = few.iter().map(|&x| key_of_f32(x as f32).into()).collect();
            check(&few, 32, &places);
        }
    }

    fn check(keys: &[u64], bits: u32, places: &[prop::sample::Index]) {
        let mut places: Vec<u64> =
            places.iter().map(|index| index.index(keys.len()) as u64).collect();
        places.sort_unstable();
        let mut sorted = keys.to_vec();
        sorted.sort_unstable();
        let want: Vec<u64> =
            places.iter().map(|&place| sorted[usize::try_from(place).unwrap()]).collect();
        assert_eq!(select(&mut keys.to_vec(), &places), want);
        let mut whole = Refinement::new(bits);
        let mut passes = 1;
        loop {
            let mut other = whole.fresh();
            for (at, &key) in keys.iter().enumerate() {
                if at % 3 == 0 { &mut other } else { &mut whole }.look([key].into_iter());
            }
            whole.merge(&other);
            if passes == 1 {
                whole.ask(&places);
            }
            if !whole.next() {
                break;
            }
            passes += 1;
        }
        assert_eq!(whole.keys().collect::<Vec<_>>(), want);
        assert_eq!(passes, bits / LEVEL);
    }
}
