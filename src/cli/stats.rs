//! `tensortiff stats`.

use std::io::{self, Write as _};
use std::sync::Arc;

use anyhow::Context as _;
use serde::{Serialize, Serializer};

use super::args::StatsArgs;
use super::inputs::open;
use super::progress::Progress;
use super::{Ending, Verbosity, signals};
use crate::convert::{Options, ScopeStats, stats};
use crate::error::{Error, escaped};
use crate::normalize::Scope;
use crate::source::Source;

/// One line.
#[derive(Serialize)]
struct Line<'a> {
    dump: &'a str,
    tensor: Option<&'a str>,
    index: Vec<u64>,
    dtype: Option<&'static str>,
    images: u64,
    samples: u64,
    #[serde(serialize_with = "number")]
    min: Option<f64>,
    #[serde(serialize_with = "number")]
    max: Option<f64>,
    #[serde(serialize_with = "number")]
    mean: Option<f64>,
    #[serde(serialize_with = "number")]
    std: Option<f64>,
    /// As many as were asked for.
    #[serde(serialize_with = "numbers")]
    percentiles: Vec<Option<f64>>,
    zeros: u64,
    nan: u64,
    pos_inf: u64,
    neg_inf: u64,
    constant_images: u64,
}

/// A number for JSON, which has no infinite ones: those are texts, as CSV has them. Samples may be so far
/// apart that their deviation is none.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn number<S: Serializer>(x: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    match x {
        Some(x) if !x.is_finite() => serializer.collect_str(x),
        x => x.serialize(serializer),
    }
}

fn numbers<S: Serializer>(all: &[Option<f64>], serializer: S) -> Result<S::Ok, S::Error> {
    struct Number(Option<f64>);

    impl Serialize for Number {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            number(&self.0, serializer)
        }
    }

    serializer.collect_seq(all.iter().map(|x| Number(*x)))
}

pub(super) fn run(args: &StatsArgs, verbosity: Verbosity) -> anyhow::Result<Ending> {
    let percents = percents(&args.percentiles)?;
    let source = open(&args.input.dumps, &args.input.reading, verbosity)?;
    let progress = Arc::new(Progress::new(verbosity));
    let options = Options {
        selection: args.input.selection.selection(),
        scope: args.by.into(),
        devices: args.device.clone(),
        threads: args.threads,
        watch: Some(progress.clone()),
        ..Options::default()
    };
    signals::cancel_on_signal(Arc::clone(&options.cancel)).context("listening for signals")?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut printer = Printer { args, percents: &percents, rows: Vec::new(), lines: 0 };
    let mut failed = None;
    let told = stats(&source, &options, &percents, &mut |found| {
        let line = line(&source, found, percents.len());
        printer.line(&mut out, &line).map_err(|error| {
            failed = Some(error);
            Error::Interrupted
        })
    });
    progress.finish();
    if let Some(error) = failed {
        return Err(error).context("standard output");
    }
    told?;
    printer.end(&mut out).and_then(|()| out.flush()).context("standard output")?;
    Ok(Ending::Done)
}

fn percents(text: &str) -> Result<Vec<f64>, Error> {
    let wrong = || {
        Error::Usage(format!(
            "--percentiles {text}: numbers from 0 to 100 in ascending order, with commas between \
             them, as 1,50,99"
        ))
    };
    let all: Result<Vec<f64>, _> = match text.trim() {
        "" => Ok(Vec::new()),
        text => text.split(',').map(|part| part.trim().parse()).collect(),
    };
    let all = all.map_err(|_| wrong())?;
    let fine = all.iter().all(|p| (0.0..=100.0).contains(p)) && all.is_sorted();
    if fine { Ok(all) } else { Err(wrong()) }
}

fn line(source: &dyn Source, found: ScopeStats, percents: usize) -> Line<'_> {
    let info = found.tensor.map(|tensor| &source.tensors()[tensor]);
    let extent = found.extent;
    let finite = |x: f64| extent.has_finite().then_some(x);
    Line {
        dump: info.map_or("", |info| &source.dumps()[info.dump].label),
        tensor: info.map(|info| &*info.name),
        index: found.index,
        dtype: info.map(|info| info.dtype.name()),
        images: found.images,
        samples: extent.visited,
        min: finite(extent.min),
        max: finite(extent.max),
        mean: found.moments.map(|moments| moments.mean),
        std: found.moments.map(|moments| moments.std),
        percentiles: (0..percents).map(|at| found.percentiles.get(at).copied()).collect(),
        zeros: found.zeros,
        nan: extent.nan,
        pos_inf: extent.pos_inf,
        neg_inf: extent.neg_inf,
        constant_images: found.constant_images,
    }
}

/// Lines as they come; of a table, all at the end, when its columns' widths are known.
struct Printer<'a> {
    args: &'a StatsArgs,
    percents: &'a [f64],
    rows: Vec<Vec<String>>,
    lines: u64,
}

/// Rows of a table whose columns share their widths; those of more come in several such parts.
const TOGETHER: usize = 1000;

