//! What is known of a run's images before any is made: where each is, how long it will be, what the
//! manifest says of it.

use std::borrow::Cow;
use std::num::NonZeroU64;
use std::ops::Range;
use std::path::{self, Path, PathBuf};
use std::{fs, io};

use super::identify::{identity, names_hash};
use super::packing::Cut;
use super::spans::cut;
use super::stacks::Files;
use super::tars::Member;
use super::{Manifest, Options, Record, Resume, header, most_of_file};
use crate::encode::{Header, StackFile};
use crate::error::Error;
use crate::plan::{Naming, Plan, Row};
use crate::record;
use crate::record::entry::{Doing, Entry, Failure};
use crate::record::identity::{Hash, Identity};
use crate::record::journal::About;
use crate::record::manifest::{self, Head, Line};
use crate::source::Source;

/// The images of a run that is recorded.
pub(super) struct Made<'a> {
    pub(super) source: &'a dyn Source,
    pub(super) plan: &'a Plan,
    pub(super) options: &'a Options,
    pub(super) record: &'a Record,
    pub(super) threads: usize,
    pub(super) names: Hash,
    pub(super) identity: Identity,
    /// The images that this run is to make.
    pub(super) images: Range<u64>,
    /// Whether others make the rest.
    pub(super) is_shard: bool,
    /// What images share.
    files: Files,
}

