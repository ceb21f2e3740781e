//! How a run is recorded and continued: what it begins with, the journal of the images that it
//! makes, the manifest at the end.

use std::fs::File;
use std::path::Path;

use super::known::Known;
use super::made::{Made, check_surplus, failure};
use super::space::Need;
use super::tars::tar_files;
use super::workers::that_can_begin;
use super::{Options, Resume};
use crate::backend::done::Done;
use crate::error::{Error, shown, shown_path};
use crate::plan::{Plan, Stack};
use crate::record;
use crate::record::entry::Entry;
use crate::record::journal::{Journal, Opened};
use crate::record::lock::Lock;
use crate::record::manifest;
use crate::sink::Sink;
use crate::source::Source;

/// What a run begins with.
pub(super) struct Begun<'a> {
    pub(super) recorder: Option<Recorder<'a>>,
    /// Images that need not be made; `None` if none was looked for.
    pub(super) done: Option<Done>,
    /// Images that are there already, of those that are this run's.
    pub(super) there: u64,
    /// An earlier run did everything.
    pub(super) finished: bool,
    /// What is to be told.
    pub(super) notes: Vec<String>,
}

impl Begun<'_> {
    /// Of a run without images.
    pub(super) fn empty() -> Self {
        Begun { recorder: None, done: None, there: 0, finished: false, notes: Vec::new() }
    }
}

/// The record of a run under way.
pub(super) struct Recorder<'a> {
    made: Made<'a>,
    journal: Journal,
    lock: Lock,
}

/// Prepares the sink, and finds out what need not be done.
pub(super) fn begin<'a>(
    source: &'a dyn Source,
    sink: &dyn Sink,
    options: &'a Options,
    plan: &'a Plan,
    threads: usize,
) -> Result<Begun<'a>, Error> {
    let Some(record) = &options.record else {
        let existing = options.skip_existing.then(|| existing(sink, plan, None)).transpose()?;
        let there = existing.as_ref().map_or(0, Done::count);
        let others = || Done::all_but(plan.images(), &options.images(plan));
        let done = existing.or_else(|| options.shard.is_some().then(others));
        prepare(source, sink, options, plan, done.as_ref(), (false, true))?;
        return Ok(Begun { done, there, ..Begun::empty() });
    };
    let made = Made::new(source, options, plan, record, threads)?;
    let is_there = record.folder.is_dir();
    let mut lock = is_there.then(|| made.lock()).transpose()?;
    // What is in its way is told before any work.
    if is_there {
        made.manifest_path()?;
    }
    let mut known = made.known(sink, options)?;
    let (done, there, lock, resumed, is_alone) = loop {
        let there = known.there(&made);
        let is_all = there == made.images.end - made.images.start;
        if is_all && (made.is_shard || known.is_manifest_alone()) {
            check_surplus(record, plan)?;
            let is_alone = made.is_alone(lock.as_ref())?;
            if !made.is_shard && is_alone {
                // A run that was killed before it had a journal may have left one.
                record::forget_temporary(&record.folder)?;
            }
            return Ok(Begun { done: known.done, there, finished: true, ..Begun::empty() });
        }
        let (done, there) = match options.skip_existing {
            true => {
                let done = existing(sink, plan, known.done.clone())?;
                let there = done.count();
                (Some(done), there)
            }
            false => (known.done.clone(), there),
        };
        let resumed = !known.is_nothing() && record.resume != Resume::No;
        check_surplus(record, plan)?;
        let is_alone = made.is_alone(lock.as_ref())?;
        match prepare(source, sink, options, plan, done.as_ref(), (resumed, is_alone)) {
            // Somebody else may have begun the same shard meanwhile.
            Err(Error::Exists { .. }) if made.is_shard && !resumed => {
                known = made.known(sink, options)?;
                if known.is_nothing() {
                    prepare(source, sink, options, plan, done.as_ref(), (resumed, is_alone))?;
                }
            }
            Err(error) => return Err(made.explained(error)),
            Ok(()) => match lock {
                Some(lock) => break (done, there, lock, resumed, is_alone),
                // The folder was made just now. Somebody else may have worked in it before it was locked,
                // and even be done: all of it is looked at again.
                None => {
                    lock = Some(made.lock()?);
                    known = made.known(sink, options)?;
                }
            },
        }
    };
    let is_shared = plan.stack() != Stack::None || plan.tar().is_some();
    let begins_again = record.resume != Resume::No || is_shared;
    if !resumed && !made.is_shard && begins_again && is_alone {
        // Of a run that was killed before it had a journal, or is not gone on with.
        sink.tidy(&mut first_of_folders(plan))?;
    }
    let journal = made.journal(&known, done.as_ref().filter(|_| options.skip_existing))?;
    let notes = match resumed || options.skip_existing {
        true => Vec::new(),
        false => made.forget_replaced()?,
    };
    if plan.tar().is_some() {
        lock.share(&record.folder)?;
    }
    let recorder = Recorder { made, journal, lock };
    Ok(Begun { recorder: Some(recorder), done, there, finished: false, notes })
}

