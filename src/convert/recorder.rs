//! How a run is recorded and continued: which images are there already, the journal of those that
//! are made, the manifest at the end.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::UNIX_EPOCH;

use super::space::Need;
use super::{Manifest, Options, Record, Resume, header};
use crate::backend::done::Done;
use crate::error::Error;
use crate::normalize::Norm;
use crate::plan::{Naming, Plan, Row};
use crate::record::entry::{Doing, Entry, Failure, Found};
use crate::record::identity::{Asked, Hash, Identity, Origin};
use crate::record::journal::{Journal, Opened};
use crate::record::lock::Lock;
use crate::record::manifest::{self, Head, Line};
use crate::record::{self, Hasher};
use crate::sink::Sink;
use crate::source::Source;

/// Names and bytes of images are part of what a plan's hash stands for: this is raised when the
/// program makes others of the same input.
const OUTPUT: u64 = 1;
/// Images that a thread checks at once.
const CHUNK: u64 = 1024;

/// What a run begins with.
pub(super) struct Begun<'a> {
    pub(super) recorder: Option<Recorder<'a>>,
    /// Images that are there already; `None` if none was looked for.
    pub(super) done: Option<Done>,
    /// An earlier run did everything.
    pub(super) finished: bool,
}

impl Begun<'_> {
    /// Of a run without images.
    pub(super) fn empty() -> Self {
        Begun { recorder: None, done: None, finished: false }
    }
}

/// The record of a run under way.
pub(super) struct Recorder<'a> {
    made: Made<'a>,
    journal: Journal,
    _lock: Lock,
}

/// What is known of a run's images before it begins.
pub(super) struct Made<'a> {
    source: &'a dyn Source,
    plan: &'a Plan,
    norm: Norm,
    record: &'a Record,
    threads: usize,
    names: Hash,
    identity: Identity,
}

/// What an earlier run left.
enum Left {
    Nothing,
    /// A journal that cannot be read: images may be there, and it is not known which.
    Torn,
    Journal(Journal, Done),
    /// Its manifest, of whose images these are there.
    Manifest(PathBuf, Done),
}

impl Left {
    /// The images that it has, and that are there.
    fn done(&self) -> Option<&Done> {
        match self {
            Left::Nothing | Left::Torn => None,
            Left::Journal(_, done) | Left::Manifest(_, done) => Some(done),
        }
    }
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
        let done = options.skip_existing.then(|| existing(sink, plan, None)).transpose()?;
        prepare(source, sink, options, plan, done.as_ref(), false)?;
        return Ok(Begun { recorder: None, done, finished: false });
    };
    let made = Made::new(source, options, plan, record, threads)?;
    let is_there = record.folder.is_dir();
    let lock = is_there.then(|| Lock::new(&record.folder)).transpose()?;
    // What is in its way is told before any work.
    if is_there {
        made.manifest_path()?;
    }
    let left = made.left(sink, options)?;
    if let Left::Manifest(_, done) = &left
        && done.count() == plan.images()
    {
        return Ok(Begun { recorder: None, done: Some(done.clone()), finished: true });
    }
    let recorded = left.done().cloned();
    let resumed = !matches!(left, Left::Nothing) && record.resume != Resume::No;
    let done = match options.skip_existing {
        true => Some(existing(sink, plan, recorded.clone())?),
        false => recorded.clone(),
    };
    prepare(source, sink, options, plan, done.as_ref(), resumed)?;
    let lock = match lock {
        Some(lock) => lock,
        None => Lock::new(&record.folder)?,
    };
    let path = record::journal_path(&record.folder, made.names);
    let journal = match left {
        Left::Journal(journal, _) => journal,
        Left::Nothing | Left::Torn => {
            let journal = Journal::create(&path, &made.identity)?;
            record::forget(&record.folder, made.names)?;
            journal
        }
        Left::Manifest(manifest, done) => {
            let journal = Journal::create(&path, &made.identity)?;
            made.import(&manifest, &done, &journal)?;
            journal
        }
    };
    if let (true, Some(done)) = (options.skip_existing, &done) {
        let plan_hash = made.identity.plan.0;
        for image in (0..plan.images()).filter(|&image| done.contains(image)) {
            if !recorded.as_ref().is_some_and(|recorded| recorded.contains(image)) {
                journal.write(image, &Entry::Existed.to_bytes(plan_hash, image))?;
            }
        }
    }
    let recorder = Recorder { made, journal, _lock: lock };
    Ok(Begun { recorder: Some(recorder), done, finished: false })
}

