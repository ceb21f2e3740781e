//! Exact sums of samples and of their squares, and mean and deviation from them.
//!
//! Every finite float is a whole number of units of 2^−1074, and every square of one a whole
//! number of 2^−2148: sums of them are whole numbers too, kept in [`Fixed`] without any rounding.
//! So adding is associative and commutative, blocks may be merged in any order, and the results
//! are rounded once. They equal those of Python's `math.fsum`.
//!
//! Samples are first added up by exponent, as whole mantissas, which is as fast as a table.

/// Samples after which the tables of mantissas are emptied: squares of 24 bits add up to 63 bits.
const FLUSH: u32 = 1 << 15;

/// A whole number of units of 2^[`LOWEST`], below 2^2300 in magnitude, as two's complement.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fixed {
    limbs: [u64; LIMBS],
}

/// The unit: 34 limbs reach below 2^−2148.
const LOWEST: i32 = -64 * 34;
/// Enough for 2^64 squares of 2^1024.
const LIMBS: usize = 34 + 36;

impl Fixed {
    const ZERO: Fixed = Fixed { limbs: [0; LIMBS] };

    /// Adds `value` · 2^`exponent`.
    ///
    /// # Panics
    /// If the exponent is below the unit's: finite floats and their squares have none such.
    fn add(&mut self, value: i128, exponent: i32) {
        let place = u32::try_from(exponent - LOWEST).expect("no bit is below the unit");
        let (limb, shift) = ((place / 64) as usize, place % 64);
        let sign = if value < 0 { u64::MAX } else { 0 };
        let [low, high] = halves(value.cast_unsigned());
        let words = if shift == 0 {
            [low, high, sign]
        } else {
            [
                low << shift,
                (low >> (64 - shift)) | (high << shift),
                (high >> (64 - shift)) | (sign << shift),
            ]
        };
        let mut carry = false;
        for at in limb..LIMBS {
            let word = words.get(at - limb).copied().unwrap_or(sign);
            // From here on nothing changes any more.
            if at - limb > 2 && carry == (sign != 0) {
                break;
            }
            let (sum, over) = self.limbs[at].overflowing_add(word);
            let (sum, over_again) = sum.overflowing_add(u64::from(carry));
            self.limbs[at] = sum;
            carry = over || over_again;
        }
    }

    fn merge(&mut self, other: &Fixed) {
        let mut carry = false;
        for (own, &word) in self.limbs.iter_mut().zip(&other.limbs) {
            let (sum, over) = own.overflowing_add(word);
            let (sum, over_again) = sum.overflowing_add(u64::from(carry));
            *own = sum;
            carry = over || over_again;
        }
    }

    fn is_negative(&self) -> bool {
        self.limbs[LIMBS - 1] >> 63 == 1
    }

    fn negated(&self) -> Fixed {
        let mut result = Fixed { limbs: self.limbs.map(|limb| !limb) };
        let mut carry = true;
        for limb in &mut result.limbs {
            (*limb, carry) = limb.overflowing_add(u64::from(carry));
        }
        result
    }

    /// Adds `other` · `factor` · 2^`exponent`, of a sum of floats and the parts of a float: their
    /// product is no finer than the unit, nor is any limb's.
    fn add_product(&mut self, other: &Fixed, factor: i64, exponent: i32) {
        let (other, factor) =
            if other.is_negative() { (other.negated(), -factor) } else { (other.clone(), factor) };
        for (place, &limb) in (LOWEST..).step_by(64).zip(&other.limbs) {
            // Half a limb at a time: 32 bits times 54.
            for (half, place) in [(limb & 0xFFFF_FFFF, place), (limb >> 32, place + 32)] {
                if half != 0 {
                    self.add(i128::from(half) * i128::from(factor), place + exponent);
                }
            }
        }
    }

