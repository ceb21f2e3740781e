//! Files of many pages while those are made, in any order and by all threads.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::tally::Tally;
use super::tars::{self, Member};
use super::{NOT_IMAGEJ, Options, subject};
use crate::backend::{Finding, ImageId};
use crate::encode::{Shown, StackFile};
use crate::error::{Error, counted};
use crate::plan::{Page, Plan, Row, Stack};
use crate::sink::{Pending, Sink};
use crate::source::Source;

/// The files of a plan's stacks.
///
/// # Errors
/// [`Error::TooLarge`] for one that fits no file.
pub(super) fn stack_files(
    source: &dyn Source,
    plan: &Plan,
    options: &Options,
) -> Result<Vec<StackFile>, Error> {
    plan.stacks().map(|rows| stack_file(source, plan, options, rows)).collect()
}

fn stack_file(
    source: &dyn Source,
    plan: &Plan,
    options: &Options,
    rows: Range<usize>,
) -> Result<StackFile, Error> {
    let first = rows.start;
    let axes: Vec<Vec<u64>> = plan.rows()[rows.clone()].iter().map(Row::index_axes).collect();
    let mut subjects = rows
        .zip(&axes)
        .map(|(at, axes)| (subject(source, plan, options, at, axes), plan.rows()[at].images));
    StackFile::new(&mut subjects).map_err(|problem| super::too_large(source, plan, first, problem))
}

/// What images share as pages or members.
pub(super) enum Files {
    /// Nothing, or these stacks.
    Stacks(Vec<StackFile>),
    /// Tars, in which the images of each row are these members.
    Tars(Vec<Member>),
}

impl Files {
    /// Of a plan.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for what fits no file.
    pub(super) fn of(source: &dyn Source, plan: &Plan, options: &Options) -> Result<Files, Error> {
        match plan.tar() {
            Some(_) => tars::members(source, plan, options).map(Files::Tars),
            None => stack_files(source, plan, options).map(Files::Stacks),
        }
    }
}

/// What may surprise who opens them.
pub(super) fn notes(files: &[StackFile]) -> Option<String> {
    let big = files.iter().filter(|file| file.is_big()).count();
    let of = files.len();
    (big > 0).then(|| {
        let are = if big == 1 { "is a BigTIFF" } else { "are BigTIFFs" };
        format!("{big} of {} {are}, {NOT_IMAGEJ}", counted(of as u64, "stack"))
    })
}

impl Options {
    /// Fails where stacks cannot be what else is asked for.
    pub(super) fn check_stack(&self) -> Result<(), Error> {
        if self.stack == Stack::None {
            return Ok(());
        }
        let resumes = self.record.as_ref().is_some_and(|record| record.resume != super::Resume::No);
        let option = [
            (resumes, "--resume"),
            (self.skip_existing, "--skip-existing"),
            (self.shard.is_some(), "--shard"),
        ];
        if let Some((_, option)) = option.into_iter().find(|(is_given, _)| *is_given) {
            return Err(self.no_stack(option));
        }
        if self.encoding.is_packed() || self.encoding.profile == crate::encode::Profile::Gis {
            return Err(Error::Usage(format!(
                "--stack {}: pages are stored as they are, one behind the other, as ImageJ wants them; \
                 --compress, --tile and the profiles gis and archive are of images that are files of \
                 their own",
                self.stack
            )));
        }
        Ok(())
    }

    /// That `option` does not go with stacks.
    pub(super) fn no_stack(&self, option: &str) -> Error {
        Error::Usage(format!(
            "--stack {}: a stack is one file, whole or absent, and {option} is of images that are files \
             of their own",
            self.stack
        ))
    }
}

/// The stacks of a run under way.
pub(super) struct Stacks<'a> {
    files: Files,
    open: Mutex<HashMap<usize, Arc<Open<'a>>>>,
}

/// A stack of which some pages are there.
pub(super) struct Open<'a> {
    /// `None` once it is finished.
    pending: RwLock<Option<Box<dyn Pending + 'a>>>,
    state: Mutex<State>,
}