/// Prepares the sink for the images that are not done, if it has room for them.
fn prepare(
    source: &dyn Source,
    sink: &dyn Sink,
    options: &Options,
    plan: &Plan,
    done: Option<&Done>,
    resumed: bool,
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
    if resumed { sink.resume(&mut names) } else { sink.prepare(&mut names) }
}

/// Names of images that are not done.
pub(super) fn names_but<'a>(
    plan: &'a Plan,
    done: Option<&'a Done>,
) -> impl Iterator<Item = String> + 'a {
    let is_done = move |image: u64| done.is_some_and(|done| done.contains(image));
    let rows = plan.rows().iter().enumerate();
    rows.flat_map(move |(at, row)| (0..row.images).map(move |index| (at, row.first_image, index)))
        .filter(move |(_, first, index)| !is_done(first + index))
        .map(|(row, _, index)| plan.name(row, index))
}

/// The images that are there, whatever they hold, and those that are known to be.
fn existing(sink: &dyn Sink, plan: &Plan, known: Option<Done>) -> Result<Done, Error> {
    let mut done = known.unwrap_or_else(|| Done::none(plan.images()));
    for (image, name) in (0..).zip(plan.names()) {
        if !done.contains(image) && sink.stored(&name)?.is_some() {
            done.insert(image);
        }
    }
    Ok(done)
}

