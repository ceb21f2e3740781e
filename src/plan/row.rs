//! One tensor's images: where each lies in the tensor, and its indices. Numbers of images and
//! offsets do not overflow, as a row is made only of a tensor whose bytes fit 64 bits; an `index`
//! is below `images`.

use std::iter;
use std::ops::Range;
use std::sync::Arc;

use crate::tensor::{Dtype, IndexAxis};

/// One tensor's images: planes of its last two axes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Index of the tensor in the source.
    pub tensor: usize,
    /// Element type.
    pub dtype: Dtype,
    /// Length of the last axis, at least 1; fits `u32`.
    pub width: u64,
    /// Length of the axis before it, at least 1; fits `u32`.
    pub height: u64,
    /// Number of images, at least 1.
    pub images: u64,
    /// Number of images in all rows before.
    pub first_image: u64,
    /// Number of the group that its tensor is of, where tensors are grouped.
    pub group: usize,
    /// Axes before the last two, outermost first.
    pub(super) axes: Vec<u64>,
    /// What their indices are called, where they are not called by themselves.
    pub(super) called: Option<Arc<[IndexAxis]>>,
    pub(super) taken: Taken,
}

/// Which planes of a tensor are its images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Taken {
    /// The first ones, as many as there are images.
    First,
    /// One of so many, from one on.
    Every { first: u64, step: u64 },
    /// These, in ascending order.
    These(Arc<[u64]>),
}