impl<'a> Made<'a> {
    pub(super) fn new(
        source: &'a dyn Source,
        options: &'a Options,
        plan: &'a Plan,
        record: &'a Record,
        threads: usize,
    ) -> Result<Made<'a>, Error> {
        let firsts = plan.rows().iter().enumerate().map(|(row, _)| plan.file(row, 0));
        let own = |name: &String| record::is_own(name.split('/').next().unwrap_or_default());
        let listed = matches!(options.naming, Naming::List(_));
        let mut first_names: Box<dyn Iterator<Item = String>> =
            if listed { Box::new(plan.names()) } else { Box::new(firsts) };
        if let Some(name) = first_names.find(own) {
            return Err(Error::Usage(format!(
                "an image would be called {}, which is kept for the run's own files; another \
                 --name helps",
                crate::error::shown(&name)
            )));
        }
        let names = names_hash(source, options, plan);
        check_manifest(record, plan, names)?;
        let identity = identity(source, options, plan, record.hash, names);
        if let Some(planned) = &record.planned
            && let Some(problem) = planned.identity.difference(&identity)
        {
            return Err(Error::Planned { path: planned.path.clone(), problem });
        }
        Ok(Made {
            source,
            plan,
            options,
            record,
            threads,
            names,
            identity,
            images: options.images(plan),
            is_shard: options.shard.is_some(),
            files: Files::of(source, plan, options)?,
        })
    }

    /// What its journal is of.
    pub(super) fn about(&self) -> About {
        About { identity: self.identity.clone(), shard: self.is_shard.then(|| self.images.clone()) }
    }

    /// Length of an image's file, where the plan tells that; `None` where it is packed. Of a member of a tar
    /// that of its own.
    pub(super) fn len(&self, image: u64) -> Result<Option<u64>, Error> {
        if self.options.encoding.is_packed() {
            return Ok(None);
        }
        let (at, _, index) = self.place(image);
        match (&self.files, self.plan.page(at, index)) {
            (Files::Stacks(files), Some(page)) => {
                return Ok(files.get(page.stack).map(StackFile::len));
            }
            (Files::Tars(members), _) => return Ok(Some(members[at].len)),
            (Files::Stacks(_), None) => {}
        }
        most_of_file(self.source, self.plan, self.options, at).map(Some)
    }

    /// An image's header, with its own numbers left open, and its place on the axes before its own.
    pub(super) fn header(&self, image: u64) -> Result<(Header, Vec<u64>), Error> {
        let (at, row, index) = self.place(image);
        Ok((header(self.source, self.plan, self.options, at)?, row.indices(index)))
    }

    /// How an image is cut, where it is packed.
    pub(super) fn cut(&self, image: u64) -> Cut {
        let (_, row, _) = self.place(image);
        cut(self.options, row)
    }

    /// The row of an image, by number and as it is, and the image's number in it.
    fn place(&self, image: u64) -> (usize, &Row, u64) {
        let rows = self.plan.rows();
        let at = rows.partition_point(|row| row.first_image <= image) - 1;
        (at, &rows[at], image - rows[at].first_image)
    }

    pub(super) fn name(&self, image: u64) -> String {
        let (row, _, index) = self.place(image);
        self.plan.name(row, index)
    }

    /// The name of the file that an image is, or is in.
    pub(super) fn file(&self, image: u64) -> String {
        let (row, _, index) = self.place(image);
        self.plan.file(row, index)
    }

    /// The member that an image is of a tar: what it is like, the tar's number, where it begins there.
    pub(super) fn member(&self, image: u64) -> Option<(&Member, u64, u64)> {
        let (row, _, index) = self.place(image);
        let Files::Tars(members) = &self.files else { return None };
        let (tar, at) = self.plan.in_tar(row, index)?;
        Some((&members[row], tar, at))
    }

    /// Where the manifest is, or is to be; `None` if none is wanted.
    pub(super) fn manifest_path(&self) -> Result<Option<PathBuf>, Error> {
        match &self.record.manifest {
            Manifest::None => Ok(None),
            Manifest::At(path) => Ok(Some(path.clone())),
            Manifest::Folder => record::manifest_path(&self.record.folder, self.names).map(Some),
        }
    }

    /// Takes away the manifest of tars that are made anew, where it is and where it may have been before: it
    /// says where members lay that were others.
    pub(super) fn forget_of_tar(&self) -> Result<(), Error> {
        let Some(tar) = self.plan.tar() else { return Ok(()) };
        let beside = self.record.folder.join(tar.manifest());
        for path in self.manifest_path()?.into_iter().chain([beside]) {
            record::forget_at(&path, self.names)?;
        }
        Ok(())
    }

    /// The manifest's first line.
    pub(super) fn head(&self, failed: u64) -> Head {
        let metadata = (0..self.source.dumps().len()).map(|dump| self.source.metadata(dump));
        Head {
            tensortiff: env!("CARGO_PKG_VERSION").to_owned(),
            names: self.names,
            failed,
            identity: self.identity.clone(),
            metadata: metadata.cloned().collect(),
        }
    }

    /// Appends the manifest's lines of some images, of which these are the entries.
    pub(super) fn lines(
        &self,
        images: Range<u64>,
        entries: Vec<Option<Entry>>,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        // What is the same in all of a row is made once.
        let mut begun: Option<(usize, Option<u64>, Line)> = None;
        for (image, entry) in images.zip(entries) {
            let (at, row, index) = self.place(image);
            let (_, len, line) = match &mut begun {
                Some(begun) if begun.0 == at => begun,
                begun => {
                    let line = line_of(self.source, self.options, row);
                    begun.insert((at, self.len(image)?, line))
                }
            };
            place_line(self.plan, at, index, line);
            line.offset = self.member(image).map(|(member, _, begin)| begin + member.head);
            (line.lo, line.hi, line.mean, line.std) = (None, None, None, None);
            (line.nan, line.inf, line.bytes, line.xxh3) = (None, None, None, None);
            (line.existed, line.error) = (false, None);
            match entry {
                Some(Entry::Done(found)) => {
                    let numbers = found.range.unzip();
                    if self.options.rule.norm.is_score() {
                        (line.mean, line.std) = numbers;
                    } else {
                        (line.lo, line.hi) = numbers;
                    }
                    (line.nan, line.inf) = (Some(found.nan), Some(found.inf));
                    let own = found.len.map(NonZeroU64::get);
                    (line.bytes, line.xxh3) = (len.or(own), found.hash.map(Hash));
                }
                Some(Entry::Existed) => line.existed = true,
                Some(Entry::Failed(failure)) => line.error = Some(Cow::from(told(failure))),
                None => line.error = Some(Cow::from("nothing is recorded of it")),
            }
            serde_json::to_writer(&mut *out, line).expect("a line has no key but strings");
            out.push(b'\n');
        }
        Ok(())
    }
}

/// What lines say of all images of a row.
pub(super) fn line_of<'s>(source: &'s dyn Source, options: &Options, row: &'s Row) -> Line<'s> {
    let tensor = &source.tensors()[row.tensor];
    let (name, tensor_bytes) = manifest::named(&tensor.name);
    Line {
        name: Cow::default(),
        page: None,
        member: None,
        offset: None,
        source: Cow::from(&source.dumps()[tensor.dump].label),
        tensor: name,
        tensor_bytes,
        index: Vec::new(),
        dtype: Cow::from(row.dtype.name()),
        shape: [row.height, row.width],
        lo: None,
        hi: None,
        norm: Cow::from(options.rule.norm.name()),
        mean: None,
        std: None,
        nan: None,
        inf: None,
        bytes: None,
        xxh3: None,
        existed: false,
        error: None,
    }
}