    /// The number as mantissa · 2^exponent with a mantissa in 2^52..=2^53, rounded to nearest even
    /// as an f64 without bounds of its exponent; 0 · 2^0 of zero.
    fn rounded(&self) -> (f64, i32) {
        let (magnitude, sign) =
            if self.is_negative() { (self.negated(), -1.0) } else { (self.clone(), 1.0) };
        let Some(top) = magnitude.limbs.iter().rposition(|&limb| limb != 0) else {
            return (0.0, 0);
        };
        let limb = |at: usize| magnitude.limbs[at];
        let below = if top > 0 { limb(top - 1) } else { 0 };
        let pair = (u128::from(limb(top)) << 64) | u128::from(below);
        let lift = pair.leading_zeros();
        let rest = magnitude.limbs[..top.saturating_sub(1)].iter().any(|&limb| limb != 0);
        // 53 bits, the next one, and whether anything is below.
        let word = pair << lift;
        let mantissa = halves(word >> 75)[0];
        let half = (word >> 74) & 1 == 1;
        let sticky = word & ((1 << 74) - 1) != 0 || rest;
        let up = half && (sticky || mantissa & 1 == 1);
        let place = i32::try_from(64 * top).unwrap_or(0) - 64 - lift.cast_signed() + 75;
        // 2^53 is as exact as any below it.
        (sign * (mantissa + u64::from(up)) as f64, LOWEST + place)
    }
}

#[allow(clippy::cast_possible_truncation, reason = "it takes both halves")]
fn halves(value: u128) -> [u64; 2] {
    [value as u64, (value >> 64) as u64]
}

/// Sums of samples: a monoid, as [`Extent`](super::Extent) is.
#[derive(Debug, Clone)]
pub(crate) struct Sums {
    /// Finite samples.
    count: u64,
    sum: Fixed,
    squares: Fixed,
    /// Mantissas, and squares of mantissas, by exponent.
    narrow: Option<Box<[(i64, u64); 256]>>,
    wide: Option<Box<[(i128, u128)]>>,
    since: u32,
}

/// Mean and standard deviation of a population.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moments {
    /// The sum, rounded to f64, over the count, rounded to the working type.
    pub mean: f64,
    /// Of the squares of the differences from that mean: their exact sum rounded to f64, over the
    /// count, rounded to the working type; the square root of that in the working type.
    pub std: f64,
}

impl Sums {
    pub(crate) const EMPTY: Sums = Sums {
        count: 0,
        sum: Fixed::ZERO,
        squares: Fixed::ZERO,
        narrow: None,
        wide: None,
        since: 0,
    };

    /// Adds the finite ones of some samples.
    pub(crate) fn add_f32(&mut self, samples: &[f32]) {
        for samples in samples.chunks(FLUSH as usize) {
            self.room(samples.len());
            let table = self.narrow.get_or_insert_with(|| Box::new([(0, 0); 256]));
            let mut count = 0;
            for x in samples {
                let bits = x.to_bits();
                let exponent = (bits >> 23) & 0xFF;
                let hidden = u32::from(exponent > 0) << 23;
                let mantissa = u64::from((bits & 0x7F_FFFF) | hidden);
                let signed = mantissa.cast_signed();
                let entry = &mut table[exponent as usize];
                entry.0 += if bits >> 31 == 1 { -signed } else { signed };
                // Of exponent 255, which is not finite and not used, it may go round.
                entry.1 = entry.1.wrapping_add(mantissa * mantissa);
                count += u64::from(exponent < 255);
            }
            table[255] = (0, 0);
            self.count += count;
        }
    }

    /// Adds f32 samples that were added up by exponent: mantissas, and squares of them; so many.
    pub(crate) fn add_by_exponent(&mut self, table: &[(i64, u128)], count: u64) {
        for (exponent, (mantissas, squares)) in (0..).zip(table) {
            let place = i32::max(exponent, 1) - 127 - 23;
            if *squares > 0 {
                self.sum.add((*mantissas).into(), place);
                self.squares.add(squares.cast_signed(), 2 * place);
            }
        }
        self.count += count;
    }

    /// Whether both have the same sums.
    pub(crate) fn is_same(&mut self, other: &mut Sums) -> bool {
        self.flush();
        other.flush();
        (self.count, &self.sum, &self.squares) == (other.count, &other.sum, &other.squares)
    }

