//! One image: whether its file is what the manifest says.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value, json};

use super::lines::{Line, bytes};
use super::stacks::{PageSeen, Stacks};
use crate::convert::Options;
use crate::encode::{Decoded, Pages, Said, TAR_BLOCK, Tags, last_block, member_padding};
use crate::error::{counted, shown};
use crate::normalize::{Norm, Rule, Scope, Undo};
use crate::record::{Hasher, identity::Asked, identity::Hash};
use crate::sink::{FilesSink, Section};

/// Bytes of pixels that are looked at at once.
pub(super) const STEP: usize = 256 << 10;
/// What arithmetic in f32 may miss an output range by, as a part of it.
const ROUNDING: f32 = 1e-6;

/// What is known of all images of a run.
pub(super) struct Check<'a> {
    pub(super) rule: Rule,
    pub(super) scope: Scope,
    asked: &'a Asked,
    tags: Tags,
    /// What was seen of stacks.
    pub(super) stacks: Stacks,
    /// Of the last stack: where the pixels of its first page begin.
    first: Mutex<Option<(String, u64)>>,
    /// Where readers of stacks are, by their names.
    pages: Mutex<Vec<(String, Pages)>>,
}

/// What is told of a file that is not there.
pub(super) const MISSING: &str = "it is missing";

/// A file, or a member's part of a tar.
pub(super) type Part = Section<File>;