/// Has the line of a row say which of its images it is of: name, page or member, index.
pub(super) fn place_line(plan: &Plan, at: usize, index: u64, line: &mut Line<'_>) {
    plan.write_name(at, index, line.name.to_mut());
    if let (Some(tar), Some((number, _))) = (plan.tar(), plan.in_tar(at, index)) {
        let file = Cow::from(tar.file(number));
        line.member = Some(std::mem::replace(&mut line.name, file));
    } else {
        line.page = plan.page(at, index).map(|page| page.page);
    }
    line.index.clear();
    line.index.extend(plan.rows()[at].places(index).map(|(place, _)| place));
}

impl Record {
    /// Whether the folder is there. Something else in its place is none that nobody has made yet.
    pub(super) fn has_folder(&self) -> Result<bool, Error> {
        let path = || self.folder.clone();
        match fs::metadata(&self.folder) {
            Ok(found) if found.is_dir() => Ok(true),
            Ok(_) => {
                let problem = "not a folder, and a folder is needed";
                Err(Error::InTheWay { path: path(), problem })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(Error::Write { path: path(), source }),
        }
    }
}

/// Whether zeros at a path can be what a loss of power left of a manifest, and nothing else: of samples, say.
pub(super) fn may_be_zeros(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "jsonl")
}

/// Fails where the manifest cannot go to the path that was named for it, or would take the place of
/// something else: an image, the dump, what a run of other images left.
fn check_manifest(record: &Record, plan: &Plan, names: Hash) -> Result<(), Error> {
    let Manifest::At(path) = &record.manifest else { return Ok(()) };
    let in_the_way = |problem| Err(Error::InTheWay { path: path.clone(), problem });
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if name.starts_with(record::HIDDEN) {
        return in_the_way("files of this name are a run's own, which --resume may take away");
    }
    if fs::symlink_metadata(path).is_ok() {
        return match manifest::Manifest::open(path)? {
            Some(found) if found.head().names == names => Ok(()),
            Some(_) => in_the_way("a manifest of other images is there, and is not replaced"),
            None if record.resume != Resume::No
                && manifest::Manifest::is_torn(path, may_be_zeros(path))? =>
            {
                Ok(())
            }
            None => in_the_way("something else than a manifest is there, and is not replaced"),
        };
    }
    let real = |path: &Path| fs::canonicalize(path).or_else(|_| path::absolute(path));
    let failed = |source| Error::Write { path: path.clone(), source };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let folder = real(parent.unwrap_or(Path::new("."))).map_err(failed)?;
    let output = real(&record.folder).map_err(failed)?;
    // The output folder may be made yet.
    if !folder.is_dir() && folder != output {
        return Err(failed(io::Error::new(io::ErrorKind::NotFound, "there is no such folder")));
    }
    let whole = folder.join(path.file_name().unwrap_or_default());
    let is_image = |below: &Path| plan.names().any(|name| Path::new(&name).starts_with(below));
    match whole.strip_prefix(&output) {
        Ok(below) if is_image(below) => {
            in_the_way("an image, or a folder of images, is to be here, and not the manifest")
        }
        _ => Ok(()),
    }
}

/// Fails where numbered tars are there that this run does not make: who reads all of them would take them for
/// its own.
pub(super) fn check_surplus(record: &Record, plan: &Plan) -> Result<(), Error> {
    let Some(tar) = plan.tar().filter(|tar| tar.size().is_some()) else { return Ok(()) };
    let Ok(entries) = fs::read_dir(&record.folder) else { return Ok(()) };
    let is_surplus = |name: &str| tar.number(name).is_some_and(|number| number >= plan.tars());
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let Some(first) = names.filter(|name| is_surplus(name)).min() else { return Ok(()) };
    Err(Error::InTheWay {
        path: record.folder.join(first),
        problem: "this run makes fewer tars, and who reads all would take it for one of them; move it or \
                  delete it",
    })
}

/// As much of an error as a journal holds.
pub(super) fn failure(error: &Error) -> Failure {
    let (doing, source) = match error {
        Error::Read { source, .. } => (Doing::Read, Some(source)),
        Error::Write { source, .. } => (Doing::Write, Some(source)),
        Error::Changed { .. } => (Doing::Read, None),
        Error::Nonfinite { .. } => (Doing::Normalize, None),
        _ => (Doing::Write, None),
    };
    Failure { doing, errno: source.and_then(io::Error::raw_os_error).unwrap_or(0) }
}

fn told(failure: Failure) -> String {
    let doing = match failure.doing {
        Doing::Read => "its samples cannot be read",
        Doing::Write => "its file cannot be written",
        Doing::Normalize => "it has samples that are not finite",
    };
    match failure.errno {
        0 => doing.to_owned(),
        errno => format!("{doing}: {}", io::Error::from_raw_os_error(errno)),
    }
}