/// See [`merge`](super::merge): how many images are known to have failed, and whether that was done
/// before.
pub(super) fn merge(
    source: &dyn Source,
    sink: &dyn Sink,
    options: &Options,
    plan: &Plan,
    threads: usize,
) -> Result<(u64, bool), Error> {
    let Some(record) = &options.record else {
        return Err(Error::Usage("a run that is not recorded cannot be merged".to_owned()));
    };
    let made = Made::new(source, options, plan, record, threads)?;
    let lacks = |missing| Error::Incomplete { path: record.folder.clone(), missing };
    if !record.has_folder()? {
        return Err(lacks(plan.images()));
    }
    let lock = Lock::new(&record.folder, false)?;
    let known = made.find(sink)?;
    if known.is_manifest_alone()
        && let Some(path) = &known.manifest
        && let Some(manifest) = manifest::Manifest::open(path)?
        && known.there(&made) + manifest.head().failed == plan.images()
    {
        return Ok((manifest.head().failed, true));
    }
    let missing = plan.images() - known.there(&made) - known.failed;
    if missing > 0 {
        return Err(lacks(missing));
    }
    // What processes that were killed left, in any folder.
    sink.resume(&mut first_of_folders(plan))?;
    let failed = known.failed;
    let journal = made.journal(&known, None)?;
    if failed > 0 {
        made.import(&known, &journal, true)?;
    }
    Recorder { made, journal, lock }.finish(sink, failed)?;
    Ok((failed, false))
}

/// Prepares the sink for the images that are not done, if it has room for them. Whether a run is gone on with,
/// and whether nobody else is at work in the folder.
fn prepare(
    source: &dyn Source,
    sink: &dyn Sink,
    options: &Options,
    plan: &Plan,
    done: Option<&Done>,
    (resumed, is_alone): (bool, bool),
) -> Result<(), Error> {
    if !options.unchecked_space {
        let block = sink.space()?.map(|space| space.block);
        let need = Need::of(source, options, plan, done, block)?;
        if let Err(lack) = need.check(sink, &mut names_but(plan, done)) {
            // Images that are there already may be the reason why there is no room.
            sink.inspect(&mut names_but(plan, done), resumed)?;
            return Err(lack);
        }
    }
    let mut names = names_but(plan, done);
    match (options.shard.is_some(), resumed) {
        (true, _) => sink.join(&mut names, resumed),
        (false, true) if !is_alone => sink.join(&mut names, true),
        (false, true) => sink.resume(&mut names.chain(first_of_folders(plan))),
        (false, false) => sink.prepare(&mut names),
    }
}

/// Names of files that are not done.
pub(super) fn names_but<'a>(
    plan: &'a Plan,
    done: Option<&'a Done>,
) -> impl Iterator<Item = String> + 'a {
    if plan.stack() != Stack::None {
        return Box::new(plan.names()) as Box<dyn Iterator<Item = String> + 'a>;
    }
    if plan.tar().is_some() {
        let is_left = move |images: &std::ops::Range<u64>| {
            done.is_none_or(|done| done.missing(images.start, images.end) > 0)
        };
        let left = tar_files(plan).filter(move |tar| is_left(&tar.images));
        return Box::new(left.map(|tar| tar.name));
    }
    let is_done = move |image: u64| done.is_some_and(|done| done.contains(image));
    let rows = plan.rows().iter().enumerate();
    let images = rows
        .flat_map(move |(at, row)| (0..row.images).map(move |index| (at, row.first_image, index)));
    let left = images.filter(move |(_, first, index)| !is_done(first + index));
    Box::new(left.map(|(row, _, index)| plan.name(row, index)))
}

