//! What `verify` and `restore` have in common: the manifest that is meant, and the dump of its run.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;

use super::inputs::{expand, noting};
use super::progress::Progress;
use super::{Verbosity, signals};
use crate::back::{Looking, Output};
use crate::error::{Error, shown_path};
use crate::source::{DumpFiles, View};

#[derive(Debug, clap::Args)]
pub(super) struct BackArgs {
    /// An output folder, or a manifest.
    #[arg(value_name = "OUT")]
    path: PathBuf,

    /// The folder of the images, where the manifest is not in it.
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,

    /// Number of CPU threads, 1024 at most [default: all cores].
    #[arg(short = 'j', long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

impl BackArgs {
    pub(super) fn outputs(&self) -> Result<Vec<Output>, Error> {
        Output::find(&self.path, self.images.as_deref())
    }

    /// The only one that can be meant.
    pub(super) fn output(&self, what: &str) -> Result<Output, Error> {
        let mut outputs = self.outputs()?;
        match outputs.len() {
            1 => Ok(outputs.remove(0)),
            _ => {
                let names: Vec<String> =
                    outputs.iter().map(|output| shown_path(&output.manifest)).collect();
                let names = names.join(", ");
                Err(Error::Usage(format!("{what} goes with one run; give its manifest: {names}")))
            }
        }
    }

    pub(super) fn looking(&self, progress: &Arc<Progress>) -> anyhow::Result<Looking> {
        let watch = Some(Arc::clone(progress) as Arc<dyn crate::convert::Watch>);
        let looking = Looking { threads: self.threads, watch, ..Looking::default() };
        signals::cancel_on_signal(Arc::clone(&looking.cancel)).context("listening for signals")?;
        Ok(looking)
    }
}

/// The dump of a run: the files that are given, or that it names, read as the run read them.
pub(super) fn dump(
    output: &Output,
    given: &[PathBuf],
    verbosity: Verbosity,
) -> Result<View<DumpFiles>, Error> {
    let (recorded, named) = output.recorded()?;
    let files = match given {
        [] => named.into_iter().map(PathBuf::from).collect(),
        given => expand(given, &recorded.reading, &mut noting(verbosity)).map_err(Error::of_all)?,
    };
    Ok(View::new(DumpFiles::open_as(&files, &recorded.reading)?, recorded.layout))
}
