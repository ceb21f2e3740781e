//! Which tensors, and which planes of them.

use std::fmt;

use super::glob::Glob;
use crate::error::{Error, shown};
use crate::tensor::{Dtype, Dump, TensorInfo};

/// Which tensors to take, and which of their planes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Patterns of which a name must match one; all names do if there is none. `*` matches
    /// anything but `/`, `**` anything, `?` one character, `[a-z]` one of a set.
    pub tensors: Vec<String>,
    /// Patterns of which a name must match none.
    pub exclude: Vec<String>,
    /// Take only this index of the third axis from the end.
    pub channel: Option<u64>,
}

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
    axes: Vec<u64>,
    channel: Option<u64>,
}

/// A selected tensor that gives no image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Index of the tensor in the source.
    pub tensor: usize,
    /// Why.
    pub reason: SkipReason,
}

/// Why a tensor gives no image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    /// Fewer axes than an image has.
    Rank(usize),
    /// An axis is 0 long.
    Empty,
    /// A channel was asked for, but there is no third axis.
    NoChannels,
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SkipReason::Rank(rank) => write!(f, "{rank}-D, and an image needs two axes"),
            SkipReason::Empty => f.write_str("it has no elements"),
            SkipReason::NoChannels => f.write_str("2-D, and --channel needs a third axis"),
        }
    }
}

/// The selected tensors, without names.
#[derive(Debug)]
pub struct Selected {
    rows: Vec<Row>,
    skipped: Vec<Skipped>,
    images: u64,
}

impl Selected {
    /// Selects.
    ///
    /// # Errors
    /// As [`Plan::new`](super::Plan::new), but for names.
    pub fn new(
        dumps: &[Dump],
        tensors: &[TensorInfo],
        selection: &Selection,
    ) -> Result<Selected, Error> {
        let filter = Filter::new(selection)?;
        for (pattern, glob) in selection.tensors.iter().zip(&filter.take) {
            if !tensors.iter().any(|tensor| glob.matches(&tensor.name)) {
                return Err(no_match(pattern, tensors));
            }
        }
        let mut selected = Selected { rows: Vec::new(), skipped: Vec::new(), images: 0 };
        for (index, tensor) in tensors.iter().enumerate() {
            if !filter.takes(&tensor.name) {
                continue;
            }
            match plan_tensor(index, tensor, selection.channel, &dumps[tensor.dump])? {
                Err(reason) => selected.skipped.push(Skipped { tensor: index, reason }),
                Ok(mut row) => {
                    row.first_image = selected.images;
                    selected.images = selected
                        .images
                        .checked_add(row.images)
                        .ok_or_else(|| too_large(&dumps[tensor.dump], tensor, "too many images"))?;
                    selected.rows.push(row);
                }
            }
        }
        Ok(selected)
    }

    /// The tensors that give images, in the order of the source.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The tensors that give none.
    #[must_use]
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// Number of images.
    #[must_use]
    pub fn images(&self) -> u64 {
        self.images
    }
}

/// The compiled patterns of a selection.
#[derive(Debug)]
pub struct Filter {
    take: Vec<Glob>,
    leave: Vec<Glob>,
}

impl Filter {
    /// Compiles the patterns.
    ///
    /// # Errors
    /// [`Error::Usage`] for a pattern that is none.
    pub fn new(selection: &Selection) -> Result<Filter, Error> {
        Ok(Filter {
            take: globs("--tensor", &selection.tensors)?,
            leave: globs("--exclude", &selection.exclude)?,
        })
    }

    /// Whether a tensor of this name is selected.
    #[must_use]
    pub fn takes(&self, name: &str) -> bool {
        let matches = |globs: &[Glob]| globs.iter().any(|glob| glob.matches(name));
        (self.take.is_empty() || matches(&self.take)) && !matches(&self.leave)
    }
}

