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
        visited: 0,
    };

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
            Just(0.0),
            Just(-0.0),
            Just(f64::NAN),
            Just(f64::INFINITY),
            Just(f64::NEG_INFINITY),
        ];
        prop::collection::vec(sample, 0..5)
            .prop_map(|s| s.into_iter().map(Extent::of).fold(Extent::EMPTY, Extent::merge))
    }

    fn bits(e: Extent) -> [u64; 6] {
        [e.min.to_bits(), e.max.to_bits(), e.nan, e.pos_inf, e.neg_inf, e.visited]
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