impl<'a> Made<'a> {
    fn new(
        source: &'a dyn Source,
        options: &'a Options,
        plan: &'a Plan,
        record: &'a Record,
        threads: usize,
    ) -> Result<Made<'a>, Error> {
        let firsts = plan.rows().iter().enumerate().map(|(row, _)| plan.name(row, 0));
        let own = |name: &String| record::is_own(name.split('/').next().unwrap_or_default());
        let listed = matches!(options.naming, Naming::List(_));
        let mut names: Box<dyn Iterator<Item = String>> =
            if listed { Box::new(plan.names()) } else { Box::new(firsts) };
        if let Some(name) = names.find(own) {
            return Err(Error::Usage(format!(
                "an image would be called {}, which is kept for the run's own files; another \
                 --name helps",
                crate::error::shown(&name)
            )));
        }
        let names = names_hash(source, options, plan);
        let identity = identity(source, options, plan, record, names);
        Ok(Made { source, plan, norm: options.norm, record, threads, names, identity })
    }

    /// What need not be done, and whether a run is continued: for who only wants to know.
    pub(super) fn found(
        source: &dyn Source,
        sink: &dyn Sink,
        options: &Options,
        plan: &Plan,
        threads: usize,
    ) -> Result<(Option<Done>, bool), Error> {
        let (recorded, resumed) = match &options.record {
            Some(record) if plan.images() > 0 => {
                let made = Made::new(source, options, plan, record, threads)?;
                let left = made.left(sink, options)?;
                let resumed = !matches!(left, Left::Nothing) && record.resume != Resume::No;
                (left.done().cloned(), resumed)
            }
            _ => (None, false),
        };
        match options.skip_existing {
            true => Ok((Some(existing(sink, plan, recorded)?), resumed)),
            false => Ok((recorded, resumed)),
        }
    }

    /// What an earlier run left that is of use to this one.
    fn left(&self, sink: &dyn Sink, options: &Options) -> Result<Left, Error> {
        match self.record.resume {
            _ if !self.record.folder.is_dir() => Ok(Left::Nothing),
            // What is known of images that are skipped is kept, if they are this run's.
            Resume::No if options.skip_existing => match self.find(sink) {
                Err(Error::Resume { .. }) => Ok(Left::Nothing),
                found => found,
            },
            Resume::No => Ok(Left::Nothing),
            _ => self.find(sink),
        }
    }

    /// Finds what an earlier run left, and checks that it is there still.
    fn find(&self, sink: &dyn Sink) -> Result<Left, Error> {
        let folder = &self.record.folder;
        let path = record::journal_path(folder, self.names);
        let opened = Journal::open(&path)?;
        if let Opened::Torn = opened {
            return Ok(Left::Torn);
        }
        if let Opened::Whole(journal, identity) = opened {
            self.must_be_same(&path, &identity)?;
            let done = self.check(
                sink,
                &path,
                &Mutex::new(&mut |first, count| journal.read(first, count)),
            )?;
            return Ok(Left::Journal(journal, done));
        }
        if let Some(path) = self.manifest_path()?
            && let Some(mut manifest) = manifest::Manifest::open(&path)?
            && manifest.head().names == self.names
        {
            self.must_be_same(&path, &manifest.head().identity)?;
            let done = self.check(
                sink,
                &path,
                &Mutex::new(&mut |first, count| self.entries(&mut manifest, first, count)),
            )?;
            return Ok(Left::Manifest(path, done));
        }
        // A journal of the same dumps under other names: other options.
        for path in record::journals(folder)? {
            if let Some(identity) = record::whose(&path)?
                && identity.dumps == self.identity.dumps
            {
                self.must_be_same(&path, &identity)?;
            }
        }
        Ok(Left::Nothing)
    }

    fn must_be_same(&self, path: &Path, was: &Identity) -> Result<(), Error> {
        match was.difference(&self.identity) {
            None => Ok(()),
            Some(problem) => Err(Error::Resume { path: path.to_owned(), problem }),
        }
    }

    /// The next entries that a manifest stands for.
    fn entries(
        &self,
        manifest: &mut manifest::Manifest,
        first: u64,
        count: usize,
    ) -> Result<Vec<Option<Entry>>, Error> {
        (first..first + count as u64)
            .map(|image| {
                let line = manifest.next_line()?;
                Ok(line.filter(|line| line.name == self.name(image)).and_then(|line| entry(&line)))
            })
            .collect()
    }

    /// Writes to a journal what a manifest says of images that are done.
    fn import(&self, path: &Path, done: &Done, journal: &Journal) -> Result<(), Error> {
        let Some(mut manifest) = manifest::Manifest::open(path)? else { return Ok(()) };
        for image in 0..self.plan.images() {
            let entries = self.entries(&mut manifest, image, 1)?;
            if let (true, Some(entry)) = (done.contains(image), entries[0]) {
                journal.write(image, &entry.to_bytes(self.identity.plan.0, image))?;
            }
        }
        Ok(())
    }

    /// The images of which `next` has an entry, and the sink a file of the right length; with
    /// [`Resume::Hashes`] of the right pixels.
    fn check(&self, sink: &dyn Sink, path: &Path, next: &Mutex<Next<'_>>) -> Result<Done, Error> {
        let images = self.plan.images();
        let state = Mutex::new((0, Done::none(images), None));
        let work = || {
            loop {
                let (first, entries) = {
                    let mut read = next.lock().unwrap_or_else(PoisonError::into_inner);
                    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                    let first: u64 = state.0;
                    if first >= images || state.2.is_some() {
                        return Ok(());
                    }
                    let count = CHUNK.min(images - first);
                    state.0 += count;
                    drop(state);
                    let count = usize::try_from(count).expect("a chunk is small");
                    (first, (*read)(first, count)?)
                };
                let mut there = Vec::new();
                for (image, entry) in (first..).zip(entries) {
                    if let Some(entry) = entry
                        && self.is_there(sink, path, image, &entry)?
                    {
                        there.push(image);
                    }
                }
                let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                there.into_iter().for_each(|image| state.1.insert(image));
            }
        };
        let work = || {
            if let Err(error) = work() {
                let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                state.2.get_or_insert(error);
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
        let (_, done, error) = state.into_inner().unwrap_or_else(PoisonError::into_inner);
        error.map_or(Ok(done), Err)
    }

    fn is_there(
        &self,
        sink: &dyn Sink,
        path: &Path,
        image: u64,
        entry: &Entry,
    ) -> Result<bool, Error> {
        let name = self.name(image);
        let found = match entry {
            Entry::Failed(_) => return Ok(false),
            Entry::Existed => return Ok(sink.stored(&name)?.is_some()),
            Entry::Done(found) => found,
        };
        let (header_len, len) = self.lengths(image)?;
        if sink.stored(&name)? != Some(len) {
            return Ok(false);
        }
        if self.record.resume != Resume::Hashes {
            return Ok(true);
        }
        let Some(hash) = found.hash else {
            let problem = "it was made without --hash, so there is nothing to compare with";
            return Err(Error::Resume { path: path.to_owned(), problem: problem.to_owned() });
        };
        Ok(hash_stored(sink, &name, header_len)? == Some(hash))
    }

    /// Length of an image's header, and of its file.
    fn lengths(&self, image: u64) -> Result<(u64, u64), Error> {
        let (at, row, _) = self.place(image);
        let header_len = header(self.source, self.plan, self.norm, at)?.len() as u64;
        Ok((header_len, header_len + 4 * row.samples()))
    }

    /// The row of an image, by number and as it is, and the image's number in it.
    fn place(&self, image: u64) -> (usize, &Row, u64) {
        let rows = self.plan.rows();
        let at = rows.partition_point(|row| row.first_image <= image) - 1;
        (at, &rows[at], image - rows[at].first_image)
    }

    fn name(&self, image: u64) -> String {
        let (row, _, index) = self.place(image);
        self.plan.name(row, index)
    }

    /// Where the manifest is, or is to be; `None` if none is wanted.
    fn manifest_path(&self) -> Result<Option<PathBuf>, Error> {
        match &self.record.manifest {
            Manifest::None => Ok(None),
            Manifest::At(path) => Ok(Some(path.clone())),
            Manifest::Folder => record::manifest_path(&self.record.folder, self.names).map(Some),
        }
    }

    /// Appends the manifest's lines of some images.
    fn lines(&self, journal: &Journal, images: Range<u64>, out: &mut Vec<u8>) -> Result<(), Error> {
        let count = usize::try_from(images.end - images.start).expect("a chunk is small");
        let mut lengths = None;
        for (image, entry) in images.clone().zip(journal.read(images.start, count)?) {
            let (at, row, index) = self.place(image);
            // Headers of one row are of one length.
            let len = match lengths {
                Some((of, len)) if of == at => len,
                _ => self.lengths(image)?.1,
            };
            lengths = Some((at, len));
            let tensor = &self.source.tensors()[row.tensor];
            let (name, tensor_bytes) = manifest::named(&tensor.name);
            let mut line = Line {
                name: Cow::from(self.plan.name(at, index)),
                source: Cow::from(&self.source.dumps()[tensor.dump].label),
                tensor: name,
                tensor_bytes,
                index: row.indices(index),
                dtype: Cow::from(row.dtype.name()),
                shape: [row.height, row.width],
                lo: None,
                hi: None,
                norm: Cow::from(self.norm.name()),
                nan: None,
                inf: None,
                bytes: None,
                xxh3: None,
                existed: false,
                error: None,
            };
            match entry {
                Some(Entry::Done(found)) => {
                    (line.lo, line.hi) = found.range.unzip();
                    (line.nan, line.inf) = (Some(found.nan), Some(found.inf));
                    (line.bytes, line.xxh3) = (Some(len), found.hash.map(Hash));
                }
                Some(Entry::Existed) => line.existed = true,
                Some(Entry::Failed(failure)) => line.error = Some(Cow::from(told(failure))),
                None => line.error = Some(Cow::from("nothing is recorded of it")),
            }
            serde_json::to_writer(&mut *out, &line).expect("a line has no key but strings");
            out.push(b'\n');
        }
        Ok(())
    }
}

/// Reads entries from number `first` on, so many.
type Next<'a> = &'a mut (dyn FnMut(u64, usize) -> Result<Vec<Option<Entry>>, Error> + Send);

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

    /// All images are made or have failed: the manifest takes the journal's place.
    pub(super) fn finish(self, sink: &dyn Sink, failed: u64) -> Result<(), Error> {
        let Recorder { made, journal, _lock } = self;
        sink.finish()?;
        let sync = made.record.sync;
        if let Some(path) = made.manifest_path()? {
            let metadata = (0..made.source.dumps().len()).map(|dump| made.source.metadata(dump));
            let head = Head {
                tensortiff: env!("CARGO_PKG_VERSION").to_owned(),
                names: made.names,
                failed,
                identity: made.identity.clone(),
                metadata: metadata.cloned().collect(),
            };
            let lines = |images, out: &mut Vec<u8>| made.lines(&journal, images, out);
            manifest::write(&path, &head, made.threads, sync, &lines)?;
        }
        journal.remove()?;
        if sync && let Ok(folder) = File::open(&made.record.folder) {
            let failed = |source| Error::Write { path: made.record.folder.clone(), source };
            folder.sync_all().map_err(failed)?;
        }
        Ok(())
    }
}

