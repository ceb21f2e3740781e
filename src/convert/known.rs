//! What earlier runs of the same images left, and which of their images are there still.

use std::cell::RefCell;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::num::NonZeroU64;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::Manifest::At;
use super::made::{Made, may_be_zeros};
use super::packing::{PackedFile, Packing};
use super::tars::tar_files;
use super::{Options, Resume};
use crate::backend::ImageId;
use crate::backend::done::Done;
use crate::encode::{Decoded, Header, Packed, Packer};
use crate::error::Error;
use crate::record;
use crate::record::entry::{Entry, Found};
use crate::record::identity::Identity;
use crate::record::journal::{Journal, Opened, Place};
use crate::record::manifest::{Line, Manifest};
use crate::sink::{Section, Sink, Stored};

/// Images that a thread checks at once.
const CHUNK: u64 = 1024;

/// See the module.
#[derive(Default)]
pub(super) struct Known {
    /// Journals, of which any may say that an image is done.
    journals: Vec<Place>,
    /// That of a run of all images is among them.
    has_whole: bool,
    /// That one cannot be read, or the manifest: images may be there, and it is not known which.
    torn: bool,
    /// A shard's cannot: the same.
    torn_part: bool,
    /// The manifest of a run that was finished, where there is no journal.
    pub(super) manifest: Option<PathBuf>,
    /// Images of this run that are there, and all that are not this run's; `None` if none is.
    pub(super) done: Option<Done>,
    /// Images that could not be made.
    pub(super) failed: u64,
}

impl Known {
    /// Whether there was no run.
    pub(super) fn is_nothing(&self) -> bool {
        self.manifest.is_none() && self.has_no_journal()
    }

    /// Whether there is a manifest, and no run since.
    pub(super) fn is_manifest_alone(&self) -> bool {
        self.manifest.is_some() && self.has_no_journal()
    }

    fn has_no_journal(&self) -> bool {
        self.journals.is_empty() && !self.torn && !self.torn_part
    }

    /// Whether there is a journal of a run of all images, to go on with.
    pub(super) fn has_whole(&self) -> bool {
        self.has_whole
    }

    /// Whether anything is known that it does not say.
    pub(super) fn has_more(&self) -> bool {
        self.manifest.is_some() || self.journals.len() > usize::from(self.has_whole)
    }

    /// How many of a run's images are there.
    pub(super) fn there(&self, made: &Made<'_>) -> u64 {
        let others = made.plan.images() - (made.images.end - made.images.start);
        self.done.as_ref().map_or(0, |done| done.count() - others)
    }
}