/// What differs, and how.
pub(super) type Found = (&'static str, String);

/// What was seen of pixels.
struct Seen {
    min: f32,
    max: f32,
    nan: u64,
    inf: u64,
    hash: Option<u64>,
}

/// What pixels ought to be like.
#[derive(Debug, PartialEq)]
enum Expected {
    /// From 0 to 1, or what that became.
    Unit,
    /// The samples.
    Kept,
    /// Standard deviations.
    Score,
    /// From 0 to 1 or the samples: the line does not tell.
    Either,
}

impl<'a> Check<'a> {
    pub(super) fn new(asked: &'a Asked, options: &Options) -> Check<'a> {
        let Options { rule, scope, encoding, .. } = *options;
        let tags = Tags::new(rule, scope, encoding);
        let (stacks, first, pages) = Default::default();
        Check { rule, scope, asked, tags, stacks, first, pages }
    }

    /// Opens an image's file, and holds its size and tags against its line; `None` if it cannot be read.
    pub(super) fn open(
        &self,
        sink: &FilesSink,
        line: &Line,
        tell: &mut dyn FnMut(Found),
    ) -> Option<Decoded<Part>> {
        let file = match sink.open(&line.name) {
            Ok(Some(file)) => file,
            Ok(None) => {
                tell(("file", MISSING.to_owned()));
                return None;
            }
            Err(error) => {
                tell(("file", error.to_string()));
                return None;
            }
        };
        if line.existed {
            // It was there before: nothing else is known of it, not even that it is an image.
            return None;
        }
        if let (Some(due), Ok(found)) = (line.bytes, file.metadata())
            && found.len() != due
            && line.member.is_none()
        {
            let bytes = counted(found.len(), "byte");
            tell(("size", format!("{bytes}, and the manifest says {due}")));
        }
        let part = match &line.member {
            None => whole(file),
            Some(member) => match member_of(file, member, line, tell) {
                Some(part) => Ok(part),
                None => return None,
            },
        };
        let image = part.and_then(|part| match line.page {
            None => Decoded::open(part),
            Some(page) => self.page(part, &line.name, page),
        });
        let mut image = match image {
            Ok(image) => image,
            Err(problem) => {
                tell(("file", problem));
                return None;
            }
        };
        let [height, width] = image.shape();
        if [height, width] != line.shape {
            let [rows, columns] = line.shape;
            tell((
                "tags",
                format!("{height}×{width} pixels, and the manifest says {rows}×{columns}"),
            ));
            return None;
        }
        self.description(&mut image, line, tell);
        let len = line.bytes.filter(|_| line.page.is_none());
        let counts = (line.nan.unwrap_or(0), line.inf.unwrap_or(0));
        match self.tags.differences(&mut image, (numbers(line), counts.0, counts.1), len) {
            Ok(problems) => problems.into_iter().for_each(|problem| tell(("tags", problem))),
            Err(problem) => tell(("tags", problem)),
        }
        if let (Some(page), Some(at)) = (line.page, image.pixels_at())
            && let Some(due) = self.page_pixels(sink, line, page)
            && at != due
        {
            tell(("tags", format!("its pixels begin at {at}, and those before make it {due}")));
        }
        Some(image)
    }

    /// Where the pixels of a page are to begin: ImageJ reads no directory but the first, and takes them to follow
    /// each other. `None` if the first page cannot be read, of which is told by itself.
    fn page_pixels(&self, sink: &FilesSink, line: &Line, page: u64) -> Option<u64> {
        let lock = || self.first.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().as_ref().filter(|(name, _)| *name == *line.name).map(|(_, at)| *at);
        let first = match known {
            Some(first) => first,
            None => {
                let part = whole(sink.open(&line.name).ok()??).ok()?;
                let first = self.page(part, &line.name, 0).ok()?.pixels_at()?;
                *lock() = Some((line.name.to_string(), first));
                first
            }
        };
        let [height, width] = line.shape;
        let each = height.checked_mul(width)?.checked_mul(4)?;
        page.checked_mul(each)?.checked_add(first)
    }

    /// A page of a stack, from where somebody is who came nearest.
    pub(super) fn page(
        &self,
        mut file: Part,
        name: &str,
        page: u64,
    ) -> Result<Decoded<Part>, String> {
        /// Threads are at different pages.
        const MOST: usize = 64;
        let lock = || self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let near = {
            let mut known = lock();
            let of_file = |(of, pages): &&(String, Pages)| of == name && pages.page() <= page;
            let nearest = known.iter().filter(of_file).max_by_key(|(_, pages)| pages.page());
            let nearest = nearest.map(|(_, pages)| *pages);
            // Stacks come one after the other.
            if known.len() >= MOST {
                known.clear();
            }
            nearest
        };
        let mut pages = near.map_or_else(|| Pages::begin(&mut file), Ok)?;
        let image = Decoded::open_page(file, &mut pages, page);
        if near.is_none_or(|near| near.page() < pages.page()) {
            lock().push((name.to_owned(), pages));
        }
        image
    }

    /// Whether pixels are what the line says.
    pub(super) fn pixels(
        &self,
        image: &mut Decoded<Part>,
        line: &Line,
        buffer: &mut Vec<u8>,
        tell: &mut dyn FnMut(Found),
    ) {
        let seen = match look(image, line, buffer) {
            Ok(seen) => seen,
            Err(problem) => return tell(("pixels", problem)),
        };
        if let (Some(hash), Some(Hash(due))) = (seen.hash, line.xxh3)
            && hash != due
        {
            let [hash, due] = [hash, due].map(|hash| String::from(Hash(hash)));
            tell(("pixels", format!("their XXH3 is {hash}, and the manifest says {due}")));
        }
        if let Some(problem) = self.counts(&seen, line) {
            tell(("pixels", problem));
        }
        if let Some(problem) = self.range(&seen, line) {
            tell(("pixels", problem));
        }
        match image.display() {
            Ok(display) => {
                if let Some(problem) = self.display(display, &seen, line) {
                    tell(("tags", problem));
                }
            }
            Err(problem) => tell(("tags", format!("the display range: {problem}"))),
        }
    }

    /// Keeps what is so of a page, for what is so of its stack.
    pub(super) fn page_seen(&self, image: &mut Decoded<Part>, line: &Line) {
        let (Some(page), Some(at), Some(len)) = (line.page, image.pixels_at(), line.bytes) else {
            return;
        };
        // What cannot be read was told.
        let (Ok(display), Ok(text)) = (image.display(), image.description()) else { return };
        let value = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key).and_then(|rest| rest.strip_prefix('=')))
        };
        let number = |key: &str| value(key).and_then(|text| text.parse().ok());
        let shown = number("min").zip(number("max")).map(|(min, max)| [min, max]);
        let images = value("images").and_then(|text| text.parse().ok());
        let says = shown.filter(|_| page == 0).map(|shown| (images, shown));
        let is_kept = match self.expected(line) {
            Expected::Kept => Some(true),
            Expected::Unit | Expected::Score => Some(false),
            Expected::Either => None,
        };
        let [height, width] = image.shape();
        let (bytes, is_last) = (4 * height * width, image.is_last());
        let page = PageSeen { page, bytes, at, is_last, display, is_kept, says };
        self.stacks.add(&line.name, len, page);
    }

    /// The text, line by line and key by key.
    fn description(&self, image: &mut Decoded<Part>, line: &Line, tell: &mut dyn FnMut(Found)) {
        let text = match image.description() {
            Ok(text) => text,
            Err(problem) => return tell(("tags", format!("the description: {problem}"))),
        };
        let mut pages = None;
        let mut lines = text.lines();
        let mut value = |key: &str| {
            let line = lines.next().unwrap_or_default();
            line.strip_prefix(key).and_then(|rest| rest.strip_prefix('=')).map(str::to_owned)
        };
        if value("ImageJ").is_none() {
            tell(("tags", "the description has no line of ImageJ's at its begin".to_owned()));
        }
        // The first page of a stack that has more says what is so of all.
        let is_first = line.page == Some(0) && text.contains("\nimages=");
        if is_first {
            let [images, slices, loops] = ["images", "slices", "loop"].map(&mut value);
            pages = images.as_ref().and_then(|images| images.parse().ok());
            if images.is_none() || images != slices || loops.as_deref() != Some("false") {
                tell(("tags", "the description has not ImageJ's lines of a stack".to_owned()));
            }
        }
        let (min, max, about) = (value("min"), value("max"), value("tensortiff"));
        let shown_range = [min, max].map(|text| text.and_then(|text| text.parse::<f32>().ok()));
        match (shown_range, image.display()) {
            ([Some(min), Some(max)], Ok(display))
                if ([min, max] == display || is_first) && min < max => {}
            (found, Ok([min, max])) => tell((
                "tags",
                format!(
                    "the display range is {min:?} to {max:?} in two tags, and in the description {}",
                    match found {
                        [Some(min), Some(max)] => format!("{min:?} to {max:?}"),
                        _ => "none".to_owned(),
                    }
                ),
            )),
            // It is told with the pixels.
            (_, Err(_)) => {}
        }
        let about = about.and_then(|about| serde_json::from_str::<Map<String, Value>>(&about).ok());
        let Some(about) = about else {
            return tell(("tags", "the description has no line of this program's".to_owned()));
        };
        let due = self.about(line);
        let none = Value::Null;
        let is_other = due != about;
        for key in due.keys().chain(about.keys().filter(|key| !due.contains_key(*key))) {
            let [is, ought] = [&about, &due].map(|map| map.get(key).unwrap_or(&none));
            if is != ought {
                let [key, is, ought] =
                    [key.clone(), is.to_string(), ought.to_string()].map(|text| shown(&text));
                tell((
                    "tags",
                    format!("the description's {key} is {is}, and the manifest says {ought}"),
                ));
            }
        }
        if let ([Some(min), Some(max)], false) = (shown_range, is_other) {
            let said = Said {
                tensor: (&line.tensor, line.tensor_bytes.map(|bytes| bytes as u64)),
                index: &line.index,
                dtype: &line.dtype,
                range: numbers(line),
                counts: [line.nan.unwrap_or(0), line.inf.unwrap_or(0)],
                display: [min, max],
                pages,
            };
            if text != self.tags.text(&said) {
                tell(("tags", "the description is not worded as this program does it".to_owned()));
            }
        }
    }

    /// What the description is to hold.
    fn about(&self, line: &Line) -> Map<String, Value> {
        let mut about = Map::new();
        let mut set = |key: &str, value: Value| about.insert(key.to_owned(), value);
        set("v", json!(1));
        set("tensor", json!(line.tensor));
        if let Some(bytes) = line.tensor_bytes {
            set("tensor_bytes", json!(bytes));
        }
        set("index", json!(line.index));
        set("dtype", json!(line.dtype));
        set("norm", json!(line.norm));
        set("scope", json!(self.scope.name()));
        let [one, other] = if self.rule.norm.is_score() {
            [("mean", line.mean), ("std", line.std)]
        } else {
            [("lo", line.lo), ("hi", line.hi)]
        };
        set(one.0, json!(one.1));
        set(other.0, json!(other.1));
        set("nan", json!(line.nan));
        set("inf", json!(line.inf));
        let besides: &BTreeMap<String, String> = &self.asked.rule;
        for (name, text) in besides.iter().filter(|(name, _)| *name != "scope") {
            set(name, json!(text));
        }
        about
    }

    fn expected(&self, line: &Line) -> Expected {
        let numbers = numbers(line);
        let has_width =
            numbers.is_some_and(
                |(one, other)| {
                    if self.rule.norm.is_score() { other > 0.0 } else { one < other }
                },
            );
        let filled = numbers.is_some() && self.rule.constant.fill().is_some();
        match (self.rule.norm, has_width) {
            (norm, true) if norm.is_unclear(numbers) => Expected::Either,
            (Norm::None, _) => Expected::Kept,
            (norm, true) if norm.is_score() => Expected::Score,
            (_, true) => Expected::Unit,
            (_, false) if filled => Expected::Unit,
            (_, false) => Expected::Kept,
        }
    }

    /// The ends of the range that pixels from 0 to 1 are in.
    #[allow(clippy::cast_possible_truncation, reason = "pixels are f32")]
    fn unit(&self) -> [f32; 2] {
        match self.rule.out {
            None => [0.0, 1.0],
            Some([a, b]) => [a.min(b) as f32, a.max(b) as f32],
        }
    }

    fn counts(&self, seen: &Seen, line: &Line) -> Option<String> {
        let (Some(nan), Some(inf)) = (line.nan, line.inf) else { return None };
        let (nan_fits, inf_fits) = match self.rule.nonfinite.fill() {
            None if self.expected(line) == Expected::Score => (seen.nan == nan, seen.inf >= inf),
            None => (seen.nan == nan, seen.inf == inf),
            // They became numbers; samples beyond f32 may be infinite.
            Some(_) => (seen.nan == 0, seen.inf <= inf),
        };
        if nan_fits && inf_fits {
            return None;
        }
        let [is, was] = [[seen.nan, seen.inf], [nan, inf]]
            .map(|[nan, inf]| format!("{nan} NaN and {inf} infinite"));
        Some(format!("{is} ones, and the manifest says that {was} samples were there"))
    }

    /// Whether finite pixels are where the norm puts them.
    #[allow(clippy::cast_possible_truncation, reason = "pixels are f32")]
    fn range(&self, seen: &Seen, line: &Line) -> Option<String> {
        if seen.min > seen.max {
            return None; // none is finite
        }
        let [min, max] = [seen.min, seen.max];
        let found = format!("the finite ones are from {min:?} to {max:?}");
        match self.expected(line) {
            Expected::Score | Expected::Either => None,
            Expected::Unit => {
                let [least, most] = self.unit();
                let slack = self.rule.out.map_or(0.0, |_| ROUNDING * least.abs().max(most.abs()));
                if min < least - slack || max > most + slack {
                    return Some(format!("{found}, beyond {least:?} to {most:?}"));
                }
                let spans = (self.rule.norm, self.scope) == (Norm::MinMax, Scope::Image);
                let has_width = numbers(line).is_some_and(|(lo, hi)| lo < hi);
                if spans && has_width && [min, max] != [least, most] {
                    return Some(format!("{found}, and not from {least:?} to {most:?}"));
                }
                None
            }
            Expected::Kept => {
                let (lo, hi) = numbers(line).filter(|_| self.tells_extent(line))?;
                let [lo, hi] = [lo as f32, hi as f32];
                let differs = |is: f32, was: f32| was.is_finite() && is != was;
                (differs(min, lo) || differs(max, hi))
                    .then(|| format!("{found}, and the manifest says {lo:?} to {hi:?}"))
            }
        }
    }

    /// Whether the numbers of an image that was kept are its least and greatest finite pixel.
    fn tells_extent(&self, line: &Line) -> bool {
        let filled =
            self.rule.nonfinite.fill().is_some() && (line.nan, line.inf) != (Some(0), Some(0));
        let of_extent = matches!(self.rule.norm, Norm::None | Norm::MinMax | Norm::Symmetric);
        of_extent && !filled
    }

    #[allow(clippy::cast_possible_truncation, reason = "clamped to f32 first; a display range")]
    fn display(&self, [min, max]: [f32; 2], seen: &Seen, line: &Line) -> Option<String> {
        let [least, most] = self.unit();
        let due = match self.expected(line) {
            Expected::Unit => [least, most],
            // What it is of may be a scope that the line does not tell.
            Expected::Either => {
                let is_range = min < max && min.is_finite() && max.is_finite();
                return (!is_range).then(|| format!("the display range is {min:?} to {max:?}"));
            }
            Expected::Score => {
                let (least, most) = (seen.min, seen.max);
                // Pixels were computed in f32, and the range in f64.
                let size = least.abs().max(most.abs());
                let offset = line.mean.zip(line.std).map_or(0.0, |(mean, std)| (mean / std).abs());
                let slack = ROUNDING * (size + offset as f32);
                // Filled pixels are no samples', and what overflowed is no finite pixel.
                let are_samples =
                    self.rule.nonfinite.fill().is_none() && line.inf == Some(seen.inf);
                let is_right = !are_samples
                    || least > most
                    || match self.scope {
                        Scope::Image if least < most => {
                            (min - least).abs() <= slack && (max - most).abs() <= slack
                        }
                        // Of one value, or of a wider scope.
                        _ => min <= least + slack && most - slack <= max,
                    };
                let is_range = min < max && min.is_finite() && max.is_finite();
                return (!is_range || !is_right).then(|| {
                    format!(
                        "the display range is {min:?} to {max:?}, and pixels are from {least:?} to {most:?}"
                    )
                });
            }
            Expected::Kept => match numbers(line) {
                None => [least, most],
                Some(_) if !self.tells_extent(line) && (seen.inf > 0 || line.nan != Some(0)) => {
                    return None;
                }
                Some((lo, hi)) => {
                    let [lo, hi] = match self.tells_extent(line) {
                        true => [lo, hi].map(|x| x.clamp(f32::MIN.into(), f32::MAX.into()) as f32),
                        false => [seen.min, seen.max],
                    };
                    if lo < hi { [lo, hi] } else { [lo.min(least), hi.max(most)] }
                }
            },
        };
        (due != [min, max]).then(|| {
            format!(
                "the display range is {min:?} to {max:?}, and ought to be {:?} to {:?}",
                due[0], due[1]
            )
        })
    }

    /// How an image is undone.
    pub(super) fn undo(&self, line: &Line) -> Result<Undo, String> {
        let (Some(nan), Some(inf)) = (line.nan, line.inf) else {
            return Err("the manifest does not say what was found in its samples".to_owned());
        };
        Undo::of(&self.rule, numbers(line), [nan, inf])
    }
}

