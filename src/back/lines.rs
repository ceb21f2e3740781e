//! The images of a manifest, for all threads.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::{Looking, Output};
use crate::encode::{TAR_BLOCK, member_padding};
use crate::error::{Error, counted, shown};
use crate::record::manifest::{self, Manifest};

/// What is said of an image.
pub(super) type Line = manifest::Line<'static>;

/// Images that a thread takes at once, and pixels from which on it takes no more.
const CHUNK: usize = 64;
const PIXELS: u64 = 1 << 20;
/// Most bytes before a member's file: the longest name takes fewer.
const HEAD: u64 = 16 << 10;
/// Most threads: as of a run.
const MOST: usize = 1024;

/// What lines say altogether.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sums {
    /// Images, those that could not be made among them.
    pub(super) images: u64,
    pub(super) failed: u64,
    pub(super) existed: u64,
    /// Those whose pixels' hash is known.
    pub(super) hashed: u64,
    /// Bytes of pixels, and of those that the run made.
    pub(super) bytes: u64,
    pub(super) looked_at: u64,
}

impl Output {
    /// Looks at all lines, so that a damaged manifest is told before any work.
    pub(super) fn sums(
        &self,
        each: &mut dyn FnMut(&Line) -> Result<(), Error>,
    ) -> Result<Sums, Error> {
        let mut manifest = self.open()?;
        let head = manifest.head();
        let failed = head.failed;
        let dumps: HashSet<String> =
            head.identity.dumps.iter().map(|dump| dump.path.clone()).collect();
        let (mut sums, mut members) = (Sums::default(), Members::default());
        for _ in 0..manifest.head().identity.images {
            let line = self.line(&mut manifest)?;
            members.follow(&line).map_err(|problem| self.wrong(problem))?;
            if !dumps.contains(&*line.source) {
                let source = shown(&line.source);
                return Err(self.wrong(format!("{source} is no dump of its first line")));
            }
            each(&line)?;
            sums.images += 1;
            sums.failed += u64::from(line.error.is_some());
            sums.existed += u64::from(line.existed);
            sums.hashed += u64::from(line.xxh3.is_some());
            sums.bytes = sums.bytes.saturating_add(bytes(&line));
            if line.error.is_none() && !line.existed {
                sums.looked_at = sums.looked_at.saturating_add(bytes(&line));
            }
        }
        if manifest.next_line()?.is_some() {
            let images = counted(sums.images, "image");
            return Err(self.wrong(format!("it goes on after its {images}")));
        }
        if sums.failed != failed {
            let lines = sums.failed;
            return Err(self.wrong(format!("it says that {failed} failed, and lines of {lines}")));
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

/// Members of tars, one after the other.
#[derive(Debug, Default)]
pub(super) struct Members {
    /// The tar of the last line, and where its members end so far.
    pub(super) last: Option<(String, u64)>,
}

impl Members {
    /// How many bytes of its tar belong to an image before its file; `None` where it is in none.
    pub(super) fn follow(&mut self, line: &Line) -> Result<Option<u64>, String> {
        let (Some(at), Some(len)) = (line.offset, line.bytes) else { return Ok(None) };
        let end = at.checked_add(len).and_then(|end| end.checked_add(member_padding(len)));
        let begin = match &self.last {
            Some((name, end)) if *name == *line.name => *end,
            _ => 0,
        };
        let block = TAR_BLOCK as u64;
        let is_head = |head: &u64| (block..=HEAD).contains(head) && head.is_multiple_of(block);
        let head = at.checked_sub(begin).filter(is_head);
        let (Some(head), Some(end)) = (head, end) else {
            let name = shown(&line.name);
            return Err(format!("its lines are not one for each member of {name}, in their order"));
        };
        self.last = Some((line.name.to_string(), end));
        Ok(Some(head))
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
