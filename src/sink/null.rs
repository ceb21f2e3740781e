//! A sink that forgets: for benchmarks of everything else.

use super::{Pending, Sink};
use crate::error::Error;

/// Accepts everything and keeps nothing.
#[derive(Debug, Default)]
pub struct NullSink;

impl Sink for NullSink {
    fn prepare(&self, _names: &mut dyn Iterator<Item = String>) -> Result<(), Error> {
        Ok(())
    }

    fn put(&self, _name: &str, _header: &[u8], _pixels: &[u8]) -> Result<(), Error> {
        Ok(())
    }

    fn begin(&self, _name: &str, _len: Option<u64>) -> Result<Box<dyn Pending + '_>, Error> {
        Ok(Box::new(NullSink))
    }
}

impl Pending for NullSink {
    fn write_at(&self, _offset: u64, _bytes: &[u8]) -> Result<(), Error> {
        Ok(())
    }

    fn commit(self: Box<Self>) -> Result<(), Error> {
        Ok(())
    }
}