fn globs(option: &str, patterns: &[String]) -> Result<Vec<Glob>, Error> {
    let glob = |pattern: &String| {
        Glob::new(pattern)
            .map_err(|problem| Error::Usage(format!("{option} {}: {problem}", shown(pattern))))
    };
    patterns.iter().map(glob).collect()
}

fn plan_tensor(
    index: usize,
    tensor: &TensorInfo,
    channel: Option<u64>,
    dump: &Dump,
) -> Result<Result<Row, SkipReason>, Error> {
    let [axes @ .., height, width] = &tensor.shape[..] else {
        return Ok(Err(SkipReason::Rank(tensor.shape.len())));
    };
    if let Some(k) = channel {
        match axes.last() {
            None => return Ok(Err(SkipReason::NoChannels)),
            Some(&channels) if k >= channels && tensor.shape.iter().all(|&axis| axis > 0) => {
                return Err(Error::Usage(format!(
                    "--channel {k}: tensor {} has {channels} channels, 0 to {} (shape {:?}); \
                     --tensor and --exclude choose tensors",
                    shown(&tensor.name),
                    channels - 1,
                    tensor.shape
                )));
            }
            Some(_) => {}
        }
    }
    if tensor.shape.contains(&0) {
        return Ok(Err(SkipReason::Empty));
    }
    if tensor.bytes().is_none() || [width, height].into_iter().any(|&n| u32::try_from(n).is_err()) {
        return Err(too_large(
            dump,
            tensor,
            &format!("an image of {width}×{height} does not fit a TIFF, whose sides fit 32 bits"),
        ));
    }
    let counted = if channel.is_some() { &axes[..axes.len() - 1] } else { axes };
    Ok(Ok(Row {
        tensor: index,
        dtype: tensor.dtype,
        width: *width,
        height: *height,
        images: counted.iter().product(), // of a whole tensor, which was found to fit
        first_image: 0,
        axes: axes.to_vec(),
        channel,
    }))
}

fn too_large(dump: &Dump, tensor: &TensorInfo, problem: &str) -> Error {
    Error::TooLarge {
        dump: dump.label.clone(),
        tensor: tensor.name.clone(),
        problem: problem.to_owned(),
    }
}

/// What to say of a pattern that matches nothing: most likely it is a slip.
fn no_match(pattern: &str, tensors: &[TensorInfo]) -> Error {
    let core = pattern.trim_matches('*');
    let distance = |name: &str| (!name.contains(core), edit_distance(pattern, name));
    let nearest = tensors.iter().min_by_key(|tensor| distance(&tensor.name));
    Error::Usage(match nearest {
        None => format!("--tensor {}: the dump holds no tensors", shown(pattern)),
        Some(nearest) => format!(
            "--tensor {}: matches none of {} tensors; the nearest is {} (`tensortiff ls` lists them; \
             * does not match /, ** does)",
            shown(pattern),
            tensors.len(),
            shown(&nearest.name)
        ),
    })
}

/// Levenshtein distance over the first 100 characters, enough to find a slip.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(100).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().take(100).enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replace = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
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

    /// An image's place on the axes before the last two.
    #[must_use]
    pub fn indices(&self, index: u64) -> Vec<u64> {
        let mut rest = self.plane(index);
        let mut indices: Vec<u64> = self
            .axes
            .iter()
            .rev()
            .map(|axis| {
                let at = rest % axis;
                rest /= axis;
                at
            })
            .collect();
        indices.reverse();
        indices
    }

    /// The indices joined by `_`, each as wide as the last one of its axis.
    #[must_use]
    pub fn index_text(&self, index: u64) -> String {
        let digits = |axis: &u64| (axis - 1).checked_ilog10().unwrap_or(0) as usize + 1;
        let padded = |(at, axis)| format!("{at:0width$}", width = digits(axis));
        self.indices(index).into_iter().zip(&self.axes).map(padded).collect::<Vec<_>>().join("_")
    }
}