/// The hash of a stored image's pixels; `None` if it is not there.
pub(super) fn hash_stored(
    sink: &dyn Sink,
    name: &str,
    header_len: u64,
) -> Result<Option<u64>, Error> {
    let Some(mut file) = sink.read(name)? else { return Ok(None) };
    let header = io::copy(&mut file.by_ref().take(header_len), &mut io::sink());
    let hash = header.and_then(|_| record::hash_of(&mut *file));
    hash.map(Some).map_err(|source| Error::Write { path: name.into(), source })
}

/// What a manifest's line says, as an entry.
fn entry(line: &Line<'_>) -> Option<Entry> {
    if line.error.is_some() {
        return None;
    }
    if line.existed {
        return Some(Entry::Existed);
    }
    Some(Entry::Done(Found {
        range: line.lo.zip(line.hi),
        nan: line.nan?,
        inf: line.inf?,
        hash: line.xxh3.map(|hash| hash.0),
    }))
}

/// As much of an error as a journal holds.
fn failure(error: &Error) -> Failure {
    let (doing, source) = match error {
        Error::Read { source, .. } => (Doing::Read, Some(source)),
        Error::Write { source, .. } => (Doing::Write, Some(source)),
        Error::Changed { .. } => (Doing::Read, None),
        _ => (Doing::Write, None),
    };
    Failure { doing, errno: source.and_then(io::Error::raw_os_error).unwrap_or(0) }
}

