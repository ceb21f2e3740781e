//! `tensortiff ls`.

use std::borrow::Cow;
use std::collections::hash_map::{Entry, HashMap};
use std::{fmt, io};

use serde::{Serialize, Serializer};

use super::args::LsArgs;
use super::convert::bytes;
use super::inputs::open;
use super::{Ending, Verbosity, counted, results, say};
use crate::convert::check_channels;
use crate::error::{escaped, is_complex};
use crate::normalize::Scope;
use crate::plan::{Filter, Selected, SkipReason};
use crate::source::Source;

/// One line of the list. There may be very many: they hold what the source does not.
#[derive(Serialize)]
struct Line<'s> {
    dump: &'s str,
    tensor: Cow<'s, str>,
    dtype: &'s str,
    shape: &'s [u64],
    bytes: u64,
    images: u64,
    /// How many tensors the line stands for, where it is of several.
    #[serde(skip_serializing_if = "Option::is_none")]
    tensors: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<Skip>,
}

/// Why a tensor gives no images.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Skip {
    /// Whether --complex makes numbers of it.
    Dtype(bool),
    Reason(SkipReason),
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Skip::Dtype(true) => f.write_str("this dtype is not converted without --complex"),
            Skip::Dtype(false) => f.write_str("this dtype is not converted"),
            Skip::Reason(reason) => reason.fmt(f),
        }
    }
}

impl Serialize for Skip {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

pub(super) fn run(args: &LsArgs, verbosity: Verbosity) -> anyhow::Result<Ending> {
    let source = open(&args.input.dumps, &args.input.reading, verbosity)?;
    let selection = args.input.selection.selection();
    check_channels(source.layout(), &selection, Scope::Image)?;
    let plan = Selected::new(source.dumps(), source.tensors(), source.unsupported(), &selection)?;
    let lines = lines(&source, &plan, &Filter::new(&selection)?);
    let (tensors, total) =
        (lines.len(), lines.iter().fold(0, |sum: u64, line| sum.saturating_add(line.bytes)));
    let lines = if args.fold { fold(lines) } else { lines };
    results(|out| {
        if args.json {
            serde_json::to_writer_pretty(&mut *out, &lines)?;
            writeln!(out)
        } else {
            table(out, &lines, source.dumps().len() > 1)
        }
    })?;
    if verbosity > Verbosity::Quiet {
        plan.notes().iter().for_each(|note| say(&format!("tensortiff: note: {note}")));
    }
    if verbosity > Verbosity::Quiet && !args.json {
        let (tensors, images) =
            (counted(tensors as u64, "tensor"), counted(plan.images(), "image"));
        say(&format!("{tensors}, {}, {images}", bytes(total)));
    }
    Ok(Ending::Done)
}

fn lines<'s>(source: &'s dyn Source, plan: &Selected, filter: &Filter) -> Vec<Line<'s>> {
    let line = |tensor: usize, images, skipped| {
        let info = &source.tensors()[tensor];
        let line = Line {
            dump: &source.dumps()[info.dump].label,
            tensor: Cow::from(&info.name),
            dtype: info.dtype.name(),
            shape: &info.shape,
            bytes: info.packed_bytes().unwrap_or(u64::MAX),
            images,
            tensors: None,
            skipped,
        };
        (tensor, line)
    };
    let rows = plan.rows().iter().map(|row| line(row.tensor, row.images, None));
    let skipped =
        plan.skipped().iter().map(|skip| line(skip.tensor, 0, Some(Skip::Reason(skip.reason))));
    let mut lines: Vec<(usize, Line<'_>)> = rows.chain(skipped).collect();
    lines.sort_by_key(|(tensor, _)| *tensor);
    let unsupported = source.unsupported().iter().filter(|tensor| filter.takes(&tensor.tensor));
    let unsupported = unsupported.map(|tensor| Line {
        dump: &source.dumps()[tensor.dump].label,
        tensor: Cow::from(&tensor.tensor),
        dtype: &tensor.dtype,
        shape: &tensor.shape,
        bytes: tensor.bytes,
        images: 0,
        tensors: None,
        skipped: Some(Skip::Dtype(is_complex(&tensor.dtype))),
    });
    lines.into_iter().map(|(_, line)| line).chain(unsupported).collect()
}

/// Lines that differ only in the numbers in their names become one, in the place of the first.
fn fold(lines: Vec<Line<'_>>) -> Vec<Line<'_>> {
    let mut folded: Vec<Line<'_>> = Vec::new();
    let mut places = HashMap::new();
    for line in lines {
        // A digit for each number, as no other is left: a `#` that is in a name stays another.
        let name = without_numbers(&line.tensor, '0');
        match places.entry((line.dump, name, line.dtype, line.shape, line.skipped)) {
            Entry::Vacant(place) => {
                place.insert(folded.len());
                folded.push(line);
            }
            Entry::Occupied(place) => {
                let first = &mut folded[*place.get()];
                first.tensor = Cow::from(without_numbers(&line.tensor, '#'));
                first.tensors = Some(first.tensors.unwrap_or(1) + 1);
                first.images += line.images;
                first.bytes = first.bytes.saturating_add(line.bytes);
            }
        }
    }
    folded
}

/// `mark` for each number.
fn without_numbers(name: &str, mark: char) -> String {
    let mut folded = String::with_capacity(name.len());
    let mut in_number = false;
    for c in name.chars() {
        let is_digit = c.is_ascii_digit();
        if !(is_digit && in_number) {
            folded.push(if is_digit { mark } else { c });
        }
        in_number = is_digit;
    }
    folded
}

fn table(out: &mut dyn io::Write, lines: &[Line<'_>], several: bool) -> io::Result<()> {
    const HEAD: [&str; 4] = ["DTYPE", "SHAPE", "IMAGES", "TENSOR"];
    let row = |line: &Line<'_>| {
        let name = escaped(&line.tensor);
        let name = match line.tensors {
            Some(tensors) => format!("{name} ({tensors} tensors)"),
            None => name,
        };
        let name = if several { format!("{}: {name}", escaped(line.dump)) } else { name };
        let images = match &line.skipped {
            None => line.images.to_string(),
            Some(reason) => format!("- ({reason})"),
        };
        [line.dtype.to_owned(), format!("{:?}", line.shape), images, name]
    };
    // Made twice, as a text of each would take more memory than the tensors.
    let mut widths = HEAD.map(str::len);
    for line in lines {
        for (width, cell) in widths.iter_mut().zip(row(line)) {
            // A column is no wider than a terminal for the sake of one odd tensor.
            *width = (*width).max(cell.chars().count().min(60));
        }
    }
    let [dtype, shape, images, _] = widths;
    let mut write =
        |[a, b, c, d]: [&str; 4]| writeln!(out, "{a:dtype$}  {b:shape$}  {c:images$}  {d}");
    write(HEAD)?;
    lines.iter().try_for_each(|line| write(row(line).each_ref().map(String::as_str)))
}
