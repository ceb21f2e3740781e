//! `tensortiff ls`.

use std::collections::hash_map::{Entry, HashMap};
use std::io;

use serde::Serialize;

use super::args::LsArgs;
use super::convert::bytes;
use super::inputs::open;
use super::{Ending, Verbosity, results, say};
use crate::error::escaped;
use crate::plan::{Filter, Selected};
use crate::source::Source;

/// One line of the list.
#[derive(Serialize)]
struct Line {
    dump: String,
    tensor: String,
    dtype: String,
    shape: Vec<u64>,
    bytes: u64,
    images: u64,
    /// How many tensors the line stands for, where it is of several.
    #[serde(skip_serializing_if = "Option::is_none")]
    tensors: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<String>,
}

pub(super) fn run(args: &LsArgs, verbosity: Verbosity) -> anyhow::Result<Ending> {
    let source = open(&args.input.dumps, &args.input.reading)?;
    let selection = args.input.selection.selection();
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
    if verbosity > Verbosity::Quiet && !args.json {
        let word = if tensors == 1 { "tensor" } else { "tensors" };
        let images = if plan.images() == 1 { "image" } else { "images" };
        say(&format!("{tensors} {word}, {}, {} {images}", bytes(total), plan.images()));
    }
    Ok(Ending::Done)
}

fn lines(source: &dyn Source, plan: &Selected, filter: &Filter) -> Vec<Line> {
    let line = |tensor: usize, images, skipped| {
        let info = &source.tensors()[tensor];
        let line = Line {
            dump: source.dumps()[info.dump].label.clone(),
            tensor: info.name.clone(),
            dtype: info.dtype.to_string(),
            shape: info.shape.clone(),
            bytes: info.packed_bytes().unwrap_or(u64::MAX),
            images,
            tensors: None,
            skipped,
        };
        (tensor, line)
    };
    let rows = plan.rows().iter().map(|row| line(row.tensor, row.images, None));
    let skipped =
        plan.skipped().iter().map(|skip| line(skip.tensor, 0, Some(skip.reason.to_string())));
    let mut lines: Vec<(usize, Line)> = rows.chain(skipped).collect();
    lines.sort_by_key(|(tensor, _)| *tensor);
    let unsupported = source.unsupported().iter().filter(|tensor| filter.takes(&tensor.tensor));
    let unsupported = unsupported.map(|tensor| Line {
        dump: source.dumps()[tensor.dump].label.clone(),
        tensor: tensor.tensor.clone(),
        dtype: tensor.dtype.clone(),
        shape: tensor.shape.clone(),
        bytes: tensor.bytes,
        images: 0,
        tensors: None,
        skipped: Some("this dtype is not converted".to_owned()),
    });
    lines.into_iter().map(|(_, line)| line).chain(unsupported).collect()
}

/// Lines that differ only in the numbers in their names become one, in the place of the first.
fn fold(lines: Vec<Line>) -> Vec<Line> {
    let mut folded: Vec<Line> = Vec::new();
    let mut places = HashMap::new();
    for line in lines {
        let name = without_numbers(&line.tensor);
        let kind = (line.dump.clone(), name, line.dtype.clone(), line.shape.clone());
        match places.entry((kind, line.skipped.clone())) {
            Entry::Vacant(place) => {
                place.insert(folded.len());
                folded.push(line);
            }
            Entry::Occupied(place) => {
                let first = &mut folded[*place.get()];
                first.tensor.clone_from(&place.key().0.1);
                first.tensors = Some(first.tensors.unwrap_or(1) + 1);
                first.images += line.images;
                first.bytes = first.bytes.saturating_add(line.bytes);
            }
        }
    }
    folded
}

/// `#` for each number.
fn without_numbers(name: &str) -> String {
    let mut folded = String::with_capacity(name.len());
    let mut in_number = false;
    for c in name.chars() {
        let is_digit = c.is_ascii_digit();
        if !(is_digit && in_number) {
            folded.push(if is_digit { '#' } else { c });
        }
        in_number = is_digit;
    }
    folded
}

fn table(out: &mut dyn io::Write, lines: &[Line], several: bool) -> io::Result<()> {
    let mut rows = vec![["DTYPE", "SHAPE", "IMAGES", "TENSOR"].map(str::to_owned)];
    for line in lines {
        let name = escaped(&line.tensor);
        let name = match line.tensors {
            Some(tensors) => format!("{name} ({tensors} tensors)"),
            None => name,
        };
        let name = if several { format!("{}: {name}", escaped(&line.dump)) } else { name };
        let images = match &line.skipped {
            None => line.images.to_string(),
            Some(reason) => format!("- ({reason})"),
        };
        rows.push([line.dtype.clone(), format!("{:?}", line.shape), images, name]);
    }
    let width = |column: usize| {
        // A column is no wider than a terminal for the sake of one odd tensor.
        rows.iter().map(|row| row[column].chars().count().min(60)).max().unwrap_or_default()
    };
    let [dtype, shape, images] = [0, 1, 2].map(width);
    for [a, b, c, d] in &rows {
        writeln!(out, "{a:dtype$}  {b:shape$}  {c:images$}  {d}")?;
    }
    Ok(())
}
