//! Samples out of images: what the norm did is undone, and the tensors are put together.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value};

use super::axes::{Tensor, Tensors};
use super::check::{Check, Part, each_step, whole as whole_file};
use super::lines::Line;
use super::verify::{again, cause};
use super::{Looking, OF_TAR, Output};
use crate::convert::{Options, convert};
use crate::encode::{Decoded, Encoding};
use crate::error::{Error, counted, counted_are, shown};
use crate::normalize::{Norm, Rule, Scope, Undo, Undone};
use crate::plan::{Naming, Stack};
use crate::record::Hasher;
use crate::record::identity::Hash;
use crate::sink::{FilesSink, Pending, Section, Sink};
use crate::source::{Source, safetensors_header};
use crate::tensor::Dtype;

/// Most images: a bit of each is held.
const MOST: u64 = 1 << 33;
/// Options of a run by which it took a part of its tensors' samples, or others than they are stored.
const OTHERWISE: [&str; 10] = [
    "layout",
    "select",
    "reduce",
    "rows",
    "transpose",
    "flip",
    "every",
    "sample",
    "limit",
    "complex",
];

/// What was written.
#[derive(Debug, Default)]
#[must_use]
pub struct Restored {
    /// Tensors.
    pub tensors: u64,
    /// Images that they were made of.
    pub images: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// What is not as it was in the dump, in words, a line each.
    pub notes: Vec<String>,
}

/// How samples that were made of images compare with those of the dump.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[must_use]
pub struct Samples {
    /// How many.
    pub samples: u64,
    /// Those that are not the same bit for bit.
    pub differing: u64,
    /// The largest absolute error of those that are finite in both.
    pub largest: f64,
    /// Those that are finite, or NaN, or infinite in only one of them.
    pub unlike: u64,
    /// Those that differ by more than rounding does, or than what the norm cuts off.
    pub beyond: u64,
    /// Whether the dump has types that 32-bit floats do not hold exactly: its samples are compared as they are
    /// rounded, and what that lost is in no error.
    pub rounded: bool,
}

