//! What is known of a run's images before any is made: where each is, how long it will be, what the
//! manifest says of it.

use std::borrow::Cow;
use std::io;
use std::ops::Range;
use std::path::PathBuf;

use super::identify::{identity, names_hash};
use super::{Manifest, Options, Record, header};
use crate::error::Error;
use crate::normalize::Norm;
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
    norm: Norm,
    pub(super) record: &'a Record,
    pub(super) threads: usize,
    pub(super) names: Hash,
    pub(super) identity: Identity,
    /// The images that this run is to make.
    pub(super) images: Range<u64>,
    /// Whether others make the rest.
    pub(super) is_shard: bool,
}

impl<'a> Made<'a> {
    pub(super) fn new(
        source: &'a dyn Source,
        options: &'a Options,
        plan: &'a Plan,
        record: &'a Record,
        threads: usize,
    ) -> Result<Made<'a>, Error> {
        let firsts = plan.rows().iter().enumerate().map(|(row, _)| plan.name(row, 0));
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
        let identity = identity(source, options, plan, record.hash, names);
        if let Some(planned) = &record.planned
            && let Some(problem) = planned.identity.difference(&identity)
        {
            return Err(Error::Planned { path: planned.path.clone(), problem });
        }
        Ok(Made {
            source,
            plan,
            norm: options.norm,
            record,
            threads,
            names,
            identity,
            images: options.images(plan),
            is_shard: options.shard.is_some(),
        })
    }

    /// What its journal is of.
    pub(super) fn about(&self) -> About {
        About { identity: self.identity.clone(), shard: self.is_shard.then(|| self.images.clone()) }
    }

    /// Length of an image's header, and of its file.
    pub(super) fn lengths(&self, image: u64) -> Result<(u64, u64), Error> {
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

    pub(super) fn name(&self, image: u64) -> String {
        let (row, _, index) = self.place(image);
        self.plan.name(row, index)
    }

    /// Where the manifest is, or is to be; `None` if none is wanted.
    pub(super) fn manifest_path(&self) -> Result<Option<PathBuf>, Error> {
        match &self.record.manifest {
            Manifest::None => Ok(None),
            Manifest::At(path) => Ok(Some(path.clone())),
            Manifest::Folder => record::manifest_path(&self.record.folder, self.names).map(Some),
        }
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
        let mut lengths = None;
        for (image, entry) in images.zip(entries) {
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

/// As much of an error as a journal holds.
pub(super) fn failure(error: &Error) -> Failure {
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