/// A file as one part.
pub(super) fn whole(file: File) -> Result<Part, String> {
    let part = file.metadata().and_then(|found| Section::new(file, 0, found.len()));
    part.map_err(|error| error.to_string())
}

/// The part of a tar that the file of a member is, if what is around it is as it must be.
fn member_of(mut file: File, name: &str, line: &Line, tell: &mut dyn FnMut(Found)) -> Option<Part> {
    let (Some(at), Some(len)) = (line.offset, line.bytes) else {
        tell(("member", "the manifest does not say where it is".to_owned()));
        return None;
    };
    let mut around = || -> io::Result<bool> {
        let mut block = [0; TAR_BLOCK];
        let before = at.checked_sub(TAR_BLOCK as u64).ok_or(io::ErrorKind::InvalidData)?;
        file.seek(SeekFrom::Start(before))?;
        file.read_exact(&mut block)?;
        let end = at.checked_add(len).ok_or(io::ErrorKind::InvalidData)?;
        file.seek(SeekFrom::Start(end))?;
        let padding = usize::try_from(member_padding(len)).map_err(io::Error::other)?;
        let mut zeros = [0; TAR_BLOCK];
        file.read_exact(&mut zeros[..padding])?;
        Ok(block == last_block(name, len) && zeros.iter().all(|&byte| byte == 0))
    };
    match around() {
        Ok(true) => {}
        Ok(false) => tell((
            "member",
            "its header in the tar, or what follows its file, is not what it must be".to_owned(),
        )),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            tell(("member", "the tar ends before it does".to_owned()));
            return None;
        }
        Err(error) => {
            tell(("member", error.to_string()));
            return None;
        }
    }
    let part = Section::new(file, at, len);
    part.map_err(|error| tell(("member", error.to_string()))).ok()
}