/// Makes `file`, safetensors of f32, of the images of a manifest, or of those of one of its dumps, `only`.
/// The file is there whole or not at all. Tensors have their names, and the axes that images had indices
/// on, with as many indices as there are, before the images' own.
///
/// # Errors
/// [`Error::Usage`] for what cannot be undone, with the reason; [`Error::Format`] for images that are not what the
/// manifest says; [`Error::InTheWay`] where the file exists and is not to be replaced; [`Error::Write`];
/// [`Error::Interrupted`].
pub fn restore(
    output: &Output,
    only: Option<&str>,
    file: &Path,
    overwrite: bool,
    looking: &Looking,
) -> Result<Restored, Error> {
    let head = output.open()?.head().clone();
    let asked = &head.identity.options;
    let options = output.asked(&head, false)?.options;
    let (check, rule) = (Check::new(asked, &options), options.rule);
    let usage = |problem: String| {
        Error::Usage(format!("{}: {problem}", crate::error::shown_path(&output.manifest)))
    };
    if let Some(refusal) = Undo::refusal(&rule) {
        return Err(usage(refusal));
    }
    if fs::symlink_metadata(file).is_ok() && !overwrite {
        let problem = "exists already (--overwrite replaces it)";
        return Err(Error::InTheWay { path: file.to_owned(), problem });
    }
    let is_wanted = |line: &Line| only.is_none_or(|only| only == line.source);
    let mut tensors = Tensors::default();
    output.sums(&mut |line| {
        if !is_wanted(line) {
            return Ok(());
        }
        whole(line).map_err(usage)?;
        check.undo(line).map_err(|problem| usage(format!("{}: {problem}", named(line))))?;
        tensors.add(line).map_err(usage)
    })?;
    if tensors.all.is_empty() {
        return Err(usage(match only {
            Some(only) => format!("no image is of {}", shown(only)),
            None => "it has no images".to_owned(),
        }));
    }
    let data = tensors.close().map_err(usage)?;
    let header = header(&tensors, &head.identity.dumps, &head.metadata).map_err(usage)?;
    let images = tensors.all.iter().map(Tensor::images).sum::<u64>();
    if images > MOST {
        return Err(usage(format!("{images} images are too many, {MOST} can be")));
    }
    if let Some(watch) = &looking.watch {
        watch.planned(images, data);
    }

    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let target = FilesSink::new(parent.unwrap_or(Path::new(".")), overwrite);
    target.prepare(&mut std::iter::once(name.to_owned()))?;
    let len = header.len() as u64 + data;
    let pending = target.begin(name, Some(len))?;
    pending.write_at(0, &header)?;
    let taken = Taken::new(images);
    let [at_ends, overflow] = [const { AtomicU64::new(0) }; 2];
    let sink = FilesSink::new(&output.folder, false);
    output.each(looking, &|buffer: &mut Vec<u8>, _, line| {
        if !is_wanted(line) {
            return Ok(());
        }
        let changed = || usage("it was changed meanwhile".to_owned());
        let (number, at) = tensors.place(line).ok_or_else(changed)?;
        if taken.set(number) {
            return Err(usage(format!("two images are at the place of {}", named(line))));
        }
        let bad = |problem: String| {
            let path = output.folder.join(&*line.name);
            let problem = match (line.page, &line.member) {
                (Some(page), _) => format!("page {page}: {problem}"),
                (None, Some(member)) => format!("member {}: {problem}", shown(member)),
                (None, None) => problem,
            };
            Error::Format { path, format: "TIFF", problem }
        };
        let mut problem = None;
        let image = check.open(&sink, line, &mut |(_, told)| {
            problem.get_or_insert(told);
        });
        let mut image = match (image, problem) {
            (Some(image), None) => image,
            (_, problem) => return Err(bad(problem.unwrap_or_default())),
        };
        let undo =
            check.undo(line).map_err(|problem| usage(format!("{}: {problem}", named(line))))?;
        let mut hasher = line.xxh3.map(|_| Hasher::default());
        let mut outcome = Ok(());
        let read = each_step(&mut image, line, buffer, &mut |offset, pixels| {
            if let Some(hasher) = &mut hasher {
                hasher.write(pixels);
            }
            let undone = undo_bytes(&undo, pixels);
            at_ends.fetch_add(undone.at_ends, Ordering::Relaxed);
            overflow.fetch_add(undone.overflow, Ordering::Relaxed);
            outcome = pending.write_at(header.len() as u64 + at + offset, pixels);
            if outcome.is_ok() { Ok(()) } else { Err(String::new()) }
        });
        outcome?;
        read.map_err(bad)?;
        if hasher.map(|hasher| Hash(hasher.finish())) != line.xxh3 {
            return Err(bad("its pixels have another XXH3 than the manifest says".to_owned()));
        }
        Ok(())
    })?;
    pending.commit()?;
    target.finish()?;
    let lost = [at_ends.into_inner(), overflow.into_inner()];
    let notes = notes(&tensors, asked.more.keys(), asked.channel, &rule, lost);
    Ok(Restored { tensors: tensors.all.len() as u64, images, bytes: len, notes })
}

/// An image's name, for people.
fn named(line: &Line) -> String {
    shown(line.member.as_ref().unwrap_or(&line.name))
}

/// Whether an image is there, and known.
fn whole(line: &Line) -> Result<(), String> {
    let name = named(line);
    if let Some(error) = &line.error {
        return Err(format!(
            "{name} could not be made ({}), and its tensor is not whole",
            shown(error)
        ));
    }
    if line.existed {
        return Err(format!(
            "{name} was there before the run, and nothing is known of its samples"
        ));
    }
    if line.tensor_bytes.is_some() {
        return Err(format!("{name}: the name of its tensor is cut"));
    }
    Ok(())
}

