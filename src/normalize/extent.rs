//! What one pass over samples finds out.

/// Least and greatest finite sample, and how many were not finite.
///
/// A monoid: [`Extent::EMPTY`] is the identity and [`Extent::merge`] is exact, associative and
/// commutative, so that blocks, threads and devices may be merged in any order. Samples of every
/// type fit: f32 widens to f64 without rounding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Extent {
    /// Least finite sample; +∞ where there is none. A zero is +0.
    pub min: f64,
    /// Greatest finite sample; −∞ where there is none. A zero is +0.
    pub max: f64,
    /// Number of NaN.
    pub nan: u64,
    /// Number of +∞.
    pub pos_inf: u64,
    /// Number of −∞.
    pub neg_inf: u64,
    /// Number of finite samples (of an f64 image) that f32 rounds to ±∞.
    pub overflow: u64,
    /// Number of samples looked at: the witness that no sample was left out.
    pub visited: u64,
}

impl Extent {
    /// The extent of no samples.
    pub const EMPTY: Extent = Extent {
        min: f64::INFINITY,
        max: f64::NEG_INFINITY,
        nan: 0,
        pos_inf: 0,
        neg_inf: 0,
        overflow: 0,
        visited: 0,
    };

    /// The least magnitude that f32 rounds to ∞: half a unit in the last place above its greatest
    /// finite value, where the tie goes to even.
    pub(crate) const OVERFLOW: f64 = 340282356779733661637539395458142568448.0;

    /// The extent of one sample.
    #[must_use]
    pub fn of(sample: f64) -> Extent {
        let mut extent = Extent { visited: 1, ..Extent::EMPTY };
        if sample.is_nan() {
            extent.nan = 1;
        } else if sample == f64::INFINITY {
            extent.pos_inf = 1;
        } else if sample == f64::NEG_INFINITY {
            extent.neg_inf = 1;
        } else {
            extent.min = sample + 0.0; // −0 + 0 = +0
            extent.max = sample + 0.0;
            extent.overflow = u64::from(sample.abs() >= Extent::OVERFLOW);
        }
        extent
    }

    /// The extent of both sets of samples together.
    #[must_use]
    pub fn merge(self, other: Extent) -> Extent {
        Extent {
            min: if other.min < self.min { other.min } else { self.min },
            max: if other.max > self.max { other.max } else { self.max },
            nan: self.nan + other.nan,
            pos_inf: self.pos_inf + other.pos_inf,
            neg_inf: self.neg_inf + other.neg_inf,
            overflow: self.overflow + other.overflow,
            visited: self.visited + other.visited,
        }
    }

    /// Number of samples that are NaN or infinite.
    #[must_use]
    pub fn nonfinite(&self) -> u64 {
        self.nan + self.pos_inf + self.neg_inf
    }

    /// Whether any sample is finite.
    #[must_use]
    pub fn has_finite(&self) -> bool {
        self.min <= self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn extent() -> impl Strategy<Value = Extent> {
        let sample = prop_oneof![
            any::<f32>().prop_map(f64::from),
            any::<f64>(),
            Just(0.0),
            Just(-0.0),
            Just(f64::NAN),
            Just(f64::INFINITY),
            Just(f64::NEG_INFINITY),
        ];
        prop::collection::vec(sample, 0..5)
            .prop_map(|s| s.into_iter().map(Extent::of).fold(Extent::EMPTY, Extent::merge))
    }

    fn bits(e: Extent) -> [u64; 7] {
        [e.min.to_bits(), e.max.to_bits(), e.nan, e.pos_inf, e.neg_inf, e.overflow, e.visited]
    }

    #[test]
    #[allow(clippy::cast_possible_truncation, reason = "the rounding is what is tested")]
    fn overflow_is_where_f32_rounds_to_infinity() {
        let least = Extent::OVERFLOW;
        for (x, overflows) in [(least, 1), (least.next_down(), 0), (-least, 1), (-1e300, 1)] {
            assert_eq!(u64::from((x as f32).is_infinite()), overflows, "{x}");
            assert_eq!(Extent::of(x).overflow, overflows, "{x}");
        }
        assert_eq!(Extent::of(f64::INFINITY).overflow, 0);
    }

    proptest! {
        #[test]
        fn merging_is_a_commutative_monoid(a in extent(), b in extent(), c in extent()) {
            prop_assert_eq!(bits(a.merge(b).merge(c)), bits(a.merge(b.merge(c))));
            prop_assert_eq!(bits(a.merge(b)), bits(b.merge(a)));
            prop_assert_eq!(bits(a.merge(Extent::EMPTY)), bits(a));
        }
    }
}
