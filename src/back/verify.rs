//! Whether images are what the manifest says, and what the dump gives.

use std::borrow::Cow;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::check::{Check, Found, MISSING};
use super::compared::Compared;
use super::lines::{Line, Members};
use super::{Difference, Looking, Output, Tell};
use crate::backend::choose::{Device, Devices};
use crate::convert::{Listed, Options, Places, convert};
use crate::encode::{TAR_BLOCK, TAR_END, write_member_head};
use crate::error::{Error, counted, shown};
use crate::record::identity::Identity;
use crate::record::{manifest, read_at};
use crate::report::Failure;
use crate::sink::FilesSink;
use crate::source::Source;

/// What was looked at.
#[derive(Debug, Default)]
#[must_use]
pub struct Verified {
    /// Images of the manifest.
    pub images: u64,
    /// Those that the run could not make, of which no file is to be there.
    pub failed: u64,
    /// Those that were there before the run: that they are is all that is known.
    pub existed: u64,
    /// Those of whose pixels the manifest has a hash; of others it has their range, and the counts of NaN and Inf.
    pub hashed: u64,
    /// Bytes of pixels that were to be looked at: of images that were made.
    pub bytes: u64,
    /// How many differences were told.
    pub differences: u64,
    /// Files that were compared with what the dump gives.
    pub compared: u64,
    /// Images that could not be made again, to be compared; the first of them.
    pub failures: Vec<Failure>,
}

/// Reads all images of a manifest with the decoder of the `tiff` crate and tells what is not as the manifest
/// says: files, sizes, shapes, tags, the range and the counts of pixels, and their hash where the run
/// was given `--hash`. With `against`, the run's dump, all pixels are computed again and compared, headers
/// included.
///
/// Memory does not grow with the number of images or their size; the names of a list are held while
/// pixels are computed again.
///
/// # Errors
/// [`Error::Format`], [`Error::Open`] for a manifest that is damaged or cannot be read; [`Error::Usage`] where
/// `against` is not the run's dump; what [`convert`](crate::convert()) says of it; [`Error::Interrupted`].
pub fn verify(
    output: &Output,
    against: Option<&dyn Source>,
    looking: &Looking,
    tell: &Tell<'_>,
) -> Result<Verified, Error> {
    let head = output.open()?.head().clone();
    let recorded = output.asked(&head, against.is_some())?;
    if let Some(source) = against
        && let Some(problem) = recorded.difference(source, &head.identity)?
    {
        let path = crate::error::shown_path(&output.manifest);
        return Err(Error::Usage(format!("{path}: the run was not of this dump: {problem}")));
    }
    let sink = FilesSink::new(&output.folder, false);
    let (members, found) = (Members::default(), Vec::new());
    let mut tars = Tars { sink: &sink, members, file: None, found };
    let mut listed = against.map(|source| Listed::new(source, &recorded.options)).transpose()?;
    let (mut number, mut of_lines) = (0_u64, Vec::new());
    let sums = output.sums(&mut |line| {
        number += 1;
        if let Some(listed) = &mut listed
            && of_lines.len() < MOST_LINES
            && let Some(problem) = other_line(line, listed.next_line(), &head.identity)
        {
            let problem = format!("line {}: {problem}", number + 1);
            let file = output.manifest.clone();
            of_lines.push(Difference { file, page: None, member: None, what: "line", problem });
        }
        tars.add(&output.folder, line)
    })?;
    tars.look(&output.folder)?;
    let of_tars = tars.found;
    if let Some(watch) = &looking.watch {
        watch.planned(sums.images, sums.bytes);
    }
    let told = AtomicU64::new(0);
    let tell = |difference: Difference| {
        told.fetch_add(1, Ordering::Relaxed);
        tell(difference);
    };
    let check = Check::new(&head.identity.options, &recorded.options);
    of_lines.into_iter().chain(of_tars).for_each(tell);
    output.each(looking, &|buffer: &mut Vec<u8>, _, line| {
        if line.error.is_some() {
            // A page or a member that failed has no file of its own.
            let is_own = line.page.is_none() && line.member.is_none();
            let is = if is_own { sink.open(&line.name) } else { Ok(None) };
            if !matches!(is, Ok(None)) {
                let file = output.folder.join(&*line.name);
                let problem = match is {
                    Err(error) => error.to_string(),
                    Ok(_) => "it is there, and the run could not make it".to_owned(),
                };
                tell(Difference { file, page: None, member: None, what: "file", problem });
            }
            return Ok(());
        }
        let mut tell = |(what, problem): Found| {
            // What is so of the whole file is told with its first page.
            let of_file = what == "size" || problem == MISSING;
            let page = line.page.filter(|_| !of_file);
            let is_told = line.member.is_some() && problem == MISSING;
            if (page == line.page || line.page == Some(0)) && !is_told {
                let file = output.folder.join(&*line.name);
                let member = line.member.as_deref().map(str::to_owned);
                tell(Difference { file, page, member, what, problem });
            }
        };
        if let Some(mut image) = check.open(&sink, line, &mut tell) {
            check.pixels(&mut image, line, buffer, &mut tell);
            check.page_seen(&mut image, line);
        }
        Ok(())
    })?;
    check.stacks.end(&output.folder, &mut |difference| tell(difference));
    let mut verified = Verified {
        images: sums.images,
        failed: sums.failed,
        existed: sums.existed,
        hashed: sums.hashed,
        bytes: sums.looked_at,
        ..Verified::default()
    };
    if let Some(source) = against {
        let places = Places::of(source, &recorded.options)?;
        let compared = Compared::new(&sink, &output.folder, &tell, places);
        let report =
            convert(source, &compared, &again(recorded.options, looking)).map_err(cause)?;
        verified.compared = compared.files.into_inner();
        // What the run could not make it cannot make now.
        if report.failed > head.failed {
            verified.failures = report.failures;
        }
    }
    verified.differences = told.into_inner();
    Ok(verified)
}