/// Some images, such that one at least is in each folder that has any.
fn first_of_folders(plan: &Plan) -> impl Iterator<Item = String> + '_ {
    let folder = |name: &str| name.rsplit_once('/').map(|(folder, _)| folder.to_owned());
    plan.rows().iter().enumerate().flat_map(move |(at, row)| {
        let [first, last] = [0, row.images - 1].map(|index| folder(&plan.file(at, index)));
        let is_one = first == last && plan.has_one_folder_a_row();
        (0..if is_one { 1 } else { row.images }).map(move |index| plan.file(at, index))
    })
}

/// The images that are there, whatever they hold, and those that are known to be.
pub(super) fn existing(sink: &dyn Sink, plan: &Plan, known: Option<Done>) -> Result<Done, Error> {
    let mut done = known.unwrap_or_else(|| Done::none(plan.images()));
    for (image, name) in (0..).zip(plan.names()) {
        if !done.contains(image) && sink.stored(&name)?.is_some() {
            done.insert(image);
        }
    }
    Ok(done)
}

impl Made<'_> {
    /// What others may not work at meanwhile: the folder, or a tar in it, or what is no shard of the same.
    fn lock(&self) -> Result<Lock, Error> {
        match self.plan.tar() {
            Some(_) => Lock::named(&self.record.folder, self.names),
            None => Lock::new(&self.record.folder, self.is_shard),
        }
    }

    /// Whether nobody else is at work in the folder, so that what lies about there is nobody's.
    fn is_alone(&self, lock: Option<&Lock>) -> Result<bool, Error> {
        match lock.filter(|_| self.plan.tar().is_some()) {
            Some(lock) => lock.is_alone(&self.record.folder),
            None => Ok(true),
        }
    }

    /// The journal to go on with, or a new one that says what is known from elsewhere, and which
    /// images are `kept`, whatever they hold.
    fn journal(&self, known: &Known, kept: Option<&Done>) -> Result<Journal, Error> {
        let folder = &self.record.folder;
        if self.is_shard {
            if self.record.resume == Resume::No {
                record::forget_others(folder, self.names, &self.identity)?;
            }
            let path = record::new_part_path(folder, self.names);
            let journal = Journal::create_whole(&path, &self.about())?;
            journal.say_at_work();
            return Ok(journal);
        }
        let path = record::journal_path(folder, self.names);
        let begun = match known.has_whole() {
            true => Journal::open(&path, true)?,
            false => Opened::None,
        };
        let keep = |journal: &Journal| {
            let Some(kept) = kept else { return Ok(()) };
            let recorded = |image| known.done.as_ref().is_some_and(|done| done.contains(image));
            let kept = self.images.clone().filter(|&image| kept.contains(image));
            kept.filter(|&image| !recorded(image)).try_for_each(|image| {
                journal.write(image, &Entry::Existed.to_bytes(self.identity.plan.0, image))
            })
        };
        let journal = match begun {
            Opened::Whole(journal, _) => {
                keep(&journal)?;
                journal
            }
            // It has its name when it says what is kept: a run that goes on replaces what it does
            // not know of.
            Opened::None | Opened::Torn => Journal::create_with(&path, &self.about(), keep)?,
        };
        if known.has_more() {
            self.import(known, &journal, false)?;
        } else if !known.has_whole() {
            record::forget(folder, self.names)?;
            record::forget_parts(folder, self.names)?;
            if self.plan.tar().is_some_and(|tar| tar.size().is_some()) {
                self.forget_of_tar()?;
            }
        }
        Ok(journal)
    }
}

