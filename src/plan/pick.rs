//! A part of the images of a plan: every so many, some at random, the first ones.

use std::collections::HashSet;
use std::num::NonZeroU64;

use super::row::Row;
use crate::error::Error;

/// A part of all images, which are counted in the order of the plan. What is asked for is done one after
/// the other as it stands here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pick {
    /// One of so many: the first, and then each that is so many later.
    pub every: Option<NonZeroU64>,
    /// So many of them, at random: the same ones for the same seed.
    pub sample: Option<Sample>,
    /// The first so many.
    pub limit: Option<u64>,
}

/// Images that are taken at random.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// How many.
    pub count: u64,
    /// What decides which.
    pub seed: u64,
}

impl Pick {
    /// What is left of rows with so many images.
    pub(super) fn of(&self, mut rows: Vec<Row>, mut images: u64) -> Result<Vec<Row>, Error> {
        if let Some(every) = self.every {
            rows = rows.into_iter().filter_map(|row| row.thinned(every.get())).collect();
            images = number(&mut rows);
        }
        if let Some(sample) = self.sample.filter(|sample| sample.count < images) {
            let chosen = sample.of(images)?;
            rows = rows.into_iter().filter_map(|row| sampled(row, &chosen)).collect();
            number(&mut rows);
        }
        if let Some(limit) = self.limit {
            rows.retain(|row| row.first_image < limit);
            if let Some(last) = rows.last_mut() {
                last.images = last.images.min(limit - last.first_image);
            }
        }
        Ok(rows)
    }
}

/// Counts the images anew.
fn number(rows: &mut [Row]) -> u64 {
    rows.iter_mut().fold(0, |images, row| {
        row.first_image = images;
        images + row.images
    })
}

/// Those of a row's images whose numbers were chosen.
fn sampled(row: Row, chosen: &[u64]) -> Option<Row> {
    let first = row.first_image;
    let [begin, end] =
        [first, first + row.images].map(|bound| chosen.partition_point(|&image| image < bound));
    let of_row: Vec<u64> = chosen[begin..end].iter().map(|image| image - first).collect();
    (!of_row.is_empty()).then(|| row.chosen(&of_row))
}

impl Sample {
    /// Most images that are taken at random: their numbers are kept.
    const MOST: u64 = 1 << 26;

    /// So many numbers below `all`, in ascending order: Floyd's algorithm (CACM 30, 1987), with numbers of
    /// SplitMix64 brought below a bound by a product of twice as many bits.
    fn of(&self, all: u64) -> Result<Vec<u64>, Error> {
        if self.count > Sample::MOST {
            let problem = format!("--sample {}: {} are the most", self.count, Sample::MOST);
            return Err(Error::Usage(problem));
        }
        let mut state = self.seed;
        let mut below = |bound: u64| {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            let product = u128::from(z ^ (z >> 31)) * u128::from(bound);
            u64::try_from(product >> 64).expect("the upper half of a product of 64 bits each")
        };
        let mut chosen = HashSet::new();
        for last in all - self.count..all {
            let number = below(last + 1);
            if !chosen.insert(number) {
                chosen.insert(last);
            }
        }
        let mut chosen: Vec<u64> = chosen.into_iter().collect();
        chosen.sort_unstable();
        Ok(chosen)
    }
}
