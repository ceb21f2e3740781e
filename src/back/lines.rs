//! The images of a manifest, for all threads.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::{Looking, Output};
use crate::error::Error;
use crate::record::manifest::{self, Manifest};

/// What is said of an image.
pub(super) type Line = manifest::Line<'static>;

/// Images that a thread takes at once, and pixels from which on it takes no more.
const CHUNK: usize = 64;
const PIXELS: u64 = 1 << 20;
/// Most threads: as of a run.
const MOST: usize = 1024;

/// What lines say altogether.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sums {
    /// Images, those that could not be made among them.
    pub(super) images: u64,
    pub(super) failed: u64,
    pub(super) existed: u64,
    /// Bytes of pixels.
    pub(super) bytes: u64,
}

impl Output {
    /// Looks at all lines, so that a damaged manifest is told before any work.
    pub(super) fn sums(
        &self,
        each: &mut dyn FnMut(&Line) -> Result<(), Error>,
    ) -> Result<Sums, Error> {
        let mut manifest = self.open()?;
        let mut sums = Sums::default();
        for _ in 0..manifest.head().identity.images {
            let line = self.line(&mut manifest)?;
            each(&line)?;
            sums.images += 1;
            sums.failed += u64::from(line.error.is_some());
            sums.existed += u64::from(line.existed);
            sums.bytes = sums.bytes.saturating_add(bytes(&line));
        }
        if manifest.next_line()?.is_some() {
            let images = sums.images;
            return Err(self.wrong(format!("it goes on after its {images} images")));
        }
        Ok(sums)
    }

    /// Calls `work` for all images, in no order; each thread has a `T` of its own. The watch is told.
    pub(super) fn each<T: Default>(
        &self,
        looking: &Looking,
        work: &(dyn Fn(&mut T, u64, &Line) -> Result<(), Error> + Sync),
    ) -> Result<(), Error> {
        struct Feed {
            manifest: Manifest,
            next: u64,
            outcome: Result<(), Error>,
        }
        let manifest = self.open()?;
        let images = manifest.head().identity.images;
        let feed = Mutex::new(Feed { manifest, next: 0, outcome: Ok(()) });
        let lock = || feed.lock().unwrap_or_else(PoisonError::into_inner);
        let take = |lines: &mut Vec<Line>| -> Result<u64, Error> {
            lines.clear();
            let mut feed = lock();
            let (first, mut pixels) = (feed.next, 0_u64);
            if looking.cancel.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let go_on = feed.outcome.is_ok();
            while go_on && feed.next < images && lines.len() < CHUNK && pixels < PIXELS {
                let line = self.line(&mut feed.manifest)?;
                pixels = pixels.saturating_add(bytes(&line) / 4);
                lines.push(line);
                feed.next += 1;
            }
            Ok(first)
        };
        let round = |own: &mut T, lines: &mut Vec<Line>| -> Result<bool, Error> {
            let first = take(lines)?;
            for (number, line) in (first..).zip(&*lines) {
                work(own, number, line)?;
                if let Some(watch) = &looking.watch {
                    watch.advanced(1, bytes(line));
                }
            }
            Ok(!lines.is_empty())
        };
        let thread = || {
            let (mut own, mut lines) = (T::default(), Vec::new());
            loop {
                match round(&mut own, &mut lines) {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(error) => {
                        let mut feed = lock();
                        if feed.outcome.is_ok() {
                            feed.outcome = Err(error);
                        }
                        return;
                    }
                }
            }
        };
        thread::scope(|scope| {
            for _ in 1..looking.threads() {
                if thread::Builder::new().spawn_scoped(scope, thread).is_err() {
                    break;
                }
            }
            thread();
        });
        feed.into_inner().unwrap_or_else(PoisonError::into_inner).outcome
    }
}

impl Looking {
    pub(super) fn threads(&self) -> usize {
        let cores = || thread::available_parallelism().map_or(1, usize::from);
        self.threads.map_or_else(cores, usize::from).min(MOST)
    }
}

/// Bytes of an image's pixels; a line may say anything.
pub(super) fn bytes(line: &Line) -> u64 {
    let [height, width] = line.shape;
    height.saturating_mul(width).saturating_mul(4)
}