impl Made<'_> {
    /// What earlier runs left that is of use to this one.
    pub(super) fn known(&self, sink: &dyn Sink, options: &Options) -> Result<Known, Error> {
        let nothing = || {
            let done = || Done::all_but(self.plan.images(), &self.images);
            Known { done: self.is_shard.then(done), ..Known::default() }
        };
        match self.record.resume {
            _ if !self.record.folder.is_dir() => Ok(nothing()),
            // What is known of images that are skipped is kept, if they are this run's.
            Resume::No if options.skip_existing => match self.find(sink) {
                Err(Error::Resume { .. }) => Ok(nothing()),
                found => found,
            },
            Resume::No => Ok(nothing()),
            _ => self.find(sink),
        }
    }

    /// Finds what earlier runs left, and checks that it is there still.
    pub(super) fn find(&self, sink: &dyn Sink) -> Result<Known, Error> {
        let folder = &self.record.folder;
        let mut known = Known::default();
        let path = record::journal_path(folder, self.names);
        match Journal::open(&path, false)? {
            Opened::None => {}
            Opened::Torn => known.torn = true,
            Opened::Whole(journal, about) => {
                self.must_be_same(&path, &about.identity)?;
                known.journals.push(journal.place().clone());
                known.has_whole = true;
            }
        }
        for path in record::parts(folder, self.names)? {
            match Journal::open(&path, false)? {
                // A merge took it away meanwhile.
                Opened::None => {}
                Opened::Torn => known.torn_part = true,
                Opened::Whole(journal, about) => {
                    self.must_be_same(&path, &about.identity)?;
                    let place = Some(journal.place().clone()).filter(|place| self.meets(place));
                    known.journals.extend(place);
                }
            }
        }
        if !known.has_whole
            && !known.torn
            && let Some(path) = self.manifest_path()?
        {
            match Manifest::open(&path)? {
                Some(manifest) if manifest.head().names == self.names => {
                    self.must_be_same(&path, &manifest.head().identity)?;
                    known.manifest = Some(path);
                }
                Some(_) => {}
                None => known.torn = Manifest::is_torn(&path, may_be_zeros(&path))?,
            }
        }
        if let At(_) = &self.record.manifest {
            // A run since then may have kept its own in the folder.
            let path = record::manifest_path(folder, self.names)?;
            if let Some(manifest) = Manifest::open(&path)?
                && manifest.head().names == self.names
            {
                self.must_be_same(&path, &manifest.head().identity)?;
            }
        }
        if known.is_nothing() && !self.is_shard && self.plan.tar().is_none() {
            // A journal of the same dumps under other names: other options. Of a tar it is no business of
            // others.
            for path in record::journals(folder)? {
                if let Some(identity) = record::whose(&path)?
                    && identity.dumps == self.identity.dumps
                    && !identity.options.more.contains_key(super::asked::TAR)
                {
                    self.must_be_same(&path, &identity)?;
                }
            }
        }
        if self.is_shard || !known.is_nothing() {
            let (done, failed) = self.check(sink, &known)?;
            (known.done, known.failed) = (Some(done), failed);
        }
        Ok(known)
    }

    /// Whether a journal is of images of this run.
    fn meets(&self, journal: &Place) -> bool {
        meet(journal.images(), &self.images)
    }

    /// Why images are in the way of a run that was to go on: another one of these dumps made them.
    pub(super) fn explained(&self, error: Error) -> Error {
        let goes_on = self.record.resume != Resume::No;
        if !goes_on || !matches!(error, Error::Exists { .. }) {
            return error;
        }
        let is_of_these = |was: &Identity| {
            let mut paths = was.dumps.iter().map(|dump| &dump.path);
            paths.any(|path| self.identity.dumps.iter().any(|dump| dump.path == *path))
        };
        let all = record::manifests(&self.record.folder).unwrap_or_default();
        let other = all.into_iter().find_map(|path| {
            let head = Manifest::open(&path).ok()??.head().clone();
            let was = Some(head.identity).filter(|was| is_of_these(was))?;
            Some(Error::Resume { path, problem: was.difference(&self.identity)? })
        });
        other.unwrap_or(error)
    }

    fn must_be_same(&self, path: &Path, was: &Identity) -> Result<(), Error> {
        match was.difference(&self.identity) {
            None => Ok(()),
            Some(problem) => Err(Error::Resume { path: path.to_owned(), problem }),
        }
    }

    /// Writes to `journal` what is known, other than from it, of images that are done; with
    /// `failed` of those that failed as well.
    pub(super) fn import(
        &self,
        known: &Known,
        journal: &Journal,
        failed: bool,
    ) -> Result<(), Error> {
        let mut entries = Entries::new(self, known)?;
        for image in self.images.clone() {
            let Some(entry) = entries.next(image, 1)?[0] else { continue };
            let is_done = known.done.as_ref().is_some_and(|done| done.contains(image));
            // What failed in one run another may have made.
            let wanted =
                if matches!(entry, Entry::Failed(_)) { failed && !is_done } else { is_done };
            if wanted {
                journal.write(image, &entry.to_bytes(self.identity.plan.0, image))?;
            }
        }
        Ok(())
    }

    /// The images of which there is an entry, and in the sink a file of the right length, with
    /// [`Resume::Hashes`] of the right pixels; and how many are known to have failed.
    fn check(&self, sink: &dyn Sink, known: &Known) -> Result<(Done, u64), Error> {
        struct State {
            done: Done,
            failed: u64,
            outcome: Result<(), Error>,
        }
        let images = &self.images;
        let done = Done::all_but(self.plan.images(), images);
        let state = Mutex::new(State { done, failed: 0, outcome: Ok(()) });
        let entries = Mutex::new((images.start, Entries::new(self, known)?));
        let chunk = || -> Result<bool, Error> {
            let (first, found) = {
                let mut entries = entries.lock().unwrap_or_else(PoisonError::into_inner);
                let first = entries.0;
                let failed = state.lock().unwrap_or_else(PoisonError::into_inner).outcome.is_err();
                if first >= images.end || failed {
                    return Ok(false);
                }
                let count = CHUNK.min(images.end - first);
                entries.0 += count;
                (first, entries.1.next(first, usize::try_from(count).expect("it is small"))?)
            };
            let (mut there, mut failed, mut last) = (Vec::new(), 0, None);
            for (image, entry) in (first..).zip(found) {
                match entry {
                    None => {}
                    Some(Entry::Failed(_)) => failed += 1,
                    Some(Entry::Existed) => {
                        there.extend(sink.stored(&self.file(image))?.map(|_| image));
                    }
                    Some(Entry::Done(found)) => {
                        let is_there = self.is_there(sink, image, &found, &mut last)?;
                        there.extend(is_there.then_some(image));
                    }
                }
            }
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            there.into_iter().for_each(|image| state.done.insert(image));
            state.failed += failed;
            Ok(true)
        };
        let work = || {
            loop {
                match chunk() {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(error) => {
                        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                        if state.outcome.is_ok() {
                            state.outcome = Err(error);
                        }
                        return;
                    }
                }
            }
        };
        thread::scope(|scope| {
            for _ in 1..self.threads {
                if thread::Builder::new().spawn_scoped(scope, work).is_err() {
                    break;
                }
            }
            work();
        });
        let state = state.into_inner().unwrap_or_else(PoisonError::into_inner);
        state.outcome?;
        let mut done = state.done;
        // A tar is there or not: its first image's entry comes when it has its name.
        for tar in tar_files(self.plan) {
            if done.missing(tar.images.start, tar.images.end) > 0 {
                tar.images.for_each(|image| done.remove(image));
            }
        }
        Ok((done, state.failed))
    }

    /// `last` is the tar that was looked for last, and its length if it is there.
    fn is_there(
        &self,
        sink: &dyn Sink,
        image: u64,
        found: &Found,
        last: &mut Option<(u64, Option<u64>)>,
    ) -> Result<bool, Error> {
        let name = self.file(image);
        if let Some((_, tar, _)) = self.member(image) {
            let known = last.filter(|(of, _)| *of == tar).map(|(_, stored)| stored);
            let stored = match known {
                Some(stored) => stored,
                None => sink.stored(&name)?,
            };
            *last = Some((tar, stored));
            if stored != Some(self.plan.tar_file(tar).len) {
                return Ok(false);
            }
            return if self.record.resume == Resume::Hashes {
                self.is_same(sink, image, found)
            } else {
                Ok(true)
            };
        }
        let len = self.len(image)?.or(found.len.map(NonZeroU64::get));
        if len.is_none() || sink.stored(&name)? != len {
            return Ok(false);
        }
        match self.record.resume {
            Resume::Hashes => self.is_same(sink, image, found),
            _ => Ok(true),
        }
    }

    /// Whether an image that is there has the pixels and the header that it was made with.
    fn is_same(&self, sink: &dyn Sink, image: u64, found: &Found) -> Result<bool, Error> {
        let name = self.file(image);
        let Some(hash) = found.hash else {
            let path = self.record.folder.clone();
            let problem = "it was made without --hash, so there is nothing to compare with";
            return Err(Error::Resume { path, problem: problem.to_owned() });
        };
        let Some(mut file) = sink.read(&name)? else { return Ok(false) };
        let (header, index) = self.header(image)?;
        let counts = [found.nan, found.inf];
        let failed = |source| Error::Write { path: name.clone().into(), source };
        if let Some((member, tar, at)) = self.member(image) {
            let (own, len) = (self.name(image), self.plan.tar_file(tar).len);
            let around = member.is_around(&mut *file, (at, &own), len).map_err(failed)?;
            if !around {
                return Ok(false);
            }
            let section = Section::new(file, at + member.head, member.len).map_err(failed)?;
            file = Box::new(section);
        }
        if !self.options.encoding.is_packed() {
            let (bytes, now) = header_and_hash(file, header.len() as u64).map_err(failed)?;
            return Ok(now == hash && header.is_of(&bytes, &index, found.range, counts, None));
        }
        let Some(same) = sink.read(&name)? else { return Ok(false) };
        let packed = self.packed_again(image, &header, file, same, hash).map_err(failed)?;
        Ok(packed.is_some_and(|(bytes, packed)| {
            header.is_of(&bytes, &index, found.range, counts, Some(&packed))
        }))
    }

    /// The header of a packed image and its strips, if its pixels have that hash, and packed again make the
    /// same bytes: some of those are of no consequence to who unpacks them.
    fn packed_again(
        &self,
        image: u64,
        header: &Header,
        mut file: Box<dyn Stored + '_>,
        same: Box<dyn Stored + '_>,
        hash: u64,
    ) -> io::Result<Option<(Vec<u8>, Packed)>> {
        let Some(packer) = Packer::new(&self.options.encoding)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.by_ref().take(header.len() as u64).read_to_end(&mut bytes)?;
        let file = RefCell::new(file);
        // Piece by piece: a row of tiles may be long.
        let is_there = |at: u64, due: &[u8]| {
            let mut file = file.borrow_mut();
            file.seek(SeekFrom::Start(at))?;
            let mut piece = [0; 16 << 10];
            for due in due.chunks(piece.len()) {
                let is = &mut piece[..due.len()];
                file.read_exact(is)?;
                if is != due {
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
            Ok(())
        };
        let (id, cut) = (ImageId { span: 0, index: image }, self.cut(image));
        let (mut packing, packed) = (Packing::new(packer), PackedFile::new(header.len() as u64));
        let mut hasher = record::Hasher::default();
        let (mut at, mut is_same) = (0, true);
        let read = Decoded::open(same).and_then(|mut image| {
            image.each(&mut |pixels| {
                hasher.write(pixels);
                is_same &= packing.pixels(id, cut, at, pixels, &packed, &is_there).is_ok();
                at += pixels.len() as u64;
            })
        });
        if read.is_err() || !is_same || hasher.finish() != hash {
            return Ok(None);
        }
        packed.finish(header.strips().1).map(|packed| Some((bytes, packed)))
    }
}

/// Reads what is known of images, in their order.
struct Entries<'a> {
    made: &'a Made<'a>,
    known: &'a Known,
    /// The manifest, and the number of the image whose line is next.
    manifest: Option<(Manifest, u64)>,
}