impl Row {
    /// Samples per image.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.width * self.height
    }

    /// Bytes of samples in all images.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.images * self.image_bytes()
    }

    fn image_bytes(&self) -> u64 {
        self.samples() * self.dtype.size() as u64
    }

    /// Which plane of the tensor, in C order over the axes before the last two, an image is.
    #[must_use]
    pub fn plane(&self, index: u64) -> u64 {
        match &self.taken {
            Taken::First => index,
            Taken::Every { first, step } => first + index * step,
            Taken::These(planes) => planes[usize::try_from(index).unwrap_or(usize::MAX)],
        }
    }

    /// The image that a plane is.
    fn image_of(&self, plane: u64) -> Option<u64> {
        let index = match &self.taken {
            Taken::First => plane,
            Taken::Every { first, step } => {
                let behind = plane.checked_sub(*first)?;
                behind.is_multiple_of(*step).then(|| behind / step)?
            }
            Taken::These(planes) => planes.binary_search(&plane).ok()? as u64,
        };
        (index < self.images).then_some(index)
    }

    /// Where an image's bytes begin in the tensor.
    #[must_use]
    pub fn byte_offset(&self, index: u64) -> u64 {
        self.plane(index) * self.image_bytes()
    }

    /// Whether each image's bytes follow the last one's.
    #[must_use]
    pub fn contiguous(&self) -> bool {
        matches!(self.taken, Taken::First | Taken::Every { step: 1, .. })
    }

    /// Of one image in `every`, and of them all but the first `most`. The row's images are numbers
    /// `first_image` on of all. `None` where none is left.
    pub(super) fn thinned(mut self, every: u64) -> Option<Row> {
        let begin = (every - self.first_image % every) % every;
        if begin >= self.images {
            return None;
        }
        let (first, step) = match self.taken {
            Taken::Every { first, step } => (first, step),
            _ => (0, 1),
        };
        self.taken = Taken::Every { first: first + begin * step, step: step.saturating_mul(every) };
        self.images = (self.images - begin).div_ceil(every);
        Some(self)
    }

    /// Of the images with these numbers in the row, which ascend.
    pub(super) fn chosen(mut self, images: &[u64]) -> Row {
        let planes = images.iter().map(|&image| self.plane(image)).collect();
        (self.taken, self.images) = (Taken::These(planes), images.len() as u64);
        self
    }

    /// The axis of channels, `C` or the last before the image's: its length, and how many planes its
    /// neighbours are apart.
    fn channel_axis(&self) -> (u64, u64) {
        let lettered =
            |called: &[IndexAxis]| called.iter().position(|axis| axis.letter == Some('C'));
        let of_letter = self.called.as_deref().and_then(lettered);
        match of_letter.or(self.axes.len().checked_sub(1)) {
            Some(at) => (self.axes[at], self.axes[at + 1..].iter().product()),
            None => (1, 1),
        }
    }

    /// Number of channels among the images, of which some may have none.
    #[must_use]
    pub fn channels(&self) -> u64 {
        if self.has_one_channel() { 1 } else { self.channel_axis().0 }
    }

    fn has_one_channel(&self) -> bool {
        let (channels, apart) = self.channel_axis();
        let step = if let Taken::Every { step, .. } = self.taken { step } else { 1 };
        channels == 1 || (apart == 1 && step.is_multiple_of(channels))
    }

    /// Which of the channels an image is of.
    #[must_use]
    pub fn channel(&self, index: u64) -> u64 {
        let (channels, apart) = self.channel_axis();
        if self.has_one_channel() { 0 } else { self.plane(index) / apart % channels }
    }

    /// What the index of an image on the axis of channels is called; `None` without axes of indices.
    #[must_use]
    pub fn channel_called(&self, index: u64) -> Option<u64> {
        let lettered =
            |called: &[IndexAxis]| called.iter().position(|axis| axis.letter == Some('C'));
        let at = self.called.as_deref().and_then(lettered).or(self.axes.len().checked_sub(1))?;
        self.indices(index).get(at).copied()
    }

    /// The images of a channel, in runs of neighbours.
    pub(super) fn of_channel(
        &self,
        channel: u64,
    ) -> Box<dyn Iterator<Item = Range<u64>> + Send + '_> {
        if self.has_one_channel() {
            return Box::new(iter::once(0..self.images));
        }
        let (channels, apart) = self.channel_axis();
        if self.taken != Taken::First {
            let of_channel = move |index: &u64| self.channel(*index) == channel;
            return Box::new((0..self.images).filter(of_channel).map(|index| index..index + 1));
        }
        let step = usize::try_from(channels * apart).unwrap_or(usize::MAX);
        let begins = (channel * apart..self.images).step_by(step);
        Box::new(begins.map(move |first| first..self.images.min(first + apart)))
    }

    /// Whether images have an index: the tensor has axes before the last two.
    #[must_use]
    pub fn is_indexed(&self) -> bool {
        !self.axes.is_empty()
    }

    /// What an image's place on each axis before the last two is called, and the length of that axis.
    pub fn places(&self, index: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let plane = self.plane(index);
        let mut stride: u64 = self.axes.iter().product();
        self.axes.iter().enumerate().map(move |(number, &axis)| {
            stride /= axis;
            let at = plane / stride % axis;
            match &self.called {
                None => (at, axis),
                Some(called) => {
                    (called[number].start + at * called[number].step, called[number].of)
                }
            }
        })
    }

    /// Lengths of the axes that indices are of.
    #[must_use]
    pub fn index_axes(&self) -> Vec<u64> {
        self.places(0).map(|(_, axis)| axis).collect()
    }

    /// An image's place on the axes before the last two.
    #[must_use]
    pub fn indices(&self, index: u64) -> Vec<u64> {
        self.places(index).map(|(at, _)| at).collect()
    }

    /// The places joined by `_`, each as wide as the last one of its axis.
    #[must_use]
    pub fn index_text(&self, index: u64) -> String {
        let mut text = String::new();
        self.write_index_text(index, &mut text);
        text
    }

    /// Appends what [`index_text`](Row::index_text) gives.
    #[allow(clippy::cast_possible_truncation, reason = "a digit")]
    pub(super) fn write_index_text(&self, index: u64, out: &mut String) {
        for (i, (at, axis)) in self.places(index).enumerate() {
            if i > 0 {
                out.push('_');
            }
            // Digit by digit: std's formatting with its padding takes ten times as long.
            let places = (0..digits(axis)).rev().map(|place| 10_u64.pow(place));
            out.extend(places.map(|place| char::from(b'0' + (at / place % 10) as u8)));
        }
    }

    /// The image that [`index_text`](Row::index_text) calls `text`; `None` if it calls none so.
    pub(super) fn index_of(&self, text: &str) -> Option<u64> {
        let mut parts = text.split('_');
        let mut plane = 0;
        for (number, &axis) in self.axes.iter().enumerate() {
            let (start, step, of) = match &self.called {
                None => (0, 1, axis),
                Some(called) => (called[number].start, called[number].step, called[number].of),
            };
            let part = parts.next().filter(|part| {
                part.len() == digits(of) as usize && part.bytes().all(|b| b.is_ascii_digit())
            })?;
            let at = part.parse::<u64>().ok()?.checked_sub(start)?;
            let at = Some(at / step).filter(|place| at.is_multiple_of(step) && *place < axis)?;
            plane = plane * axis + at;
        }
        if parts.next().is_none() { self.image_of(plane) } else { None }
    }
}

/// Digits of an axis's last index.
fn digits(axis: u64) -> u32 {
    (axis - 1).checked_ilog10().unwrap_or(0) + 1
}