/// JSON has no infinity and no NaN: where there is the one number the other was none.
fn numbers(line: &Line) -> Option<(f64, f64)> {
    let (one, other) = (line.lo.or(line.mean), line.hi.or(line.std));
    one.map(|one| (one, other.unwrap_or(f64::NAN)))
}

fn look(image: &mut Decoded<Part>, line: &Line, buffer: &mut Vec<u8>) -> Result<Seen, String> {
    let mut seen = Seen { min: f32::INFINITY, max: f32::NEG_INFINITY, nan: 0, inf: 0, hash: None };
    let mut hasher = line.xxh3.map(|_| Hasher::default());
    each_step(image, line, buffer, &mut |_, pixels| {
        if let Some(hasher) = &mut hasher {
            hasher.write(pixels);
        }
        seen.add(pixels);
        Ok(())
    })?;
    seen.hash = hasher.map(|hasher| hasher.finish());
    Ok(seen)
}

/// Is told where in an image some bytes of pixels are, and the bytes.
type Step<'s> = dyn FnMut(u64, &mut [u8]) -> Result<(), String> + 's;

/// Reads an image's pixels step by step.
pub(super) fn each_step(
    image: &mut Decoded<Part>,
    line: &Line,
    buffer: &mut Vec<u8>,
    step: &mut Step<'_>,
) -> Result<(), String> {
    buffer.resize(STEP, 0);
    let (mut at, end) = (0, bytes(line));
    while at < end {
        let left = usize::try_from(end - at).unwrap_or(usize::MAX);
        let part = &mut buffer[..left.min(STEP)];
        image.read_at(at, part)?;
        step(at, part)?;
        at += part.len() as u64;
    }
    Ok(())
}