/// What is known of its pages.
#[derive(Default)]
struct State {
    /// How many are there.
    pages: u64,
    shown: Shown,
    /// Of page 0, whose header is the last that is written, or whose entry in the journal; and its hash.
    first: Option<(ImageId, Finding, Option<u64>)>,
    /// What is to be accounted for once the file has its name.
    tally: Tally,
    /// Pages that came in blocks.
    in_blocks: Vec<(ImageId, Finding)>,
}

/// A stack all of whose pages are there.
pub(super) struct Whole<'a> {
    pub(super) pending: Box<dyn Pending + 'a>,
    pub(super) shown: Shown,
    pub(super) first: (ImageId, Finding, Option<u64>),
    pub(super) tally: Tally,
    pub(super) in_blocks: Vec<(ImageId, Finding)>,
}

impl<'a> Stacks<'a> {
    pub(super) fn new(files: Files) -> Stacks<'a> {
        Stacks { files, open: Mutex::default() }
    }

    /// Whether images are files of their own.
    pub(super) fn is_empty(&self) -> bool {
        matches!(&self.files, Files::Stacks(files) if files.is_empty())
    }

    /// What may surprise who opens them.
    pub(super) fn note(&self) -> Option<String> {
        match &self.files {
            Files::Stacks(files) => notes(files),
            Files::Tars(_) => None,
        }
    }

    /// The layout of a stack; `None` where images are no pages.
    pub(super) fn file(&self, stack: usize) -> Option<&StackFile> {
        match &self.files {
            Files::Stacks(files) => files.get(stack),
            Files::Tars(_) => None,
        }
    }

    /// The members that images of a row are; `None` where they are none.
    pub(super) fn member(&self, row: usize) -> Option<&Member> {
        match &self.files {
            Files::Stacks(_) => None,
            Files::Tars(members) => members.get(row),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<usize, Arc<Open<'a>>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file that a page or a member is in, which is begun with its first one; `of` says its name and
    /// length.
    pub(super) fn open(
        &self,
        sink: &'a dyn Sink,
        page: Page,
        of: impl FnOnce() -> (String, u64),
    ) -> Result<Arc<Open<'a>>, Error> {
        let mut all = self.lock();
        if let Some(open) = all.get(&page.stack) {
            return Ok(Arc::clone(open));
        }
        let (name, len) = of();
        let pending = sink.begin(&name, Some(len))?;
        let open = Open { pending: RwLock::new(Some(pending)), state: Mutex::default() };
        Ok(Arc::clone(all.entry(page.stack).or_insert(Arc::new(open))))
    }

    /// Notes that a page is there: its pixels, and but for the first one its header. Answers with the stack
    /// if it is the last one.
    pub(super) fn add(
        &self,
        page: Page,
        image: ImageId,
        finding: &Finding,
        note: impl FnOnce(&mut Shown),
        (tally, hash, in_blocks): (&Tally, Option<u64>, bool),
    ) -> Option<Whole<'a>> {
        let open = self.lock().get(&page.stack).cloned()?;
        let mut state = open.lock();
        state.pages += 1;
        note(&mut state.shown);
        state.tally += tally;
        if page.page == 0 {
            state.first = Some((image, *finding, hash));
        }
        if in_blocks {
            state.in_blocks.push((image, *finding));
        }
        if state.pages < page.pages {
            return None;
        }
        let State { shown, first, tally, in_blocks, .. } = std::mem::take(&mut *state);
        drop(state);
        self.lock().remove(&page.stack);
        let pending = open.pending.write().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(Whole { pending, shown, first: first?, tally, in_blocks })
    }

    /// Forgets those that are not finished: their pages are made again.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }
}

impl Open<'_> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes bytes at a place of the file.
    pub(super) fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        match &*self.pending.read().unwrap_or_else(PoisonError::into_inner) {
            Some(pending) => pending.write_at(offset, bytes),
            // Of an image that is made again, while its stack was finished without it.
            None => Ok(()),
        }
    }
}
