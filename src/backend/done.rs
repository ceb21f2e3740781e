//! Which images of a run were done before it began.

use std::ops::Range;

/// A set of images, by number in the plan: one bit each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Done {
    words: Vec<u64>,
    count: u64,
}

impl Done {
    /// No image of so many.
    #[must_use]
    pub fn none(images: u64) -> Done {
        let words = usize::try_from(images.div_ceil(64)).expect("a bit an image fits memory");
        Done { words: vec![0; words], count: 0 }
    }

    /// All of so many images but those of a range.
    #[must_use]
    pub fn all_but(images: u64, range: &Range<u64>) -> Done {
        let mut done = Done::none(images);
        (0..range.start.min(images)).chain(range.end..images).for_each(|image| done.insert(image));
        done
    }

    /// Adds an image.
    pub fn insert(&mut self, image: u64) {
        let (word, bit) = place(image);
        self.count += u64::from(self.words[word] & bit == 0);
        self.words[word] |= bit;
    }

    /// Takes an image out.
    pub fn remove(&mut self, image: u64) {
        let (word, bit) = place(image);
        self.count -= u64::from(self.words[word] & bit != 0);
        self.words[word] &= !bit;
    }

    /// Whether it is in the set.
    #[must_use]
    pub fn contains(&self, image: u64) -> bool {
        let (word, bit) = place(image);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many images from `from` on and before `end` are not in the set.
    #[must_use]
    pub fn missing(&self, from: u64, end: u64) -> u64 {
        let (mut at, mut missing) = (self.next(false, from, end), 0);
        while at < end {
            let until = self.next(true, at, end);
            missing += until - at;
            at = self.next(false, until, end);
        }
        missing
    }

    /// The first image from `from` on that is in the set, or not, as `wanted` says; `end` if none
    /// before it is.
    #[must_use]
    pub fn next(&self, wanted: bool, from: u64, end: u64) -> u64 {
        let mut at = from;
        while at < end {
            let (word, _) = place(at);
            let bits = if wanted { self.words[word] } else { !self.words[word] };
            let rest = bits >> (at % 64);
            if rest != 0 {
                return end.min(at + u64::from(rest.trailing_zeros()));
            }
            at = (at / 64 + 1) * 64;
        }
        end
    }
}

fn place(image: u64) -> (usize, u64) {
    let word = usize::try_from(image / 64).expect("a bit an image fits memory");
    (word, 1 << (image % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_is_the_one_that_looking_at_each_finds() {
        let mut done = Done::none(300);
        for image in [0, 1, 5, 63, 64, 65, 127, 128, 200, 256, 299] {
            done.insert(image);
            done.insert(image);
        }
        assert_eq!(done.count(), 11);
        for wanted in [false, true] {
            for from in 0..=300 {
                for end in [from, (from + 7).min(300), 300] {
                    let each = (from..end).find(|&at| done.contains(at) == wanted).unwrap_or(end);
                    assert_eq!(done.next(wanted, from, end), each, "{wanted} {from}..{end}");
                    let missing = (from..end).filter(|&at| !done.contains(at)).count() as u64;
                    assert_eq!(done.missing(from, end), missing, "{from}..{end}");
                }
            }
        }
    }
}
