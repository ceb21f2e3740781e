//! One tensor's images: where each lies in the tensor, and its indices. Numbers of images and
//! offsets do not overflow, as a row is made only of a tensor whose bytes fit 64 bits; an `index`
//! is below `images`.

use std::fmt::Write as _;

use crate::tensor::Dtype;

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
    /// Axes before the last two, outermost first.
    pub(super) axes: Vec<u64>,
    pub(super) channel: Option<u64>,
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
        match (self.channel, self.axes.last()) {
            (Some(k), Some(channels)) => index * channels + k,
            _ => index,
        }
    }

    /// Where an image's bytes begin in the tensor.
    #[must_use]
    pub fn byte_offset(&self, index: u64) -> u64 {
        self.plane(index) * self.image_bytes()
    }

    /// Whether each image's bytes follow the last one's.
    #[must_use]
    pub fn contiguous(&self) -> bool {
        self.channel.is_none() || self.axes.last() == Some(&1)
    }

    /// Whether images have an index: the tensor has axes before the last two.
    #[must_use]
    pub fn is_indexed(&self) -> bool {
        !self.axes.is_empty()
    }

    /// An image's place on each axis before the last two, and that axis.
    pub fn places(&self, index: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let plane = self.plane(index);
        let mut stride: u64 = self.axes.iter().product();
        self.axes.iter().map(move |&axis| {
            stride /= axis;
            (plane / stride % axis, axis)
        })
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
    pub(super) fn write_index_text(&self, index: u64, out: &mut String) {
        for (i, (at, axis)) in self.places(index).enumerate() {
            let separator = if i > 0 { "_" } else { "" };
            let width = digits(axis);
            write!(out, "{separator}{at:0width$}").expect("writing to a String does not fail");
        }
    }

    /// The image that [`index_text`](Row::index_text) calls `text`; `None` if it calls none so.
    pub(super) fn index_of(&self, text: &str) -> Option<u64> {
        let mut parts = text.split('_');
        let mut plane = 0;
        for axis in &self.axes {
            let part = parts.next().filter(|part| {
                part.len() == digits(*axis) && part.bytes().all(|b| b.is_ascii_digit())
            })?;
            let at = part.parse::<u64>().ok().filter(|at| at < axis)?;
            plane = plane * axis + at;
        }
        let index = match (self.channel, self.axes.last()) {
            (Some(_), Some(channels)) => plane / channels,
            _ => plane,
        };
        (parts.next().is_none() && self.plane(index) == plane).then_some(index)
    }
}

/// Digits of an axis's last index.
fn digits(axis: u64) -> usize {
    (axis - 1).checked_ilog10().unwrap_or(0) as usize + 1
}