    /// The same of f64.
    pub(crate) fn add_f64(&mut self, samples: &[f64]) {
        for samples in samples.chunks(FLUSH as usize) {
            self.room(samples.len());
            let table = self.wide.get_or_insert_with(|| vec![(0, 0); 2048].into_boxed_slice());
            for x in samples.iter().filter(|x| x.is_finite()) {
                let bits = x.to_bits();
                let exponent = (bits >> 52) & 0x7FF;
                let hidden = u64::from(exponent > 0) << 52;
                let mantissa = (bits & ((1 << 52) - 1)) | hidden;
                let signed = i128::from(mantissa);
                let entry = &mut table[exponent as usize];
                entry.0 += if bits >> 63 == 1 { -signed } else { signed };
                entry.1 += u128::from(mantissa) * u128::from(mantissa);
                self.count += 1;
            }
        }
    }

    /// Empties the tables if they might not hold so many samples more.
    fn room(&mut self, samples: usize) {
        let samples = u32::try_from(samples).unwrap_or(FLUSH);
        if self.since + samples > FLUSH {
            self.flush();
        }
        self.since += samples;
    }

    fn flush(&mut self) {
        self.since = 0;
        let Sums { sum, squares, narrow, wide, .. } = self;
        for (exponent, entry) in (0..).zip(narrow.iter_mut().flat_map(|table| table.iter_mut())) {
            let place = i32::max(exponent, 1) - 127 - 23;
            let (mantissas, of_squares) = std::mem::take(entry);
            if of_squares > 0 {
                sum.add(mantissas.into(), place);
                squares.add(of_squares.into(), 2 * place);
            }
        }
        for (exponent, entry) in (0..).zip(wide.iter_mut().flat_map(|table| table.iter_mut())) {
            let place = i32::max(exponent, 1) - 1023 - 52;
            let (mantissas, of_squares) = std::mem::take(entry);
            if of_squares > 0 {
                sum.add(mantissas, place);
                // 2^15 squares of 106 bits: below 2^121.
                squares.add(of_squares.cast_signed(), 2 * place);
            }
        }
    }

    /// Adds what another one has.
    pub(crate) fn merge(&mut self, mut other: Sums) {
        other.flush();
        self.count += other.count;
        self.sum.merge(&other.sum);
        self.squares.merge(&other.squares);
    }

    /// Mean and deviation in f32, or in f64 where the working type is `wide`; `None` without a
    /// sample.
    #[allow(clippy::cast_possible_truncation, reason = "rounding to the working type")]
    pub(crate) fn moments(&mut self, wide: bool) -> Option<Moments> {
        self.flush();
        if self.count == 0 {
            return None;
        }
        let working = |x: f64| if wide { x } else { f64::from(x as f32) };
        let count = self.count as f64;
        let over_count = |sum: &Fixed| {
            let (mantissa, exponent) = sum.rounded();
            let sum = libm::scalbn(mantissa, exponent);
            // A sum that leaves f64 may have a mean that does not.
            if sum.is_finite() { sum / count } else { libm::scalbn(mantissa / count, exponent) }
        };
        let mean = working(over_count(&self.sum));
        // Σ(x − m)² = Σx² − 2m·Σx + n·m²
        let (mantissa, exponent) = parts(mean);
        let mut about = self.squares.clone();
        about.add_product(&self.sum, -2 * mantissa, exponent);
        let mut count = Fixed::ZERO;
        count.add(self.count.into(), 0);
        let mut of_mean = Fixed::ZERO;
        // In two steps: |m| · n, then · |m|; none has bits below the unit.
        of_mean.add_product(&count, mantissa.abs(), exponent);
        about.add_product(&of_mean, mantissa.abs(), exponent);
        let variance = working(over_count(&about));
        let std = if wide { variance.sqrt() } else { f64::from((variance as f32).sqrt()) };
        Some(Moments { mean, std })
    }
}