/// Most lines of which is told that they are of other images: all are where one is missing at the begin.
const MOST_LINES: usize = 100;

/// What a line says of its image that the dump does not give; `None` if it is right.
fn other_line(
    is: &Line,
    due: Option<(manifest::Line<'_>, usize)>,
    run: &Identity,
) -> Option<String> {
    let (mut due, dump) = due?;
    // The dump may lie elsewhere now.
    due.source = Cow::from(&run.dumps.get(dump)?.path);
    if (&is.name, &is.member) != (&due.name, &due.member) {
        let name = |line: &manifest::Line<'_>| {
            let member = line.member.as_ref().map(|member| format!(", member {}", shown(member)));
            shown(&line.name) + &member.unwrap_or_default()
        };
        return Some(format!("it is of {}, and ought to be of {}", name(is), name(&due)));
    }
    let source =
        (&is.source, &is.tensor, is.tensor_bytes) != (&due.source, &due.tensor, due.tensor_bytes);
    let what = [
        ("source or tensor", source),
        ("page", is.page != due.page),
        ("index", is.index != due.index),
        ("element type", is.dtype != due.dtype),
        ("shape", is.shape != due.shape),
        ("norm", is.norm != due.norm),
    ];
    let (what, _) = what.into_iter().find(|(_, differs)| *differs)?;
    Some(format!("{}: its {what} is not what the dump gives", shown(&is.name)))
}

/// Looks at tars as wholes, one after the other: that they are there, that names which fit no plain header are
/// in the extended ones, and that they end where the last member's line says.
struct Tars<'a> {
    sink: &'a FilesSink,
    members: Members,
    /// The tar of the last line, where it can be read.
    file: Option<File>,
    found: Vec<Difference>,
}

impl Tars<'_> {
    fn add(&mut self, folder: &Path, line: &Line) -> Result<(), Error> {
        if line.offset.is_none() {
            return Ok(());
        }
        if self.members.last.as_ref().is_none_or(|(name, _)| *name != *line.name) {
            self.look(folder)?;
            self.file = self.sink.open(&line.name).ok().flatten();
        }
        // That it follows the last one was seen before.
        let head = self.members.follow(line).unwrap_or_default();
        let (Some(head), Some(member), Some(file)) = (head, &line.member, &self.file) else {
            return Ok(());
        };
        if head == TAR_BLOCK as u64 {
            return Ok(()); // it is looked at with its file
        }
        let (mut due, len) = (Vec::new(), line.bytes.unwrap_or_default());
        write_member_head(member, len, head, &mut due);
        let mut is = vec![0; due.len()];
        let begin = line.offset.unwrap_or_default() - head;
        let failed = |source| Error::Open { path: folder.join(&*line.name), source };
        let read = read_at(file, &mut is, begin).map_err(failed)?;
        let before = due.len() - TAR_BLOCK.min(due.len());
        // What is not there, and the last block, are told with the member.
        if read == is.len() && is[..before] != due[..before] {
            self.found.push(Difference {
                file: folder.join(&*line.name),
                page: None,
                member: Some(member.to_string()),
                what: "member",
                problem: "its extended header in the tar is not what it must be".to_owned(),
            });
        }
        Ok(())
    }

    /// Looks at the last one.
    fn look(&mut self, folder: &Path) -> Result<(), Error> {
        let Some((name, end)) = self.members.last.take() else { return Ok(()) };
        let path = folder.join(&name);
        let failed = |source| Error::Open { path: path.clone(), source };
        let (what, problem) = match self.sink.open(&name) {
            Ok(None) => ("file", MISSING.to_owned()),
            Err(error) => ("file", error.to_string()),
            Ok(Some(file)) => {
                let is = file.metadata().map_err(failed)?.len();
                let due = end.saturating_add(TAR_END as u64);
                let mut zeros = [0; TAR_END];
                let read = read_at(&file, &mut zeros, end).map_err(failed)?;
                if is != due {
                    ("size", format!("{}, and the manifest says {due}", counted(is, "byte")))
                } else if read != TAR_END || zeros.iter().any(|&byte| byte != 0) {
                    ("file", "it does not end as tars do, with 1024 zeros".to_owned())
                } else {
                    return Ok(());
                }
            }
        };
        let file = path.clone();
        self.found.push(Difference { file, page: None, member: None, what, problem });
        Ok(())
    }
}

/// The options of a run that only looks.
pub(super) fn again(options: Options, looking: &Looking) -> Options {
    Options {
        devices: Devices::List(vec![Device::Cpu]),
        threads: looking.threads,
        watch: looking.watch.clone(),
        cancel: looking.cancel.clone(),
        ..options
    }
}

/// Why a run stopped: that the images before are whole is no news of one that stores none.
pub(super) fn cause(error: Error) -> Error {
    match error {
        Error::Stopped { cause, .. } => *cause,
        error => error,
    }
}