impl Printer<'_> {
    fn line(&mut self, out: &mut dyn io::Write, line: &Line<'_>) -> io::Result<()> {
        self.lines += 1;
        if self.args.json {
            out.write_all(if self.lines == 1 { b"[\n" } else { b",\n" })?;
            return serde_json::to_writer(out, line).map_err(io::Error::from);
        }
        if self.args.csv {
            let mut csv = csv::Writer::from_writer(out);
            if self.lines == 1 {
                csv.write_record(self.names())?;
            }
            let exact = |x: f64| format!("{x:?}");
            csv.write_record(self.fields(line, exact, String::new()))?;
            return csv.flush();
        }
        let row = self.fields(line, short, "-".to_owned());
        self.rows.push(row.into_iter().map(|field| escaped(&field)).collect());
        if self.rows.len() == TOGETHER { self.table(out) } else { Ok(()) }
    }

    fn end(&mut self, out: &mut dyn io::Write) -> io::Result<()> {
        if self.args.json {
            return out.write_all(if self.lines == 0 { b"[]\n" } else { b"\n]\n" });
        }
        if self.args.csv && self.lines == 0 {
            // A table of no lines is one.
            let mut csv = csv::Writer::from_writer(out);
            csv.write_record(self.names())?;
            return csv.flush();
        }
        self.table(out)
    }

    fn names(&self) -> Vec<String> {
        let percents = self.percents.iter().map(|p| format!("p{p}"));
        let before = ["dump", "tensor", "index", "dtype", "images", "samples", "min", "max"];
        let after = ["zeros", "nan", "+inf", "-inf", "constant"];
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        [own(&before), own(&["mean", "std"]), percents.collect(), own(&after)].concat()
    }

    fn fields(&self, line: &Line<'_>, real: impl Fn(f64) -> String, none: String) -> Vec<String> {
        let maybe = |x: Option<f64>| x.map_or(none.clone(), &real);
        let index: Vec<String> = line.index.iter().map(u64::to_string).collect();
        let mut fields = vec![
            line.dump.to_owned(),
            line.tensor.map_or("(all)".to_owned(), str::to_owned),
            index.join("_"),
            line.dtype.unwrap_or_default().to_owned(),
            line.images.to_string(),
            line.samples.to_string(),
        ];
        fields.extend([line.min, line.max, line.mean, line.std].map(maybe));
        fields.extend(line.percentiles.iter().copied().map(maybe));
        let counts = [line.zeros, line.nan, line.pos_inf, line.neg_inf, line.constant_images];
        fields.extend(counts.map(|count| count.to_string()));
        fields
    }

    fn table(&mut self, out: &mut dyn io::Write) -> io::Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        // The dump's name is for machines, unless there are several.
        let names = self.names();
        let rows = std::mem::take(&mut self.rows);
        let several = rows.iter().any(|row| row[0] != rows[0][0]);
        let empty = |column: usize| rows.iter().all(|row| row[column].is_empty());
        let shown: Vec<usize> =
            (0..names.len()).filter(|&column| (column > 0 || several) && !empty(column)).collect();
        let heads: Vec<String> = names.iter().map(|name| name.to_uppercase()).collect();
        let width = |column: usize| {
            let all = rows.iter().map(|row| &row[column]).chain([&heads[column]]);
            all.map(|field| field.chars().count().min(60)).max().unwrap_or_default()
        };
        let widths: Vec<usize> = shown.iter().map(|&column| width(column)).collect();
        let first = if self.lines > TOGETHER as u64 { None } else { Some(&heads) };
        for row in first.into_iter().chain(&rows) {
            let mut text = String::new();
            for (&column, width) in shown.iter().zip(&widths) {
                let field = &row[column];
                // Names to the left, numbers to the right.
                text += &if column < 4 {
                    format!("{field:width$}  ")
                } else {
                    format!("{field:>width$}  ")
                };
            }
            writeln!(out, "{}", text.trim_end())?;
        }
        Ok(())
    }
}

/// Six digits: for eyes.
fn short(x: f64) -> String {
    let magnitude = x.abs();
    if x == 0.0 || (1e-4..1e7).contains(&magnitude) {
        let before = if magnitude >= 1.0 { format!("{:.0}", magnitude.floor()).len() } else { 1 };
        let digits = 7 - before;
        let text = format!("{x:.digits$}");
        let text = if text.contains('.') { text.trim_end_matches('0') } else { &text };
        text.trim_end_matches('.').to_owned()
    } else {
        format!("{x:.5e}")
    }
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(super) enum By {
    Tensor,
    Channel,
    Image,
    All,
}

impl From<By> for Scope {
    fn from(by: By) -> Scope {
        match by {
            By::Tensor => Scope::Tensor,
            By::Channel => Scope::Channel,
            By::Image => Scope::Image,
            By::All => Scope::Dump,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_eyes_are_short() {
        let cases = [
            (0.0, "0"),
            (1.0, "1"),
            (-2.5, "-2.5"),
            (123_456.789, "123456.8"),
            (0.001_234_567_8, "0.001235"),
            (1e-30, "1.00000e-30"),
            (100.0, "100"),
            (9_999_999.0, "9999999"),
        ];
        for (x, text) in cases {
            assert_eq!(short(x), text);
        }
    }

    #[test]
    fn percentiles_are_read_as_people_write_them() {
        assert_eq!(percents("1, 50,99.5").unwrap(), [1.0, 50.0, 99.5]);
        assert_eq!(percents("").unwrap(), [0.0; 0]);
        for wrong in ["50,1", "-1", "101", "a", "1,,2", "nan"] {
            assert!(percents(wrong).unwrap_err().is_usage(), "{wrong}");
        }
    }
}
