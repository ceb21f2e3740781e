//! The way back: what runs left is looked at again ([`verify`]), and samples are made of images again
//! ([`restore`]). Both go by a manifest, image by image and on all cores, and believe nothing of it that
//! the files do not say as well.
//!
//! Files are read by the decoder of another crate ([`Decoded`](crate::encode::Decoded)), and what pixels
//! ought to be is computed by the run itself ([`convert`](crate::convert())), into a sink that compares.

mod axes;
mod check;
mod compared;
mod lines;
mod restore;
mod stacks;
mod strays;
mod verify;

use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub use restore::{Restored, Samples, errors_of, restore};
pub use strays::strays;
pub use verify::{Verified, verify};

use crate::convert::{Recorded, Watch};
use crate::error::{Error, counted, shown, shown_path};
use crate::plan::{Naming, Stack, Tar};
use crate::record;
use crate::record::manifest::{Head, Manifest};

/// What a run left: images in a folder, and what it recorded of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The manifest.
    pub manifest: PathBuf,
    /// The folder that its names are below.
    pub folder: PathBuf,
}

/// How it is looked at.
#[derive(Clone, Default)]
pub struct Looking {
    /// Number of threads; `None`: all cores.
    pub threads: Option<NonZeroUsize>,
    /// Who is told how far it is.
    pub watch: Option<Arc<dyn Watch>>,
    /// Set from outside to end it early.
    pub cancel: Arc<AtomicBool>,
}

/// One way in which a file is not what it ought to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The file.
    pub file: PathBuf,
    /// Of a stack the page, from 0 on; `None` where it is so of the whole file.
    pub page: Option<u64>,
    /// Of a tar the member; `None` where it is so of the whole file.
    pub member: Option<String>,
    /// What differs: `member` (what belongs to it in its tar), `file`, `size`, `tags`, `pixels`, or where it was compared with the dump, `header` or
    /// `samples`; of a manifest that is compared with it `line`.
    pub what: &'static str,
    /// How, in one line.
    pub problem: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", shown_path(&self.file))?;
        if let Some(page) = self.page {
            write!(f, ", page {page}")?;
        }
        if let Some(member) = &self.member {
            write!(f, ", member {}", shown(member))?;
        }
        write!(f, ": {}: {}", self.what, self.problem)
    }
}

/// Is told of differences as they are found, from any thread.
pub type Tell<'t> = dyn Fn(Difference) + Sync + 't;

/// What names of members end with, as all names of images do.
const OF_TAR: &str = ".tif";

/// Where the manifest of a tar is, or of numbered ones; `None` for a path that is no tar's.
pub(crate) fn beside_tar(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let stem = name.strip_suffix(".tar").filter(|_| !path.is_dir())?;
    let manifest = |stem: &str| path.with_file_name(format!("{stem}.manifest.jsonl"));
    let all = stem.rsplit_once('-').filter(|(_, number)| {
        number.len() >= 6 && number.bytes().all(|digit| digit.is_ascii_digit())
    });
    match all {
        Some((all, _)) if !manifest(stem).exists() => Some(manifest(all)),
        _ => Some(manifest(stem)),
    }
}

impl Output {
    /// What runs left in an output folder, the usual manifest first; or what a manifest is of, whose images
    /// are beside it, or in `folder`; or what the manifest beside a tar, `NAME.manifest.jsonl`, is of.
    ///
    /// # Errors
    /// [`Error::Open`] where it cannot be read, [`Error::Format`] where there is no manifest.
    pub fn find(path: &Path, folder: Option<&Path>) -> Result<Vec<Output>, Error> {
        let (given, beside) = (path, beside_tar(path));
        let path = beside.as_deref().unwrap_or(path);
        let open = |source| Error::Open { path: path.to_owned(), source };
        let is_folder = std::fs::metadata(path).map_err(open)?.is_dir();
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let own = if is_folder { path } else { parent.unwrap_or(Path::new(".")) };
        let folder = folder.unwrap_or(own);
        let paths = if is_folder { record::manifests(path)? } else { vec![path.to_owned()] };
        let mut found = Vec::new();
        for manifest in paths {
            if Manifest::open(&manifest)?.is_some() {
                found.push(Output { manifest, folder: folder.to_owned() });
            }
        }
        if let (Some(_), [output]) = (&beside, &found[..])
            && let Some(name) = given.file_name().and_then(|name| name.to_str())
            && !output
                .tar()?
                .is_some_and(|tar| tar.to_string() == name || tar.number(name).is_some())
        {
            return Err(output.wrong(format!("it is not of {}", shown(name))));
        }
        if found.is_empty() {
            let problem = "no manifest is there: runs write one when they are finished".to_owned();
            return Err(Error::Format { path: path.to_owned(), format: "manifest", problem });
        }
        Ok(found)
    }

    /// How its run read its dumps, and where those were.
    ///
    /// # Errors
    /// As [`find`](Output::find); [`Error::Format`] for what this version does not understand.
    pub fn recorded(&self) -> Result<(Recorded, Vec<String>), Error> {
        let head = self.open()?.head().clone();
        let dumps = head.identity.dumps.iter().map(|dump| dump.path.clone()).collect();
        Ok((self.asked(&head, true)?, dumps))
    }

    /// The tars that its images are in, if they are.
    fn tar(&self) -> Result<Option<Tar>, Error> {
        let head = self.open()?.head().clone();
        Ok(self.asked(&head, false)?.options.tar)
    }

    fn open(&self) -> Result<Manifest, Error> {
        Manifest::open(&self.manifest)?
            .ok_or_else(|| self.wrong("it begins with no run".to_owned()))
    }

    /// What the run was asked for; with the names of a list, if it had one and they are wanted.
    fn asked(&self, head: &Head, names: bool) -> Result<Recorded, Error> {
        let asked = &head.identity.options;
        let hash = asked.names.strip_prefix("list ");
        let is_list = hash.is_some_and(|hash| {
            hash.len() == 16 && hash.bytes().all(|digit| digit.is_ascii_hexdigit())
        });
        let mut recorded = Recorded::of(asked, None).map_err(|problem| self.wrong(problem))?;
        if names && is_list {
            let mut list = Vec::new();
            let mut manifest = self.open()?;
            for _ in 0..head.identity.images {
                let line = self.line(&mut manifest)?;
                list.push(line.member.unwrap_or(line.name).into_owned());
            }
            if recorded.options.stack != Stack::None {
                list.dedup(); // one name a stack
            }
            recorded.options.naming = Naming::List(list);
        }
        Ok(recorded)
    }

    /// A name for each page or member: its number, or where it is and how long, and below that its file's.
    fn pages(&self) -> Result<Vec<String>, Error> {
        let mut manifest = self.open()?;
        let name = |line: lines::Line| match (line.page, line.offset) {
            (None, Some(at)) => format!("{at}+{}/{}{OF_TAR}", line.bytes.unwrap_or(0), line.name),
            (page, _) => format!("{}/{}", page.unwrap_or(0), line.name),
        };
        let images = manifest.head().identity.images;
        (0..images).map(|_| self.line(&mut manifest).map(name)).collect()
    }

    fn line(&self, manifest: &mut Manifest) -> Result<lines::Line, Error> {
        manifest.next_line()?.ok_or_else(|| {
            let images = counted(manifest.head().identity.images, "image");
            self.wrong(format!("it has fewer lines than its {images}, or a damaged one"))
        })
    }

    fn wrong(&self, problem: String) -> Error {
        Error::Format { path: self.manifest.clone(), format: "manifest", problem }
    }
}