fn header(
    tensors: &Tensors,
    dumps: &[crate::record::identity::Origin],
    metadata: &[std::collections::BTreeMap<String, String>],
) -> Result<Vec<u8>, String> {
    let first = &tensors.all[0].source;
    let several = tensors.all.iter().any(|tensor| tensor.source != *first);
    // Of one dump what it says of itself stays.
    let of_first = dumps.iter().position(|dump| dump.path == *first).filter(|_| !several);
    let metadata = of_first.and_then(|at| metadata.get(at)).cloned().unwrap_or_default();
    let entries: Vec<_> =
        tensors.all.iter().map(|tensor| (tensor.name.clone(), tensor.shape())).collect();
    safetensors_header(&entries, &metadata).map_err(|problem| match several {
        true => format!("{problem}; --source takes those of one dump"),
        false => problem,
    })
}

/// What is not as it was.
fn notes<'a>(
    tensors: &Tensors,
    more: impl Iterator<Item = &'a String>,
    channel: Option<u64>,
    rule: &Rule,
    [at_ends, overflow]: [u64; 2],
) -> Vec<String> {
    let mut notes = Vec::new();
    let mut otherwise: Vec<String> = more
        .filter(|name| OTHERWISE.contains(&name.as_str()))
        .map(|name| format!("--{name}"))
        .collect();
    otherwise.extend(channel.map(|_| "--channel".to_owned()));
    if !otherwise.is_empty() {
        let options = otherwise.join(", ");
        notes.push(format!("the run was given {options}: tensors are as its images have them"));
    }
    let parts = tensors.all.iter().filter(|tensor| tensor.is_part()).count();
    if parts > 0 {
        notes.push(format!(
            "of {} there are images of some indices alone, which follow each other now",
            counted(parts as u64, "tensor")
        ));
    }
    if at_ends > 0 {
        let norm = rule.norm;
        notes.push(format!(
            "--norm {norm} cut off what lay beyond its range: {} at its ends, and what was there \
             is lost",
            counted_are(at_ends, "sample")
        ));
    }
    if overflow > 0 {
        let samples = counted(overflow, "sample");
        notes.push(format!("{samples} beyond 32-bit floats became infinite"));
    }
    notes
}

