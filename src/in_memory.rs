//! One call for samples in memory: one image, a batch with a list of names, one channel. Of the
//! options, selection and naming do not matter here.

use crate::convert::{Options, convert};
use crate::error::{Error, counted};
use crate::plan::{Naming, Selection};
use crate::report::Report;
use crate::sink::Sink;
use crate::source::MemorySource;
use crate::tensor::Dtype;

/// Writes one H×W image of f32 `samples` in C order, `shape` = [H, W], under `name` (`.tif` is
/// added where it is missing).
///
/// ```
/// use tensortiff::{MemorySink, Options, convert_image};
/// let sink = MemorySink::default();
/// convert_image(&[1.0, 2.0, 3.0, 5.0], &[2, 2], "a", &sink, &Options::default())?;
/// let file = &sink.into_files()["a.tif"];
/// assert_eq!(file[file.len() - 8..], [0.5_f32.to_le_bytes(), 1.0_f32.to_le_bytes()].concat());
/// # Ok::<(), tensortiff::Error>(())
/// ```
///
/// # Errors
/// [`Error::Usage`] if `shape` does not have two axes or does not fit the samples; what
/// [`convert`] says otherwise.
pub fn convert_image(
    samples: &[f32],
    shape: &[u64],
    name: &str,
    sink: &dyn Sink,
    options: &Options,
) -> Result<Report, Error> {
    rank(shape, 2, "an image is H×W")?;
    run(samples, shape, None, &[name], sink, options)
}

/// Writes each image of an N×H×W batch, `shape` = [N, H, W], under its own name.
///
/// ```
/// use tensortiff::{MemorySink, Options, convert_batch};
/// let sink = MemorySink::default();
/// convert_batch(&[0.0, 4.0, 7.0, 7.0], &[2, 1, 2], &["a", "b"], &sink, &Options::default())?;
/// let files = sink.into_files();
/// assert!(files["a.tif"].ends_with(&[0.0_f32.to_le_bytes(), 1.0_f32.to_le_bytes()].concat()));
/// assert!(files["b.tif"].ends_with(&7.0_f32.to_le_bytes())); // a constant image is kept
/// # Ok::<(), tensortiff::Error>(())
/// ```
///
/// # Errors
/// [`Error::Usage`] if `shape` does not have three axes or does not fit the samples, or if there
/// are not N names; what [`convert`] says otherwise.
pub fn convert_batch(
    samples: &[f32],
    shape: &[u64],
    names: &[&str],
    sink: &dyn Sink,
    options: &Options,
) -> Result<Report, Error> {
    rank(shape, 3, "a batch is N×H×W")?;
    if shape[0] != names.len() as u64 {
        return Err(Error::Usage(format!(
            "a batch of {} needs as many names, not {}",
            counted(shape[0], "image"),
            names.len()
        )));
    }
    run(samples, shape, None, names, sink, options)
}

/// Writes channel `channel`, counted from 0, of a C×H×W image, `shape` = [C, H, W], under `name`.
///
/// ```
/// use tensortiff::{MemorySink, Options, convert_channel};
/// let sink = MemorySink::default();
/// convert_channel(&[1.0, 2.0, 10.0, 30.0], &[2, 1, 2], 1, "k", &sink, &Options::default())?;
/// assert!(sink.into_files()["k.tif"].ends_with(&1.0_f32.to_le_bytes()));
/// # Ok::<(), tensortiff::Error>(())
/// ```
///
/// # Errors
/// [`Error::Usage`] if `shape` does not have three axes or does not fit the samples, or if there
/// is no such channel; what [`convert`] says otherwise.
pub fn convert_channel(
    samples: &[f32],
    shape: &[u64],
    channel: u64,
    name: &str,
    sink: &dyn Sink,
    options: &Options,
) -> Result<Report, Error> {
    rank(shape, 3, "an image with channels is C×H×W")?;
    if channel >= shape[0] {
        return Err(Error::Usage(format!(
            "there is no channel {channel} among {} (they count from 0)",
            shape[0]
        )));
    }
    run(samples, shape, Some(channel), &[name], sink, options)
}

fn rank(shape: &[u64], axes: usize, expected: &str) -> Result<(), Error> {
    if shape.len() == axes {
        return Ok(());
    }
    Err(Error::Usage(format!("{expected}, but the shape {shape:?} has {} axes", shape.len())))
}

fn run(
    samples: &[f32],
    shape: &[u64],
    channel: Option<u64>,
    names: &[&str],
    sink: &dyn Sink,
    options: &Options,
) -> Result<Report, Error> {
    if shape.contains(&0) {
        return Err(Error::Usage(format!("there is no image in the shape {shape:?}")));
    }
    let bytes: &[u8] = bytemuck::cast_slice(samples);
    let source = MemorySource::new("memory").with("samples", Dtype::F32, shape, bytes)?;
    let naming = Naming::List(names.iter().map(|&name| name.to_owned()).collect());
    // There is one tensor, and nothing to choose.
    let selection = Selection { channel, ..Selection::default() };
    convert(&source, sink, &Options { naming, selection, ..options.clone() })
}
