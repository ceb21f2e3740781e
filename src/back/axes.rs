//! The tensors that images were parts of, put together from where each was in its tensor.

use std::collections::HashMap;

use super::lines::Line;
use crate::error::{counted, shown};

/// The tensors of a run, in its order.
#[derive(Debug, Default)]
pub(super) struct Tensors {
    pub(super) all: Vec<Tensor>,
    numbers: HashMap<(String, String), usize>,
    last: usize,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Tensor {
    pub(super) source: String,
    pub(super) name: String,
    /// Height and width of its images.
    image: [u64; 2],
    axes: Vec<Axis>,
    images: u64,
    /// Images and bytes of all before it.
    pub(super) first: u64,
    pub(super) begin: u64,
}

/// The indices that images have on an axis.
#[derive(Debug, Clone, Default, PartialEq)]
struct Axis {
    /// Runs of them without a gap: the first, the one behind the last, and how many are before.
    runs: Vec<[u64; 3]>,
}

impl Tensors {
    /// One image more.
    pub(super) fn add(&mut self, line: &Line) -> Result<(), String> {
        let number = match self.number(line) {
            Some(number) => number,
            None => {
                let (source, name) = (line.source.to_string(), line.tensor.to_string());
                self.numbers.insert((source.clone(), name.clone()), self.all.len());
                let axes = vec![Axis::default(); line.index.len()];
                let image = line.shape;
                self.all.push(Tensor { source, name, image, axes, images: 0, first: 0, begin: 0 });
                self.all.len() - 1
            }
        };
        self.last = number;
        let tensor = &mut self.all[number];
        if tensor.image != line.shape || tensor.axes.len() != line.index.len() {
            return Err(format!(
                "the images of tensor {} do not fit together",
                shown(&tensor.name)
            ));
        }
        tensor.axes.iter_mut().zip(&line.index).for_each(|(axis, &index)| axis.add(index));
        tensor.images += 1;
        Ok(())
    }

    /// To be called behind the last image: how many bytes there are.
    pub(super) fn close(&mut self) -> Result<u64, String> {
        let (mut first, mut begin) = (0_u64, 0_u64);
        for tensor in &mut self.all {
            let mut count: u64 = 1;
            for axis in &mut tensor.axes {
                count = count.saturating_mul(axis.close());
            }
            if count != tensor.images {
                let axes: Vec<String> =
                    tensor.axes.iter().map(|axis| axis.len().to_string()).collect();
                return Err(format!(
                    "of tensor {} there are {}, and that does not fill axes of {}",
                    shown(&tensor.name),
                    counted(tensor.images, "image"),
                    axes.join("×")
                ));
            }
            (tensor.first, tensor.begin) = (first, begin);
            let bytes = tensor.bytes_of_an_image().and_then(|bytes| bytes.checked_mul(count));
            let sum = bytes.and_then(|bytes| begin.checked_add(bytes));
            begin = sum.ok_or_else(|| "the tensors have more than 2^64 bytes".to_owned())?;
            first += count;
        }
        Ok(begin)
    }

    fn number(&self, line: &Line) -> Option<usize> {
        // Those of a tensor follow each other.
        let is = |tensor: &&Tensor| tensor.name == line.tensor && tensor.source == line.source;
        if self.all.get(self.last).as_ref().is_some_and(is) {
            return Some(self.last);
        }
        self.numbers.get(&(line.source.to_string(), line.tensor.to_string())).copied()
    }

    /// The number of an image among all, and where its first byte is.
    pub(super) fn place(&self, line: &Line) -> Option<(u64, u64)> {
        let tensor = &self.all[self.number(line)?];
        let mut at: u64 = 0;
        for (axis, &index) in tensor.axes.iter().zip(&line.index) {
            at = at * axis.len() + axis.place(index)?;
        }
        let bytes = tensor.bytes_of_an_image()?;
        Some((tensor.first + at, tensor.begin + at * bytes))
    }
}

impl Tensor {
    pub(super) fn images(&self) -> u64 {
        self.images
    }

    pub(super) fn shape(&self) -> Vec<u64> {
        self.axes.iter().map(Axis::len).chain(self.image).collect()
    }

    /// Whether its indices are other than from 0 on without a gap.
    pub(super) fn is_part(&self) -> bool {
        self.axes.iter().any(|axis| axis.runs.len() != 1 || axis.runs[0][0] != 0)
    }

    fn bytes_of_an_image(&self) -> Option<u64> {
        let [height, width] = self.image;
        height.checked_mul(width)?.checked_mul(4)
    }
}

impl Axis {
    fn add(&mut self, index: u64) {
        // The run that begins behind it, and the one before that.
        let at = self.runs.partition_point(|[first, ..]| *first <= index);
        if at > 0 && index < self.runs[at - 1][1] {
            return;
        }
        let end = index.saturating_add(1);
        let joins_last = at > 0 && self.runs[at - 1][1] == index;
        let joins_next = self.runs.get(at).is_some_and(|[first, ..]| *first == end);
        match (joins_last, joins_next) {
            (true, true) => {
                self.runs[at - 1][1] = self.runs[at][1];
                self.runs.remove(at);
            }
            (true, false) => self.runs[at - 1][1] = end,
            (false, true) => self.runs[at][0] = index,
            (false, false) => self.runs.insert(at, [index, end, 0]),
        }
    }

    fn close(&mut self) -> u64 {
        let mut before = 0;
        for run in &mut self.runs {
            run[2] = before;
            before += run[1] - run[0];
        }
        before
    }

    fn len(&self) -> u64 {
        self.runs.last().map_or(0, |[first, end, before]| before + (end - first))
    }

    fn place(&self, index: u64) -> Option<u64> {
        let at = self.runs.partition_point(|[first, ..]| *first <= index).checked_sub(1)?;
        let [first, end, before] = self.runs[at];
        (index < end).then(|| before + (index - first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_has_the_indices_that_there_are_in_order() {
        let mut axis = Axis::default();
        for index in [5, 3, 4, 9, 5, 0, u64::MAX, 10, 3] {
            axis.add(index);
        }
        axis.close();
        let places = [0, 3, 4, 5, 9, 10].map(|index| axis.place(index));
        assert_eq!(places, [0, 1, 2, 3, 4, 5].map(Some));
        assert_eq!([1, 2, 6, 8, 11].map(|index| axis.place(index)), [None; 5]);
        assert_eq!(axis.runs.len(), 4);
    }
}