fn told(failure: Failure) -> String {
    let doing = match failure.doing {
        Doing::Read => "its samples cannot be read",
        Doing::Write => "its file cannot be written",
    };
    match failure.errno {
        0 => doing.to_owned(),
        errno => format!("{doing}: {}", io::Error::from_raw_os_error(errno)),
    }
}

/// Who makes the same files shares it.
fn names_hash(source: &dyn Source, options: &Options, plan: &Plan) -> Hash {
    let mut hasher = Hasher::default();
    hash_naming(&mut hasher, &options.naming);
    for row in plan.rows() {
        let tensor = &source.tensors()[row.tensor];
        hasher.text(&source.dumps()[tensor.dump].stem);
        hasher.text(&tensor.name);
        hasher.number(row.images);
        hasher.text(&row.index_text(0));
        hasher.text(&row.index_text(row.images - 1));
    }
    Hash(hasher.finish())
}

fn hash_naming(hasher: &mut Hasher, naming: &Naming) {
    match naming {
        Naming::Template(template) => hasher.text(template),
        Naming::List(list) => {
            hasher.number(list.len() as u64);
            list.iter().for_each(|name| hasher.text(name));
        }
    }
}

fn identity(
    source: &dyn Source,
    options: &Options,
    plan: &Plan,
    record: &Record,
    names: Hash,
) -> Identity {
    let mut hasher = Hasher::default();
    hasher.number(OUTPUT);
    hasher.number(names.0);
    hasher.text(options.norm.name());
    for row in plan.rows() {
        let tensor = &source.tensors()[row.tensor];
        hasher.number(tensor.dump as u64);
        hasher.text(row.dtype.name());
        hasher.number(tensor.shape.len() as u64);
        tensor.shape.iter().for_each(|&axis| hasher.number(axis));
        hasher.number(row.plane(0));
    }
    let mut dumps = Vec::new();
    for (at, dump) in source.dumps().iter().enumerate() {
        let origin = source.origin(at);
        let modified = origin.and_then(|origin| origin.modified?.duration_since(UNIX_EPOCH).ok());
        let origin = Origin {
            path: dump.label.clone(),
            bytes: origin.map_or(0, |origin| origin.bytes),
            modified: modified.and_then(|since| u64::try_from(since.as_nanos()).ok()),
        };
        hasher.number(origin.bytes);
        dumps.push(origin);
    }
    let names = match &options.naming {
        Naming::Template(template) => template.clone(),
        Naming::List(list) => {
            let mut hasher = Hasher::default();
            list.iter().for_each(|name| hasher.text(name));
            format!("list {:016x}", hasher.finish())
        }
    };
    let asked = Asked {
        norm: options.norm.name().to_owned(),
        names,
        tensors: options.selection.tensors.clone(),
        exclude: options.selection.exclude.clone(),
        channel: options.selection.channel,
        hash: record.hash,
    };
    Identity::new(hasher.finish(), plan.images(), asked, dumps)
}
