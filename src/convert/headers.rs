//! What the headers of a plan's images are of.

use super::{NOT_IMAGEJ, Options, stacks};
use crate::encode::{BigTiff, Header, Subject};
use crate::error::Error;
use crate::plan::{Plan, Stack};
use crate::source::Source;

/// Fails if any image does not fit the format.
pub(super) fn check_headers(
    source: &dyn Source,
    plan: &Plan,
    options: &Options,
) -> Result<(), Error> {
    stacks::stack_files(source, plan, options)?;
    (0..plan.rows().len()).try_for_each(|row| most_of_file(source, plan, options, row).map(drop))
}

pub(super) fn header(
    source: &dyn Source,
    plan: &Plan,
    options: &Options,
    row: usize,
) -> Result<Header, Error> {
    with_header(source, plan, options, row, Header::new)
}

/// Most bytes of a file of a row, and all of them where strips are not packed; as if its images were files
/// of their own.
pub(super) fn most_of_file(
    source: &dyn Source,
    plan: &Plan,
    options: &Options,
    row: usize,
) -> Result<u64, Error> {
    with_header(source, plan, options, row, Header::most_of)
}

fn with_header<T>(
    source: &dyn Source,
    plan: &Plan,
    options: &Options,
    row: usize,
    of: fn(&Subject<'_>) -> Result<T, String>,
) -> Result<T, Error> {
    let axes = plan.rows()[row].index_axes();
    let found = of(&subject(source, plan, options, row, &axes));
    found.map_err(|problem| too_large(source, plan, row, problem))
}

/// What the images of a row are.
pub(super) fn subject<'s>(
    source: &'s dyn Source,
    plan: &Plan,
    options: &'s Options,
    row: usize,
    axes: &'s [u64],
) -> Subject<'s> {
    let row = &plan.rows()[row];
    Subject {
        size: (row.width, row.height),
        tensor: &source.tensors()[row.tensor].name,
        axes,
        dtype: row.dtype,
        how: (&options.rule, options.scope),
        encoding: &options.encoding,
    }
}

pub(super) fn too_large(source: &dyn Source, plan: &Plan, row: usize, problem: String) -> Error {
    let tensor = &source.tensors()[plan.rows()[row].tensor];
    let dump = source.dumps()[tensor.dump].label.clone();
    Error::TooLarge { dump, tensor: tensor.name.clone(), problem }
}

/// That some images are so large that their files are `BigTIFFs`, where nobody asked for that.
pub(super) fn note_of_large(source: &dyn Source, plan: &Plan, options: &Options) -> Option<String> {
    /// Less than half of a classic file: nothing before the pixels takes more.
    const SAMPLES: u64 = 1 << 29;
    if options.encoding.bigtiff != BigTiff::Auto || options.stack != Stack::None {
        return None;
    }
    let rows = plan.rows().iter().enumerate().filter(|(_, row)| row.samples() > SAMPLES);
    let is_big = |row| {
        most_of_file(source, plan, options, row).is_ok_and(|most| u32::try_from(most).is_err())
    };
    let images: u64 = rows.filter(|(row, _)| is_big(*row)).map(|(_, row)| row.images).sum();
    (images > 0).then(|| match images {
        1 => format!("the file of 1 image may pass 4 GiB and is a BigTIFF, {NOT_IMAGEJ}"),
        more => format!("the files of {more} images may pass 4 GiB and are BigTIFFs, {NOT_IMAGEJ}"),
    })
}
