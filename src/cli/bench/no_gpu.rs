//! In a build without GPU support no adapter can be timed.

use super::results::{AdapterResults, KernelResults};
use crate::convert::Options;
use crate::error::Error;
use crate::source::Source;

/// There is none.
pub(super) enum Timed {}

impl Timed {
    #[allow(clippy::unnecessary_wraps, reason = "with GPU support it can fail")]
    pub(super) fn open(_: &[String], _: usize) -> Result<Vec<Timed>, Error> {
        Ok(Vec::new())
    }

    pub(super) fn results(&self) -> &AdapterResults {
        match *self {}
    }

    pub(super) fn kernels(&self, _: &dyn Source, _: &Options) -> Result<Vec<KernelResults>, Error> {
        match *self {}
    }
}