/// A finite x as mantissa · 2^exponent.
fn parts(x: f64) -> (i64, i32) {
    let bits = x.to_bits();
    let exponent = (bits >> 52) & 0x7FF;
    let mantissa = (bits & ((1 << 52) - 1)) | (u64::from(exponent > 0) << 52);
    let mantissa = mantissa.cast_signed();
    let exponent = i32::try_from(exponent.max(1)).unwrap_or(1) - 1023 - 52;
    (if bits >> 63 == 1 { -mantissa } else { mantissa }, exponent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normalize::oracle::sum as fsum;
    use proptest::prelude::*;

    /// By exact terms: products of f32 are exact in f64, and of f64 they are two numbers.
    #[allow(clippy::cast_possible_truncation, reason = "rounding to the working type")]
    fn want(samples: &[f64], wide: bool) -> Moments {
        let finite = || samples.iter().copied().filter(|x| x.is_finite());
        let working = |x: f64| if wide { x } else { f64::from(x as f32) };
        let n = finite().count() as f64;
        let mean = working(fsum(finite()) / n);
        let two = |a: f64, b: f64| [a * b, a.mul_add(b, -(a * b))];
        let terms = finite().flat_map(|x| {
            let [a, b, c] = [two(x, x), two(-2.0 * mean, x), two(mean, mean)];
            a.into_iter().chain(b).chain(c)
        });
        let variance = working(fsum(terms) / n);
        let std = if wide { variance.sqrt() } else { f64::from((variance as f32).sqrt()) };
        Moments { mean, std }
    }

    #[allow(clippy::cast_possible_truncation, reason = "they were f32")]
    fn check(samples: &[f64], wide: bool) {
        let add = |sums: &mut Sums, part: &[f64]| {
            if wide {
                sums.add_f64(part);
            } else {
                sums.add_f32(&part.iter().map(|&x| x as f32).collect::<Vec<_>>());
            }
        };
        let mut whole = Sums::EMPTY;
        add(&mut whole, samples);
        let [mut parts, mut other] = [Sums::EMPTY; 2];
        for (at, part) in samples.chunks(3).enumerate() {
            add(if at % 2 == 0 { &mut parts } else { &mut other }, part);
        }
        other.merge(parts);
        let got = whole.moments(wide);
        assert_eq!(got, other.moments(wide), "in parts, {samples:?}");
        if samples.iter().any(|x| x.is_finite()) {
            assert_eq!(got, Some(want(samples, wide)), "{samples:?}");
        } else {
            assert_eq!(got, None);
        }
    }

    #[test]
    fn sums_that_cancel_keep_what_is_left() {
        let large = f64::from(1e30_f32);
        check(&[large, 1.0, -large, 2.0], false);
        check(&[1e150, 1.0, -1e150, 2.0], true);
        check(&[f64::from(f32::MAX); 7], false);
        let [little, large] = [1e-45_f32, 1e38].map(f64::from);
        check(&[little, -little, large, f64::NAN, f64::INFINITY], false);
        check(&[], true);
        check(&[f64::NAN], true);
        check(&[0.0, -0.0], false);
        // Sums beyond f64 have a mean all the same.
        let mut sums = Sums::EMPTY;
        sums.add_f64(&[f64::MAX; 4]);
        assert_eq!(sums.moments(true), Some(Moments { mean: f64::MAX, std: 0.0 }));
        let mut sums = Sums::EMPTY;
        sums.add_f64(&[5e-324, 0.0, -0.0, 5e-324]);
        assert_eq!(sums.moments(true).map(|m| m.mean), Some(0.0), "half of the least, to even");
    }

    #[test]
    fn tables_are_emptied_in_time() {
        let samples = vec![1.999_999_9_f32; 200_000];
        let mut sums = Sums::EMPTY;
        samples.chunks(70_001).for_each(|part| sums.add_f32(part));
        let got = sums.moments(false).unwrap();
        assert_eq!(got, Moments { mean: f64::from(1.999_999_9_f32), std: 0.0 });
        let mut sums = Sums::EMPTY;
        (0..10).for_each(|_| sums.add_f64(&[f64::from_bits(0x3FFF_FFFF_FFFF_FFFF); 9999]));
        assert_eq!(sums.moments(true).unwrap().mean.to_bits(), 0x3FFF_FFFF_FFFF_FFFF);
    }

    proptest! {
        #[test]
        fn moments_are_those_of_exact_sums(
            bits in prop::collection::vec(any::<u32>(), 0..40),
            near in prop::collection::vec(-1000.0..1000.0_f32, 0..40),
            wide in any::<bool>(),
        ) {
            let any: Vec<f64> = bits.iter().map(|&b| f64::from(f32::from_bits(b))).collect();
            let near: Vec<f64> = near.iter().map(|&x| f64::from(x)).collect();
            check(&near, wide);
            // In f64 the squares of the least f32 are no two numbers any more.
            check(&any, false);
            let thirds: Vec<f64> = near.iter().map(|x| x / 3.0).collect();
            check(&thirds, true);
        }
    }
}