impl Seen {
    /// Several pixels side by side, as processors do it.
    fn add(&mut self, pixels: &[u8]) {
        const LANES: usize = 16;
        let (mut min, mut max) = ([self.min; LANES], [self.max; LANES]);
        let (mut nan, mut inf) = ([0_u32; LANES], [0_u32; LANES]);
        let mut one = |lane: usize, bytes: &[u8]| {
            let pixel = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            let finite = pixel.abs() < f32::INFINITY;
            let (least, most) =
                if finite { (pixel, pixel) } else { (f32::INFINITY, f32::NEG_INFINITY) };
            min[lane] = if least < min[lane] { least } else { min[lane] };
            max[lane] = if most > max[lane] { most } else { max[lane] };
            nan[lane] += u32::from(pixel.is_nan());
            inf[lane] += u32::from(pixel.abs() == f32::INFINITY);
        };
        let groups = pixels.chunks_exact(4 * LANES);
        let rest = groups.remainder();
        for group in groups {
            for lane in 0..LANES {
                one(lane, &group[4 * lane..4 * lane + 4]);
            }
        }
        rest.chunks_exact(4).for_each(|bytes| one(0, bytes));
        self.min = min.into_iter().fold(self.min, f32::min);
        self.max = max.into_iter().fold(self.max, f32::max);
        self.nan += nan.into_iter().map(u64::from).sum::<u64>();
        self.inf += inf.into_iter().map(u64::from).sum::<u64>();
    }
}