impl Made<'_> {
    /// Takes away the manifests of other runs in the folder of which this run replaces an image: they would go on
    /// saying that it is theirs. Answers with what is to be told of that.
    fn forget_replaced(&self) -> Result<Vec<String>, Error> {
        // Tars have no names of files of their own.
        if self.plan.tar().is_some() {
            return Ok(Vec::new());
        }
        let own = self.manifest_path()?;
        let mut others = record::manifests(&self.record.folder)?;
        others.retain(|path| Some(path) != own.as_ref());
        if others.is_empty() {
            return Ok(Vec::new());
        }
        let hash = |name: &str| record::hash(name.as_bytes());
        let mut names: Vec<u64> = self.plan.names().map(|name| hash(&name)).collect();
        names.sort_unstable();
        let mut notes = Vec::new();
        for path in others {
            // What cannot be read is nobody's manifest that this run knows of.
            let Ok(Some(mut manifest)) = manifest::Manifest::open(&path) else { continue };
            if manifest.head().names == self.names {
                continue;
            }
            while let Ok(Some(line)) = manifest.next_line() {
                if line.error.is_none() && names.binary_search(&hash(&line.name)).is_ok() {
                    let failed = |source| Error::Write { path: path.clone(), source };
                    std::fs::remove_file(&path).map_err(failed)?;
                    notes.push(format!(
                        "{}: taken away, as it was of images of which this run replaces some ({}, for one)",
                        shown_path(&path),
                        shown(&line.name)
                    ));
                    break;
                }
            }
        }
        Ok(notes)
    }
}

impl Recorder<'_> {
    /// Whether pixels are to be hashed.
    pub(super) fn hashes(&self) -> bool {
        self.made.record.hash
    }

    /// The number of an image among all.
    pub(super) fn number(&self, row: usize, index: u64) -> u64 {
        self.made.plan.rows()[row].first_image + index
    }

    /// An entry's bytes.
    pub(super) fn bytes(&self, image: u64, entry: Entry) -> [u8; record::entry::SIZE] {
        entry.to_bytes(self.made.identity.plan.0, image)
    }

    /// Writes entries, as bytes, from image number `first` on.
    pub(super) fn write(&self, first: u64, entries: &[u8]) -> Result<(), Error> {
        self.journal.write(first, entries)
    }

    /// Says that an image failed.
    pub(super) fn failed(&self, image: u64, error: &Error) -> Result<(), Error> {
        self.write(image, &self.bytes(image, Entry::Failed(failure(error))))
    }

    /// The one tar is about to take the place of another: what is said of that goes.
    pub(super) fn replaces_tar(&self) -> Result<(), Error> {
        match self.made.plan.tar() {
            Some(tar) if tar.size().is_none() => self.made.forget_of_tar(),
            _ => Ok(()),
        }
    }

    /// The run ends before its end: a journal that no run can go on with goes.
    pub(super) fn give_up(self) {
        let Recorder { made, journal, .. } = self;
        let is_one = made.plan.tar().is_some_and(|tar| tar.size().is_none());
        if is_one || made.plan.stack() != Stack::None {
            // Why the run ends is told.
            let _ = journal.remove();
        }
    }

    /// All images are made or have failed: the manifest takes the journals' place. A shard's
    /// journal stays until then.
    pub(super) fn finish(self, sink: &dyn Sink, failed: u64) -> Result<(), Error> {
        let Recorder { made, journal, lock } = self;
        let folder = &made.record.folder;
        sink.finish()?;
        let sync = made.record.sync;
        if made.is_shard {
            if sync {
                journal.sync()?;
            }
        } else {
            if let Some(path) = made.manifest_path()? {
                let lines = |images: std::ops::Range<u64>, out: &mut Vec<u8>| {
                    let count = usize::try_from(images.end - images.start);
                    let entries = journal.read(images.start, count.expect("a chunk is small"))?;
                    made.lines(images, entries, out)
                };
                let threads = that_can_begin(made.threads);
                manifest::write(&path, &made.head(failed), threads, sync, &lines)?;
                let elsewhere = path.parent().filter(|parent| sync && parent != folder);
                elsewhere.map_or(Ok(()), sync_folder)?;
            }
            record::forget_parts(folder, made.names)?;
            journal.remove()?;
        }
        if sync {
            sync_folder(folder)?;
        }
        lock.release()
    }
}

/// Has the names in a folder on the disk, where folders can be opened.
fn sync_folder(folder: &Path) -> Result<(), Error> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let failed = |source| Error::Write { path: folder.to_owned(), source };
    File::open(folder).map_or(Ok(()), |opened| opened.sync_all().map_err(failed))
}
