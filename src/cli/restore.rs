//! `tensortiff restore`.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::back::{BackArgs, dump};
use super::convert::bytes;
use super::progress::Progress;
use super::{Ending, Verbosity, counted, results, say};
use crate::back::{Restored, Samples, errors_of, restore};
use crate::error::shown_path;

#[derive(Debug, clap::Args)]
pub(super) struct RestoreArgs {
    #[command(flatten)]
    pub(super) back: BackArgs,

    /// The file that is made: safetensors of 32-bit floats, whole or not at all.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    /// Replace a file that exists.
    #[arg(long)]
    overwrite: bool,

    /// Of a run of several dumps only the tensors of this one, as the manifest names it.
    #[arg(long, value_name = "DUMP")]
    source: Option<String>,

    /// Compare the samples with those of the dumps of the run, and tell the largest absolute error; ends with 5
    /// where any differs by more than rounding does. DUMP: where they lie now, in the order of the run; without
    /// it, where they lay.
    #[arg(long, value_name = "DUMP", num_args = 0..)]
    against: Option<Vec<PathBuf>>,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Told<'a> {
    tensors: u64,
    images: u64,
    bytes: u64,
    notes: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    against: Option<Against>,
}

#[derive(Serialize)]
struct Against {
    samples: u64,
    differing: u64,
    largest_error: f64,
    unlike: u64,
    beyond: u64,
    rounded: bool,
}

pub(super) fn run(args: &RestoreArgs, verbosity: Verbosity) -> anyhow::Result<Ending> {
    let output = args.back.output("restore")?;
    // Whatever is wrong with it is told before any work.
    let source = args.against.as_ref().map(|given| dump(&output, given, verbosity)).transpose()?;
    let progress = Arc::new(Progress::new(verbosity));
    let looking = args.back.looking(&progress)?;
    let only = args.source.as_deref();
    let restored = restore(&output, only, &args.output, args.overwrite, &looking);
    let measured = match (&restored, &source) {
        (Ok(_), Some(source)) => Some(errors_of(&output, source, only, &looking)),
        _ => None,
    };
    progress.finish();
    let Restored { tensors, images, bytes: written, notes } = restored?;
    let samples = measured.transpose()?;
    if args.json {
        let against = samples.map(|samples| Against {
            samples: samples.samples,
            differing: samples.differing,
            largest_error: samples.largest,
            unlike: samples.unlike,
            beyond: samples.beyond,
            rounded: samples.rounded,
        });
        results(|out| {
            let told = Told { tensors, images, bytes: written, notes: &notes, against };
            serde_json::to_writer_pretty(&mut *out, &told)?;
            writeln!(out)
        })?;
    } else if let Some(samples) = samples {
        results(|out| writeln!(out, "{}", told(&samples)))?;
    }
    if verbosity > Verbosity::Quiet {
        notes.iter().for_each(|note| say(&format!("tensortiff: note: {note}")));
        if !args.json {
            say(&format!(
                "{}: {} of {}, {}",
                shown_path(&args.output),
                counted(tensors, "tensor"),
                counted(images, "image"),
                bytes(written)
            ));
        }
    }
    Ok(match samples {
        Some(samples) if samples.beyond > 0 => Ending::Different,
        _ => Ending::Done,
    })
}

/// `317 samples are bit for bit those of the dump`
fn told(samples: &Samples) -> String {
    let Samples { samples: all, differing, largest, unlike, beyond, rounded } = *samples;
    let rounded = if rounded {
        "; the dump's are compared as 32-bit floats, to which they may be rounded"
    } else {
        ""
    };
    if differing == 0 {
        let all = if all == 1 {
            "the one sample is that".to_owned()
        } else {
            format!("all {all} samples are those")
        };
        return format!("{all} of the dump, bit for bit{rounded}");
    }
    let unlike = match unlike {
        0 => String::new(),
        unlike => format!("; {unlike} are finite, NaN or infinite in only one of them"),
    };
    let beyond = match beyond {
        0 => String::new(),
        beyond => format!(", {beyond} of them by more than rounding does"),
    };
    format!(
        "the largest absolute error is {largest:e}; {differing} of {} differ{beyond}{unlike}{rounded}",
        counted(all, "sample")
    )
}
