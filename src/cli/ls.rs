//! `tensortiff ls`.

use std::io;

use serde::Serialize;

use super::args::LsArgs;
use super::convert::bytes;
use super::inputs::expand;
use super::{Ending, Verbosity, results, say};
use crate::error::{Error, escaped};
use crate::plan::{Filter, Selected};
use crate::source::{DumpFiles, Source as _};

/// One line of the list.
#[derive(Serialize)]
struct Line {
    dump: String,
    tensor: String,
    dtype: String,
    shape: Vec<u64>,
    bytes: u64,
    images: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<String>,
}

pub(super) fn run(args: &LsArgs, verbosity: Verbosity) -> anyhow::Result<Ending> {
    let source = DumpFiles::open(&expand(&args.input.dumps).map_err(Error::of_all)?)?;
    let selection = args.input.selection.selection();
    let plan = Selected::new(source.dumps(), source.tensors(), source.unsupported(), &selection)?;
    let lines = lines(&source, &plan, &Filter::new(&selection)?);
    results(|out| {
        if args.json {
            serde_json::to_writer_pretty(&mut *out, &lines)?;
            writeln!(out)
        } else {
            table(out, &lines, source.dumps().len() > 1)
        }
    })?;
    if verbosity > Verbosity::Quiet && !args.json {
        let total: u64 = lines.iter().map(|line| line.bytes).sum();
        let tensors = if lines.len() == 1 { "tensor" } else { "tensors" };
        let images = if plan.images() == 1 { "image" } else { "images" };
        say(&format!("{} {tensors}, {}, {} {images}", lines.len(), bytes(total), plan.images()));
    }
    Ok(Ending::Done)
}

fn lines(source: &DumpFiles, plan: &Selected, filter: &Filter) -> Vec<Line> {
    let line = |tensor: usize, images, skipped| {
        let info = &source.tensors()[tensor];
        let line = Line {
            dump: source.dumps()[info.dump].label.clone(),
            tensor: info.name.clone(),
            dtype: info.dtype.to_string(),
            shape: info.shape.clone(),
            bytes: info.bytes().unwrap_or(u64::MAX),
            images,
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
        skipped: Some("this dtype is not converted".to_owned()),
    });
    lines.into_iter().map(|(_, line)| line).chain(unsupported).collect()
}

fn table(out: &mut dyn io::Write, lines: &[Line], several: bool) -> io::Result<()> {
    let mut rows = vec![["DTYPE", "SHAPE", "IMAGES", "TENSOR"].map(str::to_owned)];
    for line in lines {
        let name = escaped(&line.tensor);
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