impl<'a> Entries<'a> {
    fn new(made: &'a Made<'_>, known: &'a Known) -> Result<Entries<'a>, Error> {
        let manifest = match &known.manifest {
            None => None,
            Some(path) => Manifest::open(path)?.map(|manifest| (manifest, 0)),
        };
        Ok(Entries { made, known, manifest })
    }

    /// Of so many images from `first` on, which lies behind all that were asked for before.
    fn next(&mut self, first: u64, count: usize) -> Result<Vec<Option<Entry>>, Error> {
        let mut entries = vec![None; count];
        let images = first..first + count as u64;
        let journals = self.known.journals.iter();
        for journal in journals.filter(|journal| meet(journal.images(), &images)) {
            for (entry, other) in entries.iter_mut().zip(journal.read(first, count)?) {
                *entry = better(*entry, other);
            }
        }
        if let Some((manifest, at)) = &mut self.manifest {
            manifest.skip(first.saturating_sub(*at))?;
            for (entry, image) in entries.iter_mut().zip(images) {
                let line = manifest.next_line()?;
                let line = line.filter(|line| {
                    line.name == self.made.file(image)
                        && line.member.as_deref().is_none_or(|name| name == self.made.name(image))
                });
                let is_packed = self.made.options.encoding.is_packed();
                *entry = better(*entry, line.and_then(|line| recorded(&line, is_packed)));
            }
            *at = first + count as u64;
        }
        Ok(entries)
    }
}

fn meet(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

/// Of two runs that tried an image, what the one says that made it.
fn better(one: Option<Entry>, other: Option<Entry>) -> Option<Entry> {
    match one {
        None | Some(Entry::Failed(_)) => other.or(one),
        made => made,
    }
}

/// What a manifest's line says, as an entry.
fn recorded(line: &Line<'_>, is_packed: bool) -> Option<Entry> {
    if line.error.is_some() {
        return None;
    }
    if line.existed {
        return Some(Entry::Existed);
    }
    // JSON has no infinity and no NaN: where there is the one number the other was none.
    let (one, other) = (line.lo.or(line.mean), line.hi.or(line.std));
    Some(Entry::Done(Found {
        range: one.map(|one| (one, other.unwrap_or(f64::NAN))),
        nan: line.nan?,
        inf: line.inf?,
        hash: line.xxh3.map(|hash| hash.0),
        len: line.bytes.and_then(NonZeroU64::new).filter(|_| is_packed),
    }))
}

/// The hash of a stored image's pixels; `None` if it is not there, or they cannot be unpacked.
pub(super) fn hash_stored(
    sink: &dyn Sink,
    name: &str,
    header_len: u64,
    is_packed: bool,
) -> Result<Option<u64>, Error> {
    let Some(file) = sink.read(name)? else { return Ok(None) };
    if is_packed {
        let mut hasher = record::Hasher::default();
        let mut see = |pixels: &[u8]| hasher.write(pixels);
        let read = Decoded::open(file).and_then(|mut image| image.each(&mut see));
        return Ok(read.ok().map(|()| hasher.finish()));
    }
    let read = header_and_hash(file, header_len);
    read.map(|(_, hash)| Some(hash)).map_err(|source| Error::Write { path: name.into(), source })
}

/// The hash of some bytes of a stored file.
pub(super) fn hash_part(
    sink: &dyn Sink,
    name: &str,
    at: u64,
    bytes: u64,
) -> Result<Option<u64>, Error> {
    let Some(mut file) = sink.read(name)? else { return Ok(None) };
    let hash = file.seek(SeekFrom::Start(at)).and_then(|_| record::hash_of(&mut file.take(bytes)));
    hash.map(Some).map_err(|source| Error::Write { path: name.into(), source })
}

/// The header of a stored image, and the hash of what follows.
fn header_and_hash(mut file: Box<dyn Stored + '_>, header_len: u64) -> io::Result<(Vec<u8>, u64)> {
    let mut header = Vec::new();
    file.by_ref().take(header_len).read_to_end(&mut header)?;
    Ok((header, record::hash_of(&mut *file)?))
}
