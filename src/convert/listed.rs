//! What a manifest says of images that the plan alone decides, for who looks at it again.

use super::made::{line_of, place_line};
use super::{Options, planned};
use crate::error::Error;
use crate::plan::Plan;
use crate::record::manifest::Line;
use crate::source::Source;

/// The images of a run, in order.
pub(crate) struct Listed<'a> {
    source: &'a dyn Source,
    options: &'a Options,
    plan: Plan,
    /// The next one's row, and its number there.
    next: (usize, u64),
}

impl<'a> Listed<'a> {
    /// Before the first one.
    ///
    /// # Errors
    /// As [`convert`](super::convert) before any work.
    pub(crate) fn new(source: &'a dyn Source, options: &'a Options) -> Result<Listed<'a>, Error> {
        Ok(Listed { source, options, plan: planned(source, options)?, next: (0, 0) })
    }

    /// What the next image's line is to say, and the number of its dump: no numbers of its samples, nor how
    /// long its file is or where in a tar. `None` behind the last.
    pub(crate) fn next_line(&mut self) -> Option<(Line<'_>, usize)> {
        while self.next.1 == self.plan.rows().get(self.next.0)?.images {
            self.next = (self.next.0 + 1, 0);
        }
        let (at, index) = self.next;
        self.next.1 += 1;
        let row = &self.plan.rows()[at];
        let mut line = line_of(self.source, self.options, row);
        place_line(&self.plan, at, index, &mut line);
        Some((line, self.source.tensors()[row.tensor].dump))
    }
}