fn undo_bytes(undo: &Undo, bytes: &mut [u8]) -> Undone {
    if undo.is_nothing() {
        return Undone::default();
    }
    let mut undone = Undone::default();
    let mut pixels = [0.0; 1024];
    for bytes in bytes.chunks_mut(4 * pixels.len()) {
        let pixels = &mut pixels[..bytes.len() / 4];
        for (pixel, bytes) in pixels.iter_mut().zip(bytes.chunks_exact(4)) {
            *pixel = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        let some = undo.apply(pixels);
        undone.at_ends += some.at_ends;
        undone.overflow += some.overflow;
        for (pixel, bytes) in pixels.iter().zip(bytes.chunks_exact_mut(4)) {
            bytes.copy_from_slice(&pixel.to_le_bytes());
        }
    }
    undone
}

/// A bit of each image.
struct Taken(Vec<AtomicU64>);

impl Taken {
    fn new(images: u64) -> Taken {
        let words = usize::try_from(images.div_ceil(64)).expect("it is below the most");
        Taken((0..words).map(|_| AtomicU64::new(0)).collect())
    }

    /// Whether it was set before.
    fn set(&self, image: u64) -> bool {
        let (word, bit) = (image / 64, 1 << (image % 64));
        let word = &self.0[usize::try_from(word).expect("it is an image's")];
        word.fetch_or(bit, Ordering::Relaxed) & bit != 0
    }
}

/// Undoes the norm of all images again, or of those of one of its dumps, `only`, and compares the samples with
/// those of the run's dump, widened or rounded to 32-bit floats as `--norm none` has them.
///
/// # Errors
/// As [`verify`](super::verify()) with a dump; [`Error::Format`] for images that cannot be undone.
pub fn errors_of(
    output: &Output,
    source: &dyn Source,
    only: Option<&str>,
    looking: &Looking,
) -> Result<Samples, Error> {
    let head = output.open()?.head().clone();
    let recorded = output.asked(&head, true)?;
    if let Some(problem) = recorded.difference(source, &head.identity)? {
        let path = crate::error::shown_path(&output.manifest);
        return Err(Error::Usage(format!("{path}: the run was not of this dump: {problem}")));
    }
    let check = Check::new(&head.identity.options, &recorded.options);
    let mut of_images = recorded.options;
    let is_stacked = of_images.stack != Stack::None || of_images.tar.is_some();
    if is_stacked {
        // Page by page, member by member.
        (of_images.stack, of_images.tar) = (Stack::None, None);
        of_images.naming = Naming::List(output.pages()?);
    }
    let (mut rounded, mut number, mut of_one) = (false, 0, None::<Range<u64>>);
    let _ = output.sums(&mut |line| {
        if only.is_none_or(|only| only == line.source) {
            rounded |= Dtype::from_name(&line.dtype).is_some_and(Dtype::is_wide);
            // Images of a dump follow each other.
            of_one = Some(of_one.as_ref().map_or(number, |of| of.start)..number + 1);
        }
        number += 1;
        Ok(())
    })?;
    let samples = Measured {
        check,
        is_stacked,
        rule: of_images.rule,
        stored: FilesSink::new(&output.folder, false),
        folder: &output.folder,
        samples: Mutex::default(),
    };
    let options = Options {
        rule: Norm::None.into(),
        scope: Scope::Image,
        encoding: Encoding::default(),
        fail_fast: true,
        shard: only.and(of_one),
        ..again(of_images, looking)
    };
    let report = convert(source, &samples, &options).map_err(cause)?;
    if let Some(failure) = report.failures.into_iter().next() {
        return Err(failure.error);
    }
    let samples = samples.samples.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(Samples { rounded, ..samples })
}

/// A sink that compares samples with those that images are undone to.
struct Measured<'a> {
    check: Check<'a>,
    /// Whether names are those of pages.
    is_stacked: bool,
    rule: Rule,
    stored: FilesSink,
    folder: &'a Path,
    samples: Mutex<Samples>,
}

struct Measuring<'a> {
    sink: &'a Measured<'a>,
    name: String,
    image: Mutex<Decoded<Part>>,
    undo: Undo,
    /// Where pixels begin in what is handed over.
    begin: u64,
    samples: Mutex<Samples>,
}

impl Measured<'_> {
    fn bad(&self, name: &str, problem: String) -> Error {
        Error::Format { path: self.folder.join(name), format: "TIFF", problem }
    }

    fn open(&self, name: &str, len: u64) -> Result<Measuring<'_>, Error> {
        let (place, name) = match name.split_once('/') {
            Some((place, name)) if self.is_stacked => (Some(place), name),
            _ => (None, name),
        };
        let bad = |problem: String| self.bad(name, problem);
        let name = match place {
            Some(place) if place.contains('+') => name.strip_suffix(OF_TAR).unwrap_or(name),
            _ => name,
        };
        let file = self.stored.open(name)?.ok_or_else(|| bad("it is missing".to_owned()))?;
        let number = |text: &str| text.parse().map_err(|_| bad("it is nowhere".to_owned()));
        let image = match place.map(|place| place.split_once('+').ok_or(place)) {
            None => whole_file(file).and_then(Decoded::open),
            Some(Err(page)) => {
                let page = number(page)?;
                whole_file(file).and_then(|file| self.check.page(file, name, page))
            }
            Some(Ok((at, len))) => {
                let part = Section::new(file, number(at)?, number(len)?);
                part.map_err(|error| error.to_string()).and_then(Decoded::open)
            }
        };
        let mut image = image.map_err(bad)?;
        let text = image.description().map_err(bad)?;
        let about = text.lines().find_map(|line| line.strip_prefix("tensortiff="));
        let about: Option<Map<String, Value>> =
            about.and_then(|about| serde_json::from_str(about).ok());
        let about =
            about.ok_or_else(|| bad("it has no description of this program's".to_owned()))?;
        let number = |keys: [&str; 2]| keys.iter().find_map(|key| about.get(*key)?.as_f64());
        let count = |key: &str| about.get(key).and_then(Value::as_u64).unwrap_or(0);
        let (one, other) = (number(["lo", "mean"]), number(["hi", "std"]));
        let numbers = one.map(|one| (one, other.unwrap_or(f64::NAN)));
        let undo = Undo::of(&self.rule, numbers, [count("nan"), count("inf")]).map_err(bad)?;
        let [height, width] = image.shape();
        let begin = len
            .checked_sub(height.saturating_mul(width).saturating_mul(4))
            .ok_or_else(|| bad("it has more pixels than the tensor samples".to_owned()))?;
        let (image, samples) = (Mutex::new(image), Mutex::default());
        Ok(Measuring { sink: self, name: name.to_owned(), image, undo, begin, samples })
    }
}

impl Sink for Measured<'_> {
    fn prepare(&self, _names: &mut dyn Iterator<Item = String>) -> Result<(), Error> {
        Ok(())
    }

    fn put(&self, name: &str, header: &[u8], pixels: &[u8]) -> Result<(), Error> {
        let measuring = self.open(name, (header.len() + pixels.len()) as u64)?;
        measuring.write_at(header.len() as u64, pixels)?;
        Box::new(measuring).commit()
    }

    fn begin(&self, name: &str, len: Option<u64>) -> Result<Box<dyn Pending + '_>, Error> {
        let len =
            len.ok_or_else(|| self.bad(name, "what is compared with it is packed".to_owned()))?;
        Ok(Box::new(self.open(name, len)?))
    }
}

impl Pending for Measuring<'_> {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        // What comes before the pixels is of another norm.
        let skipped = usize::try_from(self.begin.saturating_sub(offset)).unwrap_or(usize::MAX);
        let Some(samples) = bytes.get(skipped..) else { return Ok(()) };
        let mut at = (offset + skipped as u64).saturating_sub(self.begin);
        let mut is = vec![0; samples.len().min(super::check::STEP)];
        let mut found = Samples::default();
        for due in samples.chunks(super::check::STEP) {
            let is = &mut is[..due.len()];
            let mut image = self.image.lock().unwrap_or_else(PoisonError::into_inner);
            image.read_at(at, is).map_err(|problem| self.sink.bad(&self.name, problem))?;
            drop(image);
            undo_bytes(&self.undo, is);
            found.add(&self.undo, is, due);
            at += due.len() as u64;
        }
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).merge(found);
        Ok(())
    }

    fn commit(self: Box<Self>) -> Result<(), Error> {
        let found = self.samples.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.sink.samples.lock().unwrap_or_else(PoisonError::into_inner).merge(found);
        Ok(())
    }
}

impl Samples {
    fn add(&mut self, undo: &Undo, is: &[u8], due: &[u8]) {
        for (is, due) in is.chunks_exact(4).zip(due.chunks_exact(4)) {
            self.samples += 1;
            if is == due {
                continue;
            }
            self.differing += 1;
            let [is, due] = [is, due].map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            self.beyond += u64::from(!undo.may_round(due, is));
            let [is, due] = [is, due].map(f64::from);
            if is.is_finite() && due.is_finite() {
                self.largest = self.largest.max((is - due).abs());
            } else if is != due && !(is.is_nan() && due.is_nan()) {
                self.unlike += 1;
            }
        }
    }

    fn merge(&mut self, other: Samples) {
        self.samples += other.samples;
        self.differing += other.differing;
        self.largest = self.largest.max(other.largest);
        self.unlike += other.unlike;
        self.beyond += other.beyond;
    }
}
